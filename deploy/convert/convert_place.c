/*
 * convert_place.c - output grows out of sight and appears at once
 * SPDX-License-Identifier: Apache-2.0
 *
 * A per-block folder may be there already and hold other parts of a model. So its files are made
 * in a folder within it, and renamed when all are whole.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "convert.h"
#include "lx_process.h"

#define TEMP     ".lx2v-convert.part"
#define MARGIN   (1u << 20)  /* bytes: headers, the index */
#define PER_FILE (64u << 10) /* bytes: what a file costs beyond its values */

static lx_status join(char out[LX_PATH_MAX], const char *folder, const char *name, lx_err *err)
{
    int n = snprintf(out, LX_PATH_MAX, "%s/%s", folder, name);
    if (n > 0 && n < LX_PATH_MAX)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%.200s: the path is too long", folder);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* Is it a part of some DiT in a folder: would a reader take it for one of ours? */
static bool is_part(const char *name)
{
    return !strcmp(name, "non_block.safetensors") || ends_with(name, ".safetensors.index.json") ||
           (!strncmp(name, "block_", 6) && ends_with(name, ".safetensors"));
}

/* --- before ---------------------------------------------------------------------------------- */

/* The first file of a folder that is a part of a DiT and not of this plan (NULL: of any); "" if
 * there is none. */
static void find_part(const char *folder, const convert_plan *plan, char out[256])
{
    DIR *dir = opendir(folder);
    *out = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        bool is_ours = plan && !strcmp(e->d_name, CONVERT_INDEX);
        for (size_t i = 0; plan && !is_ours && i < plan->n_files; i++)
            is_ours = !strcmp(e->d_name, plan->file[i].name);
        if (is_part(e->d_name) && !is_ours && (!*out || strcmp(e->d_name, out) < 0))
            snprintf(out, 256, "%s", e->d_name);
    }
    if (dir)
        closedir(dir);
}

static lx_status check_same(const convert_job *job, const struct stat *out, lx_err *err)
{
    struct stat source;
    if (!stat(job->source, &source) && source.st_dev == out->st_dev && source.st_ino == out->st_ino)
        return lx_fail(err, LX_ECONFIG, "%s is both source and output", job->source);
    return LX_OK;
}

