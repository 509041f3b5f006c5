/*
 * elementwise.c - vector operations on the CPU; all are short, so they run on one thread
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_cpu.h"
#include "lx_rows.h"

lx_status lx_cpu_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err)
{
    (void)err;
    if (!x->is_dry)
        lx_rows_best()->silu(out, in, n);
    return LX_OK;
}

lx_status lx_cpu_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                       lx_err *err)
{
    (void)err;
    if (!x->is_dry)
        lx_rows_best()->axpby(out, a, in, b, n);
    return LX_OK;
}

lx_status lx_cpu_gather_rows(lx_exec *x, const lx_weight *weight, const int32_t *ids, int64_t n,
                             float *out, lx_err *err)
{
    (void)err;
    if (x->is_dry)
        return LX_OK;
    int64_t cols = weight->shape.dim[1];
    size_t row_bytes = (size_t)cols * lx_dtype_size(weight->dtype);
    const char *bytes = weight->data;
    for (int64_t i = 0; i < n; i++)
        lx_rows_best()->widen(out + i * cols, bytes + (size_t)ids[i] * row_bytes, weight->dtype,
                              cols);
    return LX_OK;
}
