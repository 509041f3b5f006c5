/*
 * lx_arena.c - one block, one mark
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_arena.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lx_fault.h"

/* A dry arena counts from here, so that its addresses are neither NULL nor mapped. */
#define DRY_BASE ((uintptr_t)4096)

struct lx_arena {
    unsigned char *base; /* owned; NULL if dry */
    size_t bytes, mark, peak;
    void (*release)(void *self, void *memory); /* NULL: munmap, unless is_foreign */
    void *self;
    bool is_foreign;
};

static uint64_t available_bytes(void)
{
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

lx_status lx_arena_create(lx_arena **out, size_t bytes, lx_err *err)
{
    lx_arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return lx_fail(err, LX_EAGAIN, "out of memory for an arena's record");
    arena->bytes = bytes ? bytes : LX_ARENA_ALIGN;
    void *base = LX_FAULT("arena.create") ? MAP_FAILED
                                          : mmap(NULL, arena->bytes, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        free(arena);
        return lx_fail(err, LX_EAGAIN, "no memory for tensors: needs %.2f GiB, %.2f GiB are free",
                       (double)bytes / 0x1p30, (double)available_bytes() / 0x1p30);
    }
    arena->base = base;
    madvise(base, arena->bytes,
            MADV_HUGEPAGE);        /* large tensors: fewer page faults and TLB misses */
    memset(base, 0, arena->bytes); /* touched now, so that nothing grows during a job */
    *out = arena;
    return LX_OK;
}

lx_status lx_arena_create_on(lx_arena **out, void *memory, size_t bytes,
                             void (*release)(void *self, void *memory), void *self, lx_err *err)
{
    lx_arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return lx_fail(err, LX_EAGAIN, "out of memory for an arena's record");
    *arena = (lx_arena){
        .base = memory, .bytes = bytes, .release = release, .self = self, .is_foreign = true};
    *out = arena;
    return LX_OK;
}

lx_status lx_arena_create_dry(lx_arena **out, lx_err *err)
{
    lx_arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return lx_fail(err, LX_EAGAIN, "out of memory for an arena's record");
    *out = arena;
    return LX_OK;
}

void lx_arena_destroy(lx_arena **arena)
{
    if (!arena || !*arena)
        return;
    if ((*arena)->release)
        (*arena)->release((*arena)->self, (*arena)->base);
    else if ((*arena)->base && !(*arena)->is_foreign)
        munmap((*arena)->base, (*arena)->bytes);
    free(*arena);
    *arena = NULL;
}

lx_status lx_arena_take(lx_arena *arena, size_t bytes, void **out, lx_err *err)
{
    uint64_t end;
    if (!lx_add_u64(arena->mark, bytes, &end) || !lx_add_u64(end, LX_ARENA_ALIGN - 1, &end))
        return lx_fail(err, LX_EJOB, "tensor of %zu bytes: size overflows", bytes);
    end &= ~(uint64_t)(LX_ARENA_ALIGN - 1);
    if (arena->base && (end > arena->bytes || LX_FAULT("arena.alloc")))
        return lx_fail(
            err, LX_EJOB,
            "planned memory is too small: needs %.1f MiB, %.1f MiB were planned at start "
            "(limits.size and limits.frames in config.yaml)",
            (double)end / 0x1p20, (double)arena->bytes / 0x1p20);
    *out = arena->base ? (void *)(arena->base + arena->mark) : (void *)(DRY_BASE + arena->mark);
    arena->mark = (size_t)end;
    if (arena->mark > arena->peak)
        arena->peak = arena->mark;
    return LX_OK;
}

lx_status lx_arena_take_f32(lx_arena *arena, uint64_t n, float **out, lx_err *err)
{
    uint64_t bytes;
    if (!lx_mul_u64(n, sizeof(float), &bytes) || bytes > SIZE_MAX)
        return lx_fail(err, LX_EJOB, "tensor of %" PRIu64 " floats: size overflows", n);
    void *memory;
    lx_status status = lx_arena_take(arena, (size_t)bytes, &memory, err);
    if (status == LX_OK)
        *out = memory;
    return status;
}

size_t lx_arena_mark(const lx_arena *arena)
{
    return arena->mark;
}

void lx_arena_reset(lx_arena *arena, size_t mark)
{
    if (mark <= arena->mark)
        arena->mark = mark;
}

size_t lx_arena_peak(const lx_arena *arena)
{
    return arena->peak;
}

size_t lx_arena_bytes(const lx_arena *arena)
{
    return arena->base ? arena->bytes : 0;
}

bool lx_arena_is_dry(const lx_arena *arena)
{
    return !arena->base;
}
