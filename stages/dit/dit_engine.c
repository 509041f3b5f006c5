/*
 * dit_engine.c - a checkpoint on one device: what fits, what stays, and the memory for it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Choice    On a card the budget decides in this order: the chunk (4096 tokens, fewer where that is
 *           too much), two slots for blocks on their way, and with what is left as many blocks as
 *           fit stay; all of them, and no slots, if they do. A step of the 14B computes longer than
 *           its blocks travel, so a streamed block costs almost nothing. What the host's budget
 *           cannot hold is read from disk. What is left of the card then goes into larger chunks,
 *           where a large card's last wave of blocks would be a good part of a chunk, and into
 *           keeping what q, k and v read, which is otherwise made twice.
 * Measure   The plan is the code itself run dry, so it cannot drift from it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dit_model.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_tune.h"

#define CHUNK_CPU   2048 /* the FFN's hidden rows of the 14B are then 108 MiB */
#define CHUNK_CARD  4096
#define CHUNK_LEAST 512
#define WAVES       32 /* of attention's blocks in a chunk: the last one is 3 % then */
#define WAVE_TOKENS 128
#define SLOTS       2
#define KEY_SLOTS   2
#define RING        ((uint64_t)256 << 20)  /* pinned: four buffers of 64 MiB */
#define RING_DISK   ((uint64_t)1248 << 20) /* likewise, and 992 MiB to read ahead from disk */
#define KEY_RING    ((uint64_t)32 << 20)
#define SPARE       ((uint64_t)300 << 20) /* left to others of what is free on a card */
/* The driver's own memory for a process that multiplies: context, kernels, cuBLASLt's tables.
 * Measured 0.52 GiB on an H200 with driver 580 and CUDA 13.0. */
#define CONTEXT ((uint64_t)600 << 20)

/* --- layers ---------------------------------------------------------------------------------- */

static lx_layers main_layers(const dit_engine *e)
{
    return (lx_layers){.weights = e->main,
                       .extents = e->main_at,
                       .n_layers = e->model->dims.n_blocks,
                       .n_weights = DIT_MAIN_WEIGHTS};
}

static lx_layers key_layers(const dit_engine *e)
{
    return (lx_layers){.weights = e->keys,
                       .extents = e->keys_at,
                       .n_layers = e->model->dims.n_blocks,
                       .n_weights = DIT_KEYS_WEIGHTS};
}

/* Where the weights lie that are not in memory. */
static void find_extents(const dit *model, const lx_weight *weights, size_t n, lx_extent *out)
{
    for (size_t i = 0; i < n; i++)
        if (!weights[i].data)
            (void)lx_weights_extent(model->weights, weights[i].name, &out[i]);
}

static lx_status list_layers(dit_engine *e, lx_err *err)
{
    size_t n = (size_t)e->model->dims.n_blocks;
    e->main = calloc(n * DIT_MAIN_WEIGHTS, sizeof *e->main);
    e->keys = calloc(n * DIT_KEYS_WEIGHTS, sizeof *e->keys);
    e->main_at = calloc(n * DIT_MAIN_WEIGHTS, sizeof *e->main_at);
    e->keys_at = calloc(n * DIT_KEYS_WEIGHTS, sizeof *e->keys_at);
    if (!e->main || !e->keys || !e->main_at || !e->keys_at)
        return lx_fail(err, LX_EAGAIN, "out of memory for the list of %zu blocks", n);
    for (size_t i = 0; i < n; i++) {
        dit_block_list_main(&e->model->blocks[i], e->main + i * DIT_MAIN_WEIGHTS);
        dit_block_list_keys(&e->model->blocks[i], e->keys + i * DIT_KEYS_WEIGHTS);
    }
    find_extents(e->model, e->main, n * DIT_MAIN_WEIGHTS, e->main_at);
    find_extents(e->model, e->keys, n * DIT_KEYS_WEIGHTS, e->keys_at);
    return LX_OK;
}

static void free_layers(dit_engine *e)
{
    free(e->main);
    free(e->keys);
    free(e->main_at);
    free(e->keys_at);
}

/* --- memory ---------------------------------------------------------------------------------- */

