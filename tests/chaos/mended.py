"""What the product holds up against by now.

A fault that needs something which is not here is done where a run names it (--only), and in no other;
tools/chaos-broken.sh does each to a build without, which it must break.
"""
MENDED = {"answers", "identity", "identity-dir", "keeper", "lease", "returned", "strays"}
