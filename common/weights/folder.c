/*
 * folder.c - which files a checkpoint consists of: one file, a folder, a sharded index
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_log.h"
#include "weights_internal.h"

#define PATH_ROOM 4096

typedef struct names {
    char **name; /* owned */
    size_t n;
} names;

static void names_free(names *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->name[i]);
    free(list->name);
    *list = (names){0};
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static bool is_block_file(const char *name)
{
    if (!strcmp(name, "non_block.safetensors"))
        return true;
    if (strncmp(name, "block_", 6) || !isdigit((unsigned char)name[6]))
        return false;
    const char *p = name + 6;
    while (isdigit((unsigned char)*p))
        p++;
    return !strcmp(p, ".safetensors");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Files of a folder that end in `end`, in name order; hidden ones are other people's. */
static lx_status list_folder(names *out, const char *path, const char *end, lx_err *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    names list = {0};
    lx_status status = LX_OK;
    for (struct dirent *e; status == LX_OK && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !ends_with(e->d_name, end))
            continue;
        char **grown = realloc(list.name, (list.n + 1) * sizeof *grown);
        if (grown)
            list.name = grown;
        char *copy = grown ? strdup(e->d_name) : NULL;
        if (!copy)
            status = lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
        else
            list.name[list.n++] = copy;
        if (status == LX_OK && list.n > 16 * LX_LIMIT_FILES)
            status = lx_fail(err, LX_ECONFIG, "%s: more than %d files end in %s", path,
                             16 * LX_LIMIT_FILES, end);
    }
    closedir(dir);
    if (status != LX_OK) {
        names_free(&list);
        return status;
    }
    if (list.n)
        qsort(list.name, list.n, sizeof *list.name, by_text);
    *out = list;
    return LX_OK;
}

static lx_status join(char *out, const char *folder, const char *name, lx_err *err)
{
    int n = snprintf(out, PATH_ROOM, "%s%s%s", folder, ends_with(folder, "/") ? "" : "/", name);
    if (n < 0 || n >= PATH_ROOM)
        return lx_fail(err, LX_ECONFIG, "%s: the path is too long", folder);
    return LX_OK;
}

static lx_status scan_file(lx_table *table, const char *path, lx_index *index, size_t shard,
                           lx_err *err)
{
    uint32_t file;
    lx_status status = lx_table_add_source(table, path, &file, err);
    lx_magic magic = LX_MAGIC_SAFETENSORS;
    const char *text = NULL;
    if (status == LX_OK)
        status = lx_source_sniff(&table->source[file], &magic, &text, err);
    if (status != LX_OK)
        return status;
    if (magic == LX_MAGIC_OTHER)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, text);
    if (magic == LX_MAGIC_ZIP && index)
        return lx_fail(err, LX_ECONFIG, "%s: a shard must be safetensors, this is a zip archive",
                       path);
    if (magic == LX_MAGIC_ZIP)
        return lx_pth_scan(table, file, err);
    if (ends_with(path, ".pth") || ends_with(path, ".pt") || ends_with(path, ".ckpt")) {
        lx_status tried = lx_safetensors_scan(table, file, index, shard, err);
        return tried == LX_ECONFIG
                   ? lx_fail(err, tried, "%s: neither a zip archive of torch.save nor safetensors",
                             path)
                   : tried;
    }
    return lx_safetensors_scan(table, file, index, shard, err);
}

static lx_status scan_index(lx_table *table, const char *path, lx_err *err)
{
    lx_index *index = NULL;
    lx_status status = lx_index_open(&index, path, err);
    char folder[PATH_ROOM], shard[PATH_ROOM];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    snprintf(slash ? slash + 1 : folder, 3, "%s", slash ? "" : "./");
    for (size_t i = 0; status == LX_OK && i < lx_index_shards(index); i++) {
        status = join(shard, folder, lx_index_shard(index, i), err);
        if (status == LX_OK)
            status = scan_file(table, shard, index, i, err);
        if (status != LX_OK && status != LX_ECANCEL)
            lx_wrap(err, "shard %zu of %zu in %s", i + 1, lx_index_shards(index), path);
    }
    if (status == LX_OK)
        status = lx_index_finish(index, err);
    lx_index_close(&index);
    return status;
}

