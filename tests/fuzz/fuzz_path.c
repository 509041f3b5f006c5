/*
 * fuzz_path.c - any order of anything in the output folder: nothing outside is touched, nobody's
 * file is lost, nothing half-made has a final name
 * SPDX-License-Identifier: Apache-2.0
 *
 * The bytes are a program of steps: put files, folders, links and pipes into the folder, begin,
 * write, commit or discard one of two artifacts, sweep, swap the folder for a link to another.
 * After each step the folder is compared with what it was before (promises of mux_path.h).
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_job.h"
#include "lx_log.h"
#include "mux_path.h"

#define STEPS_MAX   48
#define ENTRIES_MAX 64
#define SLOTS       2
#define HOLDS       2

/* One name in a folder. Contents of a folder count into its hash, one level deep. */
typedef struct entry {
    char name[MUX_NAME_BYTES];
    ino_t inode;
    mode_t mode;
    uint64_t hash;
} entry;

typedef struct listing {
    int n;
    entry at[ENTRIES_MAX];
} listing;

typedef struct input {
    const uint8_t *at, *end;
} input;

static char root[64], jail[96], outside[96];
static int jail_fd = -1; /* stays the jail's, also while a link stands in its place */
static mux_out slot[SLOTS];
static bool is_open[SLOTS];
static int hold[HOLDS]; /* parts that "another process" writes: locked */
static listing before, after, outside_was, outside_is;

static void wrong(const char *what)
{
    fprintf(stderr, "not as promised: %s\n", what);
    abort();
}

static void must(bool holds, const char *what)
{
    if (!holds)
        wrong(what);
}

/* --- input ------------------------------------------------------------------------------------ */

static uint8_t take(input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static const char *const words[] = {"a.mp4",    "b.mp4", "frames",     ".j1.part", ".j2.part",
                                    ".j3.part", "..",    "../up",      ".",        "",
                                    "-x",       ".part", ".j1.part.x", "a/b",      "secret"};

/* One of the words, any bytes, or something long. Valid until the next call but one. */
static const char *take_name(input *in)
{
    static char text[2][MUX_NAME_BYTES + 64];
    static int turn;
    char *out = text[turn ^= 1];
    uint8_t b = take(in);
    size_t n = 0;
    if (b < 0x80) {
        snprintf(out, sizeof *text, "%s", words[b % (sizeof words / sizeof *words)]);
        return out;
    }
    if (b >= 0xf0)
        for (; n < 100 + 13 * (size_t)(b & 15); n++)
            out[n] = 'a';
    for (int i = b & 15; i > 0; i--)
        out[n++] = (char)take(in);
    out[n] = 0;
    return out;
}

/* --- folders ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
    return h;
}

static uint64_t hash_file(int dir_fd, const char *name)
{
    char bytes[512];
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint64_t h = 1;
    for (ssize_t n; fd >= 0 && (n = read(fd, bytes, sizeof bytes)) > 0;)
        h = mix(h, bytes, (size_t)n);
    if (fd >= 0)
        close(fd);
    return h;
}

static DIR *open_listing(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    must(dir != NULL, "a folder can be listed");
    return dir;
}

static bool is_dots(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

/* The order of names does not matter. */
static uint64_t hash_folder(int dir_fd, const char *name)
{
    uint64_t h = 2;
    DIR *dir = open_listing(dir_fd, name);
    for (struct dirent *e; (e = readdir(dir));)
        if (!is_dots(e->d_name))
            h += mix(hash_file(dirfd(dir), e->d_name), e->d_name, strlen(e->d_name));
    closedir(dir);
    return h;
}

static void list(int dir_fd, listing *out)
{
    struct stat st;
    out->n = 0;
    DIR *dir = open_listing(dir_fd, ".");
    for (struct dirent *e; (e = readdir(dir));) {
        if (is_dots(e->d_name))
            continue;
        must(out->n < ENTRIES_MAX, "there are few entries");
        entry *x = &out->at[out->n++];
        must(!fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW), "an entry is there");
        *x = (entry){.inode = st.st_ino, .mode = st.st_mode};
        snprintf(x->name, sizeof x->name, "%s", e->d_name);
        x->hash = S_ISREG(st.st_mode)   ? hash_file(dir_fd, x->name)
                  : S_ISDIR(st.st_mode) ? hash_folder(dir_fd, x->name)
                                        : 0;
    }
    closedir(dir);
}

