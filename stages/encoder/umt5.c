/*
 * umt5.c - 24 times attention and a gated feed-forward, with a bias table per layer
 * SPDX-License-Identifier: Apache-2.0
 */
#include "umt5.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_attention.h"
#include "lx_copy.h"
#include "lx_elementwise.h"
#include "lx_linear.h"
#include "lx_norm.h"
#include "lx_patch.h"

#define EPS          1e-6f
#define MAX_DISTANCE 128.0 /* farther keys share the last bucket */
#define MIN_BUCKETS  4
#define MAX_BUCKETS  256
#define DISK_LEAST   ((uint64_t)64 << 10) /* smaller weights are not worth a read of a disk */

#define TRY(call)                                                                                  \
    do {                                                                                           \
        lx_status status_ = (call);                                                                \
        if (status_ != LX_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

/* A layer's weights that the device reads. */
enum { NORM1, Q, K, V, O, NORM2, GATE, FC1, FC2, N_PARTS };

static const char *const part_names[N_PARTS] = {
    "norm1", "attn.q", "attn.k", "attn.v", "attn.o", "norm2", "ffn.gate.0", "ffn.fc1", "ffn.fc2"};

/* One layer while it runs. */
typedef struct umt5_layer {
    const lx_weight *part; /* [N_PARTS] in device memory */
    const lx_weight *bias; /* [n_buckets, n_heads], in host memory */
} umt5_layer;

struct umt5 {
    lx_weights *weights; /* owned; all below point into it, in host memory */
    lx_t5_dims dims;
    lx_weight embedding, norm;
    lx_weight *parts;  /* owned [n_layers, N_PARTS] */
    lx_extent *places; /* owned, likewise: those that are on disk */
    lx_weight *bias;   /* owned [n_layers] */
};

/* One call of umt5_encode. */
typedef struct pass {
    const umt5 *model;
    lx_exec *x;
    const umt5_request *request;
    lx_mat stream; /* the residual, F32 [n, dim] */
} pass;

/* --- loading ---------------------------------------------------------------------------------- */

static lx_status find(const umt5 *m, const char *name, lx_weight *out, lx_err *err)
{
    if (lx_weights_find(m->weights, name, out))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: no tensor %s", lx_weights_path(m->weights), name);
}

static lx_status find_in_layer(const umt5 *m, int64_t i, const char *part, lx_weight *out,
                               lx_err *err)
{
    char name[128];
    snprintf(name, sizeof name, "blocks.%" PRId64 ".%s.weight", i, part);
    return find(m, name, out, err);
}

static lx_status find_part(umt5 *m, size_t layer, size_t part, lx_err *err)
{
    const size_t at = layer * N_PARTS + part;
    TRY(find_in_layer(m, (int64_t)layer, part_names[part], &m->parts[at], err));
    if (!m->parts[at].data)
        (void)lx_weights_extent(m->weights, m->parts[at].name, &m->places[at]);
    return LX_OK;
}

static lx_status find_layers(umt5 *m, lx_err *err)
{
    const size_t n = (size_t)m->dims.n_layers;
    m->parts = calloc(n * N_PARTS, sizeof *m->parts);
    m->places = calloc(n * N_PARTS, sizeof *m->places);
    m->bias = calloc(n, sizeof *m->bias);
    if (!m->parts || !m->places || !m->bias)
        return lx_fail(err, LX_EAGAIN, "no memory for the list of %zu layers", n);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < N_PARTS; k++)
            TRY(find_part(m, i, k, err));
        TRY(find_in_layer(m, (int64_t)i, "pos_embedding.embedding", &m->bias[i], err));
    }
    return LX_OK;
}

static lx_status load(umt5 *m, const char *path, const lx_weights_options *options, lx_err *err)
{
    TRY(lx_weights_open(&m->weights, path, options, err));
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
    return find_layers(m, err);
}

static lx_status open_with(umt5 **out, const char *path, const lx_weights_options *options,
                           lx_err *err)
{
    umt5 *m = calloc(1, sizeof *m);
    if (!m)
        return lx_fail(err, LX_EAGAIN, "no memory for the encoder's record");
    lx_status status = load(m, path, options, err);
    if (status != LX_OK) {
        umt5_close(&m);
        return status;
    }
    *out = m;
    return LX_OK;
}

