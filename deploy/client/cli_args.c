/*
 * cli_args.c - flags and words
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "lx_config.h"

#define N_COMMON 7

/* The flags of the command, then those that all commands take. */
typedef struct flag_table {
    cli_flag all[CLI_FLAGS_MAX + N_COMMON];
    int n;
    bool seen[CLI_FLAGS_MAX + N_COMMON];
} flag_table;

static void make_table(flag_table *table, cli_common *common, const cli_flag *flags, int n_flags)
{
    const cli_flag shared[N_COMMON] = {
        {"endpoint", 0, "ENDPOINT", "where the launcher listens: ipc:///PATH or tcp://HOST:PORT",
         &common->endpoint, NULL},
        {"key", 0, "FILE", "for tcp: the key that `lx2v keys` made", &common->key, NULL},
        {"config", 0, "FILE", "the launcher's config (default: ./config.yaml)", &common->config,
         NULL},
        {"timeout", 0, "SECONDS", "give up after this long (exit 4)", &common->timeout, NULL},
        {"json", 0, NULL, "results as JSON on stdout", NULL, &common->json},
        {"no-color", 0, NULL, "plain lines, no terminal control", NULL, &common->no_color},
        {"help", 'h', NULL, "this text", NULL, &common->help},
    };
    memset(table, 0, sizeof *table);
    for (int i = 0; i < n_flags && i < CLI_FLAGS_MAX; i++)
        table->all[table->n++] = flags[i];
    for (int i = 0; i < N_COMMON; i++)
        table->all[table->n++] = shared[i];
}

/* The flag that `arg` names ("--size", "--size=...", "-n"); -1 if there is none. */
static int find_flag(const flag_table *table, const char *arg)
{
    for (int i = 0; i < table->n; i++) {
        const cli_flag *flag = &table->all[i];
        if (arg[1] != '-') {
            if (flag->letter && arg[1] == flag->letter && !arg[2])
                return i;
            continue;
        }
        size_t n = strlen(flag->name);
        if (strncmp(arg + 2, flag->name, n) == 0 && (!arg[2 + n] || arg[2 + n] == '='))
            return i;
    }
    return -1;
}

static lx_status unknown_flag(const flag_table *table, const char *arg, lx_err *err)
{
    const char *names[CLI_FLAGS_MAX + N_COMMON];
    for (int i = 0; i < table->n; i++)
        names[i] = table->all[i].name;
    char word[64];
    snprintf(word, sizeof word, "%s", arg + (arg[1] == '-' ? 2 : 1));
    word[strcspn(word, "=")] = 0;
    const char *near = lx_nearest(word, names, (size_t)table->n);
    return lx_fail(err, LX_ECONFIG, "%.64s: unknown flag%s%s%s (--help lists them)", arg,
                   near ? "; did you mean --" : "", near ? near : "", near ? "?" : "");
}

/* Takes the flag at argv[*i] and its value. */
static lx_status take_flag(flag_table *table, int argc, char **argv, int *i, lx_err *err)
{
    const char *arg = argv[*i];
    int at = find_flag(table, arg);
    if (at < 0)
        return unknown_flag(table, arg, err);
    const cli_flag *flag = &table->all[at];
    if (table->seen[at])
        return lx_fail(err, LX_ECONFIG, "--%s: given twice", flag->name);
    table->seen[at] = true;
    const char *equals = arg[1] == '-' ? strchr(arg, '=') : NULL;
    if (!flag->value) {
        if (equals)
            return lx_fail(err, LX_ECONFIG, "--%s: takes no value", flag->name);
        *flag->present = true;
        return LX_OK;
    }
    if (!equals && *i + 1 >= argc)
        return lx_fail(err, LX_ECONFIG, "--%s: needs a value, %s", flag->name, flag->value);
    *flag->text = equals ? equals + 1 : argv[++*i];
    if (flag->present)
        *flag->present = true;
    return LX_OK;
}

lx_status cli_args_parse(cli_args *args, int argc, char **argv, const cli_flag *flags, int n_flags,
                         lx_err *err)
{
    flag_table table;
    make_table(&table, &args->common, flags, n_flags);
    args->n_words = 0;
    args->words = calloc((size_t)argc + 1, sizeof *args->words);
    if (!args->words)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (only_words || arg[0] != '-' || !arg[1]) {
            args->words[args->n_words++] = arg;
        } else if (strcmp(arg, "--") == 0) {
            only_words = true;
        } else {
            lx_status status = take_flag(&table, argc, argv, &i, err);
            if (status != LX_OK)
                return status;
        }
    }
    cli_common *common = &args->common;
    if (common->timeout && (!lx_parse_real(common->timeout, &common->timeout_s) ||
                            common->timeout_s <= 0 || common->timeout_s > 1e9))
        return lx_fail(err, LX_ECONFIG,
                       "--timeout: \"%.32s\" is not accepted; accepted: seconds "
                       "above 0",
                       common->timeout);
    return LX_OK;
}

void cli_args_help(const cli_flag *flags, int n_flags)
{
    cli_common unused;
    flag_table table;
    make_table(&table, &unused, flags, n_flags);
    for (int i = 0; i < table.n; i++) {
        const cli_flag *flag = &table.all[i];
        char left[64], letter[8] = "";
        if (flag->letter)
            snprintf(letter, sizeof letter, "-%c, ", flag->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, flag->name, flag->value ? " " : "",
                 flag->value ? flag->value : "");
        printf("  %-28s %s\n", left, flag->help);
    }
}
