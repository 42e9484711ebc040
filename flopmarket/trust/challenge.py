"""Which segment is audited and by whom: drawn so that nobody chooses and everybody can check.

A lease names the anchor ``c_0`` of a private hash chain, ``c_{j-1} = H(c_j)``. Commitment ``j`` of
the lease comes first; then the coordinator reveals ``c_j``, and ``x = H(c_j || commitment digest)``
decides. The worker could not know ``c_j``, the coordinator could not change it, and
:func:`rederive` repeats every decision from what was published. Shares of 64-bit words of ``x``
decide; the order of auditors is a permutation of a list that was frozen with the lease.

Three more draws use chains of their own, because whoever is watched must not know the outcome in
time: whether an audit is itself audited (revealed after its seal), whether a canary is sent
(revealed when the chain's epoch is over), and which steps of a segment too big for any auditor are
recomputed (revealed after its worker has signed the root of every state).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, count, islice
from math import isqrt
from typing import Annotated

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_AUDIT_CANDIDATES, MAX_AUDITED_STEPS, MAX_CHAIN_VALUES
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import AuditRules, Level, rate_ppm
from flopmarket.trust.documents import Identifier, KeyId
from flopmarket.trust.encoding import (
    DIGEST_BYTES,
    Digest,
    MaxLength,
    digest,
    document,
    tagged_hash,
)

WORD_BYTES = 8
WORD = 1 << (8 * WORD_BYTES)

NO_CHAIN = bytes(DIGEST_BYTES)
"""In place of the anchor of a chain that a lease does not have."""

_LINK_START = b"flopmarket.chain-link.v1\x00"
_ORDER = "flopmarket.auditor-order.v1"
_STEPS = "flopmarket.drawn-steps.v1"
_AUDIT_WORD, _HOUSE_WORD, _JITTER_WORD = range(3)


class Purpose(StrEnum):
    """What a chain's values decide."""

    AUDIT = "audit"
    CROSS = "cross"
    CANARY = "canary"
    STEPS = "steps"


@document("flopmarket.chain-name.v1")
class ChainName:
    """What a chain is derived for: a lease, or the epoch of the canaries."""

    subject: Identifier
    purpose: Purpose


@document("flopmarket.auditor-list.v1")
class AuditorList:
    """Device keys that may be drawn for audits; a lease's terms name the digests of its two."""

    keys: Annotated[tuple[KeyId, ...], MaxLength(MAX_AUDIT_CANDIDATES)]


@document("flopmarket.challenge-terms.v2")
class ChallengeTerms:
    """Published with a lease: everything that later decisions follow from, but the chain.

    ``values`` is the length of the chains: one for each commitment that the lease can have.
    ``streak`` and ``stake_nano`` are the device's when the lease was given; the stake stays what it
    was, the streak grows by recorded verdicts. ``audit_steps`` is zero where the house recomputes
    whole segments, else how many steps of each it draws (:mod:`flopmarket.trust.step_audit`), by
    the chain of ``steps_anchor`` (zeros where there is none). ``detection_ppm`` is the chance that
    an audit of this lease sees one wrong step, which the rate follows from.
    """

    lease_id: Identifier
    device_key_id: KeyId
    anchor: Digest
    cross_anchor: Digest
    values: int
    rules: Digest
    level: Level
    streak: int
    stake_nano: int
    candidates: Digest
    house: Digest
    steps_anchor: Digest = NO_CHAIN
    audit_steps: int = 0
    detection_ppm: int = PARTS_PER_MILLION


@document("flopmarket.challenge-record.v1")
class ChallengeRecord:
    """Published after a commitment: the revealed value and what followed from it.

    ``index`` counts the lease's commitments from one. ``right_verdicts`` of earlier audits of the
    lease were recorded before. ``auditors`` were asked in this order.
    """

    index: int
    commitment: Digest
    price_nano: int
    right_verdicts: int
    value: Digest
    rate_ppm: int
    audited: bool
    auditors: Annotated[tuple[KeyId, ...], MaxLength(MAX_AUDIT_CANDIDATES)]


