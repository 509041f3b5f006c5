/*
 * linear.c - linears on the CPU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      The output is cut into tiles whose size follows from the shape alone; each tile is one
 *           task of a parallel loop, multiplied by oneDNN on the thread that has it. So every
 *           output is summed in the same order whatever the number of threads.
 * Panels    Weights that are not F32 are widened a piece of [tile columns, K_STEP] at a time into
 *           the thread's scratch, so a bf16 file is never f32 as a whole. F32 weights are used
 *           where they lie.
 * Epilogue  Runs on the tile's sums while they are in the cache.
 * M <= 4    Reading the weights is all the time there is: a dot product per output, no panels.
 */
#include <math.h>
#include <string.h>

#include "lx_cpu.h"
#include "lx_dnnl.h"
#include "lx_rows.h"
#include "lx_s8.h"

#define TILE_M    512
#define TILE_N    384  /* a multiple of oneDNN's 48 and 24 columns at once */
#define K_STEP    512  /* panel: 768 KiB of f32; longer steps fall out of the second-level cache */
#define FEW_ROWS  4    /* up to here dot products */
#define DOT_N     64   /* outputs per task there */
#define DOT_STEP  2048 /* floats widened at once; a multiple of LX_LANES */
#define FEW_TILES 32   /* below this the tiles are made narrower, for more threads */

/* One call, as its tasks see it. */
typedef struct job {
    const lx_act *in;
    const lx_weight *w;
    const lx_epilogue *e;
    const float *bias; /* [n] widened, or NULL */
    float *out;
    int64_t out_stride;
    int64_t m, n, k, tile_m, tile_n;
    const lx_rows *rows;
    lx_s8_path s8;
    float *scratch; /* of all threads: x panel, w panel, sums */
    int64_t per_thread, x_panel, w_panel;
} job;

typedef struct span {
    int64_t m0, m, n0, n;
} span;

static bool is_f32(lx_dtype dtype)
{
    return dtype == LX_DTYPE_F32;
}

/* Panels and sums of one thread, in floats; a dry run and a real one take the same. */
static void plan(job *j)
{
    j->tile_m = j->m < TILE_M ? j->m : TILE_M;
    j->tile_n = j->n < TILE_N ? j->n : TILE_N;
    if (lx_ceil_div(j->m, j->tile_m) * lx_ceil_div(j->n, j->tile_n) < FEW_TILES)
        j->tile_n = lx_min_i64(j->n, TILE_N / 2);
    int64_t step = lx_min_i64(j->k, K_STEP);
    bool is_s8 = j->in->dtype == LX_DTYPE_I8;
    j->x_panel = is_s8 || is_f32(j->in->dtype) ? 0 : j->tile_m * step;
    j->w_panel = is_s8 || is_f32(j->w->dtype) ? 0 : j->tile_n * step;
    int64_t sums = j->tile_m * j->tile_n;
    if (j->m <= FEW_ROWS) {
        j->tile_n = lx_min_i64(j->n, DOT_N);
        j->x_panel = is_s8 || is_f32(j->in->dtype) ? 0 : j->m * j->k;
        j->w_panel = is_s8 || is_f32(j->w->dtype) ? 0 : lx_min_i64(j->k, DOT_STEP);
        sums = j->m * j->tile_n;
    }
    j->per_thread = j->x_panel + j->w_panel + sums;
}

static float *scratch_of(const job *j)
{
    return j->scratch + lx_cpu_thread() * j->per_thread;
}

static lx_row_epilogue row_epilogue(const job *j, int64_t m, int64_t n0)
{
    const lx_epilogue *e = j->e;
    return (lx_row_epilogue){
        .x_scale = is_f32(j->in->dtype) ? 1.0f : j->in->scale[m],
        .w_scale = j->w->scale ? j->w->scale + n0 : NULL,
        .bias = j->bias ? j->bias + n0 : NULL,
        .activation = e->activation,
        .mul = e->mul ? (const float *)e->mul->data + m * e->mul->stride + n0 : NULL,
        .gate = e->gate ? e->gate + n0 : NULL,
        .add_to_out = e->add_to_out,
    };
}

