/*
 * tune_choose.c - what to measure, and which of it is the best
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

#include "tune.h"

void tune_linears(int64_t width, int64_t hidden, tune_linear out[TUNE_LINEARS])
{
    out[0] = (tune_linear){width, width, LX_TUNE_ROWS};      /* q, k, v */
    out[1] = (tune_linear){width, width, LX_TUNE_RESIDUAL};  /* o */
    out[2] = (tune_linear){hidden, width, LX_TUNE_CODES};    /* the FFN's first */
    out[3] = (tune_linear){width, hidden, LX_TUNE_RESIDUAL}; /* and second */
}

bool tune_has(const lx_tune_table *table, const tune_linear *linear, int64_t rows)
{
    for (int i = 0; i < table->n; i++) {
        const lx_tune_entry *e = &table->entry[i];
        if (e->n == linear->n && e->k == linear->k && e->end == linear->end && e->rows == rows)
            return true;
    }
    return false;
}

/* 4096 tokens, halves of that where memory is short, doubles as long as attention's last wave of
 * blocks is a good part of a chunk: stages/dit/dit_engine.c. */
int tune_chunks(const lx_card_kind *card, int64_t width, int64_t out[TUNE_ROWS])
{
    const int64_t heads = width / TUNE_HEAD_COLS > 0 ? width / TUNE_HEAD_COLS : 1;
    const int64_t enough = (int64_t)32 * 128 * card->n_sm / heads;
    int n = 0;
    int64_t rows = TUNE_CHUNK_LEAST;
    do {
        out[n++] = rows;
        rows *= 2;
    } while (n < TUNE_ROWS && (rows <= TUNE_CHUNK || rows / 2 < enough) && rows <= 1 << 17);
    return n;
}

static void add(tune_way *ways, int *n, int design, int64_t band)
{
    if (*n < TUNE_WAYS)
        ways[(*n)++] = (tune_way){.design = design, .band = band};
}

int tune_ways(const lx_card_kind *card, const tune_linear *linear, int64_t rows,
              tune_way out[TUNE_WAYS])
{
    int n = 0;
    add(out, &n, LX_TUNE_BUILT_IN, 0);
    for (int design = 0; design < lx_tune_designs(); design++) {
        int64_t bands[LX_TUNE_BANDS];
        if (!lx_tune_can(card, design, linear->n))
            continue;
        add(out, &n, design, 0);
        int n_bands =
            linear->end == LX_TUNE_CODES ? lx_tune_bands(card, design, linear->n, bands) : 0;
        for (int i = 0; i < n_bands; i++)
            if (bands[i] < rows)
                add(out, &n, design, bands[i]);
    }
    return n;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int tune_choose(tune_way *ways, int n)
{
    int best = 0;
    for (int i = 0; i < n; i++) {
        tune_way *w = &ways[i];
        qsort(w->ms, (size_t)w->n, sizeof *w->ms, by_size);
        w->median = w->n ? (w->ms[(w->n - 1) / 2] + w->ms[w->n / 2]) / 2 : 0;
        if (w->median < ways[best].median)
            best = i;
    }
    return ways[best].median < ways[0].median * (1 - TUNE_GAIN_LEAST) ? best : 0;
}
