/* sje-shim DIR: runs the task whose plan is in DIR. See shim.h.
 * sje-shim --wait TITLE: started in advance; the worker says DIR, ended by a NUL, on standard
 * input, and the process list then shows it in place of TITLE. */
#include "cmd/sje-shim/shim.h"

#include "internal/chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define COPY_AT_ONCE ((size_t)1024 * 1024) /* of one stream, before the others are looked at */

void stop_task(struct shim *s, const char *reason, int64_t grace_ms)
{
    int64_t now = boot_ms();

    if (s->main_gone || !s->pid) {
        return;
    }
    /* Only what a client or the task's own limit ends is ended in the cluster too. */
    if (s->plan.detach && strcmp(reason, "cancel") != 0 && strcmp(reason, "timeout") != 0) {
        grace_ms = 0;
    }
    s->kill_at = now + grace_ms < s->kill_at ? now + grace_ms : s->kill_at;
    if (!s->reason) {
        s->reason = reason;
        if (s->kill_at > now) {
            tree_signal(SIGTERM);
        }
    }
}

static void check_deadlines(struct shim *s, int64_t now)
{
    const struct plan *p = &s->plan;

    if (now >= p->lease_until && s->kill_at > p->lease_until + PLAN_LEASE_GRACE_MS) {
        int64_t grace = p->grace_ms < PLAN_LEASE_GRACE_MS ? p->grace_ms : PLAN_LEASE_GRACE_MS;
        int64_t left = p->lease_until + grace - now; /* less after the machine has slept */
        stop_task(s, "lease", left < 0 ? 0 : left);
    }
    if (p->timeout_ms && !s->reason && now - s->started >= p->timeout_ms) {
        stop_task(s, "timeout", p->grace_ms);
    }
}

static void reap(struct shim *s)
{
    int status = 0;
    pid_t pid = 0;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->pid) {
            s->main_gone = true;
            s->status = status;
        }
    }
    s->no_child = pid < 0 && errno == ECHILD;
}

static void kill_tree(struct shim *s, int64_t now)
{
    if (!s->killing) {
        s->killing = true;
        s->killed = !s->main_gone;
        s->give_up_at = now + KILL_GIVE_UP_MS;
    }
    group_kill(s);
    for (int i = 0; i < KILL_ROUNDS && !s->no_child; i++) {
        tree_kill();
        reap(s);
    }
    s->next_kill = now + KILL_RETRY_MS;
}

/* What is to be done now that something happened or a time has come. True: the task is over. */
static bool decide(struct shim *s)
{
    int64_t now = boot_ms();

    if (!s->pid || (s->main_gone && s->no_child)) {
        return true;
    }
    if (!s->main_gone) {
        check_deadlines(s, now);
    }
    if (s->killing ? now >= s->next_kill : s->main_gone || now >= s->kill_at) {
        kill_tree(s, now);
    }
    if (s->main_gone && s->no_child) {
        return true;
    }
    if (s->killing && now >= s->give_up_at) {
        note(s, "some of its processes could not be killed");
        return true;
    }
    return false;
}

static int64_t next_deadline(const struct shim *s)
{
    int64_t at = s->kill_at;

    if (s->killing) {
        return s->next_kill;
    }
    if (s->plan.timeout_ms && !s->reason && s->started + s->plan.timeout_ms < at) {
        at = s->started + s->plan.timeout_ms;
    }
    if (s->plan.lease_until < at && s->kill_at > s->plan.lease_until + PLAN_LEASE_GRACE_MS) {
        at = s->plan.lease_until;
    }
    return at;
}

/* CLOCK_BOOTTIME: the timer that is due fires as soon as a machine that slept is awake. */
static void set_timer(struct shim *s)
{
    int64_t at = next_deadline(s);
    struct itimerspec t = {0};

    if (at != s->timer_at) {
        s->timer_at = at;
        if (at != NEVER) {
            t.it_value.tv_sec = at / 1000;
            t.it_value.tv_nsec = at % 1000 * 1000000 + (at <= 0);
        }
        timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &t, NULL);
    }
}

static void on_signal(struct shim *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) {
            stop_task(s, "shutdown", s->plan.grace_ms);
        }
    }
}

