"""What is drawn, and what follows from it in the market."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.trust.audit_policy import RULES, Level, rate_ppm
from flopmarket.trust.audit_records import check
from flopmarket.trust.challenge import AuditorList, ChallengeRecord, ChallengeTerms, leads_to
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.receipt import verify_receipt
from flopmarket_coordinator.application import dispatching
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import segments, work
from tests.unit.coordinator.drawn import FIFTH, bonded, finish, parameters, published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR, digest_of, state


@pytest.fixture
def market(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, parameters())
    yield made
    made.check()
    made.close()


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
        row for row in market.see(segments.of_job, job.job_id) if row.state is SegmentState.REJECTED
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
        for row in market.see(segments.of_job, job.job_id)
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


def test_rates_of_the_projects_rules_are_what_the_quotes_say() -> None:
    assert rate_ppm(RULES, Level.DETER, 50, 1_000, 300_000) == 14_286
