/*
 * int8_mma_192_finish.cuh - from 192 sums a thread to memory: any end that is asked for
 * SPDX-License-Identifier: Apache-2.0
 *
 * Serves    FP8's tiles, with columns' factors from device memory; and INT8's that
 *           int8_mma_192_end.cuh has no kind for, with those kept in shared memory (KEPT).
 * Loads     Nothing overlaps an end, so they are many: of a residual up to 8 groups of rows ahead,
 *           as sums give way to it.
 */
#ifndef INT8_MMA_192_FINISH_CUH
#define INT8_MMA_192_FINISH_CUH

#include "int8_mma_192.cuh"

namespace int8
{
namespace tall
{

/* Where a lane's results are: ROWS rows 8 apart. */
struct corner {
    unsigned char *out, *old; /* walk; old: the residual that is asked for next */
    int rows, cols;           /* that exist from there on */
    int row, col;
    float x_scale[3]; /* of the warp's rows lane, lane + 32, lane + 64 */
};

template <int C>
__device__ __forceinline__ corner corner_of(const lx_cu_int8 &p, const place &t, int thread)
{
    const int lane = thread % 32, warp = thread / 32;
    const int64_t row0 = (int64_t)t.m * BM + warp / WN * WARP_M;
    corner at;
    at.row = (int)row0 + lane / 4;
    at.col = t.n * BN + warp % WN * WARP_N + lane % 4 * C;
    at.out = (unsigned char *)p.e.out.data + ((int64_t)at.row * p.e.out.stride + at.col) * (16 / C);
    at.old = at.out;
    at.rows = (int)max((int64_t)0, min((int64_t)BM, p.e.m - at.row));
    at.cols = (int)max((int64_t)0, min((int64_t)BN, p.e.n - at.col));
#pragma unroll
    for (int i = 0; i < 3; i++)
        at.x_scale[i] = x_scale_at(p.e, row0 + lane + 32 * i);
    return at;
}

/* 8 rows further, or from the last of a piece to the first of the next one; so that the compiler
 * works nothing out for rows to come: no register is left for that. */
template <int C, int R>
__device__ __forceinline__ void walk(unsigned char *&at, const lx_cu_mat &out)
{
    constexpr int SIZE = 16 / C, ROWS_ON = R + 1 < ROWS ? 8 : -8 * (ROWS - 1);
    at += (int64_t)(int)out.stride * (ROWS_ON * SIZE) + (R + 1 < ROWS ? 0 : 4 * C * SIZE);
    asm volatile("" : "+l"(at));
}

__device__ __forceinline__ void put_16(unsigned char *at, bool is_there, const uint32_t (&v)[4])
{
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.b32 is_there, %5, 0;\n"
                 "@is_there st.global.v4.b32 [%4], {%0, %1, %2, %3};\n}" ::"r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3]), "l"(at), "r"((int)is_there)
                 : "memory");
}

/* Of this lane's row R. */
template <int R> __device__ __forceinline__ float scale_of_row(const corner &at)
{
    return __shfl_sync(0xffffffffu, at.x_scale[R / 4], R % 4 * 8 + (int)threadIdx.x % 32 / 4);
}

/* Before the gate. */
template <int C, int R, int PIECE, bool GELU, typename SUM>
__device__ __forceinline__ void get_numbers(const SUM (&acc)[MT][NT][4], float x_scale,
                                            const float (&w_scale)[C], const float (&bias)[C],
                                            float (&y)[C])
{
#pragma unroll
    for (int i = 0; i < C; i++) {
        const SUM sum = acc[R / 2][PIECE * (C / 2) + i / 2][R % 2 * 2 + i % 2];
        y[i] = fmaf(x_scale, w_scale[i] * (float)sum, bias[i]);
    }
    if constexpr (GELU) {
#pragma unroll
        for (int i = 0; i < C; i += 2)
            gelu_two(y[i], y[i + 1]);
    }
}

/* 16 bits: pieces of eight columns. What is told of a row: its largest magnitude or its squares. */
struct eights {
    float w_scale[8], bias[8];
};

__device__ __forceinline__ void get_eights(const lx_cu_epilogue &e, int64_t col, bool is_wide,
                                           eights &c)
{
    c = {}; /* else registers would keep what they had before */
    if (col >= e.n)
        return;
    get_floats<8>(e.w_scale, col, is_wide, 1, c.w_scale);
    get_bias<8>(e.bias, col, is_wide, c.bias);
}

__device__ __forceinline__ void tell_of(const lx_cu_int8 &p, const float (&y)[8], uint32_t &tell)
{
    if (p.most) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            tell = max(tell, cu_magnitude(y[i]));
    } else if (p.squares) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            tell = __float_as_uint(fmaf(y[i], y[i], __uint_as_float(tell)));
    }
}

