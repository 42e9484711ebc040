"""Attacks on audits in the real application: copies, early knowledge of a draw, a shared bug."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import Conflict
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.challenge import Purpose
from flopmarket.trust.documents import Commitment
from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.sealing import InnerSecret
from flopmarket_coordinator.application.types_working import (
    CommitmentAnswer,
    HeldLease,
    LeaseOffered,
    OpeningAsked,
    SegmentCommit,
)
from flopmarket_coordinator.core.lifecycle import JobState, SegmentState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import segments
from tests.unit.coordinator.auditors import (
    EVERYTHING,
    Club,
    audit_offer,
    auditor,
    club_parameters,
    market,
    strikes,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import digest_of, state

STEPS = 8


def committed(world: World, worker: Worker, commit: SegmentCommit) -> Commitment:
    """What a worker signed."""
    return open_envelope(
        commit.commitment,
        Commitment,
        keys=keys_by_id(worker.key.public),
        audience=world.key.key_id,
        now_us=None,
        replay=None,
    ).body


def test_a_copy_of_a_result_and_its_seal_is_never_accepted(tmp_path: Path) -> None:
    """The copier has every root of the producer and the sealed value, and not what it hides."""
    club = Club(World(tmp_path, club_parameters()))
    world = club.world
    buyer, producer, job = market(club, "first", "second", steps=3, verification=Level.DUAL)
    sent: list[SegmentCommit] = []
    original = producer.send

    def overheard(commit: SegmentCommit) -> CommitmentAnswer:
        sent.append(commit)
        return original(commit)

    producer.send = overheard  # type: ignore[method-assign]
    offer = audit_offer(club)
    copier = club.workers[offer.device_key_id]
    seen = committed(world, producer, sent[0])
    copier.accept(offer)
    own = copier.commitment(offer, 3)
    copy = replace(
        committed(world, copier, own),
        state_root_after=seen.state_root_after,
        outputs_root=seen.outputs_root,
        sealed_inner=seen.sealed_inner,
    )
    copier.send(replace(own, commitment=world.sign(copy, copier.key)))
    club.silent |= {copier.key.key_id}
    club.turn()
    asked = next(item for item in club.seen if isinstance(item, OpeningAsked))
    assert asked.device_key_id == copier.key.key_id, "the producer opens only after its auditor"
    for secret in (
        copier.secret(offer.lease_id, 0, 0),
        InnerSecret(copier.key.key_id, bytes(32), bytes(32)),
        InnerSecret(producer.key.key_id, bytes(32), bytes(32)),
    ):
        with pytest.raises(Conflict) as caught:
            copier.open(asked, secret)
        assert caught.value.code in ("AUDIT_OPENING_WRONG", "AUDIT_NOT_EXPECTED")
    assert buyer.job(job.job_id).state is not JobState.SUCCEEDED
    world.now_us += 61 * SECOND_US
    club.turn()
    (audit,) = club.audits()
    assert audit.outcome == "EQUAL" and audit.auditor_key_id != copier.key.key_id
    assert copier.balances.available_nano == copier.balances.held_nano == 0
    assert strikes(club, StrikeKind.AUDITOR_SILENT) == 1
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    world.check()
    world.close()


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from(["dispatch", "again", "restart", "hello", "beat"]), max_size=16))
def test_nothing_that_is_said_before_a_commitment_tells_its_draw(between: list[str]) -> None:
    """Every message to producer, auditor and buyer is searched for the values that decide. Each
    value is said for the first time in the answer to the commitment that it decides about.
    """
    with tempfile.TemporaryDirectory() as folder:
        rules = replace(EVERYTHING, floor_ppm=300_000, full_streak=0, onboarding_streak=0)
        club = Club(World(Path(folder), club_parameters(rules)))
        world = club.world
        buyer, producer, job = market(club, "first", steps=STEPS, segment_steps=1)
        lease = next(item for item in world.match() if isinstance(item, LeaseOffered))
        chain = world.application._chains.get(lease.lease_id, Purpose.AUDIT, STEPS)
        producer.accept(lease)
        heard: list[object] = [lease]
        first = auditor(club)
        sent = first.send

        def listening(commit: SegmentCommit) -> CommitmentAnswer:
            heard.append(sent(commit))
            return heard[-1]  # type: ignore[return-value]

        first.send = listening  # type: ignore[method-assign]
        steps, commit = iter(between), None
        for index in range(1, STEPS + 1):
            for what in (next(steps, "dispatch"), next(steps, "beat")):
                match what:
                    case "dispatch":
                        heard += club.round(run=index > STEPS // 2)
                    case "again" if commit is not None:
                        heard.append(producer.send(commit))
                    case "restart":
                        world.restart()
                        heard.append(producer.hello((HeldLease(lease.lease_id, lease.fence),)))
                    case "hello":
                        heard.append(producer.hello((HeldLease(lease.lease_id, lease.fence),)))
                    case _:
                        heard.append(producer.heartbeat(lease))
            application = world.application
            heard.append(buyer.job(job.job_id))
            heard.append(world.see(application.explain_offers, producer.session))
            heard += [world.see(application.job_events, buyer.session, job.job_id, 0, 500)]
            with pytest.raises(Conflict, match="published when it ends"):
                world.see(application.list_audits, producer.session, job.job_id, 50, "")
            said = pickle.dumps(heard)
            for later in range(index, STEPS + 1):
                value = chain.value(later)
                assert value not in said and value.hex().encode() not in said
            commit = producer.commitment(lease, 1)
            answer = producer.send(commit)
            assert answer.challenge_value == chain.value(index)
            heard.append(answer)
            assert chain.value(index) in pickle.dumps(heard), "a value that was said is seen"
        world.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"state_root_before": digest_of("a start of its own")}, "WRONG_STATE"),
        ({"checkpoint_artifact": ""}, "CHECKPOINT_MISSING"),
        ({"checkpoint_artifact": "f" * 64}, "ARTIFACT_MISSING"),
        ({"outputs_artifact": ""}, "OUTPUTS_MISSING"),
        ({"outputs_artifact": "f" * 64}, "ARTIFACT_MISSING"),
    ],
)
def test_what_an_audit_needs_is_here_before_a_commitment_counts(
    tmp_path: Path, change: dict[str, object], code: str
) -> None:
    """So nobody can block an audit by keeping a state to itself: nothing was delivered then."""
    world = World(tmp_path, club_parameters())
    world.buyer().submit(steps=6)
    worker = world.worker("keeper")
    (lease,) = world.offers()
    worker.accept(lease)
    commit = worker.commitment(lease, 3)
    if "state_root_before" in change:
        body = replace(committed(world, worker, commit), **change)  # type: ignore[arg-type]
        commit = replace(commit, commitment=world.sign(body, worker.key))
    else:
        commit = replace(commit, **change)  # type: ignore[arg-type]
    answer = worker.send(commit)
    assert (answer.accepted, answer.code) == (False, code)
    assert world.see(segments.of_job, lease.job_id) == []
    assert worker.balances.held_nano == worker.balances.available_nano == 0
    world.close()


def drivers_secret(key: str, lease_id: str, index: int, first_step: int) -> InnerSecret:
    """What a worker with the shared bug seals: its own key and salt, and the bug's checksums."""
    return InnerSecret(
        key, digest_of(f"salt {lease_id} {index}"), digest_of(f"driver's checksum {first_step}")
    )


