/*
 * judge.c - from a clip to a verdict
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "judge_parts.h"

/* More than this share of the picture is neither background nor object: the background, at least,
 * is not one colour and not a gradient. */
#define MOST_CLUTTER 0.03f
/* An object half in one colour of the palette and half in another has 50 and more. */
#define MOST_SPREAD 40.0f

static void name_background(judge_verdict *v, const judge_background *bg)
{
    v->direction = v->clutter > MOST_CLUTTER ? JUDGE_UNCLEAR : bg->direction;
    v->n_background = strcmp(bg->direction, "plain") ? 2 : 1;
    for (int i = 0; i < v->n_background; i++)
        v->background[i] = judge_color_name(bg->ends[i]);
}

static void describe(judge_object *o, const judge_track *track, const judge_clip *clip)
{
    double x = 0, y = 0, size = 0;
    for (int t = 0; t < clip->n_frames; t++) {
        const judge_spot *spot = &track->spot[t];
        if (!spot->is_seen)
            continue;
        x += (double)spot->x / track->n_seen;
        y += (double)spot->y / track->n_seen;
        size += sqrt(spot->area) / track->n_seen;
    }
    memcpy(o->rgb, track->rgb, sizeof o->rgb);
    bool is_steady = track->n_seen * 10 >= clip->n_frames * 8;
    bool is_one_color = track->spread < MOST_SPREAD * (float)track->n_seen;
    o->color = is_steady && is_one_color ? judge_color_name(track->rgb) : JUDGE_UNCLEAR;
    o->shape = is_steady ? judge_track_shape(track, clip->n_frames) : JUDGE_UNCLEAR;
    o->x = (float)x / (float)clip->width;
    o->y = (float)y / (float)clip->width;
    o->size = (float)size / (float)clip->width;
}

static const char *relation_of(const judge_object *a, const judge_object *b)
{
    float dx = a->x - b->x, dy = a->y - b->y;
    if (fabsf(dy) > 1.3f * fabsf(dx))
        return dy < 0 ? "above" : "below";
    if (fabsf(dx) > 1.3f * fabsf(dy))
        return dx < 0 ? "left" : "right";
    return JUDGE_UNCLEAR;
}

static void describe_motion(judge_verdict *v, const judge_tracks *tracks, const judge_clip *clip)
{
    v->motion = JUDGE_UNCLEAR;
    for (int i = 0; i < tracks->n; i++) {
        judge_motion m = judge_motion_of(&tracks->track[i], clip->n_frames, clip->width);
        if (i == 0) {
            v->motion = m.name;
            v->dx = m.dx;
            v->dy = m.dy;
            v->turns = m.turns;
            v->growth = m.growth;
        } else if (strcmp(v->motion, m.name)) {
            v->motion = JUDGE_UNCLEAR;
        }
    }
}

lx_status judge_look(judge_verdict *verdict, const judge_clip *clip, lx_err *err)
{
    judge_background bg;
    judge_tracks tracks = {0};
    if (clip->n_frames < 1)
        return lx_fail(err, LX_EJOB, "a clip without frames");
    lx_status status = judge_background_fit(&bg, clip, err);
    if (status)
        return status;
    status = judge_tracks_find(&tracks, clip, &bg, err);
    if (status == LX_OK) {
        judge_verdict v = {.n_objects = tracks.n,
                           .relation = "",
                           .growth = 1,
                           .clutter = tracks.clutter,
                           .flicker = tracks.flicker};
        name_background(&v, &bg);
        for (int i = 0; i < tracks.n; i++)
            describe(&v.object[i], &tracks.track[i], clip);
        describe_motion(&v, &tracks, clip);
        if (tracks.n == 2)
            v.relation = relation_of(&v.object[0], &v.object[1]);
        *verdict = v;
    }
    judge_tracks_free(&tracks);
    judge_background_free(&bg);
    return status;
}
