/*
 * rng_bits.c - the lx2v noise, compiled once per optimisation level under the name RNG_BITS
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_rng.h"

void RNG_BITS(uint64_t seed, uint32_t draw, uint64_t n, float *out);

void RNG_BITS(uint64_t seed, uint32_t draw, uint64_t n, float *out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = lx_rng_lx2v(seed, draw, i);
}
