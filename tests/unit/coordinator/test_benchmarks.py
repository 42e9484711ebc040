"""Benchmark challenges as the market sees them: who gets work, at which rate, and who is caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.market.proof import ONE_PPM, OWN_WORK_BOUND
from flopmarket.market.reasons import Reason
from flopmarket.trust.benchmark_file import benchmark_file, read_benchmark_file
from flopmarket.trust.benchmark_schedule import DAY_US
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_market import OfferQuery
from flopmarket_coordinator.application.types_working import TimeReport
from flopmarket_coordinator.core import proving
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator import world_people
from tests.unit.coordinator.challenged import DOT_RATE, Card, Rented, Yard
from tests.unit.coordinator.world_work import BATCH, digest_of
from tests.unit.trust import benchmark_bots as bots

ACCEPTED = "BENCHMARK_ACCEPTED"
SKIP_RUNS = 60


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.world.check()
    made.world.close()


# ---------------------------------------------------------------- first listing


def test_a_new_device_gets_no_lease_before_its_first_challenge(yard: Yard) -> None:
    yard.world.buyer().submit()
    device = yard.rent("card")
    assert yard.world.offers() == []
    assert yard.challenge() == 1
    assert device.verdicts[0].reason == ACCEPTED
    (lease,) = yard.world.offers()
    assert lease.device_id == device.device_id


def test_a_quote_and_a_reason_count_an_unproved_device_apart(yard: Yard) -> None:
    buyer = yard.world.buyer()
    job = buyer.submit()
    device = yard.rent("card")
    application = yard.world.application
    assert yard.world.offers() == []
    why = yard.world.see(application.explain_job, buyer.session, job.job_id)
    assert [item.reason for item in why.reasons] == [Reason.UNPROVED]
    (told,) = yard.world.see(application.explain_offers, device.session)
    assert "has not been challenged yet" in told.proof
    assert not any(price.offers for price in yard.world.see(application.spot).prices)
    yard.challenge()
    (told,) = yard.world.see(application.explain_offers, device.session)
    assert told.proof.startswith("proved 20.0 GFLOPS")


def test_while_it_is_challenged_a_device_gets_no_lease(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    yard.wait(2 * 86_400)
    assert yard.look() == 1
    yard.world.buyer().submit()
    assert yard.world.offers() == []
    yard.play()
    assert len(yard.world.offers()) == 1
    assert [verdict.reason for verdict in device.verdicts] == [ACCEPTED, ACCEPTED]


def test_a_device_that_computes_for_a_buyer_is_left_alone(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    yard.world.buyer().submit()
    (lease,) = yard.world.offers()
    device.accept(lease)
    yard.wait(3 * 86_400)
    assert yard.look() == 0


def test_one_that_failed_is_asked_again_later_and_later(yard: Yard) -> None:
    device = yard.rent("card", opening_delay_us=60 * SECOND_US)
    waits = []
    for _ in range(4):
        assert yard.challenge() == 1
        before = yard.world.now_us
        while not yard.look():
            yard.wait(5)
        waits.append((yard.world.now_us - before) / SECOND_US)
        yard.play()
        yard.wait(86_400)
    assert {verdict.reason for verdict in device.verdicts} == {"BENCHMARK_OPENING_LATE"}
    assert all(later > earlier for earlier, later in pairwise(waits))


def test_another_challenge_comes_once_or_twice_a_day_and_at_no_known_moment(yard: Yard) -> None:
    first, second = yard.rent("card"), yard.rent("other")
    moments: dict[str, list[int]] = {"card": [], "other": []}
    began = yard.world.now_us
    while yard.world.now_us - began < 4 * DAY_US:
        yard.challenge()
        for device in (first, second):
            at = yard.standing(device).challenged_at_us
            if not moments[device.name] or moments[device.name][-1] != at:
                moments[device.name].append(at)
        yard.wait(600)
    assert all(4 <= len(found) - 1 <= 9 for found in moments.values())
    assert not {*moments["card"][1:]} & {*moments["other"][1:]}


# ---------------------------------------------------------------- what it does to rates


def test_a_stated_rate_is_cut_to_what_was_proved_and_never_raised(yard: Yard) -> None:
    boaster = yard.rent("boaster", stated=3 * DOT_RATE)
    modest = yard.rent("modest", stated=DOT_RATE // 2)
    yard.challenge()
    assert yard.rate(boaster) == pytest.approx(DOT_RATE, rel=1e-3)
    assert yard.rate(modest) == DOT_RATE // 2
    listing = yard.world.application.keeper.book.listing(boaster.offer_id)
    assert listing is not None
    others = listing.offer.rates.flops_per_second["elementwise-f32"]
    # not measured: it falls as far as a challenge's own work does not explain
    assert others == pytest.approx(OWN_WORK_BOUND * DOT_RATE, rel=1e-3)


def test_stating_more_than_four_times_the_truth_is_late(yard: Yard) -> None:
    device = yard.rent("liar", stated=40 * DOT_RATE)
    yard.challenge()
    assert device.verdicts[0].reason == "BENCHMARK_STAGE_LATE"
    assert yard.rate(device) == 0


def test_another_driver_wants_another_challenge(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    assert yard.rate(device)
    terms = device.terms()
    device.terms = lambda: replace(terms, driver="another")  # type: ignore[method-assign]
    device.hello()
    assert yard.rate(device) == 0
    assert yard.challenge() == 1
    assert yard.rate(device)


def heavy_program(stateless: bool = False) -> Program:
    """Thirty milliseconds of products at :data:`DOT_RATE`, and hardly a byte."""
    form, square = (dtypes.float32, (BATCH, 8)), (dtypes.float32, (1, 256, 256))
    rows, kept = graph.input_("input", "x", *form), graph.input_("state", "w", *square)
    product = kept
    for _ in range(20):
        product = graph.dot(product, kept)
    return Program.build(
        frozen=(),
        state=[TensorSpec("w", *square)],
        inputs=[TensorSpec("x", *form)],
        next_state=[product],
        outputs=[("y", graph.mul(rows, rows))],
    )


def delivered(yard: Yard, device: Rented, name: str, slowness: int, segments: int = 24) -> int:
    """A job whose steps take ``slowness`` times what the proved rate promises; what a step of the
    next one is predicted to take, in picoseconds."""
    world = yard.world
    buyer = world.buyer(f"buyer of {name}")
    buyer.submit(name, steps=3 * segments)
    (lease,) = world.offers()
    device.accept(lease)
    step_us = heavy_program().cost.flops["dot-f32"] * SECOND_US // DOT_RATE
    for _ in range(segments):
        world.now_us += 3 * step_us * slowness
        commit = replace(device.commitment(lease, 3), times=TimeReport(3 * step_us * slowness))
        assert device.send(commit).accepted
    world.audit_all()
    return predicted(yard, device)


def predicted(yard: Yard, device: Rented) -> int:
    listing = yard.world.application.keeper.book.listing(device.offer_id)
    assert listing is not None
    facts = yard.world.application._programs.of_bytes(heavy_program().to_bytes())
    return listing.offer.predict(facts.job_work(3, 0)).step_picoseconds


def test_a_fast_card_for_the_benchmark_and_a_slow_one_for_work(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists show a quarter after 24 segments; predictions have a factor of four, and a proof of the
    slowness does not make sixteen of it."""
    monkeypatch.setattr(world_people, "program", heavy_program)
    device = yard.rent("card")
    yard.challenge()
    honest = predicted(yard, device)
    slow = delivered(yard, device, "first", 4)
    assert slow == pytest.approx(4 * honest, rel=0.01)
    (view,) = yard.world.see(yard.world.application.list_offers, OfferQuery()).offers
    assert view.proof is not None and 0.25 <= view.proof.delivered_ppm / ONE_PPM <= 0.25 * 1.09
    assert view.rates["dot-f32"] <= 0.25 * 1.09 * DOT_RATE
    (price,) = (
        item for item in yard.world.see(yard.world.application.spot).prices
        if item.work_class == "dot-f32"
    )  # fmt: skip
    assert price.flops_per_dollar_hour == pytest.approx(view.rates["dot-f32"] / 0.36, rel=1e-6)
    device.card.rate = DOT_RATE // 3  # now the benchmark shows most of it, too
    for _ in range(6):
        yard.wait(86_400)
        yard.challenge()
    assert yard.rate(device) == pytest.approx(DOT_RATE / 3, rel=0.05)
    assert predicted(yard, device) == pytest.approx(4 * honest, rel=0.05)


