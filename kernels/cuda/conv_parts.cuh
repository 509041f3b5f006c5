/*
 * conv_parts.cuh - what the files of the convolution and colour families give to their table
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONV_PARTS_CUH
#define CONV_PARTS_CUH

#include "cu_conv.h"

int conv_norm(lx_cuda_dev *dev, const lx_cu_image *in, const float *gamma, bool silu,
              const lx_cu_image *out); /* channel_norm.cu */

/* colour.cu */
int colour_i420(lx_cuda_dev *dev, const lx_cu_colour *args, uint8_t *out);
int colour_rgb8(lx_cuda_dev *dev, const lx_cu_colour *args, uint8_t *out);
int colour_planes(lx_cuda_dev *dev, const lx_cu_colour *args, float *out);

#endif