static void finish_tile(const job *j, const span *s, void *sums)
{
    for (int64_t i = 0; i < s->m; i++) {
        lx_row_epilogue e = row_epilogue(j, s->m0 + i, s->n0);
        float *out = j->out + (s->m0 + i) * j->out_stride + s->n0;
        if (j->in->dtype == LX_DTYPE_I8)
            j->rows->finish_s32(&e, (int32_t *)sums + i * s->n, out, s->n);
        else
            j->rows->finish_f32(&e, (float *)sums + i * s->n, out, s->n);
    }
}

/* Address of element (row, col) of a [.., k] matrix of any dtype. */
static const void *at(const void *data, lx_dtype dtype, int64_t row, int64_t col, int64_t k)
{
    const char *bytes = data;
    return bytes + (size_t)(row * k + col) * lx_dtype_size(dtype);
}

/* [rows, step] of a matrix as f32: in place, or widened into the panel. */
static const float *panel(const job *j, const void *data, lx_dtype dtype, const int64_t rows[2],
                          const int64_t cols[2], float *room, int64_t *stride)
{
    if (is_f32(dtype)) {
        *stride = j->k;
        return at(data, dtype, rows[0], cols[0], j->k);
    }
    for (int64_t r = 0; r < rows[1]; r++)
        j->rows->widen(room + r * cols[1], at(data, dtype, rows[0] + r, cols[0], j->k), dtype,
                       cols[1]);
    *stride = cols[1];
    return room;
}

static int float_tile(const job *j, const span *s)
{
    float *x_room = scratch_of(j), *w_room = x_room + j->x_panel, *sums = w_room + j->w_panel;
    for (int64_t k0 = 0; k0 < j->k; k0 += K_STEP) {
        int64_t step = lx_min_i64(j->k - k0, K_STEP);
        lx_gemm g = {.b_is_transposed = true, .m = s->m, .n = s->n, .k = step, .ldc = s->n};
        g.alpha = 1;
        g.beta = k0 ? 1.0f : 0.0f;
        const float *a = panel(j, j->in->data, j->in->dtype, (int64_t[]){s->m0, s->m},
                               (int64_t[]){k0, step}, x_room, &g.lda);
        const float *b = panel(j, j->w->data, j->w->dtype, (int64_t[]){s->n0, s->n},
                               (int64_t[]){k0, step}, w_room, &g.ldb);
        int code = lx_dnnl_sgemm(&g, a, b, sums);
        if (code)
            return code;
    }
    finish_tile(j, s, sums);
    return 0;
}

static int s8_tile(const job *j, const span *s)
{
    int32_t *sums = (int32_t *)(void *)scratch_of(j);
    lx_s8_tile t = {.m = s->m, .n = s->n, .k = j->k, .lda = j->k, .ldb = j->k, .ldc = s->n};
    t.a = at(j->in->data, LX_DTYPE_I8, s->m0, 0, j->k);
    t.b = at(j->w->data, LX_DTYPE_I8, s->n0, 0, j->k);
    t.c = sums;
    int code = lx_s8_multiply(j->s8, &t);
    if (!code)
        finish_tile(j, s, sums);
    return code;
}

/* Up to FEW_ROWS rows: each weight row is read once and multiplied with all of them. */
static int dot_tile(const job *j, const span *s)
{
    float *x_room = scratch_of(j), *w_room = x_room + j->x_panel, *sums = w_room + j->w_panel;
    const float *x = j->in->data;
    if (!is_f32(j->in->dtype)) {
        j->rows->widen(x_room, j->in->data, j->in->dtype, j->m * j->k);
        x = x_room;
    }
    for (int64_t n = 0; n < s->n; n++) {
        float lanes[FEW_ROWS][LX_LANES] = {{0}};
        for (int64_t k0 = 0; k0 < j->k; k0 += DOT_STEP) {
            int64_t step = lx_min_i64(j->k - k0, DOT_STEP), stride;
            const float *w = panel(j, j->w->data, j->w->dtype, (int64_t[]){s->n0 + n, 1},
                                   (int64_t[]){k0, step}, w_room, &stride);
            for (int64_t m = 0; m < j->m; m++)
                j->rows->dot(lanes[m], x + m * j->k + k0, w, step);
        }
        for (int64_t m = 0; m < j->m; m++)
            sums[m * s->n + n] = j->rows->lane_sum(lanes[m]);
    }
    finish_tile(j, s, sums);
    return 0;
}

