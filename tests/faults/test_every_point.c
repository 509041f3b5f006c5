/*
 * test_every_point.c - each fault point, at its first visit, its second, ... until nothing is left
 * to go wrong
 * SPDX-License-Identifier: Apache-2.0
 *
 * Without more said, each call that can fail fails once, at its first visit under a job and at
 * start. $LX2V_EVERY_POINT (nth.sh):
 *   all   at every visit under a job, deaths included; at start at growing distances
 *   each  at every visit at start, too: half an hour
 * A point that this table does not know fails the test. Each time: the right status, nothing
 * leaked, and the next job is made, with the same bits.
 *
 * The ledger of visits is a file that the programs share, so the next visit of a running process is
 * given whatever number the rule waits for.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"

#define AT         1000000000ull /* the visit that rules wait for */
#define DEATHS_MAX 3             /* of one stage under one launcher: the fifth parks it */
#define CONFIG     "encoder: {cache_entries: 0}\n"
#define PROGRAMS   5

static const char *const programs[PROGRAMS] = {"launch", "encoder", "dit", "vae", "mux"};

enum {
    JOB = 1,       /* visited under a job */
    START = 2,     /* visited before all is ready */
    FAILS = 4,     /* the job may fail, with words */
    DIES = 8,      /* its process may end, and the job is tried again */
    IS_DEATH = 16, /* no call that fails: a moment to die in */
    APART = 32     /* has a test of its own */
};

static const struct {
    const char *point, *action;
    int what;
} points[] = {
    {"arena.create", "ENOMEM", START},
    {"arena.alloc", "ENOMEM", JOB | START | FAILS},
    {"dit.step", "nan", JOB | START | FAILS},
    {"share.open", "ENOSPC", START},
    {"share.borrow", "EMFILE", JOB | START},
    {"share.publish", "EIO", JOB | FAILS | DIES},
    {"spool.write", "ENOSPC", JOB},
    {"spool.read", "EIO", APART},
    {"stage.given", "kill", JOB | DIES | IS_DEATH},
    {"stage.compute", "kill", JOB | DIES | IS_DEATH},
    {"stage.lent", "kill", JOB | DIES | IS_DEATH},
    {"stage.borrowed", "kill", JOB | DIES | IS_DEATH},
    {"stage.released", "kill", JOB | DIES | IS_DEATH},
    {"stage.load", "kill", START | IS_DEATH},
    {"stage.orphan", "EIO", START | IS_DEATH}, /* that is: of the launcher, and it is not told */
    {"stage.deathsig", "EIO", START | IS_DEATH},
    {"stage.stop", "kill", APART},
    {"mux.write", "ENOSPC", JOB | START | FAILS},
    {"mux.sync", "EIO", JOB | FAILS},
    {"mux.rename", "EIO", JOB | FAILS},
    {"mux.renamed", "kill", JOB | DIES | IS_DEATH},
    {"journal.allocate", "ENOSPC", APART}, /* test_promises.c: by the first job alone */
    {"journal.write", "EIO", JOB | START | DIES},
    {"journal.sync", "EIO", JOB | DIES},
    {"journal.synced", "kill", JOB | DIES | IS_DEATH},
    {"journal.replace", "EIO", START},
    {"journal.replaced", "EIO", START},
    {"spawn.fork", "EAGAIN", START},
};
#define POINTS (sizeof points / sizeof *points)

typedef struct loop {
    rig r;
    char rules[2048];
    lx_fault_count *lines; /* the ledger, shared with all programs */
    leak_ledger clean;
    uint64_t hash; /* of an undisturbed clip */
    int n_jobs, n_deaths, n_fired;
} loop;

static bool wants_all(void)
{
    return getenv("LX2V_EVERY_POINT") != NULL;
}

/* --- the ledger ------------------------------------------------------------------------------- */

static void map_ledger(loop *l)
{
    char path[128];
    snprintf(path, sizeof path, "%s/faults", l->r.root);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, LX_FAULT_NAMES * sizeof *l->lines), 0);
    void *at =
        mmap(NULL, LX_FAULT_NAMES * sizeof *l->lines, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(at != MAP_FAILED);
    close(fd);
    l->lines = at;
}

static void unmap_ledger(loop *l)
{
    munmap(l->lines, LX_FAULT_NAMES * sizeof *l->lines);
}

/* NULL: it was never visited. */
static lx_fault_count *line_of(const loop *l, const char *name)
{
    for (int i = 0; i < LX_FAULT_NAMES && l->lines[i].name[0]; i++)
        if (!strcmp(l->lines[i].name, name))
            return &l->lines[i];
    return NULL;
}

