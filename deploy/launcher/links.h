/*
 * links.h - which way tensors go between two processes, tried
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      For every pair of a lender and a borrower: once both are ready, asks the lender for a
 *           test tensor, gives it to the borrower, and keeps what that says works. One line in the
 *           log for each link, and again when a link turns out worse in a job.
 * Promise   A process that was restarted is tested again. A link that is not tested, or failed,
 *           stops no job: tensors always come through host memory as well. A test holds one slot
 *           of its own at the lender, which is given back whoever dies meanwhile.
 * Not here  Choosing: the borrower does that (common/lx_share.h), the config says what is allowed.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_links.c
 *
 *   UNTESTED --both ready--> ASKED --lent--> TESTING --result--> KNOWN
 *       ^                      |               |                   |   death of either end
 *       +----------------------+---------------+-------------------+
 */
#ifndef LINKS_H
#define LINKS_H

#include "lx_config.h"
#include "lx_msg.h"

typedef struct links links;

typedef struct links_options {
    const lx_config *config; /* borrowed for the object's life, like all below */
    const char *instance;
    /* false: the process cannot take it; it is then killed */
    bool (*send)(void *self, lx_stage_kind kind, int replica, const lx_msg *msg);
    void (*kill)(void *self, lx_stage_kind kind, int replica, const char *why);
    void *self;
} links_options;

lx_status links_create(links **out, const links_options *options, lx_err *err);
void links_destroy(links **l);

/** The replica said ready; epoch: of this process. */
void links_up(links *l, lx_stage_kind kind, int replica, uint64_t epoch, double now_s);
void links_down(links *l, lx_stage_kind kind, int replica);
/** LINK_LENT or LINK_RESULT from a replica that is up. */
void links_message(links *l, lx_stage_kind kind, int replica, const lx_msg *msg);
/** Begin the tests that can begin. */
void links_pump(links *l);

/** No test is outstanding, or not for long enough to wait for it. */
bool links_settled(const links *l, double now_s);
/** A link that has no transport which the config allows: "link ...: why"; NULL: none. Borrowed
 *  until the next call into l. */
const char *links_refused(links *l);

int links_count(const links *l);
/** Fill a LINK_INFO. */
void links_info(const links *l, int i, lx_msg *out);

#endif
