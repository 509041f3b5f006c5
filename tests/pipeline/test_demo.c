/*
 * test_demo.c - the demo model's clips show what their prompts say, through the real processes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Twelve held-out prompts (models/demo/judge/ci.jsonl) with fixed seeds, int8 weights; lx2v_judge
 * looks at the mp4s. What is wrong in text encoding, denoising, decoding or colour, and leaves
 * numbers that look plausible, shows here.
 */
#include <jansson.h>
#include <unistd.h>

#include "rig.h"

#define MODEL  LX2V_BUILD_DIR "/models/demo"
#define TRUTHS LX2V_SOURCE_DIR "/models/demo/judge/ci.jsonl"
#define JUDGE  "../tests/lx2v_judge" /* from the folder of programs */

#define N_CLIPS 12
#define SEED    2000 /* and the numbers behind it */
#define CLIP_S  12.0 /* one clip on two cores, from submitting it to the file */
/* With these seeds 100, 100, 100, 92 and 92 % are right: one clip more may be wrong. Each of the
 * four faults that MODEL_CARD.md tells of is on the wrong side of a bar. Flicker is 0.37 to 0.41
 * with any seeds, 0.57 and more with wrong sigmas. */
#define ENOUGH   "color=0.91,background=0.91,motion=0.91,shape=0.83,all=0.83"
#define FLICKER  "0.48"
#define CLIP_FPS 16

typedef struct demo {
    rig rig;
    bool is_there;
    char prompt[N_CLIPS][512];
} demo;

static demo shared;

/* --- what is asked for ------------------------------------------------------------------------ */

static void read_prompts(demo *d)
{
    char line[4096];
    int n = 0;
    FILE *file = fopen(TRUTHS, "r");
    if (!file)
        fail_msg("%s is missing", TRUTHS);
    while (n < N_CLIPS && fgets(line, sizeof line, file)) {
        json_t *truth = json_loads(line, 0, NULL);
        const char *prompt = json_string_value(json_object_get(truth, "prompt"));
        assert_non_null(prompt);
        snprintf(d->prompt[n++], sizeof d->prompt[0], "%s", prompt);
        json_decref(truth);
    }
    fclose(file);
    assert_int_equal(n, N_CLIPS);
}

/* The rig's folders, the demo model, and clips as they are made by config.yaml. */
static void write_config(const rig *r)
{
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file,
            "model: %s\noutput: {dir: out}\nstate: {dir: state}\n"
            "defaults: {size: 128x128, frames: 33, fps: %d}\n"
            "limits: {size: 128x128, frames: 33}\n",
            MODEL, CLIP_FPS);
    fclose(file);
}

static int set_up(void **state)
{
    lx_err err = {0};
    *state = &shared;
    shared.is_there = access(MODEL "/made", F_OK) == 0;
    if (!shared.is_there)
        return 0;
    read_prompts(&shared);
    rig_make(&shared.rig, NULL);
    write_config(&shared.rig);
    rig_launch(&shared.rig, 0);
    if (lx_client_open(&shared.rig.client, shared.rig.endpoint, 10, &err) != LX_OK)
        fail_msg("%s", err.message);
    return 0;
}

static int tear_down(void **state)
{
    demo *d = *state;
    if (d->is_there)
        rig_remove(&d->rig);
    return 0;
}

static demo *need(void **state)
{
    demo *d = *state;
    if (!d->is_there) {
        print_message("skipped: models/demo held no trained weights when this was built\n");
        skip();
    }
    return d;
}

static void submit(demo *d, const char *id, const char *prompt, int64_t seed)
{
    lx_err err = {0};
    lx_client_accepted accepted;
    const lx_client_request request = {.id = id, .prompt = prompt, .seed = seed};
    if (lx_client_submit(d->rig.client, &request, &accepted, &err) != LX_OK)
        fail_msg("submit %s: %s", id, err.message);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_demo_clips_show_their_prompts(void **state)
{
    demo *d = need(state);
    char ids[N_CLIPS][16];
    static char said[65536];
    for (int i = 0; i < N_CLIPS; i++) {
        snprintf(ids[i], sizeof ids[i], "demo-%02d", i); /* the judge takes them by name */
        submit(d, ids[i], d->prompt[i], SEED + i);
    }
    for (int i = 0; i < N_CLIPS; i++)
        assert_int_equal(rig_wait(&d->rig, ids[i], 60 * RIG_SLACK), LX_CLIENT_DONE);
    int code =
        rig_run(said, sizeof said, JUDGE " --expect %s --at-least %s --flicker %s --wrong %s 2>&1",
                TRUTHS, ENOUGH, FLICKER, d->rig.output);
    fputs(said, stdout); /* more than cmocka prints of one message */
    fflush(stdout);
    if (code != 0)
        fail_msg("lx2v_judge: exit code %d; asked for were %s", code, ENOUGH);
}

/* The prompt leaves place, size and phase open: the seed decides, and nothing else. */
static void test_demo_seed_decides(void **state)
{
    demo *d = need(state);
    const char *ids[] = {"seed-a", "seed-b", "seed-c"};
    submit(d, ids[0], d->prompt[0], 7);
    submit(d, ids[1], d->prompt[0], 7);
    submit(d, ids[2], d->prompt[0], 8);
    rig_all_done(&d->rig, ids, 3, 60 * RIG_SLACK);
    assert_true(rig_hash(&d->rig, "seed-a.mp4") == rig_hash(&d->rig, "seed-b.mp4"));
    assert_true(rig_hash(&d->rig, "seed-a.mp4") != rig_hash(&d->rig, "seed-c.mp4"));
}

static void test_demo_clip_is_quick(void **state)
{
    demo *d = need(state);
    double start_s = rig_now_s();
    submit(d, "quick", "a red ball rolls to the left over green grass", 1);
    assert_int_equal(rig_wait(&d->rig, "quick", 60 * RIG_SLACK), LX_CLIENT_DONE);
    double s = rig_now_s() - start_s;
    print_message("%.2f s from submitting to the clip\n", s);
    if (s > CLIP_S * RIG_SLACK)
        fail_msg("%.1f s for one clip, %.0f are allowed", s, CLIP_S * RIG_SLACK);
}

static void test_demo_launcher_stops_clean(void **state)
{
    rig_stop(&need(state)->rig, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_clips_show_their_prompts),
        cmocka_unit_test(test_demo_seed_decides),
        cmocka_unit_test(test_demo_clip_is_quick),
        cmocka_unit_test(test_demo_launcher_stops_clean),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
