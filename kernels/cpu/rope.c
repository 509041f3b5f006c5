/*
 * rope.c - q/k norm and rotary embedding on the CPU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      One token per task: sum of squares over the full width, scale, then every head is
 *           turned by the same row of (cos, sin), put together once per token from the three small
 *           tables.
 */
#include <math.h>
#include <string.h>

#include "lx_cpu.h"
#include "lx_rows.h"

static lx_status take_axis(lx_exec *x, int64_t positions, int64_t pairs, const float **out,
                           lx_err *err)
{
    float *axis;
    lx_status status =
        lx_arena_take_f32(x->arena, (uint64_t)positions * (uint64_t)pairs * 2, &axis, err);
    if (status != LX_OK)
        return status;
    if (!x->is_dry)
        lx_rope_fill_axis(axis, positions, pairs);
    *out = axis;
    return LX_OK;
}

lx_status lx_cpu_rope_table_build(lx_exec *x, lx_rope_table *table, lx_err *err)
{
    int64_t side = lx_rope_side_pairs(table->head_dim),
            front = lx_rope_front_pairs(table->head_dim);
    lx_status status = take_axis(x, table->grid.t, front, &table->t, err);
    if (status == LX_OK)
        status = take_axis(x, table->grid.h, side, &table->h, err);
    if (status == LX_OK)
        status = take_axis(x, table->grid.w, side, &table->w, err);
    return status;
}

/* The (cos, sin) row of token s, [head_dim/2, 2]. */
static void token_row(const lx_rope_table *table, int64_t s, float *out)
{
    const lx_grid *g = &table->grid;
    int64_t side = 2 * lx_rope_side_pairs(table->head_dim),
            front = 2 * lx_rope_front_pairs(table->head_dim);
    int64_t t = s / (g->h * g->w), h = s / g->w % g->h, w = s % g->w;
    memcpy(out, table->t + t * front, (size_t)front * sizeof *out);
    memcpy(out + front, table->h + h * side, (size_t)side * sizeof *out);
    memcpy(out + front + side, table->w + w * side, (size_t)side * sizeof *out);
}

lx_status lx_cpu_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token,
                              const lx_weight *gain, float eps, const lx_rope_table *table,
                              lx_err *err)
{
    const int64_t tokens = q->rows, width = q->cols;
    const lx_rows *rows = lx_rows_best();
    int64_t head_dim = table ? table->head_dim : 0, per_thread = head_dim;
    lx_row_affine affine = {0};
    float *scratch;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_cpu_vector(x, gain, width, &affine.weight, err);
    if (status == LX_OK)
        status = lx_cpu_take_per_thread(x, &per_thread, &scratch, err);
    if (status == LX_OK && !x->is_dry) {
#pragma omp parallel for schedule(static) num_threads(x->n_threads) if (tokens > 1)
        for (int64_t s = 0; s < tokens; s++) {
            float *row = (float *)q->data + s * q->stride,
                  *turn = scratch + lx_cpu_thread() * per_thread;
            lx_row_affine a = affine;
            double square = rows->sum_squares(row, width, 0) / (double)width;
            a.rstd = 1 / sqrt(square + (double)eps);
            rows->affine(row, row, width, &a);
            if (table)
                token_row(table, first_token + s, turn);
            for (int64_t i = 0; table && i < width; i += head_dim)
                rows->rotate(row + i, turn, head_dim);
        }
    }
    lx_arena_reset(x->arena, mark);
    return status;
}
