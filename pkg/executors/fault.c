#include "pkg/executors/fault.h"

#include <errno.h>

enum exec_fault exec_fault_of_error(int rc)
{
    static const struct {
        int rc;
        enum exec_fault fault;
    } table[] = {
        {ERR_IO, EXEC_FAULT_NODE},          /* a file or a process of ours */
        {ERR_CONFIG, EXEC_FAULT_TYPE},      /* what this type needs is not on the node */
        {ERR_CONFLICT, EXEC_FAULT_ATTEMPT}, /* its directory is there already */
        {ERR_BUSY, EXEC_FAULT_ATTEMPT},     /* its shim has gone before it began */
        {ERR_TIMEOUT, EXEC_FAULT_ATTEMPT},  /* that took as long as its lease */
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].rc == rc) {
            return table[i].fault;
        }
    }
    return EXEC_FAULT_NONE;
}

/* ---- what the shim recorded ---- */

/* The node has run out of it, whatever was to be opened or executed. */
static bool is_shortage(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
    case ENOMEM:
        return true;
    default:
        return false;
    }
}

/* Of what the task named. */
static enum exec_fault fault_of_named(const struct exec_attempt *a, const struct exec_exit *e)
{
    /* A file that somebody holds a lease on (fcntl(2)); executing it would wait. */
    bool is_leased = e->error == EAGAIN && !streq(e->stage, "exec");

    switch (e->error) {
    case ENAMETOOLONG: /* true on every node */
    case EINVAL:
    case E2BIG:
        return EXEC_FAULT_NONE;
    case ENOENT: /* here: another node may have it. What no node has is the task's. */
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case ELOOP:
    case ENOEXEC:
    case EISDIR:
    case ELIBBAD:
        return a->elsewhere && a->returns < EXEC_NODES_MAX ? EXEC_FAULT_ATTEMPT : EXEC_FAULT_NONE;
    default:
        break;
    }
    /* A mount that is dead here may be well elsewhere. But a client can make such errors too, with
     * a program that is cut off or a file system of its own: so nothing is held off, and what fails
     * that often is the task's. */
    return is_shortage(e->error) && !is_leased ? EXEC_FAULT_NODE
           : a->losses < EXEC_DOUBTS_MAX       ? EXEC_FAULT_ATTEMPT
                                               : EXEC_FAULT_NONE;
}

static enum exec_fault fault_of_exec(const struct exec_attempt *a, const struct exec_exit *e)
{
    if (streq(a->spec->job_type, JOB_COMMAND)) {
        return fault_of_named(a, e);
    }
    return is_shortage(e->error) || e->error == EIO ? EXEC_FAULT_NODE
           : e->error == E2BIG                      ? EXEC_FAULT_NONE
                                                    : EXEC_FAULT_TYPE;
}

enum exec_fault exec_fault_of_exit(const struct exec_attempt *a, const struct exec_exit *e)
{
    static const char *const ours[] = {"plan", "pipe", "fork", "setup", "stdin"};

    if (e->launched || !streq(e->reason, "launch")) {
        return EXEC_FAULT_NONE;
    }
    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        if (streq(e->stage, ours[i])) {
            return EXEC_FAULT_NODE;
        }
    }
    if (streq(e->stage, "cwd") && !a->spec->cwd) {
        return EXEC_FAULT_NODE;
    }
    if (streq(e->stage, "cwd") || streq(e->stage, "file")) {
        return fault_of_named(a, e);
    }
    /* An interpreter that is missing is ENOENT too. */
    return streq(e->stage, "exec") || streq(e->stage, "interpreter") ? fault_of_exec(a, e)
                                                                     : EXEC_FAULT_NONE;
}
