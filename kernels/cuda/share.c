/*
 * share.c - lending and borrowing by an open card: what is checked, and in which order
 * SPDX-License-Identifier: Apache-2.0
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cu_share.h"
#include "lx_cuda_priv.h"
#include "lx_cuda_share.h"
#include "lx_fault.h"
#include "lx_process.h"

#define STEP     ((uint64_t)2 << 20) /* what a driver gives out as an allocation of its own */
#define ALIGN    ((uint64_t)256)
#define STAGING  ((size_t)1 << 20)
#define SLOTS    65 /* of a desk, with the one for tests */
#define CARDS    16
#define EVENT_S  2.0 /* a lender has published: its event is reached, or it never will be */
#define QUERY_NS 20000

static_assert(sizeof((lx_share_export *)0)->memory == LX_CU_HANDLE &&
                  sizeof((lx_share_export *)0)->event == LX_CU_HANDLE &&
                  sizeof((lx_share_export *)0)->card == LX_CU_UUID,
              "handles travel as the driver makes them");

struct lx_cuda_share {
    lx_share_device device;
    lx_cuda *cuda; /* borrowed */
    int n_cards;
    lx_cu_card card[CARDS];
    char *slots; /* device memory, owned; NULL: no desk is open */
    int n_slots;
    uint64_t offset[SLOTS];
    void *event[SLOTS]; /* owned */
};

static const lx_cuda_share_ops *ops_of(const lx_cuda_share *s)
{
    return s->cuda->module->share;
}

static const lx_cuda_base_ops *base_of(const lx_cuda_share *s)
{
    return s->cuda->module->base;
}

static uint64_t round_up(uint64_t n, uint64_t step)
{
    return (n + step - 1) / step * step;
}

uint64_t lx_cuda_share_bytes(int n_slots, uint64_t slot_bytes)
{
    uint64_t test = round_up(LX_SHARE_TEST_BYTES, STEP);
    if (n_slots < 1)
        return test;
    return test + round_up((uint64_t)n_slots * round_up(slot_bytes, ALIGN) +
                               round_up(LX_SHARE_TEST_BYTES, ALIGN),
                           STEP);
}

/* It did not work; is that all? A card that failed at something else fails at waiting, too. */
static lx_status refused(const lx_cuda_share *s, int code, const char *what, lx_err *err)
{
    if (!code)
        return LX_OK;
    const lx_cuda_module *m = s->cuda->module;
    int health = m->base->wait(s->cuda->dev);
    if (health)
        return lx_cuda_status(s->cuda, health, what, err);
    return lx_fail(err, LX_EJOB, "%s: %s (error %d)", what, m->error_text(code), code);
}

/* --- lender ---------------------------------------------------------------------------------- */

static void close_slots(void *self)
{
    lx_cuda_share *s = self;
    for (int i = 0; i < s->n_slots; i++)
        if (s->event[i])
            ops_of(s)->event_close(s->cuda->dev, s->event[i]);
    if (s->slots)
        base_of(s)->free(s->cuda->dev, s->slots);
    memset(s->event, 0, sizeof s->event);
    s->slots = NULL;
    s->n_slots = 0;
}

static lx_status make_slots(lx_cuda_share *s, const uint64_t *bytes, lx_share_export *out,
                            lx_err *err)
{
    lx_cuda_dev *dev = s->cuda->dev;
    uint64_t total = 0;
    void *memory = NULL;
    for (int i = 0; i < s->n_slots; i++) {
        s->offset[i] = total;
        if (bytes[i] > INT64_MAX - ALIGN || !lx_add_u64(total, round_up(bytes[i], ALIGN), &total) ||
            total > INT64_MAX - STEP)
            return lx_fail(err, LX_ESTAGE, "lent slots of impossible size");
    }
    lx_status status =
        lx_cuda_status(s->cuda, base_of(s)->alloc(dev, (size_t)round_up(total, STEP), &memory),
                       "taking memory for lent tensors", err);
    if (status != LX_OK)
        return status;
    s->slots = memory;
    for (int i = 0; i < s->n_slots && status == LX_OK; i++) {
        out[i].offset = s->offset[i];
        out[i].bytes = bytes[i];
        for (int k = 0; k < s->n_cards; k++)
            if (s->card[k].is_own)
                memcpy(out[i].card, s->card[k].uuid, sizeof out[i].card);
        status = refused(s, ops_of(s)->memory_export(dev, memory, out[i].memory),
                         "cudaIpcGetMemHandle", err);
        if (status == LX_OK)
            status = refused(s, ops_of(s)->event_make(dev, &s->event[i], out[i].event),
                             "cudaIpcGetEventHandle", err);
    }
    return status;
}

