"""What must hold at rest, re-derived from rows: the checker behind ``flop coordinator check``.

Nothing here trusts a cached sum or a state that code wrote earlier; each rule names the first row
that breaks it. Takes plain values, so that tests can break every rule on purpose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flopmarket_coordinator.core.ledger import (
    ESCROW,
    FEE,
    RESERVE,
    UNBOUNDED_ACCOUNTS,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    changes,
)
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    LIVE_LEASE_STATES,
    LIVE_SEGMENT_STATES,
    JobState,
    LeaseState,
    SegmentState,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule and the first row that breaks it."""

    rule: str
    row: str
    text: str


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job as stored; receipt figures are None before there is a receipt."""

    job_id: str
    state: JobState
    ceiling_nano: int
    billed_nano: int
    fee_nano: int
    hold_id: str
    hold_nano: int
    receipt_invoice_nano: int | None
    receipt_fee_nano: int | None
    receipt_segments: int | None
    settled_steps: int
    checked_steps: int
    live_steps: int
    unaudited_segments: int
    surcharge_nano: int = 0
    receipt_surcharge_nano: int | None = None
    returned_nano: int = 0
    unreturned_nano: int = 0


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """A segment as stored."""

    segment_id: int
    job_id: str
    account_id: str
    state: SegmentState
    first_step: int
    steps: int
    price_nano: int
    to_held_nano: int
    held_state: str
    accepting_verdict: bool
    surcharge_nano: int = 0
    fee_nano: int = 0
    was_settled: bool = False
    drawn: bool = True

    @property
    def bill_nano(self) -> int:
        """What its buyer pays: price and surcharge."""
        return self.price_nano + self.surcharge_nano

    @property
    def undone(self) -> bool:
        """Whether it was paid, and found void afterwards."""
        return self.was_settled and self.state is not SegmentState.SETTLED


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """A lease as stored."""

    lease_id: str
    job_id: str
    offer_id: str
    chain: bool
    fence: int
    state: LeaseState
    audit: bool = False
    """Of an audit: its fences are numbers of their own, and it runs beside the job's own lease."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, at one instant. ``balances`` are cached ``(balance, reserved)``.

    ``overdrafts`` are how far below zero accounts may go, where that is not 0; ``withdrawals`` the
    pending transfers that undecided withdrawals hold, ``audit_pay`` those promised to auditors,
    ``claims`` those promised to workers whose void segments the house is to look at.
    """

    transfers: Sequence[Transfer]
    balances: Mapping[str, tuple[int, int]]
    jobs: Sequence[JobFacts]
    segments: Sequence[SegmentFacts]
    leases: Sequence[LeaseFacts]
    overdrafts: Mapping[str, int] = field(default_factory=dict)
    withdrawals: frozenset[str] = frozenset()
    audit_pay: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()


_LEGS = (Purpose.PAY, Purpose.BOND, Purpose.SURCHARGE, Purpose.AUDIT, Purpose.FORFEIT)
"""What leaves the clearing account when a segment is settled, its fee apart."""

_CHARGES = {
    TransferKind.DIRECT: 1,
    TransferKind.PENDING: 1,
    TransferKind.VOID: -1,
    TransferKind.POST: 0,
}
"""What a transfer of each kind adds to what is paid or promised."""

Rule = Callable[[Snapshot], Iterator[tuple[str, str]]]


def check(snapshot: Snapshot) -> tuple[Finding, ...]:
    """The first break of every rule, in a fixed order; empty when all is well."""
    findings: list[Finding] = []
    for name, rule in RULES.items():
        for row, text in rule(snapshot):
            findings.append(Finding(name, row, text))
            break
    return tuple(findings)


def _derived(snapshot: Snapshot) -> dict[str, tuple[int, int]]:
    by_id = {transfer.transfer_id: transfer for transfer in snapshot.transfers}
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for transfer in snapshot.transfers:
        try:
            effects = changes(transfer, by_id.get(transfer.pending_id))
        except LedgerConflict:
            continue  # told by its own rule
        for change in effects:
            balance, reserved = sums[change.account]
            sums[change.account] = (
                balance + change.balance_nano,
                reserved + change.reserved_nano,
            )
    return sums


def _money_is_conserved(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    total = sum(balance for balance, _ in snapshot.balances.values())
    if total:
        yield "ledger_account", f"all balances add up to {total}, not to 0"


def _cache_is_right(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    derived = _derived(snapshot)
    for account in sorted({*derived, *snapshot.balances}):
        cached = snapshot.balances.get(account, (0, 0))
        right = derived.get(account, (0, 0))
        if cached != right:
            yield account, f"cached (balance, reserved) {cached}, the transfers say {right}"


def _nothing_is_overdrawn(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for account, (balance, reserved) in sorted(_derived(snapshot).items()):
        overdraft = snapshot.overdrafts.get(account, 0)
        if account not in UNBOUNDED_ACCOUNTS and balance + overdraft < reserved:
            yield account, f"balance {balance} does not cover {reserved} reserved"


def _clearing_is_empty(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    balance, _ = _derived(snapshot).get(ESCROW, (0, 0))
    if balance:
        yield ESCROW, f"the clearing account holds {balance}"


def _transfers_resolve_well(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    by_id = {transfer.transfer_id: transfer for transfer in snapshot.transfers}
    for transfer in snapshot.transfers:
        try:
            changes(transfer, by_id.get(transfer.pending_id))
        except LedgerConflict as error:
            yield transfer.transfer_id, error.message


def _holds_resolve_once(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    resolved = Counter(item.pending_id for item in snapshot.transfers if item.pending_id)
    open_holds = {job.hold_id: job for job in snapshot.jobs if job.hold_nano}
    for transfer in snapshot.transfers:
        if transfer.kind is not TransferKind.PENDING:
            continue
        times = resolved[transfer.transfer_id]
        open_ids = (open_holds, snapshot.withdrawals, snapshot.audit_pay, snapshot.claims)
        expected = 0 if any(transfer.transfer_id in ids for ids in open_ids) else 1
        if times != expected:
            yield transfer.transfer_id, f"resolved {times} times, {expected} expected"


def _open_holds_match(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    by_id = {transfer.transfer_id: transfer for transfer in snapshot.transfers}
    for job in snapshot.jobs:
        if not job.hold_nano:
            continue
        hold = by_id.get(job.hold_id)
        if hold is None or hold.amount_nano != job.hold_nano:
            yield job.job_id, f"says {job.hold_nano} are held by {job.hold_id}"
        elif job.state in FINAL_JOB_STATES:
            yield job.job_id, f"is {job.state} and still holds {job.hold_nano}"
        else:
            left = job.ceiling_nano - job.billed_nano - job.unreturned_nano
            if job.hold_nano != left:
                yield job.job_id, f"holds {job.hold_nano} of {left}"


def _billed_is_settled(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What was posted is billed now, or was for segments that were undone."""
    settled: Counter[str] = Counter()
    undone: Counter[str] = Counter()
    undone_fees: Counter[str] = Counter()
    surcharges: Counter[str] = Counter()
    undone_surcharges: Counter[str] = Counter()
    posted: Counter[str] = Counter()
    fees: Counter[str] = Counter()  # what settlements left in escrow, by job
    paid: Counter[str] = Counter()  # surcharges to the account of audits, by job
    for segment in snapshot.segments:
        if segment.state is SegmentState.SETTLED:
            settled[segment.job_id] += segment.bill_nano
            surcharges[segment.job_id] += segment.surcharge_nano
        elif segment.undone:
            undone[segment.job_id] += segment.bill_nano
            undone_fees[segment.job_id] += segment.fee_nano
            undone_surcharges[segment.job_id] += segment.surcharge_nano
    for transfer in snapshot.transfers:
        if transfer.kind is TransferKind.POST and transfer.purpose is not Purpose.COMPENSATION:
            posted[transfer.job_id] += transfer.amount_nano
            fees[transfer.job_id] += transfer.amount_nano if transfer.credit == ESCROW else 0
        if transfer.debit == ESCROW and transfer.purpose in _LEGS:
            fees[transfer.job_id] -= transfer.amount_nano
        if transfer.purpose is Purpose.SURCHARGE:
            paid[transfer.job_id] += transfer.amount_nano
    for job in snapshot.jobs:
        name = job.job_id
        if job.billed_nano > job.ceiling_nano:
            yield name, f"billed {job.billed_nano} over the ceiling {job.ceiling_nano}"
        sums = (settled[name], posted[name] - undone[name])
        if sums != (job.billed_nano, job.billed_nano):
            yield name, f"billed {job.billed_nano}, segments and posts say {sums}"
        extra = (surcharges[name], paid[name] - undone_surcharges[name])
        if extra != (job.surcharge_nano, job.surcharge_nano):
            yield name, f"surcharge {job.surcharge_nano}, segments and transfers say {extra}"
        if fees[name] - undone_fees[name] != job.fee_nano:
            yield name, f"fee {job.fee_nano}, the ledger says {fees[name] - undone_fees[name]}"


