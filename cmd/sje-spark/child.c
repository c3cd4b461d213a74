#include "cmd/sje-spark/cluster.h"

#include "internal/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_BYTES 16384

static void run(char *const *argv, const int err[2], pid_t parent)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* The cluster gives our environment to the driver. What has the token is taken for this
     * attempt's own process, and the driver must outlive it. */
    unsetenv("SJE_TOKEN");
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent &&
        dup2(err[1], STDERR_FILENO) >= 0) {
        execv(argv[0], argv);
        dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
    }
    _exit(127);
}

int child_start(struct job *j, char *const *argv, struct err *reterr)
{
    int err[2];
    pid_t self = getpid();

    MUST(!j->child);
    if (pipe2(err, O_CLOEXEC) != 0) {
        return err_errno(reterr, ERR_IO, errno, "cannot make a pipe");
    }
    pid_t pid = fork();
    if (pid == 0) {
        run(argv, err, self);
    }
    close(err[1]);
    if (pid < 0) {
        close(err[0]);
        return err_errno(reterr, ERR_IO, errno, "cannot fork");
    }
    j->child = pid;
    j->child_err = err[0];
    buf_reset(&j->line);
    return 0;
}

/* Passes whole lines on and looks for ids in them. */
static void take_lines(struct job *j, bool all)
{
    char *end = NULL;

    while (j->line.len && ((end = memchr(j->line.data, '\n', j->line.len)) || all ||
                           j->line.len >= LINE_MAX_BYTES)) {
        size_t n = end ? (size_t)(end - j->line.data) + 1 : j->line.len;

        if (!*j->app.id) {
            j->kind->scan(j, (struct str){j->line.data, n}, &j->app);
        }
        (void)!write(STDERR_FILENO, j->line.data, n);
        buf_shift(&j->line, n);
    }
}

static void read_stderr(struct job *j)
{
    char *room = buf_reserve(&j->line, 4096);
    ssize_t n = room ? read(j->child_err, room, 4096) : 0;

    if (n < 0 && errno == EINTR) {
        return;
    }
    if (n <= 0) {
        close(j->child_err);
        j->child_err = -1;
    } else {
        buf_commit(&j->line, (size_t)n);
    }
    take_lines(j, n <= 0);
}

static void read_signals(struct job *j)
{
    struct signalfd_siginfo info;

    while (read(j->signals, &info, sizeof(info)) == sizeof(info)) {
        j->stop = j->stop || info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
    }
}

static void reap(struct job *j)
{
    int status = 0;

    if (j->child && waitpid(j->child, &status, WNOHANG) == j->child) {
        j->child = 0;
        j->child_status = status;
        struct pollfd p = {j->child_err, POLLIN, 0};
        while (j->child_err >= 0 && poll(&p, 1, 0) > 0) { /* what it said last */
            read_stderr(j);
        }
        if (j->child_err >= 0) {
            close(j->child_err);
            j->child_err = -1;
        }
        take_lines(j, true);
    }
}

void child_wait(struct job *j, int ms)
{
    int64_t until = clock_boot_ms() + ms;
    int64_t left = ms;
    bool stop = j->stop;
    pid_t child = j->child;
    bool known = *j->app.id != '\0';

    do {
        struct pollfd p[2] = {{j->signals, POLLIN, 0}, {j->child_err, POLLIN, 0}};

        if (poll(p, 2, (int)MAX(left, (int64_t)0)) > 0 && p[1].revents) {
            read_stderr(j);
        }
        read_signals(j);
        reap(j);
        left = until - clock_boot_ms();
    } while (left > 0 && stop == j->stop && child == j->child && known == (*j->app.id != '\0'));
}

void child_kill(struct job *j)
{
    if (j->child) {
        kill(j->child, SIGKILL);
        /* It cannot keep us: SIGKILL ends it. */
        while (j->child && waitpid(j->child, &j->child_status, 0) < 0 && errno == EINTR) {
        }
        j->child = 0;
    }
    if (j->child_err >= 0) {
        fcntl(j->child_err, F_SETFL, O_NONBLOCK);
        read_stderr(j);
        if (j->child_err >= 0) {
            close(j->child_err);
            j->child_err = -1;
        }
    }
}
