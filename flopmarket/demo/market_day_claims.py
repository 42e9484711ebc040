"""What is claimed after a market day, each from evidence that a stranger could collect.

Receipts are verified with the coordinator's key; orders are read from the job specifications that
buyers signed and the receipts quote. Trades, candles and prices are then derived again from them,
from the programs' own counted work, and from the offers as they stood on the list.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from flopmarket.client.results import JobEvent, JobInfo, JobState
from flopmarket.client.results_prices import History, Offer, TradeInfo
from flopmarket.demo.claims import Claims
from flopmarket.demo.market_day_jobs import Jobs
from flopmarket.demo.market_day_trading import Purchase
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.spec import JobSpec
from flopmarket.market.headline import headline_class, unit_price_nano
from flopmarket.market.order import (
    Constraints,
    OrderType,
    owner_admitted,
    region_admitted,
)
from flopmarket.market.snapshot import VerifiedSnapshot
from flopmarket.market.tape import MICROJOULES_PER_JOULE, Trade, digest_of_tape
from flopmarket.market.work import DeviceRates, StepWork
from flopmarket.trust.documents import WattsSource
from flopmarket.trust.encoding import decode
from flopmarket.trust.modes import Mode
from flopmarket.trust.receipt import Outcome, Receipt, ReceiptSegment

MINUTE_US = 60_000_000

_LEASED = re.compile(r"\[([0-9a-f]{8})\], fence [0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Bought:
    """One job at the end of the day: what its buyer has of it."""

    purchase: Purchase
    info: JobInfo
    spec: JobSpec
    receipt: Receipt
    events: tuple[JobEvent, ...]

    @property
    def constraints(self) -> Constraints:
        """The signed ones."""
        return self.spec.order.constraints

    @property
    def leases(self) -> list[tuple[int, str]]:
        """Time and first eight digits of the device's key, of every lease."""
        found = []
        for event in self.events:
            if event.kind == "leased":
                match = _LEASED.search(event.text)
                found.append((event.time_us, match[1] if match else ""))
        return found


def bought(
    purchase: Purchase, info: JobInfo, receipt: Receipt, events: Sequence[JobEvent]
) -> Bought:
    """The evidence of one job."""
    return Bought(purchase, info, decode(JobSpec, receipt.job_spec), receipt, tuple(events))


# --- jobs ----------------------------------------------------------------------------------------


def check_jobs(claims: Claims, found: Sequence[Bought], jobs: Jobs, closed: bool) -> None:
    """Ends, invoices, results."""
    states = [item.info.state for item in found]
    claims.check(
        "nothing rests for ever: every job has ended",
        f"{states.count(JobState.SUCCEEDED)} succeeded, {states.count(JobState.CANCELLED)} "
        f"cancelled, {states.count(JobState.FAILED)} failed, of {len(states)}",
        closed and all(state.has_ended for state in states),
    )
    strange = [
        f"{item.purchase.planned.title}: {item.info.reason}"
        for item in found
        if item.info.state is JobState.FAILED and item.info.reason != "DEADLINE_PASSED"
    ]
    claims.check("no job failed but by its deadline", "; ".join(strange) or "none did", not strange)
    waiting = [
        item.purchase.planned.title
        for item in found
        if item.spec.order.kind is OrderType.MARKET and item.info.state is not JobState.SUCCEEDED
    ]
    claims.check(
        "every market order that was taken ran to its end",
        "; ".join(waiting) or f"{sum(i.spec.order.kind is OrderType.MARKET for i in found)} did",
        not waiting,
    )
    over = [item for item in found if item.receipt.invoice_nano > item.purchase.ceiling.nano]
    shares = [
        100 * item.receipt.invoice_nano / item.purchase.ceiling.nano
        for item in found
        if item.info.state is JobState.SUCCEEDED
    ]
    claims.check(
        "every invoice is at most its quote",
        f"{len(found)} invoices, {len(over)} above; at most {max(shares, default=0):.0f} % of it",
        bool(found) and not over,
    )
    done = [item for item in found if item.receipt.outcome is Outcome.COMPLETED]
    wrong = [item for item in done if not _is_local_result(item, jobs)]
    claims.check(
        "every result has the digest of a run on this machine",
        f"{len(done)} results, {len(wrong)} differ",
        bool(done) and not wrong,
    )


def _is_local_result(item: Bought, jobs: Jobs) -> bool:
    local = jobs.local[item.receipt.program_digest]
    receipt = item.receipt
    return (receipt.final_state_root, receipt.outputs_root) == (
        local.state_root,
        local.outputs_root,
    )


