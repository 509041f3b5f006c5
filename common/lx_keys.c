/*
 * lx_keys.c - key files, read strictly
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define FILE_MAX 4096

lx_status lx_keys_make(lx_keys *out, lx_err *err)
{
    lx_keys keys = {.server = ""};
    if (!zmq_has("curve") || zmq_curve_keypair(keys.public_key, keys.secret))
        return lx_fail(err, LX_ECONFIG,
                       "this libzmq was built without CURVE: there are no keys and no tcp");
    *out = keys;
    lx_keys_forget(&keys);
    return LX_OK;
}

void lx_keys_forget(lx_keys *keys)
{
    explicit_bzero(keys, sizeof *keys);
}

/* --- writing ---------------------------------------------------------------------------------- */

static size_t format_keys(const lx_keys *keys, char *text, size_t room)
{
    const struct {
        const char *name, *value;
    } line[] = {{"public", keys->public_key}, {"secret", keys->secret}, {"server", keys->server}};
    size_t n = (size_t)snprintf(text, room, "%s",
                                keys->secret[0] ? "# a secret of lx2v: keep it to yourself\n" : "");
    for (size_t i = 0; i < sizeof line / sizeof *line; i++)
        if (line[i].value[0])
            n += (size_t)snprintf(text + n, room - n, "%s %s\n", line[i].name, line[i].value);
    return n;
}

lx_status lx_keys_write(const lx_keys *keys, const char *path, lx_err *err)
{
    char text[512];
    size_t n = format_keys(keys, text, sizeof text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                  keys->secret[0] ? 0600 : 0644);
    lx_status status = LX_OK;
    if (fd < 0) {
        status = lx_fail(err, LX_ECONFIG, "%s: %s", path,
                         errno == EEXIST ? "exists; a key is never overwritten" : strerror(errno));
    } else {
        bool is_written = write(fd, text, n) == (ssize_t)n && fsync(fd) == 0;
        int error = errno;
        if (close(fd) || !is_written) {
            unlink(path);
            status = lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(error));
        }
    }
    explicit_bzero(text, sizeof text);
    return status;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* 40 characters that stand for 32 bytes. */
static bool is_key(const char *text)
{
    uint8_t bytes[LX_KEY_BYTES];
    bool good = strlen(text) == LX_KEY_TEXT - 1 && zmq_z85_decode(bytes, text);
    explicit_bzero(bytes, sizeof bytes);
    return good;
}

static lx_status take_line(lx_keys *out, const char *line, const char *path, int number,
                           lx_err *err)
{
    const struct {
        const char *name;
        char *value;
    } known[] = {{"public ", out->public_key}, {"secret ", out->secret}, {"server ", out->server}};
    if (!*line || *line == '#')
        return LX_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i].name);
        if (strncmp(line, known[i].name, n))
            continue;
        if (known[i].value[0] || !is_key(line + n))
            return lx_fail(err, LX_ECONFIG, "%s:%d: %.6s: %s", path, number, line,
                           known[i].value[0] ? "given twice" : "is no key of 40 characters");
        memcpy(known[i].value, line + n, LX_KEY_TEXT);
        return LX_OK;
    }
    return lx_fail(err, LX_ECONFIG, "%s:%d: is no key file of lx2v; `lx2v keys` makes them", path,
                   number);
}

static lx_status parse(lx_keys *out, char *text, const char *path, lx_err *err)
{
    int number = 1;
    for (char *line = text, *next; line; line = next, number++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        lx_status status = take_line(out, line, path, number, err);
        if (status != LX_OK)
            return status;
    }
    if (!out->public_key[0])
        return lx_fail(err, LX_ECONFIG, "%s: has no public key; `lx2v keys` makes key files", path);
    return LX_OK;
}

/* Who may write a key file decides who comes in; who may read a secret is us. */
static lx_status check_file(int fd, const char *path, mode_t forbidden, lx_err *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
        return lx_fail(err, LX_ECONFIG, "%s: is no key file of lx2v", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return lx_fail(err, LX_ECONFIG, "%s: belongs to user %u, and this is user %u", path,
                       (unsigned)st.st_uid, (unsigned)geteuid());
    if (st.st_mode & forbidden)
        return lx_fail(err, LX_ECONFIG, "%s: mode %03o, others may %s it; run: chmod %s \"%s\"",
                       path, (unsigned)st.st_mode & 0777, forbidden & 044 ? "read" : "write",
                       forbidden & 044 ? "600" : "go-w", path);
    return LX_OK;
}

static lx_status read_keys(lx_keys *out, int dir_fd, const char *path, mode_t forbidden,
                           lx_err *err)
{
    char text[FILE_MAX + 1];
    lx_keys keys = {.public_key = ""};
    int fd = openat(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path,
                       errno == ELOOP ? "is a link; give the file itself" : strerror(errno));
    lx_status status = check_file(fd, path, forbidden, err);
    ssize_t n = status == LX_OK ? read(fd, text, FILE_MAX) : 0;
    close(fd);
    text[n > 0 ? n : 0] = 0;
    if (status == LX_OK)
        status = parse(&keys, text, path, err);
    if (status == LX_OK)
        *out = keys;
    explicit_bzero(text, sizeof text);
    lx_keys_forget(&keys);
    return status;
}

lx_status lx_keys_read(lx_keys *out, const char *path, lx_err *err)
{
    lx_keys keys;
    lx_status status = read_keys(&keys, AT_FDCWD, path, 077, err);
    if (status != LX_OK)
        return status;
    if (!keys.secret[0])
        return lx_fail(err, LX_ECONFIG, "%s: has no secret key; the .pub files are for the others",
                       path);
    *out = keys;
    lx_keys_forget(&keys);
    return LX_OK;
}

lx_status lx_keys_read_public(lx_keys *out, int dir_fd, const char *name, lx_err *err)
{
    return read_keys(out, dir_fd, name, 022, err);
}
