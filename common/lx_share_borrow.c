/*
 * lx_share_borrow.c - the borrower's side of lending, and the test of a link
 * SPDX-License-Identifier: Apache-2.0
 *
 * What lies in a slot was written by another process: the header is copied once, then checked, then
 * used; a region that is cut short is an error and never a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_log.h"
#include "lx_share_slot.h"

#define HELD_S 0.05 /* a borrower keeps another's memory open no longer */

const char *lx_transport_name(lx_transport transport)
{
    static const char *const names[] = {"none", "shm", "ring", "peer", "ipc"};
    static_assert(sizeof names / sizeof *names == LX_TRANSPORT_COUNT, "one name each");
    return (unsigned)transport < LX_TRANSPORT_COUNT ? names[transport] : "unknown";
}

const char *lx_transport_text(lx_transport transport)
{
    static const char *const texts[] = {"nothing", "shared memory", "pinned ring", "peer copy",
                                        "cuda ipc"};
    static_assert(sizeof texts / sizeof *texts == LX_TRANSPORT_COUNT, "one text each");
    return (unsigned)transport < LX_TRANSPORT_COUNT ? texts[transport] : "unknown";
}

/* --- checks ---------------------------------------------------------------------------------- */

bool lx_share_ticket_is_of(const lx_ticket *ticket, const char *instance, uint64_t epoch)
{
    char prefix[96];
    int n = snprintf(prefix, sizeof prefix, "/lx2v.%s.%" PRIu64 ".", instance, epoch);
    if (!ticket->serial || ticket->epoch != epoch || !memchr(ticket->name, 0, sizeof ticket->name))
        return false;
    const char *slot = ticket->name + n;
    return !strncmp(ticket->name, prefix, (size_t)n) && *slot &&
           strspn(slot, "0123456789") == strlen(slot);
}

static lx_status check_ticket(const lx_ticket *ticket, const char *instance, uint64_t room,
                              lx_err *err)
{
    if (!share_instance_ok(instance) || !lx_share_ticket_is_of(ticket, instance, ticket->epoch))
        return lx_fail(err, LX_EJOB, "lent tensor: the ticket is not of this instance");
    lx_shape shape = {.n_dims = ticket->n_dims};
    uint64_t bytes = 0;
    memcpy(shape.dim, ticket->dims, sizeof shape.dim);
    lx_status status = lx_shape_bytes(&shape, (lx_dtype)ticket->dtype, NULL, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!bytes || bytes != ticket->bytes || bytes > room)
        return lx_fail(err, LX_EJOB,
                       "lent tensor: %" PRIu64 " bytes by shape, %" PRIu64 " by ticket, room for "
                       "%" PRIu64,
                       bytes, ticket->bytes, room);
    return LX_OK;
}

/* --- one slot, open -------------------------------------------------------------------------- */

typedef struct loan {
    const lx_ticket *ticket;
    int fd;
    uint64_t kind;
    lx_share_export device; /* hostile: kind says whether it means anything */
} loan;

