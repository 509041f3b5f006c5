/*
 * test_stage.c - the shared stage loop against a hand-driven launcher
 * SPDX-License-Identifier: Apache-2.0
 *
 * The stage is a real process with a handler of a few lines.
 */
#include "tools/hand_launcher.h"

#include <fcntl.h>

#include "lx_stage.h"

/* --- the stage ------------------------------------------------------------------------------- */

/* Prompt "lend N": lends N chunks. "wait": steps until aborted. "bad": fails. "die": LX_ESTAGE.
 * "sum": adds up the chunks it is given and notes the sum as file bytes. */
static lx_status handle(void *model, lx_stage_job *job, lx_err *err)
{
    const lx_progress *progress = model;
    const char *prompt = lx_stage_job_of(job)->prompt;
    lx_status status = LX_OK;
    if (!strncmp(prompt, "lend ", 5)) {
        int n = atoi(prompt + 5);
        for (int i = 0; i < n && status == LX_OK; i++) {
            lx_tensor t;
            lx_shape shape = LX_SHAPE(16);
            status = lx_stage_lend(job, LX_DTYPE_U8, &shape, &t, err);
            if (status != LX_OK)
                return status;
            memset(t.data, i + 1, 16);
            status = lx_stage_publish(job, i == n - 1, err);
        }
        lx_stage_note_tokens(job, n, 1);
        lx_stage_note_steps(job, 2, (const double[]){0.5, 0.25});
        return status;
    }
    if (!strcmp(prompt, "wait")) {
        for (uint64_t i = 0; status == LX_OK; i++) {
            usleep(2000);
            status = lx_progress_step(progress, "block", i, 1000000, err);
        }
        return status;
    }
    if (!strcmp(prompt, "sum")) {
        uint64_t sum = 0;
        unsigned char bytes[64];
        lx_shape shape;
        for (bool last = false; !last;) {
            status = lx_stage_next_chunk(job, bytes, sizeof bytes, &shape, &last, err);
            if (status != LX_OK)
                return status;
            for (int64_t i = 0; i < shape.dim[0]; i++)
                sum += bytes[i];
        }
        lx_stage_note_file(job, 1, sum);
        return LX_OK;
    }
    if (!strcmp(prompt, "borrow")) { /* notes the sum of what came */
        uint64_t sum = 0;
        unsigned char bytes[64] = {0}; /* of the card */
        status = lx_stage_borrow_on_card(job, bytes, sizeof bytes, err);
        for (size_t i = 0; i < sizeof bytes; i++)
            sum += bytes[i];
        lx_stage_note_file(job, 1, sum);
        return status;
    }
    if (!strcmp(prompt, "die"))
        return lx_fail(err, LX_ESTAGE, "cannot be trusted any more");
    return lx_fail(err, LX_EJOB, "no such order: %s", prompt);
}

/* A card of plain memory: a lender's slots are a file beside the config that both processes know.
 * "pulls" and "refuse" beside it count and forbid opening it. */
typedef struct fake_card {
    char folder[64];
    unsigned char scratch[LX_SHARE_TEST_BYTES], staging[4096];
} fake_card;

static FILE *card_file(const char *folder, const char *name, const char *mode)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, mode);
}

static lx_status card_pull(void *self, const lx_share_export *from, void *dst, uint64_t bytes,
                           double *held_s, lx_err *err)
{
    const fake_card *c = self;
    FILE *refuse = card_file(c->folder, "refuse", "r");
    FILE *pulls = card_file(c->folder, "pulls", "a");
    *held_s = 0.001;
    fputc('x', pulls);
    fclose(pulls);
    if (refuse) {
        fclose(refuse);
        return lx_fail(err, LX_EJOB, "the card would rather not");
    }
    FILE *file = card_file(c->folder, "card", "r");
    bool is_read = file && !fseek(file, (long)from->offset, SEEK_SET) &&
                   fread(dst, 1, (size_t)bytes, file) == bytes;
    if (file)
        fclose(file);
    return is_read ? LX_OK : lx_fail(err, LX_EJOB, "no such memory");
}

