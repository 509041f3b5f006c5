/*
 * mux_frames.h - the frames of a file, whatever they lie in
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One way to the frames of a clip (mp4) and to those of a tensor, rgb8 U8 [3, F, H, W],
 *           as `lx2v-vae run` writes it. Everything about the file is checked at open, but for what
 *           only decoding shows.
 * Threads   One thread per mux_frames.
 * Tests     tests/stages/test_mux_run.c, test_mux_sheet.c
 */
#ifndef MUX_FRAMES_H
#define MUX_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_status.h"

typedef struct mux_frames mux_frames;

/** LX_ECONFIG: no such file, or nothing that frames can be had from (in words: no decoder, no
 *  tensor rgb8, odd sides); LX_EJOB: a damaged clip. The message begins with the path. */
lx_status mux_frames_open(mux_frames **out, const char *path, lx_err *err);

int mux_frames_width(const mux_frames *frames); /* even, as height is */
int mux_frames_height(const mux_frames *frames);
int64_t mux_frames_count(const mux_frames *frames); /* at least 1 */
bool mux_frames_is_clip(const mux_frames *frames);  /* of an mp4 */

/** Frame `index` as packed I420, borrowed until the next call. Indices rise from call to call: a
 *  clip is decoded once, from its beginning. */
lx_status mux_frames_at(mux_frames *frames, int64_t index, const uint8_t **i420, lx_err *err);

void mux_frames_close(mux_frames **frames);

#endif
