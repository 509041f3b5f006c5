/*
 * cli_main.c - lx2v: one command, one exit code
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "lx_config.h"
#include "lx_log.h"

#define ANSWER_S 10.0 /* how long a launcher may take to answer, unless --timeout says less */

static const cli_command commands[] = {
    {"submit", "\"PROMPT\" | --file FILE", "make clips; prints job ids, with --wait their paths",
     cli_submit, 0},
    {"watch", "[ID]", "follow one job to its end, or all of them", cli_watch, 0},
    {"wait", "ID...", "return when these jobs have ended", cli_wait, 0},
    {"status", "[ID]", "stages and jobs, with times", cli_status, 0},
    {"list", "", "jobs, one a line", cli_list, 0},
    {"cancel", "ID...", "end a job", cli_order, LX_CLIENT_CANCEL},
    {"retry", "ID...", "queue a failed or cancelled job again", cli_order, LX_CLIENT_RETRY},
    {"pause", "[--release-vram]", "start no more jobs; running ones go on", cli_order,
     LX_CLIENT_PAUSE},
    {"resume", "", "end pause and drain", cli_order, LX_CLIENT_RESUME},
    {"drain", "", "accept no more jobs, return when the queue is empty", cli_order,
     LX_CLIENT_DRAIN},
    {"shutdown", "", "stop the launcher and its stages", cli_order, LX_CLIENT_SHUTDOWN},
    {"init", "DIR", "print a config for this machine and this model folder", cli_init, 0},
    {"plan", "[config.yaml] [--rig TEXT]", "who would take how much of which memory, and what fits",
     cli_plan, 0},
    {"doctor", "[--measure] [--weights DIR]", "what this machine has; what a model folder lacks",
     cli_doctor, 0},
    {"bench", "[--clips N] [--own]", "clips/hour, seconds, memory and energy of a pipeline",
     cli_bench, 0},
    {"selftest", "", "do the configured weights make sense, stage by stage", cli_selftest, 0},
    {"journal", "check|repair|export [FILE]", "the file that accepted jobs survive a crash in",
     cli_journal, 0},
    {"keys", "DIR [--client NAME]", "keys for clients on other machines (SECURITY.md)", cli_keys,
     0},
    {"report", "[-o FILE]", "one file for a bug report, without prompts", cli_report_file, 0},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_help(FILE *to)
{
    fprintf(to, "lx2v %s (%s): text to video\n\n", LX2V_VERSION, LX2V_BACKEND);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", commands[i].name, commands[i].usage);
        fprintf(to, "  lx2v %-34s %s\n", left, commands[i].help);
    }
    fprintf(to, "\nlx2v COMMAND --help tells its flags; lx2v --version the version. Exit codes: 0 "
                "ok, 1 failed,\n2 usage or config, 3 refused, 4 timeout, 130 cancelled.\n");
}

lx_status cli_begin(const cli_command *self, cli_args *args, int argc, char **argv,
                    const cli_flag *flags, int n_flags, bool *done, lx_err *err)
{
    lx_status status = cli_args_parse(args, argc, argv, flags, n_flags, err);
    *done = status == LX_OK && args->common.help;
    if (*done) {
        printf("lx2v %s %s\n%s\n\n", self->name, self->usage, self->help);
        cli_args_help(flags, n_flags);
    }
    return status;
}

lx_status cli_connect(lx_client **out, const cli_common *common, lx_err *err)
{
    char endpoint[512];
    double timeout_s = ANSWER_S;
    if (common->timeout_s > 0 && common->timeout_s < ANSWER_S)
        timeout_s = common->timeout_s;
    lx_status status =
        lx_client_find(endpoint, sizeof endpoint, common->endpoint, common->config, err);
    return status == LX_OK ? lx_client_open_key(out, endpoint, common->key, timeout_s, err)
                           : status;
}

void cli_clip_path(const lx_client *client, const lx_client_job *job, char *out, size_t out_bytes)
{
    const char *dir = lx_client_output_dir(client);
    snprintf(out, out_bytes, "%s%s%s", dir, *dir ? "/" : "", job->output);
}

static lx_status unknown_command(const char *name, lx_err *err)
{
    const char *names[N_COMMANDS];
    char list[256] = "";
    for (size_t i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = lx_nearest(name, names, N_COMMANDS);
    return lx_fail(err, LX_ECONFIG, "%.64s: unknown command; %s%s%sthere are: %s", name,
                   near ? "did you mean " : "", near ? near : "", near ? "? " : "", list);
}

static lx_status dispatch(int argc, char **argv, lx_err *err)
{
    if (argc < 2) {
        print_help(stderr);
        return lx_fail(err, LX_ECONFIG, "no command");
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("lx2v %s (%s)\n", LX2V_VERSION, LX2V_BACKEND);
        return LX_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return LX_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(&commands[i], argc - 2, argv + 2, err);
    return unknown_command(argv[1], err);
}

/* Also where the flags themselves are wrong, a program that asked for JSON gets JSON. */
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    lx_err err = {0};
    lx_log_open("lx2v", LX_LOG_WARN);
    lx_status status = dispatch(argc, argv, &err);
    if (status != LX_OK) {
        cli_say("%s", err.message);
        if (wants_json(argc, argv))
            cli_json_print(json_pack("{s:{s:s, s:o}}", "error", "class", lx_status_name(status),
                                     "message", cli_json_text(err.message)));
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        cli_say("the results could not be written to stdout");
        return status == LX_OK ? 1 : lx_exit_code(status);
    }
    return lx_exit_code(status);
}
