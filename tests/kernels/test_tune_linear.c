/*
 * test_tune_linear.c - what a card is asked to do when a table says how, and when none does
 * SPDX-License-Identifier: Apache-2.0
 *
 * A module that only looks at what it is asked stands in for the card's: of every design and band,
 * on several cards, each call's memory lies in the scratch planned without a table, no call
 * writes what another one of its time reads, and all rows are made exactly once. What comes out is
 * tests/gpu's affair.
 */
#include "check.h"
#include "cuda/cu_rows.h"
#include "cuda/cu_tune.h"
#include "cuda/lx_cuda_priv.h"
#include "lx_linear.h"

static const lx_card_kind cards[] = {
    {"NVIDIA GeForce RTX 3060", -1, 8, 6, 28, 101376, 12ull << 30, 0},
    {"NVIDIA GeForce RTX 3090", -1, 8, 6, 82, 101376, 24ull << 30, 0},
    {"NVIDIA H100 80GB HBM3", -1, 9, 0, 132, 232448, 80ull << 30, 0}};
static const lx_card_kind held = {"NVIDIA H200", -1, 8, 6, 132, 101376, 141ull << 30, 90};
enum { N_CARDS = sizeof cards / sizeof *cards };

/* Addresses that nothing touches. */
#define X_AT     ((uintptr_t)0x10000000000)
#define W_AT     ((uintptr_t)0x20000000000)
#define OUT_AT   ((uintptr_t)0x30000000000)
#define CODES_AT ((uintptr_t)0x40000000000)
#define FLOATS   ((uintptr_t)0x50000000000)
#define SCRATCH  ((uintptr_t)0x60000000000)

/* What is seen of one linear. */
static struct {
    char what[160];
    const unsigned char *scratch;
    size_t bytes;
    int64_t m, n, k;
    int64_t next_row;   /* of the output's, made by products */
    int64_t next_coded; /* made codes */
    int n_int8, n_product, design;
    int64_t band; /* rows of the first call */
    lx_cu_product last;
    bool is_told; /* folded or summed squares */
} seen;

static void *at(uintptr_t address)
{
    return (void *)address;
}

static void in_scratch(const char *what, const void *data, int64_t bytes)
{
    const unsigned char *p = data;
    if (p < seen.scratch || bytes < 0 || (size_t)(p - seen.scratch) + (size_t)bytes > seen.bytes)
        fail_msg("%s: %s: %lld bytes at %lld of %zu", seen.what, what, (long long)bytes,
                 (long long)(p - seen.scratch), seen.bytes);
}

static void apart(const char *what, const void *a, int64_t a_bytes, const void *b, int64_t b_bytes)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    if (x < y + (uintptr_t)b_bytes && y < x + (uintptr_t)a_bytes)
        fail_msg("%s: %s meet", seen.what, what);
}

static void aligned(const char *what, const void *p)
{
    if ((uintptr_t)p % 16)
        fail_msg("%s: %s is not aligned", seen.what, what);
}

static int64_t size_of(int dtype)
{
    return (int64_t)lx_dtype_size((lx_dtype)dtype);
}

static void rows_are_next(const void *x, int64_t rows)
{
    assert_true(rows > 0);
    assert_ptr_equal(x, at(X_AT + (uintptr_t)(seen.next_row * seen.k)));
    seen.next_row += rows;
}

/* --- the module ------------------------------------------------------------------------------ */

static int zero(lx_cuda_dev *dev, void *dst, size_t bytes)
{
    (void)dev;
    in_scratch("maxima", dst, (int64_t)bytes);
    return 0;
}

static void look_at_codes(const lx_cu_codes *c)
{
    if (!c->rows)
        return;
    int64_t bytes = c->rows * c->cols * (c->is_half ? 2 : 4);
    in_scratch("rows that become codes", c->y, bytes);
    in_scratch("their maxima", c->most, c->rows * 4);
    aligned("rows that become codes", c->y);
    apart("rows and maxima", c->y, bytes, c->most, c->rows * 4);
    assert_ptr_equal(c->out, at(CODES_AT + (uintptr_t)(seen.next_coded * seen.n)));
    assert_ptr_equal(c->scale, at(FLOATS + (uintptr_t)(seen.next_coded * 4)));
    seen.next_coded += c->rows;
}

