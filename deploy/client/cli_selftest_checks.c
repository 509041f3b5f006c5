/*
 * cli_selftest_checks.c - do these tensors look like what a trained model makes?
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_selftest.h"
#include "lx_rng.h"

#define XXL_VOCAB  256384 /* rows of UMT5-XXL's embedding; its tokenizer's golden ids follow */
#define XXL_DIM    4096
#define XXL_LAYERS 24

/* Below this the first velocity does not follow the noise: v = noise - clip, so their correlation
 * is (1 - r s) / sqrt(1 + s^2 - 2 r s) for a clip of deviation s and correlation r with the noise;
 * with s up to 2 and r up to 0.3 that is 0.2 or more. An untrained model has no reason to. */
#define FOLLOWS_LEAST 0.2
/* White noise has 0 at any distance, photographs usually above 0.9 from pixel to pixel. A decoder
 * smooths what it is given over a few pixels, so noise shows beyond a latent's 8 pixels, and there
 * also from frame to frame, where films hardly change. */
#define SMOOTH_LEAST 0.8
#define APART        (2 * LX_VAE_STRIDE)
#define APART_LEAST  0.2
#define FILM_LEAST   0.5
#define FLAT_MOST    0.02 /* deviation of frames in [-1, 1]: nothing is to be seen */

#define OF_MEASURED "measured by others on the real weights with four prompts"

selftest_check *selftest_add(selftest *s, const char *stage, const char *what,
                             selftest_verdict verdict)
{
    int at = s->n < SELFTEST_CHECKS_MAX ? s->n++ : SELFTEST_CHECKS_MAX - 1;
    selftest_check *c = &s->check[at];
    *c = (selftest_check){.stage = stage, .verdict = verdict};
    snprintf(c->what, sizeof c->what, "%s", what);
    return c;
}

/* --- the prompts ------------------------------------------------------------------------------ */

typedef struct golden {
    const char *prompt;
    int n;
    int32_t ids[56];
} golden;

/* Ids of the published tokenizer, from the golden vectors of other implementations of it. */
static const golden goldens[2] = {
    {"Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a "
     "spotlighted stage.",
     28,
     {16349, 289, 182785, 97899, 1931,  6283,  281, 301, 547, 15817,  273, 126058, 39668, 333,
      48918, 273, 181062, 281,   43495, 53302, 751, 369, 289, 214337, 505, 17687,  274,   1}},
    {"A cat and a dog baking a cake together in a kitchen. The cat is carefully measuring flour, "
     "while the dog is stirring the batter with a wooden spoon. The kitchen is cozy, with sunlight "
     "streaming through the window.",
     50,
     {320,  6283, 333,    289,    6833,   148605, 289,  61558,  11384, 301,  289,   21920, 274,
      517,  6283, 339,    100120, 179967, 121368, 275,  5196,   312,   6833, 339,   71403, 3439,
      312,  273,  156112, 543,    289,    129805, 273,  110667, 274,   517,  21920, 339,   767,
      3065, 275,  543,    8239,   9208,   13911,  3311, 312,    14172, 274,  1}},
};

const char *selftest_prompt(int i)
{
    return goldens[i].prompt;
}

/* --- reading ---------------------------------------------------------------------------------- */

static lx_status find(const lx_weights *file, const char *name, lx_dtype dtype,
                      selftest_tensor *out, lx_err *err)
{
    lx_weight w;
    uint64_t n;
    if (!lx_weights_find(file, name, &w) || w.dtype != dtype)
        return lx_fail(err, LX_ESTAGE, "%s: no tensor %s of type %s", lx_weights_path(file), name,
                       lx_dtype_name(dtype));
    lx_status status = lx_shape_bytes(&w.shape, dtype, &n, NULL, err);
    if (status == LX_OK)
        *out = (selftest_tensor){.data = dtype == LX_DTYPE_F32 ? w.data : NULL,
                                 .ids = dtype == LX_DTYPE_I32 ? w.data : NULL,
                                 .n = (int64_t)n,
                                 .shape = w.shape};
    return status;
}

