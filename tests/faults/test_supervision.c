/*
 * test_supervision.c - deaths, hangs, orphans, memory given back: what the launcher does about them
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"

/* A zombie has no command line. */
static bool is_alive(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    FILE *file = fopen(path, "r");
    bool alive = file && getc(file) != EOF;
    if (file)
        fclose(file);
    return alive;
}

static bool wait_dead(pid_t pid, double seconds)
{
    for (double until = rig_now_s() + seconds * RIG_SLACK; is_alive(pid); rig_sleep(0.01))
        if (rig_now_s() > until)
            return false;
    return true;
}

static void end(rig *r)
{
    rig_stop(r, SIGTERM);
    rig_remove(r);
}

static void wait_state(rig *r, int stage, const char *word, double seconds)
{
    for (double until = rig_now_s() + seconds * RIG_SLACK; rig_now_s() < until; rig_sleep(0.02))
        if (!strcmp(rig_stage(r, stage).state, word))
            return;
    fail_msg("%s is %s after %.0f s, not %s", lx_client_stage_name(stage),
             rig_stage(r, stage).state, seconds, word);
}

/* What `lx2v status` prints, as text or JSON. */
static const char *told(const rig *r, const char *flag)
{
    static char text[65536];
    assert_int_equal(rig_run(text, sizeof text, "lx2v status %s --config %s", flag, r->config), 0);
    return text;
}

static void test_p08_stopped_stage_is_replaced(void **state)
{
    (void)state;
    rig r;
    fault_start(&r, NULL, NULL);
    pid_t pid = rig_stage_pid(&r, DIT);
    double stopped_s = rig_now_s();
    kill(pid, SIGSTOP);
    assert_true(wait_dead(pid, 10));
    assert_true(rig_now_s() - stopped_s <= 4 * RIG_SLACK);
    kill(pid, SIGCONT); /* late: there is nobody any more */
    rig_wait_ready(&r, 30);
    rig_submit(&r, "after");
    assert_int_equal(rig_wait(&r, "after", 60), LX_CLIENT_DONE);
    end(&r);
}

static void test_p09_hung_unit_is_found_behind_a_beating_heart(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/stage.compute:40:spin", "supervision: {beat_s: 0.5, hang_s: 1.6}\n");
    double from_s = 0;
    for (int i = 0; !fault_seen(&r, "dit/stage.compute").fired && i < 9; i++) {
        char id[16];
        snprintf(id, sizeof id, "j%d", i);
        rig_submit(&r, id);
        from_s = rig_now_s();
        assert_int_equal(rig_wait(&r, id, 60), LX_CLIENT_DONE);
    }
    assert_true(rig_now_s() - from_s > 1.5);
    assert_true(rig_now_s() - from_s < 4 * RIG_SLACK);
    assert_non_null(strstr(rig_stage(&r, DIT).text, "no progress for"));
    rig_wait_ready(&r, 30);
    end(&r);
}

/* What is told is the time of the unit, not of the rest before the job. */
static void test_p09_first_unit_hangs_after_a_rest(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    double told_s = 0;
    fault_start(&r, "dit/stage.compute:1:spin", "supervision: {beat_s: 0.5, hang_s: 1.6}\n");
    rig_sleep(5 * RIG_SLACK);
    rig_submit(&r, "late");
    assert_int_equal(rig_wait(&r, "late", 60), LX_CLIENT_DONE);
    const lx_client_stage dit = rig_stage(&r, DIT);
    const char *told = strstr(dit.text, "no progress for ");
    assert_true(told && sscanf(told, "no progress for %lf s", &told_s) == 1);
    assert_true(told_s > 1.5 && told_s < 4 * RIG_SLACK);
    rig_wait_ready(&r, 30);
    end(&r);
}

/* Ready once, and from then on it ends with code 1 as soon as it has loaded: restarted at once,
 * then after 1, 2 and 4 s; the fifth death parks it. */