static bool stays_on_disk(const char *name, uint64_t bytes, void *self)
{
    (void)self;
    return strncmp(name, "blocks.", 7) == 0 && bytes >= DISK_LEAST;
}

lx_status umt5_open(umt5 **out, const char *path, const umt5_options *options, lx_err *err)
{
    const umt5_options plain = {0}, *o = options ? options : &plain;
    lx_weights_options how = {.progress = o->progress,
                              .wants = lx_catalog_t5_wants,
                              .shared_fd = o->shared_fd,
                              .on_disk = o->is_on_disk ? stays_on_disk : NULL};
    return open_with(out, path, &how, err);
}

lx_status umt5_open_headers(umt5 **out, const char *path, lx_err *err)
{
    lx_weights_options options = {.wants = lx_catalog_t5_wants, .headers_only = true};
    return open_with(out, path, &options, err);
}

void umt5_close(umt5 **model)
{
    if (!model || !*model)
        return;
    lx_weights_close(&(*model)->weights);
    free((*model)->parts);
    free((*model)->places);
    free((*model)->bias);
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

uint64_t umt5_disk_bytes(const umt5 *m)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < m->dims.n_layers * N_PARTS; i++) {
        uint64_t bytes = 0;
        (void)lx_shape_bytes(&m->parts[i].shape, m->parts[i].dtype, NULL, &bytes, NULL);
        sum += bytes >= DISK_LEAST ? bytes : 0;
    }
    return sum;
}

