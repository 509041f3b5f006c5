/*
 * lx_tensor.c - element types, checked sizes, exact number formats
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtype_table[] = {
    [LX_DTYPE_F64] = {"F64", 8},         [LX_DTYPE_F32] = {"F32", 4},
    [LX_DTYPE_F16] = {"F16", 2},         [LX_DTYPE_BF16] = {"BF16", 2},
    [LX_DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [LX_DTYPE_F8_E5M2] = {"F8_E5M2", 1},
    [LX_DTYPE_I64] = {"I64", 8},         [LX_DTYPE_I32] = {"I32", 4},
    [LX_DTYPE_I16] = {"I16", 2},         [LX_DTYPE_I8] = {"I8", 1},
    [LX_DTYPE_U8] = {"U8", 1},           [LX_DTYPE_BOOL] = {"BOOL", 1},
};
_Static_assert(sizeof dtype_table / sizeof *dtype_table == LX_DTYPE_COUNT, "one row per dtype");

size_t lx_dtype_size(lx_dtype dtype)
{
    return (unsigned)dtype < LX_DTYPE_COUNT ? dtype_table[dtype].bytes : 0;
}

bool lx_dtype_is_code(lx_dtype dtype)
{
    return dtype == LX_DTYPE_I8 || dtype == LX_DTYPE_F8_E4M3;
}

const char *lx_dtype_name(lx_dtype dtype)
{
    return (unsigned)dtype < LX_DTYPE_COUNT ? dtype_table[dtype].name : "?";
}

bool lx_dtype_parse(const char *name, lx_dtype *out)
{
    for (int i = 0; i < LX_DTYPE_COUNT; i++)
        if (!strcmp(name, dtype_table[i].name)) {
            *out = (lx_dtype)i;
            return true;
        }
    return false;
}

bool lx_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool lx_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

lx_status lx_shape_bytes(const lx_shape *shape, lx_dtype dtype, uint64_t *elements, uint64_t *bytes,
                         lx_err *err)
{
    if (shape->n_dims < 0 || shape->n_dims > LX_LIMIT_DIMS)
        return lx_fail(err, LX_EJOB, "%d dimensions, at most %d are allowed", shape->n_dims,
                       LX_LIMIT_DIMS);
    uint64_t n = 1;
    for (int i = 0; i < shape->n_dims; i++) {
        int64_t d = shape->dim[i];
        if (d < 0 || d > LX_LIMIT_DIM)
            return lx_fail(err, LX_EJOB, "dimension %d is %" PRId64 ", allowed are 0 to 2^40", i,
                           d);
        if (!lx_mul_u64(n, (uint64_t)d, &n) || n > LX_LIMIT_ELEMENTS)
            return lx_fail(err, LX_EJOB, "more than 2^48 elements");
    }
    uint64_t total;
    if (!lx_mul_u64(n, lx_dtype_size(dtype), &total))
        return lx_fail(err, LX_EJOB, "byte size overflows");
    if (elements)
        *elements = n;
    if (bytes)
        *bytes = total;
    return LX_OK;
}

char *lx_shape_text(const lx_shape *shape, char *text, size_t text_bytes)
{
    size_t n = 0;
    int w = snprintf(text, text_bytes, "[");
    for (int i = 0; i < shape->n_dims && w >= 0; i++) {
        n += (size_t)w;
        if (n >= text_bytes)
            return text;
        w = snprintf(text + n, text_bytes - n, "%s%" PRId64, i ? ", " : "", shape->dim[i]);
    }
    n += (size_t)(w > 0 ? w : 0);
    if (n < text_bytes)
        snprintf(text + n, text_bytes - n, "]");
    return text;
}

bool lx_shape_equal(const lx_shape *a, const lx_shape *b)
{
    if (a->n_dims != b->n_dims)
        return false;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

float lx_f32_from_bf16(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

/* A small float of `e` exponent and `m` mantissa bits with the usual bias, subnormals included. */
static float widen_small(uint32_t sign, uint32_t exponent, uint32_t mantissa, int m_bits, int bias)
{
    if (!exponent) { /* subnormal: mantissa * 2^(1 - bias - m_bits), exact in f32 */
        float value = (float)mantissa * float_of_bits((uint32_t)(127 + 1 - bias - m_bits) << 23);
        return sign ? -value : value;
    }
    uint32_t e = exponent + (uint32_t)(127 - bias);
    return float_of_bits(sign << 31 | e << 23 | mantissa << (23 - m_bits));
}

