#!/usr/bin/env bash
# What the documents say of the source: every file and directory that they name is there, every link
# leads somewhere, and each step in docs/architecture.md begins in the file that it names.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z --cached --others --exclude-standard -- '*.md' | python3 -c '
import glob, os, re, sys

PATH = re.compile(r"\x60((?:api|cmd|configs|docs|examples|internal|pkg|tests|tools)/[\w./*-]*)")
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
found = count = 0

def complain(file, line, what):
    global found
    found += 1
    print(f"docs: {file}:{line}: {what}", file=sys.stderr)

def anchors(file):
    heads = re.findall(r"^#+ +(.*)$", open(file, encoding="utf-8").read(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}

def check_links(file, number, text):
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(file), path)) if path else file
        if not os.path.exists(path):
            complain(file, number, f"{target} is not there")
        elif anchor and anchor not in anchors(path):
            complain(file, number, f"{target}: no such heading")

def check_step(file, number, text):
    """| step | what | path/file.c, other.c | function(), ... |: each function is in one of them."""
    cells = [c.strip() for c in text.strip().strip("|").split("|")]
    names = re.findall(r"\x60([\w./-]+\.[ch])\x60", cells[2]) if len(cells) == 4 else []
    if not names:
        return 0
    paths = [n if "/" in n else os.path.join(os.path.dirname(names[0]), n) for n in names]
    source = "".join(open(p, encoding="utf-8").read() if os.path.exists(p) else
                     complain(file, number, f"{p} is not there") or "" for p in paths)
    functions = re.findall(r"\x60(\w+)\(\)\x60", cells[3])
    if not functions:
        complain(file, number, "no function is named")
    for name in functions:
        if not re.search(rf"^\w[^\n;=]*\b{name}\([^;{{]*\)\n\{{", source, re.M):
            complain(file, number, f"{name}() is not in {cells[2]}")
    return 1

steps = 0
for file in sys.stdin.read().split("\0")[:-1]:
    for number, text in enumerate(open(file, encoding="utf-8"), 1):
        for path in PATH.findall(text):
            count += 1
            if not glob.glob(path.rstrip("/")):
                complain(file, number, f"{path} is not there")
        check_links(file, number, text)
        if file == "docs/architecture.md":
            steps += check_step(file, number, text)
if steps == 0:
    complain("docs/architecture.md", 0, "the steps of the protocol are not found")
if found:
    sys.exit(1)
print(f"docs: {count} names and {steps} steps are true")
'
