"""What stands behind a ruling without a dispute of lists, as a file, checked by anybody, offline.

Arbitrations of a class: the signed and opened answers of everybody who took part, counted again.
Step audits: the worker's signed claim, and that the steps follow from it. In both, once the job has
ended, the draw that chose who or what was looked at. A segment that the house alone rejected: the
worker's signed words and the coordinator's verdict about them. JSON, one object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import MAX_AUDIT_ROUNDS, MAX_RULING_FILE_BYTES
from flopmarket.trust.arbitration import Outcome
from flopmarket.trust.arbitration_records import check_arbitrated
from flopmarket.trust.audit_answers import Answered, AuditorAnswer, opened
from flopmarket.trust.audit_policy import AuditRules
from flopmarket.trust.audit_records import (
    DrawnSegment,
    LeaseAudits,
    answer_content,
    answer_of,
    check_commitment,
    lease_content,
    lease_of,
)
from flopmarket.trust.challenge import (
    AuditorList,
    ChallengeRecord,
    ChallengeTerms,
    Finding,
    FindingCode,
    Purpose,
    auditors,
    draw,
    rederive_one,
)
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import DIGEST_BYTES, decode, digest
from flopmarket.trust.json_fields import text_of
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket.trust.step_audit import StepClaim, check_claim
from flopmarket.trust.step_records import Stepped, check_steps

FILE_TYPE = "flopmarket-ruling-1"


@dataclass(frozen=True, slots=True)
class RulingRecord:
    """``reason`` is the code that the coordinator gives (:mod:`flopmarket.trust.reason_codes`).

    ``segment`` is what was decided about; its verdict is the ruling's own, empty where its worker
    was not found wrong, and its ``record`` is empty. ``witnesses`` answered it before and agreed
    with its worker. ``draws`` is the lease whose draw chose who or what was looked at, with the
    drawn commitment alone; None until the job has ended.
    """

    ruling_id: str
    kind: str
    reason: str
    segment: DrawnSegment
    witnesses: tuple[AuditorAnswer, ...] = ()
    draws: LeaseAudits | None = None

    @property
    def outcome(self) -> str:
        """Who the coordinator says is wrong: producer-wrong, auditor-wrong or undecided."""
        if self.segment.arbitration is not None:
            return self.segment.arbitration.outcome
        return Outcome.PRODUCER_WRONG if self.segment.verdict else Outcome.UNDECIDED


@dataclass(frozen=True, slots=True)
class Voice:
    """What somebody signed that it came to: ``part`` is producer, auditor, witness or arbiter."""

    part: str
    key_id: str
    house: bool
    state_root: bytes
    outputs_root: bytes


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A draw that was read. ``order`` are the keys in the order in which it puts them."""

    terms: ChallengeTerms
    candidates: AuditorList
    house: AuditorList
    record: ChallengeRecord
    order: tuple[str, ...]


def voices(found: RulingRecord, coordinator: PublicKey) -> tuple[Voice, ...]:
    """Who said what, the worker first. Raises what reading signed words raises."""
    item, decided = found.segment, found.segment.arbitration
    house = decided.house_accounts if decided is not None else ()
    spoken = [("producer", item.worker_key, item.worker_account, item.commitment)]
    others = [] if decided is None else [("auditor", decided.auditor)]
    others += [("witness", answer) for answer in found.witnesses]
    others += [("arbiter", answer) for answer in (decided.arbiters if decided else ())]
    spoken += [(part, it.public_key, it.account_id, it.commitment) for part, it in others]
    told = []
    for part, raw, account, commitment in spoken:
        key = PublicKey(raw)
        body = opened(commitment, Commitment, key, coordinator)
        ends = (body.state_root_after, body.outputs_root)
        told.append(Voice(part, key.key_id, account in house, *ends))
    return tuple(told)


def check_ruling(found: RulingRecord, coordinator: PublicKey) -> tuple[Finding, ...]:
    """Everything in a record that does not follow from what was signed; empty when all does.

    ``coordinator`` is the key that signed; the caller knows why it trusts that it is the market's.
    """
    try:
        return tuple(_check(found, coordinator))
    except FlopmarketError as error:
        return (Finding(0, FindingCode.UNREADABLE, error.message),)


