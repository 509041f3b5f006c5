/*
 * test_config.c - every way in which config.yaml can be wrong, and what is said about it
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_config.h"

static lx_config config; /* large */

static lx_status parse(const char *text, lx_err *err)
{
    return lx_config_parse(&config, text, strlen(text), "/tmp/rig.yaml", err);
}

static void assert_parses(const char *text)
{
    lx_err err = {0};
    if (parse(text, &err) != LX_OK)
        fail_msg("%s\nwas refused: %s", text, err.message);
}

/* Refused as a matter for a person, at this line, and the message has all of words ("a|b"). */
static void assert_refused(const char *text, int line, const char *words)
{
    lx_err err = {0};
    lx_config before;
    memset(&config, 0x5a, sizeof config);
    memcpy(&before, &config, sizeof config);
    if (parse(text, &err) != LX_ECONFIG || err.status != LX_ECONFIG)
        fail_msg("%s\nwas not refused (%s)", text, err.message);
    assert_memory_equal(&before, &config, sizeof config); /* outputs only on LX_OK */
    char place[64];
    snprintf(place, sizeof place, "/tmp/rig.yaml:%d: ", line);
    if (strncmp(err.message, place, strlen(place)) != 0)
        fail_msg("%s\nexpected line %d: %s", text, line, err.message);
    char list[256];
    snprintf(list, sizeof list, "%s", words);
    for (char *word = strtok(list, "|"); word; word = strtok(NULL, "|"))
        if (!strstr(err.message, word))
            fail_msg("\"%s\" is missing in: %s", word, err.message);
}

/* --- what is accepted ------------------------------------------------------------------------- */

static void test_config_needs_only_the_model(void **state)
{
    (void)state;
    unsetenv("XDG_RUNTIME_DIR");
    assert_parses("model: m\n");
    assert_string_equal(config.path, "/tmp/rig.yaml");
    assert_string_equal(config.model.dir, "/tmp/m");
    assert_string_equal(config.model.dit, "");
    assert_string_equal(config.output.dir, "/tmp/output");
    char prefix[64];
    snprintf(prefix, sizeof prefix, "/tmp/lx2v-%u-", (unsigned)geteuid());
    assert_int_equal(strncmp(config.state.dir, prefix, strlen(prefix)), 0);
    assert_int_equal(config.defaults.width, 832);
    assert_int_equal(config.defaults.height, 480);
    assert_int_equal(config.defaults.frames, 81);
    assert_true(config.defaults.fps == 16);
    assert_int_equal(config.defaults.seed, LX_SEED_DRAW);
    assert_int_equal(config.sampling.sampler, LX_SAMPLER_EULER);
    assert_true(config.sampling.shift == 5 && config.sampling.guide_scale == 1);
    assert_int_equal(config.sampling.n_steps, 4);
    assert_int_equal(config.sampling.steps[3], 250);
    assert_string_equal(config.sampling.rng, "lx2v");
    for (int i = 0; i < LX_STAGE_COUNT; i++) {
        assert_int_equal(config.stage[i].n_replicas, 1);
        assert_string_equal(config.stage[i].replica[0].device, "cpu");
    }
    assert_int_equal(config.limits.width, 832);
    assert_int_equal(config.limits.frames, 81);
    assert_int_equal(config.limits.queue, 1000);
    assert_int_equal(config.links.depth, 2);
    assert_int_equal(lx_config_wish(&config, LX_STAGE_ENCODER), LX_WISH_AUTO);
    assert_int_equal(lx_config_wish(&config, LX_STAGE_DIT), LX_WISH_AUTO);
    assert_true(config.supervision.hang_s == 60);
    assert_int_equal(config.log_level, LX_LOG_INFO);
}

