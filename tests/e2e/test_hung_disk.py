"""A disk that hangs stops no beat, no lease and no stop: only what is on it waits."""
import os
import signal
import subprocess
import sys
import time

import pytest
from test_faults import complete, shell
from test_survivors import another_worker

from sje import until


@pytest.fixture
def disk(tmp_path):
    """A file system that can be frozen: what writes to it waits."""
    image, at = tmp_path / "image", tmp_path / "disk"
    at.mkdir()
    with open(image, "wb") as f:
        f.truncate(128 << 20)
    made = subprocess.run(["sh", "-c", f"mkfs.ext4 -q {image} && mount -o loop {image} {at}"], capture_output=True)
    if made.returncode:
        pytest.skip("nobody may mount a file system here")
    frozen = []

    def freeze(on):
        subprocess.run(["fsfreeze", "--freeze" if on else "--unfreeze", at], check=True)
        frozen[:] = [on]
    freeze.path = at
    yield freeze
    if frozen == [True]:
        freeze(False)
    until(lambda: subprocess.run(["umount", at], capture_output=True).returncode == 0, 20, "it is unmounted")


@pytest.fixture
def hanging(tmp_path):
    """A directory: whoever looks into it waits."""
    at = tmp_path / "hanging"
    at.mkdir()
    fs = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "hangfs.py"), at],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if not fs.stdout.readline():
            pytest.skip("nobody may mount a file system here")
        yield at
    finally:
        fs.kill()  # what waits gets an error
        fs.wait(20)
        subprocess.run(["umount", "--lazy", at], capture_output=True)


def worker_of(sje, node):
    return next(w for w in sje.workers() if w["workerId"] == node)


def test_a_work_directory_that_hangs(disk, own):
    sje = own(split=True, SJE_NODE_DEAD_AFTER_SECONDS="6", SJE_NODE_HEARTBEAT_SECONDS="2")
    another_worker(sje, "node2", SJE_NODE_WORK_DIR=str(disk.path / "work"))
    sje.call("POST", "/mgmt/workers/node1/drain", 200)
    long = sje.submit(shell("sleep 15; echo done"))
    until(lambda: sje.task(long)["state"] == "RUNNING", 20, "it runs")
    assert sje.task(long)["workerId"] == "node2"
    disk(True)
    waiting = [sje.submit(shell("true")) for _ in range(3)]
    reason = until(lambda: [h["reason"] for h in worker_of(sje, "node2")["holdOff"]], 30, "it says why it takes nothing")
    assert "hangs" in reason[0], reason
    # What was granted before that has not begun, and ends when it is told to.
    for task in waiting:
        sje.cancel(task, None)
    assert {sje.end(t, 20)["state"] for t in waiting} == {"CANCELLED"}
    end = time.monotonic() + 8  # more than the lease
    while time.monotonic() < end:
        assert worker_of(sje, "node2")["state"] == "UP"
        time.sleep(0.2)
    assert sje.task(long)["state"] == "RUNNING"
    disk(False)
    assert sje.end(long, 60)["attempt"] == 1
    after = sje.submit(shell("true"))
    assert sje.end(after, 60)["workerId"] == "node2"


def test_a_stop_on_a_disk_that_hangs(disk, own):
    sje = own(split=True)
    server = another_worker(sje, "node2", SJE_NODE_WORK_DIR=str(disk.path / "work"))
    sje.call("POST", "/mgmt/workers/node1/drain", 200)
    sje.run(shell("true"))
    disk(True)
    task = sje.submit(shell("true"))
    until(lambda: sje.task(task)["state"] == "RUNNING", 20, "it was granted")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: worker_of(sje, "node2")["state"] == "STOPPED", 20, "it has said so")
    until(lambda: "ending without it" in server.output.read_text(), 20, "it does not wait for the disk")
    disk(False)  # the kernel lets no process end before
    assert server.process.wait(20) == 0
    sje.call("POST", "/mgmt/workers/node1/resume", 200)
    complete(sje, [task], 60)


def test_a_restart_while_a_task_is_being_started(disk, own):
    """Its shim is not there yet, so a stop waits for it: the next process finds it, and it costs no attempt."""
    sje = own(split=True, SJE_NODE_SLOTS="4", SJE_NODE_WORK_DIR=str(disk.path / "work"))
    sje.run(shell("true"))
    disk(True)
    tasks = [sje.submit(shell("sleep 3; echo done")) for _ in range(4)]
    for task in tasks:
        until(lambda task=task: sje.task(task)["state"] == "RUNNING", 20, "it was granted")
    sje.worker.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in sje.worker.output.read_text(), 10, "it has heard of the stop")
    disk(False)
    assert sje.worker.process.wait(20) == 0
    sje.worker.start()
    assert [(t["state"], t["attempt"]) for t in (sje.end(task, 60) for task in tasks)] == [("SUCCEEDED", 1)] * 4


@pytest.fixture
def home(tmp_path):
    """Of Spark, as it seems. A FIFO that nobody writes is as good as a disk that hangs."""
    home = tmp_path / "spark"
    (home / "conf").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "spark-submit").write_text("#!/bin/sh\n")
    (home / "bin" / "spark-submit").chmod(0o755)
    return home


