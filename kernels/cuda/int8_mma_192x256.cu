/*
 * int8_mma_192x256.cu - INT8 by int8_mma_192_even.cuh; for tests by other loops
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_mma_192_whole.cuh"

namespace int8
{
namespace even
{

template <int C, bool GELU, bool CODES, typename L> static auto kernel_of()
{
    if constexpr (L::IS_WHOLE)
        return k_int8_whole<C, GELU, CODES>;
    else
        return k_int8_even<C, GELU, CODES, L>;
}

template <int C, bool GELU, bool CODES, typename L>
static int launch_even(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o, const habits &h)
{
    const int blocks = o.n_tiles < dev->n_sm ? o.n_tiles : dev->n_sm;
    const auto kernel = kernel_of<C, GELU, CODES, L>();
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::SHARED));
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    kernel<<<blocks, THREADS, L::SHARED, dev->compute>>>(*p, o, h);
    return cu_launched();
}

/* Codes beside products where row_of_unit is exact; else they are made before. */
static int find_units(lx_cuda_dev *dev, lx_cu_int8 *p, habits *h)
{
    const uint64_t units = (uint64_t)cu_ceil_div<int64_t>(p->codes.cols, UNIT);
    const uint64_t most = (uint64_t)p->codes.rows * units + (uint64_t)dev->n_sm * WARPS;
    if (p->codes.rows == 0)
        return 0;
    if (units < 2 || most * units > 0xffffffffu) {
        CU_TRY(cu_codes(dev, &p->codes));
        p->codes.rows = 0;
        return 0;
    }
    h->units = (uint32_t)units;
    h->over_units = (uint32_t)((((uint64_t)1 << 32) + units - 1) / units);
    return 0;
}

/* As tall::run. F32 with gelu is no model's: it keeps the other loop. Blocks that begin apart do so
 * over half a tile, of many. Not BESIDE: all codes are made before. */
template <typename L, bool BESIDE = true>
static int run_even(lx_cuda_dev *dev, lx_cu_int8 *p, const order &o)
{
    const bool is_gelu = p->e.activation == LX_CU_GELU;
    habits h;
    if (p->e.out.dtype == LX_CU_F32 && is_gelu)
        return tall::run<int>(dev, p, o);
    CU_TRY(find_habits(dev, p, o, &h));
    if (!BESIDE) {
        CU_TRY(cu_codes(dev, &p->codes));
        p->codes.rows = 0;
    }
    CU_TRY(find_units(dev, p, &h));
    if (o.n_tiles >= 8 * dev->n_sm)
        h.delay *= 2;
    if (p->e.out.dtype == LX_CU_F32)
        return launch_even<4, false, false, L>(dev, p, o, h);
    return is_gelu ? launch_even<8, true, BESIDE, L>(dev, p, o, h)
                   : launch_even<8, false, false, L>(dev, p, o, h);
}

/* What whole lines do not serve goes to the loop without them. */
template <bool BESIDE> static int run_whole(lx_cuda_dev *dev, lx_cu_int8 *p, const order &o)
{
    return p->k % BLOCK ? run_even<loop_of<true, false>, BESIDE>(dev, p, o)
                        : run_even<whole_lines, BESIDE>(dev, p, o);
}

} // namespace even
} // namespace int8

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
    case LX_CU_TRIAL_WHOLE:
        return run_whole<true>(dev, p, o);
    case LX_CU_TRIAL_CODES:
        return run_even<loop_of<true, false>, false>(dev, p, o);
    case LX_CU_TRIAL_WHOLE_CODES:
        return run_whole<false>(dev, p, o);
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
