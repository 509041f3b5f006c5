/*
 * tune_card.c - where a card's table lies, and which one it uses
 * SPDX-License-Identifier: Apache-2.0
 *
 * Module    A table holds for the very module that was measured: its number is the linker's hash of
 *           all that is in it (ELF note NT_GNU_BUILD_ID), which is found where it was loaded.
 */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cu_tune.h"
#include "lx_cache.h"
#include "lx_cuda_priv.h"
#include "lx_limits.h"
#include "lx_log.h"

#define ID_BYTES ((LX_TUNE_ID - 1) / 2) /* of the hash, at most */

/* --- the module's number --------------------------------------------------------------------- */

typedef struct search {
    uintptr_t inside; /* an address in the module */
    char id[LX_TUNE_ID];
} search;

static void take_id(search *s, const unsigned char *hash, size_t n)
{
    n = n < ID_BYTES ? n : ID_BYTES;
    for (size_t i = 0; i < n; i++)
        snprintf(s->id + 2 * i, 3, "%02x", hash[i]);
}

/* A note is a header, a name and a body; the last two fill whole words of four bytes. */
static void search_notes(search *s, const unsigned char *at, size_t left)
{
    ElfW(Nhdr) note;
    while (left >= sizeof note) {
        memcpy(&note, at, sizeof note);
        size_t name = ((size_t)note.n_namesz + 3) / 4 * 4;
        size_t body = ((size_t)note.n_descsz + 3) / 4 * 4, all = sizeof note + name + body;
        if (all > left)
            return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            !memcmp(at + sizeof note, "GNU", 4))
            take_id(s, at + sizeof note + name, note.n_descsz);
        at += all;
        left -= all;
    }
}

static int look_at(struct dl_phdr_info *info, size_t size, void *self)
{
    search *s = self;
    bool is_it = false;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t first = info->dlpi_addr + p->p_vaddr;
        is_it |= p->p_type == PT_LOAD && s->inside >= first && s->inside - first < p->p_memsz;
    }
    for (int i = 0; i < info->dlpi_phnum && is_it; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_NOTE)
            search_notes(s, (const unsigned char *)(info->dlpi_addr + p->p_vaddr), p->p_memsz);
    }
    return is_it;
}

const char *lx_cuda_module_id(const lx_cuda *cuda)
{
    static search found; /* one module a process */
    if (!found.id[0] && cuda->module) {
        found.inside = (uintptr_t)cuda->module;
        dl_iterate_phdr(look_at, &found);
    }
    return found.id;
}

/* --- files ----------------------------------------------------------------------------------- */

lx_status lx_tune_path(char *out, size_t room, const lx_card_kind *card, const char *module,
                       lx_err *err)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    char folder[LX_LIMIT_PATH], name[sizeof card->name];
    if (!*module)
        return lx_fail(err, LX_ECONFIG,
                       "liblx2v_cuda.so has no build id: it cannot be told from "
                       "others (link it with --build-id)");
    lx_status status = lx_cache_folder(folder, sizeof folder, "tune", err);
    if (status != LX_OK)
        return status;
    snprintf(name, sizeof name, "%s", card->name);
    for (char *p = name; *p; p++)
        *p = strchr(plain, *p) ? *p : '_';
    int n = snprintf(out, room, "%s/%s-%d%d-%d-%.16s.json", folder, name, card->major, card->minor,
                     card->n_sm, module);
    if (n < 0 || (size_t)n >= room)
        return lx_fail(err, LX_ECONFIG, "%.200s...: the path is too long", folder);
    return LX_OK;
}

lx_status lx_tune_write(const char *path, const lx_tune_table *table, const lx_card_kind *card,
                        const char *module, lx_err *err)
{
    char *text = lx_tune_text(table, card, module);
    if (!text)
        return lx_fail(err, LX_EAGAIN, "out of memory for a table of %d linears", table->n);
    lx_status status = lx_cache_write(path, text, strlen(text), err);
    free(text);
    return status;
}

lx_status lx_tune_read(lx_tune_table *out, const char *path, const lx_card_kind *card,
                       const char *module, lx_err *err)
{
    char *text = NULL;
    size_t n = 0;
    lx_status status = lx_cache_read(path, LX_TUNE_FILE_MOST, &text, &n, err);
    if (status != LX_OK)
        return status;
    status = lx_tune_parse(out, text, n, card, module, err);
    free(text);
    return status == LX_OK ? status : lx_wrap(err, "%s", path);
}

/* --- a card's table -------------------------------------------------------------------------- */

lx_status lx_cuda_tune_use(lx_cuda *cuda, const lx_tune_table *table, lx_err *err)
{
    lx_tune_table *copy = table ? malloc(sizeof *copy) : NULL;
    if (table && !copy)
        return lx_fail(err, LX_EAGAIN, "out of memory for a table of %d linears", table->n);
    if (table)
        *copy = *table;
    free(cuda->tune);
    cuda->tune = copy;
    return LX_OK;
}

const lx_tune_table *lx_cuda_tuned(const lx_cuda *cuda)
{
    return cuda->tune;
}

/* LX_OK: use `out`, which lies in `path`. LX_EAGAIN: there is none, or none is wanted. */
static lx_status find_table(lx_tune_table *out, const lx_cuda *c, char path[LX_LIMIT_PATH],
                            lx_err *err)
{
    const char *wish = getenv("LX2V_TUNE"), *module = lx_cuda_module_id(c);
    if (wish && !strcmp(wish, "off"))
        return lx_fail(err, LX_EAGAIN, "LX2V_TUNE=off");
    if (wish && *wish)
        return lx_fail(err, LX_ECONFIG, "LX2V_TUNE=%.40s: accepted is off", wish);
    lx_status status = lx_tune_path(path, LX_LIMIT_PATH, &c->card, module, err);
    if (status == LX_OK)
        status = lx_tune_read(out, path, &c->card, module, err);
    return status == LX_EAGAIN ? lx_fail(err, status, "lx2v-tune would make %s", path) : status;
}

void lx_cuda_tune(lx_cuda *c)
{
    char path[LX_LIMIT_PATH];
    lx_err err = {0};
    lx_tune_table *table = malloc(sizeof *table);
    lx_status status = table ? find_table(table, c, path, &err)
                             : lx_fail(&err, LX_ECONFIG, "out of memory for a table");
    if (status == LX_OK)
        status = lx_cuda_tune_use(c, table, &err);
    if (status == LX_OK)
        LX_I("tune card=\"%s\" table=%s linears=%d", c->card.name, path, table->n);
    else if (status == LX_EAGAIN)
        LX_I("tune card=\"%s\" table=none: %s", c->card.name, err.message);
    else
        LX_W("tune card=\"%s\" table=none: %s; the built-in choices are used", c->card.name,
             err.message);
    free(table);
}

void lx_cuda_tune_tell(const lx_card_kind *card, char *out, size_t room)
{
    char path[LX_LIMIT_PATH];
    lx_err err = {0};
    lx_cuda c = {.card = *card};
    lx_tune_table *table = malloc(sizeof *table);
    lx_status status =
        table ? lx_cuda_load(&c, NULL, &err) : lx_fail(&err, LX_EAGAIN, "out of memory");
    if (status == LX_OK) {
        lx_card_hold_to_archs(&c.card, c.module->archs);
        status = lx_card_limit(&c.card, &err);
    }
    if (status == LX_OK)
        status = find_table(table, &c, path, &err);
    if (status == LX_OK)
        snprintf(out, room, "%s, %d linears", path, table->n);
    else
        snprintf(out, room, "built-in choices: %s", err.message);
    free(table);
}
