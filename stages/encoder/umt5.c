/*
 * umt5.c - 24 times attention and a gated feed-forward, with a bias table per layer
 * SPDX-License-Identifier: Apache-2.0
 */
#include "umt5.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "lx_attention.h"
#include "lx_elementwise.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_patch.h"

#define EPS          1e-6f
#define MAX_DISTANCE 128.0 /* farther keys share the last bucket */
#define MIN_BUCKETS  4
#define MAX_BUCKETS  256

#define TRY(call)                                                                                  \
    do {                                                                                           \
        lx_status status_ = (call);                                                                \
        if (status_ != LX_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

typedef struct umt5_layer { /* borrowed from the weights */
    lx_weight norm1, q, k, v, o, bias, norm2, gate, fc1, fc2;
} umt5_layer;

struct umt5 {
    lx_weights *weights; /* owned */
    lx_t5_dims dims;
    lx_weight embedding, norm;
    umt5_layer *layers; /* owned [n_layers] */
};

/* One call of umt5_encode. */
typedef struct pass {
    const umt5 *model;
    lx_exec *x;
    const umt5_request *request;
    float *stream; /* the residual, [n, dim] */
} pass;

/* --- loading ---------------------------------------------------------------------------------- */

static lx_status find(const umt5 *m, const char *name, lx_weight *out, lx_err *err)
{
    if (lx_weights_find(m->weights, name, out))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: no tensor %s", lx_weights_path(m->weights), name);
}

static lx_status find_layer(const umt5 *m, int64_t i, umt5_layer *layer, lx_err *err)
{
    const struct {
        const char *name;
        lx_weight *out;
    } parts[] = {
        {"norm1", &layer->norm1}, {"attn.q", &layer->q},
        {"attn.k", &layer->k},    {"attn.v", &layer->v},
        {"attn.o", &layer->o},    {"pos_embedding.embedding", &layer->bias},
        {"norm2", &layer->norm2}, {"ffn.gate.0", &layer->gate},
        {"ffn.fc1", &layer->fc1}, {"ffn.fc2", &layer->fc2},
    };
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        char name[128];
        snprintf(name, sizeof name, "blocks.%" PRId64 ".%s.weight", i, parts[k].name);
        TRY(find(m, name, parts[k].out, err));
    }
    return LX_OK;
}

static lx_status load(umt5 *m, const char *path, const lx_progress *progress, lx_err *err)
{
    lx_weights_options options = {.progress = progress, .wants = lx_catalog_t5_wants};
    TRY(lx_weights_open(&m->weights, path, &options, err));
    TRY(lx_catalog_t5(m->weights, &m->dims, err));
    const lx_t5_dims *d = &m->dims;
    if (d->n_heads < 1 || d->dim_attn % d->n_heads != 0 || d->n_buckets < MIN_BUCKETS ||
        d->n_buckets > MAX_BUCKETS || d->n_buckets % 2 != 0)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %" PRId64 " heads for a width of %" PRId64 ", %" PRId64
                       " position buckets: not a UMT5 encoder",
                       path, d->n_heads, d->dim_attn, d->n_buckets);
    TRY(find(m, "token_embedding.weight", &m->embedding, err));
    TRY(find(m, "norm.weight", &m->norm, err));
    m->layers = calloc((size_t)d->n_layers, sizeof *m->layers);
    if (!m->layers)
        return lx_fail(err, LX_EAGAIN, "no memory for the list of %" PRId64 " layers", d->n_layers);
    for (int64_t i = 0; i < d->n_layers; i++)
        TRY(find_layer(m, i, &m->layers[i], err));
    return LX_OK;
}

lx_status umt5_open(umt5 **out, const char *path, const lx_progress *progress, lx_err *err)
{
    umt5 *m = calloc(1, sizeof *m);
    if (!m)
        return lx_fail(err, LX_EAGAIN, "no memory for the encoder's record");
    lx_status status = load(m, path, progress, err);
    if (status != LX_OK) {
        umt5_close(&m);
        return status;
    }
    *out = m;
    return LX_OK;
}

void umt5_close(umt5 **model)
{
    if (!model || !*model)
        return;
    lx_weights_close(&(*model)->weights);
    free((*model)->layers);
    free(*model);
    *model = NULL;
}

const lx_t5_dims *umt5_dims(const umt5 *model)
{
    return &model->dims;
}

const lx_weights *umt5_weights(const umt5 *model)
{
    return model->weights;
}

/* --- relative positions ----------------------------------------------------------------------- */

