/*
 * conv_move.cuh - windows of images, and planes to channel-last
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONV_MOVE_CUH
#define CONV_MOVE_CUH

#include "conv_image.cuh"

/* out = in from (y, x) on. T: as many bytes as divide all rows and offsets. grid.y: frames. */
template <typename T>
__global__ void k_crop(const lx_cu_image in, int64_t y, int64_t x, const lx_cu_image out)
{
    const int64_t pixel = in.channels * conv_size_of(in.dtype) / (int64_t)sizeof(T);
    const int64_t row = out.width * pixel, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= out.height * row)
        return;
    const T *from = (const T *)conv_frame_of(in, blockIdx.y);
    T *to = (T *)conv_frame_of(out, blockIdx.y);
    to[i] = from[((y + i / row) * in.width + x) * pixel + i % row];
}

/* One number a thread; neighbours in a plane are read together. grid.y: frame x channel. */
__global__ void k_from_planes(const float *planes, int64_t n_frames, int64_t first,
                              const lx_cu_affine affine, const lx_cu_image out)
{
    const int64_t pixels = out.height * out.width;
    const int64_t p = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int t = blockIdx.y / (int)out.channels, c = blockIdx.y % (int)out.channels;
    if (p >= pixels)
        return;
    const float v = planes[(c * n_frames + first + t) * pixels + p];
    conv_set(conv_frame_of(out, t), out.dtype, p * out.channels + c,
             fmaf(v, affine.scale[c], affine.shift[c]));
}

#endif
