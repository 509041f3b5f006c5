/*
 * dit_text.c - the prompt's part: context to keys and values of every block, once per clip
 * SPDX-License-Identifier: Apache-2.0
 *
 * Wan2.1 pads the context to text_len rows with zeros and attends to all of them. After the text
 * embedding those rows are equal, so one of them stands for all with ln(their number) added to its
 * logit: exp(s + ln m) = m exp(s) (dit.md 3). 512 keys become the prompt's 20 to 200.
 */
#include <math.h>
#include <string.h>

#include "dit_model.h"

/* Dump n rows, the last of them as often as it counts, so that the shape is that of the padded
 * form. */
static lx_status dump_padded(lx_exec *x, lx_run *run, const char *name, const float *rows,
                             const dit_keys *keys, int64_t cols, lx_err *err)
{
    size_t mark = lx_arena_mark(x->arena);
    dit_tap tap;
    DIT_TRY(dit_tap_open(x, run, name, keys->n + keys->n_repeats - 1, cols, &tap, err));
    if (tap.data && !x->is_dry)
        for (int64_t i = 0; i < tap.rows; i++) {
            int64_t from = i < keys->n ? i : keys->n - 1;
            memcpy(tap.data + i * cols, rows + from * cols, (size_t)cols * sizeof *rows);
        }
    lx_status status = dit_tap_close(x, run, &tap, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

/* C [n, D] = text_embedding of the context and its padding. */
static lx_status embed(const dit *m, lx_exec *x, const dit_request *r, const dit_keys *keys,
                       float **out, lx_err *err)
{
    uint64_t n = (uint64_t)keys->n, dim = (uint64_t)m->dims.dim, text = (uint64_t)m->dims.text_dim;
    float *context, *hidden;
    lx_act in;
    DIT_TRY(lx_arena_take_f32(x->arena, n * dim, out, err));
    size_t mark = lx_arena_mark(x->arena);
    DIT_TRY(lx_arena_take_f32(x->arena, n * text, &context, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n * dim, &hidden, err));
    if (!x->is_dry) {
        size_t real = (size_t)r->n_context * text;
        memcpy(context, r->context, real * sizeof *context);
        memset(context + real, 0, ((size_t)(n * text) - real) * sizeof *context);
    }
    DIT_TRY(dit_input(x, &m->text0, context, keys->n, m->dims.text_dim, &in, err));
    DIT_TRY(dit_linear_run(x, &m->text0, &in, (lx_epilogue){.activation = LX_ACTIVATION_GELU},
                           hidden, m->dims.dim, NULL, 0, err));
    DIT_TRY(dit_input(x, &m->text2, hidden, keys->n, m->dims.dim, &in, err));
    DIT_TRY(dit_linear_run(x, &m->text2, &in, (lx_epilogue){0}, *out, m->dims.dim, NULL, 0, err));
    lx_arena_reset(x->arena, mark);
    return dump_padded(x, r->run, "text_embedding", *out, keys, m->dims.dim, err);
}

static lx_status block_keys(const dit *m, lx_exec *x, const dit_request *r, const dit_keys *keys,
                            int64_t i, const lx_act *in, lx_err *err)
{
    const dit_attention *a = &m->blocks[i].cross;
    int64_t dim = m->dims.dim;
    float *k = keys->k + i * keys->n * dim, *v = keys->v + i * keys->n * dim;
    DIT_TRY(dit_linear_run(x, &a->k, in, (lx_epilogue){0}, k, dim, NULL, 0, err));
    DIT_TRY(dump_padded(x, r->run, a->k.name, k, keys, dim, err));
    DIT_TRY(lx_qk_norm_rope(x, k, keys->n, dim, dim, &a->norm_k, DIT_EPS, NULL, err));
    DIT_TRY(dit_linear_run(x, &a->v, in, (lx_epilogue){0}, v, dim, NULL, 0, err));
    DIT_TRY(dump_padded(x, r->run, a->v.name, v, keys, dim, err));
    if (x->is_dry)
        return LX_OK;
    return lx_progress_step(r->progress, "layer", (uint64_t)i + 1, (uint64_t)m->dims.n_blocks, err);
}

static lx_status take_keys(const dit *m, lx_exec *x, const dit_request *r, dit_keys *out,
                           lx_err *err)
{
    int64_t padding = m->options.text_len - r->n_context;
    bool is_one = padding > 0 && !m->options.is_uncollapsed;
    dit_keys keys = {.n = r->n_context + (is_one ? 1 : padding), .n_repeats = is_one ? padding : 1};
    /* dim and n_blocks are bounded by a file's size, n by text_len: the product fits. */
    uint64_t n = (uint64_t)m->dims.n_blocks * (uint64_t)keys.n * (uint64_t)m->dims.dim;
    DIT_TRY(lx_arena_take_f32(x->arena, n, &keys.k, err));
    DIT_TRY(lx_arena_take_f32(x->arena, n, &keys.v, err));
    float *bias; /* taken always, so that more rows never need less */
    DIT_TRY(lx_arena_take_f32(x->arena, (uint64_t)keys.n, &bias, err));
    if (is_one && !x->is_dry) {
        memset(bias, 0, (size_t)keys.n * sizeof *bias);
        bias[keys.n - 1] = (float)log((double)padding);
    }
    keys.bias = is_one ? bias : NULL;
    *out = keys;
    return LX_OK;
}

lx_status dit_keys_make(const dit *m, lx_exec *x, const dit_request *r, dit_keys *out, lx_err *err)
{
    float *embedded;
    lx_act in;
    DIT_TRY(take_keys(m, x, r, out, err));
    size_t mark = lx_arena_mark(x->arena);
    DIT_TRY(embed(m, x, r, out, &embedded, err));
    /* Every block quantizes the same rows to the same codes: once is enough. */
    DIT_TRY(dit_input(x, &m->blocks[0].cross.k, embedded, out->n, m->dims.dim, &in, err));
    int64_t n_blocks = r->n_blocks ? r->n_blocks : m->dims.n_blocks;
    for (int64_t i = 0; i < n_blocks; i++)
        DIT_TRY(block_keys(m, x, r, out, i, &in, err));
    lx_arena_reset(x->arena, mark);
    return LX_OK;
}
