/*
 * weights.c - reads the tensors a table lists into memory of our own
 * SPDX-License-Identifier: Apache-2.0
 *
 * One mapping holds everything, each tensor on a 256-byte boundary: anonymous memory, or a memory
 * file that all replicas share (shared.h). Files are read in the order of their bytes; nothing is
 * mapped from them, so what happens to a file afterwards cannot reach us. Values are scanned for
 * NaN and infinity while they are still in the cache. Tensors that stay on disk are only listed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "layout.h"
#include "lx_hash.h"
#include "lx_log.h"
#include "lx_manifest.h"
#include "lx_process.h"
#include "shared.h"

#define CHUNK          (8u << 20) /* bytes per read: small enough to scan from the cache */
#define LOG_INTERVAL_S 5.0
#define LARGE          (64u << 20) /* bytes worth a line at level I */

/* What shared memory says about a tensor: not there, all finite, or its first bad value and two. */
enum { STATE_ABSENT, STATE_FINITE, STATE_BAD };

typedef struct slot {
    lx_weight weight;
    lx_extent extent;   /* of a tensor that stays on disk */
    uint64_t first_bad; /* UINT64_MAX: all values finite */
} slot;

struct lx_weights {
    char *path;     /* owned */
    char *unlisted; /* owned; NULL: every file is in a manifest */
    char id[17];
    unsigned char *memory; /* owned mapping, or shared.data */
    uint64_t memory_bytes; /* of an own mapping */
    uint64_t bytes;        /* of all tensors */
    uint64_t held_bytes;   /* of those in memory */
    lx_shared shared;      /* owned; fd 0: none */
    lx_disk *disk;         /* owned [n_disks] */
    size_t n_disks;
    slot *slot; /* owned; sorted by name, companions folded away */
    size_t n;
    char *names; /* owned; all names, one after another */
};

/* --- not finite ------------------------------------------------------------------------------ */

/* A block at a time, so that the inner loop has no branch and the compiler vectorises it. */
#define FIRST_BAD(type, is_bad)                                                                    \
    do {                                                                                           \
        const type *v = data;                                                                      \
        for (uint64_t i = 0; i < n; i += 4096) {                                                   \
            uint64_t end = n - i < 4096 ? n : i + 4096;                                            \
            unsigned any = 0;                                                                      \
            for (uint64_t j = i; j < end; j++)                                                     \
                any |= is_bad(v[j]);                                                               \
            for (uint64_t j = i; any && j < end; j++)                                              \
                if (is_bad(v[j]))                                                                  \
                    return j;                                                                      \
        }                                                                                          \
        return UINT64_MAX;                                                                         \
    } while (0)

#define BAD_F64(x)     (((x)&0x7ff0000000000000u) == 0x7ff0000000000000u)
#define BAD_F32(x)     (((x)&0x7f800000u) == 0x7f800000u)
#define BAD_F16(x)     (((x)&0x7c00u) == 0x7c00u)
#define BAD_BF16(x)    (((x)&0x7f80u) == 0x7f80u)
#define BAD_F8_E4M3(x) (((x)&0x7fu) == 0x7fu)
#define BAD_F8_E5M2(x) (((x)&0x7cu) == 0x7cu)

uint64_t lx_first_not_finite(const void *data, lx_dtype dtype, uint64_t n)
{
    switch (dtype) {
    case LX_DTYPE_F64:
        FIRST_BAD(uint64_t, BAD_F64);
    case LX_DTYPE_F32:
        FIRST_BAD(uint32_t, BAD_F32);
    case LX_DTYPE_F16:
        FIRST_BAD(uint16_t, BAD_F16);
    case LX_DTYPE_BF16:
        FIRST_BAD(uint16_t, BAD_BF16);
    case LX_DTYPE_F8_E4M3:
        FIRST_BAD(uint8_t, BAD_F8_E4M3);
    case LX_DTYPE_F8_E5M2:
        FIRST_BAD(uint8_t, BAD_F8_E5M2);
    default:
        return UINT64_MAX;
    }
}

/* --- reading --------------------------------------------------------------------------------- */

typedef struct reading {
    const lx_progress *progress;
    uint64_t done, total, reported;
    double start_s, logged_s;
    lx_shared *shared; /* told as well, so that waiters see it; or NULL */
} reading;

