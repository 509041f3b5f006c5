/*
 * test_logs.c - nobody reads the log, or there is none
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"

#define CONFIG "encoder: {cache_entries: 0}\nlog_level: debug\n"

static void make_clips(rig *r, const char *const *ids, int n)
{
    for (int i = 0; i < n; i++)
        rig_submit(r, ids[i]);
    rig_all_done(r, ids, n, 60);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(r, stage).restarts, 0);
}

/* The log goes into a pipe that holds one page. */
static int start_into_pipe(rig *r)
{
    rig_make(r, CONFIG);
    assert_int_equal(mkfifo(r->log, 0600), 0);
    int reader = open(r->log, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    assert_true(fcntl(reader, F_SETPIPE_SZ, 4096) > 0);
    fault_arm(r, NULL);
    rig_launch(r, 0);
    fault_open(r);
    return reader;
}

/* What lies in the pipe; text is cut. Lines must be whole. */
static size_t drain(int reader, char *text, size_t room)
{
    size_t n = 0;
    for (ssize_t got; n < room - 1 && (got = read(reader, text + n, room - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end || !strchr("EWID", *line) || line[1] != ' ')
            fail_msg("no whole line: \"%.80s\"", line);
    }
    return n;
}

/* rig_stop looks into the log for what sanitizers say. */
static void end_with_plain_log(rig *r)
{
    unlink(r->log);
    FILE *file = fopen(r->log, "w");
    fclose(file);
    rig_stop(r, SIGTERM);
    rig_remove(r);
}

static void test_o04_blocked_log_blocks_nobody(void **state)
{
    (void)state;
    static char text[65536];
    static const char *const first[] = {"a", "b", "c"}, *const second[] = {"d", "e"};
    unsigned long n_dropped = 0;
    rig r;
    int reader = start_into_pipe(&r);
    double from_s = rig_now_s();
    make_clips(&r, first, 3);
    assert_true(rig_now_s() - from_s < 10 * RIG_SLACK);
    assert_true(drain(reader, text, sizeof text) > 2048); /* it was full */
    /* Somebody reads again, and is told what is missing. */
    for (int i = 0; i < 2; i++) {
        rig_submit(&r, second[i]);
        while (rig_job(&r, second[i]).state <= LX_CLIENT_RUNNING) {
            drain(reader, text, sizeof text);
            const char *told = strstr(text, "launch[");
            told = told ? strstr(told, "lines_dropped=") : NULL;
            if (told)
                sscanf(told, "lines_dropped=%lu", &n_dropped);
            rig_sleep(0.002);
        }
    }
    printf("lines that were dropped, as the log says: %lu or more\n", n_dropped);
    assert_true(n_dropped > 0);
    assert_int_equal(rig_count_files(&r), 5);
    close(reader);
    end_with_plain_log(&r);
}

static void test_o04_closed_log_ends_nobody(void **state)
{
    (void)state;
    static const char *const ids[] = {"a", "b"};
    rig r;
    int reader = start_into_pipe(&r);
    close(reader); /* from now on a write there is EPIPE, or a signal */
    make_clips(&r, ids, 2);
    kill(rig_stage_pid(&r, DIT), SIGKILL); /* the next one is born without a log */
    rig_sleep(0.1);
    rig_wait_ready(&r, 60);
    rig_submit(&r, "again");
    assert_int_equal(rig_wait(&r, "again", 60), LX_CLIENT_DONE);
    end_with_plain_log(&r);
}

/* No stderr and no stdin at all: the next file that is opened would be there. */
static void test_o04_no_log_at_all(void **state)
{
    (void)state;
    static char text[4096];
    static const char *const ids[] = {"a", "b"};
    char path[64], target[64] = "", script[256];
    rig r;
    rig_make(&r, CONFIG);
    fault_programs(&r);
    snprintf(script, sizeof script, "exec %s/lx2v-launch \"$@\" 0<&- 2>&-\n", LX2V_BIN_DIR);
    fault_script(&r, "lx2v-launch", script);
    fault_arm(&r, NULL);
    rig_launch(&r, 0);
    fault_open(&r);
    make_clips(&r, ids, 2);
    for (int fd = 0; fd <= 2; fd += 2) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)r.pid, fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = 0;
        assert_string_equal(target, "/dev/null");
    }
    rig_stop(&r, SIGTERM);
    assert_int_equal(rig_run(text, sizeof text, "lx2v journal check --config %s 2>&1", r.config),
                     0);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_o04_blocked_log_blocks_nobody),
        cmocka_unit_test(test_o04_closed_log_ends_nobody),
        cmocka_unit_test(test_o04_no_log_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
