/*
 * gpu.h - what the tests on a card share: the card, its memory, comparisons, times
 * SPDX-License-Identifier: Apache-2.0
 *
 * Card      LX2V_TEST_DEVICE=N, else 0. Without a card (or without the module) a test exits 77,
 *           which CTest shows as skipped; with LX2V_TEST_NEEDS_GPU=1 that is a failure.
 *           LX2V_TEST_MODULE names another liblx2v_cuda.so.
 * Memory    `store` holds a test's operands, x.arena is scratch and nothing else, so its peak is
 *           what an operation took. Both begin as all ones (NaN in every float type): what is read
 *           before it is written shows.
 * Numbers   Comparisons are on the host and use no code of the card but copies.
 */
#ifndef LX_TESTS_GPU_H
#define LX_TESTS_GPU_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "lx_copy.h"
#include "lx_cuda.h"

typedef struct gpu {
    lx_cuda *cuda;
    lx_arena *store, *scratch, *host; /* owned */
    lx_exec x;                        /* on scratch and host */
} gpu;

/* --- the card -------------------------------------------------------------------------------- */

static inline int gpu_index(void)
{
    const char *text = getenv("LX2V_TEST_DEVICE");
    return text ? atoi(text) : 0;
}

/* "cuda:0", as --device wants it. */
static inline const char *gpu_device(void)
{
    static char text[32];
    snprintf(text, sizeof text, "cuda:%d", gpu_index());
    return text;
}

static inline lx_cuda *gpu_card(void)
{
    lx_err err = {0};
    lx_cuda *cuda = NULL;
    if (lx_cuda_open(&cuda, gpu_index(), getenv("LX2V_TEST_MODULE"), &err) == LX_OK)
        return cuda;
    const char *needs = getenv("LX2V_TEST_NEEDS_GPU");
    bool is_needed = needs && !strcmp(needs, "1");
    printf("%s: %s\n", is_needed ? "failed" : "skipped", err.message);
    exit(is_needed ? 1 : 77);
}

/* LX2V_TEST_SMALL=1: a sanitizer watches every access, so what is only large is left out. */
static inline bool gpu_is_small(void)
{
    const char *text = getenv("LX2V_TEST_SMALL");
    return text && !strcmp(text, "1");
}

/* For tests that open the card in another way: first thing in main. */
static inline void gpu_skip_without_card(void)
{
    lx_cuda *cuda = gpu_card();
    lx_cuda_close(&cuda);
}

#define gpu_ok(call)                                                                               \
    do {                                                                                           \
        lx_err gpu_err = {0};                                                                      \
        lx_err *err = &gpu_err;                                                                    \
        if ((call) != LX_OK)                                                                       \
            fail_msg("%s:%d: %s", __FILE__, __LINE__, gpu_err.message);                            \
    } while (0)

/* Called before cmocka runs too, so it must not use cmocka's own failing. */
static inline void gpu_must(lx_status status, const lx_err *err)
{
    if (status == LX_OK)
        return;
    printf("gpu: %s\n", err->message);
    exit(1);
}

static inline void gpu_poison(lx_exec *x, lx_arena *arena)
{
    lx_err err = {0};
    size_t left = lx_arena_bytes(arena), piece = (size_t)16 << 20, mark = lx_arena_mark(arena);
    void *data, *ones = malloc(piece);
    if (!ones)
        exit(1);
    memset(ones, 0xff, piece);
    while (left >= 256) {
        size_t n = left < piece ? left / 256 * 256 : piece;
        gpu_must(lx_arena_take(arena, n, &data, &err), &err);
        gpu_must(lx_upload(x, data, ones, n, &err), &err);
        left -= n;
    }
    lx_arena_reset(arena, mark);
    free(ones);
}

static inline void gpu_open(gpu *g, size_t store_bytes, size_t scratch_bytes)
{
    lx_err err = {0};
    *g = (gpu){.cuda = gpu_card()};
    gpu_must(lx_cuda_arena(g->cuda, store_bytes, &g->store, &err), &err);
    gpu_must(lx_cuda_arena(g->cuda, scratch_bytes, &g->scratch, &err), &err);
    gpu_must(lx_arena_create(&g->host, (size_t)64 << 20, &err), &err);
    gpu_must(lx_exec_open_cuda(&g->x, g->cuda, g->scratch, g->host, &err), &err);
    gpu_poison(&g->x, g->store);
    gpu_poison(&g->x, g->scratch);
    printf("%s\n", lx_exec_describe(&g->x));
}

static inline void gpu_close(gpu *g)
{
    lx_arena_destroy(&g->store);
    lx_arena_destroy(&g->scratch);
    lx_arena_destroy(&g->host);
    lx_cuda_close(&g->cuda);
}

/* For a group of tests that get a gpu as their state. */
static inline int gpu_begin_tests(void **state, size_t store_bytes, size_t scratch_bytes)
{
    static gpu g;
    gpu_open(&g, store_bytes, scratch_bytes);
    *state = &g;
    return 0;
}

