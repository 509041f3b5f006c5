/*
 * test_pressure.c - a stage that is slower than all before it; memory of the host that runs out
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "lx_share_slot.h"

/* --- a slow consumer -------------------------------------------------------------------------- */

#define DEPTH  2 /* links.depth, as it is when the config does not say */
#define N_JOBS 7
#define GROWTH (4u << 20) /* bytes of a process between its second clip and its last */

/* Tensors that the process of this epoch has lent at this moment. */
static int count_lent(const rig *r, int epoch)
{
    char prefix[64], path[300];
    int n = 0, len = snprintf(prefix, sizeof prefix, "lx2v.%s.%d.", r->instance, epoch);
    DIR *dir = opendir("/dev/shm");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        share_header header = {0};
        if (strncmp(e->d_name, prefix, (size_t)len))
            continue;
        snprintf(path, sizeof path, "/dev/shm/%s", e->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        n += fd >= 0 && read(fd, &header, sizeof header) == sizeof header && header.serial;
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
    return n;
}

typedef struct pressure {
    int most_contexts, most_latents, most_frames; /* lent at once */
    int most_ahead; /* clips that the DiT had begun before mux ended */
} pressure;

static void look(rig *r, pressure *p)
{
    int contexts = count_lent(r, 1), latents = count_lent(r, 2), frames = count_lent(r, 3);
    p->most_contexts = contexts > p->most_contexts ? contexts : p->most_contexts;
    p->most_latents = latents > p->most_latents ? latents : p->most_latents;
    p->most_frames = frames > p->most_frames ? frames : p->most_frames;
}

static void wait_and_look(rig *r, const char *const *ids, pressure *p)
{
    double until = rig_now_s() + 60;
    for (int n_done = 0; n_done < N_JOBS && rig_now_s() < until; rig_sleep(0.003)) {
        int n_begun = n_done = 0;
        for (int i = 0; i < N_JOBS; i++) {
            lx_client_job job = rig_job(r, ids[i]);
            n_begun += job.stage[DIT].start_s >= 0;
            n_done += job.state > LX_CLIENT_RUNNING;
            look(r, p);
        }
        p->most_ahead = n_begun - n_done > p->most_ahead ? n_begun - n_done : p->most_ahead;
    }
}

static uint64_t rss_of(rig *r, int stage)
{
    long pages = 0;
    char path[64];
    pid_t pid = stage < 0 ? r->pid : rig_stage_pid(r, stage);
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d %ld", &pages), 1);
    fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Mux takes its time over each frame. All before it wait, none makes more than is asked for, and
 * nobody takes their waiting for a hang: hang_s is shorter than what some wait. */
static void test_r04_slow_mux_is_waited_for(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const ids[N_JOBS] = {"a", "b", "c", "d", "e", "f", "g"};
    rig r;
    pressure p = {0};
    uint64_t before[5];
    fault_start(&r, "mux/stage.compute:1+:sleep=40",
                "encoder: {cache_entries: 0}\nsupervision: {beat_s: 0.2, hang_s: 1}\n");
    rig_submit(&r, "first");
    assert_int_equal(rig_wait(&r, "first", 60), LX_CLIENT_DONE);
    rig_submit(&r, "second");
    assert_int_equal(rig_wait(&r, "second", 60), LX_CLIENT_DONE);
    for (int stage = -1; stage <= MUX; stage++)
        before[stage + 1] = rss_of(&r, stage);
    leak_ledger ledger = leak_count(&r);
    for (int i = 0; i < N_JOBS; i++)
        rig_submit(&r, ids[i]);
    wait_and_look(&r, ids, &p);
    rig_all_done(&r, ids, N_JOBS, 60);
    double dit_s = rig_job(&r, ids[N_JOBS - 1]).stage[DIT].start_s;
    double mux_s = rig_job(&r, ids[N_JOBS - 4]).stage[MUX].start_s;
    printf("lent at once: contexts %d, latents %d, frames %d; clips between DiT and end: %d\n",
           p.most_contexts, p.most_latents, p.most_frames, p.most_ahead);
    assert_true(p.most_contexts <= DEPTH && p.most_latents <= DEPTH && p.most_frames <= DEPTH);
    assert_int_equal(p.most_frames, DEPTH); /* it was slow enough to be waited for */
    /* One in mux, one in the VAE, those that wait for it, and one that the DiT may begin. */
    assert_true(p.most_ahead <= DEPTH + 3);
    assert_true(dit_s > mux_s); /* the last waited until the clips before it had moved on */
    for (int stage = -1; stage <= MUX && RIG_SLACK == 1;
         stage++) /* a sanitizer keeps what was freed */
        if (rss_of(&r, stage) > before[stage + 1] + GROWTH)
            fail_msg("%s grew from %.1f to %.1f MiB",
                     stage < 0 ? "the launcher" : lx_client_stage_name(stage),
                     (double)before[stage + 1] / 0x1p20, (double)rss_of(&r, stage) / 0x1p20);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0);
    leak_check(&r, &ledger);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* --- the host's memory ------------------------------------------------------------------------ */

static int read_number(pid_t pid, const char *name)
{
    int number = -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &number), 1);
    fclose(file);
    return number;
}

