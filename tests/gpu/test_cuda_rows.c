/*
 * test_cuda_rows.c - norms, rotation, vector operations and patches on a card; --bench: their speed
 * SPDX-License-Identifier: Apache-2.0
 */
#include "gpu_check.h"
#include "lx_elementwise.h"
#include "lx_norm.h"
#include "lx_patch.h"
#include "lx_rope.h"

#define STORE_BYTES   ((size_t)512 << 20)
#define BENCH_BYTES   ((size_t)3 << 30)
#define SCRATCH_BYTES ((size_t)256 << 20)

static const lx_dtype floats[] = {LX_DTYPE_BF16, LX_DTYPE_F32, LX_DTYPE_F16};

static lx_weight vector_of(check_rng *r, lx_dtype dtype, int64_t n)
{
    float *values = check_input(r, CHECK_RANDOM, n);
    lx_weight w = check_vector(values, dtype, n);
    free(values);
    return w;
}

static float *put_floats(gpu *g, const float *in, int64_t n)
{
    return gpu_put(g, in, (size_t)n * sizeof *in);
}

static float *get_floats(gpu *g, const float *in, int64_t n)
{
    float *out = check_floats(n);
    gpu_get(g, out, in, (size_t)n * sizeof *out);
    return out;
}

/* --- norms ----------------------------------------------------------------------------------- */

enum { WITH_WEIGHT = 1, WITH_BIAS = 2, WITH_MODULATION = 4 };

typedef struct normed {
    int64_t rows, cols;
    lx_norm norm, d_norm; /* on the host, on the card */
    lx_weight weight, bias, d_weight, d_bias;
    float *in, *d_in, *shift, *scale, *want, *plain;
    size_t mark;
} normed;

static void plain_norm(normed *p)
{
    for (int64_t m = 0; m < p->rows; m++) {
        const float *x = p->in + m * p->cols;
        float sum = 0, square = 0, mean = 0, n = (float)p->cols;
        for (int64_t i = 0; i < p->cols; i++)
            sum += x[i];
        if (p->norm.kind == LX_NORM_LAYER)
            mean = sum / n;
        for (int64_t i = 0; i < p->cols; i++)
            square += (x[i] - mean) * (x[i] - mean);
        float rstd = 1.0f / sqrtf(square / n + p->norm.eps);
        for (int64_t i = 0; i < p->cols; i++) {
            float y = (x[i] - mean) * rstd;
            y = p->norm.weight ? y * check_float_at(&p->weight, i) : y;
            y = p->norm.bias ? y + check_float_at(&p->bias, i) : y;
            y = p->norm.scale ? y * (1 + p->scale[i]) + p->shift[i] : y;
            p->plain[m * p->cols + i] = y;
        }
    }
}

static void make_norm(normed *p, gpu *g, check_rng *r, int kind, int parts, int64_t rows,
                      int64_t cols)
{
    *p = (normed){.rows = rows, .cols = cols, .mark = lx_arena_mark(g->store)};
    p->in = check_input(r, kind, rows * cols);
    p->d_in = put_floats(g, p->in, rows * cols);
    p->weight = vector_of(r, floats[(cols + parts) % 3], cols);
    p->bias = vector_of(r, floats[(cols + parts + 1) % 3], cols);
    p->d_weight = gpu_weight(g, &p->weight);
    p->d_bias = gpu_weight(g, &p->bias);
    p->shift = check_input(r, CHECK_RANDOM, cols);
    p->scale = check_input(r, CHECK_RANDOM, cols);
    p->norm = (lx_norm){.kind = parts & 8 ? LX_NORM_RMS : LX_NORM_LAYER, .eps = 1e-6f};
    p->norm.weight = parts & WITH_WEIGHT ? &p->weight : NULL;
    p->norm.bias = parts & WITH_BIAS ? &p->bias : NULL;
    p->norm.shift = parts & WITH_MODULATION ? p->shift : NULL;
    p->norm.scale = parts & WITH_MODULATION ? p->scale : NULL;
    p->d_norm = p->norm;
    p->d_norm.weight = p->norm.weight ? &p->d_weight : NULL;
    p->d_norm.bias = p->norm.bias ? &p->d_bias : NULL;
    p->d_norm.shift = p->norm.shift ? put_floats(g, p->shift, cols) : NULL;
    p->d_norm.scale = p->norm.scale ? put_floats(g, p->scale, cols) : NULL;
    p->want = check_floats(rows * cols);
    p->plain = check_floats(rows * cols);
    lx_act out = {LX_DTYPE_F32, rows, cols, p->want, NULL};
    lx_norm_rows_ref(p->in, &p->norm, &out);
    plain_norm(p);
}

