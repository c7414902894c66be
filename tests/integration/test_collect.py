#!/usr/bin/env python3
"""Collection: what nothing needs goes, what something needs stays, whatever happens meanwhile."""

import concurrent.futures
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from test_content import ROOT, Bus, digest  # noqa: E402

ROUNDS = int(os.environ.get("DAVIT_TEST_ROUNDS", "16"))
SHIFT = random.Random(20261128)


def folder(d, name):
    return set(os.listdir(os.path.join(d.root, "image", name)))


def blobs(d):
    return {"sha256:" + name for name in folder(d, "content/blobs/sha256")}


def make_archive(d, name, content=None):
    path = os.path.join(d.work, name + ".tar")
    return path, layers.image(path, [layers.tar([layers.f(n, c)]) for n, c in (content or {name: b"x"}).items()], name)


def make_image(d, name, content=None):
    path, manifest = make_archive(d, name, content)
    d.call("image.import", "path=" + path, "base_name=t")
    return manifest


def collect(d, *words):
    return d.call("image.collect", *words)


def found(reply):
    return {(item["kind"], item["id"]) for item in reply.get("garbage", [])}


def state(d):
    """Everything that a collection could remove, of two namespaces."""
    everything = set()
    for namespace in ("default", "other"):
        def ask(method, key):
            return json.loads(d.check("-n", namespace, "bus", "call", method)).get(key, [])
        everything |= {("content", c["digest"]) for c in ask("content.list", "contents")}
        everything |= {("snapshot", s["key"]) for s in ask("snapshot.list", "snapshots")}
        everything |= {("lease", x["id"]) for x in ask("lease.list", "leases")}
        everything |= {("ingest", i["ref"]) for i in ask("content.ingests", "ingests")}
    return everything


# ---- labels ----

def test_labels_keep_what_they_name():
    with Davit() as d, Bus(d) as bus:
        bus.do("lease.create", id="making")
        leaf = bus.put(b"leaf", lease="making")
        middle = bus.put(b"middle", lease="making", labels={"containerd.io/gc.ref.content.0": leaf})
        top = bus.put(b"top", labels=dict(ROOT, **{"containerd.io/gc.ref.content.x": middle}))
        bus.do("lease.delete", id="making", sync=True)
        assert blobs(d) == {leaf, middle, top}
        d.check("content", "label", top, "containerd.io/gc.ref.content.x=")
        wait_for(lambda: blobs(d) == {top}, "the others are collected by themselves", 20)
        d.check("content", "label", top, "containerd.io/gc.root=")
        wait_for(lambda: not blobs(d), "and so is this", 20)


def test_labels_keep_snapshots_and_their_layers():
    with Davit() as d, Bus(d) as bus:
        make_image(d, "v1")
        chain = d.json("snapshots", "ls")[0]["key"]
        d.check("snapshots", "prepare", "mine", chain)
        bus.put(b"top", labels=dict(ROOT, **{"containerd.io/gc.ref.snapshot.overlayfs": "mine"}))
        d.call("snapshot.update", "snapshot:=" + json.dumps({"key": "mine", "snapshotter": "overlayfs", "kind": "active",
                                                             "number": 0, "labels": {}}))
        d.check("images", "rm", "--sync", "t:v1")
        assert {s["key"] for s in d.json("snapshots", "ls")} == {chain, "mine"}
        d.check("content", "rm", digest(b"top"))
        wait_for(lambda: d.call("snapshot.list") == {}, "both are collected", 20)
        wait_for(lambda: not folder(d, "snapshots") and not folder(d, "trash"), "and their files", 20)


def test_a_cycle_of_labels_keeps_nothing():
    with Davit() as d, Bus(d) as bus:
        one, two = digest(b"one"), digest(b"two")
        bus.put(b"one", labels={"containerd.io/gc.ref.content.0": two})
        bus.put(b"two", labels={"containerd.io/gc.ref.content.0": one})
        collect(d)
        assert not blobs(d)


def test_a_manifest_that_is_kept_by_a_label_keeps_its_image():
    with Davit() as d:
        manifest = make_image(d, "v1")
        before = blobs(d)
        d.check("content", "label", manifest, "containerd.io/gc.root=x")
        d.check("images", "rm", "--sync", "t:v1")
        assert blobs(d) == before and len(d.json("snapshots", "ls")) == 1
        d.check("content", "label", manifest, "containerd.io/gc.root=")
        wait_for(lambda: not blobs(d), "all of it is collected", 20)


