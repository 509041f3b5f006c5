/*
 * int8_mma_192_even.cuh - INT8 linears by mma.sync in tiles of 192 x 256: the loop and the kernel
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       Tiles and warps are int8_mma_192.cuh's. The loop that FP8 has (fp8_mma_192x256.cu) took
 *           about 1,565 clocks of one H200 for 64 of K, where mma.sync takes 1,152: 96 of each of a
 *           scheduler's two warps, 6 clocks each. A build of this one shortly before took 1,276 in
 *           16 bits and 1,292 with a residual, by Nsight's samples of an H100. (Even: its reads are
 *           spread evenly.)
 * Slots     A Hopper's scheduler gives nothing else in these 6 clocks. With parts left out of an
 *           earlier build of 169 instructions, clocks for 64 of K: products alone 1,162, with
 *           ldmatrix 1,207, with fetches 1,234, with both 1,302: 1,152 and one for every other
 *           instruction of either warp (1,164, 1,212, 1,236, 1,294). So instructions count: 149 a
 *           step and warp (8.6: 148), 96 of them mma.sync, 20 ldmatrix, 7 fetches, 7 that let
 *           addresses go on, and 6 that ptxas puts before fetches which come after an ldmatrix.
 *           An 8.6's product takes 16 clocks: whether the others fit in between is not known.
 * Lines     Rows are 64 bytes: what a fetch brings of a row lies in one line of shared memory. A
 *           ring of 3 steps, 84 KiB. Unit u of row r lies at u ^ (r / 2 % 4).
 * Order     Row by row of tiles, 8 products each, as ptxas would have them anyhow. Fragments of two
 *           rows (8 registers) and of all columns of two half steps (32): a row is read 8 products
 *           before it is used, columns of the second half 14 to 32, of the next step 8 to 14.
 *           Beside codes, which want the registers, columns are there once (16).
 * Fetches   Of the step after the next, x beside a step's third row and the weights beside its
 *           eighth: few groups (three idle instructions each), but not all at once, which holds up
 *           every warp's ldmatrix behind 56 fetches. Where they stand is worth up to 8 %, by no
 *           rule that was found. They have 1.7 and 1.3 steps of time. A fetch keeps the registers
 *           of its address for 100 clocks and more: addresses go on before the next step's, not
 *           after their own.
 * Addresses Each fetch has its own, which goes on by one addition to its lower half: the upper
 *           halves are looked after where an operand has a multiple of 2^32 in it, in the few steps
 *           that may pass it. So rows beyond a matrix's last need no predicate each: they are the
 *           last one again. This took 11 instructions out of a step, with halves' addresses kept
 *           and one place in the ring reckoned from the others.
 * Branches  None in a step: ptxas lets all products end before each, 24 clocks. What happens once a
 *           tile (the last columns of K, the next tile's rows) is done between runs of steps. The
 *           residual is not asked for ahead, neither there nor between runs: that cost the loop
 *           what it saved the end, and more (5120 -> 5120: 3.14 M clocks without, 3.20 to 3.32 M
 *           with it, 8 to 24 steps before the end).
 * Codes     of F16 rows of a band before: without branches, in the midst of the products, asked for
 *           a step before, 56 instructions more; or not here at all but by a kernel before this one
 *           (LX_CU_MMA_192x256_APART). Where a product takes 6 clocks, as on a Hopper, the 56 are
 *           in its way, and apart is quicker. A GeForce's takes 16: there they may fit in between,
 *           and what apart asks of memory would cost more (not measured).
 * Barriers  One a step, before its last row: all of it has been read then, and the next one has
 *           landed, whose columns are read from then on. None between tiles: a warp that begins one
 *           has passed the last barrier of the tile before, so all others have ended the one
 *           before that. So what is kept of a tile's columns and rows, written when it begins and
 *           read when it ends, has two places; where a tile is, written a tile ahead, four (three
 *           would do, but are not counted by bits).
 * Measured  on three H100s held to 8.6, 32,760 rows, milliseconds (share of mma.sync's rate by
 *           time; by clocks, which power does not bend) [share by clocks at the card's base clock]:
 *           5120 -> 5120, 16 bits            1.56 to 1.67 (79 to 84; 84.5 to 86.0 %) [86.0]
 *           5120 -> 5120, gate, residual     1.85 to 1.90 (69 to 71; 74 to 77 %)     [77.8]
 *           5120 -> 13824, gelu, codes apart 4.98 to 5.10 (69 to 72; 72 to 73 %)     [81.4]
 *                               codes beside 5.09 to 5.17 (69 to 71; 71 %)
 *           13824 -> 5120, gate, residual    4.30 to 4.57 (78 to 83; 84.5 to 85.5 %) [86.0]
 *           In brackets gelu without its codes. Other cards: docs/performance.md. The loop before,
 *           by turns on one of them: 1.58 to 1.67, 1.89 to 1.91, 5.11 to 5.27, 4.39 to 4.76 ms.
 *           What else was tried, and why two of the four stay where they are: docs/waits.md.
 * Registers 250 to 255; by ptxas 13.0 and 12.4 for 8.6 and 9.0 no word is kept in memory, in the
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
/* Beside which of a step's 12 rows is fetched: x beside the third, the weights beside the second of
 * its second half, or beside codes one later. */
