/*
 * test_share.c - lending: immutable, complete or refused, and nothing left behind
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_share.h"

static char instance[33];

static int new_instance(void **state)
{
    (void)state;
    snprintf(instance, sizeof instance, "%032x", (unsigned)getpid());
    return 0;
}

static int sweep(void **state)
{
    (void)state;
    lx_share_sweep(instance, 0);
    return 0;
}

static lx_ticket lend_ramp(lx_share *desk, int64_t n)
{
    lx_tensor t;
    lx_ticket ticket;
    lx_shape shape = LX_SHAPE(n);
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_I32, &shape, &t, NULL), LX_OK);
    for (int64_t i = 0; i < n; i++)
        ((int32_t *)t.data)[i] = (int32_t)i;
    assert_int_equal(lx_share_publish(desk, &ticket, NULL), LX_OK);
    return ticket;
}

static void test_borrower_gets_all_of_it(void **state)
{
    (void)state;
    lx_share *desk;
    assert_int_equal(lx_share_open(&desk, instance, 1, 2, 40000, NULL), LX_OK);
    lx_ticket ticket = lend_ramp(desk, 10000);
    static int32_t got[10000];
    assert_int_equal(lx_share_borrow(&ticket, instance, got, sizeof got, NULL), LX_OK);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(got[i], i);
    lx_share_close(&desk);
    assert_null(desk);
}

static void test_slots_are_bounded_and_come_back(void **state)
{
    (void)state;
    lx_share *desk;
    lx_tensor t;
    lx_shape shape = LX_SHAPE(4), large = LX_SHAPE(1 << 20);
    assert_int_equal(lx_share_open(&desk, instance, 2, 2, 4096, NULL), LX_OK);
    lx_ticket first = lend_ramp(desk, 4);
    lend_ramp(desk, 4);
    assert_int_equal(lx_share_free_slots(desk), 0);
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_F32, &shape, &t, NULL), LX_EAGAIN);
    lx_share_retire(desk, 12345);
    assert_int_equal(lx_share_free_slots(desk), 0);
    lx_share_retire(desk, first.serial);
    assert_int_equal(lx_share_free_slots(desk), 1);
    lx_err err = {0};
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_F32, &large, &t, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "4194304"));
    lx_share_close(&desk);
}

static void test_stale_and_forged_tickets_are_refused(void **state)
{
    (void)state;
    lx_share *desk;
    int32_t got[16];
    assert_int_equal(lx_share_open(&desk, instance, 3, 1, 4096, NULL), LX_OK);
    lx_ticket old = lend_ramp(desk, 16);
    lx_share_retire(desk, old.serial);
    assert_int_equal(lx_share_borrow(&old, instance, got, sizeof got, NULL), LX_EJOB);
    lx_ticket now = lend_ramp(desk, 16);
    assert_int_equal(lx_share_borrow(&old, instance, got, sizeof got, NULL), LX_EJOB);
    assert_int_equal(lx_share_borrow(&now, instance, got, sizeof got, NULL), LX_OK);
    assert_int_equal(lx_share_borrow(&now, instance, got, 8, NULL), LX_EJOB);
    lx_ticket forged = now;
    forged.dims[0] = 17;
    assert_int_equal(lx_share_borrow(&forged, instance, got, sizeof got, NULL), LX_EJOB);
    forged = now;
    strcpy(forged.name, "/lx2v.../../etc/passwd");
    assert_int_equal(lx_share_borrow(&forged, instance, got, sizeof got, NULL), LX_EJOB);
    assert_int_equal(
        lx_share_borrow(&now, "00000000000000000000000000000000", got, sizeof got, NULL), LX_EJOB);
    lx_share_close(&desk);
}

static void test_truncated_region_is_an_error_not_a_signal(void **state)
{
    (void)state;
    lx_share *desk;
    static char got[1 << 20];
    assert_int_equal(lx_share_open(&desk, instance, 4, 1, sizeof got, NULL), LX_OK);
    lx_ticket ticket = lend_ramp(desk, (int64_t)sizeof got / 4);
    int fd = shm_open(ticket.name, O_RDWR, 0);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 8192), 0);
    close(fd);
    assert_int_equal(lx_share_borrow(&ticket, instance, got, sizeof got, NULL), LX_EJOB);
    lx_share_close(&desk);
}

static void test_tensor_outlives_its_killed_lender_until_swept(void **state)
{
    (void)state;
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t pid = fork();
    if (!pid) {
        lx_share *desk;
        lx_share_open(&desk, instance, 5, 1, 4096, NULL);
        lx_ticket ticket = lend_ramp(desk, 100);
        if (write(pipe_fd[1], &ticket, sizeof ticket) == sizeof ticket)
            pause();
        _exit(1);
    }
    lx_ticket ticket;
    assert_int_equal(read(pipe_fd[0], &ticket, sizeof ticket), sizeof ticket);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    int32_t got[100];
    assert_int_equal(lx_share_borrow(&ticket, instance, got, sizeof got, NULL), LX_OK);
    assert_int_equal(got[99], 99);
    assert_int_equal(lx_share_sweep(instance, 6), 0);
    assert_int_equal(lx_share_sweep(instance, 5), 1);
    assert_int_equal(lx_share_borrow(&ticket, instance, got, sizeof got, NULL), LX_EJOB);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

static void test_too_small_shm_is_an_error_with_figures(void **state)
{
    (void)state;
    lx_share *desk = NULL;
    lx_err err = {0};
    assert_int_equal(lx_share_open(&desk, instance, 7, 1, (uint64_t)1 << 45, &err), LX_ECONFIG);
    assert_null(desk);
    assert_non_null(strstr(err.message, "/dev/shm"));
    assert_non_null(strstr(err.message, "are free"));
    assert_int_equal(lx_share_sweep(instance, 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borrower_gets_all_of_it),
        cmocka_unit_test(test_slots_are_bounded_and_come_back),
        cmocka_unit_test(test_stale_and_forged_tickets_are_refused),
        cmocka_unit_test(test_truncated_region_is_an_error_not_a_signal),
        cmocka_unit_test(test_tensor_outlives_its_killed_lender_until_swept),
        cmocka_unit_test(test_too_small_shm_is_an_error_with_figures),
    };
    return cmocka_run_group_tests(tests, new_instance, sweep);
}
