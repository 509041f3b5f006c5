/*
 * int8_mma_192_even.cuh - int8_mma_192.cuh's tiles with a loop that loads evenly and waits late
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       int8_mma_192.cuh's loop takes about 1,565 clocks of one H200 for 64 of K with rows of 16
 *           bits, 1,655 with F32 and 1,950 with codes beside it (from tiles' times, less their
 *           ends), where mma.sync takes 1,152: 96 of each of a scheduler's two warps, 6 clocks
 *           each. Played through with the instructions' own waits, what is short is the way to
 *           shared memory: of 64 of K 160 ldmatrix of 4 clocks (640), 56 fetches of 4 (224), and
 *           the writing of what they bring. That was not measured, but chosen to fit: 8 clocks a
 *           fetch for 128 x 256, and 12 for planes of 32 of K, which put the two halves of each
 *           64 bytes in two places.
 * Lines     So rows are 64 bytes here, all of a fetch's 64 in one line of 128: a ring of 3 steps,
 *           84 KiB, and a tile's scales, biases and gates behind it, so that nothing is waited for
 *           when it ends. The unit u of row r lies at u ^ (r / 2 % 4).
 * Order     Rows of tiles by twos, their 4 pairs of columns two at a time: 2 x 2 blocks of 8
 *           products, 4 of them with the same rows. Fragments of three rows (12 registers) and of
 *           all columns (16). Each is read again when its last product has been given: 2 reads
 *           beside 16 products, 6 in the last two rows; from a read to its use there are 8 to 16
 *           products, where there were 6. ptxas orders products anew, but no fetches and reads.
 * Fetches   7 in each step's first half, of the step after the next. They have 1.5 steps of time:
 *           1 us at the full rate.
 * Branches  None in a step: ptxas lets all products end before each, 24 clocks. What happens once a
 *           tile (the last columns of K, the next tile's rows, lines of the residual asked for) is
 *           done between runs of steps. 174 instructions for 64 of K instead of 242 (F32 169 of
 *           276), 606 clocks of one warp alone instead of 749 (615 of 886).
 * Codes     of F16 rows of a band before: without branches, in the midst of the products, asked for
 *           a step before: 233 instructions instead of 341, 679 clocks instead of 1,100.
 * Barrier   One a step, before the second half's last third, when all of it has been read and the
 *           next step has landed. GATES instead of it, for tests: one for each of four steps,
 *           passed when all copies of the step have landed and all warps have said, a fifth of a
 *           step before, that they have read the step's weights; rings of 4 and 3 steps.
 * Predicted in clocks for 64 of K, played through: 1,375, with F32 1,470, with codes 1,539 (a fetch
 *           written in 4 clocks, whole lines: 1,256, 1,285, 1,490). Not measured. 8.6: 3,060 to
 *           3,140, where mma.sync takes 3,072.
 * Registers 254 or 255; by CUDA 13.0 for 8.6 8 (F32) to 14 words are kept in memory beside the
 *           loop, none in it; for 9.0 none to 8.
 */
#ifndef INT8_MMA_192_EVEN_CUH
#define INT8_MMA_192_EVEN_CUH

#include "int8_mma_192.cuh"

