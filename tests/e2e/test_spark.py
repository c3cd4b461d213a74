"""Real Spark applications: what they count, how they are watched, how they end."""
import csv
import json
import re
import shutil
import time
from collections import Counter
from decimal import Decimal

import pytest
import requests
from test_command import SAVES, has_its_grace

from sje import FINAL, ROOT, processes_with, until

TEXT = (ROOT / "examples/data/northanger-abbey.txt").read_text()
START = 240  # seconds that an application may take, on a busy machine too


def example(name, **changes):
    return {**json.loads((ROOT / f"examples/tasks/{name}.json").read_text()), **changes}


def test_word_count(sje):
    task_id = sje.submit(example("wordcount"))
    seen, application = [], set()
    limit = time.monotonic() + START
    while (t := sje.task(task_id))["state"] not in FINAL:
        assert time.monotonic() < limit, t
        if t["state"] == "RUNNING" and t["progress"]:
            application.add(t["applicationId"])
            p = t["progress"]
            assert 0 <= p["done"] <= p["total"], p
            if not seen or seen[-1] != (p["done"], p["total"]):
                seen.append((p["done"], p["total"]))
    assert (t["state"], t["code"], t["error"]) == ("SUCCEEDED", 200, None), t
    assert re.fullmatch(r"local-\d+", t["applicationId"]), t
    assert application <= {None, t["applicationId"]}
    growth = [b for a, b in zip(seen, seen[1:]) if b[0] > a[0]]
    assert growth, f"no progress seen while it ran: {seen}"
    assert t["startedAt"] >= t["submittedAt"] and t["finishedAt"] > t["startedAt"]

    words = Counter(re.findall(r"[a-z]+(?:'[a-z]+)?", TEXT.lower()))
    result = sje.get(f"/task/{task_id}/result").json()
    assert (result["words"], result["distinct"]) == (words.total(), len(words))
    top = sorted(words.items(), key=lambda c: (-c[1], c[0]))[:20]
    assert [(r["word"], r["count"]) for r in result["top"]] == top

    events = sje.events(task_id)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["at"] for e in events] == sorted(e["at"] for e in events)
    story = [e["event"] for e in events]
    assert story[0] == "accepted" and story[-1] == "succeeded"
    assert story.index("granted") < story.index("application") < len(story) - 1
    assert {e["workerId"] for e in events} == {None, t["workerId"]} and t["workerId"] == "node1"
    assert f"{words.total()} words" in sje.log(task_id).text
    assert "SparkContext" in sje.log(task_id, "stderr").text


def test_parameters_arguments_and_a_python_dependency(sje):
    t = sje.run(example("pi"), START)
    assert t["state"] == "SUCCEEDED", t
    assert t["output"]["samples"] == 400_000 and abs(t["output"]["pi"] - 3.14) < 0.02
    assert t["output"]["label"] == ["an", "extra argument"]


def test_examples_in_folders_with_a_space(own, tmp_path):
    """Of the clone and of the work directory; a percent sign and a plus are as good."""
    clone = tmp_path / "my 50%20 + sje"
    shutil.copytree(ROOT / "examples", clone / "examples")
    shutil.copytree(ROOT / "build/examples", clone / "build/examples")
    sje = own(SJE_NODE_WORK_DIR=str(tmp_path / "my work"))
    names = ["wordcount", "pi", "letters", "sales"]
    text = json.dumps([example(name, conf={"spark.driver.memory": "512m"}) for name in names])
    tasks = json.loads(re.sub(r'"((build/)?examples/)', lambda m: f'"{clone}/{m[1]}', text))
    for task_id in [t["taskId"] for t in sje.post("/tasks", tasks).json()["tasks"]]:
        t = sje.end(task_id, START)
        assert t["state"] == "SUCCEEDED", (t, sje.log(task_id, "stderr").text[-2000:])


