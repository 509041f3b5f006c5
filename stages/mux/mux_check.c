/*
 * mux_check.c - demux and decode one clip, as a player would
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lx_log.h"
#include "mux_ffmpeg.h"

typedef struct checked {
    AVFormatContext *container;
    AVCodecContext *codec; /* NULL: no decoder */
    AVPacket *packet;
    AVFrame *frame;
    int64_t n_packets, n_frames;
} checked;

static lx_status failed(lx_err *err, const char *what, int code)
{
    char text[128];
    return lx_fail(err, LX_EJOB, "%s: %s", what, mux_ffmpeg_error(code, text, sizeof text));
}

static lx_status open_decoder(checked *c, lx_err *err)
{
    const AVCodecParameters *par = c->container->streams[0]->codecpar;
    const AVCodec *decoder = avcodec_find_decoder(par->codec_id);
    if (!decoder)
        return LX_OK;
    c->codec = avcodec_alloc_context3(decoder);
    int rc = c->codec ? avcodec_parameters_to_context(c->codec, par) : AVERROR(ENOMEM);
    if (rc >= 0)
        rc = avcodec_open2(c->codec, NULL, NULL);
    return rc < 0 ? failed(err, "the decoder cannot be opened", rc) : LX_OK;
}

/* packet NULL: what the decoder still holds. */
static lx_status decode(checked *c, const AVPacket *packet, lx_err *err)
{
    int rc = c->codec ? avcodec_send_packet(c->codec, packet) : 0;
    while (rc >= 0 && c->codec) {
        rc = avcodec_receive_frame(c->codec, c->frame);
        c->n_frames += rc >= 0;
    }
    return rc < 0 && rc != AVERROR(EAGAIN) && rc != AVERROR_EOF ? failed(err, "decoding", rc)
                                                                : LX_OK;
}

static lx_status read_all(checked *c, lx_err *err)
{
    lx_status status = LX_OK;
    int rc = 0;
    while (status == LX_OK && (rc = av_read_frame(c->container, c->packet)) >= 0) {
        c->n_packets++;
        status = decode(c, c->packet, err);
        av_packet_unref(c->packet);
    }
    if (status == LX_OK && rc != AVERROR_EOF)
        status = failed(err, "reading", rc);
    return status == LX_OK ? decode(c, NULL, err) : status;
}

static lx_status look(checked *c, mux_io *io, lx_err *err)
{
    c->container = avformat_alloc_context();
    c->packet = av_packet_alloc();
    c->frame = av_frame_alloc();
    if (!c->container || !c->packet || !c->frame)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    c->container->pb = io->avio;
    c->container->flags |= AVFMT_FLAG_CUSTOM_IO;
    int rc = avformat_open_input(&c->container, NULL, av_find_input_format("mov"), NULL);
    if (rc < 0)
        return failed(err, "this is no mp4", rc);
    if (c->container->nb_streams != 1 ||
        c->container->streams[0]->codecpar->codec_type != AVMEDIA_TYPE_VIDEO)
        return lx_fail(err, LX_EJOB, "%u streams; one of video is expected",
                       c->container->nb_streams);
    lx_status status = open_decoder(c, err);
    return status == LX_OK ? read_all(c, err) : status;
}

static void tell(const checked *c)
{
    const AVCodecParameters *par = c->container->streams[0]->codecpar;
    printf("{\"codec\": \"%s\", \"width\": %d, \"height\": %d, \"frames\": %" PRId64,
           avcodec_get_name(par->codec_id), par->width, par->height, c->n_packets);
    if (c->codec)
        printf(", \"decoded\": %" PRId64 "}\n", c->n_frames);
    else
        puts(", \"decoded\": null}");
}

int mux_check(int argc, char **argv)
{
    lx_err err = {0};
    checked c = {0};
    mux_io io = {.fd = -1};
    int error = 0;
    lx_status status = LX_OK;
    if (argc != 1 || argv[0][0] == '-') {
        fputs("usage: lx2v-mux check FILE.mp4\n", stderr);
        return lx_exit_code(LX_ECONFIG);
    }
    mux_ffmpeg_setup();
    int fd = open(argv[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        status = lx_fail(&err, LX_ECONFIG, "%s", strerror(errno));
    if (status == LX_OK)
        status = mux_io_open(&io, fd, false, &error, &err);
    if (status == LX_OK)
        status = look(&c, &io, &err);
    if (status == LX_OK)
        tell(&c);
    else
        LX_E("%s: %s: %s", lx_status_name(status), argv[0], err.message);
    av_frame_free(&c.frame);
    av_packet_free(&c.packet);
    avcodec_free_context(&c.codec);
    avformat_close_input(&c.container);
    mux_io_close(&io);
    if (fd >= 0)
        close(fd);
    return fflush(stdout) ? 1 : lx_exit_code(status);
}