namespace int8
{
namespace even
{

using namespace tall;

constexpr int X_STAGE = BM * STEP, W_STAGE = BN * STEP, X_RING = 4 * X_STAGE, W_RING = 3 * W_STAGE;
constexpr int STAGE = X_STAGE + W_STAGE, KEPT_AT = 3 * STAGE; /* a tile's columns */
constexpr int GATES = 4, PLACES_AT = RING, GATES_AT = RING + 48, SHARED_EVEN = GATES_AT + GATES * 8;
static_assert(X_RING + W_RING <= RING, "either ring in the same place");
static_assert(SHARED_EVEN <= 99 << 10 && GATES_AT % 8 == 0, "what a block may have on an 8.6");
static_assert(KEPT_AT + 3 * BN * (int)sizeof(float) <= RING, "three steps and columns");
static_assert(MT == 6 && NT == 8, "rows by twos, columns by pairs of pairs");

/* What a loop is made of. LINES: rows of 64, not planes; SPLIT: gates instead of one barrier a
 * step. */
template <bool LINES_, bool SPLIT_> struct loop_of {
    static constexpr bool LINES = LINES_, SPLIT = SPLIT_, KEPT = LINES && !SPLIT, IS_WHOLE = false;
    static constexpr int SHARED = SHARED_EVEN;
    static constexpr int W_AT = SPLIT ? X_RING : X_STAGE; /* the weights, of LINES */
    static constexpr int ROW = LINES ? STEP : HALF;       /* bytes of a row, from one to the next */
};

/* Where a step is: offsets in the ring, of x's and of the weights'. */
struct moment {
    uint32_t shared, step; /* counted over all of this block's tiles */
    uint32_t x[3], w[3];   /* this step's first half, its second one, the next step's first */
    uint32_t x_to, w_to;   /* of the step after the next: LINES alone */
};

template <typename L> __device__ __forceinline__ void find_next(moment &t)
{
    if constexpr (L::LINES && L::SPLIT) {
        t.x[1] = t.x[0];
        t.w[1] = t.w[0];
        t.x[2] = t.x[0] == X_RING - X_STAGE ? 0 : t.x[0] + X_STAGE;
        t.w[2] = t.w[0] == W_RING - W_STAGE ? 0 : t.w[0] + W_STAGE;
        t.x_to = t.x[0] >= 2 * X_STAGE ? t.x[0] - 2 * X_STAGE : t.x[0] + 2 * X_STAGE;
        t.w_to = t.w[0] == 0 ? W_RING - W_STAGE : t.w[0] - W_STAGE;
    } else if constexpr (L::LINES) {
        t.x[1] = t.w[1] = t.x[0];
        t.x[2] = t.w[2] = t.x[0] == 2 * STAGE ? 0 : t.x[0] + STAGE;
        t.x_to = t.w_to = t.x[0] == 0 ? 2 * STAGE : t.x[0] - STAGE;
    } else {
        t.x[1] = t.w[1] = after(t.x[0]);
        t.x[2] = t.w[2] = after(t.x[1]);
    }
}

/* The beginning of any step. */
template <typename L> __device__ __forceinline__ moment moment_at(uint32_t shared, uint32_t step)
{
    moment t = {shared, step};
    if constexpr (L::LINES && L::SPLIT) {
        t.x[0] = step % 4 * X_STAGE;
        t.w[0] = step % 3 * W_STAGE;
    } else if constexpr (L::LINES) {
        t.x[0] = t.w[0] = step % 3 * STAGE;
    } else {
        t.x[0] = t.w[0] = 2 * step % PLANES * PLANE;
    }
    return t;
}

__device__ __forceinline__ void go_on(moment &t)
{
    t.x[0] = t.x[2];
    t.w[0] = t.w[2];
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
static_assert(2 * sizeof(places_of) == 48, "between ring and gates");

/* --- barriers -------------------------------------------------------------------------------- */

__device__ __forceinline__ uint32_t gate_of(uint32_t shared, uint32_t step)
{
    return shared + GATES_AT + step % GATES * 8;
}

__device__ __forceinline__ void gate_make(uint32_t gate)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(gate), "r"(THREADS + WARPS) : "memory");
}

/* Once all copies that this thread has asked for have landed. */
__device__ __forceinline__ void gate_follow(uint32_t gate)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(gate) : "memory");
}

/* Of a warp one lane. */
__device__ __forceinline__ void gate_say(uint32_t gate)
{
    asm volatile("{\n.reg .pred is_first;\n.reg .b32 lane;\n.reg .b64 state;\n"
                 "mov.u32 lane, %%laneid;\nsetp.eq.u32 is_first, lane, 0;\n"
                 "@is_first mbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(gate)
                 : "memory");
}

__device__ __forceinline__ void gate_pass(uint32_t gate, uint32_t parity)
{
    asm volatile("{\n.reg .pred is_passed;\nagain:\n"
                 "mbarrier.test_wait.parity.shared.b64 is_passed, [%0], %1;\n"
                 "@!is_passed bra again;\n}" ::"r"(gate),
                 "r"(parity)
                 : "memory");
}

/* --- fetching -------------------------------------------------------------------------------- */

/* Steps of K of a tile, and after how many of its own the next tile's are fetched: the step after
 * the next one is closed in each. */
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

