/*
 * attention_codes.cuh - what all preparation of queries, keys and values shares
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ATTENTION_CODES_CUH
#define ATTENTION_CODES_CUH

#include <cstring>

#include "attention_turn.cuh"
#include "cu_attention.h"
#include "cu_dev.cuh"

/* 8 elements as f32. */
template <typename T> __device__ __forceinline__ void widen8(const uint4 &raw, float (&f)[8])
{
    T h[8];
    memcpy(h, &raw, sizeof h);
#pragma unroll
    for (int i = 0; i < 8; i++)
        f[i] = cu_to_f32(h[i]);
}

/* 8 values as codes. NaN becomes 0; |x inverse| <= 127 as inverse = 127 / max|x|, unless max|x|
 * is below 4e-37: inverse is infinite then, and the scale next to nothing. */
__device__ __forceinline__ uint2 codes_of(const float (&f)[8], float inverse)
{
    uint32_t b[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        b[i] = (uint32_t)__float2int_rn(f[i] * inverse) & 0xff;
    return make_uint2(b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24,
                      b[4] | b[5] << 8 | b[6] << 16 | b[7] << 24);
}

/* --- sums and peaks of columns --------------------------------------------------------------- */

struct Sum {
    static __device__ float begin() { return 0; }
    static __device__ float with(float a, float b) { return a + b; }
};

struct Peak {
    static __device__ float begin() { return 0; }
    static __device__ float with(float a, float b) { return fmaxf(a, fabsf(b)); }
};

constexpr int COLUMNS = 128; /* threads, 8 columns each */

/* partial[chunk, column] over MEAN_ROWS rows. Grid: columns / 1024, chunks. */
template <typename T, typename Op>
__global__ void __launch_bounds__(COLUMNS)
    k_attention_columns(const T *in, int64_t stride, int64_t n, int64_t width, float *partial)
{
    int64_t column = ((int64_t)blockIdx.x * COLUMNS + threadIdx.x) * 8;
    int64_t first = (int64_t)blockIdx.y * LX_CU_ATTENTION_MEAN_ROWS;
    int rows = (int)min((int64_t)LX_CU_ATTENTION_MEAN_ROWS, n - first);
    float total[8];
    if (column >= width)
        return;
    for (int i = 0; i < 8; i++)
        total[i] = Op::begin();
    const T *from = in + first * stride + column;
#pragma unroll 8
    for (int r = 0; r < rows; r++) {
        float f[8];
        uint4 raw = *(const uint4 *)(from + r * stride);
        widen8<T>(raw, f);
#pragma unroll
        for (int i = 0; i < 8; i++)
            total[i] = Op::with(total[i], f[i]);
    }
    float *to = partial + blockIdx.y * width + column;
    for (int i = 0; i < 8; i++)
        to[i] = total[i];
}

/* out[column] = all of its partials, over divisor. */
template <typename Op>
__global__ void k_attention_fold(const float *partial, int64_t chunks, int64_t width, float divisor,
                                 float *out)
{
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float total = Op::begin();
    if (column >= width)
        return;
#pragma unroll 8
    for (int64_t c = 0; c < chunks; c++)
        total = Op::with(total, partial[c * width + column]);
    out[column] = total / divisor;
}

/* out[column]: the sum or peak of n rows of `width` columns, over divisor. partial: scratch
 * [ceil(n / MEAN_ROWS), width]. */
template <typename T, typename Op>
static int launch_columns(lx_cuda_dev *dev, const T *in, int64_t stride, int64_t n, int64_t width,
                          float *partial, float divisor, float *out)
{
    int64_t chunks = cu_ceil_div(n, (int64_t)LX_CU_ATTENTION_MEAN_ROWS);
    dim3 grid((unsigned)cu_ceil_div(width, (int64_t)COLUMNS * 8), (unsigned)chunks);
    k_attention_columns<T, Op><<<grid, COLUMNS, 0, dev->compute>>>(in, stride, n, width, partial);
    CU_TRY(cu_launched());
    k_attention_fold<Op>
        <<<(unsigned)cu_ceil_div(width, (int64_t)COLUMNS), COLUMNS, 0, dev->compute>>>(
            partial, chunks, width, divisor, out);
    return cu_launched();
}

/* --- the mean of keys ------------------------------------------------------------------------ */

/* k_attention_columns of raw keys. */
template <int ROWS>
__global__ void __launch_bounds__(COLUMNS) k_attention_turned_sums(lx_cu_kv kv, int64_t width)
{
    __shared__ TurnRow turns[ROWS];
    const int64_t column = ((int64_t)blockIdx.x * COLUMNS + threadIdx.x) * 8;
    const int64_t first = (int64_t)blockIdx.y * ROWS;
    const int rows = (int)min((int64_t)ROWS, kv.n - first);
    for (int i = (int)threadIdx.x; i < rows; i += COLUMNS)
        turns[i] = turn_row(kv.turn, first + i);
    __syncthreads();
    if (column >= width)
        return;
    const __nv_bfloat16 *from = (const __nv_bfloat16 *)kv.k + first * kv.k_stride + column;
    float total[8] = {};
    TurnLane lane;
    lane.begin(kv.turn, column);
#pragma unroll 4
    for (int r = 0; r < rows; r++) {
        float x[8];
        widen8<__nv_bfloat16>(*(const uint4 *)(from + r * kv.k_stride), x);
        lane.turn(turns[r], x);
#pragma unroll
        for (int i = 0; i < 8; i++)
            total[i] += x[i];
    }
    float *to = kv.partial + blockIdx.y * width + column;
    for (int i = 0; i < 8; i++)
        to[i] = total[i];
}

/* kv.k_mean, of keys as they will be. */
static inline int launch_key_mean(lx_cuda_dev *dev, const lx_cu_kv *kv)
{
    const int64_t width = (int64_t)kv->n_heads * kv->head_dim;
    if (!kv->turn.square)
        return launch_columns<__nv_bfloat16, Sum>(dev, (const __nv_bfloat16 *)kv->k, kv->k_stride,
                                                  kv->n, width, kv->partial, (float)kv->n,
                                                  kv->k_mean);
    constexpr int ROWS = LX_CU_ATTENTION_MEAN_ROWS;
    const int64_t chunks = cu_ceil_div(kv->n, (int64_t)ROWS);
    dim3 grid((unsigned)cu_ceil_div(width, (int64_t)COLUMNS * 8), (unsigned)chunks);
    k_attention_turned_sums<ROWS><<<grid, COLUMNS, 0, dev->compute>>>(*kv, width);
    CU_TRY(cu_launched());
    k_attention_fold<Sum>
        <<<(unsigned)cu_ceil_div(width, (int64_t)COLUMNS), COLUMNS, 0, dev->compute>>>(
            kv->partial, chunks, width, (float)kv->n, kv->k_mean);
    return cu_launched();
}

#endif
