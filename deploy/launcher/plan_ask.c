/*
 * plan_ask.c - one question, one child
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plan_ask.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_child.h"

#define ANSWER_ROOM 16384
#define WORDS       20
#define WORD_ROOM   192

typedef struct memory {
    char question[512];
    lx_plan_need need;
    struct memory *next;
} memory;

struct plan_asker {
    const char *binary_dir; /* borrowed */
    memory *first;          /* owned */
};

lx_status plan_asker_open(plan_asker **out, const char *binary_dir, lx_err *err)
{
    plan_asker *a = calloc(1, sizeof *a);
    if (!a)
        return lx_fail(err, LX_EAGAIN, "out of memory for a plan");
    a->binary_dir = binary_dir;
    *out = a;
    return LX_OK;
}

void plan_asker_close(plan_asker **asker)
{
    if (!asker || !*asker)
        return;
    for (memory *m = (*asker)->first, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    free(*asker);
    *asker = NULL;
}

/* --- the command line ------------------------------------------------------------------------- */

typedef struct line {
    int n;
    char *argv[WORDS + 1];
    char text[WORDS][WORD_ROOM];
    char binary[LX_LIMIT_PATH + 32], config[LX_LIMIT_PATH];
} line;

static void add_number(line *l, const char *flag, uint64_t number)
{
    if (!number)
        return;
    snprintf(l->text[l->n], WORD_ROOM, "%s", flag);
    l->argv[l->n] = l->text[l->n];
    l->n++;
    snprintf(l->text[l->n], WORD_ROOM, "%" PRIu64, number);
    l->argv[l->n] = l->text[l->n];
    l->n++;
}

static void add_text(line *l, const char *flag, const char *value)
{
    const char *both[] = {flag, value};
    for (int i = 0; i < 2; i++) {
        snprintf(l->text[l->n], WORD_ROOM, "%s", both[i]);
        l->argv[l->n] = l->text[l->n];
        l->n++;
    }
}

static void make_line(line *l, const plan_asker *a, lx_stage_kind kind, const lx_plan_question *q)
{
    static char word_plan[] = "plan", word_config[] = "--config";
    char text[WORD_ROOM];
    memset(l, 0, sizeof *l);
    snprintf(l->binary, sizeof l->binary, "%s/lx2v-%s", a->binary_dir, lx_stage_kind_name(kind));
    snprintf(l->config, sizeof l->config, "%s", q->config);
    l->argv[l->n++] = l->binary;
    l->argv[l->n++] = word_plan;
    l->argv[l->n++] = word_config;
    l->argv[l->n++] = l->config;
    add_number(l, "--replica", (uint64_t)q->replica);
    if (q->is_card) {
        lx_plan_kind_text(q, text, sizeof text);
        add_text(l, "--kind", text);
    }
    add_number(l, "--vram", q->vram);
    add_number(l, "--ram", q->ram);
    add_number(l, "--frames", (uint64_t)q->frames);
    if (q->is_residency_auto)
        add_text(l, "--residency", "auto");
    if (q->width) {
        snprintf(text, sizeof text, "%dx%d", q->width, q->height);
        add_text(l, "--size", text);
    }
}

/* What tells two questions apart; the config is the same for one asker. */
static void key_of(const line *l, lx_stage_kind kind, char *key, size_t bytes)
{
    snprintf(key, bytes, "%s", lx_stage_kind_name(kind));
    for (int i = 4; i < l->n; i++)
        snprintf(key + strlen(key), bytes - strlen(key), " %s", l->argv[i]);
}

/* --- asking ----------------------------------------------------------------------------------- */

/* The stage's own words, of a line such as "E dit[123] config: FILE: what is wrong". */
static const char *own_words(const char *text, lx_stage_kind kind)
{
    char head[32];
    snprintf(head, sizeof head, "E %s[", lx_stage_kind_name(kind));
    const char *at = strstr(text, head);
    const char *end = at ? strstr(at, "] ") : NULL;
    const char *word = end ? strstr(end, ": ") : NULL;
    return word ? word + 2 : text;
}

static lx_status explain(const lx_child *child, lx_stage_kind kind, lx_err *err)
{
    return lx_fail(err, child->exit_code == 2 ? LX_ECONFIG : LX_EJOB, "lx2v-%s plan: %s",
                   lx_stage_kind_name(kind),
                   child->err[0] ? own_words(child->err, kind) : "no answer");
}

static lx_status run(const line *l, lx_stage_kind kind, lx_plan_need *out, lx_err *err)
{
    static char answer[ANSWER_ROOM];
    lx_child child = {
        .argv = l->argv, .timeout_s = PLAN_ASK_TIMEOUT_S, .out = answer, .out_room = sizeof answer};
    lx_status status = lx_child_run(&child, err);
    if (status != LX_OK)
        return lx_wrap(err, "lx2v-%s plan", lx_stage_kind_name(kind));
    if (child.exit_code != 0 && child.exit_code != 3)
        return explain(&child, kind, err);
    status = lx_plan_hear(out, answer, child.out_bytes, err);
    if (status != LX_OK)
        return lx_wrap(err, "lx2v-%s plan", lx_stage_kind_name(kind));
    if (strcmp(out->stage, lx_stage_kind_name(kind)) != 0)
        return lx_fail(err, LX_EJOB, "lx2v-%s plan answers for %s", lx_stage_kind_name(kind),
                       out->stage);
    return LX_OK;
}

lx_status plan_ask(plan_asker *a, lx_stage_kind kind, const lx_plan_question *q, lx_plan_need *out,
                   lx_err *err)
{
    line *l = malloc(sizeof *l); /* 12 KiB */
    memory *m = calloc(1, sizeof *m);
    lx_status status = LX_OK;
    if (!l || !m) {
        free(l);
        free(m);
        return lx_fail(err, LX_EAGAIN, "out of memory for a plan");
    }
    make_line(l, a, kind, q);
    key_of(l, kind, m->question, sizeof m->question);
    const memory *known = a->first;
    while (known && strcmp(known->question, m->question) != 0)
        known = known->next;
    if (!known)
        status = run(l, kind, &m->need, err);
    if (status == LX_OK)
        *out = known ? known->need : m->need;
    free(l);
    if (known || status != LX_OK) {
        free(m);
        return status;
    }
    m->next = a->first;
    a->first = m;
    return LX_OK;
}
