/*
 * test_tensor.c - checked sizes and exact number formats
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lx_tensor.h"

static void test_sizes_are_checked(void **state)
{
    (void)state;
    uint64_t n = 7, bytes = 7;
    lx_shape shape = LX_SHAPE(3, 81, 480, 832);
    assert_int_equal(lx_shape_bytes(&shape, LX_DTYPE_F32, &n, &bytes, NULL), LX_OK);
    assert_int_equal(n, 97044480);
    assert_int_equal(bytes, 388177920);
    shape = (lx_shape){0};
    assert_int_equal(lx_shape_bytes(&shape, LX_DTYPE_BF16, &n, &bytes, NULL), LX_OK);
    assert_int_equal(bytes, 2); /* a scalar */
    shape = LX_SHAPE(0, 5);
    assert_int_equal(lx_shape_bytes(&shape, LX_DTYPE_BF16, &n, &bytes, NULL), LX_OK);
    assert_int_equal(bytes, 0);
    lx_shape bad[] = {LX_SHAPE(-1),
                      LX_SHAPE((int64_t)1 << 41),
                      LX_SHAPE(1 << 30, 1 << 30),
                      {.n_dims = 9},
                      {.n_dims = -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_shape_bytes(&bad[i], LX_DTYPE_F32, &n, &bytes, NULL), LX_EJOB);
    assert_false(lx_mul_u64(UINT64_MAX, 2, &n));
    assert_false(lx_add_u64(UINT64_MAX, 1, &n));
}

static void test_shape_text_is_cut_not_overrun(void **state)
{
    (void)state;
    char text[64], small[6];
    lx_shape shape = LX_SHAPE(16, 21, 60, 104);
    assert_string_equal(lx_shape_text(&shape, text, sizeof text), "[16, 21, 60, 104]");
    lx_shape_text(&shape, small, sizeof small);
    assert_int_equal(strlen(small), 5);
}

/* Value of a small float by its definition, in double. */
static double small_value(unsigned bits, int e_bits, int m_bits)
{
    int bias = (1 << (e_bits - 1)) - 1;
    unsigned mantissa = bits & ((1u << m_bits) - 1),
             exponent = bits >> m_bits & ((1u << e_bits) - 1);
    double v = exponent ? ldexp(1 + ldexp(mantissa, -m_bits), (int)exponent - bias)
                        : ldexp(mantissa, 1 - bias - m_bits);
    return bits >> (e_bits + m_bits) ? -v : v;
}

static void test_every_small_float_widens_exactly_and_comes_back(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 256; bits++) {
        if ((bits & 0x7f) == 0x7f) {
            assert_true(isnan(lx_f32_from_f8_e4m3((uint8_t)bits)));
            continue;
        }
        float v = lx_f32_from_f8_e4m3((uint8_t)bits);
        assert_true((double)v == small_value(bits, 4, 3));
        assert_int_equal(lx_f8_e4m3_from_f32(v), bits);
    }
    for (unsigned bits = 0; bits < 256; bits++)
        if ((bits >> 2 & 31) != 31)
            assert_true((double)lx_f32_from_f8_e5m2((uint8_t)bits) == small_value(bits, 5, 2));
    for (unsigned bits = 0; bits < 65536; bits++) {
        if ((bits >> 10 & 31) != 31) {
            float v = lx_f32_from_f16((uint16_t)bits);
            assert_true((double)v == small_value(bits, 5, 10));
            assert_int_equal(lx_f16_from_f32(v), bits);
        }
        if ((bits >> 7 & 255) != 255)
            assert_int_equal(lx_bf16_from_f32(lx_f32_from_bf16((uint16_t)bits)), bits);
    }
}

static void test_narrowing_is_nearest_ties_to_even(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 0x7e; bits++) { /* neighbours of every positive e4m3 pair */
        float low = lx_f32_from_f8_e4m3((uint8_t)bits),
              high = lx_f32_from_f8_e4m3((uint8_t)(bits + 1));
        float middle = (low + high) / 2;
        assert_int_equal(lx_f8_e4m3_from_f32(nextafterf(middle, low)), bits);
        assert_int_equal(lx_f8_e4m3_from_f32(nextafterf(middle, high)), bits + 1);
        assert_int_equal(lx_f8_e4m3_from_f32(middle), bits + (bits & 1));
        assert_int_equal(lx_f8_e4m3_from_f32(-middle), 0x80 | (bits + (bits & 1)));
    }
    assert_int_equal(lx_f8_e4m3_from_f32(1e9f), 0x7e); /* saturates at 448 */
    assert_int_equal(lx_f8_e4m3_from_f32(-INFINITY), 0xfe);
    for (unsigned bits = 0; bits < 0x7bff; bits++) {
        float low = lx_f32_from_f16((uint16_t)bits), high = lx_f32_from_f16((uint16_t)(bits + 1));
        assert_int_equal(lx_f16_from_f32((low + high) / 2), bits + (bits & 1));
        assert_int_equal(lx_f16_from_f32(nextafterf((low + high) / 2, high)), bits + 1);
    }
    assert_int_equal(lx_f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(lx_f16_from_f32(65519.0f), 0x7bff);
    assert_int_equal(lx_bf16_from_f32(1.00390625f), 0x3f80); /* exactly between: to even */
    assert_int_equal(lx_bf16_from_f32(1.01171875f), 0x3f82);
}

static void test_dtype_names_are_the_files_spelling(void **state)
{
    (void)state;
    lx_dtype dtype;
    for (int i = 0; i < LX_DTYPE_COUNT; i++) {
        assert_true(lx_dtype_parse(lx_dtype_name((lx_dtype)i), &dtype));
        assert_int_equal(dtype, i);
    }
    assert_false(lx_dtype_parse("F8_E8M0", &dtype));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_shape_text_is_cut_not_overrun),
        cmocka_unit_test(test_every_small_float_widens_exactly_and_comes_back),
        cmocka_unit_test(test_narrowing_is_nearest_ties_to_even),
        cmocka_unit_test(test_dtype_names_are_the_files_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
