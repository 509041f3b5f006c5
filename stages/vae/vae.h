/*
 * vae.h - the video decoder as a stage: latent -> frames
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Borrows the latent F32 [16, T, h, w], normalised as the DiT's sampler leaves it, and
 *           lends frames chunk by chunk as they are decoded: U8 [n, 8h * 3/2, 8w], I420 in BT.709
 *           limited range, n = 4 * vae.chunk (3 fewer in the first chunk, fewer in the last), in
 *           all F = 4(T-1)+1.
 * Promise   On the CPU float32 throughout; chunk size, tiling and thread count change results by at
 *           most 1e-6, the same settings give the same bits. On a card bf16 between layers, f32
 *           sums; chunk size and tiling change no bit. A latent that is not finite fails the job
 *           and says where. Cancel is heard every few frames.
 * Memory    One arena of the device, planned by a dry run for the largest clip that the limits
 *           allow; on a card a small one of the host beside it. Where that is more than the
 *           budget, frames are cut into tiles that overlap by 7 latents (exact: behind the middle
 *           attention, which sees the whole frame, a pixel sees 6.25 latents to each side); then
 *           each tile is decoded for the whole clip and frames are lent at the end, from one I420
 *           copy of the clip: keeping the state of all tiles at once would take more than no tiles
 *           at all.
 * Source    Wan2.1 wan/modules/vae.py
 * Tests     tests/stages/test_vae_*.c, tests/gpu/test_cuda_vae.c
 *
 * Treacherous details, and the test that guards each
 *   - a clip's first frame bypasses time_conv and is not in its history   test_vae_cases
 *   - time_conv's first half of outputs is the even frame                 test_vae_cases
 *   - history starts with zeros for each clip, also after an aborted one  test_vae_stream
 *   - channel norm clamps the norm, it adds nothing to a mean square      kernels/test_conv
 *   - the shortcut takes the raw input, before norm and SiLU              test_vae_cases
 *   - conv2 follows denormalisation, its bias is not in conv1's padding   test_vae_cases
 *   - conv1 at top level belongs to the encoder and is ignored            test_vae_golden
 *   - attention has one head as wide as the layer, per frame, no mask     test_vae_golden
 *   - from upsamples.3 on a pixel sees 6.25 latents: the halo is 7        test_vae_stream
 *   - chroma of a tile's first column needs the column before it          kernels/test_colour
 *   - clamping comes after everything                                     test_vae_golden
 */
#ifndef VAE_H
#define VAE_H

#include "lx_cuda.h"
#include "lx_stage.h"
#include "vae_decoder.h"

typedef struct vae vae; /* a loaded decoder, its arena and exec; opaque */

/* What the driver itself keeps on a card for a process, beside the arena: an estimate. */
#define VAE_CONTEXT ((uint64_t)600 << 20)

typedef struct vae_options {
    const char *weights; /* file */
    const char *device;  /* "cpu", "cuda:0" and the other names of lx_device.h; NULL: the CPU */
    int threads;         /* 0: one per core; CPU only */
    vae_clip largest;    /* what memory is planned for; tile 0 x 0: chosen if the budget demands */
    bool turns;          /* also plan for `largest` with height and width exchanged */
    bool lends;          /* memory for a job's latent, and for its frames in I420 */
    /* Bytes. CPU, 0: half of the machine's memory. A card: of its arena, always with the weights;
     * 0: 2.75 GiB less VAE_CONTEXT. */
    uint64_t budget;
    bool budget_has_weights;     /* CPU: the budget is for everything, else for all but weights */
    const lx_progress *progress; /* of loading; may be NULL */
    bool is_deferred;            /* the device's memory is left alone until vae_take */
    lx_accumulate_choice accumulate; /* of the residual blocks' products, on a card */
} vae_options;

/**
 * Open a checkpoint, plan memory, take it, pack the weights, and decode a tiny clip as a self-test.
 *
 * @retval LX_ECONFIG  file, device or checkpoint, and what is wrong with it
 * @retval LX_EAGAIN   does not fit: needed and available
 */
lx_status vae_open(vae **out, const vae_options *options, lx_err *err);
/**
 * Take the device's memory and pack the weights into it, after a deferred open or vae_give; the
 * first time with the self-test.
 *
 * @retval LX_EAGAIN  it is not there at this moment; nothing was taken
 */
