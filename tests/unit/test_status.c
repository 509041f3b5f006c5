/*
 * test_status.c - classes, exit codes, and messages that are cut, never overrun
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lx_status.h"
#include "lx_utf8.h"

static void test_exit_codes_are_the_documented_ones(void **state)
{
    (void)state;
    const int expected[] = {0, 3, 1, 1, 2, 4, 130};
    for (int i = 0; i < 7; i++)
        assert_int_equal(lx_exit_code((lx_status)i), expected[i]);
    assert_int_equal(lx_exit_code((lx_status)99), 1);
}

static void test_wrap_puts_the_prefix_before(void **state)
{
    (void)state;
    lx_err err = {0};
    assert_int_equal(lx_fail(&err, LX_ECONFIG, "tensor %s", "a"), LX_ECONFIG);
    assert_int_equal(lx_wrap(&err, "loading %s", "dit"), LX_ECONFIG);
    assert_string_equal(err.message, "loading dit: tensor a");
    assert_non_null(strstr(err.file, "test_status.c"));
    assert_int_equal(lx_fail(NULL, LX_EJOB, "nobody asks"), LX_EJOB);
    lx_fail(&err, LX_EJOB, "again: %s", err.message); /* may quote itself */
    assert_string_equal(err.message, "again: loading dit: tensor a");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char text[3 * LX_ERR_TEXT];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    lx_err err = {0};
    lx_fail(&err, LX_EJOB, "%s", text);
    lx_wrap(&err, "%s", text);
    assert_int_equal(strlen(err.message), LX_ERR_TEXT - 1);
}

static void test_utf8_is_checked_by_the_standards_table(void **state)
{
    (void)state;
    const char *good[] = {"", "a", "\xc3\xa9", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(lx_utf8_bad(good[i], strlen(good[i])), strlen(good[i]));
    const char *bad[] = {"\xc3",         "\xc0\x80",         "\xe0\x9f\xbf",
                         "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                         "\x80",         "\xe2\x82",         "\xf0\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_utf8_bad(bad[i], strlen(bad[i])), 0);
    assert_int_equal(lx_utf8_bad("ab\xff", 3), 2);
    assert_int_equal(lx_utf8_cut("a\xe7\x8c\xab", 4, 3), 1);
    assert_int_equal(lx_utf8_cut("a\xe7\x8c\xab", 4, 4), 4);
    char text[4];
    lx_utf8_copy(text, sizeof text, "\xff\xe7\x8c\xab");
    assert_string_equal(text, "?"); /* the character does not fit */
    lx_utf8_copy(text, sizeof text, "a\xe7\x8c");
    assert_string_equal(text, "a??");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes_are_the_documented_ones),
        cmocka_unit_test(test_wrap_puts_the_prefix_before),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_utf8_is_checked_by_the_standards_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
