/*
 * clean_html.c - character references, the way ftfy and Python's html.unescape read them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Both start at '&' and never look again at what they produced. They differ in what they accept:
 * ftfy wants a complete "&name;" and also knows names in capitals; Python takes a missing ';' and
 * the longest known beginning of a name ("&notit;" -> "¬it;").
 */
#include <string.h>

#include "clean_steps.h"

#define NAME_MAX_FTFY   24 /* letters and digits between '&' and ';' */
#define NAME_MAX_PYTHON 32

typedef struct entity {
    const char *name;  /* without '&' and ';' */
    uint8_t is_bare;   /* also valid without ';' */
    uint32_t point[3]; /* the characters, 0-terminated if fewer */
} entity;

static const entity html5[] = {
#include "entities.inc"
};
static const entity in_capitals[] = {
#include "entities_caps.inc"
};

static const entity *entity_find(const entity *table, size_t n, const char *name, size_t length)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strncmp(table[middle].name, name, length);
        if (order == 0 && table[middle].name[length])
            order = 1; /* the table's name goes on */
        if (order == 0)
            return &table[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const entity *find_html5(const char *name, size_t length)
{
    return entity_find(html5, sizeof html5 / sizeof *html5, name, length);
}

static void put_entity(clean_points *out, const entity *e)
{
    for (size_t i = 0; i < 3 && e->point[i]; i++)
        clean_put(out, e->point[i]);
}

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(uint32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(uint32_t c)
{
    if (is_digit(c))
        return (int)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (int)(c - 'a') + 10;
    return c >= 'A' && c <= 'F' ? (int)(c - 'A') + 10 : -1;
}

/* Reads digits after "&#" at i; returns the index after them, i if there are none. */
static size_t read_number(const clean_points *in, size_t i, uint32_t *value)
{
    bool is_hex = i < in->n && (in->at[i] == 'x' || in->at[i] == 'X');
    uint32_t base = is_hex ? 16 : 10, v = 0;
    size_t start = i + (is_hex ? 1 : 0), k = start;
    for (; k < in->n; k++) {
        int digit = hex_value(in->at[k]);
        if (digit < 0 || digit >= (int)base)
            break;
        v = v * base + (uint32_t)digit;
        if (v > 0x110000)
            v = 0x110000; /* saturated: anything above is U+FFFD */
    }
    *value = v;
    return k > start ? k : i;
}

/* What a numeric reference stands for in HTML5; false: nothing at all. */
static bool number_to_point(uint32_t value, uint32_t *point)
{
    if (value == 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        *point = 0xFFFD;
        return true;
    }
    if (value >= 0x80 && value <= 0x9F) {
        *point = clean_from_windows_1252(value);
        return true;
    }
    if ((value < 0x20 && value != '\t' && value != '\n' && value != '\f' && value != '\r') ||
        value == 0x7F || (value >= 0xFDD0 && value <= 0xFDEF) || (value & 0xFFFE) == 0xFFFE)
        return false;
    *point = value;
    return true;
}

/* ftfy's "&[#]ALNUM{1,24};" at the '&' of index i: index after it, or i if it is left alone. */
static size_t unescape_ftfy_at(const clean_points *in, size_t i, clean_points *out)
{
    bool is_number = i + 1 < in->n && in->at[i + 1] == '#';
    size_t start = i + 1 + (is_number ? 1 : 0), end = start;
    char name[NAME_MAX_FTFY];
    while (end < in->n && end - start < NAME_MAX_FTFY &&
           (is_digit(in->at[end]) || is_letter(in->at[end]))) {
        name[end - start] = (char)in->at[end];
        end++;
    }
    if (end == start || end >= in->n || in->at[end] != ';')
        return i;
    if (!is_number) {
        const entity *e = find_html5(name, end - start);
        if (!e)
            e = entity_find(in_capitals, sizeof in_capitals / sizeof *in_capitals, name,
                            end - start);
        if (!e)
            return i;
        put_entity(out, e);
        return end + 1;
    }
    uint32_t value, point;
    /* A result of ';' is taken for a half-read reference there and left alone. */
    if (read_number(in, start, &value) != end || value == ';')
        return i;
    if (number_to_point(value, &point))
        clean_put(out, point);
    return end + 1;
}

void clean_unescape_ftfy(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n;) {
        size_t next = in->at[i] == '&' ? unescape_ftfy_at(in, i, out) : i;
        if (next == i)
            clean_put(out, in->at[next++]);
        i = next;
    }
}

static bool ends_name(uint32_t c)
{
    return c == '\t' || c == '\n' || c == '\f' || c == ' ' || c == '<' || c == '&' || c == '#' ||
           c == ';';
}

/* A named reference at the '&' of index i; returns the index after what was replaced, or i. */
static size_t unescape_name_at(const clean_points *in, size_t i, clean_points *out)
{
    char name[NAME_MAX_PYTHON];
    size_t length = 0, ascii = 0; /* of the name; of its ASCII beginning */
    while (i + 1 + length < in->n && length < NAME_MAX_PYTHON &&
           !ends_name(in->at[i + 1 + length])) {
        if (ascii == length && in->at[i + 1 + length] < 0x80)
            name[ascii++] = (char)in->at[i + 1 + length];
        length++;
    }
    bool has_semicolon = i + 1 + length < in->n && in->at[i + 1 + length] == ';';
    if (has_semicolon && length > 0 && ascii == length) {
        const entity *e = find_html5(name, length);
        if (e) {
            put_entity(out, e);
            return i + 1 + length + 1;
        }
    }
    for (; ascii >= 2; ascii--) {
        const entity *e = find_html5(name, ascii);
        if (e && e->is_bare) {
            put_entity(out, e);
            return i + 1 + ascii;
        }
    }
    return i;
}

static size_t unescape_python_at(const clean_points *in, size_t i, clean_points *out)
{
    if (i + 1 >= in->n || in->at[i + 1] != '#')
        return unescape_name_at(in, i, out);
    uint32_t value, point;
    size_t end = read_number(in, i + 2, &value);
    if (end == i + 2)
        return i;
    if (number_to_point(value, &point))
        clean_put(out, point);
    return end < in->n && in->at[end] == ';' ? end + 1 : end;
}

void clean_unescape_python(const clean_points *in, clean_points *out)
{
    out->n = 0;
    for (size_t i = 0; i < in->n;) {
        size_t next = in->at[i] == '&' ? unescape_python_at(in, i, out) : i;
        if (next == i)
            clean_put(out, in->at[next++]);
        i = next;
    }
}
