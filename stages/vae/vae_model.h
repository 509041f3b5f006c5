/*
 * vae_model.h - the decoder's layers and the state of one clip
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Shared by the parts of the decoder (vae_decoder.c, vae_layers.c, vae_state.c) and by
 *           nothing else.
 */
#ifndef VAE_MODEL_H
#define VAE_MODEL_H

#include "vae_decoder.h"

enum {
    VAE_STAGES = 4,   /* resolutions 1, 2, 4, 8 times the latent's */
    VAE_BLOCKS = 3,   /* residual blocks of each */
    VAE_TIME_UPS = 2, /* stages 0 and 1 also double the frame rate */
    VAE_NAME = 48,
};

typedef struct vae_block { /* y = conv_b(silu(norm(conv_a(silu(norm(x)))))) + shortcut(x) */
    char name[VAE_NAME];   /* "decoder.upsamples.4" */
    int64_t c_in, c_out;
    float *gamma_a, *gamma_b;
    lx_conv conv_a, conv_b;
    lx_conv shortcut; /* only where c_in != c_out */
} vae_block;

typedef struct vae_attention {
    char name[VAE_NAME];
    float *gamma;
    lx_conv qk, v, proj; /* to_qkv in two: values have a type of their own */
} vae_attention;

typedef struct vae_upsampler {
    char name[VAE_NAME];
    lx_conv even, odd; /* time_conv's two halves: frames 2t and 2t+1; stages 0 and 1 */
    lx_conv spatial;
} vae_upsampler;

struct vae_decoder {
    lx_vae_dims dims;
    lx_conv conv2, conv1;
    vae_block middle[2];
    vae_attention attention;
    vae_block block[VAE_STAGES][VAE_BLOCKS];
    vae_upsampler up[VAE_STAGES - 1];
    float *head_gamma;
    lx_conv head;
};

/* Two frames before the chunk for each causal convolution: 32 of them, by name. `seen` counts the
 * frames that a stage has taken in since the clip began. */
typedef struct vae_block_state {
    void *a[2], *b[2];
} vae_block_state;

typedef struct vae_trunk_state { /* everything at the latent's resolution but upsamples.3 */
    void *conv1[2];
    vae_block_state middle[2], block[VAE_BLOCKS];
    int64_t seen;
} vae_trunk_state;

typedef struct vae_up_state { /* upsamples.3 to the head, of the whole frame or of one tile */
    void *time[VAE_TIME_UPS][2];
    vae_block_state block[VAE_STAGES][VAE_BLOCKS]; /* [0] is the trunk's, unused */
    void *head[2];
    /* One frame of the last stage beside all histories there: a convolution of one new frame reads
     * it from here, and then it is the history's and the oldest frame is free: no copies. */
    lx_image spare;
    int64_t seen[VAE_STAGES];
} vae_up_state;

/** Take zeroed state from x's arena for latents of height x width. */
lx_status vae_trunk_state_take(const vae_decoder *m, lx_exec *x, int64_t height, int64_t width,
                               vae_trunk_state *out, lx_err *err);
lx_status vae_up_state_take(const vae_decoder *m, lx_exec *x, int64_t height, int64_t width,
                            vae_up_state *out, lx_err *err);
/* What one pass over the layers carries along. */
typedef struct vae_pass {
    const vae_decoder *m;
    lx_exec *x;
    const vae_sink *sink; /* or NULL */
    bool shows_layers;
    int64_t latent_frames;
    int64_t piece;                     /* frames at a time in stage 1 */
    int64_t chunk_first, chunk_frames; /* output frames of the chunk being decoded */
    lx_colour_args place;              /* where this tile's frames go */
    const lx_progress *progress;
    uint64_t done, total; /* chunks */
} vae_pass;

/** The next image->frames frames of the latent, conv2 to upsamples.2. image has conv1's width. */
lx_status vae_trunk(vae_pass *p, vae_trunk_state *state, const float *latent, lx_image *image,
                    lx_err *err);
/** Frames that left `stage`: up to the next, and on to the sink. From stage 0, n frames become 4n
 *  (4n-3 at the clip's beginning). */
lx_status vae_upsample(vae_pass *p, vae_up_state *state, int stage, lx_image *in, lx_err *err);

/** A unit of work is queued: tell progress, hear cancel, and do not run ahead of the device. */
lx_status vae_step(vae_pass *p, lx_err *err);

/** The window of n frames of an image from frame `first` on; the image has no history. */
lx_image vae_frames_of(const lx_image *image, int64_t first, int64_t n);

#endif
