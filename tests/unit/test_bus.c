/*
 * test_bus.c - messages arrive decoded, garbage does not arrive, nobody blocks
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "lx_bus.h"

static char folder[64], endpoint[128];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/lx2v-bus-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/s.sock", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(endpoint + 6);
    return rmdir(folder);
}

static lx_msg command(uint64_t req)
{
    return (lx_msg){.kind = LX_MSG_COMMAND, .req = req, .u.command.command = LX_COMMAND_PAUSE};
}

static void test_request_and_answer(void **state)
{
    (void)state;
    lx_bus *router, *dealer;
    lx_peer peer;
    lx_msg msg = command(42), got;
    assert_int_equal(lx_bus_bind(&router, endpoint, NULL), LX_OK);
    struct stat st;
    assert_int_equal(stat(endpoint + 6, &st), 0);
    assert_int_equal(st.st_mode & 077, 0); /* nobody else may connect */
    assert_int_equal(lx_bus_connect(&dealer, endpoint, NULL), LX_OK);
    assert_int_equal(lx_bus_send(dealer, NULL, &msg, NULL), LX_OK);
    assert_int_equal(lx_bus_receive(router, &peer, &got, 2000, NULL), LX_OK);
    assert_int_equal(got.req, 42);
    lx_msg answer = {.kind = LX_MSG_OK, .req = got.req};
    strcpy(answer.u.ok.text, "paused");
    assert_int_equal(lx_bus_send(router, &peer, &answer, NULL), LX_OK);
    assert_int_equal(lx_bus_receive(dealer, NULL, &got, 2000, NULL), LX_OK);
    assert_string_equal(got.u.ok.text, "paused");
    assert_int_equal(lx_bus_receive(dealer, NULL, &got, 20, NULL), LX_EAGAIN);
    lx_bus_close(&dealer);
    lx_bus_close(&router);
}

static void test_unknown_peer_is_an_error_not_silence(void **state)
{
    (void)state;
    lx_bus *router;
    lx_msg msg = {.kind = LX_MSG_OK};
    lx_peer nobody = {.n = 5, .id = {0, 1, 2, 3, 4}};
    assert_int_equal(lx_bus_bind(&router, endpoint, NULL), LX_OK);
    assert_int_equal(lx_bus_send(router, &nobody, &msg, NULL), LX_EJOB);
    lx_bus_close(&router);
}

static void test_garbage_is_dropped_and_counted(void **state)
{
    (void)state;
    lx_bus *router;
    lx_msg msg = command(1), got;
    lx_peer peer;
    assert_int_equal(lx_bus_bind(&router, endpoint, NULL), LX_OK);
    void *context = zmq_ctx_new(), *stranger = zmq_socket(context, ZMQ_DEALER);
    int linger = 0;
    zmq_setsockopt(stranger, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_connect(stranger, endpoint), 0);
    zmq_send(stranger, "garbage", 7, 0);
    zmq_send(stranger, "", 0, 0);
    zmq_send(stranger, "two", 3, ZMQ_SNDMORE);
    zmq_send(stranger, "frames", 6, 0);
    unsigned char wire[LX_LIMIT_MESSAGE];
    size_t n;
    assert_int_equal(lx_msg_encode(&msg, wire, sizeof wire, &n, NULL), LX_OK);
    zmq_send(stranger, wire, n, 0);
    assert_int_equal(lx_bus_receive(router, &peer, &got, 2000, NULL), LX_OK);
    assert_int_equal(got.kind, LX_MSG_COMMAND);
    assert_int_equal(lx_bus_dropped(router), 3);
    static char huge[LX_LIMIT_MESSAGE + 1];
    zmq_send(stranger, huge, sizeof huge, 0); /* MAXMSGSIZE: dropped before it is ours */
    assert_int_equal(lx_bus_receive(router, &peer, &got, 300, NULL), LX_EAGAIN);
    zmq_close(stranger);
    zmq_ctx_term(context);
    lx_bus_close(&router);
}

static void test_silent_reader_never_blocks_the_sender(void **state)
{
    (void)state;
    lx_bus *router, *dealer;
    lx_peer peer;
    lx_msg msg = command(1), got, event = {.kind = LX_MSG_EVENT};
    assert_int_equal(lx_bus_bind(&router, endpoint, NULL), LX_OK);
    assert_int_equal(lx_bus_connect(&dealer, endpoint, NULL), LX_OK);
    assert_int_equal(lx_bus_send(dealer, NULL, &msg, NULL), LX_OK);
    assert_int_equal(lx_bus_receive(router, &peer, &got, 2000, NULL), LX_OK);
    memset(event.u.event.text, 'x', sizeof event.u.event.text - 1);
    lx_status status = LX_OK;
    for (int i = 0; i < 100000 && status == LX_OK; i++)
        status = lx_bus_send(router, &peer, &event, NULL);
    assert_int_equal(status, LX_EAGAIN);
    lx_bus_close(&dealer);
    lx_bus_close(&router);
}

static void test_long_paths_are_refused_with_their_length(void **state)
{
    (void)state;
    char path[256] = "ipc:///tmp/";
    memset(path + 11, 'a', 150);
    lx_bus *bus = NULL;
    lx_err err = {0};
    assert_int_equal(lx_bus_bind(&bus, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "107"));
    assert_int_equal(lx_bus_bind(&bus, "tcp://127.0.0.1:5555", &err), LX_ECONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_and_answer),
        cmocka_unit_test(test_unknown_peer_is_an_error_not_silence),
        cmocka_unit_test(test_garbage_is_dropped_and_counted),
        cmocka_unit_test(test_silent_reader_never_blocks_the_sender),
        cmocka_unit_test(test_long_paths_are_refused_with_their_length),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
