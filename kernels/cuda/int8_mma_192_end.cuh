/*
 * int8_mma_192_end.cuh - how tiles of int8_mma_192_even.cuh end: from 192 sums a thread to memory
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       Nothing overlaps an end: no product is given while it lasts. finish_sums asks of
 *           every eight numbers of 16 bits what is wanted of them, 200 branches a tile, and takes
 *           10,400 clocks of an H100 until the next tile's products; here that is the kernel's
 *           kind, no branch is left, and it took 6,200 (2,000 of them without an end at all).
 * Rest      F32 that is not added, and 16 bits that have a gate or want what no model does end by
 *           int8_mma_192_finish.cuh's finish_sums: with its branches, without .cs.
 * Kept      Columns' scales and biases, gates of F32 and rows' scales lie in shared memory behind
 *           the ring since the tile began: nothing is waited for when it ends. They are asked for
 *           before sums are zeroed and first fragments read, and put there after that.
 * Lines     Four lanes have 64 bytes of a row of F32. Stored and added to so, an end of a residual
 *           takes 24,100 clocks (16,100 where only 16 of 132 blocks run); in lines of 128, which
 *           costs a shuffle and four selections for two numbers, 17,700 (11,900). What is left is
 *           memory's: 52 MB of residual and results a wave. 16 bits lose by that: 7,200 clocks.
 *           All with the residual asked for ahead. It is not any more, and by Nsight's samples
 *           an end took 13,900 clocks, 6,500 of them waiting for the residual (16 bits: 3,900).
 * Streams   What is written is not read again soon, and pushes no operands out of the second-level
 *           cache (.cs): 13824 -> 5120 4.70 ms instead of 4.91. But F16 rows of which codes are
 *           made.
 */
#ifndef INT8_MMA_192_END_CUH
#define INT8_MMA_192_END_CUH

#include "int8_mma_192_finish.cuh"

