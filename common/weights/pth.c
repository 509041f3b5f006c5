/*
 * pth.c - a checkpoint of torch.save: zip of stored records, a pickle that says what they are
 * SPDX-License-Identifier: Apache-2.0
 *
 * data.pkl maps names to tensors; a tensor is a view (offset, size, stride in elements) of a
 * storage; a storage is the record data/KEY. Several tensors may share one storage.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_utf8.h"
#include "pickle.h"
#include "zip.h"

#define MAX_WRAPPERS 8 /* Parameter(from_type(tensor)) ... */

typedef struct archive {
    const lx_source *source;
    lx_zip zip;
    lx_pickle pickle;
    void *text; /* owned: data.pkl */
    lx_table *table;
    uint32_t file;
} archive;

#define BAD(...) lx_fail(err, LX_ECONFIG, __VA_ARGS__)

/* --- dtypes ---------------------------------------------------------------------------------- */

static const struct {
    const char *storage, *name; /* class of a typed storage; dtype word of a v3 call */
    int dtype;                  /* lx_dtype, or -1: known, not supported */
} dtype_table[] = {
    {"DoubleStorage", "float64", LX_DTYPE_F64}, {"FloatStorage", "float32", LX_DTYPE_F32},
    {"HalfStorage", "float16", LX_DTYPE_F16},   {"BFloat16Storage", "bfloat16", LX_DTYPE_BF16},
    {"LongStorage", "int64", LX_DTYPE_I64},     {"IntStorage", "int32", LX_DTYPE_I32},
    {"ShortStorage", "int16", LX_DTYPE_I16},    {"CharStorage", "int8", LX_DTYPE_I8},
    {"ByteStorage", "uint8", LX_DTYPE_U8},      {"BoolStorage", "bool", LX_DTYPE_BOOL},
    {NULL, "float8_e4m3fn", LX_DTYPE_F8_E4M3},  {NULL, "float8_e5m2", LX_DTYPE_F8_E5M2},
};

static bool dtype_of(const char *word, bool is_storage, lx_dtype *out)
{
    for (size_t i = 0; i < sizeof dtype_table / sizeof *dtype_table; i++) {
        const char *known = is_storage ? dtype_table[i].storage : dtype_table[i].name;
        if (known && !strcmp(known, word)) {
            *out = (lx_dtype)dtype_table[i].dtype;
            return true;
        }
    }
    return false;
}

/* What a storage's class says: a dtype, or untyped (bytes). */
typedef struct storage_type {
    bool is_untyped, is_known;
    lx_dtype dtype;
    char word[64];
} storage_type;

static bool read_storage_type(const lx_pickle *p, const lx_pickle_value *symbol, storage_type *out)
{
    *out = (storage_type){0};
    if (lx_pickle_name_in(p, symbol, "torch.storage", out->word, sizeof out->word)) {
        out->is_untyped =
            !strcmp(out->word, "UntypedStorage") || !strcmp(out->word, "TypedStorage");
        out->dtype = LX_DTYPE_U8;
        out->is_known = out->is_untyped;
        return out->is_untyped;
    }
    if (!lx_pickle_name_in(p, symbol, "torch", out->word, sizeof out->word))
        return false;
    out->is_known = dtype_of(out->word, true, &out->dtype);
    size_t n = strlen(out->word);
    return n > 7 && !strcmp(out->word + n - 7, "Storage");
}

/* --- one tensor ------------------------------------------------------------------------------ */

typedef struct view {
    const lx_pickle_storage *storage;
    const lx_zip_record *record;
    storage_type type;
    int64_t offset; /* elements */
} view;

