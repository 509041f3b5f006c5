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
    return lx_image_frame(in, t) + (y * in->width + x) * in->channels;
}

static double one_sum(const lx_conv *conv, const lx_image *in, bool upsample, const int64_t at[3],
                      int64_t o)
{
    double sum = conv->bias[o];
    for (int64_t i = 0; i < conv->kt; i++)
        for (int64_t j = 0; j < conv->kh; j++)
            for (int64_t k = 0; k < conv->kw; k++) {
                const float *p = pixel(in, at[0] + i, at[1] - (conv->kh - 1) / 2 + j,
                                       at[2] - (conv->kw - 1) / 2 + k, upsample);
                int64_t tap = (i * conv->kh + j) * conv->kw + k;
                const float *w = conv->packed + tap * conv->c_in * conv->c_out + o;
                for (int64_t c = 0; p && c < conv->c_in; c++)
                    sum += (double)w[c * conv->c_out] * p[c];
            }
    return sum;
}

void lx_conv_ref(const lx_conv *conv, const lx_image *in, bool upsample, const lx_image *residual,
                 lx_image *out)
{
    for (int64_t t = 0; t < out->frames; t++)
        for (int64_t y = 0; y < out->height; y++)
            for (int64_t x = 0; x < out->width; x++)
                for (int64_t o = 0; o < conv->c_out; o++) {
                    int64_t at[3] = {t, y, x}, i = (y * out->width + x) * conv->c_out + o;
                    double sum = one_sum(conv, in, upsample, at, o);
                    if (residual)
                        sum += lx_image_frame(residual, t)[i];
                    lx_image_frame(out, t)[i] = (float)sum;
                }
}

void lx_channel_norm_ref(const lx_image *in, const float *gamma, bool silu, lx_image *out)
{
    int64_t pixels = in->height * in->width, n = in->channels;
    for (int64_t p = 0; p < in->frames * pixels; p++) {
        const float *v = lx_image_frame(in, p / pixels) + p % pixels * n;
        float *y = lx_image_frame(out, p / pixels) + p % pixels * n;
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
