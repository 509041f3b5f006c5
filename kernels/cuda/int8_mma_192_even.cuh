/*
 * int8_mma_192_even.cuh - INT8 linears by mma.sync in tiles of 192 x 256: the loop and the kernel
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       Tiles and warps are int8_mma_192.cuh's. Its loop took about 1,565 clocks of one H200
 *           for 64 of K, where mma.sync takes 1,152: 96 of each of a scheduler's two warps, 6
 *           clocks each. This one takes 1,330 with a residual, by Nsight's clocks of an H100 for
 *           tiles of 216 and of 80 steps; a tile of 80 steps and 16 bits takes 109,600 in all,
 *           where mma.sync takes 92,200. (Even: its reads are spread evenly.)
 * Slots     A Hopper's scheduler gives nothing else in these 6 clocks. With parts left out, clocks
 *           for 64 of K: products alone 1,162, with ldmatrix 1,207, with fetches 1,234, with both
 *           1,302: 1,152 and one for every other instruction of either warp (1,164, 1,212, 1,236,
 *           1,294; of a build with 73 of them). So instructions count: 160 a step and warp (8.6:
 *           159), 164 with a residual, 96 of them mma.sync, 20 ldmatrix, 7 fetches, and 6 that
 *           ptxas puts before fetches which come after an ldmatrix. An 8.6's product takes 16
 *           clocks: whether the others fit in between is not known.
 * Lines     Rows are 64 bytes: what a fetch brings of a row lies in one line of shared memory. A
 *           ring of 3 steps, 84 KiB. Unit u of row r lies at u ^ (r / 2 % 4).
 * Order     Row by row of tiles, 8 products each, as ptxas would have them anyhow. Fragments of two
 *           rows (8 registers) and of all columns of two half steps (32): a row is read 8 products
 *           before it is used, columns of the second half 14 to 32, of the next step 8 to 14.
 *           Beside codes, which want the registers, columns are there once (16).
 * Fetches   Of the step after the next, four beside a step's second row and three beside its
 *           seventh: few groups (three idle instructions each), but not all at once, which holds up
 *           every warp's ldmatrix behind 56 fetches. Where they stand is worth up to 8 %, by no
 *           rule that was found. They have 1.4 steps of time. A fetch keeps the registers of its
 *           address for 100 clocks and more: pointers go on before the next step's, not after
 *           their own.
 * Branches  None in a step: ptxas lets all products end before each, 24 clocks. What happens once a
 *           tile (the last columns of K, the next tile's rows) is done between runs of steps. The
 *           residual is not asked for ahead: that cost its loop what it saved its end, and more
 *           (5120 -> 5120: 1.92 to 1.94 ms with it).
 * Codes     of F16 rows of a band before: without branches, in the midst of the products, asked for
 *           a step before, 63 instructions more; or not here at all but by a kernel before this one
 *           (LX_CU_MMA_192x256_APART). Where a product takes 6 clocks, as on a Hopper, the 63 are
 *           in its way, and apart is quicker. A GeForce's takes 16: there they may fit in between,
 *           and what apart asks of memory would cost more (not measured).
 * Barriers  One a step, before its last row: all of it has been read then, and the next one has
 *           landed, whose columns are read from then on. None between tiles: a warp that begins one
 *           has passed the last barrier of the tile before, so all others have ended the one
 *           before that. So what is kept of a tile's columns and rows, written when it begins and
 *           read when it ends, has two places; where a tile is, written a tile ahead, four (three
 *           would do, but are not counted by bits).
 * Measured  on one H100 held to 8.6, 32,760 rows, milliseconds (share of mma.sync's rate by time;
 *           by clocks, which power does not bend) [with two barriers a step, on another H100]:
 *           5120 -> 5120, 16 bits            1.58 to 1.61 (82 to 83; 84.5 to 84.9 %) [1.65, 1.69]
 *           5120 -> 5120, gate, residual     1.86 to 1.87 (71; 73 to 74 %)           [1.89, 1.93]
 *           5120 -> 13824, gelu, codes apart 5.14 to 5.34 (67 to 69; 70 to 71 %)     [5.17, 5.25]
 *                               codes beside 5.36         (67; 68 %)                 [5.51, 5.58]
 *           13824 -> 5120, gate, residual    4.60 to 4.72 (76 to 78; 82 %)           [4.47, 4.62]
 *           The last is 1.6 % quicker by clocks than with no barrier between tiles alone, and no
 *           quicker by time: that H100 had 1.69 to 1.73 GHz for it.
 *           What else was tried is in docs/performance.md.
 * Registers 252 to 255; by ptxas 13.0 and 12.4 for 8.6 and 9.0 no word is kept in memory, in the
 *           loop or beside it.
 */
