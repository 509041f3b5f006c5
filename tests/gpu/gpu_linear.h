/*
 * gpu_linear.h - linears to test on a card: operands, and the definition at sampled places
 * SPDX-License-Identifier: Apache-2.0
 *
 * Large products are compared at sampled rows and columns, among them both sides of every border of
 * a tile or band: the sample is a small problem of its own that lx_linear_ref computes.
 */
#ifndef LX_TESTS_GPU_LINEAR_H
#define LX_TESTS_GPU_LINEAR_H

#include "cuda/cu_linear.h"
#include "cuda/lx_cuda_priv.h"
#include "gpu_check.h"

#define SAMPLED_ABOVE 6000000 /* multiplications; below, everything is compared */

typedef struct variant {
    const char *name;
    lx_dtype dtype;
    bool is_scaled, has_f32_rows;
} variant;

/* The first three are the model's. */
static const variant variants[] = {
    {"i8", LX_DTYPE_I8, true, false},
    {"bf16", LX_DTYPE_BF16, false, false},
    {"fp8", LX_DTYPE_F8_E4M3, true, false},
    {"f32 weights", LX_DTYPE_F32, false, false},
    {"f16 weights", LX_DTYPE_F16, false, false},
    {"e4m3 weights", LX_DTYPE_F8_E4M3, false, false},
    {"e5m2 weights", LX_DTYPE_F8_E5M2, false, false},
    {"bf16, f32 rows", LX_DTYPE_BF16, false, true},
    {"f32, f32 rows", LX_DTYPE_F32, false, true},
    {"f16, f32 rows", LX_DTYPE_F16, false, true},
    {"e4m3, f32 rows", LX_DTYPE_F8_E4M3, false, true},
    {"e5m2, f32 rows", LX_DTYPE_F8_E5M2, false, true},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants, N_MODEL = 3 };

typedef struct problem {
    variant v;
    int64_t m, n, k;
    lx_act in; /* on the host */
    lx_weight w, bias;
    float *mul, *gate, *out0;
    lx_act d_in; /* on the card */
    lx_weight d_w, d_bias;
    lx_mat d_mul;
    float *d_gate;
    size_t mark;
} problem;

/* What is asked of one product. */
typedef struct finish {
    bool bias, mul, gate, add;
    lx_activation activation;
    lx_dtype out;
    int64_t gap; /* elements between the rows of the output */
} finish;

/* --- operands -------------------------------------------------------------------------------- */

/* n random elements of any dtype from 4096 different ones: quick for 10^8. */
static inline void *random_elements(check_rng *r, lx_dtype dtype, int64_t n, float range)
{
    enum { KINDS = 4096 };
    size_t size = lx_dtype_size(dtype);
    float *values = check_floats(KINDS);
    for (int i = 0; i < KINDS; i++)
        values[i] = check_uniform(r) * range;
    lx_weight table = check_weight(values, dtype, KINDS, 1);
    const unsigned char *from = table.data;
    unsigned char *out = check_alloc(n, size);
    uint32_t s = check_bits(r) | 1;
    for (int64_t i = 0; i < n; i++) {
        s ^= s << 13, s ^= s >> 17, s ^= s << 5;
        memcpy(out + (size_t)i * size, from + (s % KINDS) * size, size);
    }
    check_free_weight(&table);
    free(values);
    return out;
}

static inline float range_of(lx_dtype dtype, bool is_scaled)
{
    return dtype == LX_DTYPE_I8 ? 127 : is_scaled ? 448 : 1;
}

/* Random codes or numbers on the card: one block made here, then copied. */
static inline void *card_random(gpu *g, lx_dtype dtype, int64_t n)
{
    lx_err err = {0};
    check_rng r = {(uint64_t)n + 9};
    size_t size = lx_dtype_size(dtype), bytes = (size_t)n * size, block = (size_t)4 << 20;
    void *made = random_elements(&r, dtype, (int64_t)(block / size),
                                 range_of(dtype, dtype == LX_DTYPE_F8_E4M3));
    unsigned char *out = gpu_take(g, bytes);
    gpu_must(lx_upload(&g->x, out, made, bytes < block ? bytes : block, &err), &err);
    for (size_t at = block; at < bytes; at += block)
        gpu_must(lx_copy(&g->x, out + at, out, bytes - at < block ? bytes - at : block, &err),
                 &err);
    free(made);
    return out;
}

