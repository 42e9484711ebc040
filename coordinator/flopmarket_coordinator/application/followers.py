"""Honest work that was built on somebody else's wrong state: who pays it, once it was checked.

A segment that falls with an earlier one of another account was perhaps right from where it began.
If somebody recomputed it, it is paid at once. If not, its pay is promised, the house recomputes it
from the wrong state that its worker was given, and then pays, or judges it like any wrong segment.
"""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_REPLAYED_SEGMENTS
from flopmarket.market.money import Nano
from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.encoding import decode
from flopmarket.trust.step_records import STEP_CODES, code_of
from flopmarket_coordinator.application.auditor_pay import AuditorPayUseCases
from flopmarket_coordinator.application.penalising import PenalisingUseCases
from flopmarket_coordinator.application.types_auditing import PathSegment
from flopmarket_coordinator.core import escrow, faults
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.faults import Owed
from flopmarket_coordinator.core.leasing import StartPoint, restart_point
from flopmarket_coordinator.core.ledger import RESERVE, Purpose, Transfer
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import held_pay, jobs, ledger, segments, step_audits, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.held_pay import FORFEITED
from flopmarket_coordinator.store.records import JobRow, SegmentRow


class FollowerUseCases(PenalisingUseCases, AuditorPayUseCases):
    """Followers' claims. Nothing here is called from outside the application."""

    # --- what is owed -------------------------------------------------------------------------

    def _owed(
        self,
        tx: Transaction,
        job: JobRow,
        cheat: str,
        void: Sequence[SegmentRow],
        wrong_nano: Nano = 0,
    ) -> Owed:
        """What segments that are void now leave owed; rows as they were before."""
        house = self._house_keys(tx)
        fees = audits = reserve = own = gone = 0
        for row in void:
            if row.state is not SegmentState.SETTLED:
                continue
            worker = row.price_nano - row.fee_nano
            fees += row.fee_nano
            audits += row.surcharge_nano
            kept = row.to_bond_nano + row.to_held_nano
            if row.account_id == cheat:
                audits += row.to_audit_nano
                worker -= row.to_audit_nano
                spent = row.held_state == held_pay.RELEASED
                known = row.verdict_accepted and row.auditor in house
                if row.held_state == FORFEITED and not (kept and known):
                    reserve += worker
                elif row.held_state == FORFEITED or spent:
                    gone += worker - (row.to_bond_nano if spent else 0)
                    own += row.to_bond_nano if spent else 0
                else:
                    own += worker
            elif row.held_state == FORFEITED and not kept:
                reserve += worker
            else:
                gone += worker
        others = [row for row in void if row.account_id != cheat]
        claims = self._follower_claims(tx, job, others)
        return Owed(fees, audits, reserve, own, gone, claims, wrong_nano)

    # --- what the house finds -----------------------------------------------------------------

    def _replay_start(self, tx: Transaction, row: SegmentRow) -> StartPoint:
        """The newest state that is stored, was read and leads to a segment. One that fell is looked
        at from what its own worker was given, wrong or not."""
        job = self._job(tx, row.job_id)
        if row.state is SegmentState.VOID:
            newest = segments.newest_of_lease(tx, row.lease_id, row.first_step)
            if newest is None:
                lease = work.lease(tx, row.lease_id)
                assert lease is not None, "a segment refers to a lease"
                return StartPoint(
                    lease.first_step, lease.first_segment, lease.state_artifact, lease.state_root
                )
        else:
            newest = segments.newest_checkpoint(tx, row.job_id, row.first_step, checked=True)
        before = [] if newest is None else [newest.part()]
        start, _ = restart_point(decode(JobSpec, job.spec), job.state_artifact, before)
        return start

    def _replay_path(self, tx: Transaction, row: SegmentRow, step: int) -> tuple[PathSegment, ...]:
        """What was committed between a step and a segment."""
        of_lease = row.lease_id if row.state is SegmentState.VOID else ""
        found = segments.path_between(
            tx, row.job_id, step, row.first_step, MAX_REPLAYED_SEGMENTS, of_lease
        )
        house = [segment_id for segment_id, *_, auditor in found if auditor == self._key.key_id]
        whole = set(house) - self._drawn_from(tx, house)
        return tuple(
            PathSegment(segment_id, first, steps, root, outputs, segment_id in whole)
            for segment_id, first, steps, root, outputs, _ in found
        )

    def _drawn_from(self, tx: Transaction, segment_ids: list[int]) -> set[int]:
        """Those of which the house ran drawn steps and no more: they may be wrong elsewhere."""
        rows = [segments.get(tx, each) for each in step_audits.by_steps(tx, segment_ids)]
        codes = {
            row.segment_id: code_of(row.verdict, self._key.public)
            for row in rows
            if row is not None and row.verdict
        }
        return {segment_id for segment_id, code in codes.items() if code in STEP_CODES}

    def _claim_right(
        self, tx: Transaction, row: SegmentRow, verdict: bytes | None, auditor: str
    ) -> None:
        """Right from where it began: it is paid, though it counts for nothing."""
        values: dict[str, object] = {"house_task": "", "files_checked": True}
        if verdict is not None:
            values |= {"verdict": verdict, "verdict_accepted": True, "auditor": auditor}
        segments.update(tx, row, **values)
        paid = self._end_promise(tx, row, stake=True, buyer=verdict is not None)
        text = (
            f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)} was right "
            f"from the state that it was given: {self._money(paid)}"
        )
        jobs.record(tx, row.job_id, EventKind.COMPENSATED, text, row.lease_id)
        self._release_of(tx, row.account_id)

    def _claim_wrong(
        self,
        tx: Transaction,
        row: SegmentRow,
        code: VerdictCode,
        verdict: bytes | None,
        *,
        auditor: str,
        signature: Signature | None,
    ) -> None:
        """Wrong even from where it began: its worker pays like for any wrong segment, and what the
        same lease built on it is nobody's claim."""
        slashed = self._refute(tx, row, code, verdict, auditor=auditor, signature=signature)
        self._end_promise(tx, row, stake=False, buyer=False)
        for other in segments.claims_of_lease(tx, row.lease_id):
            segments.update(tx, other, house_task="")
            self._end_promise(tx, other, stake=False, buyer=False)
        self._spend_stake(tx, row, code, auditor=auditor, slashed=slashed)
        self._put_away(tx, row, code, slashed=slashed)

    def _spend_stake(
        self, tx: Transaction, row: SegmentRow, code: VerdictCode, *, auditor: str, slashed: bool
    ) -> None:
        """The stake of a follower that was wrong itself. Its buyer was given back what it paid for
        the segment when that fell, but for what was lacking then."""
        job = self._job(tx, row.job_id)
        paid = [row] if row.settled_at_us else []
        funds = self._funds(tx, row.account_id, paid, slashed=slashed)
        kept = 0 if row.held_state == held_pay.RELEASED else row.to_held_nano + row.to_bond_nano
        own = kept if paid and row.held_state != FORFEITED else 0
        own = min(own, self._lacking(tx, job))
        outcome = faults.slash(
            self._parameters.audit_rules,
            cause="follower",
            job_id=job.job_id,
            segment_id=row.segment_id,
            cheat=row.account_id,
            buyer=job.buyer,
            auditor=self._finder(tx, auditor, row.account_id),
            funds=funds,
            owed=Owed(own_nano=own),
        )
        ledger.execute_all(tx, outcome.transfers)
        if outcome.returned_nano:
            self._charge(
                tx,
                job,
                outcome.returned_nano,
                0,
                unreturned_nano=job.unreturned_nano - outcome.returned_nano,
                returned_nano=job.returned_nano + outcome.returned_nano,
            )
        if slashed:
            self._tell_slash(tx, row.device_key_id, row.account_id, code, outcome, job.job_id, row)

    def _lacking(self, tx: Transaction, job: JobRow) -> Nano:
        """What a buyer has not back, but for what is only promised to followers yet."""
        promised = 0
        for row in segments.claims_of_job(tx, job.job_id):
            _, name = faults.claim_ids(row.segment_id, job.buyer)
            found = ledger.find(tx, name)
            promised += 0 if found is None else found.amount_nano
        return job.unreturned_nano - promised

    def _end_promise(self, tx: Transaction, row: SegmentRow, *, stake: bool, buyer: bool) -> Nano:
        """Pay or free what was promised for a segment; what is paid. What is freed is its buyer's:
        out of the stake as far as money of the buyer's is lacking, out of the hold in any case."""
        job = self._job(tx, row.job_id)
        found = [ledger.find(tx, name) for name in faults.claim_ids(row.segment_id, job.buyer)]
        promised = [item for item in found if item is not None]
        ledger.execute_all(tx, faults.end_promise(promised, stake=stake, buyer=buyer))
        freed = sum(it.amount_nano for it in promised if it.debit != RESERVE and not buyer)
        unspent = sum(it.amount_nano for it in promised if it.debit == RESERVE and not stake)
        lacking = job.unreturned_nano - freed
        back = min(unspent, max(self._lacking(tx, job) - freed, 0))
        if back:
            ledger.execute(tx, _given_back(job, row, back))
        if freed or back:
            self._charge(
                tx,
                job,
                freed + back,
                0,
                unreturned_nano=lacking - back,
                returned_nano=job.returned_nano + back,
            )
        return sum(it.amount_nano for it in promised if (stake if it.debit == RESERVE else buyer))


def _given_back(job: JobRow, row: SegmentRow, amount_nano: Nano) -> Transfer:
    """Forfeited money that was promised to a follower goes to the buyer that lacks it."""
    return escrow.direct(
        Purpose.RETURN,
        ("claim", row.segment_id),
        RESERVE,
        f"{job.buyer}/available",
        amount_nano,
        job.job_id,
        f"segment {row.segment_id}",
    )
