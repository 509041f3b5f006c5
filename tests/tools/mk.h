/*
 * mk.h - random checkpoints of any dimensions, in the layouts that users have
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The parts of lx2v-mkmodel. A value depends on seed, tensor name and element index only,
 *           so every layout, thread count and chunking of one seed holds the same model.
 * Memory    Bounded: one chunk per thread, whatever the size of the model.
 * Tests     tests/unit/test_mkmodel.c (through the binary)
 */
#ifndef TESTS_MK_H
#define TESTS_MK_H

#include <string.h>

#include "lx_tensor.h"

/* What a tensor's values look like. */
typedef enum mk_kind {
    MK_WEIGHT,     /* uniform, standard deviation 1/sqrt(fan_in) */
    MK_QUERY,      /* MK_WEIGHT / 8: UMT5 does not scale its scores */
    MK_GAIN,       /* 1 + small */
    MK_BIAS,       /* small */
    MK_TABLE,      /* relative position bias: small, but not equal */
    MK_EMBEDDING,  /* standard deviation 1 */
    MK_MODULATION, /* standard deviation 1/sqrt(last dimension) */
} mk_kind;

typedef struct mk_tensor {
    char name[96];
    lx_shape shape;
    mk_kind kind;
    bool is_linear; /* quantized in int8 and fp8 checkpoints */
    int group;      /* DiT: block number, -1 for non_block */
} mk_tensor;

typedef struct mk_list {
    mk_tensor *tensor; /* owned */
    size_t n, room;
} mk_list;

typedef struct mk_dims {
    int64_t dit_dim, dit_ffn, dit_blocks, freq_dim, text_dim;
    int64_t t5_vocab, t5_dim, t5_attn, t5_ffn, t5_layers, t5_heads, t5_buckets;
    int64_t vae_base;
} mk_dims;

/* Tensor lists in Wan naming (mk_list.c). False: no memory. */
bool mk_list_dit(mk_list *list, const mk_dims *d);
bool mk_list_t5(mk_list *list, const mk_dims *d);
bool mk_list_vae(mk_list *list, const mk_dims *d);
void mk_list_free(mk_list *list);

/* Values (mk_values.c). */
void mk_generate(const mk_tensor *t, uint64_t seed, uint64_t first, size_t n, float *out);

/* How a file stores its tensors. */
typedef struct mk_format {
    lx_dtype linear; /* I8, F8_E4M3 or a float type */
    lx_dtype other;  /* F32, F16 or BF16 */
    lx_dtype scale;  /* F32 or BF16 */
} mk_format;

typedef struct mk_job {
    uint64_t seed;
    int threads;
    bool zip64;  /* write ZIP64 records even where they are not needed */
    bool sparse; /* headers only: the values are a hole in the file, so 15 GB take no disk */
} mk_job;

/* The tensors of one file. */
typedef struct mk_part {
    bool (*holds)(const mk_tensor *t, int64_t argument); /* NULL: all of the list */
    int64_t argument;
} mk_part;

/** Generate and write one file with several threads (mk_write.c): .pth or safetensors, by its name.
 *  False with a line on stderr. */
bool mk_write(const char *path, const mk_list *list, const mk_part *part, const mk_format *format,
              const mk_job *job);

/** f32 -> bf16 -> f32, to the nearest; for finite values. Inline, so that loops vectorise. */
static inline float mk_round_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}

/** tokenizer.json and spiece.model with `vocab` embedding rows (mk_tokenizer.c). */
bool mk_write_tokenizer(const char *folder, int64_t vocab);

bool mk_failed(const char *path, const char *what); /* prints and returns false */

#endif
