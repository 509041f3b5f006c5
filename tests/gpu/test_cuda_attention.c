/*
 * test_cuda_attention.c - attention on a card against the f64 definition; --bench: its speed
 * SPDX-License-Identifier: Apache-2.0
 *
 * Designs  On Hopper INT8 of head_dim 128 is the wgmma kernel, which has more tests in
 *          test_cuda_attention_wgmma.c; `pretend` has those of other cards run.
 */
#include "gpu_attention_kernel.h"

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

/* Cross-attention: both sides of every 64 keys, of what a card's shared memory holds, of blocks of
 * queries; keys that do not count. */
static void test_few_keys(void **state)
{
    static const int64_t keys[] = {1, 2, 63, 64, 65, 127, 128, 191, 192, 193, 384, 385, 448, 449},
                         queries[] = {1, 15, 16, 192, 193, 1000}, heads[] = {1, 3, 40};
    enum { N_KEYS = sizeof keys / sizeof *keys, N_QUERIES = sizeof queries / sizeof *queries };
    for (int i = 0; i < N_KEYS; i++)
        for (int j = 0; j < N_QUERIES; j++) {
            shape s = {.n_q = queries[j], .n_k = keys[i], .head_dim = 128};
            s.n_heads = heads[(i + j) % 3];
            s.slack = (i + j) % 2 ? 8 : 0;
            s.biases = j % 2 ? WITH_KEY_BIAS : 0;
            if (queries[j] == 193 && keys[i] >= 128)
                s.biases = WITH_KEY_BIAS | WITH_SILENT_KEYS;
            check_shape(*state, &s);
        }
}

/* More heads than multiprocessors: every block goes from one to the next, and of 200 queries, which
 * are two blocks, some begin within one. */
static void test_few_keys_of_many_heads(void **state)
{
    static const int64_t queries[] = {1, 17, 200};
    gpu *g = *state;
    for (int i = 0; i < (gpu_is_small() ? 2 : 3); i++) {
        shape s = {.n_q = queries[i], .n_k = 65, .head_dim = 128};
        s.n_heads = (int64_t)lx_cuda_card(g->cuda)->n_sm * 9 / 4;
        s.slack = i % 2 ? 8 : 0;
        s.biases = i % 2 ? WITH_KEY_BIAS : 0;
        check_any_shape(g, &s);
    }
}

/* Launches that begin and end within a head of three blocks of queries. */
static void test_few_keys_however_launched(void **state)
{
    static const int64_t units[] = {1, 5, 1 << 20};
    gpu *g = *state;
    shape s = {.n_q = 400, .n_k = 130, .n_heads = 5, .head_dim = 128, .biases = WITH_KEY_BIAS};
    problem p = make(g, &s);
    float *want = run(g, &p);
    lx_kv kv;
    check_rows("as chosen", &p, want);
    gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, s.n_heads, &kv, err));
    lx_attention_args args = args_of(&p, &kv);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        char how[32];
        lx_cu_attention a = direct_of(&args);
        a.units_per_launch = units[i];
        snprintf(how, sizeof how, "%d units a launch", (int)units[i]);
        check_launch(g, how, &p, g->cuda->module->attention->few, &a, want);
    }
    free(want);
    destroy(g, &p);
}

static void check_int8_over_shapes(gpu *g, lx_attention_kind kind)
{
    for (int i = 0; i < N_LENGTHS; i++)
        for (int d = 0; d < 4; d++) {
            int64_t dim = d % 2 ? 64 : 128, n_q = lengths[i],
                    n_k = lengths[(i + 3 * d) % N_LENGTHS];
            shape s = {.n_q = n_q, .n_k = n_k, .head_dim = dim, .kind = kind};
            s.n_heads = heads_for(n_q > n_k ? n_q : n_k, dim, i + d);
            s.slack = (i + d) % 2 ? 8 : 0;
            s.biases = d >= 2 ? WITH_KEY_BIAS : 0;
            check_shape(g, &s);
        }
}

static void test_int8_over_shapes(void **state)
{
    check_int8_over_shapes(*state, LX_ATTENTION_INT8);
    check_int8_over_shapes(*state, LX_ATTENTION_INT8_FP8);
}

