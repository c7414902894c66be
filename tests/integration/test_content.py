#!/usr/bin/env python3
"""The content store: a blob is whole or it is not there, whoever writes it and whatever dies meanwhile."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from sp_client import Caller  # noqa: E402

UNAVAILABLE, FAILED_PRECONDITION, NOT_FOUND, INVALID = "UNAVAILABLE", "FAILED_PRECONDITION", "NOT_FOUND", "INVALID_ARGUMENT"
PART = 262144


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Bus:
    """Calls by hand: the reply, or (status, text)."""

    def __init__(self, d, namespace="default"):
        self.caller = Caller(os.path.join(d.state, "bus.sock"), timeout=60)
        self.namespace = namespace

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.caller.close()

    def ask(self, method, **body):
        return self.caller.call(method, body, namespace=self.namespace)

    def do(self, method, **body):
        status, text, reply = self.ask(method, **body)
        assert status == "OK", (method, status, text)
        return reply

    def refused(self, method, status, word, **body):
        got, text, _ = self.ask(method, **body)
        assert got == status and word in text, (method, got, text)

    def write(self, ref, data, offset=0, writer="w", **more):
        for at in range(0, max(len(data), 1), PART):
            reply = self.do("content.write", ref=ref, writer=writer, offset=offset + at, data=data[at:at + PART], **more)
        return reply

    def put(self, data, ref="put", **more):
        self.write(ref, data)
        return self.do("content.commit", ref=ref, writer="w", size=len(data), **more)["content"]["digest"]


def folder(d, name):
    return os.listdir(os.path.join(d.root, "image", "content", name))


ROOT = {"containerd.io/gc.root": "now"}


# ---- writing ----

def test_a_blob_is_written_in_parts_and_read_in_ranges():
    with Davit() as d, Bus(d) as bus:
        data = os.urandom(3 * PART + 77)
        assert bus.write("a ref/with:any$ characters", data)["ingest"]["offset"] == len(data)
        reply = bus.do("content.commit", ref="a ref/with:any$ characters", writer="w", size=len(data),
                       expected=digest(data), labels=ROOT, media_type="x/y")
        assert reply["content"]["digest"] == digest(data) and "existed" not in reply, reply
        info = bus.do("content.info", digest=digest(data))["content"]
        assert info["size"] == len(data) and info["media_type"] == "x/y" and info["labels"] == ROOT, info
        for offset, size in ((0, 0), (0, 1), (PART - 1, 2), (len(data) - 5, 100), (len(data), 10), (1 << 40, 10)):
            part = bus.do("content.read", digest=digest(data), offset=offset, size=size)
            assert part.get("data", b"") == data[offset:offset + (size or PART)], (offset, size)
            assert part["size"] == len(data)
        assert not folder(d, "ingest"), "the ingest's file is gone"
        assert subprocess.run(d.base + ["content", "get", digest(data)], env=d.env, stdout=subprocess.PIPE,
                              check=True).stdout == data
        topics = wait_for(lambda: [e["event"] for e in d.events("topic==/content/create")], "it is told", 20)
        assert topics == [{"digest": digest(data), "size": len(data), "media_type": "x/y"}], topics


def test_two_writers_of_one_ref_do_not_mix():
    with Davit() as d, Bus(d) as one, Bus(d) as two, Bus(d, "other") as other:
        one.write("r", b"one")
        two.refused("content.write", UNAVAILABLE, "being written by another", ref="r", writer="2", offset=3, data=b"x")
        two.refused("content.commit", UNAVAILABLE, "being written by another", ref="r", writer="2")
        other.write("r", b"a ref belongs to a namespace", writer="2")
        one.write("r", b" more", offset=3)
        assert one.put(b"one more" + b"!", ref="r", labels=ROOT) == digest(b"one more!")
        two.write("r", b"two", writer="2")
        one.refused("content.write", UNAVAILABLE, "being written by another", ref="r", writer="w", data=b"one")
        two.do("content.abort", ref="r")
        one.write("r", b"one")


def test_a_writer_that_fell_silent_is_followed_by_another():
    with Davit() as d, Bus(d) as one, Bus(d) as two:
        one.write("r", b"abc")
        begin = time.monotonic()

        def goes_on():
            return two.ask("content.write", ref="r", writer="2", offset=3, data=b"def")[0] == "OK"
        wait_for(goes_on, "the second may go on", 30)
        assert time.monotonic() - begin > 5
        assert two.do("content.status", ref="r")["ingest"]["offset"] == 6


def test_a_part_may_come_again_but_not_with_other_bytes():
    with Davit() as d, Bus(d) as bus:
        bus.write("r", b"0123456789", total=12)
        assert bus.write("r", b"345", offset=3)["ingest"]["offset"] == 10
        assert bus.write("r", b"89ab", offset=8)["ingest"]["offset"] == 12
        for more, status, word in ((dict(offset=3, data=b"x"), FAILED_PRECONDITION, "other bytes at 3"),
                                   (dict(offset=13, data=b"x"), FAILED_PRECONDITION, "does not start at 13"),
                                   (dict(offset=12, data=b"x"), FAILED_PRECONDITION, "shall have 12 bytes"),
                                   (dict(total=5), FAILED_PRECONDITION, "shall have 12 bytes, not 5"),
                                   (dict(offset=2**63 - 1, data=b"x"), FAILED_PRECONDITION, "does not start"),
                                   (dict(expected="sha256:1"), INVALID, "not a digest"),
                                   (dict(lease="none"), NOT_FOUND, "no lease 'none'")):
            bus.refused("content.write", status, word, ref="r", writer="w", **more)
        assert bus.do("content.status", ref="r")["ingest"]["offset"] == 12
        for ref in ("", "a\nb", "x" * 241):
            assert bus.ask("content.write", ref=ref, writer="w")[0] == INVALID
        bus.refused("content.write", INVALID, "no name", ref="r2", writer="")
        assert [i["ref"] for i in bus.do("content.ingests")["ingests"]] == ["r"]


def test_size_and_digest_that_do_not_fit_are_refused():
    with Davit() as d, Bus(d) as bus:
        bus.write("r", b"content")
        bus.refused("content.commit", FAILED_PRECONDITION, "has 7 bytes, not 8", ref="r", writer="w", size=8)
        bus.refused("content.commit", FAILED_PRECONDITION, "is " + digest(b"content"), ref="r", writer="w",
                    expected=digest(b"other"))
        bus.refused("content.commit", NOT_FOUND, "no ingest 'none'", ref="none", writer="w")
        assert not folder(d, "blobs/sha256") and bus.do("content.list") == {}
        assert bus.put(b"content", ref="r", labels=ROOT) == digest(b"content")
        bus.write("total", b"123", total=4)
        bus.refused("content.commit", FAILED_PRECONDITION, "has 3 bytes, not 4", ref="total", writer="w")
        bus.do("content.write", ref="expected", writer="w", expected=digest(b"abc"), data=b"abd")
        bus.refused("content.commit", FAILED_PRECONDITION, "is " + digest(b"abd"), ref="expected", writer="w")
        for ref in ("total", "expected"):
            bus.do("content.abort", ref=ref)
        # The first part of all, too, is told why.
        bus.refused("content.write", FAILED_PRECONDITION, "shall have 2 bytes: this part ends at 3", ref="first",
                    writer="w", total=2, data=b"123")
        bus.refused("content.abort", NOT_FOUND, "no ingest", ref="total")
        wait_for(lambda: not folder(d, "ingest"), "no file is left", 20)


def test_a_blob_that_is_there_needs_no_writing():
    with Davit() as d, Bus(d) as bus, Bus(d, "other") as other:
        bus.put(b"there", labels=ROOT)
        other.do("lease.create", id="l")
        reply = other.do("content.write", ref="r", writer="w", expected=digest(b"there"), lease="l")
        assert reply == {"exists": True} and other.do("content.ingests") == {}
        assert other.do("lease.resources", id="l")["resources"] == [{"type": "content", "id": digest(b"there")}]
        other.write("r", b"there")
        assert other.do("content.commit", ref="r", writer="w")["existed"] is True
        assert [c["digest"] for c in other.do("content.list")["contents"]] == [digest(b"there")]


def test_an_empty_blob():
    with Davit() as d, Bus(d) as bus:
        assert bus.put(b"", labels=ROOT) == digest(b"")
        assert bus.do("content.read", digest=digest(b"")) == {}


# ---- deaths ----

def test_an_ingest_goes_on_after_the_service_was_killed():
    with Davit() as d:
        data = os.urandom(9 * PART + 5)
        for at in range(0, 8 * PART, 2 * PART):
            with Bus(d) as bus:
                bus.write("r", data[at:at + 2 * PART], offset=at, writer="w%d" % at)
            d.kill("davit-image")
            with Bus(d) as bus:
                assert bus.do("content.status", ref="r")["ingest"]["offset"] == at + 2 * PART
        with Bus(d) as bus:
            bus.write("r", data[8 * PART:], offset=8 * PART, writer="w")
            bus.do("content.commit", ref="r", writer="w", expected=digest(data), labels=ROOT)
        assert d.call("content.info", "digest=" + digest(data))["content"]["size"] == len(data)


def test_a_commit_that_the_service_did_not_live_to_see_is_made():
    with Davit() as d:
        data = os.urandom(200 * PART)
        with Bus(d) as bus:
            bus.write("r", data)
        caller = d.start("bus", "call", "content.commit", "ref=r", "writer=w", "labels:=" + json.dumps(ROOT))
        wait_for(lambda: d.pids("davit-image-work") or caller.poll() is not None, "it has begun")
        d.kill("davit-image")
        out, err = caller.communicate(timeout=60)
        assert caller.returncode == 0, err
        assert json.loads(out)["content"]["digest"] == digest(data)
        assert folder(d, "blobs/sha256") == [digest(data)[7:]]
        wait_for(lambda: not folder(d, "ingest"), "the ingest's file is gone", 20)


def test_the_command_line_resumes_an_ingest():
    with Davit() as d:
        data = os.urandom(20 * PART)
        with Bus(d) as bus:
            bus.write("key", data[:7 * PART], writer="died")
        d.kill("davit-image")  # and with it who was writing
        active = d.check("content", "active").splitlines()
        assert active[0].split() == ["REF", "SIZE", "AGE"] and active[1].startswith("key "), active
        assert d.check("content", "active", "-q", "^k.y$").split() == ["key"]
        assert d.check("content", "active", "-q", "nothing") == ""
        out = d.check("content", "ingest", "--expected-digest", digest(data), "--expected-size", str(len(data)), "key", input=data)
        assert out.strip() == digest(data)
        again = d.check("content", "ingest", "--expected-digest", digest(data), "key", input=data)
        assert again.strip() == digest(data)
        with Bus(d) as bus:
            bus.write("key", b"other", writer="died")
        d.kill("davit-image")
        result = d("content", "ingest", "key", input=b"data")
        assert result.returncode == 1 and b"other bytes" in result.stderr, result
        wait_for(lambda: d("content", "ingest", "--restart", "key", input=b"data").returncode == 0, "it starts anew", 30)
        assert digest(b"data") in d.check("content", "ls", "-q").split()


# ---- editing ----

def test_a_copy_of_a_blob_is_edited():
    with Davit() as d, Bus(d) as bus, tempfile.TemporaryDirectory(prefix="dvedit ", dir="/tmp") as copies:
        d.env.update(XDG_RUNTIME_DIR=copies, EDITOR="sed -i s/a/b/g")
        data = b'{"mediaType": "x/a", "a": "%s"}' % (b"a" * 2 * PART)
        old = bus.put(data, labels=ROOT)
        new = d.check("content", "edit", old).strip()
        assert d("content", "get", new).stdout == data.replace(b"a", b"b"), new
        assert d("content", "get", old).stdout == data
        assert "gc.root" in d.check("content", "label", new) and not d.check("content", "active", "-q")
        # In place, by another file in its place, and not at all.
        assert d.check("content", "edit", "--editor", "printf x >", old).strip() == digest(b"x")
        assert d.check("content", "edit", "--editor", "true", old).strip() == old
        assert not os.listdir(copies), "a copy is left"
        for words, code, text in ((["--editor", "false", old], 1, "failed with code 1"), (["--editor", "no-such", old], 1, "127"),
                                  (["--editor", "kill $$; :", old], 1, "signal 15"), (["--editor", "", old], 2, "EDITOR"),
                                  (["--validate", "word", old], 2, "neither json nor"), (["sha256:" + 64 * "1"], 1, "no blob")):
            result = d("content", "edit", *words)
            assert result.returncode == code and not result.stdout and text in result.stderr.decode(), result
        assert not os.listdir(copies), "a copy is left"
        # What is no good is not stored, and not lost.
        assert d.check("content", "edit", "--validate", "json", "--editor", "true", old).strip() == old
        assert d.check("content", "edit", "--validate", "x/a", "--editor", "true", old).strip() == old
        for words, text in ((["--validate", "json", "--editor", "printf '{' >"], "it is not JSON"),
                            (["--validate", "x/b", "--editor", "true"], "its mediaType is 'x/a'"),
                            (["--validate", "x/b", "--editor", "printf [] >"], "not a JSON object"),
                            (["--validate", "json", "--editor", "rm"], "cannot be read")):
            result = d("content", "edit", *words, old)
            assert result.returncode == 1 and text in result.stderr.decode(), result
            assert "what was written is in " + copies in result.stderr.decode(), result
        assert len(os.listdir(copies)) == 3, os.listdir(copies)


# ---- labels, lists, deletion ----

def test_labels_are_changed_by_mask():
    with Davit() as d, Bus(d) as bus:
        name = bus.put(b"x", labels=dict(ROOT, a="1", b="2"))

        def update(labels, *mask):
            return bus.do("content.update", content={"digest": name, "size": 0, "labels": labels},
                          update_mask=list(mask))["content"]["labels"]
        assert update({"a": "3", "b": "4"}, "labels.a") == dict(ROOT, a="3", b="2")
        assert update({}, "labels.a") == dict(ROOT, b="2")
        assert update(dict(ROOT, c="5"), "labels") == dict(ROOT, c="5")
        assert update(dict(ROOT, d="6")) == dict(ROOT, d="6")
        bus.refused("content.update", INVALID, "'size' of a blob", content={"digest": name, "size": 1}, update_mask=["size"])
        bus.refused("content.update", INVALID, "label", content={"digest": name, "size": 1, "labels": {"a b": "x"}})
        assert d.check("content", "label", name, "e=7", "d=").strip() == "containerd.io/gc.root=now,e=7"
        assert d.check("content", "label", name).strip() == "containerd.io/gc.root=now,e=7"


def test_lists_have_pages_and_filters():
    with Davit() as d, Bus(d) as bus:
        names = sorted(bus.put(b"%d" % i, labels=dict(ROOT, n=str(i))) for i in range(12))
        found, after = [], ""
        while True:
            page = bus.do("content.list", limit=5, after=after)
            found += [c["digest"] for c in page["contents"]]
            after = page.get("after")
            if not after:
                break
        assert found == names
        assert d.check("content", "ls", "-q", "labels.n==3").split() == [digest(b"3")]
        assert d.check("content", "ls", "-q", "digest~=^sha256:" + names[0][7:12]).split() == [names[0]]
        assert d.check("-n", "other", "content", "ls", "-q") == ""
        for i in range(3):
            bus.write("ref%d" % i, b"x" * i, writer="w")
        refs = [i["ref"] for i in bus.do("content.ingests", filters=["ref==ref1", "ref==ref2"])["ingests"]]
        assert refs == ["ref1", "ref2"], refs


def test_a_blob_is_deleted_unless_another_namespace_needs_it():
    with Davit() as d, Bus(d) as bus, Bus(d, "other") as other:
        path = os.path.join(d.work, "i.tar")
        manifest = layers.image(path, [layers.tar([layers.f("a")])], "v1")
        d.check("-n", "other", "bus", "call", "image.import", "path=" + path, "base_name=t", "no_unpack=true")
        result = d("content", "rm", manifest)
        assert result.returncode == 1 and b"needed by another namespace" in result.stderr, result
        name = bus.put(b"mine", labels=ROOT)
        other.refused("content.delete", FAILED_PRECONDITION, "'default' too", digest=name)
        assert d.check("content", "rm", name).strip() == name
        bus.refused("content.info", NOT_FOUND, "no blob", digest=name)
        assert d("content", "rm", name).returncode == 1
        d.check("-n", "other", "content", "rm", manifest)
        result = d("-n", "other", "bus", "call", "image.prepare", "name=t:v1", "key=k")
        assert result.returncode == 1 and manifest.encode() in result.stderr, result
        wait_for(lambda: len(folder(d, "blobs/sha256")) == 0, "and what it led to is collected", 20)
        topics = [e["event"]["digest"] for e in d.events("topic==/content/delete")]
        assert name in topics and manifest in topics, topics


# ---- verifying ----

def test_damaged_blobs_are_found_and_named():
    with Davit() as d, Bus(d) as bus:
        good = [bus.put(os.urandom(1000), labels=ROOT) for _ in range(150)]
        assert d.check("content", "verify").strip() == "150 blobs read, 0 bad"
        blobs = os.path.join(d.root, "image", "content", "blobs", "sha256")
        with open(os.path.join(blobs, good[7][7:]), "r+b") as out:
            out.write(b"damage")
        os.unlink(os.path.join(blobs, good[140][7:]))
        reply = bus.do("content.verify")
        assert reply["n_checked"] == 150 and reply["n_bad"] == 2, reply
        verdicts = {v["digest"]: v for v in reply["verdicts"]}
        assert set(verdicts) == {good[7], good[140]}
        for verdict in verdicts.values():
            assert verdict["status"] == "DATA_LOSS" and verdict["digest"] in verdict["error"]
            assert "import or pull the image again" in verdict["error"], verdict
        unknown = digest(b"unknown")
        named = bus.do("content.verify", digests=[good[0], good[7], unknown])["verdicts"]
        assert {v["digest"]: v["status"] for v in named} == {
            good[0]: "OK", good[7]: "DATA_LOSS", unknown: "NOT_FOUND"}, named
        result = d("content", "verify", good[0], good[7])
        assert result.returncode == 1 and (good[0] + ": ok").encode() in result.stdout, result
        assert b"is damaged" in result.stderr, result
        bus.refused("content.verify", INVALID, "not a digest", digests=["x"])


def test_what_is_committed_again_mends_a_damaged_blob():
    with Davit() as d, Bus(d) as bus:
        name = bus.put(b"whole", labels=ROOT)
        path = os.path.join(d.root, "image", "content", "blobs", "sha256", name[7:])
        with open(path, "wb") as out:
            out.write(b"broken")
        bus.write("again", b"whole")
        assert bus.do("content.commit", ref="again", writer="w")["existed"] is True
        with open(path, "rb") as data:
            assert data.read() == b"whole"
        assert d.check("content", "verify", name).strip() == name + ": ok"


def test_prune_references_drops_labels_of_layers():
    with Davit() as d, Bus(d) as bus:
        bus.do("lease.create", id="l")
        layer = bus.put(b"layer", lease="l")
        top = bus.put(b"top", labels=dict(ROOT, **{"containerd.io/gc.ref.content.l.0": layer,
                                                   "containerd.io/gc.ref.content.config": layer}))
        line = "%s containerd.io/gc.ref.content.l.0" % top
        assert d.check("content", "prune", "references", "--dry").strip() == line
        assert len(bus.do("content.info", digest=top)["content"]["labels"]) == 3
        assert d.check("content", "prune", "references").strip() == line
        labels = bus.do("content.info", digest=top)["content"]["labels"]
        assert labels == dict(ROOT, **{"containerd.io/gc.ref.content.config": layer}), labels


def test_many_writers_at_once():
    with Davit() as d:
        failures, names = [], []

        def write(i):
            try:
                with Bus(d) as bus:
                    for j in range(10):
                        names.append(bus.put(b"%d" % (j % 4) * 1000, ref="r%d" % i, labels=ROOT))
            except Exception as error:  # noqa: BLE001  told to the test's own thread
                failures.append(error)
        threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        assert sorted(folder(d, "blobs/sha256")) == sorted({n[7:] for n in names}) and len(names) == 60
        assert d.check("content", "verify").strip() == "4 blobs read, 0 bad"
        wait_for(lambda: not folder(d, "ingest"), "no file is left", 20)


if __name__ == "__main__":
    main(globals())
