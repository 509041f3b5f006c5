/*
 * attention_int8.cu - attention with INT8 queries and keys, F16 weights and values
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   k' = k - mean(k), which adds a constant to a query's logits and so changes nothing;
 *           codes = round(x / scale), scale = max|x| / 127 over a group; s = q k'^T in s32;
 *           x = s q_scale k_scale (log2 units, the logit scale and log2 e are in q_scale);
 *           o = 2^(x - ref) v / sum 2^(x - ref)                      (SageAttention 1, 2)
 * Groups    of queries and keys that share a scale: attention_s8.cuh.
 * Plan      A block of 4 or 8 warps takes 128 or 256 queries of a head, a warp 32 of them. Queries
 *           are quantized here, once. Keys and values come 64 at a time by cp.async into two
 *           buffers; one barrier per tile. 64 or 80 KB of shared memory at head_dim 128.
 * Tricks    Exponentials of 16 keys run between the products of the 16 before.
 * Floor     32,760 queries x keys, 40 heads of 128: 11.0 T int8 and 11.0 T f16 operations, 4.3e10
 *           exponentials. On one H100 by mma.sync (about 62 % of the data sheet's rate): 9 + 18 =
 *           27 ms; exponentials at 16 per clock and SM: 11.6 ms, to be hidden; shared memory reads
 *           of 28 KB per 32 x 64 tile at 128 B per clock: 20 ms, likewise. With 8 warps the cache
 *           gives 64 GB, 1.6 TB/s.
 * GeForce   F16 products with F32 sums run at half rate there: has_f16_sums sums a tile's 64 keys
 *           in F16. The weights are kept so small that 64 max|v| 2^top < 65504 for each head. Each
 *           of the 4 roundings to F16 on the way loses at most 2^-11 of a tile's sum of p |v|, in
 *           all directions: 1e-3 of it together at the worst, beside 8e-3 that INT8 costs. Taking
 *           the sums into F32 is 4 instructions for 2 numbers, 256 a tile and warp. Where F32 sums
 *           run at full rate this is slower (58 ms on one H200, beside 45 with F32 sums).
 */
#include "attention_codes.cuh"
#include "attention_s8.cuh"

using namespace tile;

/* --- keys: mean, codes, scales --------------------------------------------------------------- */

/* max|v| of a head. Grid: heads; one warp. */
__global__ void k_attention_peak(const float *partial, int64_t chunks, int64_t width, int head_dim,
                                 float *peak)
{
    float most = 0;
    for (int64_t c = 0; c < chunks; c++)
        for (int i = (int)threadIdx.x; i < head_dim; i += 32)
            most = fmaxf(most, partial[c * width + blockIdx.x * head_dim + i]);
    most = cu_warp_max(most);
    if (threadIdx.x == 0)
        peak[blockIdx.x] = most;
}

/* Grid: tiles of 64 keys, heads. Warp t makes group t: keys 8 j + 2 t + b. */
template <int D> __global__ void __launch_bounds__(128) k_attention_quantize(lx_cu_kv kv)
{
    constexpr int LANES = D / 8, ROWS = 32 / LANES, STEPS = 16 / ROWS;
    int lane = threadIdx.x % 32, t = threadIdx.x / 32, head = (int)blockIdx.y;
    int64_t column = (int64_t)head * D + lane % LANES * 8, width = (int64_t)kv.n_heads * D;
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)kv.k + column;
    __shared__ TurnRow turns[KEYS];
    const bool is_raw = kv.turn.square != NULL;
    float x[STEPS][8], mean[8], most = 0;
    TurnLane by;
    for (int i = 0; i < 8; i++)
        mean[i] = kv.k_mean[column + i];
    if (is_raw) {
        const int64_t first = (int64_t)blockIdx.x * KEYS;
        by.begin(kv.turn, column);
        if (threadIdx.x < KEYS && first + threadIdx.x < kv.n)
            turns[threadIdx.x] = turn_row(kv.turn, first + threadIdx.x);
        __syncthreads();
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        int r = step * ROWS + lane / LANES;
        int64_t key = (int64_t)blockIdx.x * KEYS + r / 2 * 8 + 2 * t + r % 2;
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (key < kv.n)
            raw = *(const uint4 *)(k + key * kv.k_stride);
        widen8<__nv_bfloat16>(raw, x[step]);
        if (is_raw && key < kv.n)
            by.turn(turns[r / 2 * 8 + 2 * t + r % 2], x[step]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[step][i] = key < kv.n ? x[step][i] - mean[i] : 0;
            most = fmaxf(most, fabsf(x[step][i]));
        }
    }
    most = cu_warp_max(most);
    float inverse = most > 0 ? 127.0f / most : 0;
    if (lane == 0)
        kv.k_scale[((int64_t)head * gridDim.x + blockIdx.x) * LX_CU_ATTENTION_GROUPS + t] =
            most / 127.0f;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        int r = step * ROWS + lane / LANES;
        int64_t key = (int64_t)blockIdx.x * KEYS + r / 2 * 8 + 2 * t + r % 2;
        if (key < kv.n)
            *(uint2 *)(kv.codes + key * width + column) = codes_of(x[step], inverse);
    }
}

