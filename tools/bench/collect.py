#!/usr/bin/env python3
"""What a collection costs those who run containers meanwhile: the 99th percentile of `davit run --rm` during
collections, each with garbage of 1 %, against that of the runs between them. Budget: 50 ms more.

usage: collect.py BUILD [BLOBS [SNAPSHOTS [RUNS]]]        default: 10000 blobs, 2000 snapshots, 300 runs
"""

import concurrent.futures
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

BUILD = sys.argv[1]
BLOBS, SNAPSHOTS, RUNS = (int(a) for a in (sys.argv[2:] + ["10000", "2000", "300"][len(sys.argv) - 2:]))
BUDGET_MS = 50
HERE = os.path.dirname(os.path.abspath(__file__))
EACH = 900  # manifests of one index, of three blobs each
WORK = tempfile.mkdtemp(prefix="dvc-", dir="/tmp")
BASE = [os.path.join(BUILD, "bin", "davit"), "--root", WORK + "/r", "--state", WORK + "/s"]


def davit(*words):
    result = subprocess.run(BASE + list(words), stdin=subprocess.DEVNULL, capture_output=True)
    if result.returncode:
        raise RuntimeError("%s: %s" % (" ".join(words), result.stderr.decode()))
    return result.stdout


def call(method, *words):
    return json.loads(davit("bus", "call", method, *words))


def write_archive(path, name, n_manifests):
    """An index of images of one layer each: 3 n + 1 blobs."""
    with tarfile.open(path, "w") as tar:
        def put(path, data):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        def blob(data, kind):
            digest = hashlib.sha256(data).hexdigest()
            put("blobs/sha256/" + digest, data)
            return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}

        def as_json(value):
            return json.dumps(value).encode()
        entries = []
        for i in range(n_manifests):
            layer = ("%s %d" % (name, i)).encode()
            config = {"os": "linux", "architecture": "amd64", "rootfs": {
                "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}
            manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                        "config": blob(as_json(config), "config.v1+json"), "layers": [blob(layer, "layer.v1.tar")]}
            entries.append(dict(blob(as_json(manifest), "manifest.v1+json"),
                                platform={"os": "linux", "architecture": "amd64"}))
        index = blob(as_json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                              "manifests": entries}), "index.v1+json")
        index["annotations"] = {"org.opencontainers.image.ref.name": name}
        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", as_json({"schemaVersion": 2, "manifests": [index]}))


def import_index(name, n_manifests):
    path = os.path.join(WORK, name + ".tar")
    if not os.path.exists(path):
        write_archive(path, name, n_manifests)
    call("image.import", "path=" + path, "base_name=bench", "all_platforms=true", "no_unpack=true")


def fill():
    left = BLOBS // 3
    for i in range(left // EACH + 1):
        import_index("live%d" % i, min(EACH, max(left - i * EACH, 1)))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: call("snapshot.prepare", "key=live%d" % i), range(SNAPSHOTS)))


def make_garbage(number):
    import_index("garbage", max(BLOBS // 300, 1))
    for i in range(max(SNAPSHOTS // 100, 1)):
        key = "garbage-%d-%d" % (number, i)
        call("image.prepare", "name=busybox", "key=" + key, "leased=true")
        call("lease.delete", "id=" + key)
    call("image.delete", "name=bench:garbage")


class Load(threading.Thread):
    """Runs containers, one after the other, and notes when each began and ended."""

    def __init__(self):
        super().__init__()
        self.runs, self.stop = [], threading.Event()

    def run(self):
        while not self.stop.is_set():
            begin = time.perf_counter()
            davit("run", "--rm", "busybox", "run%d" % len(self.runs), "true")
            self.runs.append((begin, time.perf_counter()))

    def within(self, spans):
        """How long those took that overlap one of @spans, in ms."""
        return sorted((end - begin) * 1000 for begin, end in self.runs
                      if any(begin < last and end > first for first, last in spans))


def percentile(values, share):
    return values[min(int(len(values) * share), len(values) - 1)]


def show(name, values):
    print("run --rm %-8s collections: %4d runs, median %7.1f ms   p99 %7.1f ms   max %7.1f ms" % (
        name, len(values), percentile(values, 0.5), percentile(values, 0.99), values[-1]))


def main():
    davit("up", "--detach")
    subprocess.run([sys.executable, os.path.join(HERE, "..", "examples", "make-image.py"), "--name",
                    "docker.io/library/busybox:latest", WORK + "/busybox.tar"], check=True)
    davit("images", "import", WORK + "/busybox.tar")
    fill()
    load, quiet, busy, number = Load(), [], [], 0
    load.start()
    try:
        # In turn, so that both meet the same machine; while garbage is made nothing is counted.
        while len(load.within(busy)) < RUNS:
            make_garbage(number)
            begin = time.perf_counter()
            call("image.collect")
            end = time.perf_counter()
            busy.append((begin, end))
            time.sleep(max(end - begin, 0.2))
            quiet.append((end, time.perf_counter()))
            number += 1
    finally:
        load.stop.set()
        load.join()
    without, during = load.within(quiet), load.within(busy)
    show("without", without)
    show("during", during)
    lengths = sorted((last - first) * 1000 for first, last in busy)
    print("%d collections, of %.0f ms in the median" % (number, percentile(lengths, 0.5)))
    more = percentile(during, 0.99) - percentile(without, 0.99)
    print("the 99th percentile is %.1f ms more; budget %d ms: %s" % (more, BUDGET_MS, "ok" if more <= BUDGET_MS else "OVER"))


try:
    main()
finally:
    subprocess.run(BASE + ["down", "--containers"], capture_output=True)
    shutil.rmtree(WORK, ignore_errors=True)
