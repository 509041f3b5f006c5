/*
 * probe_watch.c - lx2v-probe --watch: peaks of memory, and energy, while something runs
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      `lx2v bench` keeps it beside a run. It looks at the given cards every 50 ms through
 *           NVML alone (no CUDA context, which would itself take memory), and prints one line of
 *           JSON when its stdin ends. A line "mark" there notes the energy counters: what is told
 *           is from the first mark to the last. A line "lap" ends a lap: the peak of each is told.
 * Promise   Without NVML it waits for the end of stdin all the same and says so.
 * Tests     tests/unit/test_watch.c
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lx_process.h"
#include "lx_utf8.h"
#include "probe.h"

#define EVERY_MS  50
#define SEEN_MAX  64   /* processes that were ever on one card */
#define LIST_MAX  128u /* processes NVML may list at once */
#define LAPS_MAX  64   /* the last one takes all that follow */
#define ENTRY_FIT 2    /* some drivers wrote longer entries: see probe_nvml.c */

typedef struct seen {
    unsigned pid;
    uint64_t peak_bytes; /* 0: the driver does not tell */
    char name[32];
} seen;

typedef struct watched {
    const char *pci; /* borrowed from argv */
    nvml_device device;
    uint64_t total_bytes, first_bytes, peak_bytes;
    uint64_t lap_bytes[LAPS_MAX];  /* peak of each lap */
    unsigned long long mark_mj[2]; /* energy at the first and at the last mark */
    int n_seen;
    seen seen[SEEN_MAX];
} watched;

typedef struct watch {
    nvml_api *nvml;
    int n_cards, n_marks, n_laps; /* laps that have ended */
    double mark_s[2];
    uint64_t n_samples;
    nvml_process list[LIST_MAX * ENTRY_FIT];
    watched card[LX_CARDS_MAX];
} watch;

static void note_process(watched *c, const nvml_process *found)
{
    int i = 0;
    if (found->pid == 0 || found->pid > INT32_MAX)
        return;
    while (i < c->n_seen && c->seen[i].pid != found->pid)
        i++;
    if (i == SEEN_MAX)
        return;
    seen *s = &c->seen[i];
    if (i == c->n_seen) {
        char path[64];
        *s = (seen){.pid = found->pid};
        c->n_seen++;
        snprintf(path, sizeof path, "/proc/%u/comm", found->pid);
        FILE *file = fopen(path, "re"); /* in a container the numbers may be of another world */
        if (file && fgets(s->name, sizeof s->name, file))
            s->name[strcspn(s->name, "\n")] = 0;
        if (file)
            fclose(file);
    }
    uint64_t bytes = found->bytes == ~0ULL ? 0 : found->bytes;
    if (bytes > s->peak_bytes && bytes <= c->total_bytes)
        s->peak_bytes = bytes;
}

static void list_processes(watch *w, watched *c,
                           int (*list)(nvml_device, unsigned *, nvml_process *))
{
    unsigned n = LIST_MAX;
    memset(w->list, 0, sizeof w->list);
    if (!list || list(c->device, &n, w->list) != 0)
        return;
    for (unsigned i = 0; i < n && i < LIST_MAX; i++)
        note_process(c, &w->list[i]);
}

static void sample(watch *w)
{
    alarm(PROBE_ALARM_S); /* whatever hangs in the driver */
    for (int i = 0; i < w->n_cards; i++) {
        watched *c = &w->card[i];
        nvml_memory memory = {0};
        if (!c->device)
            continue;
        if (w->nvml->memory && w->nvml->memory(c->device, &memory) == 0) {
            c->total_bytes = memory.total;
            if (w->n_samples == 0)
                c->first_bytes = memory.used;
            if (memory.used > c->peak_bytes)
                c->peak_bytes = memory.used;
            int lap = w->n_laps < LAPS_MAX ? w->n_laps : LAPS_MAX - 1;
            if (memory.used > c->lap_bytes[lap])
                c->lap_bytes[lap] = memory.used;
        }
        list_processes(w, c, w->nvml->compute_processes);
        list_processes(w, c, w->nvml->graphics_processes);
    }
    w->n_samples++;
    alarm(0);
}

static void mark(watch *w)
{
    int at = w->n_marks++ > 0;
    w->mark_s[at] = lx_now_s();
    for (int i = 0; i < w->n_cards; i++) {
        watched *c = &w->card[i];
        unsigned long long mj = 0;
        bool is_told = c->device && w->nvml->energy && w->nvml->energy(c->device, &mj) == 0;
        c->mark_mj[at] = is_told ? mj : 0;
    }
}

