#!/usr/bin/env python3
"""Looking at images, mounting them, giving them another form, and mending what is damaged."""

import gzip
import json
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import peers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from mounted import mounted_tree, stay_apart  # noqa: E402
from test_export import NAME, archive_of, digests, exported, imported, multi_platform, tree_of  # noqa: E402

GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"


def blob_path(d, digest):
    return os.path.join(d.root, "image", "content", "blobs", "sha256", digest[7:])


def manifest_of(d, name):
    return json.loads(d.check("content", "get", digests(d)[name]))


def directory_of(d, chain, snapshotter="overlayfs"):
    (record,) = [s for s in d.json("snapshots", "--snapshotter", snapshotter, "ls") if s["key"] == chain]
    return os.path.join(d.root, "image", "snapshots", str(record["number"]))


def test_check_says_what_is_missing_damaged_or_unpacked():
    with Davit() as d:
        imported(d)
        d.check("images", "import", "--no-unpack", os.path.join(d.work, [n for n in os.listdir(d.work) if n.startswith("in-")][0]))

        def line():
            (found,) = [l.split() for l in d.check("images", "check").splitlines()[1:]]
            return found
        assert line()[3:5] == ["complete", "(5/5)"] and line()[-1] == "true", line()
        assert d.check("images", "check", "-q").split() == [NAME]
        manifest = manifest_of(d, NAME)
        layer = manifest["layers"][0]["digest"]
        os.rename(blob_path(d, layer), blob_path(d, layer) + ".away")
        assert line()[3:5] == ["incomplete", "(4/5)"], line()
        assert layer in d.json("images", "check")[0]["missing"] and d.check("images", "check", "-q") == ""
        os.rename(blob_path(d, layer) + ".away", blob_path(d, layer))
        assert d.check("images", "check", "-q", "--verify").split() == [NAME]
        with open(blob_path(d, layer), "r+b") as out:  # of the same size: only its digest tells
            byte = out.read(1)
            out.seek(0)
            out.write(bytes([byte[0] ^ 1]))
        assert line()[3] == "complete"
        found = d("images", "check", "--verify")
        assert found.returncode == 1 and b"damaged" in found.stdout and layer.encode() in found.stderr, found
        with open(blob_path(d, layer), "r+b") as out:
            out.write(byte)
        chain = json.loads(d.check("images", "inspect", NAME))[0]["layers"][1]["chain_id"]
        os.rename(directory_of(d, chain), directory_of(d, chain) + ".away")
        assert line()[-1] == "false", line()
        os.rename(directory_of(d, chain) + ".away", directory_of(d, chain))
        os.unlink(blob_path(d, digests(d)[NAME]))
        assert line()[3:5] == ["incomplete", "(0/1)"], line()


def test_inspect_history_and_usage_describe_an_image():
    with Davit() as d:
        digest = imported(d)
        (seen,) = json.loads(d.check("images", "inspect", NAME))
        assert seen["manifest"] == digest and len(seen["layers"]) == 3, seen
        assert seen["config"]["config"]["Cmd"] == ["/bin/true"] and all(l["is_unpacked"] for l in seen["layers"]), seen
        assert seen["layers"][2]["chain_id"] == seen["chain_id"]
        lines = d.check("images", "history", NAME).splitlines()
        assert lines[0].split() == ["CREATED", "CREATED", "BY", "SIZE", "LAYER"] and len(lines) == 4, lines
        fields = d.check("images", "usage", "-b", NAME).splitlines()[1].split()
        assert fields[:2] == [NAME, "3"] and int(fields[3]) == sum(l["unpacked_size"] for l in seen["layers"]), fields
        # What is not there is named, and the rest is shown.
        for verb in ("inspect", "usage"):
            partly = d("images", verb, "none", NAME)
            assert partly.returncode == 1 and b"no image 'none'" in partly.stderr, partly
            assert NAME in partly.stdout.decode(), partly


