/*
 * umt5.h - the UMT5 encoder: token ids to one row of context each
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Written once as a sequence of calls into kernels/. Only the real tokens are run:
 *           without padding there is no mask, and the kept rows are the same: all else is by row.
 * Promise   f32 residual, norms, scores and softmax; linears as the checkpoint stores them
 *           (float, or W8A8 in int8 or fp8); on a card rows between them are BF16. Dimensions come
 *           from the tensors. No allocation while encoding: everything is taken from the exec's two
 *           arenas; dry ones measure it.
 * Memory    Weights stay in host memory or on disk. On a card the layers stay or pass through, as
 *           the residency says that the caller opens over umt5_layers; the token embedding never
 *           comes there.
 * Source    Wan2.1 wan/modules/t5.py
 * Threads   One thread at a time; the exec brings its own.
 * Tests     tests/stages/test_encoder_umt5.c
 */
#ifndef ENCODER_UMT5_H
#define ENCODER_UMT5_H

#include "lx_exec.h"
#include "lx_residency.h"
#include "lx_run.h"
#include "weights/lx_catalog.h"

typedef struct umt5 umt5;

typedef struct umt5_options {
    const lx_progress *progress; /* unit "byte"; may be NULL */
    int shared_fd;               /* lx_weights.h; 0: none */
    bool is_on_disk;             /* the layers' large weights stay in their file: for a card only */
} umt5_options;

/** Read a checkpoint and check that it is a UMT5 encoder. options may be NULL. */
lx_status umt5_open(umt5 **out, const char *path, const umt5_options *options, lx_err *err);
/** The same without reading a tensor: for plans; it runs dry only. */
lx_status umt5_open_headers(umt5 **out, const char *path, lx_err *err);
void umt5_close(umt5 **model);

const lx_t5_dims *umt5_dims(const umt5 *model);
const lx_weights *umt5_weights(const umt5 *model); /* borrowed until umt5_close */

/** Bytes of the layers' weights that may stay on disk. */
uint64_t umt5_disk_bytes(const umt5 *model);

/** What a card reads of each layer; borrowed until umt5_close. */
lx_layers umt5_layers(const umt5 *model);

typedef struct umt5_request {
    lx_residency *layers;        /* opened over umt5_layers on the exec's device */
    const int32_t *ids;          /* [n], each below dims.vocab */
    int64_t n;                   /* 1 or more */
    int64_t n_layers;            /* run only so many, to warm up; 0: all */
    const lx_progress *progress; /* unit "layer"; may be NULL */
    lx_run *run; /* dumps: token_embedding, blocks.N.attn.q ..., norm; may be NULL */
} umt5_request;

/**
 * Encode.
 *
 * @param context  [n, dim] f32 in host memory, written
 *
 * @retval LX_EJOB     an id beyond the table, no room in an arena, or a result that is not finite
 * @retval LX_ESTAGE   the card failed
 * @retval LX_ECANCEL  progress said so, between two layers
 */
lx_status umt5_encode(const umt5 *model, lx_exec *x, const umt5_request *request, float *context,
                      lx_err *err);

/** Bucket of a key `offset` tokens after the query (before it: negative); n_buckets 32 in UMT5. */
int umt5_bucket(int64_t offset, int64_t n_buckets);

#endif
