/*
 * catalog.c - the expected tensors of DiT, UMT5 encoder and VAE decoder, checked one by one
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each model's list is produced by one function that "expects" tensor after tensor with the shape
 * that follows from the dimensions; the dimensions themselves come from a few of the shapes.
 * Names and shapes: Wan2.1 wan/modules/{model,t5,vae}.py, LightX2V's quantized layouts.
 */
#include "lx_catalog.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog_internal.h"
#include "lx_limits.h"
#include "lx_log.h"
#include "weights_internal.h"

#define HEAD_DIM     128  /* of the DiT; the three-axis split of RoPE is made for it */
#define MAX_BLOCKS   1000 /* more is no model */
#define TEXT_ROOM    700  /* of a list in a message */
#define KNOWN_LARGE  5120 /* Wan2.1 14B: width ... */
#define KNOWN_BLOCKS 40   /* ... and blocks */

/* --- a check in progress --------------------------------------------------------------------- */

typedef struct check {
    const lx_weights *weights;
    const char *model;
    bool *is_met;  /* owned [count] */
    char *missing; /* TEXT_ROOM: names, comma between */
    size_t n_missing, n_wrong;
    char wrong[TEXT_ROOM]; /* the first tensor that is there but unfit */
    size_t n_int8, n_fp8;
} check;

/* What a tensor may be stored as. */
typedef enum role {
    ROLE_FLOAT, /* BF16, F16, F32 */
    ROLE_LINEAR /* those, or I8/F8 with a scale per output channel */
} role;

static void list_name(char *text, size_t *n, const char *name)
{
    size_t at = strlen(text);
    (*n)++;
    if (at + 200 + 8 < TEXT_ROOM)
        snprintf(text + at, TEXT_ROOM - at, "%s%.200s", at ? ", " : "", name);
    else if (strcmp(text + at - 3, "...") != 0) /* at is large here, and there is room for it */
        memcpy(text + at, " ...", 5);
}

/* Index of a name in the weights, or SIZE_MAX. */
static size_t find_index(const lx_weights *w, const char *name)
{
    size_t low = 0, high = lx_weights_count(w);
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(lx_weights_at(w, middle).name, name);
        if (!order)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return SIZE_MAX;
}

static void wrong(check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void wrong(check *c, const char *format, ...)
{
    if (c->n_wrong++)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->wrong, sizeof c->wrong, format, args);
    va_end(args);
}

static void check_dtype(check *c, const lx_weight *w, role r)
{
    bool is_float =
        w->dtype == LX_DTYPE_F32 || w->dtype == LX_DTYPE_BF16 || w->dtype == LX_DTYPE_F16;
    bool is_code = lx_dtype_is_code(w->dtype);
    const char *type = lx_dtype_name(w->dtype);
    if (is_float && w->scale)
        wrong(c, "%s is %s and has a weight_scale; only I8 and F8_E4M3 are scaled", w->name, type);
    else if (is_code && r == ROLE_LINEAR && !w->scale)
        wrong(c,
              "%s is %s without %s_scale; a plain cast to 8 bits is not supported, use the "
              "checkpoint with scales",
              w->name, type, w->name);
    else if (!is_float && !(is_code && r == ROLE_LINEAR))
        wrong(c, "%s is %s; allowed are BF16, F16, F32%s", w->name, type,
              r == ROLE_LINEAR ? ", I8 and F8_E4M3 with weight_scale" : "");
    c->n_int8 += w->dtype == LX_DTYPE_I8;
    c->n_fp8 += w->dtype == LX_DTYPE_F8_E4M3;
}

