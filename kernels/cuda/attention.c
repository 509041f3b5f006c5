/*
 * attention.c - attention on a card: which kernel, which scratch, how large a launch
 * SPDX-License-Identifier: Apache-2.0
 *
 * Kernels   wgmma  attention_wgmma.cu  Hopper, INT8 asked for, head_dim 128, no biases
 *           int8   attention_int8.cu   asked for, head_dim 64 or 128, no relative positions
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
#include "lx_cuda_priv.h"

#define LAUNCH_S 0.1

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

typedef enum variant { WGMMA, INT8, FLASH, WIDE, SMALL } variant;

/* 1e12 operations per second and SM that a kernel reaches at least, by the card's kind: about half
 * of what the tensor cores' rates in attention.md b.4 allow. */
static double rate_of(const lx_card_kind *card, variant v)
{
    static const double geforce[] = {[INT8] = 0.7, [FLASH] = 0.4, [WIDE] = 0.25, [SMALL] = 0.01};
    static const double a100[] = {[INT8] = 1.2, [FLASH] = 1.0, [WIDE] = 0.6, [SMALL] = 0.01};
    static const double hopper[] = {
        [WGMMA] = 2.5, [INT8] = 2.0, [FLASH] = 1.3, [WIDE] = 0.8, [SMALL] = 0.01};
    if (card->major == 8 && card->minor == 0)
        return a100[v] * 1e12;
    return card->major == 9 ? hopper[v] * 1e12 : geforce[v] * 1e12;
}

/* GeForce cards run F16 products with F32 sums at half rate (attention.md b.4). */
static bool has_slow_f32_sums(const lx_card_kind *card)
{
    return (card->major == 8 && card->minor != 0) || card->major > 9;
}

