/*
 * cli_selftest.c - lx2v selftest: every stage once, by hand, on the configured weights
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each stage runs as `lx2v-STAGE run`, on its configured device, one after the other, so that only
 * one model is in memory at a time. One that fails does not end the test: the next one gets an
 * input of ours.
 */
#include "cli_selftest.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_process.h"
#include "lx_child.h"
#include "lx_config.h"
#include "lx_device.h"
#include "lx_host.h"
#include "lx_process.h"

#define WORDS_MAX   32
#define FRAMES      5
#define SIDE_CPU    128 /* pixels: the 14B takes minutes on a CPU already so */
#define SIDE_CARD   256
#define SEED        "42"
#define STOP_S      5.0
#define LX_TEXT_MAX 1024

typedef struct trial {
    cli_args args;
    const char *size, *frames;
    lx_config config;
    int32_t width, height, n_frames;
    lx_model_paths paths;
    selftest s;
    int n_told;
    double until_s; /* INFINITY without --timeout */
    char log[96];
} trial;

/* One stage's command line. */
typedef struct command {
    char path[LX_LIMIT_PATH];
    char *word[WORDS_MAX];
    int n;
    char threads[16], vram[32], ram[32], size[32], frames[16], shift[32], steps[LX_LIMIT_STEPS * 5];
} command;

static void say(command *c, const char *word)
{
    if (c->n < WORDS_MAX - 1)
        c->word[c->n++] = (char *)(uintptr_t)word; /* exec does not write to it */
    c->word[c->n] = NULL;
}

static void say_two(command *c, const char *flag, const char *value)
{
    say(c, flag);
    say(c, value);
}

static const char *file_in(const trial *t, const char *name, char path[96])
{
    snprintf(path, 96, "%s/%s", t->s.folder, name);
    return path;
}

/* New lines for the person. */
static void tell(trial *t)
{
    for (; t->n_told < t->s.n; t->n_told++)
        if (!t->args.common.json)
            selftest_print(&t->s.check[t->n_told]);
}

/* --- running ---------------------------------------------------------------------------------- */

/* What the config allows on that card, if it says so in bytes. */
static void say_vram(const trial *t, command *c, const char *device)
{
    const lx_vram_config *v = &t->config.memory.vram;
    uint64_t bytes = v->every;
    for (int i = 0; i < v->n && i < LX_VRAM_CARDS; i++)
        if (strcmp(v->card[i].device, device) == 0)
            bytes = v->card[i].bytes;
    if (bytes == 0)
        return;
    snprintf(c->vram, sizeof c->vram, "%" PRIu64 "B", bytes);
    say_two(c, "--vram", c->vram);
}

/* As the pipeline would: weights that go through host memory or stay on disk are tested there. */
static void say_memory(const trial *t, command *c, lx_stage_kind kind)
{
    const lx_replica_config *replica = &t->config.stage[kind].replica[0];
    if (kind == LX_STAGE_MUX || !lx_device_is_card(replica->device))
        return;
    say_vram(t, c, replica->device);
    if (kind == LX_STAGE_ENCODER || kind == LX_STAGE_DIT)
        say_two(c, "--residency", lx_residency_names[replica->residency]);
    if (kind != LX_STAGE_DIT)
        return;
    lx_host_memory memory;
    lx_host_memory_look(&memory);
    uint64_t bytes = t->config.memory.ram;
    if (!bytes && memory.available > LX_HOST_KEEP)
        bytes = memory.available - LX_HOST_KEEP;
    if (!bytes)
        return;
    snprintf(c->ram, sizeof c->ram, "%" PRIu64 "B", bytes);
    say_two(c, "--ram", c->ram);
}

static void say_arithmetic(const trial *t, command *c, lx_stage_kind kind)
{
    const lx_replica_config *replica = &t->config.stage[kind].replica[0];
    if (replica->attention != LX_ATTENTION_AUTO)
        say_two(c, "--attention", lx_attention_names[replica->attention]);
    if (replica->accumulate != LX_ACCUMULATE_AUTO)
        say_two(c, "--accumulate", lx_accumulate_names[replica->accumulate]);
}