class Chain:
    """A hash chain derived from a secret: its anchor is public, ``value(j)`` is revealed in order.

    Keeps every ``sqrt(n)``-th value and one block between two of them, so that going forwards costs
    two hashes a value and about ``2 sqrt(n)`` values of memory. Nothing is stored: the same secret
    and name give the same chain.
    """

    def __init__(self, secret: bytes, name: ChainName, values: int) -> None:
        """``secret`` has 32 bytes; ``values`` is 1 to ``MAX_CHAIN_VALUES``."""
        if len(secret) != DIGEST_BYTES:
            raise InvalidInput("a chain's secret has 32 bytes", code="CHAIN_SECRET")
        if not 1 <= values <= MAX_CHAIN_VALUES:
            raise LimitExceeded(
                f"a chain of {values} values; 1 to {MAX_CHAIN_VALUES}",
                hint="give a lease of fewer steps",
            )
        self.values = values
        self._span = max(isqrt(values), 1)
        value = hmac.digest(secret, digest(name), "sha256")
        self._kept: dict[int, bytes] = {values: value}
        for index in range(values - 1, -1, -1):
            value = link(value)
            if index % self._span == 0:
                self._kept[index] = value
        self._block: dict[int, bytes] = {}

    @property
    def anchor(self) -> bytes:
        """``c_0``, which a lease publishes."""
        return self._kept[0]

    def value(self, index: int) -> bytes:
        """``c_index``, to be revealed after commitment number ``index``; 1 to ``values``."""
        if not 1 <= index <= self.values:
            raise InvalidInput(f"value {index} of a chain of {self.values}", code="CHAIN_EXHAUSTED")
        if index not in self._block:
            end = min((index // self._span + 1) * self._span, self.values)
            value = self._kept[end]
            self._block = {end: value}
            for below in range(end - 1, index - index % self._span - 1, -1):
                value = self._block[below] = link(value)
        return self._block[index]


def link(value: bytes) -> bytes:
    """The value before ``value`` in its chain."""
    return hashlib.sha256(_LINK_START + value).digest()  # as tagged_hash does, without its calls


def leads_to(value: bytes, known: bytes, distance: int) -> bool:
    """Whether ``value`` stands ``distance`` (above zero) places after ``known`` in one chain."""
    for _ in range(distance):
        value = link(value)
    return distance > 0 and hmac.compare_digest(value, known)


# --- what a drawn number decides ------------------------------------------------------------------


def draw(purpose: Purpose, value: bytes, subject: bytes) -> bytes:
    """``x``, 32 bytes: from a revealed value and the digest of what was committed before it."""
    return tagged_hash(f"flopmarket.draw-{purpose}.v1", value, subject)


def is_drawn(x: bytes, chance_ppm: int, word: int = _AUDIT_WORD) -> bool:
    """Whether a 64-bit word of ``x`` is below ``floor(chance * 2^64)``."""
    return _word(x, word) < chance_ppm * WORD // PARTS_PER_MILLION


def jitter_us(x: bytes, most_us: int) -> int:
    """How long an audit waits after its draw: below ``most_us`` microseconds."""
    return _word(x, _JITTER_WORD) * most_us // WORD


def permutation(x: bytes, length: int) -> Iterator[int]:
    """The numbers below ``length`` in the order drawn by ``x``, without bias.

    Fisher and Yates with rejected remainders; the first few cost no more than they are.
    """
    words = _words(x)
    moved: dict[int, int] = {}
    for place in range(length):
        choice = place + _below(words, length - place)
        yield moved.pop(choice, choice)
        if choice != place:
            moved[choice] = moved.pop(place, place)


def drawn_steps(x: bytes, first_step: int, steps: int, drawn: int) -> tuple[int, ...]:
    """``drawn`` different steps of a segment, ascending, each set of them equally likely; all of
    them where the segment has no more. Numbers count the steps of the job."""
    if first_step < 0 or steps < 1 or not 0 < drawn <= MAX_AUDITED_STEPS:
        raise InvalidInput(f"{drawn} steps of {steps}", code="DRAWN_STEPS")
    places = islice(permutation(tagged_hash(_STEPS, x), steps), min(drawn, steps))
    return tuple(sorted(first_step + place for place in places))


def auditors(
    x: bytes, rules: AuditRules, candidates: Sequence[str], house: Sequence[str]
) -> Iterator[str]:
    """Keys in the order in which they are asked to audit.

    The house's share is drawn first; where it is not drawn, the house comes after all candidates,
    so that somebody is always left.
    """
    own = (house[place] for place in permutation(tagged_hash(_ORDER, x), len(house)))
    others = (candidates[place] for place in permutation(x, len(candidates)))
    house_first = is_drawn(x, rules.house_ppm, _HOUSE_WORD)
    return chain(own, others) if house_first else chain(others, own)


def _word(x: bytes, word: int) -> int:
    return int.from_bytes(x[word * WORD_BYTES : (word + 1) * WORD_BYTES], "big")


def _words(x: bytes) -> Iterator[int]:
    for counter in count():
        block = tagged_hash(_ORDER, x, counter.to_bytes(8, "big"))
        for word in range(len(block) // WORD_BYTES):
            yield _word(block, word)


def _below(words: Iterator[int], bound: int) -> int:
    limit = WORD - WORD % bound
    return next(word for word in words if word < limit) % bound


# --- checking what was published ------------------------------------------------------------------


class FindingCode(StrEnum):
    """What does not follow from the records."""

    RULES_DIFFER = "RULES_DIFFER"
    CANDIDATES_DIFFER = "CANDIDATES_DIFFER"
    SELF_AUDIT = "SELF_AUDIT"
    OUT_OF_SEQUENCE = "OUT_OF_SEQUENCE"
    VALUE_NOT_IN_CHAIN = "VALUE_NOT_IN_CHAIN"
    VERDICTS_IMPOSSIBLE = "VERDICTS_IMPOSSIBLE"
    WRONG_RATE = "WRONG_RATE"
    WRONG_DECISION = "WRONG_DECISION"
    WRONG_AUDITORS = "WRONG_AUDITORS"
    WRONG_STEPS = "WRONG_STEPS"
    UNREADABLE = "UNREADABLE"
    TERMS_DIFFER = "TERMS_DIFFER"
    COMMITMENT_DIFFERS = "COMMITMENT_DIFFERS"
    VERDICT_DIFFERS = "VERDICT_DIFFERS"
    VERDICT_MISSING = "VERDICT_MISSING"
    ANSWER_MISSING = "ANSWER_MISSING"
    ANSWER_DIFFERS = "ANSWER_DIFFERS"
    AUDITOR_NOT_DRAWN = "AUDITOR_NOT_DRAWN"
    AUDITOR_NOT_APART = "AUDITOR_NOT_APART"
    OPENING_MISSING = "OPENING_MISSING"
    OPENING_DIFFERS = "OPENING_DIFFERS"
    ARBITRATION_DIFFERS = "ARBITRATION_DIFFERS"
    CROSS_DIFFERS = "CROSS_DIFFERS"
    CROSS_MISSING = "CROSS_MISSING"
    CANARY_DIFFERS = "CANARY_DIFFERS"


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction. ``index`` is the commitment's, zero for the lease's own terms."""

    index: int
    code: FindingCode
    message: str


def rederive(
    terms: ChallengeTerms,
    rules: AuditRules,
    candidates: AuditorList,
    house: AuditorList,
    records: Sequence[ChallengeRecord],
) -> tuple[Finding, ...]:
    """Repeat every decision of a lease; empty when the coordinator decided nothing itself.

    Needs only what was published. The worker adds what it alone knows: that each ``commitment`` is
    the one it signed, and came before its value.
    """
    findings = _check_terms(terms, rules, candidates, house)
    known_index, known = 0, terms.anchor
    audits = verdicts = 0
    for place, record in enumerate(records, 1):
        if record.index != place or place > terms.values:
            findings.append(
                Finding(record.index, FindingCode.OUT_OF_SEQUENCE, f"stands in place {place}")
            )
            break
        if leads_to(record.value, known, place - known_index):
            known_index, known = place, record.value
        else:
            message = f"does not lead to value {known_index}"
            findings.append(Finding(place, FindingCode.VALUE_NOT_IN_CHAIN, message))
        if not verdicts <= record.right_verdicts <= audits:
            message = f"{record.right_verdicts} verdicts after {verdicts}, of {audits} audits"
            findings.append(Finding(place, FindingCode.VERDICTS_IMPOSSIBLE, message))
        findings += _check_record(terms, rules, candidates, house, record)
        verdicts = max(verdicts, record.right_verdicts)
        audits += record.audited
    return tuple(findings)


def rederive_one(
    terms: ChallengeTerms,
    rules: AuditRules,
    candidates: AuditorList,
    house: AuditorList,
    record: ChallengeRecord,
) -> tuple[Finding, ...]:
    """Repeat the decision about one commitment of a lease, where the others are not at hand; that
    the verdicts before it were counted right takes all of them (:func:`rederive`)."""
    findings = _check_terms(terms, rules, candidates, house)
    place = record.index
    if not 0 < place <= terms.values or not leads_to(record.value, terms.anchor, place):
        message = "does not lead to the anchor of the lease"
        findings.append(Finding(place, FindingCode.VALUE_NOT_IN_CHAIN, message))
    findings += _check_record(terms, rules, candidates, house, record)
    return tuple(findings)


def _check_terms(
    terms: ChallengeTerms, rules: AuditRules, candidates: AuditorList, house: AuditorList
) -> list[Finding]:
    findings = []
    if digest(rules) != terms.rules:
        findings.append(Finding(0, FindingCode.RULES_DIFFER, "rules are not those of the lease"))
    lists = ((candidates, terms.candidates, "candidates"), (house, terms.house, "house auditors"))
    for given, frozen, name in lists:
        if digest(given) != frozen or len(set(given.keys)) != len(given.keys):
            message = f"{name} are not the list of distinct keys that the lease froze"
            findings.append(Finding(0, FindingCode.CANDIDATES_DIFFER, message))
        if terms.device_key_id in given.keys:
            message = f"the worker's own key is among the {name}"
            findings.append(Finding(0, FindingCode.SELF_AUDIT, message))
    findings += _check_steps_terms(terms, rules)
    return findings


def _check_steps_terms(terms: ChallengeTerms, rules: AuditRules) -> list[Finding]:
    """Numbers of drawn steps within the rules; the chance of a detection is stated with them."""
    drawn = terms.audit_steps
    fits = drawn <= rules.most_steps and (drawn > 0) == (terms.steps_anchor != NO_CHAIN)
    if fits and 0 < terms.detection_ppm <= PARTS_PER_MILLION:
        return []
    message = f"{drawn} steps are drawn, said to detect {terms.detection_ppm} ppm"
    return [Finding(0, FindingCode.WRONG_STEPS, message)]


def _check_record(
    terms: ChallengeTerms,
    rules: AuditRules,
    candidates: AuditorList,
    house: AuditorList,
    record: ChallengeRecord,
) -> list[Finding]:
    streak = terms.streak + record.right_verdicts
    rate = rate_ppm(
        rules,
        terms.level,
        streak,
        record.price_nano,
        terms.stake_nano,
        min(max(terms.detection_ppm, 1), PARTS_PER_MILLION),
    )
    x = draw(Purpose.AUDIT, record.value, record.commitment)
    findings = []
    if record.rate_ppm != rate:
        message = f"{record.rate_ppm} ppm; the rules give {rate}"
        findings.append(Finding(record.index, FindingCode.WRONG_RATE, message))
    if record.audited != is_drawn(x, rate):
        message = f"audited is {record.audited}, drawn was the opposite"
        findings.append(Finding(record.index, FindingCode.WRONG_DECISION, message))
    asked = len(record.auditors)
    order = tuple(islice(auditors(x, rules, candidates.keys, house.keys), asked))
    if order != record.auditors or (asked > 0) != record.audited:
        message = f"{asked} auditors were asked, not in the order that was drawn"
        findings.append(Finding(record.index, FindingCode.WRONG_AUDITORS, message))
    return findings
