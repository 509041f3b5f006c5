/*
 * attention_tiles.cu - keys and values into the images that attention in FP8 and on Hopper reads
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   k' = k - mean(k), codes = round(k' / scale), scale = max|k'| / 127 over the 16 keys of
 *           a group; FP8: v_scale = max|v| / v_top over all keys of a channel (448, or 2.25
 *           where they are summed in F16), codes = e4m3(v / v_scale); F16: as they are.
 *           (SageAttention 2; its second part for the sums in F16)
 * Shift     v_shift = mean(v - v_scale codes) of a channel. As weights sum to 1 it may be added to
 *           every result, and what rounding took from values then cancels as far as weights are
 *           even: normal q, k, v, 4,096 keys, relative L2 0.038 without and 0.035 with it.
 * Images    attention_image.h; those of keys and values that do not exist are zeros.
 * Raw keys  are normalised and rotated on their way, in both passes: attention_turn.cuh.
 * Floor     32,760 keys, 40 heads of 128, one H100 at 3.35 TB/s: k read twice, codes written: 0.25
 *           ms; v read and written in F16 0.20 ms, read twice and written in FP8 0.25 ms. Rotating
 *           takes about 60 instructions for 8 numbers: 0.06 ms a pass at 2.5 a clock.
 * Tried     on one H100, FP8, 0.67 ms (raw 0.85): a head's second reading soon after its first, so
 *           that it comes from the cache (one kernel whose blocks take sums of one head and images
 *           of the one before by turns, 0.67 to 1.03: telling each other what is done takes more
 *           than the reading saves); and all heads of a tile beside each other, with twice the
 *           threads for the sums (0.65, raw 0.93).
 */
#include "attention_codes.cuh"
#include "attention_image.h"

constexpr int TILE = LX_CU_IMAGE_KEYS, DIM = LX_CU_IMAGE_CHANNELS, THREADS = 256;

/* Grid: tiles, heads. Warp w makes group w: 16 keys. 16 lanes share a key. */
__global__ void __launch_bounds__(THREADS) k_attention_key_images(lx_cu_kv kv)
{
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32, channel = lane % 16 * 8;
    const int64_t head = blockIdx.y, first = (int64_t)blockIdx.x * TILE;
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)kv.k + head * DIM + channel;
    uint8_t *image = kv.k_images + (head * gridDim.x + blockIdx.x) * LX_CU_IMAGE_K_BYTES;
    __shared__ TurnRow turns[TILE];
    const bool is_raw = kv.turn.square != NULL;
    float x[8][8], mean[8], most = 0;
    TurnLane by;
    for (int i = 0; i < 8; i++)
        mean[i] = kv.k_mean[head * DIM + channel + i];
    if (is_raw) {
        by.begin(kv.turn, head * DIM + channel);
        if (threadIdx.x < TILE && first + threadIdx.x < kv.n)
            turns[threadIdx.x] = turn_row(kv.turn, first + threadIdx.x);
        __syncthreads();
    }
#pragma unroll
    for (int step = 0; step < 8; step++) {
        int key = group / 4 * 64 + step * 8 + group % 4 * 2 + lane / 16;
        bool is_there = first + key < kv.n;
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (is_there)
            raw = *(const uint4 *)(k + (first + key) * kv.k_stride);
        widen8<__nv_bfloat16>(raw, x[step]);
        if (is_raw && is_there)
            by.turn(turns[key], x[step]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[step][i] = is_there ? x[step][i] - mean[i] : 0;
            most = fmaxf(most, fabsf(x[step][i]));
        }
    }
    most = cu_warp_max(most);
    float inverse = most > 0 ? 127.0f / most : 0;
    if (lane == 0)
        *(float *)(image + lx_cu_image_scale_at(group)) = most / 127.0f;
#pragma unroll
    for (int step = 0; step < 8; step++) {
        int key = group / 4 * 64 + step * 8 + group % 4 * 2 + lane / 16;
        *(uint2 *)(image + lx_cu_image_key_at(key, channel)) = codes_of(x[step], inverse);
    }
}

/* 16 bytes of an image: 8 F16 values, or 16 in FP8, of one channel and successive places. */
struct F16 {
    static constexpr int PER_UNIT = 8;

    static __device__ __forceinline__ uint4 unit(const __half (&v)[8], float, float &)
    {
        uint4 out;
        memcpy(&out, v, sizeof out);
        return out;
    }
};

struct Fp8 {
    static constexpr int PER_UNIT = 16;

