"""What a device and its account pay for faults and silences: strikes, quarantine, stake, ban."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.errors import Forbidden
from flopmarket.limits import MAX_OPEN_WITHDRAWALS
from flopmarket.trust.audit_policy import Consequence, Signature, after_fault
from flopmarket_coordinator.application.step_beginnings import StepBeginningUseCases
from flopmarket_coordinator.core import escrow, faults
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.faults import Funds, Owed
from flopmarket_coordinator.core.leasing import RevokeReason
from flopmarket_coordinator.core.ledger import AUDIT, FEE, RESERVE, Balance, account_of
from flopmarket_coordinator.core.lifecycle import LeaseState, SegmentState
from flopmarket_coordinator.core.payments import WithdrawalState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.proving import quarantined
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import (
    audits,
    benchmarks,
    decisions,
    held_pay,
    identity,
    jobs,
    ledger,
    penalties,
    segments,
    withdrawals,
    work,
)
from flopmarket_coordinator.store.decisions import DecisionKind
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow


class PenalisingUseCases(StepBeginningUseCases):
    """Penalties. Nothing here is called from outside the application."""

    def _device_keys(self, tx: Transaction, key_id: str) -> list[str]:
        """The keys that a device has had, this one among them: what counts against one counts
        against all."""
        return identity.same_lineage(tx, key_id) or [key_id]

    def _account_of_key(self, tx: Transaction, key_id: str) -> str:
        """The account of a registered key; empty for the coordinator's own."""
        row = identity.key(tx, key_id)
        return "" if row is None else row.account_id

    def _consequence(
        self, tx: Transaction, row: SegmentRow, signature: Signature | None
    ) -> Consequence:
        if signature is None:
            return Consequence.SLASH
        unit, flips = self._record(tx, row.device_key_id, row.segment_id, StrikeKind.FLIP)
        return after_fault(self._parameters.audit_rules, signature, unit, flips)

    def _refute(
        self,
        tx: Transaction,
        row: SegmentRow,
        code: VerdictCode,
        verdict: bytes | None,
        *,
        auditor: str,
        signature: Signature | None,
    ) -> bool:
        """A segment is wrong, whether or not it still counted: note it, and what its account may
        still lose is looked at again. Whether its stake is forfeited (:meth:`_put_away`)."""
        consequence = self._consequence(tx, row, signature)
        if consequence is Consequence.QUARANTINE:
            self._strike(tx, row.device_key_id, StrikeKind.FLIP, code, segment_id=row.segment_id)
        work.count_outcome(tx, row.offer_id, right=False)
        self._look_back(tx, row.account_id, row.segment_id, code)
        segments.move(
            tx,
            row,
            SegmentState.REJECTED,
            reason=code.value,
            verdict=verdict,
            verdict_accepted=False,
            auditor=auditor,
            house_task="",
        )
        text = f"segment {row.segment_index} of {who(row.device_name, row.device_key_id)}: {code}"
        jobs.record(tx, row.job_id, EventKind.REJECTED, text, row.lease_id)
        return consequence is Consequence.SLASH

    def _put_away(
        self,
        tx: Transaction,
        row: SegmentRow,
        code: VerdictCode,
        *,
        slashed: bool,
        apart_from: str = "",
    ) -> None:
        """The device of a wrong segment gets no more work, for good or until it is tested again."""
        reason = f"{code} in segment {row.segment_index} of job {row.job_id}"
        put_away = self._ban if slashed else self._quarantine
        put_away(tx, row.device_key_id, code, reason, apart_from=apart_from)

    def _record(
        self, tx: Transaction, key_id: str, segment_id: int, kind: StrikeKind
    ) -> tuple[int, list[int]]:
        """How many segments a device delivered before one, and its strikes of a kind since the
        window of strikes began, by their units."""
        keys = self._device_keys(tx, key_id)
        unit = penalties.units(tx, keys, segment_id)
        since = unit - self._parameters.audit_rules.strike_window_units
        return unit, [item.unit for item in penalties.strikes(tx, keys, since) if item.kind is kind]

    def _strike(
        self,
        tx: Transaction,
        key_id: str,
        kind: StrikeKind,
        reason: str,
        *,
        segment_id: int = 0,
    ) -> None:
        """Note what a device did. Without a segment it is about the newest of its units."""
        account = self._account_of_key(tx, key_id)
        unit = penalties.units(tx, self._device_keys(tx, key_id), segment_id or 2**62)
        penalties.add_strike(
            tx,
            device_key_id=key_id,
            account_id=account,
            kind=kind,
            unit=unit,
            segment_id=segment_id,
            reason=str(reason),
        )
        self._decide_on(
            tx, DecisionKind.STRIKE, key_id, str(reason), f"{kind}, unit {unit}", segment_id
        )

    def _auditor_wrong(
        self,
        tx: Transaction,
        auditor_key_id: str,
        *,
        job_id: str,
        cause: str,
        signature: Signature | None = None,
    ) -> None:
        """The house found otherwise than an auditor: as a wrong segment of its own would be."""
        reason = "AUDITOR_WRONG"
        unit, flips = self._record(tx, auditor_key_id, 2**62, StrikeKind.FLIP)
        rules = self._parameters.audit_rules
        forgiven = signature is not None and (
            after_fault(rules, signature, unit, flips) is Consequence.QUARANTINE
        )
        account = self._account_of_key(tx, auditor_key_id)
        work.end_streak(tx, self._device_keys(tx, auditor_key_id))
        if forgiven:
            self._strike(tx, auditor_key_id, StrikeKind.FLIP, reason)
            self._look_back(tx, account, 0, reason)
            self._quarantine(tx, auditor_key_id, reason, f"{reason}: {cause}")
            return
        self._strike(tx, auditor_key_id, StrikeKind.AUDITOR_WRONG, reason)
        self._slash_stake(tx, auditor_key_id, reason, f"{reason}: {cause}", job_id, cause=cause)

    # --- stake --------------------------------------------------------------------------------

    def _slash_stake(
        self,
        tx: Transaction,
        key_id: str,
        code: str,
        why: str,
        job_id: str,
        segment_id: int = 0,
        *,
        cause: str = "silence",
    ) -> None:
        """Take the stake of a device's account for something that made no segment void."""
        account = self._account_of_key(tx, key_id)
        work.end_streak(tx, self._device_keys(tx, key_id))
        self._look_back(tx, account, segment_id, code)
        outcome = faults.slash(
            self._parameters.audit_rules,
            cause=cause,
            job_id=job_id,
            segment_id=segment_id,
            cheat=account,
            buyer=account,
            auditor="",
            funds=self._funds(tx, account, (), slashed=True),
            owed=Owed(),
        )
        ledger.execute_all(tx, outcome.transfers)
        self._tell_slash(tx, key_id, account, code, outcome, job_id, None)
        self._ban(tx, key_id, code, why)

    def _funds(
        self, tx: Transaction, cheat: str, own: Sequence[SegmentRow], *, slashed: bool
    ) -> Funds:
        """Take an account's whole stake, or only its pay for its ``own`` void segments, out of its
        hands."""
        if slashed:
            self._stop_bond_withdrawals(tx, cheat)
        held = held_pay.forfeit(tx, [row.segment_id for row in own])
        bond = ledger.free(tx, account_of(cheat, Balance.BOND))
        unsure = 0
        if slashed:
            unsure = held_pay.unsure(tx, cheat, self._house_keys(tx))
            held += held_pay.forfeit_all(tx, cheat)
        else:
            bond = min(bond, sum(row.to_bond_nano for row in own))
        return Funds(
            held_nano=held,
            bond_nano=bond,
            unsure_nano=unsure,
            fee_nano=ledger.free(tx, FEE),
            audit_nano=ledger.free(tx, AUDIT),
            reserve_nano=ledger.free(tx, RESERVE),
        )

    def _stop_bond_withdrawals(self, tx: Transaction, account_id: str) -> None:
        """A bond that is about to be paid out is at stake until it is."""
        bond = account_of(account_id, Balance.BOND)
        asked = withdrawals.page(
            tx, account_id, pending_only=True, after=None, limit=MAX_OPEN_WITHDRAWALS
        )
        for row in asked:
            pending = ledger.find(tx, row.withdrawal_id)
            if pending is not None and pending.debit == bond:
                closing = escrow.close_pending(pending, paid=False, reference="SLASHED")
                ledger.execute(tx, closing)
                withdrawals.decide(tx, row.withdrawal_id, WithdrawalState.REJECTED, "SLASHED", None)

    def _finder(self, tx: Transaction, auditor: str, cheat: str) -> str:
        """The account that is rewarded for finding a fault; empty for the house."""
        account = self._account_of_key(tx, auditor) if auditor else ""
        return "" if account == cheat else account

    def _tell_slash(
        self,
        tx: Transaction,
        key_id: str,
        account: str,
        code: str,
        outcome: faults.Slash,
        job_id: str,
        row: SegmentRow | None,
    ) -> None:
        segment_id = 0 if row is None else row.segment_id
        detail = f"{self._money(outcome.forfeited_nano)} of job {job_id}"
        self._decide_on(tx, DecisionKind.SLASH, account, str(code), detail, segment_id)
        name = who(row.device_name, key_id) if row is not None else f"device {key_id[:8]}"
        text = f"{name} forfeits {self._money(outcome.forfeited_nano)}"
        back = outcome.refund_nano + outcome.returned_nano
        if row is not None:
            text += f", {self._money(back)} is for the buyer"
        jobs.record(tx, job_id, EventKind.SLASHED, text, key_id)

    # --- looking back, quarantine, ban --------------------------------------------------------

    def _look_back(self, tx: Transaction, account_id: str, but: int, code: str) -> list[int]:
        """Put everything that an account may still lose up for the house; which segments."""
        kept_since = tx.now_us - self._parameters.artifact_retention_us
        found = held_pay.look_back(tx, account_id, but, self._house_keys(tx), kept_since)
        if found:
            detail = f"{len(found)} segments are recomputed by the house"
            self._decide_on(tx, DecisionKind.LOOK_BACK, account_id, str(code), detail, but)
            self._look_back_by_steps(tx, found)
        return found

    def _house_keys(self, tx: Transaction) -> set[str]:
        """Keys whose verdicts are the operator's own."""
        return {*audits.house_keys(tx), self._key.key_id, "house"}

    def _quarantine(
        self, tx: Transaction, key_id: str, code: str, reason: str, *, apart_from: str = ""
    ) -> None:
        """The device is offered again later, and works again once it has passed a challenge; what
        it has now is taken from it."""
        until_us = tx.now_us + self._parameters.quarantine_us
        penalties.quarantine(tx, key_id, reason, until_us)
        self._decide_on(tx, DecisionKind.QUARANTINE, key_id, str(code), reason, 0)
        for each in self._device_keys(tx, key_id):
            for offer in work.listed_offers(tx, each):
                known = benchmarks.standing(tx, offer.offer_id)
                if known is not None:
                    fresh = quarantined(known, reason, until_us)
                    benchmarks.put_standing(tx, offer.offer_id, fresh)
            self._stop(tx, each, RevokeReason.QUARANTINED, reason, apart_from)

    def _check_quarantine(self, tx: Transaction, key_id: str, offered_at_us: int) -> None:
        """An offer that was signed after the quarantine is listed; :class:`Forbidden` before.

        What ends a quarantine is a challenge that is passed afterwards; where nobody is challenged,
        the offer does.
        """
        for each in self._device_keys(tx, key_id):
            found = penalties.in_quarantine(tx, each)
            if found is None:
                continue
            if offered_at_us < found.until_us:
                seconds = -(-(found.until_us - tx.now_us) // SECOND_US)
                raise Forbidden(
                    f"the device is in quarantine for {max(seconds, 0)} s more: {found.reason}",
                    code="DEVICE_QUARANTINED",
                    hint="admit and measure it again, `flop worker bench`, then offer it",
                )
            if not self._parameters.benchmark_required:
                penalties.lift(tx, each)

    def _ban(
        self, tx: Transaction, key_id: str, code: str, reason: str, *, apart_from: str = ""
    ) -> None:
        """The device acts no more: offers gone, leases in every job revoked."""
        banned = identity.ban_key(tx, key_id, reason)
        self._decide_on(tx, DecisionKind.BAN, key_id, str(code), reason, 0)
        for each in banned:
            self._stop(tx, each, RevokeReason.KEY_BANNED, reason, apart_from)

    def _stop(
        self, tx: Transaction, key_id: str, why: RevokeReason, reason: str, apart_from: str
    ) -> None:
        """No offers and no leases; the job ``apart_from`` is looked after by the caller."""
        work.unlist_offers(tx, key_id)
        for lease in work.live_leases_of_key(tx, key_id):
            self._end_lease(tx, lease, LeaseState.REVOKED, why, reason)
            if lease.job_id != apart_from:
                self._after_lease(tx, lease)

    def _decide_on(
        self,
        tx: Transaction,
        kind: DecisionKind,
        subject: str,
        reason: str,
        detail: str,
        segment_id: int,
    ) -> None:
        decisions.record(
            tx,
            kind,
            subject,
            actor=self._key.key_id,
            cause=f"segment {segment_id}" if segment_id else "",
            reason=reason,
            detail=detail,
        )
