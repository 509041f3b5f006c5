/*
 * fuzz_tune.c - any bytes as a table of designs: refused, or in range and the same when written
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lx_tune.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const lx_card_kind *card, const lx_tune_table *t)
{
    int ok = t->n >= 0 && t->n <= LX_TUNE_ENTRIES;
    for (int i = 0; ok && i < t->n; i++) {
        const lx_tune_entry *e = &t->entry[i];
        ok = e->n >= 16 && e->n <= 1 << 20 && e->n % 16 == 0 && e->k >= 16 && e->k <= 1 << 17 &&
             e->k % 16 == 0 && e->rows >= 1 && e->rows <= 1 << 24 && (int)e->end >= 0 &&
             e->end < LX_TUNE_ENDS && lx_tune_can(card, e->design, e->n) && e->band >= 0 &&
             e->band <= 1 << 24 && (e->band == 0 || e->end == LX_TUNE_CODES) && e->ms >= 0 &&
             e->ms <= 1e6 && lx_tune_find(t, e->n, e->k, e->rows, e->end) == e;
    }
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const lx_card_kind card = {"NVIDIA GeForce RTX 3090", -1, 8, 6, 82, 101376,
                                      (uint64_t)24 << 30,        0};
    static lx_tune_table table, again;
    lx_err err = {0};
    lx_status status = lx_tune_parse(&table, (const char *)data, size, &card, "00ff", &err);
    if (status != LX_OK) {
        if (status != LX_ECONFIG || !err.message[0])
            abort();
        return 0;
    }
    check(&card, &table);
    char *text = lx_tune_text(&table, &card, "00ff");
    if (!text)
        return 0; /* no memory */
    if (lx_tune_parse(&again, text, strlen(text), &card, "00ff", &err) != LX_OK ||
        again.n != table.n)
        abort();
    free(text);
    return 0;
}
