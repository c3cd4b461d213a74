"""Tasks that run as another user than the worker: what they are, what they cannot reach, and that they
are watched, stopped, taken back and cleared away like any others."""
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from test_bad_node import held_off, types

from sje import BIN, ROOT, Cluster, kill, processes_with, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker as it likes")

USER = pwd.getpwnam("nobody")
WORKER = "daemon"  # where the worker is not root
NEEDED = "+chown,+kill,+setgid,+setuid"
AS_WORKER = ["setpriv", f"--reuid={WORKER}", f"--regid={WORKER}", "--clear-groups"]
START = 120
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")  # that of the tests may be root's


def shell(script, **more):
    return {"jobType": "Command", "command": ["sh", "-c", script], **more}


def python(script, *arguments, **more):
    return {"jobType": "Command", "command": ["python3", "-c", script, *arguments], **more}


@pytest.fixture(scope="module")
def open_dir():
    """A directory that every user can get to, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="sje-task-user-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def make_cluster(directory, services, spark, wrap, **settings):
    """Manager and worker by that command, with directories of the worker's own."""
    directory.mkdir()
    secret = directory / "password"
    secret.write_text(services.env["SJE_RABBITMQ_PASSWORD"])
    secret.chmod(0o600)
    for path in [directory, secret] if wrap else []:
        os.chown(path, pwd.getpwnam(WORKER).pw_uid, -1)
    return Cluster(directory, services, spark, split=True, wrap=wrap, SJE_RABBITMQ_PASSWORD=None,
                   SJE_RABBITMQ_PASSWORD_FILE=str(secret), **settings)


@pytest.fixture(scope="module", params=["root", "capabilities"])
def other(request, open_dir, services, spark):
    """A cluster whose tasks run as USER; its worker is root, or nobody special with a few rights."""
    rights = [*AS_WORKER, f"--inh-caps={NEEDED}", f"--ambient-caps={NEEDED}"]
    c = make_cluster(open_dir / request.param, services, spark, [] if request.param == "root" else rights,
                     SJE_NODE_TASK_USER=USER.pw_name, SJE_NODE_SPARK_PYTHON=PYTHON)
    yield c
    c.close()


def test_who_it_is(other):
    task_id = other.submit(shell(
        "id -u; id -ru; id -g; id -G; echo $USER $LOGNAME; cd && pwd; stat -c %u $SJE_WORK_DIR; cat /dev/stdin; "
        "grep -E '^(Cap|NoNew)' /proc/self/status; echo said >/dev/stderr; "
        "cat /proc/self/oom_score_adj; touch $SJE_WORK_DIR/mine", stdin="given\n"))
    t = other.end(task_id)
    assert t["state"] == "SUCCEEDED", (t, other.log(task_id, "stderr").text)
    uid, real, gid, groups, names, home, owner, given, *status, oom = other.log(task_id).text.splitlines()
    assert (uid, real, gid, owner) == (str(USER.pw_uid), str(USER.pw_uid), str(USER.pw_gid), str(USER.pw_uid))
    assert {int(g) for g in groups.split()} == set(os.getgrouplist(USER.pw_name, USER.pw_gid))
    assert names == f"{USER.pw_name} {USER.pw_name}" and given == "given" and oom == "500"
    assert home == (USER.pw_dir if Path(USER.pw_dir).is_dir() else str(task_dir(other, task_id) / "work"))
    fields = dict(line.split() for line in status)
    rights = {value for name, value in fields.items() if name.startswith("Cap") and name != "CapBnd:"}
    assert rights == {"0" * 16} and len(fields) == 6, fields
    assert fields["NoNewPrivs:"] == "1"
    assert other.log(task_id, "stderr").text == "said\n"


def task_dir(sje, task_id, attempt=1):
    return sje.work / "tasks" / f"{task_id}.{attempt}"