static lx_status report(reading *r, const lx_source *source, lx_err *err)
{
    double now = lx_now_s();
    if (now - r->logged_s > LOG_INTERVAL_S) {
        r->logged_s = now;
        LX_I("loading file=%s gb=%.2f of_gb=%.2f mb_per_s=%.0f", source->path,
             (double)r->done / 1e9, (double)r->total / 1e9,
             (double)r->done / 1e6 / (now - r->start_s));
    }
    if (r->done != r->total && r->done - r->reported < CHUNK)
        return LX_OK;
    r->reported = r->done;
    if (r->shared)
        lx_shared_note(r->shared, r->done, r->total);
    return lx_progress_step(r->progress, "byte", r->done, r->total, err);
}

static lx_status read_packed(reading *r, const lx_source *source, const lx_entry *e,
                             unsigned char *out, uint64_t *first_bad, lx_err *err)
{
    size_t size = lx_dtype_size(e->dtype);
    for (uint64_t at = 0; at < e->bytes; at += CHUNK) {
        uint64_t n = e->bytes - at < CHUNK ? e->bytes - at : CHUNK;
        lx_status status = lx_source_read(source, e->offset + at, out + at, n, err);
        if (status != LX_OK)
            return lx_wrap(err, "tensor %.200s", e->name);
        uint64_t bad = lx_first_not_finite(out + at, e->dtype, n / size);
        if (bad != UINT64_MAX && *first_bad == UINT64_MAX)
            *first_bad = at / size + bad;
        r->done += n;
        status = report(r, source, err);
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

/* out <- the elements in C order; the odometer runs over shape, the last dimension fastest. */
static void gather(const lx_entry *e, const unsigned char *span, unsigned char *out)
{
    size_t size = lx_dtype_size(e->dtype);
    int last = e->shape.n_dims - 1;
    int64_t index[LX_LIMIT_DIMS] = {0}, inner = e->shape.dim[last];
    uint64_t n = e->bytes / size;
    for (uint64_t done = 0; done < n; done += (uint64_t)inner) {
        uint64_t from = 0;
        for (int d = 0; d < last; d++)
            from += (uint64_t)index[d] * (uint64_t)e->stride[d];
        for (int64_t i = 0; i < inner; i++, out += size)
            memcpy(out, span + (from + (uint64_t)i * (uint64_t)e->stride[last]) * size, size);
        for (int d = last - 1; d >= 0 && ++index[d] == e->shape.dim[d]; d--)
            index[d] = 0;
    }
}

static lx_status read_strided(reading *r, const lx_source *source, const lx_entry *e,
                              unsigned char *out, uint64_t *first_bad, lx_err *err)
{
    unsigned char *span = malloc((size_t)e->span ? (size_t)e->span : 1);
    if (!span)
        return lx_fail(err, LX_EAGAIN, "tensor %.200s: no memory for %" PRIu64 " bytes", e->name,
                       e->span);
    lx_status status = lx_source_read(source, e->offset, span, e->span, err);
    if (status == LX_OK) {
        gather(e, span, out);
        *first_bad = lx_first_not_finite(out, e->dtype, e->bytes / lx_dtype_size(e->dtype));
        r->done += e->bytes;
        status = report(r, source, err);
    }
    free(span);
    return status;
}

/* Hashes where a manifest has them; then nothing may have changed since the files were opened. */
static lx_status finish_files(const lx_table *t, const reading *r, lx_err *err)
{
    size_t n_hashed = 0;
    double read_s = lx_now_s() - r->start_s;
    for (size_t i = 0; i < t->n_sources; i++) {
        char hash[65];
        lx_status status = LX_OK;
        if (lx_manifest_hash(&t->source[i], hash)) {
            status = lx_manifest_check(&t->source[i], hash, r->progress, err);
            n_hashed++;
        }
        if (status == LX_OK)
            status = lx_source_unchanged(&t->source[i], err);
        if (status != LX_OK)
            return status;
    }
    lx_log_line(r->total > LARGE ? LX_LOG_INFO : LX_LOG_DEBUG,
                "loaded file=%s files=%zu tensors=%zu gb=%.3f shared=%s fill_s=%.2f mb_per_s=%.0f "
                "integrity=%s",
                t->n_sources ? t->source[0].path : "-", t->n_sources, t->n_entries,
                (double)r->total / 1e9, r->shared ? "yes" : "no", read_s,
                read_s > 0 ? (double)r->total / 1e6 / read_s : 0.0,
                !n_hashed                 ? "unchecked"
                : n_hashed < t->n_sources ? "partly-checked"
                                          : "checked");
    return LX_OK;
}

/* Bytes that the kernel says a new allocation could have; 0 if it does not say. */
static uint64_t available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[256];
    unsigned long long kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return (uint64_t)kib << 10;
}

/* Asked before, because overcommit would say yes and the OOM killer would say no. */
static lx_status check_available(const lx_weights *w, uint64_t bytes, lx_err *err)
{
    uint64_t available = available_bytes();
    if (!available || bytes <= available)
        return LX_OK;
    return lx_fail(err, LX_EAGAIN,
                   "%s: not enough memory for its weights: needs %.2f GiB, %.2f GiB are available",
                   w->path, (double)bytes / 0x1p30, (double)available / 0x1p30);
}

static lx_status take_memory(lx_weights *w, uint64_t bytes, lx_err *err)
{
    lx_status status = check_available(w, bytes, err);
    if (status != LX_OK)
        return status;
    void *memory =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return lx_fail(err, LX_EAGAIN, "%s: no memory for %.2f GiB of weights", w->path,
                       (double)bytes / 0x1p30);
    madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
    w->memory = memory;
    w->memory_bytes = bytes;
    return LX_OK;
}

/* --- folding and naming ---------------------------------------------------------------------- */

static float *scale_at(const lx_weights *w, const lx_layout *p, size_t i)
{
    bool is_wide = p->table->entry[i].dtype == LX_DTYPE_F32;
    return (float *)(void *)(w->memory + (is_wide ? p->at[i] : p->wide_at[i]));
}

/* Widen a scale that was just read, and look at its values. */
static lx_status settle_scale(const lx_weights *w, const lx_layout *p, size_t i, lx_err *err)
{
    const lx_entry *e = &p->table->entry[i];
    uint64_t n = e->bytes / lx_dtype_size(e->dtype);
    float *scale = scale_at(w, p, i);
    if (e->dtype != LX_DTYPE_F32)
        lx_widen_to_f32(scale, w->memory + p->at[i], e->dtype, (size_t)n);
    for (uint64_t k = 0; k < n; k++)
        if (!(scale[k] > 0) || scale[k] > 3.402823466e38f)
            return lx_fail(err, LX_ECONFIG,
                           "%s: %.200s[%" PRIu64 "] is %g; a scale must be finite and > 0",
                           p->table->source[e->file].path, e->name, k, (double)scale[k]);
    return LX_OK;
}

static void make_id(lx_weights *w, const lx_table *t)
{
    uint64_t hash = LX_HASH_START;
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[i];
        const char *dtype = lx_dtype_name(e->dtype);
        hash = lx_hash_add(hash, e->name, strlen(e->name) + 1);
        hash = lx_hash_add(hash, dtype, strlen(dtype) + 1);
        hash = lx_hash_add(hash, e->shape.dim, (size_t)e->shape.n_dims * sizeof *e->shape.dim);
    }
    for (size_t i = 0; i < t->n_sources; i++)
        hash = lx_hash_add(hash, &t->source[i].bytes, sizeof t->source[i].bytes);
    snprintf(w->id, sizeof w->id, "%016" PRIx64, hash);
}

