/*
 * cli_doctor.c - lx2v doctor: what is here, what is missing
 * SPDX-License-Identifier: Apache-2.0
 *
 * Cards are asked by lx2v-probe, codecs by lx2v-mux, what was measured of cards by lx2v-tune, each
 * a process of its own: whatever a driver does to them, the rest is told.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_cards.h"
#include "cli_machine.h"
#include "lx_child.h"
#include "lx_config.h"
#include "lx_device.h"
#include "weights/lx_model_dir.h"

#define CODECS_S   10.0         /* an answer of milliseconds */
#define TUNE_S     40.0         /* it loads the CUDA module, and runs the probe */
#define TUNE_ROOM  16384        /* a line for each card */
#define SHM_LITTLE (256u << 20) /* bytes of /dev/shm */

/* Everything that was found out. */
typedef struct findings {
    cli_machine machine;
    /* the config, where there is one to look at */
    bool has_config, is_good, is_running;
    char message[LX_ERR_TEXT]; /* what is wrong with it */
    char endpoint[512], launcher[LX_ERR_TEXT];
    lx_config config;
    lx_model_paths model; /* all empty if it is not found */
    /* cards */
    lx_cards cards;
    json_t *probe; /* owned; NULL: probe_error */
    char probe_error[LX_ERR_TEXT];
    /* the rest */
    json_t *codecs; /* owned; NULL: codecs_error */
    char codecs_error[LX_ERR_TEXT];
    char tune[TUNE_ROOM]; /* lx2v-tune --which; "": no card, or no CUDA in this build */
    bool has_measured, has_disk;
    cli_disk disk;
    cli_notes notes;
} findings;

/* --- looking ---------------------------------------------------------------------------------- */

static void look_at_config(findings *f, const cli_common *common)
{
    const char *path = common->config ? common->config : "config.yaml";
    lx_err err = {0};
    f->has_config = access(path, F_OK) == 0;
    if (f->has_config) {
        f->is_good = lx_config_load(&f->config, path, &err) == LX_OK &&
                     lx_config_check_build(&f->config, &err) == LX_OK;
        if (!f->is_good)
            memcpy(f->message, err.message, sizeof f->message);
        else if (lx_model_of_config(&f->model, &f->config, NULL) != LX_OK)
            memset(&f->model, 0, sizeof f->model);
    }
    lx_client *client = NULL;
    lx_err_clear(&err);
    f->is_running = lx_client_find(f->endpoint, sizeof f->endpoint, common->endpoint,
                                   common->config, &err) == LX_OK &&
                    lx_client_open_key(&client, f->endpoint, common->key, 2, &err) == LX_OK;
    if (!f->is_running)
        memcpy(f->launcher, err.message, sizeof f->launcher);
    lx_client_close(&client);
}

static void look_at_cards(findings *f, bool measure)
{
    char *json = NULL;
    lx_err err = {0};
    lx_probe_options options = {.measure = measure, .json = &json};
    lx_status status = lx_device_probe(&f->cards, &options, &err);
    if (status != LX_OK && measure) { /* what can be said without measuring is still worth it */
        cli_note(&f->notes, "measuring the cards failed: %.240s", err.message);
        options.measure = false;
        status = lx_device_probe(&f->cards, &options, &err);
    }
    if (status == LX_OK)
        f->probe = json_loads(json, 0, NULL);
    else
        memcpy(f->probe_error, err.message, sizeof f->probe_error);
    free(json);
}

static void look_at_codecs(findings *f)
{
    char path[LX_LIMIT_PATH], word[] = "codecs", text[8192];
    char *argv[] = {path, word, NULL};
    lx_err err = {0};
    lx_child child = {.argv = argv, .timeout_s = CODECS_S, .out = text, .out_room = sizeof text};
    if (lx_child_beside(path, sizeof path, "lx2v-mux", &err) == LX_OK &&
        lx_child_run(&child, &err) == LX_OK) {
        f->codecs = child.exit_code == 0 ? json_loads(text, 0, NULL) : NULL;
        if (!f->codecs)
            snprintf(err.message, sizeof err.message, "lx2v-mux codecs: exit code %d: %.400s",
                     child.exit_code, child.err);
    }
    if (!f->codecs)
        memcpy(f->codecs_error, err.message, sizeof f->codecs_error);
}

