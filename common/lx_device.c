/*
 * lx_device.c - which card does this name mean?
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_device.h"

#include <stdio.h>
#include <string.h>

#include "lx_utf8.h"

#define NAME_MAX_BYTES 60 /* of a device name; a config keeps 64 */
#define INDEX_MAX      64
#define UUID_LEAST     8 /* "GPU-8f1c": shorter fits too much */

#define ACCEPTED                                                                                   \
    "cpu, cuda (the first card), cuda:0 and so on (in PCI order), cuda:GPU-... (its UUID), or "    \
    "cuda:rtx3060 (a part of its name)"

typedef enum form { FORM_CPU, FORM_INDEX, FORM_UUID, FORM_NAME } form;

typedef struct wanted {
    form form;
    int index;
    char text[NAME_MAX_BYTES + 1]; /* UUID, or the name without case and spaces */
} wanted;

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'z');
}

/* Letters and digits only, lower case: "NVIDIA GeForce RTX 3060" and "geforce-rtx3060" meet. */
static void plain(char *out, size_t out_bytes, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < out_bytes; text++)
        if (is_word(*text))
            out[n++] = lower(*text);
    out[n] = 0;
}

static bool begins(const char *text, const char *with)
{
    for (; *with; text++, with++)
        if (lower(*text) != lower(*with))
            return false;
    return true;
}

static lx_status refuse(const char *text, lx_err *err)
{
    char shown[128];
    lx_utf8_copy(shown, sizeof shown, text);
    for (char *p = shown; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    shown[lx_utf8_cut(shown, strlen(shown), 80)] = 0;
    return lx_fail(err, LX_ECONFIG, "\"%s\" is not accepted; accepted: " ACCEPTED, shown);
}

/* A number of at most two digits, or -1. */
static int index_of(const char *text)
{
    if (!is_digit(text[0]) || (text[1] && (!is_digit(text[1]) || text[2])))
        return -1;
    int n = text[0] - '0';
    return text[1] ? n * 10 + (text[1] - '0') : n;
}

static lx_status parse(wanted *out, const char *text, lx_err *err)
{
    const char *which = text;
    *out = (wanted){.form = FORM_CPU};
    if (strcmp(text, "cpu") == 0)
        return LX_OK;
    out->form = FORM_INDEX;
    if (strcmp(text, "cuda") == 0)
        return LX_OK;
    if (strlen(text) > NAME_MAX_BYTES)
        return refuse(text, err);
    bool is_bare = begins(text, "GPU-") || begins(text, "MIG-");
    if (!is_bare && !begins(text, "cuda:"))
        return refuse(text, err);
    which += is_bare ? 0 : 5;
    if (!is_word(*which))
        return refuse(text, err);
    for (const char *p = which; *p; p++)
        if (!is_word(*p) && *p != ' ' && *p != '-' && *p != '_' && *p != '.')
            return refuse(text, err);
    if (begins(which, "GPU-") || begins(which, "MIG-")) {
        out->form = FORM_UUID;
        snprintf(out->text, sizeof out->text, "%s", which);
        return strlen(which) >= UUID_LEAST ? LX_OK : refuse(text, err);
    }
    out->index = index_of(which);
    if (out->index >= 0)
        return out->index < INDEX_MAX ? LX_OK : refuse(text, err);
    out->form = FORM_NAME;
    plain(out->text, sizeof out->text, which);
    /* Only digits, and more of them than an index has: "cuda:3060" is a name people type. */
    return strlen(out->text) >= 2 ? LX_OK : refuse(text, err);
}

lx_status lx_device_check(const char *text, lx_err *err)
{
    wanted unused;
    return parse(&unused, text, err);
}

bool lx_device_is_card(const char *text)
{
    return strcmp(text, "cpu") != 0;
}

bool lx_device_index(int *index, const char *text)
{
    wanted w;
    if (parse(&w, text, NULL) != LX_OK || (w.form != FORM_CPU && w.form != FORM_INDEX))
        return false;
    *index = w.form == FORM_CPU ? LX_DEVICE_CPU : w.index;
    return true;
}

static bool fits(const wanted *w, const lx_card *card)
{
    char name[sizeof card->name];
    if (w->form == FORM_UUID)
        return begins(card->uuid, w->text);
    plain(name, sizeof name, card->name);
    return strstr(name, w->text) != NULL;
}

/* "0 NVIDIA GeForce RTX 3060 (GPU-8f1c...), 1 ..." */
static void list_cards(char *out, size_t out_bytes, const lx_cards *cards)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < cards->n && used < out_bytes; i++)
        used += (size_t)snprintf(out + used, out_bytes - used, "%scuda:%d %s (%.12s...)",
                                 i ? ", " : "", i, cards->card[i].name, cards->card[i].uuid);
}

static lx_status no_cards(const char *text, const lx_cards *cards, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "%s: no card can be used: %s; `lx2v doctor` tells more, or use "
                   "cpu",
                   text, *cards->reason ? cards->reason : "the driver lists none");
}

lx_status lx_device_resolve(int *index, const char *text, const lx_cards *cards, lx_err *err)
{
    wanted w;
    char list[600];
    lx_status status = parse(&w, text, err);
    if (status != LX_OK)
        return status;
    if (w.form == FORM_CPU) {
        *index = LX_DEVICE_CPU;
        return LX_OK;
    }
    if (cards->n == 0)
        return no_cards(text, cards, err);
    list_cards(list, sizeof list, cards);
    if (w.form == FORM_INDEX) {
        if (w.index >= cards->n)
            return lx_fail(err, LX_ECONFIG, "%s: there is no such card; there %s %d: %s", text,
                           cards->n == 1 ? "is" : "are", cards->n, list);
        *index = w.index;
        return LX_OK;
    }
    int found = -1, n = 0;
    for (int i = 0; i < cards->n; i++)
        if (fits(&w, &cards->card[i])) {
            found = i;
            n++;
        }
    if (n == 0)
        return lx_fail(err, LX_ECONFIG, "%s: no card has that name; there %s %d: %s", text,
                       cards->n == 1 ? "is" : "are", cards->n, list);
    if (n > 1)
        return lx_fail(err, LX_ECONFIG, "%s: %d cards fit; name one by its number or UUID: %s",
                       text, n, list);
    *index = found;
    return LX_OK;
}

const char *lx_card_family(int major, int minor)
{
    static const struct {
        int first; /* major * 10 + minor */
        const char *name;
    } families[] = {{120, "Blackwell"}, {100, "Blackwell"}, {90, "Hopper"},
                    {89, "Ada"},        {80, "Ampere"},     {75, "Turing"},
                    {70, "Volta"},      {60, "Pascal"},     {50, "Maxwell"}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (major * 10 + minor >= families[i].first)
            return families[i].name;
    return "";
}