def _check(found: RulingRecord, coordinator: PublicKey) -> Iterator[Finding]:
    item = found.segment
    worker = PublicKey(item.worker_key)
    claim = opened(item.commitment, Commitment, worker, coordinator)
    verdict = None
    if item.verdict:
        verdict = opened(item.verdict, SegmentVerdict, coordinator, coordinator)
        if verdict.commitment_digest != digest(claim):
            message = "the verdict is about another commitment"
            yield Finding(0, FindingCode.VERDICT_DIFFERS, message)
        if verdict.accepted or verdict.reason_code != found.reason:
            message = f"the verdict says {verdict.reason_code}, the coordinator {found.reason[:40]}"
            yield Finding(0, FindingCode.VERDICT_DIFFERS, message)
    drawn, wrong = (None, ()) if found.draws is None else _read_draw(found.draws, coordinator)
    yield from wrong
    nothing = ChallengeRecord(0, digest(claim), 0, 0, bytes(DIGEST_BYTES), 0, False, ())
    record = nothing
    if drawn is not None:  # whether or not the segment was drawn, who is asked follows from it
        record = replace(drawn.record, audited=True, auditors=drawn.order)
    if found.kind == "arbitration":
        asked = Answered(record, claim, worker, item.worker_account, item.state, "", verdict)
        if item.arbitration is None:
            yield Finding(0, FindingCode.ARBITRATION_DIFFERS, "nobody's answer is shown")
            return
        house = () if drawn is None else drawn.house.keys
        yield from check_arbitrated(item.arbitration, found.witnesses, asked, house, coordinator)
        opening = item.arbitration.auditor.worker_opening
        if opening:
            secret = opened(opening, InnerSecret, worker, coordinator)
            if seal_inner(secret) != claim.sealed_inner or secret.device_key_id != worker.key_id:
                message = "the worker's opening is not what its commitment hides"
                yield Finding(0, FindingCode.OPENING_DIFFERS, message)
    elif item.steps is not None:
        check_claim(opened(item.steps.claim, StepClaim, worker, coordinator), claim)
        if drawn is not None:
            stepped = Stepped(
                drawn.record, item.commitment, item.worker_key, item.verdict, item.steps
            )
            terms, lists = drawn.terms, (drawn.candidates, drawn.house)
            yield from check_steps(terms, *lists, [stepped], coordinator)


def _read_draw(
    lease: LeaseAudits, coordinator: PublicKey
) -> tuple[_Drawn | None, tuple[Finding, ...]]:
    """The draw of a lease's one commitment, and what is wrong with it."""
    terms = opened(lease.terms, ChallengeTerms, coordinator, coordinator)
    rules = decode(AuditRules, lease.rules)
    candidates, house = decode(AuditorList, lease.candidates), decode(AuditorList, lease.house)
    if len(lease.segments) != 1 or terms.lease_id != lease.lease_id:
        message = "it is not the draw of one commitment of this lease"
        return None, (Finding(0, FindingCode.TERMS_DIFFER, message),)
    item = lease.segments[0]
    record = decode(ChallengeRecord, item.record)
    findings = rederive_one(terms, rules, candidates, house, record)
    findings += tuple(check_commitment(item, record, terms, coordinator))
    x = draw(Purpose.AUDIT, record.value, record.commitment)
    order = tuple(islice(auditors(x, rules, candidates.keys, house.keys), MAX_AUDIT_ROUNDS))
    return _Drawn(terms, candidates, house, record, order), findings


# --- the file -------------------------------------------------------------------------------------


def to_file(found: RulingRecord, coordinator_key: bytes) -> bytes:
    """A record as a file, with the raw key of the coordinator that signed."""
    decided = LeaseAudits("", b"", b"", b"", b"", (found.segment,))
    content = {
        "type": FILE_TYPE,
        "ruling_id": found.ruling_id,
        "kind": found.kind,
        "reason": found.reason,
        "coordinator_key": coordinator_key.hex(),
        "decided": lease_content(decided),
        "witnesses": [answer_content(answer) for answer in found.witnesses],
        "draws": None if found.draws is None else lease_content(found.draws),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def is_ruling_file(data: bytes) -> bool:
    """Whether a file is of this type and no transcript of a dispute, which begins otherwise."""
    return data[:1] == b"{"


def from_file(data: bytes) -> tuple[RulingRecord, PublicKey]:
    """The record of a file and the coordinator's key that it names; :class:`InvalidInput`
    ``RULING_FILE`` or ``AUDIT_FILE`` for anything else. Nothing is checked (:func:`check_ruling`).
    """
    if len(data) > MAX_RULING_FILE_BYTES:
        raise _malformed(f"more than {MAX_RULING_FILE_BYTES} bytes")
    try:
        content: Any = json.loads(data)
        if content["type"] != FILE_TYPE:
            raise _malformed("it is of another type")
        (segment,) = lease_of(content["decided"]).segments
        witnesses = [answer_of(item) for item in content["witnesses"]]
        found = RulingRecord(
            text_of(content["ruling_id"]),
            text_of(content["kind"]),
            text_of(content["reason"]),
            segment,
            tuple(answer for answer in witnesses if answer is not None),
            None if content["draws"] is None else lease_of(content["draws"]),
        )
        return found, PublicKey(bytes.fromhex(text_of(content["coordinator_key"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def _malformed(message: str) -> InvalidInput:
    return InvalidInput(
        f"not a file of a ruling: {message}",
        code="RULING_FILE",
        hint="make one with `flop dispute fetch ID`",
    )
