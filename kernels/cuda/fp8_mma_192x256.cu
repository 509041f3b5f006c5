/*
 * fp8_mma_192x256.cu - FP8 linears by mma.sync with E4M3 in tiles of 192 x 256: 8.9 and later
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rate      of m16n8k32 with E4M3 and F32 sums on 8.9 and 12.0 GeForce: half of INT8's, 8 clocks
 *           of a multiprocessor, so shared memory (432 of 3,072 clocks for 32 of K of a tile) and
 *           the second-level cache are asked for half as much. F16 sums would run at INT8's rate;
 *           they overflow at 65,504, which 146 products of 448 make: left out.
 *           9.0 has no such instruction: there two of F16 do it, with 12 conversions, at less than
 *           F16's rate (62 % of the sheet's 989 T/s). That is to test it, not to use it.
 * Sums      on 8.9 as in fp8_wgmma.cu: 14 bits. On 9.0 they are F32's of F16 products.
 * Tiles     and warps are int8_mma_192.cuh's. A row's fragment comes while the row before it is
 *           multiplied; the columns' 16 registers are read anew during the last row, each when it
 *           has been used: sums, 16, and 8 are all that lasts.
 * Ring      7 planes of 32 of K, 98.4 KiB; K is fetched in steps of 64, whole sectors of 64 bytes
 *           a row, into two planes. There is one barrier a step, in the second plane's last third:
 *           then the first plane is free too, so the step after the next two may come. That is 3.5
 *           steps: from 1.5 steps on till a fetch is needed, 1 us at the H200's rate of INT8.
 * Swizzle   Unit u of row r of a plane lies at u ^ (r / 4 % 2): eight rows of one unit touch all
 *           banks once. Planes are 64 bytes further apart than they are long: a fetch writes two
 *           rows in two planes, to all banks. The weights' rows lie in the order of their columns
 *           in the products (int8_finish.cuh, pieces): column 4 C g + C t + 2 j + e at
 *           4 C g + 8 j + 2 t + e.
 * Ends      int8_mma_192_finish.cuh. Where the second-level cache has room for all tiles' residual
 *           (not on 8.6: 6 and 3 MB), the loop asks it for that in the last 24 steps.
 * Codes     A load has a step to arrive.
 * Measured  not on a card that has the instruction. INT8 with this loop, one H200, 32,760 rows: 48
 *           to 67 % of mma.sync's rate; int8_mma_192_even.cuh took its place there.
 * Registers 254 or 255 by CUDA 13.0 for 8.9 and 12.0, none of the model's kernels keeps a word in
 *           memory (F32 with gelu 6); 98.5 KiB of shared memory, one block a multiprocessor. For
 *           9.0 the conversions' registers do not fit: 40 to 50 words in the loop.
 * Serves    outputs with rows of 16 bytes, a stride that is a multiple of 8; F32 without maxima.
 */
#include "int8_mma_192_finish.cuh"

