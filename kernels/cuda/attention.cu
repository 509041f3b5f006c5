/*
 * attention.cu - the attention family's table
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cu_attention.h"

extern "C" {
int cu_attention_quantize(lx_cuda_dev *dev, const lx_cu_kv *kv);
int cu_attention_tiles(lx_cuda_dev *dev, const lx_cu_kv *kv);
int cu_attention_int8(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_wgmma(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_fp8(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_few(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_flash(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_wide(lx_cuda_dev *dev, const lx_cu_attention *a);
int cu_attention_small(lx_cuda_dev *dev, const lx_cu_attention *a);

extern const lx_cuda_attention_ops lx_cuda_attention_table;
const lx_cuda_attention_ops lx_cuda_attention_table = {
    cu_attention_quantize, cu_attention_tiles, cu_attention_int8,
    cu_attention_wgmma,    cu_attention_fp8,   cu_attention_few,
    cu_attention_flash,    cu_attention_wide,  cu_attention_small};
}