static const entry *find(const listing *l, const char *name)
{
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->at[i].name, name))
            return &l->at[i];
    return NULL;
}

static bool same_entry(const entry *a, const entry *b)
{
    return a && b && a->inode == b->inode && a->mode == b->mode && a->hash == b->hash;
}

/* Everything but these two names is as it was. NULL: no such name. */
static void check_rest(const char *name, const char *part)
{
    list(jail_fd, &after);
    for (int i = 0; i < before.n; i++) {
        const entry *was = &before.at[i];
        if ((!name || strcmp(was->name, name)) && (!part || strcmp(was->name, part)))
            must(same_entry(was, find(&after, was->name)), "another entry is untouched");
    }
    for (int i = 0; i < after.n; i++) {
        const entry *is = &after.at[i];
        if ((!name || strcmp(is->name, name)) && (!part || strcmp(is->name, part)))
            must(find(&before, is->name) != NULL, "no other entry appears");
    }
}

static void empty(int dir_fd, int depth)
{
    DIR *dir = open_listing(dir_fd, ".");
    for (struct dirent *e; (e = readdir(dir));) {
        if (is_dots(e->d_name) || !unlinkat(dir_fd, e->d_name, 0))
            continue;
        int fd = openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && depth < 4)
            empty(fd, depth + 1);
        if (fd >= 0)
            close(fd);
        unlinkat(dir_fd, e->d_name, AT_REMOVEDIR);
    }
    closedir(dir);
}

/* --- steps ------------------------------------------------------------------------------------ */

static bool is_part_of_open(const char *name)
{
    for (int i = 0; i < SLOTS; i++)
        if (is_open[i] && !strcmp(slot[i].part, name))
            return true;
    return false;
}

