/*
 * safetensors.c - the header of one safetensors file, checked before it is believed
 * SPDX-License-Identifier: Apache-2.0
 *
 * u64 N | N bytes of JSON, '{' first, padded with spaces | tensor bytes, packed, no holes.
 * Checks in the order of the reference reader, and the ones it leaves out: '{' first, duplicate
 * keys, nesting, numbers that are not plain integers, padding.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "weights_internal.h"

#define ENTRY_TEXT    (64 * 1024)        /* JSON of one tensor: eight dimensions fit many times */
#define METADATA_TEXT (16 * 1024 * 1024) /* JSON of __metadata__ */
#define HEADER_DEPTH  4

/* Bits per element of every dtype the format knows, ours included: ranges are checked for tensors
 * that nobody wants, too. */
static const struct {
    const char *name;
    unsigned bits;
} other_dtypes[] = {
    {"U16", 16},    {"U32", 32},    {"U64", 64},    {"C64", 64},        {"F4", 4},
    {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

typedef struct scan {
    const lx_source *source;
    lx_table *table;
    lx_entry *entry; /* owned, all of the file, wanted or not */
    size_t n, room;
} scan;

/* Every finding is a person's to mend. */
#define BAD(...) lx_fail(err, LX_ECONFIG, __VA_ARGS__)

/* Outside strings a tensor's entry consists of brackets, commas, colons, blanks and digits. */
static bool has_only_plain_numbers(lx_json_slice value)
{
    bool in_string = false;
    for (size_t i = 0; i < value.bytes; i++) {
        char c = value.text[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && !strchr("{}[]:, \t\r\n0123456789", c))
            return false;
    }
    return true;
}

static lx_status read_shape(const scan *s, lx_entry *e, const json_t *shape, lx_err *err)
{
    size_t n = json_array_size(shape);
    if (!json_is_array(shape))
        return BAD("%s: tensor %.200s: shape is not an array", s->source->path, e->name);
    if (n > LX_LIMIT_DIMS)
        return BAD("%s: tensor %.200s: %zu dimensions, at most %d are allowed", s->source->path,
                   e->name, n, LX_LIMIT_DIMS);
    e->shape.n_dims = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return BAD("%s: tensor %.200s: shape[%zu] is not an integer >= 0", s->source->path,
                       e->name, i);
        e->shape.dim[i] = json_integer_value(d);
    }
    return LX_OK;
}

static lx_status read_offsets(const scan *s, lx_entry *e, const json_t *offsets, lx_err *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end) || json_integer_value(begin) < 0 || json_integer_value(end) < 0)
        return BAD("%s: tensor %.200s: data_offsets is not [begin, end] of integers >= 0",
                   s->source->path, e->name);
    if (json_integer_value(end) < json_integer_value(begin))
        return BAD("%s: tensor %.200s: data_offsets end %lld before they begin %lld",
                   s->source->path, e->name, (long long)json_integer_value(end),
                   (long long)json_integer_value(begin));
    e->offset = (uint64_t)json_integer_value(begin); /* relative to the data until check_layout */
    e->bytes = e->span = (uint64_t)(json_integer_value(end) - json_integer_value(begin));
    return LX_OK;
}

/* Element count times size must be what the offsets say, also for types we cannot use. */
static lx_status check_bytes(const scan *s, const lx_entry *e, const char *dtype, lx_err *err)
{
    uint64_t elements, bits = 8 * (uint64_t)lx_dtype_size(e->dtype);
    lx_err why = {0};
    if (lx_shape_bytes(&e->shape, LX_DTYPE_U8, &elements, NULL, &why) != LX_OK)
        return BAD("%s: tensor %.200s: %s", s->source->path, e->name, why.message);
    if (!e->is_known_dtype) {
        bits = 0;
        for (size_t i = 0; i < sizeof other_dtypes / sizeof *other_dtypes; i++)
            if (!strcmp(dtype, other_dtypes[i].name))
                bits = other_dtypes[i].bits;
        if (!bits) /* nothing is known about it, so nothing can be compared */
            return LX_OK;
    }
    uint64_t total = elements * bits; /* <= 2^48 * 64: no overflow */
    if (total % 8)
        return BAD("%s: tensor %.200s: %" PRIu64 " elements of %s are not whole bytes",
                   s->source->path, e->name, elements, dtype);
    if (total / 8 != e->bytes) {
        char text[128];
        return BAD("%s: tensor %.200s: %s %s needs %" PRIu64 " bytes, data_offsets give %" PRIu64,
                   s->source->path, e->name, dtype, lx_shape_text(&e->shape, text, sizeof text),
                   total / 8, e->bytes);
    }
    return LX_OK;
}