namespace int8
{
namespace fp8
{

using namespace tall;

constexpr int HALF = 32; /* of K: bytes of a row in a plane */
constexpr int PLANE = (BM + BN) * HALF + 64, PLANES = 7, RING = PLANES * PLANE;
constexpr int SHARED = RING + 32; /* places of a tile and of the one before */
constexpr int EARLY = 2;          /* fetches before a step's first products */
constexpr int ASKS = 6, ASK_EACH = 4;
static_assert(STEP == 2 * HALF, "fetching: two planes");
static_assert(SHARED <= 99 << 10 && RING % 16 == 0, "what a block may have on an 8.9");
static_assert(ASKS * 32 == BM && BN == 8 * 32 && THREADS == 8 * 32, "asking: lines of 128 bytes");

__device__ __forceinline__ uint32_t place_in(int row, int unit)
{
    return (uint32_t)(row * HALF + (unit ^ row / 4 % 2) * 16);
}

__device__ __forceinline__ uint32_t after(uint32_t plane)
{
    return plane == RING - PLANE ? 0 : plane + PLANE;
}

/* Divisions want registers, so this is done between tiles; and what they give lies in shared
 * memory, behind the ring: the tile being multiplied, and the one to be fetched next. */
struct places {
    place here, next; /* next.m < 0: none */
};

/* --- fetching -------------------------------------------------------------------------------- */

/* As int8_mma.cuh's: ahead of the products, also across tiles. What lies beyond the matrices, or
 * beyond the last tile, is fetched as zeros. Few registers: what could be worked out once for each
 * fetch is worked out each time. */
struct source {
    const int8_t *x, *w; /* of this thread's next row, unit and step */
    int rows_x, rows_w;  /* that exist from this thread's first row on, in this step */
    int k0;              /* the step that comes next */
    uint32_t at_x, at_w; /* of this thread's first row in plane 0 */
    uint32_t plane;      /* being filled by this thread: bytes */
};

__device__ __forceinline__ void source_tile(const lx_cu_int8 &p, const place &next, source &f)
{
    const int thread = (int)threadIdx.x, row = thread / UNITS, unit16 = thread % UNITS * 16;
    f.k0 = 0;
    f.rows_x = f.rows_w = 0;
    if (next.m < 0)
        return;
    const int64_t m = (int64_t)next.m * BM + row, n = (int64_t)next.n * BN + row;
    f.x = p.x + m * p.k + unit16;
    f.w = p.w + n * p.k + unit16;
    if (unit16 < (int)p.k) {
        f.rows_x = (int)min((int64_t)BM, p.e.m - m);
        f.rows_w = (int)min((int64_t)BN, p.e.n - n);
    }
}

template <int C> __device__ __forceinline__ void source_places(source &f, uint32_t shared)
{
    const int thread = thread_now(), row = thread / UNITS, unit = thread % UNITS;
    const int in = row % (4 * C), col = row - in + in % C / 2 * 8 + in / C * 2 + in % 2;
    f.at_x = shared + place_in(row, unit % 2);
    f.at_w = shared + place_in(BM + col, unit % 2);
}

template <int C>
__device__ __forceinline__ source source_begin(const lx_cu_int8 &p, const order &o, uint32_t shared)
{
    source f = {};
    source_places<C>(f, shared);
    f.plane = (int)threadIdx.x % UNITS / 2 ? PLANE : 0;
    source_tile(p, place_or_none(o, (int)blockIdx.x), f);
    return f;
}

/* 16 bytes of every thread. */
template <int I> __device__ __forceinline__ void fetch(const lx_cu_int8 &p, source &f)
{
    constexpr bool IS_X = I * PASS < BM;
    constexpr int ROW = IS_X ? I * PASS : I * PASS - BM;
    const int8_t *&from = IS_X ? f.x : f.w;
    if (ROW)
        from += (int64_t)PASS * (int)p.k;
    asm volatile("" : "+r"(f.plane), "+l"(from)); /* here and not before */
    fetch16((IS_X ? f.at_x : f.at_w) + f.plane + (uint32_t)(ROW * HALF), from,
            (IS_X ? f.rows_x : f.rows_w) > ROW);
}

template <int I, int END> __device__ __forceinline__ void fetch_from(const lx_cu_int8 &p, source &f)
{
    if constexpr (I < END) {
        fetch<I>(p, f);
        fetch_from<I + 1, END>(p, f);
    }
}

__device__ __forceinline__ void source_next(const lx_cu_int8 &p, const place &next, source &f)
{
    fetch_close();
    f.plane += 2 * PLANE;
    f.plane -= f.plane >= RING ? RING : 0;
    f.k0 += STEP;
    f.x += STEP - (int64_t)(BM - PASS) * (int)p.k;
    f.w += STEP - (int64_t)(BN - PASS) * (int)p.k;
    if (f.k0 + (int)threadIdx.x % UNITS * 16 >= (int)p.k)
        f.rows_x = f.rows_w = 0;
    if (f.k0 >= (int)p.k)
        source_tile(p, next, f);
}

/* --- multiplying ----------------------------------------------------------------------------- */

/* Whether what is compiled for has the instruction, and may use it. */
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890) || LX2V_ARCH_MAX < 89
constexpr bool HAS_MMA = false;
#else
constexpr bool HAS_MMA = true;
#endif

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

struct fragments {
    uint32_t a[2][4], b[NT / 2][4]; /* a row's tile and the next; pairs of columns' tiles */
    uint32_t at_a, at_b;            /* where this lane reads them in plane 0 */
};

__device__ __forceinline__ void find(fragments &w, uint32_t shared)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    w.at_a = shared + place_in(warp / WN * WARP_M + lane % 16, lane / 16);
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    w.at_b = shared + place_in(BM + warp % WN * WARP_N + lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

__device__ __forceinline__ void get_a(fragments &w, int mt, uint32_t plane)
{
    ldmatrix(w.a[mt % 2], w.at_a + plane + (uint32_t)(mt * 16 * HALF));
}

__device__ __forceinline__ void get_b(fragments &w, int pair, uint32_t plane)
{
    ldmatrix(w.b[pair], w.at_b + plane + (uint32_t)(pair * 16 * HALF));
}

/* What the first products of a plane need. */
__device__ __forceinline__ void get_first(fragments &w, uint32_t plane)
{
    get_a(w, 0, plane);
#pragma unroll
    for (int pair = 0; pair < NT / 2; pair++)
        get_b(w, pair, plane);
}

/* A row of tiles: 8 instructions. Fetches of the step after the next two begin behind the barrier
 * and end in the next step's first plane. */
template <int SECOND, int T>
__device__ __forceinline__ void multiply_row(const lx_cu_int8 &p, const places &at, source &f,
                                             fragments &w, float (&acc)[MT][NT][4], uint32_t now,
                                             uint32_t next)
{
    constexpr int FIRST_LATE = MT - EARLY;
    if (SECOND && T == FIRST_LATE) {
        /* The next step has landed, for everyone; nobody reads the planes before this. */
        fetch_wait<1>();
        __syncthreads();
    }
    if constexpr (T + 1 < MT)
        get_a(w, T + 1, now);
    else
        get_a(w, 0, next);
    if constexpr (SECOND != 0 && T >= FIRST_LATE)
        fetch<T - FIRST_LATE>(p, f);
    if constexpr (SECOND == 0 && T + EARLY < FETCHES)
        fetch<T + EARLY>(p, f);
#pragma unroll
    for (int pair = 0; pair < NT / 2; pair++) {
        mma(acc[T][2 * pair], w.a[T % 2], w.b[pair][0], w.b[pair][1]);
        mma(acc[T][2 * pair + 1], w.a[T % 2], w.b[pair][2], w.b[pair][3]);
        if (T + 1 == MT)
            get_b(w, pair, next);
    }
    if (SECOND == 0 && T + 1 == MT)
        source_next(p, at.next, f);
}

template <int SECOND, int T>
__device__ __forceinline__ void multiply_plane(const lx_cu_int8 &p, const places &at, source &f,
                                               fragments &w, float (&acc)[MT][NT][4], uint32_t now,
                                               uint32_t next)
{
    multiply_row<SECOND, T>(p, at, f, w, acc, now, next);
    if constexpr (T + 1 < MT)
        multiply_plane<SECOND, T + 1>(p, at, f, w, acc, now, next);
}

/* How many tiles after the one that begins now comes the one after that being fetched. */
__device__ __forceinline__ int tiles_ahead(const lx_cu_int8 &p)
{
    return p.k > 2 * STEP ? 1 : p.k > STEP ? 2 : 3;
}

/* The first two steps and what of the third comes before the first products. */
__device__ __forceinline__ void begin(const lx_cu_int8 &p, const order &o, source &f)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int tiles = tiles_ahead(p) == 3 ? i + 1 : 1;
        fetch_from<0, FETCHES>(p, f);
        source_next(p, place_or_none(o, (int)blockIdx.x + tiles * (int)gridDim.x), f);
    }
    fetch_from<0, EARLY>(p, f);
    fetch_wait<1>();
    __syncthreads();
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* How a tile's end is eased. */
struct habits {
    bool is_asking; /* ask_residual */
    uint32_t delay; /* wait_for_turn */
};

/* One line of the tile's residual each thread, every fourth of the last steps. */
__device__ __forceinline__ void ask_residual(const lx_cu_epilogue &e, const place &t, int left,
                                             int thread)
{
    if (left % ASK_EACH || left > ASKS * ASK_EACH)
        return;
    const int64_t row = (int64_t)t.m * BM + (ASKS - left / ASK_EACH) * 32 + thread / 8;
    const int64_t col = (int64_t)t.n * BN + thread % 8 * 32;
    if (row < e.m && col < e.n)
        asm volatile(
            "prefetch.global.L2 [%0];" ::"l"((const float *)e.out.data + row * e.out.stride + col));
}

template <int C, bool GELU>
__global__ void __launch_bounds__(THREADS, 1) k_fp8_192(lx_cu_int8 p, order o, habits h)
{
    if constexpr (!HAS_MMA)
        return;
    constexpr bool HAS_CODES = C == 8 && GELU;
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    places *const both = (places *)(ring + RING);
    int turn = 0;
    source f = source_begin<C>(p, o, shared);
    fragments w;
    recoding r = {};
    uint32_t now = 0;
    r.unit = blockIdx.x * WARPS + threadIdx.x / 32;
    begin(p, o, f);
    if (C == 4 && h.delay)
        wait_for_turn(h.delay);
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        places &at = both[turn]; /* the other one may still be read */
        turn ^= 1;
        if (threadIdx.x == 0) {
            at.here = tile_at(o, tile);
            at.next = place_or_none(o, tile + tiles_ahead(p) * (int)gridDim.x);
        }
        __syncthreads();
        float acc[MT][NT][4] = {};
        source_places<C>(f, shared);
        find(w, shared);
        get_first(w, now); /* again: registers are needed for what was between */
#pragma unroll 1
        for (int left = ((int)p.k + STEP - 1) / STEP; left > 0; left--) {
            const uint32_t second = after(now), next = after(second);
            if (HAS_CODES)
                recode_ask(p.codes, r);
            if (C == 4 && h.is_asking)
                ask_residual(p.e, at.here, left, (int)threadIdx.x);
            multiply_plane<0, 0>(p, at, f, w, acc, now, second);
            multiply_plane<1, 0>(p, at, f, w, acc, second, next);
            now = next;
            if (HAS_CODES)
                recode_put<float>(p.codes, r);
        }
        finish_sums<C, GELU>(p, o.is_wide, at.here, acc);
    }
    fetch_wait<0>();
    if (HAS_CODES)
        recode_end<float>(p.codes, r);
}

