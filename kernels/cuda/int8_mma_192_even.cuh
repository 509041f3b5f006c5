/*
 * int8_mma_192_even.cuh - INT8 linears by mma.sync in tiles of 192 x 256: the loop and the kernel
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       Tiles, warps and ends are int8_mma_192.cuh's. Its loop took about 1,565 clocks of one
 *           H200 for 64 of K (F32 1,655, with codes beside it 1,950), where mma.sync takes 1,152:
 *           96 of each of a scheduler's two warps, 6 clocks each. This one loads evenly and
 *           waits late.
 * Lines     Rows are 64 bytes: what a fetch brings of a row lies in one line of shared memory.
 *           Planes of 32 of K put it in two. A ring of 3 steps, 84 KiB, and a tile's scales, biases
 *           and F32's gates behind it, so that nothing is waited for when the tile ends. Unit u of
 *           row r lies at u ^ (r / 2 % 4).
 * Order     Rows of tiles by twos, their 4 pairs of columns two at a time: 2 x 2 blocks of 8
 *           products, 4 of them with the same rows. Fragments of three rows (12 registers) and of
 *           all columns (16). Each is read again when its last product has been given: 2 reads
 *           beside 16 products, 6 in the last two rows; from a read to its use there are 8 to 16
 *           products. ptxas orders products anew, but no fetches and reads.
 * Fetches   7 in each step's first half, of the step after the next. They have 1.5 steps of time:
 *           1 us at the full rate.
 * Branches  None in a step: ptxas lets all products end before each, 24 clocks. What happens once a
 *           tile (the last columns of K, the next tile's rows, lines of the residual asked for) is
 *           done between runs of steps. 174 instructions for 64 of K, F32 169 (9.0; 8.6: 175, 168).
 * Codes     of F16 rows of a band before: without branches, in the midst of the products, asked for
 *           a step before, 59 instructions more (8.6: 63); or not here at all but by a kernel
 *           before this one (LX_CU_MMA_192x256_APART). Where a product takes 6 clocks, as on a
 *           Hopper, the 59 are in its way, and apart is quicker. A GeForce's takes 16: there they
 *           fit in between, and what apart asks of memory would cost more (not measured).
 * Barrier   One a step, before the second half's last third, when all of it has been read and the
 *           next step has landed.
 * Measured  on one H200 held to 8.6, 32,760 rows, milliseconds (share of mma.sync's rate; in
 *           brackets by the loop before):
 *           5120 -> 5120, 16 bits             1.84  (72 %)        [2.00]
 *           5120 -> 5120, gate, residual      2.03  (66 %)        [2.76]
 *           5120 -> 13824, gelu, codes apart  5.56  (65 %)
 *                                codes beside 6.05  (59.5 %)      [6.59]
 *           13824 -> 5120, gate, residual     4.86  (74 %)        [6.12]
 *           With x in whole lines of 128 bytes of memory: 1.82, 2.14, 6.26 (beside), 5.06. So lines
 *           are not what the writing waits for.
 * Registers 255; by CUDA 13.0 for 8.6 6 to 8 words are kept in memory beside the loop, none in it;
 *           for 9.0 none (16 bits), 2 with codes, 8 with F32.
 */
#ifndef INT8_MMA_192_EVEN_CUH
#define INT8_MMA_192_EVEN_CUH

#include "int8_mma_192.cuh"