static lx_status read_fields(const scan *s, lx_entry *e, const json_t *object, lx_err *err)
{
    const json_t *dtype = json_object_get(object, "dtype");
    if (json_object_size(object) != 3 || !dtype || !json_object_get(object, "shape") ||
        !json_object_get(object, "data_offsets"))
        return BAD("%s: tensor %.200s: its entry must have exactly dtype, shape, data_offsets",
                   s->source->path, e->name);
    if (!json_is_string(dtype))
        return BAD("%s: tensor %.200s: dtype is not a string", s->source->path, e->name);
    lx_status status = read_shape(s, e, json_object_get(object, "shape"), err);
    if (status == LX_OK)
        status = read_offsets(s, e, json_object_get(object, "data_offsets"), err);
    if (status != LX_OK)
        return status;
    const char *name = json_string_value(dtype);
    e->is_known_dtype = lx_dtype_parse(name, &e->dtype);
    if (!e->is_known_dtype && e->is_wanted)
        return BAD("%s: dtype %.40s of tensor %.200s is not supported", s->source->path, name,
                   e->name);
    return check_bytes(s, e, name, err);
}

static lx_status read_entry(const scan *s, lx_entry *e, lx_json_slice value, lx_err *err)
{
    if (value.bytes > ENTRY_TEXT)
        return BAD("%s: tensor %.200s: its entry has %zu bytes", s->source->path, e->name,
                   value.bytes);
    if (*value.text == '{' && !has_only_plain_numbers(value))
        return BAD("%s: tensor %.200s: its entry may hold strings and plain integers only (no "
                   "sign, fraction or exponent)",
                   s->source->path, e->name);
    json_error_t why;
    json_t *object =
        json_loadb(value.text, value.bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!object)
        return BAD("%s: tensor %.200s: %s", s->source->path, e->name, why.text);
    lx_status status = json_is_object(object) ? read_fields(s, e, object, err)
                                              : BAD("%s: tensor %.200s: its entry is not an object",
                                                    s->source->path, e->name);
    json_decref(object);
    return status;
}

/* All values must be strings; what they say is not ours to believe. */
static lx_status check_metadata(const scan *s, lx_json_slice value, lx_err *err)
{
    if (value.bytes > METADATA_TEXT)
        return BAD("%s: __metadata__ has %zu bytes, at most %d are allowed", s->source->path,
                   value.bytes, METADATA_TEXT);
    json_error_t why;
    json_t *object =
        json_loadb(value.text, value.bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!object)
        return BAD("%s: __metadata__: %s", s->source->path, why.text);
    lx_status status = LX_OK;
    const char *key;
    json_t *item;
    if (!json_is_object(object))
        status = BAD("%s: __metadata__ is not an object", s->source->path);
    else
        json_object_foreach(object, key, item) if (!json_is_string(item) && status == LX_OK)
            status =
                BAD("%s: __metadata__: the value of %.200s is not a string", s->source->path, key);
    json_decref(object);
    return status;
}

static lx_status add_entry(scan *s, const char *name, lx_json_slice value, lx_err *err)
{
    if (s->n == LX_LIMIT_TENSORS)
        return BAD("%s: more than %d tensors", s->source->path, LX_LIMIT_TENSORS);
    if (s->n == s->room) {
        size_t room = s->room ? 2 * s->room : 64;
        lx_entry *grown = realloc(s->entry, room * sizeof *grown);
        if (!grown)
            return lx_fail(err, LX_EAGAIN, "%s: out of memory for %zu entries", s->source->path,
                           room);
        s->entry = grown;
        s->room = room;
    }
    lx_entry e = {.is_wanted = lx_table_wants(s->table, lx_canonical_name(name))};
    e.name = strdup(name);
    if (!e.name)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", s->source->path);
    s->entry[s->n++] = e; /* from here on owned by the list */
    return read_entry(s, &s->entry[s->n - 1], value, err);
}

static lx_status walk_header(scan *s, const char *header, size_t bytes, lx_err *err)
{
    lx_json_walk walk = {.at = header, .end = header + bytes, .max_depth = HEADER_DEPTH};
    lx_json_slice key, value;
    const char *bad;
    bool has_metadata = false;
    while (lx_json_next(&walk, &key, &value, &bad)) {
        char name[LX_LIMIT_TENSOR_NAME + 1];
        if (!lx_json_string(key, name, sizeof name) || !*name)
            return BAD("%s: header, byte %td: a tensor name must be 1 to %d bytes of UTF-8 "
                       "without NUL or bad escapes",
                       s->source->path, key.text - header, LX_LIMIT_TENSOR_NAME);
        bool is_metadata = !strcmp(name, "__metadata__");
        if (is_metadata && has_metadata)
            return BAD("%s: __metadata__ occurs twice", s->source->path);
        has_metadata |= is_metadata;
        lx_status status =
            is_metadata ? check_metadata(s, value, err) : add_entry(s, name, value, err);
        if (status != LX_OK)
            return status;
    }
    if (bad)
        return BAD("%s: header, byte %td of %zu: %s", s->source->path, walk.at - header, bytes,
                   bad);
    for (; walk.at < walk.end; walk.at++)
        if (*walk.at != ' ')
            return BAD("%s: header, byte %td: only spaces may follow the JSON", s->source->path,
                       walk.at - header);
    return LX_OK;
}

