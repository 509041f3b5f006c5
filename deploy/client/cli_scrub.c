/*
 * cli_scrub.c - what must not leave the machine
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "cli_report.h"
#include "lx_utf8.h"

#define WINDOW 12 /* bytes in common with a prompt that are no accident; shorter prompts: whole */
#define LEAST  3  /* shorter prompts would blot out everything */
#define LINE   2048

void cli_scrub_open(cli_scrub *s)
{
    const char *home = getenv("HOME");
    memset(s, 0, sizeof *s);
    if (!home || home[0] != '/' || !home[1] || strlen(home) >= sizeof s->home)
        return;
    snprintf(s->home, sizeof s->home, "%s", home);
    for (size_t n = strlen(s->home); n > 1 && s->home[n - 1] == '/'; n--)
        s->home[n - 1] = 0;
}

void cli_scrub_close(cli_scrub *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->prompts[i]);
    free(s->prompts);
    memset(s, 0, sizeof *s);
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Of three bytes: most places of a text need no look at the prompts. */
static unsigned hash_of(const char *p)
{
    unsigned n = 0;
    for (int i = 0; i < 3; i++)
        n = n * 257 + (unsigned char)lower(p[i]);
    return (n * 2654435761u) >> 16; /* 16 bits: one of 8192 * 8 */
}

bool cli_scrub_learn(cli_scrub *s, const char *prompt)
{
    if (strlen(prompt) < LEAST)
        return true;
    if (s->n == s->room) {
        size_t room = s->room ? 2 * s->room : 64;
        char **grown = realloc(s->prompts, room * sizeof *grown);
        if (!grown)
            return false;
        s->prompts = grown;
        s->room = room;
    }
    char *copy = strdup(prompt);
    if (!copy)
        return false;
    s->prompts[s->n++] = copy;
    for (const char *p = copy; p[0] && p[1] && p[2]; p++) {
        unsigned hash = hash_of(p);
        s->grams[hash / 8] |= (unsigned char)(1u << hash % 8);
    }
    return true;
}

/* How many bytes two texts begin with alike, without regard to case. */
static size_t alike(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] && lower(a[n]) == lower(b[n]))
        n++;
    return n;
}

/* Bytes at `at` that are part of a known prompt; 0 if that is too little to be one. */
static size_t prompt_at(const cli_scrub *s, const char *at)
{
    size_t most = 0;
    if (s->n == 0 || !at[0] || !at[1] || !at[2])
        return 0;
    unsigned hash = hash_of(at);
    if (!(s->grams[hash / 8] >> hash % 8 & 1))
        return 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t length = strlen(s->prompts[i]);
        size_t enough = length < WINDOW ? length : WINDOW;
        for (const char *p = s->prompts[i]; *p; p++) {
            size_t n = alike(at, p);
            if (n >= enough && n > most)
                most = n;
        }
    }
    return most;
}

static bool is_home(const cli_scrub *s, const char *at)
{
    size_t n = strlen(s->home);
    if (n == 0 || strncmp(at, s->home, n) != 0)
        return false;
    unsigned char next = (unsigned char)at[n]; /* /home/ann is not the home of /home/anna */
    return !isalnum(next) && next != '_' && next != '-' && next != '.';
}

char *cli_scrub_line(const cli_scrub *s, char *out, size_t out_bytes, const char *text)
{
    static const char blot[] = "[prompt]";
    char clean[LINE + 1], kept[LINE + sizeof blot];
    size_t used = 0;
    for (const char *p = text; *p && used < LINE;) {
        size_t n = prompt_at(s, p);
        const char *instead = n ? blot : is_home(s, p) ? "~" : NULL;
        if (!instead) {
            kept[used++] = *p++;
            continue;
        }
        size_t length = strlen(instead);
        memcpy(kept + used, instead, length);
        used += length;
        p += n ? n : strlen(s->home);
    }
    kept[used] = 0;
    lx_utf8_copy(clean, sizeof clean, kept); /* a blot may have cut a character */
    return cli_safe(clean, out, out_bytes);
}

