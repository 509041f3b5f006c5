/*
 * check.h - what the kernel tests share: inputs, an exec, the pass rule
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pass rule  A kernel's error against the f64 definition may be twice the error of the same
 *            formula done plainly in the kernel's own precision, plus one rounding of the result.
 */
#ifndef LX_CHECK_H
#define LX_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_backend.h"

enum { CHECK_RANDOM, CHECK_ZERO, CHECK_LARGE, CHECK_PLANTED, CHECK_KINDS };

typedef struct check_rng {
    uint64_t s;
} check_rng;

static inline uint32_t check_bits(check_rng *r)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->s >> 32);
}

/* Uniform in [-1, 1). */
static inline float check_uniform(check_rng *r)
{
    return (float)(check_bits(r) >> 8) * 0x1p-23f - 1.0f;
}

static inline void *check_alloc(int64_t n, size_t size)
{
    void *p = calloc((size_t)(n ? n : 1), size);
    assert_non_null(p);
    return p;
}

static inline float *check_floats(int64_t n)
{
    return check_alloc(n, sizeof(float));
}

/* Random; zero; of magnitude 1e4; or random with a few values 1e5 times larger than the rest. */
static inline float *check_input(check_rng *r, int kind, int64_t n)
{
    float *out = check_floats(n);
    for (int64_t i = 0; i < n && kind != CHECK_ZERO; i++)
        out[i] = check_uniform(r) * (kind == CHECK_LARGE ? 1e4f : 1.0f);
    for (int64_t i = 0; i < 5 && kind == CHECK_PLANTED; i++)
        out[check_bits(r) % (uint64_t)n] = i % 2 ? -1e5f : 1e5f;
    return out;
}

/* An exec whose arena is large enough for every test; the caller closes it. */
static inline lx_exec check_open(int n_threads)
{
    lx_err err = {0};
    lx_arena *arena = NULL;
    lx_exec x = {0};
    if (lx_arena_create(&arena, (size_t)12 << 20, &err) != LX_OK ||
        lx_exec_open_cpu(&x, arena, n_threads, &err) != LX_OK)
        fail_msg("%s", err.message);
    return x;
}

static inline lx_exec check_open_dry(int n_threads)
{
    lx_err err = {0};
    lx_arena *arena = NULL;
    lx_exec x = {0};
    if (lx_arena_create_dry(&arena, &err) != LX_OK ||
        lx_exec_open_cpu(&x, arena, n_threads, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(x.is_dry);
    return x;
}

static inline void check_close(lx_exec *x)
{
    lx_arena_destroy(&x->arena);
}

#define check_ok(call)                                                                             \
    do {                                                                                           \
        lx_err check_err = {0};                                                                    \
        lx_err *err = &check_err;                                                                  \
        if ((call) != LX_OK)                                                                       \
            fail_msg("%s:%d: %s", __FILE__, __LINE__, check_err.message);                          \
    } while (0)

/* Largest |a - b|; a NaN on one side only counts as infinite. */
static inline double check_error(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = d > most ? d : most;
        if (isnan(a[i]) != isnan(b[i]))
            return HUGE_VAL;
    }
    return most;
}

static inline double check_largest(const float *a, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i]));
    return most;
}

/* The pass rule for `got`, with `plain` from the same formula in plain f32 and `want` from f64. */
static inline void check_pass(const char *what, const float *got, const float *plain,
                              const float *want, int64_t n)
{
    double floor = 0x1p-23 * check_largest(want, n) + 1e-30;
    double error = check_error(got, want, n), allowed = 2 * check_error(plain, want, n) + floor;
    if (!(error <= allowed))
        fail_msg("%s: error %.3g, allowed %.3g", what, error, allowed);
}

/* A weight of any dtype from floats; free(.data) by check_free_weight. */
static inline lx_weight check_weight(const float *in, lx_dtype dtype, int64_t rows, int64_t cols)
{
    int64_t n = rows * cols;
    unsigned char *data = check_alloc(n, lx_dtype_size(dtype));
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = dtype == LX_DTYPE_F16 ? lx_f16_from_f32(in[i]) : lx_bf16_from_f32(in[i]);
        if (dtype == LX_DTYPE_F32)
            memcpy(data + 4 * i, in + i, 4);
        else if (dtype == LX_DTYPE_BF16 || dtype == LX_DTYPE_F16)
            memcpy(data + 2 * i, &h, 2);
        else if (dtype == LX_DTYPE_F8_E4M3)
            data[i] = lx_f8_e4m3_from_f32(in[i]);
        else if (dtype == LX_DTYPE_F8_E5M2) /* the upper half of an f16 */
            data[i] = (unsigned char)(lx_f16_from_f32(in[i]) >> 8);
        else
            data[i] = (unsigned char)(int8_t)fminf(fmaxf(rintf(in[i]), -128), 127);
    }
    return (lx_weight){.name = "w", .dtype = dtype, .shape = {2, {rows, cols}}, .data = data};
}

static inline lx_weight check_vector(const float *in, lx_dtype dtype, int64_t n)
{
    lx_weight w = check_weight(in, dtype, n, 1);
    w.name = "vector";
    w.shape = (lx_shape){1, {n}};
    return w;
}

static inline void check_free_weight(lx_weight *w)
{
    free((void *)(uintptr_t)w->data);
    free((void *)(uintptr_t)w->scale);
}

static inline float check_float_at(const lx_weight *w, int64_t i)
{
    float f = 0;
    const char *bytes = w->data;
    lx_widen_to_f32(&f, bytes + (size_t)i * lx_dtype_size(w->dtype), w->dtype, 1);
    return f;
}

#endif
