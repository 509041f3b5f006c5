/*
 * conv_winograd.c - 3x3 in space, by Winograd's F(2x2, 3x3): 2.25 times fewer multiplications
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   2x2 outputs from the 4x4 inputs d around them: Y = A'[ sum (G g G') . (B' d B) ]A, sums
 *           over input channels and taps in time. The product under the sum is elementwise, so it
 *           is 16 matrix products [tiles, kt * Cin] x [kt * Cin, Cout].
 *               B' = 1  0 -1  0     G = 1    0    0      A' = 1  1  1  0
 *                    0  1  1  0         1/2  1/2  1/2         0  1 -1 -1
 *                    0 -1  1  0         1/2 -1/2  1/2
 *                    0  1  0 -1         0    0    1
 *           Under nearest x2 the two middle rows of d are equal, so row 2 of B' d is zero, and so
 *           for columns: 9 products are left of 16, a quarter of the plain formula's work.
 * Idea      A batch is BATCH tiles of any frames; threads share batches. Tiles lie on even rows and
 *           columns of the image, so a window cut at an even place gives the same bits.
 *           Products always have BATCH rows, the last batch zeros for what it lacks: oneDNN's sums
 *           depend on the number of rows, but not on which row it is.
 * Numbers   sums of three to four terms around each product: about twice the error of the plain
 *           formula in f32 (tests/kernels/test_conv.c: relative L2 below 1e-6).
 * Source    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015), 4.1
 * Rate      tests/bench/bench_conv.c
 */
#include <string.h>

#include "conv_cpu.h"
#include "lx_cpu.h"
#include "lx_dnnl.h"

enum {
    BATCH = 128,
    LANES = 64,
    PARTS = 16
}; /* LANES: channels at a time, so that a tile's 16
                                                 values of each stay in the L1 cache */

static const float zeros[LANES];

/* Floats from one of 16 matrices to the next. Not a multiple of 4 KiB: the transforms write all 16
 * at once, which would then share one set of the L1 cache. */
static int64_t part_floats(int64_t cols)
{
    return lx_ceil_div(BATCH * cols, 1024) * 1024 + LANES + 16;
}

/* A batch and its scratch: v [16, BATCH, K], m [16, BATCH, Cout], K = kt * Cin. */
typedef struct batch {
    const lx_conv_call *call;
    int64_t first, n; /* tiles */
    int64_t k;
    float *v, *m;
} batch;

typedef struct tile_place {
    int64_t frame, y, x; /* of its first output pixel */
} tile_place;

static tile_place place_of(const lx_image *out, int64_t i)
{
    int64_t across = (out->width + 1) / 2, per_frame = across * ((out->height + 1) / 2);
    return (tile_place){
        .frame = i / per_frame, .y = i % per_frame / across * 2, .x = i % per_frame % across * 2};
}

/* --- weights ------------------------------------------------------------------------------- */

uint64_t lx_winograd_floats(const lx_conv *conv)
{
    return (uint64_t)(PARTS * conv->kt * conv->c_in * conv->c_out);
}

/* Row i of G times three values. */
static double g_row(int i, double a, double b, double c)
{
    return i == 0 ? a : i == 3 ? c : 0.5 * (i == 1 ? a + b + c : a - b + c);
}

/* The 16 values of one 3x3 kernel, `part` floats apart. In f64, rounded once. */
static void pack_kernel(const float *g, float *u, int64_t part)
{
    for (int i = 0; i < 4; i++) {
        double row[3];
        for (int k = 0; k < 3; k++)
            row[k] = g_row(i, g[k], g[3 + k], g[6 + k]);
        for (int j = 0; j < 4; j++)
            u[(4 * i + j) * part] = (float)g_row(j, row[0], row[1], row[2]);
    }
}

/* [o, c, kt, 3, 3] -> [16, kt, c, o] */
void lx_winograd_pack(const float *weight, const lx_conv *conv, float *packed)
{
    int64_t rows = conv->kt * conv->c_in, part = rows * conv->c_out;
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) { /* in the order of writing: 16 streams */
        int64_t t = r / conv->c_in, c = r % conv->c_in;
        for (int64_t o = 0; o < conv->c_out; o++)
            pack_kernel(weight + ((o * conv->c_in + c) * conv->kt + t) * 9,
                        packed + r * conv->c_out + o, part);
    }
}

