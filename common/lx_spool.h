/*
 * lx_spool.h - latents on disk until their clip is there
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      DIR/spool/JOB.latent: minutes of denoising that survive the processes. The DiT stage
 *           writes and reads them (no tensor passes the launcher); the launcher keeps bytes and CRC
 *           in its journal, and removes what no job needs.
 * Promise   A file under its name is whole and synced. What is read has the CRC told, or is
 *           refused. Names are made from job ids, which cannot leave the folder; links are not
 *           followed.
 * Not here  When a job goes on from one: deploy/launcher/route.h.
 * Tests     tests/unit/test_spool.c, tests/pipeline/test_restart.c
 */
#ifndef LX_SPOOL_H
#define LX_SPOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_status.h"

/** Write it, sync it, give it its name. LX_EAGAIN: it could not be; nothing is left. */
lx_status lx_spool_write(const char *dir, const char *id, const void *bytes, uint64_t n,
                         uint32_t *crc, lx_err *err);
/** LX_EAGAIN: it is not there, or not what it was. dst is then undefined. */
lx_status lx_spool_read(const char *dir, const char *id, void *dst, uint64_t n, uint32_t crc,
                        lx_err *err);
/** Harmless if there is none. */
void lx_spool_remove(const char *dir, const char *id);
/** Remove all but those whose id is wanted. Returns how many went. */
int lx_spool_sweep(const char *dir, bool (*wanted)(void *self, const char *id), void *self);

#endif