static void test_config_shipped_file_is_valid_and_complete(void **state)
{
    (void)state;
    lx_err err = {0};
    if (lx_config_load(&config, LX2V_SOURCE_DIR "/config.yaml", &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_string_equal(config.model.dir, LX2V_SOURCE_DIR "/build/release/models/demo");
    /* Every setting is shown there. */
    const char *keys[] = {"model",
                          "dir",
                          "dit",
                          "text",
                          "vae",
                          "tokenizer",
                          "overwrite",
                          "size",
                          "frames",
                          "fps",
                          "seed",
                          "sampler",
                          "sample_shift",
                          "denoising_step_list",
                          "sample_guide_scale",
                          "rng",
                          "encoder",
                          "mux",
                          "device",
                          "threads",
                          "residency",
                          "replicas",
                          "cache_entries",
                          "chunk",
                          "tile",
                          "crf",
                          "preset",
                          "metadata",
                          "format",
                          "depth",
                          "prompt_bytes",
                          "queue",
                          "clients",
                          "ram",
                          "pinned",
                          "beat_s",
                          "hang_s",
                          "stop_s",
                          "log_level"};
    char text[65536];
    FILE *file = fopen(LX2V_SOURCE_DIR "/config.yaml", "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s:", keys[i]);
        if (!strstr(text, key))
            fail_msg("config.yaml does not show %s", key);
    }
}

static void test_config_every_value_arrives(void **state)
{
    (void)state;
    assert_parses("model: {dir: /m, dit: d, text: ./t, vae: /v, tokenizer: k/}\n"
                  "output: {dir: /o, overwrite: yes}\n"
                  "state: {dir: s}\n"
                  "defaults: {size: 480p, frames: 5, fps: 23.976, seed: 42}\n"
                  "sampling:\n"
                  "  sampler: lcm\n"
                  "  sample_shift: 3.5\n"
                  "  denoising_step_list: [1000, 500]\n"
                  "  sample_guide_scale: 1.0\n"
                  "  rng: torch-cuda:132x2048\n"
                  "encoder: {cache_entries: 0}\n"
                  "vae: {chunk: 3, tile: 30x52}\n"
                  "mux: {crf: 0, preset: veryslow, metadata: no-prompt, format: png}\n"
                  "links: {depth: 8, transport: ring, latent: ipc}\n"
                  "limits: {size: 1280*720, frames: 81, prompt_bytes: 100, queue: 7, clients: 3}\n"
                  "memory: {ram: 6GiB, pinned: 512MiB}\n"
                  "supervision: {beat_s: 0.5, hang_s: 600, stop_s: 2}\n"
                  "log_level: debug\n");
    assert_string_equal(config.model.dir, "/m");
    assert_string_equal(config.model.dit, "/tmp/d");
    assert_string_equal(config.model.text, "/tmp/t");
    assert_string_equal(config.model.vae, "/v");
    assert_string_equal(config.model.tokenizer, "/tmp/k/");
    assert_string_equal(config.output.dir, "/o");
    assert_true(config.output.overwrite);
    assert_string_equal(config.state.dir, "/tmp/s");
    assert_int_equal(config.defaults.height, 480);
    assert_true(config.defaults.fps == 23.976);
    assert_int_equal(config.defaults.seed, 42);
    assert_int_equal(config.sampling.sampler, LX_SAMPLER_LCM);
    assert_int_equal(config.sampling.n_steps, 2);
    assert_int_equal(config.sampling.steps[1], 500);
    assert_string_equal(config.sampling.rng, "torch-cuda:132x2048");
    assert_int_equal(config.encoder.cache_entries, 0);
    assert_int_equal(config.vae.chunk, 3);
    assert_int_equal(config.vae.tile_h, 30);
    assert_int_equal(config.vae.tile_w, 52);
    assert_int_equal(config.mux.crf, 0);
    assert_string_equal(config.mux.preset, "veryslow");
    assert_int_equal(config.mux.metadata, LX_METADATA_NO_PROMPT);
    assert_int_equal(config.mux.format, LX_FORMAT_PNG);
    assert_int_equal(lx_config_wish(&config, LX_STAGE_ENCODER), LX_WISH_RING);
    assert_int_equal(lx_config_wish(&config, LX_STAGE_DIT), LX_WISH_IPC);
    assert_int_equal(lx_config_wish(&config, LX_STAGE_VAE), LX_WISH_RING); /* frames */
    assert_int_equal(config.limits.width, 1280);
    assert_int_equal(config.limits.clients, 3);
    assert_true(config.memory.ram == 6ULL << 30);
    assert_true(config.memory.pinned == 512ULL << 20);
    assert_true(config.supervision.stop_s == 2);
    assert_int_equal(config.log_level, LX_LOG_DEBUG);
}

static void test_config_replicas_by_number_and_by_list(void **state)
{
    (void)state;
    assert_parses("model: m\n"
                  "stages:\n"
                  "  dit: {replicas: [{device: cpu, threads: 8}, {threads: 2}]}\n"
                  "  vae: {device: cpu, threads: 3, replicas: 2}\n"
                  "  mux:\n");
    assert_int_equal(config.stage[LX_STAGE_DIT].n_replicas, 2);
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[0].threads, 8);
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[1].threads, 2);
    assert_string_equal(config.stage[LX_STAGE_DIT].replica[1].device, "cpu");
    assert_int_equal(config.stage[LX_STAGE_VAE].n_replicas, 2);
    assert_int_equal(config.stage[LX_STAGE_VAE].replica[1].threads, 3);
    assert_int_equal(config.stage[LX_STAGE_MUX].n_replicas, 1);
    assert_string_equal(config.stage[LX_STAGE_MUX].replica[0].device, "cpu");
    assert_parses(
        "model: m\nstages:\n  dit:\n    replicas:\n    - device: cpu\n      threads: 1\n");
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[0].threads, 1);
}

