/*
 * dit.h - the diffusion transformer: context -> latent
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Wan2.1's text-to-video DiT with the step-distilled samplers. Borrows the context
 *           F32 [n, text_dim] (real rows only, 1 <= n <= text_len), lends the latent
 *           F32 [16, T, h, w], normalised as the VAE's input, T = (frames-1)/4+1, h = height/8.
 * Promise   float32 activations and residual; the same settings give the same bits; thread count,
 *           chunk size and the collapsed padding key change results by at most 1e-6. A velocity
 *           with NaN or infinity fails the job and names the step. Cancel is heard between blocks.
 * Memory    Weights stay as they are stored. Everything else comes from the arena of the exec; a
 *           dry exec measures it (dit_plan).
 * Source    dit.md 2, 3, 5; scheduler.md 1
 * Tests     tests/stages/test_dit_*.c
 *
 * Treacherous details, and the test that guards each
 *   - q and k are normalised over all heads together, not per head   test_dit_structure
 *   - padding rows take part in cross-attention: there is no mask    test_dit_structure
 *   - all padding rows are one key with weight ln(text_len - n)      test_dit_collapse
 *   - the head's order inside a patch is not the input's             tests/kernels/test_patch.c
 *   - the head is modulated by e, the blocks by e0                   test_dit_plain
 *   - cosines come before sines; angles need f64                     test_dit_structure
 *   - rotary pairs are (2j, 2j+1), axes have 22, 21, 21 of 64        test_dit_plain
 *   - cross-attention has no gate and no rotation                    test_dit_plain
 *   - timesteps are not integers: the third is 833.3333              test_dit_sampler
 *   - a step-list entry is a place in the *unshifted* schedule       test_dit_sampler
 *   - lcm's draws go on after the initial noise, also when that came from a file
 *                                                                    test_dit_golden
 */
#ifndef DIT_H
#define DIT_H

#include "lx_patch.h"
#include "lx_progress.h"
#include "lx_rng.h"
#include "lx_run.h"
#include "lx_stage.h"
#include "sampler.h"
#include "weights/lx_catalog.h"

#define DIT_TEXT_LEN     512 /* rows of context that Wan2.1 was trained with */
#define DIT_TEXT_LEN_MAX 4096

typedef struct dit dit; /* an opened checkpoint; opaque, read-only after load */

typedef struct dit_options {
    int64_t text_len;    /* 0: DIT_TEXT_LEN */
    int64_t chunk;       /* tokens per chunk of the row-wise work; 0: a good one */
    bool is_uncollapsed; /* attend to every padding row: slower, for comparison only */
} dit_options;

/** Open and check a checkpoint. options may be NULL. */
lx_status dit_load(dit **out, const char *path, const dit_options *options,
                   const lx_progress *progress, lx_err *err);
void dit_destroy(dit **model);

const lx_dit_dims *dit_dims(const dit *model);
const lx_weights *dit_weights(const dit *model);
int64_t dit_text_len(const dit *model);

typedef struct dit_request {
    lx_patch_dims latent; /* channels, t, h, w */
    const float *context; /* [n_context, text_dim] */
    int64_t n_context;
    const dit_schedule *schedule;
    lx_sampler sampler;
    const lx_rng *rng; /* lcm: draws 1, 2, ... of this generator and seed */
    uint64_t seed;
    const lx_progress *progress; /* unit "layer" for the context, then "block"; may be NULL */
    lx_run *run;                 /* dumps of the first step; may be NULL */
    float *velocity;             /* [n_steps, channels, t, h, w] or NULL */
    int64_t n_blocks;            /* 0: all; fewer only warm the kernels up */
} dit_request;

/**
 * Denoise in place: latent [channels, t, h, w] holds the noise and then the result.
 *
 * @retval LX_EJOB     sizes that the model or the arena cannot take; a velocity that is not finite
 * @retval LX_ECANCEL  progress said so
 */
lx_status dit_denoise(const dit *model, lx_exec *x, const dit_request *request, float *latent,
                      lx_err *err);

/** Arena bytes of a job of this size with the longest context, its context and latent included.
 *  run: dumps to count in; may be NULL. */
lx_status dit_plan(const dit *model, int n_threads, const lx_patch_dims *latent, lx_run *run,
                   uint64_t *bytes, lx_err *err);

/** Timestep embedding [n]: cos(t w_i), i < n/2, then sin(t w_i); w_i = 10000^(-2i/n). */
void dit_timestep_embedding(double t, int64_t n, float *out);

/* --- as a stage ------------------------------------------------------------------------------ */

typedef struct dit_stage dit_stage; /* model, arena and exec of one replica */

/** Load what the config names, plan and take the memory for its largest clip, make the lending desk
 *  and run the model once on the smallest latent. */
lx_status dit_stage_open(dit_stage **out, lx_stage *stage, lx_err *err);
const dit *dit_stage_model(const dit_stage *stage);
uint64_t dit_stage_arena_bytes(const dit_stage *stage);
void dit_stage_destroy(dit_stage **stage);
/** The lx_job_fn; self is the dit_stage. */
lx_status dit_on_job(void *self, lx_stage_job *job, lx_err *err);

/** `lx2v-dit run ...`; argv after "run". Returns the exit code. */
int dit_run(int argc, char **argv);

#endif
