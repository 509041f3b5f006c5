/*
 * attention_fp8.cu - attention with INT8 queries and keys, FP8 weights and values, by mma.sync
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   that of attention_int8.cu; v = v_scale codes + v_shift (attention_tiles.cu), weights
 *           p = 2^(x - ref) in E4M3 with ref = maximum - 8.807, so that p <= 448; their sum is that
 *           of the unrounded ones.
 * Cards     8.9 and later: RTX 40 and RTX 50. Hopper has attention_wgmma.cu, and code for it here
 *           only to be tested: it multiplies FP8 by widening it to F16.
 * Plan      A block of 8 warps takes 256 queries of a head, a warp 32 of them. Keys and values come
 *           as the images of attention_image.h, 128 keys each, by plain copies into two buffers:
 *           their rows of 128 bytes are swizzled as ldmatrix wants them here too. 64 keys at a time
 *           are multiplied; one barrier for 128.
 * Sums      FP8 products keep about 14 bits of an F32 sum (SageAttention 2, 4.4), so 64 keys are
 *           summed afresh and added to o in F32; o is scaled by the same instruction.
 *           has_f16_sums: those 64 are summed in F16, at twice the rate on GeForce cards. Values
 *           then go up to 2.25 instead of 448: 448 * 2.25 * 64 = 64,512 < 65,504. A module
 *           made by CUDA before 12.8 sums in F32 all the same.
 * Shared    queries 32 KB, two buffers of 32 KB: 96 KB, one block per SM.
 * Floors    32,760 x 32,760, 40 heads of 128: 11.0 T INT8 and 11.0 T FP8 operations, 4.3e10
 *           exponentials. RTX 4090 (660 T INT8, 330 T FP8 with F32 sums, 660 with F16 ones): 17 +
 *           33 ms, with F16 sums 17 + 17; exponentials at 16 per clock and SM 8.4 ms; shared
 *           memory 16 KB a tile of 32 x 64 for keys and values and 4 for queries: 20 KB at 128 B a
 *           clock, 2.1e7 tiles on 128 SMs: 10.4 ms. All but products are to be hidden by the other
 *           warps.
 */
#include "attention_image.h"
#include "attention_s8.cuh"

using namespace tile;

constexpr int DIM = 128, WARPS = 8, QUERIES = WARPS * 32, THREADS = WARPS * 32;
constexpr int OPERAND = LX_CU_IMAGE_OPERAND;
constexpr int SHARED = QUERIES * DIM + 4 * OPERAND;

#ifdef LX_HAS_FP8_MMA

constexpr float FP8_TOP = 8.807f; /* log2 448 */

/* --- products -------------------------------------------------------------------------------- */

/* c (+)= a b, 16 x 32 and 32 x 8. */
__device__ __forceinline__ void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1, bool add)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                   "f"(add ? c[0] : 0.0f), "f"(add ? c[1] : 0.0f), "f"(add ? c[2] : 0.0f),
                   "f"(add ? c[3] : 0.0f));
}

#ifdef LX_HAS_FP8_MMA_F16
__device__ __forceinline__ void mma_e4m3(uint32_t (&c)[2], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1, bool add)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0, %1}, "
                 "{%2, %3, %4, %5}, {%6, %7}, {%8, %9};"
                 : "=r"(c[0]), "=r"(c[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                   "r"(add ? c[0] : 0), "r"(add ? c[1] : 0));
}
#endif

/* Sums of one tile of m16n8 over 64 keys: numbers 0 .. 3. */
struct F32Sums {
    float c[4];

    __device__ __forceinline__ float at(int i) const { return c[i]; }
};

template <bool IS_F16> struct SumsOf {
    using type = F32Sums;
};

#ifdef LX_HAS_FP8_MMA_F16
struct F16Sums {
    uint32_t c[2];

    __device__ __forceinline__ float at(int i) const
    {
        __half2 pair;
        memcpy(&pair, &c[i / 2], sizeof pair);
        return i % 2 ? __high2float(pair) : __low2float(pair);
    }
};

template <> struct SumsOf<true> {
    using type = F16Sums;
};
#endif

/* --- softmax --------------------------------------------------------------------------------- */

