/*
 * cli_selftest_print.c - verdicts for a person and for a program
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "cli.h"
#include "cli_selftest.h"

const char *selftest_verdict_name(selftest_verdict verdict)
{
    static const char *const names[] = {"ok", "value", "warning", "failed", "skipped"};
    _Static_assert(sizeof names / sizeof *names == SELFTEST_VERDICT_COUNT, "one name each");
    return (unsigned)verdict < SELFTEST_VERDICT_COUNT ? names[verdict] : "unknown";
}

selftest_verdict selftest_worst(const selftest *s)
{
    selftest_verdict worst = SELFTEST_OK;
    for (int i = 0; i < s->n; i++) {
        selftest_verdict v = s->check[i].verdict;
        if (v == SELFTEST_FAILED || (v == SELFTEST_WARNING && worst == SELFTEST_OK))
            worst = v;
    }
    return worst;
}

void selftest_print(const selftest_check *c)
{
    static const char *const marks[] = {"ok", "-", "WARNING", "FAILED", "skipped"};
    char text[1200];
    printf("%-8s %-8s %-26s %s\n", c->stage, marks[c->verdict], c->what,
           cli_safe(c->value, text, sizeof text));
    if (*c->expected)
        printf("%18sexpected: %s%s%s%s\n", "", cli_safe(c->expected, text, sizeof text),
               *c->source ? " (" : "", c->source, *c->source ? ")" : "");
    if (*c->advice)
        printf("%18sadvice: %s\n", "", cli_safe(c->advice, text, sizeof text));
    fflush(stdout);
}

static json_t *text_or_null(const char *text)
{
    return *text ? cli_json_text(text) : json_null();
}

json_t *selftest_json(const selftest *s, const char *config)
{
    json_t *list = json_array();
    for (int i = 0; i < s->n; i++) {
        const selftest_check *c = &s->check[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "stage", c->stage, "check",
                            c->what, "verdict", selftest_verdict_name(c->verdict), "value",
                            cli_json_text(c->value), "expected", text_or_null(c->expected),
                            "source", text_or_null(c->source), "advice", text_or_null(c->advice)));
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "version", LX2V_VERSION, "backend", LX2V_BACKEND,
                     "verdict", selftest_verdict_name(selftest_worst(s)), "config",
                     cli_json_text(config), "checks", list);
}
