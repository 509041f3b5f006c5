/*
 * int8_finish.cuh - from sums in registers to rows in memory, and rows of numbers into codes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pieces    A lane of the tensor cores' accumulators has columns 2t and 2t + 1 of every eight
 *           (t = lane % 4), too few to store well. So both designs put the rows of the weights'
 *           tile into another order on their way to shared memory or out of it: of every 4 C
 *           columns lane t then has C t .. C t + C - 1, its "piece". C = 8 for outputs of 16 bits,
 *           4 for F32: stores of 16 bytes, 64 side by side from the four lanes of a row.
 * Numbers   y = x_scale (w_scale float(acc)) + bias, the last two steps one fused multiply-add;
 *           gelu; y *= gate; out += y or out = y, as in epilogue.cu. exp and 1/x are the machine's
 *           approximations, 2 ulp.
 * FP8       The same with E4M3 for I8: what differs follows from the sums' type, SUM: int for I8,
 *           float for E4M3. Codes of E4M3 are made of F16 alone.
 */
#ifndef INT8_FINISH_CUH
#define INT8_FINISH_CUH

#include "cu_linear.cuh"
#include "cu_row.cuh"

namespace int8
{

/* What a launch needs beside lx_cu_int8: the order of tiles, and whether pieces are aligned. */
struct order {
    int tiles_m, tiles_n, n_tiles, group; /* of `group` rows of tiles, columns outside */
    bool is_wide;                         /* columns' vectors and out may be read in pieces */
};

struct place {
    int m, n;
};

/* Tiles that run at the same time should share their operands in the second-level cache: a group of
 * rows of tiles is walked down its columns. */
__device__ __forceinline__ place tile_at(const order &o, int tile)
{
    const int of_group = o.group * o.tiles_n, first = tile / of_group * o.group;
    const int rows = min(o.group, o.tiles_m - first), in = tile % of_group;
    return {first + in % rows, in / rows};
}

template <int C> struct columns {
    float w_scale[C], bias[C], gate[C];
};

/* Columns col .. col + C - 1; all are inside or none is, as n % 16 == 0. */
template <int C>
__device__ __forceinline__ void get_floats(const float *from, int64_t col, bool is_wide,
                                           float other, float (&out)[C])
{
    if (!from) {
#pragma unroll
        for (int i = 0; i < C; i++)
            out[i] = other;
    } else if (is_wide) {
#pragma unroll
        for (int i = 0; i < C; i += 4) {
            float4 v = *(const float4 *)(from + col + i);
            out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < C; i++)
            out[i] = from[col + i];
    }
}

template <int C>
__device__ __forceinline__ void get_bias(const lx_cu_vec &bias, int64_t col, bool is_wide,
                                         float (&out)[C])
{
    if (!bias.data || bias.dtype == LX_CU_F32) {
        get_floats<C>((const float *)bias.data, col, is_wide, 0, out);
    } else if (is_wide && bias.dtype == LX_CU_BF16) {
        const unsigned *pairs = (const unsigned *)((const __nv_bfloat16 *)bias.data + col);
#pragma unroll
        for (int i = 0; i < C; i += 2) {
            unsigned pair = pairs[i / 2];
            out[i] = cu_low_bf16(pair), out[i + 1] = cu_high_bf16(pair);
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < C; i++) {
            float v = cu_vec_at(bias, col + i);
#pragma unroll
            for (int j = 0; j < C; j++) /* registers have no index */
                out[j] = i == j ? v : out[j];
        }
    }
}

template <int C>
__device__ __forceinline__ void get_columns(const lx_cu_epilogue &e, int64_t col, bool is_wide,
                                            columns<C> &c)
{
    get_floats<C>(e.w_scale, col, is_wide, 1, c.w_scale);
    get_bias<C>(e.bias, col, is_wide, c.bias);
    get_floats<C>(e.gate, col, is_wide, 1, c.gate);
}

/* The residual's piece, asked for early. */
template <int C>
__device__ __forceinline__ void get_old(const lx_cu_epilogue &e, int64_t row, int64_t col,
                                        bool is_wide, float (&old)[C])
{
    if (C == 4 && e.add_to_out && row < e.m && col < e.n)
        get_floats<C>((const float *)e.out.data + row * e.out.stride, col, is_wide, 0, old);
}

/* u / (1 + e^(-2 z)), z = sqrt(2 / pi) (u + 0.044715 u^3): no cancellation. Of two neighbours, one
 * 1/x for both, in every design: the same bits. Beyond 2^60 an exp is 2^60: u times less than 1e-18
 * is 0 enough, and the product stays in range. */
__device__ __forceinline__ void gelu_two(float &u, float &v)
{
    float a = fminf(u * fmaf(u * u, -0.10294324f, -2.3022082f), 60.0f); /* -2 z log2(e) */
    float b = fminf(v * fmaf(v * v, -0.10294324f, -2.3022082f), 60.0f), r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(a) : "f"(a));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(b) : "f"(b));
    a += 1.0f, b += 1.0f;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a * b));
    u *= b * r;
    v *= a * r;
}

