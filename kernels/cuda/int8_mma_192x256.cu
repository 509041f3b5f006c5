/*
 * int8_mma_192x256.cu - INT8 by int8_mma_192.cuh
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_mma_192.cuh"

int cu_int8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const order o = order_of(p, tall::BM, tall::BN, tall::group_of(dev->n_sm));
    const bool is_f32 = p->e.out.dtype == LX_CU_F32;
    lx_cu_int8 call;
    if (p->most && p->squares)
        return (int)cudaErrorInvalidValue;
    CU_TRY(tall::codes_before(dev, p, &call));
    if (!tall::has_wide_out(p) || (is_f32 && p->most))
        return p->most && !is_f32 ? (int)cudaErrorInvalidValue : cu_int8_mma_256(dev, &call);
    return tall::run<int>(dev, &call, o);
}
