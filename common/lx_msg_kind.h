/*
 * lx_msg_kind.h - which control messages there are, and who sends them to whom
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The whole vocabulary between launcher, stages and clients; what stands in each message:
 *           lx_msg.h.
 */
#ifndef LX_MSG_KIND_H
#define LX_MSG_KIND_H

typedef enum lx_msg_kind {
    LX_MSG_NONE,
    /* stage -> launcher */
    LX_MSG_HELLO,    /* first words of a stage: proves it by its token */
    LX_MSG_READY,    /* weights loaded, self-test passed */
    LX_MSG_BEAT,     /* once a second, and whenever a unit is done */
    LX_MSG_STARTED,  /* computing of a job begins */
    LX_MSG_ARTIFACT, /* a tensor is lent: context, latent, or a chunk of frames */
    LX_MSG_RELEASED, /* a borrowed tensor was copied and closed */
    LX_MSG_DONE,     /* this stage's part of the job is over */
    LX_MSG_FAILED,   /* likewise, without result */
    /* launcher -> stage */
    LX_MSG_JOB,    /* begin, with the input's ticket (none for encoder and mux) */
    LX_MSG_INPUT,  /* next chunk of frames for a running job */
    LX_MSG_RETIRE, /* a lent tensor is not needed any more */
    LX_MSG_ABORT,  /* stop this job: cancelled, or another stage of it died */
    LX_MSG_STOP,   /* finish nothing, leave */
    /* client -> launcher; req is echoed in the answer */
    LX_MSG_SUBMIT,
    LX_MSG_QUERY,   /* -> JOB_INFO*, STAGE_INFO* and LINK_INFO* (if asked), END */
    LX_MSG_WATCH,   /* -> OK, then EVENT until the client leaves */
    LX_MSG_COMMAND, /* cancel, retry, pause, resume, drain, shutdown, hello -> OK or REFUSED */
    /* launcher -> client */
    LX_MSG_OK,
    LX_MSG_REFUSED,
    LX_MSG_ACCEPTED,
    LX_MSG_JOB_INFO,
    LX_MSG_STAGE_INFO,
    LX_MSG_END,
    LX_MSG_EVENT,
    /* tests of links: launcher -> lender -> launcher -> borrower -> launcher */
    LX_MSG_LINK_ASK,    /* lend a tensor made from this seed */
    LX_MSG_LINK_LENT,   /* here it is; serial 0: text says why not */
    LX_MSG_LINK_TEST,   /* borrow it by all transports, compare, say what works */
    LX_MSG_LINK_RESULT, /* what works; with seed 0: what is left after one failed in a job */
    LX_MSG_LINK_INFO,   /* launcher -> client */
    /* a card's memory, in turn (deploy/launcher/leases.h) */
    LX_MSG_LEASE,   /* stage: so much is wanted; launcher: it is yours */
    LX_MSG_RELEASE, /* launcher: give it back after your job; stage: it is given back */
    LX_MSG_KIND_COUNT
} lx_msg_kind;

const char *lx_msg_kind_name(lx_msg_kind kind);

typedef enum lx_job_state {
    LX_JOB_QUEUED,
    LX_JOB_RUNNING,
    LX_JOB_DONE,
    LX_JOB_FAILED,
    LX_JOB_CANCELLED,
    LX_JOB_STATE_COUNT
} lx_job_state;

const char *lx_job_state_name(lx_job_state state); /* "queued", "running", ... */

typedef enum lx_command {
    LX_COMMAND_HELLO, /* -> OK, text = output directory */
    LX_COMMAND_CANCEL,
    LX_COMMAND_RETRY,
    LX_COMMAND_PAUSE, /* start no more jobs */
    LX_COMMAND_RESUME,
    LX_COMMAND_DRAIN,    /* accept no more jobs; answer OK when the queue is empty */
    LX_COMMAND_SHUTDOWN, /* orderly stop; answer OK at once */
    LX_COMMAND_RELEASE,  /* pause, and give the memory of devices back until resume */
    LX_COMMAND_COUNT
} lx_command;

#endif
