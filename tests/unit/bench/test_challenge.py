"""The programs of a challenge and both sides of it, on the reference: real bits, small shapes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from flopmarket.bench import challenge_programs as programs
from flopmarket.bench.challenge import LocalRun, Recomputer, StageRunner, play
from flopmarket.engine import graph
from flopmarket.engine.dtypes import DType, bfloat16, float16, float32
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import ReferenceSession, Session, seed_words
from flopmarket.trust.benchmark import (
    BenchmarkPlan,
    BenchmarkReason,
    BlockPlace,
    ReadPlace,
    TilePlace,
    first_element,
    sampling_commitment,
    seed_of,
    strides_of,
)
from flopmarket.trust.benchmark_prover import Stage
from flopmarket.trust.benchmark_shape import (
    ELEMENT_GRAIN,
    NO_MEMORY,
    READS_PER_LEAF,
    MemoryShape,
    ProductShape,
    Shapes,
)
from flopmarket.trust.benchmark_verifier import Task

SEED, NONCE = b"s" * 32, b"n" * 32
KEY = bytes(range(32))
PRODUCTS = ProductShape(stages=3, products=2, side=128, terms=24)
MEMORY = MemoryShape(stages=2, elements=ELEMENT_GRAIN, passes=2, reads=READS_PER_LEAF)


def plan_of(
    memory: MemoryShape = NO_MEMORY, products: ProductShape = PRODUCTS, tiles: int = 9
) -> BenchmarkPlan:
    return BenchmarkPlan(
        challenge_id="c1",
        account_id="a1",
        device_key_id="k" * 64,
        device_id="card",
        profile="FX1",
        shapes=Shapes(products, memory),
        opened_tiles=tiles,
        opened_blocks=3 if memory.stages else 0,
        opened_reads=3 if memory.stages else 0,
        sampling_commitment=sampling_commitment(SEED),
        ready_us=10**9,
        stage_us=10**9,
        opening_us=10**9,
    )


def played(plan: BenchmarkPlan, runner: StageRunner | None = None) -> LocalRun:
    ticks = count(step=1000)
    return play(
        plan,
        runner=runner or StageRunner(plan.shapes, ReferenceSession),
        recomputer=Recomputer(plan.shapes, ReferenceSession),
        nonce=NONCE,
        sampling_seed=SEED,
        now_us=lambda: next(ticks),
    )


def test_a_whole_challenge_on_the_reference_is_accepted() -> None:
    run = played(plan_of(MEMORY))
    assert run.verdict.accepted, run.verdict
    assert run.verdict.rates.proven_memory_bytes == 4 * ELEMENT_GRAIN
    assert len(run.stage_seconds) == PRODUCTS.stages + MEMORY.stages
    assert run.to_json()["accepted"] is True
    assert run.opening_bytes > 9 * PRODUCTS.leaf_bytes


def test_a_fold_is_the_sum_it_is_defined_as() -> None:
    """Written out in NumPy from the product itself."""
    shape = ProductShape(1, 1, 64, 8)
    folds = stepped(programs.product_program(shape), 7)[programs.FOLDS]
    operands = {which: operand(7, 0, which, 64, 8) for which in (0, 1)}
    product = np.zeros((64, 64), np.float32)
    for k in range(8):
        wide = operands[0][:, None, k].astype(np.float64) * operands[1][None, :, k]
        product = (wide + product).astype(np.float32)
    bits = product.view(np.uint32)
    for lane in range(4):
        part = bits[lane::4].reshape(-1)
        place = np.arange(1024, dtype=np.uint32)
        weight = place * np.uint32(0x9E3779B1) | np.uint32(1)
        mixed = part ^ part >> np.uint32(15)
        assert folds[0, 0, lane] == (mixed * weight).sum(dtype=np.uint32)


def test_one_bit_of_one_element_changes_the_fold() -> None:
    random = np.random.default_rng(3)
    given = random.random((64, 64), dtype=np.float32)
    whole = folded(given)[0, 0]
    for bit in range(0, 32, 5):
        row, column = random.integers(0, 64, 2)
        flipped = given.copy()
        flipped.view(np.uint32)[row, column] ^= np.uint32(1 << bit)
        changed = folded(flipped)[0, 0] != whole
        assert list(np.flatnonzero(changed)) == [row % 4]


def test_operands_are_centred_different_and_fill_their_range() -> None:
    left, right = operand(1, 0, 0, 64, 64), operand(1, 0, 1, 64, 64)
    for values in (left, right, operand(2, 0, 0, 64, 64), operand(1, 1, 0, 64, 64)):
        assert -1 <= values.min() < -0.99 and 0.99 < values.max() < 1
        assert abs(values.mean()) < 0.03
    assert np.unique(left).size > 4090 and np.intersect1d(left, right).size < 9
    for values in (left, left.T):
        correlations = np.corrcoef(values) - np.eye(64)
        assert abs(correlations).max() < 0.6 and abs(correlations.mean()) < 0.01
    assert (operand(1, 1, 0, 64, 64) != left).mean() > 0.99


def test_every_tile_can_be_recomputed_alone() -> None:
    shape = ProductShape(1, 1, 192, 300)  # across a chunk of the sums
    folds = stepped(programs.product_program(shape), seed_of(KEY), step=3)[programs.FOLDS]
    recomputer = Recomputer(Shapes(shape, NO_MEMORY), ReferenceSession)
    tasks = [
        Task(TilePlace(0, 3, row, column), KEY, b"") for row in range(3) for column in range(3)
    ]
    assert recomputer.values(tasks) == [
        folds[row, column].tobytes() for row in range(3) for column in range(3)
    ]
    recomputer.close()


def test_every_block_and_read_can_be_recomputed_alone() -> None:
    session = ReferenceSession(programs.walk_program(MEMORY))
    session.load({}, {"x": np.zeros(MEMORY.elements, np.uint32)})
    keys = [b"1" * 32, b"2" * 32]
    outputs = [
        session.step(
            {"strides": np.array(strides_of(key, MEMORY), np.uint32)}, seed=seed_of(key), step=0
        )
        for key in keys
    ]
    recomputer = Recomputer(Shapes(PRODUCTS, MEMORY), ReferenceSession)
    walk = {"walk_key": keys[0], "strides": strides_of(keys[0], MEMORY)}
    blocks = [0, 1, MEMORY.block_count - 1]
    found = recomputer.values(
        [Task(BlockPlace(0, block), keys[0], b"", **walk) for block in blocks]
    )
    assert found == [outputs[0][programs.FOLDS][block].tobytes() for block in blocks]
    slots = [0, 5, MEMORY.reads - 1]
    found = recomputer.values([Task(ReadPlace(1, slot), keys[1], b"", **walk) for slot in slots])
    assert found == [outputs[1][programs.READS][slot].tobytes() for slot in slots]
    assert first_element(BlockPlace(0, 3)) == 3072
    recomputer.close()


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_lower_precision_fails_at_the_first_tile(
    dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operands rounded to 16 bits, sums in float32: what a matrix unit would do."""
    drawn = programs._operand
    with monkeypatch.context() as patched:
        patched.setattr(
            programs,
            "_operand",
            lambda *given: graph.cast(graph.cast(drawn(*given), dtype), float32),
        )
        narrow = programs.product_program(PRODUCTS)
    assert_first_tile_wrong(lambda program: ReferenceSession(narrow))


