"""What is drawn, what follows from it in the market, and that strangers can check all of it."""

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
from flopmarket.trust.audit_policy import RULES, AuditRules, Level, rate_ppm
from flopmarket.trust.audit_records import DrawnSegment, LeaseAudits, check, from_line, to_line
from flopmarket.trust.challenge import (
    AuditorList,
    ChallengeRecord,
    ChallengeTerms,
    FindingCode,
    leads_to,
)
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.receipt import verify_receipt
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application import dispatching
from flopmarket_coordinator.application.types import AuditKind, CommitmentAnswer, LeaseOffered
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, JobState, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import jobs, work
from tests.unit.coordinator.world import DOLLAR, Buyer, Worker, World, digest_of, state

FIFTH = AuditRules(
    safety=1,
    floor_ppm=200_000,
    outlier_ppm=1_000_000,
    full_streak=0,
    onboarding_streak=0,
    bond_units=1,
    own_audit_units=0,
)
"""Everybody's segments are drawn with one in five, from the first on."""


def parameters(rules: AuditRules = FIFTH) -> Parameters:
    return Parameters(
        held_us=0,
        audit_rules=rules,
        audit_waits=Waits(jitter_us=0),
        bond_target_nano=0,
        decline_pause_us=0,
        presence_ttl_us=3_600 * SECOND_US,
        stall_us=3_600 * SECOND_US,
        house_disputes=False,
    )


@pytest.fixture
def market(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, parameters())
    yield made
    made.check()
    made.close()


def bonded(world: World, name: str, amount: int = DOLLAR, **changes: object) -> Worker:
    """A worker whose stake makes one in five of its segments an audit."""
    worker = world.worker(name, **changes)  # type: ignore[arg-type]
    world.deposit(worker.account, amount, f"bond of {name}", DepositTarget.BOND)
    return worker


def terms_of(world: World, lease: LeaseOffered) -> ChallengeTerms:
    assert lease.challenge_terms is not None
    return open_envelope(
        lease.challenge_terms,
        ChallengeTerms,
        keys=keys_by_id(world.key.public),
        audience=world.key.key_id,
        now_us=None,
        replay=None,
    ).body


def published(world: World, buyer: Buyer | Worker, job_id: str, page: int = 7) -> list[LeaseAudits]:
    """All pages of a job's draws, put together as a client does."""
    token = ""
    leases: dict[str, LeaseAudits] = {}
    while True:
        found = world.see(world.application.list_audits, buyer.session, job_id, page, token)
        for lease in found.leases:
            new = LeaseAudits(
                lease.lease_id, lease.terms, lease.rules, lease.candidates, lease.house, ()
            )
            leases.setdefault(lease.lease_id, new)
        for lease_id, item in found.segments:
            known = leases[lease_id]
            leases[lease_id] = replace(known, segments=(*known.segments, item))
        if not (token := found.next_page_token):
            return list(leases.values())


def finish(world: World, buyer: Buyer, worker: Worker, job_id: str) -> list[CommitmentAnswer]:
    answers = []
    while buyer.job(job_id).state is not JobState.SUCCEEDED:
        for lease in world.offers():
            worker.accept(lease)
            answers += [worker.commit(lease, 1) for _ in range(lease.step_count)]
        world.audit_all()
    return answers


def test_a_lease_brings_signed_terms_and_every_commitment_reveals_the_next_value(
    market: World,
) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    buyer.submit(steps=12, segment_steps=1)
    (lease,) = market.offers()
    terms = terms_of(market, lease)
    assert (terms.lease_id, terms.device_key_id) == (lease.lease_id, worker.key.key_id)
    assert (terms.values, terms.level, terms.stake_nano) == (12, Level.DETER, DOLLAR)
    assert terms.rules == digest(FIFTH) and terms.streak == 0
    worker.accept(lease)
    known = terms.anchor
    for _ in range(12):
        commit = worker.commitment(lease, 1)
        answer = worker.send(commit)
        assert answer.accepted and answer.rate_ppm == 200_000
        assert leads_to(answer.challenge_value, known, 1)
        known = answer.challenge_value
        market.restart()
        assert worker.send(commit) == answer, "the same claim again: the same answer"


def test_what_is_not_drawn_counts_without_a_verdict_and_the_receipt_says_so(
    market: World,
) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=60, segment_steps=1)
    answers = finish(market, buyer, worker, job.job_id)
    drawn = [answer.audited for answer in answers]
    assert 2 < sum(drawn) < 30
    receipt = verify_receipt(
        market.see(market.application.get_receipt, buyer.session, job.job_id), market.key.public
    ).receipt
    assert [bool(item.auditor) for item in receipt.segments] == drawn
    offer = market.see(work.offers_of_account, worker.account, 1)[0]
    assert offer.streak == offer.verified_segments == sum(drawn), "the others prove nothing"
    told = [
        event.text
        for event in market.see(market.application.job_events, buyer.session, job.job_id, 0, 500)
        if event.kind == "verified"
    ]
    assert sum("not drawn" in text for text in told) == 60 - sum(drawn)


