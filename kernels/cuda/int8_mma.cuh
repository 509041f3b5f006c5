/*
 * int8_mma.cuh - INT8 linears by mma.sync: 8.0 and later
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_linear.h's; sums in s32 are exact, so their order is no question.
 * Floors    5120 -> 5120, 32,760 rows: 1.72 T operations; 194 MB of operands and 335 MB of BF16
 *           results. 5120 -> 13824: 4.64 T; 0.24 GB in, 1.81 GB of F32 written and read, 0.45 GB of
 *           codes. 13824 -> 5120: 4.64 T; 0.52 GB in, 1.34 GB of residual. Every wave of blocks
 *           also reads its operands anew: with 28 multiprocessors 9.8 MB a wave of 92 us.
 *                      arithmetic          memory                      so
 *           RTX 3060   16.8 / 45 / 45 ms   5 / 20 / 16 ms (360 GB/s)   arithmetic, bytes under it
 *           RTX 3090   6.0 / 16 / 16 ms    2 / 8 / 6 ms (936 GB/s)     the same
 *           one H100   1.4 / 3.8 / 3.8 ms  0.3 / 1.4 / 0.7 ms          mma.sync: 62 % of the sheet
 * Cache     A tile of R x C reads (R + C) K bytes for 2 R C K operations. At 1,040 T operations/s a
 *           whole H100 asks its second-level cache for 6.1 TB/s with 128 x 256, 8.1 with 128 x 128,
 *           a 3060 for 0.5.
 * Shared    of 32 columns of K a warp reads 4 KB for its 32 instructions, and a tile is written
 *           once: 176 bytes an instruction with 128 x 256 (192 with 128 x 128). At 128
 *           bytes a clock that is 1.4 clocks; an instruction takes 4 clocks of an 8.6, 2 of an
 *           8.0, 1.6 of a 9.0.
 * Tiles     A warp has 64 x 64 outputs: 4 x 8 tiles of m16n8k32, 128 registers. K in steps of 64
 *           bytes through a ring of stages filled by cp.async; rows of 64 bytes in units of 16.
 *           128 x 256: 8 warps, 4 stages, 96 KiB, one block.
 *           128 x 128: 4 warps, 3 stages, 48 KiB, two blocks: one finishes, the other multiplies.
 *           A ninth warp for other work would cost as much as a twelfth: registers are dealt out to
 *           four quarters of a multiprocessor. So codes of the rows before are made by all, 128
 *           numbers a warp and step.
 *           Blocks stay and walk over tiles; the next tile's first stages come while one is
 *           finished.
 * Swizzle   Unit u of row r of x lies at u ^ (r / 2 % 4): eight rows of one unit, and two whole
 *           rows, touch all banks once. Of the weights eight rows of one matrix are not neighbours
 *           (int8_finish.cuh, pieces) but 2 i + {0, 1} with i = r / C % 4: they lie at u ^ i.
 */
#ifndef INT8_MMA_CUH
#define INT8_MMA_CUH

#include "int8_finish.cuh"