static void test_int8_by_mma_sync_over_shapes(void **state)
{
    gpu *g = *state;
    lx_card_kind is = pretend(g, 8, 0);
    check_int8_over_shapes(g, LX_ATTENTION_INT8);
    g->cuda->card = is;
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
            s.k_offset = planted[i][0];
            s.k_outlier = planted[i][1];
            s.kind = LX_ATTENTION_INT8;
            check_shape(*state, &s);
            s.kind = LX_ATTENTION_INT8_FP8;
            check_shape(*state, &s);
        }
}

static void test_zeros_and_silent_keys(void **state)
{
    for (int kind = LX_ATTENTION_PLAIN; kind <= LX_ATTENTION_INT8_FP8; kind++) {
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
    lx_card_kind is = pretend(g, 8, 6);
    g->x.sums = LX_SUMS_F16; /* also where the card is held to less, and auto would not */
    static const float magnitude[] = {1, 0.001f, 500, 20000};
    for (int i = 0; i < 4; i++)
        for (int64_t dim = 64; dim <= 128; dim *= 2) {
            shape s = {.n_q = 300, .n_k = 1000 + i, .n_heads = 3, .head_dim = dim};
            s.kind = LX_ATTENTION_INT8;
            s.v_magnitude = magnitude[i];
            check_shape(g, &s);
        }
    g->x.sums = LX_SUMS_AUTO;
    g->cuda->card = is;
}

/* Values of any size, and with FP8 of very different sizes in channels side by side. */
static void test_int8_with_large_and_small_values(void **state)
{
    static const float magnitude[] = {0.001f, 500, 20000};
    for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++)
        for (int i = 0; i < 3; i++) {
            shape s = {.n_q = 100, .n_k = 700 + i, .n_heads = 2, .head_dim = 128};
            s.kind = (lx_attention_kind)kind;
            s.v_magnitude = magnitude[i];
            check_shape(*state, &s);
        }
}

/* Logits of tens: weights are nearly one-hot and the maximum moves from tile to tile. */
static void test_int8_with_large_logits(void **state)
{
    for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++) {
        shape s = {.n_q = 200, .n_k = 3001, .n_heads = 2, .head_dim = 128, .scale = 12};
        s.kind = (lx_attention_kind)kind;
        /* The same numbers computed in f64 from rounded operands: 0.033 and 0.043. */
        s.allowed = kind == LX_ATTENTION_INT8 ? 0.05 : 0.065;
        check_shape(*state, &s);
    }
}

/* Which queries are asked for together changes nothing. */
static void test_chunks_of_queries_give_the_same_bits(void **state)
{
    gpu *g = *state;
    for (int kind = LX_ATTENTION_PLAIN; kind <= LX_ATTENTION_INT8_FP8; kind++) {
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
    for (int i = 0; i < 6; i++) {
        shape s = {.n_q = 65, .n_k = 700, .n_heads = 3, .head_dim = dims[i % 3]};
        s.kind = i < 3 ? LX_ATTENTION_INT8 : LX_ATTENTION_INT8_FP8;
        problem p = make(g, &s);
        lx_exec dry = gpu_plan_open(g);
        lx_kv kv, dry_kv;
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&dry, s.kind, &p.d_k, &p.d_v, 3, &dry_kv, err));
        gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, 3, &kv, err));
        lx_attention_args args = args_of(&p, &dry_kv);
        gpu_ok(lx_attention(&dry, &args, err));
        assert_int_equal(kv.kind, dry_kv.kind);
        assert_int_equal(kv.kind == LX_ATTENTION_PLAIN, dims[i % 3] == 96);
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
    lx_qk_norm raw;     /* of q and k; gain NULL: they are as they should be */
} bench;

enum { PIECE = 8 << 20 };

/* Made once for each format: to draw them takes longer than all that is timed. */
static const uint16_t *random_piece(lx_dtype dtype)
{
    static uint16_t *pieces[2];
    uint16_t **piece = &pieces[dtype == LX_DTYPE_F16];
    check_rng r = {(uint64_t)dtype};
    if (*piece)
        return *piece;
    *piece = malloc(PIECE * sizeof **piece);
    if (!*piece)
        exit(1);
    for (int64_t i = 0; i < PIECE; i++)
        gpu_narrow(*piece + i, dtype, normal(&r));
    return *piece;
}

