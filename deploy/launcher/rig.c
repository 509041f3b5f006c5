/*
 * rig.c - cards and memory of this machine, or of one in words
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>

#include "lx_host.h"
#include "lx_process.h"

#define GIB           ((uint64_t)1 << 30)
#define KEEP_DISPLAY  GIB            /* of a card that drives a display */
#define KEEP_CARD     (GIB * 3 / 10) /* of another */
#define LINK_SHARE    0.85           /* of a PCIe link's raw rate that copies reach */
#define DESCRIBED_RAM (32 * GIB)     /* where a description does not say */

/* --- known cards ------------------------------------------------------------------------------ */

/* Peaks: NVIDIA's white papers for 3090, 4090, 5090, A100, H100; the others by the same products
 * of multiprocessors, boost clock and 1024 (halved with float32 sums; int8 twice) from NVIDIA's
 * data sheets. Shared memory per block: CUDA C++ Programming Guide, "Compute Capabilities". */
static const struct known {
    const char *key, *name;
    int major, minor, n_sm, shared_bytes;
    double gib, memory_gbs, tops8, tflops16;
    int gen, lanes;
} known_cards[] = {
    {"rtx3060ti", "NVIDIA GeForce RTX 3060 Ti", 8, 6, 38, 101376, 8, 448, 130, 32.4, 4, 16},
    {"rtx3060", "NVIDIA GeForce RTX 3060", 8, 6, 28, 101376, 12, 360, 102, 25.5, 4, 16},
    {"rtx3070", "NVIDIA GeForce RTX 3070", 8, 6, 46, 101376, 8, 448, 163, 40.6, 4, 16},
    {"rtx3080", "NVIDIA GeForce RTX 3080", 8, 6, 68, 101376, 10, 760, 238, 59.5, 4, 16},
    {"rtx3090", "NVIDIA GeForce RTX 3090", 8, 6, 82, 101376, 24, 936, 284, 71, 4, 16},
    {"rtx4060", "NVIDIA GeForce RTX 4060", 8, 9, 24, 101376, 8, 272, 121, 30.2, 4, 8},
    {"rtx4070", "NVIDIA GeForce RTX 4070", 8, 9, 46, 101376, 12, 504, 233, 58.3, 4, 16},
    {"rtx4080", "NVIDIA GeForce RTX 4080", 8, 9, 76, 101376, 16, 717, 390, 97.5, 4, 16},
    {"rtx4090", "NVIDIA GeForce RTX 4090", 8, 9, 128, 101376, 24, 1008, 660.6, 165.2, 4, 16},
    {"rtx5070", "NVIDIA GeForce RTX 5070", 12, 0, 48, 101376, 12, 672, 247, 61.7, 5, 16},
    {"rtx5080", "NVIDIA GeForce RTX 5080", 12, 0, 84, 101376, 16, 960, 450, 112.6, 5, 16},
    {"rtx5090", "NVIDIA GeForce RTX 5090", 12, 0, 170, 101376, 32, 1792, 838, 209.5, 5, 16},
    {"a100", "NVIDIA A100-SXM4-80GB", 8, 0, 108, 166912, 80, 2039, 624, 312, 4, 16},
    {"h100", "NVIDIA H100 80GB HBM3", 9, 0, 132, 232448, 80, 3350, 1978.9, 989.4, 5, 16},
    {"h200", "NVIDIA H200", 9, 0, 132, 232448, 140.4, 4800, 1978.9, 989.4, 5, 16},
};
#define N_KNOWN (sizeof known_cards / sizeof *known_cards)

static const struct known *find_known(const char *key)
{
    if (strncasecmp(key, "rtx", 3) != 0 && *key >= '0' && *key <= '9') { /* "3060" */
        for (size_t i = 0; i < N_KNOWN; i++)
            if (strcasecmp(known_cards[i].key + 3, key) == 0)
                return &known_cards[i];
    }
    for (size_t i = 0; i < N_KNOWN; i++)
        if (strcasecmp(known_cards[i].key, key) == 0)
            return &known_cards[i];
    return NULL;
}

