/*
 * colour.cuh - decoded RGB into I420, 8-bit planes and clamped planes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_colour.h, evaluated as kernels/cpu/colour.c does, to the bit: products and sums are
 *           rounded one by one. Memory is its time: about 1 % of a decode, so it stays plain.
 *           grid.y: frames.
 */
#ifndef COLOUR_CUH
#define COLOUR_CUH

#include "conv_image.cuh"

/* Channel c of pixel (y, x) of a frame as 0..1; a NaN becomes 0. */
__device__ inline float colour_unit(const lx_cu_colour &a, const char *frame, int64_t y, int64_t x,
                                    int c)
{
    const float v = conv_value(frame, a.in.dtype, (y * a.in.width + x) * 3 + c);
    const float above = v > -1.0f ? v : -1.0f;
    return ((above < 1.0f ? above : 1.0f) + 1.0f) * 0.5f;
}

__device__ inline float colour_luma(const float rgb[3])
{
    return __fadd_rn(__fadd_rn(__fmul_rn(0.2126f, rgb[0]), __fmul_rn(0.7152f, rgb[1])),
                     __fmul_rn(0.0722f, rgb[2]));
}

/* base + factor * v as a code */
__device__ inline uint8_t colour_code(float base, float factor, float v)
{
    return (uint8_t)(int)__fadd_rn(__fadd_rn(base, __fmul_rn(factor, v)), 0.5f);
}

/* Four pixels of luma and one of chroma a thread. */
__global__ void k_i420(const lx_cu_colour a, uint8_t *out)
{
    const int64_t half = a.width / 2, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= half * (a.height / 2))
        return;
    const int64_t y = i / half * 2, x = i % half * 2, oy = a.out_y + y, ox = a.out_x + x;
    const int64_t luma_bytes = a.out_height * a.out_width;
    const char *frame = conv_frame_of(a.in, blockIdx.y);
    uint8_t *plane = out + (a.out_frame + blockIdx.y) * (luma_bytes * 3 / 2);
    const int64_t at = a.x + x, left = at > 0 ? at - 1 : 0;
    float mean[3];
    for (int c = 0; c < 3; c++) {
        const int64_t upper = a.y + y, lower = upper + 1;
        const float side =
            (colour_unit(a, frame, upper, left, c) + colour_unit(a, frame, upper, at + 1, c)) +
            (colour_unit(a, frame, lower, left, c) + colour_unit(a, frame, lower, at + 1, c));
        const float middle =
            colour_unit(a, frame, upper, at, c) + colour_unit(a, frame, lower, at, c);
        mean[c] = __fadd_rn(__fmul_rn(0.125f, side), __fmul_rn(0.25f, middle));
    }
    const float luma = colour_luma(mean);
    uint8_t *u = plane + luma_bytes + oy / 2 * (a.out_width / 2) + ox / 2;
    u[0] = colour_code(128.0f, 224.0f / 1.8556f, mean[2] - luma);
    u[luma_bytes / 4] = colour_code(128.0f, 224.0f / 1.5748f, mean[0] - luma);
    for (int k = 0; k < 4; k++) {
        float rgb[3];
        for (int c = 0; c < 3; c++)
            rgb[c] = colour_unit(a, frame, a.y + y + k / 2, at + k % 2, c);
        plane[(oy + k / 2) * a.out_width + ox + k % 2] =
            colour_code(16.0f, 219.0f, colour_luma(rgb));
    }
}

/* Pixel i of the window: its place in the frame and in a plane of the output. */
__device__ inline void colour_place(const lx_cu_colour &a, int64_t i, int64_t *in, int64_t *out)
{
    const int64_t y = i / a.width, x = i % a.width;
    *in = ((a.y + y) * a.in.width + a.x + x) * 3;
    *out = ((a.out_frame + blockIdx.y) * a.out_height + a.out_y + y) * a.out_width + a.out_x + x;
}

__global__ void k_rgb8(const lx_cu_colour a, uint8_t *out)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t from, to;
    if (i >= a.height * a.width)
        return;
    colour_place(a, i, &from, &to);
    const char *frame = conv_frame_of(a.in, blockIdx.y);
    for (int c = 0; c < 3; c++) {
        const float v = conv_value(frame, a.in.dtype, from + c);
        const float above = v > -1.0f ? v : -1.0f;
        const float unit = ((above < 1.0f ? above : 1.0f) + 1.0f) * 0.5f;
        out[c * a.out_frames * a.out_height * a.out_width + to] = colour_code(0.0f, 255.0f, unit);
    }
}

__global__ void k_planes(const lx_cu_colour a, float *out)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t from, to;
    if (i >= a.height * a.width)
        return;
    colour_place(a, i, &from, &to);
    const char *frame = conv_frame_of(a.in, blockIdx.y);
    for (int c = 0; c < 3; c++) {
        const float v = conv_value(frame, a.in.dtype, from + c);
        out[c * a.out_frames * a.out_height * a.out_width + to] = v < -1.0f  ? -1.0f
                                                                  : v > 1.0f ? 1.0f
                                                                             : v;
    }
}

#endif