static int launch_peaks(lx_cuda_dev *dev, const lx_cu_kv *kv)
{
    int64_t width = (int64_t)kv->n_heads * kv->head_dim;
    int64_t chunks = cu_ceil_div(kv->n, (int64_t)LX_CU_ATTENTION_MEAN_ROWS);
    dim3 grid((unsigned)cu_ceil_div(width, (int64_t)COLUMNS * 8), (unsigned)chunks);
    k_attention_columns<__half, Peak><<<grid, COLUMNS, 0, dev->compute>>>(
        (const __half *)kv->v, kv->v_stride, kv->n, width, kv->partial);
    CU_TRY(cu_launched());
    k_attention_peak<<<(unsigned)kv->n_heads, 32, 0, dev->compute>>>(kv->partial, chunks, width,
                                                                     kv->head_dim, kv->v_peak);
    return cu_launched();
}

extern "C" int cu_attention_quantize(lx_cuda_dev *dev, const lx_cu_kv *kv)
{
    dim3 grid((unsigned)cu_ceil_div(kv->n, (int64_t)KEYS), (unsigned)kv->n_heads);
    if (kv->v_peak)
        CU_TRY(launch_peaks(dev, kv));
    CU_TRY(launch_key_mean(dev, kv));
    if (kv->head_dim == 128)
        k_attention_quantize<128><<<grid, 128, 0, dev->compute>>>(*kv);
    else
        k_attention_quantize<64><<<grid, 128, 0, dev->compute>>>(*kv);
    return cu_launched();
}

/* --- attention ------------------------------------------------------------------------------- */

/* How large weights may be: log2 of the largest, and where a new maximum starts. */
struct Bounds {
    float base, top;
};

__device__ __forceinline__ Bounds bounds_of(const float *v_peak, int head, bool has_f16_sums)
{
    if (!has_f16_sums)
        return {WEIGHT_BASE, WEIGHT_TOP};
    /* 64 weights times the largest value stay below 57,600. */
    float top = floorf(log2f(900.0f / v_peak[head]));
    top = fminf(fmaxf(top, -8.0f), 14.0f);
    return {top - 4, top};
}

