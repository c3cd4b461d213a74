/* mq_hosts.h: the list of brokers as the configuration has it. */
#ifndef SJE_MQ_HOSTS_H
#define SJE_MQ_HOSTS_H

#include "internal/str.h"

struct mq_host {
    char *name; /* NULL: the entry makes no sense */
    char *text; /* as in the list, for errors */
    uint16_t port;
};

struct mq_hosts {
    struct mq_host *items;
    size_t count; /* at least 1 */
};

/* "host", "host:port", "[v6]:port", "[v6]" or "v6", separated by commas. */
void mq_hosts_parse(struct mq_hosts *h, struct str list, int port);
void mq_hosts_shuffle(struct mq_hosts *h);
void mq_hosts_done(struct mq_hosts *h);

#endif
