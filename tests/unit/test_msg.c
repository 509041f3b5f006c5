/*
 * test_msg.c - every message survives the wire, and nothing else does
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <msgpack.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_msg.h"
#include "lx_share_device.h"

static unsigned char wire[LX_LIMIT_MESSAGE];

static lx_msg sample_submit(void)
{
    lx_msg msg = {.kind = LX_MSG_SUBMIT, .req = 7, .job = "a-1", .attempt = 2};
    lx_job *job = &msg.u.work.job;
    strcpy(job->id, "a-1");
    strcpy(job->prompt, "a red ball rolls left, \xe7\x8c\xab");
    job->width = 832;
    job->height = 480;
    job->frames = 81;
    job->fps = 16;
    job->seed = LX_SEED_DRAW;
    job->shift = 5;
    job->n_steps = 4;
    job->steps[0] = 1000;
    job->steps[3] = 250;
    job->steps[1] = 750;
    job->steps[2] = 500;
    strcpy(job->rng, "lx2v");
    return msg;
}

static lx_msg sample_of(lx_msg_kind kind)
{
    lx_msg msg = {.kind = kind, .req = 1, .attempt = 3};
    if (kind == LX_MSG_SUBMIT || kind == LX_MSG_JOB) {
        msg = sample_submit();
        msg.kind = kind;
    } else if (kind == LX_MSG_HELLO) {
        msg.u.hello.pid = 1;
    } else if (kind == LX_MSG_LINK_RESULT) {
        msg.u.link.seed = 7;
        msg.u.link.transport = LX_TRANSPORT_IPC;
        msg.u.link.ms = 0.4;
        msg.u.link.ticket.serial = 3;
        msg.u.link.ticket.epoch = 9;
        strcpy(msg.u.link.text, "cuda ipc: why not");
    } else if (kind == LX_MSG_LINK_INFO) {
        msg.u.link_info.from = LX_STAGE_DIT;
        msg.u.link_info.to = LX_STAGE_VAE;
        msg.u.link_info.to_replica = LX_LIMIT_REPLICAS - 1;
        msg.u.link_info.transport = LX_TRANSPORT_PEER;
        msg.u.link_info.is_tested = 1;
    }
    return msg;
}

static void test_every_kind_survives_the_wire(void **state)
{
    (void)state;
    for (int kind = LX_MSG_NONE + 1; kind < LX_MSG_KIND_COUNT; kind++) {
        lx_msg in = sample_of((lx_msg_kind)kind), out;
        size_t n = 0;
        lx_err err = {0};
        assert_int_equal(lx_msg_encode(&in, wire, sizeof wire, &n, &err), LX_OK);
        assert_int_equal(lx_msg_decode(&out, wire, n, &err), LX_OK);
        assert_memory_equal(&in, &out, sizeof in);
    }
}

static void test_extremes_of_numbers_survive(void **state)
{
    (void)state;
    lx_msg in = {.kind = LX_MSG_JOB_INFO}, out;
    in.u.job_info.seed = INT64_C(9007199254740991);
    for (int i = 0; i < LX_STAGE_COUNT; i++) {
        in.u.job_info.replica[i] = i ? i : -1;
        in.u.job_info.start_s[i] = -1;
        in.u.job_info.finish_s[i] = 1e9 / 3;
        in.u.job_info.wait_s[i] = 0.1 * i;
        in.u.job_info.peak_bytes[i] = (uint64_t)1 << (10 * i);
    }
    in.u.job_info.n_step_s = LX_LIMIT_STEPS;
    for (int i = 0; i < LX_LIMIT_STEPS; i++)
        in.u.job_info.step_s[i] = 1.0 / (1 + i);
    size_t n = 0;
    assert_int_equal(lx_msg_encode(&in, wire, sizeof wire, &n, NULL), LX_OK);
    assert_int_equal(lx_msg_decode(&out, wire, n, NULL), LX_OK);
    assert_memory_equal(&in, &out, sizeof in);
}

static void test_every_truncation_is_refused(void **state)
{
    (void)state;
    lx_msg in = sample_submit(), out;
    size_t n = 0;
    assert_int_equal(lx_msg_encode(&in, wire, sizeof wire, &n, NULL), LX_OK);
    for (size_t cut = 0; cut < n; cut++) {
        unsigned char *exact = malloc(cut + 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, wire, cut);
        assert_int_equal(lx_msg_decode(&out, exact, cut, NULL), LX_EJOB);
        free(exact);
    }
    wire[n] = 0xc0;
    assert_int_equal(lx_msg_decode(&out, wire, n + 1, NULL), LX_EJOB);
}

static void test_bombs_are_refused_without_memory(void **state)
{
    (void)state;
    static const unsigned char array32[] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    static const unsigned char map32[] = {0xdf, 0x00, 0xff, 0xff, 0xff};
    static const unsigned char text32[] = {0x81, 0xdb, 0xff, 0xff, 0xff, 0xff};
    lx_msg out;
    assert_int_equal(lx_msg_decode(&out, array32, sizeof array32, NULL), LX_EJOB);
    assert_int_equal(lx_msg_decode(&out, map32, sizeof map32, NULL), LX_EJOB);
    assert_int_equal(lx_msg_decode(&out, text32, sizeof text32, NULL), LX_EJOB);
    memset(wire, 0x91, sizeof wire); /* nesting 65,536 deep */
    assert_int_equal(lx_msg_decode(&out, wire, sizeof wire, NULL), LX_EJOB);
}

