/*
 * lx_norm.c - row norms: shapes checked, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_norm.h"

#include <inttypes.h>

#include "lx_backend.h"

static lx_status check_vector(const lx_weight *w, int64_t cols, lx_err *err)
{
    if (!w || lx_weight_is_vector(w, cols))
        return LX_OK;
    char shape[128];
    lx_shape_text(&w->shape, shape, sizeof shape);
    return lx_fail(err, LX_EJOB, "%s %s %s: the norm needs %" PRId64 " floating elements", w->name,
                   lx_dtype_name(w->dtype), shape, cols);
}

lx_status lx_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out, lx_err *err)
{
    bool is_act = out->dtype == LX_DTYPE_F32 || out->dtype == x->rows ||
                  (lx_dtype_is_code(out->dtype) && out->scale);
    if (!is_act || !lx_matrix_is_sane(out->rows, out->cols))
        return lx_fail(err, LX_EJOB, "norm to %s [%" PRId64 ", %" PRId64 "]: not possible",
                       lx_dtype_name(out->dtype), out->rows, out->cols);
    if ((norm->kind != LX_NORM_RMS && norm->kind != LX_NORM_LAYER) || !(norm->eps >= 0))
        return lx_fail(err, LX_EJOB, "norm of kind %d with eps %g does not exist", (int)norm->kind,
                       (double)norm->eps);
    lx_status status = check_vector(norm->weight, out->cols, err);
    if (status == LX_OK)
        status = check_vector(norm->bias, out->cols, err);
    return status == LX_OK ? x->backend->norm_rows(x, in, norm, out, err) : status;
}
