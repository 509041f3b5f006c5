/*
 * channel_norm.cu - launching the channel norm
 * SPDX-License-Identifier: Apache-2.0
 */
#include "channel_norm.cuh"
#include "conv_parts.cuh"

template <int V>
static int launch(lx_cuda_dev *dev, const lx_cu_image *in, const float *gamma, bool silu,
                  const lx_cu_image *out)
{
    const int pixels = (int)(in->height * in->width);
    const dim3 grid((unsigned)cu_ceil_div(pixels, 64), (unsigned)in->frames);
    auto kernel = out->dtype == LX_CU_F16 ? k_norm_vec8<V, true> : k_norm_vec8<V, false>;
    kernel<<<grid, 256, 0, dev->compute>>>(*in, gamma, silu, *out, pixels);
    return cu_launched();
}

int conv_norm(lx_cuda_dev *dev, const lx_cu_image *in, const float *gamma, bool silu,
              const lx_cu_image *out)
{
    const int64_t c = in->channels;
    if (c % 8 == 0 && c <= 32)
        return launch<1>(dev, in, gamma, silu, out);
    if (c % 8 == 0 && c <= 64)
        return launch<2>(dev, in, gamma, silu, out);
    if (c % 8 == 0 && c <= 96)
        return launch<3>(dev, in, gamma, silu, out);
    if (c % 8 == 0 && c <= 192)
        return launch<6>(dev, in, gamma, silu, out);
    if (c % 8 == 0 && c <= 384)
        return launch<12>(dev, in, gamma, silu, out);
    const int pixels = (int)(in->height * in->width);
    const dim3 grid((unsigned)cu_ceil_div(pixels, 8), (unsigned)in->frames);
    k_norm_any<<<grid, 256, 0, dev->compute>>>(*in, gamma, silu, *out, pixels);
    return cu_launched();
}