static lx_status begin(const trial *t, command *c, lx_stage_kind kind, lx_err *err)
{
    char name[32];
    const lx_replica_config *replica = &t->config.stage[kind].replica[0];
    memset(c, 0, sizeof *c);
    snprintf(name, sizeof name, "lx2v-%s", lx_stage_kind_name(kind));
    lx_status status = lx_child_beside(c->path, sizeof c->path, name, err);
    say(c, c->path);
    say(c, "run");
    if (kind != LX_STAGE_MUX)
        say_two(c, "--device", replica->device);
    say_memory(t, c, kind);
    if (replica->threads > 0) {
        snprintf(c->threads, sizeof c->threads, "%d", replica->threads);
        say_two(c, "--threads", c->threads);
    }
    return status;
}

/* What its own last words point to. */
static void advise(const trial *t, selftest_check *c, const char *stage, const char *path)
{
    const char *words = c->value;
    if (strstr(words, "not finite") || strstr(words, "damaged") || strstr(words, "truncated"))
        snprintf(c->advice, sizeof c->advice,
                 "%.500s is damaged: download it again (lx2v doctor --weights DIR compares sizes)",
                 path);
    else if (strstr(words, "tokenizer") || strstr(words, "vocabulary") || strstr(words, "piece"))
        snprintf(c->advice, sizeof c->advice,
                 "%.300s is not the tokenizer of %.300s: use google/umt5-xxl of the model's "
                 "repository",
                 t->paths.tokenizer, t->paths.text);
    else if (strstr(words, "memory") || strstr(words, "allowed"))
        snprintf(c->advice, sizeof c->advice,
                 "it does not fit beside what runs now: stop other programs on the device (lx2v "
                 "shutdown, lx2v doctor), or test with a smaller --size");
    else if (strstr(words, "signal"))
        snprintf(c->advice, sizeof c->advice,
                 "the %s crashed: please report it (lx2v report), with this text", stage);
    else
        snprintf(c->advice, sizeof c->advice, "see the message; lx2v report collects what to send");
}

static lx_status given_up(cli_process *p, bool was_interrupted, const char *stage, lx_err *err)
{
    cli_process_stop(p, STOP_S);
    return was_interrupted
               ? lx_fail(err, LX_ECANCEL, "interrupted while the %s ran", stage)
               : lx_fail(err, LX_ETIMEOUT, "the %s had not ended when the time was over", stage);
}

/* Run it to its end. LX_OK: see *is_good; a failure of the stage is a check, not an error. out: its
 * stdout's first line, may be NULL. */
static lx_status run_it(trial *t, const char *stage, const char *path, command *c, bool *is_good,
                        char *out, size_t out_bytes, lx_err *err)
{
    cli_process p;
    char words[LX_TEXT_MAX];
    cli_process_plan plan = {.argv = c->word,
                             .setting = {"OMP_WAIT_POLICY=passive"}, /* as the launcher does */
                             .log = t->log,
                             .death_signal = SIGKILL};
    unlink(t->log);
    *is_good = false;
    lx_status status = cli_process_start(&p, &plan, err);
    if (status != LX_OK)
        return status;
    if (out && cli_process_line(&p, t->until_s - lx_now_s()))
        snprintf(out, out_bytes, "%s", p.line);
    if (!cli_process_wait(&p, t->until_s - lx_now_s()))
        return given_up(&p, cli_interrupted(), stage, err);
    cli_process_stop(&p, 0); /* only our ends of its pipes are left */
    *is_good = p.exit_code == 0;
    if (*is_good)
        return LX_OK;
    cli_process_last_words(t->log, words, sizeof words);
    selftest_check *check = selftest_add(&t->s, stage, "run", SELFTEST_FAILED);
    if (p.exit_code > 128)
        snprintf(check->value, sizeof check->value, "ended by signal %d", p.exit_code - 128);
    else
        snprintf(check->value, sizeof check->value, "exit code %d: %.280s", p.exit_code, words);
    advise(t, check, stage, path);
    t->s.must_act = t->s.must_act || p.exit_code == 2;
    return LX_OK;
}

