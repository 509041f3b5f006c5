/*
 * int8_wgmma.cuh - INT8, FP8 and BF16 linears on Hopper: wgmma, the copy engine, warps with roles
 * SPDX-License-Identifier: Apache-2.0
 *
 * Floors    int8_mma.cuh's operations and bytes at the sheet's 1,979 T operations/s and 3.35 TB/s:
 *           0.87 / 2.34 / 2.34 ms of arithmetic, 0.3 / 1.4 / 0.7 ms of bytes for 5120 -> 5120, 5120
 *           -> 13824 and 13824 -> 5120 at 32,760 rows. Power holds the arithmetic to about 3/4 of
 *           the sheet: 1.2 / 3.2 / 3.2 ms.
 * Cache     At 1,400 T operations/s a tile of 128 x 256 alone would ask the second-level cache for
 *           8.2 TB/s, more than it gives. Two blocks of a cluster have the same columns: each
 *           fetches half of the weights' tile for both, which makes it 5.5 TB/s.
 * Shared    4 stages of 128 bytes of K: (128 + 256) * 128 = 48 KiB each, 216 KiB with boxes of
 *           results, vectors of columns and barriers; one block per multiprocessor. Of 32 of K a
 *           group reads 2 + 8 KiB and a block writes 12 in the 256 clocks of both groups' products:
 *           125 of 128 bytes a clock at the sheet's rate.
 * Warps     Group 0: warp 0 asks the copy engine, warps 1 to 3 make codes of earlier rows; 56
 *           registers. Groups 1 and 2: 64 rows of 256 columns each, 128 registers of sums, 224 in
 *           all: (56 + 2 * 224) * 128 = 64,512.
 * Barriers  full[s]: one arrival (with 48 KiB expected) and the bytes of both blocks' copies.
 *           free[s]: one arrival of each group of both blocks: a copy writes into both.
 * Results   By the copy engine (int8_staged.cuh) where rows are aligned and n is a multiple of 32,
 *           of 64 for 16 bits. A stage is lent for them after each tile's last step: a step of its
 *           own in the ring's order, without bytes, which both groups of both blocks leave when the
 *           copy engine has read it. Otherwise from registers (int8_finish.cuh).
 * Pieces    The copy engine writes the weights' rows in the order of pieces (int8_finish.cuh), of
 *           32 bytes of results a lane where they are staged, else of 16: it sees [n, k] as n =
 *           (group, t, j, e), e = n % 2, and walks k, e, t, j, group.
 * Types     IN: of x and w. The instruction, the sums' type and what codes are made follow from it;
 *           all else counts K in bytes. E4M3 has I8's rate (fp8_wgmma.cu), BF16 half of it
 *           (bf16_wgmma.cu), of numbers twice as long: as many bytes a clock.
 * Serves    n % 32 == 0 for 16-bit outputs, n % 16 == 0 for F32; codes of F16, and their maxima,
 *           where results are staged. What lies beyond the matrices is fetched as zeros.
 */
#ifndef INT8_WGMMA_CUH
#define INT8_WGMMA_CUH

#include <cstring>

#include <cudaTypedefs.h>

#include "int8_staged.cuh"

#ifndef LX_CUDA_ARCHS
#define LX_CUDA_ARCHS ""
#endif

