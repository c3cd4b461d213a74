"""Processes that nobody can look at. Every worker of this machine meets them, so this runs by itself."""
import os
import subprocess
import sys
from pathlib import Path

from test_faults import shell
from test_hung_disk import disk, worker_of  # noqa: F401

from sje import kill, processes_with, until

STUCK = """
import mmap, os, sys, threading, time
path, go, name = sys.argv[1:4]
with open(path, "r+b") as f:
    memory = mmap.mmap(f.fileno(), 4096)
with open("/proc/self/comm", "w") as f:
    f.write(name)
print(os.getpid(), flush=True)
while not os.path.exists(go):
    time.sleep(0.05)
zeros = os.open("/dev/zero", os.O_RDONLY)
writer = threading.Thread(target=os.readv, args=(zeros, [memory]), daemon=True)
writer.start()
while open(f"/proc/self/task/{writer.native_id}/stat").read().split(") ")[1][0] != "D":
    time.sleep(0.01)
os.fork()
time.sleep(600)
"""


class Stuck:
    """A task whose command line and environment cannot be read, nor those of its process: one thread writes
    to memory that is a file, on a disk that hangs, and another forks."""

    def __init__(self, sje, disk, name="stuck"):
        self.disk, self.go = disk, sje.dir / "go"
        data = disk.path / "data"
        data.write_bytes(bytes(4096))
        command = [sys.executable, "-c", STUCK, str(data), str(self.go), name]
        self.id = sje.submit({"jobType": "Command", "command": command})
        self.pid = int(until(lambda: sje.log(self.id).text, 20, "it runs"))

    def cannot_be_read(self):
        try:
            subprocess.run(["cat", f"/proc/{self.pid}/cmdline"], capture_output=True, timeout=0.5)
        except subprocess.TimeoutExpired:
            return True
        return False

    def __enter__(self):
        os.sync()
        self.disk(True)
        self.go.touch()
        try:
            until(self.cannot_be_read, 10, "nobody can look at it")
        except BaseException:
            self.disk(False)
            raise

    def __exit__(self, *_):
        self.disk(False)


def shims_of(task_id):
    return [p for p in processes_with(f"{task_id}.1")
            if b"sje-shim" in Path(f"/proc/{p}/cmdline").read_bytes().partition(b"\0")[0]]


PACE = {"SJE_NODE_DEAD_AFTER_SECONDS": "6", "SJE_NODE_HEARTBEAT_SECONDS": "2"}


def starts(server):
    return server.output.read_text().count(" starts: ")


def test_a_process_that_cannot_be_looked_at(disk, own):
    """What was there before a task is none of its processes, and no shim unless it is called so."""
    sje = own(split=True, **PACE)
    stuck = Stuck(sje, disk)
    innocent, killed = sje.submit(shell("sleep 12")), sje.submit(shell("sleep 60"))
    sje.running(innocent)
    sje.running(killed)
    shims = shims_of(killed)
    with stuck:
        for pid in shims:
            kill(pid)
        until(lambda: "lost" in sje.story(killed), 5, "what is left of it was looked for")
        sje.worker.kill()
        sje.worker.start()
        until(lambda: starts(sje.worker) == 2, 5, "the next worker process starts")
        assert sje.end(innocent, 30)["attempt"] == 1
    sje.cancel(stuck.id, None)
    sje.cancel(killed, None)


def test_a_search_that_hangs_is_told(disk, own):
    """It goes on soon after that."""
    sje = own(split=True, **PACE)
    killed = sje.submit(shell("sleep 60"))
    sje.running(killed)
    shims = shims_of(killed)
    stuck = Stuck(sje, disk)
    with stuck:
        for pid in shims:
            kill(pid)
        held = until(lambda: worker_of(sje, "node1")["holdOff"], 30, "it says why it takes nothing")
        assert "a look at the processes of this machine does not end" in held[0]["reason"], held
        assert "lost" not in sje.story(killed)
    until(lambda: "lost" in sje.story(killed), 13, "it was looked for again")
    sje.cancel(stuck.id, None)
    sje.cancel(killed, None)


def test_a_start_beside_a_seeming_shim_that_hangs(disk, own):
    """Whose it is cannot be told: another worker, but soon."""
    sje = own(split=True, SJE_NODE_DEAD_AFTER_SECONDS="12", SJE_NODE_HEARTBEAT_SECONDS="2")  # its lease outlasts that
    stuck = Stuck(sje, disk, "sje-shim")
    with stuck:
        sje.worker.kill()
        sje.worker.start()
        until(lambda: starts(sje.worker) == 2, 8, "it starts")
        assert "does not count: a shim may run" in sje.worker.output.read_text()
        until(lambda: worker_of(sje, "node1")["state"] == "UP", 20, "it is the one of its name")
        assert sje.run(shell("true"))["attempt"] == 1
    sje.cancel(stuck.id, None)
