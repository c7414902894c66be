#!/usr/bin/env python3
"""Limits on what images may have and on the work with them: each can be set, and is named by whoever meets it."""

import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import BIN, DEADLINE, TOP, Davit, main, wait_for  # noqa: E402
from test_export import archive_of, digests, imported  # noqa: E402


def limited(*words):
    return Davit(up=[w for word in words for w in ("--image-limit", word)])


class Held(Davit):
    """Its children of a mode begin only when the test lets them. The programs are copies: they find each other by their place."""

    SCRIPT = """#!/bin/sh
grep -ao 'in-[0-9]*[.]tar' /proc/self/fd/3 >>"%(work)s/order-$1"
: >"%(work)s/begun-$1-$$"
while [ -e "%(work)s/hold-$1" ]; do sleep 0.01; done
rm -f "%(work)s/begun-$1-$$"
exec "%(bin)s/davit-image-work" "$@"
"""

    def __init__(self, *words):
        super().__init__(up=[w for word in words for w in ("--image-limit", word)])
        place = os.path.join(self.work, "bin")
        shutil.copytree(BIN, place)
        self.base[0] = os.path.join(place, "davit")
        with open(os.path.join(place, "davit-image-work"), "w") as out:
            out.write(self.SCRIPT % {"work": self.work, "bin": BIN})

    def hold(self, mode):
        open(os.path.join(self.work, "hold-" + mode), "w").close()

    def release(self, mode):
        os.unlink(os.path.join(self.work, "hold-" + mode))

    def begun(self, mode):
        return [n for n in os.listdir(self.work) if n.startswith("begun-%s-" % mode)]

    def operations(self, method):
        return operations(self, method)


def operations(d, method):
    return [o for o in d.json("operations") if o["method"] == method]


def refused(d, limit, *contents):
    path, _ = archive_of(d, "docker.io/library/big:1", *contents)
    result = d("images", "import", path)
    assert result.returncode == 1 and ("(limit %s)" % limit).encode() in result.stderr, result
    assert d.check("images", "ls", "-q").split() == ["docker.io/library/t:1"], "it has no name"


def test_the_help_has_every_limit_and_its_default():
    with open(os.path.join(TOP, "schemas", "image.def")) as f:
        fields = f.read().split("MESSAGE(work_limits,")[1].split("END_MESSAGE")[0]
    found = re.findall(r'FIELD\(U64, *(\w+),.*"[^"]*: ([^:;"]+)[^:"]*"\)', fields)
    assert len(found) == fields.count("FIELD("), found
    text = " ".join(subprocess.run([os.path.join(BIN, "davit"), "up", "--help"], check=True, capture_output=True,
                                   text=True).stdout.split())
    for name, default in found:
        assert re.search(r"\b%s\b[^()]*\(%s\)" % (name, default), text), (name, default)


def test_each_limit_on_layers_can_be_set_and_is_named_when_it_is_met():
    small = [layers.d("a"), layers.f("a/x")]
    cases = [
        ("entries", "30", [layers.f("f%d" % i) for i in range(40)]),
        ("bytes", "1000000", [layers.f("f", os.urandom(900000)), layers.f("g", os.urandom(300000))]),
        ("ratio", "2", [layers.f("f", bytes(70 << 20))]),
        ("path_depth", "6", [layers.f("/".join("abcdefgh"))]),
        ("path_size", "100", [layers.f("n" * 101)]),
        ("xattr_bytes", "64", [layers.f("f", xattrs={"user.a": "v" * 70})]),
    ]
    for limit, value, content in cases:
        with limited("%s=%s" % (limit, value)) as d:
            imported(d, "docker.io/library/t:1", small)
            refused(d, limit, content)


def test_memory_and_time_of_children_can_be_set_and_are_named():
    with limited("memory=40000000") as d:
        path, _ = archive_of(d, "docker.io/library/t:1", *layers.LAYERS)
        result = d("images", "import", path)
        if b"__asan" not in open(os.path.join(BIN, "davit-image-work"), "rb").read():  # which sets no limit of memory
            assert result.returncode == 1 and b"(limit memory)" in result.stderr, result
    with Held("seconds=1") as d:
        path, _ = archive_of(d, "docker.io/library/t:1", *layers.LAYERS)
        d.check("images", "import", "--no-unpack", path)
        d.hold("apply")
        result = d("snapshots", "unpack", digests(d)["docker.io/library/t:1"])
        assert result.returncode == 1 and b"more than 1 seconds (limit seconds)" in result.stderr, result
        d.release("apply")


