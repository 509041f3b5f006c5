/*
 * cu_fault.h - the module's functions that break a card's context on purpose
 * SPDX-License-Identifier: Apache-2.0
 *
 * Only in builds with -DLX2V_FAULTS=ON; elsewhere lx_cuda_module.faults is NULL and the kernels are
 * not in the module. Armed by the fault points of kernels/cuda/lx_cuda.c.
 */
#ifndef CU_FAULT_H
#define CU_FAULT_H

#include "lx_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lx_cuda_fault_ops {
    int (*read_nowhere)(lx_cuda_dev *dev); /* queue a kernel that reads an illegal address */
    int (*spin)(lx_cuda_dev *dev);         /* queue a kernel that never ends */
} lx_cuda_fault_ops;

#ifdef __cplusplus
}
#endif

#endif