def test_integer_emulation_fails_at_the_first_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mathematically exact sum, rounded once: better numerics, and not the bits of FX1."""
    shape = PRODUCTS

    class Emulating(StageRunner):
        def leaves(self, stage: Stage) -> list[bytes]:
            found: list[bytes] = []
            for number in range(shape.products):
                left, right = (
                    operand(seed_of(stage.key), number, which, shape.side, shape.terms)
                    for which in (0, 1)
                )
                exact = (left.astype(np.float64) @ right.T.astype(np.float64)).astype(np.float32)
                found += [row.tobytes() for row in folded(exact)]
            return found

    verdict = played(plan_of(), Emulating(plan_of().shapes, ReferenceSession)).verdict
    assert verdict.reason is BenchmarkReason.TILE_WRONG


def test_another_order_of_the_sum_fails() -> None:
    """Terms from the last to the first."""
    backwards = reversed_program(PRODUCTS)
    assert_first_tile_wrong(lambda program: ReferenceSession(backwards))


def test_a_device_has_the_bits_of_the_reference() -> None:
    """Every leaf of a product and of two walks, on the OpenCL device of this machine."""
    shape = ProductShape(1, 1, 128, 300)
    shapes = Shapes(shape, MEMORY)

    def on_device(program: Program) -> Session:
        return open_session(program, "PoCL:0")

    runners = StageRunner(shapes, on_device), StageRunner(shapes, ReferenceSession)
    stages = [Stage(0, KEY, ())]
    stages += [Stage(at, bytes([at]) * 32, strides_of(KEY, MEMORY)) for at in (1, 2)]
    for stage in stages:
        first, second = (runner.leaves(stage) for runner in runners)
        assert first == second
    for runner in runners:
        runner.close()


def test_a_smaller_shape_cannot_be_claimed() -> None:
    """A runner that computes a quarter of the product has too few leaves to commit to."""
    small = ProductShape(PRODUCTS.stages, PRODUCTS.products, 64, PRODUCTS.terms)
    runner = StageRunner(Shapes(small, NO_MEMORY), ReferenceSession)
    with pytest.raises(Exception, match="stage 0 has 4 leaves of 32 bytes"):
        played(plan_of(), runner)


def assert_first_tile_wrong(opener: Callable[[Program], Session]) -> None:
    run = played(plan_of(), StageRunner(plan_of().shapes, opener))
    assert run.verdict.reason is BenchmarkReason.TILE_WRONG
    # The very first opened tile already differs: nothing was accepted by chance.
    tiles = [place for place in ("TilePlace",) if place in run.verdict.detail]
    assert tiles == ["TilePlace"]


def operand(seed: int, number: int, which: int, lines: int, terms: int) -> np.ndarray:
    """One operand of a product, [lines, terms]."""
    seed_node, step_node = programs._session_leaves()
    value = programs._operand(
        graph.reshape(seed_node, (1, 2)),
        graph.reshape(step_node, (1, 1)),
        which,
        graph.iota(1, (1, lines), programs.uint32),
        terms,
    )
    program = programs._stateless([], [("value", value)])
    return stepped(program, seed, step=number)["value"][0]


def folded(product: np.ndarray) -> np.ndarray:
    """Folds of every tile of a product, by the engine."""
    side = product.shape[0]
    shape = (side // 64, 16, 4, side // 64, 64)
    bits = graph.input_("input", "bits", programs.uint32, shape)
    fold = programs._fold(bits, (1, 4), 2)
    program = programs._stateless([programs._spec("bits", shape)], [(programs.FOLDS, fold)])
    session = ReferenceSession(program)
    session.load({}, {})
    given = {"bits": np.ascontiguousarray(product).view(np.uint32).reshape(shape)}
    return session.step(given, seed=0, step=0)[programs.FOLDS]


def reversed_program(shape: ProductShape) -> Program:
    """The product program with its terms in descending order."""
    dot = graph.dot

    def backwards(a: Node, b: Node) -> Node:
        terms = a.shape[2]
        flip_a = graph.slice_(a, [(0, 1, a.shape[0]), (0, 1, a.shape[1]), (terms - 1, -1, terms)])
        flip_b = graph.slice_(b, [(0, 1, b.shape[0]), (terms - 1, -1, terms), (0, 1, b.shape[2])])
        return dot(flip_a, flip_b)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(programs.graph, "dot", backwards)
        return programs.product_program(shape)


def stepped(program: Program, seed: int, step: int = 0) -> dict[str, np.ndarray]:
    session = ReferenceSession(program)
    session.load({}, {})
    assert seed_words(seed).size == 2
    return session.step({}, seed=seed, step=step)
