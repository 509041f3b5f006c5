/*
 * lx_rng.h - the random numbers a clip starts from
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Standard normal numbers by (generator, seed, draw, index). `lx2v` is ours and depends
 *           on no device; `torch-cpu` and `torch-cuda:SMSxTHREADS` reproduce what LightX2V and
 *           others draw there.
 * Promise   lx2v: the same bits from every compiler, at every optimisation level and on every
 *           device: integers, + - * / and sqrt in binary64 only, no contraction, one rounding to
 *           binary32 at the end. torch-*: evaluated in binary64; within 2e-6 (cpu) and 3e-6 (cuda).
 * Not here  When which draw is used: stages/dit/sampler.h.
 * Threads   No state: any thread, any order.
 * Tests     tests/unit/test_rng.c; docs/noise.md has the definition and first values
 */
#ifndef LX_RNG_H
#define LX_RNG_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "lx_status.h"

#ifdef __CUDACC__
#define LX_DEVICE static __host__ __device__ __forceinline__
#else
#define LX_DEVICE static inline
#endif
/* Device compilers fuse a * b + c unless the operation is named; the host is built with
 * -ffp-contract=off (cmake/compile.cmake). */
#ifdef __CUDA_ARCH__
#define LX_RNG_ADD(a, b) __dadd_rn((a), (b))
#define LX_RNG_MUL(a, b) __dmul_rn((a), (b))
#define LX_RNG_DIV(a, b) __ddiv_rn((a), (b))
#define LX_RNG_SQRT(a)   __dsqrt_rn(a)
#else
#ifdef __FAST_MATH__
#error "lx_rng.h: -ffast-math would change the noise"
#endif
#define LX_RNG_ADD(a, b) ((a) + (b))
#define LX_RNG_MUL(a, b) ((a) * (b))
#define LX_RNG_DIV(a, b) ((a) / (b))
#define LX_RNG_SQRT(a)   sqrt(a)
#endif

/* --- building blocks, host and device --------------------------------------------------------- */

/** One evaluation of Philox4x32-10 (Salmon et al., SC 2011). counter and out may be the same. */
LX_DEVICE void lx_philox(const uint32_t counter[4], uint64_t key, uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* the Weyl steps of the key; the tenth is not used */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/** ln x for normal x > 0: x = m 2^e, m in [1/sqrt 2, sqrt 2), s = (m - 1)/(m + 1),
 *  ln m = 2 (s + s^3/3 + s^5/5 + ...); |s| < 0.172, so the 12th term is below 2^-60. */
LX_DEVICE double lx_rng_ln(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp0) { /* sqrt 2 */
        m = LX_RNG_MUL(m, 0.5);
        e++;
    }
    double s = LX_RNG_DIV(LX_RNG_ADD(m, -1.0), LX_RNG_ADD(m, 1.0)), z = LX_RNG_MUL(s, s);
    double p = 1.0 / 23;
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 21);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 19);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 17);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 15);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 13);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 11);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 9);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 7);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 5);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 3);
    p = LX_RNG_MUL(LX_RNG_MUL(p, z), s);
    double ln_m = LX_RNG_MUL(LX_RNG_ADD(s, p), 2.0);
    return LX_RNG_ADD(LX_RNG_MUL((double)e, 0x1.62e42fefa39efp-1), ln_m); /* ln 2 */
}

/** sin and cos for |x| <= pi/4: Taylor series to x^19 and x^18, error below 2^-58. */
LX_DEVICE double lx_rng_sin_small(double x)
{
    double z = LX_RNG_MUL(x, x), p = -1.0 / 121645100408832000.0; /* -1/19! */
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 355687428096000.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 1307674368000.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 6227020800.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 39916800.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 362880.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 5040.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 120.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 6.0);
    return LX_RNG_ADD(x, LX_RNG_MUL(LX_RNG_MUL(p, z), x));
}

LX_DEVICE double lx_rng_cos_small(double x)
{
    double z = LX_RNG_MUL(x, x), p = -1.0 / 6402373705728000.0; /* -1/18! */
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 20922789888000.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 87178291200.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 479001600.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 3628800.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 40320.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 720.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), 1.0 / 24.0);
    p = LX_RNG_ADD(LX_RNG_MUL(p, z), -1.0 / 2.0);
    return LX_RNG_ADD(1.0, LX_RNG_MUL(p, z));
}

/** cos(2 pi (r + 1/2) / 2^32). The angle is (2r + 1) of 2^33 parts of a turn, so quadrant and
 *  octant are found exactly, in integers. */
LX_DEVICE double lx_rng_cos_turn(uint32_t r)
{
    const uint32_t right_angle = 0x80000000u; /* 2^31 of 2^33 parts */
    uint64_t v = 2 * (uint64_t)r + 1;
    uint32_t quadrant = (uint32_t)(v >> 31), f = (uint32_t)v & (right_angle - 1);
    uint32_t is_sin = quadrant & 1;            /* cos(a + pi/2) = -sin a */
    uint32_t is_negative = (quadrant + 1) & 2; /* in the second and third quadrant */
    if (f > right_angle / 2) {                 /* beyond pi/4: sin a = cos(pi/2 - a) */
        f = right_angle - f;
        is_sin ^= 1;
    }
    double x = LX_RNG_MUL((double)f, 0x1.921fb54442d18p-31); /* 2 pi / 2^33 */
    double y = is_sin ? lx_rng_sin_small(x) : lx_rng_cos_small(x);
    return is_negative ? -y : y;
}

/** lx2v: element i of a draw. */
LX_DEVICE float lx_rng_lx2v(uint64_t seed, uint32_t draw, uint64_t i)
{
    uint32_t c[4] = {(uint32_t)i, (uint32_t)(i >> 32), draw, 0};
    lx_philox(c, seed, c);
    double u1 = LX_RNG_MUL(LX_RNG_ADD((double)c[0], 0.5), 0x1p-32); /* exact, in (0, 1) */
    double rho = LX_RNG_SQRT(LX_RNG_MUL(-2.0, lx_rng_ln(u1)));
    return (float)LX_RNG_MUL(rho, lx_rng_cos_turn(c[1]));
}

/* --- generators by name, host ----------------------------------------------------------------- */

typedef enum lx_rng_kind { LX_RNG_LX2V, LX_RNG_TORCH_CPU, LX_RNG_TORCH_CUDA } lx_rng_kind;

typedef struct lx_rng {
    lx_rng_kind kind;
    uint32_t n_multiprocessors, threads_each; /* torch-cuda: 132 x 2048 resident threads */
} lx_rng;

/** "lx2v", "torch-cpu", "torch-cuda:132x2048", "torch-cuda:rtx3060". LX_ECONFIG lists them. */
lx_status lx_rng_parse(const char *name, lx_rng *out, lx_err *err);

/**
 * Draw number `draw` (0: the initial noise; later ones as the same generator would go on) of n
 * values each into out.
 */
void lx_rng_normal(const lx_rng *rng, uint64_t seed, uint32_t draw, uint64_t n, float *out);

#endif