def test_parameters_keep_their_order_and_their_types(sje, tmp_path):
    app = tmp_path / "argv.py"
    app.write_text("import json, os, sys\n"
                   "open(os.environ['SJE_OUTPUT'], 'w').write(json.dumps(sys.argv[1:]))\n")
    t = sje.run({"jobType": "sparkapp", "sparkAppPath": str(app),
                 "parameters": {"z": "a b", "n": 12, "a": {"k": [1, 2.5, None]}, "flag": True, "e": ""},
                 "args": ["--last", "*", "$HOME"]}, START)
    assert t["state"] == "SUCCEEDED", t
    assert t["jobType"] == "SparkApp"
    assert t["output"] == ["--z", "a b", "--n", "12", "--a", '{"k":[1,2.5,null]}', "--flag", "true",
                           "--e", "", "--last", "*", "$HOME"]


def test_files_of_every_usual_format_are_written_and_read(sje, tmp_path):
    """With the codecs that Spark takes by itself: snappy's native library must load on a machine that
    `make run` prepared."""
    app = tmp_path / "formats.py"
    app.write_text("""import json, os, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.config("spark.sql.warehouse.dir", sys.argv[1] + "/warehouse").getOrCreate()
names = spark.createDataFrame([(i, f"n{i}") for i in range(5)], "id long, name string")
counts = {}
for kind in ("parquet", "orc", "csv", "json"):
    path = f"{sys.argv[1]}/{kind}"
    names.write.format(kind).save(path)
    counts[kind] = spark.read.format(kind).schema(names.schema).load(path).count()
names.write.saveAsTable("names")
counts["table"] = spark.table("names").join(spark.range(3), "id").count()
open(os.environ["SJE_OUTPUT"], "w").write(json.dumps(counts))
""")
    t = sje.run({"jobType": "SparkApp", "sparkAppPath": str(app), "args": [str(tmp_path)]}, START)
    assert t["state"] == "SUCCEEDED", t
    assert t["output"] == {"parquet": 5, "orc": 5, "csv": 5, "json": 5, "table": 3}


def test_a_jar_uses_its_second_jar(sje):
    t = sje.run(example("letters"), START)
    assert t["state"] == "SUCCEEDED", t
    initials = Counter(w[0].lower() for w in re.findall(r"[^\W\d_]+", TEXT))
    assert t["output"]["letters"] == {c: n for c, n in initials.items() if n >= 10}


def test_sql_over_a_csv(sje):
    t = sje.run(example("sales"), START)
    assert t["state"] == "SUCCEEDED", t
    revenue = Counter()
    with open(ROOT / "examples/data/sales.csv", newline="") as f:
        for row in csv.DictReader(f):
            if row["day"].startswith("2024"):
                month = int(row["day"][5:7])
                revenue[row["region"], month] += int(row["quantity"]) * Decimal(row["price"])
    assert {(r["region"], r["month"]): Decimal(r["revenue"]) for r in t["output"]["rows"]} == revenue

PROGRESS = """
import pathlib, sys, time
from pyspark.sql import SparkSession
sc = SparkSession.builder.getOrCreate().sparkContext
pairs = sc.parallelize(range(100), 4).map(lambda n: (n % 7, n)).reduceByKey(lambda a, b: a + b)
assert pairs.count() == 7
assert pairs.count() == 7  # its first stage is skipped
try:
    sc.parallelize(range(4), 4).map(lambda n: 1 // 0).count()
except Exception:
    pass
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
"""


def test_progress_beside_other_listeners_skipped_stages_and_a_failed_job(sje, tmp_path):
    app, go = tmp_path / "progress.py", tmp_path / "go"
    app.write_text(PROGRESS)
    task_id = sje.submit({"jobType": "SparkApp", "sparkAppPath": str(app), "args": [str(go)],
                          "conf": {"spark.extraListeners": "org.apache.spark.scheduler.StatsReportListener"}})
    until(lambda: (sje.task(task_id)["progress"] or {}).get("total") == 20, START, "all jobs have begun")
    p = until(lambda: "job 3 of 3" in (p := sje.task(task_id)["progress"])["text"] and p, START, "two jobs are over")
    assert p == {"done": 16, "total": 20, "text": "job 3 of 3, stage 5 of 5: 16/20 tasks"}
    running = sje.get("/mgmt/workers/node1").json()["tasks"]
    url = next(r["uiUrl"] for r in running if r["taskId"] == task_id)
    assert sje.task(task_id)["applicationId"] in requests.get(f"{url}/api/v1/applications", timeout=30).text
    go.touch()
    assert sje.end(task_id, START)["state"] == "SUCCEEDED"
    assert "task runtime" in sje.log(task_id, "stderr").text  # the other listener's


