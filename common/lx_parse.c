/*
 * lx_parse.c - sizes, bytes, step lists and near words, as people write them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shared by config.yaml and the command line. Everything here reads hostile text: numbers are
 * bounded before they are multiplied.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lx_config.h"
#include "lx_tensor.h"

/* --- numbers ---------------------------------------------------------------------------------- */

/* A decimal of at most 9 digits; moves *text past it. */
static bool take_int(const char **text, int32_t *out)
{
    const char *p = *text;
    int32_t value = 0;
    int n = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (++n > 9)
            return false;
        value = value * 10 + (*p - '0');
    }
    if (n == 0)
        return false;
    *text = p;
    *out = value;
    return true;
}

bool lx_parse_i64(const char *text, int64_t *out)
{
    bool minus = *text == '-';
    uint64_t value = 0;
    const char *p = text + (minus || *text == '+');
    if (*p == 0)
        return false;
    for (; *p; p++) {
        if (*p < '0' || *p > '9' || value > (uint64_t)INT64_MAX / 10)
            return false;
        value = value * 10 + (uint64_t)(*p - '0');
        if (value > (uint64_t)INT64_MAX)
            return false;
    }
    *out = minus ? -(int64_t)value : (int64_t)value;
    return true;
}

bool lx_parse_real(const char *text, double *out)
{
    size_t n = strnlen(text, 64);
    /* strtod also takes "nan", "inf", hexadecimal and leading space: none is a setting. */
    if (n == 0 || n == 64 || strspn(text, "0123456789+-.eE") != n)
        return false;
    char *end;
    double value = strtod(text, &end);
    if (*end != 0 || !isfinite(value))
        return false;
    *out = value;
    return true;
}

static bool parse_pair(const char *text, int32_t *first, int32_t *second)
{
    if (!take_int(&text, first) || !*text || !strchr("xX*", *text))
        return false;
    text++;
    return take_int(&text, second) && *text == 0;
}

lx_status lx_parse_size(const char *text, int32_t *width, int32_t *height, lx_err *err)
{
    static const struct {
        const char *name;
        int32_t width, height;
    } named[] = {{"480p", 832, 480}, {"720p", 1280, 720}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcasecmp(text, named[i].name) == 0) {
            *width = named[i].width;
            *height = named[i].height;
            return LX_OK;
        }
    int32_t w, h;
    if (!parse_pair(text, &w, &h))
        return lx_fail(err, LX_ECONFIG,
                       "\"%.64s\" is no size; accepted: WIDTHxHEIGHT such as 832x480 or 832*480, "
                       "480p (832x480), 720p (1280x720)",
                       text);
    *width = w;
    *height = h;
    return LX_OK;
}

/* Bytes of a unit, 0 if it is none. */
static uint64_t unit_bytes(const char *unit)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"KiB", 1ULL << 10},
        {"MiB", 1ULL << 20},
        {"GiB", 1ULL << 30},
        {"TiB", 1ULL << 40},
        {"KB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", 1000000000000},
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcasecmp(unit, units[i].name) == 0)
            return units[i].bytes;
    return 0;
}

/* "6GiB", "1.5GiB", "4096": whole part exact, up to 9 digits after the point. */
static bool parse_bytes(const char *text, uint64_t *out)
{
    uint64_t whole = 0, part = 0, part_unit = 1;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (!lx_mul_u64(whole, 10, &whole) || !lx_add_u64(whole, (uint64_t)(*p - '0'), &whole))
            return false;
    }
    if (p == text)
        return false;
    if (*p == '.') {
        const char *start = ++p;
        for (; *p >= '0' && *p <= '9' && p - start < 9; p++) {
            part = part * 10 + (uint64_t)(*p - '0');
            part_unit *= 10;
        }
        if (p == start)
            return false;
    }
    while (*p == ' ')
        p++;
    uint64_t unit = unit_bytes(p);
    uint64_t tail = (uint64_t)((double)part / (double)part_unit * (double)unit);
    return unit > 0 && lx_mul_u64(whole, unit, &whole) && lx_add_u64(whole, tail, out);
}

lx_status lx_parse_bytes(const char *text, uint64_t *bytes, lx_err *err)
{
    if (parse_bytes(text, bytes))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "\"%.64s\" is no amount of memory; accepted: a number with B, KiB, MiB, GiB, "
                   "TiB (powers of 1024) or KB, MB, GB, TB, such as 6GiB",
                   text);
}

lx_status lx_parse_steps(const char *text, int32_t *steps, int32_t *n, lx_err *err)
{
    int32_t found[LX_LIMIT_STEPS];
    int32_t count = 0;
    for (const char *p = text;;) {
        while (*p == ' ')
            p++;
        if (count == LX_LIMIT_STEPS || !take_int(&p, &found[count]))
            return lx_fail(err, LX_ECONFIG,
                           "\"%.64s\" is no step list; accepted: up to %d falling numbers of 1 to "
                           "1000 with commas, such as 1000,750,500,250",
                           text, LX_LIMIT_STEPS);
        count++;
        while (*p == ' ')
            p++;
        if (*p == 0)
            break;
        if (*p++ != ',')
            return lx_fail(err, LX_ECONFIG, "\"%.64s\" is no step list; put commas between steps",
                           text);
    }
    if (lx_job_check_steps(found, count, err) != LX_OK)
        return err ? (err->status = LX_ECONFIG) : LX_ECONFIG;
    memcpy(steps, found, (size_t)count * sizeof *found);
    *n = count;
    return LX_OK;
}

/* --- near words ------------------------------------------------------------------------------- */

#define NEAR_MAX 63 /* longer words are compared by nobody */

static int lower(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static int min3(int a, int b, int c)
{
    int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Insertions, deletions, replacements and swaps of neighbours between a (n) and b (m). */
static int edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    int rows[3][NEAR_MAX + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++)
        above[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int replace = above[j - 1] + (lower(a[i - 1]) != lower(b[j - 1]));
            row[j] = min3(replace, above[j] + 1, row[j - 1] + 1);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
                lower(a[i - 2]) == lower(b[j - 1]) && before[j - 2] + 1 < row[j])
                row[j] = before[j - 2] + 1;
        }
        int *free_row = before;
        before = above;
        above = row;
        row = free_row;
    }
    return above[m];
}

const char *lx_nearest(const char *word, const char *const *known, size_t n)
{
    size_t length = strnlen(word, NEAR_MAX + 1);
    if (length == 0 || length > NEAR_MAX)
        return NULL;
    /* A third of the word may be wrong, at least one character. */
    int best = (int)(length / 3) + (length < 3);
    const char *nearest = NULL;
    for (size_t i = 0; i < n; i++) {
        size_t m = strnlen(known[i], NEAR_MAX + 1);
        if (m > NEAR_MAX)
            continue;
        int distance = edit_distance(word, length, known[i], m);
        if (distance < best || (distance == best && !nearest)) {
            best = distance;
            nearest = known[i];
        }
    }
    return nearest;
}