static void destroy_norm(gpu *g, normed *p)
{
    check_free_weight(&p->weight);
    check_free_weight(&p->bias);
    free(p->in), free(p->shift), free(p->scale), free(p->want), free(p->plain);
    lx_arena_reset(g->store, p->mark);
}

/* Codes stand for what the norm wanted: half a step, and what f32 loses before. */
static void check_norm_codes(const char *what, const normed *p, const lx_act *out, double lost)
{
    double most = 0;
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        double scale = (double)out->scale[i / p->cols], v, step = scale / 2;
        double y = (double)p->want[i];
        if (out->dtype == LX_DTYPE_I8) {
            v = (double)((const int8_t *)out->data)[i] * scale;
        } else {
            v = (double)gpu_widen(out->data, LX_DTYPE_F8_E4M3, i) * scale;
            step = fmax(fabs(y) / 16, scale * 0x1p-10);
        }
        double slack = 1e-4 * step + lost * 448 * scale, d = fabs(v - y);
        most = fmax(most, step > 0 ? d / step : d);
        if (!(d <= step + slack))
            fail_msg("%s: [%d, %d] stands for %.9g instead of %.9g", what, (int)(i / p->cols),
                     (int)(i % p->cols), v, y);
    }
    printf("  %-56s at most %.4f of half a step\n", what, most);
}

static void run_norm(gpu *g, normed *p, lx_dtype dtype, bool in_place, lx_act *out)
{
    int64_t n = p->rows * p->cols;
    size_t bytes = (size_t)n * lx_dtype_size(dtype), scratch = lx_arena_mark(g->scratch);
    *out = (lx_act){.dtype = dtype, .rows = p->rows, .cols = p->cols};
    float *in = in_place ? put_floats(g, p->in, n) : p->d_in;
    void *data = in_place ? (void *)in : gpu_take(g, bytes);
    float *scale = gpu_take(g, (size_t)p->rows * sizeof(float));
    lx_act d_out = *out;
    d_out.data = data;
    d_out.scale = scale;
    gpu_ok(lx_norm_rows(&g->x, in, &p->d_norm, &d_out, err));
    assert_int_equal(lx_arena_mark(g->scratch), scratch);
    out->data = check_alloc(1, bytes);
    gpu_get(g, out->data, data, bytes);
    out->scale = get_floats(g, scale, p->rows);
}

static void check_norm(gpu *g, normed *p, lx_dtype dtype, bool in_place)
{
    char what[96];
    int64_t n = p->rows * p->cols;
    lx_act out, again;
    snprintf(what, sizeof what, "%s %dx%d%s%s%s -> %s%s",
             p->norm.kind == LX_NORM_RMS ? "rms" : "layer", (int)p->rows, (int)p->cols,
             p->norm.weight ? " w" : "", p->norm.bias ? " b" : "", p->norm.scale ? " mod" : "",
             lx_dtype_name(dtype), in_place ? " in place" : "");
    run_norm(g, p, dtype, in_place, &out);
    run_norm(g, p, dtype, in_place, &again);
    if (memcmp(out.data, again.data, (size_t)n * lx_dtype_size(dtype)) != 0)
        fail_msg("%s: other bits the second time", what);
    if (lx_dtype_is_code(dtype)) {
        check_norm_codes(what, p, &out, 3e-7 + 2 * gpu_compare(p->plain, p->want, n).rel_l2);
    } else {
        float *got = check_floats(n);
        for (int64_t i = 0; i < n; i++)
            got[i] = gpu_widen(out.data, dtype, i);
        gpu_report_allowed(what, got, p->want, p->plain, n, p->cols, dtype, 0);
        free(got);
    }
    free(out.data), free(out.scale), free(again.data), free(again.scale);
}

static const lx_dtype acts[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};

static void test_norm_over_shapes_and_parts(void **state)
{
    static const int64_t cols[] = {1,    7,    8,    64,    100,   1021, 1536,
                                   2048, 2056, 5120, 13824, 14336, 14344};
    check_rng r = {1};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
        for (int parts = 0; parts < 16; parts++) {
            normed p;
            make_norm(&p, *state, &r, CHECK_RANDOM, parts, parts == 12 ? 131 : 3, cols[c]);
            check_norm(*state, &p, acts[(c + (size_t)parts) % 4], false);
            check_norm(*state, &p, LX_DTYPE_F32, parts % 2);
            destroy_norm(*state, &p);
        }
}