/* Random numbers from a piece of 8 Mi elements, again and again. */
static lx_mat random_mat(gpu *g, lx_dtype dtype, int64_t rows, int64_t cols)
{
    lx_err err = {0};
    lx_mat m = {dtype, rows, cols, cols, NULL};
    const uint16_t *piece = random_piece(dtype);
    gpu_must(lx_arena_take(g->store, (size_t)(rows * cols) * 2, &m.data, &err), &err);
    for (int64_t at = 0; at < rows * cols; at += PIECE) {
        int64_t n = rows * cols - at < PIECE ? rows * cols - at : PIECE;
        gpu_must(lx_upload(&g->x, (uint16_t *)m.data + at, piece, (size_t)n * 2, &err), &err);
    }
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
    const lx_kv_source from = {
        .k = b->k, .v = b->v, .n_heads = n_heads, .k_norm = b->raw.gain ? &b->raw : NULL};
    gpu_must(lx_kv_prepare_from(&g->x, b->kind, &from, &b->kv, &err), &err);
    lx_arena_reset(g->scratch, mark);
}

/* q and k as their linears make them; queries are the grid's first tokens. */
static void make_raw(gpu *g, bench *b)
{
    static lx_rope_table table;
    static lx_weight gain;
    lx_err err = {0};
    int64_t width = b->q.cols;
    const lx_grid grid = {b->k.rows / 1560, 30, 52}; /* 832x480 */
    gain = (lx_weight){.name = "gain", .dtype = LX_DTYPE_F32, .shape = {1, {width}}};
    gain.data = random_floats(g, width);
    float *square = random_floats(g, b->k.rows);
    gpu_must(lx_rope_table_build(&g->x, grid, 128, &table, &err), &err);
    lx_cu_mat k = lx_cu_mat_of(&b->k);
    gpu_must(lx_cuda_status(g->cuda, g->cuda->module->rows->squares(g->cuda->dev, &k, square),
                            "squares", &err),
             &err);
    b->raw = (lx_qk_norm){.gain = &gain, .table = &table, .eps = 1e-6f, .square = square};
}

/* A kernel run in a way of the caller's choice. */
static void call_directly(gpu *g, bench *b, const lx_attention_args *args)
{
    lx_err err = {0};
    lx_cu_attention a = direct_of(args);
    const lx_cuda_attention_ops *ops = g->cuda->module->attention;
    a.rows_per_block = b->rows_per_block;
    gpu_must(lx_cuda_status(g->cuda, ops->int8(g->cuda->dev, &a), "attention", &err), &err);
}

static void call_attention(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    for (int64_t i = 0; i < b->times; i++)
        for (int64_t first = 0; first < b->q.rows; first += b->chunk) {
            int64_t n = b->q.rows - first < b->chunk ? b->q.rows - first : b->chunk;
            lx_attention_args args = {.q = lx_mat_rows(&b->q, first, n),
                                      .kv = &b->kv,
                                      .q_norm = b->raw.gain ? &b->raw : NULL,
                                      .scale = 1 / sqrtf((float)b->kv.head_dim),
                                      .rel = b->rel,
                                      .key_bias = b->key_bias,
                                      .out = lx_mat_rows(&b->out, first, n)};
            if (b->rows_per_block)
                call_directly(g, b, &args);
            else
                gpu_must(lx_attention(&g->x, &args, &err), &err);
        }
}

/* From bf16 q, k, v. */
static void call_both(gpu *g, void *self)
{
    call_prepare(g, self);
    call_attention(g, self);
}

enum design { CHOSEN, MMA_SYNC, F16_SUMS, FP8_MMA, FP8_MMA_F16_SUMS };

typedef struct bench_shape {
    const char *what;
    int64_t n_q, n_k, n_heads, head_dim, chunk, times;
    lx_attention_kind kind;
    int biases, rows_per_block;
    enum design design;
    bool is_raw;
} bench_shape;

/* Half of the operations at the INT8 rate, half at that of the values, or all at the latter's: of
 * the card's data sheet, whichever instruction multiplies. */
static double roof_of(const gpu *g, lx_attention_kind kind)
{
    gpu_roof peak = gpu_roof_of(g);
    double values = kind == LX_ATTENTION_INT8_FP8 && peak.fp8 > 0 ? peak.fp8 : peak.bf16;
    return kind != LX_ATTENTION_PLAIN && peak.int8 > 0 ? 2 / (1 / peak.int8 + 1 / values) : values;
}

