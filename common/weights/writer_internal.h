/*
 * writer_internal.h - what the writer of a file and its two formats share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_WRITER_INTERNAL_H
#define LX_WRITER_INTERNAL_H

#include <stdio.h>

#include "lx_writer.h"

/* A tensor and where its bytes go. */
typedef struct lx_written {
    char *name; /* owned */
    lx_dtype dtype;
    lx_shape shape;
    uint64_t offset, bytes; /* in the file; offset by the format's lay_out */
    uint64_t done;
    uint32_t crc; /* of what is done; .pth only */
} lx_written;

/* What surrounds the values. */
typedef struct lx_frame {
    /* Set the offset of every tensor and the length of the file. */
    lx_status (*lay_out)(lx_writer *w, lx_err *err);
    /* Everything but the values, to w->out; false with errno. */
    bool (*finish)(lx_writer *w);
    void (*free)(lx_writer *w);
} lx_frame;

extern const lx_frame lx_frame_safetensors, lx_frame_pth;

struct lx_writer {
    char *path, *part; /* owned */
    FILE *out;         /* owned; NULL: nothing was opened */
    lx_writer_options options;
    const lx_frame *frame;
    void *state;        /* the frame's own */
    lx_written *tensor; /* owned [n], in the order of the caller */
    size_t n;
    uint64_t bytes; /* of the whole file */
};

#endif