/* Every scale of headers_only: there is one, its values were not read. */
static const float unread;

/* One tensor's record; its name goes to `name`. */
static void make_slot(slot *s, const lx_weights *w, const lx_layout *p, size_t i, char *name)
{
    const lx_entry *e = &p->table->entry[i];
    const size_t scale = p->companion[i];
    bool is_here = w->memory && !(w->n_disks && p->is_on_disk[i]);
    memcpy(name, e->name, strlen(e->name) + 1);
    s->weight = (lx_weight){.name = name,
                            .dtype = e->dtype,
                            .shape = e->shape,
                            .data = is_here ? w->memory + p->at[i] : NULL};
    if (scale != LX_NO_COMPANION)
        s->weight.scale = w->memory ? scale_at(w, p, scale) : &unread;
    if (w->n_disks && p->is_on_disk[i])
        s->extent = (lx_extent){&w->disk[e->file], e->offset, e->bytes};
}

static lx_status make_slots(lx_weights *w, const lx_layout *p, const uint64_t *first_bad,
                            lx_err *err)
{
    const lx_table *t = p->table;
    size_t text = 1;
    for (size_t i = 0; i < t->n_entries; i++)
        text += strlen(t->entry[i].name) + 1;
    w->slot = calloc(t->n_entries ? t->n_entries : 1, sizeof *w->slot);
    w->names = malloc(text);
    if (!w->slot || !w->names)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory for %zu tensor records", w->path,
                       t->n_entries);
    char *name = w->names;
    for (size_t i = 0; i < t->n_entries; i++) {
        if (p->is_scale[i])
            continue;
        slot *s = &w->slot[w->n++];
        make_slot(s, w, p, i, name);
        s->first_bad = first_bad ? first_bad[i] : UINT64_MAX;
        name += strlen(name) + 1;
    }
    return LX_OK;
}

