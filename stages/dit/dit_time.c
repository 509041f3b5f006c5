/*
 * dit_time.c - the timesteps' part: e and e0 of every step, once per clip
 * SPDX-License-Identifier: Apache-2.0
 *
 * e = W2 silu(W0 p), e0 = W silu(e), p the embedding of the timestep. The weights are
 * 370 MB in the 14B and are used here only, so they are on a card no longer than this takes: 86 ms,
 * nearly all of it their way there (one H200). But the results depend on the timesteps alone, and
 * those are the same from clip to clip: the last ones are kept on the host, 0.6 MB.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dit_model.h"
#include "lx_elementwise.h"

void dit_timestep_embedding(double t, int64_t n, float *out)
{
    int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        double angle = t * pow(10000.0, -(double)i / (double)half);
        out[i] = (float)cos(angle);
        out[half + i] = (float)sin(angle);
    }
}

static lx_status embed_timestep(dit_pass *p, float timestep, float **out, lx_err *err)
{
    float *host;
    int64_t n = p->model->dims.freq_dim;
    size_t mark = lx_arena_mark(p->x->host);
    if (lx_exec_is_host(p->x)) {
        DIT_TRY(lx_arena_take_f32(p->x->arena, (uint64_t)n, out, err));
        if (!p->x->is_dry)
            dit_timestep_embedding((double)timestep, n, *out);
        return LX_OK;
    }
    DIT_TRY(lx_arena_take_f32(p->x->host, (uint64_t)n, &host, err));
    DIT_TRY(lx_arena_take_f32(p->x->arena, (uint64_t)n, out, err));
    if (!p->x->is_dry)
        dit_timestep_embedding((double)timestep, n, host);
    lx_status status = lx_upload(p->x, *out, host, (size_t)n * sizeof *host, err);
    lx_arena_reset(p->x->host, mark);
    return status;
}

/* One row of f32 through a linear: its quantized form where the weight asks for one. */
static lx_status run_row(dit_pass *p, const dit_linear *lin, float *row, int64_t cols,
                         lx_activation activation, float *out, lx_err *err)
{
    lx_mat in = lx_mat_f32(row, 1, cols), to = lx_mat_f32(out, 1, lin->w.shape.dim[0]);
    lx_act act = {.dtype = LX_DTYPE_F32, .rows = 1, .cols = cols, .data = row};
    if (lin->w.dtype == LX_DTYPE_I8 || (lin->w.dtype == LX_DTYPE_F8_E4M3 && lin->w.scale))
        DIT_TRY(lx_act_of(p->x, &in, &lin->w, &act, err));
    return dit_linear_run(p->x, lin, &act, (lx_epilogue){.activation = activation}, &to, NULL, 0,
                          err);
}

static lx_status one_step(dit_pass *p, const dit_linear lin[3], int32_t step, lx_err *err)
{
    lx_exec *x = p->x;
    const int64_t dim = p->model->dims.dim;
    float *angles, *hidden, *e = p->e + step * dim, *e0 = p->e0 + step * 6 * dim;
    size_t mark = lx_arena_mark(x->arena);
    DIT_TRY(embed_timestep(p, p->request->schedule->timestep[step], &angles, err));
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)dim, &hidden, err));
    DIT_TRY(run_row(p, &lin[0], angles, p->model->dims.freq_dim, LX_ACTIVATION_SILU, hidden, err));
    DIT_TRY(run_row(p, &lin[1], hidden, dim, LX_ACTIVATION_NONE, e, err));
    DIT_TRY(lx_silu(x, e, dim, hidden, err));
    DIT_TRY(run_row(p, &lin[2], hidden, dim, LX_ACTIVATION_NONE, e0, err));
    lx_arena_reset(x->arena, mark);
    return LX_OK;
}

/* --- from clip to clip ----------------------------------------------------------------------- */

lx_status dit_time_take(dit_engine *e, lx_err *err)
{
    e->time.values = calloc(DIT_TIMES * 7 * (size_t)e->model->dims.dim, sizeof *e->time.values);
    return e->time.values ? LX_OK
                          : lx_fail(err, LX_EAGAIN, "out of memory for the time path's results");
}

static bool is_known(const dit_pass *p)
{
    const dit_times *t = &p->engine->time;
    const dit_schedule *s = p->request->schedule;
    return !p->x->is_dry && t->n_steps == s->n_steps &&
           memcmp(t->timestep, s->timestep, (size_t)s->n_steps * sizeof *s->timestep) == 0;
}

/* e of all steps, then e0. */
static lx_status bring(dit_pass *p, lx_err *err)
{
    const dit_times *t = &p->engine->time;
    const size_t n = (size_t)t->n_steps * (size_t)p->model->dims.dim;
    DIT_TRY(lx_upload(p->x, p->e, t->values, n * sizeof *p->e, err));
    return lx_upload(p->x, p->e0, t->values + n, 6 * n * sizeof *p->e0, err);
}

static lx_status keep(dit_pass *p, lx_err *err)
{
    dit_times *t = &p->engine->time;
    const dit_schedule *s = p->request->schedule;
    const size_t n = (size_t)s->n_steps * (size_t)p->model->dims.dim;
    if (p->x->is_dry || s->n_steps > DIT_TIMES)
        return LX_OK;
    t->n_steps = 0; /* until all of it is there */
    DIT_TRY(lx_download(p->x, t->values, p->e, n * sizeof *p->e, err));
    DIT_TRY(lx_download(p->x, t->values + n, p->e0, 6 * n * sizeof *p->e0, err));
    memcpy(t->timestep, s->timestep, (size_t)s->n_steps * sizeof *s->timestep);
    t->n_steps = s->n_steps;
    return LX_OK;
}

static lx_status make(dit_pass *p, lx_err *err)
{
    const dit *m = p->model;
    size_t mark = lx_arena_mark(p->x->arena);
    dit_linear lin[3];
    DIT_TRY(dit_linear_place(p->x, &m->time0, &lin[0], err));
    DIT_TRY(dit_linear_place(p->x, &m->time2, &lin[1], err));
    DIT_TRY(dit_linear_place(p->x, &m->time_proj, &lin[2], err));
    for (int32_t i = 0; i < p->request->schedule->n_steps; i++)
        DIT_TRY(one_step(p, lin, i, err));
    lx_arena_reset(p->x->arena, mark);
    return keep(p, err);
}

lx_status dit_time_path(dit_pass *p, lx_err *err)
{
    const int64_t dim = p->model->dims.dim;
    DIT_TRY(is_known(p) ? bring(p, err) : make(p, err));
    lx_mat one = lx_mat_f32(p->e, 1, dim), six = lx_mat_f32(p->e0, 6, dim); /* of the first step */
    DIT_TRY(dit_dump(p->x, p->run, "time_embedding", &one, err));
    return dit_dump(p->x, p->run, "time_projection", &six, err);
}
