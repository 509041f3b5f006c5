/*
 * mux_sheet.c - a contact sheet: which frames, how large, and where
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_sheet.h"

#include <stdlib.h>
#include <string.h>

#include "mux_colour.h"
#include "mux_frames.h"

#define CELL_LEAST 8  /* pixels: less is no picture */
#define ROW_ALIGN  64 /* libswscale writes whole vectors, beyond a row's end if it has to */

/* One clip on the sheet. */
typedef struct strip {
    mux_frames *frames; /* owned */
    int top;            /* of its first row */
    int width, height;  /* of each frame on the sheet */
    int rows, n_cells;
} strip;

struct mux_sheet {
    strip strips[MUX_SHEET_COUNT];
    int n_strips, columns;
    int width, height;
    int pitch;    /* from the left edge of one column to the next */
    int n_cells;  /* of all strips */
    uint8_t *rgb; /* owned */
};

/* --- layout ---------------------------------------------------------------------------------- */

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* A clip's place below `top`, in columns of `column` pixels. */
static void lay_out(strip *s, const mux_sheet_options *o, int column, int top)
{
    int width = mux_frames_width(s->frames), height = mux_frames_height(s->frames);
    int64_t n = mux_frames_count(s->frames);
    s->top = top;
    s->width = least(column, width);
    s->height = (int)(((int64_t)height * s->width + width / 2) / width);
    s->n_cells = o->columns * o->rows;
    if (n < s->n_cells)
        s->n_cells = (int)n;
    s->rows = (s->n_cells + o->columns - 1) / o->columns;
}

static lx_status lay_out_all(mux_sheet *sheet, const mux_sheet_options *o, lx_err *err)
{
    int column = (o->width - MUX_SHEET_GAP * (o->columns - 1)) / o->columns, widest = 0;
    int64_t height = -MUX_SHEET_GAP;
    for (int i = 0; i < sheet->n_strips; i++) {
        int width = mux_frames_width(sheet->strips[i].frames);
        widest = width > widest ? width : widest;
    }
    column = least(column, widest);
    if (column < CELL_LEAST)
        return lx_fail(err, LX_ECONFIG,
                       "%d frames beside each other in %d pixels: less than %d for each; fewer "
                       "columns, or a wider sheet",
                       o->columns, o->width, CELL_LEAST);
    for (int i = 0; i < sheet->n_strips; i++) {
        strip *s = &sheet->strips[i];
        lay_out(s, o, column, (int)height + MUX_SHEET_GAP);
        height += (int64_t)s->rows * (s->height + MUX_SHEET_GAP);
        sheet->n_cells += s->n_cells;
        if (s->height < 1 || height > MUX_SHEET_SIDE)
            return lx_fail(err, LX_ECONFIG,
                           "the sheet would be more than %d pixels high, or a frame less than one: "
                           "fewer clips, fewer rows, or a narrower sheet",
                           MUX_SHEET_SIDE);
    }
    sheet->columns = o->columns;
    sheet->pitch = column + MUX_SHEET_GAP;
    sheet->width = sheet->pitch * o->columns - MUX_SHEET_GAP;
    sheet->height = (int)height;
    return LX_OK;
}

lx_status mux_sheet_open(mux_sheet **out, const mux_sheet_options *o, lx_err *err)
{
    mux_sheet *sheet = calloc(1, sizeof *sheet);
    if (!sheet)
        return lx_fail(err, LX_EAGAIN, "no memory for a contact sheet");
    lx_status status = LX_OK;
    for (; sheet->n_strips < o->n_paths && status == LX_OK; sheet->n_strips++)
        status =
            mux_frames_open(&sheet->strips[sheet->n_strips].frames, o->paths[sheet->n_strips], err);
    if (status == LX_OK)
        status = lay_out_all(sheet, o, err);
    if (status == LX_OK)
        *out = sheet;
    else
        mux_sheet_close(&sheet);
    return status;
}

