"""OpenCL C for single operations: literals, operators, conversions, loads and stores.

Everything here is one operation of FX1 as text (docs/numerics.md §1 and §3), calling the helpers of
``prelude.py``; ``lower.py`` decides what is computed where. A ``bool`` is a C ``bool`` in registers
and a ``uchar`` of 0 or 1 in buffers. A 16-bit float is a ``float`` in registers, which every
operation leaves rounded to 16 bits, and the ``ushort`` of its bits in buffers. Integer arithmetic
runs in unsigned types, where overflow is defined. Special float literals are built from a kernel
argument that is always 0 (:data:`OPAQUE`), so that no compiler can fold arithmetic on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.codegen.loops import Value
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node, Op, const_scalar
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.views import Linear

OPAQUE = "fx1_zero"
"""Name of the ``uint`` argument, always 0, that special literals are combined with."""

CANONICAL_NAN = f"as_float(0x{dtypes.CANONICAL_NAN_FLOAT32:x}u ^ {OPAQUE})"
"""The canonical NaN, from a register.

As a literal it would be read from memory under a mask that is almost always empty. While nothing
else has touched that page, every such read takes a fault that is then suppressed, and a loop over
an array took 70 times as long (PoCL with AVX-512).
"""


def canonical(text: str, dtype: DType = dtypes.float32) -> str:
    """C text of a float32 or float64 with every NaN replaced by the canonical one."""
    suffix = "_double" if dtype is dtypes.float64 else ""
    return f"fx1_canonical{suffix}({text}, {OPAQUE})"


@dataclass(frozen=True, slots=True)
class Target:
    """What a device means for generated text. Part of every plan's key.

    ``contract_helper``: admission proved that an addition of a product inside a function with
    contraction ON gives the bits of ``fma()``; ``contract_helper_double`` says so of float64.
    ``has_fp64``: there is float64, and DIV and SQRT of float32 go through it; without it they are
    decided by integer remainders. ``is_cpu``: one work-item takes a block of elements and
    work-groups are of one work-item. ``numerics``: the law of the kernels. ``has_matrix_units``:
    16-bit products may go through the helpers of ``matrix.py``, under FAST alone. ``can_group``:
    256 work-items can share 32 KiB of local memory.
    """

    is_cpu: bool = True
    contract_helper: bool = True
    has_fp64: bool = True
    vector_floats: int = 8
    compute_units: int = 2
    contract_helper_double: bool = False
    numerics: Numerics = Numerics.EXACT
    has_matrix_units: bool = False
    can_group: bool = True

    @property
    def is_fast(self) -> bool:
        """Whether details of arithmetic and the order of sums are free."""
        return self.numerics is Numerics.FAST


def register_type(dtype: DType) -> str:
    """C type of a value in a variable."""
    if dtype is dtypes.bool_:
        return "bool"
    return "float" if dtype.is_narrow_float else dtype.c_name


def arithmetic_dtype(dtype: DType) -> DType:
    """The type that ``dtype``'s arithmetic, and the partial results of its sums, have."""
    return dtypes.float32 if dtype.is_narrow_float else dtype


def rounded(text: str, dtype: DType) -> str:
    """A register of the arithmetic type as a value of ``dtype``."""
    return f"fx1_round_{dtype.name}({text})" if dtype.is_narrow_float else text


def loaded(text: str, dtype: DType) -> str:
    """An element of a buffer as a register holds it."""
    if dtype is dtypes.bool_:
        return f"({text} != 0)"
    return f"fx1_widen_{dtype.name}({text})" if dtype.is_narrow_float else text


def stored(text: str, dtype: DType, *, final: bool) -> str:
    """A register's value as a buffer holds it; ``final`` values leave the engine canonical."""
    if dtype is dtypes.bool_:
        return f"(uchar){text}"
    if dtype.is_narrow_float:
        return f"fx1_narrow_{dtype.name}({text})"
    return canonical(text, dtype) if dtype.is_float and final else text


def unsigned(dtype: DType) -> str:
    """C type that ``dtype``'s arithmetic wraps in."""
    return "ulong" if dtype.size_bytes == 8 else "uint"


# ---------------------------------------------------------------- literals


def integer_literal(value: int, dtype: DType) -> str:
    """C literal of an integer of ``dtype``, the lowest one included."""
    suffix = {"uint": "u", "long": "L", "ulong": "UL"}.get(dtype.c_name, "")
    low = int(np.iinfo(dtype.numpy).min)
    text = f"({value + 1}{suffix} - 1)" if value == low and low < 0 else f"{value}{suffix}"
    return f"(({dtype.c_name}){text})"