/* --- statistics ------------------------------------------------------------------------------- */

typedef struct moments {
    int64_t n_bad; /* not finite; the rest is of the others */
    double mean, deviation, rms, most;
} moments;

static moments moments_of(const float *x, int64_t n)
{
    moments m = {0};
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = x[i];
        if (!isfinite(v)) {
            m.n_bad++;
            continue;
        }
        sum += v;
        squares += v * v;
        m.most = fabs(v) > m.most ? fabs(v) : m.most;
    }
    double k = (double)(n - m.n_bad);
    if (k > 0) {
        m.mean = sum / k;
        m.rms = sqrt(squares / k);
        double variance = squares / k - m.mean * m.mean;
        m.deviation = variance > 0 ? sqrt(variance) : 0;
    }
    return m;
}

/* Correlation of two series; 0 if one of them does not vary. */
static double correlation(const float *x, const float *y, int64_t n)
{
    moments a = moments_of(x, n), b = moments_of(y, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (x[i] - a.mean) * (y[i] - b.mean);
    double scale = (double)n * a.deviation * b.deviation;
    return scale > 0 ? sum / scale : 0;
}

/* --- verdicts --------------------------------------------------------------------------------- */

static void finite_check(selftest *s, const char *stage, const char *what, const moments *m,
                         int64_t n, const char *path)
{
    selftest_check *c = selftest_add(s, stage, what, m->n_bad ? SELFTEST_FAILED : SELFTEST_OK);
    snprintf(c->value, sizeof c->value, "%" PRId64 " of %" PRId64 " values are finite",
             n - m->n_bad, n);
    if (m->n_bad)
        snprintf(c->advice, sizeof c->advice,
                 "%.500s: its values, or the arithmetic on this device, are wrong; run the stage "
                 "with --device cpu to tell which",
                 path);
}

/* A value that is known for the real model only. */
static void range_check(selftest *s, const char *what, double value, const double range[2],
                        bool is_known, const char *expected)
{
    bool is_good = value >= range[0] && value <= range[1];
    selftest_check *c = selftest_add(s, "encoder", what,
                                     !is_known ? SELFTEST_VALUE
                                     : is_good ? SELFTEST_OK
                                               : SELFTEST_WARNING);
    snprintf(c->value, sizeof c->value, "%.4g", value);
    if (!is_known) {
        snprintf(c->expected, sizeof c->expected, "not known for a model of this size");
        return;
    }
    snprintf(c->expected, sizeof c->expected, "%g to %g; %s", range[0], range[1], expected);
    snprintf(c->source, sizeof c->source, OF_MEASURED);
    if (!is_good)
        snprintf(c->advice, sizeof c->advice,
                 "%.500s: are these the trained weights of UMT5-XXL? Compare its size and sum with "
                 "the published ones (lx2v doctor --weights DIR)",
                 s->paths->text);
}

/* --- files ------------------------------------------------------------------------------------ */

static const char *quant_name(lx_quant quant)
{
    return quant == LX_QUANT_INT8 ? "INT8" : quant == LX_QUANT_FP8 ? "FP8" : "not quantized";
}

static bool look_at_file(selftest *s, const char *stage, const char *path,
                         bool (*wants)(const char *, void *),
                         lx_status (*look)(selftest *s, const lx_weights *w, lx_err *err))
{
    lx_err err = {0};
    lx_weights *weights = NULL;
    lx_weights_options options = {.wants = wants, .headers_only = true};
    lx_status status = lx_weights_open(&weights, path, &options, &err);
    if (status == LX_OK)
        status = look(s, weights, &err);
    lx_weights_close(&weights);
    if (status == LX_OK)
        return true;
    selftest_check *c = selftest_add(s, stage, "file", SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "%.300s", err.message);
    snprintf(c->advice, sizeof c->advice,
             "model.%s is %.500s: name the right file in the config, or download it again",
             strcmp(stage, "encoder") == 0 ? "text" : stage, path);
    s->must_act = true;
    return false;
}

static lx_status look_at_t5(selftest *s, const lx_weights *w, lx_err *err)
{
    lx_status status = lx_catalog_t5(w, &s->t5, err);
    if (status != LX_OK)
        return status;
    selftest_check *c = selftest_add(s, "encoder", "file", SELFTEST_OK);
    snprintf(c->value, sizeof c->value,
             "UMT5 of %" PRId64 " layers, width %" PRId64 ", vocabulary of %" PRId64 ", %s",
             s->t5.n_layers, s->t5.dim, s->t5.vocab, quant_name(s->t5.quant));
    return LX_OK;
}

static lx_status look_at_dit(selftest *s, const lx_weights *w, lx_err *err)
{
    lx_status status = lx_catalog_dit(w, &s->dit, err);
    if (status != LX_OK)
        return status;
    selftest_check *c = selftest_add(s, "dit", "file", SELFTEST_OK);
    snprintf(c->value, sizeof c->value,
             "Wan2.1 transformer of %" PRId64 " blocks, width %" PRId64 ", text width %" PRId64
             ", %s%s",
             s->dit.n_blocks, s->dit.dim, s->dit.text_dim, quant_name(s->dit.quant),
             s->dit.says_distilled ? ", step-distilled by its name" : "");
    return LX_OK;
}

static lx_status look_at_vae(selftest *s, const lx_weights *w, lx_err *err)
{
    lx_status status = lx_catalog_vae(w, &s->vae, err);
    if (status != LX_OK)
        return status;
    selftest_check *c = selftest_add(s, "vae", "file", SELFTEST_OK);
    snprintf(c->value, sizeof c->value,
             "Wan2.1 decoder of %" PRId64 " latent channels, width %" PRId64, s->vae.z_dim,
             s->vae.width[0]);
    return LX_OK;
}

static void compare_widths(selftest *s)
{
    if (!s->has_t5 || !s->has_dit || s->t5.dim == s->dit.text_dim)
        return;
    selftest_check *c = selftest_add(s, "dit", "text width", SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value,
             "the encoder makes rows of %" PRId64 " values, the transformer takes %" PRId64,
             s->t5.dim, s->dit.text_dim);
    snprintf(c->advice, sizeof c->advice,
             "model.text and model.dit are of two models: %.300s and %.300s", s->paths->text,
             s->paths->dit);
    s->must_act = true;
}

void selftest_files(selftest *s)
{
    s->has_t5 = look_at_file(s, "encoder", s->paths->text, lx_catalog_t5_wants, look_at_t5);
    s->has_dit = look_at_file(s, "dit", s->paths->dit, lx_catalog_dit_wants, look_at_dit);
    s->has_vae = look_at_file(s, "vae", s->paths->vae, lx_catalog_vae_wants, look_at_vae);
    compare_widths(s);
}

/* --- encoder ---------------------------------------------------------------------------------- */

static void ids_check(selftest *s, const selftest_tensor *ids, int which)
{
    const golden *g = &goldens[which];
    char what[48];
    int64_t n_same = 0;
    snprintf(what, sizeof what, "tokens of prompt %d", which + 1);
    if (s->t5.vocab != XXL_VOCAB) {
        selftest_check *c = selftest_add(s, "encoder", what, SELFTEST_VALUE);
        snprintf(c->value, sizeof c->value, "%" PRId64, ids->n);
        snprintf(c->expected, sizeof c->expected, "known for UMT5-XXL's vocabulary only");
        return;
    }
    for (int64_t i = 0; i < ids->n && i < g->n; i++)
        n_same += ids->ids[i] == g->ids[i];
    bool is_good = ids->n == g->n && n_same == g->n;
    selftest_check *c = selftest_add(s, "encoder", what, is_good ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "%" PRId64 " tokens, %" PRId64 " of %d as they should be",
             ids->n, n_same, g->n);
    snprintf(c->expected, sizeof c->expected, "%d, each the same", g->n);
    snprintf(c->source, sizeof c->source, "ids of the published tokenizer");
    if (is_good)
        return;
    snprintf(c->advice, sizeof c->advice,
             "%.500s is not UMT5's tokenizer: use google/umt5-xxl of the model's repository "
             "(tokenizer.json or spiece.model)",
             s->paths->tokenizer);
    s->must_act = true;
}

static void spread_checks(selftest *s, const selftest_tensor *context)
{
    /* A factor of 1.5 and 2 around rms 0.073 to 0.084 and |x| 1.09 to 1.66, which are of bf16. */
    static const double rms[2] = {0.049, 0.126}, most[2] = {0.55, 3.3};
    bool is_xxl = s->t5.vocab == XXL_VOCAB && s->t5.dim == XXL_DIM && s->t5.n_layers == XXL_LAYERS;
    moments m = moments_of(context->data, context->n);
    finite_check(s, "encoder", "context", &m, context->n, s->paths->text);
    range_check(s, "spread (rms)", m.rms, rms, is_xxl, "0.073 to 0.084 within a factor of 1.5");
    range_check(s, "largest value", m.most, most, is_xxl, "1.09 to 1.66 within a factor of 2");
}

static bool same_bits(const selftest_tensor *a, const selftest_tensor *b)
{
    return a->n == b->n && memcmp(a->data, b->data, (size_t)a->n * sizeof *a->data) == 0;
}

static void prompt_checks(selftest *s, const selftest_tensor *first, const selftest_tensor *again,
                          const selftest_tensor *second)
{
    bool is_same = same_bits(first, again);
    selftest_check *c = selftest_add(s, "encoder", "same prompt, same bits",
                                     is_same ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, is_same ? "yes" : "no: two runs differ");
    if (!is_same)
        snprintf(c->advice, sizeof c->advice,
                 "the same work gave two results on this device: faulty memory, overclocking or a "
                 "driver; test the RAM and the card");
    /* The first token differs already; each row depends on all of them. */
    int64_t n = first->n < second->n ? first->n : second->n;
    double distance = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        distance += pow((double)first->data[i] - second->data[i], 2);
        size += pow(first->data[i], 2);
    }
    double relative = size > 0 ? sqrt(distance / size) : 0;
    bool is_apart = relative > 1e-3;
    c = selftest_add(s, "encoder", "other prompt, other context",
                     is_apart ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "they are %.3g apart (relative L2)", relative);
    snprintf(c->expected, sizeof c->expected, "above 0.001");
    if (!is_apart)
        snprintf(c->advice, sizeof c->advice,
                 "the prompt has no effect: %.300s (all its values alike?) or %.300s (every word "
                 "unknown?)",
                 s->paths->text, s->paths->tokenizer);
}