template <int C>
__device__ __forceinline__ void put(const lx_cu_mat &out, int64_t at, bool is_wide,
                                    const float (&y)[C])
{
    if (!is_wide) {
#pragma unroll
        for (int i = 0; i < C; i++)
            cu_store1(out.dtype, out.data, at + i, y[i]);
    } else if constexpr (C == 4) {
        *(float4 *)((float *)out.data + at) = make_float4(y[0], y[1], y[2], y[3]);
    } else {
        cu_eight all;
#pragma unroll
        for (int i = 0; i < 8; i++)
            all.v[i] = y[i];
        if (out.dtype == LX_CU_BF16)
            cu_store8(LX_CU_BF16, out.data, at, all);
        else
            cu_store8(LX_CU_F16, out.data, at, all);
    }
}

/* What is told of a row: of F32 its largest magnitude (bits), of 16 bits its sum of squares. */
template <int C> struct told_of {
    using type = float;
};
template <> struct told_of<4> {
    using type = unsigned;
};
template <int C> using told = typename told_of<C>::type;

/* One piece of one row. */
template <int C, bool GELU>
__device__ __forceinline__ void finish(const lx_cu_epilogue &e, int64_t row, int64_t col,
                                       bool is_wide, float x_scale, const int (&acc)[C],
                                       const columns<C> &c, const float (&old)[C], told<C> &tell)
{
    float y[C];
    if (row >= e.m || col >= e.n)
        return;
#pragma unroll
    for (int i = 0; i < C; i++)
        y[i] = fmaf(x_scale, c.w_scale[i] * (float)acc[i], c.bias[i]);
    if constexpr (GELU) {
#pragma unroll
        for (int i = 0; i < C; i += 2)
            gelu_two(y[i], y[i + 1]);
    }
#pragma unroll
    for (int i = 0; i < C; i++) {
        y[i] = e.gate ? y[i] * c.gate[i] : y[i];
        y[i] = C == 4 && e.add_to_out ? old[i] + y[i] : y[i];
        if constexpr (C == 4)
            tell = max(tell, cu_magnitude(y[i]));
        else
            tell = fmaf(y[i], y[i], tell);
    }
    put<C>(e.out, row * e.out.stride + col, is_wide, y);
}

/* The four lanes of a row have its largest magnitude among them. */
__device__ __forceinline__ void raise_most(uint32_t *most, int64_t row, int64_t m, unsigned bits)
{
    bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
    bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
    if (threadIdx.x % 4 == 0 && row < m)
        atomicMax(most + row, bits);
}

/* The sum over the part's columns that these four lanes have had: a place of its own, so the order
 * of all additions is fixed. */
__device__ __forceinline__ void put_square(const lx_cu_int8 &p, int part, int64_t row, float sum)
{
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (threadIdx.x % 4 == 0 && row < p.e.m)
        p.squares[part * p.e.m + row] = sum;
}

