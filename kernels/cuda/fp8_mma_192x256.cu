/*
 * fp8_mma_192x256.cu - FP8 by int8_mma_192.cuh with E4M3: 8.9 and later
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rate      of m16n8k32 with E4M3 and F32 sums on 8.9 and 12.0 GeForce: half of INT8's, 8 clocks
 *           of a multiprocessor, so shared memory (432 of 3,072 clocks for 32 of K of a tile) and
 *           the second-level cache are asked for half as much. F16 sums would run at INT8's rate;
 *           they overflow at 65,504, which 146 products of 448 make: left out.
 *           9.0 has no such instruction: there two of F16 do it, with 12 conversions, at less than
 *           F16's rate (62 % of the sheet's 989 T/s). That is to test it, not to use it.
 * Sums      on 8.9 as in fp8_wgmma.cu: 14 bits. On 9.0 they are F32's of F16 products.
 * Registers 254 or 255 by CUDA 13.0 for 8.9 and 12.0, none of the model's kernels keeps a word in
 *           memory (F32 with gelu 6); 98.5 KiB of shared memory, one block a multiprocessor. For
 *           9.0 the conversions' registers do not fit: 40 to 50 words in the loop.
 * Serves    outputs with rows of 16 bytes, a stride that is a multiple of 8; F32 without maxima.
 */
#include "int8_mma_192.cuh"

/* A card of 8.9 also runs what was built for 8.6: an empty kernel. */
static int built_for(int *capability)
{
    cudaFuncAttributes a;
    CU_TRY(cudaFuncGetAttributes(&a, int8::tall::k_int8_tall<8, false, float>));
    *capability = a.binaryVersion;
    return 0;
}

int cu_fp8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const order o = order_of(p, tall::BM, tall::BN, tall::group_of(dev->n_sm));
    lx_cu_int8 call;
    int capability;
    CU_TRY(built_for(&capability));
    if (capability < 89 || LX2V_ARCH_MAX < 89)
        return (int)cudaErrorInvalidConfiguration;
    if (!tall::has_wide_out(p) || (p->most && (p->squares || p->e.out.dtype == LX_CU_F32)))
        return (int)cudaErrorInvalidValue;
    CU_TRY(tall::codes_before(dev, p, &call));
    return tall::run<float>(dev, &call, o);
}
