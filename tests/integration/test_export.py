#!/usr/bin/env python3
"""Archives: what is exported is what was imported, for davit and for its peers."""

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import peers  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from mounted import mounted_tree  # noqa: E402

NAME = "docker.io/library/t:1"


def archive_of(d, name, *contents, **options):
    path = os.path.join(d.work, "in-%d.tar" % len(os.listdir(d.work)))
    digest = layers.image(path, [layers.tar(entries) for entries in contents], name, **options)
    return path, digest


def imported(d, name=NAME, *contents):
    path, digest = archive_of(d, name, *(contents or layers.LAYERS))
    d.check("images", "import", path)
    return digest


def digests(d, *words):
    return {i["name"]: i["target"]["digest"] for i in d.json(*words, "images", "ls")}


def files_of(path):
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}


def exported(d, *words, name="out.tar"):
    path = os.path.join(d.work, name)
    d.check("images", "export", *words[:-1], path, words[-1])
    return path


def tree_of(d, name, namespace="default"):
    reply = json.loads(d.check("-n", namespace, "bus", "call", "image.prepare", "name=" + name, "key=look", "read_only=true"))
    try:
        return mounted_tree(reply["mounts"], d.work)
    finally:
        d.check("-n", namespace, "bus", "call", "image.release", "key=look")


def test_an_export_of_an_imported_image_has_its_digest():
    with Davit() as d:
        digest = imported(d)
        out = exported(d, NAME)
        index = json.loads(files_of(out)["index.json"])
        assert [m["digest"] for m in index["manifests"]] == [digest], index
        d.check("-n", "other", "images", "import", out)
        assert digests(d, "-n", "other") == {NAME: digest}
        with open(out, "rb") as one, open(exported(d, NAME, name="again.tar"), "rb") as two:
            assert one.read() == two.read(), "the same export is not the same bytes"
        with Davit() as elsewhere:
            elsewhere.check("images", "import", out)
            assert digests(elsewhere) == {NAME: digest}
            assert not layers.differences(tree_of(d, NAME), tree_of(elsewhere, NAME))
        d.check("-n", "other", "images", "rm", NAME)


def test_several_images_in_one_archive_and_through_pipes():
    with Davit() as d:
        one = imported(d, "docker.io/library/one:1", [layers.f("a")])
        two = imported(d, "host.example/two:2", [layers.f("a")], [layers.f("b")])
        data = d("images", "export", "-", "one:1", "host.example/two:2")
        assert data.returncode == 0, data
        files = {m.name for m in tarfile.open(fileobj=io.BytesIO(data.stdout))}
        assert len([n for n in files if n.startswith("blobs/sha256/")]) == 2 + 2 + 2, files  # the layer of both once
        result = d("-n", "other", "images", "import", "-", input=data.stdout)
        assert result.returncode == 0, result
        assert digests(d, "-n", "other") == {"docker.io/library/one:1": one, "host.example/two:2": two}
        only = d("-n", "third", "images", "import", "--base-name", "host.example/two", "-", input=data.stdout)
        assert only.returncode == 0 and digests(d, "-n", "third") == {"host.example/two:2": two}, only
        assert not os.listdir(os.path.join(d.state, "fifo"))
        assert d.check("images", "rm", "--all").split() == sorted(["docker.io/library/one:1", "host.example/two:2"])
        assert not digests(d) and len(digests(d, "-n", "other")) == 2
        for words in (("--all", "one:1"), ()):
            result = d("images", "rm", *words)
            assert result.returncode == 2 and b"--all" in result.stderr, result


def test_digest_names_are_made_as_ctr_makes_them():
    with Davit() as d:
        path, digest = archive_of(d, "v1", [layers.f("a")])
        d.check("-n", "a", "images", "import", "--base-name", "t", "--digests", path)
        assert digests(d, "-n", "a") == {"t:v1": digest, "t@" + digest: digest}
        d.check("-n", "b", "images", "import", "--base-name", "t", "--digests", "--skip-digest-for-named", path)
        assert digests(d, "-n", "b") == {"t:v1": digest}
        d.check("-n", "c", "images", "import", "--base-name", "t", "--index-name", "t:all", "--no-unpack", path)
        assert set(digests(d, "-n", "c")) == {"t:v1", "t:all"}