namespace int8
{

constexpr int BM = 128, BN = 256, BK = 128, STAGES = 4, PAIR = 2, GROUPS = 2;
constexpr int BYTES_X = BM * BK, BYTES_W = BN * BK, STAGE = BYTES_X + BYTES_W;
constexpr int THREADS = (1 + GROUPS) * 128;
constexpr int WARPS = GROUPS * 4; /* that multiply */
constexpr int ALL_COLUMNS = GROUPS * COLUMNS * (int)sizeof(float);
constexpr int SHARED = STAGES * STAGE + WARPS * BOX + ALL_COLUMNS + STAGES * 2 * 8 +
                       1024; /* to begin at a multiple of it */
constexpr int ASK_COLS = 32; /* of the residual */
static_assert(TILE_COLS == BN && STAGE >= WARPS * (BOXES - 1) * BOX, "int8_staged.cuh: boxes");

struct maps {
    CUtensorMap x, w;
    CUtensorMap out; /* boxes of results */
    CUtensorMap old; /* the residual: ASK_COLS columns of a block's rows */
};

/* A stage and the parity of its present use. */
struct turn {
    uint32_t stage, parity;
};

__device__ __forceinline__ void advance(turn &t)
{
    t.stage++;
    if (t.stage == STAGES) {
        t.stage = 0;
        t.parity ^= 1;
    }
}

struct block_shared {
    uint32_t ring, boxes, full, free; /* addresses */
    float *columns;                   /* [GROUPS][COLUMNS] */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && LX2V_ARCH_MAX >= 90

constexpr int IDLE_WARPS = 3;
constexpr int ASKS = BN / ASK_COLS, ASK_AHEAD = 12; /* of a tile; steps before its end */
/* CUDA 12.4's ptxas waits after each product (C7515) if a tile's first one is to ignore what its
 * sums held; it does not if that is zeros. CUDA 13's needs none. */
constexpr bool FROM_ZEROS = __CUDACC_VER_MAJOR__ < 13;

/* A part of the tile's residual into the second-level cache, some steps before it is added to; a
 * tile of few steps does without some of them. */
__device__ __forceinline__ void ask_old(const maps &m, const lx_cu_epilogue &e, const place &at,
                                        int row, int k0, int k)
{
    const int part = k0 / BK - max(0, (k + BK - 1) / BK - ASK_AHEAD);
    const int col = at.n * BN + part * ASK_COLS;
    if (part >= 0 && part < ASKS && col < e.n && row < e.m)
        box_ask(&m.old, col, row);
}

/* One thread. A stage may be written when both groups of both blocks have left it; before its first
 * use it is: the parity before the first counts as over. */
template <bool STAGED>
__device__ __forceinline__ void fetch_tiles(const maps &m, const lx_cu_int8 &p, const order &o,
                                            int n_groups, const block_shared &s)
{
    const uint32_t rank = cluster_rank();
    const int64_t k = p.k;
    turn t = {0, 0};
    for (int tile = (int)blockIdx.x / PAIR; tile < o.n_tiles; tile += (int)gridDim.x / PAIR) {
        const place at = tile_at(o, tile);
        const int row = (at.m * PAIR + (int)rank) * BM;
        const int group = at.n * n_groups + (int)rank * (n_groups / 2);
        for (int k0 = 0; k0 < (int)k; k0 += BK) {
            const uint32_t stage = s.ring + t.stage * STAGE, full = s.full + 8 * t.stage;
            barrier_wait(s.free + 8 * t.stage, t.parity ^ 1);
            barrier_expect(full, STAGE);
            fetch_x(stage, &m.x, full, k0, row);
            fetch_w(stage + BYTES_X + rank * (BYTES_W / 2), &m.w, full, k0, group);
            if (STAGED && p.e.add_to_out)
                ask_old(m, p.e, at, row, k0, (int)k);
            advance(t);
        }
        if (STAGED) { /* lent */
            barrier_wait(s.free + 8 * t.stage, t.parity ^ 1);
            barrier_arrive(s.full + 8 * t.stage);
            advance(t);
        }
    }
}

/* This group has read a stage: told to both blocks by one thread each. */
__device__ __forceinline__ void leave(const block_shared &s, uint32_t stage)
{
    const uint32_t thread = threadIdx.x % 128;
    if (thread < PAIR)
        barrier_arrive_at(s.free + 8 * stage, thread);
}

/* The stage lent for the tile before, when this group's boxes have been read. */
__device__ __forceinline__ void give_back(const block_shared &s, int group, uint32_t lent)
{
    if (threadIdx.x % 32 == 0)
        boxes_wait_read<0>();
    __syncwarp();
    group_sync(group);
    leave(s, lent);
}

/* The sums of one tile; one step's products are under way while the next one's bytes are awaited.
 * lent: a stage to give back in the second step, or none: STAGES. */
template <typename IN>
__device__ __forceinline__ void multiply(typename sum_of<IN>::type (&acc)[128], int64_t k,
                                         int group, const block_shared &s, turn &t, uint32_t lent)
{
    const uint32_t x_offset = (uint32_t)(group * 64 * BK);
    uint32_t before = 0;
    if constexpr (FROM_ZEROS) {
#pragma unroll
        for (int i = 0; i < 128; i++)
            acc[i] = 0;
    }
    for (int k0 = 0; k0 < (int)k; k0 += BK) {
        const uint32_t stage = s.ring + t.stage * STAGE;
        const uint64_t a = matrix_at(stage + x_offset), b = matrix_at(stage + BYTES_X);
        barrier_wait(s.full + 8 * t.stage, t.parity);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < BK / 32; i++)
            wgmma<IN>(acc, a + 2 * i, b + 2 * i, FROM_ZEROS || k0 + i != 0);
        wgmma_close();
        wgmma_wait<1>();
        if (k0)
            leave(s, before);
        if (k0 == BK && lent < STAGES)
            give_back(s, group, lent);
        before = t.stage;
        advance(t);
    }
    wgmma_wait<0>();
    wgmma_sums_are_there(acc);
    leave(s, before);
    if (k <= BK && lent < STAGES)
        give_back(s, group, lent);
}

/* AT_ONCE pieces at a time, each of two rows, so that the residual's loads overlap. */
template <int C, bool GELU>
__device__ __forceinline__ void finish_group(const lx_cu_int8 &p, bool is_wide, int64_t row0,
                                             int64_t col0, const int (&acc)[128])
{
    constexpr int AT_ONCE = C == 4 ? 2 : 1;
    const int lane = (int)threadIdx.x % 32;
    const int64_t row = row0 + (int)threadIdx.x % 128 / 32 * 16 + lane / 4;
    const float x_scale[2] = {x_scale_at(p.e, row), x_scale_at(p.e, row + 8)};
    told<C> tell[2] = {};
#pragma unroll
    for (int piece = 0; piece < BN / (4 * C); piece += AT_ONCE) {
        columns<C> c[AT_ONCE];
        float old[AT_ONCE][2][C];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t col = col0 + (piece + i) * 4 * C + lane % 4 * C;
            if (col < p.e.n)
                get_columns<C>(p.e, col, is_wide, c[i]);
            get_old<C>(p.e, row, col, is_wide, old[i][0]);
            get_old<C>(p.e, row + 8, col, is_wide, old[i][1]);
        }
#pragma unroll
        for (int i = 0; i < 2 * AT_ONCE; i++) {
            const int64_t col = col0 + (piece + i / 2) * 4 * C + lane % 4 * C;
            int sums[C];
#pragma unroll
            for (int j = 0; j < C; j++)
                sums[j] = acc[(piece + i / 2) * 2 * C + j / 2 * 4 + i % 2 * 2 + j % 2];
            finish<C, GELU>(p.e, row + i % 2 * 8, col, is_wide, x_scale[i % 2], sums, c[i / 2],
                            old[i / 2][i % 2], tell[i % 2]);
        }
    }
    tell_row<C>(p, (int)(col0 / BN), true, row, tell[0]);
    tell_row<C>(p, (int)(col0 / BN), true, row + 8, tell[1]);
}