/* One tensor of the list: there, of this shape, of a fitting type, all values finite. */
static void expect(check *c, const char *name, role r, lx_shape shape)
{
    size_t i = find_index(c->weights, name);
    if (i == SIZE_MAX) {
        list_name(c->missing, &c->n_missing, name);
        return;
    }
    lx_weight w = lx_weights_at(c->weights, i);
    char found[128], wanted[128];
    c->is_met[i] = true;
    if (!lx_shape_equal(&w.shape, &shape))
        wrong(c, "%s has shape %s, expected %s", name, lx_shape_text(&w.shape, found, sizeof found),
              lx_shape_text(&shape, wanted, sizeof wanted));
    for (int d = 0; d < w.shape.n_dims; d++)
        if (!w.shape.dim[d]) /* a dimension of 0 can be consistent, but is no model */
            wrong(c, "%s has shape %s: it is empty", name,
                  lx_shape_text(&w.shape, found, sizeof found));
    check_dtype(c, &w, r);
    uint64_t bad = lx_weights_first_bad(c->weights, i);
    if (bad != UINT64_MAX)
        wrong(c, "%s: element %" PRIu64 " is not finite (NaN or infinity): the file is damaged",
              name, bad);
}

static void expect_at(check *c, role r, lx_shape shape, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void expect_at(check *c, role r, lx_shape shape, const char *format, ...)
{
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    expect(c, name, r, shape);
}

/* NAME.weight [out, in] and NAME.bias [out]. */
static void expect_linear(check *c, const char *name, role r, int64_t out, int64_t in)
{
    expect_at(c, r, LX_SHAPE(out, in), "%s.weight", name);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(out), "%s.bias", name);
}

static lx_status report(const check *c, lx_err *err)
{
    const char *path = lx_weights_path(c->weights);
    if (c->n_missing)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %zu tensors of the %s are missing: %s (is the download complete? "
                       "`lx2v doctor --weights DIR` lists files)",
                       path, c->n_missing, c->model, c->missing);
    if (c->n_wrong)
        return lx_fail(err, LX_ECONFIG, "%s: %s%s", path, c->wrong,
                       c->n_wrong > 1 ? " (and more tensors are wrong)" : "");
    char extra[TEXT_ROOM] = "";
    size_t n_extra = 0;
    for (size_t i = 0; i < lx_weights_count(c->weights); i++)
        if (!c->is_met[i])
            list_name(extra, &n_extra, lx_weights_at(c->weights, i).name);
    if (n_extra)
        return lx_fail(err, LX_ECONFIG, "%s: %zu tensors that a %s does not have: %s", path,
                       n_extra, c->model, extra);
    if (c->n_int8 && c->n_fp8)
        return lx_fail(err, LX_ECONFIG, "%s: %zu I8 and %zu F8_E4M3 weights in one checkpoint",
                       path, c->n_int8, c->n_fp8);
    return LX_OK;
}

static lx_status check_open(check *c, const lx_weights *weights, const char *model,
                            bool (*wants)(const char *, void *), lx_err *err)
{
    size_t n = lx_weights_count(weights);
    *c = (check){.weights = weights,
                 .model = model,
                 .is_met = calloc(n ? n : 1, sizeof *c->is_met),
                 .missing = calloc(1, TEXT_ROOM)};
    if (!c->is_met || !c->missing)
        return lx_fail(err, LX_EAGAIN, "out of memory for %zu flags", n);
    for (size_t i = 0; i < n; i++) /* what the model does not want is not extra either */
        c->is_met[i] = !wants(lx_weights_at(weights, i).name, NULL);
    return LX_OK;
}

static void check_close(check *c)
{
    free(c->is_met);
    free(c->missing);
}

static lx_quant quant_of(const check *c)
{
    return c->n_int8 ? LX_QUANT_INT8 : c->n_fp8 ? LX_QUANT_FP8 : LX_QUANT_NONE;
}

/* Dimension d of a tensor; 0 if it is absent. A wrong rank is found when the shape is compared. */
static int64_t dim_of(const lx_weights *w, const char *name, int d)
{
    lx_weight found;
    return lx_weights_find(w, name, &found) && d < found.shape.n_dims ? found.shape.dim[d] : 0;
}

/* 1 + the largest N of "blocks.N."; a hole shows as missing tensors. */
static int64_t count_blocks(const lx_weights *w)
{
    int64_t n = 0;
    for (size_t i = 0; i < lx_weights_count(w); i++) {
        const char *name = lx_weights_at(w, i).name;
        if (strncmp(name, "blocks.", 7))
            continue;
        size_t digits = strspn(name + 7, "0123456789");
        if (!digits || digits > 4 || name[7 + digits] != '.')
            continue;
        int64_t k = strtol(name + 7, NULL, 10) + 1;
        n = k > n ? k : n;
    }
    return n;
}