static lx_transport card_reach(void *self, const unsigned char card[16])
{
    (void)self;
    return card[0] == 'c' ? LX_TRANSPORT_IPC : LX_TRANSPORT_NONE;
}

static lx_status card_copy(void *self, void *dst, const void *src, uint64_t bytes, lx_err *err)
{
    (void)self;
    (void)err;
    memmove(dst, src, (size_t)bytes);
    return LX_OK;
}

static lx_status card_open(void *self, int n, const uint64_t *bytes, lx_share_export *out,
                           lx_err *err)
{
    uint64_t at = 0;
    (void)self;
    (void)err;
    for (int i = 0; i < n; at += bytes[i++]) {
        out[i].card[0] = 'c';
        out[i].offset = at;
        out[i].bytes = bytes[i];
    }
    return LX_OK;
}

static void card_close(void *self)
{
    (void)self;
}

static lx_status card_pin(void *self, void *memory, uint64_t bytes, lx_err *err)
{
    (void)self;
    (void)memory;
    (void)bytes;
    (void)err;
    return LX_OK;
}

static void card_unpin(void *self, void *memory)
{
    (void)self;
    (void)memory;
}

/* One slot of 64 bytes, then the one for tests. */
static lx_status card_push(void *self, int slot, const void *src, void *host, uint64_t bytes,
                           lx_err *err)
{
    const fake_card *c = self;
    FILE *file = card_file(c->folder, "card", "r+");
    if (!file)
        file = card_file(c->folder, "card", "w");
    if (src)
        memcpy(host, src, (size_t)bytes);
    bool is_written =
        !fseek(file, slot * 64, SEEK_SET) && fwrite(host, 1, (size_t)bytes, file) == bytes;
    fclose(file);
    return is_written ? LX_OK : lx_fail(err, LX_ESTAGE, "the card's file");
}

static lx_share_device card_device(fake_card *c)
{
    return (lx_share_device){.self = c,
                             .scratch = c->scratch,
                             .staging = c->staging,
                             .staging_bytes = sizeof c->staging,
                             .open = card_open,
                             .close = card_close,
                             .pin = card_pin,
                             .unpin = card_unpin,
                             .push = card_push,
                             .reach = card_reach,
                             .pull = card_pull,
                             .upload = card_copy,
                             .download = card_copy};
}

static int run_stage(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    if (lx_stage_open(&stage, argc, argv, LX_STAGE_VAE, &err) != LX_OK)
        goto out;
    static fake_card card;
    snprintf(card.folder, sizeof card.folder, "%.*s",
             (int)(strrchr(lx_stage_config_of(stage)->path, '/') - lx_stage_config_of(stage)->path),
             lx_stage_config_of(stage)->path);
    lx_share_device device = card_device(&card);
    FILE *has_card = card_file(card.folder, "has_card", "r");
    if (has_card) {
        fclose(has_card);
        lx_stage_on_card(stage, &device);
    }
    if (lx_stage_lends(stage, 2, 64, &err) != LX_OK)
        goto out;
    lx_stage_ready(stage, "none", 0, 0);
    lx_stage_run(stage, handle, (void *)(uintptr_t)lx_stage_progress(stage), &err);
    lx_stage_leave_card(stage);
out:
    lx_stage_close(&stage, &err);
    return lx_exit_code(err.status);
}

/* --- the launcher ---------------------------------------------------------------------------- */

static void say(launch *l, lx_msg_kind kind, const char *id, int attempt)
{
    lx_msg msg = {.kind = kind, .attempt = attempt};
    strcpy(msg.job, id);
    tell(l, &msg);
}