/* --- transforms, compiled per instruction set ------------------------------------------------ */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The 16 pixels around a tile's corner, NULL outside the image. */
static void pixels_of(const lx_conv_call *call, tile_place at, int64_t tap, const float *out[16])
{
    const lx_image *in = call->in;
    const float *frame = lx_image_f32(in, at.frame + tap);
    for (int i = 0; i < 16; i++) {
        int64_t y = at.y - 1 + i / 4, x = at.x - 1 + i % 4;
        bool is_inside = y >= 0 && x >= 0 && y < call->out->height && x < call->out->width;
        if (call->upsample) {
            y /= 2;
            x /= 2;
        }
        out[i] = is_inside ? frame + (y * in->width + x) * in->channels : NULL;
    }
}

/* B' over n channels: in[0..3] to four rows of out, `step` floats apart. */
ALWAYS_INLINE void rows_in(const float *const in[4], int64_t n, float *out, int64_t step)
{
    const float *p = in[0], *q = in[1], *r = in[2], *s = in[3];
    float *a = out, *b = out + step, *c = out + 2 * step, *d = out + 3 * step;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        a[i] = p[i] - r[i];
        b[i] = q[i] + r[i];
        c[i] = r[i] - q[i];
        d[i] = q[i] - s[i];
    }
}

ALWAYS_INLINE void transform_in(const batch *b)
{
    const lx_conv_call *call = b->call;
    int64_t c_in = call->conv->c_in, part = part_floats(b->k);
    float half[16][LANES];
    for (int64_t i = 0; i < b->n; i++)
        for (int64_t tap = 0; tap < call->conv->kt; tap++) {
            const float *pixel[16];
            pixels_of(call, place_of(call->out, b->first + i), tap, pixel);
            for (int64_t c = 0; c < c_in; c += LANES) {
                int64_t n = lx_min_i64(LANES, c_in - c);
                float *v = b->v + i * b->k + tap * c_in + c;
                for (int y = 0; y < 4; y++) { /* along x: half[4y + j] */
                    const float *in[4];
                    for (int x = 0; x < 4; x++)
                        in[x] = pixel[4 * y + x] ? pixel[4 * y + x] + c : zeros;
                    rows_in(in, n, half[4 * y], LANES);
                }
                for (int j = 0; j < 4; j++) { /* along y */
                    const float *in[4] = {half[j], half[4 + j], half[8 + j], half[12 + j]};
                    rows_in(in, n, v + j * part, 4 * part);
                }
            }
        }
}

/* A' over n channels: four rows of in, `step` apart, to two of out. */
ALWAYS_INLINE void rows_out(const float *in, int64_t step, int64_t n, float *a, float *b)
{
    const float *p = in, *q = in + step, *r = in + 2 * step, *s = in + 3 * step;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        a[i] = (p[i] + q[i]) + r[i];
        b[i] = (q[i] - r[i]) - s[i];
    }
}

/* out = y + bias (+ residual) */
ALWAYS_INLINE void finish(const float *y, const float *bias, const float *residual, int64_t n,
                          float *out)
{
    if (residual) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            out[i] = (y[i] + bias[i]) + residual[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            out[i] = y[i] + bias[i];
    }
}

ALWAYS_INLINE void transform_out(const batch *b)
{
    const lx_conv_call *call = b->call;
    lx_image *out = call->out;
    int64_t c_out = call->conv->c_out, part = part_floats(c_out);
    float half[8][LANES], y[4][LANES];
    for (int64_t i = 0; i < b->n; i++) {
        tile_place at = place_of(out, b->first + i);
        float *to = lx_image_f32(out, at.frame);
        const float *extra = call->residual ? lx_image_f32(call->residual, at.frame) : NULL;
        for (int64_t c = 0; c < c_out; c += LANES) {
            int64_t n = lx_min_i64(LANES, c_out - c);
            const float *m = b->m + i * c_out + c;
            for (int j = 0; j < 4; j++) /* along y: half[j] and half[4 + j] */
                rows_out(m + j * part, 4 * part, n, half[j], half[4 + j]);
            rows_out(half[0], LANES, n, y[0], y[1]);
            rows_out(half[4], LANES, n, y[2], y[3]);
            for (int p = 0; p < 4; p++) {
                if (at.y + p / 2 >= out->height || at.x + p % 2 >= out->width)
                    continue;
                int64_t o = ((at.y + p / 2) * out->width + at.x + p % 2) * c_out + c;
                finish(y[p], call->conv->bias + c, extra ? extra + o : NULL, n, to + o);
            }
        }
    }
}

