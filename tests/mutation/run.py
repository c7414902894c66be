#!/usr/bin/env python3
"""Takes each check of checks.py out of a copy of the tree, builds the test that is named there, and shows that it fails.

usage: run.py BUILD [WORD...]        only checks in whose name or attack one of the words stands; CC as make has it

Unit tests run in a root of their own, whose changes nobody keeps: without its check, an attack may well succeed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from checks import CHECKS  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ["Makefile", "broker", "schemas", "services", "shim", "tools", "tests"]
PYTHON = os.environ.get("PYTHON", "/usr/bin/python3")
SECONDS = 60  # a test that does not end without its check has failed

# An overlay over this host's root, with the tree and the scratch directory bound into it; nothing in it survives.
APART = """set -e
mount -t tmpfs davit-mutation "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" davit-mutation "$1/root"
mkdir -p "$1/root$2"
for each in /proc /sys /dev "$2"; do mount --rbind "$each" "$1/root$each"; done
mount --bind "$3" "$1/root/tmp"
exec chroot "$1/root" sh -c 'cd "$1"; shift; exec "$@"' sh "$2" "${@:4}"
"""


class Tree:
    """A copy of the source and of what was built of it, in which one file at a time is changed."""

    def __init__(self, build):
        self.work = tempfile.mkdtemp(prefix="davit-mutation-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.source = os.path.join(self.work, "tree")
        self.tmp, self.root = os.path.join(self.work, "tmp"), os.path.join(self.work, "root")
        for directory in (self.source, self.tmp, self.root):
            os.mkdir(directory)
        for name in FOLDERS:
            subprocess.run(["cp", "-a", os.path.join(TOP, name), self.source], check=True)
        subprocess.run(["cp", "-a", os.path.join(TOP, build), os.path.join(self.source, "build")], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.work)

    def path(self, name):
        return os.path.join(self.source, name)

    def make(self, test):
        targets = ["build/tests/" + test] if test.startswith("unit/") else ["all"]
        result = subprocess.run(["make", "-s", "-C", self.source, *targets] +
                                ["%s=%s" % (k, os.environ[k]) for k in ("CC", "SANITIZE") if os.environ.get(k)],
                                capture_output=True)
        return None if result.returncode == 0 else result.stderr.decode(errors="replace")

    def run(self, program, test):
        """Does it pass?"""
        if program.startswith("unit/"):
            words = ["unshare", "--mount", "--propagation", "private", "bash", "-c", APART, "bash", self.root,
                     self.source, self.tmp, "build/tests/" + program, test]
        else:
            words = [PYTHON, "tests/" + program, test]
        process = subprocess.Popen(words, cwd=self.source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=dict(os.environ, BUILD="build", TMPDIR="/tmp"), start_new_session=True)
        try:
            out, _ = process.communicate(timeout=SECONDS)
            return process.returncode == 0, out.decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return False, "it did not end within %d s" % SECONDS


def change(tree, check):
    """Gives what puts the files back; None with a complaint when the check is not where it is said to be."""
    before = {}
    for name, old, new, count in ((check.file, check.old, check.new, check.count), *(m + (1,) for m in check.more)):
        path = tree.path(name)
        with open(path) as f:
            text = f.read()
        if text.count(old) != count:
            restore(before)
            return None, "'%s' stands %d times in %s" % (old, text.count(old), name)
        before.setdefault(path, text)
        with open(path, "w") as f:
            f.write(text.replace(old, new))
    return before, None


def restore(before):
    for path, text in before.items():
        with open(path, "w") as f:
            f.write(text)


def prove(tree, check):
    """What is wrong with the proof, or None."""
    before, complaint = change(tree, check)
    if complaint:
        return complaint
    try:
        program, test = check.test.split(" ")
        errors = tree.make(program)
        if errors:
            return "it does not build:\n" + errors
        passes, _ = tree.run(program, test)
        return "the test passes without the check" if passes else None
    finally:
        restore(before)


def main():
    build, words = sys.argv[1], [w.lower() for w in sys.argv[2:]]
    wanted = [c for c in CHECKS if not words or any(w in (c.name + " " + c.attack).lower() for w in words)]
    wrong = 0
    begin = time.monotonic()
    with Tree(build) as tree:
        for test in sorted({check.test for check in wanted}):
            program, name = test.split(" ")
            errors = tree.make(program)
            passes, out = (False, errors) if errors else tree.run(program, name)
            if not passes:
                sys.exit("%s fails with all checks in place:\n%s" % (test, out))
        print("%-42s %-70s %s" % ("CHECK TAKEN OUT", "ATTACK", "TEST THAT FAILS"))
        for check in wanted:
            complaint = prove(tree, check)
            wrong += bool(complaint)
            print("%-42s %-70s %s" % (check.name, check.attack,
                                      check.test.split("/")[-1] if not complaint else "NONE: " + complaint), flush=True)
    print("%d checks, %d not proved, %.0f s" % (len(wanted), wrong, time.monotonic() - begin))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
