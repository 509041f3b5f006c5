/*
 * product.cu - our own products: any shape, and few rows of f32 against weights of any float type
 * SPDX-License-Identifier: Apache-2.0
 *
 * Any       What cuBLASLt does not serve: sides that are no multiples of 16 (no linear of Wan2.1),
 *           and short rows of F32 (the patches: 21 GFLOP of a step's 2.9 PFLOP). 64 x 64 outputs
 *           per block, 16 of K at a time through shared memory; s32 sums for I8, else f32 in the
 *           order of K. For correctness, not for speed.
 * Few       Up to 8 rows, the time path: a warp multiplies two rows of weights, read once in
 *           16-byte accesses, with all rows of x, which the first-level cache keeps. Lane l takes
 *           columns 8 l .. 8 l + 7 of every 256; the lanes are added in a butterfly.
 */
#include "cu_linear.cuh"
#include "cu_row.cuh"

#define TILE   64
#define STEP   16
#define SIDE   16 /* threads along each side; every thread has TILE / SIDE x TILE / SIDE outputs */
#define EACH   (TILE / SIDE)
#define PADDED (TILE + 1)

template <typename T> struct operand;
template <> struct operand<int8_t> {
    typedef int sum;
    static __device__ int widen(int8_t v) { return v; }
};
template <> struct operand<__nv_bfloat16> {
    typedef float sum;
    static __device__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
};
template <> struct operand<float> {
    typedef float sum;
    static __device__ float widen(float v) { return v; }
};
template <> struct operand<__nv_fp8_e4m3> {
    typedef float sum;
    static __device__ float widen(__nv_fp8_e4m3 v) { return (float)v; }
};

/* [TILE, STEP] of a [rows, cols] matrix, turned, with zeros outside. */
template <typename T, typename S>
__device__ void load_tile(S (*tile)[PADDED], const T *data, int64_t rows, int64_t cols,
                          int64_t row0, int64_t col0)
{
    for (int i = (int)threadIdx.x; i < TILE * STEP; i += SIDE * SIDE) {
        int64_t row = row0 + i / STEP, col = col0 + i % STEP;
        bool is_in = row < rows && col < cols;
        tile[i % STEP][i / STEP] = is_in ? operand<T>::widen(data[row * cols + col]) : (S)0;
    }
}

template <typename T> __global__ void __launch_bounds__(SIDE *SIDE) k_product_any(lx_cu_product p)
{
    typedef typename operand<T>::sum S;
    __shared__ S xs[STEP][PADDED], ws[STEP][PADDED];
    const int at_n = (int)threadIdx.x % SIDE, at_m = (int)threadIdx.x / SIDE;
    const int64_t n0 = (int64_t)blockIdx.x * TILE, m0 = (int64_t)blockIdx.y * TILE;
    S acc[EACH][EACH] = {};
    for (int64_t k0 = 0; k0 < p.k; k0 += STEP) {
        load_tile<T, S>(xs, (const T *)p.x, p.m, p.k, m0, k0);
        load_tile<T, S>(ws, (const T *)p.w, p.n, p.k, n0, k0);
        __syncthreads();
        for (int k = 0; k < STEP; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    acc[i][j] += xs[k][at_m + i * SIDE] * ws[k][at_n + j * SIDE];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            int64_t m = m0 + at_m + i * SIDE, n = n0 + at_n + j * SIDE;
            if (m < p.m && n < p.n)
                ((S *)p.acc)[m * p.ld + n] = acc[i][j];
        }
}

int cu_product_any(lx_cuda_dev *dev, const lx_cu_product *p)
{
    dim3 grid((unsigned)cu_ceil_div<int64_t>(p->n, TILE),
              (unsigned)cu_ceil_div<int64_t>(p->m, TILE));
    if (p->dtype == LX_CU_I8)
        k_product_any<int8_t><<<grid, SIDE * SIDE, 0, dev->compute>>>(*p);
    else if (p->dtype == LX_CU_BF16)
        k_product_any<__nv_bfloat16><<<grid, SIDE * SIDE, 0, dev->compute>>>(*p);
    else if (p->dtype == LX_CU_F32)
        k_product_any<float><<<grid, SIDE * SIDE, 0, dev->compute>>>(*p);
    else
        k_product_any<__nv_fp8_e4m3><<<grid, SIDE * SIDE, 0, dev->compute>>>(*p);
    return cu_launched();
}

/* --- few rows -------------------------------------------------------------------------------- */

#define FEW_COLS    2 /* rows of w per warp */
#define FEW_THREADS 256
#define FEW_WARPS   (FEW_THREADS / 32)

static_assert(LX_CU_FEW_ROWS * FEW_COLS <= 32, "one lane stores one output");

/* Rows of x beyond the last, and of w, read the last again; nothing is stored for them. */
template <int M>
__device__ void store_few(const lx_cu_few &p, int64_t n0, const float (&acc)[M][FEW_COLS])
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int c = 0; c < FEW_COLS; c++) {
            float sum = cu_warp_sum(acc[m][c]);
            if (lane == m * FEW_COLS + c && m < p.m && n0 + c < p.n)
                p.acc[m * p.ld + n0 + c] = sum;
        }
}