int umt5_bucket(int64_t offset, int64_t n_buckets)
{
    const int64_t half = n_buckets / 2, exact = half / 2; /* 16 and 8 in UMT5 */
    const int64_t base = offset > 0 ? half : 0, d = offset > 0 ? offset : -offset;
    if (d < exact)
        return (int)(base + d);
    /* The thresholds at 16, 32 and 64 are exact powers: the small addend keeps them there. */
    double step = log((double)d / (double)exact) / log(MAX_DISTANCE / (double)exact);
    int64_t bucket = exact + (int64_t)(step * (double)(half - exact) + 1e-9);
    return (int)(base + (bucket < half ? bucket : half - 1));
}

/* rel [n_heads, 2n - 1] <- table [n_buckets, n_heads]; column j - i + n - 1. */
static lx_status expand_bias(const pass *p, const lx_weight *table, float *rel, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const int64_t n = p->request->n, width = 2 * n - 1;
    size_t mark = lx_arena_mark(p->x->arena);
    float *wide;
    uint64_t values = (uint64_t)d->n_buckets * (uint64_t)d->n_heads;
    TRY(lx_arena_take_f32(p->x->arena, values, &wide, err));
    if (!p->x->is_dry) {
        if (!lx_widen_to_f32(wide, table->data, table->dtype, (size_t)values))
            return lx_fail(err, LX_EJOB, "%s: %s is no float type", table->name,
                           lx_dtype_name(table->dtype));
        for (int64_t offset = -(n - 1); offset < n; offset++) {
            const float *row = wide + umt5_bucket(offset, d->n_buckets) * d->n_heads;
            for (int64_t head = 0; head < d->n_heads; head++)
                rel[head * width + offset + n - 1] = row[head];
        }
    }
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

/* --- forward ---------------------------------------------------------------------------------- */

static lx_status dump(const pass *p, const char *name, const float *data, int64_t cols, lx_err *err)
{
    if (p->x->is_dry) {
        lx_run_know(p->request->run, name);
        return LX_OK;
    }
    return lx_run_dump(p->request->run, name, data, p->request->n, cols, cols, err);
}

/* A wanted linear is run once more without its epilogue: what the layer of that name makes. */
static lx_status dump_linear(const pass *p, const lx_act *in, const lx_weight *w, lx_err *err)
{
    char name[128];
    int length = snprintf(name, sizeof name, "%s", w->name);
    if (length > 7 && length < (int)sizeof name)
        name[length - 7] = 0; /* without ".weight" */
    if (!lx_run_wants(p->request->run, name))
        return LX_OK;
    size_t mark = lx_arena_mark(p->x->arena);
    const int64_t cols = w->shape.dim[0];
    float *plain;
    TRY(lx_arena_take_f32(p->x->arena, (uint64_t)in->rows * (uint64_t)cols, &plain, err));
    TRY(lx_linear(p->x, in, w, NULL, plain, cols, err));
    TRY(dump(p, name, plain, cols, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status linear(const pass *p, const lx_act *in, const lx_weight *w,
                        const lx_epilogue *epilogue, float *out, lx_err *err)
{
    TRY(dump_linear(p, in, w, err));
    return lx_linear(p->x, in, w, epilogue, out, w->shape.dim[0], err);
}

/* Rows of f32 as the linear wants them: as they are, or quantized. */
static lx_status as_input_of(const pass *p, const lx_weight *w, float *rows, int64_t cols,
                             lx_act *out, lx_err *err)
{
    const int64_t n = p->request->n;
    if (lx_linear_act_dtype(w) == LX_DTYPE_F32) {
        *out = (lx_act){.dtype = LX_DTYPE_F32, .rows = n, .cols = cols, .data = rows};
        return LX_OK;
    }
    TRY(lx_act_take(p->x, lx_linear_act_dtype(w), n, cols, out, err));
    return lx_quantize_rows(p->x, rows, out, err);
}

static lx_status normed(const pass *p, const lx_weight *gain, const lx_weight *next, lx_act *out,
                        lx_err *err)
{
    lx_norm norm = {.kind = LX_NORM_RMS, .eps = EPS, .weight = gain};
    TRY(lx_act_take(p->x, lx_linear_act_dtype(next), p->request->n, p->model->dims.dim, out, err));
    return lx_norm_rows(p->x, p->stream, &norm, out, err);
}

/* stream += O attention(RMS(stream)) */
static lx_status attention(const pass *p, const umt5_layer *layer, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const int64_t n = p->request->n, width = d->dim_attn;
    const uint64_t values = (uint64_t)n * (uint64_t)width;
    const lx_weight *const project[] = {&layer->q, &layer->k, &layer->v};
    lx_act h;
    float *qkv[3], *rel, *out;
    TRY(normed(p, &layer->norm1, &layer->q, &h, err));
    for (int i = 0; i < 3; i++) {
        TRY(lx_arena_take_f32(p->x->arena, values, &qkv[i], err));
        TRY(linear(p, &h, project[i], NULL, qkv[i], err));
    }
    TRY(lx_arena_take_f32(p->x->arena, (uint64_t)d->n_heads * (uint64_t)(2 * n - 1), &rel, err));
    TRY(expand_bias(p, &layer->bias, rel, err));
    TRY(lx_arena_take_f32(p->x->arena, values, &out, err));
    const lx_attention_args args = {.q = qkv[0],
                                    .k = qkv[1],
                                    .v = qkv[2],
                                    .q_stride = width,
                                    .k_stride = width,
                                    .v_stride = width,
                                    .n_q = n,
                                    .n_k = n,
                                    .n_heads = d->n_heads,
                                    .head_dim = width / d->n_heads,
                                    .scale = 1, /* T5 folds it into the weights */
                                    .rel = rel,
                                    .out = out,
                                    .out_stride = width};
    TRY(lx_attention(p->x, &args, err));
    TRY(as_input_of(p, &layer->o, out, width, &h, err));
    return linear(p, &h, &layer->o, &(lx_epilogue){.add_to_out = true}, p->stream, err);
}

/* stream += fc2(fc1(RMS(stream)) * gelu(gate(RMS(stream)))) */
static lx_status feed_forward(const pass *p, const umt5_layer *layer, lx_err *err)
{
    const int64_t width = p->model->dims.dim_ffn;
    const uint64_t values = (uint64_t)p->request->n * (uint64_t)width;
    lx_act h;
    float *gate, *up;
    TRY(normed(p, &layer->norm2, &layer->gate, &h, err));
    TRY(lx_arena_take_f32(p->x->arena, values, &gate, err));
    TRY(lx_arena_take_f32(p->x->arena, values, &up, err));
    TRY(linear(p, &h, &layer->gate, &(lx_epilogue){.activation = LX_ACTIVATION_GELU}, gate, err));
    TRY(linear(p, &h, &layer->fc1, &(lx_epilogue){.mul = gate}, up, err));
    TRY(as_input_of(p, &layer->fc2, up, width, &h, err));
    return linear(p, &h, &layer->fc2, &(lx_epilogue){.add_to_out = true}, p->stream, err);
}

static lx_status run_layer(const pass *p, int64_t i, lx_err *err)
{
    const umt5_layer *layer = &p->model->layers[i];
    char name[64];
    size_t mark = lx_arena_mark(p->x->arena);
    TRY(attention(p, layer, err));
    lx_arena_reset(p->x->arena, mark);
    TRY(feed_forward(p, layer, err));
    lx_arena_reset(p->x->arena, mark);
    snprintf(name, sizeof name, "blocks.%" PRId64, i);
    TRY(dump(p, name, p->stream, p->model->dims.dim, err));
    if (p->x->is_dry)
        return LX_OK;
    return lx_progress_step(p->request->progress, "layer", (uint64_t)i + 1,
                            (uint64_t)p->model->dims.n_layers, err);
}

static lx_status finish(const pass *p, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const int64_t n = p->request->n;
    lx_norm norm = {.kind = LX_NORM_RMS, .eps = EPS, .weight = &p->model->norm};
    lx_act out = {.dtype = LX_DTYPE_F32, .rows = n, .cols = d->dim, .data = p->stream};
    TRY(lx_norm_rows(p->x, p->stream, &norm, &out, err));
    TRY(dump(p, "norm", p->stream, d->dim, err));
    int64_t first = -1;
    TRY(lx_find_nonfinite(p->x, p->stream, n * d->dim, &first, err));
    if (first >= 0)
        return lx_fail(err, LX_EJOB,
                       "%s: the context is not finite, first at token %" PRId64 ", column %" PRId64
                       "; the weights are damaged",
                       lx_weights_path(p->model->weights), first / d->dim, first % d->dim);
    return LX_OK;
}

static lx_status encode(const pass *p, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const umt5_request *r = p->request;
    if (r->n < 1 || r->n > INT32_MAX)
        return lx_fail(err, LX_EJOB, "%" PRId64 " token ids: at least one is needed", r->n);
    TRY(lx_gather_rows(p->x, &p->model->embedding, r->ids, r->n, p->stream, err));
    TRY(dump(p, "token_embedding", p->stream, d->dim, err));
    const int64_t n_layers = r->n_layers && r->n_layers < d->n_layers ? r->n_layers : d->n_layers;
    for (int64_t i = 0; i < n_layers; i++)
        TRY(run_layer(p, i, err));
    return finish(p, err);
}

lx_status umt5_encode(const umt5 *model, lx_exec *x, const umt5_request *request, float *context,
                      lx_err *err)
{
    pass p = {.model = model, .x = x, .request = request, .stream = context};
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = encode(&p, err);
    lx_arena_reset(x->arena, mark);
    return status;
}