def test_docker_reads_its_manifest_json_and_layers_are_compressed_on_import():
    with Davit() as d:
        imported(d)
        files = files_of(exported(d, NAME))
        (saved,) = json.loads(files["manifest.json"])
        assert saved["RepoTags"] == ["t:1"] and len(saved["Layers"]) == 3, saved
        assert all(path in files for path in saved["Layers"] + [saved["Config"]])
        assert "manifest.json" not in files_of(exported(d, "--skip-manifest-json", NAME))
        # The same as docker save would have it: no index, plain layers.
        path = os.path.join(d.work, "saved.tar")
        plain = {"%d.tar" % i: layers.tar(e) for i, e in enumerate(layers.LAYERS)}
        saved["Layers"] = sorted(plain)
        with open(path, "wb") as out:
            out.write(layers.tar([layers.f(k, v) for k, v in dict(plain, **{
                "manifest.json": json.dumps([saved]).encode(), saved["Config"]: files[saved["Config"]]}).items()]))
        for words, media_type in ([], "diff.tar"), (["--compress-blobs"], "diff.tar.gzip"):
            d.check("-n", "saved", "images", "import", *words, path)
            target = digests(d, "-n", "saved")[NAME]
            manifest = json.loads(d.check("content", "get", target))
            assert all(l["mediaType"].endswith(media_type) for l in manifest["layers"]), manifest
            assert not layers.differences(tree_of(d, NAME, "saved"), tree_of(d, NAME))
        d.check("-n", "saved", "images", "rm", NAME)


def multi_platform(path, platforms):
    """An OCI layout of one index with an image for each of @platforms."""
    blobs = {}

    def put(data, media_type):
        blobs["blobs/sha256/" + layers.digest(data)[7:]] = data
        return {"mediaType": media_type, "digest": layers.digest(data), "size": len(data)}
    entries = []
    for os_, arch in platforms:
        layer = layers.tar([layers.f("arch", arch.encode())])
        config = {"os": os_, "architecture": arch, "rootfs": {"type": "layers", "diff_ids": [layers.digest(layer)]}}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
                    "layers": [put(layer, "application/vnd.oci.image.layer.v1.tar")]}
        entry = put(json.dumps(manifest).encode(), manifest["mediaType"])
        entry["platform"] = {"os": os_, "architecture": arch}
        entries.append(entry)
    index = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                            "manifests": entries}).encode(), "application/vnd.oci.image.index.v1+json")
    index["annotations"] = {"io.containerd.image.name": NAME}
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [index]}).encode()
    with open(path, "wb") as out:
        out.write(layers.tar([layers.f(k, v) for k, v in blobs.items()]))
    return index["digest"], entries


def test_platforms_of_an_index_are_chosen():
    with Davit() as d:
        path = os.path.join(d.work, "multi.tar")
        digest, entries = multi_platform(path, [("linux", "amd64"), ("linux", "arm64"), ("linux", "s390x")])
        d.check("images", "import", "--platform", "linux/arm64", path)
        assert digests(d) == {NAME: digest}
        refused = d("images", "export", "--all-platforms", os.path.join(d.work, "x.tar"), NAME)
        assert refused.returncode == 1 and b"not in the content store" in refused.stderr, refused
        assert not os.path.exists(os.path.join(d.work, "x.tar"))
        files = files_of(exported(d, "--platform", "linux/arm64", NAME))
        assert "blobs/sha256/" + entries[1]["digest"][7:] in files and "blobs/sha256/" + entries[0]["digest"][7:] not in files
        d.check("images", "import", "--all-platforms", path)
        out = exported(d, "--all-platforms", NAME)
        assert all("blobs/sha256/" + e["digest"][7:] in files_of(out) for e in entries)
        d.check("-n", "other", "images", "import", "--all-platforms", out)
        assert digests(d, "-n", "other") == {NAME: digest}
        refused = d("images", "export", "--platform", "linux/riscv64", os.path.join(d.work, "x.tar"), NAME)
        assert refused.returncode == 1 and b"riscv64" in refused.stderr, refused


def test_a_damaged_or_missing_blob_is_never_exported():
    with Davit() as d:
        digest = imported(d)
        layer = json.loads(d.check("content", "get", digest))["layers"][1]["digest"]
        blob = os.path.join(d.root, "image", "content", "blobs", "sha256", layer[7:])
        with open(blob, "rb") as data:
            good = data.read()
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], None):
            os.unlink(blob)
            if bad is not None:
                with open(blob, "wb") as out:
                    out.write(bad)
            place = os.path.join(d.work, "out")
            shutil.rmtree(place, ignore_errors=True)
            os.mkdir(place)
            path = os.path.join(place, "bad.tar")
            for old in (False, True):
                if old:
                    with open(path, "w") as out:
                        out.write("what was there before")
                refused = d("images", "export", path, NAME)
                assert refused.returncode == 1 and layer.encode() in refused.stderr and b"again" in refused.stderr, refused
                assert os.listdir(place) == ["bad.tar"] * old
            with open(path) as kept:
                assert kept.read() == "what was there before"
        missing = d("images", "export", os.path.join(d.work, "bad.tar"), "none")
        assert missing.returncode == 1 and b"no image 'none'" in missing.stderr, missing


