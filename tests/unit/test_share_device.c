/*
 * test_share_device.c - lending by way of a card: what is checked, and who may die when
 * SPDX-License-Identifier: Apache-2.0
 *
 * The card is a table of functions over memory that this process and its children share: it keeps
 * the rules of a driver (handles, ranges) and can be told to lie. The real one is tested in
 * tests/gpu/test_cuda_share.c.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_share_slot.h"

#define CARD_BYTES ((uint64_t)2 << 20)
#define SLOT_BYTES ((uint64_t)64 << 10)
#define N          10000 /* int32 in the tensor that is lent */
#define SECRET     "a handle that nobody can guess."

static char instance[33];

/* What every process sees of the card. */
typedef struct card {
    unsigned char memory[CARD_BYTES];
    int n_pulls, n_pushes, n_open; /* n_open: mappings of a borrower at this moment */
    bool is_lying;                 /* copies arrive with a byte changed */
    bool is_refusing, is_lost;     /* it will not open; it is gone */
    bool is_full;                  /* no memory for slots */
    lx_transport claim;
    pid_t kill_in_pull;    /* a lender that dies while its memory is open */
    lx_share *retire_from; /* a desk that takes back what is being read */
} card;

static card *the_card;

static lx_status fake_open(void *self, int n, const uint64_t *bytes, lx_share_export *out,
                           lx_err *err)
{
    card *c = self;
    uint64_t at = 512; /* a slot is not where the memory begins */
    if (c->is_full)
        return lx_fail(err, LX_EAGAIN, "no device memory at this moment");
    for (int i = 0; i < n; i++) {
        memcpy(out[i].memory, SECRET, sizeof SECRET);
        memcpy(out[i].card, "0123456789abcdef", 16);
        out[i].offset = at;
        out[i].bytes = bytes[i];
        at += bytes[i];
    }
    assert_true(at <= CARD_BYTES);
    return LX_OK;
}

static void fake_close(void *self)
{
    (void)self;
}

static lx_status fake_pin(void *self, void *memory, uint64_t bytes, lx_err *err)
{
    (void)self;
    (void)memory;
    return bytes < 4096 ? lx_fail(err, LX_EJOB, "too small") : LX_OK;
}

static void fake_unpin(void *self, void *memory)
{
    (void)self;
    assert_non_null(memory);
}

/* Slots are found as fake_open laid them out: equal ones, then the one for tests. */
static lx_status fake_push(void *self, int slot, const void *src, void *host, uint64_t bytes,
                           lx_err *err)
{
    card *c = self;
    if (c->is_lost)
        return lx_fail(err, LX_ESTAGE, "the card is lost");
    memcpy(c->memory + 512 + (uint64_t)slot * SLOT_BYTES, src ? src : host, bytes);
    if (src)
        memcpy(host, src, bytes);
    c->n_pushes++;
    return LX_OK;
}

static lx_transport fake_reach(void *self, const unsigned char uuid[16])
{
    card *c = self;
    return memcmp(uuid, "0123456789abcdef", 16) == 0 ? c->claim : LX_TRANSPORT_NONE;
}

static lx_status fake_pull(void *self, const lx_share_export *from, void *dst, uint64_t bytes,
                           double *held_s, lx_err *err)
{
    card *c = self;
    *held_s = 0.001;
    c->n_pulls++;
    if (c->is_lost)
        return lx_fail(err, LX_ESTAGE, "the card is lost");
    if (c->is_refusing || memcmp(from->memory, SECRET, sizeof SECRET))
        return lx_fail(err, LX_EJOB, "invalid handle");
    c->n_open++;
    if (c->kill_in_pull) {
        kill(c->kill_in_pull, SIGKILL);
        waitpid(c->kill_in_pull, NULL, 0);
        c->kill_in_pull = 0;
    }
    bool fits = from->offset <= CARD_BYTES && bytes <= CARD_BYTES - from->offset;
    if (fits)
        memcpy(dst, c->memory + from->offset, bytes);
    if (fits && c->is_lying)
        ((unsigned char *)dst)[bytes / 2] ^= 1;
    if (c->retire_from)
        lx_share_retire(c->retire_from, 1);
    c->n_open--;
    return fits ? LX_OK : lx_fail(err, LX_EJOB, "beyond the lender's memory");
}

