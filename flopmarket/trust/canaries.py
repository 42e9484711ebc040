"""Canaries: what a coordinator publishes of a day that is over, and its check by anybody, offline.

Now and then an auditor gets a segment whose right answer the house knows. Whether one goes out is
drawn beside every audit of a day: ``x = H(value || commitment that was drawn for the audit)``, from
a chain whose anchor is signed the day before. Its values are published when the day is over and the
last canary of it is in: whoever kept the anchor can tell that none went out, or stayed at home, by
anybody's choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import (
    MAX_AUDIT_CANDIDATES,
    MAX_CANARY_FILE_BYTES,
    MAX_KNOWN_RIGHT_SEGMENTS,
)
from flopmarket.trust.audit_answers import opened
from flopmarket.trust.challenge import (
    Finding,
    FindingCode,
    Purpose,
    draw,
    is_drawn,
    leads_to,
    permutation,
)
from flopmarket.trust.documents import Commitment, KeyId
from flopmarket.trust.encoding import Digest, MaxLength, decode, digest, document
from flopmarket.trust.json_fields import base64_of, bytes_of, text_of
from flopmarket.trust.keys import PublicKey

DAY_US = 24 * 3_600 * 1_000_000
NOTHING = bytes(32)
"""``known`` and ``chosen`` where no canary goes out."""
FORMAT = "flopmarket-canaries-1"


@document("flopmarket.canary-terms.v1")
class CanaryTerms:
    """Signed by the coordinator before the day: what its draws follow from, but the chain.

    ``day`` counts days (UTC) since the epoch; ``values`` is how many draws it has at most.
    """

    day: int
    anchor: Digest
    values: int
    canary_ppm: int


@document("flopmarket.known-segments.v1")
class KnownSegments:
    """Commitments of the segments that a canary was chosen from; newest first."""

    commitments: Annotated[tuple[Digest, ...], MaxLength(MAX_KNOWN_RIGHT_SEGMENTS)]


@document("flopmarket.canary-record.v1")
class CanaryRecord:
    """What was drawn beside one audit. ``index`` counts those of the day from one.

    ``commitment`` was drawn for the audit. Where a canary is drawn, ``known`` names the list that
    it is chosen from and ``chosen`` the commitment that goes out to ``auditors``, in this order;
    both are zero where the list is empty.
    """

    day: int
    index: int
    commitment: Digest
    value: Digest
    drawn: bool
    known: Digest
    chosen: Digest
    auditors: Annotated[tuple[KeyId, ...], MaxLength(MAX_AUDIT_CANDIDATES)]


@dataclass(frozen=True, slots=True)
class CanaryDraw:
    """A draw as published: an encoded :class:`CanaryRecord` and, where it names one, the encoded
    :class:`KnownSegments`. ``outcome`` is what came of the canary; ``answer`` is the auditor's
    signed commitment in its binary form, ``auditor_key`` the raw key that verifies it."""

    record: bytes
    known: bytes = b""
    outcome: str = ""
    answer: bytes = b""
    auditor_key: bytes = b""


@dataclass(frozen=True, slots=True)
class CanaryDay:
    """A day as published. ``terms`` is the signed :class:`CanaryTerms` in its binary form, empty
    where nothing was ever drawn; ``over`` says that the draws are all there."""

    day: int
    terms: bytes
    over: bool
    draws: tuple[CanaryDraw, ...] = ()


def check_day(
    day: CanaryDay, coordinator: PublicKey, earlier_terms: bytes = b""
) -> tuple[Finding, ...]:
    """Everything of a day that contradicts itself; empty when every draw follows.

    ``earlier_terms`` are those that somebody kept from before the day. A finding's index is the
    draw's, zero for the day's own terms.
    """
    try:
        terms = opened(day.terms, CanaryTerms, coordinator, coordinator)
    except FlopmarketError as error:
        return (Finding(0, FindingCode.UNREADABLE, error.message),)
    findings = []
    if terms.day != day.day:
        message = f"the terms are of day {terms.day}"
        findings.append(Finding(0, FindingCode.TERMS_DIFFER, message))
    if earlier_terms:
        try:
            kept = opened(earlier_terms, CanaryTerms, coordinator, coordinator)
        except FlopmarketError as error:
            findings.append(Finding(0, FindingCode.UNREADABLE, error.message))
        else:
            if kept != terms:
                message = "the terms that were kept from before say otherwise"
                findings.append(Finding(0, FindingCode.TERMS_DIFFER, message))
    known_index, known, subjects = 0, terms.anchor, set()
    for place, item in enumerate(day.draws, 1):
        try:
            record = decode(CanaryRecord, item.record)
        except FlopmarketError as error:
            findings.append(Finding(place, FindingCode.UNREADABLE, error.message))
            continue
        if (record.day, record.index) != (terms.day, place) or place > terms.values:
            message = f"draw {record.index} of day {record.day} stands in place {place}"
            findings.append(Finding(place, FindingCode.OUT_OF_SEQUENCE, message))
            break
        if leads_to(record.value, known, place - known_index):
            known_index, known = place, record.value
        else:
            message = f"does not lead to value {known_index}"
            findings.append(Finding(place, FindingCode.VALUE_NOT_IN_CHAIN, message))
        if record.commitment in subjects:
            findings.append(_differs(place, "the same audit was drawn about twice"))
        subjects.add(record.commitment)
        findings += _check_draw(terms, record, item, coordinator)
    return tuple(findings)


def _check_draw(
    terms: CanaryTerms, record: CanaryRecord, item: CanaryDraw, coordinator: PublicKey
) -> Iterator[Finding]:
    index = record.index
    x = draw(Purpose.CANARY, record.value, record.commitment)
    if record.drawn != is_drawn(x, terms.canary_ppm):
        message = f"drawn is {record.drawn}, by the value it is the opposite"
        yield Finding(index, FindingCode.WRONG_DECISION, message)
    if not record.drawn:
        if record.known != NOTHING or record.chosen != NOTHING or record.auditors or item.known:
            yield _differs(index, "a canary is named where none was drawn")
        return
    try:
        listed = decode(KnownSegments, item.known)
    except FlopmarketError as error:
        yield _differs(index, f"the list of known segments: {error.message}")
        return
    if digest(listed) != record.known or len(set(listed.commitments)) != len(listed.commitments):
        yield _differs(index, "the known segments are not the list of distinct ones that it names")
    wanted = NOTHING
    if listed.commitments:
        wanted = listed.commitments[next(permutation(x, len(listed.commitments)))]
    if record.chosen != wanted:
        yield _differs(index, "another segment went out than the one drawn")
    if listed.commitments and not (record.auditors and item.outcome):
        yield _differs(index, "a canary was drawn, and nothing is said of what came of it")
    if item.answer:
        yield from _check_answer(record, item, coordinator)


def _check_answer(
    record: CanaryRecord, item: CanaryDraw, coordinator: PublicKey
) -> Iterator[Finding]:
    """Somebody answered it: one of those who were asked, by its own signature."""
    try:
        auditor = PublicKey(item.auditor_key)
        opened(item.answer, Commitment, auditor, coordinator)
    except FlopmarketError as error:
        yield _differs(record.index, error.message)
        return
    if auditor.key_id not in record.auditors:
        yield _differs(record.index, f"{auditor.key_id[:16]} answered and was not asked")


def _differs(index: int, message: str) -> Finding:
    return Finding(index, FindingCode.CANARY_DIFFERS, message)


# --- the file -------------------------------------------------------------------------------------

_BLOBS = ("record", "known", "answer", "auditor_key")


def to_json(day: CanaryDay) -> bytes:
    """A day as a file."""
    draws = [
        {"outcome": item.outcome, **{name: base64_of(getattr(item, name)) for name in _BLOBS}}
        for item in day.draws
    ]
    content = {
        "format": FORMAT,
        "day": day.day,
        "terms": base64_of(day.terms),
        "over": day.over,
        "draws": draws,
    }
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def from_json(data: bytes) -> CanaryDay:
    """Inverse of :func:`to_json`; :class:`InvalidInput` ``CANARY_FILE`` for anything else."""
    if len(data) > MAX_CANARY_FILE_BYTES:
        raise _malformed(f"more than {MAX_CANARY_FILE_BYTES} bytes")
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"format {str(content['format'])[:40]!r}")
        number, over = content["day"], content["over"]
        if type(number) is not int or not 0 <= number < 2**40 or type(over) is not bool:
            raise ValueError("a day is a number, and over or not")
        draws = tuple(
            CanaryDraw(outcome=text_of(item["outcome"]), **{n: bytes_of(item[n]) for n in _BLOBS})
            for item in content["draws"]
        )
        return CanaryDay(number, bytes_of(content["terms"]), over, draws)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error


def _malformed(message: str) -> InvalidInput:
    return InvalidInput(
        f"not a file of canaries: {message}",
        code="CANARY_FILE",
        hint="make one with `flop canaries --save FILE`",
    )