/* A kernel's unit of work: so many queries of a head. */
static int64_t unit_queries(variant v, int64_t rows_per_block)
{
    return v == INT8 ? rows_per_block : v == WGMMA || v == FLASH ? 128 : v == WIDE ? 64 : 1;
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

/* --- keys and values ------------------------------------------------------------------------- */

static bool can_int8(const lx_kv *kv)
{
    return (kv->head_dim == 64 || kv->head_dim == 128) && kv->n < INT32_MAX / 2 &&
           kv->k.stride % 8 == 0 && kv->v.stride % 8 == 0;
}

static bool has_images(const lx_card_kind *card, const lx_kv *kv)
{
    return lx_card_has_wgmma(card) && kv->head_dim == LX_CU_IMAGE_CHANNELS;
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

/* Hopper's kernel wants whole images of 128 keys and of their values. */
static lx_status take_images(lx_exec *x, lx_kv *kv, bool is_fp8, lx_cu_kv *job, lx_err *err)
{
    uint64_t width = (uint64_t)kv->k.cols,
             bytes = is_fp8 ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES;
    uint64_t images = (uint64_t)kv->n_heads * (uint64_t)ceil_div(kv->n, LX_CU_IMAGE_KEYS);
    void *k_images, *v_images;
    /* n * width * 4 bytes are sane, and an image has at most 2.02 * 128 * 128 for 128 keys. */
    lx_status status =
        lx_arena_take(x->arena, (size_t)(images * LX_CU_IMAGE_K_BYTES), &k_images, err);
    if (status == LX_OK)
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
    return LX_OK;
}

/* What is prepared for attention of INT8; kv->kind and what lies where. */
static lx_status take_memory(lx_exec *x, lx_attention_kind kind, lx_kv *kv, lx_cu_kv *job,
                             lx_err *err)
{
    const lx_card_kind *card = lx_cuda_card(x->cuda);
    if (!has_images(card, kv)) {
        kv->kind = LX_ATTENTION_INT8;
        return take_codes(x, kv, has_slow_f32_sums(card), job, err);
    }
    kv->kind = kind;
    return take_images(x, kv, kind == LX_ATTENTION_INT8_FP8, job, err);
}

lx_status lx_cuda_kv_prepare(lx_exec *x, lx_attention_kind kind, lx_kv *kv, lx_err *err)
{
    kv->kind = LX_ATTENTION_PLAIN;
    if (kind == LX_ATTENTION_PLAIN || !can_int8(kv))
        return LX_OK;
    lx_cu_kv job = {.k = kv->k.data,
                    .v = kv->v.data,
                    .k_stride = kv->k.stride,
                    .v_stride = kv->v.stride,
                    .n = kv->n,
                    .n_heads = (int)kv->n_heads,
                    .head_dim = (int)kv->head_dim};
    lx_status status = take_memory(x, kind, kv, &job, err);
    if (status != LX_OK)
        return status;
    size_t mark = lx_arena_mark(x->arena);
    int64_t rows = kv->v_scale ? LX_CU_IMAGE_KEYS : LX_CU_ATTENTION_MEAN_ROWS;
    uint64_t chunks = (uint64_t)ceil_div(kv->n, rows);
    status = lx_arena_take_f32(x->arena, chunks * (uint64_t)kv->k.cols, &job.partial, err);
    lx_arena_reset(x->arena, mark);
    if (status != LX_OK || x->is_dry)
        return status;
    if (!is_aligned(&kv->k) || !is_aligned(&kv->v)) {
        kv->kind = LX_ATTENTION_PLAIN;
        return LX_OK;
    }
    job.k_mean = kv->k_mean;
    job.codes = kv->codes;
    job.k_scale = kv->scale;
    const lx_cuda_attention_ops *ops = x->cuda->module->attention;
    return lx_cuda_status(x->cuda, (kv->k_images ? ops->tiles : ops->quantize)(x->cuda->dev, &job),
                          "quantizing keys", err);
}

/* --- attention ------------------------------------------------------------------------------- */

static variant choose(const lx_attention_args *args)
{
    const lx_kv *kv = args->kv;
    bool is_fit = is_aligned(&args->q) && is_aligned(&args->out) && is_aligned(&kv->k) &&
                  is_aligned(&kv->v) && kv->head_dim % 8 == 0 && args->scale > 0 &&
                  args->q.rows < INT32_MAX / 2 && kv->n < INT32_MAX / 2;
    if (!is_fit || kv->head_dim > LX_CU_ATTENTION_WIDE_DIM)
        return SMALL;
    if (kv->kind != LX_ATTENTION_PLAIN && kv->k_images && !args->rel && !args->key_bias)
        return WGMMA;
    if (kv->kind != LX_ATTENTION_PLAIN && kv->codes && !args->rel)
        return INT8;
    return kv->head_dim <= LX_CU_ATTENTION_FLASH_DIM ? FLASH : WIDE;
}

/* Few keys: the beginning and end of a block weigh, so two small blocks share an SM. With F16 sums
 * there is one size. */
static int rows_per_block(int64_t n_k, bool has_f16_sums)
{
    return n_k < 2048 && !has_f16_sums ? 128 : 256;
}

lx_status lx_cuda_attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    const lx_kv *kv = args->kv;
    const lx_card_kind *card = lx_cuda_card(x->cuda);
    if (kv->head_dim > LX_CU_ATTENTION_SMALL_DIM)
        return lx_fail(err, LX_EJOB,
                       "attention with %" PRId64 " columns in a head is not possible on a card "
                       "(at most %d)",
                       kv->head_dim, LX_CU_ATTENTION_SMALL_DIM);
    if (x->is_dry)
        return LX_OK;
    variant v = choose(args);
    if (args->lse && v != WGMMA)
        return lx_fail(err, LX_EJOB,
                       "attention on %s has no kernel that tells the log of the sum "
                       "for heads of %" PRId64 " columns as these are prepared",
                       card->name, kv->head_dim);
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
    if (v == WGMMA) {
        a.k_images = kv->k_images;
        a.v_images = kv->v_images;
        a.v_scale = kv->v_scale;
        a.v_shift = kv->v_shift;
        a.k_mean = kv->k_mean;
        a.lse = args->lse;
    }
    if (v == INT8) {
        a.codes = kv->codes;
        a.k_scale = kv->scale;
        a.has_f16_sums = has_slow_f32_sums(card);
        a.v_peak = a.has_f16_sums ? peaks_of(kv) : NULL;
        a.rows_per_block = rows_per_block(kv->n, a.has_f16_sums);
    }
    a.units_per_launch = units_per_launch(card, v, &a);
    const lx_cuda_attention_ops *ops = x->cuda->module->attention;
    int (*run)(lx_cuda_dev *, const lx_cu_attention *) = v == WGMMA   ? ops->wgmma
                                                         : v == INT8  ? ops->int8
                                                         : v == FLASH ? ops->flash
                                                         : v == WIDE  ? ops->wide
                                                                      : ops->small;
    return lx_cuda_status(x->cuda, run(x->cuda->dev, &a), "attention", err);
}