/* --- DiT ------------------------------------------------------------------------------------- */

bool lx_catalog_dit_wants(const char *name, void *unused)
{
    (void)unused;
    /* Prefixes only: "vace_blocks.0." contains "blocks.0.". */
    return strncmp(name, "vace_", 5) != 0;
}

static void expect_dit_block(check *c, const lx_dit_dims *d, int64_t n)
{
    static const char *const attention[] = {"self_attn", "cross_attn"};
    static const char letters[] = {'q', 'k', 'v', 'o'};
    char name[128];
    expect_at(c, ROLE_FLOAT, LX_SHAPE(1, 6, d->dim), "blocks.%" PRId64 ".modulation", n);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(d->dim), "blocks.%" PRId64 ".norm3.weight", n);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(d->dim), "blocks.%" PRId64 ".norm3.bias", n);
    for (int a = 0; a < 2; a++) {
        for (int l = 0; l < 4; l++) {
            snprintf(name, sizeof name, "blocks.%" PRId64 ".%s.%c", n, attention[a], letters[l]);
            expect_linear(c, name, ROLE_LINEAR, d->dim, d->dim);
        }
        for (int l = 0; l < 2; l++)
            expect_at(c, ROLE_FLOAT, LX_SHAPE(d->dim), "blocks.%" PRId64 ".%s.norm_%c.weight", n,
                      attention[a], letters[l]);
    }
    snprintf(name, sizeof name, "blocks.%" PRId64 ".ffn.0", n);
    expect_linear(c, name, ROLE_LINEAR, d->ffn_dim, d->dim);
    snprintf(name, sizeof name, "blocks.%" PRId64 ".ffn.2", n);
    expect_linear(c, name, ROLE_LINEAR, d->dim, d->ffn_dim);
}

static void expect_dit(check *c, const lx_dit_dims *d)
{
    expect(c, "patch_embedding.weight", ROLE_FLOAT, LX_SHAPE(d->dim, d->in_dim, 1, 2, 2));
    expect(c, "patch_embedding.bias", ROLE_FLOAT, LX_SHAPE(d->dim));
    expect_linear(c, "text_embedding.0", ROLE_FLOAT, d->dim, d->text_dim);
    expect_linear(c, "text_embedding.2", ROLE_FLOAT, d->dim, d->dim);
    expect_linear(c, "time_embedding.0", ROLE_FLOAT, d->dim, d->freq_dim);
    expect_linear(c, "time_embedding.2", ROLE_FLOAT, d->dim, d->dim);
    expect_linear(c, "time_projection.1", ROLE_FLOAT, 6 * d->dim, d->dim);
    expect(c, "head.modulation", ROLE_FLOAT, LX_SHAPE(1, 2, d->dim));
    expect_linear(c, "head.head", ROLE_FLOAT, 4 * d->out_dim, d->dim);
    for (int64_t n = 0; n < d->n_blocks; n++)
        expect_dit_block(c, d, n);
}

static lx_status check_dit_dims(const lx_weights *w, const lx_dit_dims *d, lx_err *err)
{
    const char *path = lx_weights_path(w);
    if (d->dim && d->dim % HEAD_DIM)
        return lx_fail(err, LX_ECONFIG, "%s: a width of %" PRId64 " is not a multiple of %d", path,
                       d->dim, HEAD_DIM);
    if (d->in_dim && d->in_dim != LX_LATENT_CHANNELS)
        return lx_fail(err, LX_ECONFIG,
                       "%s: patch_embedding takes %" PRId64
                       " channels, Wan2.1 text-to-video takes %d",
                       path, d->in_dim, LX_LATENT_CHANNELS);
    if (d->in_dim && d->out_dim && d->out_dim != d->in_dim)
        return lx_fail(err, LX_ECONFIG, "%s: head.head makes %" PRId64 " channels from %" PRId64,
                       path, d->out_dim, d->in_dim);
    if (d->freq_dim % 2)
        return lx_fail(err, LX_ECONFIG,
                       "%s: time_embedding.0 takes %" PRId64 " values, an odd number", path,
                       d->freq_dim);
    if (d->n_blocks > MAX_BLOCKS)
        return lx_fail(err, LX_ECONFIG, "%s: %" PRId64 " blocks", path, d->n_blocks);
    return LX_OK;
}

