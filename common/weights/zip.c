/*
 * zip.c - central directory of a stored zip archive, ZIP64 included
 * SPDX-License-Identifier: Apache-2.0
 *
 * Sizes and offsets come from the central directory only: torch writes zeros into the local
 * headers. The local header is read for one thing, the length of its padding.
 */
#include "zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EOCD_BYTES     22
#define LOCATOR_BYTES  20
#define EOCD64_BYTES   56
#define CENTRAL_BYTES  46
#define LOCAL_BYTES    30
#define MAX_COMMENT    65535
#define MAX_DIRECTORY  (256u << 20)
#define MAX_RECORDS    1000000u
#define SATURATED16    0xffffu
#define SATURATED32    0xffffffffu
#define FLAG_ENCRYPTED 1u
#define EXTRA_ZIP64    1u

static uint64_t le(const void *at, int bytes)
{
    const unsigned char *p = at;
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | p[i];
    return value;
}

uint32_t lx_crc32(uint32_t crc, const void *data, size_t n)
{
    /* Row k: a nibble followed by k zero nibbles (polynomial 0xedb88320); four bytes at a time are
     * eight lookups that do not wait for each other. */
    static const uint32_t table[8][16] = {
        {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158,
         0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4,
         0xa00ae278, 0xbdbdf21c},
        {0x00000000, 0x77073096, 0xee0e612c, 0x990951ba, 0x076dc419, 0x706af48f, 0xe963a535,
         0x9e6495a3, 0x0edb8832, 0x79dcb8a4, 0xe0d5e91e, 0x97d2d988, 0x09b64c2b, 0x7eb17cbd,
         0xe7b82d07, 0x90bf1d91},
        {0x00000000, 0x4ac21251, 0x958424a2, 0xdf4636f3, 0xf0794f05, 0xbabb5d54, 0x65fd6ba7,
         0x2f3f79f6, 0x3b83984b, 0x71418a1a, 0xae07bce9, 0xe4c5aeb8, 0xcbfad74e, 0x8138c51f,
         0x5e7ef3ec, 0x14bce1bd},
        {0x00000000, 0x191b3141, 0x32366282, 0x2b2d53c3, 0x646cc504, 0x7d77f445, 0x565aa786,
         0x4f4196c7, 0xc8d98a08, 0xd1c2bb49, 0xfaefe88a, 0xe3f4d9cb, 0xacb54f0c, 0xb5ae7e4d,
         0x9e832d8e, 0x87981ccf},
        {0x00000000, 0x1c26a370, 0x384d46e0, 0x246be590, 0x709a8dc0, 0x6cbc2eb0, 0x48d7cb20,
         0x54f16850, 0xe1351b80, 0xfd13b8f0, 0xd9785d60, 0xc55efe10, 0x91af9640, 0x8d893530,
         0xa9e2d0a0, 0xb5c473d0},
        {0x00000000, 0x01c26a37, 0x0384d46e, 0x0246be59, 0x0709a8dc, 0x06cbc2eb, 0x048d7cb2,
         0x054f1685, 0x0e1351b8, 0x0fd13b8f, 0x0d9785d6, 0x0c55efe1, 0x091af964, 0x08d89353,
         0x0a9e2d0a, 0x0b5c473d},
        {0x00000000, 0x5019579f, 0xa032af3e, 0xf02bf8a1, 0x9b14583d, 0xcb0d0fa2, 0x3b26f703,
         0x6b3fa09c, 0xed59b63b, 0xbd40e1a4, 0x4d6b1905, 0x1d724e9a, 0x764dee06, 0x2654b999,
         0xd67f4138, 0x866616a7},
        {0x00000000, 0xb8bc6765, 0xaa09c88b, 0x12b5afee, 0x8f629757, 0x37def032, 0x256b5fdc,
         0x9dd738b9, 0xc5b428ef, 0x7d084f8a, 0x6fbde064, 0xd7018701, 0x4ad6bfb8, 0xf26ad8dd,
         0xe0df7733, 0x58631056},
    };
    const unsigned char *p = data;
    crc = ~crc;
    for (; n >= 4; p += 4, n -= 4) {
        uint32_t x = crc ^ (uint32_t)le(p, 4);
        crc = table[7][x & 15] ^ table[6][x >> 4 & 15] ^ table[5][x >> 8 & 15] ^
              table[4][x >> 12 & 15] ^ table[3][x >> 16 & 15] ^ table[2][x >> 20 & 15] ^
              table[1][x >> 24 & 15] ^ table[0][x >> 28];
    }
    for (; n; p++, n--) {
        crc = table[0][(crc ^ *p) & 15] ^ crc >> 4;
        crc = table[0][(crc ^ (uint32_t)*p >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

/* Where the directory lies. */
typedef struct directory {
    uint64_t n, bytes, offset, end; /* end: first byte of the end records */
    bool is_one_disk;
} directory;

/* ZIP64: some field of the plain end record is saturated, the real ones are in another record. */
static lx_status read_end64(const lx_source *source, uint64_t eocd, directory *d, lx_err *err)
{
    unsigned char locator[LOCATOR_BYTES], end[EOCD64_BYTES];
    if (eocd < LOCATOR_BYTES)
        return lx_fail(err, LX_ECONFIG, "%s: zip: ZIP64 fields without a ZIP64 locator",
                       source->path);
    lx_status status = lx_source_read(source, eocd - LOCATOR_BYTES, locator, sizeof locator, err);
    if (status != LX_OK)
        return status;
    if (le(locator, 4) != 0x07064b50)
        return lx_fail(err, LX_ECONFIG, "%s: zip: ZIP64 fields without a ZIP64 locator",
                       source->path);
    uint64_t at = le(locator + 8, 8);
    if (at > eocd - LOCATOR_BYTES || eocd - LOCATOR_BYTES - at < EOCD64_BYTES)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: the ZIP64 end record at %" PRIu64 " is outside the file",
                       source->path, at);
    status = lx_source_read(source, at, end, sizeof end, err);
    if (status != LX_OK)
        return status;
    if (le(end, 4) != 0x06064b50)
        return lx_fail(err, LX_ECONFIG, "%s: zip: no ZIP64 end record at %" PRIu64, source->path,
                       at);
    d->is_one_disk = !le(locator + 4, 4) && le(locator + 16, 4) <= 1 && !le(end + 16, 4) &&
                     !le(end + 20, 4) && le(end + 24, 8) == le(end + 32, 8);
    d->n = le(end + 32, 8);
    d->bytes = le(end + 40, 8);
    d->offset = le(end + 48, 8);
    d->end = at;
    return LX_OK;
}

/* Looks from the end of the file for an end record whose comment ends exactly there. */
static lx_status find_end(const lx_source *source, unsigned char *eocd, uint64_t *at, lx_err *err)
{
    uint64_t n =
        source->bytes < EOCD_BYTES + MAX_COMMENT ? source->bytes : EOCD_BYTES + MAX_COMMENT;
    unsigned char *tail = malloc((size_t)n);
    if (!tail)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", source->path);
    lx_status status = lx_source_read(source, source->bytes - n, tail, n, err);
    bool is_near = false, is_found = false;
    for (uint64_t i = n < EOCD_BYTES ? 0 : n - EOCD_BYTES + 1; status == LX_OK && i-- > 0;) {
        if (le(tail + i, 4) != 0x06054b50)
            continue;
        is_near = true;
        if (i + EOCD_BYTES + le(tail + i + 20, 2) != n)
            continue;
        memcpy(eocd, tail + i, EOCD_BYTES);
        *at = source->bytes - n + i;
        is_found = true;
        break;
    }
    free(tail);
    if (status == LX_OK && !is_found)
        status = lx_fail(err, LX_ECONFIG, "%s: zip: %s", source->path,
                         is_near ? "the end record's comment length does not fit the file"
                                 : "no end of central directory: the file is truncated, download "
                                   "it again");
    return status;
}

static lx_status find_directory(const lx_source *source, directory *d, lx_err *err)
{
    unsigned char eocd[EOCD_BYTES];
    uint64_t at = 0;
    lx_status status = find_end(source, eocd, &at, err);
    if (status != LX_OK)
        return status;
    *d = (directory){.n = le(eocd + 10, 2),
                     .bytes = le(eocd + 12, 4),
                     .offset = le(eocd + 16, 4),
                     .end = at,
                     .is_one_disk = !le(eocd + 4, 2) && !le(eocd + 6, 2) &&
                                    le(eocd + 8, 2) == le(eocd + 10, 2)};
    if (d->n == SATURATED16 || d->bytes == SATURATED32 || d->offset == SATURATED32 ||
        le(eocd + 4, 2) == SATURATED16 || le(eocd + 6, 2) == SATURATED16)
        status = read_end64(source, at, d, err);
    if (status != LX_OK)
        return status;
    if (!d->is_one_disk)
        return lx_fail(err, LX_ECONFIG, "%s: zip: archives in several parts are not supported",
                       source->path);
    if (d->n > MAX_RECORDS)
        return lx_fail(err, LX_ECONFIG, "%s: zip: %" PRIu64 " entries, at most %u are allowed",
                       source->path, d->n, MAX_RECORDS);
    if (d->offset > d->end || d->bytes > d->end - d->offset)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: a central directory of %" PRIu64 " bytes at %" PRIu64
                       " is outside the file of %" PRIu64,
                       source->path, d->bytes, d->offset, source->bytes);
    if (d->bytes > MAX_DIRECTORY)
        return lx_fail(err, LX_ECONFIG, "%s: zip: a central directory of %" PRIu64 " bytes",
                       source->path, d->bytes);
    return LX_OK;
}

/* The ZIP64 extra block has 64-bit values only for the fields that are saturated, in this order. */
static bool widen_fields(const unsigned char *extra, size_t n, uint64_t *fields[3], uint64_t *disk)
{
    bool needs_any = false;
    for (int i = 0; i < 3; i++)
        needs_any |= *fields[i] == SATURATED32;
    if (!needs_any && *disk != SATURATED16)
        return true;
    while (n >= 4) {
        size_t id = (size_t)le(extra, 2), bytes = (size_t)le(extra + 2, 2);
        if (bytes > n - 4)
            return false;
        const unsigned char *at = extra + 4, *end = at + bytes;
        extra = end;
        n -= 4 + bytes;
        if (id != EXTRA_ZIP64)
            continue;
        for (int i = 0; i < 3; i++)
            if (*fields[i] == SATURATED32) {
                if (end - at < 8)
                    return false;
                *fields[i] = le(at, 8);
                at += 8;
            }
        if (*disk == SATURATED16) {
            if (end - at < 4)
                return false;
            *disk = le(at, 4);
        }
        return true;
    }
    return false;
}

/* One path component after another: none may be empty, "." or "..". */
static bool is_clean_name(const char *name, size_t n)
{
    if (!n || memchr(name, 0, n) || memchr(name, '\\', n))
        return false;
    for (size_t i = 0; i <= n;) {
        size_t start = i;
        while (i < n && name[i] != '/')
            i++;
        size_t m = i - start;
        if (!m || (m == 1 && name[start] == '.') ||
            (m == 2 && name[start] == '.' && name[start + 1] == '.'))
            return false;
        i++;
    }
    return true;
}

typedef struct walk {
    const lx_source *source;
    const unsigned char *at, *end;
    const char *root;
    size_t root_bytes; /* with its '/' */
} walk;

/* Names share one top folder, "ROOT/"; what is kept is the rest. */
static lx_status take_name(walk *w, lx_zip_record *r, const char *name, size_t n, lx_err *err)
{
    int shown = n < 200 ? (int)n : 200;
    if (!is_clean_name(name, n))
        return lx_fail(err, LX_ECONFIG, "%s: zip: entry name \"%.*s\" is not clean",
                       w->source->path, shown, name);
    if (!w->root) {
        const char *slash = memchr(name, '/', n);
        if (!slash)
            return lx_fail(err, LX_ECONFIG,
                           "%s: zip: entry \"%.*s\" is not inside a folder: this is not a "
                           "checkpoint of torch.save",
                           w->source->path, shown, name);
        w->root = name;
        w->root_bytes = (size_t)(slash - name) + 1;
    }
    if (n <= w->root_bytes || memcmp(name, w->root, w->root_bytes))
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: entry \"%.*s\" is outside the top folder \"%.*s\"",
                       w->source->path, shown, name,
                       (int)(w->root_bytes < 200 ? w->root_bytes : 200), w->root);
    r->name = name + w->root_bytes;
    r->name_bytes = (uint32_t)(n - w->root_bytes);
    return LX_OK;
}

static lx_status walk_entry(walk *w, lx_zip_record *r, lx_err *err)
{
    const unsigned char *at = w->at;
    const char *path = w->source->path;
    if ((size_t)(w->end - at) < CENTRAL_BYTES || le(at, 4) != 0x02014b50)
        return lx_fail(err, LX_ECONFIG, "%s: zip: fewer directory entries than announced", path);
    size_t name = (size_t)le(at + 28, 2), extra = (size_t)le(at + 30, 2);
    size_t comment = (size_t)le(at + 32, 2);
    if (name + extra + comment > (size_t)(w->end - at) - CENTRAL_BYTES)
        return lx_fail(err, LX_ECONFIG, "%s: zip: a directory entry runs past its end", path);
    lx_status status = take_name(w, r, (const char *)at + CENTRAL_BYTES, name, err);
    if (status != LX_OK)
        return status;
    int shown = r->name_bytes < 200 ? (int)r->name_bytes : 200;
    uint64_t packed = le(at + 20, 4), disk = le(at + 34, 2);
    r->crc = (uint32_t)le(at + 16, 4);
    r->bytes = le(at + 24, 4);
    r->local = le(at + 42, 4);
    uint64_t *fields[3] = {&r->bytes, &packed, &r->local};
    if (!widen_fields(at + CENTRAL_BYTES + name, extra, fields, &disk))
        return lx_fail(err, LX_ECONFIG, "%s: zip: record %.*s: its ZIP64 sizes are missing", path,
                       shown, r->name);
    if (le(at + 8, 2) & FLAG_ENCRYPTED)
        return lx_fail(err, LX_ECONFIG, "%s: zip: record %.*s is encrypted", path, shown, r->name);
    if (le(at + 10, 2) != 0)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: record %.*s is compressed (method %d): compressed .pth is not "
                       "supported, save it again with torch.save",
                       path, shown, r->name, (int)le(at + 10, 2));
    if (packed != r->bytes)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: record %.*s is stored, but its sizes differ: %" PRIu64
                       " and %" PRIu64,
                       path, shown, r->name, packed, r->bytes);
    if (disk)
        return lx_fail(err, LX_ECONFIG, "%s: zip: archives in several parts are not supported",
                       path);
    w->at = at + CENTRAL_BYTES + name + extra + comment;
    return LX_OK;
}

