/*
 * attention_wgmma.cu - attention on Hopper: INT8 queries and keys, F16 or FP8 weights and values
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   that of attention_int8.cu. FP8: v = v_scale codes + v_shift (attention_tiles.cu),
 *           weights p = 2^(x - ref) in E4M3 with ref = maximum - 8.807, so that p <= 448; the sum
 *           of weights is of the unrounded ones.
 * Scales    one per query; keys as in attention_int8.cu: four for each 64.
 * Plan      A block of 128 queries of a head: two warp groups of 64 compute, a third group's first
 *           thread fetches images of 128 keys (attention_image.h) through 4 stages. A group has
 *             q k^T of tile j+1   and   p v of tile j
 *           in flight together; while p v runs it does the softmax of tile j+1. The groups do not
 *           wait for each other: turns in handing out products cost 6 to 8 % (measured).
 *           FP8 products keep about 14 bits of a sum (SageAttention 2), so each tile's 128 keys
 *           are summed afresh and added to o in F32; F16 products add to o themselves.
 *           One block after the other on an SM, not a loop in one: the model's length has 10,240
 *           blocks of 0.2 ms on 132 SMs, of which begin and end take about 2 %.
 * Shared    queries 16 KB, keys 4 x 16 KB, values 4 x 16 (32) KB: 145 (209) KB, one block per SM.
 * Registers 240 per computing thread: scores, then weights 64, o 64, FP8 sums of a tile 64, packed
 *           weights 16 (F16: 32), about 25 others. 24 for fetching. None is spilled.
 * Floors    32,760 x 32,760, 40 heads of 128, one H100 (132 SMs, 1.83 GHz as its data sheet
 *           reckons). 64 queries x 128 keys are 39,719 tiles an SM, each of
 *             products      256 clocks INT8 + 256 FP8 (512 F16): 11.1 ms (16.7 ms)
 *             exponentials  8,192 at 16 a clock, 512 clocks:     11.1 ms
 *             instructions  about 480 a warp, one a clock:       10.4 ms
 *             shared memory 40 (56) KB at 128 B a clock:         7.0 (9.7) ms
 *             cache         16 (24) KB of 86 (129) GB in all: at 5.5 TB/s 15.6 (23.4) ms
 *           and device memory 1.0 (1.2) GB, 0.3 (0.4) ms. Wanted: <= 26 ms (34 ms), 1,150 (1,500)
 *           clocks a tile at 1.75 GHz.
 */
#include "attention_codes.cuh"
#include "attention_image.h"
#include "attention_tile.cuh"
#include "wgmma.cuh"

using namespace tile;

constexpr int GROUP = 128, ROWS_OF_GROUP = 64, QUERIES = 2 * ROWS_OF_GROUP, THREADS = 3 * GROUP;
constexpr int STAGES = 4, K_STAGE = LX_CU_IMAGE_OPERAND, DIM = 128;
constexpr int Q_BYTES = QUERIES * DIM, BARRIER_BYTES = 4 * STAGES * 8;

/* The bytes of a block's shared memory. */
template <bool IS_FP8> struct Room {
    static constexpr int V_STAGE = IS_FP8 ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES;
    static constexpr int K = Q_BYTES, V = K + STAGES * K_STAGE, BARRIERS = V + STAGES * V_STAGE,
                         ROWS = BARRIERS + BARRIER_BYTES, /* scale and shift of each query */
        ALL = ROWS + 2 * QUERIES * 4;
};

#ifdef LX_HAS_WGMMA

constexpr int TILE_KEYS = LX_CU_IMAGE_KEYS;
constexpr float FP8_TOP = 8.807f; /* log2 448 */

/* Barriers: `full` when an image is there, `empty` when all 8 computing warps are done with it. */
enum Kind { K_FULL, K_EMPTY, V_FULL, V_EMPTY };