# Tries what must not work; says of each how it was refused.
TRIES = """
import errno, json, os, signal, socket, sys
worker, other = int(sys.argv[1]), sys.argv[2]
out = os.environ["SJE_OUTPUT"]
mine = os.path.dirname(os.environ["SJE_WORK_DIR"])
def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
guardian = os.getppid()
keeper = parent(guardian)
assert parent(keeper) == worker, (keeper, worker)
def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)
tries = {}
def refused(name, call, *arguments):
    try:
        call(*arguments)
        tries[name] = "done"
    except OSError as e:
        tries[name] = errno.errorcode[e.errno]
for who, pid in {"worker": worker, "keeper": keeper, "guardian": guardian}.items():
    for file in ("environ", "mem", "maps"):
        refused(f"{file} of {who}", open, f"/proc/{pid}/{file}", "rb")
    refused(f"descriptors of {who}", os.listdir, f"/proc/{pid}/fd")
    for s in (0, signal.SIGTERM, signal.SIGKILL):
        refused(f"signal {s} to {who}", os.kill, pid, s)
for dir in (mine, other):
    for file in ("exit.json", "grant.json", "plan", "done", "exit.json.tmp", "stdin"):
        refused(f"write {dir}/{file}", open, f"{dir}/{file}", "wb")
    for file in ("grant.json", "plan"):
        refused(f"read {dir}/{file}", open, f"{dir}/{file}", "rb")
    refused(f"list {dir}", os.listdir, dir)
    refused(f"connect {dir}", connect, f"{dir}/sock")
    refused(f"remove {dir}/grant.json", os.unlink, f"{dir}/grant.json")
    refused(f"replace {dir}/work", os.rename, f"{dir}/work", f"{dir}/else")
tasks = os.path.dirname(mine)
refused("list tasks", os.listdir, tasks)
refused("attempt", os.mkdir, f"{tasks}/new")
refused("password", open, f"{tasks}/../../password", "rb")
refused("identity", open, f"{tasks}/../identity", "rb")
refused("lock", open, f"{tasks}/../lock", "rb")
refused("root", os.setuid, 0)
refused("nice", os.nice, -5)
json.dump(tries, open(out, "w"))
"""


def test_what_it_cannot_reach(other):
    neighbour = other.submit(shell("exec sleep 60", stdin="x"))
    other.running(neighbour)
    until((task_dir(other, neighbour) / "sock").exists, 10, "its shim listens")
    t = other.run(python(TRIES, str(other.worker.process.pid), str(task_dir(other, neighbour)), stdin="x"))
    assert t["state"] == "SUCCEEDED", (t, other.log(t["taskId"], "stderr").text)
    done = {k: v for k, v in t["output"].items() if v not in ("EACCES", "EPERM")}
    assert not done and len(t["output"]) > 50, done
    assert other.task(neighbour)["state"] == "RUNNING"
    other.cancel(neighbour)
    assert other.end(neighbour)["state"] == "CANCELLED"


HOSTILE = [
    "mkfifo $SJE_OUTPUT",
    "ln -s /etc/shadow $SJE_OUTPUT",
    "ln -s /dev/zero $SJE_OUTPUT",
    "mkdir $SJE_OUTPUT",
    "truncate -s 1T $SJE_OUTPUT",
    "echo '\"x\"' >$SJE_OUTPUT; chmod 0 $SJE_OUTPUT",
    "echo '\"x\"' >$SJE_OUTPUT; chmod 0 ${SJE_OUTPUT%/*}",
]


def test_hostile_outputs(other):
    # So long that what they leave is synced too.
    ids = {other.submit(shell(f"{script}; sleep 1.1; echo end")): script for script in HOSTILE}
    for task_id, script in ids.items():
        t = other.end(task_id, 20)
        assert (t["state"], list(t["output"])) == ("SUCCEEDED", ["warning"]), (script, t)
        assert "SJE_OUTPUT" in t["output"]["warning"] and "power failure" not in json.dumps(t), (script, t)


TREE = "trap '' TERM; (trap '' TERM; setsid sleep 300) & setsid nohup sleep 300 & sleep 300; sleep 300"


def of_user(token):
    """Living processes with that token which are USER's."""
    return [p for p in processes_with(token) if os.stat(f"/proc/{p}").st_uid == USER.pw_uid]


def test_a_tree_ends_with_its_task(other):
    task_id = other.submit(shell(TREE))
    other.running(task_id)
    until(lambda: len(of_user(task_id)) >= 4, 10, "all of it runs")
    other.cancel(task_id)
    assert other.end(task_id)["state"] == "CANCELLED"
    assert of_user(task_id) == []


def test_a_tree_ends_with_its_shim(other):
    task_id = other.submit(shell(TREE, maxAttempts=1))
    other.running(task_id)
    until(lambda: len(of_user(task_id)) >= 4, 10, "all of it runs")
    until(lambda: os.path.lexists(task_dir(other, task_id) / "started"), 10, "it is written down")
    first = of_user(task_id)
    for pid in set(processes_with(str(task_dir(other, task_id)))) - set(first):
        kill(pid)  # both halves of it
    until(lambda: not set(first) & set(of_user(task_id)), 20, "what its shim has left is killed")
    other.cancel(task_id)
    assert other.end(task_id)["state"] == "CANCELLED"


def test_a_restart_of_the_worker(other):
    task_id = other.submit(shell("sleep 4; echo '{\"n\":7}' >$SJE_OUTPUT; echo logged"))
    other.running(task_id)
    other.worker.terminate()
    other.worker.start()
    t = other.end(task_id)
    assert (t["state"], t["attempt"], t["output"]) == ("SUCCEEDED", 1, {"n": 7}), t
    assert other.log(task_id).text == "logged\n"


