/*
 * int8_mma_192.cuh - mma.sync in tiles of 192 x 256: FP8's loop and ends, and what INT8's share
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
 *           writes; 64 x 64 has 128 and 48. A row's fragment comes while the row before it is
 *           multiplied; the columns' 16 registers are read anew during the last row, each when it
 *           has been used: sums, 16, and 8 are all that lasts.
 * Ring      7 planes of 32 of K, 98.4 KiB; K is fetched in steps of 64, whole sectors of 64 bytes
 *           a row, into two planes. There is one barrier a step, in the second plane's last third:
 *           then the first plane is free too, so the step after the next two may come. That is 3.5
 *           steps: from 1.5 steps on till a fetch is needed, 1 us at the H200's rate.
 * Swizzle   Unit u of row r of a plane lies at u ^ (r / 4 % 2): eight rows of one unit touch all
 *           banks once. Planes are 64 bytes further apart than they are long: a fetch writes two
 *           rows in two planes, to all banks. The weights' rows lie in the order of their columns
 *           in the products (int8_finish.cuh, pieces): column 4 C g + C t + 2 j + e at
 *           4 C g + 8 j + 2 t + e.
 * Ends      of a tile: nothing overlaps them, so loads are many: up to 8 groups of rows of the
 *           residual ahead, as sums give way to it. Where the second-level cache has room for all
 *           tiles' residual (not on 8.6: 6 and 3 MB), this loop asks it for that in the last 24
 *           steps.
 *           All blocks end together, which is hard on memory: residual and results of a wave are 32
 *           MB of a RTX 3090, 38 us beside 145 of products. So one design lets blocks of F32 begin
 *           apart, over a quarter of a tile (int8_mma_192x256.cu: or half): then they end apart.
 * Codes     of F16 rows of a band before, 128 numbers a warp and step; a load has the step to
 *           arrive. Only gelu's kernel has them; others' are made before it starts.
 * Loop      FP8's, and INT8's for F32 with gelu, which no model asks for. Else INT8 has the loop of
 *           int8_mma_192_even.cuh and, mostly, the ends of int8_mma_192_end.cuh, with the same
 *           tiles and warps; Ring, Codes, Swizzle (but for the order of columns), asking for the
 *           residual and which fragments last are not theirs.
 * Measured  what INT8 did with this loop before, on one H200, 32,760 rows: 2.00 ms (5120 ->
 *           5120, 16 bits), 2.79 (residual; apart 2.73), 6.55 (5120 -> 13824, gelu, codes), 6.27
 *           (13824 -> 5120, residual): 67, 48, 55 and 58 % of mma.sync's rate. By Nsight Compute
 *           neither the cache (63 %) nor memory was the limit: with two warps a scheduler a third
 *           of the waiting was for results of fixed delay. FP8 has not been measured on a card that
 *           has its instruction (fp8_mma_192x256.cu).
 * Registers 254 or 255; FP8's: fp8_mma_192x256.cu. INT8, F32 with gelu, by CUDA 13.0 for 8.6: none
 *           in memory, 258 instructions in the loop for 96 of mma.sync, 20 of ldmatrix and 7
 *           fetches.
 * Serves    what int8_mma.cuh serves; outputs whose rows are not aligned, and F32 of which maxima
 *           are wanted, go to it. So do INT8's operands of 4 GiB and more.
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
constexpr int HALF = 32; /* of K: bytes of a row in a plane */
constexpr int PLANE = (BM + BN) * HALF + 64, PLANES = 7, RING = PLANES * PLANE;
constexpr int SHARED = RING + 32;     /* places of a tile and of the one before */
constexpr int PASS = THREADS / UNITS; /* rows that all threads fetch at once */
constexpr int FETCHES = (BM + BN) / PASS, EARLY = 2;
constexpr int ROWS = 2 * MT; /* of a lane, 8 apart */
constexpr int ASKS = 6, ASK_EACH = 4;
static_assert(STEP == 2 * HALF && BM % PASS == 0 && BN % PASS == 0 && PASS % 32 == 0, "fetching");
static_assert(SHARED <= 99 << 10 && RING % 16 == 0, "what a block may have on an 8.6");
static_assert(ASKS * 32 == BM && BN == 8 * 32 && THREADS == 8 * 32, "asking: lines of 128 bytes");

__device__ __forceinline__ uint32_t place_in(int row, int unit)
{
    return (uint32_t)(row * HALF + (unit ^ row / 4 % 2) * 16);
}

