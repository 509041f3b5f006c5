/*
 * conv_tile.cuh - convolution as a matrix product of tiles, on tensor cores
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   lx_conv.h; M = pixels of all frames, N = outputs, K = taps x inputs
 * Tile      BM consecutive pixels (across rows and frames) x BN outputs by four warps (eight for
 *           256 x 96 with F16 sums), each with an equal part of the pixels. K goes by steps: one
 *           row of taps (time, y) and 32 inputs. A step fetches the pixels once, with KW - 1
 *           neighbours, and the weights of its KW columns: the columns read the same pixels one
 *           place further. Where a column leaves the picture, rows are read from a place with zeros
 *           instead; rows above and below it, and pixels after the last, are fetched as zeros.
 * Order     of sums: rows of taps, blocks of 32 inputs, columns, inputs. It does not depend on
 *           where a pixel lies in its tile: windows, chunks and BM change no bit.
 * F16       GeForce cards multiply F16 with F16 sums at twice the rate of F32 ones. The products of
 *           a step, 96 in a chain of six instructions, are summed in F16, then taken into F32: 4
 *           instructions for 2 numbers a step. conv.c has seen to it that they stay finite. A
 *           part's sums are 2 registers where F32 ones are 4; for both there is room with 32 pixels
 *           a warp.
 * Assumes   inputs a multiple of 8 and images aligned to 16 bytes; pixels fit in 31 bits.
 * Shared    STAGES x (pixels + weights), zeros, and a table of where the tile's pixels are; at most
 *           99 KiB, so that GeForce cards can.
 */
#ifndef CONV_TILE_CUH
#define CONV_TILE_CUH

#include "cu_dev.cuh"

#include "conv_ptx.cuh"
#include "cu_conv.h"

struct conv_frames {         /* where an image's frames are: the first two may lie apart */
    char *frame[2], *origin; /* origin + i * bytes for the others */
    int64_t bytes;           /* from one frame to the next */
};

struct conv_job {
    conv_frames in, out, residual; /* residual.origin NULL: none */
    int out_dtype;
    int height, width; /* of in, and of the grid of pixels; with phases out is twice that */
    int total;         /* pixels of all output frames (of one phase) */
    int c_in, c_out;
    int kh, rows; /* rows of taps per frame, and in all: kt * kh */
    int chunks;   /* blocks of 32 inputs */
    int n_tiles;  /* tiles of outputs */
    int n_phases; /* 4 under upsample, else 1 */
    const __nv_bfloat16 *packed;
    const float *bias;
};

__device__ inline char *conv_frame(const conv_frames &f, int i)
{
    char *at = f.origin + i * f.bytes;
    at = i == 1 ? f.frame[1] : at;
    return i == 0 ? f.frame[0] : at;
}

/* F16: operands are F16, and a step's sums too; else BF16 with F32 sums. */
template <int BM, int BN, int KW, bool F16 = false> struct conv_shape {
    static constexpr int warps = F16 && BM == 256 && BN == 96 ? 8 : 4;
    static constexpr int threads = 32 * warps;
    static constexpr int of_warp = BM / warps; /* pixels */
    static constexpr int pixels = BM + KW - 1;
    static constexpr int a_bytes = (pixels * 64 + 127) / 128 * 128;
    static constexpr int b_bytes = KW * BN * 64;
    static constexpr int stage = a_bytes + b_bytes;
    static constexpr int extra = 128 + pixels * 16; /* zeros, table */
    static constexpr int fit = (99 * 1024 - extra) / stage;
    static constexpr int stages = fit < 4 ? fit : 4;
    static constexpr int bytes = stages * stage + extra;
    static constexpr int mt = of_warp / 16; /* 16 pixels each, of a warp */
    static constexpr int nt = BN / 8;       /* 8 outputs each */
    /* Sums on their way out: 16 pixels of a warp, rows so far apart that banks do not meet. */
    static constexpr int out_row = BN == 8 ? 8 : BN + 8;
    static constexpr int out_floats = 16 * out_row;
    static_assert(stages >= 2, "a step is fetched while another is computed");
    static_assert(warps * out_floats * 4 <= stages * stage,
                  "sums leave through the stages' memory");
};

/* Pixel q of the grid: {place in its frame, y, frame, x}; place -1 and y far outside: none. */
__device__ inline int4 conv_pixel(const conv_job &job, int q)
{
    if (q < 0 || q >= job.total)
        return make_int4(-1, -(1 << 28), 0, 0);
    int frame = q / (job.height * job.width), place = q - frame * (job.height * job.width);
    int y = place / job.width;
    return make_int4(place, y, frame, place - y * job.width);
}

