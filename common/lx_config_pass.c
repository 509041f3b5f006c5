/*
 * lx_config_pass.c - a config on its way to another process, and from one reading to the next
 * SPDX-License-Identifier: Apache-2.0
 *
 * lx_config is plain data without pointers, so it travels as it lies in memory, between programs of
 * one build. Its first bytes say of which.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_config_keys.h"

typedef struct passed_head {
    char build[64];
    uint64_t bytes;
} passed_head;

static passed_head make_head(void)
{
    passed_head head = {.bytes = sizeof(lx_config)};
    snprintf(head.build, sizeof head.build, "lx2v " LX2V_VERSION " " LX2V_BACKEND);
    return head;
}

int lx_config_to_fd(const lx_config *config, lx_err *err)
{
    passed_head head = make_head();
    int fd = memfd_create("lx2v-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool is_there =
        fd >= 0 && pwrite(fd, &head, sizeof head, 0) == sizeof head &&
        pwrite(fd, config, sizeof *config, sizeof head) == sizeof *config &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0;
    if (is_there)
        return fd;
    lx_fail(err, LX_EAGAIN, "no memory file for the config: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

lx_status lx_config_from_fd(lx_config *out, int fd, lx_err *err)
{
    passed_head head, own = make_head();
    struct stat st;
    if (fstat(fd, &st) || st.st_size != (off_t)(sizeof head + sizeof *out) ||
        pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(&head, &own, sizeof head) ||
        pread(fd, out, sizeof *out, sizeof head) != sizeof *out)
        return lx_fail(err, LX_ECONFIG,
                       "the launcher's config is not one of this build (" LX2V_VERSION
                       "): install its programs together");
    return LX_OK;
}

/* --- key by key ------------------------------------------------------------------------------- */

/* Of those that are one piece of memory; 0: others, or text. */
static size_t piece_of(const lx_config_key *key)
{
    switch (key->type) {
    case LX_KEY_BOOL:
        return sizeof(bool);
    case LX_KEY_INT:
    case LX_KEY_CHOICE:
        return sizeof(int32_t);
    case LX_KEY_I64:
    case LX_KEY_BYTES:
        return sizeof(int64_t);
    case LX_KEY_REAL:
    case LX_KEY_GUIDE:
        return sizeof(double);
    case LX_KEY_SIZE:
    case LX_KEY_TILE:
        return 2 * sizeof(int32_t);
    default:
        return 0;
    }
}

static bool is_same_stage(const lx_stage_config *a, const lx_stage_config *b)
{
    bool is_same = a->n_replicas == b->n_replicas;
    for (int i = 0; is_same && i < a->n_replicas; i++)
        is_same = !strcmp(a->replica[i].device, b->replica[i].device) &&
                  a->replica[i].threads == b->replica[i].threads &&
                  a->replica[i].residency == b->replica[i].residency &&
                  a->replica[i].attention == b->replica[i].attention &&
                  a->replica[i].accumulate == b->replica[i].accumulate;
    return is_same;
}

static bool is_same_vram(const lx_vram_config *a, const lx_vram_config *b)
{
    bool is_same = a->every == b->every && a->n == b->n;
    for (int i = 0; is_same && i < a->n; i++)
        is_same =
            !strcmp(a->card[i].device, b->card[i].device) && a->card[i].bytes == b->card[i].bytes;
    return is_same;
}

static bool is_same_steps(const lx_config *a, const lx_config *b)
{
    size_t bytes = (size_t)a->sampling.n_steps * sizeof a->sampling.steps[0];
    return a->sampling.n_steps == b->sampling.n_steps &&
           !memcmp(a->sampling.steps, b->sampling.steps, bytes);
}

static bool is_same(const lx_config *a, const lx_config *b, const lx_config_key *key)
{
    const char *x = (const char *)a + key->offset, *y = (const char *)b + key->offset;
    switch (key->type) {
    case LX_KEY_SECTION:
        return true;
    case LX_KEY_STAGE:
        return is_same_stage(&a->stage[key->number], &b->stage[key->number]);
    case LX_KEY_VRAM:
        return is_same_vram(&a->memory.vram, &b->memory.vram);
    case LX_KEY_STEPS:
        return is_same_steps(a, b);
    case LX_KEY_MODEL: /* the same as model.dir, which stands in the table too */
        return true;
    default:
        return piece_of(key) ? !memcmp(x, y, piece_of(key)) : !strcmp(x, y);
    }
}

int lx_config_differ(const lx_config *a, const lx_config *b, const char *keys[], int room)
{
    int n = 0;
    for (int i = 0; i < lx_config_n_keys && n < room; i++)
        if (!is_same(a, b, &lx_config_keys[i]))
            keys[n++] = lx_config_keys[i].path;
    return n;
}

void lx_config_take(lx_config *to, const lx_config *from, const char *path)
{
    int i = lx_config_find(path);
    const lx_config_key *key = i < 0 ? NULL : &lx_config_keys[i];
    if (key && key->type == LX_KEY_STEPS) {
        to->sampling.n_steps = from->sampling.n_steps;
        memcpy(to->sampling.steps, from->sampling.steps, sizeof to->sampling.steps);
    } else if (key && key->type == LX_KEY_RNG) {
        memcpy(to->sampling.rng, from->sampling.rng, sizeof to->sampling.rng);
    } else if (key) {
        memcpy((char *)to + key->offset, (const char *)from + key->offset, piece_of(key));
    }
}
