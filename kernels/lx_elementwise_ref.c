/*
 * lx_elementwise_ref.c - the definition of the vector operations
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_elementwise.h"

void lx_silu_ref(const float *in, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)in[i] / (1 + exp(-(double)in[i])));
}

void lx_axpby_ref(float a, const float *in, float b, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a * in[i] + b * out[i];
}

void lx_gather_rows_ref(const lx_weight *weight, const int32_t *ids, int64_t n, float *out)
{
    int64_t cols = weight->shape.dim[1];
    const char *bytes = weight->data;
    size_t row = (size_t)cols * lx_dtype_size(weight->dtype);
    for (int64_t i = 0; i < n; i++)
        lx_widen_to_f32(out + i * cols, bytes + (size_t)ids[i] * row, weight->dtype, (size_t)cols);
}