__device__ __forceinline__ uint32_t after(uint32_t plane)
{
    return plane == RING - PLANE ? 0 : plane + PLANE;
}

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

/* Divisions want registers, so this is done between tiles; and what they give lies in shared
 * memory, behind the ring: the tile being multiplied, and the one to be fetched next. */
struct places {
    place here, next; /* next.m < 0: none */
};

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
template <int SECOND, int T, typename SUM>
__device__ __forceinline__ void multiply_row(const lx_cu_int8 &p, const places &at, source &f,
                                             fragments &w, SUM (&acc)[MT][NT][4], uint32_t now,
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

template <int SECOND, int T, typename SUM>
__device__ __forceinline__ void multiply_plane(const lx_cu_int8 &p, const places &at, source &f,
                                               fragments &w, SUM (&acc)[MT][NT][4], uint32_t now,
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

/* --- finishing ------------------------------------------------------------------------------- */

/* Where a lane's results are: ROWS rows 8 apart. */
struct corner {
    unsigned char *out, *old; /* walk; old: the residual that is asked for next */
    int rows, cols;           /* that exist from there on */
    int row, col;
    float x_scale[3]; /* of the warp's rows lane, lane + 32, lane + 64 */
};

/* Asked for anew for FP8 and by int8_mma_192_even.cuh (KEPT): then no word is kept in memory for it
 * while a tile is multiplied. */
template <typename SUM, bool KEPT> __device__ __forceinline__ int thread_of()
{
    if constexpr (coder_of<SUM>::HAS_F32 && !KEPT)
        return (int)threadIdx.x;
    else
        return thread_now();
}

template <int C>
__device__ __forceinline__ corner corner_of(const lx_cu_int8 &p, const place &t, int thread)
{
    const int lane = thread % 32, warp = thread / 32;
    const int64_t row0 = (int64_t)t.m * BM + warp / WN * WARP_M;
    corner at;
    at.row = (int)row0 + lane / 4;
    at.col = t.n * BN + warp % WN * WARP_N + lane % 4 * C;
    at.out = (unsigned char *)p.e.out.data + ((int64_t)at.row * p.e.out.stride + at.col) * (16 / C);
    at.old = at.out;
    at.rows = (int)max((int64_t)0, min((int64_t)BM, p.e.m - at.row));
    at.cols = (int)max((int64_t)0, min((int64_t)BN, p.e.n - at.col));
#pragma unroll
    for (int i = 0; i < 3; i++)
        at.x_scale[i] = x_scale_at(p.e, row0 + lane + 32 * i);
    return at;
}

/* 8 rows further, or from the last of a piece to the first of the next one; so that the compiler
 * works nothing out for rows to come: no register is left for that. */
template <int C, int R>
__device__ __forceinline__ void walk(unsigned char *&at, const lx_cu_mat &out)
{
    constexpr int SIZE = 16 / C, ROWS_ON = R + 1 < ROWS ? 8 : -8 * (ROWS - 1);
    at += (int64_t)(int)out.stride * (ROWS_ON * SIZE) + (R + 1 < ROWS ? 0 : 4 * C * SIZE);
    asm volatile("" : "+l"(at));
}

__device__ __forceinline__ void put_16(unsigned char *at, bool is_there, const uint32_t (&v)[4])
{
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.b32 is_there, %5, 0;\n"
                 "@is_there st.global.v4.b32 [%4], {%0, %1, %2, %3};\n}" ::"r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3]), "l"(at), "r"((int)is_there)
                 : "memory");
}

/* Of this lane's row R. */
template <int R> __device__ __forceinline__ float scale_of_row(const corner &at)
{
    return __shfl_sync(0xffffffffu, at.x_scale[R / 4], R % 4 * 8 + (int)threadIdx.x % 32 / 4);
}

/* Before the gate. */
template <int C, int R, int PIECE, bool GELU, typename SUM>
__device__ __forceinline__ void get_numbers(const SUM (&acc)[MT][NT][4], float x_scale,
                                            const float (&w_scale)[C], const float (&bias)[C],
                                            float (&y)[C])
{
#pragma unroll
    for (int i = 0; i < C; i++) {
        const int sum = acc[R / 2][PIECE * (C / 2) + i / 2][R % 2 * 2 + i % 2];
        y[i] = fmaf(x_scale, w_scale[i] * (float)sum, bias[i]);
    }
    if constexpr (GELU) {
#pragma unroll
        for (int i = 0; i < C; i += 2)
            gelu_two(y[i], y[i + 1]);
    }
}

/* 16 bits: pieces of eight columns. What is told of a row: its largest magnitude or its squares. */
struct eights {
    float w_scale[8], bias[8];
};

__device__ __forceinline__ void get_eights(const lx_cu_epilogue &e, int64_t col, bool is_wide,
                                           eights &c)
{
    c = {}; /* else registers would keep what they had before */
    if (col >= e.n)
        return;
    get_floats<8>(e.w_scale, col, is_wide, 1, c.w_scale);
    get_bias<8>(e.bias, col, is_wide, c.bias);
}

__device__ __forceinline__ void tell_of(const lx_cu_int8 &p, const float (&y)[8], uint32_t &tell)
{
    if (p.most) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            tell = max(tell, cu_magnitude(y[i]));
    } else if (p.squares) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            tell = __float_as_uint(fmaf(y[i], y[i], __uint_as_float(tell)));
    }
}

