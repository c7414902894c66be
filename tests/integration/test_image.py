#!/usr/bin/env python3
"""Images: unpacked as umoci does it, refused when they are not what they say, and gone when nothing needs them."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def mounted_tree(mount, work):
    """The tree of a snapshot, mounted in a mount namespace of a child's own."""
    target = os.path.join(work, "mounted")
    os.makedirs(target, exist_ok=True)
    kind = ["--bind"] if mount["type"] == "bind" else ["-t", mount["type"], "-o", ",".join(mount["options"])]
    script = 'mount "$@" && exec %s -c "%s" "%s"' % (
        sys.executable,
        "import sys; sys.path.insert(0, '%s'); import layers; print(repr(layers.tree(sys.argv[1])))" % HERE, target)
    out = subprocess.run(["unshare", "-m", "sh", "-ec", script, "sh"] + kind + [mount["source"], target],
                         stdout=subprocess.PIPE, check=True).stdout
    return eval(out)  # our own repr, from our own child


def umoci_tree(blobs, work):
    layout, bundle = os.path.join(work, "layout"), os.path.join(work, "bundle")
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", layout + ":x"], check=True)
    for i, blob in enumerate(blobs):
        path = os.path.join(work, "layer%d.tar" % i)
        with open(path, "wb") as out:
            out.write(blob)
        subprocess.run(["umoci", "raw", "add-layer", "--image", layout + ":x", path], check=True)
    subprocess.run(["umoci", "unpack", "--image", layout + ":x", bundle], check=True)
    return layers.tree(os.path.join(bundle, "rootfs")), layout


def compare_with_umoci(blobs):
    with Davit() as d:
        expected, layout = umoci_tree(blobs, d.work)
        archive = os.path.join(d.work, "image.tar")
        subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
        for snapshotter in ("overlayfs", "native"):
            d.call("image.import", "path=" + archive, "base_name=t", "snapshotter=" + snapshotter)
            reply = d.call("image.prepare", "name=t:x", "key=k", "snapshotter=" + snapshotter)
            (mount,) = reply["mounts"]
            found = layers.differences(mounted_tree(mount, d.work), expected)
            assert not found, "%s is not as umoci's:\n  %s" % (snapshotter, "\n  ".join(found[:20]))
            d.call("image.release", "key=k", "snapshotter=" + snapshotter)


def test_layers_with_everything_are_unpacked_as_umoci_does():
    compare_with_umoci([layers.tar(entries) for entries in layers.LAYERS])


