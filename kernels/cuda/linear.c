/*
 * linear.c - linears on a card: products and what finishes them, band by band
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      linear_plan.c's: which product, how large a band is, where its sums lie.
 * Own       A kernel of ours writes what is wanted, all rows at once. Codes as output need a row's
 *           maximum first: so bands, two by turns, and each band's kernel makes codes of the one
 *           before.
 * Others    A band's product by cuBLASLt, or in F32, and one kernel that finishes its sums while
 *           the second-level cache has them. BF16 all around may need no second one.
 */
#include <inttypes.h>

#include "cu_rows.h"
#include "linear_plan.h"
#include "lx_log.h"

lx_status lx_cuda_check_size(const lx_exec *x, int64_t rows, int64_t cols, lx_err *err)
{
    if (rows <= INT32_MAX && cols <= INT32_MAX)
        return LX_OK;
    return lx_fail(err, LX_EJOB, "%s: %" PRId64 " x %" PRId64 ": sides of at most %" PRId32,
                   x->cuda->card.name, rows, cols, INT32_MAX);
}

lx_dtype lx_cuda_act_dtype(const lx_exec *x, const lx_weight *w)
{
    if (w->dtype == LX_DTYPE_I8)
        return LX_DTYPE_I8;
    bool is_scaled_fp8 = w->dtype == LX_DTYPE_F8_E4M3 && w->scale;
    return is_scaled_fp8 && lx_card_has_fp8(&x->cuda->card) ? LX_DTYPE_F8_E4M3 : x->rows;
}

/* --- running --------------------------------------------------------------------------------- */

static const void *at(const void *data, int64_t element, int dtype)
{
    const unsigned char *bytes = data;
    return bytes + element * (int64_t)lx_dtype_size((lx_dtype)dtype);
}

static void *at_out(void *data, int64_t element, int dtype)
{
    unsigned char *bytes = data;
    return bytes + element * (int64_t)lx_dtype_size((lx_dtype)dtype);
}

static lx_cu_mat window(const lx_cu_mat *m, const int64_t rows[2], const int64_t cols[2])
{
    lx_cu_mat part = *m;
    if (part.data)
        part.data = at_out(part.data, rows[0] * part.stride + cols[0], part.dtype);
    part.rows = rows[1];
    part.cols = cols[1];
    return part;
}

static int64_t part(int64_t whole, int64_t first, int64_t most)
{
    return whole - first < most ? whole - first : most;
}

static lx_status check(const linear_job *j, int code)
{
    return lx_cuda_status(j->x->cuda, code, j->w->name, j->err);
}

/* Columns cols[0] .. + cols[1] of the weight as BF16 or F32; the band's place does not change. */
static lx_status widen_weight(const linear_job *j, const int64_t cols[2])
{
    if (!j->w_band)
        return LX_OK;
    const lx_cuda *c = j->x->cuda;
    int dtype = (int)j->w->dtype;
    lx_cu_vec band = {dtype, at(j->w->data, cols[0] * j->k, dtype)};
    if (j->kind == LINEAR_SHORT) {
        lx_cu_mat rows = {dtype, cols[1], j->k, j->k, (void *)(uintptr_t)band.data};
        return check(j, c->module->rows->widen(c->dev, &rows, j->w_band));
    }
    return check(j, c->module->linear->to_bf16(c->dev, band, cols[1] * j->k, j->w_band));
}

static lx_status few(const linear_job *j, const int64_t rows[2], const int64_t cols[2], void *acc,
                     int64_t ld)
{
    const lx_cuda *c = j->x->cuda;
    int dtype = (int)j->w->dtype;
    lx_cu_few p = {.m = rows[1], .n = cols[1], .k = j->k, .acc = acc, .ld = ld};
    p.x = (const float *)j->in->data + rows[0] * j->k;
    p.w = (lx_cu_vec){dtype, at(j->w->data, cols[0] * j->k, dtype)};
    return check(j, c->module->linear->few(c->dev, &p));
}

static lx_status multiply(const linear_job *j, const int64_t rows[2], const int64_t cols[2],
                          void *acc, int64_t ld)
{
    const lx_cuda *c = j->x->cuda;
    if (j->kind == LINEAR_FEW)
        return few(j, rows, cols, acc, ld);
    int dtype = (int)j->in->dtype;
    lx_cu_product p = {.dtype = dtype, .m = rows[1], .n = cols[1], .k = j->k, .acc = acc, .ld = ld};
    p.x = at(j->in->data, rows[0] * j->k, dtype);
    p.w = j->w_band ? j->w_band : at(j->w->data, cols[0] * j->k, (int)j->w->dtype);
    p.scratch = j->blas;
    p.scratch_bytes = j->work_bytes;
    if (j->x_band) {
        lx_cu_vec band = {dtype, p.x};
        lx_status status =
            check(j, c->module->linear->to_bf16(c->dev, band, rows[1] * j->k, j->x_band));
        if (status != LX_OK)
            return status;
        p.x = j->x_band;
        p.dtype = LX_CU_BF16;
    }
    return check(j, c->module->linear->product(c->dev, &p));
}

