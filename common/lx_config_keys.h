/*
 * lx_config_keys.h - every key that config.yaml may have
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The table behind lx_config_load: path, type, range, place in lx_config. Private to
 *           lx_config*.c; adding a setting is one line there and one in config.yaml.
 */
#ifndef LX_CONFIG_KEYS_H
#define LX_CONFIG_KEYS_H

#include "lx_config.h"

typedef enum lx_key_type {
    LX_KEY_SECTION, /* a mapping of further keys */
    LX_KEY_MODEL,   /* a folder, or a mapping */
    LX_KEY_STAGE,   /* device, threads, residency, replicas; number: lx_stage_kind */
    LX_KEY_STEPS,   /* list or "1000,750" */
    LX_KEY_VRAM,    /* bytes, "auto", or a mapping of devices to these */
    /* from here on: one scalar */
    LX_KEY_BOOL,
    LX_KEY_INT, /* int32 */
    LX_KEY_I64,
    LX_KEY_REAL,
    LX_KEY_CHOICE, /* enum, by its place in choices */
    LX_KEY_WORD,   /* char[LX_LIMIT_WORD], one of choices */
    LX_KEY_PATH,
    LX_KEY_SIZE,  /* width and height */
    LX_KEY_TILE,  /* height and width in latents, or "off" */
    LX_KEY_BYTES, /* uint64, at least min, or "auto" = 0 */
    LX_KEY_RNG,
    LX_KEY_GUIDE, /* only 1 */
    LX_KEY_TCP,   /* IP:PORT, or "off" = "" */
} lx_key_type;

typedef struct lx_config_key {
    const char *path; /* "section.name" */
    lx_key_type type;
    size_t offset; /* in lx_config */
    double min, max;
    const char *const *choices; /* NULL-terminated */
    int number;
} lx_config_key;

#define LX_CONFIG_KEYS_MAX 80

extern const lx_config_key lx_config_keys[];
extern const int lx_config_n_keys;

/** Index of a path in the table, -1 if there is none. */
int lx_config_find(const char *path);

/** Every value as it is when config.yaml does not mention it. */
void lx_config_defaults(lx_config *config);

/** state.dir and state.journal, where they were not given. path is set. */
void lx_config_settle_state(lx_config *config);

/** Put one scalar into its place. LX_ECONFIG: the value and what is accepted, without file and
 *  key. quoted: it stood in quotes, so it is text and no number. */
lx_status lx_config_set(lx_config *config, const lx_config_key *key, const char *text, bool quoted,
                        lx_err *err);

/** Bytes of one card; 0 for "auto". LX_ECONFIG as above. */
lx_status lx_config_set_vram(lx_vram_config *vram, const char *device, const char *text,
                             lx_err *err);

/** Device and threads of a replica. LX_ECONFIG as above. */
lx_status lx_config_set_device(char device[LX_LIMIT_WORD], const char *text, lx_err *err);
lx_status lx_config_set_int(int *out, const char *text, bool quoted, int min, int max, lx_err *err);

/** An address of listen.tcp that stands for every network of the machine, however it is spelt. */
bool lx_config_is_any(const char *tcp);

/** What to say about an unknown key: "did you mean ...?" or where it belongs; "" if nothing is
 *  near. prefix: the section it was found in, "" at the top. */
void lx_config_hint(const char *prefix, const char *name, char *text, size_t text_bytes);

/** Value for a message: cut to fit, control characters as '?'. */
void lx_config_show(const char *value, char *text, size_t text_bytes);

#endif
