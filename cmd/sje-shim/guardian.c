/* The guardian: starts the task and sees to it that it ends in time. It touches no disk, so that no
 * disk can keep it from that. See shim.h. */
#include "cmd/sje-shim/shim.h"

#include "internal/chaos.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHELL_KILLED (128 + SIGKILL)
#define FAR_AWAY_S   ((time_t)1 << 33) /* on the wall clock; a timer that never fires */

/* ---- deadlines ---- */

/* The pages of the program, which would have to be fetched from a disk again; and of what it has
 * written those that it has touched, which a swap could take. As far as we may; and with the first
 * renewal, because a short task shall not pay for it. */
static void lock_memory(struct shim *s)
{
    extern char __executable_start[]; /* by the linker: what is in the program's file */
    extern char _edata[];

    if (!s->locked) {
        s->locked = true;
        if (mlock(__executable_start, (size_t)(_edata - __executable_start)) != 0 ||
            mlockall(MCL_CURRENT | MCL_ONFAULT) != 0) {
            s->lock_error = errno;
        }
    }
}

void set_lease(struct shim *s, int64_t until)
{
    s->plan.lease_until = until;
    s->in_doubt = false;
    lock_memory(s);
    atomic_store(&s->fate->lease_until, until);
}

/* Until then it has ended by itself, where its main process has. */
static bool is_stopping(const struct shim *s)
{
    return s->kill_at != NEVER;
}

void stop_task(struct shim *s, const char *reason, int64_t grace_ms)
{
    int64_t now = boot_ms();
    bool asked = strcmp(reason, "cancel") == 0 || strcmp(reason, "timeout") == 0;

    if (!s->fate->pid || (is_stopping(s) ? asked : s->fate->main_gone)) {
        return;
    }
    /* Only what a client or the task's own limit ends is ended in the cluster too. */
    if (s->plan.detach && !asked) {
        grace_ms = 0;
    }
    s->kill_at = now + grace_ms < s->kill_at ? now + grace_ms : s->kill_at;
    if (!s->fate->reason) {
        task_report(s); /* what is not executed by now never was */
        s->fate->reason = reason;
        if (s->kill_at > now) {
            tree_term(s);
        }
    }
}

static bool is_watched(const struct shim *s)
{
    for (int i = 0; i < CONNS_MAX; i++) {
        if (s->conns[i].fd >= 0) {
            return true;
        }
    }
    return false;
}

static void check_deadlines(struct shim *s, int64_t now)
{
    const struct plan *p = &s->plan;

    if (now >= p->lease_until && s->kill_at > p->lease_until + PLAN_LEASE_GRACE_MS) {
        int64_t grace = p->grace_ms < PLAN_LEASE_GRACE_MS ? p->grace_ms : PLAN_LEASE_GRACE_MS;
        int64_t left = p->lease_until + grace - now; /* less after the machine has slept */
        bool first = !s->fate->reason;
        stop_task(s, "lease", left < 0 || s->in_doubt ? 0 : left);
        if (first && !is_watched(s)) {
            note(s, "%s", PLAN_AWAY);
        }
    }
    if (p->timeout_ms && !s->fate->reason && now - s->fate->started >= p->timeout_ms) {
        stop_task(s, "timeout", p->grace_ms);
    }
}

static int64_t next_deadline(const struct shim *s)
{
    const struct fate *f = s->fate;
    int64_t at = s->kill_at;

    if (f->finished_wall) {
        return NEVER;
    }
    if (s->killing) {
        return s->next_kill;
    }
    if (s->plan.timeout_ms && !f->reason && f->started + s->plan.timeout_ms < at) {
        at = f->started + s->plan.timeout_ms;
    }
    if (s->term_at < at) {
        at = s->term_at;
    }
    if (s->plan.lease_until < at && s->kill_at > s->plan.lease_until + PLAN_LEASE_GRACE_MS) {
        at = s->plan.lease_until;
    }
    return at;
}

/* A virtual machine that its host has paused does not count the pause on any clock of its own; but
 * when it goes on somebody sets its wall clock right. So what that gains is time that has passed.
 * It may also be an error that was put right: where the lease is over by this alone, it is in
 * doubt, and the worker, which sees the same, has a moment to renew it. */
static void compare_clocks(struct shim *s)
{
    int64_t now = boot_ms();
    int64_t ahead = wall_ms() - now;
    int64_t gained = ahead - s->wall_ahead;

    s->wall_ahead = ahead;
    if (gained <= CLOCK_JUMP_MS || s->in_doubt || s->plan.lease_until == NEVER ||
        s->plan.lease_until <= now) {
        return;
    }
    set_lease(s, s->plan.lease_until - gained);
    if (s->plan.lease_until <= now) {
        set_lease(s, now + PLAN_LEASE_DOUBT_MS);
        s->in_doubt = true;
    }
}

/* ---- the end ---- */

static void kill_tree(struct shim *s, int64_t now)
{
    if (!s->killing) {
        task_report(s);
        s->killing = true;
        s->fate->killed = !s->fate->main_gone;
        s->give_up_at = now + PLAN_KILL_GIVE_UP_MS;
    }
    group_kill(s);
    tree_kill(s);
    s->next_kill = now + KILL_RETRY_MS;
}

static bool is_over(const struct shim *s)
{
    return !s->fate->pid || (s->fate->main_gone && s->no_child);
}