def check_orders(claims: Claims, found: Sequence[Bought], offers: Mapping[str, Offer]) -> None:
    """The kinds of orders: cancelled, expired, unfilled, shared, constrained, in turn."""
    cancelled = [item for item in found if item.purchase.planned.cancel_hour is not None]
    claims.check(
        "a cancelled order costs nothing",
        f"{len(cancelled)} cancelled while they rested",
        bool(cancelled)
        and all(
            item.info.state is JobState.CANCELLED and item.receipt.invoice_nano == 0
            for item in cancelled
        ),
    )
    expired = [item for item in found if item.info.reason == "DEADLINE_PASSED"]
    claims.check(
        "an order expires at its deadline, not before",
        f"{len(expired)} expired",
        bool(expired) and all(item.info.ended_at_us >= item.spec.deadline_us for item in expired),
    )
    asked = [item.purchase for item in found if item.purchase.why]
    claims.check(
        "`flop job why` names the reason of an unfilled order",
        "; ".join(f"{', '.join(p.why_codes)}; {p.why_fitting} offers fit" for p in asked),
        bool(asked) and all("LIMIT_PRICE" in p.why_codes and not p.why_fitting for p in asked),
    )
    shared = [len({s.device_key_id for s in item.receipt.segments}) for item in found]
    claims.check(
        "a batch is shared by several workers",
        f"{sum(count > 1 for count in shared)} jobs, one by {max(shared, default=0)} workers",
        max(shared, default=0) > 1,
    )
    devices = {offer_id[:8]: offer for offer_id, offer in offers.items()}
    leases = [(item, devices.get(device)) for item in found for _, device in item.leases]
    broken = [
        item.purchase.planned.title
        for item, offer in leases
        if offer is None or not _admits(item.constraints, offer)
    ]
    constrained = sum(item.constraints != Constraints() for item, _ in leases)
    claims.check(
        "no lease violates a constraint (owner, region, memory, FLOPS/W)",
        f"{len(leases)} leases, {constrained} of constrained orders, {len(broken)} wrong"
        + "".join(f"; {title}" for title in broken[:3]),
        constrained > 0 and not broken,
    )
    _check_time_priority(claims, found)


def _admits(asked: Constraints, offer: Offer) -> bool:
    rate = offer.flops_per_second.get(asked.work_class, 0)
    return (
        owner_admitted(asked, offer.account_id)
        and region_admitted(asked, offer.region)
        and offer.memory_bytes >= asked.min_memory_bytes
        and (
            not asked.min_flops_per_watt
            or 0 < asked.min_flops_per_watt * offer.milliwatts <= rate * 1000
        )
    )


def _check_time_priority(claims: Claims, found: Sequence[Bought]) -> None:
    """Of two orders that ask for the same and rested together, the older one is served first."""
    pairs = overtaken = 0
    limits = [item for item in found if item.spec.order.kind is OrderType.LIMIT]
    for one, other in combinations(limits, 2):
        older, newer = sorted((one, other), key=lambda item: item.info.created_at_us)
        alike = (
            one.constraints.work_class == other.constraints.work_class
            and _without_limit(one) == _without_limit(other)
            and one.receipt.program_digest == other.receipt.program_digest
            and one.constraints.max_unit_price_nano == other.constraints.max_unit_price_nano
        )
        if not alike or not newer.leases:
            continue
        if older.info.ended_at_us < newer.leases[0][0] and not older.leases:
            continue  # it had left the book
        if older.leases and older.leases[0][0] < newer.info.created_at_us:
            continue  # the newer one was not there yet
        pairs += 1
        overtaken += not older.leases or older.leases[0][0] > newer.leases[0][0]
    claims.check(
        "equal limits are served in the order in which they came",
        f"{pairs} pairs rested together, {overtaken} overtaken",
        pairs > 0 and not overtaken,
    )


def _without_limit(item: Bought) -> tuple[object, ...]:
    asked = item.constraints
    return (
        asked.min_memory_bytes,
        asked.min_flops_per_watt,
        asked.allowed_regions,
        asked.denied_regions,
        asked.allowed_owners,
        asked.denied_owners,
    )


# --- the tape ------------------------------------------------------------------------------------


def check_trades(
    claims: Claims,
    found: Sequence[Bought],
    trades: Sequence[TradeInfo],
    offers: Mapping[str, Offer],
    jobs: Jobs,
) -> None:
    """Every trade from the receipts, and nothing else on the tape."""
    paid = {
        segment.commitment_digest: (item, segment)
        for item in found
        for segment in item.receipt.segments
    }
    wrong = 0
    over_limit = 0
    for trade in trades:
        source = paid.get(trade.commitment_digest)
        offer = offers.get(trade.offer_id)
        if source is None or offer is None:
            wrong += 1
            continue
        item, segment = source
        wrong += not _is_trade_of(trade, segment, jobs.by_program(item.spec.program_digest), offer)
        over_limit += not _within_limit(item, segment, jobs)
    claims.check(
        "every trade derives from a receipt: price, quantity, class, unit price",
        f"{len(trades)} trades, {wrong} wrong",
        bool(trades) and not wrong,
    )
    claims.check(
        "every paid segment is one trade, numbered without a gap",
        f"{len(paid)} segments",
        {trade.commitment_digest for trade in trades} == set(paid)
        and sorted(trade.number for trade in trades) == list(range(1, len(paid) + 1)),
    )
    limits = sum(bool(item.constraints.max_unit_price_nano) for item, _ in paid.values())
    claims.check(
        "no segment costs more than its order's limit",
        f"{limits} segments of limit orders, {over_limit} above",
        limits > 0 and not over_limit,
    )


