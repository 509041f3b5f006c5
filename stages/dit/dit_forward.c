/*
 * dit_forward.c - latent and timestep to velocity: patches, time path, blocks, head
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <math.h>

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

lx_status dit_pass_open(const dit *m, lx_exec *x, const dit_request *r, const dit_keys *keys,
                        dit_pass *out, lx_err *err)
{
    const lx_patch_dims *d = &r->latent;
    const uint64_t dim = (uint64_t)m->dims.dim;
    uint64_t n;
    if (d->channels != m->dims.in_dim || d->t < 1 || d->h < 2 || d->w < 2 || d->h % 2 || d->w % 2)
        return lx_fail(err, LX_EJOB,
                       "latent [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "]: this model takes [%" PRId64 ", T, h, w] with even h and w",
                       d->channels, d->t, d->h, d->w, m->dims.in_dim);
    dit_pass p = {.model = m, .x = x, .run = r->run, .progress = r->progress, .keys = keys};
    p.latent = *d;
    lx_grid grid = {d->t, d->h / 2, d->w / 2};
    if (!lx_mul_u64((uint64_t)grid.t, (uint64_t)grid.h, &n) ||
        !lx_mul_u64(n, (uint64_t)grid.w, &n) || n > LX_LIMIT_ELEMENTS / (3 * dim))
        return lx_fail(err, LX_EJOB,
                       "a latent of %" PRId64 " x %" PRId64 " x %" PRId64 " has too many tokens",
                       d->t, d->h, d->w);
    p.n_tokens = (int64_t)n;
    p.n_blocks = r->n_blocks ? r->n_blocks : m->dims.n_blocks;
    p.total = (uint64_t)p.n_blocks * (uint64_t)r->schedule->n_steps;
    DIT_TRY(lx_rope_table_build(x, grid, m->dims.head_dim, &p.rope, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n * dim, &p.residual, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n * 3 * dim, &p.qkv, err));
    DIT_TRY(lx_arena_take_f32(x->arena, dim, &p.e, err));
    DIT_TRY(lx_arena_take_f32(x->arena, 6 * dim, &p.e0, err));
    DIT_TRY(lx_arena_take_f32(x->arena, 6 * dim, &p.mod, err));
    *out = p;
    return LX_OK;
}

/* e = W2 silu(W0 p), e0 = W silu(e). */
static lx_status time_path(dit_pass *p, float timestep, lx_err *err)
{
    const dit *m = p->model;
    lx_exec *x = p->x;
    size_t mark = lx_arena_mark(x->arena);
    float *angles, *hidden;
    lx_act in;
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)m->dims.freq_dim, &angles, err));
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)m->dims.dim, &hidden, err));
    if (!x->is_dry)
        dit_timestep_embedding((double)timestep, m->dims.freq_dim, angles);
    DIT_TRY(dit_input(x, &m->time0, angles, 1, m->dims.freq_dim, &in, err));
    DIT_TRY(dit_linear_run(x, &m->time0, &in, (lx_epilogue){.activation = LX_ACTIVATION_SILU},
                           hidden, m->dims.dim, NULL, 0, err));
    DIT_TRY(dit_input(x, &m->time2, hidden, 1, m->dims.dim, &in, err));
    DIT_TRY(dit_linear_run(x, &m->time2, &in, (lx_epilogue){0}, p->e, m->dims.dim, NULL, 0, err));
    DIT_TRY(dit_dump(x, p->run, "time_embedding", p->e, 1, m->dims.dim, m->dims.dim, err));
    DIT_TRY(lx_silu(x, p->e, m->dims.dim, hidden, err));
    DIT_TRY(dit_input(x, &m->time_proj, hidden, 1, m->dims.dim, &in, err));
    DIT_TRY(dit_linear_run(x, &m->time_proj, &in, (lx_epilogue){0}, p->e0, 6 * m->dims.dim, NULL, 0,
                           err));
    lx_arena_reset(x->arena, mark);
    return dit_dump(x, p->run, "time_projection", p->e0, 6, m->dims.dim, m->dims.dim, err);
}

static lx_status embed_patches(dit_pass *p, const float *latent, lx_err *err)
{
    const dit *m = p->model;
    const int64_t cols = 4 * m->dims.in_dim, dim = m->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    float *rows;
    lx_act in;
    DIT_TRY(lx_arena_take_f32(p->x->arena, (uint64_t)p->n_tokens * (uint64_t)cols, &rows, err));
    DIT_TRY(lx_patchify(p->x, &p->latent, latent, rows, err));
    DIT_TRY(dit_input(p->x, &m->patch, rows, p->n_tokens, cols, &in, err));
    DIT_TRY(dit_linear_run(p->x, &m->patch, &in, (lx_epilogue){0}, p->residual, dim, NULL, 0, err));
    lx_arena_reset(p->x->arena, mark);
    return dit_dump(p->x, p->run, "patch_embedding", p->residual, p->n_tokens, dim, dim, err);
}

/* Modulated by head.modulation + e: e itself, not its projection. */
static lx_status head(dit_pass *p, float *velocity, lx_err *err)
{
    const dit *m = p->model;
    const int64_t cols = 4 * m->dims.out_dim, dim = m->dims.dim;
    const int32_t row = 0;
    size_t mark = lx_arena_mark(p->x->arena);
    float *rows, *mod;
    DIT_TRY(lx_arena_take_f32(p->x->arena, (uint64_t)p->n_tokens * (uint64_t)cols, &rows, err));
    DIT_TRY(lx_arena_take_f32(p->x->arena, 2 * (uint64_t)dim, &mod, err));
    DIT_TRY(lx_gather_rows(p->x, &m->head_modulation, &row, 1, mod, err));
    DIT_TRY(lx_axpby(p->x, 1.0f, p->e, 1.0f, dim, mod, err));
    DIT_TRY(lx_axpby(p->x, 1.0f, p->e, 1.0f, dim, mod + dim, err));
    lx_norm norm = {.kind = LX_NORM_LAYER, .eps = DIT_EPS, .shift = mod, .scale = mod + dim};
    size_t chunk_mark = lx_arena_mark(p->x->arena);
    for (int64_t first = 0; first < p->n_tokens; first += m->options.chunk) {
        int64_t left = p->n_tokens - first, n = left < m->options.chunk ? left : m->options.chunk;
        lx_act in;
        DIT_TRY(lx_act_take(p->x, m->head.act, n, dim, &in, err));
        DIT_TRY(lx_norm_rows(p->x, p->residual + first * dim, &norm, &in, err));
        DIT_TRY(dit_linear_run(p->x, &m->head, &in, (lx_epilogue){0}, rows + first * cols, cols,
                               NULL, 0, err));
        lx_arena_reset(p->x->arena, chunk_mark);
    }
    DIT_TRY(dit_dump(p->x, p->run, "head", rows, p->n_tokens, cols, cols, err));
    DIT_TRY(lx_unpatchify(p->x, &p->latent, rows, velocity, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

lx_status dit_forward(dit_pass *p, const float *latent, float timestep, float *velocity,
                      lx_err *err)
{
    DIT_TRY(time_path(p, timestep, err));
    DIT_TRY(embed_patches(p, latent, err));
    for (int64_t n = 0; n < p->n_blocks; n++) {
        DIT_TRY(dit_block_run(p, n, err));
        p->done++;
        if (!p->x->is_dry)
            DIT_TRY(lx_progress_step(p->progress, "block", p->done, p->total, err));
    }
    return head(p, velocity, err);
}
