/*
 * wgmma.cuh - Hopper's instructions: products of a warp group, bulk copies, barriers in memory
 * SPDX-License-Identifier: Apache-2.0
 *
 * Only sm_90a has them. LX_HAS_WGMMA is defined where they may be used: not in the code of other
 * cards, and nowhere in a build with LX2V_ARCH_MAX below 90.
 * Sums of m64n128: of warp w, lane 4 g + t, register 4 n + 2 r + c is row 16 w + 8 r + g, column
 * 8 n + 2 t + c.
 * Order     From the first product until wait() names its registers they belong to the tensor
 *           cores. wait() takes them as operands, so that the compiler moves no use before it.
 */
#ifndef WGMMA_CUH
#define WGMMA_CUH

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && LX2V_ARCH_MAX >= 90
#define LX_HAS_WGMMA 1
#endif

#ifdef LX_HAS_WGMMA
namespace wgmma
{

/* --- barriers in shared memory --------------------------------------------------------------- */

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/* What was initialised is seen by the copy engine too. */
__device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Arrive, and let the phase also wait for so many bytes. */
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

/* Until the phase of this parity is over. A new barrier is in phase 0: waiting for parity 1 passes
 * at once. */
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity)
{
    uint32_t is_over;
    do {
        asm volatile("{\n\t"
                     ".reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t"
                     "}"
                     : "=r"(is_over)
                     : "r"(bar), "r"(parity)
                     : "memory");
    } while (!is_over);
}

/* Are both over? Nobody waits. */
__device__ __forceinline__ bool barriers_passed(uint32_t a, uint32_t parity_a, uint32_t b,
                                                uint32_t parity_b)
{
    uint32_t are_over;
    asm volatile("{\n\t"
                 ".reg .pred p, q;\n\t"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                 "mbarrier.test_wait.parity.shared::cta.b64 q, [%3], %4;\n\t"
                 "and.pred p, p, q;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t"
                 "}"
                 : "=r"(are_over)
                 : "r"(a), "r"(parity_a), "r"(b), "r"(parity_b)
                 : "memory");
    return are_over;
}

/* bytes: a multiple of 16, as are both addresses. */
__device__ __forceinline__ void bulk_copy(uint32_t dst, const void *src, uint32_t bytes,
                                          uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(bar)
                 : "memory");
}

/* --- barriers of some warps ------------------------------------------------------------------ */

__device__ __forceinline__ void named_sync(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Ordinary stores of this thread to shared memory are seen by the tensor cores after the next
 * barrier. */
__device__ __forceinline__ void stores_to_operands()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int N> __device__ __forceinline__ void registers_up()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void registers_down()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* --- products -------------------------------------------------------------------------------- */

/* clang-format off */
#define WG_8(c, d, i) c(d[(i)]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3]), \
                      c(d[(i) + 4]), c(d[(i) + 5]), c(d[(i) + 6]), c(d[(i) + 7])
#define WG_16(c, d, i) WG_8(c, d, i), WG_8(c, d, (i) + 8)
#define WG_32(c, d, i) WG_16(c, d, i), WG_16(c, d, (i) + 16)
#define WG_64(c, d) WG_32(c, d, 0), WG_32(c, d, 32)
#define WG_D64                                                                                    \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                     \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "            \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "            \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
/* clang-format on */

/* Registers that ordinary instructions wrote are ready for what follows. */
__device__ __forceinline__ void fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* All but the LEFT newest groups are done, and with them these sums. */
template <int LEFT> __device__ __forceinline__ void wait(int (&d)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned %64;" : WG_64("+r", d) : "n"(LEFT) : "memory");
}

/* All groups are done. f has been computed before. */
__device__ __forceinline__ void wait_all(float (&d)[64], float (&f)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" : WG_64("+f", d), WG_64("+f", f)::"memory");
}

/* The same; of f the first 24 or 40 have been computed. */
template <int FIRST> __device__ __forceinline__ void wait_all_after(float (&d)[64], float (&f)[64])
{
    static_assert(FIRST == 24 || FIRST == 40, "as many operands as that");
    if constexpr (FIRST == 24)
        asm volatile("wgmma.wait_group.sync.aligned 0;"
                     : WG_64("+f", d), WG_16("+f", f, 0), WG_8("+f", f, 16)::"memory");
    else
        asm volatile("wgmma.wait_group.sync.aligned 0;"
                     : WG_64("+f", d), WG_32("+f", f, 0), WG_8("+f", f, 32)::"memory");
}

__device__ __forceinline__ void wait_all(float (&d)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" : WG_64("+f", d)::"memory");
}

/* By now d has been computed, which the compiler might put off. */
__device__ __forceinline__ void taken(float (&d)[64])
{
    asm volatile("" : WG_64("+f", d));
}

/* d = a b^T (+ d if add): 64 x 32 and 128 x 32 INT8, both in shared memory. */
__device__ __forceinline__ void mma_s8(int (&d)[64], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n\t"
                 ".reg .pred p;\n\t"
                 "setp.ne.b32 p, %66, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " WG_D64 ", %64, %65, p;\n\t"
                 "}"
                 : WG_64("+r", d)
                 : "l"(a), "l"(b), "r"((int)add));
}

/* d = a b^T (+ d if add): a 64 x 32 E4M3 in registers, b 128 x 32 in shared memory. */
__device__ __forceinline__ void mma_e4m3(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint64_t b, bool add)
{
    asm volatile("{\n\t"
                 ".reg .pred p;\n\t"
                 "setp.ne.b32 p, %69, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " WG_D64
                 ", {%64, %65, %66, %67}, %68, p, 1, 1;\n\t"
                 "}"
                 : WG_64("+f", d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"((int)add));
}

/* d += a b^T: a 64 x 16 F16 in registers, b 128 x 16 in shared memory. */
__device__ __forceinline__ void mma_f16(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint64_t b)
{
    asm volatile("{\n\t"
                 ".reg .pred p;\n\t"
                 "setp.ne.b32 p, %69, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 " WG_D64
                 ", {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n\t"
                 "}"
                 : WG_64("+f", d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(1));
}

} // namespace wgmma
#endif

#endif
