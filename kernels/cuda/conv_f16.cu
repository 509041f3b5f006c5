/*
 * conv_f16.cu - convolutions of F16 images with F16 sums, at twice the rate of F32 ones on GeForce
 * SPDX-License-Identifier: Apache-2.0
 *
 * The residual blocks' 3x3x3 alone: what they read is normalised, so it fits F16 (conv.c).
 */
#include "conv_tile.cuh"

int conv_launch_f16(lx_cuda_dev *dev, const conv_job &job, int bm, int bn)
{
    if (bn == 96)
        return bm == 128 ? conv_launch<128, 96, 3, true>(dev, job)
                         : conv_launch<256, 96, 3, true>(dev, job);
    return bn == 48 ? conv_launch<256, 48, 3, true>(dev, job)
                    : conv_launch<256, 32, 3, true>(dev, job);
}
