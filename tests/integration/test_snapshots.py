#!/usr/bin/env python3
"""Snapshots, and what of them is seen from outside."""

import gzip
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import TOP, Davit, main  # noqa: E402
from mounted import mounted, mounted_tree  # noqa: E402


def make_image(d, name, *contents):
    path = os.path.join(d.work, "image.tar")
    layers.image(path, [layers.tar(entries) for entries in contents], name)
    return path


def test_a_namespace_that_has_only_images_is_listed():
    with Davit() as d:
        path = make_image(d, "t:1", [layers.f("a")])
        d.check("-n", "green", "images", "import", path)
        d.check("-n", "red", "images", "import", "--no-unpack", path)
        assert [n["name"] for n in d.json("namespaces", "ls")] == ["green", "red"]
        assert "green" in d.check("namespaces", "ls").splitlines()[1]
        refused = d("namespaces", "rm", "green")
        assert refused.returncode == 1 and b"images" in refused.stderr, refused
        d.check("-n", "green", "images", "rm", "--sync", *[i["name"] for i in d.json("-n", "green", "images", "ls")])
        assert [n["name"] for n in d.json("namespaces", "ls")] == ["red"]
        d.check("-n", "red", "images", "rm", "--sync", *[i["name"] for i in d.json("-n", "red", "images", "ls")])


def test_a_layer_that_umoci_inserted_is_taken():
    with Davit() as d:
        layout, inserted = os.path.join(d.work, "layout"), os.path.join(d.work, "inserted")
        with open(inserted, "w") as out:
            out.write("odd size")
        for words in (["init", "--layout", layout], ["new", "--image", layout + ":x"],
                      ["insert", "--image", layout + ":x", inserted, "/inserted"]):
            subprocess.run(["umoci"] + words, check=True)
        archive = os.path.join(d.work, "image.tar")
        subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
        d.check("images", "import", "--base-name", "t", archive)
        (record,) = d.json("snapshots", "ls")
        with open(os.path.join(d.root, "image", "snapshots", str(record["number"]), "fs", "inserted")) as data:
            assert data.read() == "odd size"


# ---- the snapshots of a client's own ----

def own(d, snapshotter):
    def call(method, *words):
        return d.call("snapshot." + method, "snapshotter=" + snapshotter, *words)
    return call


def write(call, d, key, name, text):
    with mounted(call("mounts", "key=" + key)["mounts"], d.work) as root:
        with open(os.path.join(root, name), "w") as out:
            out.write(text)


def test_snapshots_are_prepared_committed_and_lie_on_each_other():
    with Davit() as d:
        d.check("images", "import", make_image(d, "t:1", [layers.f("below", b"1")]))
        chain = d.json("snapshots", "ls")[0]["key"]
        for snapshotter in ("overlayfs", "native"):
            call = own(d, snapshotter)
            if snapshotter == "native":
                d.check("images", "import", "--snapshotter", "native", make_image(d, "t:1", [layers.f("below", b"1")]))
            first = call("prepare", "key=a", "parent=" + chain)
            assert first["snapshot"]["kind"] == "active" and first["snapshot"]["parent"] == chain, first
            write(call, d, "a", "one", "1")
            done = call("commit", "name=layer-a", "key=a", "labels.x=y")["snapshot"]
            assert done["kind"] == "committed" and done["labels"]["x"] == "y" and done["size"] >= 1, done
            call("prepare", "key=b", "parent=layer-a")
            write(call, d, "b", "two", "2")
            call("commit", "name=layer-b", "key=b")
            view = call("view", "key=v", "parent=layer-b")
            tree = mounted_tree(view["mounts"], d.work)
            assert {"below", "one", "two"} <= set(tree), tree
            with mounted(view["mounts"], d.work) as root:
                try:
                    open(os.path.join(root, "new"), "w")
                    raise AssertionError("a view can be written")
                except OSError:
                    pass
            for key in ("layer-a", "layer-b", chain):
                refused = d("snapshots", "--snapshotter", snapshotter, "rm", key)
                assert refused.returncode == 1 and key.encode() in refused.stderr, refused
            d.check("snapshots", "--snapshotter", snapshotter, "rm", "v", "layer-b", "layer-a")
        d.check("snapshots", "cleanup")
        left = set(os.listdir(os.path.join(d.root, "image", "snapshots")))
        assert left == {str(r["number"]) for r in d.json("snapshots", "ls")}, left
        topics = [e["topic"] for e in d.events() if e["topic"].startswith("/snapshot/")]
        assert topics.count("/snapshot/remove") == 6, topics
        assert topics.count("/snapshot/commit") == 2 + 4, topics


