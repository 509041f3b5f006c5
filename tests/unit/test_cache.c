/*
 * test_cache.c - files that can be made again: where they lie, and which are believed
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_cache.h"

static char dir[64], file[128];

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/lx2v-cache-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    snprintf(file, sizeof file, "%s/a/b/table.json", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void test_folder_follows_the_environment(void **state)
{
    (void)state;
    char path[256], little[20];
    lx_err err = {0};
    setenv("HOME", "/home/ada", 1);
    unsetenv("XDG_CACHE_HOME");
    assert_int_equal(lx_cache_folder(path, sizeof path, "tune", &err), LX_OK);
    assert_string_equal(path, "/home/ada/.cache/lx2v/tune");
    setenv("XDG_CACHE_HOME", "/var/cache/ada", 1);
    assert_int_equal(lx_cache_folder(path, sizeof path, "tune", &err), LX_OK);
    assert_string_equal(path, "/var/cache/ada/lx2v/tune");
    assert_int_equal(lx_cache_folder(little, sizeof little, "tune", &err), LX_ECONFIG);
    setenv("XDG_CACHE_HOME", "here", 1); /* relative: as if it were not there */
    assert_int_equal(lx_cache_folder(path, sizeof path, "tune", &err), LX_OK);
    assert_string_equal(path, "/home/ada/.cache/lx2v/tune");
    unsetenv("HOME");
    assert_int_equal(lx_cache_folder(path, sizeof path, "tune", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "XDG_CACHE_HOME"));
}

static void write_text(const char *text)
{
    lx_err err = {0};
    if (lx_cache_write(file, text, strlen(text), &err) != LX_OK)
        fail_msg("%s", err.message);
}

static void test_what_was_written_is_read(void **state)
{
    (void)state;
    struct stat st;
    lx_err err = {0};
    char *text = NULL, command[160];
    size_t n = 7;
    assert_int_equal(lx_cache_read(file, 100, &text, &n, &err), LX_EAGAIN);
    write_text("one");
    write_text("another"); /* in place of it */
    assert_int_equal(lx_cache_read(file, 100, &text, &n, &err), LX_OK);
    assert_int_equal(n, 7);
    assert_string_equal(text, "another");
    free(text);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(command, sizeof command, "test $(ls -A %s/a/b | wc -l) = 1", dir);
    assert_int_equal(system(command), 0); /* nothing is left beside it */
    assert_int_equal(lx_cache_read(file, 7, &text, &n, &err), LX_OK);
    free(text);
    assert_int_equal(lx_cache_read(file, 6, &text, &n, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "too long"));
}

static void test_what_is_not_ours_is_refused(void **state)
{
    (void)state;
    lx_err err = {0};
    char *text = NULL, other[160];
    size_t n;
    write_text("{}");
    assert_int_equal(chmod(file, 0620), 0);
    assert_int_equal(lx_cache_read(file, 100, &text, &n, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, file));
    assert_non_null(strstr(err.message, "others may write"));
    assert_int_equal(chmod(file, 0600), 0);
    snprintf(other, sizeof other, "%s/link", dir);
    assert_int_equal(symlink(file, other), 0);
    assert_int_equal(lx_cache_read(other, 100, &text, &n, &err), LX_ECONFIG);
    assert_int_equal(lx_cache_read(dir, 100, &text, &n, &err), LX_ECONFIG);
    snprintf(other, sizeof other, "%s/fifo", dir);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(lx_cache_read(other, 100, &text, &n, &err), LX_ECONFIG); /* does not wait */
}

static void test_a_place_that_cannot_be_is_told(void **state)
{
    (void)state;
    lx_err err = {0};
    char below[160];
    write_text("{}");
    snprintf(below, sizeof below, "%s/below", file); /* a file is no folder */
    assert_int_equal(lx_cache_write(below, "x", 1, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, below));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_follows_the_environment),
        cmocka_unit_test_setup_teardown(test_what_was_written_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_ours_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_place_that_cannot_be_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
