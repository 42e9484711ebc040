"""The packed product: every tile, block and batch gives the bits of the written order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.codegen.templates.gemm import GemmSpec, GemmTile
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.reference import fma32
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device, open_device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, np.dtype[np.float32]]

TILES = (
    GemmTile(8, 3, 16),
    GemmTile(6, 2, 8),
    GemmTile(1, 1, 4),
    GemmTile(3, 3, 4),
)
LEGAL_TILES = tuple(dict.fromkeys(tile for w in (4, 8, 16) for tile in gemm.tiles_for(w)))
SHAPES = ((1, 1, 1), (5, 17, 33), (64, 48, 511), (64, 48, 512), (64, 48, 513), (33, 65, 1025))
PACKED_SHAPES = ((33, 65, 1025), (64, 48, 511), (64, 48, 512), (5, 100, 513), (50, 100, 65))
"""Products that the engine packs (``fuse.is_packed_dot``), ragged in every direction."""
OFF = "#pragma OPENCL FP_CONTRACT OFF\n"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    cache = KernelCache(tmp_path_factory.mktemp("kernels"))
    with open_device(find("PoCL:0"), cache=cache) as opened:
        yield opened


def expected(a: Array, b: Array, chunk: int = gemm.CHUNK) -> Array:
    """docs/numerics.md §2, word for word, for A (..., M, K) and B (..., K, N)."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*batch, a.shape[-2], b.shape[-1]), np.float32)
    with np.errstate(all="ignore"):
        for k0 in range(0, a.shape[-1], chunk):
            chain = np.zeros_like(total)
            for k in range(k0, min(k0 + chunk, a.shape[-1])):
                chain = fma32(a[..., :, k : k + 1], b[..., k : k + 1, :], chain)
            total = total + chain
    return canonical(total)


def canonical(x: Array) -> Array:
    return np.where(np.isnan(x), np.uint32(0x7FC00000).view(np.float32), x).astype(np.float32)


def spec_of(a: Array, b: Array, tile: GemmTile, **fields: Any) -> GemmSpec:
    m, n = a.shape[-2], b.shape[-1]

    def store(batch: str, row: str, column: str, value: str) -> str:
        place = f"C[({batch} * {m} + {row}) * {n} + {column}]"
        return f"{place} = select({value}, as_float(0x7fc00000), (uint)isnan({value}));"

    values: dict[str, Any] = {
        "M": m,
        "N": n,
        "K": a.shape[-1],
        "tile": tile,
        "store": store,
        "parameters": "__global float* restrict C",
        "contract_helper": True,
    }
    return GemmSpec(**(values | fields))


