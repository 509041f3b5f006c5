/*
 * colour.cu - launching the colour family
 * SPDX-License-Identifier: Apache-2.0
 */
#include "colour.cuh"
#include "conv_parts.cuh"

enum { THREADS = 256 };

/* A thread for each of `items` of every frame. */
static dim3 grid_of(const lx_cu_colour *a, int64_t items)
{
    return dim3((unsigned)cu_ceil_div<int64_t>(items, THREADS), (unsigned)a->in.frames);
}

int colour_i420(lx_cuda_dev *dev, const lx_cu_colour *a, uint8_t *out)
{
    k_i420<<<grid_of(a, a->height * a->width / 4), THREADS, 0, dev->compute>>>(*a, out);
    return cu_launched();
}

int colour_rgb8(lx_cuda_dev *dev, const lx_cu_colour *a, uint8_t *out)
{
    k_rgb8<<<grid_of(a, a->height * a->width), THREADS, 0, dev->compute>>>(*a, out);
    return cu_launched();
}

int colour_planes(lx_cuda_dev *dev, const lx_cu_colour *a, float *out)
{
    k_planes<<<grid_of(a, a->height * a->width), THREADS, 0, dev->compute>>>(*a, out);
    return cu_launched();
}
