/*
 * lx_elementwise.c - checks of the vector operations
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_elementwise.h"

#include <inttypes.h>

#include "lx_backend.h"
#include "lx_copy.h"

lx_status lx_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err)
{
    if (!lx_matrix_is_sane(n, 1))
        return lx_fail(err, LX_EJOB, "silu of %" PRId64 " elements", n);
    return x->backend->silu(x, in, n, out, err);
}

lx_status lx_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                   lx_err *err)
{
    if (!lx_matrix_is_sane(n, 1))
        return lx_fail(err, LX_EJOB, "axpby of %" PRId64 " elements", n);
    return x->backend->axpby(x, a, in, b, n, out, err);
}

lx_status lx_gather_rows(lx_exec *x, const lx_weight *weight, const int32_t *ids, int64_t n,
                         float *out, lx_err *err)
{
    char shape[128];
    lx_shape_text(&weight->shape, shape, sizeof shape);
    if (weight->shape.n_dims != 2 || !lx_dtype_is_float(weight->dtype) ||
        !lx_matrix_is_sane(weight->shape.dim[0], weight->shape.dim[1]) ||
        !lx_matrix_is_sane(n, weight->shape.dim[1]))
        return lx_fail(err, LX_EJOB, "%s %s %s: cannot gather %" PRId64 " rows", weight->name,
                       lx_dtype_name(weight->dtype), shape, n);
    for (int64_t i = 0; i < n && !x->is_dry; i++)
        if (ids[i] < 0 || ids[i] >= weight->shape.dim[0])
            return lx_fail(err, LX_EJOB, "%s %s: id %" PRId32 " at place %" PRId64 " is no row",
                           weight->name, shape, ids[i], i);
    int64_t cols = weight->shape.dim[1];
    size_t mark = lx_arena_mark(x->host), row_bytes = (size_t)cols * lx_dtype_size(weight->dtype);
    float *rows = out;
    lx_status status = LX_OK;
    if (!lx_exec_is_host(x))
        status = lx_arena_take_f32(x->host, (uint64_t)(n * cols), &rows, err);
    for (int64_t i = 0; i < n && !x->is_dry && status == LX_OK; i++)
        lx_widen_to_f32(rows + i * cols, (const char *)weight->data + (size_t)ids[i] * row_bytes,
                        weight->dtype, (size_t)cols);
    if (status == LX_OK && !lx_exec_is_host(x))
        status = lx_upload(x, out, rows, (size_t)(n * cols) * sizeof *rows, err);
    lx_arena_reset(x->host, mark);
    return status;
}

lx_status lx_widen(lx_exec *x, const lx_weight *weight, float *out, lx_err *err)
{
    uint64_t elements;
    lx_status status = lx_shape_bytes(&weight->shape, weight->dtype, &elements, NULL, err);
    if (status != LX_OK)
        return status;
    if (!lx_dtype_is_float(weight->dtype))
        return lx_fail(err, LX_EJOB, "%s: %s is no float type", weight->name,
                       lx_dtype_name(weight->dtype));
    return x->backend->widen(x, weight, (int64_t)elements, out, err);
}