def test_what_is_not_there_is_named_by_every_command_and_ends_no_service():
    with Davit() as d:
        imported(d)
        digest, out = "sha256:" + 64 * "0", os.path.join(d.work, "out.tar")
        cases = [(["images", verb, *words], said) for verb, words, said in (
            ("push", ["127.0.0.1:1/x:1"], "no image '127.0.0.1:1/x:1'"), ("push", ["127.0.0.1:1/x:1", "none"], "no image 'none'"),
            ("push", ["--manifest", digest, "127.0.0.1:1/x:1"], "no blob " + digest),
            ("push", ["--platform", "linux/riscv64", "127.0.0.1:1/x:1", NAME], "linux/riscv64"),
            ("export", [out, "none"], "no image 'none'"), ("export", [out, NAME, "none"], "no image 'none'"),
            ("export", ["--platform", "linux/riscv64", out, NAME], "not for linux/riscv64"),
            ("export", ["--platform", "nonsense", out, NAME], "'nonsense' is the name of no operating system"),
            ("import", ["/no/such/file"], "/no/such/file"), ("tag", ["none", "x:1"], "no image 'none'"),
            ("rm", ["none"], "no image 'none'"), ("rm", ["--sync", "none"], "no image 'none'"),
            ("convert", ["none", "x:1"], "no image 'none'"), ("label", ["none", "a=b"], "no image 'none'"),
            ("mount", ["none", d.work], "no image 'none'"), ("history", ["none"], "no image 'none'"))]
        cases += [(["snapshots", verb, *words], said) for verb, words, said in (
            ("unpack", ["none"], "no image 'none'"), ("unpack", [digest], digest), ("repair", [digest], digest),
            ("info", ["none"], "no snapshot 'none'"), ("mounts", ["/mnt", "none"], "no snapshot 'none'"),
            ("prepare", ["k", "none"], "no snapshot 'none'"), ("view", ["k", digest], digest),
            ("commit", ["k", "none"], "no snapshot 'none'"), ("label", ["none", "a=b"], "no snapshot 'none'"),
            ("label", ["none"], "no snapshot 'none'"), ("usage", ["none"], "no snapshot 'none'"),
            ("diff", ["none"], "no snapshot 'none'"), ("rm", ["none"], "no snapshot 'none'"))]
        cases += [(["content", verb, *words], said) for verb, words, said in (
            ("get", [digest], digest), ("rm", [digest], digest), ("label", [digest, "a=b"], digest),
            ("verify", [digest], digest))]
        cases += [(["leases", verb, *words], "no lease 'none'") for verb, words in (
            ("rm", ["none"]), ("rm", ["--sync", "none"]), ("add", ["none", "images", "x"]),
            ("drop", ["none", "images", "x"]), ("resources", ["none"]))]
        service = d.pid("davit-image")
        for words, said in cases:
            refused = d(*words)
            assert refused.returncode == 1 and said in refused.stderr.decode(), (words, refused)
        assert d.pid("davit-image") == service, "it died"
        assert not os.path.exists(out) and d.check("images", "ls", "-q").split() == [NAME]
        assert d.json("leases", "ls") == [] and not [s for s in d.json("snapshots", "ls") if s["kind"] != "committed"]


def test_images_are_mounted_by_the_command_itself():
    stay_apart()  # the command mounts where it was started
    with Davit() as d:
        imported(d)
        expected = tree_of(d, NAME)
        target = os.path.join(d.work, "target")
        os.mkdir(target)
        for snapshotter in ("overlayfs", "native"):
            if snapshotter == "native":
                d.check("snapshots", "unpack", "--snapshotter", "native", digests(d)[NAME])
            assert d.check("images", "mount", "--snapshotter", snapshotter, NAME, target).strip() == target
            assert not layers.differences(layers.tree(target), expected)
            try:
                open(os.path.join(target, "new"), "w")
                raise AssertionError("it can be written")
            except OSError:
                pass
            again = d("images", "mount", "--snapshotter", snapshotter, NAME, target)
            assert again.returncode == 1 and b"is mounted on" in again.stderr, again
            # What was unmounted and left is mounted again, but for nothing else.
            d.check("images", "unmount", "--snapshotter", snapshotter, target)
            d.check("images", "mount", "--snapshotter", snapshotter, NAME, target)
            assert not layers.differences(layers.tree(target), expected)
            d.check("images", "unmount", "--snapshotter", snapshotter, target)
            other = d("images", "mount", "--rw", "--snapshotter", snapshotter, NAME, target)
            assert other.returncode == 1 and b"of another image or kind" in other.stderr, other
            d.check("images", "unmount", "--rm", "--snapshotter", snapshotter, target)
            assert not [s for s in d.json("snapshots", "ls") if s["key"] == target]
            gone = d("images", "unmount", "--rm", "--snapshotter", snapshotter, target)
            assert gone.returncode == 1 and b"no snapshot" in gone.stderr, gone
            d.check("images", "mount", "--rw", "--snapshotter", snapshotter, NAME, target)
            with open(os.path.join(target, "new"), "w") as out:
                out.write("1")
            d.check("images", "unmount", "--snapshotter", snapshotter, target)
            assert not os.listdir(target)
            d.check("snapshots", "--snapshotter", snapshotter, "rm", target)
        refused = d("images", "unmount", target)
        assert refused.returncode == 1 and target.encode() in refused.stderr, refused