static void test_norm_over_inputs(void **state)
{
    check_rng r = {2};
    for (int kind = 0; kind < CHECK_KINDS; kind++)
        for (int parts = 0; parts < 16; parts += 7)
            for (int d = 0; d < 4; d++) {
                normed p;
                make_norm(&p, *state, &r, kind, parts, 9, d % 2 ? 1536 : 1531);
                check_norm(*state, &p, acts[d], false);
                destroy_norm(*state, &p);
            }
}

/* --- rotation -------------------------------------------------------------------------------- */

typedef struct turned {
    lx_grid grid;
    int64_t head_dim, heads, first, rows, gap;
    lx_dtype dtype;
    bool is_rotated;
} turned;

static void check_rope(gpu *g, check_rng *r, const turned *t)
{
    char what[96];
    int64_t cols = t->heads * t->head_dim, n = t->rows * cols;
    size_t mark = lx_arena_mark(g->store), scratch = lx_arena_mark(g->scratch);
    lx_weight gain = vector_of(r, floats[cols / 2 % 3], cols), d_gain = gpu_weight(g, &gain);
    lx_rope_table table = {.grid = t->grid, .head_dim = t->head_dim};
    float *want = check_input(r, CHECK_RANDOM, n);
    for (int64_t i = 0; i < n; i++)
        want[i] = gpu_rounded(t->dtype, want[i]);
    lx_mat q = gpu_mat(g, t->dtype, want, t->rows, cols, cols + t->gap);
    lx_mat again = gpu_mat(g, t->dtype, want, t->rows, cols, cols + t->gap);
    lx_mat host = lx_mat_f32(want, t->rows, cols);
    lx_qk_norm_rope_ref(&host, t->first, &gain, 1e-6f, t->is_rotated ? &table : NULL);
    if (t->is_rotated)
        gpu_ok(lx_rope_table_build(&g->x, t->grid, t->head_dim, &table, err));
    const lx_rope_table *with = t->is_rotated ? &table : NULL;
    gpu_ok(lx_qk_norm_rope(&g->x, &q, t->first, &d_gain, 1e-6f, with, err));
    gpu_ok(lx_qk_norm_rope(&g->x, &again, t->first, &d_gain, 1e-6f, with, err));
    float *got = gpu_mat_get(g, &q), *twice = gpu_mat_get(g, &again);
    snprintf(what, sizeof what, "rope %dx%dx%d from %d, %d rows, %d heads of %d, %s%s",
             (int)t->grid.t, (int)t->grid.h, (int)t->grid.w, (int)t->first, (int)t->rows,
             (int)t->heads, (int)t->head_dim, lx_dtype_name(t->dtype),
             t->is_rotated ? "" : ", norm only");
    assert_memory_equal(got, twice, (size_t)n * sizeof *got);
    /* f32: the sum of squares, and angles stored as f32. */
    gpu_report_allowed(what, got, want, NULL, n, cols, t->dtype, 5e-7);
    lx_arena_reset(g->scratch, scratch);
    lx_arena_reset(g->store, mark);
    check_free_weight(&gain);
    free(want), free(got), free(twice);
}

static void test_rope_over_shapes(void **state)
{
    static const turned cases[] = {
        {{1, 1, 1}, 2, 1, 0, 1, 0, 0, true},
        {{2, 3, 5}, 6, 1, 0, 30, 0, 0, true},
        {{3, 4, 5}, 10, 3, 7, 50, 2, 0, true},
        {{3, 4, 5}, 16, 4, 1, 59, 8, 0, true},
        {{2, 7, 11}, 64, 2, 0, 154, 0, 0, true},
        {{21, 30, 52}, 128, 12, 4000, 200, 0, 0, true},
        {{21, 30, 52}, 128, 40, 32000, 100, 0, 0, true},
        {{21, 45, 80}, 128, 40, 75500, 100, 10240, 0, true},
        {{1, 1, 40}, 1024, 2, 0, 40, 0, 0, true},
        {{1, 2, 20}, 1032, 2, 0, 40, 0, 0, true},
        {{5, 4, 3}, 128, 112, 0, 20, 8, 0, true},
        {{5, 4, 3}, 128, 113, 0, 20, 8, 0, true},
        {{1, 1, 1}, 1, 1531, 0, 9, 0, 0, false},
        {{1, 1, 1}, 128, 40, 0, 126, 0, 0, false},
        {{1, 1, 1}, 128, 12, 0, 37, 1536, 0, false},
    };
    check_rng r = {3};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int d = 0; d < 2; d++) {
            turned t = cases[i];
            t.dtype = d ? LX_DTYPE_BF16 : LX_DTYPE_F32;
            check_rope(*state, &r, &t);
        }
}

