/*
 * int8_mma_192_whole.cuh - int8_mma_192_even.cuh's loop with x fetched in whole lines of 128 bytes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       A warp's fetch of 512 bytes takes 8 rows of 64 bytes from 8 lines of memory, and its
 *           writing seems to take 8 clocks of shared memory, where 4 would do. Of 64 of K that is
 *           640 (ldmatrix), 224 (fetches) and 448 (writes): 1,312 of 1,152 clocks of mma.sync. So
 *           here a fetch of x takes 4 whole lines into 4 whole lines.
 * Ring      x in blocks of 128 of K, two of 24 KiB: unit u of row r at u ^ (r % 8). The weights in
 *           3 stages of 64 of K, 48 KiB, as there. With a tile's columns exactly 99 KiB: of 16 bits
 *           a tile's place lies where F32 has gates; F32's threads keep it themselves.
 * Steps     by twos. The first one fetches x's next block (6) and the weights of the step after the
 *           next (4), the second one the weights (4): 10 over two thirds of a step, 4 over half of
 *           one; a group each. The block written was read last before the barrier of the step
 *           before. With the last two steps of a tile come the first two of the next tile.
 * Predicted in clocks for 64 of K: 640 + 224 + 24 writes of 4 and 32 of 8, 1,216 in all instead of
 *           1,312: 1,380 with the ends, where 1,474 were measured. Not measured.
 * Registers 253 to 255; by CUDA 13.0 no word is kept in memory, for 8.6 and 9.0. 168 to 172
 *           instructions for 64 of K, with codes 232.
 * Serves    K in multiples of 128.
 */
#ifndef INT8_MMA_192_WHOLE_CUH
#define INT8_MMA_192_WHOLE_CUH

#include "int8_mma_192_even.cuh"

