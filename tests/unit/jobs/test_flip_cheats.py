"""Who saves work is never excused, however its record was made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.jobs.bundle import Tensors
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.questions import Flip
from flopmarket.jobs.spec import DataOrder, JobKind, OrderKind
from flopmarket.limits import MAX_FLIP_PASSES, MAX_FLIP_SUSPECTS
from flopmarket_worker.cheapening import half_operands
from tests.unit.jobs.disputes import inference_job, mlp_job, other_order
from tests.unit.jobs.flipping import Bench, Step
from tests.unit.jobs.rounding import RoundingSession

STEPS = 4
END = 2 * STEPS
JOB = replace(mlp_job(steps=END), segment_steps=STEPS, checkpoint_segments=1)
ANSWERS = replace(inference_job(), segment_steps=2)
F32, I32 = dtypes.float32, dtypes.int32
WIDE = 48


def labels_job() -> PreparedJob:
    """Inference whose outputs are the largest scores, cut to whole numbers: cheaper arithmetic
    finds them, too, nearly always."""
    x = graph.input_("input", "x", F32, (4, WIDE))
    w = graph.input_("frozen", "w", F32, (WIDE, 3))
    scores = graph.reshape(
        graph.dot(graph.reshape(x, (1, 4, WIDE)), graph.reshape(w, (1, WIDE, 3))), (4, 3)
    )
    program = Program.build(
        frozen=[TensorSpec("w", F32, (WIDE, 3))],
        state=[],
        inputs=[TensorSpec("x", F32, (4, WIDE))],
        next_state=[],
        outputs=[("label", graph.cast(graph.reduce("max", scores, (1,)), I32))],
    )
    rng = np.random.default_rng(120)  # one label tells the precision, by one bit
    return PreparedJob(
        kind=JobKind.INFERENCE,
        program=program,
        frozen={"w": rng.standard_normal((WIDE, 3)).astype(np.float32)},
        state={},
        data={"x": rng.standard_normal((32, WIDE)).astype(np.float32)},
        order=DataOrder(OrderKind.SEQUENTIAL, 32, 4),
        seed=1,
        steps=8,
        segment_steps=4,
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("cheats"), JOB, STEPS)


@pytest.fixture(scope="module")
def stateless(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("answers"), ANSWERS, 2)


# --- cheats ---------------------------------------------------------------------------------------


def skipping(bench: Bench, step: int) -> Step:
    """The state leaves a step as it came; the outputs are those of the step before."""
    last: list[Tensors] = []

    def run(at: int, state: Tensors) -> tuple[Tensors, Tensors]:
        if at != step or not last:
            after, outputs = bench.honest(at, state)
            last[:] = [outputs]
            return (state if at == step else after), outputs
        return state, last[0]

    return run


def half(bench: Bench, step: int) -> Step:
    """One step with operands of half the precision."""
    cheap = Bench(bench.folder / "cheap", _cheapened(bench.job), bench.first)

    def run(at: int, state: Tensors) -> tuple[Tensors, Tensors]:
        return (cheap if at == step else bench).honest(at, state)

    return run


def _cheapened(job: PreparedJob) -> PreparedJob:
    return replace(job, program=half_operands(job.program))


def other_rows(bench: Bench, step: int) -> Step:
    """A step with the rows of the step before."""

    def run(at: int, state: Tensors) -> tuple[Tensors, Tensors]:
        if at != step:
            return bench.honest(at, state)
        right = bench.inputs
        try:
            bench.inputs = lambda each: right(each - 1)  # type: ignore[method-assign]
            return bench.honest(at, state)
        finally:
            bench.inputs = right  # type: ignore[method-assign]

    return run


def another_order(bench: Bench, step: int) -> Step:
    """One step whose products are added up from the last term to the first."""
    session = RoundingSession(bench.job.program, other_order)

    def run(at: int, state: Tensors) -> tuple[Tensors, Tensors]:
        if at != step:
            return bench.honest(at, state)
        session.load(bench.job.frozen, state)
        outputs = session.step(bench.inputs(at), seed=bench.spec.seed, step=at)
        return session.read_state(), dict(outputs)

    return run


CHEATS = {
    "skipping": skipping,
    "half": half,
    "other rows": other_rows,
    "another order": another_order,
}


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize("step", [STEPS, STEPS + 2, END - 1])
def test_a_step_that_was_left_out_or_cheap_is_never_excused(
    bench: Bench, name: str, step: int
) -> None:
    ran = bench.run(cheat=CHEATS[name](bench, step))
    assert bench.find(ran) == ()
    assert bench.session.steps <= MAX_FLIP_SUSPECTS + MAX_FLIP_PASSES * STEPS, "and it costs little"
    assert bench.find(ran, uploaded=False) == ()


@pytest.mark.parametrize("name", CHEATS)
def test_nor_is_one_whose_list_is_copied_from_an_honest_worker(bench: Bench, name: str) -> None:
    """Kept checksums that are right do not excuse an end that is not."""
    right, ran = bench.run(), bench.run(cheat=CHEATS[name](bench, END - 1))
    assert bench.find(replace(ran, kept=right.kept)) == ()
    assert bench.find(replace(ran, kept=right.kept, state=right.state)) == ()


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_no_random_cheat_is_excused(bench: Bench, data: st.DataObject) -> None:
    """Steps left out, cheaper ones, flips in between and made-up words, in any order."""
    step = data.draw(st.integers(STEPS, END - 1))
    cheat = CHEATS[data.draw(st.sampled_from(sorted(CHEATS)))](bench, step)
    bits = tuple(sorted(data.draw(st.sets(st.integers(0, 31), min_size=1, max_size=2))))
    element = data.draw(st.integers(0, 4))
    name = data.draw(st.sampled_from(bench.floats[:4]))
    flip = Flip(data.draw(st.integers(STEPS + 1, END)), name, element, bits, summed=True)
    ran = bench.run([flip] if data.draw(st.booleans()) else [], cheat)
    if data.draw(st.booleans()):
        words = np.frombuffer(ran.kept.data, "<u4").copy()
        words[data.draw(st.integers(0, len(words) - 1))] ^= np.uint32(
            1 << data.draw(st.integers(0, 31))
        )
        ran = replace(ran, kept=replace(ran.kept, data=words.tobytes()))
    assert bench.find(ran, uploaded=data.draw(st.booleans())) == ()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_random_cheat_with_answers_is_excused(stateless: Bench, data: st.DataObject) -> None:
    cheat = CHEATS[data.draw(st.sampled_from(sorted(CHEATS)))]
    step = data.draw(st.integers(2, 3))
    assert stateless.find(stateless.run(cheat=cheat(stateless, step))) == ()


# --- outputs that tell nothing --------------------------------------------------------------------


def test_labels_that_anybody_guesses_excuse_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Who computes in float16 has all of them right but one, of which one bit is wrong. But what
    was summed right was known: that is a flip."""
    bench = Bench(tmp_path_factory.mktemp("labels"), labels_job(), 4)
    right = bench.run()
    cheats = [half(bench, step) for step in range(4, 8)]
    ran = bench.run(cheat=lambda at, state: cheats[at - 4](at, state))
    label, theirs = right.outputs["label"], ran.outputs["label"]
    (place,) = np.argwhere(label != theirs)
    assert int(label[tuple(place)] ^ theirs[tuple(place)]).bit_count() == 1
    assert bench.find(ran) == ()
    assert bench.find(replace(ran, kept=right.kept)) != ()
    assert bench.find(right) == ()
