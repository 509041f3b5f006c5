/*
 * mux_video.h - frames in, H.264 mp4 out, through a descriptor
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      libx264 in an mp4 container: yuv420p, BT.709 limited range, chroma sited left, a key
 *           frame at least every five seconds, moov before mdat, our metadata keys.
 * Promise   Same frames, options and build: same bytes (no time stamps, no random ids). After
 *           mux_video_finish the file has been read back: codec, size, frame count and duration are
 *           what was asked for.
 * Not here  The file's name: mux_path.h. What the metadata says: mux_meta.h.
 * Threads   One thread per mux_video; the encoder runs `threads` of its own.
 * Tests     tests/stages/test_mux_video.c
 */
#ifndef MUX_VIDEO_H
#define MUX_VIDEO_H

#include <stdint.h>

#include "lx_status.h"
#include "mux_meta.h"

typedef struct mux_video mux_video;

typedef struct mux_video_options {
    int width, height;    /* pixels, even */
    double fps;           /* frames per second; written as a fraction */
    int crf;              /* 0 (lossless) to 51; 18 is visually lossless */
    const char *preset;   /* of x264: "medium"; borrowed during open */
    int threads;          /* of the encoder; 0: one per core. Part of "same bytes". */
    int64_t n_frames;     /* that will come: checked at the end */
    const mux_meta *meta; /* borrowed during open */
    int *write_error;     /* errno of the first failed write goes here; NULL: nobody asks.
                             Borrowed until close */
} mux_video_options;

/** fd: open for reading and writing, empty; borrowed until mux_video_close.
 *  LX_ECONFIG: no libx264 in this FFmpeg, or a preset it does not know. LX_EJOB: bad sizes. */
lx_status mux_video_open(mux_video **out, int fd, const mux_video_options *options, lx_err *err);

/** One frame: Y [height, width], U and V [height/2, width/2], packed; copied before return.
 *  A failed write is LX_EJOB; options->write_error then says which. */
lx_status mux_video_add(mux_video *video, const uint8_t *i420, lx_err *err);

/** Drain, write the index, move it to the front, read back and check. */
lx_status mux_video_finish(mux_video *video, uint64_t *file_bytes, lx_err *err);

/** Free; without a finish before it, the file is left unfinished for its owner to remove. */
void mux_video_close(mux_video **video);

/** Frames per second as the fraction that is written: 16 -> 16/1, 29.97 -> 30000/1001. */
void mux_video_rate(double fps, int *num, int *den);

#endif
