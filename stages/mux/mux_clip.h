/*
 * mux_clip.h - one clip from its first frame to its name
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Joins the jail (mux_path.h) with a writer (mux_video.h or mux_png.h): what the stage
 *           and `run` both do.
 * Promise   Nothing under the final name until every frame is there and synced; after an abort or a
 *           failure nothing at all.
 * Threads   One thread per clip.
 * Tests     tests/stages/test_mux_clip.c
 */
#ifndef MUX_CLIP_H
#define MUX_CLIP_H

#include "lx_config.h"
#include "mux_meta.h"
#include "mux_path.h"

typedef struct mux_clip mux_clip;

typedef struct mux_clip_options {
    lx_mux_format format;
    const char *dir;  /* real path of the output directory; borrowed during begin */
    const char *name; /* from outside, checked; likewise */
    const char *job;  /* id: names the part; likewise */
    bool overwrite;
    bool is_again; /* this and the next: see mux_out_options */
    bool any_name;
    int width, height;
    double fps;
    int64_t n_frames;
    int crf;
    const char *preset;   /* borrowed during begin */
    int threads;          /* of the encoder, 0 = one per core */
    const mux_meta *meta; /* borrowed during begin */
} mux_clip_options;

/** Name, space and encoder are checked before a frame is asked for. LX_EJOB, LX_ECONFIG. */
lx_status mux_clip_begin(mux_clip **out, const mux_clip_options *options, lx_err *err);

/** One frame, packed I420; copied before return. */
lx_status mux_clip_add(mux_clip *clip, const uint8_t *i420, lx_err *err);
int64_t mux_clip_frames(const mux_clip *clip); /* added so far */

/** Finish, check, sync, rename. *clip is destroyed either way. */
lx_status mux_clip_finish(mux_clip **clip, uint64_t *bytes, lx_err *err);

/** Give up: everything written so far is removed. NULL and {NULL} are fine. */
void mux_clip_abort(mux_clip **clip);

/** What the free-space check asks for: an estimate, generous for film, short for pure noise. */
uint64_t mux_clip_needs(lx_mux_format format, int width, int height, int64_t n_frames);

#endif
