/*
 * mux_ffmpeg.c - descriptors for libavformat, log lines from it
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_ffmpeg.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_log.h"

#define IO_BUFFER (256 * 1024) /* bytes between libavformat and one system call */

static void on_log(void *who, int level, const char *format, va_list args)
{
    (void)who;
    if (level > AV_LOG_ERROR)
        return;
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    if (text[0])
        LX_W("ffmpeg: %s", text);
}

void mux_ffmpeg_setup(void)
{
    av_log_set_callback(on_log);
}

const char *mux_ffmpeg_error(int code, char *text, size_t text_bytes)
{
    if (av_strerror(code, text, text_bytes) < 0)
        snprintf(text, text_bytes, "FFmpeg error %d", code);
    return text;
}

static void note_error(mux_io *io, int error)
{
    if (!*io->error)
        *io->error = error;
}

static int on_read(void *opaque, uint8_t *buffer, int n)
{
    mux_io *io = opaque;
    ssize_t got;
    do
        got = pread(io->fd, buffer, (size_t)n, io->at);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        note_error(io, errno);
        return AVERROR(errno);
    }
    io->at += got;
    return got ? (int)got : AVERROR_EOF;
}

static int on_write(void *opaque, mux_avio_byte *buffer, int n)
{
    mux_io *io = opaque;
    for (int done = 0; done < n;) {
        int failed = LX_FAULT("mux.write");
        ssize_t put = failed ? -1 : pwrite(io->fd, buffer + done, (size_t)(n - done), io->at);
        if (failed)
            errno = failed;
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            int error = put < 0 ? errno : ENOSPC;
            note_error(io, error);
            return AVERROR(error);
        }
        done += (int)put;
        io->at += put;
    }
    return n;
}

static int64_t on_seek(void *opaque, int64_t offset, int whence)
{
    mux_io *io = opaque;
    struct stat st;
    if (fstat(io->fd, &st))
        return AVERROR(errno);
    int64_t base = 0;
    switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE:
        return st.st_size;
    case SEEK_SET:
        break;
    case SEEK_CUR:
        base = io->at;
        break;
    case SEEK_END:
        base = st.st_size;
        break;
    default:
        return AVERROR(EINVAL);
    }
    int64_t to;
    if (__builtin_add_overflow(base, offset, &to) || to < 0)
        return AVERROR(EINVAL);
    return io->at = to;
}

lx_status mux_io_open(mux_io *io, int fd, bool for_writing, int *error, lx_err *err)
{
    *io = (mux_io){.fd = fd, .error = error};
    uint8_t *buffer = av_malloc(IO_BUFFER);
    if (buffer)
        io->avio =
            avio_alloc_context(buffer, IO_BUFFER, for_writing, io, for_writing ? NULL : on_read,
                               for_writing ? on_write : NULL, on_seek);
    if (io->avio)
        return LX_OK;
    av_free(buffer);
    return lx_fail(err, LX_EAGAIN, "no memory for a buffer of %d bytes", IO_BUFFER);
}

void mux_io_close(mux_io *io)
{
    if (!io->avio)
        return;
    av_freep(&io->avio->buffer); /* libavformat may have replaced the one we gave */
    avio_context_free(&io->avio);
}

void mux_ffmpeg_tag_context(AVCodecContext *codec)
{
    codec->color_range = AVCOL_RANGE_MPEG;
    codec->colorspace = AVCOL_SPC_BT709;
    codec->color_primaries = AVCOL_PRI_BT709;
    codec->color_trc = AVCOL_TRC_BT709;
    codec->chroma_sample_location = AVCHROMA_LOC_LEFT;
}

void mux_ffmpeg_tag_frame(AVFrame *frame)
{
    frame->color_range = AVCOL_RANGE_MPEG;
    frame->colorspace = AVCOL_SPC_BT709;
    frame->color_primaries = AVCOL_PRI_BT709;
    frame->color_trc = AVCOL_TRC_BT709;
    frame->chroma_location = AVCHROMA_LOC_LEFT;
}
