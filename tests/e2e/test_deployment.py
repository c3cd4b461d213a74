"""What docs/operating.md tells an administrator to type is enough."""
import re

from test_faults import shell

from sje import ROOT

TEXT = (ROOT / "docs/operating.md").read_text()


def permit(services, monkeypatch, patterns):
    """Clusters get virtual hosts in which they may do no more than that: configure, write, read."""
    whole = services.tenant

    def tenant():
        env = whole()
        rules = ", ".join(f'<<"{p}">>' for p in patterns)
        services.ctl("eval", 'rabbit_auth_backend_internal:set_permissions(<<"sje">>, '
                     f'<<"{env["SJE_RABBITMQ_VHOST"]}">>, {rules}, <<"test">>).')
        return env
    monkeypatch.setattr(services, "tenant", tenant)


def test_the_permissions_in_the_broker_suffice(own, services, monkeypatch):
    permit(services, monkeypatch, re.search(r"set_permissions sje '(.*?)' '(.*?)' '(.*?)'", TEXT).groups())
    c = own(split=True)
    assert c.run(shell("true"))["state"] == "SUCCEEDED"
    c.call("POST", "/mgmt/queues/default/pause", 200)
    c.call("POST", "/mgmt/queues/default/resume", 200)
    assert c.run({**shell("false"), "maxAttempts": 2, "retryBackoffSeconds": 0})["state"] == "FAILED"
    with c.database() as db, db.cursor() as cur:  # where tasks fail
        cur.execute(re.search(r"select worker_id, count.*?;", TEXT, re.S)[0])
        assert cur.fetchall() == [("node1", 2)]
