/*
 * lx_catalog.h - what each model must contain, and what only looks like it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Reads a model's dimensions from its tensor shapes and checks the tensor set against the
 *           model's list: nothing missing, every shape and dtype right, extras known or refused.
 * Promise   A look-alike is refused by name with what it is: Wan2.2 A14B, I2V, LoRA, T5 v1.1, ...
 *           After LX_OK every lx_weights_find of a listed tensor succeeds with the expected shape.
 * Tests     tests/unit/test_catalog.c
 */
#ifndef LX_CATALOG_H
#define LX_CATALOG_H

#include "lx_weights.h"

/* How the linears of a checkpoint are stored; one checkpoint, one answer. */
typedef enum lx_quant { LX_QUANT_NONE, LX_QUANT_INT8, LX_QUANT_FP8 } lx_quant;

typedef struct lx_dit_dims {
    int64_t dim, ffn_dim, freq_dim, text_dim, in_dim, out_dim; /* 5120 13824 256 4096 16 16 */
    int64_t n_heads, head_dim;                                 /* 40 x 128 */
    int64_t n_blocks;                                          /* 40 */
    lx_quant quant;
    bool says_distilled; /* name or manifest says step-distilled; false: warn, shapes cannot tell */
} lx_dit_dims;

typedef struct lx_t5_dims {
    int64_t vocab, dim, dim_attn, dim_ffn; /* 256384 4096 4096 10240 */
    int64_t n_heads, n_layers, n_buckets;  /* 64 24 32; n_heads from the bias table */
    lx_quant quant;
} lx_t5_dims;

typedef struct lx_vae_dims {
    int64_t z_dim;    /* 16 */
    int64_t width[5]; /* 384 384 384 192 96: after conv1, then of stages 0..3 */
} lx_vae_dims;

/** Check and measure; LX_ECONFIG with all missing tensors, or what the file really is. */
lx_status lx_catalog_dit(const lx_weights *weights, lx_dit_dims *out, lx_err *err);
lx_status lx_catalog_t5(const lx_weights *weights, lx_t5_dims *out, lx_err *err);
lx_status lx_catalog_vae(const lx_weights *weights, lx_vae_dims *out, lx_err *err);

/** lx_weights_options.wants for each model: VAE skips encoder.* and conv1.*, DiT skips vace_*. */
bool lx_catalog_dit_wants(const char *name, void *unused);
bool lx_catalog_t5_wants(const char *name, void *unused);
bool lx_catalog_vae_wants(const char *name, void *unused);

#endif
