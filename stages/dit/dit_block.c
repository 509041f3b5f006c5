/*
 * dit_block.c - one transformer block on the residual
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   m = modulation + e0: rows 0 shift, 1 scale, 2 gate of attention; 3, 4, 5 of the FFN
 *           X += gate0 * o(attention(rope(rms(q a)), rope(rms(k a)), v a)), a = LN(X)(1+m1) + m0
 *           X += o'(attention(rms(q' b), keys, values)),                    b = LN(X) g + h
 *           X += gate1 * w2 gelu(w1 f),                                     f = LN(X)(1+m4) + m3
 * Order     k and v of all tokens first; then everything else, which is row-wise, in chunks of
 *           tokens, so that neither q nor attention's output nor the FFN's hidden rows are ever
 *           whole. A chunk changes its own rows of X alone, so the others' q is still that of the
 *           block's input.
 * Raw       q and k stay as their linears made them; their norm and rotation belong to attention
 *           (lx_qk_norm), which does them on its way where it can.
 * Source    Wan2.1 wan/modules/model.py, WanAttentionBlock
 */
#include <math.h>

#include "dit_model.h"
#include "lx_attention.h"
#include "lx_elementwise.h"

enum { SHIFT_ATTN, SCALE_ATTN, GATE_ATTN, SHIFT_FFN, SCALE_FFN, GATE_FFN, N_MOD };

/* Dumps that are collected over the chunks. */
typedef struct block_taps {
    dit_tap q, k, v, self_o, cross_q, cross_o, ffn0, ffn2;
} block_taps;

/* The block at work. */
typedef struct block_pass {
    dit_pass *p;
    const dit_block *b;
    block_taps taps;
    lx_kv self, cross;
} block_pass;

/* The chunk at work: rows first .. first + n of the tokens. */
typedef struct chunk {
    int64_t first, n;
} chunk;

static const float *mod_row(const dit_pass *p, int row)
{
    return p->mod + row * p->model->dims.dim;
}

static lx_mat residual_rows(const dit_pass *p, chunk c)
{
    int64_t dim = p->model->dims.dim;
    return lx_mat_f32(p->residual + c.first * dim, c.n, dim);
}

static lx_status modulation_of(dit_pass *p, const dit_block *b, lx_err *err)
{
    int64_t n = N_MOD * p->model->dims.dim;
    DIT_TRY(lx_widen(p->x, &b->modulation, p->mod, err));
    return lx_axpby(p->x, 1.0f, p->e0 + p->step * n, 1.0f, n, p->mod, err);
}

/* LayerNorm of a chunk as `next` wants to read it; the act is taken from the arena. */
static lx_status norm_chunk(const dit_pass *p, chunk c, const lx_norm *norm, const dit_linear *next,
                            lx_act *out, lx_err *err)
{
    lx_mat rows = residual_rows(p, c);
    DIT_TRY(lx_act_take(p->x, lx_linear_act_dtype(p->x, &next->w), c.n, rows.cols, out, err));
    return lx_norm_rows(p->x, rows.data, norm, out, err);
}

static lx_norm attention_norm(const dit_pass *p)
{
    return (lx_norm){.kind = LX_NORM_LAYER,
                     .eps = DIT_EPS,
                     .shift = mod_row(p, SHIFT_ATTN),
                     .scale = mod_row(p, SCALE_ATTN)};
}

/* The chunk's rows of what is kept. */
static lx_act kept_rows(const lx_act *all, chunk c)
{
    size_t bytes = (size_t)(c.first * all->cols) * lx_dtype_size(all->dtype);
    return (lx_act){.dtype = all->dtype,
                    .rows = c.n,
                    .cols = all->cols,
                    .data = (unsigned char *)all->data + bytes,
                    .scale = all->scale ? all->scale + c.first : NULL};
}

static bool is_kept_for(const dit_pass *p, const dit_linear *next)
{
    return p->normed.data && lx_linear_act_dtype(p->x, &next->w) == p->normed.dtype;
}

/* What q, k and v read: for `next`, of these three. */
static lx_status attention_input(const dit_pass *p, chunk c, const dit_linear *next, bool is_made,
                                 lx_act *out, lx_err *err)
{
    lx_norm norm = attention_norm(p);
    if (!is_kept_for(p, next))
        return norm_chunk(p, c, &norm, next, out, err);
    *out = kept_rows(&p->normed, c);
    return is_made ? LX_OK : lx_norm_rows(p->x, residual_rows(p, c).data, &norm, out, err);
}