def _money_came_back(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Buyers have what they paid for undone segments, but for what is recorded as lacking; so is
    what they pay to workers of segments that fell."""
    undone: Counter[str] = Counter()
    returned: Counter[str] = Counter()
    charged: Counter[str] = Counter()
    for segment in snapshot.segments:
        undone[segment.job_id] += segment.bill_nano if segment.undone else 0
    for transfer in snapshot.transfers:
        if transfer.purpose is Purpose.RETURN:
            returned[transfer.job_id] += transfer.amount_nano
        if transfer.purpose is Purpose.COMPENSATION and transfer.debit != RESERVE:
            charged[transfer.job_id] += _CHARGES[transfer.kind] * transfer.amount_nano
    for job in snapshot.jobs:
        name, lacking = job.job_id, job.unreturned_nano - charged[job.job_id]
        sums = (returned[name], undone[name] - lacking)
        if lacking < 0 or sums != (job.returned_nano, job.returned_nano):
            yield name, f"returned {job.returned_nano}, transfers and void segments say {sums}"


def _fees_are_collected(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    collected = sum(item.amount_nano for item in snapshot.transfers if item.purpose is Purpose.FEE)
    owed = sum(job.fee_nano for job in snapshot.jobs)
    owed += sum(segment.fee_nano for segment in snapshot.segments if segment.undone)
    if collected != owed:
        yield FEE, f"collected {collected}, fees of jobs and of void segments are {owed}"


def _pay_follows_a_verdict(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What was drawn is paid to its worker after an accepting verdict only."""
    for segment in snapshot.segments:
        paid = segment.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
        due = segment.drawn and segment.held_state != "forfeited"
        if paid and due and not segment.accepting_verdict:
            yield f"segment {segment.segment_id}", f"{segment.state} without an accepting verdict"


def _held_pay_is_there(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    owed: Counter[str] = Counter()
    ended = {job.job_id for job in snapshot.jobs if job.state in FINAL_JOB_STATES}
    for segment in snapshot.segments:
        if segment.held_state in ("held", "waiting"):
            owed[f"{segment.account_id}/held"] += segment.to_held_nano
        over = segment.job_id in ended
        if segment.held_state == ("held" if over else "waiting"):
            text = f"pay is {segment.held_state}, and its job has {'' if over else 'not '}ended"
            yield f"segment {segment.segment_id}", text
        if segment.held_state == "released" and not over:
            yield f"segment {segment.segment_id}", "pay was released before its job ended"
    derived = _derived(snapshot)
    accounts = {account for account in derived if account.endswith("/held")} | set(owed)
    for account in sorted(accounts):
        balance, _ = derived.get(account, (0, 0))
        if balance != owed[account]:
            yield account, f"holds {balance}, segments say {owed[account]}"


def _leases_are_exclusive(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    chains: set[str] = set()
    offers: set[str] = set()
    for lease in snapshot.leases:
        if lease.state not in LIVE_LEASE_STATES:
            continue
        if lease.chain and not lease.audit and lease.job_id in chains:
            yield lease.lease_id, f"a second live lease of job {lease.job_id}"
        if lease.offer_id in offers:
            yield lease.lease_id, f"a second live lease of offer {lease.offer_id}"
        if not lease.audit:
            chains.add(lease.job_id)
        offers.add(lease.offer_id)


def _fences_rise(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, bool, int]] = set()
    for lease in snapshot.leases:
        place = (lease.job_id, lease.audit, lease.fence)
        if place in seen:
            yield lease.lease_id, f"fence {lease.fence} of job {lease.job_id} was given twice"
        seen.add(place)


def _steps_do_not_overlap(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    ends: dict[str, int] = {}
    live = [item for item in snapshot.segments if item.state in LIVE_SEGMENT_STATES]
    for segment in sorted(live, key=lambda item: (item.job_id, item.first_step)):
        if segment.first_step < ends.get(segment.job_id, 0):
            yield f"segment {segment.segment_id}", "overlaps the segment before it"
        ends[segment.job_id] = segment.first_step + segment.steps


def _sums_are_right(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What a job says of its segments; how far it was verified is of use until it ends. Paid and
    verified mean: without a gap."""
    live: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    position: Counter[str] = Counter()
    settled: Counter[str] = Counter()
    verified = (SegmentState.VERIFIED, SegmentState.SETTLED)
    for item in sorted(snapshot.segments, key=lambda item: (item.job_id, item.first_step)):
        if item.state not in LIVE_SEGMENT_STATES:
            continue
        live[item.job_id] += item.steps
        waiting[item.job_id] += item.state is SegmentState.COMMITTED
        if item.state in verified and item.first_step == position[item.job_id]:
            position[item.job_id] += item.steps
        if item.state is SegmentState.SETTLED and item.first_step == settled[item.job_id]:
            settled[item.job_id] += item.steps
    for job in snapshot.jobs:
        name = job.job_id
        stated = (job.settled_steps, job.live_steps, job.unaudited_segments)
        right = (settled[name], live[name], waiting[name])
        if stated != right:
            yield name, f"says (settled, live, unaudited) {stated}, its segments say {right}"
        if job.state not in FINAL_JOB_STATES and job.checked_steps != position[name]:
            yield name, f"is verified up to {position[name]}, not {job.checked_steps}"


def _receipts_agree(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    settled = Counter(
        item.job_id for item in snapshot.segments if item.state is SegmentState.SETTLED
    )
    for job in snapshot.jobs:
        if job.state not in FINAL_JOB_STATES:
            if job.receipt_invoice_nano is not None:
                yield job.job_id, f"has a receipt and is {job.state}"
            continue
        stated = (
            job.receipt_invoice_nano,
            job.receipt_fee_nano,
            job.receipt_surcharge_nano or 0,
            job.receipt_segments,
        )
        right = (job.billed_nano, job.fee_nano, job.surcharge_nano, settled[job.job_id])
        if stated != right:
            text = f"receipt says (invoice, fee, surcharge, segments) {stated}, rows say {right}"
            yield job.job_id, text


RULES: Mapping[str, Rule] = {
    "money-conserved": _money_is_conserved,
    "balance-cache": _cache_is_right,
    "not-overdrawn": _nothing_is_overdrawn,
    "clearing-empty": _clearing_is_empty,
    "transfer-pairs": _transfers_resolve_well,
    "hold-resolved-once": _holds_resolve_once,
    "open-hold": _open_holds_match,
    "billed": _billed_is_settled,
    "money-returned": _money_came_back,
    "fees-collected": _fees_are_collected,
    "verdict-before-pay": _pay_follows_a_verdict,
    "held-pay": _held_pay_is_there,
    "lease-exclusive": _leases_are_exclusive,
    "fence-rises": _fences_rise,
    "steps-overlap": _steps_do_not_overlap,
    "job-sums": _sums_are_right,
    "receipt": _receipts_agree,
}