/* What a user, or an earlier attempt, may have left there. */
static void step_plant(input *in)
{
    const char *name = take_name(in);
    uint8_t kind = take(in) % 7, text = take(in);
    int fd = -1;
    if (!name[0] || strlen(name) >= MUX_NAME_BYTES || strchr(name, '/') || is_dots(name) ||
        before.n >= ENTRIES_MAX / 2)
        return;
    switch (kind) {
    case 0:
    case 1:
        fd = openat(jail_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        break;
    case 2:
    case 3:
        if (!mkdirat(jail_fd, name, 0750) && kind == 3) {
            int dir = openat(jail_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            mkdirat(dir, "deeper", 0750);
            fd = openat(dir, "0.png", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
            close(dir);
        }
        break;
    case 4:
    case 5:
        if (symlinkat(kind == 4 ? "../outside/secret" : "../outside", jail_fd, name))
            return; /* it is taken */
        break;
    default:
        mkfifoat(jail_fd, name, 0600);
        break;
    }
    if (fd >= 0) {
        must(write(fd, &text, 1) == 1, "one byte can be written");
        close(fd);
    }
}

static void step_remove(input *in)
{
    const char *name = take_name(in);
    if (name[0] && !strchr(name, '/') && !is_dots(name) && !is_part_of_open(name))
        unlinkat(jail_fd, name, 0);
}

/* A part that another process is at work on. */
static void step_hold(input *in)
{
    const char *name = take_name(in);
    int i = take(in) % HOLDS;
    if (hold[i] >= 0)
        close(hold[i]);
    hold[i] = -1;
    if (!name[0] || strchr(name, '/') || is_part_of_open(name))
        return;
    hold[i] = openat(jail_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (hold[i] >= 0 && flock(hold[i], LOCK_EX | LOCK_NB)) {
        close(hold[i]);
        hold[i] = -1;
    }
}

/* Files and folders alone: nothing else is ever made as a part. */
static bool is_held(const entry *e)
{
    struct stat st;
    if (!S_ISREG(e->mode) && !S_ISDIR(e->mode))
        return false;
    for (int i = 0; i < HOLDS; i++)
        if (hold[i] >= 0 && !fstat(hold[i], &st) && st.st_ino == e->inode)
            return true;
    return is_part_of_open(e->name);
}

static void check_begun(const mux_out *out, const mux_out_options *o)
{
    const entry *part = find(&after, out->part), *was = find(&before, o->name);
    must(o->any_name ? o->name[0] && !strchr(o->name, '/') && !is_dots(o->name)
                     : lx_job_output_name_ok(o->name),
         "what is begun has a good name");
    must(out->fd >= 0 && out->dir_fd >= 0, "what is begun is open");
    must(part && (o->kind == MUX_OUT_FILE ? S_ISREG(part->mode) : S_ISDIR(part->mode)),
         "a part of that kind is there");
    must(part->hash == (o->kind == MUX_OUT_FILE ? 1 : 2), "a part is empty at first");
    must(!was || o->overwrite || o->is_again, "what exists is refused");
    must(!was || o->is_again || (was->mode & S_IFMT) == (part->mode & S_IFMT),
         "only the same kind is replaced");
    must(!strcmp(out->name, o->name) || was == NULL || same_entry(was, find(&after, o->name)),
         "nothing is replaced before the end");
}

static void step_begin(input *in, bool is_linked)
{
    static const char *const jobs[] = {"j1", "j2", "j3", "", "../j", "a.b"};
    uint8_t flags = take(in);
    int i = flags & 1;
    lx_err err = {0};
    mux_out_options o = {.kind = flags & 2 ? MUX_OUT_FOLDER : MUX_OUT_FILE,
                         .dir = jail,
                         .name = take_name(in),
                         .job = jobs[take(in) % (sizeof jobs / sizeof *jobs)],
                         .overwrite = flags & 4,
                         .is_again = flags & 8,
                         .any_name = flags & 16,
                         .needs = flags & 32 ? UINT64_MAX : 100};
    char part[MUX_PART_BYTES];
    snprintf(part, sizeof part, ".%s.part", o.job);
    if (is_open[i])
        return;
    lx_status status = mux_out_begin(&slot[i], &o, &err);
    check_rest(NULL, strchr(part, '/') ? NULL : part);
    if (status == LX_OK) {
        must(!is_linked, "a folder that became a link is refused");
        is_open[i] = true;
        check_begun(&slot[i], &o);
        return;
    }
    must(slot[i].fd < 0 && slot[i].dir_fd < 0, "what is refused leaves nothing open");
    must((status == LX_EJOB || (status == LX_ECONFIG && o.any_name)) && err.message[0],
         "a refusal has a class and a reason");
}

static void step_write(input *in)
{
    uint8_t flags = take(in), text = take(in);
    mux_out *out = &slot[flags & 1];
    if (!is_open[flags & 1])
        return;
    if (out->kind == MUX_OUT_FILE) {
        must(write(out->fd, &text, 1) == 1, "a part can be written");
        return;
    }
    int fd = openat(out->fd, flags & 2 ? "0.png" : "1.png",
                    O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
    must(fd >= 0 && write(fd, &text, 1) == 1, "a file of a folder can be written");
    close(fd);
}

static void check_committed(const mux_out *was, const entry *part)
{
    const entry *old = find(&before, was->name), *is = find(&after, was->name);
    must(is && is->hash == part->hash && (is->mode & S_IFMT) == (part->mode & S_IFMT),
         "what was committed is there, whole");
    if (is->inode != part->inode)
        must(was->is_again && same_entry(old, is), "only the same again stays as it was");
    else if (old)
        must(was->overwrite, "only what may be replaced is");
}

static void step_commit(input *in)
{
    int i = take(in) & 1;
    lx_err err = {0};
    if (!is_open[i])
        return;
    mux_out was = slot[i];
    const entry *part = find(&before, was.part);
    must(part != NULL, "an open part is there");
    lx_status status = mux_out_commit(&slot[i], &err);
    is_open[i] = false;
    check_rest(status == LX_OK ? was.name : NULL, was.part);
    must(slot[i].fd < 0 && slot[i].dir_fd < 0, "a commit closes");
    /* A replaced folder with folders in it cannot be emptied: it stays under the part's name. */
    const entry *left = find(&after, was.part);
    must(!left || (status == LX_OK && was.kind == MUX_OUT_FOLDER && was.overwrite),
         "no part is left");
    if (status == LX_OK)
        check_committed(&was, part);
    else
        must(status == LX_EJOB && err.message[0], "a failure has a class and a reason");
}

static void step_discard(input *in)
{
    int i = take(in) & 1;
    char part[MUX_PART_BYTES];
    if (!is_open[i])
        return;
    snprintf(part, sizeof part, "%s", slot[i].part);
    mux_out_discard(&slot[i]);
    is_open[i] = false;
    check_rest(NULL, part);
    must(!find(&after, part), "a discarded part is gone");
}

static void step_sweep(bool is_linked)
{
    int n = mux_dir_sweep(jail), n_gone = 0;
    list(jail_fd, &after);
    must(!is_linked || n == -1, "a link is not swept");
    for (int i = 0; i < before.n; i++) {
        const entry *was = &before.at[i];
        size_t length = strlen(was->name);
        bool is_part =
            was->name[0] == '.' && length > 6 && !strcmp(was->name + length - 5, ".part");
        if (find(&after, was->name))
            must(is_linked || !is_part || !S_ISREG(was->mode) || is_held(was) ||
                     strspn(was->name + 1, "abcdefghijklmnopqrstuvwxyz0123456789") != length - 6,
                 "a dead part is swept");
        else
            must(!is_linked && is_part && !is_held(was), "only dead parts are swept");
        n_gone += !find(&after, was->name);
    }
    must(is_linked || n == n_gone, "a sweep counts what it takes");
}

/* --- one input -------------------------------------------------------------------------------- */

static void remove_root(void)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        empty(fd, 0);
        close(fd);
    }
    rmdir(root);
}

static void make_world(void)
{
    /* In memory where there is such a place: fsync is free there. */
    snprintf(root, sizeof root, "%s/lx2v-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    must(mkdtemp(root) != NULL, "a folder can be made");
    atexit(remove_root);
    snprintf(jail, sizeof jail, "%s/out", root);
    snprintf(outside, sizeof outside, "%s/outside", root);
    must(!mkdir(jail, 0750) && !mkdir(outside, 0750), "folders can be made");
    jail_fd = open(jail, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = open(outside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int secret = openat(fd, "secret", O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    int part = openat(fd, ".j1.part", O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    must(write(secret, "s", 1) == 1 && jail_fd >= 0 && part >= 0, "files can be made");
    close(secret);
    close(part);
    list(fd, &outside_was);
    close(fd);
    lx_log_open("fuzz", LX_LOG_ERROR);
}

static void check_outside(void)
{
    int fd = open(outside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    list(fd, &outside_is);
    close(fd);
    must(outside_is.n == outside_was.n, "nothing comes or goes outside");
    for (int i = 0; i < outside_was.n; i++)
        must(same_entry(&outside_was.at[i], find(&outside_is, outside_was.at[i].name)),
             "nothing changes outside");
}

/* A link to the outside takes the folder's place, and goes again. */
static bool swap(bool is_linked)
{
    char aside[112];
    snprintf(aside, sizeof aside, "%s/aside", root);
    if (is_linked)
        must(!unlink(jail) && !rename(aside, jail), "the folder is put back");
    else
        must(!rename(jail, aside) && !symlink("outside", jail), "a link takes its place");
    return !is_linked;
}

static bool step(input *in, bool is_linked)
{
    list(jail_fd, &before);
    switch (take(in) % 10) {
    case 0:
    case 1:
        step_plant(in);
        break;
    case 2:
        step_remove(in);
        break;
    case 3:
        step_hold(in);
        break;
    case 4:
        step_begin(in, is_linked);
        break;
    case 5:
        step_write(in);
        break;
    case 6:
        step_commit(in);
        break;
    case 7:
        step_discard(in);
        break;
    case 8:
        step_sweep(is_linked);
        break;
    default:
        is_linked = swap(is_linked);
        break;
    }
    check_outside();
    return is_linked;
}

static void clean_up(bool is_linked)
{
    for (int i = 0; i < SLOTS; i++) {
        mux_out_discard(&slot[i]);
        is_open[i] = false;
    }
    for (int i = 0; i < HOLDS; i++) {
        if (hold[i] >= 0)
            close(hold[i]);
        hold[i] = -1;
    }
    if (is_linked)
        swap(true);
    empty(jail_fd, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {.at = data, .end = data + size};
    bool is_linked = false;
    if (jail_fd < 0)
        make_world();
    for (int i = 0; i < SLOTS; i++)
        slot[i] = (mux_out){.fd = -1, .dir_fd = -1};
    for (int i = 0; i < HOLDS; i++)
        hold[i] = -1;
    int low = dup(jail_fd);
    for (int n = 0; n < STEPS_MAX && in.at < in.end; n++)
        is_linked = step(&in, is_linked);
    clean_up(is_linked);
    int high = dup(jail_fd);
    must(low >= 0 && high == low + 1, "no descriptor stays open");
    close(low);
    close(high);
    return 0;
}
