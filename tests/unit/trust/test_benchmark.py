"""Benchmark challenges: an honest device gets its rate, and every way to cheat has its end."""

from __future__ import annotations

from dataclasses import replace
from math import comb, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import Conflict, InvalidInput
from flopmarket.limits import MAX_BENCHMARK_ELEMENTS
from flopmarket.trust import benchmark, benchmark_verifier
from flopmarket.trust.benchmark import (
    REMEDIES,
    BenchmarkOpening,
    BenchmarkReason,
    BenchmarkReport,
    OpeningRequest,
    StageClaim,
    places,
    strides_of,
)
from flopmarket.trust.benchmark_prover import BenchmarkProver, LeafTree
from flopmarket.trust.benchmark_shape import (
    Advertised,
    MemoryShape,
    ProductShape,
    longest_stage_us,
    plan_memory,
    plan_products,
)
from flopmarket.trust.benchmark_verifier import BenchmarkVerifier, Phase
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import keys_by_id, open_envelope, seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.merkle import TreeBuilder, leaf_hash, root_from_proof
from tests.unit.trust import benchmark_bots as bots
from tests.unit.trust.benchmark_bots import (
    MEMORY,
    NONCE,
    PRODUCTS,
    SEED,
    STAGE_US,
    Device,
    plan_of,
    recompute,
    run,
)

RATE = PRODUCTS.flops * 1_000_000 // STAGE_US


def test_an_honest_device_gets_the_rate_it_has() -> None:
    verdict, verifier, _ = run(Device(), plan_of(memory=MEMORY))
    assert verdict.accepted, verdict
    assert verdict.rates.dot_flops_per_second == RATE
    assert verdict.rates.bandwidth_bytes_per_second == MEMORY.moved_bytes * 1_000_000 // STAGE_US
    assert verdict.rates.proven_memory_bytes == MEMORY.array_bytes
    assert verifier.phase is Phase.ENDED


def test_the_journey_of_a_root_counts_as_the_devices_time() -> None:
    """It delays the first root by both ways and no later one: the median does not see it."""
    near, _, _ = run(Device(), plan_of())
    far, verifier, _ = run(Device(), plan_of(), journey_us=200_000)
    report = verifier.report()
    assert report.arrived_at_us[0] - report.sent_at_us == STAGE_US + 400_000
    assert far.rates == near.rates


def test_one_slow_stage_does_not_change_the_rate_and_most_do() -> None:
    class Hiccups(Device):
        def __init__(self, slow: int) -> None:
            super().__init__()
            self._slow = slow

        def stage_seconds_us(self, stage: object) -> int:
            return self.stage_us * (3 if stage.number < self._slow else 1)  # type: ignore[attr-defined]

    assert run(Hiccups(3), plan_of())[0].rates.dot_flops_per_second == RATE
    assert run(Hiccups(5), plan_of())[0].rates.dot_flops_per_second == RATE // 3


# ---------------------------------------------------------------- who skips work


def caught(skipped: int, tiles: int, opened: int) -> float:
    """Probability that a draw without replacement meets a skipped tile."""
    return 1 - comb(tiles - skipped, opened) / comb(tiles, opened)


@pytest.mark.parametrize("share", [0.10, 0.25])
@pytest.mark.parametrize("opened", [32, 64])
def test_skipped_tiles_are_found_as_often_as_chance_says(share: float, opened: int) -> None:
    runs = 150
    total = PRODUCTS.stages * PRODUCTS.tile_count
    expected = caught(round(share * total), total, opened)
    found = 0
    for number in range(runs):
        seed = number.to_bytes(32, "big")
        bot = bots.Skipper(share, seed)
        verdict, _, _ = run(bot, plan_of(tiles=opened, seed=seed), seed=seed)
        assert verdict.reason in (BenchmarkReason.ACCEPTED, BenchmarkReason.TILE_WRONG)
        found += not verdict.accepted
    band = 4 * sqrt(runs * expected * (1 - expected)) + 1
    assert abs(found - runs * expected) <= band, (found, runs * expected)
    # Drawing without replacement is never worse than the figure that is promised.
    assert expected >= 1 - (1 - share) ** opened - 1e-3