static lx_status fake_copy(void *self, void *dst, const void *src, uint64_t bytes, lx_err *err)
{
    if (((card *)self)->is_lost)
        return lx_fail(err, LX_ESTAGE, "the card is lost");
    memmove(dst, src, bytes);
    return LX_OK;
}

static unsigned char scratch[LX_SHARE_TEST_BYTES], staging[7000]; /* no tensor is a multiple */

static lx_share_device device(void)
{
    return (lx_share_device){.self = the_card,
                             .scratch = scratch,
                             .staging = staging,
                             .staging_bytes = sizeof staging,
                             .open = fake_open,
                             .close = fake_close,
                             .pin = fake_pin,
                             .unpin = fake_unpin,
                             .push = fake_push,
                             .reach = fake_reach,
                             .pull = fake_pull,
                             .upload = fake_copy,
                             .download = fake_copy};
}

static int set_up(void **state)
{
    (void)state;
    snprintf(instance, sizeof instance, "%032x", (unsigned)getpid());
    the_card =
        mmap(NULL, sizeof *the_card, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return the_card == MAP_FAILED;
}

static int reset(void **state)
{
    (void)state;
    memset(the_card, 0, sizeof *the_card);
    the_card->claim = LX_TRANSPORT_IPC;
    lx_share_sweep(instance, 0);
    return 0;
}

static lx_share *open_desk(uint64_t epoch, const lx_share_device *d, bool is_exported)
{
    lx_share *desk = NULL;
    lx_err err = {0};
    lx_share_options o = {.instance = instance,
                          .epoch = epoch,
                          .n_slots = 2,
                          .slot_bytes = SLOT_BYTES,
                          .device = d,
                          .is_exported = is_exported,
                          .has_test_slot = true};
    if (lx_share_open_on(&desk, &o, &err) != LX_OK)
        fail_msg("%s", err.message);
    return desk;
}

static void ramp(int32_t *out)
{
    for (int i = 0; i < N; i++)
        out[i] = 7 * i + 1;
}

/* Lent from "the card": nobody has written into the slot. */
static lx_ticket lend_ramp(lx_share *desk)
{
    static int32_t values[N];
    lx_tensor t;
    lx_ticket ticket;
    lx_shape shape = LX_SHAPE(N);
    ramp(values);
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_I32, &shape, &t, NULL), LX_OK);
    assert_int_equal(lx_share_publish_from(desk, values, &ticket, NULL), LX_OK);
    return ticket;
}

static lx_status borrow(const lx_ticket *ticket, lx_transport by, lx_err *err)
{
    static int32_t got[N], want[N];
    lx_share_device d = device();
    memset(got, 0, sizeof got);
    lx_status status = by == LX_TRANSPORT_SHM
                           ? lx_share_borrow(ticket, instance, got, sizeof got, err)
                           : lx_share_borrow_on(ticket, instance, &d, by, got, sizeof got, err);
    ramp(want);
    if (status == LX_OK)
        assert_memory_equal(got, want, sizeof got);
    return status;
}

/* A lender in a process of its own; it lives until it is killed. */
static pid_t start_lender(uint64_t epoch, lx_ticket *ticket)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (!pid) {
        lx_share_device d = device();
        lx_share *desk = open_desk(epoch, &d, true);
        lx_ticket t = lend_ramp(desk);
        if (write(fds[1], &t, sizeof t) == sizeof t)
            pause();
        _exit(1);
    }
    assert_int_equal(read(fds[0], ticket, sizeof *ticket), sizeof *ticket);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static void end_lender(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* --- ways ------------------------------------------------------------------------------------ */

static void test_device_tensor_comes_by_every_way(void **state)
{
    (void)state;
    lx_ticket ticket;
    pid_t pid = start_lender(1, &ticket);
    assert_int_equal(the_card->n_pushes, 1);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_OK);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_PEER, NULL), LX_OK);
    assert_int_equal(the_card->n_pulls, 2);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_RING, NULL), LX_OK);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_SHM, NULL), LX_OK);
    assert_int_equal(the_card->n_pulls, 2);
    end_lender(pid);
}