#ifndef INT8_MMA_192_EVEN_CUH
#define INT8_MMA_192_EVEN_CUH

#include "int8_mma_192_end.cuh"

namespace int8
{
namespace even
{

constexpr int STAGES = 3, X_STAGE = BM * STEP, STAGE = (BM + BN) * STEP;
constexpr int KEPT_AT = STAGES * STAGE, KEPT = KEPT_FLOATS * (int)sizeof(float); /* two tiles' */
constexpr int PLACES = 4, PLACES_AT = KEPT_AT + 2 * KEPT, SHARED_EVEN = PLACES_AT + PLACES * 24;
static_assert(PLACES_AT % 16 == 0 && SHARED_EVEN <= 99 << 10, "what a block may have on an 8.6");
/* Beside which of a step's 12 rows is fetched: the second, and the first of the second half. */
constexpr int FETCH_FIRST = 1, FETCH_REST = MT;
static_assert(MT % 2 == 0 && NT / 2 == MT - 2,
              "two rows' fragments; a pair beside each row but two");

/* Where steps are in the ring, bytes: the one being multiplied, the next, and where the one after
 * that is being fetched to. */
struct moment {
    uint32_t now, next, to;
};

__device__ __forceinline__ void go_on(moment &t)
{
    const uint32_t now = t.now;
    t.now = t.next;
    t.next = t.to;
    t.to = now;
}

/* Of a row of 64 bytes: eight rows of one unit, and two whole rows, touch all banks once. */
__device__ __forceinline__ uint32_t line_in(int row, int unit)
{
    return (uint32_t)(row * STEP + (unit ^ row / 2 % 4) * 16);
}

/* The tile being multiplied; the one to be fetched when it begins, and the one after that. */
struct places_of {
    place here, first, next;
};
static_assert(PLACES * sizeof(places_of) == SHARED_EVEN - PLACES_AT, "behind what is kept");

/* --- fetching -------------------------------------------------------------------------------- */

/* Steps of K of a tile; in those before `own` the tile's own later steps are fetched, from it on
 * the next tile's. */
struct steps {
    int all, own;
};

__device__ __forceinline__ steps steps_of(int k)
{
    const int all = (k + STEP - 1) / STEP;
    return {all, all > 2 ? all - 2 : all};
}

/* What a thread fetches: rows `row`, row + 64, ... of x and of the weights, 16 bytes of each. */
struct fetcher {
    const int8_t *x, *w; /* one step before the one that comes next */
    int rows_x, rows_w;  /* that exist from this thread's first row on */
    uint32_t at;         /* of the first row in the ring's first step */
};

/* Weights' rows lie in the order of their columns in the products (int8_finish.cuh, pieces): what
 * belongs into a thread's row of shared memory. */
template <int C> __device__ __forceinline__ int row_of_weights(int row)
{
    const int in = row % (4 * C);
    return row - in + in % 8 / 2 * C + in / 8 * 2 + in % 2;
}

template <int C>
__device__ __forceinline__ void fetch_tile(const lx_cu_int8 &p, const place &next, fetcher &f)
{
    const int thread = thread_now(), row = thread / UNITS, unit16 = thread % UNITS * 16;
    f.rows_x = f.rows_w = 0;
    if (next.m < 0)
        return;
    const int64_t m = (int64_t)next.m * BM + row, n = (int64_t)next.n * BN + row_of_weights<C>(row);
    f.x = p.x + m * p.k + unit16 - STEP;
    f.w = p.w + n * p.k + unit16 - STEP;
    if (unit16 < (int)p.k) {
        f.rows_x = (int)min((int64_t)BM, p.e.m - m);
        f.rows_w = (int)min((int64_t)BN, p.e.n - n);
    }
}

/* The last step of a tile may have less than 64 columns. */
__device__ __forceinline__ void fetch_last(const lx_cu_int8 &p, fetcher &f, int all)
{
    if ((all - 1) * STEP + thread_now() % UNITS * 16 >= (int)p.k)
        f.rows_x = f.rows_w = 0;
}

/* `ahead` steps after the first one's beginning. Nothing of it is kept while a tile ends. */
template <int C>
__device__ __forceinline__ fetcher fetcher_of(const lx_cu_int8 &p, const place &first,
                                              uint32_t shared, int ahead)
{
    fetcher f = {};
    f.x = p.x; /* of what is not there nothing is read */
    f.w = p.w;
    fetch_tile<C>(p, first, f);
    f.x += ahead * STEP;
    f.w += ahead * STEP;
    f.at = shared + line_in(thread_now() / UNITS, thread_now() % UNITS);
    return f;
}

/* Before a step's first fetch, long after the last one of the step before: a register that a fetch
 * takes its address from is not free at once. */
__device__ __forceinline__ void fetch_on(const habits &h, fetcher &f)
{
    f.x += h.step;
    f.w += h.step;
}

/* 16 bytes of every thread. IS_PINNED: rows there are, are asked for each time. Else the compiler
 * keeps it in all the predicates it has, and beside codes other things in memory. */
template <int I, bool IS_PINNED>
__device__ __forceinline__ void fetch_at(const lx_cu_int8 &p, fetcher &f, uint32_t to)
{
    constexpr bool IS_X = I * PASS < BM;
    constexpr int ROW = IS_X ? I * PASS : I * PASS - BM;
    const int8_t *from = (IS_X ? f.x : f.w) + (uint32_t)(ROW * (int)p.k);
    int &rows = IS_X ? f.rows_x : f.rows_w;
    if (ROW)
        asm volatile("" : "+l"(from)); /* here and not before */
    if (IS_PINNED)
        asm volatile("" : "+r"(rows));
    fetch16(f.at + to + (uint32_t)(I * PASS * STEP), from, rows > ROW);
}

template <int I, int END_AT, bool IS_PINNED>
__device__ __forceinline__ void fetch_range(const lx_cu_int8 &p, fetcher &f, uint32_t to)
{
    if constexpr (I < END_AT) {
        fetch_at<I, IS_PINNED>(p, f, to);
        fetch_range<I + 1, END_AT, IS_PINNED>(p, f, to);
    }
}

/* The first two steps. */
template <int C>
__device__ __forceinline__ void begin_even(const lx_cu_int8 &p, const order &o, const habits &h,
                                           uint32_t shared)
{
    const steps n = steps_of((int)p.k);
    fetcher f = fetcher_of<C>(p, place_or_none(o, (int)blockIdx.x), shared, 0);
    uint32_t to = 0;
#pragma unroll 1
    for (int i = 0; i < 2; i++) {
        if (i % n.all == n.all - 1)
            fetch_last(p, f, n.all);
        fetch_on(h, f);
        fetch_range<0, FETCHES, false>(p, f, to);
        fetch_close();
        to += STAGE;
        if ((i + 1) % n.all == 0)
            fetch_tile<C>(p, place_or_none(o, (int)blockIdx.x + (i + 1) / n.all * (int)gridDim.x),
                          f);
    }
    fetch_wait<1>();
    __syncthreads();
}

/* --- multiplying ----------------------------------------------------------------------------- */

/* Fragments: a row of tiles and the next; all columns of a half step and, TWICE, of the next. */
template <bool TWICE> struct pieces {
    uint32_t a[2][4], b[TWICE ? 2 : 1][NT / 2][4];
    uint32_t at_a, at_b; /* where this lane reads them, of a step's first half */
};

template <bool TWICE> __device__ __forceinline__ void find_pieces(pieces<TWICE> &w, uint32_t shared)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane % 16, col = warp % WN * WARP_N + lane / 16 * 8;
    w.at_a = shared + line_in(row, lane / 16);
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    w.at_b = shared + X_STAGE + line_in(col + lane % 8, lane / 8 % 2);
}

/* HALF: 0 and 1 this step's halves, 2 the next one's first. Halves are two units apart. */
template <int HALF> __device__ __forceinline__ uint32_t half_at(uint32_t at, const moment &t)
{
    return (HALF == 1 ? at ^ 32 : at) + (HALF == 2 ? t.next : t.now);
}

template <int T, int HALF, bool TWICE>
__device__ __forceinline__ void get_row(pieces<TWICE> &w, const moment &t)
{
    ldmatrix(w.a[T % 2], half_at<HALF>(w.at_a, t) + (uint32_t)(T * 16 * STEP));
}

template <int PAIR, int HALF, bool TWICE>
__device__ __forceinline__ void get_pair(pieces<TWICE> &w, const moment &t)
{
    ldmatrix(w.b[TWICE ? HALF % 2 : 0][PAIR],
             half_at<HALF>(w.at_b, t) + (uint32_t)(PAIR * 16 * STEP));
}

/* All columns at once. */
template <int HALF, bool TWICE>
__device__ __forceinline__ void get_pairs(pieces<TWICE> &w, const moment &t)
{
    get_pair<0, HALF>(w, t);
    get_pair<1, HALF>(w, t);
    get_pair<2, HALF>(w, t);
    get_pair<3, HALF>(w, t);
}

template <bool TWICE>
__device__ __forceinline__ void get_first(pieces<TWICE> &w, uint32_t shared, const moment &t)
{
    find_pieces(w, shared);
    get_row<0, 0>(w, t);
    get_pairs<0>(w, t);
}

/* 8 products; in the last row, where columns are there once, each pair's registers are free then,
 * and read anew. */
template <int HALF, int T, int PAIR, bool TWICE>
__device__ __forceinline__ void multiply_pairs(pieces<TWICE> &w, int (&acc)[MT][NT][4],
                                               const moment &t)
{
    const uint32_t(&b)[4] = w.b[TWICE ? HALF : 0][PAIR];
    mma(acc[T][2 * PAIR], w.a[T % 2], b[0], b[1]);
    mma(acc[T][2 * PAIR + 1], w.a[T % 2], b[2], b[3]);
    if constexpr (!TWICE && T == MT - 1)
        get_pair<PAIR, HALF + 1>(w, t);
    if constexpr (PAIR + 1 < NT / 2)
        multiply_pairs<HALF, T, PAIR + 1>(w, acc, t);
}

/* A row of tiles in one half of a step; the next row's fragment and columns of the second half
 * beside rows 2 to 5 of the first, of the next step's beside the last of all. */
template <int HALF, int T, bool TWICE>
__device__ __forceinline__ void multiply_row(const lx_cu_int8 &p, fetcher &f, pieces<TWICE> &w,
                                             int (&acc)[MT][NT][4], const moment &t)
{
    if constexpr (HALF == 1 && T == MT - 1) { /* the next is there, everyone has read this one */
        fetch_wait<1>();
        __syncthreads();
    }
    if constexpr (T + 1 < MT)
        get_row<T + 1, HALF>(w, t);
    else
        get_row<0, HALF + 1>(w, t);
    if constexpr (TWICE && HALF == 0 && T >= 2)
        get_pair<T - 2, 1>(w, t);
    if constexpr (TWICE && HALF == 1 && T == MT - 1)
        get_pairs<2>(w, t);
    if constexpr (HALF * MT + T == FETCH_FIRST)
        fetch_range<0, 4, !TWICE>(p, f, t.to);
    if constexpr (HALF * MT + T == FETCH_REST) {
        fetch_range<4, FETCHES, !TWICE>(p, f, t.to);
        fetch_close();
    }
    multiply_pairs<HALF, T, 0>(w, acc, t);
}

template <int HALF, int T, int END_AT, bool TWICE>
__device__ __forceinline__ void multiply_rows(const lx_cu_int8 &p, fetcher &f, pieces<TWICE> &w,
                                              int (&acc)[MT][NT][4], const moment &t)
{
    if constexpr (T < END_AT) {
        multiply_row<HALF, T>(p, f, w, acc, t);
        multiply_rows<HALF, T + 1, END_AT>(p, f, w, acc, t);
    }
}

/* --- codes beside products ------------------------------------------------------------------- */

/* unit / units_of_row, exact while their product is below 2^32: find_units. */
__device__ __forceinline__ uint32_t row_of_unit(const habits &h, uint32_t unit)
{
    return __umulhi(unit, h.over_units);
}

__device__ __forceinline__ void even_ask(const lx_cu_codes &c, const habits &h, recoding &r)
{
    const uint32_t row = row_of_unit(h, r.unit), cols = (uint32_t)c.cols;
    const uint32_t col = (r.unit - row * h.units) * UNIT + threadIdx.x % 32 * 4;
    const bool is_row = row < (uint32_t)c.rows;
    r.at = is_row && col < cols ? row * cols + col : NOWHERE;
    r.unit += is_row ? gridDim.x * WARPS : 0;
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.u32 is_there, %5, 0xffffffff;\n"
                 "mov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\n"
                 "@is_there ld.global.cs.v2.b32 {%0, %1}, [%3];\n"
                 "@is_there ld.global.b32 %2, [%4];\n}"
                 : "=&r"(r.v.x), "=&r"(r.v.y), "=&f"(r.most)
                 : "l"((const __half *)c.y + r.at), "l"(c.most + row), "r"(r.at)
                 : "memory");
}