template <bool IS_FP8> struct Stage {
    uint32_t base, index, parity;

    __device__ __forceinline__ Stage(uint32_t shared, int tile)
        : base(shared), index((uint32_t)tile % STAGES), parity((uint32_t)tile / STAGES & 1)
    {
    }

    __device__ __forceinline__ uint32_t bar(Kind kind) const
    {
        return base + Room<IS_FP8>::BARRIERS + ((uint32_t)kind * STAGES + index) * 8;
    }

    __device__ __forceinline__ uint32_t k() const
    {
        return base + Room<IS_FP8>::K + index * K_STAGE;
    }

    __device__ __forceinline__ uint32_t v() const
    {
        return base + Room<IS_FP8>::V + index * Room<IS_FP8>::V_STAGE;
    }

    __device__ __forceinline__ void wait(Kind kind) const
    {
        wgmma::barrier_wait(bar(kind), parity);
    }

    /* This warp reads no more of it. */
    __device__ __forceinline__ void release(Kind kind) const
    {
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            wgmma::barrier_arrive(bar(kind));
    }
};

/* --- fetching: one thread -------------------------------------------------------------------- */

template <bool IS_FP8>
__device__ __forceinline__ void fetch(const lx_cu_attention &a, int head, int n_tiles,
                                      uint32_t shared)
{
    constexpr int V_BYTES = Room<IS_FP8>::V_STAGE;
    const uint8_t *k = a.k_images + (int64_t)head * n_tiles * LX_CU_IMAGE_K_BYTES;
    const uint8_t *v = a.v_images + (int64_t)head * n_tiles * V_BYTES;
    for (int i = 0; i < n_tiles; i++) {
        const Stage<IS_FP8> stage(shared, i);
        wgmma::barrier_wait(stage.bar(K_EMPTY), stage.parity ^ 1);
        wgmma::barrier_expect(stage.bar(K_FULL), LX_CU_IMAGE_OPERAND);
        wgmma::bulk_copy(stage.k(), k, LX_CU_IMAGE_OPERAND, stage.bar(K_FULL));
        wgmma::barrier_wait(stage.bar(V_EMPTY), stage.parity ^ 1);
        wgmma::barrier_expect(stage.bar(V_FULL), V_BYTES);
        wgmma::bulk_copy(stage.v(), v, V_BYTES, stage.bar(V_FULL));
        k += LX_CU_IMAGE_K_BYTES;
        v += V_BYTES;
    }
}

/* --- queries --------------------------------------------------------------------------------- */

/* This warp's 16 queries, from row0 on, as codes into its group's operand; scale[r] and, for the
 * log of the sum, shift[r] = q . mean(k), both in log2 units of logits. 16 lanes share a row. */
