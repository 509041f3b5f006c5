/*
 * conv_plain.cuh - convolution with any number of channels: one thread sums one output
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_conv.h, in the order taps, inputs; f32 sums by fused multiply-adds
 * Use       inputs that are no multiple of 8 channels, which only small test models have
 */
#ifndef CONV_PLAIN_CUH
#define CONV_PLAIN_CUH

#include "conv_image.cuh"

__device__ inline float plain_weight(const lx_cu_conv &conv, int tap, int c, int n)
{
    const int chunks = (int)((conv.in.channels + LX_CU_CONV_K - 1) / LX_CU_CONV_K);
    const int row = tap / conv.kw, column = tap % conv.kw;
    const int64_t tile = (int64_t)(n / conv.bn) * (conv.kt * conv.kh) + row;
    const int64_t block = (tile * chunks + c / LX_CU_CONV_K) * conv.kw + column;
    const __nv_bfloat16 *at = (const __nv_bfloat16 *)conv.packed + block * conv.bn * LX_CU_CONV_K;
    return __bfloat162float(at[lx_cu_conv_place(n % conv.bn, c % LX_CU_CONV_K)]);
}

__global__ void k_conv_plain(const lx_cu_conv conv, int64_t n_all)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_all)
        return;
    const int64_t outputs = conv.out.channels, pixels = conv.out.height * conv.out.width;
    const int n = (int)(i % outputs), shift = conv.upsample ? 1 : 0;
    const int64_t frame = i / outputs / pixels, place = i / outputs % pixels;
    const int y = (int)(place / conv.out.width), x = (int)(place % conv.out.width);
    float sum = 0.0f;
    for (int tap = 0; tap < conv.kt * conv.kh * conv.kw; tap++) {
        const int t = tap / (conv.kh * conv.kw), j = tap / conv.kw % conv.kh, k = tap % conv.kw;
        const int sy = y + j - conv.kh / 2, sx = x + k - conv.kw / 2;
        if (sy < 0 || sx < 0 || sy >= conv.out.height || sx >= conv.out.width)
            continue;
        const __nv_bfloat16 *p = (const __nv_bfloat16 *)conv_frame_of(conv.in, frame + t) +
                                 ((sy >> shift) * conv.in.width + (sx >> shift)) * conv.in.channels;
        for (int c = 0; c < conv.in.channels; c++)
            sum = fmaf(__bfloat162float(p[c]), plain_weight(conv, tap, c, n), sum);
    }
    sum += conv.bias[n];
    if (conv.residual.data)
        sum += conv_value(conv_frame_of(conv.residual, frame), conv.residual.dtype,
                          place * outputs + n);
    conv_set(conv_frame_of(conv.out, frame), conv.out.dtype, place * outputs + n, sum);
}

#endif
