/*
 * attention_wgmma.cu - attention on Hopper: INT8 queries and keys, F16 or FP8 weights and values
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   that of attention_int8.cu. FP8: v = v_scale codes + v_shift (attention_tiles.cu),
 *           weights p = 2^(x - ref) in E4M3, p <= 448; the sum of weights is of the unrounded ones.
 * Scales    one per query; keys as in attention_int8.cu: four for each 64, read from the image in
 *           device memory by whoever wants them.
 * Plan      A block of 128 queries of a head: two warp groups of 64 compute, a third group's first
 *           thread fetches images of 128 keys (attention_image.h) through 4 stages. A group has
 *             q k^T of tile j+1   and   p v of tile j
 *           in flight together. While p v runs it weighs the first 3 (F16: 5) of 8 parts of tile
 *           j+1; then p v is waited for, and its sums are taken and weights packed beside the
 *           exponentials of the other parts. The groups do not wait for each other. Softmax:
 *           attention_wgmma_softmax.cuh.
 *           FP8 products keep about 14 bits of a sum (SageAttention 2), so each tile's 128 keys
 *           are summed afresh and added to o in F32; F16 products add to o themselves.
 *           One block after the other on an SM, not a loop in one: the model's length has 10,240
 *           blocks of 0.28 (0.33) ms on 132 SMs, of which begin and end take about 4 %.
 * Shared    queries 16 KB, keys 4 x 16 KB, values 4 x 16 (32) KB: 145 (209) KB, one block per SM.
 * Registers 240 per computing thread: scores, then weights 64, o 64, FP8 sums of a tile 64, packed
 *           weights 16 (F16: 32), about 25 others. 24 for fetching. None is spilled.
 * Floors    32,760 x 32,760, 40 heads of 128, one H100 (132 SMs, 1.83 GHz as its data sheet
 *           reckons). 64 queries x 128 keys are 39,719 tiles an SM, each of
 *             products      256 clocks INT8 + 256 FP8 (512 F16): 11.1 ms (16.7 ms)
 *             exponentials  8,192 at 16 a clock, 512 clocks:     11.1 ms
 *             instructions  about 490 a warp, one a clock:       10.6 ms
 *             shared memory 40 (56) KB at 128 B a clock:         7.0 (9.7) ms
 *             cache         16 (24) KB of 86 (129) GB in all: at 5.5 TB/s 15.6 (23.4) ms
 *           and device memory 1.0 (1.2) GB, 0.3 (0.4) ms. Measured with FP8 values, by Nsight's
 *           clocks of one launch: 957 a tile (when scales still came from shared memory).
 */
#include "attention_codes.cuh"
#include "attention_image.h"
#include "attention_wgmma_softmax.cuh"

using namespace tile;

constexpr int GROUP = 128, ROWS_OF_GROUP = 64, QUERIES = 2 * ROWS_OF_GROUP, THREADS = 3 * GROUP;
constexpr int STAGES = 4, K_STAGE = LX_CU_IMAGE_OPERAND, DIM = 128;
constexpr int Q_BYTES = QUERIES * DIM, BARRIER_BYTES = 4 * STAGES * 8;

/* The bytes of a block's shared memory. */
template <bool IS_FP8> struct Room {
    static constexpr int V_STAGE = IS_FP8 ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES;
    static constexpr int K = Q_BYTES, V = K + STAGES * K_STAGE, BARRIERS = V + STAGES * V_STAGE;
    static constexpr int ROWS = BARRIERS + BARRIER_BYTES, /* scale and shift of each query */
        ALL = ROWS + 2 * QUERIES * 4;
    static_assert(K % 1024 == 0 && V % 1024 == 0 && K_STAGE % 1024 == 0 && V_STAGE % 1024 == 0,
                  "operands");
    static_assert(BARRIERS % 8 == 0, "barriers");
};

#ifdef LX_HAS_WGMMA

constexpr int TILE_KEYS = LX_CU_IMAGE_KEYS;