namespace int8
{
namespace even
{

using namespace tall;

/* What is made of sums. */
enum {
    END_F32,
    END_F32_ADD,      /* to what is there; gates */
    END_BF16,         /* no gate; nothing is told of rows */
    END_BF16_SQUARES, /* rows' sums of squares */
    END_F16,          /* as END_BF16 */
    END_F16_MOST,     /* rows' largest magnitudes, for codes */
    END_16_BITS       /* whatever lx_cu_int8 says of 16 bits */
};

/* Which ends read gates and rows' scales that were kept, write F16, tell of rows. */
template <int END> constexpr bool HAS_GATE = END == END_F32 || END == END_F32_ADD;
template <int END> constexpr bool HAS_ROWS = !(END == END_F32 || END == END_16_BITS);
template <int END> constexpr bool IS_F16 = END == END_F16 || END == END_F16_MOST;
template <int END> constexpr bool TELLS = END == END_BF16_SQUARES || END == END_F16_MOST;

/* Of a tile, floats: its columns' scales, biases and gates (F32 alone), as kept_eights and
 * kept_fours read them; its rows' scales. */
constexpr int KEPT_BIAS = BN, KEPT_GATE = 2 * BN, KEPT_ROWS = 3 * BN, KEPT_FLOATS = 3 * BN + BM;

/* A bias of F32, BF16 or F16 as it lies there; others do not come here (has_plain_bias). */
__device__ __forceinline__ uint32_t bias_bits(const lx_cu_vec &bias, int64_t col)
{
    return bias.dtype == LX_CU_F32 ? ((const uint32_t *)bias.data)[col]
                                   : ((const uint16_t *)bias.data)[col];
}

__device__ __forceinline__ float bias_of(const lx_cu_vec &bias, uint32_t bits)
{
    return bias.dtype == LX_CU_F32    ? __uint_as_float(bits)
           : bias.dtype == LX_CU_BF16 ? __uint_as_float(bits << 16)
                                      : __half2float(__ushort_as_half((unsigned short)bits));
}

/* Of a thread's column and row. */
struct asked_columns {
    float scale, gate, x_scale;
    uint32_t bias;
};

template <int END>
__device__ __forceinline__ asked_columns ask(const lx_cu_int8 &p, const place &here)
{
    static_assert(THREADS == BN && BM <= BN, "one column and one row each");
    const int thread = thread_now();
    const int64_t col = (int64_t)here.n * BN + thread, row = (int64_t)here.m * BM + thread;
    const bool is_there = col < p.e.n;
    asked_columns a = {is_there ? 1.0f : 0.0f, 1, 1, 0};
    if (is_there && p.e.w_scale)
        a.scale = p.e.w_scale[col];
    if (is_there && p.e.bias.data)
        a.bias = bias_bits(p.e.bias, col);
    if (HAS_GATE<END> && is_there && p.e.gate)
        a.gate = p.e.gate[col];
    if (HAS_ROWS<END> && thread < BM)
        a.x_scale = x_scale_at(p.e, row);
    return a;
}

/* Read after a step's barrier. */
template <int END>
__device__ __forceinline__ void keep(const lx_cu_int8 &p, const asked_columns &a, float *kept)
{
    const int thread = thread_now();
    kept[thread] = a.scale;
    kept[KEPT_BIAS + thread] = bias_of(p.e.bias, a.bias);
    if (HAS_GATE<END>)
        kept[KEPT_GATE + thread] = a.gate;
    if (HAS_ROWS<END> && thread < BM)
        kept[KEPT_ROWS + thread] = a.x_scale;
}

/* --- places ----------------------------------------------------------------------------------- */

/* Where a lane's results are. */
struct edge {
    unsigned char *out; /* walks */
    int rows, cols;     /* that exist from the first row and column on */
};

/* row, col: in the tile; C numbers are 16 bytes. */
template <int C>
__device__ __forceinline__ edge edge_of(const lx_cu_epilogue &e, const place &t, int row, int col)
{
    const int64_t m = (int64_t)t.m * BM + row, n = (int64_t)t.n * BN + col;
    edge at;
    at.out = (unsigned char *)e.out.data + (m * e.out.stride + n) * (16 / C);
    at.rows = (int)max((int64_t)0, min((int64_t)BM, e.m - m));
    at.cols = (int)max((int64_t)0, min((int64_t)BN, e.n - n));
    return at;
}

/* Asked for each time: no register is left to keep them. */
__device__ __forceinline__ float row_scale(const float *rows, int row)
{
    return *(const volatile float *)(rows + row);
}

/* What nothing reads soon. */
__device__ __forceinline__ void put_away(unsigned char *at, bool is_there, const uint32_t (&v)[4])
{
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.b32 is_there, %5, 0;\n"
                 "@is_there st.global.cs.v4.b32 [%4], {%0, %1, %2, %3};\n}" ::"r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3]), "l"(at), "r"((int)is_there)
                 : "memory");
}

/* --- 16 bits --------------------------------------------------------------------------------- */

/* F16 as cu_pack_f16 rounds: saturated, NaN stays NaN. */
__device__ __forceinline__ float in_f16(float v)
{
    asm("max.NaN.f32 %0, %0, 0fC77FE000;\nmin.NaN.f32 %0, %0, 0f477FE000;" : "+f"(v));
    return v;
}

template <int END> __device__ __forceinline__ uint32_t pack_two(float low, float high)
{
    if (!IS_F16<END>)
        return cu_pack_bf16(low, high);
    const __half2 pair = __floats2half2_rn(in_f16(low), in_f16(high));
    return *(const uint32_t *)&pair;
}

/* What a row is told of two more numbers. Columns that do not exist are 0: their scale and bias are
 * 0, whatever their sums (the last column's again), and a row's scale is finite. */
template <int END>
__device__ __forceinline__ uint32_t told_with(uint32_t told, float low, float high)
{
    if (END == END_F16_MOST)
        return max(told, max(cu_magnitude(low), cu_magnitude(high)));
    return __float_as_uint(fmaf(high, high, fmaf(low, low, __uint_as_float(told))));
}

/* Eight numbers of this lane's row R, packed; by twos, which takes few registers. */
template <int END, bool GELU, int PIECE, int R>
__device__ __forceinline__ void end_eight(const int (&acc)[MT][NT][4], const eights &c,
                                          const float *rows, uint32_t &tell, uint32_t (&packed)[4])
{
    const float x_scale = row_scale(rows, 8 * R);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int *const sums = acc[R / 2][PIECE * 4 + i] + R % 2 * 2;
        float low = fmaf(x_scale, c.w_scale[2 * i] * (float)sums[0], c.bias[2 * i]),
              high = fmaf(x_scale, c.w_scale[2 * i + 1] * (float)sums[1], c.bias[2 * i + 1]);
        if (GELU)
            gelu_two(low, high);
        if (TELLS<END>)
            tell = told_with<END>(tell, low, high);
        packed[i] = pack_two<END>(low, high);
        if (TELLS<END>)
            asm volatile("" : "+r"(packed[i]), "+r"(tell));
    }
}

