"""Flipped bits are found by their checksums, whatever the type, and nothing else is excused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes
from flopmarket.engine.dtypes import DTYPES, DType
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import Session
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Tensors
from flopmarket.jobs.checksums import ChecksumList, ListBuilder, checksum
from flopmarket.jobs.flips import FlipSearch, candidates, flipped, most_wrong
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.order import RowSchedule
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.questions import Flip, FlipQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.jobs.spec import JobSpec
from tests.unit.jobs.disputes import mlp_job

STEPS = 4
JOB = replace(mlp_job(steps=2 * STEPS), segment_steps=STEPS, checkpoint_segments=1)


# --- one word -------------------------------------------------------------------------------------


@st.composite
def flips(draw: st.DrawFn) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """An array of any type, and one or two bits of one of its elements."""
    dtype: DType = draw(st.sampled_from(DTYPES))
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(
        draw(st.integers(1, 300)) * dtype.size_bytes
    )
    array = np.frombuffer(raw, dtypes.unsigned_of(dtype).numpy)
    array = (array % 2 if dtype.kind == "b" else array).view(dtype.numpy)
    array = dtypes.canonical(array)
    width = 1 if dtype.kind == "b" else dtype.bits
    bits = draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=min(2, width)))
    return array, draw(st.integers(0, array.size - 1)), tuple(sorted(bits))


@settings(max_examples=500)
@given(flips())
def test_a_flipped_word_is_among_the_candidates(
    flip: tuple[np.ndarray, int, tuple[int, ...]],
) -> None:
    array, element, bits = flip
    wrong = flipped(array, element, bits)
    assert np.flatnonzero(array.view(np.uint8) != wrong.view(np.uint8)).size
    canonical = dtypes.canonical(wrong)
    same = canonical.tobytes() == wrong.tobytes()
    seen = checksum(wrong) != checksum(array)
    found = list(candidates(array, checksum(wrong)))
    folded = array.dtype.itemsize == 8 and len(bits) == 2 and bits[1] - bits[0] == 32
    assert seen or folded or not same, "two bits of a wide word fold into none"
    if same and seen:
        assert (element, bits) in found
    for at, suspected in found:
        assert 1 <= len(suspected) <= 2
        guess = flipped(array, at, suspected)
        if dtypes.canonical(guess).tobytes() == guess.tobytes():
            assert checksum(guess) == checksum(wrong), "each explains the checksum"


@pytest.mark.parametrize(("bit", "most"), [(3, 1), (22, 25), (30, 5_100), (31, 10_000)])
def test_a_high_bit_leaves_more_candidates_and_the_end_tells_which(bit: int, most: int) -> None:
    array = np.random.default_rng(2).standard_normal(10_000).astype(np.float32)
    claimed = checksum(flipped(array, 4_321, (bit,)))
    found = list(candidates(array, claimed))
    singles = [item for item in found if len(item[1]) == 1]
    assert (4_321, (bit,)) in singles and len(singles) <= most
    assert (4_321, (bit,)) in set(candidates(array, claimed, [7, 4_321]))


def test_a_random_difference_has_hardly_a_candidate() -> None:
    array = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
    count = sum(len(list(candidates(array, claimed))) for claimed in range(20))
    assert count < 20  # 2.5 are expected


def test_elements_are_ranked_by_how_wrong_they_are() -> None:
    right = {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.int64)}
    end = {"a": np.array([0, -3, 1e-9, np.nan], np.float32), "b": np.array([0, 2])}
    assert most_wrong(right, end, 3) == [("a", 3), ("a", 1), ("b", 1)]


# --- a segment ------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a device came to, and what it kept."""

    kept: ChecksumList
    state: Tensors
    outputs: Tensors


