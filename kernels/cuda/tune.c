/*
 * tune.c - tables of designs: names, what a card can run, the nearest entry, JSON
 * SPDX-License-Identifier: Apache-2.0
 *
 * Format    {"lx2v_tune": 1, "card": NAME, "compute": "9.0", "multiprocessors": 132,
 *            "module": HEX, "linears": [{"n": 5120, "k": 5120, "rows": 4096, "end": "rows16",
 *            "design": "mma-192x256", "band": 0, "ms": 0.2}, ...]}; all keys, no others.
 */
#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cu_tune.h"
#include "lx_utf8.h"

#define ROWS_MOST  ((int64_t)1 << 24)
#define SIDE_MOST  ((int64_t)1 << 20) /* as linear_plan.c's INT8 serves */
#define K_MOST     ((int64_t)1 << 17)
#define BAND_LEAST 128
#define NEAR       2.0 /* rows of an entry that is used: so many times more or fewer, at most */

static const char *const designs[] = {[LX_CU_MMA_128x256] = "mma-128x256",
                                      [LX_CU_MMA_128x128] = "mma-128x128",
                                      [LX_CU_WGMMA_128x256] = "wgmma-128x256",
                                      [LX_CU_MMA_192x256] = "mma-192x256",
                                      [LX_CU_MMA_192x256_APART] = "mma-192x256-apart",
                                      [LX_TUNE_BLAS] = "cublaslt"};
static_assert(sizeof designs / sizeof *designs == LX_TUNE_BLAS + 1, "by number");

static const char *const ends[] = {"rows16", "residual", "codes"};
static_assert(sizeof ends / sizeof *ends == LX_TUNE_ENDS, "by number");

int lx_tune_designs(void)
{
    return LX_TUNE_BLAS + 1;
}

const char *lx_tune_design_name(int design)
{
    return design >= 0 && design <= LX_TUNE_BLAS ? designs[design] : "built-in";
}

const char *lx_tune_end_name(lx_tune_end end)
{
    return ends[end];
}

bool lx_tune_can(const lx_card_kind *card, int design, int64_t n)
{
    if (design == LX_CU_WGMMA_128x256)
        return lx_card_has_wgmma(card) && n % 32 == 0;
    return design >= LX_TUNE_BUILT_IN && design <= LX_TUNE_BLAS;
}

/* Tiles of 256 columns: a pair of multiprocessors has 256 rows (wgmma), one has 192, or 128. */
int lx_tune_bands(const lx_card_kind *card, int design, int64_t n, int64_t out[LX_TUNE_BANDS])
{
    static const int waves[LX_TUNE_BANDS] = {9, 6, 4, 2};
    const bool is_pair = design == LX_CU_WGMMA_128x256;
    const int64_t tile_m = is_pair ? 256 : design >= LX_CU_MMA_192x256 ? 192 : 128;
    const int64_t at_once = card->n_sm / (is_pair ? 2 : 1), across = (n + 255) / 256;
    int found = 0;
    if (design < 0 || design >= LX_TUNE_BLAS)
        return 0;
    for (int i = 0; i < LX_TUNE_BANDS; i++) {
        int64_t rows = waves[i] * at_once / across * tile_m;
        if (rows > 0 && (found == 0 || rows < out[found - 1]))
            out[found++] = rows;
    }
    return found;
}

/* --- looking --------------------------------------------------------------------------------- */

const lx_tune_entry *lx_tune_find(const lx_tune_table *table, int64_t n, int64_t k, int64_t rows,
                                  lx_tune_end end)
{
    const lx_tune_entry *best = NULL;
    double nearest = NEAR;
    for (int i = 0; table && i < table->n; i++) {
        const lx_tune_entry *e = &table->entry[i];
        if (e->n != n || e->k != k || e->end != end || rows < 1)
            continue;
        double ratio = (double)rows / (double)e->rows;
        ratio = ratio < 1 ? 1 / ratio : ratio;
        if (ratio < nearest || (ratio <= nearest && !best)) {
            nearest = ratio;
            best = e;
        }
    }
    return best;
}

/* --- reading --------------------------------------------------------------------------------- */

/* One object being read; the first thing that is wrong ends it. */
typedef struct reader {
    const json_t *object;
    char where[32]; /* "linears[3]." */
    lx_err *err;
    lx_status status;
} reader;

