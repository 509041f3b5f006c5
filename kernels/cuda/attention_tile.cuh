/*
 * attention_tile.cuh - what the tensor-core attention kernels share
 * SPDX-License-Identifier: Apache-2.0
 *
 * A warp owns MT tiles of 16 queries and walks over the keys 64 at a time:
 *   s  [MT][8][4]     products of its queries with 64 keys: 8 tiles of m16n8
 *   o  [MT][DV/8][4]  its sums of weights x values, DV columns
 * Of an m16n8 tile, with g = lane / 4 and t = lane % 4, a lane holds row g columns 2t, 2t+1 in [0],
 * [1] and row g + 8 in [2], [3]. So a lane sees 2 MT rows ("slots": slot 2 mt + r is row
 * 16 mt + 8 r + g), and the 4 lanes of a quad share their rows.
 *
 * Shared memory holds tiles of rows of 64, 128 or 256 bytes in units of 16 bytes. Unit u of row r
 * lies at place u ^ (r % 8), in rows of 64 bytes at u ^ (r / 2 % 4): writing rows and reading 8
 * rows of one unit (ldmatrix) both touch all banks once. Since rows begin at multiples of their
 * size, the unit of a later step is found by XOR of the address with step * 32 bytes.
 *
 * Softmax   base 2. Weights are p = 2^(x - ref); ref follows the row's maximum only when it has
 *           grown by more than 2^(top - base), so the sums are rarely rescaled; p <= 2^top always.
 *           A row's ref depends on that row alone.
 */
#ifndef ATTENTION_TILE_CUH
#define ATTENTION_TILE_CUH

#include <cstring>

#include "cu_attention.h"
#include "cu_dev.cuh"

/* mma.sync of FP8: cards of 8.9 and later; its sums in F16: CUDA 12.8 and later. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890 && LX2V_ARCH_MAX >= 89
#define LX_HAS_FP8_MMA 1
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
#define LX_HAS_FP8_MMA_F16 1
#endif
#endif

#define LOG2E 1.4426950408889634f

namespace tile
{

constexpr int KEYS = LX_CU_ATTENTION_TILE_K;

/* log2 of a weight at a new maximum, and of the largest weight, with sums in F32: far from F16's
 * ends on both sides. */
constexpr float WEIGHT_BASE = 6, WEIGHT_TOP = 14;

/* --- instructions ---------------------------------------------------------------------------- */

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory; zeros if !is_there (src is an address all the same). */
__device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool is_there)
{
    int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All copies of this thread have landed. */
__device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_trans(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Sums in F16: c holds pairs. */
__device__ __forceinline__ void mma_f16_sums(uint32_t (&c)[2], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, "
                 "{%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(c[0]), "+r"(c[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c = start + a b: every sum begins at `start`. */
__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1, int s0, int s1, int s2, int s3)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
                 : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(s0), "r"(s1),
                   "r"(s2), "r"(s3));
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

#ifdef LX_HAS_FP8_MMA
/* Four of E4M3, the first one lowest; what is above 448 becomes 448. */
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d)
{
    uint32_t r;
    asm("{\n\t"
        ".reg .b16 low, high;\n\t"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n\t"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n\t"
        "mov.b32 %0, {low, high};\n\t"
        "}"
        : "=r"(r)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
}
#endif

/* Read anew at every use: what follows from it is then computed again instead of kept in registers,
 * of which the kernels have none to spare. */
__device__ __forceinline__ uint32_t thread_now()
{
    uint32_t i;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i));
    return i;
}

/* --- tiles in shared memory ------------------------------------------------------------------ */

template <int ROW_BYTES> __device__ __forceinline__ uint32_t place(uint32_t row, uint32_t unit)
{
    return ROW_BYTES == 64 ? unit ^ (row >> 1 & 3) : unit ^ (row & 7);
}

/* Address that this lane gives to ldmatrix for 16 rows x 2 units, as the A operand (queries) or the
 * transposed B operand (values) wants them: matrices 0, 1 are rows 0..7, 8..15 of unit 0. */
template <int ROW_BYTES> __device__ __forceinline__ uint32_t rows_first(uint32_t base)
{
    uint32_t lane = thread_now() % 32, row = lane % 16;
    return base + row * ROW_BYTES + place<ROW_BYTES>(row, lane / 16) * 16;
}

