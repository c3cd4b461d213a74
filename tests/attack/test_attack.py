"""A short attack: each attacker for a moment. `make attack` makes longer ones, and judges times too."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_short_run(tmp_path):
    evidence = Path(os.environ.get("SJE_RUN_DIR", tmp_path)) / "attack"
    done = subprocess.run([sys.executable, ROOT / "tests/attack/run.py", evidence, "55", "--seed", "1",
                           "--tell-times"], cwd=ROOT,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