static void test_config_residency_of_stages_and_replicas(void **state)
{
    (void)state;
    assert_parses(
        "model: m\n"
        "memory: {pinned: auto}\n"
        "stages:\n"
        "  encoder: {device: cuda:0, residency: resident}\n"
        "  dit: {replicas: [{device: cuda:0, residency: disk}, {residency: partial}, {}]}\n");
    const lx_stage_config *dit = &config.stage[LX_STAGE_DIT];
    assert_int_equal(config.stage[LX_STAGE_ENCODER].replica[0].residency, LX_RESIDENCY_RESIDENT);
    assert_int_equal(dit->replica[0].residency, LX_RESIDENCY_DISK);
    assert_int_equal(dit->replica[1].residency, LX_RESIDENCY_PARTIAL);
    assert_int_equal(dit->replica[2].residency, LX_RESIDENCY_AUTO);
    assert_true(config.memory.pinned == 0);
    assert_parses("model: m\nstages: {dit: {residency: host, replicas: 2}}\n");
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[1].residency, LX_RESIDENCY_HOST);
    assert_refused("model: m\nstages: {dit: {residency: dsk}}\n", 2,
                   "stages.dit.residency|\"dsk\"|auto, resident, partial, host, disk|mean disk");
    assert_refused("model: m\nstages: {dit: {residency: [disk]}}\n", 2, "stages.dit.residency");
    assert_refused("model: m\nstages: {vae: {residency: host}}\n", 2,
                   "stages.vae.residency|unknown key|known here: device, threads, accumulate");
    assert_refused("model: m\nstages: {dit: {residency: host, replicas: [{}]}}\n", 2,
                   "beside residency");
    assert_refused("model: m\nstages: {dit: {residency: host, residency: host}}\n", 2,
                   "given twice");
    assert_refused("model: m\nmemory: {pinned: many}\n", 2, "memory.pinned");
    assert_parses("model: m\nmemory: {pinned: 2MiB}\n");
    assert_true(config.memory.pinned == LX_LIMIT_PINNED);
    const char *const small[] = {"2047KiB", "1B", "0B"};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        char text[64];
        snprintf(text, sizeof text, "model: m\nmemory: {pinned: %s}\n", small[i]);
        assert_refused(text, 2, "memory.pinned|auto, or 2 MiB and more");
    }
}

static void test_config_attention_of_the_dit(void **state)
{
    (void)state;
    assert_parses("model: m\nstages: {dit: {device: cuda:0, attention: int8-fp8, "
                  "accumulate: fp16}}\n");
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[0].attention, LX_ATTENTION_INT8_E4M3);
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[0].accumulate, LX_ACCUMULATE_FP16);
    assert_parses("model: m\nstages: {dit: {replicas: [{attention: bf16}, {accumulate: fp32}]}}\n");
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[0].attention, LX_ATTENTION_BF16);
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[1].attention, LX_ATTENTION_AUTO);
    assert_int_equal(config.stage[LX_STAGE_DIT].replica[1].accumulate, LX_ACCUMULATE_FP32);
    assert_refused(
        "model: m\nstages: {dit: {attention: int8-fp4}}\n", 2,
        "stages.dit.attention|\"int8-fp4\"|auto, int8-fp16, int8-fp8, bf16|mean int8-fp8");
    assert_refused("model: m\nstages: {dit: {accumulate: bf16}}\n", 2,
                   "stages.dit.accumulate|\"bf16\"|auto, fp32, fp16");
    assert_refused("model: m\nstages: {vae: {attention: bf16}}\n", 2,
                   "stages.vae.attention|unknown key|known here: device, threads, accumulate");
    assert_parses("model: m\nstages: {vae: {device: cuda:0, accumulate: fp16, replicas: 2}}\n");
    assert_int_equal(config.stage[LX_STAGE_VAE].replica[1].accumulate, LX_ACCUMULATE_FP16);
    assert_refused("model: m\nstages: {encoder: {accumulate: fp16}}\n", 2,
                   "stages.encoder.accumulate|unknown key");
}

static void test_config_paths(void **state)
{
    (void)state;
    setenv("HOME", "/home/me", 1);
    assert_parses("model: ~/m\noutput: {dir: ./}\n");
    assert_string_equal(config.model.dir, "/home/me/m");
    assert_string_equal(config.output.dir, "/tmp");
    lx_err err = {0};
    const char *text = "model: m\n";
    assert_int_equal(lx_config_parse(&config, text, strlen(text), "/rig.yaml", &err), LX_OK);
    assert_string_equal(config.model.dir, "/m");
    assert_int_equal(lx_config_parse(&config, text, strlen(text), "/no/such/rig.yaml", &err),
                     LX_ECONFIG);
}

static void test_config_state_dir_belongs_to_the_config(void **state)
{
    (void)state;
    char folder[] = "/tmp/lx2v-test-XXXXXX", one[LX_LIMIT_PATH];
    assert_non_null(mkdtemp(folder));
    setenv("XDG_RUNTIME_DIR", folder, 1);
    assert_parses("model: m\n");
    assert_int_equal(strncmp(config.state.dir, folder, strlen(folder)), 0);
    memcpy(one, config.state.dir, sizeof one);
    assert_parses("model: other\n"); /* the path counts, not the content */
    assert_string_equal(one, config.state.dir);
    assert_int_equal(lx_config_parse(&config, "model: m", 8, "/tmp/other.yaml", NULL), LX_OK);
    assert_string_not_equal(one, config.state.dir);
    chmod(folder, 0755); /* others may look into it: not used */
    assert_parses("model: m\n");
    assert_int_not_equal(strncmp(config.state.dir, folder, strlen(folder)), 0);
    unsetenv("XDG_RUNTIME_DIR");
    rmdir(folder);
}