/* The data begins after the local header, its name and its padding. */
static lx_status locate(const lx_source *source, const directory *d, lx_zip_record *r, lx_err *err)
{
    unsigned char local[LOCAL_BYTES];
    int shown = r->name_bytes < 200 ? (int)r->name_bytes : 200;
    if (r->local > d->offset || d->offset - r->local < LOCAL_BYTES)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: record %.*s begins at %" PRIu64 ", past the data (%" PRIu64 ")",
                       source->path, shown, r->name, r->local, d->offset);
    lx_status status = lx_source_read(source, r->local, local, sizeof local, err);
    if (status != LX_OK)
        return status;
    if (le(local, 4) != 0x04034b50)
        return lx_fail(err, LX_ECONFIG, "%s: zip: record %.*s: no local header at %" PRIu64,
                       source->path, shown, r->name, r->local);
    r->offset = r->local + LOCAL_BYTES + le(local + 26, 2) + le(local + 28, 2);
    if (r->offset > d->offset || r->bytes > d->offset - r->offset)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: record %.*s of %" PRIu64 " bytes at %" PRIu64
                       " runs past the data (%" PRIu64 ")",
                       source->path, shown, r->name, r->bytes, r->offset, d->offset);
    return LX_OK;
}

static int by_local(const void *a, const void *b)
{
    const lx_zip_record *x = a, *y = b;
    return (x->local > y->local) - (x->local < y->local);
}

