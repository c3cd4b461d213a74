/* floor COUNT BYTES WINDOW: how many persistent messages a second one connection of librabbitmq
 * gets confirmed by one quorum queue. The floor under everything that goes through the broker. */
#include "tests/bench/bench.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>

#define QUEUE "bench.floor"

static amqp_connection_state_t broker;

static void checked(const char *what)
{
    amqp_rpc_reply_t r = amqp_get_rpc_reply(broker);

    if (r.reply_type != AMQP_RESPONSE_NORMAL) {
        die("%s: refused by the broker", what);
    }
}

static void prepare(void)
{
    amqp_table_entry_t type = {
        .key = amqp_cstring_bytes("x-queue-type"),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("quorum")}};

    broker = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(broker);
    if (amqp_socket_open(socket, setting("SJE_RABBITMQ_HOST"),
                         (int)number(setting("SJE_RABBITMQ_PORT")))) {
        die("the broker does not answer");
    }
    amqp_rpc_reply_t r =
        amqp_login(broker, setting("SJE_RABBITMQ_VHOST"), 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
                   setting("SJE_RABBITMQ_USERNAME"), setting("SJE_RABBITMQ_PASSWORD"));
    if (r.reply_type != AMQP_RESPONSE_NORMAL) {
        die("the broker refuses the login");
    }
    amqp_channel_open(broker, 1);
    checked("channel");
    amqp_queue_declare(broker, 1, amqp_cstring_bytes(QUEUE), 0, 1, 0, 0,
                       (amqp_table_t){.num_entries = 1, .entries = &type});
    checked("queue");
    amqp_confirm_select(broker, 1);
    checked("confirms");
}

/* Waits for one confirm; the highest delivery tag that is confirmed now. */
static uint64_t confirmed(uint64_t so_far)
{
    amqp_frame_t f;

    amqp_maybe_release_buffers(broker);
    if (amqp_simple_wait_frame(broker, &f) != AMQP_STATUS_OK || f.frame_type != AMQP_FRAME_METHOD ||
        f.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        die("no confirm came");
    }
    const amqp_basic_ack_t *ack = f.payload.method.decoded;
    return ack->multiple ? MAX(so_far, ack->delivery_tag) : so_far + 1;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        die("usage: floor COUNT BYTES WINDOW");
    }
    uint64_t count = (uint64_t)number(argv[1]);
    amqp_bytes_t body = {(size_t)number(argv[2]), xcalloc(1, (size_t)number(argv[2]) + 1)};
    uint64_t window = (uint64_t)number(argv[3]);
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                 .delivery_mode = AMQP_DELIVERY_PERSISTENT};
    uint64_t done = 0;

    prepare();
    double start = now_s(CLOCK_MONOTONIC);
    for (uint64_t sent = 0; done < count;) {
        if (sent < count && sent - done < window) {
            if (amqp_basic_publish(broker, 1, amqp_empty_bytes, amqp_cstring_bytes(QUEUE), 0, 0, &p,
                                   body)) {
                die("cannot publish");
            }
            sent++;
        } else {
            done = confirmed(done);
        }
    }
    double seconds = now_s(CLOCK_MONOTONIC) - start;
    amqp_queue_delete(broker, 1, amqp_cstring_bytes(QUEUE), 0, 0);
    checked("deleting the queue");
    amqp_destroy_connection(broker);
    free(body.bytes);
    printf("{\"count\":%llu,\"seconds\":%.6f}\n", (unsigned long long)count, seconds);
    return 0;
}
