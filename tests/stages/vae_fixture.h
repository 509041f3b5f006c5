/*
 * vae_fixture.h - a synthetic decoder and its clips, for test_vae_*.c
 * SPDX-License-Identifier: Apache-2.0
 *
 * Parameters by rule: FNV-1a of the tensor's name seeds SplitMix64; weights are
 * u * sqrt(3 / fan_in), biases 0.1 u, gammas 1 + 0.25 u, the latent 1.5 u.
 */
#ifndef VAE_FIXTURE_H
#define VAE_FIXTURE_H

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

#include "vae.h"

enum { FIXTURE_TENSORS = 160 };

static inline uint64_t fixture_seed(const char *key)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return h;
}

static inline double fixture_unit(uint64_t seed, uint64_t i)
{
    uint64_t s = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    s = (s ^ (s >> 30)) * 0xBF58476D1CE4E5B9u;
    s = (s ^ (s >> 27)) * 0x94D049BB133111EBu;
    return (double)((s ^ (s >> 31)) >> 11) * 0x1p-52 - 1;
}

typedef struct fixture_file {
    lx_named_tensor tensor[FIXTURE_TENSORS];
    char name[FIXTURE_TENSORS][64];
    size_t n;
    bool zero_time_weights; /* time_conv has only its bias */
} fixture_file;

static inline void fixture_add(fixture_file *f, const char *name, lx_shape shape)
{
    uint64_t n, bytes, seed = fixture_seed(name);
    assert_true(f->n < FIXTURE_TENSORS);
    assert_int_equal(lx_shape_bytes(&shape, LX_DTYPE_F32, &n, &bytes, NULL), LX_OK);
    float *data = malloc((size_t)bytes);
    assert_non_null(data);
    double scale = 0.1, offset = 0;
    if (strstr(name, "gamma")) {
        scale = 0.25;
        offset = 1;
    } else if (shape.n_dims > 1) {
        scale = sqrt(3 / ((double)n / (double)shape.dim[0]));
        if (f->zero_time_weights && strstr(name, "time_conv"))
            scale = 0;
    }
    for (uint64_t i = 0; i < n; i++)
        data[i] = (float)(offset + scale * fixture_unit(seed, i));
    snprintf(f->name[f->n], sizeof f->name[0], "%s", name);
    f->tensor[f->n] = (lx_named_tensor){
        .name = f->name[f->n], .tensor = {.dtype = LX_DTYPE_F32, .shape = shape, .data = data}};
    f->n++;
}

static inline void fixture_conv(fixture_file *f, const char *prefix, lx_shape shape)
{
    char name[64];
    snprintf(name, sizeof name, "%.40s.weight", prefix);
    fixture_add(f, name, shape);
    snprintf(name, sizeof name, "%.40s.bias", prefix);
    fixture_add(f, name, LX_SHAPE(shape.dim[0]));
}

static inline void fixture_block(fixture_file *f, const char *prefix, int64_t in, int64_t out)
{
    char name[64];
    snprintf(name, sizeof name, "%.40s.residual.0.gamma", prefix);
    fixture_add(f, name, LX_SHAPE(in, 1, 1, 1));
    snprintf(name, sizeof name, "%.40s.residual.2", prefix);
    fixture_conv(f, name, LX_SHAPE(out, in, 3, 3, 3));
    snprintf(name, sizeof name, "%.40s.residual.3.gamma", prefix);
    fixture_add(f, name, LX_SHAPE(out, 1, 1, 1));
    snprintf(name, sizeof name, "%.40s.residual.6", prefix);
    fixture_conv(f, name, LX_SHAPE(out, out, 3, 3, 3));
    snprintf(name, sizeof name, "%.40s.shortcut", prefix);
    if (in != out)
        fixture_conv(f, name, LX_SHAPE(out, in, 1, 1, 1));
}

static inline void fixture_layers(fixture_file *f, int64_t base)
{
    const int64_t width[5] = {4 * base, 4 * base, 4 * base, 2 * base, base};
    char name[64];
    fixture_conv(f, "conv2", LX_SHAPE(16, 16, 1, 1, 1));
    fixture_conv(f, "decoder.conv1", LX_SHAPE(width[0], 16, 3, 3, 3));
    fixture_block(f, "decoder.middle.0", width[0], width[0]);
    fixture_add(f, "decoder.middle.1.norm.gamma", LX_SHAPE(width[0], 1, 1));
    fixture_conv(f, "decoder.middle.1.to_qkv", LX_SHAPE(3 * width[0], width[0], 1, 1));
    fixture_conv(f, "decoder.middle.1.proj", LX_SHAPE(width[0], width[0], 1, 1));
    fixture_block(f, "decoder.middle.2", width[0], width[0]);
    int64_t in = width[0];
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < 3; i++, in = width[s + 1]) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", 4 * s + i);
            fixture_block(f, name, in, width[s + 1]);
        }
        snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv", 4 * s + 3);
        if (s < 2)
            fixture_conv(f, name, LX_SHAPE(2 * in, in, 3, 1, 1));
        snprintf(name, sizeof name, "decoder.upsamples.%d.resample.1", 4 * s + 3);
        if (s < 3)
            fixture_conv(f, name, LX_SHAPE(in / 2, in, 3, 3));
        in /= 2;
    }
    fixture_add(f, "decoder.head.0.gamma", LX_SHAPE(base, 1, 1, 1));
    fixture_conv(f, "decoder.head.2", LX_SHAPE(3, base, 3, 3, 3));
}

