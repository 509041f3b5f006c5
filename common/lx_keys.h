/*
 * lx_keys.h - CURVE keys as files
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Key pairs for tcp: made, written, read. Text, one "name value" a line, keys in Z85:
 *             server.key       public, secret                 of a launcher
 *             NAME.key         public, secret, server         all that one client needs
 *             clients/NAME.pub public                         lets that client in (lx_gate.h)
 * Promise   A file with a secret is ours, mode 0600 or less, regular and no link, or refused.
 *           It is written whole under its name or not at all, and never over another.
 * Tests     tests/unit/test_gate.c
 */
#ifndef LX_KEYS_H
#define LX_KEYS_H

#include "lx_status.h"

#define LX_KEY_TEXT  41 /* 32 bytes as Z85, and a terminator */
#define LX_KEY_BYTES 32

typedef struct lx_keys {
    char public_key[LX_KEY_TEXT];
    char secret[LX_KEY_TEXT]; /* "": not in the file */
    char server[LX_KEY_TEXT]; /* public key of the launcher to talk to; "": not in the file */
} lx_keys;

/** A fresh pair; server stays "". LX_ECONFIG: this libzmq was built without CURVE. */
lx_status lx_keys_make(lx_keys *out, lx_err *err);

/** public, secret and server as far as they are not "". LX_ECONFIG: exists, or cannot be made. */
lx_status lx_keys_write(const lx_keys *keys, const char *path, lx_err *err);

/** A file with a secret. LX_ECONFIG: file, and what is wrong with it or with who may read it. */
lx_status lx_keys_read(lx_keys *out, const char *path, lx_err *err);
/** A file without one, relative to a folder; anybody may read it, nobody else may write it. */
lx_status lx_keys_read_public(lx_keys *out, int dir_fd, const char *name, lx_err *err);

/** Overwrites the secrets in memory. */
void lx_keys_forget(lx_keys *keys);

#endif
