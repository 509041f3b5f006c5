/*
 * attention.c - attention on a card: which kernel, which scratch, how large a launch
 * SPDX-License-Identifier: Apache-2.0
 *
 * Kernels   wgmma  attention_wgmma.cu  Hopper, INT8 asked for, head_dim 128, no biases
 *           int8   attention_int8.cu   asked for, head_dim 64 or 128, no relative positions
 *           fp8    attention_fp8.cu    8.9 and later, FP8 asked for, head_dim 128, no biases
 *           few    attention_few.cu    head_dim 128, as many keys as fit into shared memory (192
 *                                      of 99 KB, 448 of a Hopper), no relative positions, no
 *                                      rotation on the way
 *           flash  attention_flash.cu  head_dim a multiple of 8 up to 128
 *           wide   attention_wide.cu   head_dim a multiple of 8 up to 512
 *           small  attention_small.cu  everything else
 *           All but the last read 16 bytes at a time: addresses and strides must allow that.
 * Launches  None is predicted to last more than LAUNCH_S, from rates that the slowest card of each
 *           kind should exceed. Cancel, the display and other processes wait for at most one.
 */
#include <inttypes.h>

#include "attention_image.h"
#include "cu_attention.h"
#include "cu_rows.h"
#include "lx_cuda_priv.h"

#define LAUNCH_S 0.1

/* Into what the largest value of a channel in FP8 is scaled: E4M3's largest number; with F16 sums
 * of 64 keys, whose weights are at most 448, that 448 * 64 times it stays finite. */
#define E4M3_MAX        448.0f
#define TOP_OF_F16_SUMS 2.25f

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

typedef enum variant { WGMMA, INT8, FP8, FEW, FLASH, WIDE, SMALL } variant;

/* 1e12 operations per second and SM that a kernel reaches at least, by the card's kind: about half
 * of what the tensor cores' rates on the data sheets allow. */
static double rate_of(const lx_card_kind *card, variant v)
{
    static const double geforce[] = {
        [INT8] = 0.7, [FP8] = 0.7, [FEW] = 0.4, [FLASH] = 0.4, [WIDE] = 0.25, [SMALL] = 0.01};
    static const double a100[] = {
        [INT8] = 1.2, [FEW] = 1.0, [FLASH] = 1.0, [WIDE] = 0.6, [SMALL] = 0.01};
    static const double hopper[] = {[WGMMA] = 2.5, [INT8] = 2.0, [FP8] = 0.7,   [FEW] = 1.3,
                                    [FLASH] = 1.3, [WIDE] = 0.8, [SMALL] = 0.01};
    if (card->major == 8 && card->minor == 0 && !lx_card_has_slow_f32_sums(card))
        return a100[v] * 1e12;
    return lx_card_has_wgmma(card) ? hopper[v] * 1e12 : geforce[v] * 1e12;
}

/* Of weights x values, by mma.sync. */
static bool has_f16_sums(const lx_exec *x)
{
    return x->sums == LX_SUMS_F16 ||
           (x->sums == LX_SUMS_AUTO && lx_card_has_slow_f32_sums(lx_cuda_card(x->cuda)));
}

/* A kernel's unit of work: so many queries of a head. */
static int64_t unit_queries(variant v, int64_t rows_per_block)
{
    return v == INT8                  ? rows_per_block
           : v == FP8                 ? 256
           : v == FEW                 ? LX_CU_ATTENTION_FEW_QUERIES
           : v == WGMMA || v == FLASH ? 128
           : v == WIDE                ? 64
                                      : 1;
}

static int64_t units_per_launch(const lx_card_kind *card, variant v, const lx_cu_attention *a)
{
    double columns = v == WIDE ? a->head_dim + 128.0 : 2.0 * a->head_dim;
    double ops = 2.0 * columns * (double)unit_queries(v, a->rows_per_block) * (double)a->n_k;
    double units = LAUNCH_S * rate_of(card, v) * card->n_sm / ops;
    int64_t wave =
        2 * (int64_t)card->n_sm; /* whole waves: the last one of a launch is waited for */
    int64_t most = units < 1e9 ? (int64_t)units : 1000000000;
    return most > wave ? most / wave * wave : most > 1 ? most : 1;
}