/* --- what is refused -------------------------------------------------------------------------- */

static void test_config_unknown_keys_name_the_nearest(void **state)
{
    (void)state;
    assert_refused("model: m\nsampling:\n  sampel_shift: 4\n", 3,
                   "sampling.sampel_shift|unknown key|did you mean sample_shift?");
    assert_refused("modle: m\n", 1, "modle|did you mean model?");
    assert_refused("model: {dri: m}\n", 1, "model.dri|did you mean dir?");
    assert_refused("model: m\n\nsample_shift: 4\n", 3, "did you mean sampling.sample_shift?");
    assert_refused("model: m\ntarget_video_length: 4\n", 2, "defaults.frames");
    assert_refused("model: m\ninfer_steps: 4\n", 2, "denoising_step_list");
    assert_refused("model: m\nqqqqqqqqqqqq: 4\n", 2, "known here: model, output");
    assert_refused("model: m\nstages: {dit: {devcie: cpu}}\n", 2,
                   "stages.dit.devcie|did you mean device?");
    assert_refused("model: m\nstages: {dti: {device: cpu}}\n", 2, "stages.dti|dit");
    assert_refused("model: m\nstages: {dit: {replicas: [{}, {cores: 1}]}}\n", 2,
                   "stages.dit.replicas[1].cores|known here: device, threads");
    assert_refused("model: m\n<<: 1\n", 2, "unknown key");
    assert_refused("model: m\nsampling.rng: lx2v\n", 2, "sampling.rng|unknown key");
    assert_refused("model: m\n? [a, b]\n: 1\n", 2, "a key is a list");
}

static void test_config_duplicate_keys(void **state)
{
    (void)state;
    assert_refused("model: m\nmodel: n\n", 2, "model|given twice|line 1");
    assert_refused("model: m\nmux: {crf: 1}\nlinks: {}\nmux: {preset: fast}\n", 4,
                   "mux|given twice|line 2");
    assert_refused("model: m\nmux:\n  crf: 1\n  crf: 2\n", 4, "mux.crf|given twice|line 3");
    assert_refused("model: m\nstages:\n  dit:\n    threads: 1\n    threads: 1\n", 5,
                   "stages.dit.threads|given twice|line 4");
    assert_refused("model: m\nstages:\n  dit:\n    replicas:\n    - {device: cpu, device: cpu}\n",
                   5, "stages.dit.replicas[0].device|given twice");
}

static void test_config_wrong_types(void **state)
{
    (void)state;
    assert_refused("model: [m]\n", 1, "model|is a list|a single value");
    assert_refused("model: m\nsampling: 5\n", 2, "sampling|a single value|a mapping of keys");
    assert_refused("model: m\nmux: {crf: {a: 1}}\n", 2, "mux.crf|is a mapping");
    assert_refused("model: m\nmux: {crf: high}\n", 2, "mux.crf|\"high\"|0 to 51");
    assert_refused("model: m\nmux: {crf: 17.5}\n", 2, "mux.crf|\"17.5\"|whole number");
    assert_refused("model: m\nmux: {crf: \"17\"}\n", 2, "mux.crf|without quotes");
    assert_refused("model: m\nmux:\n  crf:\n", 3, "mux.crf|has no value");
    assert_refused("model: m\noutput: {overwrite: 1}\n", 2, "output.overwrite|\"1\"|true or false");
    assert_refused("model: m\nsampling: {sample_shift: five}\n", 2, "\"five\"|a number");
    assert_refused("model: m\nsampling: {sample_shift: 0x5}\n", 2, "\"0x5\"");
    assert_refused("model: m\nsampling: {denoising_step_list: {a: 1}}\n", 2, "is a mapping");
    assert_refused("model: m\nsampling: {denoising_step_list: [1000, [1]]}\n", 2, "a list of");
    assert_refused("model: m\nstages: {dit: cpu}\n", 2, "stages.dit|a mapping of keys");
    assert_refused("model: m\nstages: {dit: {replicas: {a: 1}}}\n", 2, "a number or a list");
    assert_refused("model: m\nstages: {dit: {replicas: [cpu]}}\n", 2, "replicas[0]");
    assert_refused("- model\n", 1, "is a list");
    assert_refused("just words\n", 1, "a mapping of keys");
}

