/*
 * cli_plan.c - lx2v plan: who would take how much of which memory
 * SPDX-License-Identifier: Apache-2.0
 *
 * The launcher plans, also before it starts a stage; this asks it to do so and to stop there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "lx_child.h"

static lx_status become_launcher(const cli_args *args, const char *rig, lx_err *err)
{
    char binary[4200];
    const char *config = args->n_words ? args->words[0] : args->common.config;
    const char *words[] = {binary, "--plan", config ? config : "config.yaml", NULL, NULL,
                           NULL,   NULL};
    size_t n = 3;
    lx_status status = lx_child_beside(binary, sizeof binary, "lx2v-launch", err);
    if (status != LX_OK)
        return status;
    if (args->common.json)
        words[n++] = "--json";
    if (rig) {
        words[n++] = "--rig";
        words[n++] = rig;
    }
    char *argv[sizeof words / sizeof *words];
    memcpy(argv, words, sizeof words); /* exec does not write to them */
    execv(binary, argv);
    return lx_fail(err, LX_ECONFIG, "%s cannot be started: %s", binary, strerror(errno));
}

lx_status cli_plan(const cli_command *self, int argc, char **argv, lx_err *err)
{
    const char *rig = NULL;
    const cli_flag flags[] = {
        {.name = "rig",
         .value = "TEXT",
         .help =
             "plan for another machine: rtx3060:12GiB,display,pcie=3x4,ram=32GiB; cards by '+'; "
             "also cpu=CORES, disk=GB/s",
         .text = &rig},
    };
    cli_args args = {0};
    bool is_done = false;
    lx_status status = cli_begin(self, &args, argc, argv, flags, 1, &is_done, err);
    if (status == LX_OK && !is_done && args.n_words > 1)
        status = lx_fail(err, LX_ECONFIG, "plan: one config file, not %d", args.n_words);
    if (status == LX_OK && !is_done)
        status = become_launcher(&args, rig, err);
    free(args.words);
    return status;
}
