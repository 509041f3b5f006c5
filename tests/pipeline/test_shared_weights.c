/*
 * test_shared_weights.c - replicas share one copy of a checkpoint, and a restart finds it there
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

static int n_lines(const rig *r, const char *words)
{
    char line[2048];
    int n = 0;
    FILE *file = fopen(r->log, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        n += strstr(line, words) != NULL;
    fclose(file);
    return n;
}

/* "r--s" where a process has mapped the shared copy, else "". */
static void mapping_of(pid_t pid, const char *name, char permissions[8])
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    permissions[0] = 0;
    while (fgets(line, sizeof line, file))
        if (strstr(line, name))
            sscanf(line, "%*s %7s", permissions);
    fclose(file);
}

static void assert_shares(pid_t pid, const char *name)
{
    char permissions[8];
    mapping_of(pid, name, permissions);
    assert_string_equal(permissions, "r--s"); /* nobody writes weights */
}

static void test_one_copy_for_all(void **state)
{
    (void)state;
    rig r;
    rig_start(&r, (rig_options){.config = "stages: {dit: {replicas: 2}}\n"});
    lx_client_stage encoder = rig_stage(&r, ENCODER);
    assert_shares((pid_t)encoder.pid, "lx2v-weights-encoder");
    assert_shares(rig_stage_pid(&r, DIT), "lx2v-weights-dit");
    assert_int_equal(n_lines(&r, "shared=attached"), 1); /* the second DiT */
    rig_submit(&r, "before");
    assert_int_equal(rig_wait(&r, "before", 60), LX_CLIENT_DONE);

    kill(rig_stage_pid(&r, DIT), SIGKILL);
    kill((pid_t)encoder.pid, SIGKILL);
    rig_submit(&r, "after");
    assert_int_equal(rig_wait(&r, "after", 60), LX_CLIENT_DONE);
    rig_wait_ready(&r, 30);
    assert_int_equal(n_lines(&r, "shared=attached"), 3);
    assert_shares(rig_stage_pid(&r, DIT), "lx2v-weights-dit");
    assert_true(rig_hash(&r, "before.mp4") == rig_hash(&r, "after.mp4"));
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_copy_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
