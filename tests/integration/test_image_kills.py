#!/usr/bin/env python3
"""SIGKILL of the image service in the middle of whatever it can be at: afterwards each thing is whole or absent, the
caller has the answer, and the disk holds what the live image needs.

DAVIT_TEST_ROUNDS says how often it dies; DAVIT_TEST_SEED deals works and moments anew."""

import json
import os
import random
import sys
import tarfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from mounted import mounted_tree  # noqa: E402
from registry import Registry  # noqa: E402
from test_collect import age, blobs, folder, state, usage  # noqa: E402

ROUNDS = int(os.environ.get("DAVIT_TEST_ROUNDS", "2"))
SHIFT = random.Random(int(os.environ.get("DAVIT_TEST_SEED", "20261128")))
AT_A_TIME = 4


def write_archive(d, name):
    """Everything that layers can do to each other, and enough bytes that the work takes its time."""
    noise = random.Random(name)
    contents = [layers.tar(entries + [layers.f("noise-%d" % i, noise.randbytes(600000))])
                for i, entries in enumerate(layers.LAYERS)]
    path = os.path.join(d.work, name + ".tar")
    return path, layers.image(path, contents, name)


def contents_of_archive(path):
    """The blobs in an archive by their digests, each of which its content has."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith("blobs/sha256/") and member.isfile():
                name = "sha256:" + member.name.split("/")[-1]
                found[name] = archive.extractfile(member).read()
                assert layers.digest(found[name]) == name, "%s in %s" % (name, path)
    return found


def blobs_of_archive(path):
    return set(contents_of_archive(path))


class Kind:
    """One kind of work on an image of its own: made ready, begun, and looked at when it has ended."""

    def __init__(self, rig):
        self.rig, self.d = rig, rig.d
        self.label = type(self).__name__.lower()
        self.name = "t:" + self.label
        self.path, self.manifest = write_archive(self.d, self.label)

    def bring(self, *words):
        self.d.call("image.import", "path=" + self.path, "base_name=t", *words)

    def ready(self):
        pass

    def look(self):
        self.rig.assert_whole(self.name)

    def words(self):
        raise NotImplementedError


class Import(Kind):
    def words(self):
        return "images", "import", "--base-name", "t", self.path


class Pull(Kind):
    def __init__(self, rig):
        super().__init__(rig)
        self.bring()
        self.name = rig.registry.host + "/pull:1"
        self.d.check("images", "push", self.name, "t:pull")
        self.d.check("images", "rm", "--sync", "t:pull")

    def words(self):
        return "images", "pull", self.name


class Unpack(Kind):
    def ready(self):
        self.bring("no_unpack=true")

    def words(self):
        return "snapshots", "unpack", self.manifest


class Remove(Kind):
    def ready(self):
        self.bring()

    def words(self):
        return "images", "rm", "--sync", self.name

    def look(self):
        assert self.name not in self.d.check("images", "ls", "-q").split()
        assert self.manifest not in blobs(self.d)


class Collect(Kind):
    def ready(self):
        self.bring()
        self.d.check("images", "rm", self.name)

    def words(self):
        return ("prune", "--force")

    def look(self):
        assert self.manifest not in blobs(self.d)


class Push(Kind):
    def ready(self):
        self.bring()
        self.target = "push-%d" % self.rig.round

    def words(self):
        return "images", "push", "%s/%s:1" % (self.rig.registry.host, self.target), self.name

    def look(self):
        super().look()
        assert self.rig.registry.digest(self.target + ":1") == self.manifest


class Export(Kind):
    def ready(self):
        self.bring()
        self.out = os.path.join(self.d.work, "out.tar")

    def words(self):
        return "images", "export", self.out, self.name

    def look(self):
        super().look()
        assert blobs_of_archive(self.out) == blobs_of_archive(self.path)
        os.unlink(self.out)
        assert not [name for name in os.listdir(self.d.work) if name.startswith("out.tar")], "a part of it is left"


class Convert(Kind):
    def ready(self):
        self.bring()

    def words(self):
        return "images", "convert", "--compression", "zstd", "--oci", self.name, "t:converted"

    def look(self):
        super().look()
        self.rig.assert_whole("t:converted")


class FetchObject(Kind):
    """All objects of an image, one by one, which leave nothing."""

    def __init__(self, rig):
        super().__init__(rig)
        self.bring()
        self.remote = rig.registry.host + "/object:1"
        self.d.check("images", "push", self.remote, self.name)
        self.d.check("images", "rm", "--sync", self.name)
        self.contents = contents_of_archive(self.path)

    def words(self):
        return ("content", "fetch-object", self.remote, *self.contents)

    def look(self):
        assert self.said == b"".join(self.contents.values())
        self.d.call("image.collect")
        assert not set(self.contents) & blobs(self.d)


class Container(Kind):
    """A container's snapshot, made of layers that are not unpacked and removed again."""

    def ready(self):
        self.bring("no_unpack=true")

    def words(self):
        return "bus", "call", "image.prepare", "name=" + self.name, "key=container"

    def look(self):
        super().look()
        self.d.call("image.release", "key=container")


