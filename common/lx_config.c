/*
 * lx_config.c - from YAML events to one validated struct
 * SPDX-License-Identifier: Apache-2.0
 *
 * The parser's events are consumed as they come: a section is entered only if its key is known, so
 * nesting is bounded by the table and no tree of hostile shape is ever built.
 */
#include "lx_config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "lx_config_keys.h"

typedef struct loader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; owned, freed by the next take() */
    bool has_event;
    lx_config *config;
    const char *path;                 /* as the user wrote it */
    int key_line[LX_CONFIG_KEYS_MAX]; /* where each key was given, 0 = not */
    lx_err *err;
} loader;

#define FAIL(l, line, format, ...)                                                                 \
    lx_fail((l)->err, LX_ECONFIG, "%s:%d: " format, (l)->path, (line), __VA_ARGS__)

/* Puts "file:line: key: " before a refusal of lx_config_set. */
static lx_status blame(loader *l, int line, const char *key)
{
    return lx_wrap(l->err, "%s:%d: %s", l->path, line, key);
}

/* --- events ----------------------------------------------------------------------------------- */

static int line_of(const loader *l)
{
    return (int)l->event.start_mark.line + 1;
}

static const char *scalar(const loader *l)
{
    return (const char *)l->event.data.scalar.value;
}

