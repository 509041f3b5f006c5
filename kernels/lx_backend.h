/*
 * lx_backend.h - the implementations of one kind of device
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      kernels/lx_<family>.c checks shapes and then calls the entry of its family here; the
 *           CPU's table is kernels/cpu/lx_cpu.c, a card's is kernels/cuda/lx_cuda.c.
 * Promise   Arguments are valid when an entry is called. In a dry exec an entry takes and gives
 *           back the scratch of the real run and touches no tensor.
 */
#ifndef LX_BACKEND_H
#define LX_BACKEND_H

#include "lx_attention.h"
#include "lx_conv_ops.h"
#include "lx_copy.h"
#include "lx_elementwise.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_patch.h"
#include "lx_rope.h"

struct lx_backend {
    const char *name; /* "cpu", "cuda" */
    /* s8 x s8 -> s32 through oneDNN; false: our own exact products. CPU only. */
    bool s8_in_library;

    const char *(*describe)(const lx_exec *x);

    lx_status (*upload)(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
    lx_status (*download)(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
    lx_status (*copy)(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
    lx_status (*zero)(lx_exec *x, void *dst, size_t bytes, lx_err *err);
    lx_status (*mat_widen)(lx_exec *x, const lx_mat *in, float *out,
                           lx_err *err); /* on the device */
    lx_status (*wait)(lx_exec *x, lx_err *err);
    lx_status (*pace)(lx_exec *x, lx_err *err);

    lx_dtype (*act_dtype)(const lx_exec *x, const lx_weight *w);
    lx_status (*quantize_rows)(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err);
    /* One of out and act is NULL. */
    lx_status (*linear)(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        const lx_mat *out, lx_act *act, lx_err *err);
    lx_status (*norm_rows)(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                           lx_err *err);
    lx_status (*rope_table_build)(lx_exec *x, lx_rope_table *table, lx_err *err);
    lx_status (*qk_norm_rope)(lx_exec *x, const lx_mat *q, int64_t first_token,
                              const lx_weight *gain, float eps, const lx_rope_table *table,
                              lx_err *err);
    /* kv: k, v, n, n_heads, head_dim are filled in. */
    lx_status (*kv_prepare)(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from, lx_kv *kv,
                            lx_err *err);
    lx_status (*attention)(lx_exec *x, const lx_attention_args *args, lx_err *err);
    lx_status (*silu)(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err);
    lx_status (*axpby)(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                       lx_err *err);
    lx_status (*widen)(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err);
    lx_status (*patchify)(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                          lx_err *err);
    lx_status (*unpatchify)(lx_exec *x, const lx_patch_dims *dims, const float *rows, float *latent,
                            lx_err *err);
    lx_status (*find_nonfinite)(lx_exec *x, const float *in, int64_t n, int64_t *first,
                                lx_err *err);
    const struct lx_conv_ops *conv; /* the convolution and colour families: lx_conv_ops.h */
};

/** The table for this machine's processor. */
const lx_backend *lx_backend_cpu(void);

/* Checks that more than one family makes. */

/** True if the weight has `n` elements of a float dtype. */
bool lx_weight_is_vector(const lx_weight *w, int64_t n);
bool lx_dtype_is_float(lx_dtype dtype);
/** rows * cols floats have a size that memory can have. */
bool lx_matrix_is_sane(int64_t rows, int64_t cols);
/** The matrix has a sane size and one of the dtypes F32, x->rows, x->value if `may_be_value`. */
bool lx_mat_is_sane(const lx_exec *x, const lx_mat *m, bool may_be_value);

#endif
