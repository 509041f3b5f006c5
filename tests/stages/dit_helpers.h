/*
 * dit_helpers.h - small random checkpoints, opened models and distances for the DiT's tests
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_DIT_HELPERS_H
#define TESTS_DIT_HELPERS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "dit.h"

#define GOLDEN LX2V_SOURCE_DIR "/tests/golden/"

static inline double rel_l2(const float *got, const float *want, size_t n)
{
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)got[i] - (double)want[i];
        d += e * e;
        w += (double)want[i] * (double)want[i];
    }
    return sqrt(d / w);
}

static inline void *need(void *memory)
{
    assert_non_null(memory);
    return memory;
}

static inline float *floats(size_t n)
{
    return need(calloc(n ? n : 1, sizeof(float)));
}

/* --- a random checkpoint ---------------------------------------------------------------------- */

#define STORE_MAX 256

typedef struct store_tensor {
    char name[128];
    lx_shape shape;
    size_t n;
    float *data; /* already rounded to what the file holds */
} store_tensor;

typedef struct store {
    int64_t dim, ffn, freq, text, blocks;
    store_tensor t[STORE_MAX];
    size_t n;
} store;

static inline store_tensor *store_find(store *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->t[i].name, name) == 0)
            return &s->t[i];
    fail_msg("no tensor %s in the store", name);
    return NULL;
}

/* mean + scale * normal; every second tensor has values that BF16 holds. */
static inline void store_add(store *s, const char *name, lx_shape shape, double mean, double scale)
{
    assert_true(s->n < STORE_MAX);
    store_tensor *t = &s->t[s->n];
    uint64_t n;
    assert_int_equal(lx_shape_bytes(&shape, LX_DTYPE_F32, &n, NULL, NULL), LX_OK);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->shape = shape;
    t->n = n;
    t->data = floats(n);
    for (uint64_t i = 0; i < n; i++) {
        float v = (float)(mean + scale * (double)lx_rng_lx2v(1234, (uint32_t)s->n, i));
        t->data[i] = s->n % 2 ? lx_f32_from_bf16(lx_bf16_from_f32(v)) : v;
    }
    s->n++;
}

static inline void store_linear(store *s, const char *prefix, int64_t out, int64_t in)
{
    char name[112];
    snprintf(name, sizeof name, "%s.weight", prefix);
    store_add(s, name, LX_SHAPE(out, in), 0, 1 / sqrt((double)in));
    snprintf(name, sizeof name, "%s.bias", prefix);
    store_add(s, name, LX_SHAPE(out), 0, 0.1);
}

static inline void store_block(store *s, int64_t n)
{
    const char *const kinds[] = {"self_attn", "cross_attn"}, *const parts = "qkvo";
    char name[96];
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "blocks.%d.%s.%c", (int)n, kinds[k], parts[i]);
            store_linear(s, name, s->dim, s->dim);
        }
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "blocks.%d.%s.norm_%c.weight", (int)n, kinds[k], parts[i]);
            store_add(s, name, LX_SHAPE(s->dim), 1, 0.3);
        }
    }
    snprintf(name, sizeof name, "blocks.%d.ffn.0", (int)n);
    store_linear(s, name, s->ffn, s->dim);
    snprintf(name, sizeof name, "blocks.%d.ffn.2", (int)n);
    store_linear(s, name, s->dim, s->ffn);
    snprintf(name, sizeof name, "blocks.%d.norm3.weight", (int)n);
    store_add(s, name, LX_SHAPE(s->dim), 1, 0.3);
    snprintf(name, sizeof name, "blocks.%d.norm3.bias", (int)n);
    store_add(s, name, LX_SHAPE(s->dim), 0, 0.3);
    snprintf(name, sizeof name, "blocks.%d.modulation", (int)n);
    store_add(s, name, LX_SHAPE(1, 6, s->dim), 0, 0.3);
}

static inline void store_make(store *s, int64_t heads, int64_t ffn, int64_t text, int64_t blocks)
{
    *s = (store){.dim = heads * 128, .ffn = ffn, .freq = 256, .text = text, .blocks = blocks};
    store_add(s, "patch_embedding.weight", LX_SHAPE(s->dim, 16, 1, 2, 2), 0, 0.125);
    store_add(s, "patch_embedding.bias", LX_SHAPE(s->dim), 0, 0.1);
    store_linear(s, "text_embedding.0", s->dim, text);
    store_linear(s, "text_embedding.2", s->dim, s->dim);
    store_linear(s, "time_embedding.0", s->dim, s->freq);
    store_linear(s, "time_embedding.2", s->dim, s->dim);
    store_linear(s, "time_projection.1", 6 * s->dim, s->dim);
    store_linear(s, "head.head", 64, s->dim);
    store_add(s, "head.modulation", LX_SHAPE(1, 2, s->dim), 0, 0.3);
    for (int64_t n = 0; n < blocks; n++)
        store_block(s, n);
}