def test_a_limit_that_makes_no_sense_is_refused_before_anything_starts():
    with Davit() as d:
        for word, says in (("sizes=3", b"sizes"), ("bytes=-1", b"bytes"), ("path_size=5000", b"path_size"),
                           ("bytes=many", b"bytes"), ("children", b"children")):
            result = d("up", "--detach", "--image-limit", word)
            assert result.returncode == 2 and says in result.stderr, (word, result)


# ---- how many at a time ----

def start_imports(d, n):
    """One after the other, so that their order is known."""
    found, paths = [], []
    for i in range(n):
        path, _ = archive_of(d, "docker.io/library/t:%d" % i, [layers.f("f%d" % i)])
        found.append(d.start("images", "import", path))
        paths.append(path)
        wait_for(lambda: len(d.operations("image.import")) == i + 1, "import %d is known" % i)
    return found, paths


def names(d):
    return d.check("images", "ls", "-q").split()


def test_so_many_imports_run_at_a_time_and_the_rest_waits_in_order():
    with Held("children=1") as d:
        d.hold("import")
        imports, paths = start_imports(d, 5)
        wait_for(lambda: len(d.begun("import")) == 1, "the first has begun")
        # One that waits is cancelled, and so is one whose caller does not wait so long.
        (third,) = [o for o in d.operations("image.import") if o["object"] == paths[2]]
        d.check("operations", "cancel", third["id"])
        out, err = imports[2].communicate(timeout=DEADLINE)
        assert imports[2].returncode == 130 and b"cancelled" in err, (imports[2].returncode, out, err)
        path, _ = archive_of(d, "docker.io/library/late:1", [layers.f("late")])
        late = d("--timeout", "1s", "images", "import", path)
        assert late.returncode == 1, late
        assert len(d.begun("import")) == 1 and not names(d)
        # Pulls, layers and the rest have their own turns.
        d.release("import")
        assert [i.wait(DEADLINE) for i in imports] == [0, 0, 130, 0, 0]
        with open(os.path.join(d.work, "order-import")) as order:
            begun = order.read().split()
        assert begun == [os.path.basename(paths[i]) for i in (0, 1, 3, 4)], (begun, paths)
        assert len(names(d)) == 4


def test_pipelines_of_export_and_import_that_wait_for_each_other_end():
    """At the bound of one child each, the export of one pipeline has its turn, and the import of the other."""
    with limited("children=1", "turn=1") as d:
        imported(d, "docker.io/library/t:1", [layers.f("f", os.urandom(1 << 20))])  # more than pipes hold
        (out_a, in_a), (out_b, in_b) = os.pipe(), os.pipe()

        def start(fd, *words):
            with open(fd, "rb", 0) as end:
                return subprocess.Popen(d.base + ["--timeout", "5m", "images", *words], env=d.env, stderr=subprocess.PIPE,
                                        stdin=end, stdout=end)
        first = [start(in_a, "export", "-", "docker.io/library/t:1"), start(out_b, "import", "-")]
        wait_for(lambda: len(d.json("operations")) == 2, "two have begun")
        second = [start(in_b, "export", "-", "docker.io/library/t:1"), start(out_a, "import", "-")]
        said = [call.communicate(timeout=DEADLINE)[1] for call in first + second]
        assert all(call.returncode in (0, 1) for call in first + second), [call.returncode for call in first + second]
        assert any(call.returncode == 1 and b"within 1 seconds (limit turn)" in text
                   for call, text in zip(second, said[2:])), said
        d.check("--timeout", "60s", "images", "export", os.path.join(d.work, "out.tar"), "docker.io/library/t:1")


