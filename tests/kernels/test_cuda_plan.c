/*
 * test_cuda_plan.c - what linears and rows would take on cards that are not here
 * SPDX-License-Identifier: Apache-2.0
 *
 * The same figures are held against real runs by tests/gpu.
 */
#include "check.h"
#include "cuda/lx_cuda_priv.h"
#include "lx_attention.h"
#include "lx_cuda.h"

#define MIB ((size_t)1 << 20)

static const lx_card_kind rtx3060 = {
    "NVIDIA GeForce RTX 3060", -1, 8, 6, 28, 101376, 12ull << 30, 0};
static const lx_card_kind rtx4090 = {
    "NVIDIA GeForce RTX 4090", -1, 8, 9, 128, 101376, 24ull << 30, 0};
static const lx_card_kind h100 = {"NVIDIA H100 80GB HBM3", -1, 9, 0, 132, 232448, 80ull << 30, 0};
static const lx_card_kind *const cards[] = {&rtx3060, &rtx4090, &h100};
enum { N_CARDS = sizeof cards / sizeof *cards };

/* An address that nothing may touch: a page without any rights would fault, so does this one. */
static void *nowhere(void)
{
    return (void *)(uintptr_t)0x100;
}

static lx_exec plan_on(const lx_card_kind *card)
{
    lx_exec x = {0};
    lx_arena *arena = NULL, *host = NULL;
    check_ok(lx_arena_create_dry(&arena, err));
    check_ok(lx_arena_create_dry(&host, err));
    check_ok(lx_exec_plan_cuda(&x, card, arena, host, err));
    return x;
}

static void plan_close(lx_exec *x)
{
    lx_exec_plan_done(x);
    lx_arena_destroy(&x->arena);
    lx_arena_destroy(&x->host);
}

static lx_weight weight_of(lx_dtype dtype, bool is_scaled, int64_t n, int64_t k)
{
    return (lx_weight){.name = "w",
                       .dtype = dtype,
                       .shape = {2, {n, k}},
                       .data = nowhere(),
                       .scale = is_scaled ? nowhere() : NULL};
}

/* What is asked of one linear. */
typedef struct use {
    lx_dtype in, act;
    lx_activation activation;
    bool is_own; /* FP8 by our own kernels; of BF16 a plan decides */
} use;

/* Its scratch, into activations. */
static size_t scratch_by(const lx_card_kind *card, const lx_weight *w, const use *u, int64_t m)
{
    lx_exec x = plan_on(card);
    x.cuda->has_own_fp8 = u->is_own;
    int64_t n = w->shape.dim[0], k = w->shape.dim[1];
    lx_act from = {u->in, m, k, nowhere(), nowhere()}, to = {u->act, m, n, nowhere(), nowhere()};
    lx_epilogue e = {.activation = u->activation};
    check_ok(lx_linear_to_act(&x, &from, w, &e, &to, err));
    size_t peak = lx_arena_peak(x.arena);
    assert_int_equal(lx_arena_mark(x.arena), 0);
    plan_close(&x);
    return peak;
}

/* Of as many rows as a clip may have, with GELU, from activations of that type to the same. */
static size_t scratch_of(const lx_card_kind *card, const lx_weight *w, lx_dtype act, bool is_own)
{
    const use u = {act, act, LX_ACTIVATION_GELU, is_own};
    return scratch_by(card, w, &u, 75600);
}

