/*
 * clean_steps.c - ftfy's deterministic repairs, one table or rule each
 * SPDX-License-Identifier: Apache-2.0
 *
 * Source    ftfy 6.3.1, ftfy/fixes.py and ftfy/chardata.py
 */
#include "clean_steps.h"

#include <utf8proc.h>

static const uint16_t windows_1252[32] = {
    0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
    0x2039, 0x0152, 0x8D,   0x017D, 0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178,
};

uint32_t clean_from_windows_1252(uint32_t byte)
{
    return windows_1252[byte - 0x80];
}

/* Step 4: Latin ligatures and digraphs. */
static const struct {
    uint16_t point, into[3];
} ligatures[] = {
    {0x0132, {'I', 'J'}},      {0x0133, {'i', 'j'}},      {0x0149, {0x02BC, 'n'}},
    {0x01F1, {'D', 'Z'}},      {0x01F2, {'D', 'z'}},      {0x01F3, {'d', 'z'}},
    {0x01C4, {'D', 0x017D}},   {0x01C5, {'D', 0x017E}},   {0x01C6, {'d', 0x017E}},
    {0x01C7, {'L', 'J'}},      {0x01C8, {'L', 'j'}},      {0x01C9, {'l', 'j'}},
    {0x01CA, {'N', 'J'}},      {0x01CB, {'N', 'j'}},      {0x01CC, {'n', 'j'}},
    {0xFB00, {'f', 'f'}},      {0xFB01, {'f', 'i'}},      {0xFB02, {'f', 'l'}},
    {0xFB03, {'f', 'f', 'i'}}, {0xFB04, {'f', 'f', 'l'}}, {0xFB05, {0x017F, 't'}},
    {0xFB06, {'s', 't'}},
};

/* Step 5, U+FF5F..U+FFEE: half-width forms and full-width signs; 0: unchanged. U+FFE3 has two. */
static const uint16_t half_width[] = {
    0x2985, 0x2986, 0x3002, 0x300C, 0x300D, 0x3001, 0x30FB, 0x30F2, 0x30A1, 0x30A3, 0x30A5, 0x30A7,
    0x30A9, 0x30E3, 0x30E5, 0x30E7, 0x30C3, 0x30FC, 0x30A2, 0x30A4, 0x30A6, 0x30A8, 0x30AA, 0x30AB,
    0x30AD, 0x30AF, 0x30B1, 0x30B3, 0x30B5, 0x30B7, 0x30B9, 0x30BB, 0x30BD, 0x30BF, 0x30C1, 0x30C4,
    0x30C6, 0x30C8, 0x30CA, 0x30CB, 0x30CC, 0x30CD, 0x30CE, 0x30CF, 0x30D2, 0x30D5, 0x30D8, 0x30DB,
    0x30DE, 0x30DF, 0x30E0, 0x30E1, 0x30E2, 0x30E4, 0x30E6, 0x30E8, 0x30E9, 0x30EA, 0x30EB, 0x30EC,
    0x30ED, 0x30EF, 0x30F3, 0x3099, 0x309A, 0x1160, 0x1100, 0x1101, 0x11AA, 0x1102, 0x11AC, 0x11AD,
    0x1103, 0x1104, 0x1105, 0x11B0, 0x11B1, 0x11B2, 0x11B3, 0x11B4, 0x11B5, 0x111A, 0x1106, 0x1107,
    0x1108, 0x1121, 0x1109, 0x110A, 0x110B, 0x110C, 0x110D, 0x110E, 0x110F, 0x1110, 0x1111, 0x1112,
    0,      0,      0,      0x1161, 0x1162, 0x1163, 0x1164, 0x1165, 0x1166, 0,      0,      0x1167,
    0x1168, 0x1169, 0x116A, 0x116B, 0x116C, 0,      0,      0x116D, 0x116E, 0x116F, 0x1170, 0x1171,
    0x1172, 0,      0,      0x1173, 0x1174, 0x1175, 0,      0,      0,      0x00A2, 0x00A3, 0x00AC,
    0,      0x00A6, 0x00A5, 0x20A9, 0,      0x2502, 0x2190, 0x2191, 0x2192, 0x2193, 0x25A0, 0x25CB,
};

static uint32_t narrow(uint32_t c)
{
    if (c == 0x3000)
        return ' ';
    if (c >= 0xFF01 && c <= 0xFF5E)
        return c - 0xFEE0;
    if (c >= 0xFF5F && c <= 0xFFEE && half_width[c - 0xFF5F])
        return half_width[c - 0xFF5F];
    return c;
}

