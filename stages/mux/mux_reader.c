/*
 * mux_reader.c - demux and decode one clip
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mux_reader {
    int fd;                     /* owned */
    mux_io io;                  /* owned */
    AVFormatContext *container; /* owned */
    AVCodecContext *codec;      /* owned; NULL: no decoder */
    AVPacket *packet;           /* owned */
    AVFrame *frame;             /* owned */
    int64_t n_packets;
    int read_error;
    bool is_over; /* all packets have been read */
};

static lx_status failed(lx_err *err, const char *what, int code)
{
    char text[128];
    return lx_fail(err, LX_EJOB, "%s: %s", what, mux_ffmpeg_error(code, text, sizeof text));
}

static lx_status open_container(mux_reader *r, lx_err *err)
{
    r->container = avformat_alloc_context();
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->container || !r->packet || !r->frame)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    r->container->pb = r->io.avio;
    r->container->flags |= AVFMT_FLAG_CUSTOM_IO;
    int rc = avformat_open_input(&r->container, NULL, av_find_input_format("mov"), NULL);
    if (rc < 0)
        return failed(err, "this is no mp4", rc);
    if (r->container->nb_streams != 1 ||
        r->container->streams[0]->codecpar->codec_type != AVMEDIA_TYPE_VIDEO)
        return lx_fail(err, LX_EJOB, "%u streams; one of video is expected",
                       r->container->nb_streams);
    return LX_OK;
}

static lx_status open_decoder(mux_reader *r, lx_err *err)
{
    const AVCodecParameters *par = r->container->streams[0]->codecpar;
    const AVCodec *decoder = avcodec_find_decoder(par->codec_id);
    if (!decoder)
        return LX_OK;
    r->codec = avcodec_alloc_context3(decoder);
    int rc = r->codec ? avcodec_parameters_to_context(r->codec, par) : AVERROR(ENOMEM);
    if (rc >= 0)
        rc = avcodec_open2(r->codec, NULL, NULL);
    return rc < 0 ? failed(err, "the decoder cannot be opened", rc) : LX_OK;
}

lx_status mux_reader_open(mux_reader **out, const char *path, lx_err *err)
{
    mux_reader *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make it wait */
    lx_status status = r->fd < 0 ? lx_fail(err, LX_ECONFIG, "%s", strerror(errno))
                                 : mux_io_open(&r->io, r->fd, false, &r->read_error, err);
    if (status == LX_OK)
        status = open_container(r, err);
    if (status == LX_OK)
        status = open_decoder(r, err);
    if (status == LX_OK)
        *out = r;
    else
        mux_reader_close(&r);
    return status;
}

const AVStream *mux_reader_stream(const mux_reader *reader)
{
    return reader->container->streams[0];
}

bool mux_reader_decodes(const mux_reader *reader)
{
    return reader->codec != NULL;
}

/* One packet to the decoder; at the end, that there are no more. */
static lx_status feed(mux_reader *r, lx_err *err)
{
    int rc = av_read_frame(r->container, r->packet);
    if (rc < 0 && rc != AVERROR_EOF)
        return failed(err, "reading", rc);
    r->is_over = rc < 0;
    r->n_packets += !r->is_over;
    rc = r->codec ? avcodec_send_packet(r->codec, r->is_over ? NULL : r->packet) : 0;
    av_packet_unref(r->packet);
    return rc < 0 ? failed(err, "decoding", rc) : LX_OK;
}

lx_status mux_reader_next(mux_reader *r, const AVFrame **frame, lx_err *err)
{
    *frame = NULL;
    for (;;) {
        int rc = r->codec     ? avcodec_receive_frame(r->codec, r->frame)
                 : r->is_over ? AVERROR_EOF
                              : AVERROR(EAGAIN);
        if (rc >= 0)
            *frame = r->frame;
        if (rc >= 0 || rc == AVERROR_EOF)
            return LX_OK;
        if (rc != AVERROR(EAGAIN))
            return failed(err, "decoding", rc);
        lx_status status = feed(r, err);
        if (status != LX_OK)
            return status;
    }
}

int64_t mux_reader_packets(const mux_reader *reader)
{
    return reader->n_packets;
}

void mux_reader_close(mux_reader **reader)
{
    if (!reader || !*reader)
        return;
    mux_reader *r = *reader;
    av_frame_free(&r->frame);
    av_packet_free(&r->packet);
    avcodec_free_context(&r->codec);
    avformat_close_input(&r->container);
    mux_io_close(&r->io);
    if (r->fd >= 0)
        close(r->fd);
    free(r);
    *reader = NULL;
}
