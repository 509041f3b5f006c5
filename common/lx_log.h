/*
 * lx_log.h - one line to stderr
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      `I dit[4211] job=7f3a step=2/4 ms=412`: letter (E W I D), process, then key=value with
 *           units in the key.
 * Promise   One call is one line and one write: control characters are escaped, over-long lines are
 *           cut at LX_LOG_LINE bytes. If stderr is blocked or closed, the line is dropped and
 *           counted, and the count stands before the next line that finds room; nobody waits.
 *           A program started without stdin, stdout or stderr has /dev/null there, so that no
 *           file of its own comes to lie where log lines go.
 * Privacy   Prompts never at I or above: length and hash only.
 * Threads   Any thread may log at any time.
 * Tests     tests/unit/test_log.c, tests/faults/test_logs.c
 */
#ifndef LX_LOG_H
#define LX_LOG_H

#define LX_LOG_LINE 2048

typedef enum lx_log_level { LX_LOG_ERROR, LX_LOG_WARN, LX_LOG_INFO, LX_LOG_DEBUG } lx_log_level;

/** Name this process in its lines; first thing in main, and again when name or level change.
 *  who: borrowed for ever. */
void lx_log_open(const char *who, lx_log_level most_verbose);

void lx_log_line(lx_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define LX_E(...) lx_log_line(LX_LOG_ERROR, __VA_ARGS__)
#define LX_W(...) lx_log_line(LX_LOG_WARN, __VA_ARGS__)
#define LX_I(...) lx_log_line(LX_LOG_INFO, __VA_ARGS__)
#define LX_D(...) lx_log_line(LX_LOG_DEBUG, __VA_ARGS__)

#endif