static lx_status open_slots(void *self, int n, const uint64_t *bytes, lx_share_export *out,
                            lx_err *err)
{
    lx_cuda_share *s = self;
    if (s->slots || n < 1 || n > SLOTS)
        return lx_fail(err, LX_ESTAGE, "one desk of 1 to %d slots for a card", SLOTS);
    s->n_slots = n;
    lx_status status = make_slots(s, bytes, out, err);
    if (status != LX_OK)
        close_slots(s);
    return status;
}

static lx_status pin(void *self, void *memory, uint64_t bytes, lx_err *err)
{
    lx_cuda_share *s = self;
    return refused(s, ops_of(s)->pin(s->cuda->dev, memory, (size_t)bytes), "cudaHostRegister", err);
}

static void unpin(void *self, void *memory)
{
    lx_cuda_share *s = self;
    ops_of(s)->unpin(s->cuda->dev, memory);
}

lx_status lx_cuda_share_queue(lx_cuda_share *s, int slot, const void *src, uint64_t bytes,
                              lx_err *err)
{
    lx_cuda_dev *dev = s->cuda->dev;
    if (slot < 0 || slot >= s->n_slots)
        return lx_fail(err, LX_ESTAGE, "slot %d of %d", slot, s->n_slots);
    int code = base_of(s)->copy(dev, s->slots + s->offset[slot], src, (size_t)bytes);
    if (!code)
        code = ops_of(s)->event_mark(dev, s->event[slot]);
    return lx_cuda_status(s->cuda, code, "lending a tensor", err);
}

/* Between two waits of the host, as copies from pinned memory go on when the call returns. */
static lx_status push(void *self, int slot, const void *src, void *host, uint64_t bytes,
                      lx_err *err)
{
    lx_cuda_share *s = self;
    lx_cuda_dev *dev = s->cuda->dev;
    int code;
    if (src) {
        lx_status status = lx_cuda_share_queue(s, slot, src, bytes, err);
        if (status != LX_OK)
            return status;
        code = base_of(s)->download(dev, host, src, (size_t)bytes);
        return lx_cuda_status(s->cuda, code, "lending a tensor", err);
    }
    if (slot < 0 || slot >= s->n_slots)
        return lx_fail(err, LX_ESTAGE, "slot %d of %d", slot, s->n_slots);
    code = base_of(s)->upload(dev, s->slots + s->offset[slot], host, (size_t)bytes);
    if (!code)
        code = ops_of(s)->event_mark(dev, s->event[slot]);
    if (!code)
        code = base_of(s)->wait(dev);
    return lx_cuda_status(s->cuda, code, "lending a tensor", err);
}

/* --- borrower -------------------------------------------------------------------------------- */

static lx_transport reach(void *self, const unsigned char uuid[16])
{
    const lx_cuda_share *s = self;
    for (int i = 0; i < s->n_cards; i++)
        if (memcmp(s->card[i].uuid, uuid, LX_CU_UUID) == 0)
            return s->card[i].is_own      ? LX_TRANSPORT_IPC
                   : s->card[i].can_reach ? LX_TRANSPORT_PEER
                                          : LX_TRANSPORT_NONE;
    return LX_TRANSPORT_NONE;
}

/* The host looks, so that nothing of ours ever queues behind an event of a process that died. */
static lx_status wait_event(lx_cuda_share *s, const lx_share_export *from, lx_err *err)
{
    lx_cuda_dev *dev = s->cuda->dev;
    void *event = NULL;
    bool is_reached = false;
    int code = ops_of(s)->event_open(dev, from->event, &event);
    if (code)
        return refused(s, code, "cudaIpcOpenEventHandle", err);
    double until_s = lx_now_s() + EVENT_S;
    while (!code && !is_reached && lx_now_s() < until_s) {
        code = ops_of(s)->event_query(dev, event, &is_reached);
        if (!code && !is_reached)
            nanosleep(&(struct timespec){0, QUERY_NS}, NULL);
    }
    ops_of(s)->event_close(dev, event);
    if (code)
        return refused(s, code, "cudaEventQuery of the lender's event", err);
    if (!is_reached)
        return lx_fail(err, LX_EJOB, "the lender's event was not reached in %.0f s", EVENT_S);
    return LX_OK;
}

