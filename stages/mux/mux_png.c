/*
 * mux_png.c - frames in, numbered PNG files out; or one picture, one file
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_png.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libavutil/crc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mux_colour.h"
#include "mux_ffmpeg.h"

/* A PNG file starts with its signature (8 bytes) and IHDR (4 length, 4 name, 13, 4 CRC); text may
 * follow from there. */
#define PNG_HEAD 33

/* iTXt: length, name, keyword 0, not compressed 0 0, no language 0, no translation 0, text, CRC. */
#define ITXT_OVERHEAD (12 + 5)
#define ITXT_KEYWORD  16

struct mux_png {
    AVCodecContext *encoder; /* owned */
    AVFrame *frame;          /* owned */
    AVPacket *packet;        /* owned */
    mux_colour *colour;      /* owned */
    uint8_t *text;           /* owned: the iTXt chunks, ready to be written */
    size_t text_bytes;
    int folder_fd; /* borrowed */
    int error;
    int64_t n_frames;
    uint64_t bytes;
};

static void put_u32(uint8_t *at, uint32_t value) /* big-endian */
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Returns the bytes written at `at`. */
static size_t put_itxt(uint8_t *at, const char *key, const char *value)
{
    size_t n_key = strnlen(key, ITXT_KEYWORD), n_value = strlen(value);
    size_t body = n_key + 5 + n_value;
    put_u32(at, (uint32_t)body);
    memcpy(at + 4, "iTXt", 4);
    memcpy(at + 8, key, n_key);
    memset(at + 8 + n_key, 0, 5);
    memcpy(at + 8 + n_key + 5, value, n_value);
    /* PNG's CRC covers name and body, starts from ones and is inverted. */
    uint32_t crc = av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), UINT32_MAX, at + 4, body + 4);
    put_u32(at + 8 + body, ~crc);
    return body + 12;
}

static lx_status build_text(mux_png *png, const mux_meta *meta, lx_err *err)
{
    png->text = malloc(MUX_META_PAIRS * (ITXT_OVERHEAD + ITXT_KEYWORD + MUX_META_VALUE));
    if (!png->text)
        return lx_fail(err, LX_EAGAIN, "no memory for PNG metadata");
    for (int i = 0; i < meta->n; i++)
        png->text_bytes +=
            put_itxt(png->text + png->text_bytes, meta->pair[i].key, meta->pair[i].value);
    return LX_OK;
}

static lx_status open_encoder(mux_png *png, int width, int height, lx_err *err)
{
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
    if (!codec)
        return lx_fail(err, LX_ECONFIG, "this system's libavcodec has no PNG encoder");
    png->encoder = avcodec_alloc_context3(codec);
    png->frame = av_frame_alloc();
    png->packet = av_packet_alloc();
    if (!png->encoder || !png->frame || !png->packet)
        return lx_fail(err, LX_EAGAIN, "no memory for the PNG encoder");
    AVCodecContext *c = png->encoder;
    c->width = width;
    c->height = height;
    c->pix_fmt = AV_PIX_FMT_RGB24;
    c->time_base = (AVRational){1, 1};
    c->thread_count = 1; /* each file leaves before the next frame comes */
    png->frame->format = AV_PIX_FMT_RGB24;
    png->frame->width = width;
    png->frame->height = height;
    int rc = avcodec_open2(c, codec, NULL);
    if (rc >= 0)
        rc = av_frame_get_buffer(png->frame, 0);
    char text[128];
    if (rc < 0)
        return lx_fail(err, LX_EJOB, "PNG encoder for %dx%d: %s", width, height,
                       mux_ffmpeg_error(rc, text, sizeof text));
    return LX_OK;
}

/* What a folder and a single file have in common. */
static lx_status open_picture(mux_png **out, int width, int height, const mux_meta *meta,
                              lx_err *err)
{
    mux_png *png = calloc(1, sizeof *png);
    if (!png)
        return lx_fail(err, LX_EAGAIN, "no memory for the PNG encoder");
    lx_status status = open_encoder(png, width, height, err);
    if (status == LX_OK)
        status = build_text(png, meta, err);
    if (status == LX_OK)
        *out = png;
    else
        mux_png_close(&png);
    return status;
}