static int run_tile(const job *j, int64_t i)
{
    int64_t m_tiles = lx_ceil_div(j->m, j->tile_m);
    span s = {.m0 = i % m_tiles * j->tile_m, .n0 = i / m_tiles * j->tile_n};
    s.m = lx_min_i64(j->tile_m, j->m - s.m0);
    s.n = lx_min_i64(j->tile_n, j->n - s.n0);
    if (j->in->dtype == LX_DTYPE_I8)
        return s8_tile(j, &s);
    return j->m <= FEW_ROWS ? dot_tile(j, &s) : float_tile(j, &s);
}

static lx_status linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        const lx_mat *out, lx_err *err)
{
    job j = {.in = in, .w = w, .e = e, .m = in->rows};
    j.out = out->data;
    j.out_stride = out->stride;
    j.n = w->shape.dim[0];
    j.k = in->cols;
    j.rows = lx_rows_best();
    bool library = x->backend->s8_in_library && j.m > FEW_ROWS;
    j.s8 = library ? LX_S8_LIBRARY : lx_s8_own_path();
    plan(&j);
    size_t mark = lx_arena_mark(x->arena);
    int code = 0;
    lx_status status = lx_cpu_vector(x, e->bias, j.n, &j.bias, err);
    if (status == LX_OK)
        status = lx_cpu_take_per_thread(x, &j.per_thread, &j.scratch, err);
    if (status == LX_OK && !x->is_dry) {
        int64_t tiles = lx_ceil_div(j.m, j.tile_m) * lx_ceil_div(j.n, j.tile_n);
#pragma omp parallel for schedule(dynamic) num_threads(x->n_threads) if (tiles > 1)
        for (int64_t i = 0; i < tiles; i++)
            lx_cpu_note(&code, run_tile(&j, i));
        status = lx_dnnl_check(code, w->name, err);
    }
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_status lx_cpu_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        const lx_mat *out, lx_act *act, lx_err *err)
{
    if (out)
        return linear(x, in, w, e, out, err);
    if (act->dtype == LX_DTYPE_F32) {
        lx_mat dense = lx_mat_f32(act->data, act->rows, act->cols);
        return linear(x, in, w, e, &dense, err);
    }
    lx_mat rows;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_mat_take(x, LX_DTYPE_F32, act->rows, act->cols, &rows, err);
    if (status == LX_OK)
        status = linear(x, in, w, e, &rows, err);
    if (status == LX_OK)
        status = lx_cpu_quantize_rows(x, &rows, act, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_dtype lx_cpu_act_dtype(const lx_exec *x, const lx_weight *w)
{
    (void)x;
    if (w->dtype == LX_DTYPE_I8)
        return LX_DTYPE_I8;
    return w->dtype == LX_DTYPE_F8_E4M3 && w->scale ? LX_DTYPE_F8_E4M3 : LX_DTYPE_F32;
}

static void quantize_row(const float *in, lx_act *out, int64_t m)
{
    const lx_rows *rows = lx_rows_best();
    int64_t n = out->cols;
    float absmax = rows->absmax(in, n);
    if (out->dtype == LX_DTYPE_I8) {
        int8_t *q = (int8_t *)out->data + m * n;
        out->scale[m] = absmax / 127.0f;
        rows->quantize_i8(q, in, n, absmax == 0 ? 0.0f : 127.0f / absmax);
    } else {
        uint8_t *q = (uint8_t *)out->data + m * n;
        out->scale[m] = absmax / 448.0f;
        /* An absmax this small has scale 0: any positive divisor gives the zero codes it means. */
        rows->quantize_e4m3(q, in, n, out->scale[m] == 0 ? HUGE_VALF : out->scale[m]);
    }
}

void lx_cpu_quantize_row(const float *in, lx_act *out, int64_t row)
{
    if (out->dtype == LX_DTYPE_F32)
        memmove((float *)out->data + row * out->cols, in, (size_t)out->cols * sizeof *in);
    else
        quantize_row(in, out, row);
}

lx_status lx_cpu_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err)
{
    (void)err;
    if (x->is_dry)
        return LX_OK;
#pragma omp parallel for schedule(static) num_threads(x->n_threads) if (out->rows > 1)
    for (int64_t m = 0; m < out->rows; m++)
        lx_cpu_quantize_row((const float *)in->data + m * in->stride, out, m);
    return LX_OK;
}
