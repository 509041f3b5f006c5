/*
 * dit.c - denoising: the steps of one clip, and how much memory they need
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit.h"

#include <inttypes.h>

#include "dit_model.h"

static lx_status check_request(const dit *m, const dit_request *r, lx_err *err)
{
    if (r->n_context < 1 || r->n_context > m->options.text_len)
        return lx_fail(err, LX_EJOB,
                       "context of %" PRId64 " rows: this model takes 1 to %" PRId64
                       " (text length)",
                       r->n_context, m->options.text_len);
    return LX_OK;
}

static uint64_t latent_values(const lx_patch_dims *d)
{
    return (uint64_t)d->channels * (uint64_t)d->t * (uint64_t)d->h * (uint64_t)d->w;
}

static lx_status check_finite(lx_exec *x, const dit_request *r, int32_t step, const float *velocity,
                              lx_err *err)
{
    const lx_patch_dims *d = &r->latent;
    int64_t first, n = (int64_t)latent_values(d);
    DIT_TRY(lx_find_nonfinite(x, velocity, n, &first, err));
    if (first < 0)
        return LX_OK;
    return lx_fail(err, LX_EJOB,
                   "step %d of %d (timestep %g): the velocity is not finite, first at channel "
                   "%" PRId64 ", frame %" PRId64 ", row %" PRId64 ", column %" PRId64
                   "; the weights or the context are damaged",
                   (int)step + 1, (int)r->schedule->n_steps, (double)r->schedule->timestep[step],
                   first / (d->t * d->h * d->w), first / (d->h * d->w) % d->t, first / d->w % d->h,
                   first % d->w);
}

/* One step; noise is scratch for lcm's draws. */
static lx_status step(dit_pass *p, const dit_request *r, int32_t i, float *velocity, float *noise,
                      float *latent, lx_err *err)
{
    const uint64_t n = latent_values(&r->latent);
    DIT_TRY(dit_forward(p, latent, r->schedule->timestep[i], velocity, err));
    DIT_TRY(check_finite(p->x, r, i, velocity, err));
    if (r->velocity && !p->x->is_dry)
        for (uint64_t k = 0; k < n; k++)
            r->velocity[(uint64_t)i * n + k] = velocity[k];
    /* Draw 0 is the initial noise, so step i's is draw i + 1. */
    if (noise && !p->x->is_dry && i + 1 < r->schedule->n_steps)
        lx_rng_normal(r->rng, r->seed, (uint32_t)i + 1, n, noise);
    return dit_sampler_step(p->x, r->schedule, r->sampler, i, velocity, noise, (int64_t)n, latent,
                            err);
}

static lx_status denoise(const dit *m, lx_exec *x, const dit_request *r, float *latent, lx_err *err)
{
    uint64_t bytes, n;
    dit_keys keys;
    dit_pass p;
    float *velocity, *noise = NULL;
    const lx_patch_dims *d = &r->latent;
    DIT_TRY(check_request(m, r, err));
    DIT_TRY(
        lx_shape_bytes(&LX_SHAPE(d->channels, d->t, d->h, d->w), LX_DTYPE_F32, &n, &bytes, err));
    DIT_TRY(dit_keys_make(m, x, r, &keys, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n, &velocity, err));
    if (r->sampler == LX_SAMPLER_LCM)
        DIT_TRY(lx_arena_take_f32(x->arena, n, &noise, err));
    DIT_TRY(dit_pass_open(m, x, r, &keys, &p, err));
    for (int32_t i = 0; i < r->schedule->n_steps; i++) {
        DIT_TRY(step(&p, r, i, velocity, noise, latent, err));
        p.run = NULL; /* dumps are of the first step */
    }
    return LX_OK;
}

lx_status dit_denoise(const dit *model, lx_exec *x, const dit_request *request, float *latent,
                      lx_err *err)
{
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = denoise(model, x, request, latent, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_status dit_plan(const dit *model, int n_threads, const lx_patch_dims *latent, lx_run *run,
                   uint64_t *bytes, lx_err *err)
{
    lx_arena *dry = NULL;
    lx_exec x;
    dit_schedule schedule;
    float *context, *state;
    uint64_t n;
    dit_schedule_default(&schedule);
    dit_request request = {.latent = *latent,
                           .n_context = model->options.text_len,
                           .schedule = &schedule,
                           .sampler = LX_SAMPLER_LCM, /* needs a little more than euler */
                           .run = run};
    lx_status status = lx_shape_bytes(&LX_SHAPE(latent->channels, latent->t, latent->h, latent->w),
                                      LX_DTYPE_F32, &n, NULL, err);
    if (status == LX_OK)
        status = lx_arena_create_dry(&dry, err);
    if (status == LX_OK)
        status = lx_exec_open_cpu(&x, dry, n_threads, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(
            dry, (uint64_t)model->options.text_len * (uint64_t)model->dims.text_dim, &context, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(dry, n, &state, err);
    if (status == LX_OK) {
        request.context = context;
        status = dit_denoise(model, &x, &request, state, err);
    }
    if (status == LX_OK)
        *bytes = lx_arena_peak(dry);
    lx_arena_destroy(&dry);
    return status;
}