def test_an_export_replaces_a_file_when_it_is_whole_and_keeps_its_owner():
    with Davit() as d:
        imported(d)
        with open(exported(d, NAME), "rb") as whole:
            expected = whole.read()
        place = os.path.join(d.work, "place")
        os.mkdir(place)
        old, alias = os.path.join(place, "old.tar"), os.path.join(d.work, "alias.tar")
        with open(old, "w") as out:
            out.write("old")
        os.chown(old, 12, 34)
        os.chmod(old, 0o640)
        os.symlink("place/old.tar", alias)
        with open(old) as reader:  # of what was there
            d.check("images", "export", alias, NAME)
            assert reader.read() == "old"
        status = os.stat(old)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o640), status
        assert os.path.islink(alias) and os.listdir(place) == ["old.tar"]
        with open(old, "rb") as new:
            assert new.read() == expected
        os.symlink("place/new.tar", os.path.join(d.work, "dangling"))
        d.check("images", "export", os.path.join(d.work, "dangling"), NAME)
        with open(os.path.join(place, "new.tar"), "rb") as new:
            assert new.read() == expected
        d.check("images", "export", "/dev/null", NAME)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        for path, says in (("/dev/full", b"No space left"), (os.path.join(place, "no", "x.tar"), b"No such file"), (place, b"directory")):
            refused = d("images", "export", path, NAME)
            assert refused.returncode == 1 and says in refused.stderr, refused


# ---- peers ----

def test_skopeo_and_umoci_read_what_is_exported():
    with Davit() as d:
        digest = imported(d)
        out = exported(d, NAME)
        layout = os.path.join(d.work, "layout")
        peers.run("skopeo", "copy", "-q", "oci-archive:%s:1" % out, "oci:%s:1" % layout)
        seen = json.loads(peers.run("skopeo", "inspect", "oci:%s:1" % layout))
        assert seen["Digest"] == digest, seen
        bundle = os.path.join(d.work, "bundle")
        peers.run("umoci", "unpack", "--image", layout + ":1", bundle)
        assert not layers.differences(tree_of(d, NAME), layers.tree(os.path.join(bundle, "rootfs")))
        # And the other way: docker's form by skopeo.
        saved = os.path.join(d.work, "saved.tar")
        peers.run("skopeo", "copy", "-q", "docker-archive:%s:docker.io/library/t:1" % out, "docker-archive:%s:host.example/s:1" % saved)
        d.check("images", "import", saved)
        assert "host.example/s:1" in digests(d)
        assert not layers.differences(tree_of(d, NAME), tree_of(d, "host.example/s:1"))


def test_containerd_and_davit_read_each_others_archives():
    """Without the hard links to lower layers, which containerd's overlayfs cannot unpack."""
    contents = [[e for e in entries if e["kind"] != "h"] for entries in layers.LAYERS]
    with Davit() as d, peers.Containerd(d.work) as ctr:
        digest = imported(d, NAME, *contents)
        ctr("images", "import", exported(d, NAME))
        line = [l for l in ctr("images", "ls").splitlines() if l.startswith(NAME)]
        assert line and digest in line[0], line
        path = os.path.join(d.work, "theirs.tar")
        ctr("images", "export", path, NAME)
        d.check("-n", "theirs", "images", "import", path)
        assert digests(d, "-n", "theirs") == {NAME: digest}
        assert not layers.differences(tree_of(d, NAME), tree_of(d, NAME, "theirs"))


def test_podman_loads_what_is_exported():
    with Davit() as d:
        imported(d)
        peers.podman(d.work, "load", "-i", exported(d, NAME))
        assert "docker.io/library/t" in peers.podman(d.work, "images"), peers.podman(d.work, "images")


# ---- progress ----
def big_layer():
    """More than pipes and what reads ahead of them hold."""
    return [layers.f("big", os.urandom(8000000))]


def progress_of(d, method):
    return [e["event"] for e in d.events() if e["topic"] == "/images/progress" and e["event"]["method"] == method]


def is_running(d, method):
    return any(t["status"] == "running" and t.get("offset") for e in progress_of(d, method) for t in e.get("transfers", []))


def pipe_of(d, name):
    path = os.path.join(d.work, name)
    os.mkfifo(path)
    return path


