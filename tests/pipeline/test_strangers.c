/*
 * test_strangers.c - what listens by default, and who gets in
 * SPDX-License-Identifier: Apache-2.0
 *
 * A real pipeline, looked at from outside: its listening sockets as the kernel lists them, and
 * everything a stranger can try: no key, a key of its own, another user, garbage, too much, bombs.
 * After each try the pipeline must still make a clip for its owner.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "lx_bus.h"
#include "rig.h"

#define PIDS 16

/* --- what listens ----------------------------------------------------------------------------- */

/* The launcher and its children. */
static int family(pid_t launcher, pid_t pids[PIDS])
{
    char path[64];
    int n = 0, pid;
    pids[n++] = launcher;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)launcher, (int)launcher);
    FILE *file = fopen(path, "r");
    while (file && n < PIDS && fscanf(file, "%d", &pid) == 1)
        pids[n++] = (pid_t)pid;
    if (file)
        fclose(file);
    return n;
}

static bool holds_inode(const pid_t *pids, int n, unsigned long inode)
{
    char folder[64], want[64];
    bool found = false;
    snprintf(want, sizeof want, "socket:[%lu]", inode);
    for (int i = 0; i < n && !found; i++) {
        snprintf(folder, sizeof folder, "/proc/%d/fd", (int)pids[i]);
        DIR *dir = opendir(folder);
        for (struct dirent *e; dir && !found && (e = readdir(dir));) {
            char target[128] = "";
            found = readlinkat(dirfd(dir), e->d_name, target, sizeof target - 1) > 0 &&
                    strcmp(target, want) == 0;
        }
        if (dir)
            closedir(dir);
    }
    return found;
}

typedef struct doors {
    int n_unix, n_net;
    bool has_clients, has_stages;
    char first_net[128];
} doors;

/* Listening unix sockets: the flag SO_ACCEPTCON, 0x10000, in /proc/net/unix. */
static void look_at_unix(doors *out, const rig *r, const pid_t *pids, int n)
{
    char line[512], path[256], clients[128], stages[128];
    unsigned long flags, inode;
    FILE *file = fopen("/proc/net/unix", "r");
    assert_non_null(file);
    snprintf(clients, sizeof clients, "%s/clients.sock", r->state);
    snprintf(stages, sizeof stages, "%s/stages.sock", r->state);
    while (fgets(line, sizeof line, file)) {
        path[0] = 0;
        if (sscanf(line, "%*s %*s %*s %lx %*s %*s %lu %255s", &flags, &inode, path) < 2 ||
            !(flags & 0x10000) || !holds_inode(pids, n, inode))
            continue;
        out->n_unix++;
        out->has_clients |= strcmp(path, clients) == 0;
        out->has_stages |= strcmp(path, stages) == 0;
    }
    fclose(file);
}

/* tcp in state LISTEN (0A), and any udp or raw socket at all. */
static void look_at_net(doors *out, const char *table, bool only_listening, const pid_t *pids,
                        int n)
{
    char line[512], path[64], local[128];
    unsigned state;
    unsigned long inode;
    snprintf(path, sizeof path, "/proc/net/%s", table);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%*d: %127s %*s %x %*s %*s %*s %*s %*s %lu", local, &state, &inode) != 3 ||
            (only_listening && state != 0x0a) || !holds_inode(pids, n, inode))
            continue;
        if (!out->n_net++)
            snprintf(out->first_net, sizeof out->first_net, "%s %.100s", table, local);
    }
    if (file)
        fclose(file);
}

static doors look(const rig *r)
{
    doors out = {0};
    pid_t pids[PIDS];
    int n = family(r->pid, pids);
    assert_true(n >= 5);
    look_at_unix(&out, r, pids, n);
    look_at_net(&out, "tcp", true, pids, n);
    look_at_net(&out, "tcp6", true, pids, n);
    look_at_net(&out, "udp", false, pids, n);
    look_at_net(&out, "udp6", false, pids, n);
    look_at_net(&out, "raw", false, pids, n);
    return out;
}

static void assert_mode(const char *folder, const char *name, mode_t mode)
{
    char path[160];
    struct stat st;
    snprintf(path, sizeof path, "%s%s%s", folder, *name ? "/" : "", name);
    assert_int_equal(stat(path, &st), 0);
    if ((st.st_mode & 0777) != mode)
        fail_msg("%s has mode %03o", path, (unsigned)st.st_mode & 0777);
}

