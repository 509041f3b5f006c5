/*
 * probe_main.c - lx2v-probe [--json] [--measure] | --watch PCI...
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "probe.h"

static const char usage[] =
    "usage: lx2v-probe [--json] [--measure] | --watch PCI...\n"
    "\n"
    "Prints what the driver says about the cards, as JSON (docs/json.md); `lx2v doctor` tells it\n"
    "to people. Without a driver: {\"driver\": null, \"reason\": ...}.\n"
    "\n"
    "  --json     on one line; otherwise indented\n"
    "  --measure  also copies between host and cards, between cards, and between two processes\n"
    "             (CUDA IPC), and compares the bytes; some seconds and 512 MiB for each card\n"
    "  --watch    look at these cards (0000:01:00.0 ...) until stdin ends, then print peaks of\n"
    "             memory; `mark` on stdin notes their energy counters\n"
    "  --version  version and backend\n"
    "\n"
    "Exit codes: 0 ok, with and without a driver, 2 usage.\n";

static int print(const lx_cards *cards, bool is_one_line)
{
    json_t *json = probe_json(cards);
    size_t flags = JSON_REAL_PRECISION(6) | (is_one_line ? JSON_COMPACT : JSON_INDENT(2));
    int bad = !json || json_dumpf(json, stdout, flags);
    json_decref(json);
    bad |= putchar('\n') == EOF || fflush(stdout) != 0;
    return bad;
}

static int look(bool is_one_line, bool measure)
{
    static probe p;
    probe_visible visible;
    alarm(measure ? PROBE_MEASURE_S : PROBE_ALARM_S);
    p.cards.cuda_needed = LX2V_CUDA_NEEDED;
    probe_look_visible(&visible);
    unsetenv("CUDA_VISIBLE_DEVICES");
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    probe_load_nvml(&p);
    bool is_usable = probe_load_cuda(&p);
    if (!p.cu.init)
        p.cards.driver[0] = 0; /* no libcuda: what else is installed is of no use */
    else if (!*p.cards.driver)
        probe_module_version(p.cards.driver, sizeof p.cards.driver);
    if (is_usable) {
        probe_list(&p, &visible);
        if (measure)
            probe_measure(&p);
    }
    int bad = print(&p.cards, is_one_line);
    if (p.cards.has_nvml && p.nvml.shutdown)
        p.nvml.shutdown();
    return bad;
}

int main(int argc, char **argv)
{
    bool measure = false, is_one_line = false;
    if (argc > 1 && strcmp(argv[1], "--watch") == 0)
        return probe_watch(argc - 2, argv + 2);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            is_one_line = true;
        } else if (strcmp(argv[i], "--measure") == 0) {
            measure = true;
        } else if (strcmp(argv[i], "--ipc-child") == 0) {
            prctl(PR_SET_PDEATHSIG, 9); /* it is of no use without the one that asks */
            alarm(PROBE_ALARM_S);
            return probe_ipc_child();
        } else if (strcmp(argv[i], "--version") == 0) {
            puts("lx2v-probe " LX2V_VERSION " (" LX2V_BACKEND ")");
            return 0;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        } else {
            fprintf(stderr, "lx2v-probe: unknown option %.64s\n%s", argv[i], usage);
            return 2;
        }
    }
    return look(is_one_line, measure);
}