template <int END, bool GELU, int PIECE, int R>
__device__ __forceinline__ void end_eights(const lx_cu_int8 &p, edge &at,
                                           const int (&acc)[MT][NT][4], const eights &c,
                                           const float *rows, uint32_t (&tell)[ROWS])
{
    uint32_t packed[4];
    end_eight<END, GELU, PIECE, R>(acc, c, rows, tell[R], packed);
    const bool is_there = at.rows > 8 * R && at.cols > 32 * PIECE;
    if (END == END_F16_MOST)
        put_16(at.out, is_there, packed);
    else
        put_away(at.out, is_there, packed);
    walk<8, R>(at.out, p.e.out);
    if constexpr (R + 1 < ROWS)
        end_eights<END, GELU, PIECE, R + 1>(p, at, acc, c, rows, tell);
}

/* Of F16 the largest as it was rounded; squares of the 64 columns of a part. */
template <int END>
__device__ __forceinline__ void tell_row_of(const lx_cu_int8 &p, int row, int part, uint32_t told)
{
    if (END == END_F16_MOST) {
        const __half most = __float2half_rn(in_f16(__uint_as_float(told)));
        raise_most(p.most, row, p.e.m, __float_as_uint(__half2float(most)));
    } else if (part * 64 < p.e.n) {
        put_square(p, part, row, __uint_as_float(told));
    }
}

template <int END, bool GELU>
__device__ __forceinline__ void end_16_bits(const lx_cu_int8 &p, const place &t,
                                            const int (&acc)[MT][NT][4], const float *kept)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane / 4, col = warp % WN * WARP_N + lane % 4 * 8;
    const float *const rows = kept + KEPT_ROWS + row;
    uint32_t tell[ROWS] = {};
    edge at = edge_of<8>(p.e, t, row, col);
    eights c;
    kept_eights(kept, col, c);
    end_eights<END, GELU, 0, 0>(p, at, acc, c, rows, tell);
    kept_eights(kept, col + 32, c);
    end_eights<END, GELU, 1, 0>(p, at, acc, c, rows, tell);
    if (!TELLS<END>)
        return;
    const int part = t.n * (BN / 64) + warp % WN; /* of this warp */
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        tell_row_of<END>(p, t.m * BM + row + 8 * r, part, tell[r]);
}

/* --- F32, added to what is there -------------------------------------------------------------- */

/* The lower row; then the pair of rows 8 further on, or the first of the next pieces. So that the
 * compiler works nothing out for rows to come: no register is left for that. */
__device__ __forceinline__ void walk_down(unsigned char *&at, const lx_cu_mat &out)
{
    at += (int64_t)(int)out.stride * 4;
    asm volatile("" : "+l"(at));
}

template <int R> __device__ __forceinline__ void walk_on(unsigned char *&at, const lx_cu_mat &out)
{
    constexpr int ROWS_ON = R + 1 < ROWS ? 7 : -8 * (ROWS - 1) - 1;
    at += (int64_t)(int)out.stride * (ROWS_ON * 4) + (R + 1 < ROWS ? 0 : 128);
    asm volatile("" : "+l"(at));
}

/* Of this lane's row the first and the second piece -> of its and its neighbour's row the upper and
 * the lower one's: the upper row's lanes then have the first piece of both rows, the lower row's
 * the second. So eight lanes side by side have 128 bytes of a row, not four 64. */
__device__ __forceinline__ void change(bool is_lower, uint32_t &first, uint32_t &second)
{
    const uint32_t mine = is_lower ? second : first,
                   other = __shfl_xor_sync(0xffffffffu, is_lower ? first : second, 4);
    first = is_lower ? other : mine;
    second = is_lower ? mine : other;
}

/* Groups: a pair of rows and four columns of each, ROWS of them of the first two pieces, as many of
 * the others. A group's numbers leave room for two more groups of the residual. */
constexpr int AHEAD = 3;

__host__ __device__ constexpr int asked_by(int group)
{
    const int all = group < 0 ? 0 : AHEAD + 2 * group;
    return all < 2 * ROWS ? all : 2 * ROWS;
}

/* I: 0 the upper row, 1 the lower one. */
template <int G, int I> __device__ __forceinline__ bool is_in(const edge &at)
{
    return at.rows > G % ROWS * 8 + I && at.cols > G / ROWS * 32;
}

template <int G, int I>
__device__ __forceinline__ void walk_group(unsigned char *&at, const lx_cu_mat &out)
{
    if constexpr (I == 0)
        walk_down(at, out);
    else
        walk_on<G % ROWS>(at, out);
}

