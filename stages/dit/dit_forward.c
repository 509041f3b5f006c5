/*
 * dit_forward.c - a clip's buffers, and one forward pass: patches, blocks, head
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>

#include "dit_model.h"
#include "lx_attention.h"
#include "lx_elementwise.h"

/* Keys, in memory that values' images may have afterwards. */
static lx_status take_keys(dit_pass *p, lx_err *err)
{
    lx_exec *x = p->x;
    const int64_t n = p->n_tokens, dim = p->model->dims.dim;
    void *data;
    p->k_room = lx_kv_room(x, n, dim);
    DIT_TRY(lx_arena_take(x->arena, p->k_room, &data, err));
    p->k = (lx_mat){.dtype = x->rows, .rows = n, .cols = dim, .stride = dim, .data = data};
    if (lx_exec_is_host(x))
        return LX_OK;
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)n, &p->k_square, err));
    return lx_arena_take_f32(x->arena, (uint64_t)(n < p->chunk ? n : p->chunk), &p->q_square, err);
}

/* Buffers of the whole clip. Their sizes are bounded by count_tokens. */
static lx_status take_buffers(dit_pass *p, lx_err *err)
{
    lx_exec *x = p->x;
    const uint64_t dim = (uint64_t)p->model->dims.dim, n = (uint64_t)p->n_tokens;
    lx_grid grid = {p->latent.t, p->latent.h / 2, p->latent.w / 2};
    DIT_TRY(lx_rope_table_build(x, grid, p->model->dims.head_dim, &p->rope, err));
    DIT_TRY(lx_arena_take_f32(x->arena, 6 * dim, &p->mod, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n * dim, &p->residual, err));
    DIT_TRY(take_keys(p, err));
    DIT_TRY(lx_mat_take(x, x->value, p->n_tokens, p->model->dims.dim, &p->v, err));
    if (!p->engine->memory.keeps_normed)
        return LX_OK;
    lx_dtype dtype = lx_linear_act_dtype(x, &p->model->blocks[0].self.k.w);
    return lx_act_take(x, dtype, p->n_tokens, p->model->dims.dim, &p->normed, err);
}

static lx_status count_tokens(dit_pass *p, lx_err *err)
{
    const lx_patch_dims *d = &p->latent;
    const lx_dit_dims *m = &p->model->dims;
    uint64_t n;
    if (d->channels != m->in_dim || d->t < 1 || d->h < 2 || d->w < 2 || d->h % 2 || d->w % 2)
        return lx_fail(err, LX_EJOB,
                       "latent [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "]: this model takes [%" PRId64 ", T, h, w] with even h and w",
                       d->channels, d->t, d->h, d->w, m->in_dim);
    if (!lx_mul_u64((uint64_t)d->t, (uint64_t)d->h / 2, &n) ||
        !lx_mul_u64(n, (uint64_t)d->w / 2, &n) || n > LX_LIMIT_ELEMENTS / (3 * (uint64_t)m->dim))
        return lx_fail(err, LX_EJOB,
                       "a latent of %" PRId64 " x %" PRId64 " x %" PRId64 " has too many tokens",
                       d->t, d->h, d->w);
    p->n_tokens = (int64_t)n;
    return LX_OK;
}

lx_status dit_pass_open(dit_engine *engine, const dit_request *r, dit_pass *out, lx_err *err)
{
    const dit *m = engine->model;
    lx_exec *x = &engine->x;
    const uint64_t steps = (uint64_t)r->schedule->n_steps, dim = (uint64_t)m->dims.dim;
    dit_pass p = {.engine = engine,
                  .model = m,
                  .x = x,
                  .request = r,
                  .run = r->run,
                  .latent = r->latent,
                  .chunk = engine->memory.chunk,
                  .n_blocks = r->n_blocks ? r->n_blocks : m->dims.n_blocks};
    p.total = (uint64_t)p.n_blocks * steps;
    DIT_TRY(count_tokens(&p, err));
    DIT_TRY(lx_arena_take_f32(x->arena, steps * dim, &p.e, err));
    DIT_TRY(lx_arena_take_f32(x->arena, steps * 6 * dim, &p.e0, err));
    DIT_TRY(dit_keys_open(&p, err)); /* both need room that the buffers may use afterwards */
    DIT_TRY(dit_time_path(&p, err));
    DIT_TRY(take_buffers(&p, err));
    *out = p;
    return LX_OK;
}

