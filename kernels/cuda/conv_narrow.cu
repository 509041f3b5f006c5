/*
 * conv_narrow.cu - convolutions in tiles of 48, 32 and 8 outputs: pruned decoders, and the head
 * SPDX-License-Identifier: Apache-2.0
 *
 * The head makes three channels: tensor cores have least to do there, reading the pixels is its
 * time.
 */
#include "conv_tile.cuh"

template <int BN> static int launch_of(lx_cuda_dev *dev, const conv_job &job, int kw)
{
    return kw == 3   ? conv_launch<256, BN, 3>(dev, job)
           : kw == 2 ? conv_launch<256, BN, 2>(dev, job)
                     : conv_launch<256, BN, 1>(dev, job);
}

int conv_launch_narrow(lx_cuda_dev *dev, const conv_job &job, int bn, int kw)
{
    return bn == 48   ? launch_of<48>(dev, job, kw)
           : bn == 32 ? launch_of<32>(dev, job, kw)
                      : launch_of<8>(dev, job, kw);
}