static void test_config_values_out_of_range(void **state)
{
    (void)state;
    assert_refused("model: m\nmux: {crf: 52}\n", 2, "mux.crf|\"52\"|0 to 51");
    assert_refused("model: m\nmux: {crf: -1}\n", 2, "0 to 51");
    assert_refused("model: m\nlinks: {depth: 99999999999999999999}\n", 2, "1 to 8");
    assert_refused("model: m\nlinks: {transport: same}\n", 2, "auto, ipc, peer, ring");
    assert_refused("model: m\ndefaults: {fps: .inf}\n", 2, "defaults.fps");
    assert_refused("model: m\ndefaults: {fps: nan}\n", 2, "defaults.fps");
    assert_refused("model: m\ndefaults: {fps: 1e999}\n", 2, "defaults.fps");
    assert_refused("model: m\ndefaults: {seed: -2}\n", 2, "defaults.seed|-1");
    assert_refused("model: m\ndefaults: {seed: 9223372036854775808}\n", 2, "defaults.seed");
    assert_refused("model: m\nmemory: {ram: 99999999999TiB}\n", 2, "memory.ram|6GiB");
    assert_refused("model: m\nmemory: {ram: 6G}\n", 2, "\"6G\"|GiB");
    assert_refused("model: m\nvae: {tile: 4x4}\n", 2, "vae.tile|off");
    assert_refused("model: m\nvae: {tile: 480p}\n", 2, "vae.tile");
    assert_refused("model: m\nvae: {chunk: 0}\n", 2, "vae.chunk");
    assert_refused("model: m\nmux: {preset: fats}\n", 2, "did you mean fast?");
    assert_refused("model: m\nsampling: {sampler: dpm}\n", 2, "euler, lcm");
    assert_refused("model: m\nsampling: {rng: torch}\n", 2, "sampling.rng|torch-cpu");
    assert_refused("model: m\nsampling: {sample_guide_scale: 6}\n", 2,
                   "sample_guide_scale|\"6\"|distilled");
    assert_refused("model: m\nsampling:\n  denoising_step_list: [500, 750]\n", 3,
                   "750 after 500|below");
    assert_refused("model: m\nsampling: {denoising_step_list: []}\n", 2, "0 entries");
    assert_refused("model: m\nsampling: {denoising_step_list: \"1000;500\"}\n", 2, "commas");
    assert_refused("model: m\nstages: {dit: {replicas: 9}}\n", 2, "1 to 8");
    assert_refused("model: m\nstages: {dit: {replicas: []}}\n", 2, "empty");
    assert_refused("model: m\nstages: {dit: {threads: 100000}}\n", 2, "0 to 1024");
    assert_refused("model: m\nstages: {dit: {replicas: [{}, {}, {}, {}, {}, {}, {}, {}, {}]}}\n", 2,
                   "more than 8");
    assert_refused("model: m\nstages: {dit: {threads: 2, replicas: [{}]}}\n", 2,
                   "put it into each replica");
}

static void test_config_sizes_name_the_nearest_values(void **state)
{
    (void)state;
    assert_refused("model: m\ndefaults:\n  size: 833x480\n", 3, "defaults.size|832 and 848");
    assert_refused("model: m\ndefaults:\n  frames: 80\n", 3, "defaults.frames|77 and 81");
    assert_refused("model: m\nlimits:\n  frames: 82\n", 3, "limits.frames|81 and 85");
    assert_refused("model: m\ndefaults: {size: 832}\n", 2, "\"832\"|832x480");
    assert_refused("model: m\ndefaults: {size: 0x480}\n", 2, "defaults.size");
    assert_refused("model: m\ndefaults: {size: 99999999999x16}\n", 2, "defaults.size");
    assert_refused("model: m\nlimits:\n  size: 256x128\n", 3, "832x480|set both");
    assert_refused("model: m\nlimits:\n  frames: 17\n", 3, "81|set both");
}

