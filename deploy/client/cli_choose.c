/*
 * cli_choose.c - devices for `init`
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli_choose.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "cli_cards.h"

#define LEAST_MAJOR 8 /* compute capability that the kernels are built for */
#define CPU_CORES   8 /* fewer would encode for longer than a card denoises */

/* What a second card must have for the VAE: twice what the VAE takes there (docs/performance.md),
 * which leaves room for a desktop. */
#define SECOND_BYTES ((uint64_t)4 << 30)
/* Host memory beside the weights: lent tensors, rings, libraries, and the rest of the system. */
#define HOST_BESIDE ((uint64_t)4 << 30)

static void note(cli_choice *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(cli_choice *c, const char *format, ...)
{
    if (c->n_notes == CLI_CHOICE_NOTES)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->note[c->n_notes++], sizeof c->note[0], format, args);
    va_end(args);
}

/* --- cards ------------------------------------------------------------------------------------ */

static const char *name_of(const lx_card *card, char out[96])
{
    return cli_safe(card->name, out, 96);
}

static bool is_usable(cli_choice *c, const lx_card *card, int i)
{
    char name[96];
    if (card->major < LEAST_MAJOR) {
        note(c, "cuda:%d, %s, is not used: compute capability %d.%d, and 8.0 is needed", i,
             name_of(card, name), card->major, card->minor);
        return false;
    }
    if (card->is_exclusive) {
        note(c,
             "cuda:%d, %s, is not used: its compute mode lets one process in; `nvidia-smi -i %d -c "
             "DEFAULT` changes that",
             i, name_of(card, name), i);
        return false;
    }
    return true;
}

/* More memory, then more multiprocessors, then no display. */
static bool is_better(const lx_card *a, const lx_card *b)
{
    if (a->vram_bytes != b->vram_bytes)
        return a->vram_bytes > b->vram_bytes;
    if (a->multiprocessors != b->multiprocessors)
        return a->multiprocessors > b->multiprocessors;
    return !a->has_display && b->has_display;
}

typedef struct found {
    int best, second; /* LX_DEVICE_CPU: none */
} found;

static found find_cards(cli_choice *c, const lx_cards *cards)
{
    found f = {LX_DEVICE_CPU, LX_DEVICE_CPU};
    for (int i = 0; i < cards->n; i++) {
        const lx_card *card = &cards->card[i];
        if (!is_usable(c, card, i))
            continue;
        if (f.best < 0 || is_better(card, &cards->card[f.best])) {
            f.second = f.best;
            f.best = i;
        } else if (f.second < 0 || is_better(card, &cards->card[f.second])) {
            f.second = i;
        }
    }
    if (f.second >= 0 && cards->card[f.second].vram_bytes < SECOND_BYTES) {
        char bytes[32];
        note(c, "cuda:%d is not used: %s are little for a stage", f.second,
             cli_bytes(cards->card[f.second].vram_bytes, bytes, sizeof bytes));
        f.second = LX_DEVICE_CPU;
    }
    return f;
}

/* Why no card is taken, or NULL if they may be. */
static const char *no_cards(const cli_facts *f, char *text, size_t room)
{
    const lx_cards *cards = f->cards;
    char reason[512];
    if (!f->has_cuda)
        snprintf(
            text, room, "this lx2v is built for the CPU%s",
            f->machine->n_nvidia || (cards && cards->n)
                ? " and cannot use the NVIDIA card that is here: docs/gpu.md says how to build "
                  "for it"
                : "");
    else if (!cards)
        snprintf(text, room, "the cards did not tell about themselves; `lx2v doctor` says more");
    else if (cards->n == 0)
        snprintf(text, room, "no card: %.200s",
                 *cards->reason ? cli_safe(cards->reason, reason, sizeof reason) : "none found");
    else if (cards->cuda_needed > 0 && cards->cuda < cards->cuda_needed)
        snprintf(
            text, room,
            "the driver knows CUDA %d.%d and this build needs %d.%d: update the driver to %s or "
            "newer",
            cards->cuda / 1000, cards->cuda % 1000 / 10, cards->cuda_needed / 1000,
            cards->cuda_needed % 1000 / 10, cli_cards_driver_for(cards->cuda_needed));
    else
        return NULL;
    return text;
}