def test_draws_of_the_application_have_the_rate_of_the_rules(market: World) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    count_of = 4_000
    buyer.submit(steps=count_of, segment_steps=1, max_price_nano=1_000 * DOLLAR)
    (lease,) = market.offers()
    row = market.see(work.lease, lease.lease_id)
    assert row is not None

    def draw_all(tx):  # type: ignore[no-untyped-def]
        return [
            market.application._draw(
                tx, replace(row, next_segment=number), digest_of(f"commitment {number}"), 1_000
            )
            for number in range(count_of)
        ]

    draws = market.see(draw_all)
    assert {draw.rate_ppm for draw in draws} == {200_000}
    audited = sum(draw.audited for draw in draws)
    spread = (count_of * 0.2 * 0.8) ** 0.5
    assert abs(audited - count_of * 0.2) < 4 * spread
    assert [draw.index for draw in draws] == list(range(1, count_of + 1))
    assert len({draw.value for draw in draws}) == count_of
    assert worker.name == "ann"


def test_rates_follow_the_rules_that_were_frozen_with_the_lease(market: World) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=6, segment_steps=1)
    (lease,) = market.offers()
    worker.accept(lease)
    assert worker.commit(lease, 1).rate_ppm == 200_000
    market.parameters = parameters(replace(FIFTH, floor_ppm=900_000))
    market.restart()
    assert worker.commit(lease, 1).rate_ppm == 200_000
    for _ in range(4):
        worker.commit(lease, 1)
    market.audit_all()
    assert check(published(market, buyer, job.job_id), market.key.public) == ()


def test_streaks_grow_by_recorded_verdicts_of_drawn_segments(tmp_path: Path) -> None:
    rules = replace(FIFTH, full_streak=3, onboarding_streak=3)
    market = World(tmp_path, parameters(rules))
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=8, segment_steps=1)
    (lease,) = market.offers()
    worker.accept(lease)
    rates = []
    for _ in range(8):
        rates.append(worker.commit(lease, 1).rate_ppm)
        market.audit_all()
    assert rates == [1_000_000] * 3 + [200_000] * 5
    records = [
        decode(ChallengeRecord, item.record)
        for lease_ in published(market, buyer, job.job_id)
        for item in lease_.segments
    ]
    assert [record.right_verdicts for record in records][:4] == [0, 1, 2, 3]
    market.check()
    market.close()


def test_newcomers_are_always_drawn_and_the_house_recomputes(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit()
    (lease,) = world.offers()
    worker.accept(lease)
    answer = worker.commit(lease)
    assert answer.audited and answer.rate_ppm == 1_000_000
    for _ in range(3):
        worker.commit(lease)
    task = world.see(world.application.next_audit)
    assert task.kind is AuditKind.RECOMPUTE
    world.audit_all()
    (found,) = published(world, buyer, job.job_id)
    assert decode(AuditorList, found.house).keys == (world.key.key_id,)
    assert decode(AuditorList, found.candidates).keys == ()
    assert check([found], world.key.public) == ()


def test_candidates_are_experienced_bonded_and_of_other_owners(tmp_path: Path) -> None:
    market = World(tmp_path, parameters(RULES))
    buyer, worker = market.buyer(), market.worker("ann")
    bonded(market, "bob")  # bonded and inexperienced
    veterans = {
        name: bonded(market, name, **changes)  # type: ignore[arg-type]
        for name, changes in {
            "carl": {},
            "dora": {},
            "ann's other": {"owner": "owner of ann"},
            "small": {"memory": 1},
            "buyer's": {"owner": "buyer"},
            "poor": {"amount": 1},
        }.items()
    }

    def grow_old(tx):  # type: ignore[no-untyped-def]
        for each in veterans.values():
            (offer,) = work.listed_offers(tx, each.key.key_id)
            for _ in range(RULES.onboarding_streak):
                work.count_outcome(tx, offer.offer_id, right=True)

    market.do(grow_old)
    job = buyer.submit()
    (offered,) = market.offers()
    taker = next(
        each for each in (worker, *veterans.values()) if each.key.key_id == offered.device_key_id
    )
    others = {veterans[name].key.key_id for name in ("carl", "dora", "ann's other")}
    if taker.account == worker.account:
        others.discard(veterans["ann's other"].key.key_id)
    others.discard(taker.key.key_id)
    taker.accept(offered)
    for _ in range(4):
        taker.commit(offered)
    buyer.cancel(job.job_id)
    market.audit_all()
    found = market.see(market.application._draws_of, offered.lease_id)
    assert set(decode(AuditorList, found.candidates).keys) == others
    market.close()


def test_a_wrong_file_is_found_though_its_segment_was_not_drawn(market: World) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=60, segment_steps=1)
    (lease,) = market.offers()
    worker.accept(lease)
    for _ in range(60):
        commit = worker.commitment(lease, 1)
        market.artifacts.stored[commit.checkpoint_artifact] = b"another state"
        if not worker.send(commit).audited:
            break
        market.artifacts.stored[commit.checkpoint_artifact] = state(
            worker.position[lease.lease_id][0]
        )
    market.artifacts.stored[commit.checkpoint_artifact] = b"another state"
    while (outcome := market.audit()) is not None and outcome.accepted:
        pass
    assert outcome is not None
    assert outcome.reason_code == VerdictCode.CHECKPOINT_FILE_DIFFERS
    (wrong,) = [
        row for row in market.see(jobs.segments, job.job_id) if row.state is SegmentState.REJECTED
    ]
    assert wrong.checkpoint_artifact == commit.checkpoint_artifact
    assert "slashed" in buyer.kinds(job.job_id)


