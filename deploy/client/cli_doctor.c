/*
 * cli_doctor.c - lx2v doctor: what is here, what is missing
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_machine.h"
#include "lx_config.h"
#include "weights/lx_model_dir.h"

/* The config's own state, where there is one to look at. */
typedef struct rig {
    bool is_there, is_good, is_running;
    char message[LX_ERR_TEXT]; /* what is wrong with it */
    char output[LX_LIMIT_PATH];
    char endpoint[512], launcher[LX_ERR_TEXT];
} rig;

static void look_at_rig(rig *r, const cli_common *common)
{
    const char *path = common->config ? common->config : "config.yaml";
    lx_err err = {0};
    memset(r, 0, sizeof *r);
    r->is_there = access(path, F_OK) == 0;
    lx_config *config = malloc(sizeof *config);
    if (config && r->is_there) {
        r->is_good = lx_config_load(config, path, &err) == LX_OK;
        if (r->is_good)
            memcpy(r->output, config->output.dir, sizeof r->output);
        else
            memcpy(r->message, err.message, sizeof r->message);
    }
    free(config);
    lx_client *client = NULL;
    lx_err_clear(&err);
    r->is_running = lx_client_find(r->endpoint, sizeof r->endpoint, common->endpoint,
                                   common->config, &err) == LX_OK &&
                    lx_client_open(&client, r->endpoint, 2, &err) == LX_OK;
    if (!r->is_running)
        memcpy(r->launcher, err.message, sizeof r->launcher);
    lx_client_close(&client);
}

static const char *isa_text(const cli_machine *m, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "%s%s%s%s%s", m->has_avx2 ? "AVX2 " : "",
             m->has_avx512 ? "AVX-512 " : "", m->has_vnni ? "VNNI " : "",
             m->has_bf16 ? "BF16 " : "", m->has_amx ? "AMX " : "");
    size_t n = strlen(out);
    if (n > 0)
        out[n - 1] = 0;
    return n > 0 ? out : "none of AVX2, AVX-512, VNNI, BF16, AMX";
}

static void print_text(const cli_machine *m, const rig *r)
{
    char a[64], b[64], isa[96];
    printf("lx2v      %s, built for %s\n", LX2V_VERSION, LX2V_BACKEND);
    printf("cpu       %s, %d cores, %s\n", m->cpu, m->n_cores, isa_text(m, isa, sizeof isa));
    printf("memory    %s, %s available\n", cli_bytes(m->ram_bytes, a, sizeof a),
           cli_bytes(m->free_bytes, b, sizeof b));
    printf("/dev/shm  %s, %s free%s\n", cli_bytes(m->shm_bytes, a, sizeof a),
           cli_bytes(m->shm_free_bytes, b, sizeof b),
           m->shm_free_bytes < (256u << 20) ? "; less than 256 MiB is little for 480p clips" : "");
    if (m->n_nvidia > 0)
        printf("cards     %d NVIDIA%s\n", m->n_nvidia,
               strcmp(LX2V_BACKEND, "cuda") == 0 ? ""
                                                 : "; this build has no CUDA and cannot use "
                                                   "them");
    else
        printf("cards     no NVIDIA device file\n");
    if (!r->is_there)
        printf("config    none here; lx2v init DIR > config.yaml writes one\n");
    else if (!r->is_good)
        printf("config    wrong: %s\n", r->message);
    else
        printf("config    good; output in %s, %s free\n", r->output,
               cli_bytes(cli_disk_free(r->output), a, sizeof a));
    if (r->is_running)
        printf("launcher  running at %s\n", r->endpoint);
    else
        printf("launcher  not reached: %s\n", r->launcher);
}

static void print_json(const cli_machine *m, const rig *r)
{
    json_t *isa =
        json_pack("{s:b, s:b, s:b, s:b, s:b}", "avx2", m->has_avx2, "avx512", m->has_avx512, "vnni",
                  m->has_vnni, "bf16", m->has_bf16, "amx", m->has_amx);
    json_t *config =
        json_pack("{s:b, s:b, s:o, s:o, s:I}", "found", r->is_there, "good", r->is_good, "message",
                  *r->message ? cli_json_text(r->message) : json_null(), "output_dir",
                  *r->output ? cli_json_text(r->output) : json_null(), "output_free_bytes",
                  (json_int_t)(*r->output ? cli_disk_free(r->output) : 0));
    cli_json_print(json_pack(
        "{s:s, s:s, s:s, s:i, s:o, s:I, s:I, s:I, s:I, s:i, s:o, s:b}", "version", LX2V_VERSION,
        "backend", LX2V_BACKEND, "cpu", m->cpu, "cores", m->n_cores, "isa", isa, "ram_bytes",
        (json_int_t)m->ram_bytes, "ram_free_bytes", (json_int_t)m->free_bytes, "shm_bytes",
        (json_int_t)m->shm_bytes, "shm_free_bytes", (json_int_t)m->shm_free_bytes, "nvidia_cards",
        m->n_nvidia, "config", config, "launcher_running", r->is_running));
}

static lx_status examine(const cli_args *args, const char *weights, lx_err *err)
{
    if (weights)
        return lx_model_doctor(weights, args->common.json, err);
    cli_machine *machine = malloc(sizeof *machine);
    rig *r = malloc(sizeof *r);
    lx_status status = LX_OK;
    if (machine && r) {
        cli_machine_look(machine);
        look_at_rig(r, &args->common);
        if (args->common.json)
            print_json(machine, r);
        else
            print_text(machine, r);
        if (r->is_there && !r->is_good)
            status = lx_fail(err, LX_ECONFIG, "%s", r->message);
    } else {
        status = lx_fail(err, LX_EAGAIN, "out of memory");
    }
    free(machine);
    free(r);
    return status;
}

lx_status cli_doctor(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    const char *weights = NULL;
    bool done = false;
    const cli_flag flags[] = {{"weights", 0, "DIR", "a model folder to examine", &weights, NULL}};
    lx_status status = cli_begin(self, &args, argc, argv, flags, 1, &done, err);
    if (status == LX_OK && !done && args.n_words > 0)
        status = lx_fail(err, LX_ECONFIG,
                         "doctor: \"%.64s\"? A model folder is given as --weights "
                         "DIR",
                         args.words[0]);
    if (status == LX_OK && !done)
        status = examine(&args, weights, err);
    free(args.words);
    return status;
}
