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
 * Device    dit is the checkpoint in host memory, dit_engine the checkpoint on one device: exec,
 *           memory, and the blocks' way to the card. The forward pass is written once.
 * Memory    Weights stay as they are stored. Everything else comes from the engine's arenas; the
 *           same code, run dry, measures them (dit_plan), also for a card that is not here.
 * Source    Wan2.1 wan/modules/model.py; LightX2V's W8A8 linears and step_distill scheduler
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

#include "lx_attention.h"
#include "lx_cuda.h"
#include "lx_patch.h"
#include "lx_progress.h"
#include "lx_residency.h"
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
    bool is_header_only; /* no tensor is read: for plans; dit_engine_open reads what it needs */
    int shared_fd;       /* memory that processes share for weights (lx_weights.h); 0: none */
} dit_options;

/* Where and how a model runs. Zeros: on the CPU with every core. */
typedef struct dit_setup {
    const char *device; /* "cpu" or NULL, "cuda:N"; borrowed during the call */
    int n_threads;
    uint64_t vram;   /* bytes of the card for all of this process; 0: what is free, less 0.3 GiB */
    uint64_t beside; /* of these: for what is not the engine's, such as lent slots */
    /* Bytes of host memory for weights, pinned rings and the rest; 0: no limit. On the CPU it is
     * not looked at. */
    uint64_t ram;
    lx_residency_choice residency; /* on a card */
    int64_t n_resident;            /* PARTIAL: how many blocks stay; 0: as many as fit */
    uint64_t pinned;               /* of ram, from LX_LIMIT_PINNED on; 0: a good size */
    lx_attention_choice attention; /* on a card, as is the next */
    lx_accumulate_choice accumulate;
    lx_patch_dims largest; /* memory is for latents up to this */
    lx_run *run;           /* dumps to count in; may be NULL */
    bool is_deferred;      /* the device's memory is left alone until dit_engine_take */
} dit_setup;

/* What a model needs on a device, in bytes. */
typedef struct dit_memory {
    uint64_t weights;     /* blocks that stay on the card, and small constant parts */
    uint64_t slots;       /* ring of blocks on the card */
    uint64_t activations; /* everything else of the device arena */
    uint64_t host;        /* host arena (0 on the CPU: it is in activations) */
    uint64_t pinned;
    uint64_t context; /* the driver's own, on the card: estimated in a plan, measured when open */
    uint64_t beside;  /* setup's, on a card */
    uint64_t total;   /* of the device: weights + slots + activations + context + beside */
    int64_t n_resident, n_blocks, chunk;
    lx_attention_kind attention;
    lx_sums sums;
    char attention_how[128]; /* which kernel, and why: for people */
    bool keeps_normed;       /* the input of q, k and v is made once a block, and kept */
    /* Of the host. Blocks on disk: first those that stay on the card, then spread evenly over the
     * others, so that reading has the time of all blocks (dit_is_on_disk). */
    int64_t n_on_disk;
    uint64_t host_weights; /* what is not on disk; shared by all processes that say so */
    uint64_t disk_step;    /* bytes read in every step */
} dit_memory;

typedef struct dit_engine dit_engine; /* a model on a device; opaque */

/** Open and check a checkpoint. options may be NULL. */
lx_status dit_load(dit **out, const char *path, const dit_options *options,
                   const lx_progress *progress, lx_err *err);
void dit_destroy(dit **model);

const lx_dit_dims *dit_dims(const dit *model);
const lx_weights *dit_weights(const dit *model);
int64_t dit_text_len(const dit *model);

typedef struct dit_request {
    lx_patch_dims latent; /* channels, t, h, w */
    const float *context; /* [n_context, text_dim], in host memory, as all pointers here */
    /* Instead of it: puts the same into dst, in device memory. */
    lx_status (*bring_context)(void *self, void *dst, size_t bytes, lx_err *err);
    /* Instead of writing it to `latent`: is given the result where it is, in device memory, until
     * it returns; it is finished when what is queued so far has run. */
    lx_status (*take_latent)(void *self, const float *latent, size_t bytes, lx_err *err);
    void *self; /* of both */
    int64_t n_context;
    const dit_schedule *schedule;
    lx_sampler sampler;
    const lx_rng *rng; /* lcm: draws 1, 2, ... of this generator and seed */
    uint64_t seed;
    const lx_progress *progress; /* unit "layer" for the context, then "block"; may be NULL */
    lx_run *run;                 /* dumps of the first step; may be NULL */
    float *velocity;             /* [n_steps, channels, t, h, w] or NULL */
    double *step_s;              /* [n_steps]: seconds that each took; or NULL */
    int64_t n_blocks;            /* 0: all; fewer only warm the kernels up */
} dit_request;

/**
 * Choose how a model runs within setup's budget, and measure it. card: NULL for the CPU, else what
 * kind of card; it need not be in this machine, and setup->vram must then say the budget.
 *
 * @retval LX_EAGAIN   it does not fit in any way that setup allows: needed and allowed
 * @retval LX_ECONFIG  blocks on disk for the CPU; an attention that the card or model has not
 * @retval LX_EJOB     the latent is not possible
 */
lx_status dit_plan(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                   dit_memory *out, lx_err *err);

/** Block i's large tensors are read from disk again and again, not kept in memory. */
bool dit_is_on_disk(const dit_memory *memory, int64_t i);

/**
 * Plan, open the device, take its memory, read the weights if only headers were read so far, and
 * place what stays on the device. model is borrowed until close.
 */
lx_status dit_engine_open(dit_engine **out, dit *model, const dit_setup *setup,
                          const lx_progress *progress, lx_err *err);
/**
 * Take the device's memory and place what stays there, after dit_engine_give or a deferred open.
 *
 * @retval LX_EAGAIN  it is not there at this moment; nothing was taken
 */
lx_status dit_engine_take(dit_engine *engine, const lx_progress *progress, lx_err *err);
/** Give all of that back to the device. Weights stay in host memory, the card stays open. */
void dit_engine_give(dit_engine *engine);
void dit_engine_close(dit_engine **engine);
const dit_memory *dit_engine_memory(const dit_engine *engine);
lx_exec *dit_engine_exec(dit_engine *engine);
/** What streaming of the blocks cost so far. */
void dit_engine_stats(const dit_engine *engine, lx_residency_stats *out);

/**
 * Denoise in place: latent [channels, t, h, w] holds the noise and then the result, unless the
 * request takes that itself.
 *
 * @retval LX_EJOB     sizes that the model or the arena cannot take; a velocity that is not finite
 * @retval LX_ECANCEL  progress said so
 */
lx_status dit_denoise(dit_engine *engine, const dit_request *request, float *latent, lx_err *err);

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
/** Bytes of its card that lending takes, for the largest clip that a config allows. */
uint64_t dit_lent_bytes(const lx_config *config, const dit *model);
/** The lx_job_fn; self is the dit_stage. */
lx_status dit_on_job(void *self, lx_stage_job *job, lx_err *err);

/** `lx2v-dit run ...`; argv after "run". Returns the exit code. */
int dit_run(int argc, char **argv);
/** `lx2v-dit plan ...`, lx_plan.h; argv after "plan". Returns the exit code. */
int dit_plan_main(int argc, char **argv);

#endif
