"""How often work is recomputed, and what a fault costs: the audit rules as exact functions.

Everything is integers: probabilities and shares in parts per million (``_ppm``), money in
nano-units. A *unit* is one segment at its price; *stake* is what an account would lose now, its
bond plus its held pay. The rules are a document, so a lease names their digest and anybody can
compute the same rates (:mod:`flopmarket.trust.challenge`). The mathematics and the measured figures
are in ``docs/audits.md``; ``flopmarket/demo/economics.py`` plays the cheats against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_AUDITED_STEPS
from flopmarket.market.money import Nano, check_price, part_of_nano
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.encoding import document

_FIXED_POINT_BITS = 128


class Level(StrEnum):
    """What a buyer chooses: how surely a wrong segment is seen."""

    DETER = "deter"
    """Cheating loses money on average; a single wrong segment is probably not seen."""
    CHECK = "check"
    DUAL = "dual"
    """Every segment is computed by two owners: holds unless the two collude."""


@document("flopmarket.audit-rules.v2")
class AuditRules:
    """The constants of an audit policy.

    ``gain_ppm``: what a cheat saves of a unit's price. ``detection_ppm``: chance that one honest
    audit of a whole segment sees that it is wrong (exact mode: all). ``colluding_ppm``: share of
    audits assumed to be in the hands of the worker's friends. Streaks count audited segments in a
    row that were right; units are segments that were delivered.
    """

    safety: int = 3
    gain_ppm: int = 1_000_000
    detection_ppm: int = 1_000_000
    colluding_ppm: int = 300_000
    floor_ppm: int = 10_000
    bond_units: int = 100
    held_units: int = 200
    full_streak: int = 20
    """Below this streak every segment is audited."""
    onboarding_streak: int = 50
    onboarding_ppm: int = 100_000
    """Audited at least, from ``full_streak`` to ``onboarding_streak``."""
    outlier_ppm: int = 100_000
    """A segment whose price is above this share of the stake is always audited."""
    check_ppm: int = 200_000
    house_ppm: int = 100_000
    canary_ppm: int = 20_000
    cross_ppm: int = 20_000
    fee_ppm: int = 30_000
    own_audit_units: int = 100
    """A newcomer pays for the audits of its first so many units itself."""
    own_audit_share_ppm: int = 500_000
    """Of its pay at most, until that debt is paid; the rest builds its bond."""
    strike_window_units: int = 500
    allowed_flips: int = 1
    allowed_silences: int = 4
    flipped_elements: int = 4
    flipped_bits: int = 2
    refund_ppm: int = 500_000
    """Of a forfeited stake, the most that leaves the platform (:func:`split_slash`)."""
    auditor_ppm: int = 250_000
    """Of it, the most for who found the fault; inside ``refund_ppm``."""
    least_steps: int = 4
    """Drawn from a segment that is too big to be recomputed whole, whatever they cost."""
    most_steps: int = 256

    def __post_init__(self) -> None:
        shares = (
            self.gain_ppm,
            self.detection_ppm,
            self.colluding_ppm,
            self.floor_ppm,
            self.onboarding_ppm,
            self.outlier_ppm,
            self.check_ppm,
            self.house_ppm,
            self.canary_ppm,
            self.cross_ppm,
            self.fee_ppm,
            self.own_audit_share_ppm,
            self.refund_ppm + self.auditor_ppm,
        )
        if min(shares) < 0 or max(shares) > PARTS_PER_MILLION:
            raise _invalid("shares and probabilities are 0 to 1,000,000 ppm")
        if self.colluding_ppm == PARTS_PER_MILLION or 0 in (self.detection_ppm, self.floor_ppm):
            raise _invalid("an audit without honest auditors, power or a floor deters nobody")
        if self.full_streak > self.onboarding_streak or 0 in (self.safety, self.bond_units):
            raise _invalid("streaks ascend; safety and bond are above zero")
        if not 0 < self.least_steps <= self.most_steps <= MAX_AUDITED_STEPS:
            raise _invalid(f"drawn steps are 1 to {MAX_AUDITED_STEPS}, the least first")


RULES = AuditRules()
"""The rules of the project, with the reasons in ``docs/audits.md``."""


def steps_of_budget(rules: AuditRules, steps: int, step_flops: int, most_flops: int) -> int:
    """How many steps of a segment of ``steps`` an auditor with so many operations to spend
    recomputes: what it can pay for, within the bounds of the rules."""
    paid = most_flops // max(step_flops, 1)
    return min(max(paid, rules.least_steps), rules.most_steps, steps)


def steps_detection_ppm(drawn: int, steps: int) -> int:
    """Chance that one wrong step among ``steps`` is among the ``drawn`` ones, rounded down."""
    if not 0 < drawn <= steps:
        raise _invalid(f"{drawn} steps drawn from {steps}")
    return max(PARTS_PER_MILLION * drawn // steps, 1)


def stake_rate_ppm(
    rules: AuditRules,
    price_nano: Nano,
    stake_nano: Nano,
    detection_ppm: int = PARTS_PER_MILLION,
) -> int:
    """``s*g*price / (d*(1-q)*stake)``, rounded up, between the floor over ``d`` and certainty.

    ``d`` is that of the rules times ``detection_ppm``, which is below one where only some steps of
    a segment are recomputed (:func:`steps_detection_ppm`).
    """
    if not 0 < detection_ppm <= PARTS_PER_MILLION:
        raise _invalid("an audit that detects nothing deters nobody")
    check_price(price_nano, "price")
    check_price(stake_nano, "stake")
    if stake_nano == 0:
        return PARTS_PER_MILLION
    numerator = rules.safety * rules.gain_ppm * price_nano * PARTS_PER_MILLION**3
    honest_ppm = PARTS_PER_MILLION - rules.colluding_ppm
    rate = -(-numerator // (rules.detection_ppm * detection_ppm * honest_ppm * stake_nano))
    return min(max(rate, seen_as_often(rules.floor_ppm, detection_ppm)), PARTS_PER_MILLION)


def seen_as_often(wanted_ppm: int, detection_ppm: int) -> int:
    """The rate at which a wrong segment is seen as often as by whole audits at ``wanted_ppm``."""
    return min(-(-wanted_ppm * PARTS_PER_MILLION // detection_ppm), PARTS_PER_MILLION)


def is_outlier(rules: AuditRules, price_nano: Nano, stake_nano: Nano) -> bool:
    """Whether one segment is worth too much of what is at stake to be left to chance."""
    return price_nano * PARTS_PER_MILLION > stake_nano * rules.outlier_ppm


def streak_rate_ppm(rules: AuditRules, streak: int) -> int:
    """What the schedule of newcomers asks for at least; zero once it is behind."""
    if streak < rules.full_streak:
        return PARTS_PER_MILLION
    return rules.onboarding_ppm if streak < rules.onboarding_streak else 0


def rate_ppm(
    rules: AuditRules,
    level: Level,
    streak: int,
    price_nano: Nano,
    stake_nano: Nano,
    detection_ppm: int = PARTS_PER_MILLION,
) -> int:
    """The probability with which one segment is audited; ``detection_ppm`` as for
    :func:`stake_rate_ppm`.

    Reputation takes the newcomer's schedule away and nothing else: the rate that follows from the
    stake stays, however long the streak.
    """
    if level is Level.DUAL or is_outlier(rules, price_nano, stake_nano):
        return PARTS_PER_MILLION
    asked = seen_as_often(rules.check_ppm, detection_ppm) if level is Level.CHECK else 0
    by_stake = stake_rate_ppm(rules, price_nano, stake_nano, detection_ppm)
    return max(asked, streak_rate_ppm(rules, streak), by_stake)


def may_audit(rules: AuditRules, streak: int, bond_nano: Nano, unit_nano: Nano) -> bool:
    """Whether a device can be a candidate for the audit of a segment of this price.

    It is through its onboarding and has the whole bond to lose, so a new identity is no auditor.
    """
    return streak >= rules.onboarding_streak and bond_nano >= rules.bond_units * unit_nano


# --- money of a unit ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PayDivision:
    """Where a worker's pay for one unit goes; the three sum up to the pay."""

    to_audits_nano: Nano
    to_bond_nano: Nano
    to_held_nano: Nano


