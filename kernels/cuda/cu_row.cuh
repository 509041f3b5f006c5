/*
 * cu_row.cuh - one row per block: eight numbers at a time, sums, maxima, and writing a row out
 * SPDX-License-Identifier: Apache-2.0
 *
 * Wide      A row of up to CU_ROW_MOST numbers lives in the registers of CU_ROW_THREADS threads:
 *           piece i of thread t is the eight columns from 8 * (i * CU_ROW_THREADS + t) on. So
 *           memory is read once, in 16-byte accesses; needs cols % 8 == 0 and 16-byte aligned rows.
 * Slow      Any size and alignment: the row is read again for every pass over it.
 * Sums      fixed order: pieces of a thread, lanes of a warp (butterfly), warps by number.
 */
#ifndef CU_ROW_CUH
#define CU_ROW_CUH

#include "cu_dev.cuh"

#define CU_ROW_THREADS 256
#define CU_ROW_WARPS   (CU_ROW_THREADS / 32)
#define CU_ROW_PIECE   (CU_ROW_THREADS * 8) /* columns of one piece of every thread */
#define CU_ROW_MOST    (7 * CU_ROW_PIECE)   /* 14336; Wan's widest row is 13824 */

struct cu_eight {
    float v[8];
};

/* --- eight numbers --------------------------------------------------------------------------- */

__device__ inline float cu_low_bf16(unsigned pair)
{
    return __uint_as_float(pair << 16);
}

__device__ inline float cu_high_bf16(unsigned pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

__device__ inline cu_eight cu_load8_f32(const float *p)
{
    float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ inline cu_eight cu_load8_s32(const int *p)
{
    int4 a = ((const int4 *)p)[0], b = ((const int4 *)p)[1];
    return {{(float)a.x, (float)a.y, (float)a.z, (float)a.w, (float)b.x, (float)b.y, (float)b.z,
             (float)b.w}};
}

__device__ inline cu_eight cu_load8_bf16(const __nv_bfloat16 *p)
{
    uint4 a = *(const uint4 *)p;
    return {{cu_low_bf16(a.x), cu_high_bf16(a.x), cu_low_bf16(a.y), cu_high_bf16(a.y),
             cu_low_bf16(a.z), cu_high_bf16(a.z), cu_low_bf16(a.w), cu_high_bf16(a.w)}};
}

__device__ inline cu_eight cu_load8_f16(const __half *p)
{
    union {
        uint4 bits;
        __half2 pair[4];
    } a;
    a.bits = *(const uint4 *)p;
    cu_eight out;
    for (int i = 0; i < 4; i++) {
        float2 two = __half22float2(a.pair[i]);
        out.v[2 * i] = two.x;
        out.v[2 * i + 1] = two.y;
    }
    return out;
}

__device__ inline cu_eight cu_load8_f8(const uint8_t *p, __nv_fp8_interpretation_t kind)
{
    uint2 bits = *(const uint2 *)p;
    cu_eight out;
    for (int i = 0; i < 8; i++) {
        unsigned code = ((i < 4 ? bits.x : bits.y) >> (i % 4 * 8)) & 0xffu;
        out.v[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)code, kind)));
    }
    return out;
}

/* Columns i .. i + 7 of a vector whose data is 16-byte aligned; i % 8 == 0. */
__device__ inline cu_eight cu_vec_load8(const lx_cu_vec &vec, int64_t i)
{
    if (vec.dtype == LX_CU_F32)
        return cu_load8_f32((const float *)vec.data + i);
    if (vec.dtype == LX_CU_BF16)
        return cu_load8_bf16((const __nv_bfloat16 *)vec.data + i);
    if (vec.dtype == LX_CU_F16)
        return cu_load8_f16((const __half *)vec.data + i);
    if (vec.dtype == LX_CU_F8_E4M3)
        return cu_load8_f8((const uint8_t *)vec.data + i, __NV_E4M3);
    cu_eight out;
    for (int j = 0; j < 8; j++)
        out.v[j] = cu_vec_at(vec, i + j);
    return out;
}

__device__ inline cu_eight cu_same8(float value)
{
    return {{value, value, value, value, value, value, value, value}};
}

__device__ inline unsigned cu_pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(unsigned *)&pair;
}

__device__ inline unsigned cu_pack_f16(float low, float high)
{
    __half2 pair = __halves2half2(cu_from_f32<__half>(low), cu_from_f32<__half>(high));
    return *(unsigned *)&pair;
}