def test_what_makes_no_sense_is_refused_by_name():
    with Davit() as d:
        d.check("snapshots", "prepare", "a")
        cases = [(["snapshots", "prepare", "a"], b"exists"), (["snapshots", "prepare", "b", "a"], b"not committed"),
                 (["snapshots", "prepare", "b", "none"], b"no snapshot 'none'"),
                 (["snapshots", "prepare", "sha256:" + "0" * 64], b"digests name layers"),
                 (["snapshots", "commit", "sha256:" + "0" * 64, "a"], b"digests name layers"),
                 (["snapshots", "commit", "c", "none"], b"no snapshot 'none'"),
                 (["snapshots", "--snapshotter", "zfs", "prepare", "b"], b"overlayfs and native"),
                 (["snapshots", "rm", "none"], b"no snapshot 'none'"), (["snapshots", "info", "none"], b"no snapshot 'none'"),
                 (["snapshots", "label", "none", "a=b"], b"no snapshot 'none'")]
        for words, text in cases:
            result = d(*words)
            assert result.returncode == 1 and text in result.stderr, (words, result)
        d.check("snapshots", "view", "v")
        refused = d("snapshots", "commit", "c", "v")
        assert refused.returncode == 1 and b"not active" in refused.stderr, refused
        assert [s["key"] for s in d.json("snapshots", "ls")] == ["a", "v"]
        d.check("snapshots", "rm", "a", "v")


def test_the_snapshot_commands_print_as_ctr_does():
    with Davit() as d:
        d.check("snapshots", "prepare", "base")
        d.check("snapshots", "commit", "layer", "base")
        out = d.check("snapshots", "prepare", "-t", "/mnt/x", "top", "layer").split()
        assert out[:5] == ["mount", "-t", "overlay", "overlay", "/mnt/x"] and "lowerdir=" in out[6], out
        assert d.check("snapshots", "mounts", "/mnt/x", "top").split() == out
        assert d.check("snapshots", "ls").splitlines()[0].split() == ["KEY", "PARENT", "KIND"]
        assert d.check("snapshots", "tree") == " layer\n  \\_ top\n"
        assert d.check("snapshots", "label", "top", "a=1", "b=2") .strip().split(",")[-2:] == ["a=1", "b=2"]
        d.check("snapshots", "label", "top", "b=")
        labels = d.json("snapshots", "ls", "name==top")[0]["labels"]
        assert labels["a"] == "1" and "b" not in labels, labels
        shown = d.check("snapshots", "label", "top")
        assert "a=1" in shown.strip().split(",") and d.json("snapshots", "ls", "name==top")[0]["labels"] == labels, shown
        lines = d.check("snapshots", "usage", "-b", "top").splitlines()
        assert lines[0].split() == ["KEY", "SIZE", "INODES"] and lines[1].split() == ["top", "0", "0"], lines
        assert json.loads(d.check("snapshots", "info", "top"))["parent"] == "layer"
        d.check("snapshots", "rm", "top", "layer")


def test_a_container_runs_on_120_layers():
    with Davit() as d:
        path = os.path.join(d.work, "deep.tar")
        subprocess.run([sys.executable, os.path.join(TOP, "tools", "examples", "make-image.py"), "--layers", "120", path],
                       check=True)
        d.check("images", "import", path)
        layers_ = [s for s in d.json("snapshots", "ls") if s["kind"] == "committed"]
        assert len(layers_) == 120, len(layers_)
        out = d.check("run", "--rm", "busybox", "deep", "sh", "-c", "ls /etc | grep -c layer- && touch /etc/new")
        assert out.strip() == "119", out
        many = [d.start("run", "--rm", "busybox", "deep%d" % i, "cat", "/etc/layer-%d" % (i + 1)) for i in range(4)]
        for i, process in enumerate(many):
            stdout, stderr = process.communicate(timeout=60)
            assert stdout.decode().strip() == str(i + 1), (stdout, stderr)
        mounts = d.call("snapshot.prepare", "key=p", "parent=" + top_of(layers_))["mounts"]
        assert sum(len(o) for o in mounts[0]["options"]) > 4096
        assert len([n for n in mounted_tree(mounts, d.work) if n.startswith("etc/layer-")]) == 119
        d.check("snapshots", "rm", "p")


