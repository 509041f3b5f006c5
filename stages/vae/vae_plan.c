/*
 * vae_plan.c - how much memory a clip takes, and the tile that makes it fit
 * SPDX-License-Identifier: Apache-2.0
 *
 * Choice    Whole frames if they fit; on a card in pieces of 2, 1, 1 frames, then 1, 1, 1 (which
 *           leave multiprocessors idle, but less than a halo costs); then grids of tiles in the
 *           order of how many pixels they decode, halos counted.
 */
#include <inttypes.h>
#include <unistd.h>

#include "lx_process.h"
#include "vae.h"

/* Less than this is nearly all halo: 7 latents on each side of it. */
enum { TILE_MIN = 8 };

#define CARD_BUDGET (((uint64_t)11 << 28) - VAE_CONTEXT) /* 2.75 GiB for the process */

static lx_status take_u8(lx_arena *arena, const lx_shape *shape, uint8_t **out, lx_err *err)
{
    uint64_t elements, bytes;
    void *memory = NULL;
    VAE_TRY(lx_shape_bytes(shape, LX_DTYPE_U8, &elements, &bytes, err));
    VAE_TRY(lx_arena_take(arena, (size_t)bytes, &memory, err));
    *out = memory;
    return LX_OK;
}

/* I420 of the clip or of a chunk, as vae_room says. */
static lx_status take_i420(lx_exec *x, const vae_clip *clip, vae_room *out, lx_err *err)
{
    int64_t chunk = clip->chunk < clip->frames ? clip->chunk : clip->frames;
    int64_t frames = clip->tile_h ? vae_frame_count(clip->frames) : 2 * chunk * LX_VAE_STRIDE_TIME;
    lx_shape shape =
        LX_SHAPE(frames, clip->height * LX_VAE_STRIDE * 3 / 2, clip->width * LX_VAE_STRIDE);
    if (!clip->tile_h && lx_exec_is_host(x))
        return LX_OK;
    VAE_TRY(take_u8(x->arena, &shape, &out->i420, err));
    VAE_TRY(lx_shape_bytes(&shape, LX_DTYPE_U8, NULL, &out->i420_bytes, err));
    out->i420_bytes /= 2;
    return LX_OK;
}

/* One frame of a tile, or of all, in both kinds of planes and in both memories. */
static lx_status take_planes(lx_exec *x, const vae_clip *clip, vae_room *out, lx_err *err)
{
    int64_t h = clip->tile_h && clip->tile_h < clip->height ? clip->tile_h : clip->height;
    int64_t w = clip->tile_w && clip->tile_w < clip->width ? clip->tile_w : clip->width;
    lx_shape shape = LX_SHAPE(3, h * LX_VAE_STRIDE, w * LX_VAE_STRIDE);
    uint64_t elements, bytes;
    VAE_TRY(lx_shape_bytes(&shape, LX_DTYPE_F32, &elements, &bytes, err));
    VAE_TRY(lx_arena_take_f32(x->arena, elements, &out->planes, err));
    VAE_TRY(lx_arena_take_f32(x->host, elements, &out->planes_host, err));
    VAE_TRY(take_u8(x->arena, &shape, &out->rgb8, err));
    return take_u8(x->host, &shape, &out->rgb8_host, err);
}

lx_status vae_room_take(lx_exec *x, const vae_clip *clip, bool lends, vae_room *out, lx_err *err)
{
    uint64_t elements;
    vae_room room = {0};
    lx_shape shape = LX_SHAPE(LX_LATENT_CHANNELS, clip->frames, clip->height, clip->width);
    VAE_TRY(lx_shape_bytes(&shape, LX_DTYPE_F32, &elements, &room.latent_bytes, err));
    if (lends || !lx_exec_is_host(x))
        VAE_TRY(lx_arena_take_f32(x->arena, elements, &room.latent, err));
    if (lends)
        VAE_TRY(take_i420(x, clip, &room, err));
    else if (!lx_exec_is_host(x))
        VAE_TRY(take_planes(x, clip, &room, err));
    *out = room;
    return LX_OK;
}

/* --- measuring ------------------------------------------------------------------------------- */

static lx_status dry_decode(const lx_weights *weights, const vae_options *o, const vae_clip *clip,
                            lx_exec *x, vae_plan *out, lx_err *err)
{
    vae_decoder *decoder = NULL;
    vae_room room = {0};
    float nothing = 0;
    lx_status status = vae_decoder_load(&decoder, x, weights, err);
    out->weight_bytes = lx_arena_mark(x->arena);
    if (status == LX_OK)
        status = vae_room_take(x, clip, o->lends, &room, err);
    if (status == LX_OK)
        status =
            vae_decode(decoder, x, clip, room.latent ? room.latent : &nothing, NULL, NULL, err);
    out->total_bytes = lx_arena_peak(x->arena);
    if (!lx_exec_is_host(x)) {
        out->host_bytes = lx_arena_peak(x->host);
        out->total_bytes += o->lends ? 0 : LX_IMAGE_SLICE; /* to look at layers and frames */
    }
    vae_decoder_destroy(&decoder);
    return status;
}