/* --- trying ----------------------------------------------------------------------------------- */

static const struct {
    const char *bytes;
    size_t n;
} garbage[] = {
    {"", 0},
    {"GET / HTTP/1.1\r\n\r\n", 18},
    {"\xdd\xff\xff\xff\xff", 5},          /* array of 2^32 - 1 */
    {"\xdf\x00\xff\xff\xff", 5},          /* map of 2^24 - 1 */
    {"\x81\xa1k\xdb\xff\xff\xff\xff", 8}, /* string of 4 GiB */
    {"\x81\xa1k\x0f", 4},                 /* the right beginning and no more */
    {"\xc1\xc1\xc1\xc1", 4},              /* no msgpack at all */
};

/* As libzmq frames, from somebody who speaks the protocol. */
static void send_garbage(void *socket)
{
    static char deep[10001], huge[LX_LIMIT_MESSAGE + 1];
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++)
        zmq_send(socket, garbage[i].bytes, garbage[i].n, ZMQ_DONTWAIT);
    memset(deep, (char)0x91, sizeof deep); /* an array in an array in ... */
    zmq_send(socket, deep, sizeof deep, ZMQ_DONTWAIT);
    for (int i = 0; i < 200; i++)
        zmq_send(socket, "x", 1, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(socket, "x", 1, ZMQ_DONTWAIT);
    zmq_send(socket, huge, sizeof huge, ZMQ_DONTWAIT); /* cut off by MAXMSGSIZE */
}

/* A message that is right in form: which kinds does this socket answer? */
static int count_answers(void *socket)
{
    static unsigned char wire[LX_LIMIT_MESSAGE];
    int n_answers = 0;
    for (lx_msg_kind kind = LX_MSG_HELLO; kind < LX_MSG_KIND_COUNT; kind++) {
        static lx_msg msg;
        size_t n;
        memset(&msg, 0, sizeof msg);
        msg.kind = kind;
        msg.req = 1;
        if (kind == LX_MSG_HELLO)
            msg.u.hello.pid = 1;
        if (lx_msg_encode(&msg, wire, sizeof wire, &n, NULL) == LX_OK)
            zmq_send(socket, wire, n, ZMQ_DONTWAIT);
    }
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    while (zmq_poll(&item, 1, 400) == 1)
        n_answers += zmq_recv(socket, wire, sizeof wire, ZMQ_DONTWAIT) >= 0;
    return n_answers;
}

static void *knock(void *context, const char *endpoint, const lx_keys *keys)
{
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int zero = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero);
    if (keys) {
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, keys->server, LX_KEY_TEXT);
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, keys->public_key, LX_KEY_TEXT);
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys->secret, LX_KEY_TEXT);
    }
    assert_int_equal(zmq_connect(socket, endpoint), 0);
    return socket;
}

/* Bytes that are not even ZeroMQ's, on the bare socket. */
static void send_raw(int fd)
{
    static char noise[70000];
    uint32_t x = 12345;
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)((x = x * 1664525u + 1013904223u) >> 24);
    assert_true(fd >= 0);
    for (int i = 0; i < 4; i++)
        if (send(fd, noise, sizeof noise, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
    close(fd);
}

static int raw_unix(const char *endpoint)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(to.sun_path, endpoint + 6, strnlen(endpoint + 6, sizeof to.sun_path - 1));
    return connect(fd, (const struct sockaddr *)&to, sizeof to) ? -1 : fd;
}

static int raw_tcp(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (const struct sockaddr *)&to, sizeof to) ? -1 : fd;
}