static int by_offset(const void *a, const void *b)
{
    const lx_entry *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lx_entry *)a)->name, ((const lx_entry *)b)->name);
}

/* No tensor twice; first tensor at 0, no hole, no overlap, nothing left over. */
static lx_status check_layout(scan *s, uint64_t data_offset, lx_err *err)
{
    if (s->n)
        qsort(s->entry, s->n, sizeof *s->entry, by_name);
    for (size_t i = 1; i < s->n; i++)
        if (!strcmp(s->entry[i - 1].name, s->entry[i].name))
            return BAD("%s: tensor %.200s occurs twice", s->source->path, s->entry[i].name);
    if (s->n)
        qsort(s->entry, s->n, sizeof *s->entry, by_offset);
    uint64_t position = 0, room = s->source->bytes - data_offset;
    for (size_t i = 0; i < s->n; i++) {
        lx_entry *e = &s->entry[i];
        if (e->offset != position)
            return BAD("%s: tensor %.200s begins at %" PRIu64
                       ", %s the bytes before it end at %" PRIu64,
                       s->source->path, e->name, e->offset,
                       e->offset > position ? "a hole:" : "an overlap:", position);
        position += e->bytes; /* both below 2^63 */
        if (position > room)
            return BAD("%s: tensor %.200s ends at byte %" PRIu64 ", the file has %" PRIu64
                       ": it is truncated, download it again",
                       s->source->path, e->name, data_offset + position, s->source->bytes);
        e->offset += data_offset;
    }
    if (position != room)
        return BAD("%s: %" PRIu64 " bytes follow the last tensor", s->source->path,
                   room - position);
    return LX_OK;
}

static lx_status hand_over(scan *s, uint32_t file, lx_index *index, size_t shard, lx_err *err)
{
    for (size_t i = 0; i < s->n; i++) {
        lx_entry *e = &s->entry[i];
        e->file = file;
        lx_status status = index ? lx_index_see(index, e->name, shard, err) : LX_OK;
        if (status == LX_OK && e->is_wanted) {
            const char *name = lx_canonical_name(e->name);
            memmove(e->name, name, strlen(name) + 1);
            status = lx_table_add(s->table, e, err);
            if (status == LX_OK)
                e->name = NULL; /* moved */
        }
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

/* The fixed part: length and first byte. */
static lx_status read_length(const lx_source *source, uint64_t *length, lx_err *err)
{
    unsigned char head[9] = {0};
    if (source->bytes < 8)
        return lx_fail(err, LX_ECONFIG, "%s: %" PRIu64 " bytes are too few for safetensors",
                       source->path, source->bytes);
    lx_status status = lx_source_read(source, 0, head, source->bytes < 9 ? source->bytes : 9, err);
    if (status != LX_OK)
        return status;
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n < 2 || n > LX_LIMIT_HEADER)
        return lx_fail(err, LX_ECONFIG,
                       "%s: not a safetensors file: its header would have %" PRIu64
                       " bytes, allowed are 2 to %u",
                       source->path, n, LX_LIMIT_HEADER);
    if (n > source->bytes - 8)
        return lx_fail(err, LX_ECONFIG,
                       "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64
                       ": it is truncated, download it again",
                       source->path, n, source->bytes);
    if (head[8] != '{')
        return lx_fail(err, LX_ECONFIG, "%s: the header begins with byte 0x%02x, not with '{'",
                       source->path, head[8]);
    *length = n;
    return LX_OK;
}

lx_status lx_safetensors_scan(lx_table *table, uint32_t file, lx_index *index, size_t shard,
                              lx_err *err)
{
    scan s = {.source = &table->source[file], .table = table};
    uint64_t n = 0;
    lx_status status = read_length(s.source, &n, err);
    if (status != LX_OK)
        return status;
    char *header = malloc((size_t)n);
    if (!header)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory for a header of %" PRIu64 " bytes",
                       s.source->path, n);
    status = lx_source_read(s.source, 8, header, n, err);
    if (status == LX_OK)
        status = walk_header(&s, header, (size_t)n, err);
    free(header);
    if (status == LX_OK)
        status = check_layout(&s, 8 + n, err);
    if (status == LX_OK)
        status = hand_over(&s, file, index, shard, err);
    for (size_t i = 0; i < s.n; i++)
        free(s.entry[i].name);
    free(s.entry);
    return status;
}
