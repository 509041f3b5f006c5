/*
 * fuzz_config.c - any bytes as config.yaml: refused or valid, never a crash
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_config.h"

/* What lx_config.h promises after LX_OK, looked at from outside. */
static void check(const lx_config *c)
{
    int ok =
        c->path[0] == '/' && c->output.dir[0] == '/' && c->state.dir[0] == '/' &&
        (c->model.dir[0] == '/' || c->model.dit[0] == '/') && c->sampling.n_steps >= 1 &&
        c->sampling.n_steps <= LX_LIMIT_STEPS && c->sampling.guide_scale == 1 &&
        lx_job_check_rng(c->sampling.rng, NULL) == LX_OK &&
        lx_job_check_size(c->defaults.width, c->defaults.height, c->defaults.frames, NULL) ==
            LX_OK &&
        lx_job_check_size(c->limits.width, c->limits.height, c->limits.frames, NULL) == LX_OK &&
        lx_job_size_fits(c->defaults.width, c->defaults.height, c->limits.width,
                         c->limits.height) &&
        c->limits.frames >= c->defaults.frames;
    for (int s = 0; s < LX_STAGE_COUNT; s++) {
        ok = ok && c->stage[s].n_replicas >= 1 && c->stage[s].n_replicas <= LX_LIMIT_REPLICAS;
        for (int i = 0; ok && i < c->stage[s].n_replicas; i++)
            ok = c->stage[s].replica[i].device[0] != 0 && c->stage[s].replica[i].threads >= 0;
    }
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lx_config config;
    lx_err err = {0};
    lx_status status = lx_config_parse(&config, (const char *)data, size, "/tmp/fuzz.yaml", &err);
    if (status == LX_OK)
        check(&config);
    else if (status != LX_ECONFIG || !err.message[0])
        abort();

    /* The same bytes as the words of a command line. */
    char text[256];
    size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, n);
    text[n] = 0;
    int32_t width, height, steps[LX_LIMIT_STEPS], n_steps;
    uint64_t bytes;
    int64_t integer;
    double real;
    lx_parse_size(text, &width, &height, &err);
    lx_parse_bytes(text, &bytes, &err);
    lx_parse_i64(text, &integer);
    lx_parse_real(text, &real);
    if (lx_parse_steps(text, steps, &n_steps, &err) == LX_OK &&
        lx_job_check_steps(steps, n_steps, NULL) != LX_OK)
        abort();
    static const char *const words[] = {"size", "frames", "a", ""};
    lx_nearest(text, words, 4);
    return 0;
}
