/*
 * test_plan.c - full-size models planned on machines that are not here
 * SPDX-License-Identifier: Apache-2.0
 *
 * The 14B in int8 and bf16 with UMT5-XXL and the VAE, from headers alone (lx2v-mkmodel --sparse),
 * on every file of deploy/rigs. Totals are held to what is promised of the cards.
 */
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "plan.h"

#define GIB(x) ((uint64_t)((x)*0x1p30))
#define BIN    LX2V_BIN_DIR

static char folder[64];
static rig machine;
static lx_config config;
static plan *planned;

/* --- a world ---------------------------------------------------------------------------------- */

static void make_model(const char *name, const char *dit, const char *t5)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    pid_t pid = fork();
    if (pid == 0) {
        execl(BIN "/lx2v-mkmodel", "lx2v-mkmodel", path, "--preset", "14b", "--sparse", "--dit",
              dit, "--t5", t5, "--quiet", (char *)NULL);
        _exit(127);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/lx2v-plan-XXXXXX");
    assert_non_null(mkdtemp(folder));
    make_model("distill-int8", "int8", "int8");
    make_model("distill-mixed", "bf16", "int8");
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A config as a file, because the stages read it too. */
static void read_config(const char *model, const char *text)
{
    char path[128];
    lx_err err = {0};
    snprintf(path, sizeof path, "%s/config.yaml", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "model: %s/%s\n%s", folder, model, text);
    fclose(file);
    chmod(path, 0600);
    if (lx_config_load(&config, path, &err) != LX_OK)
        fail_msg("%s\n%s", text, err.message);
}

static void make(const char *rig_text)
{
    lx_err err = {0};
    plan_destroy(&planned);
    if (rig_parse(&machine, rig_text, &err) != LX_OK)
        fail_msg("%s", err.message);
    const plan_request request = {.config = &config, .rig = &machine, .binary_dir = BIN};
    if (plan_make(&planned, &request, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static const lx_plan_need *need_of(lx_stage_kind kind)
{
    const plan_process *q = plan_of(planned, kind, 0);
    assert_non_null(q);
    return &q->need;
}

static void assert_fits(const char *what)
{
    if (planned->fits)
        return;
    plan_print(planned, stderr);
    fail_msg("%s does not fit", what);
}

/* Sums are sums, and nobody has more than the card. */
static void check_sums(void)
{
    for (int c = 0; c < machine.cards.n; c++) {
        uint64_t sum = 0, contexts = 0, largest = 0, told = 0;
        if (planned->card[c].n == 0)
            continue;
        for (int i = 0; i < planned->n; i++) {
            const lx_plan_need *n = &planned->process[i].need;
            if (planned->process[i].card != c)
                continue;
            assert_true(n->device == n->weights + n->slots + n->activations + n->context);
            assert_true(planned->process[i].vram >= n->device);
            told += planned->process[i].vram;
            sum += n->device;
            contexts += n->context;
            largest = n->device - n->context > largest ? n->device - n->context : largest;
        }
        bool in_turn = planned->card[c].policy == LX_POLICY_ALTERNATE;
        assert_true(planned->card[c].total == (in_turn ? contexts + largest : sum));
        if (!planned->fits)
            continue;
        assert_true(planned->card[c].total <= planned->card[c].budget);
        assert_true(in_turn || told <= planned->card[c].budget);
    }
}

#define ALL_ON_0                                                                                   \
    "stages: {encoder: {device: \"cuda:0\"}, dit: {device: \"cuda:0\"}, vae: {device: "            \
    "\"cuda:0\"}}\n"

/* --- the bars of single processes ------------------------------------------------------------- */

/* What the smallest way that is offered by name takes: all blocks streamed. */
static uint64_t streamed(void)
{
    const lx_plan_need *n = need_of(LX_STAGE_DIT);
    for (int i = 0; i < n->n_choices; i++)
        if (strstr(n->choice[i].what, "host: 40 blocks streamed"))
            return n->choice[i].device;
    if (strstr(n->how, "host: 40 blocks streamed"))
        return n->device;
    fail_msg("streaming is not offered");
    return 0;
}

static void test_plan_bars_of_each_process(void **state)
{
    (void)state;
    const struct {
        const char *model, *size;
        double dit;
    } row[] = {{"distill-int8", "832x480", 4.75},
               {"distill-int8", "1280x720", 7.25},
               {"distill-mixed", "832x480", 6.0}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char text[512];
        snprintf(text, sizeof text, ALL_ON_0 "limits: {size: %s, frames: 81}\n", row[i].size);
        read_config(row[i].model, text);
        make("h100,ram=128GiB");
        assert_fits(row[i].size);
        check_sums();
        assert_true(streamed() <= GIB(row[i].dit));
        make("rtx3060,display,ram=64GiB"); /* there the VAE has its usual share, no more */
        assert_fits(row[i].size);
        assert_true(need_of(LX_STAGE_VAE)->device <= GIB(2.75));
        assert_true(need_of(LX_STAGE_ENCODER)->device <= GIB(1.5));
    }
}

#define DIT_ALONE(more)                                                                            \
    "stages: {encoder: {device: cpu}, vae: {device: cpu}, dit: {device: \"cuda:0\"" more "}}\n"

/* The DiT's other way of this name; NULL: it is not offered. */
static const lx_plan_choice *other_way(const char *what)
{
    const lx_plan_need *n = need_of(LX_STAGE_DIT);
    for (int i = 0; i < n->n_choices; i++)
        if (strcmp(n->choice[i].what, what) == 0)
            return &n->choice[i];
    return NULL;
}

/* A block more or less is one block, although the larger chunks that are told with it would hold
 * more; and a way that costs no less is not told as one. */
static void test_plan_neighbours_are_a_block_away(void **state)
{
    (void)state;
    int64_t n;
    char what[64];
    read_config("distill-int8", DIT_ALONE(", residency: host"));
    make("h100,ram=128GiB");
    assert_non_null(strstr(need_of(LX_STAGE_DIT)->how, "chunks of 16384"));
    const lx_plan_choice *one = other_way("partial: 1 of 40 blocks resident");
    assert_non_null(one);
    uint64_t base = one->device;
    read_config("distill-int8", DIT_ALONE("") "memory: {vram: 8GiB}\n");
    make("h100,ram=128GiB");
    const lx_plan_need *need = need_of(LX_STAGE_DIT);
    assert_int_equal(sscanf(need->how, "partial: %" SCNd64 " of 40", &n), 1);
    snprintf(what, sizeof what, "partial: %" PRId64 " of 40 blocks resident", n + 1);
    const lx_plan_choice *more = other_way(what);
    snprintf(what, sizeof what, "partial: %" PRId64 " of 40 blocks resident", n - 1);
    const lx_plan_choice *less = other_way(what);
    assert_true(more && less);
    uint64_t block = (more->device - less->device) / 2;
    assert_true(block > GIB(0.25) && block < GIB(0.3));
    assert_true(less->device - base == (uint64_t)(n - 2) * block);
    assert_int_equal(less->stream - more->stream, 2 * (less->stream / (uint64_t)(41 - n)));
    /* All stay: two blocks' slots are free then, so with 38 and 39 it takes as much. */
    read_config("distill-int8", DIT_ALONE(""));
    make("h100,ram=128GiB");
    assert_non_null(strstr(need_of(LX_STAGE_DIT)->how, "resident, chunks of 16384"));
    assert_non_null(other_way("partial: 37 of 40 blocks resident"));
    for (int i = 0; i < need_of(LX_STAGE_DIT)->n_choices; i++)
        assert_true(strncmp(need_of(LX_STAGE_DIT)->choice[i].what, "resident", 8) != 0);
}

/* --- whole cards ------------------------------------------------------------------------------ */

static void test_plan_bars_of_whole_cards(void **state)
{
    (void)state;
    const struct {
        const char *model, *size, *vram;
        bool is_resident;
    } row[] = {{"distill-int8", "832x480", "10.5GiB", false},
               {"distill-int8", "832x480", "6.8GiB", false},
               {"distill-int8", "832x480", "22.5GiB", true},
               {"distill-int8", "1280x720", "11GiB", false},
               {"distill-mixed", "832x480", "11GiB", false}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 ALL_ON_0 "limits: {size: %s, frames: 81}\n"
                          "memory: {vram: %s, ram: 28GiB, policy: overlap}\n",
                 row[i].size, row[i].vram);
        read_config(row[i].model, text);
        make("h100,ram=128GiB");
        assert_fits(row[i].vram);
        check_sums();
        assert_true(planned->host.total <= GIB(28));
        assert_int_equal(need_of(LX_STAGE_DIT)->stream_bytes == 0, row[i].is_resident);
    }
    /* The last: 27 GB of weights and an encoder's are more than 28 GiB hold. */
    assert_true(need_of(LX_STAGE_DIT)->disk_bytes > 0);
    assert_true(plan_of(planned, LX_STAGE_DIT, 0)->ram > 0);
}

/* --- deploy/rigs ------------------------------------------------------------------------------ */

/* A file as it is shipped, but for the line that says where the model lies. */
static void read_shipped(const char *name)
{
    char path[512], text[8192] = "", line[512];
    snprintf(path, sizeof path, "%s/deploy/rigs/%s.yaml", LX2V_SOURCE_DIR, name);
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s is missing", path);
    bool has_model = false;
    while (fgets(line, sizeof line, file)) {
        bool is_model = strncmp(line, "model:", 6) == 0;
        has_model |= is_model;
        if (!is_model)
            strncat(text, line, sizeof text - strlen(text) - 1);
    }
    fclose(file);
    assert_true(has_model);
    read_config("distill-int8", text);
}

static void test_plan_every_shipped_rig(void **state)
{
    (void)state;
    const struct {
        const char *name, *machine;
    } row[] = {{"rtx3060", "rtx3060:12GiB,display,pcie=3x4,ram=32GiB"},
               {"rtx3090", "rtx3090,ram=64GiB"},
               {"rtx3090", "rtx3090,display,ram=64GiB"},
               {"rtx3090+3060", "rtx3090+rtx3060,display,ram=64GiB"},
               {"rtx3090-cpu16", "rtx3090,display,cpu=16,ram=64GiB"},
               {"8gb", "rtx3070:8GiB,display,ram=32GiB"},
               {"8gb", "rtx3060ti,display,ram=32GiB"},
               {"8gb", "rtx4060,display,ram=32GiB"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        read_shipped(row[i].name);
        make(row[i].machine);
        assert_fits(row[i].name);
        check_sums();
        if (strcmp(row[i].name, "rtx3090") == 0)
            assert_true(need_of(LX_STAGE_DIT)->stream_bytes == 0);
        if (strcmp(row[i].name, "rtx3060") == 0)
            assert_true(planned->card[0].policy == LX_POLICY_OVERLAP);
        assert_true(plan_step_s(plan_of(planned, LX_STAGE_DIT, 0)) > 1);
    }
}

/* What the annotated files say about other sizes. */
static void test_plan_720p_on_small_cards(void **state)
{
    (void)state;
    read_config("distill-int8", ALL_ON_0 "limits: {size: 1280x720, frames: 81}\n");
    make("rtx3060:12GiB,display,pcie=3x4,ram=32GiB");
    assert_fits("720p on 12 GB");
    assert_int_equal(planned->card[0].policy, LX_POLICY_OVERLAP);
    make("rtx3070:8GiB,display,ram=32GiB");
    assert_fits("720p on 8 GB");
    assert_int_equal(planned->card[0].policy, LX_POLICY_ALTERNATE);
    check_sums();
}

/* --- sharing ---------------------------------------------------------------------------------- */

static void test_plan_what_is_left_is_the_dits(void **state)
{
    (void)state;
    uint64_t last = UINT64_MAX;
    for (int gib = 8; gib <= 20; gib += 4) {
        char text[512];
        snprintf(text, sizeof text, ALL_ON_0 "memory: {vram: %dGiB}\n", gib);
        read_config("distill-int8", text);
        make("h100,ram=64GiB");
        assert_fits(text);
        check_sums();
        const lx_plan_need *dit = need_of(LX_STAGE_DIT);
        assert_true(dit->stream_bytes < last);
        /* Less than a block and what keeps it aligned is left over while blocks still travel. */
        if (dit->stream_bytes)
            assert_true(planned->card[0].budget - planned->card[0].total < GIB(0.35));
        last = dit->stream_bytes;
    }
    assert_true(last == 0);
}

static void test_plan_of_two_cards_and_two_dits(void **state)
{
    (void)state;
    read_config("distill-int8",
                "stages:\n  encoder: {device: \"cuda:1\"}\n  vae: {device: \"cuda:1\"}\n"
                "  dit: {replicas: [{device: \"cuda:0\"}, {device: \"cuda:1\"}]}\n");
    make("rtx3090+rtx3060,display,ram=64GiB");
    assert_fits("two cards");
    check_sums();
    assert_true(plan_of(planned, LX_STAGE_DIT, 0)->need.stream_bytes == 0);
    assert_true(plan_of(planned, LX_STAGE_DIT, 1)->need.stream_bytes > 0);
    /* One host copy for both. */
    assert_true(planned->host.weights < GIB(22));
    assert_string_equal(plan_link(planned, plan_of(planned, LX_STAGE_ENCODER, 0),
                                  plan_of(planned, LX_STAGE_DIT, 1)),
                        "CUDA IPC");
    assert_string_equal(plan_link(planned, plan_of(planned, LX_STAGE_ENCODER, 0),
                                  plan_of(planned, LX_STAGE_DIT, 0)),
                        "pinned ring"); /* GeForce: no peer access */
}

static void test_plan_short_host_leaves_blocks_on_disk(void **state)
{
    (void)state;
    read_config("distill-int8", ALL_ON_0 "memory: {ram: 14GiB}\n");
    make("rtx3060,display,ram=64GiB,disk=2");
    assert_fits("14 GiB of host memory");
    assert_true(planned->host.total <= GIB(14));
    const plan_process *dit = plan_of(planned, LX_STAGE_DIT, 0);
    assert_true(dit->need.disk_bytes > 0 && dit->disk_s > 0 && dit->ram > 0);
    read_config("distill-int8", ALL_ON_0 "memory: {ram: 3GiB}\n");
    make("rtx3060,display,ram=64GiB");
    assert_false(planned->fits);
    assert_false(planned->host.fits);
}

/* --- what does not fit ------------------------------------------------------------------------ */

static void test_plan_refuses_with_numbers_and_advice(void **state)
{
    (void)state;
    lx_err err = {0};
    read_config("distill-int8", ALL_ON_0 "limits: {size: 1280x720, frames: 81}\n"
                                         "memory: {policy: overlap}\n");
    make("rtx3060:6GiB,display,ram=32GiB");
    assert_false(planned->fits);
    assert_true(planned->n_advice >= 3);
    /* In this order, each planned itself. */
    assert_string_equal(planned->advice[0].what, "memory.policy: auto");
    assert_string_equal(planned->advice[1].what, "stages.encoder.device: cpu");
    assert_string_equal(planned->advice[2].what, "limits.frames: 49");
    for (int i = 0; i < planned->n_advice; i++)
        assert_non_null(strstr(planned->advice[i].then, "cuda:0 would hold"));
    assert_true(planned->advice[planned->n_advice - 1].fits);
    assert_int_equal(plan_refuse(planned, &err), LX_EAGAIN);
    const char *const words[] = {
        "1280x720", "81 frames", "cuda:0 would need",
        "dit[0]",   "vae[0]",    planned->advice[planned->n_advice - 1].what};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(err.message, words[i]))
            fail_msg("\"%s\" is missing in: %s", words[i], err.message);
}

/* What the config forces onto the card is the first thing to take back. */
static void test_plan_advises_more_offload_first(void **state)
{
    (void)state;
    read_config("distill-int8",
                "stages:\n  encoder: {device: \"cuda:0\"}\n  vae: {device: \"cuda:0\"}\n"
                "  dit: {device: \"cuda:0\", residency: resident}\n");
    make("rtx3060,display,ram=32GiB");
    assert_false(planned->fits);
    assert_int_equal(planned->n_advice, 1);
    assert_string_equal(planned->advice[0].what, "residency: auto");
    assert_true(planned->advice[0].fits);
}

static void test_plan_hopeless_is_told(void **state)
{
    (void)state;
    read_config("distill-int8", ALL_ON_0);
    make("rtx3060:2GiB,ram=32GiB");
    assert_false(planned->fits);
    for (int i = 0; i < planned->n_advice; i++)
        assert_false(planned->advice[i].fits);
}

static void test_plan_unknown_card_is_a_config_error(void **state)
{
    (void)state;
    lx_err err = {0};
    plan *p = NULL;
    read_config("distill-int8", "stages: {dit: {device: \"cuda:1\"}}\n");
    assert_int_equal(rig_parse(&machine, "rtx3060", &err), LX_OK);
    const plan_request request = {.config = &config, .rig = &machine, .binary_dir = BIN};
    assert_int_equal(plan_make(&p, &request, &err), LX_ECONFIG);
    assert_null(p);
    assert_non_null(strstr(err.message, "stages.dit"));
    /* And what a stage itself finds wrong comes through in its own words. */
    read_config("nothing-here", "");
    assert_int_equal(plan_make(&p, &request, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "nothing-here"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_bars_of_each_process),
        cmocka_unit_test(test_plan_neighbours_are_a_block_away),
        cmocka_unit_test(test_plan_bars_of_whole_cards),
        cmocka_unit_test(test_plan_every_shipped_rig),
        cmocka_unit_test(test_plan_720p_on_small_cards),
        cmocka_unit_test(test_plan_what_is_left_is_the_dits),
        cmocka_unit_test(test_plan_of_two_cards_and_two_dits),
        cmocka_unit_test(test_plan_short_host_leaves_blocks_on_disk),
        cmocka_unit_test(test_plan_refuses_with_numbers_and_advice),
        cmocka_unit_test(test_plan_advises_more_offload_first),
        cmocka_unit_test(test_plan_hopeless_is_told),
        cmocka_unit_test(test_plan_unknown_card_is_a_config_error),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    plan_destroy(&planned);
    return failed;
}