static int start_one(void **state, bool has_card)
{
    launch *l = launch_open("model: .\n");
    if (has_card)
        fclose(card_file(l->folder, "has_card", "w"));
    launch_start(l, false);
    *state = l;
    expect(l, LX_MSG_HELLO);
    assert_string_equal(l->msg.u.hello.token, TOKEN);
    assert_int_equal(l->msg.u.hello.stage, LX_STAGE_VAE);
    assert_int_equal(l->msg.u.hello.epoch, EPOCH);
    expect(l, LX_MSG_READY);
    return 0;
}

static int start(void **state)
{
    return start_one(state, false);
}

static int start_on_card(void **state)
{
    return start_one(state, true);
}

static int end(void **state)
{
    static const char *const files[] = {"card", "pulls", "refuse", "has_card"};
    launch *l = *state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", l->folder, files[i]);
        unlink(path);
    }
    launch_close(l);
    return 0;
}

static void test_lending_waits_for_a_free_slot(void **state)
{
    launch *l = *state;
    order(l, "j1", 1, "lend 3");
    expect(l, LX_MSG_STARTED);
    lx_ticket ticket[3];
    unsigned char got[16];
    for (int i = 0; i < 2; i++) {
        ticket[i] = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket;
        assert_int_equal(l->msg.u.artifact.index, i);
        assert_false(l->msg.u.artifact.is_last);
    }
    assert_int_equal(lx_share_borrow(&ticket[0], l->instance, got, sizeof got, NULL), LX_OK);
    assert_int_equal(got[15], 1);
    usleep(100000);
    retire(l, ticket[0].serial); /* two slots: the third chunk could not come before this */
    ticket[2] = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket;
    assert_true(l->msg.u.artifact.is_last);
    assert_int_equal(lx_share_borrow(&ticket[2], l->instance, got, sizeof got, NULL), LX_OK);
    assert_int_equal(got[0], 3);
    expect(l, LX_MSG_DONE);
    assert_string_equal(l->msg.job, "j1");
    assert_int_equal(l->msg.attempt, 1);
    assert_int_equal(l->msg.u.done.n_tokens, 3);
    assert_int_equal(l->msg.u.done.n_step_s, 2);
    assert_true(l->msg.u.done.step_s[0] == 0.5 && l->msg.u.done.step_s[1] == 0.25);
    /* What it waited for us is told apart, and is part of its time. */
    assert_true(l->msg.u.done.wait_s > 0.05);
    assert_true(l->msg.u.done.end_s >= l->msg.u.done.start_s + l->msg.u.done.wait_s);
    retire(l, ticket[1].serial);
    retire(l, ticket[2].serial);
    order(l, "j1b", 1, "lend 1"); /* nothing to wait for, and nothing left of the job before */
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_ARTIFACT);
    assert_true(expect(l, LX_MSG_DONE)->u.done.wait_s < 0.05);
}

static void test_abort_ends_the_job_and_takes_tensors_back(void **state)
{
    launch *l = *state;
    order(l, "j2", 4, "wait");
    expect(l, LX_MSG_STARTED);
    say(l, LX_MSG_ABORT, "j2", 3); /* of an older attempt: ignored */
    say(l, LX_MSG_ABORT, "other", 4);
    usleep(150000);
    say(l, LX_MSG_ABORT, "j2", 4);
    expect(l, LX_MSG_FAILED);
    assert_int_equal(l->msg.u.failed.status, LX_ECANCEL);
    order(l, "j3", 1, "lend 9"); /* blocks at the third chunk */
    expect(l, LX_MSG_STARTED);
    lx_ticket ticket = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket;
    expect(l, LX_MSG_ARTIFACT);
    say(l, LX_MSG_ABORT, "j3", 1);
    expect(l, LX_MSG_FAILED);
    unsigned char got[16];
    assert_int_equal(lx_share_borrow(&ticket, l->instance, got, sizeof got, NULL), LX_EJOB);
    order(l, "j4", 1, "lend 2"); /* both slots are free again */
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_DONE);
}

