/*
 * int8.cu - INT8, FP8 and BF16 linears by design, rows into codes, and how fast mma.sync itself is
 * SPDX-License-Identifier: Apache-2.0
 *
 * Codes     5 bytes of F32 and code a number, 3 of F16. Where a design makes those of a band while
 *           it multiplies the next, only the last band's rows come here; apart, each band's.
 * Rate      16 warps a multiprocessor with 16 independent sums each and operands in registers:
 *           nothing but mma.sync. What int8_mma.cuh reaches is told as a share of this, by time
 *           and by clocks (k_clocks).
 */
#include "int8_finish.cuh"

#define THREADS 256
#define AHEAD   8

template <typename SUM> __global__ void __launch_bounds__(THREADS) k_codes_rows(lx_cu_codes c)
{
    const int warps = (int)gridDim.x * (THREADS / 32);
    const int warp = (int)blockIdx.x * (THREADS / 32) + (int)threadIdx.x / 32;
    int8::codes_of_rows<AHEAD, SUM, true>(c, warp, warps);
}

int cu_codes(lx_cuda_dev *dev, const lx_cu_codes *c)
{
    const int64_t most = 8 * (int64_t)dev->n_sm,
                  blocks = cu_ceil_div<int64_t>(c->rows, THREADS / 32);
    const unsigned grid = (unsigned)(blocks < most ? blocks : most);
    if (c->rows < 1)
        return 0;
    if (c->is_fp8 && !c->is_half)
        return (int)cudaErrorInvalidValue;
    if (c->is_fp8)
        k_codes_rows<float><<<grid, THREADS, 0, dev->compute>>>(*c);
    else
        k_codes_rows<int><<<grid, THREADS, 0, dev->compute>>>(*c);
    return cu_launched();
}

/* What every design takes for granted; tiles and codes are counted in 31 bits. */
static bool is_served(const lx_cu_int8 *p)
{
    const lx_cu_epilogue &e = p->e;
    const int out = e.out.dtype;
    const bool is_16 = out == LX_CU_BF16 || out == LX_CU_F16;
    const bool is_out = out == LX_CU_F32 || (is_16 && !e.add_to_out);
    const bool is_told =
        !p->most || out == LX_CU_F32 || (out == LX_CU_F16 && LX_CU_INT8_HALF(p->design, e.n));
    const bool is_even =
        e.n % 16 == 0 && p->k % 16 == 0 && cu_is_aligned(p->x) && cu_is_aligned(p->w);
    const int64_t tiles = cu_ceil_div<int64_t>(e.m, 128) * cu_ceil_div<int64_t>(e.n, 128);
    return is_out && is_told && is_even && e.m > 0 && e.n > 0 && p->k > 0 && p->k <= 1 << 17 &&
           tiles <= 0x7fffffff && p->codes.rows * p->codes.cols <= 0x7fffffff && !e.mul.data &&
           e.activation != LX_CU_SILU;
}

static int fp8(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    if (!LX_CU_HAS_FP8(p->design) || (p->codes.rows && !(p->codes.is_fp8 && p->codes.is_half)))
        return (int)cudaErrorInvalidValue;
    return p->design == LX_CU_WGMMA_128x256 ? cu_fp8_wgmma(dev, p) : cu_fp8_mma_192(dev, p);
}

int cu_int8(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    static int (*const designs[])(lx_cuda_dev *, const lx_cu_int8 *) = {
        cu_int8_mma_256, cu_int8_mma_128, cu_int8_wgmma, cu_int8_mma_192, cu_int8_mma_192};
    static_assert(sizeof designs / sizeof *designs == LX_CU_INT8_DESIGNS, "by number");
    if (!is_served(p) || p->design < 0 || p->design >= LX_CU_INT8_DESIGNS)
        return (int)cudaErrorInvalidValue;
    if (p->is_bf16)
        return p->design == LX_CU_WGMMA_128x256 ? cu_bf16_wgmma(dev, p)
                                                : (int)cudaErrorInvalidValue;
    if (p->is_fp8)
        return fp8(dev, p);
    if (p->codes.rows && p->codes.is_fp8)
        return (int)cudaErrorInvalidValue;
    if (LX_CU_INT8_HALF(p->design, 64) || !p->codes.is_half)
        return designs[p->design](dev, p);
    lx_cu_int8 alone = *p; /* int8_mma.cuh makes codes of F32 meanwhile, no others */
    alone.codes.rows = 0;
    CU_TRY(cu_codes(dev, &p->codes));
    return designs[p->design](dev, &alone);
}

/* --- the rate of mma.sync -------------------------------------------------------------------- */

#define RATE_SUMS   16
#define RATE_ROUNDS 4096
#define RATE_BLOCKS 2 /* per multiprocessor */

__global__ void __launch_bounds__(THREADS) k_int8_rate(int rounds, int *never)
{
    int sum[RATE_SUMS][4] = {};
    uint32_t a[4], b[2];
    for (uint32_t i = 0; i < 4; i++)
        a[i] = (threadIdx.x * 4 + i) * 2654435761u;
    for (uint32_t i = 0; i < 2; i++)
        b[i] = (threadIdx.x * 2 + i + 7) * 2246822519u;
#pragma unroll 1
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < RATE_SUMS; i++)
            asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                         "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+r"(sum[i][0]), "+r"(sum[i][1]), "+r"(sum[i][2]), "+r"(sum[i][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    int all = 0;
    for (int i = 0; i < RATE_SUMS; i++)
        all ^= sum[i][0] ^ sum[i][1] ^ sum[i][2] ^ sum[i][3];
    if (never && all == 0x5eed) /* the sums are wanted, as far as the compiler knows */
        *never = all;
}

int cu_int8_rate(lx_cuda_dev *dev, double *operations)
{
    const unsigned blocks = RATE_BLOCKS * (unsigned)dev->n_sm;
    k_int8_rate<<<blocks, THREADS, 0, dev->compute>>>(RATE_ROUNDS, nullptr);
    *operations = 2.0 * 16 * 8 * 32 * RATE_SUMS * RATE_ROUNDS * (THREADS / 32) * blocks;
    return cu_launched();
}

/* One thread: where and when it runs. */
__global__ void k_clocks(lx_cu_clocks *at)
{
    unsigned multiprocessor;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
    *at = {clock64(), multiprocessor};
}

int cu_clocks(lx_cuda_dev *dev, lx_cu_clocks *at)
{
    k_clocks<<<1, 1, 0, dev->compute>>>(at);
    return cu_launched();
}