/* --- what is read, and into which memory ------------------------------------------------------ */

static bool is_read(const lx_layout *p, const bool *is_there, size_t i)
{
    return !p->is_on_disk[i] && !is_there[i];
}

static uint64_t bytes_to_read(const lx_layout *p, const bool *is_there)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->table->n_entries; i++)
        if (is_read(p, is_there, i))
            bytes += p->table->entry[i].bytes;
    return bytes;
}

/* As f32: four bytes for one of FP8, two of BF16. */
static uint64_t wide_bytes(const lx_entry *e)
{
    return e->bytes / lx_dtype_size(e->dtype) * sizeof(float);
}

static lx_status read_all(lx_weights *w, const lx_layout *p, const bool *is_there,
                          uint64_t *first_bad, lx_err *err)
{
    lx_table *t = p->table;
    reading r = {.progress = t->options ? t->options->progress : NULL,
                 .total = bytes_to_read(p, is_there),
                 .start_s = lx_now_s(),
                 .shared = w->shared.data ? &w->shared : NULL};
    r.logged_s = r.start_s;
    for (size_t k = 0; k < t->n_entries; k++) {
        const size_t i = p->order[k];
        const lx_entry *e = &t->entry[i];
        if (!e->bytes || !is_read(p, is_there, i))
            continue;
        lx_status status = LX_OK;
        if (r.shared)
            status = lx_shared_reserve(r.shared, p->at[i], e->bytes, err);
        if (status == LX_OK && r.shared && p->wide_at[i])
            status = lx_shared_reserve(r.shared, p->wide_at[i], wide_bytes(e), err);
        if (status == LX_OK)
            status = (e->is_strided ? read_strided : read_packed)(
                &r, &t->source[e->file], e, w->memory + p->at[i], &first_bad[i], err);
        if (status != LX_OK)
            return status;
    }
    lx_status status = finish_files(t, &r, err);
    for (size_t i = 0; i < t->n_entries && status == LX_OK; i++)
        if (p->is_scale[i] && is_read(p, is_there, i))
            status = settle_scale(w, p, i, err);
    return status;
}

/* What shared memory has already; its word about values is taken only if it can be true. */
static void look_around(const lx_weights *w, const lx_layout *p, bool *is_there,
                        uint64_t *first_bad)
{
    const uint64_t *state = (const uint64_t *)(const void *)w->shared.data;
    for (size_t i = 0; i < p->table->n_entries; i++) {
        const lx_entry *e = &p->table->entry[i];
        uint64_t n = e->bytes / lx_dtype_size(e->dtype);
        is_there[i] =
            state[i] == STATE_FINITE || (state[i] >= STATE_BAD && state[i] - STATE_BAD < n);
        first_bad[i] = state[i] == STATE_FINITE || !is_there[i] ? UINT64_MAX : state[i] - STATE_BAD;
    }
}

