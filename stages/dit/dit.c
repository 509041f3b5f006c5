/*
 * dit.c - denoising: the steps of one clip
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit.h"

#include <inttypes.h>
#include <math.h>

#include "dit_model.h"
#include "lx_fault.h"

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

/* What one clip needs beside the pass. */
typedef struct clip {
    uint64_t n;                       /* values of a latent */
    float *latent, *velocity, *noise; /* on the device; noise: scratch for lcm's draws, or NULL */
    float *drawn;                     /* noise on the host; on the CPU noise itself */
} clip;

static lx_status take_clip(lx_exec *x, const dit_request *r, clip *c, lx_err *err)
{
    const lx_patch_dims *d = &r->latent;
    DIT_TRY(
        lx_shape_bytes(&LX_SHAPE(d->channels, d->t, d->h, d->w), LX_DTYPE_F32, &c->n, NULL, err));
    DIT_TRY(lx_arena_take_f32(x->arena, c->n, &c->latent, err));
    DIT_TRY(lx_arena_take_f32(x->arena, c->n, &c->velocity, err));
    if (r->sampler != LX_SAMPLER_LCM)
        return LX_OK;
    DIT_TRY(lx_arena_take_f32(x->arena, c->n, &c->noise, err));
    c->drawn = c->noise;
    return lx_exec_is_host(x) ? LX_OK : lx_arena_take_f32(x->host, c->n, &c->drawn, err);
}

static lx_status step(dit_pass *p, const clip *c, lx_err *err)
{
    const dit_request *r = p->request;
    const size_t bytes = (size_t)c->n * sizeof(float);
    const int32_t i = p->step;
    lx_exec *x = p->x;
    DIT_TRY(dit_forward(p, c->latent, c->velocity, err));
    if (!x->is_dry && LX_FAULT("dit.step") == LX_FAULT_NAN)
        DIT_TRY(lx_upload(x, c->velocity, &(float){NAN}, sizeof(float), err));
    DIT_TRY(check_finite(x, r, i, c->velocity, err));
    if (r->velocity)
        DIT_TRY(lx_download(x, r->velocity + (uint64_t)i * c->n, c->velocity, bytes, err));
    /* Draw 0 is the initial noise, so step i's is draw i + 1. */
    if (c->noise && i + 1 < r->schedule->n_steps) {
        if (!x->is_dry)
            lx_rng_normal(r->rng, r->seed, (uint32_t)i + 1, c->n, c->drawn);
        if (c->drawn != c->noise)
            DIT_TRY(lx_upload(x, c->noise, c->drawn, bytes, err));
    }
    return dit_sampler_step(x, r->schedule, r->sampler, i, c->velocity, c->noise, (int64_t)c->n,
                            c->latent, err);
}

lx_status dit_denoise_all(dit_engine *e, const dit_request *r, float *latent, lx_err *err)
{
    clip c = {0};
    dit_pass p;
    DIT_TRY(take_clip(&e->x, r, &c, err));
    DIT_TRY(dit_pass_open(e, r, &p, err));
    const size_t bytes = (size_t)c.n * sizeof(float);
    DIT_TRY(lx_upload(&e->x, c.latent, latent, bytes, err));
    for (p.step = 0; p.step < r->schedule->n_steps; p.step++) {
        double from_s = lx_now_s();
        DIT_TRY(step(&p, &c, err));
        if (r->step_s) /* the finite check waits for the device, so this is no launch time */
            r->step_s[p.step] = lx_now_s() - from_s;
        p.run = NULL; /* dumps are of the first step */
    }
    if (r->take_latent && !e->x.is_dry)
        return r->take_latent(r->self, c.latent, bytes, err);
    return lx_download(&e->x, latent, c.latent, bytes, err);
}

lx_status dit_denoise(dit_engine *e, const dit_request *request, float *latent, lx_err *err)
{
    size_t mark = lx_arena_mark(e->arena), host_mark = lx_arena_mark(e->host);
    lx_status status = dit_denoise_all(e, request, latent, err);
    /* Kernels may still read what is given back: whoever takes it next queues behind them. */
    lx_arena_reset(e->arena, mark);
    if (e->host != e->arena)
        lx_arena_reset(e->host, host_mark);
    return status;
}
