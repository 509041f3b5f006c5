/*
 * lx_rows_impl.h - the loops of lx_rows.h; included by one .c per instruction set
 * SPDX-License-Identifier: Apache-2.0
 *
 * Written for the vectoriser: no branches inside loops, selects instead; rounding by the magic
 * number 1.5 * 2^23, which is half to even for magnitudes below 2^22 and needs no SSE4.1.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "lx_rows.h"

#define MAGIC      12582912.0f /* 1.5 * 2^23 */
#define MAGIC_BITS 0x4B400000u

static inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* --- number formats ------------------------------------------------------------------------ */

/* e exponent and m mantissa bits in `code`, no sign; usual bias; top code(s) are NaN (or inf). */
static inline float widen_magnitude(uint32_t code, int m_bits, uint32_t bias)
{
    uint32_t exponent = code >> m_bits;
    float normal = float_of((code << (23 - m_bits)) + ((127 - bias) << 23));
    float unit = float_of((uint32_t)(128 - (int)bias - m_bits) << 23);
    return exponent ? normal : (float)(int32_t)code * unit; /* subnormals count units */
}

static void widen_bf16(float *restrict out, const uint16_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = float_of((uint32_t)in[i] << 16);
}

static void widen_f16(float *restrict out, const uint16_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = in[i], code = u & 0x7fffu;
        uint32_t finite = bits_of(widen_magnitude(code, 10, 15));
        uint32_t special = 0x7f800000u | (code & 0x3ffu) << 13;
        out[i] = float_of((code >= 0x7c00u ? special : finite) | (u & 0x8000u) << 16);
    }
}

static void widen_e4m3(float *restrict out, const uint8_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = in[i], code = u & 0x7fu;
        uint32_t finite = bits_of(widen_magnitude(code, 3, 7));
        out[i] = float_of((code == 0x7fu ? 0x7fc00000u : finite) | (u & 0x80u) << 24);
    }
}

static void widen_e5m2(float *restrict out, const uint8_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = in[i], code = u & 0x7fu;
        uint32_t finite = bits_of(widen_magnitude(code, 2, 15));
        uint32_t special = 0x7f800000u | (code & 3u) << 21;
        out[i] = float_of((code >= 0x7cu ? special : finite) | (u & 0x80u) << 24);
    }
}

static void widen(float *out, const void *in, lx_dtype dtype, int64_t n)
{
    switch (dtype) {
    case LX_DTYPE_BF16:
        widen_bf16(out, in, n);
        break;
    case LX_DTYPE_F16:
        widen_f16(out, in, n);
        break;
    case LX_DTYPE_F8_E4M3:
        widen_e4m3(out, in, n);
        break;
    case LX_DTYPE_F8_E5M2:
        widen_e5m2(out, in, n);
        break;
    default: /* F32, F64 */
        (void)lx_widen_to_f32(out, in, dtype, (size_t)n);
        break;
    }
}

/* --- quantization -------------------------------------------------------------------------- */

static float absmax(const float *in, int64_t n)
{
    /* Magnitudes order like their bits, and a NaN is above infinity. */
    uint32_t lanes[LX_LANES] = {0}, most = 0;
    int64_t i = 0;
    for (; i + LX_LANES <= n; i += LX_LANES)
        for (int j = 0; j < LX_LANES; j++) {
            uint32_t u = bits_of(in[i + j]) & 0x7fffffffu;
            lanes[j] = u > lanes[j] ? u : lanes[j];
        }
    for (; i < n; i++) {
        uint32_t u = bits_of(in[i]) & 0x7fffffffu;
        most = u > most ? u : most;
    }
    for (int j = 0; j < LX_LANES; j++)
        most = lanes[j] > most ? lanes[j] : most;
    return float_of(most);
}

static void quantize_i8(int8_t *restrict out, const float *restrict in, int64_t n, float inv)
{
    for (int64_t i = 0; i < n; i++) {
        float v = in[i] * inv;
        v = v == v ? v : 0.0f; /* 0 * inf, where absmax is subnormal */
        v = v > 127.0f ? 127.0f : v;
        v = v < -127.0f ? -127.0f : v;
        out[i] = (int8_t)(int32_t)(bits_of(v + MAGIC) - MAGIC_BITS);
    }
}

