/*
 * cu_dev.cuh - what the module's families share: the open card, checked launches, number formats
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CU_DEV_CUH
#define CU_DEV_CUH

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "lx_cuda_module.h"

#define CU_EVENTS 66 /* LX_CUDA_EVENTS_ALL */

/* How cuBLASLt multiplies one shape: asked once, then the same as long as it is remembered. */
struct cu_gemm {
    int dtype; /* of the operands */
    int64_t m, n, k, ld;
    size_t scratch_bytes; /* what the kernel was chosen for: it may need no more */
    int finish;  /* 0: sums alone; else what follows them, as linear.cu numbers it */
    bool is_own; /* it has no kernel for that: product.cu has */
    cublasLtMatmulAlgo_t algo;
};

#define CU_GEMMS 128 /* shapes remembered; a 14B clip has about 20 */

struct lx_cuda_dev {
    int index; /* in PCI order */
    int major, minor, n_sm;
    cudaStream_t compute, copy;
    cudaEvent_t event[CU_EVENTS];
    bool is_marked[CU_EVENTS];
    cublasLtHandle_t blas;
    cu_gemm gemm[CU_GEMMS];
    int64_t n_gemms;    /* asked for so far; the oldest gives way */
    cudaEvent_t *clock; /* [n_clock], owned; NULL: nobody measures */
    int n_clock;
};

/* Leave with the code of a call that failed. */
#define CU_TRY(call)                                                                               \
    do {                                                                                           \
        int cu_code_ = (int)(call);                                                                \
        if (cu_code_)                                                                              \
            return cu_code_;                                                                       \
    } while (0)

/* After a launch: its own error, or one that an earlier launch left. */
static inline int cu_launched()
{
    return (int)cudaGetLastError();
}

template <typename T> __host__ __device__ constexpr T cu_ceil_div(T a, T b)
{
    return (a + b - 1) / b;
}

/* Element i of a parameter vector as f32. The dtype is one for a whole launch: no divergence. */
__device__ inline float cu_vec_at(const lx_cu_vec &v, int64_t i)
{
    switch (v.dtype) {
    case LX_CU_F32:
        return ((const float *)v.data)[i];
    case LX_CU_BF16:
        return __bfloat162float(((const __nv_bfloat16 *)v.data)[i]);
    case LX_CU_F16:
        return __half2float(((const __half *)v.data)[i]);
    case LX_CU_F8_E4M3:
        return __half2float(
            __half(__nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)v.data)[i], __NV_E4M3)));
    case LX_CU_F8_E5M2:
        return __half2float(
            __half(__nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)v.data)[i], __NV_E5M2)));
    default:
        return (float)((const double *)v.data)[i];
    }
}

/* Between f32 and a matrix's element type. Values beyond F16's range saturate: an infinity would
 * poison whole rows. */
template <typename T> __device__ inline float cu_to_f32(T v);
template <> __device__ inline float cu_to_f32<float>(float v)
{
    return v;
}
template <> __device__ inline float cu_to_f32<__nv_bfloat16>(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
template <> __device__ inline float cu_to_f32<__half>(__half v)
{
    return __half2float(v);
}

template <typename T> __device__ inline T cu_from_f32(float v);
template <> __device__ inline float cu_from_f32<float>(float v)
{
    return v;
}
template <> __device__ inline __nv_bfloat16 cu_from_f32<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}
template <> __device__ inline __half cu_from_f32<__half>(float v)
{
    return __float2half_rn(v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v);
}

/* Sum and maximum over a warp; every lane gets the result, the order is fixed. */
__device__ inline float cu_warp_sum(float v)
{
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

__device__ inline float cu_warp_max(float v)
{
    for (int i = 16; i > 0; i /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}

#endif
