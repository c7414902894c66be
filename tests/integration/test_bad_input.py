#!/usr/bin/env python3
"""Bad input gets a clear error that names the object and the limit; the process lives; nothing is written."""

import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tarfile

import msgpack

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import PROCESSES, Davit, main  # noqa: E402

HANDSHAKE = b"\x00SP\x00\x00%c\x00\x00"


def connect(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(5)
    s.connect(path)
    return s


def frame(body):
    return b"\x01" + struct.pack(">Q", len(body)) + body


def sockets(d):
    """Every socket of the running davit: the broker's, the services', the shims'."""
    paths = [os.path.join(d.state, name) for name in ("bus.sock", "events.sock", "registry.sock")]
    for folder in ("svc", "s"):
        paths += [os.path.join(d.state, folder, name) for name in sorted(os.listdir(os.path.join(d.state, folder)))]
    return [p for p in paths if os.path.exists(p)]


def send_garbage(path, data, kind):
    try:
        s = connect(path, kind)
        s.sendall(data) if kind == socket.SOCK_STREAM else s.send(data)
        s.close()
    except OSError:
        pass  # closed on us: a fine answer


def test_random_bytes_on_every_socket_end_no_process():
    rng = random.Random(7)
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "target", "sleep", "1000")
        before = {p: d.pid(p) for p in PROCESSES + ["davit-shim"]}
        for path in sockets(d):
            kind = socket.SOCK_SEQPACKET if "/s/s/" in path else socket.SOCK_STREAM
            for i in range(60):
                data = rng.randbytes(rng.choice([1, 7, 8, 9, 17, 100, 4000]))
                if i % 3 == 0 and kind == socket.SOCK_STREAM:
                    data = HANDSHAKE % (0x30 if i % 2 else 0x31) + frame(b"\x80\x00\x00\x01" + data)
                if i % 3 == 1 and kind == socket.SOCK_STREAM:
                    data = HANDSHAKE % 0x30 + b"\x01" + struct.pack(">Q", 1 << 30) + data
                send_garbage(path, data, kind)
        assert {p: d.pid(p) for p in PROCESSES + ["davit-shim"]} == before, "a process was replaced"
        assert d.check("tasks", "ls", "-q") == "target\n"
        d.check("rm", "-f", "target")


def test_truncated_requests_are_answered_with_what_is_wrong():
    request = msgpack.packb([1, b"i" * 16, 0, "default", "task.get", {"container_id": "x"}])
    with Davit() as d:
        for end in range(len(request)):
            s = connect(d.state + "/bus.sock")
            s.sendall(HANDSHAKE % 0x30 + frame(b"\x80\x00\x00\x01" + request[:end]))
            reply = b""
            while len(reply) < 8 + 9 + 4 or len(reply) < 8 + 9 + struct.unpack(">Q", reply[9:17])[0]:
                more = s.recv(65536)
                assert more, "closed without an answer at %d bytes" % end
                reply += more
            answer = msgpack.unpackb(reply[21:], strict_map_key=False)
            assert answer[2] == "INVALID_ARGUMENT", (end, answer)
            s.close()


def test_wrong_calls_name_what_is_wrong():
    cases = [
        (["task.fly"], "task.fly"),
        (["nowhere.get"], "nowhere"),
        (["task.get"], "container_id"),
        (["task.get", "container_id=" + "x" * 77], "76"),
        (["task.get", "container_id=a/b"], "a/b"),
        (["task.get", "container_id=.."], ".."),
        (["container.get", "id=../../etc"], "../../etc"),
        (["container.create", "container.id=a b"], "a b"),
        (["image.import", "path=relative.tar"], "relative.tar"),
        (["image.import", "path=/no/such/file.tar"], "/no/such/file.tar"),
        (["content.info", "digest=sha256:../../x"], "sha256:../../x"),
        (["task.kill", "container_id=x", "signal=99"], "64"),
        (["container.list", "filters=id=~~x"], "filter"),
    ]
    with Davit() as d:
        for words, expected in cases:
            result = d("bus", "call", *words)
            text = result.stderr.decode()
            assert result.returncode == 1 and expected in text, (words, result)
            result = d("bus", "call", "--no-schema", *words)
            assert result.returncode == 1 and result.stderr, (words, result)


