/*
 * mux_reader.h - one clip demuxed and decoded, frame by frame, as a player would
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What `check` and contact sheets read clips with. Any other file is refused in words.
 * Threads   One thread per mux_reader.
 * Tests     tests/stages/test_mux_sheet.c, tests/pipeline/rig.c
 */
#ifndef MUX_READER_H
#define MUX_READER_H

#include "mux_ffmpeg.h"

typedef struct mux_reader mux_reader;

/** An mp4 with one stream, of video. LX_ECONFIG: the file cannot be opened; LX_EJOB: it is not such
 *  a clip; LX_EAGAIN: no memory. */
lx_status mux_reader_open(mux_reader **out, const char *path, lx_err *err);

/** Borrowed until close. */
const AVStream *mux_reader_stream(const mux_reader *reader);

/** False: FFmpeg was built without a decoder for this stream. Its packets are still read. */
bool mux_reader_decodes(const mux_reader *reader);

/** The next frame in the order of showing, borrowed until the next call; NULL after the last, at
 *  once if there is no decoder. LX_EJOB: the file is damaged. */
lx_status mux_reader_next(mux_reader *reader, const AVFrame **frame, lx_err *err);

int64_t mux_reader_packets(const mux_reader *reader); /* read so far */
void mux_reader_close(mux_reader **reader);

#endif