/* A carried block is read from disk in every step. */
static bool reads_disk(const dit_memory *m)
{
    return m->n_on_disk > m->n_resident;
}

_Static_assert(LX_LIMIT_PINNED / 8 >= LX_RING_LEAST, "memory.pinned is enough for both rings");

static uint64_t key_ring(const dit_setup *setup)
{
    return setup->pinned && setup->pinned / 8 < KEY_RING ? setup->pinned / 8 : KEY_RING;
}

static uint64_t main_ring(const dit_setup *setup, const dit_memory *m)
{
    if (setup->pinned)
        return setup->pinned - key_ring(setup);
    return reads_disk(m) ? RING_DISK - KEY_RING : RING;
}

/* What stays on the device for the engine's life. */
static lx_status place_standing(dit_engine *e, const dit_setup *setup, const lx_progress *progress,
                                lx_err *err)
{
    lx_layers main = main_layers(e), keys = key_layers(e);
    lx_residency_plan blocks = {.n_resident = e->memory.n_resident,
                                .n_slots = SLOTS,
                                .ring_bytes = main_ring(setup, &e->memory)};
    lx_residency_plan once = {
        .n_slots = KEY_SLOTS, .ring_bytes = key_ring(setup), .first_event = LX_RESIDENCY_EVENTS};
    DIT_TRY(dit_linear_place(&e->x, &e->model->patch, &e->patch, err));
    DIT_TRY(dit_linear_place(&e->x, &e->model->head, &e->head, err));
    DIT_TRY(lx_weight_place(&e->x, &e->model->head_modulation, &e->head_modulation, err));
    DIT_TRY(lx_residency_open(&e->blocks, &e->x, &main, &blocks, progress, err));
    return lx_residency_open(&e->key_parts, &e->x, &keys, &once, NULL, err);
}

/* All of a job, dry. lcm needs a little more than euler. */
static lx_status dry_job(dit_engine *e, const dit_setup *setup, lx_err *err)
{
    dit_schedule schedule;
    dit_schedule_default(&schedule);
    dit_request request = {.latent = setup->largest,
                           .n_context = e->model->options.text_len,
                           .schedule = &schedule,
                           .sampler = LX_SAMPLER_LCM,
                           .run = setup->run};
    return dit_denoise_all(e, &request, NULL, err);
}

/* e->memory.n_resident and chunk are chosen: fill in the rest. */
static lx_status measure(dit_engine *e, const lx_card_kind *card, const dit_setup *setup,
                         lx_err *err)
{
    lx_status status = lx_arena_create_dry(&e->arena, err);
    e->host = e->arena;
    if (status == LX_OK && card)
        status = lx_arena_create_dry(&e->host, err);
    if (status == LX_OK)
        status = card ? lx_exec_plan_cuda(&e->x, card, e->arena, e->host, err)
                      : lx_exec_open_cpu(&e->x, e->arena, setup->n_threads, err);
    e->x.sums = e->memory.sums;
    if (status == LX_OK)
        status = place_standing(e, setup, NULL, err);
    dit_memory *m = &e->memory;
    m->weights = status == LX_OK ? lx_arena_mark(e->arena) : 0;
    if (status == LX_OK)
        status = dry_job(e, setup, err);
    if (status == LX_OK) {
        lx_layers main = main_layers(e), keys = key_layers(e);
        uint64_t slot = lx_residency_slot_bytes(&main), all = lx_arena_peak(e->arena);
        int64_t carried = card ? m->n_blocks - m->n_resident : 0;
        m->slots = card ? KEY_SLOTS * lx_residency_slot_bytes(&keys) : 0;
        m->slots += (uint64_t)(carried < SLOTS ? carried : SLOTS) * slot;
        m->activations = all - m->weights;
        m->weights -= m->slots;
        m->host = card ? lx_arena_peak(e->host) : 0;
        m->pinned = card ? key_ring(setup) : 0;
        m->pinned += carried ? main_ring(setup, m) : 0;
        m->context = card ? CONTEXT : 0;
        m->beside = card ? setup->beside : 0;
        m->total = all + m->context + m->beside;
    }
    return status;
}

