/*
 * vae_layers.c - the decoder's forward pass, a few frames at a time
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every function takes the next frames of its layer's stream and the state that earlier ones left.
 * Source: Wan2.1 wan/modules/vae.py.
 */
#include <math.h>

#include "lx_attention.h"
#include "lx_copy.h"
#include "vae_model.h"

/* Frames at a time in a stage: equal memory, as a stage has 4 times the pixels of the one before
 * and half its channels. Stage 0 goes by chunks. */
static int64_t piece_frames(const vae_pass *p, int stage)
{
    int64_t n = p->piece >> (stage - 1);
    return n < 1 ? 1 : n;
}

/* Latent means and deviations of Wan2.1, channels 0..15 (wan/modules/vae.py). */
static const float latent_mean[LX_LATENT_CHANNELS] = {
    -0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,  -0.1517f, 1.5508f,
    0.4134f,  -0.0715f, 0.5517f,  -0.3632f, -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
static const float latent_std[LX_LATENT_CHANNELS] = {
    2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
    3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f};

lx_image vae_frames_of(const lx_image *image, int64_t first, int64_t n)
{
    lx_image part = *image;
    part.data = lx_image_frame(image, first);
    part.frames = n;
    return part;
}

/* Frames that stage s's stream has in the whole clip. */
static int64_t stream_frames(const vae_pass *p, int stage)
{
    int64_t rate = stage == 0 ? 1 : stage == 1 ? 2 : 4;
    return rate * (p->latent_frames - 1) + 1;
}

static lx_status show(const vae_pass *p, const char *name, const lx_image *image, int64_t first,
                      int stage, lx_err *err)
{
    if (!p->shows_layers || p->x->is_dry)
        return LX_OK;
    return p->sink->layer(p->sink->self, name, image, first, stream_frames(p, stage), err);
}

/* A causal convolution of a chunk: history, chunk, and the history it leaves. spare: NULL, or the
 * chunk itself, which trades places with the oldest frame. */
static lx_status causal(const vae_pass *p, const lx_conv *conv, const lx_image *chunk,
                        void *history[2], lx_image *spare, const lx_image *residual, lx_image *out,
                        lx_err *err)
{
    lx_image in = *chunk;
    in.frames += 2;
    in.history[0] = history[0];
    in.history[1] = history[1];
    lx_status status = lx_conv_run(p->x, conv, &in, false, residual, out, err);
    if (status != LX_OK || !spare)
        return status == LX_OK ? lx_history_keep(p->x, &in, history, err) : status;
    void *oldest = history[0];
    history[0] = history[1];
    history[1] = spare->data;
    spare->data = oldest;
    return LX_OK;
}

/* Can frames like these go through the spare one? NULL: no. */
static lx_image *usable(lx_image *spare, const lx_image *like, int64_t channels)
{
    bool is_like = spare && like->frames == 1 && like->channels == channels &&
                   spare->channels == channels && spare->height == like->height &&
                   spare->width == like->width;
    return is_like ? spare : NULL;
}

/* *image is changed in place, or replaced by a new one where the width changes. */
static lx_status residual_block(const vae_pass *p, const vae_block *block, vae_block_state *state,
                                lx_image *spare, lx_image *image, lx_err *err)
{
    lx_exec *x = p->x;
    lx_image in = *image, out = *image, a = {0}, b = {0};
    lx_status status = LX_OK;
    bool has_shortcut = block->c_in != block->c_out;
    spare = usable(spare, &in, block->c_out);
    if (has_shortcut)
        status = lx_image_take(x, in.frames, in.height, in.width, block->c_out, &out, err);
    size_t mark = lx_arena_mark(x->arena);
    if (spare)
        a = *spare;
    else if (status == LX_OK)
        status = lx_image_take(x, in.frames, in.height, in.width, block->c_in, &a, err);
    if (status == LX_OK)
        status = lx_image_take(x, in.frames, in.height, in.width, block->c_out, &b, err);
    if (status == LX_OK && has_shortcut)
        status = lx_conv_run(x, &block->shortcut, &in, false, NULL, &out, err);
    a.dtype = block->conv_a.input; /* of the same size */
    if (status == LX_OK)
        status = lx_channel_norm(x, &in, block->gamma_a, true, &a, err);
    if (status == LX_OK)
        status = causal(p, &block->conv_a, &a, state->a, spare, NULL, &b, err);
    a = spare ? *spare : b;
    a.dtype = block->conv_b.input;
    if (status == LX_OK)
        status = lx_channel_norm(x, &b, block->gamma_b, true, &a, err);
    if (status == LX_OK)
        status = causal(p, &block->conv_b, &a, state->b, spare, &out, &out, err);
    lx_arena_reset(x->arena, mark);
    if (status == LX_OK)
        *image = out;
    return status;
}

/* The pixels of a frame as rows of a matrix. */
static lx_mat rows_of(const lx_image *image)
{
    return (lx_mat){.dtype = image->dtype,
                    .rows = image->height * image->width,
                    .cols = image->channels,
                    .stride = image->channels,
                    .data = image->data};
}

/* Images of one frame that attention works with. */
typedef struct attention_room {
    lx_image a, qk, v; /* a: the normed frame, then the result */
} attention_room;

static lx_status attention_room_take(lx_exec *x, const lx_image *like, attention_room *out,
                                     lx_err *err)
{
    int64_t h = like->height, w = like->width, c = like->channels;
    lx_shape values = LX_SHAPE(1, h, w, c);
    lx_status status = lx_image_take(x, 1, h, w, c, &out->a, err);
    if (status == LX_OK)
        status = lx_image_take(x, 1, h, w, 2 * c, &out->qk, err);
    return status == LX_OK ? lx_image_take_as(x, x->value, &values, &out->v, err) : status;
}

/* softmax(q k' / sqrt(C)) v over the pixels of one frame, into room->a. */
static lx_status attend(lx_exec *x, const attention_room *room, lx_err *err)
{
    int64_t c = room->a.channels;
    lx_mat qk = rows_of(&room->qk), k = lx_mat_cols(&qk, c, c), v = rows_of(&room->v);
    lx_kv kv;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = lx_kv_prepare(x, LX_ATTENTION_PLAIN, &k, &v, 1, &kv, err);
    lx_attention_args args = {.q = lx_mat_cols(&qk, 0, c),
                              .kv = &kv,
                              .scale = (float)(1 / sqrt((double)c)),
                              .out = rows_of(&room->a)};
    if (status == LX_OK)
        status = lx_attention(x, &args, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

/* One head over all pixels of each frame; image is changed in place. */
static lx_status attention(const vae_pass *p, lx_image *image, lx_err *err)
{
    const vae_attention *layer = &p->m->attention;
    lx_exec *x = p->x;
    attention_room room;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = attention_room_take(x, image, &room, err);
    for (int64_t f = 0; f < image->frames && status == LX_OK; f++) {
        lx_image frame = vae_frames_of(image, f, 1);
        status = lx_channel_norm(x, &frame, layer->gamma, false, &room.a, err);
        if (status == LX_OK)
            status = lx_conv_run(x, &layer->qk, &room.a, false, NULL, &room.qk, err);
        if (status == LX_OK)
            status = lx_conv_run(x, &layer->v, &room.a, false, NULL, &room.v, err);
        if (status == LX_OK)
            status = attend(x, &room, err);
        if (status == LX_OK)
            status = lx_conv_run(x, &layer->proj, &room.a, false, &frame, &frame, err);
    }
    lx_arena_reset(x->arena, mark);
    return status;
}

/* conv2 on the denormalised latent, then conv1. */
static lx_status trunk_begin(const vae_pass *p, vae_trunk_state *state, const float *latent,
                             lx_image *out, lx_err *err)
{
    lx_image z, a;
    lx_exec *x = p->x;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status =
        lx_image_take(x, out->frames, out->height, out->width, p->m->conv2.c_in, &z, err);
    if (status == LX_OK)
        status = lx_image_take(x, out->frames, out->height, out->width, p->m->conv2.c_out, &a, err);
    if (status == LX_OK)
        status = lx_image_from_planes(x, latent, p->latent_frames, state->seen, latent_std,
                                      latent_mean, &z, err);
    if (status == LX_OK)
        status = lx_conv_run(x, &p->m->conv2, &z, false, NULL, &a, err);
    if (status == LX_OK)
        status = show(p, "conv2", &a, state->seen, 0, err);
    if (status == LX_OK)
        status = causal(p, &p->m->conv1, &a, state->conv1, NULL, NULL, out, err);
    lx_arena_reset(x->arena, mark);
    return status == LX_OK ? show(p, "decoder.conv1", out, state->seen, 0, err) : status;
}

static lx_status shown_block(const vae_pass *p, const vae_block *block, vae_block_state *state,
                             lx_image *image, int64_t first, int stage, lx_err *err)
{
    lx_status status = residual_block(p, block, state, NULL, image, err);
    return status == LX_OK ? show(p, block->name, image, first, stage, err) : status;
}

lx_status vae_trunk(vae_pass *p, vae_trunk_state *state, const float *latent, lx_image *image,
                    lx_err *err)
{
    const vae_decoder *m = p->m;
    int64_t n = image->frames;
    lx_status status = trunk_begin(p, state, latent, image, err);
    if (status == LX_OK)
        status = shown_block(p, &m->middle[0], &state->middle[0], image, state->seen, 0, err);
    if (status == LX_OK)
        status = attention(p, image, err);
    if (status == LX_OK)
        status = show(p, m->attention.name, image, state->seen, 0, err);
    if (status == LX_OK)
        status = shown_block(p, &m->middle[1], &state->middle[1], image, state->seen, 0, err);
    for (int i = 0; i < VAE_BLOCKS && status == LX_OK; i++)
        status = shown_block(p, &m->block[0][i], &state->block[i], image, state->seen, 0, err);
    state->seen += n;
    return status;
}

/*
 * The frame rate doubles: stream x0, x1, ... becomes x0 as it is, then two frames for each of x1,
 * x2, ..., whose history begins with zeros and never holds x0. out has its frames already.
 */
static lx_status time_upsample(const vae_pass *p, const vae_upsampler *up, void *history[2],
                               bool is_first, const lx_image *in, lx_image *out, lx_err *err)
{
    int64_t skip = is_first ? 1 : 0, n = in->frames - skip;
    int64_t frame = in->height * in->width * in->channels;
    lx_status status = LX_OK;
    if (is_first) {
        lx_image from = vae_frames_of(in, 0, 1), to = vae_frames_of(out, 0, 1);
        status = lx_image_crop(p->x, &from, 0, 0, &to, err);
    }
    if (n == 0 || status != LX_OK)
        return status;
    lx_image rest = vae_frames_of(in, skip, n), even = vae_frames_of(out, skip, n);
    lx_image odd = vae_frames_of(out, skip + 1, n);
    even.frame_stride = odd.frame_stride = 2 * frame;
    rest.frames += 2;
    rest.history[0] = history[0];
    rest.history[1] = history[1];
    status = lx_conv_run(p->x, &up->even, &rest, false, NULL, &even, err);
    if (status == LX_OK)
        status = lx_conv_run(p->x, &up->odd, &rest, false, NULL, &odd, err);
    return status == LX_OK ? lx_history_keep(p->x, &rest, history, err) : status;
}

lx_status vae_step(vae_pass *p, lx_err *err)
{
    lx_status status = lx_exec_pace(p->x, err);
    return status == LX_OK ? lx_progress_step(p->progress, "chunk", p->done, p->total, err)
                           : status;
}

/* The last norm and convolution, and off they go. image is used up. */
static lx_status head(const vae_pass *p, vae_up_state *state, lx_image *image, lx_err *err)
{
    lx_exec *x = p->x;
    lx_image rgb; /* f32 everywhere: it is small, and the last rounding is the output's */
    lx_shape shape = LX_SHAPE(image->frames, image->height, image->width, p->m->head.c_out);
    int64_t first = state->seen[VAE_STAGES - 1];
    lx_status status = lx_image_take_as(x, LX_DTYPE_F32, &shape, &rgb, err);
    lx_image *spare = usable(&state->spare, image, p->m->head.c_in);
    lx_image normed = spare ? *spare : *image;
    if (status == LX_OK)
        status = lx_channel_norm(x, image, p->m->head_gamma, true, &normed, err);
    if (status == LX_OK)
        status = causal(p, &p->m->head, &normed, state->head, spare, NULL, &rgb, err);
    if (status == LX_OK)
        status = show(p, "decoder.head.2", &rgb, first, VAE_STAGES - 1, err);
    if (status != LX_OK || !p->sink || x->is_dry)
        return status;
    vae_frames frames = {
        .place = p->place, .chunk_first = p->chunk_first, .chunk_frames = p->chunk_frames};
    frames.place.in = &rgb;
    frames.place.out_frame = first;
    return p->sink->frames(p->sink->self, &frames, err);
}

/* One piece of stage `stage`: residual blocks, then up to the next stage or out. */
static lx_status stage_piece(vae_pass *p, vae_up_state *state, int stage, lx_image *image,
                             lx_err *err)
{
    lx_status status = LX_OK;
    int64_t n = image->frames;
    for (int i = 0; i < VAE_BLOCKS && status == LX_OK; i++) {
        const vae_block *block = &p->m->block[stage][i];
        status = residual_block(p, block, &state->block[stage][i], &state->spare, image, err);
        if (status == LX_OK)
            status = show(p, block->name, image, state->seen[stage], stage, err);
    }
    if (status == LX_OK)
        status = stage < VAE_STAGES - 1 ? vae_upsample(p, state, stage, image, err)
                                        : head(p, state, image, err);
    if (stage == VAE_STAGES - 1)
        state->seen[stage] += n;
    return status == LX_OK ? vae_step(p, err) : status;
}

lx_status vae_upsample(vae_pass *p, vae_up_state *state, int stage, lx_image *in, lx_err *err)
{
    lx_exec *x = p->x;
    const vae_upsampler *up = &p->m->up[stage];
    bool is_first = state->seen[stage] == 0, doubles = stage < VAE_TIME_UPS;
    lx_image all = *in;
    lx_status status = LX_OK;
    size_t mark = lx_arena_mark(x->arena);
    if (doubles) {
        int64_t n = 2 * in->frames - (is_first ? 1 : 0);
        status = lx_image_take(x, n, in->height, in->width, in->channels, &all, err);
        if (status == LX_OK)
            status = time_upsample(p, up, state->time[stage], is_first, in, &all, err);
    }
    int64_t step = piece_frames(p, stage + 1);
    for (int64_t at = 0; at < all.frames && status == LX_OK; at += step) {
        int64_t n = all.frames - at < step ? all.frames - at : step;
        lx_image low = vae_frames_of(&all, at, n), high;
        size_t piece_mark = lx_arena_mark(x->arena);
        status = lx_image_take(x, n, 2 * in->height, 2 * in->width, up->spatial.c_out, &high, err);
        if (status == LX_OK)
            status = lx_conv_run(x, &up->spatial, &low, true, NULL, &high, err);
        if (status == LX_OK)
            status = show(p, up->name, &high, state->seen[stage + 1], stage + 1, err);
        if (status == LX_OK)
            status = stage_piece(p, state, stage + 1, &high, err);
        lx_arena_reset(x->arena, piece_mark);
    }
    lx_arena_reset(x->arena, mark);
    state->seen[stage] += in->frames;
    return status;
}
