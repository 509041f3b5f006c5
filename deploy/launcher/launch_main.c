/*
 * launch_main.c - lx2v-launch config.yaml [--check]
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "launcher.h"
#include "lx_log.h"

static const char usage[] =
    "usage: lx2v-launch [config.yaml] [--check]\n"
    "\n"
    "Starts the stages that the config names and serves clients until SIGINT, SIGTERM or\n"
    "`lx2v shutdown`. Prints `ready endpoint=...` when every stage is ready.\n"
    "\n"
    "  config.yaml  default: ./config.yaml\n"
    "  --check      validate the config, the binaries and the headers of the model's files (not\n"
    "               their values), start nothing\n"
    "  --version    version and backend\n"
    "\n"
    "Exit codes: 0 ok, 1 failed, 2 usage, config or file: a person must act.\n";

static lx_status parse(int argc, char **argv, const char **path, bool *is_check, lx_err *err)
{
    static const char *const known[] = {"--check", "--version", "--help"};
    *path = NULL;
    *is_check = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--check") == 0) {
            *is_check = true;
        } else if (argv[i][0] == '-') {
            const char *near = lx_nearest(argv[i], known, sizeof known / sizeof *known);
            return lx_fail(err, LX_ECONFIG, "unknown option %s%s%s; see lx2v-launch --help",
                           argv[i], near ? "; did you mean " : "", near ? near : "");
        } else if (*path) {
            return lx_fail(err, LX_ECONFIG, "one config file, not two: %s and %s", *path, argv[i]);
        } else {
            *path = argv[i];
        }
    }
    if (!*path)
        *path = "config.yaml";
    return LX_OK;
}

int main(int argc, char **argv)
{
    static lx_config config; /* 60 KiB */
    lx_err err = {0};
    launcher *l = NULL;
    const char *path;
    bool is_check;
    lx_log_open("launch", LX_LOG_INFO);
    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "--help") == 0)) {
        fputs(argv[1][2] == 'v' ? "lx2v-launch " LX2V_VERSION " (" LX2V_BACKEND ")\n" : usage,
              stdout);
        return 0;
    }
    lx_status status = parse(argc, argv, &path, &is_check, &err);
    if (status == LX_OK)
        status = lx_config_load(&config, path, &err);
    if (status == LX_OK) {
        lx_log_open("launch", config.log_level);
        status = lx_config_check_build(&config, &err);
    }
    if (status == LX_OK) {
        status = launcher_check(&config, &err);
    }
    if (status == LX_OK && is_check)
        puts("ok");
    if (status == LX_OK && !is_check)
        status = launcher_open(&l, &config, &err);
    if (status == LX_OK && !is_check)
        status = launcher_run(l, &err);
    launcher_close(&l);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return lx_exit_code(status);
}
