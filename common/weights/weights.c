/*
 * weights.c - reads the tensors a table lists into memory of our own
 * SPDX-License-Identifier: Apache-2.0
 *
 * One anonymous mapping holds everything, each tensor on a 64-byte boundary. Files are read in
 * the order of their bytes; nothing is mapped from them, so what happens to a file afterwards
 * cannot reach us. Values are scanned for NaN and infinity while they are still in the cache.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lx_log.h"
#include "lx_process.h"
#include "weights_internal.h"

#define ALIGN          64
#define CHUNK          (8u << 20) /* bytes per read: small enough to scan from the cache */
#define NO_COMPANION   SIZE_MAX
#define EXPANSION      4 /* .pth views may repeat a storage; more than this is an attack */
#define LOG_INTERVAL_S 5.0
#define LARGE          (64u << 20) /* bytes worth a line at level I */

typedef struct slot {
    lx_weight weight;
    uint64_t first_bad; /* UINT64_MAX: all values finite */
} slot;

struct lx_weights {
    char *path; /* owned */
    char id[17];
    unsigned char *memory; /* owned mapping */
    uint64_t memory_bytes, bytes;
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

/* --- plan: order, duplicates, companions, addresses ------------------------------------------ */

typedef struct plan {
    lx_table *table;
    uint64_t *at;      /* owned [n]: where an entry's bytes go */
    uint64_t *wide_at; /* owned [n]: where a 16-bit scale is widened to; 0 = not needed */
    size_t *companion; /* owned [n]: index of the entry's scale */
    bool *is_scale;    /* owned [n]: folded into another entry */
    size_t *order;     /* owned [n]: by file and offset */
    uint64_t total;    /* bytes of memory */
    uint64_t to_read;
} plan;

static void plan_free(plan *p)
{
    free(p->at);
    free(p->wide_at);
    free(p->companion);
    free(p->is_scale);
    free(p->order);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lx_entry *)a)->name, ((const lx_entry *)b)->name);
}

static lx_status sort_entries(lx_table *table, lx_err *err)
{
    if (table->n_entries)
        qsort(table->entry, table->n_entries, sizeof *table->entry, by_name);
    for (size_t i = 1; i < table->n_entries; i++) {
        const lx_entry *a = &table->entry[i - 1], *b = &table->entry[i];
        if (!strcmp(a->name, b->name))
            return lx_fail(err, LX_ECONFIG, "tensor %.200s is there twice: in %s and in %s",
                           b->name, table->source[a->file].path, table->source[b->file].path);
    }
    return LX_OK;
}

/* NAME.weight_scale belongs to NAME.weight: [out, 1] or [out], a float, one per row. */
static lx_status check_companion(const lx_table *table, const lx_entry *weight,
                                 const lx_entry *scale, lx_err *err)
{
    const char *path = table->source[scale->file].path;
    int64_t rows = weight->shape.n_dims > 0 ? weight->shape.dim[0] : 0;
    const lx_shape *s = &scale->shape;
    bool is_column = (s->n_dims == 1 || (s->n_dims == 2 && s->dim[1] == 1)) && s->dim[0] == rows;
    char text[128], wtext[128];
    if (!is_column)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %.200s has shape %s; with a weight of %s it must be [%" PRId64
                       ", 1] or [%" PRId64 "] (one scale per output channel)",
                       path, scale->name, lx_shape_text(s, text, sizeof text),
                       lx_shape_text(&weight->shape, wtext, sizeof wtext), rows, rows);
    if (scale->dtype != LX_DTYPE_F32 && scale->dtype != LX_DTYPE_BF16 &&
        scale->dtype != LX_DTYPE_F16)
        return lx_fail(err, LX_ECONFIG, "%s: %.200s is %s; a scale must be F32, BF16 or F16", path,
                       scale->name, lx_dtype_name(scale->dtype));
    return LX_OK;
}

