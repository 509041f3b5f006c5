/*
 * int8_mma_192x256.cu - INT8 by int8_mma_192_even.cuh; for tests by its other loops
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_mma_192_even.cuh"

static int run_trial(lx_cuda_dev *dev, lx_cu_int8 *p, const int8::order &o)
{
    using namespace int8::even;
    switch (p->trial) {
    case 0:
        return run_even<loop_of<true, false>>(dev, p, o);
    case LX_CU_TRIAL_ROWS:
        return int8::tall::run<int>(dev, p, o);
    case LX_CU_TRIAL_PLANES:
        return run_even<loop_of<false, false>>(dev, p, o);
    case LX_CU_TRIAL_GATES:
        return run_even<loop_of<true, true>>(dev, p, o);
    default:
        return (int)cudaErrorInvalidValue;
    }
}

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
    return run_trial(dev, &call, o);
}
