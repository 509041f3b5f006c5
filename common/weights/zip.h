/*
 * zip.h - the directory of a .pth archive
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Reads a zip's central directory (ZIP64 included) directly: entries are stored, not
 *           compressed, so a record is a range of the file.
 * Promise   Every record lies inside the file, before the central directory, and overlaps no other.
 * Tests     tests/unit/test_pth.c
 */
#ifndef LX_ZIP_H
#define LX_ZIP_H

#include "weights_internal.h"

typedef struct lx_zip_record {
    const char *name; /* below the root; borrowed from lx_zip, not terminated */
    uint32_t name_bytes, crc;
    uint64_t local;         /* offset of the local header */
    uint64_t offset, bytes; /* of the data */
} lx_zip_record;

typedef struct lx_zip {
    char *directory;       /* owned: raw central directory */
    lx_zip_record *record; /* owned, sorted by name */
    size_t n;
} lx_zip;

lx_status lx_zip_open(lx_zip *out, const lx_source *source, lx_err *err);
void lx_zip_close(lx_zip *zip);
/** By name below the root ("data.pkl"); NULL if absent. */
const lx_zip_record *lx_zip_find(const lx_zip *zip, const char *name);
/** Read a record of at most `limit` bytes into memory owned by the caller; its CRC is checked. */
lx_status lx_zip_read(const lx_zip_record *record, const lx_source *source, uint64_t limit,
                      void **out, lx_err *err);
/** Check a record's CRC without keeping it. */
lx_status lx_zip_verify(const lx_zip_record *record, const lx_source *source, lx_err *err);
/** CRC-32 as zip wants it; start with 0. */
uint32_t lx_crc32(uint32_t crc, const void *data, size_t n);

#endif
