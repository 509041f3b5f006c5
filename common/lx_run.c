/*
 * lx_run.c - `lx2v-STAGE run`: flags, a bar, dumps, the output file, timings
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lx_bar.h"
#include "lx_config.h"
#include "lx_device.h"
#include "weights/lx_model_dir.h"

/* --- progress -------------------------------------------------------------------------------- */

/* self is the lx_run. */
static lx_status step(void *self, const char *unit, uint64_t done, uint64_t total, lx_err *err)
{
    const lx_run *run = self;
    if (lx_interrupted())
        return lx_fail(err, LX_ECANCEL, "interrupted at %s %" PRIu64 " of %" PRIu64, unit, done,
                       total);
    if (run->has_bar)
        lx_bar_draw(unit, done, total, run->start_s);
    return LX_OK;
}

/* --- flags ----------------------------------------------------------------------------------- */

typedef struct common_flag {
    const char *name, *argument, *help;
} common_flag;

static const common_flag common_flags[] = {
    {"weights", "FILE|DIR",
     "checkpoint: safetensors, folder of them, index, .pth; or a model folder"},
    {"input", "FILE", "safetensors with the input tensors"},
    {"output", "FILE", "where the result goes"},
    {"device", "cpu|cuda:N", "where to compute (default cpu)"},
    {"threads", "N", "CPU threads (default: one per core)"},
    {"dump", "NAME,...", "intermediate tensors to add to the output, by layer name"},
    {"vram", "BYTES", "memory budget, e.g. 6GiB"},
    {"lora", "FILE[:S]", "not supported yet"},
    {"json", NULL, "timings and peak memory on stdout as JSON"},
    {"help", NULL, "this text"},
};
#define N_COMMON (sizeof common_flags / sizeof *common_flags)

static void print_help(const lx_run_flag *flags, size_t n_flags, const lx_run_words *words)
{
    if (words)
        printf("%s\n", words->what);
    puts("flags of this stage:");
    for (size_t i = 0; i < n_flags; i++)
        printf("  --%s%s\n        %s\n", flags[i].name, flags[i].value ? " VALUE" : "",
               flags[i].help ? flags[i].help : "");
    puts("flags of every stage:");
    for (size_t i = 0; i < N_COMMON; i++)
        printf("  --%s%s%s\n        %s\n", common_flags[i].name,
               common_flags[i].argument ? " " : "",
               common_flags[i].argument ? common_flags[i].argument : "", common_flags[i].help);
}

static lx_status unknown_flag(const char *name, const lx_run_flag *flags, size_t n_flags,
                              lx_err *err)
{
    const char *known[64];
    size_t n = 0;
    for (; n < N_COMMON; n++)
        known[n] = common_flags[n].name;
    for (size_t i = 0; i < n_flags && n < sizeof known / sizeof *known; i++)
        known[n++] = flags[i].name;
    const char *best = lx_nearest(name, known, n);
    return lx_fail(err, LX_ECONFIG, "unknown flag --%.100s%s%s (--help lists all)", name,
                   best ? "; did you mean --" : "", best ? best : "");
}

static lx_status parse_vram(lx_run *run, const char *text, lx_err *err)
{
    lx_status status = lx_parse_bytes(text, &run->vram_bytes, err);
    return status == LX_OK ? status : lx_wrap(err, "--vram");
}

static lx_status parse_device(lx_run *run, const char *text, lx_err *err)
{
    lx_status status = lx_device_check(text, err);
    if (status != LX_OK)
        return lx_wrap(err, "--device");
    run->device = text;
    return LX_OK;
}

static lx_status parse_dump(lx_run *run, const char *text, lx_err *err)
{
    while (*text) {
        size_t n = strcspn(text, ",");
        if (!n || n >= sizeof run->dump_names[0])
            return lx_fail(err, LX_ECONFIG, "--dump: a name must have 1 to %zu bytes",
                           sizeof run->dump_names[0] - 1);
        if (run->n_dumps == LX_RUN_DUMPS)
            return lx_fail(err, LX_ECONFIG, "--dump: more than %d names", LX_RUN_DUMPS);
        snprintf(run->dump_names[run->n_dumps++], sizeof run->dump_names[0], "%.*s", (int)n, text);
        text += n + (text[n] == ',');
    }
    return LX_OK;
}