static int int8(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    (void)dev;
    const lx_cu_epilogue *e = &p->e;
    const int64_t bytes = e->m * e->n * size_of(e->out.dtype), row = seen.next_row;
    rows_are_next(p->x, e->m);
    aligned("output", e->out.data);
    if (p->most) {
        in_scratch("rows before codes", e->out.data, bytes);
        in_scratch("maxima", p->most, e->m * 4);
        apart("rows and maxima", e->out.data, bytes, p->most, e->m * 4);
        apart("this band and the last", e->out.data, bytes, p->codes.y,
              p->codes.rows * p->codes.cols * (p->codes.is_half ? 2 : 4));
        assert_true(e->out.dtype == (LX_CU_INT8_HALF(p->design, e->n) ? LX_CU_F16 : LX_CU_F32));
    } else {
        assert_ptr_equal(e->out.data, at(OUT_AT + (uintptr_t)(row * e->n * size_of(e->out.dtype))));
    }
    if (p->squares) {
        int64_t part = LX_CU_INT8_PART(p->design), parts = (e->n + part - 1) / part;
        in_scratch("squares", p->squares, parts * e->m * 4);
    }
    look_at_codes(&p->codes);
    seen.band = seen.n_int8++ ? seen.band : e->m;
    seen.design = p->design;
    return 0;
}

static int codes(lx_cuda_dev *dev, const lx_cu_codes *c)
{
    (void)dev;
    look_at_codes(c);
    return 0;
}

static int product(lx_cuda_dev *dev, const lx_cu_product *p)
{
    (void)dev;
    rows_are_next(p->x, p->m);
    assert_int_equal(p->n, seen.n);
    assert_int_equal(p->ld, seen.n);
    in_scratch("sums", p->acc, p->m * p->n * 4);
    in_scratch("workspace", p->scratch, (int64_t)p->scratch_bytes);
    apart("sums and workspace", p->acc, p->m * p->n * 4, p->scratch, (int64_t)p->scratch_bytes);
    aligned("sums", p->acc);
    assert_int_equal((uintptr_t)p->scratch % 256, (uintptr_t)seen.scratch % 256);
    assert_true(p->scratch_bytes >= 1 << 20);
    seen.band = seen.n_product++ ? seen.band : p->m;
    seen.last = *p;
    return 0;
}

static int epilogue(lx_cuda_dev *dev, const lx_cu_epilogue *e)
{
    (void)dev;
    assert_ptr_equal(e->acc, seen.last.acc);
    assert_int_equal(e->m, seen.last.m);
    if (e->out_scale) {
        assert_ptr_equal(e->out.data, at(CODES_AT + (uintptr_t)(seen.next_coded * seen.n)));
        seen.next_coded += e->m;
    }
    return 0;
}

static int fold(lx_cuda_dev *dev, const float *parts, int n, int64_t rows, float *out)
{
    (void)dev;
    in_scratch("squares", parts, n * rows * 4);
    assert_ptr_equal(out, at(FLOATS));
    seen.is_told = true;
    return 0;
}

static int squares(lx_cuda_dev *dev, const lx_cu_mat *in, float *out)
{
    (void)dev;
    assert_int_equal(in->rows, seen.m);
    assert_ptr_equal(out, at(FLOATS));
    seen.is_told = true;
    return 0;
}

static const char *error_text(int code)
{
    (void)code;
    return "none";
}

static bool is_memory(int code)
{
    (void)code;
    return false;
}

static const lx_cuda_base_ops base_ops = {.zero = zero};
static const lx_cuda_linear_ops linear_ops = {
    .int8 = int8, .codes = codes, .product = product, .epilogue = epilogue};
static const lx_cuda_rows_ops rows_ops = {.fold = fold, .squares = squares};
static const lx_cuda_module module = {.error_text = error_text,
                                      .is_memory = is_memory,
                                      .base = &base_ops,
                                      .linear = &linear_ops,
                                      .rows = &rows_ops};

