/*
 * dit_plan.c - `lx2v-dit plan`: what this replica needs, from headers and dry runs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdlib.h>

#include "dit_model.h"
#include "lx_log.h"
#include "lx_plan.h"
#include "lx_process.h"
#include "weights/lx_model_dir.h"

#define NO_LIMIT ((uint64_t)1 << 60)

static void say_how(const dit_memory *m, bool is_card, char *text, size_t bytes)
{
    char where[64] = "host memory";
    if (is_card && m->n_resident == m->n_blocks)
        snprintf(where, sizeof where, "resident");
    else if (is_card && m->n_resident)
        snprintf(where, sizeof where, "partial: %" PRId64 " of %" PRId64 " blocks resident",
                 m->n_resident, m->n_blocks);
    else if (is_card)
        snprintf(where, sizeof where, "host: %" PRId64 " blocks streamed", m->n_blocks);
    snprintf(text, bytes, "%s, chunks of %" PRId64 " tokens, %s attention", where, m->chunk,
             m->attention == LX_ATTENTION_INT8 ? "int8" : "plain");
}

/* One more way to run, for comparison; ways that are not possible are left out. */
static void add_choice(lx_plan_need *need, const dit *model, const lx_card_kind *card,
                       const dit_setup *setup, uint64_t vram, bool is_streaming)
{
    dit_setup other = *setup;
    dit_memory m;
    lx_err err = {0};
    other.vram = vram;
    other.is_streaming = is_streaming;
    if (need->n_choices == LX_PLAN_CHOICES || dit_plan(model, card, &other, &m, &err) != LX_OK)
        return;
    lx_plan_choice *c = &need->choice[need->n_choices++];
    say_how(&m, true, c->what, sizeof c->what);
    c->device = m.total;
    c->host = m.host + m.pinned;
    c->fits = m.total <= setup->vram;
}

static void fill_need(lx_plan_need *need, const dit_memory *m, bool is_card)
{
    say_how(m, is_card, need->how, sizeof need->how);
    need->weights = m->weights;
    need->slots = m->slots;
    need->activations = m->activations;
    need->context = m->context;
    need->device = is_card ? m->total : 0;
    need->host = is_card ? m->host : m->total;
    need->pinned = m->pinned;
}

static lx_status answer_card(lx_plan_need *need, const dit *model, const lx_plan_question *q,
                             dit_setup *setup, lx_err *err)
{
    lx_card_kind card = {.index = -1,
                         .major = q->kind.major,
                         .minor = q->kind.minor,
                         .n_sm = q->kind.n_sm,
                         .shared_bytes = q->kind.shared_bytes,
                         .total_bytes = q->kind.total_bytes};
    dit_memory least, chosen;
    memcpy(card.name, q->kind.name, sizeof card.name);
    setup->vram = q->vram ? q->vram : NO_LIMIT;
    dit_setup smallest = *setup;
    smallest.is_streaming = true;
    smallest.vram = NO_LIMIT;
    DIT_TRY(dit_plan(model, &card, &smallest, &least, err));
    need->fits = dit_plan(model, &card, setup, &chosen, err) == LX_OK;
    if (!need->fits) {
        snprintf(need->advice, sizeof need->advice, "%.250s", err->message);
        chosen = least;
    }
    fill_need(need, &chosen, true);
    need->least = need->fits && chosen.total < least.total ? chosen.total : least.total;
    add_choice(need, model, &card, setup, NO_LIMIT, false);
    add_choice(need, model, &card, setup, NO_LIMIT, true);
    return LX_OK;
}

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, lx_err *err)
{
    lx_config *config = calloc(1, sizeof *config);
    dit *model = NULL;
    lx_model_paths paths;
    dit_memory memory;
    dit_options options = {.is_header_only = true};
    if (!config)
        return lx_fail(err, LX_EAGAIN, "out of memory for a config");
    lx_status status = lx_config_load(config, q->config, err);
    if (status == LX_OK)
        status = lx_model_of_config(&paths, config, err);
    if (status == LX_OK)
        status = dit_load(&model, paths.dit, &options, NULL, err);
    if (status == LX_OK) {
        dit_setup setup = {.largest = dit_largest(config, model)};
        need->host_weights = lx_weights_bytes(dit_weights(model));
        need->shared = (uint64_t)config->links.depth * sizeof(float) *
                       (uint64_t)(setup.largest.channels * setup.largest.t * setup.largest.h *
                                  setup.largest.w);
        if (q->is_card) {
            status = answer_card(need, model, q, &setup, err);
        } else {
            status = dit_plan(model, NULL, &setup, &memory, err);
            if (status == LX_OK)
                fill_need(need, &memory, false);
            need->fits = !q->ram || need->host + need->host_weights <= q->ram;
        }
    }
    dit_destroy(&model);
    free(config);
    return status;
}

int dit_plan_main(int argc, char **argv)
{
    lx_err err = {0};
    lx_plan_question q;
    lx_plan_need need = {.stage = "dit"};
    lx_status status = lx_plan_ask(&q, argc, argv, &err);
    if (status == LX_OK)
        status = answer(&need, &q, &err);
    if (status == LX_OK)
        status = lx_plan_say(&need, stdout, &err);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return status == LX_OK && !need.fits ? 3 : lx_exit_code(status);
}