static lx_status set_common(lx_run *run, const char *name, const char *value, lx_err *err)
{
    if (!strcmp(name, "weights"))
        run->weights = value;
    else if (!strcmp(name, "input"))
        run->input = value;
    else if (!strcmp(name, "output"))
        run->output = value;
    else if (!strcmp(name, "device"))
        return parse_device(run, value, err);
    else if (!strcmp(name, "dump"))
        return parse_dump(run, value, err);
    else if (!strcmp(name, "vram"))
        return parse_vram(run, value, err);
    else if (!strcmp(name, "json"))
        run->json = true;
    else if (!strcmp(name, "lora"))
        return lx_fail(err, LX_ECONFIG,
                       "--lora %.200s: LoRA files are not supported yet; merge it into the "
                       "checkpoint first",
                       value);
    else { /* threads */
        char *end;
        long n = strtol(value, &end, 10);
        if (end == value || *end || n < 1 || n > 1024)
            return lx_fail(err, LX_ECONFIG, "--threads %.40s: expected 1 to 1024", value);
        run->threads = (int)n;
    }
    return LX_OK;
}

/* One flag at argv[*i]; leaves *i on its last word. */
static lx_status parse_one(lx_run *run, int argc, char **argv, int *i, const lx_run_flag *flags,
                           size_t n_flags, lx_err *err)
{
    const char *word = argv[*i];
    if (strncmp(word, "--", 2) || !word[2])
        return lx_fail(err, LX_ECONFIG, "unexpected argument \"%.100s\" (--help lists all flags)",
                       word);
    char name[64];
    const char *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    if (n - 2 >= sizeof name)
        return unknown_flag(word + 2, flags, n_flags, err);
    memcpy(name, word + 2, n - 2);
    name[n - 2] = 0;
    const lx_run_flag *own = NULL;
    const common_flag *common = NULL;
    for (size_t k = 0; k < n_flags && !own; k++)
        if (!strcmp(flags[k].name, name))
            own = &flags[k];
    for (size_t k = 0; k < N_COMMON && !own && !common; k++)
        if (!strcmp(common_flags[k].name, name))
            common = &common_flags[k];
    if (!own && !common)
        return unknown_flag(name, flags, n_flags, err);
    bool takes_value = own ? own->value != NULL : common->argument != NULL;
    if (!takes_value && value)
        return lx_fail(err, LX_ECONFIG, "--%s takes no value", name);
    if (takes_value && !value) {
        if (*i + 1 >= argc)
            return lx_fail(err, LX_ECONFIG, "--%s needs a value", name);
        value = argv[++*i];
    }
    if (own && takes_value)
        *own->value = value;
    else if (own && own->present)
        *own->present = true;
    return own ? LX_OK : set_common(run, name, value ? value : "", err);
}

static lx_status add_word(lx_run_words *words, const char *word, lx_err *err)
{
    if (words->n == LX_RUN_WORDS)
        return lx_fail(err, LX_ECONFIG, "%.100s: more than %d arguments without a flag", word,
                       LX_RUN_WORDS);
    words->word[words->n++] = word;
    return LX_OK;
}

lx_status lx_run_parse_words(lx_run *run, int argc, char **argv, const lx_run_flag *flags,
                             size_t n_flags, lx_run_words *words, lx_err *err)
{
    memset(run, 0, sizeof *run);
    run->start_s = lx_now_s();
    run->device = "cpu";
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            print_help(flags, n_flags, words);
            exit(EXIT_SUCCESS); /* nothing has been acquired yet: the one exit outside of main */
        }
        lx_status status = words && argv[i][0] != '-'
                               ? add_word(words, argv[i], err)
                               : parse_one(run, argc, argv, &i, flags, n_flags, err);
        if (status != LX_OK)
            return status;
    }
    run->has_bar = isatty(STDERR_FILENO);
    run->progress = (lx_progress){.step = step, .self = run};
    lx_catch_interrupt();
    return LX_OK;
}

lx_status lx_run_parse(lx_run *run, int argc, char **argv, const lx_run_flag *flags, size_t n_flags,
                       lx_err *err)
{
    return lx_run_parse_words(run, argc, argv, flags, n_flags, NULL, err);
}

lx_status lx_run_count(const char *flag, const char *text, int64_t low, int64_t high, int64_t *out,
                       lx_err *err)
{
    if (text && (!lx_parse_i64(text, out) || *out < low || *out > high))
        return lx_fail(err, LX_ECONFIG, "--%s %.40s: expected %" PRId64 " to %" PRId64, flag, text,
                       low, high);
    return LX_OK;
}

lx_status lx_run_check_output(const lx_run *run, lx_err *err)
{
    if (!run->output)
        return LX_OK;
    lx_status status = lx_safetensors_check(run->output, err);
    return status == LX_OK ? LX_OK : lx_wrap(err, "--output");
}

void lx_run_find_weights(lx_run *run, const char *part)
{
    _Static_assert(sizeof run->found == LX_PATH_MAX, "a path fits");
    if (run->weights && lx_model_part(run->found, run->weights, part))
        run->weights = run->found;
}

