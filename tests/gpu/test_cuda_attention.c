/*
 * test_cuda_attention.c - attention on a card against the f64 definition; --bench: its speed
 * SPDX-License-Identifier: Apache-2.0
 *
 * Yardstick  PLAIN: twice the error of the same formula with weights, values and result in BF16, as
 *            a plain BF16 framework computes it. INT8: 1.5e-2 relative L2 on logits of unit
 *            deviation (attention.md b.2 gives about 2e-2 relative L1 for this kind of kernel).
 * Rows       Of large problems some (query, head) pairs are checked, the first and last among them.
 *            All memory beyond the operands' rows and columns is NaN.
 */
#include "cuda/cu_attention.h"
#include "cuda/lx_cuda_priv.h"
#include "gpu_check.h"
#include "lx_attention.h"

#define STORE_BYTES    ((size_t)1 << 30)
#define SCRATCH_BYTES  ((size_t)256 << 20)
#define INT8_ALLOWED   1.5e-2
#define CHECK_OPS      1e7 /* of a reference: how many rows are checked */
#define CHECK_ROWS_MAX 2000

enum { WITH_REL = 1, WITH_KEY_BIAS = 2, WITH_SILENT_KEYS = 4 };

/* What is asked for, and how the inputs are made. */
typedef struct shape {
    int64_t n_q, n_k, n_heads, head_dim;
    int64_t slack; /* elements between rows beyond the width */
    lx_attention_kind kind;
    int biases;
    float scale;       /* of logits, times 1 / sqrt(head_dim); 0: 1 */
    float k_offset;    /* plus or minus, per channel of k */
    float k_outlier;   /* added to channel 5 of each head of k */
    float v_magnitude; /* 0: 1 */
    bool is_zero;      /* q and k are zeros */
} shape;

typedef struct problem {
    shape s;
    int64_t width;
    float *q, *k, *v, *rel, *key_bias; /* as rounded, dense */
    lx_mat d_q, d_k, d_v, d_out;
    float *d_rel, *d_key_bias;
    size_t mark;
} problem;

/* Nearly normal: the sum of three uniform numbers has this deviation. */
static float normal(check_rng *r)
{
    return check_uniform(r) + check_uniform(r) + check_uniform(r);
}