/* The driver's name without spaces, to meet "rtx3060ti" in it. The longer keys come first. */
static const struct known *known_by_name(const char *name)
{
    char plain[96];
    size_t n = 0;
    for (; *name && n + 1 < sizeof plain; name++)
        if (*name != ' ' && *name != '-')
            plain[n++] = *name >= 'A' && *name <= 'Z' ? (char)(*name - 'A' + 'a') : *name;
    plain[n] = 0;
    for (size_t i = 0; i < N_KNOWN; i++)
        if (strstr(plain, known_cards[i].key))
            return &known_cards[i];
    return NULL;
}

/* GB/s of one lane of each generation, 1e9 bytes/s, after line coding. */
static double pcie_gbs(int gen, int lanes)
{
    static const double lane[] = {0, 0.25, 0.5, 0.985, 1.969, 3.938, 7.56};
    return gen > 0 && gen < 7 ? lane[gen] * lanes * LINK_SHARE : 0;
}

/* For a card that nobody listed: what its generation does per multiprocessor at 1.7 GHz. */
static void guess_peaks(rig_rates *rates, const lx_card *card)
{
    int cc = card->major * 10 + card->minor;
    double per_clock = cc == 90 || cc == 100 ? 4096 : cc == 80 ? 2048 : 512; /* bf16, f32 sums */
    bool is_halved = per_clock < 1000; /* GeForce: int8 is not, bf16 with float32 sums is */
    rates->tflops16 = card->multiprocessors * per_clock * 1.7e9 / 1e12;
    rates->tops8 = rates->tflops16 * (is_halved ? 4 : 2);
    rates->memory_gbs = 300;
}

static void fill_rates(rig_rates *rates, const lx_card *card)
{
    const struct known *k = known_by_name(card->name);
    if (k)
        *rates =
            (rig_rates){.tops8 = k->tops8, .tflops16 = k->tflops16, .memory_gbs = k->memory_gbs};
    else
        guess_peaks(rates, card);
    /* An idle card lowers the generation of its link, seldom its width. */
    bool is_true = card->pcie.under_load || !card->pcie.gen_max;
    rates->pcie_gbs = pcie_gbs(is_true ? card->pcie.gen : card->pcie.gen_max, card->pcie.width);
    if (rates->pcie_gbs <= 0)
        rates->pcie_gbs = pcie_gbs(3, 16);
    if (card->to_card_gbs > 0) {
        rates->pcie_gbs = card->to_card_gbs;
        rates->is_measured = true;
    }
}

/* --- this machine ----------------------------------------------------------------------------- */

static void look_at_memory(rig *r)
{
    lx_host_memory memory;
    lx_host_memory_look(&memory);
    r->ram_bytes = memory.all;
    r->ram_free_bytes = memory.available;
    struct statvfs shm;
    if (statvfs("/dev/shm", &shm) == 0)
        r->shm_free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
}

lx_status rig_look(rig *out, bool needs_cards, lx_err *err)
{
    memset(out, 0, sizeof *out);
    look_at_memory(out);
    cpu_set_t set;
    out->n_cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (!needs_cards)
        return LX_OK;
    lx_status status = lx_device_probe(&out->cards, NULL, err);
    for (int i = 0; status == LX_OK && i < out->cards.n; i++)
        fill_rates(&out->rates[i], &out->cards.card[i]);
    return status;
}

/* --- a machine in words ----------------------------------------------------------------------- */

static lx_status refuse_word(const char *word, lx_err *err)
{
    char list[256] = "";
    for (size_t i = 0; i < N_KNOWN; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? " " : "",
                 known_cards[i].key);
    return lx_fail(err, LX_ECONFIG,
                   "--rig: \"%.60s\" is not understood; such as rtx3060:12GiB,display,pcie=3x4,"
                   "ram=32GiB; cards by '+'; also cpu=CORES, disk=GB/s, shm=SIZE, and sm=N,cc=8.6 "
                   "for a card that is none of %s",
                   word, list);
}

