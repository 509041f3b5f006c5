/*
 * manifest.c - manifest.sha256 beside the files: refuse what is not what was published
 * SPDX-License-Identifier: Apache-2.0
 *
 * Lines as sha256sum writes them: 64 hex digits, two characters, a name relative to the manifest.
 * Looked for in the file's folder, then in the folder above ("distill_int8/block_0.safetensors").
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_log.h"
#include "lx_manifest.h"
#include "lx_sha256.h"
#include "weights_internal.h"

#define MANIFEST_LINE 4200
#define MAX_LINES     100000
#define CHUNK         (8u << 20)

/* "name" for the file's own folder, "folder/name" for the one above. */
static void relative_name(const char *path, int up, char out[512])
{
    const char *at = path + strlen(path);
    for (int slashes = 0; at > path; at--)
        if (at[-1] == '/' && slashes++ == up)
            break;
    snprintf(out, 512, "%s", at);
}

static bool manifest_path(const char *path, int up, char out[4200])
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    for (int i = 0; i <= up; i++) {
        char *slash = strrchr(folder, '/');
        if (!slash && i == up && !up) { /* a bare name: the working folder */
            snprintf(out, 4200, "manifest.sha256");
            return true;
        }
        if (!slash)
            return false;
        *slash = 0;
    }
    snprintf(out, 4200, "%s/manifest.sha256", folder);
    return true;
}

/* The hash that a manifest gives for a name; false if it has none. */
static bool look_up(FILE *file, const char *name, char hash[65])
{
    char line[MANIFEST_LINE];
    for (int n = 0; n < MAX_LINES && fgets(line, sizeof line, file); n++) {
        line[strcspn(line, "\r\n")] = 0;
        size_t digits = strspn(line, "0123456789abcdefABCDEF");
        if (digits != 64 || strlen(line) < 67)
            continue;
        const char *listed = line + 66;
        if (!strncmp(listed, "./", 2))
            listed += 2;
        if (strcmp(listed, name) != 0)
            continue;
        for (int i = 0; i < 64; i++)
            hash[i] = line[i] >= 'A' && line[i] <= 'F' ? (char)(line[i] + 32) : line[i];
        hash[64] = 0;
        return true;
    }
    return false;
}

/* *beside: a manifest in the folder or above, whether or not it has the file; may be NULL. */
static bool find_hash(const char *file_path, char hash[65], char beside[4200])
{
    char path[4200], name[512];
    bool found = false;
    for (int up = 0; up < 2 && !found; up++) {
        relative_name(file_path, up, name);
        FILE *file = manifest_path(file_path, up, path) ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        if (beside)
            memcpy(beside, path, sizeof path);
        found = look_up(file, name, hash);
        fclose(file);
    }
    return found;
}

bool lx_manifest_lists(const char *path)
{
    char hash[65];
    return find_hash(path, hash, NULL);
}

static lx_status differs(const char *path, const char *found, const char *expected, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "%s: SHA-256 %s, the manifest says %s: the file is damaged or another one; "
                   "download it again",
                   path, found, expected);
}

lx_status lx_manifest_check_bytes(const char *path, const void *data, size_t n, lx_err *err)
{
    lx_sha256 sha;
    char found[65], expected[65];
    if (!find_hash(path, expected, NULL))
        return LX_OK;
    lx_sha256_open(&sha);
    lx_sha256_add(&sha, data, n);
    lx_sha256_hex(&sha, found);
    return strcmp(found, expected) ? differs(path, found, expected, err) : LX_OK;
}

bool lx_manifest_hash(const lx_source *source, char hash[65])
{
    char beside[4200] = "";
    bool found = find_hash(source->path, hash, beside);
    if (!found && beside[0])
        LX_W("weights file=%s is not in manifest=%s integrity=unchecked", source->path, beside);
    return found;
}

lx_status lx_manifest_check(const lx_source *source, const char *expected,
                            const lx_progress *progress, lx_err *err)
{
    unsigned char *data = malloc(CHUNK);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", source->path);
    lx_sha256 sha;
    char found[65];
    lx_status status = LX_OK;
    lx_sha256_open(&sha);
    for (uint64_t at = 0; status == LX_OK && at < source->bytes; at += CHUNK) {
        uint64_t n = source->bytes - at < CHUNK ? source->bytes - at : CHUNK;
        status = lx_source_read(source, at, data, n, err);
        if (status == LX_OK) {
            lx_sha256_add(&sha, data, (size_t)n);
            status = lx_progress_step(progress, "byte", at + n, source->bytes, err);
        }
    }
    free(data);
    if (status != LX_OK)
        return status;
    lx_sha256_hex(&sha, found);
    return strcmp(found, expected) ? differs(source->path, found, expected, err) : LX_OK;
}
