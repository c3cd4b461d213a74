/* db_result.c: values out of a binary result. A value of an unexpected length never makes it read
 * outside of the value. */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <stdio.h>

#define EPOCH_MS 946684800000

/* The raw value, after its type was checked against at most five; NULL for SQL NULL. */
static const char *cell(const struct db_result *r, int row, int col, const Oid allowed[5],
                        size_t *ret_len)
{
    MUST(row >= 0 && row < PQntuples(r->pg) && col >= 0 && col < PQnfields(r->pg));
    Oid type = PQftype(r->pg, col);
    bool ok = false;

    for (int i = 0; i < 5; i++) {
        ok = ok || (allowed[i] && allowed[i] == type);
    }
    if (!ok) {
        char text[128];

        snprintf(text, sizeof(text), "column %s has type %u", PQfname(r->pg, col), type);
        base_panic(__FILE__, __LINE__, text);
    }
    *ret_len = (size_t)PQgetlength(r->pg, row, col);
    return PQgetisnull(r->pg, row, col) ? NULL : PQgetvalue(r->pg, row, col);
}

/* Big-endian, 1 to 8 bytes, sign-extended. */
static int64_t number(const char *p, size_t len)
{
    if (!p || len == 0 || len > 8) {
        return 0;
    }
    uint64_t v = (p[0] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = 0; i < len; i++) {
        v = v << 8 | (uint8_t)p[i];
    }
    return (int64_t)v;
}

int db_rows(const struct db_result *r)
{
    return PQntuples(r->pg);
}

bool db_is_null(const struct db_result *r, int row, int col)
{
    MUST(row >= 0 && row < PQntuples(r->pg) && col >= 0 && col < PQnfields(r->pg));
    return PQgetisnull(r->pg, row, col);
}

bool db_get_bool(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_BOOL}, &len);

    return number(p, len) != 0;
}

int64_t db_get_int(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_INT2, DB_OID_INT4, DB_OID_INT8}, &len);

    return number(p, len);
}

double db_get_double(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_FLOAT4, DB_OID_FLOAT8}, &len);
    int64_t bits = number(p, len);

    if (len == 4) {
        float f = 0;
        int32_t low = (int32_t)bits;

        memcpy(&f, &low, sizeof(f));
        return (double)f;
    }
    double d = 0;
    memcpy(&d, &bits, sizeof(d));
    return d;
}

struct str db_get_text(const struct db_result *r, int row, int col)
{
    static const Oid allowed[5] = {DB_OID_TEXT, DB_OID_VARCHAR, DB_OID_JSON, DB_OID_JSONB,
                                   DB_OID_NAME};
    size_t len = 0;
    const char *p = cell(r, row, col, allowed, &len);

    if (!p) {
        return STR("");
    }
    if (len && PQftype(r->pg, col) == DB_OID_JSONB) { /* a version byte comes first */
        return (struct str){p + 1, len - 1};
    }
    return (struct str){p, len};
}

struct str db_get_bytes(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_BYTEA}, &len);

    return p ? (struct str){p, len} : STR("");
}

struct id db_get_id(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_UUID}, &len);
    struct id id = {0};

    if (p && len == ID_LEN) {
        memcpy(id.b, p, ID_LEN);
    }
    return id;
}

int64_t db_get_time(const struct db_result *r, int row, int col)
{
    size_t len = 0;
    const char *p = cell(r, row, col, (const Oid[5]){DB_OID_TIMESTAMPTZ}, &len);

    if (!p) {
        return INT64_MIN;
    }
    int64_t us = number(p, len);
    int64_t ms = us / 1000;
    return ms - (us % 1000 < 0) + EPOCH_MS; /* rounded down before 2000 too */
}

int64_t db_affected(const struct db_result *r)
{
    int64_t n = 0;

    (void)str_to_i64(str_of(PQcmdTuples(r->pg)), 0, INT64_MAX, &n);
    return n;
}
