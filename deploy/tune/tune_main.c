/*
 * tune_main.c - lx2v-tune: the fastest design for each linear, measured on this card
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_config.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_process.h"
#include "tune.h"
#include "weights/lx_catalog.h"
#include "weights/lx_model_dir.h"

#define ROWS_LEAST 256 /* fewer go another way: kernels/cuda/linear_plan.c */
#define ROWS_MOST  (1 << 17)
#define REPEATS    7

static const char usage[] =
    "usage: lx2v-tune [--device cuda:N] [--weights DIR] [options]\n"
    "       lx2v-tune --which\n"
    "\n"
    "Measures on a card every design of the INT8 linears of a DiT, in chunks of as many tokens as\n"
    "a plan may have, and writes the fastest to ~/.cache/lx2v/tune ($XDG_CACHE_HOME), where\n"
    "lx2v-dit finds it. No other program should use the card meanwhile. Once for each kind of "
    "card,\n"
    "and again with each build of lx2v, or a new driver or cuBLAS.\n"
    "\n"
    "  --device cuda:N  which card; default: cuda:0\n"
    "  --weights DIR    a model, or a DiT, with INT8 weights: its sides; default: the 14B's\n"
    "  --sides W,H      the sides themselves: width and hidden width (5120,13824)\n"
    "  --rows N,...     tokens at a time, 256 and more; default: the chunks of a plan\n"
    "  --repeats N      measurements of each, 3 to 15 (7); their median counts\n"
    "  --dry-run        write nothing\n"
    "  --quiet          print nothing but what was written\n"
    "  --which          measure nothing; say which table each card here would use\n"
    "  --version        version and backend\n"
    "\n"
    "LX2V_TUNE=off: lx2v-dit uses no table. Another table, or none, may give other last bits.\n"
    "Exit codes: 0 ok, 1 failed, 2 usage, no card, no CUDA: a person must act, 3 not enough\n"
    "memory, 130 interrupted.\n";

/* --- the command line ------------------------------------------------------------------------ */

/* "256,4096": up to `most` numbers. */
static lx_status parse_list(const char *flag, const char *text, int64_t low, int64_t high, int most,
                            int64_t *out, int *n, lx_err *err)
{
    const char *at = text;
    *n = 0;
    do {
        char *end;
        long long v = strtoll(at, &end, 10);
        if (end == at || (*end && *end != ',') || *at == ' ' || v < low || v > high || *n == most)
            return lx_fail(err, LX_ECONFIG,
                           "%s %.80s: expected up to %d numbers of %" PRId64 " to %" PRId64, flag,
                           text, most, low, high);
        out[(*n)++] = v;
        at = *end ? end + 1 : end;
    } while (*at);
    return LX_OK;
}

static lx_status parse_sides(const char *text, tune_options *o, lx_err *err)
{
    int64_t sides[2];
    int n = 0;
    lx_status status = parse_list("--sides", text, 64, 1 << 15, 2, sides, &n, err);
    if (status != LX_OK)
        return status;
    if (n != 2 || sides[0] % 16 || sides[1] % 16)
        return lx_fail(err, LX_ECONFIG, "--sides %.80s: expected two multiples of 16", text);
    o->width = sides[0];
    o->hidden = sides[1];
    return LX_OK;
}

static lx_status take_value(tune_options *o, const char *name, const char *value, lx_err *err)
{
    int64_t repeats;
    int n;
    if (!strcmp(name, "--device"))
        o->device = value;
    else if (!strcmp(name, "--weights"))
        o->weights = value;
    else if (!strcmp(name, "--sides"))
        return parse_sides(value, o, err);
    else if (!strcmp(name, "--rows"))
        return parse_list(name, value, ROWS_LEAST, ROWS_MOST, TUNE_ROWS, o->rows, &o->n_rows, err);
    else {
        lx_status status = parse_list(name, value, 3, TUNE_REPEATS, 1, &repeats, &n, err);
        o->repeats = status == LX_OK ? (int)repeats : 0;
        return status;
    }
    return LX_OK;
}

static lx_status parse(tune_options *o, bool *which, int argc, char **argv, lx_err *err)
{
    static const char *const known[] = {"--device",  "--weights", "--sides", "--rows", "--repeats",
                                        "--dry-run", "--quiet",   "--which", "--help", "--version"};
    enum { WITH_VALUE = 5 };
    for (int i = 1; i < argc; i++) {
        int k = 0;
        while (k < WITH_VALUE && strcmp(argv[i], known[k]))
            k++;
        if (k < WITH_VALUE && i + 1 == argc)
            return lx_fail(err, LX_ECONFIG, "%s needs a value", argv[i]);
        if (k < WITH_VALUE) {
            lx_status status = take_value(o, known[k], argv[++i], err);
            if (status != LX_OK)
                return status;
        } else if (!strcmp(argv[i], "--dry-run")) {
            o->is_dry = true;
        } else if (!strcmp(argv[i], "--quiet")) {
            o->is_quiet = true;
        } else if (!strcmp(argv[i], "--which")) {
            *which = true;
        } else {
            const char *near = lx_nearest(argv[i], known, sizeof known / sizeof *known);
            return lx_fail(err, LX_ECONFIG, "unknown option %.64s%s%s; see lx2v-tune --help",
                           argv[i], near ? "; did you mean " : "", near ? near : "");
        }
    }
    return o->weights && o->width
               ? lx_fail(err, LX_ECONFIG, "--weights and --sides both say the sides: leave one out")
               : LX_OK;
}

/* --- sides ----------------------------------------------------------------------------------- */