template <int C, typename L> __device__ __forceinline__ void even_places(source &f, uint32_t shared)
{
    if constexpr (!L::LINES) {
        source_places<C>(f, shared);
        return;
    }
    const int thread = thread_now(), row = thread / UNITS, unit = thread % UNITS;
    const int in = row % (4 * C), col = row - in + in % C / 2 * 8 + in / C * 2 + in % 2;
    f.at_x = shared + line_in(row, unit);
    f.at_w = shared + L::W_AT + line_in(col, unit);
}

/* Two steps ahead of a tile's first one. Nothing of it is kept while a tile ends. */
template <int C, typename L>
__device__ __forceinline__ source source_here(const lx_cu_int8 &p, const places_of &at,
                                              const moment &t, int all)
{
    source f = {};
    f.x = p.x; /* of what is not there nothing is read */
    f.w = p.w;
    source_tile(p, at.first, f, thread_now());
    f.x += all > 2 ? 2 * STEP : 0;
    f.w += all > 2 ? 2 * STEP : 0;
    even_places<C, L>(f, t.shared);
    if (!L::LINES)
        f.plane = (2 * (t.step + 2) + (uint32_t)thread_now() % UNITS / 2) % PLANES * PLANE;
    return f;
}

/* 16 bytes of every thread. */
template <int I, typename L>
__device__ __forceinline__ void fetch_at(const lx_cu_int8 &p, source &f, const moment &t)
{
    constexpr bool IS_X = I * PASS < BM;
    constexpr int ROW = IS_X ? I * PASS : I * PASS - BM;
    const int8_t *from = (IS_X ? f.x : f.w) + (uint32_t)(ROW * (int)p.k);
    asm volatile("" : "+l"(from)); /* here and not before */
    const uint32_t to = L::LINES ? (IS_X ? t.x_to : t.w_to) : f.plane;
    fetch16((IS_X ? f.at_x : f.at_w) + to + (uint32_t)(ROW * L::ROW), from,
            (IS_X ? f.rows_x : f.rows_w) > ROW);
}

template <int I, int END, typename L>
__device__ __forceinline__ void fetch_range(const lx_cu_int8 &p, source &f, const moment &t)
{
    if constexpr (I < END) {
        fetch_at<I, L>(p, f, t);
        fetch_range<I + 1, END, L>(p, f, t);
    }
}

/* The step has been asked for. */
template <typename L>
__device__ __forceinline__ void source_close(source &f, uint32_t shared, uint32_t step)
{
    if (L::SPLIT)
        gate_follow(gate_of(shared, step));
    else
        fetch_close();
    if (!L::LINES) {
        f.plane += 2 * PLANE;
        f.plane -= f.plane >= RING ? RING : 0;
    }
    f.x += STEP;
    f.w += STEP;
}

/* The first two steps; and nobody has read anything before step 0. */
template <int C, typename L>
__device__ __forceinline__ void begin_even(const lx_cu_int8 &p, const order &o, uint32_t shared)
{
    const steps n = steps_of((int)p.k);
    moment t = {};
    source f = source_begin<C>(p, o, shared);
    even_places<C, L>(f, shared);
    if (L::SPLIT && threadIdx.x < GATES)
        gate_make(gate_of(shared, threadIdx.x));
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < 2; i++) {
        if (i % n.all == n.all - 1)
            source_last(p, f, n.all);
        fetch_range<0, FETCHES, L>(p, f, t);
        source_close<L>(f, shared, (uint32_t)i);
        t.x_to += L::SPLIT ? X_STAGE : STAGE;
        t.w_to += L::SPLIT ? W_STAGE : STAGE;
        if ((i + 1) % n.all == 0)
            source_tile(p, place_or_none(o, (int)blockIdx.x + (i + 1) / n.all * (int)gridDim.x), f,
                        thread_now());
    }
    if (L::SPLIT) {
        gate_say(gate_of(shared, 0));
        gate_pass(gate_of(shared, 0), 0);
    } else {
        fetch_wait<1>();
        __syncthreads();
    }
}

/* --- multiplying ----------------------------------------------------------------------------- */

