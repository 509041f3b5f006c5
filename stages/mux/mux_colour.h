/*
 * mux_colour.h - RGB and I420, both ways, in BT.709
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      libswscale told explicitly what it would otherwise guess as BT.601: BT.709 coefficients
 *           on both sides, RGB full range, Y'CbCr limited range, chroma sited left.
 * Error     Against Y' = 0.2126 R + 0.7152 G + 0.0722 B, Y = 16 + 219 Y', Cb = 128 + 224 (B - Y') /
 *           1.8556, Cr = 128 + 224 (R - Y') / 1.5748: at most 1 code value per sample.
 * Tests     tests/stages/test_mux_colour.c
 */
#ifndef MUX_COLOUR_H
#define MUX_COLOUR_H

#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

typedef struct mux_colour mux_colour;

typedef enum mux_direction { MUX_RGB_TO_I420, MUX_I420_TO_RGB } mux_direction;

/** width, height: even, in pixels. LX_EAGAIN: no memory. */
lx_status mux_colour_open(mux_colour **out, mux_direction direction, int width, int height,
                          lx_err *err);

/** I420 of width x height to RGB of to_width x to_height, for pictures that are smaller. */
lx_status mux_colour_open_scaled(mux_colour **out, int width, int height, int to_width,
                                 int to_height, lx_err *err);

/** One frame. r, g, b: [height, width] each, borrowed during the call; i420: packed planes. */
lx_status mux_colour_to_i420(mux_colour *colour, const uint8_t *r, const uint8_t *g,
                             const uint8_t *b, uint8_t *i420, lx_err *err);

/** One frame. rgb: rows of `stride` bytes, R G B interleaved; libswscale may write into a row's
 *  padding. */
lx_status mux_colour_to_rgb24(mux_colour *colour, const uint8_t *i420, uint8_t *rgb, int stride,
                              lx_err *err);

void mux_colour_close(mux_colour **colour);

#endif
