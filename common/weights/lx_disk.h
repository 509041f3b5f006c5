/*
 * lx_disk.h - tensors that stay in their file and are read again and again
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Where a tensor's bytes lie, for a reader that brings them to a device itself: direct
 *           I/O past the page cache where the file system allows it, else buffered with one notice.
 * Promise   Exactly the bytes that were there when the checkpoint was opened, or LX_ECONFIG with
 *           the file's name: size and modification time are compared with those of that moment.
 * Threads   Any number may read at once.
 * Tests     tests/unit/test_weights_disk.c
 */
#ifndef LX_DISK_H
#define LX_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_status.h"

/* Offsets, lengths and addresses of reads are multiples of this. */
#define LX_DISK_ALIGN 4096u

typedef struct lx_disk lx_disk; /* one file, held open by its lx_weights */

/* A run of bytes of a file. Plain data; borrowed until lx_weights_close(). */
typedef struct lx_extent {
    lx_disk *disk; /* NULL: the bytes are in memory */
    uint64_t offset, bytes;
} lx_extent;

/**
 * Read [offset, offset + n) of the file into out; what lies behind its end is left out. All three
 * are multiples of LX_DISK_ALIGN.
 *
 * @retval LX_ECONFIG  the file is shorter than it was, or cannot be read
 */
lx_status lx_disk_read(lx_disk *disk, uint64_t offset, void *out, uint64_t n, lx_err *err);

/** Any n bytes at any offset, through the page cache: for who passes once. Else the same. */
lx_status lx_disk_read_any(lx_disk *disk, uint64_t offset, void *out, uint64_t n, lx_err *err);

/** LX_ECONFIG if the file is not the one that was opened any more. Ask before and after reading. */
lx_status lx_disk_unchanged(const lx_disk *disk, lx_err *err);

const char *lx_disk_path(const lx_disk *disk);
/** Reads go past the page cache, as far as is known by now. */
bool lx_disk_is_direct(const lx_disk *disk);

#endif