/* Where there is no row or column the output's first numbers are read, and not used. */
template <int G, int I>
__device__ __forceinline__ void ask_row(const lx_cu_int8 &p, const edge &at, unsigned char *&old_at,
                                        float4 (&old)[2 * ROWS][2])
{
    float4 &v = old[G][I];
    const void *from = is_in<G, I>(at) ? (const void *)old_at : p.e.out.data;
    asm volatile("ld.global.cs.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(from));
    walk_group<G, I>(old_at, p.e.out);
}

template <int G, int END_AT>
__device__ __forceinline__ void ask_groups(const lx_cu_int8 &p, const edge &at,
                                           unsigned char *&old_at, float4 (&old)[2 * ROWS][2])
{
    if constexpr (G < END_AT) {
        ask_row<G, 0>(p, at, old_at, old);
        ask_row<G, 1>(p, at, old_at, old);
        ask_groups<G + 1, END_AT>(p, at, old_at, old);
    }
}

template <int G, int I>
__device__ __forceinline__ void end_row(const lx_cu_int8 &p, edge &at, const uint32_t (&sum)[4],
                                        const columns<4> &c, const float *rows,
                                        const float4 (&old)[2 * ROWS][2])
{
    const float4 v = old[G][I];
    const float residual[4] = {v.x, v.y, v.z, v.w}, x_scale = row_scale(rows, G % ROWS * 8 + I);
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float y = fmaf(x_scale, c.w_scale[i] * (float)(int)sum[i], c.bias[i]);
        bits[i] = __float_as_uint(__fadd_rn(residual[i], __fmul_rn(y, c.gate[i])));
    }
    put_away(at.out, is_in<G, I>(at), bits);
    walk_group<G, I>(at.out, p.e.out);
}

template <int G>
__device__ __forceinline__ void end_groups(const lx_cu_int8 &p, edge &at, unsigned char *old_at,
                                           const int (&acc)[MT][NT][4], columns<4> &c,
                                           const float *rows, bool is_lower,
                                           float4 (&old)[2 * ROWS][2], const float *columns_at)
{
    constexpr int R = G % ROWS, PIECE = G / ROWS * 2;
    uint32_t upper[4], lower[4];
    ask_groups<asked_by(G - 1), asked_by(G)>(p, at, old_at, old);
    if (R == 0)
        kept_fours(columns_at, G / ROWS * 32, c);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        upper[i] = (uint32_t)acc[R / 2][PIECE * 2 + i / 2][R % 2 * 2 + i % 2];
        lower[i] = (uint32_t)acc[R / 2][PIECE * 2 + 2 + i / 2][R % 2 * 2 + i % 2];
        change(is_lower, upper[i], lower[i]);
    }
    end_row<G, 0>(p, at, upper, c, rows, old);
    end_row<G, 1>(p, at, lower, c, rows, old);
    if constexpr (G + 1 < 2 * ROWS)
        end_groups<G + 1>(p, at, old_at, acc, c, rows, is_lower, old, columns_at);
}

__device__ __forceinline__ void end_f32(const lx_cu_int8 &p, const place &t,
                                        const int (&acc)[MT][NT][4], const float *kept)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane / 8 * 2, col = warp % WN * WARP_N + lane % 8 * 4;
    edge at = edge_of<4>(p.e, t, row, col);
    columns<4> c;
    float4 old[2 * ROWS][2];
    end_groups<0>(p, at, at.out, acc, c, kept + KEPT_ROWS + row, lane / 4 % 2 != 0, old,
                  kept + col);
}

template <int END, bool GELU>
__device__ __forceinline__ void end_tile(const lx_cu_int8 &p, const place &t,
                                         const int (&acc)[MT][NT][4], const float *kept)
{
    if constexpr (END == END_F32_ADD)
        end_f32(p, t, acc, kept);
    else if constexpr (END == END_F32)
        finish_sums<4, GELU, true>(p, true, t, acc, kept);
    else if constexpr (END == END_16_BITS)
        finish_sums<8, GELU, true>(p, true, t, acc, kept);
    else
        end_16_bits<END, GELU>(p, t, acc, kept);
}

/* Which of them a call is. */
static int end_of(const lx_cu_int8 &p)
{
    const int dtype = p.e.out.dtype;
    if (dtype == LX_CU_F32)
        return p.e.add_to_out ? END_F32_ADD : END_F32;
    if (p.e.gate)
        return END_16_BITS;
    if (dtype == LX_CU_F16)
        return p.most ? END_F16_MOST : p.squares ? END_16_BITS : END_F16;
    return p.squares ? END_BF16_SQUARES : END_BF16;
}

} // namespace even
} // namespace int8

#endif
