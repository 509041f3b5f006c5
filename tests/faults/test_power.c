/*
 * test_power.c - all is gone at once, and the disk has only what was synced
 * SPDX-License-Identifier: Apache-2.0
 *
 * power_cut.c stands between the programs and their syncs and keeps what a disk must have kept;
 * after the death of every process, folders are made to have that and nothing else.
 */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"

#define N_JOBS 3
#define CONFIG "encoder: {cache_entries: 0}\nstate: {dir: state, journal: lasting/journal}\n"

static const char *const ids[N_JOBS] = {"a", "b", "c"};

static void give_shim(rig *r, const char *name, const char *program)
{
    char text[1024];
    snprintf(text, sizeof text,
             "export LD_PRELOAD=" LX2V_POWER_CUT "\nexport LX2V_TEST_POWER=%s\n"
             "export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0\nexec %s \"$@\"\n",
             r->root, program);
    fault_script(r, name, text);
}

static void make_rig(rig *r, int slow_ms)
{
    char from[160], to[160], program[256];
    rig_make(r, NULL);
    FILE *file = fopen(r->config, "w");
    fprintf(file, "model: %s\noutput: {dir: out}\n" CONFIG, LX2V_BUILD_DIR "/models/random");
    fprintf(file, "defaults: {size: 128x64, frames: 9}\nmux: {preset: ultrafast}\n");
    fclose(file);
    fault_programs(r);
    snprintf(from, sizeof from, "%s/lx2v-launch", r->bin);
    snprintf(to, sizeof to, "%s/launcher", r->bin);
    assert_int_equal(rename(from, to), 0);
    give_shim(r, "lx2v-launch", to);
    for (int stage = DIT; stage <= MUX; stage += MUX - DIT) { /* they write */
        snprintf(to, sizeof to, "lx2v-%s", lx_client_stage_name(stage));
        snprintf(program, sizeof program, "%s/%s", LX2V_BIN_DIR, to);
        give_shim(r, to, program);
    }
    snprintf(to, sizeof to, "%s/power", r->root);
    assert_int_equal(mkdir(to, 0700), 0);
    fault_arm(r, NULL);
    rig_launch(r, slow_ms);
    fault_open(r);
}

/* --- the cut ---------------------------------------------------------------------------------- */

static void empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        unlinkat(dirfd(dir), e->d_name, 0); /* folders stay */
    if (dir)
        closedir(dir);
}

static void copy_file(const char *from, const char *to)
{
    char command[1024];
    if (access(from, F_OK)) { /* a name without a byte */
        close(open(to, O_WRONLY | O_CREAT | O_EXCL, 0600));
        return;
    }
    snprintf(command, sizeof command, "cp %s %s", from, to);
    assert_int_equal(system(command), 0);
}

/* As the disk has it: the names at the last sync of the folder, each file's bytes at its own. */
static void remake_folder(const rig *r, const char *path)
{
    char list[160], name[128], from[200], to[320];
    unsigned long inode;
    struct stat st;
    if (stat(path, &st))
        return;
    snprintf(list, sizeof list, "%s/power/names-%lu", r->root, (unsigned long)st.st_ino);
    empty_folder(path);
    FILE *names = fopen(list, "r");
    while (names && fscanf(names, "%lu %127s", &inode, name) == 2) {
        snprintf(from, sizeof from, "%s/power/file-%lu", r->root, inode);
        snprintf(to, sizeof to, "%s/%s", path, name);
        copy_file(from, to);
    }
    if (names)
        fclose(names);
}

/* Was this folder's name in its parent's synced? Its parent's list has only files, so the parent
 * must have been synced after it was made: that it was at all is what is looked for. */
static bool is_lasting(const rig *r, const char *parent)
{
    char list[160];
    struct stat st;
    assert_int_equal(stat(parent, &st), 0);
    snprintf(list, sizeof list, "%s/power/names-%lu", r->root, (unsigned long)st.st_ino);
    return access(list, F_OK) == 0;
}

