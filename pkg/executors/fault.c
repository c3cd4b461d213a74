#include "pkg/executors/fault.h"

#include <errno.h>

#define ANY (-1)

enum exec_fault exec_fault_of_error(int rc)
{
    static const struct {
        int rc;
        enum exec_fault fault;
    } table[] = {
        {ERR_IO, EXEC_FAULT_NODE},          /* a file or a process of ours */
        {ERR_CONFIG, EXEC_FAULT_TYPE},      /* what this type needs is not on the node */
        {ERR_CONFLICT, EXEC_FAULT_ATTEMPT}, /* its directory is there already */
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].rc == rc) {
            return table[i].fault;
        }
    }
    return EXEC_FAULT_NONE;
}

/* Whose program it is: a Command names one, all others run what the node has. */
enum whose { EVERY, TASKS, NODES };

static const struct {
    const char *stage; /* as the shim calls it */
    int error;
    enum whose program;
    enum exec_fault fault;
} launches[] = {
    /* the first that fits */
    {"plan", ANY, EVERY, EXEC_FAULT_NODE},    {"pipe", ANY, EVERY, EXEC_FAULT_NODE},
    {"fork", ANY, EVERY, EXEC_FAULT_NODE},    {"setup", ANY, EVERY, EXEC_FAULT_NODE},
    {"stdin", ANY, EVERY, EXEC_FAULT_NODE},   {"exec", ENOSPC, EVERY, EXEC_FAULT_NODE},
    {"exec", EDQUOT, EVERY, EXEC_FAULT_NODE}, {"exec", EIO, EVERY, EXEC_FAULT_NODE},
    {"exec", EROFS, EVERY, EXEC_FAULT_NODE},  {"exec", EMFILE, EVERY, EXEC_FAULT_NODE},
    {"exec", ENFILE, EVERY, EXEC_FAULT_NODE}, {"exec", EAGAIN, EVERY, EXEC_FAULT_NODE},
    {"exec", ENOMEM, EVERY, EXEC_FAULT_NODE}, {"exec", E2BIG, EVERY, EXEC_FAULT_NONE},
    {"exec", ANY, NODES, EXEC_FAULT_TYPE},    {"interpreter", ANY, NODES, EXEC_FAULT_TYPE},
    {"cwd", EIO, EVERY, EXEC_FAULT_NODE},     {"cwd", ENOMEM, EVERY, EXEC_FAULT_NODE},
};

enum exec_fault exec_fault_of_exit(const char *job_type, bool own_cwd, const struct exec_exit *e)
{
    enum whose program = streq(job_type, JOB_COMMAND) ? TASKS : NODES;

    if (e->launched || !streq(e->reason, "launch")) {
        return EXEC_FAULT_NONE;
    }
    if (own_cwd && streq(e->stage, "cwd")) {
        return EXEC_FAULT_NODE;
    }
    for (size_t i = 0; i < ARRAY_LEN(launches); i++) {
        if (streq(launches[i].stage, e->stage) &&
            (launches[i].error == ANY || launches[i].error == e->error) &&
            (launches[i].program == EVERY || launches[i].program == program)) {
            return launches[i].fault;
        }
    }
    return EXEC_FAULT_NONE;
}