/* Everything was read and checked: now it counts. */
static lx_status publish(lx_weights *w, const lx_layout *p, const bool *is_there,
                         const uint64_t *first_bad, lx_err *err)
{
    uint64_t *state = (uint64_t *)(void *)w->shared.data;
    for (size_t i = 0; i < p->table->n_entries; i++)
        if (is_read(p, is_there, i))
            state[i] = first_bad[i] == UINT64_MAX ? STATE_FINITE : STATE_BAD + first_bad[i];
    return lx_shared_done(&w->shared, err);
}

static lx_status open_shared(lx_weights *w, const lx_layout *p, int fd, lx_err *err)
{
    char identity[65];
    const lx_progress *progress = p->table->options->progress;
    lx_layout_identity(p, identity);
    lx_status status = lx_shared_open(&w->shared, fd, identity, p->total, progress, err);
    if (status == LX_OK && !w->shared.data)
        LX_W("weights file=%s shared=no: the shared copy is of other files and in use; this "
             "process takes memory of its own",
             w->path);
    w->memory = w->shared.data;
    return status;
}

static void say_attached(const lx_weights *w, uint64_t bytes)
{
    LX_I("attached file=%s gb=%.3f shared=attached waited_s=%.2f", w->path, (double)bytes / 1e9,
         w->shared.waited_s);
}

/* The files with tensors that stay there are kept open; the table gives them up. */
static lx_status keep_disks(lx_weights *w, const lx_layout *p, lx_err *err)
{
    lx_table *t = p->table;
    bool *is_needed = calloc(t->n_sources ? t->n_sources : 1, sizeof *is_needed);
    bool any = false;
    w->disk = calloc(t->n_sources ? t->n_sources : 1, sizeof *w->disk);
    if (!is_needed || !w->disk) {
        free(is_needed);
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    }
    for (size_t i = 0; i < t->n_entries; i++)
        if (p->is_on_disk[i])
            any = is_needed[t->entry[i].file] = true;
    for (size_t i = 0; any && i < t->n_sources; i++)
        if (is_needed[i])
            lx_disk_open(&w->disk[i], &t->source[i]);
    w->n_disks = any ? t->n_sources : 0;
    free(is_needed);
    return LX_OK;
}

static lx_status read_into(lx_weights *w, lx_layout *p, bool *is_there, uint64_t *first_bad,
                           lx_err *err)
{
    if (w->shared.data)
        look_around(w, p, is_there, first_bad);
    /* What is in memory anyway need not be read from disk. */
    for (size_t i = 0; i < p->table->n_entries; i++)
        p->is_on_disk[i] = p->is_on_disk[i] && !is_there[i];
    uint64_t missing = bytes_to_read(p, is_there);
    lx_status status = LX_OK;
    if (w->shared.data && missing)
        status = check_available(w, missing, err);
    else if (!w->shared.data)
        status = take_memory(w, p->total, err);
    if (status == LX_OK && (missing || !w->shared.data))
        status = read_all(w, p, is_there, first_bad, err);
    else if (status == LX_OK)
        say_attached(w, p->stored);
    if (status == LX_OK && w->shared.data)
        status = publish(w, p, is_there, first_bad, err);
    return status;
}

static uint64_t held_bytes(const lx_layout *p)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->table->n_entries; i++)
        bytes += p->is_on_disk[i] ? 0 : p->table->entry[i].bytes;
    return bytes;
}

static lx_status fill(lx_weights *w, lx_layout *p, lx_err *err)
{
    size_t n = p->table->n_entries ? p->table->n_entries : 1;
    bool *is_there = calloc(n, sizeof *is_there);
    uint64_t *first_bad = malloc(n * sizeof *first_bad);
    lx_status status = LX_OK;
    if (!is_there || !first_bad)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    for (size_t i = 0; status == LX_OK && i < n; i++)
        first_bad[i] = UINT64_MAX;
    if (status == LX_OK)
        status = read_into(w, p, is_there, first_bad, err);
    if (status == LX_OK)
        status = keep_disks(w, p, err);
    if (status == LX_OK)
        status = make_slots(w, p, first_bad, err);
    if (status == LX_OK && !w->shared.data)
        mprotect(w->memory, (size_t)w->memory_bytes, PROT_READ); /* nobody writes weights */
    w->held_bytes = held_bytes(p);
    free(is_there);
    free(first_bad);
    return status;
}