static void test_activations_follow_the_card(void **state)
{
    (void)state;
    lx_weight i8 = weight_of(LX_DTYPE_I8, true, 8, 8), bf16 = weight_of(LX_DTYPE_BF16, false, 8, 8);
    lx_weight fp8 = weight_of(LX_DTYPE_F8_E4M3, true, 8, 8);
    lx_weight bare = weight_of(LX_DTYPE_F8_E4M3, false, 8, 8);
    for (int c = 0; c < N_CARDS; c++) {
        lx_exec x = plan_on(cards[c]);
        assert_int_equal(lx_linear_act_dtype(&x, &i8), LX_DTYPE_I8);
        assert_int_equal(lx_linear_act_dtype(&x, &bf16), LX_DTYPE_BF16);
        assert_int_equal(lx_linear_act_dtype(&x, &bare), LX_DTYPE_BF16);
        assert_int_equal(lx_linear_act_dtype(&x, &fp8), c ? LX_DTYPE_F8_E4M3 : LX_DTYPE_BF16);
        plan_close(&x);
    }
}

/* A band of sums, the library's workspace, and where weights are widened a band of those; rows on
 * their way to codes are two bands of 16 bits, of 512 rows, or of nine tiles per multiprocessor:
 * not the output, not the weight. */
static void test_linear_scratch_is_bounded(void **state)
{
    (void)state;
    static const int64_t sides[][2] = {{5120, 5120}, {13824, 5120}, {5120, 13824}, {64, 5120}};
    for (int c = 0; c < N_CARDS; c++)
        for (int s = 0; s < 4; s++) {
            lx_weight i8 = weight_of(LX_DTYPE_I8, true, sides[s][0], sides[s][1]);
            lx_weight f32 = weight_of(LX_DTYPE_F32, false, sides[s][0], sides[s][1]);
            lx_weight fp8 = weight_of(LX_DTYPE_F8_E4M3, true, sides[s][0], sides[s][1]);
            size_t blas = cards[c]->major >= 9 ? 32 * MIB : 8 * MIB;
            size_t got = scratch_of(cards[c], &i8, LX_DTYPE_I8, false);
            size_t rows = 2 * 512 * 2 * (size_t)sides[s][0];
            size_t tile = (cards[c]->major == 9 ? 128 : 192) * 256 * 2;
            size_t tiles = 2 * 9 * (size_t)cards[c]->n_sm * tile;
            size_t bands = (rows > tiles ? rows : tiles) + MIB, fewer = blas + 15 * MIB;
            assert_true(got > blas && got <= (bands > fewer ? bands : fewer));
            if (lx_card_has_fp8(cards[c])) {
                size_t own = scratch_of(cards[c], &fp8, LX_DTYPE_F8_E4M3, true);
                assert_int_equal(own, got); /* as INT8 */
                own = scratch_of(cards[c], &fp8, LX_DTYPE_F8_E4M3, false);
                assert_true(own > blas && own <= blas + 41 * MIB);
            }
            got = scratch_of(cards[c], &f32, LX_DTYPE_BF16, false);
            assert_true(got > blas && got <= blas + (41 + 34) * MIB);
        }
}

/* A plan for the largest clip holds for every smaller one. */
static void test_fewer_rows_never_take_more(void **state)
{
    (void)state;
    static const int64_t rows[] = {1,    8,    9,    126,  128,  511,  1000,
                                   1664, 1665, 2047, 2048, 4096, 32760},
                         cols[] = {64, 193, 320, 580, 1536, 1741, 5120, 5224, 13824};
    const struct {
        lx_dtype w;
        bool is_scaled;
        use u;
    } all[] = {
        {LX_DTYPE_F8_E4M3, true, {LX_DTYPE_F8_E4M3, LX_DTYPE_F8_E4M3, LX_ACTIVATION_GELU, true}},
        {LX_DTYPE_I8, true, {LX_DTYPE_I8, LX_DTYPE_I8, LX_ACTIVATION_GELU, false}},
        {LX_DTYPE_BF16, false, {LX_DTYPE_BF16, LX_DTYPE_BF16, LX_ACTIVATION_GELU, false}},
        {LX_DTYPE_BF16, false, {LX_DTYPE_BF16, LX_DTYPE_BF16, LX_ACTIVATION_NONE, false}},
        {LX_DTYPE_BF16, false, {LX_DTYPE_BF16, LX_DTYPE_F32, LX_ACTIVATION_NONE, false}},
        {LX_DTYPE_F16, false, {LX_DTYPE_BF16, LX_DTYPE_I8, LX_ACTIVATION_GELU, false}},
        {LX_DTYPE_F32, false, {LX_DTYPE_F32, LX_DTYPE_F32, LX_ACTIVATION_GELU, false}},
    };
    enum { N_COLS = sizeof cols / sizeof *cols, N_USES = sizeof all / sizeof *all };
    for (int c = 0; c < N_CARDS; c++)
        for (int i = lx_card_has_fp8(cards[c]) ? 0 : N_COLS; i < N_USES * N_COLS; i++) {
            const use *u = &all[i / N_COLS].u;
            int64_t n = cols[i % N_COLS];
            lx_weight w = weight_of(all[i / N_COLS].w, all[i / N_COLS].is_scaled, n, 1536);
            size_t last = 0;
            for (size_t m = 0; m < sizeof rows / sizeof *rows; m++) {
                size_t now = scratch_by(cards[c], &w, u, rows[m]);
                if (now < last)
                    fail_msg("%s: %d rows of %d take %zu, fewer took %zu", cards[c]->name,
                             (int)rows[m], (int)n, now, last);
                last = now;
            }
        }
}