__device__ __forceinline__ void pack_eight(int dtype, const float (&y)[8], uint32_t (&out)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = dtype == LX_CU_BF16 ? cu_pack_bf16(y[2 * i], y[2 * i + 1])
                                     : cu_pack_f16(y[2 * i], y[2 * i + 1]);
}

template <bool GELU, int PIECE, int R, typename SUM>
__device__ __forceinline__ void finish_eights(const lx_cu_int8 &p, corner &at,
                                              const SUM (&acc)[MT][NT][4], const eights &c,
                                              uint32_t (&tell)[ROWS])
{
    float y[8];
    get_numbers<8, R, PIECE, GELU>(acc, scale_of_row<R>(at), c.w_scale, c.bias, y);
    const bool is_there = at.rows > 8 * R && at.cols > 32 * PIECE;
    if (p.e.gate && is_there) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            y[i] *= p.e.gate[at.col + 32 * PIECE + i];
    }
    if (is_there)
        tell_of(p, y, tell[R]);
    uint32_t packed[4];
    pack_eight(p.e.out.dtype, y, packed);
    put_16(at.out, is_there, packed);
    walk<8, R>(at.out, p.e.out);
    if constexpr (R + 1 < ROWS)
        finish_eights<GELU, PIECE, R + 1>(p, at, acc, c, tell);
}

/* Of rows of F16 the largest as it was rounded. */
__device__ __forceinline__ void tell_eights(const lx_cu_int8 &p, int64_t row, int part,
                                            bool is_there, uint32_t tell)
{
    if (p.most) {
        const __half most = cu_from_f32<__half>(__uint_as_float(tell));
        raise_most(p.most, row, p.e.m, __float_as_uint(__half2float(most)));
    } else if (p.squares && is_there) {
        put_square(p, part, row, __uint_as_float(tell));
    }
}

/* A tile's columns kept in shared memory (int8_mma_192_even.cuh): scales, biases, gates. */
__device__ __forceinline__ void kept_eights(const float *kept, int col, eights &c)
{
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const float4 w = *(const float4 *)(kept + col + i),
                     b = *(const float4 *)(kept + BN + col + i);
        c.w_scale[i] = w.x, c.w_scale[i + 1] = w.y, c.w_scale[i + 2] = w.z, c.w_scale[i + 3] = w.w;
        c.bias[i] = b.x, c.bias[i + 1] = b.y, c.bias[i + 2] = b.z, c.bias[i + 3] = b.w;
    }
}

__device__ __forceinline__ void kept_fours(const float *kept, int col, columns<4> &c)
{
    const float4 w = *(const float4 *)(kept + col), b = *(const float4 *)(kept + BN + col),
                 g = *(const float4 *)(kept + 2 * BN + col);
    c = {{w.x, w.y, w.z, w.w}, {b.x, b.y, b.z, b.w}, {g.x, g.y, g.z, g.w}};
}

