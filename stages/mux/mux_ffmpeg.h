/*
 * mux_ffmpeg.h - the FFmpeg libraries, 5 to 7, behind one small wall
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The one place that knows what differs between FFmpeg 5, 6 and 7, and the descriptor as
 *           libavformat sees it: reads and writes go through our callbacks, so that no name is ever
 *           given to FFmpeg as a URL.
 * Threads   mux_ffmpeg_setup once per process; a mux_io belongs to one thread.
 */
#ifndef MUX_FFMPEG_H
#define MUX_FFMPEG_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

#include <stdbool.h>

#include "lx_status.h"

/* What a write callback is given: const from libavformat 61 (FFmpeg 7) on. */
#if LIBAVFORMAT_VERSION_MAJOR >= 61
typedef const uint8_t mux_avio_byte;
#else
typedef uint8_t mux_avio_byte;
#endif

/* One end of a file: position and first error are ours, the descriptor is shared. */
typedef struct mux_io {
    int fd;            /* borrowed until mux_io_close */
    int *error;        /* borrowed: gets the errno of the first read or write that fails */
    int64_t at;        /* bytes from the start */
    AVIOContext *avio; /* owned */
} mux_io;

/** Send FFmpeg's and x264's own errors to our log as one-line warnings; silence the rest. */
void mux_ffmpeg_setup(void);

/** LX_EAGAIN if there is no memory. The mux_io must not move, and *error must stay, until it is
 *  closed. */
lx_status mux_io_open(mux_io *io, int fd, bool for_writing, int *error, lx_err *err);
void mux_io_close(mux_io *io);

/** FFmpeg's words for an error number, valid until the next call on this thread's text. */
const char *mux_ffmpeg_error(int code, char *text, size_t text_bytes);

/** BT.709, limited range, chroma sited left: on an encoder's context and on each of its frames. */
void mux_ffmpeg_tag_context(AVCodecContext *codec);
void mux_ffmpeg_tag_frame(AVFrame *frame);

#endif