def audit_debt_nano(rules: AuditRules, units: int, audit_nano: Nano) -> Nano:
    """What a worker owes for an audit of the unit that follows ``units`` delivered ones."""
    return check_price(audit_nano, "audit") if units < rules.own_audit_units else 0


def divide_pay(
    rules: AuditRules, pay_nano: Nano, debt_nano: Nano, bond_nano: Nano, bond_target_nano: Nano
) -> PayDivision:
    """Audits of its own first, up to a share of the pay; then the bond; the rest is held.

    As an audit costs no more than the unit it checks, the debt of a newcomer never passes its bond:
    who leaves before the debt is paid leaves it behind in full.
    """
    most = part_of_nano(pay_nano, rules.own_audit_share_ppm, PARTS_PER_MILLION, "audit share")
    to_audits = min(check_price(debt_nano, "debt"), most)
    rest = pay_nano - to_audits
    to_bond = min(rest, max(bond_target_nano - bond_nano, 0))
    return PayDivision(to_audits, to_bond, rest - to_bond)


@dataclass(frozen=True, slots=True)
class SlashSplit:
    """Where a forfeited stake goes; the four sum up to it."""

    owed_nano: Nano
    refund_nano: Nano
    auditor_nano: Nano
    reserve_nano: Nano


def split_slash(
    rules: AuditRules, stake_nano: Nano, void_nano: Nano, owed_nano: Nano = 0
) -> SlashSplit:
    """What of a forfeited stake goes to whom: at most ``refund_ppm`` of it, rounded down, leaves
    the platform, whoever asks and for whatever reason.

    First comes what is owed (honest work that was built on the wrong state, money that a buyer has
    not back from elsewhere), then the buyer's damages, at most ``void_nano``, then ``auditor_ppm``
    of the stake for who found it. Buyer, followers and auditor may all be friends of a cheat who
    sees an audit coming and has itself slashed in a job of its own: whatever they make of these
    doors, the reserve keeps the rest.
    """
    check_price(owed_nano, "owed")
    check_price(void_nano, "void")
    left = check_price(stake_nano, "stake") * rules.refund_ppm // PARTS_PER_MILLION
    owed = min(owed_nano, left)
    refund = min(void_nano, left - owed)
    auditor = part_of_nano(stake_nano, rules.auditor_ppm, PARTS_PER_MILLION, "audit share")
    auditor = min(auditor, left - owed - refund)
    return SlashSplit(owed, refund, auditor, stake_nano - owed - refund - auditor)


