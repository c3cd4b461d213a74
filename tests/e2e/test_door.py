"""What a page of another site may do with the server of whoever reads it: nothing."""
import http.client
import json

import pytest
import yaml

from sje import ROOT

STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},  # rebinding
    {"Origin": "http://evil.example", "Content-Type": "text/plain"},
    {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site", "Content-Type": "text/plain"},
    {"Origin": "null", "Content-Type": "application/x-www-form-urlencoded"},
    {"Sec-Fetch-Site": "cross-site"},
]


def routes():
    for path, methods in yaml.safe_load((ROOT / "api/openapi.yaml").read_text())["paths"].items():
        for method in methods:
            if method != "parameters":
                yield method.upper(), path.replace("{taskId}", "0190a5b2-0000-7000-8000-000000000000")
    yield "POST", "/internal/beat"
    yield "OPTIONS", "/task"
    yield "GET", "/nowhere"


def ask(sje, method, path, headers, body=None):
    """http.client sends what it is told, and no more."""
    host, port = sje.url.removeprefix("http://").split(":")
    c = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        c.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            c.putheader(name, value)
        if body is not None:
            c.putheader("Content-Length", str(len(body)))
        c.endheaders(body)
        r = c.getresponse()
        return r.status, r.getheader("Content-Type"), r.read()
    finally:
        c.close()


@pytest.mark.parametrize("headers", STRANGERS)
def test_no_route_takes_a_page_of_another_site(sje, tmp_path, headers):
    mark = tmp_path / "ran"
    body = json.dumps({"jobType": "Command", "command": ["touch", str(mark)]}).encode()
    before = len(sje.get("/tasks").json()["tasks"])
    for method, path in routes():
        if path == "/internal/beat" and headers.keys() == {"Host"}:
            continue  # a worker's, which may know the manager by any name; a browser says Origin
        status, kind, answer = ask(sje, method, path, headers, body if method in ("POST", "PATCH") else None)
        assert status == 403, f"{method} {path}: {status} {answer[:300]}"
        problem = json.loads(answer)
        assert kind == "application/problem+json" and problem["status"] == 403
        assert "evil.example" in problem["detail"] or "page of" in problem["detail"]
    assert len(sje.get("/tasks").json()["tasks"]) == before and not mark.exists()


def test_what_is_no_browser_comes_in_as_before(sje):
    """As `curl -d` sends it; and HTTP/1.0 without a Host."""
    body = b'{"jobType":"Noop"}'
    form = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": "curl/8", "Accept": "*/*"}
    assert ask(sje, "POST", "/task", form, body)[0] == 202
    for host in ("localhost", "127.0.0.1:1", "[::1]:8082", "LOCALHOST:80"):
        assert ask(sje, "GET", "/health/live", {"Host": host})[0] == 200


def test_a_page_of_our_own_comes_in(sje):
    headers = {"Origin": sje.url, "Sec-Fetch-Site": "same-origin"}
    assert ask(sje, "POST", "/task", headers, b'{"jobType":"Noop"}')[0] == 202
    assert ask(sje, "GET", "/tasks", {"Sec-Fetch-Site": "none"})[0] == 200


def test_names_are_configured(own):
    sje = own(SJE_API_HOSTS="sje.example,proxy.example:8443")
    assert ask(sje, "GET", "/health/live", {"Host": "sje.example:81"})[0] == 200
    assert ask(sje, "GET", "/health/live", {"Origin": "https://proxy.example:8443"})[0] == 200
    assert ask(sje, "GET", "/health/live", {"Origin": "https://proxy.example"})[0] == 403
    assert ask(sje, "GET", "/health/live", {"Host": "other.example"})[0] == 403
    refused = sje.get("/metrics").text
    assert 'sje_http_refused_total{reason="door"} 2' in refused
