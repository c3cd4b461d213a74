"""What a Spark application gets is, byte for byte, what was sent, whatever the worker's locale; what cannot
be carried is refused at the door. The table in docs/spark.md is what this file sees: SJE_WRITE_DOCS=1
writes it."""
import json
import os
import shutil
import subprocess
import zipfile

import pytest

from sje import ROOT

START = 240

LETTERS = "ünï €😀 ж 漢"
QUOTES = """a"b'c`d$HOME;e&f|g<h>i(j)k!l#m%n\\o*p?q[r]s{t}~u=v,w:x"""
CONTROL = "a\x01b\x7fc"
# Each kind of value, and what it is called in the table.
VALUES = {
    "letters of any language": LETTERS,
    "quotes and signs": QUOTES,
    "blanks at the ends": "  two, and one ",
    "tab and newline inside": "a\tb\nc",
    "tab and newline at the ends": "\n\ta\t\n",
    "control characters": CONTROL,
    "a control character at an end": "\x01\n",
    "a carriage return": "a\r\nb",
    "a carriage return, blanks at the ends": " \r ",
    "nothing": "",
    "60,000 bytes": "x" * 60_000,
    "131,071 bytes": "x" * 131_071,
    "131,072 bytes": "x" * 131_072,
}
# Of a path they are a part, and NUL and '/' can be in none.
NAMES = {
    "letters of any language": LETTERS,
    "quotes and signs that Spark takes": """a"b'c`d$HOME;e&f|g<h>i(j)k!m%n%20~u=v+x""",
    "a colon": "a:b",
    "a blank inside": "a  b",
    "a comma": "a,b",
    "a #": "a#b",
    "* ? [ ] { } \\": "a[b]*{c}",
    "a control character": "a\nb",
}
PLACES = ("args", "parameters", "conf", "env")

APP = r"""
import json, os, pathlib, sys
try:
    import helper_module
    helper = helper_module.NAME
except ImportError:
    helper = None
kind = json.loads(pathlib.Path(os.environ["KINDS"]).read_text())
spark = None
if kind["conf"]:
    from pyspark.sql import SparkSession
    spark = SparkSession.builder.getOrCreate().sparkContext.getConf()
seen = {"args": sys.argv[1:], "helper": helper, "file": __file__,
        "conf": {k: spark.get(k) for k in kind["conf"]}, "env": {k: os.environ.get(k) for k in kind["env"]}}
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(seen))
"""

ECHO = """
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
public class Echo {
    public static void main(String[] args) throws Exception {
        Files.write(Paths.get(System.getenv("SEEN")),
                    (String.join("\\0", args) + "\\0" + System.getenv("V1")).getBytes(StandardCharsets.UTF_8));
    }
}
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory, services, spark):
    """A worker as a minimal container has it: no locale, or one that is not installed."""
    from sje import Cluster
    c = Cluster(tmp_path_factory.mktemp("bare"), services, spark, SJE_NODE_SLOTS="2",
                LC_ALL=None, LC_CTYPE=None, LANG="xx_XX.nowhere")
    yield c
    c.close()


def place(where, i, text):
    """A specification's part that has this value there."""
    return {"args": {"args": [text]}, "parameters": {"parameters": {f"p{i}": text}},
            "conf": {"conf": {f"spark.sje.test.v{i}": text}}, "env": {"env": {f"V{i}": text}}}[where]


def refusal(c, part):
    r = c.call("POST", "/task", json={"jobType": "SparkApp", "sparkAppPath": "/nowhere/a.py",
                                      "delaySeconds": 3600, **part})
    if r.status_code == 202:
        c.cancel(r.json()["taskId"], None)
        return None
    assert r.status_code == 422, r.text
    (error,) = r.json()["errors"]
    return error


