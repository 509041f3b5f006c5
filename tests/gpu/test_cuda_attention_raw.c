/*
 * test_cuda_attention_raw.c - attention from q and k as their linears make them, on a card
 * SPDX-License-Identifier: Apache-2.0
 *
 * The definition is lx_qk_norm_rope_ref and then attention in f64. Every kernel that does the norm
 * and the rotation on its way (wgmma, mma.sync with both kinds of values and of sums, flash; few
 * does the norm alone), and those that have it done in place. Rows' sums of squares given or not,
 * and values' images in the place of keys or not, must be the same bits.
 *
 * Reading   Only grids of more than one line wrong: TurnRow. Only "not told" wrong: k_squares. Only
 *           "no room" right: images of values over keys. Images as such are looked at by
 *           test_images_hold_keys_and_values.
 */
#include "cuda/attention_image.h"
#include "gpu_attention.h"

#define STORE_BYTES   ((size_t)1 << 30)
#define SCRATCH_BYTES ((size_t)512 << 20)
#define EPS           1e-6f

static int begin(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

/* Queries first .. first + n_q of the grid's tokens (crossed: of none), all tokens as keys. */
typedef struct raw_case {
    lx_grid grid;
    int64_t first, n_q, n_k; /* n_k 0: the grid's */
    int64_t n_heads, head_dim;
    bool is_crossed, has_key_bias;
    float eps_only; /* rows so small that eps decides */
} raw_case;

static const raw_case cases[] = {
    {{1, 1, 1}, 0, 1, 0, 1, 128, false, false, 0},
    {{1, 1, 40}, 7, 33, 0, 2, 128, false, false, 0},
    {{2, 3, 5}, 0, 30, 0, 3, 64, false, false, 0},
    {{3, 7, 13}, 65, 208, 0, 3, 128, false, false, 0},
    {{3, 7, 13}, 1, 129, 0, 2, 64, false, false, 0},
    {{5, 10, 26}, 1003, 297, 0, 3, 128, false, false, 0},
    {{5, 10, 26}, 0, 1300, 0, 40, 128, false, false, 0},
    {{4, 8, 8}, 0, 256, 0, 1, 128, false, false, 1},
    {{21, 30, 52}, 32500, 260, 0, 2, 128, false, false, 0},
    {{1, 1, 1}, 0, 300, 67, 3, 128, true, true, 0},
    {{1, 1, 1}, 0, 130, 512, 2, 64, true, false, 0},
    {{1, 1, 1}, 0, 300, 460, 3, 128, true, true, 0},  /* more keys than `few` takes: flash */
    {{1, 1, 1}, 0, 2000, 67, 40, 128, true, true, 0}, /* `few`: a block has several units */
};

typedef struct raw {
    problem p;                    /* its q and k become the definition's */
    float *q, *k;                 /* raw, as rounded */
    lx_weight gain[2], d_gain[2]; /* of q, of k */
    lx_rope_table table;
    int64_t first[2]; /* tokens */
    float *square[2];
    void *k_place; /* with room */
    size_t k_room;
} raw;

static lx_weight gain_of(check_rng *r, lx_dtype dtype, int64_t n)
{
    float *values = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        values[i] = gpu_rounded(dtype, 1 + 0.3f * check_uniform(r));
    lx_weight w = check_weight(values, dtype, n, 1);
    w.shape = (lx_shape){1, {n}};
    free(values);
    return w;
}

static float *copy_of(const float *from, int64_t n)
{
    float *out = check_floats(n);
    memcpy(out, from, (size_t)n * sizeof *out);
    return out;
}

static raw make_raw(gpu *g, const raw_case *c, lx_attention_kind kind)
{
    static const lx_dtype dtypes[] = {LX_DTYPE_BF16, LX_DTYPE_F32, LX_DTYPE_F16};
    int64_t n_k = c->n_k ? c->n_k : c->grid.t * c->grid.h * c->grid.w;
    shape s = {.n_q = c->n_q, .n_k = n_k, .n_heads = c->n_heads, .head_dim = c->head_dim};
    s.kind = kind;
    s.biases = c->has_key_bias ? WITH_KEY_BIAS : 0;
    s.allowed = kind == LX_ATTENTION_PLAIN ? 1e-2 : 0; /* q and k are rounded once more */
    raw w = {.p = make(g, &s), .table = {.grid = c->grid, .head_dim = c->head_dim}};
    problem *p = &w.p;
    check_rng r = {(uint64_t)(n_k + c->n_q)};
    float magnitude = c->eps_only > 0 ? 1e-3f : 3.0f;
    for (int64_t i = 0; i < s.n_q * p->width; i++)
        p->q[i] = bf16(p->q[i] * magnitude);
    for (int64_t i = 0; i < n_k * p->width; i++)
        p->k[i] = bf16(p->k[i] * magnitude);
    w.q = copy_of(p->q, s.n_q * p->width);
    w.k = copy_of(p->k, n_k * p->width);
    const lx_rope_table *table = c->is_crossed ? NULL : &w.table;
    lx_mat host[2] = {lx_mat_f32(p->q, s.n_q, p->width), lx_mat_f32(p->k, n_k, p->width)};
    w.first[0] = c->is_crossed ? 0 : c->first;
    for (int i = 0; i < 2; i++) {
        w.gain[i] = gain_of(&r, dtypes[(n_k + i) % 3], p->width);
        w.d_gain[i] = gpu_weight(g, &w.gain[i]);
        lx_qk_norm_rope_ref(&host[i], w.first[i], &w.gain[i], EPS, table);
        w.square[i] = gpu_take(g, (size_t)host[i].rows * sizeof(float));
    }
    w.k_room = lx_kv_room(&g->x, n_k, p->width);
    w.k_place = gpu_take(g, w.k_room);
    return w;
}

/* Of q (0) or k (1); points into w, which must stay where it is. */
static lx_qk_norm norm_of(const raw *w, int i, const lx_rope_table *table, const float *square)
{
    return (lx_qk_norm){.gain = &w->d_gain[i],
                        .table = table,
                        .first_token = w->first[i],
                        .eps = EPS,
                        .square = square};
}

static void destroy_raw(gpu *g, raw *w)
{
    check_free_weight(&w->gain[0]), check_free_weight(&w->gain[1]);
    free(w->q), free(w->k);
    destroy(g, &w->p);
}

/* As it was made, again: attention may have written over it. */
static lx_mat put_again(gpu *g, void *place, const float *from, int64_t rows, int64_t cols)
{
    size_t bytes = (size_t)(rows * cols) * 2;
    unsigned char *made = check_alloc(rows * cols, 2);
    for (int64_t i = 0; i < rows * cols; i++)
        gpu_narrow(made + 2 * i, LX_DTYPE_BF16, from[i]);
    gpu_ok(lx_upload(&g->x, place, made, bytes, err));
    free(made);
    return (lx_mat){LX_DTYPE_BF16, rows, cols, cols, place};
}

static float *run_raw(gpu *g, raw *w, bool is_crossed, bool is_told, bool has_room)
{
    const problem *p = &w->p;
    const shape *s = &p->s;
    size_t mark = lx_arena_mark(g->scratch);
    lx_rope_table table = w->table;
    lx_mat q = put_again(g, p->d_q.data, w->q, s->n_q, p->width);
    lx_mat k = put_again(g, w->k_place, w->k, s->n_k, p->width);
    lx_mat rows[2] = {q, k};
    lx_qk_norm norm[2];
    lx_kv kv;
    if (!is_crossed)
        gpu_ok(lx_rope_table_build(&g->x, table.grid, table.head_dim, &table, err));
    for (int i = 0; i < 2; i++) {
        lx_cu_mat m = lx_cu_mat_of(&rows[i]);
        norm[i] = norm_of(w, i, is_crossed ? NULL : &table, is_told ? w->square[i] : NULL);
        gpu_ok(lx_cuda_status(g->cuda,
                              g->cuda->module->rows->squares(g->cuda->dev, &m, w->square[i]),
                              "squares", err));
    }
    lx_kv_source from = {.k = k, .v = p->d_v, .n_heads = s->n_heads, .k_norm = &norm[1]};
    from.k_room = has_room ? w->k_room : 0;
    gpu_ok(lx_kv_prepare_from(&g->x, s->kind, &from, &kv, err));
    assert_int_equal(kv.kind, s->kind);
    lx_attention_args args = args_of(p, &kv);
    args.q = q;
    args.q_norm = &norm[0];
    gpu_ok(lx_zero(&g->x, p->d_out.data, (size_t)(s->n_q * p->width) * 2, err));
    gpu_ok(lx_attention(&g->x, &args, err));
    lx_arena_reset(g->scratch, mark);
    return gpu_mat_get(g, &p->d_out);
}

static void check_case(gpu *g, const raw_case *c, const attention_design *d)
{
    char what[160];
    raw w = make_raw(g, c, d->kind);
    const shape *s = &w.p.s;
    size_t bytes = (size_t)(s->n_q * w.p.width) * sizeof(float);
    snprintf(what, sizeof what, "%s, %dx%d from %d, %d heads of %d%s", d->name, (int)s->n_q,
             (int)s->n_k, (int)c->first, (int)s->n_heads, (int)s->head_dim,
             c->is_crossed ? ", norm only" : "");
    float *out = run_raw(g, &w, c->is_crossed, true, true);
    check_rows(what, &w.p, out);
    for (int way = 0; way < 3; way++) {
        float *again = run_raw(g, &w, c->is_crossed, way != 1, way != 2);
        if (memcmp(out, again, bytes) != 0)
            fail_msg("%s: other bits %s", what,
                     way == 0   ? "the second time"
                     : way == 1 ? "with sums of squares not told"
                                : "with no room in the place of keys");
        free(again);
    }
    free(out);
    destroy_raw(g, &w);
}

static void test_raw_over_designs(void **state)
{
    gpu *g = *state;
    for (int d = 0; d < N_DESIGNS; d++) {
        const attention_design *as = &DESIGNS[d];
        lx_card_kind is = g->cuda->card;
        const bool is_fp8 = as->kind == LX_ATTENTION_INT8_FP8,
                   has_images = is_fp8 || as->major == 9;
        if (!has_design(&is, as)) {
            printf("  %s: not on this card\n", as->name);
            continue;
        }
        if (as->major)
            (void)pretend(g, as->major, as->minor);
        g->x.sums = as->sums;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const raw_case *c = &cases[i];
            bool is_served = !has_images || (c->head_dim == 128 && !c->has_key_bias);
            bool is_few = c->n_q * c->n_heads <= 1000 && c->grid.t < 6 && c->n_heads < 4;
            if (is_served && (is_few || !gpu_is_small()))
                check_case(g, c, as);
        }
        g->cuda->card = is;
        g->x.sums = LX_SUMS_AUTO;
    }
}