/* --- outputs --------------------------------------------------------------------------------- */

bool lx_run_wants(const lx_run *run, const char *name)
{
    for (int i = 0; run && i < run->n_dumps; i++)
        if (!strcmp(run->dump_names[i], name))
            return true;
    return false;
}

static bool has_output(const lx_run *run, const char *name)
{
    for (int i = 0; i < run->n_out; i++)
        if (!strcmp(run->out_names[i], name))
            return true;
    return false;
}

lx_status lx_run_reserve(lx_run *run, const char *name, lx_dtype dtype, const lx_shape *shape,
                         void **out, lx_err *err)
{
    *out = NULL;
    if (has_output(run, name))
        return LX_OK;
    uint64_t bytes;
    lx_status status = lx_shape_bytes(shape, dtype, NULL, &bytes, err);
    if (status != LX_OK)
        return lx_wrap(err, "output %s", name);
    if ((size_t)run->n_out == sizeof run->out / sizeof *run->out ||
        strlen(name) >= sizeof run->out_names[0])
        return lx_fail(err, LX_EJOB, "output %.200s: too many outputs, or its name is too long",
                       name);
    void *data = calloc(bytes ? (size_t)bytes : 1, 1);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "output %s: no memory for %" PRIu64 " bytes", name, bytes);
    char *kept = run->out_names[run->n_out];
    snprintf(kept, sizeof run->out_names[0], "%s", name);
    run->out[run->n_out++] =
        (lx_named_tensor){.name = kept, .tensor = {.dtype = dtype, .shape = *shape, .data = data}};
    *out = data;
    return LX_OK;
}

lx_status lx_run_add(lx_run *run, const char *name, lx_dtype dtype, const lx_shape *shape,
                     const void *data, lx_err *err)
{
    void *copy;
    uint64_t bytes;
    if (!run)
        return LX_OK;
    lx_status status = lx_run_reserve(run, name, dtype, shape, &copy, err);
    if (status == LX_OK)
        status = lx_shape_bytes(shape, dtype, NULL, &bytes, err);
    if (status == LX_OK && copy)
        memcpy(copy, data, (size_t)bytes);
    return status;
}

lx_status lx_run_dump(lx_run *run, const char *name, const float *data, int64_t rows, int64_t cols,
                      int64_t stride, lx_err *err)
{
    if (!lx_run_wants(run, name) || has_output(run, name))
        return LX_OK;
    lx_shape shape = LX_SHAPE(rows, cols);
    if (stride == cols)
        return lx_run_add(run, name, LX_DTYPE_F32, &shape, data, err);
    uint64_t bytes;
    lx_status status = lx_shape_bytes(&shape, LX_DTYPE_F32, NULL, &bytes, err);
    if (status != LX_OK)
        return lx_wrap(err, "dump %s", name);
    float *packed = malloc(bytes ? (size_t)bytes : 1);
    if (!packed)
        return lx_fail(err, LX_EAGAIN, "dump %s: no memory for %" PRIu64 " bytes", name, bytes);
    for (int64_t r = 0; r < rows; r++)
        memcpy(packed + r * cols, data + r * stride, (size_t)cols * sizeof *packed);
    status = lx_run_add(run, name, LX_DTYPE_F32, &shape, packed, err);
    free(packed);
    return status;
}

void lx_run_know(lx_run *run, const char *name)
{
    for (int i = 0; run && i < run->n_dumps; i++)
        run->is_known[i] |= !strcmp(run->dump_names[i], name);
}

static lx_status no_such_layer(const char *name, const char *stage, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG, "--dump %s: no layer of the %s makes a tensor of that name",
                   name, stage);
}

lx_status lx_run_check_dumps(const lx_run *run, const char *stage, lx_err *err)
{
    for (int i = 0; i < run->n_dumps; i++)
        if (!run->is_known[i])
            return no_such_layer(run->dump_names[i], stage, err);
    return LX_OK;
}

lx_status lx_run_finish(lx_run *run, const char *stage, lx_err *err)
{
    for (int i = 0; i < run->n_dumps; i++)
        if (!has_output(run, run->dump_names[i]))
            return no_such_layer(run->dump_names[i], stage, err);
    double total_s = lx_now_s() - run->start_s;
    if (run->output && run->n_out) {
        lx_status status = lx_safetensors_write(run->output, run->out, (size_t)run->n_out, err);
        if (status != LX_OK)
            return status;
    }
    if (run->json)
        printf("{\"stage\": \"%s\", \"load_s\": %.6f, \"compute_s\": %.6f, \"total_s\": %.6f, "
               "\"peak_bytes\": %" PRIu64 ", \"outputs\": %d}\n",
               stage, run->load_s, total_s - run->load_s, total_s, lx_peak_bytes(), run->n_out);
    return LX_OK;
}