def test_the_home_of_spark_hangs(own, home):
    """Other tasks start, run and end; what waits for it is cancelled; no more of its kind is taken."""
    sje = own(split=True, SJE_NODE_SLOTS="4", SJE_NODE_SPARK_HOME=str(home))
    long = sje.submit(shell("sleep 6"))
    until(lambda: sje.task(long)["state"] == "RUNNING", 20, "it runs")
    os.mkfifo(home / "conf" / "spark-env.sh")
    apps = [sje.submit({"jobType": "SparkApp", "sparkAppPath": "/no/such.py"}) for _ in range(2)]
    for app in apps:
        until(lambda app=app: sje.task(app)["state"] == "RUNNING", 20, "it was granted")
    assert sje.run(shell("true"))["attempt"] == 1
    for app in apps:
        sje.cancel(app, None)
    assert {sje.end(app, 20)["state"] for app in apps} == {"CANCELLED"}
    assert sje.end(long, 20)["attempt"] == 1
    held = until(lambda: worker_of(sje, "node1")["holdOff"], 30, "it says why it takes none")
    assert [h["type"] for h in held] == ["SparkApp"] and "hangs" in held[0]["reason"], held
    assert sje.run(shell("true"))["attempt"] == 1


def test_a_start_while_the_home_of_spark_hangs(own, home):
    os.mkfifo(home / "conf" / "spark-env.sh")
    sje = own(split=True, SJE_NODE_SPARK_HOME=str(home))
    long = sje.submit(shell("sleep 8"))
    until(lambda: sje.task(long)["state"] == "RUNNING", 20, "it runs")
    sje.worker.terminate()
    sje.worker.start()
    assert sje.end(long, 60)["attempt"] == 1
    assert sje.run({"jobType": "Noop"})["state"] == "SUCCEEDED"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_while_the_home_of_spark_hangs(own, hanging, how):
    """What the kernel keeps of the last process holds its lock, and does nothing any more."""
    sje = own(split=True, SJE_NODE_SPARK_HOME=str(hanging), SJE_NODE_DEAD_AFTER_SECONDS="9", SJE_NODE_HEARTBEAT_SECONDS="3")
    long = sje.submit(shell("sleep 15"))
    sje.running(long)
    until(lambda: worker_of(sje, "node1")["holdOff"], 30, "it hangs")
    old = sje.worker.process
    old.send_signal(how)
    until(lambda: open(f"/proc/{old.pid}/stat").read().rpartition(")")[2].split()[0] == "Z", 20, "it ends")
    assert old.poll() is None, "a thread of it waits in the kernel"
    sje.worker.start()
    ended = sje.end(long, 60)
    assert (ended["state"], ended["attempt"]) == ("SUCCEEDED", 1), ended
    assert sje.run(shell("true"))["attempt"] == 1


def test_a_start_while_the_plug_ins_hang(own, hanging, tmp_path):
    """The worker has tasks to take back, and does not wait."""
    link, real = tmp_path / "plugins", tmp_path / "real"
    real.mkdir()
    link.symlink_to(real)
    sje = own(split=True, SJE_NODE_PLUGIN_DIR=str(link))
    long = sje.submit(shell("sleep 8"))
    until(lambda: sje.task(long)["state"] == "RUNNING", 20, "it runs")
    sje.worker.terminate()
    link.unlink()
    link.symlink_to(hanging / "plugins")
    sje.worker.start()
    assert sje.end(long, 60)["attempt"] == 1
    assert sje.run(shell("true"))["state"] == "SUCCEEDED"


@pytest.fixture
def small(tmp_path):
    """40 MB that a test can fill."""
    at = tmp_path / "small"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", at], capture_output=True).returncode:
        pytest.skip("nobody may mount a file system here")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


def fill(path):
    with open(path, "wb", buffering=0) as f:
        try:
            while f.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_a_full_disk_costs_no_result(small, own):
    """The end of what a task says is kept; what is lost is told, with the result and in the error."""
    work = small / "work"
    sje = own(SJE_NODE_WORK_DIR=str(work))
    go = sje.dir / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done; "
    says = sje.submit(shell(wait + "echo total=4711"))
    much = sje.submit(shell(wait + "seq 1 5000; echo end"))
    fails = sje.submit(shell(wait + "echo why >&2; exit 3"))
    for task in (says, much, fails):
        sje.running(task)
    until(lambda: len(list(work.rglob("std*.tail"))) == 6, 10, "each stream has its reserve")
    fill(small / "filler")
    go.write_text("")
    t = sje.end(says)
    assert (t["state"], t["output"]) == ("SUCCEEDED", "total=4711\n")
    t = sje.end(much)
    assert t["state"] == "SUCCEEDED" and t["output"].endswith("\n5000\nend\n")
    warning = sje.events(much)[-1]["detail"]["warning"]
    assert warning.endswith(" bytes of stdout were not kept: No space left on device, on node node1"), warning
    t = sje.end(fails)
    assert t["state"] == "FAILED" and t["error"]["message"] == (
        f"why; its node node1 had no space left below {work}/tasks"), t["error"]
