/*
 * test_init.c - lx2v init: which stage goes where, and a config that loads whatever goes wrong
 * SPDX-License-Identifier: Apache-2.0
 *
 * Choices are asked of the function, with recorded answers of the probe and made-up machines; the
 * command runs as built, beside a probe and a launcher that are scripts.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli_choose.h"
#include "lx_config.h"
#include "rigs.h"
#include "weights/lx_model_dir.h"

#define GIB ((uint64_t)1 << 30)

static char folder[64];                     /* a fresh one; current while the tests run */
static char bin[PATH_MAX], model[PATH_MAX]; /* as built; model "": not there */
static lx_cards cards;
static cli_choice choice;
static char text[65536];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/lx2v-init-XXXXXX");
    if (!realpath(LX2V_BIN_DIR, bin)) /* while the current folder is the caller's */
        return -1;
    if (!realpath(LX2V_BUILD_DIR "/models/random", model))
        model[0] = 0;
    return !mkdtemp(folder) || chdir(folder) != 0 || setenv("XDG_RUNTIME_DIR", folder, 1) != 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") != 0 || system(command) != 0;
}

static void has(const char *where, const char *words)
{
    if (!strstr(where, words))
        fail_msg("no \"%s\" in:\n%s", words, where);
}

/* --- choosing --------------------------------------------------------------------------------- */

static void parse(const char *json)
{
    lx_err err = {0};
    if (lx_cards_parse(&cards, json, strlen(json), &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* For the INT8 checkpoint: 21 GiB. */
static void choose_with(int n_cores, bool has_avx2, uint64_t ram, uint64_t limit)
{
    cli_machine machine = {.n_cores = n_cores,
                           .has_avx2 = has_avx2,
                           .ram_bytes = ram,
                           .limit_bytes = limit,
                           .n_nvidia = cards.n};
    cli_facts facts = {
        .machine = &machine, .cards = &cards, .has_cuda = true, .weights_bytes = 21 * GIB};
    cli_choose(&choice, &facts);
}

static void test_init_one_card_takes_dit_and_vae(void **state)
{
    (void)state;
    parse(RIG_3060);
    choose_with(16, true, 32 * GIB, 0);
    assert_int_equal(choice.dit.card, 0);
    has(choice.dit.why, "RTX 3060, 11.8 GiB; the display keeps 1 GiB of it");
    assert_int_equal(choice.vae.card, 0);
    has(choice.vae.why, "On the same card");
    assert_int_equal(choice.encoder.card, LX_DEVICE_CPU);
    assert_int_equal(choice.encoder.threads, 12);
    assert_int_equal(choice.mux.threads, 4);
    assert_int_equal(choice.mux.card, LX_DEVICE_CPU);
    has(choice.encoder.why,
        "16 cores with AVX2, and 32.0 GiB of memory hold the weights (21.0 GiB)");
    assert_int_equal(choice.n_notes, 0);
}

static void test_init_encoder_leaves_a_weak_cpu(void **state)
{
    (void)state;
    parse(RIG_3060);
    choose_with(8, true, 25 * GIB, 0);
    assert_int_equal(choice.encoder.card, LX_DEVICE_CPU);
    choose_with(7, true, 64 * GIB, 0);
    assert_int_equal(choice.encoder.card, 0);
    assert_int_equal(choice.encoder.threads, 0);
    assert_int_equal(choice.mux.threads, 0);
    has(choice.encoder.why, "7 cores with AVX2 would be slow");
    choose_with(16, false, 64 * GIB, 0);
    assert_int_equal(choice.encoder.card, 0);
    has(choice.encoder.why, "without AVX2");
    choose_with(16, true, 24 * GIB, 0); /* weights and little else */
    assert_int_equal(choice.encoder.card, 0);
    has(choice.encoder.why, "24.0 GiB of memory are little for 21.0 GiB");
    choose_with(16, true, 64 * GIB, 16 * GIB); /* a container's limit counts, not the machine's */
    assert_int_equal(choice.encoder.card, 0);
    has(choice.encoder.why, "16.0 GiB of memory are little");
}

static void test_init_second_card_takes_the_rest(void **state)
{
    (void)state;
    parse(RIG_3090_3060);
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.dit.card, 0);
    has(choice.dit.why, "RTX 3090, 23.7 GiB: the card with the most memory");
    assert_int_equal(choice.vae.card, 1);
    assert_int_equal(choice.encoder.card, 1);
    /* The order of slots decides nothing. */
    lx_card first = cards.card[0];
    cards.card[0] = cards.card[1];
    cards.card[1] = first;
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.dit.card, 1);
    assert_int_equal(choice.vae.card, 0);
    assert_int_equal(choice.encoder.card, 0);
    /* Twins: the one without a display denoises; and there is another way. */
    cards.card[0] = cards.card[1];
    cards.card[0].has_display = true;
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.dit.card, 1);
    assert_int_equal(choice.vae.card, 0);
    assert_int_equal(choice.n_notes, 1);
    has(choice.note[0], "dit: {replicas: [{device: \"cuda:1\"}, {device: \"cuda:0\"}]}");
}

