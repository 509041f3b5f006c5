/*
 * conv.c - convolution on a card: how weights are packed, which tiles run
 * SPDX-License-Identifier: Apache-2.0
 *
 * Idea      Inputs that are a multiple of 8 channels go through tensor cores; others, which only
 *           small test models have, through one thread per output. Nearest x2 is four convolutions
 *           of 2x2 taps on the small image, one per phase of the output: taps that fall on one
 *           pixel are summed before they are rounded, 4/9 of the work is left. The widest tile of
 *           outputs that pads least is taken. None of it depends on the picture's size, but for the
 *           number of pixels in a tile, which changes no bit.
 * F16       3x3x3 convolutions of normalised images may take F16 and sum a step of conv_tile.cuh
 *           in F16. A norm makes |x| <= sqrt(C) |gain|, and SiLU no more of it; so what the
 *           largest sum of a step can be is known from weights and gains. The image has 11 bits
 *           then instead of 8, which is more than its sums lose.
 * Source    Wan2.1 wan/modules/vae.py; nearest upsampling and its 3 x 3 taken as four of 2 x 2
 */
#include "conv_card.h"

#include <inttypes.h>
#include <math.h>

#include "lx_copy.h"

enum { PHASES = 4, WIDE = 96 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Outputs of a tile. */
static int tile_of(const lx_conv *conv)
{
    static const int choices[] = {WIDE, 48, 32};
    int best = choices[0];
    if (conv->c_out <= 8)
        return 8;
    for (int i = 1; i < 3; i++)
        if (ceil_div(conv->c_out, choices[i]) * choices[i] < ceil_div(conv->c_out, best) * best)
            best = choices[i];
    return best;
}

/* The resamplers' kernels are packed a second time, in phases. */
static bool has_phases(const lx_conv *conv)
{
    return conv->kt == 1 && conv->kh == 3;
}

/* --- F16 ------------------------------------------------------------------------------------- */

#define F16_MAX  65504.0
#define F16_ROOM 60000.0 /* of sums: their roundings are not reckoned */

/* The largest sum of one row of taps, over inputs first .. first + 31 of output o, if their
 * x / gain have a sum of squares of c_in in each pixel (Cauchy, Schwarz). */
static double largest_sum(const lx_conv *conv, const float *weight, const float *gain, int64_t o,
                          int64_t row, int64_t first)
{
    int64_t taps = conv->kt * conv->kh * conv->kw;
    int64_t end = first + LX_CU_CONV_K < conv->c_in ? first + LX_CU_CONV_K : conv->c_in;
    double all = 0;
    for (int64_t j = 0; j < conv->kw; j++) {
        double square = 0;
        for (int64_t c = first; c < end; c++) {
            double by =
                (double)weight[(o * conv->c_in + c) * taps + row * conv->kw + j] * (double)gain[c];
            square += by * by;
        }
        all += sqrt(square);
    }
    return all * sqrt((double)conv->c_in);
}

/* Every number and every sum that can be; false where one is not finite. */
static bool fits_f16(const lx_conv *conv, const float *weight, const float *gain)
{
    int64_t n = conv->c_out * conv->c_in * conv->kt * conv->kh * conv->kw, n_large = 0;
    for (int64_t c = 0; c < conv->c_in; c++)
        n_large += !(sqrt((double)conv->c_in) * fabs((double)gain[c]) <= F16_MAX);
    for (int64_t i = 0; i < n; i++)
        n_large += !(fabs((double)weight[i]) <= F16_MAX);
#pragma omp parallel for reduction(+ : n_large)
    for (int64_t o = 0; o < conv->c_out; o++)
        for (int64_t row = 0; row < conv->kt * conv->kh; row++)
            for (int64_t first = 0; first < conv->c_in; first += LX_CU_CONV_K)
                n_large += !(largest_sum(conv, weight, gain, o, row, first) <= F16_ROOM);
    return n_large == 0;
}

static lx_dtype conv_input(const lx_exec *x, const lx_conv *conv, const float *weight,
                           const float *gain)
{
    bool is_wanted = x->sums == LX_SUMS_F16 ||
                     (x->sums == LX_SUMS_AUTO && lx_card_has_slow_f32_sums(lx_cuda_card(x->cuda)));
    bool is_served = conv->c_in % 8 == 0 && tile_of(conv) > 8 && conv->kt == 3 && conv->kw == 3;
    if (!is_wanted || !is_served || (weight && !fits_f16(conv, weight, gain)))
        return x->rows;
    return LX_DTYPE_F16;
}

/* --- packing --------------------------------------------------------------------------------- */

/* Elements of one packed array with that many taps. */
static uint64_t packed_elements(const lx_conv *conv, int64_t taps)
{
    int64_t bn = tile_of(conv), n = ceil_div(conv->c_out, bn) * bn;
    return (uint64_t)(n * taps * ceil_div(conv->c_in, LX_CU_CONV_K) * LX_CU_CONV_K);
}

static uint64_t conv_packed(const lx_conv *conv)
{
    uint64_t n = packed_elements(conv, conv->kt * conv->kh * conv->kw);
    if (has_phases(conv))
        n += PHASES * packed_elements(conv, 4);
    return n * sizeof(uint16_t);
}

static uint64_t conv_scratch(const lx_exec *x, const lx_conv *conv)
{
    (void)x, (void)conv;
    return 0;
}

/* The taps of a 3x3 kernel that one tap of a packed array stands for. */
typedef struct tap_range {
    int64_t row, rows, column, columns; /* row counts all of kt * kh */
} tap_range;

/* Tap `tap` of the two that an even (odd) row or column sees: {0}, {1, 2} or {0, 1}, {2}. */
static void phase_range(int is_odd, int64_t tap, int64_t *first, int64_t *n)
{
    *first = tap == 0 ? 0 : is_odd ? 2 : 1;
    *n = (tap == 0) == (is_odd != 0) ? 2 : 1;
}

static tap_range range_of(int phase, int64_t row, int64_t column)
{
    tap_range r = {.row = row, .rows = 1, .column = column, .columns = 1};
    if (phase >= 0) {
        phase_range(phase >> 1, row, &r.row, &r.rows);
        phase_range(phase & 1, column, &r.column, &r.columns);
    }
    return r;
}

static float tap_sum(const lx_conv *conv, const float *weight, const tap_range *r)
{
    double sum = 0;
    for (int64_t i = r->row; i < r->row + r->rows; i++)
        for (int64_t j = r->column; j < r->column + r->columns; j++)
            sum += (double)weight[i * conv->kw + j];
    return (float)sum;
}

/* One array in cu_conv.h's order; phase -1: of the kernel as it is. */
static void pack_array(const lx_conv *conv, const float *weight, int phase, uint16_t *out)
{
    const int64_t rows = phase < 0 ? conv->kt * conv->kh : 2, kw = phase < 0 ? conv->kw : 2;
    const int64_t bn = tile_of(conv), chunks = ceil_div(conv->c_in, LX_CU_CONV_K);
    const int64_t taps = conv->kt * conv->kh * conv->kw;
    const int64_t blocks = ceil_div(conv->c_out, bn) * rows * chunks * kw;
#pragma omp parallel for
    for (int64_t block = 0; block < blocks; block++) {
        int64_t column = block % kw, chunk = block / kw % chunks, row = block / kw / chunks % rows;
        int64_t tile = block / kw / chunks / rows;
        const tap_range range = range_of(phase, row, column);
        uint16_t *to = out + block * bn * LX_CU_CONV_K;
        for (int64_t n = 0; n < bn; n++)
            for (int64_t k = 0; k < LX_CU_CONV_K; k++) {
                int64_t o = tile * bn + n, c = chunk * LX_CU_CONV_K + k;
                float v = 0;
                if (o < conv->c_out && c < conv->c_in)
                    v = tap_sum(conv, weight + (o * conv->c_in + c) * taps, &range);
                to[lx_cu_conv_place((int)n, (int)k)] =
                    conv->input == LX_DTYPE_F16 ? lx_f16_from_f32(v) : lx_bf16_from_f32(v);
            }
    }
}

static void conv_pack(const lx_conv *conv, const float *weight, void *packed)
{
    uint16_t *out = packed;
    pack_array(conv, weight, -1, out);
    out += packed_elements(conv, conv->kt * conv->kh * conv->kw);
    for (int phase = 0; phase < PHASES && has_phases(conv); phase++)
        pack_array(conv, weight, phase, out + (uint64_t)phase * packed_elements(conv, 4));
}

/* --- running --------------------------------------------------------------------------------- */

lx_cu_image lx_cuda_image_of(const lx_image *image)
{
    if (!image)
        return (lx_cu_image){0};
    int64_t dense = image->height * image->width * image->channels;
    return (lx_cu_image){.dtype = (int)image->dtype,
                         .frames = image->frames,
                         .height = image->height,
                         .width = image->width,
                         .channels = image->channels,
                         .stride = image->frame_stride ? image->frame_stride : dense,
                         .data = image->data,
                         .history = {image->history[0], image->history[1]}};
}

lx_status lx_cuda_image_check(const lx_image *image, const char *what, lx_err *err)
{
    const int64_t most = INT32_MAX / 2;
    if (image->frames <= UINT16_MAX && image->height <= most / image->width &&
        image->frames <= most / (image->height * image->width))
        return LX_OK;
    return lx_fail(err, LX_EJOB,
                   "%s: %" PRId64 " frames of %" PRId64 "x%" PRId64
                   " are more than a card takes at once",
                   what, image->frames, image->height, image->width);
}

/* Pixels of a tile: 256, or 128 where that leaves fewer multiprocessors waiting. The smaller tile
 * reads weights twice as often, taken as a seventh more time per pixel. */
static int pixels_of(const lx_exec *x, int64_t pixels, int64_t n_tiles)
{
    const lx_card_kind *card = &x->cuda->card;
    int64_t slots = (card->n_sm > 0 ? card->n_sm : 1) * (card->shared_bytes >= 160 << 10 ? 2 : 1);
    int64_t large = ceil_div(ceil_div(pixels, 256) * n_tiles, slots) * 2;
    int64_t small = ceil_div(ceil_div(pixels, 128) * n_tiles, slots);
    return small * 8 < large * 7 ? 128 : 256;
}

static lx_status conv_run(lx_exec *x, const lx_conv_call *call, lx_err *err)
{
    const lx_conv *conv = call->conv;
    lx_status status = lx_cuda_image_check(call->out, "convolution", err);
    if (status != LX_OK)
        return status;
    bool is_tiled = conv->c_in % 8 == 0 && (!call->upsample || has_phases(conv));
    bool is_phased = is_tiled && call->upsample;
    lx_cu_conv args = {.in = lx_cuda_image_of(call->in),
                       .out = lx_cuda_image_of(call->out),
                       .residual = lx_cuda_image_of(call->residual),
                       .packed = conv->packed,
                       .bias = conv->bias,
                       .kt = (int)conv->kt,
                       .kh = is_phased ? 2 : (int)conv->kh,
                       .kw = is_phased ? 2 : (int)conv->kw,
                       .upsample = call->upsample,
                       .bn = tile_of(conv)};
    if (is_phased)
        args.packed =
            (const uint16_t *)conv->packed + packed_elements(conv, conv->kt * conv->kh * conv->kw);
    args.bm = pixels_of(x, call->out->frames * call->in->height * call->in->width,
                        ceil_div(conv->c_out, args.bn));
    const lx_cuda_conv_ops *ops = x->cuda->module->conv;
    int code = is_tiled ? ops->tiles(x->cuda->dev, &args) : ops->plain(x->cuda->dev, &args);
    return lx_cuda_status(x->cuda, code, "convolution", err);
}

static lx_status norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu, lx_image *out,
                      lx_err *err)
{
    lx_cu_image from = lx_cuda_image_of(in), to = lx_cuda_image_of(out);
    lx_status status = lx_cuda_image_check(in, "channel norm", err);
    if (status != LX_OK)
        return status;
    return lx_cuda_status(x->cuda,
                          x->cuda->module->conv->norm(x->cuda->dev, &from, gamma, silu, &to),
                          "channel norm", err);
}