static void test_chunks_arrive_in_order_and_are_released(void **state)
{
    launch *l = *state;
    lx_share *desk;
    assert_int_equal(lx_share_open(&desk, l->instance, 77, 2, 64, NULL), LX_OK);
    order(l, "j5", 1, "sum");
    expect(l, LX_MSG_STARTED);
    for (int i = 0; i < 4; i++) {
        lx_msg msg = {.kind = LX_MSG_INPUT, .attempt = 1, .job = "j5"};
        lx_tensor t;
        lx_shape shape = LX_SHAPE(10);
        assert_int_equal(lx_share_begin(desk, LX_DTYPE_U8, &shape, &t, NULL), LX_OK);
        memset(t.data, 1 << i, 10);
        assert_int_equal(lx_share_publish(desk, &msg.u.artifact.ticket, NULL), LX_OK);
        msg.u.artifact.index = i;
        msg.u.artifact.is_last = i == 3;
        tell(l, &msg);
        expect(l, LX_MSG_RELEASED);
        assert_int_equal(l->msg.u.lease.serial, msg.u.artifact.ticket.serial);
        lx_share_retire(desk, msg.u.artifact.ticket.serial);
    }
    expect(l, LX_MSG_DONE);
    assert_int_equal(l->msg.u.done.file_bytes, 150);
    lx_share_close(&desk);
}

static void test_failed_job_leaves_the_stage_serving(void **state)
{
    launch *l = *state;
    order(l, "j6", 1, "bad");
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_FAILED);
    assert_int_equal(l->msg.u.failed.status, LX_EJOB);
    assert_string_equal(l->msg.u.failed.text, "no such order: bad");
    order(l, "j7", 1, "lend 1");
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_DONE);
}

static void test_beats_come_while_idle_and_while_working(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_BEAT);
    assert_string_equal(l->msg.job, "");
    order(l, "j8", 1, "wait");
    do
        lx_bus_receive(l->bus, &l->peer, &l->msg, 5000, NULL);
    while (l->msg.kind != LX_MSG_BEAT || !l->msg.u.beat.done);
    assert_string_equal(l->msg.job, "j8");
    assert_string_equal(l->msg.u.beat.unit, "block");
    assert_true(l->msg.u.beat.moved > 0);
    assert_true(l->msg.u.beat.rss_bytes > 0);
    say(l, LX_MSG_STOP, "", 0); /* also ends work in progress */
    expect(l, LX_MSG_FAILED);
    assert_int_equal(exit_of(l), 0);
    assert_int_equal(lx_share_sweep(l->instance, 0), 0);
}

static void test_untrusted_process_reports_and_exits(void **state)
{
    launch *l = *state;
    order(l, "j9", 1, "die");
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_FAILED);
    assert_int_equal(l->msg.u.failed.status, LX_ESTAGE);
    assert_int_equal(exit_of(l), 1);
    assert_int_equal(lx_share_sweep(l->instance, 0), 0);
}

static void test_term_is_an_orderly_stop(void **state)
{
    launch *l = *state;
    order(l, "j10", 1, "lend 5");
    expect(l, LX_MSG_STARTED);
    kill(l->pid, SIGTERM);
    assert_int_equal(exit_of(l), 0);
    assert_int_equal(lx_share_sweep(l->instance, 0), 0);
}

