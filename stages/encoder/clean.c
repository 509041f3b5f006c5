/*
 * clean.c - prompt cleaning: segments, passes, and the white space at the end
 * SPDX-License-Identifier: Apache-2.0
 *
 * Works on code points in a few fixed buffers. Growth is bounded: a character becomes at most
 * three, by a ligature or by composition (never both), and references only shrink text.
 */
#include "clean.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "clean_steps.h"

#define GROWTH       4     /* code points of a buffer per byte of prompt */
#define POINT_BYTES  4     /* UTF-8 bytes of one code point, at most */
#define NFC_QUIET    0x300 /* below it every text is its own canonical composition */
#define PROMPT_LIMIT (1 << 24)

struct encoder_cleaner {
    size_t max_bytes;
    clean_points whole; /* the prompt, then its cleaned form */
    clean_points joined;
    clean_points segment, scratch, before;
    char *utf8; /* [room * POINT_BYTES + 1] */
    size_t utf8_room;
};

static bool points_take(clean_points *points, size_t room)
{
    points->at = malloc(room * sizeof *points->at);
    points->room = room;
    return points->at != NULL;
}

lx_status encoder_cleaner_create(encoder_cleaner **out, size_t max_bytes, lx_err *err)
{
    if (max_bytes == 0 || max_bytes > PROMPT_LIMIT)
        return lx_fail(err, LX_ECONFIG, "prompts of up to %zu bytes: 1 to %d are possible",
                       max_bytes, PROMPT_LIMIT);
    encoder_cleaner *c = calloc(1, sizeof *c);
    size_t room = max_bytes * GROWTH + 16;
    if (c) {
        c->max_bytes = max_bytes;
        c->utf8_room = room * POINT_BYTES + 1;
        c->utf8 = malloc(c->utf8_room);
    }
    if (!c || !c->utf8 || !points_take(&c->whole, room) || !points_take(&c->joined, room) ||
        !points_take(&c->segment, room) || !points_take(&c->scratch, room) ||
        !points_take(&c->before, room)) {
        encoder_cleaner_destroy(&c);
        return lx_fail(err, LX_EAGAIN, "no memory to clean prompts of %zu bytes", max_bytes);
    }
    *out = c;
    return LX_OK;
}

void encoder_cleaner_destroy(encoder_cleaner **cleaner)
{
    if (!cleaner || !*cleaner)
        return;
    encoder_cleaner *c = *cleaner;
    free(c->whole.at);
    free(c->joined.at);
    free(c->segment.at);
    free(c->scratch.at);
    free(c->before.at);
    free(c->utf8);
    free(c);
    *cleaner = NULL;
}

static lx_status decode(const char *text, size_t bytes, clean_points *out, lx_err *err)
{
    out->n = 0;
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                              (utf8proc_ssize_t)(bytes - i), &point);
        if (n <= 0)
            return lx_fail(err, LX_EJOB,
                           "the prompt is not UTF-8: byte 0x%02x at position %zu of %zu; send it "
                           "in UTF-8",
                           (unsigned)(unsigned char)text[i], i, bytes);
        clean_put(out, (uint32_t)point);
        i += (size_t)n;
    }
    return LX_OK;
}

static size_t encode_utf8(const clean_points *in, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < in->n; i++)
        n += (size_t)utf8proc_encode_char((utf8proc_int32_t)in->at[i], (utf8proc_uint8_t *)out + n);
    return n;
}

static void swap(clean_points *a, clean_points *b)
{
    clean_points t = *a;
    *a = *b;
    *b = t;
}

/* Step 11: canonical composition of the segment. */
static void compose(encoder_cleaner *c)
{
    bool is_quiet = true;
    for (size_t i = 0; i < c->segment.n && is_quiet; i++)
        is_quiet = c->segment.at[i] < NFC_QUIET;
    if (is_quiet)
        return;
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    size_t bytes = encode_utf8(&c->segment, c->utf8);
    clean_points *out = &c->scratch;
    utf8proc_int32_t *points = (utf8proc_int32_t *)out->at;
    utf8proc_ssize_t n =
        utf8proc_decompose((const utf8proc_uint8_t *)c->utf8, (utf8proc_ssize_t)bytes, points,
                           (utf8proc_ssize_t)out->room, options);
    if (n >= 0 && (size_t)n <= out->room)
        n = utf8proc_normalize_utf32(points, n, options);
    if (n < 0 || (size_t)n > out->room) {
        c->segment.is_full = true;
        return;
    }
    out->n = (size_t)n;
    swap(&c->segment, out);
}

static void step(encoder_cleaner *c, void (*run)(const clean_points *, clean_points *))
{
    run(&c->segment, &c->scratch);
    swap(&c->segment, &c->scratch);
}

/* ftfy's list, again and again until nothing changes. Every pass that is not the last undoes a
 * level of escaping or removes something, so their number is bounded by the prompt's length. */
static void clean_segment(encoder_cleaner *c, bool unescapes, bool *looks_garbled)
{
    do {
        memcpy(c->before.at, c->segment.at, c->segment.n * sizeof *c->segment.at);
        c->before.n = c->segment.n;
        if (unescapes)
            step(c, clean_unescape_ftfy);
        *looks_garbled |= clean_looks_garbled(&c->segment); /* where ftfy would guess */
        step(c, clean_points_one_by_one);
        step(c, clean_line_breaks);
        step(c, clean_terminal_escapes);
        step(c, clean_controls);
        compose(c);
    } while (!c->segment.is_full && !c->scratch.is_full &&
             (c->before.n != c->segment.n ||
              memcmp(c->before.at, c->segment.at, c->segment.n * sizeof *c->segment.at) != 0));
}

/* A segment ends after each newline. The first one that has '<' ends unescaping for good. */
static void clean_segments(encoder_cleaner *c, bool *looks_garbled)
{
    bool unescapes = true;
    for (size_t i = 0; i < c->whole.n;) {
        c->segment.n = 0;
        while (i < c->whole.n) {
            uint32_t point = c->whole.at[i++];
            clean_put(&c->segment, point);
            if (point == '<')
                unescapes = false;
            if (point == '\n')
                break;
        }
        clean_segment(c, unescapes, looks_garbled);
        for (size_t k = 0; k < c->segment.n; k++)
            clean_put(&c->joined, c->segment.at[k]);
    }
}

lx_status encoder_clean(encoder_cleaner *c, const char *text, size_t bytes, encoder_text *out,
                        lx_err *err)
{
    if (bytes > c->max_bytes)
        return lx_fail(err, LX_EJOB, "prompt of %zu bytes: at most %zu are taken", bytes,
                       c->max_bytes);
    c->whole.is_full = c->joined.is_full = c->segment.is_full = false;
    c->scratch.is_full = false;
    c->joined.n = 0;
    lx_status status = decode(text, bytes, &c->whole, err);
    if (status != LX_OK)
        return status;
    bool looks_garbled = false;
    clean_segments(c, &looks_garbled);
    clean_unescape_python(&c->joined, &c->whole);
    clean_unescape_python(&c->whole, &c->joined);
    clean_white_space(&c->joined, &c->whole);
    if (c->whole.is_full || c->joined.is_full || c->segment.is_full || c->scratch.is_full)
        return lx_fail(err, LX_EJOB, "prompt of %zu bytes grows beyond %zu characters by cleaning",
                       bytes, c->whole.room);
    size_t n = encode_utf8(&c->whole, c->utf8);
    c->utf8[n] = 0;
    *out = (encoder_text){.text = c->utf8, .bytes = n, .looks_garbled = looks_garbled};
    return LX_OK;
}
