/*
 * conv_ptx.cuh - the few machine instructions that the convolution is made of
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONV_PTX_CUH
#define CONV_PTX_CUH

#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

/* The address of shared memory as instructions want it. */
__device__ inline uint32_t cu_shared(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory in the background; zeros if !is_there (src must be a valid
 * address all the same). */
__device__ inline void cu_fetch16(uint32_t dst, const void *src, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

/* Close a group of fetches; wait until at most N groups are open. */
__device__ inline void cu_fetch_close()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ inline void cu_fetch_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8x8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8, and
 * gets numbers 2 (l % 4) and the next of row l / 4 of each. */
__device__ inline void cu_load_matrices(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* d [16, 8] += a [16, 16] b [16, 8], bf16 with f32 sums. */
__device__ inline void cu_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = c + a b of the same sizes, f16 with f16 sums: two to a register. */
__device__ inline void cu_mma_f16_sums(uint32_t d[2], const uint32_t a[4], uint32_t b0, uint32_t b1,
                                       uint32_t c0, uint32_t c1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, "
        "{%2, %3, %4, %5}, {%6, %7}, {%8, %9};"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c0), "r"(c1));
}

__device__ inline float2 cu_halves(uint32_t two)
{
    __half2 pair;
    memcpy(&pair, &two, sizeof pair);
    return __half22float2(pair);
}

#endif
