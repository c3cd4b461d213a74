import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from sje import BIN, ROOT, Cluster, Services  # noqa: E402


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows what the servers logged beside a failure."""
    report = yield
    if report.failed:
        for name in ("sje", "own"):
            cluster = item.funcargs.get(name)
            if isinstance(cluster, Cluster):
                report.sections.append((f"servers of {name}", cluster.tail()))
            elif getattr(cluster, "made", None):
                report.sections.append((f"servers of {name}", cluster.made[-1].tail()))
    return report


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    path = Path(os.environ.get("SJE_E2E_DIR") or tmp_path_factory.mktemp("e2e"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def services(run_dir):
    given = os.environ.get("SJE_SERVICES")
    s = Services(given or run_dir / "services")
    yield s
    if not given:
        s.script("stop")


@pytest.fixture(scope="session")
def spark():
    """Settings that name the Spark of the virtual environment."""
    python = ROOT / ".venv/bin/python3"
    home = subprocess.run([python, "-c", "import pyspark; print(pyspark.__path__[0])"], check=True,
                          capture_output=True, text=True).stdout.strip()
    return {"SJE_NODE_SPARK_HOME": home, "SJE_NODE_SPARK_PYTHON": str(python),
            "SJE_NODE_SPARK_MASTER": "local[2]"}


@pytest.fixture(scope="session")
def shared(run_dir, services, spark):
    """The cluster that most tests share: one process with both roles."""
    c = Cluster(run_dir / "shared", services, spark)
    yield c
    c.close()


@pytest.fixture
def sje(shared):
    """The shared cluster, healthy at the beginning of each test."""
    shared.ready()
    return shared


@pytest.fixture
def own(run_dir, services, spark, request):
    """Makes clusters that a test has for itself: own(split=True, SJE_NODE_SLOTS="1")."""
    def make(**settings):
        directory = run_dir / f"{request.node.name}-{len(make.made)}"
        shutil.rmtree(directory, ignore_errors=True)
        make.made.append(Cluster(directory, services, spark, **settings))
        return make.made[-1]
    make.made = []
    yield make
    for c in make.made:
        c.close()


@pytest.fixture
def cli(sje):
    """Runs `sje` with arguments against the shared cluster."""
    def run(*arguments, url=None, **kw):
        env = {**os.environ, "SJE_URL": url or sje.url}
        return subprocess.run([BIN / "sje", *arguments], env=env, cwd=ROOT, text=True,
                              capture_output=True, timeout=180, **kw)
    return run
