/*
 * lx_plan.c - a plan's question and answer as text
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_plan.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "lx_config.h"

/* --- the question ---------------------------------------------------------------------------- */

static lx_status parse_number(const char *flag, const char *text, int64_t most, int64_t *out,
                              lx_err *err)
{
    if (!lx_parse_i64(text, out) || *out < 0 || *out > most)
        return lx_fail(err, LX_ECONFIG, "%s %.40s: expected 0 to %" PRId64, flag, text, most);
    return LX_OK;
}

/* "KEY=NUMBER" up to the next semicolon. */
static bool kind_number(const char *text, const char *key, char *value, size_t bytes)
{
    const char *at = strstr(text, key);
    if (!at)
        return false;
    at += strlen(key);
    snprintf(value, bytes, "%.*s", (int)strcspn(at, ";"), at);
    return true;
}

static lx_status parse_kind(lx_plan_question *q, const char *text, lx_err *err)
{
    const struct {
        const char *key;
        int64_t most;
    } keys[] = {{";sm=", 1024}, {";shared=", 1 << 24}, {";vram=", (int64_t)1 << 50}};
    int64_t values[3];
    char value[32];
    int major, minor;
    char end;
    if (!kind_number(text, ";cc=", value, sizeof value) ||
        sscanf(value, "%d.%d%c", &major, &minor, &end) != 2 || major < 1 || major > 99 ||
        minor < 0 || minor > 9)
        return lx_fail(err, LX_ECONFIG,
                       "--kind %.100s: expected NAME;cc=8.6;sm=28;shared=...;vram=...", text);
    for (size_t i = 0; i < 3; i++) {
        if (!kind_number(text, keys[i].key, value, sizeof value))
            return lx_fail(err, LX_ECONFIG, "--kind %.100s: %s is missing", text, keys[i].key + 1);
        lx_status status = parse_number("--kind", value, keys[i].most, &values[i], err);
        if (status != LX_OK)
            return status;
    }
    snprintf(q->kind.name, sizeof q->kind.name, "%.*s", (int)strcspn(text, ";"), text);
    q->kind.major = major;
    q->kind.minor = minor;
    q->kind.n_sm = (int)values[0];
    q->kind.shared_bytes = (int)values[1];
    q->kind.total_bytes = (uint64_t)values[2];
    q->is_card = true;
    return LX_OK;
}

static lx_status take_flag(lx_plan_question *q, const char *flag, const char *value, lx_err *err)
{
    int64_t number = 0;
    lx_status status = LX_OK;
    if (strcmp(flag, "--config") == 0) {
        q->config = value;
    } else if (strcmp(flag, "--kind") == 0) {
        status = parse_kind(q, value, err);
    } else if (strcmp(flag, "--replica") == 0) {
        status = parse_number(flag, value, 1023, &number, err);
        q->replica = (int)number;
    } else if (strcmp(flag, "--vram") == 0) {
        status = parse_number(flag, value, (int64_t)1 << 50, &number, err);
        q->vram = (uint64_t)number;
    } else if (strcmp(flag, "--ram") == 0) {
        status = parse_number(flag, value, (int64_t)1 << 50, &number, err);
        q->ram = (uint64_t)number;
    } else if (strcmp(flag, "--frames") == 0) {
        status = parse_number(flag, value, LX_LIMIT_FRAMES, &number, err);
        q->frames = (int32_t)number;
    } else if (strcmp(flag, "--residency") == 0) {
        q->is_residency_auto = strcmp(value, "auto") == 0;
        if (!q->is_residency_auto)
            status = lx_fail(err, LX_ECONFIG, "--residency %.40s: only auto", value);
    } else if (strcmp(flag, "--size") == 0) {
        status = lx_parse_size(value, &q->width, &q->height, err);
    } else {
        status = lx_fail(err, LX_ECONFIG,
                         "plan: unknown flag %.40s; accepted are --config, --replica, --kind, "
                         "--vram, --ram, --size, --frames, --residency",
                         flag);
    }
    return status;
}

lx_status lx_plan_ask(lx_plan_question *out, int argc, char **argv, lx_err *err)
{
    lx_plan_question q = {0};
    for (int i = 0; i < argc; i += 2) {
        if (i + 1 >= argc)
            return lx_fail(err, LX_ECONFIG, "plan: %.40s needs a value", argv[i]);
        lx_status status = take_flag(&q, argv[i], argv[i + 1], err);
        if (status != LX_OK)
            return status;
    }
    if (!q.config)
        return lx_fail(err, LX_ECONFIG, "plan: --config FILE is needed");
    bool is_size = q.width > 0, is_long = q.frames > 0;
    lx_status status = LX_OK;
    if (is_size || is_long)
        status =
            lx_job_check_size(is_size ? q.width : LX_SIZE_MULTIPLE,
                              is_size ? q.height : LX_SIZE_MULTIPLE, is_long ? q.frames : 1, err);
    if (status == LX_OK)
        *out = q;
    else if (err)
        err->status = LX_ECONFIG;
    return status == LX_OK ? LX_OK : LX_ECONFIG;
}

