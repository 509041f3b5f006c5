/*
 * lx_conv_ref.c - the convolution family as its formulas say it, in f64
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_conv_ops.h"

/* x[t, y, x, :] with zeros outside; under upsample (y, x) count pixels of the doubled image. */
static const float *pixel(const lx_image *in, int64_t t, int64_t y, int64_t x, bool upsample)
{
    int64_t height = upsample ? 2 * in->height : in->height;
    int64_t width = upsample ? 2 * in->width : in->width;
    if (y < 0 || x < 0 || y >= height || x >= width)
        return NULL;
    if (upsample) {
        y /= 2;
        x /= 2;
    }
    return lx_image_f32(in, t) + (y * in->width + x) * in->channels;
}

/* One output: weight [o, i, kt, kh, kw], or [o, i, kh, kw] where kt is 1. */
static double one_sum(const lx_weight *weight, const lx_image *in, bool upsample,
                      const int64_t at[3], int64_t o)
{
    const lx_shape *s = &weight->shape;
    int64_t kt = s->n_dims == 5 ? s->dim[2] : 1;
    int64_t kh = s->dim[s->n_dims - 2], kw = s->dim[s->n_dims - 1], taps = kt * kh * kw;
    const float *w = (const float *)weight->data + o * in->channels * taps;
    double sum = 0;
    for (int64_t i = 0; i < kt; i++)
        for (int64_t j = 0; j < kh; j++)
            for (int64_t k = 0; k < kw; k++) {
                const float *p = pixel(in, at[0] + i, at[1] - (kh - 1) / 2 + j,
                                       at[2] - (kw - 1) / 2 + k, upsample);
                for (int64_t c = 0; p && c < in->channels; c++)
                    sum += (double)w[c * taps + (i * kh + j) * kw + k] * p[c];
            }
    return sum;
}

void lx_conv_ref(const lx_weight *weight, const lx_weight *bias, const lx_image *in, bool upsample,
                 const lx_image *residual, lx_image *out)
{
    int64_t n = weight->shape.dim[0];
    for (int64_t t = 0; t < out->frames; t++)
        for (int64_t y = 0; y < out->height; y++)
            for (int64_t x = 0; x < out->width; x++)
                for (int64_t o = 0; o < n; o++) {
                    int64_t at[3] = {t, y, x}, i = (y * out->width + x) * n + o;
                    double sum = one_sum(weight, in, upsample, at, o);
                    sum += ((const float *)bias->data)[o];
                    if (residual)
                        sum += lx_image_f32(residual, t)[i];
                    lx_image_f32(out, t)[i] = (float)sum;
                }
}

void lx_channel_norm_ref(const lx_image *in, const float *gamma, bool silu, lx_image *out)
{
    int64_t pixels = in->height * in->width, n = in->channels;
    for (int64_t p = 0; p < in->frames * pixels; p++) {
        const float *v = lx_image_f32(in, p / pixels) + p % pixels * n;
        float *y = lx_image_f32(out, p / pixels) + p % pixels * n;
        double square = 0;
        for (int64_t c = 0; c < n; c++)
            square += (double)v[c] * v[c];
        double norm = fmax(sqrt(square), 1e-12);
        for (int64_t c = 0; c < n; c++) {
            double value = v[c] / norm * sqrt((double)n) * gamma[c];
            y[c] = (float)(silu ? value / (1 + exp(-value)) : value);
        }
    }
}