/* Eight numbers into F32, BF16 or F16 at element i, 16-byte aligned. */
__device__ inline void cu_store8(int dtype, void *data, int64_t i, const cu_eight &y)
{
    const float *v = y.v;
    if (dtype == LX_CU_F32) {
        float4 *p = (float4 *)((float *)data + i);
        p[0] = make_float4(v[0], v[1], v[2], v[3]);
        p[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else if (dtype == LX_CU_BF16) {
        *(uint4 *)((__nv_bfloat16 *)data + i) =
            make_uint4(cu_pack_bf16(v[0], v[1]), cu_pack_bf16(v[2], v[3]), cu_pack_bf16(v[4], v[5]),
                       cu_pack_bf16(v[6], v[7]));
    } else {
        *(uint4 *)((__half *)data + i) =
            make_uint4(cu_pack_f16(v[0], v[1]), cu_pack_f16(v[2], v[3]), cu_pack_f16(v[4], v[5]),
                       cu_pack_f16(v[6], v[7]));
    }
}

__device__ inline void cu_store1(int dtype, void *data, int64_t i, float v)
{
    if (dtype == LX_CU_F32)
        ((float *)data)[i] = v;
    else if (dtype == LX_CU_BF16)
        ((__nv_bfloat16 *)data)[i] = cu_from_f32<__nv_bfloat16>(v);
    else
        ((__half *)data)[i] = cu_from_f32<__half>(v);
}

/* --- codes: vLLM's, lx_linear.h -------------------------------------------------------------- */

/* What a row is quantized with: I8 multiplies by `with`, F8 divides by it. */
struct cu_coder {
    int dtype;
    float scale, with;
};

__device__ inline cu_coder cu_coder_of(int dtype, float absmax)
{
    if (dtype == LX_CU_I8)
        return {dtype, __fdiv_rn(absmax, 127.0f), absmax == 0 ? 0.0f : __fdiv_rn(127.0f, absmax)};
    float scale = __fdiv_rn(absmax, 448.0f);
    /* So small an absmax has scale 0: an infinite divisor gives the zero codes that it means. */
    return {dtype, scale, scale == 0 ? __int_as_float(0x7f800000) : scale};
}

/* Half to even; a NaN (0 * infinity, where absmax is subnormal or infinite) becomes 0. */
__device__ inline unsigned cu_code1(const cu_coder &c, float v)
{
    if (c.dtype == LX_CU_I8) {
        int code = __float2int_rn(__fmul_rn(v, c.with));
        return (unsigned)max(-127, min(127, code)) & 0xffu;
    }
    return __nv_cvt_float_to_fp8(__fdiv_rn(v, c.with), __NV_SATFINITE, __NV_E4M3);
}

__device__ inline unsigned cu_code4(const cu_coder &c, const float *v)
{
    return cu_code1(c, v[0]) | cu_code1(c, v[1]) << 8 | cu_code1(c, v[2]) << 16 |
           cu_code1(c, v[3]) << 24;
}

/* Eight codes at element i, 8-byte aligned. */
__device__ inline void cu_store8_codes(const cu_coder &c, void *data, int64_t i, const cu_eight &y)
{
    *(uint2 *)((uint8_t *)data + i) = make_uint2(cu_code4(c, y.v), cu_code4(c, y.v + 4));
}

/* --- over a block ---------------------------------------------------------------------------- */

/* Every thread gets the sum. `shared` must not be in use by an earlier call without a barrier. */
__device__ inline float cu_block_sum(float v, float shared[CU_ROW_WARPS])
{
    v = cu_warp_sum(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = shared[0];
    for (int i = 1; i < CU_ROW_WARPS; i++)
        sum += shared[i];
    return sum;
}

/* Largest magnitude, as bits: magnitudes order like their bits, and a NaN is above infinity, so it
 * reaches the row's scale and is not lost in codes. */
__device__ inline float cu_block_absmax(unsigned bits, unsigned shared[CU_ROW_WARPS])
{
    bits = __reduce_max_sync(0xffffffffu, bits);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = bits;
    __syncthreads();
    for (int i = 0; i < CU_ROW_WARPS; i++)
        bits = max(bits, shared[i]);
    return __uint_as_float(bits);
}

__device__ inline unsigned cu_magnitude(float v)
{
    return __float_as_uint(v) & 0x7fffffffu;
}

/* --- rows out -------------------------------------------------------------------------------- */

struct cu_row_out {
    int dtype; /* F32, BF16, F16, I8, F8_E4M3 */
    void *data;
    int64_t stride;
    float *scale; /* of codes */
};

static inline cu_row_out cu_row_out_of(const lx_cu_mat &m, float *scale)
{
    return {m.dtype, m.data, m.stride, scale};
}

__host__ __device__ inline bool cu_is_coded(int dtype)
{
    return dtype == LX_CU_I8 || dtype == LX_CU_F8_E4M3;
}

/* First column of piece i of this thread. */
__device__ inline int64_t cu_piece(int i)
{
    return ((int64_t)i * CU_ROW_THREADS + threadIdx.x) * 8;
}

/* Write a row that lies in registers. Every thread of the block must come here. */
template <int PIECES>
__device__ inline void cu_row_store(const cu_row_out &out, int64_t row, int64_t cols,
                                    const cu_eight (&y)[PIECES], unsigned shared[CU_ROW_WARPS])
{
    const int64_t first = row * out.stride;
    if (!cu_is_coded(out.dtype)) {
#pragma unroll
        for (int i = 0; i < PIECES; i++)
            if (cu_piece(i) < cols)
                cu_store8(out.dtype, out.data, first + cu_piece(i), y[i]);
        return;
    }
    unsigned most = 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols)
            for (int j = 0; j < 8; j++)
                most = max(most, cu_magnitude(y[i].v[j]));
    cu_coder coder = cu_coder_of(out.dtype, cu_block_absmax(most, shared));
    if (threadIdx.x == 0)
        out.scale[row] = coder.scale;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols)
            cu_store8_codes(coder, out.data, first + cu_piece(i), y[i]);
}

/* The same for a row whose numbers value(col) makes anew each time they are asked for. */
template <typename F>
__device__ inline void cu_row_store_slow(const cu_row_out &out, int64_t row, int64_t cols,
                                         const F &value, unsigned shared[CU_ROW_WARPS])
{
    const int64_t first = row * out.stride;
    if (!cu_is_coded(out.dtype)) {
        for (int64_t i = threadIdx.x; i < cols; i += CU_ROW_THREADS)
            cu_store1(out.dtype, out.data, first + i, value(i));
        return;
    }
    unsigned most = 0;
    for (int64_t i = threadIdx.x; i < cols; i += CU_ROW_THREADS)
        most = max(most, cu_magnitude(value(i)));
    cu_coder coder = cu_coder_of(out.dtype, cu_block_absmax(most, shared));
    if (threadIdx.x == 0)
        out.scale[row] = coder.scale;
    for (int64_t i = threadIdx.x; i < cols; i += CU_ROW_THREADS)
        ((uint8_t *)out.data)[first + i] = (uint8_t)cu_code1(coder, value(i));
}

/* --- what the wide path needs (host) --------------------------------------------------------- */

static inline bool cu_is_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0; /* NULL is: an absent operand hinders nothing */
}