__device__ __forceinline__ void pack_eight(int dtype, const float (&y)[8], uint32_t (&out)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = dtype == LX_CU_BF16 ? cu_pack_bf16(y[2 * i], y[2 * i + 1])
                                     : cu_pack_f16(y[2 * i], y[2 * i + 1]);
}

template <bool GELU, int PIECE, int R, typename SUM>
__device__ __forceinline__ void finish_eights(const lx_cu_int8 &p, corner &at,
                                              const SUM (&acc)[MT][NT][4], const eights &c,
                                              uint32_t (&tell)[ROWS])
{
    float y[8];
    get_numbers<8, R, PIECE, GELU>(acc, scale_of_row<R>(at), c.w_scale, c.bias, y);
    const bool is_there = at.rows > 8 * R && at.cols > 32 * PIECE;
    if (p.e.gate && is_there) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            y[i] *= p.e.gate[at.col + 32 * PIECE + i];
    }
    if (is_there)
        tell_of(p, y, tell[R]);
    uint32_t packed[4];
    pack_eight(p.e.out.dtype, y, packed);
    put_16(at.out, is_there, packed);
    walk<8, R>(at.out, p.e.out);
    if constexpr (R + 1 < ROWS)
        finish_eights<GELU, PIECE, R + 1>(p, at, acc, c, tell);
}

/* Of rows of F16 the largest as it was rounded. */
__device__ __forceinline__ void tell_eights(const lx_cu_int8 &p, int64_t row, int part,
                                            bool is_there, uint32_t tell)
{
    if (p.most) {
        const __half most = cu_from_f32<__half>(__uint_as_float(tell));
        raise_most(p.most, row, p.e.m, __float_as_uint(__half2float(most)));
    } else if (p.squares && is_there) {
        put_square(p, part, row, __uint_as_float(tell));
    }
}

/* A tile's columns kept in shared memory (int8_mma_192_even.cuh): scales, biases, gates. */
__device__ __forceinline__ void kept_eights(const float *kept, int col, eights &c)
{
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const float4 w = *(const float4 *)(kept + col + i),
                     b = *(const float4 *)(kept + BN + col + i);
        c.w_scale[i] = w.x, c.w_scale[i + 1] = w.y, c.w_scale[i + 2] = w.z, c.w_scale[i + 3] = w.w;
        c.bias[i] = b.x, c.bias[i + 1] = b.y, c.bias[i + 2] = b.z, c.bias[i + 3] = b.w;
    }
}

__device__ __forceinline__ void kept_fours(const float *kept, int col, columns<4> &c)
{
    const float4 w = *(const float4 *)(kept + col), b = *(const float4 *)(kept + BN + col),
                 g = *(const float4 *)(kept + 2 * BN + col);
    c = {{w.x, w.y, w.z, w.w}, {b.x, b.y, b.z, b.w}, {g.x, g.y, g.z, g.w}};
}

template <bool GELU, bool KEPT, typename SUM>
__device__ __forceinline__ void finish_16_bits(const lx_cu_int8 &p, bool is_wide, const place &t,
                                               const SUM (&acc)[MT][NT][4], const float *kept)
{
    corner at = corner_of<8>(p, t, thread_now());
    uint32_t tell[ROWS] = {};
    eights c;
    if (KEPT)
        kept_eights(kept, at.col % BN, c);
    else
        get_eights(p.e, at.col, is_wide, c);
    finish_eights<GELU, 0, 0>(p, at, acc, c, tell);
    if (KEPT)
        kept_eights(kept, at.col % BN + 32, c);
    else
        get_eights(p.e, at.col + 32, is_wide, c);
    finish_eights<GELU, 1, 0>(p, at, acc, c, tell);
    const int part = at.col / 64; /* of this warp */
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        tell_eights(p, at.row + 8 * r, part, part * 64 < p.e.n, tell[r]);
}