static void test_rope_table_is_planned(void **state)
{
    gpu *g = *state;
    lx_grid grid = {21, 45, 80};
    lx_rope_table table;
    lx_exec x = g->x, dry = gpu_plan_open(g);
    gpu_ok(lx_cuda_arena(g->cuda, 1 << 20, &x.arena, err));
    gpu_ok(lx_arena_create(&x.host, 1 << 20, err));
    gpu_ok(lx_rope_table_build(&x, grid, 128, &table, err));
    gpu_ok(lx_rope_table_build(&dry, grid, 128, &table, err));
    assert_int_equal(lx_arena_peak(x.arena), lx_arena_peak(dry.arena));
    assert_int_equal(lx_arena_peak(x.host), lx_arena_peak(dry.host));
    assert_int_equal(lx_arena_mark(x.host), 0);
    lx_arena_destroy(&x.arena);
    lx_arena_destroy(&x.host);
    gpu_plan_close(&dry);
}

/* --- vectors --------------------------------------------------------------------------------- */

static void test_silu_and_axpby(void **state)
{
    static const int64_t sizes[] = {1, 3, 255, 256, 257, 5120, 30720, 1000003};
    gpu *g = *state;
    check_rng r = {4};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        size_t mark = lx_arena_mark(g->store);
        float *in = check_input(&r, CHECK_RANDOM, n), *out = check_input(&r, CHECK_RANDOM, n);
        float *want = check_floats(n);
        for (int64_t i = 0; i < n; i++)
            in[i] *= i % 3 ? 8 : 120;
        float *d_in = put_floats(g, in, n), *d_out = put_floats(g, out, n);
        lx_silu_ref(in, n, want);
        gpu_ok(lx_silu(&g->x, d_in, n, d_in, err));
        float *got = get_floats(g, d_in, n);
        for (int64_t i = 0; i < n; i++)
            if (!(fabsf(got[i] - want[i]) <= 4 * 0x1p-23f * fabsf(want[i]) + 1e-41f))
                fail_msg("silu(%.9g) = %.9g, not %.9g", (double)in[i], (double)got[i],
                         (double)want[i]);
        gpu_ok(lx_axpby(&g->x, -0.37f, d_in, 0.83f, n, d_out, err));
        lx_axpby_ref(-0.37f, got, 0.83f, n, out);
        free(want);
        want = get_floats(g, d_out, n);
        assert_memory_equal(want, out, (size_t)n * sizeof *out);
        lx_arena_reset(g->store, mark);
        free(in), free(out), free(want), free(got);
    }
}

static void test_widen_is_exact(void **state)
{
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_F16, LX_DTYPE_BF16, LX_DTYPE_F8_E4M3,
                                      LX_DTYPE_F8_E5M2};
    static const int64_t sizes[] = {1, 7, 8, 1000, 30720, 100001};
    gpu *g = *state;
    check_rng r = {5};
    for (size_t d = 0; d < 5; d++)
        for (size_t s = 0; s < 6; s++) {
            int64_t n = sizes[s];
            size_t mark = lx_arena_mark(g->store);
            lx_weight w = vector_of(&r, dtypes[d], n), d_w = gpu_weight(g, &w);
            float *d_out = gpu_take(g, (size_t)n * sizeof(float));
            gpu_ok(lx_widen(&g->x, &d_w, d_out, err));
            float *got = get_floats(g, d_out, n);
            for (int64_t i = 0; i < n; i++)
                if (got[i] != check_float_at(&w, i))
                    fail_msg("%s at %d", lx_dtype_name(dtypes[d]), (int)i);
            lx_arena_reset(g->store, mark);
            check_free_weight(&w);
            free(got);
        }
}

