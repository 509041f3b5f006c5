/*
 * cli_init.c - lx2v init DIR: a config for this machine and this model folder
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cli_machine.h"
#include "lx_limits.h"
#include "weights/lx_model_dir.h"

/* A YAML string that means exactly this path. Control characters were refused. */
static void print_quoted(const char *path)
{
    putchar('"');
    for (const char *p = path; *p; p++) {
        if (*p == '"' || *p == '\\')
            putchar('\\');
        putchar(*p);
    }
    putchar('"');
}

static void print_part(const char *name, const char *path)
{
    char text[32];
    uint64_t bytes = cli_weights_size(path);
    printf("  %s: ", name);
    print_quoted(path);
    if (bytes > 0)
        printf("  # %s", cli_bytes(bytes, text, sizeof text));
    putchar('\n');
}

static void print_machine(const cli_machine *m)
{
    char ram[32], shm[32];
    printf("# Made by lx2v init for this machine: %s, %d cores, %s of memory,\n"
           "# /dev/shm of %s, %d NVIDIA cards (this lx2v is built for %s).\n"
           "# config.yaml of the source tree explains every key.\n\n",
           *m->cpu ? m->cpu : "CPU", m->n_cores, cli_bytes(m->ram_bytes, ram, sizeof ram),
           cli_bytes(m->shm_bytes, shm, sizeof shm), m->n_nvidia, LX2V_BACKEND);
}

static void print_model(const char *dir, const lx_model_paths *found, const cli_machine *m)
{
    uint64_t need =
        cli_weights_size(found->dit) + cli_weights_size(found->text) + cli_weights_size(found->vae);
    char needs[32], has[32];
    printf("model:\n  dir: ");
    print_quoted(dir);
    putchar('\n');
    print_part("dit", found->dit);
    print_part("text", found->text);
    print_part("vae", found->vae);
    print_part("tokenizer", found->tokenizer);
    cli_bytes(need, needs, sizeof needs);
    cli_bytes(m->ram_bytes, has, sizeof has);
    if (need > m->ram_bytes)
        printf("  # These weights are %s and this machine has %s of memory: it cannot hold them.\n",
               needs, has);
    else
        printf("  # Weights of %s are held in memory, of %s.\n", needs, has);
}

static void print_rest(void)
{
    const char *device = strcmp(LX2V_BACKEND, "cuda") == 0 ? "cuda:0" : "cpu";
    printf("\noutput:\n  dir: output       # next to this file\n  overwrite: false\n\n"
           "defaults:\n  size: 832x480     # or 480x832, 720p, 720x1280: what the model was "
           "trained on\n  frames: 81        # 4n+1; 81 are 5 seconds\n  fps: 16\n"
           "  seed: -1          # drawn for each job and told\n\n"
           "sampling:           # what the checkpoint was distilled with\n"
           "  sampler: euler\n  sample_shift: 5\n"
           "  denoising_step_list: [1000, 750, 500, 250]\n  rng: lx2v\n\n");
    printf("stages:             # threads: 0 = one per core\n"
           "  encoder: {device: cpu, threads: 0}\n"
           "  dit: {device: %s, threads: 0}\n  vae: {device: %s, threads: 0}\n"
           "  mux: {device: cpu, threads: 0}\n\n"
           "limits:             # memory is planned for the largest clip\n"
           "  size: 832x480     # either way up: 480x832 fits too\n"
           "  frames: 81\n",
           device, device);
}

static lx_status print_config(const char *dir, lx_err *err)
{
    char real[PATH_MAX];
    if (!realpath(dir, real))
        return lx_fail(err, LX_ECONFIG, "init %s: %s", dir, strerror(errno));
    for (const char *p = real; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return lx_fail(err, LX_ECONFIG, "init: the path has control characters; rename it");
    lx_model_paths *found = calloc(1, sizeof *found), *none = calloc(1, sizeof *none);
    cli_machine *machine = malloc(sizeof *machine);
    lx_status status = LX_EAGAIN;
    if (!found || !none || !machine) {
        lx_fail(err, status, "out of memory");
        goto out;
    }
    status = lx_model_resolve(found, real, none, err);
    if (status != LX_OK) {
        lx_wrap(err, "init: run lx2v doctor --weights \"%s\" for what to download", real);
        goto out;
    }
    cli_machine_look(machine);
    print_machine(machine);
    print_model(real, found, machine);
    print_rest();
out:
    free(found);
    free(none);
    free(machine);
    return status;
}

lx_status cli_init(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    bool done = false;
    lx_status status = cli_begin(self, &args, argc, argv, NULL, 0, &done, err);
    if (status == LX_OK && !done && args.n_words != 1)
        status = lx_fail(err, LX_ECONFIG, "init: which model folder? lx2v init DIR > rig.yaml");
    if (status == LX_OK && !done)
        status = print_config(args.words[0], err);
    free(args.words);
    return status;
}
