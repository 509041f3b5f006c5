/*
 * cli_init.c - lx2v init DIR: a config for this machine and this model folder
 * SPDX-License-Identifier: Apache-2.0
 *
 * Writes what differs from the defaults, why, and what the plan says of it. What fails about cards
 * or plan becomes a comment: a config comes out whenever the model was found.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_choose.h"
#include "cli_machine.h"
#include "cli_process.h"
#include "lx_child.h"
#include "lx_limits.h"
#include "weights/lx_model_dir.h"

#define COLUMNS   96
#define PLAN_S    120.0 /* a stage gets 60 s; usual are a few in all */
#define PLAN_ROOM 65536 /* bytes of its text */

/* All that is printed about. */
typedef struct facts {
    char dir[PATH_MAX];
    lx_model_paths found, none;
    cli_machine machine;
    lx_cards cards;
    bool has_cards; /* the probe answered */
    char probe_error[LX_ERR_TEXT];
    uint64_t weights_bytes;
    cli_choice choice;
} facts;

/* --- YAML ------------------------------------------------------------------------------------- */

/* Ends a line for a YAML reader: U+2028, U+2029. */
static bool is_separator(const char *p)
{
    return strncmp(p, "\xe2\x80\xa8", 3) == 0 || strncmp(p, "\xe2\x80\xa9", 3) == 0;
}

static bool is_path_printable(const char *path)
{
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || is_separator(p))
            return false;
    return true;
}

/* A YAML string that means exactly this path. */
static void print_quoted(FILE *to, const char *path)
{
    fputc('"', to);
    for (const char *p = path; *p; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', to);
        fputc(*p, to);
    }
    fputc('"', to);
}

static void print_word(FILE *to, const char *word, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_separator(word + i)) {
            fputc('?', to);
            i += 2;
        } else {
            fputc((unsigned char)word[i] < 0x20 || word[i] == 0x7f ? '?' : word[i], to);
        }
}

/* Text as a comment of one or several lines, broken between words. */
static void print_comment(FILE *to, const char *indent, const char *text)
{
    size_t at = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > 0 && at + 1 + n > COLUMNS) {
            fputc('\n', to);
            at = 0;
        }
        fputs(at == 0 ? indent : " ", to);
        at += at == 0 ? strlen(indent) : 1;
        print_word(to, text, n);
        at += n;
        text += n + strspn(text + n, " ");
    }
    fputc('\n', to);
}

/* --- what is here ----------------------------------------------------------------------------- */

static void print_machine(FILE *to, const facts *f)
{
    const cli_machine *m = &f->machine;
    char text[512], a[32], name[96], limit[64] = "";
    if (m->limit_bytes && m->limit_bytes < m->ram_bytes)
        snprintf(limit, sizeof limit, " (%s for this control group)",
                 cli_bytes(m->limit_bytes, a, sizeof a));
    fputs("# Made by lx2v init for this machine:\n", to);
    snprintf(text, sizeof text, "%s, %d cores, %s of memory%s", *m->cpu ? m->cpu : "a CPU",
             m->n_cores, cli_bytes(m->ram_bytes, a, sizeof a), limit);
    print_comment(to, "#   ", text);
    for (int i = 0; i < f->cards.n; i++) {
        const lx_card *card = &f->cards.card[i];
        snprintf(text, sizeof text, "cuda:%d %s, %s%s", i, cli_safe(card->name, name, sizeof name),
                 cli_bytes(card->vram_bytes, a, sizeof a),
                 card->has_display ? ", drives a display" : "");
        print_comment(to, "#   ", text);
    }
    if (!f->has_cards) {
        snprintf(text, sizeof text, "cards: %.400s", f->probe_error);
        print_comment(to, "#   ", text);
    }
    fputs("# Only what differs from the defaults stands here: 832x480, 81 frames, clips in output/ "
          "next to\n"
          "# this file. config.yaml of lx2v explains every key.\n\n",
          to);
}

static void print_part(FILE *to, const char *name, const char *path)
{
    char bytes[32];
    uint64_t size = cli_weights_size(path);
    fprintf(to, "#   %-10s", name);
    print_word(to, path, strlen(path));
    if (size > 0)
        fprintf(to, "  (%s)", cli_bytes(size, bytes, sizeof bytes));
    fputc('\n', to);
}

static void print_model(FILE *to, const facts *f)
{
    const cli_machine *m = &f->machine;
    bool is_limited = m->limit_bytes && m->limit_bytes < m->ram_bytes;
    uint64_t ram = is_limited ? m->limit_bytes : m->ram_bytes;
    char needs[32], has[32], text[256];
    fputs("model: ", to);
    print_quoted(to, f->dir);
    fputs("\n", to);
    print_part(to, "dit", f->found.dit);
    print_part(to, "text", f->found.text);
    print_part(to, "vae", f->found.vae);
    print_part(to, "tokenizer", f->found.tokenizer);
    if (f->weights_bytes <= ram)
        return;
    cli_bytes(f->weights_bytes, needs, sizeof needs);
    cli_bytes(ram, has, sizeof has);
    snprintf(text, sizeof text, "These weights are %s and the host's memory is %s: %s.", needs, has,
             f->choice.dit.card >= 0 ? "blocks of the DiT are read from disk in every step"
                                     : "a CPU cannot do with less");
    print_comment(to, "# ", text);
}

/* --- the stages ------------------------------------------------------------------------------- */

static void print_stage(FILE *to, const char *name, const cli_place *p)
{
    if (p->card == LX_DEVICE_CPU && p->threads == 0)
        return; /* the default */
    print_comment(to, "  # ", p->why);
    fprintf(to, "  %s: {device: ", name);
    if (p->card >= 0)
        fprintf(to, "\"cuda:%d\"", p->card);
    else
        fputs("cpu", to);
    if (p->threads > 0)
        fprintf(to, ", threads: %d", p->threads);
    fputs("}\n", to);
}