static lx_cu_epilogue epilogue_of(const linear_job *j, const int64_t rows[2], const int64_t cols[2])
{
    const lx_epilogue *e = j->e;
    lx_cu_mat mul = lx_cu_mat_of(e->mul);
    lx_cu_epilogue p = {.m = rows[1],
                        .n = cols[1],
                        .acc = j->acc,
                        .acc_is_s32 = j->in->dtype == LX_DTYPE_I8,
                        .x_scale = lx_dtype_is_code(j->in->dtype) ? j->in->scale + rows[0] : NULL,
                        .w_scale = j->w->scale ? j->w->scale + cols[0] : NULL,
                        .bias = lx_cu_vec_of(e->bias),
                        .activation = (int)e->activation,
                        .mul = window(&mul, rows, cols),
                        .gate = e->gate ? e->gate + cols[0] : NULL,
                        .add_to_out = e->add_to_out,
                        .out = window(&j->out, rows, cols),
                        .out_scale = j->out_scale ? j->out_scale + rows[0] : NULL};
    if (p.bias.data)
        p.bias.data = at(p.bias.data, cols[0], p.bias.dtype);
    return p;
}

static lx_status finish(const linear_job *j, const int64_t rows[2], const int64_t cols[2])
{
    const lx_cuda *c = j->x->cuda;
    lx_cu_epilogue p = epilogue_of(j, rows, cols);
    return check(j, c->module->linear->epilogue(c->dev, &p));
}

/* --- kernels of our own ---------------------------------------------------------------------- */

static lx_cu_int8 int8_of(const linear_job *j, const int64_t rows[2])
{
    int64_t all[2] = {0, j->n};
    lx_cu_int8 p = {.design = j->design, .k = j->k, .w = j->w->data};
    p.is_fp8 = j->in->dtype == LX_DTYPE_F8_E4M3;
    p.is_bf16 = j->in->dtype == LX_DTYPE_BF16;
    p.x = at(j->in->data, rows[0] * j->k, (int)j->in->dtype);
    p.e = epilogue_of(j, rows, all);
    return p;
}

/* Each band's kernel makes codes of the band before. */
static lx_status run_own_codes(const linear_job *j)
{
    const lx_cuda *c = j->x->cuda;
    lx_cu_codes before = {0};
    lx_status status = check(j, c->module->base->zero(c->dev, j->most, (size_t)j->m * 4));
    for (int64_t m = 0, i = 0; m < j->m && status == LX_OK; m += j->band_m, i++) {
        int64_t rows[2] = {m, part(j->m, m, j->band_m)};
        lx_cu_int8 p = int8_of(j, rows);
        void *y = i % 2 ? j->acc2 : j->acc;
        p.e.out = (lx_cu_mat){lx_cuda_dtype_before_codes(j), rows[1], j->n, j->n, y};
        p.most = j->most + m;
        p.codes = before;
        status = check(j, c->module->linear->int8(c->dev, &p));
        before = (lx_cu_codes){.rows = rows[1], .cols = j->n, .y = y, .most = p.most};
        before.out = (int8_t *)j->out.data + m * j->n;
        before.scale = j->out_scale + m;
        before.is_half = p.e.out.dtype == LX_CU_F16;
        before.is_fp8 = p.is_fp8;
    }
    return status == LX_OK ? check(j, c->module->linear->codes(c->dev, &before)) : status;
}

static lx_status run_own(const linear_job *j)
{
    const lx_cuda *c = j->x->cuda;
    if (j->whole_rows)
        return run_own_codes(j);
    int64_t rows[2] = {0, j->m};
    lx_cu_int8 p = int8_of(j, rows);
    p.squares = j->squares;
    lx_status status = check(j, c->module->linear->int8(c->dev, &p));
    int64_t part = LX_CU_INT8_PART(p.design), parts = (j->n + part - 1) / part;
    if (status == LX_OK && j->squares)
        status =
            check(j, c->module->rows->fold(c->dev, j->squares, (int)parts, j->m, j->e->square));
    return status;
}

/* Of any other product: its rows are read again. */
static lx_status sum_squares(const linear_job *j)
{
    const lx_cuda *c = j->x->cuda;
    return check(j, c->module->rows->squares(c->dev, &j->out, j->e->square));
}

/* --- in bands -------------------------------------------------------------------------------- */

/* Quantized output: all columns of a band of rows, then the rows are finished. */
static lx_status run_rows(const linear_job *j)
{
    lx_status status = LX_OK;
    for (int64_t m = 0; m < j->m && status == LX_OK; m += j->band_m) {
        int64_t rows[2] = {m, part(j->m, m, j->band_m)}, all[2] = {0, j->n};
        for (int64_t n = 0; n < j->n && status == LX_OK; n += j->band_n) {
            int64_t cols[2] = {n, part(j->n, n, j->band_n)};
            status = widen_weight(j, cols);
            if (status == LX_OK)
                status = multiply(j, rows, cols, (float *)j->acc + n, j->n);
        }
        if (status == LX_OK)
            status = finish(j, rows, all);
    }
    return status;
}

