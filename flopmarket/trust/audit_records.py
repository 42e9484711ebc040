"""What a coordinator publishes about the audits of a job, and its check by anybody, offline.

Of every lease: its signed terms with the rules and lists that they name. Of every commitment: the
commitment itself, the record of its draw, the verdict if there is one, and what an auditor of
another account answered. :func:`check` repeats every decision
(:func:`flopmarket.trust.challenge.rederive`) and holds the records to the documents that were
signed at the time. A file of it is JSON lines, a lease with its commitments each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import MAX_AUDIT_FILE_LINE_BYTES
from flopmarket.trust.arbitration_records import (
    Arbitrated,
    check_arbitrated,
    speaks_for_arbiter,
)
from flopmarket.trust.audit_answers import Answered, AuditorAnswer, check_answer, opened
from flopmarket.trust.audit_policy import AuditRules
from flopmarket.trust.challenge import (
    AuditorList,
    ChallengeRecord,
    ChallengeTerms,
    Finding,
    FindingCode,
    rederive,
)
from flopmarket.trust.cross_draws import Audited, CrossDraw, check_cross_draws
from flopmarket.trust.documents import Commitment, SegmentVerdict
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.envelope import Envelope, keys_by_id, payload_type_of, verify_signature
from flopmarket.trust.json_fields import base64_of, bytes_of, text_of
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.step_records import Stepped, StepsDrawn, check_steps

FORMAT = "flopmarket-audits-1"


@dataclass(frozen=True, slots=True)
class DrawnSegment:
    """One commitment of a lease. ``record`` is an encoded ChallengeRecord, envelopes are in their
    binary form, ``verdict`` is empty without one; ``state`` is what the segment is now.
    """

    segment_index: int
    state: str
    auditor: str
    record: bytes
    commitment: bytes
    worker_key: bytes
    verdict: bytes
    answer: AuditorAnswer | None = None
    """What a worker of another account answered; None where the house alone looked."""
    worker_account: str = ""
    """The account that the worker's key acted for; empty in an older file."""
    cross: CrossDraw | None = None
    """What was drawn about that answer; None where nothing was to be drawn."""
    arbitration: Arbitrated | None = None
    """How its class decided where a worker and an auditor differed."""
    steps: StepsDrawn | None = None
    """What its worker answered about single steps; None where nobody asked, or it did not."""


@dataclass(frozen=True, slots=True)
class LeaseAudits:
    """One lease as published; ``rules`` and the lists are encoded documents."""

    lease_id: str
    terms: bytes
    rules: bytes
    candidates: bytes
    house: bytes
    segments: tuple[DrawnSegment, ...]


@dataclass(frozen=True, slots=True)
class LeaseFinding:
    """A contradiction and where it is."""

    lease_id: str
    finding: Finding

    def __str__(self) -> str:
        """One line for a person."""
        found = self.finding
        place = f"commitment {found.index}" if found.index else "terms"
        return f"lease {self.lease_id[:16]} {place}: {found.code}: {found.message}"


def check(leases: Sequence[LeaseAudits], coordinator: PublicKey) -> tuple[LeaseFinding, ...]:
    """Everything that contradicts itself; empty when all decisions follow from what was signed.

    ``coordinator`` is the key that signed; the caller knows why it trusts that it is the market's.
    """
    return tuple(
        LeaseFinding(lease.lease_id, finding)
        for lease in leases
        for finding in _check_lease(lease, coordinator)
    )


def _check_lease(lease: LeaseAudits, coordinator: PublicKey) -> Iterator[Finding]:
    try:
        terms = opened(lease.terms, ChallengeTerms, coordinator, coordinator)
        rules = decode(AuditRules, lease.rules)
        candidates = decode(AuditorList, lease.candidates)
        house = decode(AuditorList, lease.house)
        records = [decode(ChallengeRecord, item.record) for item in lease.segments]
    except FlopmarketError as error:
        yield Finding(0, FindingCode.UNREADABLE, error.message)
        return
    if terms.lease_id != lease.lease_id:
        yield Finding(0, FindingCode.TERMS_DIFFER, f"the terms are of lease {terms.lease_id!r}")
    yield from rederive(terms, rules, candidates, house, records)
    verdicts = 0
    for item, record in zip(lease.segments, records, strict=True):
        yield from check_commitment(item, record, terms, coordinator)
        yield from _check_verdict(item, record, coordinator)
        yield from _check_answer(item, record, house, coordinator)
        if record.right_verdicts > verdicts:
            message = f"{record.right_verdicts} right verdicts before it; {verdicts} are published"
            yield Finding(record.index, FindingCode.VERDICTS_IMPOSSIBLE, message)
        verdicts += record.audited and bool(item.verdict)
    audited = [
        Audited(record, item.answer, item.cross)
        for item, record in zip(lease.segments, records, strict=True)
    ]
    yield from check_cross_draws(terms, rules, audited, coordinator)
    stepped = [
        Stepped(record, item.commitment, item.worker_key, item.verdict, item.steps)
        for item, record in zip(lease.segments, records, strict=True)
    ]
    yield from check_steps(terms, candidates, house, stepped, coordinator)


