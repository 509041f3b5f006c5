/*
 * epilogue.cu - from a band of sums to what the next operation reads, in one pass
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   y = x_scale[m] (w_scale[n] float(acc)) + bias[n], the last two steps one fused
 *           multiply-add; gelu in its tanh form or silu; y *= mul; y *= gate[n];
 *           then out += y, or out = y rounded once, or codes and a scale per row.
 * Elements  Eight columns and several rows per thread: what belongs to columns is read once.
 * Rows      Quantized output: a block has a row in its registers between the maximum and the codes.
 * Gelu      0.5 u (1 + tanh z) = u / (1 + e^(-2z)): no cancellation.
 */
#include "cu_linear.cuh"
#include "cu_row.cuh"

#define THREADS   128
#define ROWS_MOST 8 /* per thread */

__device__ inline float activate(int activation, float u)
{
    if (activation == LX_CU_GELU) {
        float z2 = 1.5957691216057308f * (u + 0.044715f * (u * u * u));
        return __fdividef(u, 1.0f + expf(-z2));
    }
    return activation == LX_CU_SILU ? __fdividef(u, 1.0f + expf(-u)) : u;
}

/* What belongs to eight columns. */
struct columns {
    cu_eight w_scale, bias, gate;
};

__device__ inline columns columns_at(const lx_cu_epilogue &e, int64_t col)
{
    return {e.w_scale ? cu_load8_f32(e.w_scale + col) : cu_same8(1),
            e.bias.data ? cu_vec_load8(e.bias, col) : cu_same8(0),
            e.gate ? cu_load8_f32(e.gate + col) : cu_same8(1)};
}

__device__ inline cu_eight finish8(const lx_cu_epilogue &e, int64_t row, int64_t col,
                                   const columns &c)
{
    const int64_t i = row * e.n + col;
    const float x_scale = e.x_scale ? e.x_scale[row] : 1.0f;
    cu_eight y = e.acc_is_s32 ? cu_load8_s32((const int *)e.acc + i)
                              : cu_load8_f32((const float *)e.acc + i);
#pragma unroll
    for (int j = 0; j < 8; j++)
        y.v[j] = activate(e.activation, fmaf(x_scale, c.w_scale.v[j] * y.v[j], c.bias.v[j]));
    if (e.mul.data) {
        cu_eight mul = cu_vec_load8({e.mul.dtype, e.mul.data}, row * e.mul.stride + col);
#pragma unroll
        for (int j = 0; j < 8; j++)
            y.v[j] *= mul.v[j];
    }
    if (e.gate)
#pragma unroll
        for (int j = 0; j < 8; j++)
            y.v[j] *= c.gate.v[j];
    return y;
}

__device__ inline float finish1(const lx_cu_epilogue &e, int64_t row, int64_t col)
{
    const int64_t i = row * e.n + col;
    const float x_scale = e.x_scale ? e.x_scale[row] : 1.0f;
    float y = e.acc_is_s32 ? (float)((const int *)e.acc)[i] : ((const float *)e.acc)[i];
    y = (e.w_scale ? e.w_scale[col] : 1.0f) * y;
    y = activate(e.activation, fmaf(x_scale, y, e.bias.data ? cu_vec_at(e.bias, col) : 0.0f));
    if (e.mul.data)
        y *= cu_vec_at({e.mul.dtype, e.mul.data}, row * e.mul.stride + col);
    return e.gate ? y * e.gate[col] : y;
}

/* --- elements -------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) k_epilogue_vec8(lx_cu_epilogue e, int rows_each)
{
    const int64_t col = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (col >= e.n)
        return;
    const columns c = columns_at(e, col);
    const int64_t first = (int64_t)blockIdx.y * rows_each, end = min(first + rows_each, e.m);
#pragma unroll 2
    for (int64_t row = first; row < end; row++) {
        const int64_t i = row * e.out.stride + col;
        cu_eight y = finish8(e, row, col, c);
        if (e.add_to_out) {
            cu_eight old = cu_load8_f32((const float *)e.out.data + i);
#pragma unroll
            for (int j = 0; j < 8; j++)
                y.v[j] += old.v[j];
        }
        cu_store8(e.out.dtype, e.out.data, i, y);
    }
}

__global__ void __launch_bounds__(THREADS) k_epilogue_any(lx_cu_epilogue e, int rows_each)
{
    const int64_t col = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t first = (int64_t)blockIdx.y * rows_each, end = min(first + rows_each, e.m);
    for (int64_t row = first; row < end && col < e.n; row++) {
        const int64_t i = row * e.out.stride + col;
        float y = finish1(e, row, col);
        cu_store1(e.out.dtype, e.out.data, i, e.add_to_out ? ((float *)e.out.data)[i] + y : y);
    }
}

/* A band has at most 16,384 rows, or the 32 MiB of use_blas (linear_plan.c): with 16 columns, the
 * fewest, 49,152 blocks in the grid's second side, which may have 65,535. */
static void launch_elements(const lx_cuda_dev *dev, const lx_cu_epilogue &e, bool is_wide)
{
    int64_t blocks = cu_ceil_div<int64_t>(e.n, THREADS * (is_wide ? 8 : 1));
    int rows_each = ROWS_MOST;
    while (rows_each > 1 && blocks * cu_ceil_div<int64_t>(e.m, rows_each) < 8 * dev->n_sm)
        rows_each /= 2; /* a small band: more threads rather than fewer reads */
    dim3 grid((unsigned)blocks, (unsigned)cu_ceil_div<int64_t>(e.m, rows_each));
    if (is_wide)
        k_epilogue_vec8<<<grid, THREADS, 0, dev->compute>>>(e, rows_each);
    else
        k_epilogue_any<<<grid, THREADS, 0, dev->compute>>>(e, rows_each);
}

/* --- quantized rows -------------------------------------------------------------------------- */

template <int PIECES>
__global__ void __launch_bounds__(CU_ROW_THREADS) k_epilogue_codes(lx_cu_epilogue e, cu_row_out out)
{
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x;
    cu_eight y[PIECES];
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < e.n)
            y[i] = finish8(e, row, cu_piece(i), columns_at(e, cu_piece(i)));
    cu_row_store<PIECES>(out, row, e.n, y, most);
}

__global__ void __launch_bounds__(CU_ROW_THREADS)
    k_epilogue_codes_any(lx_cu_epilogue e, cu_row_out out)
{
    __shared__ unsigned most[CU_ROW_WARPS];
    const int64_t row = blockIdx.x;
    cu_row_store_slow(
        out, row, e.n, [&](int64_t col) { return finish1(e, row, col); }, most);
}

static bool is_wide(const lx_cu_epilogue &e)
{
    return e.n % 8 == 0 && cu_is_aligned(e.acc) && cu_is_aligned(e.w_scale) &&
           cu_is_aligned(e.bias.data) && cu_is_aligned(e.gate) && cu_is_wide_mat(e.mul) &&
           cu_is_wide_mat(e.out);
}

int cu_epilogue(lx_cuda_dev *dev, const lx_cu_epilogue *e)
{
    if (!cu_is_coded(e->out.dtype)) {
        launch_elements(dev, *e, is_wide(*e));
        return cu_launched();
    }
    cu_row_out out = cu_row_out_of(e->out, e->out_scale);
    if (is_wide(*e) && cu_is_wide_row(e->n))
        CU_ROW_LAUNCH(k_epilogue_codes, e->m, e->n, dev->compute, *e, out);
    else
        k_epilogue_codes_any<<<(unsigned)e->m, CU_ROW_THREADS, 0, dev->compute>>>(*e, out);
    return cu_launched();
}
