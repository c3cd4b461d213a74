/* mark: what a task of the chaos run does. It leaves marks of its life that nothing of the product
 * has a hand in.
 *
 *   mark DIR MILLISECONDS EXIT [WAY]
 *
 * One line each, appended with one write, to DIR/marks: KIND task attempt token boot-ms wall-ms pid
 * worker-directory number. KIND is S at the start, B every 100 ms, E just before the end (number:
 * the exit status), and O at the start where another run of the same task is still there: a lock on
 * DIR/locks/<task> is held as long as any process of a run lives.
 *
 * EXIT is the exit status, or -N: fails until attempt N. WAY: "tree" leaves a child in a session of
 * its own behind, "stubborn" ignores TERM, "oom" takes memory until the kernel kills it, in the
 * memory cgroup DIR/memory. "detach" starts descendants that have nothing more to do with it:
 * forked twice, sessions of their own, no directory, no descriptor of before, one of them without
 * environment and arguments. Each marks D every 100 ms (with the pid of the run that it is of) and
 * holds the lock, until it is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BEAT_MS   100
#define CHUNK     ((size_t)1 << 20)
#define CHUNKS    256
#define STAY_BACK 600000 /* ms; what is left behind is to be killed long before */

/* Of which run a process is; a descendant is told by a pipe. */
static struct run {
    char dir[512];
    char task[64];
    char attempt[16];
    char token[32];
    char place[512];
    int pid;
} run;
static int marks = -1;

static void learn(char *into, size_t size, const char *name)
{
    const char *value = getenv(name);

    snprintf(into, size, "%s", value && *value ? value : "?");
}

static int64_t now_ms(clockid_t clock)
{
    struct timespec ts = {0};

    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void mark(char kind, int number)
{
    char line[1024];
    int n = snprintf(line, sizeof(line), "%c %s %s %s %lld %lld %d %s %d\n", kind, run.task,
                     run.attempt, run.token, (long long)now_ms(CLOCK_BOOTTIME),
                     (long long)now_ms(CLOCK_REALTIME), run.pid, run.place, number);

    if (write(marks, line, (size_t)n) != n) {
        _exit(90);
    }
}

/* To the absolute time: a process that was stopped does not go on for longer because of that. */
static void wait_until(int64_t boot_ms)
{
    struct timespec ts = {boot_ms / 1000, boot_ms % 1000 * 1000000};

    while (clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &ts, NULL) == EINTR) {
    }
}

/* It prints too, as tasks do, and does not wait for whoever reads that. */
static void live(int64_t ms, char kind)
{
    int64_t end = now_ms(CLOCK_BOOTTIME) + ms;

    for (int64_t next; (next = now_ms(CLOCK_BOOTTIME) + BEAT_MS) < end;) {
        wait_until(next);
        mark(kind, 0);
        if (kind == 'B' && write(STDOUT_FILENO, "alive\n", 6) < 0) {
            continue;
        }
    }
    wait_until(end);
}

static int open_below(const char *name, int flags)
{
    char path[640];

    snprintf(path, sizeof(path), "%s/%s", run.dir, name);
    return open(path, flags | O_CLOEXEC, 0644);
}

/* Whoever takes a node away must find every process that it had. No rule of the product goes by it.
 */
static void bear_name_of_node(void)
{
    size_t n = strlen(run.dir);
    bool below = strncmp(run.place, run.dir, n) == 0 && run.place[n] == '/';
    char name[16] = "nowhere"; /* as long as the kernel keeps it */

    if (below) {
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(run.place + n + 1, "/"),
                 run.place + n + 1);
    }
    prctl(PR_SET_NAME, name);
}

static void open_marks(void)
{
    bear_name_of_node();
    marks = open_below("marks", O_WRONLY | O_APPEND | O_CREAT);
    if (marks < 0) {
        _exit(94);
    }
}

