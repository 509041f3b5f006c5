/*
 * norm.cu - row norms with weight, bias and modulation, written as the next linear reads them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   rms:   y = x / sqrt(mean(x^2) + eps);  layer: y = (x - mean) / sqrt(var + eps)
 *           then y * weight + bias, then y * (1 + scale) + shift, as far as they are given
 * Numbers   f32; the mean first, then the squares around it, both from registers; one rounding to
 *           the output, or codes (quantize.cu). A row is read once and written once.
 */
#include "cu_row.cuh"
#include "cu_rows.cuh"

__device__ inline float norm_rstd(float square, const lx_cu_norm &n)
{
    return __frsqrt_rn(square / (float)n.out.cols + n.eps);
}

__device__ inline void norm_affine8(const lx_cu_norm &n, int64_t col, cu_eight *y)
{
    cu_eight w = n.weight.data ? cu_vec_load8(n.weight, col) : cu_same8(1);
    cu_eight b = n.bias.data ? cu_vec_load8(n.bias, col) : cu_same8(0);
    cu_eight scale = n.scale ? cu_load8_f32(n.scale + col) : cu_same8(0);
    cu_eight shift = n.shift ? cu_load8_f32(n.shift + col) : cu_same8(0);
#pragma unroll
    for (int j = 0; j < 8; j++)
        y->v[j] = fmaf(fmaf(y->v[j], w.v[j], b.v[j]), 1.0f + scale.v[j], shift.v[j]);
}

template <int PIECES>
__global__ void __launch_bounds__(CU_ROW_THREADS) k_norm_vec8(lx_cu_norm n, cu_row_out out)
{
    __shared__ float sums[2][CU_ROW_WARPS];
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x, cols = n.out.cols;
    cu_eight y[PIECES];
    float sum = 0, square = 0, mean = 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols) {
            y[i] = cu_load8_f32(n.in + row * cols + cu_piece(i));
            for (int j = 0; j < 8; j++)
                sum += y[i].v[j];
        }
    if (n.is_layer)
        mean = cu_block_sum(sum, sums[0]) / (float)cols;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols)
            for (int j = 0; j < 8; j++) {
                y[i].v[j] -= mean;
                square = fmaf(y[i].v[j], y[i].v[j], square);
            }
    const float rstd = norm_rstd(cu_block_sum(square, sums[1]), n);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols) {
            for (int j = 0; j < 8; j++)
                y[i].v[j] *= rstd;
            norm_affine8(n, cu_piece(i), &y[i]);
        }
    cu_row_store<PIECES>(out, row, cols, y, most);
}

/* Any size and alignment. In place is allowed: an element is written by the thread that alone reads
 * it, after the sums. */
__global__ void __launch_bounds__(CU_ROW_THREADS) k_norm_any(lx_cu_norm n, cu_row_out out)
{
    __shared__ float sums[2][CU_ROW_WARPS];
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x, cols = n.out.cols;
    const float *in = n.in + row * cols;
    float sum = 0, square = 0, mean = 0;
    for (int64_t i = threadIdx.x; i < cols && n.is_layer; i += CU_ROW_THREADS)
        sum += in[i];
    if (n.is_layer)
        mean = cu_block_sum(sum, sums[0]) / (float)cols;
    for (int64_t i = threadIdx.x; i < cols; i += CU_ROW_THREADS)
        square = fmaf(in[i] - mean, in[i] - mean, square);
    const float rstd = norm_rstd(cu_block_sum(square, sums[1]), n);
    auto value = [&](int64_t i) {
        float y = (in[i] - mean) * rstd;
        y = fmaf(y, n.weight.data ? cu_vec_at(n.weight, i) : 1.0f,
                 n.bias.data ? cu_vec_at(n.bias, i) : 0.0f);
        return fmaf(y, 1.0f + (n.scale ? n.scale[i] : 0.0f), n.shift ? n.shift[i] : 0.0f);
    };
    cu_row_store_slow(out, row, cols, value, most);
}

int cu_norm(lx_cuda_dev *dev, const lx_cu_norm *n)
{
    cu_row_out out = cu_row_out_of(n->out, n->out_scale);
    bool is_wide = cu_is_wide_row(n->out.cols) && cu_is_aligned(n->in) && cu_is_wide_mat(n->out) &&
                   cu_is_aligned(n->weight.data) && cu_is_aligned(n->bias.data) &&
                   cu_is_aligned(n->shift) && cu_is_aligned(n->scale);
    if (is_wide)
        CU_ROW_LAUNCH(k_norm_vec8, n->out.rows, n->out.cols, dev->compute, *n, out);
    else
        k_norm_any<<<(unsigned)n->out.rows, CU_ROW_THREADS, 0, dev->compute>>>(*n, out);
    return cu_launched();
}