/* gpu_rounded for the many. */
static float bf16(float v)
{
    uint32_t bits = (uint32_t)lx_bf16_from_f32(v) << 16;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static float *normals(check_rng *r, lx_dtype dtype, int64_t n, float factor)
{
    float *out = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        out[i] = dtype == LX_DTYPE_BF16 ? bf16(normal(r) * factor)
                                        : gpu_rounded(dtype, normal(r) * factor);
    return out;
}

static void make_keys(problem *p, check_rng *r)
{
    const shape *s = &p->s;
    float *sign = normals(r, LX_DTYPE_F32, p->width, 1);
    p->k = check_floats(s->n_k * p->width);
    for (int64_t i = 0; i < s->n_k * p->width; i++) {
        int64_t c = i % p->width;
        float k = normal(r) + (sign[c] > 0 ? s->k_offset : -s->k_offset);
        k += c % s->head_dim == 5 ? s->k_outlier : 0;
        p->k[i] = s->is_zero ? 0 : bf16(k);
    }
    free(sign);
}

static void make_biases(problem *p, check_rng *r, gpu *g)
{
    const shape *s = &p->s;
    int64_t n_rel = s->n_heads * (s->n_q + s->n_k - 1);
    if (s->biases & WITH_REL) {
        p->rel = normals(r, LX_DTYPE_F32, n_rel, 2);
        p->d_rel = gpu_put(g, p->rel, (size_t)n_rel * sizeof(float));
    }
    if (s->biases & WITH_KEY_BIAS) {
        p->key_bias = normals(r, LX_DTYPE_F32, s->n_k, 1);
        p->key_bias[s->n_k - 1] = 6.1f; /* ln(512 - 66) */
        for (int64_t j = 0; j < 70 && j + 1 < s->n_k && s->biases & WITH_SILENT_KEYS; j++)
            p->key_bias[j] = -HUGE_VALF;
        p->d_key_bias = gpu_put(g, p->key_bias, (size_t)s->n_k * sizeof(float));
    }
}

static problem make(gpu *g, const shape *s)
{
    problem p = {.s = *s, .width = s->n_heads * s->head_dim, .mark = lx_arena_mark(g->store)};
    check_rng r = {(uint64_t)(s->n_q * 31 + s->n_k * 17 + s->head_dim + s->biases)};
    int64_t stride = p.width + s->slack;
    p.q = normals(&r, LX_DTYPE_BF16, s->n_q * p.width, s->is_zero ? 0 : 1);
    make_keys(&p, &r);
    p.v = normals(&r, LX_DTYPE_F16, s->n_k * p.width, s->v_magnitude > 0 ? s->v_magnitude : 1);
    p.d_q = gpu_mat(g, LX_DTYPE_BF16, p.q, s->n_q, p.width, stride);
    p.d_k = gpu_mat(g, LX_DTYPE_BF16, p.k, s->n_k, p.width, stride);
    p.d_v = gpu_mat(g, LX_DTYPE_F16, p.v, s->n_k, p.width, stride);
    make_biases(&p, &r, g);
    p.d_out = (lx_mat){LX_DTYPE_BF16, s->n_q, p.width, stride, NULL};
    p.d_out.data = gpu_take(g, (size_t)(s->n_q * stride) * 2);
    return p;
}

static void destroy(gpu *g, problem *p)
{
    free(p->q), free(p->k), free(p->v), free(p->rel), free(p->key_bias);
    lx_arena_reset(g->store, p->mark);
}

static float scale_of(const shape *s)
{
    return (s->scale > 0 ? s->scale : 1.0f) / sqrtf((float)s->head_dim);
}

static lx_attention_args args_of(const problem *p, const lx_kv *kv)
{
    return (lx_attention_args){.q = p->d_q,
                               .kv = kv,
                               .scale = scale_of(&p->s),
                               .rel = p->d_rel,
                               .key_bias = p->d_key_bias,
                               .out = p->d_out};
}

/* The result, dense; memory of the result begins as ones, and those between rows must stay. */
static float *run(gpu *g, const problem *p)
{
    lx_kv kv;
    size_t bytes = (size_t)(p->d_out.rows * p->d_out.stride) * 2, mark = lx_arena_mark(g->scratch);
    void *ones = gpu_malloc((int64_t)bytes, 1);
    memset(ones, 0xff, bytes);
    gpu_ok(lx_upload(&g->x, p->d_out.data, ones, bytes, err));
    free(ones);
    gpu_ok(lx_kv_prepare(&g->x, p->s.kind, &p->d_k, &p->d_v, p->s.n_heads, &kv, err));
    lx_attention_args args = args_of(p, &kv);
    size_t before = lx_arena_mark(g->scratch);
    gpu_ok(lx_attention(&g->x, &args, err));
    assert_int_equal(lx_arena_mark(g->scratch), before);
    lx_arena_reset(g->scratch, mark);
    return gpu_mat_get(g, &p->d_out);
}

/* --- the definition -------------------------------------------------------------------------- */

static double logit(const problem *p, int64_t h, int64_t i, int64_t j)
{
    const shape *s = &p->s;
    const float *q = p->q + i * p->width + h * s->head_dim;
    const float *k = p->k + j * p->width + h * s->head_dim;
    double x = 0;
    for (int64_t c = 0; c < s->head_dim; c++)
        x += (double)q[c] * (double)k[c];
    x *= (double)scale_of(s);
    if (p->rel)
        x += (double)p->rel[h * (s->n_q + s->n_k - 1) + j - i + s->n_q - 1];
    return p->key_bias ? x + (double)p->key_bias[j] : x;
}

/* One row in f64, and as a BF16 framework computes it: weights, values and result rounded. */
static void attend(const problem *p, int64_t h, int64_t i, float *want, float *plain)
{
    const shape *s = &p->s;
    double *x = check_alloc(s->n_k, sizeof *x), *sum = check_alloc(2 * s->head_dim, sizeof *sum);
    double most = -HUGE_VAL, total = 0, total_plain = 0;
    for (int64_t j = 0; j < s->n_k; j++) {
        x[j] = logit(p, h, i, j);
        most = fmax(most, x[j]);
    }
    for (int64_t j = 0; j < s->n_k; j++) {
        const float *v = p->v + j * p->width + h * s->head_dim;
        double e = exp(x[j] - most), b = (double)bf16((float)e);
        total += e;
        total_plain += e;
        for (int64_t c = 0; c < s->head_dim; c++) {
            sum[c] += e * (double)v[c];
            sum[s->head_dim + c] += b * (double)bf16(v[c]);
        }
    }
    for (int64_t c = 0; c < s->head_dim; c++) {
        want[c] = (float)(sum[c] / total);
        plain[c] = bf16((float)(sum[s->head_dim + c] / total_plain));
    }
    free(x), free(sum);
}

/* How many pairs of query and head are checked: half of them spread evenly, half by chance. */
static int64_t pairs_to_check(const problem *p)
{
    const shape *s = &p->s;
    double n = CHECK_OPS / (double)(s->n_k * s->head_dim);
    int64_t all = s->n_q * s->n_heads, most = n < CHECK_ROWS_MAX ? (int64_t)n : CHECK_ROWS_MAX;
    most = most < 17 ? 17 : most | 1; /* odd: the last pair is among them */
    return most < all ? most : all;
}

static void check_rows(const char *what, const problem *p, const float *out)
{
    const shape *s = &p->s;
    int64_t n = pairs_to_check(p), all = s->n_q * s->n_heads, d = s->head_dim;
    float *got = check_floats(n * d), *want = check_floats(n * d), *plain = check_floats(n * d);
    check_rng random = {7};
    for (int64_t r = 0; r < n; r++) {
        int64_t pair = n == all ? r : r % 2 ? check_bits(&random) % all : r * (all - 1) / (n - 1);
        int64_t h = pair / s->n_q, i = pair % s->n_q;
        memcpy(got + r * d, out + i * p->width + h * d, (size_t)d * sizeof *got);
        attend(p, h, i, want + r * d, plain + r * d);
    }
    double allowed = 2 * gpu_compare(plain, want, n * d).rel_l2 + 1e-3;
    gpu_pass(what, got, want, n * d, d,
             s->kind == LX_ATTENTION_INT8 ? fmax(INT8_ALLOWED, allowed) : allowed);
    free(got), free(want), free(plain);
    for (int64_t i = 0; i < s->n_q * p->width; i++)
        if (!isfinite(out[i]))
            fail_msg("%s: query %d, column %d is %g", what, (int)(i / p->width),
                     (int)(i % p->width), (double)out[i]);
}

/* Runs twice: within the yardstick, and the same bits. */
static void check_shape(gpu *g, const shape *s)
{
    char what[128];
    if (gpu_is_small() && (s->n_q > 130 || s->n_k > 130 || s->n_heads > 3))
        return;
    problem p = make(g, s);
    snprintf(what, sizeof what, "%s %dx%d, %d heads of %d, slack %d, biases %d",
             s->kind == LX_ATTENTION_INT8 ? "int8" : "plain", (int)s->n_q, (int)s->n_k,
             (int)s->n_heads, (int)s->head_dim, (int)s->slack, s->biases);
    float *out = run(g, &p), *again = run(g, &p);
    check_rows(what, &p, out);
    assert_memory_equal(out, again, (size_t)(s->n_q * p.width) * sizeof *out);
    free(out), free(again);
    destroy(g, &p);
}

/* --- tests ----------------------------------------------------------------------------------- */

static const int64_t lengths[] = {1, 7, 63, 64, 65, 127, 128, 129, 513, 1000, 4097};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

static int64_t heads_for(int64_t n, int64_t head_dim, int turn)
{
    int64_t heads[] = {1, 3, 40};
    int64_t n_heads = heads[turn % 3];
    return n_heads == 40 && n * head_dim > 130000 ? 3 : n_heads;
}

static void test_plain_over_shapes(void **state)
{
    static const int64_t dims[] = {16, 32, 64, 96, 128, 384, 33};
    for (int i = 0; i < N_LENGTHS; i++)
        for (int d = 0; d < 7; d++) {
            int64_t n_q = lengths[i], n_k = lengths[(i + 1 + d) % N_LENGTHS];
            int64_t heads = heads_for(n_q > n_k ? n_q : n_k, dims[d], i + d);
            shape s = {.n_q = n_q, .n_k = n_k, .n_heads = heads, .head_dim = dims[d]};
            s.slack = (i + d) % 2 ? 8 : dims[d] == 33 ? 3 : 0;
            s.biases = (i + 2 * d) % 3 == 0 ? WITH_KEY_BIAS : 0;
            if (dims[d] == 33 && n_q * n_k * heads > 20000000)
                s.n_k = 65; /* the fallback is slow */
            check_shape(*state, &s);
        }
}

static void test_int8_over_shapes(void **state)
{
    for (int i = 0; i < N_LENGTHS; i++)
        for (int d = 0; d < 4; d++) {
            int64_t dim = d % 2 ? 64 : 128, n_q = lengths[i],
                    n_k = lengths[(i + 3 * d) % N_LENGTHS];
            shape s = {.n_q = n_q, .n_k = n_k, .head_dim = dim, .kind = LX_ATTENTION_INT8};
            s.n_heads = heads_for(n_q > n_k ? n_q : n_k, dim, i + d);
            s.slack = (i + d) % 2 ? 8 : 0;
            s.biases = d >= 2 ? WITH_KEY_BIAS : 0;
            check_shape(*state, &s);
        }
}

static void test_relative_positions(void **state)
{
    static const int64_t dims[] = {64, 128, 16, 384, 33};
    for (int i = 0; i < N_LENGTHS - 2; i++)
        for (int d = 0; d < 5; d++) {
            shape s = {.n_q = lengths[i], .n_k = lengths[i], .n_heads = 3, .head_dim = dims[d]};
            s.biases = WITH_REL | (d % 2 ? WITH_KEY_BIAS : 0);
            s.kind = d == 1 ? LX_ATTENTION_INT8 : LX_ATTENTION_PLAIN; /* falls back to PLAIN */
            check_shape(*state, &s);
        }
}

/* UMT5: 64 heads of 64, scale 1, logits of hundreds, from 1 to 512 tokens. */
static void test_encoder_logits_are_large(void **state)
{
    static const int64_t n[] = {1, 20, 126, 512};
    for (int i = 0; i < 4; i++) {
        shape s = {.n_q = n[i], .n_k = n[i], .n_heads = 64, .head_dim = 64, .biases = WITH_REL};
        s.scale = 64; /* 8 times unscaled products of unit vectors */
        check_shape(*state, &s);
    }
}

/* A key's share outside the groups' reach: what smoothing is for. */
static void test_int8_with_planted_offsets(void **state)
{
    static const float planted[][2] = {{0, 0}, {10, 0}, {0, 60}, {10, 200}};
    for (int i = 0; i < 4; i++)
        for (int64_t dim = 64; dim <= 128; dim *= 2) {
            shape s = {.n_q = 300, .n_k = 1000, .n_heads = 3, .head_dim = dim};
            s.kind = LX_ATTENTION_INT8;
            s.k_offset = planted[i][0];
            s.k_outlier = planted[i][1];
            check_shape(*state, &s);
        }
}

static void test_zeros_and_silent_keys(void **state)
{
    for (int kind = LX_ATTENTION_PLAIN; kind <= LX_ATTENTION_INT8; kind++) {
        shape zero = {.n_q = 130, .n_k = 200, .n_heads = 2, .head_dim = 128, .is_zero = true};
        shape silent = {.n_q = 130, .n_k = 200, .n_heads = 2, .head_dim = 64};
        zero.kind = silent.kind = (lx_attention_kind)kind;
        silent.biases = WITH_KEY_BIAS | WITH_SILENT_KEYS; /* a whole tile that does not count */
        check_shape(*state, &zero);
        check_shape(*state, &silent);
    }
}

/* The kernel of GeForce cards, on whatever card this is; values that F16 sums could not hold. */
static void test_int8_with_f16_sums(void **state)
{
    gpu *g = *state;
    lx_card_kind *card = &g->cuda->card, is = *card;
    static const float magnitude[] = {1, 0.001f, 500, 20000};
    card->major = 8;
    card->minor = 6;
    for (int i = 0; i < 4; i++)
        for (int64_t dim = 64; dim <= 128; dim *= 2) {
            shape s = {.n_q = 300, .n_k = 1000 + i, .n_heads = 3, .head_dim = dim};
            s.kind = LX_ATTENTION_INT8;
            s.v_magnitude = magnitude[i];
            check_shape(g, &s);
        }
    *card = is;
}

/* Which queries are asked for together changes nothing. */
static void test_chunks_of_queries_give_the_same_bits(void **state)
{
    gpu *g = *state;
    for (int kind = LX_ATTENTION_PLAIN; kind <= LX_ATTENTION_INT8; kind++) {
        shape s = {.n_q = 1000, .n_k = 3000, .n_heads = 3, .head_dim = 128};
        s.kind = (lx_attention_kind)kind;
        problem p = make(g, &s);
        float *whole = run(g, &p);
        lx_kv kv;
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, s.n_heads, &kv, err));
        gpu_ok(lx_zero(&g->x, p.d_out.data, (size_t)(s.n_q * p.width) * 2, err));
        for (int64_t first = 0; first < s.n_q; first += 256) {
            int64_t n = s.n_q - first < 256 ? s.n_q - first : 256;
            lx_attention_args args = args_of(&p, &kv);
            args.q = lx_mat_rows(&p.d_q, first, n);
            args.out = lx_mat_rows(&p.d_out, first, n);
            gpu_ok(lx_attention(&g->x, &args, err));
        }
        float *parts = gpu_mat_get(g, &p.d_out);
        assert_memory_equal(parts, whole, (size_t)(s.n_q * p.width) * sizeof *parts);
        lx_arena_reset(g->scratch, mark);
        free(whole), free(parts);
        destroy(g, &p);
    }
}

