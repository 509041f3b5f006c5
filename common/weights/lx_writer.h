/*
 * lx_writer.h - a checkpoint's file, written tensor by tensor
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Writes one safetensors file or one .pth archive whose tensors are known by name, type
 *           and shape before the first value is: values come in pieces, of several tensors at once,
 *           so that a file of any size passes through a few megabytes.
 * Promise   The same tensors give the same bytes, whatever the order of the pieces, the file's name
 *           and the day. The file appears under its name when it is whole and on disk, or not at
 *           all: until then it is PATH.part, with its whole length reserved.
 * Threads   Distinct tensors may be written at once; the pieces of one come in order.
 * Not here  A list of tensors that are in memory: lx_safetensors_write() in lx_weights.h.
 * Tests     tests/unit/test_writer.c, test_mkmodel.c, test_convert.c
 */
#ifndef LX_WRITER_H
#define LX_WRITER_H

#include "lx_tensor.h"

typedef struct lx_writer lx_writer;

typedef enum lx_file_format {
    /* The reference writer's order (falling element size, then name) and padding; no metadata. */
    LX_FILE_SAFETENSORS,
    /* As torch.save: stored zip, records on 64 bytes, pickle protocol 2, tensors in the given
     * order. Differences: the folder inside is always "archive", local headers carry CRC and sizes
     * (torch uses data descriptors), no time, and the pickle does not memoize. */
    LX_FILE_PTH,
} lx_file_format;

typedef struct lx_writer_options {
    lx_file_format format;
    bool zip64;    /* .pth: ZIP64 records even where they are not needed (for tests of readers) */
    bool sparse;   /* values stay a hole that reads as zeros, CRCs 0: full size, no disk */
    bool unsynced; /* a power cut may lose it: files that can be made again */
} lx_writer_options;

/* A tensor of the file. Plain data. */
typedef struct lx_planned {
    const char *name; /* borrowed during the call */
    lx_dtype dtype;
    lx_shape shape;
} lx_planned;

/**
 * Begin a file: check the names, reserve its length as PATH.part.
 *
 * @param tensor  [n]; borrowed during the call
 *
 * @retval LX_EJOB     two tensors of one name, a shape that is none
 * @retval LX_ECONFIG  as lx_safetensors_check(); no room on the disk
 */
lx_status lx_writer_open(lx_writer **out, const char *path, const lx_writer_options *options,
                         const lx_planned *tensor, size_t n, lx_err *err);

/** The next `bytes` bytes of tensor i of the list. LX_EJOB if it does not have that many. */
lx_status lx_writer_put(lx_writer *writer, size_t i, const void *data, uint64_t bytes, lx_err *err);

/** Finish the file and give it its name. On failure nothing is left behind. *writer becomes NULL
 *  in any case. LX_EJOB if a tensor is not complete. */
lx_status lx_writer_close(lx_writer **writer, lx_err *err);

/** Give up: nothing is left behind. NULL is allowed; *writer becomes NULL. */
void lx_writer_discard(lx_writer **writer);

/** Bytes of the whole file. */
uint64_t lx_writer_bytes(const lx_writer *writer);

/* --- the map of a checkpoint in several files ------------------------------------------------- */

typedef struct lx_index_line {
    const char *tensor, *file; /* borrowed during the call; file: a plain name */
} lx_index_line;

/** Write an index.json, lines in the given order; total_bytes 0: it says nothing about that. */
lx_status lx_index_write(const char *path, const lx_index_line *line, size_t n,
                         uint64_t total_bytes, lx_err *err);

#endif