/* Barriers: `full` when an image is there, `empty` when all 8 computing warps are done with it. */
enum Kind { K_FULL, K_EMPTY, V_FULL, V_EMPTY };

template <bool IS_FP8> struct Stage {
    uint32_t base, index, parity;

    __device__ __forceinline__ Stage(uint32_t shared, uint32_t stage)
        : base(shared), index(stage), parity(0)
    {
    }

    __device__ __forceinline__ void go_on()
    {
        index = (index + 1) % STAGES;
        parity ^= index == 0;
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

    __device__ __forceinline__ uint64_t k_operand() const
    {
        return lx_cu_image_descriptor(base + Room<IS_FP8>::K) + index * (K_STAGE / 16);
    }

    __device__ __forceinline__ uint64_t v_operand() const
    {
        return lx_cu_image_descriptor(base + Room<IS_FP8>::V) +
               index * (Room<IS_FP8>::V_STAGE / 16);
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
    Stage<IS_FP8> stage(shared, 0);
    for (int i = 0; i < n_tiles; i++, stage.go_on()) {
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
    uint4 raw[8];
#pragma unroll
    for (int step = 0; step < 8; step++) {
        const int64_t row = row0 + 2 * step + lane / 16;
        raw[step] = make_uint4(0, 0, 0, 0);
        if (row < a.n_q)
            raw[step] = *(const uint4 *)(q + row * a.q_stride);
    }
    if (is_raw)
        by.begin(a.turn, (int64_t)head * DIM + channel);
#pragma unroll
    for (int step = 0; step < 8; step++) {
        int r = 2 * step + lane / 16;
        float x[8], most = 0, dot = 0;
        widen8<__nv_bfloat16>(raw[step], x);
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

/* --- products -------------------------------------------------------------------------------- */

__device__ __forceinline__ void scores(int (&s)[64], uint64_t q, uint64_t k)
{
#pragma unroll
    for (int step = 0; step < DIM / 32; step++)
        wgmma::mma_s8(s, q + 2 * step, k + 2 * step, step > 0);
}

/* The same scores once more, of this warp alone: by mma.sync, keys from their image in device
 * memory. It takes few registers, not little time. */
__device__ __forceinline__ void scores_of_warp(int (&s)[64], uint32_t q, const uint8_t *k)
{
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 64; i++)
        s[i] = 0;
#pragma unroll 1
    for (int byte = lane % 4 * 4; byte < DIM; byte += 32) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = word_at(q + lx_cu_image_at(row + i % 2 * 8, byte + i / 2 * 16));
        const uint8_t *const low = k + lx_cu_image_at(lane / 4, byte);
        const uint8_t *const high = k + lx_cu_image_at(lane / 4, byte + 16);
#pragma unroll
        for (int n = 0; n < TILE_KEYS / 8; n++) {
            int c[4] = {s[4 * n], s[4 * n + 1], s[4 * n + 2], s[4 * n + 3]};
            mma_s8(c, a, __ldg((const uint32_t *)(low + n * 8 * DIM)),
                   __ldg((const uint32_t *)(high + n * 8 * DIM)), c[0], c[1], c[2], c[3]);
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[4 * n + i] = c[i];
        }
    }
}

/* FP8: the sums of this tile alone. */
__device__ __forceinline__ void add_values(float (&part)[64], const uint32_t (&p)[16], uint64_t v)
{
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 32; i++)
        wgmma::mma_e4m3(part, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], v + 2 * i, i > 0);
}

__device__ __forceinline__ void add_values(float (&o)[64], const uint32_t (&p)[32], uint64_t v)
{
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 16; i++)
        wgmma::mma_f16(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3],
                       v + i / 4 * (LX_CU_IMAGE_OPERAND / 16) + i % 4 * 2);
}

__device__ __forceinline__ void scale_rows(float (&o)[64], const float (&factor)[2])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        o[i] *= factor[i / 2 % 2];
}

/* --- the walk of one group ------------------------------------------------------------------- */