namespace int8
{

constexpr int STEP = 64, UNITS = STEP / 16; /* of K, bytes; of a row in shared memory */

/* WM x WN warps; BLOCKS on a multiprocessor. */
template <int WM_, int WN_, int STAGES_, int BLOCKS_> struct shape {
    static constexpr int WM = WM_, WN = WN_, STAGES = STAGES_, BLOCKS = BLOCKS_;
    static constexpr int BM = 64 * WM, BN = 64 * WN, WARPS = WM * WN, THREADS = 32 * WARPS;
    static constexpr int STAGE = (BM + BN) * STEP, SHARED = STAGES * STAGE;
    static constexpr int PASS = THREADS / UNITS; /* rows that all threads fetch at once */
    static constexpr int FETCHES = (BM + BN) / PASS;
    static_assert(STAGES >= 3 && BM % PASS == 0 && BN % PASS == 0 && PASS % 32 == 0,
                  "int8_mma.cuh: fetching");
    static_assert(SHARED <= 99 << 10, "what a block may have on an 8.6");
};

__device__ __forceinline__ void fetch16(uint32_t dst, const void *src, bool is_there)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void fetch_close()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ __forceinline__ void fetch_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void mma(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* --- fetching -------------------------------------------------------------------------------- */

/* Where the fetching of this block has come to: ahead of its products, also across tiles. Rows
 * beyond the matrices are the last ones again (their outputs are not stored); beyond K is zero. */
struct fetcher {
    const int8_t *x, *w;    /* of the tile's first row, this thread's unit */
    int last_x, last_w;     /* the last row that exists, from there */
    int k0, tile;           /* the step that comes next */
    uint32_t at_x, at_w;    /* of this thread's first row in a stage */
    uint32_t stage, unit16; /* being filled: bytes; this thread's unit: bytes */
};

template <typename S>
__device__ __forceinline__ void fetch_tile(const lx_cu_int8 &p, const order &o, fetcher &f)
{
    if (f.tile >= o.n_tiles)
        return;
    const place t = tile_at(o, f.tile);
    f.x = p.x + (int64_t)t.m * S::BM * p.k + f.unit16;
    f.w = p.w + (int64_t)t.n * S::BN * p.k + f.unit16;
    f.last_x = (int)min((int64_t)S::BM, p.e.m - (int64_t)t.m * S::BM) - 1;
    f.last_w = (int)min((int64_t)S::BN, p.e.n - (int64_t)t.n * S::BN) - 1;
    f.k0 = 0;
}

template <typename S, int C>
__device__ __forceinline__ fetcher fetch_begin(const lx_cu_int8 &p, const order &o, uint32_t shared)
{
    const int row = (int)threadIdx.x / UNITS, unit = (int)threadIdx.x % UNITS;
    fetcher f = {};
    f.unit16 = 16u * (uint32_t)unit;
    f.at_x = shared + (uint32_t)(row * STEP + ((unit ^ (row / 2 % 4)) * 16));
    f.at_w = shared + (uint32_t)(row * STEP + ((unit ^ (row / C % 4)) * 16));
    f.tile = (int)blockIdx.x;
    fetch_tile<S>(p, o, f);
    return f;
}

/* One of FETCHES: 16 bytes of every thread. */
template <typename S, int I>
__device__ __forceinline__ void fetch_one(const lx_cu_int8 &p, const fetcher &f)
{
    constexpr int FIRST = I * S::PASS;
    constexpr bool IS_X = FIRST < S::BM;
    const int k = (int)p.k;
    const int row = (IS_X ? FIRST : FIRST - S::BM) + (int)threadIdx.x / UNITS;
    const int from = min(row, IS_X ? f.last_x : f.last_w) * k + f.k0;
    fetch16((IS_X ? f.at_x : f.at_w) + f.stage + (uint32_t)(FIRST * STEP),
            (IS_X ? f.x : f.w) + from, f.k0 + (int)f.unit16 < k);
}

/* Those of one of PARTS parts of a step. */
template <typename S, int I, int END>
__device__ __forceinline__ void fetch_some(const lx_cu_int8 &p, const fetcher &f)
{
    if constexpr (I < END) {
        fetch_one<S, I>(p, f);
        fetch_some<S, I + 1, END>(p, f);
    }
}

template <typename S, int PART, int PARTS>
__device__ __forceinline__ void fetch_part(const lx_cu_int8 &p, const order &o, const fetcher &f)
{
    if (f.tile < o.n_tiles)
        fetch_some<S, S::FETCHES * PART / PARTS, S::FETCHES *(PART + 1) / PARTS>(p, f);
}

/* The step is under way: on to the next, of this tile or of this block's next one. An empty group
 * after the last step keeps the count. */
template <typename S>
__device__ __forceinline__ void fetch_next(const lx_cu_int8 &p, const order &o, fetcher &f)
{
    fetch_close();
    f.stage = f.stage + S::STAGE == S::SHARED ? 0 : f.stage + S::STAGE;
    f.k0 += STEP;
    if (f.k0 >= (int)p.k) {
        f.tile += (int)gridDim.x;
        fetch_tile<S>(p, o, f);
    }
}

/* --- multiplying ----------------------------------------------------------------------------- */

/* A warp's fragments and where it reads them in stage 0. */
template <typename S> struct warp_state {
    uint32_t a[2][4][4], b[2][4];
    uint32_t at_a, at_b; /* of K's first half; the second is at ^ 32 */
};

template <typename S, int C>
__device__ __forceinline__ void find_fragments(warp_state<S> &w, uint32_t shared)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int row_a = warp / S::WN * 64 + lane % 16, unit_a = lane / 16;
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    const int q = lane / 8, i = lane % 8 / 2;
    const int row_b = warp % S::WN * 64 + C * i + lane % 2 + 2 * (q / 2), unit_b = q % 2;
    w.at_a = shared + (uint32_t)(row_a * STEP + ((unit_a ^ (row_a / 2 % 4)) * 16));
    w.at_b = shared + (uint32_t)((S::BM + row_b) * STEP + ((unit_b ^ i) * 16));
}

template <int HALF, int MT, typename S>
__device__ __forceinline__ void read_a(warp_state<S> &w, uint32_t stage)
{
    ldmatrix(w.a[HALF][MT], ((w.at_a + stage) ^ (HALF * 32)) + MT * 16 * STEP);
}

/* Tiles 2 J and 2 J + 1 of eight columns. */
template <int HALF, int J, int C, typename S>
__device__ __forceinline__ void read_b(warp_state<S> &w, uint32_t stage)
{
    constexpr int ROW = C == 8 ? J / 2 * 32 + J % 2 * 4 : J * 16;
    ldmatrix(w.b[J % 2], ((w.at_b + stage) ^ (HALF * 32)) + ROW * STEP);
}

/* An eighth of a step: 16 columns and half of K, 8 instructions; beside them the reading of what
 * the next eighth needs, and in the second half the fetching of a later step. */
template <typename S, int C, int PART>
__device__ __forceinline__ void eighth(const lx_cu_int8 &p, const order &o, fetcher &f,
                                       warp_state<S> &w, int (&acc)[4][8][4], uint32_t now,
                                       uint32_t next)
{
    constexpr int HALF = PART / 4, J = PART % 4, THEN = (PART + 1) % 8;
    if (PART == 4) {
        /* The next step has landed, for everyone; nobody still reads the one before this. */
        fetch_wait<S::STAGES - 3>();
        __syncthreads();
    }
    read_b<THEN / 4, THEN % 4, C>(w, PART == 7 ? next : now);
    read_a<1 - HALF, J>(w, HALF ? next : now);
    if (PART >= 4)
        fetch_part<S, PART % 4, 4>(p, o, f);
#pragma unroll
    for (int mt = 0; mt < 4; mt++) {
        mma(acc[mt][2 * J], w.a[HALF][mt], w.b[J % 2][0], w.b[J % 2][1]);
        mma(acc[mt][2 * J + 1], w.a[HALF][mt], w.b[J % 2][2], w.b[J % 2][3]);
    }
    if (PART == 7)
        fetch_next<S>(p, o, f);
}

template <typename S, int C>
__device__ __forceinline__ void step(const lx_cu_int8 &p, const order &o, fetcher &f,
                                     warp_state<S> &w, int (&acc)[4][8][4], uint32_t &now)
{
    const uint32_t next = now + S::STAGE == S::SHARED ? 0 : now + S::STAGE;
    eighth<S, C, 0>(p, o, f, w, acc, now, next);
    eighth<S, C, 1>(p, o, f, w, acc, now, next);
    eighth<S, C, 2>(p, o, f, w, acc, now, next);
    eighth<S, C, 3>(p, o, f, w, acc, now, next);
    eighth<S, C, 4>(p, o, f, w, acc, now, next);
    eighth<S, C, 5>(p, o, f, w, acc, now, next);
    eighth<S, C, 6>(p, o, f, w, acc, now, next);
    eighth<S, C, 7>(p, o, f, w, acc, now, next);
    now = next;
}

/* --- finishing ------------------------------------------------------------------------------- */

/* Two tiles of 16 rows: four rows of this lane. */
template <int C, bool GELU>
__device__ __forceinline__ void
finish_rows(const lx_cu_int8 &p, bool is_wide, const int (&acc)[4][8][4], int mt0, int piece,
            int64_t row0, int64_t col, const columns<C> &c, told<C> (&tell)[8])
{
    float old[4][C];
#pragma unroll
    for (int i = 0; i < 4; i++)
        get_old<C>(p.e, row0 + 16 * (mt0 + i / 2) + 8 * (i % 2), col, is_wide, old[i]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int mt = mt0 + i / 2, half = i % 2;
        const int64_t row = row0 + 16 * mt + 8 * half;
        int sums[C];
#pragma unroll
        for (int j = 0; j < C; j++)
            sums[j] = acc[mt][piece * (C / 2) + j / 2][2 * half + j % 2];
        finish<C, GELU>(p.e, row, col, is_wide, x_scale_at(p.e, row), sums, c, old[i],
                        tell[2 * mt + half]);
    }
}

template <typename S, int C, bool GELU>
__device__ __forceinline__ void finish_tile(const lx_cu_int8 &p, const order &o, int tile,
                                            const int (&acc)[4][8][4])
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const place t = tile_at(o, tile);
    const int64_t row0 = (int64_t)t.m * S::BM + warp / S::WN * 64 + lane / 4;
    const int64_t col0 = (int64_t)t.n * S::BN + warp % S::WN * 64 + lane % 4 * C;
    told<C> tell[8] = {};
#pragma unroll
    for (int piece = 0; piece < 16 / C; piece++) {
        const int64_t col = col0 + piece * 4 * C;
        columns<C> c;
        if (col < p.e.n)
            get_columns<C>(p.e, col, o.is_wide, c);
        finish_rows<C, GELU>(p, o.is_wide, acc, 0, piece, row0, col, c, tell);
        finish_rows<C, GELU>(p, o.is_wide, acc, 2, piece, row0, col, c, tell);
    }
    const int64_t part = col0 / 64; /* of this warp */
#pragma unroll
    for (int i = 0; i < 8; i++)
        tell_row<C>(p, (int)part, part * 64 < p.e.n, row0 + 16 * (i / 2) + 8 * (i % 2), tell[i]);
}

