/*
 * attention_image.h - keys and values as attention in FP8 and on Hopper has them in shared memory
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      attention_tiles.cu writes images of 128 keys (or their values) to device memory, byte
 *           for byte what wgmma reads from shared memory; so attention_wgmma.cu fetches an image
 *           with one plain bulk copy (keys' scales are read where they are) and no tensor map.
 *           The same bytes serve ldmatrix: attention_fp8.cu.
 * Operand   Everything is "K-major with 128-byte swizzle" (PTX ISA, wgmma, shared memory matrix
 *           layout): rows of 128 bytes along the dimension that is summed over, 8 rows make 1,024
 *           bytes, and the 16-byte unit u of row r lies at u ^ (r % 8). A step of 32 bytes along
 *           the rows is 32 bytes more in the descriptor's address.
 * Images    keys    row = key, 128 INT8 channels; behind them 2 x 4 scales
 *           FP8     row = channel, 128 keys, ordered within each 16 (below)
 *           F16     two of them: row = channel, 64 keys each
 *           Images lie tile after tile, head after head. Keys that do not exist are zeros.
 * Both      Read by C17 and C++17. Tests: tests/kernels/test_attention_image.c
 */
#ifndef ATTENTION_IMAGE_H
#define ATTENTION_IMAGE_H

#include <stdint.h>

#ifdef __CUDACC__
#define LX_CU_BOTH __host__ __device__
#else
#define LX_CU_BOTH
#endif

enum {
    LX_CU_IMAGE_KEYS = 128,
    LX_CU_IMAGE_CHANNELS = 128,
    LX_CU_IMAGE_OPERAND = 128 * 128,                 /* bytes: 128 rows of 128 */
    LX_CU_IMAGE_K_BYTES = LX_CU_IMAGE_OPERAND + 128, /* from one image of keys to the next */
    LX_CU_IMAGE_V_FP8_BYTES = LX_CU_IMAGE_OPERAND,
    LX_CU_IMAGE_V_F16_BYTES = 2 * LX_CU_IMAGE_OPERAND
};

/* Where byte `byte` of row `row` lies. */
LX_CU_BOTH static inline int lx_cu_image_at(int row, int byte)
{
    return row * 128 + ((byte >> 4 ^ (row & 7)) << 4) + (byte & 15);
}

LX_CU_BOTH static inline int lx_cu_image_key_at(int key, int channel)
{
    return lx_cu_image_at(key, channel);
}

/* Which scale of its tile a key has: a lane of the kernel sees keys 8 j + 2 t + b only, and has one
 * scale for each half of the tile. */
LX_CU_BOTH static inline int lx_cu_image_group(int key)
{
    return key / 64 * 4 + key % 8 / 2;
}

LX_CU_BOTH static inline int lx_cu_image_scale_at(int group)
{
    return LX_CU_IMAGE_OPERAND + 4 * group;
}

LX_CU_BOTH static inline int lx_cu_image_f16_at(int key, int channel)
{
    return key / 64 * LX_CU_IMAGE_OPERAND + lx_cu_image_at(channel, key % 64 * 2);
}

/* A lane holds the weights of keys 2t, 2t+1, 8+2t, 9+2t of each 16; as FP8 operand A it must have
 * four neighbours. So key i of 16 is summed at this place. */
LX_CU_BOTH static inline int lx_cu_image_fp8_place(int i)
{
    return i % 8 / 2 * 4 + i / 8 * 2 + i % 2;
}

LX_CU_BOTH static inline int lx_cu_image_fp8_at(int key, int channel)
{
    return lx_cu_image_at(channel, key / 16 * 16 + lx_cu_image_fp8_place(key % 16));
}

/* Register `reg` of operand A in FP8 (4 to a step of 32 keys) holds the weights of a lane's scores
 * n, n + 1, n + 4, n + 5 from this n on; in F16 (4 to a step of 16) those of 2 reg, 2 reg + 1. */
LX_CU_BOTH static inline int lx_cu_image_fp8_score(int reg)
{
    return reg / 4 * 16 + reg / 2 % 2 * 8 + reg % 2 * 2;
}

/* wgmma's descriptor of such an operand at a shared memory address (1,024-byte aligned, plus 32 per
 * step): address / 16 in bits 0-13, leading offset in 16-29 (not read with a swizzle), 1,024 / 16
 * from 8 rows to the next 8 in 32-45, 128-byte swizzle in 62-63. */
LX_CU_BOTH static inline uint64_t lx_cu_image_descriptor(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

#endif
