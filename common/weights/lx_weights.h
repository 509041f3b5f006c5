/*
 * lx_weights.h - the tensors of a checkpoint, by name
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Opens any layout a user has (safetensors file, folder of safetensors, sharded index,
 *           .pth) and finds tensors in it by their canonical (Wan) name.
 * Promise   Bytes are read into memory that we own: a file replaced or truncated under us changes
 *           nothing. Everything in a file is hostile until checked.
 * Memory    Its own, or a memory file that several processes share: the first reads the files, the
 *           others find the same bytes, checked already. Tensors may also stay on disk: then they
 *           are listed, and whoever needs them reads them (lx_disk.h).
 * Not here  What a model must contain: lx_catalog.h. Where a model's files lie: lx_model_dir.h.
 * Threads   After open, reading is safe from any thread.
 * Tests     tests/unit/test_safetensors.c, test_pth.c, test_weights_shared.c, test_weights_disk.c,
 *           tests/fuzz/fuzz_safetensors.c, fuzz_pth.c
 */
#ifndef LX_WEIGHTS_H
#define LX_WEIGHTS_H

#include "lx_disk.h"
#include "lx_progress.h"
#include "lx_tensor.h"

typedef struct lx_weights lx_weights;

/* One parameter as it is stored. Plain data, copied freely; the pointers are borrowed until
 * lx_weights_close(). */
typedef struct lx_weight {
    const char *name; /* canonical name */
    lx_dtype dtype;
    lx_shape shape;
    const void *data;   /* packed, C order; aligned to 256 bytes; NULL: headers_only, or on disk */
    const float *scale; /* [shape.dim[0]] f32, from NAME_scale; NULL where there is none */
} lx_weight;

typedef struct lx_weights_options {
    const lx_progress *progress; /* unit "byte"; NULL: silent */
    /* Tensors to read, others are skipped unread; NULL: all. name is canonical. */
    bool (*wants)(const char *name, void *self);
    void *self;
    bool verify; /* also check the CRC of every .pth record */
    /* List names, types and shapes only, to ask a catalog what a file is: no tensor is read, none
     * gets memory, hashes and values stay unchecked. .scale only tells that there is one. */
    bool headers_only;
    /* A memory file (memfd, sealing allowed) for one copy on this machine; borrowed until close.
     * 0: memory of its own. Asks for the same `wants` from all who share. */
    int shared_fd;
    /* Tensors whose data stays in the file; NULL: none. Asked only for those of which that is
     * possible; scales are always read. Their values stay unchecked: whoever reads them looks. What
     * shared memory has is taken from there instead. */
    bool (*on_disk)(const char *name, uint64_t bytes, void *self);
} lx_weights_options;

/**
 * Open a checkpoint.
 *
 * @param path     file or folder; in a folder all *.safetensors are one checkpoint, an index.json
 *                 says which file has what. In a LightX2V folder (block_N.safetensors) only
 *                 block_* and non_block count; a block file that is a hard link to an earlier one
 *                 stands for another block of equal weights. A manifest.sha256 beside the files
 *                 or one folder up is verified (about 0.3 GB/s).
 * @param options  may be NULL
 *
 * @retval LX_ECONFIG  file, tensor or record and what is wrong with it; also a missing file, a
 *                     git-lfs pointer, another format (named), two files with one tensor
 * @retval LX_EAGAIN   not enough memory: needed and available
 * @retval LX_ECANCEL  options->progress said so
 */
lx_status lx_weights_open(lx_weights **out, const char *path, const lx_weights_options *options,
                          lx_err *err);
void lx_weights_close(lx_weights **weights);

/** Find by canonical name; false if absent. NAME_scale companions are folded into .scale. */
bool lx_weights_find(const lx_weights *weights, const char *name, lx_weight *out);

size_t lx_weights_count(const lx_weights *weights);
lx_weight lx_weights_at(const lx_weights *weights, size_t i); /* in name order */

const char *lx_weights_path(const lx_weights *weights);
/** The first of its files that no manifest.sha256 lists; NULL: all are listed. */
const char *lx_weights_unlisted(const lx_weights *weights);
/** 16 hex digits: FNV-1a over names, shapes, dtypes and file sizes; identifies a checkpoint. */
const char *lx_weights_id(const lx_weights *weights);
uint64_t lx_weights_bytes(const lx_weights *weights);
/** Of these, in memory; shared ones included. */
uint64_t lx_weights_held_bytes(const lx_weights *weights);

/** Where the data of a tensor lies that stays on disk; false if it is in memory or absent. */
bool lx_weights_extent(const lx_weights *weights, const char *name, lx_extent *out);

/** First element of n that is not finite, UINT64_MAX if none; integers are always finite. For who
 *  reads tensors from disk: their values were not looked at. */
uint64_t lx_first_not_finite(const void *data, lx_dtype dtype, uint64_t n);

/* --- writing what is in memory (what is not: lx_writer.h) ------------------------------------- */

typedef struct lx_named_tensor {
    const char *name; /* borrowed during the call */
    lx_tensor tensor; /* likewise */
} lx_named_tensor;

/** Could PATH be written? LX_ECONFIG if it exists and is not a regular file (a symbolic link is
 *  none: renaming over it would replace the link), or if its folder is missing or not writable. */
lx_status lx_safetensors_check(const char *path, lx_err *err);

/** Write one safetensors file (reference order and padding), through PATH.part, fsync, rename.
 *  LX_ECANCEL, nothing left behind, if lx_interrupted() meanwhile. */
lx_status lx_safetensors_write(const char *path, const lx_named_tensor *tensors, size_t n,
                               lx_err *err);

#endif