static void test_mat_download_is_exact(void **state)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {7, 13, 13}, {5, 64, 72}, {9, 1536, 4608}, {33, 100, 107}};
    gpu *g = *state;
    check_rng r = {6};
    for (size_t d = 0; d < 3; d++)
        for (size_t s = 0; s < 5; s++) {
            int64_t m = shapes[s][0], k = shapes[s][1];
            size_t mark = lx_arena_mark(g->store);
            float *in = check_input(&r, CHECK_RANDOM, m * k), *got = check_floats(m * k);
            lx_mat mat = gpu_mat(g, floats[d], in, m, k, shapes[s][2]);
            gpu_ok(lx_mat_download(&g->x, &mat, got, err));
            for (int64_t i = 0; i < m * k; i++)
                if (got[i] != gpu_rounded(floats[d], in[i]))
                    fail_msg("%s %dx%d at %d", lx_dtype_name(floats[d]), (int)m, (int)k, (int)i);
            lx_arena_reset(g->store, mark);
            free(in), free(got);
        }
}

static void test_gather_rows(void **state)
{
    gpu *g = *state;
    check_rng r = {7};
    const int32_t ids[] = {4, 0, 6, 4};
    size_t mark = lx_arena_mark(g->store);
    float *values = check_input(&r, CHECK_RANDOM, 7 * 100), want[4 * 100];
    lx_weight table = check_weight(values, LX_DTYPE_BF16, 7, 100);
    float *d_out = gpu_take(g, sizeof want);
    gpu_ok(lx_gather_rows(&g->x, &table, ids, 4, d_out, err));
    lx_gather_rows_ref(&table, ids, 4, want);
    float *got = get_floats(g, d_out, 4 * 100);
    assert_memory_equal(got, want, sizeof want);
    lx_arena_reset(g->store, mark);
    check_free_weight(&table);
    free(values), free(got);
}

/* --- patches and the finite check ------------------------------------------------------------ */

static void test_patches(void **state)
{
    static const lx_patch_dims dims[] = {{1, 1, 2, 2}, {3, 2, 6, 10}, {16, 21, 60, 104}};
    gpu *g = *state;
    check_rng r = {8};
    for (int i = 0; i < 3; i++) {
        const lx_patch_dims *d = &dims[i];
        int64_t n = d->channels * d->t * d->h * d->w;
        size_t mark = lx_arena_mark(g->store), bytes = (size_t)n * sizeof(float);
        float *in = check_input(&r, CHECK_RANDOM, n), *want = check_floats(n);
        float *d_in = put_floats(g, in, n), *d_out = gpu_take(g, bytes);
        lx_patchify_ref(d, in, want);
        gpu_ok(lx_patchify(&g->x, d, d_in, d_out, err));
        float *got = get_floats(g, d_out, n);
        assert_memory_equal(got, want, bytes);
        free(got);
        lx_unpatchify_ref(d, in, want);
        gpu_ok(lx_unpatchify(&g->x, d, d_in, d_out, err));
        got = get_floats(g, d_out, n);
        assert_memory_equal(got, want, bytes);
        lx_arena_reset(g->store, mark);
        free(in), free(want), free(got);
    }
}

static void test_find_nonfinite(void **state)
{
    static const int64_t sizes[] = {1, 257, 2096640};
    gpu *g = *state;
    check_rng r = {9};
    for (int i = 0; i < 3; i++) {
        int64_t n = sizes[i], first = 7;
        size_t mark = lx_arena_mark(g->store), scratch = lx_arena_mark(g->scratch);
        float *in = check_input(&r, CHECK_LARGE, n), *d_in = put_floats(g, in, n);
        gpu_ok(lx_find_nonfinite(&g->x, d_in, n, &first, err));
        assert_int_equal(first, -1);
        const float bad[] = {NAN, HUGE_VALF, -HUGE_VALF};
        const int64_t places[] = {n - 1, n / 2, n / 3};
        for (int k = 0; k < 3; k++) { /* always before the ones that are there */
            gpu_ok(lx_upload(&g->x, d_in + places[k], &bad[k], sizeof *bad, err));
            gpu_ok(lx_find_nonfinite(&g->x, d_in, n, &first, err));
            assert_int_equal(first, places[k]);
        }
        gpu_ok(lx_find_nonfinite(&g->x, d_in, 0, &first, err));
        assert_int_equal(first, -1);
        assert_int_equal(lx_arena_mark(g->scratch), scratch);
        lx_arena_reset(g->store, mark);
        free(in);
    }
}

/* --- speed ----------------------------------------------------------------------------------- */

typedef struct bench {
    int64_t rows, cols, n;
    const float *in;
    float *out;
    lx_norm norm;
    lx_act act;
    lx_mat q;
    lx_weight gain;
    lx_rope_table table;
    bool is_rotated;
} bench;

static void call_norm(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(lx_norm_rows(&g->x, b->in, &b->norm, &b->act, &err), &err);
}

