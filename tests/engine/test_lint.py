"""The exact-mode lint: what is allowed passes, what is forbidden is named with its line."""

from __future__ import annotations

import pytest

from flopmarket.engine.codegen import lint
from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.errors import EngineError

OFF = "#pragma OPENCL FP_CONTRACT OFF\n"
HELPER = """static inline float8 fx1_fma_float8(float a, float8 b, float8 c) {
#pragma OPENCL FP_CONTRACT ON
  return a * b + c;
}
"""


def kernel(body: str, parameters: str = "__global float* a, __global int* n") -> str:
    return f"{OFF}__kernel void k({parameters}) {{\n  const int i = get_global_id(0);\n{body}\n}}\n"


def code_of(source: str, options: tuple[str, ...] = ()) -> str:
    with pytest.raises(EngineError) as caught:
        lint.check(source, options)
    assert caught.value.code.startswith("LINT_")
    return caught.value.code


@pytest.mark.parametrize(
    "body",
    [
        "a[i] = a[i] * a[i + 1] + a[i - 1];",
        "a[i] = fma(a[i], 2.0f, 0x1.8p-3f);",
        "a[i] = select(a[i], as_float(0x7fc00000), (uint)isnan(a[i]));",
        "n[i] = (i / 3) % 7 + n[i] / 2;",
        "n[i] = n[i] / (n[i + 1] + 1) * 4;",
        "n[i] = (int)a[i] / 3;",
        "n[i] = convert_int_sat(a[i]) / n[0];",
        "n[i] = min(n[i], 3) + max(i, (int)get_global_size(0));",
        "atomic_add(&n[i], 1);",
        "for (int k = 0; k < 4; k++) { if (k) a[k] = -a[k]; else a[k] = 0.0f; }",
        "float8 v = vload8(0, a); vstore8(v, 0, a); barrier(CLK_LOCAL_MEM_FENCE);",
        "const float* p = (const float*)a; a[i] = p[0]; /* a / b, exp(x) */ // fmin(a, b)",
        "uint4 r = (uint4)(1u, 2u, 3u, 4u); n[i] = (int)(mul_hi(r.x, r.y) >> 3);",
        "double d = (double)a[i]; a[i] = (float)(d * d);",
        "__global half* h = (__global half*)a; vstore_half_rte(vload_half(i, h), i, h);",
    ],
)
def test_allowed(body: str) -> None:
    lint.check(kernel(body))


def test_allowed_helpers_and_options() -> None:
    divide = (
        "static float fx1_div_f32(float a, float b) { return (float)((double)a / (double)b); }\n"
    )
    root = "static float fx1_sqrt_f32(float a) { return (float)sqrt((double)a); }\n"
    source = kernel("a[i] = fx1_div_f32(fx1_sqrt_f32(a[i]), 3.0f);")
    lint.check(OFF + HELPER + divide + root + source, ("-cl-std=CL1.2", "-w"))


@pytest.mark.parametrize(
    "call",
    [
        "mad(a[i], a[i], a[i])",
        "native_exp(a[i])",
        "half_sqrt(a[i])",
        "fmin(a[i], 1.0f)",
        "fmax(a[i], 1.0f)",
        "exp(a[i])",
        "log2(a[i])",
        "sin(a[i])",
        "pow(a[i], 2.0f)",
        "sqrt(a[i])",
        "rsqrt(a[i])",
        "dot(vload4(0, a), vload4(1, a))",
        "mix(a[i], a[i], a[i])",
        "mad24(i, i, i)",
        "work_group_reduce_add(a[i])",
        "sub_group_reduce_add(a[i])",
        "sub_group_shuffle(a[i], 1)",
        "__builtin_fmaf(a[i], a[i], a[i])",
        "atomic_add_float(a, 1.0f)",
        "some_function_nobody_defined(i)",
        "convert_float_fast(i)",
    ],
)
def test_forbidden_calls(call: str) -> None:
    assert code_of(kernel(f"a[i] = {call};")) == "LINT_CALL"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("a[i] = a[i] / a[i + 1];", "LINT_DIVIDE"),
        ("a[i] = a[i] / 3;", "LINT_DIVIDE"),
        ("a[i] = i / 3.0f;", "LINT_DIVIDE"),
        ("a[i] = 1 / a[i];", "LINT_DIVIDE"),
        ("a[i] /= 2;", "LINT_DIVIDE"),
        ("a[i] = a[i] * 2 / i;", "LINT_DIVIDE"),
        ("a[i] = (float)i / 2;", "LINT_DIVIDE"),
        ("a[i] = (i + a[i]) / 2;", "LINT_DIVIDE"),
        ("a[i] = as_float(i) / 2;", "LINT_DIVIDE"),
        ("float x = 1.0f, y = 2.0f; a[i] = y / 2;", "LINT_DIVIDE"),
        ("float4 v = 1.0f; a[i] = v.x / 2;", "LINT_DIVIDE"),
        ("a[i] = (i ? 1.0f : 2.0f) / i;", "LINT_DIVIDE"),
        ("a[i] = i / 1e3;", "LINT_DIVIDE"),
        ("a[i] = i / unknown_name;", "LINT_DIVIDE"),
        ("a[i] = min(a[i], 1.0f);", "LINT_MINMAX"),
        ("a[i] = max(a[i], a[0]);", "LINT_MINMAX"),
        ("a[i] = clamp(a[i], 0, 1);", "LINT_MINMAX"),
        ("a[i] = max((float)i, 0);", "LINT_MINMAX"),
        ("atomic_xchg(&a[i], 1.0f);", "LINT_ATOMIC"),
        ("atomic_xchg((volatile __global float*)a + i, 1);", "LINT_ATOMIC"),
        ("a[i] = NAN;", "LINT_LITERAL"),
        ("a[i] = -INFINITY;", "LINT_LITERAL"),
        ("a[i] = M_PI_F;", "LINT_LITERAL"),
        ("half h; a[i] = 0;", "LINT_TYPE"),
        ("half4 h; a[i] = 0;", "LINT_TYPE"),
        ("union { float f; int i; } u;", "LINT_TYPE"),
        ('__asm__ volatile ("nop");', "LINT_ASM"),
        ("#pragma OPENCL FP_CONTRACT ON\n a[i] = a[i] * a[i] + a[i];", "LINT_CONTRACT"),
        ("#pragma STDC FP_CONTRACT ON\n a[i] = 0;", "LINT_DIRECTIVE"),
        ("#pragma clang fp contract(fast)\n a[i] = 0;", "LINT_DIRECTIVE"),
        ("a[i] = 0; \\\n a[i] = 1;", "LINT_DIRECTIVE"),
    ],
)
def test_forbidden_in_a_body(body: str, code: str) -> None:
    assert code_of(kernel(body)) == code


