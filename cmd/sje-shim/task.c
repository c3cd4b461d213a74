/* Starting the task: a session of its own, no privilege or descriptor of ours, an exact report of
 * why it did not start.
 *
 * The child shares our memory until it executes the program, and we stand still so long: nothing is
 * copied, and it leaves its report where we read it.
 */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define STACK_SIZE   (64 * 1024)
#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

/* The sanitizers do not know the child's stack. */
#define ON_OWN_STACK __attribute__((no_sanitize("address", "undefined")))

enum stage { STAGE_NONE, STAGE_SETUP, STAGE_STDIN, STAGE_CWD, STAGE_EXEC, STAGE_INTERPRETER };

struct start {
    struct shim *s;
    int out;
    int err;
    enum stage stage; /* where the child gave up, and why */
    int error;
};

ON_OWN_STACK static void reset_signals(const struct plan *p)
{
    sigset_t held;
    struct sigaction plain = {.sa_handler = SIG_DFL};

    for (int sig = 1; sig < NSIG; sig++) {
        sigaction(sig, &plain, NULL);
    }
    sigemptyset(&held);
    if (p->hold_term) {
        sigaddset(&held, SIGTERM);
    }
    sigprocmask(SIG_SETMASK, &held, NULL);
}

/* Executes the first of that name in the task's PATH. Returns with the best reason in errno. Unlike
 * execvp(), which gives to a shell what the kernel does not know. */
ON_OWN_STACK static void search(const struct plan *p)
{
    const char *dirs = DEFAULT_PATH;
    char path[4096];
    int error = ENOENT;

    for (char **e = p->envp; *e; e++) {
        dirs = strncmp(*e, "PATH=", 5) == 0 ? *e + 5 : dirs;
    }
    for (const char *at = dirs; at; at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
        int n = (int)strcspn(at, ":");
        if (snprintf(path, sizeof(path), "%.*s%s%s", n, at, n ? "/" : "", p->argv[0]) >=
            (int)sizeof(path)) {
            continue;
        }
        execve(path, p->argv, p->envp);
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
            return;
        }
        error = errno == EACCES ? EACCES : error;
    }
    errno = error;
}

ON_OWN_STACK static int give_up(struct start *t, enum stage stage)
{
    t->stage = stage;
    t->error = errno;
    _exit(127);
}

ON_OWN_STACK static int child(void *arg)
{
    struct start *t = arg;
    struct shim *s = t->s;
    const struct plan *p = &s->plan;
    struct rlimit no_core = {0, 0};

    setsid();
    /* Nobody would hold the lease without the shim. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != s->self) {
        return give_up(t, STAGE_SETUP);
    }
    group_enter(s);
    write_text("/proc/self/oom_score_adj", TASK_OOM_ADJUST);
    setrlimit(RLIMIT_CORE, &no_core);
    umask(s->umask);
    if (p->stdin_file) {
        int in = open(p->stdin_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (in < 0 || fcntl(in, F_SETFL, 0) != 0) {
            return give_up(t, STAGE_STDIN);
        }
        dup2(in, STDIN_FILENO);
    }
    dup2(t->out, STDOUT_FILENO);
    dup2(t->err, STDERR_FILENO);
    if (p->cwd && chdir(p->cwd) != 0) {
        return give_up(t, STAGE_CWD);
    }
    reset_signals(p);
    if (strchr(p->argv[0], '/')) {
        execve(p->argv[0], p->argv, p->envp);
        bool there = errno == ENOENT && access(p->argv[0], F_OK) == 0;
        errno = there ? ENOENT : errno;
        return give_up(t, there ? STAGE_INTERPRETER : STAGE_EXEC);
    }
    search(p);
    return give_up(t, STAGE_EXEC);
}

static void failed(struct shim *s, const char *stage, const char *what, int error)
{
    s->reason = "launch";
    s->stage = stage;
    s->error = error;
    note(s, "%s: %s", what, strerror(error));
}

static void report(struct shim *s, const struct start *t)
{
    static const char *const stages[] = {
        [STAGE_NONE] = "setup", [STAGE_SETUP] = "setup", [STAGE_STDIN] = "stdin",
        [STAGE_CWD] = "cwd",    [STAGE_EXEC] = "exec",   [STAGE_INTERPRETER] = "interpreter"};
    const struct plan *p = &s->plan;
    const char *why = strerror(t->error);

    s->reason = "launch";
    s->stage = stages[t->stage];
    s->error = t->error;
    switch (t->stage) {
    case STAGE_STDIN:
        note(s, "cannot open standard input \"%.100s\": %s", p->stdin_file, why);
        break;
    case STAGE_CWD:
        note(s, "cannot change to directory \"%.100s\": %s", p->cwd, why);
        break;
    case STAGE_INTERPRETER:
        note(s, "cannot run \"%.100s\": its interpreter is missing", p->argv[0]);
        break;
    case STAGE_EXEC:
        note(s, "cannot run \"%.100s\": %s", p->argv[0], why);
        break;
    case STAGE_NONE:
    case STAGE_SETUP:
        note(s, "cannot set up its process: %s", why);
        break;
    }
}

void task_start(struct shim *s)
{
    static char stack[STACK_SIZE] __attribute__((aligned(16)));
    struct start t = {.s = s};
    int out[2];
    int err[2];

    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
        failed(s, "pipe", "cannot make a pipe", errno);
        return;
    }
    t.out = out[1];
    t.err = err[1];
    group_make(s);
    s->oom_kills = machine_oom_kills();
    s->started_wall = wall_ms();
    s->started = boot_ms();
    pid_t pid = clone(child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &t);
    if (pid < 0) {
        failed(s, "fork", "cannot fork", errno);
        return;
    }
    close(out[1]);
    close(err[1]);
    s->pid = pid;
    s->no_child = false;
    s->launched = t.stage == STAGE_NONE;
    if (!s->launched) {
        report(s, &t);
    }
    stream_open(&s->out, out[0]);
    stream_open(&s->err, err[0]);
}
