/*
 * dit_plan.c - `lx2v-dit plan`: what this replica needs, from headers and dry runs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "dit_model.h"
#include "lx_plan.h"
#include "lx_process.h"
#include "weights/lx_model_dir.h"

#define NO_LIMIT    ((uint64_t)1 << 60)
#define LEAST_CHUNK 512  /* tokens; dit_engine.c goes no lower */
#define USUAL_CHUNK 4096 /* and takes larger ones only of what blocks leave */

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
             is_card ? dit_attention_name(m->attention) : "fp32");
    if (m->n_on_disk)
        snprintf(text + strlen(text), bytes - strlen(text), ", %" PRId64 " on disk", m->n_on_disk);
}

/* Bytes of the blocks that travel to the card in every step. The keys of cross-attention do so
 * only in the first, and are few. */
static uint64_t bytes_of_blocks(const dit *model, int64_t first, int64_t end)
{
    uint64_t sum = 0;
    for (int64_t i = first; i < end; i++) {
        lx_weight main[DIT_MAIN_WEIGHTS];
        dit_block_list_main(&model->blocks[i], main);
        lx_layers one = {.weights = main, .n_layers = 1, .n_weights = DIT_MAIN_WEIGHTS};
        sum += lx_residency_total_bytes(&one);
    }
    return sum;
}

/* One more way to run, for comparison. Ways that are not possible or already told are left out. */
static void add_choice(lx_plan_need *need, const dit *model, const lx_card_kind *card,
                       const dit_setup *setup, uint64_t vram, lx_residency_choice residency)
{
    dit_setup other = *setup;
    dit_memory m;
    lx_err err = {0};
    char how[96];
    other.vram = vram;
    other.residency = residency;
    other.ram = 0;
    if (need->n_choices == LX_PLAN_CHOICES || dit_plan(model, card, &other, &m, &err) != LX_OK)
        return;
    say_how(&m, true, how, sizeof how);
    bool is_told = strcmp(how, need->how) == 0;
    lx_plan_choice *c = &need->choice[need->n_choices];
    snprintf(c->what, sizeof c->what, "%.*s", (int)strcspn(how, ","), how);
    if (m.chunk != USUAL_CHUNK) /* worth a word only where it is not the usual one */
        snprintf(c->what + strlen(c->what), sizeof c->what - strlen(c->what),
                 ", chunks of %" PRId64, m.chunk);
    for (int i = 0; i < need->n_choices; i++)
        is_told |= strcmp(need->choice[i].what, c->what) == 0;
    if (is_told)
        return;
    c->device = m.total;
    c->host = m.host + m.pinned;
    c->stream = bytes_of_blocks(model, m.n_resident, m.n_blocks);
    c->disk = 0;
    c->fits = m.total <= setup->vram;
    need->n_choices++;
}

static void fill_need(lx_plan_need *need, const dit_memory *m, bool is_card)
{
    say_how(m, is_card, need->how, sizeof need->how);
    need->weights = m->weights;
    need->slots = m->slots;
    need->activations = m->activations;
    need->context = m->context + m->beside;
    need->device = is_card ? m->total : 0;
    need->host = is_card ? m->host : m->total;
    need->pinned = m->pinned;
}

/* setup with n blocks on the card, whatever else that takes. */
static dit_setup setup_with(const dit_setup *setup, const dit *model, int64_t n)
{
    dit_setup one = *setup;
    one.residency = n == 0                           ? LX_RESIDENCY_HOST
                    : n == dit_dims(model)->n_blocks ? LX_RESIDENCY_RESIDENT
                                                     : LX_RESIDENCY_PARTIAL;
    one.n_resident = n;
    one.ram = 0;
    one.vram = NO_LIMIT;
    return one;
}

/* What they take, in the chunks that the model was opened with. */
static lx_status total_with(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                            int64_t n, uint64_t *out, lx_err *err)
{
    dit_setup one = setup_with(setup, model, n);
    dit_memory memory;
    DIT_TRY(dit_plan(model, card, &one, &memory, err));
    *out = memory.total;
    return LX_OK;
}

