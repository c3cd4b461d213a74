"""Wrong settings: one clear line, an exit status that is not 0, and no secret shown."""
import os
import socket
import subprocess

import pytest

from sje import BIN, Client, free_port, until

SECRET = "s3cr3t-pa55"


def executor(*arguments, cwd="/", within=30, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
    return subprocess.run([BIN / "sje-executor", *arguments], env={**env, **settings}, cwd=cwd,
                          capture_output=True, text=True, timeout=within, stdin=subprocess.DEVNULL)


def refused(done, *words):
    shown = done.stdout + done.stderr
    assert done.returncode not in (0, None) and done.returncode > 0, shown
    assert SECRET not in shown
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) == 1, shown
    for word in words:
        assert word in lines[0], lines[0]


def config(tmp_path, text):
    path = tmp_path / "sje-config.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("text, words", [
    ("apiConfig:\n  prot: 1\n", ["sje-config.yaml", "2", "prot"]),
    ("nonsense: {}\n", ["1", "nonsense"]),
    ("apiConfig:\n  port: many\n", ["2", "port"]),
    ("apiConfig:\n  port: 70000\n", ["2", "port", "65535"]),
    ("apiConfig: [1\n", ["sje-config.yaml"]),
    ("apiConfig:\n\tport: 1\n", ["2"]),
    ("dbConfig: {type: MySQL}\n", ["type", "PostgreSQL"]),
    ("dbConfig: {type: MongoDB}\n", ["type", "MongoDB", "PostgreSQL"]),
    (f"dbConfig:\n  password: {SECRET}\n  pasword: {SECRET}\n", ["3", "pasword"]),
    ("a: &a [*a]\n", []),
])
def test_check_config(tmp_path, text, words):
    refused(executor("--check-config", "--config", config(tmp_path, text)), *words)