void cli_scrub_text(const cli_scrub *s, FILE *to, const char *text)
{
    char line[LINE], shown[LINE];
    while (*text) {
        size_t n = strcspn(text, "\n");
        size_t take = n < sizeof line - 1 ? n : sizeof line - 1;
        memcpy(line, text, take);
        line[take] = 0;
        fprintf(to, "  %s\n", cli_scrub_line(s, shown, sizeof shown, line));
        text += n + (text[n] == '\n');
    }
}

/* --- config ----------------------------------------------------------------------------------- */

static bool has_word(const char *key, size_t n, const char *word)
{
    size_t m = strlen(word);
    for (size_t k = 0; k + m <= n; k++)
        if (strncasecmp(key + k, word, m) == 0)
            return true;
    return false;
}

static bool sounds_private(const char *key, size_t n)
{
    static const char *const words[] = {"prompt", "secret", "token", "password", "key", "curve"};
    static const char *const harmless[] = {"prompt_bytes", "tokenizer"};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (n == strlen(harmless[i]) && strncmp(key, harmless[i], n) == 0)
            return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (has_word(key, n, words[i]))
            return true;
    return false;
}

static void cut_blanks(char *line)
{
    size_t n = strlen(line);
    while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t'))
        line[--n] = 0;
}

/* Ends the line where its comment begins: a '#' after a blank, outside of quotes. */
static void cut_comment(char *line)
{
    char quote = 0;
    for (char *p = line; *p; p++) {
        if (quote) {
            if (*p == '\\' && quote == '"' && p[1])
                p++;
            else if (*p == quote)
                quote = 0;
        } else if (*p == '"' || *p == '\'') {
            quote = *p;
        } else if (*p == '#' && (p == line || p[-1] == ' ' || p[-1] == '\t')) {
            *p = 0;
            return;
        }
    }
}

/* Hides the values of private keys in "a: 1" and "{a: 1, b: 2}". True: the line had one. */
static bool hide_values(char *line)
{
    for (char *colon = strchr(line, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *begin = colon;
        while (begin > line && (isalnum((unsigned char)begin[-1]) || begin[-1] == '_' ||
                                begin[-1] == '-' || begin[-1] == '.'))
            begin--;
        if (!sounds_private(begin, (size_t)(colon - begin)))
            continue;
        snprintf(colon, 7, ": ***"); /* what follows is not looked at: it may go on anyhow */
        return true;
    }
    return false;
}

static size_t indent_of(const char *line)
{
    return strspn(line, " ");
}

void cli_scrub_yaml(const cli_scrub *s, FILE *to, FILE *from)
{
    char line[LINE], shown[LINE];
    bool is_hidden = false;
    size_t hidden_indent = 0;
    while (fgets(line, sizeof line - 8, from)) { /* hide_values may write a little more */
        bool is_whole = strchr(line, '\n') != NULL;
        line[strcspn(line, "\r\n")] = 0;
        cut_comment(line);
        cut_blanks(line);
        bool is_blank = !*line;
        if (is_hidden && !is_blank && indent_of(line) <= hidden_indent)
            is_hidden = false;
        if (!is_blank && !is_hidden) {
            hidden_indent = indent_of(line);
            is_hidden = hide_values(line);
            fprintf(to, "  %s\n", cli_scrub_line(s, shown, sizeof shown, line));
        }
        while (!is_whole && fgets(line, sizeof line, from)) /* the rest of an over-long line */
            is_whole = strchr(line, '\n') != NULL;
    }
}

bool cli_scrub_is_error(const char *line)
{
    if ((line[0] != 'E' && line[0] != 'W') || line[1] != ' ')
        return false;
    const char *p = line + 2;
    while (isalnum((unsigned char)*p) || *p == '-' || *p == '_')
        p++;
    return p > line + 2 && *p == '[' && isdigit((unsigned char)p[1]);
}
