/*
 * vae_ask.c - `lx2v-vae plan`: what this replica needs, from headers and dry runs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>

#include "lx_cuda_share.h"
#include "lx_plan.h"
#include "lx_process.h"
#include "vae.h"
#include "weights/lx_model_dir.h"

#define NO_LIMIT ((uint64_t)1 << 60)

static void say_how(const vae_plan *plan, const lx_card_kind *card, char *text, size_t bytes)
{
    char frames[48] = "whole frames";
    if (plan->tile_h)
        snprintf(frames, sizeof frames, "tiles of %" PRId64 "x%" PRId64 " latents", plan->tile_h,
                 plan->tile_w);
    if (card)
        snprintf(text, bytes, "%s, pieces of %" PRId64 "%s", frames, plan->piece,
                 plan->sums == LX_SUMS_F16 ? ", sums in fp16" : "");
    else
        snprintf(text, bytes, "%s", frames);
}

/* Of the card, beside the arena: the driver's, and what tests of links need. */
static uint64_t beside(void)
{
    return VAE_CONTEXT + lx_cuda_share_bytes(0, 0);
}

static uint64_t device_bytes(const vae_plan *plan)
{
    return plan->total_bytes + beside();
}

static void fill_need(lx_plan_need *need, const vae_plan *plan, const lx_card_kind *card)
{
    say_how(plan, card, need->how, sizeof need->how);
    need->weights = plan->weight_bytes;
    need->activations = plan->total_bytes - plan->weight_bytes;
    need->context = card ? beside() : 0;
    need->device = card ? device_bytes(plan) : 0;
    need->host = card ? plan->host_bytes : plan->total_bytes;
}

/* Another way, under another budget of the arena. */
static void add_choice(lx_plan_need *need, const lx_weights *weights, const vae_options *o,
                       const lx_card_kind *card, uint64_t budget)
{
    vae_options other = *o;
    vae_plan plan;
    lx_err err = {0};
    other.budget = budget;
    if (need->n_choices == LX_PLAN_CHOICES ||
        vae_plan_memory(weights, &other, card, &plan, &err) != LX_OK)
        return;
    lx_plan_choice *c = &need->choice[need->n_choices++];
    say_how(&plan, card, c->what, sizeof c->what);
    c->device = device_bytes(&plan);
    c->host = plan.host_bytes;
    c->fits = !o->budget || plan.total_bytes <= o->budget;
}

static lx_status answer_card(lx_plan_need *need, const lx_weights *weights, vae_options *o,
                             const lx_plan_question *q, lx_err *err)
{
    const lx_card_kind card = lx_card_of_plan(q);
    vae_plan plan, least;
    if (q->vram)
        o->budget = q->vram > beside() ? q->vram - beside() : 1;
    VAE_TRY(vae_plan_least(weights, o, &card, &least, err));
    need->fits = vae_plan_memory(weights, o, &card, &plan, err) == LX_OK;
    if (!need->fits) {
        snprintf(need->advice, sizeof need->advice, "%.250s", err->message);
        plan = least;
    }
    fill_need(need, &plan, &card);
    need->least = device_bytes(&least);
    add_choice(need, weights, o, &card, NO_LIMIT);
    add_choice(need, weights, o, &card, plan.total_bytes - 1);
    return LX_OK;
}

static lx_status answer_cpu(lx_plan_need *need, const lx_weights *weights, vae_options *o,
                            const lx_plan_question *q, lx_err *err)
{
    vae_plan plan;
    o->budget = q->ram;
    o->budget_has_weights = q->ram != 0;
    need->fits = vae_plan_memory(weights, o, NULL, &plan, err) == LX_OK;
    if (!need->fits) {
        snprintf(need->advice, sizeof need->advice, "%.250s", err->message);
        VAE_TRY(vae_plan_least(weights, o, NULL, &plan, err));
    }
    fill_need(need, &plan, NULL);
    return LX_OK;
}

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, const lx_config *config,
                        lx_err *err)
{
    static lx_model_paths paths; /* 16 KiB */
    lx_weights *weights = NULL;
    lx_weights_options reading = {.wants = lx_catalog_vae_wants, .headers_only = true};
    VAE_TRY(lx_model_of_config(&paths, config, err));
    VAE_TRY(lx_weights_open(&weights, paths.vae, &reading, err));
    vae_options o = {.weights = paths.vae,
                     .largest = vae_largest_of(config),
                     .turns = true,
                     .lends = true,
                     .accumulate = config->stage[LX_STAGE_VAE].replica[q->replica].accumulate};
    need->shared = (uint64_t)config->links.depth * vae_slot_bytes(&o.largest);
    lx_status status =
        q->is_card ? answer_card(need, weights, &o, q, err) : answer_cpu(need, weights, &o, q, err);
    lx_weights_close(&weights);
    return status;
}

int vae_plan_main(int argc, char **argv)
{
    return lx_plan_main(LX_STAGE_VAE, answer, argc, argv);
}
