/*
 * vae_decoder.h - Wan2.1's causal video decoder, streamed
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      latent [16, T, h, w] -> 4(T-1)+1 frames of 8h x 8w, as calls into kernels/. Widths come
 *           from the checkpoint, so the full, the pruned and a test decoder are one code.
 * Promise   Frames come in order, a few at a time, and are the same numbers for every chunk size
 *           and tiling: each causal convolution keeps the last two frames of its own input stream,
 *           and tiles overlap by more than the decoder can see (6.25 latents).
 * Memory    All from the exec's arena: weights for ever, the rest until vae_decode returns. Stages
 *           1, 2, 3 (2, 4, 8 times the latent's size) work on 4, 2 and 1 frames at a time, which
 *           need equal memory; so chunk size hardly matters and a smaller clip never needs more.
 *           vae_clip.piece makes that 2, 1, 1 or 1, 1, 1 where memory is short.
 * Threads   One decoder, one thread at a time.
 * Tests     tests/stages/test_vae_*.c
 */
#ifndef VAE_DECODER_H
#define VAE_DECODER_H

#include "lx_colour.h"
#include "lx_exec.h"
#include "lx_limits.h"
#include "lx_progress.h"
#include "weights/lx_catalog.h"

#define VAE_HALO 7 /* latents around a tile; 6.25 are seen */

typedef struct vae_decoder vae_decoder;

/* A clip and how to decode it; all sizes in latents. */
typedef struct vae_clip {
    int64_t frames, height, width;
    int64_t chunk;          /* latent frames per chunk */
    int64_t piece;          /* frames at a time at twice the latent's size: 4, 2, 1; 0: 4 */
    int64_t tile_h, tile_w; /* 0 x 0: no tiling, frames leave while later ones are decoded.
                               Else: everything up to decoder.upsamples.2 at once for the whole
                               clip, then the rest tile by tile, each tile for the whole clip */
} vae_clip;

/* Decoded frames, whole or one tile of them. */
typedef struct vae_frames {
    /* Borrowed during the call; not clamped. out_frame and out_frames count the clip's. */
    lx_colour_args place;
    int64_t chunk_first, chunk_frames; /* the chunk they belong to, in output frames */
} vae_frames;

typedef struct vae_sink {
    lx_status (*frames)(void *self, const vae_frames *frames, lx_err *err);
    /* What a layer made: `image` is frames first.. of `total`, channel-last. Layers from
     * decoder.upsamples.3 on are not shown when tiling. May be NULL. */
    lx_status (*layer)(void *self, const char *name, const lx_image *image, int64_t first,
                       int64_t total, lx_err *err);
    void *self;
} vae_sink;

/**
 * Pack the decoder's weights into x's arena; `weights` may be closed afterwards.
 *
 * @param out  owned; its memory in the arena is given back by the arena's owner
 *
 * @retval LX_ECONFIG  the checkpoint is not this decoder: says what is missing or what it is
 */
lx_status vae_decoder_load(vae_decoder **out, lx_exec *x, const lx_weights *weights, lx_err *err);
void vae_decoder_destroy(vae_decoder **decoder);
const lx_vae_dims *vae_decoder_dims(const vae_decoder *decoder);

/** F = 4(T-1)+1 */
int64_t vae_frame_count(int64_t latent_frames);

/**
 * Decode one clip from its beginning; nothing is remembered from an earlier one.
 *
 * @param latent    [16, T, h, w] f32 in device memory, normalised as the sampler leaves it
 * @param sink      may be NULL (a dry run, a self-test)
 * @param progress  unit "chunk"; asked for cancel after every few frames. May be NULL.
 *
 * @retval LX_EJOB     a size is not positive, or the arena was planned for a smaller clip
 * @retval LX_ECANCEL  progress said so
 */
lx_status vae_decode(vae_decoder *decoder, lx_exec *x, const vae_clip *clip, const float *latent,
                     const vae_sink *sink, const lx_progress *progress, lx_err *err);

/** LX_EJOB names the first value that is not finite, and where it is. latent is on the host. */
lx_status vae_latent_check(const float *latent, const vae_clip *clip, lx_err *err);
/** The same in device memory. */
lx_status vae_latent_check_on(lx_exec *x, const float *latent, const vae_clip *clip, lx_err *err);

/** A latent from host memory where vae_decode can read it: on a card a copy in the arena. */
lx_status vae_latent_place(lx_exec *x, const vae_clip *clip, const float *host, const float **out,
                           lx_err *err);

#endif
