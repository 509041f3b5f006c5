/*
 * fault.cu - kernels that fail, for tests of what follows (tests/gpu/test_cuda_faults.c)
 * SPDX-License-Identifier: Apache-2.0
 *
 * Compiled only with -DLX2V_FAULTS=ON. One thread each: it is the context that shall break, not
 * the card that shall be busy.
 */
#include <cstdint>

#include "cu_dev.cuh"
#include "cu_fault.h"

#define NOWHERE ((uintptr_t)16) /* of device memory; the driver maps nothing there */

__device__ int fault_end; /* nobody ever writes it */

__global__ void k_fault_read(const volatile int *at, volatile int *out)
{
    *out = *at;
}

/* Sleeps between two looks: other processes' time on the card is not what is tested. */
__global__ void k_fault_spin(const volatile int *end)
{
    while (*end == 0)
        __nanosleep(10000);
}

static int find_flag(int **out)
{
    void *at = nullptr;
    CU_TRY(cudaGetSymbolAddress(&at, fault_end));
    *out = (int *)at;
    return 0;
}

static int read_nowhere(lx_cuda_dev *dev)
{
    int *flag;
    CU_TRY(find_flag(&flag));
    k_fault_read<<<1, 1, 0, dev->compute>>>((const volatile int *)NOWHERE, flag);
    return cu_launched();
}

static int spin(lx_cuda_dev *dev)
{
    int *flag;
    CU_TRY(find_flag(&flag));
    k_fault_spin<<<1, 1, 0, dev->compute>>>(flag);
    return cu_launched();
}

extern "C" {
extern const struct lx_cuda_fault_ops lx_cuda_fault_table;
const struct lx_cuda_fault_ops lx_cuda_fault_table = {read_nowhere, spin};
}