static int compare_names(const char *a, size_t n, const char *b, size_t m)
{
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int by_name(const void *a, const void *b)
{
    const lx_zip_record *x = a, *y = b;
    return compare_names(x->name, x->name_bytes, y->name, y->name_bytes);
}

static lx_status check_records(lx_zip *zip, const lx_source *source, lx_err *err)
{
    if (!zip->n)
        return lx_fail(err, LX_ECONFIG, "%s: zip: the archive is empty", source->path);
    qsort(zip->record, zip->n, sizeof *zip->record, by_local);
    for (size_t i = 1; i < zip->n; i++) {
        const lx_zip_record *a = &zip->record[i - 1], *b = &zip->record[i];
        if (b->local < a->offset + a->bytes)
            return lx_fail(err, LX_ECONFIG, "%s: zip: records %.*s and %.*s overlap", source->path,
                           (int)(a->name_bytes < 200 ? a->name_bytes : 200), a->name,
                           (int)(b->name_bytes < 200 ? b->name_bytes : 200), b->name);
    }
    qsort(zip->record, zip->n, sizeof *zip->record, by_name);
    for (size_t i = 1; i < zip->n; i++)
        if (!by_name(&zip->record[i - 1], &zip->record[i]))
            return lx_fail(err, LX_ECONFIG, "%s: zip: two records are named %.*s", source->path,
                           (int)(zip->record[i].name_bytes < 200 ? zip->record[i].name_bytes : 200),
                           zip->record[i].name);
    return LX_OK;
}

static lx_status read_records(lx_zip *zip, const lx_source *source, const directory *d, lx_err *err)
{
    lx_status status = lx_source_read(source, d->offset, zip->directory, d->bytes, err);
    walk w = {.source = source,
              .at = (unsigned char *)zip->directory,
              .end = (unsigned char *)zip->directory + d->bytes};
    for (; status == LX_OK && zip->n < d->n; zip->n++) {
        status = walk_entry(&w, &zip->record[zip->n], err);
        if (status == LX_OK)
            status = locate(source, d, &zip->record[zip->n], err);
    }
    if (status == LX_OK && w.at != w.end)
        status = lx_fail(err, LX_ECONFIG,
                         "%s: zip: more directory entries than the %" PRIu64 " announced",
                         source->path, d->n);
    return status == LX_OK ? check_records(zip, source, err) : status;
}

lx_status lx_zip_open(lx_zip *out, const lx_source *source, lx_err *err)
{
    directory d;
    lx_status status = find_directory(source, &d, err);
    if (status != LX_OK)
        return status;
    if (d.n > d.bytes / CENTRAL_BYTES)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: %" PRIu64 " entries cannot fit in a directory of %" PRIu64
                       " bytes",
                       source->path, d.n, d.bytes);
    lx_zip zip = {.directory = malloc(d.bytes ? (size_t)d.bytes : 1),
                  .record = calloc(d.n ? (size_t)d.n : 1, sizeof *zip.record)};
    if (!zip.directory || !zip.record)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory for %" PRIu64 " zip entries",
                         source->path, d.n);
    if (status == LX_OK)
        status = read_records(&zip, source, &d, err);
    if (status == LX_OK)
        *out = zip;
    else
        lx_zip_close(&zip);
    return status;
}

