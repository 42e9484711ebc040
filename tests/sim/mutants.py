"""Small bugs planted in the real code, to see that the laws would notice.

Each is one change, in place for as long as a run: a check left out, an amount off by one, a
consequence forgotten. :func:`tests.sim.planting.hunt` plays seeds until a law breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust import sealing
from flopmarket_coordinator.application import (
    Application,
    auditing,
    judging,
    paying,
    sampling,
    settling,
    working,
)
from flopmarket_coordinator.core import escrow, faults
from flopmarket_coordinator.core.leasing import CommitCode
from flopmarket_coordinator.core.lifecycle import LeaseState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import challenges, identity, jobs, segments, work
from tests.sim.bots import FalseOpener, Parrot
from tests.sim.class_mutants import CLASS_MUTANTS
from tests.sim.planting import Mutant, all_of, instead
from tests.sim.step_mutants import STEP_MUTANTS

# --- commitments ----------------------------------------------------------------------------------


def _without(code: CommitCode) -> Callable[[Any], Any]:
    """The check of commitments without one of its refusals. What comes after it goes, too."""

    def make(original: Any) -> Any:
        def check(job: Any, lease: Any, body: Any) -> None:
            try:
                original(job, lease, body)
            except working._Refusal as refusal:
                if refusal.code is not code:
                    raise

        return check

    return make


def _ended_leases_run(original: Any) -> Any:
    return lambda job, lease, body: original(job, replace(lease, state=LeaseState.RUNNING), body)


def _any_device(original: Any) -> Any:
    """A commitment counts for whatever lease it names."""

    def commit(self: Any, tx: Any, session: Any, signer: str, commit: Any, body: Any) -> Any:
        lease = work.lease(tx, body.lease_id)
        if lease is None:
            return original(self, tx, session, signer, commit, body)
        key = lease.device_key_id
        session, body = replace(session, key_id=key), replace(body, device_key_id=key)
        return original(self, tx, session, key, commit, body)

    return commit


def _unknown_commitments(original: Any) -> Any:
    return lambda tx, digest: None


# --- money ----------------------------------------------------------------------------------------


def _settle(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``settle_segment`` with some arguments changed."""

    def make(original: Any) -> Any:
        def settle(**given: Any) -> Any:
            return original(**given | {name: run(given) for name, run in changes.items()})

        return settle

    return make


def _hold_again(original: Any) -> Any:
    """The hold that was just resolved is kept as the one to resolve next."""

    def settle(**given: Any) -> Any:
        done = original(**given)
        return replace(done, hold=given["hold"]) if done.hold else done

    return settle