def test_a_replay_finds_the_first_wrong_segment_before_the_drawn_one(market: World) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=40, segment_steps=1, checkpoint_segments=40)
    (lease,) = market.offers()
    worker.accept(lease)
    for _ in range(5):
        worker.commit(lease, 1, keep=False)
    market.audit_all()
    began = worker.position[lease.lease_id][0]
    worker.lie = lambda step: digest_of(f"a lie after {step}")
    while not worker.commit(lease, 1, keep=False).audited:
        market.read_files()
    drawn_step = worker.position[lease.lease_id][0] - 1
    assert drawn_step > began, "otherwise this tests nothing"
    market.audit_all()
    rejected = [
        row.first_step
        for row in market.see(jobs.segments, job.job_id)
        if row.state is SegmentState.REJECTED
    ]
    assert rejected == [began]


def test_the_next_lease_waits_until_the_house_has_read_the_checkpoint(market: World) -> None:
    buyer, worker = market.buyer(), bonded(market, "ann")
    buyer.submit(steps=12)
    (lease,) = market.offers()
    worker.accept(lease)
    worker.commit(lease)
    worker.release(lease)
    assert market.do(market.application.match) == ()
    assert [outcome.accepted for outcome in market.read_files()] == [True]
    (again,) = market.offers()
    assert again.first_step == 3


def test_a_lease_is_no_longer_than_its_chain_and_the_next_goes_on_behind_it(
    market: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "MAX_CHAIN_VALUES", 5)
    buyer, worker = market.buyer(), bonded(market, "ann")
    job = buyer.submit(steps=12, segment_steps=3, checkpoint_segments=100)
    spans = []
    while buyer.job(job.job_id).state is not JobState.SUCCEEDED:
        for lease in market.offers():
            spans.append((lease.first_step, lease.step_count))
            assert terms_of(market, lease).values == lease.step_count
            worker.accept(lease)
            for first in range(0, lease.step_count, 3):
                steps = min(3, lease.step_count - first)
                keep = first + steps == lease.step_count
                if keep:
                    early = worker.send(worker.commitment(lease, steps, keep=False))
                    assert early.code == "CHECKPOINT_MISSING", "nothing of it would be durable"
                    end, index, _ = worker.position[lease.lease_id]
                    before = state(end - steps)
                    worker.position[lease.lease_id] = (end - steps, index - 1, before)
                assert worker.commit(lease, steps, keep=keep).accepted
        market.audit_all()
    assert spans == [(0, 5), (5, 5), (10, 2)]


def test_beyond_its_budget_the_house_is_asked_only_when_there_is_nobody_else(
    tmp_path: Path,
) -> None:
    market = World(tmp_path, replace(parameters(), max_house_flops=1))
    buyer, worker = market.buyer(), bonded(market, "ann")
    buyer.submit("first")
    (alone,) = market.offers()
    bonded(market, "bob")
    buyer.submit("second")
    (other,) = market.offers()
    house = [
        decode(AuditorList, market.see(market.application._draws_of, lease.lease_id).house).keys
        for lease in (alone, other)
    ]
    assert house == [(market.key.key_id,), ()]
    assert worker.key.key_id == alone.device_key_id
    market.close()


# --- what is published ----------------------------------------------------------------------------


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


def test_rates_of_the_projects_rules_are_what_the_quotes_say() -> None:
    assert rate_ppm(RULES, Level.DETER, 50, 1_000, 300_000) == 14_286