/* The same for the B operand (keys): matrices 0, 1 are units 0, 1 of rows 0..7. */
template <int ROW_BYTES> __device__ __forceinline__ uint32_t units_first(uint32_t base)
{
    uint32_t lane = thread_now() % 32, row = lane % 8 + lane / 16 * 8;
    return base + row * ROW_BYTES + place<ROW_BYTES>(row, lane / 8 % 2) * 16;
}

/* This thread's part in copying a tile of ROWS rows from global memory. Rows from `left` on and
 * bytes from row_bytes on are zeros. ROWS * stride < 2^31 bytes: an offset fits 32 bits, and the
 * rest of an address is the same for all threads. */
template <int ROW_BYTES, int ROWS, int THREADS>
__device__ __forceinline__ void copy_tile(uint32_t to, const char *src, int64_t stride,
                                          int row_bytes, int left)
{
    constexpr uint32_t UNITS = ROW_BYTES / 16, STEP = THREADS / UNITS;
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0, "the place is the same in every step");
    uint32_t thread = thread_now(), unit = thread % UNITS, row = thread / UNITS;
    uint32_t dst = to + row * ROW_BYTES + place<ROW_BYTES>(row, unit) * 16;
    uint32_t offset = row * (uint32_t)stride + unit * 16;
    left = (int)unit * 16 < row_bytes ? left : 0;
#pragma unroll
    for (uint32_t i = 0; i < ROWS / STEP; i++) {
        bool is_there = (int)(row + i * STEP) < left;
        const char *at = src + i * STEP * stride;
        copy16(dst + i * STEP * ROW_BYTES, is_there ? at + offset : src, is_there);
    }
}

/* --- products -------------------------------------------------------------------------------- */

/* s += q k^T over STEPS steps of 16 BF16 channels (32 bytes). q and k: rows_first and units_first
 * of tiles with rows of ROW_BYTES. */
