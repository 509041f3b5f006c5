/*
 * lx_attention.h - softmax(q k^T scale + bias) v, never materialising queries x keys
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   s[h,i,j] = scale * q[i,h,:].k[j,h,:] + rel[h, j - i + n_q - 1] + key_bias[j]
 *           out[i,h,:] = sum_j softmax_j(s)[h,i,j] v[j,h,:]
 *           rel: UMT5's relative position bias; key_bias: ln(512 - n) for the collapsed padding key
 * Shapes    q [n_q, n_heads, head_dim], k and v [n_k, n_heads, head_dim], each with its own row
 *           stride in floats; head_dim any (64, 128, 384 in Wan). No mask, not causal.
 * Numbers   f32 products, online softmax in f32, fixed order of summation.
 * Tests     tests/kernels/test_attention.c
 */
#ifndef LX_ATTENTION_H
#define LX_ATTENTION_H

#include "lx_exec.h"

typedef struct lx_attention_args {
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride; /* floats between rows (tokens) */
    int64_t n_q, n_k, n_heads, head_dim;
    float scale;           /* 1/sqrt(128) for the DiT, 1 for UMT5 */
    const float *rel;      /* [n_heads, n_q + n_k - 1] or NULL; needs n_q == n_k */
    const float *key_bias; /* [n_k] or NULL */
    float *out;            /* [n_q, n_heads, head_dim]; must not overlap the inputs */
    int64_t out_stride;
} lx_attention_args;

lx_status lx_attention(lx_exec *x, const lx_attention_args *args, lx_err *err);
void lx_attention_ref(const lx_attention_args *args);

#endif