/* Rows of 2-byte elements that can be read 16 bytes at a time, tiles of them by 32-bit offsets. */
static bool is_aligned(const lx_mat *m)
{
    return (uintptr_t)m->data % 16 == 0 && m->stride % 8 == 0 && m->stride < INT32_MAX / 512;
}

/* --- raw queries and keys -------------------------------------------------------------------- */

/* What attention_turn.cuh takes for granted; what it does not serve is done in place. */
static bool can_turn(const lx_qk_norm *n, int64_t head_dim)
{
    const lx_rope_table *t = n->table;
    bool is_small = !t || t->grid.t * t->grid.h * t->grid.w < INT32_MAX;
    return is_small && (uintptr_t)n->gain->data % 16 == 0 && head_dim % 8 == 0 &&
           (!t || t->head_dim == head_dim);
}

static lx_cu_rope turn_of(const lx_qk_norm *n, const lx_mat *rows, const float *square)
{
    lx_cu_rope r = {.q = lx_cu_mat_of(rows),
                    .gain = lx_cu_vec_of(n->gain),
                    .eps = n->eps,
                    .first_token = n->first_token,
                    .square = square};
    if (n->table) {
        r.head_dim = n->table->head_dim;
        r.grid_h = n->table->grid.h;
        r.grid_w = n->table->grid.w;
        r.t = n->table->t;
        r.h = n->table->h;
        r.w = n->table->w;
    }
    return r;
}

/* The rows' sums of squares: those that are known, else made in scratch. */
static lx_status squares_of(lx_exec *x, const lx_qk_norm *n, const lx_mat *rows,
                            const float **square, lx_err *err)
{
    float *made = NULL;
    *square = n->square;
    if (n->square)
        return LX_OK;
    lx_status status = lx_arena_take_f32(x->arena, (uint64_t)rows->rows, &made, err);
    *square = made;
    if (status != LX_OK || x->is_dry)
        return status;
    lx_cu_mat m = lx_cu_mat_of(rows);
    return lx_cuda_status(x->cuda, x->cuda->module->rows->squares(x->cuda->dev, &m, made),
                          "sums of squares", err);
}

static lx_status norm_in_place(lx_exec *x, const lx_qk_norm *n, const lx_mat *rows, lx_err *err)
{
    return n ? lx_cuda_qk_norm_rope(x, rows, n->first_token, n->gain, n->eps, n->table, err)
             : LX_OK;
}

/* --- keys and values ------------------------------------------------------------------------- */

static bool can_int8(const lx_kv *kv)
{
    return (kv->head_dim == 64 || kv->head_dim == 128) && kv->n < INT32_MAX / 2 &&
           kv->k.stride % 8 == 0 && kv->v.stride % 8 == 0;
}

/* Hopper's kernel reads images; elsewhere that of FP8 values does. */
static bool has_images(const lx_card_kind *card, lx_attention_kind kind, const lx_kv *kv)
{
    bool is_fp8 = kind == LX_ATTENTION_INT8_FP8 && lx_card_has_fp8(card);
    return (lx_card_has_wgmma(card) || is_fp8) && kv->head_dim == LX_CU_IMAGE_CHANNELS;
}

static lx_status take_codes(lx_exec *x, lx_kv *kv, bool has_peaks, lx_cu_kv *job, lx_err *err)
{
    uint64_t width = (uint64_t)kv->k.cols, n_heads = (uint64_t)kv->n_heads, scales;
    uint64_t tiles = (uint64_t)ceil_div(kv->n, LX_CU_ATTENTION_TILE_K);
    void *codes;
    float *k_scale;
    /* rows * columns were checked when k was made; scales are a 1024th of that and one row. */
    scales = tiles * n_heads * LX_CU_ATTENTION_GROUPS;
    lx_status status = lx_arena_take(x->arena, (size_t)((uint64_t)kv->n * width), &codes, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, scales + (has_peaks ? n_heads : 0), &k_scale, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, width, &kv->k_mean, err);
    if (status != LX_OK)
        return status;
    kv->codes = codes;
    kv->scale = k_scale;
    job->v_peak = has_peaks ? k_scale + scales : NULL;
    return LX_OK;
}