def test_the_share_that_was_delivered_is_a_running_average_within_bounds() -> None:
    standing = proving.Standing(b"i", flops_per_second=DOT_RATE, proved_at_us=1)
    for _ in range(20):
        standing = proving.delivered(standing, roofline_us=1_000_000, measured_us=4_000_000)
    assert standing.proof is not None
    assert 0.25 <= standing.proof.delivered_ppm / ONE_PPM <= 0.25 * 1.09
    for _ in range(40):
        standing = proving.delivered(standing, roofline_us=1_000_000, measured_us=500_000)
    assert standing.proof is not None and standing.proof.delivered_ppm == ONE_PPM


# ---------------------------------------------------------------- one card sold twice


def test_one_card_behind_two_sessions_of_one_account_is_worth_one(yard: Yard) -> None:
    card = Card()
    first, second = (
        yard.rent("one", owner="ann", card=card),
        yard.rent("two", owner="ann", card=card),
    )
    assert yard.challenge() == 2
    assert [item.verdicts[0].reason for item in (first, second)] == [ACCEPTED, ACCEPTED]
    assert yard.rate(first) + yard.rate(second) <= 1.1 * DOT_RATE


def test_one_card_that_was_proved_alone_is_found_when_it_comes_twice(yard: Yard) -> None:
    """Each half is challenged while the other is away; then both are here at once."""
    card = Card()
    devices = []
    for name in ("one", "two"):
        device = yard.rent(name, owner=f"owner {name}", address="203.0.113.9", card=card)
        yard.challenge()
        assert yard.rate(device) == pytest.approx(DOT_RATE, rel=1e-3)
        yard.world.do(yard.world.application.worker_gone, device.session)
        devices.append(device)
    for device in devices:
        device.hello()
    assert yard.challenge() == 2
    assert sum(yard.rate(device) for device in devices) <= 1.1 * DOT_RATE
    assert {yard.standing(device).sharing for device in devices} == {"one_card"}
    assert yard.look() == 0  # they have met


