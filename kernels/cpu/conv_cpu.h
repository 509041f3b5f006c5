/*
 * conv_cpu.h - the parts of the CPU's convolution and colour families
 * SPDX-License-Identifier: Apache-2.0
 *
 * conv.c puts them into one table (lx_conv_ops_cpu) and serves single-pixel taps itself.
 */
#ifndef CONV_CPU_H
#define CONV_CPU_H

#include "lx_conv_ops.h"

/* conv_winograd.c: 3x3 in space. weight is [o, c, kt, 3, 3] f32; scratch in floats. */
uint64_t lx_winograd_floats(const lx_conv *conv);
void lx_winograd_pack(const float *weight, const lx_conv *conv, float *packed);
uint64_t lx_winograd_scratch(const lx_conv *conv, int n_threads);
lx_status lx_winograd_run(lx_exec *x, const lx_conv_call *call, lx_err *err);

/* channel_norm.c */
lx_status lx_cpu_channel_norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu,
                              lx_image *out, lx_err *err);
/* colour.c */
lx_status lx_cpu_i420(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
lx_status lx_cpu_rgb8(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
lx_status lx_cpu_planes(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err);

#endif
