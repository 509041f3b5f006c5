/*
 * test_probe.c - lx2v-probe as a process: its answer, and the ways it may fail to give one
 * SPDX-License-Identifier: Apache-2.0
 *
 * The built probe runs on whatever machine this is, with a driver or without. The others are
 * scripts that do what a broken driver does to a process: die, hang, print junk.
 */
#include <setjmp.h>
#include <signal.h>
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
#include <jansson.h>

#include "lx_child.h"
#include "lx_device.h"
#include "lx_process.h"
#include "rigs.h"

static lx_cards cards;
static char folder[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/lx2v-probe-XXXXXX");
    return !mkdtemp(folder) || chdir(folder) != 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") != 0 || system(command) != 0;
}

/* A program that runs these shell lines. */
static void write_script(const char *name, const char *lines)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\n", lines);
    fclose(file);
    assert_int_equal(chmod(name, 0755), 0);
}

static lx_status probe(const char *binary, double timeout_s, lx_err *err)
{
    lx_probe_options options = {.binary = binary, .timeout_s = timeout_s};
    lx_err_clear(err);
    return lx_device_probe(&cards, &options, err);
}

static void fails(const char *lines, lx_status wanted, const char *words)
{
    lx_err err = {0};
    write_script("probe.sh", lines);
    lx_status status = probe("./probe.sh", 5, &err);
    if (status != wanted || !strstr(err.message, words))
        fail_msg("%s: wanted %s and \"%s\", got %s and \"%s\"", lines, lx_status_name(wanted),
                 words, lx_status_name(status), err.message);
}