/* Orders that are there; false at the end of stdin. */
static bool obey(watch *w)
{
    static char line[64];
    static size_t n;
    char bytes[256];
    ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got <= 0)
        return got < 0 && errno == EINTR;
    for (ssize_t i = 0; i < got; i++) {
        if (bytes[i] != '\n') {
            if (n < sizeof line - 1)
                line[n++] = bytes[i];
            continue;
        }
        line[n] = 0;
        n = 0;
        if (strcmp(line, "mark") == 0)
            mark(w);
        else if (strcmp(line, "lap") == 0)
            w->n_laps++;
    }
    return true;
}

static json_t *bytes_or_null(uint64_t bytes)
{
    return bytes ? json_integer((json_int_t)bytes) : json_null();
}

static json_t *card_json(const watch *w, const watched *c)
{
    json_t *list = json_array(), *laps = json_array();
    for (int i = 0; i < w->n_laps && i < LAPS_MAX; i++)
        json_array_append_new(laps, bytes_or_null(c->lap_bytes[i]));
    for (int i = 0; i < c->n_seen; i++) {
        char name[32];
        lx_utf8_copy(name, sizeof name, c->seen[i].name);
        json_array_append_new(list, json_pack("{s:I, s:o, s:o}", "pid", (json_int_t)c->seen[i].pid,
                                              "name", *name ? json_string(name) : json_null(),
                                              "peak_bytes", bytes_or_null(c->seen[i].peak_bytes)));
    }
    bool has_energy = w->n_marks > 1 && c->mark_mj[0] > 0 && c->mark_mj[1] >= c->mark_mj[0];
    json_t *joules =
        has_energy ? json_real((double)(c->mark_mj[1] - c->mark_mj[0]) * 1e-3) : json_null();
    return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "pci", c->pci, "found",
                     c->device != NULL, "total_bytes", bytes_or_null(c->total_bytes), "first_bytes",
                     bytes_or_null(c->first_bytes), "peak_bytes", bytes_or_null(c->peak_bytes),
                     "lap_bytes", laps, "joules", joules, "processes", list);
}

static int tell(const watch *w, bool has_nvml, double seconds)
{
    json_t *cards = json_array();
    for (int i = 0; i < w->n_cards; i++)
        json_array_append_new(cards, card_json(w, &w->card[i]));
    json_t *all = json_pack("{s:i, s:b, s:f, s:I, s:o, s:o}", "watch", 1, "nvml", has_nvml,
                            "seconds", seconds, "samples", (json_int_t)w->n_samples, "joules_s",
                            w->n_marks > 1 ? json_real(w->mark_s[1] - w->mark_s[0]) : json_null(),
                            "cards", cards);
    int bad = !all || json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(all);
    return bad || putchar('\n') == EOF || fflush(stdout) != 0;
}

static bool is_pci(const char *text)
{
    return strlen(text) < sizeof((lx_card *)0)->pci &&
           strspn(text, "0123456789abcdefABCDEF:.") == strlen(text);
}

int probe_watch(int n, char **pci)
{
    static probe p;
    static watch w;
    if (n > LX_CARDS_MAX) {
        fprintf(stderr, "lx2v-probe: --watch: more than %d cards\n", LX_CARDS_MAX);
        return 2;
    }
    alarm(PROBE_ALARM_S);
    probe_load_nvml(&p);
    w.nvml = &p.nvml;
    for (w.n_cards = 0; w.n_cards < n; w.n_cards++) {
        watched *c = &w.card[w.n_cards];
        c->pci = pci[w.n_cards];
        if (!is_pci(c->pci)) {
            fprintf(stderr, "lx2v-probe: --watch: \"%.32s\" is no PCI address\n", c->pci);
            return 2;
        }
        if (p.cards.has_nvml && p.nvml.by_pci(c->pci, &c->device) != 0)
            c->device = NULL;
    }
    alarm(0);
    double start_s = lx_now_s();
    for (bool goes_on = true; goes_on;) {
        sample(&w);
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&in, 1, EVERY_MS) > 0)
            goes_on = obey(&w);
    }
    int bad = tell(&w, p.cards.has_nvml, lx_now_s() - start_s);
    if (p.cards.has_nvml && p.nvml.shutdown)
        p.nvml.shutdown();
    return bad;
}