/* What a dry run takes is what the real one takes, also with a head too wide to be possible. */
static void test_dry_run_takes_the_same(void **state)
{
    gpu *g = *state;
    static const int64_t dims[] = {64, 96, 128};
    for (int i = 0; i < 3; i++) {
        shape s = {.n_q = 65, .n_k = 700, .n_heads = 3, .head_dim = dims[i]};
        problem p = make(g, &s);
        lx_exec dry = gpu_plan_open(g);
        lx_kv kv, dry_kv;
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&dry, LX_ATTENTION_INT8, &p.d_k, &p.d_v, 3, &dry_kv, err));
        gpu_ok(lx_kv_prepare(&g->x, LX_ATTENTION_INT8, &p.d_k, &p.d_v, 3, &kv, err));
        lx_attention_args args = args_of(&p, &dry_kv);
        gpu_ok(lx_attention(&dry, &args, err));
        assert_int_equal(kv.kind, dry_kv.kind);
        assert_int_equal(kv.kind, dims[i] == 96 ? LX_ATTENTION_PLAIN : LX_ATTENTION_INT8);
        assert_int_equal(lx_arena_mark(g->scratch) - mark, lx_arena_mark(dry.arena));
        assert_true(lx_arena_peak(dry.arena) >= lx_arena_mark(dry.arena));
        gpu_ok(lx_exec_wait(&g->x, err));
        lx_arena_reset(g->scratch, mark);
        gpu_plan_close(&dry);
        destroy(g, &p);
    }
}

