/*
 * attention_few.cu - cross-attention: many queries, few keys, BF16 queries and keys, F16 values
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       A prompt has some 130 keys: arithmetic is nothing, reading queries and writing results
 *           is all. attention_flash.cu begins a block for every 128 queries of a head and reads the
 *           keys anew each time: a quarter of the memory's rate on an H100.
 * Formula   that of attention_flash.cu, with its softmax (attention_tile.cuh, Rows).
 * Floors    32,760 queries, 127 keys, 40 heads of 128: 0.67 GB, 0.22 ms at 3 TB/s; products 0.14 ms
 *           of mma.sync's rate; shared memory 64 KB for 16 queries of a warp, 0.18 ms. A RTX 3060:
 *           1.9 ms of bytes.
 * Plan      A block stays on a multiprocessor and walks through heads and their queries; keys and
 *           values of a head lie in shared memory until the next head. 12 warps of 16 queries, each
 *           by itself: no barrier but at a new head. Queries come from memory into the registers
 *           that multiply them, the next ones while the last values are summed.
 * Orders    A lane has 16 bytes of a row: 8 channels 32 j + 8 t .. of each 32. In products these
 *           stand where mma.sync wants 2t, 2t + 1, 2t + 8, 2t + 9 of two steps of 16: the order of
 *           channels is free as long as keys have the same, and a lane's part of a key is 16 bytes
 *           as well. Values lie in an order by which a lane's sums are 8 channels side by side, so
 *           it stores 16 bytes.
 * Banks     Unit u of a key's row lies at u ^ 4 (row % 2): lanes read two rows, four units each. Of
 *           values' rows at u ^ (row % 8), as ldmatrix likes it.
 * Serves    heads of 128, keys that fit into shared memory (192 of 99 KB, 448 of a Hopper), biases
 *           of keys; raw queries that are not rotated. Queries beyond the last are read as the
 *           last, and not stored.
 * Registers 168 of 170, no word in memory for 8.6 and 9.0; 65 KiB of shared memory for 127 keys.
 * Measured  one H100, 32,760 queries, 40 heads: 77 keys 0.31 ms, 127 0.32 (2.1 TB/s), 384 0.84.
 *           In a step 0.44 ms for 126 tokens of a prompt, norm included, where attention_flash.cu
 *           took 1.0.
 */
#include "attention_tile.cuh"
#include "cu_row.cuh"

using namespace tile;

constexpr int WARPS = 12, THREADS = WARPS * 32, OF_WARP = 16, QUERIES = WARPS * OF_WARP;
static_assert(QUERIES == LX_CU_ATTENTION_FEW_QUERIES, "a unit");
constexpr int DIM = 128, ROW_BYTES = 2 * DIM, UNITS = ROW_BYTES / 16;
constexpr int PARTS = DIM / 32; /* of a row: 16 bytes of each lane of four */

/* Addresses in shared memory. */
struct Places {
    uint32_t k, v, bias, gain;
};

static __host__ __device__ constexpr int padded(int n_k)
{
    return (n_k + KEYS - 1) / KEYS * KEYS;
}

static __host__ __device__ constexpr int shared_bytes(int n_k)
{
    return padded(n_k) * (2 * ROW_BYTES + (int)sizeof(float)) + DIM * (int)sizeof(float);
}
static_assert(DIM == LX_CU_ATTENTION_FEW_DIM && shared_bytes(0) == LX_CU_ATTENTION_FEW_BYTES &&
                  shared_bytes(KEYS) - shared_bytes(0) == KEYS * LX_CU_ATTENTION_FEW_KEY_BYTES,
              "attention.c's limit");

__device__ __forceinline__ uint4 get_words(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

__device__ __forceinline__ void put_word(uint32_t at, uint32_t v)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}

/* --- a head's keys and values ---------------------------------------------------------------- */

/* Values' channel 32 J + 8 t + 2 i + e to place 32 J + 8 i + 2 t + e of its row. */
__device__ __forceinline__ void put_values(uint32_t row_at, uint32_t row, uint32_t unit,
                                           const uint4 &v)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        put_word(row_at + place<ROW_BYTES>(row, unit / 4 * 4 + i) * 16 + unit % 4 * 4, words[i]);
}