static void let_go(dit_engine *e)
{
    lx_residency_close(&e->blocks);
    lx_residency_close(&e->key_parts);
    if (e->host != e->arena)
        lx_arena_destroy(&e->host);
    lx_arena_destroy(&e->arena);
    e->host = NULL;
}

/* One choice, measured in an engine of its own. */
static lx_status try_choice(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                            const dit_memory *choice, dit_memory *out, lx_err *err)
{
    dit_engine e = {.model = model, .memory = *choice};
    lx_status status = list_layers(&e, err);
    if (status == LX_OK)
        status = measure(&e, card, setup, err);
    if (status == LX_OK)
        *out = e.memory;
    let_go(&e);
    if (card)
        lx_exec_plan_done(&e.x);
    free_layers(&e);
    return status;
}

/* The most blocks that may stay within the budget. *out fits on success. */
static lx_status fill_card(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                           dit_memory *out, lx_err *err)
{
    dit_memory choice = *out, all;
    choice.n_resident = choice.n_blocks;
    DIT_TRY(try_choice(model, card, setup, &choice, &all, err));
    if (all.total <= setup->vram) {
        *out = all;
        return LX_OK;
    }
    /* *out fits and `all` does not. *out has slots, so this is less than a block takes, and the
     * search begins at too many. */
    uint64_t block = (all.total - out->total) / (uint64_t)choice.n_blocks;
    uint64_t most = block ? (setup->vram - out->total) / block : (uint64_t)choice.n_blocks;
    choice.n_resident = choice.n_blocks - 1;
    if (most < (uint64_t)choice.n_resident)
        choice.n_resident = (int64_t)most;
    for (; choice.n_resident > 0; choice.n_resident--) {
        dit_memory some;
        DIT_TRY(try_choice(model, card, setup, &choice, &some, err));
        if (some.total <= setup->vram) {
            *out = some;
            return LX_OK;
        }
    }
    return LX_OK;
}

/* --- the host's part -------------------------------------------------------------------------- */

bool dit_is_on_disk(const dit_memory *m, int64_t i)
{
    /* The host's copy of a block that stays on the card is read once. */
    int64_t unused = m->n_on_disk < m->n_resident ? m->n_on_disk : m->n_resident;
    if (i < m->n_resident)
        return i < unused;
    int64_t carried = m->n_blocks - m->n_resident, n = m->n_on_disk - unused;
    int64_t k = i - m->n_resident;
    return (k + 1) * n / carried > k * n / carried;
}

/* m->n_on_disk is chosen: fill in what follows from it. */
static void count_host(const dit *model, const dit_setup *setup, dit_memory *m)
{
    m->host_weights = lx_weights_bytes(model->weights);
    m->disk_step = 0;
    for (int64_t i = 0; i < m->n_blocks; i++) {
        uint64_t all, step;
        if (!dit_is_on_disk(m, i))
            continue;
        dit_disk_bytes(model, i, &all, &step);
        m->host_weights -= all;
        m->disk_step += i < m->n_resident ? 0 : step;
    }
    m->pinned = key_ring(setup) + (m->n_resident < m->n_blocks ? main_ring(setup, m) : 0);
}

static bool fits_host(const dit_setup *setup, const dit_memory *m)
{
    return !setup->ram || m->host_weights + m->host + m->pinned <= setup->ram;
}

/* As few blocks on disk as the host's budget allows. */
static lx_status fill_host(const dit *model, const dit_setup *setup, dit_memory *m, lx_err *err)
{
    char needs[32], has[32];
    bool is_disk = setup->residency == LX_RESIDENCY_DISK;
    int64_t most = setup->residency == LX_RESIDENCY_HOST ? 0 : m->n_blocks;
    m->n_on_disk = is_disk ? m->n_blocks : 0;
    count_host(model, setup, m);
    while (m->n_on_disk < most && !fits_host(setup, m)) {
        m->n_on_disk++;
        count_host(model, setup, m);
    }
    if (fits_host(setup, m))
        return LX_OK;
    return lx_fail(err, LX_EAGAIN,
                   "the DiT needs %s of host memory with %" PRId64 " of %" PRId64
                   " blocks on disk, %s are allowed%s",
                   lx_bytes_text(m->host_weights + m->host + m->pinned, needs, sizeof needs),
                   m->n_on_disk, m->n_blocks, lx_bytes_text(setup->ram, has, sizeof has),
                   most ? "" : ": residency: disk or auto");
}

