#include "internal/log_thread.h"

#include "internal/buf.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct log_thread {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct buf waiting; /* under the lock */
    bool stopping;      /* under the lock */
    int fd;
};

static void write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t wrote = write(fd, p, n);

        if (wrote >= 0) {
            p += wrote;
            n -= (size_t)wrote;
        } else if (errno == EAGAIN) { /* somebody else made it so */
            struct pollfd f = {.fd = fd, .events = POLLOUT};
            poll(&f, 1, -1);
        } else if (errno != EINTR) {
            return; /* nobody reads it any more */
        }
    }
}

static void *run(void *arg)
{
    struct log_thread *t = arg;
    struct buf mine;

    buf_init(&mine, t->waiting.max);
    pthread_mutex_lock(&t->lock);
    while (t->waiting.len || !t->stopping) {
        if (!t->waiting.len) {
            pthread_cond_wait(&t->wake, &t->lock);
            continue;
        }
        struct buf full = t->waiting;
        t->waiting = mine;
        mine = full;
        pthread_mutex_unlock(&t->lock);
        write_all(t->fd, mine.data, mine.len);
        buf_reset(&mine);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    buf_free(&mine);
    return NULL;
}

struct log_thread *log_thread_start(int fd, size_t bound)
{
    struct log_thread *t = xmalloc(sizeof(*t));
    sigset_t all;
    sigset_t before;

    *t = (struct log_thread){.fd = fd};
    buf_init(&t->waiting, bound);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    int rc = pthread_create(&t->thread, NULL, run, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        buf_free(&t->waiting);
        free(t);
        return NULL;
    }
    return t;
}

bool log_thread_put(struct log_thread *t, const char *line, size_t len)
{
    pthread_mutex_lock(&t->lock);
    bool room = t->waiting.len + len <= t->waiting.max;
    if (room) {
        room = buf_add(&t->waiting, line, len) == 0;
        pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
    return room;
}

bool log_thread_stop(struct log_thread *t, int wait_ms)
{
    struct timespec until;

    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    if (pthread_timedjoin_np(t->thread, NULL, &until) != 0) {
        pthread_detach(t->thread);
        return false;
    }
    buf_free(&t->waiting);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
    return true;
}
