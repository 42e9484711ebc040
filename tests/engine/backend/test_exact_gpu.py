"""What a GPU runs in exact mode, run by the CPU's driver: the bits are those of the reference.

Products in tiles, in chunks that wait in memory or are left to another kernel; rows folded by a
group. Shapes lie on both sides of the thresholds of FX1, values are random and special.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, reference, samples
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.tiled import SQUARES, split_of
from flopmarket.engine.dtypes import DType
from flopmarket.engine.golden import suite, tiles
from flopmarket.engine.golden.suite import Array
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.plan import make_plan
from tests.engine.law.mutants import mutated

POISONED = CompileOptions(poison=True)


def gpu(device: Device, units: int) -> Target:
    return replace(open_target(device), is_cpu=False, vector_floats=1, compute_units=units)


def agree(device: Device, target: Target, output: Node, leaves: dict[Node, Array]) -> list[str]:
    """Assert the reference's bits; the families of kernels."""
    (node,) = canonicalise([output])
    prepared = Prepared([node], device, target, POISONED)
    try:
        have = prepared.run(leaves)[node]
        families = [step.call.family for step in prepared.plan.steps]
    finally:
        prepared.release()
    (want,) = reference.evaluate([node], leaves)
    assert have.tobytes() == want.tobytes()
    return families


def leaf(name: str, array: Array) -> Node:
    return graph.input_("input", name, dtypes.from_numpy(array.dtype), array.shape)


def bell(seed: int, *shape: int, dtype: DType = dtypes.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype.numpy)


@pytest.mark.parametrize("terms", [255, 256, 257, 512, 513])
@pytest.mark.parametrize("units", [1, 16], ids=["whole", "shared out"])
def test_a_product_on_both_sides_of_a_chunk(device: Device, terms: int, units: int) -> None:
    arrays = [bell(1, 2, 33, terms), bell(2, 2, terms, 65)]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    families = agree(device, gpu(device, units), graph.dot(a, b), {a: arrays[0], b: arrays[1]})
    many = units > 1 and terms > 256
    assert families == (["gemm_tiled", "add_parts"] if many else ["gemm_tiled"])


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16], ids=str)
def test_special_values_and_a_fused_epilogue(device: Device, dtype: DType) -> None:
    """NaN, infinities, zeros of either sign and subnormals, over three chunks."""
    a_array, b_array = (samples.adversarial_of(dtype, 64 * 600, seed)[0] for seed in (1, 2))
    arrays = [a_array.reshape(1, 64, 600), b_array.reshape(1, 64, 600)]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    product = graph.dot(a, graph.permute(b, (0, 2, 1)))
    output = graph.fma(product, product, graph.max_(product, graph.add(product, product)))
    for units in (1, 16):
        agree(device, gpu(device, units), output, dict(zip((a, b), arrays, strict=True)))


def test_sums_that_are_zero_have_the_sign_of_the_law(device: Device) -> None:
    """Chains that end in -0 in every chunk: a total that starts at +0 stays there."""
    arrays = [np.full((1, 32, 600), -1e-30, np.float32), np.full((1, 600, 64), 1e-30, np.float32)]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    for units in (1, 16):
        agree(device, gpu(device, units), graph.dot(a, b), {a: arrays[0], b: arrays[1]})


def test_a_large_tile_keeps_its_totals_in_memory(device: Device) -> None:
    arrays = [bell(1, 1, 130, 300), bell(2, 1, 300, 140)]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    bias = graph.filled(0.5, dtypes.float32, (1, 130, 140))
    output = graph.add(graph.dot(a, b), bias)
    agree(device, gpu(device, 2), output, {a: arrays[0], b: arrays[1]})


def test_chunks_are_shared_out_where_groups_are_few_and_sums_too() -> None:
    assert split_of(1, 64, 64, 4096, 64, is_fast=False).parts == 16
    assert split_of(1, 4096, 4096, 4096, 64, is_fast=False).parts == 1
    assert split_of(1, 700, 700, 65_536, 4096, is_fast=False).parts == 1  # too many to keep


def test_a_batch_beyond_the_grid_goes_another_way() -> None:
    target = Target(is_cpu=False, contract_helper=False)

    def family(batch: int) -> str:
        a = graph.input_("input", "a", dtypes.float32, (batch, 32, 64))
        b = graph.input_("input", "b", dtypes.float32, (batch, 64, 32))
        return str(make_plan(canonicalise([graph.dot(a, b)]), target).steps[-1].call.family)

    assert [family(65_535), family(65_536)] == ["gemm_tiled", "dot"]


def test_admission_looks_at_every_tile(device: Device) -> None:
    target = gpu(device, 64)
    squares = {split_of(1, m, n, k, 1, is_fast=False).square for m, k, n in tiles.SHAPES}
    assert squares == set(SQUARES)
    assert tiles.wrong_tile(device, target) == ""
    broken = mutated(device)
    broken.rewrite = lambda text: text.replace("turn % 16 == 0", "turn % 8 == 0")  # type: ignore[method-assign]
    assert "in tiles" in tiles.wrong_tile(broken, target)


@pytest.mark.parametrize("length", [63, 64, 65, 129, 4096, 4097])
def test_a_row_folded_by_a_group(device: Device, length: int) -> None:
    x, y = bell(1, 3, length), bell(2, 3, length)
    left, right = leaf("x", x), leaf("y", y)
    leaves = {left: x, right: y}
    for output in (
        graph.reduce("sum", left, (1,)),
        graph.reduce("sumprod", left, (1,), right),
        graph.reduce("max", left, (1,)),
    ):
        agree(device, gpu(device, 4), output, leaves)


@pytest.mark.parametrize("name", ["reduce bfloat16", "attention", "convolution", "adam step"])
def test_golden_programs_have_their_digests(device: Device, name: str) -> None:
    golden = suite.programs()[name]()
    prepared = Prepared(golden.nodes, device, gpu(device, 4), POISONED)
    try:
        values = prepared.run(golden.leaves)
    finally:
        prepared.release()
    found = suite.result_digest(name, [values[node] for node in golden.nodes])
    assert found == suite.committed()[name].result