__device__ __forceinline__ void quantize_queries(const lx_cu_attention &a, int head, int64_t row0,
                                                 char *operand, float *scale, float *shift)
{
    const int lane = threadIdx.x % 32, channel = lane % 16 * 8, warp = threadIdx.x / 32 % 4;
    const __nv_bfloat16 *q = (const __nv_bfloat16 *)a.q + (int64_t)head * DIM + channel;
    const float unit = a.scale * LOG2E;
    const bool is_raw = a.turn.square != NULL;
    TurnLane by;
    if (is_raw)
        by.begin(a.turn, (int64_t)head * DIM + channel);
#pragma unroll 4
    for (int step = 0; step < 8; step++) {
        int r = 2 * step + lane / 16;
        uint4 raw = make_uint4(0, 0, 0, 0);
        float x[8], most = 0, dot = 0;
        if (row0 + r < a.n_q)
            raw = *(const uint4 *)(q + (row0 + r) * a.q_stride);
        widen8<__nv_bfloat16>(raw, x);
        if (is_raw && row0 + r < a.n_q)
            by.turn(turn_row(a.turn, row0 + r), x);
#pragma unroll
        for (int i = 0; i < 8; i++)
            most = fmaxf(most, fabsf(x[i]));
        if (a.lse)
#pragma unroll
            for (int i = 0; i < 8; i++)
                dot = fmaf(x[i], a.k_mean[head * DIM + channel + i], dot);
#pragma unroll
        for (int i = 8; i > 0; i /= 2) {
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
            dot += __shfl_xor_sync(0xffffffffu, dot, i);
        }
        *(uint2 *)(operand + lx_cu_image_at(warp * 16 + r, channel)) =
            codes_of(x, most > 0 ? 127.0f / most : 0);
        if (lane % 16 == 0) {
            scale[warp * 16 + r] = most / 127.0f * unit;
            shift[warp * 16 + r] = dot * unit;
        }
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

/* A lane's two rows, slot r being row 8 r + g of its warp's 16, and its four factors. */
struct Softmax {
    float q_scale[2], k_scale[2]; /* per row; per half of the tile's keys */
    float ref[2], sum[2];         /* sum is this lane's part */
    float factor[2];              /* what the last tile's move of ref multiplies older sums by */
    float scale[2][2];            /* of the tile at work: per row and half */
    bool has_moved, is_cut;       /* is_cut: s is logits */

    __device__ __forceinline__ void begin(const float *scale)
    {
        int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            q_scale[r] = scale[row + 8 * r];
            ref[r] = -1e30f;
            sum[r] = 0;
            factor[r] = 0;
        }
        has_moved = is_cut = false;
    }

    /* Of an image in device memory. It is asked for a tile ahead, so nothing waits for it; and no
     * thread reads what the next copy overwrites. */
    __device__ __forceinline__ void read_scales(const uint8_t *image)
    {
        const float *at = (const float *)(image + lx_cu_image_scale_at((int)threadIdx.x % 4));
        k_scale[0] = __ldg(at);
        k_scale[1] = __ldg(at + 4);
    }

    /* F16: ref follows only what has grown by more than 2^(TOP - BASE): o is rarely scaled. */
    __device__ __forceinline__ void follow_rarely(const float (&most)[2])
    {
        bool has_grown = most[0] > ref[0] + WEIGHT_TOP || most[1] > ref[1] + WEIGHT_TOP;
        has_moved = __any_sync(0xffffffffu, has_grown);
        if (has_moved)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float to = most[r] > ref[r] + WEIGHT_TOP ? most[r] - WEIGHT_BASE : ref[r];
                factor[r] = exp2_fast(ref[r] - to);
                ref[r] = to;
                sum[r] *= factor[r];
            }
    }

    /* FP8: scaling o costs nothing, as it is added to anyway. */
    __device__ __forceinline__ void follow_always(const float (&most)[2])
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float to = fmaxf(ref[r], most[r] - FP8_TOP);
            factor[r] = exp2_fast(ref[r] - to);
            ref[r] = to;
            sum[r] *= factor[r];
        }
    }

    /* The tile's largest logit of each row. Scores of keys that do not exist become logits of -inf,
     * and so all of them logits, as the bits of floats: a scale may be 0. Else the largest of s32
     * numbers is found three at a time, and none of them is converted yet. */
    __device__ __forceinline__ void largest(int (&s)[64], const float (&scale)[2][2], bool is_cut,
                                            int left, float (&most)[2])
    {
        if (is_cut) {
            int key = (int)threadIdx.x % 4 * 2;
            most[0] = most[1] = -INFINITY;
#pragma unroll
            for (int i = 0; i < 64; i++) {
                bool is_there = key + i / 4 * 8 + i % 2 < left;
                float x = __int2float_rn(s[i]) * scale[i / 2 % 2][i / 32];
                x = is_there ? x : -INFINITY;
                most[i / 2 % 2] = fmaxf(most[i / 2 % 2], x);
                s[i] = __float_as_int(x);
            }
        } else {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int half[2] = {s[2 * r], s[32 + 2 * r]};
#pragma unroll
                for (int i = 0; i < 64; i += 4)
                    half[i / 32] = max(max(half[i / 32], s[i + 2 * r]), s[i + 2 * r + 1]);
                most[r] = fmaxf(__int2float_rn(half[0]) * scale[r][0],
                                __int2float_rn(half[1]) * scale[r][1]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 1));
            most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 2));
        }
    }

    /* The scores' scales, and ref moved: then weights(). */
    template <bool IS_FP8> __device__ __forceinline__ void look(int (&s)[64], int left)
    {
        float most[2];
#pragma unroll
        for (int i = 0; i < 4; i++)
            scale[i / 2][i % 2] = q_scale[i / 2] * k_scale[i % 2];
        is_cut = left < TILE_KEYS;
        largest(s, scale, is_cut, left, most);
        if (IS_FP8)
            follow_always(most);
        else
            follow_rarely(most);
    }

    /* Weights f from the scores. Conversions stand beside exponentials, which take four times as
     * long. */
    __device__ __forceinline__ void weights(const int (&s)[64], float (&f)[64])
    {
        if (is_cut) {
#pragma unroll
            for (int i = 0; i < 64; i++) {
                f[i] = exp2_fast(__int_as_float(s[i]) - ref[i / 2 % 2]);
                sum[i / 2 % 2] += f[i];
            }
        } else {
#pragma unroll
            for (int i = 0; i < 64; i++) {
                float x = fmaf(__int2float_rn(s[i]), scale[i / 2 % 2][i / 32], -ref[i / 2 % 2]);
                f[i] = exp2_fast(x);
                sum[i / 2 % 2] += f[i];
            }
        }
    }
};