/* F16 where the card adds F32 at half rate: what these sums lose is less than what is gained by the
 * images' F16, which otherwise are BF16 (conv.c; tests/gpu/test_cuda_vae.c). */
static lx_status choose_sums(lx_accumulate_choice asked, const lx_card_kind *card, lx_sums *out,
                             lx_err *err)
{
    bool is_short = asked == LX_ACCUMULATE_FP16 ||
                    (asked == LX_ACCUMULATE_AUTO && card && lx_card_has_slow_f32_sums(card));
    *out = is_short ? LX_SUMS_F16 : LX_SUMS_F32;
    if (card || !is_short)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "accumulate: fp16 is for a card; on the CPU sums are fp32: fp32, or auto");
}

static lx_status measure_clip(const lx_weights *weights, const vae_options *o,
                              const lx_card_kind *card, const vae_clip *clip, vae_plan *out,
                              lx_err *err)
{
    lx_arena *arena = NULL, *host = NULL;
    lx_exec x = {0};
    vae_plan plan = {.piece = clip->piece, .tile_h = clip->tile_h, .tile_w = clip->tile_w};
    lx_status status = choose_sums(o->accumulate, card, &plan.sums, err);
    if (status == LX_OK)
        status = lx_arena_create_dry(&arena, err);
    if (status == LX_OK && card)
        status = lx_arena_create_dry(&host, err);
    if (status == LX_OK)
        status = card ? lx_exec_plan_cuda(&x, card, arena, host, err)
                      : lx_exec_open_cpu(&x, arena, o->threads, err);
    x.sums = plan.sums;
    if (status == LX_OK)
        status = dry_decode(weights, o, clip, &x, &plan, err);
    if (card)
        lx_exec_plan_done(&x);
    lx_arena_destroy(&host);
    lx_arena_destroy(&arena);
    if (status == LX_OK)
        *out = plan;
    return status;
}

vae_clip vae_turned(const vae_clip *clip)
{
    vae_clip out = *clip;
    out.height = clip->width;
    out.width = clip->height;
    out.tile_h = clip->tile_w;
    out.tile_w = clip->tile_h;
    return out;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Dry-run one way to decode; *out is only written on success. */
static lx_status measure(const lx_weights *weights, const vae_options *o, const lx_card_kind *card,
                         const vae_clip *clip, vae_plan *out, lx_err *err)
{
    vae_plan plan, turned = {0};
    vae_clip other = vae_turned(clip);
    VAE_TRY(measure_clip(weights, o, card, clip, &plan, err));
    if (o->turns && clip->height != clip->width)
        VAE_TRY(measure_clip(weights, o, card, &other, &turned, err));
    plan.total_bytes = larger(plan.total_bytes, turned.total_bytes);
    plan.host_bytes = larger(plan.host_bytes, turned.host_bytes);
    *out = plan;
    return LX_OK;
}

/* Fixed by the machine and not by what happens to be free, so that a restart plans the same. */
static uint64_t half_of_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : UINT64_MAX;
}

static uint64_t budget_of(const vae_options *o, const lx_card_kind *card)
{
    return o->budget ? o->budget : card ? CARD_BUDGET : half_of_memory();
}

static uint64_t needed(const vae_options *o, const lx_card_kind *card, const vae_plan *plan)
{
    bool counts_weights = card || o->budget_has_weights || !o->budget;
    return plan->total_bytes - (counts_weights ? 0 : plan->weight_bytes);
}

/* --- choosing -------------------------------------------------------------------------------- */

typedef struct grid {
    int64_t tile_h, tile_w; /* 0 x 0: no tiles */
    int64_t cost;           /* latents decoded, halos counted */
    int64_t area;           /* of the largest tile with its halo */
} grid;

/* A side in n tiles: the tile's size; how many latents are decoded along it in all, and at most. */
static int64_t cut(int64_t side, int64_t n, int64_t *all, int64_t *most)
{
    int64_t tile = (side + n - 1) / n;
    *all = *most = 0;
    for (int64_t at = 0; at < side; at += tile) {
        int64_t from = at > VAE_HALO ? at - VAE_HALO : 0;
        int64_t to = at + tile + VAE_HALO < side ? at + tile + VAE_HALO : side;
        *all += to - from;
        *most = to - from > *most ? to - from : *most;
    }
    return tile;
}