/* Which table of measured designs each card would use. */
static void look_at_tune(findings *f)
{
    char path[LX_LIMIT_PATH], word[] = "--which";
    char *argv[] = {path, word, NULL};
    lx_err err = {0};
    lx_child child = {.argv = argv, .timeout_s = TUNE_S, .out = f->tune, .out_room = TUNE_ROOM};
    if (!f->probe || f->cards.n == 0 || strcmp(LX2V_BACKEND, "cuda") != 0)
        return;
    lx_status status = lx_child_beside(path, sizeof path, "lx2v-tune", &err);
    if (status == LX_OK)
        status = lx_child_run(&child, &err);
    if (status == LX_OK && child.exit_code)
        status = lx_fail(&err, LX_ESTAGE, "%.400s", child.err);
    if (status != LX_OK)
        snprintf(f->tune, sizeof f->tune, "not told: %.480s\n", err.message);
}

static void look_at_disk(findings *f, const char *weights)
{
    const char *none[] = {NULL};
    const char *given[] = {weights, NULL};
    const char *of_config[] = {f->model.dit, f->model.text, f->model.vae, NULL};
    const char *folder = f->is_good ? f->config.state.dir : ".";
    f->has_measured = true;
    f->has_disk = cli_disk_measure(&f->disk,
                                   weights      ? given
                                   : f->is_good ? of_config
                                                : none,
                                   access(folder, W_OK) == 0 ? folder : ".");
    /* The usual state folder is in memory: then the folder of the clips tells about a disk. */
    if (!f->has_disk && f->is_good && access(f->config.output.dir, W_OK) == 0)
        f->has_disk = cli_disk_measure(&f->disk, none, f->config.output.dir);
    else if (!f->has_disk)
        f->has_disk = cli_disk_measure(&f->disk, none, ".");
}

/* Stages whose device is no card of this machine. */
static void check_devices(findings *f)
{
    for (int kind = 0; f->is_good && kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < f->config.stage[kind].n_replicas; i++) {
            int index;
            lx_err err = {0};
            if (lx_device_resolve(&index, f->config.stage[kind].replica[i].device, &f->cards,
                                  &err) != LX_OK)
                cli_note(&f->notes, "stages.%s: %.280s", lx_stage_kind_name((lx_stage_kind)kind),
                         err.message);
        }
}

static bool has_x264(const json_t *codecs)
{
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(codecs, "h264"), i,
                       name) if (json_is_string(name) &&
                                 strcmp(json_string_value(name), "libx264") == 0) return true;
    return false;
}

static void advise(findings *f)
{
    const cli_machine *m = &f->machine;
    char a[32];
    if (m->shm_free_bytes < SHM_LITTLE)
        cli_note(&f->notes,
                 "/dev/shm: %s free is little for 480p clips, which need 256 MiB (in a "
                 "container: --shm-size=1g)",
                 cli_bytes(m->shm_free_bytes, a, sizeof a));
    if (m->n_nvidia > 0 && strcmp(LX2V_BACKEND, "cuda") != 0)
        cli_note(&f->notes, "this build has no CUDA and cannot use the NVIDIA cards");
    if (f->codecs && !has_x264(f->codecs))
        cli_note(&f->notes, "FFmpeg here has no libx264, which mp4 files need; install an FFmpeg "
                            "that has it, or set mux.format: png");
    if (f->has_disk && !f->disk.is_direct)
        cli_note(&f->notes, "the disk was read through the page cache: this file system refuses "
                            "direct reads, so the figure may be too high");
    if (!f->probe)
        return;
    cli_cards_advise(&f->notes, &f->cards);
    check_devices(f);
}

/* --- telling a person ------------------------------------------------------------------------- */

static const char *isa_text(const cli_machine *m, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "%s%s%s%s%s", m->has_avx2 ? "AVX2 " : "",
             m->has_avx512 ? "AVX-512 " : "", m->has_vnni ? "VNNI " : "",
             m->has_bf16 ? "BF16 " : "", m->has_amx ? "AMX " : "");
    size_t n = strlen(out);
    if (n > 0)
        out[n - 1] = 0;
    return n > 0 ? out : "none of AVX2, AVX-512, VNNI, BF16, AMX";
}

static void print_machine(const cli_machine *m)
{
    char a[64], b[64], isa[96], limit[96] = "";
    printf("lx2v      %s, built for %s\n", LX2V_VERSION, LX2V_BACKEND);
    printf("cpu       %s, %d cores, %s\n", m->cpu, m->n_cores, isa_text(m, isa, sizeof isa));
    if (m->limit_bytes > 0)
        snprintf(limit, sizeof limit, ", at most %s for this control group",
                 cli_bytes(m->limit_bytes, a, sizeof a));
    printf("memory    %s, %s available%s\n", cli_bytes(m->ram_bytes, a, sizeof a),
           cli_bytes(m->free_bytes, b, sizeof b), limit);
    if (m->memlock_bytes == UINT64_MAX)
        printf("memlock   no limit\n");
    else
        printf("memlock   %s (ulimit -l); CUDA's pinned memory does not count\n",
               cli_bytes(m->memlock_bytes, a, sizeof a));
    printf("/dev/shm  %s, %s free\n", cli_bytes(m->shm_bytes, a, sizeof a),
           cli_bytes(m->shm_free_bytes, b, sizeof b));
}