template <int MT, int N, int STEPS, int ROW_BYTES>
__device__ __forceinline__ void scores_bf16(float (&s)[MT][N][4], uint32_t q, uint32_t k, int wall)
{
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        if (step == 3 && wall < 0)
            break; /* see Rows::add_values */
        uint32_t a[MT][4], b[4];
#pragma unroll
        for (int mt = 0; mt < MT; mt++)
            ldmatrix(a[mt], (q ^ step * 32) + mt * 16 * ROW_BYTES);
#pragma unroll
        for (int n = 0; n < N / 2; n++) {
            ldmatrix(b, (k ^ step * 32) + n * 16 * ROW_BYTES);
#pragma unroll
            for (int mt = 0; mt < MT; mt++) {
                mma_bf16(s[mt][2 * n], a[mt], b[0], b[1]);
                mma_bf16(s[mt][2 * n + 1], a[mt], b[2], b[3]);
            }
        }
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

template <int MT, int DV> struct Rows {
    float o[MT][DV / 8][4];
    float ref[2 * MT], sum[2 * MT]; /* per slot; sum is this lane's part */

    __device__ __forceinline__ void begin()
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < DV / 8; n++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    o[i][n][c] = 0;
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            ref[i] = -1e30f; /* finite: keys of weight zero may come first */
            sum[i] = 0;
        }
    }

    /* The largest logit of each slot's row. The logits are x = s scale - shift, scale >= 0, both
     * the same for all of a lane's values. */
    template <int N>
    __device__ __forceinline__ void largest(const float (&s)[MT][N][4], float scale, float shift,
                                            float (&most)[2 * MT])
    {
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            float m = fmaxf(s[i / 2][0][i % 2 * 2], s[i / 2][0][i % 2 * 2 + 1]);
#pragma unroll
            for (int n = 1; n < N; n++)
                m = fmaxf(m, fmaxf(s[i / 2][n][i % 2 * 2], s[i / 2][n][i % 2 * 2 + 1]));
            m = fmaf(m, scale, -shift);
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            most[i] = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        }
    }

    /* Moves ref where it must and returns, per slot, what to add to s scale to get log2 p. */
    template <int N>
    __device__ __forceinline__ void follow_maximum(const float (&s)[MT][N][4], float scale,
                                                   float shift, float base, float top,
                                                   float (&add)[2 * MT])
    {
        float most[2 * MT];
        bool has_grown = false;
        largest(s, scale, shift, most);
#pragma unroll
        for (int i = 0; i < 2 * MT; i++)
            has_grown |= most[i] > ref[i] + top;
        if (__any_sync(0xffffffffu, has_grown))
            move(most, base, top);
#pragma unroll
        for (int i = 0; i < 2 * MT; i++)
            add[i] = -(ref[i] + shift);
    }

    __device__ __forceinline__ void move(const float (&most)[2 * MT], float base, float top)
    {
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            float to = most[i] > ref[i] + top ? most[i] - base : ref[i];
            float factor = exp2_fast(ref[i] - to);
            ref[i] = to;
            sum[i] *= factor;
#pragma unroll
            for (int n = 0; n < DV / 8; n++) {
                o[i / 2][n][i % 2 * 2] *= factor;
                o[i / 2][n][i % 2 * 2 + 1] *= factor;
            }
        }
    }

    /* Two weights: register `reg` of the A operand for keys 16 step .. 16 step + 15, tile mt. */
    template <int N>
    __device__ __forceinline__ uint32_t weights(const float (&s)[MT][N][4], float scale,
                                                const float (&add)[2 * MT], int step, int mt,
                                                int reg)
    {
        int slot = 2 * mt + reg % 2, n = 2 * step + reg / 2, c = reg % 2 * 2;
        float a = exp2_fast(fmaf(s[mt][n][c], scale, add[slot]));
        float b = exp2_fast(fmaf(s[mt][n][c + 1], scale, add[slot]));
        sum[slot] += a;
        sum[slot] += b;
        return pack_f16(a, b);
    }

    /* o += p v, sums in F32. v: rows_first of a tile of 8 N rows. The exponentials of the next 16
     * keys stand between the products of these, so that both units have work.
     * wall >= 0, which the compiler does not know: its scheduler would mix all steps and run out of
     * registers; a branch halfway stops it. */
    template <int N>
    __device__ __forceinline__ void add_values(const float (&s)[MT][N][4], float scale,
                                               const float (&add)[2 * MT], uint32_t v, int wall)
    {
        uint32_t p[2][MT][4];
#pragma unroll
        for (int w = 0; w < MT * 4; w++)
            p[0][w / 4][w % 4] = weights(s, scale, add, 0, w / 4, w % 4);
#pragma unroll
        for (int step = 0; step < N / 2; step++)
            if (step < 2 || wall >= 0)
                add_step(s, scale, add, v, step, p);
    }

    template <int N>
    __device__ __forceinline__ void add_step(const float (&s)[MT][N][4], float scale,
                                             const float (&add)[2 * MT], uint32_t v, int step,
                                             uint32_t (&p)[2][MT][4])
    {
        constexpr int PAIRS = DV / 16, WORK = MT * 4;
#pragma unroll
        for (int n = 0; n < PAIRS; n++) {
            uint32_t b[4];
            ldmatrix_trans(b, (v ^ n * 32) + step * 16 * DV * 2);
#pragma unroll
            for (int mt = 0; mt < MT; mt++) {
                mma_f16(o[mt][2 * n], p[step % 2][mt], b[0], b[1]);
                mma_f16(o[mt][2 * n + 1], p[step % 2][mt], b[2], b[3]);
            }
            if (step + 1 < N / 2)
#pragma unroll
                for (int w = n * WORK / PAIRS; w < (n + 1) * WORK / PAIRS; w++)
                    p[(step + 1) % 2][w / 4][w % 4] =
                        weights(s, scale, add, step + 1, w / 4, w % 4);
        }
    }

    /* The same with sums in F16 over all of the tile's keys, at twice the rate on GeForce cards. */
    template <int N>
    __device__ __forceinline__ void add_values_f16(const float (&s)[MT][N][4], float scale,
                                                   const float (&add)[2 * MT], uint32_t v, int wall)
    {
        constexpr int STEPS = N / 2, WORDS = MT * 4;
        uint32_t p[STEPS][MT][4];
#pragma unroll
        for (int w = 0; w < STEPS * WORDS; w++)
            p[w / WORDS][w / 4 % MT][w % 4] = weights(s, scale, add, w / WORDS, w / 4 % MT, w % 4);
#pragma unroll
        for (int n = 0; n < DV / 16; n++) {
            if (n % 4 == 0 && wall == -1 - n) /* see add_values; two walls: wall < 0 would be one */
                break;
            uint32_t part[MT][2][2] = {};
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                uint32_t b[4];
                ldmatrix_trans(b, (v ^ n * 32) + step * 16 * DV * 2);
#pragma unroll
                for (int i = 0; i < MT * 2; i++)
                    mma_f16_sums(part[i / 2][i % 2], p[step][i / 2], b[i % 2 * 2],
                                 b[i % 2 * 2 + 1]);
            }
            take_f16(part, n);
        }
    }

    /* o += part, of 16 columns from 16 n on. */
    __device__ __forceinline__ void take_f16(const uint32_t (&part)[MT][2][2], int n)
    {
#pragma unroll
        for (int i = 0; i < MT * 4; i++) {
            int mt = i / 4, half = i / 2 % 2, r = i % 2;
            __half2 pair;
            memcpy(&pair, &part[mt][half][r], sizeof pair);
            float2 f = __half22float2(pair);
            o[mt][2 * n + half][2 * r] += f.x;
            o[mt][2 * n + half][2 * r + 1] += f.y;
        }
    }

    /* Columns 0 .. n_cols - 1 of rows row0 + 16 mt + 8 r + g below n_rows, to out (row 0). */
    __device__ __forceinline__ void store(__nv_bfloat16 *out, int64_t stride, int64_t row0,
                                          int64_t n_rows, int n_cols)
    {
        uint32_t lane = thread_now() % 32;
#pragma unroll
        for (int i = 0; i < 2 * MT; i++) {
            float total = sum[i];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            float factor = 1.0f / total;
            int64_t row = row0 + 8 * i + lane / 4;
            __nv_bfloat16 *to = out + row * stride + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < DV / 8; n++)
                if (row < n_rows && n * 8 < n_cols)
                    *(uint32_t *)(to + n * 8) = pack_bf16(o[i / 2][n][i % 2 * 2] * factor,
                                                          o[i / 2][n][i % 2 * 2 + 1] * factor);
        }
    }
};