/* The n-th visit from now on will be the one. */
static void arm_next(lx_fault_count *line, uint64_t n)
{
    atomic_store(&line->fired, 0);
    atomic_store(&line->visits, AT - n);
}

/* One that was not reached must not be met later. */
static bool disarm(lx_fault_count *line)
{
    atomic_store(&line->visits, 0);
    return atomic_load(&line->fired) > 0;
}

static void know_all_points(const loop *l)
{
    for (int i = 0; i < LX_FAULT_NAMES && l->lines[i].name[0]; i++) {
        const char *point = strchr(l->lines[i].name, '/') + 1;
        bool is_known = false;
        for (size_t k = 0; k < POINTS; k++)
            is_known = is_known || !strcmp(points[k].point, point);
        if (!is_known)
            fail_msg("%s is visited, and has no line in this test's table", l->lines[i].name);
    }
}

/* --- under a job ------------------------------------------------------------------------------ */

static void open_short(rig *r)
{
    lx_err err = {0};
    lx_client_close(&r->client);
    if (lx_client_open(&r->client, r->endpoint, 1.0 * RIG_SLACK, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static void make_clean(loop *l)
{
    char id[16], file[32];
    rig_wait_ready(&l->r, 60);
    snprintf(id, sizeof id, "c%d", l->n_jobs++);
    snprintf(file, sizeof file, "%s.mp4", id);
    rig_submit(&l->r, id);
    lx_client_state end = rig_wait(&l->r, id, 60);
    if (end != LX_CLIENT_DONE || rig_job(&l->r, id).retries)
        fail_msg("the next job is %s after %d retries: %s", lx_client_state_name(end),
                 (int)rig_job(&l->r, id).retries, rig_job(&l->r, id).error);
    uint64_t hash = rig_hash(&l->r, file);
    if (!l->hash)
        l->hash = hash;
    assert_true(hash == l->hash);
}

static void launch(loop *l)
{
    rig_launch(&l->r, 0);
    open_short(&l->r);
    make_clean(l);
    rig_sleep(0.1); /* tests of links go on behind "ready" */
    l->clean = leak_count(&l->r);
    l->n_deaths = 0;
}

static void stop(loop *l)
{
    lx_client_close(&l->r.client);
    rig_stop(&l->r, SIGTERM);
}

/* -1: it lives. */
static int exit_of(rig *r)
{
    int status;
    if (waitpid(r->pid, &status, WNOHANG) != r->pid)
        return -1;
    r->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void keep_job(void *self, const lx_client_job *job)
{
    *(lx_client_job *)self = *job;
}

/* Submit until it is heard of: a launcher that ended is started again, and the same id settles
 * whether it had accepted it. Then wait. Returns how it ended. */
static lx_client_job drive(loop *l, const char *id, bool *launcher_died)
{
    rig *r = &l->r;
    lx_client_job job = {0};
    lx_client_sink sink = {.job = keep_job, .self = &job};
    bool is_heard = false;
    for (double until = rig_now_s() + 60 * RIG_SLACK; rig_now_s() < until; rig_sleep(0.004)) {
        lx_err err = {0};
        lx_client_accepted accepted;
        lx_client_request request = rig_request(id);
        int code = exit_of(r);
        if (code >= 0) {
            if (code != 1 && code != 128 + SIGKILL)
                fail_msg("the launcher ended with code %d", code);
            *launcher_died = true;
            is_heard = false;
            rig_launch(r, 0);
            open_short(r);
        }
        lx_status status = is_heard ? lx_client_query(r->client, id, &sink, NULL, &err)
                                    : lx_client_submit(r->client, &request, &accepted, &err);
        if (!is_heard && status == LX_EAGAIN)
            fail_msg("refused: %s", err.message);
        is_heard = is_heard || status == LX_OK;
        if (job.state > LX_CLIENT_RUNNING)
            return job;
    }
    fail_msg("%s has no end", id);
    return job;
}

static void judge(loop *l, const lx_client_job *job, const char *name, int n, int what)
{
    char file[64];
    snprintf(file, sizeof file, "%s.mp4", job->id);
    if (job->state == LX_CLIENT_DONE)
        assert_true(rig_hash(&l->r, file) == l->hash);
    else if (job->state != LX_CLIENT_FAILED || !(what & FAILS) || !job->error[0])
        fail_msg("%s visit %d: the job is %s: \"%s\"", name, n, lx_client_state_name(job->state),
                 job->error);
    else if (rig_has_file(&l->r, file))
        fail_msg("%s visit %d: the job failed, and left a file", name, n);
}

static int count_deaths(rig *r)
{
    int n = 0;
    for (int stage = ENCODER; stage <= MUX; stage++)
        n += (int)rig_stage(r, stage).restarts;
    return n;
}

/* False: the point was not reached; everything before it has had its turn. */
static bool hit(loop *l, lx_fault_count *line, int n, int what)
{
    char id[16], name[48];
    bool launcher_died = false;
    snprintf(name, sizeof name, "%s", line->name);
    snprintf(id, sizeof id, "h%d", l->n_jobs++);
    rig_wait_ready(&l->r, 60);
    arm_next(line, (uint64_t)n);
    lx_client_job job = drive(l, id, &launcher_died);
    rig_wait_ready(&l->r, 60);
    bool has_fired = disarm(line);
    int n_deaths = count_deaths(&l->r);
    judge(l, &job, name, n, has_fired ? what : 0);
    if (has_fired && (launcher_died || n_deaths > l->n_deaths) && !(what & DIES))
        fail_msg("%s visit %d: a process ended for it", name, n);
    l->n_fired += has_fired;
    l->n_deaths = n_deaths;
    make_clean(l);
    if (launcher_died)
        l->clean = leak_count(&l->r);
    leak_check(&l->r, &l->clean);
    return has_fired;
}

static void add_rule(loop *l, const char *program, size_t i)
{
    size_t n = strlen(l->rules);
    snprintf(l->rules + n, sizeof l->rules - n, "%s%s/%s:%llu:%s", n ? "," : "", program,
             points[i].point, AT, points[i].action);
    assert_true(strlen(l->rules) < sizeof l->rules - 64);
}

static void hit_under_jobs(loop *l, const char *program)
{
    for (size_t i = 0; i < POINTS; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s/%s", program, points[i].point);
        lx_fault_count *line = line_of(l, name);
        if (!line || !(points[i].what & JOB) || (points[i].what & IS_DEATH && !wants_all()))
            continue;
        int n = 1;
        while (hit(l, line, n, points[i].what) && wants_all()) {
            n++;
            if (l->n_deaths < DEATHS_MAX)
                continue;
            stop(l);
            launch(l);
        }
        if (wants_all())
            printf("%s: %d visits under a job\n", name, n - 1);
        fflush(stdout);
    }
}

static void test_points_under_a_job(void **state)
{
    (void)state;
    NEEDS_POINTS();
    int n_fired = 0;
    for (int k = 0; k < PROGRAMS; k++) {
        loop l = {0};
        rig_make(&l.r, CONFIG);
        for (size_t i = 0; i < POINTS; i++)
            add_rule(&l, programs[k], i);
        fault_arm(&l.r, l.rules);
        map_ledger(&l);
        launch(&l);
        know_all_points(&l);
        hit_under_jobs(&l, programs[k]);
        stop(&l);
        n_fired += l.n_fired;
        unmap_ledger(&l);
        rig_remove(&l.r);
    }
    printf("%d faults under jobs\n", n_fired);
    assert_true(n_fired >= 12);
}

/* --- at start --------------------------------------------------------------------------------- */

/* Start, and see: ready (it healed, or nothing was hit), or an end with words. */
static bool becomes_ready(loop *l, int *code)
{
    char path[96], line[256] = "";
    rig *r = &l->r;
    snprintf(path, sizeof path, "%s/said", r->root);
    unlink(path);
    fflush(NULL);
    r->pid = fork();
    if (r->pid == 0) {
        dup2(open(path, O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
        dup2(open(r->log, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
        execl(LX2V_BIN_DIR "/lx2v-launch", "lx2v-launch", r->config, (char *)NULL);
        _exit(127);
    }
    for (double until = rig_now_s() + 60 * RIG_SLACK; rig_now_s() < until; rig_sleep(0.01)) {
        FILE *file = fopen(path, "r");
        bool is_ready = file && fgets(line, sizeof line, file) && strchr(line, '\n');
        if (file)
            fclose(file);
        *code = is_ready ? 0 : exit_of(r);
        if (is_ready || *code >= 0)
            return is_ready;
    }
    fail_msg("neither ready nor ended");
    return false;
}

/* Somebody must be told why. */
static void expect_words(const rig *r, const char *name, int n, int code)
{
    char line[2048];
    bool is_said = false;
    FILE *file = fopen(r->log, "r");
    while (file && fgets(line, sizeof line, file))
        is_said = is_said || !strncmp(line, "E launch[", 9);
    if (file)
        fclose(file);
    if ((code != 1 && code != 2) || !is_said)
        fail_msg("%s visit %d at start: exit code %d, %s", name, n, code,
                 is_said ? "with a reason" : "without a reason");
}

static int next_n(int n)
{
    const char *how = getenv("LX2V_EVERY_POINT");
    return how && !strcmp(how, "each") ? n + 1 : n + 1 + n / 4;
}

static void hit_at_start(loop *l, const char *program, size_t i)
{
    char rule[96], name[48];
    int code = 0, n = 1, n_ready = 0;
    bool has_fired = true;
    snprintf(name, sizeof name, "%s/%s", program, points[i].point);
    for (; has_fired; n = next_n(n)) {
        snprintf(rule, sizeof rule, "%s:%d:%s", name, n, points[i].action);
        fault_arm(&l->r, rule);
        bool is_ready = becomes_ready(l, &code);
        has_fired = fault_seen(&l->r, name).fired > 0;
        n_ready += is_ready && has_fired;
        l->n_fired += has_fired;
        if (!is_ready)
            expect_words(&l->r, name, n, code);
        else
            rig_stop(&l->r, SIGTERM);
        rig_check_ledger(&l->r);
        if (!wants_all())
            break;
    }
    if (wants_all())
        printf("%s: before visit %d all had their turn; %d times ready all the same\n", name, n,
               n_ready);
    fflush(stdout);
}

static void test_points_at_start(void **state)
{
    (void)state;
    NEEDS_POINTS();
    loop l = {0};
    int code;
    rig_make(&l.r, CONFIG);
    fault_arm(&l.r, NULL);
    assert_true(becomes_ready(&l, &code)); /* what there is to hit */
    rig_stop(&l.r, SIGTERM);
    fault_visits seen[PROGRAMS][POINTS];
    for (int k = 0; k < PROGRAMS; k++)
        for (size_t i = 0; i < POINTS; i++) {
            char name[48];
            snprintf(name, sizeof name, "%s/%s", programs[k], points[i].point);
            seen[k][i] = fault_seen(&l.r, name);
        }
    for (int k = 0; k < PROGRAMS; k++)
        for (size_t i = 0; i < POINTS; i++) {
            /* In short: the launcher's, and memory of the DiT. Deaths: test_supervision.c */
            bool is_shown = k == 0 || (k == 2 && !strcmp(points[i].action, "ENOMEM")) ||
                            (k == 2 && !strcmp(points[i].point, "share.open"));
            if (seen[k][i].visits && points[i].what & START && (is_shown || wants_all()))
                hit_at_start(&l, programs[k], i);
        }
    printf("%d faults at start\n", l.n_fired);
    assert_true(l.n_fired >= 6);
    fault_arm(&l.r, NULL);
    launch(&l);
    stop(&l);
    rig_remove(&l.r);
}

/* --- apart ------------------------------------------------------------------------------------ */

/* Saved, and it cannot be read again: it is made again. */
static void test_saved_latent_that_cannot_be_read(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/spool.read:1:EIO,vae/stage.given:1:sleep=20000", CONFIG);
    rig_submit(&r, "again");
    for (double until = rig_now_s() + 20 * RIG_SLACK; !fault_seen(&r, "vae/stage.given").fired;
         rig_sleep(0.01))
        assert_true(rig_now_s() < until);
    rig_sleep(0.1 * RIG_SLACK); /* the DiT's last words */
    kill(r.pid, SIGKILL);
    rig_wait_exit(&r, 5);
    rig_launch(&r, 0);
    fault_open(&r);
    assert_int_equal(rig_wait(&r, "again", 60), LX_CLIENT_DONE);
    assert_int_equal(fault_seen(&r, "dit/spool.read").fired, 1);
    assert_int_equal(rig_job(&r, "again").retries, 1);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* Each dies while it is being stopped: that is an end in order all the same. */
static void test_deaths_while_stopping(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "stage.stop:1+:kill", NULL);
    rig_stop(&r, SIGTERM); /* exit code 0, and nothing is left */
    assert_int_equal(fault_seen(&r, "mux/stage.stop").fired, 1);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points_under_a_job),
        cmocka_unit_test(test_points_at_start),
        cmocka_unit_test(test_saved_latent_that_cannot_be_read),
        cmocka_unit_test(test_deaths_while_stopping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