static inline int gpu_end_tests(void **state)
{
    gpu_close(*state);
    return 0;
}

/* --- memory ---------------------------------------------------------------------------------- */

static inline void *gpu_take(gpu *g, size_t bytes)
{
    void *out = NULL;
    gpu_ok(lx_arena_take(g->store, bytes, &out, err));
    return out;
}

static inline void *gpu_put(gpu *g, const void *data, size_t bytes)
{
    void *out = gpu_take(g, bytes);
    gpu_ok(lx_upload(&g->x, out, data, bytes, err));
    return out;
}

static inline void gpu_get(gpu *g, void *out, const void *data, size_t bytes)
{
    gpu_ok(lx_download(&g->x, out, data, bytes, err));
}

static inline void *gpu_malloc(int64_t n, size_t size)
{
    void *p = calloc((size_t)(n ? n : 1), size);
    assert_non_null(p);
    return p;
}

/* One value into F32, BF16, F16 or F8_E4M3, rounded to nearest. F16 saturates, as a card's does. */
static inline void gpu_narrow(void *out, lx_dtype dtype, float v)
{
    uint16_t h = dtype == LX_DTYPE_BF16 ? lx_bf16_from_f32(v)
                                        : lx_f16_from_f32(fminf(fmaxf(v, -65504), 65504));
    uint8_t b = lx_f8_e4m3_from_f32(v);
    if (dtype == LX_DTYPE_F32)
        memcpy(out, &v, 4);
    else if (dtype == LX_DTYPE_F8_E4M3)
        memcpy(out, &b, 1);
    else
        memcpy(out, &h, 2);
}

static inline float gpu_widen(const void *in, lx_dtype dtype, int64_t i)
{
    float f = 0;
    lx_widen_to_f32(&f, (const char *)in + (size_t)i * lx_dtype_size(dtype), dtype, 1);
    return f;
}

/* v as an element type holds it. */
static inline float gpu_rounded(lx_dtype dtype, float v)
{
    unsigned char bits[4] = {0};
    gpu_narrow(bits, dtype, v);
    return gpu_widen(bits, dtype, 0);
}

/* Dense values [rows, cols] as a matrix on the card, its rows `stride` apart; between them ones. */
static inline lx_mat gpu_mat(gpu *g, lx_dtype dtype, const float *values, int64_t rows,
                             int64_t cols, int64_t stride)
{
    size_t size = lx_dtype_size(dtype);
    unsigned char *bytes = gpu_malloc(rows * stride, size);
    memset(bytes, 0xff, (size_t)(rows * stride) * size);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            gpu_narrow(bytes + (size_t)(r * stride + c) * size, dtype, values[r * cols + c]);
    lx_mat out = {.dtype = dtype, .rows = rows, .cols = cols, .stride = stride};
    out.data = gpu_put(g, bytes, (size_t)(rows * stride) * size);
    free(bytes);
    return out;
}

/* Back, as dense floats. Fails if anything was written between the rows. */
static inline float *gpu_mat_get(gpu *g, const lx_mat *m)
{
    size_t size = lx_dtype_size(m->dtype);
    unsigned char *bytes = gpu_malloc(m->rows * m->stride, size);
    float *out = gpu_malloc(m->rows * m->cols, sizeof *out);
    gpu_get(g, bytes, m->data, (size_t)(m->rows * m->stride) * size);
    for (int64_t r = 0; r < m->rows; r++) {
        for (int64_t c = 0; c < m->cols; c++)
            out[r * m->cols + c] = gpu_widen(bytes, m->dtype, r * m->stride + c);
        for (size_t i = (size_t)(r * m->stride + m->cols) * size;
             i < (size_t)((r + 1) * m->stride) * size; i++)
            if (bytes[i] != 0xff)
                fail_msg("row %d: written beyond its %d columns", (int)r, (int)m->cols);
    }
    free(bytes);
    return out;
}

/* The weight's bytes and scale on the card. */
static inline lx_weight gpu_weight(gpu *g, const lx_weight *w)
{
    lx_weight out = *w;
    uint64_t elements, bytes;
    gpu_ok(lx_shape_bytes(&w->shape, w->dtype, &elements, &bytes, err));
    out.data = gpu_put(g, w->data, (size_t)bytes);
    if (w->scale)
        out.scale = gpu_put(g, w->scale, (size_t)w->shape.dim[0] * sizeof(float));
    return out;
}

/* --- comparisons ----------------------------------------------------------------------------- */

typedef struct gpu_error {
    double rel_l2, max_abs;
    int64_t worst; /* where max_abs is; a NaN or infinity on one side only is worst of all */
} gpu_error;

static inline gpu_error gpu_compare(const float *got, const float *want, int64_t n)
{
    gpu_error e = {0};
    double square = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (isfinite(got[i]) != isfinite(want[i]))
            d = HUGE_VAL;
        else if (!isfinite(want[i]))
            continue;
        if (d > e.max_abs) {
            e.max_abs = d;
            e.worst = i;
        }
        square += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    e.rel_l2 = norm > 0 ? sqrt(square / norm) : square > 0 ? HUGE_VAL : 0;
    return e;
}

