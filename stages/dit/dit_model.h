/*
 * dit_model.h - inside the DiT: its parameters and one forward pass
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shapes    S tokens, D = dim, n keys of context; token s = (t * h/2 + i) * w/2 + j
 */
#ifndef DIT_MODEL_H
#define DIT_MODEL_H

#include "dit.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_rope.h"

#define DIT_NAME 64
#define DIT_EPS  1e-6f

/* Leave with the status of a call that failed. */
#define DIT_TRY(call)                                                                              \
    do {                                                                                           \
        lx_status try_status_ = (call);                                                            \
        if (try_status_ != LX_OK)                                                                  \
            return try_status_;                                                                    \
    } while (0)

/* One linear with bias; name without ".weight", as dumps use it. */
typedef struct dit_linear {
    char name[DIT_NAME];
    lx_weight w, b;
    lx_dtype act; /* how w wants its input */
} dit_linear;

typedef struct dit_attention {
    dit_linear q, k, v, o;
    lx_weight norm_q, norm_k; /* [D] */
} dit_attention;

typedef struct dit_block {
    char name[DIT_NAME];
    lx_weight modulation; /* viewed as [1, 6 D] */
    lx_weight norm3_gain, norm3_bias;
    dit_attention self, cross;
    dit_linear ffn0, ffn2;
} dit_block;

struct dit {
    lx_weights *weights; /* owned */
    lx_dit_dims dims;
    dit_options options; /* no zeros left */
    dit_linear patch, text0, text2, time0, time2, time_proj, head;
    lx_weight head_modulation; /* viewed as [1, 2 D] */
    dit_block *blocks;         /* owned, [n_blocks] */
};

/* Keys and values of cross-attention: they depend on the prompt alone. */
typedef struct dit_keys {
    int64_t n;         /* context rows, padding included */
    int64_t n_repeats; /* how many rows the last one stands for: 1, or all the padding */
    float *k, *v;      /* [n_blocks, n, D] */
    const float *bias; /* [n] logarithmic weights, or NULL */
} dit_keys;

/* One forward pass, its buffers borrowed from the arena. */
typedef struct dit_pass {
    const dit *model;
    lx_exec *x;
    lx_run *run; /* dumps; NULL: none */
    const lx_progress *progress;
    uint64_t done, total; /* blocks */
    const dit_keys *keys;
    lx_patch_dims latent;
    lx_rope_table rope;
    int64_t n_tokens, n_blocks;
    float *residual; /* [S, D] */
    float *qkv;      /* [S, 3 D] */
    float *e;        /* [D] */
    float *e0;       /* [6 D] */
    float *mod;      /* [6 D] modulation of the block at work: shift, scale, gate; twice */
} dit_pass;

/* A whole tensor collected for --dump while the work goes on in chunks; data NULL: not wanted. */
typedef struct dit_tap {
    const char *name;
    int64_t rows, cols;
    float *data;
} dit_tap;

lx_status dit_tap_open(lx_exec *x, lx_run *run, const char *name, int64_t rows, int64_t cols,
                       dit_tap *out, lx_err *err);
lx_status dit_tap_close(lx_exec *x, lx_run *run, const dit_tap *tap, lx_err *err);

/** Dump rows that are there as a whole. */
lx_status dit_dump(lx_exec *x, lx_run *run, const char *name, const float *data, int64_t rows,
                   int64_t cols, int64_t stride, lx_err *err);

/** f32 rows as lin wants to read them: the rows themselves, or their codes from the arena. */
lx_status dit_input(lx_exec *x, const dit_linear *lin, float *rows, int64_t n, int64_t cols,
                    lx_act *out, lx_err *err);

/**
 * out <- epilogue(lin(in)); bias is filled in here. tap (may be NULL): rows from first_row on
 * also get the plain output, before activation, gate and residual.
 */
lx_status dit_linear_run(lx_exec *x, const dit_linear *lin, const lx_act *in, lx_epilogue epilogue,
                         float *out, int64_t stride, const dit_tap *tap, int64_t first_row,
                         lx_err *err);

/** dit_text.c: the context of a request into keys and values of every block. */
lx_status dit_keys_make(const dit *model, lx_exec *x, const dit_request *request, dit_keys *out,
                        lx_err *err);

/** dit_block.c: block n on pass->residual. */
lx_status dit_block_run(dit_pass *pass, int64_t n, lx_err *err);

/** dit_forward.c: velocity [channels, t, h, w] of a latent at timestep t. */
lx_status dit_pass_open(const dit *model, lx_exec *x, const dit_request *request,
                        const dit_keys *keys, dit_pass *out, lx_err *err);
lx_status dit_forward(dit_pass *pass, const float *latent, float timestep, float *velocity,
                      lx_err *err);

#endif
