/*
 * int8_mma_192.cuh - mma.sync in tiles of 192 x 256: what INT8's and FP8's kernels share
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       A tile of R x C asks the second-level cache for (1 / R + 1 / C) / 2 bytes an operation.
 *           On one H200 (mma.sync alone: 1,260 T operations/s) 128 x 256 measured 1.256 us for 128
 *           of K, 70 % of that rate, at 5.2 TB/s, two blocks of 128 x 128 at 6.0 TB/s; at 85 % they
 *           would ask for 6.3 and 8.4. 192 x 256 asks for 4.9.
 * Floors    of a tile and 32 of K, clocks of one multiprocessor:
 *                       mma.sync        shared memory   second-level cache
 *           9.0         573 at 1.49     432             at 6 TB/s (26 bytes a clock): 550
 *           8.6, 8.9    1,536 at 4      432
 *           Whole: a RTX 3090 (284 T/s) 6.0, 16.3 and 16.3 ms for 5120 -> 5120, 5120 -> 13824 and
 *           13824 -> 5120 at 32,760 rows, asking its cache for 1.29 TB/s (128 x 256: 1.66); a RTX
 *           3060 (102 T/s) 16.8, 45 and 45 ms and 0.46 TB/s. Bytes of memory: int8_mma.cuh.
 * Warps     8, each 96 x 64 outputs: 192 registers of sums, 6 x 8 tiles of m16n8k32. Of 32 of K a
 *           warp reads 3 + 2 KiB for its 48 instructions: 107 bytes each, beside 37 that a block
 *           writes; 64 x 64 has 128 and 48.
 * Apart     All blocks end together, which is hard on memory: residual and results of a wave are 32
 *           MB of a RTX 3090, 38 us beside 145 of products. So one design lets blocks of F32 begin
 *           apart, over a quarter of a tile (INT8's over half, if there are many): then they end
 *           apart.
 * Codes     of F16 rows of a band before, 128 numbers a warp and step. Only gelu's kernels make
 *           them beside products; others' are made before.
 * Serves    what int8_mma.cuh serves, but for outputs whose rows are not aligned, F32 of which
 *           maxima are wanted, INT8's F32 with gelu, and its operands of 4 GiB and more: INT8's go
 *           there instead (int8_mma_192x256.cu).
 */
#ifndef INT8_MMA_192_CUH
#define INT8_MMA_192_CUH

#include "int8_mma.cuh"

