/*
 * convert_main.c - lx2v-convert dit|text --to TYPE SOURCE OUTPUT
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"
#include "lx_config.h"
#include "lx_log.h"
#include "lx_process.h"

#define MOST_THREADS 16 /* a disk is busy with fewer */

static const char usage[] =
    "usage: lx2v-convert dit --to int8|fp8|bf16 SOURCE FOLDER\n"
    "       lx2v-convert dit --to int8|fp8|bf16 --single FILE SOURCE\n"
    "       lx2v-convert text --to int8|fp8|bf16 SOURCE FILE\n"
    "\n"
    "Writes a DiT or a text encoder in another form. SOURCE is any checkpoint that lx2v reads: a\n"
    "file, a folder of files, an index.\n"
    "\n"
    "  FOLDER           LightX2V's per-block layout: block_N.safetensors, non_block.safetensors\n"
    "  FILE             of a text encoder: .pth or .safetensors, by its name\n"
    "  --to TYPE        what the linears of the blocks become; int8 and fp8 have one scale per\n"
    "                   output channel, and the other tensors stay as they are. A source of the\n"
    "                   same type is copied bit for bit into the new layout\n"
    "  --single FILE    one safetensors file instead of a folder\n"
    "  --blocks FOLDER  the same as FOLDER at the end\n"
    "  --force          replace what is there\n"
    "  --threads N      1 to 16; default: one per core\n"
    "  --quiet          no progress, no last line\n"
    "  --version        version\n"
    "\n"
    "The same source gives the same bytes on every machine. Output appears when it is whole.\n"
    "\n"
    "Exit codes: 0 ok, 1 failed, 2 usage or a file: a person must act, 3 not enough disk or\n"
    "memory, 130 interrupted.\n";

/* --- the command line ------------------------------------------------------------------------ */

typedef struct words {
    const char *to, *single, *blocks, *threads;
    const char *plain[3]; /* model, SOURCE, OUTPUT */
    int n_plain;
} words;

static lx_status take_word(words *w, convert_job *job, int argc, char **argv, int *i, lx_err *err)
{
    const struct {
        const char *name, **value;
    } row[] = {{"--to", &w->to},
               {"--single", &w->single},
               {"--blocks", &w->blocks},
               {"--threads", &w->threads}};
    static const char *const known[] = {"--to",      "--single", "--blocks", "--force",
                                        "--threads", "--quiet",  "--help",   "--version"};
    const char *word = argv[*i];
    for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
        if (strcmp(word, row[k].name))
            continue;
        if (++*i == argc)
            return lx_fail(err, LX_ECONFIG, "%s needs a value", word);
        *row[k].value = argv[*i];
        return LX_OK;
    }
    if (!strcmp(word, "--force"))
        job->is_forced = true;
    else if (!strcmp(word, "--quiet"))
        job->is_quiet = true;
    else if (word[0] == '-') {
        const char *near = lx_nearest(word, known, sizeof known / sizeof *known);
        return lx_fail(err, LX_ECONFIG, "unknown option %s%s%s; see lx2v-convert --help", word,
                       near ? "; did you mean " : "", near ? near : "");
    } else if (w->n_plain == 3)
        return lx_fail(err, LX_ECONFIG, "one word too many: %s; see lx2v-convert --help", word);
    else
        w->plain[w->n_plain++] = word;
    return LX_OK;
}

static lx_status parse_to(const words *w, convert_job *job, lx_err *err)
{
    if (!w->to)
        return lx_fail(err, LX_ECONFIG, "--to is missing: int8, fp8 or bf16");
    if (!strcmp(w->to, "int8"))
        job->to = LX_QUANT_INT8;
    else if (!strcmp(w->to, "fp8"))
        job->to = LX_QUANT_FP8;
    else if (!strcmp(w->to, "bf16"))
        job->to = LX_QUANT_NONE;
    else
        return lx_fail(err, LX_ECONFIG, "--to %s: expected int8, fp8 or bf16", w->to);
    return LX_OK;
}

static lx_status parse_threads(const words *w, convert_job *job, lx_err *err)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN), n = cores < 1 ? 1 : cores;
    char *end = NULL;
    if (w->threads) {
        n = strtol(w->threads, &end, 10);
        if (end == w->threads || *end || n < 1 || n > MOST_THREADS)
            return lx_fail(err, LX_ECONFIG, "--threads %s: expected 1 to %d", w->threads,
                           MOST_THREADS);
    }
    job->threads = n < MOST_THREADS ? (int)n : MOST_THREADS;
    return LX_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