/* Never true, which the compiler does not know: its scheduler would move the wait for the products
 * that run beside the exponentials to before them; a branch that needs all of them stops it. (With
 * a trap instead, ptxas 13.0 spills.) */
__device__ __forceinline__ void wall(const Softmax &soft)
{
    if (soft.sum[0] + soft.sum[1] < 0)
        __nanosleep(0);
}

/* Weights as operand A. F16: register reg of step kk is row slot reg % 2, keys 16 kk + 8 (reg / 2)
 * + 2t, 2t + 1. */
__device__ __forceinline__ void pack(const float (&f)[64], uint32_t (&p)[32])
{
#pragma unroll
    for (int i = 0; i < 32; i++)
        p[i] = pack_f16(f[2 * i], f[2 * i + 1]);
}

/* FP8: register reg of step kk is row slot reg % 2, keys 32 kk + 16 (reg / 2) + a lane's four. */
__device__ __forceinline__ void pack(const float (&f)[64], uint32_t (&p)[16])
{
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int first = lx_cu_image_fp8_score(i);
        p[i] = pack_e4m3(f[first], f[first + 1], f[first + 4], f[first + 5]);
    }
}

/* --- products -------------------------------------------------------------------------------- */

__device__ __forceinline__ void scores(int (&s)[64], uint64_t q, uint64_t k)
{
#pragma unroll
    for (int step = 0; step < DIM / 32; step++)
        wgmma::mma_s8(s, q + 2 * step, k + 2 * step, step > 0);
}

/* FP8: the sums of this tile alone. */
__device__ __forceinline__ void add_values(float (&part)[64], const uint32_t (&p)[16], uint32_t v)
{
    uint64_t d = lx_cu_image_descriptor(v);
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 32; i++)
        wgmma::mma_e4m3(part, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], d + 2 * i, i > 0);
}

__device__ __forceinline__ void add_values(float (&o)[64], const uint32_t (&p)[32], uint32_t v)
{
    uint64_t d = lx_cu_image_descriptor(v);
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 16; i++)
        wgmma::mma_f16(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3],
                       d + i / 4 * (LX_CU_IMAGE_OPERAND / 16) + i % 4 * 2);
}

__device__ __forceinline__ void scale_rows(float (&o)[64], const float (&factor)[2])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] *= factor[i / 2 % 2];
}

/* --- the walk of one group ------------------------------------------------------------------- */