/* Results from registers. */
template <int C, bool GELU>
__device__ __forceinline__ void multiply_tiles(const lx_cu_int8 &p, const order &o, int group,
                                               const block_shared &s)
{
    const uint32_t rank = cluster_rank();
    turn t = {0, 0};
    int acc[128];
    for (int tile = (int)blockIdx.x / PAIR; tile < o.n_tiles; tile += (int)gridDim.x / PAIR) {
        const place at = tile_at(o, tile);
        multiply<int8_t>(acc, p.k, group, s, t, STAGES);
        finish_group<C, GELU>(p, o.is_wide, ((int64_t)at.m * PAIR + rank) * BM + group * 64,
                              (int64_t)at.n * BN, acc);
    }
}

/* Results of SIZE bytes by the copy engine. A tile's vectors are read from shared memory until its
 * end; the next one's are written after its products, and in those (give_back) all warps of the
 * group have met. */
template <int SIZE, bool GELU, typename IN>
__device__ __forceinline__ void multiply_staged(const maps &m, const lx_cu_int8 &p, const order &o,
                                                int group, const block_shared &s)
{
    const uint32_t rank = cluster_rank();
    const int warp = group * 4 + (int)threadIdx.x % 128 / 32, lane = (int)threadIdx.x % 32;
    float *columns = s.columns + group * COLUMNS;
    turn t = {0, 0};
    uint32_t lent = STAGES;
    typename sum_of<IN>::type acc[128];
    for (int tile = (int)blockIdx.x / PAIR; tile < o.n_tiles; tile += (int)gridDim.x / PAIR) {
        const place at = tile_at(o, tile);
        const int row = (at.m * PAIR + (int)rank) * BM + warp * BOX_ROWS;
        const column_pair pair = get_pair(p.e, (int64_t)at.n * BN);
        const float x_scale[2] = {x_scale_at(p.e, row + lane / 4),
                                  x_scale_at(p.e, row + lane / 4 + 8)};
        multiply<IN>(acc, p.k, group, s, t, lent);
        put_pair<staged_piece<SIZE>>(columns, pair);
        group_sync(group);
        lent = t.stage;
        barrier_wait(s.full + 8 * lent, t.parity);
        advance(t);
        const places boxes = {s.ring + lent * STAGE + (uint32_t)(warp * (BOXES - 1) * BOX),
                              s.boxes + (uint32_t)(warp * BOX)};
        finish_staged<SIZE, GELU>(p, &m.out, row, at.n * BN, acc, columns, x_scale, boxes);
    }
    if (lane == 0)
        boxes_wait();
    __syncwarp();
}