static void read_dit_dims(const lx_weights *w, lx_dit_dims *d)
{
    *d = (lx_dit_dims){.dim = dim_of(w, "patch_embedding.weight", 0),
                       .in_dim = dim_of(w, "patch_embedding.weight", 1),
                       .ffn_dim = dim_of(w, "blocks.0.ffn.0.weight", 0),
                       .freq_dim = dim_of(w, "time_embedding.0.weight", 1),
                       .text_dim = dim_of(w, "text_embedding.0.weight", 1),
                       .out_dim = dim_of(w, "head.head.weight", 0) / 4,
                       .n_blocks = count_blocks(w),
                       .head_dim = HEAD_DIM,
                       .n_heads = dim_of(w, "patch_embedding.weight", 0) / HEAD_DIM};
    if (!d->n_blocks)
        d->n_blocks = 1; /* so that the list of missing tensors shows what a block has */
}

lx_status lx_catalog_dit(const lx_weights *weights, lx_dit_dims *out, lx_err *err)
{
    lx_dit_dims d;
    check c;
    lx_status status = lx_refuse_for_dit(weights, err);
    if (status != LX_OK)
        return status;
    read_dit_dims(weights, &d);
    status = check_dit_dims(weights, &d, err);
    if (status != LX_OK)
        return status;
    status = check_open(&c, weights, "text-to-video DiT", lx_catalog_dit_wants, err);
    if (status == LX_OK) {
        expect_dit(&c, &d);
        status = report(&c, err);
    }
    d.quant = quant_of(&c);
    check_close(&c);
    if (status != LX_OK)
        return status;
    d.says_distilled = lx_says_distilled(lx_weights_path(weights));
    if (!d.says_distilled && lx_weights_held_bytes(weights)) /* once: not for headers alone */
        LX_W(
            "weights path=%s neither name nor folder says distilled: the undistilled T2V model has "
            "the same shapes and gives noise in 4 steps",
            lx_weights_path(weights));
    if (d.dim == KNOWN_LARGE && d.n_blocks != KNOWN_BLOCKS)
        LX_W("weights path=%s blocks=%" PRId64 " expected=%d for this width: is a file missing?",
             lx_weights_path(weights), d.n_blocks, KNOWN_BLOCKS);
    *out = d;
    return LX_OK;
}

/* --- UMT5 encoder ---------------------------------------------------------------------------- */

bool lx_catalog_t5_wants(const char *name, void *unused)
{
    (void)unused;
    return strcmp(name, "spiece_model") != 0; /* the tokenizer's bytes, carried as a tensor */
}

static void expect_t5(check *c, const lx_t5_dims *d)
{
    expect(c, "token_embedding.weight", ROLE_FLOAT, LX_SHAPE(d->vocab, d->dim));
    expect(c, "norm.weight", ROLE_FLOAT, LX_SHAPE(d->dim));
    for (int64_t n = 0; n < d->n_layers; n++) {
#define AT(r, shape, tail) expect_at(c, r, shape, "blocks.%" PRId64 "." tail, n)
        AT(ROLE_FLOAT, LX_SHAPE(d->dim), "norm1.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim_attn, d->dim), "attn.q.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim_attn, d->dim), "attn.k.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim_attn, d->dim), "attn.v.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim, d->dim_attn), "attn.o.weight");
        AT(ROLE_FLOAT, LX_SHAPE(d->n_buckets, d->n_heads), "pos_embedding.embedding.weight");
        AT(ROLE_FLOAT, LX_SHAPE(d->dim), "norm2.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim_ffn, d->dim), "ffn.gate.0.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim_ffn, d->dim), "ffn.fc1.weight");
        AT(ROLE_LINEAR, LX_SHAPE(d->dim, d->dim_ffn), "ffn.fc2.weight");
