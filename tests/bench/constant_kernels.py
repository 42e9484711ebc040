"""OpenCL C for ``bench_constants``: products and folds with the constants of FX1 as parameters.

Not the engine's own kernels: those have the constants built in. These are as good as a plain
hand-written kernel gets, so that the ratios between constants mean something: on a GPU 128 x 128
tiles with 8 x 8 results a work-item and double-buffered local memory, on a CPU packed operands, a
6 x 16 tile and work-groups of one. A chunk of 0 is a single chain, no law at all.
"""

from __future__ import annotations

GPU_TILE = 128
GPU_ITEMS = 256
CPU_ROWS, CPU_COLUMNS = 6, 16

_FMA = """
#ifdef CONTRACT
static inline FLOATV madd(FLOATV a, FLOATV b, FLOATV c)
{
    #pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}
#else
#define madd fma
#endif
"""


def _vector(width: int) -> str:
    return "float" if width == 1 else f"float{width}"


def _head(width: int, contract: bool, **defines: int) -> str:
    lines = ["#pragma OPENCL FP_CONTRACT OFF", f"#define FLOATV {_vector(width)}"]
    lines += ["#define CONTRACT"] * contract
    lines += [f"#define {name} {value}" for name, value in defines.items()]
    return "\n".join(lines) + _FMA


# ---------------------------------------------------------------- products


def gpu_gemm(chunk: int, *, depth: int, registers: bool = False, split: int = 0) -> str:
    """C = A B, A [M, K], B [K, N] row-major, M and N multiples of 128, K of ``depth``.

    ``depth`` is that of the tile, 8 or 16. Chunk sums go through C, or with ``registers`` through a
    second set of accumulators. ``split`` terms go to each group along axis 2, into C [split, M, N].
    """
    return (
        _head(1, False, CHUNK=chunk, BK=depth, REGISTERS=int(registers), SPLIT=split)
        + """
#define LOADS (BK / 8)

__kernel __attribute__((reqd_work_group_size(256, 1, 1)))
void gemm(__global const float* restrict A, __global const float* restrict B,
          __global float* restrict C, const int M, const int N, const int K)
{
    __local float As[2][BK * 128] __attribute__((aligned(16)));
    __local float Bs[2][BK * 128] __attribute__((aligned(16)));
    const int item = get_local_id(0), tx = item & 15, ty = item >> 4;
    const int row0 = get_group_id(1) * 128, col0 = get_group_id(0) * 128;
    int first = 0, last = K;
#if SPLIT
    first = get_group_id(2) * SPLIT;
    last = min(K, first + SPLIT);
    C += (size_t)get_group_id(2) * M * N;
#endif
    const int arow = item >> 1, acol = (item & 1) * 4 * LOADS;
    const int brow = item >> 5, bcol = (item & 31) * 4;
    __global const float* a_from = A + (size_t)(row0 + arow) * K + acol;
    __global const float* b_from = B + (size_t)brow * N + col0 + bcol;
    float4 a_next[LOADS], b_next[LOADS];
    float acc[8][8];
#if REGISTERS
    float total[8][8];
#endif
    #pragma unroll
    for (int i = 0; i < 8; i++)
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            acc[i][j] = 0.0f;
#if REGISTERS
            total[i][j] = 0.0f;
#endif
        }

#define FETCH(k) \\
    _Pragma("unroll") for (int l = 0; l < LOADS; l++) { \\
        a_next[l] = *(__global const float4*)(a_from + (k) + 4 * l); \\
        b_next[l] = *(__global const float4*)(b_from + (size_t)((k) + 8 * l) * N); \\
    }
#define PUT(s) \\
    _Pragma("unroll") for (int l = 0; l < LOADS; l++) { \\
        As[s][(acol + 4 * l) * 128 + arow] = a_next[l].x; \\
        As[s][(acol + 4 * l + 1) * 128 + arow] = a_next[l].y; \\
        As[s][(acol + 4 * l + 2) * 128 + arow] = a_next[l].z; \\
        As[s][(acol + 4 * l + 3) * 128 + arow] = a_next[l].w; \\
        *(__local float4*)(&Bs[s][(brow + 8 * l) * 128 + bcol]) = b_next[l]; \\
    }
#define ROW(i) (row0 + ((i) < 4 ? 0 : 64) + ty * 4 + ((i) & 3))
#define SPOT(i, h) ((__global float4*)(C + (size_t)ROW(i) * N + col0 + (h) * 64 + tx * 4))
#define PART(i, h) (float4)(acc[i][4 * (h)], acc[i][4 * (h) + 1], acc[i][4 * (h) + 2], \\
                            acc[i][4 * (h) + 3])

    FETCH(first)
    PUT(0)
    barrier(CLK_LOCAL_MEM_FENCE);
    int side = 0;
    for (int k = first; k < last; k += BK) {
        const int more = k + BK < last;
        if (more) { FETCH(k + BK) }
        #pragma unroll
        for (int p = 0; p < BK; p++) {
            float a[8], b[8];
            *(float4*)a = *(__local const float4*)(&As[side][p * 128 + ty * 4]);
            *(float4*)(a + 4) = *(__local const float4*)(&As[side][p * 128 + 64 + ty * 4]);
            *(float4*)b = *(__local const float4*)(&Bs[side][p * 128 + tx * 4]);
            *(float4*)(b + 4) = *(__local const float4*)(&Bs[side][p * 128 + 64 + tx * 4]);
            #pragma unroll
            for (int i = 0; i < 8; i++)
                #pragma unroll
                for (int j = 0; j < 8; j++)
                    acc[i][j] = fma(a[i], b[j], acc[i][j]);
        }
        if (more) {
            side ^= 1;
            PUT(side)
            barrier(CLK_LOCAL_MEM_FENCE);
        }
#if CHUNK
        if ((k + BK) % CHUNK == 0 || !more) {
            #pragma unroll
            for (int i = 0; i < 8; i++) {
#if REGISTERS
                #pragma unroll
                for (int j = 0; j < 8; j++) { total[i][j] += acc[i][j]; acc[i][j] = 0.0f; }
                if (!more) {
                    #pragma unroll
                    for (int j = 0; j < 8; j++) acc[i][j] = total[i][j];
                    *SPOT(i, 0) = PART(i, 0);
                    *SPOT(i, 1) = PART(i, 1);
                }
#else
                *SPOT(i, 0) = k < CHUNK ? PART(i, 0) : *SPOT(i, 0) + PART(i, 0);
                *SPOT(i, 1) = k < CHUNK ? PART(i, 1) : *SPOT(i, 1) + PART(i, 1);
                #pragma unroll
                for (int j = 0; j < 8; j++) acc[i][j] = 0.0f;
#endif
            }
        }
#endif
    }
#if !CHUNK
    #pragma unroll
    for (int i = 0; i < 8; i++) { *SPOT(i, 0) = PART(i, 0); *SPOT(i, 1) = PART(i, 1); }
#endif
}
"""
    )


