"""Two laws side by side: EXACT sources stay what they were, FAST ones are checked and sane."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen import lint, lint_fast
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.golden import suite
from flopmarket.engine.golden.suite import Array
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import CONTRACT_ON, FAST_OPTIONS, Numerics
from flopmarket.engine.probes import build_options
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.plan import make_plan
from flopmarket.jobs.prepared import run_local
from tests.one_digest import one_digest_job

FAST = CompileOptions(numerics=Numerics.FAST)

TARGETS = {
    "a CPU": Target(),
    "a CPU without float64": Target(vector_floats=16, has_fp64=False, contract_helper=False),
    "a GPU": Target(is_cpu=False, contract_helper=False, vector_floats=1, compute_units=96),
}

EXACT_SOURCES = {
    "a CPU": "cc2628e86213684df89d71e7f25881626e20e832d525c27d284811efe2d96e1d",
    "a CPU without float64": "612870a2f7ecdcc2f5db9b1f0e3b9d5a764d4b1d3b709fc0cffb1d2062bd519f",
    "a GPU": "8ee055412d022b1f01bad5d5d1df953cd742b0add4f39809ea0ff06aadc8ebe4",
}
"""sha256 over the sources of all golden programs under EXACT.

They change with the code generator, never by accident: a change has every worker build anew.
"""


def fast(target: Target) -> Target:
    """The same device under the other law."""
    return Target(
        is_cpu=target.is_cpu,
        has_fp64=target.has_fp64,
        vector_floats=target.vector_floats,
        compute_units=target.compute_units,
        numerics=Numerics.FAST,
    )


def sources(target: Target) -> list[tuple[str, str, bool]]:
    """(name, source, whether a device of the target runs it) of all golden programs."""
    found = []
    for name, make in suite.programs().items():
        golden = make()
        source = make_plan(tuple(dict.fromkeys(golden.nodes)), target).source
        found.append((name, source, target.has_fp64 or not golden.needs_float64))
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_exact_sources_are_what_they_were(name: str) -> None:
    digest = hashlib.sha256()
    for program, source, _ in sources(TARGETS[name]):
        digest.update(f"{program}\0{source}\0".encode())
    assert digest.hexdigest() == EXACT_SOURCES[name]


def test_exact_options_are_what_they_were() -> None:
    assert build_options(find("PoCL:0")) == ("-cl-fp32-correctly-rounded-divide-sqrt",)


@pytest.mark.parametrize("name", TARGETS)
def test_every_fast_source_passes_its_lint_and_not_that_of_exact_mode(name: str) -> None:
    for _, source, runs in sources(fast(TARGETS[name])):
        if runs:
            lint_fast.check(source, FAST_OPTIONS)
        with pytest.raises(EngineError) as caught:
            lint.check(source)
        assert caught.value.code == "LINT_CONTRACT"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("out[i] = native_exp(a[i]);", "LINT_CALL"),
        ("out[i] = a[i] / 3.0f;", "LINT_DIVIDE"),
        ("atomic_add(out + i, a[i]);", "LINT_ATOMIC"),
        ('__asm__("nop");', "LINT_ASM"),
        ("out[i] = __builtin_fmaf(a[i], a[i], a[i]);", "LINT_CALL"),
    ],
)
def test_fast_mode_has_its_limits(statement: str, code: str) -> None:
    source = (
        f"{CONTRACT_ON}__kernel void k(__global float* out, __global const float* a) {{\n"
        f"    const int i = (int)get_global_id(0);\n    {statement}\n}}\n"
    )
    with pytest.raises(EngineError) as caught:
        lint_fast.check(source)
    assert caught.value.code == code


def test_fast_mode_has_its_own_options_and_no_others() -> None:
    source = f"{CONTRACT_ON}"
    lint_fast.check(source, FAST_OPTIONS)
    for option in ("-cl-fast-relaxed-math", "-cl-finite-math-only", "-DX=1"):
        with pytest.raises(EngineError) as caught:
            lint_fast.check(source, (option,))
        assert caught.value.code == "LINT_OPTION"
    with pytest.raises(EngineError) as caught:
        lint_fast.check("__kernel void k() {}")
    assert caught.value.code == "LINT_CONTRACT"


def test_a_training_job_under_fast_repeats_its_bits_and_is_close_to_the_law() -> None:
    job = one_digest_job()
    first = run_local(job, None, options=FAST)
    poisoned = CompileOptions(numerics=Numerics.FAST, poison=True, poison_byte=0x41)
    again = run_local(job, None, options=poisoned)
    assert first.state_root == again.state_root
    assert first.outputs_root == again.outputs_root
    exact = run_local(job, None)
    for name, value in exact.outputs.items():
        np.testing.assert_allclose(first.outputs[name], value, rtol=1e-3, atol=1e-5)


def one_step(
    options: CompileOptions, values: Array, outputs: Callable[[Node], dict[str, Node]]
) -> dict[str, Array]:
    """``outputs`` of an input of float32 ``values``."""
    spec = TensorSpec("x", dtypes.float32, values.shape)
    x = graph.input_("input", "x", spec.dtype, spec.shape)
    program = Program.build(
        frozen=[], state=[], inputs=[spec], next_state=[], outputs=list(outputs(x).items())
    )
    session = open_session(program, None, options)
    try:
        session.load({}, {})
        return session.step({"x": values}, seed=0, step=0)
    finally:
        session.close()


def test_exact_mode_keeps_subnormals_after_fast_kernels_flushed_them() -> None:
    tiny = np.full(4096, 1e-40, np.float32)

    def doubled(x: Node) -> dict[str, Node]:
        return {"double": graph.add(x, x)}

    for _ in range(2):
        one_step(FAST, tiny, doubled)
        np.testing.assert_array_equal(one_step(CompileOptions(), tiny, doubled)["double"], 2 * tiny)


def test_nan_and_infinities_keep_their_meaning() -> None:
    values = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, -2.0, 1e30], np.float32)
    one = graph.filled(1.0, dtypes.float32, values.shape)

    def outputs(x: Node) -> dict[str, Node]:
        return {
            "sum": graph.add(x, x),
            "quotient": graph.div(one, x),
            "root": graph.sqrt(x),
            "max": graph.max_(x, one),
            "largest": graph.reduce("max", x, (0,)),
            "product": graph.mul(x, graph.filled(0.0, dtypes.float32, values.shape)),
        }

    want = one_step(CompileOptions(), values, outputs)
    have = one_step(FAST, values, outputs)
    for name in want:
        np.testing.assert_array_equal(want[name], have[name])  # whatever the sign of a zero