def test_a_file_waits_for_its_turn_as_long_as_it_takes():
    with Held("children=1", "turn=1") as d:
        d.hold("import")
        imports, _ = start_imports(d, 2)
        wait_for(lambda: len(d.begun("import")) == 1, "the first has begun")
        late = d("images", "import", "-", input=b"anything")
        assert late.returncode == 1 and b"within 1 seconds (limit turn)" in late.stderr, late
        assert not d.json("leases", "ls") and len(d.operations("image.import")) == 2
        d.release("import")
        assert [i.wait(DEADLINE) for i in imports] == [0, 0]


# ---- streams that stand still ----

def test_streams_that_stand_still_are_cut_when_others_wait_and_not_before():
    with limited("children=1", "still=1") as d:
        imported(d, "docker.io/library/t:1", [layers.f("f", os.urandom(1 << 20))])  # more than pipes hold
        archive = os.path.join(d.work, "t.tar")
        d.check("images", "export", archive, "docker.io/library/t:1")
        with open(archive, "rb") as f:
            data = f.read()
        incoming = d.start("images", "import", "-", stdin=subprocess.PIPE)
        incoming.stdin.write(data[:300000])
        incoming.stdin.flush()
        reader, writer = os.pipe()
        outgoing = d.start("images", "export", "-", "docker.io/library/t:1", stdout=writer)
        os.close(writer)
        wait_for(lambda: len(d.json("operations")) == 2, "both are under way")
        time.sleep(2.5)  # nobody waits: they may stand still
        assert len(d.json("operations")) == 2
        later = d.start("images", "import", archive)
        assert later.wait(DEADLINE) == 0
        said = incoming.communicate(timeout=DEADLINE)[1]
        assert incoming.returncode == 1, said
        assert b"moved nothing for 1 seconds (limit still)" in said and b"1 may be under way (limit children)" in said, said
        # A FIFO that nobody opens waits as a file does, and then has its turn as well.
        fifo = os.path.join(d.work, "fifo")
        os.mkfifo(fifo)
        second = d.start("images", "export", fifo, "docker.io/library/t:1")
        said = outgoing.communicate(timeout=DEADLINE)[1]
        assert outgoing.returncode == 1 and b"cannot export: its stream moved nothing" in said, said
        os.close(reader)
        d.check("images", "export", os.path.join(d.work, "out.tar"), "docker.io/library/t:1")
        said = second.communicate(timeout=DEADLINE)[1]
        assert second.returncode == 1 and b"(limit still)" in said, said
        assert not d.json("leases", "ls") and not d.check("content", "active", "-q")


# ---- layers ----

def test_layers_wait_for_their_turn_and_are_forgotten_when_nobody_wants_them_any_more():
    with Held("children=2") as d:
        for i in range(4):
            path, _ = archive_of(d, "docker.io/library/t:%d" % i, [layers.f("f%d" % i)])
            d.check("images", "import", "--no-unpack", path)
        targets = digests(d)
        d.hold("apply")
        unpacks = []
        for i in range(4):
            unpacks.append(d.start("snapshots", "unpack", targets["docker.io/library/t:%d" % i]))
            wait_for(lambda: len(d.operations("image.unpack")) == i + 1, "it is known")
        wait_for(lambda: len(d.begun("apply")) == 2, "two have begun")
        (third,) = [o for o in d.operations("image.unpack") if targets["docker.io/library/t:2"] in str(o)]
        d.check("operations", "cancel", third["id"])
        assert unpacks[2].wait(DEADLINE) == 1 and b"cancelled" in unpacks[2].stderr.read()
        assert len(d.begun("apply")) == 2
        d.release("apply")
        assert [u.wait(DEADLINE) for u in unpacks] == [0, 0, 1, 0]
        assert len(d.json("snapshots", "ls")) == 3


def test_what_waits_for_its_turn_is_done_by_the_next_service_when_this_one_dies():
    with Held("children=1") as d:
        d.hold("import")
        imports, _ = start_imports(d, 3)
        wait_for(lambda: len(d.begun("import")) == 1, "the first has begun")
        d.kill("davit-image")
        d.release("import")
        assert [i.wait(DEADLINE) for i in imports] == [0, 0, 0]
        assert len(names(d)) == 3


if __name__ == "__main__":
    main(globals())
