"""The GPU's kernels as code of three AMD generations: evidence about code, not about a card.

Debian's clang compiles what the engine generates, without AMD's library; work-item functions and
``fma`` are supplied as macros over the compiler's builtins. The metadata must show no scratch and
no spilled register, and exact kernels no multiply-add that rounds twice.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import FAST_OPTIONS, Numerics
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.schedule.plan import Step, make_plan

CLANG = shutil.which("clang-19")
pytestmark = pytest.mark.skipif(CLANG is None, reason="clang-19 (Debian) is not installed")

GENERATIONS = ["gfx1030", "gfx1100", "gfx1201"]
OPTIONS = {
    Numerics.EXACT: ("-cl-fp32-correctly-rounded-divide-sqrt",),
    Numerics.FAST: FAST_OPTIONS,
}
BUILTINS = """
#define axis_of(f, i) ((size_t)((i) == 0 ? f##_x() : (i) == 1 ? f##_y() : f##_z()))
#define get_local_id(i) axis_of(__builtin_amdgcn_workitem_id, i)
#define get_group_id(i) axis_of(__builtin_amdgcn_workgroup_id, i)
#define get_global_id(i) (get_group_id(i) * ((i) == 0 ? {x} : (i) == 1 ? {y} : 1) + get_local_id(i))
#define fma(a, b, c) __builtin_elementwise_fma(a, b, c)
#define barrier(fence) do {{ \\
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"); \\
    __builtin_amdgcn_s_barrier(); \\
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup"); }} while (0)
"""


def product(terms: int) -> Node:
    a = graph.input_("input", "a", dtypes.float32, (1, 4096, terms))
    b = graph.input_("input", "b", dtypes.float32, (1, terms, 4096))
    return graph.dot(a, b)


def fold() -> Node:
    return graph.reduce("sum", graph.input_("input", "x", dtypes.float32, (64, 4096)), (1,))


def compiled(node: Node, law: Numerics, processor: str, folder: Path) -> tuple[str, str]:
    """(assembler, name of the first kernel)."""
    target = Target(
        is_cpu=False, contract_helper=law is Numerics.FAST, compute_units=96, numerics=law
    )
    plan = make_plan(canonicalise([node]), target)
    (step,) = plan.steps
    assert isinstance(step, Step)
    x, y, *_ = (*step.call.local_size, 1)
    first, _, rest = plan.source.partition("\n")
    source, result = folder / "kernel.cl", folder / "kernel.s"
    source.write_text(f"{first}\n{BUILTINS.format(x=x, y=y)}{rest}")
    command = [str(CLANG), "-x", "cl", "-cl-std=CL1.2", "-Xclang", "-finclude-default-header"]
    command += ["-target", "amdgcn-amd-amdhsa", f"-mcpu={processor}", "-O3", "-nogpulib"]
    subprocess.run(
        [*command, *OPTIONS[law], "-S", "-o", str(result), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return result.read_text(), step.name


def count_of(text: str, kernel: str, key: str) -> int:
    """A number of the kernel's metadata, whose keys stand in alphabetical order around its name."""
    metadata = text[text.index(".amdgpu_metadata") :]
    after = metadata.split(f".name:           {kernel}\n")[1]
    found = re.search(rf"\.{key}:\s+(\d+)", after)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("processor", GENERATIONS)
@pytest.mark.parametrize("law", Numerics)
@pytest.mark.parametrize("node", [product(4096), fold()], ids=["product", "fold"])
def test_no_register_is_spilled(node: Node, law: Numerics, processor: str, tmp_path: Path) -> None:
    text, kernel = compiled(node, law, processor, tmp_path)
    assert count_of(text, kernel, "vgpr_spill_count") == 0
    assert count_of(text, kernel, "private_segment_fixed_size") == 0
    assert count_of(text, kernel, "vgpr_count") <= 192


@pytest.mark.parametrize("processor", GENERATIONS)
def test_exact_products_are_fused_multiply_adds(processor: str, tmp_path: Path) -> None:
    text, _ = compiled(product(4096), Numerics.EXACT, processor, tmp_path)
    fused = len(re.findall(r"v_(?:dual_)?(?:fmac|fma)_f32", text))
    # One for each of 64 sums and 16 terms of a tile, at the least.
    assert fused >= 1024
    assert not re.search(r"v_(?:mad|mac)_f32", text)
