/*
 * encoder_plan.c - what an encoder needs: measured dry, and told by `lx2v-encoder plan`
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "encoder.h"
#include "lx_log.h"
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

/* Everything once: the highest marks are the plan. host NULL: the CPU, one arena. */
static lx_status run_dry(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                         lx_arena *device, lx_arena *host, lx_err *err)
{
    lx_exec x = {0};
    encoder_cache cache;
    float *context;
    const umt5_request request = {.n = o->max_tokens, .run = o->run};
    lx_status status = encoder_take_standing(&cache, host ? host : device, o, umt5_dims(model)->dim,
                                             &context, err);
    if (status == LX_OK)
        status = card ? lx_exec_plan_cuda(&x, card, device, host, err)
                      : lx_exec_open_cpu(&x, device, o->n_threads, err);
    if (status == LX_OK)
        status = umt5_encode(model, &x, &request, context, err);
    if (card)
        lx_exec_plan_done(&x);
    return status;
}

lx_status encoder_measure(const umt5 *model, const lx_card_kind *card, const encoder_options *o,
                          encoder_memory *out, lx_err *err)
{
    lx_arena *device = NULL, *host = NULL;
    lx_status status = lx_arena_create_dry(&device, err);
    if (status == LX_OK && card)
        status = lx_arena_create_dry(&host, err);
    if (status == LX_OK)
        status = run_dry(model, card, o, device, host, err);
    if (status == LX_OK)
        *out = (encoder_memory){lx_arena_peak(device), host ? lx_arena_peak(host) : 0};
    lx_arena_destroy(&host);
    lx_arena_destroy(&device);
    return status;
}

/* --- lx2v-encoder plan ------------------------------------------------------------------------ */

/* The largest layer's weights as they lie on a card. */
static uint64_t layer_bytes(const umt5 *model)
{
    const lx_weights *weights = umt5_weights(model);
    uint64_t most = 0;
    for (int64_t i = 0; i < umt5_dims(model)->n_layers; i++) {
        char prefix[64];
        uint64_t sum = 0;
        snprintf(prefix, sizeof prefix, "blocks.%" PRId64 ".", i);
        for (size_t k = 0; k < lx_weights_count(weights); k++) {
            lx_weight w = lx_weights_at(weights, k);
            uint64_t bytes = 0;
            if (strncmp(w.name, prefix, strlen(prefix)) == 0 &&
                lx_shape_bytes(&w.shape, w.dtype, NULL, &bytes, NULL) == LX_OK)
                sum += bytes + (w.scale ? (uint64_t)w.shape.dim[0] * sizeof(float) : 0);
        }
        most = sum > most ? sum : most;
    }
    return most;
}

static lx_status answer_card(lx_plan_need *need, const umt5 *model, const lx_plan_question *q,
                             const encoder_options *o, lx_err *err)
{
    lx_card_kind card = {.index = -1,
                         .major = q->kind.major,
                         .minor = q->kind.minor,
                         .n_sm = q->kind.n_sm,
                         .shared_bytes = q->kind.shared_bytes,
                         .total_bytes = q->kind.total_bytes};
    encoder_memory memory, on_host;
    char needs[32], has[32];
    memcpy(card.name, q->kind.name, sizeof card.name);
    lx_status status = encoder_measure(model, &card, o, &memory, err);
    if (status == LX_OK)
        status = encoder_measure(model, NULL, o, &on_host, err);
    if (status != LX_OK)
        return status;
    uint64_t layer = layer_bytes(model);
    snprintf(need->how, sizeof need->how, "host: %" PRId64 " layers streamed",
             umt5_dims(model)->n_layers);
    need->slots = layer < memory.device ? layer : 0;
    need->activations = memory.device - need->slots;
    need->context = LX_PLAN_CONTEXT;
    need->device = need->least = memory.device + LX_PLAN_CONTEXT;
    need->host = memory.host;
    need->fits = !q->vram || need->device <= q->vram;
    if (!need->fits)
        snprintf(need->advice, sizeof need->advice,
                 "the encoder needs %s on this card, %s are allowed: device: cpu",
                 lx_bytes_text(need->device, needs, sizeof needs),
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

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, lx_config *config,
                        lx_model_paths *paths, lx_err *err)
{
    umt5 *model = NULL;
    encoder_options options = {.max_tokens = ENCODER_TEXT_LEN};
    lx_status status = lx_config_load(config, q->config, err);
    if (status == LX_OK)
        status = lx_model_of_config(paths, config, err);
    if (status == LX_OK)
        status = umt5_open_headers(&model, paths->text, err);
    if (status != LX_OK)
        return status;
    options.cache_entries = config->encoder.cache_entries;
    need->host_weights = lx_weights_bytes(umt5_weights(model));
    need->shared = (uint64_t)config->links.depth * ENCODER_TEXT_LEN *
                   (uint64_t)umt5_dims(model)->dim * sizeof(float);
    status = q->is_card ? answer_card(need, model, q, &options, err)
                        : answer_host(need, model, &options, err);
    uint64_t host = need->host_weights + need->host + need->shared;
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
    static lx_config config;     /* 60 KiB */
    static lx_model_paths paths; /* 16 KiB */
    lx_err err = {0};
    lx_plan_question q;
    lx_plan_need need = {.stage = "encoder"};
    lx_log_open("encoder", LX_LOG_WARN);
    lx_status status = lx_plan_ask(&q, argc, argv, &err);
    if (status == LX_OK)
        status = answer(&need, &q, &config, &paths, &err);
    if (status == LX_OK)
        status = lx_plan_say(&need, stdout, &err);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return status == LX_OK && !need.fits ? 3 : lx_exit_code(status);
}
