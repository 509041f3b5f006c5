/*
 * mux_meta.c - what a clip says about how it was made
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_meta.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lx_utf8.h"

#define MUX_VERSION "lx2v " LX2V_VERSION

/* --- text ------------------------------------------------------------------------------------ */

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* One character of well-formed UTF-8: its bytes, and whether it is a control character (C0, DEL and
 * C1, which is C2 80 to C2 9F in UTF-8). */
static size_t character(const unsigned char *p, bool *is_control)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    *is_control = p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
    return n;
}

void mux_text_clean(char *out, size_t out_bytes, const char *text)
{
    size_t n = 0, left = strlen(text), good = lx_utf8_bad(text, left);
    while (left) {
        const char *piece = REPLACEMENT;
        size_t piece_bytes = sizeof REPLACEMENT - 1, used = 1;
        if (good) {
            bool is_control;
            used = piece_bytes = character((const unsigned char *)text, &is_control);
            piece = text;
            if (is_control) {
                piece = " ";
                piece_bytes = *text == '\t' || *text == '\n' || *text == '\r';
            }
        }
        if (n + piece_bytes >= out_bytes)
            break;
        memcpy(out + n, piece, piece_bytes);
        n += piece_bytes;
        text += used;
        left -= used;
        good = good ? good - used : lx_utf8_bad(text, left);
    }
    out[n] = 0;
}

/* --- building values ------------------------------------------------------------------------- */

/* A string that grows up to its buffer; what does not fit is left out. */
typedef struct text {
    char *at;
    size_t n, room;
} text;

__attribute__((format(printf, 2, 3))) static void append(text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int w = vsnprintf(t->at + t->n, t->room - t->n, format, args);
    va_end(args);
    if (w > 0 && (size_t)w < t->room - t->n)
        t->n += (size_t)w;
    t->at[t->n] = 0;
}

/* A JSON string of text that mux_text_clean has been over: only two signs need escaping. */
static void append_json_string(text *t, const char *clean)
{
    append(t, "\"");
    for (const char *p = clean; *p; p++)
        append(t, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
    append(t, "\"");
}

/* Noise level of a training-step label n: u = n/1000, sigma = s u / (1 + (s - 1) u), to float. */
static void append_sigmas(text *t, const lx_job *job, const char *separator)
{
    for (int i = 0; i < job->n_steps; i++) {
        double u = job->steps[i] / 1000.0;
        double sigma = job->shift * u / (1.0 + (job->shift - 1.0) * u);
        append(t, "%s%.9g", i ? separator : "", (double)(float)sigma);
    }
}

/* The next pair to fill. */
static text next_value(mux_meta *meta, const char *key)
{
    char *value = meta->pair[meta->n].value;
    meta->pair[meta->n++].key = key;
    value[0] = 0;
    return (text){.at = value, .room = MUX_META_VALUE};
}

/* An unknown (empty) value is left out. */
static void add(mux_meta *meta, const char *key, const char *value)
{
    if (!*value)
        return;
    text t = next_value(meta, key);
    append(&t, "%s", value);
}

static void add_comment(mux_meta *meta, const lx_job *job, const char *prompt, const char *noise,
                        const char *checkpoint)
{
    text t = next_value(meta, "comment");
    append(&t, "{");
    if (prompt) {
        append(&t, "\"prompt\": ");
        append_json_string(&t, prompt);
        append(&t, ", ");
    }
    append(&t, "\"seed\": %" PRId64 ", \"size\": \"%dx%d\", \"frames\": %d, \"fps\": %.9g",
           job->seed, job->width, job->height, job->frames, job->fps);
    append(&t, ", \"sampler\": \"%s\", \"shift\": %.9g, \"steps\": [",
           lx_sampler_name((lx_sampler)job->sampler), job->shift);
    for (int i = 0; i < job->n_steps; i++)
        append(&t, "%s%d", i ? ", " : "", job->steps[i]);
    append(&t, "], \"sigmas\": [");
    append_sigmas(&t, job, ", ");
    append(&t, "], \"noise\": ");
    append_json_string(&t, noise);
    append(&t, ", \"checkpoint\": ");
    append_json_string(&t, checkpoint);
    append(&t, ", \"version\": \"" MUX_VERSION "\"}");
}

void mux_meta_of_job(mux_meta *out, const lx_job *job, lx_mux_metadata mode, const char *checkpoint)
{
    out->n = 0;
    if (mode == LX_METADATA_OFF)
        return;
    char prompt[MUX_META_PROMPT + 1], title[MUX_META_TITLE + 1], noise[LX_LIMIT_WORD];
    char model[LX_LIMIT_NAME + 1];
    mux_text_clean(prompt, sizeof prompt, job->prompt);
    mux_text_clean(title, sizeof title, job->prompt);
    mux_text_clean(noise, sizeof noise, job->rng);
    mux_text_clean(model, sizeof model, checkpoint);
    bool with_prompt = mode == LX_METADATA_FULL;
    if (with_prompt) {
        add(out, "title", title);
        add(out, "prompt", prompt);
    }
    add_comment(out, job, with_prompt ? prompt : NULL, noise, model);
    text t = next_value(out, "seed");
    append(&t, "%" PRId64, job->seed);
    t = next_value(out, "sigmas");
    append_sigmas(&t, job, " ");
    add(out, "sampler", lx_sampler_name((lx_sampler)job->sampler));
    add(out, "noise", noise);
    add(out, "checkpoint", model);
    add(out, "version", MUX_VERSION);
}

void mux_meta_of_file(mux_meta *out)
{
    out->n = 0;
    add(out, "version", MUX_VERSION);
}

void mux_meta_checkpoint(char *out, size_t out_bytes, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (!strncmp(path + start, "distill_", 8) && start > 1) {
        start--;
        while (start > 0 && path[start - 1] != '/')
            start--;
    }
    char name[LX_LIMIT_PATH];
    snprintf(name, sizeof name, "%.*s", (int)(end - start), path + start);
    mux_text_clean(out, out_bytes, name);
}
