/*
 * test_reload.c - config.yaml is changed under a running service
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <unistd.h>

#include "fault.h"

/* The rig's file without its last lines, and these in their place. */
static void write_config(const rig *r, const char *defaults, const char *rest)
{
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file, "model: %s\noutput: {dir: out}\nstate: {dir: state}\n",
            LX2V_BUILD_DIR "/models/random");
    fprintf(file, "%s\nmux: {preset: ultrafast}\n%s", defaults, rest);
    fclose(file);
}

static const char usual[] = "defaults: {size: 128x64, frames: 9}";

/* SIGHUP, and the line of the log that answers it. From a terminal it would end the launcher. */
static const char *reload(const rig *r)
{
    static char line[4096];
    FILE *file = fopen(r->log, "r");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    kill(r->pid, SIGHUP);
    for (double until = rig_now_s() + 5 * RIG_SLACK; rig_now_s() < until; rig_sleep(0.005)) {
        clearerr(file);
        if (fgets(line, sizeof line, file) && strstr(line, "config read again")) {
            fclose(file);
            return line;
        }
    }
    fail_msg("nobody says that the config was read again");
    return NULL;
}

static void start(rig *r, const char *config)
{
    int null = open("/dev/null", O_RDONLY), in = dup(STDIN_FILENO);
    dup2(null, STDIN_FILENO);
    fault_start(r, NULL, config);
    dup2(in, STDIN_FILENO);
    close(in);
    close(null);
}

static void assert_says(const char *line, const char *words)
{
    if (!strstr(line, words))
        fail_msg("\"%s\" does not say \"%s\"", line, words);
}

static void make_clip(rig *r, const char *id, int width, int frames)
{
    rig_submit(r, id);
    assert_int_equal(rig_wait(r, id, 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(r, id).width, width);
    assert_int_equal(rig_job(r, id).frames, frames);
}

/* What is wrong is named, and the service goes on as it was: also a stage that starts again, which
 * must not read the file that nobody accepted. */
static void test_o03_bad_config_changes_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *defaults, *rest, *words;
    } bad[] = {
        {usual, "limits: {queue: many}\n", "config.yaml:6: limits.queue"},
        {usual, "\nlog_lvel: debug\n", "config.yaml:7: log_lvel: unknown key"},
        {"defaults: {size: 64x64, frames: 10}", "", "config.yaml:4: defaults.frames"},
        {usual, "vae: {chunk: [\n", "config.yaml:"},
        /* right as a file, but memory was planned for less */
        {"defaults: {size: 256x128, frames: 9}", "", "defaults.size: 256x128 is larger than"},
        {usual, "supervision: {beat_s: 0.1, hang_s: 1.5}\n",
         "supervision.hang_s: 1.5 is not above"},
    };
    rig r;
    start(&r, NULL);
    make_clip(&r, "before", 128, 9);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_config(&r, bad[i].defaults, bad[i].rest);
        const char *line = reload(&r);
        assert_says(line, "refused; nothing has changed");
        assert_says(line, bad[i].words);
    }
    write_config(&r, "defaults: {size: wrong}", "");
    kill(rig_stage_pid(&r, DIT), SIGKILL);
    make_clip(&r, "after", 128, 9);
    assert_int_equal(rig_stage(&r, DIT).restarts, 1);
    assert_true(rig_hash(&r, "before.mp4") == rig_hash(&r, "after.mp4"));
    unlink(r.config);
    assert_says(reload(&r), "cannot be read");
    make_clip(&r, "without", 128, 9);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* What the launcher alone follows counts for the next job, and jobs under way keep what they were
 * accepted with; the rest is named. No stage is disturbed. */
static void test_o03_good_config_counts_where_it_can(void **state)
{
    (void)state;
    static const char limits[] = "limits: {size: 128x64, frames: 9, per_client: 1}\n";
    lx_err err = {0};
    lx_client_accepted accepted;
    rig r;
    pid_t pid[4];
    start(&r, "limits: {size: 128x64, frames: 9}\n");
    leak_ledger before = leak_count(&r);
    for (int stage = ENCODER; stage <= MUX; stage++)
        pid[stage] = rig_stage_pid(&r, stage);
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_PAUSE, NULL, 0, &err), LX_OK);
    rig_submit(&r, "accepted");
    write_config(&r, "defaults: {size: 64x64, frames: 5}", limits);
    const char *line = reload(&r);
    assert_says(line, "changed=defaults.size,defaults.frames,limits.per_client ");
    assert_says(line, "needs_restart=-\n");
    lx_client_request request = rig_request("second");
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_EAGAIN);
    assert_says(err.message, "limits.per_client");
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_RESUME, NULL, 0, &err), LX_OK);
    assert_int_equal(rig_wait(&r, "accepted", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(&r, "accepted").width, 128);
    make_clip(&r, "smaller", 64, 5);
    /* Words for what has to wait, and the rest counts. */
    write_config(&r, usual,
                 "limits: {size: 256x64, frames: 9, per_client: 1}\nlinks: {depth: 3}\n"
                 "log_level: debug\nsupervision: {stop_s: 4}\n");
    line = reload(&r);
    assert_says(line, "changed=defaults.size,defaults.frames,supervision.stop_s,log_level ");
    assert_says(line, "needs_restart=links.depth,limits.size\n");
    make_clip(&r, "usual", 128, 9);
    assert_says(reload(&r), "needs_restart=links.depth,limits.size\n"); /* still */
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage_pid(&r, stage), pid[stage]);
    leak_check(&r, &before);
    rig_stop(&r, SIGTERM);
    rig_launch(&r, 0); /* now all of it */
    fault_open(&r);
    request = rig_request("large");
    request.width = 256;
    request.height = 64;
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_OK);
    assert_int_equal(rig_wait(&r, "large", 60), LX_CLIENT_DONE);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_o03_bad_config_changes_nothing),
        cmocka_unit_test(test_o03_good_config_counts_where_it_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
