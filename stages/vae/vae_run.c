/*
 * vae_run.c - `lx2v-vae run`: one latent by hand, files in, files out
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_bus.h"
#include "lx_copy.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_run.h"
#include "vae.h"
#include "vae_model.h"

/* A run and what it owns. */
typedef struct job_by_hand {
    lx_run run;
    vae_clip clip;
    lx_accumulate_choice accumulate;
    vae *model;
    vae_room room;
    float *latent; /* malloc'd */
    float *frames; /* in run's list of outputs, as rgb8 */
    uint8_t *rgb8;
} job_by_hand;

/* Layers that can be dumped; the first N_TRUNK also when tiling. */
static const char *const layers[] = {"conv2",
                                     "decoder.conv1",
                                     "decoder.middle.0",
                                     "decoder.middle.1",
                                     "decoder.middle.2",
                                     "decoder.upsamples.0",
                                     "decoder.upsamples.1",
                                     "decoder.upsamples.2",
                                     "decoder.upsamples.3",
                                     "decoder.upsamples.4",
                                     "decoder.upsamples.5",
                                     "decoder.upsamples.6",
                                     "decoder.upsamples.7",
                                     "decoder.upsamples.8",
                                     "decoder.upsamples.9",
                                     "decoder.upsamples.10",
                                     "decoder.upsamples.11",
                                     "decoder.upsamples.12",
                                     "decoder.upsamples.13",
                                     "decoder.upsamples.14",
                                     "decoder.head.2"};
enum { N_LAYERS = sizeof layers / sizeof *layers, N_TRUNK = 8 };

/* Before the work, so that a typing error does not cost a decode. */
static lx_status check_dumps(const lx_run *run, bool is_tiled, lx_err *err)
{
    for (int i = 0; i < run->n_dumps; i++) {
        const char *name = run->dump_names[i];
        size_t at = 0;
        while (at < N_LAYERS && strcmp(layers[at], name) != 0)
            at++;
        if (at == N_LAYERS) {
            const char *near = lx_nearest(name, layers, N_LAYERS);
            return lx_fail(err, LX_ECONFIG, "--dump %s: the vae has no such layer; %s%s", name,
                           near ? "did you mean " : "it has conv2, decoder.conv1, ...",
                           near ? near : "");
        }
        if (is_tiled && at >= N_TRUNK)
            return lx_fail(err, LX_ECONFIG,
                           "--dump %s: from decoder.upsamples.3 on a tiled decode has only parts "
                           "of a layer; leave out --tile, or raise --vram",
                           name);
    }
    return LX_OK;
}

static lx_status parse(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    const char *chunk = NULL, *tile = NULL, *accumulate = NULL;
    const lx_run_flag flags[] = {
        {"chunk", &chunk, NULL, "latent frames at a time (1)"},
        {"tile", &tile, NULL, "HxW in latents; absent: only if --vram demands it"},
        {"accumulate", &accumulate, NULL, "of convolutions on a card: auto, fp32 or fp16 (auto)"},
    };
    VAE_TRY(lx_run_parse(&j->run, argc, argv, flags, sizeof flags / sizeof *flags, err));
    if (!j->run.weights || !j->run.input || !j->run.output)
        return lx_fail(err, LX_ECONFIG,
                       "--weights FILE, --input FILE and --output FILE are needed");
    VAE_TRY(lx_run_check_output(&j->run, err));
    lx_run_find_weights(&j->run, "vae");
    j->clip.chunk = 1;
    if (chunk && (!lx_parse_i64(chunk, &j->clip.chunk) || j->clip.chunk < 1 ||
                  j->clip.chunk > LX_LIMIT_FRAMES))
        return lx_fail(err, LX_ECONFIG, "--chunk %.40s: expected 1 to %d latent frames", chunk,
                       LX_LIMIT_FRAMES);
    if (tile) {
        int32_t h, w;
        if (lx_parse_size(tile, &h, &w, NULL) != LX_OK || h < 1 || w < 1 || h > LX_LIMIT_SIDE ||
            w > LX_LIMIT_SIDE || strchr(tile, 'p'))
            return lx_fail(err, LX_ECONFIG,
                           "--tile %.40s: expected HEIGHTxWIDTH in latents, such as 30x52", tile);
        j->clip.tile_h = h;
        j->clip.tile_w = w;
    }
    if (accumulate && lx_config_set_accumulate(&j->accumulate, accumulate, err) != LX_OK)
        return lx_wrap(err, "--accumulate");
    return check_dumps(&j->run, tile != NULL, err);
}