lx_status selftest_encoder(selftest *s, const char *first, const char *again, const char *second,
                           lx_err *err)
{
    const char *paths[3] = {first, again, second};
    lx_weights *file[3] = {NULL, NULL, NULL};
    selftest_tensor context[3], ids[3];
    lx_status status = LX_OK;
    for (int i = 0; i < 3 && status == LX_OK; i++) {
        status = lx_weights_open(&file[i], paths[i], NULL, err);
        if (status == LX_OK)
            status = find(file[i], "context", LX_DTYPE_F32, &context[i], err);
        if (status == LX_OK)
            status = find(file[i], "ids", LX_DTYPE_I32, &ids[i], err);
    }
    if (status == LX_OK) {
        ids_check(s, &ids[0], 0);
        ids_check(s, &ids[2], 1);
        spread_checks(s, &context[0]);
        prompt_checks(s, &context[0], &context[1], &context[2]);
    }
    for (int i = 0; i < 3; i++)
        lx_weights_close(&file[i]);
    return status;
}

/* --- dit -------------------------------------------------------------------------------------- */

typedef struct denoised {
    selftest_tensor noise, latent, velocity, sigmas;
    int64_t n_steps, n; /* values of one latent */
} denoised;

static void velocity_checks(selftest *s, const denoised *d)
{
    moments all = moments_of(d->velocity.data, d->velocity.n);
    finite_check(s, "dit", "velocities", &all, d->velocity.n, s->paths->dit);
    selftest_check *c = selftest_add(s, "dit", "their size (rms), by step", SELFTEST_VALUE);
    size_t used = 0;
    for (int64_t i = 0; i < d->n_steps && used < sizeof c->value; i++)
        used += (size_t)snprintf(c->value + used, sizeof c->value - used, "%s%.3f", i ? ", " : "",
                                 moments_of(d->velocity.data + i * d->n, d->n).rms);
    double follows = correlation(d->velocity.data, d->noise.data, d->n);
    bool is_good = follows >= FOLLOWS_LEAST;
    c = selftest_add(s, "dit", "first velocity and noise",
                     is_good ? SELFTEST_OK : SELFTEST_WARNING);
    snprintf(c->value, sizeof c->value, "correlation %.3f", follows);
    snprintf(c->expected, sizeof c->expected, "%g or more", FOLLOWS_LEAST);
    snprintf(c->source, sizeof c->source,
             "from its definition, noise minus clip, for clips of ordinary spread");
    if (!is_good)
        snprintf(c->advice, sizeof c->advice,
                 "are these trained weights? %.500s predicts no noise, so clips will be noise",
                 s->paths->dit);
}