static void test_rows_take_no_scratch(void **state)
{
    (void)state;
    lx_exec x = plan_on(&rtx3060);
    lx_weight gain = {.name = "g", .dtype = LX_DTYPE_BF16, .shape = {1, {5120}}, .data = nowhere()};
    lx_norm norm = {.kind = LX_NORM_LAYER, .eps = 1e-6f, .weight = &gain};
    lx_act out = {LX_DTYPE_I8, 32760, 5120, nowhere(), nowhere()};
    lx_mat q = {LX_DTYPE_BF16, 32760, 5120, 15360, nowhere()};
    lx_rope_table table;
    int64_t first = 0;
    check_ok(lx_norm_rows(&x, nowhere(), &norm, &out, err));
    check_ok(lx_quantize_rows(&x, &q, &out, err));
    check_ok(lx_silu(&x, nowhere(), 5120, nowhere(), err));
    check_ok(lx_axpby(&x, 1, nowhere(), 1, 5120, nowhere(), err));
    check_ok(lx_widen(&x, &gain, nowhere(), err));
    assert_int_equal(lx_arena_peak(x.arena), 0);
    check_ok(lx_find_nonfinite(&x, nowhere(), 1 << 20, &first, err));
    assert_int_equal(first, -1);
    assert_true(lx_arena_peak(x.arena) <= 256);
    assert_int_equal(lx_arena_mark(x.arena), 0);
    check_ok(lx_rope_table_build(&x, (lx_grid){21, 30, 52}, 128, &table, err));
    check_ok(lx_qk_norm_rope(&x, &q, 0, &gain, 1e-6f, &table, err));
    /* 21 x 22, 30 x 21 and 52 x 21 pairs of (cos, sin); the host's part is given back */
    assert_true(lx_arena_mark(x.arena) >= 8 * (21 * 22 + 30 * 21 + 52 * 21));
    assert_true(lx_arena_mark(x.arena) <= 8 * (21 * 22 + 30 * 21 + 52 * 21) + 3 * 256);
    assert_int_equal(lx_arena_mark(x.host), 0);
    assert_true(lx_arena_peak(x.host) >= 8 * 52 * 21);
    plan_close(&x);
}

static void test_what_a_grid_cannot_count_is_refused(void **state)
{
    (void)state;
    lx_exec x = plan_on(&h100);
    lx_err err = {0};
    lx_weight w = weight_of(LX_DTYPE_BF16, false, 1, 1);
    lx_act in = {LX_DTYPE_BF16, (int64_t)1 << 31, 1, nowhere(), NULL};
    lx_mat out = {LX_DTYPE_F32, (int64_t)1 << 31, 1, 1, nowhere()};
    assert_int_equal(lx_linear(&x, &in, &w, NULL, &out, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "H100"));
    plan_close(&x);
}