static void test_probe_of_this_machine(void **state)
{
    (void)state;
    lx_err err = {0};
    char *json = NULL;
    lx_probe_options options = {.binary = LX2V_BIN_DIR "/lx2v-probe", .json = &json};
    if (lx_device_probe(&cards, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    json_t *root = json_loads(json, 0, NULL);
    assert_non_null(root);
    if (cards.n == 0) { /* no driver, no card: said, and no error */
        assert_true(strlen(cards.reason) > 10);
        assert_true(json_is_string(json_object_get(root, "reason")));
        assert_int_equal(json_array_size(json_object_get(root, "cards")), 0);
    }
    for (int i = 0; i < cards.n; i++) {
        assert_true(cards.card[i].vram_bytes > 1 << 28);
        assert_true(cards.card[i].multiprocessors > 0);
        assert_int_equal(strlen(cards.card[i].uuid), 40);
    }
    json_decref(root);
    free(json);
}

static void test_probe_that_dies(void **state)
{
    (void)state;
    fails("kill -SEGV $$", LX_EJOB, "died from signal 11");
    fails("echo the driver is gone >&2; exit 3", LX_EJOB, "exit code 3: the driver is gone");
    fails("exit 0", LX_EJOB, "no JSON object");
    fails("echo '{\"probe\": 1'", LX_EJOB, "no JSON object");
    fails("echo '[]'", LX_EJOB, "no JSON object");
    fails("head -c 400000 /dev/zero", LX_EJOB, "over 262144 bytes");
    lx_err err = {0};
    assert_int_equal(probe("./none", 5, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "No such file"));
}

static void test_probe_that_hangs(void **state)
{
    (void)state;
    lx_err err = {0};
    /* Its child holds the pipe and ignores hints: the whole group must go. */
    write_script("hang.sh", "trap '' TERM; sleep 60 & echo $! >pid; wait");
    double start = lx_now_s();
    assert_int_equal(probe("./hang.sh", 0.5, &err), LX_ETIMEOUT);
    assert_true(lx_now_s() - start < 5);
    assert_non_null(strstr(err.message, "no answer in"));
    FILE *file = fopen("pid", "r");
    int pid = 0;
    assert_true(file && fscanf(file, "%d", &pid) == 1 && pid > 1);
    fclose(file);
    for (int i = 0; i < 100 && kill(pid, 0) == 0; i++) {
        /* Dead, but perhaps not yet buried by whoever adopted it. */
        char path[64], line[256] = "";
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *stat = fopen(path, "r");
        bool is_zombie = !stat || !fgets(line, sizeof line, stat) || strstr(line, ") Z ");
        if (stat)
            fclose(stat);
        if (is_zombie)
            return;
        usleep(20000);
    }
    assert_true(kill(pid, 0) != 0);
}

static void test_probe_asks_with_the_right_flags(void **state)
{
    (void)state;
    lx_err err = {0};
    FILE *file = fopen("rig.json", "w");
    assert_non_null(file);
    fputs(RIG_3090_3060, file);
    fclose(file);
    write_script("probe.sh", "[ \"$*\" = '--json --measure' ] || exit 9; cat rig.json");
    lx_probe_options options = {.binary = "./probe.sh", .measure = true};
    if (lx_device_probe(&cards, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(cards.n, 2);
    options.measure = false;
    assert_int_equal(lx_device_probe(&cards, &options, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "exit code 9"));
}

/* --- the command ------------------------------------------------------------------------------ */

/* lx2v beside a probe of ours. */
static void doctor_beside(const char *probe_lines, const char *arguments, char *out, size_t room)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf bin; mkdir bin; cp %s/lx2v %s/lx2v-mux bin/",
             LX2V_BIN_DIR, LX2V_BIN_DIR);
    assert_int_equal(system(command), 0);
    write_script("bin/lx2v-probe", probe_lines);
    snprintf(command, sizeof command, "bin/lx2v doctor %s >out.txt 2>err.txt", arguments);
    int status = system(command);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    FILE *file = fopen("out.txt", "r");
    assert_non_null(file);
    size_t n = fread(out, 1, room - 1, file);
    out[n] = 0;
    fclose(file);
}

static void has(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("no \"%s\" in:\n%s", words, text);
}

static void test_doctor_survives_the_probe(void **state)
{
    (void)state;
    static char text[65536];
    doctor_beside("kill -SEGV $$", "", text, sizeof text);
    has(text, "cards     not told: ");
    has(text, "died from signal 11");
    has(text, "memory    ");
    has(text, "codecs    FFmpeg ");
    doctor_beside("kill -SEGV $$", "--json", text, sizeof text);
    json_t *answer = json_loads(text, 0, NULL);
    assert_non_null(answer);
    assert_true(json_is_null(json_object_get(answer, "probe")));
    assert_true(json_is_string(json_object_get(answer, "probe_error")));
    assert_true(json_is_null(json_object_get(answer, "disk")));
    json_decref(answer);
}

static void test_doctor_explains_the_cards(void **state)
{
    (void)state;
    static char text[65536];
    FILE *file = fopen("rig.json", "w");
    assert_non_null(file);
    fputs(RIG_3090_3060, file);
    fclose(file);
    doctor_beside("cat rig.json", "", text, sizeof text);
    has(text, "driver    550.54.14, CUDA 12.4; this build needs CUDA 12.0 (driver 525 or newer)");
    has(text, "cuda:0    NVIDIA GeForce RTX 3090, GPU-3090bbbb");
    has(text, "bf16 yes, INT8 tensor cores yes, FP8 dequantised to bf16 (native from 8.9)");
    has(text, "attention of long clips: int8-fp16 by mma.sync, sums in fp16");
    has(text, "PCIe 1.0 x4 of 4.0 x16 when idle");
    has(text, "11.0 GiB free, drives a display");
    has(text, "used by Xorg (pid 1234): 320 MiB");
    has(text, "cuda:0 to cuda:1: through the host, 2.8 GB/s, bytes unchanged");
    has(text, "cuda:1 to cuda:0: peer access, bytes do not arrive unchanged");
    has(text, "note      cuda:1 to cuda:0: a copy between the cards does not arrive unchanged");
    doctor_beside("cat rig.json", "--json", text, sizeof text);
    json_t *answer = json_loads(text, 0, NULL);
    json_t *list = json_object_get(json_object_get(answer, "probe"), "cards");
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_array_size(json_object_get(answer, "notes")) >= 1);
    assert_true(json_is_string(json_object_get(json_object_get(answer, "codecs"), "ffmpeg")));
    json_decref(answer);
}

/* Doctor as test_doctor_explains_the_cards runs it, with one H100 and LX2V_ARCH_MAX. The key
 * "kernels" of its one card; the caller's to decref. */
static json_t *doctor_held_to(const char *most, char *text, size_t room)
{
    FILE *file = fopen("rig.json", "w");
    assert_non_null(file);
    fputs(RIG_H100, file);
    fclose(file);
    setenv("LX2V_ARCH_MAX", most, 1);
    doctor_beside("cat rig.json", "--json", text, room);
    json_t *answer = json_loads(text, 0, NULL);
    json_t *use = json_array_get(json_object_get(answer, "kernels"), 0);
    assert_true(json_is_object(use));
    json_incref(use);
    json_decref(answer);
    doctor_beside("cat rig.json", "", text, room);
    unsetenv("LX2V_ARCH_MAX");
    return use;
}

static const char *word_of(const json_t *use, const char *key)
{
    const char *word = json_string_value(json_object_get(use, key));
    return word ? word : "";
}

/* What will run is told, and not what the card could run. */
static void test_doctor_tells_what_a_held_card_uses(void **state)
{
    (void)state;
    static char text[65536];
    if (LX2V_ARCH_MAX < 90)
        skip(); /* the build itself holds it to less */
    json_t *use = doctor_held_to("86", text, sizeof text);
    has(text, "compute capability 9.0 (Hopper)");
    has(text, "held to 8.6 by LX2V_ARCH_MAX");
    has(text, "FP8 dequantised to bf16");
    has(text, "int8-fp16 by mma.sync, sums in fp32 (at full rate); by choice bf16");
    assert_string_equal(word_of(use, "held_to"), "8.6");
    assert_string_equal(word_of(use, "attention"), "mma.sync");
    assert_true(json_is_false(json_object_get(use, "fp8")));
    json_decref(use);
    use = doctor_held_to("89", text, sizeof text);
    has(text, "FP8 native");
    has(text, "int8-fp16 by mma.sync, sums in fp32 (at full rate); by choice int8-fp8, bf16");
    assert_string_equal(word_of(use, "held_to"), "8.9");
    json_decref(use);
    use = doctor_held_to("hopper", text, sizeof text);
    has(text, "note      LX2V_ARCH_MAX=hopper: a compute capability is needed");
    json_decref(use);
    use = doctor_held_to("", text, sizeof text);
    has(text, "int8-fp16 by wgmma, sums in fp32 (at full rate); by choice int8-fp8, bf16");
    assert_null(strstr(text, "held to"));
    assert_true(json_is_null(json_object_get(use, "held_to")));
    assert_string_equal(word_of(use, "attention"), "wgmma");
    assert_string_equal(word_of(use, "sums"), "fp32");
    assert_true(json_is_true(json_object_get(use, "fp8")));
    json_decref(use);
}

/* Where measuring kills the probe, what it says without is still told. */
static void test_doctor_measures_what_it_can(void **state)
{
    (void)state;
    static char text[65536];
    FILE *file = fopen("rig.json", "w");
    assert_non_null(file);
    fputs(RIG_3060, file);
    fclose(file);
    doctor_beside("case \"$*\" in *--measure*) kill -BUS $$;; esac; cat rig.json", "--measure",
                  text, sizeof text);
    has(text, "cuda:0    NVIDIA GeForce RTX 3060");
    has(text, "note      measuring the cards failed: ");
    has(text, "disk      ");
    assert_null(strstr(text, "--measure reads from it"));
    /* The temporary file is gone. */
    assert_int_equal(system("ls -A | grep -q lx2v-disk"), 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe_of_this_machine),
        cmocka_unit_test(test_probe_that_dies),
        cmocka_unit_test(test_probe_that_hangs),
        cmocka_unit_test(test_probe_asks_with_the_right_flags),
        cmocka_unit_test(test_doctor_survives_the_probe),
        cmocka_unit_test(test_doctor_explains_the_cards),
        cmocka_unit_test(test_doctor_tells_what_a_held_card_uses),
        cmocka_unit_test(test_doctor_measures_what_it_can),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
