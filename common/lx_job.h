/*
 * lx_job.h - what a person asked for, complete
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The one job record that client, launcher and stages share. The launcher fills in every
 *           default and draws the seed before it says "accepted"; a stage never guesses.
 */
#ifndef LX_JOB_H
#define LX_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_limits.h"
#include "lx_status.h"

typedef enum lx_stage_kind {
    LX_STAGE_ENCODER, /* prompt -> context */
    LX_STAGE_DIT,     /* context -> latent */
    LX_STAGE_VAE,     /* latent -> frames  */
    LX_STAGE_MUX,     /* frames -> mp4     */
    LX_STAGE_COUNT
} lx_stage_kind;

const char *lx_stage_kind_name(lx_stage_kind kind); /* "encoder", "dit", "vae", "mux" */

typedef enum lx_sampler { LX_SAMPLER_EULER, LX_SAMPLER_LCM, LX_SAMPLER_COUNT } lx_sampler;

const char *lx_sampler_name(lx_sampler sampler); /* "euler", "lcm" */
bool lx_sampler_parse(const char *name, lx_sampler *out);

#define LX_SEED_DRAW (-1) /* as a request: the launcher draws one */

typedef struct lx_job {
    char id[LX_LIMIT_ID + 1];
    char prompt[LX_LIMIT_PROMPT + 1]; /* as typed; the encoder cleans it */
    int32_t width, height, frames;    /* pixels, pixels, 4n+1 */
    double fps;
    int64_t seed;    /* >= 0 once accepted */
    int32_t sampler; /* lx_sampler */
    double shift;
    int32_t n_steps;
    int32_t steps[LX_LIMIT_STEPS];  /* training-step labels, 1..1000, falling */
    char rng[LX_LIMIT_WORD];        /* "lx2v", "torch-cpu", "torch-cuda:132x2048" */
    char output[LX_LIMIT_NAME + 1]; /* file name in the output directory, with extension */
} lx_job;

/** Latent sides of a job: T = (frames-1)/4+1, h = height/8, w = width/8. */
void lx_job_latent_dims(const lx_job *job, int64_t *t, int64_t *h, int64_t *w);

/** Check size and frames alone; the message names the two nearest values. LX_EJOB. */
lx_status lx_job_check_size(int64_t width, int64_t height, int64_t frames, lx_err *err);

/** Does a clip of this size fit into a limit, either way up? Memory is planned for both. */
bool lx_job_size_fits(int32_t width, int32_t height, int32_t limit_width, int32_t limit_height);

/** "lx2v", "torch-cpu", "torch-cuda:MxN", "torch-cuda:CARD". LX_EJOB. */
lx_status lx_job_check_rng(const char *rng, lx_err *err);
/** 1 to LX_LIMIT_STEPS labels, each 1 to 1000 and below the one before. LX_EJOB. */
lx_status lx_job_check_steps(const int32_t *steps, int64_t n, lx_err *err);

/* Bounds of fps and sample_shift, for job, config and command line alike. */
#define LX_JOB_FPS_MIN   1.0
#define LX_JOB_FPS_MAX   240.0
#define LX_JOB_SHIFT_MIN 0.01
#define LX_JOB_SHIFT_MAX 100.0

/** Check a complete job (every default filled in; seed may still be LX_SEED_DRAW) against the hard
 *  limits: prompt UTF-8, id, name, ranges. LX_EJOB; the message begins with the field's name. */
lx_status lx_job_check(const lx_job *job, lx_err *err);

/** [A-Za-z0-9._-]{1,128}, no leading dot or dash. */
bool lx_job_output_name_ok(const char *name);

#endif
