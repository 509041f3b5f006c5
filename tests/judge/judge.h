/*
 * judge.h - look at a clip of the demo world and say what it shows
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The measure of the demo model: colour and shape of one or two objects, background,
 *           motion, flicker, by plain geometry and without knowing what was asked for.
 * Promise   Where nothing clear is seen the word is "unclear", which no truth equals.
 * World     models/demo/train/scenes.py: the names and what they mean. Lengths are written for
 *           128x128 and scale with the width.
 * Threads   No shared state.
 * Tests     tests/judge/test_judge.c; models/demo/train/judge_renderer.py (hundreds of clips)
 */
#ifndef JUDGE_H
#define JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

#define JUDGE_OBJECTS 2
#define JUDGE_UNCLEAR "unclear"

/* --- clips ------------------------------------------------------------------------------------ */

typedef struct judge_clip {
    int width, height, n_frames;
    uint8_t *rgb; /* owned: [n_frames][height][width][3] */
} judge_clip;

/** Decode the first video stream of a file (mp4, y4m, ...). Untagged colours count as BT.709,
 *  limited range. LX_ECONFIG: no such file or no video; LX_EJOB: too big, or broken inside. */
lx_status judge_clip_read(judge_clip *clip, const char *path, lx_err *err);

/** The number of clips of the given size in a file of raw rgb24, and one of them. */
lx_status judge_raw_count(const char *path, const judge_clip *size, size_t *n, lx_err *err);
lx_status judge_raw_read(judge_clip *clip, const char *path, size_t index, lx_err *err);

void judge_clip_free(judge_clip *clip);

/* --- what is seen ----------------------------------------------------------------------------- */

typedef struct judge_object {
    const char *color, *shape; /* borrowed for ever */
    float rgb[3];              /* 0 to 255 */
    float x, y, size;          /* mean centre and square root of the area, of the width */
} judge_object;

typedef struct judge_verdict {
    int n_objects; /* 0 to 2; more than two are none */
    judge_object object[JUDGE_OBJECTS];
    const char *background[2]; /* the second only of a gradient */
    int n_background;
    const char *direction; /* "plain", "down" (top to bottom), "right" (left to right) */
    const char *motion;    /* as in scenes.py */
    const char *relation;  /* of the first object to the second; "" if there is one */
    float dx, dy;          /* last place less first, of the width */
    float turns;           /* of the object about itself, or of its way around a centre */
    float growth;          /* last size by first */
    float flicker;         /* mean step of a channel of the background from frame to frame */
    float clutter;         /* share of the picture that is neither background nor object */
} judge_verdict;

lx_status judge_look(judge_verdict *verdict, const judge_clip *clip, lx_err *err);

/* --- truths ----------------------------------------------------------------------------------- */

typedef struct judge_truth {
    int n_objects, n_background;
    char color[JUDGE_OBJECTS][16], shape[JUDGE_OBJECTS][16], background[2][16];
    char direction[16], motion[16], relation[16];
    char prompt[512]; /* "" if the line has none */
} judge_truth;

typedef struct judge_score {
    bool color, background, motion, shape, all;
} judge_score;

/** One JSON object a line. *truths is owned by the caller (free). */
lx_status judge_truths_read(judge_truth **truths, size_t *n, const char *path, lx_err *err);

/** Which of the truths the verdict has; motion includes the relation of two objects. */
judge_score judge_compare(const judge_verdict *verdict, const judge_truth *truth);

#endif
