/*
 * lx_utf8.c - well-formedness after table 3-7 of the Unicode standard
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_utf8.h"

#include <string.h>

/* Length of the well-formed sequence at p, of at most n bytes; 0 if there is none. */
static size_t sequence(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (length > n)
        return 0;
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

size_t lx_utf8_bad(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        size_t length = sequence(p + i, n - i);
        if (!length)
            break;
        i += length;
    }
    return i;
}

size_t lx_utf8_cut(const char *text, size_t n, size_t limit)
{
    if (n <= limit)
        return n;
    size_t k = limit;
    while (k > 0 && ((unsigned char)text[k] & 0xc0) == 0x80)
        k--;
    return k;
}

void lx_utf8_copy(char *out, size_t out_bytes, const char *text)
{
    size_t used = 0, n = strlen(text);
    while (n) {
        size_t length = sequence((const unsigned char *)text, n);
        size_t step = length ? length : 1;
        if (used + step >= out_bytes)
            break;
        if (length)
            memcpy(out + used, text, length);
        else
            out[used] = '?';
        used += step;
        text += step;
        n -= step;
    }
    out[used] = 0;
}
