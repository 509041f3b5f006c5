/*
 * fp8_wgmma.cu - FP8 linears on Hopper: int8_wgmma.cuh with E4M3
 * SPDX-License-Identifier: Apache-2.0
 *
 * Sums      of E4M3 keep 14 bits in the tensor cores: of 32 products and what there is already,
 *           all is cut to 2^-13 of the largest. Where signs are mixed that is 2.5e-5 sqrt(K) of the
 *           result (simulated: 1.6e-3 at 5,120, 2.9e-3 at 13,824), beside the codes' own 3.7e-2:
 *           in quadrature 0.3 % more. Where all products have one sign, sums shrink: 9 % at 5,120.
 *           cuBLASLt takes its sums into F32 registers now and then; here these have no room: 128
 *           of a thread's 224 are sums, and sums of half the columns would want 1.33 times the
 *           second-level cache's bytes.
 * Registers 224, no spills; shared memory 216 KiB, one block a multiprocessor: as for INT8.
 * Serves    what the copy engine can write: rows of 16 bytes, n % 32 == 0 for F32, else n % 64.
 */
#include "int8_wgmma.cuh"

int cu_fp8_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const bool is_f32 = p->e.out.dtype == LX_CU_F32;
    if (!has_kernel(dev, p, is_f32 ? 32 : 64) || !is_staged(p, is_f32 ? 4 : 2))
        return (int)cudaErrorInvalidConfiguration;
    return is_f32 ? launch_staged<4, __nv_fp8_e4m3>(dev, p)
                  : launch_staged<2, __nv_fp8_e4m3>(dev, p);
}
