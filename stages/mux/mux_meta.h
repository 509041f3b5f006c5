/*
 * mux_meta.h - what a clip says about how it was made
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Turns a job into a fixed list of key and value for the container.
 * Promise   Keys are ours and fixed. Values are valid UTF-8 without control characters, of bounded
 *           length; no time, host or user name, so that the same job gives the same bytes.
 *             title, prompt (cut to 1 KiB): not with no-prompt
 *             comment: the same facts as one JSON object
 *             seed, sigmas, sampler, noise, checkpoint, version
 * Threads   Pure functions.
 * Tests     tests/stages/test_mux_meta.c
 */
#ifndef MUX_META_H
#define MUX_META_H

#include "lx_config.h"
#include "lx_job.h"

#define MUX_META_PROMPT 1024 /* bytes of prompt that are kept */
#define MUX_META_TITLE  100
#define MUX_META_VALUE  5120 /* the comment: the prompt with every byte escaped, and the rest */
#define MUX_META_PAIRS  9

typedef struct mux_meta {
    int n;
    struct {
        const char *key; /* borrowed for ever: a string literal */
        char value[MUX_META_VALUE];
    } pair[MUX_META_PAIRS];
} mux_meta;

/** checkpoint: name of the model in use, "" if unknown. With LX_METADATA_OFF the list is empty. */
void mux_meta_of_job(mux_meta *out, const lx_job *job, lx_mux_metadata mode,
                     const char *checkpoint);

/** For frames that come from no job: the version alone. */
void mux_meta_of_file(mux_meta *out);

/** The checkpoint's name from where its DiT lies: last folder or file, with its parent if that is
 *  only one of the published subfolders ("NAME/distill_int8"). At most out_bytes with the 0. */
void mux_meta_checkpoint(char *out, size_t out_bytes, const char *path);

/** Copy text as valid UTF-8: control characters are dropped (tab and line ends become a space),
 *  broken sequences become U+FFFD, and the end is cut at a character. out_bytes >= 4. */
void mux_text_clean(char *out, size_t out_bytes, const char *text);

#endif
