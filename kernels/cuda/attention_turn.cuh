/*
 * attention_turn.cuh - raw rows of q or k on their way into attention: RMS norm, gain, rotation
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_rope.h. The rows' sums of squares are known (lx_epilogue.square, rope.cu), so a lane
 *           needs nothing but its own 8 columns, 4 pairs of one head.
 * Bytes     Where q or k was read, normalised, written and read again, it is now read once: 4 bytes
 *           a number less, and the tables of (cos, sin), 14 KB in all, stay in the first cache.
 * Assumes   tokens of the grid below 2^31; gain 16-byte aligned; head_dim a multiple of 8.
 */
#ifndef ATTENTION_TURN_CUH
#define ATTENTION_TURN_CUH

#include "cu_row.cuh"
#include "cu_rows.h"

/* What a row's 8 columns are multiplied with: places in the axes' tables, in pairs. */
struct TurnRow {
    float rstd;
    uint32_t at[3]; /* frame, row, column */
};

__device__ __forceinline__ TurnRow turn_row(const lx_cu_rope &r, int64_t row)
{
    TurnRow out = {__frsqrt_rn(__ldg(r.square + row) / (float)r.q.cols + r.eps), {0, 0, 0}};
    if (r.head_dim) {
        const uint32_t side = (uint32_t)r.head_dim / 6, front = (uint32_t)r.head_dim / 2 - 2 * side;
        const uint32_t token = (uint32_t)(r.first_token + row), h = (uint32_t)r.grid_h,
                       w = (uint32_t)r.grid_w, line = token / w;
        out.at[0] = line / h * front;
        out.at[1] = line % h * side;
        out.at[2] = token % w * side;
    }
    return out;
}

/* A lane's 8 columns. */
struct TurnLane {
    cu_eight gain;
    const float2 *pair[4]; /* of the first token */
    int axis[4];
    bool is_rotated;

    /* column: of q or k as a whole. */
    __device__ __forceinline__ void begin(const lx_cu_rope &r, int64_t column)
    {
        gain = cu_vec_load8(r.gain, column);
        is_rotated = r.head_dim != 0;
        if (!is_rotated)
            return;
        const uint32_t dim = (uint32_t)r.head_dim, side = dim / 6, front = dim / 2 - 2 * side;
        const uint32_t first = (uint32_t)column % dim / 2;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t p = first + j;
            axis[j] = p < front ? 0 : p < front + side ? 1 : 2;
            pair[j] = p < front          ? (const float2 *)r.t + p
                      : p < front + side ? (const float2 *)r.h + (p - front)
                                         : (const float2 *)r.w + (p - front - side);
        }
    }

    __device__ __forceinline__ void turn(const TurnRow &row, float (&x)[8]) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = x[i] * row.rstd * gain.v[i];
        if (!is_rotated)
            return;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t at = axis[j] == 0 ? row.at[0] : axis[j] == 1 ? row.at[1] : row.at[2];
            const float2 by = __ldg(pair[j] + at);
            const float a = x[2 * j], b = x[2 * j + 1];
            x[2 * j] = a * by.x - b * by.y;
            x[2 * j + 1] = a * by.y + b * by.x;
        }
    }
};

#endif
