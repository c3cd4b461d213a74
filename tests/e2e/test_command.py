"""Commands: how a process is started, watched, bounded and ended."""
import time

import pytest

from sje import processes_with, until


def command(*argv, **more):
    return {"jobType": "Command", "command": list(argv), **more}


def shell(script, **more):
    return command("sh", "-c", script, **more)


def test_what_a_command_gets(sje, tmp_path):
    task_id = sje.submit(shell('cat; echo "$A|$SJE_TASK_ID|$SJE_ATTEMPT|$SJE_JOB_ID|$PWD" >&2',
                               env={"A": "b c"}, cwd=str(tmp_path), stdin="line 1\nline ü\n", jobId="j 1"))
    t = sje.end(task_id)
    assert (t["state"], t["jobId"]) == ("SUCCEEDED", "j 1"), t
    assert sje.log(task_id).text == "line 1\nline ü\n"
    assert sje.log(task_id, "stderr").text == f"b c|{task_id}|1|j 1|{tmp_path}\n"
    assert "line 1" in str(t["output"])


def test_no_shell_is_involved(sje):
    task_id = sje.submit(command("printf", "%s.", "*", "$HOME", "a b", ";ls", ""))
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    assert sje.log(task_id).text == "*.$HOME.a b.;ls.."


def test_output_file_is_the_output(sje):
    t = sje.run(shell('echo noise; echo "{\\"a\\":[1,null]}" > "$SJE_OUTPUT"'))
    assert t["output"] == {"a": [1, None]}, t


@pytest.mark.parametrize("content", ["not json", '{"a":1', '"' + "x" * 70000 + '"'])
def test_a_bad_output_file_does_no_harm(sje, tmp_path, content):
    source = tmp_path / "content"
    source.write_text(content)
    t = sje.run(shell(f'cp "{source}" "$SJE_OUTPUT"'))
    assert t["state"] in ("SUCCEEDED", "FAILED"), t
    assert len(str(t["output"])) <= 66000


def test_exit_status(sje):
    t = sje.run(shell("echo to whom it may concern >&2; exit 3"))
    assert (t["state"], t["code"]) == ("FAILED", 500), t
    assert (t["error"]["kind"], t["error"]["exitCode"], t["error"]["signal"]) == ("exit", 3, None)
    assert t["error"]["message"] == "to whom it may concern"


def test_signal(sje):
    t = sje.run(shell("kill -SEGV $$"))
    assert t["state"] == "FAILED", t
    assert (t["error"]["kind"], t["error"]["exitCode"], t["error"]["signal"]) == ("killed", None, 11)


@pytest.mark.parametrize("program", ["/nowhere/program", "no-such-program-here", "TEXT", "/"])
def test_a_program_that_cannot_be_started(sje, program, tmp_path):
    if program == "TEXT":
        program = str(tmp_path / "text")
        (tmp_path / "text").write_text("not to be run")
    t = sje.run(command(program))
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "launch"), t
    assert program in t["error"]["message"]


def test_a_working_directory_that_is_missing(sje):
    t = sje.run(command("true", cwd="/nowhere/at/all"))
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "launch"), t
    assert "/nowhere/at/all" in t["error"]["message"]


def test_children_do_not_outlive_it(sje):
    task_id = sje.submit(shell("setsid sleep 1000 & sleep 1000 & (trap '' TERM HUP; sleep 1000) & exit 0"))
    assert sje.end(task_id, 20)["state"] == "SUCCEEDED"
    until(lambda: not processes_with(task_id), 10, "no process is left")


def test_cancel_reaches_children_that_ignore_it(sje):
    task_id = sje.submit(shell("trap '' TERM; setsid sh -c \"trap '' TERM; sleep 1000\" & sleep 1000; wait"))
    sje.running(task_id)
    until(lambda: len(processes_with(task_id)) >= 3, 10, "its children run")
    before = time.monotonic()
    sje.cancel(task_id, 202)
    t = sje.end(task_id, 20)
    assert (t["state"], t["code"]) == ("CANCELLED", 410), t
    assert time.monotonic() - before >= 1.5, "killed before the grace was over"
    until(lambda: not processes_with(task_id), 10, "no process is left")


