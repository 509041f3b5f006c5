/*
 * mux_run.c - `lx2v-mux run`: frames in, an mp4 out; or clips in, a contact sheet out
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_log.h"
#include "lx_run.h"
#include "mux.h"
#include "mux_clip.h"
#include "mux_ffmpeg.h"
#include "mux_frames.h"
#include "mux_png.h"
#include "mux_sheet.h"

#define DEFAULT_FPS    16.0
#define DEFAULT_CRF    18
#define DEFAULT_PRESET "medium"

/* A run and what it was asked for. */
typedef struct job_by_hand {
    lx_run run;
    double fps;
    const char *sheet; /* path; NULL: no contact sheet */
    const char *paths[MUX_SHEET_COUNT];
    int n_paths; /* files for the sheet */
    int64_t columns, rows, width;
} job_by_hand;

/* --- flags ----------------------------------------------------------------------------------- */

static lx_status check_files(job_by_hand *j, const lx_run_words *words, lx_err *err)
{
    if (j->run.input)
        j->paths[j->n_paths++] = j->run.input;
    if (words->n > MUX_SHEET_COUNT - j->n_paths)
        return lx_fail(err, LX_ECONFIG, "more than %d clips", MUX_SHEET_COUNT);
    for (int i = 0; i < words->n; i++)
        j->paths[j->n_paths++] = words->word[i];
    if (!j->n_paths || (!j->run.output && !j->sheet) || (j->run.output && !j->run.input))
        return lx_fail(err, LX_ECONFIG,
                       "usage: lx2v-mux run --input frames.safetensors --output clip.mp4, or "
                       "lx2v-mux run --contact-sheet sheet.png clip.mp4 ...; see --help");
    if (words->n && !j->sheet)
        return lx_fail(err, LX_ECONFIG, "%.200s: several files are for --contact-sheet",
                       words->word[0]);
    return LX_OK;
}

static lx_status parse(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    const char *fps = NULL, *columns = NULL, *rows = NULL, *width = NULL;
    const lx_run_flag flags[] = {
        {"fps", &fps, NULL, "frames per second (16)"},
        {"contact-sheet", &j->sheet, NULL, "PNG of evenly spaced frames of the input and of CLIPs"},
        {"columns", &columns, NULL, "of the sheet: frames beside each other (6)"},
        {"rows", &rows, NULL, "of the sheet, for each clip (1)"},
        {"width", &width, NULL, "of the sheet at most, in pixels (1920)"}};
    lx_run_words words = {.what = "run [flags] [CLIP ...]: frames (rgb8 in a safetensors file) to "
                                  "an mp4, or clips and frames to a contact sheet"};
    lx_status status =
        lx_run_parse_words(&j->run, argc, argv, flags, sizeof flags / sizeof *flags, &words, err);
    if (status == LX_OK && fps &&
        (!lx_parse_real(fps, &j->fps) || j->fps < LX_JOB_FPS_MIN || j->fps > LX_JOB_FPS_MAX))
        status = lx_fail(err, LX_ECONFIG, "--fps %s: a number from %g to %g", fps, LX_JOB_FPS_MIN,
                         LX_JOB_FPS_MAX);
    if (status == LX_OK)
        status = lx_run_count("columns", columns, 1, MUX_SHEET_COUNT, &j->columns, err);
    if (status == LX_OK)
        status = lx_run_count("rows", rows, 1, MUX_SHEET_COUNT, &j->rows, err);
    if (status == LX_OK)
        status = lx_run_count("width", width, 1, MUX_SHEET_SIDE, &j->width, err);
    return status == LX_OK ? check_files(j, &words, err) : status;
}

/* A user's own path: split it, and refuse to put anything over what is not a file. */
static lx_status split_output(const char *flag, const char *path, char *dir, const char **name,
                              lx_err *err)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "%s: path of more than %d bytes", flag, LX_LIMIT_PATH);
    snprintf(dir, LX_LIMIT_PATH, "%.*s", (int)n, path);
    if (!n)
        snprintf(dir, LX_LIMIT_PATH, "%s", slash ? "/" : ".");
    char *real = realpath(dir, NULL);
    if (!real)
        return lx_fail(err, LX_ECONFIG, "%s %s: folder %s: %s", flag, path, dir, strerror(errno));
    bool fits = strlen(real) < LX_LIMIT_PATH;
    if (fits)
        snprintf(dir, LX_LIMIT_PATH, "%s", real);
    free(real);
    struct stat st;
    if (!fits || (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)))
        return lx_fail(err, LX_ECONFIG, "%s %s is not a regular file: it is not replaced", flag,
                       path);
    return LX_OK;
}

/* --- a clip ---------------------------------------------------------------------------------- */