static void test_config_devices(void **state)
{
    (void)state;
    assert_refused("model: m\nstages: {dit: {device: gpu}}\n", 2, "stages.dit.device|cuda:0");
    assert_refused("model: m\nstages: {dit: {device: cuda:-1}}\n", 2, "stages.dit.device");
    assert_refused("model: m\nstages: {dit: {device: cuda:64}}\n", 2, "stages.dit.device");
    assert_parses("model: m\nstages: {dit: {device: \"cuda:RTX 3060\"}}\n");
    assert_string_equal(config.stage[LX_STAGE_DIT].replica[0].device, "cuda:RTX 3060");
    assert_parses("model: m\nstages:\n  dit: {device: cuda:1}\n");
    assert_string_equal(config.stage[LX_STAGE_DIT].replica[0].device, "cuda:1");
    /* Read anywhere, run only where it can. */
    lx_err err = {0};
    if (strcmp(LX2V_BACKEND, "cuda") == 0) {
        assert_int_equal(lx_config_check_build(&config, &err), LX_OK);
        return;
    }
    assert_int_equal(lx_config_check_build(&config, &err), LX_ECONFIG);
    const char *const words[] = {"rig.yaml", "stages.dit", "\"cuda:1\"", "no CUDA", "LX2V_CUDA=ON"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        assert_non_null(strstr(err.message, words[i]));
    assert_parses("model: m\n");
    assert_int_equal(lx_config_check_build(&config, &err), LX_OK);
}

static void test_config_vram_of_every_card_or_by_name(void **state)
{
    (void)state;
    const lx_vram_config *v = &config.memory.vram;
    assert_parses("model: m\n");
    assert_true(v->every == 0 && v->n == 0 && config.memory.policy == LX_POLICY_AUTO);
    assert_parses("model: m\nmemory: {vram: 10GiB, policy: alternate}\n");
    assert_true(v->every == 10ULL << 30 && v->n == 0);
    assert_int_equal(config.memory.policy, LX_POLICY_ALTERNATE);
    assert_parses("model: m\nmemory:\n  vram:\n    cuda:1: 5GiB\n    cuda:rtx3060: auto\n");
    assert_true(v->n == 2 && v->card[0].bytes == 5ULL << 30 && v->card[1].bytes == 0);
    assert_string_equal(v->card[0].device, "cuda:1");
    assert_refused("model: m\nmemory: {vram: much}\n", 2, "memory.vram|6GiB");
    assert_refused("model: m\nmemory:\n  vram:\n    cpu: 5GiB\n", 4, "memory.vram.cpu|a card");
    assert_refused("model: m\nmemory:\n  vram:\n    gpu1: 5GiB\n", 4, "memory.vram.gpu1|cuda:0");
    assert_refused("model: m\nmemory:\n  vram:\n    cuda:0: {a: 1}\n", 4,
                   "vram.cuda:0|is a mapping");
    assert_refused("model: m\nmemory:\n  vram:\n    cuda:0: 1GiB\n    cuda:0: 2GiB\n", 5,
                   "given twice");
    assert_refused("model: m\nmemory: {policy: both}\n", 2, "memory.policy|overlap, alternate");
}

static void test_config_refuses_yaml_beyond_plain_keys(void **state)
{
    (void)state;
    assert_refused("model: &a m\n", 1, "&a|anchors");
    assert_refused("model: m\noutput: {dir: *a}\n", 2, "*a|aliases");
    assert_refused("model: !!str m\n", 1, "tags");
    assert_refused("model: m\nmux: !x {}\n", 2, "tags");
    assert_refused("model: m\n---\nmodel: n\n", 2, "second document");
    assert_refused("%TAG ! tag:x,2000:\n---\nmodel: m\n", 1, "TAG");
    assert_refused("model: \"a\\0b\"\n", 1, "NUL");
    assert_refused("model: \"a\\nb\"\n", 1, "control characters");
    assert_refused("model: m\nmux: {crf: 1\n", 3, "not YAML");
    assert_refused("model: m\n\tmux: 1\n", 2, "not YAML");
    assert_refused("model: m\xff\n", 1, "not YAML");
    assert_refused("", 1, "empty");
    assert_refused("# nothing\n\n", 1, "empty");
    assert_refused("output: {dir: o}\n", 1, "model: missing");
    assert_refused("model: {dit: d, text: t, vae: v}\n", 1, "model: missing|tokenizer");
}

static void test_config_state_dir_must_fit_a_socket_path(void **state)
{
    (void)state;
    char text[256];
    snprintf(text, sizeof text, "model: m\nstate:\n  dir: /%0*d\n", 93, 0);
    assert_parses(text);
    snprintf(text, sizeof text, "model: m\nstate:\n  dir: /%0*d\n", 94, 0);
    assert_refused(text, 3, "state.dir|108 bytes|107");
}

static void test_config_hang_must_exceed_three_beats(void **state)
{
    (void)state;
    assert_refused("model: m\nsupervision: {beat_s: 30}\n", 2, "supervision.hang_s|three beats");
}

static void test_config_long_values_are_cut_in_messages(void **state)
{
    (void)state;
    static char text[20000];
    snprintf(text, sizeof text, "model: m\nmux: {preset: %0*d}\n", 10000, 7);
    assert_refused(text, 2, "mux.preset|00000000\" is not accepted; accepted: ultrafast");
}

/* --- files ------------------------------------------------------------------------------------ */

static void write_file(const char *path, const char *text, size_t bytes, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_config_file_mode_and_size(void **state)
{
    (void)state;
    char folder[] = "/tmp/lx2v-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/rig.yaml", folder);
    lx_err err = {0};
    assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "cannot be read"));
    assert_int_equal(lx_config_load(&config, folder, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "not a regular file"));

    write_file(path, "model: m\n", 9, 0644);
    assert_int_equal(lx_config_load(&config, path, &err), LX_OK);
    assert_int_equal(chmod(path, 0646), 0);
    assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "chmod go-w"));
    if (geteuid() == 0) { /* only root can give it to a group of many, or to another user */
        write_file(path, "model: m\n", 9, 0664);
        assert_int_equal(chown(path, 0, 65534), 0);
        assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
        assert_non_null(strstr(err.message, "chmod go-w"));
        write_file(path, "model: m\n", 9, 0644);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
        assert_non_null(strstr(err.message, "belongs to user 65534"));
    }
    unlink(path);

    size_t bytes = LX_LIMIT_CONFIG + 1;
    char *big = malloc(bytes);
    assert_non_null(big);
    memset(big, '#', bytes);
    write_file(path, big, bytes, 0644);
    assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "at most"));
    assert_int_equal(lx_config_parse(&config, big, bytes, path, &err), LX_ECONFIG);
    free(big);
    unlink(path);
    rmdir(folder);
}

