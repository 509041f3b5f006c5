/*
 * test_life.c - starting, refusing to start, being killed, leaving
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sys/stat.h>

#include "rig.h"

static void test_second_launcher_is_refused(void **state)
{
    (void)state;
    static char text[8192];
    rig r;
    rig_start(&r, (rig_options){0});
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    char pid[32];
    snprintf(pid, sizeof pid, "pid %d", (int)r.pid);
    assert_non_null(strstr(text, pid));
    rig_submit(&r, "undisturbed");
    assert_int_equal(rig_wait(&r, "undisturbed", 60), LX_CLIENT_DONE);
    struct stat st;
    assert_int_equal(stat(r.state, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    char path[128];
    snprintf(path, sizeof path, "%s/clients.sock", r.state);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0); /* nobody else may connect */
    double asked_s = rig_now_s();
    rig_stop(&r, SIGINT);
    assert_true(rig_now_s() - asked_s < 2 * RIG_SLACK); /* idle */
    rig_remove(&r);
}

/* A zombie that nobody has reaped yet is dead: it has no command line. */
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

static void test_killed_launcher_takes_all_with_it(void **state)
{
    (void)state;
    rig r;
    pid_t pid[4];
    rig_start(&r, (rig_options){.slow_ms = 50});
    rig_submit(&r, "lost");
    rig_wait_stage(&r, "lost", DIT, 30);
    for (int stage = ENCODER; stage <= MUX; stage++)
        pid[stage] = rig_stage_pid(&r, stage);
    kill(r.pid, SIGKILL);
    assert_int_equal(rig_wait_exit(&r, 5), 128 + SIGKILL);
    double killed_s = rig_now_s();
    bool is_any = true;
    while (is_any && rig_now_s() - killed_s < 5 * RIG_SLACK) {
        is_any = false;
        for (int stage = ENCODER; stage <= MUX; stage++)
            is_any = is_any || is_alive(pid[stage]);
        rig_sleep(0.01);
    }
    assert_true(rig_now_s() - killed_s < 1 * RIG_SLACK);
    /* The next one finds sockets, names and the part file of the dead one, and sweeps them. */
    char old[33];
    memcpy(old, r.instance, sizeof old);
    lx_client_close(&r.client);
    rig_launch(&r, 0);
    assert_string_not_equal(r.instance, old);
    lx_err err = {0};
    assert_int_equal(lx_client_open(&r.client, r.endpoint, 10, &err), LX_OK);
    rig_submit(&r, "found");
    assert_int_equal(rig_wait(&r, "found", 60), LX_CLIENT_DONE);
    rig_stop(&r, SIGTERM);
    memcpy(r.instance, old, sizeof old);
    rig_check_ledger(&r);
    rig_remove(&r);
}

static void test_check_says_what_is_wrong(void **state)
{
    (void)state;
    static char text[8192];
    rig r;
    rig_make(&r, NULL);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s --check 2>/dev/null", r.config), 0);
    assert_string_equal(text, "ok\n");
    FILE *file = fopen(r.config, "a");
    fputs("sampelr: euler\n", file);
    fclose(file);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s --check 2>&1", r.config), 2);
    assert_non_null(strstr(text, "sampelr"));
    file = fopen(r.config, "w");
    fputs("model: nowhere\n", file);
    fclose(file);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_non_null(strstr(text, "nowhere"));
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch --chekc 2>&1"), 2);
    assert_non_null(strstr(text, "--check"));
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch --version"), 0);
    assert_non_null(strstr(text, "lx2v-launch "));
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s --version", r.config), 0);
    assert_non_null(strstr(text, "lx2v-launch "));
    rig_remove(&r);
}

static void put_text(const char *folder, const char *name, const char *text, char path[128])
{
    snprintf(path, 128, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void configure_vae(const rig *r, const char *path)
{
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file, "model: {dir: %s, vae: %s}\noutput: {dir: out}\nstate: {dir: state}\n",
            LX2V_BUILD_DIR "/models/random", path);
    fputs("defaults: {size: 128x64, frames: 9}\n", file);
    fclose(file);
}

/* By their headers alone: no checkpoint, a pointer, another model in the place of the VAE. */
static void test_check_judges_the_model_files(void **state)
{
    (void)state;
    static char text[16384];
    static const char golden[] = LX2V_SOURCE_DIR "/tests/golden/models_t5_umt5-xxl-enc-int8.pth";
    char path[2][128];
    rig r;
    rig_make(&r, NULL);
    put_text(r.root, "a.pth", "this is no checkpoint\n", path[0]);
    put_text(r.root, "b.pth",
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 351000000\n",
             path[1]);
    const char *const vae[] = {path[0], path[1], golden};
    for (int i = 0; i < 3; i++) {
        configure_vae(&r, vae[i]);
        assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s --check 2>&1", r.config), 2);
        assert_non_null(strstr(text, "model.vae"));
        assert_non_null(strstr(text, vae[i]));
    }
    rig_remove(&r);
}

/* A stage that can never start, for a reason that no header shows: a VAE whose bytes are not those
 * of its manifest. The launcher gives up at once and says why; a job that was accepted before waits
 * till the config is mended. */
static void test_hopeless_stage_ends_the_launcher(void **state)
{
    (void)state;
    static char text[16384];
    char path[128], manifest[128], kept[128];
    lx_err err = {0};
    rig r;
    rig_start(&r, (rig_options){.slow_ms = 50});
    rig_submit(&r, "patient");
    rig_wait_stage(&r, "patient", DIT, 30);
    kill(r.pid, SIGKILL);
    assert_int_equal(rig_wait_exit(&r, 5), 128 + SIGKILL);
    lx_client_close(&r.client);
    snprintf(kept, sizeof kept, "%s/kept.yaml", r.root);
    assert_int_equal(rename(r.config, kept), 0);
    put_text(r.root, "manifest.sha256",
             "0000000000000000000000000000000000000000000000000000000000000000  vae.pth\n",
             manifest);
    snprintf(path, sizeof path, "%s/vae.pth", r.root);
    assert_int_equal(symlink(LX2V_SOURCE_DIR "/tests/golden/Wan2.1_VAE.pth", path), 0);
    configure_vae(&r, path);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s --check 2>&1", r.config), 0);
    double started_s = rig_now_s();
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_true(rig_now_s() - started_s < 30);
    assert_non_null(strstr(text, path));
    assert_null(strstr(text, "ready endpoint"));
    assert_int_equal(rename(kept, r.config), 0);
    rig_launch(&r, 0);
    assert_int_equal(lx_client_open(&r.client, r.endpoint, 10, &err), LX_OK);
    assert_int_equal(rig_wait(&r, "patient", 60), LX_CLIENT_DONE);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* A chunk of its frames is 128 bytes above a multiple of those that arenas round up to. */
static void test_odd_size_starts(void **state)
{
    (void)state;
    rig r;
    rig_start(&r, (rig_options){.config = "limits: {size: 720x720, frames: 9}\nvae: {chunk: 3}\n"});
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_launcher_is_refused),
        cmocka_unit_test(test_killed_launcher_takes_all_with_it),
        cmocka_unit_test(test_check_says_what_is_wrong),
        cmocka_unit_test(test_check_judges_the_model_files),
        cmocka_unit_test(test_hopeless_stage_ends_the_launcher),
        cmocka_unit_test(test_odd_size_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