def test_contraction_must_be_off_at_file_level_and_first() -> None:
    bare = kernel("a[i] = 0;").removeprefix(OFF)
    assert code_of(bare) == "LINT_CONTRACT"
    assert code_of(bare + OFF) == "LINT_CONTRACT"
    assert code_of("") == "LINT_CONTRACT"
    assert code_of("// #pragma OPENCL FP_CONTRACT OFF\n" + bare) == "LINT_CONTRACT"


@pytest.mark.parametrize(
    "helper",
    [
        HELPER.replace("a * b + c", "a * b + c + c"),
        HELPER.replace("a * b + c", "c + a * b"),
        HELPER.replace("a * b + c", "b * b + c"),
        HELPER.replace("return", "c = c + a; return"),
        HELPER.replace("fx1_fma_float8", "helper"),
        HELPER.replace("float8 b", "double8 b"),
        HELPER.replace("float a", "double a"),
    ],
)
def test_only_the_one_helper_may_contract(helper: str) -> None:
    assert code_of(OFF + helper + kernel("a[i] = 0;")) == "LINT_CONTRACT"


@pytest.mark.parametrize(
    "line",
    ["#include <x.h>", "#define E exp", "#undef fma", "#if 1\n#endif", "  # define A(x) x / 2"],
)
def test_directives(line: str) -> None:
    assert code_of(OFF + line + "\n" + kernel("a[i] = 0;")) == "LINT_DIRECTIVE"


@pytest.mark.parametrize(
    "option",
    [
        "-cl-fast-relaxed-math",
        "-cl-unsafe-math-optimizations",
        "-cl-mad-enable",
        "-cl-finite-math-only",
        "-cl-no-signed-zeros",
        "-cl-denorms-are-zero",
        "-cl-single-precision-constant",
        "-Dfma=mad",
        "-I/tmp",
        "-cl-std=CL1.2 -cl-mad-enable",
    ],
)
def test_options(option: str) -> None:
    assert code_of(kernel("a[i] = 0;"), (option,)) == "LINT_OPTION"


def test_builtins_cannot_be_redefined() -> None:
    shadow = "static float fma(float a, float b, float c) { return a * b + c; }\n"
    assert code_of(OFF + shadow + kernel("a[i] = fma(a[i], a[i], a[i]);")) == "LINT_CALL"


def test_division_is_judged_in_each_function_by_its_own_names() -> None:
    integer = "static int half_of(int x) { return x / 2; }\n"
    lint.check(OFF + integer + kernel("const float x = 2.0f; a[i] = x; n[i] = half_of(i);"))
    floating = "typedef float8 vf;\nstatic vf bad(vf x) { return x / 2; }\n"
    assert code_of(OFF + floating + kernel("a[i] = 0;")) == "LINT_DIVIDE"


def test_the_message_names_construct_and_line() -> None:
    with pytest.raises(EngineError, match=r"line 5: exp\(\)"):
        lint.check(kernel("/* one\n   two */ a[i] = exp(a[i]);"))


@pytest.mark.parametrize("contract_helper", [False, True])
def test_the_gemm_template_passes(contract_helper: bool) -> None:
    spec = gemm.GemmSpec(
        M=7,
        N=20,
        K=513,
        tile=gemm.GemmTile(6, 2, 8),
        parameters="__global float* restrict C",
        store=lambda b, m, n, value: f"C[({b} * 7 + {m}) * 20 + {n}] = {value};",
        contract_helper=contract_helper,
    )
    lint.check(OFF + gemm.render_helper(spec) + gemm.render_gemm(spec))
