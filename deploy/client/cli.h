/*
 * cli.h - what the files of the `lx2v` command share
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One function per command (cli_NAME.c), and the helpers they have in common: flags,
 *           text for a terminal, JSON, progress.
 * Rule      Results go to stdout, everything else to stderr. A command returns a status; cli_main.c
 *           alone prints the error and chooses the exit code.
 */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>
#include <stdio.h>

#include "lx_client.h"

/* --- flags: cli_args.c ------------------------------------------------------------------------ */

typedef struct cli_flag {
    const char *name;  /* without "--" */
    char letter;       /* "-n", or 0 */
    const char *value; /* name of its value in the help; NULL: it has none */
    const char *help;
    const char **text; /* where the value goes; borrowed from argv */
    bool *present;     /* or that it was there */
} cli_flag;

#define CLI_FLAGS_MAX 24

typedef struct cli_common { /* flags that every command takes */
    const char *endpoint, *config, *timeout, *key;
    bool json, no_color, help;
    double timeout_s; /* 0: not given */
} cli_common;

typedef struct cli_args {
    cli_common common;
    const char **words; /* what is no flag, in order; owned by cli_args_parse's caller: free() */
    int n_words;
} cli_args;

/** Sort argv into flags and words; "--" ends the flags. LX_ECONFIG: an unknown flag (with the
 *  nearest known one), a missing value, a flag given twice. */
lx_status cli_args_parse(cli_args *args, int argc, char **argv, const cli_flag *flags, int n_flags,
                         lx_err *err);
void cli_args_help(const cli_flag *flags, int n_flags);

/* --- commands --------------------------------------------------------------------------------- */

typedef struct cli_command {
    const char *name;
    const char *usage; /* after the name */
    const char *help;
    lx_status (*run)(const struct cli_command *self, int argc, char **argv, lx_err *err);
    lx_client_order order; /* of the plain orders: cli_order.c */
} cli_command;