def cpu_gemm(*, continues: bool) -> str:
    """One chunk of C += A B with packed operands: A [M/6, terms, 6], B [N/16, terms, 16].

    With ``continues`` the chain of the terms before goes on (K-blocking without a law); otherwise a
    chain from +0 is added to C.
    """
    return (
        _head(8, True, CONTINUES=int(continues))
        + """
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm(__global const float* restrict A, __global const float* restrict B,
          __global float* restrict C, const int terms, const int N, const int a_at,
          const int b_at)
{
    const int row = get_global_id(1), column = get_global_id(0);
    __global const float* a = A + a_at + (size_t)row * terms * 6;
    __global const float8* b = (__global const float8*)(B + b_at + (size_t)column * terms * 16);
    __global float* c = C + (size_t)row * 6 * N + column * 16;
    float8 acc[6][2];
    #pragma unroll
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 2; j++)
            acc[i][j] = CONTINUES ? *(__global float8*)(c + i * N + 8 * j) : (float8)(0.0f);
    for (int k = 0; k < terms; k++) {
        const float8 b0 = b[2 * k], b1 = b[2 * k + 1];
        #pragma unroll
        for (int i = 0; i < 6; i++) {
            acc[i][0] = madd((float8)(a[6 * k + i]), b0, acc[i][0]);
            acc[i][1] = madd((float8)(a[6 * k + i]), b1, acc[i][1]);
        }
    }
    #pragma unroll
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 2; j++) {
            __global float8* out = (__global float8*)(c + i * N + 8 * j);
            *out = CONTINUES ? acc[i][j] : *out + acc[i][j];
        }
}
"""
    )


def thin_product(
    rows: int, width: int, chunk: int, unroll: int, *, vectors: int = 1, contract: bool = False
) -> str:
    """Y [rows, N] = X [rows, K] W [K, N] in two kernels: chains of ``chunk`` terms, and their sums.

    A work-item of ``chains`` holds ``rows`` x ``vectors`` x ``width`` of them. ``fold`` adds the
    chunks' results from left to right. ``at`` is where W starts, in floats, so that launches can
    take turns on copies that do not stay in a cache.
    """
    return (
        _head(
            width,
            contract,
            ROWS=rows,
            VECTORS=vectors,
            COLUMNS=vectors * width,
            CHUNK=chunk,
            UNROLL=unroll,
        )
        + """
__kernel void chains(__global const float* restrict X, __global const float* restrict W,
                     __global float* restrict parts, const int K, const int N, const int at)
{
    const int column = get_global_id(0) * COLUMNS, chunk = get_global_id(1);
    const int first = chunk * CHUNK, last = min(K, first + CHUNK);
    __global const float* w = W + at + column;
    FLOATV acc[ROWS][VECTORS];
    #pragma unroll
    for (int m = 0; m < ROWS; m++)
        #pragma unroll
        for (int v = 0; v < VECTORS; v++) acc[m][v] = (FLOATV)(0.0f);
    for (int k = first; k < last; k += UNROLL) {
        FLOATV taken[UNROLL][VECTORS];
        #pragma unroll
        for (int u = 0; u < UNROLL; u++)
            #pragma unroll
            for (int v = 0; v < VECTORS; v++)
                taken[u][v] = ((__global const FLOATV*)(w + (size_t)(k + u) * N))[v];
        #pragma unroll
        for (int u = 0; u < UNROLL; u++)
            #pragma unroll
            for (int m = 0; m < ROWS; m++) {
                const FLOATV x = (FLOATV)(X[m * K + k + u]);
                #pragma unroll
                for (int v = 0; v < VECTORS; v++) acc[m][v] = madd(x, taken[u][v], acc[m][v]);
            }
    }
    #pragma unroll
    for (int m = 0; m < ROWS; m++)
        #pragma unroll
        for (int v = 0; v < VECTORS; v++)
            ((__global FLOATV*)(parts + ((size_t)chunk * ROWS + m) * N + column))[v] = acc[m][v];
}
"""
        + fold()
    )