namespace int8
{
namespace tall
{

constexpr int MT = 6, NT = 8, WM = 2, WN = 4;
constexpr int WARP_M = 16 * MT, WARP_N = 8 * NT, BM = WARP_M * WM, BN = WARP_N * WN;
constexpr int WARPS = WM * WN, THREADS = 32 * WARPS;
constexpr int PASS = THREADS / UNITS; /* rows that all threads fetch at once */
constexpr int FETCHES = (BM + BN) / PASS;
constexpr int ROWS = 2 * MT; /* of a lane, 8 apart */
static_assert(BM % PASS == 0 && BN % PASS == 0 && PASS % 32 == 0, "fetching");

/* m < 0: none. */
__device__ __forceinline__ place place_or_none(const order &o, int tile)
{
    const place none = {-1, 0};
    return tile < o.n_tiles ? tile_at(o, tile) : none;
}

/* The thread's number, asked for anew: what follows from it is not kept while a tile ends. */
__device__ __forceinline__ int thread_now()
{
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

/* Blocks begin apart, the last one `delay` clocks late, and then stay so. */
__device__ __forceinline__ void wait_for_turn(uint32_t delay)
{
    const long long start = clock64(), mine = (long long)delay * blockIdx.x / gridDim.x;
    if (threadIdx.x == 0)
        while (clock64() - start < mine) {
        }
    __syncthreads();
}

/* --- codes beside products ------------------------------------------------------------------- */

/* A unit is up to 128 numbers of a row, four of each lane. */
struct recoding {
    uint2 v;       /* on their way */
    float most;    /* of their row */
    uint32_t unit; /* this warp's next */
    uint32_t at;   /* of this lane's numbers in y and out, or NOWHERE */
};

constexpr uint32_t NOWHERE = 0xffffffffu, UNIT = 128;

__device__ __forceinline__ uint32_t units_of_row(const lx_cu_codes &c)
{
    return ((uint32_t)c.cols + UNIT - 1) / UNIT;
}

__device__ __forceinline__ void recode_ask(const lx_cu_codes &c, recoding &r)
{
    const uint32_t units = units_of_row(c), row = r.unit / units, cols = (uint32_t)c.cols;
    const uint32_t col = (r.unit - row * units) * UNIT + threadIdx.x % 32 * 4;
    r.v = make_uint2(0, 0);
    r.most = 0;
    r.at = NOWHERE;
    if (row >= (uint32_t)c.rows)
        return;
    r.unit += gridDim.x * WARPS;
    if (col >= cols)
        return;
    r.at = row * cols + col;
    r.v = __ldcs((const uint2 *)((const __half *)c.y + r.at));
    r.most = __uint_as_float(c.most[row]);
}

template <typename SUM>
__device__ __forceinline__ void recode_put(const lx_cu_codes &c, const recoding &r)
{
    if (r.at == NOWHERE)
        return;
    const typename coder_of<SUM>::type coder = coder_of<SUM>::row(r.most);
    const float2 low = __half22float2(*(const __half2 *)&r.v.x),
                 high = __half22float2(*(const __half2 *)&r.v.y);
    const float four[4] = {low.x, low.y, high.x, high.y};
    *(unsigned *)(c.out + r.at) = cu_code4(coder, four);
}

/* What is left of the rows after the last product, and all their scales. */
template <typename SUM>
__device__ __forceinline__ void recode_end(const lx_cu_codes &c, recoding &r)
{
    while (r.unit < (uint32_t)c.rows * units_of_row(c)) {
        recode_ask(c, r);
        recode_put<SUM>(c, r);
    }
    for (int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x; row < c.rows;
         row += (int64_t)gridDim.x * THREADS)
        c.scale[row] = coder_of<SUM>::row(__uint_as_float(c.most[row])).scale;
}

/* --- launching ------------------------------------------------------------------------------- */

/* Tiles below each other, so that those which run together read the fewest rows in all. */
static int group_of(int n_sm)
{
    int group = 1;
    while ((group + 1) * (group + 1) * BM <= n_sm * BN)
        group++;
    return group;
}

/* wait_for_turn's: a quarter of a tile, by clocks of its products, where most blocks have four or
 * more: that costs the quarter once. */
static uint32_t find_delay(const lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o)
{
    if (p->design != LX_CU_MMA_192x256_APART || o.n_tiles < 4 * dev->n_sm)
        return 0;
    const int64_t products = BM / 16 * (BN / 8) * cu_ceil_div<int64_t>(p->k, 32);
    const int halves = dev->major == 9 ? 3 : dev->major == 8 && dev->minor == 0 ? 4 : 8;
    return (uint32_t)(products * halves * (p->is_fp8 ? 2 : 1) / 2 / 4);
}

static bool has_wide_out(const lx_cu_int8 *p)
{
    return cu_is_wide_mat(p->e.out) && p->e.out.stride <= INT32_MAX;
}

/* Where the kernel makes no codes meanwhile, or shall not, they are made before it; *call is what
 * is left. */
static int codes_before(lx_cuda_dev *dev, const lx_cu_int8 *p, lx_cu_int8 *call)
{
    const bool is_f32 = p->e.out.dtype == LX_CU_F32, is_gelu = p->e.activation == LX_CU_GELU;
    const bool is_apart = p->design == LX_CU_MMA_192x256_APART && !p->is_fp8;
    *call = *p;
    if (!is_f32 && is_gelu && has_wide_out(p) && p->codes.is_half && !is_apart)
        return 0;
    call->codes.rows = 0;
    return cu_codes(dev, &p->codes);
}

/* A block for each multiprocessor that has a tile; each takes `shared` bytes. */
template <typename H>
static int launch_blocks(lx_cuda_dev *dev, void (*kernel)(lx_cu_int8, order, H), int shared,
                         const lx_cu_int8 *p, const order &o, const H &h)
{
    const int blocks = o.n_tiles < dev->n_sm ? o.n_tiles : dev->n_sm;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    kernel<<<blocks, THREADS, (size_t)shared, dev->compute>>>(*p, o, h);
    return cu_launched();
}

} // namespace tall
} // namespace int8

#endif
