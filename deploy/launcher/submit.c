/*
 * submit.c - defaults, limits, disk
 * SPDX-License-Identifier: Apache-2.0
 */
#include "submit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lx_log.h"
#include "state_dir.h"

#define DRAWN_ID       12 /* hex digits */
#define FILE_SPARE     (1u << 20)
#define CLOCK_SPARE_US 5000000 /* a file system's clock is coarser than ours */

/* --- defaults --------------------------------------------------------------------------------- */

/* A name of another kind of file would promise what is not made. */
static lx_status check_ending(const char *name, bool is_mp4, lx_err *err)
{
    static const char *const films[] = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".webm"};
    const char *dot = strrchr(name, '.');
    if (dot && !is_mp4 && strcmp(dot, ".mp4") == 0)
        return lx_fail(err, LX_ECONFIG,
                       "output: %s is to be a folder of PNG files (mux.format in config.yaml); "
                       "give a name without .mp4",
                       name);
    for (size_t i = 0; dot && i < sizeof films / sizeof *films; i++)
        if (strcasecmp(dot, films[i]) == 0)
            return lx_fail(err, LX_ECONFIG, "output: %s: %s; give a name %s .mp4", name,
                           is_mp4 ? "clips are mp4 files" : "clips are folders of PNG files",
                           is_mp4 ? "with" : "without an ending such as");
    return LX_OK;
}

static lx_status fill_names(lx_job *job, const lx_config *c, lx_err *err)
{
    lx_status status = LX_OK;
    if (!job->id[0])
        status = state_random_hex(job->id, DRAWN_ID, err);
    bool is_mp4 = c->mux.format == LX_FORMAT_MP4;
    const char *extension = is_mp4 ? ".mp4" : "";
    if (!job->output[0]) {
        /* An id may begin with a dash, a file name may not. */
        snprintf(job->output, sizeof job->output, "%s%s%s", job->id[0] == '-' ? "job" : "", job->id,
                 extension);
        return status;
    }
    size_t n = strlen(job->output), m = strlen(extension);
    if (status == LX_OK)
        status = check_ending(job->output, is_mp4, err);
    if (status != LX_OK)
        return status;
    if (n >= m && strcmp(job->output + n - m, extension) == 0)
        return status;
    if (n + m > LX_LIMIT_NAME)
        return lx_fail(err, LX_ECONFIG, "output: %zu bytes and %s are more than %d", n, extension,
                       LX_LIMIT_NAME);
    memcpy(job->output + n, extension, m + 1);
    return status;
}

lx_status submit_fill(lx_job *job, const lx_config *c, lx_err *err)
{
    if (job->width == 0 && job->height == 0) {
        job->width = c->defaults.width;
        job->height = c->defaults.height;
    }
    if (job->frames == 0)
        job->frames = c->defaults.frames;
    if (job->fps == 0)
        job->fps = c->defaults.fps;
    if (job->seed == LX_SEED_DRAW)
        job->seed = c->defaults.seed;
    if (job->sampler < 0)
        job->sampler = (int32_t)c->sampling.sampler;
    if (job->shift == 0)
        job->shift = c->sampling.shift;
    if (job->n_steps == 0) {
        job->n_steps = c->sampling.n_steps;
        memcpy(job->steps, c->sampling.steps, sizeof job->steps);
    }
    if (!job->rng[0])
        memcpy(job->rng, c->sampling.rng, sizeof job->rng);
    return fill_names(job, c, err);
}

lx_status submit_draw_seed(lx_job *job, lx_err *err)
{
    uint64_t bits;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits)
        return lx_fail(err, LX_ESTAGE, "no random bytes for a seed: %s", strerror(errno));
    job->seed = (int64_t)(bits >> 11);
    return LX_OK;
}

/* --- limits ----------------------------------------------------------------------------------- */

lx_status submit_check(const lx_job *job, const lx_config *c, lx_err *err)
{
    if (lx_job_check(job, err) != LX_OK) { /* wrong as such: the request must be changed */
        if (err)
            err->status = LX_ECONFIG;
        return LX_ECONFIG;
    }
    if (!lx_job_size_fits(job->width, job->height, c->limits.width, c->limits.height))
        return lx_fail(err, LX_EJOB,
                       "size: %dx%d is larger than %dx%d (either way up), for which memory is "
                       "planned (limits.size in config.yaml)",
                       job->width, job->height, c->limits.width, c->limits.height);
    if (job->frames > c->limits.frames)
        return lx_fail(err, LX_EJOB,
                       "frames: %d are more than %d, for which memory is planned (limits.frames "
                       "in config.yaml)",
                       job->frames, c->limits.frames);
    size_t prompt_bytes = strlen(job->prompt);
    if (prompt_bytes > (size_t)c->limits.prompt_bytes)
        return lx_fail(err, LX_EJOB, "prompt: %zu bytes, %d are accepted (limits.prompt_bytes)",
                       prompt_bytes, c->limits.prompt_bytes);
    return LX_OK;
}