constexpr int FETCHES_X = BM / PASS, FETCH_X = 2;
template <bool CODES> constexpr int FETCH_W = CODES ? MT + 2 : MT + 1;
static_assert(MT % 2 == 0 && NT / 2 == MT - 2,
              "two rows' fragments; a pair beside each row but two");

/* Where steps are in the ring, bytes: the one being multiplied, the next, and where the one after
 * that is being fetched to. */
struct moment {
    uint32_t now, next, to;
};

__device__ __forceinline__ void go_on(moment &t)
{
    const uint32_t to = 3 * STAGE - t.now - t.next;
    t.now = t.next;
    t.next = to;
    t.to = 3 * STAGE - t.now - t.next;
}

/* Of a row of 64 bytes: eight rows of one unit, and two whole rows, touch all banks once. */
__device__ __forceinline__ uint32_t line_in(int row, int unit)
{
    return (uint32_t)(row * STEP + (unit ^ row / 2 % 4) * 16);
}

/* What the host works out for a call; over_: 2^32 / what is divided by, rounded up. Not to
 * be reordered: of another order ptxas makes other code, which was not measured. */
struct habits {
    uint32_t over_last;             /* rows of tiles in the last group: place_of */
    uint32_t delay;                 /* wait_for_turn */
    uint32_t units, over_units;     /* units_of_row */
    bool is_split;                  /* x or w has a multiple of 2^32 in it */
    int split_x, split_w;           /* the step of K it is in, or one after; or NEVER */
    uint32_t over_group, over_rows; /* tiles of a group, its rows of tiles: place_of */
};

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

/* What a thread fetches: 16 bytes of each of its rows of x and of the weights. */
struct fetcher {
    uint64_t from[FETCHES]; /* one step before the one that comes next */
    uint32_t at;            /* of the first row in the ring's first step */
    bool is_there;          /* else zeros: there is no such tile, or K is over */
};

/* Weights' rows lie in the order of their columns in the products (int8_finish.cuh, pieces): what
 * belongs into a thread's row of shared memory. */
template <int C> __device__ __forceinline__ int row_of_weights(int row)
{
    const int in = row % (4 * C);
    return row - in + in % 8 / 2 * C + in / 8 * 2 + in % 2;
}

/* `ahead` steps after the tile's first one. Where a matrix ends, its last row stands for those that
 * do not exist: what they give is not written, and rows are told nothing by such columns, whose
 * scale is 0 (int8_mma_192_end.cuh, ask). */