template <bool GELU, bool KEPT, typename SUM>
__device__ __forceinline__ void finish_16_bits(const lx_cu_int8 &p, bool is_wide, const place &t,
                                               const SUM (&acc)[MT][NT][4], const float *kept)
{
    corner at = corner_of<8>(p, t, thread_of<SUM, KEPT>());
    uint32_t tell[ROWS] = {};
    eights c;
    if (KEPT)
        kept_eights(kept, at.col % BN, c);
    else
        get_eights(p.e, at.col, is_wide, c);
    finish_eights<GELU, 0, 0>(p, at, acc, c, tell);
    if (KEPT)
        kept_eights(kept, at.col % BN + 32, c);
    else
        get_eights(p.e, at.col + 32, is_wide, c);
    finish_eights<GELU, 1, 0>(p, at, acc, c, tell);
    const int part = at.col / 64; /* of this warp */
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        tell_eights(p, at.row + 8 * r, part, part * 64 < p.e.n, tell[r]);
}

/* F32: pieces of four columns, groups of two rows: six groups a piece. */
constexpr int GROUPS = 24, OF_PIECE = 6;

/* Groups whose residual has been asked for when G is finished: as many more as sums are gone. */
__host__ __device__ constexpr int asked(int g)
{
    const int most = g < 7 ? 1 + 2 * g : g + 8;
    return g < 0 ? 0 : most < GROUPS ? most : GROUPS;
}

template <int G, int I>
__device__ __forceinline__ void get_residual(const lx_cu_int8 &p, corner &at,
                                             float4 (&old)[GROUPS][2])
{
    constexpr int R = G % OF_PIECE * 2 + I, COL = G / OF_PIECE * 16;
    float4 &v = old[G][I];
    v = make_float4(-0.0f, -0.0f, -0.0f, -0.0f); /* adding it changes nothing */
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.b32 is_there, %5, 0;\n"
                 "@is_there ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
                 : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
                 : "l"(at.old), "r"((int)(p.e.add_to_out && at.rows > 8 * R && at.cols > COL)));
    walk<4, R>(at.old, p.e.out);
    if constexpr (I + 1 < 2)
        get_residual<G, I + 1>(p, at, old);
}

template <int G, int END>
__device__ __forceinline__ void get_residuals(const lx_cu_int8 &p, corner &at,
                                              float4 (&old)[GROUPS][2])
{
    if constexpr (G < END) {
        get_residual<G, 0>(p, at, old);
        get_residuals<G + 1, END>(p, at, old);
    }
}

template <bool GELU, int G, int I, typename SUM>
__device__ __forceinline__ void finish_fours(const lx_cu_int8 &p, corner &at,
                                             const SUM (&acc)[MT][NT][4], const columns<4> &c,
                                             const float4 (&old)[GROUPS][2])
{
    constexpr int R = G % OF_PIECE * 2 + I, COL = G / OF_PIECE * 16;
    float y[4];
    get_numbers<4, R, G / OF_PIECE, GELU>(acc, scale_of_row<R>(at), c.w_scale, c.bias, y);
    const bool is_there = at.rows > 8 * R && at.cols > COL;
    const float4 v = old[G][I];
    const float residual[4] = {v.x, v.y, v.z, v.w};
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        bits[i] = __float_as_uint(__fadd_rn(residual[i], __fmul_rn(y[i], c.gate[i])));
    put_16(at.out, is_there, bits);
    walk<4, R>(at.out, p.e.out);
    if constexpr (I + 1 < 2)
        finish_fours<GELU, G, I + 1>(p, at, acc, c, old);
}

template <bool GELU, bool KEPT, int G, typename SUM>
__device__ __forceinline__ void finish_groups(const lx_cu_int8 &p, bool is_wide, corner &at,
                                              const SUM (&acc)[MT][NT][4], columns<4> &c,
                                              float4 (&old)[GROUPS][2], const float *kept)
{
    if (G % OF_PIECE == 0 && KEPT) {
        kept_fours(kept, at.col % BN + G / OF_PIECE * 16, c);
    } else if (G % OF_PIECE == 0) {
        c = {};
        if (at.cols > G / OF_PIECE * 16)
            get_columns<4>(p.e, at.col + G / OF_PIECE * 16, is_wide, c);
    }
    get_residuals<asked(G - 1), asked(G)>(p, at, old);
    finish_fours<GELU, G, 0>(p, at, acc, c, old);
    if constexpr (G + 1 < GROUPS)
        finish_groups<GELU, KEPT, G + 1>(p, is_wide, at, acc, c, old, kept);
}

