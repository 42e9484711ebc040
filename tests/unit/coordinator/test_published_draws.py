"""Strangers can derive again everything that is published about draws, and find every lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from flopmarket.cli.main import main
from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import AuditorList, ChallengeRecord, FindingCode
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.drawn import FIFTH, bonded, finish, parameters, published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of


@pytest.fixture
def market(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, parameters())
    yield made
    made.check()
    made.close()


@pytest.fixture
def told(market: World) -> list[LeaseAudits]:
    """Draws of a job of two leases."""
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=40, segment_steps=1)
    (lease,) = market.offers()
    worker.accept(lease)
    for _ in range(15):
        worker.commit(lease, 1)
    worker.release(lease)
    with pytest.raises(Conflict, match="published when it ends"):
        published(market, buyer, job.job_id)
    finish(market, buyer, worker, job.job_id)
    found = published(market, buyer, job.job_id)
    assert [len(lease_.segments) for lease_ in found] == [15, 25]
    assert published(market, worker, job.job_id, 500) == found, "the worker may check, too"
    with pytest.raises(NotFound):
        published(market, market.buyer("stranger"), job.job_id)
    return found


def test_what_is_published_follows_from_what_was_signed(
    market: World, told: list[LeaseAudits]
) -> None:
    assert check(told, market.key.public) == ()
    assert [from_line(to_line(lease)) for lease in told] == told
    other = check(told, KeyPair.generate().public)
    assert {found.finding.code for found in other} == {FindingCode.UNREADABLE}


def _record(item: DrawnSegment, **changes: object) -> DrawnSegment:
    record = replace(decode(ChallengeRecord, item.record), **changes)  # type: ignore[arg-type]
    return replace(item, record=encode(record))


def _drawn(lease: LeaseAudits, audited: bool) -> int:
    return next(
        at
        for at, item in enumerate(lease.segments)
        if decode(ChallengeRecord, item.record).audited is audited
    )


LIES: dict[FindingCode, Callable[[LeaseAudits], LeaseAudits]] = {}


def lie(code: FindingCode) -> Callable[[Callable[[LeaseAudits], LeaseAudits]], None]:
    def known(tell: Callable[[LeaseAudits], LeaseAudits]) -> None:
        LIES[code] = tell

    return known


def _with(lease: LeaseAudits, at: int, item: DrawnSegment) -> LeaseAudits:
    return replace(lease, segments=(*lease.segments[:at], item, *lease.segments[at + 1 :]))


@lie(FindingCode.WRONG_DECISION)
def _(lease: LeaseAudits) -> LeaseAudits:
    at = _drawn(lease, audited=True)
    return _with(lease, at, _record(lease.segments[at], audited=False, auditors=()))


@lie(FindingCode.VALUE_NOT_IN_CHAIN)
def _(lease: LeaseAudits) -> LeaseAudits:
    return _with(lease, 3, _record(lease.segments[3], value=digest_of("other")))


@lie(FindingCode.WRONG_RATE)
def _(lease: LeaseAudits) -> LeaseAudits:
    return _with(lease, 3, _record(lease.segments[3], rate_ppm=1))


@lie(FindingCode.WRONG_AUDITORS)
def _(lease: LeaseAudits) -> LeaseAudits:
    at = _drawn(lease, audited=True)
    return _with(lease, at, _record(lease.segments[at], auditors=("f" * 64,)))


@lie(FindingCode.OUT_OF_SEQUENCE)
def _(lease: LeaseAudits) -> LeaseAudits:
    return replace(lease, segments=lease.segments[1:])


@lie(FindingCode.CANDIDATES_DIFFER)
def _(lease: LeaseAudits) -> LeaseAudits:
    return replace(lease, candidates=encode(AuditorList(("f" * 64,))))


@lie(FindingCode.RULES_DIFFER)
def _(lease: LeaseAudits) -> LeaseAudits:
    return replace(lease, rules=encode(replace(FIFTH, floor_ppm=1)))


@lie(FindingCode.COMMITMENT_DIFFERS)
def _(lease: LeaseAudits) -> LeaseAudits:
    return _with(lease, 2, replace(lease.segments[2], commitment=lease.segments[1].commitment))


@lie(FindingCode.VERDICT_MISSING)
def _(lease: LeaseAudits) -> LeaseAudits:
    at = _drawn(lease, audited=True)
    return _with(lease, at, replace(lease.segments[at], verdict=b""))


@lie(FindingCode.VERDICT_DIFFERS)
def _(lease: LeaseAudits) -> LeaseAudits:
    right, other = _drawn(lease, audited=True), _drawn(lease, audited=False)
    item = replace(lease.segments[other], verdict=lease.segments[right].verdict)
    return _with(lease, other, item)


@lie(FindingCode.VERDICTS_IMPOSSIBLE)
def _(lease: LeaseAudits) -> LeaseAudits:
    return _with(lease, 0, _record(lease.segments[0], right_verdicts=5))


@lie(FindingCode.UNREADABLE)
def _(lease: LeaseAudits) -> LeaseAudits:
    return replace(lease, terms=lease.segments[0].commitment)


@lie(FindingCode.TERMS_DIFFER)
def _(lease: LeaseAudits) -> LeaseAudits:
    return replace(lease, lease_id="another")


def test_every_planted_lie_is_found(market: World, told: list[LeaseAudits]) -> None:
    for code, tell in LIES.items():
        lease = tell(told[1])
        assert lease != told[1], code
        found = check([lease], market.key.public)
        assert code in {item.finding.code for item in found}, code
        assert all(str(item) for item in found)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_what_is_published_can_be_derived_again(tmp_path: Path, seed: int) -> None:
    """A market of random honest and lying work, restarts, releases and cancellations."""
    choose = Random(seed)
    growing = replace(FIFTH, full_streak=4, onboarding_streak=8)
    world = World(tmp_path, parameters(choose.choice([FIFTH, RULES, growing])))
    buyer = world.buyer()
    workers = {}
    for name in "abcd":
        worker = bonded(world, name)
        workers[worker.key.key_id] = worker
    names = count()
    submitted: list[str] = []
    live: dict[str, tuple[Worker, LeaseOffered, int]] = {}

    def submit() -> None:
        if len(submitted) < 8:
            job = buyer.submit(
                f"job {next(names)}",
                steps=choose.randint(3, 12),
                segment_steps=choose.randint(1, 2),
                checkpoint_segments=choose.randint(1, 3),
                stateless=choose.random() < 0.3,
            )
            submitted.append(job.job_id)

    def match() -> None:
        for lease in world.offers():
            worker = workers[lease.device_key_id]
            worker.accept(lease)
            live[lease.lease_id] = (worker, lease, lease.step_count)

    def commit() -> None:
        if not live:
            return
        worker, lease, left = live.pop(choose.choice(sorted(live)))
        worker.lie = (lambda step: digest_of(f"lie {step}")) if choose.random() < 0.05 else None
        steps = min(left, choose.randint(1, 2))
        try:
            answer = worker.commit(lease, steps)
        except Forbidden:  # it was banned meanwhile, or the lease taken back
            return
        if answer.accepted and left > steps:
            live[lease.lease_id] = (worker, lease, left - steps)

    def release() -> None:
        if live and choose.random() < 0.3:
            worker, lease, _ = live.pop(choose.choice(sorted(live)))
            worker.release(lease)

    def cancel() -> None:
        if submitted and choose.random() < 0.1:
            job = choose.choice(submitted)
            if buyer.job(job).state not in FINAL_JOB_STATES:
                buyer.cancel(job)

    def restart() -> None:
        if choose.random() < 0.1:
            world.restart()

    acts = [submit, match, commit, commit, commit, commit, release, cancel, restart, world.audit]
    for _ in range(90):
        choose.choice(acts)()
        world.now_us += SECOND_US
    for job_id in submitted:
        if buyer.job(job_id).state not in FINAL_JOB_STATES:
            buyer.cancel(job_id)
    for _ in range(40):  # workers say nothing any more: everything is the house's in the end
        world.audit_all()
        world.now_us += 1_000 * SECOND_US
        world.do(world.application.expire)
    assert all(buyer.job(job_id).state in FINAL_JOB_STATES for job_id in submitted)
    seen = 0
    for job_id in submitted:
        found = published(world, buyer, job_id)
        assert check(found, world.key.public) == ()
        seen += sum(len(lease.segments) for lease in found)
    assert seen > 0
    world.check()
    world.close()


def test_a_file_of_draws_is_checked_offline(
    market: World, told: list[LeaseAudits], tmp_path: Path
) -> None:
    key, file, lied = tmp_path / "key.pem", tmp_path / "right", tmp_path / "lied"
    key.write_bytes(market.key.public.to_pem())
    file.write_bytes(b"".join(map(to_line, told)))
    lied.write_bytes(to_line(LIES[FindingCode.WRONG_RATE](told[1])))
    right = CliRunner().invoke(main, ["job", "verify-audits", str(file), "--key", str(key)])
    assert right.exit_code == 0, right.output
    assert "40 commitments of 2 leases: every draw follows" in right.output
    arguments = ["job", "verify-audits", str(lied), "--key", str(key), "--json"]
    wrong = CliRunner().invoke(main, arguments)
    assert wrong.exit_code == 1
    assert '"WRONG_RATE"' in wrong.output
    file.write_bytes(b"{}\n")
    broken = CliRunner().invoke(main, ["job", "verify-audits", str(file), "--key", str(key)])
    assert broken.exit_code != 0
    with pytest.raises(InvalidInput, match="not a file of audits"):
        from_line(b"{}\n")
