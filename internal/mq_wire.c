#include "internal/mq_wire.h"

#include "internal/mq.h"

#include <amqp.h>
#include <amqp_framing.h>

#include <endian.h>
#include <stdlib.h>

#define METHOD_ROOM 2048u /* no method of ours with names within MQ_SHORT_MAX is longer */
#define HEADER_ROOM 1024u
#define POOL_PAGE   16384u

_Static_assert(MQ_CONNECTION_START == AMQP_CONNECTION_START_METHOD, "");
_Static_assert(MQ_CHANNEL_CLOSE == AMQP_CHANNEL_CLOSE_METHOD, "");
_Static_assert(MQ_EXCHANGE_DECLARE_OK == AMQP_EXCHANGE_DECLARE_OK_METHOD, "");
_Static_assert(MQ_QUEUE_DELETE_OK == AMQP_QUEUE_DELETE_OK_METHOD, "");
_Static_assert(MQ_BASIC_NACK == AMQP_BASIC_NACK_METHOD, "");
_Static_assert(MQ_CONFIRM_SELECT_OK == AMQP_CONFIRM_SELECT_OK_METHOD, "");

struct mq_decoder {
    amqp_pool_t pool;
};

struct mq_decoder *mq_decoder_new(void)
{
    struct mq_decoder *d = xmalloc(sizeof(*d));

    init_amqp_pool(&d->pool, POOL_PAGE);
    return d;
}

void mq_decoder_free(struct mq_decoder *d)
{
    if (d) {
        empty_amqp_pool(&d->pool);
        free(d);
    }
}

const char *mq_method_text(uint32_t id)
{
    switch (id) {
    case AMQP_CHANNEL_OPEN_METHOD:
        return "channel.open";
    case AMQP_EXCHANGE_DECLARE_METHOD:
        return "exchange.declare";
    case AMQP_QUEUE_DECLARE_METHOD:
        return "queue.declare";
    case AMQP_QUEUE_BIND_METHOD:
        return "queue.bind";
    case AMQP_QUEUE_DELETE_METHOD:
        return "queue.delete";
    case AMQP_BASIC_QOS_METHOD:
        return "basic.qos";
    case AMQP_BASIC_CONSUME_METHOD:
        return "basic.consume";
    case AMQP_BASIC_CANCEL_METHOD:
        return "basic.cancel";
    case AMQP_BASIC_PUBLISH_METHOD:
        return "basic.publish";
    case AMQP_CONFIRM_SELECT_METHOD:
        return "confirm.select";
    default: {
        const char *name = amqp_method_name(id);
        return name ? name : "an unknown method";
    }
    }
}

int mq_refused(const struct mq_method *close, const char *what, struct err *reterr)
{
    char text[MQ_SHORT_MAX + 1];

    mq_clean_text(text, sizeof(text), close->text);
    int code = close->code == AMQP_CONNECTION_FORCED     ? ERR_MQ_DOWN
               : close->code == AMQP_ACCESS_REFUSED      ? ERR_AUTH
               : close->code == AMQP_NOT_ALLOWED         ? ERR_AUTH
               : close->code == AMQP_NOT_FOUND           ? ERR_NOT_FOUND
               : close->code == AMQP_RESOURCE_LOCKED     ? ERR_CONFLICT
               : close->code == AMQP_PRECONDITION_FAILED ? ERR_CONFLICT
                                                         : ERR_MQ;
    return err_set(reterr, code, "%s: %u %s", what, close->code, text);
}

/* librabbitmq has one type for slices that it reads and that it writes. */
static amqp_bytes_t bytes_of(struct str s)
{
    amqp_bytes_t b = {.len = s.len};

    memcpy(&b.bytes, &s.p, sizeof(b.bytes));
    return b;
}

static amqp_bytes_t bytes(const char *s)
{
    return bytes_of(str_of(s));
}

/* ---- reading ---- */

