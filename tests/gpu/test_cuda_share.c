/*
 * test_cuda_share.c - a card's memory lent between two processes: bytes, order, deaths, forgeries
 * SPDX-License-Identifier: Apache-2.0
 *
 * The other process is this program started again (--other FD FD DEVICE): it lends or borrows as it
 * is told. With a second card (LX2V_TEST_DEVICE2=N, else the next one) the same is tried across.
 */
#include "gpu.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda/cu_share.h"
#include "cuda/lx_cuda_priv.h"
#include "lx_cuda_share.h"
#include "lx_share.h"

#define MIB        ((uint64_t)1 << 20)
#define SLOT       (8 * MIB + 1000) /* no multiple of anything */
#define N_SLOTS    2
#define ROUNDS     1000
#define HELD_MEANT 0.05
#define BUSY_S     0.5 /* of the card's time, ahead of a tensor */

static char instance[33];
static gpu g;
static lx_cuda_share *share;
static const lx_share_device *device;

/* --- the conversation ------------------------------------------------------------------------ */

typedef enum order { ORDER_PULL, ORDER_BORROW, ORDER_TEST, ORDER_LEND, ORDER_END } order;

typedef struct question {
    order order;
    uint64_t seed, bytes;
    lx_share_export from;   /* PULL */
    lx_ticket ticket;       /* BORROW, TEST */
    lx_transport by;        /* BORROW */
    lx_transport_wish wish; /* TEST */
} question;

typedef struct answer {
    lx_status status;
    int64_t bad;         /* first wrong byte; -1: none */
    double held_s, in_s; /* memory was open; from question to answer */
    lx_transport reach;  /* PULL: what the driver claims */
    lx_link_result link; /* TEST */
    lx_share_export from;
    lx_ticket ticket; /* LEND: both */
    char text[256];
} answer;

static void put(int fd, const void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, (const char *)data + done, n - done);
        if (k <= 0)
            _exit(9);
        done += (size_t)k;
    }
}

static bool get(int fd, void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = read(fd, (char *)data + done, n - done);
        if (k <= 0)
            return false;
        done += (size_t)k;
    }
    return true;
}

/* Bytes that differ everywhere between seeds and between places. */
static unsigned char byte_of(uint64_t seed, uint64_t i)
{
    uint64_t z = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xd1342543de82ef95);
    z ^= z >> 29;
    z *= UINT64_C(0xbf58476d1ce4e5b9);
    return (unsigned char)(z >> 56);
}

static void fill(unsigned char *out, uint64_t seed, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = byte_of(seed, i);
}

/* --- the other process ----------------------------------------------------------------------- */

typedef struct other {
    lx_exec x;
    void *dst; /* on the card, SLOT bytes */
    unsigned char *got;
} other;

/* What arrived, against what was lent. */
static void judge(other *o, const question *q, answer *a)
{
    lx_err err = {0};
    a->bad = -1;
    if (a->status != LX_OK)
        return;
    a->status = lx_download(&o->x, o->got, o->dst, (size_t)q->bytes, &err);
    for (uint64_t i = 0; i < q->bytes && a->bad < 0; i++)
        if (o->got[i] != byte_of(q->seed, i))
            a->bad = (int64_t)i;
}

static lx_status serve_lender(other *o, const question *q, answer *a, lx_err *err)
{
    static lx_share *desk;
    lx_tensor t;
    lx_share_options options = {.instance = instance,
                                .epoch = (uint64_t)getpid(),
                                .n_slots = N_SLOTS,
                                .slot_bytes = SLOT,
                                .device = device,
                                .is_exported = true,
                                .has_test_slot = true};
    lx_shape shape = LX_SHAPE((int64_t)q->bytes);
    fill(o->got, q->seed, q->bytes);
    lx_status status = lx_share_open_on(&desk, &options, err);
    if (status == LX_OK)
        status = lx_upload(&o->x, o->dst, o->got, (size_t)q->bytes, err);
    if (status == LX_OK)
        status = lx_share_begin(desk, LX_DTYPE_U8, &shape, &t, err);
    if (status == LX_OK)
        status = lx_share_publish_from(desk, o->dst, &a->ticket, err);
    return status;
}

