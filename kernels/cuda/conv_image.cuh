/*
 * conv_image.cuh - one number of an image on the card
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONV_IMAGE_CUH
#define CONV_IMAGE_CUH

#include "cu_conv.h"
#include "cu_dev.cuh"

__host__ __device__ inline int conv_size_of(int dtype)
{
    return dtype == LX_CU_F32 ? 4 : 2;
}

/* Where frame i begins; frames 0 and 1 may lie apart. */
__host__ __device__ inline char *conv_frame_of(const lx_cu_image &image, int64_t i)
{
    if (image.history[0]) {
        if (i < 2)
            return (char *)(i ? image.history[1] : image.history[0]);
        i -= 2;
    }
    return (char *)image.data + i * image.stride * conv_size_of(image.dtype);
}

__device__ inline float conv_value(const char *frame, int dtype, int64_t i)
{
    return dtype == LX_CU_F32   ? ((const float *)frame)[i]
           : dtype == LX_CU_F16 ? __half2float(((const __half *)frame)[i])
                                : __bfloat162float(((const __nv_bfloat16 *)frame)[i]);
}

__device__ inline void conv_set(char *frame, int dtype, int64_t i, float v)
{
    if (dtype == LX_CU_F32)
        ((float *)frame)[i] = v;
    else if (dtype == LX_CU_F16)
        ((__half *)frame)[i] = cu_from_f32<__half>(v);
    else
        ((__nv_bfloat16 *)frame)[i] = __float2bfloat16_rn(v);
}

#endif