template <int C>
__device__ __forceinline__ void fetch_tile(const lx_cu_int8 &p, const place &next, int ahead,
                                           fetcher &f)
{
    const int thread = thread_now(), row = thread / UNITS, k = (int)p.k;
    const int x_row = next.m * BM + row, w_row = next.n * BN + row_of_weights<C>(row);
    const int64_t in_row = thread % UNITS * 16 + (ahead - 1) * STEP;
    f.is_there = next.m >= 0 && thread % UNITS * 16 < k;
    if (next.m < 0)
        return;
#pragma unroll
    for (int i = 0; i < FETCHES; i++) {
        const int8_t *const from =
            i < FETCHES_X ? p.x + min((int64_t)x_row + i * PASS, p.e.m - 1) * k
                          : p.w + min((int64_t)w_row + (i - FETCHES_X) * PASS, p.e.n - 1) * k;
        const uint64_t bits = (uint64_t)(from + in_row);
        /* so packed, ptxas keeps both halves side by side: else each fetch moves them together */
        asm volatile("mov.b64 %0, {%1, %2};"
                     : "=l"(f.from[i])
                     : "r"((uint32_t)bits), "r"((uint32_t)(bits >> 32)));
    }
}

/* The last step of a tile may have less than 64 columns. */
__device__ __forceinline__ void fetch_last(const lx_cu_int8 &p, fetcher &f, int all)
{
    if ((all - 1) * STEP + thread_now() % UNITS * 16 >= (int)p.k)
        f.is_there = false;
}

/* `ahead` steps after the first one's beginning. Nothing of it is kept while a tile ends. */
template <int C>
__device__ __forceinline__ fetcher fetcher_of(const lx_cu_int8 &p, const place &first,
                                              uint32_t shared, int ahead)
{
    fetcher f = {};
    fetch_tile<C>(p, first, ahead, f);
    f.at = shared + line_in(thread_now() / UNITS, thread_now() % UNITS);
    return f;
}

/* Before a step's first fetch, long after the last one of the step before: a register that a fetch
 * takes its address from is not free at once. The lower halves alone, one instruction each; carry
 * does the rest. */
__device__ __forceinline__ void fetch_on(fetcher &f)
{
#pragma unroll
    for (int i = 0; i < FETCHES; i++)
        asm volatile("{\n.reg .b32 low, high;\nmov.b64 {low, high}, %0;\nadd.u32 low, low, %1;\n"
                     "mov.b64 %0, {low, high};\n}"
                     : "+l"(f.from[i])
                     : "n"(STEP));
}

/* Before fetch_on, where it passes a multiple of 2^32. */
__device__ __forceinline__ void carry(fetcher &f)
{
#pragma unroll
    for (int i = 0; i < FETCHES; i++)
        asm volatile("{\n.reg .b32 low, high;\n.reg .pred is_over;\nmov.b64 {low, high}, %0;\n"
                     "setp.ge.u32 is_over, low, %1;\n@is_over add.u32 high, high, 1;\n"
                     "mov.b64 %0, {low, high};\n}"
                     : "+l"(f.from[i])
                     : "n"((uint32_t)-STEP));
}

/* 16 bytes of every thread. */
template <int I> __device__ __forceinline__ void fetch_at(const fetcher &f, uint32_t to)
{
    fetch16(f.at + to + (uint32_t)(I * PASS * STEP), (const void *)f.from[I], f.is_there);
}

template <int I, int END_AT>
__device__ __forceinline__ void fetch_range(const fetcher &f, uint32_t to)
{
    if constexpr (I < END_AT) {
        fetch_at<I>(f, to);
        fetch_range<I + 1, END_AT>(f, to);
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
        if (h.is_split)
            carry(f);
        fetch_on(f);
        fetch_range<0, FETCHES>(f, to);
        fetch_close();
        to += STAGE;
        if ((i + 1) % n.all == 0)
            fetch_tile<C>(p, place_or_none(o, (int)blockIdx.x + (i + 1) / n.all * (int)gridDim.x),
                          0, f);
    }
    fetch_wait<1>();
    __syncthreads();
}

