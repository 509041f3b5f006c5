/*
 * attention_small.cu - attention for what the tensor cores' kernels do not take
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   that of attention_flash.cu, all in F32
 * Shapes    head_dim 1 ... 6144, any strides, any scale
 * Plan      One warp per query and head. Of 32 keys each lane takes one for the logit; then each
 *           lane takes columns for the values. Query and sums of a warp lie in shared memory, each
 *           padded to 16 bytes: compilers load the query's tail in pairs, and the pair's other
 *           half must not be a sum that a lane is writing.
 *           Plain, and slow: nothing at Wan's sizes comes here.
 */
#include "cu_attention.h"
#include "cu_dev.cuh"

#define LOG2E 1.4426950408889634f

/* floats in shared memory for one vector of head_dim */
static __host__ __device__ int padded(int head_dim)
{
    return (head_dim + 3) & ~3;
}

/* Grid-stride free: unit = first + block * warps + warp = head * n_q + query. */
__global__ void k_attention_small(const __grid_constant__ lx_cu_attention a, int64_t first,
                                  int64_t end)
{
    extern __shared__ float small_shared[];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, d = a.head_dim;
    int64_t unit = first + blockIdx.x * (int64_t)(blockDim.x / 32) + warp;
    if (unit >= end)
        return;
    int64_t head = unit / a.n_q, i = unit % a.n_q;
    float *q = small_shared + warp * 2 * padded(d), *o = q + padded(d);
    const __nv_bfloat16 *q_row = (const __nv_bfloat16 *)a.q + i * a.q_stride + head * d;
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)a.k + head * d;
    const __half *v = (const __half *)a.v + head * d;
    const float *rel = a.rel ? a.rel + head * (a.n_q + a.n_k - 1) - i + a.n_q - 1 : NULL;
    for (int c = lane; c < d; c += 32) {
        q[c] = __bfloat162float(q_row[c]) * a.scale;
        o[c] = 0;
    }
    __syncwarp();
    float most = -1e30f, total = 0;
    for (int64_t key0 = 0; key0 < a.n_k; key0 += 32) {
        int64_t j = key0 + lane;
        int n = (int)min((int64_t)32, a.n_k - key0);
        float x = -INFINITY;
        if (lane < n) {
            x = 0;
            for (int c = 0; c < d; c++)
                x = fmaf(q[c], __bfloat162float(k[j * a.k_stride + c]), x);
            x += rel ? rel[j] : 0;
            x += a.key_bias ? a.key_bias[j] : 0;
        }
        float now = fmaxf(most, cu_warp_max(x));
        float factor = exp2f((most - now) * LOG2E), p = exp2f((x - now) * LOG2E);
        total = total * factor + cu_warp_sum(p);
        most = now;
        for (int c0 = 0; c0 < d; c0 += 32) {
            int c = c0 + lane;
            float sum = c < d ? o[c] * factor : 0;
            for (int r = 0; r < n; r++) {
                float weight = __shfl_sync(0xffffffffu, p, r);
                if (c < d)
                    sum = fmaf(weight, __half2float(v[(key0 + r) * a.v_stride + c]), sum);
            }
            if (c < d)
                o[c] = sum;
        }
    }
    __nv_bfloat16 *out = (__nv_bfloat16 *)a.out + i * a.out_stride + head * d;
    for (int c = lane; c < d; c += 32)
        out[c] = __float2bfloat16_rn(o[c] / total);
}

extern "C" int cu_attention_small(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    int warps = a->head_dim <= LX_CU_ATTENTION_SMALL_DIM / 4 ? 4 : 1;
    size_t shared = (size_t)warps * 2 * (size_t)padded(a->head_dim) * sizeof(float);
    int64_t units = a->n_heads * a->n_q;
    for (int64_t first = 0; first < units; first += a->units_per_launch) {
        int64_t n = units - first < a->units_per_launch ? units - first : a->units_per_launch;
        k_attention_small<<<(unsigned)cu_ceil_div(n, (int64_t)warps), (unsigned)warps * 32, shared,
                            dev->compute>>>(*a, first, first + n);
        CU_TRY(cu_launched());
    }
    return 0;
}
