"""Plots of build/bench/results.json, to build/bench and docs/benchmarks."""
import json
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
OUT, DOCS = ROOT / "build/bench", ROOT / "docs/benchmarks"
rows = json.loads((OUT / "results.json").read_text())["rows"]


def save(name):
    pyplot.tight_layout()
    pyplot.savefig(OUT / name, dpi=80, metadata={"Software": None})
    pyplot.close()
    DOCS.mkdir(exist_ok=True)
    shutil.copy(OUT / name, DOCS / name)


def bars(name, unit, wanted):
    values = {r["measure"]: r["value"] for r in rows if r["unit"] in wanted and "CPU" not in r["measure"]
              and not r["measure"].startswith("growth")}
    _, axes = pyplot.subplots(figsize=(9, 0.4 * len(values) + 1))
    drawn = axes.barh(list(values)[::-1], list(values.values())[::-1], color="#4878a8")
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_xscale("log")
    axes.set_xlim(right=max(values.values()) * 4)
    axes.set_xlabel(unit + ", logarithmic")
    save(name)


def growth():
    part = [r for r in rows if r["measure"].startswith("growth: ")]
    speed = {r["measure"][8:]: r["value"] for r in part if r["unit"] == "tasks/s"}
    p99 = {r["measure"][8:].split(", p99")[0]: r["value"] for r in part if r["unit"] == "ms"}
    _, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5))
    left.bar(speed.keys(), speed.values(), color="#4878a8")
    left.set_ylabel("tasks/s")
    right.bar(p99.keys(), p99.values(), color="#a86848")
    right.set_ylabel("ms, p99 of priority 9")
    for axes in (left, right):
        axes.tick_params(axis="x", rotation=20)
    save("growth.png")


bars("throughput.png", "per second", ("tasks/s", "messages/s", "commits/s", "processes/s"))
growth()
