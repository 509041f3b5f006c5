/*
 * conv.c - convolution on the CPU: taps of single pixels, packing, and moving images
 * SPDX-License-Identifier: Apache-2.0
 *
 * Idea      Where a tap is one pixel (1x1x1, 3x1x1), pixels as they lie are the rows of a matrix
 *           product [TILE, Cin] x [Cin, Cout] per tap. 3x3 in space is conv_winograd.c's. Threads
 *           share tiles; each product runs on one thread and always has TILE rows (a frame's last
 *           ones are copied and filled up with zeros), so the order of every sum is the same for
 *           every pixel: oneDNN's depends on the number of rows, but not on which row it is.
 */
#include <string.h>

#include "conv_cpu.h"
#include "lx_cpu.h"
#include "lx_dnnl.h"

enum { TILE = 128 }; /* pixels; oneDNN's best rate is reached from about 64 on */

static bool has_neighbours(const lx_conv *conv)
{
    return conv->kh > 1;
}

/* Scratch of one thread: the tile's sums, and room for rows to fill up. */
static int64_t tile_floats(const lx_conv *conv)
{
    return TILE * (conv->c_out + conv->c_in);
}

static uint64_t conv_scratch(const lx_exec *x, const lx_conv *conv)
{
    uint64_t floats = has_neighbours(conv) ? lx_winograd_scratch(conv, x->n_threads)
                                           : (uint64_t)(tile_floats(conv) * x->n_threads);
    return floats * sizeof(float);
}

/* out = acc + bias (+ residual) */
static void finish(const lx_conv_call *call, int64_t t, int64_t p0, int64_t m, const float *acc)
{
    int64_t n = call->conv->c_out;
    const float *bias = call->conv->bias;
    const float *residual = call->residual ? lx_image_f32(call->residual, t) + p0 * n : NULL;
    float *out = lx_image_f32(call->out, t) + p0 * n;
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

/* Pixels p0.. of output frame t: one product per tap in time. */
static int conv_tile(const lx_conv_call *call, int64_t t, int64_t p0, float *acc)
{
    const lx_conv *conv = call->conv;
    int64_t pixels = call->out->height * call->out->width, m = lx_min_i64(TILE, pixels - p0);
    const float *packed = conv->packed;
    float *filled = acc + TILE * conv->c_out;
    for (int64_t tap = 0; tap < conv->kt; tap++) {
        const float *rows = lx_image_f32(call->in, t + tap) + p0 * conv->c_in;
        if (m < TILE) {
            memcpy(filled, rows, (size_t)(m * conv->c_in) * sizeof *filled);
            memset(filled + m * conv->c_in, 0, (size_t)((TILE - m) * conv->c_in) * sizeof *filled);
            rows = filled;
        }
        lx_gemm g = {.m = TILE,
                     .n = conv->c_out,
                     .k = conv->c_in,
                     .lda = conv->c_in,
                     .ldb = conv->c_out,
                     .ldc = conv->c_out,
                     .alpha = 1,
                     .beta = tap ? 1 : 0};
        int code = lx_dnnl_sgemm(&g, rows, packed + tap * conv->c_in * conv->c_out, acc);
        if (code)
            return code;
    }
    finish(call, t, p0, m, acc);
    return 0;
}

static lx_status conv_run(lx_exec *x, const lx_conv_call *call, lx_err *err)
{
    if (has_neighbours(call->conv))
        return lx_winograd_run(x, call, err);
    int64_t per_frame = lx_ceil_div(call->out->height * call->out->width, TILE);
    int64_t n_tiles = call->out->frames * per_frame;
    float *scratch = call->scratch;
    int code = 0;
#pragma omp parallel for schedule(dynamic) num_threads(x->n_threads)
    for (int64_t i = 0; i < n_tiles; i++)
        lx_cpu_note(&code, conv_tile(call, i / per_frame, i % per_frame * TILE,
                                     scratch + lx_cpu_thread() * tile_floats(call->conv)));
    return lx_dnnl_check(code, "convolution", err);
}

/* --- weights ------------------------------------------------------------------------------- */

static uint64_t conv_packed(const lx_conv *conv)
{
    uint64_t floats = has_neighbours(conv) ? lx_winograd_floats(conv)
                                           : (uint64_t)(conv->kt * conv->c_in * conv->c_out);
    return floats * sizeof(float);
}

/* [o, c, kt] -> [kt, c, o], or as conv_winograd.c wants it */
static void conv_pack(const lx_conv *conv, const float *weight, void *packed)
{
    float *out = packed;
    if (has_neighbours(conv)) {
        lx_winograd_pack(weight, conv, out);
        return;
    }
    for (int64_t t = 0; t < conv->kt; t++)
        for (int64_t c = 0; c < conv->c_in; c++)
            for (int64_t o = 0; o < conv->c_out; o++)
                out[(t * conv->c_in + c) * conv->c_out + o] =
                    weight[(o * conv->c_in + c) * conv->kt + t];
}

/* --- moving images ------------------------------------------------------------------------- */

static lx_status copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    (void)x, (void)err; /* a build without OpenMP is serial */
    const size_t part = 1 << 18;
    int64_t parts = (int64_t)(bytes / part + 1);
#pragma omp parallel for num_threads(x->n_threads)
    for (int64_t i = 0; i < parts; i++) {
        size_t from = (size_t)i * part, count = bytes - from < part ? bytes - from : part;
        memcpy((char *)dst + from, (const char *)src + from, count);
    }
    return LX_OK;
}

static lx_status crop(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                      lx_err *err)
{
    (void)x, (void)err;
    int64_t rows = out->frames * out->height, row = out->width * out->channels;
#pragma omp parallel for num_threads(x->n_threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = lx_image_f32(in, r / out->height);
        int64_t at = r % out->height;
        memcpy(lx_image_f32(out, r / out->height) + at * row,
               from + ((y + at) * in->width + x0) * in->channels, (size_t)row * sizeof *from);
    }
    return LX_OK;
}

static lx_status from_planes(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                             const float *scale, const float *shift, lx_image *out, lx_err *err)
{
    (void)x, (void)err;
    int64_t pixels = out->height * out->width, n = out->channels;
    for (int64_t t = 0; t < out->frames; t++)
        for (int64_t c = 0; c < n; c++) {
            const float *plane = planes + (c * n_frames + first + t) * pixels;
            float *to = lx_image_f32(out, t) + c;
            for (int64_t p = 0; p < pixels; p++)
                to[p * n] = plane[p] * scale[c] + shift[c];
        }
    return LX_OK;
}

const lx_conv_ops lx_conv_ops_cpu = {
    .packed = conv_packed,
    .scratch = conv_scratch,
    .pack = conv_pack,
    .run = conv_run,
    .norm = lx_cpu_channel_norm,
    .copy = copy,
    .crop = crop,
    .from_planes = from_planes,
    .i420 = lx_cpu_i420,
    .rgb8 = lx_cpu_rgb8,
    .planes = lx_cpu_planes,
};
