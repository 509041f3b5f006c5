/*
 * lx_colour.c - checks of the colour family, and its definition
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_colour.h"

#include <inttypes.h>
#include <math.h>

#include "lx_backend.h"
#include "lx_conv_ops.h"

static bool is_inside(int64_t at, int64_t size, int64_t whole)
{
    return at >= 0 && size > 0 && at <= whole - size;
}

static lx_status check(const lx_exec *x, const lx_colour_args *a, bool must_be_even, lx_err *err)
{
    if (a->in->channels != 3)
        return lx_fail(err, LX_EJOB, "colour: %" PRId64 " channels, 3 (R, G, B) are needed",
                       a->in->channels);
    if (a->in->dtype != LX_DTYPE_F32 && a->in->dtype != x->rows)
        return lx_fail(err, LX_EJOB, "colour: an image of %s cannot be shown",
                       lx_dtype_name(a->in->dtype));
    if (!is_inside(a->y, a->height, a->in->height) || !is_inside(a->x, a->width, a->in->width) ||
        !is_inside(a->out_y, a->height, a->out_height) ||
        !is_inside(a->out_x, a->width, a->out_width) ||
        !is_inside(a->out_frame, a->in->frames, a->out_frames))
        return lx_fail(err, LX_EJOB,
                       "colour: %" PRId64 " frames of %" PRId64 "x%" PRId64 " at (%" PRId64
                       ", %" PRId64 ") do not fit from %" PRId64 "x%" PRId64 " into %" PRId64
                       " frames of %" PRId64 "x%" PRId64,
                       a->in->frames, a->height, a->width, a->out_y, a->out_x, a->in->height,
                       a->in->width, a->out_frames, a->out_height, a->out_width);
    if (must_be_even &&
        ((a->y | a->x | a->height | a->width | a->out_y | a->out_x | a->out_height | a->out_width) &
         1))
        return lx_fail(err, LX_EJOB,
                       "colour: I420 needs even sides, %" PRId64 "x%" PRId64 " of %" PRId64
                       "x%" PRId64 " was asked",
                       a->width, a->height, a->out_width, a->out_height);
    return LX_OK;
}

lx_status lx_colour_i420(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err)
{
    lx_status status = check(x, args, true, err);
    if (status == LX_OK && !x->is_dry)
        status = x->backend->conv->i420(x, args, out, err);
    return status;
}

lx_status lx_colour_rgb8(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err)
{
    lx_status status = check(x, args, false, err);
    if (status == LX_OK && !x->is_dry)
        status = x->backend->conv->rgb8(x, args, out, err);
    return status;
}

lx_status lx_colour_planes(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err)
{
    lx_status status = check(x, args, false, err);
    if (status == LX_OK && !x->is_dry)
        status = x->backend->conv->planes(x, args, out, err);
    return status;
}

/* --- the definition -------------------------------------------------------------------------- */

static double unit(const lx_image *in, int64_t t, int64_t y, int64_t x, int64_t c)
{
    double v = lx_image_f32(in, t)[(y * in->width + (x < 0 ? 0 : x)) * 3 + c];
    return (fmin(fmax(v, -1), 1) + 1) / 2;
}

static double luma(const double rgb[3])
{
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
}

static uint8_t nearest(double v)
{
    return (uint8_t)floor(v + 0.5);
}

static void chroma_ref(const lx_colour_args *a, int64_t t, int64_t y, int64_t x, uint8_t *u,
                       uint8_t *v)
{
    static const double tap[3] = {0.125, 0.25, 0.125};
    double rgb[3] = {0};
    for (int64_t c = 0; c < 3; c++)
        for (int64_t row = 0; row < 2; row++)
            for (int64_t k = 0; k < 3; k++)
                rgb[c] += tap[k] * unit(a->in, t, a->y + y + row, a->x + x + k - 1, c);
    *u = nearest(128 + 224 * (rgb[2] - luma(rgb)) / 1.8556);
    *v = nearest(128 + 224 * (rgb[0] - luma(rgb)) / 1.5748);
}

void lx_colour_i420_ref(const lx_colour_args *a, uint8_t *out)
{
    int64_t luma_bytes = a->out_height * a->out_width, half = a->out_width / 2;
    for (int64_t t = 0; t < a->in->frames; t++) {
        uint8_t *plane = out + (a->out_frame + t) * (luma_bytes * 3 / 2);
        uint8_t *u = plane + luma_bytes, *v = u + luma_bytes / 4;
        for (int64_t y = 0; y < a->height; y++)
            for (int64_t x = 0; x < a->width; x++) {
                double rgb[3];
                int64_t oy = a->out_y + y, ox = a->out_x + x;
                for (int64_t c = 0; c < 3; c++)
                    rgb[c] = unit(a->in, t, a->y + y, a->x + x, c);
                plane[oy * a->out_width + ox] = nearest(16 + 219 * luma(rgb));
                if (y % 2 == 0 && x % 2 == 0)
                    chroma_ref(a, t, y, x, u + oy / 2 * half + ox / 2, v + oy / 2 * half + ox / 2);
            }
    }
}

void lx_colour_rgb8_ref(const lx_colour_args *a, uint8_t *out)
{
    for (int64_t c = 0; c < 3; c++)
        for (int64_t t = 0; t < a->in->frames; t++)
            for (int64_t y = 0; y < a->height; y++)
                for (int64_t x = 0; x < a->width; x++) {
                    int64_t row =
                        ((c * a->out_frames + a->out_frame + t) * a->out_height + a->out_y + y) *
                        a->out_width;
                    out[row + a->out_x + x] = nearest(255 * unit(a->in, t, a->y + y, a->x + x, c));
                }
}