static void skip(trial *t, const char *stage, const char *why)
{
    selftest_check *c = selftest_add(&t->s, stage, "run", SELFTEST_SKIPPED);
    snprintf(c->value, sizeof c->value, "%s", why);
}

/* A check that could not be made for want of a file that a stage should have written. */
static lx_status judge(trial *t, const char *stage, lx_status status, lx_err *why)
{
    if (status == LX_OK)
        return LX_OK;
    selftest_check *c = selftest_add(&t->s, stage, "output", SELFTEST_FAILED);
    snprintf(c->value, sizeof c->value, "%.300s", why->message);
    snprintf(c->advice, sizeof c->advice, "please report it (lx2v report), with this text");
    lx_err_clear(why);
    return LX_OK;
}

/* --- the stages ------------------------------------------------------------------------------- */

static lx_status encode(trial *t, int prompt, const char *output, bool *is_good, lx_err *err)
{
    command c;
    lx_status status = begin(t, &c, LX_STAGE_ENCODER, err);
    if (status != LX_OK)
        return status;
    say_two(&c, "--weights", t->paths.text);
    say_two(&c, "--tokenizer", t->paths.tokenizer);
    say_two(&c, "--prompt", selftest_prompt(prompt));
    say_two(&c, "--output", output);
    return run_it(t, "encoder", t->paths.text, &c, is_good, NULL, 0, err);
}

static lx_status try_encoder(trial *t, bool *has_context, lx_err *err)
{
    char first[96], again[96], second[96];
    bool is_good = false;
    lx_err why = {0};
    *has_context = false;
    if (!t->s.has_t5)
        return skip(t, "encoder", "its file is not usable"), LX_OK;
    cli_say("encoder: two prompts, one of them twice");
    lx_status status = encode(t, 0, file_in(t, "first.safetensors", first), &is_good, err);
    *has_context = status == LX_OK && is_good;
    if (status == LX_OK && is_good)
        status = encode(t, 0, file_in(t, "again.safetensors", again), &is_good, err);
    if (status == LX_OK && is_good)
        status = encode(t, 1, file_in(t, "second.safetensors", second), &is_good, err);
    if (status != LX_OK || !is_good)
        return status;
    return judge(t, "encoder", selftest_encoder(&t->s, first, again, second, &why), &why);
}

static void say_sampling(const trial *t, command *c)
{
    size_t used = 0;
    for (int32_t i = 0; i < t->config.sampling.n_steps && used < sizeof c->steps; i++)
        used += (size_t)snprintf(c->steps + used, sizeof c->steps - used, "%s%d", i ? "," : "",
                                 (int)t->config.sampling.steps[i]);
    snprintf(c->shift, sizeof c->shift, "%.17g", t->config.sampling.shift);
    snprintf(c->size, sizeof c->size, "%dx%d", t->width, t->height);
    snprintf(c->frames, sizeof c->frames, "%d", t->n_frames);
    say_two(c, "--steps-list", c->steps);
    say_two(c, "--shift", c->shift);
    say_two(c, "--size", c->size);
    say_two(c, "--frames", c->frames);
    say_two(c, "--seed", SEED);
    say_two(c, "--sampler", "euler"); /* the one whose sum can be checked */
}

/* Which attention it chose, and why: its own line of the log. */
static void tell_attention(trial *t)
{
    static const char mark[] = " attention: ";
    char line[512];
    FILE *log = fopen(t->log, "re");
    while (log && fgets(line, sizeof line, log)) {
        char *at = strstr(line, mark);
        if (!at)
            continue;
        selftest_check *c = selftest_add(&t->s, "dit", "attention", SELFTEST_VALUE);
        at[strcspn(at, "\r\n")] = '\0';
        cli_safe(at + sizeof mark - 1, c->value, sizeof c->value);
        break;
    }
    if (log)
        fclose(log);
}