/* Heads that fill no tile of flash, and heads that no kernel turns on its way. */
static void test_raw_of_other_heads(void **state)
{
    gpu *g = *state;
    static const raw_case odd = {{2, 4, 6}, 5, 40, 0, 2, 80, false, false, 0};
    static const raw_case wide = {{2, 4, 6}, 0, 48, 0, 1, 384, false, false, 0};
    static const attention_design plain = {"in place", 0, 0, LX_SUMS_AUTO, LX_ATTENTION_PLAIN};
    check_case(g, &odd, &plain);
    check_case(g, &wide, &plain);
}

/* Keys that were given away are not read by another kernel. */
static void test_keys_that_are_gone_are_refused(void **state)
{
    gpu *g = *state;
    lx_err why = {0};
    raw w = make_raw(g, &cases[3], LX_ATTENTION_INT8);
    size_t mark = lx_arena_mark(g->scratch);
    lx_mat k = put_again(g, w.k_place, w.k, w.p.s.n_k, w.p.width);
    lx_rope_table table;
    lx_kv kv;
    gpu_ok(lx_rope_table_build(&g->x, w.table.grid, w.table.head_dim, &table, err));
    const lx_qk_norm norm = norm_of(&w, 1, &table, NULL);
    lx_kv_source from = {.k = k, .v = w.p.d_v, .n_heads = w.p.s.n_heads, .k_norm = &norm};
    gpu_ok(lx_kv_prepare_from(&g->x, LX_ATTENTION_INT8, &from, &kv, err));
    lx_attention_args args = args_of(&w.p, &kv);
    args.scale = -1; /* only the plainest kernel takes it */
    assert_int_equal(lx_attention(&g->x, &args, &why), LX_EJOB);
    assert_non_null(strstr(why.message, "prepared"));
    lx_arena_reset(g->scratch, mark);
    destroy_raw(g, &w);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_over_designs),
        cmocka_unit_test(test_raw_of_other_heads),
        cmocka_unit_test(test_keys_that_are_gone_are_refused),
    };
    gpu_skip_without_card();
    return cmocka_run_group_tests(tests, begin, gpu_end_tests);
}
