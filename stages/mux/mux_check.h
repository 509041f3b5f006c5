/*
 * mux_check.h - `lx2v-mux check`: does a clip decode, and how many frames are in it
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef MUX_CHECK_H
#define MUX_CHECK_H

/** argv after "check": FILE, an mp4 of ours. Prints JSON {"codec", "width", "height", "frames",
 *  "decoded"}; decoded is null where FFmpeg was built without a decoder for it. Exit code: 0, also
 *  if the two differ; 1 what is there cannot be read or decoded; 2 usage or no such file. */
int mux_check(int argc, char **argv);

#endif
