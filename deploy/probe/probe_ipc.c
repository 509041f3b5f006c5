/*
 * probe_ipc.c - CUDA IPC, tried: a buffer and an event handed to a second process
 * SPDX-License-Identifier: Apache-2.0
 *
 * The parent fills a buffer on the card and records an event behind the copy; the child (this
 * program again, so that it has a driver of its own) opens both, waits, compares, writes another
 * filling back, closes. The parent compares that. The handles travel through the child's stdin:
 * they are secrets.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lx_child.h"
#include "probe.h"

#define BYTES     ((size_t)4 << 20)
#define SEED      7u
#define SEED_BACK 1007u
#define MAGIC     0x6c783276u
#define CHILD_S   15.0 /* a context takes 0.1 to 0.3 s */

typedef struct request {
    uint32_t magic;
    int32_t ordinal; /* both processes count in PCI order */
    int32_t has_event;
    cu_ipc memory, event;
} request;

typedef struct answer {
    uint32_t magic;
    int32_t is_ok, is_event_ok;
    char trouble[100];
} answer;

/* --- the second process ----------------------------------------------------------------------- */

static bool failed(const probe *p, answer *a, const char *what, int code)
{
    if (code != CU_SUCCESS && !*a->trouble)
        probe_error(p, what, code, a->trouble, sizeof a->trouble);
    return code != CU_SUCCESS;
}

static void wait_for_event(probe *p, const request *q, answer *a)
{
    cu_event event = NULL;
    if (!q->has_event || failed(p, a, "second process: cuIpcOpenEventHandle",
                                p->cu.ipc_open_event(&event, q->event)))
        return;
    a->is_event_ok =
        !failed(p, a, "second process: cuStreamWaitEvent",
                p->cu.stream_wait_event(NULL, event, 0)) &&
        !failed(p, a, "second process: cuStreamSynchronize", p->cu.stream_synchronize(NULL));
    p->cu.event_destroy(event);
}

static void use_memory(probe *p, const request *q, answer *a, void *host)
{
    cu_pointer memory = 0;
    if (failed(p, a, "second process: cuIpcOpenMemHandle",
               p->cu.ipc_open_memory(&memory, q->memory, CU_IPC_LAZY_PEER_ACCESS)))
        return;
    wait_for_event(p, q, a);
    if (!failed(p, a, "second process: read", p->cu.from_card(host, memory, BYTES, NULL)) &&
        !failed(p, a, "second process: read", p->cu.stream_synchronize(NULL))) {
        size_t n = probe_differences(host, BYTES, SEED);
        if (n > 0)
            snprintf(a->trouble, sizeof a->trouble, "second process: %zu of %zu words differ", n,
                     BYTES / 8);
        probe_fill(host, BYTES, SEED_BACK);
        a->is_ok =
            !failed(p, a, "second process: write", p->cu.to_card(memory, host, BYTES, NULL)) &&
            !failed(p, a, "second process: write", p->cu.synchronize()) && n == 0;
    }
    a->is_ok &= !failed(p, a, "second process: close", p->cu.ipc_close_memory(memory));
}

int probe_ipc_child(void)
{
    static probe p;
    request q;
    answer a = {.magic = MAGIC};
    cu_context context = NULL;
    int device = 0;
    if (read(STDIN_FILENO, &q, sizeof q) != sizeof q || q.magic != MAGIC)
        return 2;
    void *host = malloc(BYTES);
    if (!host || !probe_load_cuda(&p)) {
        snprintf(a.trouble, sizeof a.trouble, "second process: %.80s", p.cards.reason);
    } else if (!failed(&p, &a, "second process: cuDeviceGet", p.cu.device(&device, q.ordinal)) &&
               !failed(&p, &a, "second process: context", p.cu.retain(&context, device))) {
        if (!failed(&p, &a, "second process: context", p.cu.set_current(context)))
            use_memory(&p, &q, &a, host);
        p.cu.release(device);
    }
    free(host);
    return write(STDOUT_FILENO, &a, sizeof a) == sizeof a ? 0 : 1;
}