static void test_device_publishes_what_the_host_wrote(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(2, &d, true);
    lx_tensor t;
    lx_ticket ticket;
    assert_true(lx_share_is_exported(desk));
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_I32, &LX_SHAPE(N), &t, NULL), LX_OK);
    ramp(t.data);
    assert_int_equal(lx_share_publish(desk, &ticket, NULL), LX_OK);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_OK);
    lx_share_close(&desk);
}

static void test_device_without_twins_is_borrowed_by_the_host(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_err err = {0};
    lx_share *desk = open_desk(3, &d, false);
    lx_ticket ticket = lend_ramp(desk);
    assert_int_equal(the_card->n_pushes, 0);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, &err), LX_EJOB);
    assert_int_equal(the_card->n_pulls, 0);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_RING, NULL), LX_OK);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_SHM, NULL), LX_OK);
    lx_share_close(&desk);
}

static void test_device_that_has_no_memory_says_so(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = NULL;
    lx_err err = {0};
    lx_share_options o = {.instance = instance,
                          .epoch = 4,
                          .n_slots = 2,
                          .slot_bytes = SLOT_BYTES,
                          .device = &d,
                          .is_exported = true};
    the_card->is_full = true;
    assert_int_equal(lx_share_open_on(&desk, &o, &err), LX_EAGAIN);
    assert_null(desk);
    assert_int_equal(lx_share_sweep(instance, 4), 0); /* no name is left */
    o.is_exported = false;
    assert_int_equal(lx_share_open_on(&desk, &o, &err), LX_OK);
    lx_share_close(&desk);
}

/* --- what is not believed -------------------------------------------------------------------- */

static void test_stale_ticket_opens_no_memory(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(5, &d, true);
    lx_ticket ticket = lend_ramp(desk), other = ticket;
    other.serial++;
    assert_int_equal(borrow(&other, LX_TRANSPORT_IPC, NULL), LX_EJOB);
    other = ticket;
    other.epoch = 4; /* and the name says 5 */
    assert_int_equal(borrow(&other, LX_TRANSPORT_IPC, NULL), LX_EJOB);
    assert_int_equal(the_card->n_pulls, 0);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_OK);
    lx_share_retire(desk, ticket.serial);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_EJOB);
    assert_int_equal(the_card->n_pulls, 1);
    lx_share_close(&desk);
}

static void test_slot_taken_back_under_the_copy_is_an_error(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_err err = {0};
    lx_share *desk = open_desk(6, &d, true);
    lx_ticket ticket = lend_ramp(desk);
    assert_int_equal(ticket.serial, 1);
    the_card->retire_from = desk;
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "retired while"));
    lx_share_close(&desk);
}

/* Write into a lent slot's header as a hostile lender would. */
static void forge(const lx_ticket *ticket, size_t offset, const void *bytes, size_t n)
{
    int fd = shm_open(ticket->name, O_RDWR, 0);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)offset), (ssize_t)n);
    close(fd);
}

