/*
 * test_dit_golden.c - the goldens on the CPU, in float32
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_golden.h"

static const dit_setup HERE = {.n_threads = 1};
static const golden_bars BARS = {.velocity = 1e-4,
                                 .latent = 1e-4,
                                 .lcm = 2e-4,
                                 .first_int8 = 2e-4,
                                 .first_fp8 = 1e-3,
                                 .of_quantized = 1.0,
                                 .of_float = 1.15};

static void test_golden_float(void **state)
{
    check_float(*state, &HERE, &BARS);
}

static void test_golden_lcm(void **state)
{
    check_lcm(*state, &HERE, &BARS);
}

static void test_golden_int8(void **state)
{
    check_quantized(*state, &HERE, "int8", BARS.first_int8, &BARS);
}

static void test_golden_fp8(void **state)
{
    check_quantized(*state, &HERE, "fp8", BARS.first_fp8, &BARS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_float),
        cmocka_unit_test(test_golden_lcm),
        cmocka_unit_test(test_golden_int8),
        cmocka_unit_test(test_golden_fp8),
    };
    return cmocka_run_group_tests(tests, golden_open, golden_close);
}