/* The step to be fetched next, and what stays the same for a block of threads. */
struct conv_walk {
    const int4 *table;
    int first_dy; /* of a frame's first row of taps */
    int dy, kt, chunk;
    const char *weights;
};

template <typename S>
__device__ inline void conv_fetch(const conv_job &job, conv_walk &w, uint32_t to)
{
    const int tid = threadIdx.x, part = tid & 3;
    const int c = w.chunk * LX_CU_CONV_K + part * 8;
    const int shift = w.dy * job.width;
#pragma unroll 3
    for (int i = tid >> 2; i < S::pixels; i += S::threads / 4) {
        const int4 at = w.table[i];
        const bool is_there = (unsigned)(at.y + w.dy) < (unsigned)job.height && c < job.c_in;
        const char *src =
            conv_frame(job.in, at.z + w.kt) + ((int64_t)(at.x + shift) * job.c_in + c) * 2;
        src = is_there ? src : (const char *)job.packed;
        cu_fetch16(to + i * 64 + ((part ^ ((i >> 1) & 3)) << 4), src, is_there);
    }
#pragma unroll 3
    for (int i = tid; i < S::b_bytes / 16; i += S::threads)
        cu_fetch16(to + S::a_bytes + i * 16, w.weights + i * 16, true);
    w.weights += S::b_bytes;
    if (++w.chunk == job.chunks) {
        w.chunk = 0;
        if (++w.dy == w.first_dy + job.kh) {
            w.dy = w.first_dy;
            w.kt++;
        }
    }
}

/* 16 pixels by 8 outputs: in F32 all of them, in F16 those of one step, which `begins` anew. */
__device__ inline void conv_mma(float (&d)[4], const uint32_t a[4], uint32_t b0, uint32_t b1, bool)
{
    cu_mma_bf16(d, a, b0, b1);
}

__device__ inline void conv_mma(uint32_t (&d)[2], const uint32_t a[4], uint32_t b0, uint32_t b1,
                                bool begins)
{
    cu_mma_f16_sums(d, a, b0, b1, begins ? 0 : d[0], begins ? 0 : d[1]);
}

/* One column of taps and 16 inputs: a[] times all outputs of the tile. half: which 16 of the 32. */
template <int MT, int NT, typename Sum>
__device__ inline void conv_products(uint32_t weights, int half, const uint32_t (*a)[4],
                                     Sum (&sums)[MT][NT], bool begins)
{
    const int lane = threadIdx.x & 31;
    uint32_t w[4];
    if constexpr (NT == 1) { /* all 32 inputs in one load */
        cu_load_matrices(w, weights + (lane & 7) * 64 + (((lane >> 3) ^ ((lane >> 1) & 3)) << 4));
#pragma unroll
        for (int i = 0; i < MT; i++)
            conv_mma(sums[i][0], a[i], half ? w[2] : w[0], half ? w[3] : w[1], begins);
    } else {
        const int n = (lane & 7) + ((lane >> 4) << 3), part = (lane >> 3) & 1;
        const uint32_t from = (weights + n * 64 + ((part ^ ((lane >> 1) & 3)) << 4)) ^ (half * 32);
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            cu_load_matrices(w, from + j * 16 * 64);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                conv_mma(sums[i][2 * j], a[i], w[0], w[1], begins);
                conv_mma(sums[i][2 * j + 1], a[i], w[2], w[3], begins);
            }
        }
    }
}

/* All of a step. outside: bit kw * mt + i says that this lane's pixel of part i has no neighbour in
 * column kw. */
template <int BN, int KW, typename S, typename Sum>
__device__ inline void conv_compute(uint32_t stage, uint32_t zeros, uint32_t outside,
                                    Sum (&sums)[S::mt][S::nt])
{
    const int lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * S::of_warp + (lane & 15);
#pragma unroll
    for (int kw = 0; kw < KW; kw++) {
        const int row = first + kw;
        const uint32_t even = stage + row * 64 + (((lane >> 4) ^ ((row >> 1) & 3)) << 4);
#pragma unroll
        for (int half = 0; half < 2; half++) { /* parts 0 and 1 of a row, then 2 and 3 */
            const uint32_t from = even ^ (half * 32);
            uint32_t a[S::mt][4];
#pragma unroll
            for (int i = 0; i < S::mt; i++) {
                const bool is_outside = KW > 1 && (outside >> (kw * S::mt + i) & 1);
                cu_load_matrices(a[i], is_outside ? zeros : from + i * 16 * 64);
            }
            conv_products<S::mt, S::nt>(stage + S::a_bytes + kw * BN * 64, half, a, sums,
                                        kw == 0 && half == 0);
        }
    }
}

