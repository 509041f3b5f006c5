/*
 * dit_block.c - one transformer block on the residual
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   m = modulation + e0: rows 0 shift, 1 scale, 2 gate of attention; 3, 4, 5 of the FFN
 *           X += gate0 * o(attention(rope(rms(q a)), rope(rms(k a)), v a)), a = LN(X)(1+m1) + m0
 *           X += o'(attention(rms(q' b), keys, values)),                    b = LN(X) g + h
 *           X += gate1 * w2 gelu(w1 f),                                     f = LN(X)(1+m4) + m3
 * Order     q, k, v of all tokens first; then everything else, which is row-wise, in chunks of
 *           tokens, so that neither attention's output nor the FFN's hidden rows are ever whole.
 * Source    dit.md 2.4
 */
#include <math.h>

#include "dit_model.h"
#include "lx_attention.h"
#include "lx_elementwise.h"

enum { SHIFT_ATTN, SCALE_ATTN, GATE_ATTN, SHIFT_FFN, SCALE_FFN, GATE_FFN, N_MOD };

/* Dumps that are collected over the chunks. */
typedef struct block_taps {
    dit_tap self_o, cross_q, cross_o, ffn0, ffn2;
} block_taps;

/* The chunk at work: rows first .. first + n of the tokens. */
typedef struct chunk {
    int64_t first, n;
} chunk;

static const float *mod_row(const dit_pass *p, int row)
{
    return p->mod + row * p->model->dims.dim;
}

static float *residual_rows(const dit_pass *p, chunk c)
{
    return p->residual + c.first * p->model->dims.dim;
}

/* Take n x dim floats. Both are bounded by tensors that exist, so the product fits. */
static lx_status take_rows(const dit_pass *p, int64_t n, int64_t cols, float **out, lx_err *err)
{
    return lx_arena_take_f32(p->x->arena, (uint64_t)n * (uint64_t)cols, out, err);
}

static lx_status modulation_of(dit_pass *p, const dit_block *b, lx_err *err)
{
    const int32_t row = 0;
    DIT_TRY(lx_gather_rows(p->x, &b->modulation, &row, 1, p->mod, err));
    return lx_axpby(p->x, 1.0f, p->e0, 1.0f, N_MOD * p->model->dims.dim, p->mod, err);
}

/* LayerNorm of a chunk as `next` wants to read it; the act is taken from the arena. */
static lx_status norm_chunk(const dit_pass *p, chunk c, const lx_norm *norm, const dit_linear *next,
                            lx_act *out, lx_err *err)
{
    DIT_TRY(lx_act_take(p->x, next->act, c.n, p->model->dims.dim, out, err));
    return lx_norm_rows(p->x, residual_rows(p, c), norm, out, err);
}

