/*
 * cli_cards.c - lines and advice about cards
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli_cards.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "cli.h"
#include "lx_card.h"

/* Compute capabilities, major * 10 + minor (CUDA C++ Programming Guide, "Compute Capabilities"). */
#define CC_LEAST 80 /* bf16, asynchronous copies: what our kernels are built on */

static int cc_of(const lx_card *card)
{
    return card->major * 10 + card->minor;
}

void cli_note(cli_notes *notes, const char *format, ...)
{
    if (notes->n == CLI_NOTES_MAX)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(notes->text[notes->n++], sizeof notes->text[0], format, args);
    va_end(args);
}

const char *cli_cards_driver_for(int cuda)
{
    switch (cuda / 1000) { /* CUDA release notes, table "minor version compatibility" */
    case 11:
        return "450";
    case 12:
        return "525";
    case 13:
        return "580";
    default:
        return "";
    }
}

/* --- one card --------------------------------------------------------------------------------- */

bool cli_card_use_of(cli_card_use *out, const lx_card *card)
{
    lx_card_kind kind = {.major = card->major, .minor = card->minor};
    *out = (cli_card_use){0};
    if (cc_of(card) < CC_LEAST)
        return false;
    (void)lx_card_limit(&kind, NULL); /* a word that is no limit: cli_cards_advise */
    if (kind.is_from)
        snprintf(out->held_to, sizeof out->held_to, "%d.%d", kind.major, kind.minor);
    out->has_fp8 = lx_card_has_fp8(&kind);
    out->attention = lx_card_has_wgmma(&kind) ? "wgmma" : "mma.sync";
    out->sums = lx_card_has_slow_f32_sums(&kind) ? "fp16" : "fp32";
    return true;
}

static void print_meaning(FILE *to, const lx_card *card)
{
    cli_card_use use;
    if (!cli_card_use_of(&use, card)) {
        fprintf(to,
                "          too old: lx2v needs compute capability 8.0 (RTX 30, A100 and later)\n");
        return;
    }
    if (*use.held_to)
        fprintf(to, "          held to %s by LX2V_ARCH_MAX: newer kernels are not used\n",
                use.held_to);
    fprintf(to, "          bf16 yes, INT8 tensor cores yes, FP8 %s\n",
            use.has_fp8 ? "native" : "dequantised to bf16 (native from 8.9)");
    fprintf(to, "          attention of long clips: int8-fp16 by %s, sums in %s; by choice %s\n",
            use.attention,
            strcmp(use.sums, "fp16") == 0 ? "fp16 (fp32 runs at half rate)" : "fp32 (at full rate)",
            use.has_fp8 ? "int8-fp8, bf16" : "bf16");
}

static void print_pcie(FILE *to, const lx_card *card)
{
    if (card->is_integrated) {
        fprintf(to, "          shares the host's memory\n");
        return;
    }
    fprintf(to, "          PCIe ");
    if (card->pcie.gen > 0 && card->pcie.width > 0)
        fprintf(to, "%d.0 x%d", card->pcie.gen, card->pcie.width);
    else
        fprintf(to, "link not told");
    if (card->pcie.gen_max > 0 && card->pcie.width_max > 0)
        fprintf(to, " of %d.0 x%d", card->pcie.gen_max, card->pcie.width_max);
    if (card->pcie.under_load)
        fprintf(to, " under load");
    else if (card->pcie.gen > 0)
        fprintf(to, " when idle, which may be less than under load");
    if (card->to_card_gbs > 0)
        fprintf(to, "; %.1f GB/s to the card, %.1f GB/s back, pinned", card->to_card_gbs,
                card->from_card_gbs);
    else
        fprintf(to, "; --measure copies");
    fputc('\n', to);
}

static const char *check_word(lx_check check)
{
    return check == LX_CHECK_OK ? "good" : check == LX_CHECK_FAILED ? "FAILED" : "not tried";
}