static void test_p10_crash_loop_is_parked(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/stage.load:2+:exit=1", NULL);
    rig_submit(&r, "before");
    assert_int_equal(rig_wait(&r, "before", 60), LX_CLIENT_DONE);
    double from_s = rig_now_s();
    kill(rig_stage_pid(&r, DIT), SIGKILL);
    rig_submit(&r, "waits");
    wait_state(&r, DIT, "parked", 20);
    assert_true(rig_now_s() - from_s > 6.9); /* no busy loop: five deaths, 7 s of rest */
    assert_int_equal(fault_seen(&r, "dit/stage.load").visits, 5);
    assert_int_equal(rig_wait(&r, "waits", 5), LX_CLIENT_FAILED);
    assert_non_null(strstr(rig_job(&r, "waits").error, "died 5 times"));
    assert_non_null(strstr(rig_job(&r, "waits").error, "exit code 1"));
    assert_non_null(strstr(told(&r, ""), "degraded"));
    assert_non_null(strstr(told(&r, "--json"), "\"state\":\"degraded\""));
    lx_err err = {0};
    lx_client_accepted accepted;
    lx_client_request request = rig_request("refused");
    double asked_s = rig_now_s();
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_ESTAGE);
    assert_true(rig_now_s() - asked_s < 1 * RIG_SLACK);
    assert_int_equal(rig_job(&r, "before").state, LX_CLIENT_DONE); /* it answers as before */
    end(&r);
}

static void test_p11_exit_2_is_parked_at_once(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "vae/stage.load:2+:exit=2", NULL);
    double from_s = rig_now_s();
    kill(rig_stage_pid(&r, VAE), SIGKILL);
    wait_state(&r, VAE, "parked", 10);
    assert_true(rig_now_s() - from_s < 5 * RIG_SLACK);
    assert_int_equal(fault_seen(&r, "vae/stage.load").visits, 2);
    assert_non_null(strstr(rig_stage(&r, VAE).text, "exit code 2"));
    assert_non_null(strstr(told(&r, ""), "degraded"));
    end(&r);
}

static void test_p12_poison_job_is_buried(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    history h;
    fault_start(&r, "dit/stage.compute:1:abort,dit/stage.compute:2:abort", NULL);
    history_open(&h, &r);
    char id[11][16] = {"poison"};
    assert_true(history_submit(&h, &r, id[0], 1));
    for (int i = 1; i < 11; i++) {
        snprintf(id[i], sizeof id[i], "behind-%d", i);
        assert_true(history_submit(&h, &r, id[i], 42));
    }
    assert_int_equal(history_end(&h, &r, "poison", 60), LX_CLIENT_FAILED);
    assert_non_null(strstr(rig_job(&r, "poison").error, "2 tries"));
    for (int i = 1; i < 11; i++)
        assert_int_equal(history_end(&h, &r, id[i], 60), LX_CLIENT_DONE);
    assert_int_equal(rig_stage(&r, DIT).restarts, 2);
    history_check(&h, &r);
    end(&r);
}

static void test_p13_orphan_is_named_and_refused(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static char text[16384];
    char word[32];
    rig r;
    fault_start(&r, "dit/stage.orphan:1+", NULL);
    pid_t orphan = rig_stage_pid(&r, DIT), other = rig_stage_pid(&r, VAE);
    kill(r.pid, SIGKILL);
    rig_wait_exit(&r, 5);
    assert_true(wait_dead(other, 1));
    assert_true(is_alive(orphan));
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    snprintf(word, sizeof word, "pid %d", (int)orphan);
    assert_non_null(strstr(text, word));
    assert_non_null(strstr(text, "kill -9"));
    kill(orphan, SIGKILL);
    assert_true(wait_dead(orphan, 5));
    fault_arm(&r, NULL);
    rig_launch(&r, 0);
    fault_open(&r);
    end(&r);
}

/* The kernel's word of the launcher's death may be lost: then the pipe's end says it. One of them
 * computes, and may not wait for that to end. */
