/*
 * encoder_run.c - `lx2v-encoder run`: one prompt, or its ids, to a file
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "encoder.h"
#include "lx_log.h"
#include "lx_process.h"
#include "weights/lx_model_dir.h"

#define TRY(call)                                                                                  \
    do {                                                                                           \
        lx_status status_ = (call);                                                                \
        if (status_ != LX_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

/* A run and what it owns. */
typedef struct job_by_hand {
    lx_run run;
    const char *prompt, *tokenizer_flag; /* borrowed from argv */
    const char *root;                    /* --weights as typed, likewise */
    char weights[LX_LIMIT_PATH], tokenizer[LX_LIMIT_PATH];
    lx_residency_choice residency;
    encoder *model;
    int32_t *input_ids; /* malloc'd; NULL with --prompt */
    const int32_t *ids; /* input_ids, or borrowed from the model */
    int64_t n;
} job_by_hand;

static lx_status parse(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    const char *residency = NULL;
    const lx_run_flag flags[] = {
        {"prompt", &j->prompt, NULL, "text to encode; or give ids I32 [n] with --input"},
        {"tokenizer", &j->tokenizer_flag, NULL,
         "tokenizer.json, spiece.model or their folder (default: google/umt5-xxl by the weights)"},
        {"residency", &residency, NULL,
         "of layers on a card: resident, partial (as many as --vram allows), host, disk, auto "
         "(host)"},
    };
    TRY(lx_run_parse(&j->run, argc, argv, flags, sizeof flags / sizeof *flags, err));
    if (residency && lx_config_set_residency(&j->residency, residency, err) != LX_OK)
        return lx_wrap(err, "--residency");
    if (!j->run.weights || !j->run.output)
        return lx_fail(err, LX_ECONFIG, "--weights FILE|DIR and --output FILE are needed");
    if (!j->prompt == !j->run.input)
        return lx_fail(err, LX_ECONFIG, "either --prompt TEXT or --input FILE is needed, not %s",
                       j->prompt ? "both" : "neither");
    return lx_run_check_output(&j->run, err);
}

/* --- where the files are ---------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static lx_status join(char *out, const char *folder, const char *name, lx_err *err)
{
    int n = snprintf(out, LX_LIMIT_PATH, "%s/%s", folder, name);
    if (n < 0 || n >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "%.200s...: path of more than %d bytes", folder,
                       LX_LIMIT_PATH - 1);
    return LX_OK;
}

/* A folder as people download it has the encoder's file beside others; any other folder is one
 * checkpoint. */
static lx_status find_weights(job_by_hand *j, lx_err *err)
{
    char found[256] = "";
    const char *path = j->run.weights;
    j->root = path;
    if (strlen(path) >= sizeof j->weights)
        return lx_fail(err, LX_ECONFIG, "--weights: path of more than %d bytes", LX_LIMIT_PATH - 1);
    snprintf(j->weights, sizeof j->weights, "%s", path);
    DIR *folder = is_folder(path) ? opendir(path) : NULL;
    if (!folder)
        return LX_OK;
    lx_status status = LX_OK;
    for (struct dirent *f; status == LX_OK && (f = readdir(folder));) {
        const char *name = f->d_name;
        if (strncmp(name, "models_t5_", 10) != 0 ||
            !(ends_with(name, ".pth") || ends_with(name, ".safetensors")))
            continue;
        if (found[0])
            status = lx_fail(err, LX_ECONFIG, "%s has %s and %s: name one with --weights", path,
                             found, name);
        snprintf(found, sizeof found, "%s", name);
    }
    closedir(folder);
    if (status != LX_OK || found[0])
        return status == LX_OK ? join(j->weights, path, found, err) : status;
    lx_run_find_weights(&j->run, "text"); /* the root of a model, or its distill_* folder */
    snprintf(j->weights, sizeof j->weights, "%s", j->run.weights);
    return LX_OK;
}

static bool has_tokenizer(const char *folder)
{
    static const char *const names[] = {"tokenizer.json", "spiece.model"};
    char path[LX_LIMIT_PATH];
    struct stat st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (join(path, folder, names[i], NULL) == LX_OK && stat(path, &st) == 0)
            return true;
    return false;
}