static void print_ipc(FILE *to, const lx_card *card)
{
    if (card->ipc == LX_CHECK_UNKNOWN)
        fprintf(to, "          CUDA IPC: the driver says %s%s\n", card->has_ipc ? "yes" : "no",
                card->has_ipc ? "; --measure tries it" : "");
    else
        fprintf(to, "          CUDA IPC, tried with a second process: memory %s, events %s\n",
                check_word(card->ipc), check_word(card->ipc_event));
    if (card->copies != LX_CHECK_UNKNOWN)
        fprintf(to, "          bytes through the card and back: %s\n",
                card->copies == LX_CHECK_OK ? "unchanged" : "CHANGED");
    if (*card->trouble)
        fprintf(to, "          trouble: %s\n", card->trouble);
}

static void print_processes(FILE *to, const lx_card *card)
{
    char bytes[32], name[64];
    for (int i = 0; i < card->n_processes; i++) {
        const lx_card_process *p = &card->process[i];
        fprintf(to, "          used by %s (pid %" PRId64 ")%s%s\n",
                *p->name ? cli_safe(p->name, name, sizeof name) : "another program", p->pid,
                p->bytes ? ": " : "", p->bytes ? cli_bytes(p->bytes, bytes, sizeof bytes) : "");
    }
}

static void print_card(FILE *to, const lx_card *card, int index)
{
    char all[32], free_bytes[32], power[32] = "", numa[32] = "";
    if (card->power_limit_w > 0)
        snprintf(power, sizeof power, ", limit %.0f W", card->power_limit_w);
    if (card->numa_node >= 0)
        snprintf(numa, sizeof numa, ", NUMA node %d", card->numa_node);
    fprintf(to, "cuda:%-4d %s, %s, at %s%s\n", index, card->name, card->uuid, card->pci, numa);
    fprintf(to, "          compute capability %d.%d (%s), %d multiprocessors%s%s\n", card->major,
            card->minor, lx_card_family(card->major, card->minor), card->multiprocessors, power,
            card->is_mig ? ", MIG part" : "");
    fprintf(to, "          %s, %s free%s\n", cli_bytes(card->vram_bytes, all, sizeof all),
            cli_bytes(card->vram_free_bytes, free_bytes, sizeof free_bytes),
            card->has_display ? ", drives a display" : "");
    print_meaning(to, card);
    print_pcie(to, card);
    print_ipc(to, card);
    print_processes(to, card);
}

/* --- all of them ------------------------------------------------------------------------------ */

static void print_driver(FILE *to, const lx_cards *cards)
{
    if (!*cards->driver) {
        fprintf(to, "driver    %s\n", *cards->reason ? cards->reason : "none");
        return;
    }
    fprintf(to, "driver    %s", cards->driver);
    if (cards->cuda > 0)
        fprintf(to, ", CUDA %d.%d", cards->cuda / 1000, cards->cuda % 1000 / 10);
    if (cards->cuda_needed > 0)
        fprintf(to, "; this build needs CUDA %d.%d (driver %s or newer)", cards->cuda_needed / 1000,
                cards->cuda_needed % 1000 / 10, cli_cards_driver_for(cards->cuda_needed));
    if (*cards->reason)
        fprintf(to, "; %s", cards->reason);
    fputc('\n', to);
}

static void print_links(FILE *to, const lx_cards *cards)
{
    for (int i = 0; i < cards->n; i++)
        for (int k = 0; k < cards->n; k++) {
            const lx_card_link *link = &cards->link[i][k];
            if (i == k)
                continue;
            fprintf(to, "%-9s cuda:%d to cuda:%d: %s", i == 0 && k == 1 ? "links" : "", i, k,
                    link->has_access ? "peer access" : "through the host");
            if (link->gbs > 0)
                fprintf(to, ", %.1f GB/s", link->gbs);
            if (link->copies != LX_CHECK_UNKNOWN)
                fprintf(to, ", bytes %s",
                        link->copies == LX_CHECK_OK ? "unchanged" : "do not arrive unchanged");
            fputc('\n', to);
        }
}

