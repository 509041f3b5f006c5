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

static float normed(const lx_norm *norm, const float *row, int64_t cols, int64_t i)
{
    double mean = 0, square = 0;
    for (int64_t k = 0; k < cols && norm->kind == LX_NORM_LAYER; k++)
        mean += (double)row[k] / (double)cols;
    for (int64_t k = 0; k < cols; k++)
        square += ((double)row[k] - mean) * ((double)row[k] - mean) / (double)cols;
    double y = ((double)row[i] - mean) / sqrt(square + (double)norm->eps);
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

/* A row at a time through a small window would quantize wrongly, so each output element asks for
 * what it needs; cols^2 work per row is fine for a definition. */
void lx_norm_rows_ref(const float *in, const lx_norm *norm, lx_act *out)
{
    int64_t cols = out->cols;
    for (int64_t m = 0; m < out->rows; m++) {
        const float *row = in + m * cols;
        float absmax = 0;
        for (int64_t k = 0; k < cols; k++)
            absmax = fmaxf(absmax, fabsf(normed(norm, row, cols, k)));
        for (int64_t k = 0; k < cols; k++) {
            float y = normed(norm, row, cols, k);
            int64_t i = m * cols + k;
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
        if (out->dtype != LX_DTYPE_F32)
            out->scale[m] = absmax / (out->dtype == LX_DTYPE_I8 ? 127.0f : 448.0f);
    }
}