static lx_status sides_of_weights(tune_options *o, lx_err *err)
{
    static char part[LX_PATH_MAX];
    const char *path = lx_model_part(part, o->weights, "dit") ? part : o->weights;
    const lx_weights_options options = {.wants = lx_catalog_dit_wants, .headers_only = true};
    lx_weights *weights = NULL;
    lx_dit_dims dims;
    lx_status status = lx_weights_open(&weights, path, &options, err);
    if (status == LX_OK)
        status = lx_catalog_dit(weights, &dims, err);
    lx_weights_close(&weights);
    if (status != LX_OK)
        return status;
    if (dims.quant != LX_QUANT_INT8)
        return lx_fail(err, LX_ECONFIG,
                       "%.400s: its linears are no INT8: there is nothing to choose for them",
                       path);
    if (dims.dim % 16 || dims.ffn_dim % 16 || dims.dim > 1 << 15 || dims.ffn_dim > 1 << 15)
        return lx_fail(err, LX_ECONFIG,
                       "%.400s: sides of %" PRId64 " and %" PRId64 ": multiples of 16 up to 32768 "
                       "are served",
                       path, dims.dim, dims.ffn_dim);
    o->width = dims.dim;
    o->hidden = dims.ffn_dim;
    return LX_OK;
}

/* --- all ------------------------------------------------------------------------------------- */

static lx_status write_table(lx_cuda *cuda, const tune_options *o, const lx_tune_table *table,
                             lx_err *err)
{
    char path[LX_LIMIT_PATH];
    const lx_card_kind *card = lx_cuda_card(cuda);
    const char *module = lx_cuda_module_id(cuda);
    int others = 0;
    lx_status status = lx_tune_path(path, sizeof path, card, module, err);
    if (status == LX_OK && !o->is_dry)
        status = lx_tune_write(path, table, card, module, err);
    if (status == LX_EAGAIN)
        status = LX_ECONFIG; /* a folder that cannot be written to: trying again helps nobody */
    for (int i = 0; i < table->n; i++)
        others += table->entry[i].design != LX_TUNE_BUILT_IN;
    if (status == LX_OK)
        printf("%s%s: %d linears, %d of them otherwise than built in\n",
               o->is_dry ? "not written: " : "", path, table->n, others);
    return status;
}

static lx_status tune(tune_options *o, lx_err *err)
{
    int index;
    lx_cuda *cuda = NULL;
    lx_tune_table *table = calloc(1, sizeof *table);
    lx_status status = table ? LX_OK : lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK && o->weights)
        status = sides_of_weights(o, err);
    if (!o->width) {
        o->width = TUNE_DIT_WIDTH;
        o->hidden = TUNE_DIT_HIDDEN;
    }
    if (status == LX_OK)
        status = lx_device_find(&index, o->device, err);
    if (status == LX_OK && index < 0)
        status = lx_fail(err, LX_ECONFIG, "--device %.64s: a card is needed", o->device);
    if (status == LX_OK)
        status = lx_cuda_open(&cuda, index, NULL, err);
    if (status == LX_OK && !o->n_rows)
        o->n_rows = tune_chunks(lx_cuda_card(cuda), o->width, o->rows);
    if (status == LX_OK && !o->is_quiet)
        printf("%s, sm_%d%d, %d multiprocessors\n", lx_cuda_card(cuda)->name,
               lx_cuda_card(cuda)->major, lx_cuda_card(cuda)->minor, lx_cuda_card(cuda)->n_sm);
    if (status == LX_OK)
        status = tune_measure(cuda, o, table, err);
    if (status == LX_OK)
        status = write_table(cuda, o, table, err);
    lx_cuda_close(&cuda);
    free(table);
    return status;
}

/* Of every card here, without opening one: a line each. */
static lx_status tell_which(lx_err *err)
{
    lx_cards *cards = calloc(1, sizeof *cards); /* 200 KiB */
    char text[LX_LIMIT_PATH + 64];
    lx_status status =
        cards ? lx_device_probe(cards, NULL, err) : lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK && cards->n == 0)
        status = lx_fail(err, LX_ECONFIG, "no card: %.400s", cards->reason);
    for (int i = 0; status == LX_OK && i < cards->n; i++) {
        const lx_card *c = &cards->card[i];
        lx_card_kind kind = {.index = i,
                             .major = c->major,
                             .minor = c->minor,
                             .n_sm = c->multiprocessors,
                             .shared_bytes = (int)c->shared_bytes,
                             .total_bytes = c->vram_bytes};
        snprintf(kind.name, sizeof kind.name, "%s", c->name);
        if (kind.major < 8)
            snprintf(text, sizeof text, "compute capability %d.%d: 8.0 is needed", kind.major,
                     kind.minor);
        else
            lx_cuda_tune_tell(&kind, text, sizeof text);
        printf("cuda:%d %s\n", i, text);
    }
    free(cards);
    return status;
}

int main(int argc, char **argv)
{
    lx_err err = {0};
    tune_options options = {.device = "cuda:0", .repeats = REPEATS};
    bool which = false;
    for (int i = 1; i < argc; i++) {
        bool is_help = !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
        if (!is_help && strcmp(argv[i], "--version") != 0)
            continue;
        fputs(is_help ? usage : "lx2v-tune " LX2V_VERSION " (" LX2V_BACKEND ")\n", stdout);
        return 0;
    }
    lx_log_open("tune", LX_LOG_WARN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    lx_status status = parse(&options, &which, argc, argv, &err);
    if (status == LX_OK) {
        lx_catch_interrupt();
        status = which ? tell_which(&err) : tune(&options, &err);
    }
    if (status != LX_OK)
        fprintf(stderr, "lx2v-tune: %s\n", err.message);
    return lx_exit_code(status);
}