struct Fp8Rows : Rows<2, DIM> {
    float factor[4]; /* what the last move of ref multiplies older sums by */

    /* ref follows every tile's maximum: scaling o costs nothing, as it is added to anyway. add:
     * what to add to s scale to get log2 p. */
    __device__ __forceinline__ void follow_always(const float (&s)[2][8][4], float scale,
                                                  float shift, float (&add)[4])
    {
        float most[4];
        largest(s, scale, shift, most);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float to = fmaxf(ref[i], most[i] - FP8_TOP);
            factor[i] = exp2_fast(ref[i] - to);
            ref[i] = to;
            sum[i] *= factor[i];
            add[i] = -(to + shift);
        }
    }

    /* Register `reg` of the A operand for keys 32 step .. 32 step + 31, tile mt: a row's weights of
     * keys 2t, 2t + 1, 8 + 2t, 9 + 2t of 16, which the images have side by side. */
    __device__ __forceinline__ uint32_t weights8(const float (&s)[2][8][4], float scale,
                                                 const float (&add)[4], int step, int mt, int reg)
    {
        int slot = 2 * mt + reg % 2, n = 4 * step + reg / 2 * 2, c = reg % 2 * 2;
        float p[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            p[i] = exp2_fast(fmaf(s[mt][n + i / 2][c + i % 2], scale, add[slot]));
            sum[slot] += p[i];
        }
        return pack_e4m3(p[0], p[1], p[2], p[3]);
    }

    /* o = o factor + p v over 64 keys. v: units_first of an image's rows, half chosen. wall: as for
     * Rows::add_values. */
    template <typename Sums>
    __device__ __forceinline__ void add_values(const uint32_t (&p)[2][2][4], uint32_t v, int wall)
    {
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            if (n % 4 == 0 && wall == -1 - n)
                break;
            Sums part[2][2];
#pragma unroll
            for (int step = 0; step < 2; step++) {
                uint32_t b[4];
                ldmatrix(b, (v ^ step * 32) + n * 16 * LX_CU_IMAGE_KEYS);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    mma_e4m3(part[i / 2][i % 2].c, p[step][i / 2], b[i % 2 * 2], b[i % 2 * 2 + 1],
                             step > 0);
            }
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int mt = i / 8, half = i / 4 % 2, c = i % 4;
                float &to = o[mt][2 * n + half][c];
                to = fmaf(to, factor[2 * mt + c / 2], part[mt][half].at(c));
            }
        }
    }

    /* Rows row0 + 16 mt + 8 r + g below n_q of a head. */
    __device__ __forceinline__ void store8(const lx_cu_attention &a, int head, int64_t row0)
    {
        const int lane = (int)thread_now() % 32, column = head * DIM + lane % 4 * 2;
        const float *v_scale = a.v_scale + column, *v_shift = a.v_shift + column;
        float by[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float total = sum[i];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            by[i] = 1.0f / total;
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const float2 unit = *(const float2 *)(v_scale + n * 8),
                         shift = *(const float2 *)(v_shift + n * 8);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int64_t row = row0 + 8 * i + lane / 4;
                float low = fmaf(o[i / 2][n][i % 2 * 2] * by[i], unit.x, shift.x),
                      high = fmaf(o[i / 2][n][i % 2 * 2 + 1] * by[i], unit.y, shift.y);
                if (row < a.n_q)
                    *(uint32_t *)((__nv_bfloat16 *)a.out + row * a.out_stride + column + n * 8) =
                        pack_bf16(low, high);
            }
        }
    }
};

/* --- the walk -------------------------------------------------------------------------------- */

/* This thread's part of an image of keys and one of their values: the same places in shared memory.
 */
__device__ __forceinline__ void fetch(uint32_t to, const uint8_t *k, const uint8_t *v)
{
    const uint32_t at = thread_now() * 16;
#pragma unroll
    for (int i = 0; i < OPERAND / (THREADS * 16); i++) {
        copy16(to + at + i * THREADS * 16, k + at + i * THREADS * 16, true);
        copy16(to + at + OPERAND + i * THREADS * 16, v + at + i * THREADS * 16, true);
    }
}