/* k, as it comes, and v: one quantized input for both. */
static lx_status project_kv(block_pass *b, chunk c, lx_err *err)
{
    dit_pass *p = b->p;
    const dit_attention *a = &b->b->self;
    size_t mark = lx_arena_mark(p->x->arena);
    const lx_epilogue told = {.square = p->k_square ? p->k_square + c.first : NULL};
    lx_mat k = lx_mat_rows(&p->k, c.first, c.n), v = lx_mat_rows(&p->v, c.first, c.n);
    lx_act in;
    DIT_TRY(attention_input(p, c, &a->k, false, &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->k, &in, told, &k, &b->taps.k, c.first, err));
    DIT_TRY(dit_linear_run(p->x, &a->v, &in, (lx_epilogue){0}, &v, &b->taps.v, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status prepare_self(block_pass *b, lx_err *err)
{
    dit_pass *p = b->p;
    const lx_qk_norm norm = {
        .gain = &b->b->self.norm_k, .table = &p->rope, .eps = DIT_EPS, .square = p->k_square};
    const lx_kv_source from = {.k = p->k,
                               .v = p->v,
                               .n_heads = p->model->dims.n_heads,
                               .k_norm = &norm,
                               .k_room = p->k_room};
    return lx_kv_prepare_from(p->x, p->engine->memory.attention, &from, &b->self, err);
}

/* out [c.n, D] <- attention of q over kv. */
static lx_status attend(const dit_pass *p, const lx_mat *q, const lx_qk_norm *norm, const lx_kv *kv,
                        const float *key_bias, lx_mat *out, lx_err *err)
{
    DIT_TRY(lx_mat_take(p->x, p->x->rows, q->rows, q->cols, out, err));
    lx_attention_args args = {.q = *q,
                              .q_norm = norm,
                              .kv = kv,
                              .scale = (float)(1.0 / sqrt((double)p->model->dims.head_dim)),
                              .key_bias = key_bias,
                              .out = *out};
    return lx_attention(p->x, &args, err);
}

static lx_status self_attention(block_pass *b, chunk c, lx_err *err)
{
    dit_pass *p = b->p;
    const dit_attention *a = &b->b->self;
    size_t mark = lx_arena_mark(p->x->arena);
    const lx_qk_norm norm = {.gain = &a->norm_q,
                             .table = &p->rope,
                             .first_token = c.first,
                             .eps = DIT_EPS,
                             .square = p->q_square};
    lx_mat q, out, residual = residual_rows(p, c);
    lx_act in;
    DIT_TRY(lx_mat_take(p->x, p->x->rows, c.n, p->model->dims.dim, &q, err));
    size_t input_mark = lx_arena_mark(p->x->arena);
    DIT_TRY(attention_input(p, c, &a->q, is_kept_for(p, &a->k), &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->q, &in, (lx_epilogue){.square = p->q_square}, &q, &b->taps.q,
                           c.first, err));
    lx_arena_reset(p->x->arena, input_mark);
    DIT_TRY(attend(p, &q, &norm, &b->self, NULL, &out, err));
    DIT_TRY(lx_act_of(p->x, &out, &a->o.w, &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->o, &in,
                           (lx_epilogue){.gate = mod_row(p, GATE_ATTN), .add_to_out = true},
                           &residual, &b->taps.self_o, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status cross_attention(block_pass *b, chunk c, lx_err *err)
{
    dit_pass *p = b->p;
    const dit_attention *a = &b->b->cross;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_norm norm = {.kind = LX_NORM_LAYER,
                    .eps = DIT_EPS,
                    .weight = &b->b->norm3_gain,
                    .bias = &b->b->norm3_bias};
    const lx_qk_norm q_norm = {.gain = &a->norm_q, .eps = DIT_EPS, .square = p->q_square};
    lx_mat q, out, residual = residual_rows(p, c);
    lx_act in;
    DIT_TRY(lx_mat_take(p->x, p->x->rows, c.n, p->model->dims.dim, &q, err));
    size_t input_mark = lx_arena_mark(p->x->arena);
    DIT_TRY(norm_chunk(p, c, &norm, &a->q, &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->q, &in, (lx_epilogue){.square = p->q_square}, &q,
                           &b->taps.cross_q, c.first, err));
    lx_arena_reset(p->x->arena, input_mark);
    DIT_TRY(attend(p, &q, &q_norm, &b->cross, p->keys.bias, &out, err));
    DIT_TRY(lx_act_of(p->x, &out, &a->o.w, &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->o, &in, (lx_epilogue){.add_to_out = true}, &residual,
                           &b->taps.cross_o, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status feed_forward(block_pass *b, chunk c, lx_err *err)
{
    dit_pass *p = b->p;
    const dit_linear *up = &b->b->ffn0, *down = &b->b->ffn2;
    const lx_epilogue gelu = {.bias = &up->b, .activation = LX_ACTIVATION_GELU};
    size_t mark = lx_arena_mark(p->x->arena);
    lx_norm norm = {.kind = LX_NORM_LAYER,
                    .eps = DIT_EPS,
                    .shift = mod_row(p, SHIFT_FFN),
                    .scale = mod_row(p, SCALE_FFN)};
    lx_mat residual = residual_rows(p, c);
    lx_act in, hidden;
    DIT_TRY(norm_chunk(p, c, &norm, up, &in, err));
    DIT_TRY(dit_tap_linear(p->x, up, &in, &b->taps.ffn0, c.first, err));
    DIT_TRY(lx_act_take(p->x, lx_linear_act_dtype(p->x, &down->w), c.n, p->model->dims.ffn_dim,
                        &hidden, err));
    DIT_TRY(lx_linear_to_act(p->x, &in, &up->w, &gelu, &hidden, err));
    DIT_TRY(dit_linear_run(p->x, down, &hidden,
                           (lx_epilogue){.gate = mod_row(p, GATE_FFN), .add_to_out = true},
                           &residual, &b->taps.ffn2, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status open_taps(block_pass *pass, lx_err *err)
{
    const dit_pass *p = pass->p;
    const dit_block *b = pass->b;
    block_taps *t = &pass->taps;
    int64_t dim = p->model->dims.dim, ffn = p->model->dims.ffn_dim;
    const struct {
        const char *name;
        int64_t cols;
        dit_tap *tap;
    } all[] = {{b->self.q.name, dim, &t->q},        {b->self.k.name, dim, &t->k},
               {b->self.v.name, dim, &t->v},        {b->self.o.name, dim, &t->self_o},
               {b->cross.q.name, dim, &t->cross_q}, {b->cross.o.name, dim, &t->cross_o},
               {b->ffn0.name, ffn, &t->ffn0},       {b->ffn2.name, dim, &t->ffn2}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        DIT_TRY(dit_tap_open(p->x, p->run, all[i].name, p->n_tokens, all[i].cols, all[i].tap, err));
    return LX_OK;
}

static lx_status close_taps(const block_pass *b, lx_err *err)
{
    const block_taps *t = &b->taps;
    const dit_tap *const all[] = {&t->q,       &t->k,       &t->v,    &t->self_o,
                                  &t->cross_q, &t->cross_o, &t->ffn0, &t->ffn2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        DIT_TRY(dit_tap_close(b->p->x, b->p->run, all[i], err));
    return LX_OK;
}

/* Cancel is also heard between chunks: a block of the 14B can last minutes on a CPU. */
static lx_status still_wanted(const dit_pass *p, chunk c, lx_err *err)
{
    if (p->x->is_dry || c.first == 0)
        return LX_OK;
    DIT_TRY(lx_exec_pace(p->x, err));
    return lx_progress_step(p->request->progress, "block", p->done, p->total, err);
}

static chunk chunk_at(const dit_pass *p, int64_t first)
{
    int64_t left = p->n_tokens - first;
    return (chunk){first, left < p->chunk ? left : p->chunk};
}

lx_status dit_block_run(dit_pass *p, const dit_block *block, int64_t n, lx_err *err)
{
    block_pass b = {.p = p, .b = block};
    int64_t dim = p->model->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    DIT_TRY(open_taps(&b, err));
    DIT_TRY(modulation_of(p, block, err));
    for (chunk c = chunk_at(p, 0); c.n > 0; c = chunk_at(p, c.first + c.n))
        DIT_TRY(project_kv(&b, c, err));
    DIT_TRY(prepare_self(&b, err));
    DIT_TRY(dit_keys_of(p, n, &b.cross, err));
    for (chunk c = chunk_at(p, 0); c.n > 0; c = chunk_at(p, c.first + c.n)) {
        DIT_TRY(still_wanted(p, c, err));
        DIT_TRY(self_attention(&b, c, err));
        DIT_TRY(cross_attention(&b, c, err));
        DIT_TRY(feed_forward(&b, c, err));
    }
    DIT_TRY(close_taps(&b, err));
    lx_arena_reset(p->x->arena, mark);
    lx_mat residual = lx_mat_f32(p->residual, p->n_tokens, dim);
    return dit_dump(p->x, p->run, block->name, &residual, err);
}
