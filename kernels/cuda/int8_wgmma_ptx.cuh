/*
 * int8_wgmma_ptx.cuh - the machine instructions of int8_wgmma.cuh: 9.0 alone
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INT8_WGMMA_PTX_CUH
#define INT8_WGMMA_PTX_CUH

#include <cuda.h>
#include <stdint.h>

#include <type_traits>

namespace int8
{

/* --- barriers in shared memory: addresses are those of this block's window -------------------- */

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/* Barriers are as they were made for the other block and for the copy engine too. */
__device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* One arrival, and so many bytes to come before the phase is over. */
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

/* Arrive at the same barrier of block `rank` of the cluster. What it tells is that the tensor cores
 * and the copy engine have read a stage, which their own waits have made sure of; nothing that
 * threads wrote. With .release.cluster each arrival would wait for all of this thread's accesses to
 * memory (MEMBAR.ALL.GPU), in every step. */
__device__ __forceinline__ void barrier_arrive_at(uint32_t bar, uint32_t rank)
{
    asm volatile("{\n.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}

/* Wait until the phase of this parity is over. With .acquire.cluster each wait would throw away
 * what the first-level cache holds (CCTL.IVALL); what comes is the copy engine's, in shared memory.
 */
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* One arrival at a barrier of this block: nothing was fetched. */
__device__ __forceinline__ void barrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* The 128 threads of a group; 0 is __syncthreads's. */
__device__ __forceinline__ void group_sync(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

/* Every thread of both blocks. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* --- the copy engine ------------------------------------------------------------------------- */

/* A box of x, [rows, 128 bytes]: into this block. */
__device__ __forceinline__ void fetch_x(uint32_t dst, const CUtensorMap *map, uint32_t bar, int k,
                                        int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(k), "r"(row)
                 : "memory");
}

/* A box of w in the order of pieces: to the same place of both blocks, each one's barrier told. */
__device__ __forceinline__ void fetch_w(uint32_t dst, const CUtensorMap *map, uint32_t bar, int k,
                                        int group)
{
    const uint16_t both = 3;
    const int zero = 0;
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5, %5, %5, %6}], [%2], %3;" ::"r"(dst),
                 "l"(map), "r"(bar), "h"(both), "r"(k), "r"(zero), "r"(group)
                 : "memory");
}

/* Results: what this thread has written into shared memory is the copy engine's to read. */
__device__ __forceinline__ void box_written()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void box_put16(uint32_t at, const uint32_t (&v)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v[0]), "r"(v[1]),
                 "r"(v[2]), "r"(v[3])
                 : "memory");
}

/* A box to the matrix; what lies beyond the matrix is not written. */
__device__ __forceinline__ void box_store(const CUtensorMap *map, uint32_t src, int col, int row)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
        "r"(src), "r"(col), "r"(row)
        : "memory");
}

/* The same, added to what is there: by the second-level cache, rounded to nearest even. */
__device__ __forceinline__ void box_add(const CUtensorMap *map, uint32_t src, int col, int row)
{
    asm volatile(
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%2, %3}], [%1];" ::
            "l"(map),
        "r"(src), "r"(col), "r"(row)
        : "memory");
}

/* Into the second-level cache. */
__device__ __forceinline__ void box_ask(const CUtensorMap *map, int col, int row)
{
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(col),
                 "r"(row)
                 : "memory");
}

__device__ __forceinline__ void boxes_close()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* This thread's boxes but the last N groups have been read: their place may be written again. */
template <int N> __device__ __forceinline__ void boxes_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* All of this thread's boxes are in memory. */
__device__ __forceinline__ void boxes_wait()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* --- products -------------------------------------------------------------------------------- */

__device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_close()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* At most N groups of products are still under way. */
template <int N> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* What follows reads the sums after the wait, not before it. */
__device__ __forceinline__ void wgmma_sums_are_there(int (&d)[128])
{
#pragma unroll
    for (int i = 0; i < 128; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

__device__ __forceinline__ void wgmma_sums_are_there(float (&d)[128])
{
#pragma unroll
    for (int i = 0; i < 128; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* Rows of 128 bytes, swizzled over 1024, eight rows 1024 apart; `address` is a multiple of 1024, or
 * 32 bytes further for the next of K. */
__device__ __forceinline__ uint64_t matrix_at(uint32_t address)
{
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 |
           (address & 0x3ffff) >> 4;
}

/* clang-format off */
#define INT8_8(c, d, i) c(d[(i)]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3]), \
                        c(d[(i) + 4]), c(d[(i) + 5]), c(d[(i) + 6]), c(d[(i) + 7])
#define INT8_32(c, d, i) INT8_8(c, d, i), INT8_8(c, d, (i) + 8), \
                         INT8_8(c, d, (i) + 16), INT8_8(c, d, (i) + 24)
#define INT8_128(c, d) INT8_32(c, d, 0), INT8_32(c, d, 32), INT8_32(c, d, 64), INT8_32(c, d, 96)
#define INT8_D \
    "{%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, " \
    "%88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, " \
    "%104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, " \
    "%120, %121, %122, %123, %124, %125, %126, %127}"
/* clang-format on */

/* What the sums of operands are. */
template <typename IN> struct sum_of {
    using type = float;
};
template <> struct sum_of<int8_t> {
    using type = int;
};

/* d [64, 256] = (keep ? d : 0) + a [64, k] b [256, k]^T, 32 bytes of k: 32 I8 or E4M3, 16 BF16. */
template <typename IN>
__device__ __forceinline__ void wgmma(typename sum_of<IN>::type (&d)[128], uint64_t a, uint64_t b,
                                      int keep)
{
    if constexpr (sizeof(IN) == 2)
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " INT8_D
                     ", %128, %129, p, 1, 1, 0, 0;\n}\n"
                     : INT8_128("+f", d)
                     : "l"(a), "l"(b), "r"(keep));
    else if constexpr (std::is_same<IN, int8_t>::value)
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 " INT8_D
                     ", %128, %129, p;\n}\n"
                     : INT8_128("+r", d)
                     : "l"(a), "l"(b), "r"(keep));
    else
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 " INT8_D
                     ", %128, %129, p, 1, 1;\n}\n"
                     : INT8_128("+f", d)
                     : "l"(a), "l"(b), "r"(keep));
}

template <int REGISTERS> __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

} // namespace int8

#endif