void lx_plan_apply(const lx_plan_question *q, lx_config *config)
{
    for (int kind = 0; kind < LX_STAGE_COUNT && q->is_residency_auto; kind++)
        for (int i = 0; i < LX_LIMIT_REPLICAS; i++)
            config->stage[kind].replica[i].residency = LX_RESIDENCY_AUTO;
    if (q->frames)
        config->limits.frames = q->frames;
    if (q->width) {
        config->limits.width = q->width;
        config->limits.height = q->height;
    }
}

void lx_plan_kind_text(const lx_plan_question *q, char *text, size_t bytes)
{
    snprintf(text, bytes, "%.80s;cc=%d.%d;sm=%d;shared=%d;vram=%" PRIu64, q->kind.name,
             q->kind.major, q->kind.minor, q->kind.n_sm, q->kind.shared_bytes, q->kind.total_bytes);
}

/* --- the answer ------------------------------------------------------------------------------ */

/* The numbers of an answer, by the names they have in JSON. */
#define NUMBERS(F)                                                                                 \
    F(weights)                                                                                     \
    F(slots)                                                                                       \
    F(activations)                                                                                 \
    F(context)                                                                                     \
    F(device)                                                                                      \
    F(least)                                                                                       \
    F(host_weights)                                                                                \
    F(host)                                                                                        \
    F(pinned)                                                                                      \
    F(shared)                                                                                      \
    F(stream_bytes)                                                                                \
    F(disk_bytes)                                                                                  \
    F(ops8)                                                                                        \
    F(ops16)                                                                                       \
    F(attention8)                                                                                  \
    F(attention16)                                                                                 \
    F(short16)                                                                                     \
    F(row_bytes)

static json_t *choices_of(const lx_plan_need *need)
{
    json_t *list = json_array();
    for (int i = 0; i < need->n_choices && list; i++) {
        const lx_plan_choice *c = &need->choice[i];
        json_t *one =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "what", c->what, "device",
                      (json_int_t)c->device, "host", (json_int_t)c->host, "stream",
                      (json_int_t)c->stream, "disk", (json_int_t)c->disk, "fits", (int)c->fits);
        if (!one || json_array_append_new(list, one) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

lx_status lx_plan_say(const lx_plan_need *need, FILE *out, lx_err *err)
{
    json_t *root =
        json_pack("{s:s, s:s, s:b, s:s, s:o}", "stage", need->stage, "how", need->how, "fits",
                  (int)need->fits, "advice", need->advice, "choices", choices_of(need));
    int failed = root ? 0 : 1;
#define PUT(name)                                                                                  \
    if (!failed)                                                                                   \
        failed = json_object_set_new(root, #name, json_integer((json_int_t)need->name));
    NUMBERS(PUT)
#undef PUT
    if (!failed)
        failed =
            json_dumpf(root, out, JSON_COMPACT) != 0 || fputc('\n', out) == EOF || fflush(out) != 0;
    json_decref(root);
    return failed ? lx_fail(err, LX_EJOB, "the plan cannot be written") : LX_OK;
}

static bool hear_number(const json_t *root, const char *name, uint64_t *out)
{
    const json_t *value = json_object_get(root, name);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static bool hear_text(const json_t *root, const char *name, char *out, size_t bytes)
{
    const json_t *value = json_object_get(root, name);
    if (!json_is_string(value) || json_string_length(value) >= bytes)
        return false;
    snprintf(out, bytes, "%s", json_string_value(value));
    return true;
}

static bool hear_choices(const json_t *list, lx_plan_need *out)
{
    if (!json_is_array(list) || json_array_size(list) > LX_PLAN_CHOICES)
        return false;
    out->n_choices = (int)json_array_size(list);
    for (int i = 0; i < out->n_choices; i++) {
        const json_t *one = json_array_get(list, (size_t)i);
        lx_plan_choice *c = &out->choice[i];
        const json_t *fits = json_object_get(one, "fits");
        if (!hear_text(one, "what", c->what, sizeof c->what) ||
            !hear_number(one, "device", &c->device) || !hear_number(one, "host", &c->host) ||
            !hear_number(one, "stream", &c->stream) || !hear_number(one, "disk", &c->disk) ||
            !json_is_boolean(fits))
            return false;
        c->fits = json_is_true(fits);
    }
    return true;
}

lx_status lx_plan_hear(lx_plan_need *out, const char *text, size_t bytes, lx_err *err)
{
    lx_plan_need need = {0};
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return lx_fail(err, LX_EJOB, "a stage's plan is not JSON: %s", error.text);
    const char *missing = NULL;
    const json_t *fits = json_object_get(root, "fits");
    if (!hear_text(root, "stage", need.stage, sizeof need.stage))
        missing = "stage";
    else if (!hear_text(root, "how", need.how, sizeof need.how))
        missing = "how";
    else if (!hear_text(root, "advice", need.advice, sizeof need.advice))
        missing = "advice";
    else if (!json_is_boolean(fits))
        missing = "fits";
    else if (!hear_choices(json_object_get(root, "choices"), &need))
        missing = "choices";
#define HEAR(name)                                                                                 \
    if (!missing && !hear_number(root, #name, &need.name))                                         \
        missing = #name;
    NUMBERS(HEAR)
#undef HEAR
    need.fits = json_is_true(fits);
    json_decref(root);
    if (missing)
        return lx_fail(err, LX_EJOB, "a stage's plan has no usable \"%s\"", missing);
    *out = need;
    return LX_OK;
}