# ---------------------------------------------------------------- who works on something else


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (bots.Precomputer(), BenchmarkReason.TILE_WRONG),
        (bots.Cluster(), BenchmarkReason.TILE_WRONG),
        (bots.Truncater(), BenchmarkReason.PROOF_INVALID),
        (Device(stage_us=5 * STAGE_US), BenchmarkReason.STAGE_LATE),
        (bots.Swapper(), BenchmarkReason.STAGE_LATE),
        (bots.SmallMemory(0.5), BenchmarkReason.READ_WRONG),
    ],
    ids=["another nonce", "stages side by side", "short proofs", "late", "swapping", "half memory"],
)
def test_a_cheat_ends_with_its_reason(device: Device, reason: BenchmarkReason) -> None:
    verdict, verifier, _ = run(device, plan_of(memory=MEMORY))
    assert verdict.reason is reason
    assert verdict.remedy and not verdict.accepted
    assert verdict.rates == benchmark.NO_RATES
    assert verifier.report().reason is reason


def test_every_reason_has_a_remedy() -> None:
    assert set(REMEDIES) == set(BenchmarkReason)


def test_a_device_with_half_of_the_memory_is_found_by_its_reads() -> None:
    """Eight reads meet a missing half but for one time in 256."""
    found = 0
    for number in range(40):
        seed = number.to_bytes(32, "big")
        verdict, _, _ = run(bots.SmallMemory(0.5), plan_of(memory=MEMORY, seed=seed), seed=seed)
        found += verdict.reason is BenchmarkReason.READ_WRONG
    assert found >= 38


def test_answers_to_another_challenge_are_refused() -> None:
    """A recorded run, replayed against the next nonce: at its first claim, or at its opening."""
    _, old, opening = run(Device(), plan_of())
    assert opening is not None
    verifier = fresh()
    assert verifier.ready(2) is not None
    recorded = StageClaim(opening.challenge, 0, old.report().roots[0])
    assert verifier.claim(recorded, 3) is None
    assert reason_of(verifier) is BenchmarkReason.OTHER_CHALLENGE

    verifier, prover, request = finished()
    assert prover.open(request).challenge != opening.challenge
    assert verifier.open(opening, 20) == ()
    assert reason_of(verifier) is BenchmarkReason.OTHER_CHALLENGE


def test_the_same_nonce_for_another_device_is_another_challenge() -> None:
    """The first key follows the plan, which names the device: cards cannot share one run."""
    roots = [run(Device(), plan_of(device=name))[1].report().roots for name in ("card-1", "card-2")]
    assert not set(roots[0]) & set(roots[1])


