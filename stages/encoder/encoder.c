/*
 * encoder.c - cleaner, tokenizer, model and cache as one
 * SPDX-License-Identifier: Apache-2.0
 */
#include "encoder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "lx_cuda_share.h"
#include "lx_device.h"

struct encoder {
    umt5 *model;                  /* owned */
    encoder_cleaner *cleaner;     /* owned; NULL without a tokenizer, as the next */
    encoder_tokenizer *tokenizer; /* owned */
    lx_cuda *card;                /* owned; NULL: on the CPU */
    lx_cuda_share *share;         /* owned; NULL: lends nothing in the card's memory */
    lx_stage *stage;              /* borrowed, with share */
    lx_arena *arena;              /* owned; memory of the device */
    lx_arena *host;               /* owned; on the CPU the arena itself */
    lx_exec x;
    lx_residency *layers; /* owned */
    encoder_memory memory;
    encoder_options options; /* its strings are not looked at again */
    size_t host_mark;        /* of the host's arena behind what stands for the whole life */
    encoder_cache cache;
    float *context; /* [max_tokens, dim], of the host's memory */
    int32_t ids[ENCODER_TEXT_LEN];
    int64_t max_tokens;
    const lx_progress *progress; /* borrowed */
    lx_run *run;                 /* borrowed */
};

/* --- opening ---------------------------------------------------------------------------------- */

static lx_status open_tokenizer(encoder *e, const encoder_options *o, lx_err *err)
{
    if (!o->tokenizer)
        return LX_OK;
    lx_status status = encoder_cleaner_create(&e->cleaner, LX_LIMIT_PROMPT, err);
    if (status != LX_OK)
        return status;
    /* Cleaning may lengthen a prompt: by no more than three bytes for one. */
    status = encoder_tokenizer_open(&e->tokenizer, o->tokenizer, 4 * LX_LIMIT_PROMPT, err);
    if (status != LX_OK)
        return status;
    int64_t rows = umt5_dims(e->model)->vocab, last = encoder_tokenizer_max_id(e->tokenizer);
    if (last >= rows)
        return lx_fail(err, LX_ECONFIG,
                       "%s has ids up to %" PRId64 ", the embedding table of %s has %" PRId64
                       " rows: they do not belong together",
                       o->tokenizer, last, o->weights, rows);
    return LX_OK;
}

static lx_status check_budget(const encoder *e, const encoder_options *o, uint64_t bytes,
                              lx_err *err)
{
    char needed[24], allowed[24];
    if (!o->max_bytes || bytes <= o->max_bytes)
        return LX_OK;
    lx_bytes_text(bytes, needed, sizeof needed);
    lx_bytes_text(o->max_bytes, allowed, sizeof allowed);
    if (e->card)
        return lx_fail(err, LX_EAGAIN,
                       "the encoder needs %s on %s for %" PRId64 " tokens, with %" PRId64
                       " layers resident; %s are allowed",
                       needed, lx_cuda_card(e->card)->name, e->max_tokens, e->memory.n_resident,
                       allowed);
    return lx_fail(err, LX_EAGAIN,
                   "the encoder needs %s beside its weights for %" PRId64
                   " tokens and %d kept contexts, %s are allowed",
                   needed, e->max_tokens, o->cache_entries, allowed);
}

static lx_status take_memory(encoder *e, const encoder_options *o, lx_err *err)
{
    encoder_options known = *o;
    known.max_tokens = e->max_tokens;
    lx_status status =
        encoder_measure(e->model, e->card ? lx_cuda_card(e->card) : NULL, &known, &e->memory, err);
    const encoder_memory *m = &e->memory;
    if (status == LX_OK)
        status =
            check_budget(e, o, m->device + (e->card ? encoder_lent_bytes(e->model, o) : 0), err);
    if (status == LX_OK && !e->card)
        status = lx_arena_create(&e->arena, (size_t)m->device, err);
    e->host = e->arena;
    if (status == LX_OK && e->card)
        status = lx_arena_create(&e->host, (size_t)m->host, err);
    if (status == LX_OK)
        status = encoder_take_standing(&e->cache, e->host, &known, umt5_dims(e->model)->dim,
                                       &e->context, err);
    if (status != LX_OK)
        return status;
    e->options = known;
    e->host_mark = lx_arena_mark(e->host);
    return o->is_deferred ? LX_OK : encoder_take(e, err);
}

lx_status encoder_take(encoder *e, lx_err *err)
{
    lx_status status = LX_OK;
    if (e->card) {
        lx_arena_reset(e->host, e->host_mark);
        status = lx_cuda_arena(e->card, (size_t)e->memory.device, &e->arena, err);
    }
    if (status != LX_OK)
        return status;
    status = e->card ? lx_exec_open_cuda(&e->x, e->card, e->arena, e->host, err)
                     : lx_exec_open_cpu(&e->x, e->arena, e->options.n_threads, err);
    if (status == LX_OK)
        status = encoder_open_layers(&e->layers, &e->x, e->model, &e->memory, &e->options, err);
    if (status != LX_OK)
        encoder_give(e);
    return status;
}

void encoder_give(encoder *e)
{
    lx_residency_close(&e->layers);
    if (e->card) /* the CPU's arena has what stands in it */
        lx_arena_destroy(&e->arena);
}