template <int C, bool GELU, bool KEPT = false, typename SUM>
__device__ __forceinline__ void finish_sums(const lx_cu_int8 &p, bool is_wide, const place &t,
                                            const SUM (&acc)[MT][NT][4],
                                            const float *kept = nullptr)
{
    if constexpr (C == 8) {
        finish_16_bits<GELU, KEPT>(p, is_wide, t, acc, kept);
    } else {
        corner at = corner_of<4>(p, t, thread_of<SUM, KEPT>());
        columns<4> c;
        float4 old[GROUPS][2];
        finish_groups<GELU, KEPT, 0>(p, is_wide, at, acc, c, old, kept);
    }
}

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

/* How a tile's end is eased; and what int8_mma_192_even.cuh is told. */
struct habits {
    bool is_asking;                            /* ask_residual */
    uint32_t delay;                            /* wait_for_turn */
    uint32_t units, over_units;                /* units_of_row, 2^32 / that rounded up */
    bool is_split;                             /* x or w has a multiple of 2^32 in it */
    int split_x, split_w;                      /* the step of K it is in, or one after; or NEVER */
    uint32_t over_group, over_rows, over_last; /* 2^32 / what place_of divides by, rounded up */
};

/* --- the kernel ------------------------------------------------------------------------------ */

template <int C, bool GELU, typename SUM>
__global__ void __launch_bounds__(THREADS, 1) k_int8_tall(lx_cu_int8 p, order o, habits h)
{
    if constexpr (!has_mma<SUM>)
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
        SUM acc[MT][NT][4] = {};
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
                recode_put<SUM>(p.codes, r);
        }
        finish_sums<C, GELU>(p, o.is_wide, at.here, acc);
    }
    fetch_wait<0>();
    if (HAS_CODES)
        recode_end<SUM>(p.codes, r);
}

/* A block for each multiprocessor that has a tile; each takes `shared` bytes. */
static int launch_blocks(lx_cuda_dev *dev, void (*kernel)(lx_cu_int8, order, habits), int shared,
                         const lx_cu_int8 *p, const order &o, const habits &h)
{
    const int blocks = o.n_tiles < dev->n_sm ? o.n_tiles : dev->n_sm;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    kernel<<<blocks, THREADS, (size_t)shared, dev->compute>>>(*p, o, h);
    return cu_launched();
}

template <int C, bool GELU, typename SUM>
static int launch(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o, const habits &h)
{
    return launch_blocks(dev, k_int8_tall<C, GELU, SUM>, SHARED, p, o, h);
}

/* Tiles below each other, so that those which run together read the fewest rows in all. */
static int group_of(int n_sm)
{
    int group = 1;
    while ((group + 1) * (group + 1) * BM <= n_sm * BN)
        group++;
    return group;
}

/* Blocks spread over a quarter of a tile, by clocks of its products, where most have four tiles or
 * more: that costs the quarter once. */
static habits find_habits(const lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o)
{
    habits h = {};
    if (p->design == LX_CU_MMA_192x256_APART && o.n_tiles >= 4 * dev->n_sm) {
        const int64_t products = BM / 16 * (BN / 8) * cu_ceil_div<int64_t>(p->k, 32);
        const int halves = dev->major == 9 ? 3 : dev->major == 8 && dev->minor == 0 ? 4 : 8;
        h.delay = (uint32_t)(products * halves * (p->is_fp8 ? 2 : 1) / 2 / 4);
    }
    return h;
}

/* This loop's residual is asked for where all tiles' at once take less than 2/3 of the second-level
 * cache. */
static int find_asking(const lx_cuda_dev *dev, const lx_cu_int8 *p, habits *h)
{
    int bytes = 0;
    if (!p->e.add_to_out)
        return 0;
    CU_TRY(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, dev->index));
    h->is_asking = (int64_t)dev->n_sm * BM * BN * (int)sizeof(float) * 3 < (int64_t)bytes * 2;
    return 0;
}

/* What a call with these outputs takes; out is wide, and F32 only without maxima. */
template <typename SUM> static int run(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o)
{
    const bool is_gelu = p->e.activation == LX_CU_GELU;
    habits h = find_habits(dev, p, o);
    CU_TRY(find_asking(dev, p, &h));
    if (p->e.out.dtype == LX_CU_F32)
        return is_gelu ? launch<4, true, SUM>(dev, p, o, h) : launch<4, false, SUM>(dev, p, o, h);
    return is_gelu ? launch<8, true, SUM>(dev, p, o, h) : launch<8, false, SUM>(dev, p, o, h);
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

} // namespace tall
} // namespace int8

#endif