lx_layers umt5_layers(const umt5 *m)
{
    return (lx_layers){.weights = m->parts,
                       .extents = m->places,
                       .n_layers = m->dims.n_layers,
                       .n_weights = N_PARTS};
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

/* rel [n_heads, 2n - 1] <- table [n_buckets, n_heads], both of the host; column j - i + n - 1. */
static lx_status fill_bias(const pass *p, const lx_weight *table, float *wide, float *rel,
                           lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const int64_t n = p->request->n, width = 2 * n - 1;
    if (!lx_widen_to_f32(wide, table->data, table->dtype, (size_t)(d->n_buckets * d->n_heads)))
        return lx_fail(err, LX_EJOB, "%s: %s is no float type", table->name,
                       lx_dtype_name(table->dtype));
    for (int64_t offset = -(n - 1); offset < n; offset++) {
        const float *row = wide + umt5_bucket(offset, d->n_buckets) * d->n_heads;
        for (int64_t head = 0; head < d->n_heads; head++)
            rel[head * width + offset + n - 1] = row[head];
    }
    return LX_OK;
}

/* The same to device memory. The host makes it: few numbers, and none of them is arithmetic. */
static lx_status expand_bias(const pass *p, const lx_weight *table, const float **out, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const uint64_t values = (uint64_t)d->n_heads * (uint64_t)(2 * p->request->n - 1);
    lx_exec *x = p->x;
    float *rel, *on_host, *wide;
    TRY(lx_arena_take_f32(x->arena, values, &rel, err));
    size_t mark = lx_arena_mark(x->host);
    on_host = rel;
    if (!lx_exec_is_host(x))
        TRY(lx_arena_take_f32(x->host, values, &on_host, err));
    TRY(lx_arena_take_f32(x->host, (uint64_t)d->n_buckets * (uint64_t)d->n_heads, &wide, err));
    if (!x->is_dry)
        TRY(fill_bias(p, table, wide, on_host, err));
    TRY(lx_upload(x, rel, on_host, (size_t)values * sizeof *rel, err));
    lx_arena_reset(x->host, mark);
    *out = rel;
    return LX_OK;
}

/* --- forward ---------------------------------------------------------------------------------- */

/* Rows of any type to the output file, if they are wanted. */
static lx_status dump(const pass *p, const char *name, const lx_mat *rows, lx_err *err)
{
    lx_exec *x = p->x;
    float *wide;
    if (!lx_run_wants(p->request->run, name))
        return LX_OK;
    size_t mark = lx_arena_mark(x->host);
    TRY(lx_arena_take_f32(x->host, (uint64_t)rows->rows * (uint64_t)rows->cols, &wide, err));
    TRY(lx_mat_download(x, rows, wide, err));
    if (x->is_dry)
        lx_run_know(p->request->run, name);
    else
        TRY(lx_run_dump(p->request->run, name, wide, rows->rows, rows->cols, rows->cols, err));
    lx_arena_reset(x->host, mark);
    return LX_OK;
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
    lx_mat plain;
    TRY(lx_mat_take(p->x, LX_DTYPE_F32, in->rows, w->shape.dim[0], &plain, err));
    TRY(lx_linear(p->x, in, w, NULL, &plain, err));
    TRY(dump(p, name, &plain, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status linear(const pass *p, const lx_act *in, const lx_weight *w,
                        const lx_epilogue *epilogue, const lx_mat *out, lx_err *err)
{
    TRY(dump_linear(p, in, w, err));
    return lx_linear(p->x, in, w, epilogue, out, err);
}

/* A linear's output of the given type, taken from the arena. */
static lx_status project(const pass *p, const lx_act *in, const lx_weight *w,
                         const lx_epilogue *epilogue, lx_dtype dtype, lx_mat *out, lx_err *err)
{
    TRY(lx_mat_take(p->x, dtype, in->rows, w->shape.dim[0], out, err));
    return linear(p, in, w, epilogue, out, err);
}

static lx_status normed(const pass *p, const lx_weight *gain, const lx_weight *next, lx_act *out,
                        lx_err *err)
{
    lx_norm norm = {.kind = LX_NORM_RMS, .eps = EPS, .weight = gain};
    lx_dtype dtype = lx_linear_act_dtype(p->x, next);
    TRY(lx_act_take(p->x, dtype, p->stream.rows, p->stream.cols, out, err));
    return lx_norm_rows(p->x, p->stream.data, &norm, out, err);
}

/* stream += O attention(RMS(stream)) */
static lx_status attention(const pass *p, const umt5_layer *layer, lx_err *err)
{
    const lx_weight *w = layer->part;
    lx_exec *x = p->x;
    lx_act h;
    lx_mat q, k, v, out;
    lx_kv kv;
    const float *rel;
    TRY(normed(p, &w[NORM1], &w[Q], &h, err));
    TRY(project(p, &h, &w[Q], NULL, x->rows, &q, err));
    TRY(project(p, &h, &w[K], NULL, x->rows, &k, err));
    TRY(project(p, &h, &w[V], NULL, x->value, &v, err));
    TRY(expand_bias(p, layer->bias, &rel, err));
    TRY(lx_mat_take(x, x->rows, q.rows, q.cols, &out, err));
    /* Scores are not scaled and large: INT8 keys would not do. */
    TRY(lx_kv_prepare(x, LX_ATTENTION_PLAIN, &k, &v, p->model->dims.n_heads, &kv, err));
    const lx_attention_args args = {.q = q,
                                    .kv = &kv,
                                    .scale = 1, /* T5 folds it into the weights */
                                    .rel = rel,
                                    .out = out};
    TRY(lx_attention(x, &args, err));
    TRY(lx_act_of(x, &out, &w[O], &h, err));
    return linear(p, &h, &w[O], &(lx_epilogue){.add_to_out = true}, &p->stream, err);
}

/* stream += fc2(fc1(RMS(stream)) * gelu(gate(RMS(stream)))) */
static lx_status feed_forward(const pass *p, const umt5_layer *layer, lx_err *err)
{
    const lx_epilogue gelu = {.activation = LX_ACTIVATION_GELU};
    const lx_weight *w = layer->part;
    const lx_dtype rows = p->x->rows;
    lx_act h;
    lx_mat gate, up;
    TRY(normed(p, &w[NORM2], &w[GATE], &h, err));
    TRY(project(p, &h, &w[GATE], &gelu, rows, &gate, err));
    TRY(project(p, &h, &w[FC1], &(lx_epilogue){.mul = &gate}, rows, &up, err));
    TRY(lx_act_of(p->x, &up, &w[FC2], &h, err));
    return linear(p, &h, &w[FC2], &(lx_epilogue){.add_to_out = true}, &p->stream, err);
}

/* With the layer's weights on the device. */
static lx_status compute(const pass *p, const umt5_layer *layer, lx_err *err)
{
    size_t mark = lx_arena_mark(p->x->arena);
    TRY(attention(p, layer, err));
    lx_arena_reset(p->x->arena, mark);
    TRY(feed_forward(p, layer, err));
    lx_arena_reset(p->x->arena, mark);
    return LX_OK;
}

static lx_status run_layer(const pass *p, int64_t i, lx_err *err)
{
    umt5_layer layer = {.bias = &p->model->bias[i]};
    char name[64];
    TRY(lx_residency_enter(p->request->layers, i, &layer.part, err));
    lx_status status = compute(p, &layer, err);
    lx_status left = lx_residency_leave(p->request->layers, i, status == LX_OK ? err : NULL);
    if (status != LX_OK || left != LX_OK)
        return status != LX_OK ? status : left;
    snprintf(name, sizeof name, "blocks.%" PRId64, i);
    TRY(dump(p, name, &p->stream, err));
    TRY(lx_exec_pace(p->x, err));
    if (p->x->is_dry)
        return LX_OK;
    return lx_progress_step(p->request->progress, "layer", (uint64_t)i + 1,
                            (uint64_t)p->model->dims.n_layers, err);
}

/* The last norm, in place; then to the caller. */
static lx_status finish(const pass *p, float *context, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const int64_t n = p->request->n;
    lx_weight gain;
    TRY(lx_weight_place(p->x, &p->model->norm, &gain, err));
    lx_norm norm = {.kind = LX_NORM_RMS, .eps = EPS, .weight = &gain};
    lx_act out = {.dtype = LX_DTYPE_F32, .rows = n, .cols = d->dim, .data = p->stream.data};
    TRY(lx_norm_rows(p->x, p->stream.data, &norm, &out, err));
    TRY(dump(p, "norm", &p->stream, err));
    int64_t first = -1;
    TRY(lx_find_nonfinite(p->x, p->stream.data, n * d->dim, &first, err));
    if (first >= 0)
        return lx_fail(err, LX_EJOB,
                       "%s: the context is not finite, first at token %" PRId64 ", column %" PRId64
                       "; the weights are damaged",
                       lx_weights_path(p->model->weights), first / d->dim, first % d->dim);
    return lx_download(p->x, context, p->stream.data, (size_t)(n * d->dim) * sizeof *context, err);
}

/* On the CPU the residual lies where the context will be. */
static lx_status take_stream(pass *p, float *context, lx_err *err)
{
    const int64_t n = p->request->n, dim = p->model->dims.dim;
    if (n < 1 || n > INT32_MAX)
        return lx_fail(err, LX_EJOB, "%" PRId64 " token ids: at least one is needed", n);
    p->stream = lx_mat_f32(context, n, dim);
    return lx_exec_is_host(p->x) ? LX_OK : lx_mat_take(p->x, LX_DTYPE_F32, n, dim, &p->stream, err);
}

static lx_status encode(pass *p, float *context, lx_err *err)
{
    const lx_t5_dims *d = &p->model->dims;
    const umt5_request *r = p->request;
    TRY(take_stream(p, context, err));
    TRY(lx_gather_rows(p->x, &p->model->embedding, r->ids, r->n, p->stream.data, err));
    TRY(dump(p, "token_embedding", &p->stream, err));
    const int64_t n_layers = r->n_layers && r->n_layers < d->n_layers ? r->n_layers : d->n_layers;
    for (int64_t i = 0; i < n_layers; i++)
        TRY(run_layer(p, i, err));
    return finish(p, context, err);
}

lx_status umt5_encode(const umt5 *model, lx_exec *x, const umt5_request *request, float *context,
                      lx_err *err)
{
    pass p = {.model = model, .x = x, .request = request};
    size_t mark = lx_arena_mark(x->arena), host_mark = lx_arena_mark(x->host);
    lx_status status = encode(&p, context, err);
    lx_arena_reset(x->host, host_mark);
    lx_arena_reset(x->arena, mark);
    return status;
}