/* Bytes that prepared keys and values hold, and what they were made into. */
static size_t prepared_on(const lx_card_kind *card, lx_attention_kind asked,
                          lx_attention_kind *made)
{
    lx_exec x = plan_on(card);
    lx_mat k = {x.rows, 1000, 384, 384, nowhere()}, v = {x.value, 1000, 384, 384, nowhere()};
    lx_kv kv;
    check_ok(lx_kv_prepare(&x, asked, &k, &v, 3, &kv, err));
    size_t held = lx_arena_mark(x.arena);
    *made = kv.kind;
    plan_close(&x);
    return held;
}

static void assert_about(size_t bytes, size_t floor)
{
    assert_in_range(bytes, floor, floor + (8 << 10)); /* scales and means */
}

/* 1,000 keys of 3 heads of 128 are 24 images. */
static void test_attention_keys_take_what_the_kernel_reads(void **state)
{
    (void)state;
    lx_attention_kind made;
    for (int i = 0; i < N_CARDS; i++) {
        bool has_images = lx_card_has_wgmma(cards[i]), has_fp8 = cards[i] != &rtx3060;
        assert_int_equal(has_images, cards[i] == &h100);
        assert_int_equal(prepared_on(cards[i], LX_ATTENTION_PLAIN, &made), 0);
        assert_about(prepared_on(cards[i], LX_ATTENTION_INT8, &made),
                     has_images ? 24 * (16512 + 32768) : 1000 * 384);
        assert_int_equal(made, LX_ATTENTION_INT8);
        assert_about(prepared_on(cards[i], LX_ATTENTION_INT8_FP8, &made),
                     has_fp8 ? 24 * (16512 + 16384) : 1000 * 384);
        assert_int_equal(made, has_fp8 ? LX_ATTENTION_INT8_FP8 : LX_ATTENTION_INT8);
    }
}

/* Raw keys in memory that values may have: values' images take nothing more, whatever their format;
 * the rows' squares are scratch where nobody tells them. */
static void test_values_lie_where_keys_were(void **state)
{
    (void)state;
    lx_weight gain = {.name = "g", .dtype = LX_DTYPE_BF16, .shape = {1, {384}}, .data = nowhere()};
    for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++) {
        lx_exec x = plan_on(&h100);
        lx_mat k = {x.rows, 1000, 384, 384, nowhere()}, v = {x.value, 1000, 384, 384, nowhere()};
        lx_qk_norm norm = {.gain = &gain, .eps = 1e-6f};
        lx_kv_source from = {.k = k, .v = v, .n_heads = 3, .k_norm = &norm};
        lx_kv kv;
        size_t peak[2];
        from.k_room = lx_kv_room(&x, 1000, 384);
        assert_int_equal(from.k_room, 1024 * 384 * 2);
        for (int told = 0; told < 2; told++) {
            norm.square = told ? nowhere() : NULL;
            lx_arena_reset(x.arena, 0);
            check_ok(lx_kv_prepare_from(&x, (lx_attention_kind)kind, &from, &kv, err));
            assert_about(lx_arena_mark(x.arena), 24 * 16512);
            assert_ptr_equal(kv.v_images, nowhere());
            assert_null(kv.k.data);
            peak[told] = lx_arena_peak(x.arena);
        }
        assert_true(peak[0] >= lx_arena_mark(x.arena) + 1000 * sizeof(float));
        from.k_room -= 1024 * 384 * 2 / 2 + 1; /* too little for either */
        lx_arena_reset(x.arena, 0);
        check_ok(lx_kv_prepare_from(&x, (lx_attention_kind)kind, &from, &kv, err));
        assert_about(lx_arena_mark(x.arena),
                     24 * (16512 + (kind == LX_ATTENTION_INT8 ? 32768 : 16384)));
        plan_close(&x);
    }
}