static uint32_t straighten_quote(uint32_t c)
{
    if (c == 0x02BC || (c >= 0x2018 && c <= 0x201B))
        return '\'';
    return c >= 0x201C && c <= 0x201F ? '"' : c;
}

void clean_points_one_by_one(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->at[i];
        if (c >= 0x80 && c <= 0x9F)
            c = clean_from_windows_1252(c);
        uint32_t alone[3] = {c, 0, 0};
        size_t n = 1;
        for (size_t k = 0; k < sizeof ligatures / sizeof *ligatures; k++) {
            if (ligatures[k].point != c)
                continue;
            for (n = 0; n < 3 && ligatures[k].into[n]; n++)
                alone[n] = ligatures[k].into[n];
        }
        if (c == 0xFFE3) { /* full-width macron */
            alone[0] = ' ';
            alone[1] = 0x0304;
            n = 2;
        }
        for (size_t k = 0; k < n; k++)
            clean_put(out, straighten_quote(narrow(alone[k])));
    }
}

void clean_line_breaks(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->at[i];
        if (c == '\r' && i + 1 < in->n && in->at[i + 1] == '\n')
            continue;
        bool is_break = c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85;
        clean_put(out, is_break ? '\n' : c);
    }
}

static bool is_decimal(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

/* ESC [ (digit or ;)* letter, e.g. a colour: index after it, or i if there is none. */
static size_t terminal_escape_at(const clean_points *in, size_t i)
{
    if (i + 1 >= in->n || in->at[i] != 0x1B || in->at[i + 1] != '[')
        return i;
    size_t k = i + 2;
    while (k < in->n && (in->at[k] == ';' || is_decimal(in->at[k])))
        k++;
    if (k >= in->n)
        return i;
    uint32_t lower = in->at[k] | 0x20;
    return in->at[k] < 0x80 && lower >= 'a' && lower <= 'z' ? k + 1 : i;
}

void clean_terminal_escapes(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n;) {
        size_t next = terminal_escape_at(in, i);
        if (next == i)
            clean_put(out, in->at[next++]);
        i = next;
    }
}

void clean_controls(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->at[i];
        bool goes = c <= 0x08 || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
                    (c >= 0x206A && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
        if (!goes)
            clean_put(out, c);
    }
}

/* \s of the `regex` module: 25 code points. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Python's str.strip takes these four separators too. */
static bool is_stripped(uint32_t c)
{
    return is_space(c) || (c >= 0x1C && c <= 0x1F);
}

void clean_white_space(const clean_points *in, clean_points *out)
{
    out->n = 0;
    size_t start = 0, end = in->n;
    while (start < end && is_stripped(in->at[start]))
        start++;
    while (end > start && is_stripped(in->at[end - 1]))
        end--;
    /* The text now begins and ends with something visible: the second strip has nothing to do. */
    for (size_t i = start; i < end; i++) {
        if (!is_space(in->at[i]))
            clean_put(out, in->at[i]);
        else if (!is_space(in->at[i - 1]))
            clean_put(out, ' ');
    }
}

/* The byte that windows-1252 (or Latin-1) shows as c, or 0. */
static uint32_t byte_shown_as(uint32_t c)
{
    if (c >= 0x80 && c <= 0xFF)
        return c;
    for (uint32_t b = 0; b < 32 && c > 0xFF; b++)
        if (windows_1252[b] == c)
            return 0x80 + b;
    return 0;
}

/* "Ü“" ends many a German quotation: these bytes say nothing after most leads of two. */
static bool is_punctuation_byte(uint32_t byte)
{
    return byte == 0x85 || (byte >= 0x91 && byte <= 0x97);
}

bool clean_looks_garbled(const clean_points *in)
{
    for (size_t i = 0; i + 1 < in->n; i++) {
        uint32_t lead = byte_shown_as(in->at[i]);
        if (lead < 0xC2 || lead > 0xF4)
            continue;
        size_t n = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3, k = 0;
        while (k < n && i + 1 + k < in->n && (byte_shown_as(in->at[i + 1 + k]) & 0xC0) == 0x80)
            k++;
        if (k < n)
            continue;
        if (n > 1 || lead <= 0xC3 || !is_punctuation_byte(byte_shown_as(in->at[i + 1])))
            return true;
    }
    return false;
}