template <bool IS_FP8> struct Walk {
    float o[64], part[64]; /* part: FP8 only */
    uint32_t p[IS_FP8 ? 16 : 32];
    Softmax soft;

    __device__ __forceinline__ void start_values(const Stage<IS_FP8> &stage)
    {
        wgmma::fence();
        if constexpr (IS_FP8)
            add_values(part, p, stage.v());
        else
            add_values(o, p, stage.v());
        wgmma::commit();
    }

    /* factor: of the tile whose values have been added. */
    __device__ __forceinline__ void take_sums(const float (&factor)[2])
    {
        if constexpr (IS_FP8)
#pragma unroll
            for (int i = 0; i < 64; i++)
                o[i] = fmaf(o[i], factor[i / 2 % 2], part[i]);
    }

    __device__ __forceinline__ void run(uint32_t shared, uint32_t group, const uint8_t *k_images,
                                        int n_k, int n_tiles)
    {
        int s[64];
        float f[64];
        const uint64_t q = lx_cu_image_descriptor(shared + group * (Q_BYTES / 2));
        const Stage<IS_FP8> first(shared, 0);
        soft.read_scales(k_images);
        first.wait(K_FULL);
        wgmma::fence();
        scores(s, q, lx_cu_image_descriptor(first.k()));
        wgmma::commit();
        wgmma::wait<0>(s);
        first.release(K_EMPTY);
        soft.template look<IS_FP8>(s, n_k);
        k_images += n_tiles > 1 ? LX_CU_IMAGE_K_BYTES : 0;
        soft.read_scales(k_images);
        soft.weights(s, f);
        pack(f, p);
#pragma unroll
        for (int i = 0; i < 64; i++)
            o[i] = 0;

#pragma unroll 1
        for (int i = 1; i < n_tiles; i++) {
            const Stage<IS_FP8> now(shared, i), before(shared, i - 1);
            const float older[2] = {soft.factor[0], soft.factor[1]};
            now.wait(K_FULL);
            wgmma::fence();
            scores(s, q, lx_cu_image_descriptor(now.k()));
            wgmma::commit();
            before.wait(V_FULL);
            start_values(before);
            wgmma::wait<1>(s);
            now.release(K_EMPTY);
            soft.template look<IS_FP8>(s, n_k - i * TILE_KEYS);
            k_images += i + 1 < n_tiles ? LX_CU_IMAGE_K_BYTES : 0;
            soft.read_scales(k_images);
            soft.weights(s, f);
            wall(soft);
            wgmma::wait_all(IS_FP8 ? part : o, f);
            before.release(V_EMPTY);
            take_sums(older);
            if (!IS_FP8 && soft.has_moved)
                scale_rows(o, soft.factor);
            pack(f, p); /* not earlier: the products were reading p */
        }
        const Stage<IS_FP8> last(shared, n_tiles - 1);
        last.wait(V_FULL);
        start_values(last);
        wgmma::wait_all(IS_FP8 ? part : o);
        take_sums(soft.factor);
    }

    /* Rows row0 + 8 r + g of this warp, and the log of their sums. shift: of this warp's rows. */
    __device__ __forceinline__ void store(const lx_cu_attention &a, int head, int64_t row0,
                                          const float *shift)
    {
        const int lane = threadIdx.x % 32, column = lane % 4 * 2;
        const float *v_scale = IS_FP8 ? a.v_scale + head * DIM + column : NULL;
        const float *v_shift = IS_FP8 ? a.v_shift + head * DIM + column : NULL;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = soft.sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            int64_t row = row0 + 8 * r + lane / 4;
            if (row >= a.n_q)
                continue;
            float factor = 1.0f / total;
            if (a.lse && lane % 4 == 0)
                a.lse[head * a.n_q + row] =
                    (soft.ref[r] + log2f(total) + shift[8 * r + lane / 4]) / LOG2E;
            __nv_bfloat16 *to =
                (__nv_bfloat16 *)a.out + row * a.out_stride + (int64_t)head * DIM + column;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                float low = o[4 * n + 2 * r] * factor, high = o[4 * n + 2 * r + 1] * factor;
                if (IS_FP8) {
                    low = fmaf(low, v_scale[8 * n], v_shift[8 * n]);
                    high = fmaf(high, v_scale[8 * n + 1], v_shift[8 * n + 1]);
                }
                *(uint32_t *)(to + 8 * n) = pack_bf16(low, high);
            }
        }
    }
};