static void bench_one(gpu *g, const bench_shape *s)
{
    lx_err err = {0};
    int64_t width = s->n_heads * s->head_dim;
    size_t mark = lx_arena_mark(g->store), scratch = lx_arena_mark(g->scratch);
    lx_card_kind is = g->cuda->card;
    bool is_fp8 = s->design == FP8_MMA || s->design == FP8_MMA_F16_SUMS;
    if (is_fp8 && !lx_card_has_fp8(&is))
        return;
    double roof = roof_of(g, s->kind);
    if (s->design != CHOSEN && is.major == 9)
        pretend(g, 8, is_fp8 ? 9 : 0);
    g->x.sums = s->design == F16_SUMS || s->design == FP8_MMA_F16_SUMS ? LX_SUMS_F16
                : s->design == FP8_MMA                                 ? LX_SUMS_F32
                                                                       : LX_SUMS_AUTO;
    bench b = {.kind = s->kind, .times = s->times, .rows_per_block = s->rows_per_block};
    b.chunk = s->chunk ? s->chunk : s->n_q;
    b.q = random_mat(g, LX_DTYPE_BF16, s->n_q, width);
    b.k = random_mat(g, LX_DTYPE_BF16, s->n_k, width);
    b.v = random_mat(g, LX_DTYPE_F16, s->n_k, width);
    b.out = random_mat(g, LX_DTYPE_BF16, s->n_q, width);
    if (s->biases & WITH_REL)
        b.rel = random_floats(g, s->n_heads * (s->n_q + s->n_k - 1));
    if (s->biases & WITH_KEY_BIAS)
        b.key_bias = random_floats(g, s->n_k);
    if (s->is_raw)
        make_raw(g, &b);
    b.kv.n_heads = s->n_heads;
    const lx_kv_source from = {
        .k = b.k, .v = b.v, .n_heads = s->n_heads, .k_norm = s->is_raw ? &b.raw : NULL};
    gpu_must(lx_kv_prepare_from(&g->x, s->kind, &from, &b.kv, &err), &err);
    double tera = 4e-12 * (double)s->n_q * (double)s->n_k * (double)width * (double)s->times;
    gpu_print_rate(s->what, gpu_time(g, call_attention, &b), tera, roof);
    if (s->kind != LX_ATTENTION_PLAIN && !s->chunk && !s->rows_per_block) {
        gpu_print_bytes("  its keys prepared", gpu_time(g, call_prepare, &b),
                        5.0 * (double)(s->n_k * width), gpu_roof_of(g).gb_per_s);
        gpu_print_rate("  both", gpu_time(g, call_both, &b), tera, roof);
    }
    g->cuda->card = is;
    g->x.sums = LX_SUMS_AUTO;
    lx_arena_reset(g->store, mark);
    lx_arena_reset(g->scratch, scratch);
}