static lx_status add_frames(mux_frames *frames, mux_clip *clip, const lx_progress *progress,
                            lx_err *err)
{
    const int64_t n = mux_frames_count(frames);
    lx_status status = LX_OK;
    for (int64_t i = 0; i < n && status == LX_OK; i++) {
        const uint8_t *i420;
        status = mux_frames_at(frames, i, &i420, err);
        if (status == LX_OK)
            status = mux_clip_add(clip, i420, err);
        if (status == LX_OK)
            status = lx_progress_step(progress, "frame", (uint64_t)i + 1, (uint64_t)n, err);
    }
    return status;
}

static lx_status write_clip(const job_by_hand *j, mux_frames *frames, lx_err *err)
{
    mux_clip *clip = NULL;
    mux_meta meta;
    mux_meta_of_file(&meta);
    char dir[LX_LIMIT_PATH], part[LX_LIMIT_ID + 1];
    const char *name;
    snprintf(part, sizeof part, "run-%d", (int)getpid());
    lx_status status = split_output("--output", j->run.output, dir, &name, err);
    if (status != LX_OK)
        return status;
    const mux_clip_options options = {.format = LX_FORMAT_MP4,
                                      .dir = dir,
                                      .name = name,
                                      .job = part,
                                      .overwrite = true,
                                      .any_name = true,
                                      .width = mux_frames_width(frames),
                                      .height = mux_frames_height(frames),
                                      .fps = j->fps,
                                      .n_frames = mux_frames_count(frames),
                                      .crf = DEFAULT_CRF,
                                      .preset = DEFAULT_PRESET,
                                      .threads = j->run.threads,
                                      .meta = &meta};
    status = mux_clip_begin(&clip, &options, err);
    if (status == LX_OK)
        status = add_frames(frames, clip, &j->run.progress, err);
    if (status == LX_OK)
        status = mux_clip_finish(&clip, NULL, err);
    mux_clip_abort(&clip);
    return status;
}

static lx_status make_clip(const job_by_hand *j, lx_err *err)
{
    mux_frames *frames = NULL;
    lx_status status = mux_frames_open(&frames, j->run.input, err);
    if (status == LX_OK && mux_frames_is_clip(frames))
        status = lx_fail(err, LX_ECONFIG,
                         "%s is a clip already: --output needs frames, as `lx2v-vae run` writes "
                         "them",
                         j->run.input);
    if (status == LX_OK)
        status = write_clip(j, frames, err);
    mux_frames_close(&frames);
    return status;
}

/* --- a contact sheet ------------------------------------------------------------------------- */

static lx_status write_sheet(const job_by_hand *j, mux_sheet *sheet, lx_err *err)
{
    const int width = mux_sheet_width(sheet), height = mux_sheet_height(sheet);
    const uint8_t *rgb;
    mux_meta meta;
    mux_meta_of_file(&meta);
    char dir[LX_LIMIT_PATH], part[LX_LIMIT_ID + 1];
    snprintf(part, sizeof part, "run-%d", (int)getpid());
    mux_out out;
    mux_out_options options = {.kind = MUX_OUT_FILE,
                               .dir = dir,
                               .job = part,
                               .overwrite = true,
                               .any_name = true,
                               .needs = mux_clip_needs(LX_FORMAT_PNG, width, height, 1)};
    lx_status status = split_output("--contact-sheet", j->sheet, dir, &options.name, err);
    if (status == LX_OK)
        status = mux_out_begin(&out, &options, err);
    if (status != LX_OK)
        return status;
    int error = 0;
    status = mux_sheet_draw(sheet, &j->run.progress, &rgb, err);
    if (status == LX_OK)
        status = mux_png_save(out.fd, rgb, width, height, &meta, &error, err);
    if (error)
        status = mux_out_write_failed(&out, error, 0, options.needs, err);
    if (status == LX_OK)
        status = mux_out_commit(&out, err);
    mux_out_discard(&out);
    return status;
}

static lx_status make_sheet(const job_by_hand *j, lx_err *err)
{
    mux_sheet *sheet = NULL;
    const mux_sheet_options options = {.paths = j->paths,
                                       .n_paths = j->n_paths,
                                       .columns = (int)j->columns,
                                       .rows = (int)j->rows,
                                       .width = (int)j->width};
    lx_status status = mux_sheet_open(&sheet, &options, err);
    if (status == LX_OK)
        status = write_sheet(j, sheet, err);
    mux_sheet_close(&sheet);
    return status;
}

int mux_run(int argc, char **argv)
{
    lx_err err = {0};
    static job_by_hand j; /* lx_run is large */
    j = (job_by_hand){.fps = DEFAULT_FPS, .columns = 6, .rows = 1, .width = 1920};
    mux_ffmpeg_setup();
    lx_status status = parse(&j, argc, argv, &err);
    if (status == LX_OK && j.run.output)
        status = make_clip(&j, &err);
    if (status == LX_OK && j.sheet)
        status = make_sheet(&j, &err);
    if (status == LX_OK) {
        j.run.output = NULL; /* written already; finish only reports */
        status = lx_run_finish(&j.run, "mux", &err);
    }
    lx_run_close(&j.run);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return lx_exit_code(status);
}