static lx_status pair_scales(plan *p, lx_err *err)
{
    lx_table *t = p->table;
    for (size_t i = 0; i < t->n_entries; i++)
        p->companion[i] = NO_COMPANION;
    for (size_t i = 0; i < t->n_entries; i++) {
        const char *name = t->entry[i].name;
        size_t n = strlen(name);
        if (n <= 13 || strcmp(name + n - 13, ".weight_scale"))
            continue;
        char base[LX_LIMIT_TENSOR_NAME + 1];
        snprintf(base, sizeof base, "%.*s", (int)(n - 6), name);
        lx_entry key = {.name = base};
        lx_entry *weight = bsearch(&key, t->entry, t->n_entries, sizeof key, by_name);
        if (!weight)
            continue; /* a tensor like any other: the catalog will wonder about it */
        lx_status status = check_companion(t, weight, &t->entry[i], err);
        if (status != LX_OK)
            return status;
        p->companion[weight - t->entry] = i;
        p->is_scale[i] = true;
    }
    return LX_OK;
}

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static lx_status place(plan *p, lx_err *err)
{
    lx_table *t = p->table;
    uint64_t file_bytes = 0, end = 0;
    for (size_t i = 0; i < t->n_sources; i++)
        file_bytes += t->source[i].bytes;
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[i];
        p->at[i] = end;
        end += aligned(e->bytes); /* each below 2^52, at most 10^6 of them, checked as they grow */
        if (p->is_scale[i] && e->dtype != LX_DTYPE_F32) {
            p->wide_at[i] = end;
            end += aligned(2 * e->bytes);
        }
        p->to_read += e->bytes;
        if (p->to_read > EXPANSION * file_bytes)
            return lx_fail(err, LX_ECONFIG,
                           "%s: its tensors repeat stored values: more than %d times the %" PRIu64
                           " bytes of the file; refused",
                           t->source[e->file].path, EXPANSION, file_bytes);
    }
    p->total = end ? end : ALIGN;
    return LX_OK;
}

static int by_place(const void *a, const void *b, void *self)
{
    const lx_table *table = self;
    const lx_entry *x = &table->entry[*(const size_t *)a], *y = &table->entry[*(const size_t *)b];
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static lx_status plan_make(plan *p, lx_table *table, lx_err *err)
{
    size_t n = table->n_entries ? table->n_entries : 1;
    *p = (plan){.table = table,
                .at = calloc(n, sizeof *p->at),
                .wide_at = calloc(n, sizeof *p->wide_at),
                .companion = calloc(n, sizeof *p->companion),
                .is_scale = calloc(n, sizeof *p->is_scale),
                .order = calloc(n, sizeof *p->order)};
    if (!p->at || !p->wide_at || !p->companion || !p->is_scale || !p->order)
        return lx_fail(err, LX_EAGAIN, "out of memory for %zu tensor records", n);
    lx_status status = sort_entries(table, err);
    if (status == LX_OK)
        status = pair_scales(p, err);
    if (status == LX_OK)
        status = place(p, err);
    for (size_t i = 0; i < table->n_entries; i++)
        p->order[i] = i;
    if (table->n_entries)
        qsort_r(p->order, table->n_entries, sizeof *p->order, by_place, table);
    return status;
}

/* --- reading --------------------------------------------------------------------------------- */

typedef struct reading {
    const lx_progress *progress;
    uint64_t done, total, reported;
    double start_s, logged_s;
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
                "loaded file=%s files=%zu tensors=%zu gb=%.3f s=%.2f mb_per_s=%.0f integrity=%s",
                t->n_sources ? t->source[0].path : "-", t->n_sources, t->n_entries,
                (double)r->total / 1e9, read_s, read_s > 0 ? (double)r->total / 1e6 / read_s : 0.0,
                !n_hashed                 ? "unchecked"
                : n_hashed < t->n_sources ? "partly-checked"
                                          : "checked");
    return LX_OK;
}

static lx_status read_all(lx_weights *w, const plan *p, uint64_t *first_bad, lx_err *err)
{
    lx_table *t = p->table;
    reading r = {.progress = t->options ? t->options->progress : NULL,
                 .total = p->to_read,
                 .start_s = lx_now_s()};
    r.logged_s = r.start_s;
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[p->order[i]];
        unsigned char *out = w->memory + p->at[p->order[i]];
        first_bad[p->order[i]] = UINT64_MAX;
        if (!e->bytes)
            continue;
        lx_status status = (e->is_strided ? read_strided : read_packed)(
            &r, &t->source[e->file], e, out, &first_bad[p->order[i]], err);
        if (status != LX_OK)
            return status;
    }
    return finish_files(t, &r, err);
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

static lx_status take_memory(lx_weights *w, uint64_t bytes, lx_err *err)
{
    uint64_t available = available_bytes();
    void *memory = MAP_FAILED;
    /* Asked before, because overcommit would say yes and the OOM killer would say no. */
    if (!available || bytes <= available)
        memory =
            mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return lx_fail(err, LX_EAGAIN,
                       "%s: not enough memory for its weights: needs %.2f GiB, %.2f GiB are "
                       "available",
                       w->path, (double)bytes / 0x1p30, (double)available / 0x1p30);
    madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
    w->memory = memory;
    w->memory_bytes = bytes;
    return LX_OK;
}

