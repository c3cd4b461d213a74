"""The command-line client, as a person or a script uses it."""
import json
import re
import subprocess
import sys

import pytest

from sje import BIN, ROOT, free_port, processes_with, until


def task_file(tmp_path, **task):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    return str(path)


def command(tmp_path, *argv, **more):
    return task_file(tmp_path, jobType="Command", command=list(argv), **more)


@pytest.fixture
def word_count(tmp_path):
    """The example, without the pauses that let a person watch it."""
    task = json.loads((ROOT / "examples/tasks/wordcount.json").read_text())
    task["parameters"].update(parts=6, pace=0.2)
    return task_file(tmp_path, **task)


def test_submit_wait_shows_a_word_count(sje, cli, word_count):
    done = cli("submit", "--wait", word_count)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "SUCCEEDED" in shown and re.search(r"\d+/\d+", shown), shown


def test_submit_wait_draws_a_bar_on_a_terminal(sje, word_count):
    """Under a pseudo-terminal, as a person would see it."""
    program = ("import pty, sys, os\n"
               f"os.environ['SJE_URL'] = {sje.url!r}\n"
               "os.environ['TERM'] = 'xterm'\n"
               f"status = pty.spawn([{str(BIN / 'sje')!r}, 'submit', '--wait', "
               f"{word_count!r}])\n"
               "sys.exit(os.waitstatus_to_exitcode(status))\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=180)
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    assert "\r" in shown and len(set(re.findall(r"\d+/\d+", shown))) >= 2, shown


def test_exit_statuses(sje, cli, tmp_path):
    assert cli("submit", "--wait", command(tmp_path, "true")).returncode == 0
    assert cli("submit", "--wait", command(tmp_path, "false")).returncode == 1
    assert cli("submit", command(tmp_path, "true")).returncode == 0
    assert cli("submit", "/nowhere/task.json").returncode == 2
    assert cli("submit", task_file(tmp_path, jobType="Nonsense")).returncode == 2
    assert cli("nonsense").returncode == 2
    assert cli().returncode in (0, 2)
    assert cli("status", "0190a5a0-0000-7000-8000-000000000000").returncode == 2
    assert cli("health").returncode == 0
    away = cli("health", url=f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 3 and "\n" not in away.stderr.strip()


def test_standard_input(sje, cli):
    done = cli("submit", "-q", "-", input='{"jobType": "Noop", "jobId": "piped"}')
    assert done.returncode == 0, done.stderr
    assert sje.end(done.stdout.strip())["jobId"] == "piped"


def test_wait_status_log_events_result(sje, cli, tmp_path):
    task_id = cli("submit", "-q", command(tmp_path, "sh", "-c", "echo seen; echo err >&2")).stdout.strip()
    assert cli("wait", task_id).returncode == 0
    assert cli("log", task_id).stdout == "seen\n"
    assert cli("log", "--stderr", task_id).stdout == "err\n"
    assert cli("log", "-f", task_id).stdout == "seen\n"
    assert json.loads(cli("status", "--json", task_id).stdout)["state"] == "SUCCEEDED"
    assert "SUCCEEDED" in cli("status", task_id).stdout
    assert "granted" in cli("events", task_id).stdout
    assert json.loads(cli("events", "--json", task_id).stdout)["events"][0]["event"] == "accepted"
    assert task_id in cli("list").stdout
    assert "node1" in cli("workers").stdout
    assert "default" in cli("queues").stdout


def test_cancel(sje, cli, tmp_path):
    task_id = cli("submit", "-q", "examples/tasks/long.json").stdout.strip()
    until(lambda: (sje.task(task_id)["progress"] or {}).get("done", 0) > 0, 90, "progress")
    assert cli("cancel", task_id).returncode == 0
    assert cli("wait", task_id).returncode == 1
    assert sje.task(task_id)["state"] == "CANCELLED"
    until(lambda: not processes_with(task_id), 10, "no process is left")
    assert cli("cancel", task_id).returncode == 2


def test_settings(sje, cli):
    def losses():
        return sje.get("/mgmt/config").json()["managerConfig"]["maxLosses"]

    before = losses()
    try:
        done = cli("set", "managerConfig.maxLosses=7")
        assert done.returncode == 0 and "managerConfig.maxLosses is 7" in done.stderr, done
        assert losses() == 7
        for word, said in (("managerConfig.maxLosses=0", "managerConfig.maxLosses: "),
                           ("managerConfig.maxLosses=many", "managerConfig.maxLosses: "),
                           ("apiConfig.port=1", "restart"), ("managerConfig.nonsense=1", "nonsense")):
            done = cli("set", word)
            assert done.returncode == 2 and said in done.stderr, done
    finally:
        done = cli("reset", "managerConfig.maxLosses")
    assert done.returncode == 0 and losses() == before


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["submit", "--help"], ["--version"],
                                       ["completion", "bash"]])
def test_help(cli, arguments):
    done = cli(*arguments)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_the_examples_are_accepted(sje, cli):
    for path in sorted((ROOT / "examples/tasks").glob("*.json")):
        done = cli("submit", "--json", str(path))
        assert done.returncode == 0, (path, done.stderr)
        answer = json.loads(done.stdout)
        for task in answer.get("tasks", [answer]):
            sje.cancel(task["taskId"], None)
            sje.end(task["taskId"], 90)
