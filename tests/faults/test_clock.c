/*
 * test_clock.c - somebody sets the clock
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock_shift.h"
#include "fault.h"

#define HOUR 3600
/* Every time that is waited for, as short as it may be: one that follows the wrong clock shows. */
#define CONFIG                                                                                     \
    "encoder: {cache_entries: 0}\n"                                                                \
    "supervision: {beat_s: 0.4, hang_s: 1.5, stop_s: 5}\n"

static clock_shift *make_clock(const rig *r, char path[128])
{
    snprintf(path, 128, "%s/clock", r->root);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, sizeof(clock_shift)), 0);
    void *at = mmap(NULL, sizeof(clock_shift), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(at != MAP_FAILED);
    close(fd);
    return at;
}

/* Stages get a small environment of the launcher: theirs is set by a script in their place. */
static void give_clock(rig *r, const char *path)
{
    char text[1024], name[32];
    setenv("LX2V_TEST_CLOCK", path, 1);
    for (int stage = ENCODER; stage <= MUX; stage++) {
        snprintf(name, sizeof name, "lx2v-%s", lx_client_stage_name(stage));
        snprintf(text, sizeof text,
                 "export LD_PRELOAD=" LX2V_CLOCK_SHIFT "\n"
                 "export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0\n"
                 "exec " LX2V_BIN_DIR "/%s \"$@\"\n",
                 name);
        fault_script(r, name, text);
    }
    snprintf(text, sizeof text,
             "export LD_PRELOAD=" LX2V_CLOCK_SHIFT "\n"
             "export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0\n"
             "exec %s/launcher \"$@\"\n",
             r->bin);
    char from[160], to[160];
    snprintf(from, sizeof from, "%s/lx2v-launch", r->bin);
    snprintf(to, sizeof to, "%s/launcher", r->bin);
    assert_int_equal(rename(from, to), 0);
    fault_script(r, "lx2v-launch", text);
}

static void assert_undisturbed(rig *r, const char *const *ids, int n)
{
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(r, stage).restarts, 0);
    for (int i = 0; i < n; i++) {
        assert_int_equal(rig_job(r, ids[i]).state, LX_CLIENT_DONE);
        assert_int_equal(rig_job(r, ids[i]).retries, 0);
    }
}

/* An hour on and an hour back while a clip is made, and while nothing is. */
static void test_o01_clock_set_fires_no_timeout(void **state)
{
    (void)state;
    static const char *const ids[] = {"on", "back", "behind", "right", "later"};
    static const long seconds[] = {HOUR, 0, -HOUR, 0};
    char path[128];
    rig r;
    rig_make(&r, CONFIG);
    fault_programs(&r);
    clock_shift *clock = make_clock(&r, path);
    give_clock(&r, path);
    fault_arm(&r, NULL);
    rig_launch(&r, 10);
    fault_open(&r);
    for (int i = 0; i < 4; i++) {
        rig_submit(&r, ids[i]);
        fault_wait_running(&r, ids[i]);
        atomic_store(&clock->seconds, seconds[i]);
        assert_int_equal(rig_wait(&r, ids[i], 60), LX_CLIENT_DONE);
        assert_true(rig_job(&r, ids[i]).end_s - rig_job(&r, ids[i]).submit_s < 60);
        if (seconds[i]) {
            rig_sleep(1.3);                                       /* three beats */
            assert_true(atomic_exchange(&clock->n_asked, 0) > 0); /* it was another time */
        }
    }
    assert_undisturbed(&r, ids, 4);
    rig_stop(&r, SIGTERM);
    /* The next start is an hour before what stands in the journal. */
    atomic_store(&clock->seconds, -HOUR);
    rig_launch(&r, 0);
    fault_open(&r);
    rig_submit(&r, ids[4]);
    assert_int_equal(rig_wait(&r, ids[4], 60), LX_CLIENT_DONE);
    assert_undisturbed(&r, ids, 5);
    assert_int_equal(rig_count_files(&r), 5);
    unsetenv("LX2V_TEST_CLOCK");
    munmap(clock, sizeof *clock);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_o01_clock_set_fires_no_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