def test_a_real_root_file_system_in_layers_is_unpacked_as_umoci_does():
    """Debian by debootstrap, if a tarball of it is named; else this host's own programs and settings."""
    cached = os.environ.get("DAVIT_TEST_ROOTFS")
    if cached:
        with open(cached, "rb") as data:
            base = data.read()
    else:
        base = subprocess.run(["tar", "-C", "/", "--xattrs", "--sort=name", "--format=pax",
                               "--pax-option=delete=atime,delete=ctime", "--no-recursion", "-cf", "-", "usr", "usr/share", "usr/share/locale",
                               "--recursion", "etc", "usr/sbin", "usr/share/locale/de"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    changes = [layers.d("./", mtime=5), layers.f("etc/.wh.passwd", b""), layers.f("etc/apt/.wh..wh..opq", b""), layers.d("etc/apt"),
               layers.f("etc/apt/sources.list", b"none"), layers.d("etc/new"), layers.f("etc/new/file", b"1")]
    compare_with_umoci([base, layers.tar(changes), layers.tar([layers.f("etc/hostname", b"x")])])


# ---- refused ----

def image_files(d):
    found = []
    for folder, dirs, files in os.walk(os.path.join(d.root, "image")):
        found += [os.path.join(folder, name) for name in files + dirs if not name.endswith((".mdb", ".lock"))]
    known = ["content", "content/blobs", "content/blobs/sha256", "content/ingest", "snapshots", "trash", "made"]
    return [path for path in found if os.path.relpath(path, os.path.join(d.root, "image")) not in known]


def transient(d):
    return [path for path in image_files(d) if "/trash/" in path or "/ingest/" in path]


def topics_with(d, **counts):
    """Topics of all events, when there are as many of each as @counts says (images_create=2); they come a moment later."""
    def topics():
        return [e["topic"] for e in d.events()]

    def as_many():
        seen = topics()
        return all(seen.count("/" + k.replace("_", "/")) >= n for k, n in counts.items()) and seen
    seen = wait_for(as_many, "events are published", 20)
    for key, n in counts.items():
        assert seen.count("/" + key.replace("_", "/")) == n, seen


def refuse(d, blobs, word, change=None):
    path = os.path.join(d.work, "bad.tar")
    layers.image(path, blobs, "bad")
    if change:
        change(path)
    result = d("bus", "call", "image.import", "path=" + path, "base_name=t")
    assert result.returncode != 0 and word.encode() in result.stderr, result
    assert d.call("image.list") == {}, d.call("image.list")
    wait_for(lambda: not image_files(d), "nothing is left of it", 20)


def test_a_bad_layer_is_refused_and_leaves_nothing():
    with Davit() as d:
        good = layers.tar([layers.f("a")])
        refuse(d, [good, layers.tar([layers.f("../../../../victim", b"bad")])], "victim")
        refuse(d, [good, layers.tar([layers.hard("h", "/../../../etc/passwd")])], "upwards")
        refuse(d, [good, layers.tar([layers.entry("x", "c", device=(0, 0))])], "0:0")
        refuse(d, [good, b"Rar!\x1a\x07\x01\x00" + bytes(4096)], "tar")

        def wrong_digest(path):
            with open(path, "rb") as data:
                content = data.read()
            at = content.index(b"\x1f\x8b\x08")
            with open(path, "wb") as out:
                out.write(content[:at + 9] + b"\x01" + content[at + 10:])
        refuse(d, [good], "sha256:", wrong_digest)
        result = d("bus", "call", "image.import", "path=/no/such/file")
        assert result.returncode != 0 and b"/no/such/file" in result.stderr, result


def test_a_layer_whose_content_is_not_the_configs_is_refused():
    with Davit() as d:
        path = os.path.join(d.work, "bad.tar")
        original = layers.digest

        def lying(data):
            return original(data) if b"gz" in data[:0] or data[:2] in (b"\x1f\x8b", b'{"') else "sha256:" + "0" * 64
        layers.digest = lying
        try:
            layers.image(path, [layers.tar([layers.f("a")])], "bad")
        finally:
            layers.digest = original
        result = d("bus", "call", "image.import", "path=" + path, "base_name=t")
        assert result.returncode != 0 and b"its image says sha256:0000" in result.stderr, result
        wait_for(lambda: not image_files(d), "nothing is left of it", 20)


# ---- kept and gone ----

def test_names_belong_to_a_namespace_and_layers_to_all():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        layers.image(path, [layers.tar(e) for e in layers.LAYERS], "v1")
        d.call("image.import", "path=" + path, "base_name=t")
        wait_for(lambda: not transient(d), "the import's own files are gone")
        n_before = len(image_files(d))
        d.check("-n", "other", "bus", "call", "image.import", "path=" + path, "base_name=t")
        wait_for(lambda: len(image_files(d)) == n_before, "layers are shared", 20)
        assert len(d.call("snapshot.list")["snapshots"]) == 3
        d.call("image.delete", "name=t:v1", "sync=true")
        assert d.call("image.list") == {} and d.call("content.list") == {} and d.call("snapshot.list") == {}
        assert len(image_files(d)) == n_before, "the other namespace needs them"
        d.check("-n", "other", "bus", "call", "image.delete", "name=t:v1", "sync=true")
        assert not image_files(d), image_files(d)
        topics_with(d, images_create=2, images_delete=2, snapshot_commit=3, snapshot_remove=3,
                    content_create=5, content_delete=5)


def test_a_containers_snapshot_keeps_its_layers():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        layers.image(path, [layers.tar(e) for e in layers.LAYERS], "v1")
        d.call("image.import", "path=" + path, "base_name=t")
        d.call("image.prepare", "name=t:v1", "key=c1")
        result = d("bus", "call", "image.prepare", "name=t:v1", "key=c1")
        assert result.returncode != 0 and b"exists" in result.stderr, result
        d.call("image.delete", "name=t:v1", "sync=true")
        (mount,) = d.call("image.mounts", "key=c1")["mounts"]
        assert "etc/linked" in mounted_tree(mount, d.work)
        d.call("image.release", "key=c1")
        d.call("image.release", "key=c1")
        d.call("image.import", "path=" + path, "base_name=t")
        d.call("image.delete", "name=t:v1", "sync=true")
        wait_for(lambda: not image_files(d), "all is gone", 20)


def test_many_callers_unpack_an_image_once():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        layers.image(path, [layers.tar(e) for e in layers.LAYERS], "v1")
        d.call("image.import", "path=" + path, "base_name=t", "no_unpack=true")
        assert d.call("snapshot.list") == {}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: d.call("image.prepare", "name=t:v1", "key=c%d" % i), range(8)))
        topics_with(d, snapshot_commit=3, snapshot_prepare=3 + 8)
        for i in range(8):
            d.call("image.release", "key=c%d" % i)