static uint32_t get32(const char *p)
{
    uint32_t v = 0;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static struct str str_from(amqp_bytes_t b)
{
    return (struct str){b.len ? b.bytes : "", b.len};
}

static struct str table_text(const amqp_table_t *t, struct str key)
{
    for (int i = 0; i < t->num_entries; i++) {
        const amqp_table_entry_t *e = &t->entries[i];

        if (e->value.kind == AMQP_FIELD_KIND_UTF8 && str_eq(str_from(e->key), key)) {
            return str_from(e->value.value.bytes);
        }
    }
    return STR("");
}

/* Connection class, and channel.close, which has the same members as connection.close. */
static bool take_connection(struct mq_method *m, void *decoded)
{
    switch ((uint32_t)m->id) {
    case AMQP_CONNECTION_START_METHOD: {
        amqp_connection_start_t *d = decoded;
        m->version = table_text(&d->server_properties, STR("version"));
        m->mechanism = str_from(d->mechanisms);
        return true;
    }
    case AMQP_CONNECTION_TUNE_METHOD: {
        amqp_connection_tune_t *d = decoded;
        m->frame_max = d->frame_max;
        m->heartbeat = d->heartbeat;
        return true;
    }
    case AMQP_CONNECTION_CLOSE_METHOD: {
        amqp_connection_close_t *d = decoded;
        m->code = d->reply_code;
        m->text = str_from(d->reply_text);
        m->culprit = (uint32_t)d->class_id << 16 | d->method_id;
        return true;
    }
    case AMQP_CHANNEL_CLOSE_METHOD: {
        amqp_channel_close_t *d = decoded;
        m->code = d->reply_code;
        m->text = str_from(d->reply_text);
        m->culprit = (uint32_t)d->class_id << 16 | d->method_id;
        return true;
    }
    case AMQP_CONNECTION_BLOCKED_METHOD: {
        amqp_connection_blocked_t *d = decoded;
        m->text = str_from(d->reason);
        return true;
    }
    default:
        return false;
    }
}

static bool take_queue(struct mq_method *m, void *decoded)
{
    switch ((uint32_t)m->id) {
    case AMQP_QUEUE_DECLARE_OK_METHOD: {
        amqp_queue_declare_ok_t *d = decoded;
        m->count = d->message_count;
        return true;
    }
    case AMQP_QUEUE_DELETE_OK_METHOD: {
        amqp_queue_delete_ok_t *d = decoded;
        m->count = d->message_count;
        return true;
    }
    default:
        return false;
    }
}

static bool take_basic(struct mq_method *m, void *decoded)
{
    switch ((uint32_t)m->id) {
    case AMQP_BASIC_DELIVER_METHOD: {
        amqp_basic_deliver_t *d = decoded;
        m->consumer = str_from(d->consumer_tag);
        m->key = str_from(d->routing_key);
        m->tag = d->delivery_tag;
        m->redelivered = d->redelivered;
        return true;
    }
    case AMQP_BASIC_ACK_METHOD: {
        amqp_basic_ack_t *d = decoded;
        m->tag = d->delivery_tag;
        m->multiple = d->multiple;
        return true;
    }
    case AMQP_BASIC_NACK_METHOD: {
        amqp_basic_nack_t *d = decoded;
        m->tag = d->delivery_tag;
        m->multiple = d->multiple;
        return true;
    }
    case AMQP_BASIC_CONSUME_OK_METHOD:
        m->consumer = str_from(((amqp_basic_consume_ok_t *)decoded)->consumer_tag);
        return true;
    case AMQP_BASIC_CANCEL_OK_METHOD:
        m->consumer = str_from(((amqp_basic_cancel_ok_t *)decoded)->consumer_tag);
        return true;
    case AMQP_BASIC_CANCEL_METHOD: {
        amqp_basic_cancel_t *d = decoded;
        m->consumer = str_from(d->consumer_tag);
        m->nowait = d->nowait;
        return true;
    }
    default:
        return false;
    }
}

/* Those whose members we do not need. */
static bool is_plain(uint32_t id)
{
    switch (id) {
    case AMQP_CONNECTION_OPEN_OK_METHOD:
    case AMQP_CONNECTION_CLOSE_OK_METHOD:
    case AMQP_CONNECTION_UNBLOCKED_METHOD:
    case AMQP_CHANNEL_OPEN_OK_METHOD:
    case AMQP_EXCHANGE_DECLARE_OK_METHOD:
    case AMQP_QUEUE_BIND_OK_METHOD:
    case AMQP_BASIC_QOS_OK_METHOD:
    case AMQP_BASIC_RETURN_METHOD:
    case AMQP_CONFIRM_SELECT_OK_METHOD:
        return true;
    default:
        return false;
    }
}

int mq_method_read(struct mq_decoder *d, struct str payload, struct mq_method *ret,
                   struct err *reterr)
{
    if (payload.len < 4) {
        return err_set(reterr, ERR_PROTOCOL, "a method frame of %zu bytes", payload.len);
    }
    struct mq_method m = {.id = (enum mq_method_id)get32(payload.p)};
    uint32_t id = (uint32_t)m.id;
    if (is_plain(id)) {
        *ret = m;
        return 0;
    }
    amqp_bytes_t encoded = bytes_of((struct str){payload.p + 4, payload.len - 4});
    void *decoded = NULL;
    recycle_amqp_pool(&d->pool);
    int rc = amqp_decode_method(id, &d->pool, encoded, &decoded);
    MUST(rc != AMQP_STATUS_NO_MEMORY);
    if (rc < 0) {
        return err_set(reterr, ERR_PROTOCOL, "method %u.%u cannot be decoded", id >> 16,
                       id & 0xffffu);
    }
    if (!take_connection(&m, decoded) && !take_queue(&m, decoded) && !take_basic(&m, decoded)) {
        return err_set(reterr, ERR_PROTOCOL, "unexpected method %s", mq_method_text(id));
    }
    *ret = m;
    return 0;
}

/* ---- writing ---- */

static void put_method(struct buf *out, uint16_t channel, uint32_t id, void *method)
{
    char *p = buf_reserve(out, METHOD_ROOM + MQ_FRAME_OVERHEAD);

    if (!p) {
        return;
    }
    uint32_t be = htobe32(id);
    memcpy(p + 7, &be, sizeof(be));
    amqp_bytes_t room = {.len = METHOD_ROOM - 4, .bytes = p + 11};
    int n = amqp_encode_method(id, method, room);
    if (n < 0) {
        out->failed = true;
        return;
    }
    mq_frame_seal(p, MQ_FRAME_METHOD, channel, (size_t)n + 4);
    buf_commit(out, (size_t)n + 4 + MQ_FRAME_OVERHEAD);
}

void mq_put_protocol_header(struct buf *out)
{
    (void)buf_add(out, "AMQP\0\0\x09\x01", 8);
}

static amqp_table_entry_t entry_bool(const char *key)
{
    return (amqp_table_entry_t){
        .key = bytes(key), .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value = {.boolean = 1}}};
}

