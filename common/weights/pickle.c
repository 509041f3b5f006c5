/*
 * pickle.c - a reader of pickles that cannot execute anything
 * SPDX-License-Identifier: Apache-2.0
 *
 * One handler per opcode; everything else is refused with its byte and position. Values live in a
 * pool and refer to each other by index, so shared and even cyclic structures need no recursion.
 * Limits: values 10^7, stack 10^6, marks 1000, nesting 1000, strings 1 MiB.
 */
#include "pickle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VALUES  10000000u
#define MAX_STACK   1000000u
#define MAX_MEMO    10000000u
#define MAX_MARKS   1000u
#define MAX_DEPTH   1000u
#define MAX_STRING  (1u << 20)
#define MAX_STORAGE 1000000u

/* Values that need no memory of their own each time. */
enum { REF_NONE, REF_FALSE, REF_TRUE, REF_EMPTY_TUPLE, REF_IGNORED, REF_BYTE0, N_SHARED = 261 };

typedef struct memo_slot {
    uint32_t key; /* index + 1; 0 = free */
    lx_pickle_ref ref;
} memo_slot;

typedef struct parser {
    lx_pickle *p;
    const char *path;
    lx_err *err;
    size_t at, op_at;
    lx_pickle_ref *stack; /* owned */
    size_t n_stack, stack_room;
    uint32_t mark[MAX_MARKS];
    size_t n_marks;
    memo_slot *memo; /* owned; open addressing, a power of two of slots */
    size_t n_memo, memo_room;
    bool is_stopped;
} parser;

typedef lx_status (*handler)(parser *s);

#define BAD(...) lx_fail(s->err, LX_ECONFIG, __VA_ARGS__)
#define WHERE    "%s: pickle, byte %zu (opcode 0x%02x): "
#define AT       s->path, s->op_at, s->p->text[s->op_at]