def check_commitment(
    item: DrawnSegment, record: ChallengeRecord, terms: ChallengeTerms, coordinator: PublicKey
) -> Iterator[Finding]:
    """Everything in which a record is not about what the worker of the lease signed."""

    def differs(message: str) -> Finding:
        return Finding(record.index, FindingCode.COMMITMENT_DIFFERS, message)

    try:
        worker = PublicKey(item.worker_key)
        body = opened(item.commitment, Commitment, worker, coordinator)
    except FlopmarketError as error:
        yield differs(error.message)
        return
    if worker.key_id != terms.device_key_id:
        yield differs(f"signed by {worker.key_id[:16]}, not by the worker of the lease")
    if digest(body) != record.commitment:
        yield differs("the record names another commitment")
    if (body.lease_id, body.segment_index) != (terms.lease_id, item.segment_index):
        yield differs(f"it is of lease {body.lease_id!r}, segment {body.segment_index}")


def _check_verdict(
    item: DrawnSegment, record: ChallengeRecord, coordinator: PublicKey
) -> Iterator[Finding]:
    """A paid segment that was drawn has a verdict, and verdicts are what the coordinator signed."""
    if not item.verdict:
        if record.audited and item.state == "settled":
            message = "it was drawn and paid, and there is no verdict"
            yield Finding(record.index, FindingCode.VERDICT_MISSING, message)
        return
    try:
        envelope = Envelope.from_bytes(item.verdict)
        verify_signature(envelope, keys_by_id(coordinator))
        if envelope.payload_type != payload_type_of(SegmentVerdict):
            return  # of a dispute: its transcript is a file of its own
        body = opened(item.verdict, SegmentVerdict, coordinator, coordinator)
    except FlopmarketError as error:
        yield Finding(record.index, FindingCode.VERDICT_DIFFERS, error.message)
        return
    if body.commitment_digest != record.commitment:
        message = "the verdict is about another commitment"
        yield Finding(record.index, FindingCode.VERDICT_DIFFERS, message)
    if item.state == "settled" and not body.accepted:
        message = f"it is paid and the verdict says {body.reason_code}"
        yield Finding(record.index, FindingCode.VERDICT_DIFFERS, message)


def _check_answer(
    item: DrawnSegment, record: ChallengeRecord, house: AuditorList, coordinator: PublicKey
) -> Iterator[Finding]:
    """The auditor's own words; what cannot be read of the worker's was found before."""
    try:
        worker = PublicKey(item.worker_key)
        claim = opened(item.commitment, Commitment, worker, coordinator)
        verdict = None
        if item.verdict:
            envelope = Envelope.from_bytes(item.verdict)
            if envelope.payload_type == payload_type_of(SegmentVerdict):
                verdict = opened(item.verdict, SegmentVerdict, coordinator, coordinator)
    except FlopmarketError:
        return
    asked = Answered(record, claim, worker, item.worker_account, item.state, item.auditor, verdict)
    decided = item.arbitration
    witnesses = () if item.answer is None else (item.answer,)
    yield from check_arbitrated(decided, witnesses, asked, house.keys, coordinator)
    if decided is not None and speaks_for_arbiter(decided, asked):
        asked = replace(asked, verdict=None)  # it was held to all who took part
    yield from check_answer(item.answer, asked, coordinator)


# --- the file -------------------------------------------------------------------------------------

_LEASE_BLOBS = ("terms", "rules", "candidates", "house")
_SEGMENT_BLOBS = ("record", "commitment", "worker_key", "verdict")
_ANSWER_BLOBS = ("public_key", "commitment", "opening", "worker_opening")
_STEPS_BLOBS = ("value", "claim", "answer")
_CROSS_BLOBS = ("record", "answer", "auditor_key")


def to_line(lease: LeaseAudits) -> bytes:
    """A lease as one line of a file, its end included."""
    return json.dumps(lease_content(lease), sort_keys=True).encode() + b"\n"


