/*
 * judge_objects.c - find what is not background, and follow it through the frames
 * SPDX-License-Identifier: Apache-2.0
 *
 * In each frame: pixels far from the background, joined to patches, the big ones of which are the
 * objects. Their colour is the median of the patches' cores; with it each pixel's coverage is known
 * (how far it lies on the way from the background's colour to the object's), which gives places
 * and outlines finer than a pixel.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "judge_parts.h"

#define FAR         62.0f /* in RGB; an object lies at least 125 from its background */
#define MOST_FRAMES 1024
#define MOST_AREA   0.3f /* of the picture: the biggest objects cover a sixth of it */
#define GROW        2    /* pixels around a patch that may be covered in part */

typedef struct patch {
    int label, area;
    float x, y, rgb[3];
} patch;

typedef struct finder {
    const judge_clip *clip;
    const judge_background *bg;
    int width, height, n_pixels, least_area;
    int *label;    /* 0: background, 1...: patches */
    int *queue;    /* scratch for floods */
    float *alpha;  /* coverage by the object at hand */
    uint8_t *near; /* bit i: the pixel belongs to, or is near, patch i of the frame */
    int *count;    /* of each frame: the patches that count as objects, 0 to 3 */
    patch (*found)[JUDGE_OBJECTS]; /* of each frame, the largest first */
    double stray; /* pixels of all frames that are far from the background and no object */
} finder;

static const uint8_t *pixel_of(const finder *f, int t, int i)
{
    return f->clip->rgb + ((size_t)t * (size_t)f->n_pixels + (size_t)i) * 3;
}

static float far_from_background(const finder *f, int t, int i)
{
    const uint8_t *rgb = pixel_of(f, t, i);
    const float *model = f->bg->model + (size_t)i * 3;
    float sum = 0;
    for (int k = 0; k < 3; k++) {
        float d = rgb[k] - model[k];
        sum += d * d;
    }
    return sqrtf(sum);
}

/* --- patches of one frame --------------------------------------------------------------------- */

/* Label what is joined to pixel `from`; label[] is -1 where nothing has been labelled yet. */
static int flood(finder *f, int from, int label)
{
    int n = 0, done = 0;
    f->queue[n++] = from;
    f->label[from] = label;
    while (done < n) {
        int i = f->queue[done++], x = i % f->width;
        const int next[4] = {x > 0 ? i - 1 : i, x < f->width - 1 ? i + 1 : i,
                             i >= f->width ? i - f->width : i,
                             i + f->width < f->n_pixels ? i + f->width : i};
        for (int k = 0; k < 4; k++)
            if (f->label[next[k]] < 0) {
                f->label[next[k]] = label;
                f->queue[n++] = next[k];
            }
    }
    return n;
}

/* Whether all pixels within `reach` up, down, left and right belong to the patch as well. */
static bool is_core(const finder *f, int i, int reach)
{
    int x = i % f->width, y = i / f->width;
    if (x < reach || y < reach || x >= f->width - reach || y >= f->height - reach)
        return false;
    int l = f->label[i];
    return f->label[i - reach] == l && f->label[i + reach] == l &&
           f->label[i - reach * f->width] == l && f->label[i + reach * f->width] == l;
}

/* Centre and colour of the patch whose pixels are the first `area` of the queue. */
static patch describe(const finder *f, int t, int label, int area)
{
    patch p = {.label = label, .area = area};
    for (int k = 0; k < area; k++) {
        p.x += (float)(f->queue[k] % f->width) / (float)area;
        p.y += (float)(f->queue[k] / f->width) / (float)area;
    }
    for (int reach = 2; reach >= 0; reach--) {
        double sum[3] = {0};
        int n = 0;
        for (int k = 0; k < area; k++)
            if (is_core(f, f->queue[k], reach)) {
                const uint8_t *rgb = pixel_of(f, t, f->queue[k]);
                n++;
                for (int c = 0; c < 3; c++)
                    sum[c] += rgb[c];
            }
        if (n * 8 < area)
            continue;
        for (int c = 0; c < 3; c++)
            p.rgb[c] = (float)(sum[c] / n);
        break;
    }
    return p;
}

