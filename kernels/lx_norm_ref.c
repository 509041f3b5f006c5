/*
 * lx_norm_ref.c - the definition of row norms, in f64
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_norm.h"

static double element(const lx_weight *w, int64_t i)
{
    float f = 0;
    const char *bytes = w->data;
    lx_widen_to_f32(&f, bytes + (size_t)i * lx_dtype_size(w->dtype), w->dtype, 1);
    return (double)f;
}

typedef struct statistics {
    double mean, rstd;
} statistics;

static statistics measure(const lx_norm *norm, const float *row, int64_t cols)
{
    double mean = 0, square = 0;
    for (int64_t k = 0; k < cols && norm->kind == LX_NORM_LAYER; k++)
        mean += (double)row[k] / (double)cols;
    for (int64_t k = 0; k < cols; k++)
        square += ((double)row[k] - mean) * ((double)row[k] - mean) / (double)cols;
    return (statistics){mean, 1 / sqrt(square + (double)norm->eps)};
}

static float normed(const lx_norm *norm, const statistics *s, float x, int64_t i)
{
    double y = ((double)x - s->mean) * s->rstd;
    if (norm->weight)
        y *= element(norm->weight, i);
    if (norm->bias)
        y += element(norm->bias, i);
    if (norm->scale)
        y *= 1 + (double)norm->scale[i];
    if (norm->shift)
        y += (double)norm->shift[i];
    return (float)y;
}

static void write_code(lx_act *out, int64_t i, float y, float absmax)
{
    if (out->dtype == LX_DTYPE_F32) {
        ((float *)out->data)[i] = y;
    } else if (out->dtype == LX_DTYPE_I8) {
        float q = y != 0 ? rintf(y * (127.0f / absmax)) : 0;
        ((int8_t *)out->data)[i] = (int8_t)fminf(fmaxf(q, -127), 127);
    } else {
        float s = absmax / 448.0f;
        ((uint8_t *)out->data)[i] = lx_f8_e4m3_from_f32(s > 0 ? y / s : 0);
    }
}

void lx_norm_rows_ref(const float *in, const lx_norm *norm, lx_act *out)
{
    int64_t cols = out->cols;
    for (int64_t m = 0; m < out->rows; m++) {
        const float *row = in + m * cols;
        statistics s = measure(norm, row, cols);
        float absmax = 0;
        for (int64_t k = 0; k < cols; k++)
            absmax = fmaxf(absmax, fabsf(normed(norm, &s, row[k], k)));
        for (int64_t k = 0; k < cols; k++)
            write_code(out, m * cols + k, normed(norm, &s, row[k], k), absmax);
        if (out->dtype != LX_DTYPE_F32)
            out->scale[m] = absmax / (out->dtype == LX_DTYPE_I8 ? 127.0f : 448.0f);
    }
}