/* Memory is open: check the range, copy, wait. */
static lx_status copy_open(lx_cuda_share *s, char *memory, const lx_share_export *from, void *dst,
                           uint64_t bytes, lx_err *err)
{
    lx_cuda_dev *dev = s->cuda->dev;
    size_t there = 0;
    int code = ops_of(s)->memory_bytes(dev, memory, &there);
    if (code)
        return refused(s, code, "asking for the range of a lender's memory", err);
    if (from->offset > there || bytes > there - from->offset)
        return lx_fail(err, LX_EJOB,
                       "%" PRIu64 " bytes from %" PRIu64 " on in a lender's memory that has %zu",
                       bytes, from->offset, there);
    code = base_of(s)->copy(dev, dst, memory + from->offset, (size_t)bytes);
    if (code)
        return refused(s, code, "copying from a lender's memory", err);
    return lx_cuda_status(s->cuda, base_of(s)->wait(dev), "copying from a lender's memory", err);
}

static lx_status pull(void *self, const lx_share_export *from, void *dst, uint64_t bytes,
                      double *held_s, lx_err *err)
{
    lx_cuda_share *s = self;
    void *memory = NULL;
    if (LX_FAULT("cuda.pull"))
        return lx_fail(err, LX_EJOB, "cudaIpcOpenMemHandle: refused for a test");
    lx_status status = wait_event(s, from, err);
    if (status == LX_OK) /* what is queued here is not what the lender's memory waits for */
        status = lx_cuda_status(s->cuda, base_of(s)->wait(s->cuda->dev), "computing", err);
    if (status != LX_OK)
        return status;
    double opened_s = lx_now_s();
    int code = ops_of(s)->memory_open(s->cuda->dev, from->memory, &memory);
    if (code)
        return refused(s, code, "cudaIpcOpenMemHandle", err);
    status = copy_open(s, memory, from, dst, bytes, err);
    code = ops_of(s)->memory_close(s->cuda->dev, memory);
    *held_s = lx_now_s() - opened_s;
    return status == LX_OK ? refused(s, code, "cudaIpcCloseMemHandle", err) : status;
}

static lx_status upload(void *self, void *dst, const void *src, uint64_t bytes, lx_err *err)
{
    lx_cuda_share *s = self;
    int code = base_of(s)->upload(s->cuda->dev, dst, src, (size_t)bytes);
    if (!code)
        code = base_of(s)->wait(s->cuda->dev);
    return lx_cuda_status(s->cuda, code, "copying to the card", err);
}

static lx_status download(void *self, void *dst, const void *src, uint64_t bytes, lx_err *err)
{
    lx_cuda_share *s = self;
    return lx_cuda_status(s->cuda, base_of(s)->download(s->cuda->dev, dst, src, (size_t)bytes),
                          "copying from the card", err);
}

/* --- opening --------------------------------------------------------------------------------- */

static lx_status take_memory(lx_cuda_share *s, lx_err *err)
{
    int code = ops_of(s)->cards(s->cuda->dev, CARDS, s->card, &s->n_cards);
    if (code)
        return lx_cuda_status(s->cuda, code, "asking for the machine's cards", err);
    code = base_of(s)->alloc(s->cuda->dev, (size_t)LX_SHARE_TEST_BYTES, &s->device.scratch);
    if (code)
        return lx_cuda_status(s->cuda, code, "taking memory for tests of links", err);
    s->device.staging_bytes = STAGING;
    return lx_cuda_pin(s->cuda, STAGING, &s->device.staging, err);
}

lx_status lx_cuda_share_open(lx_cuda_share **out, lx_cuda *cuda, lx_err *err)
{
    lx_cuda_share *s = calloc(1, sizeof *s);
    if (!s)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a card's lending");
    s->cuda = cuda;
    s->device = (lx_share_device){.self = s,
                                  .open = open_slots,
                                  .close = close_slots,
                                  .pin = pin,
                                  .unpin = unpin,
                                  .push = push,
                                  .reach = reach,
                                  .pull = pull,
                                  .upload = upload,
                                  .download = download};
    lx_status status = take_memory(s, err);
    if (status != LX_OK)
        lx_cuda_share_close(&s);
    else
        *out = s;
    return status;
}

void lx_cuda_share_close(lx_cuda_share **share)
{
    if (!share || !*share)
        return;
    lx_cuda_share *s = *share;
    close_slots(s);
    if (s->device.scratch)
        base_of(s)->free(s->cuda->dev, s->device.scratch);
    lx_cuda_unpin(s->cuda, s->device.staging);
    free(s);
    *share = NULL;
}

const lx_share_device *lx_cuda_share_device(const lx_cuda_share *share)
{
    return &share->device;
}