def test_values(bare, tmp_path):
    outcome, sent = {}, {"args": [], "parameters": {}, "conf": {}, "env": {}}
    for where in PLACES:
        for i, (kind, text) in enumerate(VALUES.items()):
            error = refusal(bare, place(where, i, text))
            if error:
                field = {"args": "args[0]", "parameters": f"parameters.p{i}",
                         "conf": f"conf.spark.sje.test.v{i}", "env": f"env.V{i}"}[where]
                assert error["field"] == field, error
                outcome[where, kind] = "refused"
            elif where == "args":
                sent["args"].append(text)
            else:
                sent[where].update(place(where, i, text)[where])
    app, kinds, seen = tmp_path / "app.py", tmp_path / "kinds", tmp_path / "seen"
    app.write_text(APP)
    kinds.write_text(json.dumps({"conf": list(sent["conf"]), "env": list(sent["env"])}))
    env = {**sent["env"], "KINDS": str(kinds), "SEEN": str(seen)}
    task_id = bare.submit({"jobType": "SparkApp", "sparkAppPath": str(app), **sent, "env": env})
    t = bare.end(task_id, START)
    assert t["state"] == "SUCCEEDED", (t["error"], bare.log(task_id, "stderr").text[-2000:])
    got = json.loads(seen.read_text())
    n = len(sent["parameters"])
    assert got["args"][0:2 * n:2] == [f"--{k}" for k in sent["parameters"]]
    arrived = {"args": got["args"][2 * n:], "parameters": got["args"][1:2 * n:2],
               "conf": list(got["conf"].values()), "env": list(got["env"].values())}
    for where in PLACES:
        for kind, text in VALUES.items():
            if (where, kind) not in outcome:
                what = arrived[where].pop(0)
                assert what == text, (where, kind, what[:100], text[:100])
                outcome[where, kind] = "as sent"
    lines = ["| | `args` | `parameters` | `conf` | `env` |", "|---|---|---|---|---|"]
    lines += [f"| {kind} | " + " | ".join(outcome[where, kind] for where in PLACES) + " |" for kind in VALUES]
    documented("values", lines)


def test_a_jar_gets_the_same(bare, tmp_path):
    source, seen = tmp_path / "Echo.java", tmp_path / "seen"
    source.write_text(ECHO)
    subprocess.run(["javac", "--release", "17", "-d", tmp_path, source], check=True)
    jar = tmp_path / "echo ü.jar"
    with zipfile.ZipFile(jar, "w") as z:
        z.write(tmp_path / "Echo.class", "Echo.class")
    args = [LETTERS, QUOTES, "", " x\t\n", CONTROL]
    t = bare.run({"jobType": "SparkApp", "sparkAppPath": str(jar), "mainClass": "Echo", "args": args,
                  "env": {"SEEN": str(seen), "V1": LETTERS}}, START)
    assert t["state"] == "SUCCEEDED", t["error"]
    assert seen.read_text().split("\0") == args + [LETTERS]


def test_paths(bare, tmp_path):
    """Of the application and of a dependency that it needs."""
    rows, waiting = {}, {}
    for i, (kind, name) in enumerate(NAMES.items()):
        folder = tmp_path / str(i) / name
        folder.mkdir(parents=True)
        app, helper = folder / "app.py", folder / "helper_module.py"
        app.write_text(APP)
        helper.write_text(f"NAME = {name!r}\n")
        refused = [bool(refusal(bare, part)) for part in ({"sparkAppPath": f"{folder}.py"},
                                                          {"dependencies": [f"{folder}.py"]})]
        rows[kind] = ["refused" if r else "as sent" for r in refused]
        if not all(refused):
            kinds, seen = tmp_path / f"kinds{i}", tmp_path / f"seen{i}"
            kinds.write_text(json.dumps({"conf": [], "env": []}))
            plain = tmp_path / f"plain{i}"
            plain.mkdir()
            shutil.copy(app, plain)
            shutil.copy(helper, plain)
            parts = {"sparkAppPath": str((plain if refused[0] else folder) / "app.py"),
                     "dependencies": [str((plain if refused[1] else folder) / "helper_module.py")]}
            env = {"KINDS": str(kinds), "SEEN": str(seen)}
            waiting[kind] = (bare.submit({"jobType": "SparkApp", **parts, "env": env}), parts, seen, name)
    for kind, (task_id, parts, seen, name) in waiting.items():
        t = bare.end(task_id, START)
        assert t["state"] == "SUCCEEDED", (kind, t["error"], bare.log(task_id, "stderr").text[-2000:])
        got = json.loads(seen.read_text())
        assert (got["file"], got["helper"]) == (parts["sparkAppPath"], name), (kind, got)
    lines = ["| in a path | `sparkAppPath` | `dependencies` |", "|---|---|---|"]
    documented("paths", lines + [f"| {kind} | {' | '.join(row)} |" for kind, row in rows.items()])