# Saves what it has three seconds after TERM; with Spark below it, where that is said.
SAVES = """
import signal, sys, time
def stop(number, frame):
    time.sleep(3)
    open(sys.argv[1], "a").write("saved\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
if len(sys.argv) > 2:
    from pyspark.sql import SparkSession
    SparkSession.builder.getOrCreate()
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def has_its_grace(sje, task, saved, seconds=20):
    """A process of the task that is not the main one is given the time that it needs, and no more."""
    task_id = sje.submit(task)
    until(lambda: "ready" in sje.log(task_id).text, 240, "its child is ready")
    before = time.monotonic()
    if "timeoutSeconds" not in task:
        sje.cancel(task_id, 202)
    t = sje.end(task_id, seconds)
    assert saved.read_text() == "saved\n", "TERM once, and no KILL"
    assert "timeoutSeconds" in task or 2.5 < time.monotonic() - before < 9, "neither before nor after that"
    until(lambda: not processes_with(task_id), 10, "no process is left")
    return t


def test_cancel_gives_the_grace_to_children(own, tmp_path):
    sje = own(SJE_NODE_KILL_GRACE_SECONDS="10")
    (tmp_path / "saves.py").write_text(SAVES)
    child = f"python3 {tmp_path}/saves.py {tmp_path}/saved"
    for i, script in enumerate([f"{child}.0; echo after", f"setsid {child}.1 & exec sleep 1000"]):
        t = has_its_grace(sje, command("bash", "-c", script), tmp_path / f"saved.{i}")
        assert (t["state"], t["code"]) == ("CANCELLED", 410), t
    t = has_its_grace(sje, command("bash", "-c", f"{child}.2; echo after", timeoutSeconds=3), tmp_path / "saved.2")
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "timeout"), t


def test_run_timeout(sje):
    task_id = sje.submit(command("sleep", "1000", timeoutSeconds=1))
    t = sje.end(task_id, 20)
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "timeout"), t
    until(lambda: not processes_with(task_id), 10, "no process is left")


def test_retries(sje, tmp_path):
    counter = tmp_path / "counter"
    task_id = sje.submit(shell(f'echo . >> {counter}; [ "$SJE_ATTEMPT" = 3 ] || exit 9',
                               maxAttempts=5, retryBackoffSeconds=1))
    t = sje.end(task_id, 60)
    assert (t["state"], t["attempt"], t["maxAttempts"]) == ("SUCCEEDED", 3, 5), t
    assert counter.read_text() == ".\n" * 3
    assert [e["attempt"] for e in sje.events(task_id) if e["event"] == "granted"] == [1, 2, 3]
    assert sje.story(task_id).count("retry") == 2


def test_attempts_are_used_up(sje):
    t = sje.run(shell("exit 4", maxAttempts=2, retryBackoffSeconds=0), 30)
    assert (t["state"], t["attempt"], t["error"]["exitCode"]) == ("FAILED", 2, 4), t


def test_a_gigabyte_of_output(own):
    sje = own(SJE_NODE_LOG_LIMIT_MB="8")
    task_id = sje.submit(shell("echo begin; head -c 1073741824 /dev/zero | tr '\\0' '\\n'; echo end"))
    most, t = 0, sje.task(task_id)
    while t["state"] not in ("SUCCEEDED", "FAILED"):
        used = sum(f.stat().st_size for f in sje.work.glob("tasks/*/std*") if f.exists())
        most = max(most, used)
        t = sje.get(f"/task/{task_id}?wait=1").json()
    assert t["state"] == "SUCCEEDED", t
    assert 0 < most <= 12 << 20, f"{most} bytes on disk"
    size = 1073741824 + len("begin\nend\n")
    first = sje.log(task_id, limit=6)
    assert first.text == "begin\n" and int(first.headers["X-Log-Size"]) == size
    assert sje.log(task_id, offset=size - 5).text == "\nend\n"
    assert sje.run(command("true"))["state"] == "SUCCEEDED", "the worker is unharmed"


def test_binary_output_comes_back_as_it_is(sje):
    task_id = sje.submit(command("python3", "-c", "import os; os.write(1, bytes(range(256)) * 8)"))
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    assert sje.log(task_id).content == bytes(range(256)) * 8


def test_descriptors_and_environment_of_the_server_stay_out(sje):
    task_id = sje.submit(shell("ls /proc/self/fd | wc -l; env"))
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    text = sje.log(task_id).text
    assert int(text.split()[0]) <= 4, text
    for name in ("SJE_DB_PASSWORD", "SJE_RABBITMQ_PASSWORD"):
        assert name not in text and sje.settings[name] not in text


def test_what_the_server_sets_for_itself_stays_out(own):
    """Whether its shim was there before it or not."""
    sje = own(split=True, wrap=("prlimit", "--nofile=500:"), SJE_NODE_SLOTS="4")
    tasks = [sje.submit(shell("env | grep ^UV_; ulimit -Sn")) for _ in range(4)]
    for task in tasks:
        assert sje.end(task)["state"] == "SUCCEEDED"
        assert sje.log(task).text == "500\n"
