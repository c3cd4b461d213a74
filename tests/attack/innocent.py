"""The innocent client: every 50 ms a Noop is posted and an earlier one looked at, from an address of its own.

Beside each pair it asks a server that does nothing: how long that takes says what the machine does
to everybody. It writes one line a pair: time, seconds of the pair, seconds of the nothing, id or error.
A second one posts a Noop twice a second and waits for its end (`?wait=`).
"""
import itertools
import json
import multiprocessing
import socket
import time
from collections import namedtuple

import requests

from target import INNOCENT, session

PERIOD = 0.05
WAITS_PERIOD = 0.5
Pair = namedtuple("Pair", "at took nothing task error")


def echo(listener):
    """Answers each byte with itself, in a thread of its own process."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(64):
            connection.sendall(data)


class Innocent:
    def __init__(self, urls, path):
        self.urls, self.path, self.waits_path = urls, path, path.with_suffix(".waits")
        context = multiprocessing.get_context("fork")
        self.end = context.Event()
        listener = socket.create_server((INNOCENT, 0))
        self.port = listener.getsockname()[1]
        self.echo = context.Process(target=echo, args=(listener,), daemon=True)
        self.client = context.Process(target=self.run, daemon=True)
        self.waiter = context.Process(target=self.wait, daemon=True)
        self.echo.start()
        self.client.start()
        self.waiter.start()
        listener.close()

    def nothing(self, connection):
        begun = time.monotonic()
        connection.sendall(b"x")
        connection.recv(1)
        return time.monotonic() - begun

    def pair(self, http, url, last):
        begun = time.monotonic()
        r = http.post(url + "/task", json={"jobType": "Noop"}, timeout=60)
        r.raise_for_status()
        task = r.json()["taskId"]
        http.get(f"{url}/task/{last or task}", timeout=60).raise_for_status()
        return time.monotonic() - begun, task

    def run(self):
        peer = socket.create_connection((INNOCENT, self.port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due, last, http = time.monotonic(), None, session()
        with open(self.path, "w") as out:
            for url in itertools.cycle(self.urls):
                if self.end.wait(max(0, due - time.monotonic())):
                    return
                at = due
                due = max(due + PERIOD, time.monotonic())
                nothing, took, task, error = self.nothing(peer), None, None, None
                begun = time.monotonic()
                try:
                    took, task = self.pair(http, url, last)
                    last = task
                except requests.RequestException as e:
                    error, took = str(e)[:300], time.monotonic() - begun
                out.write(json.dumps(Pair(at, took, nothing, task, error)) + "\n")
                out.flush()

    def wait(self):
        http = session()
        with open(self.waits_path, "w") as out:
            for url in itertools.cycle(self.urls):
                if self.end.wait(WAITS_PERIOD):
                    return
                at, task, error = time.monotonic(), None, None
                try:
                    r = http.post(url + "/task", json={"jobType": "Noop"}, timeout=60)
                    r.raise_for_status()
                    task = r.json()["taskId"]
                    http.get(f"{url}/task/{task}?wait=20", timeout=60).raise_for_status()
                except requests.RequestException as e:
                    error = str(e)[:300]
                out.write(json.dumps(Pair(at, time.monotonic() - at, None, task, error)) + "\n")
                out.flush()

    def read(self, path):
        if not path.exists():
            return []
        with open(path) as f:
            return [Pair(*json.loads(line)) for line in f if line.endswith("\n")]

    def pairs(self):
        return self.read(self.path)

    def waits(self):
        return self.read(self.waits_path)

    def stop(self):
        self.end.set()
        self.client.join(90)
        self.waiter.join(90)
        self.echo.kill()
        return self.pairs()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
