/*
 * sampler.c - the sigma table and the two updates
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sampler.h"

#include <stdio.h>
#include <string.h>

#include "lx_elementwise.h"

static const int32_t OWN_LABELS[] = {1000, 750, 500, 250};
#define OWN_STEPS 4
#define OWN_SHIFT 5.0

lx_status dit_schedule_make(dit_schedule *out, const int32_t *labels, int32_t n, double shift,
                            lx_err *err)
{
    lx_status status = lx_job_check_steps(labels, n, err);
    if (status != LX_OK)
        return status;
    if (!(shift >= LX_JOB_SHIFT_MIN && shift <= LX_JOB_SHIFT_MAX)) /* also refuses NaN */
        return lx_fail(err, LX_EJOB, "shift: %g is out of range; accepted: %g to %g", shift,
                       LX_JOB_SHIFT_MIN, LX_JOB_SHIFT_MAX);
    dit_schedule s = {.n_steps = n, .shift = shift};
    for (int32_t i = 0; i < n; i++) {
        double u = labels[i] / 1000.0;
        s.label[i] = labels[i];
        s.sigma[i] = (float)(shift * u / (1.0 + (shift - 1.0) * u));
        s.timestep[i] = s.sigma[i] * 1000.0f;
    }
    s.is_own =
        n == OWN_STEPS && shift == OWN_SHIFT && memcmp(labels, OWN_LABELS, sizeof OWN_LABELS) == 0;
    *out = s;
    return LX_OK;
}

void dit_schedule_default(dit_schedule *out)
{
    *out = (dit_schedule){0};
    (void)dit_schedule_make(out, OWN_LABELS, OWN_STEPS, OWN_SHIFT, NULL); /* cannot fail */
}

static size_t put_sigmas(const dit_schedule *s, char *text, size_t bytes)
{
    size_t used = 0;
    for (int32_t i = 0; i < s->n_steps && used < bytes; i++) {
        int wrote =
            snprintf(text + used, bytes - used, "%s%.4g", i ? ", " : "", (double)s->sigma[i]);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
    return used;
}

void dit_schedule_notice(const dit_schedule *schedule, char *text, size_t text_bytes)
{
    text[0] = '\0';
    if (schedule->is_own)
        return;
    dit_schedule own;
    char here[LX_LIMIT_STEPS * 12], there[64];
    dit_schedule_default(&own);
    put_sigmas(schedule, here, sizeof here);
    put_sigmas(&own, there, sizeof there);
    snprintf(text, text_bytes,
             "noise levels %s (shift %g) are not the checkpoint's own, %s (shift %g): "
             "expect another look, not a better one",
             here, schedule->shift, there, own.shift);
}

lx_status dit_sampler_step(lx_exec *x, const dit_schedule *schedule, lx_sampler sampler, int32_t i,
                           const float *velocity, const float *noise, int64_t n, float *latent,
                           lx_err *err)
{
    /* lx_axpby rounds both products and the sum; times 1 is exact, so this is x - f32(sigma v). */
    lx_status status = lx_axpby(x, -schedule->sigma[i], velocity, 1.0f, n, latent, err);
    if (status != LX_OK || i + 1 == schedule->n_steps)
        return status;
    float next = schedule->sigma[i + 1];
    if (sampler == LX_SAMPLER_LCM)
        return lx_axpby(x, next, noise, 1.0f - next, n, latent, err);
    return lx_axpby(x, next, velocity, 1.0f, n, latent, err);
}
