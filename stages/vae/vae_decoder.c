/*
 * vae_decoder.c - loading the decoder, and the order in which a clip is decoded
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vae_decoder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "lx_copy.h"
#include "lx_patch.h"
#include "vae_model.h"

/* --- loading --------------------------------------------------------------------------------- */

typedef struct loader {
    vae_decoder *m;
    lx_exec *x;
    const lx_weights *weights;
    lx_err *err;
    lx_status status; /* the first failure; later calls do nothing */
} loader;

static bool find(loader *l, lx_weight *out, const char *prefix, const char *suffix)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", prefix, suffix);
    if (l->status == LX_OK && !lx_weights_find(l->weights, name, out))
        l->status = lx_fail(l->err, LX_ECONFIG, "%s: no tensor %s; is this the Wan2.1 VAE?",
                            lx_weights_path(l->weights), name);
    return l->status == LX_OK;
}

static void load_conv(loader *l, const char *prefix, const char *layer, lx_conv *out)
{
    char name[96];
    lx_weight weight, bias;
    snprintf(name, sizeof name, "%s%s%s", prefix, *layer ? "." : "", layer);
    if (find(l, &weight, name, "weight") && find(l, &bias, name, "bias"))
        l->status = lx_conv_load(l->x, &weight, &bias, out, l->err);
}

/* One that reads what the norm with this gain makes. */
static void load_normed(loader *l, const char *prefix, const char *layer, const char *gain,
                        lx_conv *out)
{
    char name[96];
    lx_weight weight, bias, gamma;
    snprintf(name, sizeof name, "%s.%s", prefix, layer);
    if (find(l, &weight, name, "weight") && find(l, &bias, name, "bias") &&
        find(l, &gamma, prefix, gain))
        l->status = lx_conv_load_normed(l->x, &weight, &bias, &gamma, out, l->err);
}

static void load_gain(loader *l, const char *prefix, const char *suffix, int64_t n, float **out)
{
    lx_weight weight;
    if (find(l, &weight, prefix, suffix))
        l->status = lx_gain_load(l->x, &weight, n, out, l->err);
}

static void load_block(loader *l, vae_block *b, const char *name, int64_t c_in, int64_t c_out)
{
    snprintf(b->name, sizeof b->name, "%s", name);
    b->c_in = c_in;
    b->c_out = c_out;
    load_gain(l, name, "residual.0.gamma", c_in, &b->gamma_a);
    load_normed(l, name, "residual.2", "residual.0.gamma", &b->conv_a);
    load_gain(l, name, "residual.3.gamma", c_out, &b->gamma_b);
    load_normed(l, name, "residual.6", "residual.3.gamma", &b->conv_b);
    if (c_in != c_out)
        load_conv(l, name, "shortcut", &b->shortcut);
}

/* One convolution as two: its first n outputs, and the others. */
static void load_split(loader *l, const char *name, int64_t n, lx_conv *first, lx_conv *others)
{
    lx_weight weight, bias;
    uint64_t bytes;
    char text[128];
    if (!find(l, &weight, name, "weight") || !find(l, &bias, name, "bias"))
        return;
    l->status = lx_shape_bytes(&weight.shape, weight.dtype, NULL, &bytes, l->err);
    if (l->status != LX_OK)
        return;
    int64_t all = weight.shape.dim[0];
    if (weight.shape.n_dims < 4 || all <= n || bias.shape.n_dims != 1 || bias.shape.dim[0] != all) {
        l->status = lx_fail(l->err, LX_ECONFIG,
                            "%s: %s %s has not more than %" PRId64 " outputs, or its bias differs",
                            lx_weights_path(l->weights), weight.name,
                            lx_shape_text(&weight.shape, text, sizeof text), n);
        return;
    }
    weight.shape.dim[0] = bias.shape.dim[0] = n;
    l->status = lx_conv_load(l->x, &weight, &bias, first, l->err);
    weight.shape.dim[0] = bias.shape.dim[0] = all - n;
    if (weight.data && bias.data) { /* absent where only headers were read */
        weight.data = (const unsigned char *)weight.data + bytes / (uint64_t)all * (uint64_t)n;
        bias.data = (const unsigned char *)bias.data + (size_t)n * lx_dtype_size(bias.dtype);
    }
    if (l->status == LX_OK)
        l->status = lx_conv_load(l->x, &weight, &bias, others, l->err);
}

static void load_upsampler(loader *l, int stage, int64_t width)
{
    vae_upsampler *up = &l->m->up[stage];
    char name[96];
    snprintf(up->name, sizeof up->name, "decoder.upsamples.%d", stage * (VAE_BLOCKS + 1) + 3);
    snprintf(name, sizeof name, "%s.time_conv", up->name);
    /* Its first half makes the even frames, the second the odd ones: two convolutions that write
     * every other frame. */
    if (stage < VAE_TIME_UPS)
        load_split(l, name, width, &up->even, &up->odd);
    load_conv(l, up->name, "resample.1", &up->spatial);
}