static inline lx_act act_on_card(gpu *g, lx_dtype dtype, int64_t rows, int64_t cols)
{
    lx_act out = {.dtype = dtype, .rows = rows, .cols = cols};
    out.data = gpu_take(g, (size_t)(rows * cols) * lx_dtype_size(dtype));
    if (lx_dtype_is_code(dtype))
        out.scale = gpu_take(g, (size_t)rows * sizeof(float));
    return out;
}

static inline float *random_scale(check_rng *r, int64_t n, float about)
{
    float *scale = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        scale[i] = about * (1 + 0.5f * check_uniform(r));
    return scale;
}

/* Rows of a kind: random ones are made as codes, others are made as floats and then quantized. */
static inline lx_act make_rows(check_rng *r, lx_dtype dtype, int kind, int64_t m, int64_t k)
{
    bool is_coded = lx_dtype_is_code(dtype);
    lx_act out = {.dtype = dtype, .rows = m, .cols = k};
    if (is_coded)
        out.scale = random_scale(r, m, 1 / range_of(dtype, true));
    if (kind == CHECK_RANDOM) {
        out.data = random_elements(r, dtype, m * k, range_of(dtype, is_coded));
        return out;
    }
    float *values = check_input(r, kind, m * k);
    out.data = check_alloc(m * k, lx_dtype_size(dtype));
    if (is_coded)
        lx_quantize_rows_ref(values, &out);
    for (int64_t i = 0; i < m * k && !is_coded; i++)
        gpu_narrow((char *)out.data + (size_t)i * lx_dtype_size(dtype), dtype, values[i]);
    free(values);
    return out;
}

static inline problem make(gpu *g, check_rng *r, variant v, int kind, int64_t m, int64_t n,
                           int64_t k)
{
    static const lx_dtype biases[] = {LX_DTYPE_BF16, LX_DTYPE_F32, LX_DTYPE_F16};
    problem p = {.v = v, .m = m, .n = n, .k = k, .mark = lx_arena_mark(g->store)};
    p.w = (lx_weight){.name = v.name, .dtype = v.dtype, .shape = {2, {n, k}}};
    p.w.data = random_elements(r, v.dtype, n * k, range_of(v.dtype, v.is_scaled));
    p.w.scale = v.is_scaled ? random_scale(r, n, 1 / range_of(v.dtype, true)) : NULL;
    p.in =
        make_rows(r, v.has_f32_rows ? LX_DTYPE_F32 : lx_linear_act_dtype(&g->x, &p.w), kind, m, k);
    p.bias = (lx_weight){.name = "bias", .dtype = biases[(n + k) % 3], .shape = {1, {n}}};
    p.bias.data = random_elements(r, p.bias.dtype, n, 1);
    p.gate = check_input(r, CHECK_RANDOM, n);
    p.d_in = p.in;
    p.d_in.data = gpu_put(g, p.in.data, (size_t)(m * k) * lx_dtype_size(p.in.dtype));
    if (p.in.scale)
        p.d_in.scale = gpu_put(g, p.in.scale, (size_t)m * sizeof(float));
    p.d_w = gpu_weight(g, &p.w);
    p.d_bias = gpu_weight(g, &p.bias);
    p.d_gate = gpu_put(g, p.gate, (size_t)n * sizeof(float));
    return p;
}

/* The parts that are as large as the output, made for those who ask. */
static inline void add_factors(gpu *g, check_rng *r, problem *p, lx_dtype dtype)
{
    p->mul = check_input(r, CHECK_RANDOM, p->m * p->n);
    for (int64_t i = 0; i < p->m * p->n; i++)
        p->mul[i] = gpu_rounded(dtype, p->mul[i]);
    p->d_mul = gpu_mat(g, dtype, p->mul, p->m, p->n, p->n + 8);
}

static inline void destroy(gpu *g, problem *p)
{
    check_free_weight(&p->w);
    check_free_weight(&p->bias);
    free(p->in.data), free(p->in.scale), free(p->mul), free(p->gate), free(p->out0);
    lx_arena_reset(g->store, p->mark);
}