/* x' = x + (sigma' - sigma) v in every step, the last sigma' is 0. */
static void euler_check(selftest *s, const denoised *d)
{
    double worst = 0, size = moments_of(d->latent.data, d->n).rms;
    for (int64_t i = 0; i < d->n; i++) {
        double x = d->noise.data[i];
        for (int64_t k = 0; k < d->n_steps; k++) {
            double next = k + 1 < d->n_steps ? d->sigmas.data[k + 1] : 0;
            x += (next - d->sigmas.data[k]) * d->velocity.data[k * d->n + i];
        }
        worst = fabs(x - d->latent.data[i]) > worst ? fabs(x - d->latent.data[i]) : worst;
    }
    bool is_good = worst <= 1e-4 * (size > 1 ? size : 1);
    selftest_check *c =
        selftest_add(s, "dit", "sampler's sum", is_good ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "off by %.2g at most", worst);
    snprintf(c->expected, sizeof c->expected, "the latent is noise plus the steps: 1e-4 of it");
    snprintf(c->source, sizeof c->source, "definition of the euler sampler");
    if (!is_good)
        snprintf(c->advice, sizeof c->advice,
                 "the device computes wrong sums: run with device: cpu to compare, and report it "
                 "(lx2v report)");
}

static void latent_checks(selftest *s, const denoised *d)
{
    moments m = moments_of(d->latent.data, d->n);
    finite_check(s, "dit", "latent", &m, d->n, s->paths->dit);
    selftest_check *c = selftest_add(s, "dit", "its spread", SELFTEST_VALUE);
    snprintf(c->value, sizeof c->value, "mean %.3f, deviation %.3f", m.mean, m.deviation);
    snprintf(c->expected, sizeof c->expected,
             "deviation near 1 over many clips; no range is known for one");
    snprintf(c->source, sizeof c->source, "Wan2.1 normalises latents per channel");
    double alike = correlation(d->latent.data, d->noise.data, d->n);
    bool is_moved = alike < 0.999;
    c = selftest_add(s, "dit", "latent and noise", is_moved ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "correlation %.3f", alike);
    snprintf(c->expected, sizeof c->expected, "below 0.999: the steps changed something");
    if (!is_moved)
        snprintf(c->advice, sizeof c->advice,
                 "%.500s: the velocity is nothing, or along the noise; download it again",
                 s->paths->dit);
}

