#!/usr/bin/env python3
"""Checkpoint images and directories: made, kept, moved and restored, with a real runc over a stand-in for criu;
and what happens where there is no criu."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, TOP, main, wait_for  # noqa: E402
from registry import Registry  # noqa: E402

SAVED = "example.org/saved:1"
CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
OPTIONS = "application/vnd.containerd.container.checkpoint.options.v1+proto"
SPEC = "application/vnd.containerd.container.checkpoint.config.v1+proto"
DUMP, RESTORE = 1, 2


class Case:
    """A davit, and a runc that finds tests/programs/criu.py as criu."""

    def __init__(self, davit):
        self.davit, self.record = davit, os.path.join(davit.work, "criu.record")
        programs = os.path.join(davit.work, "bin")
        os.mkdir(programs)
        os.symlink(os.path.join(TOP, "tests", "programs", "criu.py"), os.path.join(programs, "criu"))
        self.runc = os.path.join(programs, "runc-with-criu")
        with open(self.runc, "w") as f:
            f.write('#!/bin/sh\nCRIU_RECORD=%s PATH=%s:$PATH exec runc "$@"\n' % (self.record, programs))
        os.chmod(self.runc, 0o755)

    def run(self, name="web"):
        d = self.davit
        d.check("run", "-d", "--runc-binary", self.runc, "--env", "A=kept", "busybox", name,
                "sh", "-c", "echo made >/made; echo $A$RESTORED; exec sleep 1000")
        d.note_cgroup(name)
        wait_for(lambda: d("logs", name).stdout == b"kept\n", "it has written")
        # The stand-in reads from /proc what there is: in the midst of execve that is nothing.
        wait_for(lambda: is_sleep([t["pid"] for t in d.json("ps") if t["id"] == name][0]), "sleep runs")

    def asked(self, kind):
        """What was asked of criu, of one kind."""
        with open(self.record) as f:
            return [r for r in map(json.loads, f) if r["type"] == kind]

    def index(self, name=SAVED):
        target = self.davit.call("image.get", "name=" + name)["image"]["target"]
        assert target["media_type"] == "application/vnd.oci.image.index.v1+json", target
        return json.loads(self.davit.check("content", "get", target["digest"]))

    def blob(self, digest):
        return self.davit("content", "get", digest).stdout

    def must_run_restored(self, name):
        # sleep had taken the shell's place when it was dumped: what comes back is sleep, with what it was given.
        d = self.davit
        pid = [t["pid"] for t in d.json("ps") if t["id"] == name][0]
        wait_for(lambda: b"RESTORED=1" in environment(pid), "it has its environment")
        assert b"A=kept" in environment(pid)
        assert is_sleep(pid)


def is_sleep(pid):
    with open("/proc/%d/cmdline" % pid, "rb") as f:
        return f.read() == b"sleep\x001000\x00"


def environment(pid):
    with open("/proc/%d/environ" % pid, "rb") as f:
        return f.read().split(b"\0")


@contextlib.contextmanager
def case():
    with Davit() as d:
        d.import_busybox()
        yield d, Case(d)
        assert d.json("leases", "ls") == []


def test_a_checkpoint_image_holds_all_parts_and_brings_a_container_back():
    with case() as (d, c):
        c.run()
        before = d.json("ps")
        d.check("containers", "checkpoint", "--task", "--rw", "--image", "web", SAVED)
        assert d.json("ps")[0]["pid"] == before[0]["pid"] and d.json("ps")[0]["status"] == "RUNNING"
        (dump,) = c.asked(DUMP)
        assert dump["leave_running"] == 1 and dump["file_locks"] == 1 and dump["pid"] == before[0]["pid"], dump
        keys = [line.partition("external ")[2] for line in dump["told"]]
        assert len(keys) == 2 and all(re.fullmatch(r"file\[[0-9a-f]+:[0-9a-f]+\]", key) for key in keys), dump
        index = c.index()
        parts = {part["mediaType"]: part for part in index["manifests"]}
        assert set(parts) == {"application/vnd.oci.image.manifest.v1+json",
                              "application/vnd.oci.image.layer.v1.tar+gzip", CRIU, OPTIONS, SPEC}, parts
        assert all(part["platform"]["os"] == "linux" for part in index["manifests"]), parts
        notes = index["annotations"]
        assert notes["org.opencontainers.image.ref.name"] == "docker.io/library/busybox:latest", notes
        assert notes["io.containerd.checkpoint.runtime"] == c.runc, notes
        with tarfile.open(fileobj=io.BytesIO(c.blob(parts[CRIU]["digest"]))) as tar:
            assert {"pages-1.img", "inventory.img", "descriptors.json"} <= set(tar.getnames()), tar.getnames()
        spec = c.blob(parts[SPEC]["digest"])
        assert b"types.containerd.io/opencontainers/runtime-spec/1/Spec" in spec and b'"A=kept"' in spec
        assert c.blob(parts[OPTIONS]["digest"]).endswith(b"\x12\x02\x28\x01")
        d.check("rm", "-f", "web")
        # Through an archive: all parts go along.
        archive = os.path.join(d.work, "saved.tar")
        d.check("images", "export", archive, SAVED)
        d.check("images", "rm", "--sync", SAVED)
        d.check("images", "import", archive)
        d.check("containers", "restore", "--live", "--rw", "again", SAVED)
        c.must_run_restored("again")
        told = c.asked(RESTORE)[0]["told"]
        assert told[:2] == ["inherit-fd fd[%d]:%s" % (1 + i, key) for i, key in enumerate(keys)], told
        assert re.fullmatch(r"cgroup-root /.*/again", told[2]), told
        assert d.check("exec", "again", "cat", "/made") == "made\n"
        d.check("run", "-d", "--checkpoint", SAVED, "--runc-binary", c.runc, "busybox", "third", "sleep", "1000")
        c.must_run_restored("third")
        assert d("exec", "third", "cat", "/made").returncode == 1 and len(c.asked(RESTORE)) == 2
        d.check("rm", "-f", "again", "third")


def test_a_checkpoint_image_goes_through_a_registry_and_a_conversion():
    with Registry() as r, case() as (d, c):
        c.run()
        name, converted = "%s/saved:1" % r.host, "example.org/converted:1"
        d.check("exec", "web", "sh", "-c", "echo kept >/kept")
        d.check("containers", "checkpoint", "--task", "--rw", "--image", "web", name)
        index = c.index(name)
        parts = {part["mediaType"]: part["digest"] for part in index["manifests"]}
        target = d.call("image.get", "name=" + name)["image"]["target"]["digest"]
        d.check("rm", "-f", "web")
        d.check("images", "push", name)
        assert r.digest("saved:1") == target
        d.check("images", "rm", "--sync", name)
        there = d.check("content", "ls", "-q").split()
        assert not {target, parts[CRIU], parts[SPEC], parts[OPTIONS]} & set(there), there
        d.check("images", "pull", name)
        assert c.index(name) == index and {*parts.values()} <= set(d.check("content", "ls", "-q").split())
        d.check("images", "convert", "--uncompress", name, converted)
        after = {part["mediaType"]: part["digest"] for part in c.index(converted)["manifests"]}
        assert all(after[kind] == parts[kind] for kind in (CRIU, SPEC, OPTIONS)), (parts, after)
        for image in (name, converted):
            d.check("containers", "restore", "--rw", "again", image)
            assert d.check("exec", "again", "cat", "/kept") == "kept\n"
            d.check("rm", "-f", "again")


def must_refuse(d):
    """What is no checkpoint, or holds no memory, is not restored."""
    d.check("run", "-d", "busybox", "other", "sleep", "1000")
    d.check("containers", "checkpoint", "other", SAVED)
    for words, reason in ((("containers", "restore", "--live", "again", SAVED), b"without --task"),
                          (("run", "-d", "--checkpoint", SAVED, "busybox", "again"), b"without --task"),
                          (("containers", "restore", "again", "busybox"), b"no checkpoint of a container"),
                          (("run", "--checkpoint", "nowhere:1", "busybox", "again"), b"nowhere:1")):
        result = d(*words)
        assert result.returncode in (1, 125) and reason in result.stderr, result
    d.check("rm", "-f", "other")


def test_a_directory_of_images_ends_and_restores_a_container():
    with case() as (d, c):
        c.run()
        images = os.path.join(d.work, "images")
        d.check("tasks", "checkpoint", "--exit", "--image-path", images, "web")
        wait_for(lambda: d.json("ps", "-a")[0]["status"] == "STOPPED", "it has ended")
        assert c.asked(DUMP)[0].get("leave_running", 0) == 0
        d.check("rm", "web")
        d.check("run", "-d", "--checkpoint", images, "--runc-binary", c.runc, "busybox", "again", "sleep", "1000")
        c.must_run_restored("again")
        d.check("rm", "-f", "again")
        # Other bytes than those that were dumped are not restored, and the reason is the runtime's own.
        with open(os.path.join(images, "pages-1.img"), "ab") as f:
            f.write(b"x")
        result = d("run", "-d", "--checkpoint", images, "--runc-binary", c.runc, "busybox", "bad", "sleep", "1000")
        assert result.returncode == 125 and b"criu failed" in result.stderr, result
        assert d.json("containers", "ls") == []
        must_refuse(d)


def test_without_criu_the_runtimes_reason_is_told_and_the_container_runs_on():
    if shutil.which("criu"):
        return
    with case() as (d, _):
        for runtime in ("crun", "runc"):
            d.check("run", "-d", "--runtime", runtime, "busybox", runtime, "sleep", "1000")
            d.note_cgroup(runtime)
            result = d("containers", "checkpoint", "--task", "--rw", runtime, SAVED)
            # Debian's crun has no such command, its runc looks for criu.
            said = result.stderr.decode().strip().partition(": %s checkpoint: " % runtime)[2]
            assert result.returncode == 1 and said, (runtime, result)
            assert d.check("exec", runtime, "echo", "alive") == "alive\n"
            assert d("images", "inspect", SAVED).returncode == 1
        assert [t["status"] for t in d.json("ps")] == ["RUNNING", "RUNNING"]
        d.check("rm", "-f", "crun", "runc")


def count_of(d, name):
    """How far it has counted; it writes one number a line."""
    return int(d.check("logs", "--tail", "1", name) or 0)


def must_count_on(d, name):
    before = count_of(d, name)
    wait_for(lambda: count_of(d, name) > before, "%s counts on" % name)


def test_with_a_criu_that_works_processes_go_on_where_they_were():
    """Its memory, its output and its cgroup, with criu itself: criu 3.17 works with Debian 12's kernel."""
    if not shutil.which("criu") or subprocess.run(["criu", "check"], capture_output=True).returncode:
        print("no criu that works: not tried")
        return
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--runtime", "runc", "busybox", "web", "sh", "-c",
                "i=1000; while :; do i=$((i+1)); echo $i; sleep 0.1; done")
        d.note_cgroup("web")
        must_count_on(d, "web")
        d.check("containers", "checkpoint", "--task", "--rw", "web", SAVED)
        dumped = count_of(d, "web")
        must_count_on(d, "web")
        d.check("rm", "-f", "web")
        d.check("containers", "restore", "--live", "--rw", "again", SAVED)
        d.note_cgroup("again")
        wait_for(lambda: d("logs", "again").stdout, "it writes")
        first = int(d.check("logs", "again").split()[0])
        assert 1001 < first <= dumped + 1, (first, dumped)
        must_count_on(d, "again")
        assert d.check("exec", "again", "echo", "alive") == "alive\n"
        with open("/proc/%d/cgroup" % d.json("ps")[0]["pid"]) as f:
            assert all(line.strip().endswith("/again") for line in f if line.startswith("0::") or "memory" in line)
        # Once more, of what was restored, and it ends with it.
        images = os.path.join(d.work, "images")
        d.check("tasks", "checkpoint", "--exit", "--image-path", images, "again")
        wait_for(lambda: d.json("ps", "-a")[0]["status"] == "STOPPED", "it has ended")
        d.check("rm", "again")
        d.check("run", "-d", "--checkpoint", images, "--runtime", "runc", "busybox", "third", "sh")
        wait_for(lambda: d("logs", "third").stdout, "it writes")
        must_count_on(d, "third")
        os.unlink(os.path.join(images, "pages-1.img"))
        result = d("run", "-d", "--checkpoint", images, "--runtime", "runc", "busybox", "bad", "sh")
        assert result.returncode == 125 and re.search(rb"restore\.log: .+", result.stderr), result
        d.check("rm", "-f", "third")


if __name__ == "__main__":
    main(globals())