/* --- speed ----------------------------------------------------------------------------------- */

typedef struct bench {
    lx_mat q, k, v, out;
    lx_kv kv;
    int64_t chunk, times;
    lx_attention_kind kind;
    float *rel, *key_bias;
    int rows_per_block; /* 0: as chosen */
} bench;

/* Random numbers from a piece of 8 Mi elements, again and again. */
static lx_mat random_mat(gpu *g, lx_dtype dtype, int64_t rows, int64_t cols)
{
    enum { PIECE = 8 << 20 };
    lx_err err = {0};
    check_rng r = {(uint64_t)dtype};
    lx_mat m = {dtype, rows, cols, cols, NULL};
    uint16_t *piece = malloc(PIECE * sizeof *piece);
    if (!piece)
        exit(1);
    gpu_must(lx_arena_take(g->store, (size_t)(rows * cols) * 2, &m.data, &err), &err);
    for (int64_t i = 0; i < PIECE; i++)
        gpu_narrow(piece + i, dtype, normal(&r));
    for (int64_t at = 0; at < rows * cols; at += PIECE) {
        int64_t n = rows * cols - at < PIECE ? rows * cols - at : PIECE;
        gpu_must(lx_upload(&g->x, (uint16_t *)m.data + at, piece, (size_t)n * 2, &err), &err);
    }
    free(piece);
    return m;
}