def test_a_program_that_only_the_worker_may_run(other, open_dir):
    script = open_dir / "secret"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o700)
    t = other.run({"jobType": "Command", "command": [str(script)]})
    assert t["state"] == "FAILED" and "Permission denied, as user nobody" in t["error"]["message"], t


@pytest.mark.parametrize("other", ["root"], indirect=True)
def test_word_count(other):
    task = json.loads((ROOT / "examples/tasks/wordcount.json").read_text())
    task_id = other.submit({**task, "parameters": {"parts": 1, "pace": 0},
                            "conf": {"spark.driver.memory": "512m"}})
    t = other.end(task_id, START)
    assert t["state"] == "SUCCEEDED", (t, other.log(task_id, "stderr").text[-2000:])
    assert t["output"]["words"] > 70000 and t["applicationId"].startswith("local-"), t
    assert (task_dir(other, task_id) / "out/spark.progress").stat().st_uid == USER.pw_uid


def test_a_java_that_only_the_worker_may_run(open_dir, services, spark):
    """It is no Java for the tasks: held off with the user's name, and nothing is charged."""
    private = open_dir / "private"
    private.mkdir()
    (private / "jdk").symlink_to(Path(shutil.which("java")).resolve().parent.parent)
    sje = make_cluster(open_dir / "java", services, spark, [], SJE_NODE_TASK_USER=USER.pw_name,
                       SJE_NODE_SPARK_PYTHON=PYTHON, JAVA_HOME=str(private / "jdk"))
    try:
        until(lambda: "SparkApp" in types(sje, "node1"), 20, "anybody may run it")
        private.chmod(0o700)
        ids = [sje.submit({"jobType": "SparkApp", "sparkAppPath": "/no/app.py", "maxAttempts": 1}) for _ in range(5)]
        until(lambda: held_off(sje, "node1", "SparkApp") ==
              f"{USER.pw_name} cannot run {private}/jdk/bin/java: Permission denied", 20, "it says why")
        assert {sje.task(i)["state"] for i in ids} <= {"QUEUED", "READY", "WAITING"}, [sje.task(i) for i in ids]
        assert sje.run(shell("true"))["state"] == "SUCCEEDED"
        private.chmod(0o755)
        until(lambda: "SparkApp" in types(sje, "node1"), 60, "it is well again")
        for task_id in ids:
            assert sje.end(task_id, START)["error"]["message"].endswith("No such file or directory")
    finally:
        sje.close()


# ---- without a task user ----

def test_the_worker_keeps_its_memory_from_its_own_user(open_dir, services, spark):
    sje = make_cluster(open_dir / "own", services, spark, AS_WORKER)
    try:
        t = sje.run(python(
            "import json, os, sys\n"
            "def parent(pid):\n"
            "    return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
            "said = {}\n"
            "for pid in (int(sys.argv[1]), os.getppid(), parent(os.getppid())):\n"
            "    for file in ('environ', 'mem'):\n"
            "        try:\n"
            "            said[f'{pid} {file}'] = len(open(f'/proc/{pid}/{file}', 'rb').read(1))\n"
            "        except PermissionError:\n"
            "            pass\n"
            "json.dump([said, open('/proc/self/oom_score_adj').read()], open(os.environ['SJE_OUTPUT'], 'w'))",
            str(sje.worker.process.pid)))
        assert (t["state"], t["output"]) == ("SUCCEEDED", [{}, "500\n"]), t
    finally:
        sje.close()


# ---- what is refused at the start ----

@pytest.mark.parametrize(("wrap", "user", "why"), [
    (AS_WORKER, USER.pw_name, "needs a worker with CAP_CHOWN"),
    ([], "no-such-user", 'no user "no-such-user"'),
    ([], "root", '"root" is root'),
])
def test_what_cannot_be_is_refused(open_dir, services, wrap, user, why):
    directory = Path(tempfile.mkdtemp(dir=open_dir))
    directory.chmod(0o777)
    done = subprocess.run([*wrap, BIN / "sje-executor", "--role", "worker"], capture_output=True, text=True,
                          cwd=open_dir, timeout=120, check=False,
                          env={**services.tenant(), "SJE_NODE_TASK_USER": user, "PATH": os.environ["PATH"],
                               "SJE_NODE_WORK_DIR": str(directory / "work")})
    assert done.returncode == 2 and why in done.stderr, done.stderr


def test_a_work_directory_that_it_cannot_get_to(open_dir, services):
    closed = open_dir / "closed"
    closed.mkdir(mode=0o700)
    done = subprocess.run([BIN / "sje-executor", "--role", "worker"], capture_output=True, text=True,
                          cwd=open_dir, timeout=120, check=False,
                          env={**services.tenant(), "SJE_NODE_TASK_USER": USER.pw_name,
                               "PATH": os.environ["PATH"], "SJE_NODE_WORK_DIR": str(closed / "work")})
    assert done.returncode == 2 and "chmod o+x" in done.stderr, done.stderr