/* Foreign text for a message: cut, no control characters. */
static const char *safe(const char *text, char *out, size_t room)
{
    lx_utf8_copy(out, room, text);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return out;
}

static void wrong(reader *r, const char *key, const char *wanted)
{
    char value[80], shown[64];
    const json_t *v = json_object_get(r->object, key);
    if (r->status != LX_OK)
        return;
    if (!v)
        snprintf(value, sizeof value, "absent");
    else if (json_is_string(v))
        snprintf(value, sizeof value, "\"%s\"", safe(json_string_value(v), shown, sizeof shown));
    else if (json_is_integer(v))
        snprintf(value, sizeof value, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(value, sizeof value, "%g", json_real_value(v));
    else
        snprintf(value, sizeof value, "no text and no number");
    r->status = lx_fail(r->err, LX_ECONFIG, "%s%s: %s: %s is wanted", r->where, key, value, wanted);
}

static int64_t take_int(reader *r, const char *key, int64_t least, int64_t most)
{
    const json_t *v = json_object_get(r->object, key);
    char wanted[80];
    if (json_is_integer(v) && json_integer_value(v) >= least && json_integer_value(v) <= most)
        return json_integer_value(v);
    snprintf(wanted, sizeof wanted, "a whole number of %" PRId64 " to %" PRId64, least, most);
    wrong(r, key, wanted);
    return least;
}

static int64_t take_side(reader *r, const char *key, int64_t most)
{
    int64_t side = take_int(r, key, 16, most);
    if (side % 16)
        wrong(r, key, "a multiple of 16");
    return side;
}

static double take_ms(reader *r)
{
    const json_t *v = json_object_get(r->object, "ms");
    double ms = json_number_value(v);
    if (json_is_number(v) && isfinite(ms) && ms >= 0 && ms <= 1e6)
        return ms;
    wrong(r, "ms", "a number of 0 to 1e6");
    return 0;
}

static void take_same(reader *r, const char *key, const char *same)
{
    const json_t *v = json_object_get(r->object, key);
    char wanted[160];
    if (json_is_string(v) && !strcmp(json_string_value(v), same))
        return;
    snprintf(wanted, sizeof wanted, "\"%s\", as this card and build have it,", same);
    wrong(r, key, wanted);
}

/* Its place among n words; `other`: also accepted, as -1. */
static int take_word(reader *r, const char *key, const char *const *words, int n, const char *other)
{
    const json_t *v = json_object_get(r->object, key);
    const char *text = json_is_string(v) ? json_string_value(v) : "";
    char wanted[160] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, words[i]))
            return i;
        if (used < sizeof wanted)
            used += (size_t)snprintf(wanted + used, sizeof wanted - used, "%s%s", i ? ", " : "",
                                     words[i]);
    }
    if (other && !strcmp(text, other))
        return -1;
    if (other && used < sizeof wanted)
        snprintf(wanted + used, sizeof wanted - used, ", %s", other);
    wrong(r, key, wanted);
    return 0;
}

/* Nothing but these keys. */
static void check_keys(reader *r, const char *const *known, size_t n)
{
    const char *key;
    json_t *v;
    char shown[48];
    if (r->status != LX_OK)
        return;
    if (!json_is_object(r->object)) {
        r->status = lx_fail(r->err, LX_ECONFIG, "%s an object is wanted",
                            r->where[0] ? r->where : "the file:");
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)r->object, key, v)
    {
        size_t i = 0;
        while (i < n && strcmp(key, known[i]) != 0)
            i++;
        if (i < n)
            continue;
        r->status = lx_fail(r->err, LX_ECONFIG, "%s%s: there is no such key", r->where,
                            safe(key, shown, sizeof shown));
        return;
    }
}

