/*
 * counting_card.h - a card on which nothing runs: a test's own module counts what it is asked
 * SPDX-License-Identifier: Apache-2.0
 *
 * Which kernel is chosen, with which arguments, shows so on a machine without a card. Addresses are
 * numbers that nothing touches.
 */
#ifndef LX_TESTS_COUNTING_CARD_H
#define LX_TESTS_COUNTING_CARD_H

#include "check.h"
#include "cuda/lx_cuda_priv.h"

static const lx_card_kind hopper = {"NVIDIA H100", -1, 9, 0, 132, 232448, 80ull << 30, 0};
static const lx_card_kind held = {"NVIDIA H100", -1, 8, 6, 132, 101376, 80ull << 30, 90};
static const lx_card_kind rtx3060 = {"NVIDIA RTX 3060", -1, 8, 6, 28, 101376, 12ull << 30, 0};

typedef struct counting_card {
    lx_exec plan, x; /* plan: dry, from the first call on; x: from the second */
    lx_cuda cuda;
    lx_arena *dry, *host, *arena; /* owned */
} counting_card;

static inline void *at(uintptr_t address)
{
    return (void *)address;
}

static inline void counting_leave(void *self, void *memory)
{
    (void)self;
    (void)memory;
}

/* card: NULL is a Hopper. */
static inline void counting_plan(counting_card *c, const lx_card_kind *card)
{
    *c = (counting_card){0};
    check_ok(lx_arena_create_dry(&c->dry, err));
    check_ok(lx_arena_create_dry(&c->host, err));
    check_ok(lx_exec_plan_cuda(&c->plan, card ? card : &hopper, c->dry, c->host, err));
}

/* bytes: of scratch. */
static inline void counting_open(counting_card *c, const lx_cuda_module *module, size_t bytes)
{
    c->cuda = *c->plan.cuda;
    c->cuda.module = module;
    check_ok(lx_arena_create_on(&c->arena, at(0x10000000), bytes, counting_leave, NULL, err));
    check_ok(lx_exec_open_cuda(&c->x, &c->cuda, c->arena, c->arena, err));
}

static inline void counting_close(counting_card *c)
{
    assert_int_equal(lx_arena_mark(c->arena), 0);
    lx_exec_plan_done(&c->plan);
    lx_arena_destroy(&c->dry), lx_arena_destroy(&c->host), lx_arena_destroy(&c->arena);
}

#endif