def test_images_are_converted_and_are_the_same_tree():
    with Davit() as d:
        digest = imported(d)
        config = manifest_of(d, NAME)["config"]["digest"]
        expected = tree_of(d, NAME)
        cases = [(["--uncompress"], "tar", b""), (["--compression", "zstd"], "tar+zstd", ZSTD),
                 (["--compression", "gzip"], "tar+gzip", GZIP)]
        for words, media_type, magic in cases:
            out = d.check("images", "convert", *words, NAME, "docker.io/library/c:1").strip()
            assert digests(d)["docker.io/library/c:1"] == out
            manifest = manifest_of(d, "docker.io/library/c:1")
            assert manifest["config"]["digest"] == config
            for layer in manifest["layers"]:
                assert layer["mediaType"] == "application/vnd.oci.image.layer.v1." + media_type, layer
                with open(blob_path(d, layer["digest"]), "rb") as data:
                    content = data.read()
                assert content.startswith(magic) and layers.digest(content) == layer["digest"] and len(content) == layer["size"]
            # From its own blobs, elsewhere.
            with Davit() as elsewhere:
                elsewhere.check("images", "import", exported(d, "docker.io/library/c:1", name=media_type + ".tar"))
                assert not layers.differences(tree_of(elsewhere, "docker.io/library/c:1"), expected)
        assert digests(d)[NAME] == digest
        refused = d("images", "convert", "--compression", "lz4", NAME, "x:1")
        assert refused.returncode == 1 and b"gzip nor zstd" in refused.stderr, refused


def test_dockers_documents_become_ocis():
    with Davit() as d:
        imported(d)
        saved = os.path.join(d.work, "saved.tar")
        peers.run("skopeo", "copy", "-q", "oci-archive:%s:1" % exported(d, NAME), "docker-archive:%s:host.example/s:1" % saved)
        d.check("images", "import", saved)
        assert "docker" in manifest_of(d, "host.example/s:1")["mediaType"]
        d.check("images", "convert", "--oci", "host.example/s:1", "host.example/s:oci")
        text = json.dumps(manifest_of(d, "host.example/s:oci"))
        assert "vnd.docker" not in text and "vnd.oci.image.config" in text, text
        assert not layers.differences(tree_of(d, "host.example/s:oci"), tree_of(d, "host.example/s:1"))


def test_an_index_is_converted_for_one_platform_or_all():
    with Davit() as d:
        path = os.path.join(d.work, "multi.tar")
        multi_platform(path, [("linux", "amd64"), ("linux", "arm64")])
        d.check("images", "import", "--all-platforms", path)
        d.check("images", "convert", "--compression", "gzip", "--all-platforms", NAME, "all:1")
        d.check("images", "convert", "--compression", "gzip", "--platform", "linux/arm64", NAME, "one:1")
        assert [m["platform"]["architecture"] for m in manifest_of(d, "all:1")["manifests"]] == ["amd64", "arm64"]
        (entry,) = manifest_of(d, "one:1")["manifests"]
        assert entry["platform"]["architecture"] == "arm64"
        layer = json.loads(d.check("content", "get", entry["digest"]))["layers"][0]
        assert layer["mediaType"].endswith("+gzip"), layer


def test_a_damaged_layer_is_converted_to_nothing():
    with Davit() as d:
        imported(d)
        layer = manifest_of(d, NAME)["layers"][0]["digest"]
        with open(blob_path(d, layer), "wb") as out:
            out.write(gzip.compress(layers.tar([layers.f("evil")])))
        refused = d("images", "convert", "--uncompress", NAME, "c:1")
        assert refused.returncode == 1 and layer.encode() in refused.stderr and b"again" in refused.stderr, refused
        assert "c:1" not in digests(d)


# ---- hard images, unpacked as umoci does ----

def unpacked_by_umoci(d, path, tag):
    layout, bundle = os.path.join(d.work, "layout-" + tag), os.path.join(d.work, "bundle-" + tag)
    os.mkdir(layout)
    peers.run("tar", "-C", layout, "-xf", path)
    peers.run("umoci", "unpack", "--image", layout + ":" + tag, bundle)
    return layers.tree(os.path.join(bundle, "rootfs"))


def compare_with_umoci(d, tag, tars, snapshotters=("overlayfs", "native")):
    path = os.path.join(d.work, tag + ".tar")
    layers.image(path, tars, tag)
    expected = unpacked_by_umoci(d, path, tag)
    d.check("images", "import", "--base-name", "hard", path)
    for snapshotter in snapshotters:
        d.check("snapshots", "unpack", "--snapshotter", snapshotter, "hard:" + tag)
        reply = d.call("image.prepare", "name=hard:" + tag, "key=k", "snapshotter=" + snapshotter)
        found = layers.differences(mounted_tree(reply["mounts"], d.work), expected)
        d.call("image.release", "key=k", "snapshotter=" + snapshotter)
        assert not found, "%s, %s:\n  %s" % (tag, snapshotter, "\n  ".join(found[:20]))


