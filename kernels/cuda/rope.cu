/*
 * rope.cu - RMS norm of q or k over all heads, then the rotation, in place
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_rope.h. A block has a token: its row lies in registers, the head's (cos, sin) pairs,
 *           put together from the three axes, in shared memory. One read, one write, one rounding.
 * Squares   for attention kernels that do the rest on their way (attention_turn.cuh): a row is read
 *           once, or its sums were left by the linear that made it, 64 or 256 columns each.
 */
#include "cu_row.cuh"
#include "cu_rows.cuh"

#define PAIRS_MOST 512 /* of a head on the wide path; Wan's have 64 */

/* (cos, sin) of pair p of a head for token s: lx_rope.h. */
__device__ inline float2 turn_of(const lx_cu_rope &r, int64_t s, int64_t p)
{
    const int64_t side = r.head_dim / 6, front = r.head_dim / 2 - 2 * side;
    const float2 *axis = (const float2 *)r.t;
    if (p < front)
        return axis[s / (r.grid_h * r.grid_w) * front + p];
    if (p < front + side)
        return ((const float2 *)r.h)[s / r.grid_w % r.grid_h * side + p - front];
    return ((const float2 *)r.w)[s % r.grid_w * side + p - front - side];
}

__device__ inline float rope_rstd(float square, const lx_cu_rope &r)
{
    return __frsqrt_rn(square / (float)r.q.cols + r.eps);
}

template <int PIECES> __global__ void __launch_bounds__(CU_ROW_THREADS) k_rope_vec8(lx_cu_rope r)
{
    __shared__ float sums[CU_ROW_WARPS];
    __shared__ float2 turn[PAIRS_MOST];
    const int64_t row = blockIdx.x, cols = r.q.cols, first = row * r.q.stride;
    cu_eight y[PIECES];
    float square = 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (cu_piece(i) < cols) {
            y[i] = cu_vec_load8({r.q.dtype, r.q.data}, first + cu_piece(i));
            for (int j = 0; j < 8; j++)
                square = fmaf(y[i].v[j], y[i].v[j], square);
        }
    for (int p = (int)threadIdx.x; p < r.head_dim / 2; p += CU_ROW_THREADS)
        turn[p] = turn_of(r, r.first_token + row, p);
    const float rstd = rope_rstd(cu_block_sum(square, sums), r); /* its barrier covers turn, too */
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        const int64_t col = cu_piece(i);
        if (col >= cols)
            break;
        cu_eight gain = cu_vec_load8(r.gain, col);
        for (int j = 0; j < 8; j++)
            y[i].v[j] = y[i].v[j] * rstd * gain.v[j];
        const float2 *pair = turn + (r.head_dim ? (unsigned)col % (unsigned)r.head_dim / 2 : 0);
        for (int j = 0; j < 4 && r.head_dim; j++) {
            const float a = y[i].v[2 * j], b = y[i].v[2 * j + 1], c = pair[j].x, s = pair[j].y;
            y[i].v[2 * j] = a * c - b * s;
            y[i].v[2 * j + 1] = a * s + b * c;
        }
        cu_store8(r.q.dtype, r.q.data, first + col, y[i]);
    }
}

