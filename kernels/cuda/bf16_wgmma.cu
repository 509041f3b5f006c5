/*
 * bf16_wgmma.cu - BF16 linears on Hopper: int8_wgmma.cuh with BF16
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       cuBLASLt multiplies as quickly, but a gate, a residual or a row's squares are not its
 *           own: sums of 4 bytes a number went to the second-level cache and back, or rows were
 *           read again.
 * Floors    at 32,760 rows, 5120 -> 5120, 5120 -> 13824 and 13824 -> 5120: 1.74, 4.69 and 4.69 ms
 *           at the sheet's 989 TFLOP/s, 2.2, 5.9 and 5.9 at the 780 that power leaves; bytes 0.2 ms
 *           (0.5 with a residual), 0.4 and 0.7.
 * Registers 224, no spills; shared memory 216 KiB, one block a multiprocessor: as for INT8. Of 16
 *           of K a block reads and writes what INT8 does of 32, in as many clocks.
 * Serves    what the copy engine can write: rows of 16 bytes, n % 32 == 0 for F32, else n % 64. No
 *           codes, no maxima, no gelu: cuBLASLt finishes that too, and a little quicker.
 * Measured  on one H100, 32,760 rows, milliseconds, in brackets cuBLASLt and what finishes its
 *           sums, three by turns: 5120 -> 5120 2.22 to 2.35 (2.13 to 2.46), with squares 2.29 to
 *           2.42 (2.40 to 2.54), gate and residual 2.43 to 2.48 (3.07 to 3.26), 13824 -> 5120 6.31
 *           to 6.58 (7.15 to 7.96). At 1,024 rows, without linear_plan.c's limit, cuBLASLt
 *           was quicker in all.
 */
#include "int8_wgmma.cuh"

int cu_bf16_wgmma(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const bool is_f32 = p->e.out.dtype == LX_CU_F32;
    lx_cu_int8 in_bytes = *p;
    in_bytes.k *= (int64_t)sizeof(__nv_bfloat16);
    if (!has_kernel(dev, p, is_f32 ? 32 : 64) || !is_staged(p, is_f32 ? 4 : 2) || p->most ||
        p->codes.rows || p->e.activation != LX_CU_PLAIN)
        return (int)cudaErrorInvalidConfiguration;
    return is_f32 ? launch<staged_piece<4>, false, 4, __nv_bfloat16>(dev, &in_bytes)
                  : launch<staged_piece<2>, false, 2, __nv_bfloat16>(dev, &in_bytes);
}