def random_layer(source, number):
    """Files, directories, links, and whiteouts of what earlier layers made, so that each meets each."""
    entries, names = [layers.d("./", mtime=5)], ["d%d" % i for i in range(6)]
    for i in range(6):
        folder, name = source.choice(names), "f%d" % source.randrange(8)
        kind = source.randrange(8)
        if kind < 3:
            entries += [layers.d(folder, mtime=number), layers.f(folder + "/" + name, b"%d" % number, mtime=number, mode=source.choice((0o644, 0o4755)))]
        elif kind == 3:
            entries += [layers.d(folder, mtime=number), layers.f(folder + "/.wh." + name, b"")]
        elif kind == 4 and number % 9 == 0:
            entries += [layers.d(folder, mtime=number), layers.f(folder + "/.wh..wh..opq", b""), layers.f(folder + "/o", b"o", mtime=number)]
        elif kind == 5:
            entries += [layers.d(folder, mtime=number), layers.link(folder + "/l%d" % i, name, mtime=number)]
        elif kind == 6 and number % 11 == 0:
            entries += [layers.f(".wh." + folder, b"")]
        else:
            own = "own-%d-%d" % (number, i)
            entries += [layers.d(folder, mtime=number), layers.f(own, b"linked", mtime=number), layers.hard(folder + "/" + own, own)]
    # An entry after the whiteout of its own directory would be of the layer, and umoci reads these in order.
    gone = {e["name"][4:] for e in entries if e["name"].startswith(".wh.d")}
    return [e for e in entries if e["name"].split("/")[0] not in gone and e.get("to", "").split("/")[0] not in gone]


def test_120_layers_are_unpacked_as_umoci_does():
    source = random.Random(7)
    deep = [layers.tar(random_layer(source, n)) for n in range(1, 121)]
    with Davit() as d:
        compare_with_umoci(d, "deep", deep, ["overlayfs"])
        compare_with_umoci(d, "shallow", deep[:30], ["native"])  # where each layer is a copy of all below it


def test_sparse_files_of_all_formats_are_unpacked_with_their_holes():
    """umoci reads the later formats only; the oldest must give the same tree."""
    with Davit() as d:
        folder = os.path.join(d.work, "sparse")
        os.mkdir(folder)
        with open(os.path.join(folder, "holes"), "wb") as out:
            for at in (0, 1 << 20, 5 << 20):
                out.seek(at)
                out.write(b"data" * 2000)
            out.truncate(9 << 20)
        with open(os.path.join(folder, "hole"), "wb") as out:
            out.truncate(1 << 20)
        common = ["tar", "-C", folder, "--sparse", "--sort=name", "--mtime=@1000000", "--no-recursion", "-cf", "-"]
        pax = ["--format=posix", "--pax-option=delete=atime,delete=ctime"]
        compare_with_umoci(d, "posix", [peers.run(*common, *pax, ".", "hole", "holes")])
        old = os.path.join(d.work, "gnu.tar")
        layers.image(old, [peers.run(*common, "--format=gnu", ".", "hole", "holes")], "gnu")
        d.check("images", "import", "--base-name", "hard", old)
        found = layers.differences(tree_of(d, "hard:gnu"), tree_of(d, "hard:posix"))
        assert not found, "\n  ".join(found)
        for record in d.json("snapshots", "ls"):
            status = os.stat(os.path.join(d.root, "image", "snapshots", str(record["number"]), "fs", "holes"))
            assert status.st_size == 9 << 20 and status.st_blocks * 512 < 1 << 20, (record, status)


def test_what_a_killed_service_was_doing_is_done_by_the_next():
    with Davit() as d:
        big = [layers.f("big%d" % i, os.urandom(1 << 20)) for i in range(24)]
        imported(d, NAME, big)
        chain = json.loads(d.check("images", "inspect", NAME))[0]["chain_id"]
        out = os.path.join(d.work, "out.tar")
        for words in (["image.convert", "name=" + NAME, "target_name=c:1", "compression=zstd"],
                      ["image.export", "path=" + out, "names=" + NAME],
                      ["snapshot.diff", "key=" + chain]):
            caller = d.start("bus", "call", *words)
            wait_for(lambda: d.call("image.operations").get("operations") or caller.poll() is not None, "it has begun")
            d.kill("davit-image")
            stdout, stderr = caller.communicate(timeout=120)
            assert caller.returncode == 0, (words, stderr)
        assert "c:1" in digests(d)
        with Davit() as elsewhere:
            elsewhere.check("images", "import", out)
            assert digests(elsewhere) == {NAME: digests(d)[NAME]}
        wait_for(lambda: not os.listdir(os.path.join(d.root, "image", "content", "ingest")), "nothing is left of it")


