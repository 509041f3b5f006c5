/*
 * judge_clip.c - the frames of a file as RGB
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

#include "judge.h"
#include "lx_tensor.h"

#define MOST_SIDE   1024
#define MOST_FRAMES 1024
#define MOST_BYTES  (UINT64_C(1) << 30)

typedef struct reader {
    const char *path;
    AVFormatContext *container;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *sws;
    int stream;
    judge_clip clip;
    int room; /* frames that clip.rgb holds */
} reader;

void judge_clip_free(judge_clip *clip)
{
    free(clip->rgb);
    *clip = (judge_clip){0};
}

static size_t frame_bytes(const judge_clip *clip)
{
    return (size_t)clip->width * (size_t)clip->height * 3;
}

static lx_status check_size(const char *path, const judge_clip *clip, lx_err *err)
{
    if (clip->width < 16 || clip->height < 16 || clip->width > MOST_SIDE ||
        clip->height > MOST_SIDE || clip->n_frames > MOST_FRAMES ||
        frame_bytes(clip) * (size_t)clip->n_frames > MOST_BYTES)
        return lx_fail(err, LX_EJOB,
                       "%s: %dx%d, %d frames; judged are clips of 16 to %d pixels a side and up "
                       "to %d frames",
                       path, clip->width, clip->height, clip->n_frames, MOST_SIDE, MOST_FRAMES);
    return LX_OK;
}

/* --- coded ------------------------------------------------------------------------------------ */

static lx_status open_decoder(reader *r, lx_err *err)
{
    const AVCodec *decoder = NULL;
    r->stream = avformat_find_stream_info(r->container, NULL) < 0
                    ? -1
                    : av_find_best_stream(r->container, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
    if (r->stream < 0 || !decoder)
        return lx_fail(err, LX_ECONFIG, "%s: no video that can be decoded", r->path);
    r->codec = avcodec_alloc_context3(decoder);
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->codec || !r->packet || !r->frame)
        return lx_fail(err, LX_EAGAIN, "%s: no memory to decode", r->path);
    const AVCodecParameters *par = r->container->streams[r->stream]->codecpar;
    if (avcodec_parameters_to_context(r->codec, par) < 0)
        return lx_fail(err, LX_EJOB, "%s: odd stream parameters", r->path);
    r->codec->thread_count = 1;
    if (avcodec_open2(r->codec, decoder, NULL) < 0)
        return lx_fail(err, LX_EJOB, "%s: the %s decoder does not open", r->path, decoder->name);
    r->clip = (judge_clip){.width = par->width, .height = par->height};
    return check_size(r->path, &r->clip, err);
}

/* The converter of the first frame, which all others must be like. */
static bool open_converter(reader *r)
{
    const AVFrame *f = r->frame;
    r->sws = sws_getContext(f->width, f->height, f->format, f->width, f->height, AV_PIX_FMT_RGB24,
                            SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);
    int matrix = f->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_ITU709 : (int)f->colorspace;
    const int *coefficients = sws_getCoefficients(matrix);
    return r->sws &&
           sws_setColorspaceDetails(r->sws, coefficients, f->color_range == AVCOL_RANGE_JPEG,
                                    coefficients, 1, 0, 1 << 16, 1 << 16) >= 0;
}

static lx_status keep_frame(reader *r, lx_err *err)
{
    judge_clip *clip = &r->clip;
    if (r->frame->width != clip->width || r->frame->height != clip->height)
        return lx_fail(err, LX_EJOB, "%s: a frame of %dx%d in a clip of %dx%d", r->path,
                       r->frame->width, r->frame->height, clip->width, clip->height);
    if (!r->sws && !open_converter(r))
        return lx_fail(err, LX_EJOB, "%s: its pixel format cannot be converted", r->path);
    if (clip->n_frames == r->room) {
        judge_clip wanted = *clip;
        wanted.n_frames = r->room + 32;
        lx_status status = check_size(r->path, &wanted, err);
        uint8_t *rgb =
            status ? NULL : realloc(clip->rgb, frame_bytes(clip) * (size_t)wanted.n_frames);
        if (!rgb)
            return status ? status : lx_fail(err, LX_EAGAIN, "%s: no memory", r->path);
        clip->rgb = rgb;
        r->room = wanted.n_frames;
    }
    uint8_t *to[4] = {clip->rgb + frame_bytes(clip) * (size_t)clip->n_frames};
    int stride[4] = {clip->width * 3};
    sws_scale(r->sws, (const uint8_t *const *)r->frame->data, r->frame->linesize, 0, clip->height,
              to, stride);
    clip->n_frames++;
    return LX_OK;
}

