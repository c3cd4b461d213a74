"""The broker is disposable: whatever becomes of it and of what it holds, every accepted task ends."""
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest

from sje import Load, Services, processes_with, until

NOOP = {"jobType": "Noop"}


def shell(script, **more):
    return {"jobType": "Command", "command": ["sh", "-c", script], **more}


def amqp(sje):
    """A connection of our own, as the same user and to the same virtual host."""
    s = sje.settings
    return pika.BlockingConnection(pika.ConnectionParameters(
        s["SJE_RABBITMQ_HOST"], int(s["SJE_RABBITMQ_PORT"]), s["SJE_RABBITMQ_VHOST"],
        pika.PlainCredentials(s["SJE_RABBITMQ_USERNAME"], s["SJE_RABBITMQ_PASSWORD"])))


def hints_wait(sje):
    lines = sje.get("/metrics").text.splitlines()
    return any(float(line.split()[-1]) > 0 for line in lines if line.startswith("sje_hints_published_total"))


QUEUES = [*(f"sje.work.default.{c}" for c in ("high", "normal", "low")), "sje.result"]


def delete_queues(sje):
    connection = amqp(sje)
    channel = connection.channel()
    for queue in QUEUES:
        channel.queue_delete(queue)
    connection.close()


@pytest.mark.parametrize("what", ["queues", "data"])
def test_it_forgets_5000_queued_tasks(own, services, what):
    sje = own(split=True, SJE_NODE_SLOTS="200", SJE_RABBITMQ_VHOST="/")
    sje.worker.process.send_signal(signal.SIGSTOP)
    sje.post("/tasks", [NOOP] * 5000)
    until(lambda: hints_wait(sje), 30, "hints wait in the broker")
    if what == "queues":
        delete_queues(sje)
    else:
        services.stop("rabbitmq")
        shutil.rmtree(services.dir / "rabbitmq/data")
        services.start("rabbitmq")
    sje.worker.process.send_signal(signal.SIGCONT)
    sje.all_succeeded(5000)


def test_its_queues_are_deleted_under_load(own):
    """Again and again while others publish to them: nobody stays deaf."""
    sje = own(split=True)
    long = sje.submit(shell("sleep 6"))
    sje.running(long)
    load = Load(sje, shell("sleep 0.05"))
    for _ in range(3):
        load.goes_on()
        delete_queues(sje)
    load.goes_on()
    n = len(load.stop()) + 1
    sje.all_succeeded(n)


def test_it_refuses_messages(own, services):
    """Policies of an operator: full queues refuse what is published."""
    sje = own(split=True)
    vhost = sje.settings["SJE_RABBITMQ_VHOST"]
    sje.end(sje.submit(NOOP))
    services.ctl("set_policy", "-p", vhost, "--apply-to", "queues", "refuse", r"^sje\.(work|result)",
                 '{"max-length": 1, "overflow": "reject-publish"}')
    load = Load(sje, NOOP)
    try:
        until(lambda: len(load.ids) >= Load.AHEAD, 30, "tasks are accepted")
    finally:
        services.ctl("clear_policy", "-p", vhost, "refuse")
    load.goes_on()
    n = len(load.stop()) + 1
    sje.all_succeeded(n)


@pytest.mark.parametrize("raise_it, lower_it", [
    (("set_vm_memory_high_watermark", "absolute", "1"), ("set_vm_memory_high_watermark", "absolute", "1GB")),
    (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "100MB")),
], ids=["memory", "disk"])
def test_an_alarm(own, services, raise_it, lower_it):
    """The broker takes nothing: what is accepted waits, what runs goes on, what ends is told later."""
    sje = own(split=True)
    running = sje.submit(shell("sleep 4; echo done"))
    sje.running(running)
    services.ctl(*raise_it)
    try:
        for _ in range(100):
            sje.submit(NOOP)
        until(lambda: not processes_with(running), 20, "the task ends meanwhile")
    finally:
        services.ctl(*lower_it)
    sje.all_succeeded(101)
    assert sje.log(running).text == "done\n"


def test_an_alarm_and_a_short_lease(own, services):
    """The beats go another way before the lease is over, however long the heartbeat of the file."""
    sje = own(split=True, SJE_NODE_HEARTBEAT_SECONDS="30", SJE_NODE_DEAD_AFTER_SECONDS="90")
    running = sje.submit(shell("sleep 14", leaseSeconds=10))
    sje.running(running)
    services.ctl("set_disk_free_limit", "1000000GB")
    try:
        until(lambda: not processes_with(running), 30, "the task ends meanwhile")
    finally:
        services.ctl("set_disk_free_limit", "100MB")
    sje.all_succeeded(1)
    assert sje.task(running)["attempt"] == 1


@pytest.fixture
def standby_broker(run_dir, services):
    """Settings of two brokers, and the one that is not started yet."""
    directory = run_dir / "standby-broker"
    (directory / "run").mkdir(parents=True, exist_ok=True)
    shutil.copy(services.dir / "run/rabbitmq.password", directory / "run")
    other = Services(directory, "start", "rabbitmq")
    other.stop("rabbitmq")
    yield other
    other.stop("rabbitmq")
    services.start("rabbitmq")


def test_it_is_replaced_by_another(own, services, standby_broker):
    hosts = f"127.0.0.1:{services.port('rabbitmq')},127.0.0.1:{standby_broker.port('rabbitmq')}"
    sje = own(split=True, SJE_RABBITMQ_VHOST="/", SJE_RABBITMQ_HOST=hosts)
    running = sje.submit(shell("sleep 5"))
    sje.running(running)
    load = Load(sje, shell("sleep 0.05"))
    load.goes_on()
    services.stop("rabbitmq")
    standby_broker.start("rabbitmq")
    load.goes_on()
    n = len(load.stop()) + 1
    sje.all_succeeded(n)


@pytest.fixture
def three(run_dir):
    """A cluster of three nodes."""
    first = Services(run_dir / "three/sje", "start", "rabbitmq")
    with ThreadPoolExecutor(2) as pool:
        others = list(pool.map(lambda n: Services(run_dir / f"three/{n}", "join", first.dir), ("b", "c")))
    nodes = [first, *others]
    yield nodes
    for node in reversed(nodes):
        node.stop("rabbitmq")


def test_a_cluster_loses_any_node(own, three):
    sje = own(split=True, SJE_RABBITMQ_VHOST="/",
              SJE_RABBITMQ_HOST=",".join(f"127.0.0.1:{n.port('rabbitmq')}" for n in three),
              SJE_RABBITMQ_PASSWORD=(three[0].dir / "run/rabbitmq.password").read_text())
    running = sje.submit(shell("sleep 10"))
    sje.running(running)
    load = Load(sje, shell("sleep 0.05"))
    load.goes_on()
    for lost in three:
        os.killpg(lost.pid("rabbitmq"), signal.SIGKILL)
        load.goes_on()
        lost.start("rabbitmq")
        load.goes_on()
    n = len(load.stop()) + 1
    sje.all_succeeded(n)
