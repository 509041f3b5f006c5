/*
 * quantize.c - rows of linears as I8 or F8_E4M3, and back
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_quantize.h"

#include <string.h>

/* Largest magnitude of a row, at least 1e-5. Magnitudes compare like their bits, and integers
 * vectorise where floats may not. */
static float row_absmax(const float *w, size_t n)
{
    float most = 1e-5f;
    int32_t bits, largest;
    memcpy(&largest, &most, 4);
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, &w[i], 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&most, &largest, 4);
    return most;
}

void lx_quantize_row(const float *w, size_t n, lx_dtype dtype, bool bf16_scale, void *codes,
                     float *scale)
{
    /* Adding and taking away 1.5 * 2^23 rounds to an integer, ties to even, up to 2^22. */
    const float magic = 12582912.0f;
    float most = row_absmax(w, n);
    bool is_int = dtype == LX_DTYPE_I8;
    float s = most * (1.0f / (is_int ? 127.0f : 448.0f));
    if (bf16_scale)
        s = lx_f32_from_bf16(lx_bf16_from_f32(s));
    *scale = s;
    if (is_int) {
        int8_t *q = codes;
        for (size_t i = 0; i < n; i++) {
            float v = (w[i] / s + magic) - magic;
            q[i] = (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v);
        }
        return;
    }
    uint8_t *q = codes;
    for (size_t i = 0; i < n; i++)
        q[i] = lx_f8_e4m3_from_f32(w[i] / s);
}

void lx_dequantize_row(const void *codes, size_t n, lx_dtype dtype, float scale, float *out)
{
    const int8_t *q = codes;
    if (dtype == LX_DTYPE_I8)
        for (size_t i = 0; i < n; i++)
            out[i] = (float)q[i] * scale;
    else if (lx_widen_to_f32(out, codes, dtype, n))
        for (size_t i = 0; i < n; i++)
            out[i] *= scale;
}
