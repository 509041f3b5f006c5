/*
 * int8_mma_256.cu - one design of int8_mma.cuh
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_mma.cuh"

int cu_int8_mma_256(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    return int8::run<int8::shape<2, 4, 4, 1>>(dev, p);
}
