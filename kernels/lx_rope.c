/*
 * lx_rope.c - q/k norm and rotary embedding: shapes checked, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_rope.h"

#include <inttypes.h>
#include <math.h>

#include "lx_backend.h"

int64_t lx_rope_side_pairs(int64_t head_dim)
{
    return head_dim / 6;
}

int64_t lx_rope_front_pairs(int64_t head_dim)
{
    return head_dim / 2 - 2 * lx_rope_side_pairs(head_dim);
}

/* 10000^(-2i / channels) is computed per position, so the product with it is the only rounding
 * before cos and sin. */
void lx_rope_fill_axis(float *out, int64_t positions, int64_t pairs)
{
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < pairs; i++) {
            double theta = (double)p * pow(10000.0, -(double)(2 * i) / (double)(2 * pairs));
            out[(p * pairs + i) * 2] = (float)cos(theta);
            out[(p * pairs + i) * 2 + 1] = (float)sin(theta);
        }
}

lx_status lx_rope_table_build(lx_exec *x, lx_grid grid, int64_t head_dim, lx_rope_table *out,
                              lx_err *err)
{
    if (!lx_matrix_is_sane(grid.t, grid.h) || !lx_matrix_is_sane(grid.t * grid.h, grid.w))
        return lx_fail(err, LX_EJOB,
                       "a grid of %" PRId64 " x %" PRId64 " x %" PRId64 " tokens is not possible",
                       grid.t, grid.h, grid.w);
    if (head_dim < 2 || head_dim % 2 || !lx_matrix_is_sane(head_dim, grid.t + grid.h + grid.w))
        return lx_fail(err, LX_EJOB, "heads of %" PRId64 " channels cannot be rotated in pairs",
                       head_dim);
    lx_rope_table table = {.grid = grid, .head_dim = head_dim};
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = x->backend->rope_table_build(x, &table, err);
    if (status == LX_OK)
        *out = table;
    else
        lx_arena_reset(x->arena, mark);
    return status;
}

lx_status lx_qk_norm_check(const lx_exec *x, const lx_mat *q, int64_t first_token,
                           const lx_weight *gain, float eps, const lx_rope_table *table,
                           lx_err *err)
{
    int64_t tokens = q->rows, width = q->cols;
    if (!lx_mat_is_sane(x, q, false) || first_token < 0)
        return lx_fail(err, LX_EJOB,
                       "q/k of %" PRId64 " tokens x %" PRId64 ", %" PRId64
                       " numbers apart, are not possible",
                       tokens, width, q->stride);
    if (!lx_weight_is_vector(gain, width) || !(eps >= 0))
        return lx_fail(err, LX_EJOB, "%s: the q/k norm needs %" PRId64 " floating elements",
                       gain->name, width);
    if (table && width % table->head_dim)
        return lx_fail(err, LX_EJOB, "width %" PRId64 " is no multiple of heads of %" PRId64, width,
                       table->head_dim);
    if (table && table->grid.t * table->grid.h * table->grid.w - tokens < first_token)
        return lx_fail(err, LX_EJOB,
                       "%" PRId64 " tokens from %" PRId64 " on are not in a grid of %" PRId64
                       " x %" PRId64 " x %" PRId64,
                       tokens, first_token, table->grid.t, table->grid.h, table->grid.w);
    return LX_OK;
}

lx_status lx_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token, const lx_weight *gain,
                          float eps, const lx_rope_table *table, lx_err *err)
{
    lx_status status = lx_qk_norm_check(x, q, first_token, gain, eps, table, err);
    return status == LX_OK ? x->backend->qk_norm_rope(x, q, first_token, gain, eps, table, err)
                           : status;
}