def test_an_opening_of_another_shape_is_refused() -> None:
    verifier, prover, request = finished()
    honest = prover.open(request)
    first = honest.leaves[0]
    smaller = replace(
        first,
        leaf=first.leaf[:64],
        proof=replace(first.proof, leaf_count=first.proof.leaf_count // 2),
    )
    if smaller.proof.leaf_index >= smaller.proof.leaf_count:
        smaller = replace(smaller, proof=replace(first.proof))
    assert verifier.open(replace(honest, leaves=(smaller, *honest.leaves[1:])), 20) == ()
    assert reason_of(verifier) is BenchmarkReason.SHAPE_WRONG


@pytest.mark.parametrize("kept", [0, 1, 31])
def test_an_incomplete_opening_is_refused(kept: int) -> None:
    verifier, prover, request = finished()
    honest = prover.open(request)
    assert verifier.open(replace(honest, leaves=honest.leaves[:kept]), 20) == ()
    assert reason_of(verifier) is BenchmarkReason.OPENING_INCOMPLETE


def test_leaves_in_another_order_are_refused() -> None:
    verifier, prover, request = finished()
    honest = prover.open(request)
    assert verifier.open(replace(honest, leaves=honest.leaves[::-1]), 20) == ()
    assert reason_of(verifier) is BenchmarkReason.OPENING_INCOMPLETE


def test_a_leaf_made_up_afterwards_is_refused() -> None:
    """Whoever skipped a tile may compute it once it is asked for: the root says otherwise."""
    verifier, prover, request = finished()
    honest = prover.open(request)
    made_up = replace(honest.leaves[0], leaf=bytes(len(honest.leaves[0].leaf)))
    assert verifier.open(replace(honest, leaves=(made_up, *honest.leaves[1:])), 20) == ()
    assert reason_of(verifier) is BenchmarkReason.PROOF_INVALID


def test_deadlines_end_a_challenge_in_every_phase() -> None:
    plan = plan_of()
    verifier = fresh(plan)
    assert verifier.expire(plan.ready_us) is None
    assert verifier.ready(plan.ready_us + 2) is None
    assert reason_of(verifier) is BenchmarkReason.NOT_READY

    verifier = fresh(plan)
    verifier.ready(10)
    assert verifier.deadline_us == 10 + plan.stage_us
    expired = verifier.expire(11 + plan.stage_us)
    assert expired is not None and expired.reason is BenchmarkReason.STAGE_LATE
    assert "stage 0" in expired.detail and verifier.deadline_us is None

    verifier, prover, request = finished()
    assert verifier.open(prover.open(request), 20 + plan.opening_us) == ()
    assert reason_of(verifier) is BenchmarkReason.OPENING_LATE


def test_a_stage_out_of_order_ends_the_challenge() -> None:
    verifier = fresh()
    start = verifier.ready(2)
    assert start is not None
    assert verifier.claim(StageClaim(digest(start), 1, bytes(32)), 3) is None
    assert reason_of(verifier) is BenchmarkReason.STAGE_OUT_OF_ORDER


def test_a_message_out_of_turn_ends_the_challenge_and_later_ones_change_nothing() -> None:
    claim = StageClaim(bytes(32), 0, bytes(32))
    verifier = fresh()
    assert verifier.claim(claim, 2) is None
    assert reason_of(verifier) is BenchmarkReason.STAGE_OUT_OF_ORDER
    assert verifier.ready(3) is None
    assert verifier.open(BenchmarkOpening(bytes(32), ()), 4) == ()
    assert reason_of(verifier) is BenchmarkReason.STAGE_OUT_OF_ORDER

    verifier = fresh()
    verifier.ready(2)
    assert verifier.open(BenchmarkOpening(bytes(32), ()), 3) == ()
    assert reason_of(verifier) is BenchmarkReason.STAGE_OUT_OF_ORDER

    verifier, _, _ = finished()
    assert verifier.claim(replace(claim, stage=8), 11) is None  # one stage more than there are
    assert reason_of(verifier) is BenchmarkReason.STAGE_OUT_OF_ORDER


def test_the_owner_of_a_machine_drives_it_in_order() -> None:
    verifier, prover = fresh(), BenchmarkProver(plan_of())
    with pytest.raises(Conflict):
        verifier.report()
    with pytest.raises(Conflict):
        verifier.conclude([])
    with pytest.raises(Conflict):
        prover.finished([])
    start = verifier.ready(2)
    assert start is not None
    prover.start(start)
    with pytest.raises(Conflict):
        prover.start(start)
    with pytest.raises(Conflict):
        prover.open(OpeningRequest(digest(start), SEED))
    with pytest.raises(InvalidInput, match="leaves"):
        prover.finished([b""])
    with pytest.raises(InvalidInput, match="another plan"):
        BenchmarkProver(plan_of(tiles=33)).start(start)
    with pytest.raises(InvalidInput, match="another seed"):
        BenchmarkVerifier(plan_of(), nonce=NONCE, sampling_seed=b"x" * 32, offered_at_us=0)


def test_a_device_opens_only_what_the_plan_had_fixed() -> None:
    _, prover, request = finished()
    with pytest.raises(InvalidInput, match="other places"):
        prover.open(replace(request, sampling_seed=b"x" * 32))
    assert isinstance(prover.open(request), BenchmarkOpening)
    with pytest.raises(Conflict, match="every stage is done"):
        prover.finished([])


# ---------------------------------------------------------------- reports


def test_a_signed_report_leads_anybody_to_the_same_verdict() -> None:
    verdict, verifier, opening = run(Device(), plan_of(memory=MEMORY))
    assert opening is not None and verdict.accepted
    key = KeyPair.generate()
    envelope = seal(
        verifier.report(), key, audience="all", nonce=b"0" * 16, issued_at_us=1, expires_at_us=9
    )
    opened = open_envelope(
        envelope,
        BenchmarkReport,
        keys=keys_by_id(key.public),
        audience="all",
        now_us=None,
        replay=None,
    )
    kept = decode(BenchmarkOpening, encode(opening))
    tasks = benchmark_verifier.tasks_of(opened.body, kept)
    assert isinstance(tasks, tuple)
    assert benchmark_verifier.compare(tasks, recompute(tasks)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"dot_flops_per_second": RATE * 2},
        {"proven_memory_bytes": 1 << 40},
        {"sampling_seed": b"x" * 32},
        {"roots": (bytes(32),)},
        {"opening_digest": bytes(32)},
        {"reason": BenchmarkReason.STAGE_LATE},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_report_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    _, verifier, opening = run(Device(), plan_of())
    assert opening is not None
    with pytest.raises(InvalidInput, match="not sound"):
        benchmark_verifier.tasks_of(replace(verifier.report(), **change), opening)  # type: ignore[arg-type]


def test_a_report_with_another_nonce_does_not_fit_its_opening() -> None:
    _, verifier, opening = run(Device(), plan_of())
    assert opening is not None
    refused = benchmark_verifier.tasks_of(replace(verifier.report(), nonce=bytes(32)), opening)
    assert not isinstance(refused, tuple)
    assert refused.reason is BenchmarkReason.OTHER_CHALLENGE


# ---------------------------------------------------------------- places, keys, shapes


@given(st.binary(min_size=32, max_size=32), st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_places_are_different_inside_the_shape_and_repeatable(seed: bytes, tiles: int) -> None:
    plan = plan_of(tiles=tiles, memory=MEMORY, seed=seed)
    found = places(plan, seed)
    assert found == places(plan, seed)
    assert len(set(found)) == len(found) == tiles + 12
    for place in found:
        index, first, size = benchmark.leaf_of(plan, place)
        assert 0 <= index < plan.shapes.leaf_count(place.stage)
        assert 0 <= first < first + size <= plan.shapes.leaf_bytes(place.stage)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40))
