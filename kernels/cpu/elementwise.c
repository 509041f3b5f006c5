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

lx_status lx_cpu_widen(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err)
{
    (void)err;
    if (!x->is_dry)
        lx_rows_best()->widen(out, weight->data, weight->dtype, n);
    return LX_OK;
}