static void call_rope(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(
        lx_qk_norm_rope(&g->x, &b->q, 0, &b->gain, 1e-6f, b->is_rotated ? &b->table : NULL, &err),
        &err);
}

static void call_axpby(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(lx_axpby(&g->x, 0.5f, b->in, 0.5f, b->n, b->out, &err), &err);
}

static void call_nonfinite(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    int64_t first;
    gpu_must(lx_find_nonfinite(&g->x, b->in, b->n, &first, &err), &err);
}

static float *zeros(gpu *g, int64_t n)
{
    float *out = gpu_take(g, (size_t)n * sizeof *out);
    gpu_ok(lx_zero(&g->x, out, (size_t)n * sizeof *out, err));
    return out;
}

static void bench_norm(gpu *g, lx_dtype dtype, int64_t rows, int64_t cols)
{
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = {.norm = {.kind = LX_NORM_LAYER, .eps = 1e-6f}, .in = zeros(g, rows * cols)};
    b.norm.shift = zeros(g, cols);
    b.norm.scale = zeros(g, cols);
    b.act = (lx_act){.dtype = dtype, .rows = rows, .cols = cols};
    b.act.data = zeros(g, rows * cols);
    b.act.scale = zeros(g, rows);
    snprintf(what, sizeof what, "layer norm, modulated, [%d, %d] -> %s", (int)rows, (int)cols,
             lx_dtype_name(dtype));
    gpu_print_bytes(what, gpu_time(g, call_norm, &b),
                    (double)(rows * cols) * (4.0 + (double)lx_dtype_size(dtype)),
                    gpu_roof_of(g).gb_per_s);
    lx_arena_reset(g->store, mark);
}

static void bench_rope(gpu *g, lx_dtype dtype, bool is_rotated)
{
    char what[96];
    const int64_t rows = 32760, cols = 5120, size = (int64_t)lx_dtype_size(dtype);
    size_t mark = lx_arena_mark(g->store), scratch = lx_arena_mark(g->scratch);
    bench b = {.is_rotated = is_rotated};
    b.q = (lx_mat){.dtype = dtype, .rows = rows, .cols = cols, .stride = 3 * cols};
    b.q.data = zeros(g, rows * 3 * cols * size / 4);
    b.gain = (lx_weight){.name = "gain", .dtype = LX_DTYPE_BF16, .shape = {1, {cols}}};
    b.gain.data = zeros(g, cols);
    gpu_ok(lx_rope_table_build(&g->x, (lx_grid){21, 30, 52}, 128, &b.table, err));
    snprintf(what, sizeof what, "q/k norm%s [32760, 5120] %s", is_rotated ? " and rope" : "",
             lx_dtype_name(dtype));
    gpu_print_bytes(what, gpu_time(g, call_rope, &b), 2.0 * (double)(rows * cols * size),
                    gpu_roof_of(g).gb_per_s);
    lx_arena_reset(g->scratch, scratch);
    lx_arena_reset(g->store, mark);
}

static int bench_all(void)
{
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    for (int d = 0; d < 4; d++) {
        bench_norm(&g, acts[d], 32760, 5120);
        bench_norm(&g, acts[d], 4096, 5120);
        bench_norm(&g, acts[d], 126, 4096);
    }
    bench_rope(&g, LX_DTYPE_BF16, true);
    bench_rope(&g, LX_DTYPE_BF16, false);
    bench_rope(&g, LX_DTYPE_F32, true);
    bench b = {.n = 16 * 21 * 60 * 104};
    b.in = zeros(&g, b.n);
    b.out = zeros(&g, b.n);
    gpu_print_bytes("axpby, a latent", gpu_time(&g, call_axpby, &b), 12.0 * (double)b.n, 0);
    gpu_print_bytes("finite check with its answer", gpu_time(&g, call_nonfinite, &b),
                    4.0 * (double)b.n, 0);
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
        cmocka_unit_test(test_silu_and_axpby),
        cmocka_unit_test(test_widen_is_exact),
        cmocka_unit_test(test_mat_download_is_exact),
        cmocka_unit_test(test_gather_rows),
        cmocka_unit_test(test_patches),
        cmocka_unit_test(test_find_nonfinite),
        cmocka_unit_test(test_norm_over_shapes_and_parts),
        cmocka_unit_test(test_norm_over_inputs),
        cmocka_unit_test(test_rope_over_shapes),
        cmocka_unit_test(test_rope_table_is_planned),
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