/* The error that only rounding the wanted values to the output's format would make. */
static inline double gpu_rounding(lx_dtype dtype, const float *want, int64_t n)
{
    double square = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)gpu_rounded(dtype, want[i]) - (double)want[i];
        square += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    return norm > 0 ? sqrt(square / norm) : 0;
}

/* Prints the line; fails above `allowed`, relative L2. cols: for the worst place. */
static inline void gpu_pass(const char *what, const float *got, const float *want, int64_t n,
                            int64_t cols, double allowed)
{
    gpu_error e = gpu_compare(got, want, n);
    printf("  %-56s rel_l2 %.2e of %.2e, max %.2e at [%lld, %lld]\n", what, e.rel_l2, allowed,
           e.max_abs, (long long)(e.worst / cols), (long long)(e.worst % cols));
    if (e.rel_l2 <= allowed)
        return;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= 8 * allowed * fabs((double)want[i]) + 1e-3 * e.max_abs))
            fail_msg("%s: rel_l2 %.3g, allowed %.3g; first bad at [%lld, %lld]: %.9g for %.9g",
                     what, e.rel_l2, allowed, (long long)(i / cols), (long long)(i % cols),
                     (double)got[i], (double)want[i]);
    }
    fail_msg("%s: rel_l2 %.3g, allowed %.3g", what, e.rel_l2, allowed);
}

/* --- times ----------------------------------------------------------------------------------- */

static inline bool gpu_wants_bench(int argc, char **argv)
{
    return argc > 1 && !strcmp(argv[1], "--bench");
}

static inline double gpu_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call: the best of three batches of about 50 ms, by the host's clock. */
static inline double gpu_time(gpu *g, void (*call)(gpu *g, void *self), void *self)
{
    lx_err err = {0};
    double best = HUGE_VAL;
    int n = 1;
    call(g, self); /* warm: kernels chosen */
    gpu_must(lx_exec_wait(&g->x, &err), &err);
    for (int round = 0; round < 4; round++) {
        double t = gpu_now_s();
        for (int i = 0; i < n; i++)
            call(g, self);
        gpu_must(lx_exec_wait(&g->x, &err), &err);
        t = (gpu_now_s() - t) / n;
        if (round) /* the first says how many make 50 ms */
            best = t < best ? t : best;
        else
            n = t < 5e-5 ? 1000 : t > 5e-2 ? 1 : (int)(5e-2 / t);
    }
    return best;
}

/* Dense peaks of one multiprocessor, in 1e12 operations per second, and a card's memory rate:
 * NVIDIA's white papers. 0: not known. */
typedef struct gpu_roof {
    double bf16, int8, fp8, gb_per_s;
} gpu_roof;

static inline gpu_roof gpu_roof_of(const gpu *g)
{
    static const struct {
        int major, minor;
        double bf16, int8, fp8;
    } peaks[] = {{8, 0, 2.89, 5.78, 0},
                 {8, 6, 0.866, 3.46, 0},
                 {8, 9, 1.29, 5.16, 2.58},
                 {9, 0, 7.5, 15.0, 15.0},
                 {12, 0, 1.23, 4.93, 2.46}};
    static const struct {
        const char *name;
        double gb_per_s;
    } memory[] = {{"H200", 4800}, {"H100", 3350}, {"A100", 2039}, {"5090", 1792},
                  {"4090", 1008}, {"3090", 936},  {"3060", 360}};
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    gpu_roof roof = {0};
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++)
        if (peaks[i].major == card->major && peaks[i].minor == card->minor)
            roof = (gpu_roof){peaks[i].bf16 * card->n_sm, peaks[i].int8 * card->n_sm,
                              peaks[i].fp8 * card->n_sm, 0};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (strstr(card->name, memory[i].name) && roof.gb_per_s == 0)
            roof.gb_per_s = memory[i].gb_per_s;
    return roof;
}

/* One line of --bench; tera: operations / 1e12 of a call (0: none); roof: the same per second. */
static inline void gpu_print_rate(const char *what, double seconds, double tera, double roof)
{
    printf("%-60s %9.4f ms", what, 1e3 * seconds);
    if (tera > 0)
        printf(" %8.1f T/s", tera / seconds);
    if (tera > 0 && roof > 0)
        printf(" %5.1f %%", 100 * tera / seconds / roof);
    printf("\n");
}

static inline void gpu_print_bytes(const char *what, double seconds, double bytes, double gb_per_s)
{
    printf("%-60s %9.4f ms %8.1f GB/s", what, 1e3 * seconds, 1e-9 * bytes / seconds);
    if (gb_per_s > 0)
        printf(" %5.1f %%", 1e-7 * bytes / seconds / gb_per_s);
    printf("\n");
}

#endif
