/* sje-shim DIR: runs the task whose plan is in DIR. See shim.h.
 * sje-shim --wait TITLE: started in advance; the worker says DIR, ended by a NUL, on standard
 * input, and the process list then shows it in place of TITLE. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Nothing of the worker is kept but its end of a socket as our standard input: that or -1. */
static bool shed_descriptors(int *ret_socket)
{
    struct stat st;
    int null = -1;

    *ret_socket = -1;
    syscall(SYS_close_range, 3, ~0U, 0);
    if (fstat(STDIN_FILENO, &st) == 0 && S_ISSOCK(st.st_mode)) {
        *ret_socket = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    }
    null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
    if (null > 2) {
        close(null);
    }
    return null >= 0;
}

static bool take_place(struct shim *s)
{
    sigset_t set;

    s->keeper = getpid();
    setsid(); /* fails where we are that already */
    s->umask = umask(077);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    /* Good for both processes: each reads its own signals from it. */
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals >= 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
}

/* NULL where the worker went away, or has no use for us. It says nothing else before our hello. */
static const char *await_directory(char *title)
{
    static char dir[4096];
    size_t len = 0;
    ssize_t n = 0;

    do {
        n = read(STDIN_FILENO, dir + len, sizeof(dir) - len);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0 && dir[len - 1]);
    if (n <= 0) {
        return NULL;
    }
    size_t shown = strlen(title);
    memset(title, 0, shown);
    memcpy(title, dir, len < shown ? len : shown);
    return dir;
}

int main(int argc, char **argv)
{
    static struct fate alone; /* until there is one that is shared */
    static struct shim s = {.fate = &alone};
    const char *dir = argc > 1 ? argv[1] : "";
    int stdin_fd = -1;

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("sje-shim " SJE_VERSION);
        return 0;
    }
    /* Memory, environment and descriptors are nobody's to read, and no other process of this user
     * may trace it. Both halves have it from here. */
    (void)prctl(PR_SET_DUMPABLE, 0);
    if (argc == 3 && strcmp(argv[1], "--wait") == 0) {
        dir = await_directory(argv[2]);
        if (!dir) {
            return 1;
        }
    } else if (argc != 2) {
        fprintf(stderr, "usage: sje-shim DIRECTORY (started by sje-executor)\n");
        return 2;
    }
    if (chdir(dir) != 0) {
        return SHIM_UNABLE;
    }
    if (!shed_descriptors(&stdin_fd) || !take_place(&s) || !control_open(&s, stdin_fd)) {
        if (errno == EEXIST) {
            return 1; /* the attempt is another's, or given up */
        }
        launch_failed(&s, "setup", "cannot set up the shim", errno);
        return keeper_unable(&s);
    }
    return keeper_run(&s);
}
