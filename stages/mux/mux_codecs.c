/*
 * mux_codecs.c - versions of the FFmpeg libraries, and their H.264 encoders
 * SPDX-License-Identifier: Apache-2.0
 *
 * An encoder that is listed is compiled in; h264_nvenc and its like also need their hardware.
 */
#include "mux_codecs.h"

#include <stdio.h>

#include "mux_ffmpeg.h"

static void print_version(const char *name, unsigned version)
{
    printf("\"%s\": \"%u.%u.%u\", ", name, AV_VERSION_MAJOR(version), AV_VERSION_MINOR(version),
           AV_VERSION_MICRO(version));
}

/* FFmpeg's own version text comes from whoever built it: only what needs no escape is passed on. */
static void print_plain(const char *text)
{
    for (; *text; text++)
        if (*text >= 0x20 && *text < 0x7f && *text != '"' && *text != '\\')
            putchar(*text);
}

int mux_codecs(void)
{
    void *at = NULL;
    const AVCodec *codec;
    int n = 0;
    fputs("{\"ffmpeg\": \"", stdout);
    print_plain(av_version_info());
    fputs("\", ", stdout);
    print_version("libavcodec", avcodec_version());
    print_version("libavformat", avformat_version());
    print_version("libavutil", avutil_version());
    print_version("libswscale", swscale_version());
    fputs("\"h264\": [", stdout);
    while ((codec = av_codec_iterate(&at)))
        if (codec->id == AV_CODEC_ID_H264 && av_codec_is_encoder(codec))
            printf("%s\"%s\"", n++ ? ", " : "", codec->name);
    puts("]}");
    return fflush(stdout) ? 1 : 0;
}
