/*
 * lx_backend.h - the implementations of one kind of device
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      kernels/lx_<family>.c checks shapes and then calls the entry of its family here; the
 *           CPU's table is kernels/cpu/lx_cpu.c, a CUDA module brings another of the same form.
 * Promise   Arguments are valid when an entry is called. In a dry exec an entry takes and gives
 *           back the scratch of the real run and touches no tensor.
 */
#ifndef LX_BACKEND_H
#define LX_BACKEND_H

#include "lx_attention.h"
#include "lx_conv_ops.h"
#include "lx_elementwise.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_patch.h"
#include "lx_rope.h"

struct lx_backend {
    const char *name; /* "cpu" */
    /* s8 x s8 -> s32 through oneDNN; false: our own exact products. CPU only. */
    bool s8_in_library;

    const char *(*describe)(const lx_exec *x);
    lx_status (*quantize_rows)(lx_exec *x, const float *in, lx_act *out, lx_err *err);
    lx_status (*linear)(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        float *out, int64_t out_stride, lx_err *err);
    lx_status (*norm_rows)(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                           lx_err *err);
    lx_status (*rope_table_build)(lx_exec *x, lx_rope_table *table, lx_err *err);
    lx_status (*qk_norm_rope)(lx_exec *x, float *q, int64_t tokens, int64_t width,
                              int64_t row_stride, const lx_weight *gain, float eps,
                              const lx_rope_table *table, lx_err *err);
    lx_status (*attention)(lx_exec *x, const lx_attention_args *args, lx_err *err);
    lx_status (*silu)(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err);
    lx_status (*axpby)(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                       lx_err *err);
    lx_status (*gather_rows)(lx_exec *x, const lx_weight *weight, const int32_t *ids, int64_t n,
                             float *out, lx_err *err);
    const lx_patch_ops *patch;
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

#endif
