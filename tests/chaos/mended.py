"""What the product holds up against by now.

A fault that needs something which is not here is done where a run names it (--only), and in no other;
tools/chaos-broken.sh does each to a build without, which it must break. "strays" is stood but not here yet: "node
lost" does not find every process that has detached, which a lost node would take with it.
"""
MENDED = {"answers", "identity", "identity-dir", "keeper", "lease", "returned"}