lx_status mux_png_open(mux_png **out, int folder_fd, int width, int height, const mux_meta *meta,
                       lx_err *err)
{
    mux_png *png = NULL;
    lx_status status = open_picture(&png, width, height, meta, err);
    if (status != LX_OK)
        return status;
    png->folder_fd = folder_fd;
    status = mux_colour_open(&png->colour, MUX_I420_TO_RGB, width, height, err);
    if (status == LX_OK)
        *out = png;
    else
        mux_png_close(&png);
    return status;
}

static bool write_all(mux_png *png, int fd, const uint8_t *bytes, size_t n)
{
    while (n) {
        ssize_t put = write(fd, bytes, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            png->error = put < 0 ? errno : ENOSPC;
            return false;
        }
        bytes += put;
        n -= (size_t)put;
        png->bytes += (uint64_t)put;
    }
    return true;
}

/* The encoded picture, with our text after its header. */
static bool write_picture(mux_png *png, int fd)
{
    const uint8_t *bytes = png->packet->data;
    size_t n = (size_t)png->packet->size;
    return write_all(png, fd, bytes, PNG_HEAD) && write_all(png, fd, png->text, png->text_bytes) &&
           write_all(png, fd, bytes + PNG_HEAD, n - PNG_HEAD);
}

/* Into NNNNN.png. */
static lx_status write_file(mux_png *png, lx_err *err)
{
    char name[32];
    snprintf(name, sizeof name, "%05" PRId64 ".png", png->n_frames);
    int fd =
        openat(png->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        png->error = errno;
        return lx_fail(err, LX_EJOB, "%s: %s", name, strerror(png->error));
    }
    bool ok = write_picture(png, fd);
    if (ok && fsync(fd)) {
        png->error = errno;
        ok = false;
    }
    if (close(fd) && ok) {
        png->error = errno;
        ok = false;
    }
    if (!ok)
        return lx_fail(err, LX_EJOB, "writing %s: %s", name, strerror(png->error));
    png->n_frames++;
    return LX_OK;
}

/* png->frame to png->packet. */
static lx_status encode(mux_png *png, lx_err *err)
{
    char text[128];
    png->frame->pts = png->n_frames;
    int rc = avcodec_send_frame(png->encoder, png->frame);
    if (rc >= 0)
        rc = avcodec_receive_packet(png->encoder, png->packet);
    if (rc < 0 || png->packet->size <= PNG_HEAD)
        return lx_fail(err, LX_EJOB, "encoding a PNG: %s",
                       mux_ffmpeg_error(rc < 0 ? rc : AVERROR_BUG, text, sizeof text));
    return LX_OK;
}

lx_status mux_png_add(mux_png *png, const uint8_t *i420, lx_err *err)
{
    if (av_frame_make_writable(png->frame) < 0)
        return lx_fail(err, LX_EAGAIN, "no memory for a frame");
    lx_status status =
        mux_colour_to_rgb24(png->colour, i420, png->frame->data[0], png->frame->linesize[0], err);
    if (status == LX_OK)
        status = encode(png, err);
    if (status == LX_OK)
        status = write_file(png, err);
    av_packet_unref(png->packet);
    return status;
}

lx_status mux_png_save(int fd, const uint8_t *rgb, int width, int height, const mux_meta *meta,
                       int *write_error, lx_err *err)
{
    mux_png *png = NULL;
    *write_error = 0;
    lx_status status = open_picture(&png, width, height, meta, err);
    if (status != LX_OK)
        return status;
    av_image_copy_plane(png->frame->data[0], png->frame->linesize[0], rgb, width * 3, width * 3,
                        height);
    status = encode(png, err);
    if (status == LX_OK && !write_picture(png, fd)) {
        *write_error = png->error;
        status = lx_fail(err, LX_EJOB, "writing a PNG: %s", strerror(png->error));
    }
    mux_png_close(&png);
    return status;
}

int mux_png_write_error(const mux_png *png)
{
    return png->error;
}

uint64_t mux_png_bytes(const mux_png *png)
{
    return png->bytes;
}

void mux_png_close(mux_png **png)
{
    if (!png || !*png)
        return;
    av_frame_free(&(*png)->frame);
    av_packet_free(&(*png)->packet);
    avcodec_free_context(&(*png)->encoder);
    mux_colour_close(&(*png)->colour);
    free((*png)->text);
    free(*png);
    *png = NULL;
}