/* 127 / most as __fdiv_rn: most is 0 or an F16's, so nothing leaves F32's normal range. What an
 * infinity or NaN gives is 0 as a code, there and here. */
__device__ __forceinline__ float over_most(float most)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(most));
    r = fmaf(fmaf(-most, r, 1.0f), r, r);
    float q = __fmul_rn(127.0f, r);
    q = fmaf(fmaf(-most, q, 127.0f), r, q);
    q = fmaf(fmaf(-most, q, 127.0f), r, q);
    return most == 0 ? 0.0f : q;
}

__device__ __forceinline__ void even_put(const lx_cu_codes &c, const recoding &r, float with)
{
    const cu_coder coder = {LX_CU_I8, 0, with};
    const float2 low = __half22float2(*(const __half2 *)&r.v.x),
                 high = __half22float2(*(const __half2 *)&r.v.y);
    const float four[4] = {low.x, low.y, high.x, high.y};
    asm volatile("{\n.reg .pred is_there;\nsetp.ne.u32 is_there, %2, 0xffffffff;\n"
                 "@is_there st.global.b32 [%0], %1;\n}" ::"l"(c.out + r.at),
                 "r"(cu_code4(coder, four)), "r"(r.at)
                 : "memory");
}

/* --- a step ----------------------------------------------------------------------------------- */

