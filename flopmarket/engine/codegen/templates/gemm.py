"""DOT on a CPU: packed, blocked matrix product in the order of profile FX1 (docs/numerics.md §2).

Products of 8-bit integers go the same way: packed as floats, their chunks are so short that every
sum in one is below 2^24 and therefore exact, and the totals of the chunks are int32.

``codegen/contract.py`` describes one contraction as a :class:`GemmSpec` and gives a C snippet: how
a finished element is stored (the fused epilogue). It gets back the product's kernel and its size.
The operands come packed, by ``codegen/pack.py`` with their prologues fused in, in this layout::

    packed A  [batch][row panel][k][MR]  \\
                                            product  ->  store(batch, row, column, value)
    packed B  [batch][column panel][k][NR] /

Every element is computed as: K in chunks of ``chunk``; inside a chunk ``acc = +0`` and one FMA for
each ascending k; ``total = +0``, then the chunks are added left to right. Tile, block and thread
decide only *when* an element is computed, so every legal tile gives the same bits. Rows, columns
and k beyond the matrix are packed as +0 in **both** operands, which changes no total because a
total starts at +0; padded rows and columns are never stored.

How it is fast: one work-item (work-group size 1, no local memory, no barrier) owns one column panel
and a block of row panels. Chunk by chunk it runs through its row panels, so the chunk of B stays in
the L2 cache, a panel of A in L1, the tile's accumulators in registers, and the block's totals in
private memory: one launch, and the output buffer is written once. Operands are read through aligned
vector pointers, because ``vloadN`` and ``fma()`` are real calls in PoCL that spill every register.

GPUs pack nothing: a work-group reads its operands into local memory (``codegen/tiled.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import DOT_CHUNK

if TYPE_CHECKING:  # generating code needs no OpenCL
    from flopmarket.engine.runtime.devices import DeviceInfo

Store = Callable[[str, str, str, str], str]
"""(batch, row, column, value) as C expressions -> C statements that store the float ``value``."""

CHUNK = DOT_CHUNK
"""Terms of one FMA chain. A constant of profile FX1: another number is another profile."""
MAX_INTEGER_CHUNK = 512
"""Terms of one chain of a product of integers, whose sums are exact in any order."""
UNROLL = 4
"""k steps of one turn of the inner loop; packed operands have K rounded up to it."""
MAX_BLOCK_ROWS = 128
"""Rows that one work-item keeps totals of, in private memory (24 KiB with 48 columns)."""
MIN_ITEMS_PER_UNIT = 8
"""Work-items for each compute unit, below which blocks shrink so that no thread waits for long."""
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class GemmTile:
    """A register tile: ``mr`` rows times ``nr_vectors`` vectors of ``vector`` floats."""

    mr: int
    nr_vectors: int
    vector: int

    @property
    def nr(self) -> int:
        """Columns of the tile."""
        return self.nr_vectors * self.vector

    def __str__(self) -> str:
        return f"{self.mr}x{self.nr_vectors}x{self.vector}"


@dataclass(frozen=True, slots=True)
class GemmSpec:
    """One contraction C[b, m, n] = sum over k of A[b, m, k] * B[b, k, n], float32 or exact int32.

    ``parameters`` are the C parameters that ``store`` uses (without the two packed operands, which
    come first), e.g. ``"__global float* restrict C, __global const float* restrict bias"``.
    ``shared_a`` and ``shared_b`` say that an operand does not depend on the batch: it is packed
    once, and its load sees batch 0. ``contract_helper`` renders FMA as the contracted helper
    instead of ``fma()``; set it only where admission has proved equal bits on the device.
    ``integer`` keeps totals in int32, and ``store`` gets an int: ``chunk`` is then what
    :func:`exact_chunk` allows.
    The rendered product takes its sizes as arguments (:func:`size_arguments`), last in the list:
    products that differ in nothing else are then one kernel, and a kernel costs a driver a third of
    a second to compile. ``store`` may use ``M`` and ``N`` and should hold no size.
    """

    M: int
    N: int
    K: int
    tile: GemmTile
    store: Store = field(compare=False)
    parameters: str
    batch: int = 1
    shared_a: bool = False
    shared_b: bool = False
    chunk: int = CHUNK
    name: str = "gemm"
    contract_helper: bool = False
    compute_units: int = 2
    integer: bool = False

    def __post_init__(self) -> None:
        if min(self.M, self.N, self.batch) < 1 or self.K < 0:
            raise EngineError(
                f"{self.name}: no product has shape {self.batch}x{self.M}x{self.N}x{self.K}",
                code="GEMM_SHAPE",
            )
        if self.chunk < UNROLL or self.chunk % UNROLL:
            raise EngineError(
                f"{self.name}: a chunk of {self.chunk} is not a multiple of {UNROLL}",
                code="GEMM_SHAPE",
            )
        sizes = (packed_a_bytes(self) // 4, packed_b_bytes(self) // 4, self.M * self.N * self.batch)
        if max(sizes) > _INT_MAX:
            raise EngineError(
                f"{self.name}: an operand of {max(sizes)} elements; indices end at {_INT_MAX}",
                code="GEMM_SHAPE",
                hint="split the batch or the larger axis",
            )

    @property
    def row_panels(self) -> int:
        """Panels of ``tile.mr`` rows."""
        return -(-self.M // self.tile.mr)

    @property
    def column_panels(self) -> int:
        """Panels of ``tile.nr`` columns."""
        return -(-self.N // self.tile.nr)

    @property
    def padded_k(self) -> int:
        """K rounded up to whole turns of the inner loop."""
        return -(-self.K // UNROLL) * UNROLL

    @property
    def block_panels(self) -> int:
        """Row panels that one work-item owns."""
        wanted = MIN_ITEMS_PER_UNIT * self.compute_units
        items = self.column_panels * self.batch
        blocks = -(-wanted // items)  # at least so many blocks of rows are wanted
        return max(1, min(MAX_BLOCK_ROWS // self.tile.mr, self.row_panels // blocks))


def exact_chunk(largest_product: int) -> int:
    """The longest chunk, up to :data:`MAX_INTEGER_CHUNK`, of such products whose sum floats hold.

    0 where not even one turn of the inner loop is exact.
    """
    return min(MAX_INTEGER_CHUNK, 2**24 // largest_product) // UNROLL * UNROLL


def legal_tiles(info: DeviceInfo) -> tuple[GemmTile, ...]:
    """:func:`tiles_for` the vectors of a device."""
    return tiles_for(info.native_vector_width_float)


def tiles_for(vector_floats: int) -> tuple[GemmTile, ...]:
    """Tiles worth trying on a CPU, the best guess first. Every one of them gives the same bits.

    The guess: as many accumulators as the register file holds beside one row of B and a broadcast.
    With 32 registers of 16 floats, 16 accumulators were as fast as 24 and pad fewer columns.
    """
    if vector_floats >= 16:
        shapes = ((8, 2, 16), (8, 3, 16), (12, 2, 16), (6, 4, 16), (6, 2, 8))
    elif vector_floats >= 8:
        shapes = ((6, 2, 8), (4, 2, 8), (4, 3, 8), (4, 1, 16), (2, 4, 8))
    else:
        shapes = ((4, 2, 4), (6, 2, 4), (3, 3, 4), (8, 1, 4), (6, 2, 8))
    return tuple(GemmTile(*shape) for shape in shapes)


def packed_a_bytes(spec: GemmSpec) -> int:
    """Bytes of packed A: [batch][row panel][k][MR] floats."""
    batch = 1 if spec.shared_a else spec.batch
    return 4 * batch * spec.row_panels * spec.tile.mr * max(spec.padded_k, UNROLL)


def packed_b_bytes(spec: GemmSpec) -> int:
    """Bytes of packed B: [batch][column panel][k][NR] floats."""
    batch = 1 if spec.shared_b else spec.batch
    return 4 * batch * spec.column_panels * spec.tile.nr * max(spec.padded_k, UNROLL)


def global_size(spec: GemmSpec) -> tuple[int, int, int]:
    """Work-items of the product (column panels, blocks of row panels, batch), in groups of one."""
    return (spec.column_panels, -(-spec.row_panels // spec.block_panels), spec.batch)


def render_helper(spec: GemmSpec) -> str:
    """The FMA helper of ``spec`` alone; a file with several specs renders each name once."""
    vector = spec.tile.vector
    if spec.contract_helper:
        body = "\n#pragma OPENCL FP_CONTRACT ON\n  return a * b + c;\n"
    else:
        body = f" return fma((float{vector})(a), b, c); "
    head = f"static inline float{vector} {helper_name(spec)}"
    return f"{head}(float a, float{vector} b, float{vector} c) {{{body}}}\n"


def helper_name(spec: GemmSpec) -> str:
    """Name of the FMA helper: one for each vector width."""
    return f"fx1_fma_float{spec.tile.vector}"


def render_gemm(spec: GemmSpec) -> str:
    """The kernel ``<name>(A, B, <parameters>, <sizes>)``, A and B being the packed operands.

    Its source needs :func:`render_helper` above it.
    """
    tile, fma = spec.tile, helper_name(spec)
    mr, nv, v, nr = tile.mr, tile.nr_vectors, tile.vector, tile.nr
    vectors = mr * nv
    sizes = ", ".join(f"const int {name}" for name in SIZE_NAMES)
    most = MAX_BLOCK_ROWS // mr
    names = [(i, j, f"c{i}_{j}") for i in range(mr) for j in range(nv)]
    clear = "\n".join(f"      float{v} {name} = (float{v})(0.0f);" for _, _, name in names)
    steps = "\n".join(_render_step(u, mr, nv, v, fma) for u in range(UNROLL))
    total, zero = ("int", "0") if spec.integer else ("float", "0.0f")
    sums = {name: f"convert_int{v}({name})" if spec.integer else name for _, _, name in names}
    add = "\n".join(
        f"      t[{i * nv + j}] = t[{i * nv + j}] + {sums[name]};" for i, j, name in names
    )
    store = spec.store("b", "(m0 + i)", "(n0 + j)", "value")
    return f"""
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void {spec.name}(__global const float* restrict A, __global const float* restrict B,
    {spec.parameters}, {sizes}) {{
  const int column = (int)get_global_id(0);
  const int first = (int)get_global_id(1) * block;
  const int b = (int)get_global_id(2);
  const int panels = (M + {mr - 1}) / {mr};
  const int rows = panels - first < block ? panels - first : block;
  const int n0 = column * {nr};
  {total}{v} totals[{most * vectors}];
  for (int i = 0; i < rows * {vectors}; i++) totals[i] = ({total}{v})({zero});
  __global const float* restrict panel_a = A + b * batch_a + first * stride * {mr};
  __global const float* restrict panel_b = B + b * batch_b + column * stride * {nr};
  for (int k0 = 0; k0 < depth; k0 += {spec.chunk}) {{
    const int turns = (depth - k0 < {spec.chunk} ? depth - k0 : {spec.chunk}) / {UNROLL};
    for (int r = 0; r < rows; r++) {{
      __global const float* restrict pa = panel_a + (r * stride + k0) * {mr};
      __global const float{v}* restrict pb = (__global const float{v}*)(panel_b + k0 * {nr});
{clear}
      for (int turn = 0; turn < turns; turn++) {{
{steps}
        pa += {UNROLL * mr};
        pb += {UNROLL * nv};
      }}
      {total}{v}* t = totals + r * {vectors};
{add}
    }}
  }}
  const {total}* elements = (const {total}*)totals;
  for (int r = 0; r < rows; r++) {{
    const int m0 = (first + r) * {mr};
    const {total}* tile = elements + r * {mr * nr};
    if (m0 + {mr} <= M && n0 + {nr} <= N) {{
      for (int i = 0; i < {mr}; i++) {{
        for (int j = 0; j < {nr}; j++) {{
          const {total} value = tile[i * {nr} + j];
          {store}
        }}
      }}
    }} else {{
      const int rows_left = M - m0 < {mr} ? M - m0 : {mr};
      const int columns_left = N - n0 < {nr} ? N - n0 : {nr};
      for (int i = 0; i < rows_left; i++) {{
        for (int j = 0; j < columns_left; j++) {{
          const {total} value = tile[i * {nr} + j];
          {store}
        }}
      }}
    }}
  }}
}}
"""


SIZE_NAMES = ("M", "N", "depth", "stride", "block", "batch_a", "batch_b")


def size_arguments(spec: GemmSpec) -> tuple[int, ...]:
    """The sizes that a product's text calls :data:`SIZE_NAMES`.

    Rows, columns, k steps (padded), k steps between panels, row panels of a work-item, and the
    floats between the matrices of a batch in packed A and B (0 for a shared operand).
    """
    stride = max(spec.padded_k, UNROLL)
    batch_a = 0 if spec.shared_a else spec.row_panels * spec.tile.mr * stride
    batch_b = 0 if spec.shared_b else spec.column_panels * spec.tile.nr * stride
    return (spec.M, spec.N, spec.padded_k, stride, spec.block_panels, batch_a, batch_b)


def _render_step(u: int, mr: int, nv: int, v: int, fma: str) -> str:
    """One k step: load a row of B, then a broadcast and ``nv`` FMAs for each row of A."""
    lines = [f"float{v} b{j} = pb[{u * nv + j}];" for j in range(nv)]
    for i in range(mr):
        lines.append(f"float a{i} = pa[{u * mr + i}];")
        lines.extend(f"c{i}_{j} = {fma}(a{i}, b{j}, c{i}_{j});" for j in range(nv))
    body = "\n".join(f"          {line}" for line in lines)
    return f"        {{\n{body}\n        }}"
