/*
 * test_config_pass.c - a config in a memory file, and the keys in which two differ
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_config.h"
#include "lx_config_keys.h"

static lx_config a, b, c; /* large */

static void parse(lx_config *out, const char *text)
{
    lx_err err = {0};
    if (lx_config_parse(out, text, strlen(text), "/tmp/rig.yaml", &err) != LX_OK)
        fail_msg("%s\nwas refused: %s", text, err.message);
}

/* Every key another value than the default one. */
static const char changed[] =
    "model: {dir: other, dit: d, text: t, vae: v, tokenizer: k}\n"
    "output: {dir: o, overwrite: true}\n"
    "state: {dir: /tmp/s, journal: /tmp/j}\n"
    "listen: {tcp: \"127.0.0.1:7421\", keys: keys, allow_any: true}\n"
    "weights: {require_manifest: true}\n"
    "defaults: {size: 128x64, frames: 9, fps: 24, seed: 7}\n"
    "sampling: {sampler: lcm, sample_shift: 3, denoising_step_list: [1000, 500], rng: torch-cpu}\n"
    "stages: {encoder: {threads: 1}, dit: {threads: 1}, vae: {threads: 1}, mux: {threads: 1}}\n"
    "encoder: {cache_entries: 1}\n"
    "vae: {chunk: 2, tile: 8x8}\n"
    "mux: {crf: 20, preset: fast, metadata: off, format: png}\n"
    "links: {depth: 3, transport: ring, context: ring, latent: ring}\n"
    "limits: {size: 256x64, frames: 13, prompt_bytes: 100, queue: 10, clients: 3, per_client: 2}\n"
    "spool: {latents: off}\n"
    "memory: {ram: 4GiB, pinned: 8MiB, vram: {cuda:0: 2GiB}, policy: overlap}\n"
    "supervision: {beat_s: 2, hang_s: 50, stop_s: 3}\n"
    "log_level: debug\n";

static bool is_value(const lx_config_key *key)
{
    return key->type != LX_KEY_SECTION && key->type != LX_KEY_MODEL && key->type != LX_KEY_GUIDE;
}

static void test_every_key_that_differs_is_named(void **state)
{
    (void)state;
    const char *keys[LX_CONFIG_KEYS_MAX];
    parse(&a, "model: m\n");
    parse(&b, changed);
    assert_int_equal(lx_config_differ(&a, &a, keys, LX_CONFIG_KEYS_MAX), 0);
    int n = lx_config_differ(&a, &b, keys, LX_CONFIG_KEYS_MAX), found = 0;
    for (int i = 0; i < lx_config_n_keys; i++) {
        bool is_named = false;
        for (int k = 0; k < n; k++)
            is_named = is_named || !strcmp(keys[k], lx_config_keys[i].path);
        if (is_named != is_value(&lx_config_keys[i]))
            fail_msg("%s is %snamed", lx_config_keys[i].path, is_named ? "" : "not ");
        found += is_named;
    }
    assert_int_equal(n, found);
    assert_int_equal(lx_config_differ(&a, &b, keys, 3), 3);
}

/* What one key takes from another config is that key's, and no other's. */
static void test_one_key_is_taken_over(void **state)
{
    (void)state;
    static const char *const taken[] = {
        "defaults.size",     "defaults.frames",     "defaults.fps",
        "defaults.seed",     "sampling.sampler",    "sampling.sample_shift",
        "sampling.rng",      "limits.prompt_bytes", "sampling.denoising_step_list",
        "limits.per_client", "supervision.hang_s",  "supervision.stop_s",
        "output.overwrite",  "memory.ram",          "vae.tile",
        "log_level",
    };
    const char *keys[LX_CONFIG_KEYS_MAX];
    parse(&a, "model: m\n");
    parse(&b, changed);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        c = a;
        lx_config_take(&c, &b, taken[i]);
        assert_int_equal(lx_config_differ(&a, &c, keys, LX_CONFIG_KEYS_MAX), 1);
        assert_string_equal(keys[0], taken[i]);
        int n = lx_config_differ(&c, &b, keys, LX_CONFIG_KEYS_MAX);
        for (int k = 0; k < n; k++)
            assert_string_not_equal(keys[k], taken[i]);
    }
}

static void test_config_travels_in_a_sealed_file(void **state)
{
    (void)state;
    lx_err err = {0};
    parse(&a, changed);
    int fd = lx_config_to_fd(&a, &err);
    assert_true(fd > 0);
    memset(&b, 0x5a, sizeof b);
    assert_int_equal(lx_config_from_fd(&b, fd, &err), LX_OK);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1); /* by nobody who inherits it */
    close(fd);
}

static void test_config_of_another_build_is_refused(void **state)
{
    (void)state;
    lx_err err = {0};
    char head[72];
    parse(&a, changed);
    int fd = lx_config_to_fd(&a, &err), other = memfd_create("other", MFD_CLOEXEC);
    assert_int_equal(pread(fd, head, sizeof head, 0), sizeof head);
    head[5] ^= 1; /* in the version */
    assert_int_equal(pwrite(other, head, sizeof head, 0), sizeof head);
    assert_int_equal(ftruncate(other, (off_t)(sizeof head + sizeof a)), 0);
    assert_int_equal(lx_config_from_fd(&b, other, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "install"));
    assert_int_equal(ftruncate(other, 100), 0);
    assert_int_equal(lx_config_from_fd(&b, other, &err), LX_ECONFIG);
    close(fd);
    close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key_that_differs_is_named),
        cmocka_unit_test(test_one_key_is_taken_over),
        cmocka_unit_test(test_config_travels_in_a_sealed_file),
        cmocka_unit_test(test_config_of_another_build_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