/* packet NULL: what the decoder still holds. */
static lx_status decode(reader *r, const AVPacket *packet, lx_err *err)
{
    if (avcodec_send_packet(r->codec, packet) < 0)
        return lx_fail(err, LX_EJOB, "%s: broken after %d frames", r->path, r->clip.n_frames);
    lx_status status = LX_OK;
    while (!status && avcodec_receive_frame(r->codec, r->frame) == 0) {
        status = keep_frame(r, err);
        av_frame_unref(r->frame);
    }
    return status;
}

static lx_status read_all(reader *r, lx_err *err)
{
    lx_status status = open_decoder(r, err);
    while (!status && av_read_frame(r->container, r->packet) >= 0) {
        if (r->packet->stream_index == r->stream)
            status = decode(r, r->packet, err);
        av_packet_unref(r->packet);
    }
    if (!status)
        status = decode(r, NULL, err);
    if (!status && r->clip.n_frames == 0)
        status = lx_fail(err, LX_EJOB, "%s: no frame", r->path);
    return status;
}

lx_status judge_clip_read(judge_clip *clip, const char *path, lx_err *err)
{
    reader r = {.path = path};
    av_log_set_level(AV_LOG_ERROR);
    int code = avformat_open_input(&r.container, path, NULL, NULL);
    if (code < 0)
        return lx_fail(err, LX_ECONFIG, "%s: cannot be opened as a video: %s", path,
                       av_err2str(code));
    lx_status status = read_all(&r, err);
    if (status == LX_OK)
        *clip = r.clip;
    else
        judge_clip_free(&r.clip);
    sws_freeContext(r.sws);
    av_frame_free(&r.frame);
    av_packet_free(&r.packet);
    avcodec_free_context(&r.codec);
    avformat_close_input(&r.container);
    return status;
}

/* --- raw -------------------------------------------------------------------------------------- */

lx_status judge_raw_count(const char *path, const judge_clip *size, size_t *n, lx_err *err)
{
    lx_status status = check_size(path, size, err);
    if (status)
        return status;
    FILE *file = fopen(path, "rbe");
    if (!file)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    long bytes = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    fclose(file);
    size_t one = frame_bytes(size) * (size_t)size->n_frames;
    if (bytes <= 0 || one == 0 || (size_t)bytes % one)
        return lx_fail(err, LX_EJOB, "%s: %ld bytes; a clip of %dx%dx%d has %zu", path, bytes,
                       size->width, size->height, size->n_frames, one);
    *n = (size_t)bytes / one;
    return LX_OK;
}

lx_status judge_raw_read(judge_clip *clip, const char *path, size_t index, lx_err *err)
{
    size_t n, one = frame_bytes(clip) * (size_t)clip->n_frames;
    lx_status status = judge_raw_count(path, clip, &n, err);
    if (status)
        return status;
    FILE *file = index < n ? fopen(path, "rbe") : NULL;
    if (!file)
        return lx_fail(err, LX_ECONFIG, "%s: no clip %zu in it", path, index);
    uint8_t *rgb = malloc(one);
    bool ok = rgb && !fseek(file, (long)(one * index), SEEK_SET) && fread(rgb, one, 1, file) == 1;
    fclose(file);
    if (!ok) {
        free(rgb);
        return lx_fail(err, LX_EJOB, "%s: clip %zu cannot be read", path, index);
    }
    clip->rgb = rgb;
    return LX_OK;
}
