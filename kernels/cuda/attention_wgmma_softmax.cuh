/*
 * attention_wgmma_softmax.cuh - the softmax of attention_wgmma.cu: scores of 64 x 128 into weights
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   weights p = 2^(x - ref) of logits x = s q_scale k_scale; ref of a row is at least its
 *           largest logit less TOP, and moves to that less BASE when it is outgrown.
 * Why so    A warp waits for itself more than for any unit: a tile's 64 exponentials take it 512
 *           clocks, and a tile took it 2,200. So everything that can stands beside the
 *           exponentials. They begin as soon as scores are there, by the ref that is; the largest
 *           score is found meanwhile, and only where one has outgrown ref by so much that its
 *           weight does not fit is anything scaled (5 of 1,000 tiles of normal numbers).
 * Far       A score that has outgrown ref by 2^100 has no weight in F32: its warp then multiplies
 *           once more, by mma.sync (attention_wgmma.cu, weigh_again).
 */
#ifndef ATTENTION_WGMMA_SOFTMAX_CUH
#define ATTENTION_WGMMA_SOFTMAX_CUH

#include "attention_image.h"
#include "attention_tile.cuh"
#include "wgmma.cuh"

#ifdef LX_HAS_WGMMA
namespace tile
{

/* log2 of the largest weight, and of one at a new maximum. E4M3 ends at 448 = 2^8.807 and has
 * its full precision down to 2^-6. */
template <bool IS_FP8> struct Weights {
    static constexpr float TOP = IS_FP8 ? 8.807f : WEIGHT_TOP,
                           BASE = IS_FP8 ? TOP - 3 : WEIGHT_BASE;
};

/* A score that outgrows ref by more cannot be weighed and scaled afterwards: its weight, or a sum
 * of such, might be infinite. */
constexpr float FAR = 100; /* log2 */

/* x, but not before `after` is known: zero is 0, which the compiler does not know. */
__device__ __forceinline__ float not_before(float x, float after, uint32_t zero)
{
    return __uint_as_float(__float_as_uint(x) | (__float_as_uint(after) & zero));
}

__device__ __forceinline__ uint32_t word_at(uint32_t shared)
{
    uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(shared) : "memory");
    return word;
}

/* A lane's two rows, slot r being row 8 r + g of its warp's 16, and its four factors. */
template <bool IS_FP8> struct Softmax {
    float q_scale[2], k_scale[2];
    float minus[2], sum[2]; /* minus ref; sum is this lane's part */
    float factor[2];        /* what the last tile's move of ref multiplies older sums by */
    float scale[2][2];      /* of the tile at work: per row and half of its keys */
    uint32_t zero;

    __device__ __forceinline__ void begin(const float *scale)
    {
        int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            q_scale[r] = scale[row + 8 * r];
            minus[r] = 1e30f;
            sum[r] = 0;
            factor[r] = 0;
        }
        zero = blockIdx.z;
    }

    /* Of the tile's keys, from its image in device memory, long before begin_tile. So no ordinary
     * read is of what a bulk copy writes: racecheck does not follow those, and took it for a race.
     */
    __device__ __forceinline__ void ask_scales(const uint8_t *image)
    {
        const int group = (int)(threadIdx.x & 3); /* of this lane's keys, and four further on */
#pragma unroll
        for (int half = 0; half < 2; half++)
            k_scale[half] = __ldg((const float *)(image + lx_cu_image_scale_at(half * 4 + group)));
    }

    __device__ __forceinline__ void begin_tile()
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            scale[i / 2][i % 2] = q_scale[i / 2] * k_scale[i % 2];
    }

    __device__ __forceinline__ bool has_grown(const float (&most)[2], float by) const
    {
        return __any_sync(0xffffffffu, most[0] + minus[0] > by || most[1] + minus[1] > by);
    }

    /* most: of this lane -> of its rows, which four lanes share. */
    __device__ __forceinline__ void most_of_rows(float (&most)[2]) const
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 1));
            most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 2));
        }
    }

    /* ref follows only what has grown by more than 2^(TOP - BASE): o is rarely scaled. */
    __device__ __forceinline__ void follow(const float (&most)[2])
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bool is_past = most[r] + minus[r] > Weights<IS_FP8>::TOP;
            float to = is_past ? Weights<IS_FP8>::BASE - most[r] : minus[r];
            factor[r] = exp2_fast(to - minus[r]);
            minus[r] = to;
            sum[r] *= factor[r];
        }
    }

    /* The first and the last tile: the largest logit first, then weights. left: of the tile's keys;
     * others weigh nothing. Returns whether ref has moved. */
    __device__ __forceinline__ bool weigh_slowly(const int (&s)[64], float (&f)[64], int left)
    {
        float most[2] = {-INFINITY, -INFINITY};
        left -= (int)threadIdx.x % 4 * 2; /* from this lane's first key on */
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const float x = __int2float_rn(s[i]) * scale[i / 2 % 2][i / 32];
            if (i / 4 * 8 + i % 2 < left)
                most[i / 2 % 2] = fmaxf(most[i / 2 % 2], x);
        }
        most_of_rows(most);
        const bool has_moved = has_grown(most, Weights<IS_FP8>::TOP);
        if (has_moved)
            follow(most);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            const int r = i / 2 % 2;
            const float p = exp2_fast(fmaf(__int2float_rn(s[i]), scale[r][i / 32], minus[r]));
            f[i] = i / 4 * 8 + i % 2 < left ? p : 0;
            sum[r] += f[i];
        }
        return has_moved;
    }

    /* All other tiles, parts FROM to TO of eight: weights by the ref there is, and meanwhile the
     * largest score, by which ref may turn out to be too small. Conversions and maxima of the next
     * part are to stand beside a part's exponentials, neither before all of them nor behind: so
     * the next but one is told to wait for the sums of this one. Returns the sum up to the last
     * part but one. */
    template <int FROM, int TO>
    __device__ __forceinline__ float weigh(const int (&s)[64], float (&f)[64], float (&most)[2])
    {
        float behind[2][2] = {}; /* sums up to the eight before, and the one before that */
        int top[2];
#pragma unroll
        for (int c = FROM; c < TO; c++) {
            const int half = c / 4;
            float with[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int *const at = s + 8 * c + 2 * r;
                with[r] = c < FROM + 2 ? minus[r] : not_before(minus[r], behind[c % 2][r], zero);
                top[r] = c % 4 && c > FROM ? max(max(top[r], at[0]), at[1]) : max(at[0], at[1]);
                top[r] = max(max(top[r], at[4]), at[5]);
            }
#pragma unroll
            for (int i = 8 * c; i < 8 * c + 8; i++) {
                const int r = i / 2 % 2;
                f[i] = exp2_fast(fmaf(__int2float_rn(s[i]), scale[r][half], with[r]));
                sum[r] += f[i];
            }
            behind[c % 2][0] = sum[0];
            behind[c % 2][1] = sum[1];
            if (c == TO - 1 || c % 4 == 3)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const float x = __int2float_rn(top[r]) * scale[r][half];
                    most[r] = fmaxf(most[r], x);
                    asm volatile("" : "+f"(most[r])); /* now: later all scores would be wanted */
                }
        }
        return behind[TO % 2][0] + behind[TO % 2][1];
    }
};

/* Never true, which the compiler does not know: its scheduler would move the wait for the products
 * that run beside the exponentials to before them; a branch that needs some of them stops it. (With
 * a trap instead, ptxas 13.0 spills.) */
__device__ __forceinline__ void wall(float weights)
{
    if (weights < 0)
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

} // namespace tile
#endif

#endif
