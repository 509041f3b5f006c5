/*
 * lx_patch.c - checks of the patch family, and its definition
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_patch.h"

#include <inttypes.h>

#include "lx_backend.h"

static lx_status check(const lx_patch_dims *d, lx_err *err)
{
    uint64_t elements;
    if (d->channels < 1 || d->t < 1 || d->h < 2 || d->w < 2 || d->h % 2 || d->w % 2)
        return lx_fail(err, LX_EJOB,
                       "latent [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "]: sides must be even and nothing empty, patches are 2 x 2",
                       d->channels, d->t, d->h, d->w);
    return lx_shape_bytes(&LX_SHAPE(d->channels, d->t, d->h, d->w), LX_DTYPE_F32, &elements, NULL,
                          err);
}

lx_status lx_patchify(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                      lx_err *err)
{
    lx_status status = check(dims, err);
    return status == LX_OK ? x->backend->patchify(x, dims, latent, rows, err) : status;
}

lx_status lx_unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows, float *latent,
                        lx_err *err)
{
    lx_status status = check(dims, err);
    return status == LX_OK ? x->backend->unpatchify(x, dims, rows, latent, err) : status;
}

lx_status lx_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first, lx_err *err)
{
    if (n < 0)
        return lx_fail(err, LX_EJOB, "finite check of %" PRId64 " values", n);
    *first = -1;
    return x->backend->find_nonfinite(x, in, n, first, err);
}

/* One loop nest for both directions; `order` gives the place inside a row. */
typedef enum patch_order { CHANNEL_SLOWEST, CHANNEL_FASTEST } patch_order;

static void walk_ref(const lx_patch_dims *d, patch_order order, const float *from, float *to)
{
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t t = 0; t < d->t; t++)
            for (int64_t y = 0; y < d->h; y++)
                for (int64_t x = 0; x < d->w; x++) {
                    int64_t s = (t * (d->h / 2) + y / 2) * (d->w / 2) + x / 2;
                    int64_t inside = y % 2 * 2 + x % 2;
                    int64_t at_latent = ((c * d->t + t) * d->h + y) * d->w + x;
                    int64_t row = s * 4 * d->channels;
                    if (order == CHANNEL_SLOWEST)
                        to[row + c * 4 + inside] = from[at_latent];
                    else
                        to[at_latent] = from[row + inside * d->channels + c];
                }
}

void lx_patchify_ref(const lx_patch_dims *dims, const float *latent, float *rows)
{
    walk_ref(dims, CHANNEL_SLOWEST, latent, rows);
}

void lx_unpatchify_ref(const lx_patch_dims *dims, const float *rows, float *latent)
{
    walk_ref(dims, CHANNEL_FASTEST, rows, latent);
}