static lx_status set_memory(lx_card *card, const char *text, lx_err *err)
{
    uint64_t bytes;
    lx_status status = lx_parse_bytes(text, &bytes, err);
    if (status != LX_OK)
        return lx_wrap(err, "--rig");
    if (bytes < GIB || bytes > 1024 * GIB)
        return lx_fail(err, LX_ECONFIG, "--rig: a card of %.20s: accepted are 1GiB to 1TiB", text);
    /* What CUDA may use is less than what stands on the box: 11.75 GiB of a 3060's 12. */
    card->vram_bytes = card->vram_free_bytes = bytes / 48 * 47;
    return LX_OK;
}

/* "rtx3060" or "rtx3060:12GiB": a card begins. */
static lx_status begin_card(rig *r, const char *word, lx_err *err)
{
    char key[64];
    size_t n = strcspn(word, ":");
    snprintf(key, sizeof key, "%.*s", (int)n, word);
    const struct known *k = find_known(key);
    if (!k && !word[n])
        return refuse_word(word, err);
    if (r->cards.n == LX_CARDS_MAX)
        return lx_fail(err, LX_ECONFIG, "--rig: more than %d cards", LX_CARDS_MAX);
    int i = r->cards.n++;
    lx_card *card = &r->cards.card[i];
    snprintf(card->name, sizeof card->name, "%s", k ? k->name : key);
    snprintf(card->uuid, sizeof card->uuid, "GPU-described-%d", i);
    snprintf(card->pci, sizeof card->pci, "0000:%02x:00.0", i + 1);
    card->major = k ? k->major : 8;
    card->minor = k ? k->minor : 6;
    card->multiprocessors = k ? k->n_sm : 28;
    card->shared_bytes = k ? (uint64_t)k->shared_bytes : 101376;
    card->pcie.gen = card->pcie.gen_max = k ? k->gen : 4;
    card->pcie.width = card->pcie.width_max = k ? k->lanes : 16;
    card->pcie.under_load = card->has_ipc = true;
    if (word[n])
        return set_memory(card, word + n + 1, err);
    card->vram_bytes = card->vram_free_bytes = (uint64_t)(k->gib * (double)GIB) / 48 * 47;
    return LX_OK;
}

/* "gen x lanes" of pcie=3x4, "major.minor" of cc=8.6. */
static bool two_numbers(const char *text, char between, int *a, int *b)
{
    char mark, end;
    return sscanf(text, "%2d%c%2d%c", a, &mark, b, &end) == 3 && mark == between && *a >= 0 &&
           *b >= 0;
}

static lx_status card_word(lx_card *card, const char *word, lx_err *err)
{
    int a, b;
    int64_t n;
    if (card && strcmp(word, "display") == 0) {
        card->has_display = true;
    } else if (card && strncmp(word, "pcie=", 5) == 0 && two_numbers(word + 5, 'x', &a, &b) &&
               pcie_gbs(a, b) > 0) {
        card->pcie.gen = card->pcie.gen_max = a;
        card->pcie.width = b;
    } else if (card && strncmp(word, "cc=", 3) == 0 && two_numbers(word + 3, '.', &a, &b) &&
               a >= 8) {
        card->major = a;
        card->minor = b;
        card->shared_bytes = a == 9 || a == 10 ? 232448 : a == 8 && b == 0 ? 166912 : 101376;
    } else if (card && strncmp(word, "sm=", 3) == 0 && lx_parse_i64(word + 3, &n) && n > 0 &&
               n <= 1024) {
        card->multiprocessors = (int)n;
    } else {
        return refuse_word(word, err);
    }
    return LX_OK;
}