lx_status selftest_dit(selftest *s, const char *output, lx_err *err)
{
    lx_weights *file = NULL;
    denoised d = {0};
    lx_status status = lx_weights_open(&file, output, NULL, err);
    if (status == LX_OK)
        status = find(file, "noise", LX_DTYPE_F32, &d.noise, err);
    if (status == LX_OK)
        status = find(file, "latent", LX_DTYPE_F32, &d.latent, err);
    if (status == LX_OK)
        status = find(file, "velocity", LX_DTYPE_F32, &d.velocity, err);
    if (status == LX_OK)
        status = find(file, "sigmas", LX_DTYPE_F32, &d.sigmas, err);
    d.n = d.latent.n;
    d.n_steps = d.sigmas.n;
    if (status == LX_OK && (d.noise.n != d.n || d.velocity.n != d.n * d.n_steps || d.n < 1))
        status = lx_fail(err, LX_ESTAGE, "%s: its tensors do not fit each other", output);
    if (status == LX_OK) {
        velocity_checks(s, &d);
        euler_check(s, &d);
        latent_checks(s, &d);
    }
    lx_weights_close(&file);
    return status;
}

/* --- vae -------------------------------------------------------------------------------------- */

typedef struct film { /* [3, n, h, w] */
    const float *data;
    int64_t n, h, w;
} film;

