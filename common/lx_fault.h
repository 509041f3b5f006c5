/*
 * lx_fault.h - places where a test may break things on purpose
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      LX_FAULT("arena.alloc") stands where something can go wrong by itself: a call that the
 *           system may refuse, or a moment in which a process may die. Without -DLX2V_FAULTS=ON it
 *           is the number 0 and no code.
 * Armed by  LX2V_FAULT="arena.alloc:5+,dit/stage.compute:3:kill": rules with commas between.
 *             [PROGRAM/]POINT:N[+][:ACTION]   at the N-th visit, or from the N-th on
 *             PROGRAM  as in lx2v-PROGRAM; without, every program counts for itself
 *             ACTION   an errno (EIO, ENOSPC, ENOMEM, EAGAIN, EMFILE, EACCES; EIO if there is
 *                      none), kill, abort, stop, spin, nan, exit=STATUS, sleep=MILLISECONDS
 * Counted   in the process; with LX2V_FAULT_LEDGER=FILE in that file, so that a process that is
 *           started again counts on, and a test sees which points were visited.
 * Threads   Any.
 * Tests     tests/faults/test_points.c
 */
#ifndef LX_FAULT_H
#define LX_FAULT_H

#include <stdatomic.h>
#include <stdint.h>

#define LX_FAULT_NAN   (-1) /* not an errno: spoil the numbers */
#define LX_FAULT_NAMES 128  /* points of all programs in one ledger */

/* One line of the ledger file, which is LX_FAULT_NAMES of them. */
typedef struct lx_fault_count {
    char name[48]; /* "dit/stage.compute"; "": free, and so are all behind it */
    _Atomic uint64_t visits, fired;
} lx_fault_count;

#ifdef LX2V_FAULTS
/** 0: go on. An errno: behave as if the call had failed so. LX_FAULT_NAN: as it says. May not
 *  return at all. */
#define LX_FAULT(point) lx_fault_visit(point)
int lx_fault_visit(const char *point);
#else
#define LX_FAULT(point) lx_fault_none()
static inline int lx_fault_none(void)
{
    return 0;
}
#endif

#endif
