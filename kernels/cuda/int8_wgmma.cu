/*
 * int8_wgmma.cu - INT8 linears on Hopper: int8_wgmma.cuh
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_wgmma.cuh"

int cu_int8_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const bool is_f32 = p->e.out.dtype == LX_CU_F32, is_gelu = p->e.activation == LX_CU_GELU;
    if (!has_kernel(dev, p, is_f32 ? 16 : 32))
        return (int)cudaErrorInvalidConfiguration;
    if (is_staged(p, is_f32 ? 4 : 2))
        return is_f32 ? launch_staged<4, int8_t>(dev, p) : launch_staged<2, int8_t>(dev, p);
    if (p->most && !is_f32)
        return (int)cudaErrorInvalidConfiguration;
    if (is_f32)
        return is_gelu ? launch<4, true, 0, int8_t>(dev, p) : launch<4, false, 0, int8_t>(dev, p);
    return is_gelu ? launch<8, true, 0, int8_t>(dev, p) : launch<8, false, 0, int8_t>(dev, p);
}