# ---- dry runs ----

def attempt_dry_run(d, name):
    """A snapshot that keeps an image's content and layers goes: all of these are garbage, for which a collection
    comes by itself in two seconds. None when it came before the dry run."""
    manifest = make_image(d, name, {"same": b"s", name + "1": b"1", name + "2": b"2"})
    labels = json.dumps({"containerd.io/gc.ref.content.0": manifest})
    d.call("image.prepare", "name=t:" + name, "key=" + name, "labels:=" + labels)
    d.check("images", "rm", "--sync", "t:" + name)
    assert manifest in blobs(d)
    before = raw_state(d)
    d.check("snapshots", "rm", name)
    dry = collect(d, "dry_run=true")
    assert all(item["reason"] for item in dry["garbage"]) if dry["count"] else True
    assert dry["count"] == len(dry.get("garbage", []))
    collect(d)
    removed = before - raw_state(d)
    return None if not found(dry) else (found(dry), removed)


def raw_state(d):
    """By files: what a listing shows depends on what refers to it."""
    return {("content", name) for name in blobs(d)} | {("directory", name) for name in folder(d, "snapshots")}


def test_a_dry_run_names_exactly_what_a_real_one_removes():
    with Davit() as d:
        make_image(d, "keep", {"same": b"s", "keep": b"k"})
        for i in range(8):
            result = attempt_dry_run(d, "drop%d" % i)
            if result:
                break
        named, removed = result
        contents = {item for item in named if item[0] == "content"}
        layers_ = {item for item in named if item[0] == "snapshot"}
        assert contents == {item for item in removed if item[0] == "content"} and len(contents) == 4, (named, removed)
        # Two layers of its own; the third directory is the container's, which was removed before.
        assert len(layers_) == 2 and len([x for x in removed if x[0] == "directory"]) == 3, (named, removed)
        assert len(named) == 6
        assert found(collect(d, "dry_run=true")) == set()


def test_a_real_run_says_the_same_as_the_dry_one():
    with Davit() as d, Bus(d) as bus:
        for i in range(40):
            bus.put(b"%d" % i, ref="r", labels=ROOT if i % 2 else {})
        dry = collect(d, "dry_run=true")
        real = collect(d)
        assert found(dry) >= found(real) and len(blobs(d)) == 20
        path, _ = make_archive(d, "v1")
        d.call("image.import", "path=" + path, "base_name=t")
        d.call("image.delete", "name=t:v1")
        out = d.check("prune", "--dry-run")
        if "would remove 0" not in out:
            assert out.splitlines()[0].split() == ["TYPE", "NAMESPACE", "ID", "SIZE", "REASON"], out
            assert "no image, lease or label leads to it" in out, out
        assert "would remove" in d.check("prune"), "it only looks unless it is told to"
        assert d("prune", "--force", "--dry-run").returncode
        d.check("prune", "--force")
        assert len(blobs(d)) == 20 and d.check("prune", "--dry-run").strip() == "would remove 0 of 0.0 B"
        assert d.json("prune", "--force") == {"count": 0, "size": 0}


# ---- damage ----

def damage(d, mark):
    """Other bytes where @mark stands in the image service's store, while nobody has it open."""
    path = os.path.join(d.root, "image", "data.mdb")
    with open(path, "rb") as f:
        data = f.read()
    assert mark in data
    with open(path, "r+b") as f:
        f.write(data.replace(mark, mark.upper()))