void cli_cards_print(FILE *to, const lx_cards *cards)
{
    print_driver(to, cards);
    for (int i = 0; i < cards->n; i++)
        print_card(to, &cards->card[i], i);
    print_links(to, cards);
}

/* --- advice ----------------------------------------------------------------------------------- */

static void advise_card(cli_notes *notes, const lx_card *card, int i)
{
    if (cc_of(card) < CC_LEAST)
        cli_note(notes,
                 "cuda:%d: %s has compute capability %d.%d, and 8.0 is needed; use device: "
                 "cpu, or another card",
                 i, card->name, card->major, card->minor);
    if (card->is_exclusive)
        cli_note(notes,
                 "cuda:%d: its compute mode lets one process in; stages that share it need "
                 "`nvidia-smi -i %d -c DEFAULT`",
                 i, i);
    if (card->is_mig)
        cli_note(notes, "cuda:%d: MIG is on; CUDA shows one part of it", i);
    if (card->pcie.under_load && card->pcie.width < card->pcie.width_max)
        cli_note(notes,
                 "cuda:%d: x%d of x%d lanes: weights that do not stay on the card stream at "
                 "%.1f GB/s; another slot may be wider",
                 i, card->pcie.width, card->pcie.width_max, card->to_card_gbs);
    if (card->copies == LX_CHECK_FAILED)
        cli_note(notes,
                 "cuda:%d: copies fail or change bytes: the card, its slot or its riser is "
                 "not to be trusted",
                 i);
    if (card->ipc == LX_CHECK_FAILED && card->has_ipc)
        cli_note(notes,
                 "cuda:%d: CUDA IPC fails although the driver promises it; stages then hand "
                 "over through shared memory (in a container: --ipc=host may help)",
                 i);
    if (card->vram_free_bytes < card->vram_bytes / 2) {
        uint64_t told = 0;
        for (int k = 0; k < card->n_processes; k++)
            told += card->process[k].bytes;
        char bytes[32];
        cli_note(notes, "cuda:%d: %s is in use by other programs%s", i,
                 cli_bytes(card->vram_bytes - card->vram_free_bytes, bytes, sizeof bytes),
                 told ? " (listed above)" : "");
    }
}

void cli_cards_advise(cli_notes *notes, const lx_cards *cards)
{
    if (cards->n > 0 && cards->cuda_needed > 0 && cards->cuda < cards->cuda_needed)
        cli_note(notes,
                 "the driver (%s, CUDA %d.%d) is too old for this build, which needs driver "
                 "%s or newer",
                 cards->driver, cards->cuda / 1000, cards->cuda % 1000 / 10,
                 cli_cards_driver_for(cards->cuda_needed));
    if (*cards->hidden_by)
        cli_note(notes,
                 "%s; lx2v-launch does not pass it on to its stages: it counts all cards, "
                 "in PCI order",
                 cards->hidden_by);
    if (cards->n > 0 && !cards->has_nvml)
        cli_note(notes, "NVML (libnvidia-ml.so.1) does not answer: displays, links, power and "
                        "other programs' memory are unknown");
    lx_err err = {0};
    lx_card_kind newest = {.major = 99};
    if (cards->n > 0 && lx_card_limit(&newest, &err) != LX_OK)
        cli_note(notes, "%.280s; with this in their environment stages will not start on a card",
                 err.message);
    for (int i = 0; i < cards->n; i++)
        advise_card(notes, &cards->card[i], i);
    for (int i = 0; i < cards->n; i++)
        for (int k = 0; k < cards->n; k++)
            if (i != k && cards->link[i][k].copies == LX_CHECK_FAILED)
                cli_note(notes,
                         "cuda:%d to cuda:%d: a copy between the cards does not arrive "
                         "unchanged (an IOMMU in the way?); tensors then go through the "
                         "host",
                         i, k);
}
