/*
 * cu_attention.h - the attention family's table in liblx2v_cuda.so
 * SPDX-License-Identifier: Apache-2.0
 *
 * Types     q, k, out BF16; v F16; biases F32. Rows are a stride of elements apart, heads lie side
 *           by side in a row, head_dim elements each.
 * Aligned   All but small: q, k, v, out at 16 bytes, strides and head_dim multiples of 8 elements.
 *           small takes anything.
 * Launches  No launch has more than units_per_launch units; how many there are in all is said at
 *           each function. Which card takes which variant is decided in attention.c.
 */
#ifndef CU_ATTENTION_H
#define CU_ATTENTION_H

#include "cu_rows.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LX_CU_ATTENTION_TILE_K = 64,         /* keys per step, and per set of key scales */
    LX_CU_ATTENTION_GROUPS = 4,          /* key scales per step and head: see attention_int8.cu */
    LX_CU_ATTENTION_MEAN_ROWS = 256,     /* keys per partial sum of the mean */
    LX_CU_ATTENTION_FEW_QUERIES = 192,   /* of a unit of `few` */
    LX_CU_ATTENTION_FEW_KEY_BYTES = 516, /* of its shared memory, a key: k, v, bias */
    LX_CU_ATTENTION_FEW_BYTES = 512      /* and beside the keys: a head's gain */
};

/* Keys to INT8, values where a kernel wants them otherwise than they are. */
typedef struct lx_cu_kv {
    const void *k, *v;
    lx_cu_rope turn; /* square not NULL: k is a linear's rows, all this is still to be done */
    int64_t k_stride, v_stride, n;
    int n_heads, head_dim; /* 64 or 128 */
    float *partial; /* scratch [ceil(n / MEAN_ROWS), n_heads * head_dim]; tiles in FP8: n / 128 */
    float *k_mean;  /* [n_heads * head_dim] */
    int8_t *codes;  /* [n, n_heads * head_dim] */
    float *k_scale; /* [n_heads, ceil(n / TILE_K), GROUPS] */
    float *v_peak;  /* [n_heads] max |v|, or NULL */
    uint8_t *k_images; /* tiles only, instead of codes and k_scale: attention_image.h */
    uint8_t *v_images; /* tiles only */
    float *v_scale;    /* tiles only: [n_heads * head_dim], values in FP8; NULL: in F16 */
    float v_top;       /* with v_scale: what a channel's largest |v| becomes, at most 448 */
    float *v_shift;    /* with v_scale, the same shape: see attention_tiles.cu */
} lx_cu_kv;

typedef struct lx_cu_attention {
    const void *q, *k, *v;
    lx_cu_rope turn; /* square not NULL: so is q; int8, wgmma, fp8, flash, few alone */
    void *out;
    int64_t q_stride, k_stride, v_stride, out_stride;
    int64_t n_q, n_k;
    int n_heads, head_dim;
    float scale;           /* > 0 but for small */
    const float *rel;      /* [n_heads, n_q + n_k - 1] or NULL; not in int8 */
    const float *key_bias; /* [n_k] or NULL */
    const int8_t *codes;   /* int8 only, as are the next three */
    const float *k_scale;
    const float *v_peak; /* with has_f16_sums */
    int rows_per_block;  /* 128 or 256 queries */
    bool has_f16_sums;   /* int8 and fp8: weights x values summed in F16 over 64 keys, then in F32;
                            int8: 256 rows per block; fp8: v_top at most 2.25 */
    /* wgmma and fp8 only */
    const uint8_t *k_images, *v_images;
    const float *v_scale; /* values and weights in FP8, or NULL */
    const float *v_shift; /* with v_scale */
    const float *k_mean;  /* wgmma only, as is the next: with lse */
    float *lse;           /* [n_heads, n_q] ln of the sum of e^logit, or NULL */
    int64_t units_per_launch;
} lx_cu_attention;

typedef struct lx_cuda_attention_ops {
    int (*quantize)(lx_cuda_dev *dev, const lx_cu_kv *kv); /* for int8 */
    int (*tiles)(lx_cuda_dev *dev, const lx_cu_kv *kv);    /* for wgmma and fp8 */
    /* head_dim 64 or 128; a unit: rows_per_block queries of a head */
    int (*int8)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* sm_90a, head_dim 128, no biases; a unit: 128 queries of a head */
    int (*wgmma)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* sm_89 and later, head_dim 128, no biases, values in FP8; a unit: 256 queries of a head */
    int (*fp8)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* head_dim 128, no rel, turn without rotation, keys that fit into shared memory; a unit:
     * LX_CU_ATTENTION_FEW_QUERIES of a head */
    int (*few)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* head_dim 8, 16, ..., 128; a unit: 128 queries of a head */
    int (*flash)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* head_dim 8, 16, ..., 512; a unit: 64 queries x 128 columns of a head */
    int (*wide)(lx_cuda_dev *dev, const lx_cu_attention *a);
    /* head_dim up to LX_CU_ATTENTION_SMALL_DIM; a unit: a query of a head */
    int (*small)(lx_cuda_dev *dev, const lx_cu_attention *a);
} lx_cuda_attention_ops;

enum {
    LX_CU_ATTENTION_FEW_DIM = 128,
    LX_CU_ATTENTION_FLASH_DIM = 128,
    LX_CU_ATTENTION_WIDE_DIM = 512,
    LX_CU_ATTENTION_SMALL_DIM = 6144
};

#ifdef __cplusplus
}
#endif

#endif