static void serve(other *o, const question *q, answer *a)
{
    lx_err err = {0};
    double from_s = gpu_now_s();
    gpu_must(lx_zero(&o->x, o->dst, SLOT, &err), &err);
    gpu_must(lx_exec_wait(&o->x, &err), &err);
    if (q->order == ORDER_PULL) {
        a->reach = device->reach(device->self, q->from.card);
        a->status = device->pull(device->self, &q->from, o->dst, q->bytes, &a->held_s, &err);
    } else if (q->order == ORDER_BORROW) {
        a->status = lx_share_borrow_on(&q->ticket, instance, device, q->by, o->dst, SLOT, &err);
    } else if (q->order == ORDER_TEST) {
        a->status = lx_share_test(&q->ticket, instance, device, q->wish, q->seed, &a->link, &err);
    } else {
        a->status = serve_lender(o, q, a, &err);
    }
    a->in_s = gpu_now_s() - from_s;
    if (q->order == ORDER_PULL || q->order == ORDER_BORROW)
        judge(o, q, a);
    snprintf(a->text, sizeof a->text, "%.250s", err.message);
}

static int be_other(int in, int out, int index)
{
    lx_err err = {0};
    lx_cuda *cuda = NULL;
    lx_arena *arena = NULL, *host = NULL;
    other o = {.got = malloc(SLOT)};
    question q;
    gpu_must(lx_cuda_open(&cuda, index, getenv("LX2V_TEST_MODULE"), &err), &err);
    gpu_must(lx_cuda_arena(cuda, SLOT + 4096, &arena, &err), &err);
    gpu_must(lx_arena_create(&host, 4096, &err), &err);
    gpu_must(lx_exec_open_cuda(&o.x, cuda, arena, host, &err), &err);
    gpu_must(lx_arena_take(arena, SLOT, &o.dst, &err), &err);
    gpu_must(lx_cuda_share_open(&share, cuda, &err), &err);
    device = lx_cuda_share_device(share);
    char ready = 'r';
    put(out, &ready, 1);
    while (o.got && get(in, &q, sizeof q) && q.order != ORDER_END) {
        answer a;
        memset(&a, 0, sizeof a);
        serve(&o, &q, &a);
        put(out, &a, sizeof a);
    }
    return 0;
}

typedef struct process {
    pid_t pid;
    int in, out;
} process;