def test_an_exception_is_named(sje):
    task_id = sje.submit(example("failing"))
    t = sje.end(task_id, START)
    assert (t["state"], t["code"], t["attempt"]) == ("FAILED", 500, 1), t
    assert "ValueError: not a number: 'forty-two'" in t["error"]["message"]
    assert "\n" not in t["error"]["message"] and t["error"]["exitCode"] == 1
    r = sje.get(f"/task/{task_id}/result", 500)
    assert "ValueError: not a number: 'forty-two'" in r.text


def test_cancel_stops_every_process_and_secrets_stay_out_of_argv(sje):
    task_id = sje.submit(example("long", conf={"spark.hadoop.fs.s3a.secret.key": "hidden-42"}))
    until(lambda: (sje.task(task_id)["progress"] or {}).get("done", 0) > 1, START, "progress")
    assert processes_with(task_id)
    shown = [p for p in processes_with("hidden-42")]
    assert not shown, f"a secret is in the arguments or environment of {shown}"
    before = time.monotonic()
    sje.cancel(task_id, 202)
    t = sje.end(task_id, 30)
    assert (t["state"], t["code"], t["error"]["kind"]) == ("CANCELLED", 410, "cancelled"), t
    assert time.monotonic() - before < 10
    until(lambda: not processes_with(task_id), 5, "no process is left")
    sje.get(f"/task/{task_id}/result", 410)
    assert "cancelRequested" in sje.story(task_id)


def test_cancel_gives_the_grace_to_the_driver(own, tmp_path):
    """Which is a child of Spark's own process, and that has soon ended."""
    (tmp_path / "saves.py").write_text(SAVES)
    sje = own(SJE_NODE_KILL_GRACE_SECONDS="10")
    t = has_its_grace(sje, {"jobType": "SparkApp", "sparkAppPath": str(tmp_path / "saves.py"), "master": "local[1]",
                            "args": [str(tmp_path / "saved"), "spark"]}, tmp_path / "saved")
    assert (t["state"], t["error"]["kind"]) == ("CANCELLED", "cancelled"), t


@pytest.mark.parametrize("change, words", [
    ({"sparkAppPath": "/nowhere/application.py"}, "/nowhere/application.py"),
    ({"sparkAppPath": "/nowhere/application.jar", "mainClass": "A"}, "/nowhere/application.jar"),
    ({"dependencies": ["/nowhere/library.jar"]}, "/nowhere/library.jar"),
    ({"sparkAppPath": "build/examples/letters.jar", "mainClass": "example.Missing"}, "example.Missing"),
])
def test_what_is_missing_is_named(sje, change, words):
    t = sje.run({"jobType": "SparkApp", "sparkAppPath": "examples/wordcount.py", **change}, START)
    assert t["state"] == "FAILED", t
    assert words in t["error"]["message"], t["error"]


def test_a_text_is_no_jar(sje, tmp_path):
    app = tmp_path / "application.jar"
    app.write_text("this is no archive")
    t = sje.run({"jobType": "SparkApp", "sparkAppPath": str(app), "mainClass": "A"}, START)
    assert t["state"] == "FAILED" and t["error"]["message"], t


def test_an_application_survives_a_restart_of_its_worker(own):
    sje = own(split=True)
    task_id = sje.submit(example("long", parameters={"minutes": 0.3}))
    until(lambda: (sje.task(task_id)["progress"] or {}).get("done", 0) > 1, START, "progress")
    sje.worker.kill()
    sje.worker.start()
    t = sje.end(task_id, START)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), (t, sje.story(task_id))
    assert "survived" in sje.story(task_id)
    assert sje.log(task_id).text.strip() == str(18 * 2)
