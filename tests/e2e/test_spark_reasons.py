"""Why a Spark application failed: its own last words, of real ones."""

START = 240  # seconds that an application may take, on a busy machine too

# name: (the application, what else the task says, the kind, the message)
CASES = {
    "syntax": ('print("x"\n', {}, "exit", "SyntaxError: '(' was never closed"),
    "exitmsg": ("from pyspark.sql import SparkSession\n"
                "SparkSession.builder.getOrCreate()\n"
                "raise SystemExit('no rows for 2026-11-27: upstream load is missing')\n", {}, "exit",
                "no rows for 2026-11-27: upstream load is missing"),
    "kill9": ("import os\nos.kill(os.getpid(), 9)\n", {}, "killed",
              "the Python driver was killed by signal 9 (exit code 137)"),
    "handled": ("import logging, sys\n"
                "try:\n"
                "    open('/nowhere/cache')\n"
                "except OSError:\n"
                "    logging.exception('no cache, going on without')\n"
                "logging.error('quality gate failed: 0 rows')\n"
                "sys.exit(3)\n", {}, "exit", "ERROR:root:quality gate failed: 0 rows"),
    "nopython": ("", {"env": {"PYSPARK_PYTHON": "/nowhere/python"}}, "exit",
                 'java.io.IOException: Cannot run program "/nowhere/python": error=2, No such file or directory'),
    "memory": ("", {"conf": {"spark.driver.memory": "5 gigs"}}, "exit",
               "Invalid maximum heap size: -Xmx5 gigs"),
}


def test_reasons(sje, tmp_path):
    submitted = {}
    for name, (source, change, _, _) in CASES.items():
        app = tmp_path / f"app_{name}.py"
        app.write_text(source)
        submitted[name] = sje.submit({"jobId": name, "jobType": "SparkApp", "sparkAppPath": str(app),
                                      "master": "local[1]", **change})
    told = {}
    for name, task_id in submitted.items():
        t = sje.end(task_id, START)
        assert t["state"] == "FAILED", t
        told[name] = (t["error"]["kind"], t["error"]["message"])
    assert told == {name: (kind, message) for name, (_, _, kind, message) in CASES.items()}
    e = sje.task(submitted["kill9"])["error"]
    assert (e["exitCode"], e["signal"]) == (137, 9), e
