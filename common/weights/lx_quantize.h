/*
 * lx_quantize.h - a row of a linear as 8-bit codes with one scale, and back
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The arithmetic of LightX2V's converter (tools/convert/quant/quant.py), for what writes
 *           checkpoints. What computes with them has its own: kernels/lx_linear.h.
 * Promise   The same bits from every compiler and machine: f32 throughout, one rounding an
 *           operation, ties to even.
 * Tests     tests/unit/test_mkmodel.c (bit for bit what the converter made), test_convert.c
 */
#ifndef LX_QUANTIZE_H
#define LX_QUANTIZE_H

#include "lx_tensor.h"

/**
 * One output row, n finite values: s = max(absmax, 1e-5) / 127 (448 for e4m3), code =
 * round-half-even(w / s), clamped to what the type has. The division by a constant is a product
 * with its reciprocal, as PyTorch does it on a GPU.
 *
 * dtype       I8 or F8_E4M3
 * bf16_scale  the scale is rounded to bf16 before it is used
 * codes       [n]
 */
void lx_quantize_row(const float *w, size_t n, lx_dtype dtype, bool bf16_scale, void *codes,
                     float *scale);

/** out[i] = code[i] * scale, rounded once to f32. */
void lx_dequantize_row(const void *codes, size_t n, lx_dtype dtype, float scale, float *out);

#endif
