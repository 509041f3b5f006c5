/*
 * attention_flash.cu - attention with BF16 queries and keys, F16 weights and values
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   x = scale log2 e q k^T + (rel + key_bias) log2 e;  o = 2^(x - ref) v / sum 2^(x - ref)
 *           Logits and sums in F32: UMT5's logits are unscaled and reach hundreds.
 * Shapes    head_dim 8, 16, ... 128, filled up with zeros in shared memory to 32, 64 or 128.
 * Plan      As attention_int8.cu: 4 warps of 32 queries, keys and values 64 at a time in two
 *           buffers. 96 KB of shared memory at head_dim 128: two blocks per H100 SM, one elsewhere.
 * Floor     32,760 x 32,760, 40 heads of 128: 22 TFLOP; mma.sync on one H100 gives about 610
 *           TFLOP/s: 36 ms. FlashAttention-2, the same kind of kernel, is published at 340: 65 ms.
 */
#include "attention_codes.cuh"
#include "attention_tile.cuh"

using namespace tile;

constexpr int WARPS = 4, THREADS = WARPS * 32, QUERIES = WARPS * 32;

/* Raw queries, which have landed in shared memory: normalised and rotated where they are. */
template <int D>
__device__ __forceinline__ void turn_queries(const lx_cu_attention &a, int head, int64_t row0,
                                             char *shared)
{
    constexpr int ROW_BYTES = 2 * D, UNITS = ROW_BYTES / 16;
    const int unit = (int)threadIdx.x % UNITS, column = unit * 8;
    TurnLane by;
    if (column >= a.head_dim)
        return;
    by.begin(a.turn, (int64_t)head * a.head_dim + column);
#pragma unroll 8
    for (int row = (int)threadIdx.x / UNITS; row < QUERIES; row += THREADS / UNITS) {
        if (row0 + row >= a.n_q)
            continue;
        uint4 *at = (uint4 *)(shared + row * ROW_BYTES +
                              place<ROW_BYTES>((uint32_t)row, (uint32_t)unit) * 16);
        float x[8];
        widen8<__nv_bfloat16>(*at, x);
        by.turn(turn_row(a.turn, row0 + row), x);
        *at = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                         pack_bf16(x[6], x[7]));
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    k_attention_flash(const __grid_constant__ lx_cu_attention a, Piece piece)
{
    constexpr int ROW_BYTES = 2 * D, TILE_BYTES = KEYS * ROW_BYTES;
    extern __shared__ __align__(1024) char shared[];
    const int head = piece.head + (int)blockIdx.y, n_k = (int)a.n_k,
              n_tiles = (n_k + KEYS - 1) / KEYS, row_bytes = a.head_dim * 2;
    const int64_t row0 = (int64_t)(piece.block + (int)blockIdx.x) * QUERIES;
    const uint32_t at_q = shared_address(shared), at_k = at_q + QUERIES * ROW_BYTES,
                   at_v = at_k + 2 * TILE_BYTES;
    const int64_t q_stride = a.q_stride * 2, k_stride = a.k_stride * 2, v_stride = a.v_stride * 2;
    const int64_t column = (int64_t)head * row_bytes; /* the same in q, k and v */
    const char *k_from = (const char *)a.k + column, *v_from = (const char *)a.v + column;

    copy_tile<ROW_BYTES, QUERIES, THREADS>(at_q, (const char *)a.q + column + row0 * q_stride,
                                           q_stride, row_bytes,
                                           (int)min(a.n_q - row0, (int64_t)QUERIES));
    copy_tile<ROW_BYTES, KEYS, THREADS>(at_k, k_from, k_stride, row_bytes, n_k);
    copy_tile<ROW_BYTES, KEYS, THREADS>(at_v, v_from, v_stride, row_bytes, n_k);
    copy_commit();
    const float *rel = a.rel ? a.rel + head * (a.n_q + a.n_k - 1) : NULL;
    const float logit_scale = a.scale * LOG2E;
    Rows<2, D> rows;
    if (a.turn.square) {
        copy_wait();
        __syncthreads();
        turn_queries<D>(a, head, row0, shared); /* seen by all after the loop's barrier */
    }
    rows.begin();

    for (int i = 0; i < n_tiles; i++) {
        const uint32_t now = i & 1 ? TILE_BYTES : 0;
        float scale = logit_scale, add[4], s[2][8][4] = {};
        const uint32_t q = rows_first<ROW_BYTES>(at_q + thread_now() / 32 * 32 * ROW_BYTES),
                       k = units_first<ROW_BYTES>(at_k + now);
        copy_wait();
        __syncthreads(); /* tile i is there, and all warps are done with the other buffers */
        scores_bf16<2, 8, D / 16, ROW_BYTES>(s, q, k, piece.head);
        if (i + 1 < n_tiles) {
            int left = n_k - (i + 1) * KEYS;
            k_from += KEYS * k_stride;
            v_from += KEYS * v_stride;
            copy_tile<ROW_BYTES, KEYS, THREADS>(at_k + (TILE_BYTES - now), k_from, k_stride,
                                                row_bytes, left);
            copy_tile<ROW_BYTES, KEYS, THREADS>(at_v + (TILE_BYTES - now), v_from, v_stride,
                                                row_bytes, left);
        }
        copy_commit();
        if (rel || a.key_bias || (i + 1) * KEYS > n_k) {
            const Bend bends = {rel, a.key_bias, (int)a.n_q, n_k};
            bend_scores(s, scale, 0, bends, (int)(row0 + thread_now() / 32 * 32), i * KEYS);
            scale = 1;
        }
        rows.follow_maximum(s, scale, 0, WEIGHT_BASE, WEIGHT_TOP, add);
        rows.add_values(s, scale, add, rows_first<ROW_BYTES>(at_v + now), piece.head);
    }
    rows.store((__nv_bfloat16 *)a.out + (int64_t)head * a.head_dim, a.out_stride,
               row0 + thread_now() / 32 * 32, a.n_q, a.head_dim);
}

template <int D> static int launch(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    constexpr int SHARED = 2 * D * (QUERIES + 4 * KEYS);
    CU_TRY(cudaFuncSetAttribute(k_attention_flash<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                SHARED));
    return in_pieces(a, QUERIES, 1, [&](dim3 grid, Piece piece) {
        k_attention_flash<D><<<grid, THREADS, SHARED, dev->compute>>>(*a, piece);
    });
}

extern "C" int cu_attention_flash(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    return a->head_dim <= 32   ? launch<32>(dev, a)
           : a->head_dim <= 64 ? launch<64>(dev, a)
                               : launch<128>(dev, a);
}