/* part: which columns; those beyond the matrix are nobody's. */
template <int C>
__device__ __forceinline__ void tell_row(const lx_cu_int8 &p, int part, bool is_there, int64_t row,
                                         told<C> tell)
{
    if constexpr (C == 4) {
        if (p.most)
            raise_most(p.most, row, p.e.m, tell);
    } else {
        if (p.squares && is_there)
            put_square(p, part, row, tell);
    }
}

__device__ __forceinline__ float x_scale_at(const lx_cu_epilogue &e, int64_t row)
{
    return e.x_scale && row < e.m ? e.x_scale[row] : 1.0f;
}

/* Rows of F32 into codes, 128 numbers of a row at a time by one warp: either all at once, or a
 * little in each step of a product, where a load has a whole step to arrive. Warp `row` of
 * `n_warps` has rows row, row + n_warps, ...; few registers. */
struct coding {
    float4 v;     /* four numbers of this lane, on their way */
    float with;   /* of the row: code = v * with */
    int row, col; /* col: of this lane's next four */
    uint32_t at;  /* the same in y and out */
    int n_warps;
};

__device__ __forceinline__ void coding_load(const lx_cu_codes &c, coding &k)
{
    if (k.row < c.rows && k.col < c.cols)
        k.v = __ldcs((const float4 *)((const float *)c.y + k.at));
}

__device__ __forceinline__ void coding_row(const lx_cu_codes &c, coding &k)
{
    const int lane = (int)threadIdx.x % 32;
    k.col = 4 * lane;
    k.at = (uint32_t)k.row * (uint32_t)c.cols + (uint32_t)k.col;
    if (k.row >= c.rows)
        return;
    const cu_coder coder = cu_coder_of(LX_CU_I8, __uint_as_float(c.most[k.row]));
    k.with = coder.with;
    if (lane == 0)
        c.scale[k.row] = coder.scale;
}

__device__ __forceinline__ coding coding_begin(const lx_cu_codes &c, int warp, int n_warps)
{
    coding k;
    k.v = make_float4(0, 0, 0, 0);
    k.with = 0;
    k.row = warp;
    k.n_warps = n_warps;
    coding_row(c, k);
    coding_load(c, k);
    return k;
}

/* Store what has come, ask for the next. The branches are the same for a whole warp but at the end
 * of a row. */
__device__ __forceinline__ void coding_step(const lx_cu_codes &c, coding &k)
{
    if (k.row >= c.rows)
        return;
    if (k.col < c.cols) {
        const cu_coder coder = {LX_CU_I8, 0, k.with};
        const float four[4] = {k.v.x, k.v.y, k.v.z, k.v.w};
        *(unsigned *)(c.out + k.at) = cu_code4(coder, four);
    }
    k.col += 128;
    k.at += 128;
    if (k.col - 4 * ((int)threadIdx.x % 32) >= c.cols) {
        k.row += k.n_warps;
        coding_row(c, k);
    }
    coding_load(c, k);
}

/* E4M3 as cu_code1 divides, of F16: a quotient by the reciprocal, mended once with what was left,
 * is the nearest one; nothing comes near the ends of F32. Zeros keep their sign. */
struct fp8_coder {
    float scale, over; /* over: 1 / scale; of a row of zeros 0 */
};

__device__ __forceinline__ unsigned cu_code4(const fp8_coder &c, const float *v)
{
    unsigned pair[2];
    float q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float near = __fmul_rn(v[i], c.over);
        q[i] = fmaf(fmaf(near, c.scale, -v[i]), -c.over, near);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        pair[i] = __nv_cvt_float2_to_fp8x2(make_float2(q[2 * i], q[2 * i + 1]), __NV_SATFINITE,
                                           __NV_E4M3);
    return pair[0] | pair[1] << 16;
}