static void print_disk(const findings *f)
{
    const cli_disk *d = &f->disk;
    char a[32], path[512];
    if (!f->has_measured)
        printf("disk      --measure reads from it\n");
    else if (!f->has_disk)
        printf("disk      not measured: %s\n", d->trouble);
    else
        printf("disk      %.2f GB/s, %s, %s of %s%s\n", d->gbs,
               d->is_direct ? "direct reads" : "buffered reads", cli_bytes(d->bytes, a, sizeof a),
               d->is_weights ? "" : "a temporary file (no weights found) in ",
               cli_safe(d->path, path, sizeof path));
}

static void print_codecs(const findings *f)
{
    size_t i;
    json_t *name;
    if (!f->codecs) {
        printf("codecs    not told: %s\n", f->codecs_error);
        return;
    }
    const char *version = json_string_value(json_object_get(f->codecs, "ffmpeg"));
    printf("codecs    FFmpeg %s, H.264:", version ? version : "?");
    json_array_foreach(json_object_get(f->codecs, "h264"), i, name)
        printf("%s %s", i ? "," : "", json_is_string(name) ? json_string_value(name) : "?");
    putchar('\n');
}

/* Line by line; *at moves on. False at the end. */
static bool next_line(const char **at, char *out, size_t room)
{
    size_t n = strcspn(*at, "\n");
    if (n == 0)
        return false;
    snprintf(out, room, "%.*s", (int)n, *at);
    *at += n + ((*at)[n] == '\n');
    return true;
}

static void print_tune(const findings *f)
{
    char line[LX_LIMIT_PATH + 64], safe[LX_LIMIT_PATH + 64];
    for (const char *at = f->tune; next_line(&at, line, sizeof line);)
        printf("tune      %s\n", cli_safe(line, safe, sizeof safe));
}

static void print_text(const findings *f)
{
    char a[64];
    print_machine(&f->machine);
    if (f->probe)
        cli_cards_print(stdout, &f->cards);
    else
        printf("cards     not told: %s\n", f->probe_error);
    print_tune(f);
    print_disk(f);
    print_codecs(f);
    if (!f->has_config)
        printf("config    none here; lx2v init DIR > config.yaml writes one\n");
    else if (!f->is_good)
        printf("config    wrong: %s\n", f->message);
    else
        printf("config    good; output in %s, %s free\n", f->config.output.dir,
               cli_bytes(cli_disk_free(f->config.output.dir), a, sizeof a));
    if (f->is_running)
        printf("launcher  running at %s\n", f->endpoint);
    else
        printf("launcher  not reached: %s\n", f->launcher);
    for (int i = 0; i < f->notes.n; i++)
        printf("note      %s\n", f->notes.text[i]);
}

/* --- telling a program ------------------------------------------------------------------------ */

static json_t *text_or_null(const char *text)
{
    return *text ? cli_json_text(text) : json_null();
}

static json_t *config_json(const findings *f)
{
    const char *output = f->is_good ? f->config.output.dir : "";
    return json_pack("{s:b, s:b, s:o, s:o, s:I}", "found", f->has_config, "good", f->is_good,
                     "message", text_or_null(f->message), "output_dir", text_or_null(output),
                     "output_free_bytes", (json_int_t)(*output ? cli_disk_free(output) : 0));
}

static json_t *disk_json(const findings *f)
{
    if (!f->has_measured)
        return json_null();
    return json_pack("{s:o, s:b, s:b, s:I, s:o, s:o}", "path", text_or_null(f->disk.path),
                     "weights", f->disk.is_weights, "direct", f->disk.is_direct, "bytes",
                     (json_int_t)f->disk.bytes, "gbs",
                     f->has_disk ? json_real(f->disk.gbs) : json_null(), "trouble",
                     f->has_disk ? json_null() : text_or_null(f->disk.trouble));
}

static json_t *tune_json(const findings *f)
{
    char line[LX_LIMIT_PATH + 64];
    json_t *list = json_array();
    for (const char *at = f->tune; next_line(&at, line, sizeof line);)
        json_array_append_new(list, cli_json_text(line));
    return list;
}