/* --- launching ------------------------------------------------------------------------------- */

template <int C, bool GELU>
static int launch(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o, const habits &h)
{
    return launch_blocks(dev, k_fp8_192<C, GELU>, SHARED, p, o, h);
}

/* The residual is asked for where all tiles' at once take less than 2/3 of the second-level
 * cache. */
static int find_asking(const lx_cuda_dev *dev, const lx_cu_int8 *p, bool *is_asking)
{
    int bytes = 0;
    if (!p->e.add_to_out)
        return 0;
    CU_TRY(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, dev->index));
    *is_asking = (int64_t)dev->n_sm * BM * BN * (int)sizeof(float) * 3 < (int64_t)bytes * 2;
    return 0;
}

/* What a call with these outputs takes; out is wide, and F32 only without maxima. */
static int run(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o)
{
    const bool is_gelu = p->e.activation == LX_CU_GELU;
    habits h = {false, find_delay(dev, p, o)};
    CU_TRY(find_asking(dev, p, &h.is_asking));
    if (p->e.out.dtype == LX_CU_F32)
        return is_gelu ? launch<4, true>(dev, p, o, h) : launch<4, false>(dev, p, o, h);
    return is_gelu ? launch<8, true>(dev, p, o, h) : launch<8, false>(dev, p, o, h);
}

} // namespace fp8
} // namespace int8

/* A card of 8.9 also runs what was built for 8.6: an empty kernel. */
static int built_for(int *capability)
{
    cudaFuncAttributes a;
    CU_TRY(cudaFuncGetAttributes(&a, int8::fp8::k_fp8_192<8, false>));
    *capability = a.binaryVersion;
    return 0;
}

int cu_fp8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const order o = order_of(p, tall::BM, tall::BN, tall::group_of(dev->n_sm));
    lx_cu_int8 call;
    int capability;
    CU_TRY(built_for(&capability));
    if (capability < 89 || LX2V_ARCH_MAX < 89)
        return (int)cudaErrorInvalidConfiguration;
    if (!tall::has_wide_out(p) || (p->most && (p->squares || p->e.out.dtype == LX_CU_F32)))
        return (int)cudaErrorInvalidValue;
    CU_TRY(tall::codes_before(dev, p, &call));
    return fp8::run(dev, &call, o);
}
