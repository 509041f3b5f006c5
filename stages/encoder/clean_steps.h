/*
 * clean_steps.h - the single steps of prompt cleaning, on code points; private to clean*.c
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each step reads `in` and writes `out`, another buffer. A step that meets the end of its buffer
 * sets `is_full` and goes on dropping: the caller looks once, at the end.
 * Tests     tests/stages/test_encoder_clean.c
 */
#ifndef ENCODER_CLEAN_STEPS_H
#define ENCODER_CLEAN_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct clean_points {
    uint32_t *at; /* [room], owned by the cleaner */
    size_t n, room;
    bool is_full;
} clean_points;

static inline void clean_put(clean_points *out, uint32_t point)
{
    if (out->n < out->room)
        out->at[out->n++] = point;
    else
        out->is_full = true;
}

/* clean_html.c */
void clean_unescape_ftfy(const clean_points *in, clean_points *out);   /* step 1: "&name;" only */
void clean_unescape_python(const clean_points *in, clean_points *out); /* html.unescape, one pass */

/* clean_steps.c: one pass of ftfy's steps 3 to 10 over a segment, in order */
void clean_points_one_by_one(const clean_points *in, clean_points *out); /* steps 3 to 6 */
void clean_line_breaks(const clean_points *in, clean_points *out);       /* step 7 */
void clean_terminal_escapes(const clean_points *in, clean_points *out);  /* step 9 */
void clean_controls(const clean_points *in, clean_points *out);          /* step 10 */
void clean_white_space(const clean_points *in, clean_points *out);       /* strip, \s+, strip */

/** Does a run of these Latin characters spell the bytes of a longer UTF-8 character? */
bool clean_looks_garbled(const clean_points *in);

/** windows-1252 for the byte 0x80..0x9f; the five undefined bytes stay themselves. */
uint32_t clean_from_windows_1252(uint32_t byte);

#endif
