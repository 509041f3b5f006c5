/*
 * launch_main.c - lx2v-launch config.yaml [--check | --plan]
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "launcher.h"
#include "lx_log.h"
#include "spawn.h"

static const char usage[] =
    "usage: lx2v-launch [config.yaml] [--check | --plan [--rig TEXT] [--json]]\n"
    "\n"
    "Starts the stages that the config names and serves clients until SIGINT, SIGTERM or\n"
    "`lx2v shutdown`. Prints `ready endpoint=...` when every stage is ready. SIGHUP, where stdin\n"
    "is no terminal: the config is read again, and what can change at once does.\n"
    "\n"
    "  config.yaml  default: ./config.yaml\n"
    "  --check      validate the config, the binaries and the headers of the model's files (not\n"
    "               their values), start nothing\n"
    "  --plan       print who would take how much of which memory, start nothing\n"
    "  --rig TEXT   plan for another machine: rtx3060:12GiB,display,pcie=3x4,ram=32GiB; cards by\n"
    "               '+'; also cpu=CORES, disk=GB/s\n"
    "  --json       the plan as JSON\n"
    "  --version    version and backend\n"
    "\n"
    "Exit codes: 0 ok, 1 failed, 2 usage, config or file: a person must act, 3 it does not fit.\n";

typedef struct arguments {
    const char *config, *rig;
    bool is_check, is_plan, is_json;
} arguments;

static lx_status take_word(arguments *a, const char *word, lx_err *err)
{
    static const char *const known[] = {"--check", "--plan",    "--rig",
                                        "--json",  "--version", "--help"};
    if (strcmp(word, "--check") == 0) {
        a->is_check = true;
    } else if (strcmp(word, "--plan") == 0) {
        a->is_plan = true;
    } else if (strcmp(word, "--json") == 0) {
        a->is_json = true;
    } else if (word[0] == '-') {
        const char *near = lx_nearest(word, known, sizeof known / sizeof *known);
        return lx_fail(err, LX_ECONFIG, "unknown option %s%s%s; see lx2v-launch --help", word,
                       near ? "; did you mean " : "", near ? near : "");
    } else if (a->config) {
        return lx_fail(err, LX_ECONFIG, "one config file, not two: %s and %s", a->config, word);
    } else {
        a->config = word;
    }
    return LX_OK;
}

static lx_status parse(int argc, char **argv, arguments *a, lx_err *err)
{
    *a = (arguments){0};
    for (int i = 1; i < argc; i++) {
        lx_status status = LX_OK;
        if (strcmp(argv[i], "--rig") == 0) {
            if (i + 1 == argc)
                return lx_fail(err, LX_ECONFIG, "--rig needs a description, such as rtx3060");
            a->rig = argv[++i];
        } else {
            status = take_word(a, argv[i], err);
        }
        if (status != LX_OK)
            return status;
    }
    if ((a->rig || a->is_json) && !a->is_plan)
        return lx_fail(err, LX_ECONFIG, "--rig and --json go with --plan");
    if (a->is_plan && a->is_check)
        return lx_fail(err, LX_ECONFIG, "--check or --plan, not both");
    if (!a->config)
        a->config = "config.yaml";
    return LX_OK;
}

static bool wants_card(const lx_config *config)
{
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < config->stage[kind].n_replicas; i++)
            if (lx_device_is_card(config->stage[kind].replica[i].device))
                return true;
    return false;
}

static lx_status make_plan(plan **out, rig *machine, const lx_config *config, const char *text,
                           lx_err *err)
{
    char binary_dir[LX_LIMIT_PATH];
    lx_status status = spawn_binary_dir(binary_dir, err);
    if (status == LX_OK)
        status = text ? rig_parse(machine, text, err) : rig_look(machine, wants_card(config), err);
    plan_request request = {.config = config, .rig = machine, .binary_dir = binary_dir};
    return status == LX_OK ? plan_make(out, &request, err) : status;
}

static lx_status show_plan(const plan *p, bool is_json, lx_err *err)
{
    lx_status status = LX_OK;
    if (is_json)
        status = plan_print_json(p, stdout, err);
    else
        plan_print(p, stdout);
    fflush(stdout);
    if (status == LX_OK && !p->fits)
        status = plan_refuse(p, err);
    return status;
}

/* Serve until told to stop. Without a card what does not fit is the stages' own affair: they know
 * what is free when they start. */
static lx_status serve(const lx_config *config, const plan *p, lx_err *err)
{
    launcher *l = NULL;
    lx_status status = LX_OK;
    if (p && !p->fits && plan_has_card(p))
        status = plan_refuse(p, err);
    if (status == LX_OK)
        status = launcher_open(&l, config, p, err);
    if (status == LX_OK)
        status = launcher_run(l, err);
    launcher_close(&l);
    return status;
}

/* Without a card a plan is only told: the stages find out by themselves what is wrong. */
static lx_status plan_first(plan **out, rig *machine, const lx_config *config, const arguments *a,
                            lx_err *err)
{
    lx_status status = make_plan(out, machine, config, a->rig, err);
    if (status == LX_OK || a->is_plan || wants_card(config))
        return status;
    LX_W("no plan: %s", err->message);
    return LX_OK;
}

int main(int argc, char **argv)
{
    static lx_config config; /* 60 KiB */
    static rig machine;      /* 200 KiB */
    lx_err err = {0};
    plan *p = NULL;
    arguments a;
    signal(SIGPIPE, SIG_IGN); /* whoever reads the log may leave */
    signal(SIGXFSZ, SIG_IGN); /* beyond a limit of file sizes: an error, as on a full disk */
    lx_log_open("launch", LX_LOG_INFO);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "--help") == 0) {
            fputs(argv[i][2] == 'v' ? "lx2v-launch " LX2V_VERSION " (" LX2V_BACKEND ")\n" : usage,
                  stdout);
            return 0;
        }
    lx_status status = parse(argc, argv, &a, &err);
    if (status == LX_OK)
        status = lx_config_load(&config, a.config, &err);
    if (status == LX_OK)
        lx_log_open("launch", a.is_plan ? LX_LOG_WARN : config.log_level);
    if (status == LX_OK && !a.is_plan) /* a plan may be for another machine */
        status = lx_config_check_build(&config, &err);
    if (status == LX_OK)
        status = launcher_check(&config, &err);
    if (status == LX_OK && !a.is_check)
        status = plan_first(&p, &machine, &config, &a, &err);
    if (status == LX_OK && a.is_check)
        puts("ok");
    else if (status == LX_OK && a.is_plan)
        status = show_plan(p, a.is_json, &err);
    else if (status == LX_OK)
        status = serve(&config, p, &err);
    plan_destroy(&p);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return lx_exit_code(status);
}
