/*
 * submit.h - from what a client sent to a complete job, or a reason why not
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Fills in every default, draws the seed, checks against the limits of config.yaml and
 *           against the disk. After this no stage guesses.
 * Promise   Refuse early: what can be known now is not found out at minute three. Messages begin
 *           with the field and name no path.
 * Tests     tests/launcher/test_submit.c
 */
#ifndef SUBMIT_H
#define SUBMIT_H

#include "lx_config.h"
#include "lx_jobs.h"

/** Fill in what the client left open (0, "", -1), but for the seed. An empty id is drawn. */
lx_status submit_fill(lx_job *job, const lx_config *config, lx_err *err);

/** Draw a seed of 53 bits, so that it survives JSON. */
lx_status submit_draw_seed(lx_job *job, lx_err *err);

/** Hard limits and those of the config. LX_EJOB. */
lx_status submit_check(const lx_job *job, const lx_config *config, lx_err *err);

/** Is the output directory there and writable, the name free, the disk not full?
 *  LX_EJOB: name taken; LX_EAGAIN: no space, with figures; LX_ECONFIG: the directory. */
lx_status submit_check_output(const lx_job *job, const lx_config *config, lx_err *err);

/** Is there space for the clip, and with `spool` for its latent? LX_EAGAIN, with figures. A folder
 *  that cannot be asked counts as room enough: writing will tell. */
lx_status submit_check_space(const lx_job *job, const lx_config *config, bool spool, lx_err *err);

/** Is the clip of a job not seen to end there under its name all the same? Only where names
 *  are never taken twice (output.overwrite off): it was free at acceptance, and mux gives
 *  it to whole files only. bytes: of a file; 0: a folder. */
bool submit_is_made(const lx_entry *entry, const lx_config *config, uint64_t *bytes);

/** Does a filled request (seed may still be LX_SEED_DRAW) ask for what this entry is? */
bool submit_is_same(const lx_entry *entry, const lx_job *filled);

/** The field a message of these functions begins with, or "". */
void submit_field(char out[LX_LIMIT_WORD], const char *message);

#endif
