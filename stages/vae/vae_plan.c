/*
 * vae_plan.c - how much memory a clip takes, and the tile that makes it fit
 * SPDX-License-Identifier: Apache-2.0
 */
#include <unistd.h>

#include "lx_process.h"
#include "vae.h"

/* Less than this is nearly all halo: 7 latents on each side of it. */
enum { TILE_MIN = 8 };

lx_status vae_job_memory(lx_exec *x, const vae_clip *clip, float **latent, uint8_t **i420,
                         lx_err *err)
{
    uint64_t elements, bytes;
    void *memory = NULL;
    lx_shape shape = LX_SHAPE(LX_LATENT_CHANNELS, clip->frames, clip->height, clip->width);
    VAE_TRY(lx_shape_bytes(&shape, LX_DTYPE_F32, &elements, &bytes, err));
    VAE_TRY(lx_arena_take_f32(x->arena, elements, latent, err));
    if (clip->tile_h) {
        shape = LX_SHAPE(vae_frame_count(clip->frames), clip->height * LX_VAE_STRIDE * 3 / 2,
                         clip->width * LX_VAE_STRIDE);
        VAE_TRY(lx_shape_bytes(&shape, LX_DTYPE_U8, &elements, &bytes, err));
        VAE_TRY(lx_arena_take(x->arena, (size_t)bytes, &memory, err));
    }
    *i420 = memory;
    return LX_OK;
}

static lx_status dry_decode(const lx_weights *weights, const vae_options *o, const vae_clip *clip,
                            lx_arena *arena, vae_plan *out, lx_err *err)
{
    lx_exec x;
    vae_decoder *decoder = NULL;
    float *latent = NULL;
    uint8_t *i420;
    VAE_TRY(lx_exec_open_cpu(&x, arena, o->threads, err));
    lx_status status = vae_decoder_load(&decoder, &x, weights, err);
    out->weight_bytes = lx_arena_mark(arena);
    if (status == LX_OK && o->lends)
        status = vae_job_memory(&x, clip, &latent, &i420, err);
    if (status == LX_OK)
        status = vae_decode(decoder, &x, clip, latent, NULL, NULL, err);
    out->total_bytes = lx_arena_peak(arena);
    out->tile_h = clip->tile_h;
    out->tile_w = clip->tile_w;
    vae_decoder_destroy(&decoder);
    return status;
}

/* Dry-run one way to decode; *out is only written on success. */
static lx_status measure(const lx_weights *weights, const vae_options *o, const vae_clip *clip,
                         vae_plan *out, lx_err *err)
{
    vae_plan plan, turned = {0};
    lx_arena *arena = NULL;
    VAE_TRY(lx_arena_create_dry(&arena, err));
    lx_status status = dry_decode(weights, o, clip, arena, &plan, err);
    lx_arena_destroy(&arena);
    if (status == LX_OK && o->turns && clip->height != clip->width) {
        vae_clip other = *clip;
        other.height = clip->width;
        other.width = clip->height;
        VAE_TRY(lx_arena_create_dry(&arena, err));
        status = dry_decode(weights, o, &other, arena, &turned, err);
        lx_arena_destroy(&arena);
    }
    if (status != LX_OK)
        return status;
    if (turned.total_bytes > plan.total_bytes)
        plan.total_bytes = turned.total_bytes;
    *out = plan;
    return LX_OK;
}

/* Fixed by the machine and not by what happens to be free, so that a restart plans the same. */
static uint64_t half_of_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : UINT64_MAX;
}

static uint64_t needed(const vae_options *o, const vae_plan *plan)
{
    bool counts_weights = o->budget_has_weights || !o->budget;
    return plan->total_bytes - (counts_weights ? 0 : plan->weight_bytes);
}

/* Halve the longer side; false if nothing is left to halve. */
static bool smaller_tile(vae_clip *clip)
{
    int64_t h = clip->tile_h ? clip->tile_h : clip->height;
    int64_t w = clip->tile_w ? clip->tile_w : clip->width;
    if (h <= TILE_MIN && w <= TILE_MIN)
        return false;
    if (w >= h)
        w = (w + 1) / 2;
    else
        h = (h + 1) / 2;
    clip->tile_h = h;
    clip->tile_w = w;
    return true;
}

lx_status vae_plan_memory(const lx_weights *weights, const vae_options *o, vae_plan *out,
                          lx_err *err)
{
    vae_clip clip = o->largest;
    vae_plan plan;
    bool may_choose = clip.tile_h == 0;
    uint64_t budget = o->budget ? o->budget : half_of_memory();
    VAE_TRY(measure(weights, o, &clip, &plan, err));
    while (needed(o, &plan) > budget && may_choose && smaller_tile(&clip))
        VAE_TRY(measure(weights, o, &clip, &plan, err));
    char all[24], fixed[24], allowed[24];
    if (needed(o, &plan) > budget)
        return lx_fail(
            err, LX_EAGAIN,
            "decoding %lld frames of %lldx%lld does not fit: %s%s are needed (%s of weights in "
            "all), %s are allowed%s",
            (long long)vae_frame_count(clip.frames), (long long)(clip.width * LX_VAE_STRIDE),
            (long long)(clip.height * LX_VAE_STRIDE),
            may_choose ? "even in the smallest tiles " : "with tiles as asked ",
            lx_bytes_text(needed(o, &plan), all, sizeof all),
            lx_bytes_text(plan.weight_bytes, fixed, sizeof fixed),
            lx_bytes_text(budget, allowed, sizeof allowed),
            o->budget ? "" : " (half of this machine's memory)");
    *out = plan;
    return LX_OK;
}