def _is_trade_of(trade: TradeInfo, segment: ReceiptSegment, job: PreparedJob, offer: Offer) -> bool:
    cost = job.program.cost
    work = StepWork(cost.flops, cost.bytes_moved, cost.launches)
    work_class = headline_class(work, DeviceRates(offer.flops_per_second, 1, 0))
    flops = work.flops[work_class] * segment.steps
    return (
        offer.offer_id.startswith(segment.device_key_id[:16])
        and (trade.work_class, trade.flops) == (work_class, flops)
        and trade.price.nano == segment.price_nano
        and trade.per_pflop.nano == unit_price_nano(segment.price_nano, flops)
    )


def _within_limit(item: Bought, segment: ReceiptSegment, jobs: Jobs) -> bool:
    asked = item.constraints
    if not asked.max_unit_price_nano:
        return True
    cost = jobs.by_program(item.spec.program_digest).program.cost
    operations = cost.flops[asked.work_class] * segment.steps
    return segment.price_nano * 10**15 <= asked.max_unit_price_nano * operations


def check_history(
    claims: Claims, trades: Sequence[TradeInfo], histories: Sequence[History]
) -> None:
    """Candles of a minute, derived again from the trades."""
    wanted: dict[tuple[str, int], list[TradeInfo]] = defaultdict(list)
    for trade in sorted(trades, key=lambda each: each.number):
        wanted[trade.work_class, trade.time_us - trade.time_us % MINUTE_US].append(trade)
    shown = {
        (history.work_class, candle.start_us): candle
        for history in histories
        for candle in history.candles
    }
    wrong = 0
    for key, group in wanted.items():
        candle = shown.get(key)
        prices = [trade.per_pflop.nano for trade in group]
        wrong += candle is None or (
            candle.open.nano,
            candle.high.nano,
            candle.low.nano,
            candle.close.nano,
            candle.trades,
            candle.flops,
            candle.paid.nano,
        ) != (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            len(group),
            sum(trade.flops for trade in group),
            sum(trade.price.nano for trade in group),
        )
    claims.check(
        "history is what the trades say: volume, count, open, high, low, close",
        f"{len(shown)} candles of a minute, {wrong} wrong",
        bool(shown) and not wrong and set(shown) == set(wanted),
    )


def check_stream(
    claims: Claims,
    heard: Sequence[TradeInfo],
    listed: Sequence[TradeInfo],
    gaps: int,
    trouble: str,
) -> None:
    """What was streamed is what is listed."""
    claims.check(
        "the stream told every trade once, in order",
        trouble or f"{len(heard)} heard, {len(listed)} listed, {gaps} gaps",
        not trouble and not gaps and list(heard) == sorted(listed, key=lambda t: t.number),
    )


def check_times(claims: Claims, *series: Sequence[int]) -> None:
    """``as_of`` never steps back in what one onlooker was told."""
    back = sum(after < before for each in series for before, after in pairwise(each))
    claims.check(
        "as_of never steps back",
        f"{sum(map(len, series))} answers and messages, {back} steps back",
        all(series) and not back,
    )


def check_snapshot(claims: Claims, verified: VerifiedSnapshot, trades: Sequence[TradeInfo]) -> None:
    """The signed snapshot covers the tape that everybody can read."""
    snapshot = verified.snapshot
    first = sorted(trades, key=lambda each: each.number)[: snapshot.trades]
    covered = tape_of(first)
    claims.check(
        "a signed price snapshot verifies offline and covers the tape",
        f"number {snapshot.number}, {snapshot.trades} trades, tape {covered.hex()[:12]}",
        verified.trusted and snapshot.trades == len(first) > 0 and covered == snapshot.tape_digest,
    )


def tape_of(trades: Sequence[TradeInfo]) -> bytes:
    """Digest of the tape of these trades, which come in order of number."""
    return digest_of_tape(map(_document, trades))


def _document(trade: TradeInfo) -> Trade:
    return Trade(
        number=trade.number,
        time_us=trade.time_us,
        work_class=trade.work_class,
        flops=trade.flops,
        price_nano=trade.price.nano,
        per_pflop_nano=trade.per_pflop.nano,
        microjoules=round(trade.joules * MICROJOULES_PER_JOULE),
        watts_source=WattsSource(trade.joules_source),
        offer_id=trade.offer_id,
        device_name=trade.device_name,
        commitment_digest=trade.commitment_digest,
        mode=Mode(trade.mode),
    )
