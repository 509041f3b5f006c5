/*
 * encoder_plan.c - what an encoder needs: measured dry, and told by `lx2v-encoder plan`
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>

#include "cache.h"
#include "encoder.h"
#include "lx_cuda_share.h"
#include "lx_plan.h"
#include "lx_process.h"
#include "weights/lx_model_dir.h"

lx_status encoder_take_standing(encoder_cache *cache, lx_arena *host, const encoder_options *o,
                                int64_t dim, float **context, lx_err *err)
{
    lx_status status = encoder_cache_open(cache, host, o->cache_entries, o->max_tokens, dim, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(host, (uint64_t)o->max_tokens * (uint64_t)dim, context, err);
    return status;
}

/* Layers on their way to a card: one runs, the next one comes. */
#define SLOTS     2
#define RING      ((uint64_t)128 << 20)
#define RING_DISK ((uint64_t)512 << 20) /* a few layers are read ahead */

static uint64_t ring_bytes(const encoder_options *o)
{
    if (o->pinned)
        return o->pinned;
    return o->residency == LX_RESIDENCY_DISK ? RING_DISK : RING;
}

lx_status encoder_open_layers(lx_residency **out, lx_exec *x, const umt5 *model,
                              const encoder_memory *memory, const encoder_options *o, lx_err *err)
{
    const lx_layers layers = umt5_layers(model);
    const lx_residency_plan plan = {
        .n_resident = memory->n_resident, .n_slots = SLOTS, .ring_bytes = ring_bytes(o)};
    return lx_residency_open(out, x, &layers, &plan, o->progress, err);
}

/* Everything once: the highest marks are the plan. host NULL: the CPU, one arena. */
static lx_status run_dry(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                         lx_arena *device, lx_arena *host, encoder_memory *m, lx_err *err)
{
    lx_exec x = {0};
    encoder_cache cache;
    float *context;
    umt5_request request = {.n = o->max_tokens, .run = o->run};
    lx_status status = encoder_take_standing(&cache, host ? host : device, o, umt5_dims(model)->dim,
                                             &context, err);
    if (status == LX_OK)
        status = card ? lx_exec_plan_cuda(&x, card, device, host, err)
                      : lx_exec_open_cpu(&x, device, o->n_threads, err);
    if (status == LX_OK)
        status = encoder_open_layers(&request.layers, &x, model, m, o, err);
    if (status == LX_OK)
        status = umt5_encode(model, &x, &request, context, err);
    lx_residency_close(&request.layers);
    if (card)
        lx_exec_plan_done(&x);
    return status;
}

/* m->n_resident is chosen. */
static lx_status measure(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                         encoder_memory *m, lx_err *err)
{
    const lx_layers layers = umt5_layers(model);
    lx_arena *device = NULL, *host = NULL;
    lx_status status = lx_arena_create_dry(&device, err);
    if (status == LX_OK && card)
        status = lx_arena_create_dry(&host, err);
    if (status == LX_OK)
        status = run_dry(model, card, o, device, host, m, err);
    m->device = device ? lx_arena_peak(device) : 0;
    m->host = host ? lx_arena_peak(host) : 0;
    if (card) {
        const lx_layers kept = {
            .weights = layers.weights, .n_layers = m->n_resident, .n_weights = layers.n_weights};
        const int64_t carried = layers.n_layers - m->n_resident;
        m->weights = lx_residency_total_bytes(&kept);
        m->slots = (uint64_t)(carried < SLOTS ? carried : SLOTS) * lx_residency_slot_bytes(&layers);
        m->pinned = carried ? ring_bytes(o) : 0;
    }
    lx_arena_destroy(&host);
    lx_arena_destroy(&device);
    return status;
}

uint64_t encoder_lent_bytes(const umt5 *model, const encoder_options *o)
{
    uint64_t context = ENCODER_TEXT_LEN * (uint64_t)umt5_dims(model)->dim * sizeof(float);
    return o->is_lending ? lx_cuda_share_bytes(o->n_twins, context) : 0;
}

lx_status encoder_measure(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                          encoder_memory *out, lx_err *err)
{
    const int64_t n_layers = umt5_dims(model)->n_layers;
    encoder_memory m = {0};
    if (!card && o->residency == LX_RESIDENCY_DISK)
        return lx_fail(err, LX_ECONFIG,
                       "residency: disk is for a card; on the CPU all layers are in memory");
    bool is_resident = card && o->residency == LX_RESIDENCY_RESIDENT;
    bool is_partial = card && o->residency == LX_RESIDENCY_PARTIAL;
    m.n_resident = is_resident || is_partial ? n_layers : 0;
    lx_status status = measure(model, card, o, &m, err);
    const uint64_t lent = encoder_lent_bytes(model, o);
    while (status == LX_OK && is_partial && o->max_bytes && m.device + lent > o->max_bytes &&
           m.n_resident > 0) {
        m.n_resident--;
        status = measure(model, card, o, &m, err);
    }
    if (status == LX_OK)
        *out = m;
    return status;
}

/* --- lx2v-encoder plan ------------------------------------------------------------------------ */