/* A second pipeline on the same file: what `lx2v bench` starts beside a running one. */
static void test_config_environment_moves_state_and_output(void **state)
{
    (void)state;
    char folder[] = "/tmp/lx2v-test-XXXXXX", path[64], longer[140];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/rig.yaml", folder);
    lx_err err = {0};
    const char *text = "model: m\noutput: {dir: out}\nstate: {dir: state}\n";
    write_file(path, text, strlen(text), 0644);
    setenv("LX2V_STATE_DIR", "/tmp/elsewhere", 1);
    setenv("LX2V_OUTPUT_DIR", "/tmp/elsewhere/clips", 1);
    assert_int_equal(lx_config_load(&config, path, &err), LX_OK);
    assert_string_equal(config.state.dir, "/tmp/elsewhere");
    assert_string_equal(config.output.dir, "/tmp/elsewhere/clips");
    setenv("LX2V_STATE_DIR", "relative", 1);
    assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "LX2V_STATE_DIR=relative"));
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[95] = 0; /* one more than a socket's path leaves room for */
    setenv("LX2V_STATE_DIR", longer, 1);
    assert_int_equal(lx_config_load(&config, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "at most 94 bytes"));
    unsetenv("LX2V_STATE_DIR");
    unsetenv("LX2V_OUTPUT_DIR");
    unlink(path);
    rmdir(folder);
}

/* --- the parsers shared with the command line ------------------------------------------------- */

static void test_parse_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t width, height;
    } good[] = {{"832x480", 832, 480}, {"832*480", 832, 480}, {"832X480", 832, 480},
                {"480p", 832, 480},    {"480P", 832, 480},    {"720p", 1280, 720},
                {"1x2", 1, 2}};
    int32_t w, h;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(lx_parse_size(good[i].text, &w, &h, NULL), LX_OK);
        assert_int_equal(w, good[i].width);
        assert_int_equal(h, good[i].height);
    }
    const char *bad[] = {"", "x", "832", "832x", "x480", "832x480x81", "-1x5", "832 x 480", "360p"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_parse_size(bad[i], &w, &h, NULL), LX_ECONFIG);
}

static void test_parse_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"6GiB", 6ULL << 30},
                {"6 gib", 6ULL << 30},
                {"1.5GiB", 3ULL << 29},
                {"6GB", 6000000000},
                {"18446744073709551615", UINT64_MAX},
                {"16777215TiB", 16777215ULL << 40}};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(lx_parse_bytes(good[i].text, &bytes, NULL), LX_OK);
        assert_true(bytes == good[i].bytes);
    }
    const char *bad[] = {"",
                         "GiB",
                         "-1",
                         "6G",
                         "1.GiB",
                         "6GiBs",
                         "18446744073709551616",
                         "16777216TiB",
                         "0x10",
                         "16777215.9999999999TiB"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_parse_bytes(bad[i], &bytes, NULL), LX_ECONFIG);
}

static void test_parse_steps(void **state)
{
    (void)state;
    int32_t steps[LX_LIMIT_STEPS], n;
    assert_int_equal(lx_parse_steps("1000,750, 500 ,250", steps, &n, NULL), LX_OK);
    assert_int_equal(n, 4);
    assert_int_equal(steps[2], 500);
    const char *bad[] = {"", ",", "1000,", "1000 500", "500,1000", "0", "1001", "1000,500,x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_parse_steps(bad[i], steps, &n, NULL), LX_ECONFIG);
    char many[5 * 1001] = "1000"; /* one more than LX_LIMIT_STEPS */
    for (int i = 1; i <= LX_LIMIT_STEPS; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), ",%d", 1000 - i);
    assert_int_equal(lx_parse_steps(many, steps, &n, NULL), LX_ECONFIG);
}

static void test_parse_numbers(void **state)
{
    (void)state;
    int64_t i;
    double d;
    assert_true(lx_parse_i64("-9223372036854775807", &i) && i == -INT64_MAX);
    assert_true(lx_parse_i64("9223372036854775807", &i) && i == INT64_MAX);
    assert_true(lx_parse_real("-2.5e-1", &d) && d == -0.25);
    const char *bad_ints[] = {"", "-", "+", "9223372036854775808", "1 ", " 1", "1.0", "0x1"};
    for (size_t k = 0; k < sizeof bad_ints / sizeof *bad_ints; k++)
        assert_false(lx_parse_i64(bad_ints[k], &i));
    const char *bad_reals[] = {"", "e", "1e999", "nan", "inf", "0x1p3", "1,5", "1.0 ", "--1"};
    for (size_t k = 0; k < sizeof bad_reals / sizeof *bad_reals; k++)
        assert_false(lx_parse_real(bad_reals[k], &d));
}