#undef AT
    }
}

static void read_t5_dims(const lx_weights *w, lx_t5_dims *d)
{
    static const char table[] = "blocks.0.pos_embedding.embedding.weight";
    *d = (lx_t5_dims){.vocab = dim_of(w, "token_embedding.weight", 0),
                      .dim = dim_of(w, "token_embedding.weight", 1),
                      .dim_attn = dim_of(w, "blocks.0.attn.q.weight", 0),
                      .dim_ffn = dim_of(w, "blocks.0.ffn.fc1.weight", 0),
                      .n_buckets = dim_of(w, table, 0),
                      .n_heads = dim_of(w, table, 1),
                      .n_layers = count_blocks(w)};
    if (!d->n_layers)
        d->n_layers = 1;
}

lx_status lx_catalog_t5(const lx_weights *weights, lx_t5_dims *out, lx_err *err)
{
    lx_t5_dims d;
    check c;
    lx_status status = lx_refuse_for_t5(weights, err);
    if (status != LX_OK)
        return status;
    read_t5_dims(weights, &d);
    if (d.n_heads && d.dim_attn % d.n_heads)
        return lx_fail(err, LX_ECONFIG,
                       "%s: an attention width of %" PRId64 " is not a multiple of the %" PRId64
                       " heads of the bias table",
                       lx_weights_path(weights), d.dim_attn, d.n_heads);
    if (d.n_layers > MAX_BLOCKS)
        return lx_fail(err, LX_ECONFIG, "%s: %" PRId64 " layers", lx_weights_path(weights),
                       d.n_layers);
    status = check_open(&c, weights, "UMT5 encoder", lx_catalog_t5_wants, err);
    if (status == LX_OK) {
        expect_t5(&c, &d);
        status = report(&c, err);
    }
    d.quant = quant_of(&c);
    check_close(&c);
    if (status == LX_OK)
        *out = d;
    return status;
}

/* --- VAE decoder ----------------------------------------------------------------------------- */

bool lx_catalog_vae_wants(const char *name, void *unused)
{
    (void)unused;
    /* The encoder's half; the top-level conv1 is the encoder's, conv2 the decoder's. */
    return strncmp(name, "encoder.", 8) != 0 && strncmp(name, "conv1.", 6) != 0;
}

static void expect_residual(check *c, const char *at, int64_t a, int64_t b)
{
    expect_at(c, ROLE_FLOAT, LX_SHAPE(a, 1, 1, 1), "%s.residual.0.gamma", at);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(b, a, 3, 3, 3), "%s.residual.2.weight", at);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(b), "%s.residual.2.bias", at);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(b, 1, 1, 1), "%s.residual.3.gamma", at);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(b, b, 3, 3, 3), "%s.residual.6.weight", at);
    expect_at(c, ROLE_FLOAT, LX_SHAPE(b), "%s.residual.6.bias", at);
    if (a != b) {
        expect_at(c, ROLE_FLOAT, LX_SHAPE(b, a, 1, 1, 1), "%s.shortcut.weight", at);
        expect_at(c, ROLE_FLOAT, LX_SHAPE(b), "%s.shortcut.bias", at);
    }
}

static void expect_middle(check *c, int64_t w)
{
    expect_residual(c, "decoder.middle.0", w, w);
    expect(c, "decoder.middle.1.norm.gamma", ROLE_FLOAT, LX_SHAPE(w, 1, 1));
    expect(c, "decoder.middle.1.to_qkv.weight", ROLE_FLOAT, LX_SHAPE(3 * w, w, 1, 1));
    expect(c, "decoder.middle.1.to_qkv.bias", ROLE_FLOAT, LX_SHAPE(3 * w));
    expect(c, "decoder.middle.1.proj.weight", ROLE_FLOAT, LX_SHAPE(w, w, 1, 1));
    expect(c, "decoder.middle.1.proj.bias", ROLE_FLOAT, LX_SHAPE(w));
    expect_residual(c, "decoder.middle.2", w, w);
}

