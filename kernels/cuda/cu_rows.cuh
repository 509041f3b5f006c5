/*
 * cu_rows.cuh - the parts of the module's row operations, by file
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CU_ROWS_CUH
#define CU_ROWS_CUH

#include "cu_dev.cuh"
#include "cu_rows.h"

int cu_norm(lx_cuda_dev *dev, const lx_cu_norm *n); /* norm.cu */
/* rope.cu */
int cu_qk_norm_rope(lx_cuda_dev *dev, const lx_cu_rope *r);
int cu_squares(lx_cuda_dev *dev, const lx_cu_mat *rows, float *square);
int cu_fold_squares(lx_cuda_dev *dev, const float *parts, int n_parts, int64_t m, float *square);

#endif