def fold() -> str:
    """out [size] = parts [count, size] added from left to right, from +0."""
    return """
__kernel void fold(__global const float* restrict parts, __global float* restrict out,
                   const int count, const int size)
{
    const int at = get_global_id(0);
    float total = 0.0f;
    for (int c = 0; c < count; c++) total += parts[(size_t)c * size + at];
    out[at] = total;
}
"""


# ---------------------------------------------------------------- folds of rows


def gpu_reduce(lanes: int, block: int, width: int) -> str:
    """Blocks of x [rows, n] by lanes and tree into out [rows, blocks]; n a multiple of ``lanes``.

    A work-item holds ``width`` lanes; a group of 256 items works on several blocks.
    """
    return (
        _head(width, False, LANES=lanes, BLOCK=block, WIDTH=width, PER_BLOCK=lanes // width)
        + """
#define BLOCKS (256 / PER_BLOCK)

__kernel __attribute__((reqd_work_group_size(256, 1, 1)))
void reduce(__global const float* restrict x, __global float* restrict out, const int n,
            const int blocks, const int jobs)
{
    __local float shared[BLOCKS * LANES] __attribute__((aligned(16)));
    const int item = get_local_id(0), mine = item / PER_BLOCK, lane = item % PER_BLOCK * WIDTH;
    const int job = get_group_id(0) * BLOCKS + mine;
    if (job < jobs) {
        const int row = job / blocks, first = job % blocks * BLOCK;
        const int terms = min(BLOCK, n - first);
        __global const float* from = x + (size_t)row * n + first + lane;
        FLOATV acc = *(__global const FLOATV*)from;
        #pragma unroll 8
        for (int at = LANES; at < terms; at += LANES) acc += *(__global const FLOATV*)(from + at);
        *(__local FLOATV*)(shared + mine * LANES + lane) = acc;
    }
    __local float* row_of_lanes = shared + mine * LANES;
    for (int step = LANES / 2; step; step >>= 1) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int j = item % PER_BLOCK; j < step; j += PER_BLOCK)
            row_of_lanes[j] += row_of_lanes[j + step];
    }
    if (job < jobs && lane == 0) out[job] = row_of_lanes[0];
}
"""
    )


def finish(lanes: int) -> str:
    """The tree over n <= lanes results of a row, missing lanes skipped; one work-item a row."""
    return (
        _head(1, False, LANES=lanes)
        + """
__kernel void finish(__global const float* restrict x, __global float* restrict out, const int n)
{
    const int row = get_global_id(0);
    float lane[LANES];
    for (int j = 0; j < n; j++) lane[j] = x[(size_t)row * n + j];
    for (int step = LANES / 2; step; step >>= 1)
        for (int j = 0; j < step && j + step < n; j++) lane[j] += lane[j + step];
    out[row] = lane[0];
}
"""
    )


def cpu_reduce(lanes: int, block: int) -> str:
    """The same with one work-item a block, its lanes in vectors of 16."""
    return (
        _head(16, True, LANES=lanes, BLOCK=block, VECTORS=lanes // 16)
        + """
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void reduce(__global const float* restrict x, __global float* restrict out, const int n,
            const int blocks, const int jobs)
{
    const int job = get_global_id(0), row = job / blocks, first = job % blocks * BLOCK;
    const int terms = min(BLOCK, n - first);
    __global const float16* from = (__global const float16*)(x + (size_t)row * n + first);
    float16 acc[VECTORS];
    #pragma unroll
    for (int v = 0; v < VECTORS; v++) acc[v] = from[v];
    for (int at = VECTORS; at < terms / 16; at += VECTORS)
        #pragma unroll
        for (int v = 0; v < VECTORS; v++) acc[v] += from[at + v];
    #pragma unroll
    for (int step = VECTORS / 2; step; step >>= 1)
        for (int v = 0; v < step; v++) acc[v] += acc[v + step];
    const float8 a = acc[0].lo + acc[0].hi;
    const float4 b = a.lo + a.hi;
    const float2 c = b.lo + b.hi;
    out[job] = c.x + c.y;
}
"""
    )