lx_status cli_submit(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_watch(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_wait(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_status(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_list(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_order(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_init(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_bench(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_selftest(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_keys(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_plan(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_doctor(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_journal(const cli_command *self, int argc, char **argv, lx_err *err);
lx_status cli_report_file(const cli_command *self, int argc, char **argv, lx_err *err);

/** Parse, and answer --help at once. *done: nothing is left to do. */
lx_status cli_begin(const cli_command *self, cli_args *args, int argc, char **argv,
                    const cli_flag *flags, int n_flags, bool *done, lx_err *err);

/** Find and open the launcher as the common flags say. */
lx_status cli_connect(lx_client **out, const cli_common *common, lx_err *err);
/** Where a clip lies: its path, or its name alone if that is on another machine. */
void cli_clip_path(const lx_client *client, const lx_client_job *job, char *out, size_t out_bytes);

/* --- text: cli_text.c ------------------------------------------------------------------------- */

/** text with control characters as '?' (it comes from others, and a terminal obeys escapes), cut
 *  at a character to fit. Returns out. */
char *cli_safe(const char *text, char *out, size_t out_bytes);
char *cli_bytes(uint64_t bytes, char *out, size_t out_bytes);   /* "1.5 GiB" */
char *cli_seconds(double seconds, char *out, size_t out_bytes); /* "12.3 s", "4 min 05 s" */

/** One line on stderr: "lx2v: ..." */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- JSON: cli_json.c ------------------------------------------------------------------------- */

json_t *cli_json_job(const lx_client_job *job);
json_t *cli_json_stage(const lx_client_stage *stage);
json_t *cli_json_link(const lx_client_link *link);
json_t *cli_json_event(const lx_client_event *event);
/** Print one line to stdout and release the value. */
void cli_json_print(json_t *value);
/** A string, or the nearest valid UTF-8 to it. */
json_t *cli_json_text(const char *text);

/* --- following jobs: cli_follow.c, drawn by cli_bar.c ----------------------------------------- */

typedef struct cli_followed { /* a job somebody waits for */
    lx_client_job job;        /* as last asked */
    bool has_ended;
} cli_followed;

/** Called once for each job as it ends. */
typedef lx_status (*cli_ended_fn)(void *self, const lx_client_job *job, lx_err *err);

typedef struct cli_follow {
    lx_client *client;  /* borrowed */
    cli_followed *jobs; /* borrowed; id filled in */
    size_t n_jobs;
    double timeout_s;         /* 0: none */
    bool quiet;               /* no progress: --json */
    bool plain;               /* no ANSI */
    cli_ended_fn ended;       /* may be NULL */
    void (*tick)(void *self); /* at least every 100 ms, may query the client; may be NULL */
    void *self;
} cli_follow;

/** Wait until all have ended, showing progress. LX_ETIMEOUT, or LX_ECANCEL on SIGINT; the state of
 *  the jobs themselves is left to the caller. */
lx_status cli_follow_all(const cli_follow *follow, lx_err *err);

/** Print what a finished clip took: seconds per stage, peak memory per process. */
void cli_report(const lx_client_job *job, const char *where);

/** LX_OK if all are done, LX_EJOB if one failed, LX_ECANCEL if one was cancelled. */
lx_status cli_verdict(const cli_followed *jobs, size_t n, lx_err *err);

/** From here on SIGINT is a request that cli_interrupted() tells, not the end. */
void cli_catch_interrupt(void);
bool cli_interrupted(void);

typedef struct cli_bar cli_bar;

/** Progress on stderr. plain (or no terminal there): one line per change instead of lines that are
 *  redrawn. NULL when out of memory; all functions accept NULL. */
cli_bar *cli_bar_open(bool plain);
void cli_bar_event(cli_bar *bar, const lx_client_event *event);
void cli_bar_draw(cli_bar *bar);  /* at most ten times a second */
void cli_bar_clear(cli_bar *bar); /* before other output */
void cli_bar_close(cli_bar **bar);

/* --- lists of jobs: cli_jobs_file.c ----------------------------------------------------------- */

typedef struct cli_request { /* one line of a file, or the command line itself */
    char *prompt;            /* owned */
    char id[41], sampler[16], rng[64], output[129];
    int32_t width, height, frames, n_steps, steps[64];
    double fps, shift;
    int64_t seed;
    int line; /* of the file it came from; 0: the command line */
} cli_request;

/** What the client library takes; borrowed from r. */
lx_client_request cli_request_view(const cli_request *r);

typedef struct cli_requests {
    cli_request *list; /* owned */
    size_t n, room;
} cli_requests;

/** Append a copy of `like` with this prompt; *out (may be NULL) is valid until the next append. */
lx_status cli_requests_add(cli_requests *all, const cli_request *like, const char *prompt,
                           cli_request **out, lx_err *err);
void cli_requests_free(cli_requests *all);

/** One job a line: text, or JSON objects if the name ends in .jsonl; "-" is stdin. `like` gives
 *  what a line does not say. LX_ECONFIG: file, line, key, what is accepted. */
lx_status cli_requests_read(cli_requests *all, const char *path, const cli_request *like,
                            lx_err *err);

/** Set one field from text as typed: "size", "frames", "seed", "steps-list", "shift", "sampler",
 *  "rng", "fps", "id", "name". LX_ECONFIG: begins with the field. */
lx_status cli_request_set(cli_request *request, const char *field, const char *text, lx_err *err);

/* --- the user's copy: cli_copy.c -------------------------------------------------------------- */

/** Can `to` be written? LX_ECONFIG: its folder is missing, or it exists and force is not set. */
lx_status cli_copy_check(const char *to, bool force, lx_err *err);
/** Copy a clip (a file, or a folder of frames) whole or not at all. */
lx_status cli_copy(const char *from, const char *to, bool force, lx_err *err);

#endif
