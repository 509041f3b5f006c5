/*
 * cli_report.h - a bug report that gives nobody away
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      `lx2v report` and what keeps prompts out of it.
 * Privacy   No prompt is ever copied. Texts that may quote one (errors, log lines, what children
 *           print) pass cli_scrub_line, which blots out every part of a known prompt; of logs only
 *           errors and warnings are taken, which by contract (common/lx_log.h) have none. The home
 *           folder becomes "~"; comments and secrets of the config are left out; no host name.
 * Tests     tests/unit/test_report.c
 */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "lx_status.h"

/* --- cli_scrub.c ------------------------------------------------------------------------------ */

typedef struct cli_scrub {
    char home[256]; /* "" if unknown */
    char **prompts; /* owned */
    size_t n, room;
    unsigned char grams[8192]; /* a bit for each hash of three bytes that some prompt has */
} cli_scrub;

void cli_scrub_open(cli_scrub *s);
void cli_scrub_close(cli_scrub *s);
/** From now on no part of it passes. False: out of memory. */
bool cli_scrub_learn(cli_scrub *s, const char *prompt);

/** One line, as it may be shown: prompts "[prompt]", home "~", control characters '?'. Cut to fit;
 *  returns out. */
char *cli_scrub_line(const cli_scrub *s, char *out, size_t out_bytes, const char *text);

/** The same for each line of a longer text, to a file, indented by two. */
void cli_scrub_text(const cli_scrub *s, FILE *to, const char *text);

/** A YAML file without comments, and without the values of keys that sound like secrets or prompts
 *  (what is indented below such a key goes too). */
void cli_scrub_yaml(const cli_scrub *s, FILE *to, FILE *from);

/** Is this a log line of ours (common/lx_log.h) that tells of an error or a warning? */
bool cli_scrub_is_error(const char *line);

#endif