/* This lane's scale of keys 64 tile .. 64 tile + 63. */
__device__ __forceinline__ float scale_of(const uint8_t *k_images, int tile)
{
    const uint8_t *image = k_images + (int64_t)(tile / 2) * LX_CU_IMAGE_K_BYTES;
    return *(const float *)(image + lx_cu_image_scale_at(tile % 2 * 4 + (int)(thread_now() % 4)));
}

template <bool HAS_F16_SUMS>
__global__ void __launch_bounds__(THREADS, 1)
    k_attention_fp8(const __grid_constant__ lx_cu_attention a, Piece piece)
{
    extern __shared__ __align__(1024) char shared[];
    const int head = piece.head + (int)blockIdx.y, n_k = (int)a.n_k,
              n_tiles = (n_k + KEYS - 1) / KEYS, n_images = (n_tiles + 1) / 2;
    const int64_t row0 = (int64_t)(piece.block + (int)blockIdx.x) * QUERIES;
    const uint32_t at_q = shared_address(shared), at_k = at_q + QUERIES * DIM;
    const uint8_t *k_images = a.k_images + (int64_t)head * n_images * LX_CU_IMAGE_K_BYTES;
    const uint8_t *v_images = a.v_images + (int64_t)head * n_images * OPERAND;

    fetch(at_k, k_images, v_images);
    copy_commit();
    float next_scale = scale_of(k_images, 0);
    const uint32_t q_row = thread_now() / 32 * 32;
    const float q_scale = quantize_queries<DIM>(a, head, row0 + q_row, shared + q_row * DIM);
    Fp8Rows rows;
    rows.begin();

#pragma unroll 1
    for (int i = 0; i < n_tiles; i++) {
        const uint32_t now = at_k + (i & 2 ? 2 * OPERAND : 0), half = (uint32_t)i & 1;
        float scale = q_scale * next_scale, shift = MAGIC * scale, add[4], s[2][8][4];
        uint32_t p[2][2][4];
        if (!half) {
            copy_wait();
            __syncthreads(); /* the image is there, and all warps are done with the other buffer */
            if (i + 2 < n_tiles)
                fetch(at_k + (i & 2 ? 0 : 2 * OPERAND),
                      k_images + (int64_t)(i / 2 + 1) * LX_CU_IMAGE_K_BYTES,
                      v_images + (int64_t)(i / 2 + 1) * OPERAND);
            copy_commit();
        }
        scores_int8<DIM>(s, rows_first<DIM>(at_q + thread_now() / 32 * 32 * DIM),
                         units_first<DIM>(now + half * KEYS * DIM));
        next_scale = scale_of(k_images, i + 1 < n_tiles ? i + 1 : i);
        if ((i + 1) * KEYS > n_k) {
            const Bend bends = {NULL, NULL, (int)a.n_q, n_k};
            bend_scores(s, scale, shift, bends, (int)row0, i * KEYS);
            scale = 1;
            shift = 0;
        }
        rows.follow_always(s, scale, shift, add);
#pragma unroll
        for (int w = 0; w < 16; w++)
            p[w / 8][w / 4 % 2][w % 4] = rows.weights8(s, scale, add, w / 8, w / 4 % 2, w % 4);
        rows.add_values<typename SumsOf<HAS_F16_SUMS>::type>(
            p, units_first<LX_CU_IMAGE_KEYS>(now + OPERAND) ^ half * 64, piece.head);
    }
    rows.store8(a, head, row0 + thread_now() / 32 * 32);
}

#else

/* In code for older cards, where nobody calls it: attention.c asks lx_card_has_fp8, and a card
 * counts as what its code was built for (lx_card_hold_to_archs). */
template <bool HAS_F16_SUMS>
__global__ void k_attention_fp8(const __grid_constant__ lx_cu_attention, Piece)
{
    __trap();
}

#endif

template <bool HAS_F16_SUMS> static int launch(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    auto kernel = k_attention_fp8<HAS_F16_SUMS>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    return in_pieces(a, QUERIES, 1, [&](dim3 grid, Piece piece) {
        kernel<<<grid, THREADS, SHARED, dev->compute>>>(*a, piece);
    });
}

extern "C" int cu_attention_fp8(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    return a->has_f16_sums ? launch<true>(dev, a) : launch<false>(dev, a);
}