def test_a_bug_that_two_owners_share_is_found_by_the_house(tmp_path: Path) -> None:
    """Producer and auditor have the same wrong driver and agree on every bit, the sealed checksums
    included. The tenth of all audits that the house recomputes with the reference ends it.
    """
    rules = replace(EVERYTHING, house_ppm=RULES.house_ppm)
    club = Club(World(tmp_path, club_parameters(rules)))
    world = club.world
    buyer, producer, job = market(club, "first", steps=120)
    for worker in club.workers.values():
        worker.lie = lambda step: digest_of(f"rounded by a driver {step}")
        worker.secret = partial(drivers_secret, worker.key.key_id)  # type: ignore[method-assign]
    club.turn(200)
    believed = [row for row in club.audits() if row.outcome == "EQUAL"]
    assert len(believed) >= 30, "two devices with one bug find each other right"
    assert {row.root_after for row in world.see(segments.of_job, job.job_id)}.isdisjoint(
        {state(step) for step in range(0, 121, 3)}
    )
    world.audit_all()
    rows = world.see(segments.of_job, job.job_id)
    assert rows[0].state is SegmentState.REJECTED
    assert {row.state for row in rows[1:]} <= {SegmentState.REJECTED, SegmentState.VOID}
    assert producer.balances.available_nano == producer.balances.held_nano == 0
    assert "slashed" in buyer.kinds(job.job_id)
    first = next(worker for worker in club.workers.values() if worker.name == "first")
    assert first.balances.bond_nano == 0, "who agreed loses what the producer loses"
    club.add(world.worker("third", ask=200_000_000))
    for _ in range(10):
        club.turn()
        world.audit_all()
        if buyer.job(job.job_id).state is JobState.SUCCEEDED:
            break
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
    rows = world.see(segments.of_job, job.job_id)
    settled = [row for row in rows if row.state is SegmentState.SETTLED]
    assert {row.root_after for row in settled} == {state(step) for step in range(3, 121, 3)}
    world.check()
    world.close()