static lx_status project_qkv(const dit_pass *p, const dit_attention *a, chunk c, lx_err *err)
{
    int64_t dim = p->model->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_norm norm = {.kind = LX_NORM_LAYER,
                    .eps = DIT_EPS,
                    .shift = mod_row(p, SHIFT_ATTN),
                    .scale = mod_row(p, SCALE_ATTN)};
    lx_act in; /* one quantized input for all three */
    DIT_TRY(norm_chunk(p, c, &norm, &a->q, &in, err));
    const dit_linear *const lin[] = {&a->q, &a->k, &a->v};
    for (int i = 0; i < 3; i++)
        DIT_TRY(dit_linear_run(p->x, lin[i], &in, (lx_epilogue){0},
                               p->qkv + c.first * 3 * dim + i * dim, 3 * dim, NULL, 0, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status rotate_qk(const dit_pass *p, const dit_attention *a, lx_err *err)
{
    int64_t dim = p->model->dims.dim, n = p->n_tokens;
    DIT_TRY(dit_dump(p->x, p->run, a->q.name, p->qkv, n, dim, 3 * dim, err));
    DIT_TRY(dit_dump(p->x, p->run, a->k.name, p->qkv + dim, n, dim, 3 * dim, err));
    DIT_TRY(dit_dump(p->x, p->run, a->v.name, p->qkv + 2 * dim, n, dim, 3 * dim, err));
    DIT_TRY(lx_qk_norm_rope(p->x, p->qkv, n, dim, 3 * dim, &a->norm_q, DIT_EPS, &p->rope, err));
    return lx_qk_norm_rope(p->x, p->qkv + dim, n, dim, 3 * dim, &a->norm_k, DIT_EPS, &p->rope, err);
}

static lx_attention_args attention_of(const dit_pass *p)
{
    const lx_dit_dims *d = &p->model->dims;
    return (lx_attention_args){.n_heads = d->n_heads,
                               .head_dim = d->head_dim,
                               .scale = (float)(1.0 / sqrt((double)d->head_dim)),
                               .out_stride = d->dim};
}

static lx_status self_attention(const dit_pass *p, const dit_attention *a, chunk c,
                                const dit_tap *tap, lx_err *err)
{
    int64_t dim = p->model->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_attention_args args = attention_of(p);
    lx_act in;
    args.q = p->qkv + c.first * 3 * dim;
    args.k = p->qkv + dim;
    args.v = p->qkv + 2 * dim;
    args.q_stride = args.k_stride = args.v_stride = 3 * dim;
    args.n_q = c.n;
    args.n_k = p->n_tokens;
    DIT_TRY(take_rows(p, c.n, dim, &args.out, err));
    DIT_TRY(lx_attention(p->x, &args, err));
    DIT_TRY(dit_input(p->x, &a->o, args.out, c.n, dim, &in, err));
    DIT_TRY(dit_linear_run(p->x, &a->o, &in,
                           (lx_epilogue){.gate = mod_row(p, GATE_ATTN), .add_to_out = true},
                           residual_rows(p, c), dim, tap, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status cross_attention(const dit_pass *p, int64_t n, chunk c, const block_taps *taps,
                                 lx_err *err)
{
    const dit_block *b = &p->model->blocks[n];
    int64_t dim = p->model->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_norm norm = {
        .kind = LX_NORM_LAYER, .eps = DIT_EPS, .weight = &b->norm3_gain, .bias = &b->norm3_bias};
    lx_attention_args args = attention_of(p);
    lx_act in;
    float *q;
    DIT_TRY(norm_chunk(p, c, &norm, &b->cross.q, &in, err));
    DIT_TRY(take_rows(p, c.n, dim, &q, err));
    DIT_TRY(dit_linear_run(p->x, &b->cross.q, &in, (lx_epilogue){0}, q, dim, &taps->cross_q,
                           c.first, err));
    DIT_TRY(lx_qk_norm_rope(p->x, q, c.n, dim, dim, &b->cross.norm_q, DIT_EPS, NULL, err));
    args.q = q;
    args.k = p->keys->k + n * p->keys->n * dim;
    args.v = p->keys->v + n * p->keys->n * dim;
    args.q_stride = args.k_stride = args.v_stride = dim;
    args.n_q = c.n;
    args.n_k = p->keys->n;
    args.key_bias = p->keys->bias;
    DIT_TRY(take_rows(p, c.n, dim, &args.out, err));
    DIT_TRY(lx_attention(p->x, &args, err));
    DIT_TRY(dit_input(p->x, &b->cross.o, args.out, c.n, dim, &in, err));
    DIT_TRY(dit_linear_run(p->x, &b->cross.o, &in, (lx_epilogue){.add_to_out = true},
                           residual_rows(p, c), dim, &taps->cross_o, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status feed_forward(const dit_pass *p, const dit_block *b, chunk c,
                              const block_taps *taps, lx_err *err)
{
    const lx_dit_dims *d = &p->model->dims;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_norm norm = {.kind = LX_NORM_LAYER,
                    .eps = DIT_EPS,
                    .shift = mod_row(p, SHIFT_FFN),
                    .scale = mod_row(p, SCALE_FFN)};
    lx_act in;
    float *hidden;
    DIT_TRY(take_rows(p, c.n, d->ffn_dim, &hidden, err));
    DIT_TRY(norm_chunk(p, c, &norm, &b->ffn0, &in, err));
    DIT_TRY(dit_linear_run(p->x, &b->ffn0, &in, (lx_epilogue){.activation = LX_ACTIVATION_GELU},
                           hidden, d->ffn_dim, &taps->ffn0, c.first, err));
    DIT_TRY(dit_input(p->x, &b->ffn2, hidden, c.n, d->ffn_dim, &in, err));
    DIT_TRY(dit_linear_run(p->x, &b->ffn2, &in,
                           (lx_epilogue){.gate = mod_row(p, GATE_FFN), .add_to_out = true},
                           residual_rows(p, c), d->dim, &taps->ffn2, c.first, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status open_taps(const dit_pass *p, const dit_block *b, block_taps *t, lx_err *err)
{
    int64_t n = p->n_tokens, dim = p->model->dims.dim, ffn = p->model->dims.ffn_dim;
    DIT_TRY(dit_tap_open(p->x, p->run, b->self.o.name, n, dim, &t->self_o, err));
    DIT_TRY(dit_tap_open(p->x, p->run, b->cross.q.name, n, dim, &t->cross_q, err));
    DIT_TRY(dit_tap_open(p->x, p->run, b->cross.o.name, n, dim, &t->cross_o, err));
    DIT_TRY(dit_tap_open(p->x, p->run, b->ffn0.name, n, ffn, &t->ffn0, err));
    return dit_tap_open(p->x, p->run, b->ffn2.name, n, dim, &t->ffn2, err);
}

static lx_status close_taps(const dit_pass *p, const block_taps *t, lx_err *err)
{
    const dit_tap *const all[] = {&t->self_o, &t->cross_q, &t->cross_o, &t->ffn0, &t->ffn2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        DIT_TRY(dit_tap_close(p->x, p->run, all[i], err));
    return LX_OK;
}

/* Cancel is also heard between chunks: a block of the 14B can last minutes on a CPU. */
static lx_status still_wanted(const dit_pass *p, chunk c, lx_err *err)
{
    if (p->x->is_dry || c.first == 0)
        return LX_OK;
    return lx_progress_step(p->progress, "block", p->done, p->total, err);
}

static chunk chunk_at(const dit_pass *p, int64_t first)
{
    int64_t left = p->n_tokens - first, most = p->model->options.chunk;
    return (chunk){first, left < most ? left : most};
}

lx_status dit_block_run(dit_pass *p, int64_t n, lx_err *err)
{
    const dit_block *b = &p->model->blocks[n];
    int64_t dim = p->model->dims.dim;
    size_t mark = lx_arena_mark(p->x->arena);
    block_taps taps;
    DIT_TRY(modulation_of(p, b, err));
    for (chunk c = chunk_at(p, 0); c.n > 0; c = chunk_at(p, c.first + c.n))
        DIT_TRY(project_qkv(p, &b->self, c, err));
    DIT_TRY(rotate_qk(p, &b->self, err));
    DIT_TRY(open_taps(p, b, &taps, err));
    for (chunk c = chunk_at(p, 0); c.n > 0; c = chunk_at(p, c.first + c.n)) {
        DIT_TRY(still_wanted(p, c, err));
        DIT_TRY(self_attention(p, &b->self, c, &taps.self_o, err));
        DIT_TRY(cross_attention(p, n, c, &taps, err));
        DIT_TRY(feed_forward(p, b, c, &taps, err));
    }
    DIT_TRY(close_taps(p, &taps, err));
    lx_arena_reset(p->x->arena, mark);
    return dit_dump(p->x, p->run, b->name, p->residual, p->n_tokens, dim, dim, err);
}
