/*
 * mux_colour.c - RGB and I420 in BT.709
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_colour.h"

#include <stdlib.h>

#include "mux_ffmpeg.h"

struct mux_colour {
    struct SwsContext *sws; /* owned */
    int width, height;      /* of what comes in */
    int to_width, to_height;
};

/* Left-sited chroma: at the left pixel of each pair, halfway between the two rows. libswscale
 * counts 256ths of a luma pixel. */
#define CHROMA_H 0
#define CHROMA_V 128

static int configure(const mux_colour *c, mux_direction direction)
{
    struct SwsContext *s = c->sws;
    int to_i420 = direction == MUX_RGB_TO_I420;
    const char *yuv = to_i420 ? "dst" : "src";
    char key[32];
    int rc = av_opt_set_int(s, "srcw", c->width, 0);
    rc = rc < 0 ? rc : av_opt_set_int(s, "srch", c->height, 0);
    rc = rc < 0 ? rc : av_opt_set_int(s, "dstw", c->to_width, 0);
    rc = rc < 0 ? rc : av_opt_set_int(s, "dsth", c->to_height, 0);
    /* Planar RGB in, as the tensors lie; packed RGB out, as PNG wants it. */
    rc = rc < 0 ? rc
                : av_opt_set_pixel_fmt(s, "src_format",
                                       to_i420 ? AV_PIX_FMT_GBRP : AV_PIX_FMT_YUV420P, 0);
    rc = rc < 0 ? rc
                : av_opt_set_pixel_fmt(s, "dst_format",
                                       to_i420 ? AV_PIX_FMT_YUV420P : AV_PIX_FMT_RGB24, 0);
    rc = rc < 0 ? rc
                : av_opt_set_int(s, "sws_flags",
                                 SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT |
                                     SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP,
                                 0);
    snprintf(key, sizeof key, "%s_h_chr_pos", yuv);
    rc = rc < 0 ? rc : av_opt_set_int(s, key, CHROMA_H, 0);
    snprintf(key, sizeof key, "%s_v_chr_pos", yuv);
    rc = rc < 0 ? rc : av_opt_set_int(s, key, CHROMA_V, 0);
    if (rc < 0)
        return rc;
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709);
    int unity = 1 << 16; /* contrast and saturation, 16.16 */
    sws_setColorspaceDetails(s, bt709, to_i420, bt709, !to_i420, 0, unity, unity);
    return sws_init_context(s, NULL, NULL);
}

static lx_status open_converter(mux_colour **out, mux_direction direction, const mux_colour *sizes,
                                lx_err *err)
{
    mux_colour *colour = malloc(sizeof *colour);
    if (!colour)
        return lx_fail(err, LX_EAGAIN, "no memory for a colour converter");
    *colour = *sizes;
    colour->sws = sws_alloc_context();
    int rc = colour->sws ? configure(colour, direction) : AVERROR(ENOMEM);
    if (rc < 0) {
        char text[128];
        mux_colour_close(&colour);
        return lx_fail(err, rc == AVERROR(ENOMEM) ? LX_EAGAIN : LX_EJOB,
                       "no colour converter for %dx%d: %s", sizes->width, sizes->height,
                       mux_ffmpeg_error(rc, text, sizeof text));
    }
    *out = colour;
    return LX_OK;
}

lx_status mux_colour_open(mux_colour **out, mux_direction direction, int width, int height,
                          lx_err *err)
{
    const mux_colour sizes = {
        .width = width, .height = height, .to_width = width, .to_height = height};
    return open_converter(out, direction, &sizes, err);
}

lx_status mux_colour_open_scaled(mux_colour **out, int width, int height, int to_width,
                                 int to_height, lx_err *err)
{
    const mux_colour sizes = {
        .width = width, .height = height, .to_width = to_width, .to_height = to_height};
    return open_converter(out, MUX_I420_TO_RGB, &sizes, err);
}

static lx_status convert(mux_colour *c, const uint8_t *const *src, const int *src_stride,
                         uint8_t *const *dst, const int *dst_stride, lx_err *err)
{
    int rows = sws_scale(c->sws, src, src_stride, 0, c->height, dst, dst_stride);
    if (rows == c->to_height)
        return LX_OK;
    return lx_fail(err, LX_ESTAGE, "colour conversion gave %d rows of %d", rows, c->to_height);
}

lx_status mux_colour_to_i420(mux_colour *colour, const uint8_t *r, const uint8_t *g,
                             const uint8_t *b, uint8_t *i420, lx_err *err)
{
    size_t luma = (size_t)colour->width * (size_t)colour->height;
    const uint8_t *src[4] = {g, b, r, NULL};
    int src_stride[4] = {colour->width, colour->width, colour->width, 0};
    uint8_t *dst[4] = {i420, i420 + luma, i420 + luma + luma / 4, NULL};
    int dst_stride[4] = {colour->width, colour->width / 2, colour->width / 2, 0};
    return convert(colour, src, src_stride, dst, dst_stride, err);
}

lx_status mux_colour_to_rgb24(mux_colour *colour, const uint8_t *i420, uint8_t *rgb, int stride,
                              lx_err *err)
{
    size_t luma = (size_t)colour->width * (size_t)colour->height;
    const uint8_t *src[4] = {i420, i420 + luma, i420 + luma + luma / 4, NULL};
    int src_stride[4] = {colour->width, colour->width / 2, colour->width / 2, 0};
    uint8_t *dst[4] = {rgb, NULL, NULL, NULL};
    int dst_stride[4] = {stride, 0, 0, 0};
    return convert(colour, src, src_stride, dst, dst_stride, err);
}

void mux_colour_close(mux_colour **colour)
{
    if (!colour || !*colour)
        return;
    sws_freeContext((*colour)->sws);
    free(*colour);
    *colour = NULL;
}
