/*
 * conv.c - convolution on the CPU: gathered rows times packed weights, through oneDNN
 * SPDX-License-Identifier: Apache-2.0
 *
 * Idea      A tile is TILE output pixels of one frame. Its receptive fields are gathered as rows
 *           [TILE, taps * Cin] (nothing is gathered where the taps are single pixels) and
 *           multiplied with the packed weights [taps * Cin, Cout]. The reduction goes in blocks of
 *           about BLOCK floats, so that gathered rows stay in the L2 cache. Threads share tiles;
 *           each product runs on one thread, so the order of every sum depends on shapes alone.
 * Rate      docs/performance.md has figures from tests/bench/bench_conv.c.
 */
#include <string.h>

#include "lx_conv_ops.h"
#include "lx_cpu.h"
#include "lx_dnnl.h"

enum { TILE = 128, BLOCK = 1152 };

typedef struct conv_plan {
    int64_t tap_rows;       /* kt * kh: gathered one row of kw * Cin floats at a time */
    int64_t row_floats;     /* kw * Cin */
    int64_t rows_per_block; /* tap rows of one product */
    bool is_pointwise;      /* no neighbours in space: rows of the input serve as they lie */
    int64_t gather_floats, acc_floats; /* scratch of one thread */
} conv_plan;

static conv_plan plan_of(const lx_conv *conv, bool upsample)
{
    conv_plan p = {.tap_rows = conv->kt * conv->kh,
                   .row_floats = conv->kw * conv->c_in,
                   .is_pointwise = conv->kh == 1 && conv->kw == 1 && !upsample};
    p.rows_per_block = lx_min_i64(p.tap_rows, BLOCK / p.row_floats);
    if (p.rows_per_block < 1 || p.is_pointwise)
        p.rows_per_block = 1;
    p.gather_floats = p.is_pointwise ? 0 : TILE * p.rows_per_block * p.row_floats;
    p.acc_floats = lx_ceil_div(TILE * conv->c_out, 16) * 16;
    return p;
}

static uint64_t conv_scratch(const lx_conv *conv, bool upsample, int n_threads)
{
    conv_plan p = plan_of(conv, upsample);
    return (uint64_t)(p.gather_floats + p.acc_floats) * (uint64_t)n_threads;
}

/* kw neighbours of column x in one source row; zeros outside. */
static void gather_pixel(float *dst, const float *row, int64_t x, int64_t width,
                         const lx_conv *conv, bool upsample)
{
    int64_t c = conv->c_in, left = x - (conv->kw - 1) / 2;
    if (!upsample && left >= 0 && left + conv->kw <= width) {
        memcpy(dst, row + left * c, (size_t)(conv->kw * c) * sizeof *dst);
        return;
    }
    for (int64_t k = 0; k < conv->kw; k++) {
        int64_t at = left + k;
        if (at < 0 || at >= width)
            memset(dst + k * c, 0, (size_t)c * sizeof *dst);
        else
            memcpy(dst + k * c, row + (upsample ? at / 2 : at) * c, (size_t)c * sizeof *dst);
    }
}

/* Tap rows first..first+n of pixels p0..p0+m of output frame t, [m, n * row_floats]. */
static void gather(float *dst, const lx_conv_call *call, int64_t t, int64_t p0, int64_t m,
                   int64_t first, int64_t n)
{
    const lx_conv *conv = call->conv;
    int64_t width = call->out->width, height = call->out->height;
    int64_t row_floats = conv->kw * conv->c_in, stride = n * row_floats;
    for (int64_t tap = 0; tap < n; tap++) {
        const float *frame = lx_image_frame(call->in, t + (first + tap) / conv->kh);
        int64_t dy = (first + tap) % conv->kh - (conv->kh - 1) / 2;
        float *to = dst + tap * row_floats;
        for (int64_t p = p0; p < p0 + m; p++, to += stride) {
            int64_t y = p / width + dy;
            if (y < 0 || y >= height) {
                memset(to, 0, (size_t)row_floats * sizeof *to);
                continue;
            }
            if (call->upsample)
                y /= 2;
            gather_pixel(to, frame + y * call->in->width * conv->c_in, p % width, width, conv,
                         call->upsample);
        }
    }
}

/* out = acc + bias (+ residual) */
static void finish(const lx_conv_call *call, int64_t t, int64_t p0, int64_t m, const float *acc)
{
    int64_t n = call->conv->c_out;
    const float *bias = call->conv->bias;
    const float *residual = call->residual ? lx_image_frame(call->residual, t) + p0 * n : NULL;
    float *out = lx_image_frame(call->out, t) + p0 * n;
    for (int64_t r = 0; r < m; r++, acc += n, out += n) {
        if (residual) {
            for (int64_t o = 0; o < n; o++)
                out[o] = acc[o] + bias[o] + residual[o];
            residual += n;
        } else {
            for (int64_t o = 0; o < n; o++)
                out[o] = acc[o] + bias[o];
        }
    }
}