static void test_forged_headers_are_refused(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(7, &d, true);
    lx_ticket ticket = lend_ramp(desk);
    const size_t export = offsetof(share_header, device);
    const size_t offset = export + offsetof(lx_share_export, offset);
    const size_t bytes = export + offsetof(lx_share_export, bytes);
    const struct {
        size_t at;
        uint64_t value, good;
        int n_pulls; /* whether the driver was asked */
    } cases[] = {
        {offsetof(share_header, kind), 77, SHARE_EXPORTED, 0},
        {offsetof(share_header, kind), SHARE_HOST, SHARE_EXPORTED, 0},
        {offsetof(share_header, magic), 1, SHARE_MAGIC, 0},
        {offsetof(share_header, bytes), 1 << 30, N * sizeof(int32_t), 0},
        {bytes, N * sizeof(int32_t) - 1, SLOT_BYTES, 0},
        {offset, UINT64_MAX, 512, 0},
        {offset, UINT64_MAX - N * sizeof(int32_t), 512, 0},
        {offset, CARD_BYTES - N * sizeof(int32_t) + 1, 512, 1},
        {export, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lx_err err = {0};
        uint64_t good = cases[i].good;
        if (cases[i].at == export)
            memcpy(&good, SECRET, sizeof good);
        the_card->n_pulls = 0;
        forge(&ticket, cases[i].at, &cases[i].value, sizeof cases[i].value);
        if (borrow(&ticket, LX_TRANSPORT_IPC, &err) != LX_EJOB)
            fail_msg("case %zu was believed", i);
        assert_int_equal(the_card->n_pulls, cases[i].n_pulls);
        assert_int_equal(the_card->n_open, 0);
        assert_null(strstr(err.message, "guess")); /* handles are not told */
        forge(&ticket, cases[i].at, &good, sizeof good);
        assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_OK);
    }
    lx_share_close(&desk);
}

static void test_lost_card_is_not_taken_for_a_bad_ticket(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(8, &d, true);
    lx_ticket ticket = lend_ramp(desk);
    lx_tensor t;
    the_card->is_lost = true;
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_ESTAGE);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_RING, NULL), LX_ESTAGE);
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_I32, &LX_SHAPE(N), &t, NULL), LX_OK);
    assert_int_equal(lx_share_publish(desk, &ticket, NULL), LX_ESTAGE);
    assert_int_equal(lx_share_free_slots(desk), 1); /* what was not published is free */
    lx_share_close(&desk);
}

/* --- deaths ---------------------------------------------------------------------------------- */

static void test_killed_lender_does_not_hurt_the_borrower(void **state)
{
    (void)state;
    lx_ticket ticket;
    the_card->kill_in_pull = start_lender(9, &ticket);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_OK); /* in the middle of it */
    assert_int_equal(the_card->kill_in_pull, 0);
    /* And after it: a driver refuses a dead process's handle, the slot is still there. */
    the_card->is_refusing = true;
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_IPC, NULL), LX_EJOB);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_RING, NULL), LX_OK);
    assert_int_equal(lx_share_sweep(instance, 9), 3);
    assert_int_equal(borrow(&ticket, LX_TRANSPORT_RING, NULL), LX_EJOB);
}

/* --- the test of a link ---------------------------------------------------------------------- */

static lx_link_result test_link(lx_share *desk, const lx_share_device *d, lx_transport_wish wish)
{
    static uint64_t seed;
    lx_ticket ticket, first;
    lx_link_result r;
    seed += 12345;
    assert_int_equal(lx_share_lend_test(desk, seed, &first, NULL), LX_OK);
    assert_int_equal(lx_share_lend_test(desk, seed, &ticket, NULL), LX_OK); /* the first is void */
    assert_true(first.serial != ticket.serial);
    assert_int_equal(lx_share_free_slots(desk), 2); /* it takes no tensor's place */
    assert_int_equal(lx_share_test(&ticket, instance, d, wish, seed, &r, NULL), LX_OK);
    lx_share_retire(desk, ticket.serial);
    return r;
}

/* Twins of the desk's slots are SLOT_BYTES apart; the test's slot is behind them. */
static void test_link_takes_the_best_that_works(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(10, &d, true);
    lx_link_result r = test_link(desk, &d, LX_WISH_AUTO);
    assert_int_equal(r.transport, LX_TRANSPORT_IPC);
    assert_string_equal(r.why, "");
    assert_true(r.ms > 0 && r.ms < 1000);
    the_card->claim = LX_TRANSPORT_PEER;
    assert_int_equal(test_link(desk, &d, LX_WISH_AUTO).transport, LX_TRANSPORT_PEER);
    the_card->claim = LX_TRANSPORT_NONE;
    assert_int_equal(test_link(desk, &d, LX_WISH_AUTO).transport, LX_TRANSPORT_RING);
    the_card->n_pulls = 0;
    assert_int_equal(test_link(desk, &d, LX_WISH_RING).transport, LX_TRANSPORT_RING);
    assert_int_equal(test_link(desk, NULL, LX_WISH_IPC).transport, LX_TRANSPORT_RING);
    assert_int_equal(the_card->n_pulls, 0);
    lx_share_close(&desk);
    desk = open_desk(11, NULL, false); /* nobody has a card */
    assert_int_equal(test_link(desk, NULL, LX_WISH_IPC).transport, LX_TRANSPORT_SHM);
    assert_int_equal(test_link(desk, &d, LX_WISH_IPC).transport, LX_TRANSPORT_RING);
    lx_share_close(&desk);
}

