/*
 * test_arena.c - marks, bounds, and the dry arena as a plan
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lx_arena.h"

static void test_takes_are_aligned_and_bounded(void **state)
{
    (void)state;
    lx_arena *arena;
    void *a, *b;
    float *f;
    lx_err err = {0};
    assert_int_equal(lx_arena_create(&arena, 1024, NULL), LX_OK);
    assert_int_equal(lx_arena_take(arena, 1, &a, NULL), LX_OK);
    assert_int_equal(lx_arena_take(arena, 100, &b, NULL), LX_OK);
    assert_int_equal((uintptr_t)b % 256, 0);
    assert_int_equal((char *)b - (char *)a, 256);
    size_t mark = lx_arena_mark(arena);
    assert_int_equal(lx_arena_take(arena, 1024, &b, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "planned"));
    assert_int_equal(lx_arena_take_f32(arena, UINT64_MAX / 2, &f, NULL), LX_EJOB);
    assert_int_equal(lx_arena_mark(arena), mark);
    assert_int_equal(lx_arena_take(arena, 1024 - mark, &b, NULL), LX_OK);
    memset(b, 1, 1024 - mark);
    lx_arena_reset(arena, 0);
    assert_int_equal(lx_arena_peak(arena), 1024);
    lx_arena_destroy(&arena);
    assert_null(arena);
}

static void test_dry_run_measures_what_the_real_run_takes(void **state)
{
    (void)state;
    lx_arena *dry, *real;
    assert_int_equal(lx_arena_create_dry(&dry, NULL), LX_OK);
    assert_true(lx_arena_is_dry(dry));
    void *p;
    for (int run = 0; run < 2; run++) {
        size_t mark = lx_arena_mark(dry);
        assert_int_equal(lx_arena_take(dry, (size_t)1 << 40, &p, NULL), LX_OK);
        assert_non_null(p);
        lx_arena_reset(dry, mark);
        assert_int_equal(lx_arena_take(dry, 65, &p, NULL), LX_OK);
    }
    assert_int_equal(lx_arena_peak(dry), ((size_t)1 << 40) + 256);
    assert_int_equal(lx_arena_bytes(dry), 0);
    lx_err err = {0};
    assert_int_equal(lx_arena_create(&real, (size_t)1 << 46, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, "GiB"));
    lx_arena_destroy(&dry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_are_aligned_and_bounded),
        cmocka_unit_test(test_dry_run_measures_what_the_real_run_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
