/*
 * test_kernel_memory.c - after an exec is open, products of every size leave memory as it is
 * SPDX-License-Identifier: Apache-2.0
 *
 * oneDNN takes buffers and generates code at first use; lx_exec_open_cpu must have done both.
 */
#include "check.h"
#include "lx_run.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_OWN_HEAP 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OWN_HEAP 1
#endif
#ifndef HAS_OWN_HEAP
#define HAS_OWN_HEAP 0 /* sanitizers keep freed memory on purpose */
#endif

#define WIDTH 1152 /* three heads of 384, nine of 128, 18 of 64 */
#define ROWS  600

static float *touched(lx_exec *x, int64_t n)
{
    float *out;
    check_ok(lx_arena_take_f32(x->arena, (uint64_t)n, &out, err));
    memset(out, 0, (size_t)n * sizeof *out);
    return out;
}

static void linears(lx_exec *x, int64_t rows, float *in, float *w, float *out)
{
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    for (int d = 0; d < 4; d++) {
        lx_weight weight = {
            .name = "w", .dtype = dtypes[d], .shape = {2, {WIDTH, WIDTH}}, .data = w};
        weight.scale = d >= 2 ? w : NULL;
        lx_act act = {lx_linear_act_dtype(x, &weight), rows, WIDTH, in, in};
        lx_mat result = lx_mat_f32(out, rows, WIDTH);
        check_ok(lx_linear(x, &act, &weight, NULL, &result, err));
    }
}

static void attentions(lx_exec *x, int64_t rows, float *in, float *out)
{
    static const int64_t head_dims[] = {64, 128, 384};
    for (int d = 0; d < 3; d++)
        for (int cross = 0; cross < 2; cross++) {
            lx_kv kv;
            lx_mat m = lx_mat_f32(in, cross ? rows * 7 % 513 + 1 : rows, WIDTH);
            check_ok(lx_kv_prepare(x, LX_ATTENTION_PLAIN, &m, &m, WIDTH / head_dims[d], &kv, err));
            lx_attention_args a = {.q = lx_mat_f32(in, rows, WIDTH),
                                   .kv = &kv,
                                   .scale = 1,
                                   .out = lx_mat_f32(out, rows, WIDTH)};
            check_ok(lx_attention(x, &a, err));
        }
}

static void test_memory_is_flat_over_sizes(void **state)
{
    (void)state;
    if (HAS_OWN_HEAP)
        skip();
    static const int64_t rows[] = {1, 7, 600, 12, 33, 100, 37, 512, 200, 300, 64, 5};
    lx_arena *arena = NULL;
    lx_exec x;
    check_ok(lx_arena_create(&arena, (size_t)32 << 20, err));
    check_ok(lx_exec_open_cpu(&x, arena, 2, err));
    float *in = touched(&x, ROWS * WIDTH), *w = touched(&x, WIDTH * WIDTH);
    float *out = touched(&x, ROWS * WIDTH);
    uint64_t first = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        linears(&x, rows[i], in, w, out);
        attentions(&x, rows[i], in, out);
        first = i ? first : lx_rss_bytes();
    }
    uint64_t last = lx_rss_bytes();
    print_message("resident after the first size %.1f MiB, after all %.1f MiB\n",
                  (double)first / 0x1p20, (double)last / 0x1p20);
    assert_true(first > 0 && last < first + (1 << 20));
    lx_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_flat_over_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