/* The patches of frame t into found[t] and count[t]; leaves the labels. */
static void find_patches(finder *f, int t)
{
    int largest = 0, far = 0, n = 0;
    patch all[3];
    for (int i = 0; i < f->n_pixels; i++) {
        f->label[i] = far_from_background(f, t, i) > FAR ? -1 : 0;
        far += f->label[i] < 0;
    }
    for (int i = 0, label = 0; i < f->n_pixels; i++) {
        if (f->label[i] >= 0)
            continue;
        int area = flood(f, i, ++label);
        if (area < f->least_area)
            continue;
        patch p = describe(f, t, label, area);
        largest = area > largest ? area : largest;
        int at = n < 3 ? n++ : 3; /* the three largest, in order of size */
        while (at > 0 && all[at - 1].area < p.area) {
            if (at < 3)
                all[at] = all[at - 1];
            at--;
        }
        if (at < 3)
            all[at] = p;
    }
    f->stray += far;
    if ((float)largest > MOST_AREA * (float)f->n_pixels) { /* that is no object */
        f->count[t] = JUDGE_OBJECTS + 1;
        return;
    }
    while (n > 0 && all[n - 1].area * 6 < largest) /* beside the largest too little to count */
        n--;
    f->count[t] = n;
    for (int i = 0; i < n && i < JUDGE_OBJECTS; i++) {
        f->found[t][i] = all[i];
        f->stray -= all[i].area;
    }
}

/* --- which patch is which object -------------------------------------------------------------- */

static int usual_count(const finder *f)
{
    int votes[4] = {0}, best = 0;
    for (int t = 0; t < f->clip->n_frames; t++)
        votes[f->count[t]]++;
    for (int n = 1; n < 4; n++)
        if (votes[n] > votes[best])
            best = n;
    return best;
}

/* Whether the objects of a frame are among its patches. */
static bool is_usable(const finder *f, int t, int n_objects)
{
    return f->count[t] >= n_objects && f->found[t][0].area > 0;
}

