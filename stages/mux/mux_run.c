/*
 * mux_run.c - `lx2v-mux run`: a tensor of frames in, an mp4 out
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_log.h"
#include "lx_run.h"
#include "mux.h"
#include "mux_clip.h"
#include "mux_colour.h"
#include "mux_ffmpeg.h"

#define DEFAULT_FPS    16.0
#define DEFAULT_CRF    18
#define DEFAULT_PRESET "medium"

/* rgb8 U8 [3, F, H, W]: what `lx2v-vae run` makes. */
typedef struct source {
    lx_weights *file; /* owned */
    const uint8_t *rgb;
    int64_t n_frames;
    int height, width;
} source;

static bool is_rgb8(const char *name, void *unused)
{
    (void)unused;
    return !strcmp(name, "rgb8");
}

static lx_status source_open(source *out, const char *path, lx_err *err)
{
    lx_weights_options options = {.wants = is_rgb8};
    lx_status status = lx_weights_open(&out->file, path, &options, err);
    if (status != LX_OK)
        return status;
    lx_weight w;
    if (!lx_weights_find(out->file, "rgb8", &w))
        return lx_fail(err, LX_ECONFIG, "%s: no tensor rgb8; expected rgb8 U8 [3, F, H, W]", path);
    char text[128];
    lx_shape_text(&w.shape, text, sizeof text);
    if (w.dtype != LX_DTYPE_U8 || w.shape.n_dims != 4 || w.shape.dim[0] != 3)
        return lx_fail(err, LX_ECONFIG, "%s: rgb8 is %s %s, expected U8 [3, F, H, W]", path,
                       lx_dtype_name(w.dtype), text);
    const int64_t *dim = w.shape.dim;
    for (int i = 2; i < 4; i++)
        if (dim[i] < LX_SIZE_MULTIPLE || dim[i] > LX_LIMIT_SIDE || dim[i] % 2)
            return lx_fail(err, LX_ECONFIG,
                           "%s: rgb8 is %s: H.264 in yuv420p needs even sides from %d to %d", path,
                           text, LX_SIZE_MULTIPLE, LX_LIMIT_SIDE);
    if (dim[1] < 1)
        return lx_fail(err, LX_ECONFIG, "%s: rgb8 is %s: no frames", path, text);
    out->rgb = w.data;
    out->n_frames = dim[1];
    out->height = (int)dim[2];
    out->width = (int)dim[3];
    return LX_OK;
}

/* A user's own path: split it, and refuse to put a video over something that is not a file. */
static lx_status split_output(const char *path, char *dir, const char **name, lx_err *err)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "--output: path of more than %d bytes", LX_LIMIT_PATH);
    snprintf(dir, LX_LIMIT_PATH, "%.*s", (int)n, path);
    if (!n)
        snprintf(dir, LX_LIMIT_PATH, "%s", slash ? "/" : ".");
    char *real = realpath(dir, NULL);
    if (!real)
        return lx_fail(err, LX_ECONFIG, "--output %s: folder %s: %s", path, dir, strerror(errno));
    bool fits = strlen(real) < LX_LIMIT_PATH;
    if (fits)
        snprintf(dir, LX_LIMIT_PATH, "%s", real);
    free(real);
    struct stat st;
    if (!fits || (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)))
        return lx_fail(err, LX_ECONFIG, "--output %s is not a regular file: it is not replaced",
                       path);
    return LX_OK;
}

static lx_status convert(const source *s, mux_clip *clip, const lx_progress *progress, lx_err *err)
{
    size_t plane = (size_t)s->width * (size_t)s->height;
    mux_colour *colour = NULL;
    uint8_t *i420 = malloc(plane / 2 * 3);
    lx_status status = i420 ? LX_OK : lx_fail(err, LX_EAGAIN, "no memory for one frame");
    if (status == LX_OK)
        status = mux_colour_open(&colour, MUX_RGB_TO_I420, s->width, s->height, err);
    for (int64_t i = 0; i < s->n_frames && status == LX_OK; i++) {
        const uint8_t *r = s->rgb + (size_t)i * plane;
        const uint8_t *g = r + (size_t)s->n_frames * plane;
        const uint8_t *b = g + (size_t)s->n_frames * plane;
        status = mux_colour_to_i420(colour, r, g, b, i420, err);
        if (status == LX_OK)
            status = mux_clip_add(clip, i420, err);
        if (status == LX_OK)
            status =
                lx_progress_step(progress, "frame", (uint64_t)i + 1, (uint64_t)s->n_frames, err);
    }
    mux_colour_close(&colour);
    free(i420);
    return status;
}

static lx_status make_clip(lx_run *run, double fps, lx_err *err)
{
    source src = {0};
    mux_clip *clip = NULL;
    mux_meta meta;
    mux_meta_of_file(&meta);
    char dir[LX_LIMIT_PATH], part[LX_LIMIT_ID + 1];
    const char *name;
    snprintf(part, sizeof part, "run-%d", (int)getpid());
    lx_status status = split_output(run->output, dir, &name, err);
    if (status == LX_OK)
        status = source_open(&src, run->input, err);
    mux_clip_options options = {.format = LX_FORMAT_MP4,
                                .dir = dir,
                                .job = part,
                                .overwrite = true,
                                .any_name = true,
                                .width = src.width,
                                .height = src.height,
                                .fps = fps,
                                .n_frames = src.n_frames,
                                .crf = DEFAULT_CRF,
                                .preset = DEFAULT_PRESET,
                                .threads = run->threads,
                                .meta = &meta};
    if (status == LX_OK) {
        options.name = name;
        status = mux_clip_begin(&clip, &options, err);
    }
    if (status == LX_OK)
        status = convert(&src, clip, &run->progress, err);
    if (status == LX_OK)
        status = mux_clip_finish(&clip, NULL, err);
    mux_clip_abort(&clip);
    lx_weights_close(&src.file);
    return status;
}

static lx_status parse(lx_run *run, int argc, char **argv, double *fps, lx_err *err)
{
    const char *fps_text = NULL;
    const lx_run_flag flags[] = {{"fps", &fps_text, NULL, "frames per second (16)"}};
    lx_status status = lx_run_parse(run, argc, argv, flags, 1, err);
    if (status != LX_OK)
        return status;
    *fps = DEFAULT_FPS;
    if (fps_text &&
        (!lx_parse_real(fps_text, fps) || *fps < LX_JOB_FPS_MIN || *fps > LX_JOB_FPS_MAX))
        return lx_fail(err, LX_ECONFIG, "--fps %s: a number from %g to %g", fps_text,
                       LX_JOB_FPS_MIN, LX_JOB_FPS_MAX);
    if (!run->input || !run->output)
        return lx_fail(err, LX_ECONFIG,
                       "usage: lx2v-mux run --input in.safetensors --output clip.mp4 [--fps 16]");
    return LX_OK;
}

int mux_run(int argc, char **argv)
{
    lx_err err = {0};
    lx_run run = {0};
    double fps;
    mux_ffmpeg_setup();
    lx_status status = parse(&run, argc, argv, &fps, &err);
    if (status == LX_OK)
        status = make_clip(&run, fps, &err);
    if (status == LX_OK) {
        run.output = NULL; /* written already; finish only reports */
        status = lx_run_finish(&run, "mux", &err);
    }
    lx_run_close(&run);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return lx_exit_code(status);
}