static inline lx_epilogue epilogue_of(const problem *p, const finish *f)
{
    return (lx_epilogue){.bias = f->bias ? &p->d_bias : NULL,
                         .activation = f->activation,
                         .mul = f->mul ? &p->d_mul : NULL,
                         .gate = f->gate ? p->d_gate : NULL,
                         .add_to_out = f->add};
}

/* --- the definition, at sampled places ------------------------------------------------------- */

typedef struct sample {
    int64_t n_rows, n_cols;
    int64_t *rows, *cols;
} sample;

static inline int64_t keep(int64_t *out, int64_t n, int64_t at, int64_t limit)
{
    if (at < 0 || at >= limit || (n && at <= out[n - 1]))
        return n;
    out[n] = at;
    return n + 1;
}

static inline int64_t sample_side(int64_t n, bool is_whole, const int64_t *borders,
                                  int64_t n_borders, int64_t **out)
{
    int64_t kept = 0;
    *out = check_alloc(is_whole ? n : 4 * n_borders + 8, sizeof **out);
    for (int64_t i = 0; i < n && is_whole; i++)
        (*out)[kept++] = i;
    if (is_whole)
        return kept;
    for (int64_t i = 0; i < n_borders; i++)
        for (int64_t d = -2; d < 2; d++)
            kept = keep(*out, kept, borders[i] + d, n);
    for (int64_t d = 4; d > 0; d--)
        kept = keep(*out, kept, n - d, n);
    return kept;
}

static inline sample sample_of(const problem *p)
{
    static const int64_t rows[] = {0, 128, 512, 1664, 2048}; /* bands of some cards among them */
    static const int64_t cols[] = {0, 8, 128, 256, 1024, 2048, 4096, 6912, 8192, 12288};
    bool is_whole = (double)p->m * (double)p->n * (double)p->k <= SAMPLED_ABOVE;
    sample s;
    s.n_rows = sample_side(p->m, is_whole, rows, sizeof rows / sizeof *rows, &s.rows);
    s.n_cols = sample_side(p->n, is_whole, cols, sizeof cols / sizeof *cols, &s.cols);
    return s;
}

/* Multiplied in f32: few rows, or short ones. */
static inline bool is_in_f32(const problem *p)
{
    return p->in.dtype == LX_DTYPE_F32 && (p->m <= LX_CU_FEW_ROWS || p->k <= LX_CU_SHORT_ROW);
}

/* Rows `at` of a [.., k] matrix; float ones as f32, rounded to BF16 first where the card does. */
static inline void *gather(const problem *p, const void *data, lx_dtype dtype, const int64_t *at,
                           int64_t n)
{
    bool is_coded = lx_dtype_is_code(p->in.dtype);
    unsigned char *out = check_alloc(n * p->k, is_coded ? 1 : sizeof(float));
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < p->k; k++) {
            int64_t from = at[i] * p->k + k, to = i * p->k + k;
            if (is_coded) {
                out[to] = ((const unsigned char *)data)[from];
                continue;
            }
            float v = gpu_widen(data, dtype, from);
            ((float *)(void *)out)[to] = is_in_f32(p) ? v : gpu_rounded(LX_DTYPE_BF16, v);
        }
    return out;
}

static inline float *gather_floats(const float *in, const int64_t *at, int64_t n)
{
    float *out = check_floats(n);
    for (int64_t i = 0; in && i < n; i++)
        out[i] = in[at[i]];
    return out;
}

static inline float *gather_matrix(const float *in, const sample *s, int64_t stride)
{
    float *out = check_floats(s->n_rows * s->n_cols);
    for (int64_t i = 0; in && i < s->n_rows; i++)
        for (int64_t j = 0; j < s->n_cols; j++)
            out[i * s->n_cols + j] = in[s->rows[i] * stride + s->cols[j]];
    return out;
}

