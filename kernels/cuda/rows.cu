/*
 * rows.cu - vector operations, patches, the finite check, and the table of the family
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel strides over its elements with a grid of a few blocks per multiprocessor. They are
 * bound by memory and, but for widening, small: once per step or per clip.
 */
#include "cu_row.cuh"
#include "cu_rows.cuh"

#define THREADS 256

static unsigned grid_for(const lx_cuda_dev *dev, int64_t n)
{
    int64_t blocks = cu_ceil_div<int64_t>(n, THREADS), most = 32 * (int64_t)dev->n_sm;
    return (unsigned)(blocks < most ? blocks : most);
}

#define EACH(i, n)                                                                                 \
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;                                       \
    i < (n);                                                                                       \
    i += (int64_t)gridDim.x * THREADS

/* --- vectors --------------------------------------------------------------------------------- */

/* Below -80, e^-x would become infinite and the tiny result 0. */
__global__ void __launch_bounds__(THREADS) k_silu_f32(const float *in, int64_t n, float *out)
{
    for (EACH(i, n))
        out[i] = in[i] < -80 ? in[i] * expf(in[i]) : in[i] / (1.0f + expf(-in[i]));
}

static int silu(lx_cuda_dev *dev, const float *in, int64_t n, float *out)
{
    k_silu_f32<<<grid_for(dev, n), THREADS, 0, dev->compute>>>(in, n, out);
    return cu_launched();
}

/* Each product and the sum is rounded (lx_elementwise.h): no fused multiply-add. */
__global__ void __launch_bounds__(THREADS)
    k_axpby_f32(float a, const float *in, float b, int64_t n, float *out)
{
    for (EACH(i, n))
        out[i] = __fadd_rn(__fmul_rn(a, in[i]), __fmul_rn(b, out[i]));
}

static int axpby(lx_cuda_dev *dev, float a, const float *in, float b, int64_t n, float *out)
{
    k_axpby_f32<<<grid_for(dev, n), THREADS, 0, dev->compute>>>(a, in, b, n, out);
    return cu_launched();
}

/* Eight columns of a row, wherever the row lies. */
__global__ void __launch_bounds__(THREADS) k_widen_vec8(lx_cu_mat in, float *out)
{
    const int64_t per_row = in.cols / 8;
    for (EACH(i, in.rows * per_row)) {
        const int64_t row = i / per_row, col = i % per_row * 8;
        cu_store8(LX_CU_F32, out, row * in.cols + col,
                  cu_vec_load8({in.dtype, in.data}, row * in.stride + col));
    }
}

__global__ void __launch_bounds__(THREADS) k_widen_any(lx_cu_mat in, float *out)
{
    for (EACH(i, in.rows * in.cols))
        out[i] = cu_vec_at({in.dtype, in.data}, i / in.cols * in.stride + i % in.cols);
}

static int widen(lx_cuda_dev *dev, const lx_cu_mat *in, float *out)
{
    int64_t n = in->rows * in->cols;
    if (in->cols % 8 == 0 && cu_is_aligned(out) && cu_is_wide_mat(*in))
        k_widen_vec8<<<grid_for(dev, n / 8), THREADS, 0, dev->compute>>>(*in, out);
    else
        k_widen_any<<<grid_for(dev, n), THREADS, 0, dev->compute>>>(*in, out);
    return cu_launched();
}

/* --- patches --------------------------------------------------------------------------------- */

/* Where element i of the latent [channels, t, h, w] is in the rows: channel slowest inside a row on
 * the way in, fastest on the way out. */
__device__ inline int64_t place_of(const lx_cu_patch &d, int64_t i, bool is_channel_slowest)
{
    const int64_t x = i % d.w, y = i / d.w % d.h, t = i / (d.w * d.h) % d.t;
    const int64_t c = i / (d.w * d.h * d.t);
    const int64_t s = (t * (d.h / 2) + y / 2) * (d.w / 2) + x / 2, inside = y % 2 * 2 + x % 2;
    return s * 4 * d.channels + (is_channel_slowest ? c * 4 + inside : inside * d.channels + c);
}

__global__ void __launch_bounds__(THREADS)
    k_patchify_f32(lx_cu_patch d, const float *latent, float *rows)
{
    for (EACH(i, d.channels * d.t * d.h * d.w))
        rows[place_of(d, i, true)] = latent[i];
}

__global__ void __launch_bounds__(THREADS)
    k_unpatchify_f32(lx_cu_patch d, const float *rows, float *latent)
{
    for (EACH(i, d.channels * d.t * d.h * d.w))
        latent[i] = rows[place_of(d, i, false)];
}

static int patchify(lx_cuda_dev *dev, const lx_cu_patch *d, const float *latent, float *rows)
{
    unsigned grid = grid_for(dev, d->channels * d->t * d->h * d->w);
    k_patchify_f32<<<grid, THREADS, 0, dev->compute>>>(*d, latent, rows);
    return cu_launched();
}

static int unpatchify(lx_cuda_dev *dev, const lx_cu_patch *d, const float *rows, float *latent)
{
    unsigned grid = grid_for(dev, d->channels * d->t * d->h * d->w);
    k_unpatchify_f32<<<grid, THREADS, 0, dev->compute>>>(*d, rows, latent);
    return cu_launched();
}

/* --- the finite check ------------------------------------------------------------------------ */

/* The smallest index is the same whatever the order of the atomics. */
__global__ void __launch_bounds__(THREADS)
    k_nonfinite_f32(const float *in, int64_t n, unsigned long long *first)
{
    for (EACH(i, n))
        if (!isfinite(in[i]))
            atomicMin(first, (unsigned long long)i);
}

static int find_nonfinite(lx_cuda_dev *dev, const float *in, int64_t n, uint64_t *first)
{
    CU_TRY(cudaMemsetAsync(first, 0xff, sizeof *first, dev->compute));
    k_nonfinite_f32<<<grid_for(dev, n), THREADS, 0, dev->compute>>>(in, n,
                                                                    (unsigned long long *)first);
    return cu_launched();
}

extern "C" {
extern const struct lx_cuda_rows_ops lx_cuda_rows_table;
const struct lx_cuda_rows_ops lx_cuda_rows_table = {
    cu_norm, cu_qk_norm_rope, cu_squares, cu_fold_squares, silu,
    axpby,   widen,           patchify,   unpatchify,      find_nonfinite};
}
