/*
 * probe_cards.c - the list of cards, and which of them the environment hides
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

static bool uuid_of(const probe *p, int device, cu_uuid *out)
{
    if (p->cu.uuid_mig && p->cu.uuid_mig(out, device) == CU_SUCCESS)
        return true;
    return p->cu.uuid(out, device) == CU_SUCCESS;
}

/* --- what others see -------------------------------------------------------------------------- */

/* In the child: everything that CUDA lists here, as raw UUIDs. */
static void tell_visible(int to)
{
    static probe p;
    int n = 0;
    if (!probe_load_cuda(&p) || p.cu.count(&n) != CU_SUCCESS)
        return;
    for (int i = 0; i < n && i < LX_CARDS_MAX; i++) {
        cu_uuid uuid;
        int device;
        if (p.cu.device(&device, i) == CU_SUCCESS && uuid_of(&p, device, &uuid) &&
            write(to, &uuid, sizeof uuid) != sizeof uuid)
            return;
    }
}

void probe_look_visible(probe_visible *v)
{
    const char *value = getenv("CUDA_VISIBLE_DEVICES");
    int ends[2];
    memset(v, 0, sizeof *v);
    if (!value || pipe(ends))
        return;
    v->is_set = true;
    snprintf(v->value, sizeof v->value, "%s", value);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(PROBE_ALARM_S); /* alarms are not inherited */
        tell_visible(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (;;) {
        ssize_t n = read(ends[0], (char *)v->uuid + used, sizeof v->uuid - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    close(ends[0]);
    int wait_status = 0;
    bool has_ended = pid > 0 && waitpid(pid, &wait_status, 0) == pid && wait_status == 0;
    v->n = has_ended ? (int)(used / sizeof(cu_uuid)) : -1;
}

static void note_hidden(probe *p, const probe_visible *v)
{
    lx_cards *cards = &p->cards;
    char list[64] = "";
    size_t used = 0;
    for (int i = 0; v->is_set && v->n >= 0 && i < cards->n; i++) {
        bool is_visible = false;
        for (int k = 0; k < v->n; k++)
            is_visible |= memcmp(&v->uuid[k], &p->uuid[i], sizeof(cu_uuid)) == 0;
        if (!is_visible && used < sizeof list)
            used +=
                (size_t)snprintf(list + used, sizeof list - used, "%scuda:%d", used ? ", " : "", i);
    }
    if (used)
        snprintf(cards->hidden_by, sizeof cards->hidden_by,
                 "CUDA_VISIBLE_DEVICES=\"%.40s\" hides %s from others", v->value, list);
}

/* --- the list --------------------------------------------------------------------------------- */

static int attribute(const probe *p, int device, int which)
{
    int value = 0;
    return p->cu.attribute(&value, which, device) == CU_SUCCESS ? value : 0;
}

/* Not told by drivers before 12: there unified addresses on Linux mean that IPC works. */
static bool has_ipc(const probe *p, int device)
{
    int events = 0;
    if (p->cu.attribute(&events, CU_IPC_EVENTS, device) != CU_SUCCESS)
        events = 1;
    return events && attribute(p, device, CU_UNIFIED_ADDRESSING);
}

static void look_at_uuid(probe *p, int i)
{
    lx_card *card = &p->cards.card[i];
    unsigned char *b = p->uuid[i].bytes;
    if (!uuid_of(p, p->device[i], &p->uuid[i]))
        memset(b, 0, sizeof p->uuid[i].bytes);
    size_t used = (size_t)snprintf(card->uuid, sizeof card->uuid, "%s-",
                                   strstr(card->name, " MIG ") ? "MIG" : "GPU");
    for (int k = 0; k < 16; k++)
        used += (size_t)snprintf(card->uuid + used, sizeof card->uuid - used, "%s%02x",
                                 k == 4 || k == 6 || k == 8 || k == 10 ? "-" : "", b[k]);
}

/* Without NVML: a context tells, at the price of 0.2 s and some memory. */
static void look_at_free_bytes(probe *p, int i)
{
    cu_context context = NULL;
    size_t free_bytes = 0, total = 0;
    if (p->cu.retain(&context, p->device[i]) != CU_SUCCESS)
        return;
    if (p->cu.set_current(context) == CU_SUCCESS &&
        p->cu.memory_info(&free_bytes, &total) == CU_SUCCESS)
        p->cards.card[i].vram_free_bytes =
            free_bytes < p->cards.card[i].vram_bytes ? free_bytes : p->cards.card[i].vram_bytes;
    p->cu.set_current(NULL);
    p->cu.release(p->device[i]);
}

static bool look_at_card(probe *p, int ordinal)
{
    int i = p->cards.n, device = 0;
    lx_card *card = &p->cards.card[i];
    size_t bytes = 0;
    if (p->cu.device(&device, ordinal) != CU_SUCCESS ||
        p->cu.name(card->name, sizeof card->name, device) != CU_SUCCESS ||
        p->cu.total_bytes(&bytes, device) != CU_SUCCESS || bytes == 0 ||
        p->cu.pci(card->pci, sizeof card->pci, device) != CU_SUCCESS)
        return false;
    card->name[sizeof card->name - 1] = 0;
    for (char *c = card->pci; *c; c++) /* sysfs writes hexadecimal in lower case */
        *c = *c >= 'A' && *c <= 'F' ? (char)(*c - 'A' + 'a') : *c;
    p->device[i] = device;
    card->vram_bytes = bytes;
    card->major = attribute(p, device, CU_MAJOR);
    card->minor = attribute(p, device, CU_MINOR);
    card->multiprocessors = attribute(p, device, CU_MULTIPROCESSORS);
    card->threads_per_multiprocessor = attribute(p, device, CU_THREADS_PER_MULTIPROCESSOR);
    card->shared_bytes = (uint64_t)attribute(p, device, CU_SHARED_BYTES_OPTIN);
    card->l2_bytes = (uint64_t)attribute(p, device, CU_L2_BYTES);
    card->has_display = attribute(p, device, CU_KERNEL_TIMEOUT) != 0;
    card->is_integrated = attribute(p, device, CU_INTEGRATED) != 0;
    card->is_exclusive = attribute(p, device, CU_COMPUTE_MODE) != 0;
    card->has_ipc = has_ipc(p, device);
    look_at_uuid(p, i);
    p->cards.n++;
    probe_nvml_look(p, i);
    probe_pci_look(card);
    if (!p->nvml_device[i] || card->is_mig || card->vram_free_bytes == 0)
        look_at_free_bytes(p, i);
    return true;
}

static void look_at_links(probe *p)
{
    for (int i = 0; i < p->cards.n; i++)
        for (int k = 0; k < p->cards.n; k++) {
            int can = 0;
            if (i != k && p->cu.can_access(&can, p->device[i], p->device[k]) == CU_SUCCESS)
                p->cards.link[i][k].has_access = can != 0;
        }
}

void probe_list(probe *p, const probe_visible *visible)
{
    int n = 0;
    int code = p->cu.count(&n);
    char text[96];
    if (code != CU_SUCCESS)
        snprintf(p->cards.reason, sizeof p->cards.reason, "%s",
                 probe_error(p, "cuDeviceGetCount", code, text, sizeof text));
    else if (n == 0)
        snprintf(p->cards.reason, sizeof p->cards.reason, "the driver lists no card");
    for (int i = 0; i < n && p->cards.n < LX_CARDS_MAX; i++)
        if (!look_at_card(p, i) && !*p->cards.reason)
            snprintf(p->cards.reason, sizeof p->cards.reason, "card %d does not answer", i);
    look_at_links(p);
    note_hidden(p, visible);
}