typedef struct transforms {
    void (*in)(const batch *b);
    void (*out)(const batch *b);
} transforms;

#define TRANSFORMS(name, attribute)                                                                \
    attribute static void in_##name(const batch *b)                                                \
    {                                                                                              \
        transform_in(b);                                                                           \
    }                                                                                              \
    attribute static void out_##name(const batch *b)                                               \
    {                                                                                              \
        transform_out(b);                                                                          \
    }

TRANSFORMS(plain, )
#ifdef __x86_64__
TRANSFORMS(avx2, __attribute__((target("avx2"))))
TRANSFORMS(avx512, __attribute__((target("avx512f"))))

static transforms best(void)
{
    if (__builtin_cpu_supports("avx512f"))
        return (transforms){in_avx512, out_avx512};
    return __builtin_cpu_supports("avx2") ? (transforms){in_avx2, out_avx2}
                                          : (transforms){in_plain, out_plain};
}
#else
static transforms best(void)
{
    return (transforms){in_plain, out_plain};
}
#endif

/* --- running ------------------------------------------------------------------------------- */

static int64_t scratch_floats(const lx_conv *conv)
{
    return PARTS * (part_floats(conv->kt * conv->c_in) + part_floats(conv->c_out));
}

uint64_t lx_winograd_scratch(const lx_conv *conv, int n_threads)
{
    return (uint64_t)scratch_floats(conv) * (uint64_t)n_threads;
}

static int products(const batch *b)
{
    const lx_conv *conv = b->call->conv;
    const float *packed = conv->packed;
    lx_gemm g = {.m = BATCH,
                 .n = conv->c_out,
                 .k = b->k,
                 .lda = b->k,
                 .ldb = conv->c_out,
                 .ldc = conv->c_out,
                 .alpha = 1};
    for (int64_t e = 0; e < PARTS; e++) {
        float *m = b->m + e * part_floats(conv->c_out);
        if (b->call->upsample && (e / 4 == 2 || e % 4 == 2)) { /* zero whatever the input */
            memset(m, 0, (size_t)(b->n * conv->c_out) * sizeof *m);
            continue;
        }
        float *v = b->v + e * part_floats(b->k);
        memset(v + b->n * b->k, 0, (size_t)((BATCH - b->n) * b->k) * sizeof *v);
        int code = lx_dnnl_sgemm(&g, v, packed + e * b->k * conv->c_out, m);
        if (code)
            return code;
    }
    return 0;
}

lx_status lx_winograd_run(lx_exec *x, const lx_conv_call *call, lx_err *err)
{
    const lx_conv *conv = call->conv;
    const lx_image *out = call->out;
    int64_t n_tiles = out->frames * ((out->height + 1) / 2) * ((out->width + 1) / 2);
    int64_t n_batches = lx_ceil_div(n_tiles, BATCH), k = conv->kt * conv->c_in;
    transforms run = best();
    int code = 0;
    (void)x; /* a build without OpenMP is serial */
#pragma omp parallel for schedule(dynamic) num_threads(x->n_threads)
    for (int64_t i = 0; i < n_batches; i++) {
        float *scratch = (float *)call->scratch + lx_cpu_thread() * scratch_floats(conv);
        batch b = {.call = call,
                   .first = i * BATCH,
                   .n = lx_min_i64(BATCH, n_tiles - i * BATCH),
                   .k = k,
                   .v = scratch,
                   .m = scratch + PARTS * part_floats(k)};
        run.in(&b);
        lx_cpu_note(&code, products(&b));
        run.out(&b);
    }
    return lx_dnnl_check(code, "convolution", err);
}