void lx_run_close(lx_run *run)
{
    for (int i = 0; i < run->n_out; i++)
        free(run->out[i].tensor.data);
    run->n_out = 0;
}

/* --- inputs ---------------------------------------------------------------------------------- */

static bool wants_only(const char *name, void *self)
{
    return !strcmp(name, self);
}

/* One tensor of --input; LX_ECONFIG if it is not there. The caller closes *weights. */
static lx_status open_input(const lx_run *run, const char *name, lx_weights **weights,
                            lx_weight *out, lx_err *err)
{
    if (!run->input)
        return lx_fail(err, LX_ECONFIG, "tensor %s is needed: give --input FILE", name);
    lx_weights_options options = {.wants = wants_only, .self = (void *)name};
    lx_status status = lx_weights_open(weights, run->input, &options, err);
    if (status == LX_OK && !lx_weights_find(*weights, name, out)) {
        lx_weights_close(weights);
        status = lx_fail(err, LX_ECONFIG, "%s: no tensor %s in this file", run->input, name);
    }
    return status;
}

/* How n elements become ones of 4 bytes. */
typedef lx_status (*convert_fn)(const lx_run *run, const lx_weight *w, void *out, uint64_t n,
                                lx_err *err);

/* One tensor of --input in memory of its own. */
static lx_status read_as(const lx_run *run, const char *name, convert_fn convert, lx_shape *shape,
                         void **out, lx_err *err)
{
    lx_weights *weights = NULL;
    lx_weight w;
    void *data = NULL;
    uint64_t n;
    lx_status status = open_input(run, name, &weights, &w, err);
    if (status != LX_OK)
        return status;
    status = lx_shape_bytes(&w.shape, w.dtype, &n, NULL, err);
    if (status != LX_OK)
        status = lx_wrap(err, "%s: %s", run->input, w.name);
    else if (!(data = malloc(n ? (size_t)n * 4 : 4)))
        status = lx_fail(err, LX_EAGAIN, "%s: %s: no memory for %" PRIu64 " elements", run->input,
                         w.name, n);
    if (status == LX_OK)
        status = convert(run, &w, data, n, err);
    if (status == LX_OK) {
        *shape = w.shape;
        *out = data;
    } else {
        free(data);
    }
    lx_weights_close(&weights);
    return status;
}

static lx_status widen_to_f32(const lx_run *run, const lx_weight *w, void *out, uint64_t n,
                              lx_err *err)
{
    if (lx_widen_to_f32(out, w->data, w->dtype, (size_t)n))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: %s is %s, a float type is expected", run->input, w->name,
                   lx_dtype_name(w->dtype));
}

lx_status lx_run_read_f32(const lx_run *run, const char *name, lx_shape *shape, float **out,
                          lx_err *err)
{
    void *data = NULL;
    lx_status status = read_as(run, name, widen_to_f32, shape, &data, err);
    if (status == LX_OK)
        *out = data;
    return status;
}

static lx_status narrow_to_i32(const lx_run *run, const lx_weight *w, void *data, uint64_t n,
                               lx_err *err)
{
    int32_t *out = data;
    if (w->dtype == LX_DTYPE_I32) {
        memcpy(out, w->data, (size_t)n * sizeof *out);
        return LX_OK;
    }
    if (w->dtype != LX_DTYPE_I64)
        return lx_fail(err, LX_ECONFIG, "%s: %s is %s, I32 or I64 is expected", run->input, w->name,
                       lx_dtype_name(w->dtype));
    const int64_t *in = w->data;
    for (uint64_t i = 0; i < n; i++) {
        if (in[i] < INT32_MIN || in[i] > INT32_MAX)
            return lx_fail(err, LX_ECONFIG,
                           "%s: %s[%" PRIu64 "] is %" PRId64 ", which is out of range", run->input,
                           w->name, i, in[i]);
        out[i] = (int32_t)in[i];
    }
    return LX_OK;
}

lx_status lx_run_read_i32(const lx_run *run, const char *name, lx_shape *shape, int32_t **out,
                          lx_err *err)
{
    void *data = NULL;
    lx_status status = read_as(run, name, narrow_to_i32, shape, &data, err);
    if (status == LX_OK)
        *out = data;
    return status;
}

bool lx_run_has_input(const lx_run *run, const char *name)
{
    lx_weights *weights = NULL;
    lx_weight w;
    if (!run->input || open_input(run, name, &weights, &w, NULL) != LX_OK)
        return false;
    lx_weights_close(&weights);
    return true;
}
