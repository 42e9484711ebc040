"""Tiles of 16-bit floats on a matrix unit: NVIDIA's ``mma.sync``, reached by inline PTX.

Products of 16-bit floats are exact in float32, and the unit adds them up in float32; in which
order and with which rounding is its own affair, so this is for FAST. A warp computes 16 x 8 sums
from 16 terms at a time, operands and sums being spread over its work-items as the PTX manual has it
(m16n8k16). Whether a device takes the assembler and computes what it should is probed
(``probes_matrix.py``).
"""

from __future__ import annotations

from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.loops import Scope
from flopmarket.engine.codegen.tiles import Operand, Tiled
from flopmarket.engine.dtypes import DType, bfloat16, float16
from flopmarket.engine.views import Index, Linear

_PTX = {float16: "f16", bfloat16: "bf16"}
_WARPS = (2, 4)
"""Warps of a group along rows and columns."""
_ROWS, _COLUMNS, _TERMS = 16, 8, 16
"""Sums of one instruction along rows and columns, and its terms."""
_PAD = 8


def helper(dtype: DType) -> str:
    """The instruction as a function: sums + rows of ``a`` times columns of ``b``."""
    kind = _PTX[dtype]
    name = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"
    registers = "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}"
    return f"""\
static inline float4 {helper_name(dtype)}(uint4 a, uint2 b, float4 c) {{
    float4 d;
    asm volatile("{name} {registers};"
        : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y),
          "f"(c.x), "f"(c.y), "f"(c.z), "f"(c.w));
    return d;
}}
"""


def helper_name(dtype: DType) -> str:
    """Name of the function."""
    return f"fast_mma_{dtype.name}"


HELPERS = {
    helper(dtype): f"static inline float4 {helper_name(dtype)}(uint4 a, uint2 b, float4 c) "
    "{ return c; }\n"
    for dtype in _PTX
}
"""Each helper, and what stands for it before the lint: the only assembler that there may be."""


def helpers(kernels: str) -> str:
    """Those that ``kernels`` call."""
    return "".join(helper(dtype) for dtype in _PTX if f"{helper_name(dtype)}(" in kernels)


class MatrixTiled(Tiled):
    """Tiles hold bit patterns with the terms of a row side by side; a warp owns a part of it."""

    STEPS = 32
    family = "gemm_matrix"
    element = "ushort"

    @property
    def _width(self) -> int:
        """Elements between the rows of a tile: eight of them lie in different banks."""
        return self.STEPS + _PAD

    @property
    def _room(self) -> int:
        return self.edge * self._width

    @property
    def _dtype(self) -> DType:
        return self._node.src[0].dtype

    @property
    def _part(self) -> tuple[int, int]:
        """Rows and columns of the tile that a warp owns."""
        return self.edge // _WARPS[0], self.edge // _WARPS[1]

    @property
    def _sums(self) -> list[tuple[int, int]]:
        rows, columns = self._part
        return [(i, j) for i in range(rows // _ROWS) for j in range(columns // _COLUMNS)]

    def _element(self, operand: Operand, index: Index, scope: Scope) -> str:
        matrix = operand.matrix
        if matrix is None:
            value = self.emitter.value(operand.source, index, scope).text
            return opencl.stored(value, self._dtype, final=False)
        b, x, k = index if operand.name == "a" else (index[0], index[2], index[1])
        flat: Linear = b * matrix.batch + x * matrix.lane + k * matrix.k + matrix.offset
        return f"{self.emitter.parameter(matrix.node).name}[{self.emitter.index(flat)}]"

    def _keep(self, operand: Operand) -> str:
        term, place = self._inside(operand)
        at = f"({place}) * {self._width} + {term}"
        return f"tile_{operand.name}[{at}] = next_{operand.name}[j];"

    def _begin(self) -> list[str]:
        rows, columns = self._part
        return [
            "const int warp = item / 32;",
            "const int four = item % 32 / 4;",
            "const int pair = item % 4 * 2;",
            f"const int row_part = warp / {_WARPS[1]} * {rows};",
            f"const int column_part = warp % {_WARPS[1]} * {columns};",
            *(f"float4 c{i}_{j} = (float4)(0.0f);" for i, j in self._sums),
        ]

    def _multiply(self) -> list[str]:
        lines = ["#pragma unroll", f"for (int k = 0; k < {self.STEPS}; k += {_TERMS}) {{"]
        for i in dict.fromkeys(i for i, _ in self._sums):
            row = f"row_part + {i * _ROWS} + four"
            words = [self._word("a", row, at, k) for k in (0, 8) for at in (0, 8)]
            lines.append(f"const uint4 a{i} = (uint4)({', '.join(words)});")
        for j in dict.fromkeys(j for _, j in self._sums):
            column = f"column_part + {j * _COLUMNS} + four"
            words = [self._word("b", column, 0, k) for k in (0, 8)]
            lines.append(f"const uint2 b{j} = (uint2)({', '.join(words)});")
        name = helper_name(self._dtype)
        lines += [f"c{i}_{j} = {name}(a{i}, b{j}, c{i}_{j});" for i, j in self._sums]
        return [*lines, "}"]

    def _word(self, name: str, line: str, more: int, term: int) -> str:
        """Two neighbouring terms of a row of a tile."""
        place = f"({line} + {more}) * {self._width} + k + {term} + pair"
        return f"as_uint(*(__local const ushort2*)(tile_{name} + {place}))"

    def _chosen(self) -> list[str]:
        """Eight rows of every warp: instruction ``s / 2`` of its rows, the upper or lower half."""
        columns = range(self._part[1] // _COLUMNS)
        lines = [f"float2 row{j} = c0_{j}.xy;" for j in columns]
        for s in range(1, 2 * self._part[0] // _ROWS):
            half = "zw" if s % 2 else "xy"
            row = " ".join(f"row{j} = c{s // 2}_{j}.{half};" for j in columns)
            lines.append(f"if (s == {s}) {{ {row} }}")
        return lines

    def _staged(self) -> list[str]:
        line = f"warp / {_WARPS[1]} * {_COLUMNS} + four"
        begin = f"stage + ({line}) * {self.edge} + column_part + pair"
        columns = range(self._part[1] // _COLUMNS)
        return [f"*(__local float2*)({begin} + {j * _COLUMNS}) = row{j};" for j in columns]

    def _row_of_stage(self) -> str:
        line = f"e / {self.edge}"
        return f"{line} / 8 * {self._part[0]} + {line} % 8 + s / 2 * {_ROWS} + s % 2 * 8"
