/*
 * attention_wide.cu - attention for heads wider than 128: the VAE's one head of 384
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   that of attention_flash.cu
 * Shapes    head_dim 8, 16, ... 512, filled up with zeros to a multiple of 64 (q k^T) and 128 (v)
 * Plan      A block of 4 warps takes 64 queries and 128 of the head's columns; q k^T, which needs
 *           all columns, is computed again for each slice of 128. A warp has 16 queries. They stay
 *           in shared memory; keys come in pieces of 64 keys x 64 columns through two buffers,
 *           values 64 x 128 into one, which is free while q k^T is computed. 80 KB at 384.
 * Floor     n = 6,240, 384 columns: 120 GFLOP with the repetition (60 without), 98 x 3 blocks; 21
 *           frames at mma.sync's 610 TFLOP/s of one H100: 4.1 ms; wanted <= 30 ms.
 */
#include "attention_tile.cuh"

using namespace tile;

constexpr int WARPS = 4, THREADS = WARPS * 32, QUERIES = WARPS * 16;
constexpr int PIECE = 64, SLICE = 128; /* columns */
constexpr int K_BYTES = KEYS * PIECE * 2, V_BYTES = KEYS * SLICE * 2;
constexpr int Q_BYTES = QUERIES * PIECE * 2; /* of one piece */

__global__ void __launch_bounds__(THREADS, 2)
    k_attention_wide(const __grid_constant__ lx_cu_attention a, Piece piece)
{
    extern __shared__ __align__(1024) char shared[];
    const int n_slices = (a.head_dim + SLICE - 1) / SLICE,
              n_pieces = (a.head_dim + PIECE - 1) / PIECE;
    const int block = piece.block + (int)blockIdx.x, slice = block % n_slices;
    const int head = piece.head + (int)blockIdx.y, n_k = (int)a.n_k,
              n_tiles = (n_k + KEYS - 1) / KEYS, row_bytes = a.head_dim * 2,
              slice_bytes = row_bytes - slice * SLICE * 2;
    const int64_t row0 = (int64_t)(block / n_slices) * QUERIES;
    const uint32_t at_k = shared_address(shared), at_v = at_k + 2 * K_BYTES, at_q = at_v + V_BYTES;
    const int64_t q_stride = a.q_stride * 2, k_stride = a.k_stride * 2, v_stride = a.v_stride * 2;
    const int64_t column = (int64_t)head * row_bytes;
    const char *q_from = (const char *)a.q + column + row0 * q_stride;
    const char *k_from = (const char *)a.k + column;
    const char *v_from = (const char *)a.v + column + slice * SLICE * 2;

    for (int p = 0; p < n_pieces; p++)
        copy_tile<PIECE * 2, QUERIES, THREADS>(at_q + p * Q_BYTES, q_from + p * PIECE * 2, q_stride,
                                               row_bytes - p * PIECE * 2,
                                               (int)min(a.n_q - row0, (int64_t)QUERIES));
    copy_tile<PIECE * 2, KEYS, THREADS>(at_k, k_from, k_stride, row_bytes, n_k);
    copy_commit();
    const float *rel = a.rel ? a.rel + head * (a.n_q + a.n_k - 1) : NULL;
    const uint32_t warp_row = thread_now() / 32 * 16;
    uint32_t now = 0; /* the buffer of keys to read */
    Rows<1, SLICE> rows;
    rows.begin();

    for (int i = 0; i < n_tiles; i++) {
        float scale = a.scale * LOG2E, add[2], s[1][8][4] = {};
        int left = n_k - i * KEYS;
        for (int p = 0; p < n_pieces; p++) {
            copy_wait();
            __syncthreads(); /* piece p is there; all are done with the other buffer, and at p = 0
                                with the values */
            if (p == 0)
                copy_tile<SLICE * 2, KEYS, THREADS>(at_v, v_from + i * (KEYS * v_stride), v_stride,
                                                    slice_bytes, left);
            bool is_last = p + 1 == n_pieces;
            int next = is_last ? 0 : p + 1;
            if (!is_last || i + 1 < n_tiles)
                copy_tile<PIECE * 2, KEYS, THREADS>(
                    at_k + (K_BYTES - now),
                    k_from + (i + is_last) * (KEYS * k_stride) + next * PIECE * 2, k_stride,
                    row_bytes - next * PIECE * 2, left - (is_last ? KEYS : 0));
            copy_commit();
            scores_bf16<1, 8, PIECE / 16, PIECE * 2>(
                s, rows_first<PIECE * 2>(at_q + p * Q_BYTES + warp_row * PIECE * 2),
                units_first<PIECE * 2>(at_k + now), piece.head);
            now = K_BYTES - now;
        }
        if (rel || a.key_bias || left < KEYS) {
            const Bend bends = {rel, a.key_bias, (int)a.n_q, n_k};
            bend_scores(s, scale, 0, bends, (int)(row0 + warp_row), i * KEYS);
            scale = 1;
        }
        rows.follow_maximum(s, scale, 0, WEIGHT_BASE, WEIGHT_TOP, add);
        if (n_pieces == 1) { /* the values have not been waited for */
            copy_wait();
            __syncthreads();
        }
        rows.add_values(s, scale, add, rows_first<SLICE * 2>(at_v), piece.head);
    }
    rows.store((__nv_bfloat16 *)a.out + (int64_t)head * a.head_dim + slice * SLICE, a.out_stride,
               row0 + warp_row, a.n_q, slice_bytes / 2);
}

extern "C" int cu_attention_wide(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    int n_pieces = (a->head_dim + PIECE - 1) / PIECE;
    int shared = 2 * K_BYTES + V_BYTES + n_pieces * Q_BYTES;
    CU_TRY(cudaFuncSetAttribute(k_attention_wide, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared));
    return in_pieces(a, QUERIES, (a->head_dim + SLICE - 1) / SLICE, [&](dim3 grid, Piece piece) {
        k_attention_wide<<<grid, THREADS, shared, dev->compute>>>(*a, piece);
    });
}