static bool is_quoted(const loader *l)
{
    return l->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

static bool is_null(const loader *l)
{
    const char *text = scalar(l);
    return !is_quoted(l) && (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static void drop(loader *l)
{
    if (l->has_event)
        yaml_event_delete(&l->event);
    l->has_event = false;
}

/* Anchors, tags and aliases are refused: nothing in a config needs them, and each is a way to say
 * something else than what stands in the line. */
static lx_status check_event(loader *l)
{
    const yaml_event_t *e = &l->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return FAIL(l, line_of(l), "*%.64s: aliases are not accepted; repeat the value",
                    (const char *)e->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        if (strlen(scalar(l)) != e->data.scalar.length)
            return FAIL(l, line_of(l), "%s", "a value contains a NUL character");
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor)
        return FAIL(l, line_of(l), "&%.64s: anchors are not accepted", (const char *)anchor);
    if (tag)
        return FAIL(l, line_of(l), "%.64s: tags are not accepted", (const char *)tag);
    return LX_OK;
}

static lx_status take(loader *l)
{
    drop(l);
    if (!yaml_parser_parse(&l->parser, &l->event)) {
        size_t line = l->parser.problem_mark.line;
        const char *context = l->parser.context ? l->parser.context : "";
        return FAIL(l, (int)line + 1, "not YAML: %s%s%s", context, *context ? ", " : "",
                    l->parser.problem ? l->parser.problem : "out of memory");
    }
    l->has_event = true;
    return check_event(l);
}

static const char *event_words(yaml_event_type_t type)
{
    switch (type) {
    case YAML_SCALAR_EVENT:
        return "a single value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a mapping";
    default:
        return "nothing";
    }
}

/* Take the next event, which must be of this type. */
static lx_status expect(loader *l, yaml_event_type_t type, const char *key, const char *accepted)
{
    if (take(l) != LX_OK)
        return LX_ECONFIG;
    if (l->event.type == type)
        return LX_OK;
    return FAIL(l, line_of(l), "%s: is %s; accepted: %s", key, event_words(l->event.type),
                accepted);
}

/* The next key of a mapping into name; *end at the end of the mapping. */
static lx_status take_key(loader *l, const char *section, char *name, size_t name_bytes, bool *end)
{
    if (take(l) != LX_OK)
        return LX_ECONFIG;
    *end = l->event.type == YAML_MAPPING_END_EVENT;
    if (*end)
        return LX_OK;
    if (l->event.type != YAML_SCALAR_EVENT)
        return FAIL(l, line_of(l), "%s: a key is %s; accepted: a word", *section ? section : "top",
                    event_words(l->event.type));
    lx_config_show(scalar(l), name, name_bytes);
    return LX_OK;
}

/* --- stages ----------------------------------------------------------------------------------- */

/* Keys of a replica; a stage has them as well, for all of its replicas, and "replicas" itself. */
typedef enum replica_word {
    WORD_DEVICE,
    WORD_THREADS,
    WORD_RESIDENCY,
    WORD_ATTENTION,
    WORD_ACCUMULATE,
    WORD_REPLICAS,
    WORDS
} replica_word;

static const char *const words[WORDS] = {"device",    "threads",    "residency",
                                         "attention", "accumulate", "replicas"};

/* Only some stages have weights by layers; one has long attention, two have products in F16. */
static bool has_word(int kind, replica_word which, bool is_stage)
{
    if (which == WORD_RESIDENCY)
        return kind == LX_STAGE_ENCODER || kind == LX_STAGE_DIT;
    if (which == WORD_ATTENTION)
        return kind == LX_STAGE_DIT;
    if (which == WORD_ACCUMULATE)
        return kind == LX_STAGE_DIT || kind == LX_STAGE_VAE;
    return which != WORD_REPLICAS || is_stage;
}

/* WORDS: not known here. */
static replica_word word_of(const char *name, int kind, bool is_stage)
{
    for (int i = 0; i < WORDS; i++)
        if (strcmp(name, words[i]) == 0)
            return has_word(kind, (replica_word)i, is_stage) ? (replica_word)i : WORDS;
    return WORDS;
}

/* The value of one of a replica's keys. */
static lx_status replica_key(loader *l, const char *section, replica_word which,
                             lx_replica_config *replica)
{
    static const char *const accepted[] = {
        "cpu or cuda:N", "a whole number", "auto, resident, partial, host or disk",
        "auto, int8-fp16, int8-fp8 or bf16", "auto, fp32 or fp16"};
    char key[160];
    snprintf(key, sizeof key, "%s.%s", section, words[which]);
    if (expect(l, YAML_SCALAR_EVENT, key, accepted[which]) != LX_OK)
        return LX_ECONFIG;
    int line = line_of(l);
    lx_status status;
    if (which == WORD_DEVICE)
        status = lx_config_set_device(replica->device, scalar(l), l->err);
    else if (which == WORD_THREADS)
        status = lx_config_set_int(&replica->threads, scalar(l), is_quoted(l), 0, 1024, l->err);
    else if (which == WORD_RESIDENCY)
        status = lx_config_set_residency(&replica->residency, scalar(l), l->err);
    else if (which == WORD_ATTENTION)
        status = lx_config_set_attention(&replica->attention, scalar(l), l->err);
    else
        status = lx_config_set_accumulate(&replica->accumulate, scalar(l), l->err);
    return status == LX_OK ? LX_OK : blame(l, line, key);
}

/* Lines of keys of a stage or of one replica seen so far; a second one is an error. */
typedef struct seen {
    int line[WORDS];
} seen;

static lx_status note_seen(loader *l, seen *lines, const char *section, replica_word which)
{
    int *first = &lines->line[which];
    if (*first)
        return FAIL(l, line_of(l), "%s.%s: given twice, first in line %d", section, words[which],
                    *first);
    *first = line_of(l);
    return LX_OK;
}

static lx_status unknown_stage_key(loader *l, const char *section, const char *name, int kind,
                                   bool is_stage)
{
    const char *known[WORDS];
    char list[128] = "";
    size_t n = 0;
    for (int i = 0; i < WORDS; i++)
        if (word_of(words[i], kind, is_stage) != WORDS) {
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", n ? ", " : "",
                     words[i]);
            known[n++] = words[i];
        }
    const char *near = lx_nearest(name, known, n);
    return FAIL(l, line_of(l), "%s.%s: unknown key; %s%s%sknown here: %s", section, name,
                near ? "did you mean " : "", near ? near : "", near ? "? " : "", list);
}

/* One {device: ..., threads: ...} of a list; the mapping's start was taken. */
static lx_status load_replica(loader *l, const char *section, int kind, lx_replica_config *replica)
{
    seen lines = {0};
    char name[96];
    for (bool end = false;;) {
        if (take_key(l, section, name, sizeof name, &end) != LX_OK)
            return LX_ECONFIG;
        if (end)
            return LX_OK;
        replica_word which = word_of(name, kind, false);
        if (which == WORDS)
            return unknown_stage_key(l, section, name, kind, false);
        if (note_seen(l, &lines, section, which) != LX_OK ||
            replica_key(l, section, which, replica) != LX_OK)
            return LX_ECONFIG;
    }
}

/* replicas: 2, or a list of mappings. The stage's own device and threads are their defaults. */
static lx_status load_replicas(loader *l, const char *section, int kind, lx_stage_config *stage)
{
    char key[160];
    snprintf(key, sizeof key, "%s.replicas", section);
    if (take(l) != LX_OK)
        return LX_ECONFIG;
    int line = line_of(l);
    if (l->event.type == YAML_SCALAR_EVENT) {
        if (lx_config_set_int(&stage->n_replicas, scalar(l), is_quoted(l), 1, LX_LIMIT_REPLICAS,
                              l->err) != LX_OK)
            return blame(l, line, key);
        return LX_OK;
    }
    if (l->event.type != YAML_SEQUENCE_START_EVENT)
        return FAIL(l, line, "%s: is %s; accepted: a number or a list of {device, threads}", key,
                    event_words(l->event.type));
    int n = 0;
    for (;; n++) {
        if (take(l) != LX_OK)
            return LX_ECONFIG;
        if (l->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (n == LX_LIMIT_REPLICAS)
            return FAIL(l, line_of(l), "%s: more than %d", key, LX_LIMIT_REPLICAS);
        if (l->event.type != YAML_MAPPING_START_EVENT)
            return FAIL(l, line_of(l), "%s[%d]: is %s; accepted: {device: cpu, threads: 8}", key, n,
                        event_words(l->event.type));
        char item[192];
        snprintf(item, sizeof item, "%s[%d]", key, n);
        if (load_replica(l, item, kind, &stage->replica[n]) != LX_OK)
            return LX_ECONFIG;
    }
    if (n == 0)
        return FAIL(l, line, "%s: the list is empty; a stage needs at least one replica", key);
    stage->n_replicas = n;
    return LX_OK;
}

static lx_status load_stage(loader *l, const lx_config_key *key)
{
    lx_stage_config stage = {.n_replicas = 1};
    lx_replica_config own = {.device = "cpu"};
    seen lines = {0};
    char name[96];
    bool is_list = false;
    for (bool end = false;;) {
        if (take_key(l, key->path, name, sizeof name, &end) != LX_OK)
            return LX_ECONFIG;
        if (end)
            break;
        replica_word which = word_of(name, key->number, true);
        if (which == WORDS)
            return unknown_stage_key(l, key->path, name, key->number, true);
        if (note_seen(l, &lines, key->path, which) != LX_OK)
            return LX_ECONFIG;
        if (which == WORD_REPLICAS) {
            if (load_replicas(l, key->path, key->number, &stage) != LX_OK)
                return LX_ECONFIG;
            is_list = l->event.type == YAML_SEQUENCE_END_EVENT;
        } else if (replica_key(l, key->path, which, &own) != LX_OK) {
            return LX_ECONFIG;
        }
    }
    for (int i = 0; is_list && i < WORD_REPLICAS; i++)
        if (lines.line[i])
            return FAIL(l, lines.line[WORD_REPLICAS],
                        "%s.replicas: a list, beside %s of the stage itself (line %d); put it into "
                        "each replica",
                        key->path, words[i], lines.line[i]);
    for (int i = 0; i < stage.n_replicas; i++) {
        if (!is_list)
            stage.replica[i] = own;
        else if (!stage.replica[i].device[0])
            snprintf(stage.replica[i].device, LX_LIMIT_WORD, "cpu");
    }
    l->config->stage[key->number] = stage;
    return LX_OK;
}

/* --- sections --------------------------------------------------------------------------------- */

static lx_status load_section(loader *l, const char *prefix);

/* A list of numbers; the sequence's start was taken. */
static lx_status load_steps(loader *l, const char *key)
{
    int32_t steps[LX_LIMIT_STEPS];
    int n = 0, line = line_of(l);
    for (;; n++) {
        if (take(l) != LX_OK)
            return LX_ECONFIG;
        if (l->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (l->event.type != YAML_SCALAR_EVENT || n == LX_LIMIT_STEPS)
            return FAIL(l, line_of(l), "%s: accepted: a list of up to %d numbers", key,
                        LX_LIMIT_STEPS);
        int item_line = line_of(l);
        if (lx_config_set_int(&steps[n], scalar(l), is_quoted(l), 1, 1000, l->err) != LX_OK)
            return blame(l, item_line, key);
    }
    if (lx_job_check_steps(steps, n, l->err) != LX_OK) {
        if (l->err)
            l->err->status = LX_ECONFIG;
        blame(l, line, key);
        return LX_ECONFIG;
    }
    memcpy(l->config->sampling.steps, steps, sizeof(int32_t) * (size_t)n);
    l->config->sampling.n_steps = n;
    return LX_OK;
}

static lx_status load_scalar(loader *l, const lx_config_key *key)
{
    int line = line_of(l);
    if (l->event.type != YAML_SCALAR_EVENT)
        return FAIL(l, line, "%s: is %s; accepted: a single value", key->path,
                    event_words(l->event.type));
    if (is_null(l))
        return FAIL(l, line, "%s: has no value; give one, or remove the line for the default",
                    key->path);
    if (lx_config_set(l->config, key, scalar(l), is_quoted(l), l->err) != LX_OK) {
        blame(l, line, key->path);
        return LX_ECONFIG;
    }
    return LX_OK;
}

/* memory.vram: {cuda:0: 10GiB, rtx3060: auto}; the mapping's start was taken. */
static lx_status load_vram(loader *l, const lx_config_key *key)
{
    lx_vram_config vram = {0};
    char device[96], path[192];
    for (bool end = false;;) {
        if (take_key(l, key->path, device, sizeof device, &end) != LX_OK)
            return LX_ECONFIG;
        if (end)
            break;
        int line = line_of(l);
        snprintf(path, sizeof path, "%s.%s", key->path, device);
        for (int i = 0; i < vram.n; i++)
            if (strcmp(vram.card[i].device, device) == 0)
                return FAIL(l, line, "%s: given twice", path);
        if (expect(l, YAML_SCALAR_EVENT, path, "an amount of memory, such as 10GiB") != LX_OK)
            return LX_ECONFIG;
        if (lx_config_set_vram(&vram, device, scalar(l), l->err) != LX_OK)
            return blame(l, line, path);
    }
    l->config->memory.vram = vram;
    return LX_OK;
}

static lx_status load_value(loader *l, const lx_config_key *key)
{
    if (take(l) != LX_OK)
        return LX_ECONFIG;
    yaml_event_type_t type = l->event.type;
    switch (key->type) {
    case LX_KEY_MODEL:
        return type == YAML_MAPPING_START_EVENT ? load_section(l, key->path) : load_scalar(l, key);
    case LX_KEY_STEPS:
        return type == YAML_SEQUENCE_START_EVENT ? load_steps(l, key->path) : load_scalar(l, key);
    case LX_KEY_VRAM:
        return type == YAML_MAPPING_START_EVENT ? load_vram(l, key) : load_scalar(l, key);
    case LX_KEY_SECTION:
    case LX_KEY_STAGE:
        /* A section whose lines are all commented out is an empty value. */
        if (type == YAML_SCALAR_EVENT && is_null(l))
            return LX_OK;
        if (type != YAML_MAPPING_START_EVENT)
            return FAIL(l, line_of(l), "%s: is %s; accepted: a mapping of keys", key->path,
                        event_words(type));
        return key->type == LX_KEY_STAGE ? load_stage(l, key) : load_section(l, key->path);
    default:
        return load_scalar(l, key);
    }
}

/* The keys of one mapping, whose start was taken. */
static lx_status load_section(loader *l, const char *prefix)
{
    char name[96], path[160], hint[768];
    for (bool end = false;;) {
        if (take_key(l, prefix, name, sizeof name, &end) != LX_OK)
            return LX_ECONFIG;
        if (end)
            return LX_OK;
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", name);
        /* A dot in the name itself must not reach into another section. */
        int i = strchr(name, '.') ? -1 : lx_config_find(path);
        if (i < 0) {
            lx_config_hint(prefix, name, hint, sizeof hint);
            return FAIL(l, line_of(l), "%s: unknown key; %s", path, hint);
        }
        if (l->key_line[i])
            return FAIL(l, line_of(l), "%s: given twice, first in line %d", path, l->key_line[i]);
        l->key_line[i] = line_of(l);
        if (load_value(l, &lx_config_keys[i]) != LX_OK)
            return LX_ECONFIG;
    }
}

static lx_status load_document(loader *l)
{
    if (expect(l, YAML_STREAM_START_EVENT, "config", "YAML") != LX_OK || take(l) != LX_OK)
        return LX_ECONFIG;
    if (l->event.type == YAML_STREAM_END_EVENT)
        return FAIL(l, 1, "%s", "the file is empty; at least `model: DIR` is needed");
    if (l->event.data.document_start.tag_directives.start !=
        l->event.data.document_start.tag_directives.end)
        return FAIL(l, line_of(l), "%s", "%TAG directives are not accepted");
    if (expect(l, YAML_MAPPING_START_EVENT, "config", "a mapping of keys, `model: DIR` at least") !=
            LX_OK ||
        load_section(l, "") != LX_OK ||
        expect(l, YAML_DOCUMENT_END_EVENT, "config", "the end") != LX_OK || take(l) != LX_OK)
        return LX_ECONFIG;
    if (l->event.type != YAML_STREAM_END_EVENT)
        return FAIL(l, line_of(l), "%s", "a second document begins; accepted: one");
    return LX_OK;
}

/* --- paths ------------------------------------------------------------------------------------ */

/* text under folder unless it is absolute; "~/" is the user's home. */
static lx_status resolve(char *text, const char *folder, lx_err *err)
{
    if (!*text || *text == '/')
        return LX_OK;
    const char *home = getenv("HOME"), *rest = text, *base = folder;
    if (strncmp(text, "~/", 2) == 0 && home && *home == '/') {
        base = home;
        rest = text + 2;
    }
    while (strncmp(rest, "./", 2) == 0)
        rest += 2;
    if (strcmp(rest, ".") == 0)
        rest = "";
    char full[2 * LX_LIMIT_PATH];
    int n = snprintf(full, sizeof full, "%s%s%s", base, *rest ? "/" : "", rest);
    if (n < 0 || n >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "%.80s...: longer than %d bytes", full, LX_LIMIT_PATH - 1);
    memcpy(text, full, (size_t)n + 1);
    return LX_OK;
}

/* Absolute path of the config: links in its folder are followed, the file's own name is kept (it
 * may be a link that is exchanged under a running system). */
static lx_status absolute_path(char out[LX_LIMIT_PATH], const char *path, lx_err *err)
{
    if (strlen(path) >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "%.80s...: path longer than %d bytes", path,
                       LX_LIMIT_PATH - 1);
    char folder[LX_LIMIT_PATH], real[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    else
        snprintf(folder, sizeof folder, ".");
    if (!realpath(folder, real))
        return lx_fail(err, LX_ECONFIG, "%s: its folder cannot be opened: %s", path,
                       strerror(errno));
    int n = snprintf(out, LX_LIMIT_PATH, "%s/%s", strcmp(real, "/") == 0 ? "" : real,
                     slash ? slash + 1 : path);
    if (n < 0 || n >= LX_LIMIT_PATH)
        return lx_fail(err, LX_ECONFIG, "%s: absolute path longer than %d bytes", path,
                       LX_LIMIT_PATH - 1);
    return LX_OK;
}

static lx_status resolve_paths(loader *l)
{
    lx_config *c = l->config;
    char folder[LX_LIMIT_PATH];
    snprintf(folder, sizeof folder, "%s", c->path);
    *strrchr(folder, '/') = 0; /* "" for the root: resolve() then writes "/name" */
    if (!c->output.dir[0])
        snprintf(c->output.dir, sizeof c->output.dir, "output");
    char *paths[] = {c->model.dir, c->model.dit,       c->model.text,
                     c->model.vae, c->model.tokenizer, c->output.dir,
                     c->state.dir, c->state.journal,   c->listen.keys};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (resolve(paths[i], folder, l->err) != LX_OK)
            return lx_wrap(l->err, "%s", l->path);
    lx_config_settle_state(c);
    return LX_OK;
}

/* --- what one key alone cannot tell ----------------------------------------------------------- */

static int line_or(const loader *l, const char *key, int otherwise)
{
    int i = lx_config_find(key);
    return i >= 0 && l->key_line[i] ? l->key_line[i] : otherwise;
}

/* Longest socket name in the state folder, and sun_path's size less its NUL (unix(7)). */
#define LONGEST_SOCKET "/clients.sock"
#define SUN_PATH_MAX   107

static lx_status check_frames(loader *l, const char *key, int32_t frames)
{
    if (lx_job_check_size(LX_SIZE_MULTIPLE, LX_SIZE_MULTIPLE, frames, l->err) == LX_OK)
        return LX_OK;
    if (l->err)
        l->err->status = LX_ECONFIG;
    blame(l, line_or(l, key, 1), key);
    return LX_ECONFIG;
}

/* Limits that are not given are the default clip itself: memory is planned for nothing more. */
static lx_status settle_limits(loader *l)
{
    lx_config *c = l->config;
    if (!line_or(l, "limits.size", 0)) {
        c->limits.width = c->defaults.width;
        c->limits.height = c->defaults.height;
    }
    if (!line_or(l, "limits.frames", 0))
        c->limits.frames = c->defaults.frames;
    if (!line_or(l, "limits.per_client", 0))
        c->limits.per_client = c->limits.queue;
    if (check_frames(l, "defaults.frames", c->defaults.frames) != LX_OK ||
        check_frames(l, "limits.frames", c->limits.frames) != LX_OK)
        return LX_ECONFIG;
    if (!lx_job_size_fits(c->defaults.width, c->defaults.height, c->limits.width, c->limits.height))
        return FAIL(l, line_or(l, "limits.size", 1),
                    "limits.size: %dx%d is smaller than defaults.size, %dx%d; set both",
                    c->limits.width, c->limits.height, c->defaults.width, c->defaults.height);
    if (c->defaults.frames > c->limits.frames)
        return FAIL(l, line_or(l, "limits.frames", 1),
                    "limits.frames: %d is smaller than defaults.frames, %d; set both",
                    c->limits.frames, c->defaults.frames);
    return LX_OK;
}

/* Nobody comes to listen on a network by a slip of one key. */
static lx_status check_listen(loader *l)
{
    const lx_config *c = l->config;
    bool is_any = c->listen.tcp[0] && lx_config_is_any(c->listen.tcp);
    if (c->listen.tcp[0] && !c->listen.keys[0])
        return FAIL(l, line_or(l, "listen.tcp", 1), "%s",
                    "listen.tcp: needs listen.keys, a folder that `lx2v keys DIR` makes: nobody "
                    "comes in by tcp without a key");
    if (is_any && !c->listen.allow_any)
        return FAIL(l, line_or(l, "listen.tcp", 1),
                    "listen.tcp: %s means every network of this machine; give the address of one, "
                    "or set listen.allow_any: true",
                    c->listen.tcp);
    return LX_OK;
}

static lx_status settle(loader *l)
{
    lx_config *c = l->config;
    bool all_four = c->model.dit[0] && c->model.text[0] && c->model.vae[0] && c->model.tokenizer[0];
    if (!c->model.dir[0] && !all_four)
        return FAIL(l, line_or(l, "model", 1), "%s",
                    "model: missing; give `model: DIR`, the folder with the checkpoint, or all of "
                    "model.dit, model.text, model.vae and model.tokenizer");
    if (settle_limits(l) != LX_OK || resolve_paths(l) != LX_OK || check_listen(l) != LX_OK)
        return LX_ECONFIG;
    size_t socket_bytes = strlen(c->state.dir) + sizeof LONGEST_SOCKET - 1;
    if (socket_bytes > SUN_PATH_MAX)
        return FAIL(l, line_or(l, "state.dir", 1),
                    "state.dir: %s%s has %zu bytes; a socket's path may have %d: choose a shorter "
                    "folder",
                    c->state.dir, LONGEST_SOCKET, socket_bytes, SUN_PATH_MAX);
    if (c->supervision.hang_s <= 3 * c->supervision.beat_s)
        return FAIL(l, line_or(l, "supervision.hang_s", line_or(l, "supervision.beat_s", 1)),
                    "supervision.hang_s: %g is not above three beats of %g s",
                    c->supervision.hang_s, c->supervision.beat_s);
    return LX_OK;
}

/* --- what the environment says ---------------------------------------------------------------- */

static lx_status replace(char out[LX_LIMIT_PATH], const char *variable, size_t most, lx_err *err)
{
    const char *path = getenv(variable);
    if (!path || !*path)
        return LX_OK;
    if (*path != '/' || strlen(path) > most)
        return lx_fail(err, LX_ECONFIG,
                       "%s=%.200s: accepted: an absolute path of at most %zu bytes", variable, path,
                       most);
    snprintf(out, LX_LIMIT_PATH, "%s", path);
    return LX_OK;
}

/* A launcher and its stages share one environment, so they agree. */
static lx_status apply_environment(lx_config *c, lx_err *err)
{
    size_t most = SUN_PATH_MAX + 1 - sizeof LONGEST_SOCKET;
    lx_status status = replace(c->state.dir, "LX2V_STATE_DIR", most, err);
    if (status == LX_OK) /* a second pipeline has a journal of its own */
        status = replace(c->state.journal, "LX2V_STATE_DIR", most, err);
    return status == LX_OK ? replace(c->output.dir, "LX2V_OUTPUT_DIR", LX_LIMIT_PATH - 1, err)
                           : status;
}

/* --- entry points ----------------------------------------------------------------------------- */

lx_status lx_config_parse(lx_config *out, const char *text, size_t bytes, const char *path,
                          lx_err *err)
{
    if (bytes > LX_LIMIT_CONFIG)
        return lx_fail(err, LX_ECONFIG, "%s: %zu bytes; a config has at most %d", path, bytes,
                       LX_LIMIT_CONFIG);
    lx_err own = {0}; /* the loader reads messages back, so it always needs somewhere to write */
    loader l = {.config = malloc(sizeof *l.config), .path = path, .err = err ? err : &own};
    lx_status status = LX_OK;
    if (!l.config || !yaml_parser_initialize(&l.parser)) {
        free(l.config);
        return lx_fail(err, LX_EAGAIN, "%s: no memory to read it", path);
    }
    lx_config_defaults(l.config);
    yaml_parser_set_encoding(&l.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, bytes);
    status = absolute_path(l.config->path, path, l.err);
    if (status == LX_OK)
        status = load_document(&l);
    if (status == LX_OK)
        status = settle(&l);
    if (status == LX_OK)
        *out = *l.config;
    drop(&l);
    yaml_parser_delete(&l.parser);
    free(l.config);
    return status;
}

/* A group of one: many systems give each user a group of the same name and let it write. */
static bool is_private_group(gid_t gid, uid_t uid)
{
    char text[4096];
    struct passwd user, *found_user = NULL;
    if (getpwuid_r(uid, &user, text, sizeof text, &found_user) != 0 || !found_user ||
        user.pw_gid != gid)
        return false;
    char user_name[256];
    snprintf(user_name, sizeof user_name, "%s", user.pw_name);
    struct group group, *found_group = NULL;
    return getgrgid_r(gid, &group, text, sizeof text, &found_group) == 0 && found_group &&
           strcmp(group.gr_name, user_name) == 0 && (!group.gr_mem || !group.gr_mem[0]);
}

/* Who may write the config may choose which files are read and written in our name. */
static lx_status check_owner(const char *path, const struct stat *st, lx_err *err)
{
    if (!S_ISREG(st->st_mode))
        return lx_fail(err, LX_ECONFIG, "%s: not a regular file", path);
    if (st->st_size > LX_LIMIT_CONFIG)
        return lx_fail(err, LX_ECONFIG, "%s: %lld bytes; a config has at most %d", path,
                       (long long)st->st_size, LX_LIMIT_CONFIG);
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return lx_fail(err, LX_ECONFIG,
                       "%s: belongs to user %u, and this is user %u; copy it or change its owner",
                       path, (unsigned)st->st_uid, (unsigned)geteuid());
    bool by_group = (st->st_mode & S_IWGRP) && !is_private_group(st->st_gid, st->st_uid);
    if ((st->st_mode & S_IWOTH) || by_group)
        return lx_fail(err, LX_ECONFIG,
                       "%s: mode %03o, others may write it; run: chmod go-w \"%s\"", path,
                       (unsigned)st->st_mode & 0777, path);
    return LX_OK;
}

/* Bytes read from fd, -1 with errno; a short file is no error. */
static ssize_t read_all(int fd, char *text, size_t room)
{
    size_t n = 0;
    while (n < room) {
        ssize_t got = read(fd, text + n, room - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

lx_status lx_config_load(lx_config *out, const char *path, lx_err *err)
{
    lx_status status = LX_ECONFIG;
    char *text = NULL;
    struct stat st;
    /* NONBLOCK: a pipe in the file's place must not stop us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        lx_fail(err, LX_ECONFIG, "%s: cannot be read: %s", path, strerror(errno));
        goto out;
    }
    status = check_owner(path, &st, err);
    if (status != LX_OK)
        goto out;
    size_t room = LX_LIMIT_CONFIG + 1; /* one more than allowed, to notice growth after fstat */
    text = malloc(room);
    if (!text) {
        status = lx_fail(err, LX_EAGAIN, "%s: no memory to read it", path);
        goto out;
    }
    ssize_t n = read_all(fd, text, room);
    if (n < 0)
        status = lx_fail(err, LX_ECONFIG, "%s: cannot be read: %s", path, strerror(errno));
    else
        status = lx_config_parse(out, text, (size_t)n, path, err);
    if (status == LX_OK)
        status = apply_environment(out, err);
out:
    free(text);
    if (fd >= 0)
        close(fd);
    return status;
}
