/* Starting the task: a session of its own, no privilege or descriptor of ours, an exact report of
 * why it did not start.
 *
 * The child may hang before it becomes the task: its program, its directory and its input are files
 * on whatever disk. So it is not waited for. It reports through a pipe that is closed by executing
 * the program.
 */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define REPORT_FD    3 /* in the child; all above is closed */

enum stage { STAGE_SETUP, STAGE_STDIN, STAGE_CWD, STAGE_FILE, STAGE_EXEC, STAGE_INTERPRETER };

/* Where the child gave up, and why. */
struct report {
    enum stage stage;
    int error;
    int need; /* STAGE_FILE: which one */
};

/* ---- in the child ---- */

static void reset_signals(const struct plan *p)
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
static void search(const struct plan *p)
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

static void give_up_at(enum stage stage, int need) __attribute__((noreturn));
static void give_up_at(enum stage stage, int need)
{
    struct report r = {stage, errno, need};

    (void)!write(REPORT_FD, &r, sizeof(r));
    _exit(127);
}

static void give_up(enum stage stage) __attribute__((noreturn));
static void give_up(enum stage stage)
{
    give_up_at(stage, 0);
}

/* False with the reason in errno: EISDIR is no file, ENOEXEC is no jar. */
static bool is_there(const char *need)
{
    const char *path = strchr(need, ':') + 1;
    char magic[4] = "PK\003\004";
    struct stat st;

    if (*need == 'd') {
        return access(path, R_OK) == 0;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        return false;
    }
    errno = S_ISREG(st.st_mode) ? ENOEXEC : EISDIR;
    return errno == ENOEXEC && (*need != 'j' || (read(fd, magic, sizeof(magic)) == sizeof(magic) &&
                                                 memcmp(magic, "PK\003\004", sizeof(magic)) == 0));
}

/* Nothing of ours is kept, so that its end is seen by those at the other ends. */
static void take_descriptors(const struct shim *s, int report)
{
    dup2(s->task_out, STDOUT_FILENO);
    dup2(s->task_err, STDERR_FILENO);
    if (report != REPORT_FD) {
        dup3(report, REPORT_FD, O_CLOEXEC);
    }
    syscall(SYS_close_range, REPORT_FD + 1, ~0U, 0);
}

/* Nobody would hold the lease without it. */
static void die_with_guardian(const struct shim *s)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != s->self) {
        give_up(STAGE_SETUP);
    }
}

static void become_task(const struct shim *s, int report) __attribute__((noreturn));
static void become_task(const struct shim *s, int report)
{
    const struct plan *p = &s->plan;
    struct rlimit no_core = {0, 0};

    take_descriptors(s, report);
    setsid();
    die_with_guardian(s);
    group_enter(s);
    /* Else the next file is root's. All that we know is the task's. */
    (void)prctl(PR_SET_DUMPABLE, 1);
    write_text("/proc/self/oom_score_adj", TASK_OOM_ADJUST);
    setrlimit(RLIMIT_CORE, &no_core);
    umask(s->umask);
    if (p->stdin_file) {
        int in = open(p->stdin_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (in < 0 || fcntl(in, F_SETFL, 0) != 0) {
            give_up(STAGE_STDIN);
        }
        dup2(in, STDIN_FILENO);
    }
    if (!user_become(p)) {
        give_up(STAGE_SETUP);
    }
    die_with_guardian(s); /* a change of user takes this back */
    if (p->cwd && chdir(p->cwd) != 0) {
        give_up(STAGE_CWD);
    }
    for (int i = 0; p->needs[i]; i++) {
        if (!is_there(p->needs[i])) {
            give_up_at(STAGE_FILE, i);
        }
    }
    reset_signals(p);
    if (strchr(p->argv[0], '/')) {
        execve(p->argv[0], p->argv, p->envp);
        bool there = errno == ENOENT && access(p->argv[0], F_OK) == 0;
        errno = there ? ENOENT : errno;
        give_up(there ? STAGE_INTERPRETER : STAGE_EXEC);
    }
    search(p);
    give_up(STAGE_EXEC);
}

/* ---- in the guardian ---- */

static void note_need(struct shim *s, const char *need, int error)
{
    const char *of = *need == 'd' ? "dependency" : "sparkAppPath";
    const char *path = strchr(need, ':') + 1;

    if (error == EISDIR || error == ENOEXEC) {
        note(s, "%s %.150s is not a %s", of, path, error == EISDIR ? "file" : "jar file");
    } else {
        note(s, "%s %.150s cannot be read: %s", of, path, strerror(error));
    }
}

static void refused(struct shim *s, const struct report *r)
{
    static const char *const stages[] = {
        [STAGE_SETUP] = "setup", [STAGE_STDIN] = "stdin", [STAGE_CWD] = "cwd",
        [STAGE_FILE] = "file",   [STAGE_EXEC] = "exec",   [STAGE_INTERPRETER] = "interpreter"};
    const struct plan *p = &s->plan;
    const char *why = strerror(r->error);

    if (!s->fate->reason) {
        s->fate->reason = "launch";
        s->fate->stage = stages[r->stage];
        s->fate->error = r->error;
    }
    switch (r->stage) {
    case STAGE_STDIN:
        note(s, "cannot open standard input \"%.100s\": %s", p->stdin_file, why);
        break;
    case STAGE_CWD:
        note(s, "cannot change to directory \"%.100s\": %s", p->cwd, why);
        break;
    case STAGE_FILE:
        note_need(s, p->needs[r->need], r->error);
        break;
    case STAGE_INTERPRETER:
        note(s, "cannot run \"%.100s\": its interpreter is missing", p->argv[0]);
        break;
    case STAGE_EXEC:
        note(s, "cannot run \"%.100s\": %s", p->argv[0], why);
        break;
    case STAGE_SETUP:
        note(s, "cannot set up its process: %s", why);
        break;
    }
}

void task_report(struct shim *s)
{
    struct report r;
    ssize_t n = s->report < 0 ? -1 : read(s->report, &r, sizeof(r));

    if (n < 0) {
        return;
    }
    if (n == sizeof(r)) {
        refused(s, &r);
    } else {
        /* An end on our word looks the same, and who gives that asks before. */
        s->fate->launched = !s->fate->reason && !s->fate->killed;
    }
    close(s->report);
    s->report = -1;
}

void task_start(struct shim *s)
{
    int report[2];

    if (pipe2(report, O_CLOEXEC | O_NONBLOCK) != 0) {
        launch_failed(s, "pipe", "cannot make a pipe", errno);
        return;
    }
    group_make(s);
    s->fate->started_wall = wall_ms();
    s->fate->started = boot_ms();
    pid_t pid = fork();
    if (pid == 0) {
        become_task(s, report[1]);
    }
    close(report[1]);
    if (pid < 0) {
        int error = errno;
        close(report[0]);
        launch_failed(s, "fork", "cannot fork", error);
        return;
    }
    s->report = report[0];
    s->fate->pid = pid;
    s->no_child = false;
    close(s->task_out);
    close(s->task_err);
    s->oom_kills = machine_oom_kills();
}