@pytest.mark.parametrize("told", [True, False])
def test_one_card_of_two_accounts_elsewhere_is_found_by_its_fingerprint(
    yard: Yard, told: bool
) -> None:
    """Nothing but what they say of their card links the two; what they show decides."""
    card, fingerprint = Card(), digest_of("a card") if told else b""
    for place in ("203.0.113.9", "198.51.100.9"):
        yard.rent(f"at {place}", address=place, card=card, fingerprint=fingerprint)
    assert yard.challenge() == 2
    assert [row.joint for row in yard.challenges()] == [told, told]


def test_a_copied_fingerprint_takes_nothing_from_the_card_it_is_of(yard: Yard) -> None:
    fingerprint = digest_of("a card")
    honest = yard.rent("honest", address="203.0.113.9", fingerprint=fingerprint)
    yard.challenge()
    yard.rent("liar", address="198.51.100.9", fingerprint=fingerprint)
    yard.challenge()
    assert [row.joint for row in yard.challenges()].count(True) == 2
    assert yard.rate(honest) == pytest.approx(DOT_RATE, rel=1e-3)


def test_two_cards_of_one_owner_keep_their_rates(yard: Yard) -> None:
    devices = [yard.rent(name, owner="ann") for name in ("one", "two", "three")]
    assert yard.challenge() == 3
    for device in devices:
        assert yard.rate(device) == pytest.approx(DOT_RATE, rel=1e-3)


def test_strangers_elsewhere_are_challenged_alone(yard: Yard) -> None:
    yard.rent("one", address="203.0.113.9")
    yard.rent("two", address="198.51.100.9")
    assert yard.challenge() == 2
    assert [row.joint for row in yard.challenges()] == [False, False]


def test_a_neighbour_that_never_gets_ready_does_not_hold_up_the_others(yard: Yard) -> None:
    good = yard.rent("good", owner="ann")
    silent = yard.rent("silent", owner="ann")
    yard.look()
    # The plans went out in the order of the offers; of the two ready messages one gets lost.
    yard._events = [event for event in yard._events if event[3] is not silent]
    yard.play()
    assert good.verdicts[0].reason == ACCEPTED
    assert silent.verdicts[0].reason == "BENCHMARK_NOT_READY"


# ---------------------------------------------------------------- who cheats


def test_skipping_a_tenth_is_found_as_often_as_chance_says(yard: Yard) -> None:
    found = 0
    for number in range(SKIP_RUNS):
        device = yard.rent(f"skipper {number}", bot=bots.Skipper(0.10, number.to_bytes(8, "big")))
        yard.challenge()
        (verdict,) = device.verdicts
        assert verdict.reason in (ACCEPTED, "BENCHMARK_TILE_WRONG")
        found += verdict.reason != ACCEPTED
        assert bool(yard.rate(device)) == (verdict.reason == ACCEPTED)
        yard.world.do(yard.world.application.worker_gone, device.session)
    expected = 1 - 0.9**32
    band = 4 * sqrt(SKIP_RUNS * expected * (1 - expected)) + 1
    assert abs(found - SKIP_RUNS * expected) <= band