static lx_status crop(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                      lx_err *err)
{
    lx_cu_image from = lx_cuda_image_of(in), to = lx_cuda_image_of(out);
    lx_status status = lx_cuda_image_check(in, "window", err);
    if (status != LX_OK)
        return status;
    return lx_cuda_status(x->cuda, x->cuda->module->conv->crop(x->cuda->dev, &from, y, x0, &to),
                          "window of an image", err);
}

static lx_status from_planes(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                             const float *scale, const float *shift, lx_image *out, lx_err *err)
{
    lx_cu_affine affine = {0};
    lx_cu_image to = lx_cuda_image_of(out);
    lx_status status = lx_cuda_image_check(out, "planes", err);
    if (status != LX_OK)
        return status;
    if (out->frames * out->channels > UINT16_MAX)
        return lx_fail(err, LX_EJOB,
                       "planes: %" PRId64 " frames of %" PRId64
                       " channels are more than a card takes at once",
                       out->frames, out->channels);
    for (int64_t c = 0; c < out->channels && c < LX_CU_AFFINE; c++) {
        affine.scale[c] = scale[c];
        affine.shift[c] = shift[c];
    }
    int code =
        x->cuda->module->conv->from_planes(x->cuda->dev, planes, n_frames, first, &affine, &to);
    return lx_cuda_status(x->cuda, code, "planes to an image", err);
}

const lx_conv_ops lx_conv_ops_cuda = {
    .packed = conv_packed,
    .scratch = conv_scratch,
    .input = conv_input,
    .pack = conv_pack,
    .run = conv_run,
    .norm = norm,
    .copy = lx_copy,
    .crop = crop,
    .from_planes = from_planes,
    .i420 = lx_cuda_i420,
    .rgb8 = lx_cuda_rgb8,
    .planes = lx_cuda_planes,
};