static void say_how(lx_plan_need *need, const umt5 *model, const encoder_options *o,
                    const encoder_memory *m)
{
    const int64_t n = umt5_dims(model)->n_layers;
    if (m->n_resident == n)
        snprintf(need->how, sizeof need->how, "resident");
    else if (m->n_resident)
        snprintf(need->how, sizeof need->how, "partial: %" PRId64 " of %" PRId64 " layers resident",
                 m->n_resident, n);
    else
        snprintf(need->how, sizeof need->how, "%s: %" PRId64 " layers streamed",
                 o->residency == LX_RESIDENCY_DISK ? "disk" : "host", n);
}

static lx_status least_of(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                          uint64_t *out, lx_err *err)
{
    encoder_memory m;
    lx_status status = encoder_measure(model, card, o, &m, err);
    if (status == LX_OK)
        *out = m.device + encoder_lent_bytes(model, o) + LX_PLAN_CONTEXT;
    return status;
}

static lx_status answer_card(lx_plan_need *need, const umt5 *model, const lx_plan_question *q,
                             const encoder_options *o, lx_err *err)
{
    const lx_card_kind card = lx_card_of_plan(q);
    encoder_memory memory, on_host;
    encoder_options least = *o, host = *o;
    char needs[32], has[32];
    lx_status status = encoder_measure(model, &card, o, &memory, err);
    if (o->residency == LX_RESIDENCY_PARTIAL) /* otherwise what was asked for is the least */
        least.residency = LX_RESIDENCY_HOST;
    host.residency = LX_RESIDENCY_AUTO;
    if (status == LX_OK)
        status = encoder_measure(model, NULL, &host, &on_host, err);
    if (status == LX_OK)
        status = least_of(model, &card, &least, &need->least, err);
    if (status != LX_OK)
        return status;
    say_how(need, model, o, &memory);
    need->weights = memory.weights;
    need->slots = memory.slots;
    need->activations = memory.device - need->slots - need->weights;
    need->context = LX_PLAN_CONTEXT + encoder_lent_bytes(model, o);
    need->device = memory.device + need->context;
    need->host = memory.host;
    need->pinned = memory.pinned;
    need->fits = !q->vram || need->device <= q->vram;
    if (!need->fits)
        snprintf(need->advice, sizeof need->advice,
                 "the encoder needs %s on this card (%s), %s are allowed: device: cpu",
                 lx_bytes_text(need->device, needs, sizeof needs), need->how,
                 lx_bytes_text(q->vram, has, sizeof has));
    need->choice[need->n_choices++] =
        (lx_plan_choice){.what = "device: cpu", .host = on_host.device, .fits = true};
    return LX_OK;
}

static lx_status answer_host(lx_plan_need *need, const umt5 *model, const encoder_options *o,
                             lx_err *err)
{
    encoder_memory memory;
    lx_status status = encoder_measure(model, NULL, o, &memory, err);
    if (status != LX_OK)
        return status;
    snprintf(need->how, sizeof need->how, "host memory");
    need->activations = need->host = memory.device;
    need->fits = true;
    return LX_OK;
}

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, const lx_config *config,
                        lx_err *err)
{
    static lx_model_paths paths; /* 16 KiB */
    umt5 *model = NULL;
    encoder_options options = {.max_tokens = ENCODER_TEXT_LEN};
    lx_status status = lx_model_of_config(&paths, config, err);
    if (status == LX_OK)
        status = umt5_open_headers(&model, paths.text, err);
    if (status != LX_OK)
        return status;
    const lx_replica_config *replica = &config->stage[LX_STAGE_ENCODER].replica[q->replica];
    options.cache_entries = config->encoder.cache_entries;
    options.residency = replica->residency;
    options.is_lending = true;
    options.n_twins = lx_stage_wants_twins(config, LX_STAGE_ENCODER) ? config->links.depth : 0;
    options.pinned = config->memory.pinned;
    if (q->is_card && q->vram)
        options.max_bytes = q->vram > LX_PLAN_CONTEXT ? q->vram - LX_PLAN_CONTEXT : 1;
    need->host_weights = lx_weights_bytes(umt5_weights(model));
    need->shared = (uint64_t)config->links.depth * ENCODER_TEXT_LEN *
                   (uint64_t)umt5_dims(model)->dim * sizeof(float);
    status = q->is_card ? answer_card(need, model, q, &options, err)
                        : answer_host(need, model, &options, err);
    if (q->is_card && options.residency == LX_RESIDENCY_DISK)
        need->disk_bytes = umt5_disk_bytes(model);
    need->host_weights -= need->disk_bytes;
    uint64_t host = need->host_weights + need->host + need->pinned + need->shared;
    if (status == LX_OK && q->ram && host > q->ram) {
        char needs[32], has[32];
        need->fits = false;
        snprintf(need->advice, sizeof need->advice,
                 "the encoder needs %s of host memory, %s are allowed: an int8 checkpoint of it "
                 "(model.text) takes half",
                 lx_bytes_text(host, needs, sizeof needs), lx_bytes_text(q->ram, has, sizeof has));
    }
    umt5_close(&model);
    return status;
}

int encoder_plan_main(int argc, char **argv)
{
    return lx_plan_main(LX_STAGE_ENCODER, answer, argc, argv);
}
