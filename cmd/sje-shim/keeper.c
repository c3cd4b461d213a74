/* The keeper: what the worker has started, and the only one that touches the disk. See shim.h. */
#include "cmd/sje-shim/shim.h"

#include "internal/chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COPY_AT_ONCE ((size_t)1024 * 1024) /* of one stream, before the other is looked at */

/* ---- beginning ---- */

/* False, and says why, where there is no guardian: all that we need ourselves is made before. */
static bool fork_guardian(struct shim *s)
{
    int link[2];
    int out[2];
    int err[2];
    struct fate *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (shared == MAP_FAILED || !alarm_open(&s->alarm) || pipe2(out, O_CLOEXEC) != 0 ||
        pipe2(err, O_CLOEXEC) != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, link) != 0) {
        launch_failed(s, "setup", "cannot set up the shim", errno);
        return false;
    }
    s->fate = shared;
    s->fate->lease_until = s->plan.lease_until;
    s->fate->started_wall = wall_ms();
    s->guardian = fork();
    if (s->guardian < 0) {
        launch_failed(s, "fork", "cannot fork the shim", errno);
        return false;
    }
    bool in_guardian = s->guardian == 0;
    s->link = link[in_guardian];
    close(link[!in_guardian]);
    close(in_guardian ? out[0] : out[1]);
    close(in_guardian ? err[0] : err[1]);
    if (in_guardian) {
        s->task_out = out[1];
        s->task_err = err[1];
        guardian_run(s);
    }
    stream_open(&s->out, out[0]);
    stream_open(&s->err, err[0]);
    return true;
}

/* ---- the guardian's end ---- */

static void kill_guardian(struct shim *s)
{
    if (!s->guardian_gone) {
        kill(s->guardian, SIGKILL);
        waitpid(s->guardian, &s->guardian_status, 0);
        s->guardian_gone = true;
    }
}

static void note_guardian(struct shim *s)
{
    int status = s->guardian_status;
    char by[32] = "SIGKILL";

    if (s->overdue_at != NEVER) {
        note(s, "its shim (pid %d) stood still at the end of its lease and was killed",
             (int)s->guardian);
        return;
    }
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        snprintf(by, sizeof(by), "signal %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    }
    note(s, "its shim (pid %d) was killed by %s; what was left of the task was ended",
         (int)s->guardian, by);
}

/* It was killed, by somebody or by us: all that was below it is ours now. */
static void take_over(struct shim *s)
{
    struct fate *f = s->fate;
    int64_t give_up_at = boot_ms() + PLAN_KILL_GIVE_UP_MS;
    /* It was about to clear what the main process had left, so how that ended is known. */
    bool ended = f->main_gone && f->killing_at && !f->reason;

    if (!ended) {
        f->launched = true;
    }
    if (!ended && !f->reason) {
        f->reason = s->overdue_at != NEVER ? "lease" : "crash";
    }
    note_guardian(s);
    for (;;) {
        group_kill(s);
        tree_kill(s);
        if (s->no_child || (boot_ms() >= give_up_at && tree_stays(s))) {
            break;
        }
        poll(NULL, 0, KILL_RETRY_MS);
    }
    if (f->reason && strcmp(f->reason, "crash") == 0) {
        f->main_gone = false; /* how it ended says nothing of the task */
    }
    f->finished_wall = wall_ms();
    group_remove(s);
}

/* It stands still, or it would have ended the task by itself; unless it is seen to kill what does
 * not die. Returns when to look again. */
static int64_t check_guardian(struct shim *s, int64_t now)
{
    int64_t lease = atomic_load(&s->fate->lease_until);
    int64_t busy = atomic_load(&s->fate->killing_at);

    if (lease == NEVER || now < lease + PLAN_LEASE_GRACE_MS) {
        s->overdue_at = NEVER;
        return lease == NEVER ? NEVER : lease + PLAN_LEASE_GRACE_MS;
    }
    if (s->overdue_at == NEVER) { /* the machine, or we, may have slept: it has its chance first */
        s->overdue_at = now;
    }
    if (s->overdue_at < busy) {
        s->overdue_at = busy;
    }
    if (now >= s->overdue_at + KEEPER_WAIT_MS) {
        kill_guardian(s);
    }
    return s->overdue_at + KEEPER_WAIT_MS;
}

/* What is due. False: the task is over, or the guardian. */
static bool decide(struct shim *s)
{
    int64_t now = boot_ms();

    if (now >= s->tell_at) {
        s->tell_at = s->fate->pid ? NEVER : now + STARTED_AFTER_MS;
        record_started(s);
        stream_reserve(&s->out);
        stream_reserve(&s->err);
    }
    int64_t at = check_guardian(s, now);
    alarm_set(&s->alarm, at < s->tell_at ? at : s->tell_at);
    return !s->ended && !s->guardian_gone;
}

/* ---- the loop ---- */

static void on_signal(struct shim *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == sizeof(info)) {
        if ((info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) && !s->guardian_gone) {
            kill(s->guardian, SIGTERM);
        }
    }
}

