"""Products on matrix units, run by the CPU's driver: the one instruction is emulated.

What is emulated is the assembler alone, by a function that exchanges the registers of a warp
through local memory as the PTX manual spreads them. Everything around it is the generated kernel.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.codegen import lint_fast
from flopmarket.engine.codegen.matrix import HELPERS, helper, helper_name
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.prelude import prelude
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import CONTRACT_ON, FAST_OPTIONS, Numerics
from flopmarket.engine.probes_matrix import matrix_units_work, source
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.schedule.plan import make_plan
from tests.engine.backend.test_fast_gpu import leaf, run, whole_numbers
from tests.engine.law.mutants import MutatedDevice, mutated

_NARROW = [dtypes.float16, dtypes.bfloat16]

EMULATION = """\
static inline float NAME_term(__local const uint* room, int lane, int word, int half_of) {
    const uint both = room[lane * 6 + word];
    return fx1_widen_TYPE((ushort)(half_of != 0 ? both >> 16 : both & 0xffffu));
}
static inline float NAME_sum(__local const uint* room, int row, int column, float total) {
    for (int k = 0; k < 16; k += 1) {
        const int part = k % 8 / 2;
        const float a = NAME_term(room, row % 8 * 4 + part, row / 8 + k / 8 * 2, k % 2);
        const float b = NAME_term(room, column * 4 + part, 4 + k / 8, k % 2);
        total = total + a * b;
    }
    return total;
}
static inline float4 NAME(uint4 a, uint2 b, float4 c, __local uint* room, int lane) {
    barrier(CLK_LOCAL_MEM_FENCE);
    room[lane * 6] = a.x; room[lane * 6 + 1] = a.y; room[lane * 6 + 2] = a.z;
    room[lane * 6 + 3] = a.w; room[lane * 6 + 4] = b.x; room[lane * 6 + 5] = b.y;
    barrier(CLK_LOCAL_MEM_FENCE);
    const int row = lane / 4, column = lane % 4 * 2;
    return (float4)(NAME_sum(room, row, column, c.x), NAME_sum(room, row, column + 1, c.y),
        NAME_sum(room, row + 8, column, c.z), NAME_sum(room, row + 8, column + 1, c.w));
}
"""


def emulating(text: str) -> str:
    """The source with a function in place of every instruction."""
    for dtype in _NARROW:
        name = helper_name(dtype)
        if helper(dtype) not in text:
            continue
        function = EMULATION.replace("NAME", name).replace("TYPE", dtype.name)
        widen = prelude(Target(numerics=Numerics.FAST), f"fx1_widen_{dtype.name}(")
        start = widen.index(f"static inline float fx1_widen_{dtype.name}(")
        end = widen.index("\n}\n", start) + 3
        if widen[start:end] not in text:
            function = widen[start:end] + function
        text = text.replace(helper(dtype), function)
        lane = "item" if "const int item" in text else "(int)get_local_id(0)"
        place = f"exchange + {lane} / 32 * 192, {lane} % 32"
        text = re.sub(rf"(= {name}\([^;]*)\);", rf"\1, {place});", text)
        text = re.sub(r"(__kernel[^{]*\{)", r"\1\n    __local uint exchange[8 * 192];", text)
    return text


@pytest.fixture
def emulator(device: Device) -> MutatedDevice:
    """The CPU, with a matrix unit."""
    found = mutated(device)
    found.info = replace(device.info, index_name="NVIDIA:0")
    found.rewrite = emulating  # type: ignore[method-assign]
    return found


PRODUCTS = [
    ((1, 64, 64, 64), (False, True), 4),
    ((2, 65, 33, 70), (False, False), 4),
    ((1, 40, 700, 24), (True, False), 16),
]


def test_the_probe_knows_a_matrix_unit(device: Device, emulator: MutatedDevice) -> None:
    assert not matrix_units_work(device)
    assert matrix_units_work(emulator)
    emulator.rewrite = lambda text: emulating(text).replace("row + 8", "row")  # type: ignore[method-assign]
    assert not matrix_units_work(emulator)


@pytest.mark.parametrize("dtype", _NARROW, ids=str)
@pytest.mark.parametrize(("sizes", "transposed", "units"), PRODUCTS, ids=str)
def test_a_product_of_any_shape(
    device: Device,
    emulator: MutatedDevice,
    sizes: tuple[int, int, int, int],
    transposed: tuple[bool, bool],
    units: int,
    dtype: DType,
) -> None:
    batch, M, K, N = sizes
    arrays = []
    for at, (shape, turned) in enumerate(zip([(M, K), (K, N)], transposed, strict=True)):
        shape = shape[::-1] if turned else shape
        arrays.append(whole_numbers(at, (batch, *shape), dtype))
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    left, right = (
        graph.permute(x, (0, 2, 1)) if turned else x
        for x, turned in zip((a, b), transposed, strict=True)
    )
    output = graph.dot(left, right)
    target = open_target(device, numerics=Numerics.FAST)
    target = replace(target, is_cpu=False, compute_units=units, has_matrix_units=True)
    leaves = dict(zip((a, b), arrays, strict=True))
    (have,), families = run(emulator, target, [output], leaves)
    (want,) = reference.evaluate(canonicalise([output]), leaves)
    assert families[0] == "gemm_matrix"
    assert (have == want).all()


def test_an_operand_that_is_computed_and_what_is_fused_behind(
    device: Device, emulator: MutatedDevice
) -> None:
    arrays = [
        whole_numbers(at, shape, dtypes.bfloat16)
        for at, shape in ((1, (1, 48, 40)), (2, (1, 40, 56)))
    ]
    a, b = (leaf(name, array) for name, array in zip("ab", arrays, strict=True))
    output = graph.cast(graph.dot(graph.add(a, a), b), dtypes.bfloat16)
    target = open_target(device, numerics=Numerics.FAST)
    target = replace(target, is_cpu=False, compute_units=4, has_matrix_units=True)
    leaves = dict(zip((a, b), arrays, strict=True))
    (have,), families = run(emulator, target, [output], leaves)
    (want,) = reference.evaluate(canonicalise([output]), leaves)
    assert families == ["gemm_matrix"]
    assert have.tobytes() == want.tobytes()


def mixed(left: DType, right: DType) -> Node:
    a = graph.input_("input", "a", left, (1, 64, 64))
    b = graph.input_("input", "b", right, (1, 64, 64))
    return graph.dot(a, b)


def test_who_goes_to_the_matrix_units() -> None:
    fast = Target(is_cpu=False, numerics=Numerics.FAST, has_matrix_units=True)

    def family(node: Node, target: Target) -> str:
        return str(make_plan(canonicalise([node]), target).steps[-1].call.family)

    both = mixed(dtypes.float16, dtypes.float16)
    assert family(both, fast) == "gemm_matrix"
    assert family(both, replace(fast, has_matrix_units=False)) == "gemm_tiled"
    assert family(mixed(dtypes.float16, dtypes.bfloat16), fast) == "gemm_tiled"
    assert family(mixed(dtypes.float32, dtypes.float32), fast) == "gemm_tiled"
    exact = Target(is_cpu=False, contract_helper=False)
    assert family(both, exact) == "gemm_tiled"
    assert "asm" not in make_plan(canonicalise([both]), exact).source


@pytest.mark.parametrize("dtype", _NARROW, ids=str)
def test_the_lint_knows_the_helpers_word_for_word(dtype: DType) -> None:
    lint_fast.check(source(dtype), FAST_OPTIONS)
    for changed in (
        source(dtype).replace(".f32 {%0", ".f16 {%0"),
        source(dtype).replace("asm volatile", "asm"),
        f"{CONTRACT_ON}{helper(dtype)}{helper(dtype)}",
    ):
        with pytest.raises(EngineError) as caught:
            lint_fast.check(changed)
        assert caught.value.code in ("LINT_ASM", "LINT_TYPE")
    assert len(HELPERS) == 2