void lx_zip_close(lx_zip *zip)
{
    free(zip->directory);
    free(zip->record);
    *zip = (lx_zip){0};
}

const lx_zip_record *lx_zip_find(const lx_zip *zip, const char *name)
{
    lx_zip_record key = {.name = name, .name_bytes = (uint32_t)strlen(name)};
    return bsearch(&key, zip->record, zip->n, sizeof key, by_name);
}

static lx_status wrong_crc(const lx_zip_record *r, const lx_source *source, uint32_t found,
                           lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "%s: zip: record %.*s is damaged (CRC %08" PRIx32 ", expected %08" PRIx32
                   "), download the file again",
                   source->path, (int)(r->name_bytes < 200 ? r->name_bytes : 200), r->name, found,
                   r->crc);
}

lx_status lx_zip_read(const lx_zip_record *record, const lx_source *source, uint64_t limit,
                      void **out, lx_err *err)
{
    if (record->bytes > limit)
        return lx_fail(err, LX_ECONFIG,
                       "%s: zip: record %.*s has %" PRIu64 " bytes, at most %" PRIu64
                       " are allowed",
                       source->path, (int)(record->name_bytes < 200 ? record->name_bytes : 200),
                       record->name, record->bytes, limit);
    void *data = malloc(record->bytes ? (size_t)record->bytes : 1);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory for %" PRIu64 " bytes", source->path,
                       record->bytes);
    lx_status status = lx_source_read(source, record->offset, data, record->bytes, err);
    uint32_t crc = status == LX_OK ? lx_crc32(0, data, (size_t)record->bytes) : 0;
    if (status == LX_OK && crc != record->crc)
        status = wrong_crc(record, source, crc, err);
    if (status == LX_OK)
        *out = data;
    else
        free(data);
    return status;
}

lx_status lx_zip_verify(const lx_zip_record *record, const lx_source *source, lx_err *err)
{
    static const size_t chunk = 1 << 20;
    unsigned char *data = malloc(chunk);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", source->path);
    uint32_t crc = 0;
    lx_status status = LX_OK;
    for (uint64_t at = 0; status == LX_OK && at < record->bytes; at += chunk) {
        uint64_t n = record->bytes - at < chunk ? record->bytes - at : chunk;
        status = lx_source_read(source, record->offset + at, data, n, err);
        if (status == LX_OK)
            crc = lx_crc32(crc, data, (size_t)n);
    }
    free(data);
    return status == LX_OK && crc != record->crc ? wrong_crc(record, source, crc, err) : status;
}