/* Unwrap Parameter(...) and _rebuild_from_type_v2(...) down to a _rebuild_tensor* call. */
static lx_status find_rebuild(const archive *a, const char *name, const lx_pickle_value *v,
                              lx_pickle_call *call, const lx_pickle_value **args, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    lx_pickle_call kind = v->call;
    const lx_pickle_value *tuple = lx_pickle_at(p, v->args);
    for (int i = 0; i < MAX_WRAPPERS; i++) {
        const lx_pickle_ref *item = lx_pickle_items(p, tuple);
        if (kind != LX_CALL_PARAMETER && kind != LX_CALL_FROM_TYPE) {
            *call = kind;
            *args = tuple;
            return LX_OK;
        }
        const lx_pickle_value *inner = tuple->n ? lx_pickle_at(p, item[0]) : NULL;
        if (kind == LX_CALL_PARAMETER && inner && inner->kind == LX_PICKLE_CALL) {
            kind = inner->call;
            tuple = lx_pickle_at(p, inner->args);
            continue;
        }
        if (kind != LX_CALL_FROM_TYPE || tuple->n < 3 || inner->kind != LX_PICKLE_SYMBOL ||
            lx_pickle_at(p, item[2])->kind != LX_PICKLE_TUPLE)
            break;
        kind = lx_pickle_call_of(p, inner);
        if (kind < LX_CALL_TENSOR)
            break;
        tuple = lx_pickle_at(p, item[2]);
    }
    return BAD("%s: tensor %.200s: its wrapper has no tensor inside", a->source->path, name);
}

/* v3 names the dtype itself; otherwise the storage's class does. */
static lx_status read_dtype(const archive *a, lx_entry *e, const view *w, lx_pickle_call call,
                            const lx_pickle_value *dtype, lx_err *err)
{
    const char *word = w->type.word;
    char named[64];
    e->dtype = w->type.dtype;
    e->is_known_dtype = w->type.is_known;
    if (call == LX_CALL_TENSOR_V3) {
        if (!lx_pickle_name_in(&a->pickle, dtype, "torch", named, sizeof named))
            return BAD("%s: tensor %.200s: its dtype is not a torch dtype", a->source->path,
                       e->name);
        word = named;
        e->is_known_dtype = dtype_of(named, false, &e->dtype);
        if (e->is_known_dtype && !w->type.is_untyped && e->dtype != w->type.dtype)
            return BAD("%s: tensor %.200s: dtype %s on a %s", a->source->path, e->name, named,
                       w->type.word);
    }
    if (!e->is_known_dtype)
        return BAD("%s: dtype %s of tensor %.200s is not supported", a->source->path, word,
                   e->name);
    return LX_OK;
}

static lx_status read_ints(const archive *a, const lx_entry *e, const lx_pickle_value *tuple,
                           const char *what, int64_t *out, int *n, lx_err *err)
{
    const lx_pickle_ref *item = lx_pickle_items(&a->pickle, tuple);
    if ((tuple->kind != LX_PICKLE_TUPLE && tuple->kind != LX_PICKLE_LIST) ||
        tuple->n > LX_LIMIT_DIMS)
        return BAD("%s: tensor %.200s: its %s is not a tuple of at most %d", a->source->path,
                   e->name, what, LX_LIMIT_DIMS);
    for (uint32_t i = 0; i < tuple->n; i++) {
        const lx_pickle_value *v = lx_pickle_at(&a->pickle, item[i]);
        if (v->kind != LX_PICKLE_INT || v->integer < 0)
            return BAD("%s: tensor %.200s: %s[%" PRIu32 "] is not an integer >= 0", a->source->path,
                       e->name, what, i);
        out[i] = v->integer;
    }
    *n = (int)tuple->n;
    return LX_OK;
}

