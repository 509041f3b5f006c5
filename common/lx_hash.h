/*
 * lx_hash.h - FNV-1a, 64 bits
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Short names for texts and keys of tables. No secret, and no proof of anything: whoever
 *           chooses the bytes can make two of them meet. For files there is lx_sha256.h.
 */
#ifndef LX_HASH_H
#define LX_HASH_H

#include <stddef.h>
#include <stdint.h>

#define LX_HASH_START UINT64_C(0xcbf29ce484222325)

/** The hash of what `hash` stands for, or of nothing (LX_HASH_START), and n bytes more. */
static inline uint64_t lx_hash_add(uint64_t hash, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

#endif
