/*
 * lx_elementwise.c - checks of the vector operations
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_elementwise.h"

#include <inttypes.h>

#include "lx_backend.h"

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
    return x->backend->gather_rows(x, weight, ids, n, out, err);
}
