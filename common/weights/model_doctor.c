/*
 * model_doctor.c - what of a model is there, what is broken, what to download
 * SPDX-License-Identifier: Apache-2.0
 *
 * Files are checked by their structure (headers and directories; no weights are read), so a small
 * model is as sound as a big one; published sizes serve for what is missing.
 *
 * JSON, one object (docs/json.md):
 *   {"dir": str, "ok": bool, "problem": str|null,
 *    "files": [{"role": "dit"|"text"|"vae"|"tokenizer", "path": str, "state": "ok"|"missing"|
 *               "truncated"|"lfs-pointer"|"damaged", "bytes": int, "published_bytes": int|null,
 *               "problem": str|null}],
 *    "free_bytes": int, "needed_bytes": int, "download": str|null}
 * bytes: on disk now. published_bytes: of the published file of that name. needed_bytes: what the
 * download would take.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "model_dir_internal.h"
#include "weights_internal.h"

#define REPOSITORY "lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v"
#define MAX_FILES  1200 /* of a report */
#define MAX_BLOCK  1000

/* Sizes of the files as their publishers list them. The last three are sums of
 * parameters without headers: shown as "about". */
static const struct {
    const char *name;
    uint64_t bytes;
    bool is_exact;
} published[] = {
    {"models_t5_umt5-xxl-enc-bf16.pth", 11361920418u, true},
    {"models_t5_umt5-xxl-enc-bf16.safetensors", 11361845432u, true},
    {"Wan2.1_VAE.pth", 507609880u, true},
    {"wan_2.1_vae.safetensors", 253815318u, true},
    {"spiece.model", 4548313u, true},
    {"tokenizer.json", 16837417u, true},
    {"models_t5_umt5-xxl-enc-int8.pth", 6735241216u, false},
    {"models_t5_umt5-xxl-enc-fp8.pth", 6735241216u, false},
    {"distill_model.safetensors", 28577992960u, false},
};

/* A per-block DiT of 14B in int8 or fp8: 40 blocks and the F32 rest. */
#define DIT_BLOCKS_BYTES 14990000000u

typedef enum file_state {
    FILE_OK,
    FILE_MISSING,
    FILE_TRUNCATED,
    FILE_POINTER,
    FILE_DAMAGED
} file_state;

static const char *const state_names[] = {"ok", "missing", "truncated", "lfs-pointer", "damaged"};

typedef struct file_report {
    lx_role role;
    file_state state;
    char *path; /* owned */
    uint64_t bytes, published;
    bool is_exact;
    char problem[300];
} file_report;

typedef struct report {
    file_report *file; /* owned [MAX_FILES] */
    int n;
    char dir[LX_PATH_MAX], root[LX_PATH_MAX];
    char problem[LX_ERR_TEXT];
    uint64_t free_bytes, needed_bytes;
    char download[3 * LX_PATH_MAX];
} report;

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static uint64_t published_bytes(const char *path, bool *is_exact)
{
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (!strcmp(base_of(path), published[i].name)) {
            *is_exact = published[i].is_exact;
            return published[i].bytes;
        }
    return 0;
}

/* --- one file -------------------------------------------------------------------------------- */

/* "size 123" of a git-lfs pointer: what the real file has. */
static uint64_t pointer_size(const char *path)
{
    char text[512] = {0};
    FILE *file = fopen(path, "re");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = 0;
    const char *at = strstr(text, "\nsize ");
    return at ? strtoull(at + 6, NULL, 10) : 0;
}

static bool wants_nothing(const char *name, void *unused)
{
    (void)name;
    (void)unused;
    return false;
}

/* Header and directory only: nothing is wanted, so no tensor is read. */
static void check_weights_file(file_report *f)
{
    lx_err err = {0};
    lx_weights_options options = {.wants = wants_nothing};
    lx_table table = {.options = &options};
    lx_status status = lx_table_scan(&table, f->path, &err);
    lx_table_close(&table);
    if (status == LX_OK)
        return;
    f->state = strstr(err.message, "truncated") || strstr(err.message, "(0 bytes)") ? FILE_TRUNCATED
                                                                                    : FILE_DAMAGED;
    snprintf(f->problem, sizeof f->problem, "%.290s", err.message);
}

/* tokenizer.json must be JSON to its end; a spiece.model is only measured against the published. */
static void check_tokenizer(file_report *f)
{
    json_error_t error;
    size_t n = strlen(f->path);
    if (n < 5 || strcmp(f->path + n - 5, ".json"))
        return;
    json_t *root = json_load_file(f->path, JSON_ALLOW_NUL, &error);
    json_decref(root);
    if (root)
        return;
    f->state = json_error_code(&error) == json_error_premature_end_of_input ? FILE_TRUNCATED
                                                                            : FILE_DAMAGED;
    snprintf(f->problem, sizeof f->problem, "truncated or damaged: line %d: %.200s", error.line,
             error.text);
}