/* --- the first ---------------------------------------------------------------------------------*/

static bool is_bad(probe *p, int i, const char *what, int code)
{
    lx_card *card = &p->cards.card[i];
    if (code != CU_SUCCESS && !*card->trouble)
        probe_error(p, what, code, card->trouble, sizeof card->trouble);
    return code != CU_SUCCESS;
}

static bool ask_child(probe *p, int i, const request *q, answer *a)
{
    char self[] = "/proc/self/exe", flag[] = "--ipc-child";
    char *argv[] = {self, flag, NULL};
    char text[sizeof *a + 1];
    lx_err err = {0};
    lx_child child = {.argv = argv,
                      .input = q,
                      .input_bytes = sizeof *q,
                      .timeout_s = CHILD_S,
                      .out = text,
                      .out_room = sizeof text};
    lx_status status = lx_child_run(&child, &err);
    memcpy(a, text, sizeof *a);
    if (status == LX_OK && child.out_bytes == sizeof *a && a->magic == MAGIC) {
        a->trouble[sizeof a->trouble - 1] = 0;
        return true;
    }
    char *trouble = p->cards.card[i].trouble;
    if (!*trouble)
        snprintf(trouble, sizeof p->cards.card[i].trouble, "IPC, second process: %.100s",
                 status != LX_OK ? err.message : "no answer");
    return false;
}

/* What the second process wrote must be here. */
static bool is_written_back(probe *p, int i, cu_pointer memory, void *host)
{
    lx_card *card = &p->cards.card[i];
    memset(host, 0, BYTES);
    if (is_bad(p, i, "IPC: read back", p->cu.from_card(host, memory, BYTES, NULL)) ||
        is_bad(p, i, "IPC: read back", p->cu.synchronize()))
        return false;
    size_t n = probe_differences(host, BYTES, SEED_BACK);
    if (n > 0 && !*card->trouble)
        snprintf(card->trouble, sizeof card->trouble,
                 "IPC: %zu of %zu words that the second process wrote did not arrive", n,
                 BYTES / 8);
    return n == 0;
}

static void hand_over(probe *p, int i, cu_pointer memory, cu_event event, void *host)
{
    lx_card *card = &p->cards.card[i];
    request q = {.magic = MAGIC, .ordinal = i};
    answer a = {0};
    card->ipc = LX_CHECK_FAILED;
    if (is_bad(p, i, "cuIpcGetMemHandle", p->cu.ipc_memory(&q.memory, memory)))
        return;
    q.has_event = event && !is_bad(p, i, "cuIpcGetEventHandle", p->cu.ipc_event(&q.event, event));
    probe_fill(host, BYTES, SEED);
    if (is_bad(p, i, "IPC: fill", p->cu.to_card(memory, host, BYTES, NULL)) ||
        (event && is_bad(p, i, "cuEventRecord", p->cu.event_record(event, NULL))) ||
        (!q.has_event && is_bad(p, i, "IPC: fill", p->cu.synchronize())))
        return;
    bool has_answer = ask_child(p, i, &q, &a);
    explicit_bzero(&q, sizeof q);
    if (!has_answer)
        return;
    card->ipc_event = a.is_event_ok ? LX_CHECK_OK : LX_CHECK_FAILED;
    if (*a.trouble && !*card->trouble)
        snprintf(card->trouble, sizeof card->trouble, "IPC, %s", a.trouble);
    if (a.is_ok && is_written_back(p, i, memory, host))
        card->ipc = LX_CHECK_OK;
}

void probe_ipc_measure(probe *p, int i)
{
    cu_pointer memory = 0;
    cu_event event = NULL;
    void *host = malloc(BYTES);
    if (!host || is_bad(p, i, "IPC: cuMemAlloc", p->cu.alloc(&memory, BYTES))) {
        free(host);
        return;
    }
    if (is_bad(p, i, "IPC: cuEventCreate",
               p->cu.event_create(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS)))
        event = NULL;
    hand_over(p, i, memory, event, host);
    if (event)
        p->cu.event_destroy(event);
    p->cu.free(memory);
    free(host);
}