static lx_status read_latent(job_by_hand *j, lx_err *err)
{
    lx_shape shape;
    char text[128];
    VAE_TRY(lx_run_read_f32(&j->run, "latent", &shape, &j->latent, err));
    if (shape.n_dims != 4 || shape.dim[0] != LX_LATENT_CHANNELS)
        return lx_fail(err, LX_ECONFIG, "%s: latent is %s, [%d, T, H/8, W/8] is needed",
                       j->run.input, lx_shape_text(&shape, text, sizeof text), LX_LATENT_CHANNELS);
    j->clip.frames = shape.dim[1];
    j->clip.height = shape.dim[2];
    j->clip.width = shape.dim[3];
    for (int i = 1; i < 4; i++)
        if (shape.dim[i] < 1 || shape.dim[i] > (i == 1 ? LX_LIMIT_FRAMES : LX_LIMIT_SIDE))
            return lx_fail(err, LX_ECONFIG, "%s: latent is %s: no side may be 0 or past %d",
                           j->run.input, lx_shape_text(&shape, text, sizeof text), LX_LIMIT_SIDE);
    return LX_OK;
}

static lx_status load(job_by_hand *j, lx_err *err)
{
    double from = lx_now_s();
    vae_options options = {.weights = j->run.weights,
                           .device = j->run.device,
                           .threads = j->run.threads,
                           .largest = j->clip,
                           .budget = j->run.vram_bytes,
                           .budget_has_weights = true,
                           .accumulate = j->accumulate,
                           .progress = &j->run.progress};
    if (options.device && lx_device_is_card(options.device) && options.budget) /* of the process */
        options.budget = options.budget > VAE_CONTEXT ? options.budget - VAE_CONTEXT : 1;
    VAE_TRY(vae_open(&j->model, &options, err));
    j->clip = *vae_largest(j->model);
    j->run.load_s = lx_now_s() - from;
    return check_dumps(&j->run, j->clip.tile_h > 0, err);
}

static lx_status reserve_outputs(job_by_hand *j, lx_err *err)
{
    void *frames, *rgb8;
    lx_shape shape = LX_SHAPE(3, vae_frame_count(j->clip.frames), j->clip.height * LX_VAE_STRIDE,
                              j->clip.width * LX_VAE_STRIDE);
    VAE_TRY(lx_run_reserve(&j->run, "frames", LX_DTYPE_F32, &shape, &frames, err));
    VAE_TRY(lx_run_reserve(&j->run, "rgb8", LX_DTYPE_U8, &shape, &rgb8, err));
    j->frames = frames;
    j->rgb8 = rgb8;
    return LX_OK;
}

/* Frame t of a window from a card: as dense planes there, then row by row to its place here. */
static lx_status take_window(job_by_hand *j, const lx_colour_args *all, int64_t t, lx_err *err)
{
    lx_exec *x = vae_exec(j->model);
    const vae_room *room = &j->room;
    lx_image in = vae_frames_of(all->in, t, 1);
    lx_colour_args one = *all;
    size_t n = (size_t)(3 * all->height * all->width), row = (size_t)all->width;
    one.in = &in;
    one.out_frame = one.out_y = one.out_x = 0;
    one.out_frames = 1;
    one.out_height = all->height;
    one.out_width = all->width;
    VAE_TRY(lx_colour_planes(x, &one, room->planes, err));
    VAE_TRY(lx_colour_rgb8(x, &one, room->rgb8, err));
    VAE_TRY(lx_download(x, room->planes_host, room->planes, n * sizeof(float), err));
    VAE_TRY(lx_download(x, room->rgb8_host, room->rgb8, n, err));
    for (int64_t i = 0; i < 3 * all->height; i++) {
        int64_t frame = i / all->height * all->out_frames + all->out_frame + t;
        int64_t y = frame * all->out_height + all->out_y + i % all->height;
        size_t to = (size_t)(y * all->out_width + all->out_x), from = (size_t)i * row;
        memcpy(j->frames + to, room->planes_host + from, row * sizeof(float));
        memcpy(j->rgb8 + to, room->rgb8_host + from, row);
    }
    return LX_OK;
}

