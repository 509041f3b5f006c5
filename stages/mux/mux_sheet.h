/*
 * mux_sheet.h - a contact sheet: frames of one or several clips side by side, as one picture
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Evenly spaced frames, the first and the last among them (of a single one: the middle),
 *           from left to right and on in the next row; clip after clip, each from a row of its own.
 *           Frames keep their shape and are made smaller if the sheet would be too wide, never
 *           larger. A clip with fewer frames than places leaves places empty.
 * Threads   One thread per mux_sheet.
 * Tests     tests/stages/test_mux_sheet.c
 */
#ifndef MUX_SHEET_H
#define MUX_SHEET_H

#include "lx_progress.h"

#define MUX_SHEET_GAP   4   /* pixels between frames */
#define MUX_SHEET_GREY  128 /* of gaps and empty places: R, G and B */
#define MUX_SHEET_COUNT 64  /* most columns, rows of a clip, and clips */
#define MUX_SHEET_SIDE  16384

typedef struct mux_sheet mux_sheet;

typedef struct mux_sheet_options {
    const char *const *paths; /* of clips, or of frames: mux_frames.h. Borrowed during open */
    int n_paths;
    int columns, rows; /* frames beside each other; rows of each clip */
    int width;         /* of the sheet in pixels, at most */
} mux_sheet_options;

/** Open the files and lay out the sheet. LX_ECONFIG: mux_frames_open's, or the sheet is too large
 *  or its frames too small, with figures. */
lx_status mux_sheet_open(mux_sheet **out, const mux_sheet_options *options, lx_err *err);

int mux_sheet_width(const mux_sheet *sheet);
int mux_sheet_height(const mux_sheet *sheet);

/** Read the frames, once. *rgb: packed R G B, borrowed until close. progress: unit "frame"; may be
 *  NULL. LX_EJOB, LX_ECANCEL. */
lx_status mux_sheet_draw(mux_sheet *sheet, const lx_progress *progress, const uint8_t **rgb,
                         lx_err *err);

void mux_sheet_close(mux_sheet **sheet);

#endif
