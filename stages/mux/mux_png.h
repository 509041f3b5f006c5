/*
 * mux_png.h - frames in, a folder of numbered PNG files out; or one picture, one file
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One 8-bit RGB file per frame, 00000.png on, written below a folder's descriptor. Each
 *           carries the clip's metadata as iTXt chunks.
 * Promise   Same frames and options: same bytes. Every file is synced before the call returns.
 * Threads   One thread per mux_png.
 * Tests     tests/stages/test_mux_clip.c, test_mux_sheet.c
 */
#ifndef MUX_PNG_H
#define MUX_PNG_H

#include <stdint.h>

#include "mux_meta.h"

typedef struct mux_png mux_png;

/** folder_fd: borrowed until mux_png_close; meta: likewise. */
lx_status mux_png_open(mux_png **out, int folder_fd, int width, int height, const mux_meta *meta,
                       lx_err *err);

/** One frame as packed I420. A failed write is LX_EJOB; mux_png_write_error then says which. */
lx_status mux_png_add(mux_png *png, const uint8_t *i420, lx_err *err);

int mux_png_write_error(const mux_png *png);
uint64_t mux_png_bytes(const mux_png *png); /* of all files so far */
void mux_png_close(mux_png **png);

/** One picture, packed R G B, into the file fd, from where that stands. *write_error: errno of a
 *  failed write (LX_EJOB), else 0. */
lx_status mux_png_save(int fd, const uint8_t *rgb, int width, int height, const mux_meta *meta,
                       int *write_error, lx_err *err);

#endif
