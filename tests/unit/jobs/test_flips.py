"""Bits that flipped in memory once are found, wherever they were, and nothing else is excused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.questions import Flip
from flopmarket.limits import MAX_FLIP_PASSES, MAX_FLIP_REPLAYS
from tests.unit.jobs.disputes import inference_job, mlp_job
from tests.unit.jobs.flipping import Bench, same_end

STEPS = 4
END = 2 * STEPS
JOB = replace(mlp_job(steps=END), segment_steps=STEPS, checkpoint_segments=1)
ANSWERS = replace(inference_job(), segment_steps=2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("flips"), JOB, STEPS)


@pytest.fixture(scope="module")
def stateless(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("answers"), ANSWERS, 2)


@st.composite
def places(draw: st.DrawFn, bench: Bench) -> Flip:
    """A flip that its checksum saw, one of an output, or one after the last checksum."""
    bits = tuple(sorted(draw(st.sets(st.integers(0, 31), min_size=1, max_size=2))))
    number = draw(st.integers(0, 10**6))
    if not bench.job.state or draw(st.integers(0, 2)) == 0:
        spec = draw(st.sampled_from(bench.job.program.outputs))
        size = int(np.prod(spec.shape, dtype=np.int64))
        step = draw(st.integers(bench.first, bench.end - 1))
        return Flip(step, spec.name, number % size, bits, output=True, summed=draw(st.booleans()))
    name = draw(st.sampled_from(bench.floats))
    element = number % bench.job.state[name].size
    step = draw(st.integers(bench.first + 1, bench.end))
    return Flip(step, name, element, bits, summed=step < bench.end or draw(st.booleans()))


def check(bench: Bench, flips: tuple[Flip, ...]) -> None:
    """They are found, or others that make the very same of the segment."""
    found = bench.find(bench.run(flips))
    nothing = same_end(bench, flips, ())  # a NaN stays one, the sign of a zero that is multiplied
    assert found or nothing
    assert nothing or set(found) == set(flips) or same_end(bench, found, flips)
    assert bench.session.steps <= MAX_FLIP_REPLAYS + MAX_FLIP_PASSES * (bench.end - bench.first) + 9


# --- kinds of flips -------------------------------------------------------------------------------


@pytest.mark.parametrize("uploaded", [True, False])
@pytest.mark.parametrize(("step", "bits"), [(STEPS + 1, (3,)), (STEPS + 2, (12, 22)), (END, (30,))])
def test_a_bit_that_flipped_before_its_checksum_is_found(
    bench: Bench, step: int, bits: tuple[int, ...], uploaded: bool
) -> None:
    flip = Flip(step, bench.weight, 7, bits, summed=True)
    assert bench.find(bench.run([flip]), uploaded=uploaded) == (flip,)


@pytest.mark.parametrize(("step", "bit"), [(STEPS, 30), (STEPS + 1, 20), (END - 1, 30)])
def test_one_that_flipped_after_it_is_found_where_the_end_was_uploaded(
    bench: Bench, step: int, bit: int
) -> None:
    flip = Flip(step, bench.weight, 11, (bit,))
    ran = bench.run([flip])
    assert bench.find(ran) == (flip,)
    assert bench.find(ran, uploaded=False) == (), "nothing says where"


@pytest.mark.parametrize(
    ("moment", "bit", "uploaded"),
    [("first", 0, False), ("first", 20, False), ("second", 11, True), ("second", 31, False)],
)
def test_one_in_what_only_its_own_place_uses_is_found_anyhow(
    bench: Bench, moment: str, bit: int, uploaded: bool
) -> None:
    flip = Flip(STEPS + 2, f"optimizer.{moment}.0.weight", 1_234, (bit,))
    found = bench.find(bench.run([flip]), uploaded=uploaded)
    assert found and same_end(bench, found, [flip])


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_so_is_any_bit_of_it(bench: Bench, data: st.DataObject) -> None:
    names = [n for n in bench.floats if n.startswith(("optimizer.first", "optimizer.second"))]
    name = data.draw(st.sampled_from(names))
    element = data.draw(st.integers(0, bench.job.state[name].size - 1))
    bit = data.draw(st.integers(0, 31))
    check(bench, (Flip(data.draw(st.integers(STEPS, END - 1)), name, element, (bit,)),))


@pytest.mark.parametrize("bit", [0, 13, 30, 31])
def test_one_after_the_last_checksum_is_found_where_the_end_was_uploaded(
    bench: Bench, bit: int
) -> None:
    flip = Flip(END, bench.weight, 11, (bit,))
    assert bench.find(bench.run([flip])) == (flip,)
    assert bench.session.steps <= 4 * STEPS + 1, "one pass finds it, one proves it"
    assert bench.find(bench.run([flip]), uploaded=False) == ()


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize(("name", "bits"), [("loss", (0,)), ("loss", (23, 30)), ("correct", (63,))])
def test_one_in_an_output_is_found(
    bench: Bench, name: str, bits: tuple[int, ...], summed: bool
) -> None:
    flip = Flip(STEPS + 2, name, 0, bits, output=True, summed=summed)
    assert bench.find(bench.run([flip])) == (flip,)
    assert bench.find(bench.run([flip]), uploaded=False) == (flip,)


@pytest.mark.parametrize("summed", [True, False])
def test_one_in_an_answer_of_a_program_without_a_state_is_found(
    stateless: Bench, summed: bool
) -> None:
    flip = Flip(3, "y", 17, (5, 22), output=True, summed=summed)
    assert stateless.find(stateless.run([flip])) == (flip,)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_flip_is_found(bench: Bench, data: st.DataObject) -> None:
    check(bench, (data.draw(places(bench)),))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_two_flips_are_found(bench: Bench, data: st.DataObject) -> None:
    """In two tensors that have checksums of their own, or in two words of one that was uploaded."""
    one, other = data.draw(places(bench)), data.draw(places(bench))
    alike = (one.tensor, one.step, one.output) == (other.tensor, other.step, other.output)
    uploaded = one.output or one.step == END
    if not alike or (uploaded and one.element != other.element):
        check(bench, (one, other))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_two_flips_of_answers_are_found(stateless: Bench, data: st.DataObject) -> None:
    one, other = data.draw(places(stateless)), data.draw(places(stateless))
    if (one.step, one.element) != (other.step, other.element):
        check(stateless, (one, other))


@pytest.mark.parametrize(
    "flips",
    [
        (Flip(STEPS + 1, "model.0.weight", 11, (20,)), Flip(END, "model.0.bias", 3, (9,))),
        (
            Flip(STEPS, "model.0.weight", 11, (30,)),
            Flip(END - 1, "model.3.weight", 5, (1,), summed=True),
        ),
        (
            Flip(STEPS + 1, "model.0.weight", 900, (2,), summed=True),
            Flip(END - 1, "model.3.weight", 5, (25,)),
        ),
        (
            Flip(STEPS + 2, "model.0.weight", 900, (2,), summed=True),
            Flip(STEPS + 2, "model.3.weight", 5, (25,), summed=True),
        ),
    ],
    ids=["late, then the end", "late, then made", "made, then late", "two words of one step"],
)
def test_a_second_flip_is_found_from_the_first(bench: Bench, flips: tuple[Flip, ...]) -> None:
    assert set(bench.find(bench.run(flips))) == set(flips)


# --- nothing else ---------------------------------------------------------------------------------


def test_honest_work_and_another_end_are_no_flip(bench: Bench) -> None:
    ran = bench.run()
    assert bench.find(ran) == ()
    assert bench.find(ran, uploaded=False, state_root=bytes(32)) == ()
    found = bench.run([Flip(STEPS + 2, bench.weight, 7, (3,), summed=True)])
    assert bench.find(found, uploaded=False, state_root=bundle.root(ran.state)) == ()
    found = bench.run([Flip(STEPS + 2, bench.weight, 7, (22,), summed=True)])
    assert bench.find(replace(found, outputs=ran.outputs)) == ()
    assert bench.find(replace(found, state=ran.state)) == ()


def test_three_flips_and_three_bits_are_not_excused(bench: Bench) -> None:
    name = bench.weight
    ends = [Flip(END, name, element, (1,)) for element in (3, 5, 9)]
    assert set(bench.find(bench.run(ends[:2]))) == set(ends[:2])
    assert bench.find(bench.run(ends)) == ()
    apart = [
        Flip(STEPS + 1, name, 3, (1,), summed=True),
        Flip(STEPS + 2, "loss", 0, (1,), output=True),
        Flip(END, name, 9, (1,)),
    ]
    assert bench.find(bench.run(apart)) == ()
    for step, summed in ((STEPS + 2, True), (END, False)):
        for uploaded in (False, True):
            ran = bench.run([Flip(step, name, 7, (1, 2, 3), summed=summed)])
            assert bench.find(ran, uploaded=uploaded) == ()
    wrong = Flip(STEPS + 2, "loss", 0, (1, 2, 3), output=True, summed=True)
    assert bench.find(bench.run([wrong])) == ()


def test_a_list_and_files_of_another_segment_are_refused(bench: Bench, stateless: Bench) -> None:
    ran = bench.run()
    cut = replace(ran.kept, data=ran.kept.data[: len(ran.kept.data) // 2])
    with pytest.raises(InvalidInput, match="another segment"):
        bench.find(replace(ran, kept=cut))
    with pytest.raises(InvalidInput, match="the program wants"):
        bench.find(replace(ran, outputs=stateless.run().outputs))
    with pytest.raises(InvalidInput, match="the program wants"):
        bench.find(replace(ran, state={"w": np.zeros(3, np.float32)}))
