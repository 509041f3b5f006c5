/*
 * cu_rows.h - the module's norms, rotary embedding, vector operations and patches
 * SPDX-License-Identifier: Apache-2.0
 *
 * Both      This header is read by C17 and by C++17. Contracts of the operations: lx_norm.h,
 *           lx_rope.h, lx_elementwise.h, lx_patch.h, lx_copy.h.
 */
#ifndef CU_ROWS_H
#define CU_ROWS_H

#include "lx_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lx_cu_norm {
    const float *in; /* [rows, cols], dense */
    bool is_layer;   /* subtract the mean */
    float eps;
    lx_cu_vec weight, bias;     /* [cols] or absent */
    const float *shift, *scale; /* [cols] or NULL; scale as (1 + scale) */
    lx_cu_mat out;              /* dense; F32 (may be in), BF16, F16, I8, F8_E4M3 */
    float *out_scale;           /* [rows] for codes */
} lx_cu_norm;

typedef struct lx_cu_rope {
    lx_cu_mat q; /* F32 or BF16, in place */
    lx_cu_vec gain;
    float eps;
    int64_t first_token;
    int64_t head_dim; /* 0: no rotation */
    int64_t grid_h, grid_w;
    const float *t, *h, *w; /* [n, pairs, 2] (cos, sin) */
    const float *square;    /* [rows] sums of squares: for kernels that do this on their way */
} lx_cu_rope;

typedef struct lx_cu_patch {
    int64_t channels, t, h, w; /* of the latent */
} lx_cu_patch;

typedef struct lx_cuda_rows_ops {
    int (*norm)(lx_cuda_dev *dev, const lx_cu_norm *n);
    int (*qk_norm_rope)(lx_cuda_dev *dev, const lx_cu_rope *r);
    /* square [rows] <- sums of squares of BF16 or F32 rows */
    int (*squares)(lx_cuda_dev *dev, const lx_cu_mat *rows, float *square);
    /* square [m] <- sums over parts [n_parts, m], in order */
    int (*fold)(lx_cuda_dev *dev, const float *parts, int n_parts, int64_t m, float *square);
    int (*silu)(lx_cuda_dev *dev, const float *in, int64_t n, float *out);
    int (*axpby)(lx_cuda_dev *dev, float a, const float *in, float b, int64_t n, float *out);
    /* out dense f32 <- in of any float type */
    int (*widen)(lx_cuda_dev *dev, const lx_cu_mat *in, float *out);
    int (*patchify)(lx_cuda_dev *dev, const lx_cu_patch *d, const float *latent, float *rows);
    int (*unpatchify)(lx_cuda_dev *dev, const lx_cu_patch *d, const float *rows, float *latent);
    /* *first, in device memory: the smallest index of a NaN or infinity, else all ones */
    int (*find_nonfinite)(lx_cuda_dev *dev, const float *in, int64_t n, uint64_t *first);
} lx_cuda_rows_ops;

#ifdef __cplusplus
}
#endif

#endif
