"""The life of the server process: readiness, reload, ordered stop, also with everything away."""
import os
import signal
import socket
import subprocess
import threading

import pytest

from sje import BIN, SLOW, Client, free_port, until


class Process:
    """One sje-executor with a file of its own, and a socket on which it reports as to systemd."""

    def __init__(self, tmp_path, services, config="", **settings):
        self.file, self.output = tmp_path / "c.yaml", tmp_path / "output"
        self.file.write_text(config)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(tmp_path / "n"))
        self.reports = []
        threading.Thread(target=self.listen, daemon=True).start()
        port = free_port()
        self.api = Client(f"http://127.0.0.1:{port}")
        env = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
        env.update({**services.tenant(), "NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "500000",
                    "SJE_API_PORT": str(port), "SJE_NODE_WORK_DIR": str(tmp_path / "work"), **settings})
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen([BIN / "sje-executor", "--config", self.file], env=env,
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def listen(self):
        while report := self.notify.recv(200):
            self.reports.append(report.decode())

    def told(self, *words):
        """These reports come, in this order, behind those that were waited for before."""
        for word in words:
            until(lambda: word in self.reports, 30, word)
            del self.reports[:self.reports.index(word) + 1]

    def says(self, text, within=20):
        until(lambda: text in self.output.read_text(), within, text)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.told("STOPPING=1")
        return self.process.wait(30 * SLOW)

    def settings(self):
        return self.api.get("/mgmt/config").json()


@pytest.fixture
def server(tmp_path, services):
    made = []

    def make(*arguments, **settings):
        made.append(Process(tmp_path, services, *arguments, **settings))
        return made[-1]
    yield make
    for s in made:
        s.process.kill()
        s.process.wait()
        s.notify.shutdown(socket.SHUT_RD)


def test_the_service_manager_is_told(server):
    s = server()
    s.told("READY=1", "WATCHDOG=1", "WATCHDOG=1")
    assert s.stop() == 0


def test_reload(server):
    s = server("executorNodeConfig: {slots: 3}\n")
    s.told("READY=1")
    assert s.settings()["executorNodeConfig"]["slots"] == 3
    s.file.write_text("executorNodeConfig: {slots: 7, pools: [x]}\n")
    s.process.send_signal(signal.SIGHUP)
    s.told("RELOADING=1", "READY=1")
    s.says("needs a restart: executorNodeConfig.pools")
    node = s.settings()["executorNodeConfig"]
    assert (node["slots"], node["pools"]) == (7, ["default"])
    until(lambda: [w["slots"] for w in s.api.get("/mgmt/workers").json()["workers"]] == [7], 20,
          "the worker offers 7 slots")
    s.file.write_text("executorNodeConfig: {slots: many}\n")
    s.process.send_signal(signal.SIGHUP)
    s.told("RELOADING=1", "READY=1")
    s.says("c.yaml:1: executorNodeConfig.slots: is not an integer")
    assert s.settings()["executorNodeConfig"]["slots"] == 7
    assert s.stop() == 0


def test_everything_away(server):
    s = server(SJE_DB_PORT="1", SJE_RABBITMQ_PORT="1")
    s.told("READY=1")
    until(lambda: s.api.call("GET", "/health").status_code == 500, 10, "it says so")
    s.api.post("/task", {"jobType": "Noop"}, expect=503)
    assert s.stop() == 0


def test_an_interrupt_stops_the_tasks_too(server, tmp_path):
    s = server(SJE_NODE_KILL_GRACE_SECONDS="1")
    s.told("READY=1")
    until(lambda: s.api.call("GET", "/health").status_code == 200, 20, "health")
    task = s.api.submit({"jobType": "Command", "command": ["sh", "-c", f"touch {tmp_path}/up; sleep 60"]})
    until(lambda: (tmp_path / "up").exists(), 30, "the task runs")
    assert s.stop(signal.SIGINT) == 0
    s.says(f"task={task} attempt=1")
    command = f"sh -c touch {tmp_path}/up"
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert command not in listing


def test_a_log_that_nobody_reads_holds_nothing_up(tmp_path, server):
    os.mkfifo(tmp_path / "output")
    pipe = os.open(tmp_path / "output", os.O_RDWR)  # of 64 KiB
    try:
        s = server(SJE_MONITORING_LOG_LEVEL="debug")
        s.told("READY=1")
        for _ in range(2000):  # a line of some 80 bytes each
            assert s.api.get("/mgmt/status", timeout=5)
        assert s.stop() == 0
    finally:
        os.close(pipe)
