"""Small bugs planted in what is special to classes of devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flopmarket.trust import arbitration
from flopmarket_coordinator.application import (
    Application,
    arbitrating,
    audit_leases,
)
from flopmarket_coordinator.application.audit_outcomes import AuditOutcomeUseCases
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.ledger import AUDIT, Balance, Purpose, account_of
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import audits, challenges, ledger
from tests.sim.planting import Mutant, all_of, instead
from tests.sim.seeds import CLASSES


def _each_key_its_own(original: Any) -> Any:
    """Whom a candidate belongs to is not looked at."""
    return lambda key_id, account, house: original(key_id, key_id, house)


def _whole_market(original: Any) -> Any:
    """Auditors of whatever class, and of none."""

    def auditors(tx: Any, lot: int, streak: int, most: int, device_class: str = "") -> Any:
        found = original(tx, lot, streak, most, device_class)
        return [*found, *original(tx, lot, streak, most)] if device_class else found

    return auditors


def _of_any_class(original: Any) -> Any:
    def could_run(demand: Any, offer: Any) -> Any:
        return original(replace(demand, mode=offer.modes[0], device_class=""), offer)

    return could_run


def _arbiters_have_time(original: Any) -> Any:
    """Nobody looks at the clock for an arbiter that was asked."""

    def due(tx: Any, limit: int, *, begin: bool) -> Any:
        return [
            row
            for row in original(tx, limit, begin=begin)
            if row.purpose is not AuditPurpose.ARBITER or row.phase is AuditPhase.DELAYED
        ]

    return due


def _undecided_counts(original: Any) -> Any:
    """What nobody could decide is paid like what was found right."""

    def void(self: Any, tx: Any, row: Any, reason: Any, **more: Any) -> Any:
        if reason == "CLASS_UNDECIDED" and row.state == "committed":
            self._accept(tx, row, self._audit_verdict(tx, row, "").to_bytes(), auditor="")
            return False
        return original(self, tx, row, reason, **more)

    return void


def _paid_and_void(original: Any) -> Any:
    """The worker of a unit that becomes void has something for its trouble."""

    def void(self: Any, tx: Any, row: Any, reason: Any, **more: Any) -> Any:
        worker, name = account_of(row.account_id, Balance.AVAILABLE), f"segment {row.segment_id}"
        given = (AUDIT, worker, row.price_nano, row.job_id, name)
        ledger.execute(tx, escrow.direct(Purpose.PAY, ("trouble", row.segment_id), *given))
        return original(self, tx, row, reason, **more)

    return void


def _undecided_pays_the_auditor(original: Any) -> Any:
    def undecided(self: Any, tx: Any, audit: Any, row: Any) -> None:
        self._pay_audit(tx, audit)
        original(self, tx, audit, row)

    return undecided


def _undecided_accuses(original: Any) -> Any:
    """Who differed from the worker answers for it, though nobody says that it was wrong."""

    def undecided(self: Any, tx: Any, audit: Any, row: Any) -> None:
        original(self, tx, audit, row)
        self._auditor_is_wrong(tx, audit, "undecided")

    return undecided


def _finders_share(original: Any) -> Any:
    def make_good(
        self: Any, tx: Any, job: Any, row: Any, fallen: Any, code: Any, **more: Any
    ) -> None:
        if code is VerdictCode.CLASS_OUTVOTED:
            code = VerdictCode.STATE_DIFFERS
        original(self, tx, job, row, fallen, code, **more)

    return make_good


def _nothing(original: Any) -> Callable[..., None]:
    return lambda *arguments, **more: None


def _parent_alone(original: Any) -> Any:
    """An audit that is dropped is forgotten with its own promise, not with its arbiters'."""
    return AuditOutcomeUseCases._drop_audit


def _none_of(original: Any) -> Callable[..., list[Any]]:
    return lambda *arguments, **more: []


def _number(value: int) -> Callable[[Any], int]:
    return lambda original: value


CLASS_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "arbiters-of-one-account",
        all_of(
            instead(arbitrating, "Candidate", _each_key_its_own),
            instead(audits, "of_segment", _none_of),
        ),
        only=CLASSES,
    ),
    Mutant("two-against-one", instead(arbitration, "EQUAL_ANSWERS", _number(2)), only=CLASSES),
    Mutant(
        "arbiter-of-another-class",
        all_of(
            instead(challenges, "auditors", _whole_market),
            instead(audit_leases, "could_run", _of_any_class),
        ),
        only=CLASSES,
    ),
    Mutant("no-deadline-for-arbiters", instead(audits, "due", _arbiters_have_time), only=CLASSES),
    Mutant("void-unit-paid", instead(Application, "_void_unit", _paid_and_void), only=CLASSES),
    Mutant(
        "undecided-unit-counts", instead(Application, "_void_unit", _undecided_counts), only=CLASSES
    ),
    Mutant(
        "undecided-auditor-paid",
        instead(Application, "_undecided", _undecided_pays_the_auditor),
        only=CLASSES,
    ),
    Mutant(
        "undecided-auditor-wrong",
        instead(Application, "_undecided", _undecided_accuses),
        only=CLASSES,
    ),
    Mutant(
        "votes-pay-the-finder", instead(Application, "_make_good", _finders_share), only=CLASSES
    ),
    Mutant("class-not-looked-back", instead(Application, "_audit_again", _nothing), only=CLASSES),
    Mutant(
        "promise-to-an-arbiter-kept",
        instead(Application, "_drop_audit", _parent_alone),
        only=CLASSES,
    ),
)