static void test_init_leaves_out_cards_that_cannot(void **state)
{
    (void)state;
    parse(RIG_3090_3060);
    cards.card[0].major = 7; /* the larger one is too old */
    cards.card[0].minor = 5;
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.dit.card, 1);
    assert_int_equal(choice.vae.card, 1);
    assert_int_equal(choice.n_notes, 1);
    has(choice.note[0], "cuda:0, NVIDIA GeForce RTX 3090, is not used: compute capability 7.5");
    cards.card[1].is_exclusive = true;
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.dit.card, LX_DEVICE_CPU);
    assert_int_equal(choice.encoder.card, LX_DEVICE_CPU);
    has(choice.note[1], "nvidia-smi -i 1 -c DEFAULT");
    has(choice.dit.why, "no card here can be used");
    parse(RIG_3090_3060);
    cards.card[1].vram_bytes = 3 * GIB; /* too small for a stage */
    choose_with(4, true, 64 * GIB, 0);
    assert_int_equal(choice.vae.card, 0);
    has(choice.note[0], "3.0 GiB are little");
}

static void test_init_says_why_the_cpu(void **state)
{
    (void)state;
    cli_machine machine = {.n_cores = 16, .has_avx2 = true, .ram_bytes = 64 * GIB};
    cli_facts facts = {.machine = &machine, .has_cuda = true, .weights_bytes = 21 * GIB};
    cli_choose(&choice, &facts); /* the probe failed */
    assert_int_equal(choice.dit.card, LX_DEVICE_CPU);
    assert_int_equal(choice.encoder.threads, 0);
    has(choice.dit.why, "lx2v doctor");
    facts.cards = &cards;
    parse(RIG_NONE);
    cli_choose(&choice, &facts);
    has(choice.dit.why, "no card: no NVIDIA driver: libcuda.so.1 is not installed");
    parse(RIG_3060);
    cards.cuda_needed = 13000; /* of a driver that knows 12.4 */
    cli_choose(&choice, &facts);
    assert_int_equal(choice.dit.card, LX_DEVICE_CPU);
    has(choice.dit.why, "CUDA 12.4 and this build needs 13.0: update the driver to 580");
    facts.has_cuda = false;
    cli_choose(&choice, &facts);
    assert_int_equal(choice.dit.card, LX_DEVICE_CPU);
    has(choice.dit.why, "built for the CPU and cannot use the NVIDIA card");
}

/* --- the command ------------------------------------------------------------------------------ */

static void write_file(const char *name, const char *lines)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(lines, file) >= 0);
    fclose(file);
}

static void write_script(const char *name, const char *lines)
{
    char script[8192];
    snprintf(script, sizeof script, "#!/bin/sh\n%s\n", lines);
    write_file(name, script);
    assert_int_equal(chmod(name, 0755), 0);
}