/* --- places ----------------------------------------------------------------------------------- */

static uint64_t host_bytes(const cli_machine *m)
{
    return m->limit_bytes && m->limit_bytes < m->ram_bytes ? m->limit_bytes : m->ram_bytes;
}

static void place_encoder(cli_choice *c, const cli_facts *f, int card)
{
    const cli_machine *m = f->machine;
    char needs[32], has[32];
    cli_bytes(f->weights_bytes, needs, sizeof needs);
    cli_bytes(host_bytes(m), has, sizeof has);
    bool has_room = host_bytes(m) >= f->weights_bytes + HOST_BESIDE;
    cli_place *p = &c->encoder;
    if (m->n_cores >= CPU_CORES && m->has_avx2 && has_room) {
        /* A quarter of the cores is for mux and for what feeds the card. */
        p->threads = m->n_cores - m->n_cores / 4;
        c->mux.threads = m->n_cores / 4;
        p->card = LX_DEVICE_CPU;
        snprintf(
            p->why, sizeof p->why,
            "The CPU has %d cores with AVX2, and %s of memory hold the weights (%s): it encodes "
            "a prompt while the card works on the clip before.",
            m->n_cores, has, needs);
        snprintf(c->mux.why, sizeof c->mux.why,
                 "The other cores, so that encoding does not slow down what feeds the card.");
        return;
    }
    p->card = card;
    if (m->n_cores < CPU_CORES || !m->has_avx2)
        snprintf(p->why, sizeof p->why,
                 "On the card, its layers pass through: %d cores %s AVX2 would be slow.",
                 m->n_cores, m->has_avx2 ? "with" : "without");
    else
        snprintf(p->why, sizeof p->why,
                 "On the card, its layers pass through: %s of memory are little for %s of weights.",
                 has, needs);
}

static void place_on_cards(cli_choice *c, const cli_facts *f, found at)
{
    const lx_card *best = &f->cards->card[at.best];
    char name[96], other[96], bytes[32];
    c->dit.card = at.best;
    snprintf(c->dit.why, sizeof c->dit.why, "%s, %s%s%s.", name_of(best, name),
             cli_bytes(best->vram_bytes, bytes, sizeof bytes),
             f->cards->n > 1 ? ": the card with the most memory" : "",
             best->has_display ? "; the display keeps 1 GiB of it" : "");
    c->vae.card = at.second >= 0 ? at.second : at.best;
    if (at.second < 0) {
        snprintf(c->vae.why, sizeof c->vae.why,
                 "On the same card: it decodes a clip while the next "
                 "is denoised.");
    } else {
        const lx_card *second = &f->cards->card[at.second];
        snprintf(c->vae.why, sizeof c->vae.why, "%s, %s: the DiT has the other card for itself.",
                 name_of(second, other), cli_bytes(second->vram_bytes, bytes, sizeof bytes));
        if (second->vram_bytes == best->vram_bytes && second->major == best->major &&
            second->multiprocessors == best->multiprocessors)
            note(c,
                 "two cards of one kind can denoise two clips at once: dit: {replicas: [{device: "
                 "\"cuda:%d\"}, {device: \"cuda:%d\"}]}",
                 at.best, at.second);
    }
    place_encoder(c, f, c->vae.card);
}

void cli_choose(cli_choice *out, const cli_facts *facts)
{
    char text[280];
    memset(out, 0, sizeof *out);
    out->encoder.card = out->dit.card = out->vae.card = out->mux.card = LX_DEVICE_CPU;
    const char *why = no_cards(facts, text, sizeof text);
    found at = {LX_DEVICE_CPU, LX_DEVICE_CPU};
    if (!why) {
        at = find_cards(out, facts->cards);
        why = at.best < 0 ? "no card here can be used" : NULL;
    }
    if (!why)
        place_on_cards(out, facts, at);
    else
        snprintf(out->dit.why, sizeof out->dit.why, "All stages compute on the CPU: %s.", why);
}