/* A command message with one field changed by hand. */
static size_t packed_command(const char *last_key, int64_t value, const char *job)
{
    msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer pk;
    msgpack_packer_init(&pk, &buffer, msgpack_sbuffer_write);
    const char *keys[] = {"k", "req", "job", "attempt", last_key};
    msgpack_pack_map(&pk, 5);
    for (int i = 0; i < 5; i++) {
        msgpack_pack_str(&pk, strlen(keys[i]));
        msgpack_pack_str_body(&pk, keys[i], strlen(keys[i]));
        if (i == 2) {
            msgpack_pack_str(&pk, strlen(job));
            msgpack_pack_str_body(&pk, job, strlen(job));
        } else {
            msgpack_pack_int64(&pk, i == 0 ? LX_MSG_COMMAND : i == 4 ? value : 0);
        }
    }
    size_t n = buffer.size;
    memcpy(wire, buffer.data, n);
    msgpack_sbuffer_destroy(&buffer);
    return n;
}

static void test_wrong_fields_are_refused_by_name(void **state)
{
    (void)state;
    lx_msg out;
    lx_err err = {0};
    assert_int_equal(lx_msg_decode(&out, wire, packed_command("command", 1, "x"), &err), LX_OK);
    assert_int_equal(lx_msg_decode(&out, wire, packed_command("command", 99, "x"), &err), LX_EJOB);
    assert_non_null(strstr(err.message, "command"));
    assert_non_null(strstr(err.message, "out of range"));
    assert_int_equal(lx_msg_decode(&out, wire, packed_command("commando", 1, "x"), &err), LX_EJOB);
    assert_non_null(strstr(err.message, "unknown field"));
    assert_int_equal(lx_msg_decode(&out, wire, packed_command("req", 1, "x"), &err), LX_EJOB);
    assert_non_null(strstr(err.message, "comes twice"));
    assert_int_equal(lx_msg_decode(&out, wire, packed_command("command", 1, "\xff"), &err),
                     LX_EJOB);
    assert_non_null(strstr(err.message, "not UTF-8"));
    assert_int_equal(
        lx_msg_decode(&out, wire,
                      packed_command("command", 1, "01234567890123456789012345678901234567890"),
                      &err),
        LX_EJOB);
    assert_non_null(strstr(err.message, "too long"));
}

static void test_what_cannot_be_sent_is_refused_here(void **state)
{
    (void)state;
    lx_msg msg = sample_submit();
    size_t n = 0;
    lx_err err = {0};
    msg.u.work.job.fps = NAN;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "fps"));
    msg = sample_submit();
    msg.u.work.job.n_steps = LX_LIMIT_STEPS + 1;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
    msg = (lx_msg){.kind = LX_MSG_DONE};
    msg.u.done.n_step_s = LX_LIMIT_STEPS + 1;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "step_s"));
    msg.u.done.n_step_s = 1;
    msg.u.done.step_s[0] = -1;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
    msg = sample_of(LX_MSG_LINK_RESULT);
    msg.u.link.transport = LX_TRANSPORT_COUNT;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "transport"));
    msg = sample_submit();
    assert_int_equal(lx_msg_encode(&msg, wire, 40, &n, &err), LX_EJOB);
    memset(msg.u.work.job.prompt, 'x', sizeof msg.u.work.job.prompt); /* no terminator */
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, &err), LX_EJOB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_survives_the_wire),
        cmocka_unit_test(test_extremes_of_numbers_survive),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_bombs_are_refused_without_memory),
        cmocka_unit_test(test_wrong_fields_are_refused_by_name),
        cmocka_unit_test(test_what_cannot_be_sent_is_refused_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