/* Where max|v| of each head is, behind the scales. */
static const float *peaks_of(const lx_kv *kv)
{
    return kv->scale +
           ceil_div(kv->n, LX_CU_ATTENTION_TILE_K) * kv->n_heads * LX_CU_ATTENTION_GROUPS;
}

/* Some kernels want whole images of 128 keys and of their values. Keys are done with before
 * values begin, so those may lie where the keys were. */
static lx_status take_images(lx_exec *x, lx_kv *kv, size_t k_room, bool is_fp8, lx_cu_kv *job,
                             lx_err *err)
{
    uint64_t width = (uint64_t)kv->k.cols,
             bytes = is_fp8 ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES;
    uint64_t images = (uint64_t)kv->n_heads * (uint64_t)ceil_div(kv->n, LX_CU_IMAGE_KEYS);
    void *k_images, *v_images = kv->k.data;
    bool is_in_k = k_room >= images * bytes;
    /* n * width * 4 bytes are sane, and an image has at most 2.02 * 128 * 128 for 128 keys. */
    lx_status status =
        lx_arena_take(x->arena, (size_t)(images * LX_CU_IMAGE_K_BYTES), &k_images, err);
    if (status == LX_OK && !is_in_k)
        status = lx_arena_take(x->arena, (size_t)(images * bytes), &v_images, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, width, &kv->k_mean, err);
    if (status == LX_OK && is_fp8)
        status = lx_arena_take_f32(x->arena, width, &kv->v_scale, err);
    if (status == LX_OK && is_fp8)
        status = lx_arena_take_f32(x->arena, width, &kv->v_shift, err);
    if (status != LX_OK)
        return status;
    job->k_images = kv->k_images = k_images;
    job->v_images = kv->v_images = v_images;
    job->v_scale = kv->v_scale;
    job->v_shift = kv->v_shift;
    job->v_top =
        !lx_card_has_wgmma(lx_cuda_card(x->cuda)) && has_f16_sums(x) ? TOP_OF_F16_SUMS : E4M3_MAX;
    if (is_in_k)
        kv->k.data = NULL; /* job->k still says where they are */
    return LX_OK;
}

/* What is prepared for attention of INT8; kv->kind and what lies where. */
static lx_status take_memory(lx_exec *x, lx_attention_kind kind, size_t k_room, lx_kv *kv,
                             lx_cu_kv *job, lx_err *err)
{
    const lx_card_kind *card = lx_cuda_card(x->cuda);
    if (!has_images(card, kind, kv)) {
        kv->kind = LX_ATTENTION_INT8;
        return take_codes(x, kv, has_f16_sums(x), job, err);
    }
    kv->kind = kind;
    return take_images(x, kv, k_room, kind == LX_ATTENTION_INT8_FP8, job, err);
}

/* Scratch of the preparation: column sums, and where they are wanted the rows' squares. */
static lx_status take_scratch(lx_exec *x, const lx_kv_source *from, const lx_kv *kv, lx_cu_kv *job,
                              lx_err *err)
{
    int64_t rows = kv->v_scale ? LX_CU_IMAGE_KEYS : LX_CU_ATTENTION_MEAN_ROWS;
    uint64_t chunks = (uint64_t)ceil_div(kv->n, rows);
    const float *square = NULL;
    lx_status status =
        lx_arena_take_f32(x->arena, chunks * (uint64_t)kv->k.cols, &job->partial, err);
    if (status == LX_OK && from->k_norm)
        status = squares_of(x, from->k_norm, &from->k, &square, err);
    if (status == LX_OK && from->k_norm)
        job->turn = turn_of(from->k_norm, &from->k, square);
    return status;
}