static float *random_floats(gpu *g, int64_t n)
{
    void *out = NULL;
    lx_err err = {0};
    check_rng r = {1};
    float *values = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        values[i] = normal(&r);
    gpu_must(lx_arena_take(g->store, (size_t)n * sizeof *values, &out, &err), &err);
    gpu_must(lx_upload(&g->x, out, values, (size_t)n * sizeof *values, &err), &err);
    free(values);
    return out;
}

static void call_prepare(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    size_t mark = lx_arena_mark(g->scratch);
    int64_t n_heads = b->kv.n_heads;
    gpu_must(lx_kv_prepare(&g->x, b->kind, &b->k, &b->v, n_heads, &b->kv, &err), &err);
    lx_arena_reset(g->scratch, mark);
}

/* The INT8 kernel with a block size of the caller's choice. */
static void call_block(gpu *g, bench *b, float scale)
{
    const lx_kv *kv = &b->kv;
    lx_err err = {0};
    lx_cu_attention a = {.q = b->q.data,
                         .k = b->k.data,
                         .v = b->v.data,
                         .out = b->out.data,
                         .q_stride = b->q.stride,
                         .k_stride = b->k.stride,
                         .v_stride = b->v.stride,
                         .out_stride = b->out.stride,
                         .n_q = b->q.rows,
                         .n_k = kv->n,
                         .n_heads = (int)kv->n_heads,
                         .head_dim = (int)kv->head_dim,
                         .scale = scale,
                         .key_bias = b->key_bias,
                         .codes = kv->codes,
                         .k_scale = kv->scale,
                         .rows_per_block = b->rows_per_block,
                         .units_per_launch = 1 << 20};
    int code = g->cuda->module->attention->int8(g->cuda->dev, &a);
    gpu_must(lx_cuda_status(g->cuda, code, "attention", &err), &err);
}