/* --- a linear -------------------------------------------------------------------------------- */

/* Of every linear's bias; NULL: none has one. */
static const lx_dtype *bias_dtype;

static lx_status linear(lx_exec *x, int64_t m, int64_t n, int64_t k, lx_tune_end end, lx_err *err)
{
    const lx_weight bias = {
        "bias", bias_dtype ? *bias_dtype : LX_DTYPE_F32, {1, {n}}, at(FLOATS), NULL};
    const lx_weight w = {"w", LX_DTYPE_I8, {2, {n, k}}, at(W_AT), at(FLOATS)};
    const lx_act in = {LX_DTYPE_I8, m, k, at(X_AT), at(FLOATS)};
    lx_epilogue e = {.bias = bias_dtype ? &bias : NULL};
    lx_mat out = {LX_DTYPE_BF16, m, n, n, at(OUT_AT)};
    lx_act act = {LX_DTYPE_I8, m, n, at(CODES_AT), at(FLOATS)};
    if (end == LX_TUNE_CODES) {
        e.activation = LX_ACTIVATION_GELU;
        return lx_linear_to_act(x, &in, &w, &e, &act, err);
    }
    e.square = end == LX_TUNE_ROWS ? at(FLOATS) : NULL;
    e.add_to_out = end == LX_TUNE_RESIDUAL;
    out.dtype = e.add_to_out ? LX_DTYPE_F32 : LX_DTYPE_BF16;
    return lx_linear(x, &in, &w, &e, &out, err);
}

static size_t planned(const lx_card_kind *card, int64_t m, int64_t n, int64_t k, lx_tune_end end)
{
    lx_exec x = {0};
    lx_arena *arena = NULL, *host = NULL;
    check_ok(lx_arena_create_dry(&arena, err));
    check_ok(lx_arena_create_dry(&host, err));
    check_ok(lx_exec_plan_cuda(&x, card, arena, host, err));
    check_ok(linear(&x, m, n, k, end, err));
    size_t peak = lx_arena_peak(arena);
    lx_exec_plan_done(&x);
    lx_arena_destroy(&arena);
    lx_arena_destroy(&host);
    return peak;
}

static void leave(void *self, void *memory)
{
    (void)self;
    (void)memory;
}

/* As planned for `most` rows, with m of them, by the table's only entry. */
static void run(const lx_card_kind *card, int64_t most, const lx_tune_entry *e, int64_t m)
{
    lx_exec x = {0};
    lx_arena *arena = NULL;
    lx_cuda cuda = {.card = *card, .module = &module};
    lx_tune_table table = {.n = 1, .entry = {*e}};
    size_t bytes = planned(card, most, e->n, e->k, e->end);
    check_ok(lx_arena_create_on(&arena, at(SCRATCH), bytes, leave, NULL, err));
    memset(&seen, 0, sizeof seen);
    snprintf(seen.what, sizeof seen.what, "%s: %dx%dx%d %s by %s, band %d", card->name, (int)m,
             (int)e->n, (int)e->k, lx_tune_end_name(e->end), lx_tune_design_name(e->design),
             (int)e->band);
    seen.scratch = at(SCRATCH);
    seen.bytes = bytes;
    seen.m = m, seen.n = e->n, seen.k = e->k;
    check_ok(lx_exec_open_cuda(&x, &cuda, arena, arena, err));
    check_ok(lx_cuda_tune_use(&cuda, &table, err));
    check_ok(linear(&x, m, e->n, e->k, e->end, err));
    assert_int_equal(seen.next_row, m);
    assert_int_equal(seen.next_coded, e->end == LX_TUNE_CODES ? m : 0);
    assert_int_equal(seen.is_told, e->end == LX_TUNE_ROWS);
    assert_int_equal(lx_arena_mark(arena), 0);
    check_ok(lx_cuda_tune_use(&cuda, NULL, err));
    lx_arena_destroy(&arena);
}

static const int64_t sides[][2] = {{5120, 5120}, {13824, 5120}, {5120, 13824}, {1536, 1536},
                                   {8960, 1536}, {16, 16},      {272, 1024}};