static void on_timer(struct shim *s)
{
    uint64_t fired = 0;

    if (read(s->timer, &fired, sizeof(fired)) == sizeof(fired)) {
        s->timer_at = NEVER;
    }
}

static void wait_and_note(struct shim *s)
{
    struct pollfd f[5 + CONNS_MAX] = {{s->signals, POLLIN, 0},
                                      {s->timer, POLLIN, 0},
                                      {s->listener, POLLIN, 0},
                                      {s->out.pipe, POLLIN, 0},
                                      {s->err.pipe, POLLIN, 0}};

    for (int i = 0; i < CONNS_MAX; i++) {
        f[5 + i] = (struct pollfd){s->conns[i].fd, POLLIN, 0};
    }
    if (poll(f, sizeof(f) / sizeof(*f), -1) < 0) {
        return;
    }
    if (f[0].revents) {
        on_signal(s);
    }
    if (f[1].revents) {
        on_timer(s);
    }
    reap(s);
    for (int i = 0; i < CONNS_MAX; i++) {
        if (f[5 + i].revents) {
            control_read(s, &s->conns[i]);
        }
    }
    if (f[2].revents) {
        control_accept(s);
    }
    if (f[3].revents) {
        stream_copy(&s->out, COPY_AT_ONCE);
    }
    if (f[4].revents) {
        stream_copy(&s->err, COPY_AT_ONCE);
    }
}

static void run(struct shim *s)
{
    const char *why = plan_load(&s->plan);

    stream_init(&s->out, "stdout", s->plan.log_limit);
    stream_init(&s->err, "stderr", s->plan.log_limit);
    record_reserve();
    s->started_wall = wall_ms();
    if (why) {
        s->reason = "launch";
        s->stage = "plan";
        note(s, "%s", why);
    } else if (boot_ms() >= s->plan.lease_until) {
        s->reason = "lease";
        note(s, "the lease was over before the task could start");
    } else {
        CRASH_POINT("shim-before-start");
        task_start(s);
        CRASH_POINT("shim-started");
    }
    control_hello(s);
    while (!decide(s)) {
        set_timer(s);
        wait_and_note(s);
    }
    stream_finish(&s->out);
    stream_finish(&s->err);
}

/* Nothing of the worker is kept but its end of a socket as our standard input. Returns that or -1.
 */
static int shed_descriptors(void)
{
    struct stat st;
    int null = -1;
    int in = -1;

    syscall(SYS_close_range, 3, ~0U, 0);
    if (fstat(STDIN_FILENO, &st) == 0 && S_ISSOCK(st.st_mode)) {
        in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    }
    null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
    if (null > 2) {
        close(null);
    }
    return in;
}

static bool take_place(struct shim *s)
{
    sigset_t set;

    s->self = getpid();
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
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    return s->signals >= 0 && s->timer >= 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
}

/* False where the worker went away, or has no use for us. It says nothing else before our hello. */
static bool await_directory(char *title)
{
    char dir[4096];
    size_t len = 0;
    ssize_t n = 0;

    do {
        n = read(STDIN_FILENO, dir + len, sizeof(dir) - len);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0 && dir[len - 1]);
    if (n <= 0) {
        return false;
    }
    size_t shown = strlen(title);
    memset(title, 0, shown);
    memcpy(title, dir, len < shown ? len : shown);
    return chdir(dir) == 0;
}

int main(int argc, char **argv)
{
    static struct shim s = {.kill_at = NEVER, .timer_at = NEVER, .no_child = true};

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("sje-shim " SJE_VERSION);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--wait") == 0) {
        if (!await_directory(argv[2])) {
            return 1;
        }
    } else if (argc != 2 || chdir(argv[1]) != 0) {
        fprintf(stderr, "usage: sje-shim DIRECTORY (started by sje-executor)\n");
        return 2;
    }
    int stdin_fd = shed_descriptors();
    if (!take_place(&s) || !control_open(&s, stdin_fd)) {
        return 1;
    }
    run(&s);
    CRASH_POINT("shim-before-record");
    bool recorded = record_write(&s);
    CRASH_POINT("shim-recorded");
    group_remove(&s);
    control_bye(&s);
    return recorded ? 0 : 1;
}
