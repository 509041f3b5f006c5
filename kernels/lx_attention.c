/*
 * lx_attention.c - attention: shapes checked, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_attention.h"

#include <inttypes.h>

#include "lx_backend.h"

static lx_status check_mat(const lx_exec *x, const char *what, const lx_mat *m, lx_dtype dtype,
                           int64_t width, lx_err *err)
{
    if (lx_mat_is_sane(x, m, true) && m->dtype == dtype && m->cols == width)
        return LX_OK;
    return lx_fail(err, LX_EJOB,
                   "attention: %s is %s [%" PRId64 ", %" PRId64 "], rows %" PRId64
                   " apart; %s of %" PRId64 " columns is needed",
                   what, lx_dtype_name(m->dtype), m->rows, m->cols, m->stride, lx_dtype_name(dtype),
                   width);
}

/* As lx_qk_norm_rope checks it. */
static lx_status check_norm(const lx_exec *x, const lx_mat *rows, const lx_qk_norm *norm,
                            lx_err *err)
{
    return lx_qk_norm_check(x, rows, norm->first_token, norm->gain, norm->eps, norm->table, err);
}

size_t lx_kv_room(const lx_exec *x, int64_t n, int64_t width)
{
    /* Images of values: cuda/attention_image.h. */
    int64_t rows = lx_exec_is_host(x) ? n : (n + 127) / 128 * 128;
    return (size_t)rows * (size_t)width * lx_dtype_size(x->rows);
}

lx_status lx_kv_prepare_from(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from,
                             lx_kv *out, lx_err *err)
{
    const lx_mat *k = &from->k, *v = &from->v;
    lx_status status = check_mat(x, "k", k, x->rows, k->cols, err);
    if (status == LX_OK)
        status = check_mat(x, "v", v, x->value, k->cols, err);
    if (status == LX_OK && from->k_norm)
        status = check_norm(x, k, from->k_norm, err);
    if (status != LX_OK)
        return status;
    if (from->n_heads < 1 || k->cols % from->n_heads || v->rows != k->rows)
        return lx_fail(err, LX_EJOB,
                       "attention of %" PRId64 " keys, %" PRId64 " values, %" PRId64
                       " heads in %" PRId64 " columns is not possible",
                       k->rows, v->rows, from->n_heads, k->cols);
    lx_kv kv = {.kind = kind,
                .n = k->rows,
                .n_heads = from->n_heads,
                .head_dim = k->cols / from->n_heads,
                .k = *k,
                .v = *v};
    status = x->backend->kv_prepare(x, kind, from, &kv, err);
    if (status == LX_OK)
        *out = kv;
    return status;
}

lx_status lx_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_mat *k, const lx_mat *v,
                        int64_t n_heads, lx_kv *out, lx_err *err)
{
    lx_kv_source from = {.k = *k, .v = *v, .n_heads = n_heads};
    return lx_kv_prepare_from(x, kind, &from, out, err);
}

lx_status lx_attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    const lx_kv *kv = args->kv;
    int64_t width = kv->n_heads * kv->head_dim;
    lx_status status = check_mat(x, "q", &args->q, x->rows, width, err);
    if (status == LX_OK && args->q_norm)
        status = check_norm(x, &args->q, args->q_norm, err);
    if (status == LX_OK)
        status = check_mat(x, "out", &args->out, x->rows, width, err);
    if (status != LX_OK)
        return status;
    if (args->out.rows != args->q.rows)
        return lx_fail(err, LX_EJOB,
                       "attention of %" PRId64 " queries cannot have %" PRId64 " results",
                       args->q.rows, args->out.rows);
    if (args->rel && args->q.rows != kv->n)
        return lx_fail(err, LX_EJOB,
                       "attention with relative positions needs as many queries (%" PRId64
                       ") as keys (%" PRId64 ")",
                       args->q.rows, kv->n);
    return x->backend->attention(x, args, err);
}