# --- faults and silence ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """What a dispute found at the first tile that differs.

    ``most_flipped_bits`` is the largest number of differing bits in one element. ``follows`` says
    that everything after the tile is what an honest device computes from the wrong values: the
    whole work was done, so nothing was saved.
    """

    differing_elements: int
    most_flipped_bits: int
    follows: bool


class Consequence(StrEnum):
    """What a confirmed fault or a silence leads to."""

    FORFEIT = "forfeit"
    """The unit is not paid."""
    QUARANTINE = "quarantine"
    """The unit is not paid and the device passes admission again before it gets work."""
    SLASH = "slash"
    """Bond and held pay are forfeited."""


def is_flip(rules: AuditRules, signature: Signature) -> bool:
    """Whether a fault looks like a soft error: a few bits, and no work saved."""
    return (
        signature.follows
        and 0 < signature.differing_elements <= rules.flipped_elements
        and 0 < signature.most_flipped_bits <= rules.flipped_bits
    )


def after_fault(
    rules: AuditRules, signature: Signature, unit: int, earlier_flips: Sequence[int]
) -> Consequence:
    """What a confirmed fault in the device's ``unit``-th segment costs.

    ``earlier_flips`` are the numbers of the segments in which it had flips before. Whatever this
    says, the streak is zero afterwards and the held window is audited (:func:`look_back`).
    """
    if is_flip(rules, signature) and (_recent(rules, unit, earlier_flips) < rules.allowed_flips):
        return Consequence.QUARANTINE
    return Consequence.SLASH


def after_silence(
    rules: AuditRules, unit: int, earlier_silences: Sequence[int], *, roots_differ: bool
) -> Consequence:
    """What it costs not to open a commitment in time.

    ``roots_differ``: the auditor's roots are not the committed ones and the house found the same.
    Then silence is a lost dispute. Otherwise the work was right, or its start state was withheld
    and it goes unpaid: the unit is forfeited, and only the repetition costs the bond.
    """
    if roots_differ or _recent(rules, unit, earlier_silences) >= rules.allowed_silences:
        return Consequence.SLASH
    return Consequence.FORFEIT


def after_wrong_benchmark(
    rules: AuditRules, unit: int, earlier_answers: Sequence[int]
) -> Consequence:
    """What a wrong answer to a benchmark challenge costs beside the proof.

    ``unit`` is how many segments the device has delivered, ``earlier_answers`` how many it had at
    its wrong answers before; between two of them it may have delivered nothing. As many are allowed
    as silences. Nobody was billed for it, so it never costs the stake.
    """
    recent = sum(unit - rules.strike_window_units < other <= unit for other in earlier_answers)
    return Consequence.QUARANTINE if recent >= rules.allowed_silences else Consequence.FORFEIT


def look_back(rules: AuditRules, unit: int, house_audited: Sequence[int]) -> tuple[int, ...]:
    """Units to recompute when one is found wrong: all whose pay is still held and that the house
    itself has not recomputed. Those that outsiders found right are among them, which is what a
    colluding auditor has to fear.
    """
    known = {*house_audited, unit}
    first = max(unit - rules.held_units, 0)
    return tuple(number for number in range(first, unit) if number not in known)


def _recent(rules: AuditRules, unit: int, earlier: Sequence[int]) -> int:
    return sum(unit - rules.strike_window_units < other < unit for other in earlier)


# --- levels for quotes ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LevelTerms:
    """What a quote shows of a level.

    ``price_factor_ppm`` is the price of a job with this level over the price of its work alone.
    """

    level: Level
    audited_ppm: int
    price_factor_ppm: int


def level_terms(rules: AuditRules, level: Level, base_ppm: int) -> LevelTerms:
    """A level's rate and price, where ``base_ppm`` is the rate that follows from the stake.

    The fee pays for audits up to its own size; what a level needs beyond it, the buyer pays.
    """
    if level is Level.DUAL:
        return LevelTerms(level, PARTS_PER_MILLION, 2 * PARTS_PER_MILLION)
    audited = max(base_ppm, rules.check_ppm) if level is Level.CHECK else base_ppm
    cost = max(rules.fee_ppm, audit_load_ppm(rules, audited))
    return LevelTerms(level, audited, PARTS_PER_MILLION + cost)


def least_terms(rules: AuditRules, level: Level, fee_ppm: int) -> LevelTerms:
    """A level's terms whoever works: the rate is the floor's where the level asks for no more.

    ``fee_ppm`` is the fee that the market really takes, which is inside the price of the work.
    """
    return level_terms(replace(rules, fee_ppm=fee_ppm), level, rules.floor_ppm)


def surcharge_ppm(rules: AuditRules, level: Level, fee_ppm: int) -> int:
    """What a level costs beyond the fee, as a share of the price of every segment."""
    factor_ppm = least_terms(rules, level, fee_ppm).price_factor_ppm
    return max(0, factor_ppm - PARTS_PER_MILLION - fee_ppm)


def audit_load_ppm(rules: AuditRules, audited_ppm: int) -> int:
    """Work of audits over work sold, canaries and cross-audits included; rounded up."""
    extra = PARTS_PER_MILLION + rules.canary_ppm + rules.cross_ppm
    return -(-audited_ppm * extra // PARTS_PER_MILLION)


def detection_ppm(rules: AuditRules, audited_ppm: int, wrong_segments: int) -> int:
    """Chance that at least one of so many wrong segments is seen by an honest auditor,
    ``1 - (1 - p*d)^m``, to the nearest part per million and never rounded up to certainty.
    """
    if not 0 <= audited_ppm <= PARTS_PER_MILLION or wrong_segments < 0:
        raise _invalid("a rate is 0 to 1,000,000 ppm and a count is not negative")
    one = 1 << _FIXED_POINT_BITS
    seen = audited_ppm * rules.detection_ppm  # parts of a million million
    base = -(-(PARTS_PER_MILLION**2 - seen) * one // PARTS_PER_MILLION**2)
    missed, exponent = one, wrong_segments
    while exponent:
        if exponent & 1:
            missed = -(-missed * base >> _FIXED_POINT_BITS)
        base = -(-base * base >> _FIXED_POINT_BITS)
        exponent >>= 1
    nearest = (one - missed) * PARTS_PER_MILLION + one // 2 >> _FIXED_POINT_BITS
    return min(nearest, PARTS_PER_MILLION - 1) if missed else nearest


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, code="AUDIT_RULES")