typedef uint32_t conv_halves[2];
typedef float conv_floats[4];

/* A step's products, added to acc: directly, or summed in F16 first. */
template <int BN, int KW, bool F16, typename S>
__device__ inline void conv_step(uint32_t stage, uint32_t zeros, uint32_t outside,
                                 conv_floats (&acc)[S::mt][S::nt])
{
    if constexpr (!F16) {
        conv_compute<BN, KW, S>(stage, zeros, outside, acc);
    } else {
        conv_halves part[S::mt][S::nt];
        conv_compute<BN, KW, S>(stage, zeros, outside, part);
#pragma unroll
        for (int i = 0; i < S::mt; i++)
#pragma unroll
            for (int j = 0; j < S::nt; j++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const float2 two = cu_halves(part[i][j][r]);
                    acc[i][j][2 * r] += two.x;
                    acc[i][j][2 * r + 1] += two.y;
                }
    }
}

/* Eight sums, outputs n.. of the pixel at `place` of its frame, with bias and residual. */
__device__ inline void conv_store(const conv_job &job, const int4 &at, int64_t place, int n,
                                  const float *sums)
{
    const int64_t first = place * job.c_out + n;
    const int valid = min(8, job.c_out - n);
    const bool is_whole = job.c_out % 8 == 0; /* then all is aligned */
    char *out = conv_frame(job.out, at.z);
    float v[8];
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = sums[k] + (k < valid ? job.bias[n + k] : 0.0f);
    if (job.residual.origin) {
        const __nv_bfloat16 *r = (const __nv_bfloat16 *)conv_frame(job.residual, at.z) + first;
        if (is_whole) {
            const int4 eight = *(const int4 *)r;
            const __nv_bfloat162 *two = (const __nv_bfloat162 *)&eight;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float2 more = __bfloat1622float2(two[k]);
                v[2 * k] += more.x;
                v[2 * k + 1] += more.y;
            }
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] += k < valid ? __bfloat162float(r[k]) : 0.0f;
        }
    }
    if (job.out_dtype == LX_CU_BF16 && is_whole) {
        int4 eight;
        __nv_bfloat162 *two = (__nv_bfloat162 *)&eight;
#pragma unroll
        for (int k = 0; k < 4; k++)
            two[k] = __floats2bfloat162_rn(v[2 * k], v[2 * k + 1]);
        *(int4 *)(out + first * 2) = eight;
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (k >= valid)
            break;
        if (job.out_dtype == LX_CU_BF16)
            ((__nv_bfloat16 *)out)[first + k] = __float2bfloat16_rn(v[k]);
        else if (job.out_dtype == LX_CU_F16)
            ((__half *)out)[first + k] = cu_from_f32<__half>(v[k]);
        else
            ((float *)out)[first + k] = v[k];
    }
}

/* The warp's sums, 16 pixels at a time, through `room` (its own) to the output. table: of the
 * warp's first pixel; n0: the tile's first output; phase: see cu_conv.h. */
template <typename S>
__device__ inline void conv_finish(const conv_job &job, const int4 *table, float *room, int n0,
                                   int phase, const conv_floats (*acc)[S::nt])
{
    const int lane = threadIdx.x & 31;
    float *to = room + (lane >> 2) * S::out_row + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < S::mt; i++) {
#pragma unroll
        for (int j = 0; j < S::nt; j++) {
            *(float2 *)(to + j * 8) = make_float2(acc[i][j][0], acc[i][j][1]);
            *(float2 *)(to + 8 * S::out_row + j * 8) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
        __syncwarp();
#pragma unroll 1
        for (int k = lane; k < 16 * S::nt; k += 32) {
            const int row = k / S::nt, n = (k - row * S::nt) * 8;
            const int4 at = table[i * 16 + row];
            int64_t place = at.x;
            if (job.n_phases == 4)
                place =
                    (int64_t)(2 * at.y + (phase >> 1)) * (2 * job.width) + 2 * at.w + (phase & 1);
            if (at.x >= 0 && n0 + n < job.c_out)
                conv_store(job, at, place, n0 + n, room + row * S::out_row + n);
        }
        __syncwarp();
    }
}

