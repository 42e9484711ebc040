"""Targets: files of published draws: of a job's audits, of a day's canaries, of one ruling."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from flopmarket.trust.arbitration_records import Arbitrated
from flopmarket.trust.audit_answers import AuditorAnswer
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.canaries import (
    CanaryDay,
    CanaryDraw,
    CanaryRecord,
    CanaryTerms,
    KnownSegments,
    check_day,
    from_json,
    to_json,
)
from flopmarket.trust.challenge import (
    AuditorList,
    Chain,
    ChainName,
    ChallengeRecord,
    ChallengeTerms,
    Purpose,
)
from flopmarket.trust.cross_draws import CrossDraw, CrossRecord
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import Document, digest, encode
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.ruling_records import RulingRecord, check_ruling, from_file, to_file
from tests.fuzz.target import Target, check_same

COORDINATOR, WORKER, AUDITOR = (KeyPair.from_seed(bytes([n]) * 32) for n in (21, 22, 23))
DAY = 20_000


def _signed(body: Document, key: KeyPair) -> bytes:
    return seal(
        body,
        key,
        audience=COORDINATOR.key_id,
        nonce=bytes(16),
        issued_at_us=1,
        expires_at_us=2,
    ).to_bytes()


def _commitment(key: KeyPair, lease_id: str) -> Commitment:
    return Commitment(
        job_id=bytes(32),
        device_key_id=key.key_id,
        lease_id=lease_id,
        fence=1,
        segment_index=0,
        first_step=0,
        steps_done=1,
        state_root_before=bytes(32),
        state_root_after=bytes([1]) * 32,
        outputs_root=bytes([2]) * 32,
        sealed_inner=bytes([3]) * 32,
    )


@cache
def _lease() -> LeaseAudits:
    candidates, house = AuditorList((AUDITOR.key_id,)), AuditorList((COORDINATOR.key_id,))
    chains = {
        purpose: Chain(bytes(32), ChainName("lease", purpose), 4)
        for purpose in (Purpose.AUDIT, Purpose.CROSS)
    }
    terms = ChallengeTerms(
        "lease",
        WORKER.key_id,
        chains[Purpose.AUDIT].anchor,
        chains[Purpose.CROSS].anchor,
        4,
        digest(RULES),
        Level.DETER,
        0,
        0,
        digest(candidates),
        digest(house),
    )
    claim, answer = _commitment(WORKER, "lease"), _commitment(AUDITOR, "other")
    order = (AUDITOR.key_id, COORDINATOR.key_id)
    record = ChallengeRecord(
        1, digest(claim), 1, 0, chains[Purpose.AUDIT].value(1), 1_000_000, True, order
    )
    value = chains[Purpose.CROSS].value(1)
    cross = CrossRecord(1, digest(claim), digest(answer), value, False, ())
    words = _signed(answer, AUDITOR)
    segment = DrawnSegment(
        0,
        "committed",
        AUDITOR.key_id,
        encode(record),
        _signed(claim, WORKER),
        WORKER.public.raw,
        b"",
        answer=AuditorAnswer("them", AUDITOR.public.raw, words, b"", b""),
        worker_account="us",
        cross=CrossDraw(encode(cross), words, AUDITOR.public.raw),
    )
    rules, lists = encode(RULES), (encode(candidates), encode(house))
    return LeaseAudits("lease", _signed(terms, COORDINATOR), rules, *lists, (segment,))


@cache
def _day() -> CanaryDay:
    chain = Chain(bytes(32), ChainName(f"day {DAY}", Purpose.CANARY), 4)
    terms = CanaryTerms(DAY, chain.anchor, 4, 1_000_000)
    known = KnownSegments((bytes([7]) * 32,))
    drawn = (digest(known), known.commitments[0], (AUDITOR.key_id,))
    records = (
        CanaryRecord(DAY, 1, bytes([8]) * 32, chain.value(1), True, *drawn),
        CanaryRecord(DAY, 2, bytes([9]) * 32, chain.value(2), True, *drawn),
    )
    answer = _signed(_commitment(AUDITOR, "other"), AUDITOR)
    draws = (
        CanaryDraw(encode(records[0]), encode(known), "EQUAL", answer, AUDITOR.public.raw),
        CanaryDraw(encode(records[1]), encode(known), "NO_AUDITOR"),
    )
    return CanaryDay(DAY, _signed(terms, COORDINATOR), True, draws)


def read_audits(data: bytes) -> object:
    lease = from_line(data)
    check_same(to_line(from_line(to_line(lease))), to_line(lease))
    return tuple(found.finding.code for found in check([lease], COORDINATOR.public))


def read_canaries(data: bytes) -> object:
    day = from_json(data)
    check_same(to_json(from_json(to_json(day))), to_json(day))
    return tuple(found.code for found in check_day(day, COORDINATOR.public, day.terms))


def read_ruling(data: bytes) -> object:
    found, key = from_file(data)
    again = to_file(found, key.raw)
    check_same(to_file(from_file(again)[0], key.raw), again)
    return tuple(item.code for item in check_ruling(found, COORDINATOR.public))


def audit_seeds() -> dict[str, bytes]:
    lease = _lease()
    (whole,) = lease.segments
    answered = to_line(replace(lease, segments=(replace(whole, cross=None),)))
    crossed = to_line(replace(lease, segments=(replace(whole, answer=None),)))
    return {"answered": answered, "crossed": crossed, "cut": crossed[:-9], "empty": b"{}"}


def canary_seeds() -> dict[str, bytes]:
    good = to_json(_day())
    return {"day": good, "cut": good[:-9], "empty": b"{}"}


def ruling_seeds() -> dict[str, bytes]:
    lease = _lease()
    (whole,) = lease.segments
    assert whole.answer is not None
    decided = Arbitrated("undecided", whole.answer, (), ())
    whole = replace(whole, state="", auditor="", answer=None, cross=None)
    segment = replace(whole, record=b"", arbitration=decided)
    record = RulingRecord("one", "arbitration", "CLASS_UNDECIDED", segment)
    key = COORDINATOR.public.raw
    drawn = replace(lease, segments=(whole,))
    return {
        "answers": to_file(record, key),
        "draw": to_file(
            replace(record, kind="house", segment=replace(segment, arbitration=None), draws=drawn),
            key,
        ),
        "cut": to_file(record, key)[:-9],
        "empty": b"{}",
    }


TARGETS = (
    Target("audit-file", read_audits, audit_seeds, 16_384),
    Target("canary-file", read_canaries, canary_seeds, 16_384),
    Target("ruling-file", read_ruling, ruling_seeds, 16_384),
)