static void test_p06_stages_leave_without_the_kernels_word(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    pid_t pid[4];
    fault_start(&r, "stage.deathsig:1+,dit/stage.compute:3:sleep=60000", NULL);
    rig_submit(&r, "lost");
    while (!fault_seen(&r, "dit/stage.compute").fired)
        rig_sleep(0.02);
    for (int stage = ENCODER; stage <= MUX; stage++)
        pid[stage] = rig_stage_pid(&r, stage);
    kill(r.pid, SIGKILL);
    rig_wait_exit(&r, 5);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_true(wait_dead(pid[stage], stage == DIT ? 2 : 1));
    fault_arm(&r, NULL);
    rig_launch(&r, 0);
    fault_open(&r);
    end(&r);
}

/* A stage that hears nothing is killed when stop_s is over; the launcher's own end is in order. */
static void test_p14_stop_while_a_stage_hangs(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/stage.compute:3:spin", "supervision: {stop_s: 1.5}\n");
    rig_submit(&r, "hangs");
    while (!fault_seen(&r, "dit/stage.compute").fired)
        rig_sleep(0.02);
    double asked_s = rig_now_s();
    rig_stop(&r, SIGTERM);
    assert_true(rig_now_s() - asked_s > 1.4 && rig_now_s() - asked_s < 3.5 * RIG_SLACK);
    rig_remove(&r);
}

/* A running job ends first; then the processes that have the memory are gone, and come back. */
static void test_release_gives_memory_back_until_resume(void **state)
{
    (void)state;
    rig r;
    history h;
    fault_start(&r, NULL, NULL);
    history_open(&h, &r);
    assert_true(history_submit(&h, &r, "running", 42));
    while (rig_job(&r, "running").state == LX_CLIENT_QUEUED)
        rig_sleep(0.001);
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_RELEASE, NULL, 0, NULL), LX_OK);
    assert_true(history_submit(&h, &r, "queued", 42));
    assert_int_equal(history_end(&h, &r, "running", 60), LX_CLIENT_DONE);
    for (int stage = ENCODER; stage <= VAE; stage++) {
        wait_state(&r, stage, "released", 10);
        assert_int_equal(rig_stage(&r, stage).pid, 0);
    }
    assert_string_equal(rig_stage(&r, MUX).state, "ready"); /* it has none to give */
    assert_int_equal(rig_job(&r, "queued").state, LX_CLIENT_QUEUED);
    assert_non_null(strstr(told(&r, ""), "paused"));
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_RESUME, NULL, 0, NULL), LX_OK);
    assert_int_equal(history_end(&h, &r, "queued", 60), LX_CLIENT_DONE);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0); /* nobody died */
    history_check(&h, &r);
    end(&r);
}

static void test_release_is_one_word_of_pause(void **state)
{
    (void)state;
    static char text[4096];
    rig r;
    fault_start(&r, NULL, NULL);
    const char *const pause = "lx2v pause --release-vram --config %s 2>&1";
    assert_int_equal(rig_run(text, sizeof text, pause, r.config), 0);
    wait_state(&r, DIT, "released", 10);
    assert_int_equal(rig_run(text, sizeof text, "lx2v resume --config %s 2>&1", r.config), 0);
    wait_state(&r, DIT, "ready", 10);
    assert_int_equal(
        rig_run(text, sizeof text, "lx2v drain --release-vram --config %s 2>&1", r.config), 2);
    /* Leaving while they are away. */
    assert_int_equal(rig_run(text, sizeof text, pause, r.config), 0);
    wait_state(&r, VAE, "released", 10);
    end(&r);
}

/* The next line of a file that others write; opens it if it is not open yet. */
static FILE *wait_line(FILE *file, const char *path, char line[256])
{
    for (double until = rig_now_s() + 5 * RIG_SLACK; rig_now_s() < until; rig_sleep(0.01)) {
        if (!file)
            file = fopen(path, "re");
        if (file)
            clearerr(file);
        if (file && fgets(line, 256, file))
            return file;
    }
    fail_msg("%s has no more lines", path);
    return NULL;
}

/* Where logind is there, its lock is held by a child for as long as there is work. Here a program
 * of the same name stands before it in PATH, and runs its command as the real one does. */
