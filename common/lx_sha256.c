/*
 * lx_sha256.c - SHA-256: the blocks by nettle where the build has it, else by ourselves
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_sha256.h"

#include <stdio.h>
#include <string.h>

#ifdef LX2V_NETTLE
#include <nettle/sha2.h>

/* nettle uses the SHA instructions of x86 and ARM where the processor has them. What is buffered
 * and counted stays ours, so that a hash is the same object in every build. */
static void add_blocks(uint32_t state[8], const unsigned char *p, size_t n)
{
    struct sha256_ctx c;
    sha256_init(&c);
    memcpy(c.state, state, sizeof c.state);
    sha256_update(&c, n * 64, p);
    memcpy(state, c.state, sizeof c.state);
}
#else

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t turn(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void add_block(uint32_t state[8], const unsigned char *p)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++, p += 4)
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] +
               (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i += 8) /* after eight rounds everything is back at its name */
        for (int r = 0; r < 8; r++) {
            uint32_t *a = &v[(8 - r) & 7], *b = &v[(9 - r) & 7], *c = &v[(10 - r) & 7];
            uint32_t *d = &v[(11 - r) & 7], *e = &v[(12 - r) & 7], *f = &v[(13 - r) & 7];
            uint32_t *g = &v[(14 - r) & 7], *h = &v[(15 - r) & 7];
            uint32_t t1 = *h + (turn(*e, 6) ^ turn(*e, 11) ^ turn(*e, 25)) +
                          ((*e & *f) ^ (~*e & *g)) + K[i + r] + w[i + r];
            *d += t1;
            *h = t1 + (turn(*a, 2) ^ turn(*a, 13) ^ turn(*a, 22)) +
                 ((*a & *b) ^ (*a & *c) ^ (*b & *c));
        }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

static void add_blocks(uint32_t state[8], const unsigned char *p, size_t n)
{
    for (; n; n--, p += 64)
        add_block(state, p);
}
#endif

void lx_sha256_open(lx_sha256 *s)
{
    *s = (lx_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                               0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void lx_sha256_add(lx_sha256 *s, const void *data, size_t n)
{
    const unsigned char *p = data;
    size_t held = (size_t)(s->bytes % 64);
    s->bytes += n;
    if (held) {
        size_t take = n < 64 - held ? n : 64 - held;
        memcpy(s->block + held, p, take);
        p += take;
        n -= take;
        if (held + take < 64)
            return;
        add_blocks(s->state, s->block, 1);
    }
    add_blocks(s->state, p, n / 64);
    if (n % 64)
        memcpy(s->block, p + n / 64 * 64, n % 64);
}

void lx_sha256_hex(lx_sha256 *s, char out[65])
{
    static const unsigned char padding[64] = {0x80};
    unsigned char length[8];
    uint64_t bits = s->bytes * 8;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)(bits >> (56 - 8 * i));
    lx_sha256_add(s, padding, 1 + (119 - (size_t)(s->bytes % 64)) % 64);
    lx_sha256_add(s, length, 8);
    for (int i = 0; i < 8; i++)
        snprintf(out + 8 * i, 9, "%08x", (unsigned)s->state[i]);
}