def test_a_message_over_the_limit_is_refused():
    with Davit() as d:
        d.import_busybox()
        result = d("bus", "call", "container.update", "container.id=x", "container.spec=" + "x" * 120000,
                   *["container.labels.k%d=%s" % (i, "v" * 4000) for i in range(250)])
        assert result.returncode == 1 and result.stderr, result
        result = d("run", "--rm", "busybox", "big", *["x" * 100000 for _ in range(12)])
        assert result.returncode == 125, result.returncode
        assert d.check("containers", "ls", "-q") == ""


def test_ids_that_are_not_identifiers_make_nothing():
    with Davit() as d:
        d.import_busybox()
        for name in ("..", ".", "a/b", "-x", "a..b", "x" * 77, "a b", "ä", "a\nb"):
            result = d("run", "--rm", "--", "busybox", name, "true")
            assert result.returncode == 125 and result.stderr, (name, result)
            assert d("-n", name, "run", "--rm", "busybox", "ok", "true").returncode == 125, name
        assert d.check("containers", "ls", "-q") == ""
        assert not os.listdir(d.state + "/bundles")


def archive(path, entries):
    with tarfile.open(path, "w") as tar:
        for info, data in entries:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_archives_that_lie_are_refused_and_leave_nothing():
    with Davit() as d:
        victim = d.work + "/victim"
        with open(victim, "w") as f:
            f.write("safe")
        manifest = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:" + "0" * 64, "size": 2},
                               "layers": []}).encode()
        index = json.dumps({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "1" * 64,
             "size": len(manifest), "annotations": {"io.containerd.image.name": "x:y"}}]}).encode()
        layout = ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        cases = {
            "empty": [],
            "no index": [layout],
            "not json": [layout, ("index.json", b"{not json")],
            "wrong digest": [layout, ("index.json", index), ("blobs/sha256/" + "1" * 64, manifest)],
            "missing blob": [layout, ("index.json", index)],
            "dotdot": [layout, ("../../../../../..%s" % victim, b"overwritten"), ("index.json", index)],
            "absolute": [layout, (victim, b"overwritten"), ("index.json", index)],
            "both": [layout, ("index.json", json.dumps({"manifests": [], "layers": [], "config": {}}).encode())],
            "deep": [layout, ("index.json", b"[" * 100000)],
        }
        for name, entries in cases.items():
            path = "%s/%s.tar" % (d.work, name.replace(" ", "-"))
            archive(path, entries)
            result = d("images", "import", path)
            assert b"davit-image-work ended" not in result.stderr, (name, result)  # it has said itself what is wrong
            assert result.returncode == 1 and result.stderr, (name, result)
        with open(d.work + "/random.tar", "wb") as f:
            f.write(random.Random(3).randbytes(100000))
        assert d("images", "import", d.work + "/random.tar").returncode == 1
        with open(victim) as f:
            assert f.read() == "safe"
        assert d.json("images", "ls") == [] and d.json("content", "ls") == []
        assert not [f for _, _, files in os.walk(d.root + "/image/content/ingest") for f in files]


def test_a_spec_that_is_not_json_or_dangerous_is_refused():
    with Davit() as d:
        d.import_busybox()
        good = json.loads(subprocess.run(["crun", "spec", "-f", "/dev/stdout"], capture_output=True, text=True).stdout or
                          '{"ociVersion": "1.0.2", "process": {"cwd": "/", "args": ["true"]}, "root": {"path": "rootfs"}}')
        bad = {"not json": "{", "empty": "{}", "list": "[]"}
        for name, change in (("proc cwd", {"cwd": "/proc/self/fd/7"}), ("no args", {"args": []})):
            spec = json.loads(json.dumps(good))
            spec["process"].update(change)
            bad[name] = json.dumps(spec)
        for name, text in bad.items():
            with open(d.work + "/config.json", "w") as f:
                f.write(text)
            result = d("run", "--rm", "--config", d.work + "/config.json", "cfg")
            assert result.returncode == 125 and result.stderr, (name, result)
        assert d.check("containers", "ls", "-q") == ""


main(globals())
