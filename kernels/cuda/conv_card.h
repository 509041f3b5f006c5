/*
 * conv_card.h - what our side of the card's convolution and colour families share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONV_CARD_H
#define CONV_CARD_H

#include "cu_conv.h"
#include "lx_conv_ops.h"
#include "lx_cuda_priv.h"

/** The image as the module sees it; NULL: none. */
lx_cu_image lx_cuda_image_of(const lx_image *image);

/* Why a launch would not be possible: the grid counts frames in 16 bits, pixels in 31. */
lx_status lx_cuda_image_check(const lx_image *image, const char *what, lx_err *err);

/* colour.c */
lx_status lx_cuda_i420(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
lx_status lx_cuda_rgb8(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
lx_status lx_cuda_planes(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err);

#endif
