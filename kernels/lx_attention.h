/*
 * lx_attention.h - softmax(q k^T scale + bias) v, never materialising queries x keys
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   s[h,i,j] = scale * q[i,h,:].k[j,h,:] + rel[h, j - i + n_q - 1] + key_bias[j]
 *           out[i,h,:] = sum_j softmax_j(s)[h,i,j] v[j,h,:]
 *           rel: UMT5's relative position bias; key_bias: ln(512 - n) for the collapsed padding key
 * Shapes    q [n_q, n_heads, head_dim], k and v [n_k, n_heads, head_dim], each with its own row
 *           stride; head_dim any (64, 128, 384 in Wan). No mask, not causal.
 * Numbers   CPU: f32 products, online softmax in f32. A card: BF16 products with f32 sums, or
 *           (LX_ATTENTION_INT8) q and k in INT8 with K smoothed, weights and values in F16, or
 *           (LX_ATTENTION_INT8_FP8) those in E4M3, values scaled per channel.
 *           Fixed order of summation everywhere.
 * Tests     tests/kernels/test_attention.c, tests/gpu/test_cuda_attention.c
 */
#ifndef LX_ATTENTION_H
#define LX_ATTENTION_H

#include "lx_exec.h"
#include "lx_rope.h"

typedef enum lx_attention_kind {
    LX_ATTENTION_PLAIN,   /* the device's own float products */
    LX_ATTENTION_INT8,    /* INT8 q k^T where the device and head_dim allow, else as PLAIN */
    LX_ATTENTION_INT8_FP8 /* and weights and values in FP8 where there is a kernel, else as INT8 */
} lx_attention_kind;

/* Keys and values as this device's attention reads them. Plain data; its memory is borrowed from
 * the arena and from k and v. */
typedef struct lx_kv {
    lx_attention_kind kind; /* what was made */
    int64_t n, n_heads, head_dim;
    lx_mat k, v;
    int8_t *codes; /* INT8: [n, n_heads * head_dim] of k - mean; else NULL */
    float *scale;  /* INT8: one per group of keys and head */
    float *k_mean; /* INT8: [n_heads * head_dim] */
    /* INT8 on Hopper, and FP8 from 8.9 on with heads of 128, instead of codes and scale: keys and
     * values in images (cuda/attention_image.h), else NULL; the last two with FP8, [n_heads *
     * head_dim]. */
    uint8_t *k_images, *v_images;
    float *v_scale, *v_shift;
} lx_kv;

/* What makes a linear's rows the queries or keys that attention takes: lx_qk_norm_rope, still to be
 * done. Kernels that read each row once do it on the way, others in place. */
typedef struct lx_qk_norm {
    const lx_weight *gain;      /* [width] */
    const lx_rope_table *table; /* NULL: norm only */
    int64_t first_token;
    float eps;
    const float
        *square; /* [rows] their sums of squares, as lx_epilogue tells them; NULL: unknown */
} lx_qk_norm;

/* Keys and values, and what else is known of them. */
typedef struct lx_kv_source {
    lx_mat k, v; /* as for lx_kv_prepare */
    int64_t n_heads;
    const lx_qk_norm *k_norm; /* NULL: k is as attention takes it. Else k may be overwritten */
    size_t k_room; /* bytes from k.data on that may be overwritten and stay borrowed; values may
                      move there, after which k is gone: lx_kv_room of them. 0: k stays */
} lx_kv_source;

/** Bytes of k_room for n dense rows of `width` that serve every kind of attention on this device:
 *  what the rows take, or a little more. */
size_t lx_kv_room(const lx_exec *x, int64_t n, int64_t width);
lx_status lx_kv_prepare_from(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from,
                             lx_kv *out, lx_err *err);
/** Prepare keys (x->rows) and values (x->value), [n, n_heads * head_dim] each. INT8 codes,
 *  on Hopper and in FP8 copies of values, are taken from the arena; k and v themselves stay
 *  borrowed. */
lx_status lx_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_mat *k, const lx_mat *v,
                        int64_t n_heads, lx_kv *out, lx_err *err);

typedef struct lx_attention_args {
    lx_mat q;                 /* x->rows, [n_q, n_heads * head_dim] */
    const lx_qk_norm *q_norm; /* NULL: q is as it should be. Else q may be overwritten */
    const lx_kv *kv;
    float scale;           /* 1/sqrt(128) for the DiT, 1 for UMT5 */
    const float *rel;      /* [n_heads, n_q + n_k - 1] or NULL; needs n_q == n_k */
    const float *key_bias; /* [n_k] or NULL */
    lx_mat out;            /* x->rows, [n_q, n_heads * head_dim]; must not overlap the inputs */
    float
        *lse; /* [n_heads, n_q] <- ln sum_j e^s, or NULL; a card: only Hopper's images (LX_EJOB) */
} lx_attention_args;

lx_status lx_attention(lx_exec *x, const lx_attention_args *args, lx_err *err);
void lx_attention_ref(const lx_attention_args *args); /* all F32; q_norm is not looked at */

#endif
