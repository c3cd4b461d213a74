"""Managers and workers as two users of the broker, with the rights that `sje-executor --broker-setup` names."""
import os
import shlex
import signal
import subprocess

import pika
import pytest

from sje import BIN, Server, until

PASSWORD = "of-no-use-elsewhere"


def commands(**env):
    """The lines, as words."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
    done = subprocess.run([BIN / "sje-executor", "--broker-setup"], env={**clean, **env}, cwd="/", text=True,
                          capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout
    return [shlex.split(line, comments=True) for line in done.stdout.splitlines()]


@pytest.fixture
def split(own):
    """A manager and a worker, each as a user of its own."""
    sje = own(worker=False)
    sje.manager.terminate()
    vhost = sje.settings["SJE_RABBITMQ_VHOST"]
    lines = commands(SJE_RABBITMQ_VHOST=vhost, SJE_RABBITMQ_PASSWORD=PASSWORD)
    assert [line[1] for line in lines] == ["add_vhost", "add_user", "set_permissions", "add_user", "set_permissions"]
    users = {"sje-manager": f"m-{vhost}", "sje-worker": f"w-{vhost}"}
    for program, command, *rest in lines[1:]:
        rest = [users.get(word, word) for word in rest]
        sje.services.ctl(command, *rest, *([PASSWORD] if command == "add_user" else []))
    for role, user in zip(("manager", "worker"), users.values()):
        settings = {**sje.settings, "SJE_RABBITMQ_USERNAME": user, "SJE_RABBITMQ_PASSWORD": PASSWORD,
                    **({"SJE_NODE_MANAGER_URL": sje.url} if role == "worker" else {})}
        if role == "manager":
            sje.manager.env.update(settings)
            sje.manager.start()
        else:
            sje.worker = Server(sje.dir / role, settings, role)
            sje.servers.append(sje.worker)
    sje.has_worker, sje.users = True, users
    sje.ready()
    return sje


def lives(sje):
    """A task, its log, and a cancel."""
    task = sje.submit({"jobType": "Command", "command": ["sh", "-c", "echo hello; exec cat"], "stdin": "more"})
    assert sje.end(task)["state"] == "SUCCEEDED"
    assert sje.log(task).text == "hello\nmore"
    fifo = sje.dir / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)
    task = sje.submit({"jobType": "Command", "command": ["cat", str(fifo)]})
    sje.running(task)
    sje.cancel(task)
    assert sje.end(task)["state"] == "CANCELLED"


def test_both_do_all_their_work(split):
    lives(split)
    assert split.worker.terminate() == 0
    split.worker.start()
    split.ready()
    lives(split)
    assert split.manager.terminate() == 0
    split.manager.start()
    split.ready()
    lives(split)
    split.worker.process.send_signal(signal.SIGKILL)
    split.worker.process.wait()
    split.worker.start()
    until(lambda: sum(w["state"] == "UP" for w in split.workers()) == 1, 60, "the worker is UP again")
    lives(split)
    for server in split.servers:
        assert "ACCESS_REFUSED" not in server.output.read_text()


def refused(sje, user, act):
    """The broker does not let that user do it."""
    parameters = pika.ConnectionParameters("127.0.0.1", sje.services.port("rabbitmq"), sje.settings["SJE_RABBITMQ_VHOST"],
                                           pika.PlainCredentials(sje.users[user], PASSWORD))
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as why:
            act(channel)
        assert why.value.reply_code == 403, why.value
    finally:
        connection.close()


def test_neither_may_do_what_is_the_others(split):
    names = split.services.ctl("list_queues", "-p", split.settings["SJE_RABBITMQ_VHOST"], "--quiet",
                               "--no-table-headers", "name").split()
    manager = next(n for n in names if n.startswith("sje.manager."))
    for queue in ("sje.result", manager):
        refused(split, "sje-worker", lambda c, q=queue: c.basic_get(q))
        refused(split, "sje-worker", lambda c, q=queue: c.queue_purge(q))
    refused(split, "sje-worker", lambda c: c.basic_publish("sje.ctl", "", b"{}"))
    refused(split, "sje-worker", lambda c: c.queue_bind("sje.worker.x", "sje.beat"))
    refused(split, "sje-worker", lambda c: c.queue_delete(manager))
    refused(split, "sje-worker", lambda c: c.exchange_delete("sje.ctl"))
    refused(split, "sje-worker", lambda c: c.queue_declare("other"))
    refused(split, "sje-manager", lambda c: c.basic_get("sje.work.default.normal"))
    refused(split, "sje-manager", lambda c: c.queue_declare("sje.worker.x", exclusive=True))
    refused(split, "sje-manager", lambda c: c.basic_publish("sje.beat", "", b"{}"))
    refused(split, "sje-manager", lambda c: c.queue_declare("other"))


def test_names_are_quoted():
    lines = commands(SJE_RABBITMQ_VHOST="it's")
    assert lines[0] == ["rabbitmqctl", "add_vhost", "it's"] and lines[2][2:4] == ["-p", "it's"]
    assert [line[1] for line in commands(SJE_RABBITMQ_VHOST="/")] == ["add_user", "set_permissions"] * 2
