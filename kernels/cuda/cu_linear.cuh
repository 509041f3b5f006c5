/*
 * cu_linear.cuh - the parts of the module's linears, by file
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CU_LINEAR_CUH
#define CU_LINEAR_CUH

#include "cu_dev.cuh"
#include "cu_linear.h"

/* product.cu: any shape and alignment, and few rows of f32 */
int cu_product_any(lx_cuda_dev *dev, const lx_cu_product *p);
int cu_few(lx_cuda_dev *dev, const lx_cu_few *p);

/* epilogue.cu */
int cu_epilogue(lx_cuda_dev *dev, const lx_cu_epilogue *e);

/* quantize.cu */
int cu_quantize(lx_cuda_dev *dev, const lx_cu_mat *in, const lx_cu_mat *out, float *scale);
int cu_to_bf16(lx_cuda_dev *dev, lx_cu_vec in, int64_t n, void *out);

#endif