static void load_layers(loader *l)
{
    vae_decoder *m = l->m;
    const int64_t *width = m->dims.width;
    load_conv(l, "conv2", "", &m->conv2);
    load_conv(l, "decoder.conv1", "", &m->conv1);
    load_block(l, &m->middle[0], "decoder.middle.0", width[0], width[0]);
    snprintf(m->attention.name, sizeof m->attention.name, "decoder.middle.1");
    load_gain(l, m->attention.name, "norm.gamma", width[0], &m->attention.gamma);
    load_split(l, "decoder.middle.1.to_qkv", 2 * width[0], &m->attention.qk, &m->attention.v);
    load_conv(l, m->attention.name, "proj", &m->attention.proj);
    load_block(l, &m->middle[1], "decoder.middle.2", width[0], width[0]);
    int64_t c_in = width[0];
    for (int s = 0; s < VAE_STAGES; s++) {
        for (int i = 0; i < VAE_BLOCKS; i++) {
            char name[VAE_NAME];
            snprintf(name, sizeof name, "decoder.upsamples.%d", s * (VAE_BLOCKS + 1) + i);
            load_block(l, &m->block[s][i], name, c_in, width[s + 1]);
            c_in = width[s + 1];
        }
        if (s < VAE_STAGES - 1) {
            load_upsampler(l, s, c_in);
            c_in = m->up[s].spatial.c_out; /* half of the width */
        }
    }
    load_gain(l, "decoder.head.0", "gamma", width[VAE_STAGES], &m->head_gamma);
    load_conv(l, "decoder.head.2", "", &m->head);
}

lx_status vae_decoder_load(vae_decoder **out, lx_exec *x, const lx_weights *weights, lx_err *err)
{
    vae_decoder *m = calloc(1, sizeof *m);
    if (!m)
        return lx_fail(err, LX_EAGAIN, "out of memory for the decoder's record");
    loader l = {.m = m, .x = x, .weights = weights, .err = err};
    l.status = lx_catalog_vae(weights, &m->dims, err);
    if (l.status == LX_OK && m->dims.z_dim != LX_LATENT_CHANNELS)
        l.status = lx_fail(err, LX_ECONFIG, "%s: latents of %" PRId64 " channels, Wan2.1 has %d",
                           lx_weights_path(weights), m->dims.z_dim, LX_LATENT_CHANNELS);
    if (l.status == LX_OK)
        load_layers(&l);
    if (l.status != LX_OK)
        vae_decoder_destroy(&m);
    else
        *out = m;
    return l.status;
}

void vae_decoder_destroy(vae_decoder **decoder)
{
    free(*decoder);
    *decoder = NULL;
}

const lx_vae_dims *vae_decoder_dims(const vae_decoder *decoder)
{
    return &decoder->dims;
}

/* --- decoding -------------------------------------------------------------------------------- */