static void quantize_e4m3(uint8_t *restrict out, const float *restrict in, int64_t n, float scale)
{
    const float min_normal = 0x1p-6f, shifter = 16384.0f; /* ulp of 2^14 is 2^-9, one unit */
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = bits_of(in[i] / scale), magnitude = u & 0x7fffffffu;
        float f = float_of(magnitude);
        uint32_t even = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
        uint32_t normal = (even >> 20) - (120u << 3);
        uint32_t tiny = bits_of((f < min_normal ? f : 0.0f) + shifter) - bits_of(shifter);
        uint32_t code = f < min_normal ? tiny : normal;
        code = f >= 448.0f ? 0x7eu : code;
        code = f == f ? code : 0u;
        out[i] = (uint8_t)(code | (u >> 31) << 7);
    }
}

/* --- sums ---------------------------------------------------------------------------------- */

static void dot(float *lanes, const float *a, const float *b, int64_t n)
{
    float part[LX_LANES];
    memcpy(part, lanes, sizeof part);
    int64_t i = 0;
    for (; i + LX_LANES <= n; i += LX_LANES)
        for (int j = 0; j < LX_LANES; j++)
            part[j] += a[i + j] * b[i + j];
    for (int j = 0; i + j < n; j++)
        part[j] += a[i + j] * b[i + j];
    memcpy(lanes, part, sizeof part);
}

static float lane_sum(const float *lanes)
{
    float s[LX_LANES];
    memcpy(s, lanes, sizeof s);
    for (int half = LX_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            s[j] += s[j + half];
    return s[0];
}

#define WIDE_LANES 16 /* of double sums */

static double wide_sum(double *s)
{
    for (int half = WIDE_LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            s[j] += s[j + half];
    return s[0];
}

static double sum(const float *in, int64_t n)
{
    double lanes[WIDE_LANES] = {0};
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES)
        for (int j = 0; j < WIDE_LANES; j++)
            lanes[j] += (double)in[i + j];
    for (int j = 0; i + j < n; j++)
        lanes[j] += (double)in[i + j];
    return wide_sum(lanes);
}

static double sum_squares(const float *in, int64_t n, double mean)
{
    double lanes[WIDE_LANES] = {0};
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES)
        for (int j = 0; j < WIDE_LANES; j++) {
            double d = (double)in[i + j] - mean;
            lanes[j] += d * d;
        }
    for (int j = 0; i + j < n; j++) {
        double d = (double)in[i + j] - mean;
        lanes[j] += d * d;
    }
    return wide_sum(lanes);
}

/* --- functions ----------------------------------------------------------------------------- */

/* e^x: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by its series to r^7 (next term below 6e-9), 2^n put
 * into the exponent. ln 2 in two parts, the first short enough that n times it is exact. */
static inline float exp_f32(float x)
{
    float y = x > 88.0f ? 88.0f : x;
    y = y < -87.0f ? -87.0f : y;
    float shifted = y * 0x1.715476p+0f + MAGIC;
    float n = shifted - MAGIC;
    float r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float e = float_of(bits_of(p) + ((bits_of(shifted) - MAGIC_BITS) << 23));
    e = x < -87.0f ? 0.0f : e;
    e = x > 88.0f ? HUGE_VALF : e;
    return x == x ? e : x;
}

static void silu(float *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float u = in[i];
        out[i] = u / (1.0f + exp_f32(-u));
    }
}

/* 0.5 u (1 + tanh z) = u / (1 + e^(-2z)), z = sqrt(2/pi) (u + 0.044715 u^3): no cancellation. */
static void gelu(float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float u = v[i];
        float z2 = 1.5957691216057308f * (u + 0.044715f * (u * u * u));
        v[i] = u / (1.0f + exp_f32(-z2));
    }
}

static void axpby(float *out, float a, const float *in, float b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a * in[i] + b * out[i];
}

