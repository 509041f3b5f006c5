/*
 * test_cuda_attention_choice.c - which kernel a card takes for attention without INT8: few or flash
 * SPDX-License-Identifier: Apache-2.0
 */
#include "counting_card.h"
#include "cuda/cu_attention.h"
#include "lx_attention.h"

static struct {
    int n_few, n_flash;
    lx_cu_attention last;
} seen;

static int few(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    (void)dev;
    seen.n_few++;
    seen.last = *a;
    return 0;
}

static int flash(lx_cuda_dev *dev, const lx_cu_attention *a)
{
    (void)dev;
    seen.n_flash++;
    seen.last = *a;
    return 0;
}

static const lx_cuda_attention_ops attention_ops = {.few = few, .flash = flash};
static const lx_cuda_module module = {.attention = &attention_ops};

/* What is not told: 40 heads of 128, no biases, queries that are as they should be. */
typedef struct use {
    const char *what;
    bool is_few;
    const lx_card_kind *card;
    int64_t n_k, head_dim;
    bool has_rel, has_key_bias, has_norm, is_rotated;
} use;

static void attend(lx_exec *x, const use *u)
{
    const int64_t n_heads = 40, dim = u->head_dim ? u->head_dim : 128, width = n_heads * dim;
    const int64_t n_q = u->has_rel ? u->n_k : 1000;
    const lx_weight gain = {"gain", LX_DTYPE_F32, {1, {width}}, at(0x1000), NULL};
    lx_rope_table table = {.head_dim = dim};
    table.grid = (lx_grid){10, 10, 10};
    const lx_qk_norm norm = {
        .gain = &gain, .table = u->is_rotated ? &table : NULL, .eps = 1e-6f, .square = at(0x2000)};
    const lx_kv kv = {.kind = LX_ATTENTION_PLAIN,
                      .n = u->n_k,
                      .n_heads = n_heads,
                      .head_dim = dim,
                      .k = {LX_DTYPE_BF16, u->n_k, width, width, at(0x3000)},
                      .v = {LX_DTYPE_F16, u->n_k, width, width, at(0x4000)}};
    const lx_attention_args args = {.q = {LX_DTYPE_BF16, n_q, width, width, at(0x5000)},
                                    .q_norm = u->has_norm || u->is_rotated ? &norm : NULL,
                                    .kv = &kv,
                                    .scale = 0.1f,
                                    .rel = u->has_rel ? at(0x6000) : NULL,
                                    .key_bias = u->has_key_bias ? at(0x7000) : NULL,
                                    .out = {LX_DTYPE_BF16, n_q, width, width, at(0x8000)}};
    check_ok(lx_attention(x, &args, err));
}

static void check_use(const use *u)
{
    counting_card c;
    counting_plan(&c, u->card);
    counting_open(&c, &module, 4096);
    memset(&seen, 0, sizeof seen);
    attend(&c.x, u);
    printf("  %-40s few %d, flash %d\n", u->what, seen.n_few, seen.n_flash);
    if (seen.n_few != u->is_few || seen.n_flash != !u->is_few)
        fail_msg("%s: few %d, flash %d", u->what, seen.n_few, seen.n_flash);
    assert_int_equal(seen.last.n_k, u->n_k);
    assert_int_equal(seen.last.turn.square != NULL, u->has_norm || u->is_rotated);
    assert_int_equal(seen.last.turn.head_dim, u->is_rotated ? 128 : 0);
    assert_true(seen.last.units_per_launch > 0);
    counting_close(&c);
}

/* Each pair is one step apart: what shared memory holds, and what the kernel does not know. */
static void test_few_keys_have_their_kernel(void **state)
{
    (void)state;
    static const use uses[] = {
        {.what = "one key", .is_few = true, .n_k = 1},
        {.what = "a prompt, biases, raw",
         .is_few = true,
         .n_k = 127,
         .has_key_bias = true,
         .has_norm = true},
        {.what = "rotated", .n_k = 127, .is_rotated = true},
        {.what = "relative positions", .n_k = 127, .has_rel = true},
        {.what = "heads of 64", .n_k = 127, .head_dim = 64},
        {.what = "192 keys, 8.6", .is_few = true, .card = &rtx3060, .n_k = 192},
        {.what = "193 keys, 8.6", .card = &rtx3060, .n_k = 193},
        {.what = "192 keys, a Hopper held to 8.6", .is_few = true, .card = &held, .n_k = 192},
        {.what = "193 keys, a Hopper held to 8.6", .card = &held, .n_k = 193},
    };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        check_use(&uses[i]);
}

static void test_a_hopper_holds_more(void **state)
{
    (void)state;
    static const use uses[] = {
        {.what = "448 keys", .is_few = true, .n_k = 448},
        {.what = "449 keys", .n_k = 449},
    };
    if (LX2V_ARCH_MAX < 90)
        skip();
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        check_use(&uses[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_keys_have_their_kernel),
        cmocka_unit_test(test_a_hopper_holds_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