/* Beside the weights, as in the published repository: google/umt5-xxl in their folder or above. */
static lx_status find_tokenizer(job_by_hand *j, lx_err *err)
{
    static const char *const places[] = {"google/umt5-xxl", ".", "../google/umt5-xxl", ".."};
    if (j->tokenizer_flag) {
        int n = snprintf(j->tokenizer, sizeof j->tokenizer, "%s", j->tokenizer_flag);
        return n >= 0 && (size_t)n < sizeof j->tokenizer
                   ? LX_OK
                   : lx_fail(err, LX_ECONFIG, "--tokenizer: path of more than %d bytes",
                             LX_LIMIT_PATH - 1);
    }
    if (lx_model_part(j->tokenizer, j->root, "tokenizer"))
        return LX_OK;
    char folder[LX_LIMIT_PATH];
    snprintf(folder, sizeof folder, "%s", j->weights);
    if (!is_folder(folder)) {
        char *slash = strrchr(folder, '/');
        snprintf(slash ? slash + (slash == folder) : folder, 2, "%s", slash ? "" : ".");
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        TRY(join(j->tokenizer, folder, places[i], err));
        if (has_tokenizer(j->tokenizer))
            return LX_OK;
    }
    return lx_fail(
        err, LX_ECONFIG,
        "no tokenizer.json or spiece.model in %s, its google/umt5-xxl, or above: name it "
        "with --tokenizer FILE|DIR",
        folder);
}

/* --- the run ---------------------------------------------------------------------------------- */

static lx_status read_ids(job_by_hand *j, lx_err *err)
{
    lx_shape shape;
    char text[128];
    TRY(lx_run_read_i32(&j->run, "ids", &shape, &j->input_ids, err));
    if (shape.n_dims != 1 || shape.dim[0] < 1 || shape.dim[0] > ENCODER_TEXT_LEN_MAX)
        return lx_fail(err, LX_ECONFIG, "%s: ids is %s, expected [1 to %d]", j->run.input,
                       lx_shape_text(&shape, text, sizeof text), ENCODER_TEXT_LEN_MAX);
    j->ids = j->input_ids;
    j->n = shape.dim[0];
    if (j->n > ENCODER_TEXT_LEN)
        LX_W("%" PRId64 " ids: the DiT was trained with at most %d", j->n, ENCODER_TEXT_LEN);
    return LX_OK;
}

static lx_status load(job_by_hand *j, lx_err *err)
{
    TRY(find_weights(j, err));
    if (j->prompt)
        TRY(find_tokenizer(j, err));
    else
        TRY(read_ids(j, err));
    encoder_options options = {.weights = j->weights,
                               .tokenizer = j->prompt ? j->tokenizer : NULL,
                               .max_tokens = j->n, /* 0 with --prompt: the most it can have */
                               .device = j->run.device,
                               .n_threads = j->run.threads,
                               .progress = &j->run.progress,
                               .run = &j->run,
                               .residency = j->residency,
                               .max_bytes = j->run.vram_bytes};
    TRY(encoder_open(&j->model, &options, err));
    TRY(lx_run_check_dumps(&j->run, "encoder", err));
    j->run.load_s = lx_now_s() - j->run.start_s;
    return LX_OK;
}

static lx_status tokenize(job_by_hand *j, lx_err *err)
{
    encoder_prompt prompt;
    char notice[LX_LIMIT_TEXT];
    TRY(encoder_tokens(j->model, j->prompt, strlen(j->prompt), &prompt, err));
    encoder_notice(&prompt, notice, sizeof notice);
    if (notice[0])
        LX_W("%s", notice);
    j->ids = prompt.ids;
    j->n = prompt.counts.n;
    return LX_OK;
}

static lx_status by_hand(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    encoder_context context;
    TRY(parse(j, argc, argv, err));
    TRY(load(j, err));
    if (j->prompt)
        TRY(tokenize(j, err));
    LX_I("%s tokens=%" PRId64 " device_mib=%.1f", encoder_describe(j->model), j->n,
         (double)encoder_arena_bytes(j->model) / 0x1p20);
    TRY(encoder_encode(j->model, j->ids, j->n, &context, err));
    TRY(lx_run_add(&j->run, "ids", LX_DTYPE_I32, &LX_SHAPE(j->n), j->ids, err));
    TRY(lx_run_add(&j->run, "context", LX_DTYPE_F32, &LX_SHAPE(context.n, context.dim),
                   context.rows, err));
    return lx_run_finish(&j->run, "encoder", err);
}

int encoder_run(int argc, char **argv)
{
    lx_err err = {0};
    job_by_hand *j = calloc(1, sizeof *j);
    lx_status status = j ? by_hand(j, argc, argv, &err)
                         : lx_fail(&err, LX_EAGAIN, "out of memory for the record of a run");
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    if (j) {
        lx_run_close(&j->run);
        encoder_close(&j->model);
        free(j->input_ids);
        free(j);
    }
    return lx_exit_code(status);
}