static void test_link_that_lies_falls_back(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(12, &d, true);
    the_card->is_lying = true;
    lx_link_result r = test_link(desk, &d, LX_WISH_AUTO);
    assert_int_equal(r.transport, LX_TRANSPORT_RING);
    assert_non_null(strstr(r.why, "cuda ipc: byte 131072 of 262144"));
    the_card->is_lying = false;
    the_card->is_refusing = true;
    r = test_link(desk, &d, LX_WISH_AUTO);
    assert_int_equal(r.transport, LX_TRANSPORT_RING);
    assert_non_null(strstr(r.why, "invalid handle"));
    lx_share_close(&desk);
}

static void test_link_that_is_insisted_on_fails(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(13, &d, true);
    lx_link_result r = test_link(desk, &d, LX_WISH_PEER);
    assert_int_equal(r.transport, LX_TRANSPORT_NONE);
    assert_non_null(strstr(r.why, "peer copy is asked for"));
    assert_int_equal(test_link(desk, &d, LX_WISH_IPC).transport, LX_TRANSPORT_IPC);
    the_card->is_refusing = true;
    r = test_link(desk, &d, LX_WISH_IPC);
    assert_int_equal(r.transport, LX_TRANSPORT_NONE);
    assert_non_null(strstr(r.why, "invalid handle"));
    lx_share_close(&desk);
}

static void test_link_of_stale_or_small_tensors_has_no_transport(void **state)
{
    (void)state;
    lx_share_device d = device();
    lx_share *desk = open_desk(14, &d, true);
    lx_link_result r;
    lx_ticket ticket = lend_ramp(desk);
    assert_int_equal(lx_share_test(&ticket, instance, &d, LX_WISH_AUTO, 1, &r, NULL), LX_OK);
    assert_int_equal(r.transport, LX_TRANSPORT_NONE);
    assert_non_null(strstr(r.why, "40000 bytes"));
    lx_share_retire(desk, ticket.serial);
    assert_int_equal(lx_share_test(&ticket, instance, &d, LX_WISH_AUTO, 1, &r, NULL), LX_OK);
    assert_int_equal(r.transport, LX_TRANSPORT_NONE);
    assert_non_null(strstr(r.why, "stale"));
    the_card->is_lost = true;
    assert_int_equal(lx_share_lend_test(desk, 1, &ticket, NULL), LX_ESTAGE);
    lx_share_close(&desk);
}

#define WITH_CARD(test) cmocka_unit_test_setup(test, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CARD(test_device_tensor_comes_by_every_way),
        WITH_CARD(test_device_publishes_what_the_host_wrote),
        WITH_CARD(test_device_without_twins_is_borrowed_by_the_host),
        WITH_CARD(test_device_that_has_no_memory_says_so),
        WITH_CARD(test_stale_ticket_opens_no_memory),
        WITH_CARD(test_slot_taken_back_under_the_copy_is_an_error),
        WITH_CARD(test_forged_headers_are_refused),
        WITH_CARD(test_lost_card_is_not_taken_for_a_bad_ticket),
        WITH_CARD(test_killed_lender_does_not_hurt_the_borrower),
        WITH_CARD(test_link_takes_the_best_that_works),
        WITH_CARD(test_link_that_lies_falls_back),
        WITH_CARD(test_link_that_is_insisted_on_fails),
        WITH_CARD(test_link_of_stale_or_small_tensors_has_no_transport),
    };
    return cmocka_run_group_tests(tests, set_up, reset);
}
