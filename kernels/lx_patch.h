/*
 * lx_patch.h - latents to rows of patches and back, and the finite check
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shapes    latent [channels, t, h, w], h and w even; a patch is 1 x 2 x 2, so there are
 *           t * h/2 * w/2 rows of 4 * channels, row s = (t * h/2 + i) * w/2 + j
 * Formula   patchify:   rows[s][c*4 + ph*2 + pw] = latent[c, t, 2i+ph, 2j+pw]   (channel slowest)
 *           unpatchify: latent[c, t, 2i+ph, 2j+pw] = rows[s][(ph*2 + pw)*channels + c] (fastest)
 *           The two orders differ: one is the input convolution's, the other the head's.
 * Numbers   copies; nothing is rounded
 * Source    Wan2.1 wan/modules/model.py, patch_embedding and unpatchify
 * Tests     tests/kernels/test_patch.c
 */
#ifndef LX_PATCH_H
#define LX_PATCH_H

#include "lx_exec.h"

typedef struct lx_patch_dims {
    int64_t channels, t, h, w; /* of the latent */
} lx_patch_dims;

lx_status lx_patchify(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                      lx_err *err);
lx_status lx_unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows, float *latent,
                        lx_err *err);

/** Where the first NaN or infinity of n values is; -1 if there is none (also in a dry run). */
lx_status lx_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first, lx_err *err);

/* The definitions. */
void lx_patchify_ref(const lx_patch_dims *dims, const float *latent, float *rows);
void lx_unpatchify_ref(const lx_patch_dims *dims, const float *rows, float *latent);

#endif
