/*
 * lx_rows.c - which table this processor can run
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_rows.h"

#ifdef LX_ROWS_X86
static const lx_rows *table(int i)
{
    __builtin_cpu_init();
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
    switch (i) {
    case 0:
        return &lx_rows_base;
    case 1:
        return has_avx2 ? &lx_rows_avx2 : NULL;
    case 2:
        return has_avx512 ? &lx_rows_avx512 : NULL;
    default:
        return NULL;
    }
}
#else
static const lx_rows *table(int i)
{
    return i == 0 ? &lx_rows_base : NULL;
}
#endif

const lx_rows *lx_rows_at(int i)
{
    return table(i);
}

const lx_rows *lx_rows_best(void)
{
    const lx_rows *best = &lx_rows_base;
    for (int i = 1; i <= 2; i++)
        if (table(i))
            best = table(i);
    return best;
}