def test_a_good_file_is_checked_without_starting(tmp_path):
    done = executor("--check-config", "--config", config(tmp_path, "apiConfig: {port: 1}\n"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["PostGresSQL", "postgresql", "POSTGRES", "pg"])
def test_spellings_of_the_database(tmp_path, name):
    done = executor("--check-config", "--config", config(tmp_path, f"dbConfig: {{type: {name}}}\n"))
    assert done.returncode == 0, done.stderr


def test_a_worker_that_beats_too_rarely_is_warned_of(tmp_path):
    file = config(tmp_path, "executorNodeConfig: {heartbeatSeconds: 60, deadAfterSeconds: 30}\n")
    done = executor("--check-config", "--role", "worker", "--config", file)
    assert done.returncode == 0 and ": ok" in done.stdout, done.stderr
    assert "warning: executorNodeConfig.heartbeatSeconds: is 60, more than a third" in done.stderr
    refused(executor("--check-config", "--role", "all", "--config", file), "at least three times")
    file = config(tmp_path, "executorNodeConfig: {heartbeatSeconds: 60, deadAfterSeconds: 180}\n")
    assert executor("--check-config", "--role", "worker", "--config", file).stderr == ""


def test_a_file_in_the_working_directory_is_found(tmp_path):
    config(tmp_path, "nonsense: 1\n")
    refused(executor("--check-config", cwd=tmp_path), "nonsense")


@pytest.mark.parametrize("arguments, settings, words", [
    (["--config", "/nowhere/sje.yaml"], {}, ["/nowhere/sje.yaml"]),
    (["--config", "/"], {}, ["/"]),
    (["--nonsense"], {}, ["nonsense"]),
    (["--role", "boss"], {}, ["boss"]),
    (["--check-config"], {"SJE_API_PORT": "x"}, ["SJE_API_PORT"]),
    (["--check-config"], {"SJE_DB_PASSWORD_FILE": "/nowhere/secret"}, ["/nowhere/secret"]),
])
def test_wrong_arguments_and_environment(arguments, settings, words):
    refused(executor(*arguments, **settings), *words)


def test_version():
    done = executor("--version")
    assert done.returncode == 0 and any(c.isdigit() for c in done.stdout)


def test_port_in_use(services, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        refused(executor("--role", "manager", cwd=tmp_path, **services.tenant(),
                         SJE_API_PORT=str(port), SJE_MONITORING_LOG_LEVEL="error"), str(port))


def start(tmp_path, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
    out = open(tmp_path / "output", "wb")
    return subprocess.Popen([BIN / "sje-executor", "--role", "manager"], cwd=tmp_path, stdout=out,
                            stderr=out, stdin=subprocess.DEVNULL, env={**env, **settings})


@pytest.mark.parametrize("wrong, word", [
    ({"SJE_DB_PASSWORD": SECRET}, "password"),
    ({"SJE_DB_DATABASE": "no_such_database"}, "no_such_database"),
    ({"SJE_DB_PORT": "1"}, "127.0.0.1"),
    ({"SJE_DB_HOST": "no-such-host.invalid"}, "no-such-host.invalid"),
    ({"SJE_RABBITMQ_PASSWORD": SECRET}, "refused user"),
    ({"SJE_RABBITMQ_VHOST": "no-such-vhost"}, "no-such-vhost"),
    ({"SJE_RABBITMQ_PORT": "1"}, "127.0.0.1"),
])
def test_what_cannot_be_reached_is_named(services, tmp_path, wrong, word):
    """What may come back is said and waited for; a refusal is said and ends it, with 2."""
    port = free_port()
    p = start(tmp_path, **{**services.tenant(), "SJE_API_PORT": str(port), **wrong})
    output = tmp_path / "output"
    try:
        until(lambda: word.lower() in output.read_text().lower(), 20, f"{word} in the log")
        api = Client(f"http://127.0.0.1:{port}")
        status = until(lambda: answers(api) or p.poll(), 20, "it answers or ends")
        if p.poll() is None:
            assert status == 500
            p.terminate()
            assert p.wait(20) == 0
        else:
            assert p.returncode == 2
    finally:
        p.kill()
        p.wait()
    text = output.read_text()
    assert SECRET not in text
    assert len(text.splitlines()) < 60, "a flood of the same line"


def answers(api):
    try:
        return api.call("GET", "/health").status_code
    except OSError:
        return None


def test_secrets_from_a_file(own, services, tmp_path):
    secret = tmp_path / "password"
    secret.write_text(services.env["SJE_DB_PASSWORD"] + "\n")
    sje = own(SJE_DB_PASSWORD=None, SJE_DB_PASSWORD_FILE=str(secret))
    assert sje.run({"jobType": "Noop"})["state"] == "SUCCEEDED"


def test_two_workers_need_two_directories(own):
    sje = own()
    done = executor("--role", "worker", **{**sje.settings, "SJE_NODE_NODE_ID": "node2",
                                           "SJE_MONITORING_LOG_LEVEL": "error"})
    refused(done, str(sje.work))


def test_zero_at_run_time_is_what_the_machine_has(own):
    """Also in the database, where each start finds it; and no value there ends a process."""
    sje = own(SJE_NODE_SLOTS="3", SJE_NODE_CPUS="2", SJE_NODE_MEMORY_MB="512")
    keys = ("slots", "cpus", "memoryMb")

    def offered():
        node = sje.get("/mgmt/config").json()["executorNodeConfig"]
        (worker,) = sje.workers()
        return [node[k] for k in keys], [worker[k] for k in keys]

    assert offered() == ([3, 2, 512], [3, 2, 512])
    answer = sje.call("PATCH", "/mgmt/config", 200, json={"executorNodeConfig": dict.fromkeys(keys, 0)})
    machine = [answer.json()["executorNodeConfig"][k] for k in keys]
    assert machine[0] == machine[1] == len(os.sched_getaffinity(0)) and machine[2] > 512, machine
    until(lambda: offered() == (machine, machine), 20, "the worker offers what the machine has")
    assert sje.manager.terminate() == 0
    sje.manager.start()
    sje.ready()
    until(lambda: offered() == (machine, machine), 20, "the next process finds that")
    for value in ('{"executorNodeConfig":{"deadAfterSeconds":30,"slots":-1,"cpus":"x","heartbeatSeconds":0}}',
                  '{"executorNodeConfig":5}', '[1]', '7'):
        with sje.database() as db, db.cursor() as c:
            c.execute("update setting set version = version + 1, value = %s", (value,))
        until(lambda: offered() == ([3, 2, 512], [3, 2, 512]), 20, "what is no setting is left out")
        until(lambda: stored(sje) == 30, 15, "the cluster's own value is there again")
        n = changes(sje)
        assert sje.manager.process.poll() is None
    assert "executorNodeConfig.slots: -1 is out of range" in sje.manager.output.read_text()
    assert sje.run({"jobType": "Noop"})["state"] == "SUCCEEDED"
    assert changes(sje) == n, "written once, not again and again"


def stored(sje):
    with sje.database() as db, db.cursor() as c:
        c.execute("select value::jsonb #> '{executorNodeConfig,deadAfterSeconds}' from setting")
        return c.fetchone()[0]


def changes(sje):
    with sje.database() as db, db.cursor() as c:
        c.execute("select count(*) from cluster_event where event = 'settingsChanged'")
        return c.fetchone()[0]