KINDS = [Import, Pull, Unpack, Remove, Collect, Push, Export, Convert, FetchObject, Container]


class Rig:
    def __init__(self, d, registry):
        self.d, self.registry, self.round, self.n_cut = d, registry, 0, {}
        path, _ = write_archive(d, "live")
        d.call("image.import", "path=" + path, "base_name=t")
        self.trees = {}
        self.kinds = [kind(self) for kind in KINDS]

    def tree(self, name):
        reply = json.loads(self.d.check("bus", "call", "image.prepare", "name=" + name, "key=look", "read_only=true"))
        try:
            return mounted_tree(reply["mounts"], self.d.work)
        finally:
            self.d.call("image.release", "key=look")

    def assert_whole(self, name):
        """All that is needed is there with its digest, and unpacks to what it did without any death."""
        (check,) = json.loads(self.d.check("images", "check", "--verify", "--format", "json", "name==" + name))
        assert check["n_present"] == check["n_required"] and not check.get("problem"), check
        tree = self.tree(name)
        kept = {path: facts for path, facts in tree.items() if not path.startswith("noise")}
        self.trees.setdefault("all", kept)
        assert kept == self.trees["all"], layers.differences(kept, self.trees["all"])
        noise = sorted((path, facts[4]) for path, facts in tree.items() if path.startswith("noise"))
        label = "convert" if name == "t:converted" else name.split("/")[-1].replace("t:", "").replace(":1", "")
        random_bytes = random.Random(label)
        assert noise == [("noise-%d" % i, layers.digest(random_bytes.randbytes(600000))[7:]) for i in range(3)], name

    def die_amidst(self):
        self.round += 1
        chosen = SHIFT.sample(self.kinds, AT_A_TIME)
        for kind in chosen:
            kind.ready()
        # Its supervisor starts at once what had run for two seconds.
        wait_for(lambda: age(self.d, "davit-image") > 2.1, "it is steady")
        works = [(kind, self.d.start(*kind.words())) for kind in chosen]
        time.sleep(SHIFT.random() * 0.4)  # where in the work it dies is the point of the test
        for kind, work in works:
            self.n_cut[kind.label] = self.n_cut.get(kind.label, 0) + (work.poll() is None)
        self.d.kill("davit-image")
        for kind, work in works:
            kind.said, err = work.communicate(timeout=120)
            assert work.returncode == 0, (self.round, kind.label, err)
        for kind in chosen:
            kind.look()
        assert self.d.call("content.verify").get("verdicts", []) == []
        for name in self.d.check("images", "ls", "-q").split():
            if name != "t:live":
                self.d.check("images", "rm", name)

    def repair_everything(self):
        """What repair makes again of the blobs is what was there."""
        chains = [s["key"] for s in self.d.json("snapshots", "ls") if s["kind"] == "committed"]
        before = self.tree("t:live")
        self.d.check("snapshots", "repair", *chains)
        assert self.tree("t:live") == before


def test_killed_at_whatever_it_does_it_leaves_all_whole_or_absent():
    with Registry() as registry, Davit() as d:
        rig = Rig(d, registry)
        rig.assert_whole("t:live")
        d.call("image.collect")
        live, live_usage = state(d), usage(d)
        for _ in range(ROUNDS):
            rig.die_amidst()
        print("cut in the middle:", rig.n_cut)
        assert sum(rig.n_cut.values()), "it never died in the middle of anything"
        d.call("image.collect")
        assert state(d) == live
        assert blobs(d) == {c for k, c in live if k == "content"}
        assert not folder(d, "content/ingest"), folder(d, "content/ingest")
        wait_for(lambda: usage(d) == live_usage, "disk usage is back at the live image's", 20)
        rig.assert_whole("t:live")
        rig.repair_everything()
        wait_for(lambda: usage(d) == live_usage, "and so it is after a repair", 20)
        assert not d.call("image.operations").get("operations"), "an operation is left"


if __name__ == "__main__":
    main(globals())
