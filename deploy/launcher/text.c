/*
 * text.c - cutting at characters
 * SPDX-License-Identifier: Apache-2.0
 */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lx_utf8.h"

void text_put(char *out, size_t out_bytes, const char *text)
{
    size_t n = lx_utf8_bad(text, strlen(text));
    n = lx_utf8_cut(text, n, out_bytes - 1);
    memmove(out, text, n);
    out[n] = 0;
}

void text_format(char *out, size_t out_bytes, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out, out_bytes, format, args);
    va_end(args);
    text_put(out, out_bytes, out); /* what the cut left of a character is not UTF-8: it goes */
}