def documented(table, lines):
    path = ROOT / "docs/spark.md"
    text = path.read_text()
    begin, end = f"<!-- {table}: written by tests/e2e/test_spark_carries.py -->\n", f"<!-- end of {table} -->\n"
    before, rest = text.split(begin)
    old, after = rest.split(end)
    new = "".join(line.replace("\\", "\\\\") + "\n" for line in lines)
    if os.environ.get("SJE_WRITE_DOCS"):
        path.write_text(before + begin + new + end + after)
    else:
        assert old == new, "docs/spark.md is not what is true: SJE_WRITE_DOCS=1 writes it"


# ---- what comes on top

USES = r"""
import importlib, json, os, sys
from pyspark import SparkFiles
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
def works(name):
    try:
        return importlib.import_module(name).NAME
    except Exception as e:
        return str(e)
names = sys.argv[2:]
seen = {"here": [works(n) for n in names],
        "there": spark.sparkContext.parallelize([0], 1).map(lambda _: [works(n) for n in names]).collect()[0],
        "files": sorted(f for f in os.listdir(SparkFiles.getRootDirectory()) if not f.startswith(("mod", "_"))),
        "alias": None, "site": spark.conf.get("spark.sje.site", None)}
if sys.argv[1]:
    seen["alias"] = open(os.path.join(SparkFiles.get(sys.argv[1]), "data.txt")).read()
open(os.environ["SJE_OUTPUT"], "w").write(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    d = tmp_path_factory.mktemp("parts")
    (d / "app").mkdir()  # Python finds what lies beside an application
    (d / "app/app.py").write_text(USES)
    for name in "abcd":
        (d / f"mod{name}.py").write_text(f"NAME = {name!r}\n")
    with zipfile.ZipFile(d / "e.zip", "w") as z:
        z.writestr("mode.py", "NAME = 'e'\n")
    with zipfile.ZipFile(d / "f.egg", "w") as z:
        z.writestr("modf.py", "NAME = 'f'\n")
    (d / "data.txt").write_text("data")
    (d / "one.txt").write_text("1")
    (d / "two.txt").write_text("2")
    shutil.make_archive(d / "pack", "gztar", d, "data.txt")
    return d


def test_dependencies_come_on_top(bare, parts):
    t = bare.run({"jobType": "SparkApp", "sparkAppPath": str(parts / "app/app.py"),
                  "args": ["environment", "moda", "modb", "mode", "modf"],
                  "conf": {"spark.submit.pyFiles": f"{parts}/moda.py", "spark.files": f"{parts}/one.txt"},
                  "dependencies": [str(parts / n) for n in ("modb.py", "e.zip", "f.egg", "two.txt")]
                  + [f"{parts}/pack.tar.gz#environment"]}, START)
    assert t["state"] == "SUCCEEDED", t["error"]
    assert t["output"]["here"] == t["output"]["there"] == ["a", "b", "e", "f"]
    assert t["output"]["files"] == ["e.zip", "environment", "f.egg", "one.txt", "two.txt"]
    assert t["output"]["alias"] == "data"


def test_a_site_of_its_own(bare, parts, tmp_path):
    """SPARK_CONF_DIR in a task's env counts, and its lists too."""
    (tmp_path / "spark-defaults.conf").write_text(
        f"spark.sje.site=mine\nspark.submit.pyFiles {parts}/moda.py,\\\n   {parts}/modb.py\n"
        f"spark.files={parts}/one.txt\n")
    task = {"jobType": "SparkApp", "sparkAppPath": str(parts / "app/app.py"), "args": ["", "moda", "modb", "modc"],
            "env": {"SPARK_CONF_DIR": str(tmp_path)}, "dependencies": [f"{parts}/modc.py"]}
    t = bare.run(task, START)
    assert t["state"] == "SUCCEEDED", t["error"]
    assert (t["output"]["here"], t["output"]["site"]) == (["a", "b", "c"], "mine")
    assert t["output"]["there"] == ["a", "b", "c"] and t["output"]["files"] == ["one.txt"]
    t = bare.run({**task, "conf": {"spark.sje.site": "the task's", "spark.submit.pyFiles": f"{parts}/modd.py"}},
                 START)
    assert t["output"]["site"] == "the task's"
    assert [len(s) for s in t["output"]["here"]] == [len("No module named 'moda'")] * 2 + [1]


