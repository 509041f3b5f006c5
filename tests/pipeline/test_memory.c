/*
 * test_memory.c - flat from the second clip on, over prompts of every length and mixed sizes
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#define N_CLIPS 24
/* Of any process. Not asked under sanitizers, which keep what is freed. */
#define LEAK_MAX (1u << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

static uint64_t rss_of(pid_t pid)
{
    char path[64];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*u %llu", &pages), 1);
    fclose(file);
    return pages * 4096;
}

static void make_clip(rig *r, int i)
{
    static const int32_t size[][3] = {{192, 128, 13}, {64, 64, 5}, {128, 64, 9}, {64, 128, 1}};
    static char prompt[4096];
    char id[16];
    /* 1 to over 1,000 words: also beyond what the model reads. */
    int n_words = 1 << (i * 10 / (N_CLIPS - 1));
    prompt[0] = 0;
    for (int k = 0; k < n_words; k++)
        strcat(prompt, k % 3 ? "a " : "be ");
    snprintf(id, sizeof id, "clip%d", i);
    lx_client_request request = rig_request(id);
    lx_client_accepted accepted;
    lx_err err = {0};
    request.prompt = prompt;
    request.width = size[i % 4][0];
    request.height = size[i % 4][1];
    request.frames = size[i % 4][2];
    if (lx_client_submit(r->client, &request, &accepted, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(rig_wait(r, id, 60), LX_CLIENT_DONE);
}

static void test_memory_is_flat(void **state)
{
    (void)state;
    rig r;
    if (IS_SANITIZED)
        skip();
    /* A cache of two prompts is full after the second clip; all else was taken at start. */
    rig_start(&r, (rig_options){.config = "limits: {size: 192x128, frames: 13}\n"
                                          "encoder: {cache_entries: 2}\n"});
    uint64_t after_second[5] = {0};
    for (int i = 0; i < N_CLIPS; i++) {
        make_clip(&r, i);
        for (int stage = ENCODER; stage <= MUX + 1; stage++) {
            pid_t pid = stage <= MUX ? rig_stage_pid(&r, stage) : r.pid;
            uint64_t rss = rss_of(pid);
            if (i < 2)
                after_second[stage] = rss;
            else if (rss > after_second[stage] + LEAK_MAX)
                fail_msg("%s grew from %.2f to %.2f MiB by clip %d",
                         stage <= MUX ? lx_client_stage_name(stage) : "launcher",
                         (double)after_second[stage] / 0x1p20, (double)rss / 0x1p20, i + 1);
        }
    }
    rig_stop(&r, 0);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory_is_flat)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
