"""The client against a manager of straw: canned answers, faults, a terminal. No service is needed."""

import contextlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from fcntl import ioctl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SJE = str(pathlib.Path(os.environ.get("SJE_BIN", ROOT / "build/release/bin")) / "sje")
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
ID2 = "01890a5d-ac96-774b-bcce-b302099a8058"
OK, TASK, USAGE, REACH, PENDING = 0, 1, 2, 3, 4


def view(state="RUNNING", **more):
    code = {"SUCCEEDED": 200, "FAILED": 500, "CANCELLED": 410}.get(state)
    began = None if state == "QUEUED" else "2026-01-02T03:04:06.000Z"
    ended = "2026-01-02T03:04:08.500Z" if code else None
    return {
        "taskId": ID, "jobId": "wordcount", "jobType": "SparkApp", "state": state, "code": code,
        "priority": 5, "pool": "default", "attempt": 1, "maxAttempts": 3,
        "submittedAt": "2026-01-02T03:04:05.000Z", "startedAt": began, "finishedAt": ended,
        "workerId": "node1" if began else None, "applicationId": None, "progress": None,
        "output": None, "error": None, "labels": {"team": "risk"}, "spec": {"jobType": "SparkApp", "maxAttempts": 3},
    } | more


ACCEPTED = {"taskId": ID, "jobId": "wordcount", "state": "QUEUED", "href": f"/task/{ID}"}
TASKFILE = {"jobType": "Noop", "jobId": "wordcount"}


def problem(status, title, detail=None, errors=()):
    body = {"type": "about:blank", "title": title, "status": status, "errors": list(errors)}
    return status, body | ({"detail": detail} if detail else {}), {}


class Straw:
    """A server that answers (method, path) from a list; the last answer stays. An answer is a body,
    (status, body, headers), or a function of the handler that returns one of these or None."""

    def __init__(self, port=0):
        self.answers, self.requests = {}, []
        straw = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                url = urlsplit(self.path)
                self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
                self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                straw.requests.append((self.command, self.path, dict(self.headers), self.sent))
                answers = straw.answers.get((self.command, url.path)) or [problem(404, "not found")]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer):
                    answer = answer(self)
                if answer is None:
                    self.close_connection = True
                    return
                status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
                if not isinstance(body, (bytes, str)):
                    body = json.dumps(body)
                body = body.encode() if isinstance(body, str) else body
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_PATCH = do

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def on(self, method, path, *answers):
        self.answers[(method, path)] = list(answers)
        return self

    def asked(self, method, path):
        return [r for r in self.requests if r[0] == method and urlsplit(r[1]).path == path]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def straw():
    server = Straw()
    yield server
    server.stop()


def environment(straw=None, **more):
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "xterm"}
    return env | ({"SJE_URL": straw.url} if straw else {}) | more


def sje(*args, straw=None, stdin="", env=None, timeout=30):
    done = subprocess.run([SJE, *args], input=stdin.encode(), capture_output=True, timeout=timeout,
                          env=environment(straw, **(env or {})), check=False)
    done.out, done.err = done.stdout.decode(errors="replace"), done.stderr.decode()
    assert "Sanitizer" not in done.err, done.err
    return done


class Terminal:
    """sje on a terminal of its own."""

    def __init__(self, *args, straw=None, columns=80, env=None):
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        self.process = subprocess.Popen([SJE, *args], stdin=slave, stdout=slave, stderr=slave,
                                        env=environment(straw, **(env or {})),
                                        start_new_session=True)
        os.close(slave)
        self.master, self.data = master, b""

    def read(self, until=None, timeout=20):
        end = time.monotonic() + timeout
        while until is None or until.encode() not in self.data:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"nothing came; so far: {self.data!r}"
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                piece = b""
            if not piece:
                break
            self.data += piece
        return self.data.decode()

    def close(self):
        text = self.read()
        code = self.process.wait(20)
        os.close(self.master)
        return code, text.replace("\r\n", "\n")


@pytest.fixture
def taskfile(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(TASKFILE))
    return str(path)


# ---- help, usage ----

def commands():
    listed = re.search(r"Commands:\n(.*?)\n\n", sje("help").out, re.S)[1]
    return [line.split()[0] for line in listed.splitlines()]


def test_help_everywhere():
    assert sje("--help").out == sje("help").out
    assert len(commands()) >= 20
    for command in commands():
        one = sje("help", command)
        assert (one.returncode, one.err) == (OK, "")
        assert f"Usage: sje {command}" in one.out
        if command != "help":
            assert sje(command, "--help").out == one.out == sje("-h", command).out
    assert max(len(line) for line in sje("help", "submit").out.splitlines()) <= 88


def test_no_command_is_usage():
    done = sje()
    assert (done.returncode, done.out) == (USAGE, "") and "Commands:" in done.err


@pytest.mark.parametrize("args, hint", [
    (["sumbit", "x"], "did you mean: sje submit"),
    (["logs", ID], "did you mean: sje log"),
    (["sub"], "did you mean: sje submit"),
    (["help", "lst"], "did you mean: sje help list"),
    (["submit", "--wiat", "x"], "did you mean --wait"),
    (["submit"], "FILE|- is missing"),
    (["xyzzy"], "see: sje help"),
    (["status"], "ID is missing"),
    (["status", "42"], "'42' is no task id"),
    (["status", ID + "0"], "is no task id"),
    (["status", ID, "more"], "unexpected 'more'"),
    (["list", "more"], "unexpected 'more'"),
    (["list", "--state", "DONE"], "one of QUEUED, RUNNING"),
    (["list", "--limit", "0"], "from 1 to 1000"),
    (["list", "--limit=1e3"], "from 1 to 1000"),
    (["list", "--limit"], "needs a value"),
    (["list", "--all=yes"], "takes no value"),
    (["--limit", "3", "list"], "unknown option"),
    (["log", "--tail", "12Q", ID], "number of bytes"),
    (["log", "--json", "-f", ID], "--json"),
    (["worker", "../x"], "no name of a worker"),
    (["pause", "A b"], "no name of a pool"),
    (["completion", "tcsh"], "bash, zsh and fish"),
    (["health", "--url", "ftp://x"], "not an address of a manager"),
    (["health", "--url", "nonsense"], "not an address of a manager"),
    (["health", "--url", "http://x/?a=b"], "not an address of a manager"),
])
def test_wrong_usage(args, hint):
    done = sje(*args)
    assert (done.returncode, done.out) == (USAGE, "")
    assert hint in done.err


def test_version():
    assert re.fullmatch(r"sje \d+\.\d+\.\d+\n", sje("version").out)
    assert sje("--version").out == sje("-V").out == sje("version").out
    assert list(json.loads(sje("version", "--json").out)) == ["version"]


def test_reference_is_generated():
    assert (ROOT / "docs/cli.md").read_text() == sje("help", "--markdown").out
    assert "markdown" not in sje("help", "help").out


# ---- completion ----

@pytest.mark.parametrize("shell, name", [("bash", "sje.bash"), ("zsh", "_sje"), ("fish", "sje.fish")])
def test_completion_is_generated(shell, name):
    assert (ROOT / "configs/completion" / name).read_text() == sje("completion", shell).out