static lx_status embed_patches(dit_pass *p, const float *latent, lx_err *err)
{
    const int64_t cols = 4 * p->model->dims.in_dim, dim = p->model->dims.dim;
    lx_exec *x = p->x;
    size_t mark = lx_arena_mark(x->arena);
    lx_mat rows, residual = lx_mat_f32(p->residual, p->n_tokens, dim);
    lx_act in;
    DIT_TRY(lx_mat_take(x, LX_DTYPE_F32, p->n_tokens, cols, &rows, err));
    DIT_TRY(lx_patchify(x, &p->latent, latent, rows.data, err));
    in = (lx_act){.dtype = LX_DTYPE_F32, .rows = p->n_tokens, .cols = cols, .data = rows.data};
    if (p->engine->patch.w.scale) /* a quantized patch embedding: no checkpoint has one */
        DIT_TRY(lx_act_of(x, &rows, &p->engine->patch.w, &in, err));
    DIT_TRY(dit_linear_run(x, &p->engine->patch, &in, (lx_epilogue){0}, &residual, NULL, 0, err));
    lx_arena_reset(x->arena, mark);
    return dit_dump(x, p->run, "patch_embedding", &residual, err);
}

/* Modulated by head.modulation + e: e itself, not its projection. */
static lx_status head_modulation(dit_pass *p, float *mod, lx_err *err)
{
    const int64_t dim = p->model->dims.dim;
    const float *e = p->e + p->step * dim;
    DIT_TRY(lx_widen(p->x, &p->engine->head_modulation, mod, err));
    DIT_TRY(lx_axpby(p->x, 1.0f, e, 1.0f, dim, mod, err));
    return lx_axpby(p->x, 1.0f, e, 1.0f, dim, mod + dim, err);
}

static lx_status head(dit_pass *p, float *velocity, lx_err *err)
{
    const dit_linear *lin = &p->engine->head;
    const int64_t cols = 4 * p->model->dims.out_dim, dim = p->model->dims.dim;
    lx_exec *x = p->x;
    size_t mark = lx_arena_mark(x->arena);
    lx_mat rows;
    float *mod;
    DIT_TRY(lx_mat_take(x, LX_DTYPE_F32, p->n_tokens, cols, &rows, err));
    DIT_TRY(lx_arena_take_f32(x->arena, 2 * (uint64_t)dim, &mod, err));
    DIT_TRY(head_modulation(p, mod, err));
    lx_norm norm = {.kind = LX_NORM_LAYER, .eps = DIT_EPS, .shift = mod, .scale = mod + dim};
    size_t chunk_mark = lx_arena_mark(x->arena);
    for (int64_t first = 0; first < p->n_tokens; first += p->chunk) {
        int64_t left = p->n_tokens - first, n = left < p->chunk ? left : p->chunk;
        lx_mat out = lx_mat_rows(&rows, first, n);
        lx_act in;
        DIT_TRY(lx_act_take(x, lx_linear_act_dtype(x, &lin->w), n, dim, &in, err));
        DIT_TRY(lx_norm_rows(x, p->residual + first * dim, &norm, &in, err));
        DIT_TRY(dit_linear_run(x, lin, &in, (lx_epilogue){0}, &out, NULL, 0, err));
        lx_arena_reset(x->arena, chunk_mark);
    }
    DIT_TRY(dit_dump(x, p->run, "head", &rows, err));
    DIT_TRY(lx_unpatchify(x, &p->latent, rows.data, velocity, err));
    lx_arena_reset(x->arena, mark);
    return LX_OK;
}

/* Block n with its weights where the device reads them. */
static lx_status with_weights(dit_pass *p, int64_t n, lx_err *err)
{
    dit_block b = p->model->blocks[n];
    const lx_weight *weights;
    lx_status status = LX_OK;
    if (p->step == 0) {
        DIT_TRY(lx_residency_enter(p->engine->key_parts, n, &weights, err));
        dit_block_bind_keys(&b, weights);
        status = dit_keys_make(p, &b, n, err);
        lx_status left = lx_residency_leave(p->engine->key_parts, n, err);
        DIT_TRY(status != LX_OK ? status : left);
    }
    DIT_TRY(lx_residency_enter(p->engine->blocks, n, &weights, err));
    dit_block_bind_main(&b, weights);
    status = dit_block_run(p, &b, n, err);
    lx_status left = lx_residency_leave(p->engine->blocks, n, status == LX_OK ? err : NULL);
    return status != LX_OK ? status : left;
}

lx_status dit_forward(dit_pass *p, const float *latent, float *velocity, lx_err *err)
{
    DIT_TRY(embed_patches(p, latent, err));
    for (int64_t n = 0; n < p->n_blocks; n++) {
        DIT_TRY(with_weights(p, n, err));
        p->done++;
        DIT_TRY(lx_exec_pace(p->x, err));
        if (!p->x->is_dry)
            DIT_TRY(lx_progress_step(p->request->progress, "block", p->done, p->total, err));
    }
    return head(p, velocity, err);
}