static bool set_own_score(int score)
{
    FILE *file = fopen("/proc/self/oom_score_adj", "w");
    if (!file)
        return false;
    fprintf(file, "%d", score);
    return fclose(file) == 0;
}

/* Whom would the kernel kill? Its own figure says, and that one is killed as the kernel does it. */
static void spare_the_launcher(int launchers_score)
{
    rig r;
    int before = read_number(getpid(), "oom_score_adj"), most = -1, victim = -1;
    assert_true(set_own_score(launchers_score)); /* inherited */
    fault_start(&r, NULL, NULL);
    set_own_score(before);
    assert_int_equal(read_number(r.pid, "oom_score_adj"), launchers_score);
    for (int stage = ENCODER; stage <= MUX; stage++) {
        pid_t pid = rig_stage_pid(&r, stage);
        assert_int_equal(read_number(pid, "oom_score_adj"),
                         launchers_score + 500 < 1000 ? launchers_score + 500 : 1000);
        assert_true(read_number(pid, "oom_score") > read_number(r.pid, "oom_score"));
        if (read_number(pid, "oom_score") > most) {
            most = read_number(pid, "oom_score");
            victim = stage;
        }
    }
    rig_submit(&r, "hit");
    kill(rig_stage_pid(&r, victim), SIGKILL);
    assert_int_equal(rig_wait(&r, "hit", 60), LX_CLIENT_DONE);
    rig_wait_ready(&r, 60);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_r05_kernel_would_kill_a_stage_first(void **state)
{
    (void)state;
    spare_the_launcher(0);
    spare_the_launcher(600); /* such as a service manager may set */
}

static bool write_file(const char *folder, const char *name, long long number)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (!file)
        return false;
    fprintf(file, "%lld", number);
    return fclose(file) == 0;
}

static long long read_file(const char *folder, const char *name)
{
    char path[300];
    long long number = -1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lld", &number) != 1)
        number = -1;
    if (file)
        fclose(file);
    return number;
}

/* The kernel does it itself, in a memory cgroup of which $LX2V_TEST_CGROUP is the parent: a folder
 * below /sys/fs/cgroup in which this user may make others. */
static void test_r05_kernel_kills_a_stage(void **state)
{
    (void)state;
    const char *parent = getenv("LX2V_TEST_CGROUP");
    char folder[256];
    rig r;
    snprintf(folder, sizeof folder, "%s/lx2v-%d", parent ? parent : "", (int)getpid());
    if (!parent || mkdir(folder, 0755)) {
        printf("skipped: no memory cgroup to try it in (LX2V_TEST_CGROUP names its parent)\n");
        skip();
    }
    bool is_v2 = read_file(folder, "memory.current") >= 0;
    const char *used = is_v2 ? "memory.current" : "memory.usage_in_bytes";
    const char *limit = is_v2 ? "memory.max" : "memory.limit_in_bytes";
    fault_start(&r, NULL, NULL);
    assert_true(write_file(folder, "cgroup.procs", r.pid));
    pid_t pid = rig_stage_pid(&r, VAE); /* from now on it is born there */
    long long launcher_bytes = read_file(folder, used);
    kill(pid, SIGKILL);
    for (double until = rig_now_s() + 20; rig_stage_pid(&r, VAE) == pid && rig_now_s() < until;)
        rig_sleep(0.02);
    rig_wait_ready(&r, 60);
    /* Too little for it to start once more. */
    assert_true(write_file(folder, limit, (launcher_bytes + read_file(folder, used)) / 2 + 1));
    kill(rig_stage_pid(&r, VAE), SIGKILL);
    for (double until = rig_now_s() + 20; rig_stage(&r, VAE).restarts < 3; rig_sleep(0.02))
        assert_true(rig_now_s() < until);
    assert_true(kill(r.pid, 0) == 0); /* and it answers */
    assert_true(write_file(folder, limit, is_v2 ? 1LL << 40 : -1));
    rig_wait_ready(&r, 60);
    rig_submit(&r, "after");
    assert_int_equal(rig_wait(&r, "after", 60), LX_CLIENT_DONE);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_r04_slow_mux_is_waited_for),
        cmocka_unit_test(test_r05_kernel_would_kill_a_stage_first),
        cmocka_unit_test(test_r05_kernel_kills_a_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