/* F32: pieces of four columns, groups of two rows: six groups a piece. */
constexpr int GROUPS = 24, OF_PIECE = 6;

/* Groups whose residual has been asked for when G is finished: as many more as sums are gone. */
__host__ __device__ constexpr int asked(int g)
{
    const int most = g < 7 ? 1 + 2 * g : g + 8;
    return g < 0 ? 0 : most < GROUPS ? most : GROUPS;
}

template <int G, int I>
__device__ __forceinline__ void get_residual(const lx_cu_int8 &p, corner &at,
                                             float4 (&old)[GROUPS][2])
{
    constexpr int R = G % OF_PIECE * 2 + I, COL = G / OF_PIECE * 16;
    float4 &v = old[G][I];
    v = make_float4(-0.0f, -0.0f, -0.0f, -0.0f); /* adding it changes nothing */
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.b32 is_there, %5, 0;\n"
                 "@is_there ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
                 : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
                 : "l"(at.old), "r"((int)(p.e.add_to_out && at.rows > 8 * R && at.cols > COL)));
    walk<4, R>(at.old, p.e.out);
    if constexpr (I + 1 < 2)
        get_residual<G, I + 1>(p, at, old);
}

template <int G, int END>
__device__ __forceinline__ void get_residuals(const lx_cu_int8 &p, corner &at,
                                              float4 (&old)[GROUPS][2])
{
    if constexpr (G < END) {
        get_residual<G, 0>(p, at, old);
        get_residuals<G + 1, END>(p, at, old);
    }
}

template <bool GELU, int G, int I, typename SUM>
__device__ __forceinline__ void finish_fours(const lx_cu_int8 &p, corner &at,
                                             const SUM (&acc)[MT][NT][4], const columns<4> &c,
                                             const float4 (&old)[GROUPS][2])
{
    constexpr int R = G % OF_PIECE * 2 + I, COL = G / OF_PIECE * 16;
    float y[4];
    get_numbers<4, R, G / OF_PIECE, GELU>(acc, scale_of_row<R>(at), c.w_scale, c.bias, y);
    const bool is_there = at.rows > 8 * R && at.cols > COL;
    const float4 v = old[G][I];
    const float residual[4] = {v.x, v.y, v.z, v.w};
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        bits[i] = __float_as_uint(__fadd_rn(residual[i], __fmul_rn(y[i], c.gate[i])));
    put_16(at.out, is_there, bits);
    walk<4, R>(at.out, p.e.out);
    if constexpr (I + 1 < 2)
        finish_fours<GELU, G, I + 1>(p, at, acc, c, old);
}

template <bool GELU, bool KEPT, int G, typename SUM>
__device__ __forceinline__ void finish_groups(const lx_cu_int8 &p, bool is_wide, corner &at,
                                              const SUM (&acc)[MT][NT][4], columns<4> &c,
                                              float4 (&old)[GROUPS][2], const float *kept)
{
    if (G % OF_PIECE == 0 && KEPT) {
        kept_fours(kept, at.col % BN + G / OF_PIECE * 16, c);
    } else if (G % OF_PIECE == 0) {
        c = {};
        if (at.cols > G / OF_PIECE * 16)
            get_columns<4>(p.e, at.col + G / OF_PIECE * 16, is_wide, c);
    }
    get_residuals<asked(G - 1), asked(G)>(p, at, old);
    finish_fours<GELU, G, 0>(p, at, acc, c, old);
    if constexpr (G + 1 < GROUPS)
        finish_groups<GELU, KEPT, G + 1>(p, is_wide, at, acc, c, old, kept);
}

template <int C, bool GELU, bool KEPT = false, typename SUM>
__device__ __forceinline__ void finish_sums(const lx_cu_int8 &p, bool is_wide, const place &t,
                                            const SUM (&acc)[MT][NT][4],
                                            const float *kept = nullptr)
{
    if constexpr (C == 8) {
        finish_16_bits<GELU, KEPT>(p, is_wide, t, acc, kept);
    } else {
        corner at = corner_of<4>(p, t, thread_now());
        columns<4> c;
        float4 old[GROUPS][2];
        finish_groups<GELU, KEPT, 0>(p, is_wide, at, acc, c, old, kept);
    }
}

} // namespace tall
} // namespace int8

#endif
