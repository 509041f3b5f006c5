/*
 * test_clip.c - a prompt becomes an mp4 through four real processes
 * SPDX-License-Identifier: Apache-2.0
 */
#include <jansson.h>
#include <sys/stat.h>

#include "rig.h"

static rig shared;

static int set_up(void **state)
{
    *state = &shared;
    rig_start(&shared,
              (rig_options){.slow_ms = 15, .config = "limits: {size: 192x128, frames: 13}\n"});
    return 0;
}

static int tear_down(void **state)
{
    rig_remove(*state);
    return 0;
}

static void test_clip_arrives(void **state)
{
    rig *r = *state;
    rig_submit(r, "first");
    assert_int_equal(rig_wait(r, "first", 60), LX_CLIENT_DONE);
    lx_client_job job = rig_job(r, "first");
    assert_string_equal(job.output, "first.mp4");
    assert_true(rig_has_file(r, "first.mp4"));
    assert_int_equal(rig_count_files(r), 1);
    assert_int_equal(job.seed, 42);
    assert_int_equal(job.retries, 0);
    assert_true(job.n_tokens > 1 && job.n_dropped == 0);
    assert_true(job.file_bytes > 500);
    double before = job.submit_s;
    for (int stage = ENCODER; stage <= MUX; stage++) {
        assert_int_equal(job.stage[stage].replica, 0);
        assert_true(job.stage[stage].start_s >= before);
        assert_true(job.stage[stage].end_s >= job.stage[stage].start_s);
        assert_true(job.stage[stage].peak_bytes > 1 << 20);
        if (stage < VAE)
            before = job.stage[stage].end_s;
    }
    /* Chunks stream: mux began before the VAE had ended. */
    assert_true(job.stage[MUX].start_s < job.stage[VAE].end_s);
    assert_true(job.end_s >= job.stage[MUX].end_s);
}

/* Same job, same build, same machine: same bytes, whatever else runs. */
static void test_clip_is_the_same_again(void **state)
{
    rig *r = *state;
    const char *ids[] = {"same-a", "same-b"};
    rig_submit(r, ids[0]);
    rig_submit(r, ids[1]);
    rig_all_done(r, ids, 2, 60);
    assert_true(rig_hash(r, "same-a.mp4") == rig_hash(r, "same-b.mp4"));
    lx_client_request other = rig_request("other-seed");
    lx_client_accepted accepted;
    other.seed = 43;
    assert_int_equal(lx_client_submit(r->client, &other, &accepted, NULL), LX_OK);
    assert_int_equal(rig_wait(r, "other-seed", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(r, "other-seed.mp4") != rig_hash(r, "same-a.mp4"));
}

static bool overlap(const lx_client_job *a, int sa, const lx_client_job *b, int sb)
{
    return a->stage[sa].start_s < b->stage[sb].end_s && b->stage[sb].start_s < a->stage[sa].end_s;
}

static void test_clip_overlaps_the_next(void **state)
{
    rig *r = *state;
    const char *ids[] = {"lap-a", "lap-b", "lap-c"};
    for (int i = 0; i < 3; i++) {
        lx_client_request request = rig_request(ids[i]);
        lx_client_accepted accepted;
        char prompt[32];
        snprintf(prompt, sizeof prompt, "prompt number %d", i); /* none from the cache */
        request.prompt = prompt;
        assert_int_equal(lx_client_submit(r->client, &request, &accepted, NULL), LX_OK);
        assert_int_equal(accepted.ahead, i);
    }
    rig_all_done(r, ids, 3, 60);
    lx_client_job job[3];
    for (int i = 0; i < 3; i++)
        job[i] = rig_job(r, ids[i]);
    bool encodes_ahead = false, denoises_ahead = false;
    for (int i = 0; i < 2; i++) {
        encodes_ahead = encodes_ahead || overlap(&job[i], DIT, &job[i + 1], ENCODER);
        denoises_ahead = denoises_ahead || overlap(&job[i], VAE, &job[i + 1], DIT) ||
                         overlap(&job[i], MUX, &job[i + 1], DIT);
    }
    assert_true(encodes_ahead);
    assert_true(denoises_ahead);
}

static void test_clip_sizes_are_mixed(void **state)
{
    rig *r = *state;
    const struct {
        const char *id;
        int32_t width, height, frames;
    } clips[] = {{"mix-a", 192, 128, 13}, {"mix-b", 64, 64, 1}, {"mix-c", 96, 128, 5}};
    for (int i = 0; i < 3; i++) {
        lx_client_request request = rig_request(clips[i].id);
        lx_client_accepted accepted;
        request.width = clips[i].width;
        request.height = clips[i].height;
        request.frames = clips[i].frames;
        assert_int_equal(lx_client_submit(r->client, &request, &accepted, NULL), LX_OK);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rig_wait(r, clips[i].id, 60), LX_CLIENT_DONE);
        assert_int_equal(rig_job(r, clips[i].id).frames, clips[i].frames);
    }
}

static void test_clip_by_the_command_line(void **state)
{
    rig *r = *state;
    static char text[65536];
    char copy[128];
    struct stat st;
    snprintf(copy, sizeof copy, "%s/copy.mp4", r->root);
    int code = rig_run(text, sizeof text,
                       "lx2v submit \"a blue ball\" --id cli --frames 5 --seed 7 --wait -o %s "
                       "--endpoint %s 2>&1",
                       copy, r->endpoint);
    if (code != 0)
        fail_msg("exit code %d: %s", code, text);
    assert_int_equal(stat(copy, &st), 0);
    assert_true(st.st_size > 500);
    assert_int_equal(rig_run(text, sizeof text, "lx2v status --json --endpoint %s", r->endpoint),
                     0);
    json_error_t error;
    json_t *root = json_loads(text, 0, &error);
    if (!root)
        fail_msg("%s in: %s", error.text, text);
    bool is_found = false;
    size_t i;
    json_t *job;
    json_array_foreach(json_object_get(root, "jobs"), i, job)
    {
        if (strcmp(json_string_value(json_object_get(job, "id")), "cli"))
            continue;
        is_found = true;
        assert_string_equal(json_string_value(json_object_get(job, "state")), "done");
        assert_int_equal(json_integer_value(json_object_get(job, "seed")), 7);
        assert_int_equal(json_array_size(json_object_get(job, "stages")), 4);
    }
    assert_true(is_found);
    json_decref(root);
}

static void test_clip_refused_is_refused(void **state)
{
    rig *r = *state;
    lx_client_accepted accepted;
    lx_err err = {0};
    lx_client_request request = rig_request("too-large");
    request.width = 256;
    request.height = 128;
    assert_int_equal(lx_client_submit(r->client, &request, &accepted, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "192x128"));
    request = rig_request("taken");
    request.output = "first.mp4";
    assert_int_equal(lx_client_submit(r->client, &request, &accepted, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "exists"));
}

static void test_clip_launcher_stops_clean(void **state)
{
    rig_stop(*state, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clip_arrives),
        cmocka_unit_test(test_clip_is_the_same_again),
        cmocka_unit_test(test_clip_overlaps_the_next),
        cmocka_unit_test(test_clip_sizes_are_mixed),
        cmocka_unit_test(test_clip_by_the_command_line),
        cmocka_unit_test(test_clip_refused_is_refused),
        cmocka_unit_test(test_clip_launcher_stops_clean),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
