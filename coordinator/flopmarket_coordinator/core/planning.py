"""What audits ask of an operator: machines, traffic, disk, money, for a market of a given size.

One pure function from a :class:`Market` to a :class:`Plan`, by the same rules that the market
decides with. Everything is a day's figure unless its name says otherwise; integers, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.market.money import Nano, part_of_nano, round_up_nano
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import (
    RULES,
    AuditRules,
    Level,
    audit_debt_nano,
    divide_pay,
    rate_ppm,
)

DAY_SECONDS = 86_400
ONBOARDING_UNITS = 1_000
"""Units over which a newcomer's audits are counted; after these it is like everybody."""
KEPT_STATES = 2
"""Checkpoints of a running job that stay on disk."""
AUDIT_WINDOW_SECONDS = 2_400
"""From a commitment to the end of its audit: ten minutes of jitter, thirty to answer."""
MOST_LINK_PPM = 700_000
"""Above this a link is called too slow: queues grow long before it is full."""
MODEL_NANO = 1_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """The market that is planned for.

    ``state_bytes`` is what a segment starts from, ``segment_seconds`` its time on a worker's card.
    Bit rates are a second: each worker's uplink, and the coordinator's link either way.
    ``card_over_cpu`` is how many times faster a worker's card is than one of the house's CPU
    machines; ``hash_bytes_per_second`` is one core's SHA-256.
    """

    workers: int
    state_bytes: int = 1_490_000_000
    segment_seconds: int = 90
    hours_per_day: int = 12
    uplink_bits: int = 20_000_000
    link_bits: int = 1_000_000_000
    ask_nano_per_hour: Nano = 100_000_000
    newcomers_per_day: int = 1
    card_over_cpu: int = 250
    hash_bytes_per_second: int = 1_540_000_000
    benchmark_seconds: int = 60

    def __post_init__(self) -> None:
        positive = (
            self.workers,
            self.segment_seconds,
            self.hours_per_day,
            self.uplink_bits,
            self.link_bits,
            self.ask_nano_per_hour,
            self.card_over_cpu,
            self.hash_bytes_per_second,
        )
        if min(positive) < 1 or self.hours_per_day > 24:
            raise InvalidInput(
                "workers, times, rates and prices are above zero, a day has 24 hours",
                code="PLAN_INPUT",
            )
        if min(self.state_bytes, self.newcomers_per_day, self.benchmark_seconds) < 0:
            raise InvalidInput("sizes and counts are not negative", code="PLAN_INPUT")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to expect of one day. ``_ppm`` figures are parts of a million of the work sold, or of a
    link. House audits need either the card hours or the CPU hours, not both.
    """

    segments: int
    rate_ppm: int
    audits: int
    newcomer_audits: int
    canaries: int
    cross_audits: int
    house_audits: int
    house_card_minutes: int
    house_cpu_minutes: int
    house_cards: int
    house_cpu_machines: int
    checkpoint_seconds: int
    checkpoint_bytes: int
    audit_bytes: int
    worker_uplink_ppm: int
    coordinator_link_ppm: int
    disk_bytes: int
    sold_nano: Nano
    audit_cost_nano: Nano
    newcomers_pay_nano: Nano
    fee_nano: Nano
    bond_nano: Nano
    stake_nano: Nano
    hashing_ppm: int
    benchmark_ppm: int
    trust_ppm: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Onboarding:
    """Audits of one newcomer's first units, and how many of them it pays for; parts per million of
    an audit, on average.
    """

    audits_ppm: int
    own_ppm: int


def onboarding(rules: AuditRules, units: int = ONBOARDING_UNITS) -> Onboarding:
    """Mean course of a newcomer: each unit adds its rate to streak and debt, and its pay to the
    bond. The spread between newcomers is neglected.
    """
    streak_ppm = debt = bond = held = paid = 0
    target = rules.bond_units * MODEL_NANO
    for unit in range(units):
        streak = streak_ppm // PARTS_PER_MILLION
        rate = rate_ppm(rules, Level.DETER, streak, MODEL_NANO, bond + held)
        streak_ppm += rate
        debt += part_of_nano(audit_debt_nano(rules, unit, MODEL_NANO), rate, PARTS_PER_MILLION)
        part = divide_pay(rules, MODEL_NANO, debt, bond, target)
        debt -= part.to_audits_nano
        paid += part.to_audits_nano
        bond += part.to_bond_nano
        held = min(held + part.to_held_nano, rules.held_units * MODEL_NANO)
    return Onboarding(streak_ppm, -(-paid * PARTS_PER_MILLION // MODEL_NANO))


def plan(market: Market, rules: AuditRules = RULES) -> Plan:
    """What a market of this size asks of its operator in a day."""
    unit = round_up_nano(market.ask_nano_per_hour * market.segment_seconds, 3_600, "unit")
    work_seconds = market.workers * market.hours_per_day * 3_600
    segments = _up(work_seconds, market.segment_seconds)
    stake = (rules.bond_units + rules.held_units) * unit
    rate = rate_ppm(rules, Level.DETER, rules.onboarding_streak, unit, stake)
    course = onboarding(rules)
    newcomers = _ppm(market.newcomers_per_day, course.audits_ppm)
    audits = _ppm(segments, rate) + newcomers
    canaries, crossed = _ppm(audits, rules.canary_ppm), _ppm(audits, rules.cross_ppm)
    tasks = audits + canaries + crossed
    house = _ppm(audits, rules.house_ppm)
    house_seconds = house * market.segment_seconds
    traffic = _traffic(market, audits, tasks)
    running = market.workers * KEPT_STATES * market.state_bytes
    waiting = _up(tasks * AUDIT_WINDOW_SECONDS, DAY_SECONDS) * market.state_bytes
    hashing = _up(
        market.state_bytes * PARTS_PER_MILLION,
        market.hash_bytes_per_second * market.segment_seconds,
    )
    benchmark = _up(market.benchmark_seconds * PARTS_PER_MILLION, market.hours_per_day * 3_600)
    steady = _ppm(_ppm(segments, rate), PARTS_PER_MILLION + rules.canary_ppm + rules.cross_ppm)
    audits_ppm = _up(steady * PARTS_PER_MILLION, segments)
    return Plan(
        segments=segments,
        rate_ppm=rate,
        audits=audits,
        newcomer_audits=newcomers,
        canaries=canaries,
        cross_audits=crossed,
        house_audits=house,
        house_card_minutes=_up(house_seconds, 60),
        house_cpu_minutes=_up(house_seconds * market.card_over_cpu, 60),
        house_cards=_up(house_seconds, DAY_SECONDS),
        house_cpu_machines=_up(house_seconds * market.card_over_cpu, DAY_SECONDS),
        checkpoint_seconds=traffic.checkpoint_seconds,
        checkpoint_bytes=traffic.checkpoint_bytes,
        audit_bytes=traffic.audit_bytes,
        worker_uplink_ppm=traffic.worker_uplink_ppm,
        coordinator_link_ppm=traffic.coordinator_link_ppm,
        disk_bytes=running + waiting,
        sold_nano=segments * unit,
        audit_cost_nano=tasks * unit,
        newcomers_pay_nano=_ppm(market.newcomers_per_day, course.own_ppm) * unit,
        fee_nano=part_of_nano(segments * unit, rules.fee_ppm, PARTS_PER_MILLION, "fee"),
        bond_nano=rules.bond_units * unit,
        stake_nano=stake,
        hashing_ppm=hashing,
        benchmark_ppm=benchmark,
        trust_ppm=audits_ppm + hashing + benchmark,
        warnings=_warnings(market, traffic),
    )


@dataclass(frozen=True, slots=True)
class _Traffic:
    checkpoint_seconds: int
    checkpoint_bytes: int
    audit_bytes: int
    worker_uplink_ppm: int
    coordinator_link_ppm: int


def _traffic(market: Market, audits: int, tasks: int) -> _Traffic:
    """Checkpoints come up at most half of the time. A start state in between is sent by its worker
    when it is audited; every auditor fetches one.
    """
    work_seconds = market.workers * market.hours_per_day * 3_600
    upload_seconds = _up(8 * market.state_bytes, market.uplink_bits)
    checkpoint_seconds = max(600, 2 * upload_seconds)
    checkpoints = _up(work_seconds, checkpoint_seconds)
    sent = (checkpoints + audits) * market.state_bytes
    fetched = tasks * market.state_bytes
    return _Traffic(
        checkpoint_seconds,
        checkpoints * market.state_bytes,
        audits * market.state_bytes + fetched,
        _up(8 * sent * PARTS_PER_MILLION, market.uplink_bits * work_seconds),
        _up(8 * max(sent, fetched) * PARTS_PER_MILLION, market.link_bits * DAY_SECONDS),
    )


def _warnings(market: Market, traffic: _Traffic) -> tuple[str, ...]:
    found = []
    if traffic.worker_uplink_ppm > MOST_LINK_PPM:
        found.append(
            "the workers' uplinks are too slow for this state: longer segments, or jobs that train "
            "an adapter over a frozen base"
        )
    if traffic.coordinator_link_ppm > MOST_LINK_PPM:
        found.append("the coordinator's link is too slow: smaller states, or a second coordinator")
    if 8 * market.state_bytes > market.uplink_bits * AUDIT_WINDOW_SECONDS:
        found.append("a start state does not arrive within the time an audit may take")
    return tuple(found)


def _up(amount: int, divisor: int) -> int:
    return -(-amount // divisor)


def _ppm(amount: int, parts: int) -> int:
    return _up(amount * parts, PARTS_PER_MILLION)
