/*
 * model_dir.c - where the four parts of a model lie
 * SPDX-License-Identifier: Apache-2.0
 *
 * The published tree: ROOT/distill_{int8,fp8,models}/ with the DiT, the text encoder and the VAE
 * side by side, ROOT/google/umt5-xxl/ with the tokenizer. Users also have the subfolder alone, or
 * everything flat in one folder. Search: the DiT's folder, the folder asked for, its parent.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lx_log.h"
#include "model_dir_internal.h"

/* int8 first: half the memory of bf16 and nearer to it than fp8. */
static const char *const subfolders[] = {"distill_int8", "distill_fp8", "distill_models",
                                         "int8",         "fp8",         "original"};
#define N_SUBFOLDERS (sizeof subfolders / sizeof *subfolders)

static const char *const text_names[] = {
    "models_t5_umt5-xxl-enc-int8.pth", "models_t5_umt5-xxl-enc-int8.safetensors",
    "models_t5_umt5-xxl-enc-fp8.pth",  "models_t5_umt5-xxl-enc-fp8.safetensors",
    "models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors",
    "models_t5_umt5-xxl-enc-f32.pth",  "models_t5_umt5-xxl-enc-f32.safetensors",
};
static const char *const vae_names[] = {"Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors",
                                        "wan_2.1_vae.safetensors"};
static const char *const tokenizer_names[] = {"tokenizer.json", "spiece.model"};
static const char *const tokenizer_folders[] = {"google/umt5-xxl", "umt5-xxl", "tokenizer", ""};

static const char *const role_names[LX_ROLES] = {"dit", "text", "vae", "tokenizer"};

const char *lx_role_name(lx_role role)
{
    return role_names[role];
}

/* --- files ----------------------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

/* False if it does not fit: such a path cannot exist for us. */
static bool join(char out[LX_PATH_MAX], const char *folder, const char *name)
{
    int n = snprintf(out, LX_PATH_MAX, "%s%s%s", folder,
                     *folder && *name && strcmp(folder, "/") != 0 ? "/" : "", name);
    return n > 0 && n < LX_PATH_MAX;
}

static bool has_file(const char *folder, const char *name, char out[LX_PATH_MAX])
{
    return join(out, folder, name) && is_file(out);
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "/a/b" -> "/a"; "b" -> "."; "/b" -> "/". */
static void parent_of(const char *path, char out[LX_PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, LX_PATH_MAX, "%s", strcmp(path, ".") == 0 ? ".." : ".");
    else if (slash == path)
        snprintf(out, LX_PATH_MAX, "/");
    else
        snprintf(out, LX_PATH_MAX, "%.*s", (int)(slash - path), path);
}

static bool is_subfolder_name(const char *name)
{
    for (size_t i = 0; i < N_SUBFOLDERS; i++)
        if (!strcmp(name, subfolders[i]))
            return true;
    return false;
}

void lx_model_root(const char *path, char out[LX_PATH_MAX])
{
    if (is_subfolder_name(base_of(path)))
        parent_of(path, out);
    else
        snprintf(out, LX_PATH_MAX, "%s", path);
}

/* --- DiT ------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* Is a *.safetensors by its name something else than a DiT? */
static bool is_other_model(const char *name)
{
    static const char *const words[] = {"vae", "t5", "clip", "lora", "taew", "text_enc"};
    char lower[256];
    size_t n = 0;
    for (; name[n] && n + 1 < sizeof lower; n++)
        lower[n] = (char)tolower((unsigned char)name[n]);
    lower[n] = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(lower, words[i]))
            return true;
    return false;
}

/* What a folder holds, as far as a DiT is concerned. */
typedef struct holds {
    bool has_blocks, has_high, has_low;
    int n_indexes, n_files;
    char index[256], file[256], second[256];
} holds;

static void note_file(holds *h, const char *name)
{
    unsigned number;
    char rest[16];
    h->has_high |= strstr(name, "high_noise") != NULL;
    h->has_low |= strstr(name, "low_noise") != NULL;
    if (ends_with(name, ".safetensors.index.json") && !is_other_model(name)) {
        h->n_indexes++;
        snprintf(h->index, sizeof h->index, "%s", name);
    }
    if (!ends_with(name, ".safetensors"))
        return;
    if (sscanf(name, "block_%u.%15s", &number, rest) == 2 && !strcmp(rest, "safetensors"))
        h->has_blocks = true;
    else if (!strcmp(name, "distill_model.safetensors")) {
        h->n_files = 1000; /* the published name wins over any other */
        snprintf(h->file, sizeof h->file, "%s", name);
    } else if (!is_other_model(name) && strcmp(name, "non_block.safetensors") != 0) {
        h->n_files++;
        if (h->n_files == 2)
            snprintf(h->second, sizeof h->second, "%s", name);
        if (h->n_files == 1)
            snprintf(h->file, sizeof h->file, "%s", name);
    }
}