def _twice(pick: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Some transfers of a slash happen twice."""

    def make(original: Any) -> Any:
        def slash(*arguments: Any, **given: Any) -> Any:
            done = original(*arguments, **given)
            again = tuple(
                replace(item, transfer_id=item.transfer_id + "-again")
                for item in done.transfers
                if pick(item)
            )
            return replace(done, transfers=(*done.transfers, *again))

        return slash

    return make


def _to_available(item: Any) -> bool:
    return str(item.credit).endswith("/available")


def _all_leaves(original: Any) -> Any:
    """The buyer has the stake, whatever its damage was."""

    def split(rules: Any, stake: int, void: int, owed: int = 0) -> Any:
        most_ppm = PARTS_PER_MILLION - rules.auditor_ppm
        return original(replace(rules, refund_ppm=most_ppm), stake, stake, owed)

    return split


# --- what follows ---------------------------------------------------------------------------------


def _nothing(original: Any) -> Any:
    return lambda *arguments, **more: None


def _none_of(original: Any) -> Any:
    return lambda *arguments, **more: []


def _no_tuple(original: Any) -> Any:
    return lambda *arguments, **more: ()


def _streak_stays(original: Any) -> Any:
    return lambda tx, offer_id, *, right: original(tx, offer_id, right=True)


def _drawn_pass_on_files(original: Any) -> Any:
    """What was drawn counts as soon as its files were read."""

    def record_of(tx: Any, segment_id: int) -> Any:
        record = original(tx, segment_id)
        return None if record is None else replace(record, audited=False)

    return record_of


def _files_are_right(original: Any) -> Any:
    def judge(claimed: Any, found: Any) -> VerdictCode:
        code: VerdictCode = original(claimed, found)
        files = (VerdictCode.OUTPUTS_FILE_DIFFERS, VerdictCode.CHECKPOINT_FILE_DIFFERS)
        return VerdictCode.EQUAL if code in files else code

    return judge


def _all_equal(original: Any) -> Any:
    return lambda claimed, found: VerdictCode.EQUAL


def _accuses(original: Any) -> Any:
    """One outputs root in sixteen is read wrongly."""

    def judge(claimed: Any, found: Any) -> VerdictCode:
        if claimed.outputs_root[0] < 16:
            return VerdictCode.OUTPUTS_DIFFER
        return VerdictCode(original(claimed, found))

    return judge


def _own_draw(original: Any) -> Any:
    """The draw looks at the commitment alone."""
    return lambda purpose, value, subject: original(purpose, bytes(32), subject)


def _other_rate(original: Any) -> Any:
    return lambda rules, level, streak, *more: original(rules, level, streak + 100, *more)


def _anybody(original: Any) -> Any:
    """Candidates, whoever they belong to."""
    return lambda self, tx, job, account, unit: original(self, tx, job, "", unit)


def _lease_to_anybody(original: Any) -> Any:
    return lambda self, tx, audit, row, key_id: original(
        self, tx, audit, replace(row, account_id=""), key_id
    )


def _durable_already(original: Any) -> Any:
    """Pay does not wait for a checkpoint."""
    return lambda following, checked, *, stateless, every: original(
        following, checked, stateless=stateless, every=True
    )


def _never_void(original: Any) -> Any:
    def void(self: Any, tx: Any, rows: Any, reason: Any) -> None:
        """The first of the rows is forgotten."""
        original(self, tx, list(rows)[1:], reason)

    return void


def _same_fence(original: Any) -> Any:
    def update(tx: Any, job_id: str, **values: Any) -> None:
        if set(values) == {"fence"}:
            values = {"fence": max(values["fence"] - 1, 1)}
        original(tx, job_id, **values)

    return update


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "no-fence-check", instead(working, "_check_commitment", _without(CommitCode.STALE_FENCE))
    ),
    Mutant("ended-leases-commit", instead(working, "_check_commitment", _ended_leases_run)),
    Mutant(
        "range-unchecked", instead(working, "_check_commitment", _without(CommitCode.WRONG_RANGE))
    ),
    Mutant(
        "start-state-unchecked",
        instead(working, "_check_commitment", _without(CommitCode.WRONG_STATE)),
    ),
    Mutant(
        "anybody-commits",
        all_of(
            instead(Application, "_commit", _any_device),
            instead(work, "may_read", lambda original: lambda *given: True),
        ),
    ),
    Mutant("repeated-commitment-is-new", instead(segments, "of_commitment", _unknown_commitments)),
    Mutant(
        "nonce-reused",
        instead(identity.StoredReplayCache, "remember", lambda original: lambda *given: True),
    ),
    Mutant("request-answered-anew", instead(identity, "answered", _nothing)),
    Mutant(
        "escrow-off-by-one",
        instead(escrow, "settle_segment", _settle(price_nano=lambda g: g["price_nano"] - 1)),
    ),
    Mutant(
        "fee-off-by-one",
        instead(
            paying,
            "split_fee",
            lambda original: (
                lambda price, ppm: replace(
                    (split := original(price, ppm)), worker_nano=split.worker_nano - 1
                )
            ),
        ),
    ),
    Mutant("hold-resolved-twice", instead(escrow, "settle_segment", _hold_again)),
    Mutant(
        "hold-kept-at-end",
        instead(
            escrow,
            "close_hold",
            lambda original: (
                lambda job, buyer, hold: replace(
                    original(job, buyer, hold), amount_nano=hold.amount_nano - 1
                )
            ),
        ),
    ),
    Mutant("refund-twice", instead(faults, "slash", _twice(_to_available))),
    Mutant(
        "slash-burns-money",
        instead(
            faults,
            "slash",
            lambda original: (
                lambda *a, **k: replace((done := original(*a, **k)), transfers=done.transfers[:-1])
            ),
        ),
    ),
    Mutant("auditor-never-paid", instead(Application, "_pay_auditor", _nothing)),
    Mutant("audit-pay-kept", instead(Application, "_free_audit_pay", _nothing)),
    Mutant("expiry-ignored", instead(work, "expired_leases", _none_of)),
    Mutant("ban-ignored", instead(identity, "ban_key", _none_of)),
    Mutant("banned-keep-leases", instead(Application, "_ban", _nothing)),
    Mutant("streak-never-reset", instead(work, "count_outcome", _streak_stays)),
    Mutant("rollback-forgets-what-was-built", instead(judging, "built_upon", _no_tuple)),
    Mutant("rollback-forgets-a-segment", instead(Application, "_void", _never_void)),
    Mutant("checkpoint-rule-skipped", instead(settling, "checked_run", _durable_already)),
    Mutant(
        "drawn-pays-without-verdict",
        instead(challenges, "record_of", _drawn_pass_on_files),
    ),
    Mutant("files-not-compared", instead(auditing, "judge", _files_are_right)),
    Mutant("audit-says-yes", instead(auditing, "judge", _all_equal)),
    Mutant("audit-accuses", instead(auditing, "judge", _accuses)),
    Mutant("draw-ignores-the-chain", instead(sampling, "draw", _own_draw)),
    Mutant("rate-by-reputation", instead(sampling, "rate_ppm", _other_rate)),
    Mutant(
        "auditor-of-the-same-account",
        all_of(
            instead(Application, "_candidates", _anybody),
            instead(Application, "_lease_audit", _lease_to_anybody),
        ),
    ),
    Mutant("fence-stands-still", instead(jobs, "update", _same_fence)),
    Mutant("no-look-back", instead(Application, "_look_back", _none_of)),
    Mutant(
        "opening-unchecked",
        instead(sealing, "_expect_opening", _nothing),
        bots=(FalseOpener, Parrot),
    ),
    Mutant(
        "follower-paid-unseen",
        instead(faults.Covered, "promised", lambda original: property(lambda self: False)),
    ),
    Mutant("whole-stake-leaves", instead(faults, "split_slash", _all_leaves)),
    *CLASS_MUTANTS,
    *STEP_MUTANTS,
)
"""All of them must be caught within 200 seeds."""