static process start(int index)
{
    int to[2], from[2];
    char in_text[16], out_text[16], index_text[16], ready = 0;
    process p = {0};
    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    snprintf(in_text, sizeof in_text, "%d", to[0]);
    snprintf(out_text, sizeof out_text, "%d", from[1]);
    snprintf(index_text, sizeof index_text, "%d", index);
    p.pid = fork();
    if (!p.pid) {
        close(to[1]);
        close(from[0]);
        execl("/proc/self/exe", "test_cuda_share", "--other", in_text, out_text, index_text,
              instance, (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p.in = from[0];
    p.out = to[1];
    if (!get(p.in, &ready, 1))
        fail_msg("the other process did not come up on card %d", index);
    return p;
}

static answer ask(const process *p, const question *q)
{
    answer a;
    memset(&a, 0, sizeof a);
    put(p->out, q, sizeof *q);
    if (!get(p->in, &a, sizeof a))
        fail_msg("the other process is gone");
    return a;
}

static void end(process *p, bool kill_it)
{
    if (kill_it)
        kill(p->pid, SIGKILL);
    close(p->out);
    close(p->in);
    waitpid(p->pid, NULL, 0);
}

static void expect_good(const answer *a, const char *what)
{
    if (a->status != LX_OK)
        fail_msg("%s: %s", what, a->text);
    if (a->bad >= 0)
        fail_msg("%s: first wrong byte at %lld", what, (long long)a->bad);
}

/* --- this process as lender ------------------------------------------------------------------ */

static void *source;               /* on the card, SLOT bytes */
static unsigned char *host_source; /* the same here */

static void open_slots(lx_share_export *out)
{
    uint64_t bytes[N_SLOTS];
    for (int i = 0; i < N_SLOTS; i++)
        bytes[i] = SLOT;
    memset(out, 0, N_SLOTS * sizeof *out);
    gpu_ok(device->open(device->self, N_SLOTS, bytes, out, err));
}

static void put_source(uint64_t seed)
{
    fill(host_source, seed, SLOT);
    gpu_ok(lx_upload(&g.x, source, host_source, SLOT, err));
    gpu_ok(lx_exec_wait(&g.x, err));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, double *s, int n)
{
    qsort(s, (size_t)n, sizeof *s, by_value);
    printf("  %-44s median %.3f ms, 99 %% %.3f ms, longest %.3f ms\n", what, 1e3 * s[n / 2],
           1e3 * s[n * 99 / 100], 1e3 * s[n - 1]);
}

/* A thousand times; the memory is open for less than 50 ms. */
static void test_share_thousand_borrowings(void **state)
{
    (void)state;
    static double held_s[ROUNDS], push_s[ROUNDS];
    lx_share_export slot[N_SLOTS];
    open_slots(slot);
    process p = start(gpu_index());
    for (int i = 0; i < ROUNDS; i++) {
        int k = i % N_SLOTS;
        /* Whole tensors are new now and then; between them other bytes of another length. */
        question q = {.order = ORDER_PULL, .seed = (uint64_t)i, .from = slot[k], .bytes = SLOT};
        if (i % 100)
            q.bytes = 1 + (uint64_t)i * 37;
        fill(host_source, q.seed, q.bytes);
        gpu_ok(lx_upload(&g.x, source, host_source, (size_t)q.bytes, err));
        double from_s = gpu_now_s();
        gpu_ok(device->push(device->self, k, source, host_source, q.bytes, err));
        push_s[i] = gpu_now_s() - from_s;
        assert_int_equal(host_source[q.bytes - 1], byte_of(q.seed, q.bytes - 1));
        answer a = ask(&p, &q);
        expect_good(&a, "pull");
        assert_int_equal(a.reach, LX_TRANSPORT_IPC);
        held_s[i] = a.held_s;
    }
    print_times("open, copy, close", held_s, ROUNDS);
    print_times("publish, slot and host", push_s, ROUNDS);
    assert_true(held_s[ROUNDS * 99 / 100] <= HELD_MEANT);
    end(&p, false);
    device->close(device->self);
}

/* Work of about half a second on the compute queue; returns in how many copies. */
static int queue_work(void *a, void *b, size_t bytes)
{
    double from_s = gpu_now_s();
    for (int i = 0; i < 8; i++)
        gpu_ok(lx_copy(&g.x, a, b, bytes, err));
    gpu_ok(lx_exec_wait(&g.x, err));
    double one_s = (gpu_now_s() - from_s) / 8;
    int n = (int)(BUSY_S / one_s) + 1;
    n = n > 900 ? 900 : n; /* what a queue takes without making the host wait */
    for (int i = 0; i < n; i++)
        gpu_ok(lx_copy(&g.x, a, b, bytes, err));
    return n;
}

/* The borrower is told before the tensor is made, and gets it finished. */
static void test_share_event_orders_the_copy(void **state)
{
    (void)state;
    const size_t bytes = (size_t)512 << 20;
    lx_share_export slot[N_SLOTS];
    lx_arena *big = NULL;
    void *a, *b;
    open_slots(slot);
    process p = start(gpu_index());
    gpu_ok(lx_cuda_arena(g.cuda, 2 * bytes + SLOT + 4096, &big, err));
    gpu_ok(lx_arena_take(big, bytes, &a, err));
    gpu_ok(lx_arena_take(big, bytes, &b, err));
    void *late;
    gpu_ok(lx_arena_take(big, SLOT, &late, err));
    gpu_ok(lx_zero(&g.x, late, SLOT, err));
    put_source(4711);
    int n = queue_work(a, b, bytes);
    gpu_ok(lx_copy(&g.x, late, source, SLOT, err)); /* made last */
    double from_s = gpu_now_s();
    gpu_ok(lx_cuda_share_queue(share, 1, late, SLOT, err));
    double queued_s = gpu_now_s() - from_s;
    question q = {.order = ORDER_PULL, .seed = 4711, .from = slot[1], .bytes = SLOT};
    answer r = ask(&p, &q);
    gpu_ok(lx_exec_wait(&g.x, err));
    printf("  %d copies ahead: queued in %.2f ms, borrower waited %.0f ms, memory open %.2f ms\n",
           n, 1e3 * queued_s, 1e3 * r.in_s, 1e3 * r.held_s);
    expect_good(&r, "tensor that was not finished when it was lent");
    assert_true(queued_s < 0.1); /* the lender did not wait */
    assert_true(r.in_s > 0.1);   /* the borrower did */
    assert_true(r.held_s <= 2 * HELD_MEANT);
    lx_arena_destroy(&big);
    end(&p, false);
    device->close(device->self);
}

static void expect_refused(const process *p, const question *q, const char *what)
{
    answer a = ask(p, q);
    printf("  %-34s %s\n", what, a.text);
    if (a.status != LX_EJOB)
        fail_msg("%s: status %s", what, lx_status_name(a.status));
}

/* A handle of nobody, a range beyond the memory: errors, and the card goes on. */
static void test_share_garbage_is_refused(void **state)
{
    (void)state;
    lx_share_export slot[N_SLOTS];
    open_slots(slot);
    process p = start(gpu_index());
    put_source(5);
    gpu_ok(device->push(device->self, 0, source, host_source, SLOT, err));
    question good = {.order = ORDER_PULL, .seed = 5, .from = slot[0], .bytes = SLOT}, q = good;
    memset(q.from.memory, 0xa5, sizeof q.from.memory);
    expect_refused(&p, &q, "garbage memory handle");
    q = good;
    memset(q.from.memory, 0, sizeof q.from.memory);
    expect_refused(&p, &q, "zero memory handle");
    q = good;
    memset(q.from.event, 0x5a, sizeof q.from.event);
    expect_refused(&p, &q, "garbage event handle");
    q = good;
    q.from.offset = 64 * MIB;
    expect_refused(&p, &q, "offset behind the memory");
    q = good;
    q.from.offset = UINT64_MAX - 10;
    expect_refused(&p, &q, "offset that overflows");
    q = good;
    q.from.offset = 2 * (N_SLOTS * SLOT / (2 * MIB) + 1) * MIB - SLOT + 1;
    expect_refused(&p, &q, "one byte beyond the memory");
    memset(q.from.card, 0x77, sizeof q.from.card);
    assert_int_equal(device->reach(device->self, q.from.card), LX_TRANSPORT_NONE);
    answer a = ask(&p, &good);
    expect_good(&a, "after all that");
    end(&p, false);
    device->close(device->self);
}

/* --- this process as borrower ---------------------------------------------------------------- */

static uint64_t free_bytes(void)
{
    uint64_t free_now = 0, total = 0;
    gpu_ok(lx_cuda_memory(g.cuda, &free_now, &total, err));
    return free_now;
}

/* What lies at `from` in the slot of a ticket's header. */
static lx_share_export read_export(const lx_ticket *ticket)
{
    char path[200];
    lx_share_export out;
    snprintf(path, sizeof path, "/dev/shm%s", ticket->name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 32, SEEK_SET), 0); /* after magic, serial, bytes, kind */
    assert_int_equal(fread(&out, sizeof out, 1, file), 1);
    fclose(file);
    return out;
}

/* SIGKILL while the lender's memory is open: the copy still has all of it; then the card refuses
 * the dead handle and the slot in host memory serves. */
static void test_share_killed_lender_hurts_nobody(void **state)
{
    (void)state;
    const lx_cuda_share_ops *ops = g.cuda->module->share;
    lx_err why = {0};
    void *memory = NULL;
    size_t there = 0;
    double held_s;
    process p = start(gpu_index());
    uint64_t free_before = free_bytes();
    question q = {.order = ORDER_LEND, .seed = 99, .bytes = SLOT};
    answer a = ask(&p, &q);
    if (a.status != LX_OK)
        fail_msg("lending: %s", a.text);
    gpu_ok(lx_share_borrow_on(&a.ticket, instance, device, LX_TRANSPORT_IPC, source, SLOT, err));
    lx_share_export from = read_export(&a.ticket);
    assert_int_equal(ops->memory_open(g.cuda->dev, from.memory, &memory), 0);
    assert_int_equal(ops->memory_bytes(g.cuda->dev, memory, &there), 0);
    printf("  the driver says %zu bytes for slots of %llu\n", there,
           (unsigned long long)(N_SLOTS * SLOT));
    assert_true(there >= N_SLOTS * SLOT && there % (2 * MIB) == 0);
    end(&p, true);
    gpu_ok(lx_zero(&g.x, source, SLOT, err));
    gpu_ok(lx_copy(&g.x, source, (char *)memory + from.offset, SLOT, err));
    gpu_ok(lx_download(&g.x, host_source, source, SLOT, err));
    for (uint64_t i = 0; i < SLOT; i++)
        if (host_source[i] != byte_of(99, i))
            fail_msg("byte %llu after the lender's death", (unsigned long long)i);
    assert_int_equal(ops->memory_close(g.cuda->dev, memory), 0);
    lx_status status = device->pull(device->self, &from, source, SLOT, &held_s, &why);
    printf("  dead lender: %s; free memory back: %s\n", why.message,
           free_bytes() >= free_before ? "yes" : "no");
    assert_int_equal(status, LX_EJOB);
    status = lx_share_borrow_on(&a.ticket, instance, device, LX_TRANSPORT_IPC, source, SLOT, NULL);
    assert_int_equal(status, LX_EJOB);
    gpu_ok(lx_zero(&g.x, source, SLOT, err));
    gpu_ok(lx_share_borrow_on(&a.ticket, instance, device, LX_TRANSPORT_RING, source, SLOT, err));
    gpu_ok(lx_download(&g.x, host_source, source, SLOT, err));
    for (uint64_t i = 0; i < SLOT; i++)
        if (host_source[i] != byte_of(99, i))
            fail_msg("byte %llu by ring", (unsigned long long)i);
    lx_share_sweep(instance, 0);
}

/* --- desks and links ------------------------------------------------------------------------- */

static lx_share *open_desk(uint64_t epoch, bool is_exported)
{
    lx_share *desk = NULL;
    lx_share_options o = {.instance = instance,
                          .epoch = epoch,
                          .n_slots = N_SLOTS,
                          .slot_bytes = SLOT,
                          .device = device,
                          .is_exported = is_exported,
                          .has_test_slot = true};
    gpu_ok(lx_share_open_on(&desk, &o, err));
    return desk;
}

static answer test_link(lx_share *desk, const process *p, lx_transport_wish wish)
{
    static uint64_t seed;
    question q = {.order = ORDER_TEST, .wish = wish, .seed = ++seed};
    gpu_ok(lx_share_lend_test(desk, q.seed, &q.ticket, err));
    answer a = ask(p, &q);
    lx_share_retire(desk, q.ticket.serial);
    if (a.status != LX_OK)
        fail_msg("test of a link: %s", a.text);
    printf("  wish %d: %s %.2f ms %s\n", (int)wish, lx_transport_text(a.link.transport), a.link.ms,
           a.link.why);
    return a;
}

/* One tensor by one transport, timed. */
static void borrow_all(lx_share *desk, const process *p, lx_transport by)
{
    static double s[50];
    for (int i = 0; i < 50; i++) {
        question q = {.order = ORDER_BORROW, .by = by, .seed = 100 + (uint64_t)i, .bytes = SLOT};
        lx_tensor t;
        lx_shape shape = LX_SHAPE((int64_t)SLOT);
        gpu_ok(lx_share_begin(desk, LX_DTYPE_U8, &shape, &t, err));
        if (i % 2) { /* the host wrote it, as the encoder does */
            fill(t.data, q.seed, SLOT);
            gpu_ok(lx_share_publish(desk, &q.ticket, err));
        } else {
            put_source(q.seed);
            gpu_ok(lx_share_publish_from(desk, source, &q.ticket, err));
        }
        answer a = ask(p, &q);
        expect_good(&a, lx_transport_text(by));
        s[i] = a.in_s;
        lx_share_retire(desk, q.ticket.serial);
    }
    print_times(lx_transport_text(by), s, 50);
}

static void test_share_link_inside_one_card(void **state)
{
    (void)state;
    process p = start(gpu_index());
    lx_share *desk = open_desk(1001, true);
    assert_int_equal(test_link(desk, &p, LX_WISH_AUTO).link.transport, LX_TRANSPORT_IPC);
    assert_int_equal(test_link(desk, &p, LX_WISH_IPC).link.transport, LX_TRANSPORT_IPC);
    assert_int_equal(test_link(desk, &p, LX_WISH_RING).link.transport, LX_TRANSPORT_RING);
    assert_int_equal(test_link(desk, &p, LX_WISH_PEER).link.transport, LX_TRANSPORT_NONE);
    borrow_all(desk, &p, LX_TRANSPORT_IPC);
    borrow_all(desk, &p, LX_TRANSPORT_RING);
    lx_share_close(&desk);
    desk = open_desk(1002, false);
    assert_int_equal(test_link(desk, &p, LX_WISH_AUTO).link.transport, LX_TRANSPORT_RING);
    borrow_all(desk, &p, LX_TRANSPORT_RING);
    lx_share_close(&desk);
    end(&p, false);
}

/* Another card, where there is one: peer copy if the two can, the ring in any case. */
static void test_share_link_between_cards(void **state)
{
    (void)state;
    lx_cu_card cards[16];
    int n = 0;
    const char *named = getenv("LX2V_TEST_DEVICE2");
    assert_int_equal(g.cuda->module->share->cards(g.cuda->dev, 16, cards, &n), 0);
    int other_card = named ? atoi(named) : gpu_index() + 1;
    if (other_card >= n || other_card == gpu_index()) {
        printf("  one card: not tried\n");
        return;
    }
    process p = start(other_card);
    lx_share *desk = open_desk(1003, true);
    bool can = cards[other_card].can_reach;
    printf("  cards %d and %d: the driver claims %s\n", gpu_index(), other_card,
           can ? "peer access" : "no peer access");
    lx_transport best = test_link(desk, &p, LX_WISH_AUTO).link.transport;
    assert_true(best == LX_TRANSPORT_PEER || best == LX_TRANSPORT_RING);
    assert_true(can || best == LX_TRANSPORT_RING);
    assert_int_equal(test_link(desk, &p, LX_WISH_RING).link.transport, LX_TRANSPORT_RING);
    assert_int_equal(test_link(desk, &p, LX_WISH_IPC).link.transport, LX_TRANSPORT_NONE);
    if (best == LX_TRANSPORT_PEER)
        borrow_all(desk, &p, LX_TRANSPORT_PEER);
    borrow_all(desk, &p, LX_TRANSPORT_RING);
    lx_share_close(&desk);
    end(&p, false);
}

/* Frames go by the copy queue into pinned slots while the card computes. */
static void test_share_slots_take_copies_beside_work(void **state)
{
    (void)state;
    lx_share *desk = open_desk(1004, false);
    lx_tensor t;
    lx_ticket ticket;
    lx_shape shape = LX_SHAPE((int64_t)SLOT);
    double pinned_s = 0, plain_s = 0;
    put_source(7);
    gpu_ok(lx_share_begin(desk, LX_DTYPE_U8, &shape, &t, err));
    gpu_ok(lx_cuda_mark(g.cuda, 0, LX_CUDA_COMPUTE, err));
    gpu_ok(lx_cuda_after(g.cuda, 0, LX_CUDA_COPY, err));
    for (int i = 0; i < 20; i++) {
        double from_s = gpu_now_s();
        gpu_ok(lx_cuda_copy_out(g.cuda, t.data, source, SLOT, err));
        gpu_ok(lx_cuda_mark(g.cuda, 1, LX_CUDA_COPY, err));
        gpu_ok(lx_cuda_reached(g.cuda, 1, err));
        pinned_s = i ? pinned_s + gpu_now_s() - from_s : 0;
        from_s = gpu_now_s();
        gpu_ok(lx_download(&g.x, host_source, source, SLOT, err));
        plain_s = i ? plain_s + gpu_now_s() - from_s : 0;
    }
    printf("  to a slot %.1f GB/s, to pageable memory %.1f GB/s\n", 19e-9 * (double)SLOT / pinned_s,
           19e-9 * (double)SLOT / plain_s);
    for (uint64_t i = 0; i < SLOT; i++)
        if (((unsigned char *)t.data)[i] != byte_of(7, i))
            fail_msg("byte %llu of a slot", (unsigned long long)i);
    gpu_ok(lx_share_publish(desk, &ticket, err));
    gpu_ok(lx_share_borrow(&ticket, instance, host_source, SLOT, err));
    lx_share_close(&desk);
}

static int sweep(void **state)
{
    (void)state;
    lx_share_sweep(instance, 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "--other")) {
        snprintf(instance, sizeof instance, "%s", argv[5]);
        return be_other(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    }
    lx_err err = {0};
    signal(SIGPIPE, SIG_IGN);
    snprintf(instance, sizeof instance, "%032x", (unsigned)getpid());
    gpu_open(&g, SLOT + 4096, 4096);
    source = NULL;
    host_source = malloc(SLOT);
    gpu_must(lx_arena_take(g.store, SLOT, &source, &err), &err);
    gpu_must(lx_cuda_share_open(&share, g.cuda, &err), &err);
    device = lx_cuda_share_device(share);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share_thousand_borrowings),
        cmocka_unit_test(test_share_event_orders_the_copy),
        cmocka_unit_test(test_share_garbage_is_refused),
        cmocka_unit_test(test_share_killed_lender_hurts_nobody),
        cmocka_unit_test(test_share_link_inside_one_card),
        cmocka_unit_test(test_share_link_between_cards),
        cmocka_unit_test(test_share_slots_take_copies_beside_work),
    };
    int failed = host_source ? cmocka_run_group_tests(tests, NULL, sweep) : 1;
    lx_cuda_share_close(&share);
    gpu_close(&g);
    free(host_source);
    return failed;
}
