/*
 * lx_utf8.h - is it UTF-8?
 * SPDX-License-Identifier: Apache-2.0
 *
 * Tests     tests/unit/test_status.c
 */
#ifndef LX_UTF8_H
#define LX_UTF8_H

#include <stddef.h>

/** Offset of the first byte that is not well-formed UTF-8 (overlong forms, surrogates and values
 *  over U+10FFFF count), or n if all is well. NUL is well-formed: bound strings by their length. */
size_t lx_utf8_bad(const char *text, size_t n);

/** Largest k <= limit such that the first k bytes of valid text end at a character. */
size_t lx_utf8_cut(const char *text, size_t n, size_t limit);

/** Copy text of any origin as valid UTF-8: bad bytes become '?', what does not fit is cut at a
 *  character. out_bytes >= 1; out is always terminated. */
void lx_utf8_copy(char *out, size_t out_bytes, const char *text);

#endif