static lx_status try_dit(trial *t, bool has_context, bool *has_latent, lx_err *err)
{
    command c;
    char input[96], output[96];
    lx_err why = {0};
    *has_latent = false;
    if (!t->s.has_dit)
        return skip(t, "dit", "its file is not usable"), LX_OK;
    if (has_context && t->s.t5.dim != t->s.dit.text_dim)
        has_context = false;
    cli_say("dit: %d steps on %dx%d with %d frames%s", (int)t->config.sampling.n_steps, t->width,
            t->height, t->n_frames, has_context ? "" : ", on a random context");
    file_in(t, has_context ? "first.safetensors" : "context.safetensors", input);
    lx_status status = has_context ? LX_OK : selftest_make_context(&t->s, input, err);
    if (status == LX_OK)
        status = begin(t, &c, LX_STAGE_DIT, err);
    if (status != LX_OK)
        return status;
    say_two(&c, "--weights", t->paths.dit);
    say_two(&c, "--input", input);
    say_two(&c, "--output", file_in(t, "latent.safetensors", output));
    say_sampling(t, &c);
    say_arithmetic(t, &c, LX_STAGE_DIT);
    status = run_it(t, "dit", t->paths.dit, &c, has_latent, NULL, 0, err);
    if (status != LX_OK || !*has_latent)
        return status;
    tell_attention(t);
    return judge(t, "dit", selftest_dit(&t->s, output, &why), &why);
}

static lx_status try_vae(trial *t, bool has_latent, bool *has_frames, lx_err *err)
{
    command c;
    char input[96], output[96];
    lx_err why = {0};
    *has_frames = false;
    if (!t->s.has_vae)
        return skip(t, "vae", "its file is not usable"), LX_OK;
    cli_say("vae: %s", has_latent ? "the latent of the dit" : "a random latent");
    file_in(t, has_latent ? "latent.safetensors" : "noise.safetensors", input);
    lx_status status = LX_OK;
    if (!has_latent)
        status = selftest_make_latent(input, (t->n_frames - 1) / LX_VAE_STRIDE_TIME + 1,
                                      t->height / LX_VAE_STRIDE, t->width / LX_VAE_STRIDE, err);
    if (status == LX_OK)
        status = begin(t, &c, LX_STAGE_VAE, err);
    if (status != LX_OK)
        return status;
    say_two(&c, "--weights", t->paths.vae);
    say_two(&c, "--input", input);
    say_two(&c, "--output", file_in(t, "frames.safetensors", output));
    say_arithmetic(t, &c, LX_STAGE_VAE);
    status = run_it(t, "vae", t->paths.vae, &c, has_frames, NULL, 0, err);
    if (status != LX_OK || !*has_frames)
        return status;
    return judge(t, "vae", selftest_vae(&t->s, output, &why), &why);
}

static lx_status try_mux(trial *t, bool has_frames, lx_err *err)
{
    command c;
    char input[96], clip[96], json[512] = "";
    bool is_good = false;
    lx_err why = {0};
    if (!has_frames)
        return skip(t, "mux", "there are no frames"), LX_OK;
    cli_say("mux: writes a clip and reads it back");
    lx_status status = begin(t, &c, LX_STAGE_MUX, err);
    if (status != LX_OK)
        return status;
    say_two(&c, "--input", file_in(t, "frames.safetensors", input));
    say_two(&c, "--output", file_in(t, "clip.mp4", clip));
    status = run_it(t, "mux", "lx2v-mux", &c, &is_good, NULL, 0, err);
    if (status != LX_OK || !is_good)
        return status;
    command check = {.n = 0};
    snprintf(check.path, sizeof check.path, "%s", c.path);
    say(&check, check.path);
    say(&check, "check");
    say(&check, clip);
    status = run_it(t, "mux", "lx2v-mux", &check, &is_good, json, sizeof json, err);
    if (status != LX_OK || !is_good)
        return status;
    return judge(t, "mux", selftest_mux(&t->s, json, t->n_frames, &why), &why);
}

/* --- the command ------------------------------------------------------------------------------ */