static void check_file(file_report *f, bool is_weights)
{
    struct stat st;
    lx_source source;
    lx_magic magic = LX_MAGIC_SAFETENSORS;
    const char *text = "";
    lx_err err = {0};
    if (stat(f->path, &st)) {
        f->state = FILE_MISSING;
        return;
    }
    f->bytes = (uint64_t)st.st_size;
    if (lx_source_open(&source, f->path, &err) != LX_OK) {
        f->state = st.st_size ? FILE_DAMAGED : FILE_TRUNCATED;
        snprintf(f->problem, sizeof f->problem, "%.290s", err.message);
        return;
    }
    lx_status status = lx_source_sniff(&source, &magic, &text, &err);
    lx_source_close(&source);
    if (status == LX_OK && magic == LX_MAGIC_OTHER && strstr(text, "git-lfs")) {
        f->state = FILE_POINTER;
        if (!f->published)
            f->published = pointer_size(f->path);
        snprintf(f->problem, sizeof f->problem, "%.290s", text);
        return;
    }
    if (is_weights)
        check_weights_file(f);
    else
        check_tokenizer(f);
}

static void add_file(report *r, lx_role role, const char *path, bool is_weights)
{
    if (r->n == MAX_FILES)
        return;
    file_report *f = &r->file[r->n];
    *f = (file_report){.role = role, .path = strdup(path)};
    if (!f->path)
        return;
    f->published = published_bytes(path, &f->is_exact);
    check_file(f, is_weights);
    r->n++;
}

/* --- the DiT --------------------------------------------------------------------------------- */

static void add_once(report *r, const char *path)
{
    for (int i = 0; i < r->n; i++)
        if (!strcmp(r->file[i].path, path))
            return;
    add_file(r, LX_ROLE_DIT, path, true);
}

static void add_shards(report *r, const char *path)
{
    lx_index *index = NULL;
    lx_err err = {0};
    char shard[LX_PATH_MAX];
    if (lx_index_open(&index, path, &err) != LX_OK) {
        snprintf(r->problem, sizeof r->problem, "%.900s", err.message);
        return;
    }
    for (size_t i = 0; i < lx_index_shards(index); i++)
        if (snprintf(shard, sizeof shard, "%.*s%s", (int)(base_of(path) - path), path,
                     lx_index_shard(index, i)) < LX_PATH_MAX)
            add_once(r, shard);
    lx_index_close(&index);
}

/* The index of a folder; false if there is none, or more than one. */
static bool find_index(const char *folder, char out[LX_PATH_MAX])
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t length = strlen(e->d_name);
        if (e->d_name[0] == '.' || length < 23 ||
            strcmp(e->d_name + length - 23, ".safetensors.index.json"))
            continue;
        n++;
        if (snprintf(out, LX_PATH_MAX, "%s/%s", folder, e->d_name) >= LX_PATH_MAX)
            n = 2;
    }
    if (dir)
        closedir(dir);
    return n == 1;
}

/* Blocks 0..N of the per-block layout: N is the highest there is, 39 if block_39 of the published
 * 14B is to be expected (its blocks have 351 MB, those of other sizes far less). */
static void add_numbered(report *r, const char *folder)
{
    char path[LX_PATH_MAX];
    int last = -1;
    struct stat st;
    uint64_t largest = 0;
    for (int n = 0; n < MAX_BLOCK; n++) {
        if (snprintf(path, sizeof path, "%s/block_%d.safetensors", folder, n) >= LX_PATH_MAX)
            return;
        if (stat(path, &st))
            continue;
        last = n;
        largest = (uint64_t)st.st_size > largest ? (uint64_t)st.st_size : largest;
    }
    if (largest > 340000000u && last < 39)
        last = 39;
    for (int n = 0; n <= last; n++) {
        snprintf(path, sizeof path, "%s/block_%d.safetensors", folder, n);
        add_once(r, path);
    }
    snprintf(path, sizeof path, "%s/non_block.safetensors", folder);
    add_once(r, path);
}

/* An index names the last block too, which a gap in the numbers cannot. What else it names is not
 * read from such a folder, nor is an index that makes no sense. */
static void add_blocks(report *r, const char *folder)
{
    char path[LX_PATH_MAX];
    lx_index *index = NULL;
    if (find_index(folder, path) && lx_index_open(&index, path, NULL) == LX_OK)
        for (size_t i = 0; i < lx_index_shards(index); i++) {
            const char *name = lx_index_shard(index, i);
            if ((!strncmp(name, "block_", 6) || !strcmp(name, "non_block.safetensors")) &&
                snprintf(path, sizeof path, "%s/%s", folder, name) < LX_PATH_MAX)
                add_once(r, path);
        }
    lx_index_close(&index);
    add_numbered(r, folder);
}

