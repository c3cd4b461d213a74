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
 * memory cgroup DIR/memory.
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
#include <time.h>
#include <unistd.h>

#define BEAT_MS   100
#define CHUNK     ((size_t)1 << 20)
#define CHUNKS    256
#define STAY_BACK 600000 /* ms; what is left behind is to be killed long before */

static const char *dir;
static int marks = -1;

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "?";
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
    int n = snprintf(line, sizeof(line), "%c %s %s %s %lld %lld %d %s %d\n", kind,
                     variable("SJE_TASK_ID"), variable("SJE_ATTEMPT"), variable("SJE_TOKEN"),
                     (long long)now_ms(CLOCK_BOOTTIME), (long long)now_ms(CLOCK_REALTIME),
                     (int)getpid(), variable("SJE_WORK_DIR"), number);

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

static void live(int64_t ms)
{
    int64_t end = now_ms(CLOCK_BOOTTIME) + ms;

    for (int64_t next; (next = now_ms(CLOCK_BOOTTIME) + BEAT_MS) < end;) {
        wait_until(next);
        mark('B', 0);
    }
    wait_until(end);
}

static int open_below(const char *name, int flags)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return open(path, flags | O_CLOEXEC, 0644);
}

static void take_lock(void)
{
    char name[128];

    snprintf(name, sizeof(name), "locks/%s", variable("SJE_TASK_ID"));
    int fd = open_below(name, O_RDWR | O_CREAT);
    if (fd < 0) {
        _exit(91);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        mark('O', 0);
    }
}

static void leave_child(void)
{
    if (fork() == 0) {
        setsid();
        wait_until(now_ms(CLOCK_BOOTTIME) + STAY_BACK);
        _exit(0);
    }
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
    FILE *f = fopen(variable("SJE_OUTPUT"), "w");
    bool written = f && fprintf(f, "{\"attempt\":%s,\"token\":\"%s\"}\n", variable("SJE_ATTEMPT"),
                                variable("SJE_TOKEN")) > 0;

    if (!f || fclose(f) != 0 || !written) {
        mark('N', errno);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: mark DIR MILLISECONDS EXIT [tree|stubborn|oom]\n");
        return 2;
    }
    const char *way = argc > 4 ? argv[4] : "";
    int status = (int)strtol(argv[3], NULL, 10);
    dir = argv[1];
    marks = open_below("marks", O_WRONLY | O_APPEND | O_CREAT);
    if (marks < 0) {
        return 94;
    }
    take_lock();
    mark('S', 0);
    if (strcmp(way, "stubborn") == 0) {
        signal(SIGTERM, SIG_IGN);
    } else if (strcmp(way, "tree") == 0) {
        leave_child();
    } else if (strcmp(way, "oom") == 0) {
        take_memory();
    }
    live(strtol(argv[2], NULL, 10));
    if (status < 0) {
        status = strtol(variable("SJE_ATTEMPT"), NULL, 10) < -status ? 1 : 0;
    }
    write_output();
    mark('E', status);
    return status;
}
