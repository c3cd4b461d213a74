/* Starting the task: a session of its own, no privilege or descriptor of ours, an exact report of
 * why it did not start. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum stage { STAGE_STDIN, STAGE_CWD, STAGE_EXEC, STAGE_INTERPRETER };

/* What the child says before it gives up. */
struct report {
    int stage;
    int error;
};

static _Noreturn void give_up(int fd, enum stage stage)
{
    struct report r = {(int)stage, errno};
    ssize_t ignored = write(fd, &r, sizeof(r));

    (void)ignored;
    _exit(127);
}

static void reset_signals(void)
{
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++) {
        signal(sig, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child(const struct shim *s, int out, int err, int report)
{
    const struct plan *p = &s->plan;
    struct rlimit no_core = {0, 0};

    setsid();
    /* Nobody would hold the lease without the shim. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->self) {
        _exit(127);
    }
    group_enter(s);
    write_text("/proc/self/oom_score_adj", TASK_OOM_ADJUST);
    setrlimit(RLIMIT_CORE, &no_core);
    umask(s->umask);
    if (p->stdin_file) {
        int in = open(p->stdin_file, O_RDONLY | O_CLOEXEC);
        if (in < 0) {
            give_up(report, STAGE_STDIN);
        }
        dup2(in, STDIN_FILENO);
    }
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    if (p->cwd && chdir(p->cwd) != 0) {
        give_up(report, STAGE_CWD);
    }
    reset_signals();
    environ = p->envp;
    execvp(p->argv[0], p->argv);
    bool there = errno == ENOENT && strchr(p->argv[0], '/') && access(p->argv[0], F_OK) == 0;
    errno = there ? ENOENT : errno;
    give_up(report, there ? STAGE_INTERPRETER : STAGE_EXEC);
}

static void failed(struct shim *s, const char *what, int error)
{
    s->reason = "launch";
    note(s, "%s: %s", what, strerror(error));
}

void task_start(struct shim *s)
{
    int out[2];
    int err[2];
    int report[2];

    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0) {
        failed(s, "cannot make a pipe", errno);
        return;
    }
    group_make(s);
    s->oom_kills = machine_oom_kills();
    s->started_wall = wall_ms();
    s->started = boot_ms();
    pid_t pid = fork();
    if (pid == 0) {
        child(s, out[1], err[1], report[1]);
    }
    if (pid < 0) {
        failed(s, "cannot fork", errno);
        return;
    }
    close(out[1]);
    close(err[1]);
    close(report[1]);
    fcntl(report[0], F_SETFL, O_NONBLOCK);
    s->pid = pid;
    s->no_child = false;
    s->exec_report = report[0];
    stream_open(&s->out, out[0]);
    stream_open(&s->err, err[0]);
}

void task_read_report(struct shim *s)
{
    struct report r;
    const char *program = s->plan.argv[0];

    ssize_t n = read(s->exec_report, &r, sizeof(r));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    close(s->exec_report);
    s->exec_report = -1;
    s->launched = n == 0;
    if (s->launched || s->reason) {
        return;
    }
    s->reason = "launch";
    const char *why = n == sizeof(r) ? strerror(r.error) : "no report";
    switch (n == sizeof(r) ? r.stage : STAGE_EXEC) {
    case STAGE_STDIN:
        note(s, "cannot open standard input \"%.100s\": %s", s->plan.stdin_file, why);
        break;
    case STAGE_CWD:
        note(s, "cannot change to directory \"%.100s\": %s", s->plan.cwd, why);
        break;
    case STAGE_INTERPRETER:
        note(s, "cannot run \"%.100s\": its interpreter is missing", program);
        break;
    default:
        note(s, "cannot run \"%.100s\": %s", program, why);
        break;
    }
}
