/*
 * mux_frames.c - frames of an mp4, or of a tensor
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_frames.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_limits.h"
#include "mux_colour.h"
#include "mux_reader.h"
#include "weights/lx_weights.h"

struct mux_frames {
    char *path;           /* owned */
    mux_reader *clip;     /* owned; NULL: */
    lx_weights *file;     /* owned */
    mux_colour *colour;   /* owned; of a tensor */
    const uint8_t *rgb;   /* of file */
    uint8_t *i420;        /* owned: one frame */
    int64_t n, n_decoded; /* of a clip: so many were taken from the decoder */
    int width, height;
};

/* --- opening --------------------------------------------------------------------------------- */

/* An mp4 says what it is in bytes 4 to 7; in a safetensors file they would make a header of
 * exabytes. */
static bool looks_like_mp4(const char *path)
{
    char head[8] = "";
    FILE *f = fopen(path, "rbe");
    bool is_read = f && fread(head, 1, sizeof head, f) == sizeof head;
    if (f)
        fclose(f);
    return is_read && !memcmp(head + 4, "ftyp", 4);
}

static lx_status check_sides(int64_t width, int64_t height, lx_err *err)
{
    const int64_t side[2] = {width, height};
    for (int i = 0; i < 2; i++)
        if (side[i] < LX_SIZE_MULTIPLE || side[i] > LX_LIMIT_SIDE || side[i] % 2)
            return lx_fail(err, LX_ECONFIG,
                           "frames of %" PRId64 "x%" PRId64
                           ": H.264 in yuv420p needs even sides from %d to %d",
                           width, height, LX_SIZE_MULTIPLE, LX_LIMIT_SIDE);
    return LX_OK;
}

static lx_status open_clip(mux_frames *f, lx_err *err)
{
    lx_status status = mux_reader_open(&f->clip, f->path, err);
    if (status != LX_OK)
        return status;
    const AVStream *stream = mux_reader_stream(f->clip);
    if (!mux_reader_decodes(f->clip))
        return lx_fail(err, LX_ECONFIG,
                       "the FFmpeg libraries here were built without a decoder of %s: give the "
                       "frames (rgb8) instead, or use the distribution's libraries",
                       avcodec_get_name(stream->codecpar->codec_id));
    f->width = stream->codecpar->width;
    f->height = stream->codecpar->height;
    f->n = stream->nb_frames;
    if (f->n < 1)
        return lx_fail(err, LX_EJOB, "the index of this mp4 tells of no frames");
    return check_sides(f->width, f->height, err);
}

static bool is_rgb8(const char *name, void *unused)
{
    (void)unused;
    return !strcmp(name, "rgb8");
}

static lx_status find_tensor(mux_frames *f, lx_err *err)
{
    lx_weight w;
    char text[128];
    if (!lx_weights_find(f->file, "rgb8", &w))
        return lx_fail(err, LX_ECONFIG, "no tensor rgb8; expected rgb8 U8 [3, F, H, W]");
    const int64_t *dim = w.shape.dim;
    if (w.dtype != LX_DTYPE_U8 || w.shape.n_dims != 4 || dim[0] != 3 || dim[1] < 1)
        return lx_fail(err, LX_ECONFIG, "rgb8 is %s %s, expected U8 [3, F, H, W]",
                       lx_dtype_name(w.dtype), lx_shape_text(&w.shape, text, sizeof text));
    lx_status status = check_sides(dim[3], dim[2], err);
    if (status != LX_OK)
        return status;
    f->rgb = w.data;
    f->n = dim[1];
    f->height = (int)dim[2];
    f->width = (int)dim[3];
    return mux_colour_open(&f->colour, MUX_RGB_TO_I420, f->width, f->height, err);
}

static lx_status take_frame(mux_frames *f, lx_err *err)
{
    f->i420 = malloc((size_t)f->width * (size_t)f->height * 3 / 2);
    return f->i420 ? LX_OK : lx_fail(err, LX_EAGAIN, "no memory for one frame");
}

static lx_status open_file(mux_frames *f, lx_err *err)
{
    if (!f->path)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    bool is_clip = looks_like_mp4(f->path);
    lx_weights_options options = {.wants = is_rgb8};
    lx_status status = is_clip ? LX_OK : lx_weights_open(&f->file, f->path, &options, err);
    if (status != LX_OK)
        return status; /* it names the file */
    status = is_clip ? open_clip(f, err) : find_tensor(f, err);
    if (status == LX_OK)
        status = take_frame(f, err);
    return status == LX_OK ? LX_OK : lx_wrap(err, "%s", f->path);
}

lx_status mux_frames_open(mux_frames **out, const char *path, lx_err *err)
{
    mux_frames *f = calloc(1, sizeof *f);
    if (!f)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    f->path = strdup(path);
    lx_status status = open_file(f, err);
    if (status == LX_OK)
        *out = f;
    else
        mux_frames_close(&f);
    return status;
}

/* --- frames ---------------------------------------------------------------------------------- */

static lx_status decode_to(mux_frames *f, int64_t index, lx_err *err)
{
    const AVFrame *frame = NULL;
    while (f->n_decoded <= index) {
        lx_status status = mux_reader_next(f->clip, &frame, err);
        if (status != LX_OK)
            return status;
        if (!frame)
            return lx_fail(err, LX_EJOB,
                           "%" PRId64 " frames decode of the %" PRId64 " in its index",
                           f->n_decoded, f->n);
        f->n_decoded++;
    }
    if (!frame || frame->format != AV_PIX_FMT_YUV420P || frame->width != f->width ||
        frame->height != f->height)
        return lx_fail(err, LX_EJOB, "frame %" PRId64 " is not of %dx%d in yuv420p", index,
                       f->width, f->height);
    int bytes = f->width * f->height / 2 * 3;
    int rc = av_image_copy_to_buffer(f->i420, bytes, (const uint8_t *const *)frame->data,
                                     frame->linesize, AV_PIX_FMT_YUV420P, f->width, f->height, 1);
    return rc == bytes ? LX_OK : lx_fail(err, LX_EJOB, "frame %" PRId64 " has no picture", index);
}

static lx_status convert(mux_frames *f, int64_t index, lx_err *err)
{
    size_t plane = (size_t)f->width * (size_t)f->height;
    const uint8_t *r = f->rgb + (size_t)index * plane;
    const uint8_t *g = r + (size_t)f->n * plane;
    const uint8_t *b = g + (size_t)f->n * plane;
    return mux_colour_to_i420(f->colour, r, g, b, f->i420, err);
}

lx_status mux_frames_at(mux_frames *f, int64_t index, const uint8_t **i420, lx_err *err)
{
    lx_status status = f->clip ? decode_to(f, index, err) : convert(f, index, err);
    if (status != LX_OK)
        return lx_wrap(err, "%s", f->path);
    *i420 = f->i420;
    return LX_OK;
}

int mux_frames_width(const mux_frames *frames)
{
    return frames->width;
}

int mux_frames_height(const mux_frames *frames)
{
    return frames->height;
}

int64_t mux_frames_count(const mux_frames *frames)
{
    return frames->n;
}

bool mux_frames_is_clip(const mux_frames *frames)
{
    return frames->clip != NULL;
}

void mux_frames_close(mux_frames **frames)
{
    if (!frames || !*frames)
        return;
    mux_frames *f = *frames;
    mux_reader_close(&f->clip);
    mux_colour_close(&f->colour);
    lx_weights_close(&f->file);
    free(f->i420);
    free(f->path);
    free(f);
    *frames = NULL;
}
