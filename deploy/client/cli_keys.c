/*
 * cli_keys.c - lx2v keys: who may come in from other machines
 * SPDX-License-Identifier: Apache-2.0
 *
 *   DIR/server.key        the launcher's pair, a secret
 *   DIR/clients/NAME.pub  lets NAME in; removing it shuts him out
 *   NAME.key              here, not in DIR: goes to NAME's machine, a secret
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "lx_config.h"
#include "lx_keys.h"

#define NAME_BYTES 64

static lx_status make_folder(const char *path, lx_err *err)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: cannot be made: %s", path, strerror(errno));
}

static lx_status check_name(const char *name, lx_err *err)
{
    size_t n = strlen(name);
    if (n >= 1 && n <= NAME_BYTES && name[0] != '.' && name[0] != '-' &&
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == n)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "--client: \"%.32s\" is not accepted; accepted: 1 to %d of A-Z a-z 0-9 . _ - "
                   "without a leading dot or dash",
                   name, NAME_BYTES);
}

/* The launcher's pair: read if it is there, else made. */
static lx_status server_pair(const char *dir, lx_keys *out, bool *is_new, lx_err *err)
{
    char path[LX_LIMIT_PATH];
    struct stat st;
    snprintf(path, sizeof path, "%s/server.key", dir);
    *is_new = lstat(path, &st) != 0;
    if (!*is_new)
        return lx_keys_read(out, path, err);
    lx_status status = lx_keys_make(out, err);
    return status == LX_OK ? lx_keys_write(out, path, err) : status;
}

/* The secret first: a public key without its secret would let nobody in, and nobody would know. */
static lx_status client_pair(const char *dir, const char *name, const lx_keys *server,
                             char path[LX_LIMIT_PATH], lx_err *err)
{
    char shown_path[LX_LIMIT_PATH];
    lx_keys keys, shown = {.public_key = ""};
    lx_status status = check_name(name, err);
    if (status == LX_OK)
        status = lx_keys_make(&keys, err);
    if (status != LX_OK)
        return status;
    snprintf(path, LX_LIMIT_PATH, "%s.key", name);
    snprintf(shown_path, sizeof shown_path, "%s/clients/%s.pub", dir, name);
    memcpy(keys.server, server->public_key, sizeof keys.server);
    memcpy(shown.public_key, keys.public_key, sizeof shown.public_key);
    if (access(shown_path, F_OK) == 0)
        status = lx_fail(err, LX_ECONFIG, "%s exists: %s has a key; remove it to shut him out",
                         shown_path, name);
    else
        status = lx_keys_write(&keys, path, err);
    if (status == LX_OK && (status = lx_keys_write(&shown, shown_path, err)) != LX_OK)
        unlink(path);
    lx_keys_forget(&keys);
    return status;
}

static void report(const cli_args *args, const lx_keys *server, bool is_new, const char *name,
                   const char *path)
{
    const char *dir = args->words[0];
    if (args->common.json) {
        json_t *told = json_pack("{s:s, s:s, s:b}", "dir", dir, "server", server->public_key,
                                 "is_new", is_new);
        if (told && name)
            json_object_set_new(told, "client", json_pack("{s:s, s:s}", "name", name, "key", path));
        cli_json_print(told);
        return;
    }
    cli_say("%s/server.key %s; its public key is %s", dir, is_new ? "made" : "was there",
            server->public_key);
    if (!name) {
        cli_say("next: lx2v keys %s --client NAME, and in config.yaml listen: {tcp: IP:PORT, "
                "keys: %s}",
                dir, dir);
        return;
    }
    cli_say("%s lets %s in: take it to his machine by a safe way, and keep no copy", path, name);
    cli_say("there: lx2v --endpoint tcp://IP:PORT --key %s status", path);
    printf("%s\n", path);
}

static lx_status make(const cli_args *args, const char *name, lx_err *err)
{
    char clients[LX_LIMIT_PATH], path[LX_LIMIT_PATH] = "";
    const char *dir = args->words[0];
    lx_keys server;
    bool is_new;
    if (strlen(dir) > LX_LIMIT_PATH - 256)
        return lx_fail(err, LX_ECONFIG, "%.64s...: the path is too long", dir);
    lx_status status = name ? check_name(name, err) : LX_OK;
    snprintf(clients, sizeof clients, "%s/clients", dir);
    if (status == LX_OK)
        status = make_folder(dir, err);
    if (status == LX_OK)
        status = make_folder(clients, err);
    if (status == LX_OK)
        status = server_pair(dir, &server, &is_new, err);
    if (status != LX_OK)
        return status;
    if (name)
        status = client_pair(dir, name, &server, path, err);
    if (status == LX_OK)
        report(args, &server, is_new, name, path);
    lx_keys_forget(&server);
    return status;
}

lx_status cli_keys(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    const char *name = NULL;
    const cli_flag flags[] = {
        {"client", 0, "NAME", "also a key for one client, into ./NAME.key", &name, NULL},
    };
    bool done = false;
    lx_status status =
        cli_begin(self, &args, argc, argv, flags, (int)(sizeof flags / sizeof *flags), &done, err);
    if (status == LX_OK && !done && args.n_words != 1)
        status = lx_fail(err, LX_ECONFIG, "keys: which folder? lx2v keys DIR makes it");
    if (status == LX_OK && !done)
        status = make(&args, name, err);
    free(args.words);
    return status;
}
