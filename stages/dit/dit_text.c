/*
 * dit_text.c - the prompt's part: context to keys and values of every block, once per clip
 * SPDX-License-Identifier: Apache-2.0
 *
 * Wan2.1 pads the context to text_len rows with zeros and attends to all of them. After the text
 * embedding those rows are equal, so one of them stands for all with ln(their number) added to its
 * logit: exp(s + ln m) = m exp(s). 512 keys become the prompt's 20 to 200.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "dit_model.h"

/* Dump n rows, the last of them as often as it counts, so that the shape is that of the padded
 * form. */
static lx_status dump_padded(const dit_pass *p, const char *name, const lx_mat *rows, lx_err *err)
{
    lx_exec *x = p->x;
    const dit_keys *keys = &p->keys;
    const int64_t cols = rows->cols, all = keys->n + keys->n_repeats - 1;
    float *host;
    if (x->is_dry)
        lx_run_know(p->run, name);
    if (!p->run || !lx_run_wants(p->run, name))
        return LX_OK;
    size_t mark = lx_arena_mark(x->host);
    DIT_TRY(lx_arena_take_f32(x->host, (uint64_t)all * (uint64_t)cols, &host, err));
    DIT_TRY(lx_mat_download(x, rows, host, err));
    lx_status status = LX_OK;
    if (!x->is_dry) {
        for (int64_t i = keys->n; i < all; i++)
            memcpy(host + i * cols, host + (keys->n - 1) * cols, (size_t)cols * sizeof *host);
        status = lx_run_dump(p->run, name, host, all, cols, cols, err);
    }
    lx_arena_reset(x->host, mark);
    return status;
}

/* The context with its zero rows, on the device. */
static lx_status padded_context(const dit_pass *p, lx_mat *out, lx_err *err)
{
    lx_exec *x = p->x;
    const dit_request *r = p->request;
    const size_t row = (size_t)p->model->dims.text_dim * sizeof(float);
    const size_t real = (size_t)r->n_context * row;
    DIT_TRY(lx_mat_take(x, LX_DTYPE_F32, p->keys.n, p->model->dims.text_dim, out, err));
    if (!r->bring_context)
        DIT_TRY(lx_upload(x, out->data, r->context, real, err));
    else if (!x->is_dry)
        DIT_TRY(r->bring_context(r->self, out->data, real, err));
    return lx_zero(x, (char *)out->data + real, (size_t)p->keys.n * row - real, err);
}

/* keys.embedded <- text_embedding of the context and its padding, as block 0's linear reads it: all
 * blocks quantize the same rows to the same codes. Its weights are on the device only meanwhile. */
static lx_status embed(dit_pass *p, lx_err *err)
{
    lx_exec *x = p->x;
    const dit *m = p->model;
    const int64_t n = p->keys.n, dim = m->dims.dim;
    dit_linear text0, text2;
    lx_mat context, hidden, out;
    lx_act in;
    DIT_TRY(lx_act_take(x, lx_linear_act_dtype(x, &m->blocks[0].cross.k.w), n, dim,
                        &p->keys.embedded, err));
    size_t mark = lx_arena_mark(x->arena);
    DIT_TRY(dit_linear_place(x, &m->text0, &text0, err));
    DIT_TRY(dit_linear_place(x, &m->text2, &text2, err));
    DIT_TRY(padded_context(p, &context, err));
    DIT_TRY(lx_mat_take(x, LX_DTYPE_F32, n, dim, &hidden, err));
    DIT_TRY(lx_mat_take(x, LX_DTYPE_F32, n, dim, &out, err));
    DIT_TRY(lx_act_of(x, &context, &text0.w, &in, err));
    DIT_TRY(dit_linear_run(x, &text0, &in, (lx_epilogue){.activation = LX_ACTIVATION_GELU}, &hidden,
                           NULL, 0, err));
    DIT_TRY(lx_act_of(x, &hidden, &text2.w, &in, err));
    DIT_TRY(dit_linear_run(x, &text2, &in, (lx_epilogue){0}, &out, NULL, 0, err));
    DIT_TRY(lx_quantize_rows(x, &out, &p->keys.embedded, err));
    DIT_TRY(dump_padded(p, "text_embedding", &out, err));
    lx_arena_reset(x->arena, mark);
    return LX_OK;
}

/* bias [n] <- 0, ..., 0, ln(number of rows that the last one stands for). */
static lx_status take_bias(dit_pass *p, int64_t padding, bool is_one, lx_err *err)
{
    lx_exec *x = p->x;
    float *bias; /* taken always, so that more rows never need less */
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)p->keys.n, &bias, err));
    if (!is_one)
        return LX_OK;
    float last = (float)log((double)padding);
    DIT_TRY(lx_zero(x, bias, (size_t)p->keys.n * sizeof *bias, err));
    DIT_TRY(lx_upload(x, bias + p->keys.n - 1, &last, sizeof last, err));
    p->keys.bias = bias;
    return LX_OK;
}

lx_status dit_keys_open(dit_pass *p, lx_err *err)
{
    const dit *m = p->model;
    const dit_request *r = p->request;
    if (r->n_context < 1 || r->n_context > m->options.text_len)
        return lx_fail(err, LX_EJOB,
                       "context of %" PRId64 " rows: this model takes 1 to %" PRId64
                       " (text length)",
                       r->n_context, m->options.text_len);
    int64_t padding = m->options.text_len - r->n_context, blocks = m->dims.n_blocks;
    bool is_one = padding > 0 && !m->options.is_uncollapsed;
    p->keys =
        (dit_keys){.n = r->n_context + (is_one ? 1 : padding), .n_repeats = is_one ? padding : 1};
    DIT_TRY(lx_mat_take(p->x, p->x->rows, blocks * p->keys.n, m->dims.dim, &p->keys.k, err));
    DIT_TRY(lx_mat_take(p->x, p->x->value, blocks * p->keys.n, m->dims.dim, &p->keys.v, err));
    DIT_TRY(take_bias(p, padding, is_one, err));
    return embed(p, err);
}

lx_status dit_keys_make(dit_pass *p, const dit_block *b, int64_t i, lx_err *err)
{
    const dit_attention *a = &b->cross;
    const lx_act *in = &p->keys.embedded;
    lx_mat k = lx_mat_rows(&p->keys.k, i * p->keys.n, p->keys.n);
    lx_mat v = lx_mat_rows(&p->keys.v, i * p->keys.n, p->keys.n);
    DIT_TRY(dit_linear_run(p->x, &a->k, in, (lx_epilogue){0}, &k, NULL, 0, err));
    DIT_TRY(dump_padded(p, a->k.name, &k, err));
    DIT_TRY(lx_qk_norm_rope(p->x, &k, 0, &a->norm_k, DIT_EPS, NULL, err));
    DIT_TRY(dit_linear_run(p->x, &a->v, in, (lx_epilogue){0}, &v, NULL, 0, err));
    return dump_padded(p, a->v.name, &v, err);
}

lx_status dit_keys_of(const dit_pass *p, int64_t i, lx_kv *out, lx_err *err)
{
    lx_mat k = lx_mat_rows(&p->keys.k, i * p->keys.n, p->keys.n);
    lx_mat v = lx_mat_rows(&p->keys.v, i * p->keys.n, p->keys.n);
    return lx_kv_prepare(p->x, LX_ATTENTION_PLAIN, &k, &v, p->model->dims.n_heads, out, err);
}
