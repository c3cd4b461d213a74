#include "pkg/executors/shimdir.h"

#include "internal/str.h"
#include "pkg/executors/plan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uthash.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define NAME_LEN  (ID_TEXT_LEN + 12) /* of an attempt's directory, with its end */

static void closedirp(DIR **d)
{
    if (*d) {
        closedir(*d);
    }
}

/* ---- making, finding ---- */

static void format_name(char text[NAME_LEN], const struct id *task, int32_t attempt)
{
    id_format(task, text);
    snprintf(text + ID_TEXT_LEN - 1, NAME_LEN - ID_TEXT_LEN + 1, ".%d", attempt);
}

char *shimdir_path(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    char name[NAME_LEN];

    format_name(name, task, attempt);
    return xasprintf("%s/%s", tasks_dir, name);
}

int shimdir_create(const char *dir, struct err *reterr)
{
    char *work CLEANUP(freep) = xasprintf("%s/work", dir);

    if (mkdir(dir, 0700) != 0 || mkdir(work, 0700) != 0) {
        return err_errno(reterr, errno == EEXIST ? ERR_CONFLICT : ERR_IO, errno,
                         "cannot make %.150s", dir);
    }
    return 0;
}

bool shimdir_take_back(const char *dir)
{
    char path[64];
    struct stat st = {0};
    int fd CLEANUP(closep) = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_uid != geteuid() ||
        (st.st_mode & S_IRWXU) == S_IRWXU) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return chmod(path, 0700) == 0;
}

/* As we write it: in any other spelling a task has made it. */
static bool parse_name(const char *name, struct id *task, int32_t *attempt)
{
    char ours[NAME_LEN];
    int64_t n = 0;

    if (strlen(name) < ID_TEXT_LEN || !id_parse(name, ID_TEXT_LEN - 1, task) ||
        !str_to_i64(str_of(name + ID_TEXT_LEN), 1, INT32_MAX, &n)) {
        return false;
    }
    *attempt = (int32_t)n;
    format_name(ours, task, *attempt);
    return streq(name, ours);
}

int shimdir_list(const char *tasks_dir,
                 void (*found)(void *arg, const struct id *task, int32_t attempt), void *arg,
                 struct err *reterr)
{
    DIR *d CLEANUP(closedirp) = opendir(tasks_dir);

    if (!d) {
        return errno == ENOENT ? 0
                               : err_errno(reterr, ERR_IO, errno, "cannot read %.150s", tasks_dir);
    }
    for (;;) {
        struct id task;
        int32_t attempt = 0;

        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            return errno ? err_errno(reterr, ERR_IO, errno, "cannot read %.150s", tasks_dir) : 0;
        }
        if (parse_name(e->d_name, &task, &attempt)) {
            found(arg, &task, attempt);
        }
    }
}

/* ---- files ---- */

int shimdir_read_file(const char *dir, const char *name, struct buf *out, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, name);
    int fd CLEANUP(closep) = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat st = {0};

    if (fd < 0) {
        return err_errno(reterr, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno,
                         "cannot open %.150s", path);
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return err_set(reterr, ERR_IO, "%.150s is not a regular file", path);
    }
    size_t room = out->max - out->len;
    if ((uint64_t)st.st_size > room) {
        return err_set(reterr, ERR_TOO_LARGE, "%.150s is larger than %zu bytes", path, room);
    }
    /* It may shrink meanwhile; what it grows by is left out. */
    for (size_t left = (size_t)st.st_size; left;) {
        char *at = buf_reserve(out, left);
        ssize_t n = read(fd, at, left);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(reterr, ERR_IO, errno, "cannot read %.150s", path);
        }
        if (n == 0) {
            break;
        }
        buf_commit(out, (size_t)n);
        left -= (size_t)n;
    }
    return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR) {
            return -1;
        }
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

int shimdir_write_file(const char *dir, const char *name, const void *p, size_t n,
                       struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, name);
    char *tmp CLEANUP(freep) = xasprintf("%s/%s.tmp", dir, name);

    unlink(tmp);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write_all(fd, p, n) == 0;
    if (fd >= 0) {
        ok = close(fd) == 0 && ok;
    }
    if (!ok || rename(tmp, path) != 0) {
        int error = errno;
        unlink(tmp);
        return err_errno(reterr, ERR_IO, error, "cannot write %.150s", path);
    }
    return 0;
}

/* ---- the plan ---- */

struct seen {
    UT_hash_handle hh;
};

