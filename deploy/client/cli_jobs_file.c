/*
 * cli_jobs_file.c - many jobs from a file, one a line
 * SPDX-License-Identifier: Apache-2.0
 *
 * Text: the line is the prompt; empty lines are skipped. JSON lines: an object with "prompt" and
 * any of the fields of cli_request_set, with _ or - in their names.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "lx_limits.h"

#define LINE_MAX_BYTES (64 * 1024)

typedef struct reader {
    FILE *file;
    const char *path;
    int line;
    char text[LINE_MAX_BYTES + 1];
} reader;

/* The next line without its end; *end when there is none. */
static lx_status read_line(reader *r, bool *end, lx_err *err)
{
    size_t n = 0;
    int c = 0;
    r->line++;
    while ((c = getc(r->file)) != EOF && c != '\n') {
        if (c == 0)
            return lx_fail(err, LX_ECONFIG, "%s:%d: contains a NUL character", r->path, r->line);
        if (n == LINE_MAX_BYTES)
            return lx_fail(err, LX_ECONFIG, "%s:%d: longer than %d bytes", r->path, r->line,
                           LINE_MAX_BYTES);
        r->text[n++] = (char)c;
    }
    if (ferror(r->file))
        return lx_fail(err, LX_ECONFIG, "%s: cannot be read: %s", r->path, strerror(errno));
    while (n > 0 && strchr(" \t\r", r->text[n - 1]))
        n--;
    r->text[n] = 0;
    *end = c == EOF && n == 0;
    if (r->line == 1 && strncmp(r->text, "\xef\xbb\xbf", 3) == 0)
        memmove(r->text, r->text + 3, n - 3 + 1); /* a byte order mark is no part of a prompt */
    return LX_OK;
}

/* A JSON value as it would be typed; NULL if it is none that a field can have. */
static const char *typed(const json_t *value, char *text, size_t text_bytes)
{
    if (json_is_string(value))
        return json_string_value(value);
    if (json_is_integer(value)) {
        snprintf(text, text_bytes, "%lld", (long long)json_integer_value(value));
        return text;
    }
    if (json_is_real(value)) {
        snprintf(text, text_bytes, "%.17g", json_real_value(value));
        return text;
    }
    if (!json_is_array(value))
        return NULL;
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_integer(item) || used + 32 > text_bytes)
            return NULL;
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%lld", i ? "," : "",
                                 (long long)json_integer_value(item));
    }
    return text;
}

static lx_status add_object(cli_requests *all, reader *r, json_t *object, const cli_request *like,
                            lx_err *err)
{
    const char *prompt = json_string_value(json_object_get(object, "prompt"));
    if (!prompt)
        return lx_fail(err, LX_ECONFIG, "%s:%d: prompt: missing, or no string", r->path, r->line);
    cli_request one = *like;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        char field[64], text[1024];
        if (strcmp(key, "prompt") == 0)
            continue;
        snprintf(field, sizeof field, "%s", key);
        for (char *p = field; *p; p++)
            if (*p == '_')
                *p = '-';
        const char *as_typed = typed(value, text, sizeof text);
        if (!as_typed)
            return lx_fail(err, LX_ECONFIG,
                           "%s:%d: %s: accepted: a string, a number or a list of "
                           "whole numbers",
                           r->path, r->line, field);
        if (cli_request_set(&one, field, as_typed, err) != LX_OK)
            return lx_wrap(err, "%s:%d", r->path, r->line);
    }
    return cli_requests_add(all, &one, prompt, NULL, err);
}

static lx_status add_json(cli_requests *all, reader *r, const cli_request *like, lx_err *err)
{
    json_error_t why;
    json_t *object = json_loads(r->text, JSON_REJECT_DUPLICATES, &why);
    if (!object)
        return lx_fail(err, LX_ECONFIG, "%s:%d: not JSON: %s (column %d)", r->path, r->line,
                       why.text, why.column);
    lx_status status = LX_OK;
    if (!json_is_object(object))
        status = lx_fail(err, LX_ECONFIG, "%s:%d: accepted: an object, {\"prompt\": ...}", r->path,
                         r->line);
    else
        status = add_object(all, r, object, like, err);
    json_decref(object);
    return status;
}

/* Two jobs of one id or one name would be found only by the launcher, half-way. */
static lx_status check_twice(const cli_requests *all, const reader *r, lx_err *err)
{
    const cli_request *last = &all->list[all->n - 1];
    for (const cli_request *one = all->list; one < last && (*last->id || *last->output); one++) {
        bool same_id = *last->id && strcmp(one->id, last->id) == 0;
        if (same_id || (*last->output && strcmp(one->output, last->output) == 0))
            return lx_fail(err, LX_ECONFIG, "%s:%d: %s: \"%s\" is that of line %d already", r->path,
                           r->line, same_id ? "id" : "name", same_id ? last->id : last->output,
                           one->line);
    }
    return LX_OK;
}

/* The checks of the whole job, so that nothing is submitted when a later line is wrong. */
static lx_status check_last(const cli_requests *all, const reader *r, lx_err *err)
{
    lx_client_request view = cli_request_view(&all->list[all->n - 1]);
    if (lx_client_check(&view, err) == LX_OK)
        return check_twice(all, r, err);
    return lx_wrap(err, "%s:%d", r->path, r->line);
}

static lx_status read_all(cli_requests *all, reader *r, bool is_json, const cli_request *like,
                          lx_err *err)
{
    for (bool end = false;;) {
        lx_status status = read_line(r, &end, err);
        if (status != LX_OK || end)
            return status;
        if (!r->text[0])
            continue;
        status =
            is_json ? add_json(all, r, like, err) : cli_requests_add(all, like, r->text, NULL, err);
        if (status == LX_OK) {
            all->list[all->n - 1].line = r->line;
            status = check_last(all, r, err);
        }
        if (status != LX_OK)
            return status;
    }
}

lx_status cli_requests_read(cli_requests *all, const char *path, const cli_request *like,
                            lx_err *err)
{
    bool is_stdin = strcmp(path, "-") == 0;
    size_t n = strlen(path), before = all->n;
    bool is_json = n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
    reader *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    r->path = is_stdin ? "stdin" : path;
    r->file = is_stdin ? stdin : fopen(path, "re");
    lx_status status =
        r->file ? read_all(all, r, is_json, like, err)
                : lx_fail(err, LX_ECONFIG, "%s: cannot be read: %s", path, strerror(errno));
    if (status == LX_OK && all->n == before)
        status = lx_fail(err, LX_ECONFIG, "%s: no job in it", r->path);
    if (r->file && !is_stdin)
        fclose(r->file);
    free(r);
    return status;
}
