/*
 * json_walk.c - the members of a JSON object, one at a time
 * SPDX-License-Identifier: Apache-2.0
 *
 * The outer object is walked here; what is inside a value is parsed by jansson when it is needed.
 * So memory stays bounded by one tensor's entry, and duplicate keys are the caller's to find.
 */
#include <jansson.h>
#include <string.h>

#include "weights_internal.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(lx_json_walk *walk)
{
    while (walk->at < walk->end && is_space(*walk->at))
        walk->at++;
}

/* at stands on the opening quote; leaves it behind the closing one. */
static bool skip_string(lx_json_walk *walk)
{
    for (walk->at++; walk->at < walk->end; walk->at++) {
        if (*walk->at == '\\')
            walk->at++;
        else if (*walk->at == '"') {
            walk->at++;
            return true;
        }
    }
    walk->at = walk->end;
    return false;
}

/* Any value: brackets are counted, not matched by kind; jansson sees to that. */
static const char *skip_value(lx_json_walk *walk)
{
    int depth = 1;
    const char *start = walk->at;
    while (walk->at < walk->end) {
        char c = *walk->at;
        if (depth == 1 && (c == ',' || c == '}' || c == ']' || (is_space(c) && walk->at > start)))
            break;
        if (c == '"') {
            if (!skip_string(walk))
                return "a string is not closed";
            if (depth == 1)
                break;
            continue;
        }
        walk->at++;
        if (c == '{' || c == '[') {
            if (++depth > walk->max_depth)
                return "nested too deep";
        } else if (c == '}' || c == ']') {
            if (--depth == 1)
                break;
        }
    }
    if (depth != 1)
        return "an object or array is not closed";
    return walk->at == start ? "a value is missing" : NULL;
}

static bool fail(const char **bad, const char *what)
{
    *bad = what;
    return false;
}

bool lx_json_next(lx_json_walk *walk, lx_json_slice *key, lx_json_slice *value, const char **bad)
{
    *bad = NULL;
    skip_space(walk);
    bool is_first = !walk->is_started;
    if (is_first) {
        if (walk->at == walk->end || *walk->at != '{')
            return fail(bad, "not a JSON object");
        walk->is_started = true;
        walk->at++;
        skip_space(walk);
    }
    if (walk->at == walk->end)
        return fail(bad, "the object is not closed");
    if (*walk->at == '}') {
        walk->at++;
        return false;
    }
    if (!is_first) {
        if (*walk->at != ',')
            return fail(bad, "',' or '}' expected");
        walk->at++;
        skip_space(walk);
    }
    if (walk->at == walk->end || *walk->at != '"')
        return fail(bad, "a key in quotes expected");
    key->text = walk->at;
    if (!skip_string(walk))
        return fail(bad, "a key is not closed");
    key->bytes = (size_t)(walk->at - key->text);
    skip_space(walk);
    if (walk->at == walk->end || *walk->at != ':')
        return fail(bad, "':' expected");
    walk->at++;
    skip_space(walk);
    value->text = walk->at;
    if ((*bad = skip_value(walk)))
        return false;
    value->bytes = (size_t)(walk->at - value->text);
    return true;
}

bool lx_json_string(lx_json_slice slice, char *out, size_t room)
{
    json_error_t ignored;
    /* An escaped byte takes at most six characters, so longer text cannot fit. */
    if (slice.bytes > 6 * room + 2)
        return false;
    json_t *value = json_loadb(slice.text, slice.bytes, JSON_DECODE_ANY, &ignored);
    bool ok = value && json_is_string(value) && json_string_length(value) < room;
    if (ok)
        memcpy(out, json_string_value(value), json_string_length(value) + 1);
    json_decref(value);
    return ok;
}
