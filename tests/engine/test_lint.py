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
        "__global half* h = (__global half*)a; vstore_half_rte(vload_half(i, h), i, h);",
        "__global const float4* p = (__global const float4*)(a + 4 * i); a[i] = p[0].x;",
        "float8 t[4]; const float* e = (const float*)t; a[i] = e[i % 32];",
        "a[i] = 0x1p-126f + 1.1754944e-38f + 3.4028234e38f;",
        "a[i] = convert_float_rte(n[i]) + convert_float(convert_int_sat_rtz(a[i]));",
        "n[i] = (int)atomic_cmpxchg((volatile __global int*)n + i, 1, 2);",
    ],
)
def test_allowed(body: str) -> None:
    lint.check(kernel(body))


def float64_kernel(body: str) -> str:
    return kernel(body, "__global double* a").replace("void k(", "void k0_map_f64(")


def test_double_is_for_kernels_and_helpers_of_float64() -> None:
    lint.check(float64_kernel("const double d = a[i]; a[i] = d * d + 0.5 + as_double(1UL);"))
    widest = "static double fx1_max_double(double a, double b) { return a > b ? a : b; }\n"
    lint.check(OFF + widest + float64_kernel("a[i] = fx1_max_double(a[i], 1.0);"))
    assert code_of(OFF + widest.replace("_double", "") + kernel("a[i] = 0;")) == "LINT_DOUBLE"
    for body, code in (
        ("a[i] = 1e-310;", "LINT_LITERAL"),
        ("a[i] = a[i] / 3.0;", "LINT_DIVIDE"),
        ("a[i] = sqrt(a[i]);", "LINT_CALL"),
        ("a[i] = *(__global float*)a;", "LINT_POINTER"),
    ):
        assert code_of(float64_kernel(body)) == code


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
        "convert_float_rtz(i)",
        "half_exp(a[i])",
        "half_divide(a[i], a[i])",
        "half_recip(a[i])",
        "native_divide(a[i], a[i])",
        "native_sqrt(a[i])",
        "native_recip(a[i])",
        "mad_sat(i, i, i)",
        "mad_hi(i, i, i)",
        "fabs(a[i])",
        "fmod(a[i], a[i])",
        "remainder(a[i], a[i])",
        "fdim(a[i], a[i])",
        "maxmag(a[i], a[i])",
        "ldexp(a[i], 3)",
        "floor(a[i])",
        "rint(a[i])",
        "sign(a[i])",
        "smoothstep(a[i], a[i], a[i])",
        "cross(vload4(0, a), vload4(1, a)).x",
        "length(vload4(0, a))",
        "normalize(a[i])",
        "exp2(a[i])",
        "exp10(a[i])",
        "log(a[i])",
        "cos(a[i])",
        "tanh(a[i])",
        "erf(a[i])",
        "cbrt(a[i])",
        "tgamma(a[i])",
        "nan(0u)",
        "as_half(n[i])",
        "vload_half_fast(i, (__global half*)a)",
        "shuffle(vload4(0, a), (uint4)(0))",
        "work_group_scan_inclusive_add(a[i])",
        "work_group_broadcast(a[i], 0)",
        "sub_group_reduce_max(a[i])",
        "sub_group_scan_exclusive_add(a[i])",
        "atomic_fetch_add(a, 1.0f)",
        "atomic_fetch_add_explicit(a, 1.0f)",
        "__fmaf_rn(a[i], a[i], a[i])",
        "__spirv_ocl_exp(a[i])",
        "__nv_expf(a[i])",
        "__ocml_exp_f32(a[i])",
        "__builtin_expf(a[i])",
        "printf(n)",
        "async_work_group_copy(a, a, 1, 0)",
        "read_imagef(a, i)",
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
        ("#pragma OPENCL FP_CONTRACT DEFAULT\n a[i] = 0;", "LINT_DIRECTIVE"),
        ("%:pragma OPENCL FP_CONTRACT ON\n a[i] = 0;", "LINT_DIRECTIVE"),
        ("??=pragma OPENCL FP_CONTRACT ON\n a[i] = 0;", "LINT_DIRECTIVE"),
        ('_Pragma("OPENCL FP_CONTRACT ON") a[i] = 0;', "LINT_CALL"),
        ("#pragma STDC FENV_ACCESS ON\n a[i] = 0;", "LINT_DIRECTIVE"),
        ("#pragma clang loop vectorize(assume_safety)\n a[i] = 0;", "LINT_DIRECTIVE"),
        ('printf("%f", a[i]);', "LINT_CALL"),
        ("vstore_half(a[i], 0, (__global half*)a);", "LINT_CALL"),
        ("vstore_half_rtz(a[i], 0, (__global half*)a);", "LINT_CALL"),
        ("float (*f)(float) = a; a[i] = f(1.0f);", "LINT_CALL"),
        ("a[i] = (exp)(a[i]);", "LINT_NAME"),
        ("a[i] = (&exp)(a[i]);", "LINT_NAME"),
        ("a[i] = (fma)(a[i], a[i], a[i]);", "LINT_NAME"),
        ("a[i] = MAXFLOAT;", "LINT_NAME"),
        ("a[i] = FLT_EPSILON;", "LINT_NAME"),
        ("a[i] = some_name;", "LINT_NAME"),
        ("_Float16 h;", "LINT_NAME"),
        ("a[i] = (__fp16)a[i];", "LINT_NAME"),
        ("__bf16 h;", "LINT_NAME"),
        ("complex float z;", "LINT_NAME"),
        ("image2d_t z;", "LINT_NAME"),
        ("sampler_t z;", "LINT_NAME"),
        ("event_t z;", "LINT_NAME"),
        ("enum e { one };", "LINT_NAME"),
        ("__attribute__((optnone)) int z;", "LINT_NAME"),
        ('__attribute__((target("fma"))) int z;', "LINT_CALL"),
        ("struct s { int z; };", "LINT_TYPE"),
        ("goto out; out: a[i] = 0;", "LINT_CALL"),
        ('a[i] = "text"[0];', "LINT_TYPE"),
        ("a[i] = 'c';", "LINT_TYPE"),
        ("a[i] = 1.0h;", "LINT_TYPE"),
        ("a[i] = a[i] * 1e-40f;", "LINT_LITERAL"),
        ("a[i] = fma(0x1p-140f, 1.0f, a[i]);", "LINT_LITERAL"),
        ("a[i] = 1e39f;", "LINT_LITERAL"),
        ("const double d = a[i]; a[i] = (float)(d * d);", "LINT_DOUBLE"),
        ("a[i] = (float)((double)a[i] * a[i]);", "LINT_DOUBLE"),
        ("a[i] = (float)as_double((ulong)n[i]);", "LINT_DOUBLE"),
        ("a[i] = convert_double(a[i]);", "LINT_DOUBLE"),
        ("double4 d; a[i] = 0;", "LINT_DOUBLE"),
        ("a[i] = a[i] * 0.5;", "LINT_DOUBLE"),
        ("a[i] = a[i] + 1e3;", "LINT_DOUBLE"),
        ("a[i] = (float)0x1p3;", "LINT_DOUBLE"),
        ("a[i] = HUGE_VALF;", "LINT_LITERAL"),
        ("n[i] = *((__global int*)a + i);", "LINT_POINTER"),
        ("a[i] = *(__global float*)n;", "LINT_POINTER"),
        ("a[i] = *(__global float4*)(n + i);", "LINT_POINTER"),
        ("a[i] = *(float*)(ulong)i;", "LINT_POINTER"),
        ("__global double* d = (__global double*)a; d[0] = 0;", "LINT_DOUBLE"),
        ("n[i] = *(__global const int*)&a[i];", "LINT_POINTER"),
        ("atomic_add(a + i, 1.0f);", "LINT_ATOMIC"),
        ("atomic_inc(&a[i]);", "LINT_ATOMIC"),
        ("atom_max(a, 1.0f);", "LINT_ATOMIC"),
        ("atomic_cmpxchg((volatile __global int*)a + i, 1, 2);", "LINT_ATOMIC"),
        ("a[i] = abs(a[i]);", "LINT_MINMAX"),
        ("n[i] = max(n[i], (int)2 + a[i]);", "LINT_MINMAX"),
        ("double d = 1.0; a[i] = (float)(d / 3.0);", "LINT_DOUBLE"),
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
        "-cl-fast",
        "-ffast-math",
        "-ffp-contract=fast",
        "-fdenormal-fp-math=preserve-sign",
        "-Xclang",
        "-O3",
        "-cl-std=clc++",
        "-cl-nv-opt-level=3",
    ],
)
def test_options(option: str) -> None:
    assert code_of(kernel("a[i] = 0;"), (option,)) == "LINT_OPTION"


def test_builtins_cannot_be_redefined() -> None:
    shadow = "static float fma(float a, float b, float c) { return a * b + c; }\n"
    assert code_of(OFF + shadow + kernel("a[i] = fma(a[i], a[i], a[i]);")) == "LINT_CALL"


def test_what_stands_outside_functions_is_judged_too() -> None:
    body = kernel("a[i] = 0;")
    assert code_of(OFF + "extern float exp(float x);\n" + body) == "LINT_CALL"
    assert code_of(OFF + "__constant float e = M_E_F;\n" + body) == "LINT_LITERAL"
    assert code_of(OFF + "__constant float e = 1e-40f;\n" + body) == "LINT_LITERAL"
    assert code_of(OFF + "__constant int* e = &nothing;\n" + body) == "LINT_NAME"
    lint.check(OFF + "__constant float table[2] = {1.0f, 2.0f};\n" + kernel("a[i] = table[i];"))


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