static void cut_power(rig *r)
{
    char path[128];
    kill(r->pid, SIGKILL);
    rig_wait_exit(r, 5);
    rig_sleep(0.1 * RIG_SLACK); /* the kernel ends the stages */
    snprintf(path, sizeof path, "%s/lasting", r->root);
    assert_true(is_lasting(r, r->root) && is_lasting(r, path));
    snprintf(path, sizeof path, "%s/lasting/journal", r->root);
    remake_folder(r, path);
    snprintf(path, sizeof path, "%s/lasting/journal/spool", r->root);
    remake_folder(r, path);
    remake_folder(r, r->output);
    empty_folder(r->state); /* that is in memory, as a rule */
}

/* --- what was promised ------------------------------------------------------------------------ */

static void keep_promises(rig *r, int n_told, bool *was_done)
{
    char file[32];
    rig_launch(r, 0);
    fault_open(r);
    for (int i = 0; i < N_JOBS; i++) {
        snprintf(file, sizeof file, "%s.mp4", ids[i]);
        if (was_done[i]) /* and whole: compared below */
            assert_true(rig_job(r, ids[i]).state == LX_CLIENT_DONE && rig_has_file(r, file));
        lx_err err = {0};
        lx_client_accepted accepted;
        lx_client_request request = rig_request(ids[i]);
        if (lx_client_submit(r->client, &request, &accepted, &err) != LX_OK)
            fail_msg("%s: %s", ids[i], err.message);
        if (i < n_told)
            assert_false(accepted.is_new);
        assert_int_equal(rig_wait(r, ids[i], 60), LX_CLIENT_DONE);
    }
    uint64_t hash = rig_hash(r, "a.mp4");
    assert_true(rig_hash(r, "b.mp4") == hash && rig_hash(r, "c.mp4") == hash);
    assert_int_equal(rig_count_files(r), N_JOBS);
    rig_stop(r, SIGTERM);
    rig_remove(r);
}

static void note_done(rig *r, int n, bool was_done[N_JOBS])
{
    for (int i = 0; i < n; i++)
        was_done[i] = rig_job(r, ids[i]).state == LX_CLIENT_DONE;
}

/* The moment after "accepted" was heard. */
static void test_d07_power_cut_after_an_answer(void **state)
{
    (void)state;
    rig r;
    bool was_done[N_JOBS] = {false};
    make_rig(&r, 0);
    rig_submit(&r, ids[0]);
    rig_submit(&r, ids[1]);
    cut_power(&r);
    keep_promises(&r, 2, was_done);
}

/* The moment after "done" was heard, while the next is made. */
static void test_d07_power_cut_after_an_end(void **state)
{
    (void)state;
    rig r;
    bool was_done[N_JOBS] = {false};
    make_rig(&r, 0);
    rig_submit(&r, ids[0]);
    rig_submit(&r, ids[1]);
    assert_int_equal(rig_wait(&r, ids[0], 60), LX_CLIENT_DONE);
    note_done(&r, 2, was_done);
    cut_power(&r);
    keep_promises(&r, 2, was_done);
}

/* With a latent in the spool, before it, or later. */
static void test_d07_power_cut_at_any_time(void **state)
{
    (void)state;
    rig r;
    bool was_done[N_JOBS] = {false};
    make_rig(&r, 2);
    for (int i = 0; i < N_JOBS; i++)
        rig_submit(&r, ids[i]);
    double after_s = fmod(rig_now_s(), 0.3); /* another one in each run */
    printf("cut %.3f s after the last submit\n", after_s);
    rig_sleep(after_s * RIG_SLACK);
    note_done(&r, N_JOBS, was_done);
    cut_power(&r);
    keep_promises(&r, N_JOBS, was_done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_d07_power_cut_after_an_answer),
        cmocka_unit_test(test_d07_power_cut_after_an_end),
        cmocka_unit_test(test_d07_power_cut_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
