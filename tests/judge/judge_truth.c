/*
 * judge_truth.c - truths from a file, and which of them a verdict has
 * SPDX-License-Identifier: Apache-2.0
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge.h"

#define MOST_TRUTHS 100000

/* --- reading ---------------------------------------------------------------------------------- */

static bool take_word(char *out, size_t room, const json_t *value)
{
    const char *text = json_string_value(value);
    return text && strlen(text) < room && strcpy(out, text);
}

#define TAKE(field, value) take_word((field), sizeof(field), (value))

static bool take_truth(judge_truth *t, const json_t *line)
{
    const json_t *objects = json_object_get(line, "objects");
    const json_t *background = json_object_get(line, "background");
    const char *prompt = json_string_value(json_object_get(line, "prompt"));
    size_t n_objects = json_array_size(objects), n_background = json_array_size(background);
    if (n_objects < 1 || n_objects > JUDGE_OBJECTS || n_background < 1 || n_background > 2)
        return false;
    *t = (judge_truth){.n_objects = (int)n_objects, .n_background = (int)n_background};
    bool ok = TAKE(t->direction, json_object_get(line, "direction")) &&
              TAKE(t->motion, json_object_get(line, "motion")) &&
              TAKE(t->relation, json_object_get(line, "relation"));
    for (size_t i = 0; ok && i < n_objects; i++) {
        const json_t *object = json_array_get(objects, i);
        ok = TAKE(t->color[i], json_object_get(object, "color")) &&
             TAKE(t->shape[i], json_object_get(object, "shape"));
    }
    for (size_t i = 0; ok && i < n_background; i++)
        ok = TAKE(t->background[i], json_array_get(background, i));
    if (prompt)
        snprintf(t->prompt, sizeof t->prompt, "%s", prompt);
    return ok;
}

static lx_status take_lines(judge_truth **truths, size_t *n, FILE *file, const char *path,
                            lx_err *err)
{
    for (size_t room = 0;;) {
        json_error_t why;
        json_t *line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &why);
        if (!line && feof(file) && *n)
            return LX_OK;
        if (!line)
            return lx_fail(err, LX_ECONFIG, "%s: truth %zu: %s", path, *n + 1, why.text);
        if (*n == room) {
            room = room ? 2 * room : 64;
            judge_truth *more =
                room > MOST_TRUTHS ? NULL : realloc(*truths, room * sizeof **truths);
            if (!more) {
                json_decref(line);
                return lx_fail(err, LX_EAGAIN, "%s: no room for %zu truths", path, room);
            }
            *truths = more;
        }
        bool ok = take_truth(*truths + *n, line);
        json_decref(line);
        if (!ok)
            return lx_fail(err, LX_ECONFIG,
                           "%s: truth %zu: expected objects (1 or 2 of color and shape), "
                           "background (1 or 2), direction, motion, relation",
                           path, *n + 1);
        (*n)++;
    }
}

lx_status judge_truths_read(judge_truth **truths, size_t *n, const char *path, lx_err *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return lx_fail(err, LX_ECONFIG, "%s: cannot be opened", path);
    judge_truth *made = NULL;
    size_t count = 0;
    lx_status status = take_lines(&made, &count, file, path, err);
    fclose(file);
    if (status) {
        free(made);
        return status;
    }
    *truths = made;
    *n = count;
    return LX_OK;
}

/* --- comparing -------------------------------------------------------------------------------- */

static const char *inverse_of(const char *relation)
{
    static const char *const pairs[][2] = {{"above", "below"}, {"left", "right"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        for (int k = 0; k < 2; k++)
            if (!strcmp(relation, pairs[i][k]))
                return pairs[i][!k];
    return relation;
}

/* With the seen objects in their order, or crossed over. */
static judge_score compare_as(const judge_verdict *v, const judge_truth *t, bool crossed)
{
    judge_score score = {.color = v->n_objects == t->n_objects,
                         .shape = v->n_objects == t->n_objects};
    for (int i = 0; i < t->n_objects && score.color + score.shape; i++) {
        const judge_object *seen = &v->object[crossed ? t->n_objects - 1 - i : i];
        score.color = score.color && !strcmp(seen->color, t->color[i]);
        score.shape = score.shape && !strcmp(seen->shape, t->shape[i]);
    }
    const char *relation = crossed ? inverse_of(v->relation) : v->relation;
    score.motion = v->n_objects == t->n_objects && !strcmp(v->motion, t->motion) &&
                   !strcmp(relation, t->relation);
    return score;
}

judge_score judge_compare(const judge_verdict *v, const judge_truth *t)
{
    judge_score score = compare_as(v, t, false);
    if (t->n_objects == 2 && v->n_objects == 2) {
        judge_score other = compare_as(v, t, true);
        int here = score.color * 4 + score.shape * 2 + score.motion;
        int there = other.color * 4 + other.shape * 2 + other.motion;
        score = there > here ? other : score;
    }
    score.background = v->n_background == t->n_background && !strcmp(v->direction, t->direction);
    for (int i = 0; i < t->n_background && score.background; i++)
        score.background = !strcmp(v->background[i], t->background[i]);
    score.all = score.color && score.background && score.motion && score.shape;
    return score;
}
