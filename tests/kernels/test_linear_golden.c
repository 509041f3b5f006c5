/*
 * test_linear_golden.c - the first quantized linear of the golden text encoder, from its ids
 * SPDX-License-Identifier: Apache-2.0
 *
 * ids -> embedding rows -> RMS norm and quantization -> q of block 0, against PyTorch's result.
 * Bounds are the golden README's: relative L2 of 2e-4 for int8, 1e-3 for fp8.
 */
#include "check.h"

#define GOLDEN LX2V_SOURCE_DIR "/tests/golden/"

static lx_weights *open_weights(const char *path)
{
    lx_weights *w = NULL;
    check_ok(lx_weights_open(&w, path, NULL, err));
    return w;
}

static lx_weight find(const lx_weights *w, const char *name)
{
    lx_weight out;
    if (!lx_weights_find(w, name, &out))
        fail_msg("%s is missing", name);
    return out;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return sqrt(d / s);
}

static void check_first_linear(const char *file, const char *golden, lx_dtype dtype, double bound)
{
    lx_exec x = check_open(2);
    lx_weights *io = open_weights(GOLDEN "io.safetensors"), *t5 = open_weights(file);
    lx_weight ids = find(io, "t5.ids"), want = find(io, golden);
    lx_weight table = find(t5, "token_embedding.weight"), gain = find(t5, "blocks.0.norm1.weight");
    lx_weight q = find(t5, "blocks.0.attn.q.weight");
    assert_int_equal(q.dtype, dtype);
    int64_t n = ids.shape.dim[0], dim = table.shape.dim[1], width = q.shape.dim[0];
    float *rows;
    lx_mat out;
    lx_act act;
    check_ok(lx_arena_take_f32(x.arena, (uint64_t)(n * dim), &rows, err));
    check_ok(lx_mat_take(&x, LX_DTYPE_F32, n, width, &out, err));
    check_ok(lx_act_take(&x, lx_linear_act_dtype(&x, &q), n, dim, &act, err));
    check_ok(lx_gather_rows(&x, &table, ids.data, n, rows, err));
    lx_norm norm = {.kind = LX_NORM_RMS, .eps = 1e-6f, .weight = &gain};
    check_ok(lx_norm_rows(&x, rows, &norm, &act, err));
    check_ok(lx_linear(&x, &act, &q, NULL, &out, err));
    assert_int_equal(want.shape.dim[0], n);
    assert_int_equal(want.shape.dim[1], width);
    double d = distance(out.data, want.data, n * width);
    print_message("%s: relative L2 %.3g\n", golden, d);
    assert_true(d <= bound);
    lx_weights_close(&io);
    lx_weights_close(&t5);
    check_close(&x);
}

static void test_golden_int8_linear(void **state)
{
    (void)state;
    check_first_linear(GOLDEN "models_t5_umt5-xxl-enc-int8.pth", "t5.dump.blocks.0.attn.q_int8",
                       LX_DTYPE_I8, 2e-4);
}

static void test_golden_fp8_linear(void **state)
{
    (void)state;
    check_first_linear(GOLDEN "models_t5_umt5-xxl-enc-fp8.pth", "t5.dump.blocks.0.attn.q_fp8",
                       LX_DTYPE_F8_E4M3, 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_int8_linear),
        cmocka_unit_test(test_golden_fp8_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