template <int M, int DTYPE> __global__ void __launch_bounds__(FEW_THREADS) k_few_vec8(lx_cu_few p)
{
    const int64_t n0 = ((int64_t)blockIdx.x * FEW_WARPS + threadIdx.x / 32) * FEW_COLS;
    if (n0 >= p.n)
        return;
    const lx_cu_vec w = {DTYPE, p.w.data};
    float acc[M][FEW_COLS] = {};
#pragma unroll 2
    for (int64_t k = threadIdx.x % 32 * 8; k < p.k; k += 32 * 8) {
        cu_eight weights[FEW_COLS];
#pragma unroll
        for (int c = 0; c < FEW_COLS; c++)
            weights[c] = cu_vec_load8(w, min(n0 + c, p.n - 1) * p.k + k);
#pragma unroll
        for (int m = 0; m < M; m++) {
            cu_eight x = cu_load8_f32(p.x + min((int64_t)m, p.m - 1) * p.k + k);
#pragma unroll
            for (int c = 0; c < FEW_COLS; c++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    acc[m][c] = fmaf(x.v[j], weights[c].v[j], acc[m][c]);
        }
    }
    store_few<M>(p, n0, acc);
}

/* Any K, alignment and type. */
__global__ void __launch_bounds__(FEW_THREADS) k_few_any(lx_cu_few p)
{
    const int64_t n0 = ((int64_t)blockIdx.x * FEW_WARPS + threadIdx.x / 32) * FEW_COLS;
    if (n0 >= p.n)
        return;
    float acc[LX_CU_FEW_ROWS][FEW_COLS] = {};
    for (int64_t k = threadIdx.x % 32; k < p.k; k += 32)
        for (int c = 0; c < FEW_COLS; c++) {
            float w = cu_vec_at(p.w, min(n0 + c, p.n - 1) * p.k + k);
#pragma unroll
            for (int m = 0; m < LX_CU_FEW_ROWS; m++)
                acc[m][c] = fmaf(p.x[min((int64_t)m, p.m - 1) * p.k + k], w, acc[m][c]);
        }
    store_few<LX_CU_FEW_ROWS>(p, n0, acc);
}

template <int DTYPE> static void launch_few(const lx_cu_few &p, unsigned grid, cudaStream_t stream)
{
    if (p.m == 1)
        k_few_vec8<1, DTYPE><<<grid, FEW_THREADS, 0, stream>>>(p);
    else if (p.m == 2)
        k_few_vec8<2, DTYPE><<<grid, FEW_THREADS, 0, stream>>>(p);
    else if (p.m <= 4)
        k_few_vec8<4, DTYPE><<<grid, FEW_THREADS, 0, stream>>>(p);
    else
        k_few_vec8<LX_CU_FEW_ROWS, DTYPE><<<grid, FEW_THREADS, 0, stream>>>(p);
}

int cu_few(lx_cuda_dev *dev, const lx_cu_few *p)
{
    unsigned grid = (unsigned)cu_ceil_div<int64_t>(p->n, FEW_WARPS * FEW_COLS);
    bool is_wide = p->k % 8 == 0 && cu_is_aligned(p->x) && cu_is_aligned(p->w.data);
    if (is_wide && p->w.dtype == LX_CU_BF16)
        launch_few<LX_CU_BF16>(*p, grid, dev->compute);
    else if (is_wide && p->w.dtype == LX_CU_F32)
        launch_few<LX_CU_F32>(*p, grid, dev->compute);
    else if (is_wide && p->w.dtype == LX_CU_F16)
        launch_few<LX_CU_F16>(*p, grid, dev->compute);
    else if (is_wide && p->w.dtype == LX_CU_F8_E4M3)
        launch_few<LX_CU_F8_E4M3>(*p, grid, dev->compute);
    else
        k_few_any<<<grid, FEW_THREADS, 0, dev->compute>>>(*p);
    return cu_launched();
}