/* Make room for one more of an array; the limit is the caller's. */
static bool grow(void **array, size_t *room, size_t n, size_t size)
{
    if (n < *room)
        return true;
    size_t more = *room ? 2 * *room : 64;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static lx_status no_memory(parser *s)
{
    return lx_fail(s->err, LX_EAGAIN, "%s: out of memory reading the pickle", s->path);
}

/* --- values, stack, memo --------------------------------------------------------------------- */

static lx_status new_value(parser *s, const lx_pickle_value *v, lx_pickle_ref *out)
{
    lx_pickle *p = s->p;
    if (p->n_values == MAX_VALUES)
        return BAD(WHERE "more than %u values", AT, MAX_VALUES);
    if (!grow((void **)&p->value, &p->values_room, p->n_values, sizeof *v))
        return no_memory(s);
    p->value[p->n_values] = *v;
    *out = (lx_pickle_ref)p->n_values++;
    return LX_OK;
}

static lx_status push(parser *s, lx_pickle_ref ref)
{
    if (s->n_stack == MAX_STACK)
        return BAD(WHERE "the stack is deeper than %u", AT, MAX_STACK);
    if (!grow((void **)&s->stack, &s->stack_room, s->n_stack, sizeof ref))
        return no_memory(s);
    s->stack[s->n_stack++] = ref;
    return LX_OK;
}

static lx_status push_new(parser *s, lx_pickle_value v)
{
    lx_pickle_ref ref = 0;
    lx_status status = new_value(s, &v, &ref);
    return status == LX_OK ? push(s, ref) : status;
}

/* Nothing below the last mark may be taken. */
static lx_status pop(parser *s, lx_pickle_ref *out)
{
    size_t floor = s->n_marks ? s->mark[s->n_marks - 1] : 0;
    if (s->n_stack <= floor)
        return BAD(WHERE "stack underflow", AT);
    *out = s->stack[--s->n_stack];
    return LX_OK;
}

/* Items since the last mark: *first is their place on the stack; they stay there. */
static lx_status pop_mark(parser *s, size_t *first)
{
    if (!s->n_marks)
        return BAD(WHERE "MARK is missing", AT);
    *first = s->mark[--s->n_marks];
    return LX_OK;
}

static size_t memo_find(const parser *s, uint32_t index)
{
    size_t i = (index * 2654435761u) & (s->memo_room - 1);
    while (s->memo[i].key && s->memo[i].key != index + 1)
        i = (i + 1) & (s->memo_room - 1);
    return i;
}

static lx_status memo_put(parser *s, uint32_t index)
{
    size_t floor = s->n_marks ? s->mark[s->n_marks - 1] : 0;
    if (s->n_stack <= floor)
        return BAD(WHERE "stack underflow", AT);
    if (index >= UINT32_MAX || s->n_memo == MAX_MEMO)
        return BAD(WHERE "memo index %" PRIu32 ", or more than %u entries", AT, index, MAX_MEMO);
    if (2 * (s->n_memo + 1) > s->memo_room) {
        size_t old_room = s->memo_room;
        memo_slot *old = s->memo;
        s->memo_room = old_room ? 2 * old_room : 256;
        s->memo = calloc(s->memo_room, sizeof *s->memo);
        if (!s->memo) {
            s->memo = old;
            s->memo_room = old_room;
            return no_memory(s);
        }
        for (size_t i = 0; i < old_room; i++)
            if (old[i].key)
                s->memo[memo_find(s, old[i].key - 1)] = old[i];
        free(old);
    }
    memo_slot *slot = &s->memo[memo_find(s, index)];
    s->n_memo += !slot->key;
    *slot = (memo_slot){.key = index + 1, .ref = s->stack[s->n_stack - 1]};
    return LX_OK;
}

static lx_status memo_get(parser *s, uint32_t index)
{
    const memo_slot *slot = s->memo_room ? &s->memo[memo_find(s, index)] : NULL;
    if (!slot || !slot->key)
        return BAD(WHERE "memo index %" PRIu32 " was never set", AT, index);
    return push(s, slot->ref);
}

/* --- operands -------------------------------------------------------------------------------- */

static lx_status operand(parser *s, uint64_t n, const unsigned char **out)
{
    if (n > s->p->bytes - s->at)
        return BAD(WHERE "its operand of %" PRIu64 " bytes is truncated", AT, n);
    *out = s->p->text + s->at;
    s->at += (size_t)n;
    return LX_OK;
}

static uint64_t le(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

static lx_status number(parser *s, int bytes, uint64_t *out)
{
    const unsigned char *at = NULL;
    lx_status status = operand(s, (uint64_t)bytes, &at);
    if (status == LX_OK)
        *out = le(at, bytes);
    return status;
}

static lx_status push_text(parser *s, uint64_t n)
{
    const unsigned char *at = NULL;
    if (n > MAX_STRING)
        return BAD(WHERE "a string of %" PRIu64 " bytes, at most %u are allowed", AT, n,
                   MAX_STRING);
    lx_status status = operand(s, n, &at);
    if (status != LX_OK)
        return status;
    return push_new(
        s, (lx_pickle_value){.kind = LX_PICKLE_TEXT,
                             .text = {.at = (uint32_t)(at - s->p->text), .bytes = (uint32_t)n}});
}

static lx_status push_int(parser *s, int64_t value)
{
    if (value >= 0 && value < 256)
        return push(s, (lx_pickle_ref)(REF_BYTE0 + value));
    return push_new(s, (lx_pickle_value){.kind = LX_PICKLE_INT, .integer = value});
}

/* --- opcodes: scalars ------------------------------------------------------------------------ */

static lx_status op_proto(parser *s)
{
    uint64_t version = 0;
    lx_status status = number(s, 1, &version);
    if (status == LX_OK && (version < 2 || version > 5))
        return BAD(WHERE "pickle protocol %" PRIu64 ", supported are 2 to 5", AT, version);
    return status;
}

static lx_status op_frame(parser *s)
{
    uint64_t ignored;
    return number(s, 8, &ignored);
}

static lx_status op_none(parser *s)
{
    return push(s, REF_NONE);
}

static lx_status op_true(parser *s)
{
    return push(s, REF_TRUE);
}

static lx_status op_false(parser *s)
{
    return push(s, REF_FALSE);
}

static lx_status op_binint(parser *s)
{
    uint64_t value = 0;
    lx_status status = number(s, 4, &value);
    return status == LX_OK ? push_int(s, (int32_t)(uint32_t)value) : status;
}

static lx_status push_unsigned(parser *s, int bytes)
{
    uint64_t value = 0;
    lx_status status = number(s, bytes, &value);
    return status == LX_OK ? push_int(s, (int64_t)value) : status;
}

static lx_status op_binint1(parser *s)
{
    return push_unsigned(s, 1);
}

static lx_status op_binint2(parser *s)
{
    return push_unsigned(s, 2);
}

static lx_status op_long1(parser *s)
{
    uint64_t n = 0;
    const unsigned char *at = NULL;
    lx_status status = number(s, 1, &n);
    if (status == LX_OK && n > 9)
        return BAD(WHERE "an integer of %" PRIu64 " bytes, at most 9 are allowed", AT, n);
    if (status == LX_OK)
        status = operand(s, n, &at);
    if (status != LX_OK)
        return status;
    uint64_t value = le(at, n < 8 ? (int)n : 8);
    bool is_negative = n && at[n - 1] & 0x80;
    if (n < 8 && is_negative)
        value |= ~(uint64_t)0 << (8 * n);
    /* A ninth byte can only repeat the sign; a larger number is none of a tensor's. */
    if (n == 9 && (at[8] != (is_negative ? 0xff : 0) || (value >> 63) != is_negative))
        return push(s, REF_IGNORED);
    return push_int(s, (int64_t)value);
}

static lx_status op_binfloat(parser *s)
{
    uint64_t ignored; /* no float means anything to a tensor */
    lx_status status = number(s, 8, &ignored);
    return status == LX_OK ? push(s, REF_IGNORED) : status;
}

static lx_status push_counted(parser *s, int bytes)
{
    uint64_t n = 0;
    lx_status status = number(s, bytes, &n);
    return status == LX_OK ? push_text(s, n) : status;
}

static lx_status op_text4(parser *s)
{
    return push_counted(s, 4);
}

static lx_status op_text1(parser *s)
{
    return push_counted(s, 1);
}

static lx_status op_text8(parser *s)
{
    return push_counted(s, 8);
}

/* --- opcodes: containers --------------------------------------------------------------------- */

static uint16_t depth_over(const parser *s, uint16_t depth, lx_pickle_ref child)
{
    uint16_t below = s->p->value[child].depth;
    return below >= depth ? (uint16_t)(below + 1) : depth;
}

static lx_status check_depth(parser *s, uint16_t depth)
{
    return depth > MAX_DEPTH ? BAD(WHERE "nested deeper than %u", AT, MAX_DEPTH) : LX_OK;
}

/* A tuple of the top n of the stack. */
static lx_status make_tuple(parser *s, size_t n)
{
    lx_pickle *p = s->p;
    lx_pickle_value v = {.kind = LX_PICKLE_TUPLE, .n = (uint32_t)n, .first = (uint32_t)p->n_cells};
    if (!n)
        return push(s, REF_EMPTY_TUPLE);
    for (size_t i = s->n_stack - n; i < s->n_stack; i++) {
        v.depth = depth_over(s, v.depth, s->stack[i]);
        if (p->n_cells >= 4u * MAX_VALUES)
            return BAD(WHERE "tuples of more than %u items", AT, 4u * MAX_VALUES);
        if (!grow((void **)&p->cell, &p->cells_room, p->n_cells, sizeof *p->cell))
            return no_memory(s);
        p->cell[p->n_cells++] = s->stack[i];
    }
    s->n_stack -= n;
    lx_status status = check_depth(s, v.depth);
    return status == LX_OK ? push_new(s, v) : status;
}

static lx_status fixed_tuple(parser *s, size_t n)
{
    size_t floor = s->n_marks ? s->mark[s->n_marks - 1] : 0;
    if (s->n_stack < floor + n)
        return BAD(WHERE "stack underflow", AT);
    return make_tuple(s, n);
}

static lx_status op_tuple1(parser *s)
{
    return fixed_tuple(s, 1);
}

static lx_status op_tuple2(parser *s)
{
    return fixed_tuple(s, 2);
}

static lx_status op_tuple3(parser *s)
{
    return fixed_tuple(s, 3);
}

static lx_status op_mark(parser *s)
{
    if (s->n_marks == MAX_MARKS)
        return BAD(WHERE "more than %u open marks", AT, MAX_MARKS);
    s->mark[s->n_marks++] = (uint32_t)s->n_stack;
    return LX_OK;
}

static lx_status op_tuple(parser *s)
{
    size_t first = 0;
    lx_status status = pop_mark(s, &first);
    return status == LX_OK ? make_tuple(s, s->n_stack - first) : status;
}

static lx_status op_empty_tuple(parser *s)
{
    return push(s, REF_EMPTY_TUPLE);
}

static lx_status op_empty_list(parser *s)
{
    return push_new(s, (lx_pickle_value){.kind = LX_PICKLE_LIST});
}

static lx_status op_empty_dict(parser *s)
{
    return push_new(s, (lx_pickle_value){.kind = LX_PICKLE_DICT});
}

static lx_status op_empty_set(parser *s)
{
    return push(s, REF_IGNORED);
}

/* Move the top n of the stack into the container below them. per: 1 for a list, 2 for a map. */
static lx_status extend(parser *s, size_t n, lx_pickle_kind kind, size_t per)
{
    size_t floor = s->n_marks ? s->mark[s->n_marks - 1] : 0;
    if (s->n_stack < floor + n + 1)
        return BAD(WHERE "stack underflow", AT);
    lx_pickle_value *v = &s->p->value[s->stack[s->n_stack - n - 1]];
    if (v->kind != kind)
        return BAD(WHERE "its target is not a %s", AT, per == 1 ? "list" : "map");
    if (n % per)
        return BAD(WHERE "a key without a value", AT);
    size_t have = v->n * per;
    if (have + n > v->room) {
        size_t room = have + n > 2 * (size_t)v->room ? have + n : 2 * (size_t)v->room;
        if (room > 4u * MAX_VALUES)
            return BAD(WHERE "a container of more than %u items", AT, 4u * MAX_VALUES);
        lx_pickle_ref *grown = realloc(v->items, room * sizeof *grown);
        if (!grown)
            return no_memory(s);
        v->items = grown;
        v->room = (uint32_t)room;
    }
    for (size_t i = 0; i < n; i++) {
        lx_pickle_ref item = s->stack[s->n_stack - n + i];
        v->items[have + i] = item;
        v->depth = depth_over(s, v->depth, item);
    }
    v->n += (uint32_t)(n / per);
    s->n_stack -= n;
    return check_depth(s, v->depth);
}

static lx_status op_append(parser *s)
{
    return extend(s, 1, LX_PICKLE_LIST, 1);
}

static lx_status op_setitem(parser *s)
{
    return extend(s, 2, LX_PICKLE_DICT, 2);
}

static lx_status op_appends(parser *s)
{
    size_t first = 0;
    lx_status status = pop_mark(s, &first);
    return status == LX_OK ? extend(s, s->n_stack - first, LX_PICKLE_LIST, 1) : status;
}

static lx_status op_setitems(parser *s)
{
    size_t first = 0;
    lx_status status = pop_mark(s, &first);
    return status == LX_OK ? extend(s, s->n_stack - first, LX_PICKLE_DICT, 2) : status;
}

/* --- opcodes: memo --------------------------------------------------------------------------- */

static lx_status with_number(parser *s, int bytes, lx_status (*then)(parser *, uint32_t))
{
    uint64_t index = 0;
    lx_status status = number(s, bytes, &index);
    return status == LX_OK ? then(s, (uint32_t)index) : status;
}

static lx_status op_binput(parser *s)
{
    return with_number(s, 1, memo_put);
}

static lx_status op_long_binput(parser *s)
{
    return with_number(s, 4, memo_put);
}

static lx_status op_binget(parser *s)
{
    return with_number(s, 1, memo_get);
}

static lx_status op_long_binget(parser *s)
{
    return with_number(s, 4, memo_get);
}

static lx_status op_memoize(parser *s)
{
    return memo_put(s, (uint32_t)s->n_memo);
}

/* --- opcodes: symbols and calls -------------------------------------------------------------- */

static bool same_text(const parser *s, lx_pickle_text text, const char *word)
{
    return strlen(word) == text.bytes && !memcmp(s->p->text + text.at, word, text.bytes);
}

/* torch refuses these modules even as names. */
static lx_status push_symbol(parser *s, lx_pickle_text module, lx_pickle_text name)
{
    static const char *const refused[] = {"sys", "os", "posix", "nt", "subprocess"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (same_text(s, module, refused[i]))
            return BAD("%s: the checkpoint names %s.%.*s; refused", s->path, refused[i],
                       (int)(name.bytes < 100 ? name.bytes : 100), s->p->text + name.at);
    return push_new(s, (lx_pickle_value){.kind = LX_PICKLE_SYMBOL, .module = module, .name = name});
}

/* One line of GLOBAL, without its LF. */
static lx_status line(parser *s, lx_pickle_text *out)
{
    size_t left = s->p->bytes - s->at, look = left < 1024 ? left : 1024;
    const unsigned char *start = s->p->text + s->at, *end = memchr(start, '\n', look);
    if (!end)
        return BAD(WHERE "a name without end, or of more than 1023 bytes", AT);
    *out = (lx_pickle_text){.at = (uint32_t)s->at, .bytes = (uint32_t)(end - start)};
    s->at += (size_t)(end - start) + 1;
    return LX_OK;
}

static lx_status op_global(parser *s)
{
    lx_pickle_text module = {0}, name = {0};
    lx_status status = line(s, &module);
    if (status == LX_OK)
        status = line(s, &name);
    return status == LX_OK ? push_symbol(s, module, name) : status;
}

static lx_status op_stack_global(parser *s)
{
    lx_pickle_ref module = 0, name = 0;
    lx_status status = pop(s, &name);
    if (status == LX_OK)
        status = pop(s, &module);
    if (status != LX_OK)
        return status;
    const lx_pickle_value *m = &s->p->value[module], *n = &s->p->value[name];
    if (m->kind != LX_PICKLE_TEXT || n->kind != LX_PICKLE_TEXT)
        return BAD(WHERE "a symbol's name is not a string", AT);
    return push_symbol(s, m->text, n->text);
}

/* OrderedDict(), or OrderedDict([(key, value), ...]). */
static lx_status call_map(parser *s, const lx_pickle_value *args)
{
    lx_pickle *p = s->p;
    lx_pickle_ref list = args->n ? lx_pickle_items(p, args)[0] : 0;
    if (args->n > 1 || (args->n && p->value[list].kind != LX_PICKLE_LIST))
        return BAD(WHERE "OrderedDict takes nothing or one list of pairs", AT);
    lx_pickle_value map = {.kind = LX_PICKLE_DICT};
    uint32_t n = args->n ? p->value[list].n : 0;
    map.items = n ? malloc(2 * (size_t)n * sizeof *map.items) : NULL;
    if (n && !map.items)
        return no_memory(s);
    map.room = 2 * n;
    for (uint32_t i = 0; i < n; i++) {
        const lx_pickle_value *pair = &p->value[p->value[list].items[i]];
        const lx_pickle_ref *item = lx_pickle_items(p, pair);
        if ((pair->kind != LX_PICKLE_TUPLE && pair->kind != LX_PICKLE_LIST) || pair->n != 2) {
            free(map.items);
            return BAD(WHERE "OrderedDict: item %" PRIu32 " is not a pair", AT, i);
        }
        map.items[2 * i] = item[0];
        map.items[2 * i + 1] = item[1];
        map.depth = depth_over(s, depth_over(s, map.depth, item[0]), item[1]);
    }
    map.n = n;
    lx_status status = check_depth(s, map.depth);
    lx_pickle_ref ref = 0;
    if (status == LX_OK)
        status = new_value(s, &map, &ref);
    if (status != LX_OK)
        free(map.items); /* not in the pool, so nobody else will */
    return status == LX_OK ? push(s, ref) : status;
}

static lx_status call_size(parser *s, const lx_pickle_value *args)
{
    if (args->n != 1 || s->p->value[lx_pickle_items(s->p, args)[0]].kind != LX_PICKLE_TUPLE)
        return BAD(WHERE "torch.Size takes one tuple", AT);
    return push(s, lx_pickle_items(s->p, args)[0]);
}

static lx_status op_reduce(parser *s)
{
    lx_pickle *p = s->p;
    lx_pickle_ref args = 0, callee = 0;
    lx_status status = pop(s, &args);
    if (status == LX_OK)
        status = pop(s, &callee);
    if (status != LX_OK)
        return status;
    const lx_pickle_value *f = &p->value[callee], *a = &p->value[args];
    if (f->kind != LX_PICKLE_SYMBOL)
        return BAD(WHERE "calls something that is not a symbol", AT);
    if (a->kind != LX_PICKLE_TUPLE)
        return BAD(WHERE "its arguments are not a tuple", AT);
    lx_pickle_call call = lx_pickle_call_of(p, f);
    if (call == LX_CALL_REFUSED)
        return BAD("%s: the checkpoint calls %.*s.%.*s; refused (only tensors and maps are built)",
                   s->path, (int)(f->module.bytes < 100 ? f->module.bytes : 100),
                   p->text + f->module.at, (int)(f->name.bytes < 100 ? f->name.bytes : 100),
                   p->text + f->name.at);
    if (call == LX_CALL_MAP)
        return call_map(s, a);
    if (call == LX_CALL_SIZE)
        return call_size(s, a);
    if (call == LX_CALL_IGNORED)
        return push(s, REF_IGNORED);
    uint16_t depth = depth_over(s, 0, args);
    status = check_depth(s, depth);
    return status == LX_OK ? push_new(s, (lx_pickle_value){.kind = LX_PICKLE_CALL,
                                                           .call = (uint8_t)call,
                                                           .depth = depth,
                                                           .args = args})
                           : status;
}

static lx_status op_build(parser *s)
{
    lx_pickle_ref state = 0;
    lx_status status = pop(s, &state);
    size_t floor = s->n_marks ? s->mark[s->n_marks - 1] : 0;
    if (status == LX_OK && s->n_stack <= floor)
        return BAD(WHERE "stack underflow", AT);
    if (status != LX_OK)
        return status;
    uint8_t kind = s->p->value[s->stack[s->n_stack - 1]].kind;
    if (kind != LX_PICKLE_DICT && kind != LX_PICKLE_CALL)
        return BAD(WHERE "sets the state of something that is neither a map nor a tensor", AT);
    return LX_OK; /* the state is version numbers and hooks: nothing of ours */
}

/* ('storage', type, key, location, numel) -> a STORAGE. */
static lx_status op_binpersid(parser *s)
{
    lx_pickle *p = s->p;
    lx_pickle_ref ref = 0;
    lx_status status = pop(s, &ref);
    if (status != LX_OK)
        return status;
    const lx_pickle_value *id = &p->value[ref];
    const lx_pickle_ref *item = lx_pickle_items(p, id);
    if (id->kind != LX_PICKLE_TUPLE || id->n != 5 || p->value[item[0]].kind != LX_PICKLE_TEXT ||
        !same_text(s, p->value[item[0]].text, "storage"))
        return BAD(WHERE "a persistent id that is not a storage's 5-tuple", AT);
    const lx_pickle_value *key = &p->value[item[2]], *numel = &p->value[item[4]];
    if (p->value[item[1]].kind != LX_PICKLE_SYMBOL || key->kind != LX_PICKLE_TEXT ||
        numel->kind != LX_PICKLE_INT || numel->integer < 0)
        return BAD(WHERE "a storage needs a type, a key and a length >= 0", AT);
    if (p->n_storages == MAX_STORAGE)
        return BAD(WHERE "more than %u storages", AT, MAX_STORAGE);
    if (!grow((void **)&p->storage, &p->storages_room, p->n_storages, sizeof *p->storage))
        return no_memory(s);
    p->storage[p->n_storages++] =
        (lx_pickle_storage){.type = item[1], .key = key->text, .numel = numel->integer};
    return push_new(
        s, (lx_pickle_value){.kind = LX_PICKLE_STORAGE, .integer = (int64_t)p->n_storages - 1});
}

static lx_status op_stop(parser *s)
{
    lx_status status = pop(s, &s->p->top);
    s->is_stopped = status == LX_OK;
    return status;
}

static const handler handlers[256] = {
    [0x80] = op_proto,      ['c'] = op_global,     ['R'] = op_reduce,        [0x81] = op_reduce,
    ['b'] = op_build,       ['('] = op_mark,       ['t'] = op_tuple,         [')'] = op_empty_tuple,
    [0x85] = op_tuple1,     [0x86] = op_tuple2,    [0x87] = op_tuple3,       [']'] = op_empty_list,
    ['a'] = op_append,      ['e'] = op_appends,    ['}'] = op_empty_dict,    ['s'] = op_setitem,
    ['u'] = op_setitems,    [0x8f] = op_empty_set, ['N'] = op_none,          [0x88] = op_true,
    [0x89] = op_false,      ['J'] = op_binint,     ['K'] = op_binint1,       ['M'] = op_binint2,
    [0x8a] = op_long1,      ['G'] = op_binfloat,   ['X'] = op_text4,         ['U'] = op_text1,
    ['Q'] = op_binpersid,   ['h'] = op_binget,     ['j'] = op_long_binget,   ['q'] = op_binput,
    ['r'] = op_long_binput, ['.'] = op_stop,       [0x8c] = op_text1,        [0x8d] = op_text8,
    [0x94] = op_memoize,    [0x95] = op_frame,     [0x93] = op_stack_global,
};

static lx_status make_shared(parser *s)
{
    lx_pickle_ref ref;
    const lx_pickle_value first[REF_BYTE0] = {
        [REF_NONE] = {.kind = LX_PICKLE_NONE},
        [REF_FALSE] = {.kind = LX_PICKLE_BOOL, .integer = 0},
        [REF_TRUE] = {.kind = LX_PICKLE_BOOL, .integer = 1},
        [REF_EMPTY_TUPLE] = {.kind = LX_PICKLE_TUPLE},
        [REF_IGNORED] = {.kind = LX_PICKLE_IGNORED},
    };
    lx_status status = LX_OK;
    for (int i = 0; i < N_SHARED && status == LX_OK; i++) {
        lx_pickle_value byte = {.kind = LX_PICKLE_INT, .integer = i - REF_BYTE0};
        status = new_value(s, i < REF_BYTE0 ? &first[i] : &byte, &ref);
    }
    return status;
}

lx_status lx_pickle_open(lx_pickle *out, const char *path, const void *text, size_t bytes,
                         lx_err *err)
{
    lx_pickle p = {.text = text, .bytes = bytes};
    parser parse = {.p = &p, .path = path, .err = err}, *s = &parse;
    lx_status status = bytes > LX_LIMIT_PICKLE
                           ? lx_fail(err, LX_ECONFIG, "%s: a pickle of %zu bytes", path, bytes)
                           : make_shared(s);
    while (status == LX_OK && !s->is_stopped) {
        s->op_at = s->at;
        if (s->at == bytes) {
            status = lx_fail(err, LX_ECONFIG, "%s: pickle: it ends after %zu bytes without STOP",
                             path, bytes);
            break;
        }
        handler op = handlers[p.text[s->at++]];
        status = op ? op(s) : BAD(WHERE "this opcode is not allowed in a checkpoint", AT);
    }
    if (status == LX_OK && s->at != bytes)
        status = lx_fail(err, LX_ECONFIG, "%s: pickle: %zu bytes follow STOP", path, bytes - s->at);
    free(s->stack);
    free(s->memo);
    if (status == LX_OK)
        *out = p;
    else
        lx_pickle_close(&p);
    return status;
}

void lx_pickle_close(lx_pickle *p)
{
    for (size_t i = 0; i < p->n_values; i++)
        if (p->value[i].kind == LX_PICKLE_LIST || p->value[i].kind == LX_PICKLE_DICT)
            free(p->value[i].items);
    free(p->value);
    free(p->cell);
    free(p->storage);
    *p = (lx_pickle){0};
}
