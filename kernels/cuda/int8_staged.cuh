/*
 * int8_staged.cuh - int8_wgmma.cuh's sums to memory by way of shared memory and the copy engine
 * SPDX-License-Identifier: Apache-2.0
 *
 * Why       Finished in registers and stored from them, a tile of F32 took 27 us with a residual
 *           and 13 to 30 with gelu, one of 16 bits 6 to 7, beside 34 us of products at K = 5120:
 *           vectors of columns and residual were waited for eight times over, stores were of 64
 *           bytes a row, and the next steps waited for them (fences: int8_wgmma_ptx.cuh).
 * Boxes     A warp has 16 rows. It finishes 128 bytes of each, two units of 16 bytes a lane (2 t
 *           and 2 t + 1 of a row's eight; t = lane % 4), into a box of 2 KiB, which the copy engine
 *           takes to memory in whole lines while the warp goes on. F32: 8 boxes of 32 columns; 16
 *           bits: 4 of 64. No warp waits for another.
 * Places    A warp has four at a time: three in a stage of the ring that the fetching thread lends
 *           after the tile's last step, one of its own. So a tile of 16 bits needs no waiting at
 *           all, one of F32 waits till half of it has been read. The stage goes back in the next
 *           tile's second step.
 * Swizzle   Unit u of row r of a box lies at u ^ (r % 8): eight lanes (two rows, four units of one
 *           parity) touch all banks once.
 * Residual  out += y is the second-level cache's: one addition to each number, so the bits are
 *           those of old + y (numbers below 2^-126 count as zero). The fetching thread asks for the
 *           old rows during the last products. The sum is not seen here, so nothing is told of it.
 * Columns   scales, bias and gate of the tile's columns: asked for before the products, then in
 *           shared memory, 3 KiB a group.
 * Floors    of a tile, in clocks: stores into boxes and reading them 1,024 each, vectors of columns
 *           1,024 (1,536 with gate); 2,400 of instructions, 3,300 with gelu; gelu's exp and 1/x
 *           4,096, or 3,072 with one 1/x for two numbers. With 2 warps a scheduler that makes 2 to
 *           2.5 us. When all multiprocessors drain at once, at 3 TB/s, a tile of F32 takes 5.8 us,
 *           half of it waited for; one of 16 bits 2.9, none of it.
 * So        of 39 rounds of products of 33.8 us (K = 5120) or 91.2 (13,824) at 32,760 rows: 1.42 ms
 *           for 16 bits, 1.47 and 3.7 with a residual; of 105 rounds, gelu and codes 3.9.
 */
#ifndef INT8_STAGED_CUH
#define INT8_STAGED_CUH

#include "int8_finish.cuh"
#include "int8_wgmma_ptx.cuh"

namespace int8
{

constexpr int TILE_COLS = 256, BOX_ROWS = 16, BOX = BOX_ROWS * 128, BOXES = 4;
constexpr int COLUMNS = 3 * TILE_COLS; /* floats of a group */

/* Columns of a lane in a box, for numbers of SIZE bytes. */
template <int SIZE> constexpr int staged_piece = 32 / SIZE;

/* Where the boxes of a warp lie: three side by side and one. */
struct places {
    uint32_t lent, own;
};

template <int I> __device__ __forceinline__ uint32_t place_of(const places &at)
{
    return I % BOXES == BOXES - 1 ? at.own : at.lent + I % BOXES * BOX;
}

/* --- vectors of columns ---------------------------------------------------------------------- */

/* Two columns of a thread: scale, bias, gate; what makes zeros of zeros beyond the matrix. */
struct column_pair {
    float2 v[3];
};

__device__ __forceinline__ float column_of(const float *from, int64_t col, bool is_there,
                                           float other)
{
    return from && is_there ? from[col] : other;
}

__device__ __forceinline__ column_pair get_pair(const lx_cu_epilogue &e, int64_t col0)
{
    const int64_t col = col0 + 2 * (threadIdx.x % 128);
    const bool is_there = col < e.n; /* both or none */
    column_pair c;
    c.v[0] = make_float2(column_of(e.w_scale, col, is_there, 1),
                         column_of(e.w_scale, col + 1, is_there, 1));
    c.v[1] = make_float2(0, 0);
    if (e.bias.data && is_there)
        c.v[1] = make_float2(cu_vec_at(e.bias, col), cu_vec_at(e.bias, col + 1));
    c.v[2] =
        make_float2(column_of(e.gate, col, is_there, 1), column_of(e.gate, col + 1, is_there, 1));
    return c;
}

/* With pieces of 16 lanes t and t + 2 would meet in a bank: fours of one of them change places. */
template <int C> __device__ __forceinline__ int column_place(int col)
{
    return C == 16 ? col ^ (col >> 3 & 4) : col;
}

template <int C> __device__ __forceinline__ void put_pair(float *columns, const column_pair &c)
{
    const int at = column_place<C>(2 * ((int)threadIdx.x % 128));
#pragma unroll
    for (int i = 0; i < 3; i++)
        *(float2 *)(columns + i * TILE_COLS + at) = c.v[i];
}

/* N columns from `col` of the tile on; N = 4 or 8. */
template <int C, int N>
__device__ __forceinline__ void read_columns(const float *columns, int col, float (&out)[N])
{
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 v = *(const float4 *)(columns + column_place<C>(col + i));
        out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
    }
}

/* --- numbers --------------------------------------------------------------------------------- */