lx_status vae_take(vae *model, lx_err *err);
/** Give it back. The checkpoint stays in host memory, to be packed again. */
void vae_give(vae *model);
/** After a deferred open and vae_take: it will not be given back, so the checkpoint may go. */
void vae_keep_memory(vae *model);
uint64_t vae_planned_bytes(const vae *model); /* of the device, also before they are taken */
void vae_destroy(vae **model);

vae_decoder *vae_decoder_of(vae *model);
lx_exec *vae_exec(vae *model);
const vae_clip *vae_largest(const vae *model); /* with the tile that was chosen */
const char *vae_weights_id(const vae *model);
const char *vae_sums_name(const vae *model); /* "fp32", or "fp16" */
uint64_t vae_weight_bytes(const vae *model);
uint64_t vae_arena_bytes(const vae *model); /* of the device */

/* What a job needs beside the decoder, from both arenas. */
typedef struct vae_room {
    float *latent; /* where vae_decode reads; borrowed into by the stage */
    uint64_t latent_bytes;
    /* To be lent, in device memory: the clip where it is tiled, else two chunks on a card, of which
     * one leaves while the other is made, and NULL on the CPU, which writes where it lends. */
    uint8_t *i420;
    uint64_t i420_bytes; /* of one chunk of the two */
    /* By hand on a card: a window of one frame as planes, on the device and on the host. */
    float *planes, *planes_host;
    uint8_t *rgb8, *rgb8_host;
} vae_room;

/** lends: for a job of the stage; else for `run`, which needs no room on the CPU. */
lx_status vae_room_take(lx_exec *x, const vae_clip *clip, bool lends, vae_room *out, lx_err *err);

/* --- the stage ------------------------------------------------------------------------------- */

typedef struct vae_stage vae_stage; /* one replica behind the launcher */

lx_status vae_stage_open(vae_stage **out, lx_stage *stage, lx_err *err);
void vae_stage_destroy(vae_stage **stage);
const vae *vae_stage_model(const vae_stage *stage);

/** The job handler; self is the vae_stage. */
lx_status vae_on_job(void *self, lx_stage_job *job, lx_err *err);

/** `lx2v-vae run`: argv after "run"; returns the exit code. */
int vae_run(int argc, char **argv);

/* --- memory ---------------------------------------------------------------------------------- */

typedef struct vae_plan {
    uint64_t weight_bytes, total_bytes; /* of the device's arena */
    uint64_t host_bytes;                /* of the host's beside it */
    int64_t piece, tile_h, tile_w;
    lx_sums sums; /* F32, or on a card F16 over 96 products in the residual blocks */
} vae_plan;

/**
 * Dry-run the largest clip; where it needs a tile, find the cheapest that fits. No memory is taken
 * and no card is touched.
 *
 * @param card  NULL: the CPU
 *
 * @retval LX_ECONFIG  F16 sums were asked for on the CPU
 * @retval LX_EAGAIN   nothing fits: needed and available
 */
lx_status vae_plan_memory(const lx_weights *weights, const vae_options *options,
                          const lx_card_kind *card, vae_plan *out, lx_err *err);

/** Likewise, what is needed at least; no budget is looked at. Whoever is given total_bytes, and not
 *  less, gets a plan. */
lx_status vae_plan_least(const lx_weights *weights, const vae_options *options,
                         const lx_card_kind *card, vae_plan *out, lx_err *err);

/** `lx2v-vae plan ...`, lx_plan.h; argv after "plan". Returns the exit code. */
int vae_plan_main(int argc, char **argv);

/** Height and width exchanged, of the tile too. */
vae_clip vae_turned(const vae_clip *clip);

/** The largest clip that a config allows, and how to decode it. */
vae_clip vae_largest_of(const lx_config *config);
/** Bytes of the largest chunk of frames that is lent. */
uint64_t vae_slot_bytes(const vae_clip *clip);

/* Shared by this folder: pass a failure on. */
#define VAE_TRY(call)                                                                              \
    do {                                                                                           \
        lx_status try_status = (call);                                                             \
        if (try_status != LX_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

#endif
