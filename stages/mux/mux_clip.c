/*
 * mux_clip.c - one clip from its first frame to its name
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_clip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "lx_tensor.h"
#include "mux_png.h"
#include "mux_video.h"

struct mux_clip {
    mux_out out;
    mux_video *video; /* owned; NULL for PNG */
    mux_png *png;     /* owned; NULL for mp4 */
    int64_t n_frames, n_added;
    int write_error; /* errno, from the video writer */
};

/* Smallest thing worth starting: container, metadata and file system blocks. */
#define NEEDS_BASE (256 * 1024)

uint64_t mux_clip_needs(lx_mux_format format, int width, int height, int64_t n_frames)
{
    /* Of RGB's 3 bytes per pixel: a twentieth is a high rate for film in H.264, half is usual for
     * PNG. A disk that fills up in spite of this is noticed while writing. */
    uint64_t pixels, bytes;
    if (!lx_mul_u64((uint64_t)width * (uint64_t)height, (uint64_t)n_frames, &pixels) ||
        !lx_mul_u64(pixels, 3, &bytes))
        return UINT64_MAX;
    return (format == LX_FORMAT_PNG ? bytes / 2 : bytes / 20) + NEEDS_BASE;
}

static lx_status open_writer(mux_clip *clip, const mux_clip_options *o, lx_err *err)
{
    if (o->format == LX_FORMAT_PNG)
        return mux_png_open(&clip->png, clip->out.fd, o->width, o->height, o->meta, err);
    mux_video_options video = {.width = o->width,
                               .height = o->height,
                               .fps = o->fps,
                               .crf = o->crf,
                               .preset = o->preset,
                               .threads = o->threads,
                               .n_frames = o->n_frames,
                               .meta = o->meta,
                               .write_error = &clip->write_error};
    return mux_video_open(&clip->video, clip->out.fd, &video, err);
}

/* A writer's failure, in words about space where that was the cause. */
static lx_status explain(const mux_clip *clip, lx_status status, lx_err *err)
{
    int error = clip->png ? mux_png_write_error(clip->png) : clip->write_error;
    if (status == LX_OK || !error)
        return status;
    struct stat st;
    uint64_t written = clip->png                       ? mux_png_bytes(clip->png)
                       : fstat(clip->out.fd, &st) == 0 ? (uint64_t)st.st_size
                                                       : 0;
    /* What is there now, stretched to all frames: better than the estimate it disproved. */
    uint64_t frames = (uint64_t)(clip->n_added ? clip->n_added : 1);
    uint64_t needs = (written / frames + 1) * (uint64_t)clip->n_frames;
    return mux_out_write_failed(&clip->out, error, written, needs, err);
}

lx_status mux_clip_begin(mux_clip **out, const mux_clip_options *o, lx_err *err)
{
    mux_clip *clip = calloc(1, sizeof *clip);
    if (!clip)
        return lx_fail(err, LX_EAGAIN, "no memory for a clip");
    clip->n_frames = o->n_frames;
    mux_out_options out_options = {
        .kind = o->format == LX_FORMAT_PNG ? MUX_OUT_FOLDER : MUX_OUT_FILE,
        .dir = o->dir,
        .name = o->name,
        .job = o->job,
        .overwrite = o->overwrite,
        .is_again = o->is_again,
        .any_name = o->any_name,
        .needs = mux_clip_needs(o->format, o->width, o->height, o->n_frames)};
    lx_status status = mux_out_begin(&clip->out, &out_options, err);
    if (status == LX_OK)
        status = explain(clip, open_writer(clip, o, err), err);
    if (status == LX_OK)
        *out = clip;
    else
        mux_clip_abort(&clip);
    return status;
}

lx_status mux_clip_add(mux_clip *clip, const uint8_t *i420, lx_err *err)
{
    if (clip->n_added >= clip->n_frames)
        return lx_fail(err, LX_EJOB, "more than the %" PRId64 " frames that were announced",
                       clip->n_frames);
    clip->n_added++;
    lx_status status =
        clip->video ? mux_video_add(clip->video, i420, err) : mux_png_add(clip->png, i420, err);
    return explain(clip, status, err);
}

int64_t mux_clip_frames(const mux_clip *clip)
{
    return clip->n_added;
}

lx_status mux_clip_finish(mux_clip **clip, uint64_t *bytes, lx_err *err)
{
    mux_clip *c = *clip;
    lx_status status = LX_OK;
    uint64_t n_bytes = 0;
    if (c->n_added != c->n_frames) {
        status = lx_fail(err, LX_EJOB, "%" PRId64 " frames came, %" PRId64 " were announced",
                         c->n_added, c->n_frames);
    } else if (c->video) {
        status = explain(c, mux_video_finish(c->video, &n_bytes, err), err);
    } else {
        n_bytes = mux_png_bytes(c->png);
    }
    if (status == LX_OK)
        status = mux_out_commit(&c->out, err);
    if (status == LX_OK && bytes)
        *bytes = n_bytes;
    mux_clip_abort(clip); /* after a commit there is nothing left to remove */
    return status;
}

void mux_clip_abort(mux_clip **clip)
{
    if (!clip || !*clip)
        return;
    mux_video_close(&(*clip)->video);
    mux_png_close(&(*clip)->png);
    mux_out_discard(&(*clip)->out);
    free(*clip);
    *clip = NULL;
}
