/*
 * mux_video.c - frames in, H.264 mp4 out
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_video.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mux_ffmpeg.h"

#define GOP_SECONDS 5 /* seeking never has to decode more than this */

/* Finer chroma than x264's own choice: with less, saturated flat colours come back 3 to 5 RGB code
 * values off at crf 18, since one step of chroma is two of RGB. */
#define CHROMA_QP_OFFSET (-6)

/* x264's macroblock tree has variants that differ between CPUs and, with the vector ones, depend on
 * what lay in memory before: two encodings of the same frames in one process came out different
 * (164.3095; test_video_same_frames_same_bytes). This asks for the one that is the same everywhere;
 * 832x480 takes about 6 % longer. */
#define X264_PARAMS "cpu-independent=1"

struct mux_video {
    AVFormatContext *container; /* owned */
    AVCodecContext *encoder;    /* owned */
    AVFrame *frame;             /* owned; reused, the encoder keeps a copy of its own */
    AVPacket *packet;           /* owned */
    mux_io io, back;            /* writing; and reading back, when the index moves to the front */
    int width, height;
    AVRational rate;
    int64_t n_frames, n_added, n_packets;
    int own_error; /* for io and back, if the caller does not ask */
};

static lx_status no_memory(lx_err *err)
{
    return lx_fail(err, LX_EAGAIN, "no memory for the video encoder");
}

static lx_status av_failed(lx_err *err, lx_status status, const char *doing, int code)
{
    char text[128];
    return lx_fail(err, status, "%s: %s", doing, mux_ffmpeg_error(code, text, sizeof text));
}

void mux_video_rate(double fps, int *num, int *den)
{
    /* 23.976, 29.97, 59.94: television's N * 1000/1001, which people write with two decimals. */
    double whole = round(fps * 1.001);
    if (fabs(fps - round(fps)) > 1e-6 && fabs(fps - whole / 1.001) < 5e-3) {
        *num = (int)whole * 1000;
        *den = 1001;
        return;
    }
    AVRational rate = av_d2q(fps, 100000);
    *num = rate.num;
    *den = rate.den;
}

/* --- moving the index to the front ------------------------------------------------------------
 * faststart reads the file again while it writes: libavformat asks for a second context by URL,
 * which gets our descriptor whatever the URL says. Nothing else may be opened. */

static int on_io_open(AVFormatContext *container, AVIOContext **avio, const char *url, int flags,
                      AVDictionary **options)
{
    (void)url, (void)options;
    mux_video *video = container->opaque;
    if (flags != AVIO_FLAG_READ || video->back.avio)
        return AVERROR(EPERM);
    if (mux_io_open(&video->back, video->io.fd, false, video->io.error, NULL) != LX_OK)
        return AVERROR(ENOMEM);
    *avio = video->back.avio;
    return 0;
}

static int on_io_close(AVFormatContext *container, AVIOContext *avio)
{
    mux_video *video = container->opaque;
    if (avio == video->back.avio)
        mux_io_close(&video->back);
    return 0;
}

/* --- opening --------------------------------------------------------------------------------- */

static lx_status check_options(const mux_video_options *o, lx_err *err)
{
    if (o->width < 16 || o->height < 16 || o->width > LX_LIMIT_SIDE || o->height > LX_LIMIT_SIDE ||
        o->width % 2 || o->height % 2)
        return lx_fail(err, LX_EJOB,
                       "frames of %dx%d pixels: H.264 in yuv420p needs even sides from 16 to %d",
                       o->width, o->height, LX_LIMIT_SIDE);
    if (!(o->fps >= LX_JOB_FPS_MIN && o->fps <= LX_JOB_FPS_MAX))
        return lx_fail(err, LX_EJOB, "%g frames per second: allowed are %g to %g", o->fps,
                       LX_JOB_FPS_MIN, LX_JOB_FPS_MAX);
    if (o->n_frames < 1)
        return lx_fail(err, LX_EJOB, "%" PRId64 " frames: at least one is needed", o->n_frames);
    if (o->crf < 0 || o->crf > 51)
        return lx_fail(err, LX_ECONFIG, "mux.crf %d: allowed are 0 to 51", o->crf);
    return LX_OK;
}