def test_a_leaf_tree_has_the_root_and_proofs_of_the_others(leaves: list[bytes]) -> None:
    builder = TreeBuilder()
    for leaf in leaves:
        builder.append(leaf_hash(leaf))
    tree = LeafTree(leaves)
    assert tree.root == builder.root()
    for index, leaf in enumerate(leaves):
        assert root_from_proof(leaf_hash(leaf), tree.proof(index)) == tree.root


def test_a_stage_follows_the_nonce_the_root_before_and_its_number() -> None:
    start = benchmark.BenchmarkStart(bytes(32), NONCE)
    roots = [b"a" * 32, b"b" * 32]
    keys = {
        benchmark.stage_key(start, 0, []),
        benchmark.stage_key(start, 1, roots),
        benchmark.stage_key(start, 2, roots),
        benchmark.stage_key(start, 1, roots[::-1]),
        benchmark.stage_key(replace(start, nonce=SEED), 1, roots),
        benchmark.stage_key(replace(start, plan_digest=SEED), 0, []),
    }
    assert len(keys) == 6
    assert len({benchmark.seed_of(key) for key in keys}) == 6


def test_strides_stay_inside_the_array() -> None:
    for number in range(50):
        strides = strides_of(bytes([number]) * 32, MEMORY)
        assert len(strides) == MEMORY.passes
        assert all(0 < stride < MEMORY.elements for stride in strides)


