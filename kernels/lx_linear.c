/*
 * lx_linear.c - linears: shapes and dtypes checked, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_linear.h"

#include <inttypes.h>

#include "lx_backend.h"

/* s32 holds 2^17 products of at most 127 * 128: codes of activations are never -128. */
#define K_MAX_I8 ((int64_t)1 << 17)

lx_dtype lx_linear_act_dtype(const lx_exec *x, const lx_weight *w)
{
    return x->backend->act_dtype(x, w);
}

static bool is_act_dtype(const lx_exec *x, lx_dtype dtype)
{
    return dtype == LX_DTYPE_F32 || dtype == x->rows || lx_dtype_is_code(dtype);
}

lx_status lx_act_take(lx_exec *x, lx_dtype dtype, int64_t rows, int64_t cols, lx_act *out,
                      lx_err *err)
{
    if (!is_act_dtype(x, dtype) || !lx_matrix_is_sane(rows, cols))
        return lx_fail(err, LX_EJOB, "activations %s [%" PRId64 ", %" PRId64 "] are not possible",
                       lx_dtype_name(dtype), rows, cols);
    lx_act act = {.dtype = dtype, .rows = rows, .cols = cols};
    size_t mark = lx_arena_mark(x->arena);
    uint64_t bytes = (uint64_t)rows * (uint64_t)cols * lx_dtype_size(dtype);
    lx_status status = lx_arena_take(x->arena, (size_t)bytes, &act.data, err);
    if (status == LX_OK && lx_dtype_is_code(dtype))
        status = lx_arena_take_f32(x->arena, (uint64_t)rows, &act.scale, err);
    if (status != LX_OK) {
        lx_arena_reset(x->arena, mark);
        return status;
    }
    *out = act;
    return LX_OK;
}

static lx_status check_act(const lx_exec *x, const lx_act *act, lx_err *err)
{
    bool has_scale = !lx_dtype_is_code(act->dtype) || act->scale;
    if (is_act_dtype(x, act->dtype) && has_scale && act->data &&
        lx_matrix_is_sane(act->rows, act->cols))
        return LX_OK;
    return lx_fail(err, LX_EJOB, "activations %s [%" PRId64 ", %" PRId64 "] cannot be used",
                   lx_dtype_name(act->dtype), act->rows, act->cols);
}

lx_status lx_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err)
{
    lx_status status = check_act(x, out, err);
    if (status != LX_OK)
        return status;
    if (!lx_mat_is_sane(x, in, false) || in->rows != out->rows || in->cols != out->cols)
        return lx_fail(err, LX_EJOB,
                       "%s [%" PRId64 ", %" PRId64 "] cannot be quantized to %s [%" PRId64
                       ", %" PRId64 "]",
                       lx_dtype_name(in->dtype), in->rows, in->cols, lx_dtype_name(out->dtype),
                       out->rows, out->cols);
    return x->backend->quantize_rows(x, in, out, err);
}

lx_status lx_act_of(lx_exec *x, const lx_mat *rows, const lx_weight *w, lx_act *out, lx_err *err)
{
    lx_dtype dtype = lx_linear_act_dtype(x, w);
    if (rows->dtype == dtype && rows->stride == rows->cols) {
        *out = (lx_act){.dtype = dtype, .rows = rows->rows, .cols = rows->cols, .data = rows->data};
        return LX_OK;
    }
    lx_status status = lx_act_take(x, dtype, rows->rows, rows->cols, out, err);
    return status == LX_OK ? lx_quantize_rows(x, rows, out, err) : status;
}

/* Rows and columns of a weight as a matrix; false if it is none. */
static bool matrix_of(const lx_weight *w, int64_t *n, int64_t *k)
{
    if (w->shape.n_dims < 2 || w->shape.n_dims > LX_LIMIT_DIMS)
        return false;
    int64_t cols = 1;
    for (int i = 1; i < w->shape.n_dims; i++) {
        if (!lx_matrix_is_sane(cols, w->shape.dim[i]))
            return false;
        cols *= w->shape.dim[i];
    }
    *n = w->shape.dim[0];
    *k = cols;
    return lx_matrix_is_sane(*n, cols);
}

