/*
 * lx_copy.c - host and device memory: checks, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_copy.h"

#include "lx_backend.h"

lx_status lx_upload(lx_exec *x, void *dst_device, const void *src_host, size_t bytes, lx_err *err)
{
    return x->backend->upload(x, dst_device, src_host, bytes, err);
}

lx_status lx_download(lx_exec *x, void *dst_host, const void *src_device, size_t bytes, lx_err *err)
{
    return x->backend->download(x, dst_host, src_device, bytes, err);
}

lx_status lx_copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    return x->backend->copy(x, dst, src, bytes, err);
}

lx_status lx_zero(lx_exec *x, void *dst, size_t bytes, lx_err *err)
{
    return x->backend->zero(x, dst, bytes, err);
}

lx_status lx_mat_download(lx_exec *x, const lx_mat *in, float *out, lx_err *err)
{
    if (lx_exec_is_host(x))
        return x->backend->mat_widen(x, in, out, err);
    float *wide;
    uint64_t n = (uint64_t)in->rows * (uint64_t)in->cols;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_arena_take_f32(x->arena, n, &wide, err);
    if (status == LX_OK)
        status = x->backend->mat_widen(x, in, wide, err);
    if (status == LX_OK)
        status = lx_download(x, out, wide, (size_t)n * sizeof *wide, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_status lx_weight_place(lx_exec *x, const lx_weight *in, lx_weight *out, lx_err *err)
{
    uint64_t elements, bytes;
    void *data = NULL;
    float *scale = NULL;
    if (lx_exec_is_host(x)) {
        *out = *in;
        return LX_OK;
    }
    lx_status status = lx_shape_bytes(&in->shape, in->dtype, &elements, &bytes, err);
    if (status == LX_OK)
        status = lx_arena_take(x->arena, (size_t)bytes, &data, err);
    if (status == LX_OK)
        status = lx_upload(x, data, in->data, (size_t)bytes, err);
    if (status == LX_OK && in->scale)
        status = lx_arena_take_f32(x->arena, (uint64_t)in->shape.dim[0], &scale, err);
    if (status == LX_OK && in->scale)
        status = lx_upload(x, scale, in->scale, (size_t)in->shape.dim[0] * sizeof *scale, err);
    if (status != LX_OK)
        return status;
    *out = *in;
    out->data = data;
    out->scale = scale;
    return LX_OK;
}

lx_status lx_exec_wait(lx_exec *x, lx_err *err)
{
    return x->backend->wait(x, err);
}

lx_status lx_exec_pace(lx_exec *x, lx_err *err)
{
    return x->backend->pace(x, err);
}
