/*
 * lx_share.c - the lending desk: slots of POSIX shared memory, lent by serial number
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_log.h"
#include "lx_share_slot.h"

#define SHARE_SLOTS 64

typedef struct share_slot {
    char name[96];
    share_header *header; /* mapped for the life of the desk */
    uint64_t bytes;       /* of a tensor that fits */
    uint64_t serial;      /* published under; 0: free */
    bool is_pinned;
} share_slot;

struct lx_share {
    uint64_t epoch, next_serial, slot_bytes;
    const lx_share_device *device; /* borrowed; NULL: host memory */
    bool is_exported;
    int n_slots, n_made; /* n_made: with the test slot, which is the last */
    int filling;         /* slot of an open begin, -1 none */
    lx_tensor tensor;    /* of that begin */
    share_slot slot[SHARE_SLOTS + 1];
};

bool share_instance_ok(const char *instance)
{
    return strlen(instance) == 32 && strspn(instance, "0123456789abcdef") == 32;
}

static double shm_free_mib(void)
{
    struct statvfs fs;
    return statvfs("/dev/shm", &fs) ? 0 : (double)fs.f_bavail * (double)fs.f_frsize / 0x1p20;
}

static lx_status slot_make(share_slot *slot, uint64_t bytes, lx_err *err)
{
    uint64_t total = bytes + SHARE_HEADER;
    int fd = shm_open(slot->name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return lx_fail(err, LX_ESTAGE, "shared memory %s: %s", slot->name, strerror(errno));
    /* Real pages now: a small /dev/shm is this error, not a SIGBUS in the middle of a clip. */
    int failed = LX_FAULT("share.open");
    if (!failed)
        failed = posix_fallocate(fd, 0, (off_t)total);
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
    slot->bytes = bytes;
    slot->header->magic = SHARE_MAGIC;
    return LX_OK;
}

/* A card copies to pinned memory faster and beside its work; without, it still copies. */
static void slot_pin(lx_share *desk, share_slot *slot)
{
    lx_err why = {0};
    lx_status status =
        desk->device->pin(desk->device->self, slot->header, slot->bytes + SHARE_HEADER, &why);
    slot->is_pinned = status == LX_OK;
    if (status != LX_OK)
        LX_W("lent slots are not pinned: %s", why.message);
}

static lx_status make_slots(lx_share *desk, const lx_share_options *o, lx_err *err)
{
    int n = o->n_slots + o->has_test_slot;
    for (int i = 0; i < n; i++) {
        share_slot *slot = &desk->slot[i];
        snprintf(slot->name, sizeof slot->name, "/lx2v.%s.%" PRIu64 ".%d", o->instance, o->epoch,
                 i);
        lx_status status =
            slot_make(slot, i < o->n_slots ? o->slot_bytes : LX_SHARE_TEST_BYTES, err);
        if (status != LX_OK)
            return status;
        desk->n_made = i + 1;
        if (desk->device)
            slot_pin(desk, slot);
    }
    return LX_OK;
}

static lx_status export_slots(lx_share *desk, lx_err *err)
{
    uint64_t bytes[SHARE_SLOTS + 1];
    lx_share_export made[SHARE_SLOTS + 1];
    for (int i = 0; i < desk->n_made; i++)
        bytes[i] = desk->slot[i].bytes;
    memset(made, 0, sizeof made);
    lx_status status = desk->device->open(desk->device->self, desk->n_made, bytes, made, err);
    if (status != LX_OK)
        return status;
    desk->is_exported = true;
    for (int i = 0; i < desk->n_made; i++)
        desk->slot[i].header->device = made[i];
    return LX_OK;
}

lx_status lx_share_open_on(lx_share **out, const lx_share_options *o, lx_err *err)
{
    uint64_t total;
    if (!share_instance_ok(o->instance) || o->n_slots < 1 || o->n_slots > SHARE_SLOTS ||
        !lx_add_u64(o->slot_bytes, SHARE_HEADER, &total) || total > INT64_MAX ||
        (o->is_exported && !o->device))
        return lx_fail(err, LX_ESTAGE, "lending desk: %d slots of %" PRIu64 " bytes are impossible",
                       o->n_slots, o->slot_bytes);
    lx_share *desk = calloc(1, sizeof *desk);
    if (!desk)
        return lx_fail(err, LX_EAGAIN, "out of memory for a lending desk");
    desk->epoch = o->epoch;
    desk->slot_bytes = o->slot_bytes;
    desk->n_slots = o->n_slots;
    desk->device = o->device;
    desk->filling = -1;
    lx_status status = make_slots(desk, o, err);
    if (status == LX_OK && o->is_exported)
        status = export_slots(desk, err);
    if (status != LX_OK) {
        lx_share_close(&desk);
        return status;
    }
    *out = desk;
    return LX_OK;
}

lx_status lx_share_open(lx_share **out, const char *instance, uint64_t epoch, int n_slots,
                        uint64_t slot_bytes, lx_err *err)
{
    lx_share_options o = {
        .instance = instance, .epoch = epoch, .n_slots = n_slots, .slot_bytes = slot_bytes};
    return lx_share_open_on(out, &o, err);
}

void lx_share_close(lx_share **desk_)
{
    if (!desk_ || !*desk_)
        return;
    lx_share *desk = *desk_;
    if (desk->is_exported)
        desk->device->close(desk->device->self);
    for (int i = 0; i < desk->n_made; i++) {
        if (desk->slot[i].is_pinned)
            desk->device->unpin(desk->device->self, desk->slot[i].header);
        munmap(desk->slot[i].header, desk->slot[i].bytes + SHARE_HEADER);
        shm_unlink(desk->slot[i].name);
    }
    free(desk);
    *desk_ = NULL;
}

bool lx_share_is_exported(const lx_share *desk)
{
    return desk->is_exported;
}

/* --- lending --------------------------------------------------------------------------------- */

static void *slot_data(const share_slot *slot)
{
    return (char *)slot->header + SHARE_HEADER;
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
    desk->tensor =
        (lx_tensor){.dtype = dtype, .shape = *shape, .data = slot_data(&desk->slot[free_slot])};
    *out = desk->tensor;
    return LX_OK;
}

/* The bytes are where they belong: from here on they may be borrowed. */
static void announce(lx_share *desk, int i, const lx_tensor *tensor, lx_ticket *ticket)
{
    share_slot *slot = &desk->slot[i];
    lx_ticket t = {.serial = ++desk->next_serial,
                   .epoch = desk->epoch,
                   .dtype = (int32_t)tensor->dtype,
                   .n_dims = tensor->shape.n_dims};
    memcpy(t.name, slot->name, sizeof t.name);
    memcpy(t.dims, tensor->shape.dim, sizeof t.dims);
    lx_shape_bytes(&tensor->shape, tensor->dtype, NULL, &t.bytes, NULL);
    slot->header->bytes = t.bytes;
    slot->header->kind = desk->is_exported ? SHARE_EXPORTED
                         : desk->device    ? SHARE_PINNED
                                           : SHARE_HOST;
    slot->serial = t.serial;
    atomic_store_explicit(&slot->header->serial, t.serial, memory_order_release);
    *ticket = t;
}

static lx_status publish(lx_share *desk, const void *src_device, lx_ticket *ticket, lx_err *err)
{
    const lx_share_device *device = desk->device;
    int i = desk->filling;
    uint64_t bytes = 0;
    lx_status status = LX_OK;
    if (i < 0)
        return lx_fail(err, LX_ESTAGE, "publish without a tensor begun");
    desk->filling = -1;
    if (!ticket)
        return LX_OK;
    lx_shape_bytes(&desk->tensor.shape, desk->tensor.dtype, NULL, &bytes, NULL);
    if (LX_FAULT("share.publish"))
        status = lx_fail(err, LX_ESTAGE, "publish: the device refused (fault point)");
    else if (desk->is_exported)
        status = device->push(device->self, i, src_device, slot_data(&desk->slot[i]), bytes, err);
    else if (src_device)
        status = device->download(device->self, slot_data(&desk->slot[i]), src_device, bytes, err);
    if (status == LX_OK)
        announce(desk, i, &desk->tensor, ticket);
    return status;
}

lx_status lx_share_publish(lx_share *desk, lx_ticket *ticket, lx_err *err)
{
    return publish(desk, NULL, ticket, err);
}

lx_status lx_share_publish_from(lx_share *desk, const void *src_device, lx_ticket *ticket,
                                lx_err *err)
{
    if (!desk->device || !src_device)
        return lx_fail(err, LX_ESTAGE, "publish from a card by a desk without one");
    return publish(desk, src_device, ticket, err);
}

lx_status lx_share_lend_test(lx_share *desk, uint64_t seed, lx_ticket *ticket, lx_err *err)
{
    const lx_share_device *device = desk->device;
    int i = desk->n_slots;
    lx_tensor tensor = {.dtype = LX_DTYPE_U8, .shape = LX_SHAPE((int64_t)LX_SHARE_TEST_BYTES)};
    lx_status status = LX_OK;
    if (desk->n_made == desk->n_slots)
        return lx_fail(err, LX_ESTAGE, "this desk has no slot for tests");
    /* The launcher asks for one test at a time: one that is still lent is void by this. */
    lx_share_retire(desk, desk->slot[i].serial);
    void *data = slot_data(&desk->slot[i]);
    share_pattern(seed, data, LX_SHARE_TEST_BYTES);
    if (device) { /* by the card, as a tensor goes */
        status = device->upload(device->self, device->scratch, data, LX_SHARE_TEST_BYTES, err);
        memset(data, 0, LX_SHARE_TEST_BYTES);
        if (status == LX_OK && desk->is_exported)
            status = device->push(device->self, i, device->scratch, data, LX_SHARE_TEST_BYTES, err);
        else if (status == LX_OK)
            status =
                device->download(device->self, data, device->scratch, LX_SHARE_TEST_BYTES, err);
    }
    if (status == LX_OK)
        announce(desk, i, &tensor, ticket);
    return status;
}

void lx_share_retire(lx_share *desk, uint64_t serial)
{
    for (int i = 0; i < desk->n_made; i++)
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

int lx_share_sweep(const char *instance, uint64_t epoch)
{
    char prefix[80];
    if (!share_instance_ok(instance))
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
