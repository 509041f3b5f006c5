/*
 * copy.c - "host to device" where the device is the host
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "lx_cpu.h"

lx_status lx_cpu_copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    (void)err;
    if (!x->is_dry && dst != src)
        memcpy(dst, src, bytes);
    return LX_OK;
}

lx_status lx_cpu_zero(lx_exec *x, void *dst, size_t bytes, lx_err *err)
{
    (void)err;
    if (!x->is_dry)
        memset(dst, 0, bytes);
    return LX_OK;
}

lx_status lx_cpu_mat_widen(lx_exec *x, const lx_mat *in, float *out, lx_err *err)
{
    (void)err;
    for (int64_t i = 0; i < in->rows && !x->is_dry; i++)
        memcpy(out + i * in->cols, (const float *)in->data + i * in->stride,
               (size_t)in->cols * sizeof *out);
    return LX_OK;
}

/* Everything has run when a call returns. */
lx_status lx_cpu_nothing(lx_exec *x, lx_err *err)
{
    (void)x, (void)err;
    return LX_OK;
}