static int conv_tile(const lx_conv_call *call, const conv_plan *p, int64_t t, int64_t p0,
                     float *scratch)
{
    const lx_conv *conv = call->conv;
    int64_t pixels = call->out->height * call->out->width, m = lx_min_i64(TILE, pixels - p0);
    float *acc = scratch, *rows = scratch + p->acc_floats;
    for (int64_t first = 0; first < p->tap_rows; first += p->rows_per_block) {
        int64_t n = lx_min_i64(p->rows_per_block, p->tap_rows - first);
        const float *a = rows;
        if (p->is_pointwise)
            a = lx_image_frame(call->in, t + first) + p0 * conv->c_in;
        else
            gather(rows, call, t, p0, m, first, n);
        lx_gemm g = {.m = m,
                     .n = conv->c_out,
                     .k = n * p->row_floats,
                     .lda = n * p->row_floats,
                     .ldb = conv->c_out,
                     .ldc = conv->c_out,
                     .alpha = 1,
                     .beta = first ? 1 : 0};
        int code = lx_dnnl_sgemm(&g, a, conv->packed + first * p->row_floats * conv->c_out, acc);
        if (code)
            return code;
    }
    finish(call, t, p0, m, acc);
    return 0;
}

static lx_status conv_run(const lx_conv_call *call, lx_err *err)
{
    conv_plan p = plan_of(call->conv, call->upsample);
    int64_t per_frame = lx_ceil_div(call->out->height * call->out->width, TILE);
    int64_t n_tiles = call->out->frames * per_frame, per_thread = p.gather_floats + p.acc_floats;
    int code = 0;
#pragma omp parallel for schedule(dynamic) num_threads(call->n_threads)
    for (int64_t i = 0; i < n_tiles; i++)
        lx_cpu_note(&code, conv_tile(call, &p, i / per_frame, i % per_frame * TILE,
                                     call->scratch + lx_cpu_thread() * per_thread));
    return lx_dnnl_check(code, "convolution", err);
}

/* --- weights ------------------------------------------------------------------------------- */

static void conv_widen(const lx_weight *weight, float *out)
{
    uint64_t n = 1;
    for (int i = 0; i < weight->shape.n_dims; i++)
        n *= (uint64_t)weight->shape.dim[i];
    lx_widen_to_f32(out, weight->data, weight->dtype, (size_t)n);
}

/* [o, c, taps] -> [taps, c, o] */
static void conv_pack(const lx_weight *weight, const lx_weight *bias, lx_conv *conv, float *widened)
{
    int64_t taps = conv->kt * conv->kh * conv->kw, rows = conv->c_in * taps;
    conv_widen(weight, widened);
    conv_widen(bias, conv->bias);
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < conv->c_in; c++)
            for (int64_t o = 0; o < conv->c_out; o++)
                conv->packed[(tap * conv->c_in + c) * conv->c_out + o] =
                    widened[o * rows + c * taps + tap];
}

/* --- moving images ------------------------------------------------------------------------- */

static void copy(float *dst, const float *src, uint64_t n, int n_threads)
{
    const uint64_t part = 1 << 16;
    int64_t parts = (int64_t)(n / part + 1);
#pragma omp parallel for num_threads(n_threads)
    for (int64_t i = 0; i < parts; i++) {
        uint64_t from = (uint64_t)i * part, count = n - from < part ? n - from : part;
        memcpy(dst + from, src + from, count * sizeof *dst);
    }
}

static void zero(float *dst, uint64_t n)
{
    memset(dst, 0, n * sizeof *dst);
}

static void crop(const lx_image *in, int64_t y, int64_t x0, lx_image *out, int n_threads)
{
    int64_t rows = out->frames * out->height, row = out->width * out->channels;
#pragma omp parallel for num_threads(n_threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = lx_image_frame(in, r / out->height);
        int64_t at = r % out->height;
        memcpy(lx_image_frame(out, r / out->height) + at * row,
               from + ((y + at) * in->width + x0) * in->channels, (size_t)row * sizeof *from);
    }
}

static void from_planes(const float *planes, int64_t n_frames, int64_t first, const float *scale,
                        const float *shift, lx_image *out)
{
    int64_t pixels = out->height * out->width, n = out->channels;
    for (int64_t t = 0; t < out->frames; t++)
        for (int64_t c = 0; c < n; c++) {
            const float *plane = planes + (c * n_frames + first + t) * pixels;
            float *to = lx_image_frame(out, t) + c;
            for (int64_t p = 0; p < pixels; p++)
                to[p * n] = plane[p] * scale[c] + shift[c];
        }
}

const lx_conv_ops lx_conv_ops_cpu = {
    .scratch = conv_scratch,
    .pack = conv_pack,
    .widen = conv_widen,
    .run = conv_run,
    .norm = lx_cpu_channel_norm,
    .copy = copy,
    .zero = zero,
    .crop = crop,
    .from_planes = from_planes,
    .i420 = lx_cpu_i420,
    .rgb8 = lx_cpu_rgb8,
    .planes = lx_cpu_planes,
};
