/*
 * gpu_attention.h - attention to test on a card: problems, and the f64 definition at sampled rows
 * SPDX-License-Identifier: Apache-2.0
 *
 * Yardstick  PLAIN: twice the error of the same formula with weights, values and result in BF16, as
 *            a plain BF16 framework computes it. INT8: 1.5e-2 relative L2 on logits of unit
 *            deviation (SageAttention tells about 2e-2 relative L1 for this kind of kernel).
 *            FP8 values: 5e-2; E4M3 alone makes 2.5e-2 for weights and as much for values.
 * Rows       Of large problems some (query, head) pairs are checked, the first and last among them.
 *            All memory beyond the operands' rows and columns is NaN.
 */
#ifndef LX_TESTS_GPU_ATTENTION_H
#define LX_TESTS_GPU_ATTENTION_H

#include "cuda/cu_attention.h"
#include "cuda/lx_cuda_priv.h"
#include "gpu_check.h"
#include "lx_attention.h"

#define INT8_ALLOWED   1.5e-2
#define FP8_ALLOWED    5e-2
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
    bool is_gaussian;  /* truly normal inputs */
    float k_shift;     /* times a normal number per channel, added to k */
    float leap;        /* channel 0 of each head is 0, but this in key leap_at and */
    float near_leap;   /*   queries 3 i + 2, and near_leap in queries 3 i + 1 */
    int64_t leap_at;
    bool is_calm;      /* queries 3 i + 2 have 0 there too */
    int64_t n_checked; /* rows to check; 0: as many as are quick */
    double allowed;    /* relative L2; 0: by kind */
    bool has_lse;
} shape;

typedef struct problem {
    shape s;
    int64_t width;
    float *q, *k, *v, *rel, *key_bias; /* as rounded, dense */
    lx_mat d_q, d_k, d_v, d_out;
    float *d_rel, *d_key_bias, *d_lse;
    size_t mark;
} problem;

static const char *const kind_names[] = {"plain", "int8", "int8-fp8"};

/* Nearly normal: the sum of three uniform numbers has this deviation. */
static inline float normal(check_rng *r)
{
    return check_uniform(r) + check_uniform(r) + check_uniform(r);
}

static inline float gaussian(check_rng *r)
{
    double u = ((double)check_bits(r) + 0.5) * 0x1p-32, angle = (double)check_bits(r) * 0x1p-32;
    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * angle));
}

/* gpu_rounded for the many. */
static inline float bf16(float v)
{
    uint32_t bits = (uint32_t)lx_bf16_from_f32(v) << 16;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline float *numbers(check_rng *r, float (*draw)(check_rng *), lx_dtype dtype, int64_t n,
                             float factor)
{
    float *out = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        out[i] =
            dtype == LX_DTYPE_BF16 ? bf16(draw(r) * factor) : gpu_rounded(dtype, draw(r) * factor);
    return out;
}

static inline float *normals(check_rng *r, lx_dtype dtype, int64_t n, float factor)
{
    return numbers(r, normal, dtype, n, factor);
}

static inline void make_keys(problem *p, check_rng *r)
{
    const shape *s = &p->s;
    float (*draw)(check_rng *) = s->is_gaussian ? gaussian : normal;
    float *sign = numbers(r, draw, LX_DTYPE_F32, p->width, 1);
    p->k = check_floats(s->n_k * p->width);
    for (int64_t i = 0; i < s->n_k * p->width; i++) {
        int64_t c = i % p->width;
        float k = draw(r) + (sign[c] > 0 ? s->k_offset : -s->k_offset) + s->k_shift * sign[c];
        k += c % s->head_dim == 5 ? s->k_outlier : 0;
        p->k[i] = s->is_zero ? 0 : bf16(k);
    }
    free(sign);
}

/* A third of the queries see one key far above all others, one not so far, one nothing of it. */
static inline void make_leap(problem *p)
{
    const shape *s = &p->s;
    const float of[3] = {0, bf16(s->near_leap), s->is_calm ? 0 : bf16(s->leap)};
    for (int64_t h = 0; h < s->n_heads; h++) {
        for (int64_t i = 0; i < s->n_q; i++)
            p->q[i * p->width + h * s->head_dim] = of[i % 3];
        for (int64_t j = 0; j < s->n_k; j++)
            p->k[j * p->width + h * s->head_dim] = j == s->leap_at ? bf16(s->leap) : 0;
    }
}

static inline void make_biases(problem *p, check_rng *r, gpu *g)
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

static inline problem make(gpu *g, const shape *s)
{
    problem p = {.s = *s, .width = s->n_heads * s->head_dim, .mark = lx_arena_mark(g->store)};
    check_rng r = {(uint64_t)(s->n_q * 31 + s->n_k * 17 + s->head_dim + s->biases)};
    int64_t stride = p.width + s->slack;
    float (*draw)(check_rng *) = s->is_gaussian ? gaussian : normal;
    p.q = numbers(&r, draw, LX_DTYPE_BF16, s->n_q * p.width, s->is_zero ? 0 : 1);
    make_keys(&p, &r);
    if (s->leap > 0)
        make_leap(&p);
    p.v =
        numbers(&r, draw, LX_DTYPE_F16, s->n_k * p.width, s->v_magnitude > 0 ? s->v_magnitude : 1);
    p.d_q = gpu_mat(g, LX_DTYPE_BF16, p.q, s->n_q, p.width, stride);
    p.d_k = gpu_mat(g, LX_DTYPE_BF16, p.k, s->n_k, p.width, stride);
    p.d_v = gpu_mat(g, LX_DTYPE_F16, p.v, s->n_k, p.width, stride);
    make_biases(&p, &r, g);
    p.d_out = (lx_mat){LX_DTYPE_BF16, s->n_q, p.width, stride, NULL};
    p.d_out.data = gpu_take(g, (size_t)(s->n_q * stride) * 2);
    if (s->has_lse)
        p.d_lse = gpu_take(g, (size_t)(s->n_q * s->n_heads) * sizeof(float));
    return p;
}

static inline void destroy(gpu *g, problem *p)
{
    free(p->q), free(p->k), free(p->v), free(p->rel), free(p->key_bias);
    lx_arena_reset(g->store, p->mark);
}

static inline float scale_of(const shape *s)
{
    return (s->scale > 0 ? s->scale : 1.0f) / sqrtf((float)s->head_dim);
}

static inline lx_attention_args args_of(const problem *p, const lx_kv *kv)
{
    return (lx_attention_args){.q = p->d_q,
                               .kv = kv,
                               .scale = scale_of(&p->s),
                               .rel = p->d_rel,
                               .key_bias = p->d_key_bias,
                               .out = p->d_out,
                               .lse = p->d_lse};
}

/* The result, dense; memory of the result begins as ones, and those between rows must stay. */
static inline float *run(gpu *g, const problem *p)
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

static inline double logit(const problem *p, int64_t h, int64_t i, int64_t j)
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

/* One row in f64, and as a BF16 framework computes it: weights, values and result rounded. Returns
 * the log of the sum. */
static inline double attend(const problem *p, int64_t h, int64_t i, float *want, float *plain)
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
    return most + log(total);
}

