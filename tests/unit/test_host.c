/*
 * test_host.c - the machine's memory as this process may have it
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "lx_host.h"

static void test_memory_is_what_the_system_tells(void **state)
{
    (void)state;
    lx_host_memory m;
    lx_host_memory_look(&m);
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * page;
    assert_in_range(m.all, all - all / 64, all + all / 64);
    assert_in_range(m.available, 1, m.all);
    if (m.limit)
        assert_true(m.available <= m.limit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory_is_what_the_system_tells)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
