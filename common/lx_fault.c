/*
 * lx_fault.c - rules, counts and what happens then
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_fault.h"

#ifdef LX2V_FAULTS

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RULES_MAX 32
#define FLUSH_MS  20 /* before a death: messages that were sent leave the process */

typedef enum action { FAIL, KILL, ABORT, STOP, SPIN, EXIT, SLEEP } action;

typedef struct rule {
    char program[16], point[32]; /* program "": any */
    uint64_t n;
    bool is_open; /* N+ */
    action what;
    int value; /* FAIL: errno or LX_FAULT_NAN; EXIT: status; SLEEP: milliseconds */
} rule;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rule rules[RULES_MAX];
static int n_rules;
static bool is_on;
static lx_fault_count *counts; /* the process's own, or the ledger's */
static int ledger_fd = -1;

static const char *program(void)
{
    const char *name = program_invocation_short_name;
    return strncmp(name, "lx2v-", 5) ? name : name + 5;
}

/* A test that is misspelt must not pass. */
static void misspelt(const char *text)
{
    fprintf(stderr,
            "LX2V_FAULT: \"%s\" is not understood: [PROGRAM/]POINT:N[+][:ACTION], actions: EIO "
            "ENOSPC ENOMEM EAGAIN EMFILE EACCES kill abort stop spin nan exit=N sleep=MS\n",
            text);
    _exit(2);
}

static bool parse_action(const char *text, rule *r)
{
    static const struct {
        const char *word;
        action what;
        int value;
    } words[] = {{"", FAIL, EIO},          {"EIO", FAIL, EIO},
                 {"ENOSPC", FAIL, ENOSPC}, {"ENOMEM", FAIL, ENOMEM},
                 {"EAGAIN", FAIL, EAGAIN}, {"EMFILE", FAIL, EMFILE},
                 {"EACCES", FAIL, EACCES}, {"kill", KILL, 0},
                 {"abort", ABORT, 0},      {"nan", FAIL, LX_FAULT_NAN},
                 {"stop", STOP, 0},        {"spin", SPIN, 0}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(text, words[i].word)) {
            r->what = words[i].what;
            r->value = words[i].value;
            return true;
        }
    char rest;
    r->what = strncmp(text, "exit=", 5) ? SLEEP : EXIT;
    return sscanf(text, r->what == EXIT ? "exit=%9d%c" : "sleep=%9d%c", &r->value, &rest) == 1;
}

static void parse_rule(const char *text)
{
    rule r = {0};
    char action_text[24] = "", number[24] = "";
    const char *slash = strchr(text, '/'), *at = text;
    if (slash) {
        if (slash == text || (size_t)(slash - text) >= sizeof r.program)
            misspelt(text);
        memcpy(r.program, text, (size_t)(slash - text));
        at = slash + 1;
    }
    int n = 0;
    if (sscanf(at, "%31[a-z_.]:%20[0-9+]%n:%20[A-Za-z0-9=]%n", r.point, number, &n, action_text,
               &n) < 2 ||
        at[n])
        misspelt(text);
    char *end;
    r.n = strtoull(number, &end, 10);
    r.is_open = !strcmp(end, "+");
    if (!r.n || (*end && !r.is_open) || !parse_action(action_text, &r) || n_rules == RULES_MAX)
        misspelt(text);
    rules[n_rules++] = r;
}

static void open_ledger(const char *path)
{
    const size_t bytes = LX_FAULT_NAMES * sizeof *counts;
    ledger_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *at = ledger_fd < 0 || ftruncate(ledger_fd, (off_t)bytes)
                   ? MAP_FAILED
                   : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ledger_fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "LX2V_FAULT_LEDGER: %s: %s\n", path, strerror(errno));
        _exit(2);
    }
    counts = at;
}

static void set_up(void)
{
    static lx_fault_count own[LX_FAULT_NAMES];
    const char *spec = getenv("LX2V_FAULT"), *ledger = getenv("LX2V_FAULT_LEDGER");
    counts = own;
    is_on = (spec && *spec) || (ledger && *ledger);
    if (ledger && *ledger)
        open_ledger(ledger);
    char *copy = strdup(spec ? spec : ""), *rest = copy;
    for (char *text; (text = strsep(&rest, ",")) != NULL;)
        if (*text)
            parse_rule(text);
    free(copy);
}

/* The line of this point, made if it is new; NULL: the ledger is full. */
static lx_fault_count *line_of(const char *name)
{
    if (ledger_fd >= 0)
        flock(ledger_fd, LOCK_EX);
    lx_fault_count *found = NULL;
    for (int i = 0; i < LX_FAULT_NAMES && !found; i++) {
        if (!counts[i].name[0])
            snprintf(counts[i].name, sizeof counts[i].name, "%s", name);
        if (!strcmp(counts[i].name, name))
            found = &counts[i];
    }
    if (ledger_fd >= 0)
        flock(ledger_fd, LOCK_UN);
    return found;
}

static void wait_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

static int act(const rule *r, const char *name)
{
    fprintf(stderr, "W fault %s\n", name);
    switch (r->what) {
    case KILL:
        wait_ms(FLUSH_MS);
        kill(getpid(), SIGKILL);
        break;
    case ABORT:
        abort();
    case STOP:
        wait_ms(FLUSH_MS);
        kill(getpid(), SIGSTOP);
        return 0;
    case SPIN: /* as a thread that waits for a kernel which never returns */
        for (;;)
            wait_ms(1000);
    case EXIT:
        wait_ms(FLUSH_MS);
        _exit(r->value);
    case SLEEP:
        wait_ms(r->value);
        return 0;
    case FAIL:
        break;
    }
    return r->value;
}

int lx_fault_visit(const char *point)
{
    char name[48];
    pthread_once(&once, set_up);
    if (!is_on)
        return 0;
    snprintf(name, sizeof name, "%s/%s", program(), point);
    pthread_mutex_lock(&lock);
    lx_fault_count *line = line_of(name);
    uint64_t n = line ? atomic_fetch_add(&line->visits, 1) + 1 : 0;
    const rule *hit = NULL;
    for (int i = 0; i < n_rules && !hit; i++)
        if (!strcmp(rules[i].point, point) &&
            (!rules[i].program[0] || !strcmp(rules[i].program, program())) &&
            (n == rules[i].n || (rules[i].is_open && n > rules[i].n)))
            hit = &rules[i];
    if (hit && line)
        atomic_fetch_add(&line->fired, 1);
    pthread_mutex_unlock(&lock);
    return hit ? act(hit, name) : 0;
}

#else
typedef int lx_fault_is_compiled_out; /* a file must have something in it */
#endif