def feed(data, to, until):
    """Writes @data slowly until @until is true, then the rest; was it ever?"""
    seen = False
    for i in range(0, len(data), 50000):
        to.write(data[i:i + 50000])
        to.flush()
        seen = seen or until()
        time.sleep(0 if seen else 0.03)
    return seen


def shown_on_terminal(d, words, work):
    """What the command shows while @work runs; its exit code is 0."""
    main_fd, sub_fd = pty.openpty()
    command = subprocess.Popen(d.base + words, stderr=sub_fd, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=d.env)
    os.close(sub_fd)
    shown = bytearray()

    def read():
        try:
            while data := os.read(main_fd, 65536):
                shown.extend(data)
        except OSError:
            pass  # the other end is closed
    reader = threading.Thread(target=read)
    reader.start()
    work(shown)
    out = command.communicate(timeout=60)[0]
    reader.join()
    os.close(main_fd)
    assert command.returncode == 0, bytes(shown)
    return bytes(shown), out.decode()


def test_an_import_tells_its_progress_by_few_events_lines_and_bars():
    with Davit() as d:
        path, digest = archive_of(d, NAME, big_layer(), compress=False)
        with open(path, "rb") as archive:
            data = archive.read()
        pipe = pipe_of(d, "pipe")
        begin = time.monotonic()
        command = d.start("images", "import", pipe)
        with open(pipe, "wb") as to:
            assert feed(data, to, lambda: is_running(d, "image.import")), progress_of(d, "image.import")
        out, _ = command.communicate(timeout=60)
        seconds = time.monotonic() - begin
        assert command.returncode == 0 and out.decode() == "imported %s (%s)\n" % (NAME, digest), out
        told = progress_of(d, "image.import")
        assert [told[0]["state"], told[-2]["state"], told[-1]["state"]] == ["running", "unpacking", "done"], told
        assert len(told) <= 4 + 4 * seconds and all(e["name"] == pipe for e in told), (told, seconds)
        # All that is kept, whatever was told before.
        assert sorted((t["digest"][7:], t["status"]) for t in told[-2]["transfers"]) == sorted(
            (name[13:], "done") for name in files_of(path) if name.startswith("blobs/")), told[-2]
        # On a terminal: bars, and the same last line. A file's size is known.
        shown, out = shown_on_terminal(d, ["images", "import", pipe], lambda shown: feed_until_bars(data, pipe, shown))
        assert b"=>" in shown and b"running" in shown and b"\x1b[" in shown, shown[-500:]
        assert out == "imported %s (%s)\n" % (NAME, digest), out
        d.check("images", "import", path)
        last = [e for e in progress_of(d, "image.import") if e["name"] == path and e["state"] == "unpacking"][-1]
        assert last["total"] == len(data) and last["offset"] <= last["total"], last


def feed_until_bars(data, pipe, shown):
    with open(pipe, "wb") as to:
        feed(data, to, lambda: b"=>" in shown)


def test_an_export_tells_its_progress():
    with Davit() as d:
        path, _ = archive_of(d, NAME, big_layer(), compress=False)
        d.check("images", "import", path)
        pipe = pipe_of(d, "pipe")
        command = d.start("images", "export", pipe, NAME)
        got, seen = bytearray(), False
        with open(pipe, "rb", buffering=0) as source:
            while data := source.read(50000):
                got += data
                seen = seen or is_running(d, "image.export")
                time.sleep(0 if seen else 0.03)
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0 and not out and seen, (out, err)
        told = progress_of(d, "image.export")
        assert told[0]["state"] == "running" and told[-1]["state"] == "done", told
        sizes = {name[13:]: len(data) for name, data in files_of(path).items() if name.startswith("blobs/")}
        assert any(0 < e.get("offset", 0) < e["total"] == sum(sizes.values()) for e in told if "total" in e), told
        assert {t["digest"][7:]: t["total"] for t in told[-1]["transfers"] if t["status"] == "done"} == sizes, told[-1]
        with tarfile.open(fileobj=io.BytesIO(bytes(got))) as archive:
            assert "index.json" in archive.getnames()


def test_an_import_that_fails_says_so_at_its_end():
    with Davit() as d:
        path = os.path.join(d.work, "bad.tar")
        with open(path, "wb") as out:
            out.write(b"x" * 100000)
        assert d("images", "import", path).returncode == 1
        assert progress_of(d, "image.import")[-1]["state"] == "failed"
        assert d("images", "export", os.path.join(d.work, "out.tar"), "no:1").returncode == 1
        assert progress_of(d, "image.export")[-1]["state"] == "failed"