@pytest.mark.parametrize("part, field, words", [
    ({"dependencies": ["/x/mod-1-py3-none-any.whl"]}, "dependencies[0]", "wheel"),
    ({"dependencies": ["/x/a.txt#b"]}, "dependencies[0]", "alias"),
    ({"dependencies": ["/x/a.zip#"]}, "dependencies[0]", "alias"),
    ({"conf": {"fs.s3a.endpoint": "x"}}, "conf.fs.s3a.endpoint", "spark.hadoop.fs.s3a.endpoint"),
    ({"conf": {"spark.my.password": "x "}}, "conf.spark.my.password", "command line"),
    ({"parameters": {"p": ["x" * 131_070]}}, "parameters.p", "131071"),
    ({"parameters": {"a\rb": 1}}, "parameters.a?b", "carriage return"),
    ({"mainClass": "a\rb", "sparkAppPath": "/x/a.jar"}, "mainClass", "carriage return"),
])
def test_refused_in_so_many_words(bare, part, field, words):
    error = refusal(bare, part)
    assert error["field"] == field and words in error["message"], error


# ---- how it ends, and what it leaves

def test_a_main_that_has_thrown_ends_the_application(bare, tmp_path):
    """Though a thread of its own goes on; and who reads what nobody sends gets the end of it."""
    source = tmp_path / "Hang.java"
    source.write_text("""
public class Hang {
    public static void main(String[] args) throws Exception {
        int c = System.in.read();
        new Thread(() -> { try { Thread.sleep(3600_000); } catch (InterruptedException e) { } }).start();
        System.out.println("read " + c);
        if (args.length > 0) throw new IllegalStateException("bad input");
    }
}""")
    subprocess.run(["javac", "--release", "17", "-d", tmp_path, source], check=True)
    with zipfile.ZipFile(tmp_path / "hang.jar", "w") as z:
        for name in tmp_path.glob("*.class"):
            z.write(name, name.name)
    task = {"jobType": "SparkApp", "sparkAppPath": str(tmp_path / "hang.jar"), "mainClass": "Hang"}
    failing, fine = bare.submit({**task, "args": ["x"]}), bare.submit(task)
    t = bare.end(failing, START)
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "exit"), t
    assert "bad input" in t["error"]["message"], t
    t = bare.end(fine, START)
    assert (t["state"], t["output"].strip()) == ("SUCCEEDED", "read -1"), t


def test_nothing_is_left_outside(bare, tmp_path):
    """What Spark does not take away when it is killed goes with the attempt."""
    app, go = tmp_path / "app.py", tmp_path / "go"
    app.write_text("""
import os, pathlib, sys, tempfile
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
spark.range(1000).repartition(4).cache().count()
jvm = spark.sparkContext._jvm.java.lang.System.getProperty("java.io.tmpdir")
pathlib.Path(sys.argv[1]).write_text(f"{tempfile.gettempdir()} {jvm} {os.environ['SJE_WORK_DIR']}")
os.kill(spark.sparkContext._gateway.proc.pid if spark.sparkContext._gateway.proc else os.getppid(), 9)
""")
    t = bare.run({"jobType": "SparkApp", "sparkAppPath": str(app), "args": [str(go)]}, START)
    assert t["state"] == "FAILED"
    python, jvm, work = go.read_text().split()
    assert python == jvm == work
