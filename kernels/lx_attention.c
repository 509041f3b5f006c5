/*
 * lx_attention.c - attention: shapes checked, then the device's code
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_attention.h"

#include <inttypes.h>

#include "lx_backend.h"

lx_status lx_attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    const lx_attention_args *a = args;
    if (!lx_matrix_is_sane(a->n_heads, a->head_dim) || a->n_q < 1 || a->n_k < 1)
        return lx_fail(err, LX_EJOB,
                       "attention of %" PRId64 " queries, %" PRId64 " keys, %" PRId64
                       " heads of %" PRId64 " is not possible",
                       a->n_q, a->n_k, a->n_heads, a->head_dim);
    int64_t width = a->n_heads * a->head_dim;
    const int64_t stride[4] = {a->q_stride, a->k_stride, a->v_stride, a->out_stride};
    const int64_t rows[4] = {a->n_q, a->n_k, a->n_k, a->n_q};
    for (int i = 0; i < 4; i++)
        if (stride[i] < width || !lx_matrix_is_sane(rows[i], stride[i]))
            return lx_fail(err, LX_EJOB,
                           "attention: %" PRId64 " rows of %" PRId64 " floats cannot be %" PRId64
                           " apart",
                           rows[i], width, stride[i]);
    if (a->rel && a->n_q != a->n_k)
        return lx_fail(err, LX_EJOB,
                       "attention with relative positions needs as many queries (%" PRId64
                       ") as keys (%" PRId64 ")",
                       a->n_q, a->n_k);
    return x->backend->attention(x, a, err);
}