@pytest.mark.parametrize("flops", [10**9, 80 * 10**9, 25 * 10**12, 60 * 10**12])
def test_a_plan_takes_the_time_it_should_at_the_advertised_rate(flops: int) -> None:
    advertised = Advertised(flops, 500 * 10**9, 24 << 30)
    shape = plan_products(advertised)
    seconds = shape.stages * shape.flops / flops
    assert 8 <= shape.stages <= 16
    assert 15 <= seconds <= 25, (shape, seconds)
    assert longest_stage_us(benchmark.Shapes(shape, MEMORY), advertised) > 4 * 10**6


@given(st.integers(0, 1 << 38), st.integers(0, 4 * 10**12))
def test_memory_stages_fit_into_the_memory_and_the_time(memory: int, bandwidth: int) -> None:
    shape = plan_memory(Advertised(10**12, bandwidth, memory))
    if shape.stages:
        assert 5 * shape.array_bytes <= memory
        assert 8 * shape.moved_bytes <= 4 * bandwidth
    else:
        assert memory * 7 // 8 < 5 << 20 or bandwidth < 8 * 38 << 18


@given(st.integers(0, 1 << 40))
def test_a_large_card_is_asked_for_no_more_than_an_array_may_have(most_elements: int) -> None:
    card = Advertised(40 * 10**12, 4 * 10**12, 140 << 30)
    shape = plan_memory(card, most_elements=most_elements)
    assert shape.elements <= min(most_elements, MAX_BENCHMARK_ELEMENTS)
    assert shape.elements == MAX_BENCHMARK_ELEMENTS or most_elements < MAX_BENCHMARK_ELEMENTS


@pytest.mark.parametrize(
    "shape",
    [(0, 1, 64, 1), (1, 0, 64, 1), (1, 1, 65, 1), (1, 1, 1 << 20, 1), (1, 1, 64, 0), (99,) * 4],
)
def test_a_shape_beyond_its_limits_is_refused(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInput) as error:
        ProductShape(*shape)
    assert error.value.code == "BENCHMARK_SHAPE"


@pytest.mark.parametrize("shape", [(0, 1, 0, 0), (1, 1, 1, 1024), (1, 1 << 18, 99, 1024)])
def test_a_memory_shape_beyond_its_limits_is_refused(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        MemoryShape(*shape)


@pytest.mark.parametrize(
    "change",
    [
        {"opened_tiles": 0},
        {"opened_tiles": 129},
        {"opened_blocks": 1},
        {"opened_reads": 1},
        {"stage_us": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_plan_that_asks_for_what_is_not_there_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        replace(plan_of(), **change)  # type: ignore[arg-type]


def fresh(plan: benchmark.BenchmarkPlan | None = None) -> BenchmarkVerifier:
    """A verifier of an offered challenge with a nonce of its own."""
    return BenchmarkVerifier(
        plan or plan_of(), nonce=b"f" * 32, sampling_seed=SEED, offered_at_us=1
    )


def finished() -> tuple[BenchmarkVerifier, BenchmarkProver, OpeningRequest]:
    """Both sides of a challenge whose stages are done, at time 10."""
    verifier, prover, device = fresh(), BenchmarkProver(plan_of()), Device()
    start = verifier.ready(2)
    assert start is not None
    prover.start(start)
    request = None
    while (stage := prover.stage) is not None:
        request = verifier.claim(prover.finished(device.leaves(prover.plan, stage, start)), 10)
    assert request is not None
    return verifier, prover, request


def reason_of(verifier: BenchmarkVerifier) -> BenchmarkReason | None:
    return verifier.verdict.reason if verifier.verdict else None
