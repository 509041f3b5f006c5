/*
 * reload.c - what may change under a running service
 * SPDX-License-Identifier: Apache-2.0
 */
#include "reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_MAX 128

/* Followed by the launcher alone when it needs them. log_level is followed by a stage too, when
 * it starts again. */
static const char *const at_once[] = {"defaults.size",
                                      "defaults.frames",
                                      "defaults.fps",
                                      "defaults.seed",
                                      "sampling.sampler",
                                      "sampling.sample_shift",
                                      "sampling.denoising_step_list",
                                      "sampling.rng",
                                      "limits.prompt_bytes",
                                      "limits.per_client",
                                      "supervision.hang_s",
                                      "supervision.stop_s",
                                      "log_level"};

static bool counts_at_once(const char *key)
{
    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++)
        if (!strcmp(at_once[i], key))
            return true;
    return false;
}

/* Each file is right by itself; a half of it beside what stays may not be. */
static lx_status check_mixture(const lx_config *c, lx_err *err)
{
    if (!lx_job_size_fits(c->defaults.width, c->defaults.height, c->limits.width, c->limits.height))
        return lx_fail(err, LX_ECONFIG,
                       "defaults.size: %dx%d is larger than limits.size of the running service, "
                       "%dx%d, which a restart changes",
                       c->defaults.width, c->defaults.height, c->limits.width, c->limits.height);
    if (c->defaults.frames > c->limits.frames)
        return lx_fail(err, LX_ECONFIG,
                       "defaults.frames: %d is more than limits.frames of the running service, %d, "
                       "which a restart changes",
                       c->defaults.frames, c->limits.frames);
    if (c->supervision.hang_s <= 3 * c->supervision.beat_s)
        return lx_fail(err, LX_ECONFIG,
                       "supervision.hang_s: %g is not above three beats of the running service, %g "
                       "s each, which a restart changes",
                       c->supervision.hang_s, c->supervision.beat_s);
    return LX_OK;
}

static void add_key(char *text, size_t text_bytes, const char *key)
{
    size_t n = strlen(text);
    snprintf(text + n, text_bytes - n, "%s%s", n ? "," : "", key);
}

lx_status reload_config(lx_config *live, char *text, size_t text_bytes, lx_err *err)
{
    const char *keys[KEYS_MAX];
    char now[1024] = "", later[1024] = "";
    lx_config *both = malloc(2 * sizeof *both); /* 120 KiB */
    if (!both)
        return lx_fail(err, LX_EAGAIN, "no memory to read the config again");
    lx_config *read = &both[0], *next = &both[1];
    *next = *live;
    lx_status status = lx_config_load(read, live->path, err);
    if (status == LX_OK)
        status = lx_config_check_build(read, err);
    int n = status == LX_OK ? lx_config_differ(live, read, keys, KEYS_MAX) : 0;
    for (int i = 0; i < n; i++) {
        bool is_now = counts_at_once(keys[i]);
        if (is_now)
            lx_config_take(next, read, keys[i]);
        add_key(is_now ? now : later, sizeof now, keys[i]);
    }
    if (status == LX_OK)
        status = check_mixture(next, err);
    if (status == LX_OK) {
        *live = *next;
        snprintf(text, text_bytes, "changed=%s needs_restart=%s", now[0] ? now : "-",
                 later[0] ? later : "-");
    }
    free(both);
    return status;
}