__device__ __forceinline__ block_shared shared_begin(unsigned char *memory)
{
    const uint32_t base = ((uint32_t)__cvta_generic_to_shared(memory) + 1023u) & ~1023u;
    const uint32_t boxes = base + STAGES * STAGE, columns = boxes + WARPS * BOX;
    const uint32_t full = columns + ALL_COLUMNS;
    block_shared s = {base, boxes, full, full + STAGES * 8, nullptr};
    s.columns = (float *)(memory + (columns - (uint32_t)__cvta_generic_to_shared(memory)));
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < STAGES; i++) {
            barrier_init(s.full + 8 * i, 1);
            barrier_init(s.free + 8 * i, GROUPS * PAIR);
        }
        barrier_init_done();
    }
    __syncwarp();
    cluster_sync();
    return s;
}

#endif

/* Compilers for cards without clusters refuse the word; there the kernel is empty. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define IN_PAIRS __cluster_dims__(PAIR, 1, 1)
#else
#define IN_PAIRS
#endif

/* A block pair has two tiles below each other. Nobody leaves before both are done: the other block
 * writes into this one's memory. SIZE: of staged results' numbers, or 0: from registers. */
template <int C, bool GELU, int SIZE, typename IN>
__global__ void IN_PAIRS __launch_bounds__(THREADS, 1)
    k_int8_wgmma(const __grid_constant__ maps m, const __grid_constant__ lx_cu_int8 p,
                 const __grid_constant__ order o)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && LX2V_ARCH_MAX >= 90
    extern __shared__ unsigned char memory[];
    const block_shared s = shared_begin(memory);
    const int group = (int)threadIdx.x / 128, warp = (int)threadIdx.x / 32;
    if (group == 0) {
        registers_give<56>();
        if (warp == 0) {
            if (threadIdx.x == 0)
                fetch_tiles<SIZE != 0>(m, p, o, BN / (4 * C), s);
            __syncwarp();
        } else if constexpr (sizeof(IN) == 1) {
            codes_of_rows<4, typename sum_of<IN>::type>(
                p.codes, (int)blockIdx.x * IDLE_WARPS + warp - 1, (int)gridDim.x * IDLE_WARPS);
        }
    } else {
        registers_take<224>();
        if constexpr (SIZE != 0)
            multiply_staged<SIZE, GELU, IN>(m, p, o, group - 1, s);
        else
            multiply_tiles<C, GELU>(p, o, group - 1, s);
    }
    __syncwarp();
    cluster_sync();
#endif
}

/* --- host ------------------------------------------------------------------------------------ */

static int find_encoder(PFN_cuTensorMapEncodeTiled_v12000 *out)
{
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    CU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                            cudaEnableDefault, &found));
#else
    CU_TRY(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found));
