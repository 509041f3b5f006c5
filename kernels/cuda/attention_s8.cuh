/*
 * attention_s8.cuh - queries in INT8 and their products with keys, by mma.sync
 * SPDX-License-Identifier: Apache-2.0
 *
 * Groups    queries: rows r % 8 = g of a warp's 32; keys: rows r % 8 / 2 = t of a tile of 64. A
 *           lane holds exactly one of each, so its 64 scores of a tile share one factor.
 * Trick     Products start at the bits of 1.5 * 2^23, so the s32 sum *is* the float 12582912 + s
 *           (|s| <= 128 * 127^2 < 2^22): no conversion, and the constant goes into the exponent's
 *           addend.
 */
#ifndef ATTENTION_S8_CUH
#define ATTENTION_S8_CUH

#include "attention_codes.cuh"
#include "attention_tile.cuh"

namespace tile
{

constexpr int MAGIC_BITS = 0x4b400000; /* of 12582912 = 1.5 * 2^23 */
constexpr float MAGIC = 12582912.0f;

/* A warp's 32 queries from row0 on, to its rows of shared memory; returns this lane's scale. */
template <int D>
__device__ __forceinline__ float quantize_queries(const lx_cu_attention &a, int head, int64_t row0,
                                                  char *shared)
{
    constexpr int LANES = D / 8, ROWS = 32 / LANES, STEPS = 4 / ROWS;
    int lane = threadIdx.x % 32, unit8 = lane % LANES;
    const __nv_bfloat16 *q = (const __nv_bfloat16 *)a.q + (int64_t)head * D + unit8 * 8;
    const bool is_raw = a.turn.square != NULL;
    float mine = 0;
    TurnLane by;
    if (is_raw)
        by.begin(a.turn, (int64_t)head * D + unit8 * 8);
#pragma unroll 4
    for (int g = 0; g < 8; g++) {
        float x[STEPS][8], most = 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int64_t row = row0 + g + 8 * (step * ROWS + lane / LANES);
            uint4 raw = make_uint4(0, 0, 0, 0);
            if (row < a.n_q)
                raw = *(const uint4 *)(q + row * a.q_stride);
            widen8<__nv_bfloat16>(raw, x[step]);
            if (is_raw && row < a.n_q)
                by.turn(turn_row(a.turn, row), x[step]);
#pragma unroll
            for (int i = 0; i < 8; i++)
                most = fmaxf(most, fabsf(x[step][i]));
        }
        most = cu_warp_max(most);
        float inverse = most > 0 ? 127.0f / most : 0;
        mine = lane / 4 == g ? most / 127.0f : mine;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int row = g + 8 * (step * ROWS + lane / LANES);
            *(uint2 *)(shared + row * D + place<D>(row, unit8 / 2) * 16 + unit8 % 2 * 8) =
                codes_of(x[step], inverse);
        }
    }
    return mine * a.scale * LOG2E;
}

/* s = the floats MAGIC + q k^T. */
template <int D>
__device__ __forceinline__ void scores_int8(float (&s)[2][8][4], uint32_t q, uint32_t k)
{
    int c[2][8][4];
#pragma unroll
    for (int step = 0; step < D / 32; step++) {
        uint32_t a[2][4], b[4];
        ldmatrix(a[0], q ^ step * 32);
        ldmatrix(a[1], (q ^ step * 32) + 16 * D);
#pragma unroll
        for (int n = 0; n < 8; n++) {
            if (n % 2 == 0)
                ldmatrix(b, (k ^ step * 32) + n * 8 * D);
#pragma unroll
            for (int mt = 0; mt < 2; mt++) {
                int(&to)[4] = c[mt][n];
                if (step == 0)
                    mma_s8(to, a[mt], b[n % 2 * 2], b[n % 2 * 2 + 1], MAGIC_BITS, MAGIC_BITS,
                           MAGIC_BITS, MAGIC_BITS);
                else
                    mma_s8(to, a[mt], b[n % 2 * 2], b[n % 2 * 2 + 1], to[0], to[1], to[2], to[3]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 64; i++)
        s[i / 32][i / 4 % 8][i % 4] = __int_as_float(c[i / 32][i / 4 % 8][i % 4]);
}

} // namespace tile

#endif