struct pieces {
    uint32_t a[3][4], b[NT / 2][4]; /* rows t in t % 3; pairs of columns' tiles */
    uint32_t at_a, at_b;            /* where this lane reads them, of a step's first half */
};

template <typename L> __device__ __forceinline__ void find_pieces(pieces &w, uint32_t shared)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane % 16, col = warp % WN * WARP_N + lane / 16 * 8;
    w.at_a = shared + (L::LINES ? line_in(row, lane / 16) : place_in(row, lane / 16));
    /* matrices 0 and 1: both units of an even tile of eight columns, 2 and 3: of the odd one */
    w.at_b = shared + (L::LINES ? L::W_AT + line_in(col + lane % 8, lane / 8 % 2)
                                : place_in(BM + col + lane % 8, lane / 8 % 2));
}

/* Of one of a moment's halves. */
template <int T, int WHICH, typename L>
__device__ __forceinline__ void even_a(pieces &w, const moment &t)
{
    const uint32_t at = L::LINES && WHICH == 1 ? w.at_a ^ 32 : w.at_a;
    ldmatrix(w.a[T % 3], at + t.x[WHICH] + (uint32_t)(T * 16 * L::ROW));
}

template <int PAIR, int WHICH, typename L>
__device__ __forceinline__ void even_b(pieces &w, const moment &t)
{
    const uint32_t at = L::LINES && WHICH == 1 ? w.at_b ^ 32 : w.at_b;
    ldmatrix(w.b[PAIR], at + t.w[WHICH] + (uint32_t)(PAIR * 16 * L::ROW));
}

template <typename L> __device__ __forceinline__ void even_first(pieces &w, const moment &t)
{
    find_pieces<L>(w, t.shared);
    even_a<0, 0, L>(w, t);
    even_b<0, 0, L>(w, t);
    even_b<1, 0, L>(w, t);
    even_a<1, 0, L>(w, t);
    even_b<2, 0, L>(w, t);
    even_b<3, 0, L>(w, t);
}

/* 16 rows x 16 columns. */
template <int T, int PAIR>
__device__ __forceinline__ void two(const pieces &w, int (&acc)[MT][NT][4])
{
    mma(acc[T][2 * PAIR], w.a[T % 3], w.b[PAIR][0], w.b[PAIR][1]);
    mma(acc[T][2 * PAIR + 1], w.a[T % 3], w.b[PAIR][2], w.b[PAIR][3]);
}

template <typename L> __device__ __forceinline__ void wait_for_next(const moment &t)
{
    if (L::SPLIT) {
        gate_pass(gate_of(t.shared, t.step + 1), (t.step + 1) / GATES % 2);
    } else {
        fetch_wait<1>();
        __syncthreads();
    }
}

/* Two rows of tiles, 16 instructions. */
template <int SECOND, int P, typename L>
__device__ __forceinline__ void two_rows(const lx_cu_int8 &p, source &f, pieces &w,
                                         int (&acc)[MT][NT][4], const moment &t)
{
    constexpr int R = 2 * P, NEXT = SECOND + 1;
    constexpr bool IS_LAST = R + 2 == MT;
    constexpr int FROM = IS_LAST ? NEXT : SECOND, AT = SECOND ? FETCHES : P * 3; /* fetches */
    if constexpr (SECOND && IS_LAST)
        wait_for_next<L>(t);
    even_a<(R + 2) % MT, FROM, L>(w, t);
    two<R, 0>(w, acc);
    if constexpr (AT < FETCHES)
        fetch_at<AT, L>(p, f, t);
    two<R, 1>(w, acc);
    two<R + 1, 0>(w, acc);
    if constexpr (IS_LAST)
        even_b<0, NEXT, L>(w, t);
    if constexpr (AT + 1 < FETCHES)
        fetch_at<AT + 1, L>(p, f, t);
    two<R + 1, 1>(w, acc);
    if constexpr (IS_LAST)
        even_b<1, NEXT, L>(w, t);
    two<R, 2>(w, acc);
    if constexpr (AT + 2 < FETCHES)
        fetch_at<AT + 2, L>(p, f, t);
    two<R, 3>(w, acc);
    even_a<(R + 3) % MT, FROM, L>(w, t);
    if constexpr (L::SPLIT && SECOND && P == 0)
        gate_say(gate_of(t.shared, t.step + 1)); /* all weights of this step are read */
    two<R + 1, 2>(w, acc);
    if constexpr (IS_LAST)
        even_b<2, NEXT, L>(w, t);
    two<R + 1, 3>(w, acc);
    if constexpr (IS_LAST)
        even_b<3, NEXT, L>(w, t);
    if constexpr (SECOND == 0 && IS_LAST)
        source_close<L>(f, t.shared, t.step + 2);
}

