/*
 * conv.cu - launching convolutions and moves, and the family's table
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conv_move.cuh"
#include "conv_parts.cuh"
#include "conv_plain.cuh"
#include "conv_tile.cuh"

enum { THREADS = 256, GRID_Y = 65535 };

static conv_frames frames_of(const lx_cu_image &image)
{
    conv_frames f = {};
    if (!image.data)
        return f;
    f.bytes = image.stride * conv_size_of(image.dtype);
    f.origin = (char *)image.data - (image.history[0] ? 2 * f.bytes : 0);
    f.frame[0] = conv_frame_of(image, 0);
    f.frame[1] = conv_frame_of(image, 1);
    return f;
}

static int conv_tiles(lx_cuda_dev *dev, const lx_cu_conv *conv)
{
    conv_job job = {};
    job.in = frames_of(conv->in);
    job.out = frames_of(conv->out);
    job.residual = frames_of(conv->residual);
    job.out_dtype = conv->out.dtype;
    job.height = (int)conv->in.height;
    job.width = (int)conv->in.width;
    job.total = (int)(conv->out.frames * conv->in.height * conv->in.width);
    job.c_in = (int)conv->in.channels;
    job.c_out = (int)conv->out.channels;
    job.kh = conv->kh;
    job.rows = conv->kt * conv->kh;
    job.chunks = cu_ceil_div(job.c_in, (int)LX_CU_CONV_K);
    job.n_tiles = cu_ceil_div(job.c_out, conv->bn);
    job.n_phases = conv->upsample ? 4 : 1;
    job.packed = (const __nv_bfloat16 *)conv->packed;
    job.bias = conv->bias;
    if (conv->in.dtype == LX_CU_F16)
        return conv_launch_f16(dev, job, conv->bm, conv->bn);
    return conv->bn == 96 ? conv_launch_96(dev, job, conv->bm, conv->kw)
                          : conv_launch_narrow(dev, job, conv->bn, conv->kw);
}

static int conv_plain(lx_cuda_dev *dev, const lx_cu_conv *conv)
{
    const int64_t n = conv->out.frames * conv->out.height * conv->out.width * conv->out.channels;
    const int64_t blocks = cu_ceil_div<int64_t>(n, THREADS);
    if (blocks > 0x7fffffff)
        return (int)cudaErrorInvalidConfiguration;
    k_conv_plain<<<(unsigned)blocks, THREADS, 0, dev->compute>>>(*conv, n);
    return cu_launched();
}

template <typename T>
static int crop_as(lx_cuda_dev *dev, const lx_cu_image *in, int64_t y, int64_t x,
                   const lx_cu_image *out)
{
    const int64_t units =
        out->height * out->width * out->channels * conv_size_of(in->dtype) / (int64_t)sizeof(T);
    const dim3 grid((unsigned)cu_ceil_div<int64_t>(units, THREADS), (unsigned)out->frames);
    k_crop<T><<<grid, THREADS, 0, dev->compute>>>(*in, y, x, *out);
    return cu_launched();
}

static int crop(lx_cuda_dev *dev, const lx_cu_image *in, int64_t y, int64_t x,
                const lx_cu_image *out)
{
    if (out->frames > GRID_Y)
        return (int)cudaErrorInvalidConfiguration;
    return in->channels * conv_size_of(in->dtype) % 16 == 0 ? crop_as<int4>(dev, in, y, x, out)
                                                            : crop_as<short>(dev, in, y, x, out);
}

static int from_planes(lx_cuda_dev *dev, const float *planes, int64_t n_frames, int64_t first,
                       const lx_cu_affine *affine, const lx_cu_image *out)
{
    if (out->frames * out->channels > GRID_Y)
        return (int)cudaErrorInvalidConfiguration;
    const dim3 grid((unsigned)cu_ceil_div<int64_t>(out->height * out->width, THREADS),
                    (unsigned)(out->frames * out->channels));
    k_from_planes<<<grid, THREADS, 0, dev->compute>>>(planes, n_frames, first, *affine, *out);
    return cu_launched();
}

extern "C" {
extern const lx_cuda_conv_ops lx_cuda_conv_table;
const lx_cuda_conv_ops lx_cuda_conv_table = {conv_tiles,  conv_plain,  conv_norm,   crop,
                                             from_planes, colour_i420, colour_rgb8, colour_planes};
}
