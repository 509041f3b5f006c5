/*
 * shared.c - taking turns at one memory file
 * SPDX-License-Identifier: Apache-2.0
 *
 * The header is read with pread, never through the mapping, until the file is known to be long
 * enough. Its first write is the last step of a reset, so a torn one has no magic.
 */
#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lx_log.h"
#include "lx_process.h"

#define HEADER    ((uint64_t)4096)
#define MAGIC     "lx2v-w1"
#define LOOK_MS   50 /* how often a waiter asks; also its beat */
#define TOO_LARGE ((uint64_t)1 << 60)

enum { BYTE_FILLER, BYTE_USERS };

typedef struct header {
    char magic[8];
    char identity[65];
    char unused[7];
    uint64_t bytes;       /* of the file */
    uint64_t done, total; /* of the process that fills, for those who wait */
} header;

_Static_assert(sizeof(header) <= HEADER && sizeof(MAGIC) == 8, "the header is a page");

/* --- locks ----------------------------------------------------------------------------------- */

/* type: F_RDLCK, F_WRLCK or F_UNLCK. False: another process has it. */
static bool lock_byte(int fd, int byte, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int got;
    do
        got = fcntl(fd, F_SETLK, &lock);
    while (got && errno == EINTR);
    return got == 0;
}

/* --- the header ------------------------------------------------------------------------------ */

static bool read_header(int fd, header *out)
{
    ssize_t got;
    do
        got = pread(fd, out, sizeof *out, 0);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof *out && memcmp(out->magic, MAGIC, sizeof out->magic) == 0;
}

static bool is_same(const lx_shared *s, const char identity[65])
{
    header h;
    struct stat st;
    return read_header(s->fd, &h) && memcmp(h.identity, identity, sizeof h.identity) == 0 &&
           h.bytes == s->bytes && fstat(s->fd, &st) == 0 && (uint64_t)st.st_size >= s->bytes;
}

static lx_status bad(const char *what, lx_err *err)
{
    return lx_fail(err, LX_ESTAGE, "shared memory for weights: %s: %s", what, strerror(errno));
}

/* All zeros, long enough, then the header. A sealed file cannot shrink; its pages can go. */
static lx_status reset(const lx_shared *s, const char identity[65], lx_err *err)
{
    header h = {.magic = MAGIC, .bytes = s->bytes};
    struct stat st;
    memcpy(h.identity, identity, sizeof h.identity);
    bool is_sealed = (fcntl(s->fd, F_GET_SEALS) & F_SEAL_SHRINK) != 0;
    if (fstat(s->fd, &st))
        return bad("fstat", err);
    if (!is_sealed && ftruncate(s->fd, 0))
        return bad("ftruncate", err);
    if (is_sealed && st.st_size > 0 &&
        fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, st.st_size))
        return bad("fallocate", err);
    if ((!is_sealed || (uint64_t)st.st_size < s->bytes) && ftruncate(s->fd, (off_t)s->bytes))
        return bad("ftruncate", err);
    return pwrite(s->fd, &h, sizeof h, 0) == (ssize_t)sizeof h ? LX_OK : bad("pwrite", err);
}

/* --- opening --------------------------------------------------------------------------------- */