/* The DiT of one folder itself: out = "" if there is none. */
static lx_status dit_in(const char *folder, char out[LX_PATH_MAX], lx_err *err)
{
    holds h = {0};
    *out = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return LX_OK;
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            note_file(&h, e->d_name);
    closedir(dir);
    if (h.has_high && h.has_low)
        return lx_fail(err, LX_ECONFIG,
                       "%s: two experts, high and low noise: this is Wan2.2 A14B; only Wan2.1 "
                       "text-to-video is supported",
                       folder);
    if (h.has_blocks)
        join(out, folder, "");
    else if (h.n_indexes == 1)
        join(out, folder, h.index);
    else if (h.n_indexes > 1)
        return lx_fail(err, LX_ECONFIG, "%s: %d indexes; say which with model.dit", folder,
                       h.n_indexes);
    else if (h.n_files == 1 || h.n_files >= 1000)
        join(out, folder, h.file);
    else if (h.n_files > 1)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %d files could be the DiT (%s, %s); say which with "
                       "model.dit",
                       folder, h.n_files, h.file, h.second);
    return LX_OK;
}

static void add_place(lx_places *p, const char *path)
{
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->place[i], path))
            return;
    if (p->n < LX_PLACES && is_folder(path))
        snprintf(p->place[p->n++], LX_PATH_MAX, "%s", path);
}

lx_status lx_places_find(lx_places *out, const char *dir, lx_err *err)
{
    char sub[LX_PATH_MAX], found[LX_PATH_MAX], parent[LX_PATH_MAX];
    memset(out, 0, sizeof *out);
    snprintf(out->path, sizeof out->path, "%s", dir);
    for (size_t n = strlen(out->path); n > 1 && out->path[n - 1] == '/'; n--)
        out->path[n - 1] = 0;
    lx_status status = dit_in(out->path, out->dit, err);
    bool is_here = *out->dit != 0;
    for (size_t i = 0; status == LX_OK && !is_here && i < N_SUBFOLDERS; i++) {
        if (!join(sub, out->path, subfolders[i]))
            continue;
        status = dit_in(sub, found, err);
        if (status != LX_OK || !*found)
            continue;
        if (!*out->dit) {
            snprintf(out->dit, sizeof out->dit, "%s", found);
            add_place(out, sub);
        } else if (strlen(out->other) + strlen(subfolders[i]) + 2 < sizeof out->other) {
            strcat(strcat(out->other, *out->other ? "," : ""), subfolders[i]);
        }
    }
    add_place(out, out->path);
    if (is_here || is_subfolder_name(base_of(out->path))) {
        parent_of(out->path, parent);
        add_place(out, parent);
    }
    for (size_t i = 0; i < N_SUBFOLDERS; i++) /* encoder and VAE may lie beside another form */
        if (join(sub, out->path, subfolders[i]))
            add_place(out, sub);
    return status;
}

/* --- the rest -------------------------------------------------------------------------------- */

static bool find_named(const lx_places *p, const char *const *names, size_t n,
                       char out[LX_PATH_MAX])
{
    for (int i = 0; i < p->n; i++)
        for (size_t k = 0; k < n; k++)
            if (has_file(p->place[i], names[k], out))
                return true;
    return false;
}

static bool find_tokenizer(const lx_places *p, char out[LX_PATH_MAX])
{
    char file[LX_PATH_MAX];
    for (int i = 0; i < p->n; i++)
        for (size_t f = 0; f < sizeof tokenizer_folders / sizeof *tokenizer_folders; f++)
            for (size_t k = 0; k < sizeof tokenizer_names / sizeof *tokenizer_names; k++)
                if (join(out, p->place[i], tokenizer_folders[f]) &&
                    has_file(out, tokenizer_names[k], file))
                    return true;
    return false;
}

bool lx_places_role(const lx_places *p, lx_role role, char out[LX_PATH_MAX])
{
    bool found = false;
    *out = 0;
    switch (role) {
    case LX_ROLE_DIT:
        found = *p->dit != 0;
        snprintf(out, LX_PATH_MAX, "%s", p->dit);
        break;
    case LX_ROLE_TEXT:
        found = find_named(p, text_names, sizeof text_names / sizeof *text_names, out);
        break;
    case LX_ROLE_VAE:
        found = find_named(p, vae_names, sizeof vae_names / sizeof *vae_names, out);
        break;
    default:
        found = find_tokenizer(p, out);
        break;
    }
    if (!found)
        *out = 0;
    return found;
}

/* --- resolving ------------------------------------------------------------------------------- */

static const char *const wanted[LX_ROLES] = {
    "block_0.safetensors ..., an index, or distill_model.safetensors",
    "models_t5_umt5-xxl-enc-{int8,fp8,bf16}.pth or .safetensors",
    "Wan2.1_VAE.pth or .safetensors",
    "google/umt5-xxl/tokenizer.json or spiece.model",
};