template <int D, int WARPS, bool HAS_F16_SUMS>
__global__ void __launch_bounds__(WARPS * 32, WARPS == 4 ? 2 : 1)
    k_attention_int8(const __grid_constant__ lx_cu_attention a, Piece piece)
{
    constexpr int QUERIES = WARPS * 32, THREADS = WARPS * 32, K_BYTES = KEYS * D,
                  V_BYTES = 2 * K_BYTES;
    extern __shared__ __align__(1024) char shared[];
    const int head = piece.head + (int)blockIdx.y, n_k = (int)a.n_k,
              n_tiles = (n_k + KEYS - 1) / KEYS;
    const int64_t row0 = (int64_t)(piece.block + (int)blockIdx.x) * QUERIES;
    const uint32_t at_q = shared_address(shared), at_k = at_q + QUERIES * D,
                   at_v = at_k + 2 * K_BYTES;
    const int64_t k_stride = (int64_t)a.n_heads * D, v_stride = a.v_stride * 2;
    const char *k_from = (const char *)a.codes + head * D;
    const char *v_from = (const char *)a.v + head * D * 2;
    const float *k_scale = a.k_scale + (int64_t)head * n_tiles * LX_CU_ATTENTION_GROUPS;

    copy_tile<D, KEYS, THREADS>(at_k, k_from, k_stride, D, n_k);
    copy_tile<2 * D, KEYS, THREADS>(at_v, v_from, v_stride, 2 * D, n_k);
    copy_commit();
    float next_scale = k_scale[thread_now() % 4];
    const uint32_t q_row = thread_now() / 32 * 32;
    const float q_scale = quantize_queries<D>(a, head, row0 + q_row, shared + q_row * D);
    const Bounds bounds = bounds_of(a.v_peak, head, HAS_F16_SUMS);
    Rows<2, D> rows;
    rows.begin();

    for (int i = 0; i < n_tiles; i++) {
        const uint32_t k_now = i & 1 ? K_BYTES : 0, v_now = i & 1 ? V_BYTES : 0;
        float scale = q_scale * next_scale, shift = MAGIC * scale, add[4], s[2][8][4];
        const uint32_t q = rows_first<D>(at_q + thread_now() / 32 * 32 * D),
                       k = units_first<D>(at_k + k_now);
        copy_wait();
        __syncthreads(); /* tile i is there, and all warps are done with the other buffers */
        scores_int8<D>(s, q, k);
        if (i + 1 < n_tiles) {
            int left = n_k - (i + 1) * KEYS;
            k_from += KEYS * k_stride;
            v_from += KEYS * v_stride;
            k_scale += LX_CU_ATTENTION_GROUPS;
            copy_tile<D, KEYS, THREADS>(at_k + (K_BYTES - k_now), k_from, k_stride, D, left);
            copy_tile<2 * D, KEYS, THREADS>(at_v + (V_BYTES - v_now), v_from, v_stride, 2 * D,
                                            left);
            next_scale = k_scale[thread_now() % 4];
        }
        copy_commit();
        if (a.key_bias || (i + 1) * KEYS > n_k) {
            const Bend bends = {NULL, a.key_bias, (int)a.n_q, n_k};
            bend_scores(s, scale, shift, bends, (int)row0, i * KEYS);
            scale = 1;
            shift = 0;
        }
        rows.follow_maximum(s, scale, shift, bounds.base, bounds.top, add);
        if (HAS_F16_SUMS)
            rows.add_values_f16(s, scale, add, rows_first<2 * D>(at_v + v_now), piece.head);
        else
            rows.add_values(s, scale, add, rows_first<2 * D>(at_v + v_now), piece.head);
    }
    rows.store((__nv_bfloat16 *)a.out + (int64_t)head * D, a.out_stride,
               row0 + thread_now() / 32 * 32, a.n_q, D);
}

template <int D, int WARPS, bool HAS_F16_SUMS>
static int launch(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    constexpr int SHARED = D * (WARPS * 32 + 6 * KEYS);
    auto kernel = k_attention_int8<D, WARPS, HAS_F16_SUMS>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    return in_pieces(a, WARPS * 32, 1, [&](dim3 grid, Piece piece) {
        kernel<<<grid, WARPS * 32, SHARED, dev->compute>>>(*a, piece);
    });
}

template <int D> static int launch_for(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    if (a->has_f16_sums)
        return launch<D, 8, true>(dev, a);
    return a->rows_per_block == 256 ? launch<D, 8, false>(dev, a) : launch<D, 4, false>(dev, a);
}

extern "C" int cu_attention_int8(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    return a->head_dim == 128 ? launch_for<128>(dev, a) : launch_for<64>(dev, a);
}