/* of: a part of the names of those that are wanted. */
static int bench_all(const char *of)
{
    const lx_attention_kind P = LX_ATTENTION_PLAIN, I = LX_ATTENTION_INT8,
                            F = LX_ATTENTION_INT8_FP8;
    enum { R = WITH_REL, K = WITH_KEY_BIAS };
    const bench_shape shapes[] = {
        {"int8 32760 x 32760 x 40 x 128", 32760, 32760, 40, 128, 0, 1, I, 0, 0, CHOSEN, false},
        {"int8-fp8 the same", 32760, 32760, 40, 128, 0, 1, F, 0, 0, CHOSEN, false},
        {"int8 by mma.sync", 32760, 32760, 40, 128, 0, 1, I, 0, 0, MMA_SYNC, false},
        {"int8 by mma.sync, F16 sums", 32760, 32760, 40, 128, 0, 1, I, 0, 0, F16_SUMS, false},
        {"int8-fp8 by mma.sync", 32760, 32760, 40, 128, 0, 1, F, 0, 0, FP8_MMA, false},
        {"int8-fp8 by mma.sync, F16 sums", 32760, 32760, 40, 128, 0, 1, F, 0, 0, FP8_MMA_F16_SUMS,
         false},
        {"int8 by mma.sync, 256 queries, one launch", 32760, 32760, 40, 128, 0, 1, I, 0, 256,
         MMA_SYNC, false},
        {"int8 by mma.sync, 128 queries, one launch", 32760, 32760, 40, 128, 0, 1, I, 0, 128,
         MMA_SYNC, false},
        {"int8, q and k raw", 32760, 32760, 40, 128, 0, 1, I, 0, 0, CHOSEN, true},
        {"int8-fp8, q and k raw", 32760, 32760, 40, 128, 0, 1, F, 0, 0, CHOSEN, true},
        {"int8 by mma.sync, q and k raw", 32760, 32760, 40, 128, 0, 1, I, 0, 0, MMA_SYNC, true},
        {"int8 chunks of 4096", 32760, 32760, 40, 128, 4096, 1, I, 0, 0, CHOSEN, false},
        {"int8-fp8 chunks of 4096", 32760, 32760, 40, 128, 4096, 1, F, 0, 0, CHOSEN, false},
        {"int8 chunks of 8192", 32760, 32760, 40, 128, 8192, 1, I, 0, 0, CHOSEN, false},
        {"int8 75600 x 75600 x 40 x 128", 75600, 75600, 40, 128, 0, 1, I, 0, 0, CHOSEN, false},
        {"int8-fp8 75600 x 75600 x 40 x 128", 75600, 75600, 40, 128, 0, 1, F, 0, 0, CHOSEN, false},
        {"int8 cross 32760 x 513 x 40 x 128, key bias", 32760, 513, 40, 128, 0, 1, I, K, 0,
         MMA_SYNC, false},
        {"int8 cross, blocks of 256", 32760, 513, 40, 128, 0, 1, I, K, 256, MMA_SYNC, false},
        {"int8 cross 32760 x 77 x 40 x 128, key bias", 32760, 77, 40, 128, 0, 1, I, K, 0, MMA_SYNC,
         false},
        {"plain cross 32760 x 513 x 40 x 128, key bias", 32760, 513, 40, 128, 0, 1, P, K, 0, CHOSEN,
         false},
        {"plain cross 32760 x 77 x 40 x 128, key bias", 32760, 77, 40, 128, 0, 1, P, K, 0, CHOSEN,
         false},
        {"plain cross 32760 x 127 x 40 x 128, key bias", 32760, 127, 40, 128, 0, 1, P, K, 0, CHOSEN,
         false},
        {"plain cross 32760 x 384 x 40 x 128, key bias", 32760, 384, 40, 128, 0, 1, P, K, 0, CHOSEN,
         false},
        {"plain cross 32760 x 449 x 40 x 128, key bias", 32760, 449, 40, 128, 0, 1, P, K, 0, CHOSEN,
         false},
        {"plain 32760 x 32760 x 40 x 128", 32760, 32760, 40, 128, 0, 1, P, 0, 0, CHOSEN, false},
        {"plain UMT5 512 x 512 x 64 x 64, rel", 512, 512, 64, 64, 0, 1, P, R, 0, CHOSEN, false},
        {"plain UMT5 126 x 126 x 64 x 64, rel", 126, 126, 64, 64, 0, 1, P, R, 0, CHOSEN, false},
        {"plain VAE 6240 x 6240 x 1 x 384, 21 frames", 6240, 6240, 1, 384, 0, 21, P, 0, 0, CHOSEN,
         false},
        {"plain VAE 14400 x 14400 x 1 x 384, 21 frames", 14400, 14400, 1, 384, 0, 21, P, 0, 0,
         CHOSEN, false},
        {"fallback 1000 x 1000 x 3 x 33", 1000, 1000, 3, 33, 0, 1, P, 0, 0, CHOSEN, false},
    };
    gpu g;
    gpu_open(&g, (size_t)7 << 29, (size_t)5 << 29); /* 75,600 keys are prepared twice */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strstr(shapes[i].what, of))
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
    setvbuf(stdout, NULL, _IOLBF, 0); /* if a kernel never ends, the last line tells which */
    if (gpu_wants_bench(argc, argv))
        return bench_all(argc > 2 ? argv[2] : "");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_int8_with_large_and_small_values),
        cmocka_unit_test(test_int8_with_large_logits),
        cmocka_unit_test(test_few_keys),
        cmocka_unit_test(test_few_keys_of_many_heads),
        cmocka_unit_test(test_few_keys_however_launched),
        cmocka_unit_test(test_plain_over_shapes),
        cmocka_unit_test(test_int8_over_shapes),
        cmocka_unit_test(test_int8_by_mma_sync_over_shapes),
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