@pytest.mark.parametrize(
    ("bot", "reason"),
    [
        (bots.Precomputer(), "BENCHMARK_TILE_WRONG"),
        (bots.Cluster(), "BENCHMARK_TILE_WRONG"),
        (bots.Truncater(), "BENCHMARK_PROOF_INVALID"),
    ],
)
def test_a_cheat_is_refused_and_stays_without_work(
    yard: Yard, bot: bots.Device, reason: str
) -> None:
    device = yard.rent("cheat", bot=bot)
    yard.world.buyer().submit()
    yard.challenge()
    (verdict,) = device.verdicts
    assert verdict.reason == reason and verdict.remedy
    assert yard.world.offers() == []


def test_lower_precision_is_other_bits(yard: Yard) -> None:
    class Rounding(bots.Device):
        def tile(self, stage: object, key: bytes, place: object) -> bytes:
            exact = super().tile(stage, key, place)  # type: ignore[arg-type]
            return exact[:-1] + bytes([exact[-1] & 0xF0])

    device = yard.rent("float16", bot=Rounding())
    yard.challenge()
    assert device.verdicts[0].reason == "BENCHMARK_TILE_WRONG"


def test_late_openings_garbage_and_messages_out_of_turn(yard: Yard) -> None:
    late = yard.rent("late", opening_delay_us=11 * SECOND_US)
    garbled = yard.rent("garbled", garbage=lambda opening: opening[: len(opening) // 2])
    noise = yard.rent("noise", garbage=lambda opening: b"\xff" * 1000)
    huge = yard.rent("huge", garbage=lambda opening: bytes(1 << 20))
    yard.challenge()
    assert late.verdicts[0].reason == "BENCHMARK_OPENING_LATE"
    for device in (garbled, noise, huge):
        assert device.verdicts[0].reason == "BENCHMARK_MALFORMED", device.name


def test_a_recorded_challenge_cannot_be_played_again(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    recorded = list(device.replayed)
    yard.wait(2 * 86_400)
    yard.look()
    (name,) = yard.desk._live
    yard._events.clear()
    yard.say(device, benchmark_stage=worker_pb2.BenchmarkStage(challenge_id=name, ready=True))
    yard._events.clear()
    claim = recorded[1].benchmark_stage.claim
    yard.say(device, benchmark_stage=worker_pb2.BenchmarkStage(challenge_id=name, claim=claim))
    yard.play()
    assert device.verdicts[-1].reason == "BENCHMARK_OTHER_CHALLENGE"


def test_nobody_answers_for_another_device(yard: Yard) -> None:
    victim, thief = yard.rent("victim"), yard.rent("thief")
    yard.look()
    name = next(
        name for name, live in yard.desk._live.items() if live.asked.device_id == victim.device_id
    )
    declined = worker_pb2.BenchmarkDeclined(code="BUSY")
    message = worker_pb2.BenchmarkStage(challenge_id=name, declined=declined)
    yard.desk.stage(thief.key.key_id, message, yard.world.now_us)
    yard.play()
    assert victim.verdicts[0].reason == ACCEPTED


# ---------------------------------------------------------------- what breaks


def test_a_restart_voids_open_challenges_without_harm(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    proved = yard.standing(device)
    yard.wait(2 * 86_400)
    yard.look()
    yard._events.clear()
    yard.world.restart()
    yard.open_desk()
    assert yard.world.do(yard.world.application.void_open_challenges) == 1
    now = yard.standing(device)
    assert (now.proved_at_us, now.failures) == (proved.proved_at_us, 0)
    assert yard.rate(device)
    assert yard.challenge() == 1
    assert device.verdicts[-1].reason == ACCEPTED


def test_hanging_up_on_challenges_loses_the_proof(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    for number in range(proving.VOIDS_UNTIL_UNPROVED):
        assert yard.rate(device), number
        yard.wait(2 * 86_400)
        assert yard.look() == 1
        yard._events.clear()
        yard.desk.gone(device.key.key_id)
        yard.play()
    assert yard.rate(device) == 0
    assert yard.standing(device).reason == "BENCHMARK_DISCONNECTED"


def test_a_report_can_be_read_by_anybody(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    opening = device.replayed[-1].benchmark_opening.opening
    file = benchmark_file(device.verdicts[0].report, opening, yard.world.key.public.raw)
    read = read_benchmark_file(file, yard.world.key.public)
    assert read.trusted and read.report.plan.device_id == device.device_id
    assert read.report.dot_flops_per_second == pytest.approx(DOT_RATE, rel=1e-3)


@given(st.integers(1, 10**15), st.integers(0, 10**15))
def test_nobody_in_a_group_is_worth_more_than_what_it_showed_at_once(
    alone: int, together: int
) -> None:
    """``together`` is 0 where a device was never challenged beside others."""
    standing = proving.Standing(bytes(32), alone, together)
    assert standing.worth_flops_per_second <= alone
    assert not together or standing.worth_flops_per_second <= together