class Bench:
    """The second segment of a job, run with something done to its state on the way."""

    def __init__(self, folder: Path, job: PreparedJob = JOB) -> None:
        self.folder = folder
        self.job = job
        self.spec: JobSpec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
        self.session: Session = open_session(instrument(job.program), "reference", None)
        self.schedule = RowSchedule(self.spec.data_order, self.spec.seed)
        self.start = folder / "start.safetensors"
        self.start.write_bytes(bundle.save(job.state))

    def run(self, *, made: Flip | None = None, read: Flip | None = None, skip: int = -1) -> Ran:
        """``made`` flips before its checksum, ``read`` after it; ``skip`` is a step left out."""
        self.session.load(self.job.frozen, self.job.state)
        sums, outputs = ListBuilder(STEPS), []
        for step in range(2 * STEPS):
            if read is not None and read.step == step:
                self._flip(read)
            before = self.session.read_state()
            found = dict(
                self.session.step(
                    {n: a[self.schedule.rows(step)] for n, a in self.job.data.items()},
                    seed=self.spec.seed,
                    step=step,
                )
            )
            entry = found.pop(CHECKSUMS)
            if step == skip:
                self.session.load(self.job.frozen, before)
                at = list(before)
                entry = np.array([checksum(before[n]) for n in at] + list(entry[len(at) :]))
            if made is not None and made.step == step + 1:
                self._flip(made)
                words = [checksum(array) for array in self.session.read_state().values()]
                entry = np.array(words + list(entry[len(words) :]))
            if step >= STEPS:
                sums.add(entry.astype("<u4").tobytes())
                outputs.append(found)
        if read is not None and read.step == 2 * STEPS:
            self._flip(read)
        kept = sums.list()
        assert kept is not None
        stacked = {name: np.stack([found[name] for found in outputs]) for name in outputs[0]}
        return Ran(kept, self.session.read_state(), stacked)

    def _flip(self, flip: Flip) -> None:
        state = self.session.read_state()
        state[flip.tensor] = flipped(state[flip.tensor], flip.element, flip.bits)
        self.session.load(self.job.frozen, state)

    def find(self, ran: Ran, *, uploaded: bool = False, **claims: bytes) -> Flip | None:
        """What an honest house says of it."""
        kept, end = self.folder / "kept", self.folder / "end.safetensors"
        kept.write_bytes(ran.kept.to_bytes())
        end.write_bytes(bundle.save(ran.state))
        asked = FlipQuestion(
            self.start, 0, STEPS, STEPS, kept, end if uploaded else None,
            claims.get("state", bundle.root(ran.state)), bundle.root(ran.outputs),
        )  # fmt: skip
        asked = FlipQuestion.of_command(asked.to_command(self.folder, b""))
        job = self.job
        replay = Replay(self.session, job.program, self.spec, job.frozen, job.data, lambda: False)
        return FlipSearch(replay).find(asked)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def weight(bench: Bench) -> str:
    """The largest tensor of floats."""
    return max(bench.job.state, key=lambda name: bench.job.state[name].size)


@pytest.mark.parametrize(
    ("step", "bits"), [(STEPS + 1, (3,)), (STEPS + 2, (12, 22)), (2 * STEPS, (30,))]
)
def test_a_bit_that_flipped_before_its_checksum_is_found(
    bench: Bench, step: int, bits: tuple[int, ...]
) -> None:
    flip = Flip(step, weight(bench), 7, bits)
    assert bench.find(bench.run(made=flip)) == flip


@pytest.mark.parametrize(("step", "bit"), [(STEPS, 30), (STEPS + 1, 20), (2 * STEPS - 1, 30)])
def test_one_that_flipped_after_it_is_found_where_the_end_was_uploaded(
    bench: Bench, step: int, bit: int
) -> None:
    flip = Flip(step, weight(bench), 11, (bit,))
    ran = bench.run(read=flip)
    assert bench.find(ran, uploaded=True) == flip
    assert bench.find(ran) is None, "nothing says where"


def test_honest_work_and_another_end_are_no_flip(bench: Bench) -> None:
    ran = bench.run()
    assert bench.find(ran, state=bytes(32)) is None
    found = bench.run(made=Flip(STEPS + 2, weight(bench), 7, (30,)))
    assert bench.find(found, state=bundle.root(ran.state)) is None
    assert bench.find(replace(found, outputs=ran.outputs)) is None


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize("step", [STEPS, STEPS + 2, 2 * STEPS - 1])
def test_a_step_that_was_left_out_is_never_excused(bench: Bench, step: int, uploaded: bool) -> None:
    assert bench.find(bench.run(skip=step), uploaded=uploaded) is None


@pytest.mark.parametrize("uploaded", [False, True])
def test_a_perturbed_state_is_never_excused(bench: Bench, uploaded: bool) -> None:
    """Two elements, or three bits of one."""
    name = weight(bench)
    for bits in ((1, 2, 3), (0, 15, 22)):
        assert bench.find(bench.run(made=Flip(STEPS + 2, name, 7, bits)), uploaded=uploaded) is None

    def two(ran: Ran) -> Flip | None:
        wrong = dict(ran.state)
        wrong[name] = flipped(flipped(wrong[name], 3, (1,)), 5, (1,))
        return bench.find(replace(ran, state=wrong), uploaded=uploaded)

    assert two(bench.run()) is None
    nudged = bench.run(read=Flip(2 * STEPS, name, 0, (0,)))
    assert bench.find(nudged, uploaded=True) is None, "its own checksums say otherwise"


@settings(max_examples=6, deadline=None)
@given(
    step=st.integers(STEPS + 1, 2 * STEPS),
    bits=st.sets(st.integers(0, 31), min_size=1, max_size=2),
    place=st.integers(0, 10**6),
    tensor=st.integers(0, 10**6),
)
def test_any_flip_before_its_checksum_is_found(
    tmp_path_factory: pytest.TempPathFactory, step: int, bits: set[int], place: int, tensor: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("flip"))
    names = [n for n, a in bench.job.state.items() if a.dtype == np.float32 and a.size]
    name = names[tensor % len(names)]
    flip = Flip(step, name, place % bench.job.state[name].size, tuple(sorted(bits)))
    found = bench.find(bench.run(made=flip))
    state = bench.run().state[name]
    wrong = flipped(state, flip.element, flip.bits)
    if dtypes.canonical(wrong).tobytes() == wrong.tobytes():  # no NaN with a payload
        assert found == flip
