/*
 * conv_96.cu - convolutions in tiles of 96 outputs: every width of the full decoder
 * SPDX-License-Identifier: Apache-2.0
 *
 * A warp's 64 x 96 sums fill its registers; 128 pixels are for images too small to occupy the card
 * in tiles of 256, and for the four phases, whose sums of 2x2 taps are short.
 */
#include "conv_tile.cuh"

int conv_launch_96(lx_cuda_dev *dev, const conv_job &job, int bm, int kw)
{
    if (kw == 2)
        return conv_launch<128, 96, 2>(dev, job);
    if (bm == 128)
        return kw == 3 ? conv_launch<128, 96, 3>(dev, job) : conv_launch<128, 96, 1>(dev, job);
    return kw == 3 ? conv_launch<256, 96, 3>(dev, job) : conv_launch<256, 96, 1>(dev, job);
}