static void call_attention(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    float scale = 1 / sqrtf((float)b->kv.head_dim);
    if (b->rows_per_block) {
        call_block(g, b, scale);
        return;
    }
    for (int64_t i = 0; i < b->times; i++)
        for (int64_t first = 0; first < b->q.rows; first += b->chunk) {
            int64_t n = b->q.rows - first < b->chunk ? b->q.rows - first : b->chunk;
            lx_attention_args args = {.q = lx_mat_rows(&b->q, first, n),
                                      .kv = &b->kv,
                                      .scale = scale,
                                      .rel = b->rel,
                                      .key_bias = b->key_bias,
                                      .out = lx_mat_rows(&b->out, first, n)};
            gpu_must(lx_attention(&g->x, &args, &err), &err);
        }
}

typedef struct bench_shape {
    const char *what;
    int64_t n_q, n_k, n_heads, head_dim, chunk, times;
    bool is_int8;
    int biases, rows_per_block;
} bench_shape;

/* Roof: half of the operations at the INT8 rate, half at the F16 rate, or all at the latter. */
static void bench_one(gpu *g, const bench_shape *s)
{
    lx_err err = {0};
    gpu_roof peak = gpu_roof_of(g);
    int64_t width = s->n_heads * s->head_dim;
    size_t mark = lx_arena_mark(g->store), scratch = lx_arena_mark(g->scratch);
    lx_attention_kind kind = s->is_int8 ? LX_ATTENTION_INT8 : LX_ATTENTION_PLAIN;
    bench b = {.kind = kind, .times = s->times, .rows_per_block = s->rows_per_block};
    b.chunk = s->chunk ? s->chunk : s->n_q;
    b.q = random_mat(g, LX_DTYPE_BF16, s->n_q, width);
    b.k = random_mat(g, LX_DTYPE_BF16, s->n_k, width);
    b.v = random_mat(g, LX_DTYPE_F16, s->n_k, width);
    b.out = random_mat(g, LX_DTYPE_BF16, s->n_q, width);
    if (s->biases & WITH_REL)
        b.rel = random_floats(g, s->n_heads * (s->n_q + s->n_k - 1));
    if (s->biases & WITH_KEY_BIAS)
        b.key_bias = random_floats(g, s->n_k);
    gpu_must(lx_kv_prepare(&g->x, kind, &b.k, &b.v, s->n_heads, &b.kv, &err), &err);
    double tera = 4e-12 * (double)s->n_q * (double)s->n_k * (double)width * (double)s->times;
    double roof = peak.bf16;
    if (s->is_int8 && peak.int8 > 0)
        roof = 2 / (1 / peak.int8 + 1 / peak.bf16);
    gpu_print_rate(s->what, gpu_time(g, call_attention, &b), tera, roof);
    if (s->is_int8 && !s->chunk && !s->rows_per_block)
        gpu_print_bytes("  its keys prepared", gpu_time(g, call_prepare, &b),
                        5.0 * (double)(s->n_k * width), peak.gb_per_s);
    lx_arena_reset(g->store, mark);
    lx_arena_reset(g->scratch, scratch);
}

