/*
 * judge_parts.h - what the files of the judge share: palette, background, tracks, outlines
 * SPDX-License-Identifier: Apache-2.0
 *
 * The order of work: fit the background, find what is not background, follow it through the
 * frames, measure its outline in each, and name colour, shape and motion.
 */
#ifndef JUDGE_PARTS_H
#define JUDGE_PARTS_H

#include "judge.h"

/* --- judge_palette.c -------------------------------------------------------------------------- */

/** How different two colours look: about 60 and more between any two names of the palette. */
float judge_color_distance(const float a[3], const float b[3]);

/** The name of the nearest colour of the palette, or "unclear" if none is near. */
const char *judge_color_name(const float rgb[3]);

/* --- judge_background.c ----------------------------------------------------------------------- */

typedef struct judge_background {
    float *model;     /* owned: [height][width][3], the picture without objects */
    float ends[2][3]; /* colours at the top and bottom, or left and right; plain: twice the mean */
    const char *direction;
} judge_background;

lx_status judge_background_fit(judge_background *bg, const judge_clip *clip, lx_err *err);
void judge_background_free(judge_background *bg);

/* --- judge_outline.c -------------------------------------------------------------------------- */

#define JUDGE_RAYS 120 /* rays from the centre: a multiple of 3, 4 and 5 */

/* One object in one frame. Lengths in pixels. */
typedef struct judge_spot {
    bool is_seen, at_border;
    float x, y, area;
    float hole;        /* share of the filled outline that is hole */
    float wave[9];     /* amplitude of the k-th harmonic of the radius, by the mean radius */
    float phase[9];    /* and its phase, radians */
    const char *shape; /* of this frame alone */
} judge_spot;

/** Measure the object that covers `alpha` [height][width] (0 to 1, 0 elsewhere). `scratch` has
 *  height * width ints. */
void judge_outline_measure(judge_spot *spot, const float *alpha, int *scratch, int width,
                           int height);

/* --- judge_objects.c -------------------------------------------------------------------------- */

typedef struct judge_track {
    judge_spot *spot; /* owned: one a frame */
    float rgb[3];
    int n_seen;   /* frames */
    float spread; /* summed over them: how far its pixels lie off the line of colours between the
                     background's and its own; near 0 for one colour, however soft its edge */
} judge_track;

typedef struct judge_tracks {
    int n; /* 0 if there is nothing, or more than JUDGE_OBJECTS */
    judge_track track[JUDGE_OBJECTS];
    float clutter, flicker;
} judge_tracks;

lx_status judge_tracks_find(judge_tracks *tracks, const judge_clip *clip,
                            const judge_background *bg, lx_err *err);
void judge_tracks_free(judge_tracks *tracks);

/** The shape that most frames agree on, or "unclear". */
const char *judge_track_shape(const judge_track *track, int n_frames);

/* --- judge_motion.c --------------------------------------------------------------------------- */

typedef struct judge_motion {
    const char *name;
    float dx, dy, turns, growth;
} judge_motion;

judge_motion judge_motion_of(const judge_track *track, int n_frames, int width);

#endif