/* A command line with one or two %s; its exit code. */
static int run(const char *format, const char *a, const char *b)
{
    char command[3 * PATH_MAX];
    snprintf(command, sizeof command, format, a, b);
    int status = system(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* lx2v beside these; its config, read back, is in *config and in text. */
static void init_beside(const char *json, const char *launcher, lx_config *config)
{
    lx_err err = {0};
    if (!*model) {
        print_message("no random model: build the whole project for this test\n");
        skip();
    }
    assert_int_equal(run("rm -rf bin && mkdir bin && cp '%s/lx2v' bin/", bin, ""), 0);
    write_file("rig.json", json);
    write_script("bin/lx2v-probe", "cat rig.json");
    write_script("bin/lx2v-launch", launcher);
    assert_int_equal(run("bin/lx2v init '%s' >rig.yaml 2>err.txt", model, ""), 0);
    FILE *file = fopen("rig.yaml", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    if (lx_config_load(config, "rig.yaml", &err) != LX_OK)
        fail_msg("%s\n%s", err.message, text);
    for (const char *line = text; *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL))
        if (strcspn(line, "\n") > 100 && strncmp(line, "#   ", 4) != 0) /* paths and plans are */
            fail_msg("a long line: %s", line);
}

static void test_init_writes_a_config_that_loads(void **state)
{
    (void)state;
    static lx_config config;
    static lx_model_paths paths;
    init_beside(RIG_3060,
                "[ \"$2\" = --plan ] && grep -q '^model: ' \"$1\" && echo 'plan    for a test'",
                &config);
    assert_non_null(strstr(config.model.dir, "/models/random"));
    assert_int_equal(lx_model_of_config(&paths, &config, NULL), LX_OK);
    assert_int_equal(access(paths.vae, R_OK), 0);
    assert_int_equal(config.defaults.width, 832);
    assert_int_equal(config.limits.frames, 81);
    has(text, "#   plan    for a test");
    const lx_replica_config *dit = &config.stage[LX_STAGE_DIT].replica[0];
    const lx_replica_config *mux = &config.stage[LX_STAGE_MUX].replica[0];
    has(text, "NVIDIA GeForce RTX 3060, 11.8 GiB, drives a display");
    assert_string_equal(mux->device, "cpu");
    if (strcmp(LX2V_BACKEND, "cuda") == 0) {
        assert_string_equal(dit->device, "cuda:0");
        assert_string_equal(config.stage[LX_STAGE_VAE].replica[0].device, "cuda:0");
    } else {
        assert_string_equal(dit->device, "cpu");
        has(text, "this lx2v is built for the CPU and cannot use the NVIDIA card");
        assert_null(strstr(text, "stages:"));
    }
}

static void test_init_survives_probe_and_plan(void **state)
{
    (void)state;
    static lx_config config;
    init_beside("junk", "kill -SEGV $$", &config);
    has(text, "cards: ");
    has(text, "# No plan was made: ");
    has(text, "died from signal 11");
    init_beside(RIG_NONE, "echo 'E launch[1] config: a reason' >&2; exit 2", &config);
    has(text, "# No plan was made: ");
    has(text, "a reason");
    /* What does not fit is told, and the config is still there to be mended. */
    init_beside(
        RIG_NONE,
        "printf 'plan    x\\nother ways, and\\n  dit one\\nadvice  fewer frames\\n'; exit 3",
        &config);
    has(text, "#   advice  fewer frames");
    assert_null(strstr(text, "other ways"));
    assert_null(strstr(text, "dit one"));
    /* Nothing of what others print leaves its comment, nor stays behind. */
    init_beside(RIG_NONE, "printf 'plan \\342\\200\\250vae: {x: 1}\\r\\n'", &config);
    has(text, "#   plan ?vae: {x: 1}?");
    assert_int_equal(system("! ls -d lx2v-init-* 2>/dev/null | grep -q ."), 0);
}

static void test_init_refuses_what_is_no_model(void **state)
{
    (void)state;
    assert_int_equal(run("'%s/lx2v' init %s >out.txt 2>err.txt", bin, "/no/such/folder"), 2);
    assert_int_equal(system("grep -q /no/such/folder err.txt && ! [ -s out.txt ]"), 0);
    assert_int_equal(mkdir("empty", 0755), 0);
    assert_int_equal(run("'%s/lx2v' init %s >out.txt 2>err.txt", bin, "empty"), 2);
    assert_int_equal(system("grep -q 'lx2v doctor --weights' err.txt && ! [ -s out.txt ]"), 0);
}

/* The launcher and the stages as built, planning for a card that this machine may not have. */
static void test_init_appends_the_real_plan(void **state)
{
    (void)state;
    static lx_config config;
    static const char *const programs[] = {"launch", "encoder", "dit", "vae", "mux"};
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        char path[PATH_MAX + 32];
        snprintf(path, sizeof path, "%s/lx2v-%s", bin, programs[i]);
        if (access(path, X_OK) != 0) {
            print_message("no %s: build the whole project for this test\n", path);
            skip();
        }
    }
    char script[PATH_MAX + 128];
    snprintf(script, sizeof script, "exec '%s/lx2v-launch' \"$@\" --rig rtx3060,display,ram=32GiB",
             bin);
    init_beside(RIG_3060, script, &config);
    has(text, "#   plan    for clips up to 832x480 with 81 frames, on the machine described");
    has(text, "#     dit[0] ");
    has(text, ": fits");
    if (strcmp(LX2V_BACKEND, "cuda") == 0)
        has(text, "#   cuda:0  ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_one_card_takes_dit_and_vae),
        cmocka_unit_test(test_init_encoder_leaves_a_weak_cpu),
        cmocka_unit_test(test_init_second_card_takes_the_rest),
        cmocka_unit_test(test_init_leaves_out_cards_that_cannot),
        cmocka_unit_test(test_init_says_why_the_cpu),
        cmocka_unit_test(test_init_writes_a_config_that_loads),
        cmocka_unit_test(test_init_survives_probe_and_plan),
        cmocka_unit_test(test_init_refuses_what_is_no_model),
        cmocka_unit_test(test_init_appends_the_real_plan),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
