#!/usr/bin/env python3
"""Leases: made, listed, filtered, and what one holds is there as long as it is."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402


def blobs(d):
    return set(os.listdir(os.path.join(d.root, "image", "content", "blobs", "sha256")))


def make_image(d, name="v1"):
    path = os.path.join(d.work, name + ".tar")
    manifest = layers.image(path, [layers.tar([layers.f(name)])], name)
    d.call("image.import", "path=" + path, "base_name=t")
    return manifest


def add(d, lease, kind, key, *words):
    d.call("lease.add_resource", "id=" + lease, "resource:=" + json.dumps({"type": kind, "id": key}), *words)


def held(d, lease):
    return d.call("lease.resources", "id=" + lease).get("resources", [])


def test_leases_are_made_listed_filtered_and_deleted():
    with Davit() as d:
        assert d.check("leases", "create", "--id", "one", "a=b").strip() == "one"
        made = d.check("leases", "create", "--expires", "0").strip()
        rows = d.check("leases", "ls").splitlines()
        assert rows[0].split() == ["LEASE", "ID", "CREATED", "AT", "LABELS"] and len(rows) == 3, rows
        found = {lease["id"]: lease.get("labels", {}) for lease in d.json("leases", "ls")}
        assert found[made] == {} and found["one"]["a"] == "b", found
        assert found["one"]["containerd.io/gc.expire"].endswith("Z"), found
        assert d.check("leases", "ls", "-q", "labels.a==b").split() == ["one"]
        assert d.check("leases", "ls", "-q", "id==" + made).split() == [made]
        assert d.check("-n", "other", "leases", "ls", "-q").split() == []
        again = d("leases", "create", "--id", "one")
        assert again.returncode == 1 and b"'one' exists already" in again.stderr, again
        assert d.check("leases", "rm", "one", made).split() == ["one", made]
        gone = d("leases", "rm", "one")
        assert gone.returncode == 1 and b"no lease 'one'" in gone.stderr, gone
        topics = [(e["topic"], e["event"]["id"]) for e in d.events("topic~=/leases/")]
        assert topics == [("/leases/create", "one"), ("/leases/create", made),
                          ("/leases/delete", "one"), ("/leases/delete", made)], topics


def test_what_makes_no_sense_is_refused():
    with Davit() as d:
        for words, said in ((["lease.create", "id=a b"], "without spaces"),
                            (["lease.create", 'labels:={"containerd.io/gc.expire":"soon"}'], "RFC 3339"),
                            (["lease.delete", "id=none"], "no lease 'none'"),
                            (["lease.resources", "id=none"], "no lease 'none'")):
            result = d("bus", "call", *words)
            assert result.returncode == 1 and said in result.stderr.decode(), result
        d.call("lease.create", "id=l")
        for kind, key, said in (("content", "x", "not a digest"), ("blob", "x", "not 'blob'"),
                                ("snapshots/btrfs", "x", "no snapshotter 'btrfs'")):
            resource = "resource:=" + json.dumps({"type": kind, "id": key})
            result = d("bus", "call", "lease.add_resource", "id=l", resource)
            assert result.returncode == 1 and said in result.stderr.decode(), result


def test_what_a_lease_holds_stays_and_goes_with_it():
    with Davit() as d:
        manifest = make_image(d)
        d.call("lease.create", "id=l")
        add(d, "l", "content", manifest)
        add(d, "l", "content", manifest)
        assert held(d, "l") == [{"type": "content", "id": manifest}]
        before = blobs(d)
        d.check("images", "rm", "--sync", "t:v1")
        assert blobs(d) == before and len(d.json("snapshots", "ls")) == 1
        d.check("leases", "rm", "--sync", "l")
        assert not blobs(d) and d.call("snapshot.list") == {}


def test_a_resource_that_is_taken_from_a_lease_goes():
    with Davit() as d:
        manifest = make_image(d)
        add(d, "l", "content", manifest, "create=true")
        d.check("images", "rm", "--sync", "t:v1")
        assert blobs(d)
        resource = "resource:=" + json.dumps({"type": "content", "id": manifest})
        d.call("lease.delete_resource", "id=l", resource)
        result = d("bus", "call", "lease.delete_resource", "id=l", resource)
        assert result.returncode == 1 and b"does not hold" in result.stderr, result
        wait_for(lambda: not blobs(d), "it is collected", 20)


def test_what_a_lease_holds_is_changed_by_hand():
    with Davit() as d:
        manifest = make_image(d)
        none = d("leases", "add", "l", "content", manifest)
        assert none.returncode == 1 and b"no lease 'l'" in none.stderr, none
        d.check("leases", "add", "--create", "l", "content", manifest)
        d.check("leases", "add", "l", "images", "t:v1", "t:v2")
        d.check("leases", "add", "l", "ingests", "r")
        d.check("leases", "add", "l", "snapshots/native", "k")
        rows = [line.split() for line in d.check("leases", "resources", "l").splitlines()]
        assert rows[0] == ["TYPE", "ID"] and sorted(rows[1:]) == sorted(
            [["content", manifest], ["images", "t:v1"], ["images", "t:v2"], ["ingests", "r"],
             ["snapshots/native", "k"]]), rows
        assert {r["id"] for r in d.json("leases", "resources", "l")} == {manifest, "t:v1", "t:v2", "r", "k"}
        assert "t:v1" in d.check("leases", "resources", "-q", "l").split()
        d.check("leases", "drop", "l", "images", "t:v1", "t:v2")
        again = d("leases", "drop", "l", "images", "t:v1", "t:v2")
        assert again.returncode == 1 and again.stderr.count(b"does not hold images") == 2, again
        assert len(d.json("leases", "resources", "l")) == 3
        for words, said in ((["add", "l", "blob", "x"], b"not 'blob'"), (["add", "l", "content"], b"ID"),
                            (["resources", "none"], b"no lease 'none'"), (["add", "a b", "images", "x"], b"without spaces"),
                            (["add", "l", "images", ""], b"it is empty"),
                            (["add", "l", "snapshots/", "k"], b"not 'snapshots/'"), (["add", "l", "images", "x" * 513], b"512")):
            bad = d("leases", *words)
            assert bad.returncode in (1, 2) and said in bad.stderr, (words, bad)


def test_an_image_that_expires_stays_while_a_lease_holds_it():
    with Davit() as d:
        make_image(d)
        d.check("leases", "create", "--id", "l")
        d.check("leases", "add", "l", "images", "t:v1")
        d.check("images", "label", "t:v1", "containerd.io/gc.expire=2020-01-01T00:00:00Z")
        d.check("prune", "--force")
        assert d.check("images", "ls", "-q").split() == ["t:v1"] and blobs(d)
        d.check("leases", "rm", "--sync", "l")
        assert d.check("images", "ls", "-q").split() == [] and not blobs(d)


def test_a_flat_lease_keeps_only_what_it_names():
    with Davit() as d:
        manifest = make_image(d)
        d.call("lease.create", "id=l", 'labels:={"containerd.io/gc.flat":"yes"}')
        add(d, "l", "content", manifest)
        d.check("images", "rm", "--sync", "t:v1")
        assert blobs(d) == {manifest[7:]} and d.call("snapshot.list") == {}


def test_an_expired_lease_is_collected_on_an_idle_daemon():
    with Davit() as d:
        manifest = make_image(d)
        d.check("leases", "create", "--id", "short", "--expires", "8s")
        add(d, "short", "content", manifest)
        d.check("images", "rm", "--sync", "t:v1")
        assert blobs(d)
        wait_for(lambda: not blobs(d), "what it held is collected", 60)
        wait_for(lambda: ("/leases/delete", "short") in
                 [(e["topic"], e["event"].get("id")) for e in d.events("topic~=/leases/")], "its end is told", 20)
        assert d.check("leases", "ls", "-q").split() == []


def test_a_lease_survives_the_service_and_so_does_its_end():
    with Davit() as d:
        manifest = make_image(d)
        d.check("leases", "create", "--id", "short", "--expires", "10s")
        add(d, "short", "content", manifest)
        d.kill("davit-image")
        d.check("images", "rm", "--sync", "t:v1")
        assert d.check("leases", "ls", "-q").split() == ["short"] and blobs(d)
        wait_for(lambda: not blobs(d), "what it held is collected", 60)


def test_operations_leave_no_lease():
    with Davit() as d:
        make_image(d)
        d.call("image.prepare", "name=t:v1", "key=n", "snapshotter=native")
        d.call("image.release", "key=n", "snapshotter=native")
        bad = d("bus", "call", "image.import", "path=/no/such/file")
        assert bad.returncode == 1, bad
        assert d.json("leases", "ls") == []


if __name__ == "__main__":
    main(globals())
