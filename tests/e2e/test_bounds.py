"""What a client sends costs no more memory and time than the server is made for."""
import json
import re
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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
    assert again == {**first, "replayed": True}
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


def pages(sje, query):
    """Of a list, page by page."""
    after = ""
    while after is not None:
        page = sje.get(f"/tasks?{query}{after}").json()
        yield page["tasks"]
        after = page["next"] and f"&after={page['next']}"


def submit_all(sje, n, task):
    """Ids of so many, the newest first."""
    ids = []
    for _ in range(n // 50):
        ids += [t["taskId"] for t in sje.call("POST", "/tasks", 202, json=[task] * 50).json()["tasks"]]
    return sorted(ids, reverse=True)


def test_a_list_of_large_tasks(manager):
    """It was 84 MiB more for one page, and 324 ms of one turn."""
    ids = submit_all(manager, 500, {"jobType": "Noop", "pool": "nobody", "parameters": {"x": "y" * 16000}})
    ids += submit_all(manager, 400, {"jobType": "Command", "command": ["true"], "pool": "nobody",
                                     "env": {f"k{i}": "y" for i in range(1000)}})
    before, turn = peak_mib(manager), longest_turn(manager)
    seen, most = [], 0
    for page in pages(manager, "limit=1000"):
        seen += [t["taskId"] for t in page]
        most = max(most, len(page))
    assert seen == sorted(ids, reverse=True) and 20 < most < 200
    assert peak_mib(manager) < before + 30
    assert longest_turn(manager) < max(0.1, 2 * turn)


def unread(sje, path, n):
    """Connections that ask and read nothing."""
    host, port = sje.url.removeprefix("http://").split(":")
    for _ in range(n):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect((host, int(port)))
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield s


def test_answers_that_nobody_reads(manager):
    """100 lists of half a MiB; with 16 MiB each, 20 took 400 MiB. Others are served."""
    ids = submit_all(manager, 100, {"jobType": "Noop", "pool": "nobody", "parameters": {"x": "y" * 16000}})
    held = list(unread(manager, "/tasks?limit=100", 100))
    until(lambda: gauge(manager, "http_requests_open") == 1, what="all were answered")
    assert requests.get(manager.url + "/tasks?limit=100").status_code == 429
    assert manager.task(ids[0])["state"] == "QUEUED"
    assert manager.submit({"jobType": "Noop"})
    assert peak_mib(manager) < LIMIT_MIB
    for s in held:
        s.close()
    until(lambda: requests.get(manager.url + "/tasks?limit=100").status_code == 200, what="there is room again")


def ask_all(pool, sje, path, n):
    return [pool.submit(requests.get, sje.url + path, timeout=60) for _ in range(n)]


def test_long_questions_do_not_keep_out_short_ones(manager):
    """One statement answers all who look at the queues; of lists each client has a few."""
    task = manager.submit({"jobType": "Noop", "pool": "nobody"})
    with manager.database() as db, db.cursor() as c, ThreadPoolExecutor(40) as pool:
        c.execute("LOCK TABLE pool IN ACCESS EXCLUSIVE MODE")
        asked = ask_all(pool, manager, "/mgmt/queues", 40)
        until(lambda: gauge(manager, "http_requests_open") == 41, what="all have asked")
        assert requests.get(f"{manager.url}/task/{task}", timeout=3).status_code == 200
        c.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%from pool where paused%'"
                  " AND pid <> pg_backend_pid()")
        assert c.fetchone()[0] == 1
        db.rollback()
        assert {f.result().status_code for f in asked} == {200}
        c.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        asked = ask_all(pool, manager, "/tasks", 12)
        until(lambda: sum(f.done() for f in asked) == 4, what="those over the share are refused")
        db.rollback()
        assert Counter(f.result().status_code for f in asked) == {200: 8, 429: 4}


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