/* How many pairs of query and head are checked: half of them spread evenly, half by chance. */
static inline int64_t pairs_to_check(const problem *p)
{
    const shape *s = &p->s;
    double n = CHECK_OPS / (double)(s->n_k * s->head_dim);
    int64_t all = s->n_q * s->n_heads, most = n < CHECK_ROWS_MAX ? (int64_t)n : CHECK_ROWS_MAX;
    most = s->n_checked ? s->n_checked : most;
    most = most < 17 ? 17 : most | 1; /* odd: the last pair is among them */
    return most < all ? most : all;
}

static inline double allowed_of(const shape *s, double plain)
{
    static const double by_kind[] = {0, INT8_ALLOWED, FP8_ALLOWED};
    return s->allowed > 0 ? s->allowed : fmax(by_kind[s->kind], plain);
}

/* Some pairs of query and head: what there is, what is wanted, and how far they may be apart. */
typedef struct sample {
    int64_t n; /* pairs, head_dim numbers each */
    float *got, *want;
    double allowed;
} sample;

static inline sample sample_rows(const problem *p, const float *out)
{
    const shape *s = &p->s;
    int64_t n = pairs_to_check(p), all = s->n_q * s->n_heads, d = s->head_dim;
    sample a = {.n = n, .got = check_floats(n * d), .want = check_floats(n * d)};
    float *plain = check_floats(n * d);
    check_rng random = {7};
    for (int64_t r = 0; r < n; r++) {
        int64_t pair = n == all ? r : r % 2 ? check_bits(&random) % all : r * (all - 1) / (n - 1);
        int64_t h = pair / s->n_q, i = pair % s->n_q;
        memcpy(a.got + r * d, out + i * p->width + h * d, (size_t)d * sizeof *out);
        attend(p, h, i, a.want + r * d, plain + r * d);
    }
    a.allowed = allowed_of(s, 2 * gpu_compare(plain, a.want, n * d).rel_l2 + 1e-3);
    free(plain);
    return a;
}

static inline void sample_free(sample *a)
{
    free(a->got), free(a->want);
}

static inline void name_shape(char *what, size_t bytes, const shape *s)
{
    snprintf(what, bytes, "%s %dx%d, %d heads of %d, slack %d, biases %d%s", kind_names[s->kind],
             (int)s->n_q, (int)s->n_k, (int)s->n_heads, (int)s->head_dim, (int)s->slack, s->biases,
             s->is_zero ? ", zeros" : "");
}

/* Where the result is not a number; -1: nowhere. */
static inline int64_t first_not_finite(const problem *p, const float *out)
{
    for (int64_t i = 0; i < p->s.n_q * p->width; i++)
        if (!isfinite(out[i]))
            return i;
    return -1;
}

