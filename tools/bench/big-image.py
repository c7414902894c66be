#!/usr/bin/env python3
"""Makes an OCI image of many files and a given size, for measuring imports. usage: big-image.py --layers N --megabytes M OUT"""

import argparse
import gzip
import hashlib
import io
import json
import os
import random
import tarfile


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 1700000000
    tar.addfile(info, io.BytesIO(data))


def layer(number, size, rng):
    out = io.BytesIO()
    words = [rng.randbytes(rng.randint(8, 200)) for _ in range(2000)]
    with tarfile.open(fileobj=out, mode="w") as tar:
        written, file = 0, 0
        while written < size:
            length = min(int(rng.paretovariate(0.8) * 800), 2000000)
            data = b"".join(rng.choices(words, k=length // 100 + 1))[:length]
            add(tar, "data/layer%d/d%d/f%d" % (number, file % 37, file), data)
            written += length
            file += 1
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("out")
    options = parser.parse_args()
    rng = random.Random(1)
    blobs, layers, diff_ids = {}, [], []
    for number in range(options.layers):
        plain = layer(number, options.megabytes * 1000000 // options.layers, rng)
        packed = gzip.compress(plain, 6, mtime=0)
        blobs[digest(packed)] = packed
        diff_ids.append(digest(plain))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(packed),
                       "size": len(packed)})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({"architecture": machine, "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    blobs[digest(config)] = config
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                                      "digest": digest(config), "size": len(config)}, "layers": layers}).encode()
    blobs[digest(manifest)] = manifest
    index = json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest), "size": len(manifest),
         "annotations": {"io.containerd.image.name": "docker.io/library/big:latest"}}]}).encode()
    with tarfile.open(options.out, "w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add(tar, "index.json", index)
        for name, data in blobs.items():
            add(tar, "blobs/sha256/" + name.split(":")[1], data)


main()
