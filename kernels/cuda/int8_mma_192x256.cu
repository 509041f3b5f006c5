/*
 * int8_mma_192x256.cu - INT8 by int8_mma_192_even.cuh: which of its kernels, and what they are told
 * SPDX-License-Identifier: Apache-2.0
 */
#include "int8_mma_192_even.cuh"

namespace int8
{
namespace even
{

template <int END, bool GELU, bool CODES = false>
static int launch_even(lx_cuda_dev *dev, const lx_cu_int8 *p, const order &o, const habits &h)
{
    return launch_blocks(dev, k_int8_even<END, GELU, CODES>, SHARED_EVEN, p, o, h);
}

/* 2^32 / by rounded up; of 1, by which nothing is divided so, 0. */
static uint32_t over(uint64_t by)
{
    return by == 1 ? 0 : (uint32_t)((((uint64_t)1 << 32) + by - 1) / by);
}

/* Codes beside products where row_of_unit is exact; else they are made before. */
static int find_units(lx_cuda_dev *dev, lx_cu_int8 *p, habits *h)
{
    const uint64_t units = (uint64_t)cu_ceil_div<int64_t>(p->codes.cols, UNIT);
    const uint64_t most = (uint64_t)p->codes.rows * units + (uint64_t)dev->n_sm * WARPS;
    if (p->codes.rows == 0)
        return 0;
    if (units < 2 || most * units > 0xffffffffu) {
        CU_TRY(cu_codes(dev, &p->codes));
        p->codes.rows = 0;
        return 0;
    }
    h->units = (uint32_t)units;
    h->over_units = over(units);
    return 0;
}

/* What place_of divides by: tiles of a group, its rows of tiles, and the last group's. */
static void find_divisors(const order &o, habits *h)
{
    const int last = o.tiles_m % o.group;
    h->over_group = over((uint64_t)(o.group * o.tiles_n));
    h->over_rows = over((uint64_t)o.group);
    h->over_last = over((uint64_t)(last ? last : o.group));
}

/* What these kernels read: others are refused. */
static bool has_plain_bias(const lx_cu_int8 *p)
{
    const int dtype = p->e.bias.dtype;
    return !p->e.bias.data || dtype == LX_CU_F32 || dtype == LX_CU_BF16 || dtype == LX_CU_F16;
}

/* At which step of K a row that has a multiple of 2^32 in it has passed it: some lanes pass it at
 * that step, some at the one before. NEVER: there is no such row. */
constexpr int NEVER = 1 << 30;
constexpr uint64_t OVER = (uint64_t)1 << 32;

static int split_of(const int8_t *data, int64_t rows, int64_t k)
{
    const uint64_t first = (uint64_t)(uintptr_t)data, at = (first - STEP) / OVER * OVER + OVER;
    const int64_t into = (int64_t)(at - first); /* addresses begin a step before */
    return into >= rows * k ? NEVER : into <= 0 ? 0 : (int)cu_ceil_div<int64_t>(into % k, STEP);
}

static void find_split(const lx_cu_int8 *p, habits *h)
{
    h->split_x = split_of(p->x, p->e.m, p->k);
    h->split_w = split_of(p->w, p->e.n, p->k);
    h->is_split = h->split_x != NEVER || h->split_w != NEVER;
}

/* Others might have two such multiples. */
static bool has_small_operands(const lx_cu_int8 *p)
{
    const uint64_t most = OVER - STEP;
    return (uint64_t)(p->e.m * p->k) <= most && (uint64_t)(p->e.n * p->k) <= most;
}

/* What a call takes that these kernels serve. Of many tiles blocks that begin apart do so over half
 * a tile. Codes are made beside products for gelu's F16 alone, others before. */
static int run(lx_cuda_dev *dev, lx_cu_int8 *p, const order &o)
{
    const bool is_gelu = p->e.activation == LX_CU_GELU;
    habits h = {};
    h.delay = find_delay(dev, p, o);
    if (o.n_tiles >= 8 * dev->n_sm)
        h.delay *= 2;
    find_divisors(o, &h);
    find_split(p, &h);
    const int end = end_of(*p);
    if (end == END_F32_ADD)
        return launch_even<END_F32_ADD, false>(dev, p, o, h);
    if (end == END_F32)
        return launch_even<END_F32, false>(dev, p, o, h);
    if (end == END_BF16 && !is_gelu)
        return launch_even<END_BF16, false>(dev, p, o, h);
    if (end == END_BF16_SQUARES && !is_gelu)
        return launch_even<END_BF16_SQUARES, false>(dev, p, o, h);
    if (end == END_F16 && !is_gelu)
        return launch_even<END_F16, false>(dev, p, o, h);
    if (end == END_F16_MOST && is_gelu) {
        CU_TRY(find_units(dev, p, &h));
        return p->codes.rows ? launch_even<END_F16_MOST, true, true>(dev, p, o, h)
                             : launch_even<END_F16_MOST, true>(dev, p, o, h);
    }
    CU_TRY(cu_codes(dev, &p->codes));
    return is_gelu ? launch_even<END_16_BITS, true>(dev, p, o, h)
                   : launch_even<END_16_BITS, false>(dev, p, o, h);
}

} // namespace even
} // namespace int8

int cu_int8_mma_192(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    using namespace int8;
    const order o = order_of(p, tall::BM, tall::BN, tall::group_of(dev->n_sm));
    const bool is_f32 = p->e.out.dtype == LX_CU_F32;
    /* Of no model: the 128 x 256 kernels serve it. */
    const bool is_rare_f32 = is_f32 && (p->most || p->e.activation == LX_CU_GELU);
    lx_cu_int8 call;
    if ((p->most && p->squares) || !even::has_plain_bias(p))
        return (int)cudaErrorInvalidValue;
    CU_TRY(tall::codes_before(dev, p, &call));
    if (!tall::has_wide_out(p) || !even::has_small_operands(p) || is_rare_f32)
        return p->most && !is_f32 ? (int)cudaErrorInvalidValue : cu_int8_mma_256(dev, &call);
    return even::run(dev, &call, o);
}
