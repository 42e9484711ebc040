"""Who watches auditors is drawn, and strangers can derive it: cross-audits and canaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flopmarket.cli.main import main
from flopmarket.client.auditing import audits_from_proto
from flopmarket.errors import Conflict, InvalidInput
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.canaries import (
    NOTHING,
    CanaryDay,
    CanaryDraw,
    CanaryRecord,
    CanaryTerms,
    KnownSegments,
    check_day,
    from_json,
    to_json,
)
from flopmarket.trust.challenge import FindingCode
from flopmarket.trust.cross_draws import CrossDraw, CrossRecord
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.core.auditing import AuditPhase, AuditPurpose
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.rpc.convert_audits import audits_page
from tests.unit.coordinator.auditors import DAY_US, EVERYTHING, Club, club_parameters, market
from tests.unit.coordinator.drawn import published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import digest_of


class Watched:
    """A club whose auditors are watched as often as the rules say, and one ended job."""

    def __init__(self, folder: Path, **chances: int) -> None:
        self.world = World(folder, club_parameters(replace(EVERYTHING, **chances)))
        self.club = Club(self.world)

    def run(self, *auditors: str, steps: int = 12) -> tuple[Buyer, str]:
        buyer, _, job = market(self.club, *auditors, steps=steps)
        self.club.turn(80)
        assert buyer.job(job.job_id).state is JobState.SUCCEEDED
        return buyer, job.job_id

    def day(self, day: int, page: int = 3) -> CanaryDay:
        """All pages of a day, put together as a client does."""
        token, draws = "", ()
        while True:
            found = self.world.see(self.world.application.canary_day, day, page, token)
            draws += found.day.draws
            if not (token := found.next_page_token):
                return replace(found.day, draws=draws)


# --- cross-audits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, list[LeaseAudits]]:
    """Four audited segments, some of them audited twice."""
    watched = Watched(tmp_path_factory.mktemp("crossed"), cross_ppm=500_000)
    buyer, job_id = watched.run("first", "second", "third", steps=24)
    leases = published(watched.world, buyer, job_id)
    page = watched.world.see(watched.world.application.list_audits, buyer.session, job_id, 500, "")
    assert list(audits_from_proto([audits_page(page)])) == leases
    return watched, leases


def _crosses(leases: list[LeaseAudits]) -> list[tuple[DrawnSegment, CrossRecord, CrossDraw]]:
    return [
        (item, decode(CrossRecord, item.cross.record), item.cross)
        for lease in leases
        for item in lease.segments
        if item.cross is not None
    ]


def test_every_answer_was_drawn_about_once(
    crossed: tuple[Watched, list[LeaseAudits]],
) -> None:
    watched, leases = crossed
    assert check(leases, watched.world.key.public) == ()
    assert [from_line(to_line(lease)) for lease in leases] == leases
    found = _crosses(leases)
    assert len(found) == sum(item.answer is not None for it in leases for item in it.segments) == 8
    drawn = [record.audited for _, record, _ in found]
    assert True in drawn and False in drawn
    rows = [row for row in watched.club.audits() if row.purpose is AuditPurpose.CROSS]
    assert len(rows) == sum(bool(record.auditors) for _, record, _ in found)
    for _, record, cross in found:
        assert bool(cross.outcome) == bool(record.auditors)


Tell = Callable[[DrawnSegment, CrossRecord, CrossDraw], CrossDraw | None]
LIES: dict[str, tuple[FindingCode, Tell]] = {
    "left out": (FindingCode.CROSS_MISSING, lambda item, record, cross: None),
    "not drawn": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, audited=not record.audited, auditors=()),
    ),
    "another value": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, value=digest_of("other")),
    ),
    "another place": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, index=record.index + 1),
    ),
    "another segment": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, commitment=digest_of("other")),
    ),
    "another answer": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, answer=digest_of("other")),
    ),
    "another auditor": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: replace(cross, auditor_key=KeyPair.generate().public.raw),
    ),
    "the worker's own words": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: replace(
            cross, answer=item.commitment, auditor_key=item.worker_key
        ),
    ),
    "other second auditors": (
        FindingCode.CROSS_DIFFERS,
        lambda item, record, cross: _cross(cross, auditors=("f" * 64,)),
    ),
}


def _cross(cross: CrossDraw, **changes: Any) -> CrossDraw:
    record = decode(CrossRecord, cross.record)
    return replace(cross, record=encode(replace(record, **changes)))


@pytest.mark.parametrize("name", LIES)
def test_every_lie_about_a_cross_audit_is_found(
    crossed: tuple[Watched, list[LeaseAudits]], name: str
) -> None:
    watched, leases = crossed
    code, tell = LIES[name]
    lease = leases[-1]
    at = next(n for n, item in enumerate(lease.segments) if item.cross is not None)
    item, record, cross = next(it for it in _crosses([lease]) if it[0] is lease.segments[at])
    lied = replace(item, cross=tell(item, record, cross))
    changed = replace(lease, segments=(*lease.segments[:at], lied, *lease.segments[at + 1 :]))
    found = check([changed], watched.world.key.public)
    assert code in {finding.finding.code for finding in found}


def test_draws_wait_for_an_audit_that_is_being_audited(tmp_path: Path) -> None:
    watched = Watched(tmp_path, cross_ppm=1_000_000)
    buyer, _, job = market(watched.club, "first", "second", steps=3)
    for _ in range(40):
        crossing = [
            row
            for row in watched.club.audits()
            if row.purpose is AuditPurpose.CROSS and row.phase is not AuditPhase.ENDED
        ]
        if crossing and buyer.job(job.job_id).state is JobState.SUCCEEDED:
            break
        watched.club.idle |= {row.auditor_key_id for row in crossing}
        if crossing:  # whoever is asked now takes its time
            watched.club.idle |= set(watched.club.workers)
        watched.club.round()
    else:
        pytest.fail("the second auditor was faster than the job")
    with pytest.raises(Conflict, match="being audited"):
        published(watched.world, buyer, job.job_id)


# --- canaries -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, CanaryDay, CanaryDay]:
    """A day on which canaries went out; as it was told while it lasted, and afterwards."""
    watched = Watched(tmp_path_factory.mktemp("canaries"), canary_ppm=500_000)
    world, club = watched.world, watched.club
    world.now_us -= world.now_us % DAY_US  # the beginning of a day
    today = world.now_us // DAY_US
    world.do(world.application.expire)
    known = world.buyer("knows").submit("known", steps=3, deadline_us=world.now_us + 20 * DAY_US)
    club.add(world.worker("early"))
    club.turn()
    world.audit_all()
    assert known.job_id
    watched.run("first", "second", steps=24)
    during = watched.day(today)
    world.now_us += DAY_US
    club.turn()
    return watched, during, watched.day(today)


def test_the_terms_come_before_the_day_and_the_draws_after_it(
    canaries: tuple[Watched, CanaryDay, CanaryDay],
) -> None:
    watched, during, after = canaries
    key = watched.world.key.public
    assert during.terms and not during.over and during.draws == ()
    assert check_day(during, key) == ()
    assert after.over and after.terms == during.terms
    assert check_day(after, key, during.terms) == ()
    records = [decode(CanaryRecord, item.record) for item in after.draws]
    assert len(records) == 8 and {record.drawn for record in records} == {True, False}
    sent = [item for item in after.draws if item.outcome]
    rows = [row for row in watched.club.audits() if row.purpose is AuditPurpose.CANARY]
    assert len(sent) == len(rows) > 0
    assert {item.outcome for item in sent} == {"EQUAL"} and all(item.answer for item in sent)
    tomorrow = watched.day(after.day + 2)  # signed before it begins
    assert tomorrow.terms and not tomorrow.over
    header = decode(Header, Envelope.from_bytes(tomorrow.terms).payload)
    assert header.issued_at_us < decode(CanaryTerms, header.body).day * DAY_US
    assert from_json(to_json(after)) == after


def _draw(item: CanaryDraw, **changes: Any) -> CanaryDraw:
    return replace(item, record=encode(replace(decode(CanaryRecord, item.record), **changes)))


CanaryLie = Callable[[CanaryDraw], CanaryDraw]
CANARY_LIES: dict[str, tuple[bool, FindingCode, CanaryLie]] = {
    "kept at home": (
        True,
        FindingCode.WRONG_DECISION,
        lambda item: replace(
            _draw(item, drawn=False, known=NOTHING, chosen=NOTHING, auditors=()), known=b""
        ),
    ),
    "sent on purpose": (False, FindingCode.WRONG_DECISION, lambda item: _draw(item, drawn=True)),
    "another value": (
        True,
        FindingCode.VALUE_NOT_IN_CHAIN,
        lambda item: _draw(item, value=digest_of("other")),
    ),
    "left out": (True, FindingCode.OUT_OF_SEQUENCE, lambda item: _draw(item, index=99)),
    "an easier segment": (
        True,
        FindingCode.CANARY_DIFFERS,
        lambda item: _draw(item, chosen=digest_of("easy")),
    ),
    "another list": (
        True,
        FindingCode.CANARY_DIFFERS,
        lambda item: replace(item, known=encode(KnownSegments((digest_of("easy"),)))),
    ),
    "nobody was asked": (
        True,
        FindingCode.CANARY_DIFFERS,
        lambda item: replace(_draw(item, auditors=()), outcome="", answer=b""),
    ),
    "somebody else answered": (
        True,
        FindingCode.CANARY_DIFFERS,
        lambda item: _draw(item, auditors=("f" * 64,)),
    ),
    "a secret canary": (
        False,
        FindingCode.CANARY_DIFFERS,
        lambda item: _draw(item, auditors=("f" * 64,)),
    ),
    "not a document": (True, FindingCode.UNREADABLE, lambda item: replace(item, record=b"x")),
}


@pytest.mark.parametrize("name", CANARY_LIES)
def test_every_lie_about_a_canary_is_found(
    canaries: tuple[Watched, CanaryDay, CanaryDay], name: str
) -> None:
    watched, _, day = canaries
    drawn, code, tell = CANARY_LIES[name]
    at = next(
        n for n, item in enumerate(day.draws) if decode(CanaryRecord, item.record).drawn is drawn
    )
    draws = (*day.draws[:at], tell(day.draws[at]), *day.draws[at + 1 :])
    found = check_day(replace(day, draws=draws), watched.world.key.public)
    assert code in {finding.code for finding in found}


def test_terms_that_were_changed_or_are_of_another_day(
    canaries: tuple[Watched, CanaryDay, CanaryDay],
) -> None:
    watched, _, day = canaries
    world = watched.world
    header = decode(Header, Envelope.from_bytes(day.terms).payload)
    terms = decode(CanaryTerms, header.body)
    other = world.sign(replace(terms, canary_ppm=1), world.key).to_bytes()
    codes = {found.code for found in check_day(day, world.key.public, other)}
    assert codes == {FindingCode.TERMS_DIFFER}
    assert check_day(replace(day, day=day.day + 1), world.key.public)[0].code is (
        FindingCode.TERMS_DIFFER
    )
    stranger = check_day(day, KeyPair.generate().public)
    assert [found.code for found in stranger] == [FindingCode.UNREADABLE]
    twice = replace(day, draws=(day.draws[0], _draw(day.draws[0], index=2)))
    found = {item.message for item in check_day(twice, world.key.public)}
    assert "the same audit was drawn about twice" in found
    assert digest(terms) == digest(decode(CanaryTerms, header.body))


def test_a_file_of_a_day_is_checked_offline(
    canaries: tuple[Watched, CanaryDay, CanaryDay], tmp_path: Path
) -> None:
    watched, during, after = canaries
    key, kept, told = tmp_path / "key.pem", tmp_path / "before", tmp_path / "after"
    key.write_bytes(watched.world.key.public.to_pem())
    kept.write_bytes(to_json(during))
    told.write_bytes(to_json(after))
    base = ["canaries", "--file", str(told), "--coordinator-pem", str(key)]
    right = CliRunner().invoke(main, [*base, "--since", str(kept)])
    assert right.exit_code == 0, right.output
    assert "8 draws, every one follows" in right.output
    assert "EQUAL" in CliRunner().invoke(main, base).output
    first = next(item for item in after.draws if item.outcome)
    lied = replace(after, draws=(replace(first, known=b""), *after.draws[1:]))
    told.write_bytes(to_json(lied))
    wrong = CliRunner().invoke(main, [*base, "--verify", "--json"])
    assert wrong.exit_code == 1 and '"CANARY_DIFFERS"' in wrong.output
    for bad in (b"{}", b"[]", to_json(after).replace(b'"over": true', b'"over": 1')):
        with pytest.raises(InvalidInput, match="not a file of canaries"):
            from_json(bad)