/* What bends the logits of one tile beyond the products. */
struct Bend {
    const float *rel;      /* this head's, or NULL */
    const float *key_bias; /* or NULL */
    int n_q, n_k;
};

/* s becomes the logits themselves, in log2 units: s scale - shift + biases; -inf beyond the keys.
 * row0: this warp's first query, key0: the tile's first key. */
template <int MT, int N>
__device__ __forceinline__ void bend_scores(float (&s)[MT][N][4], float scale, float shift,
                                            const Bend &b, int row0, int key0)
{
    int lane = (int)(thread_now() % 32), row = row0 + lane / 4, key = key0 + lane % 4 * 2;
    const float *rel = b.rel ? b.rel + (key - row + b.n_q - 1) : NULL;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            bool is_there = key + n * 8 + c < b.n_k;
            float bias = is_there && b.key_bias ? b.key_bias[key + n * 8 + c] * LOG2E : 0.0f;
#pragma unroll
            for (int i = 0; i < 2 * MT; i++) {
                float x = fmaf(s[i / 2][n][i % 2 * 2 + c], scale, bias - shift);
                if (rel && is_there && row + 8 * i < b.n_q)
                    x = fmaf(rel[(n - i) * 8 + c], LOG2E, x);
                s[i / 2][n][i % 2 * 2 + c] = is_there ? x : -INFINITY;
            }
        }
}

/* Where a launch begins. Heads are blockIdx.y, so that what depends on them is known to be the same
 * for a whole warp. */
struct Piece {
    int head, block;
};

/* launch(grid, piece) until all blocks have been launched: whole heads while they fit into
 * units_per_launch, else a part of one head. Each head has `slices` units per block of queries. */
template <typename F> int in_pieces(const lx_cu_attention *a, int queries, int slices, F launch)
{
    int64_t blocks = cu_ceil_div(a->n_q, (int64_t)queries) * slices;
    int64_t heads = a->units_per_launch / blocks;
    int64_t most = heads ? blocks : a->units_per_launch;
    heads = heads < 1 ? 1 : heads < 65535 ? heads : 65535;
    for (int64_t head = 0; head < a->n_heads; head += heads)
        for (int64_t block = 0; block < blocks; block += most) {
            dim3 grid((unsigned)(blocks - block < most ? blocks - block : most),
                      (unsigned)(a->n_heads - head < heads ? a->n_heads - head : heads));
            launch(grid, Piece{(int)head, (int)block});
            CU_TRY(cu_launched());
        }
    return 0;
}

} // namespace tile

#endif