def lease_content(lease: LeaseAudits) -> dict[str, Any]:
    """A lease as members of JSON."""
    segments = [
        {
            "segment_index": item.segment_index,
            "state": item.state,
            "auditor": item.auditor,
            **{name: base64_of(getattr(item, name)) for name in _SEGMENT_BLOBS},
            "answer": answer_content(item.answer),
            "worker_account": item.worker_account,
            "cross": _cross_content(item.cross),
            "arbitration": _arbitration_content(item.arbitration),
            "steps": _steps_content(item.steps),
        }
        for item in lease.segments
    ]
    blobs = {name: base64_of(getattr(lease, name)) for name in _LEASE_BLOBS}
    return {"format": FORMAT, "lease_id": lease.lease_id, **blobs, "segments": segments}


def from_line(line: bytes) -> LeaseAudits:
    """The lease of one line; :class:`InvalidInput` ``AUDIT_FILE`` for anything else."""
    if len(line) > MAX_AUDIT_FILE_LINE_BYTES:
        raise _malformed(f"a line of more than {MAX_AUDIT_FILE_LINE_BYTES} bytes")
    try:
        return lease_of(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def lease_of(content: Any) -> LeaseAudits:
    """The lease of such members; :class:`InvalidInput` ``AUDIT_FILE`` for anything else."""
    try:
        if content["format"] != FORMAT:
            raise _malformed(f"format {str(content['format'])[:40]!r}")
        segments = tuple(
            DrawnSegment(
                segment_index=_number(item["segment_index"]),
                state=text_of(item["state"]),
                auditor=text_of(item["auditor"]),
                record=bytes_of(item["record"]),
                commitment=bytes_of(item["commitment"]),
                worker_key=bytes_of(item["worker_key"]),
                verdict=bytes_of(item["verdict"]),
                answer=answer_of(item.get("answer")),
                worker_account=text_of(item.get("worker_account", "")),
                cross=_cross(item.get("cross")),
                arbitration=_arbitration(item.get("arbitration")),
                steps=_steps(item.get("steps")),
            )
            for item in content["segments"]
        )
        terms, rules, candidates, house = (bytes_of(content[name]) for name in _LEASE_BLOBS)
        lease_id = text_of(content["lease_id"])
        return LeaseAudits(lease_id, terms, rules, candidates, house, segments)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def answer_content(answer: AuditorAnswer | None) -> dict[str, str] | None:
    """An answer as members of JSON."""
    if answer is None:
        return None
    blobs = {name: base64_of(getattr(answer, name)) for name in _ANSWER_BLOBS}
    return {"account_id": answer.account_id, **blobs}


def answer_of(content: Any) -> AuditorAnswer | None:
    """None too in a file of before there were answers."""
    if content is None:
        return None
    blobs = (bytes_of(content[name]) for name in _ANSWER_BLOBS)
    return AuditorAnswer(text_of(content["account_id"]), *blobs)


def _arbitration_content(found: Arbitrated | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "outcome": found.outcome,
        "auditor": answer_content(found.auditor),
        "arbiters": [answer_content(answer) for answer in found.arbiters],
        "house_accounts": list(found.house_accounts),
    }


def _arbitration(content: Any) -> Arbitrated | None:
    if content is None:
        return None
    first = answer_of(content["auditor"])
    others = [answer_of(item) for item in content["arbiters"]]
    if first is None or None in others:
        raise TypeError("an answer is missing")
    return Arbitrated(
        text_of(content["outcome"]),
        first,
        tuple(answer for answer in others if answer is not None),
        tuple(text_of(account) for account in content["house_accounts"]),
    )


def _steps_content(steps: StepsDrawn | None) -> dict[str, Any] | None:
    if steps is None:
        return None
    return {
        "number": steps.number,
        **{name: base64_of(getattr(steps, name)) for name in _STEPS_BLOBS},
    }


def _steps(content: Any) -> StepsDrawn | None:
    if content is None:
        return None
    blobs = (bytes_of(content[name]) for name in _STEPS_BLOBS)
    return StepsDrawn(_number(content["number"]), *blobs)


def _cross_content(cross: CrossDraw | None) -> dict[str, str] | None:
    if cross is None:
        return None
    return {
        "outcome": cross.outcome,
        **{name: base64_of(getattr(cross, name)) for name in _CROSS_BLOBS},
    }


def _cross(content: Any) -> CrossDraw | None:
    if content is None:
        return None
    record, answer, key = (bytes_of(content[name]) for name in _CROSS_BLOBS)
    return CrossDraw(record, answer, key, text_of(content["outcome"]))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a number is missing")
    return value


def _malformed(message: str) -> InvalidInput:
    return InvalidInput(
        f"not a file of audits: {message}",
        code="AUDIT_FILE",
        hint="make one with `flop job audits JOB --json`",
    )
