/*
 * rows.c - norms, rotary embedding, vector operations and patches on a card: our side
 * SPDX-License-Identifier: Apache-2.0
 *
 * One kernel each and no scratch, but for the word that the finite check comes back in.
 */

#include "cu_rows.h"
#include "lx_cuda_priv.h"

static const struct lx_cuda_rows_ops *ops_of(const lx_exec *x)
{
    return x->cuda->module->rows;
}

lx_status lx_cuda_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                            lx_err *err)
{
    lx_status status = lx_cuda_check_size(x, out->rows, out->cols, err);
    if (status != LX_OK || x->is_dry)
        return status;
    lx_cu_norm n = {.in = in,
                    .is_layer = norm->kind == LX_NORM_LAYER,
                    .eps = norm->eps,
                    .weight = lx_cu_vec_of(norm->weight),
                    .bias = lx_cu_vec_of(norm->bias),
                    .shift = norm->shift,
                    .scale = norm->scale,
                    .out = {(int)out->dtype, out->rows, out->cols, out->cols, out->data},
                    .out_scale = out->scale};
    return lx_cuda_status(x->cuda, ops_of(x)->norm(x->cuda->dev, &n), "norm", err);
}

/* --- rotary embedding ------------------------------------------------------------------------ */

static lx_status build_axis(lx_exec *x, int64_t positions, int64_t pairs, const float **out,
                            lx_err *err)
{
    float *axis, *made;
    uint64_t n = (uint64_t)positions * (uint64_t)pairs * 2;
    size_t mark = lx_arena_mark(x->host);
    lx_status status = lx_arena_take_f32(x->arena, n, &axis, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->host, n, &made, err);
    if (status == LX_OK && !x->is_dry && n) {
        lx_rope_fill_axis(made, positions, pairs);
        status = lx_upload(x, axis, made, (size_t)n * sizeof *made, err);
    }
    lx_arena_reset(x->host, mark);
    if (status == LX_OK)
        *out = axis;
    return status;
}

lx_status lx_cuda_rope_table_build(lx_exec *x, lx_rope_table *table, lx_err *err)
{
    int64_t side = lx_rope_side_pairs(table->head_dim),
            front = lx_rope_front_pairs(table->head_dim);
    lx_status status = build_axis(x, table->grid.t, front, &table->t, err);
    if (status == LX_OK)
        status = build_axis(x, table->grid.h, side, &table->h, err);
    if (status == LX_OK)
        status = build_axis(x, table->grid.w, side, &table->w, err);
    return status;
}

lx_status lx_cuda_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token,
                               const lx_weight *gain, float eps, const lx_rope_table *table,
                               lx_err *err)
{
    lx_status status = lx_cuda_check_size(x, q->rows, q->cols, err);
    if (status != LX_OK || x->is_dry)
        return status;
    lx_cu_rope r = {
        .q = lx_cu_mat_of(q), .gain = lx_cu_vec_of(gain), .eps = eps, .first_token = first_token};
    if (table) {
        r.head_dim = table->head_dim;
        r.grid_h = table->grid.h;
        r.grid_w = table->grid.w;
        r.t = table->t;
        r.h = table->h;
        r.w = table->w;
    }
    return lx_cuda_status(x->cuda, ops_of(x)->qk_norm_rope(x->cuda->dev, &r), "q/k norm", err);
}

/* --- vectors --------------------------------------------------------------------------------- */

lx_status lx_cuda_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    return lx_cuda_status(x->cuda, ops_of(x)->silu(x->cuda->dev, in, n, out), "silu", err);
}

lx_status lx_cuda_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                        lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    return lx_cuda_status(x->cuda, ops_of(x)->axpby(x->cuda->dev, a, in, b, n, out), "axpby", err);
}

lx_status lx_cuda_widen(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err)
{
    if (x->is_dry || !n)
        return LX_OK;
    lx_cu_mat in = {(int)weight->dtype, 1, n, n, (void *)(uintptr_t)weight->data};
    return lx_cuda_status(x->cuda, ops_of(x)->widen(x->cuda->dev, &in, out), weight->name, err);
}

lx_status lx_cuda_mat_widen(lx_exec *x, const lx_mat *in, float *out, lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    lx_cu_mat from = lx_cu_mat_of(in);
    return lx_cuda_status(x->cuda, ops_of(x)->widen(x->cuda->dev, &from, out), "widening rows",
                          err);
}

/* --- patches --------------------------------------------------------------------------------- */

lx_status lx_cuda_patchify(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                           lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    lx_cu_patch d = {dims->channels, dims->t, dims->h, dims->w};
    return lx_cuda_status(x->cuda, ops_of(x)->patchify(x->cuda->dev, &d, latent, rows), "patchify",
                          err);
}

lx_status lx_cuda_unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows,
                             float *latent, lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    lx_cu_patch d = {dims->channels, dims->t, dims->h, dims->w};
    return lx_cuda_status(x->cuda, ops_of(x)->unpatchify(x->cuda->dev, &d, rows, latent),
                          "unpatchify", err);
}

lx_status lx_cuda_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first,
                                 lx_err *err)
{
    void *slot;
    uint64_t index = UINT64_MAX;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_arena_take(x->arena, sizeof index, &slot, err);
    if (status == LX_OK && !x->is_dry && n > 0) {
        status = lx_cuda_status(x->cuda, ops_of(x)->find_nonfinite(x->cuda->dev, in, n, slot),
                                "finite check", err);
        if (status == LX_OK)
            status = lx_download(x, &index, slot, sizeof index, err);
    }
    if (status == LX_OK)
        *first = index == UINT64_MAX ? -1 : (int64_t)index;
    lx_arena_reset(x->arena, mark);
    return status;
}