static amqp_table_entry_t entry_text(const char *key, const char *text)
{
    return (amqp_table_entry_t){
        .key = bytes(key),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = bytes(text)}}};
}

void mq_put_start_ok(struct buf *out, const char *username, const char *password, const char *name)
{
    amqp_table_entry_t capabilities[] = {
        entry_bool("publisher_confirms"),
        entry_bool("consumer_cancel_notify"),
        entry_bool("basic.nack"),
        entry_bool("connection.blocked"),
        entry_bool("authentication_failure_close"),
    };
    amqp_table_entry_t properties[] = {
        entry_text("product", "SJE"),
        entry_text("version", SJE_VERSION),
        entry_text("connection_name", name),
        {.key = bytes("capabilities"),
         .value = {.kind = AMQP_FIELD_KIND_TABLE,
                   .value = {.table = {ARRAY_LEN(capabilities), capabilities}}}},
    };
    char plain[1024];
    size_t nu = strlen(username);
    size_t np = strlen(password);

    if (nu + np + 2 > sizeof(plain)) {
        out->failed = true;
        return;
    }
    plain[0] = '\0'; /* RFC 4616: no authorization identity */
    memcpy(plain + 1, username, nu);
    plain[1 + nu] = '\0';
    memcpy(plain + 2 + nu, password, np);
    amqp_connection_start_ok_t m = {
        .client_properties = {ARRAY_LEN(properties), properties},
        .mechanism = bytes("PLAIN"),
        .response = bytes_of((struct str){plain, nu + np + 2}),
        .locale = bytes("en_US"),
    };
    put_method(out, 0, AMQP_CONNECTION_START_OK_METHOD, &m);
    explicit_bzero(plain, sizeof(plain));
}

