/*
 * lx_share.c - slots of POSIX shared memory, lent by serial number
 * SPDX-License-Identifier: Apache-2.0
 *
 * A slot is one header page and the tensor's bytes. The header names the serial that is
 * published, 0 while the slot is free or being filled. A borrower reads header, bytes, header:
 * if the serial is the ticket's both times, the bytes between are the tensor's, because a lender
 * clears the serial before it writes again.
 */
#include "lx_share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SHARE_MAGIC  UINT64_C(0x7865726168733278)
#define SHARE_HEADER 4096
#define SHARE_SLOTS  64

typedef struct share_header {
    uint64_t magic;
    _Atomic uint64_t serial;
    uint64_t bytes;
} share_header;

typedef struct share_slot {
    char name[96];
    share_header *header; /* mapped for the life of the desk */
    uint64_t serial;      /* published under; 0: free */
} share_slot;

struct lx_share {
    uint64_t epoch, next_serial, slot_bytes;
    int n_slots, filling; /* filling: slot of an open begin, -1 none */
    lx_tensor tensor;     /* of that begin */
    share_slot slot[SHARE_SLOTS];
};

static bool instance_ok(const char *instance)
{
    return strlen(instance) == 32 && strspn(instance, "0123456789abcdef") == 32;
}

static double shm_free_mib(void)
{
    struct statvfs fs;
    return statvfs("/dev/shm", &fs) ? 0 : (double)fs.f_bavail * (double)fs.f_frsize / 0x1p20;
}

static lx_status slot_make(share_slot *slot, uint64_t total, lx_err *err)
{
    int fd = shm_open(slot->name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return lx_fail(err, LX_ESTAGE, "shared memory %s: %s", slot->name, strerror(errno));
    /* Real pages now: a small /dev/shm is this error, not a SIGBUS in the middle of a clip. */
    int failed = posix_fallocate(fd, 0, (off_t)total);
    void *at = failed ? MAP_FAILED
                      : mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    close(fd);
    if (at == MAP_FAILED) {
        shm_unlink(slot->name);
        return lx_fail(err, LX_ECONFIG,
                       "shared memory: needs %.1f MiB in /dev/shm, %.1f MiB are free (%s); make it "
                       "larger (mount -o remount,size=...), or lower limits or links.depth in "
                       "config.yaml",
                       (double)total / 0x1p20, shm_free_mib(), strerror(failed ? failed : errno));
    }
    slot->header = at;
    slot->header->magic = SHARE_MAGIC;
    return LX_OK;
}

lx_status lx_share_open(lx_share **out, const char *instance, uint64_t epoch, int n_slots,
                        uint64_t slot_bytes, lx_err *err)
{
    uint64_t total;
    if (!instance_ok(instance) || n_slots < 1 || n_slots > SHARE_SLOTS ||
        !lx_add_u64(slot_bytes, SHARE_HEADER, &total) || total > INT64_MAX)
        return lx_fail(err, LX_ESTAGE, "lending desk: %d slots of %" PRIu64 " bytes are impossible",
                       n_slots, slot_bytes);
    lx_share *desk = calloc(1, sizeof *desk);
    if (!desk)
        return lx_fail(err, LX_EAGAIN, "out of memory for a lending desk");
    desk->epoch = epoch;
    desk->slot_bytes = slot_bytes;
    desk->filling = -1;
    for (int i = 0; i < n_slots; i++) {
        snprintf(desk->slot[i].name, sizeof desk->slot[i].name, "/lx2v.%s.%" PRIu64 ".%d", instance,
                 epoch, i);
        lx_status status = slot_make(&desk->slot[i], total, err);
        if (status != LX_OK) {
            lx_share_close(&desk);
            return status;
        }
        desk->n_slots = i + 1;
    }
    *out = desk;
    return LX_OK;
}

void lx_share_close(lx_share **desk)
{
    if (!desk || !*desk)
        return;
    for (int i = 0; i < (*desk)->n_slots; i++) {
        munmap((*desk)->slot[i].header, (*desk)->slot_bytes + SHARE_HEADER);
        shm_unlink((*desk)->slot[i].name);
    }
    free(*desk);
    *desk = NULL;
}

lx_status lx_share_begin(lx_share *desk, lx_dtype dtype, const lx_shape *shape, lx_tensor *out,
                         lx_err *err)
{
    uint64_t bytes;
    lx_status status = lx_shape_bytes(shape, dtype, NULL, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!bytes || bytes > desk->slot_bytes)
        return lx_fail(err, LX_EJOB,
                       "a tensor of %" PRIu64 " bytes cannot be lent: slots have %" PRIu64
                       " (limits in config.yaml)",
                       bytes, desk->slot_bytes);
    int free_slot = desk->filling;
    for (int i = 0; i < desk->n_slots && free_slot < 0; i++)
        if (!desk->slot[i].serial)
            free_slot = i;
    if (free_slot < 0)
        return lx_fail(err, LX_EAGAIN, "all %d slots are lent out", desk->n_slots);
    desk->filling = free_slot;
    desk->tensor = (lx_tensor){.dtype = dtype,
                               .shape = *shape,
                               .data = (char *)desk->slot[free_slot].header + SHARE_HEADER};
    *out = desk->tensor;
    return LX_OK;
}

lx_status lx_share_publish(lx_share *desk, lx_ticket *ticket, lx_err *err)
{
    if (desk->filling < 0)
        return lx_fail(err, LX_ESTAGE, "publish without a tensor begun");
    share_slot *slot = &desk->slot[desk->filling];
    desk->filling = -1;
    if (!ticket)
        return LX_OK;
    lx_ticket t = {.serial = ++desk->next_serial,
                   .epoch = desk->epoch,
                   .dtype = (int32_t)desk->tensor.dtype,
                   .n_dims = desk->tensor.shape.n_dims};
    memcpy(t.name, slot->name, sizeof t.name);
    memcpy(t.dims, desk->tensor.shape.dim, sizeof t.dims);
    lx_shape_bytes(&desk->tensor.shape, desk->tensor.dtype, NULL, &t.bytes, NULL);
    slot->header->bytes = t.bytes;
    slot->serial = t.serial;
    atomic_store_explicit(&slot->header->serial, t.serial, memory_order_release);
    *ticket = t;
    return LX_OK;
}

void lx_share_retire(lx_share *desk, uint64_t serial)
{
    for (int i = 0; i < desk->n_slots; i++)
        if (serial && desk->slot[i].serial == serial) {
            atomic_store_explicit(&desk->slot[i].header->serial, 0, memory_order_seq_cst);
            desk->slot[i].serial = 0;
        }
}

int lx_share_free_slots(const lx_share *desk)
{
    int n = 0;
    for (int i = 0; i < desk->n_slots; i++)
        n += !desk->slot[i].serial;
    return n;
}

/* --- borrowing ------------------------------------------------------------------------------- */

static bool name_belongs(const char *name, const char *instance)
{
    return !strncmp(name, "/lx2v.", 6) && !strncmp(name + 6, instance, 32) && name[38] == '.' &&
           strspn(name + 39, "0123456789.") == strlen(name + 39);
}

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

static bool serial_is(int fd, const lx_ticket *ticket)
{
    struct {
        uint64_t magic, serial, bytes;
    } header;
    return read_all(fd, &header, sizeof header, 0) && header.magic == SHARE_MAGIC &&
           header.serial == ticket->serial && header.bytes == ticket->bytes;
}

static lx_status borrow_from(int fd, const lx_ticket *ticket, void *dst, lx_err *err)
{
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        (uint64_t)st.st_size < SHARE_HEADER + ticket->bytes)
        return lx_fail(err, LX_EJOB, "lent tensor: the region is not of the lender's making");
    if (!serial_is(fd, ticket))
        return lx_fail(err, LX_EJOB, "lent tensor: stale ticket");
    if (!read_all(fd, dst, ticket->bytes, SHARE_HEADER))
        return lx_fail(err, LX_EJOB, "lent tensor: the region was cut short");
    if (!serial_is(fd, ticket))
        return lx_fail(err, LX_EJOB, "lent tensor: retired while it was being read");
    return LX_OK;
}