static void take_entry(reader *r, const lx_card_kind *card, lx_tune_entry *e)
{
    static const char *const keys[] = {"n", "k", "rows", "end", "design", "band", "ms"};
    char wanted[128];
    check_keys(r, keys, sizeof keys / sizeof *keys);
    e->n = take_side(r, "n", SIDE_MOST);
    e->k = take_side(r, "k", K_MOST);
    e->rows = take_int(r, "rows", 1, ROWS_MOST);
    e->end = (lx_tune_end)take_word(r, "end", ends, LX_TUNE_ENDS, NULL);
    e->design = take_word(r, "design", designs, LX_TUNE_BLAS + 1, "built-in");
    e->band = take_int(r, "band", 0, ROWS_MOST);
    e->ms = take_ms(r);
    if (e->band && e->band < BAND_LEAST)
        wrong(r, "band", "0, or 128 and more,");
    if (e->band && e->end != LX_TUNE_CODES)
        wrong(r, "band", "0, where the end is not codes,");
    if (!lx_tune_can(card, e->design, e->n)) {
        snprintf(wanted, sizeof wanted, "a design that an sm_%d%d has for n = %" PRId64,
                 card->major, card->minor, e->n);
        wrong(r, "design", wanted);
    }
}

static void check_twice(reader *r, const lx_tune_table *t)
{
    const lx_tune_entry *last = &t->entry[t->n - 1];
    for (int i = 0; i < t->n - 1; i++)
        if (t->entry[i].n == last->n && t->entry[i].k == last->k && t->entry[i].end == last->end &&
            t->entry[i].rows == last->rows)
            wrong(r, "rows", "a linear that was not there before");
}

static void take_entries(reader *all, const json_t *list, const lx_card_kind *card,
                         lx_tune_table *out)
{
    size_t n = json_array_size(list);
    if (all->status == LX_OK && (!json_is_array(list) || n > LX_TUNE_ENTRIES))
        all->status = lx_fail(all->err, LX_ECONFIG, "linears: a list of at most %d is wanted",
                              LX_TUNE_ENTRIES);
    for (size_t i = 0; i < n && all->status == LX_OK; i++) {
        reader r = {.object = json_array_get(list, i), .err = all->err};
        snprintf(r.where, sizeof r.where, "linears[%zu].", i);
        take_entry(&r, card, &out->entry[out->n]);
        out->n++;
        check_twice(&r, out);
        all->status = r.status;
    }
}

lx_status lx_tune_parse(lx_tune_table *out, const char *text, size_t bytes,
                        const lx_card_kind *card, const char *module, lx_err *err)
{
    static const char *const keys[] = {"lx2v_tune",       "card",   "compute",
                                       "multiprocessors", "module", "linears"};
    json_error_t why;
    char compute[32], shown[128];
    memset(out, 0, sizeof *out);
    if (bytes > LX_TUNE_FILE_MOST)
        return lx_fail(err, LX_ECONFIG, "%zu bytes: at most %d are wanted", bytes,
                       LX_TUNE_FILE_MOST);
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return lx_fail(err, LX_ECONFIG, "line %d: no JSON: %s", why.line,
                       safe(why.text, shown, sizeof shown));
    reader r = {.object = root, .err = err};
    snprintf(compute, sizeof compute, "%d.%d", card->major, card->minor);
    check_keys(&r, keys, sizeof keys / sizeof *keys);
    take_int(&r, "lx2v_tune", LX_TUNE_FORMAT, LX_TUNE_FORMAT);
    take_same(&r, "card", card->name);
    take_same(&r, "compute", compute);
    take_int(&r, "multiprocessors", card->n_sm, card->n_sm);
    take_same(&r, "module", module);
    take_entries(&r, json_object_get(root, "linears"), card, out);
    json_decref(root);
    return r.status;
}

/* --- writing --------------------------------------------------------------------------------- */

char *lx_tune_text(const lx_tune_table *table, const lx_card_kind *card, const char *module)
{
    char compute[32], *text = NULL;
    snprintf(compute, sizeof compute, "%d.%d", card->major, card->minor);
    json_t *list = json_array();
    for (int i = 0; i < table->n; i++) {
        const lx_tune_entry *e = &table->entry[i];
        json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:s, s:s, s:I, s:f}", "n",
                                              (json_int_t)e->n, "k", (json_int_t)e->k, "rows",
                                              (json_int_t)e->rows, "end", ends[e->end], "design",
                                              lx_tune_design_name(e->design), "band",
                                              (json_int_t)e->band, "ms", e->ms));
    }
    bool is_whole = (int)json_array_size(list) == table->n;
    json_t *root = json_pack("{s:i, s:s, s:s, s:i, s:s, s:o}", "lx2v_tune", LX_TUNE_FORMAT, "card",
                             card->name, "compute", compute, "multiprocessors", card->n_sm,
                             "module", module, "linears", list);
    if (root && is_whole)
        text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    return text;
}
