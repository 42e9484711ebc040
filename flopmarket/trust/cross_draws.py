"""Whether an audit is itself audited: what is published of these draws, and its check by anybody.

The draw comes after the auditor's seal: ``x = H(value || auditor's commitment digest)``, with a
value of a chain whose anchor the lease names (``ChallengeTerms.cross_anchor``). The auditor could
not know it when it answered, and the coordinator could not change it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from flopmarket.errors import FlopmarketError
from flopmarket.limits import MAX_AUDIT_CANDIDATES
from flopmarket.trust.audit_answers import AuditorAnswer, opened
from flopmarket.trust.audit_policy import AuditRules, Level
from flopmarket.trust.challenge import (
    ChallengeRecord,
    ChallengeTerms,
    Finding,
    FindingCode,
    Purpose,
    draw,
    is_drawn,
    leads_to,
)
from flopmarket.trust.documents import Commitment, KeyId
from flopmarket.trust.encoding import Digest, MaxLength, decode, digest, document
from flopmarket.trust.keys import PublicKey


@document("flopmarket.cross-record.v1")
class CrossRecord:
    """What was drawn about one auditor's answer. ``index`` counts those of a lease from one.

    ``commitment`` is the worker's, which was drawn for the audit; ``answer`` the auditor's.
    ``auditors`` are those who are asked then, in this order: whoever stood behind the first one.
    """

    index: int
    commitment: Digest
    answer: Digest
    value: Digest
    audited: bool
    auditors: Annotated[tuple[KeyId, ...], MaxLength(MAX_AUDIT_CANDIDATES)]


@dataclass(frozen=True, slots=True)
class CrossDraw:
    """A draw as published. ``record`` is an encoded :class:`CrossRecord`, ``answer`` the auditor's
    signed commitment in its binary form and ``auditor_key`` the raw key that verifies it;
    ``outcome`` is what came of the second audit, empty where none was drawn."""

    record: bytes
    answer: bytes
    auditor_key: bytes
    outcome: str = ""

    @property
    def size_bytes(self) -> int:
        """About how much of a message it is."""
        return len(self.record) + len(self.answer) + len(self.auditor_key) + len(self.outcome)


@dataclass(frozen=True, slots=True)
class Audited:
    """What was published of one of the lease's commitments beside it."""

    record: ChallengeRecord
    answer: AuditorAnswer | None
    cross: CrossDraw | None


def check_cross_draws(
    terms: ChallengeTerms, rules: AuditRules, audited: Sequence[Audited], coordinator: PublicKey
) -> Iterator[Finding]:
    """Every draw of a lease's cross-audits that does not follow, and audits without a draw."""
    read: list[tuple[CrossRecord, Audited, CrossDraw]] = []
    answers: set[bytes] = set()
    for item in audited:
        if item.cross is None:
            continue
        index = item.record.index
        try:
            record = decode(CrossRecord, item.cross.record)
            auditor = PublicKey(item.cross.auditor_key)
            answer = opened(item.cross.answer, Commitment, auditor, coordinator)
        except FlopmarketError as error:
            yield _differs(index, error.message)
            continue
        if digest(answer) != record.answer:
            yield _differs(index, "it was drawn about another answer than the one shown")
        yield from _check_order(item, record, auditor, coordinator)
        answers.add(record.answer)
        read.append((record, item, item.cross))
    read.sort(key=lambda drawn: drawn[0].index)
    known_index, known = 0, terms.cross_anchor
    for place, (record, item, cross) in enumerate(read, 1):
        index = item.record.index
        if record.index != place or place > terms.values:
            yield _differs(index, f"draw {record.index} stands in place {place}")
            break
        if leads_to(record.value, known, place - known_index):
            known_index, known = place, record.value
        else:
            yield _differs(index, f"its value does not lead to value {known_index}")
        x = draw(Purpose.CROSS, record.value, record.answer)
        if record.audited != is_drawn(x, rules.cross_ppm):
            yield _differs(index, f"audited is {record.audited}, drawn was the opposite")
        if record.audited and record.auditors and not cross.outcome:
            yield _differs(index, "it was drawn, and nothing is said of what came of it")
    if terms.level is not Level.DUAL:
        yield from _missing(audited, answers, coordinator)


def _check_order(
    item: Audited, record: CrossRecord, auditor: PublicKey, coordinator: PublicKey
) -> Iterator[Finding]:
    """Asked are those who were drawn with the segment and stood behind the auditor."""
    index, order = item.record.index, item.record.auditors
    if record.commitment != item.record.commitment:
        yield _differs(index, "it is about another commitment")
    if coordinator.key_id in order:  # nobody behind the house itself is asked
        order = order[: order.index(coordinator.key_id)]
    if auditor.key_id not in order:
        yield _differs(index, f"{auditor.key_id[:16]} answered and was not drawn")
        return
    behind = order[order.index(auditor.key_id) + 1 :] if record.audited else ()
    if record.auditors != behind:
        yield _differs(index, "other auditors are named than those who stood behind the first")


def _missing(
    audited: Sequence[Audited], answers: set[bytes], coordinator: PublicKey
) -> Iterator[Finding]:
    """Every answer to a drawn segment is followed by a draw about it, or about an earlier one."""
    for item in audited:
        if item.answer is None or not item.record.audited or item.cross is not None:
            continue
        try:
            auditor = PublicKey(item.answer.public_key)
            answer = opened(item.answer.commitment, Commitment, auditor, coordinator)
        except FlopmarketError:
            continue  # it was found where answers are checked
        if digest(answer) not in answers:
            message = "somebody answered, and nothing was drawn about the answer"
            yield Finding(item.record.index, FindingCode.CROSS_MISSING, message)


def _differs(index: int, message: str) -> Finding:
    return Finding(index, FindingCode.CROSS_DIFFERS, message)
