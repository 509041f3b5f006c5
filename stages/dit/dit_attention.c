/*
 * dit_attention.c - which attention runs on which card, and why
 * SPDX-License-Identifier: Apache-2.0
 *
 * Auto      The fastest whose error is that of INT8 queries and keys with F16 values or less: that
 *           one itself, for any weights, from LONG keys on. FP8 values have three times its error
 *           (docs/performance.md), so they are by choice alone.
 */
#include <inttypes.h>
#include <stdio.h>

#include "dit_model.h"

#define LONG 2048 /* tokens from which preparing keys pays */

/* A choice in its making. */
typedef struct wish {
    const lx_card_kind *card;
    int64_t head_dim, tokens;
    lx_attention_choice attention;
    lx_accumulate_choice accumulate;
} wish;

const char *dit_attention_name(lx_attention_kind kind)
{
    return lx_attention_names[kind == LX_ATTENTION_PLAIN  ? LX_ATTENTION_BF16
                              : kind == LX_ATTENTION_INT8 ? LX_ATTENTION_INT8_FP16
                                                          : LX_ATTENTION_INT8_E4M3];
}

static bool has_int8(const wish *w)
{
    return w->head_dim == 64 || w->head_dim == 128;
}

static bool has_wgmma(const wish *w)
{
    return lx_card_has_wgmma(w->card) && w->head_dim == 128;
}

/* By wgmma, or by mma.sync. */
static bool has_fp8(const wish *w)
{
    return lx_card_has_fp8(w->card) && w->head_dim == 128;
}

static lx_status refuse_attention(const wish *w, const char *needs, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "attention: %s needs %s; this is a %s (sm_%d%d) and heads of %" PRId64
                   ": it can %s%sbf16, or auto",
                   lx_attention_names[w->attention], needs, w->card->name, w->card->major,
                   w->card->minor, w->head_dim, has_int8(w) ? "int8-fp16, " : "",
                   has_fp8(w) ? "int8-fp8, " : "");
}

static lx_status kind_of(const wish *w, lx_attention_kind *out, lx_err *err)
{
    *out = LX_ATTENTION_INT8;
    switch (w->attention) {
    case LX_ATTENTION_BF16:
        *out = LX_ATTENTION_PLAIN;
        return LX_OK;
    case LX_ATTENTION_INT8_FP16:
        return has_int8(w) ? LX_OK : refuse_attention(w, "heads of 64 or 128 columns", err);
    case LX_ATTENTION_INT8_E4M3:
        *out = LX_ATTENTION_INT8_FP8;
        return has_fp8(w)
                   ? LX_OK
                   : refuse_attention(w, "a card of 8.9 or later and heads of 128 columns", err);
    case LX_ATTENTION_AUTO:
        break;
    }
    if (!has_int8(w) || w->tokens < LONG)
        *out = LX_ATTENTION_PLAIN;
    return LX_OK;
}

/* F16 sums are in the kernels that multiply INT8 by mma.sync. */
static lx_status sums_of(const wish *w, lx_attention_kind kind, lx_sums *out, lx_err *err)
{
    bool has_choice = kind != LX_ATTENTION_PLAIN && !has_wgmma(w);
    *out = !has_choice                           ? LX_SUMS_F32
           : w->accumulate == LX_ACCUMULATE_FP32 ? LX_SUMS_F32
           : w->accumulate == LX_ACCUMULATE_FP16 ? LX_SUMS_F16
           : lx_card_has_slow_f32_sums(w->card)  ? LX_SUMS_F16
                                                 : LX_SUMS_F32;
    if (w->accumulate != LX_ACCUMULATE_FP16 || has_choice ||
        (w->attention == LX_ATTENTION_AUTO && kind == LX_ATTENTION_PLAIN))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "accumulate: fp16 is for int8-fp16 and int8-fp8 attention on cards before and "
                   "after Hopper; "
                   "%s (sm_%d%d) with %s sums in fp32%s: fp32, or auto",
                   w->card->name, w->card->major, w->card->minor, dit_attention_name(kind),
                   has_wgmma(w) ? ", at full rate" : "");
}

static void tell(const wish *w, dit_memory *m)
{
    bool is_plain = m->attention == LX_ATTENTION_PLAIN;
    const char *how = !is_plain && has_wgmma(w) ? "wgmma" : "mma.sync";
    int n = snprintf(m->attention_how, sizeof m->attention_how, "%s by %s, sums in %s; ",
                     dit_attention_name(m->attention), how,
                     m->sums == LX_SUMS_F16 ? "fp16 over 64 keys" : "fp32");
    char *at = m->attention_how + n;
    size_t left = sizeof m->attention_how - (size_t)n;
    if (w->attention != LX_ATTENTION_AUTO)
        snprintf(at, left, "as asked for");
    else if (!is_plain)
        snprintf(at, left, "auto: clips of up to %" PRId64 " tokens", w->tokens);
    else if (has_int8(w))
        snprintf(at, left, "auto: %" PRId64 " tokens are few, int8 pays from %d on", w->tokens,
                 LONG);
    else
        snprintf(at, left, "auto: heads of %" PRId64 " columns, int8 takes 64 or 128", w->head_dim);
}

lx_status dit_choose_attention(const dit *model, const lx_card_kind *card, const dit_setup *setup,
                               dit_memory *out, lx_err *err)
{
    const lx_patch_dims *d = &setup->largest;
    const wish w = {.card = card,
                    .head_dim = model->dims.head_dim,
                    .tokens = d->t * (d->h / 2) * (d->w / 2),
                    .attention = setup->attention,
                    .accumulate = setup->accumulate};
    if (!card) {
        out->attention = LX_ATTENTION_PLAIN;
        snprintf(out->attention_how, sizeof out->attention_how, "fp32; on the CPU it always is");
        if (w.attention == LX_ATTENTION_AUTO && w.accumulate != LX_ACCUMULATE_FP16)
            return LX_OK;
        return lx_fail(err, LX_ECONFIG,
                       "attention: %s, accumulate: %s: these are for a card; on the CPU attention "
                       "is fp32: auto",
                       lx_attention_names[w.attention], lx_accumulate_names[w.accumulate]);
    }
    DIT_TRY(kind_of(&w, &out->attention, err));
    DIT_TRY(sums_of(&w, out->attention, &out->sums, err));
    tell(&w, out);
    return LX_OK;
}