static double plane_mean(const float *plane, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += plane[i];
    return n > 0 ? sum / (double)n : 0;
}

/* Correlation of each value with the one `dx` columns, `dy` rows and `dt` frames further, within a
 * colour. Each picture's mean is taken off: a tint is no picture. */
static double neighbours(const film *f, int64_t dx, int64_t dy, int64_t dt)
{
    double aa = 0, bb = 0, ab = 0;
    const int64_t plane = f->h * f->w;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t t = 0; t + dt < f->n; t++) {
            const float *from = f->data + (c * f->n + t) * plane, *to = from + dt * plane;
            double from_mean = plane_mean(from, plane), to_mean = plane_mean(to, plane);
            for (int64_t y = 0; y + dy < f->h; y++)
                for (int64_t x = 0; x + dx < f->w; x++) {
                    double a = from[y * f->w + x] - from_mean;
                    double b = to[(y + dy) * f->w + x + dx] - to_mean;
                    aa += a * a;
                    bb += b * b;
                    ab += a * b;
                }
        }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

/* Along rows or columns, whichever is rougher. */
static double smoothness(const film *f, int64_t distance)
{
    double right = neighbours(f, distance, 0, 0), below = neighbours(f, 0, distance, 0);
    return right < below ? right : below;
}

static void picture_checks(selftest *s, const film *f, const moments *m)
{
    bool is_flat = m->deviation < FLAT_MOST;
    selftest_check *c =
        selftest_add(s, "vae", "contrast", is_flat ? SELFTEST_WARNING : SELFTEST_OK);
    snprintf(c->value, sizeof c->value, "deviation %.3f, mean %.3f, of values in -1 to 1",
             m->deviation, m->mean);
    snprintf(c->expected, sizeof c->expected, "%g or more: a picture", FLAT_MOST);
    if (is_flat)
        snprintf(c->advice, sizeof c->advice,
                 "the frames are one colour: if the latent's spread is ordinary, suspect %.500s",
                 s->paths->vae);
    double near = smoothness(f, 1), apart = smoothness(f, APART);
    double film_like = f->n > 1 ? neighbours(f, 0, 0, 1) : 0;
    bool is_noise = near < SMOOTH_LEAST || (apart < APART_LEAST && film_like < FILM_LEAST);
    is_noise = is_noise && !is_flat;
    c = selftest_add(s, "vae", "smoothness", is_noise ? SELFTEST_WARNING : SELFTEST_OK);
    snprintf(c->value, sizeof c->value,
             "correlation of neighbouring pixels %.3f, %d apart %.3f, from frame to frame %.3f",
             near, APART, apart, film_like);
    snprintf(c->expected, sizeof c->expected,
             "neighbours %g or more, and one of the others %g or %g; noise has 0", SMOOTH_LEAST,
             APART_LEAST, FILM_LEAST);
    snprintf(c->source, sizeof c->source,
             "bounds chosen below what films have; not measured with these weights");
    if (is_noise)
        snprintf(c->advice, sizeof c->advice,
                 "looks like noise: are these trained weights? Those of lx2v-mkmodel are random. "
                 "Otherwise: a warning of the dit above says that %.300s is at "
                 "fault; without one suspect %.300s",
                 s->paths->dit, s->paths->vae);
}