static lx_status prepare(lx_exec *x, const lx_kv_source *from, lx_kv *kv, lx_cu_kv *job,
                         lx_err *err)
{
    const lx_cuda_attention_ops *ops = x->is_dry ? NULL : x->cuda->module->attention;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = take_scratch(x, from, kv, job, err);
    job->k_mean = kv->k_mean;
    job->codes = kv->codes;
    job->k_scale = kv->scale;
    if (status == LX_OK && !x->is_dry)
        status =
            lx_cuda_status(x->cuda, (kv->k_images ? ops->tiles : ops->quantize)(x->cuda->dev, job),
                           "quantizing keys", err);
    lx_arena_reset(x->arena, mark);
    if (from->k_norm)
        kv->k.data = NULL; /* raw: no other kernel may read them */
    return status;
}

lx_status lx_cuda_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from,
                             lx_kv *kv, lx_err *err)
{
    kv->kind = LX_ATTENTION_PLAIN;
    bool is_fit = can_int8(kv) && (!from->k_norm || can_turn(from->k_norm, kv->head_dim)) &&
                  (x->is_dry || (is_aligned(&kv->k) && is_aligned(&kv->v)));
    if (kind == LX_ATTENTION_PLAIN || !is_fit)
        return norm_in_place(x, from->k_norm, &kv->k, err);
    lx_cu_kv job = {.k = kv->k.data,
                    .v = kv->v.data,
                    .k_stride = kv->k.stride,
                    .v_stride = kv->v.stride,
                    .n = kv->n,
                    .n_heads = (int)kv->n_heads,
                    .head_dim = (int)kv->head_dim};
    lx_status status = take_memory(x, kind, from->k_room, kv, &job, err);
    return status == LX_OK ? prepare(x, from, kv, &job, err) : status;
}

/* --- attention ------------------------------------------------------------------------------- */

/* How many keys `few` can hold in a block's shared memory, in whole tiles. */
static int64_t few_keys(const lx_card_kind *card)
{
    int64_t keys = (card->shared_bytes - LX_CU_ATTENTION_FEW_BYTES) / LX_CU_ATTENTION_FEW_KEY_BYTES;
    return keys / LX_CU_ATTENTION_TILE_K * LX_CU_ATTENTION_TILE_K;
}

static variant choose(const lx_exec *x, const lx_attention_args *args)
{
    const lx_kv *kv = args->kv;
    bool is_fit = is_aligned(&args->q) && is_aligned(&args->out) && is_aligned(&kv->k) &&
                  is_aligned(&kv->v) && kv->head_dim % 8 == 0 && args->scale > 0 &&
                  args->q.rows < INT32_MAX / 2 && kv->n < INT32_MAX / 2;
    if (!is_fit || kv->head_dim > LX_CU_ATTENTION_WIDE_DIM)
        return SMALL;
    if (kv->kind != LX_ATTENTION_PLAIN && kv->k_images && !args->rel && !args->key_bias)
        return lx_card_has_wgmma(lx_cuda_card(x->cuda)) ? WGMMA : FP8;
    if (kv->kind != LX_ATTENTION_PLAIN && kv->codes && !args->rel)
        return INT8;
    bool is_rotated = args->q_norm && args->q_norm->table;
    if (kv->head_dim == LX_CU_ATTENTION_FEW_DIM && kv->n <= few_keys(lx_cuda_card(x->cuda)) &&
        !args->rel && !is_rotated)
        return FEW;
    return kv->head_dim <= LX_CU_ATTENTION_FLASH_DIM ? FLASH : WIDE;
}

/* Few keys: the beginning and end of a block weigh, so two small blocks share an SM. With F16 sums
 * there is one size. */
static int rows_per_block(int64_t n_k, bool has_f16_sums)
{
    return n_k < 2048 && !has_f16_sums ? 128 : 256;
}

