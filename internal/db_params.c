/* db_params.c: parameters and arrays in PostgreSQL's binary formats, appended to one buffer.
 *
 * Source: array_recv in src/backend/utils/adt/arrayfuncs.c and timestamptz_recv in timestamp.c of
 * PostgreSQL 15; type numbers from pg_type.dat, fixed for ever.
 */
#include "internal/db_conn.h"

#define EPOCH_MS     946684800000 /* 2000-01-01T00:00:00Z in Unix time */
#define ARRAY_HEADER 20
#define EMPTY_HEADER 12

static const struct {
    uint32_t elem;
    uint32_t array;
} types[] = {
    [DB_BOOL] = {DB_OID_BOOL, 1000},        [DB_INT] = {DB_OID_INT4, 1007},
    [DB_BIGINT] = {DB_OID_INT8, 1016},      [DB_TEXT] = {DB_OID_TEXT, 1009},
    [DB_BYTES] = {DB_OID_BYTEA, 1001},      [DB_ID] = {DB_OID_UUID, 2951},
    [DB_TIME] = {DB_OID_TIMESTAMPTZ, 1185},
};

static void put32(char *at, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (char)(v >> (24 - 8 * i));
    }
}

static void put64(char *at, uint64_t v)
{
    put32(at, (uint32_t)(v >> 32));
    put32(at + 4, (uint32_t)v);
}

/* Microseconds since 2000; false where PostgreSQL has no such time (4714 BC to 294276 AD). */
static bool time_to_pg(int64_t wall_ms, int64_t *ret)
{
    if (wall_ms < -210866803200000 || wall_ms >= 9224318016000000) {
        return false;
    }
    *ret = (wall_ms - EPOCH_MS) * 1000;
    return true;
}

void db_params_init(struct db_params *p)
{
    buf_init(&p->data, DB_PARAMS_BYTES);
    db_params_reset(p);
}

void db_params_free(struct db_params *p)
{
    buf_free(&p->data);
    db_params_reset(p);
}

void db_params_reset(struct db_params *p)
{
    buf_reset(&p->data);
    p->count = 0;
    p->failed = 0;
    p->bytes = 0;
}

static void fail(struct db_params *p, int code)
{
    p->failed = p->failed ? p->failed : code;
}

static int next(struct db_params *p, uint32_t oid)
{
    MUST(p->count < DB_PARAMS_COUNT);
    int i = p->count++;

    p->oid[i] = oid;
    p->len[i] = -1;
    p->off[i] = 0;
    p->ref[i] = NULL;
    return i;
}

/* n bytes for the value; NULL where there are too many. */
static char *room(struct db_params *p, uint32_t oid, size_t n)
{
    int i = next(p, oid);
    size_t off = p->data.len;
    char *at = n <= DB_PARAMS_BYTES - p->bytes ? buf_reserve(&p->data, n) : NULL;

    if (!at) {
        fail(p, ERR_TOO_LARGE);
        return NULL;
    }
    buf_commit(&p->data, n);
    p->off[i] = (int32_t)off;
    p->len[i] = (int32_t)n;
    p->bytes += n;
    return at;
}

static void add(struct db_params *p, uint32_t oid, const void *data, size_t n)
{
    if (!data) {
        next(p, oid);
        return;
    }
    char *at = room(p, oid, n);
    if (at && n) {
        memcpy(at, data, n);
    }
}

static void ref(struct db_params *p, uint32_t oid, const void *data, size_t n)
{
    int i = next(p, oid);

    if (n > DB_PARAMS_BYTES - p->bytes) {
        fail(p, ERR_TOO_LARGE);
    } else if (data) {
        p->ref[i] = data;
        p->len[i] = (int32_t)n;
        p->bytes += n;
    }
}

void db_add_null(struct db_params *p)
{
    next(p, 0);
}

void db_add_bool(struct db_params *p, bool v)
{
    char byte = v;

    add(p, DB_OID_BOOL, &byte, 1);
}

void db_add_int(struct db_params *p, int32_t v)
{
    char be[4];

    put32(be, (uint32_t)v);
    add(p, DB_OID_INT4, be, sizeof(be));
}

void db_add_bigint(struct db_params *p, int64_t v)
{
    char be[8];

    put64(be, (uint64_t)v);
    add(p, DB_OID_INT8, be, sizeof(be));
}

void db_add_text(struct db_params *p, const char *s)
{
    add(p, DB_OID_TEXT, s, s ? strlen(s) : 0);
}

void db_add_bytes(struct db_params *p, const void *data, size_t n)
{
    add(p, DB_OID_BYTEA, data, n);
}

void db_ref_bytes(struct db_params *p, const void *data, size_t n)
{
    ref(p, DB_OID_BYTEA, data, n);
}

void db_add_id(struct db_params *p, const struct id *id)
{
    add(p, DB_OID_UUID, id ? id->b : NULL, ID_LEN);
}

