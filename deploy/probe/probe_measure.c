/*
 * probe_measure.c - real copies: how fast, and do the bytes arrive?
 * SPDX-License-Identifier: Apache-2.0
 *
 * Copies go between pinned host memory and the card on a stream of their own, timed by events. The
 * PCIe link is read while they run: an idle card lowers its generation, and some their width.
 * Between cards every byte is compared: a driver may claim peer access that an IOMMU breaks.
 */
#include <stdio.h>
#include <string.h>

#include "lx_process.h"
#include "probe.h"

#define HOST_BYTES ((size_t)256 << 20)
#define LEAST      ((size_t)16 << 20) /* smaller copies would not tell the rate */
#define PEER_BYTES ((size_t)64 << 20)
#define REPEATS    6
#define LIMIT_S    3.0 /* of one direction; a slow link then has fewer repeats */

typedef struct bench { /* of one card; context current */
    probe *p;
    int i;
    size_t bytes;
    cu_context context;
    cu_stream stream;
    cu_event start, stop;
    void *host;
    cu_pointer memory;
} bench;

void probe_fill(void *to, size_t bytes, uint64_t seed)
{
    uint64_t *words = to;
    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = (i + seed) * 0x9e3779b97f4a7c15u ^ (i >> 7);
}

size_t probe_differences(const void *at, size_t bytes, uint64_t seed)
{
    const uint64_t *words = at;
    size_t n = 0;
    for (size_t i = 0; i < bytes / 8; i++)
        n += words[i] != ((i + seed) * 0x9e3779b97f4a7c15u ^ (i >> 7));
    return n;
}

/* Records the first failure of a card. True: none. */
static bool ok(const bench *b, const char *what, int code)
{
    lx_card *card = &b->p->cards.card[b->i];
    if (code != CU_SUCCESS && !*card->trouble)
        probe_error(b->p, what, code, card->trouble, sizeof card->trouble);
    return code == CU_SUCCESS;
}

/* --- one card --------------------------------------------------------------------------------- */

/* Less where memory is short. */
static bool take_memory(bench *b)
{
    const cu_api *cu = &b->p->cu;
    int code = CU_SUCCESS;
    for (b->bytes = HOST_BYTES; b->bytes >= LEAST; b->bytes /= 2) {
        code = cu->host_alloc(&b->host, b->bytes, 0);
        if (code == CU_SUCCESS) {
            code = cu->alloc(&b->memory, b->bytes);
            if (code == CU_SUCCESS)
                return true;
            cu->host_free(b->host);
        }
        b->host = NULL;
        b->memory = 0;
    }
    return ok(b, "16 MiB, pinned and on the card", code);
}

static bool open_bench(bench *b, probe *p, int i)
{
    const cu_api *cu = &p->cu;
    *b = (bench){.p = p, .i = i};
    if (!ok(b, "cuDevicePrimaryCtxRetain", cu->retain(&b->context, p->device[i])))
        return false;
    return ok(b, "cuCtxSetCurrent", cu->set_current(b->context)) &&
           ok(b, "cuStreamCreate", cu->stream_create(&b->stream, CU_STREAM_NON_BLOCKING)) &&
           ok(b, "cuEventCreate", cu->event_create(&b->start, 0)) &&
           ok(b, "cuEventCreate", cu->event_create(&b->stop, 0)) && take_memory(b);
}

static void close_bench(bench *b)
{
    const cu_api *cu = &b->p->cu;
    if (!b->context)
        return;
    cu->set_current(b->context);
    if (b->memory)
        cu->free(b->memory);
    if (b->host)
        cu->host_free(b->host);
    if (b->start)
        cu->event_destroy(b->start);
    if (b->stop)
        cu->event_destroy(b->stop);
    if (b->stream)
        cu->stream_destroy(b->stream);
    cu->set_current(NULL);
    cu->release(b->p->device[b->i]);
}

static bool copy(const bench *b, bool to_card)
{
    const cu_api *cu = &b->p->cu;
    return to_card ? ok(b, "copy to the card", cu->to_card(b->memory, b->host, b->bytes, b->stream))
                   : ok(b, "copy from the card",
                        cu->from_card(b->host, b->memory, b->bytes, b->stream));
}

/* While copies run the link shows what it can do. */
static bool finish(const bench *b)
{
    const cu_api *cu = &b->p->cu;
    int code;
    while ((code = cu->stream_query(b->stream)) == CU_NOT_READY)
        probe_nvml_link(b->p, b->i);
    return ok(b, "cuStreamQuery", code);
}

/* Best of several, in 1e9 bytes/s; 0 if it failed. */
static double rate(const bench *b, bool to_card)
{
    const cu_api *cu = &b->p->cu;
    double best = 0, until = lx_now_s() + LIMIT_S;
    if (!copy(b, to_card) || !finish(b)) /* wakes the link */
        return 0;
    for (int k = 0; k < REPEATS && (k == 0 || lx_now_s() < until); k++) {
        float ms = 0;
        if (!ok(b, "cuEventRecord", cu->event_record(b->start, b->stream)) || !copy(b, to_card) ||
            !ok(b, "cuEventRecord", cu->event_record(b->stop, b->stream)) || !finish(b) ||
            !ok(b, "cuEventElapsedTime", cu->event_ms(&ms, b->start, b->stop)))
            return 0;
        double gbs = ms > 0 ? (double)b->bytes / (ms * 1e6) : 0;
        best = gbs > best ? gbs : best;
    }
    return best;
}