/* Keys and values of a head; zeros beyond the last, which weigh nothing by their bias. */
__device__ __forceinline__ void load_head(const lx_cu_attention &a, int head, const Places &at)
{
    const int n_k = (int)a.n_k, n = padded(n_k);
    const char *k = (const char *)a.k + head * ROW_BYTES, *v = (const char *)a.v + head * ROW_BYTES;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < n * UNITS; i += THREADS) {
        const uint32_t row = (uint32_t)(i / UNITS), unit = (uint32_t)(i % UNITS);
        const bool is_there = (int)row < n_k;
        const char *from = k + (is_there ? row * a.k_stride * 2 + unit * 16 : 0);
        uint4 values = make_uint4(0, 0, 0, 0);
        copy16(at.k + row * ROW_BYTES + (unit ^ (row & 1) << 2) * 16, from, is_there);
        if (is_there)
            values = *(const uint4 *)(v + row * a.v_stride * 2 + unit * 16);
        put_values(at.v + row * ROW_BYTES, row, unit, values);
    }
    for (int i = (int)threadIdx.x; i < DIM && a.turn.square; i += THREADS)
        put_word(at.gain + (uint32_t)i * 4,
                 __float_as_uint(cu_vec_at(a.turn.gain, (int64_t)head * DIM + i)));
    copy_commit();
    copy_wait();
}

/* In log2 units; once. */
__device__ __forceinline__ void load_bias(const lx_cu_attention &a, const Places &at)
{
    for (int i = (int)threadIdx.x; i < padded((int)a.n_k); i += THREADS) {
        const float bias = a.key_bias && i < a.n_k ? a.key_bias[i] * LOG2E : 0.0f;
        put_word(at.bias + (uint32_t)i * 4, __float_as_uint(i < a.n_k ? bias : -INFINITY));
    }
}

/* --- queries --------------------------------------------------------------------------------- */

/* A lane's part of rows g and g + 8 of its warp's 16: [part][row]. */
struct Queries {
    uint4 x[PARTS][2];
    float rstd[2];
};

/* This lane's first row of a block's queries; rows are below 2^30 (attention.c). */
__device__ __forceinline__ int first_row(int block)
{
    const int thread = (int)thread_now();
    return block * QUERIES + thread / 32 * OF_WARP + thread % 32 / 4;
}

__device__ __forceinline__ void ask_queries(const lx_cu_attention &a, int head, int block,
                                            Queries &q)
{
    const char *from = (const char *)a.q + head * ROW_BYTES + thread_now() % 4 * 16;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = min(first_row(block) + 8 * i, (int)a.n_q - 1);
        if (a.turn.square)
            q.rstd[i] = __ldg(a.turn.square + row);
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            q.x[part][i] =
                __ldcs((const uint4 *)(from + (int64_t)row * (int)(a.q_stride * 2) + part * 64));
    }
}

/* Raw queries: RMS norm and gain, rounded to BF16 as attention_turn.cuh does. */
__device__ __forceinline__ void turn_pair(uint32_t &pair, float rstd, uint32_t low, uint32_t high)
{
    const float a = __uint_as_float(pair << 16) * rstd * __uint_as_float(low),
                b = __uint_as_float(pair & 0xffff0000u) * rstd * __uint_as_float(high);
    pair = pack_bf16(a, b);
}

__device__ __forceinline__ void turn_queries(const lx_cu_attention &a, const Places &at, Queries &q)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        q.rstd[i] = __frsqrt_rn(q.rstd[i] / (float)a.turn.q.cols + a.turn.eps);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const uint32_t gain = at.gain + (uint32_t)part * 128 + thread_now() % 4 * 32;
        const uint4 low = get_words(gain), high = get_words(gain + 16);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            turn_pair(q.x[part][i].x, q.rstd[i], low.x, low.y);
            turn_pair(q.x[part][i].y, q.rstd[i], low.z, low.w);
            turn_pair(q.x[part][i].z, q.rstd[i], high.x, high.y);
            turn_pair(q.x[part][i].w, q.rstd[i], high.z, high.w);
        }
    }
}

/* --- 64 keys --------------------------------------------------------------------------------- */

/* Logits in log2 units of the 64 keys from `key` on. */
__device__ __forceinline__ void scores_of(const Queries &q, const Places &at, int key, float scale,
                                          float (&s)[1][8][4])
{
    const uint32_t lane = thread_now() % 32, row = lane / 4, unit = lane % 4;
    const uint32_t k = at.k + ((uint32_t)key + row) * ROW_BYTES + (unit ^ (row & 1) << 2) * 16,
                   bias = at.bias + (uint32_t)key * 4 + unit * 8;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const uint4 &low = q.x[part][0], &high = q.x[part][1];
        const uint32_t a[2][4] = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const uint4 b = get_words((k ^ (uint32_t)part * 64) + (uint32_t)n * 8 * ROW_BYTES);
            mma_bf16(s[0][n], a[0], b.x, b.y);
            mma_bf16(s[0][n], a[1], b.z, b.w);
        }
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
        float b[2];
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                     : "=f"(b[0]), "=f"(b[1])
                     : "r"(bias + (uint32_t)n * 32)
                     : "memory");
