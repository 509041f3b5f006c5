/*
 * mux_check.c - demux and decode one clip, as a player would
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_check.h"

#include <inttypes.h>
#include <stdio.h>

#include "lx_log.h"
#include "mux_reader.h"

static lx_status count_frames(mux_reader *reader, int64_t *n, lx_err *err)
{
    const AVFrame *frame;
    lx_status status;
    *n = -1;
    do {
        ++*n;
        status = mux_reader_next(reader, &frame, err);
    } while (status == LX_OK && frame);
    return status;
}

static void tell(const mux_reader *reader, int64_t n_frames)
{
    const AVCodecParameters *par = mux_reader_stream(reader)->codecpar;
    printf("{\"codec\": \"%s\", \"width\": %d, \"height\": %d, \"frames\": %" PRId64,
           avcodec_get_name(par->codec_id), par->width, par->height, mux_reader_packets(reader));
    if (mux_reader_decodes(reader))
        printf(", \"decoded\": %" PRId64 "}\n", n_frames);
    else
        puts(", \"decoded\": null}");
}

int mux_check(int argc, char **argv)
{
    lx_err err = {0};
    mux_reader *reader = NULL;
    int64_t n_frames;
    if (argc != 1 || argv[0][0] == '-') {
        fputs("usage: lx2v-mux check FILE.mp4\n", stderr);
        return lx_exit_code(LX_ECONFIG);
    }
    mux_ffmpeg_setup();
    lx_status status = mux_reader_open(&reader, argv[0], &err);
    if (status == LX_OK)
        status = count_frames(reader, &n_frames, &err);
    if (status == LX_OK)
        tell(reader, n_frames);
    else
        LX_E("%s: %s: %s", lx_status_name(status), argv[0], err.message);
    mux_reader_close(&reader);
    return fflush(stdout) ? 1 : lx_exit_code(status);
}