namespace int8
{
namespace even
{

constexpr int BLOCK = 2 * STEP, LINE_UNITS = BLOCK / 16; /* of K, bytes; of a row of x */
constexpr int X_BLOCK = BM * BLOCK, X_PASS = THREADS / LINE_UNITS;
constexpr int X_FETCHES = BM / X_PASS, W_FETCHES = BN / PASS;
constexpr int COLUMNS_AT = 2 * X_BLOCK + 3 * W_STAGE;
constexpr int SHARED_WHOLE = COLUMNS_AT + 3 * BN * (int)sizeof(float);
static_assert(SHARED_WHOLE <= 99 << 10 && COLUMNS_AT % 16 == 0, "what a block may have on an 8.6");
static_assert(X_FETCHES * X_PASS == BM && X_PASS % 8 == 0 && BLOCK == 128, "whole lines");
static_assert(X_FETCHES == 6 && W_FETCHES == 4, "find_fetch");

/* Instead of loop_of. */
struct whole_lines {
    static constexpr bool IS_WHOLE = true;
    static constexpr int SHARED = SHARED_WHOLE;
};

/* Where two steps are: the block of x being read, the other one is being filled; the weights of the
 * first step, the second one and the one after that. Bytes. */
struct twosome {
    uint32_t shared, x, w[3];
};

__device__ __forceinline__ void find_stages(twosome &t)
{
    t.w[1] = t.w[0] == 2 * W_STAGE ? 0 : t.w[0] + W_STAGE;
    t.w[2] = t.w[0] == 0 ? 2 * W_STAGE : t.w[0] - W_STAGE;
}

__device__ __forceinline__ void go_on(twosome &t)
{
    t.x = X_BLOCK - t.x;
    t.w[0] = t.w[2];
}

/* The tile being multiplied and the next one: for 16 bits in shared memory, where F32 has gates. */
struct kept_places {
    volatile int m, n, next_m, next_n;
};

/* --- fetching -------------------------------------------------------------------------------- */

/* The first two steps of a tile, or zeros. */
__device__ __forceinline__ void whole_tile(const lx_cu_int8 &p, const place &at, source &f)
{
    const int thread = thread_now();
    f.rows_x = f.rows_w = 0;
    if (at.m < 0)
        return;
    const int64_t m = (int64_t)at.m * BM + thread / LINE_UNITS,
                  n = (int64_t)at.n * BN + thread / UNITS;
    f.x = p.x + m * p.k + thread % LINE_UNITS * 16;
    f.w = p.w + n * p.k + thread % UNITS * 16;
    f.rows_x = (int)min((int64_t)BM, p.e.m - m);
    f.rows_w = (int)min((int64_t)BN, p.e.n - n);
}

/* Where this thread writes: in the first stage, the first block. */
template <int C> __device__ __forceinline__ uint32_t weights_place(uint32_t shared, int thread)
{
    const int row = thread / UNITS, in = row % (4 * C);
    const int col = row - in + in % C / 2 * 8 + in / C * 2 + in % 2; /* as in even_places */
    return shared + 2 * X_BLOCK + line_in(col, thread % UNITS);
}

template <int C> __device__ __forceinline__ void whole_places(source &f, uint32_t shared)
{
    const int thread = thread_now(), row = thread / LINE_UNITS, unit = thread % LINE_UNITS;
    f.at_x = shared + (uint32_t)(row * BLOCK + (unit ^ row % 8) * 16);
    f.at_w = weights_place<C>(shared, thread);
}

/* Codes leave no register for at_w: it is worked out for every two steps, from where x is written,
 * so that the compiler does not do it before the loop. */
template <int C> __device__ __forceinline__ void weights_again(source &f, const twosome &t)
{
    static_assert(X_BLOCK / 16 % THREADS == 0, "either block tells the thread");
    const uint32_t at = f.at_x + (X_BLOCK - t.x) - t.shared, unit = at / 16 ^ at / BLOCK % 8;
    f.at_w = weights_place<C>(t.shared, (int)(unit % THREADS));
}

/* 16 bytes of every thread: six of x, four of the weights. */
template <int ODD, int I>
__device__ __forceinline__ void whole_fetch(const lx_cu_int8 &p, source &f, const twosome &t)
{
    constexpr bool IS_X = I < X_FETCHES;
    constexpr int ROW = IS_X ? I * X_PASS : (I - X_FETCHES) * PASS;
    const int8_t *from = (IS_X ? f.x : f.w) + (uint32_t)(ROW * (int)p.k);
    int &rows = IS_X ? f.rows_x : f.rows_w;
    asm volatile("" : "+l"(from), "+r"(rows)); /* here and not before */
    const uint32_t to = IS_X ? f.at_x + (X_BLOCK - t.x) : f.at_w + t.w[ODD ? 0 : 2];
    fetch16(to + (uint32_t)(ROW * (IS_X ? BLOCK : STEP)), from, rows > ROW);
}

template <int ODD, int I = ODD ? X_FETCHES : 0>
__device__ __forceinline__ void whole_fetches(const lx_cu_int8 &p, source &f, const twosome &t)
{
    if constexpr (I < X_FETCHES + W_FETCHES) {
        whole_fetch<ODD, I>(p, f, t);
        whole_fetches<ODD, I + 1>(p, f, t);
    }
}

/* The fetch of a step's slot, three beside each two rows: all of the first 10, or every second one
 * of 8. */
__host__ __device__ constexpr int find_fetch(int odd, int slot)
{
    if (odd)
        return slot % 2 == 0 && slot < 8 ? X_FETCHES + slot / 2 : -1;
    return slot < X_FETCHES + W_FETCHES ? slot : -1;
}

template <int ODD, int SLOT>
__device__ __forceinline__ void fetch_slot(const lx_cu_int8 &p, source &f, const twosome &t)
{
    constexpr int I = find_fetch(ODD, SLOT);
    if constexpr (I >= 0)
        whole_fetch<ODD, I>(p, f, t);
}

template <int ODD> __device__ __forceinline__ void whole_close(source &f)
{
    fetch_close();
    f.x += ODD ? BLOCK : 0;
    f.w += STEP;
}

/* The first two steps; the first one is there when it returns. */
template <int C>
__device__ __forceinline__ void begin_whole(const lx_cu_int8 &p, const order &o, uint32_t shared)
{
    /* so that block 0 and stages 0 and 1 are filled */
    const twosome t = {shared, X_BLOCK, {W_STAGE, 0, 0}};
    source f = {};
    whole_places<C>(f, shared);
    whole_tile(p, tile_at(o, (int)blockIdx.x), f);
    whole_fetches<0>(p, f, t);
    whole_close<0>(f);
    whole_fetches<1>(p, f, t);
    whole_close<1>(f);
    fetch_wait<1>();
    __syncthreads();
}

/* --- multiplying ----------------------------------------------------------------------------- */

/* H: of the four halves of two steps; 4 is the next two's first. */
template <int T, int H> __device__ __forceinline__ void whole_a(pieces &w, const twosome &t)
{
    const uint32_t at = (w.at_a ^ (uint32_t)(H % 4 * 32)) + (H == 4 ? X_BLOCK - t.x : t.x);
    ldmatrix(w.a[T % 3], at + (uint32_t)(T * 16 * BLOCK));
}

template <int PAIR, int H> __device__ __forceinline__ void whole_b(pieces &w, const twosome &t)
{
    ldmatrix(w.b[PAIR],
             (w.at_b ^ (uint32_t)(H % 2 * 32)) + t.w[H / 2] + (uint32_t)(PAIR * 16 * STEP));
}

__device__ __forceinline__ void whole_first(pieces &w, const twosome &t)
{
    const int thread = thread_now(), lane = thread % 32, warp = thread / 32;
    const int row = warp / WN * WARP_M + lane % 16, col = warp % WN * WARP_N + lane / 16 * 8;
    w.at_a = t.shared + (uint32_t)(row * BLOCK + (lane / 16 ^ row % 8) * 16);
    w.at_b = t.shared + 2 * X_BLOCK + line_in(col + lane % 8, lane / 8 % 2); /* as in find_pieces */
    whole_a<0, 0>(w, t);
    whole_b<0, 0>(w, t);
    whole_b<1, 0>(w, t);
    whole_a<1, 0>(w, t);
    whole_b<2, 0>(w, t);
    whole_b<3, 0>(w, t);
}

/* Two rows of tiles, 16 instructions. Before the last ones of a step: the next one has landed, for
 * everyone, and nobody reads this one after it. */
template <int H, int P, bool CODES>
__device__ __forceinline__ void whole_rows(const lx_cu_int8 &p, source &f, pieces &w,
                                           int (&acc)[MT][NT][4], const twosome &t)
{
    constexpr int R = 2 * P, ODD = H / 2, SECOND = H % 2, SLOT = (SECOND * 3 + P) * 3;
    constexpr bool IS_LAST = R + 2 == MT;
    constexpr int FROM = IS_LAST ? H + 1 : H;
    if constexpr (CODES && SLOT == X_FETCHES && !ODD)
        weights_again<8>(f, t);
    if constexpr (SECOND && IS_LAST) {
        fetch_wait<1>();
        __syncthreads();
    }
    whole_a<(R + 2) % MT, FROM>(w, t);
    two<R, 0>(w, acc);
    fetch_slot<ODD, SLOT>(p, f, t);
    two<R, 1>(w, acc);
    two<R + 1, 0>(w, acc);
    if constexpr (IS_LAST)
        whole_b<0, H + 1>(w, t);
    fetch_slot<ODD, SLOT + 1>(p, f, t);
    two<R + 1, 1>(w, acc);
    if constexpr (IS_LAST)
        whole_b<1, H + 1>(w, t);
    two<R, 2>(w, acc);
    fetch_slot<ODD, SLOT + 2>(p, f, t);
    two<R, 3>(w, acc);
    whole_a<(R + 3) % MT, FROM>(w, t);
    two<R + 1, 2>(w, acc);
    if constexpr (IS_LAST)
        whole_b<2, H + 1>(w, t);
    two<R + 1, 3>(w, acc);
    if constexpr (IS_LAST)
        whole_b<3, H + 1>(w, t);
    if constexpr (SECOND && P == 0)
        whole_close<ODD>(f);
}

/* As step_even. */
template <int ODD, bool CODES>
__device__ __forceinline__ void step_whole(const lx_cu_int8 &p, const habits &h, source &f,
                                           pieces &w, recoding &r, int (&acc)[MT][NT][4],
                                           const twosome &t)
{
    float with = 0;
    whole_rows<2 * ODD, 0, CODES>(p, f, w, acc, t);
    whole_rows<2 * ODD, 1, CODES>(p, f, w, acc, t);
    whole_rows<2 * ODD, 2, CODES>(p, f, w, acc, t);
    if constexpr (CODES) {
        with = over_most(r.most);
        asm volatile("" : "+f"(with));
    }
    whole_rows<2 * ODD + 1, 0, CODES>(p, f, w, acc, t);
    if constexpr (CODES) {
        even_put(p.codes, r, with);
        even_ask(p.codes, h, r);
    }
    whole_rows<2 * ODD + 1, 1, CODES>(p, f, w, acc, t);
    whole_rows<2 * ODD + 1, 2, CODES>(p, f, w, acc, t);
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Until which two steps of a tile nothing else is to be done. */
template <int C>
__device__ __forceinline__ int run_twos(const lx_cu_int8 &p, const habits &h, const kept_places &at,
                                        source &f, int all, int done)
{
    int until = all;
    if (done == all - 1)
        whole_tile(p, {at.next_m, at.next_n}, f);
    else
        until = all - 1;
    if (C == 4 && h.is_asking) {
        const int left = 2 * (all - done), many = ASKS * ASK_EACH; /* steps */
        ask_residual(p.e, {at.m, at.n}, left);
        until = min(until, all - (left > many ? many : (left - 1) / ASK_EACH * ASK_EACH) / 2);
    }
    return until;
}

/* What is to be known of a tile. The one that is fetched while its last two steps are multiplied is
 * this block's next; what is fetched before that is its own, from its third step on. */
__device__ __forceinline__ void find_places(const order &o, int tile, kept_places &at)
{
    const place here = tile_at(o, tile), next = place_or_none(o, tile + (int)gridDim.x);
    at.m = here.m;
    at.n = here.n;
    at.next_m = next.m;
    at.next_n = next.n;
}

template <int C, bool GELU, bool CODES>
__global__ void __launch_bounds__(THREADS, 1) k_int8_whole(lx_cu_int8 p, order o, habits h)
{
    extern __shared__ __align__(128) unsigned char ring[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(ring);
    float *const kept = (float *)(ring + COLUMNS_AT);
    kept_places mine, &at = C == 8 ? *(kept_places *)(kept + 2 * BN) : mine;
    pieces w;
    recoding r = {};
    twosome t = {shared};
    r.at = NOWHERE;
    r.unit = blockIdx.x * WARPS + threadIdx.x / 32;
    begin_whole<C>(p, o, shared);
    if (C == 4 && h.delay)
        wait_for_turn(h.delay);
    for (int tile = (int)blockIdx.x; tile < o.n_tiles; tile += (int)gridDim.x) {
        const int all = (int)p.k / BLOCK;
        source f = {};
        __syncthreads(); /* the columns of the tile before have been read, its place too */
        if (C == 4 || threadIdx.x == 0)
            find_places(o, tile, at);
        if (C == 8)
            __syncthreads();
        int acc[MT][NT][4] = {};
        whole_tile(p, {at.m, at.n}, f);
        f.x += BLOCK; /* of one block alone it is not used */
        f.w += BLOCK;
        whole_places<C>(f, shared);
        keep_columns<C == 4>(p, {at.m, at.n}, kept);
        whole_first(w, t);
#pragma unroll 1
        for (int done = 0; done < all;) {
            const int until = run_twos<C>(p, h, at, f, all, done);
#pragma unroll 1
            for (; done < until; done++) {
                find_stages(t);
                step_whole<0, CODES>(p, h, f, w, r, acc, t);
                step_whole<1, CODES>(p, h, f, w, r, acc, t);
                go_on(t);
            }
        }
        finish_sums<C, GELU, true>(p, o.is_wide, {at.m, at.n}, acc, kept);
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