# ---- mending ----

def test_a_damaged_blob_never_becomes_a_root_file_system():
    with Davit() as d:
        path, _ = archive_of(d, NAME, *layers.LAYERS)
        d.check("images", "import", "--no-unpack", path)
        layer = manifest_of(d, NAME)["layers"][1]["digest"]
        with open(blob_path(d, layer), "rb") as data:
            good = data.read()
        other = gzip.compress(layers.tar([layers.f("evil")]))
        for bad in (good[:-9], good[:100] + b"????" + good[104:], other, b"", None):
            os.unlink(blob_path(d, layer))
            if bad is not None:
                with open(blob_path(d, layer), "wb") as out:
                    out.write(bad)
            for words in (["run", "--rm", NAME, "x", "true"], ["snapshots", "unpack", NAME]):
                refused = d(*words)
                assert refused.returncode in (1, 125) and layer.encode() in refused.stderr, (bad, refused)
                assert b"the image again" in refused.stderr, (bad, refused)
        assert len(d.json("snapshots", "ls")) == 1, "only the layer below is there"
        d.check("images", "import", path)
        assert len(d.json("snapshots", "ls")) == 3


def test_a_lost_or_damaged_layer_is_made_again_from_its_blob():
    with Davit() as d:
        imported(d)
        for snapshotter in ("overlayfs", "native"):
            d.check("snapshots", "unpack", "--snapshotter", snapshotter, digests(d)[NAME])
            expected = json.loads(d.check("bus", "call", "image.prepare", "name=" + NAME, "key=k", "snapshotter=" + snapshotter))
            tree = mounted_tree(expected["mounts"], d.work)
            chains = [l["chain_id"] for l in json.loads(d.check("images", "inspect", NAME))[0]["layers"]]
            group = ["snapshots", "--snapshotter", snapshotter]
            used = d(*group, "repair", chains[0])
            assert used.returncode == 1 and b"'k' lies on it" in used.stderr, used
            used = d(*group, "repair", "--dry-run", chains[0])
            assert used.returncode == 1 and b"'k' lies on it" in used.stderr, used
            d.check("bus", "call", "image.release", "key=k", "snapshotter=" + snapshotter)
            shutil.rmtree(directory_of(d, chains[1], snapshotter))
            with open(os.path.join(directory_of(d, chains[0], snapshotter), "fs", "etc", "passwd"), "w") as out:
                out.write("damaged")
            dry = d.check(*group, "repair", "--dry-run", chains[1]).splitlines()
            assert dry[0].startswith(chains[1] + " would be made again of sha256:"), dry
            assert [l.split()[0] for l in dry[1:]] == ([chains[2]] if snapshotter == "native" else []), dry
            assert not os.path.exists(directory_of(d, chains[1], snapshotter)), "nothing was done"
            assert d.check(*group, "repair", chains[1], chains[0]).split() == [chains[1], chains[0]]
            d.check("snapshots", "unpack", "--snapshotter", snapshotter, digests(d)[NAME])
            reply = json.loads(d.check("bus", "call", "image.prepare", "name=" + NAME, "key=k", "snapshotter=" + snapshotter))
            assert not layers.differences(mounted_tree(reply["mounts"], d.work), tree)
            d.check("bus", "call", "image.release", "key=k", "snapshotter=" + snapshotter)
        for words, text in (["0" * 3], b"not the chain id"), (["sha256:" + "0" * 64], b"no image"):
            for dry in ([], ["--dry-run"]):
                refused = d("snapshots", "repair", *dry, *words)
                assert refused.returncode == 1 and text in refused.stderr, refused
        layer = json.loads(d.check("images", "inspect", NAME))[0]["layers"][2]
        os.unlink(blob_path(d, layer["blob"]["digest"]))
        refused = d("snapshots", "repair", layer["chain_id"])
        assert refused.returncode == 1 and layer["blob"]["digest"].encode() in refused.stderr, refused
        assert directory_of(d, layer["chain_id"]), "what cannot be made again is not given up"


if __name__ == "__main__":
    if not peers.has("skopeo", "umoci"):
        print("skopeo or umoci is not installed")
        sys.exit(77)
    main(globals())
