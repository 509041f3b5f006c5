/*
 * lx_cuda_priv.h - what our side's families of a card share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_CUDA_PRIV_H
#define LX_CUDA_PRIV_H

#include "lx_backend.h"
#include "lx_cuda.h"
#include "lx_cuda_module.h"

struct lx_cuda {
    lx_card_kind card;
    void *library;                /* dlopen'd; NULL in a plan */
    const lx_cuda_module *module; /* NULL in a plan */
    lx_cuda_dev *dev;             /* NULL in a plan */
    int pace;                     /* which of the two pace events is the older */
    bool has_told_fp8;            /* the notice that FP8 is widened here */
    bool has_own_fp8;             /* FP8 linears by our own kernels: on Hopper, a plan's too */
    bool has_own_bf16;            /* BF16 ones likewise */
    char text[160];               /* describe */
    struct lx_cuda_clock *clock;  /* clock.c; owned; NULL: nobody measures */
    struct lx_tune_table *tune;   /* lx_tune.h; owned; NULL: the built-in choices */
};

/** Load the module: library and module. path as lx_cuda_open's. */
lx_status lx_cuda_load(lx_cuda *cuda, const char *path, lx_err *err);

/** clock.c: what follows the operation that is called so is not its affair any more. */
void lx_cuda_clock_mark(lx_cuda *cuda, const char *what);
void lx_cuda_clock_close(lx_cuda *cuda);
/** The table whose operations mark the clock, made of the plain one. */
lx_backend lx_cuda_clocked(const lx_backend *plain);

/* The last events are lx_exec_pace's. */
enum { LX_CUDA_PACE_EVENT = LX_CUDA_EVENTS, LX_CUDA_EVENTS_ALL = LX_CUDA_EVENTS + 2 };

/** A code of the module as a status: out of memory LX_EAGAIN, all else LX_ESTAGE (a card that
 *  failed once fails for ever in this process). `what` is the operation, for the message. */
lx_status lx_cuda_status(const lx_cuda *cuda, int code, const char *what, lx_err *err);

static inline lx_cu_vec lx_cu_vec_of(const lx_weight *w)
{
    return w ? (lx_cu_vec){(int)w->dtype, w->data} : (lx_cu_vec){0, NULL};
}

static inline lx_cu_mat lx_cu_mat_of(const lx_mat *m)
{
    return m ? (lx_cu_mat){(int)m->dtype, m->rows, m->cols, m->stride, m->data}
             : (lx_cu_mat){0, 0, 0, 0, NULL};
}

/* linear.c */
/** A launch's grid counts rows in 31 bits: LX_EJOB above. */
lx_status lx_cuda_check_size(const lx_exec *x, int64_t rows, int64_t cols, lx_err *err);
lx_dtype lx_cuda_act_dtype(const lx_exec *x, const lx_weight *w);
lx_status lx_cuda_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err);
lx_status lx_cuda_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                         const lx_mat *out, lx_act *act, lx_err *err);

/* rows.c */
lx_status lx_cuda_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                            lx_err *err);
lx_status lx_cuda_rope_table_build(lx_exec *x, lx_rope_table *table, lx_err *err);
lx_status lx_cuda_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token,
                               const lx_weight *gain, float eps, const lx_rope_table *table,
                               lx_err *err);
lx_status lx_cuda_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err);
lx_status lx_cuda_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                        lx_err *err);
lx_status lx_cuda_widen(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err);
lx_status lx_cuda_mat_widen(lx_exec *x, const lx_mat *in, float *out, lx_err *err);
lx_status lx_cuda_patchify(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                           lx_err *err);
lx_status lx_cuda_unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows,
                             float *latent, lx_err *err);
lx_status lx_cuda_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first,
                                 lx_err *err);

/* attention.c */
lx_status lx_cuda_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from,
                             lx_kv *kv, lx_err *err);
lx_status lx_cuda_attention(lx_exec *x, const lx_attention_args *args, lx_err *err);

/* conv.c, colour.c */
extern const struct lx_conv_ops lx_conv_ops_cuda;

#endif