static void add_dit(report *r, const char *path)
{
    struct stat st;
    size_t n = strlen(path);
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        add_blocks(r, path);
    else if (n > 11 && !strcmp(path + n - 11, ".index.json"))
        add_shards(r, path);
    else
        add_file(r, LX_ROLE_DIT, path, true);
}

/* --- what is missing ------------------------------------------------------------------------- */

/* Where each part would be in the published tree. */
static void add_missing(report *r, lx_role role)
{
    static const char *const where[LX_ROLES] = {
        "distill_int8", "distill_int8/models_t5_umt5-xxl-enc-int8.pth",
        "distill_int8/Wan2.1_VAE.pth", "google/umt5-xxl/tokenizer.json"};
    char path[2 * LX_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", r->root, where[role]);
    if (r->n == MAX_FILES || strlen(path) >= LX_PATH_MAX)
        return;
    file_report *f = &r->file[r->n];
    *f = (file_report){.role = role, .state = FILE_MISSING, .path = strdup(path)};
    if (!f->path)
        return;
    f->published = role == LX_ROLE_DIT ? DIT_BLOCKS_BYTES : published_bytes(path, &f->is_exact);
    r->n++;
}

static void add_include(char *includes, size_t room, const char *pattern)
{
    char quoted[600];
    snprintf(quoted, sizeof quoted, " --include \"%.580s\"", pattern);
    if (!strstr(includes, quoted) && strlen(includes) + strlen(quoted) < room)
        strcat(includes, quoted);
}

/* The folder of the repository that a part comes from: the one that the user's DiT is of. */
static const char *published_folder(const report *r)
{
    static const char *const folders[] = {"distill_int8", "distill_fp8", "distill_models"};
    for (size_t k = 0; k < sizeof folders / sizeof *folders; k++)
        for (int i = 0; i < r->n; i++) {
            const char *at = strstr(r->file[i].path, folders[k]);
            if (r->file[i].role == LX_ROLE_DIT && at)
                return folders[k];
        }
    for (int i = 0; i < r->n; i++)
        if (r->file[i].role == LX_ROLE_DIT && strstr(base_of(r->file[i].path), "distill_model."))
            return "distill_models";
    return "distill_int8";
}

/* The command that fetches what is not sound, by the repository's layout whatever the local one:
 * all blocks at once, other files by their name if the repository has it. */
static void plan_download(report *r)
{
    char includes[2 * LX_PATH_MAX] = "";
    const char *folder = published_folder(r);
    for (int i = 0; i < r->n; i++) {
        const file_report *f = &r->file[i];
        char pattern[LX_PATH_MAX];
        if (f->state == FILE_OK)
            continue;
        if (f->role == LX_ROLE_TOKENIZER)
            snprintf(pattern, sizeof pattern, "google/umt5-xxl/*");
        else if (f->role == LX_ROLE_VAE)
            snprintf(pattern, sizeof pattern, "%s/Wan2.1_VAE.pth", folder);
        else if (f->role == LX_ROLE_TEXT)
            snprintf(pattern, sizeof pattern, "%s/models_t5_umt5-xxl-enc-%s.pth", folder,
                     !strcmp(folder, "distill_models") ? "bf16" : folder + strlen("distill_"));
        else if (!strcmp(folder, "distill_models"))
            snprintf(pattern, sizeof pattern, "distill_models/distill_model.safetensors");
        else
            snprintf(pattern, sizeof pattern, "%s/*block*", folder);
        add_include(includes, sizeof includes, pattern);
        r->needed_bytes += f->published;
    }
    if (*includes)
        snprintf(r->download, sizeof r->download, "hf download " REPOSITORY "%s --local-dir \"%s\"",
                 includes, r->root);
}

static uint64_t free_bytes(const char *path)
{
    char at[LX_PATH_MAX];
    struct statvfs vfs;
    snprintf(at, sizeof at, "%s", path);
    while (statvfs(at, &vfs)) { /* a folder that is not there yet: the nearest that is */
        char *slash = strrchr(at, '/');
        if (!slash || slash == at)
            return statvfs(slash ? "/" : ".", &vfs) ? 0 : (uint64_t)vfs.f_bavail * vfs.f_frsize;
        *slash = 0;
    }
    return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* --- saying it ------------------------------------------------------------------------------- */

static void print_text(const report *r, bool is_ok)
{
    printf("model folder %s\n", r->dir);
    for (int i = 0; i < r->n; i++) {
        const file_report *f = &r->file[i];
        printf("  %-11s %-9s %s", state_names[f->state], lx_role_name(f->role), f->path);
        if (f->bytes)
            printf("  %.3f GB", (double)f->bytes / 1e9);
        if (f->published && f->state != FILE_OK)
            printf("  (published: %s%.3f GB)", f->is_exact ? "" : "about ",
                   (double)f->published / 1e9);
        else if (f->published && f->is_exact && f->published != f->bytes)
            printf("  (not the published file of %" PRIu64 " bytes)", f->published);
        printf("%s%s\n", *f->problem ? "\n              " : "", f->problem);
    }
    if (*r->problem)
        printf("  problem     %s\n", r->problem);
    printf("free disk %.1f GB", (double)r->free_bytes / 1e9);
    if (r->needed_bytes)
        printf(", the download needs about %.1f GB%s", (double)r->needed_bytes / 1e9,
               r->needed_bytes > r->free_bytes ? ": NOT ENOUGH" : "");
    printf("\n");
    if (*r->download)
        printf("to get what is missing (delete damaged files first):\n  %s\n", r->download);
    if (is_ok)
        printf("all parts are there\n");
}

static void print_json(const report *r, bool is_ok)
{
    json_t *files = json_array();
    for (int i = 0; i < r->n; i++) {
        const file_report *f = &r->file[i];
        json_array_append_new(
            files, json_pack("{s:s, s:s, s:s, s:I, s:o, s:o}", "role", lx_role_name(f->role),
                             "path", f->path, "state", state_names[f->state], "bytes",
                             (json_int_t)f->bytes, "published_bytes",
                             f->published ? json_integer((json_int_t)f->published) : json_null(),
                             "problem", *f->problem ? json_string(f->problem) : json_null()));
    }
    json_t *root =
        json_pack("{s:s, s:b, s:o, s:o, s:I, s:I, s:o}", "dir", r->dir, "ok", is_ok, "problem",
                  *r->problem ? json_string(r->problem) : json_null(), "files", files, "free_bytes",
                  (json_int_t)r->free_bytes, "needed_bytes", (json_int_t)r->needed_bytes,
                  "download", *r->download ? json_string(r->download) : json_null());
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    puts(text ? text : "{\"ok\": false, \"problem\": \"the report is not valid UTF-8\"}");
    free(text);
    json_decref(root);
}

static void examine(report *r, const char *dir)
{
    lx_places *places = calloc(1, sizeof *places);
    lx_err err = {0};
    char path[LX_PATH_MAX];
    if (!places)
        return;
    if (lx_places_find(places, dir, &err) != LX_OK)
        snprintf(r->problem, sizeof r->problem, "%s", err.message);
    snprintf(r->dir, sizeof r->dir, "%s", places->path);
    lx_model_root(places->path, r->root);
    for (int role = 0; role < LX_ROLES; role++) {
        if (!lx_places_role(places, (lx_role)role, path))
            add_missing(r, (lx_role)role);
        else if (role == LX_ROLE_DIT)
            add_dit(r, path);
        else if (role != LX_ROLE_TOKENIZER)
            add_file(r, (lx_role)role, path, true);
        else {
            char file[2 * LX_PATH_MAX];
            struct stat st;
            snprintf(file, sizeof file, "%s/tokenizer.json", path);
            if (stat(file, &st))
                snprintf(file, sizeof file, "%s/spiece.model", path);
            add_file(r, (lx_role)role, file, false);
        }
    }
    free(places);
}

lx_status lx_model_doctor(const char *dir, int as_json, lx_err *err)
{
    if (!dir || !*dir || strlen(dir) >= LX_PATH_MAX - 300)
        return lx_fail(err, LX_ECONFIG, "give the folder of the model: --weights DIR");
    report *r = calloc(1, sizeof *r);
    if (r)
        r->file = calloc(MAX_FILES, sizeof *r->file);
    if (!r || !r->file) {
        free(r);
        return lx_fail(err, LX_EAGAIN, "out of memory for a report");
    }
    examine(r, dir);
    plan_download(r);
    r->free_bytes = free_bytes(r->root);
    int n_bad = 0;
    for (int i = 0; i < r->n; i++)
        n_bad += r->file[i].state != FILE_OK;
    bool is_ok = !n_bad && !*r->problem;
    if (as_json)
        print_json(r, is_ok);
    else
        print_text(r, is_ok);
    lx_status status = LX_OK;
    if (!is_ok)
        status = *r->problem
                     ? lx_fail(err, LX_ECONFIG, "%.900s", r->problem)
                     : lx_fail(err, LX_ECONFIG, "%.600s: %d of %d files are missing or broken", dir,
                               n_bad, r->n);
    for (int i = 0; i < r->n; i++)
        free(r->file[i].path);
    free(r->file);
    free(r);
    return status;
}
