/* The file `plan`, see pkg/executors/plan.h. */
#include "cmd/sje-shim/shim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct lists {
    size_t args;
    size_t vars;
    size_t needs;
};

static const char *take_group(struct plan *p, const char *text)
{
    int64_t n = 0;

    if (!parse_number(text, &n) || n >= UINT32_MAX || p->group_count >= PLAN_MEMBERS) {
        return "the plan has a group that is none";
    }
    p->groups[p->group_count++] = (gid_t)n;
    return NULL;
}

static const char *take_number(const char *text, int64_t *ret)
{
    return parse_number(text, ret) ? NULL : "the plan has a number that is none";
}

static const char *take(char *key, char *value, struct plan *p, struct lists *n)
{
    const struct {
        const char *key;
        int64_t *slot;
    } numbers[] = {{"timeoutMs", &p->timeout_ms},   {"graceMs", &p->grace_ms},
                   {"leaseUntil", &p->lease_until}, {"logLimit", &p->log_limit},
                   {"memoryMax", &p->memory_max},   {"user", &p->user}};
    const struct {
        const char *key;
        const char **slot;
    } texts[] = {{"cwd", &p->cwd}, {"stdin", &p->stdin_file}, {"cgroup", &p->cgroup}};

    if (strcmp(key, "arg") == 0 && n->args < PLAN_MEMBERS) {
        p->argv[n->args++] = value;
        return NULL;
    }
    if (strcmp(key, "env") == 0 && n->vars < PLAN_MEMBERS && strchr(value, '=')) {
        p->envp[n->vars++] = value;
        return NULL;
    }
    if (strcmp(key, "need") == 0 && n->needs < PLAN_MEMBERS && strchr(value, ':')) {
        p->needs[n->needs++] = value;
        return NULL;
    }
    if (strcmp(key, "group") == 0) {
        return take_group(p, value);
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        if (strcmp(key, numbers[i].key) == 0) {
            return take_number(value, numbers[i].slot);
        }
    }
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        if (strcmp(key, texts[i].key) == 0) {
            *texts[i].slot = value;
            return NULL;
        }
    }
    if (strcmp(key, "onLease") == 0 && (!strcmp(value, "kill") || !strcmp(value, "detach"))) {
        p->detach = *value == 'd';
        return NULL;
    }
    if (strcmp(key, "term") == 0 && strcmp(value, "held") == 0) {
        p->hold_term = true;
        return NULL;
    }
    return "the plan has a record that is not known";
}

static const char *parse(char *text, size_t len, struct plan *p)
{
    const char *end = text + len;
    struct lists n = {0};

    if (!len || end[-1] != '\0' || strcmp(text, "version=1") != 0) {
        return "the plan is not of version 1";
    }
    for (char *at = text + strlen(text) + 1; at < end;) {
        char *value = strchr(at, '=');
        if (!value) {
            return "the plan has a record without '='";
        }
        char *next = value + strlen(value) + 1;
        *value++ = '\0';
        const char *why = take(at, value, p, &n);
        if (why) {
            return why;
        }
        at = next;
    }
    if (!n.args || !*p->argv[0]) {
        return "the plan names no program";
    }
    if (p->user ? !p->group_count || p->user >= UINT32_MAX : p->group_count > 0) {
        return "the plan's user has no group, or its group no user";
    }
    return p->log_limit > 0 ? NULL : "the plan has no logLimit";
}

static size_t count(const char *text, size_t len, const char *prefix)
{
    size_t n = 0;

    for (const char *at = text; at < text + len; at += strnlen(at, (size_t)(text + len - at)) + 1) {
        n += strncmp(at, prefix, strlen(prefix)) == 0;
    }
    return n;
}

const char *plan_parse(char *text, size_t len, struct plan *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (!len || text[len - 1] != '\0') {
        return "the plan is cut off";
    }
    ret->argv = calloc(count(text, len, "arg=") + 1, sizeof(char *));
    ret->envp = calloc(count(text, len, "env=") + 1, sizeof(char *));
    ret->needs = calloc(count(text, len, "need=") + 1, sizeof(char *));
    ret->groups = calloc(count(text, len, "group=") + 1, sizeof(gid_t));
    if (!ret->argv || !ret->envp || !ret->needs || !ret->groups) {
        return "out of memory";
    }
    const char *why = parse(text, len, ret);
    if (!ret->lease_until) {
        ret->lease_until = NEVER;
    }
    return why;
}

/* Into memory of our own: pages of a mapped file would have to be fetched from the disk later. */
const char *plan_load(struct plan *ret)
{
    static char *text; /* kept, as what points into it */
    struct stat st;
    int fd = open("plan", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    memset(ret, 0, sizeof(*ret));
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return "the plan cannot be opened";
    }
    if (st.st_size <= 0 || st.st_size > PLAN_SIZE_MAX) {
        return "the plan is empty or too large";
    }
    size_t len = (size_t)st.st_size;
    text = malloc(len);
    ssize_t n = text ? read(fd, text, len) : -1;
    close(fd);
    return n == (ssize_t)len ? plan_parse(text, len, ret) : "the plan cannot be read";
}