/* Codes are made of F32, so calls that write F32 may have some to make. */
template <int C> constexpr bool has_codes = C == 4;

/* --- the kernel ------------------------------------------------------------------------------ */

template <typename S, int C>
__device__ __forceinline__ void begin(const lx_cu_int8 &p, const order &o, fetcher &f,
                                      warp_state<S> &w)
{
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; i++) {
        fetch_part<S, 0, 1>(p, o, f);
        fetch_next<S>(p, o, f);
    }
    fetch_wait<S::STAGES - 2>();
    __syncthreads();
    read_b<0, 0, C>(w, 0);
    read_a<0, 0>(w, 0);
    read_a<0, 1>(w, 0);
    read_a<0, 2>(w, 0);
    read_a<0, 3>(w, 0);
}

template <typename S, int C, bool GELU>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) k_int8_mma(lx_cu_int8 p, order o)
{
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    fetcher f = fetch_begin<S, C>(p, o, shared);
    warp_state<S> w;
    uint32_t now = 0;
    const int warps = (int)gridDim.x * S::WARPS,
              warp = (int)(blockIdx.x * S::WARPS + threadIdx.x / 32);
    coding k;
    if (has_codes<C>)
        k = coding_begin(p.codes, warp, warps);
    find_fragments<S, C>(w, shared);
    begin<S, C>(p, o, f, w);
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        int acc[4][8][4] = {};
#pragma unroll 1
        for (int k0 = 0; k0 < (int)p.k; k0 += STEP) {
            if (has_codes<C>)
                coding_step(p.codes, k);
            step<S, C>(p, o, f, w, acc, now);
        }
        finish_tile<S, C, GELU>(p, o, tile, acc);
    }
    fetch_wait<0>();
    while (has_codes<C> && k.row < p.codes.rows)
        coding_step(p.codes, k);
}

template <typename S, int C, bool GELU>
static int launch(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o)
{
    const int most = dev->n_sm * S::BLOCKS, blocks = o.n_tiles < most ? o.n_tiles : most;
    const auto kernel = k_int8_mma<S, C, GELU>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED));
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    kernel<<<blocks, S::THREADS, S::SHARED, dev->compute>>>(*p, o);
    return cu_launched();
}

template <typename S> static int run(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    const order o = order_of(p, S::BM, S::BN, 1024 / S::BM);
    const bool is_f32 = p->e.out.dtype == LX_CU_F32, is_gelu = p->e.activation == LX_CU_GELU;
    if (!is_f32)
        CU_TRY(cu_codes(dev, &p->codes));
    if (is_f32)
        return is_gelu ? launch<S, 4, true>(dev, p, o) : launch<S, 4, false>(dev, p, o);
    return is_gelu ? launch<S, 8, true>(dev, p, o) : launch<S, 8, false>(dev, p, o);
}

} // namespace int8

#endif