/* The same checkpoint in the smallest chunks, all streamed: nothing smaller works. */
static lx_status least_of(const char *path, const lx_card_kind *card, const dit_setup *setup,
                          uint64_t *out, lx_err *err)
{
    dit_options options = {.is_header_only = true, .chunk = LEAST_CHUNK};
    dit *model = NULL;
    lx_status status = dit_load(&model, path, &options, NULL, err);
    if (status == LX_OK)
        status = total_with(model, card, setup, 0, out, err);
    dit_destroy(&model);
    return status;
}

/* The next number of blocks above *n (step 1) or below (-1) that takes more, or less, of the card:
 * with fewer than two blocks to carry their slots cost as much as they. *total 0: there is none. */
static lx_status next_total(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                            int64_t *n, int64_t step, uint64_t *total, lx_err *err)
{
    uint64_t now, next;
    int64_t end = step > 0 ? dit_dims(model)->n_blocks : 0;
    DIT_TRY(total_with(model, card, setup, *n, &now, err));
    for (*total = 0; *n != end && *total == 0;) {
        *n += step;
        DIT_TRY(total_with(model, card, setup, *n, &next, err));
        if (step > 0 ? next > now : next < now)
            *total = next;
    }
    return LX_OK;
}

/* A block more and a block less. Larger chunks are made of what blocks leave, so they are none of
 * what another number of blocks takes. */
static lx_status add_neighbours(lx_plan_need *need, const dit *model, const char *path,
                                const lx_card_kind *card, const dit_setup *setup,
                                const dit_memory *chosen, lx_err *err)
{
    dit_options options = {.is_header_only = true,
                           .chunk = chosen->chunk < USUAL_CHUNK ? chosen->chunk : USUAL_CHUNK};
    dit *plain = NULL;
    lx_status status = dit_load(&plain, path, &options, NULL, err);
    for (int64_t step = 1; step >= -1 && status == LX_OK; step -= 2) {
        uint64_t total;
        int64_t n = chosen->n_resident;
        status = next_total(plain, card, setup, &n, step, &total, err);
        if (status == LX_OK && total) {
            dit_setup other = setup_with(setup, model, n);
            other.vram = setup->vram;
            add_choice(need, plain, card, &other, total, other.residency);
        }
    }
    dit_destroy(&plain);
    return status;
}

/* Bytes that a block moves for each number of [S, D], beside products and attention: norms read F32
 * and write what linears read; attention's results become codes; keys' mean, codes and values'
 * images (docs/performance.md, floors). */
static double bytes_of_rows(const lx_card_kind *card, const dit_memory *chosen, bool is_8bit)
{
    double norms = (chosen->keeps_normed ? 3 : 4) * (is_8bit ? 5 : 6), codes = is_8bit ? 6 : 0;
    double values = chosen->attention == LX_ATTENTION_INT8_FP8 ? 5
                    : lx_card_has_wgmma(card)                  ? 4
                    : chosen->sums == LX_SUMS_F16              ? 2
                                                               : 0;
    return norms + codes + (chosen->attention == LX_ATTENTION_PLAIN ? 4 : 5 + values);
}

/* Products and sums of one step, from the shapes of what dit_block.c multiplies.
 * S tokens, width D, hidden F; per block 4 D*D of self-attention, 2 of cross, 2 D*F. */
static void count_work(lx_plan_need *need, const dit *model, const lx_card_kind *card,
                       const dit_setup *setup, const dit_memory *chosen)
{
    const lx_attention_kind attention = chosen->attention;
    const lx_dit_dims *d = dit_dims(model);
    const lx_patch_dims *l = &setup->largest;
    double tokens = (double)(l->t * (l->h / 2) * (l->w / 2));
    double width = (double)d->dim, blocks = (double)d->n_blocks;
    double linear = 2 * tokens * (6 * width * width + 2 * width * (double)d->ffn_dim) * blocks;
    double product = 2 * tokens * tokens * width * blocks; /* q k^T; p v is as much */
    double cross = 4 * tokens * (double)dit_text_len(model) * width * blocks;
    bool is_8bit = d->quant == LX_QUANT_INT8 || (d->quant == LX_QUANT_FP8 && lx_card_has_fp8(card));
    double ops8 = is_8bit ? linear : 0, ops16 = is_8bit ? 0 : linear;
    /* Where sums in F32 are slow, FP8 products with them take as long as F16 ones without. */
    bool is_slow = lx_card_has_slow_f32_sums(card), is_f16 = chosen->sums == LX_SUMS_F16,
         is_slow_fp8 = attention == LX_ATTENTION_INT8_FP8 && is_slow && !is_f16;
    int of_8_bits = attention == LX_ATTENTION_PLAIN                 ? 0
                    : attention == LX_ATTENTION_INT8 || is_slow_fp8 ? 1
                                                                    : 2;
    ops8 += of_8_bits * product;
    ops16 += cross + (2 - of_8_bits) * product;
    bool is_short = is_slow_fp8 || (attention == LX_ATTENTION_INT8 && is_slow && is_f16);
    need->ops8 = (uint64_t)ops8;
    need->ops16 = (uint64_t)ops16;
    need->attention8 = (uint64_t)(of_8_bits * product);
    need->attention16 = (uint64_t)(cross + (2 - of_8_bits) * product);
    need->short16 = is_short ? (uint64_t)product : 0;
    need->row_bytes = (uint64_t)(bytes_of_rows(card, chosen, is_8bit) * tokens * width * blocks);
}