static void scale(float *x, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* --- after a product ----------------------------------------------------------------------- */

static void finish(const lx_row_epilogue *e, float *restrict v, float *restrict out, int64_t n)
{
    if (e->activation == LX_ACTIVATION_GELU)
        gelu(v, n);
    else if (e->activation == LX_ACTIVATION_SILU)
        silu(v, v, n);
    const float *restrict mul = e->mul, *restrict gate = e->gate;
    if (mul)
        for (int64_t i = 0; i < n; i++)
            v[i] *= mul[i];
    if (gate)
        for (int64_t i = 0; i < n; i++)
            v[i] *= gate[i];
    if (e->add_to_out)
        for (int64_t i = 0; i < n; i++)
            out[i] += v[i];
    else
        memcpy(out, v, (size_t)n * sizeof *out);
}

static void finish_f32(const lx_row_epilogue *e, float *acc, float *out, int64_t n)
{
    const float *restrict bias = e->bias, *restrict w = e->w_scale;
    float s = e->x_scale;
    if (w && bias)
        for (int64_t i = 0; i < n; i++)
            acc[i] = fmaf(s, w[i] * acc[i], bias[i]);
    else if (w)
        for (int64_t i = 0; i < n; i++)
            acc[i] = s * (w[i] * acc[i]);
    else if (bias)
        for (int64_t i = 0; i < n; i++)
            acc[i] += bias[i];
    finish(e, acc, out, n);
}

/* The sums are turned into floats where they lie, a piece at a time. */
static void finish_s32(const lx_row_epilogue *e, int32_t *acc, float *out, int64_t n)
{
    enum { PIECE = 256 };
    float v[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = n - i < PIECE ? n - i : PIECE;
        for (int64_t j = 0; j < m; j++)
            v[j] = (float)acc[i + j];
        lx_row_epilogue piece = *e;
        piece.w_scale = e->w_scale + i;
        piece.bias = e->bias ? e->bias + i : NULL;
        piece.mul = e->mul ? e->mul + i : NULL;
        piece.gate = e->gate ? e->gate + i : NULL;
        finish_f32(&piece, v, out + i, m);
    }
}

/* --- norm and rope ------------------------------------------------------------------------- */

static void affine(float *out, const float *in, int64_t n, const lx_row_affine *a)
{
    enum { PIECE = 256 };
    double v[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = n - i < PIECE ? n - i : PIECE;
        for (int64_t j = 0; j < m; j++)
            v[j] = ((double)in[i + j] - a->mean) * a->rstd;
        if (a->weight)
            for (int64_t j = 0; j < m; j++)
                v[j] *= (double)a->weight[i + j];
        if (a->bias)
            for (int64_t j = 0; j < m; j++)
                v[j] += (double)a->bias[i + j];
        if (a->scale)
            for (int64_t j = 0; j < m; j++)
                v[j] *= 1.0 + (double)a->scale[i + j];
        if (a->shift)
            for (int64_t j = 0; j < m; j++)
                v[j] += (double)a->shift[i + j];
        for (int64_t j = 0; j < m; j++)
            out[i + j] = (float)v[j];
    }
}

static void rotate(float *restrict x, const float *restrict table, int64_t n)
{
    for (int64_t i = 0; i + 1 < n; i += 2) {
        float a = x[i], b = x[i + 1], c = table[i], s = table[i + 1];
        x[i] = a * c - b * s;
        x[i + 1] = a * s + b * c;
    }
}

/* --- softmax ------------------------------------------------------------------------------- */

static float score_max(float *restrict s, const float *restrict rel, const float *restrict key_bias,
                       int64_t n)
{
    if (rel)
        for (int64_t i = 0; i < n; i++)
            s[i] += rel[i];
    if (key_bias)
        for (int64_t i = 0; i < n; i++)
            s[i] += key_bias[i];
    float lanes[LX_LANES], most = -FLT_MAX; /* finite, so that a row of -inf gives weights of 0 */
    for (int j = 0; j < LX_LANES; j++)
        lanes[j] = most;
    int64_t i = 0;
    for (; i + LX_LANES <= n; i += LX_LANES)
        for (int j = 0; j < LX_LANES; j++)
            lanes[j] = s[i + j] > lanes[j] ? s[i + j] : lanes[j];
    for (; i < n; i++)
        most = s[i] > most ? s[i] : most;
    for (int j = 0; j < LX_LANES; j++)
        most = lanes[j] > most ? lanes[j] : most;
    return most;
}

static float exp_sum(float *s, int64_t n, float max)
{
    for (int64_t i = 0; i < n; i++)
        s[i] = exp_f32(s[i] - max);
    float lanes[LX_LANES] = {0};
    int64_t i = 0;
    for (; i + LX_LANES <= n; i += LX_LANES)
        for (int j = 0; j < LX_LANES; j++)
            lanes[j] += s[i + j];
    for (int j = 0; i + j < n; j++)
        lanes[j] += s[i + j];
    return lane_sum(lanes);
}

#define LX_ROWS_TABLE(text)                                                                        \
    {                                                                                              \
        .name = text, .widen = widen, .absmax = absmax, .quantize_i8 = quantize_i8,                \
        .quantize_e4m3 = quantize_e4m3, .dot = dot, .lane_sum = lane_sum,                          \
        .finish_f32 = finish_f32, .finish_s32 = finish_s32, .silu = silu, .axpby = axpby,          \
        .sum = sum, .sum_squares = sum_squares, .affine = affine, .rotate = rotate,                \
        .score_max = score_max, .exp_sum = exp_sum, .scale = scale                                 \
    }