float lx_f32_from_f16(uint16_t bits)
{
    uint32_t sign = bits >> 15, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 31)
        return float_of_bits(sign << 31 | 0x7f800000u | mantissa << 13);
    return widen_small(sign, exponent, mantissa, 10, 15);
}

float lx_f32_from_f8_e4m3(uint8_t bits)
{
    uint32_t sign = bits >> 7, exponent = (bits >> 3) & 15, mantissa = bits & 7;
    if (exponent == 15 && mantissa == 7)
        return float_of_bits(sign << 31 | 0x7fc00000u);
    return widen_small(sign, exponent, mantissa, 3, 7);
}

float lx_f32_from_f8_e5m2(uint8_t bits)
{
    uint32_t sign = bits >> 7, exponent = (bits >> 2) & 31, mantissa = bits & 3;
    if (exponent == 31)
        return float_of_bits(sign << 31 | 0x7f800000u | mantissa << 21);
    return widen_small(sign, exponent, mantissa, 2, 15);
}

uint16_t lx_bf16_from_f32(float value)
{
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* Round to m_bits of mantissa, ties to even, subnormals below 2^(1-bias); returns exponent+mantissa
 * bits without sign. The caller clamps: the result may be one past the largest finite value. */
static uint32_t narrow_small(float magnitude, int m_bits, int bias)
{
    uint32_t bits = bits_of_float(magnitude);
    int exponent = (int)(bits >> 23) - 127;
    if (exponent < 1 - bias) { /* subnormal: count units of 2^(1 - bias - m_bits) */
        float unit = float_of_bits((uint32_t)(127 + bias - 1 + m_bits) << 23); /* 1 / that */
        float scaled = magnitude * unit;
        uint32_t whole = (uint32_t)scaled;
        float rest = scaled - (float)whole;
        return whole + (rest > 0.5f || (rest == 0.5f && (whole & 1)));
    }
    int shift = 23 - m_bits;
    uint32_t rounded = bits + (1u << (shift - 1)) - 1 + ((bits >> shift) & 1);
    return (rounded >> shift) - ((uint32_t)(127 - bias) << m_bits);
}

uint16_t lx_f16_from_f32(float value)
{
    uint32_t bits = bits_of_float(value), sign = bits >> 31;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign << 15 | 0x7e00);
    uint32_t small =
        magnitude >= 0x47800000u ? 0x7c00 : narrow_small(float_of_bits(magnitude), 10, 15);
    return (uint16_t)(sign << 15 | (small > 0x7c00 ? 0x7c00 : small));
}

uint8_t lx_f8_e4m3_from_f32(float value)
{
    uint32_t bits = bits_of_float(value), sign = bits >> 31;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign << 7 | 0x7f);
    float f = float_of_bits(magnitude);
    uint32_t small = f >= 448.0f ? 0x7e : narrow_small(f, 3, 7);
    return (uint8_t)(sign << 7 | small);
}

bool lx_widen_to_f32(float *out, const void *in, lx_dtype dtype, size_t n)
{
    switch (dtype) {
    case LX_DTYPE_F32:
        memcpy(out, in, n * sizeof *out);
        return true;
    case LX_DTYPE_F64:
        for (size_t i = 0; i < n; i++)
            out[i] = (float)((const double *)in)[i];
        return true;
    case LX_DTYPE_BF16:
        for (size_t i = 0; i < n; i++)
            out[i] = lx_f32_from_bf16(((const uint16_t *)in)[i]);
        return true;
    case LX_DTYPE_F16:
        for (size_t i = 0; i < n; i++)
            out[i] = lx_f32_from_f16(((const uint16_t *)in)[i]);
        return true;
    case LX_DTYPE_F8_E4M3:
        for (size_t i = 0; i < n; i++)
            out[i] = lx_f32_from_f8_e4m3(((const uint8_t *)in)[i]);
        return true;
    case LX_DTYPE_F8_E5M2:
        for (size_t i = 0; i < n; i++)
            out[i] = lx_f32_from_f8_e5m2(((const uint8_t *)in)[i]);
        return true;
    default:
        return false;
    }
}

bool lx_narrow_from_f32(void *out, const float *in, lx_dtype dtype, size_t n)
{
    switch (dtype) {
    case LX_DTYPE_F32:
        memcpy(out, in, n * sizeof *in);
        return true;
    case LX_DTYPE_BF16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)out)[i] = lx_bf16_from_f32(in[i]);
        return true;
    case LX_DTYPE_F16:
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)out)[i] = lx_f16_from_f32(in[i]);
        return true;
    default:
        return false;
    }
}