/* A module without code of a card's own runs older code, which lacks what the newer card has. */
static void test_a_card_counts_as_its_code(void **state)
{
    (void)state;
    static const struct {
        int is;
        const char *archs;
        int held; /* 0: not */
    } cases[] = {{89, "80 86 89 90a 120", 0}, {89, "86 90a", 86}, {86, "80 90a", 80},
                 {90, "86 90a", 0},           {120, "86 90a", 0}, {89, "", 0},
                 {121, "89 120", 120}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lx_card_kind card = {.major = cases[i].is / 10, .minor = cases[i].is % 10};
        lx_card_hold_to_archs(&card, cases[i].archs);
        int want = cases[i].held ? cases[i].held : cases[i].is;
        assert_int_equal(10 * card.major + card.minor, want);
        assert_int_equal(card.is_from, cases[i].held ? cases[i].is : 0);
    }
}

/* LX2V_ARCH_MAX=86: plans, like runs, take what a card of 8.6 would. */
static void test_a_card_is_held_to_less(void **state)
{
    (void)state;
    lx_attention_kind made;
    lx_err why = {0};
    lx_exec x;
    lx_arena *arena = NULL;
    lx_weight fp8 = weight_of(LX_DTYPE_F8_E4M3, true, 8, 8);
    lx_card_kind card = h100;
    setenv("LX2V_ARCH_MAX", "86", 1);
    check_ok(lx_card_limit(&card, err));
    assert_false(lx_card_has_wgmma(&card) || lx_card_has_fp8(&card));
    assert_int_equal(card.shared_bytes, 99 << 10);
    assert_int_equal(card.is_from, 90);
    assert_false(lx_card_has_slow_f32_sums(&card)); /* its products are as quick as they were */
    assert_about(prepared_on(&h100, LX_ATTENTION_INT8_FP8, &made), 1000 * 384);
    assert_int_equal(made, LX_ATTENTION_INT8);
    x = plan_on(&h100);
    assert_int_equal(lx_linear_act_dtype(&x, &fp8), LX_DTYPE_BF16);
    assert_non_null(strstr(lx_exec_describe(&x), "held to sm_86"));
    plan_close(&x);
    check_ok(lx_arena_create_dry(&arena, err));
    setenv("LX2V_ARCH_MAX", "hopper", 1);
    assert_int_equal(lx_exec_plan_cuda(&x, &h100, arena, arena, &why), LX_ECONFIG);
    assert_non_null(strstr(why.message, "hopper"));
    lx_arena_destroy(&arena);
    setenv("LX2V_ARCH_MAX", "120", 1); /* more than it is: nothing changes */
    card = h100;
    check_ok(lx_card_limit(&card, err));
    assert_true(lx_card_has_wgmma(&card) && card.is_from == 0);
    setenv("LX2V_ARCH_MAX", "90", 1); /* a newer card is no Hopper card, whatever it is held to */
    card.major = 12;
    check_ok(lx_card_limit(&card, err));
    assert_true(card.major == 9 && !lx_card_has_wgmma(&card));
    unsetenv("LX2V_ARCH_MAX");
}

int main(void)
{
    if (LX2V_ARCH_MAX < 120) {
        printf("skipped: in a build with LX2V_ARCH_MAX=%d no card is what it is\n", LX2V_ARCH_MAX);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations_follow_the_card),
        cmocka_unit_test(test_linear_scratch_is_bounded),
        cmocka_unit_test(test_fewer_rows_never_take_more),
        cmocka_unit_test(test_rows_take_no_scratch),
        cmocka_unit_test(test_what_a_grid_cannot_count_is_refused),
        cmocka_unit_test(test_attention_keys_take_what_the_kernel_reads),
        cmocka_unit_test(test_values_lie_where_keys_were),
        cmocka_unit_test(test_a_card_counts_as_its_code),
        cmocka_unit_test(test_a_card_is_held_to_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