void mq_put_tune_ok(struct buf *out, uint32_t frame_max, uint16_t heartbeat)
{
    amqp_connection_tune_ok_t m = {
        .channel_max = MQ_CHANNEL, .frame_max = frame_max, .heartbeat = heartbeat};

    put_method(out, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &m);
}

void mq_put_open(struct buf *out, const char *vhost)
{
    amqp_connection_open_t m = {.virtual_host = bytes(vhost)};

    put_method(out, 0, AMQP_CONNECTION_OPEN_METHOD, &m);
}

void mq_put_close(struct buf *out)
{
    amqp_connection_close_t m = {.reply_code = AMQP_REPLY_SUCCESS, .reply_text = bytes("bye")};

    put_method(out, 0, AMQP_CONNECTION_CLOSE_METHOD, &m);
}

void mq_put_close_ok(struct buf *out)
{
    amqp_connection_close_ok_t m = {0};

    put_method(out, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &m);
}

void mq_put_heartbeat(struct buf *out)
{
    (void)buf_add(out, "\x08\0\0\0\0\0\0\xce", MQ_FRAME_OVERHEAD);
}

void mq_put_channel_open(struct buf *out)
{
    amqp_channel_open_t m = {.out_of_band = amqp_empty_bytes};

    put_method(out, MQ_CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &m);
}

void mq_put_channel_close_ok(struct buf *out)
{
    amqp_channel_close_ok_t m = {0};

    put_method(out, MQ_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &m);
}

void mq_put_confirm_select(struct buf *out)
{
    amqp_confirm_select_t m = {0};

    put_method(out, MQ_CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &m);
}

void mq_put_qos(struct buf *out, uint16_t prefetch)
{
    amqp_basic_qos_t m = {.prefetch_count = prefetch};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_QOS_METHOD, &m);
}

void mq_put_exchange_declare(struct buf *out, const char *name, const char *type)
{
    amqp_exchange_declare_t m = {.exchange = bytes(name), .type = bytes(type), .durable = 1};

    put_method(out, MQ_CHANNEL, AMQP_EXCHANGE_DECLARE_METHOD, &m);
}

void mq_put_queue_declare(struct buf *out, const char *name, int flags)
{
    amqp_table_entry_t type = entry_text("x-queue-type", flags & MQ_QUORUM ? "quorum" : "classic");
    amqp_queue_declare_t m = {
        .queue = bytes(name),
        .passive = (flags & MQ_PASSIVE) != 0,
        .durable = !(flags & MQ_EXCLUSIVE),
        .exclusive = (flags & MQ_EXCLUSIVE) != 0,
        .auto_delete = (flags & MQ_EXCLUSIVE) != 0,
        .arguments = {flags & MQ_PASSIVE ? 0 : 1, &type},
    };

    put_method(out, MQ_CHANNEL, AMQP_QUEUE_DECLARE_METHOD, &m);
}

void mq_put_queue_bind(struct buf *out, const char *queue, const char *exchange, const char *key)
{
    amqp_queue_bind_t m = {
        .queue = bytes(queue), .exchange = bytes(exchange), .routing_key = bytes(key)};

    put_method(out, MQ_CHANNEL, AMQP_QUEUE_BIND_METHOD, &m);
}

void mq_put_queue_delete(struct buf *out, const char *name)
{
    amqp_queue_delete_t m = {.queue = bytes(name)};

    put_method(out, MQ_CHANNEL, AMQP_QUEUE_DELETE_METHOD, &m);
}