static lx_status wait_turn(lx_shared *s, const lx_progress *progress, lx_err *err)
{
    const double start_s = lx_now_s();
    bool is_told = false;
    while (!lock_byte(s->fd, BYTE_FILLER, F_WRLCK)) {
        header h;
        if (errno != EAGAIN && errno != EACCES)
            return bad("locking", err);
        if (!read_header(s->fd, &h))
            h.done = h.total = 0;
        lx_status status = lx_progress_step(progress, "byte", h.done, h.total, err);
        if (status != LX_OK)
            return status;
        if (!is_told)
            LX_I("shared=waiting: another process reads these weights");
        is_told = true;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
    s->is_filling = true;
    s->waited_s = lx_now_s() - start_s;
    return LX_OK;
}

/* Same files: as it is. Others: only if nobody uses them. */
static lx_status settle(const lx_shared *s, const char identity[65], bool *is_ours, lx_err *err)
{
    *is_ours = true;
    if (is_same(s, identity))
        return LX_OK;
    if (!lock_byte(s->fd, BYTE_USERS, F_WRLCK)) {
        *is_ours = false;
        return LX_OK;
    }
    lx_status status = reset(s, identity, err);
    lock_byte(s->fd, BYTE_USERS, F_UNLCK);
    return status;
}

lx_status lx_shared_open(lx_shared *out, int fd, const char identity[65], uint64_t bytes,
                         const lx_progress *progress, lx_err *err)
{
    lx_shared s = {.fd = fd, .bytes = HEADER + bytes};
    bool is_ours = false;
    *out = (lx_shared){0};
    if (bytes > TOO_LARGE || fcntl(fd, F_GET_SEALS) < 0)
        return lx_fail(err, LX_ECONFIG, "descriptor %d is no memory file for %" PRIu64 " bytes", fd,
                       bytes);
    lx_status status = wait_turn(&s, progress, err);
    if (status == LX_OK)
        status = settle(&s, identity, &is_ours, err);
    if (status == LX_OK && is_ours) {
        void *map = mmap(NULL, (size_t)s.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            status =
                lx_fail(err, LX_EAGAIN, "no address space for %" PRIu64 " bytes of weights: %s",
                        s.bytes, strerror(errno));
        } else {
            s.map = map;
            s.data = s.map + HEADER;
            madvise(map, (size_t)s.bytes, MADV_HUGEPAGE);
        }
    }
    if (status == LX_OK && is_ours)
        *out = s;
    else
        lx_shared_close(&s);
    return status;
}

/* --- filling --------------------------------------------------------------------------------- */

lx_status lx_shared_reserve(lx_shared *s, uint64_t at, uint64_t n, lx_err *err)
{
    int failed;
    if (!n)
        return LX_OK;
    do
        failed = fallocate(s->fd, 0, (off_t)(HEADER + at), (off_t)n);
    while (failed && errno == EINTR);
    if (failed)
        return lx_fail(err, LX_EAGAIN, "not enough memory for %" PRIu64 " bytes of weights: %s", n,
                       strerror(errno));
    return LX_OK;
}

void lx_shared_note(lx_shared *s, uint64_t done, uint64_t total)
{
    header *h = (header *)(void *)s->map;
    h->done = done;
    h->total = total;
}

lx_status lx_shared_done(lx_shared *s, lx_err *err)
{
    if (!lock_byte(s->fd, BYTE_USERS, F_RDLCK)) /* only a filler takes it alone, and that is us */
        return bad("locking", err);
    if (fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK))
        return bad("sealing", err);
    mprotect(s->map, (size_t)s->bytes, PROT_READ); /* nobody writes weights */
    lock_byte(s->fd, BYTE_FILLER, F_UNLCK);
    s->is_filling = false;
    return LX_OK;
}

void lx_shared_close(lx_shared *s)
{
    if (s->fd <= 0)
        return;
    if (s->map)
        munmap(s->map, (size_t)s->bytes);
    if (s->is_filling && s->map && !(fcntl(s->fd, F_GET_SEALS) & F_SEAL_SHRINK) &&
        ftruncate(s->fd, 0))
        LX_W("shared memory for weights was not given back: %s", strerror(errno));
    if (s->map && !s->is_filling)
        lock_byte(s->fd, BYTE_USERS, F_UNLCK);
    if (s->is_filling)
        lock_byte(s->fd, BYTE_FILLER, F_UNLCK);
    *s = (lx_shared){0};
}

uint64_t lx_shared_bytes(int fd)
{
    struct stat st;
    return fd > 0 && fcntl(fd, F_GET_SEALS) >= 0 && fstat(fd, &st) == 0
               ? (uint64_t)st.st_blocks * 512
               : 0;
}