/* Four stages of three residual blocks; between them a resampler that halves the channels, the
 * first two also doubling the frames (time_conv). Index in upsamples: 4 per stage. */
static void expect_stages(check *c, const int64_t *width)
{
    char name[64];
    for (int s = 0; s < 4; s++) {
        int64_t in = s ? width[s] / 2 : width[0], out = width[s + 1];
        for (int r = 0; r < 3; r++) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", 4 * s + r);
            expect_residual(c, name, r ? out : in, out);
        }
        if (s == 3)
            break;
        int at = 4 * s + 3;
        expect_at(c, ROLE_FLOAT, LX_SHAPE(out / 2, out, 3, 3),
                  "decoder.upsamples.%d.resample.1.weight", at);
        expect_at(c, ROLE_FLOAT, LX_SHAPE(out / 2), "decoder.upsamples.%d.resample.1.bias", at);
        if (s == 2)
            continue;
        expect_at(c, ROLE_FLOAT, LX_SHAPE(2 * out, out, 3, 1, 1),
                  "decoder.upsamples.%d.time_conv.weight", at);
        expect_at(c, ROLE_FLOAT, LX_SHAPE(2 * out), "decoder.upsamples.%d.time_conv.bias", at);
    }
}

static void expect_vae(check *c, const lx_vae_dims *d)
{
    expect(c, "conv2.weight", ROLE_FLOAT, LX_SHAPE(d->z_dim, d->z_dim, 1, 1, 1));
    expect(c, "conv2.bias", ROLE_FLOAT, LX_SHAPE(d->z_dim));
    expect(c, "decoder.conv1.weight", ROLE_FLOAT, LX_SHAPE(d->width[0], d->z_dim, 3, 3, 3));
    expect(c, "decoder.conv1.bias", ROLE_FLOAT, LX_SHAPE(d->width[0]));
    expect_middle(c, d->width[0]);
    expect_stages(c, d->width);
    expect(c, "decoder.head.0.gamma", ROLE_FLOAT, LX_SHAPE(d->width[4], 1, 1, 1));
    expect(c, "decoder.head.2.weight", ROLE_FLOAT, LX_SHAPE(3, d->width[4], 3, 3, 3));
    expect(c, "decoder.head.2.bias", ROLE_FLOAT, LX_SHAPE(3));
}

lx_status lx_catalog_vae(const lx_weights *weights, lx_vae_dims *out, lx_err *err)
{
    lx_vae_dims d = {.z_dim = dim_of(weights, "conv2.weight", 0),
                     .width = {dim_of(weights, "decoder.conv1.weight", 0)}};
    check c;
    lx_status status = lx_refuse_for_vae(weights, err);
    if (status != LX_OK)
        return status;
    for (int s = 0; s < 4; s++) {
        char name[64];
        snprintf(name, sizeof name, "decoder.upsamples.%d.residual.2.weight", 4 * s);
        d.width[s + 1] = dim_of(weights, name, 0);
        if (d.width[s + 1] % 2 && s < 3)
            return lx_fail(err, LX_ECONFIG, "%s: stage %d has an odd number of channels, %" PRId64,
                           lx_weights_path(weights), s, d.width[s + 1]);
    }
    if (!d.width[0]) /* then conv1 is missing, but no shortcut should seem to be */
        d.width[0] = d.width[1];
    if (d.z_dim && d.z_dim != LX_LATENT_CHANNELS)
        return lx_fail(err, LX_ECONFIG, "%s: a VAE of %" PRId64 " latent channels, Wan2.1 has %d",
                       lx_weights_path(weights), d.z_dim, LX_LATENT_CHANNELS);
    status = check_open(&c, weights, "VAE decoder", lx_catalog_vae_wants, err);
    if (status == LX_OK) {
        expect_vae(&c, &d);
        status = report(&c, err);
    }
    check_close(&c);
    if (status == LX_OK)
        *out = d;
    return status;
}