static lx_status choose_size(trial *t, lx_err *err)
{
    cli_request r = {0};
    bool is_card = lx_device_is_card(t->config.stage[LX_STAGE_DIT].replica[0].device);
    t->width = t->height = is_card ? SIDE_CARD : SIDE_CPU;
    t->n_frames = FRAMES;
    if ((t->size && cli_request_set(&r, "size", t->size, err) != LX_OK) ||
        (t->frames && cli_request_set(&r, "frames", t->frames, err) != LX_OK))
        return lx_fail(err, LX_ECONFIG, "--%s", err->message);
    if (t->size) {
        t->width = r.width;
        t->height = r.height;
    }
    if (t->frames)
        t->n_frames = r.frames;
    return LX_OK;
}

static lx_status run_all(trial *t, lx_err *err)
{
    bool has_context = false, has_latent = false, has_frames = false;
    selftest_files(&t->s);
    tell(t);
    lx_status status = try_encoder(t, &has_context, err);
    tell(t);
    if (status == LX_OK)
        status = try_dit(t, has_context, &has_latent, err);
    tell(t);
    if (status == LX_OK)
        status = try_vae(t, has_latent, &has_frames, err);
    tell(t);
    if (status == LX_OK)
        status = try_mux(t, has_frames, err);
    tell(t);
    return status;
}

/* What all of it means: the first failure, with its class. */
static lx_status conclude(const trial *t, lx_err *err)
{
    int n_failed = 0, n_warnings = 0, first = -1;
    for (int i = 0; i < t->s.n; i++) {
        selftest_verdict v = t->s.check[i].verdict;
        n_failed += v == SELFTEST_FAILED;
        n_warnings += v == SELFTEST_WARNING;
        first = v == SELFTEST_FAILED && first < 0 ? i : first;
    }
    if (first >= 0)
        return lx_fail(err, t->s.must_act ? LX_ECONFIG : LX_EJOB,
                       "selftest: %d of %d checks failed, first %s, %s: %s; %.400s", n_failed,
                       t->s.n, t->s.check[first].stage, t->s.check[first].what,
                       t->s.check[first].value, t->s.check[first].advice);
    cli_say("selftest: %d checks, %d warning%s, none failed", t->s.n, n_warnings,
            n_warnings == 1 ? "" : "s");
    return LX_OK;
}

static lx_status test(trial *t, lx_err *err)
{
    const char *path = t->args.common.config ? t->args.common.config : "config.yaml";
    lx_status status = lx_config_load(&t->config, path, err);
    if (status == LX_OK)
        status = choose_size(t, err);
    if (status == LX_OK)
        status = lx_model_of_config(&t->paths, &t->config, err);
    if (status == LX_OK)
        status = cli_folder_make(t->s.folder, "selftest", err);
    if (status != LX_OK) {
        t->s.folder[0] = 0;
        return status;
    }
    t->until_s = t->args.common.timeout_s > 0 ? lx_now_s() + t->args.common.timeout_s : INFINITY;
    file_in(t, "log", t->log);
    cli_catch_interrupt();
    status = run_all(t, err);
    if (status != LX_OK)
        return status;
    if (t->args.common.json)
        cli_json_print(selftest_json(&t->s, t->config.path));
    return conclude(t, err);
}

lx_status cli_selftest(const cli_command *self, int argc, char **argv, lx_err *err)
{
    trial *t = calloc(1, sizeof *t); /* 150 KiB */
    if (!t)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    t->s.paths = &t->paths;
    const cli_flag flags[] = {
        {"size", 0, "WxH", "of the test clip (128x128 on a CPU, 256x256 on a card)", &t->size,
         NULL},
        {"frames", 0, "N", "of the test clip (5)", &t->frames, NULL},
    };
    bool done = false;
    lx_status status = cli_begin(self, &t->args, argc, argv, flags, 2, &done, err);
    if (status == LX_OK && !done && t->args.n_words > 0)
        status = lx_fail(err, LX_ECONFIG, "selftest: \"%.64s\"? It takes --config FILE",
                         t->args.words[0]);
    if (status == LX_OK && !done)
        status = test(t, err);
    if (t->s.folder[0])
        cli_folder_remove(t->s.folder);
    free(t->args.words);
    free(t);
    return status;
}