lx_status lx_share_borrow(const lx_ticket *ticket, const char *instance, void *dst,
                          uint64_t dst_bytes, lx_err *err)
{
    if (!instance_ok(instance) || !memchr(ticket->name, 0, sizeof ticket->name) ||
        strlen(ticket->name) < 42 || !name_belongs(ticket->name, instance) || !ticket->serial)
        return lx_fail(err, LX_EJOB, "lent tensor: the ticket is not of this instance");
    lx_shape shape = {.n_dims = ticket->n_dims};
    uint64_t bytes = 0;
    memcpy(shape.dim, ticket->dims, sizeof shape.dim);
    lx_status status = lx_shape_bytes(&shape, (lx_dtype)ticket->dtype, NULL, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!bytes || bytes != ticket->bytes || bytes > dst_bytes)
        return lx_fail(err, LX_EJOB,
                       "lent tensor: %" PRIu64 " bytes by shape, %" PRIu64 " by ticket, room for "
                       "%" PRIu64,
                       bytes, ticket->bytes, dst_bytes);
    int fd = shm_open(ticket->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return lx_fail(err, errno == EMFILE || errno == ENFILE ? LX_EAGAIN : LX_EJOB,
                       "lent tensor: %s", strerror(errno));
    status = borrow_from(fd, ticket, dst, err);
    close(fd);
    return status;
}

int lx_share_sweep(const char *instance, uint64_t epoch)
{
    char prefix[80];
    if (!instance_ok(instance))
        return 0;
    if (epoch)
        snprintf(prefix, sizeof prefix, "lx2v.%s.%" PRIu64 ".", instance, epoch);
    else
        snprintf(prefix, sizeof prefix, "lx2v.%s.", instance);
    DIR *dir = opendir("/dev/shm");
    int n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)))
            continue;
        char name[300];
        snprintf(name, sizeof name, "/%s", entry->d_name);
        n += !shm_unlink(name);
    }
    if (dir)
        closedir(dir);
    return n;
}