int mux_sheet_width(const mux_sheet *sheet)
{
    return sheet->width;
}

int mux_sheet_height(const mux_sheet *sheet)
{
    return sheet->height;
}

/* --- drawing --------------------------------------------------------------------------------- */

/* What is needed to make one strip's frames small. */
typedef struct shrinker {
    mux_colour *colour; /* owned */
    uint8_t *cell;      /* owned: rows of `stride` bytes */
    int stride;
} shrinker;

static lx_status shrinker_open(shrinker *out, const strip *s, lx_err *err)
{
    out->stride = (s->width * 3 + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    out->cell = malloc((size_t)out->stride * (size_t)s->height + ROW_ALIGN);
    if (!out->cell)
        return lx_fail(err, LX_EAGAIN, "no memory for a frame");
    return mux_colour_open_scaled(&out->colour, mux_frames_width(s->frames),
                                  mux_frames_height(s->frames), s->width, s->height, err);
}

static void shrinker_close(shrinker *s)
{
    mux_colour_close(&s->colour);
    free(s->cell);
}

static lx_status draw_cell(mux_sheet *sheet, const strip *s, const shrinker *small, int cell,
                           lx_err *err)
{
    const int64_t last = mux_frames_count(s->frames) - 1, gaps = s->n_cells - 1;
    const int64_t index = gaps ? (cell * last + gaps / 2) / gaps : last / 2;
    const uint8_t *i420;
    lx_status status = mux_frames_at(s->frames, index, &i420, err);
    if (status == LX_OK)
        status = mux_colour_to_rgb24(small->colour, i420, small->cell, small->stride, err);
    if (status != LX_OK)
        return status;
    const size_t x = (size_t)(cell % sheet->columns) * (size_t)sheet->pitch;
    const size_t y = (size_t)(s->top + cell / sheet->columns * (s->height + MUX_SHEET_GAP));
    uint8_t *to = sheet->rgb + (y * (size_t)sheet->width + x) * 3;
    for (int row = 0; row < s->height; row++)
        memcpy(to + (size_t)row * (size_t)sheet->width * 3,
               small->cell + (size_t)row * (size_t)small->stride, (size_t)s->width * 3);
    return LX_OK;
}

static lx_status draw_strip(mux_sheet *sheet, const strip *s, const lx_progress *progress,
                            uint64_t *n_done, lx_err *err)
{
    shrinker small = {0};
    lx_status status = shrinker_open(&small, s, err);
    for (int i = 0; i < s->n_cells && status == LX_OK; i++) {
        status = draw_cell(sheet, s, &small, i, err);
        if (status == LX_OK)
            status = lx_progress_step(progress, "frame", ++*n_done, (uint64_t)sheet->n_cells, err);
    }
    shrinker_close(&small);
    return status;
}

lx_status mux_sheet_draw(mux_sheet *sheet, const lx_progress *progress, const uint8_t **rgb,
                         lx_err *err)
{
    size_t bytes = (size_t)sheet->width * (size_t)sheet->height * 3; /* at most 768 MiB */
    uint64_t n_done = 0;
    sheet->rgb = malloc(bytes);
    if (!sheet->rgb)
        return lx_fail(err, LX_EAGAIN, "no memory for a picture of %dx%d", sheet->width,
                       sheet->height);
    memset(sheet->rgb, MUX_SHEET_GREY, bytes);
    lx_status status = LX_OK;
    for (int i = 0; i < sheet->n_strips && status == LX_OK; i++)
        status = draw_strip(sheet, &sheet->strips[i], progress, &n_done, err);
    if (status == LX_OK)
        *rgb = sheet->rgb;
    return status;
}

void mux_sheet_close(mux_sheet **sheet)
{
    if (!sheet || !*sheet)
        return;
    for (int i = 0; i < (*sheet)->n_strips; i++)
        mux_frames_close(&(*sheet)->strips[i].frames);
    free((*sheet)->rgb);
    free(*sheet);
    *sheet = NULL;
}