static int bench_all(void)
{
    enum { P = false, I = true, R = WITH_REL, K = WITH_KEY_BIAS };
    static const bench_shape shapes[] = {
        {"int8 32760 x 32760 x 40 x 128", 32760, 32760, 40, 128, 0, 1, I, 0, 0},
        {"int8 the same, blocks of 256 queries, one launch", 32760, 32760, 40, 128, 0, 1, I, 0,
         256},
        {"int8 the same, blocks of 128 queries, one launch", 32760, 32760, 40, 128, 0, 1, I, 0,
         128},
        {"int8 the same, chunks of 4096", 32760, 32760, 40, 128, 4096, 1, I, 0, 0},
        {"int8 the same, chunks of 8192", 32760, 32760, 40, 128, 8192, 1, I, 0, 0},
        {"int8 75600 x 75600 x 40 x 128", 75600, 75600, 40, 128, 0, 1, I, 0, 0},
        {"int8 cross 32760 x 513 x 40 x 128, key bias", 32760, 513, 40, 128, 0, 1, I, K, 0},
        {"int8 cross, blocks of 256", 32760, 513, 40, 128, 0, 1, I, K, 256},
        {"int8 cross 32760 x 77 x 40 x 128, key bias", 32760, 77, 40, 128, 0, 1, I, K, 0},
        {"plain cross 32760 x 513 x 40 x 128, key bias", 32760, 513, 40, 128, 0, 1, P, K, 0},
        {"plain cross 32760 x 77 x 40 x 128, key bias", 32760, 77, 40, 128, 0, 1, P, K, 0},
        {"plain 32760 x 32760 x 40 x 128", 32760, 32760, 40, 128, 0, 1, P, 0, 0},
        {"plain UMT5 512 x 512 x 64 x 64, rel", 512, 512, 64, 64, 0, 1, P, R, 0},
        {"plain UMT5 126 x 126 x 64 x 64, rel", 126, 126, 64, 64, 0, 1, P, R, 0},
        {"plain VAE 6240 x 6240 x 1 x 384, 21 frames", 6240, 6240, 1, 384, 0, 21, P, 0, 0},
        {"plain VAE 14400 x 14400 x 1 x 384, 21 frames", 14400, 14400, 1, 384, 0, 21, P, 0, 0},
        {"fallback 1000 x 1000 x 3 x 33", 1000, 1000, 3, 33, 0, 1, P, 0, 0},
    };
    gpu g;
    gpu_open(&g, (size_t)7 << 29, (size_t)1 << 30);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_one(&g, &shapes[i]);
    gpu_close(&g);
    return 0;
}

static int open_card(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

int main(int argc, char **argv)
{
    if (gpu_wants_bench(argc, argv))
        return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_over_shapes),
        cmocka_unit_test(test_int8_over_shapes),
        cmocka_unit_test(test_relative_positions),
        cmocka_unit_test(test_encoder_logits_are_large),
        cmocka_unit_test(test_int8_with_planted_offsets),
        cmocka_unit_test(test_zeros_and_silent_keys),
        cmocka_unit_test(test_int8_with_f16_sums),
        cmocka_unit_test(test_chunks_of_queries_give_the_same_bits),
        cmocka_unit_test(test_dry_run_takes_the_same),
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