/* The sampled part as a problem of its own, on the host, in place of the whole. */
static inline problem part_of(const problem *p, const sample *s)
{
    problem part = {.v = p->v, .m = s->n_rows, .n = s->n_cols, .k = p->k};
    bool is_coded = p->in.scale != NULL;
    part.in = (lx_act){.dtype = is_coded ? p->in.dtype : LX_DTYPE_F32, .rows = part.m};
    part.in.cols = p->k;
    part.in.data = gather(p, p->in.data, p->in.dtype, s->rows, part.m);
    part.in.scale = is_coded ? gather_floats(p->in.scale, s->rows, part.m) : NULL;
    part.w = p->w;
    part.w.dtype = is_coded ? p->w.dtype : LX_DTYPE_F32;
    part.w.shape = (lx_shape){2, {part.n, p->k}};
    part.w.data = gather(p, p->w.data, p->w.dtype, s->cols, part.n);
    part.w.scale = p->w.scale ? gather_floats(p->w.scale, s->cols, part.n) : NULL;
    float *bias = check_floats(part.n);
    for (int64_t i = 0; i < part.n; i++)
        bias[i] = check_float_at(&p->bias, s->cols[i]);
    part.bias = check_vector(bias, LX_DTYPE_F32, part.n);
    part.gate = gather_floats(p->gate, s->cols, part.n);
    part.mul = gather_matrix(p->mul, s, p->n);
    part.out0 = gather_matrix(p->out0, s, p->n);
    free(bias);
    return part;
}

static inline void destroy_part(problem *p)
{
    check_free_weight(&p->w);
    check_free_weight(&p->bias);
    free(p->in.data), free(p->in.scale), free(p->mul), free(p->gate), free(p->out0);
}

static inline float *defined(const problem *part, const finish *f)
{
    int64_t n = part->m * part->n;
    float *want = check_floats(n);
    lx_mat mul = lx_mat_f32(part->mul, part->m, part->n);
    lx_epilogue e = {.bias = f->bias ? &part->bias : NULL,
                     .activation = f->activation,
                     .mul = f->mul ? &mul : NULL,
                     .gate = f->gate ? part->gate : NULL,
                     .add_to_out = f->add};
    memcpy(want, part->out0, (size_t)n * sizeof *want);
    lx_linear_ref(&part->in, &part->w, &e, want, part->n);
    return want;
}

static inline float plain_activate(float y, lx_activation a)
{
    if (a == LX_ACTIVATION_GELU)
        return 0.5f * y * (1 + tanhf(0.79788456f * (y + 0.044715f * y * y * y)));
    return a == LX_ACTIVATION_SILU ? y / (1 + expf(-y)) : y;
}

/* The formula in f32, in the order it is written. */
static inline float *plain(const problem *p, const finish *f)
{
    float *out = check_floats(p->m * p->n), *xs = check_floats(p->m * p->k);
    float *ws = check_floats(p->n * p->k);
    bool is_i8 = p->in.dtype == LX_DTYPE_I8;
    for (int64_t i = 0; i < p->m * p->k; i++)
        xs[i] = is_i8 ? ((int8_t *)p->in.data)[i] : gpu_widen(p->in.data, p->in.dtype, i);
    for (int64_t i = 0; i < p->n * p->k; i++)
        ws[i] = is_i8 ? ((const int8_t *)p->w.data)[i] : gpu_widen(p->w.data, p->w.dtype, i);
    for (int64_t m = 0; m < p->m; m++)
        for (int64_t n = 0; n < p->n; n++) {
            float acc = 0, x_scale = p->in.scale ? p->in.scale[m] : 1;
            for (int64_t k = 0; k < p->k; k++)
                acc += xs[m * p->k + k] * ws[n * p->k + k];
            float y = x_scale * ((p->w.scale ? p->w.scale[n] : 1) * acc);
            y = plain_activate(y + (f->bias ? check_float_at(&p->bias, n) : 0), f->activation);
            y *= (f->mul ? p->mul[m * p->n + n] : 1) * (f->gate ? p->gate[n] : 1);
            out[m * p->n + n] = f->add ? p->out0[m * p->n + n] + y : y;
        }
    free(xs), free(ws);
    return out;
}

/* --- one output ------------------------------------------------------------------------------ */

