/*
 * lx_crc32c.h - has a bit changed on the way to the disk and back?
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      CRC-32C (Castagnoli; RFC 3720), of the journal's records and of saved latents. It finds
 *           accidents; against intent it is no protection.
 * Tests     tests/launcher/test_journal.c
 */
#ifndef LX_CRC32C_H
#define LX_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/** Go on from crc (0 to begin) with n more bytes. */
uint32_t lx_crc32c(uint32_t crc, const void *bytes, size_t n);

#endif