/* What will run on each card, as cli_cards_print says it. */
static json_t *kernels_json(const findings *f)
{
    json_t *list = json_array();
    for (int i = 0; f->probe && i < f->cards.n; i++) {
        cli_card_use use;
        json_array_append_new(list, !cli_card_use_of(&use, &f->cards.card[i])
                                        ? json_null()
                                        : json_pack("{s:o, s:b, s:s, s:s}", "held_to",
                                                    text_or_null(use.held_to), "fp8", use.has_fp8,
                                                    "attention", use.attention, "sums", use.sums));
    }
    return list;
}

static void print_json(const findings *f)
{
    const cli_machine *m = &f->machine;
    json_t *isa =
        json_pack("{s:b, s:b, s:b, s:b, s:b}", "avx2", m->has_avx2, "avx512", m->has_avx512, "vnni",
                  m->has_vnni, "bf16", m->has_bf16, "amx", m->has_amx);
    json_t *notes = json_array();
    for (int i = 0; i < f->notes.n; i++)
        json_array_append_new(notes, cli_json_text(f->notes.text[i]));
    json_t *all = json_pack(
        "{s:s, s:s, s:o, s:i, s:o, s:I, s:I, s:I, s:I, s:i, s:o, s:b}", "version", LX2V_VERSION,
        "backend", LX2V_BACKEND, "cpu", cli_json_text(m->cpu), "cores", m->n_cores, "isa", isa,
        "ram_bytes", (json_int_t)m->ram_bytes, "ram_free_bytes", (json_int_t)m->free_bytes,
        "shm_bytes", (json_int_t)m->shm_bytes, "shm_free_bytes", (json_int_t)m->shm_free_bytes,
        "nvidia_cards", m->n_nvidia, "config", config_json(f), "launcher_running", f->is_running);
    json_object_set_new(all, "ram_limit_bytes",
                        m->limit_bytes ? json_integer((json_int_t)m->limit_bytes) : json_null());
    json_object_set_new(all, "memlock_bytes",
                        m->memlock_bytes <= INT64_MAX ? json_integer((json_int_t)m->memlock_bytes)
                                                      : json_null());
    json_object_set_new(all, "probe", f->probe ? json_incref(f->probe) : json_null());
    json_object_set_new(all, "probe_error", text_or_null(f->probe_error));
    json_object_set_new(all, "codecs", f->codecs ? json_incref(f->codecs) : json_null());
    json_object_set_new(all, "codecs_error", text_or_null(f->codecs_error));
    json_object_set_new(all, "kernels", kernels_json(f));
    json_object_set_new(all, "tune", tune_json(f));
    json_object_set_new(all, "disk", disk_json(f));
    json_object_set_new(all, "notes", notes);
    cli_json_print(all);
}

/* --- the command ------------------------------------------------------------------------------ */

static lx_status examine(const cli_args *args, const char *weights, bool measure, lx_err *err)
{
    if (weights && !measure)
        return lx_model_doctor(weights, args->common.json, err);
    findings *f = calloc(1, sizeof *f); /* 300 KiB */
    if (!f)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    cli_machine_look(&f->machine);
    look_at_config(f, &args->common);
    if (measure)
        cli_say("measuring cards and disk; some seconds");
    look_at_cards(f, measure);
    look_at_codecs(f);
    look_at_tune(f);
    if (measure)
        look_at_disk(f, weights);
    advise(f);
    if (args->common.json)
        print_json(f);
    else
        print_text(f);
    lx_status status = LX_OK;
    if (f->has_config && !f->is_good)
        status = lx_fail(err, LX_ECONFIG, "%s", f->message);
    json_decref(f->probe);
    json_decref(f->codecs);
    free(f);
    return status;
}

lx_status cli_doctor(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    const char *weights = NULL;
    bool done = false, measure = false;
    const cli_flag flags[] = {
        {"weights", 0, "DIR", "a model folder to examine; with --measure: to read from", &weights,
         NULL},
        {"measure", 0, NULL, "also copy to and between cards, try CUDA IPC, read from the disk",
         NULL, &measure},
    };
    lx_status status = cli_begin(self, &args, argc, argv, flags, 2, &done, err);
    if (status == LX_OK && !done && args.n_words > 0)
        status = lx_fail(err, LX_ECONFIG,
                         "doctor: \"%.64s\"? A model folder is given as --weights "
                         "DIR",
                         args.words[0]);
    if (status == LX_OK && !done)
        status = examine(&args, weights, measure, err);
    free(args.words);
    return status;
}