/* "bf16 17x32x48 bias -> f32": by: what multiplies it, or what is multiplied. */
static inline void name_problem(char *what, size_t bytes, const char *by, const problem *p,
                                const finish *f)
{
    static const char *const activations[] = {
        [LX_ACTIVATION_NONE] = "", [LX_ACTIVATION_GELU] = " gelu", [LX_ACTIVATION_SILU] = " silu"};
    snprintf(what, bytes, "%s %dx%dx%d%s%s%s%s%s -> %s%s", by, (int)p->m, (int)p->n, (int)p->k,
             f->bias ? " bias" : "", activations[f->activation], f->mul ? " mul" : "",
             f->gate ? " gate" : "", f->add ? " add" : "", lx_dtype_name(f->out),
             f->gap ? " strided" : "");
}

/* Its bytes before a call: ones, and what is added to. */
static inline unsigned char *out_before(const problem *p, const finish *f, size_t *bytes)
{
    const size_t row = (size_t)(p->n + f->gap) * lx_dtype_size(f->out);
    *bytes = (size_t)p->m * row;
    unsigned char *out = check_alloc(1, *bytes);
    memset(out, 0xff, *bytes);
    for (int64_t m = 0; m < p->m && f->add; m++)
        memcpy(out + (size_t)m * row, p->out0 + m * p->n, (size_t)p->n * sizeof(float));
    return out;
}

/* Fails if anything but ones lies between the rows. */
static inline void check_gaps(const problem *p, const finish *f, const unsigned char *out)
{
    const size_t size = lx_dtype_size(f->out), row = (size_t)(p->n + f->gap) * size;
    for (int64_t m = 0; m < p->m; m++)
        for (size_t i = (size_t)m * row + (size_t)p->n * size; i < (size_t)(m + 1) * row; i++)
            if (out[i] != 0xff)
                fail_msg("row %d: written beyond its columns", (int)m);
}

/* Of two calls, both freed: the first within the yardstick at sampled places, where sums may lose
 * so much, of I8 to the bit; the second the same. */
static inline void check_outs(const char *what, const problem *p, const finish *f,
                              unsigned char *out, unsigned char *again, double lost)
{
    const int64_t stride = p->n + f->gap;
    sample s = sample_of(p);
    problem part = part_of(p, &s);
    float *want = defined(&part, f), *f32 = plain(&part, f), *got = check_floats(part.m * part.n);
    for (int64_t i = 0; i < part.m; i++)
        for (int64_t j = 0; j < part.n; j++)
            got[i * part.n + j] = gpu_widen(out, f->out, s.rows[i] * stride + s.cols[j]);
    gpu_report_allowed(what, got, want, f32, part.m * part.n, part.n, f->out, lost);
    if (memcmp(out, again, (size_t)(p->m * stride) * lx_dtype_size(f->out)) != 0)
        fail_msg("%s: other bits the second time", what);
    bool is_exact = p->v.dtype == LX_DTYPE_I8 && f->out == LX_DTYPE_F32 && !f->activation &&
                    !f->mul && !f->gate && !f->add;
    if (is_exact && memcmp(got, want, (size_t)(part.m * part.n) * sizeof *got) != 0)
        fail_msg("%s: not the exact bits", what);
    destroy_part(&part);
    free(s.rows), free(s.cols), free(want), free(f32), free(got), free(out), free(again);
}

/* Scratch of a linear into `out`: what a plan says, which is what the call takes of an arena of so
 * many bytes. */
static inline size_t scratch_of(gpu *g, const problem *p, lx_act *out, size_t bytes)
{
    lx_exec x = g->x, dry = gpu_plan_open(g);
    dry.cuda->has_own_fp8 = g->cuda->has_own_fp8;
    dry.cuda->has_own_bf16 = g->cuda->has_own_bf16;
    gpu_ok(lx_cuda_arena(g->cuda, bytes, &x.arena, err));
    gpu_ok(lx_linear_to_act(&dry, &p->d_in, &p->d_w, NULL, out, err));
    gpu_ok(lx_linear_to_act(&x, &p->d_in, &p->d_w, NULL, out, err));
    gpu_ok(lx_exec_wait(&x, err));
    const size_t planned = lx_arena_peak(dry.arena);
    assert_true(planned > 0);
    assert_int_equal(lx_arena_peak(x.arena), planned);
    lx_arena_destroy(&x.arena);
    gpu_plan_close(&dry);
    return planned;
}

#endif