static const int64_t rows[] = {256, 257, 300, 512, 1000, 4096, 16384, 32760};
enum {
    N_SIDES = sizeof sides / sizeof *sides,
    N_ROWS = sizeof rows / sizeof *rows,
    N_ALL = N_SIDES * N_ROWS
};

/* Every design of the card is the one that is asked for, in memory that is there. */
static void test_each_design_stays_in_its_scratch(void **state)
{
    (void)state;
    for (int c = 0; c < N_CARDS; c++)
        for (int i = 0; i < N_ALL * LX_TUNE_ENDS; i++)
            for (int design = 0; design < lx_tune_designs(); design++) {
                lx_tune_entry e = {.n = sides[i % N_SIDES][0], .k = sides[i % N_SIDES][1]};
                e.rows = rows[i / N_SIDES % N_ROWS];
                e.end = (lx_tune_end)(i / N_ALL);
                e.design = design;
                if (!lx_tune_can(&cards[c], design, e.n))
                    continue;
                run(&cards[c], e.rows, &e, e.rows);
                if (design == LX_TUNE_BLAS)
                    assert_true(seen.n_product > 0 && seen.n_int8 == 0);
                else
                    assert_true(seen.n_int8 > 0 && seen.n_product == 0 && seen.design == design);
            }
}

/* Bands as the tuner tries them, and absurd ones; also fewer rows than were planned for. */
static void test_each_band_stays_in_its_scratch(void **state)
{
    (void)state;
    static const int64_t absurd[] = {128, 129, 1000, 1 << 24};
    for (int c = 0; c < N_CARDS; c++)
        for (int design = 0; design < lx_tune_designs(); design++)
            for (int i = 0; i < N_ALL; i++) {
                int64_t n = sides[i % N_SIDES][0], m = rows[i / N_SIDES], bands[8];
                if (!lx_tune_can(&cards[c], design, n))
                    continue;
                int found = lx_tune_bands(&cards[c], design, n, bands);
                for (int b = 0; b < 4; b++)
                    bands[found++] = absurd[b];
                for (int b = 0; b < found; b++) {
                    lx_tune_entry e = {n, sides[i % N_SIDES][1], m, LX_TUNE_CODES, design, bands[b],
                                       0};
                    run(&cards[c], 32760, &e, m);
                    if (design != LX_TUNE_BLAS)
                        assert_true(seen.band <= (bands[b] > m ? m : bands[b]) || seen.band == m);
                }
            }
}

/* The bands that the tuner offers are those that run, where they fit at all. */
static void test_offered_bands_are_used(void **state)
{
    (void)state;
    int64_t bands[LX_TUNE_BANDS];
    int found = lx_tune_bands(&cards[2], LX_CU_MMA_192x256, 13824, bands);
    assert_int_equal(found, LX_TUNE_BANDS);
    for (int b = 1; b < found; b++) {
        lx_tune_entry e = {13824, 5120, 16384, LX_TUNE_CODES, LX_CU_MMA_192x256, bands[b], 0};
        run(&cards[2], 16384, &e, 16384);
        assert_int_equal(seen.band, bands[b]);
    }
}

/* No entry near enough, another end, a built-in one: as without a table. */
static void test_else_the_choice_is_built_in(void **state)
{
    (void)state;
    lx_tune_entry e = {5120, 5120, 4096, LX_TUNE_ROWS, LX_TUNE_BUILT_IN, 0, 0};
    run(&cards[0], 4096, &e, 4096);
    const int design = seen.design;
    e.design = design == LX_CU_MMA_128x256 ? LX_CU_MMA_128x128 : LX_CU_MMA_128x256;
    run(&cards[0], 4096, &e, 4096);
    assert_int_equal(seen.design, e.design);
    e.rows = 16384;
    run(&cards[0], 4096, &e, 4096);
    assert_int_equal(seen.design, design);
    e.rows = 4096;
    e.design = LX_CU_WGMMA_128x256; /* a table that was forced on the wrong card */
    run(&cards[0], 4096, &e, 4096);
    assert_int_equal(seen.design, design);
}