#endif
    if (found != cudaDriverEntryPointSuccess || !entry)
        return (int)cudaErrorSymbolNotFound;
    std::memcpy(out, &entry, sizeof entry);
    return 0;
}

using encoder = PFN_cuTensorMapEncodeTiled_v12000;

/* Both matrices as the copy engine sees them, C columns a piece. */
static int describe(encoder encode, const lx_cu_int8 *p, int c, maps *out)
{
    const cuuint64_t m = (cuuint64_t)p->e.m, n = (cuuint64_t)p->e.n, k = (cuuint64_t)p->k;
    const cuuint64_t piece = (cuuint64_t)c, tiles = piece / 2; /* of eight columns, in a group */
    const cuuint64_t x_dim[2] = {k, m}, x_stride[1] = {k};
    const cuuint64_t w_dim[5] = {k, 2, 4, tiles, n / (4 * piece)};
    const cuuint64_t w_stride[4] = {k, piece * k, 2 * k, 4 * piece * k};
    const cuuint32_t x_box[2] = {BK, BM}, ones[5] = {1, 1, 1, 1, 1};
    const cuuint32_t w_box[5] = {BK, 2, 4, (cuuint32_t)tiles, (cuuint32_t)(BN / 2 / (4 * c))};
    CUresult code =
        encode(&out->x, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)(uintptr_t)p->x, x_dim, x_stride,
               x_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code == CUDA_SUCCESS)
        code =
            encode(&out->w, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, (void *)(uintptr_t)p->w, w_dim,
                   w_stride, w_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return (int)code; /* the driver's codes are the runtime's */
}

/* The output, numbers of `size` bytes. */
static int describe_out(encoder encode, const lx_cu_epilogue &e, int size, maps *out)
{
    const lx_cu_mat &y = e.out;
    const CUtensorMapDataType type = size == 4               ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                     : y.dtype == LX_CU_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    const cuuint64_t dim[2] = {(cuuint64_t)e.n, (cuuint64_t)e.m};
    const cuuint64_t stride[1] = {(cuuint64_t)(y.stride * size)};
    const cuuint32_t box[2] = {(cuuint32_t)(128 / size), BOX_ROWS}, ask[2] = {ASK_COLS, BM};
    const cuuint32_t ones[2] = {1, 1};
    CUresult code = encode(&out->out, type, 2, y.data, dim, stride, box, ones,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code == CUDA_SUCCESS)
        code = encode(&out->old, type, 2, y.data, dim, stride, ask, ones,
                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                      CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return (int)code;
}

template <int C, bool GELU, int SIZE, typename IN>
static int launch(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    maps m = {};
    encoder encode;
    CU_TRY(find_encoder(&encode));
    CU_TRY(describe(encode, p, C, &m));
    if (SIZE)
        CU_TRY(describe_out(encode, p->e, SIZE, &m));
    const order o = order_of(p, PAIR * BM, BN, 4);
    const int most = dev->n_sm / PAIR, pairs = o.n_tiles < most ? o.n_tiles : most;
    const auto kernel = k_int8_wgmma<C, GELU, SIZE, IN>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    kernel<<<pairs * PAIR, THREADS, SHARED, dev->compute>>>(m, *p, o);
    return cu_launched();
}

template <int SIZE, typename IN> static int launch_staged(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    constexpr int C = staged_piece<SIZE>;
    return p->e.activation == LX_CU_GELU ? launch<C, true, SIZE, IN>(dev, p)
                                         : launch<C, false, SIZE, IN>(dev, p);
}

/* Whether the copy engine can write the output. Of a sum that it makes nothing is known. */
static bool is_staged(const lx_cu_int8 *p, int size)
{
    const lx_cu_mat &y = p->e.out;
    return p->e.n % (128 / size) == 0 && cu_is_aligned(y.data) && y.stride * size % 16 == 0 &&
           !(p->e.add_to_out && p->most);
}

/* n: what a multiple of which the columns must be. */
static bool has_kernel(const lx_cuda_dev *dev, const lx_cu_int8 *p, int n)
{
    return dev->major == 9 && LX2V_ARCH_MAX >= 90 && std::strstr(LX_CUDA_ARCHS, "90a") &&
           p->e.n % n == 0;
}

} // namespace int8

#endif