def complete(*words, cwd=None):
    script = """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sje
                printf '%s\\n' "${COMPREPLY[@]}" """
    done = subprocess.run(["bash", "-c", script, "bash", str(ROOT / "configs/completion/sje.bash"),
                           "sje", *words], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completion(tmp_path):
    (tmp_path / "task.json").touch()
    assert complete("") == set(commands())
    assert complete("su") == {"submit"}
    assert complete("--url", "http", ":", "//x", "can") == {"cancel"}
    assert {"--wait", "-w", "--json", "--url"} <= complete("submit", "-")
    assert "--wait" not in complete("status", "-")
    assert complete("list", "--state", "") == {"QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"}
    assert complete("list", "-s", "F") == {"FAILED"}
    assert complete("submit", "", cwd=tmp_path) == {"task.json"}
    assert complete("help", "wo") == {"workers", "worker"}
    assert complete("completion", "") == {"bash", "zsh", "fish"}
    assert complete("wait", "--timeout", "") == set()


# ---- the manager cannot be reached, or answers nonsense ----

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


ASKING = [["status", ID], ["wait", ID], ["log", ID], ["log", "-f", ID], ["result", ID], ["list"],
          ["list", "--all"], ["cancel", ID], ["requeue", ID], ["events", ID], ["workers"],
          ["worker", "node1"], ["queues"], ["drain", "node1"], ["resume", "node1"],
          ["pause", "default"], ["unpause", "default"], ["health"], ["config"],
          ["set", "a.b=1"], ["reset", "a.b"], ["metrics"]]


@pytest.mark.parametrize("args", ASKING + [["submit", "-"], ["submit", "--wait", "-"]], ids=" ".join)
def test_refused_connection(args):
    done = sje(*args, stdin=json.dumps(TASKFILE), env={"SJE_URL": f"http://127.0.0.1:{free_port()}"})
    assert (done.returncode, done.out) == (REACH, "")
    assert "connection refused; is it running? Set --url or SJE_URL" in done.err


def test_unknown_host():
    done = sje("health", "--url", "http://sje.invalid")
    assert done.returncode == REACH and "cannot reach the manager at http://sje.invalid" in done.err


def raw(data, linger=0.0):
    """A server's bytes as they are, then the end of the connection."""
    def answer(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(data)
            handler.wfile.flush()
            time.sleep(linger)
    return answer


FAULTS = {
    "no answer": raw(b""),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "cut off": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"taskId\":"),
    "cut chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"tas"),
    "endless head": raw(b"HTTP/1.1 200 OK\r\n" + b"X-Pad: " + b"x" * 1000 + b"\r\n" + b"A: b\r\n" * 20000),
    "status 500": problem(500, "it broke"),
    "status 503": (503, {"title": "the database cannot be reached"}, {"Retry-After": "7"}),
    "status 302": (302, "", {"Location": "http://example.invalid/"}),
    "status 500, no JSON": (500, "<html>\x1b[2J", {}),
}
NO_JSON = {
    "broken JSON": (200, '{"taskId": ', {}),
    "HTML": (200, "<html></html>", {}),
    "bad UTF-8": (200, b'{"taskId": "\xff"}', {}),
    "same key twice": (200, '{"a":1,"a":2}', {}),
    "deep": (200, "[" * 100000, {}),
    "wrong type": (200, "[1]", {}),
    "empty": (200, "", {}),
}
PATHS = {"status": ("GET", f"/task/{ID}"), "wait": ("GET", f"/task/{ID}"),
         "log": ("GET", f"/task/{ID}/log"), "result": ("GET", f"/task/{ID}/result"),
         "list": ("GET", "/tasks"), "cancel": ("DELETE", f"/task/{ID}"),
         "requeue": ("POST", f"/mgmt/tasks/{ID}/requeue"), "events": ("GET", f"/task/{ID}/events"),
         "workers": ("GET", "/mgmt/workers"), "worker": ("GET", "/mgmt/workers/node1"),
         "queues": ("GET", "/mgmt/queues"), "drain": ("POST", "/mgmt/workers/node1/drain"),
         "resume": ("POST", "/mgmt/workers/node1/resume"),
         "pause": ("POST", "/mgmt/queues/default/pause"),
         "unpause": ("POST", "/mgmt/queues/default/resume"), "health": ("GET", "/health"),
         "config": ("GET", "/mgmt/config"), "set": ("GET", "/mgmt/config"),
         "reset": ("GET", "/mgmt/config"), "metrics": ("GET", "/metrics")}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(straw, fault):
    for args in ASKING:
        straw.on(*PATHS[args[0]], FAULTS[fault])
        done = sje(*args, straw=straw)
        assert done.returncode == REACH, (args, done)
        assert done.err.startswith("sje: ") and "\x1b" not in done.err, (args, done)
        assert fault != "status 503" or "try again in 7 s" in done.err or args[0] in ("wait", "log")


@pytest.mark.parametrize("fault", NO_JSON)
def test_no_json(straw, fault):
    for args in ASKING:
        if args == ["log", ID] or args[0] in ("metrics", "cancel", "requeue", "drain", "resume",
                                              "pause", "unpause"):
            continue
        straw.on(*PATHS[args[0]], NO_JSON[fault])
        done = sje(*args, straw=straw)
        assert done.returncode == REACH or (args[0] == "result" and fault == "wrong type"), (args, done)
    for command in ("submit", "submit --wait"):
        answer = NO_JSON[fault]
        straw.on("POST", "/task", (202, *answer[1:]))
        done = sje(*command.split(), "-", stdin=json.dumps(TASKFILE), straw=straw)
        assert done.returncode == REACH, done


def test_slow_answer(straw):
    straw.on("GET", "/health", raw(b"HTTP/1.1 200 OK\r\n", linger=5))
    began = time.monotonic()
    done = sje("health", "--request-timeout", "1", straw=straw)
    assert done.returncode == REACH and "no answer in time" in done.err
    assert time.monotonic() - began < 4


def test_huge_answer(straw):
    def huge(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(100):
            handler.wfile.write(chunk)
    straw.on("GET", "/tasks", huge)
    done = sje("list", straw=straw)
    assert done.returncode == REACH and "over the limit of 64 MiB" in done.err


def test_passwords_are_not_shown():
    done = sje("health", "--url", f"http://me:hunter2@127.0.0.1:{free_port()}")
    assert done.returncode == REACH and "hunter2" not in done.err


# ---- submit ----

def test_submit(straw, taskfile):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    done = sje("submit", taskfile, straw=straw)
    assert (done.returncode, done.out, done.err) == (OK, f"{ID}  QUEUED  wordcount\n", "")
    _, _, headers, body = straw.requests[0]
    assert json.loads(body) == TASKFILE and headers["Content-Type"] == "application/json"
    assert len(headers["Idempotency-Key"]) == 36
    assert sje("submit", "-q", taskfile, straw=straw).out == ID + "\n"
    assert json.loads(sje("submit", taskfile, "--json", straw=straw).out) == ACCEPTED
    keys = [r[2]["Idempotency-Key"] for r in straw.requests]
    assert len(set(keys)) == 3
    sje("submit", taskfile, "--idempotency-key", "mine", straw=straw)
    assert straw.requests[-1][2]["Idempotency-Key"] == "mine"
    sje("submit", taskfile, "--idempotency-key", "day 1 ü", straw=straw)
    assert straw.requests[-1][2]["Idempotency-Key"].encode("latin-1").decode() == "day 1 ü"


def test_submit_goes_as_it_is(straw):
    text = '{"jobType" : "Noop",\n  "parameters": {"b": 1.50, "a": 1e2}}\n'
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    assert sje("submit", "-", stdin=text, straw=straw).returncode == OK
    assert straw.requests[0][3].decode() == text


@pytest.mark.parametrize("body", [[TASKFILE, TASKFILE], {"tasks": [TASKFILE, TASKFILE]}])
def test_submit_many(straw, body):
    answer = {"accepted": 2, "tasks": [ACCEPTED, ACCEPTED | {"taskId": ID2, "jobId": None}]}
    straw.on("POST", "/tasks", (202, answer, {}))
    done = sje("submit", "-", stdin=json.dumps(body), straw=straw)
    assert (done.returncode, done.out) == (OK, f"{ID}  QUEUED  wordcount\n{ID2}  QUEUED\n")
    straw.on("POST", "/tasks", (202, answer | {"accepted": 3}, {}))
    assert sje("submit", "-", stdin=json.dumps(body), straw=straw).returncode == REACH


def test_submit_a_file_with_a_byte_order_mark(straw, tmp_path):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    file = tmp_path / "task.json"
    file.write_text(json.dumps(TASKFILE), encoding="utf-8-sig")
    done = sje("submit", file, straw=straw)
    assert done.returncode == OK, done.err


def test_submit_refused(straw, taskfile):
    errors = [{"field": "tasks[7].jobType", "message": "is required"},
              {"field": "", "message": "evil \x1b[2J"}]
    straw.on("POST", "/task", problem(422, "invalid value", "2 rules are broken", errors))
    done = sje("submit", taskfile, straw=straw)
    assert (done.returncode, done.out) == (USAGE, "")
    assert f"{taskfile}: the manager refuses it (HTTP 422)" in done.err
    assert "tasks[7].jobType: is required" in done.err and "\x1b" not in done.err
    done = sje("submit", taskfile, "--json", straw=straw)
    assert done.returncode == USAGE and json.loads(done.out)["errors"] == errors


@pytest.mark.parametrize("content, hint", [
    (b"", "is empty"), (b" \n", "is empty"), (b'{"jobType": "Noop",}', "no valid JSON: line 1 column"),
    (b"42", "must hold a task"), (b'{"a": "\xff"}', "no valid JSON"), (b"{}\0", "no valid JSON"),
    (b"[" * 5000 + b"]" * 5000, "nested deeper"), (b'{"a":1,"a":2}', "duplicate"),
])
def test_submit_bad_file(tmp_path, content, hint):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    done = sje("submit", str(path), env={"SJE_URL": f"http://127.0.0.1:{free_port()}"})
    assert (done.returncode, done.out) == (USAGE, "") and hint in done.err and str(path) in done.err


def test_submit_unreadable(tmp_path):
    assert "No such file" in sje("submit", str(tmp_path / "none")).err
    assert "Is a directory" in sje("submit", str(tmp_path)).err
    big = tmp_path / "big"
    with big.open("wb") as f:
        f.truncate(65 << 20)
    done = sje("submit", str(big))
    assert done.returncode == USAGE and "over the limit of 64 MiB" in done.err


@pytest.mark.parametrize("key", ["", " a", "a ", "x" * 129, "a\nb"])
def test_bad_idempotency_key(taskfile, key):
    assert sje("submit", taskfile, "--idempotency-key", key).returncode == USAGE


def test_submit_is_repeated_with_its_key(straw, taskfile):
    straw.on("POST", "/task", raw(b""), (202, ACCEPTED, {}))
    done = sje("submit", taskfile, straw=straw)
    assert done.returncode == OK and "sending it again" in done.err
    first, second = straw.asked("POST", "/task")
    assert first[2]["Idempotency-Key"] == second[2]["Idempotency-Key"]


def test_submit_answer_stays_lost(straw, taskfile):
    straw.on("POST", "/task", raw(b""))
    done = sje("submit", taskfile, straw=straw)
    assert (done.returncode, done.out) == (REACH, "") and len(straw.requests) == 4
    key = straw.requests[0][2]["Idempotency-Key"]
    assert f"--idempotency-key {key}" in done.err


# ---- waiting ----

def test_submit_wait_plain(straw, taskfile):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    straw.on("GET", f"/task/{ID}", view("QUEUED"), view("QUEUED"), view(),
             view(progress={"done": 3, "total": 8, "text": "stage 2 of 3"}),
             view(progress={"done": 4, "total": 8, "text": "stage 2: 4/8 tasks"}),
             view("SUCCEEDED", output={"words": 12}))
    done = sje("submit", "--wait", taskfile, straw=straw)
    assert done.returncode == OK
    assert f"SUCCEEDED task {ID}, job wordcount\n" in done.out
    assert "ran 2.5 s after a wait of 1.0 s, attempt 1 of 3 on node1" in done.out and '"words": 12' in done.out
    lines = [line.split(ID + " ")[1] for line in done.err.splitlines() if f"{ID} " in line
             and "accepted" not in line]
    assert lines == ["QUEUED", "RUNNING on node1", "RUNNING on node1 3/8 stage 2 of 3",
                     "RUNNING on node1 stage 2: 4/8 tasks",
                     "SUCCEEDED on node1"]
    assert "\x1b" not in done.out + done.err
    assert not straw.asked("GET", f"/task/{ID}/log")


def test_submit_wait_failed(straw, taskfile):
    error = {"kind": "exit", "message": "ZeroDivisionError: division by zero", "exitCode": 3,
             "signal": None}
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    straw.on("GET", f"/task/{ID}", view("FAILED", error=error))
    done = sje("submit", "--wait", taskfile, straw=straw)
    assert done.returncode == TASK
    assert "exit: ZeroDivisionError: division by zero (exit status 3)" in done.out
    assert f"sje log {ID}" in done.err


@pytest.mark.parametrize("error, text", [
    ({"kind": "exit", "message": "exit code 1", "exitCode": 1, "signal": None}, "exit code 1"),
    ({"kind": "killed", "message": "killed by signal 9 (Killed)", "exitCode": None, "signal": 9},
     "killed by signal 9 (Killed)"),
    ({"kind": "cancelled", "message": "stopped on request", "exitCode": None, "signal": 15},
     "cancelled: stopped on request (signal 15)"),
    ({"kind": "timeout", "message": None, "exitCode": None, "signal": "SIGKILL"}, "timeout (SIGKILL)"),
    ({"kind": None, "message": "odd"}, "odd")])
def test_error_in_a_line(straw, error, text):
    straw.on("GET", f"/task/{ID}", view("FAILED", error=error))
    assert text in sje("wait", ID, straw=straw).out.splitlines()


def test_wait_exit_status_and_forms(straw):
    straw.on("GET", f"/task/{ID}", view("CANCELLED", startedAt=None))
    done = sje("wait", ID, straw=straw)
    assert done.returncode == TASK and "never ran" in done.out
    done = sje("wait", ID, "--json", straw=straw)
    assert done.returncode == TASK and json.loads(done.out) == view("CANCELLED", startedAt=None)
    assert done.err == ""
    done = sje("wait", ID, "-q", straw=straw)
    assert (done.returncode, done.out, done.err) == (TASK, "CANCELLED\n", "")
    straw.on("GET", f"/task/{ID}", problem(404, "not found"))
    done = sje("wait", ID, straw=straw)
    assert done.returncode == USAGE and f"task {ID}: not found (HTTP 404)" in done.err


def waiting(state="RUNNING", **more):
    """A manager that keeps ?wait= as it should."""
    def answer(handler):
        time.sleep(int(handler.query.get("wait", 0)))
        return view(state, **more)
    return answer


def test_wait_says_why_a_task_waits(straw):
    busy, later = ({"code": "x", "text": t} for t in ("all workers are busy", "not before 2026-01-02T03:04:05.000Z"))
    looks = [view("QUEUED", waitingFor=w) for w in (busy, busy, later)]
    straw.on("GET", f"/task/{ID}", *looks, view("QUEUED", waitingFor=None), view("SUCCEEDED"))
    lines = [line.split(ID + " ")[1] for line in sje("wait", ID, straw=straw).err.splitlines()]
    assert lines == ["QUEUED: all workers are busy", "QUEUED: not before 2026-01-02 03:04:05", "QUEUED",
                     "SUCCEEDED on node1"]
    straw.on("GET", f"/task/{ID}", looks[0], view("SUCCEEDED"))
    code, text = Terminal("wait", ID, "--log", "none", straw=straw).close()
    assert code == OK and "all workers are busy" in text
    straw.on("GET", f"/task/{ID}", looks[2])
    assert "not before 2026-01-02 03:04:05\n" in sje("status", ID, straw=straw).out


def test_wait_timeout(straw):
    straw.on("GET", f"/task/{ID}", waiting())
    began = time.monotonic()
    done = sje("wait", ID, "--timeout", "1", straw=straw)
    assert (done.returncode, done.out) == (PENDING, "")
    assert f"sje wait {ID}" in done.err and 0.9 < time.monotonic() - began < 4
    done = sje("wait", ID, "--timeout", "0", "--json", straw=straw)
    assert done.returncode == PENDING and json.loads(done.out)["state"] == "RUNNING"


def test_wait_does_not_spin(straw):
    straw.on("GET", f"/task/{ID}", view())
    assert sje("wait", ID, "--timeout", "2", straw=straw).returncode == PENDING
    assert len(straw.requests) < 10


@pytest.mark.parametrize("fault", [raw(b""), (503, "", {}), (200, '{"x"', {}), (500, "", {})])
def test_wait_survives_faults(straw, fault):
    straw.on("GET", f"/task/{ID}", view(), fault, fault, view("SUCCEEDED"))
    done = sje("wait", ID, straw=straw)
    assert done.returncode == OK
    assert "trying again for 60 s" in done.err and "the manager is back" in done.err


def test_wait_survives_restart(straw, taskfile):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    gone = threading.Event()
    straw.on("GET", f"/task/{ID}", view(), lambda _: gone.set())
    process = subprocess.Popen([SJE, "submit", "--wait", taskfile], env=environment(straw),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert gone.wait(10)
    straw.stop()
    time.sleep(1)
    again = Straw(straw.port).on("GET", f"/task/{ID}", view("SUCCEEDED"))
    out, err = process.communicate(timeout=20)
    again.stop()
    assert process.returncode == OK and "SUCCEEDED" in out
    assert err.count("trying again") == 1 and "the manager is back" in err


def test_wait_gives_up(straw):
    gone = threading.Event()
    straw.on("GET", f"/task/{ID}", view(), lambda _: gone.set())
    process = subprocess.Popen([SJE, "wait", ID, "--retry", "1"], env=environment(straw),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert gone.wait(10)
    straw.stop()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (REACH, "")
    assert f"task {ID} goes on; later: sje wait {ID}" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_the_task(straw, taskfile, number):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    seen = threading.Event()

    def answer(handler):
        if int(handler.query["wait"]):
            seen.set()
        return waiting()(handler)
    straw.on("GET", f"/task/{ID}", answer)
    process = subprocess.Popen([SJE, "submit", "--wait", taskfile], env=environment(straw),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert seen.wait(10)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert f"sje wait {ID}" in err and f"sje cancel {ID}" in err
    assert not straw.asked("DELETE", f"/task/{ID}")


def test_submit_wait_many(straw):
    answer = {"accepted": 2, "tasks": [ACCEPTED, ACCEPTED | {"taskId": ID2}]}
    error = {"kind": "timeout", "message": "ran longer than 5 s", "exitCode": None, "signal": None}
    straw.on("POST", "/tasks", (202, answer, {}))
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    straw.on("GET", f"/task/{ID2}", view("FAILED", taskId=ID2, error=error))
    body = json.dumps([TASKFILE, TASKFILE])
    done = sje("submit", "--wait", "-", stdin=body, straw=straw)
    assert done.returncode == TASK
    assert "2 tasks: 1 succeeded, 1 failed, 0 cancelled" in done.out
    assert re.search(f"{ID2} +FAILED +wordcount +timeout: ran longer than 5 s", done.out)
    done = sje("submit", "--wait", "--json", "-", stdin=body, straw=straw)
    assert [t["taskId"] for t in json.loads(done.out)["tasks"]] == [ID, ID2]
    assert (done.returncode, done.err) == (TASK, "2 tasks accepted\n")


# ---- on a terminal ----

def log_answer(text):
    """The log call over a growing text."""
    def answer(handler):
        data = text() if callable(text) else text
        offset, limit = int(handler.query.get("offset", 0)), int(handler.query.get("limit", 1 << 20))
        return 200, data[offset:offset + limit], {"X-Log-Size": str(len(data)),
                                                  "Content-Type": "text/plain"}
    return answer


def test_live_view(straw, taskfile):
    straw.on("POST", "/task", (202, ACCEPTED, {}))
    straw.on("GET", f"/task/{ID}", view("QUEUED"), view(),
             view(progress={"done": 3, "total": 8, "text": "stage 2 of 3 \x1b[2J"}),
             view("SUCCEEDED", output={"words": 12}))
    logs = [b"first \x1b[31mline\x1b[0m\npart", b"first \x1b[31mline\x1b[0m\npartial \xe6\x97\xa5\x07\nlast"]
    straw.on("GET", f"/task/{ID}/log", log_answer(lambda: logs.pop(0) if len(logs) > 1 else logs[0]))
    code, text = Terminal("submit", "--wait", taskfile, straw=straw).close()
    assert code == OK
    for part in ("QUEUED", "RUNNING", "3/8 stage 2 of 3 ^[[2J", "█", "░"):
        assert part in text, text
    lines = re.sub(r"\r\x1b\[K[^\n\r]*(?=\r\x1b\[K)", "", text).replace("\r\x1b[K", "").split("\n")
    assert [line for line in lines if line in ("first line", "partial 日^G", "last")] == [
        "first line", "partial 日^G", "last"]
    assert "\x1b[2J" not in text and "\x1b[31mline" not in text
    assert "SUCCEEDED\x1b[0m task" in text and '"words": 12' in text


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_live_line_fits(straw, columns):
    straw.on("GET", f"/task/{ID}", view(progress={"done": 3, "total": 8, "text": "日本 " * 100}),
             view("SUCCEEDED"))
    _, text = Terminal("wait", ID, "--log", "none", straw=straw, columns=columns).close()
    bars = re.findall(r"\r\x1b\[K([^\r\n]+)(?=\r\x1b)", text)
    assert bars
    for bar in bars:
        bar = re.sub(r"\x1b\[[0-9]*m", "", bar)
        assert sum(2 if ord(c) in range(0x3000, 0xa000) else 1 for c in bar) < columns, bar


def test_live_log_starts_near_the_end(straw):
    data = b"".join(b"line %07d\n" % i for i in range(100000))
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    straw.on("GET", f"/task/{ID}/log", log_answer(data))
    _, text = Terminal("wait", ID, straw=straw).close()
    shown = re.findall(r"line (\d{7})\n", text)
    assert "1.2 MiB left out" in text and shown[-1] == "0099999" and 500 < len(shown) < 2000
    assert not re.search(r"^\d+\n", text, re.M)


def test_live_view_of_attempts(straw):
    straw.on("GET", f"/task/{ID}", view(), view("QUEUED", attempt=2), view(attempt=2),
             view("SUCCEEDED", attempt=2))
    straw.on("GET", f"/task/{ID}/log",
             lambda h: log_answer(b"of attempt %s\n" % h.query["attempt"].encode())(h))
    _, text = Terminal("wait", ID, straw=straw).close()
    assert text.count("of attempt 1\n") == 1 and text.count("of attempt 2\n") == 1


def test_live_log_may_be_missing(straw):
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    straw.on("GET", f"/task/{ID}/log", (504, "", {}))
    code, text = Terminal("wait", ID, straw=straw).close()
    assert code == OK and "504" not in text


def test_live_interrupt(straw):
    straw.on("GET", f"/task/{ID}", waiting())
    terminal = Terminal("wait", ID, "--log", "none", straw=straw)
    terminal.read("RUNNING")
    os.killpg(terminal.process.pid, signal.SIGINT)
    code, text = terminal.close()
    assert code == 130 and f"sje cancel {ID}" in text


def test_no_color_and_dumb(straw):
    straw.on("GET", f"/task/{ID}", view("SUCCEEDED"))
    straw.on("GET", "/tasks", {"tasks": [view("FAILED")], "next": None})
    assert "\x1b[31m" in Terminal("list", straw=straw).close()[1]
    for args, env in ((["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})):
        assert "\x1b" not in Terminal("list", *args, straw=straw, env=env).close()[1]
    assert "\x1b" not in Terminal("wait", ID, straw=straw, env={"TERM": "dumb"}).close()[1]
    assert "\x1b[31m" in Terminal("list", straw=straw, env={"NO_COLOR": ""}).close()[1]


def test_ascii_terminal(straw):
    straw.on("GET", f"/task/{ID}", view(progress={"done": 1, "total": 2, "text": ""}),
             view("SUCCEEDED"))
    _, text = Terminal("wait", ID, "--log", "none", straw=straw, env={"LC_ALL": "C"}).close()
    assert "[#########---------] 1/2" in text and "█" not in text


# ---- status, list, events ----

def test_status(straw):
    done_view = view("FAILED", jobId="evil\x1b[2J\nname", labels={"k\x07": "v\u202e"},
                     progress={"done": 1, "total": 4, "text": "x"},
                     error={"kind": "killed", "message": "out", "exitCode": None, "signal": 9})
    straw.on("GET", f"/task/{ID}", done_view)
    done = sje("status", ID, straw=straw)
    assert done.returncode == OK
    assert "FAILED, attempt 1 of 3" in done.out and "evil^[[2J name (SparkApp)" in done.out
    assert "2026-01-02 03:04:06 (" in done.out and "after 1.0 s)" in done.out and "took 2.5 s" in done.out
    assert "killed: out (signal 9)" in done.out and "k^G=v\ufffd" in done.out
    assert "\x1b" not in done.out
    assert json.loads(sje("status", ID, "--json", straw=straw).out) == done_view
    assert sje("status", ID, "-q", straw=straw).out == "FAILED\n"


def test_attempts_that_do_not_count(straw):
    """Of one that may fail once and was given back four times."""
    straw.on("GET", f"/task/{ID}", view("SUCCEEDED", attempt=5, maxAttempts=5, spec={"jobType": "Noop"}))
    for command in ("status", "wait"):
        assert "attempt 5 of 5 (4 do not count: lost, given back" in sje(command, ID, straw=straw).out
    straw.on("GET", f"/task/{ID}", view(attempt=2))
    assert "attempt 2 of 3\n" in sje("status", ID, straw=straw).out
    straw.on("GET", f"/task/{ID}", view(cancelRequested=True))
    assert "attempt 1 of 3; a cancel was asked for and is not over yet\n" in sje("status", ID, straw=straw).out


def test_times_by_the_managers_clock(straw):
    def answer(handler):
        handler.date_time_string = lambda *_: "Fri, 02 Jan 2026 03:04:15 GMT"
        return view()
    straw.on("GET", f"/task/{ID}", answer)
    assert "03:04:05 (10 s ago)" in sje("status", ID, straw=straw).out


def test_json_is_exact_and_safe(straw):
    text = '{"taskId":"%s","state":"RUNNING",  "x": 1.0, "u":"\u009b\x7f\u202e日"}' % ID
    straw.on("GET", f"/task/{ID}", text)
    assert sje("status", ID, "--json", straw=straw).out == text + "\n"
    _, shown = Terminal("status", ID, "--json", straw=straw).close()
    assert json.loads(shown) == json.loads(text)
    assert "\u009b" not in shown and "\x7f" not in shown and "\u202e" not in shown and "日" in shown


def test_list(straw):
    straw.on("GET", "/tasks", {"tasks": [view(), view("QUEUED", taskId=ID2, jobId=None)], "next": "c"})
    done = sje("list", "--state", "RUNNING", "-j", "a b&c", "--limit", "2", straw=straw)
    assert done.returncode == OK and "--all" in done.err
    assert straw.requests[-1][1] == "/tasks?limit=2&state=RUNNING&jobId=a%20b%26c"
    title, first, second = done.out.splitlines()
    assert title.split() == ["TASK", "STATE", "TYPE", "JOB", "ATT", "SUBMITTED", "RAN", "WORKER"]
    assert first.startswith(f"{ID}  RUNNING  SparkApp  wordcount") and second.startswith(ID2)
    assert sje("list", "-q", straw=straw).out == f"{ID}\n{ID2}\n"
    straw.on("GET", "/tasks", {"tasks": [], "next": None})
    done = sje("list", straw=straw)
    assert (done.returncode, done.out, done.err) == (OK, "", "no tasks\n")


def test_list_fits_the_terminal(straw):
    straw.on("GET", "/tasks", {"tasks": [view(jobId="日本" * 100)], "next": None})
    for columns in (50, 80, 120):
        _, text = Terminal("list", "--no-color", straw=straw, columns=columns).close()
        for line in text.splitlines():
            assert sum(2 if ord(c) in range(0x3000, 0xa000) else 1 for c in line) <= columns
    assert "日本" * 100 in sje("list", straw=straw).out


def pages(handler):
    page = int(handler.query.get("after", 0))
    return {"tasks": [view(jobId=f"job{page}")], "next": str(page + 1) if page < 2 else None}


def test_list_all(straw):
    straw.on("GET", "/tasks", pages)
    done = sje("list", "--all", straw=straw)
    assert done.returncode == OK and re.findall(r"job\d", done.out) == ["job0", "job1", "job2"]
    document = json.loads(sje("list", "--all", "--json", straw=straw).out)
    assert [t["jobId"] for t in document["tasks"]] == ["job0", "job1", "job2"]
    assert document["next"] is None
    straw.on("GET", "/tasks", pages, pages, problem(503, "away"))
    done = sje("list", "--all", "--json", straw=straw)
    document = json.loads(done.out)
    assert done.returncode == REACH and len(document["tasks"]) == 2 and document["next"] == "2"
    straw.on("GET", "/tasks", {"tasks": [view()], "next": "same"})
    assert sje("list", "--all", straw=straw).returncode == REACH
    straw.on("GET", "/tasks", {"tasks": [], "next": None})
    assert json.loads(sje("list", "--all", "--json", straw=straw).out) == {"tasks": [], "next": None}


def test_events(straw):
    events = {"events": [
        {"seq": 1, "at": "2026-01-02T03:04:05.006Z", "attempt": 1, "event": "accepted",
         "workerId": None, "detail": None},
        {"seq": 2, "at": "2026-01-02T03:04:06.000Z", "attempt": 1, "event": "granted",
         "workerId": "node1", "detail": {"why": "x" * 100}}]}
    straw.on("GET", f"/task/{ID}/events", events)
    done = sje("events", ID, straw=straw)
    assert done.returncode == OK and "2026-01-02 03:04:05.006" in done.out and "x" * 100 in done.out
    assert json.loads(sje("events", ID, "--json", straw=straw).out) == events
    _, text = Terminal("events", ID, straw=straw, columns=80).close()
    assert max(len(line) for line in text.splitlines()) <= 80


# ---- cancel, requeue, result ----

@pytest.mark.parametrize("status, code, text", [
    (200, OK, "is cancelled"), (202, OK, f"sje wait {ID}"), (409, USAGE, "has ended"), (404, USAGE, "404")])
def test_cancel(straw, status, code, text):
    body = {"detail": "it has ended"} if status == 409 else view()
    straw.on("DELETE", f"/task/{ID}", (status, body, {}))
    done = sje("cancel", ID, straw=straw)
    assert done.returncode == code and text in done.err and ID in done.err
    assert json.loads(sje("cancel", ID, "--json", straw=straw).out) == body


def test_requeue(straw):
    straw.on("POST", f"/mgmt/tasks/{ID}/requeue", (202, ACCEPTED, {}))
    done = sje("requeue", ID, straw=straw)
    assert done.returncode == OK and "is queued again" in done.err


def test_result(straw):
    path = f"/task/{ID}/result"
    straw.on("GET", path, '"two\\nlines"')
    assert sje("result", ID, straw=straw).out == "two\nlines\n"
    straw.on("GET", path, {"a": [1, 2]})
    assert json.loads(sje("result", ID, straw=straw).out) == {"a": [1, 2]}
    assert json.loads(sje("result", ID, "--json", straw=straw).out) == {"a": [1, 2]}
    for scalar in ("0", "false", "1.5"):
        straw.on("GET", path, scalar)
        assert sje("result", ID, straw=straw).out == scalar + "\n"
    straw.on("GET", path, "null")
    done = sje("result", ID, straw=straw)
    assert (done.returncode, done.out) == (OK, "")
    straw.on("GET", path, (202, ACCEPTED, {}))
    assert sje("result", ID, straw=straw).returncode == PENDING
    error = {"kind": "cancelled", "message": "cancelled by a client", "exitCode": None, "signal": None}
    ended = {"title": "Gone", "status": 410, "code": 410, "state": "CANCELLED", "error": error}
    straw.on("GET", path, (410, ended, {}))
    done = sje("result", ID, straw=straw)
    assert done.returncode == TASK and "was cancelled" in done.err
    assert json.loads(sje("result", ID, "--json", straw=straw).out) == ended
    error = {"kind": "exit", "message": "ValueError: no", "exitCode": 1, "signal": None}
    straw.on("GET", path, (500, ended | {"code": 500, "state": "FAILED", "error": error}, {}))
    done = sje("result", ID, straw=straw)
    assert done.returncode == TASK and "failed: exit: ValueError: no (exit status 1)" in done.err
    straw.on("GET", path, problem(500, "the database refused the statement"))
    assert sje("result", ID, straw=straw).returncode == REACH


# ---- log ----

def test_log(straw):
    data = bytes(range(256)) * 4096  # a MiB, no text
    straw.on("GET", f"/task/{ID}/log", log_answer(data))
    done = sje("log", ID, straw=straw)
    assert done.returncode == OK and done.stdout == data
    assert straw.requests[0][1].startswith(f"/task/{ID}/log?stream=stdout&offset=0")
    assert sje("log", ID, "--tail", "1K", straw=straw).stdout == data[-1024:]
    assert sje("log", ID, "--tail", "9G", straw=straw).stdout == data
    sje("log", ID, "--stderr", "--attempt", "2", straw=straw)
    assert "stream=stderr" in straw.requests[-1][1] and "attempt=2" in straw.requests[-1][1]


def test_log_json(straw):
    straw.on("GET", f"/task/{ID}/log", log_answer(b"caf\xc3\xa9 \xff\n"))
    document = json.loads(sje("log", ID, "--json", straw=straw).out)
    assert document == {"taskId": ID, "stream": "stdout", "offset": 0, "size": 8, "text": "café \ufffd\n"}
    document = json.loads(sje("log", ID, "--json", "--tail", "2", straw=straw).out)
    assert (document["offset"], document["text"]) == (6, "\ufffd\n")


def test_log_stays_with_its_attempt(straw):
    """The task goes on to its next attempt while the log is read."""
    logs = {1: b"a" * 300000, 2: b"b" * 300000}

    def answer(handler):
        attempt = int(handler.query.get("attempt", 1))
        status, body, headers = log_answer(logs[attempt])(handler)
        return status, body, headers | {"X-Log-Attempt": str(attempt)}
    straw.on("GET", f"/task/{ID}/log", answer)
    assert sje("log", ID, straw=straw).stdout == logs[1]
    assert "attempt=1" in straw.requests[-1][1]


def test_log_follow_tail(straw):
    straw.on("GET", f"/task/{ID}", view(), view("QUEUED", attempt=2), view("SUCCEEDED", attempt=2))
    straw.on("GET", f"/task/{ID}/log",
             (200, b"o", {"X-Log-Size": "8", "X-Log-Attempt": "1"}), following({1: b"one\ntwo\n", 2: b"three\n"}))
    assert sje("log", "-f", "--tail", "4", ID, straw=straw).out == "two\nthree\n"


def test_log_with_a_gap(straw):
    def answer(handler):
        offset = max(int(handler.query["offset"]), 100)
        return 200, b"x" * 20 if offset == 100 else b"", {"X-Log-Size": "120", "X-Log-Offset": str(offset)}
    straw.on("GET", f"/task/{ID}/log", answer)
    assert sje("log", ID, straw=straw).stdout == b"x" * 20


def test_log_on_a_terminal(straw):
    straw.on("GET", f"/task/{ID}/log", log_answer(b"\x1b[31mred\x1b[0m \x1b[2J\x07 10%\r20%\r\ncaf\xc3"))
    _, text = Terminal("log", ID, straw=straw).close()
    assert text == "red ^[[2J^G 10%\n20%\ncaf\ufffd"


def test_log_unknown(straw):
    straw.on("GET", f"/task/{ID}/log", problem(404, "not found"))
    done = sje("log", ID, straw=straw)
    assert done.returncode == USAGE and f"log of task {ID}: not found" in done.err


def chunks(handler, *pieces, end=True):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    if end:
        handler.wfile.write(b"0\r\n\r\n")


def following(data, cut=None):
    """?follow= over data by attempt; `cut`: the first stream breaks off there."""
    state = {"cut": cut}

    def answer(handler):
        log, offset = data[int(handler.query["attempt"])], int(handler.query["offset"])
        if "follow" not in handler.query:
            return log_answer(log)(handler)
        at, state["cut"] = state["cut"], None
        return chunks(handler, log[offset:at], end=at is None)
    return answer


def test_log_follow(straw):
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    straw.on("GET", f"/task/{ID}/log", following({1: b"one\ntwo\n"}))
    done = sje("log", "-f", ID, straw=straw)
    assert (done.returncode, done.out, done.err) == (OK, "one\ntwo\n", "")


def test_log_follow_attempts(straw):
    straw.on("GET", f"/task/{ID}", view("QUEUED"), view(), view("QUEUED", attempt=2), view(attempt=2),
             view("FAILED", attempt=2))
    straw.on("GET", f"/task/{ID}/log", following({1: b"one\n", 2: b"two\n"}))
    done = sje("log", "-f", ID, straw=straw)
    assert (done.returncode, done.out, done.err) == (OK, "one\ntwo\n", "attempt 2\n")
    straw.on("GET", f"/task/{ID}", view("FAILED", attempt=2))
    assert sje("log", "-f", ID, "--attempt", "1", straw=straw).out == "one\n"


def test_log_follow_goes_on_where_it_broke(straw):
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    straw.on("GET", f"/task/{ID}/log", following({1: b"one\ntwo\nthree\n"}, cut=6))
    done = sje("log", "-f", ID, straw=straw)
    assert (done.returncode, done.out) == (OK, "one\ntwo\nthree\n")
    assert "trying again" in done.err


def test_log_follow_early_end(straw):
    """A manager that stops in good order ends the stream; the rest comes from the next one."""
    straw.on("GET", f"/task/{ID}", view(), view("SUCCEEDED"))
    log = log_answer(b"one\ntwo\n")
    straw.on("GET", f"/task/{ID}/log", lambda h: chunks(h, b"one\n"), log)
    assert sje("log", "-f", ID, straw=straw).out == "one\ntwo\n"


def test_output_that_nobody_takes(straw):
    straw.on("GET", f"/task/{ID}/log", log_answer(b"x" * 1000000))
    with open("/dev/full", "wb") as full:
        done = subprocess.run([SJE, "log", ID], stdout=full, stderr=subprocess.PIPE,
                              env=environment(straw), timeout=20, check=False)
    assert done.returncode == USAGE and b"No space left" in done.stderr
    done = subprocess.run(f"{SJE} log {ID} | head -c 10", shell=True, capture_output=True,
                          env=environment(straw), timeout=20, check=False)
    assert (done.stdout, done.stderr) == (b"x" * 10, b"")


# ---- the cluster ----

def test_workers(straw):
    workers = {"workers": [
        {"workerId": "node1", "host": "h\x1b[2J", "state": "UP", "slots": 4, "running": 2, "usedSlots": 3,
         "lastHeartbeatAt": "2026-01-02T03:04:05.000Z", "pools": ["default", "gpu"], "version": "0.1.0"},
        {"workerId": "node2", "host": "h2", "state": "DEAD", "slots": 4, "running": None}]}
    straw.on("GET", "/mgmt/workers", workers)
    done = sje("workers", straw=straw)
    assert done.returncode == OK and "\x1b" not in done.out and "default,gpu" in done.out
    assert done.out.splitlines()[2].split()[:4] == ["node2", "DEAD", "-", "-"]
    assert json.loads(sje("workers", "--json", straw=straw).out) == workers
    straw.on("GET", "/mgmt/workers", {"workers": []})
    assert "no workers" in sje("workers", straw=straw).err


BAD = {"workers": [
    {"workerId": "node1", "host": "h", "state": "UP", "slots": 4, "running": 0, "jobTypes": ["Noop"],
     "holdOff": [{"type": "SparkApp", "reason": "Java is not found\x1b on this node, nor is anything else", "until": None}]},
    {"workerId": "node1", "host": "h2", "state": "REFUSED", "slots": 4, "running": 0, "jobTypes": ["Noop"],
     "reason": "another worker of this name lives, on h (pid 7)"},
    {"workerId": "node2", "host": "h2", "state": "UP", "slots": 4, "running": 0, "jobTypes": [],
     "holdOff": [{"type": None, "reason": "no disk", "until": None}]}]}
TROUBLES = ["node1 takes no SparkApp: Java is not found^[ on this node, nor is anything else",
            "node1 is REFUSED: another worker of this name lives, on h (pid 7)", "node2 takes nothing: no disk"]


def test_what_is_wrong_with_a_worker_is_never_left_out(straw):
    straw.on("GET", "/mgmt/workers", BAD).on("GET", "/health", {"status": "up"})
    assert sje("workers", straw=straw).out.splitlines()[4:] == TROUBLES
    code, text = Terminal("workers", "--no-color", straw=straw, columns=60).close()
    assert code == OK and text.splitlines()[4:] == TROUBLES
    done = sje("health", straw=straw)
    assert done.returncode == OK and done.out.splitlines()[1:] == ["degraded: worker " + t for t in TROUBLES]


def test_health_names_workers_that_take_no_part(straw):
    """What one of them said last is of no account; what one says that lives is."""
    held = {"jobTypes": ["Noop"], "holdOff": [{"type": "SparkApp", "reason": "no Java", "until": None}],
            "lastHeartbeatAt": "2026-01-02T03:04:05.000Z"}
    states = ("DEAD", "SUSPECT", "DRAINING", "STOPPED", "REFUSED", "UNKNOWN")
    workers = [{"workerId": s.lower(), "state": s, **held} for s in states]
    workers.append({"workerId": "new", "state": "DEAD", "lastHeartbeatAt": None})
    straw.on("GET", "/mgmt/workers", {"workers": workers}).on("GET", "/health", {"status": "up"})
    done = sje("health", straw=straw)
    assert done.returncode == OK and done.out.splitlines()[1:] == ["degraded: " + t for t in (
        "no worker takes any task",
        "worker dead is DEAD: silent since 2026-01-02T03:04:05.000Z",
        "worker suspect is SUSPECT: silent since 2026-01-02T03:04:05.000Z",
        "worker suspect takes no SparkApp: no Java",
        "worker draining is DRAINING: it gets no new tasks",
        "worker draining takes no SparkApp: no Java",
        "worker refused is REFUSED",
        "worker unknown takes no SparkApp: no Java",
        "worker new is DEAD: never heard")]
    below = sje("workers", straw=straw).out.splitlines()[len(workers) + 1:]
    assert below == [f"{s} takes no SparkApp: no Java" for s in ("suspect", "draining", "unknown")]
    assert "degraded" not in sje("health", "--json", straw=straw).out


@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]])
def test_health_fails_where_nobody_does_what_waits(straw, options):
    straw.on("GET", "/health", {"status": "up"}).on("GET", "/mgmt/workers", {"workers": []})
    for scheduled, ready, status in ((5, 0, OK), (0, 1, TASK), (3, 2, TASK)):
        queues = [{"pool": "a", "scheduled": scheduled, "ready": ready, "fed": 0, "queued": scheduled + ready}]
        straw.on("GET", "/mgmt/queues", {"queues": queues})
        done = sje("health", *options, straw=straw)
        assert done.returncode == status, (scheduled, ready, done.out)
        if not options:
            waits = {0: "", 1: ", and 1 waits", 2: ", and 2 wait"}[ready]
            assert f"degraded: no worker takes any task{waits}\n" in done.out
    workers = [{"workerId": "w", "state": "UP", "jobTypes": ["Noop"]}]
    straw.on("GET", "/mgmt/workers", {"workers": workers})
    assert sje("health", *options, straw=straw).returncode == OK


def test_queues(straw):
    queues = {"queues": [{"pool": "default", "paused": True, "scheduled": 1, "ready": 2, "fed": 3,
                          "queued": 6, "running": 4, "waitingFor": "the pool is paused",
                          "waitingTaskId": ID}, {"pool": "gpu", "queued": 0, "waitingFor": None}]}
    straw.on("GET", "/mgmt/queues", queues)
    done = sje("queues", straw=straw)
    assert done.returncode == OK
    lines = done.out.splitlines()
    assert lines[1].split() == ["default", "paused", "1", "6", "4"]
    assert lines[3:] == [f"default waits: the pool is paused (task {ID})"]
    assert json.loads(sje("queues", "--json", straw=straw).out) == queues


def test_flat_commands(straw):
    document = {"a": {"b": 1, "c": [1, "x"]}, "list": [{"n": 1}, {"n": 2}], "none": None,
                "deep": [[[[[[[[[[[[1]]]]]]]]]]]], "at": "2026-01-02T03:04:05.000Z", "evil\n": "\x1b"}
    for command, path in (("config", "/mgmt/config"), ("worker", "/mgmt/workers/node1")):
        straw.on("GET", path, document)
        done = sje(command, *(["node1"] if command == "worker" else []), straw=straw)
        assert done.returncode == OK and "\x1b" not in done.out
        rows = dict(re.split(" {2,}", line, maxsplit=1) for line in done.out.splitlines())
        assert rows["a.b"] == "1" and rows["a.c"] == "1, x" and rows["list[1].n"] == "2"
        assert rows["at"] == "2026-01-02 03:04:05" and rows["none"] == "-"


SETTINGS = {"managerConfig": {"maxLosses": 5}, "monitoring": {"logLevel": "info"},
            "executorNodeConfig": {"pools": ["default"],
                                   "spark": {"conf": {"spark.ui.port": "0"}, "home": ""}}}


@pytest.mark.parametrize("words, patch", [
    (["managerConfig.maxLosses=7"], {"managerConfig": {"maxLosses": 7}}),
    (["managerConfig.maxLosses=many"], {"managerConfig": {"maxLosses": "many"}}),
    (["monitoring.logLevel=7"], {"monitoring": {"logLevel": "7"}}),
    (["monitoring.logLevel=a=b", "managerConfig.maxLosses=1"],
     {"monitoring": {"logLevel": "a=b"}, "managerConfig": {"maxLosses": 1}}),
    (["monitoring.logLevel="], {"monitoring": {"logLevel": ""}}),
    (["executorNodeConfig.pools=a, b"], {"executorNodeConfig": {"pools": ["a", "b"]}}),
    (["executorNodeConfig.spark.conf.spark.ui.port=4040", "executorNodeConfig.spark.conf.spark.a.b=x"],
     {"executorNodeConfig": {"spark": {"conf": {"spark.ui.port": "4040", "spark.a.b": "x"}}}}),
    (["nonsense=1"], {"nonsense": "1"}),
    (["managerConfig=1"], {"managerConfig": "1"}),
    (["managerConfig.=1"], {"managerConfig.": "1"}),
    (["managerConfig.non.sense=1"], {"managerConfig": {"non.sense": "1"}}),
])
def test_set(straw, words, patch):
    """A value goes out with the type that the setting has; what is wrong with it the manager says."""
    straw.on("GET", "/mgmt/config", SETTINGS).on("PATCH", "/mgmt/config", SETTINGS)
    done = sje("set", *words, straw=straw)
    assert done.returncode == OK and done.out == "", done
    ((*_, sent),) = straw.asked("PATCH", "/mgmt/config")
    assert json.loads(sent) == patch


def test_set_says_what_is_in_force(straw):
    straw.on("GET", "/mgmt/config", {"managerConfig": {"maxLosses": 5}})
    straw.on("PATCH", "/mgmt/config", SETTINGS)
    done = sje("set", "managerConfig.maxLosses=7", straw=straw)
    assert done.err == "managerConfig.maxLosses is 5\n"
    done = sje("set", "managerConfig.maxLosses=7", "--json", straw=straw)
    assert (json.loads(done.out), done.err) == (SETTINGS, "")


def test_reset(straw):
    straw.on("GET", "/mgmt/config", SETTINGS).on("PATCH", "/mgmt/config", SETTINGS)
    done = sje("reset", "managerConfig.maxLosses", "executorNodeConfig.spark.conf.spark.x", straw=straw)
    assert done.returncode == OK, done
    assert done.err.splitlines() == ["managerConfig.maxLosses is 5",
                                     "executorNodeConfig.spark.conf.spark.x is not set"]
    assert json.loads(straw.asked("PATCH", "/mgmt/config")[0][3]) == {
        "managerConfig": {"maxLosses": None}, "executorNodeConfig": {"spark": {"conf": {"spark.x": None}}}}


def test_a_refused_setting(straw):
    straw.on("GET", "/mgmt/config", SETTINGS)
    straw.on("PATCH", "/mgmt/config", problem(422, "Invalid", errors=[
        {"field": "managerConfig.maxLosses", "message": "must be 1 to 100"}]))
    done = sje("set", "managerConfig.maxLosses=0", straw=straw)
    assert done.returncode == USAGE and "managerConfig.maxLosses: must be 1 to 100" in done.err


@pytest.mark.parametrize("words", [["set"], ["reset"], ["set", "a.b"], ["set", "=1"], ["set", ""],
                                   ["reset", "a=1"], ["reset", ""], ["set", "a=1", "b"]])
def test_wrong_settings(straw, words):
    done = sje(*words, straw=straw)
    assert done.returncode == USAGE and words[0] in done.err and not straw.requests


def test_a_pool_that_nobody_serves_is_warned_of(straw):
    text = "no worker serves a pool of that name; there are default, gpu"
    answer = {"pool": "nobodys", "paused": True, "warnings": [text]}
    straw.on("POST", "/mgmt/queues/nobodys/pause", answer)
    done = sje("pause", "nobodys", straw=straw)
    assert (done.returncode, done.out) == (OK, "")
    assert done.err == f"pool nobodys is paused; what runs goes on\nwarning: {text}\n"
    assert json.loads(sje("pause", "nobodys", "--json", straw=straw).out) == answer


@pytest.mark.parametrize("command, other", [("resume", "unpause"), ("drain", "pause")])
def test_a_pool_where_a_worker_is_expected(straw, command, other):
    straw.on("POST", f"/mgmt/workers/gpu/{command}", problem(404, "no such worker"))
    straw.on("GET", "/mgmt/queues", {"queues": [{"pool": "default"}, {"pool": "gpu"}]})
    done = sje(command, "gpu", straw=straw)
    assert done.returncode == USAGE
    assert done.err.endswith(f"gpu is the name of a pool; for that: sje {other} gpu\n"), done.err
    straw.on("GET", "/mgmt/queues", {"queues": [{"pool": "default"}]})
    assert "is the name of a pool" not in sje(command, "gpu", straw=straw).err


def test_health_says_that_no_manager_leads(straw):
    straw.on("GET", "/mgmt/workers", {"workers": []})
    for status, code in (("up", 200), ("down", 500)):
        straw.on("GET", "/health", (code, {"status": status, "leader": False, "noLeader": True}, {}))
        done = sje("health", straw=straw)
        assert "degraded: no manager leads: tasks wait until one does\n" in done.out
        assert done.returncode == TASK
    straw.on("GET", "/health", {"status": "up", "leader": False, "noLeader": False})
    assert "no manager leads" not in sje("health", straw=straw).out


def test_health(straw):
    straw.on("GET", "/health", {"status": "up", "database": "up"})
    done = sje("health", straw=straw)
    assert done.returncode == OK and "database  up" in done.out
    straw.on("GET", "/health", (500, {"status": "down", "broker": {"status": "down"}}, {}))
    done = sje("health", straw=straw)
    assert done.returncode == TASK and "broker.status  down" in done.out
    assert json.loads(sje("health", "--json", straw=straw).out)["status"] == "down"


def test_metrics(straw):
    straw.on("GET", "/metrics", (200, "# HELP x\nsje_x 1\n", {"Content-Type": "text/plain"}))
    assert sje("metrics", straw=straw).out == "# HELP x\nsje_x 1\n"
    assert json.loads(sje("metrics", "--json", straw=straw).out) == {"metrics": "# HELP x\nsje_x 1\n"}


@pytest.mark.parametrize("command, path, about", [
    ("drain", "/mgmt/workers/node1/drain", "worker node1"),
    ("resume", "/mgmt/workers/node1/resume", "worker node1"),
    ("pause", "/mgmt/queues/node1/pause", "pool node1"),
    ("unpause", "/mgmt/queues/node1/resume", "pool node1")])
def test_orders(straw, command, path, about):
    straw.on("POST", path, {"ok": True})
    done = sje(command, "node1", straw=straw)
    assert done.returncode == OK and about in done.err
    assert json.loads(sje(command, "node1", "--json", straw=straw).out) == {"ok": True}
    straw.on("POST", path, problem(404, "not found"))
    done = sje(command, "node1", straw=straw)
    assert done.returncode == USAGE and f"{about}: not found" in done.err