/* Otherwise columns are outside, so that a band of weights is widened once. */
static lx_status run_columns(const linear_job *j)
{
    lx_status status = LX_OK;
    for (int64_t n = 0; n < j->n && status == LX_OK; n += j->band_n) {
        int64_t cols[2] = {n, part(j->n, n, j->band_n)};
        status = widen_weight(j, cols);
        for (int64_t m = 0; m < j->m && status == LX_OK; m += j->band_m) {
            int64_t rows[2] = {m, part(j->m, m, j->band_m)};
            status = multiply(j, rows, cols, j->acc, cols[1]);
            if (status == LX_OK)
                status = finish(j, rows, cols);
        }
    }
    return status;
}

/* BF16 all around: cuBLASLt may finish it. Needs no scratch but its own; *is_done. */
static lx_status try_finished(const linear_job *j, bool *is_done)
{
    const lx_cuda *c = j->x->cuda;
    const lx_epilogue *e = j->e;
    bool is_fit = j->kind == LINEAR_BF16 && j->w->dtype == LX_DTYPE_BF16 &&
                  j->in->dtype == LX_DTYPE_BF16 && j->out.dtype == LX_CU_BF16 && !j->whole_rows &&
                  !e->mul && !e->gate && !e->add_to_out && e->activation != LX_ACTIVATION_SILU &&
                  (!e->bias || e->bias->dtype == LX_DTYPE_BF16);
    *is_done = false;
    if (!is_fit)
        return LX_OK;
    lx_cu_product p = {.dtype = LX_CU_BF16,
                       .m = j->m,
                       .n = j->n,
                       .k = j->k,
                       .x = j->in->data,
                       .w = j->w->data,
                       .acc = j->out.data,
                       .ld = j->out.stride,
                       .scratch = j->blas,
                       .scratch_bytes = j->work_bytes,
                       .is_finished = true,
                       .bias = lx_cu_vec_of(e->bias),
                       .activation = (int)e->activation};
    int code = c->module->linear->product(c->dev, &p);
    *is_done = code != LX_CU_NOT_SERVED;
    return *is_done ? check(j, code) : LX_OK;
}

static lx_status run_bands(const linear_job *j)
{
    bool is_done;
    lx_status status = try_finished(j, &is_done);
    if (status != LX_OK || is_done)
        return status;
    return j->whole_rows ? run_rows(j) : run_columns(j);
}

static void tell_about_fp8(const linear_job *j)
{
    lx_cuda *c = j->x->cuda;
    if (c->has_told_fp8 || j->w->dtype != LX_DTYPE_F8_E4M3 || !j->w->scale ||
        lx_card_has_fp8(&c->card))
        return;
    c->has_told_fp8 = true;
    LX_I("cuda card=\"%s\" compute=%d.%d fp8=widened: its tensor cores have no FP8 (8.9 and later "
         "have), so FP8 weights are multiplied as BF16",
         c->card.name, c->card.major, c->card.minor);
}

lx_status lx_cuda_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                         const lx_mat *out, lx_act *act, lx_err *err)
{
    linear_job j = {.x = x, .in = in, .w = w, .e = e, .err = err};
    j.m = in->rows;
    j.n = w->shape.dim[0];
    j.k = in->cols;
    if (act)
        j.out = (lx_cu_mat){(int)act->dtype, act->rows, act->cols, act->cols, act->data};
    else
        j.out = lx_cu_mat_of(out);
    j.out_scale = act ? act->scale : NULL;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_cuda_check_size(x, j.m, j.n > j.k ? j.n : j.k, err);
    if (status != LX_OK)
        return status;
    lx_cuda_linear_plan(&j);
    status = lx_cuda_linear_scratch(&j);
    if (status == LX_OK && !x->is_dry) {
        tell_about_fp8(&j);
        lx_cuda_linear_table(&j);
        status = j.kind == LINEAR_OWN ? run_own(&j) : run_bands(&j);
        if (status == LX_OK && e->square && j.kind != LINEAR_OWN)
            status = sum_squares(&j);
    }
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_status lx_cuda_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err)
{
    const lx_cuda *c = x->cuda;
    lx_status status = lx_cuda_check_size(x, in->rows, in->cols, err);
    if (status != LX_OK || x->is_dry)
        return status;
    lx_cu_mat from = lx_cu_mat_of(in);
    lx_cu_mat to = {(int)out->dtype, out->rows, out->cols, out->cols, out->data};
    return lx_cuda_status(c, c->module->linear->quantize(c->dev, &from, &to, out->scale),
                          "quantizing rows", err);
}