static lx_status find_record(const archive *a, const char *name, view *w, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    const lx_pickle_text key = w->storage->key;
    char path[300];
    if (key.bytes > 255)
        return BAD("%s: tensor %.200s: a storage key of %" PRIu32 " bytes", a->source->path, name,
                   key.bytes);
    memcpy(path, "data/", 5);
    memcpy(path + 5, p->text + key.at, key.bytes);
    path[5 + key.bytes] = 0;
    w->record = strlen(path) == 5 + key.bytes ? lx_zip_find(&a->zip, path) : NULL;
    if (!w->record)
        return BAD("%s: tensor %.200s: no record %.200s in the archive", a->source->path, name,
                   path);
    if (!read_storage_type(p, lx_pickle_at(p, w->storage->type), &w->type))
        return BAD("%s: tensor %.200s: its storage has an unknown class %.60s", a->source->path,
                   name, w->type.word);
    uint64_t bytes;
    size_t size = w->type.is_known ? lx_dtype_size(w->type.dtype) : 0;
    if (!lx_mul_u64((uint64_t)w->storage->numel, size, &bytes) || bytes > w->record->bytes)
        return BAD("%s: tensor %.200s: storage of %" PRId64
                   " x %zu bytes, its record %s has %" PRIu64,
                   a->source->path, name, w->storage->numel, size, path, w->record->bytes);
    return LX_OK;
}

/* The view must lie inside its record; contiguous views are one slice, others are gathered. */
static lx_status place_view(const archive *a, lx_entry *e, const view *w, lx_err *err)
{
    uint64_t elements = 0, size = lx_dtype_size(e->dtype), last = (uint64_t)w->offset, end, start;
    lx_err why = {0};
    if (lx_shape_bytes(&e->shape, e->dtype, &elements, &e->bytes, &why) != LX_OK)
        return BAD("%s: tensor %.200s: %s", a->source->path, e->name, why.message);
    e->offset = w->record->offset;
    e->span = 0;
    if (!elements)
        return LX_OK;
    bool fits = true;
    int64_t expect = 1;
    for (int d = e->shape.n_dims - 1; d >= 0; d--) {
        uint64_t reach;
        fits = fits && lx_mul_u64((uint64_t)e->shape.dim[d] - 1, (uint64_t)e->stride[d], &reach) &&
               lx_add_u64(last, reach, &last);
        e->is_strided |= e->shape.dim[d] != 1 && e->stride[d] != expect;
        expect *= e->shape.dim[d]; /* <= 2^48 */
    }
    fits = fits && lx_add_u64(last, 1, &end) && lx_mul_u64(end, size, &end) &&
           end <= w->record->bytes && lx_mul_u64((uint64_t)w->offset, size, &start);
    if (!fits) {
        char text[128];
        return BAD("%s: tensor %.200s %s at element %" PRId64 " runs past its storage of %" PRIu64
                   " bytes",
                   a->source->path, e->name, lx_shape_text(&e->shape, text, sizeof text), w->offset,
                   w->record->bytes);
    }
    e->offset = w->record->offset + start;
    e->span = e->is_strided ? end - start : e->bytes;
    return LX_OK;
}

static lx_status read_tensor(const archive *a, lx_entry *e, const lx_pickle_value *v, lx_err *err)
{
    static const struct {
        uint32_t least, most;
    } arguments[] = {
        [LX_CALL_TENSOR] = {4, 4}, [LX_CALL_TENSOR_V2] = {6, 7}, [LX_CALL_TENSOR_V3] = {7, 8}};
    const lx_pickle *p = &a->pickle;
    lx_pickle_call call = LX_CALL_REFUSED;
    const lx_pickle_value *args = NULL;
    lx_status status = find_rebuild(a, e->name, v, &call, &args, err);
    if (status != LX_OK)
        return status;
    const lx_pickle_ref *item = lx_pickle_items(p, args);
    if (args->n < arguments[call].least || args->n > arguments[call].most)
        return BAD("%s: tensor %.200s: rebuilt from %" PRIu32 " arguments", a->source->path,
                   e->name, args->n);
    const lx_pickle_value *storage = lx_pickle_at(p, item[0]), *offset = lx_pickle_at(p, item[1]);
    if (storage->kind != LX_PICKLE_STORAGE)
        return BAD("%s: tensor %.200s: its first argument is not a storage", a->source->path,
                   e->name);
    if (offset->kind != LX_PICKLE_INT || offset->integer < 0)
        return BAD("%s: tensor %.200s: its offset is not an integer >= 0", a->source->path,
                   e->name);
    view w = {.storage = &p->storage[storage->integer], .offset = offset->integer};
    int n_strides = 0;
    status = find_record(a, e->name, &w, err);
    if (status == LX_OK)
        status = read_dtype(a, e, &w, call, lx_pickle_at(p, item[args->n > 6 ? 6 : 0]), err);
    if (status == LX_OK)
        status =
            read_ints(a, e, lx_pickle_at(p, item[2]), "size", e->shape.dim, &e->shape.n_dims, err);
    if (status == LX_OK)
        status = read_ints(a, e, lx_pickle_at(p, item[3]), "stride", e->stride, &n_strides, err);
    if (status == LX_OK && n_strides != e->shape.n_dims)
        return BAD("%s: tensor %.200s: %d sizes, but %d strides", a->source->path, e->name,
                   e->shape.n_dims, n_strides);
    return status == LX_OK ? place_view(a, e, &w, err) : status;
}

