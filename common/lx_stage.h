/*
 * lx_stage.h - the one loop that all four stages share
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Joins the launcher (token and endpoint come down an inherited descriptor), beats from a
 *           control thread, takes jobs, hears cancel, lends and borrows tensors. A stage's main
 *           only opens, loads, says ready, and runs its handler.
 * Promise   The handler runs on the thread that called lx_stage_run, one job at a time. Whatever it
 *           returns is reported: LX_OK -> done, LX_EJOB -> failed and on to the next, LX_ECANCEL ->
 *           aborted, anything else ends the loop and the process. The process dies with its
 *           launcher (PDEATHSIG, and end of the control socket).
 * Threads   Only the working thread may call functions of this header.
 * Tests     tests/pipeline
 */
#ifndef LX_STAGE_H
#define LX_STAGE_H

#include "lx_config.h"
#include "lx_progress.h"
#include "lx_share.h"

typedef struct lx_stage lx_stage;
typedef struct lx_stage_job lx_stage_job;

typedef lx_status (*lx_job_fn)(void *model, lx_stage_job *job, lx_err *err);

/** Parses `--config FILE --replica N --handover FD [--shared FD] [--settings FD] [--vram BYTES]
 *  [--ram BYTES] [--lease 1]` as the launcher passes them. settings: the config as the launcher
 *  follows it; without, FILE is read. */
lx_status lx_stage_open(lx_stage **out, int argc, char **argv, lx_stage_kind kind, lx_err *err);
const lx_config *lx_stage_config_of(const lx_stage *stage);
const lx_replica_config *lx_stage_replica(const lx_stage *stage);
/** For lx_weights_options: memory that all replicas of this stage share; 0: none. */
int lx_stage_shared_fd(const lx_stage *stage);
/** Bytes of its card, context included, and of host memory, shared weights included, that the plan
 *  gives this process; 0: nothing was planned. */
uint64_t lx_stage_vram(const lx_stage *stage);
uint64_t lx_stage_ram(const lx_stage *stage);
/** Feeds the beat while loading (unit "byte") and while working. */
const lx_progress *lx_stage_progress(lx_stage *stage);

/** This stage computes on a card: slots are pinned for it, and it borrows there. device: borrowed
 *  until lx_stage_leave_card. Before the desk is made. */
void lx_stage_on_card(lx_stage *stage, const lx_share_device *device);
/** The card is about to be closed; so is the desk. Harmless when repeated. */
void lx_stage_leave_card(lx_stage *stage);

/** Make the lending desk: how many tensors of at most slot_bytes may be out at once. */
lx_status lx_stage_lends(lx_stage *stage, int n_slots, uint64_t slot_bytes, lx_err *err);
/** Will a desk of this stage have slots in the card's memory as well? For memory plans. */
bool lx_stage_wants_twins(const lx_config *config, lx_stage_kind kind);
/** The same with them, where the config and the next stage's devices have a use for that.
 *  LX_ECONFIG: the config insists, and the card cannot. */
lx_status lx_stage_lends_on_card(lx_stage *stage, int n_slots, uint64_t slot_bytes, lx_err *err);

/* Device memory that a stage can give back and take again between two jobs. */
typedef struct lx_stage_arena {
    lx_status (*take)(void *self, lx_err *err); /* LX_EAGAIN: not there at this moment */
    void (*give)(void *self);                   /* all of it, so that others can have it */
    void *self;                                 /* borrowed until lx_stage_close */
    uint64_t bytes;                             /* that take() takes */
    int card;                                   /* whose, in PCI order */
} lx_stage_arena;

/**
 * Take the memory for the first time, and from then on before each job, if it was given back: when
 * the plan lets the stages of a card take turns, and another one waits. While other programs have
 * the memory, this waits and names them.
 *
 * @retval LX_ECANCEL  told to stop
 */
lx_status lx_stage_hold(lx_stage *stage, const lx_stage_arena *arena, lx_err *err);
/** False: what was taken once stays. */
bool lx_stage_takes_turns(const lx_stage *stage);

/** Weights are loaded and a self-test ran: from here on jobs may arrive. */
void lx_stage_ready(lx_stage *stage, const char *weights_id, uint64_t weight_bytes,
                    uint64_t arena_bytes);
lx_status lx_stage_run(lx_stage *stage, lx_job_fn on_job, void *model, lx_err *err);
/** Logs err if it is a failure. */
void lx_stage_close(lx_stage **stage, const lx_err *err);

/* --- inside a handler ------------------------------------------------------------------------ */

const lx_job *lx_stage_job_of(const lx_stage_job *job);
/** How often the launcher has thrown work of this job away: 0 for the first try. */
int lx_stage_attempt(const lx_stage_job *job);

/** Shape of the input artifact, before borrowing it. LX_EJOB if the job came without one. */
lx_status lx_stage_input_shape(lx_stage_job *job, lx_dtype *dtype, lx_shape *shape, lx_err *err);
/** Copy the input artifact (context, latent) into dst and release it. */
lx_status lx_stage_borrow(lx_stage_job *job, void *dst, uint64_t dst_bytes, lx_err *err);
/** The same into the card's memory, by the best transport that passed the link's test. */
lx_status lx_stage_borrow_on_card(lx_stage_job *job, void *dst_device, uint64_t dst_bytes,
                                  lx_err *err);

/** Mux: wait for the next chunk of frames. LX_ECANCEL if the job is aborted meanwhile. shape is
 *  I420 as U8 [frames, height * 3/2, width]. *is_last: no more will come. */
lx_status lx_stage_next_chunk(lx_stage_job *job, void *dst, uint64_t dst_bytes, lx_shape *shape,
                              bool *is_last, lx_err *err);

/** Wait for a free slot (cancellable) and shape it; fill out->data, then publish it. */
lx_status lx_stage_lend(lx_stage_job *job, lx_dtype dtype, const lx_shape *shape, lx_tensor *out,
                        lx_err *err);
lx_status lx_stage_publish(lx_stage_job *job, bool is_last, lx_err *err);
/** The same with the bytes in the card's memory, where the work queued so far leaves them; nothing
 *  was written to out->data. */
lx_status lx_stage_publish_from_card(lx_stage_job *job, const void *src_device, bool is_last,
                                     lx_err *err);

/** Bytes of the latent that an earlier attempt of this job left in the spool (lx_spool.h), so that
 *  it need not be made again; 0: none. */
uint64_t lx_stage_saved(const lx_stage_job *job, uint32_t *crc);

/* Facts for the done message; zero unless the handler sets them. */
void lx_stage_note_tokens(lx_stage_job *job, int n_tokens, int n_dropped);
/** Seconds of each denoising step, at most LX_LIMIT_STEPS of them. */
void lx_stage_note_steps(lx_stage_job *job, int n, const double *step_s);
/** Its latent is in the spool now. */
void lx_stage_note_saved(lx_stage_job *job, uint64_t bytes, uint32_t crc);
void lx_stage_note_file(lx_stage_job *job, int n_frames, uint64_t file_bytes);
void lx_stage_note(lx_stage_job *job, const char *notice); /* one line for the user */

#endif
