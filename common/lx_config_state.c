/*
 * lx_config_state.c - where sockets and journal live when config.yaml does not say
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_config_keys.h"
#include "lx_hash.h"

/* Names the state folder of a config. */
static uint64_t path_hash(const char *path)
{
    return lx_hash_add(LX_HASH_START, path, strlen(path));
}

static bool is_private_dir(const char *path)
{
    struct stat st;
    return path && *path == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

static void default_state_dir(char out[LX_LIMIT_PATH], const char *config_path)
{
    uint64_t hash = path_hash(config_path);
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (is_private_dir(runtime) && strlen(runtime) < 64)
        snprintf(out, LX_LIMIT_PATH, "%s/lx2v-%016" PRIx64, runtime, hash);
    else
        snprintf(out, LX_LIMIT_PATH, "/tmp/lx2v-%u-%016" PRIx64, (unsigned)geteuid(), hash);
}

/* Not below XDG_RUNTIME_DIR or /tmp: a reboot empties those, and the journal must survive it. */
static void default_journal_dir(char out[LX_LIMIT_PATH], const lx_config *c)
{
    uint64_t hash = path_hash(c->path);
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && *state == '/' && strlen(state) < LX_LIMIT_PATH - 64)
        snprintf(out, LX_LIMIT_PATH, "%s/lx2v/%016" PRIx64, state, hash);
    else if (home && *home == '/' && strlen(home) < LX_LIMIT_PATH - 64)
        snprintf(out, LX_LIMIT_PATH, "%s/.local/state/lx2v/%016" PRIx64, home, hash);
    else
        snprintf(out, LX_LIMIT_PATH, "%s", c->state.dir);
}

void lx_config_settle_state(lx_config *c)
{
    bool is_given = c->state.dir[0] != 0;
    if (!is_given)
        default_state_dir(c->state.dir, c->path);
    if (!c->state.journal[0] && is_given)
        memcpy(c->state.journal, c->state.dir, sizeof c->state.journal);
    else if (!c->state.journal[0])
        default_journal_dir(c->state.journal, c);
}
