"""What docs/operating.md tells an administrator to type is enough."""
import re

from test_faults import shell

from sje import ROOT

TEXT = (ROOT / "docs/operating.md").read_text()


def test_the_query_for_nodes_on_which_tasks_fail(own):
    c = own(split=True)
    assert c.run(shell("true"))["state"] == "SUCCEEDED"
    c.call("POST", "/mgmt/queues/default/pause", 200)
    c.call("POST", "/mgmt/queues/default/resume", 200)
    assert c.run({**shell("false"), "maxAttempts": 2, "retryBackoffSeconds": 0})["state"] == "FAILED"
    with c.database() as db, db.cursor() as cur:  # where tasks fail
        cur.execute(re.search(r"select worker_id, count.*?;", TEXT, re.S)[0])
        assert cur.fetchall() == [("node1", 2)]