static lx_status open_encoder(mux_video *video, const mux_video_options *o, lx_err *err)
{
    const AVCodec *codec = avcodec_find_encoder_by_name("libx264");
    if (!codec)
        return lx_fail(err, LX_ECONFIG,
                       "this system's libavcodec has no libx264 encoder: install one that has");
    AVCodecContext *c = video->encoder = avcodec_alloc_context3(codec);
    if (!c)
        return no_memory(err);
    c->width = o->width;
    c->height = o->height;
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->pix_fmt = AV_PIX_FMT_YUV420P;
    c->framerate = video->rate;
    c->time_base = av_inv_q(video->rate);
    int gop = (int)(GOP_SECONDS * o->fps);
    c->gop_size = gop > 1 ? gop : 1;
    c->thread_count = o->threads;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    if (video->container->oformat->flags & AVFMT_GLOBALHEADER)
        c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    mux_ffmpeg_tag_context(c);
    int rc = av_opt_set_double(c->priv_data, "crf", o->crf, 0);
    if (rc >= 0)
        rc = av_opt_set(c->priv_data, "preset", o->preset, 0);
    if (rc >= 0)
        rc = av_opt_set_int(c->priv_data, "chromaoffset", CHROMA_QP_OFFSET, 0);
    if (rc >= 0)
        rc = av_opt_set(c->priv_data, "x264-params", X264_PARAMS, 0);
    if (rc >= 0)
        rc = avcodec_open2(c, codec, NULL);
    if (rc == AVERROR(ENOMEM))
        return no_memory(err);
    if (rc < 0)
        return lx_fail(err, LX_ECONFIG,
                       "libx264 refuses mux.preset \"%s\" with mux.crf %d (presets: ultrafast to "
                       "veryslow)",
                       o->preset, o->crf);
    return LX_OK;
}

static lx_status open_container(mux_video *video, lx_err *err)
{
    int rc = avformat_alloc_output_context2(&video->container, NULL, "mp4", NULL);
    if (rc < 0)
        return av_failed(err, LX_ECONFIG, "this system's libavformat cannot write mp4", rc);
    AVFormatContext *f = video->container;
    f->opaque = video;
    f->io_open = on_io_open;
    f->io_close2 = on_io_close;
    f->pb = video->io.avio;
    f->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT; /* no library versions, no dates */
    rc = av_opt_set(f->priv_data, "movflags", "+faststart+use_metadata_tags", 0);
    return rc < 0 ? av_failed(err, LX_ECONFIG, "mp4 options", rc) : LX_OK;
}

static lx_status add_stream(mux_video *video, const mux_meta *meta, lx_err *err)
{
    AVFormatContext *f = video->container;
    AVStream *stream = avformat_new_stream(f, NULL);
    if (!stream)
        return no_memory(err);
    stream->time_base = video->encoder->time_base;
    stream->avg_frame_rate = stream->r_frame_rate = video->rate;
    stream->sample_aspect_ratio = (AVRational){1, 1};
    int rc = avcodec_parameters_from_context(stream->codecpar, video->encoder);
    for (int i = 0; i < meta->n && rc >= 0; i++)
        rc = av_dict_set(&f->metadata, meta->pair[i].key, meta->pair[i].value, 0);
    if (rc >= 0)
        rc = avformat_write_header(f, NULL);
    if (rc < 0)
        return av_failed(err, LX_EJOB, "writing the mp4 header", rc);
    return LX_OK;
}

static lx_status open_frame(mux_video *video, lx_err *err)
{
    video->packet = av_packet_alloc();
    AVFrame *frame = video->frame = av_frame_alloc();
    if (!video->packet || !frame)
        return no_memory(err);
    frame->format = AV_PIX_FMT_YUV420P;
    frame->width = video->width;
    frame->height = video->height;
    mux_ffmpeg_tag_frame(frame);
    return av_frame_get_buffer(frame, 0) < 0 ? no_memory(err) : LX_OK;
}

lx_status mux_video_open(mux_video **out, int fd, const mux_video_options *options, lx_err *err)
{
    lx_status status = check_options(options, err);
    if (status != LX_OK)
        return status;
    mux_video *video = calloc(1, sizeof *video);
    if (!video)
        return no_memory(err);
    video->width = options->width;
    video->height = options->height;
    video->n_frames = options->n_frames;
    mux_video_rate(options->fps, &video->rate.num, &video->rate.den);
    int *error = options->write_error ? options->write_error : &video->own_error;
    *error = 0;
    status = mux_io_open(&video->io, fd, true, error, err);
    if (status == LX_OK)
        status = open_container(video, err);
    if (status == LX_OK)
        status = open_encoder(video, options, err);
    if (status == LX_OK)
        status = open_frame(video, err);
    if (status == LX_OK)
        status = add_stream(video, options->meta, err);
    if (status == LX_OK)
        *out = video;
    else
        mux_video_close(&video);
    return status;
}

/* --- encoding -------------------------------------------------------------------------------- */