static void print_stages(FILE *to, const facts *f)
{
    const cli_choice *c = &f->choice;
    fputc('\n', to);
    if (c->dit.card == LX_DEVICE_CPU) {
        print_comment(to, "# ", c->dit.why);
    } else {
        fputs("stages:\n", to);
        print_stage(to, "encoder", &c->encoder);
        print_stage(to, "dit", &c->dit);
        print_stage(to, "vae", &c->vae);
        print_stage(to, "mux", &c->mux);
    }
    for (int i = 0; i < c->n_notes; i++)
        print_comment(to, "# note: ", c->note[i]);
}

/* --- the plan --------------------------------------------------------------------------------- */

/* The plan without its section of other ways, as comments. */
static void print_summary(FILE *to, char *text)
{
    bool is_skipped = false;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "other ways", 10) == 0)
            is_skipped = true;
        else if (*line != ' ')
            is_skipped = false;
        if (is_skipped)
            continue;
        fputs("#   ", to);
        print_word(to, line, strlen(line));
        fputc('\n', to);
    }
}

static lx_status ask_plan(lx_child *child, char *folder, const char *config, lx_err *err)
{
    char binary[LX_LIMIT_PATH], path[96], flag[] = "--plan";
    char *argv[] = {binary, path, flag, NULL};
    lx_status status = lx_child_beside(binary, sizeof binary, "lx2v-launch", err);
    if (status == LX_OK)
        status = cli_folder_make(folder, "init", err);
    if (status != LX_OK)
        return status;
    snprintf(path, sizeof path, "%s/rig.yaml", folder);
    FILE *file = fopen(path, "we");
    bool is_written = file && fputs(config, file) >= 0;
    if (file && fclose(file) != 0)
        is_written = false;
    child->argv = argv;
    status = is_written ? lx_child_run(child, err)
                        : lx_fail(err, LX_EAGAIN, "%s: %s", path, strerror(errno));
    child->argv = NULL;
    cli_folder_remove(folder);
    return status;
}

static void print_plan(FILE *to, const char *config)
{
    char folder[64] = "", text[LX_ERR_TEXT];
    lx_err err = {0};
    char *out = malloc(PLAN_ROOM);
    lx_child child = {.timeout_s = PLAN_S, .out = out, .out_room = PLAN_ROOM};
    if (!out)
        return;
    bool is_planned = ask_plan(&child, folder, config, &err) == LX_OK &&
                      (child.exit_code == 0 || child.exit_code == 3) && child.out_bytes > 0;
    if (is_planned) {
        fputs("\n# The plan for it (lx2v plan FILE tells more; ask again after a change):\n", to);
        print_summary(to, out);
        if (child.exit_code == 3)
            cli_say(
                "this machine cannot make clips of this size as it is now: the end of the config "
                "says what is missing and what would help");
    } else {
        snprintf(text, sizeof text, "No plan was made: %.600s",
                 *err.message ? err.message : child.err);
        fputc('\n', to);
        print_comment(to, "# ", text);
    }
    free(out);
}

/* --- the command ------------------------------------------------------------------------------ */

static lx_status look(facts *f, const char *dir, lx_err *err)
{
    lx_err trouble = {0};
    if (!realpath(dir, f->dir))
        return lx_fail(err, LX_ECONFIG, "init %s: %s", dir, strerror(errno));
    if (!is_path_printable(f->dir))
        return lx_fail(err, LX_ECONFIG, "init: the path has control characters; rename it");
    lx_status status = lx_model_resolve(&f->found, f->dir, &f->none, err);
    if (status != LX_OK) {
        lx_wrap(err, "init: run lx2v doctor --weights \"%s\" for what to download", f->dir);
        return status;
    }
    cli_machine_look(&f->machine);
    f->has_cards = lx_device_probe(&f->cards, NULL, &trouble) == LX_OK;
    if (!f->has_cards) {
        memset(&f->cards, 0, sizeof f->cards);
        memcpy(f->probe_error, trouble.message, sizeof f->probe_error);
    }
    f->weights_bytes = cli_weights_size(f->found.dit) + cli_weights_size(f->found.text) +
                       cli_weights_size(f->found.vae);
    const cli_facts asked = {.machine = &f->machine,
                             .cards = f->has_cards ? &f->cards : NULL,
                             .has_cuda = strcmp(LX2V_BACKEND, "cuda") == 0,
                             .weights_bytes = f->weights_bytes};
    cli_choose(&f->choice, &asked);
    return LX_OK;
}

static lx_status print_config(const char *dir, lx_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    facts *f = calloc(1, sizeof *f); /* 300 KiB */
    FILE *to = f ? open_memstream(&text, &bytes) : NULL;
    lx_status status = to ? look(f, dir, err) : lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK) {
        print_machine(to, f);
        print_model(to, f);
        print_stages(to, f);
    }
    if (to && fclose(to) != 0 && status == LX_OK)
        status = lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK) {
        fputs(text, stdout);
        fflush(stdout); /* the plan takes a moment */
        print_plan(stdout, text);
    }
    free(text);
    free(f);
    return status;
}

lx_status cli_init(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    bool done = false;
    lx_status status = cli_begin(self, &args, argc, argv, NULL, 0, &done, err);
    if (status == LX_OK && !done && args.n_words != 1)
        status = lx_fail(err, LX_ECONFIG, "init: which model folder? lx2v init DIR > rig.yaml");
    if (status == LX_OK && !done)
        status = print_config(args.words[0], err);
    free(args.words);
    return status;
}