def test_a_damaged_record_blocks_collections_until_the_quarantine_is_emptied():
    with Davit() as d:
        make_image(d, "keep")
        make_image(d, "lost")
        d.check("images", "label", "t:lost", "mark=damage-me")
        assert d.json("store", "quarantine", "ls") == []
        d.down()
        damage(d, b"damage-me")
        d.up()
        make_image(d, "drop")
        d.check("images", "rm", "t:drop")
        result = d("prune", "--force")
        assert result.returncode == 0 and b"davit store quarantine list image" in result.stderr, result
        assert len(blobs(d)) == 9, "nothing is removed while it is not known what the damaged record kept"
        records = {(r["service"], r["table"], r["key"]) for r in d.json("store", "quarantine", "list")}
        assert ("image", "images", "default,t:lost") in records and {r[0] for r in records} == {"image"}, records
        assert "default,t:lost" in d.check("store", "quarantine", "list", "-q", "image").split()
        assert d.check("store", "quarantine", "list", "-q", "task", "container") == ""
        result = d("store", "quarantine", "drop", "image", "default,t:other")
        assert result.returncode == 1 and b"no such record is in the quarantine of davit-image" in result.stderr, result
        result = d("store", "quarantine", "drop", "image")
        assert result.returncode == 2 and b"--all" in result.stderr, result
        result = d("store", "quarantine", "drop", "broker", "x")
        assert result.returncode == 2 and b"'broker' is not a service with a store" in result.stderr, result
        # What it was is made again first, so that nothing of it is lost.
        make_image(d, "lost")
        d.check("store", "quarantine", "drop", "image", "default,t:lost")
        wait_for(lambda: len(blobs(d)) == 6, "collections go on by themselves", 30)
        assert d("prune", "--force").stderr == b""
        assert {i["name"] for i in d.json("images", "ls")} == {"t:keep", "t:lost"}


def test_what_a_damaged_record_was_of_outlives_restarts():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", "busybox", "c1", "true")
        some = sorted(blobs(d))[0]
        (layer,) = [s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "committed"]
        (own,) = [s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "active"]
        d.check("content", "label", some, "mark=damage-a")
        d.check("snapshots", "label", layer, "mark=damage-b")
        d.check("snapshots", "label", own, "mark=damage-c")
        d.down()
        for mark in (b"damage-a", b"damage-b", b"damage-c"):
            damage(d, mark)
        files, directories = blobs(d), folder(d, "snapshots")
        for _ in range(2):
            d.up()
            d.json("content", "ls")  # meets the damage
            d.json("snapshots", "ls")
            assert len(d.json("store", "quarantine", "ls")) == 3
            d.down()
        assert blobs(d) == files and folder(d, "snapshots") == directories
        d.up()
        d.check("rm", "c1")
        d.import_busybox()
        assert d("run", "--rm", "busybox", "c2", "true").returncode == 0
        d.check("store", "quarantine", "drop", "--all", "image")
        d.down()
        d.up()
        assert d("fsck").returncode == 0, d("fsck")


# ---- containers ----

def test_a_containers_snapshot_needs_no_lease_and_none_without_a_container_is_kept():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", "busybox", "c1", "true")
        keys = {s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "active"}
        assert len(keys) == 1 and set(d.check("leases", "ls", "-q").split()) <= keys
        collect(d)
        assert d.check("leases", "ls", "-q") == "", "a container has the snapshot: its lease has ended"
        collect(d)
        assert {s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "active"} == keys
        assert d("run", "--rm", "busybox", "c2", "true").returncode == 0
        d.call("image.prepare", "name=busybox", "key=lost", "leased=true")
        d.call("lease.delete", "id=lost", "sync=true")
        assert {s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "active"} == keys
        d.check("containers", "rm", "--keep-snapshot", "c1")
        collect(d)
        assert {s["key"] for s in d.json("snapshots", "ls") if s["kind"] == "active"} == keys, "it was to be kept"
        d.check("snapshots", "rm", *keys)
        assert d.check("leases", "ls", "-q") == ""


def test_snapshots_are_left_alone_while_containers_are_not_known():
    with Davit() as d:
        d.import_busybox()
        d.call("image.prepare", "name=busybox", "key=lost", "leased=true")
        pid = d.pid("davit-container")
        os.kill(pid, 19)  # SIGSTOP: it does not answer
        try:
            d.call("lease.delete", "id=lost")
            reply = collect(d)
            assert "left alone" in reply["note"] and reply.get("garbage") is None, reply
            assert "lost" in d.check("snapshots", "ls", "-q").split()
        finally:
            os.kill(pid, 18)
        wait_for(lambda: "lost" not in d.check("snapshots", "ls", "-q").split(), "it is tried again by itself", 60)


def run_many(d, first, n):
    for i in range(n):
        result = d("run", "--rm", "busybox", "c%d-%d" % (first, i), "true")
        assert result.returncode == 0, result


def test_a_container_that_is_being_made_loses_nothing_to_collections_in_a_loop():
    with Davit() as d:
        d.import_busybox()
        stop = threading.Event()
        counts = [0]

        def collect_on():
            while not stop.is_set():
                assert collect(d).get("note") is None
                counts[0] += 1
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            collector = pool.submit(collect_on)
            runs = [pool.submit(run_many, d, i, 20) for i in range(3)]
            for run in runs:
                run.result()
            stop.set()
            collector.result()
        assert counts[0] > 10, counts
        collect(d)
        assert d.check("leases", "ls", "-q") == ""


