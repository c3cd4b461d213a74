"""A short chaos run: cheap faults, quickly one after the other. `make chaos` makes long ones."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build/chaos"


def test_short_run(tmp_path):
    evidence = Path(os.environ.get("SJE_RUN_DIR", tmp_path)) / "chaos"
    done = subprocess.run(
        [sys.executable, ROOT / "tests/chaos/run.py", evidence, "45", "--short", "--seed", "1",
         "--bin", OUT / "bin", "--mark", OUT / "tests/chaos/mark"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    assert done.returncode == 0, done.stdout