static void on_link(struct shim *s)
{
    char word = 0;
    ssize_t n = read(s->link, &word, 1);

    if (n == 1 && word == SAY_ENDED) {
        s->ended = true;
    } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        kill_guardian(s); /* it is dead, or as good as that */
    }
}

static void wait_and_note(struct shim *s)
{
    struct pollfd f[] = {{s->signals, POLLIN, 0},
                         {s->alarm.fd, POLLIN, 0},
                         {s->link, POLLIN, 0},
                         {s->out.pipe, POLLIN, 0},
                         {s->err.pipe, POLLIN, 0}};

    if (poll(f, sizeof(f) / sizeof(*f), -1) < 0) {
        return;
    }
    if (f[0].revents) {
        on_signal(s);
    }
    if (f[1].revents) {
        alarm_take(&s->alarm);
    }
    if (f[2].revents) {
        on_link(s);
    }
    if (f[3].revents) {
        stream_copy(&s->out, COPY_AT_ONCE);
    }
    if (f[4].revents) {
        stream_copy(&s->err, COPY_AT_ONCE);
    }
}

/* The guardian says bye to the worker and ends. One that does not even do that is killed. */
static void tell_recorded(struct shim *s)
{
    char word = SAY_RECORDED;
    struct pollfd f = {s->link, POLLIN, 0};

    if (s->guardian_gone) {
        return;
    }
    (void)send(s->link, &word, 1, MSG_NOSIGNAL);
    poll(&f, 1, KEEPER_WAIT_MS); /* its end of the link is closed when it is dead */
    kill_guardian(s);
}

/* The exit status. An attempt of which nothing was started is the node's to answer for, and not
 * lost: where no record can say so, the status does. */
static int leave(struct shim *s)
{
    bool recorded = record_write(s);
    bool started = s->fate->pid || strcmp(s->fate->reason ? s->fate->reason : "", "launch") != 0;

    CRASH_POINT("shim-recorded");
    control_close();
    return recorded ? 0 : started ? 1 : SHIM_UNABLE;
}

int keeper_unable(struct shim *s)
{
    s->fate->started_wall = s->fate->finished_wall = wall_ms();
    return leave(s);
}

int keeper_run(struct shim *s)
{
    s->overdue_at = NEVER;
    s->plan_error = plan_load(&s->plan);
    stream_init(&s->out, "stdout", s->plan.log_limit);
    stream_init(&s->err, "stderr", s->plan.log_limit);
    group_name(s);
    if (!fork_guardian(s)) {
        return keeper_unable(s);
    }
    control_leave(s);
    record_reserve();
    s->tell_at = boot_ms() + STARTED_AFTER_MS;
    while (decide(s)) {
        wait_and_note(s);
    }
    if (!s->ended) {
        take_over(s);
    }
    stream_finish(&s->out, record_is_dear(s));
    stream_finish(&s->err, record_is_dear(s));
    CRASH_POINT("shim-before-record");
    int status = leave(s);
    tell_recorded(s);
    return status;
}