/* --- the map --------------------------------------------------------------------------------- */

static bool has_tensors(const lx_pickle *p, const lx_pickle_value *map)
{
    const lx_pickle_ref *item = lx_pickle_items(p, map);
    for (uint32_t i = 0; map->kind == LX_PICKLE_DICT && i < map->n; i++)
        if (lx_pickle_at(p, item[2 * i + 1])->kind == LX_PICKLE_CALL)
            return true;
    return false;
}

static const lx_pickle_value *member(const lx_pickle *p, const lx_pickle_value *map,
                                     const char *name)
{
    const lx_pickle_ref *item = lx_pickle_items(p, map);
    for (uint32_t i = 0; i < map->n; i++) {
        const lx_pickle_value *key = lx_pickle_at(p, item[2 * i]);
        if (key->kind == LX_PICKLE_TEXT && key->text.bytes == strlen(name) &&
            !memcmp(p->text + key->text.at, name, key->text.bytes))
            return lx_pickle_at(p, item[2 * i + 1]);
    }
    return NULL;
}

static lx_status no_map(const archive *a, const lx_pickle_value *top, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    char keys[400] = "";
    const lx_pickle_ref *item = lx_pickle_items(p, top);
    for (uint32_t i = 0; top->kind == LX_PICKLE_DICT && i < top->n; i++) {
        const lx_pickle_value *key = lx_pickle_at(p, item[2 * i]);
        size_t n = strlen(keys);
        if (n > 300) {
            memcpy(keys + n, ", ...", 6);
            break;
        }
        if (key->kind == LX_PICKLE_TEXT)
            snprintf(keys + n, sizeof keys - n, "%s%.*s", n ? ", " : "",
                     (int)(key->text.bytes < 60 ? key->text.bytes : 60), p->text + key->text.at);
    }
    if (top->kind != LX_PICKLE_DICT)
        return BAD("%s: its top object is not a map of tensors", a->source->path);
    return BAD("%s: no tensors in its map; top-level keys: %s", a->source->path,
               *keys ? keys : "(none)");
}

/* The map itself, or the first of the usual names under which trainers nest it. */
static lx_status find_map(const archive *a, const lx_pickle_value **out, lx_err *err)
{
    static const char *const names[] = {"state_dict", "model", "module", "model_state"};
    const lx_pickle_value *top = lx_pickle_at(&a->pickle, a->pickle.top), *map = top;
    for (int depth = 0; depth < 5 && map->kind == LX_PICKLE_DICT; depth++) {
        if (has_tensors(&a->pickle, map)) {
            *out = map;
            return LX_OK;
        }
        const lx_pickle_value *inner = NULL;
        for (size_t i = 0; i < sizeof names / sizeof *names && !inner; i++)
            inner = member(&a->pickle, map, names[i]);
        if (!inner)
            break;
        map = inner;
    }
    return no_map(a, top, err);
}

