/*
 * judge_main.c - lx2v_judge: what clips show, and whether it is what was asked for
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "judge.h"

static const char usage[] =
    "usage: lx2v_judge [flags] FILE|FOLDER...\n"
    "  A FOLDER stands for its .mp4 and .y4m files in the order of their names.\n"
    "  One JSON object a clip on stdout, then one with the shares right.\n"
    "  --expect FILE     truths, one JSON object a line, in the order of the clips\n"
    "  --at-least WORD=SHARE,...   color, background, motion, shape, all: exit 1 below\n"
    "  --flicker MOST    mean step of the background from frame to frame: exit 1 above\n"
    "  --raw WxHxF       the files are rgb24 frames; one file may hold many clips\n"
    "  --wrong           print only clips that are not all right\n"
    "Exit: 0 done, 1 a share is too low or a clip is broken, 2 wrong use.\n";

enum { COLOR, BACKGROUND, MOTION, SHAPE, ALL, N_SHARES };
static const char *const share_names[N_SHARES] = {"color", "background", "motion", "shape", "all"};

typedef struct session {
    char **path; /* owned */
    size_t n_paths, room;
    const char *expect, *shares;
    double at_least[N_SHARES];
    double flicker, flicker_most; /* sum over the clips; 0: any */
    judge_clip raw;               /* width 0: the files are coded */
    bool only_wrong;
    judge_truth *truths; /* owned */
    size_t n_truths, n_clips, right[N_SHARES];
} session;

/* --- arguments -------------------------------------------------------------------------------- */

static lx_status add_path(session *s, const char *folder, const char *name, lx_err *err)
{
    if (s->n_paths == s->room) {
        size_t room = s->room ? 2 * s->room : 64;
        char **more = realloc(s->path, room * sizeof *more);
        if (!more)
            return lx_fail(err, LX_EAGAIN, "no memory for %zu paths", room);
        s->path = more;
        s->room = room;
    }
    char *path = NULL;
    if (asprintf(&path, "%s%s%s", folder, *folder ? "/" : "", name) < 0)
        return lx_fail(err, LX_EAGAIN, "no memory for a path");
    s->path[s->n_paths++] = path;
    return LX_OK;
}

static int is_clip(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');
    return end && (!strcmp(end, ".mp4") || !strcmp(end, ".y4m"));
}

static lx_status add_paths(session *s, const char *path, lx_err *err)
{
    struct stat st;
    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return add_path(s, "", path, err);
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, is_clip, alphasort);
    lx_status status = n > 0 ? LX_OK : lx_fail(err, LX_ECONFIG, "%s: no .mp4 or .y4m in it", path);
    for (int i = 0; i < n; i++) {
        if (!status)
            status = add_path(s, path, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* "color=0.97,motion=0.95" */
static lx_status set_at_least(session *s, const char *text, lx_err *err)
{
    while (*text) {
        int n = 0, which = 0;
        char word[16];
        double share;
        if (sscanf(text, "%15[a-z]=%lf%n", word, &share, &n) < 2 || !(share >= 0 && share <= 1))
            return lx_fail(err, LX_ECONFIG, "--at-least %s: expected WORD=SHARE", text);
        while (which < N_SHARES && strcmp(word, share_names[which]))
            which++;
        if (which == N_SHARES)
            return lx_fail(err, LX_ECONFIG,
                           "--at-least %s: expected color, background, motion, shape or all", word);
        s->at_least[which] = share;
        text += n;
        text += *text == ',';
    }
    return LX_OK;
}

static lx_status parse(session *s, int argc, char **argv, lx_err *err)
{
    lx_status status = LX_OK;
    for (int i = 1; i < argc && !status; i++) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(word, "--wrong")) {
            s->only_wrong = true;
        } else if (strncmp(word, "--", 2)) {
            status = add_paths(s, word, err);
        } else if (!value) {
            status = lx_fail(err, LX_ECONFIG, "%s: needs a value, or is unknown\n%s", word, usage);
        } else if (i++, !strcmp(word, "--expect")) {
            s->expect = value;
        } else if (!strcmp(word, "--at-least")) {
            status = set_at_least(s, s->shares = value, err);
        } else if (!strcmp(word, "--flicker")) {
            if (sscanf(value, "%lf", &s->flicker_most) != 1 || !(s->flicker_most > 0))
                status = lx_fail(err, LX_ECONFIG, "--flicker %s: expected a number above 0", value);
        } else if (!strcmp(word, "--raw")) {
            if (sscanf(value, "%4dx%4dx%4d", &s->raw.width, &s->raw.height, &s->raw.n_frames) != 3)
                status = lx_fail(err, LX_ECONFIG, "--raw %s: expected WxHxF", value);
        } else {
            status = lx_fail(err, LX_ECONFIG, "%s: unknown\n%s", word, usage);
        }
    }
    if (!status && s->shares && !s->expect)
        status = lx_fail(err, LX_ECONFIG, "--at-least %s: needs --expect", s->shares);
    if (!status && !s->n_paths)
        status = lx_fail(err, LX_ECONFIG, "no clips\n%s", usage);
    return status;
}

