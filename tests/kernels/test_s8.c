/*
 * test_s8.c - products of bytes are exact on every path, the library's where it is used
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"
#include "cpu/lx_dnnl.h"
#include "cpu/lx_s8.h"

/* Rows that break 16-bit sums and shifted operands: constant extremes, alternating, random. */
static void fill_row(check_rng *r, int8_t *row, int64_t k, int kind)
{
    static const int8_t constant[] = {-128, 127, -127, -1, 0, 1};
    for (int64_t i = 0; i < k; i++) {
        if (kind < 6)
            row[i] = constant[kind];
        else if (kind == 6)
            row[i] = i % 2 ? 127 : -128;
        else
            row[i] = (int8_t)(check_bits(r) & 0xff);
    }
}

static void check_path(lx_s8_path path, int64_t m, int64_t n, int64_t k)
{
    check_rng r = {(uint64_t)(m * 1000003 + n * 1009 + k)};
    int64_t lda = k + 3, ldb = k + 1, ldc = n + 5;
    int8_t *a = check_alloc(m * lda, 1), *b = check_alloc(n * ldb, 1);
    int32_t *c = check_alloc(m * ldc, sizeof *c);
    for (int64_t i = 0; i < m; i++)
        fill_row(&r, a + i * lda, k, (int)(i % 8));
    for (int64_t j = 0; j < n; j++)
        fill_row(&r, b + j * ldb, k, (int)((j * 5 + j / 8) % 8));
    for (int64_t i = 0; i < m * ldc; i++)
        c[i] = 12345;
    lx_s8_tile t = {
        .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc, .a = a, .b = b, .c = c};
    assert_int_equal(lx_s8_multiply(path, &t), 0);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            int64_t sum = j < n ? 0 : 12345;
            for (int64_t x = 0; x < k && j < n; x++)
                sum += (int64_t)a[i * lda + x] * b[j * ldb + x];
            if (c[i * ldc + j] != sum)
                fail_msg("path %d, %dx%dx%d at %d,%d: %d instead of %lld", (int)path, (int)m,
                         (int)n, (int)k, (int)i, (int)j, c[i * ldc + j], (long long)sum);
        }
    free(a), free(b), free(c);
}

static void test_s8_is_exact_on_every_path(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 1, 1},      {1, 5, 3},      {2, 4, 16},    {3, 3, 15},    {8, 8, 17},
        {5, 7, 31},     {16, 48, 64},   {13, 49, 127}, {17, 64, 128}, {37, 95, 257},
        {64, 97, 384},  {9, 33, 1021},  {8, 24, 4096}, {9, 17, 5120}, {11, 19, 13824},
        {8, 8, 131071}, {129, 193, 65}, {513, 9, 33},
    };
    for (int path = 0; path < LX_S8_PATHS; path++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            if (lx_s8_path_works((lx_s8_path)path))
                check_path((lx_s8_path)path, shapes[i][0], shapes[i][1], shapes[i][2]);
}

/* Where sums may saturate in 16 bits, the library must not get the work. */
static void test_s8_library_only_with_vnni_or_amx(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    const char *isa = lx_dnnl_isa();
    bool may = strstr(isa, "vnni") || strstr(isa, "bf16") || strstr(isa, "amx");
    if (!may)
        assert_false(x.backend->s8_in_library);
    assert_int_equal(x.backend->s8_in_library, lx_dnnl_s8_is_exact());
    assert_true(lx_s8_path_works(lx_s8_own_path()) && lx_s8_own_path() != LX_S8_LIBRARY);
    assert_non_null(strstr(lx_exec_describe(&x), isa));
    assert_non_null(strstr(lx_exec_describe(&x), x.backend->s8_in_library ? "in oneDNN" : "lx_s8"));
    print_message("%s\n", lx_exec_describe(&x));
    check_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_s8_library_only_with_vnni_or_amx),
        cmocka_unit_test(test_s8_is_exact_on_every_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
