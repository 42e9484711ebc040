"""A planted fault is found exactly: its step, its operation, its tile, and who is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine.graph import Op
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.errors import LimitExceeded
from flopmarket.jobs.dispute_replay import replay_file
from flopmarket.jobs.instrument import instrument
from flopmarket.jobs.operations import (
    Elements,
    Operation,
    Part,
    StepPlan,
    blocks,
    matrices,
    words_of,
)
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.referee import recompute
from flopmarket.jobs.runner import JobRunner
from flopmarket.jobs.tracing import (
    Evaluate,
    OnDevice,
    SegmentData,
    SegmentTrace,
    by_reference,
)
from flopmarket.trust.dispute_documents import NOWHERE, Outcome, Party, Reason
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.merkle import leaf_hash
from tests.unit.jobs.disputes import (
    JOBS,
    Array,
    Flip,
    case_of,
    half_products,
    other_order,
    play,
)

_made: dict[str, PreparedJob] = {}


def job_called(name: str) -> PreparedJob:
    if name not in _made:
        _made[name] = JOBS[name]()
    return _made[name]


def first_fault(evaluate: Evaluate, job: PreparedJob) -> tuple[int, int]:
    """Step and operation where ``evaluate`` first differs, both computed from right values."""
    found: list[tuple[int, int]] = []

    def watch(step: int, at: int, op: Operation, sources: list[Array]) -> Array:
        right = by_reference(step, at, op, sources)
        if not found:
            wrong = evaluate(step, at, op, sources)
            if words_of(wrong, op.dtype).tobytes() != words_of(right, op.dtype).tobytes():
                found.append((step, at))
        return right

    case_of_any(job, watch)
    return found[0]


def case_of_any(job: PreparedJob, evaluate: Evaluate) -> None:
    """Replay three steps with ``evaluate``; what it came to does not matter."""
    try:
        case_of(job, evaluate).recorder()
    except Exception as error:  # equal ends are no dispute
        assert "same end" in str(error) or "inner" in str(error)


@pytest.mark.parametrize("name", JOBS)
def test_every_tile_of_every_operation_is_recomputed_to_the_same_bits(name: str) -> None:
    """The law behind the referee: tiles from the elements they read are tiles of the whole."""
    job = job_called(name)
    case = case_of(job)
    trace, problem = case.traces[Party.PRODUCER], case.problem
    state = trace._state_before(1)
    kept: dict[int, Array] = {}
    trace._values(1, state, lambda at, op, value: kept.__setitem__(at, value))
    bundles = {"state": state, "frozen": job.frozen, "input": job.data}
    for at, op in enumerate(problem.plan.operations):
        sources = [kept[source] for source in op.sources]
        if op.node is not None and op.node.op is Op.INPUT and op.node.arg[0] in bundles:
            sources = [bundles[op.node.arg[0]][op.node.arg[1]]]

        def fetch(source: int, where: Elements, given: list[Array] = sources) -> Array:
            return np.asarray(given[source].reshape(-1)[where])

        words = words_of(kept[at], op.dtype).reshape(-1)
        for tile in range(op.layout.count):
            where = op.layout.elements(tile)
            value = recompute(op, where, fetch, problem.facts(Place(1, at, tile)))
            assert words_of(value, op.dtype).tobytes() == words[where].tobytes(), op.describe()


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("guilty", Party)
@pytest.mark.parametrize("number", range(3))
def test_a_planted_bit_is_localised_exactly(name: str, guilty: Party, number: int) -> None:
    job = job_called(name)
    plan = case_of(job).problem.plan
    rng = np.random.default_rng([number, len(name), guilty is Party.AUDITOR])
    # A flipped bit may vanish further down; operations that leave the step keep it for certain.
    leaving = [s for op in plan.operations if op.committed for s in op.sources]
    for _ in range(20):
        at = int(rng.integers(plan.first_state)) if number else int(rng.choice(leaving))
        op = plan.operations[at]
        if not op.elements or op.dtype.name == "bool":
            continue
        fault = Flip(int(rng.integers(3)), at, int(rng.integers(op.elements)), 0)
        sides = {guilty: fault, guilty.other: by_reference}
        case = case_of(job, sides[Party.PRODUCER], sides[Party.AUDITOR])
        a, b = case.opening.producer, case.opening.auditor
        if (a.state_root_after, a.outputs_root) != (b.state_root_after, b.outputs_root):
            break
    verdict = play(case).verdict
    tile = int(op.layout.tiles_of(np.array([fault.element]))[0][0])
    assert (verdict.step, verdict.operation, verdict.tile) == (fault.step, at, tile)
    assert verdict.reason is Reason.WRONG_VALUE and verdict.differing_tiles == 1
    wrong = verdict.outcome is Outcome.PRODUCER_WRONG
    assert wrong == (guilty is Party.PRODUCER) and verdict.outcome is not Outcome.BOTH_WRONG
    bits = {
        Party.PRODUCER: verdict.producer_wrong_bits,
        Party.AUDITOR: verdict.auditor_wrong_bits,
    }
    assert bits == {guilty: 1, guilty.other: 0}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("fault", [half_products, other_order])
def test_another_precision_or_order_is_found_at_the_first_product(
    name: str, fault: Evaluate
) -> None:
    job = job_called(name)
    case = case_of(job, producer=fault)
    verdict = play(case).verdict
    op = case.problem.plan.operations[verdict.operation]
    assert verdict.outcome is Outcome.PRODUCER_WRONG
    assert op.node is not None and op.node.op is Op.DOT
    assert (verdict.step, verdict.operation) == first_fault(fault, job)
    assert verdict.producer_wrong_bits > 1 and verdict.auditor_wrong_bits == 0


def test_both_wrong_both_pay() -> None:
    job = job_called("mlp")
    plan = case_of(job).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.STATE)
    case = case_of(job, Flip(1, at, 3, 0), Flip(1, at, 3, 1))
    verdict = play(case).verdict
    assert verdict.outcome is Outcome.BOTH_WRONG
    assert (verdict.step, verdict.operation) == (1, at)


def test_a_skipped_step_is_found() -> None:
    """The state is handed on unchanged: a step that was not done."""
    job = job_called("mlp")
    plan = case_of(job).problem.plan
    inputs: dict[str, Array] = {}

    def lazy(step: int, at: int, op: Operation, sources: list[Array]) -> Array:
        if op.node is not None and op.node.op is Op.INPUT and op.node.arg[0] == "state":
            inputs[op.node.arg[1]] = sources[0]
        if step == 1 and op.part is Part.STATE:
            return inputs[op.name]
        return by_reference(step, at, op, sources)

    verdict = play(case_of(job, lazy)).verdict
    assert verdict.outcome is Outcome.PRODUCER_WRONG and verdict.step == 1
    assert plan.operations[verdict.operation].part is Part.STATE


@pytest.mark.parametrize("kind", ["data", "frozen", "state"])
def test_wrong_tensors_are_found_where_they_enter(kind: str) -> None:
    job = job_called("inference" if kind == "frozen" else "mlp")
    right = SegmentData(job.frozen, job.data, job.state)
    given = dict(getattr(right, kind))
    name = max(given, key=lambda n: given[n].size)
    given[name] = given[name] + 1
    wrong = replace(right, **{kind: given})
    case = case_of(job, tensors={Party.AUDITOR: wrong})
    verdict = play(case).verdict
    assert verdict.outcome is Outcome.AUDITOR_WRONG
    if kind == "state":
        assert verdict.reason is Reason.WRONG_START
        return
    op = case.problem.plan.operations[verdict.operation]
    assert verdict.step == 0 and op.node is not None and op.node.arg[1] == name


def test_a_segment_in_the_middle_of_a_job() -> None:
    job = job_called("mlp")
    plan = case_of(job).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.STATE)
    case = case_of(job, Flip(2, at), first_step=2, steps=4)
    transcript = play(case)
    assert (transcript.verdict.step, transcript.verdict.operation) == (2, at)
    assert "step 4" in replay_file(transcript.to_bytes()).place


@pytest.mark.parametrize("shows", [True, False])
def test_outputs_that_were_stacked_wrong_are_found(shows: bool) -> None:
    """Every step is right and the tensor of all steps is not; its maker shows it, or cannot."""
    case = case_of(job_called("inference"))
    trace = case.traces[Party.PRODUCER]
    honest = trace.step_roots()
    right = trace.tile_inputs(Place(NOWHERE, 0, 0))
    wrong = replace(right, value=bytes([right.value[0] ^ 1]) + right.value[1:])
    leaf = leaf_hash(wrong.value) if shows else bytes(32)
    stacked = (replace(honest.stacked[0], hashes=(leaf,)), *honest.stacked[1:])
    root = case.problem.stacked_root(3, stacked)
    assert root is not None
    opening = replace(case.opening, producer=replace(case.opening.producer, outputs_root=root))
    case.opening = case.problem.question = opening
    trace.step_roots = lambda: replace(honest, stacked=stacked)  # type: ignore[method-assign]
    trace.tile_inputs = lambda place: wrong  # type: ignore[method-assign]
    transcript = play(case)
    verdict = transcript.verdict
    assert (verdict.step, verdict.operation, verdict.tile) == (NOWHERE, 0, 0)
    reason = Reason.WRONG_VALUE if shows else Reason.VALUE_NOT_OWN
    assert (verdict.outcome, verdict.reason) == (Outcome.PRODUCER_WRONG, reason)
    explained = replay_file(transcript.to_bytes())
    assert "stacked output" in explained.place and len(explained.elements) == int(shows)


def test_an_element_that_is_found_is_shown_with_all_three_values() -> None:
    job = job_called("mlp")
    plan = case_of(job).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.STATE)
    explained = replay_file(play(case_of(job, Flip(0, at, 7, 3))).to_bytes())
    (shown,) = explained.elements
    assert shown.element == 7
    assert shown.producer != shown.auditor == shown.recomputed
    assert "step 0" in explained.place and str(at) in explained.place


@given(
    st.lists(st.integers(0, 70), min_size=2, max_size=4),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_tiles_partition_a_value(shape: list[int], side: int) -> None:
    count = int(np.prod(shape))
    if count > 100_000:
        return
    for layout in (matrices(tuple(shape), side), blocks(count, side)):
        parts = [layout.elements(tile) for tile in range(layout.count)]
        every = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        assert sorted(every.tolist()) == list(range(count))
        for tile, part in enumerate(parts):
            tiles, inside = layout.tiles_of(part)
            assert (tiles == tile).all() and inside.tolist() == list(range(len(part)))


def test_a_step_with_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flopmarket.jobs.operations.MAX_DISPUTE_OPERATIONS", 10)
    with pytest.raises(LimitExceeded, match="lists at most"):
        StepPlan(job_called("mlp").program)


def test_a_value_of_too_many_tiles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flopmarket.jobs.operations.MAX_DISPUTE_TILES", 1)
    with pytest.raises(LimitExceeded, match="tiles"):
        StepPlan(job_called("mlp").program)


def test_a_device_replays_operation_by_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Un-fused replay through sessions gives the lists of the reference, and so does a session
    that runs whole steps."""
    job = job_called("conv")
    case = case_of(job)
    problem, mine = case.problem, case.traces[Party.PRODUCER]
    tensors = SegmentData(job.frozen, job.data, job.state)
    device = OnDevice(ReferenceSession)
    monkeypatch.setattr("flopmarket.jobs.tracing.MAX_DISPUTE_SESSIONS", 3)
    alone = SegmentTrace(problem, tensors, device)
    whole = SegmentTrace(problem, tensors, session=ReferenceSession(job.program))
    assert alone.operation_roots(1) == mine.operation_roots(1) == whole.operation_roots(1)
    assert whole.step_roots() == mine.step_roots()
    device.close()


def test_the_claim_is_what_the_runner_commits_to() -> None:
    for name in JOBS:
        job = job_called(name)
        spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
        runner = JobRunner(ReferenceSession(instrument(job.program)), spec, job.frozen, job.data)
        runner.load(job.state, 0)
        committed = runner.run_segment(0, 3)
        claim = case_of(job).opening.producer
        assert claim.state_root_after == committed.state_root_after
        assert claim.outputs_root == committed.outputs_root


@pytest.mark.parametrize("name", JOBS)
def test_the_bound_of_what_is_opened_holds(name: str) -> None:
    """A dispute never asks an honest party for more than it may send."""
    job = job_called(name)
    case = case_of(job)
    trace, problem = case.traces[Party.PRODUCER], case.problem
    rng = np.random.default_rng(8)
    chosen = rng.choice(problem.operations, size=min(12, problem.operations), replace=False)
    for at in chosen.tolist():
        place = Place(1, at, problem.tiles(at) - 1)
        if place.tile < 0:
            continue
        sent = trace.tile_inputs(place)
        effort = problem.effort(place)
        assert len(sent.tiles) <= effort.tiles
        assert sum(len(tile.data) for tile in sent.tiles) <= effort.size_bytes
