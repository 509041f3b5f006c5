/*
 * pickle.h - what a pickle says, never what it does
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Interprets the opcodes that torch.save uses into plain values. Symbols are only names;
 *           a call is allowed for the few that build tensors and maps, and is kept as a record of
 *           function and arguments. Any other call is refused.
 * Promise   No recursion on input depth; memory in proportion to the pickle, and bounded.
 * Tests     tests/unit/test_pth.c, tests/fuzz/fuzz_pth.c
 */
#ifndef LX_PICKLE_H
#define LX_PICKLE_H

#include "weights_internal.h"

#define LX_LIMIT_PICKLE (256u << 20) /* bytes */

typedef enum lx_pickle_kind {
    LX_PICKLE_NONE,
    LX_PICKLE_BOOL,
    LX_PICKLE_INT,
    LX_PICKLE_TEXT,
    LX_PICKLE_TUPLE,
    LX_PICKLE_LIST,
    LX_PICKLE_DICT, /* items: key, value, key, value, ... */
    LX_PICKLE_SYMBOL,
    LX_PICKLE_STORAGE,
    LX_PICKLE_CALL, /* of one of the lx_pickle_call functions: a tensor */
    LX_PICKLE_IGNORED
} lx_pickle_kind;

/* What a symbol means when it is called. */
typedef enum lx_pickle_call {
    LX_CALL_REFUSED,
    LX_CALL_MAP,       /* OrderedDict */
    LX_CALL_SIZE,      /* torch.Size */
    LX_CALL_IGNORED,   /* harmless, of no use to us */
    LX_CALL_TENSOR,    /* _rebuild_tensor    (storage, offset, size, stride) */
    LX_CALL_TENSOR_V2, /* ... + requires_grad, hooks[, metadata] */
    LX_CALL_TENSOR_V3, /* ... + dtype; storage untyped */
    LX_CALL_PARAMETER, /* (tensor, ...) */
    LX_CALL_FROM_TYPE, /* (function, type, args, state) */
} lx_pickle_call;

typedef uint32_t lx_pickle_ref; /* index of a value */

typedef struct lx_pickle_text {
    uint32_t at, bytes; /* slice of the pickle */
} lx_pickle_text;

typedef struct lx_pickle_value {
    uint8_t kind; /* lx_pickle_kind */
    uint8_t call; /* lx_pickle_call of a CALL */
    uint16_t depth;
    uint32_t n; /* items of a container */
    union {
        int64_t integer; /* INT, BOOL; STORAGE: index */
        lx_pickle_text text;
        uint32_t first; /* TUPLE: into cell */
        struct {
            lx_pickle_ref *items; /* LIST, DICT: owned */
            uint32_t room;
        };
        lx_pickle_ref args; /* CALL: a TUPLE */
        struct {
            lx_pickle_text module, name; /* SYMBOL */
        };
    };
} lx_pickle_value;

typedef struct lx_pickle_storage {
    lx_pickle_ref type; /* SYMBOL */
    lx_pickle_text key;
    int64_t numel; /* elements; bytes for an untyped storage */
} lx_pickle_storage;

typedef struct lx_pickle {
    const unsigned char *text; /* borrowed until lx_pickle_close */
    size_t bytes;
    lx_pickle_value *value; /* owned */
    size_t n_values, values_room;
    uint32_t *cell; /* owned: items of tuples */
    size_t n_cells, cells_room;
    lx_pickle_storage *storage; /* owned */
    size_t n_storages, storages_room;
    lx_pickle_ref top;
} lx_pickle;

/** text is borrowed until lx_pickle_close. path is for messages. */
lx_status lx_pickle_open(lx_pickle *out, const char *path, const void *text, size_t bytes,
                         lx_err *err);
void lx_pickle_close(lx_pickle *pickle);

static inline const lx_pickle_value *lx_pickle_at(const lx_pickle *p, lx_pickle_ref ref)
{
    return &p->value[ref];
}

/** Items of a TUPLE, LIST or DICT (2n of them); NULL for anything else. */
const lx_pickle_ref *lx_pickle_items(const lx_pickle *p, const lx_pickle_value *v);

/** Compare a SYMBOL with module and name. */
bool lx_pickle_is(const lx_pickle *p, const lx_pickle_value *symbol, const char *module,
                  const char *name);
/** The name of a SYMBOL if its module is `module`, into out; false otherwise. */
bool lx_pickle_name_in(const lx_pickle *p, const lx_pickle_value *symbol, const char *module,
                       char *out, size_t room);
lx_pickle_call lx_pickle_call_of(const lx_pickle *p, const lx_pickle_value *symbol);

#endif
