"""The description of the API against the running server: schemathesis sends what the description
allows and what it forbids, and compares every answer with it, for SJE_FUZZ_SECONDS (60). There is no
worker, so nothing that it submits is run."""
import os
import subprocess

from sje import ROOT


def test_the_server_does_what_the_description_says(own, tmp_path):
    sje = own(worker=False)
    ids = [sje.submit({"jobType": "Noop", "pool": "nobody"}) for _ in range(2)]
    sje.cancel(ids[0], 200)
    seconds = int(os.environ.get("SJE_FUZZ_SECONDS", "60"))
    done = subprocess.run(
        [ROOT / ".venv/bin/schemathesis", "--config-file", ROOT / "tests/e2e/schemathesis.toml",
         "run", ROOT / "api/openapi.yaml", "--url", sje.url,
         "--phases", "examples,coverage,fuzzing,stateful", "--seed", "1", "--workers", "1",
         "--max-time", str(seconds), "--max-examples", str(seconds), "--request-timeout", "70",
         "--checks", "all", "--exclude-checks", "use_after_free",  # DELETE cancels, the task stays
         "--no-color", "--suppress-health-check", "all",
         "--generation-database", ":memory:"],
        cwd=tmp_path, capture_output=True, text=True, timeout=seconds * 3 + 300)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    assert sje.manager.process.poll() is None
