/*
 * mux_helpers.h - what the tests of the last stage share: folders, pictures, decoding
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef MUX_HELPERS_H
#define MUX_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mux_ffmpeg.h"

/* --- folders --------------------------------------------------------------------------------- */

/* A new folder; remove it with remove_folder. */
static inline char *make_folder(void)
{
    char text[] = "/tmp/test_mux.XXXXXX";
    assert_non_null(mkdtemp(text));
    char *real = realpath(text, NULL);
    assert_non_null(real);
    return real;
}

static inline int count_entries(const char *path)
{
    DIR *d = opendir(path);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

static inline char *path_in(char *out, const char *dir, const char *name)
{
    assert_in_range(snprintf(out, 1024, "%s/%s", dir, name), 1, 1023);
    return out;
}

static inline void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char child[1024];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        path_in(child, path, e->d_name);
        struct stat st;
        if (lstat(child, &st) == 0 && S_ISDIR(st.st_mode))
            remove_tree(child);
        else
            unlink(child);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static inline void remove_folder(char *path)
{
    remove_tree(path);
    free(path);
}

static inline bool exists(const char *dir, const char *name)
{
    char path[1024];
    struct stat st;
    return lstat(path_in(path, dir, name), &st) == 0;
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    char path[1024];
    FILE *f = fopen(path_in(path, dir, name), "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static inline uint8_t *read_whole(const char *dir, const char *name, size_t *bytes)
{
    char path[1024];
    FILE *f = fopen(path_in(path, dir, name), "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    data[*bytes] = 0;
    fclose(f);
    return data;
}

/* --- pictures -------------------------------------------------------------------------------- */

/* Colour bars at full and at three quarters of the range, as (R, G, B). */
static const uint8_t bars[16][3] = {{255, 255, 255}, {255, 255, 0}, {0, 255, 255}, {0, 255, 0},
                                    {255, 0, 255},   {255, 0, 0},   {0, 0, 255},   {0, 0, 0},
                                    {191, 191, 191}, {191, 191, 0}, {0, 191, 191}, {0, 191, 0},
                                    {191, 0, 191},   {191, 0, 0},   {0, 0, 191},   {128, 128, 128}};

/* The definition (BT.709, limited range) in double, rounded to nearest: y, cb, cr of one colour. */
static inline void bt709(const uint8_t rgb[3], int yuv[3])
{
    double r = rgb[0] / 255.0, g = rgb[1] / 255.0, b = rgb[2] / 255.0;
    double y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    yuv[0] = (int)lround(16 + 219 * y);
    yuv[1] = (int)lround(128 + 224 * (b - y) / 1.8556);
    yuv[2] = (int)lround(128 + 224 * (r - y) / 1.5748);
}

/* A moving, detailed I420 picture: frame t of a clip. */
static inline void fill_frame(uint8_t *i420, int width, int height, int t)
{
    size_t luma = (size_t)width * (size_t)height;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            i420[(size_t)y * (size_t)width + (size_t)x] =
                (uint8_t)(16 + (x * 3 + y * 5 + t * 7 + (x * y >> 3)) % 219);
    for (size_t i = 0; i < luma / 4; i++) {
        i420[luma + i] = (uint8_t)(64 + (i + (size_t)t * 3) % 128);
        i420[luma + luma / 4 + i] = (uint8_t)(192 - (i / 2 + (size_t)t) % 128);
    }
}

/* --- decoding -------------------------------------------------------------------------------- */

typedef struct decoded {
    AVFormatContext *container;
    int n_frames, width, height;
    uint8_t *i420; /* n_frames packed pictures */
    bool tags_on_all_frames;
    int key_frame_gap; /* most frames from one key frame to the next */
} decoded;

static inline void keep_frame(decoded *d, const AVFrame *f)
{
    size_t bytes = (size_t)d->width * (size_t)d->height * 3 / 2;
    d->i420 = realloc(d->i420, bytes * (size_t)(d->n_frames + 1));
    assert_non_null(d->i420);
    assert_int_equal(f->format, AV_PIX_FMT_YUV420P);
    assert_int_equal(av_image_copy_to_buffer(d->i420 + bytes * (size_t)d->n_frames, (int)bytes,
                                             (const uint8_t *const *)f->data, f->linesize,
                                             AV_PIX_FMT_YUV420P, d->width, d->height, 1),
                     bytes);
    d->n_frames++;
    d->tags_on_all_frames &=
        f->color_range == AVCOL_RANGE_MPEG && f->colorspace == AVCOL_SPC_BT709 &&
        f->color_primaries == AVCOL_PRI_BT709 && f->color_trc == AVCOL_TRC_BT709 &&
        f->chroma_location == AVCHROMA_LOC_LEFT;
}

static inline void drain_decoder(decoded *d, AVCodecContext *codec, const AVPacket *packet)
{
    AVFrame *frame = av_frame_alloc();
    assert_int_equal(avcodec_send_packet(codec, packet), 0);
    while (avcodec_receive_frame(codec, frame) == 0)
        keep_frame(d, frame);
    av_frame_free(&frame);
}

/* Demux and decode a whole file, as any player would. */
static inline decoded decode_file(const char *path)
{
    decoded d = {.tags_on_all_frames = true};
    assert_int_equal(avformat_open_input(&d.container, path, NULL, NULL), 0);
    assert_true(avformat_find_stream_info(d.container, NULL) >= 0);
    assert_int_equal(d.container->nb_streams, 1);
    const AVCodecParameters *par = d.container->streams[0]->codecpar;
    d.width = par->width;
    d.height = par->height;
    AVCodecContext *codec = avcodec_alloc_context3(avcodec_find_decoder(par->codec_id));
    assert_int_equal(avcodec_parameters_to_context(codec, par), 0);
    assert_int_equal(avcodec_open2(codec, NULL, NULL), 0);
    AVPacket *packet = av_packet_alloc();
    int since_key = 0;
    while (av_read_frame(d.container, packet) >= 0) {
        since_key = packet->flags & AV_PKT_FLAG_KEY ? 1 : since_key + 1;
        if (since_key > d.key_frame_gap)
            d.key_frame_gap = since_key;
        drain_decoder(&d, codec, packet);
        av_packet_unref(packet);
    }
    drain_decoder(&d, codec, NULL);
    av_packet_free(&packet);
    avcodec_free_context(&codec);
    return d;
}

static inline void decoded_free(decoded *d)
{
    avformat_close_input(&d->container);
    free(d->i420);
}

/* A PNG file as packed R G B; free(rgb). */
typedef struct picture {
    int width, height;
    uint8_t *rgb;
} picture;

static inline picture read_png(const char *path)
{
    AVFormatContext *f = NULL;
    assert_int_equal(avformat_open_input(&f, path, av_find_input_format("png_pipe"), NULL), 0);
    AVCodecContext *c = avcodec_alloc_context3(avcodec_find_decoder(AV_CODEC_ID_PNG));
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    assert_int_equal(avcodec_open2(c, NULL, NULL), 0);
    assert_int_equal(av_read_frame(f, packet), 0);
    assert_int_equal(avcodec_send_packet(c, packet), 0);
    assert_int_equal(avcodec_receive_frame(c, frame), 0);
    assert_int_equal(frame->format, AV_PIX_FMT_RGB24);
    picture out = {.width = frame->width, .height = frame->height};
    int bytes = out.width * out.height * 3;
    out.rgb = malloc((size_t)bytes);
    assert_non_null(out.rgb);
    av_image_copy_to_buffer(out.rgb, bytes, (const uint8_t *const *)frame->data, frame->linesize,
                            AV_PIX_FMT_RGB24, out.width, out.height, 1);
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&c);
    avformat_close_input(&f);
    return out;
}

static inline const char *tag_of(const decoded *d, const char *key)
{
    const AVDictionaryEntry *e = av_dict_get(d->container->metadata, key, NULL, AV_DICT_MATCH_CASE);
    return e ? e->value : NULL;
}

#endif