/* The stage lends a tensor of the launcher's seed beside its slots, again once it is retired. */
static void test_link_is_lent_for_a_test(void **state)
{
    launch *l = *state;
    lx_link_result r;
    lx_msg ask = {.kind = LX_MSG_LINK_ASK, .u.link.seed = 77};
    tell(l, &ask);
    lx_ticket ticket = expect(l, LX_MSG_LINK_LENT)->u.link.ticket;
    assert_int_equal(l->msg.u.link.seed, 77);
    assert_true(lx_share_ticket_is_of(&ticket, l->instance, 9));
    assert_int_equal(lx_share_test(&ticket, l->instance, NULL, LX_WISH_AUTO, 77, &r, NULL), LX_OK);
    assert_int_equal(r.transport, LX_TRANSPORT_SHM);
    assert_int_equal(lx_share_test(&ticket, l->instance, NULL, LX_WISH_AUTO, 78, &r, NULL), LX_OK);
    assert_int_equal(r.transport, LX_TRANSPORT_NONE); /* bytes of another seed */
    tell(l, &ask);                                    /* not retired: void by the next */
    lx_ticket next = expect(l, LX_MSG_LINK_LENT)->u.link.ticket;
    assert_true(next.serial > ticket.serial);
    ticket = next;
    retire(l, ticket.serial);
    order(l, "jt", 1, "lend 2"); /* both slots are there */
    expect(l, LX_MSG_STARTED);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_DONE);
    tell(l, &ask);
    assert_true(expect(l, LX_MSG_LINK_LENT)->u.link.ticket.serial > ticket.serial);
}

/* And says of a link to it what works; what is no test tensor is a result, too. */
static void test_link_is_tested_by_borrowing(void **state)
{
    launch *l = *state;
    lx_share *desk = NULL;
    lx_share_options o = {.instance = l->instance,
                          .epoch = 78,
                          .n_slots = 1,
                          .slot_bytes = 64,
                          .has_test_slot = true};
    assert_int_equal(lx_share_open_on(&desk, &o, NULL), LX_OK);
    lx_msg test = {.kind = LX_MSG_LINK_TEST, .u.link.seed = 5};
    assert_int_equal(lx_share_lend_test(desk, 5, &test.u.link.ticket, NULL), LX_OK);
    tell(l, &test);
    expect(l, LX_MSG_LINK_RESULT);
    assert_int_equal(l->msg.u.link.seed, 5);
    assert_int_equal(l->msg.u.link.ticket.epoch, 78);
    assert_int_equal(l->msg.u.link.transport, LX_TRANSPORT_SHM);
    assert_string_equal(l->msg.u.link.text, "");
    assert_true(l->msg.u.link.ms > 0);
    test.u.link.ticket.epoch = 79; /* a ticket of another process */
    tell(l, &test);
    assert_int_equal(expect(l, LX_MSG_LINK_RESULT)->u.link.transport, LX_TRANSPORT_NONE);
    assert_true(l->msg.u.link.text[0] != 0);
    lx_share_close(&desk);
}

static long count_pulls(const launch *l)
{
    FILE *file = card_file(l->folder, "pulls", "r");
    long n = 0;
    while (file && fgetc(file) != EOF)
        n++;
    if (file)
        fclose(file);
    return n;
}

/* A tensor of 64 times `value` for the stage's job. */
static uint64_t borrowed(launch *l, lx_share *desk, const char *id, int value)
{
    lx_tensor t;
    unsigned char bytes[64];
    lx_msg msg = {.kind = LX_MSG_JOB, .attempt = 1};
    memset(bytes, value, sizeof bytes);
    strcpy(msg.job, id);
    strcpy(msg.u.work.job.id, id);
    strcpy(msg.u.work.job.prompt, "borrow");
    assert_int_equal(lx_share_begin(desk, LX_DTYPE_U8, &LX_SHAPE(64), &t, NULL), LX_OK);
    assert_int_equal(lx_share_publish_from(desk, bytes, &msg.u.work.ticket, NULL), LX_OK);
    tell(l, &msg);
    expect(l, LX_MSG_STARTED);
    return msg.u.work.ticket.serial;
}

/* Before the test of a link tensors come through the slot, then by the card, and after a failure
 * through the slot again, with one notice; no job is lost. */