/* What is to be done now that something happened or a time has come. True: the task is over. */
static bool decide(struct shim *s)
{
    int64_t now = boot_ms();

    if (is_over(s)) {
        return true;
    }
    if (s->alone) {
        s->kill_at = now;
    }
    bool left = s->fate->main_gone && !is_stopping(s); /* behind, by a task that has ended */
    if (!left) {
        check_deadlines(s, now);
    }
    if (s->killing ? now >= s->next_kill : left || now >= s->kill_at) {
        kill_tree(s, now);
    } else if (!s->killing && now >= s->term_at) {
        tree_term(s);
    }
    if (is_over(s)) {
        return true;
    }
    if (s->killing && now >= s->give_up_at && tree_stays(s)) {
        note(s, "some of its processes could not be killed");
        return true;
    }
    return false;
}

/* Its group knows. Without one: it, or what a shell ran for it, was killed by a signal that nobody
 * here sent, and the kernel killed for memory meanwhile. */
static bool was_oom(const struct shim *s)
{
    const struct fate *f = s->fate;
    int64_t of_group = group_oom_kills(s);
    bool killed = f->main_gone && (WIFSIGNALED(f->status) ? WTERMSIG(f->status) == SIGKILL
                                                          : WEXITSTATUS(f->status) == SHELL_KILLED);

    return of_group >= 0 ? of_group > 0
                         : killed && !f->killed && machine_oom_kills() > s->oom_kills;
}

static int64_t milliseconds(struct timeval t)
{
    return (int64_t)t.tv_sec * 1000 + t.tv_usec / 1000;
}

static void tell_end(struct shim *s)
{
    struct rusage used = {0};
    char word = SAY_ENDED;

    task_report(s);
    getrusage(RUSAGE_CHILDREN, &used);
    s->fate->max_rss_kb = used.ru_maxrss;
    s->fate->cpu_ms = milliseconds(used.ru_utime) + milliseconds(used.ru_stime);
    s->fate->oom = was_oom(s);
    s->fate->finished_wall = wall_ms();
    group_remove(s);
    if (s->lock_error && !s->fate->reason) {
        note(s, "its shim could not lock its memory (RLIMIT_MEMLOCK): %s", strerror(s->lock_error));
    }
    if (send(s->link, &word, 1, MSG_NOSIGNAL) != 1) {
        s->alone = true;
    }
}

/* ---- the loop ---- */

static void on_signal(struct shim *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) {
            bool first = !s->fate->reason;
            stop_task(s, "shutdown", s->plan.grace_ms);
            if (first && s->fate->reason) {
                note(s, "its shim (pid %d) was told by SIGTERM to end it", (int)s->keeper);
            }
        }
    }
}

static void on_link(struct shim *s)
{
    char word = 0;
    ssize_t n = read(s->link, &word, 1);

    if (n == 1 && word == SAY_RECORDED) {
        s->recorded = true;
    } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        s->alone = true;
    }
}

static void wait_and_note(struct shim *s)
{
    enum { SIGNALS, ALARM, CLOCK, LINK, LISTENER, CONNS };
    struct pollfd f[CONNS + CONNS_MAX] = {[SIGNALS] = {s->signals, POLLIN, 0},
                                          [ALARM] = {s->alarm.fd, POLLIN, 0},
                                          [CLOCK] = {s->clock_set, POLLIN, 0},
                                          [LINK] = {s->link, POLLIN, 0},
                                          [LISTENER] = {s->listener, POLLIN, 0}};

    for (int i = 0; i < CONNS_MAX; i++) {
        f[CONNS + i] = (struct pollfd){s->conns[i].fd, POLLIN, 0};
    }
    alarm_set(&s->alarm, next_deadline(s));
    if (poll(f, sizeof(f) / sizeof(*f), -1) < 0) {
        return;
    }
    compare_clocks(s); /* before a lease is taken that was granted since */
    if (f[SIGNALS].revents) {
        on_signal(s);
    }
    if (f[ALARM].revents) {
        alarm_take(&s->alarm);
    }
    if (f[CLOCK].revents) {
        uint64_t ignored;
        (void)!read(s->clock_set, &ignored, sizeof(ignored));
    }
    if (f[LINK].revents) {
        on_link(s);
    }
    tree_reap(s);
    for (int i = 0; i < CONNS_MAX; i++) {
        if (f[CONNS + i].revents) {
            control_read(s, &s->conns[i]);
        }
    }
    if (f[LISTENER].revents) {
        control_accept(s);
    }
}

/* ---- beginning ---- */

static int open_clock_set(void)
{
    struct itimerspec never = {.it_value = {.tv_sec = FAR_AWAY_S}};
    int fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);

    timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL);
    return fd;
}

static void begin(struct shim *s)
{
    s->self = getpid();
    setpgid(0, 0); /* what is sent to the keeper's group is not for us */
    s->kill_at = NEVER;
    s->term_at = NEVER;
    s->report = -1;
    s->no_child = true;
    s->clock_set = -1;
    s->wall_ahead = wall_ms() - boot_ms();
    close(s->alarm.fd);                                  /* the keeper's */
    bool able = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && /* not inherited */
                alarm_open(&s->alarm) && (s->clock_set = open_clock_set()) >= 0;
    if (!able) {
        launch_failed(s, "setup", "cannot set up the shim", errno);
    } else if (s->plan_error) {
        s->fate->reason = "launch";
        s->fate->stage = "plan";
        note(s, "%s", s->plan_error);
    } else if (boot_ms() >= s->plan.lease_until) {
        s->fate->reason = "lease";
        note(s, "the lease was over before the task could start");
    } else {
        CRASH_POINT("shim-before-start");
        task_start(s);
        CRASH_POINT("shim-started");
    }
    control_hello(s);
}

void guardian_run(struct shim *s)
{
    begin(s);
    while (!decide(s)) {
        wait_and_note(s);
    }
    tell_end(s);
    while (!s->recorded && !s->alone) {
        wait_and_note(s);
    }
    if (s->recorded) {
        control_bye(s);
    }
    _exit(s->recorded ? 0 : 1);
}