void mq_put_consume(struct buf *out, const char *queue, const char *tag, bool no_ack)
{
    amqp_basic_consume_t m = {.queue = bytes(queue), .consumer_tag = bytes(tag), .no_ack = no_ack};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_CONSUME_METHOD, &m);
}

void mq_put_cancel(struct buf *out, const char *tag)
{
    amqp_basic_cancel_t m = {.consumer_tag = bytes(tag)};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_CANCEL_METHOD, &m);
}

void mq_put_cancel_ok(struct buf *out, struct str tag)
{
    amqp_basic_cancel_ok_t m = {.consumer_tag = bytes_of(tag)};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_CANCEL_OK_METHOD, &m);
}

void mq_put_ack(struct buf *out, uint64_t tag, bool multiple)
{
    amqp_basic_ack_t m = {.delivery_tag = tag, .multiple = multiple};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_ACK_METHOD, &m);
}

void mq_put_nack(struct buf *out, uint64_t tag, bool requeue)
{
    amqp_basic_nack_t m = {.delivery_tag = tag, .requeue = requeue};

    put_method(out, MQ_CHANNEL, AMQP_BASIC_NACK_METHOD, &m);
}

static void put_header(struct buf *out, const struct mq_message *m, struct str correlation_id)
{
    amqp_basic_properties_t p = {
        ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
        .delivery_mode = m->persistent ? AMQP_DELIVERY_PERSISTENT : AMQP_DELIVERY_NONPERSISTENT,
    };

    if (correlation_id.len) {
        p._flags |= AMQP_BASIC_CORRELATION_ID_FLAG;
        p.correlation_id = bytes_of(correlation_id);
    }
    if (m->reply_to) {
        p._flags |= AMQP_BASIC_REPLY_TO_FLAG;
        p.reply_to = bytes(m->reply_to);
    }
    if (m->message_id) {
        p._flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
        p.message_id = bytes(m->message_id);
    }
    char *at = buf_reserve(out, HEADER_ROOM + MQ_FRAME_OVERHEAD);
    MUST(at);
    uint16_t class_id = htobe16(AMQP_BASIC_CLASS);
    uint64_t size = htobe64(m->body.len);
    memcpy(at + 7, &class_id, sizeof(class_id));
    memset(at + 9, 0, 2); /* weight */
    memcpy(at + 11, &size, sizeof(size));
    amqp_bytes_t room = {.len = HEADER_ROOM - 12, .bytes = at + 19};
    int n = amqp_encode_properties(AMQP_BASIC_CLASS, &p, room);
    MUST(n >= 0);
    mq_frame_seal(at, MQ_FRAME_HEADER, MQ_CHANNEL, (size_t)n + 12);
    buf_commit(out, (size_t)n + 12 + MQ_FRAME_OVERHEAD);
}

int mq_put_publish(struct buf *out, const struct mq_message *m, struct str correlation_id,
                   size_t frame_max)
{
    size_t chunk = frame_max - MQ_FRAME_OVERHEAD;
    size_t frames = m->body.len / chunk + 3;

    size_t need = METHOD_ROOM + HEADER_ROOM + m->body.len + frames * MQ_FRAME_OVERHEAD;

    /* All or nothing: with this room the rest cannot fail. */
    if (out->failed || need > out->max - out->len) {
        return ERR_TOO_LARGE;
    }
    MUST(buf_reserve(out, need));
    amqp_basic_publish_t method = {.exchange = bytes(m->exchange),
                                   .routing_key = bytes(m->routing_key),
                                   .mandatory = m->mandatory};
    put_method(out, MQ_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &method);
    put_header(out, m, correlation_id);
    for (size_t done = 0; done < m->body.len;) {
        size_t n = MIN(chunk, m->body.len - done);
        char *p = buf_reserve(out, n + MQ_FRAME_OVERHEAD);

        MUST(p);
        memcpy(p + 7, m->body.p + done, n);
        mq_frame_seal(p, MQ_FRAME_BODY, MQ_CHANNEL, n);
        buf_commit(out, n + MQ_FRAME_OVERHEAD);
        done += n;
    }
    return 0;
}