/* --- a plan ----------------------------------------------------------------------------------- */

/* Blocks that must stay on the card, whatever else is chosen. */
static int64_t fewest_resident(const dit_setup *setup, int64_t n_blocks)
{
    if (setup->residency == LX_RESIDENCY_RESIDENT)
        return n_blocks;
    if (setup->residency != LX_RESIDENCY_PARTIAL)
        return 0;
    return setup->n_resident < n_blocks ? setup->n_resident : n_blocks;
}

/* One more wish, granted if it fits. */
static lx_status try_wish(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                          const dit_memory *wish, dit_memory *found, bool *fits, lx_err *err)
{
    dit_memory got;
    DIT_TRY(try_choice(model, card, setup, wish, &got, err));
    *fits = got.total <= setup->vram;
    if (*fits)
        *found = got;
    return LX_OK;
}

static lx_status use_rest(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                          dit_memory *found, lx_err *err)
{
    const lx_patch_dims *d = &setup->largest;
    const int64_t tokens = d->t * (d->h / 2) * (d->w / 2);
    const int64_t enough = (int64_t)WAVES * WAVE_TOKENS * card->n_sm / model->dims.n_heads;
    dit_memory wish = *found;
    bool fits = found->chunk >= CHUNK_CARD;
    while (fits && found->chunk < enough && found->chunk < tokens) {
        wish.chunk = 2 * found->chunk;
        DIT_TRY(try_wish(model, card, setup, &wish, found, &fits, err));
    }
    wish = *found;
    wish.keeps_normed = true;
    return try_wish(model, card, setup, &wish, found, &fits, err);
}

static lx_status plan_card(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                           dit_memory *choice, lx_err *err)
{
    char needs[32], has[32];
    dit_memory found = {0};
    const lx_residency_choice residency = setup->residency;
    bool may_choose = choice->chunk == 0;
    choice->chunk = may_choose ? CHUNK_CARD : choice->chunk;
    choice->n_resident = fewest_resident(setup, choice->n_blocks);
    DIT_TRY(try_choice(model, card, setup, choice, &found, err));
    while (found.total > setup->vram && may_choose && choice->chunk > CHUNK_LEAST) {
        choice->chunk /= 2;
        DIT_TRY(try_choice(model, card, setup, choice, &found, err));
    }
    if (found.total > setup->vram)
        return lx_fail(err, LX_EAGAIN,
                       "this clip needs %s of device memory with %" PRId64 " of %" PRId64
                       " blocks on the card, %s are allowed: %s",
                       lx_bytes_text(found.total, needs, sizeof needs), choice->n_resident,
                       choice->n_blocks, lx_bytes_text(setup->vram, has, sizeof has),
                       choice->n_resident ? "residency: auto"
                                          : "fewer frames, then a smaller size");
    if (residency == LX_RESIDENCY_AUTO ||
        (residency == LX_RESIDENCY_PARTIAL && setup->n_resident == 0))
        DIT_TRY(fill_card(model, card, setup, &found, err));
    if (may_choose)
        DIT_TRY(use_rest(model, card, setup, &found, err));
    *choice = found;
    return fill_host(model, setup, choice, err);
}

lx_status dit_plan(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                   dit_memory *out, lx_err *err)
{
    dit_memory choice = {.n_blocks = model->dims.n_blocks, .chunk = model->options.chunk};
    lx_status status = dit_choose_attention(model, card, setup, &choice, err);
    if (status != LX_OK)
        return status;
    if (card) {
        status = plan_card(model, card, setup, &choice, err);
    } else if (setup->residency == LX_RESIDENCY_DISK) {
        return lx_fail(err, LX_ECONFIG,
                       "residency: disk is for a card; on the CPU all blocks are in memory");
    } else {
        choice.chunk = choice.chunk ? choice.chunk : CHUNK_CPU;
        status = try_choice(model, NULL, setup, &choice, &choice, err);
        choice.host_weights = lx_weights_bytes(model->weights);
    }
    if (status == LX_OK)
        *out = choice;
    return status;
}

/* --- opening --------------------------------------------------------------------------------- */

