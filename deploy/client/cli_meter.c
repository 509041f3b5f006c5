/*
 * cli_meter.c - /proc, and what lx2v-probe --watch saw
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli_meter.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "lx_child.h"
#include "lx_limits.h"
#include "lx_process.h"

#define EVERY_S     0.05
#define PSS_EVERY_S 0.1
#define PSS_REST    20 /* smaps_rollup walks page tables: rest that many times as long as it took */
#define ANSWER_S    10.0
#define ANSWER_MAX  (256 * 1024)

/* The value of "KEY:   123 kB" in a file of /proc, in bytes; 0 if it is not there. */
static uint64_t proc_bytes(int64_t pid, const char *name, const char *key)
{
    char path[64], line[256];
    uint64_t kib = 0;
    size_t n = strlen(key);
    snprintf(path, sizeof path, "/proc/%" PRId64 "/%s", pid, name);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, n) == 0 && line[n] == ':') {
            if (sscanf(line + n + 1, "%" SCNu64, &kib) != 1)
                kib = 0;
            break;
        }
    if (file)
        fclose(file);
    return kib * 1024;
}

int64_t cli_meter_parent(int64_t pid)
{
    return (int64_t)(proc_bytes(pid, "status", "PPid") / 1024);
}

void cli_meter_add(cli_meter *m, int32_t stage, int32_t replica, int64_t pid)
{
    if (pid <= 0 || m->n == CLI_METER_MAX)
        return;
    for (int i = 0; i < m->n; i++)
        if (m->process[i].pid == pid)
            return;
    m->process[m->n++] = (cli_metered){.stage = stage, .replica = replica, .pid = pid};
}

static void look_at_rss(cli_meter *m)
{
    for (int i = 0; i < m->n; i++) {
        uint64_t peak = proc_bytes(m->process[i].pid, "status", "VmHWM");
        if (peak > m->process[i].peak_rss)
            m->process[i].peak_rss = peak;
    }
}

static void look_at_pss(cli_meter *m)
{
    uint64_t sum = 0;
    for (int i = 0; i < m->n; i++) {
        cli_metered *p = &m->process[i];
        p->pss = proc_bytes(p->pid, "smaps_rollup", "Pss");
        if (p->pss > p->peak_pss)
            p->peak_pss = p->pss;
        sum += p->pss;
    }
    if (sum > m->peak_pss)
        m->peak_pss = sum;
    int lap = m->n_laps < CLI_METER_LAPS ? m->n_laps : CLI_METER_LAPS - 1;
    if (sum > m->lap_pss[lap])
        m->lap_pss[lap] = sum;
    m->n_samples++;
}

void cli_meter_tick(cli_meter *m)
{
    double now = lx_now_s();
    if (now < m->due_s)
        return;
    m->due_s = now + EVERY_S;
    look_at_rss(m);
    if (now < m->pss_due_s)
        return;
    double from_s = lx_now_s();
    look_at_pss(m);
    double after_s = lx_now_s(), rest_s = (after_s - from_s) * PSS_REST;
    m->pss_due_s = after_s + (rest_s > PSS_EVERY_S ? rest_s : PSS_EVERY_S);
}

/* --- cards ------------------------------------------------------------------------------------ */

void cli_meter_open(cli_meter *m, const lx_cards *cards)
{
    char path[LX_LIMIT_PATH], flag[] = "--watch", pci[LX_CARDS_MAX][16];
    char *argv[LX_CARDS_MAX + 3] = {path, flag};
    *m = (cli_meter){.watch = {.in = -1, .out = -1}, .n_cards = cards->n};
    for (int i = 0; i < cards->n; i++) {
        snprintf(pci[i], sizeof pci[i], "%s", cards->card[i].pci);
        argv[i + 2] = pci[i];
        m->card[i].index = i;
    }
    lx_err err = {0};
    cli_process_plan plan = {.argv = argv, .is_fed = true, .death_signal = SIGKILL};
    if (cards->n == 0)
        snprintf(m->trouble, sizeof m->trouble, "%.250s",
                 *cards->reason ? cards->reason : "no card");
    else if (!cards->has_nvml)
        snprintf(m->trouble, sizeof m->trouble, "NVML (libnvidia-ml.so.1) is not there");
    else if (lx_child_beside(path, sizeof path, "lx2v-probe", &err) != LX_OK ||
             cli_process_start(&m->watch, &plan, &err) != LX_OK)
        snprintf(m->trouble, sizeof m->trouble, "%.250s", err.message);
}