lx_status encoder_open(encoder **out, const encoder_options *o, lx_err *err)
{
    encoder *e = calloc(1, sizeof *e);
    if (!e)
        return lx_fail(err, LX_EAGAIN, "no memory for the encoder's record");
    e->max_tokens = o->max_tokens ? o->max_tokens : ENCODER_TEXT_LEN;
    e->progress = o->progress;
    e->run = o->run;
    int card;
    const umt5_options how = {.progress = o->progress,
                              .shared_fd = o->shared_fd,
                              .is_on_disk = o->residency == LX_RESIDENCY_DISK};
    lx_status status = lx_device_find(&card, o->device ? o->device : "cpu", err);
    /* First, so that what is wrong with a card is known before gigabytes are read. */
    if (status == LX_OK && card != LX_DEVICE_CPU)
        status = lx_cuda_open(&e->card, card, NULL, err);
    if (status == LX_OK)
        status = umt5_open(&e->model, o->weights, &how, err);
    if (status == LX_OK)
        status = open_tokenizer(e, o, err);
    if (status == LX_OK)
        status = take_memory(e, o, err);
    if (status != LX_OK) {
        encoder_close(&e);
        return status;
    }
    *out = e;
    return LX_OK;
}

void encoder_close(encoder **model)
{
    if (!model || !*model)
        return;
    encoder *e = *model;
    if (e->stage)
        lx_stage_leave_card(e->stage);
    lx_cuda_share_close(&e->share);
    lx_residency_close(&e->layers);
    umt5_close(&e->model);
    encoder_cleaner_destroy(&e->cleaner);
    encoder_tokenizer_close(&e->tokenizer);
    if (e->card)
        lx_arena_destroy(&e->host);
    lx_arena_destroy(&e->arena);
    lx_cuda_close(&e->card);
    free(e);
    *model = NULL;
}

lx_status encoder_join(encoder *e, lx_stage *stage, lx_err *err)
{
    if (!e->card)
        return LX_OK;
    lx_status status = lx_cuda_share_open(&e->share, e->card, err);
    if (status != LX_OK)
        return status;
    e->stage = stage;
    lx_stage_on_card(stage, lx_cuda_share_device(e->share));
    return LX_OK;
}

/* --- one prompt ------------------------------------------------------------------------------- */

lx_status encoder_tokens(encoder *e, const char *prompt, size_t bytes, encoder_prompt *out,
                         lx_err *err)
{
    encoder_text text;
    if (!e->tokenizer)
        return lx_fail(err, LX_ECONFIG, "this encoder was opened without a tokenizer");
    lx_status status = encoder_clean(e->cleaner, prompt, bytes, &text, err);
    if (status != LX_OK)
        return status;
    *out = (encoder_prompt){.ids = e->ids, .looks_garbled = text.looks_garbled};
    return encoder_tokenize(e->tokenizer, text.text, text.bytes, e->ids, ENCODER_TEXT_LEN,
                            &out->counts, err);
}

lx_status encoder_encode(encoder *e, const int32_t *ids, int64_t n, encoder_context *out,
                         lx_err *err)
{
    const char *weights_id = lx_weights_id(umt5_weights(e->model));
    const float *rows = n > 0 ? encoder_cache_get(&e->cache, weights_id, ids, n) : NULL;
    *out = (encoder_context){
        .rows = rows, .n = n, .dim = umt5_dims(e->model)->dim, .was_cached = rows != NULL};
    if (rows)
        return LX_OK;
    if (n > e->max_tokens)
        return lx_fail(err, LX_EJOB, "%" PRId64 " token ids: at most %" PRId64 " were planned for",
                       n, e->max_tokens);
    const umt5_request request = {
        .layers = e->layers, .ids = ids, .n = n, .progress = e->progress, .run = e->run};
    lx_status status = umt5_encode(e->model, &e->x, &request, e->context, err);
    if (status != LX_OK)
        return status;
    encoder_cache_put(&e->cache, weights_id, ids, n, e->context);
    out->rows = e->context;
    return LX_OK;
}

lx_status encoder_warm_up(encoder *e, lx_err *err)
{
    memset(e->ids, 0, sizeof e->ids); /* any ids do */
    int64_t longest = e->max_tokens < ENCODER_TEXT_LEN ? e->max_tokens : ENCODER_TEXT_LEN;
    for (int64_t n = longest; n >= 1; n /= 2) {
        umt5_request request = {
            .layers = e->layers, .ids = e->ids, .n = n, .n_layers = n > 1, .progress = e->progress};
        lx_status status = umt5_encode(e->model, &e->x, &request, e->context, err);
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

void encoder_notice(const encoder_prompt *prompt, char *text, size_t bytes)
{
    text[0] = 0;
    int n = 0;
    if (prompt->counts.n_dropped)
        n = snprintf(text, bytes, "the prompt has %d tokens, %d fit: the last %d were dropped",
                     prompt->counts.n + prompt->counts.n_dropped, prompt->counts.n,
                     prompt->counts.n_dropped);
    if (prompt->looks_garbled && n >= 0 && (size_t)n < bytes)
        snprintf(
            text + n, bytes - (size_t)n,
            "%sthe prompt looks as if UTF-8 had been read as Latin-1 (like \"\xC3\x83\xC2\xA9\" "
            "for \"\xC3\xA9\"); it is used as it is",
            n ? "; " : "");
}

const umt5 *encoder_model(const encoder *model)
{
    return model->model;
}

uint64_t encoder_planned_bytes(const encoder *e)
{
    return e->memory.device;
}

uint64_t encoder_arena_bytes(const encoder *model)
{
    return lx_arena_bytes(model->arena);
}

uint64_t encoder_arena_peak(const encoder *model)
{
    return lx_arena_peak(model->arena);
}

uint64_t encoder_host_bytes(const encoder *model)
{
    return lx_arena_bytes(model->host);
}

uint64_t encoder_host_peak(const encoder *model)
{
    return lx_arena_peak(model->host);
}

const char *encoder_describe(const encoder *model)
{
    return lx_exec_describe(&model->x);
}
