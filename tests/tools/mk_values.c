/*
 * mk_values.c - random values by position
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "mk.h"

/* A good 32-bit mixer (Chris Wellons, "lowbias32"): every input bit reaches every output bit. */
static inline uint32_t mix32(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static uint64_t tensor_key(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u ^ seed * 0x9e3779b97f4a7c15u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash ^ hash >> 29;
}

static double fan_in(const mk_tensor *t)
{
    double n = 1;
    for (int d = 1; d < t->shape.n_dims; d++)
        n *= (double)t->shape.dim[d];
    return n;
}

/* Standard deviation and mean of a kind of tensor. */
static void moments(const mk_tensor *t, double *deviation, double *mean)
{
    *mean = t->kind == MK_GAIN ? 1 : 0;
    *deviation = 0;
    switch (t->kind) {
    case MK_WEIGHT:
        *deviation = 1 / sqrt(fan_in(t));
        break;
    case MK_QUERY:
        *deviation = 0.125 / sqrt(fan_in(t));
        break;
    case MK_GAIN:
        *deviation = 0.1;
        break;
    case MK_BIAS:
        *deviation = 0.02;
        break;
    case MK_TABLE:
        *deviation = 0.2;
        break;
    case MK_EMBEDDING:
        *deviation = 1;
        break;
    case MK_MODULATION:
        *deviation = 1 / sqrt((double)t->shape.dim[t->shape.n_dims - 1]);
        break;
    }
}

void mk_generate(const mk_tensor *t, uint64_t seed, uint64_t first, size_t n, float *out)
{
    double deviation, mean;
    moments(t, &deviation, &mean);
    const uint64_t key = tensor_key(t->name, seed);
    /* Uniform on +-sqrt(3) deviations; 24 bits, so that the product is one rounding from exact. */
    const float scale = (float)(deviation * 1.7320508075688772 / 0x1p23), shift = (float)mean;
    for (size_t i = 0; i < n;) {
        uint64_t at = first + i;
        uint32_t low = (uint32_t)key ^ mix32((uint32_t)(at >> 32) + (uint32_t)(key >> 32));
        size_t run = n - i; /* up to the next multiple of 2^32 */
        if (run > 0x100000000u - (uint32_t)at)
            run = (size_t)(0x100000000u - (uint32_t)at);
        for (size_t k = 0; k < run; k++) {
            int32_t u = (int32_t)(mix32((uint32_t)(at + k) ^ low) >> 8) - 0x800000;
            out[i + k] = shift + scale * (float)u;
        }
        i += run;
    }
}