lx_status selftest_vae(selftest *s, const char *output, lx_err *err)
{
    lx_weights *file = NULL;
    selftest_tensor frames = {0};
    lx_status status = lx_weights_open(&file, output, NULL, err);
    if (status == LX_OK)
        status = find(file, "frames", LX_DTYPE_F32, &frames, err);
    const int64_t *dim = frames.shape.dim;
    if (status == LX_OK && (frames.shape.n_dims != 4 || dim[0] != 3))
        status = lx_fail(err, LX_ESTAGE, "%s: frames are not [3, F, H, W]", output);
    if (status == LX_OK) {
        film f = {frames.data, dim[1], dim[2], dim[3]};
        moments m = moments_of(frames.data, frames.n);
        finite_check(s, "vae", "frames", &m, frames.n, s->paths->vae);
        if (!m.n_bad)
            picture_checks(s, &f, &m);
    }
    lx_weights_close(&file);
    return status;
}

/* --- mux -------------------------------------------------------------------------------------- */

lx_status selftest_mux(selftest *s, const char *json, int64_t n_frames, lx_err *err)
{
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    const json_t *frames = json_object_get(root, "frames"),
                 *decoded = json_object_get(root, "decoded");
    const char *codec = json_string_value(json_object_get(root, "codec"));
    if (!json_is_integer(frames) || !codec) {
        json_decref(root);
        return lx_fail(err, LX_ESTAGE, "lx2v-mux check: no answer to be believed");
    }
    json_int_t n = json_integer_value(json_is_integer(decoded) ? decoded : frames);
    bool is_good = n == n_frames && json_integer_value(frames) == n_frames;
    selftest_check *c = selftest_add(s, "mux", "clip", is_good ? SELFTEST_OK : SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "%" PRId64 " frames of %.32s in the file, %s",
             (int64_t)json_integer_value(frames), codec,
             json_is_integer(decoded) ? "all read back by the decoder"
                                      : "not decoded: this FFmpeg has no decoder for it");
    if (json_is_integer(decoded) && n != json_integer_value(frames))
        snprintf(c->value, sizeof c->value, "%" PRId64 " frames in the file, %" PRId64 " decoded",
                 (int64_t)json_integer_value(frames), (int64_t)n);
    snprintf(c->expected, sizeof c->expected, "%" PRId64, n_frames);
    if (!is_good)
        snprintf(c->advice, sizeof c->advice,
                 "the FFmpeg libraries here write clips that they cannot read (lx2v doctor lists "
                 "them); mux.format: png goes without");
    json_decref(root);
    return LX_OK;
}

/* --- inputs of our own ------------------------------------------------------------------------ */

static lx_status write_normal(const char *path, const char *name, const lx_shape *shape,
                              float deviation, lx_err *err)
{
    uint64_t n, bytes;
    lx_rng rng = {.kind = LX_RNG_LX2V};
    lx_status status = lx_shape_bytes(shape, LX_DTYPE_F32, &n, &bytes, err);
    if (status != LX_OK)
        return status;
    float *data = malloc((size_t)bytes);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "out of memory for %s", name);
    lx_rng_normal(&rng, 1, 0, n, data);
    for (uint64_t i = 0; i < n; i++)
        data[i] *= deviation;
    lx_named_tensor tensor = {.name = name,
                              .tensor = {.dtype = LX_DTYPE_F32, .shape = *shape, .data = data}};
    status = lx_safetensors_write(path, &tensor, 1, err);
    free(data);
    return status;
}

lx_status selftest_make_context(const selftest *s, const char *path, lx_err *err)
{
    return write_normal(path, "context", &LX_SHAPE(28, s->dit.text_dim), 0.08f, err);
}

lx_status selftest_make_latent(const char *path, int64_t t, int64_t h, int64_t w, lx_err *err)
{
    return write_normal(path, "latent", &LX_SHAPE(LX_LATENT_CHANNELS, t, h, w), 1, err);
}