static void test_nearest_word(void **state)
{
    (void)state;
    const char *const words[] = {"size", "frames", "seed", "sample_shift"};
    assert_string_equal(lx_nearest("siez", words, 4), "size");
    assert_string_equal(lx_nearest("Frame", words, 4), "frames");
    assert_string_equal(lx_nearest("sampleshift", words, 4), "sample_shift");
    assert_null(lx_nearest("gpu", words, 4));
    assert_null(lx_nearest("", words, 4));
    char long_word[1000];
    memset(long_word, 'a', sizeof long_word - 1);
    long_word[sizeof long_word - 1] = 0;
    assert_null(lx_nearest(long_word, words, 4));
    assert_null(lx_nearest("size", words, 0));
}

static void test_config_listens_on_no_network_by_a_slip(void **state)
{
    (void)state;
    assert_parses("model: m\n");
    assert_string_equal(config.listen.tcp, "");
    assert_false(config.weights.require_manifest);
    assert_parses("model: m\nlisten: {tcp: off}\n");
    assert_string_equal(config.listen.tcp, "");
    assert_parses("model: m\nlisten: {tcp: '192.168.1.5:7421', keys: k}\n");
    assert_string_equal(config.listen.tcp, "192.168.1.5:7421");
    assert_string_equal(config.listen.keys, "/tmp/k");
    assert_parses("model: m\nlisten: {tcp: '[fd00::5]:0', keys: k}\n");
    assert_parses("model: m\nlisten: {tcp: '0.0.0.0:7421', keys: k, allow_any: true}\n");
    assert_refused("model: m\nlisten: {tcp: '127.0.0.1:7421'}\n", 2, "listen.tcp|listen.keys");
    assert_refused("model: m\nlisten: {tcp: '0.0.0.0:7421', keys: k}\n", 2, "allow_any");
    assert_refused("model: m\nlisten: {tcp: '[::]:7421', keys: k}\n", 2, "allow_any");
    assert_refused("model: m\nlisten: {tcp: '[0::0]:7421', keys: k}\n", 2, "allow_any");
    assert_refused("model: m\nlisten: {tcp: '*:7421', keys: k}\n", 2, "listen.tcp|IP:PORT");
    assert_refused("model: m\nlisten: {tcp: 'eth0:7421', keys: k}\n", 2, "listen.tcp|IP:PORT");
    assert_refused("model: m\nlisten: {tcp: '127.0.0.1', keys: k}\n", 2, "listen.tcp|IP:PORT");
    assert_refused("model: m\nlisten: {tcp: '127.0.0.1:65536', keys: k}\n", 2, "listen.tcp");
    assert_refused("model: m\nlisten: {tcp: '127.0.0.1:-1', keys: k}\n", 2, "listen.tcp");
    assert_refused("model: m\nlisten: {tcp: '[127.0.0.1:1', keys: k}\n", 2, "listen.tcp");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_listens_on_no_network_by_a_slip),
        cmocka_unit_test(test_parse_numbers),
        cmocka_unit_test(test_parse_sizes),
        cmocka_unit_test(test_parse_bytes),
        cmocka_unit_test(test_parse_steps),
        cmocka_unit_test(test_nearest_word),
        cmocka_unit_test(test_config_needs_only_the_model),
        cmocka_unit_test(test_config_every_value_arrives),
        cmocka_unit_test(test_config_replicas_by_number_and_by_list),
        cmocka_unit_test(test_config_residency_of_stages_and_replicas),
        cmocka_unit_test(test_config_attention_of_the_dit),
        cmocka_unit_test(test_config_paths),
        cmocka_unit_test(test_config_state_dir_belongs_to_the_config),
        cmocka_unit_test(test_config_unknown_keys_name_the_nearest),
        cmocka_unit_test(test_config_duplicate_keys),
        cmocka_unit_test(test_config_wrong_types),
        cmocka_unit_test(test_config_values_out_of_range),
        cmocka_unit_test(test_config_sizes_name_the_nearest_values),
        cmocka_unit_test(test_config_devices),
        cmocka_unit_test(test_config_vram_of_every_card_or_by_name),
        cmocka_unit_test(test_config_refuses_yaml_beyond_plain_keys),
        cmocka_unit_test(test_config_state_dir_must_fit_a_socket_path),
        cmocka_unit_test(test_config_hang_must_exceed_three_beats),
        cmocka_unit_test(test_config_long_values_are_cut_in_messages),
        cmocka_unit_test(test_config_file_mode_and_size),
        cmocka_unit_test(test_config_environment_moves_state_and_output),
        cmocka_unit_test(test_config_shipped_file_is_valid_and_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
