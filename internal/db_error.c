/* db_error.c: what libpq and the server say, as codes and single lines. */
#include "internal/db_conn.h"

#include <ctype.h>
#include <libpq-fe.h>
#include <stdio.h>

#define SQLSTATE_LEN 5

/* The server is none that we can talk with: a pooler that takes no settings of a session. */
static bool is_no_postgres(const char *state)
{
    return streq(state, "08P01");
}

/* Authentication and "no such database": repeating the attempt will not help. */
static bool is_refusal(const char *state)
{
    return strncmp(state, "28", 2) == 0 || strncmp(state, "3D", 2) == 0 || is_no_postgres(state);
}

static int code_of(const char *state)
{
    if (streq(state, "40001") || streq(state, "40P01")) {
        return ERR_CONFLICT;
    }
    if (streq(state, "57014") || streq(state, "55P03")) {
        return ERR_TIMEOUT;
    }
    return strncmp(state, "53", 2) == 0 ? ERR_BUSY : ERR_DB;
}

/* A connection that a failover made read-only (25006) is as good as lost. 08P01 as an ordinary
 * ERROR is a statement of ours that does not fit its parameters. */
static bool is_lost(const char *state, const char *severity)
{
    if (streq(severity, "FATAL") || streq(severity, "PANIC")) {
        return true;
    }
    return strncmp(state, "57P", 3) == 0 || streq(state, "25006") ||
           (strncmp(state, "08", 2) == 0 && !streq(state, "08P01"));
}

static int one_line(struct err *reterr, int code, const char *text, const char *state)
{
    const int most = 240;
    int len = (int)MIN(strcspn(text, "\r\n"), (size_t)most);

    if (len == most) {
        while (len > 0 && ((unsigned char)text[len] & 0xC0) == 0x80) {
            len--; /* not in the middle of a character */
        }
    }
    return *state ? err_set(reterr, code, "%.*s [%s]", len, text, state)
                  : err_set(reterr, code, "%.*s", len, text);
}

/* Finds "28P01: " behind "FATAL:  "; NULL where the message is libpq's own. */
static const char *find_state(const char *line, size_t len)
{
    for (size_t i = 3; i + SQLSTATE_LEN + 2 <= len; i++) {
        bool found = memcmp(line + i - 3, ":  ", 3) == 0 && line[i + SQLSTATE_LEN] == ':';

        for (size_t k = 0; found && k < SQLSTATE_LEN; k++) {
            unsigned char c = (unsigned char)line[i + k];
            found = isdigit(c) || isupper(c);
        }
        if (found) {
            return line + i;
        }
    }
    return NULL;
}

int db_error_connect(const char *message, struct err *reterr)
{
    size_t len = strcspn(message, "\n");
    const char *state = find_state(message, len);

    if (!state) {
        return one_line(reterr, ERR_DB_DOWN, len ? message : "connection lost", "");
    }
    char text[512];
    char code[SQLSTATE_LEN + 1] = {0};
    const char *severity = memrchr(message, ' ', (size_t)(state - 2 - message));
    int before = severity ? (int)(severity + 1 - message) : 0;
    const char *rest = state + SQLSTATE_LEN + 1;

    memcpy(code, state, SQLSTATE_LEN);
    rest += strspn(rest, " ");
    snprintf(text, sizeof(text), "%.*s%.*s%s", before, message, (int)(message + len - rest), rest,
             is_no_postgres(code) ? ". Is it a pooler? Name the database itself" : "");
    return one_line(reterr, is_refusal(code) ? ERR_CONFIG : ERR_DB_DOWN, text, code);
}

int db_error_result(const PGresult *res, struct err *reterr, bool *ret_lost)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

    if (!state || !text) { /* libpq's own: the socket */
        *ret_lost = true;
        return db_error_connect(PQresultErrorMessage(res), reterr);
    }
    *ret_lost = is_lost(state, severity ? severity : "");
    return one_line(reterr, *ret_lost ? ERR_DB_DOWN : code_of(state), text, state);
}

bool db_is_sqlstate(const struct err *why, const char *sqlstate)
{
    size_t len = strlen(why->text);
    char tail[SQLSTATE_LEN + 3];

    snprintf(tail, sizeof(tail), "[%s]", sqlstate);
    return len >= SQLSTATE_LEN + 2 && streq(why->text + len - (SQLSTATE_LEN + 2), tail);
}
