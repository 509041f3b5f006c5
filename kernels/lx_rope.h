/*
 * lx_rope.h - RMS norm of q or k over the full width, then rotary position embedding
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   z = g * x / sqrt(mean over all heads(x^2) + eps); then, per head, interleaved pairs
 *           (2j, 2j+1) are rotated: (a cos - b sin, a sin + b cos). Pairs 0..21 of 64 turn with the
 *           frame, 22..42 with the row, 43..63 with the column; head_dim d: the row and column axes
 *           have floor(d/6) pairs each, the frame axis the rest.
 *           angle(axis, i, pos) = pos * 10000^(-2i / axis_channels)
 * Numbers   angles and tables in f64, stored f32; rotation in f32.
 * Source    Wan 2.1 modules/model.py rope_apply
 * Tests     tests/kernels/test_rope.c
 */
#ifndef LX_ROPE_H
#define LX_ROPE_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

typedef struct lx_grid {
    int64_t t, h, w; /* tokens along frame, row, column; token s = (t*H + h)*W + w */
} lx_grid;

typedef struct lx_rope_table {
    lx_grid grid;
    int64_t head_dim;
    const float *t, *h, *w; /* [n, pairs, 2] (cos, sin) of each axis; borrowed from the arena */
} lx_rope_table;

/** Build the three small tables in the arena (f64 angles). */
lx_status lx_rope_table_build(lx_exec *x, lx_grid grid, int64_t head_dim, lx_rope_table *out,
                              lx_err *err);

/** In place on q [tokens, n_heads * head_dim], F32 or x->rows; its rows are tokens first_token.. of
 *  the grid. gain [width]. table NULL: norm only (cross-attention). */
lx_status lx_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token, const lx_weight *gain,
                          float eps, const lx_rope_table *table, lx_err *err);
/** Only its checks: LX_EJOB says what does not fit. */
lx_status lx_qk_norm_check(const lx_exec *x, const lx_mat *q, int64_t first_token,
                           const lx_weight *gain, float eps, const lx_rope_table *table,
                           lx_err *err);

/* For the devices' implementations: a head's channels are pairs of the frame's axis, then of the
 * row's and the column's, which have side pairs each. */

int64_t lx_rope_side_pairs(int64_t head_dim);
int64_t lx_rope_front_pairs(int64_t head_dim);
/** The table of one axis, [positions, pairs, 2] (cos, sin), in host memory. */
void lx_rope_fill_axis(float *out, int64_t positions, int64_t pairs);

void lx_qk_norm_rope_ref(const lx_mat *q, int64_t first_token, const lx_weight *gain, float eps,
                         const lx_rope_table *table);

#endif
