/*
 * channel_norm.c - norm over the channels of a pixel, and SiLU, on the CPU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Idea      The same C compiled for three instruction sets and chosen at run time: plain loops that
 *           compilers vectorise, with partial sums in a fixed order. e^x is a polynomial, because
 *           the library's is a call per element: 270 million of them per frame of 480x832.
 */
#include <math.h>
#include <string.h>

#include "conv_cpu.h"
#include "lx_cpu.h"

enum { PART = 64, LANES = 16 };

/* e^x to 2 ulp for |x| <= 87, clamped outside: 2^n * e^f, |f| <= ln(2)/2, Taylor to f^7/7!.
 * ln(2) in two parts, so that x - n ln(2) is exact to f32. The clamp works on bits, where compilers
 * see a minimum and no branch; a NaN gives some number. */
static inline float exp_f32(float x)
{
    const float round = 12582912.0f;  /* 1.5 * 2^23: adding it rounds to an integer */
    const uint32_t most = 0x42ae0000; /* 87 */
    uint32_t bits, magnitude;
    float a, scale;
    memcpy(&bits, &x, sizeof bits);
    magnitude = bits & 0x7fffffffu;
    bits = (magnitude < most ? magnitude : most) | (bits & 0x80000000u);
    memcpy(&a, &bits, sizeof a);
    float shifted = a * 1.44269504f + round, n = shifted - round;
    float f = (a - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * f + 1.0f / 720;
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23; /* the integer sits in the low bits; the rest is shifted out */
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline __attribute__((always_inline)) void norm_pixel(const float *in, const float *gamma,
                                                             int64_t n, bool silu, float *out)
{
    double lane[LANES] = {0}, square = 0;
    int64_t whole = n - n % LANES;
    for (int64_t c = 0; c < whole; c += LANES)
        for (int64_t i = 0; i < LANES; i++)
            lane[i] += (double)in[c + i] * (double)in[c + i];
    for (int64_t c = whole; c < n; c++)
        lane[c - whole] += (double)in[c] * (double)in[c];
    for (int64_t i = 0; i < LANES; i++)
        square += lane[i];
    double norm = sqrt(square);
    float scale = (float)(sqrt((double)n) / (norm > 1e-12 ? norm : 1e-12));
    if (norm != norm)
        scale = (float)norm; /* a NaN stays visible */
    if (silu) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = in[c] * scale * gamma[c];
            out[c] = v / (1.0f + exp_f32(-v));
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            out[c] = in[c] * scale * gamma[c];
    }
}

typedef struct norm_args {
    const float *gamma;
    int64_t n;
    bool silu;
} norm_args;

static inline __attribute__((always_inline)) void norm_pixels(const norm_args *a, const float *in,
                                                              float *out, int64_t pixels)
{
    for (int64_t p = 0; p < pixels; p++)
        norm_pixel(in + p * a->n, a->gamma, a->n, a->silu, out + p * a->n);
}

typedef void (*norm_fn)(const norm_args *a, const float *in, float *out, int64_t pixels);

static void norm_plain(const norm_args *a, const float *in, float *out, int64_t pixels)
{
    norm_pixels(a, in, out, pixels);
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void norm_avx2(const norm_args *a, const float *in,
                                                          float *out, int64_t pixels)
{
    norm_pixels(a, in, out, pixels);
}

__attribute__((target("avx512f,avx512dq"))) static void
norm_avx512(const norm_args *a, const float *in, float *out, int64_t pixels)
{
    norm_pixels(a, in, out, pixels);
}

static norm_fn norm_best(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return norm_avx512;
    return __builtin_cpu_supports("avx2") ? norm_avx2 : norm_plain;
}
#else
static norm_fn norm_best(void)
{
    return norm_plain;
}
#endif

lx_status lx_cpu_channel_norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu,
                              lx_image *out, lx_err *err)
{
    (void)x, (void)err; /* a build without OpenMP is serial */
    int64_t pixels = in->height * in->width, per_frame = lx_ceil_div(pixels, PART);
    const norm_args args = {.gamma = gamma, .n = in->channels, .silu = silu};
    norm_fn run = norm_best();
#pragma omp parallel for num_threads(x->n_threads)
    for (int64_t i = 0; i < in->frames * per_frame; i++) {
        int64_t t = i / per_frame, p = i % per_frame * PART;
        run(&args, lx_image_f32(in, t) + p * args.n, lx_image_f32(out, t) + p * args.n,
            lx_min_i64(PART, pixels - p));
    }
    return LX_OK;
}