/* Appends the variables of `env`, of each name the last. */
static void add_env(struct buf *b, const struct buf *env)
{
    struct seen *table = NULL;
    struct seen *it;
    struct seen *tmp;

    for (size_t end = env->len; end;) {
        size_t start = end - 1;
        while (start && env->data[start - 1] != '\0') {
            start--;
        }
        const char *line = env->data + start;
        const char *eq = strchr(line, '=');
        end = start;
        if (!eq) {
            continue;
        }
        HASH_FIND(hh, table, line, (unsigned)(eq - line), it);
        if (it) {
            continue;
        }
        it = xmalloc(sizeof(*it));
        HASH_ADD_KEYPTR(hh, table, line, (unsigned)(eq - line), it);
        buf_adds(b, "env=");
        buf_add(b, line, strlen(line) + 1);
    }
    HASH_ITER(hh, table, it, tmp)
    {
        HASH_DEL(table, it);
        free(it);
    }
}

static void add_text(struct buf *b, const char *key, const char *value)
{
    if (value) {
        buf_addf(b, "%s=%s", key, value);
        buf_addc(b, '\0');
    }
}

static void add_number(struct buf *b, const char *key, int64_t n)
{
    buf_addf(b, "%s=%lld", key, (long long)n);
    buf_addc(b, '\0');
}

static void add_user(struct buf *b, const struct task_user *u)
{
    if (!u) {
        return;
    }
    add_number(b, "user", u->uid);
    add_number(b, "group", u->gid);
    for (int i = 0; i < u->group_count; i++) {
        if (u->groups[i] != u->gid) {
            add_number(b, "group", u->groups[i]);
        }
    }
}

int shim_plan_write(const char *dir, const struct exec_plan *p, const struct shim_limits *l,
                    struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, PLAN_SIZE_MAX);
    add_number(&b, "version", PLAN_VERSION);
    for (size_t at = 0; at < p->argv.len; at += strlen(p->argv.data + at) + 1) {
        add_text(&b, "arg", p->argv.data + at);
    }
    for (size_t at = 0; at < p->needs.len; at += strlen(p->needs.data + at) + 1) {
        add_text(&b, "need", p->needs.data + at);
    }
    add_env(&b, &p->env);
    add_user(&b, p->user);
    add_text(&b, "cwd", p->cwd);
    add_text(&b, "stdin", p->stdin_file);
    add_number(&b, "timeoutMs", l->timeout_ms);
    add_number(&b, "graceMs", l->grace_ms);
    add_number(&b, "leaseUntil", l->lease_until);
    add_text(&b, "onLease", p->detach ? "detach" : "kill");
    add_text(&b, "term", p->hold_term ? "held" : NULL);
    add_number(&b, "logLimit", l->log_limit);
    add_text(&b, "cgroup", l->cgroup);
    add_number(&b, "memoryMax", l->memory_max);
    if (b.failed) {
        return err_set(reterr, ERR_TOO_LARGE, "command line and environment are over the limit");
    }
    return shimdir_write_file(dir, "plan", b.data, b.len, reterr);
}

/* ---- the shim ---- */

/* Only these errors say that there is none: who is short of descriptors cannot tell. */
static int not_there(struct err *reterr, const char *dir, int error)
{
    bool sure = error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENOTSOCK ||
                error == ECONNREFUSED;

    return err_errno(reterr, sure ? ERR_NOT_FOUND : ERR_IO, error, "no shim listens in %.150s",
                     dir);
}

int shim_connect(const char *dir, int *ret_fd, struct err *reterr)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st = {0};
    /* sun_path has 108 bytes, a directory's name may have more. */
    int at CLEANUP(closep) = open(dir, DIR_FLAGS);

    if (at < 0 || fstatat(at, "sock", &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(st.st_mode)) {
        return not_there(reterr, dir, at >= 0 && st.st_mode ? ENOTSOCK : errno);
    }
    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/sock", at);
    int fd CLEANUP(closep) = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return err_errno(reterr, ERR_IO, errno, "cannot make a socket");
    }
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
        return errno == EAGAIN
                   ? err_errno(reterr, ERR_BUSY, errno, "the shim in %.150s is not answering", dir)
                   : not_there(reterr, dir, errno);
    }
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* A shim binds `sock` before it does anything else and ends where that fails. */
int shim_fence(const char *dir, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/sock", dir);
    int fd CLEANUP(closep) = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd >= 0 || errno == ENOENT) { /* without a directory nothing can start in it */
        return 0;
    }
    if (errno != EEXIST) {
        return err_errno(reterr, ERR_IO, errno, "cannot make %.150s", path);
    }
    int conn CLEANUP(closep) = -1;
    int rc = shim_connect(dir, &conn, NULL);
    return rc == ERR_NOT_FOUND
               ? 0
               : err_set(reterr, ERR_BUSY, "the shim in %.150s is still there", dir);
}
