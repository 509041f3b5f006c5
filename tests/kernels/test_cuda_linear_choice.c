/*
 * test_cuda_linear_choice.c - which BF16 linears are our own kernel's on a card, which cuBLASLt's
 * SPDX-License-Identifier: Apache-2.0
 */
#include "counting_card.h"
#include "cuda/cu_linear.h"
#include "cuda/cu_rows.h"
#include "lx_linear.h"

static struct {
    int n_int8, n_product, n_epilogue;
    lx_cu_int8 last;
} seen;

/* --- the module ------------------------------------------------------------------------------ */

static int int8(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    (void)dev;
    seen.n_int8++;
    seen.last = *p;
    return 0;
}

static int product(lx_cuda_dev *dev, const lx_cu_product *p)
{
    (void)dev;
    assert_int_equal(p->dtype, LX_CU_BF16);
    seen.n_product++;
    return 0;
}

static int epilogue(lx_cuda_dev *dev, const lx_cu_epilogue *e)
{
    (void)dev;
    (void)e;
    seen.n_epilogue++;
    return 0;
}

static int to_bf16(lx_cuda_dev *dev, lx_cu_vec in, int64_t n, void *out)
{
    (void)dev;
    (void)in;
    (void)n;
    (void)out;
    return 0;
}

static int fold(lx_cuda_dev *dev, const float *parts, int n, int64_t rows, float *out)
{
    (void)dev;
    (void)parts;
    (void)n;
    (void)rows;
    assert_ptr_equal(out, at(0x4000));
    return 0;
}

static const lx_cuda_linear_ops linear_ops = {
    .int8 = int8, .product = product, .epilogue = epilogue, .to_bf16 = to_bf16};
static const lx_cuda_rows_ops rows_ops = {.fold = fold};
static const lx_cuda_module module = {.linear = &linear_ops, .rows = &rows_ops};

/* --- a linear -------------------------------------------------------------------------------- */

/* What is not told is as the first of those below: rows 2048, 5120 -> 5120, BF16 all around. */
typedef struct use {
    const char *what;
    bool is_own;
    const lx_card_kind *card;
    int64_t m, n, k, gap; /* gap: elements between the output's rows */
    lx_dtype in, w, out, act;
    lx_activation activation;
    bool has_mul, is_added, has_square;
    uintptr_t off; /* bytes by which the rows begin after a multiple of 16 */
} use;

static lx_status linear(lx_exec *x, const use *u, lx_err *err)
{
    const int64_t m = u->m ? u->m : 2048, n = u->n ? u->n : 5120, k = u->k ? u->k : 5120;
    const lx_weight w = {"w", u->w ? u->w : LX_DTYPE_BF16, {2, {n, k}}, at(0x1000), NULL};
    const lx_act in = {u->in ? u->in : LX_DTYPE_BF16, m, k, at(0x2000 + u->off), NULL};
    const lx_mat mul = {LX_DTYPE_BF16, m, n, n, at(0x3000)};
    lx_epilogue e = {.activation = u->activation, .mul = u->has_mul ? &mul : NULL};
    lx_mat out = {u->out ? u->out : LX_DTYPE_BF16, m, n, n + u->gap, at(0x6000)};
    lx_act act = {u->act, m, n, at(0x6000), at(0x7000)};
    e.square = u->has_square ? at(0x4000) : NULL;
    e.gate = u->is_added ? at(0x5000) : NULL;
    e.add_to_out = u->is_added;
    return u->act ? lx_linear_to_act(x, &in, &w, &e, &act, err)
                  : lx_linear(x, &in, &w, &e, &out, err);
}

/* As a plan of that card has it, in as much memory. */
static void run(const use *u)
{
    counting_card c;
    counting_plan(&c, u->card);
    check_ok(linear(&c.plan, u, err));
    counting_open(&c, &module, lx_arena_peak(c.dry)); /* no more than the plan told */
    memset(&seen, 0, sizeof seen);
    check_ok(linear(&c.x, u, err));
    counting_close(&c);
}

static void check_use(const use *u)
{
    run(u);
    printf("  %-32s %d by our own, %d products\n", u->what, seen.n_int8, seen.n_product);
    if (seen.n_int8 != u->is_own || (seen.n_product > 0) == u->is_own)
        fail_msg("%s: %d by our own kernel, %d products", u->what, seen.n_int8, seen.n_product);
    if (!u->is_own)
        return;
    assert_true(seen.last.is_bf16 && !seen.last.is_fp8);
    assert_int_equal(seen.last.design, LX_CU_WGMMA_128x256);
    assert_int_equal(seen.last.e.m, u->m ? u->m : 2048);
    assert_int_equal(seen.last.squares != NULL, u->has_square);
    assert_int_equal(seen.n_epilogue, 0);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_bf16_goes_to_our_own(void **state)
{
    (void)state;
    static const use uses[] = {
        {.what = "2,048 rows", .is_own = true},
        {.what = "many rows", .is_own = true, .m = 32760, .k = 13824},
        {.what = "F32 out", .is_own = true, .out = LX_DTYPE_F32},
        {.what = "gate and residual", .is_own = true, .out = LX_DTYPE_F32, .is_added = true},
        {.what = "squares", .is_own = true, .has_square = true},
        {.what = "strided rows", .is_own = true, .gap = 8},
        {.what = "few columns", .is_own = true, .n = 64, .k = 16},
    };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        check_use(&uses[i]);
}

/* Each is one step from what the kernel is given. */
static void test_bf16_else_goes_to_cublaslt(void **state)
{
    (void)state;
    static const use uses[] = {
        {.what = "2,047 rows", .m = 2047},
        {.what = "gelu", .activation = LX_ACTIVATION_GELU},
        {.what = "silu", .activation = LX_ACTIVATION_SILU},
        {.what = "mul", .has_mul = true},
        {.what = "n % 64", .n = 5120 + 32},
        {.what = "n % 64, F32 out", .n = 5120 + 32, .out = LX_DTYPE_F32},
        {.what = "k % 16", .k = 5120 + 8},
        {.what = "stride % 8", .gap = 4},
        {.what = "address % 16", .off = 8},
        {.what = "F32 rows", .in = LX_DTYPE_F32},
        {.what = "F16 weights", .w = LX_DTYPE_F16},
        {.what = "codes", .act = LX_DTYPE_I8},
        {.what = "a Hopper held to 8.6", .card = &held},
        {.what = "a card of 8.6", .card = &rtx3060},
    };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        check_use(&uses[i]);
}

int main(void)
{
    if (LX2V_ARCH_MAX < 90) {
        printf("skipped: in a build with LX2V_ARCH_MAX=%d no card is a Hopper\n", LX2V_ARCH_MAX);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_goes_to_our_own),
        cmocka_unit_test(test_bf16_else_goes_to_cublaslt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