/* Everything but the device's memory. */
static lx_status prepare_card(dit_engine *e, const dit_setup *setup, int index, lx_err *err)
{
    dit_setup known = *setup;
    uint64_t before, total;
    DIT_TRY(lx_cuda_open(&e->cuda, index, NULL, err));
    lx_cuda_tune(e->cuda);
    DIT_TRY(lx_cuda_memory(e->cuda, &before, &total, err));
    if (!known.vram)
        known.vram = before > SPARE ? before - SPARE + CONTEXT : 0;
    return dit_plan(e->model, lx_cuda_card(e->cuda), &known, &e->memory, err);
}

static lx_status prepare_host(dit_engine *e, const dit_setup *setup, lx_err *err)
{
    char needed[32], allowed[32];
    DIT_TRY(dit_plan(e->model, NULL, setup, &e->memory, err));
    if (setup->vram && e->memory.total > setup->vram)
        return lx_fail(err, LX_EAGAIN, "this clip needs %s, %s are allowed",
                       lx_bytes_text(e->memory.total, needed, sizeof needed),
                       lx_bytes_text(setup->vram, allowed, sizeof allowed));
    return LX_OK;
}

static lx_status open_exec(dit_engine *e, lx_err *err)
{
    const dit_memory *m = &e->memory;
    if (!e->cuda) {
        DIT_TRY(lx_arena_create(&e->arena, (size_t)m->total, err));
        e->host = e->arena;
        return lx_exec_open_cpu(&e->x, e->arena, e->setup.n_threads, err);
    }
    DIT_TRY(lx_cuda_arena(e->cuda, (size_t)(m->total - m->context - m->beside), &e->arena, err));
    DIT_TRY(lx_arena_create(&e->host, (size_t)m->host, err));
    lx_status status = lx_exec_open_cuda(&e->x, e->cuda, e->arena, e->host, err);
    e->x.sums = m->sums;
    return status;
}

lx_status dit_engine_take(dit_engine *e, const lx_progress *progress, lx_err *err)
{
    lx_status status = open_exec(e, err);
    if (status == LX_OK)
        status = place_standing(e, &e->setup, progress, err);
    if (status != LX_OK)
        let_go(e);
    return status;
}

void dit_engine_give(dit_engine *e)
{
    let_go(e);
}

static lx_status open_engine(dit_engine *e, dit *model, const dit_setup *setup,
                             const lx_progress *progress, lx_err *err)
{
    int index;
    e->setup = *setup;
    DIT_TRY(lx_device_find(&index, setup->device ? setup->device : "cpu", err));
    DIT_TRY(index >= 0 ? prepare_card(e, setup, index, err) : prepare_host(e, setup, err));
    if (!model->options.is_header_only) { /* all was read already */
        e->memory.n_on_disk = 0;
        e->memory.host_weights = lx_weights_bytes(model->weights);
    }
    DIT_TRY(dit_read(model, &e->memory, progress, err));
    DIT_TRY(list_layers(e, err));
    DIT_TRY(dit_time_take(e, err));
    return setup->is_deferred ? LX_OK : dit_engine_take(e, progress, err);
}

lx_status dit_engine_open(dit_engine **out, dit *model, const dit_setup *setup,
                          const lx_progress *progress, lx_err *err)
{
    dit_engine *e = calloc(1, sizeof *e);
    if (!e)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of an engine");
    e->model = model;
    lx_status status = open_engine(e, model, setup, progress, err);
    if (status != LX_OK)
        dit_engine_close(&e);
    else
        *out = e;
    return status;
}

void dit_engine_close(dit_engine **engine)
{
    if (!engine || !*engine)
        return;
    let_go(*engine);
    lx_cuda_close(&(*engine)->cuda);
    free_layers(*engine);
    free((*engine)->time.values);
    free(*engine);
    *engine = NULL;
}

const dit_memory *dit_engine_memory(const dit_engine *engine)
{
    return &engine->memory;
}

lx_exec *dit_engine_exec(dit_engine *engine)
{
    return &engine->x;
}

void dit_engine_stats(const dit_engine *engine, lx_residency_stats *out)
{
    lx_residency_stats_of(engine->blocks, out);
}
