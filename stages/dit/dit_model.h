/*
 * dit_model.h - inside the DiT: its parameters and one forward pass
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shapes    S tokens, D = dim, n keys of context; token s = (t * h/2 + i) * w/2 + j
 */
#ifndef DIT_MODEL_H
#define DIT_MODEL_H

#include "dit.h"
#include "lx_copy.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_residency.h"
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

/* A block's weights in two parts. What makes the prompt's keys and values is needed once per clip;
 * the rest in every step. */
enum { DIT_MAIN_WEIGHTS = 22, DIT_KEYS_WEIGHTS = 5 };
/** Copy out: weights [DIT_MAIN_WEIGHTS] or [DIT_KEYS_WEIGHTS]. */
void dit_block_list_main(const dit_block *block, lx_weight *weights);
void dit_block_list_keys(const dit_block *block, lx_weight *weights);
/** And back, where they are on a device. */
void dit_block_bind_main(dit_block *block, const lx_weight *weights);
void dit_block_bind_keys(dit_block *block, const lx_weight *weights);

struct dit {
    lx_weights *weights; /* owned */
    lx_dit_dims dims;
    dit_options options; /* chunk 0: the engine's affair; otherwise no zeros left */
    dit_linear patch, text0, text2, time0, time2, time_proj, head;
    lx_weight head_modulation; /* viewed as [1, 2 D] */
    dit_block *blocks;         /* owned, [n_blocks] */
};

/** Read the weights of a model of which only headers were read, as a plan says. */
lx_status dit_read(dit *model, const dit_memory *plan, const lx_progress *progress, lx_err *err);
/** Bytes of block i that may stay on disk: of all its weights, and of those of every step. */
void dit_disk_bytes(const dit *model, int64_t i, uint64_t *all, uint64_t *step);

enum { DIT_TIMES = 4 }; /* steps of a schedule whose time path is kept */

/* The time path of the last schedule: it depends on nothing else. */
typedef struct dit_times {
    int32_t n_steps; /* 0: none */
    float timestep[DIT_TIMES];
    float *values; /* on the host, owned: e [n_steps, D], then e0 [n_steps, 6 D] */
} dit_times;

struct dit_engine {
    const dit *model; /* borrowed */
    dit_setup setup;  /* its strings are not looked at again */
    dit_memory memory;
    lx_cuda *cuda;          /* owned; NULL on the CPU */
    lx_arena *arena, *host; /* owned; one and the same on the CPU */
    lx_exec x;
    lx_weight *main, *keys;           /* owned: [n_blocks][DIT_MAIN_WEIGHTS], ... */
    lx_extent *main_at, *keys_at;     /* owned: those that are on disk */
    lx_residency *blocks, *key_parts; /* owned */
    dit_linear patch, head;           /* on the device */
    lx_weight head_modulation;
    dit_times time;
};

/* Keys and values of cross-attention: they depend on the prompt alone. Each block makes its own in
 * the first step. */
typedef struct dit_keys {
    int64_t n;         /* context rows, padding included */
    int64_t n_repeats; /* how many rows the last one stands for: 1, or all the padding */
    lx_act embedded;   /* the embedded context as the blocks' linears read it */
    lx_mat k, v;       /* [n_blocks * n, D] */
    const float *bias; /* [n] logarithmic weights on the device, or NULL */
} dit_keys;

/* One clip, its buffers borrowed from the arenas. */
typedef struct dit_pass {
    dit_engine *engine;
    const dit *model;
    lx_exec *x;
    const dit_request *request;
    lx_run *run;          /* dumps; NULL: none */
    uint64_t done, total; /* blocks */
    int32_t step;         /* of the schedule */
    int64_t chunk;
    dit_keys keys;
    lx_patch_dims latent;
    lx_rope_table rope;
    int64_t n_tokens, n_blocks;
    float *residual; /* [S, D] */
    lx_mat k, v;     /* [S, D] of the block at work; k as it comes from its linear */
    size_t k_room;   /* bytes of k's memory: lx_kv_room */
    /* On a card: sums of squares of k's rows [S], of q's [chunk]; else NULL. */
    float *k_square, *q_square;
    lx_act normed; /* [S, D] what q, k and v of the block read, if it is kept; data NULL: made twice
                      in chunks */
    float *e, *e0; /* [n_steps, D], [n_steps, 6 D] */
    float *mod;    /* [6 D] modulation of the block at work: shift, scale, gate; twice */
} dit_pass;

/* A whole tensor collected for --dump while the work goes on in chunks; data NULL: not wanted. */
typedef struct dit_tap {
    const char *name;
    lx_mat rows; /* F32, on the device */
} dit_tap;

lx_status dit_tap_open(lx_exec *x, lx_run *run, const char *name, int64_t rows, int64_t cols,
                       dit_tap *out, lx_err *err);
lx_status dit_tap_close(lx_exec *x, lx_run *run, const dit_tap *tap, lx_err *err);

/** Dump rows that are there as a whole. */
lx_status dit_dump(lx_exec *x, lx_run *run, const char *name, const lx_mat *rows, lx_err *err);

/**
 * out <- epilogue(lin(in)); bias is filled in here. tap (may be NULL): rows from first_row on
 * also get the plain output, before activation, gate and residual.
 */
lx_status dit_linear_run(lx_exec *x, const dit_linear *lin, const lx_act *in, lx_epilogue epilogue,
                         const lx_mat *out, const dit_tap *tap, int64_t first_row, lx_err *err);
/** The plain output into the tap alone, where it is wanted. */
lx_status dit_tap_linear(lx_exec *x, const dit_linear *lin, const lx_act *in, const dit_tap *tap,
                         int64_t first_row, lx_err *err);
/** The linear's weights for as long as the arena's mark. */
lx_status dit_linear_place(lx_exec *x, const dit_linear *in, dit_linear *out, lx_err *err);

/** dit_attention.c: kind, sums and the sentence about them. LX_ECONFIG: not on this card. */
lx_status dit_choose_attention(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                               dit_memory *out, lx_err *err);
/** "int8-fp16", as stages.dit.attention has it. */
const char *dit_attention_name(lx_attention_kind kind);

/** dit_text.c: the context of a request, embedded, and room for the keys of every block. */
lx_status dit_keys_open(dit_pass *pass, lx_err *err);
/** Keys and values of block n; called in the first step. */
lx_status dit_keys_make(dit_pass *pass, const dit_block *block, int64_t n, lx_err *err);
/** Keys and values of block n, ready for attention. */
lx_status dit_keys_of(const dit_pass *pass, int64_t n, lx_kv *out, lx_err *err);

/** dit_time.c: room to keep them from clip to clip; e and e0 of every step. */
lx_status dit_time_take(dit_engine *engine, lx_err *err);
lx_status dit_time_path(dit_pass *pass, lx_err *err);

/** dit_block.c: block n on pass->residual. */
lx_status dit_block_run(dit_pass *pass, const dit_block *block, int64_t n, lx_err *err);

/** dit_forward.c: velocity [channels, t, h, w] of a latent, both on the device, at pass->step. */
lx_status dit_pass_open(dit_engine *engine, const dit_request *request, dit_pass *out, lx_err *err);
lx_status dit_forward(dit_pass *pass, const float *latent, float *velocity, lx_err *err);

/** dit_stage.c: the latent of the largest clip that a config allows. */
lx_patch_dims dit_largest(const lx_config *config, const dit *model);

/** dit.c: all of dit_denoise; in a dry engine only the memory is taken. */
lx_status dit_denoise_all(dit_engine *engine, const dit_request *request, float *latent,
                          lx_err *err);

#endif