def test_interrupted_imports_and_exports_end_and_leave_nothing():
    with Davit() as d:
        path, _ = archive_of(d, NAME, big_layer(), compress=False)
        with open(path, "rb") as archive:
            data = archive.read()
        pipe = pipe_of(d, "pipe")
        command = d.start("images", "import", pipe)
        with open(pipe, "wb", buffering=0) as to:
            to.write(data[:3000000])
            wait_for(lambda: progress_of(d, "image.import"), "the import runs")
            command.send_signal(signal.SIGINT)
            assert command.wait(30) == 130, command.stderr.read()
            # Its child has gone, though there was more to come.
            wait_for(lambda: progress_of(d, "image.import")[-1]["state"] == "failed", "the import has ended")
        command.communicate()
        assert d.json("images", "ls") == []
        wait_for(lambda: not os.listdir(os.path.join(d.root, "image/content/ingest")), "nothing is left")
        d.check("images", "import", path)
        command = d.start("images", "export", pipe, NAME)
        with open(pipe, "rb", buffering=0) as source:
            source.read(1000)
            command.send_signal(signal.SIGINT)
            assert command.wait(30) == 130, command.stderr.read()
            wait_for(lambda: progress_of(d, "image.export")[-1]["state"] == "failed", "the export has ended")
        command.communicate()
        d.check("images", "export", os.path.join(d.work, "whole.tar"), NAME)


def child(d, mode):
    """The child of the image service that does @mode, or None."""
    for service in d.pids("davit-image"):
        try:
            with open("/proc/%d/task/%d/children" % (service, service)) as f:
                pids = [int(pid) for pid in f.read().split()]
        except OSError:
            continue
        for pid in pids:
            with contextlib.suppress(OSError), open("/proc/%d/cmdline" % pid, "rb") as words:
                if words.read().split(b"\0")[1:2] == [mode]:
                    return pid
    return None


def state_of(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def stands_still(pid):
    """Has SIGSTOP reached it, or was it at its end?"""
    return wait_for(lambda: state_of(pid) in "TZX", "it is stopped or has ended") and state_of(pid) == "T"


def written(pid):
    """The bytes of the largest file that it has open to be written."""
    sizes = [0]
    with contextlib.suppress(OSError):
        for fd in os.listdir("/proc/%d/fd" % pid):
            with contextlib.suppress(OSError):
                status = os.stat("/proc/%d/fd/%s" % (pid, fd))
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    sizes.append(status.st_size)
    return max(sizes)


def caught_export(d, out):
    """An export to the file @out whose child stands still in the midst of it; None when it was done before."""
    command = d.start("images", "export", out, NAME)
    while command.poll() is None:
        pid = child(d, b"export")
        if pid and written(pid) > 1000000:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            if stands_still(pid):
                return command, pid
            break
    command.wait(60)
    assert command.returncode == 0, command.communicate()
    command.communicate()
    with open(out, "w") as again:
        again.write("old")
    return None


def test_a_cancelled_export_leaves_no_half_archive_and_what_was_there_before():
    with Davit() as d:
        path, _ = archive_of(d, NAME, [layers.f("big", os.urandom(40000000))], compress=False)
        d.check("images", "import", "--no-unpack", path)
        os.mkdir(os.path.join(d.work, "place"))
        out = os.path.join(d.work, "place", "half.tar")
        with open(out, "w") as old:
            old.write("old")
        caught = next(filter(None, (caught_export(d, out) for _ in range(50))))
        command, pid = caught
        command.send_signal(signal.SIGINT)
        wait_for(lambda: [o for o in d.call("image.operations").get("operations", [])
                          if o.get("cancelled")], "it is cancelled")
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not d.is_alive(pid), "the child has ended")
        assert command.wait(60) == 130, command.communicate()
        command.communicate()
        assert os.listdir(os.path.dirname(out)) == ["half.tar"], "half an archive is left"
        with open(out) as old:
            assert old.read() == "old"
        d.check("images", "export", out, NAME)


def test_whoever_reads_an_export_may_stop():
    with Davit() as d:
        imported(d, "docker.io/library/t:1", [layers.f("f", os.urandom(4 << 20))])
        with subprocess.Popen(d.base + ["images", "export", "-", "docker.io/library/t:1"], env=d.env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
            assert export.stdout.read(512)
            export.stdout.close()
            said = export.stderr.read()
        assert export.returncode == 1 and b"Broken pipe" in said, (export.returncode, said)
        assert not os.listdir(os.path.join(d.state, "fifo"))


if __name__ == "__main__":
    lacking = [p for p in ("umoci", "skopeo", "podman", "containerd", "ctr") if not peers.has(p)]
    if lacking:
        print("not installed: " + ", ".join(lacking))
        sys.exit(77)
    main(globals())