/* In frames with two objects: the same one first as in the frame before. */
static void keep_order(finder *f)
{
    const patch *last = NULL;
    for (int t = 0; t < f->clip->n_frames; t++) {
        if (!is_usable(f, t, 2))
            continue;
        patch *p = f->found[t];
        if (last) {
            float same = judge_color_distance(p[0].rgb, last[0].rgb) +
                         judge_color_distance(p[1].rgb, last[1].rgb);
            float crossed = judge_color_distance(p[1].rgb, last[0].rgb) +
                            judge_color_distance(p[0].rgb, last[1].rgb);
            if (crossed < same) {
                patch first = p[0];
                p[0] = p[1];
                p[1] = first;
            }
        }
        last = p;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The median of each channel over the frames with that many objects. */
static void color_of_track(const finder *f, int n_objects, int object, float rgb[3])
{
    float values[MOST_FRAMES];
    for (int k = 0; k < 3; k++) {
        size_t n = 0;
        for (int t = 0; t < f->clip->n_frames && t < MOST_FRAMES; t++) {
            const patch *p = &f->found[t][object];
            if (is_usable(f, t, n_objects))
                values[n++] = p->rgb[k];
        }
        qsort(values, n, sizeof *values, by_value);
        rgb[k] = n ? values[n / 2] : 0;
    }
}

/* --- outlines --------------------------------------------------------------------------------- */

/* Mark what lies within GROW pixels of the object's patch. */
static void mark_near(finder *f, int label)
{
    memset(f->near, 0, (size_t)f->n_pixels);
    for (int i = 0; i < f->n_pixels; i++) {
        if (f->label[i] != label)
            continue;
        int x = i % f->width, y = i / f->width;
        for (int v = -GROW; v <= GROW; v++)
            for (int u = -GROW; u <= GROW; u++)
                if (x + u >= 0 && x + u < f->width && y + v >= 0 && y + v < f->height)
                    f->near[i + v * f->width + u] = 1;
    }
}

/* How much of each pixel near the patch the object covers: 0 at the background's colour, 1 at the
 * object's. Returns how far the covered ones lie off the line between both (root mean square). */
static float cover(finder *f, int t, const patch *p, const float rgb[3])
{
    double off = 0, n = 0;
    for (int i = 0; i < f->n_pixels; i++) {
        f->alpha[i] = 0;
        if (!f->near[i] || (f->label[i] > 0 && f->label[i] != p->label))
            continue;
        const uint8_t *seen = pixel_of(f, t, i);
        const float *model = f->bg->model + (size_t)i * 3;
        float along = 0, whole = 0, length = 0;
        for (int k = 0; k < 3; k++) {
            length += (seen[k] - model[k]) * (seen[k] - model[k]);
            along += (seen[k] - model[k]) * (rgb[k] - model[k]);
            whole += (rgb[k] - model[k]) * (rgb[k] - model[k]);
        }
        f->alpha[i] = fminf(fmaxf(along / (whole + 1), 0), 1);
        if (f->alpha[i] > 0.5f) {
            off += length - along * along / (whole + 1);
            n++;
        }
    }
    return n > 0 ? sqrtf((float)fmax(off / n, 0)) : 0;
}

/* The patches are found anew: keeping the labels of all frames would take more than it saves. */
static void measure_frame(finder *f, judge_tracks *tracks, int t)
{
    patch kept[JUDGE_OBJECTS];
    memcpy(kept, f->found[t], sizeof kept);
    find_patches(f, t);
    for (int i = 0; i < tracks->n; i++) {
        judge_track *track = &tracks->track[i];
        if (!is_usable(f, t, tracks->n) ||
            judge_color_distance(kept[i].rgb, track->rgb) > 45) /* another thing altogether */
            continue;
        mark_near(f, kept[i].label);
        track->spread += cover(f, t, &kept[i], track->rgb);
        judge_outline_measure(&track->spot[t], f->alpha, f->queue, f->width, f->height);
        track->n_seen++;
    }
}

/* The mean step of a channel from frame to frame where both are background. */
static float flicker_of(const finder *f)
{
    double sum = 0;
    uint64_t n = 0;
    for (int t = 1; t < f->clip->n_frames; t++)
        for (int i = 0; i < f->n_pixels; i++) {
            if (far_from_background(f, t, i) > FAR / 2 ||
                far_from_background(f, t - 1, i) > FAR / 2)
                continue;
            const uint8_t *a = pixel_of(f, t, i), *b = pixel_of(f, t - 1, i);
            n++;
            for (int k = 0; k < 3; k++)
                sum += abs(a[k] - b[k]);
        }
    return n ? (float)(sum / 3 / (double)n) : 0;
}

/* --- all -------------------------------------------------------------------------------------- */

static bool open_finder(finder *f, const judge_clip *clip, const judge_background *bg)
{
    size_t n = (size_t)clip->width * (size_t)clip->height, frames = (size_t)clip->n_frames;
    *f = (finder){.clip = clip, .bg = bg, .width = clip->width, .height = clip->height};
    f->n_pixels = (int)n;
    f->least_area = (int)(n / 256); /* 64 pixels of 128x128: a disc of 9 across */
    f->label = malloc(n * sizeof *f->label);
    f->queue = malloc(n * sizeof *f->queue);
    f->alpha = malloc(n * sizeof *f->alpha);
    f->near = malloc(n);
    f->count = calloc(frames, sizeof *f->count);
    f->found = calloc(frames, sizeof *f->found);
    return f->label && f->queue && f->alpha && f->near && f->count && f->found;
}

static void close_finder(finder *f)
{
    free(f->label);
    free(f->queue);
    free(f->alpha);
    free(f->near);
    free(f->count);
    free(f->found);
}

static bool follow(finder *f, judge_tracks *tracks)
{
    for (int t = 0; t < f->clip->n_frames; t++)
        find_patches(f, t);
    double n_pixels = (double)f->n_pixels * f->clip->n_frames;
    tracks->clutter = (float)(f->stray / n_pixels);
    tracks->flicker = flicker_of(f);
    int n = usual_count(f);
    if (n > JUDGE_OBJECTS)
        return true;
    if (n == 2)
        keep_order(f);
    tracks->n = n;
    for (int i = 0; i < n; i++) {
        judge_track *track = &tracks->track[i];
        track->spot = calloc((size_t)f->clip->n_frames, sizeof *track->spot);
        if (!track->spot)
            return false;
        color_of_track(f, n, i, track->rgb);
    }
    for (int t = 0; t < f->clip->n_frames; t++)
        measure_frame(f, tracks, t);
    return true;
}

lx_status judge_tracks_find(judge_tracks *tracks, const judge_clip *clip,
                            const judge_background *bg, lx_err *err)
{
    finder f;
    judge_tracks made = {0};
    bool ok = open_finder(&f, clip, bg) && follow(&f, &made);
    close_finder(&f);
    if (!ok) {
        judge_tracks_free(&made);
        return lx_fail(err, LX_EAGAIN, "no memory to follow objects through %d frames",
                       clip->n_frames);
    }
    *tracks = made;
    return LX_OK;
}

void judge_tracks_free(judge_tracks *tracks)
{
    for (int i = 0; i < JUDGE_OBJECTS; i++)
        free(tracks->track[i].spot);
    *tracks = (judge_tracks){0};
}

const char *judge_track_shape(const judge_track *track, int n_frames)
{
    static const char *const names[] = {"circle", "square", "triangle", "star", "ring", "cross"};
    int whole = 0;
    for (int t = 0; t < n_frames; t++)
        whole += track->spot[t].is_seen && !track->spot[t].at_border;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int votes = 0;
        for (int t = 0; t < n_frames; t++)
            votes += track->spot[t].is_seen && !track->spot[t].at_border &&
                     !strcmp(track->spot[t].shape, names[i]);
        if (whole * 2 >= n_frames && votes * 10 >= whole * 6)
            return names[i];
    }
    return JUDGE_UNCLEAR;
}