/* Of codes the long divisions beside the first products, the rest beside those that follow: ptxas
 * moves nothing of them over the products in between. */
template <bool CODES>
__device__ __forceinline__ void step_even(const lx_cu_int8 &p, const habits &h, fetcher &f,
                                          pieces<!CODES> &w, recoding &r, int (&acc)[MT][NT][4],
                                          const moment &t)
{
    float with = 0;
    fetch_on(h, f);
    multiply_rows<0, 0, MT>(p, f, w, acc, t);
    if constexpr (CODES) {
        with = over_most(r.most);
        asm volatile("" : "+f"(with));
    }
    multiply_rows<1, 0, 2>(p, f, w, acc, t);
    if constexpr (CODES) {
        even_put(p.codes, r, with);
        even_ask(p.codes, h, r);
    }
    multiply_rows<1, 2, MT>(p, f, w, acc, t);
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Until which step of the tile nothing else is to be done. */
__device__ __forceinline__ int run_until(const lx_cu_int8 &p, fetcher &f, const steps &n, int done)
{
    int until = done < n.own ? n.own : n.all;
    if (p.k % STEP) {
        until = done < n.own - 1 ? n.own - 1 : until;
        if (done == n.own - 1)
            fetch_last(p, f, n.all);
    }
    return until;
}

/* n / by; n below 2^30. over: 2^32 / by rounded up, which makes the product too large by less than
 * n / 2^32 < 1: near is the quotient or one more. */
__device__ __forceinline__ int divided(int n, int by, uint32_t over)
{
    const int near = by == 1 ? n : (int)__umulhi((uint32_t)n, over);
    return near * by > n ? near - 1 : near;
}

/* tile_at without divisions, which take long where everyone waits. */
__device__ __forceinline__ place place_of(const order &o, const habits &h, int tile)
{
    if (tile >= o.n_tiles)
        return {-1, 0};
    const int of_group = o.group * o.tiles_n, group = divided(tile, of_group, h.over_group);
    const int first = group * o.group, in = tile - group * of_group;
    const int rows = min(o.group, o.tiles_m - first);
    const int n = divided(in, rows, rows == o.group ? h.over_rows : h.over_last);
    return {first + in - n * rows, n};
}

/* By the first three threads, one place each. */
__device__ __forceinline__ void put_place(const order &o, const habits &h, places_of &at, int tile,
                                          int all)
{
    const int ahead = all > 2 ? 0 : 3 - all, which = thread_now();
    const int on = which == 0 ? 0 : which == 1 ? ahead : ahead + 1;
    (&at.here)[which] = place_of(o, h, tile + on * (int)gridDim.x);
}

template <int END, bool GELU, bool CODES>
__global__ void __launch_bounds__(THREADS, 1) k_int8_even(lx_cu_int8 p, order o, habits h)
{
    constexpr int C = END <= END_F32_ADD ? 4 : 8;
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    places_of *const where = (places_of *)(ring + PLACES_AT);
    pieces<!CODES> w; /* codes take the registers */
    recoding r = {};
    r.at = NOWHERE;
    r.unit = blockIdx.x * WARPS + threadIdx.x / 32;
    if (threadIdx.x < 3)
        put_place(o, h, where[0], (int)blockIdx.x, steps_of((int)p.k).all);
    begin_even<C>(p, o, h, shared);
    if (C == 4 && h.delay)
        wait_for_turn(h.delay);
    moment t = {0, STAGE, 2 * STAGE};
    int turn = 0;
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        const steps n = steps_of((int)p.k);
        const places_of &at = where[turn % PLACES];
        float *const kept = (float *)(ring + KEPT_AT + turn % 2 * KEPT);
        const asked_columns asked = ask<END>(p, at.here);
        turn++;
        if (threadIdx.x < 3)
            put_place(o, h, where[turn % PLACES], tile + (int)gridDim.x, n.all);
        fetcher f = fetcher_of<C>(p, at.first, shared, n.all > 2 ? 2 : 0);
        int acc[MT][NT][4] = {};
        get_first(w, shared, t);
        keep<END>(p, asked, kept);
        int done = 0;
#pragma unroll 1
        do {
            const int until = run_until(p, f, n, done);
#pragma unroll 1
            for (; done < until; done++) {
                step_even<CODES>(p, h, f, w, r, acc, t);
                go_on(t);
            }
            if (done == n.own)
                fetch_tile<C>(p, at.next, f);
        } while (done < n.all); /* by `for` ptxas zeroes the sums twice */
        end_tile<END, GELU>(p, at.here, acc, kept);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (CODES) {
        even_put(p.codes, r, over_most(r.most));
        recode_end<int>(p.codes, r);
    }
}

} // namespace even
} // namespace int8

#endif