/* There and back through the card; what was sent must be what returns. */
static lx_check copies_arrive(const bench *b)
{
    const cu_api *cu = &b->p->cu;
    uint64_t seed = (uint64_t)b->i + 1;
    probe_fill(b->host, b->bytes, seed);
    if (!copy(b, true) || !ok(b, "copy", cu->stream_synchronize(b->stream)))
        return LX_CHECK_FAILED;
    memset(b->host, 0, b->bytes);
    if (!copy(b, false) || !ok(b, "copy", cu->stream_synchronize(b->stream)))
        return LX_CHECK_FAILED;
    size_t n = probe_differences(b->host, b->bytes, seed);
    lx_card *card = &b->p->cards.card[b->i];
    if (n > 0 && !*card->trouble)
        snprintf(card->trouble, sizeof card->trouble,
                 "%zu of %zu words came back from the card changed", n, b->bytes / 8);
    return n ? LX_CHECK_FAILED : LX_CHECK_OK;
}

static void measure_card(probe *p, int i)
{
    bench b;
    lx_card *card = &p->cards.card[i];
    if (open_bench(&b, p, i)) {
        int gen = card->pcie.gen, width = card->pcie.width;
        card->pcie.gen = card->pcie.width = 0; /* only what is seen under load */
        card->copies = copies_arrive(&b);
        card->to_card_gbs = rate(&b, true);
        card->from_card_gbs = rate(&b, false);
        card->pcie.under_load = card->pcie.gen > 0;
        if (!card->pcie.under_load) {
            card->pcie.gen = gen;
            card->pcie.width = width;
        }
        probe_ipc_measure(p, i);
    }
    close_bench(&b);
}

/* --- two cards -------------------------------------------------------------------------------- */

/* b: the sender, whose context is current, filled; peer's memory receives. */
static void measure_link(bench *b, bench *peer, lx_card_link *link)
{
    const cu_api *cu = &b->p->cu;
    double best = 0;
    if (link->has_access) {
        int code = cu->enable_peer(peer->context, 0);
        if (code != CU_PEER_ALREADY_ENABLED && !ok(b, "cuCtxEnablePeerAccess", code)) {
            link->copies = LX_CHECK_FAILED;
            return;
        }
    }
    for (int k = 0; k < REPEATS; k++) {
        float ms = 0;
        if (!ok(b, "cuEventRecord", cu->event_record(b->start, b->stream)) ||
            !ok(b, "cuMemcpyPeer",
                cu->to_peer(peer->memory, peer->context, b->memory, b->context, PEER_BYTES,
                            b->stream)) ||
            !ok(b, "cuEventRecord", cu->event_record(b->stop, b->stream)) ||
            !ok(b, "cuMemcpyPeer", cu->stream_synchronize(b->stream)) ||
            !ok(b, "cuEventElapsedTime", cu->event_ms(&ms, b->start, b->stop))) {
            link->copies = LX_CHECK_FAILED;
            return;
        }
        double gbs = ms > 0 ? (double)PEER_BYTES / (ms * 1e6) : 0;
        best = gbs > best ? gbs : best;
    }
    link->gbs = best;
}

static bool set_memory(bench *b, int value)
{
    const cu_api *cu = &b->p->cu;
    return ok(b, "cuCtxSetCurrent", cu->set_current(b->context)) &&
           ok(b, "cuMemsetD8", cu->set_bytes(b->memory, (unsigned char)value, PEER_BYTES)) &&
           ok(b, "cuCtxSynchronize", cu->synchronize());
}

static void check_link(bench *from, bench *to, lx_card_link *link)
{
    const cu_api *cu = &from->p->cu;
    uint64_t seed = 1000 + (uint64_t)from->i * LX_CARDS_MAX + (uint64_t)to->i;
    probe_fill(from->host, PEER_BYTES, seed);
    if (!set_memory(to, 0xa5) || !ok(from, "cuCtxSetCurrent", cu->set_current(from->context)) ||
        !ok(from, "copy", cu->to_card(from->memory, from->host, PEER_BYTES, from->stream)) ||
        !ok(from, "copy", cu->stream_synchronize(from->stream)))
        return;
    measure_link(from, to, link);
    if (link->copies == LX_CHECK_FAILED || !ok(to, "cuCtxSetCurrent", cu->set_current(to->context)))
        return;
    memset(to->host, 0, PEER_BYTES);
    if (!ok(to, "copy", cu->from_card(to->host, to->memory, PEER_BYTES, to->stream)) ||
        !ok(to, "copy", cu->stream_synchronize(to->stream)))
        return;
    link->copies = probe_differences(to->host, PEER_BYTES, seed) ? LX_CHECK_FAILED : LX_CHECK_OK;
}

static void measure_pair(probe *p, int i, int k)
{
    bench a, b = {0};
    bool is_open = open_bench(&a, p, i) && open_bench(&b, p, k);
    if (is_open && a.bytes >= PEER_BYTES && b.bytes >= PEER_BYTES) {
        check_link(&a, &b, &p->cards.link[i][k]);
        check_link(&b, &a, &p->cards.link[k][i]);
    }
    if (b.p)
        close_bench(&b);
    close_bench(&a);
}

void probe_measure(probe *p)
{
    for (int i = 0; i < p->cards.n; i++)
        measure_card(p, i);
    for (int i = 0; i < p->cards.n; i++)
        for (int k = i + 1; k < p->cards.n; k++)
            measure_pair(p, i, k);
}
