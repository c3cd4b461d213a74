"""What a client sends costs no more memory and time than the server is made for."""
import json
import re
import signal
import socket
import threading
from pathlib import Path

import pika
import pytest
import requests

from sje import until

MIB = 1 << 20
LIMIT_MIB = 128


def peak_mib(sje):
    text = Path(f"/proc/{sje.manager.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def post(sje, body, out=None):
    r = requests.post(sje.url + "/tasks", data=body, timeout=120)
    if out is not None:
        out.append(r)
    return r


def gauge(sje, name):
    return float(re.search(rf"^sje_{name} (\S+)", sje.get("/metrics").text, re.M)[1])


def longest_turn(sje):
    """By the processor time of the loop: others have the machine too."""
    return gauge(sje, "loop_longest_turn_cpu_seconds")


@pytest.fixture
def manager(own):
    return own(worker=False, SJE_MONITORING_LOG_LEVEL="warn")


def test_a_body_of_very_many_values(manager):
    before = peak_mib(manager)
    body = b"[" + b"{}," * (16 * MIB // 3 - 2) + b"{}]"
    r = post(manager, body)
    assert r.status_code == 413 and "more than 10000" in r.json()["detail"]
    for bad in (b'[{"jobType":"Noop","parameters":{"a":[' + b"0," * (7 * MIB) + b"0]}}]", b'{"tasks":' + b"[" * (15 * MIB),
                b'[{"jobType":"Noop","parameters":{"a":"' + b"x" * (15 * MIB) + b'"}}]',
                b'{"x":[' + b"0," * (7 * MIB) + b'0],"tasks":[]}', b'[{"jobType":"Noop"}' + b" " * (15 * MIB)):
        assert post(manager, bad).status_code in (400, 413, 422)
    assert manager.call("PATCH", "/mgmt/config", data=b"[" + b"0," * (7 * MIB) + b"0]").status_code == 413
    assert peak_mib(manager) < before + 48
    assert longest_turn(manager) < 0.5  # it was 1.3 s; `make attack` asks for 50 ms


def test_many_large_bodies_at_once(manager):
    """They are all right; what is too much is told to come again."""
    task = json.dumps({"jobType": "Noop", "parameters": {"x": "y" * 1300}})
    body = ("[" + ",".join([task] * 9900) + "]").encode()
    answers = []
    clients = [threading.Thread(target=post, args=(manager, body, answers)) for _ in range(6)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    assert {r.status_code for r in answers} <= {202, 429, 503} and 202 in {r.status_code for r in answers}
    accepted = sum(r.json()["accepted"] for r in answers if r.status_code == 202)
    assert all("Retry-After" in r.headers for r in answers if r.status_code != 202)
    with manager.database() as db, db.cursor() as c:
        c.execute("SELECT count(*) FROM task")
        assert c.fetchone()[0] == accepted
    assert peak_mib(manager) < LIMIT_MIB
    assert longest_turn(manager) < 0.5  # it was 2.5 s


def test_a_large_body_keeps_its_order_and_its_key(manager):
    tasks = [{"jobType": "Noop", "jobId": f"j{i}", "parameters": {"x": "é" * 300}} for i in range(1000)]
    body = json.dumps({"tasks": tasks}, indent=1)
    headers = {"Idempotency-Key": "large"}
    first = manager.call("POST", "/tasks", 202, data=body, headers=headers).json()
    assert [t["jobId"] for t in first["tasks"]] == [t["jobId"] for t in tasks]
    again = manager.call("POST", "/tasks", 202, data=body, headers=headers).json()
    assert again == first
    tasks[700]["priority"] = 77
    r = manager.call("POST", "/tasks", 422, data=json.dumps(tasks)).json()
    assert r["errors"][0]["field"] == "tasks[700].priority"
    broken = json.dumps(tasks[:600]).removesuffix("]") + ', {"jobType": }]'
    assert "tasks[600]" in manager.call("POST", "/tasks", 400, data=broken).json()["detail"]


def test_a_client_that_leaves_while_its_body_is_read(manager):
    task = json.dumps({"jobType": "Noop", "parameters": {"x": "y" * 1300}})
    body = ("[" + ",".join([task] * 9900) + "]").encode()
    host, port = manager.url.removeprefix("http://").split(":")
    head = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (head + body[:5 << 20], head + body[:-1], head + body, head + body):
        with socket.create_connection((host, int(port)), timeout=20) as s:
            s.sendall(sent)
    assert manager.submit({"jobType": "Noop"})
    until(lambda: gauge(manager, "http_requests_open") == 1, what="nothing is open but this question")
    assert manager.manager.terminate() == 0
    manager.manager.start()
    manager.ready()


def test_a_task_of_very_many_members(manager):
    """Each member costs a microsecond: they are counted before one of them is built. Without: 0.25 s."""
    before = longest_turn(manager)
    body = b'{"jobType":"Noop","parameters":{' + b",".join(b'"k%d":1' % i for i in range(200000)) + b"}}"
    for path in ("/task", "/tasks"):
        r = manager.call("POST", path, 422, data=body if path == "/task" else b"[" + body + b"]")
        assert "more than" in r.json()["detail"]
    assert longest_turn(manager) < max(0.1, 2 * before)


def test_a_flood_of_large_messages(manager):
    """A turn of the loop takes some of them, not all that have come. Together they cost some 0.5 s."""
    parameters = pika.ConnectionParameters(
        "127.0.0.1", manager.services.port("rabbitmq"), manager.settings["SJE_RABBITMQ_VHOST"],
        pika.PlainCredentials(manager.settings["SJE_RABBITMQ_USERNAME"], manager.settings["SJE_RABBITMQ_PASSWORD"]))
    message = json.dumps({"v": 1, "type": "beat", "worker": ["x"] * 11000})
    connection = pika.BlockingConnection(parameters)
    channel, before = connection.channel(), longest_turn(manager)
    manager.manager.process.send_signal(signal.SIGSTOP)  # so that they come all at once
    for _ in range(300):
        channel.basic_publish("sje.beat", "", message)
    connection.close()
    manager.manager.process.send_signal(signal.SIGCONT)
    until(lambda: manager.manager.output.read_text().count("message without a good") >= 300, what="all are dropped")
    assert longest_turn(manager) < max(0.1, 2 * before)



def test_invented_names_of_pools(own):
    """A thousand are paused at a time; what was released long ago is forgotten."""
    sje = own()
    with sje.database() as db, db.cursor() as c:
        c.execute("INSERT INTO pool (name, paused, changed_at) "
                  "SELECT 'x' || n, n <= 1000, now() - interval '2 days' FROM generate_series(1, 5000) n")
    r = sje.call("POST", "/mgmt/queues/onemore/pause", 409)
    assert "1000 paused pools" in r.json()["detail"]
    sje.call("POST", "/mgmt/queues/x7/pause", 200)  # it is one of them
    sje.call("POST", "/mgmt/queues/x7/resume", 200)
    sje.call("POST", "/mgmt/queues/onemore/pause", 200)
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT paused, count(*) FROM pool GROUP BY 1 ORDER BY 1")
        assert c.fetchall() == [(False, 1), (True, 1000)]
    assert sje.run({"jobType": "Noop"})["state"] == "SUCCEEDED"
