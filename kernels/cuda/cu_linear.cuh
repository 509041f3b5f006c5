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

/* int8.cu: designs by number, FP8's and BF16's too; codes; the rate of mma.sync */
int cu_int8(lx_cuda_dev *dev, const lx_cu_int8 *p);
int cu_codes(lx_cuda_dev *dev, const lx_cu_codes *c);
int cu_int8_rate(lx_cuda_dev *dev, double *operations);
int cu_clocks(lx_cuda_dev *dev, lx_cu_clocks *at);

/* One design each, for 16-bit and for F32 outputs. */
int cu_int8_mma_256(lx_cuda_dev *dev, const lx_cu_int8 *p); /* int8_mma_256.cu */
int cu_int8_mma_128(lx_cuda_dev *dev, const lx_cu_int8 *p); /* int8_mma_128.cu */
int cu_int8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p); /* int8_mma_192x256.cu */
int cu_int8_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p);   /* int8_wgmma.cu */
int cu_fp8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p);  /* fp8_mma_192x256.cu */
int cu_fp8_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p);    /* fp8_wgmma.cu */
int cu_bf16_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p);   /* bf16_wgmma.cu */

#endif
