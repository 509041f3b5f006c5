/*
 * channel_norm.cuh - norm over the channels of a pixel, and SiLU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   y = x * (sqrt(C) / max(|x|_2, 1e-12)) * gamma, then y / (1 + e^-y); all in f32, rounded
 *           once. The sum of squares has an order fixed by C alone.
 * Variants  vec8: four lanes a pixel, 16 bytes a load, the pixel stays in registers between
 *           the two passes over it (C a multiple of 8, at most 32 V). any: a warp a pixel, reads
 *           twice.
 */
#ifndef CHANNEL_NORM_CUH
#define CHANNEL_NORM_CUH

#include <cstring>

#include "conv_image.cuh"

__device__ inline float norm_scale(float square, int channels)
{
    const float norm = sqrtf(square);
    const float scale = sqrtf((float)channels) / fmaxf(norm, 1e-12f);
    return norm != norm ? norm : scale; /* a NaN stays visible */
}

/* The fast division gives 0 for a denominator past 2^126, where the quotient is below 1e-36. */
__device__ inline float norm_value(float x, float scale, float gamma, bool silu)
{
    const float y = x * scale * gamma;
    return silu ? __fdividef(y, 1.0f + __expf(-y)) : y;
}

/* Two numbers as they lie in memory. */
template <bool IS_F16> __device__ inline uint32_t norm_pair(float a, float b)
{
    uint32_t out;
    if (IS_F16) {
        const __half2 two = __halves2half2(cu_from_f32<__half>(a), cu_from_f32<__half>(b));
        memcpy(&out, &two, sizeof out);
    } else {
        const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
        memcpy(&out, &two, sizeof out);
    }
    return out;
}

template <int V, bool IS_F16>
__global__ void __launch_bounds__(256) k_norm_vec8(const lx_cu_image in, const float *gamma,
                                                   bool silu, const lx_cu_image out, int pixels)
{
    const int channels = (int)in.channels, part = threadIdx.x & 3;
    const int pixel = (int)((blockIdx.x * 256u + threadIdx.x) >> 2);
    const bool is_there = pixel < pixels; /* all lanes stay for the sum */
    const char *from = conv_frame_of(in, blockIdx.y);
    const int4 *x = (const int4 *)(from + (int64_t)(is_there ? pixel : 0) * channels * 2);
    int4 kept[V];
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int at = i * 4 + part;
        kept[i] = at * 8 < channels ? x[at] : make_int4(0, 0, 0, 0);
        const __nv_bfloat162 *two = (const __nv_bfloat162 *)&kept[i];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float2 f = __bfloat1622float2(two[k]);
            square = fmaf(f.x, f.x, square);
            square = fmaf(f.y, f.y, square);
        }
    }
    square += __shfl_xor_sync(0xffffffffu, square, 1);
    square += __shfl_xor_sync(0xffffffffu, square, 2);
    if (!is_there)
        return;
    const float scale = norm_scale(square, channels);
    int4 *y = (int4 *)(conv_frame_of(out, blockIdx.y) + (int64_t)pixel * channels * 2);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int at = i * 4 + part;
        if (at * 8 >= channels)
            break;
        const __nv_bfloat162 *two = (const __nv_bfloat162 *)&kept[i];
        uint32_t pair[4];
        const float2 *g = (const float2 *)(gamma + at * 8);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float2 f = __bfloat1622float2(two[k]);
            pair[k] = norm_pair<IS_F16>(norm_value(f.x, scale, g[k].x, silu),
                                        norm_value(f.y, scale, g[k].y, silu));
        }
        y[at] = make_int4((int)pair[0], (int)pair[1], (int)pair[2], (int)pair[3]);
    }
}

__global__ void __launch_bounds__(256) k_norm_any(const lx_cu_image in, const float *gamma,
                                                  bool silu, const lx_cu_image out, int pixels)
{
    const int channels = (int)in.channels, lane = threadIdx.x & 31;
    const int pixel = (int)((blockIdx.x * 256u + threadIdx.x) >> 5);
    if (pixel >= pixels) /* of a whole warp */
        return;
    const char *x = conv_frame_of(in, blockIdx.y);
    char *y = conv_frame_of(out, blockIdx.y);
    const int64_t first = (int64_t)pixel * channels;
    float square = 0.0f;
    for (int c = lane; c < channels; c += 32) {
        const float v = conv_value(x, in.dtype, first + c);
        square = fmaf(v, v, square);
    }
    const float scale = norm_scale(cu_warp_sum(square), channels);
    for (int c = lane; c < channels; c += 32)
        conv_set(y, out.dtype, first + c,
                 norm_value(conv_value(x, in.dtype, first + c), scale, gamma[c], silu));
}

#endif
