/*
 * pickle_values.c - looking at what a pickle said, and which calls mean something
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "pickle.h"

static const struct {
    const char *module, *name;
    lx_pickle_call call;
} call_table[] = {
    {"collections", "OrderedDict", LX_CALL_MAP},
    {"torch", "Size", LX_CALL_SIZE},
    {"torch._utils", "_rebuild_tensor", LX_CALL_TENSOR},
    {"torch._utils", "_rebuild_tensor_v2", LX_CALL_TENSOR_V2},
    {"torch._utils", "_rebuild_tensor_v3", LX_CALL_TENSOR_V3},
    {"torch._utils", "_rebuild_parameter", LX_CALL_PARAMETER},
    {"torch._utils", "_rebuild_parameter_with_state", LX_CALL_PARAMETER},
    {"torch.nn.parameter", "Parameter", LX_CALL_PARAMETER},
    {"torch._tensor", "_rebuild_from_type_v2", LX_CALL_FROM_TYPE},
    {"torch", "device", LX_CALL_IGNORED},
    {"torch.serialization", "_get_layout", LX_CALL_IGNORED},
    {"collections", "Counter", LX_CALL_IGNORED},
    {"_codecs", "encode", LX_CALL_IGNORED},
    {"builtins", "set", LX_CALL_IGNORED},
    {"builtins", "complex", LX_CALL_IGNORED},
    {"builtins", "bytearray", LX_CALL_IGNORED},
    {"__builtin__", "set", LX_CALL_IGNORED},
    {"__builtin__", "complex", LX_CALL_IGNORED},
    {"__builtin__", "bytearray", LX_CALL_IGNORED},
};

lx_pickle_call lx_pickle_call_of(const lx_pickle *p, const lx_pickle_value *symbol)
{
    for (size_t i = 0; i < sizeof call_table / sizeof *call_table; i++)
        if (lx_pickle_is(p, symbol, call_table[i].module, call_table[i].name))
            return call_table[i].call;
    return LX_CALL_REFUSED;
}

const lx_pickle_ref *lx_pickle_items(const lx_pickle *p, const lx_pickle_value *v)
{
    if (v->kind == LX_PICKLE_TUPLE)
        return v->n ? p->cell + v->first : NULL;
    return v->kind == LX_PICKLE_LIST || v->kind == LX_PICKLE_DICT ? v->items : NULL;
}

bool lx_pickle_is(const lx_pickle *p, const lx_pickle_value *symbol, const char *module,
                  const char *name)
{
    size_t m = strlen(module), n = strlen(name);
    return symbol->kind == LX_PICKLE_SYMBOL && symbol->module.bytes == m &&
           symbol->name.bytes == n && !memcmp(p->text + symbol->module.at, module, m) &&
           !memcmp(p->text + symbol->name.at, name, n);
}

bool lx_pickle_name_in(const lx_pickle *p, const lx_pickle_value *symbol, const char *module,
                       char *out, size_t room)
{
    size_t m = strlen(module), n = symbol->kind == LX_PICKLE_SYMBOL ? symbol->name.bytes : 0;
    if (symbol->kind != LX_PICKLE_SYMBOL || symbol->module.bytes != m || n >= room ||
        memcmp(p->text + symbol->module.at, module, m))
        return false;
    memcpy(out, p->text + symbol->name.at, n);
    out[n] = 0;
    return true;
}