static inline void store_free(store *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->t[i].data);
    s->n = 0;
}

/* A small model as the state of a group of tests. */
static inline int store_begin(void **state, int64_t ffn, int64_t text)
{
    store *s = need(calloc(1, sizeof *s));
    store_make(s, 2, ffn, text, 2);
    *state = s;
    return 0;
}

static inline int store_end(void **state)
{
    store_free(*state);
    free(*state);
    return 0;
}

/* Write in F32 and BF16 by turns. */
static inline void store_write(const store *s, const char *path)
{
    lx_err err = {0};
    lx_named_tensor *named = need(calloc(s->n, sizeof *named));
    uint16_t **narrow = need(calloc(s->n, sizeof *narrow));
    for (size_t i = 0; i < s->n; i++) {
        const store_tensor *t = &s->t[i];
        named[i] = (lx_named_tensor){t->name, {LX_DTYPE_F32, t->shape, t->data}};
        if (i % 2 == 0)
            continue;
        narrow[i] = need(calloc(t->n, sizeof **narrow));
        for (size_t k = 0; k < t->n; k++)
            narrow[i][k] = lx_bf16_from_f32(t->data[k]);
        named[i].tensor.dtype = LX_DTYPE_BF16;
        named[i].tensor.data = narrow[i];
    }
    if (lx_safetensors_write(path, named, s->n, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < s->n; i++)
        free(narrow[i]);
    free(narrow);
    free(named);
}

static inline void temp_path(char *path, size_t bytes, const char *name)
{
    snprintf(path, bytes, LX2V_BUILD_DIR "/tests/stages/dit-%d-distilled-%s.safetensors",
             (int)getpid(), name);
}

/* --- a model that is ready to run ------------------------------------------------------------- */

typedef struct bench {
    dit *model;
    dit_engine *engine;
} bench;

static inline void bench_open(bench *b, const char *path, const dit_options *options,
                              const lx_patch_dims *latent, int n_threads)
{
    lx_err err = {0};
    *b = (bench){0};
    dit_setup setup = {.n_threads = n_threads, .largest = *latent};
    if (dit_load(&b->model, path, options, NULL, &err) != LX_OK ||
        dit_engine_open(&b->engine, b->model, &setup, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static inline void bench_open_store(bench *b, const store *s, const dit_options *options,
                                    const lx_patch_dims *latent, int n_threads)
{
    char path[512];
    temp_path(path, sizeof path, "model");
    store_write(s, path);
    bench_open(b, path, options, latent, n_threads);
    unlink(path);
}

static inline void bench_close(bench *b)
{
    dit_engine_close(&b->engine);
    dit_destroy(&b->model);
}

static inline size_t latent_size(const lx_patch_dims *d)
{
    return (size_t)(d->channels * d->t * d->h * d->w);
}

/* Normals with a draw number of their own. */
static inline float *normals(uint32_t draw, size_t n)
{
    lx_rng rng = {.kind = LX_RNG_LX2V};
    float *out = floats(n);
    lx_rng_normal(&rng, 99, draw, n, out);
    return out;
}

/* Denoise over the default schedule with euler from a copy of `latent`; both results owned by the
 * caller, velocity [4, latent]. */
static inline void bench_run_at(bench *b, const dit_schedule *schedule, const lx_patch_dims *d,
                                const float *context, int64_t n_context, const float *latent,
                                float **out, float **velocity)
{
    lx_err err = {0};
    size_t n = latent_size(d);
    *out = floats(n);
    *velocity = floats((size_t)schedule->n_steps * n);
    memcpy(*out, latent, n * sizeof **out);
    dit_request r = {.latent = *d,
                     .context = context,
                     .n_context = n_context,
                     .schedule = schedule,
                     .velocity = *velocity};
    if (dit_denoise(b->engine, &r, *out, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static inline void bench_run(bench *b, const lx_patch_dims *d, const float *context,
                             int64_t n_context, const float *latent, float **out, float **velocity)
{
    dit_schedule schedule;
    dit_schedule_default(&schedule);
    bench_run_at(b, &schedule, d, context, n_context, latent, out, velocity);
}

#endif