def test_a_killed_service_finishes_the_import_that_it_began():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        big = layers.tar([layers.f("big%d" % i, os.urandom(1 << 20)) for i in range(40)])
        layers.image(path, [big] + [layers.tar(e) for e in layers.LAYERS], "v1", compress=False)
        caller = d.start("bus", "call", "image.import", "path=" + path, "base_name=t")
        wait_for(lambda: image_files(d), "it has begun")
        d.kill("davit-image")
        out, err = caller.communicate(timeout=60)
        assert caller.returncode == 0, err
        assert [i["name"] for i in d.call("image.list")["images"]] == ["t:v1"]
        assert len(d.call("snapshot.list")["snapshots"]) == 4
        assert len(os.listdir(os.path.join(d.root, "image", "snapshots"))) == 4
        wait_for(lambda: not os.listdir(os.path.join(d.root, "image", "trash")), "the trash is empty", 20)
        assert not os.listdir(os.path.join(d.root, "image", "content", "ingest"))


def test_what_a_crash_left_is_removed_at_the_start():
    with Davit() as d:
        inside = os.path.join(d.root, "image")
        os.makedirs(os.path.join(inside, "snapshots", "77", "fs", "x"))
        os.makedirs(os.path.join(inside, "content", "ingest", "left"))
        with open(os.path.join(inside, "content", "blobs", "sha256", "1" * 64), "w") as out:
            out.write("x")
        d.kill("davit-image")
        d.call("image.list")
        wait_for(lambda: not image_files(d), "it is removed", 20)


def test_layers_reach_the_disk_in_the_background():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        layers.image(path, [layers.tar(e) for e in layers.LAYERS], "v1")
        d.call("image.import", "path=" + path, "base_name=t")
        wait_for(lambda: not [s for s in d.call("snapshot.list")["snapshots"] if "unsynced_boot" in s],
                 "all layers are synced")
        assert len(d.call("snapshot.list")["snapshots"]) == 3


def test_a_missing_or_damaged_blob_is_data_loss_that_an_import_mends():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        manifest = layers.image(path, [layers.tar([layers.f("a")])], "v1")
        d.call("image.import", "path=" + path, "base_name=t", "no_unpack=true")
        blob = os.path.join(d.root, "image", "content", "blobs", "sha256", manifest[7:])
        with open(blob, "r+b") as out:
            out.write(b" ")
        d.kill("davit-image")  # and with it what it remembers
        result = d("bus", "call", "image.prepare", "name=t:v1", "key=c1")
        assert result.returncode != 0 and manifest.encode() in result.stderr and b"damaged" in result.stderr, result
        os.unlink(blob)
        result = d("bus", "call", "image.prepare", "name=t:v1", "key=c1")
        assert result.returncode != 0 and b"import the image again" in result.stderr, result
        d.call("image.import", "path=" + path, "base_name=t")
        d.call("image.prepare", "name=t:v1", "key=c1")
        d.call("image.release", "key=c1")


def test_an_image_for_another_platform_is_not_run():
    with Davit() as d:
        path = os.path.join(d.work, "i.tar")
        layers.image(path, [layers.tar([layers.f("a")])], "v1")
        d.call("image.import", "path=" + path, "base_name=t")
        result = d("bus", "call", "image.prepare", "name=t:v1", "key=c", "platform=linux/s390x")
        assert result.returncode != 0 and b"s390x" in result.stderr, result
        result = d("bus", "call", "image.prepare", "name=t:v1", "key=c", "platform=a/b/c/d")
        assert result.returncode != 0, result
        assert "snapshots" not in d.call("snapshot.list", "filters=kind==active")


if __name__ == "__main__":
    if not shutil.which("umoci"):
        print("umoci is not installed")
        sys.exit(77)
    main(globals())
