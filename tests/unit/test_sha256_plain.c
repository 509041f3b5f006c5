/*
 * test_sha256_plain.c - SHA-256 in plain C against the one of this build, which may be nettle's
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lx_sha256.h"

/* The same source again, without what the build has set for the library. */
#define lx_sha256_open plain_open
#define lx_sha256_add  plain_add
#define lx_sha256_hex  plain_hex
#include "lx_sha256.c"
#undef lx_sha256_open
#undef lx_sha256_add
#undef lx_sha256_hex

static void test_plain_and_fast_agree(void **state)
{
    (void)state;
    unsigned char data[1000];
    char plain[65], fast[65];
    lx_sha256 a, b;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 37 ^ i >> 3);
    for (size_t n = 0; n <= sizeof data; n += n < 200 ? 1 : 97)
        for (size_t step = 1; step <= 257; step += 32) {
            plain_open(&a);
            lx_sha256_open(&b);
            for (size_t at = 0; at < n; at += step) {
                plain_add(&a, data + at, n - at < step ? n - at : step);
                lx_sha256_add(&b, data + at, n - at < step ? n - at : step);
            }
            plain_hex(&a, plain);
            lx_sha256_hex(&b, fast);
            assert_string_equal(plain, fast);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain_and_fast_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