static lx_status take_frames(void *self, const vae_frames *frames, lx_err *err)
{
    job_by_hand *j = self;
    lx_exec *x = vae_exec(j->model);
    const lx_colour_args *place = &frames->place;
    for (int64_t t = 0; t < place->in->frames && !lx_exec_is_host(x); t++)
        VAE_TRY(take_window(j, place, t, err));
    if (!lx_exec_is_host(x))
        return LX_OK;
    VAE_TRY(lx_colour_planes(x, place, j->frames, err));
    return lx_colour_rgb8(x, place, j->rgb8, err);
}

static float *dumped(lx_run *run, const char *name)
{
    for (int i = 0; i < run->n_out; i++)
        if (!strcmp(run->out_names[i], name))
            return run->out[i].tensor.data;
    return NULL;
}

/* Channel-last frames into [C, total, H, W]. */
static lx_status take_layer(void *self, const char *name, const lx_image *image, int64_t first,
                            int64_t total, lx_err *err)
{
    job_by_hand *j = self;
    void *memory;
    if (!lx_run_wants(&j->run, name))
        return LX_OK;
    int64_t n = image->channels, pixels = image->height * image->width;
    lx_shape shape = LX_SHAPE(n, total, image->height, image->width);
    VAE_TRY(lx_run_reserve(&j->run, name, LX_DTYPE_F32, &shape, &memory, err));
    float *out = dumped(&j->run, name);
    float *frame = malloc((size_t)(pixels * n) * sizeof *frame); /* dumps are for debugging */
    if (!frame)
        return lx_fail(err, LX_EAGAIN, "out of memory for a frame of %s", name);
    lx_status status = LX_OK;
    for (int64_t t = 0; t < image->frames && status == LX_OK; t++) {
        status = lx_image_download(vae_exec(j->model), image, t, frame, err);
        for (int64_t c = 0; c < n; c++)
            for (int64_t p = 0; p < pixels; p++)
                out[(c * total + first + t) * pixels + p] = frame[p * n + c];
    }
    free(frame);
    return status;
}

static lx_status run_all(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    VAE_TRY(parse(j, argc, argv, err));
    VAE_TRY(read_latent(j, err));
    VAE_TRY(load(j, err));
    VAE_TRY(vae_latent_check(j->latent, &j->clip, err));
    VAE_TRY(reserve_outputs(j, err));
    vae_sink sink = {.frames = take_frames, .layer = j->run.n_dumps ? take_layer : NULL, .self = j};
    lx_exec *x = vae_exec(j->model);
    VAE_TRY(vae_room_take(x, &j->clip, false, &j->room, err));
    if (!lx_exec_is_host(x))
        VAE_TRY(lx_upload(x, j->room.latent, j->latent, j->room.latent_bytes, err));
    VAE_TRY(vae_decode(vae_decoder_of(j->model), x, &j->clip,
                       lx_exec_is_host(x) ? j->latent : j->room.latent, &sink, &j->run.progress,
                       err));
    return lx_run_finish(&j->run, "vae", err);
}

int vae_run(int argc, char **argv)
{
    static job_by_hand j; /* large; a process runs one */
    lx_err err = {0};
    lx_status status = run_all(&j, argc, argv, &err);
    if (status != LX_OK && status != LX_ECANCEL)
        LX_E("%s: %s", lx_status_name(status), err.message);
    free(j.latent);
    vae_destroy(&j.model);
    lx_run_close(&j.run);
    return lx_exit_code(status);
}