template <bool IS_FP8> struct Walk {
    /* Of a tile's eight parts so many are weighed before the products of the tile before are waited
     * for: products of F16 take twice as long. */
    static constexpr int SPLIT = IS_FP8 ? 3 : 5;

    float o[64], part[64]; /* part: of the tile before, FP8 only */
    uint32_t p[IS_FP8 ? 16 : 32];
    Softmax<IS_FP8> soft;

    __device__ __forceinline__ void start_values(const Stage<IS_FP8> &stage)
    {
        wgmma::fence();
        if constexpr (IS_FP8)
            add_values(part, p, stage.v_operand());
        else
            add_values(o, p, stage.v_operand());
        wgmma::commit();
    }

    __device__ __forceinline__ void take_sums()
    {
        if constexpr (IS_FP8)
#pragma unroll
            for (int i = 0; i < 64; i++)
                o[i] += part[i];
    }

    /* Scores have outgrown ref, which moves: weights are scaled, or those of far rows made anew.
     * A row's are the same bits whatever the warp's other rows do. q: where this group's queries
     * are; k: the tile's image. */
    __device__ __forceinline__ void weigh_again(int (&s)[64], float (&f)[64], float (&most)[2],
                                                uint32_t q, const uint8_t *k)
    {
        soft.most_of_rows(most);
        if (!soft.has_grown(most, FAR)) {
            soft.follow(most);
            scale_rows(f, soft.factor);
            return;
        }
        const float before[2] = {soft.minus[0], soft.minus[1]};
        float with[2], by[2], sum[2] = {};
        bool is_far[2];
        soft.follow(most);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            is_far[r] = most[r] + before[r] > FAR;
            with[r] = is_far[r] ? soft.minus[r] : before[r];
            by[r] = is_far[r] ? 1 : soft.factor[r];
        }
        scores_of_warp(s, q, k);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const int r = i / 2 % 2;
            f[i] = exp2_fast(fmaf(__int2float_rn(s[i]), soft.scale[r][i / 32], with[r])) * by[r];
            sum[r] += f[i];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) /* beside a far row's weights its older ones are nothing */
            soft.sum[r] = is_far[r] ? sum[r] : soft.sum[r];
    }

    /* Scores of a tile, and then the values of the one before, are asked for. are_there: both
     * images are known to be, by this lane. */
    __device__ __forceinline__ void start_both(int (&s)[64], uint64_t q, const Stage<IS_FP8> &now,
                                               const Stage<IS_FP8> &before, bool are_there,
                                               const uint8_t *image)
    {
        soft.ask_scales(image);
        if (!are_there) {
            now.wait(K_FULL);
            before.wait(V_FULL);
        }
        wgmma::fence();
        scores(s, q, now.k_operand());
        wgmma::commit();
        start_values(before);
        wgmma::wait<1>(s);
        soft.begin_tile();
    }

    /* A tile in the midst. While its exponentials run, the sums of the one before are taken and
     * weights packed: not earlier, as products were reading p. are_there: whether the images for
     * what comes next are; asked for here, where the answer is not waited for. */
    __device__ __forceinline__ void step(uint32_t q_at, uint64_t q, const Stage<IS_FP8> &now,
                                         const Stage<IS_FP8> &before, bool &are_there,
                                         const uint8_t *image)
    {
        int s[64];
        float f[64], most[2] = {-INFINITY, -INFINITY};
        start_both(s, q, now, before, are_there, image);
        wall(soft.template weigh<0, SPLIT>(s, f, most));
        wgmma::wait_all_after<8 * SPLIT>(IS_FP8 ? part : o, f);
        before.release(V_EMPTY);
        Stage<IS_FP8> next = now;
        next.go_on();
        are_there =
            wgmma::barriers_passed(next.bar(K_FULL), next.parity, now.bar(V_FULL), now.parity);
        take_sums();
        soft.template weigh<SPLIT, 8>(s, f, most);
        pack(f, p);
        wgmma::taken(o);
        if (soft.has_grown(most, Weights<IS_FP8>::TOP)) {
            weigh_again(s, f, most, q_at, image);
            scale_rows(o, soft.factor);
            pack(f, p);
        }
        now.release(K_EMPTY);
    }

    /* The last tile: no image waits for its stages, so they are not released. */
    __device__ __forceinline__ void step_slowly(uint64_t q, const Stage<IS_FP8> &now,
                                                const Stage<IS_FP8> &before, int left,
                                                const uint8_t *image)
    {
        int s[64];
        float f[64];
        start_both(s, q, now, before, false, image);
        const bool has_moved = soft.weigh_slowly(s, f, left);
        wgmma::wait_all(IS_FP8 ? part : o, f);
        take_sums();
        if (has_moved)
            scale_rows(o, soft.factor);
        pack(f, p);
    }

    /* The first tile. */
    __device__ __forceinline__ void begin(uint64_t q, const Stage<IS_FP8> &now, int n_k,
                                          const uint8_t *image)
    {
        int s[64];
        float f[64];
        soft.ask_scales(image);
        now.wait(K_FULL);
        wgmma::fence();
        scores(s, q, now.k_operand());
        wgmma::commit();
        wgmma::wait<0>(s);
        soft.begin_tile();
        soft.weigh_slowly(s, f, n_k);
        now.release(K_EMPTY);
        pack(f, p);
#pragma unroll
        for (int i = 0; i < 64; i++)
            o[i] = 0;
    }

    /* image: of the first keys of the head. */
    __device__ __forceinline__ void run(uint32_t base, uint32_t group, const uint8_t *image,
                                        int n_k, int n_tiles)
    {
        const uint32_t q_at = base + group * (Q_BYTES / 2);
        const uint64_t q = lx_cu_image_descriptor(q_at);
        Stage<IS_FP8> now(base, 0), before = now;
        bool are_there = false;
        begin(q, now, n_k, image);
#pragma unroll 1
        for (int i = 2; i < n_tiles; i++) {
            before = now;
            now.go_on();
            image += LX_CU_IMAGE_K_BYTES;
            step(q_at, q, now, before, are_there, image);
        }
        if (n_tiles > 1) {
            before = now;
            now.go_on();
            step_slowly(q, now, before, n_k - (n_tiles - 1) * TILE_KEYS,
                        image + LX_CU_IMAGE_K_BYTES);
        }
        now.wait(V_FULL);
        start_values(now);
        wgmma::wait_all(IS_FP8 ? part : o);
        take_sums();
    }

    /* Rows row0 + 8 r + g of this warp, and the log of their sums. shift: of this warp's rows. */
    __device__ __forceinline__ void store(const lx_cu_attention &a, int head, int64_t row0,
                                          const float *shift)
    {
        const int lane = threadIdx.x % 32, column = lane % 4 * 2;
        const float2 *v_scale = (const float2 *)(a.v_scale + head * DIM + column);
        const float2 *v_shift = (const float2 *)(a.v_shift + head * DIM + column);
        __nv_bfloat16 *to[2];
        float factor[2];
        bool is_there[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int64_t row = row0 + 8 * r + lane / 4;
            float total = soft.sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            is_there[r] = row < a.n_q;
            factor[r] = 1.0f / total;
            to[r] = (__nv_bfloat16 *)a.out + row * a.out_stride + (int64_t)head * DIM + column;
            if (is_there[r] && a.lse && lane % 4 == 0)
                a.lse[head * a.n_q + row] =
                    (log2f(total) - soft.minus[r] + shift[8 * r + lane / 4]) / LOG2E;
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const float2 by = IS_FP8 ? __ldg(v_scale + 4 * n) : make_float2(1, 1),
                         plus = IS_FP8 ? __ldg(v_shift + 4 * n) : make_float2(0, 0);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float low = o[4 * n + 2 * r] * factor[r], high = o[4 * n + 2 * r + 1] * factor[r];
                if (IS_FP8) {
                    low = fmaf(low, by.x, plus.x);
                    high = fmaf(high, by.y, plus.y);
                }
                if (is_there[r])
                    *(uint32_t *)(to[r] + 8 * n) = pack_bf16(low, high);
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
            const Stage<IS_FP8> stage(shared, (uint32_t)i);
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
