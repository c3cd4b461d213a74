"""Attackers that come through the HTTP port, all from 127.0.0.1."""
import json
import select
import socket
import threading
import uuid
from urllib.parse import urlencode

import requests

MIB = 1 << 20
ATTACKERS = {}


def attacker(f):
    ATTACKERS[f.__name__.replace("_", "-")] = f
    return f


def peer(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def status_of(data):
    """Of the first line of an answer."""
    words = data.split(b" ", 2)
    return words[1].decode() if len(words) > 1 and words[0].startswith(b"HTTP/") else "closed"


def raw(attack, data, within=10):
    """Sends those bytes on a connection of its own; counts the status of the answer."""
    try:
        with socket.create_connection(peer(attack.url()), timeout=min(within, attack.left() + 1)) as s:
            try:
                s.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has answered before all was said
            attack.count(status_of(s.recv(4096)))
    except OSError as e:
        attack.count(type(e).__name__)


def ask(attack, method, path, **kw):
    try:
        r = requests.request(method, attack.url() + path, timeout=attack.left() + 5, **kw)
        attack.count(r.status_code)
        return r
    except requests.RequestException as e:
        attack.count(type(e).__name__)
        return None


def many(attack, n, act):
    """act(i) again and again in n threads until the time is over."""
    def work(i):
        while attack.going():
            act(i)
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(attack.left() + 15)


def post_bytes(path, body, headers=b""):
    return (b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n"
            % (path, len(body), headers) + body)


@attacker
def empty_objects(attack):
    """`[{},{},…]` of 16 MiB."""
    body = post_bytes(b"/tasks", b"[" + b"{}," * (16 * MIB // 3 - 2) + b"{}]")
    many(attack, 3, lambda i: raw(attack, body))


@attacker
def six_large(attack):
    """Six valid bodies of 13 MiB at once, for a pool that nobody serves; once."""
    task = json.dumps({"jobType": "Noop", "pool": "nobody", "queueTimeoutSeconds": 1000000,
                       "parameters": {"x": "y" * 1250}})
    body = ("[" + ",".join([task] * 9900) + "]").encode()
    threads = [threading.Thread(target=ask, args=(attack, "POST", "/tasks"), kwargs={"data": body})
               for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


@attacker
def slow_senders(attack):
    """400 connections that say nothing, or a byte now and then."""
    beginnings = (b"", b"P", b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-A: ",
                  b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n[",
                  b"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{")
    open_ones = []
    while attack.going():
        while len(open_ones) < 400 and attack.going():
            s = socket.socket()
            s.settimeout(2)
            try:
                s.connect(peer(attack.url()))
                s.sendall(attack.rng.choice(beginnings))
            except OSError:
                attack.count("refused")
                s.close()
                break
            attack.count("connections")
            open_ones.append(s)
        for s in attack.rng.sample(open_ones, len(open_ones) // 20):
            try:
                s.sendall(b"a")
            except OSError:
                attack.count("cut off")
                open_ones.remove(s)
                s.close()
        select.select([], [], [], 0.05)  # the pace of a slow sender
    for s in open_ones:
        s.close()


@attacker
def heads(attack):
    """Heads and URLs at their limits, and over them."""
    def line(path, headers=b""):
        return b"GET %s HTTP/1.1\r\nHost: localhost\r\n%sConnection: close\r\n\r\n" % (path, headers)
    odd = [line(b"/tasks?jobId=" + b"x" * n) for n in (200, 8000, 31000, 32700, 40000, 200000)]
    odd += [line(b"/health/live", b"X: " + b"y" * n + b"\r\n") for n in (31000, 32768, 40960, 65536, MIB)]
    odd += [line(b"/health/live", b"X-%d: y\r\n" % i * n) for i, n in enumerate((100, 3000, 20000))]
    odd += [line(b"/" + b"../" * 5000), line(b"/task/" + b"%00" * 5000), line(b"/tasks?" + b"a=b&" * 7000),
            b"GET / HTTP/9.9\r\n\r\n", b"\0" * 5000, b"\xff" * 50000, b"GET " + b"a" * MIB,
            b"POST /task HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"]
    many(attack, 6, lambda i: raw(attack, attack.rng.choice(odd), 3))


def deep_bodies():
    task = b'{"jobType":"Noop","pool":"nobody","parameters":{"x":%s}}'
    for depth in (61, 62, 63, 64, 10000, MIB):
        yield task % (b"[" * depth + b"]" * depth)
        yield b'{"a":' * depth
    yield task % (b"1" * MIB)
    yield task % (b'"' + b"\\u0000" * 1000 + b'"')
    yield task % (b'"' + b"\xc3\x28" * 1000 + b'"')
    yield b'{"a":1,' * 500000
    yield b"{" + b",".join(b'"k%d":1' % i for i in range(200000)) + b"}"
    yield b'{"jobType":"Noop","labels":{' + b",".join(b'"%d":"x"' % i for i in range(60000)) + b"}}"
    yield b'["' + b"\\" * (4 * MIB)


@attacker
def deep_json(attack):
    bodies = [post_bytes(path, b) for b in deep_bodies() for path in (b"/task", b"/tasks")]
    many(attack, 4, lambda i: raw(attack, attack.rng.choice(bodies)))


@attacker
def long_polls(attack):
    """200 that wait for tasks that do not end."""
    def wait(i):
        task = attack.known["held"][i % len(attack.known["held"])]
        r = ask(attack, "GET", f"/task/{task}?wait={max(1, int(attack.left()))}")
        if r is not None and r.status_code == 429:
            threading.Event().wait(0.2)  # as told to, if not for so long
    many(attack, 200, wait)


@attacker
def followers(attack):
    """Logs of tasks that do not end, followed; some read nothing of it."""
    open_ones = []
    while attack.going():
        task, url = attack.rng.choice(attack.known["held"]), attack.url()
        s = socket.socket()
        s.settimeout(2)
        try:
            s.connect(peer(url))
            s.sendall(f"GET /task/{task}/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if attack.rng.random() < 0.5:
                attack.count(status_of(s.recv(4096)))
        except OSError as e:
            attack.count(type(e).__name__)
        open_ones.append(s)
        while len(open_ones) > 200:
            open_ones.pop(attack.rng.randrange(200)).close()
    for s in open_ones:
        s.close()


@attacker
def listers(attack):
    """Each filter, alone and together, and cursors that nobody gave."""
    filters = {"state": ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "NONE"),
               "jobType": ("Noop", "Command", "SparkApp", "x" * 200), "jobId": ("abc", "x" * 256, "é"),
               "limit": ("1", "1000", "1001", "-1"), "after": ("x", "0190a5b2-0000-7000-8000-000000000000")}

    def lists(i):
        keys = attack.rng.sample(sorted(filters), attack.rng.randint(0, 3))
        ask(attack, "GET", "/tasks?" + urlencode({k: attack.rng.choice(filters[k]) for k in keys}))
    many(attack, 8, lists)


@attacker
def unread_answers(attack):
    """100 connections that ask for as long a list as there is, or for a large task, and read nothing."""
    large = [{"jobType": "Noop", "pool": "nobody", "parameters": {"x": "y" * 16000}}] * 50
    r = ask(attack, "POST", "/tasks", json=large)
    paths = ["/tasks?limit=1000"] * 3 + ["/mgmt/queues", "/metrics"]
    if r is not None and r.status_code == 202:
        paths.append("/task/" + r.json()["tasks"][0]["taskId"])
    open_ones = []
    while attack.going():
        s = socket.socket()
        s.settimeout(2)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        try:
            s.connect(peer(attack.url()))
            s.sendall(f"GET {attack.rng.choice(paths)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            attack.count("asked")
        except OSError as e:
            attack.count(type(e).__name__)
        open_ones.append(s)
        while len(open_ones) > 100:
            open_ones.pop(attack.rng.randrange(100)).close()
    for s in open_ones:
        s.close()


@attacker
def queue_lookers(attack):
    """What the database is asked for longest, by 50 at a time."""
    def look(i):
        r = ask(attack, "GET", attack.rng.choice(("/mgmt/queues", "/tasks?state=QUEUED&jobType=Nothing")))
        if r is not None and r.status_code == 429:
            threading.Event().wait(0.2)
    many(attack, 50, look)


@attacker
def strangers(attack):
    """Requests of pages of other sites, with large bodies."""
    heads = (b"Origin: http://evil.example\r\n", b"Sec-Fetch-Site: cross-site\r\n", b"Origin: null\r\n",
             b"Origin: http://" + b"e" * 20000 + b"\r\n")
    body = b'{"jobType":"Command","command":["false"],"jobId":"%s"}'
    paths = (b"/task", b"/tasks", b"/internal/beat", b"/mgmt/config", b"/nowhere")

    def refused(i):
        text = body % (b"x" * attack.rng.choice((10, 200, 2 * MIB)))
        raw(attack, post_bytes(attack.rng.choice(paths), text, attack.rng.choice(heads)), 5)
    many(attack, 6, refused)


def beat_of(name, inc=1, n=1, **more):
    """A beat of a worker, as docs/protocol.md has it."""
    return {"v": 1, "type": "beat", "worker": name, "uuid": str(uuid.uuid4()), "inc": inc, "beat": n,
            "host": "nowhere", "pid": 4711, "version": "0.1.0", "reply": f"sje.worker.{name}.000000.{inc}",
            "startedAt": 1700000000000, "heartbeatMs": 5000, "pools": ["nobody"], "jobTypes": ["Noop"],
            "slots": 4, "free": 4, "cpus": 4, "memoryMb": 8192, "draining": False, "stopping": False,
            "claiming": [], "running": [], **more}


@attacker
def http_beats(attack):
    """Invented workers, huge numbers, replays, and 10,000 attempts of nobody."""
    huge = (0, 1, 1 << 31, 1 << 53, (1 << 63) - 1, -1)
    nobody = [{"task": str(uuid.uuid4()), "attempt": 1, "token": "1", "leaseMs": 30000, "phase": "running"}
              for _ in range(5000)]
    real = [w["workerId"] for w in attack.known["workers"]]
    kept = []

    def beat(i):
        kind = attack.rng.randrange(4)
        if kind == 0 or not kept:
            kept.append(beat_of(f"invented{attack.rng.randrange(10000)}"))
        elif kind == 1:
            kept.append(beat_of(attack.rng.choice(real), attack.rng.choice(huge), attack.rng.choice(huge)))
        elif kind == 2 and attack.rng.random() < 0.1:
            kept.append(beat_of(attack.rng.choice(real), running=nobody))
        del kept[:-50]
        ask(attack, "POST", "/internal/beat", json=attack.rng.choice(kept))
    many(attack, 4, beat)
