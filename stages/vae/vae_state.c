/*
 * vae_state.c - the two frames that each causal convolution remembers
 * SPDX-License-Identifier: Apache-2.0
 *
 * The memory of a decode is mostly this: at 832x480 with full widths 3.6 of about 5 GiB, two thirds
 * of it at full resolution. It grows with the tile's area, which is why tiling bounds memory.
 */
#include <string.h>

#include "vae_model.h"

static lx_status block_take(lx_exec *x, const vae_block *block, int64_t height, int64_t width,
                            vae_block_state *out, lx_err *err)
{
    lx_status status = lx_history_take(x, height, width, block->c_in, out->a, err);
    if (status == LX_OK)
        status = lx_history_take(x, height, width, block->c_out, out->b, err);
    return status;
}

lx_status vae_trunk_state_take(const vae_decoder *m, lx_exec *x, int64_t height, int64_t width,
                               vae_trunk_state *out, lx_err *err)
{
    out->seen = 0;
    lx_status status = lx_history_take(x, height, width, m->conv1.c_in, out->conv1, err);
    for (int i = 0; i < 2 && status == LX_OK; i++)
        status = block_take(x, &m->middle[i], height, width, &out->middle[i], err);
    for (int i = 0; i < VAE_BLOCKS && status == LX_OK; i++)
        status = block_take(x, &m->block[0][i], height, width, &out->block[i], err);
    return status;
}

lx_status vae_up_state_take(const vae_decoder *m, lx_exec *x, int64_t height, int64_t width,
                            vae_up_state *out, lx_err *err)
{
    lx_status status = LX_OK;
    memset(out->seen, 0, sizeof out->seen);
    for (int s = 0; s < VAE_STAGES && status == LX_OK; s++, height *= 2, width *= 2) {
        if (s < VAE_TIME_UPS)
            status = lx_history_take(x, height, width, m->up[s].even.c_in, out->time[s], err);
        for (int i = 0; i < VAE_BLOCKS && s > 0 && status == LX_OK; i++)
            status = block_take(x, &m->block[s][i], height, width, &out->block[s][i], err);
        if (s == VAE_STAGES - 1 && status == LX_OK)
            status = lx_history_take(x, height, width, m->head.c_in, out->head, err);
        if (s == VAE_STAGES - 1 && status == LX_OK)
            status = lx_image_take(x, 1, height, width, m->head.c_in, &out->spare, err);
    }
    return status;
}