/* How products whose sums are SUM make codes. */
template <typename SUM> struct coder_of {
    using type = cu_coder;
    static constexpr bool HAS_F32 = true; /* codes of F32 too */
    static __device__ __forceinline__ cu_coder row(float absmax)
    {
        return cu_coder_of(LX_CU_I8, absmax);
    }
};
template <> struct coder_of<float> {
    using type = fp8_coder;
    static constexpr bool HAS_F32 = false;
    static __device__ __forceinline__ fp8_coder row(float absmax)
    {
        const float scale = __fdiv_rn(absmax, 448.0f);
        return {scale, scale == 0 ? 0.0f : __frcp_rn(scale)};
    }
};

/* Codes of 16 bytes of F32 or F16. */
__device__ __forceinline__ void codes_of_unit(const cu_coder &coder, const uint4 &v, float *,
                                              int8_t *out)
{
    const float four[4] = {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                           __uint_as_float(v.w)};
    *(unsigned *)out = cu_code4(coder, four);
}

template <typename CODER>
__device__ __forceinline__ void codes_of_unit(const CODER &coder, const uint4 &v, __half *,
                                              int8_t *out)
{
    const unsigned pairs[4] = {v.x, v.y, v.z, v.w};
    float eight[8];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        eight[2 * i] = __half2float(__ushort_as_half((unsigned short)pairs[i]));
        eight[2 * i + 1] = __half2float(__ushort_as_half((unsigned short)(pairs[i] >> 16)));
    }
    *(uint2 *)out = make_uint2(cu_code4(coder, eight), cu_code4(coder, eight + 4));
}

/* All rows of one warp, AHEAD loads of 16 bytes a lane on their way. LAST_FIRST: rows that a kernel
 * has just written, from the last one on, which may still be in the second-level cache. */
template <int AHEAD, typename SUM, bool LAST_FIRST, typename T>
__device__ __forceinline__ void codes_of(const lx_cu_codes &c, int warp, int n_warps)
{
    constexpr int UNIT = 16 / sizeof(T), ALL = 32 * UNIT;
    const int lane = (int)threadIdx.x % 32, cols = (int)c.cols;
    for (int64_t i = warp; i < c.rows; i += n_warps) {
        const int64_t row = LAST_FIRST ? c.rows - 1 - i : i;
        const typename coder_of<SUM>::type coder = coder_of<SUM>::row(__uint_as_float(c.most[row]));
        const T *y = (const T *)c.y + row * cols;
        int8_t *out = c.out + row * cols;
        if (lane == 0)
            c.scale[row] = coder.scale;
#pragma unroll 1
        for (int col = UNIT * lane; col < cols; col += ALL * AHEAD) {
            uint4 v[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (col + ALL * i < cols)
                    v[i] = __ldcs((const uint4 *)(y + col + ALL * i));
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (col + ALL * i < cols)
                    codes_of_unit(coder, v[i], (T *)nullptr, out + col + ALL * i);
        }
    }
}

template <int AHEAD, typename SUM, bool LAST_FIRST = false>
__device__ __forceinline__ void codes_of_rows(const lx_cu_codes &c, int warp, int n_warps)
{
    if constexpr (coder_of<SUM>::HAS_F32) {
        if (!c.is_half) {
            codes_of<AHEAD, SUM, LAST_FIRST, float>(c, warp, n_warps);
            return;
        }
    }
    codes_of<AHEAD, SUM, LAST_FIRST, __half>(c, warp, n_warps);
}

/* --- host ------------------------------------------------------------------------------------ */

static inline order order_of(const lx_cu_int8 *p, int rows, int cols, int group)
{
    order o;
    o.tiles_m = (int)cu_ceil_div<int64_t>(p->e.m, rows);
    o.tiles_n = (int)cu_ceil_div<int64_t>(p->e.n, cols);
    o.n_tiles = o.tiles_m * o.tiles_n;
    o.group = group;
    const lx_cu_epilogue &e = p->e;
    o.is_wide = cu_is_aligned(e.w_scale) && cu_is_aligned(e.bias.data) && cu_is_aligned(e.gate) &&
                cu_is_wide_mat(e.out);
    return o;
}

} // namespace int8

#endif