    /* lacks: the sum of what the codes lack. */
    static __device__ __forceinline__ uint4 unit(const __half (&v)[16], float scale, float &lacks)
    {
        float inverse = scale > 0 ? 1 / scale : 0;
        uint8_t b[16];
        uint4 out;
        lacks = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float is = __half2float(v[i]);
            __nv_fp8_storage_t code =
                __nv_cvt_float_to_fp8(is * inverse, __NV_SATFINITE, __NV_E4M3);
            lacks += is - __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))) * scale;
            b[lx_cu_image_fp8_place(i)] = code;
        }
        memcpy(&out, b, sizeof out);
        return out;
    }
};

/* The tile of values in shared memory, transposed on the way out. Unit u (8 channels) of a key lies
 * at u ^ (key / PER_UNIT % 8), so that 8 lanes with keys PER_UNIT apart and 4 pairs of channels
 * read all banks once, and a lane that writes has 8 lanes beside it for the same 128 bytes.
 * Grid: tiles, heads. */
template <typename Format>
__global__ void __launch_bounds__(THREADS) k_attention_value_images(lx_cu_kv kv)
{
    constexpr int N = Format::PER_UNIT, UNITS = TILE / N, BYTES = TILE * DIM * 16 / N;
    __shared__ uint4 tile[TILE * 16];
    const int64_t head = blockIdx.y, first = (int64_t)blockIdx.x * TILE;
    const __half *v = (const __half *)kv.v + head * DIM;
    uint8_t *image = kv.v_images + (head * gridDim.x + blockIdx.x) * BYTES;
#pragma unroll
    for (int i = 0; i < TILE * 16 / THREADS; i++) {
        int key = i * (THREADS / 16) + (int)threadIdx.x / 16, u = threadIdx.x % 16;
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (first + key < kv.n)
            raw = *(const uint4 *)(v + (first + key) * kv.v_stride + u * 8);
        tile[key * 16 + (u ^ (key / N % 8))] = raw;
    }
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int job = (int)threadIdx.x / 32; job < 2 * UNITS; job += THREADS / 32) {
        int u = job % 16, place = job / 16 * 8 + lane % 8; /* 8 channels; which N keys */
        int channel = u * 8 + lane / 8 * 2;
        __half value[2][N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            int key = place * N + i;
            const __half2 *row = (const __half2 *)&tile[key * 16 + (u ^ (key / N % 8))];
            __half2 pair = row[lane / 8];
            value[0][i] = __low2half(pair);
            value[1][i] = __high2half(pair);
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float scale = kv.v_scale ? kv.v_scale[head * DIM + channel + c] : 1;
            int at = N == 16 ? lx_cu_image_fp8_at(place * 16, channel + c)
                             : lx_cu_image_f16_at(place * 8, channel + c);
            float lacks;
            *(uint4 *)(image + at) = Format::unit(value[c], scale, lacks);
            if (N == 16) { /* the 8 lanes beside each other have all keys of the channel */
                for (int i = 1; i < 8; i *= 2)
                    lacks += __shfl_xor_sync(0xffffffffu, lacks, i);
                if (lane % 8 == 0)
                    kv.partial[(blockIdx.x * gridDim.y + head) * DIM + channel + c] = lacks;
            }
        }
    }
}

extern "C" int cu_attention_tiles(lx_cuda_dev *dev, const lx_cu_kv *kv)
{
    dim3 grid((unsigned)cu_ceil_div(kv->n, (int64_t)TILE), (unsigned)kv->n_heads);
    int64_t width = (int64_t)kv->n_heads * DIM;
    CU_TRY(launch_key_mean(dev, kv));
    k_attention_key_images<<<grid, THREADS, 0, dev->compute>>>(*kv);
    CU_TRY(cu_launched());
    if (!kv->v_scale) {
        k_attention_value_images<F16><<<grid, THREADS, 0, dev->compute>>>(*kv);
        return cu_launched();
    }
    CU_TRY((launch_columns<__half, Peak>(dev, (const __half *)kv->v, kv->v_stride, kv->n, width,
                                         kv->partial, kv->v_top, kv->v_scale)));
    k_attention_value_images<Fp8><<<grid, THREADS, 0, dev->compute>>>(*kv);
    CU_TRY(cu_launched());
    k_attention_fold<Sum>
        <<<(unsigned)cu_ceil_div(width, (int64_t)COLUMNS), COLUMNS, 0, dev->compute>>>(
            kv->partial, grid.x, width, (float)kv->n, kv->v_shift);
    return cu_launched();
}