static lx_status answer_card(lx_plan_need *need, const dit *model, const char *path,
                             const lx_plan_question *q, dit_setup *setup, lx_err *err)
{
    const lx_card_kind card = lx_card_of_plan(q);
    dit_memory chosen;
    setup->vram = q->vram ? q->vram : NO_LIMIT;
    setup->ram = q->ram > need->shared ? q->ram - need->shared : q->ram;
    DIT_TRY(least_of(path, &card, setup, &need->least, err));
    need->fits = dit_plan(model, &card, setup, &chosen, err) == LX_OK;
    if (!need->fits) {
        dit_setup smallest = *setup;
        snprintf(need->advice, sizeof need->advice, "%.250s", err->message);
        smallest.residency = LX_RESIDENCY_HOST;
        smallest.ram = 0;
        smallest.vram = need->least;
        DIT_TRY(dit_plan(model, &card, &smallest, &chosen, err));
    }
    fill_need(need, &chosen, true);
    count_work(need, model, &card, setup, &chosen);
    need->stream_bytes = bytes_of_blocks(model, chosen.n_resident, chosen.n_blocks);
    need->host_weights = chosen.host_weights;
    need->disk_bytes = chosen.disk_step;
    add_choice(need, model, &card, setup, NO_LIMIT, LX_RESIDENCY_AUTO);
    DIT_TRY(add_neighbours(need, model, path, &card, setup, &chosen, err));
    add_choice(need, model, &card, setup, NO_LIMIT, LX_RESIDENCY_HOST);
    return LX_OK;
}

static lx_status answer_host(lx_plan_need *need, const dit *model, const lx_plan_question *q,
                             const dit_setup *setup, lx_err *err)
{
    dit_memory memory;
    DIT_TRY(dit_plan(model, NULL, setup, &memory, err));
    fill_need(need, &memory, false);
    need->fits = !q->ram || need->host + need->host_weights + need->shared <= q->ram;
    need->least = 0;
    return LX_OK;
}

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, const lx_config *config,
                        lx_err *err)
{
    static lx_model_paths paths; /* 16 KiB */
    dit *model = NULL;
    dit_options options = {.is_header_only = true};
    DIT_TRY(lx_model_of_config(&paths, config, err));
    DIT_TRY(dit_load(&model, paths.dit, &options, NULL, err));
    const lx_replica_config *replica = &config->stage[LX_STAGE_DIT].replica[q->replica];
    dit_setup setup = {.largest = dit_largest(config, model),
                       .beside = dit_lent_bytes(config, model),
                       .residency = replica->residency,
                       .attention = replica->attention,
                       .accumulate = replica->accumulate,
                       .pinned = config->memory.pinned};
    const lx_patch_dims *l = &setup.largest;
    need->host_weights = lx_weights_bytes(dit_weights(model));
    need->shared = (uint64_t)config->links.depth * sizeof(float) *
                   (uint64_t)(l->channels * l->t * l->h * l->w);
    lx_status status = q->is_card ? answer_card(need, model, paths.dit, q, &setup, err)
                                  : answer_host(need, model, q, &setup, err);
    dit_destroy(&model);
    return status;
}

int dit_plan_main(int argc, char **argv)
{
    return lx_plan_main(LX_STAGE_DIT, answer, argc, argv);
}
