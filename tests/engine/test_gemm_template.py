"""The packed product: every tile, block and batch gives the bits of the written order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.codegen.templates.gemm import GemmSpec, GemmTile
from flopmarket.engine.errors import EngineError
from flopmarket.engine.reference import fma32
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.opencl import Device, open_device

Array = np.ndarray[Any, np.dtype[np.float32]]

TILES = (
    GemmTile(8, 3, 16),
    GemmTile(6, 2, 8),
    GemmTile(1, 1, 4),
    GemmTile(3, 3, 4),
)
SHAPES = ((1, 1, 1), (5, 17, 33), (64, 48, 511), (64, 48, 512), (64, 48, 513), (33, 65, 1025))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    cache = KernelCache(tmp_path_factory.mktemp("kernels"))
    with open_device(find("PoCL:0"), cache=cache) as opened:
        yield opened


def expected(a: Array, b: Array, chunk: int = gemm.CHUNK) -> Array:
    """numerics.md §2, word for word, for A (..., M, K) and B (..., K, N)."""
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


def run(device: Device, a: Array, b: Array, spec: GemmSpec) -> Array:
    m, n, k = spec.M, spec.N, spec.K
    source = gemm.render_source(
        spec,
        load_a=lambda batch, row, at: f"A[({batch} * {m} + {row}) * {k} + {at}]",
        load_b=lambda batch, column, at: f"B[({batch} * {k} + {at}) * {n} + {column}]",
        parameters_a="__global const float* restrict A",
        parameters_b="__global const float* restrict B",
    )
    module = device.compile(source)
    result = np.empty((spec.batch, m, n), np.float32)
    buffers = {
        "a": device.alloc(max(a.nbytes, 4)),
        "b": device.alloc(max(b.nbytes, 4)),
        "packed_a": device.alloc(gemm.packed_a_bytes(spec)),
        "packed_b": device.alloc(gemm.packed_b_bytes(spec)),
        "c": device.alloc(result.nbytes),
    }
    for buffer in buffers.values():
        buffer.poison(0xFF)
    device.upload(buffers["a"], a)
    device.upload(buffers["b"], b)
    rest = (["a"], ["b"], ["c"])
    device.run(
        [
            module.launch(
                launch.kernel,
                [buffers[name] for name in (*launch.operands, *names)],
                launch.global_size,
                launch.local_size,
            )
            for launch, names in zip(gemm.launches(spec), rest, strict=True)
        ]
    )
    device.download(buffers["c"], result)
    for buffer in buffers.values():
        buffer.release()
    return result


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


@pytest.mark.parametrize("adjacent", [False, True])
def test_fused_prologue_and_epilogue(device: Device, adjacent: bool) -> None:
    a, b = ordinary(7, 20, 30), ordinary(8, 60, 30)

    def store(batch: str, row: str, column: str, value: str) -> str:
        return f"C[{column} * 20 + {row}] = {value} * 2.0f + 1.0f;"

    spec = replace(spec_of(a, b.T, TILES[0]), store=store)
    module = device.compile(
        gemm.preamble(spec)
        + gemm.render_pack_a(
            spec, lambda b, m, k: f"-A[{m} * 30 + {k}]", "__global float* A", adjacent=adjacent
        )
        + gemm.render_pack_b(
            spec, lambda b, n, k: f"B[{n} * 30 + {k}]", "__global float* B", adjacent=adjacent
        )
        + gemm.render_gemm(spec)
    )
    left, right, out = device.alloc(a.nbytes), device.alloc(b.nbytes), device.alloc(20 * 60 * 4)
    packed_a, packed_b = (
        device.alloc(size) for size in (gemm.packed_a_bytes(spec), gemm.packed_b_bytes(spec))
    )
    device.upload(left, a)
    device.upload(right, b)
    arguments = ([packed_a, left], [packed_b, right], [packed_a, packed_b, out])
    for launch, bound in zip(gemm.launches(spec), arguments, strict=True):
        device.run([module.launch(launch.kernel, bound, launch.global_size, launch.local_size)])
    got = np.empty((60, 20), np.float32)
    device.download(out, got)
    want = expected(-a, np.ascontiguousarray(b.T)).T * np.float32(2) + np.float32(1)
    assert same_bits(got, np.ascontiguousarray(want))


def test_the_legal_tiles_of_this_device_work(device: Device) -> None:
    a, b = ordinary(9, 50, 65), ordinary(10, 65, 100)
    tiles = gemm.legal_tiles(device.info)
    assert len(tiles) >= 3
    digests = {run(device, a, b, spec_of(a, b, tile)).tobytes() for tile in tiles}
    assert digests == {expected(a, b)[None].tobytes()}


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