namespace int8
{
namespace even
{

using namespace tall;

constexpr int STAGES = 3, X_STAGE = BM * STEP, STAGE = (BM + BN) * STEP;
constexpr int KEPT_AT = STAGES * STAGE;                  /* a tile's columns */
constexpr int PLACES_AT = RING, SHARED_EVEN = RING + 48; /* places_of, two */
static_assert(KEPT_AT + 3 * BN * (int)sizeof(float) <= PLACES_AT, "three steps and columns");
static_assert(SHARED_EVEN <= 99 << 10, "what a block may have on an 8.6");
static_assert(MT == 6 && NT == 8, "rows by twos, columns by pairs of pairs");

/* Where steps are in the ring: bytes. */
struct moment {
    uint32_t shared, step; /* step: counted over all of this block's tiles */
    uint32_t now, next;
    /* The step after the next one, being fetched: one number, kept as two, of x and of the weights.
     * With one ptxas gives other registers than those that were measured. */
    uint32_t x_to, w_to;
};

/* The beginning of any step. */
__device__ __forceinline__ moment moment_at(uint32_t shared, uint32_t step)
{
    moment t = {shared, step};
    t.now = step % STAGES * STAGE;
    return t;
}

__device__ __forceinline__ void find_next(moment &t)
{
    t.next = t.now == 2 * STAGE ? 0 : t.now + STAGE;
    t.x_to = t.w_to = t.now == 0 ? 2 * STAGE : t.now - STAGE;
}

__device__ __forceinline__ void go_on(moment &t)
{
    t.now = t.next;
    t.step++;
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
static_assert(2 * sizeof(places_of) == SHARED_EVEN - PLACES_AT, "behind the ring");

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

/* The last step of a tile may have less than 64 columns. */
__device__ __forceinline__ void source_last(const lx_cu_int8 &p, source &f, int all)
{
    if ((all - 1) * STEP + thread_now() % UNITS * 16 >= (int)p.k)
        f.rows_x = f.rows_w = 0;
}

template <int C> __device__ __forceinline__ void even_places(source &f, uint32_t shared)
{
    const int thread = thread_now(), row = thread / UNITS, unit = thread % UNITS;
    const int in = row % (4 * C), col = row - in + in % C / 2 * 8 + in / C * 2 + in % 2;
    f.at_x = shared + line_in(row, unit);
    f.at_w = shared + X_STAGE + line_in(col, unit);
}

/* Two steps ahead of a tile's first one. Nothing of it is kept while a tile ends. */
template <int C>
__device__ __forceinline__ source source_here(const lx_cu_int8 &p, const places_of &at,
                                              const moment &t, int all)
{
    source f = {};
    f.x = p.x; /* of what is not there nothing is read */
    f.w = p.w;
    source_tile(p, at.first, f, thread_now());
    f.x += all > 2 ? 2 * STEP : 0;
    f.w += all > 2 ? 2 * STEP : 0;
    even_places<C>(f, t.shared);
    return f;
}

/* 16 bytes of every thread. */
template <int I>
__device__ __forceinline__ void fetch_at(const lx_cu_int8 &p, source &f, const moment &t)
{
    constexpr bool IS_X = I * PASS < BM;
    constexpr int ROW = IS_X ? I * PASS : I * PASS - BM;
    const int8_t *from = (IS_X ? f.x : f.w) + (uint32_t)(ROW * (int)p.k);
    asm volatile("" : "+l"(from)); /* here and not before */
    fetch16((IS_X ? f.at_x + t.x_to : f.at_w + t.w_to) + (uint32_t)(ROW * STEP), from,
            (IS_X ? f.rows_x : f.rows_w) > ROW);
}

template <int I, int END>
__device__ __forceinline__ void fetch_range(const lx_cu_int8 &p, source &f, const moment &t)
{
    if constexpr (I < END) {
        fetch_at<I>(p, f, t);
        fetch_range<I + 1, END>(p, f, t);
    }
}

/* The step has been asked for. */
__device__ __forceinline__ void source_close(source &f)
{
    fetch_close();
    f.x += STEP;
    f.w += STEP;
}

/* The first two steps. */
template <int C>
__device__ __forceinline__ void begin_even(const lx_cu_int8 &p, const order &o, uint32_t shared)
{
    const steps n = steps_of((int)p.k);
    moment t = {};
    source f = source_begin<C>(p, o, shared);
    even_places<C>(f, shared);
    __syncthreads(); /* nothing needs it: once a call, left as it was measured */
#pragma unroll 1
    for (int i = 0; i < 2; i++) {
        if (i % n.all == n.all - 1)
            source_last(p, f, n.all);
        fetch_range<0, FETCHES>(p, f, t);
        source_close(f);
        t.x_to += STAGE;
        t.w_to += STAGE;
        if ((i + 1) % n.all == 0)
            source_tile(p, place_or_none(o, (int)blockIdx.x + (i + 1) / n.all * (int)gridDim.x), f,
                        thread_now());
    }
    fetch_wait<1>();
    __syncthreads();
}

/* --- multiplying ----------------------------------------------------------------------------- */

struct pieces {
    uint32_t a[3][4], b[NT / 2][4]; /* rows t in t % 3; pairs of columns' tiles */
    uint32_t at_a, at_b;            /* where this lane reads them, of a step's first half */
};

__device__ __forceinline__ void find_pieces(pieces &w, uint32_t shared)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane % 16, col = warp % WN * WARP_N + lane / 16 * 8;
    w.at_a = shared + line_in(row, lane / 16);
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    w.at_b = shared + X_STAGE + line_in(col + lane % 8, lane / 8 % 2);
}

/* HALF_AT: 0 and 1 this step's halves, 2 the next one's first. Halves are two units apart. */
template <int T, int HALF_AT> __device__ __forceinline__ void even_a(pieces &w, const moment &t)
{
    const uint32_t at = HALF_AT == 1 ? w.at_a ^ 32 : w.at_a;
    ldmatrix(w.a[T % 3], at + (HALF_AT == 2 ? t.next : t.now) + (uint32_t)(T * 16 * STEP));
}

template <int PAIR, int HALF_AT> __device__ __forceinline__ void even_b(pieces &w, const moment &t)
{
    const uint32_t at = HALF_AT == 1 ? w.at_b ^ 32 : w.at_b;
    ldmatrix(w.b[PAIR], at + (HALF_AT == 2 ? t.next : t.now) + (uint32_t)(PAIR * 16 * STEP));
}

__device__ __forceinline__ void even_first(pieces &w, const moment &t)
{
    find_pieces(w, t.shared);
    even_a<0, 0>(w, t);
    even_b<0, 0>(w, t);
    even_b<1, 0>(w, t);
    even_a<1, 0>(w, t);
    even_b<2, 0>(w, t);
    even_b<3, 0>(w, t);
}

/* 16 rows x 16 columns. */
template <int T, int PAIR>
__device__ __forceinline__ void two(const pieces &w, int (&acc)[MT][NT][4])
{
    mma(acc[T][2 * PAIR], w.a[T % 3], w.b[PAIR][0], w.b[PAIR][1]);
    mma(acc[T][2 * PAIR + 1], w.a[T % 3], w.b[PAIR][2], w.b[PAIR][3]);
}

/* Two rows of tiles, 16 instructions. */
template <int SECOND, int P>
__device__ __forceinline__ void two_rows(const lx_cu_int8 &p, source &f, pieces &w,
                                         int (&acc)[MT][NT][4], const moment &t)
{
    constexpr int R = 2 * P, NEXT = SECOND + 1;
    constexpr bool IS_LAST = R + 2 == MT;
    constexpr int FROM = IS_LAST ? NEXT : SECOND, AT = SECOND ? FETCHES : P * 3; /* fetches */
    if constexpr (SECOND && IS_LAST) {
        /* The next step has landed, for everyone; and everyone has read this one. */
        fetch_wait<1>();
        __syncthreads();
    }
    even_a<(R + 2) % MT, FROM>(w, t);
    two<R, 0>(w, acc);
    if constexpr (AT < FETCHES)
        fetch_at<AT>(p, f, t);
    two<R, 1>(w, acc);
    two<R + 1, 0>(w, acc);
    if constexpr (IS_LAST)
        even_b<0, NEXT>(w, t);
    if constexpr (AT + 1 < FETCHES)
        fetch_at<AT + 1>(p, f, t);
    two<R + 1, 1>(w, acc);
    if constexpr (IS_LAST)
        even_b<1, NEXT>(w, t);
    two<R, 2>(w, acc);
    if constexpr (AT + 2 < FETCHES)
        fetch_at<AT + 2>(p, f, t);
    two<R, 3>(w, acc);
    even_a<(R + 3) % MT, FROM>(w, t);
    two<R + 1, 2>(w, acc);
    if constexpr (IS_LAST)
        even_b<2, NEXT>(w, t);
    two<R + 1, 3>(w, acc);
    if constexpr (IS_LAST)
        even_b<3, NEXT>(w, t);
    if constexpr (SECOND == 0 && IS_LAST)
        source_close(f);
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

/* --- columns --------------------------------------------------------------------------------- */

/* As get_columns gives them, one of each thread: there are as many. Read after a barrier; of 16
 * bits the gates are not, those come from memory. */
__device__ __forceinline__ void keep_columns(const lx_cu_int8 &p, const place &here, float *kept)
{
    static_assert(THREADS == BN, "one column each");
    const int thread = thread_now();
    const int64_t col = (int64_t)here.n * BN + thread;
    const bool is_there = col < p.e.n;
    kept[thread] = is_there && p.e.w_scale ? p.e.w_scale[col] : 1.0f;
    kept[BN + thread] = is_there && p.e.bias.data ? cu_vec_at(p.e.bias, col) : 0.0f;
    kept[2 * BN + thread] = is_there && p.e.gate ? p.e.gate[col] : 1.0f;
}

/* --- a step ----------------------------------------------------------------------------------- */

/* Of codes the long divisions beside the first products, the rest beside those that follow: ptxas
 * moves nothing of them over the products in between. */
template <bool CODES>
__device__ __forceinline__ void step_even(const lx_cu_int8 &p, const habits &h, source &f,
                                          pieces &w, recoding &r, int (&acc)[MT][NT][4],
                                          const moment &t)
{
    float with = 0;
    two_rows<0, 0>(p, f, w, acc, t);
    two_rows<0, 1>(p, f, w, acc, t);
    two_rows<0, 2>(p, f, w, acc, t);
    if constexpr (CODES) {
        with = over_most(r.most);
        asm volatile("" : "+f"(with));
    }
    two_rows<1, 0>(p, f, w, acc, t);
    if constexpr (CODES) {
        even_put(p.codes, r, with);
        even_ask(p.codes, h, r);
    }
    two_rows<1, 1>(p, f, w, acc, t);
    two_rows<1, 2>(p, f, w, acc, t);
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Until which step of the tile nothing else is to be done. */
template <int C>
__device__ __forceinline__ int run_until(const lx_cu_int8 &p, const habits &h, const place &here,
                                         source &f, const steps &n, int done)
{
    int until = done < n.own - 1 ? n.own - 1 : done < n.own ? n.own : n.all;
    if (done == n.own - 1)
        source_last(p, f, n.all);
    if (C == 4 && h.is_asking) {
        const int left = n.all - done, many = ASKS * ASK_EACH;
        ask_residual(p.e, here, left);
        until = min(until, n.all - (left > many ? many : (left - 1) / ASK_EACH * ASK_EACH));
    }
    return until;
}

__device__ __forceinline__ places_of places_from(const order &o, int tile, int all)
{
    const int ahead = all > 2 ? 0 : 3 - all, blocks = (int)gridDim.x;
    return {tile_at(o, tile), place_or_none(o, tile + ahead * blocks),
            place_or_none(o, tile + (ahead + 1) * blocks)};
}

template <int C, bool GELU, bool CODES>
__global__ void __launch_bounds__(THREADS, 1) k_int8_even(lx_cu_int8 p, order o, habits h)
{
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    places_of *const both = (places_of *)(ring + PLACES_AT);
    pieces w;
    recoding r = {};
    r.at = NOWHERE;
    r.unit = blockIdx.x * WARPS + threadIdx.x / 32;
    begin_even<C>(p, o, shared);
    if (C == 4 && h.delay)
        wait_for_turn(h.delay);
    uint32_t step = 0;
    int turn = 0;
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        const steps n = steps_of((int)p.k);
        places_of &at = both[turn]; /* the other one may still be read */
        moment t = moment_at(shared, step);
        turn ^= 1;
        if (threadIdx.x == 0)
            at = places_from(o, tile, n.all);
        __syncthreads();
        int acc[MT][NT][4] = {};
        source f = source_here<C>(p, at, t, n.all);
        keep_columns(p, at.here, (float *)(ring + KEPT_AT));
        even_first(w, t);
#pragma unroll 1
        for (int done = 0; done < n.all;) {
            const int until = run_until<C>(p, h, at.here, f, n, done);
#pragma unroll 1
            for (; done < until; done++) {
                find_next(t);
                step_even<CODES>(p, h, f, w, r, acc, t);
                go_on(t);
            }
            if (done == n.own)
                source_tile(p, at.next, f, thread_now());
        }
        step = t.step;
        finish_sums<C, GELU, true>(p, o.is_wide, at.here, acc, (const float *)(ring + KEPT_AT));
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
