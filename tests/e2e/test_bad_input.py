"""Whatever a client sends: an answer that says what is wrong, nothing queued, others served."""
import json
import socket
import threading
import time

import pytest

from sje import until

NOOP = {"jobType": "Noop"}


@pytest.fixture
def nothing_queued(sje):
    """The test may not leave a task behind. Those of the tests before it have ended by then."""
    def ask(sql):
        with sje.database() as db, db.cursor() as c:
            c.execute(sql)
            return c.fetchone()

    def count():
        return ask("SELECT (SELECT count(*) FROM task), (SELECT count(*) FROM event)")

    until(lambda: ask("SELECT count(*) FROM task WHERE finished_at IS NULL") == (0,), what="earlier tasks end")
    before = count()
    yield
    assert count() == before


def problem(r, *statuses):
    assert r.status_code in statuses, f"{r.status_code} {r.text[:500]}"
    assert r.headers["Content-Type"].startswith("application/problem+json")
    body = r.json()
    assert body["status"] == r.status_code and body["title"] and body["type"]
    return body


def send(sje, text, path="/task", **headers):
    return sje.call("POST", path, data=text if isinstance(text, bytes) else text.encode(),
                    headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize("text", [
    "", "{", "nonsense", '{"jobType": "Noop"', '{"jobType": "Noop"} x', "{'jobType': 'Noop'}",
    '{"jobType": "Noop", "jobType": "Noop"}', '{"jobType": NaN}', '{"jobType": "Noop",}',
    b'{"jobType": "Noop", "jobId": "\xff\xfe"}', b'{"jobType": "Noop", "jobId": "a\x00b"}',
    b'{"jobType": "Noop", "jobId": "\xed\xa0\x80"}', b"\x00", b"\xef\xbb\xbf{}",
    r'{"jobType": "Noop", "jobId": "a\u0000b"}', r'{"jobType": "Noop", "jobId": "\ud800"}',
    '{"jobType": "Noop", "labels": ' + '{"a":' * 10000 + "1" + "}" * 10000 + "}",
    "[" * 10000 + "]" * 10000, '{"jobType": "Noop", "priority": 1' + "0" * 400 + "}",
    '{"jobType": "Noop", "priority": 9223372036854775808}',
])
@pytest.mark.parametrize("path", ["/task", "/tasks"])
def test_broken_json(sje, nothing_queued, text, path):
    problem(send(sje, text, path), 400, 422)


@pytest.mark.parametrize("body, field", [
    ({}, "jobType"), ({"jobId": "x"}, "jobType"), ({"jobType": ""}, "jobType"),
    ({"jobType": None}, "jobType"), ({"jobType": 7}, "jobType"), ({"jobType": "Nonsense"}, "jobType"),
    ({**NOOP, "prioritty": 1}, "prioritty"), ({**NOOP, "Priority": 1}, "Priority"),
    ({**NOOP, "priority": "5"}, "priority"), ({**NOOP, "priority": 10}, "priority"),
    ({**NOOP, "priority": -1}, "priority"), ({**NOOP, "priority": 1.5}, "priority"),
    ({**NOOP, "priority": True}, "priority"),
    ({**NOOP, "jobId": "x" * 257}, "jobId"), ({**NOOP, "jobId": ["x"]}, "jobId"),
    ({**NOOP, "maxAttempts": 0}, "maxAttempts"), ({**NOOP, "delaySeconds": -1}, "delaySeconds"),
    ({**NOOP, "timeoutSeconds": "1h"}, "timeoutSeconds"),
    ({**NOOP, "labels": ["a"]}, "labels"), ({**NOOP, "labels": {"a": {"b": "c"}}}, "labels"),
    ({**NOOP, "pool": "No Such Name!"}, "pool"), ({**NOOP, "pool": ""}, "pool"),
    ({**NOOP, "resources": {"slots": 0}}, "resources.slots"),
    ({**NOOP, "resources": {"gpus": 1}}, "resources.gpus"), ({**NOOP, "resources": 3}, "resources"),
    ({"jobType": "SparkApp"}, "sparkAppPath"),
    ({"jobType": "SparkApp", "sparkAppPath": "a.txt"}, "sparkAppPath"),
    ({"jobType": "SparkApp", "sparkAppPath": "a.py", "parameters": [1]}, "parameters"),
    ({"jobType": "SparkApp", "sparkAppPath": "a.py", "dependencies": "b.py"}, "dependencies"),
    ({"jobType": "SparkApp", "sparkAppPath": "a.py", "args": [1]}, "args"),
    ({"jobType": "SparkApp", "sparkAppPath": "a.py", "command": ["x"]}, "command"),
    ({"jobType": "Command"}, "command"), ({"jobType": "Command", "command": []}, "command"),
    ({"jobType": "Command", "command": "ls -l"}, "command"),
    ({"jobType": "Command", "command": ["ls"], "sparkAppPath": "a.py"}, "sparkAppPath"),
    ({"jobType": "Command", "command": ["ls"], "env": {"A=B": "c"}}, "env"),
])
def test_broken_rules(sje, nothing_queued, body, field):
    p = problem(send(sje, json.dumps(body)), 422)
    fields = [e["field"] for e in p["errors"]]
    assert any(f == field or f.startswith(field) for f in fields), p
    assert all(e["message"] for e in p["errors"])
    p = problem(send(sje, json.dumps([NOOP, NOOP, body, NOOP]), "/tasks"), 422)
    assert all(e["field"].startswith("tasks[2].") for e in p["errors"]), p


def test_an_unknown_type_is_told_the_known_ones(sje, nothing_queued):
    p = problem(send(sje, '{"jobType": "Sparkap"}'), 422)
    assert all(name in str(p) for name in ("SparkApp", "Command", "Noop"))


@pytest.mark.parametrize("text", ["null", "true", "1", '"x"', "[]", "[1]", '[["x"]]', "{}",
                                  '{"tasks": 1}', '{"tasks": []}', '{"tasks": [{}], "x": 1}'])
@pytest.mark.parametrize("path", ["/task", "/tasks"])
def test_wrong_shape(sje, nothing_queued, path, text):
    problem(send(sje, text, path), 400, 422)


def test_too_many_tasks(sje, nothing_queued):
    problem(send(sje, json.dumps([NOOP] * 10001), "/tasks"), 413, 422)


def test_body_over_the_limit(sje, nothing_queued):
    problem(send(sje, b" " * (17 << 20)), 413)


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/nothing", 404), ("GET", "/task", 405), ("PUT", "/tasks", 405),
    ("POST", "/health", 405), ("GET", "/task/1/2/3", 404), ("PATCH", "/task/x", 405),
    ("GET", "/task/not-a-uuid", 404), ("GET", "/task/0190a5a0-0000-7000-8000-000000000000", 404),
    ("GET", "/task/0190a5a0-0000-7000-8000-000000000000/result", 404),
    ("GET", "/task/0190a5a0-0000-7000-8000-000000000000/log", 404),
    ("GET", "/task/0190a5a0-0000-7000-8000-000000000000/events", 404),
    ("GET", "/task/%00", 400), ("GET", "/task/%ff%fe", 400), ("GET", "/../../etc/passwd", 404),
    ("GET", "/mgmt/workers/%2e%2e%2f", 404),
])
def test_paths_and_methods(sje, method, path, status):
    r = sje.call(method, path)
    problem(r, status)
    assert (status == 405) == ("Allow" in r.headers)