static bool read_all(int fd, void *at, uint64_t n, uint64_t offset)
{
    for (uint64_t done = 0; done < n;) {
        uint64_t step = n - done < (64u << 20) ? n - done : 64u << 20;
        ssize_t got = pread(fd, (char *)at + done, step, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        done += (uint64_t)got;
    }
    return true;
}

/* The header as it is now, if it is this ticket's. */
static bool read_header(loan *l)
{
    struct {
        uint64_t magic, serial, bytes, kind;
        lx_share_export device;
    } header;
    static_assert(offsetof(share_header, device) == 32, "read as it is written");
    if (!read_all(l->fd, &header, sizeof header, 0) || header.magic != SHARE_MAGIC ||
        header.serial != l->ticket->serial || header.bytes != l->ticket->bytes ||
        header.kind >= SHARE_KIND_COUNT)
        return false;
    l->kind = header.kind;
    l->device = header.device;
    return true;
}

static lx_status open_loan(loan *l, const lx_ticket *ticket, const char *instance, uint64_t room,
                           lx_err *err)
{
    struct stat st;
    *l = (loan){.ticket = ticket, .fd = -1};
    lx_status status = check_ticket(ticket, instance, room, err);
    if (status != LX_OK)
        return status;
    int failed = LX_FAULT("share.borrow");
    l->fd = failed ? -1 : shm_open(ticket->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (failed)
        errno = failed;
    if (l->fd < 0)
        return lx_fail(err, errno == EMFILE || errno == ENFILE ? LX_EAGAIN : LX_EJOB,
                       "lent tensor: %s", strerror(errno));
    if (fstat(l->fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        (uint64_t)st.st_size < SHARE_HEADER + ticket->bytes)
        status = lx_fail(err, LX_EJOB, "lent tensor: the region is not of the lender's making");
    else if (!read_header(l))
        status = lx_fail(err, LX_EJOB, "lent tensor: stale ticket");
    if (status != LX_OK)
        close(l->fd);
    return status;
}

/* The copy counts only if the slot was not taken back under it. */
static lx_status close_loan(loan *l, lx_status status, lx_err *err)
{
    if (status == LX_OK && !read_header(l))
        status = lx_fail(err, LX_EJOB, "lent tensor: retired while it was being read");
    close(l->fd);
    return status;
}

/* --- ways to copy ---------------------------------------------------------------------------- */

static lx_status cut_short(lx_err *err)
{
    return lx_fail(err, LX_EJOB, "lent tensor: the region was cut short");
}

static lx_status copy_to_host(const loan *l, void *dst, lx_err *err)
{
    return read_all(l->fd, dst, l->ticket->bytes, SHARE_HEADER) ? LX_OK : cut_short(err);
}

static lx_status copy_by_ring(const loan *l, const lx_share_device *device, void *dst, lx_err *err)
{
    const uint64_t bytes = l->ticket->bytes;
    for (uint64_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < device->staging_bytes ? bytes - done : device->staging_bytes;
        if (!read_all(l->fd, device->staging, n, SHARE_HEADER + done))
            return cut_short(err);
        lx_status status =
            device->upload(device->self, (char *)dst + done, device->staging, n, err);
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

static lx_status copy_from_twin(const loan *l, const lx_share_device *device, void *dst,
                                lx_err *err)
{
    double held_s = 0;
    uint64_t end;
    if (l->kind != SHARE_EXPORTED)
        return lx_fail(err, LX_EJOB, "lent tensor: it is not in a card's memory");
    if (l->device.bytes < l->ticket->bytes ||
        !lx_add_u64(l->device.offset, l->ticket->bytes, &end) || end > INT64_MAX)
        return lx_fail(err, LX_EJOB,
                       "lent tensor: %" PRIu64 " bytes in a slot that has %" PRIu64
                       " of them on the card",
                       l->ticket->bytes, l->device.bytes);
    lx_status status = device->pull(device->self, &l->device, dst, l->ticket->bytes, &held_s, err);
    if (status == LX_OK && held_s > HELD_S)
        LX_W("a lender's memory was open for %.1f ms, %.0f are meant", held_s * 1e3, HELD_S * 1e3);
    else if (status == LX_OK)
        LX_D("borrowed bytes=%" PRIu64 " held_ms=%.2f", l->ticket->bytes, held_s * 1e3);
    return status;
}

lx_status lx_share_borrow(const lx_ticket *ticket, const char *instance, void *dst,
                          uint64_t dst_bytes, lx_err *err)
{
    loan l;
    lx_status status = open_loan(&l, ticket, instance, dst_bytes, err);
    return status == LX_OK ? close_loan(&l, copy_to_host(&l, dst, err), err) : status;
}

lx_status lx_share_borrow_on(const lx_ticket *ticket, const char *instance,
                             const lx_share_device *device, lx_transport by, void *dst,
                             uint64_t dst_bytes, lx_err *err)
{
    loan l;
    lx_status status = open_loan(&l, ticket, instance, dst_bytes, err);
    if (status != LX_OK)
        return status;
    status = by > LX_TRANSPORT_RING ? copy_from_twin(&l, device, dst, err)
                                    : copy_by_ring(&l, device, dst, err);
    return close_loan(&l, status, err);
}

/* --- the test of a link ---------------------------------------------------------------------- */

/* splitmix64: any change of a bit, and any shift, shows. */
void share_pattern(uint64_t seed, void *out, uint64_t bytes)
{
    unsigned char *at = out;
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
        memcpy(at + i, &z, bytes - i < 8 ? bytes - i : 8);
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct trial {
    const lx_ticket *ticket;
    const char *instance;
    const lx_share_device *device; /* NULL: host memory */
    unsigned char *got, *want;
} trial;

/* One round by one transport. */
static lx_status try_once(const trial *t, lx_transport by, double *ms, lx_err *err)
{
    const lx_share_device *device = t->device;
    const uint64_t n = LX_SHARE_TEST_BYTES;
    lx_status status = LX_OK;
    memset(t->got, 0, (size_t)n);
    if (device) /* what an earlier transport left there must not pass for this one's */
        status = device->upload(device->self, device->scratch, t->got, n, err);
    double from_s = seconds();
    if (status == LX_OK && device)
        status = lx_share_borrow_on(t->ticket, t->instance, device, by, device->scratch, n, err);
    else if (status == LX_OK)
        status = lx_share_borrow(t->ticket, t->instance, t->got, n, err);
    *ms = (seconds() - from_s) * 1e3;
    if (status == LX_OK && device)
        status = device->download(device->self, t->got, device->scratch, n, err);
    if (status != LX_OK)
        return status;
    for (uint64_t i = 0; i < n; i++)
        if (t->got[i] != t->want[i])
            return lx_fail(err, LX_EJOB,
                           "byte %" PRIu64 " of %" PRIu64 " did not arrive as it "
                           "was lent",
                           i, n);
    return LX_OK;
}

/* Twice: the first time a card opens another's memory it sets up more than later ones do. */
static lx_status try_transport(const trial *t, lx_transport by, lx_link_result *out, lx_err *err)
{
    double ms = 0;
    lx_err why = {0};
    lx_status status = try_once(t, by, &ms, &why);
    if (status == LX_OK)
        status = try_once(t, by, &ms, &why);
    if (status == LX_ESTAGE) {
        if (err)
            *err = why;
        return status;
    }
    if (status == LX_OK && out->transport == LX_TRANSPORT_NONE) {
        out->transport = by;
        out->ms = ms;
    } else if (status != LX_OK && !out->why[0]) {
        snprintf(out->why, sizeof out->why, "%s: %.200s", lx_transport_text(by), why.message);
    }
    return LX_OK;
}

/* The best that both ends could do, as the lender's header and the driver claim. */
static lx_transport best_of(const loan *l, const lx_share_device *device)
{
    if (!device)
        return l->kind == SHARE_HOST ? LX_TRANSPORT_SHM : LX_TRANSPORT_RING;
    lx_transport best = LX_TRANSPORT_RING;
    if (l->kind == SHARE_EXPORTED)
        best = device->reach(device->self, l->device.card);
    return best > LX_TRANSPORT_RING ? best : LX_TRANSPORT_RING;
}

/* A wish that cannot be is a result: NONE, with the reason. */
static lx_status try_wished(const trial *t, const loan *l, lx_transport_wish wish,
                            lx_link_result *out, lx_err *err)
{
    lx_transport best = best_of(l, t->device), host = t->device ? LX_TRANSPORT_RING : best;
    bool is_insisted = wish == LX_WISH_IPC || wish == LX_WISH_PEER;
    bool is_between_cards = t->device && l->kind != SHARE_HOST;
    if (is_insisted && is_between_cards) {
        lx_transport asked = wish == LX_WISH_IPC ? LX_TRANSPORT_IPC : LX_TRANSPORT_PEER;
        if (best == asked)
            return try_transport(t, asked, out, err);
        snprintf(out->why, sizeof out->why, "%s is asked for, and these two have %s",
                 lx_transport_text(asked), lx_transport_text(best));
        return LX_OK;
    }
    lx_status status = LX_OK;
    if (wish == LX_WISH_AUTO && best > host)
        status = try_transport(t, best, out, err);
    return status == LX_OK ? try_transport(t, host, out, err) : status;
}

lx_status lx_share_test(const lx_ticket *ticket, const char *instance,
                        const lx_share_device *device, lx_transport_wish wish, uint64_t seed,
                        lx_link_result *out, lx_err *err)
{
    trial t = {.ticket = ticket, .instance = instance, .device = device};
    loan l;
    lx_err why = {0};
    *out = (lx_link_result){.transport = LX_TRANSPORT_NONE};
    lx_status status = open_loan(&l, ticket, instance, LX_SHARE_TEST_BYTES, &why);
    if (status == LX_OK)
        close(l.fd);
    if (status == LX_OK && ticket->bytes != LX_SHARE_TEST_BYTES)
        status = lx_fail(&why, LX_EJOB, "a test tensor of %" PRIu64 " bytes", ticket->bytes);
    if (status != LX_OK) {
        snprintf(out->why, sizeof out->why, "%.250s", why.message);
        return LX_OK;
    }
    t.got = malloc(2 * LX_SHARE_TEST_BYTES);
    if (!t.got)
        return lx_fail(err, LX_EAGAIN, "out of memory for the test of a link");
    t.want = t.got + LX_SHARE_TEST_BYTES;
    share_pattern(seed, t.want, LX_SHARE_TEST_BYTES);
    status = try_wished(&t, &l, wish, out, err);
    free(t.got);
    return status;
}
