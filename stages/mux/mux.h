/*
 * mux.h - the last stage: frames in, a file that people can play out
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Borrows chunks of I420 frames while the VAE still decodes, encodes them at once, and
 *           puts the finished clip into the output directory under the job's name.
 *             frames  U8 [n, height * 3/2, width] per chunk: planes Y, U, V of each frame packed
 *             video   NAME (mp4, or a folder of PNG files), plus frames and bytes for the report
 * Promise   Same frames, config and build: same bytes. A cancelled or failed job leaves nothing.
 * Memory    One chunk of the largest clip, taken at start; the encoder's own memory is libavcodec's
 *           and is given back after each clip.
 * Tests     tests/stages/test_mux_*.c
 *
 * Treacherous details
 *   libswscale guesses BT.601 unless told               test_mux_colour
 *   faststart opens the file again, by URL               test_mux_video (moov before mdat)
 *   mp4 drops unknown metadata keys without a flag       test_mux_video (metadata)
 *   a disk fills up behind the back of buffered writes   test_mux_clip (limits and tmpfs)
 *   two mux processes sweep the same directory           test_mux_path (a locked part stays)
 */
#ifndef MUX_H
#define MUX_H

#include "lx_stage.h"

typedef struct mux mux;

/** Prepare and sweep the output directory, take memory, encode a few frames as a self-test.
 *  All arguments: borrowed until mux_destroy. LX_ECONFIG: directory, codec or preset. */
lx_status mux_load(mux **out, const lx_config *config, const lx_replica_config *replica,
                   const lx_progress *progress, lx_err *err);
uint64_t mux_arena_bytes(const mux *model);
void mux_destroy(mux **model);

/** lx_job_fn: model is a mux. */
lx_status mux_on_job(void *model, lx_stage_job *job, lx_err *err);

/** Bytes of the largest chunk of frames that a config allows. */
uint64_t mux_chunk_bytes(const lx_config *config);

/** `lx2v-mux plan ...`, lx_plan.h: arguments after "plan". Returns the exit code. */
int mux_plan_main(int argc, char **argv);

/** `lx2v-mux run ...`: arguments after "run". Returns the exit code. */
int mux_run(int argc, char **argv);

#endif