def test_a_trailing_slash_is_tolerated(sje):
    task_id = sje.post("/task/", NOOP).json()["taskId"]
    sje.end(task_id)
    sje.get(f"/task/{task_id}/")
    sje.get("/health/")


@pytest.mark.parametrize("query", ["offset=1.5", "offset=x", "limit=-1", "limit=0", "stream=stdall",
                                   "follow=maybe", "unknown=1"])
def test_log_parameters(sje, query):
    task_id = sje.submit(NOOP)
    problem(sje.get(f"/task/{task_id}/log?{query}", None), 422)


def raw(sje, data, within=60):
    """Sends bytes as they are; all that comes back until the server closes or goes silent."""
    host, port = sje.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=within) as s:
        got = b""
        try:
            s.sendall(data)
            while part := s.recv(65536):
                got += part
                if b"\r\n\r\n" in got:
                    break
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass
        return got


def test_endless_headers(sje):
    for data in (b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n",
                 b"GET /health HTTP/1.1\r\nX-A: " + b"b" * 1_000_000 + b"\r\n\r\n",
                 b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n"):
        answer = raw(sje, data)
        assert not answer or answer.split()[1] in (b"431", b"414", b"400"), answer[:100]
    sje.get("/health")


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 1000,
    b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])
def test_what_is_no_http(sje, nothing_queued, data):
    answer = raw(sje, data, within=2)
    assert not answer or answer.split()[1].startswith(b"4"), answer[:100]
    sje.get("/health")


def test_slow_clients_hold_nobody_up(own):
    sje = own(SJE_API_TIMEOUT_SECONDS="3")
    host, port = sje.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    ended = []

    def drip(s):
        try:
            s.sendall(b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
            s.settimeout(30)
            while s.recv(4096):
                pass
        except OSError:
            pass
        ended.append(s)

    threads = [threading.Thread(target=drip, args=(s,)) for s in slow]
    for t in threads:
        t.start()
    before = time.monotonic()
    assert sje.run(NOOP)["state"] == "SUCCEEDED"
    assert time.monotonic() - before < 5
    until(lambda: len(ended) == len(slow), 20, "the slow ones are closed")
    for t in threads:
        t.join()