#pragma unroll
        for (int c = 0; c < 4; c++)
            s[0][n][c] = fmaf(s[0][n][c], scale, b[c % 2]);
    }
}

/* 8 channels a lane, of each 32. */
__device__ __forceinline__ void store_rows(const lx_cu_attention &a, int head, int block,
                                           const Rows<1, DIM> &rows)
{
    const int first = first_row(block);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float total = rows.sum[i];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const float factor = 1.0f / total;
        const int row = first + 8 * i;
        __nv_bfloat16 *const to = (__nv_bfloat16 *)a.out + (int64_t)row * (int)a.out_stride +
                                  (int64_t)head * DIM + thread_now() % 4 * 8;
        if (row >= (int)a.n_q)
            continue;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            uint32_t words[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                words[j] = pack_bf16(rows.o[0][4 * part + j][2 * i] * factor,
                                     rows.o[0][4 * part + j][2 * i + 1] * factor);
            *(uint4 *)(to + part * 32) = make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

/* --- the kernel ------------------------------------------------------------------------------ */

/* Of `blocks` blocks of queries a head, those numbered first .. end - 1 through all heads. */
struct Share {
    int blocks, first, end;
};

__global__ void __launch_bounds__(THREADS, 1)
    k_attention_few(const __grid_constant__ lx_cu_attention a, Share all)
{
    extern __shared__ __align__(1024) char shared[];
    const int n = padded((int)a.n_k);
    Places at;
    at.k = shared_address(shared);
    at.v = at.k + (uint32_t)(n * ROW_BYTES);
    at.bias = at.v + (uint32_t)(n * ROW_BYTES);
    at.gain = at.bias + (uint32_t)n * 4;
    const int64_t count = all.end - all.first;
    const int first = all.first + (int)(count * blockIdx.x / gridDim.x),
              end = all.first + (int)(count * (blockIdx.x + 1) / gridDim.x);
    int head = first / all.blocks, block = first % all.blocks;
    bool is_new = true;
    Queries q;
    if (first < end)
        ask_queries(a, head, block, q);
    load_bias(a, at);
    for (int left = end - first; left > 0; left--) {
        const bool is_last = block + 1 == all.blocks; /* of its head */
        if (is_new) {
            __syncthreads(); /* nobody reads the head before */
            load_head(a, head, at);
            __syncthreads();
        }
        Rows<1, DIM> rows;
        rows.begin();
        if (a.turn.square)
            turn_queries(a, at, q);
#pragma unroll 1
        for (int key = 0; key < n; key += KEYS) {
            float s[1][8][4] = {}, add[2];
            scores_of(q, at, key, a.scale * LOG2E, s);
            if (key + KEYS >= n && left > 1)
                ask_queries(a, head + is_last, is_last ? 0 : block + 1, q);
            rows.follow_maximum(s, 1, 0, WEIGHT_BASE, WEIGHT_TOP, add);
            /* all.first >= 0: a wall that the compiler cannot see through (Rows::add_values) */
            rows.add_values(s, 1, add, rows_first<ROW_BYTES>(at.v + (uint32_t)(key * ROW_BYTES)),
                            all.first);
        }
        store_rows(a, head, block, rows);
        head += is_last;
        block = is_last ? 0 : block + 1;
        is_new = is_last;
    }
}

extern "C" int cu_attention_few(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    const int64_t blocks = cu_ceil_div(a->n_q, (int64_t)QUERIES), all = blocks * a->n_heads;
    const int shared = shared_bytes((int)a->n_k);
    if (a->head_dim != DIM || a->rel || (a->turn.square && a->turn.head_dim) || all > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    CU_TRY(
        cudaFuncSetAttribute(k_attention_few, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    for (int64_t first = 0; first < all; first += a->units_per_launch) {
        const int64_t end = first + a->units_per_launch < all ? first + a->units_per_launch : all;
        const int64_t grid = end - first < dev->n_sm ? end - first : dev->n_sm;
        k_attention_few<<<(unsigned)grid, THREADS, (size_t)shared, dev->compute>>>(
            *a, Share{(int)blocks, (int)first, (int)end});
        CU_TRY(cu_launched());
    }
    return 0;
}