/* ram=, shm=, cpu=, disk=. False: it is none of these. */
static bool machine_word(rig *r, const char *word, lx_status *status, lx_err *err)
{
    int64_t n;
    const char *value = strchr(word, '=');
    if (!value++)
        return false;
    if (strncmp(word, "ram=", 4) == 0) {
        *status = lx_parse_bytes(value, &r->ram_bytes, err);
    } else if (strncmp(word, "shm=", 4) == 0) {
        *status = lx_parse_bytes(value, &r->shm_free_bytes, err);
    } else if (strncmp(word, "cpu=", 4) == 0 && lx_parse_i64(value, &n) && n > 0 && n <= 1024) {
        r->n_cores = (int)n;
    } else if (strncmp(word, "disk=", 5) == 0 && lx_parse_real(value, &r->disk_gbs) &&
               r->disk_gbs > 0 && r->disk_gbs < 1000) {
        *status = LX_OK;
    } else {
        return false;
    }
    return true;
}

lx_status rig_parse(rig *out, const char *text, lx_err *err)
{
    char words[1024];
    memset(out, 0, sizeof *out);
    out->is_described = true;
    out->n_cores = 8;
    out->ram_bytes = DESCRIBED_RAM;
    snprintf(out->cards.driver, sizeof out->cards.driver, "described");
    if ((size_t)snprintf(words, sizeof words, "%s", text) >= sizeof words)
        return lx_fail(err, LX_ECONFIG, "--rig: more than %zu characters", sizeof words - 1);
    char *rest = NULL, *piece_rest = NULL;
    for (char *piece = strtok_r(words, "+;", &rest); piece; piece = strtok_r(NULL, "+;", &rest)) {
        lx_card *card = NULL;
        for (char *word = strtok_r(piece, ", ", &piece_rest); word;
             word = strtok_r(NULL, ", ", &piece_rest)) {
            lx_status status = LX_OK;
            if (machine_word(out, word, &status, err)) {
                status = status == LX_OK ? LX_OK : lx_wrap(err, "--rig");
            } else if (!card && !strchr(word, '=') && strcmp(word, "display") != 0) {
                status = begin_card(out, word, err);
                card = status == LX_OK ? &out->cards.card[out->cards.n - 1] : NULL;
            } else {
                status = card_word(card, word, err);
            }
            if (status != LX_OK)
                return status;
        }
    }
    out->ram_free_bytes = out->ram_bytes;
    if (!out->shm_free_bytes)
        out->shm_free_bytes = out->ram_bytes / 2; /* what Linux gives /dev/shm */
    for (int i = 0; i < out->cards.n; i++)
        fill_rates(&out->rates[i], &out->cards.card[i]);
    return LX_OK;
}

/* --- budgets ---------------------------------------------------------------------------------- */

static uint64_t less(uint64_t bytes, uint64_t keep)
{
    return bytes > keep ? bytes - keep : 0;
}

lx_status rig_vram(const rig *r, const lx_config *config, int card, uint64_t *out, lx_err *err)
{
    const lx_vram_config *v = &config->memory.vram;
    const lx_card *c = &r->cards.card[card];
    uint64_t bytes = v->every;
    for (int i = 0; i < v->n; i++) {
        int index;
        lx_status status = lx_device_resolve(&index, v->card[i].device, &r->cards, err);
        if (status != LX_OK)
            return lx_wrap(err, "memory.vram");
        if (index == card)
            bytes = v->card[i].bytes;
    }
    if (!bytes)
        bytes = less(c->vram_free_bytes, c->has_display ? KEEP_DISPLAY : KEEP_CARD);
    *out = bytes < c->vram_bytes ? bytes : c->vram_bytes;
    return LX_OK;
}

uint64_t rig_ram(const rig *r, const lx_config *config)
{
    return config->memory.ram ? config->memory.ram : less(r->ram_free_bytes, LX_HOST_KEEP);
}

void rig_kind(const rig *r, int card, lx_plan_question *q)
{
    const lx_card *c = &r->cards.card[card];
    snprintf(q->kind.name, sizeof q->kind.name, "%s", c->name);
    for (char *p = q->kind.name; *p; p++)
        if (*p == ';' || *p == '=') /* they end the name in a question */
            *p = ' ';
    q->kind.major = c->major;
    q->kind.minor = c->minor;
    q->kind.n_sm = c->multiprocessors;
    q->kind.shared_bytes = (int)c->shared_bytes;
    q->kind.total_bytes = c->vram_bytes;
    q->is_card = true;
}
