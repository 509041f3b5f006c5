/*
 * notify.h - what a service manager is told
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      systemd's protocol (sd_notify(3)): one datagram a message to $NOTIFY_SOCKET. Without
 *           that variable every call does nothing. The watchdog is fed by the loop that feeds the
 *           stages, so a launcher that hangs is one that stops feeding.
 * Tests     tests/launcher/test_notify.c
 */
#ifndef NOTIFY_H
#define NOTIFY_H

typedef struct notify {
    double every_s; /* of the watchdog; 0: there is none */
    double fed_s;
} notify;

/** Reads $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID. */
void notify_open(notify *n);

/** "READY=1", "STOPPING=1", "STATUS=..." */
void notify_say(const char *text);

/** Feed the watchdog if it is time. */
void notify_tick(notify *n, double now_s);

#endif