static lx_status check_weight(const lx_exec *x, const lx_weight *w, const lx_act *in, int64_t *n,
                              lx_err *err)
{
    char shape[128];
    lx_shape_text(&w->shape, shape, sizeof shape);
    int64_t k;
    if (!matrix_of(w, n, &k) || k != in->cols)
        return lx_fail(err, LX_EJOB, "%s %s: the product needs [N, %" PRId64 "]", w->name, shape,
                       in->cols);
    if (w->dtype == LX_DTYPE_I8) {
        if (!w->scale)
            return lx_fail(err, LX_EJOB, "%s: I8 without a scale", w->name);
        if (k > K_MAX_I8)
            return lx_fail(err, LX_EJOB, "%s %s: at most %" PRId64 " columns for I8", w->name,
                           shape, K_MAX_I8);
    } else if (!lx_dtype_is_float(w->dtype)) {
        return lx_fail(err, LX_EJOB, "%s: %s is no dtype for a linear", w->name,
                       lx_dtype_name(w->dtype));
    }
    lx_dtype wanted = lx_linear_act_dtype(x, w);
    bool is_widened = in->dtype == LX_DTYPE_F32 && !lx_dtype_is_code(wanted);
    if (in->dtype != wanted && !is_widened)
        return lx_fail(err, LX_EJOB, "%s: takes %s activations, got %s", w->name,
                       lx_dtype_name(wanted), lx_dtype_name(in->dtype));
    return LX_OK;
}

/* Everything but the output. *n: its columns. */
static lx_status check_product(const lx_exec *x, const lx_act *in, const lx_weight *w,
                               const lx_epilogue *e, int64_t *n, lx_err *err)
{
    lx_status status = check_act(x, in, err);
    if (status == LX_OK)
        status = check_weight(x, w, in, n, err);
    if (status != LX_OK)
        return status;
    if (e->bias && !lx_weight_is_vector(e->bias, *n))
        return lx_fail(err, LX_EJOB, "%s: the bias of %s needs %" PRId64 " elements", e->bias->name,
                       w->name, *n);
    if ((int)e->activation < 0 || e->activation > LX_ACTIVATION_SILU)
        return lx_fail(err, LX_EJOB, "%s: activation %d does not exist", w->name,
                       (int)e->activation);
    if (e->mul &&
        (!lx_mat_is_sane(x, e->mul, false) || e->mul->rows != in->rows || e->mul->cols != *n))
        return lx_fail(err, LX_EJOB, "%s: factors of %s [%" PRId64 ", %" PRId64 "] do not fit",
                       w->name, lx_dtype_name(e->mul->dtype), e->mul->rows, e->mul->cols);
    return LX_OK;
}

lx_status lx_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *epilogue,
                    const lx_mat *out, lx_err *err)
{
    static const lx_epilogue nothing = {0};
    const lx_epilogue *e = epilogue ? epilogue : &nothing;
    int64_t n = 0;
    lx_status status = check_product(x, in, w, e, &n, err);
    if (status != LX_OK)
        return status;
    if (!lx_mat_is_sane(x, out, true) || out->rows != in->rows || out->cols != n ||
        (e->add_to_out && out->dtype != LX_DTYPE_F32))
        return lx_fail(err, LX_EJOB,
                       "%s: %" PRId64 " rows of %" PRId64 " outputs do not go into %s [%" PRId64
                       ", %" PRId64 "], rows %" PRId64 " apart",
                       w->name, in->rows, n, lx_dtype_name(out->dtype), out->rows, out->cols,
                       out->stride);
    if (e->square && (lx_exec_is_host(x) || out->dtype != x->rows || e->mul || e->gate))
        return lx_fail(err, LX_EJOB, "%s: sums of squares are told by cards, of plain rows",
                       w->name);
    return x->backend->linear(x, in, w, e, out, NULL, err);
}

lx_status lx_linear_to_act(lx_exec *x, const lx_act *in, const lx_weight *w,
                           const lx_epilogue *epilogue, lx_act *out, lx_err *err)
{
    static const lx_epilogue nothing = {0};
    const lx_epilogue *e = epilogue ? epilogue : &nothing;
    int64_t n = 0;
    lx_status status = check_product(x, in, w, e, &n, err);
    if (status == LX_OK)
        status = check_act(x, out, err);
    if (status != LX_OK)
        return status;
    if (out->rows != in->rows || out->cols != n || e->mul || e->gate || e->add_to_out || e->square)
        return lx_fail(err, LX_EJOB,
                       "%s: %" PRId64 " rows of %" PRId64 " outputs do not go into codes [%" PRId64
                       ", %" PRId64 "]",
                       w->name, in->rows, n, out->rows, out->cols);
    return x->backend->linear(x, in, w, e, NULL, out, err);
}
