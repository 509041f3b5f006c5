/*
 * encoder_strings.h - the fuzzed strings of the tokenizer and cleaning goldens
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      String number i of each kind, the same from here and from tests/tools/strings.py, so
 *           that only hashes of the reference's answers need to be kept.
 * Tests     the text hashes in the golden files guard that both generators agree
 */
#ifndef ENCODER_STRINGS_H
#define ENCODER_STRINGS_H

#include <stdint.h>
#include <string.h>

#define STRINGS_ROOM 4096 /* bytes, more than any string has */

typedef struct strings {
    uint64_t state; /* splitmix64 */
    char text[STRINGS_ROOM];
    size_t n;
} strings;

static inline uint64_t strings_next(strings *s)
{
    uint64_t z = s->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline uint32_t strings_below(strings *s, uint32_t n)
{
    return (uint32_t)(strings_next(s) % n);
}

static inline void strings_put(strings *s, uint32_t c)
{
    char *out = s->text + s->n;
    if (s->n + 4 > STRINGS_ROOM)
        return;
    if (c < 0x80) {
        out[0] = (char)c;
        s->n += 1;
    } else if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        s->n += 2;
    } else if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        s->n += 3;
    } else {
        out[0] = (char)(0xF0 | c >> 18);
        out[1] = (char)(0x80 | (c >> 12 & 63));
        out[2] = (char)(0x80 | (c >> 6 & 63));
        out[3] = (char)(0x80 | (c & 63));
        s->n += 4;
    }
}

static inline void strings_add(strings *s, const char *text)
{
    for (; *text; text++)
        if (s->n + 4 <= STRINGS_ROOM)
            s->text[s->n++] = *text;
}

/* Word j of a made-up language, and more of it the larger j. */
static inline void strings_word(strings *s, uint32_t j)
{
    static const char onset[] = "bcdfghklmnprstvwxz", vowel[] = "aeiouy", coda[] = "nrslt ";
    strings w = {.state = j};
    uint32_t syllables = 1 + strings_below(&w, 4);
    for (uint32_t i = 0; i < syllables; i++) {
        strings_put(s, (uint32_t)onset[strings_below(&w, 18)]);
        strings_put(s, (uint32_t)vowel[strings_below(&w, 6)]);
        uint32_t c = (uint32_t)coda[strings_below(&w, 6)];
        if (c != ' ')
            strings_put(s, c);
    }
}

typedef struct strings_range {
    uint32_t first, count, most; /* 1..most code points from [first, first+count) */
} strings_range;

static inline void strings_from(strings *s, const strings_range *r)
{
    for (uint32_t k = 1 + strings_below(s, r->most); k > 0; k--)
        strings_put(s, r->first + strings_below(s, r->count));
}

static inline void strings_token_part(strings *s)
{
    static const strings_range range[] = {
        {0x20, 95, 6},     {0x4E00, 600, 6}, {0x4E00, 20000, 4}, {0x3041, 86, 6},
        {0x430, 32, 8},    {0xC0, 0x180, 4}, {0xAC00, 11172, 3}, {0x1F300, 0x300, 3},
        {0x20000, 999, 3}, {0x30, 10, 6},    {0x2010, 0x30, 2},  {0x2581, 1, 2},
        {0x20, 1, 4},      {0x300, 32, 2},   {0x09, 2, 1},       {0x61, 26, 10},
    };
    static const char *const literal[] = {
        "</s>",           "<pad>",          "<s>",  "<unk>",      "<extra_id_0>", "<extra_id_42>",
        "<extra_id_299>", "<extra_id_300>", "</s",  "<extra_id_", "<0x0A>",       "[web]",
        "[eod]",          "<<s>>",          "<unk", "pad>",
    };
    static const char repeated[] = "x-=.!a_0oz";
    uint32_t kind = strings_below(s, 32);
    if (kind < 16) {
        strings_from(s, &range[kind]);
    } else if (kind < 26) {
        strings_word(s, strings_below(s, 20000));
    } else if (kind < 28) {
        strings_add(s, literal[strings_below(s, 16)]);
    } else if (kind < 30) {
        uint32_t c = (uint32_t)repeated[strings_below(s, 10)];
        for (uint32_t k = 1 + strings_below(s, 20); k > 0; k--)
            strings_put(s, c);
    } else {
        strings_word(s, strings_below(s, 500));
        strings_put(s, kind == 30 ? ',' : '.');
    }
}

/* For the tokenizer: words, scripts, unknown characters, ties, literals, odd spaces. */
static inline void strings_token(strings *s, uint32_t i)
{
    s->state = 0x746F6B656E000000u + i;
    s->n = 0;
    for (uint32_t parts = strings_below(s, 12); parts > 0; parts--) {
        strings_token_part(s);
        if (strings_below(s, 3) != 0)
            strings_put(s, ' ');
    }
}

static inline void strings_clean_part(strings *s)
{
    static const strings_range range[] = {
        {0x20, 95, 6},    {0x01, 0xFF, 2},    {0x2000, 0x70, 2},  {0xFF00, 0xF0, 4},
        {0x300, 0x50, 3}, {0x1100, 0x100, 3}, {0x3000, 0x100, 2}, {0x4E00, 20000, 4},
        {0xC0, 0x180, 3}, {0x900, 0x80, 3},   {0xF900, 0x100, 2}, {0xFB00, 7, 2},
        {0x1F0, 4, 1},    {0x61, 26, 6},
    };
    static const char *const snippet[] = {
        "&amp;",
        "&amp;amp;",
        "&lt;",
        "&#x26;",
        "&amp;#38;",
        "&#59;",
        "&#0;",
        "&#13;",
        "&#x85;",
        "&#129;",
        "&#xD800;",
        "&#x110000;",
        "&#11;",
        "&#65",
        "&#x41",
        "&#x;",
        "&#;",
        "&;",
        "&",
        "&#",
        "&#12a;",
        "&#99999999999;",
        "&notit;",
        "&notin",
        "&ampx;",
        "&amp",
        "&nGt;",
        "&NTILDE;",
        "&SZLIG;",
        "&fjlig;",
        "&nbsp;",
        "&NewLine;",
        "&Tab;",
        "&#xFFFE;",
        "&#xfdd0;",
        "&#28;",
        "&AMP;amp;lt;",
        "&eacute;",
        "&EACUTE;",
        "&hellip",
        "<",
        "<b>",
        "\r\n",
        "\r",
        "\n",
        "\n",
        " ",
        "  ",
        "\t",
        "\x1b[31m",
        "\x1b[0m",
        "\x1b[",
        "\x1b[1;2",
        "e\xCC\x81",
        "A\xCC\x8A",
        "\xEF\xBB\xBF",
        "\xE2\x80\x9C",
        "\xE2\x80\x99",
    };
    uint32_t kind = strings_below(s, 28);
    if (kind < 14)
        strings_from(s, &range[kind]);
    else
        strings_add(s, snippet[strings_below(s, sizeof snippet / sizeof *snippet)]);
}

/* For cleaning: references of every kind, widths, quotes, controls, marks to compose. */
static inline void strings_clean(strings *s, uint32_t i)
{
    s->state = 0x636C65616E000000u + i;
    s->n = 0;
    for (uint32_t parts = strings_below(s, 14); parts > 0; parts--)
        strings_clean_part(s);
}

static inline uint64_t strings_hash(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001B3u; /* FNV-1a */
    return hash;
}

#define STRINGS_HASH 0xCBF29CE484222325u

#endif