static lx_status parse_output(const words *w, convert_job *job, lx_err *err)
{
    const char *last = w->plain[2];
    if (w->n_plain < 2)
        return lx_fail(err, LX_ECONFIG, "SOURCE is missing; see lx2v-convert --help");
    if (!!last + !!w->single + !!w->blocks != 1)
        return lx_fail(err, LX_ECONFIG, "exactly one output is needed%s",
                       job->is_text ? "" : ": FOLDER, --single FILE or --blocks FOLDER");
    if (job->is_text && !last)
        return lx_fail(err, LX_ECONFIG,
                       "a text encoder is one file: lx2v-convert text --to %s SOURCE FILE", w->to);
    job->source = w->plain[1];
    job->file = job->is_text ? last : w->single;
    job->folder = job->is_text ? NULL : last ? last : w->blocks;
    if (job->file && !ends_with(job->file, ".safetensors") &&
        !(job->is_text && ends_with(job->file, ".pth")))
        return lx_fail(err, LX_ECONFIG, "%s: the name must end in %s.safetensors", job->file,
                       job->is_text ? ".pth or " : "");
    if (job->folder && !*job->folder)
        return lx_fail(err, LX_ECONFIG, "the output folder has no name");
    return LX_OK;
}

static lx_status parse(convert_job *job, int argc, char **argv, lx_err *err)
{
    words w = {0};
    lx_status status = LX_OK;
    for (int i = 1; status == LX_OK && i < argc; i++)
        status = take_word(&w, job, argc, argv, &i, err);
    if (status != LX_OK)
        return status;
    if (!w.n_plain || (strcmp(w.plain[0], "dit") && strcmp(w.plain[0], "text")))
        return lx_fail(err, LX_ECONFIG, "%s%sexpected dit or text; see lx2v-convert --help",
                       w.n_plain ? w.plain[0] : "", w.n_plain ? ": " : "");
    job->is_text = !strcmp(w.plain[0], "text");
    status = parse_to(&w, job, err);
    if (status == LX_OK)
        status = parse_threads(&w, job, err);
    return status == LX_OK ? parse_output(&w, job, err) : status;
}

/* --- all ------------------------------------------------------------------------------------- */

static void say_first(const convert_plan *p)
{
    if (p->n_left_out)
        LX_W("left_out=%zu tensors of the source that text-to-video does not have", p->n_left_out);
    if (p->from != LX_QUANT_NONE && p->job->to == LX_QUANT_NONE)
        LX_W("the source is %s: bf16 gets code x scale, rounded; what quantizing lost is not "
             "restored",
             p->from == LX_QUANT_INT8 ? "int8" : "fp8");
}

static lx_status convert(const convert_job *job, lx_err *err)
{
    const double start_s = lx_now_s();
    convert_plan plan = {0};
    uint64_t bytes = 0;
    lx_status status = convert_place_check(job, err);
    if (status == LX_OK)
        status = convert_plan_make(&plan, job, err);
    if (status == LX_OK) {
        say_first(&plan);
        status = convert_write(&plan, &bytes, err);
    }
    if (status == LX_OK && !job->is_quiet)
        printf("%s: %zu tensors, %.3f GB from %.3f GB in %.1f s\n",
               job->file ? job->file : job->folder, plan.n, (double)bytes / 1e9,
               (double)plan.bytes / 1e9, lx_now_s() - start_s);
    convert_plan_free(&plan);
    return status;
}

int main(int argc, char **argv)
{
    lx_err err = {0};
    convert_job job = {0};
    for (int i = 1; i < argc; i++) {
        bool is_help = !strcmp(argv[i], "--help");
        if (!is_help && strcmp(argv[i], "--version") != 0)
            continue;
        fputs(is_help ? usage : "lx2v-convert " LX2V_VERSION "\n", stdout);
        return 0;
    }
    lx_log_open("convert", LX_LOG_INFO);
    lx_status status = parse(&job, argc, argv, &err);
    if (status == LX_OK) {
        lx_catch_interrupt();
        status = convert(&job, &err);
    }
    if (status != LX_OK)
        fprintf(stderr, "lx2v-convert: %s\n", err.message);
    return lx_exit_code(status);
}