/* --- folding and naming ---------------------------------------------------------------------- */

static lx_status fold_scale(lx_weights *w, const plan *p, size_t i, const float **out, lx_err *err)
{
    const lx_entry *e = &p->table->entry[i];
    uint64_t n = e->bytes / lx_dtype_size(e->dtype);
    float *scale =
        (float *)(void *)(w->memory + (e->dtype == LX_DTYPE_F32 ? p->at[i] : p->wide_at[i]));
    if (e->dtype != LX_DTYPE_F32)
        lx_widen_to_f32(scale, w->memory + p->at[i], e->dtype, (size_t)n);
    for (uint64_t k = 0; k < n; k++)
        if (!(scale[k] > 0) || scale[k] > 3.402823466e38f)
            return lx_fail(err, LX_ECONFIG,
                           "%s: %.200s[%" PRIu64 "] is %g; a scale must be finite and > 0",
                           p->table->source[e->file].path, e->name, k, (double)scale[k]);
    *out = scale;
    return LX_OK;
}

static uint64_t fnv(uint64_t hash, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

static void make_id(lx_weights *w, const lx_table *t)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[i];
        const char *dtype = lx_dtype_name(e->dtype);
        hash = fnv(hash, e->name, strlen(e->name) + 1);
        hash = fnv(hash, dtype, strlen(dtype) + 1);
        hash = fnv(hash, e->shape.dim, (size_t)e->shape.n_dims * sizeof *e->shape.dim);
    }
    for (size_t i = 0; i < t->n_sources; i++)
        hash = fnv(hash, &t->source[i].bytes, sizeof t->source[i].bytes);
    snprintf(w->id, sizeof w->id, "%016" PRIx64, hash);
}

/* Every scale of headers_only: there is one, its values were not read. */
static const float unread;

static lx_status make_slots(lx_weights *w, const plan *p, const uint64_t *first_bad, lx_err *err)
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
        const lx_entry *e = &t->entry[i];
        if (p->is_scale[i])
            continue;
        slot *s = &w->slot[w->n++];
        size_t bytes = strlen(e->name) + 1;
        memcpy(name, e->name, bytes);
        s->weight = (lx_weight){.name = name,
                                .dtype = e->dtype,
                                .shape = e->shape,
                                .data = w->memory ? w->memory + p->at[i] : NULL};
        s->first_bad = first_bad ? first_bad[i] : UINT64_MAX;
        name += bytes;
        if (!w->memory && p->companion[i] != NO_COMPANION) {
            s->weight.scale = &unread;
        } else if (p->companion[i] != NO_COMPANION) {
            lx_status status = fold_scale(w, p, p->companion[i], &s->weight.scale, err);
            if (status != LX_OK)
                return status;
        }
    }
    return LX_OK;
}

static lx_status fill(lx_weights *w, lx_table *table, lx_err *err)
{
    plan p = {0};
    lx_status status = plan_make(&p, table, err);
    uint64_t *first_bad = NULL;
    bool has_data = !table->options || !table->options->headers_only;
    if (status == LX_OK && has_data)
        status = take_memory(w, p.total, err);
    if (status == LX_OK && has_data) {
        first_bad = calloc(table->n_entries ? table->n_entries : 1, sizeof *first_bad);
        if (!first_bad)
            status = lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    }
    if (status == LX_OK && has_data)
        status = read_all(w, &p, first_bad, err);
    if (status == LX_OK)
        status = make_slots(w, &p, first_bad, err);
    if (status == LX_OK) {
        make_id(w, table);
        w->bytes = p.to_read;
        if (w->memory)
            mprotect(w->memory, (size_t)w->memory_bytes, PROT_READ); /* nobody writes weights */
    }
    free(first_bad);
    plan_free(&p);
    return status;
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
        status = fill(w, &table, err);
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
    if (w->memory)
        munmap(w->memory, (size_t)w->memory_bytes);
    free(w->slot);
    free(w->names);
    free(w->path);
    free(w);
    *weights = NULL;
}

/* --- questions ------------------------------------------------------------------------------- */

static int slot_by_name(const void *name, const void *s)
{
    return strcmp(name, ((const slot *)s)->weight.name);
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
