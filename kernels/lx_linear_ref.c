/*
 * lx_linear_ref.c - the definition of linears and of row quantization
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_linear.h"

/* Element i of any float tensor. */
static double float_at(const void *data, lx_dtype dtype, int64_t i)
{
    float f = 0;
    if (dtype == LX_DTYPE_F64)
        return ((const double *)data)[i];
    const char *bytes = data;
    lx_widen_to_f32(&f, bytes + (size_t)i * lx_dtype_size(dtype), dtype, 1);
    return (double)f;
}

void lx_quantize_rows_ref(const float *in, lx_act *out)
{
    for (int64_t m = 0; m < out->rows; m++) {
        const float *row = in + m * out->cols;
        float absmax = 0;
        for (int64_t k = 0; k < out->cols; k++)
            absmax = fmaxf(absmax, fabsf(row[k]));
        for (int64_t k = 0; k < out->cols; k++) {
            int64_t i = m * out->cols + k;
            if (out->dtype == LX_DTYPE_F32) {
                ((float *)out->data)[i] = row[k];
            } else if (out->dtype == LX_DTYPE_I8) {
                float inv = 127.0f / absmax;
                float q = absmax > 0 && row[k] != 0 ? rintf(row[k] * inv) : 0;
                ((int8_t *)out->data)[i] = (int8_t)fminf(fmaxf(q, -127), 127);
            } else {
                float s = absmax / 448.0f;
                float v = s > 0 ? fminf(fmaxf(row[k] / s, -448), 448) : 0;
                ((uint8_t *)out->data)[i] = lx_f8_e4m3_from_f32(v);
            }
        }
        if (out->dtype != LX_DTYPE_F32)
            out->scale[m] = absmax / (out->dtype == LX_DTYPE_I8 ? 127.0f : 448.0f);
    }
}

static double activate(double y, lx_activation activation)
{
    if (activation == LX_ACTIVATION_GELU)
        return 0.5 * y * (1 + tanh(0.7978845608028654 * (y + 0.044715 * y * y * y)));
    return activation == LX_ACTIVATION_SILU ? y / (1 + exp(-y)) : y;
}

/* scale * acc + bias of output (m, n). */
static double product(const lx_act *in, const lx_weight *w, const lx_weight *bias, int64_t m,
                      int64_t n)
{
    int64_t cols = in->cols;
    double b = bias ? float_at(bias->data, bias->dtype, n) : 0;
    if (in->dtype == LX_DTYPE_I8) {
        const int8_t *x = (const int8_t *)in->data + m * cols;
        const int8_t *q = (const int8_t *)w->data + n * cols;
        int64_t acc = 0;
        for (int64_t k = 0; k < cols; k++)
            acc += (int64_t)x[k] * q[k];
        return (double)fmaf(in->scale[m], w->scale[n] * (float)acc, (float)b);
    }
    double acc = 0;
    for (int64_t k = 0; k < cols; k++)
        acc +=
            float_at(in->data, in->dtype, m * cols + k) * float_at(w->data, w->dtype, n * cols + k);
    double scale = in->dtype == LX_DTYPE_F8_E4M3 ? (double)in->scale[m] : 1;
    return scale * (w->scale ? (double)w->scale[n] : 1) * acc + b;
}

void lx_linear_ref(const lx_act *in, const lx_weight *w, const lx_epilogue *epilogue, float *out,
                   int64_t out_stride)
{
    static const lx_epilogue nothing = {0};
    const lx_epilogue *e = epilogue ? epilogue : &nothing;
    int64_t n_out = w->shape.dim[0];
    for (int64_t m = 0; m < in->rows; m++)
        for (int64_t n = 0; n < n_out; n++) {
            double y = activate(product(in, w, e->bias, m, n), e->activation);
            if (e->mul)
                y *= (double)((const float *)e->mul->data)[m * e->mul->stride + n];
            if (e->gate)
                y *= (double)e->gate[n];
            float *o = &out[m * out_stride + n];
            *o = (float)(e->add_to_out ? (double)*o + y : y);
        }
}
