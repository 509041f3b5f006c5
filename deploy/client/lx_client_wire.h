/*
 * lx_client_wire.h - between the client's plain structs and control messages
 * SPDX-License-Identifier: Apache-2.0
 *
 * Private to lx_client*.c.
 */
#ifndef LX_CLIENT_WIRE_H
#define LX_CLIENT_WIRE_H

#include "lx_client.h"
#include "lx_msg.h"

/** Copy a request into a SUBMIT message: what is unset is 0, "" or -1 there. LX_ECONFIG: too long
 *  or out of range. msg->job is set to the id, a drawn one if the request has none. */
lx_status lx_wire_submit(lx_msg *msg, const lx_client_request *request, lx_err *err);

void lx_wire_job(lx_client_job *out, const lx_msg *msg);
void lx_wire_stage(lx_client_stage *out, const lx_msg *msg);
void lx_wire_link(lx_client_link *out, const lx_msg *msg);
void lx_wire_event(lx_client_event *out, const lx_msg *msg);
void lx_wire_accepted(lx_client_accepted *out, const lx_msg *msg);
void lx_wire_summary(lx_client_summary *out, const lx_msg *msg);

#endif