static lx_status nowhere(const lx_places *p, lx_role role, lx_err *err)
{
    char searched[700] = "";
    for (int i = 0; i < p->n; i++) {
        size_t n = strlen(searched);
        snprintf(searched + n, sizeof searched - n, "%s%s", n ? ", " : "", p->place[i]);
    }
    return lx_fail(err, LX_ECONFIG,
                   "%s: no %s found: looked for %s in %s; set model.%s, or see `lx2v doctor "
                   "--weights %.200s`",
                   p->path, lx_role_name(role), wanted[role], *searched ? searched : "(no folder)",
                   lx_role_name(role), p->path);
}

static lx_status check_override(lx_role role, const char *path, lx_err *err)
{
    struct stat st;
    if (stat(path, &st))
        return lx_fail(err, LX_ECONFIG, "model.%s: %.600s: %s", lx_role_name(role), path,
                       strerror(errno));
    return LX_OK;
}

lx_status lx_model_resolve(lx_model_paths *out, const char *dir, const lx_model_paths *overrides,
                           lx_err *err)
{
    static const lx_model_paths none;
    const lx_model_paths *o = overrides ? overrides : &none;
    const char *given[LX_ROLES] = {o->dit, o->text, o->vae, o->tokenizer};
    lx_model_paths *found = calloc(1, sizeof *found);
    lx_places *places = calloc(1, sizeof *places);
    lx_status status = LX_OK;
    bool has_dir = dir && *dir;
    if (!found || !places)
        status = lx_fail(err, LX_EAGAIN, "out of memory");
    bool needs_dir = !*given[0] || !*given[1] || !*given[2] || !*given[3];
    if (status == LX_OK && needs_dir && !has_dir)
        status = lx_fail(err, LX_ECONFIG,
                         "no model: set model: DIR, or all of model.dit, "
                         "model.text, model.vae and model.tokenizer");
    if (status == LX_OK && needs_dir && (strlen(dir) >= LX_PATH_MAX - 300 || !is_folder(dir)))
        status = lx_fail(err, LX_ECONFIG, "model: %.600s is not a folder", dir);
    /* A chosen DiT must not fail over candidates in the folder that nobody asked about. */
    if (status == LX_OK && needs_dir)
        status = lx_places_find(places, dir, *given[LX_ROLE_DIT] ? NULL : err);
    if (*given[LX_ROLE_DIT] && status == LX_ECONFIG && needs_dir && has_dir && is_folder(dir))
        status = LX_OK;
    for (int r = 0; status == LX_OK && r < LX_ROLES; r++) {
        char *slot[LX_ROLES] = {found->dit, found->text, found->vae, found->tokenizer};
        if (*given[r]) {
            snprintf(slot[r], LX_PATH_MAX, "%s", given[r]);
            status = check_override((lx_role)r, given[r], err);
        } else if (!lx_places_role(places, (lx_role)r, slot[r])) {
            status = nowhere(places, (lx_role)r, err);
        }
    }
    if (status == LX_OK) {
        LX_I("model dit=%s text=%s vae=%s tokenizer=%s%s%s", found->dit, found->text, found->vae,
             found->tokenizer, *places->other ? " passed_over=" : "", places->other);
        *out = *found;
    }
    free(found);
    free(places);
    return status;
}

bool lx_model_part(char out[LX_PATH_MAX], const char *dir, const char *part)
{
    char found[LX_PATH_MAX];
    bool is_found = false;
    if (strlen(dir) >= LX_PATH_MAX - 300 || !is_folder(dir))
        return false;
    lx_places *places = calloc(1, sizeof *places);
    for (int r = 0; places && r < LX_ROLES; r++)
        if (!strcmp(part, role_names[r])) /* doubts about the DiT concern nobody else */
            is_found = (lx_places_find(places, dir, NULL) == LX_OK || r != LX_ROLE_DIT) &&
                       lx_places_role(places, (lx_role)r, found);
    /* What lies beside somebody's own folder is not meant by its name. */
    if (is_found && !is_subfolder_name(base_of(places->path)))
        is_found = !strncmp(found, places->path, strlen(places->path));
    free(places);
    if (is_found)
        snprintf(out, LX_PATH_MAX, "%s", found);
    return is_found;
}

lx_status lx_model_of_config(lx_model_paths *out, const lx_config *config, lx_err *err)
{
    lx_model_paths named = {0};
    _Static_assert(sizeof named.dit == sizeof config->model.dit, "both are paths");
    memcpy(named.dit, config->model.dit, sizeof named.dit);
    memcpy(named.text, config->model.text, sizeof named.text);
    memcpy(named.vae, config->model.vae, sizeof named.vae);
    memcpy(named.tokenizer, config->model.tokenizer, sizeof named.tokenizer);
    return lx_model_resolve(out, config->model.dir, &named, err);
}
