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
void lx_winograd_pack(const float *weight, lx_conv *conv);
uint64_t lx_winograd_scratch(const lx_conv *conv, int n_threads);
lx_status lx_winograd_run(const lx_conv_call *call, lx_err *err);

/* channel_norm.c */
void lx_cpu_channel_norm(const lx_image *in, const float *gamma, bool silu, lx_image *out,
                         int n_threads);
/* colour.c */
void lx_cpu_i420(const lx_colour_args *args, uint8_t *out, int n_threads);
void lx_cpu_rgb8(const lx_colour_args *args, uint8_t *out, int n_threads);
void lx_cpu_planes(const lx_colour_args *args, float *out, int n_threads);

#endif
