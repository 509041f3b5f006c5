/*
 * lx_rng.c - generators by name, and PyTorch's two
 * SPDX-License-Identifier: Apache-2.0
 *
 * Source  docs/noise.md: what torch.randn does on CUDA (Philox per thread, so the numbers
 *         depend on the GPU's size) and on the CPU (MT19937 in groups of 16).
 */
#include "lx_rng.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* --- names ------------------------------------------------------------------------------------ */

typedef struct card {
    const char *name;
    uint32_t n_multiprocessors, threads_each;
} card;

/* Multiprocessor counts are the vendor's figures; threads are those resident on each. */
static const card CARDS[] = {
    {"rtx3060", 28, 1536}, {"rtx3080", 68, 1536},  {"rtx3090", 82, 1536},
    {"rtx4080", 76, 1536}, {"rtx4090", 128, 1536}, {"rtx5090", 170, 1536},
    {"a100", 108, 2048},   {"h100", 132, 2048},    {"h200", 132, 2048},
};
#define N_CARDS     (sizeof CARDS / sizeof *CARDS)
#define MAX_SMS     1024 /* more than any card has; keeps the products small */
#define MAX_THREADS 4096
#define BLOCK       256 /* threads of one block of PyTorch's kernel */

static lx_status refuse(const char *name, lx_err *err)
{
    char cards[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_CARDS && used < sizeof cards; i++)
        used += (size_t)snprintf(cards + used, sizeof cards - used, "%s%s", i ? ", " : "",
                                 CARDS[i].name);
    return lx_fail(err, LX_ECONFIG,
                   "rng \"%.64s\": accepted are lx2v, torch-cpu, torch-cuda:SMSxTHREADS "
                   "(1..%d multiprocessors, %d..%d resident threads; 132x2048 is an H100) and "
                   "torch-cuda:CARD with one of %s",
                   name, MAX_SMS, BLOCK, MAX_THREADS, cards);
}

/* "132x2048": digits only, no sign, no blanks, nothing behind. */
static int parse_geometry(const char *text, uint32_t *sms, uint32_t *threads)
{
    uint32_t value[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        const char *first = text;
        while (*text >= '0' && *text <= '9' && text - first < 5)
            value[i] = value[i] * 10 + (uint32_t)(*text++ - '0');
        if (text == first || *text != (i ? '\0' : 'x'))
            return 0;
        text++;
    }
    *sms = value[0], *threads = value[1];
    return *sms >= 1 && *sms <= MAX_SMS && *threads >= BLOCK && *threads <= MAX_THREADS;
}

lx_status lx_rng_parse(const char *name, lx_rng *out, lx_err *err)
{
    static const char cuda[] = "torch-cuda:";
    lx_rng rng = {.kind = LX_RNG_LX2V};
    if (strcmp(name, "lx2v") == 0) {
        *out = rng;
        return LX_OK;
    }
    if (strcmp(name, "torch-cpu") == 0) {
        rng.kind = LX_RNG_TORCH_CPU;
        *out = rng;
        return LX_OK;
    }
    if (strncmp(name, cuda, sizeof cuda - 1) != 0)
        return refuse(name, err);
    const char *which = name + sizeof cuda - 1;
    rng.kind = LX_RNG_TORCH_CUDA;
    for (size_t i = 0; i < N_CARDS; i++)
        if (strcmp(which, CARDS[i].name) == 0) {
            rng.n_multiprocessors = CARDS[i].n_multiprocessors;
            rng.threads_each = CARDS[i].threads_each;
            *out = rng;
            return LX_OK;
        }
    if (!parse_geometry(which, &rng.n_multiprocessors, &rng.threads_each))
        return refuse(name, err);
    *out = rng;
    return LX_OK;
}

/* --- sine and cosine of any angle in [0, 8] -------------------------------------------------- */

/* Quadrants are taken off with pi/2 in two parts, the first of 33 bits, so that k * part is exact.
 * Own series and not libm's: the numbers are then the same on every distribution. */
static void sin_cos(double x, double *sine, double *cosine)
{
    int k = (int)(x * 0x1.45f306dc9c883p-1 + 0.5); /* 2/pi */
    double r = (x - k * 0x1.921fb544p0) - k * 0x1.0b4611a626331p-34;
    double s = lx_rng_sin_small(r), c = lx_rng_cos_small(r);
    *sine = k & 1 ? c : s;
    *cosine = k & 1 ? s : c;
    if (k & 2)
        *sine = -*sine;
    if ((k + 1) & 2)
        *cosine = -*cosine;
}

/* --- torch.randn on CUDA --------------------------------------------------------------------- */

/* One pair of words to (sine part, cosine part). The words' scaling is in f32, as on the device;
 * the rest in f64 (device: logf, sqrtf, __sincosf; difference at most 3e-6). */
static void cuda_box_muller(uint32_t x, uint32_t y, float *sine_part, float *cosine_part)
{
    float u = (float)x * 0x1p-32f + 0x1p-33f;
    const float c = 0x1p-32f * 6.2831855f;
    float w = fmaf((float)y, c, c / 2);
    double rho = sqrt(-2.0 * lx_rng_ln((double)u)), s, t;
    sin_cos((double)w, &s, &t);
    *sine_part = (float)(rho * s);
    *cosine_part = (float)(rho * t);
}