/* A block file that is a hard link to an earlier one stands for another block of equal weights:
 * so a model for tests of speed and memory need not fill the disk. blocks.K. becomes blocks.N. */
static lx_status rename_linked_block(lx_table *table, uint32_t file, size_t first, lx_err *err)
{
    const lx_source *source = &table->source[file];
    const char *slash = strrchr(source->path, '/'), *base = slash ? slash + 1 : source->path;
    bool is_linked = false;
    for (uint32_t i = 0; i < file && source->stat.st_nlink > 1; i++)
        is_linked |= table->source[i].stat.st_dev == source->stat.st_dev &&
                     table->source[i].stat.st_ino == source->stat.st_ino;
    if (!is_linked || strncmp(base, "block_", 6))
        return LX_OK;
    int digits = (int)strspn(base + 6, "0123456789");
    for (size_t i = first; i < table->n_entries; i++) {
        lx_entry *e = &table->entry[i];
        size_t old = strspn(e->name + 7, "0123456789");
        if (strncmp(e->name, "blocks.", 7) || !old)
            continue;
        char *name = NULL;
        if (asprintf(&name, "blocks.%.*s%s", digits, base + 6, e->name + 7 + old) < 0)
            return lx_fail(err, LX_EAGAIN, "%s: out of memory", source->path);
        free(e->name);
        e->name = name;
    }
    return LX_OK;
}

/* LightX2V's per-block layout shares its folder with the VAE: then only the block files count. */
static void keep_block_files(names *list, const char *path)
{
    bool has_blocks = false;
    for (size_t i = 0; i < list->n; i++)
        has_blocks |= !strncmp(list->name[i], "block_", 6) && is_block_file(list->name[i]);
    size_t kept = 0;
    for (size_t i = 0; has_blocks && i < list->n; i++) {
        if (is_block_file(list->name[i])) {
            list->name[kept++] = list->name[i];
            continue;
        }
        LX_I("weights folder=%s skipped=%s why=not-a-block-file", path, list->name[i]);
        free(list->name[i]);
    }
    if (has_blocks)
        list->n = kept;
}

static lx_status scan_folder(lx_table *table, const char *path, lx_err *err)
{
    names files = {0}, indexes = {0};
    char file[PATH_ROOM];
    lx_status status = list_folder(&indexes, path, ".safetensors.index.json", err);
    if (status == LX_OK && indexes.n > 1)
        status = lx_fail(err, LX_ECONFIG, "%s: %zu indexes (%s, %s): name one of them", path,
                         indexes.n, indexes.name[0], indexes.name[1]);
    if (status == LX_OK && indexes.n == 1) {
        status = join(file, path, indexes.name[0], err);
        if (status == LX_OK)
            status = scan_index(table, file, err);
        goto out;
    }
    if (status == LX_OK)
        status = list_folder(&files, path, ".safetensors", err);
    if (status == LX_OK && !files.n)
        status = lx_fail(err, LX_ECONFIG, "%s: no *.safetensors in this folder", path);
    if (status == LX_OK)
        keep_block_files(&files, path);
    for (size_t i = 0; status == LX_OK && i < files.n; i++) {
        size_t first = table->n_entries;
        status = join(file, path, files.name[i], err);
        if (status == LX_OK)
            status = scan_file(table, file, NULL, 0, err);
        if (status == LX_OK)
            status = rename_linked_block(table, (uint32_t)(table->n_sources - 1), first, err);
    }
out:
    names_free(&files);
    names_free(&indexes);
    return status;
}

lx_status lx_table_scan(lx_table *table, const char *path, lx_err *err)
{
    struct stat st;
    if (!path || !*path)
        return lx_fail(err, LX_ECONFIG, "no weights given");
    if (strlen(path) >= PATH_ROOM - 256)
        return lx_fail(err, LX_ECONFIG, "the path of the weights has %zu bytes, at most %d fit",
                       strlen(path), PATH_ROOM - 257);
    if (stat(path, &st))
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return scan_folder(table, path, err);
    if (ends_with(path, ".index.json"))
        return scan_index(table, path, err);
    return scan_file(table, path, NULL, 0, err);
}
