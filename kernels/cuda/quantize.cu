/*
 * quantize.cu - rows into codes or another float type; weights into BF16
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   A = max |x| of the row, scale = A / 127, code = x * (127 / A) to nearest,
 *           half to even; FP8: scale = A / 448, code = x / scale to e4m3, saturating.
 */
#include "cu_linear.cuh"
#include "cu_row.cuh"

template <int PIECES>
__global__ void __launch_bounds__(CU_ROW_THREADS) k_quantize_vec8(lx_cu_mat in, cu_row_out out)
{
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x;
    cu_eight y[PIECES];
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < in.cols)
            y[i] = cu_vec_load8({in.dtype, in.data}, row * in.stride + cu_piece(i));
    cu_row_store<PIECES>(out, row, in.cols, y, most);
}

__global__ void __launch_bounds__(CU_ROW_THREADS) k_quantize_any(lx_cu_mat in, cu_row_out out)
{
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x;
    cu_row_store_slow(
        out, row, in.cols,
        [&](int64_t col) {
            return cu_vec_at({in.dtype, in.data}, row * in.stride + col);
        },
        most);
}

int cu_quantize(lx_cuda_dev *dev, const lx_cu_mat *in, const lx_cu_mat *out, float *scale)
{
    cu_row_out rows = cu_row_out_of(*out, scale);
    if (cu_is_wide_row(in->cols) && cu_is_wide_mat(*in) && cu_is_wide_mat(*out))
        CU_ROW_LAUNCH(k_quantize_vec8, in->rows, in->cols, dev->compute, *in, rows);
    else
        k_quantize_any<<<(unsigned)in->rows, CU_ROW_THREADS, 0, dev->compute>>>(*in, rows);
    return cu_launched();
}

/* --- BF16 copies of weights ------------------------------------------------------------------ */

#define THREADS 256

__global__ void __launch_bounds__(THREADS) k_to_bf16_vec8(lx_cu_vec in, int64_t n, void *out)
{
    const int64_t step = (int64_t)gridDim.x * THREADS * 8;
    for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8; i < n; i += step)
        cu_store8(LX_CU_BF16, out, i, cu_vec_load8(in, i));
}

__global__ void __launch_bounds__(THREADS) k_to_bf16_any(lx_cu_vec in, int64_t n, void *out)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step)
        cu_store1(LX_CU_BF16, out, i, cu_vec_at(in, i));
}

int cu_to_bf16(lx_cuda_dev *dev, lx_cu_vec in, int64_t n, void *out)
{
    bool is_wide = n % 8 == 0 && cu_is_aligned(in.data) && cu_is_aligned(out);
    int64_t blocks = cu_ceil_div<int64_t>(n, THREADS * (is_wide ? 8 : 1)), most = 32 * dev->n_sm;
    unsigned grid = (unsigned)(blocks < most ? blocks : most);
    if (is_wide)
        k_to_bf16_vec8<<<grid, THREADS, 0, dev->compute>>>(in, n, out);
    else
        k_to_bf16_any<<<grid, THREADS, 0, dev->compute>>>(in, n, out);
    return cu_launched();
}