static uint64_t resident_kib(pid_t pid)
{
    char path[64];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%*u %lu", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}

static bool log_has(const rig *r, const char *text)
{
    char line[2048];
    bool found = false;
    FILE *file = fopen(r->log, "r");
    assert_non_null(file);
    while (!found && fgets(line, sizeof line, file))
        found = strstr(line, text) != NULL;
    fclose(file);
    return found;
}

/* After all that: the owner's clip is made, nothing has grown, no prompt is in the log. */
static void assert_unmoved(rig *r, uint64_t before_kib)
{
    uint64_t now_kib = resident_kib(r->pid);
    if (RIG_SLACK == 1 && now_kib > before_kib + 8 * 1024) /* buffers of the sockets */
        fail_msg("the launcher grew from %" PRIu64 " to %" PRIu64 " KiB", before_kib, now_kib);
    rig_submit(r, "after");
    assert_int_equal(rig_wait(r, "after", 60), LX_CLIENT_DONE);
    assert_true(rig_has_file(r, "after.mp4"));
    assert_false(log_has(r, rig_request("x").prompt));
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_by_default_two_unix_sockets_and_nothing_else(void **state)
{
    (void)state;
    rig r;
    char stages[170];
    rig_start(&r, (rig_options){0});
    doors d = look(&r);
    if (d.n_net)
        fail_msg("%d sockets on a network, the first: %s", d.n_net, d.first_net);
    assert_int_equal(d.n_unix, 2); /* one for clients, one for the stages */
    assert_true(d.has_clients && d.has_stages);
    assert_mode(r.state, "", 0700);
    assert_mode(r.state, "clients.sock", 0600);
    assert_mode(r.state, "stages.sock", 0600);
    assert_mode(r.state, "run", 0600);
    assert_mode(r.state, "lock", 0600);

    /* The same user may connect; garbage is dropped, and only a client's questions are answered. */
    uint64_t before_kib = resident_kib(r.pid);
    snprintf(stages, sizeof stages, "ipc://%s/stages.sock", r.state);
    const char *const endpoints[] = {r.endpoint, stages};
    void *context = zmq_ctx_new();
    for (int i = 0; i < 2; i++) {
        send_raw(raw_unix(endpoints[i]));
        void *socket = knock(context, endpoints[i], NULL);
        send_garbage(socket);
        zmq_close(socket);
        socket = knock(context, endpoints[i], NULL);
        int n = count_answers(socket);
        if (i == 0 ? n < 3 : n != 0) /* without a token nobody on the stages' socket hears a word */
            fail_msg("%s gave %d answers", endpoints[i], n);
        zmq_close(socket);
    }
    zmq_ctx_term(context);
    assert_unmoved(&r, before_kib);
    rig_stop(&r, 0);
    rig_remove(&r);
}

/* The folder keeps others out, and if its owner opened it by mistake, the gate does. */
static void test_another_user_gets_nowhere(void **state)
{
    (void)state;
    rig r;
    if (geteuid() != 0)
        skip(); /* only root can become somebody else; tests/unit/test_gate.c says what is left */
    rig_start(&r, (rig_options){0});
    for (int opened = 0; opened < 2; opened++) {
        if (opened && (chmod(r.root, 0711) || chmod(r.state, 0711) || chmod(r.endpoint + 6, 0666)))
            fail_msg("chmod");
        pid_t child = fork();
        if (child == 0) {
            char hello[64] = "";
            if (setgid(65534) || setuid(65534))
                _exit(9);
            int fd = raw_unix(r.endpoint);
            if (fd < 0)
                _exit(opened ? 1 : 0);
            /* ZMTP's greeting, NULL mechanism, and READY as a DEALER: by hand, after a fork. */
            static const char greeting[64] = "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL";
            static const char ready[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\6DEALER";
            struct pollfd p = {.fd = fd, .events = POLLIN};
            if (!opened || send(fd, greeting, 64, MSG_NOSIGNAL) != 64 ||
                send(fd, ready, sizeof ready - 1, MSG_NOSIGNAL) < 0)
                _exit(2);
            ssize_t n = 0, got = 1;
            while (got > 0 && poll(&p, 1, 1500) == 1) {
                got = recv(fd, hello, sizeof hello, 0);
                n += got > 0 ? got : 0;
                if (got > 0 && memmem(hello, (size_t)got, "READY", 5))
                    _exit(3); /* it was let in */
            }
            _exit(n >= 64 ? 0 : 4); /* greeted, then refused */
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
    chmod(r.state, 0700);
    assert_true(log_has(&r, "another user"));
    rig_stop(&r, 0);
    rig_remove(&r);
}

/* --- tcp -------------------------------------------------------------------------------------- */

static void make_keys(const rig *r, lx_keys *anna)
{
    char text[1024], path[128];
    char *before = getcwd(NULL, 0);
    assert_int_equal(chdir(r->root), 0);
    assert_int_equal(rig_run(text, sizeof text, "lx2v keys keys --client anna 2>&1"), 0);
    assert_int_equal(rig_run(text, sizeof text, "lx2v keys keys --client anna 2>&1"), 2);
    assert_int_equal(chdir(before), 0);
    free(before);
    snprintf(path, sizeof path, "%s/anna.key", r->root);
    assert_int_equal(lx_keys_read(anna, path, NULL), LX_OK);
}

static int port_of(const rig *r)
{
    char line[2048];
    int port = 0;
    FILE *file = fopen(r->log, "r");
    assert_non_null(file);
    while (!port && fgets(line, sizeof line, file)) {
        const char *at = strstr(line, "listening endpoint=tcp://127.0.0.1:");
        if (at)
            port = atoi(strrchr(strtok(strstr(line, "tcp://"), " "), ':') + 1);
    }
    fclose(file);
    assert_true(port > 0);
    return port;
}

static void test_by_tcp_only_friends(void **state)
{
    (void)state;
    rig r;
    lx_keys anna, stranger;
    lx_err err = {0};
    char endpoint[64], text[4096];
    rig_make(&r, "listen: {tcp: '127.0.0.1:0', keys: keys}\n");
    make_keys(&r, &anna);
    rig_launch(&r, 0);
    assert_int_equal(lx_client_open(&r.client, r.endpoint, 10, &err), LX_OK);
    int port = port_of(&r);
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", port);
    doors d = look(&r);
    assert_int_equal(d.n_net, 1);
    assert_int_equal(d.n_unix, 2);
    assert_true(log_has(&r, "strangers=refused"));

    uint64_t before_kib = resident_kib(r.pid);
    void *context = zmq_ctx_new();
    send_raw(raw_tcp(port));
    assert_int_equal(lx_keys_make(&stranger, NULL), LX_OK);
    memcpy(stranger.server, anna.server, sizeof stranger.server);
    const lx_keys *const tries[] = {NULL, &stranger};
    for (int i = 0; i < 2; i++) {
        void *socket = knock(context, endpoint, tries[i]);
        send_garbage(socket);
        assert_int_equal(count_answers(socket), 0);
        zmq_close(socket);
    }
    void *socket = knock(context, endpoint, &anna); /* a friend who talks nonsense */
    send_garbage(socket);
    zmq_close(socket);
    zmq_ctx_term(context);

    /* The friend as she should be: through the command, and without our paths. */
    assert_int_equal(rig_run(text, sizeof text,
                             "lx2v submit 'a blue ball' --id hers --wait --json --endpoint %s "
                             "--key %s/anna.key 2>/dev/null",
                             endpoint, r.root),
                     0);
    assert_null(strstr(text, r.root));
    assert_non_null(strstr(text, "hers.mp4"));
    assert_int_equal(rig_run(text, sizeof text, "lx2v status --endpoint %s 2>&1", endpoint), 2);
    assert_non_null(strstr(text, "--key"));
    assert_unmoved(&r, before_kib);
    rig_stop(&r, 0);
    rig_remove(&r);
}

/* What is not as it must be ends the start, with exit code 2, before anything listens. */
static void test_bad_keys_end_the_start(void **state)
{
    (void)state;
    rig r;
    lx_keys anna;
    char text[8192], path[128];
    rig_make(&r, "listen: {tcp: '127.0.0.1:0', keys: keys}\n");
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_non_null(strstr(text, "lx2v keys"));
    make_keys(&r, &anna);
    snprintf(path, sizeof path, "%s/keys/server.key", r.root);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_non_null(strstr(text, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);
    snprintf(path, sizeof path, "%s/keys/clients", r.root);
    assert_int_equal(chmod(path, 0777), 0);
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_non_null(strstr(text, "others may write"));
    assert_null(strstr(text, "ready endpoint"));
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_default_two_unix_sockets_and_nothing_else),
        cmocka_unit_test(test_another_user_gets_nowhere),
        cmocka_unit_test(test_by_tcp_only_friends),
        cmocka_unit_test(test_bad_keys_end_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