int64_t vae_frame_count(int64_t latent_frames)
{
    return LX_VAE_STRIDE_TIME * (latent_frames - 1) + 1;
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A chunk's place in the output: latent 0 is one frame, every other is four. */
static void set_chunk(vae_pass *p, int64_t first, int64_t n)
{
    p->chunk_first = first ? vae_frame_count(first) : 0;
    p->chunk_frames = vae_frame_count(first + n) - p->chunk_first;
}

static lx_status end_chunk(vae_pass *p, lx_err *err)
{
    p->done++;
    return vae_step(p, err);
}

/* All of the frame, chunk after chunk, each handed on before the next begins. */
static lx_status decode_streaming(vae_pass *p, const vae_clip *clip, const float *latent,
                                  lx_err *err)
{
    vae_trunk_state trunk;
    vae_up_state up;
    lx_status status = vae_trunk_state_take(p->m, p->x, clip->height, clip->width, &trunk, err);
    if (status == LX_OK)
        status = vae_up_state_take(p->m, p->x, clip->height, clip->width, &up, err);
    p->place.height = p->place.out_height;
    p->place.width = p->place.out_width;
    for (int64_t t = 0; t < clip->frames && status == LX_OK; t += clip->chunk) {
        lx_image image;
        int64_t n = min_i64(clip->chunk, clip->frames - t);
        size_t mark = lx_arena_mark(p->x->arena);
        set_chunk(p, t, n);
        status = lx_image_take(p->x, n, clip->height, clip->width, p->m->conv1.c_out, &image, err);
        if (status == LX_OK)
            status = vae_trunk(p, &trunk, latent, &image, err);
        if (status == LX_OK)
            status = vae_upsample(p, &up, 0, &image, err);
        lx_arena_reset(p->x->arena, mark);
        if (status == LX_OK)
            status = end_chunk(p, err);
    }
    return status;
}

/* conv2 to upsamples.2 for the whole clip: `features` has its T frames already. Nobody waits for
 * its chunks, and a card is not occupied by one frame of latents. */
static lx_status whole_trunk(vae_pass *p, const vae_clip *clip, const float *latent,
                             lx_image *features, lx_err *err)
{
    vae_trunk_state trunk;
    int64_t chunk = clip->chunk < 4 && !lx_exec_is_host(p->x) ? 4 : clip->chunk;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_status status = vae_trunk_state_take(p->m, p->x, clip->height, clip->width, &trunk, err);
    for (int64_t t = 0; t < clip->frames && status == LX_OK; t += chunk) {
        int64_t n = min_i64(chunk, clip->frames - t);
        lx_image image, part = vae_frames_of(features, t, n);
        size_t chunk_mark = lx_arena_mark(p->x->arena);
        status = lx_image_take(p->x, n, clip->height, clip->width, p->m->conv1.c_out, &image, err);
        if (status == LX_OK)
            status = vae_trunk(p, &trunk, latent, &image, err);
        if (status == LX_OK)
            status = lx_image_crop(p->x, &image, 0, 0, &part, err);
        lx_arena_reset(p->x->arena, chunk_mark);
        p->done = (uint64_t)((t + n - 1) / clip->chunk); /* counted in the clip's own chunks */
        if (status == LX_OK)
            status = end_chunk(p, err);
    }
    lx_arena_reset(p->x->arena, mark);
    return status;
}

/* A span of latents with its halo, cut at the frame's edges. */
typedef struct span {
    int64_t from, size;   /* what is decoded */
    int64_t inner, valid; /* what of it counts: its offset in the span, and how many */
} span;

static span span_of(int64_t at, int64_t tile, int64_t whole)
{
    int64_t end = min_i64(at + tile, whole), to = min_i64(end + VAE_HALO, whole);
    int64_t from = at > VAE_HALO ? at - VAE_HALO : 0;
    return (span){.from = from, .size = to - from, .inner = at - from, .valid = end - at};
}

static lx_status decode_tile(vae_pass *p, const vae_clip *clip, const lx_image *features, span y,
                             span x, lx_err *err)
{
    vae_up_state up;
    size_t mark = lx_arena_mark(p->x->arena);
    lx_status status = vae_up_state_take(p->m, p->x, y.size, x.size, &up, err);
    p->place.y = y.inner * LX_VAE_STRIDE;
    p->place.x = x.inner * LX_VAE_STRIDE;
    p->place.height = y.valid * LX_VAE_STRIDE;
    p->place.width = x.valid * LX_VAE_STRIDE;
    p->place.out_y = (y.from + y.inner) * LX_VAE_STRIDE;
    p->place.out_x = (x.from + x.inner) * LX_VAE_STRIDE;
    for (int64_t t = 0; t < clip->frames && status == LX_OK; t += clip->chunk) {
        int64_t n = min_i64(clip->chunk, clip->frames - t);
        lx_image part = vae_frames_of(features, t, n), tile;
        size_t chunk_mark = lx_arena_mark(p->x->arena);
        set_chunk(p, t, n);
        status = lx_image_take(p->x, n, y.size, x.size, features->channels, &tile, err);
        if (status == LX_OK)
            status = lx_image_crop(p->x, &part, y.from, x.from, &tile, err);
        if (status == LX_OK)
            status = vae_upsample(p, &up, 0, &tile, err);
        lx_arena_reset(p->x->arena, chunk_mark);
        if (status == LX_OK)
            status = end_chunk(p, err);
    }
    lx_arena_reset(p->x->arena, mark);
    return status;
}

static lx_status decode_tiled(vae_pass *p, const vae_clip *clip, const float *latent, lx_err *err)
{
    lx_image features;
    lx_status status = lx_image_take(p->x, clip->frames, clip->height, clip->width,
                                     p->m->dims.width[1], &features, err);
    if (status == LX_OK)
        status = whole_trunk(p, clip, latent, &features, err);
    p->shows_layers = false; /* from here on there are only parts of them */
    for (int64_t y = 0; y < clip->height && status == LX_OK; y += clip->tile_h)
        for (int64_t x = 0; x < clip->width && status == LX_OK; x += clip->tile_w)
            status = decode_tile(p, clip, &features, span_of(y, clip->tile_h, clip->height),
                                 span_of(x, clip->tile_w, clip->width), err);
    return status;
}

static lx_status check_clip(const vae_clip *c, lx_err *err)
{
    if (c->frames < 1 || c->height < 1 || c->width < 1 || c->frames > LX_LIMIT_FRAMES ||
        c->height > LX_LIMIT_SIDE || c->width > LX_LIMIT_SIDE)
        return lx_fail(err, LX_EJOB,
                       "latent of %" PRId64 " frames of %" PRId64 "x%" PRId64
                       ": sides of 1 to %d and 1 to %d frames are decoded",
                       c->frames, c->height, c->width, LX_LIMIT_SIDE, LX_LIMIT_FRAMES);
    if (c->piece < 0 || c->piece > 4)
        return lx_fail(err, LX_EJOB, "pieces of %" PRId64 " frames: 1, 2 and 4 are possible",
                       c->piece);
    if (c->chunk < 1 || c->tile_h < 0 || c->tile_w < 0 || (c->tile_h > 0) != (c->tile_w > 0))
        return lx_fail(err, LX_EJOB,
                       "chunk of %" PRId64 " latent frames, tile of %" PRId64 "x%" PRId64
                       " latents: a chunk has at least 1, a tile two positive sides",
                       c->chunk, c->tile_h, c->tile_w);
    return LX_OK;
}

lx_status vae_decode(vae_decoder *decoder, lx_exec *x, const vae_clip *clip, const float *latent,
                     const vae_sink *sink, const lx_progress *progress, lx_err *err)
{
    lx_status status = check_clip(clip, err);
    if (status != LX_OK)
        return status;
    bool is_tiled = clip->tile_h > 0;
    int64_t chunks = (clip->frames - 1) / clip->chunk + 1, tiles = 0;
    if (is_tiled)
        tiles = ((clip->height - 1) / clip->tile_h + 1) * ((clip->width - 1) / clip->tile_w + 1);
    vae_pass pass = {.m = decoder,
                     .x = x,
                     .sink = sink,
                     .shows_layers = sink && sink->layer,
                     .latent_frames = clip->frames,
                     .piece = clip->piece ? clip->piece : 4,
                     .place = {.out_frames = vae_frame_count(clip->frames),
                               .out_height = clip->height * LX_VAE_STRIDE,
                               .out_width = clip->width * LX_VAE_STRIDE},
                     .progress = progress,
                     .total = (uint64_t)(chunks * (tiles + 1))};
    size_t mark = lx_arena_mark(x->arena);
    status = is_tiled ? decode_tiled(&pass, clip, latent, err)
                      : decode_streaming(&pass, clip, latent, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

static lx_status not_finite(const vae_clip *clip, int64_t bad, float value, lx_err *err)
{
    int64_t pixels = clip->height * clip->width, frame = clip->frames * pixels;
    return lx_fail(err, LX_EJOB,
                   "latent is not finite: %g at channel %" PRId64 ", frame %" PRId64
                   ", row %" PRId64 ", column %" PRId64 "; it was made so by the stage before",
                   (double)value, bad / frame, bad % frame / pixels, bad % pixels / clip->width,
                   bad % clip->width);
}

lx_status vae_latent_check(const float *latent, const vae_clip *clip, lx_err *err)
{
    int64_t n = LX_LATENT_CHANNELS * clip->frames * clip->height * clip->width, bad = 0;
    while (bad < n && isfinite(latent[bad]))
        bad++;
    return bad == n ? LX_OK : not_finite(clip, bad, latent[bad], err);
}

lx_status vae_latent_check_on(lx_exec *x, const float *latent, const vae_clip *clip, lx_err *err)
{
    int64_t n = LX_LATENT_CHANNELS * clip->frames * clip->height * clip->width, bad = -1;
    float value = 0;
    lx_status status = lx_find_nonfinite(x, latent, n, &bad, err);
    if (status != LX_OK || bad < 0)
        return status;
    status = lx_download(x, &value, latent + bad, sizeof value, err);
    return status == LX_OK ? not_finite(clip, bad, value, err) : status;
}

lx_status vae_latent_place(lx_exec *x, const vae_clip *clip, const float *host, const float **out,
                           lx_err *err)
{
    uint64_t elements, bytes;
    float *device = NULL;
    lx_shape shape = LX_SHAPE(LX_LATENT_CHANNELS, clip->frames, clip->height, clip->width);
    *out = host;
    if (lx_exec_is_host(x))
        return LX_OK;
    lx_status status = lx_shape_bytes(&shape, LX_DTYPE_F32, &elements, &bytes, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, elements, &device, err);
    if (status == LX_OK)
        status = lx_upload(x, device, host, (size_t)bytes, err);
    *out = device;
    return status;
}