template <int BM, int BN, int KW, bool F16>
__global__ void __launch_bounds__(conv_shape<BM, BN, KW, F16>::threads,
                                  conv_shape<BM, BN, KW, F16>::warps == 8 ? 1 : 2)
    k_conv_tile(const conv_job job)
{
    typedef conv_shape<BM, BN, KW, F16> S;
    extern __shared__ __align__(128) unsigned char conv_memory[];
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int nt = blockIdx.x % job.n_tiles, rest = blockIdx.x / job.n_tiles;
    const int phase = rest % job.n_phases, m0 = rest / job.n_phases * BM;
    const int steps = job.rows * job.chunks;
    int4 *table = (int4 *)(conv_memory + S::stages * S::stage + 128);
    /* Phases: an even row of the output sees the rows y - 1 and y, an odd one y and y + 1. */
    const int left = job.n_phases == 4 ? 1 - (phase & 1) : KW / 2;
    conv_walk w;
    w.table = table;
    w.first_dy = w.dy = job.n_phases == 4 ? (phase >> 1) - 1 : -(job.kh / 2);
    w.kt = w.chunk = 0;
    w.weights = (const char *)job.packed + (int64_t)(phase * job.n_tiles + nt) * steps * S::b_bytes;

    for (int i = tid; i < S::pixels; i += S::threads)
        table[i] = conv_pixel(job, m0 - left + i);
    if (tid < 8)
        ((int4 *)(conv_memory + S::stages * S::stage))[tid] = make_int4(0, 0, 0, 0);
    __syncthreads();
    const uint32_t shared = cu_shared(conv_memory), zeros = shared + S::stages * S::stage;
    uint32_t outside = 0;
#pragma unroll
    for (int i = 0; i < S::mt; i++) {
        const int4 at = table[warp * S::of_warp + i * 16 + (lane & 15) + left];
#pragma unroll
        for (int kw = 0; kw < KW; kw++) {
            const int x = at.w + kw - left;
            outside |= (uint32_t)(x < 0 || x >= job.width) << (kw * S::mt + i);
        }
    }

    conv_floats acc[S::mt][S::nt];
#pragma unroll
    for (int i = 0; i < S::mt; i++)
#pragma unroll
        for (int j = 0; j < S::nt; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                acc[i][j][k] = 0.0f;

#pragma unroll 1
    for (int s = 0; s < S::stages - 1; s++) {
        if (s < steps)
            conv_fetch<S>(job, w, shared + s * S::stage);
        cu_fetch_close();
    }
    uint32_t now = shared; /* the stage to compute from; the one before it is free */
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
        cu_fetch_wait<S::stages - 2>(); /* this step's has arrived, of this thread */
        __syncthreads();                /* of all; and all are done with the stage before */
        if (s + S::stages - 1 < steps)
            conv_fetch<S>(job, w, (now == shared ? zeros : now) - S::stage);
        cu_fetch_close();
        conv_step<BN, KW, F16, S>(now, zeros, outside, acc);
        now = now + S::stage == zeros ? shared : now + S::stage;
    }
    cu_fetch_wait<0>();
    __syncthreads(); /* the stages are free */
    conv_finish<S>(job, table + warp * S::of_warp + left,
                   (float *)conv_memory + warp * S::out_floats, nt * BN, phase, acc);
}

/* --- launching -------------------------------------------------------------------------------- */

template <int BM, int BN, int KW, bool F16 = false>
int conv_launch(lx_cuda_dev *dev, const conv_job &job)
{
    typedef conv_shape<BM, BN, KW, F16> S;
    const int64_t blocks = cu_ceil_div<int64_t>(job.total, BM) * job.n_phases * job.n_tiles;
    if (blocks > 0x7fffffff)
        return (int)cudaErrorInvalidConfiguration;
    auto kernel = k_conv_tile<BM, BN, KW, F16>;
    CU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes));
    kernel<<<(unsigned)blocks, S::threads, S::bytes, dev->compute>>>(job);
    return cu_launched();
}

/* One file per width, so that they compile side by side. kw: columns of taps. */
int conv_launch_96(lx_cuda_dev *dev, const conv_job &job, int bm, int kw);
int conv_launch_narrow(lx_cuda_dev *dev, const conv_job &job, int bn, int kw);
/* F16 operands and sums, three columns of taps, bn 96, 48 or 32. */
int conv_launch_f16(lx_cuda_dev *dev, const conv_job &job, int bm, int bn);

#endif
