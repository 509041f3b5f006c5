/*
 * text.h - text for message fields: always terminated, always whole UTF-8
 * SPDX-License-Identifier: Apache-2.0
 *
 * A message with half a character in it is not sent at all, so nothing here ever cuts one.
 */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

/** Copy text, cut to fit. out and text may overlap. */
void text_put(char *out, size_t out_bytes, const char *text);

/** snprintf, cut to fit. */
void text_format(char *out, size_t out_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
