/*
 * norm.c - row norms on the CPU: statistics in f64, one row per task, quantized while in the cache
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_cpu.h"
#include "lx_rows.h"

typedef struct job {
    const float *in;
    const lx_norm *norm;
    lx_act *out;
    lx_row_affine affine; /* all but mean and rstd */
    const lx_rows *rows;
    float *scratch; /* one row per thread */
    int64_t per_thread;
} job;

static void norm_row(const job *j, int64_t m)
{
    int64_t cols = j->out->cols;
    const float *in = j->in + m * cols;
    double n = (double)cols;
    lx_row_affine a = j->affine;
    a.mean = j->norm->kind == LX_NORM_LAYER ? j->rows->sum(in, cols) / n : 0;
    double variance = j->rows->sum_squares(in, cols, a.mean) / n;
    a.rstd = 1 / sqrt(variance + (double)j->norm->eps);
    if (j->out->dtype == LX_DTYPE_F32) {
        j->rows->affine((float *)j->out->data + m * cols, in, cols, &a);
        return;
    }
    float *row = j->scratch + lx_cpu_thread() * j->per_thread;
    j->rows->affine(row, in, cols, &a);
    lx_cpu_quantize_row(row, j->out, m);
}

lx_status lx_cpu_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                           lx_err *err)
{
    job j = {.in = in, .norm = norm, .out = out, .rows = lx_rows_best()};
    j.affine = (lx_row_affine){.scale = norm->scale, .shift = norm->shift};
    j.per_thread = out->dtype == LX_DTYPE_F32 ? 0 : out->cols;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_cpu_vector(x, norm->weight, out->cols, &j.affine.weight, err);
    if (status == LX_OK)
        status = lx_cpu_vector(x, norm->bias, out->cols, &j.affine.bias, err);
    if (status == LX_OK)
        status = lx_cpu_take_per_thread(x, &j.per_thread, &j.scratch, err);
    if (status == LX_OK && !x->is_dry) {
#pragma omp parallel for schedule(static) num_threads(x->n_threads) if (out->rows > 1)
        for (int64_t m = 0; m < out->rows; m++)
            norm_row(&j, m);
    }
    lx_arena_reset(x->arena, mark);
    return status;
}