static void test_inhibitor_is_held_while_there_is_work(void **state)
{
    (void)state;
    char folder[128], path[192], old[4096], line[256] = "";
    rig r;
    rig_make(&r, NULL);
    snprintf(folder, sizeof folder, "%s/bin", r.root);
    snprintf(path, sizeof path, "%s/systemd-inhibit", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    FILE *file = fopen(path, "w");
    fprintf(file, "#!/bin/sh\necho $$ \"$@\" >>%s/held\nwhile [ \"$1\" != cat ]; do shift; done\n",
            r.root);
    fprintf(file, "\"$@\"\necho gone >>%s/held\n", r.root);
    fclose(file);
    chmod(path, 0700);
    snprintf(old, sizeof old, "%s", getenv("PATH"));
    char *with = malloc(sizeof old + sizeof folder);
    sprintf(with, "%s:%s", folder, old);
    setenv("PATH", with, 1);
    fault_arm(&r, NULL);
    rig_launch(&r, 20);
    setenv("PATH", old, 1);
    free(with);
    fault_open(&r);
    char held[160];
    snprintf(held, sizeof held, "%s/held", r.root);
    assert_int_not_equal(access(held, F_OK), 0); /* an empty queue may sleep */
    rig_submit(&r, "work");
    rig_wait_stage(&r, "work", DIT, 10);
    file = wait_line(NULL, held, line);
    assert_non_null(strstr(line, "--what=sleep"));
    assert_int_equal(rig_wait(&r, "work", 60), LX_CLIENT_DONE);
    wait_line(file, held, line);
    assert_string_equal(line, "gone\n");
    rig_submit(&r, "again");
    rig_wait_stage(&r, "again", DIT, 10);
    wait_line(file, held, line);
    pid_t inhibitor = (pid_t)atoi(line);
    kill(r.pid, SIGKILL); /* and it holds nothing for a launcher that is gone */
    rig_wait_exit(&r, 5);
    assert_true(wait_dead(inhibitor, 1));
    fclose(file);
    rig_launch(&r, 0);
    fault_open(&r);
    end(&r);
}

static void plant(const char *instance)
{
    char path[128];
    snprintf(path, sizeof path, "/dev/shm/lx2v.%s.1.0", instance);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool is_planted(const char *instance)
{
    char path[128];
    snprintf(path, sizeof path, "/dev/shm/lx2v.%s.1.0", instance);
    return access(path, F_OK) == 0;
}

/* Names of the instance that died here go; those of another one, which may be alive, stay. */
static void test_r03_names_of_a_dead_instance_are_swept(void **state)
{
    (void)state;
    static const char foreign[] = "00112233445566778899aabbccddeeff";
    char path[128];
    rig r;
    fault_start(&r, NULL, NULL);
    char own[33];
    memcpy(own, r.instance, sizeof own);
    kill(r.pid, SIGKILL);
    rig_wait_exit(&r, 5);
    plant(own);
    plant(foreign);
    rig_launch(&r, 0);
    fault_open(&r);
    assert_false(is_planted(own));
    assert_true(is_planted(foreign));
    snprintf(path, sizeof path, "/dev/shm/lx2v.%s.1.0", foreign);
    unlink(path);
    end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p06_stages_leave_without_the_kernels_word),
        cmocka_unit_test(test_p08_stopped_stage_is_replaced),
        cmocka_unit_test(test_p09_hung_unit_is_found_behind_a_beating_heart),
        cmocka_unit_test(test_p09_first_unit_hangs_after_a_rest),
        cmocka_unit_test(test_p10_crash_loop_is_parked),
        cmocka_unit_test(test_p11_exit_2_is_parked_at_once),
        cmocka_unit_test(test_p12_poison_job_is_buried),
        cmocka_unit_test(test_p13_orphan_is_named_and_refused),
        cmocka_unit_test(test_p14_stop_while_a_stage_hangs),
        cmocka_unit_test(test_r03_names_of_a_dead_instance_are_swept),
        cmocka_unit_test(test_release_gives_memory_back_until_resume),
        cmocka_unit_test(test_release_is_one_word_of_pause),
        cmocka_unit_test(test_inhibitor_is_held_while_there_is_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