def packed(rows: Array, width: int) -> Array:
    """(batch, rows or columns, K) as the template wants it: [batch][panel][k][width], +0 around."""
    batch, count, depth = rows.shape
    panels = -(-count // width)
    steps = max(gemm.UNROLL, -(-depth // gemm.UNROLL) * gemm.UNROLL)
    out = np.zeros((batch, panels * width, steps), np.float32)
    out[:, :count, :depth] = rows
    by_panel = out.reshape(batch, panels, width, steps).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(by_panel)


def run(device: Device, a: Array, b: Array, spec: GemmSpec) -> Array:
    """The template alone, on operands that NumPy packed."""
    left = a if a.ndim == 3 else a[None]
    right = b if b.ndim == 3 else b[None]
    packed_a = packed(left, spec.tile.mr)
    packed_b = packed(right.transpose(0, 2, 1), spec.tile.nr)
    assert packed_a.nbytes == gemm.packed_a_bytes(spec)
    assert packed_b.nbytes == gemm.packed_b_bytes(spec)
    module = device.compile(OFF + gemm.render_helper(spec) + gemm.render_gemm(spec))
    result = np.empty((spec.batch, spec.M, spec.N), np.float32)
    buffers = [device.alloc(array.nbytes) for array in (packed_a, packed_b, result)]
    device.upload(buffers[0], packed_a)
    device.upload(buffers[1], packed_b)
    buffers[2].poison(0xFF)
    sizes = [np.int32(size) for size in gemm.size_arguments(spec)]
    device.run([module.launch(spec.name, [*buffers, *sizes], gemm.global_size(spec), (1, 1, 1))])
    device.download(buffers[2], result)
    for buffer in buffers:
        buffer.release()
    return result


def through_the_engine(
    device: Device,
    outputs: list[Node],
    leaves: dict[Node, Array],
    tile: GemmTile,
    *,
    contract_helper: bool = True,
) -> list[Array]:
    """Values of ``outputs`` by the engine's plan with ``tile``, poisoned, each product packed."""
    nodes = canonicalise(outputs)
    target = open_target(device, contract_helper=contract_helper)
    options = CompileOptions(gemm_tile=tile, poison=True)
    prepared = Prepared(nodes, device, target, options)
    products = sum(step.call.family == "gemm" for step in prepared.plan.steps)
    try:
        values = prepared.run({node: canonical(array) for node, array in leaves.items()})
    finally:
        prepared.release()
    assert products == len(outputs)
    return [values[node] for node in nodes]


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, dtypes.float32, shape)


def same_bits(x: Array, y: Array) -> bool:
    return x.shape == y.shape and np.array_equal(x.view(np.uint32), y.view(np.uint32))


def ordinary(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def adversarial(seed: int, *shape: int) -> Array:
    """Subnormals, signed zeros, infinities, NaNs and cancellation, mostly finite."""
    generator = np.random.default_rng(seed)
    special = np.array(
        [
            *(0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x800000, 0x3F800001, 0xBF800001),
            *(0x39800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x1F800000, 0x9F800000, 0x20000001),
        ],
        np.uint32,
    )
    x = generator.choice(special, size=shape)
    rare = generator.random(shape) < 0.01
    odd = generator.choice(np.array([0x7F800000, 0xFF800000, 0x7FC12345, 0xFFC00000]), size=shape)
    return np.where(rare, odd, x).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_has_the_bits_of_the_order(device: Device, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for make in (ordinary, adversarial):
        a, b = make(1, m, k), make(2, k, n)
        want = expected(a, b)[None]
        for tile in TILES:
            got = run(device, a, b, spec_of(a, b, tile))
            assert same_bits(got, want), (make.__name__, tile)


def test_the_plain_fma_has_the_bits_of_the_helper(device: Device) -> None:
    a, b = adversarial(3, 13, 70), adversarial(4, 70, 9)
    for tile in TILES[1:3]:
        got = run(device, a, b, spec_of(a, b, tile, contract_helper=False))
        assert same_bits(got, expected(a, b)[None])


def test_products_are_fused_not_rounded_twice(device: Device) -> None:
    one_and_a_bit = np.float32(1 + 2**-12)
    a = np.array([[2.0**-60, one_and_a_bit]], np.float32)
    b = np.array([[1.0], [one_and_a_bit]], np.float32)
    got = run(device, a, b, spec_of(a, b, TILES[0]))
    naive = np.float32(np.float64(one_and_a_bit) * np.float64(one_and_a_bit) + 2.0**-60)
    assert got[0, 0, 0] != naive
    assert same_bits(got, expected(a, b)[None])


def test_an_empty_sum_is_plus_zero(device: Device) -> None:
    a, b = np.empty((3, 0), np.float32), np.empty((0, 5), np.float32)
    assert same_bits(run(device, a, b, spec_of(a, b, TILES[0])), np.zeros((1, 3, 5), np.float32))


def test_batches_and_shared_operands(device: Device) -> None:
    a, b = ordinary(5, 3, 9, 40), ordinary(6, 3, 40, 50)
    want = expected(a, b)
    assert same_bits(run(device, a, b, spec_of(a, b, TILES[0], batch=3)), want)
    weights = np.ascontiguousarray(b[1])
    spec = spec_of(a, weights, TILES[0], batch=3, shared_b=True)
    assert same_bits(run(device, a, weights, spec), expected(a, weights))
    rows = np.ascontiguousarray(a[0])
    spec = spec_of(rows, b, TILES[2], batch=3, shared_a=True)
    assert same_bits(run(device, rows, b, spec), expected(rows, b))


@settings(max_examples=8, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 70),
    k=st.integers(0, 40),
    units=st.integers(1, 64),
    tile=st.sampled_from(TILES[1:]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_block(
    device: Device, m: int, n: int, k: int, units: int, tile: GemmTile, seed: int
) -> None:
    a, b = adversarial(seed, m, k), adversarial(seed + 1, k, n)
    spec = replace(spec_of(a, b, tile), compute_units=units, chunk=16)
    assert same_bits(run(device, a, b, spec), expected(a, b, chunk=16)[None])


@pytest.mark.parametrize("tile", LEGAL_TILES, ids=str)
def test_every_legal_tile_has_the_bits_through_the_engine(device: Device, tile: GemmTile) -> None:
    """Packing and product of one plan, over ragged panels, several chunks and a shared operand."""
    outputs, leaves, wanted = [], {}, []
    for at, (m, n, k) in enumerate(PACKED_SHAPES):
        a, b = leaf(f"a{at}", 1, m, k), leaf(f"b{at}", 1, k, n)
        make = ordinary if at % 2 else adversarial
        leaves[a], leaves[b] = make(at, *a.shape), make(at + 50, *b.shape)
        outputs.append(graph.dot(a, b))
        wanted.append(expected(leaves[a], leaves[b]))
    a, b = leaf("many", 3, 9, 70), leaf("weights", 1, 70, 60)
    leaves[a], leaves[b] = ordinary(5, *a.shape), ordinary(6, *b.shape)
    outputs.append(graph.dot(a, graph.expand(b, (3, 70, 60))))
    wanted.append(expected(leaves[a], leaves[b]))
    for got, want in zip(through_the_engine(device, outputs, leaves, tile), wanted, strict=True):
        assert same_bits(got, canonical(want)), got.shape


@pytest.mark.parametrize("contract_helper", [False, True])
def test_fused_prologue_and_epilogue(device: Device, contract_helper: bool) -> None:
    """-A, B read transposed, C scaled and moved: still one product, the same bits."""
    a, b = leaf("a", 1, 20, 30), leaf("b", 1, 60, 30)
    leaves = {a: ordinary(7, *a.shape), b: ordinary(8, *b.shape)}
    negative = graph.mul(a, graph.filled(-1.0, dtypes.float32, a.shape))
    product = graph.dot(negative, graph.permute(b, (0, 2, 1)))
    doubled = graph.mul(product, graph.filled(2.0, dtypes.float32, product.shape))
    moved = graph.add(doubled, graph.filled(1.0, dtypes.float32, product.shape))
    (got,) = through_the_engine(device, [moved], leaves, TILES[0], contract_helper=contract_helper)
    want = expected(-leaves[a], np.ascontiguousarray(leaves[b].transpose(0, 2, 1)))
    assert same_bits(got, want * np.float32(2) + np.float32(1))


def test_legal_tiles_follow_the_vector_width(device: Device) -> None:
    for width in (1, 4, 8, 16):
        tiles = gemm.legal_tiles(replace(device.info, native_vector_width_float=width))
        assert all(tile.vector in (4, 8, 16) for tile in tiles)
        assert tiles[0].vector <= max(4, width)


@pytest.mark.parametrize(
    "fields",
    [
        {"M": 0},
        {"N": 0},
        {"K": -1},
        {"batch": 0},
        {"chunk": 0},
        {"chunk": 510},
        {"M": 2**20, "K": 2**12},
        {"M": 2**16, "N": 2**16, "K": 1},
    ],
)
def test_impossible_products_are_refused(fields: dict[str, int]) -> None:
    spec = spec_of(ordinary(1, 2, 2), ordinary(1, 2, 2), TILES[0])
    with pytest.raises(EngineError) as caught:
        replace(spec, **fields)  # type: ignore[arg-type]
    assert caught.value.code == "GEMM_SHAPE"


@pytest.mark.parametrize(
    ("largest", "chunk"),
    [(1, 512), (128 * 128, 512), (128 * 255, 512), (255 * 255, 256), (2**20, 16), (2**24, 0)],
)
def test_chunks_of_integers_are_as_long_as_floats_are_exact(largest: int, chunk: int) -> None:
    assert gemm.exact_chunk(largest) == chunk
    assert chunk * largest <= 2**24
