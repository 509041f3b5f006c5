/*
 * test_spool.c - a latent on disk is read as it was, or not at all
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_spool.h"

#define N 10007

static char dir[] = "/tmp/lx2v-spool-XXXXXX", file[64];
static unsigned char saved[N], read_back[N];

static int set_up(void **state)
{
    (void)state;
    memcpy(dir, "/tmp/lx2v-spool-XXXXXX", sizeof dir);
    snprintf(file, sizeof file, "%s/spool/job-1.latent", mkdtemp(dir));
    for (size_t i = 0; i < N; i++)
        saved[i] = (unsigned char)(i * 7 + i / 256);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void test_spool_reads_what_was_written(void **state)
{
    (void)state;
    uint32_t crc;
    struct stat st;
    assert_int_equal(lx_spool_write(dir, "job-1", saved, N, &crc, NULL), LX_OK);
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N, crc, NULL), LX_OK);
    assert_memory_equal(saved, read_back, N);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(lx_spool_write(dir, "job-1", saved, N - 1, &crc, NULL), LX_OK); /* again */
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N - 1, crc, NULL), LX_OK);
    lx_spool_remove(dir, "job-1");
    lx_spool_remove(dir, "job-1");
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N - 1, crc, NULL), LX_EAGAIN);
}

static void test_spool_refuses_what_is_not_the_same(void **state)
{
    (void)state;
    lx_err err = {0};
    uint32_t crc;
    assert_int_equal(lx_spool_write(dir, "job-1", saved, N, &crc, NULL), LX_OK);
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N - 1, crc, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, file));
    int fd = open(file, O_WRONLY);
    assert_int_equal(pwrite(fd, "?", 1, N / 2), 1);
    close(fd);
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N, crc, NULL), LX_EAGAIN);
    assert_int_equal(truncate(file, N / 2), 0);
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N, crc, NULL), LX_EAGAIN);
    unlink(file);
    assert_int_equal(symlink("/etc/passwd", file), 0);
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N, crc, NULL), LX_EAGAIN);
    assert_int_equal(lx_spool_write(dir, "../job", saved, N, &crc, NULL), LX_EAGAIN);
    assert_int_equal(lx_spool_write(dir, "", saved, N, &crc, NULL), LX_EAGAIN);
    assert_int_equal(lx_spool_write("/nowhere", "a", saved, N, &crc, &err), LX_EAGAIN);
}

static bool is_job_1(void *self, const char *id)
{
    (void)self;
    return strcmp(id, "job-1") == 0;
}

static void test_spool_sweeps_what_nobody_wants(void **state)
{
    (void)state;
    uint32_t crc;
    char path[64];
    const char *const others[] = {".a.part", "notes.txt", "x y.latent"};
    assert_int_equal(lx_spool_sweep(dir, is_job_1, NULL), 0); /* no folder yet */
    assert_int_equal(lx_spool_write(dir, "job-1", saved, N, &crc, NULL), LX_OK);
    assert_int_equal(lx_spool_write(dir, "job-2", saved, N, &crc, NULL), LX_OK);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/spool/%s", dir, others[i]);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    assert_int_equal(lx_spool_sweep(dir, is_job_1, NULL), 2); /* job-2, and the part */
    assert_int_equal(lx_spool_read(dir, "job-1", read_back, N, crc, NULL), LX_OK);
    assert_int_equal(access(path, F_OK), 0); /* what is not ours stays */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_spool_reads_what_was_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_spool_refuses_what_is_not_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_spool_sweeps_what_nobody_wants, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
