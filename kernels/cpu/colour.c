/*
 * colour.c - RGB to I420, 8-bit planes and clamped planes on the CPU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Idea      One pair of rows per piece of work. It is less than 1 % of a decode, so it stays plain.
 */
#include "conv_cpu.h"
#include "lx_cpu.h"

/* A value of the decoder as R, G or B in 0..1; a NaN becomes 0. */
static inline float unit(float v)
{
    float above = v > -1.0f ? v : -1.0f;
    return ((above < 1.0f ? above : 1.0f) + 1.0f) * 0.5f;
}

static inline float luma(const float rgb[3])
{
    return 0.2126f * rgb[0] + 0.7152f * rgb[1] + 0.0722f * rgb[2];
}

static inline uint8_t nearest(float v)
{
    return (uint8_t)(int)(v + 0.5f);
}

/* Chroma of the pixel pair at column x of two rows (pointers to column 0 of `in`). */
static void chroma(const float *upper, const float *lower, int64_t x, uint8_t *u, uint8_t *v)
{
    int64_t left = (x > 0 ? x - 1 : 0) * 3, at = x * 3, right = at + 3;
    float rgb[3];
    for (int c = 0; c < 3; c++) {
        float side = (unit(upper[left + c]) + unit(upper[right + c])) +
                     (unit(lower[left + c]) + unit(lower[right + c]));
        float middle = unit(upper[at + c]) + unit(lower[at + c]);
        rgb[c] = 0.125f * side + 0.25f * middle;
    }
    float y = luma(rgb);
    *u = nearest(128.0f + (224.0f / 1.8556f) * (rgb[2] - y));
    *v = nearest(128.0f + (224.0f / 1.5748f) * (rgb[0] - y));
}

static void luma_row(const float *in, int64_t n, uint8_t *out)
{
    for (int64_t x = 0; x < n; x++) {
        const float rgb[3] = {unit(in[3 * x]), unit(in[3 * x + 1]), unit(in[3 * x + 2])};
        out[x] = nearest(16.0f + 219.0f * luma(rgb));
    }
}

lx_status lx_cpu_i420(lx_exec *exec, const lx_colour_args *a, uint8_t *out, lx_err *err)
{
    (void)exec, (void)err; /* a build without OpenMP is serial */
    int64_t luma_bytes = a->out_height * a->out_width, half = a->out_width / 2;
    int64_t pairs = a->height / 2, in_row = a->in->width * 3;
#pragma omp parallel for num_threads(exec->n_threads)
    for (int64_t i = 0; i < a->in->frames * pairs; i++) {
        int64_t t = i / pairs, y = i % pairs * 2, oy = a->out_y + y;
        const float *upper = lx_image_f32(a->in, t) + (a->y + y) * in_row;
        const float *lower = upper + in_row;
        uint8_t *plane = out + (a->out_frame + t) * (luma_bytes * 3 / 2);
        uint8_t *u = plane + luma_bytes + oy / 2 * half + a->out_x / 2, *v = u + luma_bytes / 4;
        luma_row(upper + 3 * a->x, a->width, plane + oy * a->out_width + a->out_x);
        luma_row(lower + 3 * a->x, a->width, plane + (oy + 1) * a->out_width + a->out_x);
        for (int64_t x = 0; x < a->width; x += 2)
            chroma(upper, lower, a->x + x, u + x / 2, v + x / 2);
    }
    return LX_OK;
}

/* Row i of in's frames, and where channel 0 of it begins in [3, out_frames, H, W]. */
static const float *row_of(const lx_colour_args *a, int64_t i, int64_t *at)
{
    int64_t t = i / a->height, y = i % a->height;
    *at = ((a->out_frame + t) * a->out_height + a->out_y + y) * a->out_width + a->out_x;
    return lx_image_f32(a->in, t) + ((a->y + y) * a->in->width + a->x) * 3;
}

lx_status lx_cpu_rgb8(lx_exec *exec, const lx_colour_args *a, uint8_t *out, lx_err *err)
{
    (void)exec, (void)err; /* a build without OpenMP is serial */
    int64_t plane = a->out_frames * a->out_height * a->out_width;
#pragma omp parallel for num_threads(exec->n_threads)
    for (int64_t i = 0; i < a->in->frames * a->height; i++) {
        int64_t at;
        const float *in = row_of(a, i, &at);
        for (int64_t x = 0; x < a->width; x++)
            for (int64_t c = 0; c < 3; c++)
                out[c * plane + at + x] = nearest(255.0f * unit(in[3 * x + c]));
    }
    return LX_OK;
}

lx_status lx_cpu_planes(lx_exec *exec, const lx_colour_args *a, float *out, lx_err *err)
{
    (void)exec, (void)err; /* a build without OpenMP is serial */
    int64_t plane = a->out_frames * a->out_height * a->out_width;
#pragma omp parallel for num_threads(exec->n_threads)
    for (int64_t i = 0; i < a->in->frames * a->height; i++) {
        int64_t at;
        const float *in = row_of(a, i, &at);
        for (int64_t x = 0; x < a->width; x++)
            for (int64_t c = 0; c < 3; c++) {
                float v = in[3 * x + c];
                out[c * plane + at + x] = v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
            }
    }
    return LX_OK;
}
