/*
 * fault.h - breaking a running pipeline on purpose, and proving what is left of it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      On top of the pipeline rig: fault points armed at the start of a launcher, the ledger
 *           of what leaks, and the history of what a driver asked and was told.
 * Names     A test is called test_ID_behaviour, with the fault's id from docs/reliability.md (p08,
 *           g02, ...): the table there is made from these names.
 */
#ifndef FAULT_H
#define FAULT_H

#include "pipeline/rig.h"

#include "lx_fault.h"

/* Ends the test as skipped where the build has no fault points. */
#ifdef LX2V_FAULTS
#define NEEDS_POINTS() ((void)0)
#else
#define NEEDS_POINTS() skip()
#endif

/** Start a launcher and a client with these rules (common/lx_fault.h) for it and its stages; NULL:
 *  none. Counts are kept across restarts. */
void fault_start(rig *r, const char *rules, const char *config);
/** The same in two steps; fault_arm before any launch. */
void fault_arm(const rig *r, const char *rules);
void fault_open(rig *r);
/** Wait until some stage has this job. */
void fault_wait_running(rig *r, const char *id);
/** What the launcher's ledger says of "dit/stage.compute"; {0}: never visited. */
typedef struct fault_visits {
    uint64_t visits, fired;
} fault_visits;
fault_visits fault_seen(const rig *r, const char *name);

/* --- other programs --------------------------------------------------------------------------- */

/** A folder of programs of this rig alone: a copy of the launcher, which looks for stages beside
 *  itself, and links to the stages. After rig_make, before any launch. */
void fault_programs(rig *r);
/** Let this one be something else: a link to a program of the build's tests, or a script. */
void fault_link(rig *r, const char *name, const char *target);
void fault_script(rig *r, const char *name, const char *text);

/* --- what leaks ------------------------------------------------------------------------------- */

typedef struct leak_ledger {
    int shm_names;   /* of this instance */
    int children;    /* of the launcher */
    int parts;       /* in the output folder */
    int fds[5];      /* launcher, encoder, dit, vae, mux */
    int state_files; /* saved latents among them */
} leak_ledger;

/** Count. Every stage must be ready, and no job under way. */
leak_ledger leak_count(rig *r);
/** Fails the test with the first figure that grew. Waits a moment for what is just being closed. */
void leak_check(rig *r, const leak_ledger *before);

/* --- history ---------------------------------------------------------------------------------- */

/* Lines of text, flushed one by one: "ask ID SEED", "told ID accepted|again|refused TEXT",
 * "end ID done|failed|cancelled HASH TEXT". */
typedef struct history {
    FILE *file;
    char path[128];
} history;

void history_open(history *h, const rig *r);
/** Submit with this seed and write down both sides. True: accepted (again). */
bool history_submit(history *h, rig *r, const char *id, int64_t seed);
/** Ask for the end of a job, waiting that long, and write it down. */
lx_client_state history_end(history *h, rig *r, const char *id, double seconds);
/** Promises 1 to 4 and 10: history_judge over the history and the output folder; fails the test
 *  with its words. Closes h. */
void history_check(history *h, const rig *r);

#endif