/* --- codes beside products ------------------------------------------------------------------- */

/* unit / units_of_row, exact while their product is below 2^32: has_codes_beside. */
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

/* As get_columns gives them, one of each thread: there are as many. Read after a barrier. */
template <bool HAS_GATES = true>
__device__ __forceinline__ void keep_columns(const lx_cu_int8 &p, const place &here, float *kept)
{
    static_assert(THREADS == BN, "one column each");
    const int thread = thread_now();
    const int64_t col = (int64_t)here.n * BN + thread;
    const bool is_there = col < p.e.n;
    kept[thread] = is_there && p.e.w_scale ? p.e.w_scale[col] : 1.0f;
    kept[BN + thread] = is_there && p.e.bias.data ? cu_vec_at(p.e.bias, col) : 0.0f;
    if (HAS_GATES)
        kept[2 * BN + thread] = is_there && p.e.gate ? p.e.gate[col] : 1.0f;
}

/* --- a step ----------------------------------------------------------------------------------- */

/* Of codes the long divisions beside the first products, the rest beside those that follow: ptxas
 * moves nothing of them over the products in between. */
template <bool CODES, typename L>
__device__ __forceinline__ void step_even(const lx_cu_int8 &p, const habits &h, source &f,
                                          pieces &w, recoding &r, int (&acc)[MT][NT][4],
                                          const moment &t)
{
    float with = 0;
    two_rows<0, 0, L>(p, f, w, acc, t);
    two_rows<0, 1, L>(p, f, w, acc, t);
    two_rows<0, 2, L>(p, f, w, acc, t);
    if constexpr (CODES) {
        with = over_most(r.most);
        asm volatile("" : "+f"(with));
    }
    two_rows<1, 0, L>(p, f, w, acc, t);
    if constexpr (CODES) {
        even_put(p.codes, r, with);
        even_ask(p.codes, h, r);
    }
    two_rows<1, 1, L>(p, f, w, acc, t);
    two_rows<1, 2, L>(p, f, w, acc, t);
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

template <int C, bool GELU, bool CODES, typename L>
__global__ void __launch_bounds__(THREADS, 1) k_int8_even(lx_cu_int8 p, order o, habits h)
{
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    places_of *const both = (places_of *)(ring + PLACES_AT);
    pieces w;
    recoding r = {};
    r.at = NOWHERE;
    r.unit = blockIdx.x * WARPS + threadIdx.x / 32;
    begin_even<C, L>(p, o, shared);
    if (C == 4 && h.delay)
        wait_for_turn(h.delay);
    uint32_t step = 0;
    int turn = 0;
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        const steps n = steps_of((int)p.k);
        places_of &at = both[turn]; /* the other one may still be read */
        moment t = moment_at<L>(shared, step);
        turn ^= 1;
        if (threadIdx.x == 0)
            at = places_from(o, tile, n.all);
        __syncthreads();
        int acc[MT][NT][4] = {};
        source f = source_here<C, L>(p, at, t, n.all);
        if (L::KEPT)
            keep_columns(p, at.here, (float *)(ring + KEPT_AT));
        even_first<L>(w, t);
#pragma unroll 1
        for (int done = 0; done < n.all;) {
            const int until = run_until<C>(p, h, at.here, f, n, done);
#pragma unroll 1
            for (; done < until; done++) {
                find_next<L>(t);
                step_even<CODES, L>(p, h, f, w, r, acc, t);
                go_on(t);
            }
            if (done == n.own)
                source_tile(p, at.next, f, thread_now());
        }
        step = t.step;
        finish_sums<C, GELU, L::KEPT>(p, o.is_wide, at.here, acc, (const float *)(ring + KEPT_AT));
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