/* T threads each make 4 numbers per pass: element e belongs to pass e / 4T, lane (e mod 4T) / T,
 * thread e mod T. */
static void cuda_normal(const lx_rng *rng, uint64_t seed, uint32_t draw, uint64_t n, float *out)
{
    if (n == 0)
        return;
    uint64_t blocks = (uint64_t)rng->n_multiprocessors * (rng->threads_each / BLOCK);
    uint64_t needed = n / BLOCK + (n % BLOCK != 0);
    uint64_t threads = BLOCK * (needed < blocks ? needed : blocks);
    uint64_t passes = (n - 1) / (4 * threads) + 1;
    for (uint64_t pass = 0; pass < passes; pass++) {
        uint64_t first = pass * 4 * threads, counter = draw * passes + pass;
        for (uint64_t thread = 0; thread < threads && first + thread < n; thread++) {
            uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)thread, 0};
            float lane[4];
            lx_philox(c, seed, c);
            cuda_box_muller(c[0], c[1], &lane[0], &lane[1]);
            cuda_box_muller(c[2], c[3], &lane[2], &lane[3]);
            for (uint64_t l = 0, e = first + thread; l < 4 && e < n; l++, e += threads)
                out[e] = lane[l];
        }
    }
}

/* --- torch.randn on the CPU ------------------------------------------------------------------- */

#define MT_N 624
#define MT_M 397

typedef struct mt19937 {
    uint32_t state[MT_N];
    int next;
} mt19937;

static void mt_seed(mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + i;
    mt->next = MT_N;
}

static uint32_t mt_random(mt19937 *mt)
{
    if (mt->next == MT_N) {
        for (int i = 0; i < MT_N; i++) {
            uint32_t y = (mt->state[i] & 0x80000000u) | (mt->state[(i + 1) % MT_N] & 0x7FFFFFFFu);
            mt->state[i] = mt->state[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908B0DFu : 0u);
        }
        mt->next = 0;
    }
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

static float mt_uniform(mt19937 *mt) /* [0, 1) in steps of 2^-24 */
{
    return (float)(mt_random(mt) & 0xFFFFFFu) * 0x1p-24f;
}

static double mt_uniform_double(mt19937 *mt) /* two outputs, the first is the high half */
{
    uint64_t high = mt_random(mt), low = mt_random(mt);
    return (double)(((high << 32) | low) & 0x1FFFFFFFFFFFFFu) * 0x1p-53;
}

static void cpu_group_of_16(float *d)
{
    for (int j = 0; j < 8; j++) {
        double rho = sqrt(-2.0 * lx_rng_ln((double)(1.0f - d[j]))), s, c;
        sin_cos((double)(6.2831855f * d[j + 8]), &s, &c); /* the angle is rounded to f32 there */
        d[j] = (float)(rho * c);
        d[j + 8] = (float)(rho * s);
    }
}

static void cpu_normal_many(mt19937 *mt, uint64_t n, float *out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = mt_uniform(mt);
    for (uint64_t i = 0; i + 16 <= n; i += 16)
        cpu_group_of_16(out + i);
    if (n % 16) { /* the last 16 are drawn anew, over values that are already done */
        for (uint64_t i = n - 16; i < n; i++)
            out[i] = mt_uniform(mt);
        cpu_group_of_16(out + n - 16);
    }
}

/* Fewer than 16: pairs in double, the second of a pair is kept for the next call. */
static void cpu_normal_few(mt19937 *mt, uint64_t skip, uint64_t n, float *out)
{
    for (uint64_t i = 0; i < skip + n; i += 2) {
        double u1 = mt_uniform_double(mt), u2 = mt_uniform_double(mt), s, c;
        double rho = sqrt(-2.0 * lx_rng_ln(1.0 - u2)); /* 1 - u2 is exact */
        sin_cos(0x1.921fb54442d18p2 * u1, &s, &c);
        if (i >= skip)
            out[i - skip] = (float)(rho * c);
        if (i + 1 >= skip && i + 1 < skip + n)
            out[i + 1 - skip] = (float)(rho * s);
    }
}

static void cpu_normal(uint64_t seed, uint32_t draw, uint64_t n, float *out)
{
    mt19937 mt;
    mt_seed(&mt, (uint32_t)seed);
    if (n < 16) {
        cpu_normal_few(&mt, draw * n, n, out);
        return;
    }
    uint64_t each = n + (n % 16 ? 16 : 0); /* outputs that one earlier draw took */
    for (uint64_t i = 0; i < draw * each; i++)
        mt_random(&mt);
    cpu_normal_many(&mt, n, out);
}

/* --------------------------------------------------------------------------------------------- */

void lx_rng_normal(const lx_rng *rng, uint64_t seed, uint32_t draw, uint64_t n, float *out)
{
    switch (rng->kind) {
    case LX_RNG_TORCH_CPU:
        cpu_normal(seed, draw, n, out);
        return;
    case LX_RNG_TORCH_CUDA:
        cuda_normal(rng, seed, draw, n, out);
        return;
    case LX_RNG_LX2V:
        for (uint64_t i = 0; i < n; i++)
            out[i] = lx_rng_lx2v(seed, draw, i);
        return;
    }
}