template <bool IS_FP8>
__device__ __forceinline__ void compute(const lx_cu_attention &a, int head, int64_t block0,
                                        int n_tiles, char *shared)
{
    using R = Room<IS_FP8>;
    /* The same for a whole warp, which the compiler then knows. */
    const uint32_t group = __shfl_sync(0xffffffffu, threadIdx.x / GROUP, 0) - 1;
    const int first = (int)group * ROWS_OF_GROUP, warp_row = (int)threadIdx.x / 32 % 4 * 16;
    float *scale = (float *)(shared + R::ROWS) + first, *shift = scale + QUERIES;
    const int64_t row0 = block0 + first + warp_row;
    quantize_queries(a, head, row0, shared + first * DIM, scale, shift);
    wgmma::stores_to_operands();
    wgmma::named_sync(1 + group, GROUP);
    Walk<IS_FP8> walk;
    walk.soft.begin(scale);
    walk.run(shared_address(shared), group,
             a.k_images + (int64_t)head * n_tiles * LX_CU_IMAGE_K_BYTES, (int)a.n_k, n_tiles);
    walk.store(a, head, row0, shift + warp_row);
}

template <bool IS_FP8> __device__ __forceinline__ void prepare_barriers(uint32_t shared)
{
    if (threadIdx.x == 0) {
        if (shared % 1024)
            __trap(); /* operands would lie elsewhere than descriptors say */
        for (int i = 0; i < STAGES; i++) {
            const Stage<IS_FP8> stage(shared, i);
            wgmma::barrier_init(stage.bar(K_FULL), 1);
            wgmma::barrier_init(stage.bar(V_FULL), 1);
            wgmma::barrier_init(stage.bar(K_EMPTY), 8);
            wgmma::barrier_init(stage.bar(V_EMPTY), 8);
        }
        wgmma::barrier_init_done();
    }
    __syncthreads();
}

template <bool IS_FP8>
__global__ void __launch_bounds__(THREADS, 1)
    k_attention_wgmma(const __grid_constant__ lx_cu_attention a, Piece piece)
{
    extern __shared__ __align__(1024) char shared[];
    const int head = piece.head + (int)blockIdx.y,
              n_tiles = ((int)a.n_k + TILE_KEYS - 1) / TILE_KEYS;
    const int64_t block0 = (int64_t)(piece.block + (int)blockIdx.x) * QUERIES;
    prepare_barriers<IS_FP8>(shared_address(shared));
    if (threadIdx.x < GROUP) {
        wgmma::registers_down<24>();
        if (threadIdx.x == 0)
            fetch<IS_FP8>(a, head, n_tiles, shared_address(shared));
    } else {
        wgmma::registers_up<240>();
        compute<IS_FP8>(a, head, block0, n_tiles, shared);
    }
}

#else

/* Other cards never get here: attention.c asks lx_card_has_wgmma. */
template <bool IS_FP8>
__global__ void k_attention_wgmma(const __grid_constant__ lx_cu_attention, Piece)
{
    __trap();
}

#endif

template <bool IS_FP8> static int launch(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    constexpr int SHARED = Room<IS_FP8>::ALL;
    auto kernel = k_attention_wgmma<IS_FP8>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    return in_pieces(a, QUERIES, 1, [&](dim3 grid, Piece piece) {
        kernel<<<grid, THREADS, SHARED, dev->compute>>>(*a, piece);
    });
}

extern "C" int cu_attention_wgmma(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    return a->v_scale ? launch<true>(dev, a) : launch<false>(dev, a);
}