/* Any size and alignment: a thread has pairs (without a rotation, single columns). */
__global__ void __launch_bounds__(CU_ROW_THREADS) k_rope_any(lx_cu_rope r)
{
    __shared__ float sums[CU_ROW_WARPS];
    const int64_t row = blockIdx.x, cols = r.q.cols, first = row * r.q.stride;
    const lx_cu_vec q = {r.q.dtype, r.q.data};
    float square = 0;
    for (int64_t i = threadIdx.x; i < cols; i += CU_ROW_THREADS)
        square = fmaf(cu_vec_at(q, first + i), cu_vec_at(q, first + i), square);
    const float rstd = rope_rstd(cu_block_sum(square, sums), r);
    for (int64_t i = threadIdx.x; i < cols && !r.head_dim; i += CU_ROW_THREADS)
        cu_store1(r.q.dtype, r.q.data, first + i,
                  cu_vec_at(q, first + i) * rstd * cu_vec_at(r.gain, i));
    for (int64_t i = 2 * (int64_t)threadIdx.x; i < cols && r.head_dim; i += 2 * CU_ROW_THREADS) {
        const float2 turn = turn_of(r, r.first_token + row, i % r.head_dim / 2);
        const float a = cu_vec_at(q, first + i) * rstd * cu_vec_at(r.gain, i);
        const float b = cu_vec_at(q, first + i + 1) * rstd * cu_vec_at(r.gain, i + 1);
        cu_store1(r.q.dtype, r.q.data, first + i, a * turn.x - b * turn.y);
        cu_store1(r.q.dtype, r.q.data, first + i + 1, a * turn.y + b * turn.x);
    }
}

int cu_qk_norm_rope(lx_cuda_dev *dev, const lx_cu_rope *r)
{
    bool is_wide = cu_is_wide_row(r->q.cols) && cu_is_wide_mat(r->q) &&
                   cu_is_aligned(r->gain.data) && r->head_dim % 8 == 0 &&
                   r->head_dim <= 2 * PAIRS_MOST;
    if (is_wide)
        CU_ROW_LAUNCH(k_rope_vec8, r->q.rows, r->q.cols, dev->compute, *r);
    else
        k_rope_any<<<(unsigned)r->q.rows, CU_ROW_THREADS, 0, dev->compute>>>(*r);
    return cu_launched();
}

/* --- sums of squares alone ------------------------------------------------------------------- */

__global__ void __launch_bounds__(CU_ROW_THREADS) k_squares(lx_cu_mat m, bool is_wide, float *out)
{
    __shared__ float sums[CU_ROW_WARPS];
    const lx_cu_vec from = {m.dtype, m.data};
    const int64_t first = blockIdx.x * m.stride;
    float square = 0;
    for (int64_t i = 8 * (int64_t)threadIdx.x; is_wide && i < m.cols; i += CU_ROW_PIECE) {
        const cu_eight y = cu_vec_load8(from, first + i);
        for (int j = 0; j < 8; j++)
            square = fmaf(y.v[j], y.v[j], square);
    }
    for (int64_t i = threadIdx.x; !is_wide && i < m.cols; i += CU_ROW_THREADS)
        square = fmaf(cu_vec_at(from, first + i), cu_vec_at(from, first + i), square);
    square = cu_block_sum(square, sums);
    if (threadIdx.x == 0)
        out[blockIdx.x] = square;
}

int cu_squares(lx_cuda_dev *dev, const lx_cu_mat *rows, float *square)
{
    bool is_wide = rows->cols % 8 == 0 && cu_is_wide_mat(*rows);
    k_squares<<<(unsigned)rows->rows, CU_ROW_THREADS, 0, dev->compute>>>(*rows, is_wide, square);
    return cu_launched();
}

#define FOLD_THREADS 64 /* so that every multiprocessor has some: it is all waiting for loads */

__global__ void __launch_bounds__(FOLD_THREADS)
    k_fold_squares(const float *parts, int n_parts, int64_t m, float *out)
{
    const int64_t row = (int64_t)blockIdx.x * FOLD_THREADS + threadIdx.x;
    float sum = 0;
    if (row >= m)
        return;
#pragma unroll 16
    for (int i = 0; i < n_parts; i++)
        sum += parts[i * m + row];
    out[row] = sum;
}

int cu_fold_squares(lx_cuda_dev *dev, const float *parts, int n_parts, int64_t m, float *square)
{
    const unsigned grid = (unsigned)cu_ceil_div<int64_t>(m, FOLD_THREADS);
    k_fold_squares<<<grid, FOLD_THREADS, 0, dev->compute>>>(parts, n_parts, m, square);
    return cu_launched();
}