/* Write the synthetic checkpoint of a base width (24: light, 96: full). */
static inline void fixture_write(const char *path, int64_t base, bool zero_time_weights)
{
    lx_err err = {0};
    fixture_file *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->zero_time_weights = zero_time_weights;
    fixture_layers(f, base);
    if (lx_safetensors_write(path, f->tensor, f->n, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < f->n; i++)
        free(f->tensor[i].tensor.data);
    free(f);
}

static inline vae *fixture_open_as(const char *device, const char *path, vae_clip largest,
                                   int threads, lx_accumulate_choice accumulate)
{
    lx_err err = {0};
    vae *model = NULL;
    vae_options o = {.weights = path,
                     .device = device,
                     .threads = threads,
                     .largest = largest,
                     .accumulate = accumulate};
    if (vae_open(&model, &o, &err) != LX_OK)
        fail_msg("%s", err.message);
    return model;
}

static inline vae *fixture_open_on(const char *device, const char *path, vae_clip largest,
                                   int threads)
{
    return fixture_open_as(device, path, largest, threads, LX_ACCUMULATE_AUTO);
}

static inline vae *fixture_open(const char *path, vae_clip largest, int threads)
{
    return fixture_open_on("cpu", path, largest, threads);
}

static inline float *fixture_latent(const vae_clip *clip, const char *key)
{
    size_t n = (size_t)(16 * clip->frames * clip->height * clip->width);
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(1.5 * fixture_unit(fixture_seed(key), i));
    return out;
}

typedef struct fixture_frames { /* [3, F, H, W], not clamped */
    int64_t frames, height, width;
    float *data;
    int64_t n_calls;
    lx_exec *x;
} fixture_frames;

static inline size_t fixture_size(const fixture_frames *f)
{
    return (size_t)(3 * f->frames * f->height * f->width);
}

static inline lx_status fixture_take(void *self, const vae_frames *frames, lx_err *err)
{
    (void)err;
    fixture_frames *f = self;
    const lx_colour_args *a = &frames->place;
    assert_int_equal(a->out_frames, f->frames);
    assert_true(a->out_frame >= frames->chunk_first);
    assert_true(a->out_frame + a->in->frames <= frames->chunk_first + frames->chunk_frames);
    int64_t row = a->in->width * 3;
    float *rgb = malloc((size_t)(a->in->height * row) * sizeof *rgb);
    assert_non_null(rgb);
    for (int64_t t = 0; t < a->in->frames; t++) {
        assert_int_equal(lx_image_download(f->x, a->in, t, rgb, NULL), LX_OK);
        for (int64_t i = 0; i < 3 * a->height * a->width; i++) {
            int64_t c = i % 3, x = i / 3 % a->width, y = i / 3 / a->width;
            int64_t frame = c * f->frames + a->out_frame + t;
            f->data[(frame * f->height + a->out_y + y) * f->width + a->out_x + x] =
                rgb[(a->y + y) * row + (a->x + x) * 3 + c];
        }
    }
    free(rgb);
    f->n_calls++;
    return LX_OK;
}

/* Decode into memory of its own (free .data). It begins as NaN: what is not written shows. */
static inline fixture_frames fixture_decode(vae *model, const vae_clip *clip, const float *latent)
{
    lx_err err = {0};
    fixture_frames f = {.frames = vae_frame_count(clip->frames),
                        .height = 8 * clip->height,
                        .width = 8 * clip->width};
    f.data = malloc(fixture_size(&f) * sizeof *f.data);
    assert_non_null(f.data);
    for (size_t i = 0; i < fixture_size(&f); i++)
        f.data[i] = NAN;
    f.x = vae_exec(model);
    vae_sink sink = {.frames = fixture_take, .self = &f};
    size_t mark = lx_arena_mark(f.x->arena);
    if (vae_latent_place(f.x, clip, latent, &latent, &err) != LX_OK ||
        vae_decode(vae_decoder_of(model), f.x, clip, latent, &sink, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    lx_arena_reset(f.x->arena, mark);
    return f;
}

#endif