static void test_link_that_fails_in_a_job_falls_back_once(void **state)
{
    launch *l = *state;
    static fake_card card;
    lx_share *desk = NULL;
    memcpy(card.folder, l->folder, sizeof card.folder);
    lx_share_device device = card_device(&card);
    lx_share_options o = {.instance = l->instance,
                          .epoch = 78,
                          .n_slots = 1,
                          .slot_bytes = 64,
                          .device = &device,
                          .is_exported = true,
                          .has_test_slot = true};
    assert_int_equal(lx_share_open_on(&desk, &o, NULL), LX_OK);
    uint64_t serial = borrowed(l, desk, "f0", 1);
    assert_int_equal(expect(l, LX_MSG_RELEASED)->u.lease.serial, serial);
    assert_int_equal(expect(l, LX_MSG_DONE)->u.done.file_bytes, 64);
    lx_share_retire(desk, serial);
    assert_int_equal(count_pulls(l), 0);

    lx_msg test = {.kind = LX_MSG_LINK_TEST, .u.link.seed = 5};
    assert_int_equal(lx_share_lend_test(desk, 5, &test.u.link.ticket, NULL), LX_OK);
    tell(l, &test);
    expect(l, LX_MSG_LINK_RESULT);
    assert_int_equal(l->msg.u.link.transport, LX_TRANSPORT_IPC);
    assert_string_equal(l->msg.u.link.text, "");
    long n = count_pulls(l);
    serial = borrowed(l, desk, "f1", 2);
    expect(l, LX_MSG_RELEASED);
    assert_int_equal(expect(l, LX_MSG_DONE)->u.done.file_bytes, 128);
    lx_share_retire(desk, serial);
    assert_int_equal(count_pulls(l), n + 1);

    fclose(card_file(l->folder, "refuse", "w"));
    serial = borrowed(l, desk, "f2", 3);
    expect(l, LX_MSG_LINK_RESULT);
    assert_int_equal(l->msg.u.link.seed, 0);
    assert_int_equal(l->msg.u.link.ticket.epoch, 78);
    assert_int_equal(l->msg.u.link.transport, LX_TRANSPORT_RING);
    assert_non_null(strstr(l->msg.u.link.text, "cuda ipc failed in a job: the card would rather"));
    expect(l, LX_MSG_RELEASED);
    assert_int_equal(expect(l, LX_MSG_DONE)->u.done.file_bytes, 192);
    lx_share_retire(desk, serial);
    serial = borrowed(l, desk, "f3", 4); /* not tried again, not told again */
    expect(l, LX_MSG_RELEASED);
    assert_int_equal(expect(l, LX_MSG_DONE)->u.done.file_bytes, 256);
    assert_int_equal(count_pulls(l), n + 2);
    lx_share_retire(desk, serial);
    lx_msg stale = {.kind = LX_MSG_JOB, .attempt = 1, .job = "f4"};
    strcpy(stale.u.work.job.id, "f4");
    strcpy(stale.u.work.job.prompt, "borrow");
    stale.u.work.ticket = test.u.link.ticket; /* not of that size */
    tell(l, &stale);
    expect(l, LX_MSG_STARTED);
    assert_int_equal(expect(l, LX_MSG_FAILED)->u.failed.status, LX_EJOB);
    lx_share_close(&desk);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return run_stage(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lending_waits_for_a_free_slot, start, end),
        cmocka_unit_test_setup_teardown(test_abort_ends_the_job_and_takes_tensors_back, start, end),
        cmocka_unit_test_setup_teardown(test_chunks_arrive_in_order_and_are_released, start, end),
        cmocka_unit_test_setup_teardown(test_failed_job_leaves_the_stage_serving, start, end),
        cmocka_unit_test_setup_teardown(test_beats_come_while_idle_and_while_working, start, end),
        cmocka_unit_test_setup_teardown(test_untrusted_process_reports_and_exits, start, end),
        cmocka_unit_test_setup_teardown(test_term_is_an_orderly_stop, start, end),
        cmocka_unit_test_setup_teardown(test_link_is_lent_for_a_test, start, end),
        cmocka_unit_test_setup_teardown(test_link_is_tested_by_borrowing, start, end),
        cmocka_unit_test_setup_teardown(test_link_that_fails_in_a_job_falls_back_once,
                                        start_on_card, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