/* Send a frame (NULL: no more) and write the packets that come out. */
static lx_status encode(mux_video *video, const AVFrame *frame, lx_err *err)
{
    AVStream *stream = video->container->streams[0];
    int rc = avcodec_send_frame(video->encoder, frame);
    while (rc >= 0) {
        rc = avcodec_receive_packet(video->encoder, video->packet);
        if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF)
            break;
        if (rc < 0)
            return av_failed(err, LX_EJOB, "encoding a frame", rc);
        video->packet->duration = 1; /* in frames, until it is rescaled */
        video->packet->stream_index = 0;
        av_packet_rescale_ts(video->packet, video->encoder->time_base, stream->time_base);
        video->n_packets++;
        rc = av_interleaved_write_frame(video->container, video->packet);
        if (rc < 0 || *video->io.error)
            return av_failed(err, LX_EJOB, "writing a frame", rc < 0 ? rc : AVERROR(EIO));
    }
    if (rc < 0 && rc != AVERROR(EAGAIN) && rc != AVERROR_EOF)
        return av_failed(err, LX_EJOB, "encoding a frame", rc);
    return LX_OK;
}

lx_status mux_video_add(mux_video *video, const uint8_t *i420, lx_err *err)
{
    if (video->n_added >= video->n_frames)
        return lx_fail(err, LX_EJOB, "more than the %" PRId64 " frames that were announced",
                       video->n_frames);
    if (av_frame_make_writable(video->frame) < 0)
        return no_memory(err);
    const uint8_t *planes[4];
    int strides[4];
    int rc = av_image_fill_arrays((uint8_t **)planes, strides, i420, AV_PIX_FMT_YUV420P,
                                  video->width, video->height, 1);
    if (rc < 0)
        return av_failed(err, LX_EJOB, "laying out a frame", rc);
    av_image_copy(video->frame->data, video->frame->linesize, planes, strides, AV_PIX_FMT_YUV420P,
                  video->width, video->height);
    video->frame->pts = video->n_added++;
    return encode(video, video->frame, err);
}

/* --- finishing ------------------------------------------------------------------------------- */

static lx_status compare(const mux_video *video, const AVFormatContext *f, lx_err *err)
{
    const AVStream *s = f->nb_streams == 1 ? f->streams[0] : NULL;
    if (!s || s->codecpar->codec_id != AV_CODEC_ID_H264 || s->codecpar->width != video->width ||
        s->codecpar->height != video->height)
        return lx_fail(err, LX_EJOB, "the written file is not one H.264 stream of %dx%d",
                       video->width, video->height);
    double seconds = (double)s->duration * av_q2d(s->time_base);
    double wanted = (double)video->n_frames / av_q2d(video->rate);
    if (s->nb_frames != video->n_frames || fabs(seconds - wanted) > 0.5 / av_q2d(video->rate))
        return lx_fail(err, LX_EJOB,
                       "the written file has %" PRId64 " frames in %.3f s, expected were %" PRId64
                       " in %.3f s",
                       (int64_t)s->nb_frames, seconds, video->n_frames, wanted);
    return LX_OK;
}

/* What a player would see: open the finished file and look at its index. */
static lx_status read_back(const mux_video *video, int fd, lx_err *err)
{
    mux_io io;
    int error = 0;
    lx_status status = mux_io_open(&io, fd, false, &error, err);
    if (status != LX_OK)
        return status;
    AVFormatContext *f = avformat_alloc_context();
    if (!f) {
        mux_io_close(&io);
        return no_memory(err);
    }
    f->pb = io.avio;
    f->flags |= AVFMT_FLAG_CUSTOM_IO;
    int rc =
        avformat_open_input(&f, NULL, av_find_input_format("mov"), NULL); /* frees on failure */
    status = rc < 0 ? av_failed(err, LX_EJOB, "the written file cannot be read back", rc)
                    : compare(video, f, err);
    avformat_close_input(&f);
    mux_io_close(&io);
    return status;
}

lx_status mux_video_finish(mux_video *video, uint64_t *file_bytes, lx_err *err)
{
    if (video->n_added != video->n_frames)
        return lx_fail(err, LX_EJOB, "%" PRId64 " frames came, %" PRId64 " were announced",
                       video->n_added, video->n_frames);
    lx_status status = encode(video, NULL, err);
    if (status != LX_OK)
        return status;
    if (video->n_packets != video->n_frames)
        return lx_fail(err, LX_EJOB, "%" PRId64 " frames were encoded out of %" PRId64,
                       video->n_packets, video->n_frames);
    int rc = av_write_trailer(video->container);
    avio_flush(video->io.avio);
    if (rc < 0 || *video->io.error)
        return av_failed(err, LX_EJOB, "writing the mp4 index", rc < 0 ? rc : AVERROR(EIO));
    int64_t bytes = avio_size(video->io.avio);
    status = read_back(video, video->io.fd, err);
    if (status == LX_OK && file_bytes)
        *file_bytes = bytes > 0 ? (uint64_t)bytes : 0;
    return status;
}

void mux_video_close(mux_video **video)
{
    if (!video || !*video)
        return;
    mux_video *v = *video;
    av_frame_free(&v->frame);
    av_packet_free(&v->packet);
    avcodec_free_context(&v->encoder);
    avformat_free_context(v->container);
    mux_io_close(&v->back);
    mux_io_close(&v->io);
    free(v);
    *video = NULL;
}
