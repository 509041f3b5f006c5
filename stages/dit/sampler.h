/*
 * sampler.h - noise levels, and the step from one to the next
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The step-distilled samplers: `euler` (as LightX2V's of today) and
 *           `lcm` (predict the clip, then add fresh noise for the next level).
 * Formula   u = n/1000 for list entry n; sigma = s u / (1 + (s-1) u), f32; t = f32(1000 sigma),
 *           never an integer.
 *           x0 = x - sigma_i v; last step: x0.
 *           euler: x' = x0 + sigma_{i+1} v.   lcm: x' = (1 - sigma_{i+1}) x0 + sigma_{i+1} noise
 * Numbers   f32, every product and sum rounded on its own
 * Tests     tests/stages/test_dit_sampler.c
 */
#ifndef DIT_SAMPLER_H
#define DIT_SAMPLER_H

#include "lx_exec.h"
#include "lx_job.h"

typedef struct dit_schedule {
    int32_t n_steps;
    int32_t label[LX_LIMIT_STEPS]; /* entries of the list: places in the unshifted schedule */
    double shift;
    float sigma[LX_LIMIT_STEPS], timestep[LX_LIMIT_STEPS];
    bool is_own; /* 1000, 750, 500, 250 with shift 5: what the checkpoint was trained on */
} dit_schedule;

/** LX_EJOB: the list does not fall, or an entry or the shift is out of range. */
lx_status dit_schedule_make(dit_schedule *out, const int32_t *labels, int32_t n, double shift,
                            lx_err *err);
/** What the distilled checkpoints were trained on. */
void dit_schedule_default(dit_schedule *out);

/** One line about noise levels that the checkpoint does not know; "" if they are its own. */
void dit_schedule_notice(const dit_schedule *schedule, char *text, size_t text_bytes);

/**
 * latent <- the state after step i (0-based), n values.
 * noise: fresh normals, read by lcm in every step but the last; NULL for euler.
 */
lx_status dit_sampler_step(lx_exec *x, const dit_schedule *schedule, lx_sampler sampler, int32_t i,
                           const float *velocity, const float *noise, int64_t n, float *latent,
                           lx_err *err);

#endif