def test_imports_lose_nothing_to_collections_in_a_loop():
    with Davit() as d:
        archives = [make_archive(d, "v%d" % i, {"same": b"s", "own%d" % i: b"%d" % i}) for i in range(4)]
        stop = threading.Event()

        def collect_on():
            while not stop.is_set():
                collect(d)

        def import_on(i):
            for _ in range(8):
                d.call("image.import", "path=" + archives[i][0], "base_name=t")
                d.call("image.prepare", "name=t:v%d" % i, "key=k%d" % i)
                d.call("image.delete", "name=t:v%d" % i)
                d.call("image.release", "key=k%d" % i)
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            collector = pool.submit(collect_on)
            for work in [pool.submit(import_on, i) for i in range(4)]:
                work.result()
            stop.set()
            collector.result()
        collect(d)
        assert not blobs(d) and not folder(d, "snapshots")


# ---- deaths ----

def age(d, program):
    """Seconds; its children look like it until they have become another program."""
    ages = [0]
    for pid in d.pids(program):
        with contextlib.suppress(OSError), open("/proc/%d/stat" % pid) as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
            ages.append(float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK"))
    return max(ages)


def usage(d):
    out = subprocess.run(["du", "-s", "--apparent-size", "-B1"] +
                         [os.path.join(d.root, "image", name) for name in ("content", "snapshots", "trash")],
                         stdout=subprocess.PIPE, check=True).stdout
    return sum(int(line.split()[0]) for line in out.splitlines())


def test_killed_again_and_again_while_it_removes_it_leaves_all_whole_or_absent():
    with Davit() as d:
        make_image(d, "live", {"same": os.urandom(20000), "live": os.urandom(50000)})
        collect(d)
        live, live_usage = state(d), usage(d)
        archives = [make_archive(d, "v%d" % i, {"own%d-%d" % (i, j): os.urandom(30000) for j in range(3)})[0]
                    for i in range(4)]
        for i in range(ROUNDS):
            for path in archives:
                d.call("image.import", "path=" + path, "base_name=t")
            # Its supervisor starts at once what had run for two seconds.
            wait_for(lambda: age(d, "davit-image") > 2.1, "it is steady")
            deletions = [d.start("images", "rm", "--sync", "t:v%d" % j) for j in range(4)]
            time.sleep(SHIFT.random() * 0.15)  # where in the removal it dies is the point of the test
            d.kill("davit-image")
            for deletion in deletions:
                out, err = deletion.communicate(timeout=60)
                assert deletion.returncode == 0, (i, err)
            for item in d.call("content.verify").get("verdicts", []):
                raise AssertionError("round %d: %s" % (i, item))
        collect(d)
        assert state(d) == live
        wait_for(lambda: usage(d) == live_usage, "disk usage is back at the live image's", 20)
        assert blobs(d) == {c for k, c in live if k == "content"}
        reply = d.call("image.prepare", "name=t:live", "key=k")
        assert reply["mounts"]
        d.call("image.release", "key=k")


def test_what_a_crash_left_is_collected_at_the_next_start():
    with Davit() as d:
        make_image(d, "v1")
        deletion = d.start("images", "rm", "t:v1")
        deletion.communicate(timeout=60)
        d.kill("davit-image")
        wait_for(lambda: not blobs(d) and not folder(d, "snapshots") and not folder(d, "trash"), "all is gone", 20)


def test_an_ingest_that_nobody_goes_on_with_ends():
    with Davit() as d, Bus(d) as bus:
        bus.write("old", b"abandoned")
        bus.write("new", b"under way")
        bus.do("lease.create", id="l")
        bus.write("held", b"leased", lease="l")
        ingest = os.path.join(d.root, "image", "content", "ingest")
        day_ago = time.time() - 90000
        for name in os.listdir(ingest):
            with open(os.path.join(ingest, name), "rb") as data:
                if data.read() != b"under way":
                    os.utime(os.path.join(ingest, name), (day_ago, day_ago))
        collect(d)
        assert d.check("content", "active", "-q").split() == ["held", "new"]


if __name__ == "__main__":
    main(globals())