def literal(value: np.generic, dtype: DType) -> str:
    """C text of a constant; special floats refer to :data:`OPAQUE`."""
    if dtype is dtypes.bool_:
        return "true" if value else "false"
    if dtype.is_integer:
        return integer_literal(int(value), dtype)
    if dtype is dtypes.float64:
        return _double_literal(value)
    value = np.float32(value)
    number = float(value)
    bits = int(np.asarray(value).view(np.uint32))
    if number == 0 or not math.isfinite(number) or abs(number) < 2.0**-126:
        return _opaque(value)
    return f"as_float(0x{bits:x}u)" if number != int(number) or abs(number) > 1e6 else f"{number}f"


def _double_literal(value: np.generic) -> str:
    number = float(value)
    if number == 0 or not math.isfinite(number) or abs(number) < 2.0**-1022:
        return _opaque(value)
    return f"as_double(0x{int(np.asarray(value).view(np.uint64)):x}UL)"


def _opaque(value: np.generic) -> str:
    if isinstance(value, np.float64):
        return f"as_double(0x{int(np.asarray(value).view(np.uint64)):x}UL ^ {OPAQUE})"
    return f"as_float(0x{int(np.asarray(np.float32(value)).view(np.uint32)):x}u ^ {OPAQUE})"


def zero(dtype: DType) -> str:
    """The literal of all bits 0, as padding has it."""
    if dtype is dtypes.bool_:
        return "false"
    if dtype is dtypes.float64:
        return "as_double(0UL)"
    return "0.0f" if dtype.is_float else f"({dtype.c_name})0"


# ---------------------------------------------------------------- indices


def index_text(form: Linear, wide: bool) -> str:
    """C expression of an index form; ``wide`` computes in ``long``."""
    parts = []
    for atom, c in form.terms:
        text = _atom_text(atom, wide)
        parts.append(text if c == 1 else f"{c}{'L' if wide else ''} * {text}")
    if form.constant or not parts:
        parts.append(str(form.constant))
    return "(" + " + ".join(parts) + ")" if len(parts) > 1 else parts[0]