/* --- multiplying ----------------------------------------------------------------------------- */

/* Fragments: a row of tiles and the next; all columns of a half step and, TWICE, of the next. */
template <bool TWICE> struct pieces {
    uint32_t a[2][4], b[TWICE ? 2 : 1][NT / 2][4];
    uint32_t at_a[2], at_b[2]; /* where this lane reads them, of a step's halves */
};

template <bool TWICE> __device__ __forceinline__ void find_pieces(pieces<TWICE> &w, uint32_t shared)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane % 16, col = warp % WN * WARP_N + lane / 16 * 8;
    w.at_a[0] = shared + line_in(row, lane / 16);
    w.at_a[1] = w.at_a[0] ^ 32;
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    w.at_b[0] = shared + X_STAGE + line_in(col + lane % 8, lane / 8 % 2);
    w.at_b[1] = w.at_b[0] ^ 32;
    asm volatile("" : "+r"(w.at_a[1]), "+r"(w.at_b[1])); /* kept, not made each time */
}

/* HALF: 0 and 1 this step's halves, 2 the next one's first. Halves are two units apart. */
template <int HALF>
__device__ __forceinline__ uint32_t half_at(const uint32_t (&at)[2], const moment &t)
{
    return at[HALF % 2] + (HALF == 2 ? t.next : t.now);
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
__device__ __forceinline__ void multiply_row(const fetcher &f, pieces<TWICE> &w,
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
    if constexpr (HALF * MT + T == FETCH_X)
        fetch_range<0, FETCHES_X>(f, t.to);
    if constexpr (HALF * MT + T == FETCH_W<!TWICE>) {
        fetch_range<FETCHES_X, FETCHES>(f, t.to);
        fetch_close();
    }
    multiply_pairs<HALF, T, 0>(w, acc, t);
}

template <int HALF, int T, int END_AT, bool TWICE>
__device__ __forceinline__ void multiply_rows(const fetcher &f, pieces<TWICE> &w,
                                              int (&acc)[MT][NT][4], const moment &t)
{
    if constexpr (T < END_AT) {
        multiply_row<HALF, T>(f, w, acc, t);
        multiply_rows<HALF, T + 1, END_AT>(f, w, acc, t);
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
    fetch_on(f);
    multiply_rows<0, 0, MT>(f, w, acc, t);
    if constexpr (CODES) {
        with = over_most(r.most);
        asm volatile("" : "+f"(with));
    }
    multiply_rows<1, 0, 2>(f, w, acc, t);
    if constexpr (CODES) {
        even_put(p.codes, r, with);
        even_ask(p.codes, h, r);
    }
    multiply_rows<1, 2, MT>(f, w, acc, t);
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Until which step of the tile nothing else is to be done than in a step. */
__device__ __forceinline__ int run_until(const lx_cu_int8 &p, const habits &h, fetcher &f,
                                         const steps &n, int done)
{
    int until = done < n.own ? n.own : n.all;
    if (p.k % STEP) {
        until = done < n.own - 1 ? n.own - 1 : until;
        if (done == n.own - 1)
            fetch_last(p, f, n.all);
    }
    if (h.is_split) {
        const int step = done < n.own ? done + (n.own < n.all ? 2 : 0) : done - n.own;
        const int left_x = h.split_x - step, left_w = h.split_w - step; /* of those fetched */
        until = min(until, left_x > 1 ? done + left_x - 1 : until);
        until = min(until, left_w > 1 ? done + left_w - 1 : until);
        if (step == 0 || left_x == 0 || left_x == 1 || left_w == 0 || left_w == 1) {
            carry(f);
            until = done + 1;
        }
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
            const int until = run_until(p, h, f, n, done);
#pragma unroll 1
            for (; done < until; done++) {
                step_even<CODES>(p, h, f, w, r, acc, t);
                go_on(t);
            }
            if (done == n.own)
                fetch_tile<C>(p, at.next, 0, f);
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
