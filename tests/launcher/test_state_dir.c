/*
 * test_state_dir.c - one launcher per folder, nothing left of dead ones
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

#include "state_dir.h"

typedef struct place {
    char root[64], dir[96];
} place;

static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    snprintf(p->root, sizeof p->root, "/tmp/lx2v-state-XXXXXX");
    if (!mkdtemp(p->root))
        return -1;
    snprintf(p->dir, sizeof p->dir, "%s/state", p->root);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    place *p = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", p->root);
    int failed = system(command);
    free(p);
    return failed;
}

static char *path_of(const place *p, const char *name, char out[160])
{
    snprintf(out, 160, "%s/%s", p->dir, name);
    return out;
}

static bool is_there(const place *p, const char *name)
{
    char path[160];
    struct stat st;
    return lstat(path_of(p, name, path), &st) == 0;
}

static void put(const place *p, const char *name, const char *text)
{
    char path[160];
    FILE *file = fopen(path_of(p, name, path), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static bool shm_is_there(const char *name)
{
    int fd = shm_open(name, O_RDONLY, 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void make_shm(const char *name)
{
    int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void test_state_dir_is_private(void **state)
{
    const place *p = *state;
    state_dir *dir = NULL;
    lx_err err = {0};
    umask(0);
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_OK);
    struct stat st;
    stat(p->dir, &st);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(strlen(state_dir_instance(dir)), 32);
    state_dir_close(&dir);
    assert_null(dir);
    chmod(p->dir, 0755);
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "755"));
    assert_non_null(strstr(err.message, p->dir));
}

static void test_state_dir_link_is_refused(void **state)
{
    const place *p = *state;
    state_dir *dir = NULL;
    lx_err err = {0};
    assert_int_equal(symlink("/tmp", p->dir), 0);
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_ECONFIG);
    assert_null(dir);
}

static void test_state_dir_second_launcher_is_refused(void **state)
{
    const place *p = *state;
    state_dir *first = NULL, *second = NULL;
    lx_err err = {0};
    char pid[16];
    assert_int_equal(state_dir_open(&first, p->dir, &err), LX_OK);
    put(p, "clients.sock", ""); /* what the first one listens on */
    assert_int_equal(state_dir_open(&second, p->dir, &err), LX_ECONFIG);
    snprintf(pid, sizeof pid, "pid %d", (int)getpid());
    assert_non_null(strstr(err.message, pid));
    assert_true(is_there(p, "clients.sock")); /* the first is undisturbed */
    assert_true(is_there(p, "run"));
    state_dir_close(&first);
    assert_int_equal(state_dir_open(&second, p->dir, &err), LX_OK);
    state_dir_close(&second);
}

/* What a launcher killed with -9 leaves behind. */
static void test_state_dir_sweeps_after_a_dead_launcher(void **state)
{
    const place *p = *state;
    const char *ours = "/lx2v.0123456789abcdef0123456789abcdef.7.0";
    const char *foreign = "/lx2v.fedcba9876543210fedcba9876543210.7.0";
    mkdir(p->dir, 0700);
    put(p, "clients.sock", "");
    put(p, "stages.sock", "");
    put(p, "run", "instance 0123456789abcdef0123456789abcdef\nstage 999999999 5 dit[0]\n");
    make_shm(ours);
    make_shm(foreign);
    state_dir *dir = NULL;
    lx_err err = {0};
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_OK);
    bool ours_left = shm_is_there(ours), foreign_left = shm_is_there(foreign);
    shm_unlink(foreign);
    assert_false(ours_left);
    assert_true(foreign_left);
    assert_false(is_there(p, "clients.sock"));
    assert_false(is_there(p, "stages.sock"));
    char name[80];
    snprintf(name, sizeof name, "/lx2v.%s.1.0", state_dir_instance(dir));
    make_shm(name);
    state_dir_close(&dir);
    assert_false(shm_is_there(name)); /* our own go at the end */
    assert_false(is_there(p, "run"));
}

static void test_state_dir_orphan_stage_is_named(void **state)
{
    const place *p = *state;
    state_dir *dir = NULL;
    lx_err err = {0};
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_OK);
    state_dir_record(dir, &(state_stage){.pid = child, .name = "dit[0]"}, 1);
    char saved[96], path[160];
    snprintf(saved, sizeof saved, "%s/run.saved", p->root);
    assert_int_equal(link(path_of(p, "run", path), saved), 0);
    state_dir_close(&dir);
    assert_int_equal(rename(saved, path), 0); /* as if that launcher had been killed */
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_ECONFIG);
    char pid[32];
    snprintf(pid, sizeof pid, "dit[0] (pid %d)", (int)child);
    assert_non_null(strstr(err.message, pid));
    kill(child, SIGKILL); /* unreaped it is a zombie, which counts as gone */
    assert_int_equal(state_dir_open(&dir, p->dir, &err), LX_OK);
    waitpid(child, NULL, 0);
    state_dir_close(&dir);
}

static void test_state_dir_nonsense_in_the_record_is_survived(void **state)
{
    const place *p = *state;
    const char *const texts[] = {"",
                                 "instance zz\n",
                                 "instance ",
                                 "stage -1 0 x\n\nstage 1",
                                 "instance 0123456789abcdef0123456789abcdef\nstage 0 0 a\nstage x",
                                 "instance 0123456789abcdef0123456789abcdef\nstage -1 1 a\n"};
    mkdir(p->dir, 0700);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        state_dir *dir = NULL;
        put(p, "run", texts[i]);
        assert_int_equal(state_dir_open(&dir, p->dir, NULL), LX_OK);
        state_dir_close(&dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state_dir_is_private, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_state_dir_link_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_state_dir_second_launcher_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_state_dir_sweeps_after_a_dead_launcher, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_state_dir_orphan_stage_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_state_dir_nonsense_in_the_record_is_survived, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