static int chosen(const lx_card_kind *card, int64_t m, int64_t n, int64_t k, lx_tune_end end)
{
    lx_tune_entry e = {n, k, m, end, LX_TUNE_BUILT_IN, 0, 0};
    run(card, m, &e, m);
    return seen.design;
}

/* As one H200 held to 8.6 was measured, of 16 bits and with a residual: 128 x 256 was the quickest
 * at 512 rows, 192 x 256 from 1,024 on. */
static void test_the_quickest_that_was_measured_is_built_in(void **state)
{
    (void)state;
    static const int64_t many[] = {1024, 4096, 32760};
    for (int end = LX_TUNE_ROWS; end <= LX_TUNE_RESIDUAL; end++)
        for (int k = 5120; k <= 13824; k += 13824 - 5120) {
            assert_int_equal(chosen(&held, 512, 5120, k, (lx_tune_end)end), LX_CU_MMA_128x256);
            for (size_t i = 0; i < sizeof many / sizeof *many; i++)
                assert_int_equal(chosen(&held, many[i], 5120, k, (lx_tune_end)end),
                                 LX_CU_MMA_192x256);
        }
}

/* On a Hopper by mma.sync: held to less, or without wgmma for the shape. */
static void test_codes_are_made_apart_on_a_hopper_alone(void **state)
{
    (void)state;
    const lx_card_kind *hopper = &cards[2];
    lx_card_kind newer = held; /* held to less too, but no Hopper */
    newer.is_from = 120;
    for (int i = 0; i < N_ROWS; i++) {
        assert_int_equal(chosen(&held, rows[i], 13824, 5120, LX_TUNE_CODES),
                         LX_CU_MMA_192x256_APART);
        assert_int_equal(chosen(hopper, rows[i], 272, 1024, LX_TUNE_CODES),
                         LX_CU_MMA_192x256_APART);
        assert_int_equal(chosen(hopper, rows[i], 13824, 5120, LX_TUNE_CODES), LX_CU_WGMMA_128x256);
        assert_int_equal(chosen(&cards[0], rows[i], 13824, 5120, LX_TUNE_CODES), LX_CU_MMA_192x256);
        assert_int_equal(chosen(&cards[1], rows[i], 13824, 5120, LX_TUNE_CODES), LX_CU_MMA_192x256);
        assert_int_equal(chosen(&newer, rows[i], 13824, 5120, LX_TUNE_CODES), LX_CU_MMA_192x256);
    }
}

/* Tiles of 192 x 256 read biases of three types; linears with others are finished by cuBLASLt's
 * kernel, in memory that is there. */
static void test_rare_biases_are_not_the_kernels_own(void **state)
{
    (void)state;
    static const struct {
        lx_dtype dtype;
        bool is_plain;
    } biases[] = {{LX_DTYPE_F32, true},      {LX_DTYPE_BF16, true},     {LX_DTYPE_F16, true},
                  {LX_DTYPE_F8_E4M3, false}, {LX_DTYPE_F8_E5M2, false}, {LX_DTYPE_F64, false}};
    for (size_t b = 0; b < sizeof biases / sizeof *biases; b++)
        for (int c = 0; c <= N_CARDS; c++)
            for (int i = 0; i < N_ROWS * LX_TUNE_ENDS; i++) {
                bias_dtype = &biases[b].dtype;
                (void)chosen(c < N_CARDS ? &cards[c] : &held, rows[i % N_ROWS], 5120, 5120,
                             (lx_tune_end)(i / N_ROWS));
                bias_dtype = NULL;
                assert_int_equal(seen.n_int8 > 0, biases[b].is_plain);
                assert_int_equal(seen.n_product > 0, !biases[b].is_plain);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_design_stays_in_its_scratch),
        cmocka_unit_test(test_each_band_stays_in_its_scratch),
        cmocka_unit_test(test_offered_bands_are_used),
        cmocka_unit_test(test_else_the_choice_is_built_in),
        cmocka_unit_test(test_the_quickest_that_was_measured_is_built_in),
        cmocka_unit_test(test_codes_are_made_apart_on_a_hopper_alone),
        cmocka_unit_test(test_rare_biases_are_not_the_kernels_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