/* The table's tensors where the options want them. */
static lx_status settle(lx_weights *w, lx_table *table, lx_err *err)
{
    const lx_weights_options *o = table->options;
    bool is_shared = o && o->shared_fd > 0 && !o->headers_only;
    lx_layout p = {0};
    lx_status status = lx_layout_make(&p, table, is_shared, err);
    if (status == LX_OK && is_shared) {
        status = open_shared(w, &p, o->shared_fd, err);
        if (status == LX_OK && !w->shared.data) { /* addresses of private memory then */
            lx_layout_free(&p);
            status = lx_layout_make(&p, table, false, err);
        }
    }
    if (status == LX_OK) {
        make_id(w, table);
        w->bytes = p.stored;
        status = o && o->headers_only ? make_slots(w, &p, NULL, err) : fill(w, &p, err);
    }
    lx_layout_free(&p);
    return status;
}

static lx_status note_unlisted(lx_weights *w, const lx_table *table, lx_err *err)
{
    for (size_t i = 0; i < table->n_sources && !w->unlisted; i++)
        if (!lx_manifest_lists(table->source[i].path) &&
            !(w->unlisted = strdup(table->source[i].path)))
            return lx_fail(err, LX_EAGAIN, "out of memory");
    return LX_OK;
}

lx_status lx_weights_open(lx_weights **out, const char *path, const lx_weights_options *options,
                          lx_err *err)
{
    lx_table table = {.options = options};
    lx_weights *w = calloc(1, sizeof *w);
    lx_status status = LX_OK;
    if (!w || !(w->path = strdup(path ? path : "")))
        status = lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK)
        status = lx_table_scan(&table, path, err);
    if (status == LX_OK)
        status = note_unlisted(w, &table, err); /* first: files that stay open are moved away */
    if (status == LX_OK)
        status = settle(w, &table, err);
    lx_table_close(&table);
    if (status == LX_OK)
        *out = w;
    else
        lx_weights_close(&w);
    return status;
}

void lx_weights_close(lx_weights **weights)
{
    lx_weights *w = weights ? *weights : NULL;
    if (!w)
        return;
    if (w->memory_bytes)
        munmap(w->memory, (size_t)w->memory_bytes);
    lx_shared_close(&w->shared);
    for (size_t i = 0; i < w->n_disks; i++)
        lx_disk_close(&w->disk[i]);
    free(w->disk);
    free(w->slot);
    free(w->names);
    free(w->unlisted);
    free(w->path);
    free(w);
    *weights = NULL;
}

/* --- questions ------------------------------------------------------------------------------- */

static int slot_by_name(const void *name, const void *s)
{
    return strcmp(name, ((const slot *)s)->weight.name);
}

const char *lx_weights_unlisted(const lx_weights *weights)
{
    return weights->unlisted;
}

bool lx_weights_find(const lx_weights *weights, const char *name, lx_weight *out)
{
    const slot *s = bsearch(name, weights->slot, weights->n, sizeof *s, slot_by_name);
    if (s)
        *out = s->weight;
    return s != NULL;
}

size_t lx_weights_count(const lx_weights *weights)
{
    return weights->n;
}

lx_weight lx_weights_at(const lx_weights *weights, size_t i)
{
    return weights->slot[i].weight;
}

uint64_t lx_weights_first_bad(const lx_weights *weights, size_t i)
{
    return weights->slot[i].first_bad;
}

const char *lx_weights_path(const lx_weights *weights)
{
    return weights->path;
}

const char *lx_weights_id(const lx_weights *weights)
{
    return weights->id;
}

uint64_t lx_weights_bytes(const lx_weights *weights)
{
    return weights->bytes;
}

uint64_t lx_weights_held_bytes(const lx_weights *weights)
{
    return weights->held_bytes;
}

bool lx_weights_extent(const lx_weights *weights, const char *name, lx_extent *out)
{
    const slot *s = bsearch(name, weights->slot, weights->n, sizeof *s, slot_by_name);
    if (!s || !s->extent.disk)
        return false;
    *out = s->extent;
    return true;
}