/* What the clip may take: mp4 at worst an eighth of the raw frames (crf 18 on noise), PNG all. */
static uint64_t file_estimate(const lx_job *job, lx_mux_format format)
{
    uint64_t raw = (uint64_t)job->width * (uint64_t)job->height * 3 * (uint64_t)job->frames;
    return (format == LX_FORMAT_MP4 ? raw / 8 : raw) + FILE_SPARE;
}

static lx_status check_folder_space(const char *dir, const char *what, uint64_t needs, lx_err *err)
{
    struct statvfs fs;
    if (statvfs(dir, &fs) || (uint64_t)fs.f_bavail * fs.f_frsize >= needs)
        return LX_OK;
    return lx_fail(err, LX_EAGAIN, "%s: no space: needs %.1f MiB, has %.1f MiB", what,
                   (double)needs / 0x1p20, (double)fs.f_bavail * (double)fs.f_frsize / 0x1p20);
}

lx_status submit_check_space(const lx_job *job, const lx_config *c, bool spool, lx_err *err)
{
    int64_t t, h, w;
    lx_job_latent_dims(job, &t, &h, &w);
    uint64_t latent_bytes = (uint64_t)(t * h * w) * LX_LATENT_CHANNELS * sizeof(float);
    lx_status status =
        check_folder_space(c->output.dir, "output", file_estimate(job, c->mux.format), err);
    if (status == LX_OK && spool && c->spool.latents)
        status = check_folder_space(c->state.journal, "spool", latent_bytes, err);
    return status;
}

lx_status submit_check_output(const lx_job *job, const lx_config *c, lx_err *err)
{
    struct stat st;
    int fd = open(c->output.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "output: the output directory cannot be opened: %s",
                       strerror(errno));
    lx_status status = LX_OK;
    if (faccessat(fd, ".", W_OK | X_OK, AT_EACCESS))
        status = lx_fail(err, LX_ECONFIG, "output: the output directory is not writable: %s",
                         strerror(errno));
    else if (!c->output.overwrite && fstatat(fd, job->output, &st, AT_SYMLINK_NOFOLLOW) == 0)
        status = lx_fail(err, LX_ECONFIG,
                         "output: %s exists already; choose another name, or set output.overwrite",
                         job->output);
    close(fd);
    return status;
}

bool submit_is_made(const lx_entry *entry, const lx_config *c, uint64_t *bytes)
{
    struct stat st;
    int fd = c->output.overwrite ? -1 : open(c->output.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool is_there = fstatat(fd, entry->job->output, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_there && fsync(fd)) /* mux may have died before it synced the name */
        LX_W("output: sync of the directory failed: %s", strerror(errno));
    close(fd);
    int64_t changed_us = is_there ? (int64_t)st.st_ctim.tv_sec * 1000000 : 0;
    bool is_younger = changed_us >= entry->submit_wall_us - CLOCK_SPARE_US;
    if (!is_there || !is_younger || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return false;
    *bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    return true;
}

/* --- sameness --------------------------------------------------------------------------------- */

bool submit_is_same(const lx_entry *entry, const lx_job *filled)
{
    const lx_job *a = entry->job, *b = filled;
    bool same_seed = filled->seed == LX_SEED_DRAW ? entry->has_drawn_seed : a->seed == b->seed;
    return same_seed && strcmp(a->id, b->id) == 0 && strcmp(a->prompt, b->prompt) == 0 &&
           a->width == b->width && a->height == b->height && a->frames == b->frames &&
           a->fps == b->fps && a->sampler == b->sampler && a->shift == b->shift &&
           a->n_steps == b->n_steps &&
           memcmp(a->steps, b->steps, (size_t)a->n_steps * sizeof *a->steps) == 0 &&
           strcmp(a->rng, b->rng) == 0 && strcmp(a->output, b->output) == 0;
}

void submit_field(char out[LX_LIMIT_WORD], const char *message)
{
    size_t n = strspn(message, "abcdefghijklmnopqrstuvwxyz_");
    if (message[n] != ':' || n >= LX_LIMIT_WORD)
        n = 0;
    memcpy(out, message, n);
    out[n] = 0;
}