/* All of a run share it. Whoever begins one asks whether there is another. */
static void take_lock(bool begins)
{
    char name[128];

    snprintf(name, sizeof(name), "locks/%s", run.task);
    int fd = open_below(name, O_RDWR | O_CREAT);
    if (fd < 0) {
        _exit(91);
    }
    if (begins && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        mark('O', 0);
    }
    flock(fd, LOCK_SH | LOCK_NB);
}

static void leave_child(void)
{
    if (fork() == 0) {
        setsid();
        wait_until(now_ms(CLOCK_BOOTTIME) + STAY_BACK);
        _exit(0);
    }
}

static void stray(void)
{
    open_marks();
    take_lock(false);
    live(STAY_BACK, 'D');
    _exit(0);
}

/* env -i: nothing that could be found in /proc tells what it belongs to. */
static void go_bare(void)
{
    static char name[] = "mark";
    static char how[] = "stray";
    char *argv[] = {name, how, NULL};
    char *envp[] = {NULL};
    int ends[2];

    /* Nothing is open: the end to read from is standard input. */
    if (pipe(ends) != 0 || write(ends[1], &run, sizeof(run)) != sizeof(run) ||
        close(ends[1]) != 0) {
        _exit(95);
    }
    execve("/proc/self/exe", argv, envp);
    _exit(96);
}

static int be_told(void)
{
    if (read(STDIN_FILENO, &run, sizeof(run)) != sizeof(run)) {
        return 97;
    }
    close(STDIN_FILENO);
    stray();
    return 0;
}

static void detach(bool bare)
{
    pid_t pid = fork();

    if (pid == 0) {
        setsid();
        if (fork() != 0) {
            _exit(0);
        }
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        close_range(0, ~0U, 0);
        if (chdir("/") == 0 && bare) {
            go_bare();
        }
        stray();
    }
    waitpid(pid, NULL, 0);
}

static void take_memory(void)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%d", (int)getpid());
    int fd = open_below("memory/cgroup.procs", O_WRONLY);

    if (fd < 0 || write(fd, text, (size_t)n) != n) {
        _exit(92);
    }
    for (int i = 0; i < CHUNKS; i++) {
        char *p = malloc(CHUNK);
        if (p) {
            memset(p, 1, CHUNK);
        }
    }
    _exit(93);
}

static void write_output(void)
{
    char path[640];

    learn(path, sizeof(path), "SJE_OUTPUT");
    FILE *f = fopen(path, "w");
    bool written =
        f && fprintf(f, "{\"attempt\":%s,\"token\":\"%s\"}\n", run.attempt, run.token) > 0;

    if (!f || fclose(f) != 0 || !written) {
        mark('N', errno);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "stray") == 0) {
        return be_told();
    }
    if (argc < 4) {
        fprintf(stderr, "usage: mark DIR MILLISECONDS EXIT [tree|stubborn|oom|detach]\n");
        return 2;
    }
    const char *way = argc > 4 ? argv[4] : "";
    int status = (int)strtol(argv[3], NULL, 10);
    snprintf(run.dir, sizeof(run.dir), "%s", argv[1]);
    learn(run.task, sizeof(run.task), "SJE_TASK_ID");
    learn(run.attempt, sizeof(run.attempt), "SJE_ATTEMPT");
    learn(run.token, sizeof(run.token), "SJE_TOKEN");
    learn(run.place, sizeof(run.place), "SJE_WORK_DIR");
    run.pid = (int)getpid();
    fcntl(STDOUT_FILENO, F_SETFL, O_NONBLOCK);
    open_marks();
    take_lock(true);
    mark('S', 0);
    if (strcmp(way, "stubborn") == 0) {
        signal(SIGTERM, SIG_IGN);
    } else if (strcmp(way, "tree") == 0) {
        leave_child();
    } else if (strcmp(way, "oom") == 0) {
        take_memory();
    } else if (strcmp(way, "detach") == 0) {
        detach(false);
        detach(true);
    }
    live(strtol(argv[2], NULL, 10), 'B');
    if (status < 0) {
        status = strtol(run.attempt, NULL, 10) < -status ? 1 : 0;
    }
    write_output();
    mark('E', status);
    return status;
}