lx_status convert_place_check(const convert_job *job, lx_err *err)
{
    struct stat st;
    char found[256];
    const char *path = job->file ? job->file : job->folder;
    lx_status status = job->file ? lx_safetensors_check(path, err) : LX_OK;
    if (status != LX_OK)
        return status;
    if (stat(path, &st))
        return errno == ENOENT ? LX_OK : lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    if (job->folder && !S_ISDIR(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "%s: is not a folder", path);
    status = check_same(job, &st, err);
    if (status != LX_OK || job->is_forced)
        return status;
    if (job->file)
        return lx_fail(err, LX_ECONFIG, "%s: is there already; --force replaces it", path);
    find_part(path, NULL, found);
    if (*found)
        return lx_fail(err, LX_ECONFIG, "%s: has %s already; --force replaces it", path, found);
    return LX_OK;
}

/* --- folders --------------------------------------------------------------------------------- */

/* What an interrupted run may have left; other files are not ours to remove. */
static void remove_temp(const char *temp)
{
    char path[LX_PATH_MAX];
    DIR *dir = opendir(temp);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.' && join(path, temp, e->d_name, NULL) == LX_OK)
            unlink(path);
    if (dir)
        closedir(dir);
    rmdir(temp);
}

static lx_status make_folders(convert_place *place, const convert_job *job, lx_err *err)
{
    char temp[LX_PATH_MAX], *path = place->folder;
    snprintf(path, sizeof place->folder, "%s", job->folder);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    lx_status status = join(temp, path, TEMP, err);
    if (status != LX_OK)
        return status;
    if (!mkdir(path, 0777))
        place->has_made_folder = true;
    else if (errno != EEXIST)
        return lx_fail(err, LX_ECONFIG, "%s: cannot be made: %s", path, strerror(errno));
    if (job->is_forced)
        remove_temp(temp);
    if (mkdir(temp, 0777))
        return lx_fail(err, LX_ECONFIG, "%s: %s%s", temp, strerror(errno),
                       errno == EEXIST ? ": an interrupted conversion left it, or one is at work; "
                                         "--force removes it"
                                       : "");
    memcpy(place->temp, temp, sizeof temp);
    return LX_OK;
}

static lx_status check_room(const convert_place *place, const convert_plan *plan, lx_err *err)
{
    char folder[LX_PATH_MAX], needed_text[24], free_text[24];
    struct statvfs st;
    const char *path = plan->job->file ? plan->job->file : place->folder;
    snprintf(folder, sizeof folder, "%s", path);
    if (plan->job->file) {
        char *slash = strrchr(folder, '/');
        snprintf(slash ? slash + (slash == folder) : folder, 2, "%s", slash ? "" : ".");
        if (slash == folder)
            snprintf(folder, sizeof folder, "/");
    }
    if (statvfs(folder, &st))
        return lx_fail(err, LX_ECONFIG, "%s: %s", folder, strerror(errno));
    uint64_t needed = plan->bytes_out + plan->n_files * PER_FILE + MARGIN, available;
    if (!lx_mul_u64(st.f_bavail, st.f_frsize, &available) || needed <= available)
        return LX_OK;
    return lx_fail(err, LX_EAGAIN, "%s: needs %s, the disk has %s", path,
                   lx_bytes_text(needed, needed_text, sizeof needed_text),
                   lx_bytes_text(available, free_text, sizeof free_text));
}

lx_status convert_place_open(convert_place *place, const convert_plan *plan, lx_err *err)
{
    char found[256];
    *place = (convert_place){0};
    lx_status status = plan->job->folder ? make_folders(place, plan->job, err) : LX_OK;
    if (status == LX_OK && plan->job->folder) {
        find_part(place->folder, plan, found);
        if (*found)
            status = lx_fail(err, LX_ECONFIG,
                             "%s: %s is of another checkpoint, which would be mixed with this one; "
                             "remove it",
                             place->folder, found);
    }
    if (status == LX_OK)
        status = check_room(place, plan, err);
    if (status != LX_OK)
        convert_place_discard(place);
    return status;
}

lx_status convert_place_path(const convert_place *place, const convert_plan *plan, const char *name,
                             char out[LX_PATH_MAX], lx_err *err)
{
    if (plan->job->folder)
        return join(out, place->temp, name, err);
    snprintf(out, LX_PATH_MAX, "%s", plan->job->file);
    return LX_OK;
}

/* --- after ----------------------------------------------------------------------------------- */

static lx_status publish(const convert_place *place, const char *name, lx_err *err)
{
    char from[LX_PATH_MAX], to[LX_PATH_MAX];
    lx_status status = join(from, place->temp, name, err);
    if (status == LX_OK)
        status = join(to, place->folder, name, err);
    if (status == LX_OK && rename(from, to))
        status = lx_fail(err, LX_ECONFIG, "%s: %s", to, strerror(errno));
    return status;
}

lx_status convert_place_publish(convert_place *place, const convert_plan *plan, lx_err *err)
{
    if (!plan->job->folder)
        return LX_OK; /* the writer has done it */
    lx_status status = LX_OK;
    for (size_t i = 0; status == LX_OK && i < plan->n_files; i++)
        status = publish(place, plan->file[i].name, err);
    if (status == LX_OK)
        status = publish(place, CONVERT_INDEX, err);
    if (status != LX_OK)
        return status;
    rmdir(place->temp);
    *place->temp = 0;
    place->has_made_folder = false;
    return LX_OK;
}

void convert_place_discard(convert_place *place)
{
    if (*place->temp)
        remove_temp(place->temp);
    if (place->has_made_folder)
        rmdir(place->folder); /* others may have put something there: then it stays */
    *place = (convert_place){0};
}
