/*
 * mux_codecs.h - what the FFmpeg libraries found here can write
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef MUX_CODECS_H
#define MUX_CODECS_H

/** `lx2v-mux codecs`: one line of JSON on stdout, for `lx2v doctor`, which links no FFmpeg. Returns
 *  the exit code. */
int mux_codecs(void);

#endif