/* The cheapest grid of tiles smaller than `area`; false if there is none. */
static bool next_grid(const vae_clip *clip, int64_t area, grid *out)
{
    bool is_found = false;
    for (int64_t rows = 1; rows <= (clip->height - 1) / TILE_MIN + 1; rows++)
        for (int64_t columns = 1; columns <= (clip->width - 1) / TILE_MIN + 1; columns++) {
            int64_t all_h, most_h, all_w, most_w;
            grid g = {.tile_h = cut(clip->height, rows, &all_h, &most_h),
                      .tile_w = cut(clip->width, columns, &all_w, &most_w)};
            g.cost = all_h * all_w;
            g.area = most_h * most_w;
            if (rows * columns > 1 && g.area < area && (!is_found || g.cost < out->cost)) {
                *out = g;
                is_found = true;
            }
        }
    return is_found;
}

static grid whole_frames(const vae_clip *clip)
{
    return (grid){.area = clip->height * clip->width + 1};
}

static lx_status measure_grid(const lx_weights *weights, const vae_options *o,
                              const lx_card_kind *card, const grid *g, int64_t piece,
                              vae_plan *plan, lx_err *err)
{
    vae_clip clip = o->largest;
    clip.tile_h = g->tile_h;
    clip.tile_w = g->tile_w;
    clip.piece = card && !clip.piece ? piece : clip.piece;
    return measure(weights, o, card, &clip, plan, err);
}

/* Not always the smallest tiles: with tiles the whole clip's frames are kept beside them. */
lx_status vae_plan_least(const lx_weights *weights, const vae_options *o, const lx_card_kind *card,
                         vae_plan *out, lx_err *err)
{
    const vae_clip *clip = &o->largest;
    grid g = whole_frames(clip);
    g.tile_h = clip->tile_h;
    g.tile_w = clip->tile_w;
    vae_plan plan;
    VAE_TRY(measure_grid(weights, o, card, &g, 1, &plan, err));
    *out = plan;
    if (clip->tile_h || !next_grid(clip, g.area, &g))
        return LX_OK;
    while (next_grid(clip, g.area, &g))
        ;
    VAE_TRY(measure_grid(weights, o, card, &g, 1, &plan, err));
    if (plan.total_bytes < out->total_bytes)
        *out = plan;
    return LX_OK;
}

/* The way to decode in this grid, in pieces of 2 or 1. */
static lx_status try_grid(const lx_weights *weights, const vae_options *o, const lx_card_kind *card,
                          const grid *g, vae_plan *plan, lx_err *err)
{
    VAE_TRY(measure_grid(weights, o, card, g, 2, plan, err));
    if (needed(o, card, plan) > budget_of(o, card) && card && !o->largest.piece)
        return measure_grid(weights, o, card, g, 1, plan, err);
    return LX_OK;
}

/* The first way to decode that fits, in the order of cost; else *plan is what needs least. */
static lx_status choose(const lx_weights *weights, const vae_options *o, const lx_card_kind *card,
                        vae_plan *plan, lx_err *err)
{
    const vae_clip *clip = &o->largest;
    const uint64_t budget = budget_of(o, card);
    vae_plan least;
    grid g = whole_frames(clip);
    g.tile_h = clip->tile_h;
    g.tile_w = clip->tile_w;
    VAE_TRY(try_grid(weights, o, card, &g, plan, err));
    if (needed(o, card, plan) <= budget || clip->tile_h)
        return LX_OK;
    VAE_TRY(vae_plan_least(weights, o, card, &least, err));
    while (needed(o, card, &least) <= budget && needed(o, card, plan) > budget &&
           next_grid(clip, g.area, &g))
        VAE_TRY(try_grid(weights, o, card, &g, plan, err));
    if (needed(o, card, plan) > budget)
        *plan = least;
    return LX_OK;
}

static const char *at_the_least(const vae_clip *asked, const vae_plan *plan)
{
    if (asked->tile_h)
        return "with tiles as asked ";
    return plan->tile_h ? "even in the smallest tiles "
                        : "even in whole frames, which take least, ";
}

lx_status vae_plan_memory(const lx_weights *weights, const vae_options *o, const lx_card_kind *card,
                          vae_plan *out, lx_err *err)
{
    const vae_clip *clip = &o->largest;
    vae_plan plan = {0};
    uint64_t budget = budget_of(o, card);
    char all[24], fixed[24], allowed[24];
    VAE_TRY(choose(weights, o, card, &plan, err));
    if (needed(o, card, &plan) > budget)
        return lx_fail(err, LX_EAGAIN,
                       "decoding %" PRId64 " frames of %" PRId64 "x%" PRId64
                       " does not fit: %s%s are needed (%s of weights in all), %s are allowed%s",
                       vae_frame_count(clip->frames), clip->width * LX_VAE_STRIDE,
                       clip->height * LX_VAE_STRIDE, at_the_least(clip, &plan),
                       lx_bytes_text(needed(o, card, &plan), all, sizeof all),
                       lx_bytes_text(plan.weight_bytes, fixed, sizeof fixed),
                       lx_bytes_text(budget, allowed, sizeof allowed),
                       o->budget ? ""
                       : card    ? " (2.75 GiB with the driver's own)"
                                 : " (half of this machine's memory)");
    *out = plan;
    return LX_OK;
}
