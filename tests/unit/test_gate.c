/*
 * test_gate.c - who comes in by tcp and by a unix socket, and what a key file has to be
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "lx_bus.h"
#include "lx_gate.h"

typedef struct house {
    char dir[64], clients[80], ipc[100], tcp[LX_ENDPOINT];
    lx_keys server, friend;
    lx_bus *bus;
    lx_gate *gate;
} house;

static const char *in(const house *h, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", h->dir, name);
    return path;
}

static void let_in(const house *h, const char *name, const lx_keys *keys)
{
    char path[256];
    lx_keys shown = {.public_key = ""};
    memcpy(shown.public_key, keys->public_key, sizeof shown.public_key);
    snprintf(path, sizeof path, "%s/%s.pub", h->clients, name);
    assert_int_equal(lx_keys_write(&shown, path, NULL), LX_OK);
}

static int build(void **state)
{
    house *h = calloc(1, sizeof *h);
    lx_err err = {0};
    strcpy(h->dir, "/tmp/lx2v-gate-XXXXXX");
    if (!h || !mkdtemp(h->dir))
        return -1;
    snprintf(h->clients, sizeof h->clients, "%s/clients", h->dir);
    snprintf(h->ipc, sizeof h->ipc, "ipc://%s/s.sock", h->dir);
    mkdir(h->clients, 0700);
    assert_int_equal(lx_keys_make(&h->server, &err), LX_OK);
    assert_int_equal(lx_keys_make(&h->friend, &err), LX_OK);
    memcpy(h->friend.server, h->server.public_key, sizeof h->friend.server);
    *state = h;
    return 0;
}

static int raze(void **state)
{
    house *h = *state;
    char command[128];
    lx_bus_close(&h->bus);
    lx_gate_close(&h->gate);
    snprintf(command, sizeof command, "rm -rf %s", h->dir);
    int failed = system(command);
    free(h);
    return failed;
}

/* The gate stands and both doors are open. */
static void open_house(house *h)
{
    lx_err err = {0};
    let_in(h, "anna", &h->friend);
    if (lx_gate_open(&h->gate, h->clients, &err) != LX_OK ||
        lx_bus_bind(&h->bus, h->ipc, &err) != LX_OK ||
        lx_bus_listen(h->bus, "tcp://127.0.0.1:0", &h->server, h->tcp, &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* What becomes of a connection; if it comes in, its message arrives and an answer goes back. */
static lx_status visit(house *h, const char *endpoint, const lx_keys *keys, lx_peer *peer)
{
    lx_bus *bus = NULL;
    lx_err err = {0};
    lx_msg msg = {.kind = LX_MSG_COMMAND, .req = 7}, got;
    lx_status status = lx_bus_connect_as(&bus, endpoint, keys, &err);
    if (status == LX_OK) {
        assert_int_equal(lx_bus_send(bus, NULL, &msg, &err), LX_OK);
        status = lx_bus_receive(h->bus, peer, &got, 2000, &err);
    }
    if (status == LX_OK) {
        msg.kind = LX_MSG_OK;
        assert_int_equal(lx_bus_send(h->bus, peer, &msg, &err), LX_OK);
        assert_int_equal(lx_bus_receive(bus, NULL, &got, 2000, &err), LX_OK);
        assert_int_equal(got.req, 7);
    }
    lx_bus_close(&bus);
    return status;
}

static void test_friends_come_in_and_are_told_apart(void **state)
{
    house *h = *state;
    lx_peer peer;
    open_house(h);
    assert_int_equal(visit(h, h->ipc, NULL, &peer), LX_OK);
    assert_false(peer.is_remote);
    assert_true(peer.key == 0);
    assert_int_equal(visit(h, h->tcp, &h->friend, &peer), LX_OK);
    assert_true(peer.is_remote);
    uint64_t annas = peer.key;
    assert_true(annas != 0);
    assert_int_equal(visit(h, h->tcp, &h->friend, &peer), LX_OK); /* another connection */
    assert_true(peer.key == annas);
    lx_keys second;
    assert_int_equal(lx_keys_make(&second, NULL), LX_OK);
    memcpy(second.server, h->server.public_key, sizeof second.server);
    let_in(h, "bert", &second);
    assert_int_equal(visit(h, h->tcp, &second, &peer), LX_OK);
    assert_true(peer.key != annas && peer.key != 0);
    assert_int_equal(lx_bus_try_stranger(h->tcp, h->server.public_key, NULL), LX_OK);
}

static void test_strangers_stay_out(void **state)
{
    house *h = *state;
    lx_peer peer;
    lx_msg got;
    lx_keys stranger, mistaken = h->friend;
    open_house(h);
    assert_int_equal(lx_keys_make(&stranger, NULL), LX_OK);
    memcpy(stranger.server, h->server.public_key, sizeof stranger.server);
    assert_int_equal(visit(h, h->tcp, &stranger, &peer), LX_ECONFIG);
    /* The right public key with another's secret. */
    memcpy(stranger.public_key, h->friend.public_key, sizeof stranger.public_key);
    assert_int_not_equal(visit(h, h->tcp, &stranger, &peer), LX_OK);
    /* A friend who looks for another server. */
    memcpy(mistaken.server, stranger.public_key, sizeof mistaken.server);
    assert_int_not_equal(visit(h, h->tcp, &mistaken, &peer), LX_OK);
    assert_int_equal(lx_bus_receive(h->bus, &peer, &got, 0, NULL), LX_EAGAIN);
}

static void test_files_count_for_the_next_connection(void **state)
{
    house *h = *state;
    lx_peer peer;
    lx_keys late;
    char path[256];
    open_house(h);
    assert_int_equal(lx_keys_make(&late, NULL), LX_OK);
    memcpy(late.server, h->server.public_key, sizeof late.server);
    assert_int_equal(visit(h, h->tcp, &late, &peer), LX_ECONFIG);
    let_in(h, "late", &late);
    assert_int_equal(visit(h, h->tcp, &late, &peer), LX_OK);
    snprintf(path, sizeof path, "%s/late.pub", h->clients);
    unlink(path);
    assert_int_equal(visit(h, h->tcp, &late, &peer), LX_ECONFIG);
    /* One file that is no key: nobody at all, rather than somebody by mistake. */
    FILE *file = fopen(path, "w");
    fputs("public short\n", file);
    fclose(file);
    assert_int_equal(visit(h, h->tcp, &h->friend, &peer), LX_ECONFIG);
}

/* The measured hole: a CURVE server whose handler is missing or has died lets everybody in, unless
 * it insists. And the test at start must notice that there is no handler. */
static void test_without_a_gate_nobody_comes_in(void **state)
{
    house *h = *state;
    lx_peer peer;
    lx_err err = {0};
    open_house(h);
    lx_gate_close(&h->gate);
    assert_int_not_equal(visit(h, h->tcp, &h->friend, &peer), LX_OK);
    assert_int_equal(lx_bus_try_stranger(h->tcp, h->server.public_key, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "stranger"));
}

/* Nobody there is no refusal; a server that takes any key is none either. */
static void test_the_trial_at_start_finds_an_open_door(void **state)
{
    house *h = *state;
    lx_err err = {0};
    int one = 1;
    char at[LX_ENDPOINT];
    size_t n = sizeof at;
    void *context = zmq_ctx_new(), *open = zmq_socket(context, ZMQ_ROUTER);
    zmq_setsockopt(open, ZMQ_CURVE_SERVER, &one, sizeof one);
    zmq_setsockopt(open, ZMQ_CURVE_SECRETKEY, h->server.secret, LX_KEY_TEXT);
    assert_int_equal(zmq_bind(open, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(open, ZMQ_LAST_ENDPOINT, at, &n), 0);
    assert_int_equal(lx_bus_try_stranger(at, h->server.public_key, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "it was let in"));
    zmq_close(open);
    zmq_ctx_term(context);
    assert_int_equal(lx_bus_try_stranger(at, h->server.public_key, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "nothing came back"));
}

static void test_addresses(void **state)
{
    house *h = *state;
    static const char *const bad[] = {"tcp://127.0.0.1",
                                      "tcp://:80",
                                      "tcp://127.0.0.1:65536",
                                      "tcp://127.0.0.1:-1",
                                      "tcp://1.2.3.4;eth0:8080",
                                      "udp://127.0.0.1:80",
                                      "tcp://a b:80",
                                      "inproc://x:1"};
    lx_bus *bus = NULL;
    lx_err err = {0};
    open_house(h);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lx_bus_listen(h->bus, bad[i], &h->server, h->tcp, &err), LX_ECONFIG);
        assert_int_equal(lx_bus_connect_as(&bus, bad[i], &h->friend, &err), LX_ECONFIG);
        assert_null(bus);
    }
    lx_gate *second = NULL;
    assert_int_equal(lx_gate_open(&second, NULL, &err), LX_ESTAGE);
    assert_null(second);
}

/* Another user is refused even where the socket itself would let it in. */
static void test_another_user_stays_out(void **state)
{
    house *h = *state;
    if (geteuid() != 0)
        skip(); /* only root can become somebody else */
    open_house(h);
    assert_int_equal(chmod(h->dir, 0755) | chmod(h->ipc + 6, 0777), 0);
    pid_t child = fork();
    if (child == 0) {
        if (setgid(65534) || setuid(65534))
            _exit(9);
        /* A fresh process: libzmq does not outlive a fork. */
        execl("/proc/self/exe", "test_gate", "other-user", h->ipc, (char *)NULL);
        _exit(8);
    }
    lx_peer peer;
    lx_msg got;
    int status;
    lx_status arrived = lx_bus_receive(h->bus, &peer, &got, 1500, NULL);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WEXITSTATUS(status) == 8)
        skip(); /* the test program itself lies where others may not look */
    assert_int_equal(status, 0);
    assert_int_equal(arrived, LX_EAGAIN);
}

/* The other user's side: it connects and says something. 0: that was possible. */
static int be_another_user(const char *endpoint)
{
    lx_bus *bus = NULL;
    lx_msg msg = {.kind = LX_MSG_COMMAND, .req = 1}, got;
    if (lx_bus_connect(&bus, endpoint, NULL) != LX_OK)
        return 1;
    lx_bus_send(bus, NULL, &msg, NULL);
    lx_bus_receive(bus, NULL, &got, 500, NULL);
    lx_bus_close(&bus);
    return 0;
}

/* --- key files -------------------------------------------------------------------------------- */

static void put(const house *h, const char *name, const char *text, mode_t mode)
{
    int fd = open(in(h, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    fchmod(fd, mode);
    close(fd);
}

static void test_key_files(void **state)
{
    house *h = *state;
    lx_keys got;
    lx_err err = {0};
    struct stat st;
    char path[256];
    snprintf(path, sizeof path, "%s", in(h, "anna.key"));
    assert_int_equal(lx_keys_write(&h->friend, path, &err), LX_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(lx_keys_read(&got, path, &err), LX_OK);
    assert_memory_equal(&got, &h->friend, sizeof got);
    assert_int_equal(lx_keys_write(&h->server, path, &err), LX_ECONFIG); /* never over another */
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(lx_keys_read(&got, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(symlink(path, in(h, "link.key")), 0);
    assert_int_equal(lx_keys_read(&got, in(h, "link.key"), &err), LX_ECONFIG);

    static const struct {
        const char *text, *says;
    } bad[] = {{"", "no public"},
               {"public 123\n", "no key of 40"},
               {"-----BEGIN RSA PRIVATE KEY-----\n", "no key file"},
               {"public !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!~~~~\n", "no key of 40"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(h, "bad.key", bad[i].text, 0600);
        assert_int_equal(lx_keys_read(&got, in(h, "bad.key"), &err), LX_ECONFIG);
        assert_non_null(strstr(err.message, bad[i].says));
        assert_null(strstr(err.message, "~~~~")); /* a secret is not repeated */
    }
    char line[128];
    snprintf(line, sizeof line, "public %s\n", h->friend.public_key);
    put(h, "bad.key", line, 0600);
    assert_int_equal(lx_keys_read(&got, in(h, "bad.key"), &err), LX_ECONFIG); /* no secret */
    put(h, "clients/x.pub", line, 0666);
    assert_int_equal(lx_gate_open(&h->gate, h->clients, &err), LX_ECONFIG);
    assert_int_equal(unlink(in(h, "clients/x.pub")), 0);
    assert_int_equal(chmod(h->clients, 0777), 0);
    assert_int_equal(lx_gate_open(&h->gate, h->clients, &err), LX_ECONFIG);
}

int main(int argc, char **argv)
{
#define IN_A_HOUSE(test) cmocka_unit_test_setup_teardown(test, build, raze)
    const struct CMUnitTest tests[] = {
        IN_A_HOUSE(test_key_files),
        IN_A_HOUSE(test_addresses),
        IN_A_HOUSE(test_friends_come_in_and_are_told_apart),
        IN_A_HOUSE(test_strangers_stay_out),
        IN_A_HOUSE(test_files_count_for_the_next_connection),
        IN_A_HOUSE(test_without_a_gate_nobody_comes_in),
        IN_A_HOUSE(test_the_trial_at_start_finds_an_open_door),
        IN_A_HOUSE(test_another_user_stays_out),
    };
    if (argc == 3 && strcmp(argv[1], "other-user") == 0)
        return be_another_user(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