static inline void check_rows(const char *what, const problem *p, const float *out)
{
    sample a = sample_rows(p, out);
    gpu_pass(what, a.got, a.want, a.n * p->s.head_dim, p->s.head_dim, a.allowed);
    sample_free(&a);
    int64_t bad = first_not_finite(p, out);
    if (bad >= 0)
        fail_msg("%s: query %d, column %d is %g", what, (int)(bad / p->width),
                 (int)(bad % p->width), (double)out[bad]);
}

/* Runs twice: within the yardstick, and the same bits. */
static inline void check_any_shape(gpu *g, const shape *s)
{
    char what[128];
    problem p = make(g, s);
    name_shape(what, sizeof what, s);
    float *out = run(g, &p), *again = run(g, &p);
    check_rows(what, &p, out);
    assert_memory_equal(out, again, (size_t)(s->n_q * p.width) * sizeof *out);
    free(out), free(again);
    destroy(g, &p);
}

/* With a sanitizer small ones alone. */
static inline void check_shape(gpu *g, const shape *s)
{
    if (!gpu_is_small() || (s->n_q <= 130 && s->n_k <= 130 && s->n_heads <= 3))
        check_any_shape(g, s);
}

/* Prints a line, and more of a failure; returns whether it is one. All shapes are told of in one
 * run, as which of them fail says where the fault is. */
static inline int is_bad(gpu *g, const shape *s)
{
    char what[128];
    if (gpu_is_small() && (s->n_q > 130 || s->n_k > 300))
        return 0;
    problem p = make(g, s);
    name_shape(what, sizeof what, s);
    float *out = run(g, &p), *again = run(g, &p);
    sample a = sample_rows(&p, out);
    int64_t d = s->head_dim, n = a.n * d, numbers = s->n_q * p.width;
    gpu_error e = gpu_compare(a.got, a.want, n);
    int64_t bad = first_not_finite(&p, out), odd = 0;
    while (odd < numbers && !memcmp(out + odd, again + odd, sizeof *out))
        odd++;
    bool is_wrong = !(e.rel_l2 <= a.allowed);
    printf("  %s %-48s rel_l2 %.2e of %.2e, max %.2e at [%d, %d]: %.5g for %.5g\n",
           is_wrong ? "BAD" : "ok ", what, e.rel_l2, a.allowed, e.max_abs, (int)(e.worst / d),
           (int)(e.worst % d), (double)a.got[e.worst], (double)a.want[e.worst]);
    for (int64_t i = 0; is_wrong && i < n && i < 16; i++)
        printf("%s%9.4f for %9.4f%s", i % 4 ? ", " : "      ", (double)a.got[i], (double)a.want[i],
               i % 4 == 3 ? "\n" : "");
    if (bad >= 0)
        printf("  BAD     query %d, column %d is %g\n", (int)(bad / p.width), (int)(bad % p.width),
               (double)out[bad]);
    if (odd < numbers)
        printf("  BAD     query %d, column %d is %.9g, then %.9g\n", (int)(odd / p.width),
               (int)(odd % p.width), (double)out[odd], (double)again[odd]);
    sample_free(&a);
    free(out), free(again);
    destroy(g, &p);
    return is_wrong || bad >= 0 || odd < numbers;
}

/* Has the next operations run on this card as if it were of that kind; returns what it is. */
static inline lx_card_kind pretend(gpu *g, int major, int minor)
{
    lx_card_kind is = g->cuda->card;
    g->cuda->card.major = major;
    g->cuda->card.minor = minor;
    return is;
}

/* Every kernel for long rows, and `few` where keys are few and nothing is rotated: a card to be,
 * for attention.c's choice. */
typedef struct attention_design {
    const char *name;
    int major, minor; /* 0: what it is */
    lx_sums sums;
    lx_attention_kind kind;
} attention_design;

static const attention_design DESIGNS[] = {
    {"few or flash", 0, 0, LX_SUMS_AUTO, LX_ATTENTION_PLAIN},
    {"mma.sync, F16 values, F32 sums", 8, 0, LX_SUMS_F32, LX_ATTENTION_INT8},
    {"mma.sync, F16 values, F16 sums", 8, 6, LX_SUMS_F16, LX_ATTENTION_INT8},
    {"mma.sync, FP8 values, F32 sums", 8, 9, LX_SUMS_F32, LX_ATTENTION_INT8_FP8},
    {"mma.sync, FP8 values, F16 sums", 8, 9, LX_SUMS_F16, LX_ATTENTION_INT8_FP8},
    {"wgmma, F16 values", 9, 0, LX_SUMS_AUTO, LX_ATTENTION_INT8},
    {"wgmma, FP8 values", 9, 0, LX_SUMS_AUTO, LX_ATTENTION_INT8_FP8},
};
enum { N_DESIGNS = sizeof DESIGNS / sizeof *DESIGNS };

/* On a card that really is `real`. */
static inline bool has_design(const lx_card_kind *real, const attention_design *d)
{
    return (d->major != 9 || lx_card_has_wgmma(real)) &&
           (d->kind != LX_ATTENTION_INT8_FP8 || lx_card_has_fp8(real));
}

#endif