static inline bool cu_is_wide_mat(const lx_cu_mat &m)
{
    return !m.data || (cu_is_aligned(m.data) && m.stride % 8 == 0);
}

static inline bool cu_is_wide_row(int64_t cols)
{
    return cols % 8 == 0 && cols <= CU_ROW_MOST;
}

/* Launch `kernel<PIECES>` for rows of `cols` columns. */
#define CU_ROW_LAUNCH(kernel, rows, cols, stream, ...)                                             \
    do {                                                                                           \
        dim3 grid_((unsigned)(rows));                                                              \
        int64_t pieces_ = cu_ceil_div<int64_t>((cols), CU_ROW_PIECE);                              \
        if (pieces_ <= 1)                                                                          \
            kernel<1><<<grid_, CU_ROW_THREADS, 0, (stream)>>>(__VA_ARGS__);                        \
        else if (pieces_ <= 2)                                                                     \
            kernel<2><<<grid_, CU_ROW_THREADS, 0, (stream)>>>(__VA_ARGS__);                        \
        else if (pieces_ <= 3)                                                                     \
            kernel<3><<<grid_, CU_ROW_THREADS, 0, (stream)>>>(__VA_ARGS__);                        \
        else if (pieces_ <= 5)                                                                     \
            kernel<5><<<grid_, CU_ROW_THREADS, 0, (stream)>>>(__VA_ARGS__);                        \
        else                                                                                       \
            kernel<7><<<grid_, CU_ROW_THREADS, 0, (stream)>>>(__VA_ARGS__);                        \
    } while (0)

#endif