# ---- diff ----

def change_everything(root):
    """What a container can do to its tree, so that each kind of change is there."""
    def at(*names):
        return os.path.join(root, *names)

    def put(name, data, mode=0o644):
        with open(at(name), "w") as out:
            out.write(data)
        os.chmod(at(name), mode)
    put("new", "1")
    put("etc/passwd", "changed")
    before = os.stat(at("etc/group"))
    put("etc/group", "GROUP")  # the same size and the same time: only the content tells
    os.utime(at("etc/group"), ns=(before.st_atime_ns, before.st_mtime_ns))
    os.chmod(at("suid"), 0o755)
    os.setxattr(at("attr"), "user.more", b"\0\1=\n")
    os.removexattr(at("attr"), "user.foo")
    shutil.rmtree(at("gone"))
    os.unlink(at("dangling"))
    shutil.move(at("deep"), at("deeper"))  # overlayfs does not rename what lies below
    os.rename(at("setgid/f"), at("moved"))
    shutil.rmtree(at("file-later"))
    put("file-later", "a file now")
    os.unlink(at("dir-later"))
    os.mkdir(at("dir-later"))
    put("dir-later/in", "x")
    shutil.rmtree(at("opaque"))
    os.mkdir(at("opaque"), 0o711)
    put("opaque/new", "n")
    os.link(at("usr/lib/a"), at("usr/lib/a3"))  # a third name of a file with two
    put("one", "linked")
    os.link(at("one"), at("usr/two"))
    os.symlink("one", at("link"))
    os.chown(at("link"), 7, 8, follow_symlinks=False)
    os.mknod(at("dev"), 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.mkfifo(at("pipe"))
    put("x" * 240, "long")
    put("\u00e4" * 60, "utf8")
    socket.socket(socket.AF_UNIX).bind(at("sock"))
    with open(at("sparse"), "wb") as out:
        out.seek(3 << 20)
        out.write(b"end")
    os.utime(at("sticky"), ns=(1, 1500000000123456789))
    os.chown(at("attrs"), 100000, 3000000)


BASE = layers.LAYERS[0] + [layers.f("etc/group", b"group"), layers.f("unchanged", b"u" * 70000)]


def diff_of(d, snapshotter, *words):
    result = d("snapshots", "--snapshotter", snapshotter, "diff", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def without_sockets(tree):
    return {name: entry for name, entry in tree.items() if not stat.S_ISSOCK(int(entry[0], 8))}


def applied(d, snapshotter, tars):
    """The tree that davit makes of layers."""
    path = os.path.join(d.work, "applied.tar")
    layers.image(path, tars, "applied")
    d.check("-n", "applied", "images", "import", "--snapshotter", snapshotter, "--base-name", "a", path)
    reply = json.loads(d.check("-n", "applied", "bus", "call", "image.prepare", "name=a:applied", "key=k",
                               "snapshotter=" + snapshotter))
    try:
        return mounted_tree(reply["mounts"], d.work)
    finally:
        d.check("-n", "applied", "bus", "call", "image.release", "key=k", "snapshotter=" + snapshotter)


def test_a_diff_applied_on_the_parent_is_the_same_tree():
    media = "application/vnd.oci.image.layer.v1.tar"
    with Davit() as d:
        for snapshotter in ("overlayfs", "native"):
            path = make_image(d, "t:1", BASE)
            d.check("images", "import", "--snapshotter", snapshotter, path)
            call = own(d, snapshotter)
            (chain,) = [s["key"] for s in d.json("snapshots", "--snapshotter", snapshotter, "ls")]
            call("prepare", "key=a", "parent=" + chain)
            empty = diff_of(d, snapshotter, "--media-type", media, "a")
            assert empty == bytes(1024), "nothing changed, and yet: %r" % empty[:200]
            with mounted(call("mounts", "key=a")["mounts"], d.work) as root:
                change_everything(root)
                changed = without_sockets(layers.tree(root))
            plain = diff_of(d, snapshotter, "--media-type", media, "a")
            assert gzip.decompress(diff_of(d, snapshotter, "a")) == plain
            zstd = diff_of(d, snapshotter, "--media-type", media + "+zstd", "--keep", "--label", "a=b", "a")
            d.call("image.collect")
            kept = d.call("content.info", "digest=" + layers.digest(zstd))["content"]
            assert kept["labels"]["a"] == "b" and kept["diff_id"] == layers.digest(plain), kept
            assert zstd[:4] == b"\x28\xb5\x2f\xfd" and len(zstd) < len(plain)
            names = tarfile.open(fileobj=io.BytesIO(plain)).getnames()
            assert "unchanged" not in names and ".wh.gone" in names and "opaque/.wh..wh..opq" in names, names
            found = layers.differences(applied(d, snapshotter, [layers.tar(BASE), plain]), changed)
            assert not found, "%s:\n  %s" % (snapshotter, "\n  ".join(found[:20]))
            call("prepare", "key=b", "parent=" + chain)
            call("apply", "key=b", "digest=" + layers.digest(zstd))
            with mounted(call("mounts", "key=b")["mounts"], d.work) as root:
                found = layers.differences(without_sockets(layers.tree(root)), changed)
            assert not found, "%s, applied to a snapshot:\n  %s" % (snapshotter, "\n  ".join(found[:20]))
            result = d("bus", "call", "snapshot.apply", "key=" + chain, "snapshotter=" + snapshotter,
                       "digest=" + layers.digest(zstd))
            assert result.returncode == 1 and b"only an active one can be changed" in result.stderr, result
            result = d("bus", "call", "snapshot.apply", "key=b", "snapshotter=" + snapshotter, "digest=sha256:" + "0" * 64)
            assert result.returncode == 1 and b"0000" in result.stderr, result
            d.check("snapshots", "--snapshotter", snapshotter, "rm", "b")
            call("commit", "name=c", "key=a")
            assert diff_of(d, snapshotter, "--media-type", media, "c") == plain
            assert diff_of(d, snapshotter, "--media-type", media, chain, "c") == plain
            back = diff_of(d, snapshotter, "--media-type", media, "c", chain)
            found = layers.differences(applied(d, snapshotter, [layers.tar(BASE), plain, back]),
                                       applied(d, snapshotter, [layers.tar(BASE)]))
            assert not found, "%s, back:\n  %s" % (snapshotter, "\n  ".join(found[:20]))
            d.check("snapshots", "--snapshotter", snapshotter, "rm", "c")


def test_a_diff_is_read_by_umoci():
    with Davit() as d:
        d.check("images", "import", make_image(d, "t:1", BASE))
        call = own(d, "overlayfs")
        call("prepare", "key=a", "parent=" + d.json("snapshots", "ls")[0]["key"])
        with mounted(call("mounts", "key=a")["mounts"], d.work) as root:
            change_everything(root)
            changed = without_sockets(layers.tree(root))
        archive, layout = os.path.join(d.work, "whole.tar"), os.path.join(d.work, "layout")
        layers.image(archive, [layers.tar(BASE), gzip.decompress(diff_of(d, "overlayfs", "a"))], "x")
        os.mkdir(layout)
        subprocess.run(["tar", "-C", layout, "-xf", archive], check=True)
        subprocess.run(["umoci", "unpack", "--image", layout + ":x", os.path.join(d.work, "bundle")], check=True)
        found = layers.differences(layers.tree(os.path.join(d.work, "bundle", "rootfs")), changed)
        assert not found, "\n  ".join(found[:20])
        d.check("snapshots", "rm", "a")


def top_of(records):
    (top,) = {r["key"] for r in records} - {r.get("parent") for r in records}
    return top


if __name__ == "__main__":
    main(globals())