static lx_cu_attention job_of(const lx_exec *x, const lx_attention_args *args, variant v)
{
    const lx_kv *kv = args->kv;
    lx_cu_attention a = {.q = args->q.data,
                         .k = kv->k.data,
                         .v = kv->v.data,
                         .out = args->out.data,
                         .q_stride = args->q.stride,
                         .k_stride = kv->k.stride,
                         .v_stride = kv->v.stride,
                         .out_stride = args->out.stride,
                         .n_q = args->q.rows,
                         .n_k = kv->n,
                         .n_heads = (int)kv->n_heads,
                         .head_dim = (int)kv->head_dim,
                         .scale = args->scale,
                         .rel = args->rel,
                         .key_bias = args->key_bias};
    if (v == WGMMA || v == FP8) {
        a.k_images = kv->k_images;
        a.v_images = kv->v_images;
        a.v_scale = kv->v_scale;
        a.v_shift = kv->v_shift;
        a.k_mean = kv->k_mean;
        a.lse = args->lse;
        a.has_f16_sums = v == FP8 && has_f16_sums(x);
    }
    if (v == INT8) {
        a.codes = kv->codes;
        a.k_scale = kv->scale;
        a.has_f16_sums = has_f16_sums(x);
        a.v_peak = a.has_f16_sums ? peaks_of(kv) : NULL;
        a.rows_per_block = rows_per_block(kv->n, a.has_f16_sums);
    }
    a.units_per_launch = units_per_launch(lx_cuda_card(x->cuda), v, &a);
    return a;
}

static lx_status run(lx_exec *x, const lx_attention_args *args, const float *square, lx_err *err)
{
    const lx_kv *kv = args->kv;
    variant v = choose(x, args);
    bool is_read_once = v == WGMMA || v == INT8 || v == FP8 || v == FEW || v == FLASH;
    if (v != WGMMA && (args->lse || (v != INT8 && v != FP8 && !kv->k.data)))
        return lx_fail(err, LX_EJOB,
                       "attention on %s has no kernel that %s for heads of %" PRId64
                       " columns as these are prepared",
                       lx_cuda_card(x->cuda)->name,
                       args->lse ? "tells the log of the sum" : "takes these queries",
                       kv->head_dim);
    lx_cu_attention a = job_of(x, args, v);
    lx_status status = LX_OK;
    if (args->q_norm && is_read_once && can_turn(args->q_norm, kv->head_dim))
        a.turn = turn_of(args->q_norm, &args->q, square);
    else
        status = norm_in_place(x, args->q_norm, &args->q, err);
    if (status != LX_OK)
        return status;
    const lx_cuda_attention_ops *ops = x->cuda->module->attention;
    int (*kernel)(lx_cuda_dev *, const lx_cu_attention *) = v == WGMMA   ? ops->wgmma
                                                            : v == INT8  ? ops->int8
                                                            : v == FP8   ? ops->fp8
                                                            : v == FEW   ? ops->few
                                                            : v == FLASH ? ops->flash
                                                            : v == WIDE  ? ops->wide
                                                                         : ops->small;
    return lx_cuda_status(x->cuda, kernel(x->cuda->dev, &a), "attention", err);
}

lx_status lx_cuda_attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    if (args->kv->head_dim > LX_CU_ATTENTION_SMALL_DIM)
        return lx_fail(err, LX_EJOB,
                       "attention with %" PRId64 " columns in a head is not possible on a card "
                       "(at most %d)",
                       args->kv->head_dim, LX_CU_ATTENTION_SMALL_DIM);
    const float *square = NULL;
    size_t mark = lx_arena_mark(x->arena);
    lx_status status = LX_OK;
    if (args->q_norm)
        status = squares_of(x, args->q_norm, &args->q, &square, err);
    if (status == LX_OK && !x->is_dry)
        status = run(x, args, square, err);
    lx_arena_reset(x->arena, mark);
    return status;
}
