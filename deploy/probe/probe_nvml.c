/*
 * probe_nvml.c - what NVML adds: free memory, display, link, power, other processes
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

#define LIST_MAX 128u
/* Drivers 535.43 to 535.98 wrote longer entries under the same name; the buffer has room for them,
 * and what they garble is dropped by the check of the process number. */
#define ENTRY_ROOM 2

typedef int (*unsigned_fn)(nvml_device device, unsigned *value);

static unsigned ask(unsigned_fn function, nvml_device device)
{
    unsigned value = 0;
    return function && function(device, &value) == 0 ? value : 0;
}

static void add_process(lx_card *card, const nvml_process *found)
{
    uint64_t bytes = found->bytes == ~0ULL ? 0 : found->bytes;
    if (found->pid == 0 || found->pid > INT32_MAX || found->pid == (unsigned)getpid() ||
        bytes > card->vram_bytes)
        return;
    for (int i = 0; i < card->n_processes; i++)
        if (card->process[i].pid == found->pid) { /* it computes and draws */
            if (bytes > card->process[i].bytes)
                card->process[i].bytes = bytes;
            return;
        }
    if (card->n_processes == LX_CARD_PROCESSES_MAX)
        return;
    lx_card_process *process = &card->process[card->n_processes++];
    *process = (lx_card_process){.pid = found->pid, .bytes = bytes};
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/comm", found->pid);
    FILE *file = fopen(path, "re"); /* in a container the numbers may be of another world */
    if (file && fgets(process->name, sizeof process->name, file))
        process->name[strcspn(process->name, "\n")] = 0;
    if (file)
        fclose(file);
}

static void add_processes(lx_card *card, nvml_device device,
                          int (*list)(nvml_device, unsigned *, nvml_process *))
{
    unsigned n = LIST_MAX;
    nvml_process *found = calloc((size_t)LIST_MAX * ENTRY_ROOM, sizeof *found);
    if (found && list && list(device, &n, found) == 0)
        for (unsigned i = 0; i < n && i < LIST_MAX; i++)
            add_process(card, &found[i]);
    free(found);
}

void probe_nvml_link(probe *p, int i)
{
    lx_card *card = &p->cards.card[i];
    if (!p->nvml_device[i])
        return;
    int gen = (int)ask(p->nvml.pcie_gen, p->nvml_device[i]);
    int width = (int)ask(p->nvml.pcie_width, p->nvml_device[i]);
    if (gen > card->pcie.gen && gen <= 16)
        card->pcie.gen = gen;
    if (width > card->pcie.width && width <= 64)
        card->pcie.width = width;
}

void probe_nvml_look(probe *p, int i)
{
    lx_card *card = &p->cards.card[i];
    nvml_device device = NULL;
    nvml_memory memory = {0};
    unsigned long long millijoules = 0;
    unsigned mig_now = 0, mig_pending = 0;
    if (!p->cards.has_nvml || p->nvml.by_pci(card->pci, &device) != 0 || !device)
        return;
    p->nvml_device[i] = device;
    if (p->nvml.mig && p->nvml.mig(device, &mig_now, &mig_pending) == 0)
        card->is_mig = mig_now == 1;
    /* Of a partitioned card NVML counts the whole, CUDA the part. */
    if (!card->is_mig && p->nvml.memory && p->nvml.memory(device, &memory) == 0)
        card->vram_free_bytes = memory.free < card->vram_bytes ? memory.free : card->vram_bytes;
    /* "active" alone: display mode is Enabled also on an H200, which has no connector. */
    card->has_display |= ask(p->nvml.display_active, device) == 1;
    card->power_limit_w = ask(p->nvml.power_limit, device) * 1e-3;
    card->has_energy = p->nvml.energy && p->nvml.energy(device, &millijoules) == 0;
    unsigned gen_max = ask(p->nvml.pcie_gen_max, device);
    unsigned width_max = ask(p->nvml.pcie_width_max, device);
    card->pcie.gen_max = gen_max <= 16 ? (int)gen_max : 0;
    card->pcie.width_max = width_max <= 64 ? (int)width_max : 0;
    probe_nvml_link(p, i);
    add_processes(card, device, p->nvml.compute_processes);
    add_processes(card, device, p->nvml.graphics_processes);
}