static void tell_watch(cli_meter *m, const char *line)
{
    if (m->watch.in >= 0 && write(m->watch.in, line, strlen(line)) < 0)
        close(m->watch.in), m->watch.in = -1; /* it has ended; the answer will show */
}

void cli_meter_mark(cli_meter *m)
{
    tell_watch(m, "mark\n");
}

void cli_meter_lap(cli_meter *m)
{
    look_at_pss(m);
    m->n_laps++;
    tell_watch(m, "lap\n");
}

static uint64_t bytes_of(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

static void read_processes(cli_meter *m, const json_t *list)
{
    size_t k;
    json_t *one;
    json_array_foreach(list, k, one)
    {
        int64_t pid = (int64_t)bytes_of(one, "pid");
        for (int i = 0; i < m->n; i++) /* one process may use several cards */
            if (m->process[i].pid == pid)
                m->process[i].peak_vram += bytes_of(one, "peak_bytes");
    }
}

static void read_answer(cli_meter *m, const char *text, size_t bytes)
{
    size_t k;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL), *one;
    const json_t *cards = json_object_get(root, "cards");
    if (!json_is_array(cards) || json_array_size(cards) != (size_t)m->n_cards)
        snprintf(m->trouble, sizeof m->trouble, "lx2v-probe --watch: no answer to be believed");
    else
        json_array_foreach(cards, k, one)
        {
            cli_metered_card *card = &m->card[k];
            card->first_bytes = bytes_of(one, "first_bytes");
            card->peak_bytes = bytes_of(one, "peak_bytes");
            const json_t *laps = json_object_get(one, "lap_bytes");
            for (size_t i = 0; i < json_array_size(laps) && i < CLI_METER_LAPS; i++)
                card->lap_bytes[i] = (uint64_t)json_integer_value(json_array_get(laps, i));
            card->joules = json_number_value(json_object_get(one, "joules"));
            if (card->joules > 0)
                m->joules_s = json_number_value(json_object_get(root, "joules_s"));
            read_processes(m, json_object_get(one, "processes"));
        }
    json_decref(root);
}

/* All that it prints until it ends. */
static size_t read_all(cli_process *p, char *text, size_t room)
{
    size_t used = 0;
    for (double until = lx_now_s() + ANSWER_S; used < room && lx_now_s() < until;) {
        struct pollfd out = {.fd = p->out, .events = POLLIN};
        if (poll(&out, 1, 100) <= 0)
            continue;
        ssize_t n = read(p->out, text + used, room - used);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            break;
        used += n > 0 ? (size_t)n : 0;
    }
    return used;
}

void cli_meter_close(cli_meter *m)
{
    static char text[ANSWER_MAX];
    look_at_rss(m);
    if (m->watch.pid <= 0)
        return;
    if (m->watch.in >= 0)
        close(m->watch.in);
    m->watch.in = -1;
    read_answer(m, text, read_all(&m->watch, text, sizeof text));
    cli_process_stop(&m->watch, 1);
}

cli_metered cli_meter_of(const cli_meter *m, int32_t stage, int32_t replica)
{
    cli_metered out = {.stage = stage, .replica = replica};
    for (int i = 0; i < m->n; i++) {
        const cli_metered *p = &m->process[i];
        if (p->stage != stage || p->replica != replica)
            continue;
        out.pid = p->pid; /* the last one lives */
        out.peak_rss = p->peak_rss > out.peak_rss ? p->peak_rss : out.peak_rss;
        out.peak_pss = p->peak_pss > out.peak_pss ? p->peak_pss : out.peak_pss;
        out.peak_vram = p->peak_vram > out.peak_vram ? p->peak_vram : out.peak_vram;
    }
    return out;
}
