/*
 * lx_patch_cpu.c - patches on the CPU: a frame's row of patches at a time
 * SPDX-License-Identifier: Apache-2.0
 *
 * A few MiB per step beside the blocks' teraflops: plain loops, split over rows of patches.
 */
#include <math.h>

#include "lx_cpu.h"
#include "lx_patch.h"

lx_status lx_cpu_patchify(lx_exec *x, const lx_patch_dims *d, const float *latent, float *rows,
                          lx_err *err)
{
    (void)err;
    if (x->is_dry)
        return LX_OK;
    int64_t h2 = d->h / 2, w2 = d->w / 2, n = d->t * h2, area = d->t * d->h * d->w;
#pragma omp parallel for schedule(static) num_threads(x->n_threads)
    for (int64_t r = 0; r < n; r++) { /* r = t * h2 + i; latent row 2i of frame t */
        const float *top = latent + (r / h2 * d->h + r % h2 * 2) * d->w;
        float *out = rows + r * w2 * 4 * d->channels;
        for (int64_t j = 0; j < w2; j++)
            for (int64_t c = 0; c < d->channels; c++, out += 4) {
                const float *in = top + c * area + 2 * j;
                out[0] = in[0], out[1] = in[1];
                out[2] = in[d->w], out[3] = in[d->w + 1];
            }
    }
    return LX_OK;
}

lx_status lx_cpu_unpatchify(lx_exec *x, const lx_patch_dims *d, const float *rows, float *latent,
                            lx_err *err)
{
    (void)err;
    if (x->is_dry)
        return LX_OK;
    int64_t h2 = d->h / 2, w2 = d->w / 2, n = d->t * h2, area = d->t * d->h * d->w;
#pragma omp parallel for schedule(static) num_threads(x->n_threads)
    for (int64_t r = 0; r < n; r++) {
        float *top = latent + (r / h2 * d->h + r % h2 * 2) * d->w;
        const float *row = rows + r * w2 * 4 * d->channels;
        for (int64_t j = 0; j < w2; j++, row += 4 * d->channels)
            for (int64_t c = 0; c < d->channels; c++) {
                float *out = top + c * area + 2 * j;
                out[0] = row[c], out[1] = row[d->channels + c];
                out[d->w] = row[2 * d->channels + c], out[d->w + 1] = row[3 * d->channels + c];
            }
    }
    return LX_OK;
}

lx_status lx_cpu_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first, lx_err *err)
{
    (void)err;
    for (int64_t i = 0; i < n && !x->is_dry; i++)
        if (!isfinite(in[i])) {
            *first = i;
            break;
        }
    return LX_OK;
}