static lx_status add_tensor(const archive *a, const lx_pickle_value *key,
                            const lx_pickle_value *value, lx_err *err)
{
    char name[LX_LIMIT_TENSOR_NAME + 1];
    const char *text = (const char *)a->pickle.text + key->text.at;
    size_t n = key->text.bytes;
    if (!n || n > LX_LIMIT_TENSOR_NAME || memchr(text, 0, n) || lx_utf8_bad(text, n) != n)
        return BAD("%s: a tensor name must be 1 to %d bytes of UTF-8 without NUL: \"%.*s\"",
                   a->source->path, LX_LIMIT_TENSOR_NAME, (int)(n < 100 ? n : 100), text);
    memcpy(name, text, n);
    name[n] = 0;
    const char *canonical = lx_canonical_name(name);
    if (!lx_table_wants(a->table, canonical))
        return LX_OK;
    lx_entry e = {.file = a->file, .is_wanted = true, .name = strdup(canonical)};
    if (!e.name)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", a->source->path);
    lx_status status = read_tensor(a, &e, value, err);
    if (status == LX_OK)
        status = lx_table_add(a->table, &e, err);
    if (status != LX_OK)
        free(e.name);
    return status;
}

static int by_text(const void *a, const void *b, void *self)
{
    const lx_pickle_text *x = a, *y = b;
    const unsigned char *text = self;
    int order = memcmp(text + x->at, text + y->at, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* A map built by opcodes may name a key twice; which one is meant nobody can tell. */
static lx_status check_keys(const archive *a, const lx_pickle_value *map, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    const lx_pickle_ref *item = lx_pickle_items(p, map);
    lx_pickle_text *key = calloc(map->n ? map->n : 1, sizeof *key);
    if (!key)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", a->source->path);
    size_t n = 0;
    for (uint32_t i = 0; i < map->n; i++)
        if (lx_pickle_at(p, item[2 * i])->kind == LX_PICKLE_TEXT)
            key[n++] = lx_pickle_at(p, item[2 * i])->text;
    qsort_r(key, n, sizeof *key, by_text, (void *)p->text);
    lx_status status = LX_OK;
    for (size_t i = 1; i < n && status == LX_OK; i++)
        if (!by_text(&key[i - 1], &key[i], (void *)p->text))
            status = BAD("%s: tensor %.*s is there twice", a->source->path,
                         (int)(key[i].bytes < 200 ? key[i].bytes : 200), p->text + key[i].at);
    free(key);
    return status;
}

static lx_status add_tensors(const archive *a, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    const lx_pickle_value *map = NULL;
    lx_status status = find_map(a, &map, err);
    if (status == LX_OK)
        status = check_keys(a, map, err);
    for (uint32_t i = 0; status == LX_OK && i < map->n; i++) {
        const lx_pickle_ref *item = lx_pickle_items(p, map) + 2 * i;
        const lx_pickle_value *key = lx_pickle_at(p, item[0]), *value = lx_pickle_at(p, item[1]);
        /* Epoch numbers, optimizer state and the like are not ours. */
        if (key->kind == LX_PICKLE_TEXT && value->kind == LX_PICKLE_CALL)
            status = add_tensor(a, key, value, err);
    }
    return status;
}

static int by_key(const void *a, const void *b, void *self)
{
    const lx_pickle_storage *x = a, *y = b;
    return by_text(&x->key, &y->key, self);
}

/* One record, one meaning: the same key with another class or length is an attack or a mistake.
 * Works on a copy: STORAGE values refer to the originals by index. */
static lx_status check_storages(const archive *a, lx_err *err)
{
    const lx_pickle *p = &a->pickle;
    size_t n = p->n_storages;
    lx_pickle_storage *sorted = calloc(n ? n : 1, sizeof *sorted);
    if (!sorted)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", a->source->path);
    if (n) {
        memcpy(sorted, p->storage, n * sizeof *sorted);
        qsort_r(sorted, n, sizeof *sorted, by_key, (void *)p->text);
    }
    lx_status status = LX_OK;
    for (size_t i = 1; i < n && status == LX_OK; i++) {
        const lx_pickle_storage *x = &sorted[i - 1], *y = &sorted[i];
        const lx_pickle_value *tx = lx_pickle_at(p, x->type), *ty = lx_pickle_at(p, y->type);
        bool same_type = !by_text(&tx->module, &ty->module, (void *)p->text) &&
                         !by_text(&tx->name, &ty->name, (void *)p->text);
        if (!by_key(x, y, (void *)p->text) && (x->numel != y->numel || !same_type))
            status = BAD("%s: storage %.*s is described in two ways", a->source->path,
                         (int)(x->key.bytes < 100 ? x->key.bytes : 100), p->text + x->key.at);
    }
    free(sorted);
    return status;
}

/* --- the archive ----------------------------------------------------------------------------- */

/* A small text record; *out is empty if it is absent. */
static lx_status read_word(const archive *a, const char *name, char *out, size_t room, lx_err *err)
{
    const lx_zip_record *record = lx_zip_find(&a->zip, name);
    void *text = NULL;
    *out = 0;
    if (!record)
        return LX_OK;
    lx_status status = lx_zip_read(record, a->source, room - 1, &text, err);
    if (status == LX_OK) {
        memcpy(out, text, (size_t)record->bytes);
        out[record->bytes] = 0;
        out[strcspn(out, "\r\n")] = 0;
        free(text);
    }
    return status;
}

static lx_status check_facts(const archive *a, lx_err *err)
{
    char version[32], order[32];
    for (size_t i = 0; i < a->zip.n; i++) {
        const lx_zip_record *r = &a->zip.record[i];
        if ((r->name_bytes == 13 && !memcmp(r->name, "constants.pkl", 13)) ||
            (r->name_bytes > 5 && !memcmp(r->name, "code/", 5)))
            return BAD("%s: this is a TorchScript archive, not a checkpoint; save the state dict "
                       "with torch.save",
                       a->source->path);
    }
    if (!lx_zip_find(&a->zip, "data.pkl"))
        return BAD("%s: a zip archive without data.pkl: not a checkpoint of torch.save",
                   a->source->path);
    lx_status status = read_word(a, ".data/version", version, sizeof version, err);
    if (status == LX_OK && !*version)
        status = read_word(a, "version", version, sizeof version, err);
    if (status == LX_OK)
        status = read_word(a, "byteorder", order, sizeof order, err);
    if (status != LX_OK)
        return status;
    size_t digits = strspn(version, "0123456789");
    long number = digits && digits < 9 && !version[digits] ? strtol(version, NULL, 10) : -1;
    if (number < 1 || number > 10)
        return BAD("%s: archive version \"%s\", supported are 1 to 10", a->source->path, version);
    if (*order && strcmp(order, "little"))
        return BAD("%s: byte order \"%s\", only little is supported", a->source->path, order);
    return LX_OK;
}

static lx_status verify_records(const archive *a, lx_err *err)
{
    lx_status status = LX_OK;
    bool is_asked = a->table->options && a->table->options->verify;
    for (size_t i = 0; is_asked && status == LX_OK && i < a->zip.n; i++)
        status = lx_zip_verify(&a->zip.record[i], a->source, err);
    return status;
}

lx_status lx_pth_scan(lx_table *table, uint32_t file, lx_err *err)
{
    archive a = {.source = &table->source[file], .table = table, .file = file};
    lx_status status = lx_zip_open(&a.zip, a.source, err);
    if (status == LX_OK)
        status = check_facts(&a, err);
    if (status == LX_OK)
        status = verify_records(&a, err);
    const lx_zip_record *data = status == LX_OK ? lx_zip_find(&a.zip, "data.pkl") : NULL;
    if (status == LX_OK)
        status = lx_zip_read(data, a.source, LX_LIMIT_PICKLE, &a.text, err);
    if (status == LX_OK)
        status = lx_pickle_open(&a.pickle, a.source->path, a.text, (size_t)data->bytes, err);
    if (status == LX_OK)
        status = check_storages(&a, err);
    if (status == LX_OK)
        status = add_tensors(&a, err);
    lx_pickle_close(&a.pickle);
    free(a.text);
    lx_zip_close(&a.zip);
    return status;
}