/* --- output ----------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    return json_real((double)(long long)(value * 1000 + (value < 0 ? -0.5 : 0.5)) / 1000);
}

static json_t *verdict_json(const judge_verdict *v)
{
    json_t *objects = json_array(), *background = json_array();
    for (int i = 0; i < v->n_objects; i++) {
        const judge_object *o = &v->object[i];
        json_array_append_new(objects, json_pack("{ss ss s[iii] so so so}", "color", o->color,
                                                 "shape", o->shape, "rgb", (int)o->rgb[0],
                                                 (int)o->rgb[1], (int)o->rgb[2], "x", number(o->x),
                                                 "y", number(o->y), "size", number(o->size)));
    }
    for (int i = 0; i < v->n_background; i++)
        json_array_append_new(background, json_string(v->background[i]));
    return json_pack("{so so ss ss ss so so so so so so}", "objects", objects, "background",
                     background, "direction", v->direction, "motion", v->motion, "relation",
                     v->relation, "dx", number(v->dx), "dy", number(v->dy), "turns",
                     number(v->turns), "growth", number(v->growth), "flicker", number(v->flicker),
                     "clutter", number(v->clutter));
}

static json_t *score_json(const bool right[N_SHARES])
{
    json_t *out = json_object();
    for (int i = 0; i < N_SHARES; i++)
        json_object_set_new(out, share_names[i], json_boolean(right[i]));
    return out;
}

static void print_line(json_t *line)
{
    json_dumpf(line, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(5));
    putchar('\n');
    json_decref(line);
}

/* --- judging ---------------------------------------------------------------------------------- */

static void report(session *s, const char *name, const judge_verdict *v)
{
    json_t *line = json_pack("{ss}", "clip", name);
    json_object_update_missing_new(line, verdict_json(v));
    bool is_wrong = true;
    if (s->n_truths) {
        const judge_truth *t = &s->truths[s->n_clips];
        judge_score score = judge_compare(v, t);
        const bool right[N_SHARES] = {score.color, score.background, score.motion, score.shape,
                                      score.all};
        for (int i = 0; i < N_SHARES; i++)
            s->right[i] += right[i];
        is_wrong = !score.all;
        json_object_set_new(line, "right", score_json(right));
        json_object_set_new(line, "prompt", json_string(t->prompt));
    }
    s->n_clips++;
    s->flicker += (double)v->flicker;
    if (is_wrong || !s->only_wrong)
        print_line(line);
    else
        json_decref(line);
}

static lx_status judge_one(session *s, judge_clip *clip, const char *name, lx_err *err)
{
    judge_verdict v;
    if (s->n_truths && s->n_clips == s->n_truths) {
        judge_clip_free(clip);
        return lx_fail(err, LX_ECONFIG, "%s: more clips than the %zu truths of %s", name,
                       s->n_truths, s->expect);
    }
    lx_status status = judge_look(&v, clip, err);
    judge_clip_free(clip);
    if (!status)
        report(s, name, &v);
    return status;
}

static lx_status judge_file(session *s, const char *path, lx_err *err)
{
    judge_clip clip = {0};
    size_t n = 1;
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    lx_status status = s->raw.width ? judge_raw_count(path, &s->raw, &n, err) : LX_OK;
    for (size_t i = 0; !status && i < n; i++) {
        char name[256];
        clip = s->raw;
        status =
            s->raw.width ? judge_raw_read(&clip, path, i, err) : judge_clip_read(&clip, path, err);
        snprintf(name, sizeof name, s->raw.width ? "%s#%zu" : "%s", base, i);
        if (!status)
            status = judge_one(s, &clip, name, err);
    }
    return status;
}

/* The shares, and whether all are as high as was asked. */
static bool sum_up(const session *s)
{
    bool is_enough = true;
    json_t *line = json_pack("{sI}", "clips", (json_int_t)s->n_clips);
    fprintf(stderr, "%zu clips:", s->n_clips);
    for (int i = 0; i < N_SHARES; i++) {
        double share = (double)s->right[i] / (double)s->n_clips;
        bool is_low = share < s->at_least[i];
        is_enough = is_enough && !is_low;
        json_object_set_new(line, share_names[i], json_real(share));
        fprintf(stderr, " %s %.1f %%%s", share_names[i], 100 * share, is_low ? " (too low)" : "");
    }
    double flicker = s->flicker / (double)s->n_clips;
    bool is_high = s->flicker_most > 0 && flicker > s->flicker_most;
    json_object_set_new(line, "flicker", json_real(flicker));
    fprintf(stderr, " flicker %.2f%s\n", flicker, is_high ? " (too high)" : "");
    print_line(line);
    return is_enough && !is_high;
}

int main(int argc, char **argv)
{
    session s = {0};
    lx_err err = {0};
    lx_status status = parse(&s, argc, argv, &err);
    if (!status && s.expect)
        status = judge_truths_read(&s.truths, &s.n_truths, s.expect, &err);
    for (size_t i = 0; i < s.n_paths && !status; i++)
        status = judge_file(&s, s.path[i], &err);
    if (!status && s.n_clips < s.n_truths)
        status = lx_fail(&err, LX_ECONFIG, "%zu clips, but %zu truths in %s", s.n_clips, s.n_truths,
                         s.expect);
    bool is_enough = status || !s.n_truths || sum_up(&s);
    if (status)
        fprintf(stderr, "lx2v_judge: %s\n", err.message);
    for (size_t i = 0; i < s.n_paths; i++)
        free(s.path[i]);
    free(s.path);
    free(s.truths);
    return status ? lx_exit_code(status) : !is_enough;
}