void db_add_time(struct db_params *p, int64_t wall_ms)
{
    char be[8];
    int64_t us = 0;

    if (wall_ms == INT64_MIN) {
        next(p, DB_OID_TIMESTAMPTZ);
        return;
    }
    if (!time_to_pg(wall_ms, &us)) {
        fail(p, ERR_INVALID);
    }
    put64(be, (uint64_t)us);
    add(p, DB_OID_TIMESTAMPTZ, be, sizeof(be));
}

void db_array_init(struct db_array *a, enum db_type type)
{
    *a = (struct db_array){.elem_oid = types[type].elem};
    buf_init(&a->data, DB_PARAMS_BYTES);
}

void db_array_free(struct db_array *a)
{
    buf_free(&a->data);
    db_array_reset(a);
}

void db_array_reset(struct db_array *a)
{
    buf_reset(&a->data);
    a->count = 0;
    a->has_null = false;
    a->failed = false;
}

/* Room for an element behind its length; NULL where there is none (data.failed is set). */
static char *element(struct db_array *a, uint32_t len, size_t n)
{
    size_t header = a->data.len ? 4 : ARRAY_HEADER + 4;
    char *at = n <= DB_PARAMS_BYTES ? buf_reserve(&a->data, header + n) : NULL;

    if (!at) {
        a->data.failed = true;
        return NULL;
    }
    buf_commit(&a->data, header + n);
    a->count++;
    at += header;
    put32(at - 4, len);
    return at;
}

static void element_bytes(struct db_array *a, const void *data, size_t n)
{
    if (!data) {
        db_array_null(a);
        return;
    }
    char *at = element(a, (uint32_t)n, n);
    if (at && n) {
        memcpy(at, data, n);
    }
}

void db_array_null(struct db_array *a)
{
    a->has_null = true;
    element(a, UINT32_MAX, 0);
}

void db_array_bool(struct db_array *a, bool v)
{
    char byte = v;

    assert(a->elem_oid == DB_OID_BOOL);
    element_bytes(a, &byte, 1);
}

void db_array_int(struct db_array *a, int32_t v)
{
    char be[4];

    assert(a->elem_oid == DB_OID_INT4);
    put32(be, (uint32_t)v);
    element_bytes(a, be, sizeof(be));
}

void db_array_bigint(struct db_array *a, int64_t v)
{
    char be[8];

    assert(a->elem_oid == DB_OID_INT8);
    put64(be, (uint64_t)v);
    element_bytes(a, be, sizeof(be));
}

void db_array_text(struct db_array *a, const char *s)
{
    assert(a->elem_oid == DB_OID_TEXT);
    element_bytes(a, s, s ? strlen(s) : 0);
}

void db_array_bytes(struct db_array *a, const void *data, size_t n)
{
    assert(a->elem_oid == DB_OID_BYTEA);
    element_bytes(a, data, n);
}

void db_array_id(struct db_array *a, const struct id *id)
{
    assert(a->elem_oid == DB_OID_UUID);
    element_bytes(a, id ? id->b : NULL, ID_LEN);
}

void db_array_time(struct db_array *a, int64_t wall_ms)
{
    char be[8];
    int64_t us = 0;

    assert(a->elem_oid == DB_OID_TIMESTAMPTZ);
    if (wall_ms == INT64_MIN) {
        db_array_null(a);
        return;
    }
    if (!time_to_pg(wall_ms, &us)) {
        a->failed = true;
    }
    put64(be, (uint64_t)us);
    element_bytes(a, be, sizeof(be));
}

static void put_header(const struct db_array *a, char *at)
{
    put32(at, a->count ? 1 : 0); /* dimensions */
    put32(at + 4, a->has_null);
    put32(at + 8, a->elem_oid);
    if (a->count) {
        put32(at + 12, (uint32_t)a->count);
        put32(at + 16, 1); /* lower bound */
    }
}

/* Completes the array in place; false where it must not be sent. */
static bool finish_array(struct db_params *p, const struct db_array *a)
{
    if (a->failed || a->data.failed) {
        fail(p, a->failed ? ERR_INVALID : ERR_TOO_LARGE);
        return false;
    }
    if (a->count) {
        put_header(a, a->data.data);
    }
    return true;
}

static uint32_t array_oid(const struct db_array *a)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (types[i].elem == a->elem_oid) {
            return types[i].array;
        }
    }
    UNREACHABLE("array of an unknown type");
}

static void add_array(struct db_params *p, const struct db_array *a,
                      void (*put)(struct db_params *, uint32_t, const void *, size_t))
{
    char empty[EMPTY_HEADER];

    if (!finish_array(p, a)) {
        next(p, array_oid(a));
    } else if (a->count == 0) {
        put_header(a, empty);
        add(p, array_oid(a), empty, sizeof(empty));
    } else {
        put(p, array_oid(a), a->data.data, a->data.len);
    }
}

void db_add_array(struct db_params *p, const struct db_array *a)
{
    add_array(p, a, add);
}

void db_ref_array(struct db_params *p, const struct db_array *a)
{
    add_array(p, a, ref);
}