def _atom_text(atom: object, wide: bool) -> str:
    from flopmarket.engine.views import Atom

    assert isinstance(atom, Atom)
    if atom.of is None:
        return f"(long){atom.key}" if wide else atom.key
    if atom.kind == "bound":
        return index_text(atom.of, wide)
    # C divides toward zero: a form that can be negative is lifted by a multiple of the divisor.
    lift = max(0, -(atom.of.low // atom.by))
    inside = index_text(atom.of + lift * atom.by, wide)
    if atom.kind == "mod":
        return f"({inside} % {atom.by})"
    quotient = f"({inside} / {atom.by})"
    return f"({quotient} - {lift})" if lift else quotient


# ---------------------------------------------------------------- operations


def operation(node: Node, values: Sequence[Value], target: Target) -> str:
    """The elementwise ``node`` applied to its sources' values."""
    op, dtype = node.op, node.dtype
    args = [value.text for value in values]
    if op is Op.CAST:
        return _cast(node, args[0])
    if op is Op.WHERE:
        # A chosen literal comes from a register, for the reason given at CANONICAL_NAN.
        chosen = [
            text if scalar is None or not dtype.is_float else _opaque(scalar)
            for text, scalar in zip(args[1:], map(const_scalar, node.src[1:]), strict=True)
        ]
        return f"({args[0]} ? {chosen[0]} : {chosen[1]})"
    if op is Op.CMP:
        return _compare(node, args)
    if op is Op.BIT:
        return _bits(node, args)
    if op in (Op.DIV, Op.SQRT) and dtype.is_float:
        name = "fx1_div" if op is Op.DIV else "fx1_sqrt"
        suffix = "_double" if dtype is dtypes.float64 else ""
        return rounded(f"{name}{suffix}({', '.join(args)})", dtype)
    if op is Op.FMA:
        return rounded(_fma(node, values), dtype)
    result = combine(_COMBINED[op], dtype, args[0], args[1])
    return result if op is Op.MAX else rounded(result, dtype)


_COMBINED = {Op.ADD: "sum", Op.MUL: "prod", Op.MAX: "max", Op.DIV: "div"}


def combine(kind: str, dtype: DType, a: str, b: str) -> str:
    """``a`` and ``b`` under 'sum', 'prod', 'max', 'min' or integer 'div', not yet rounded."""
    if dtype.is_float:
        if kind in ("max", "min"):
            suffix = "_double" if dtype is dtypes.float64 else ""
            return f"fx1_{kind}{suffix}({a}, {b}, {OPAQUE})"
        return f"({a} {'+' if kind == 'sum' else '*'} {b})"
    if kind == "div":
        return f"fx1_div_{dtype.name}({a}, {b})"
    if kind in ("max", "min"):
        if dtype is dtypes.bool_:
            return f"({a} {'||' if kind == 'max' else '&&'} {b})"
        return f"({a} {'>' if kind == 'max' else '<'} {b} ? {a} : {b})"
    u = unsigned(dtype)
    return f"(({dtype.c_name})(({u}){a} {'+' if kind == 'sum' else '*'} ({u}){b}))"


def multiply_add(dtype: DType, a: Value, b: Value, c: str) -> str:
    """``a * b + c``: an FMA node, or one term of a DOT or of a sum of products."""
    if dtype is dtypes.float64:
        left = f"as_double(as_ulong({a.text}) ^ {OPAQUE})" if a.constant and b.constant else a.text
        return f"fx1_fma_double({left}, {b.text}, {c})"
    if dtype.is_float:
        left = f"as_float(as_uint({a.text}) ^ {OPAQUE})" if a.constant and b.constant else a.text
        return f"fx1_fma({left}, {b.text}, {c})"
    u = unsigned(dtype)
    return f"(({dtype.c_name})(({u}){a.text} * ({u}){b.text} + ({u}){c}))"


def _fma(node: Node, values: Sequence[Value]) -> str:
    """A factor of 1 or -1 leaves one rounding anyway: an addition says the same and is cheaper."""
    for position in (0, 1):
        factor = const_scalar(node.src[position])
        other = node.src[1 - position]
        if factor is not None and abs(factor) == 1 and other.op is not Op.MUL:
            sign = "+" if factor == 1 else "-"
            return f"({values[2].text} {sign} {values[1 - position].text})"
    return multiply_add(node.dtype, values[0], values[1], values[2].text)


def _compare(node: Node, args: Sequence[str]) -> str:
    a, b = args
    if node.src[0].dtype is dtypes.bool_:
        return f"(!{a} && {b})" if node.arg[0] == "lt" else f"({a} == {b})"
    return f"({a} {'<' if node.arg[0] == 'lt' else '=='} {b})"


def _bits(node: Node, args: Sequence[str]) -> str:
    a, b = args
    kind, dtype = node.arg[0], node.dtype
    if dtype is dtypes.bool_:
        return f"({a} {dict(zip(('and', 'or', 'xor'), ('&&', '||', '!='), strict=True))[kind]} {b})"
    c = dtype.c_name
    if kind in ("shl", "shr"):
        arrow = "<<" if kind == "shl" else ">>"
        shifted = f"({c})({a} {arrow} ({b} & {dtype.bits - 1}))"
        return f"({b} < {dtype.bits} ? {shifted} : ({c})0)"
    return f"(({c})({a} {dict(zip(('and', 'or', 'xor'), '&|^', strict=True))[kind]} {b}))"


def _cast(node: Node, x: str) -> str:
    source, target = node.src[0].dtype, node.dtype
    if node.arg == ("bitcast",):
        return _bitcast(x, source, target)
    if target is dtypes.bool_:
        return f"({x} != {zero(source)})"
    if source.is_float and target.is_integer:
        return _float_to_integer(x, arithmetic_dtype(source), target)
    if target.is_narrow_float:
        return _to_narrow(x, source, target)
    return f"(({register_type(target)}){x})"


def _bitcast(x: str, source: DType, target: DType) -> str:
    if source.is_narrow_float:
        x = stored(x, source, final=True)
    if target.is_narrow_float:
        return loaded(f"((ushort){x})", target)
    if source.is_float and not source.is_narrow_float:
        return f"as_{target.c_name}({canonical(x, source)})"
    if target.is_float:
        return canonical(f"as_{target.c_name}({x})", target)
    return f"(({target.c_name}){x})"


def _to_narrow(x: str, source: DType, target: DType) -> str:
    """A conversion to a 16-bit float: what comes before its rounding loses nothing it could see."""
    if source is dtypes.float64:
        x = f"fx1_odd_double({x})"
    elif source.is_integer and source.size_bytes > 2 and target is dtypes.bfloat16:
        # float16 needs no such care: an integer beyond 2^24 is an infinity there.
        size = f"{x} < 0 ? 0UL - (ulong){x} : (ulong){x}" if source.kind == "i" else f"(ulong){x}"
        positive = f"fx1_odd_integer({size})"
        x = f"({x} < 0 ? -{positive} : {positive})" if source.kind == "i" else positive
    elif not source.is_float:
        x = f"(float){x}"
    return rounded(x, target)


def _float_to_integer(x: str, source: DType, target: DType) -> str:
    info = np.iinfo(target.numpy)
    if source is dtypes.float64:
        above = f"as_double(0x{int(np.float64(int(info.max) + 1).view(np.uint64)):x}UL)"
        below = f"as_double(0x{int(np.float64(int(info.min)).view(np.uint64)):x}UL)"
    else:
        above = f"as_float(0x{int(np.float32(float(int(info.max) + 1)).view(np.uint32)):x}u)"
        below = f"as_float(0x{int(np.float32(float(int(info.min))).view(np.uint32)):x}u)"
    high = integer_literal(int(info.max), target)
    low = integer_literal(int(info.min), target)
    # The conversion itself only sees numbers inside the range: outside C leaves it undefined.
    inside = f"{x} > {below} && {x} < {above}"
    safe = f"({target.c_name})({inside} ? {x} : {zero(source)})"
    return f"({x} >= {above} ? {high} : ({x} <= {below} ? {low} : {safe}))"