/* Saturating, as cu_from_f32's; a NaN stays one. */
__device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* 16 bytes. */
template <int SIZE, int N>
__device__ __forceinline__ void pack(int dtype, const float (&y)[N], uint32_t (&out)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (SIZE == 4)
            out[i] = __float_as_uint(y[i]);
        else if (dtype == LX_CU_BF16)
            out[i] = cu_pack_bf16(y[2 * i], y[2 * i + 1]);
        else
            out[i] = pack_f16(y[2 * i], y[2 * i + 1]);
    }
}

/* What is told of a row, if it is asked for. */
struct row_told {
    unsigned most;
    float square;
};

/* Of rows of F16 the largest magnitude as it was rounded: the same as of the rounded numbers. */
template <int SIZE>
__device__ __forceinline__ void tell_staged(const lx_cu_int8 &p, int part, int64_t row,
                                            const row_told &tell)
{
    if (p.most) {
        float most = __uint_as_float(tell.most);
        if (SIZE == 2)
            most = __half2float(__ushort_as_half((unsigned short)pack_f16(most, 0)));
        raise_most(p.most, row, p.e.m, __float_as_uint(most));
    }
    if (SIZE == 2 && p.squares)
        put_square(p, part, row, tell.square);
}

/* --- a tile ---------------------------------------------------------------------------------- */

/* One unit of a lane in both of its rows: columns `col` .. + N - 1 of the tile, sums FIRST on. */
template <int SIZE, bool GELU, int FIRST, typename SUM>
__device__ __forceinline__ void
finish_unit(const lx_cu_int8 &p, const SUM (&acc)[128], const float *columns, int col,
            const float (&x_scale)[2], uint32_t at, row_told (&tell)[2])
{
    constexpr int C = staged_piece<SIZE>, N = C / 2;
    float scale[N], bias[N], gate[N];
    read_columns<C, N>(columns, col, scale);
    read_columns<C, N>(columns + TILE_COLS, col, bias);
    if (p.e.gate)
        read_columns<C, N>(columns + 2 * TILE_COLS, col, gate);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float y[N];
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < N; i++)
            y[i] = fmaf(x_scale[half], scale[i] * (float)acc[FIRST + i / 2 * 4 + half * 2 + i % 2],
                        bias[i]);
        if constexpr (GELU) {
#pragma unroll
            for (int i = 0; i < N; i += 2)
                gelu_two(y[i], y[i + 1]);
        }
        if (p.e.gate) {
#pragma unroll
            for (int i = 0; i < N; i++)
                y[i] *= gate[i];
        }
        if (p.most) {
#pragma unroll
            for (int i = 0; i < N; i++)
                tell[half].most = max(tell[half].most, cu_magnitude(y[i]));
        }
        if (SIZE == 2 && p.squares) {
#pragma unroll
            for (int i = 0; i < N; i++)
                tell[half].square = fmaf(y[i], y[i], tell[half].square);
        }
        pack<SIZE, N>(p.e.out.dtype, y, packed);
        box_put16(at + (uint32_t)(half * 8 * 128), packed);
    }
}

/* Box I and those after it. row, col: of the warp's rows and the tile's columns. */
template <int SIZE, bool GELU, int I, typename SUM>
__device__ __forceinline__ void finish_boxes(const lx_cu_int8 &p, const CUtensorMap *out, int row,
                                             int col, const SUM (&acc)[128], const float *columns,
                                             const float (&x_scale)[2], const places &boxes,
                                             row_told (&tell)[2])
{
    constexpr int C = staged_piece<SIZE>, WIDTH = 4 * C;
    const int lane = (int)threadIdx.x % 32, r = lane / 4, t = lane % 4;
    const uint32_t box = place_of<I>(boxes);
    const uint32_t at = box + (uint32_t)(r * 128 + ((2 * t ^ r) << 4));
    if (I >= BOXES) {
        if (lane == 0)
            boxes_wait_read<BOXES - 1>();
        __syncwarp();
    }
    finish_unit<SIZE, GELU, I * 2 * C>(p, acc, columns, I * WIDTH + t * C, x_scale, at, tell);
    finish_unit<SIZE, GELU, I * 2 * C + C>(p, acc, columns, I * WIDTH + t * C + C / 2, x_scale,
                                           at ^ 16u, tell);
    box_written();
    __syncwarp();
    if (lane == 0) {
        const int first = col + I * WIDTH;
        if (row < p.e.m && first < p.e.n) {
            if (SIZE == 4 && p.e.add_to_out)
                box_add(out, box, first, row);
            else
                box_store(out, box, first, row);
        }
        boxes_close();
    }
    if constexpr (I < TILE_COLS / WIDTH - 1)
        finish_boxes<SIZE, GELU, I + 1>(p, out, row, col, acc, columns, x_scale, boxes, tell);
}

/* All 256 columns of a warp's 16 rows. */
template <int SIZE, bool GELU, typename SUM>
__device__ __forceinline__ void finish_staged(const lx_cu_int8 &p, const CUtensorMap *out, int row,
                                              int col, const SUM (&acc)[128], const float *columns,
                                              const float (&x_scale)[2], const places &boxes)
{
    row_told tell[2] = {};
    finish_boxes<SIZE, GELU, 0>(p, out, row, col, acc, columns, x_scale, boxes, tell);
    const int64_t mine = row + (int)threadIdx.x % 32 / 4;
    tell_staged<SIZE>(p, col / TILE_COLS, mine, tell[0]);
    tell_staged<SIZE>(p, col / TILE_COLS, mine + 8, tell[1]);
}

} // namespace int8

#endif
