#!/usr/bin/env python3
"""Makes an OCI image (a layout in a tar) of a static busybox, with nothing but Python's library.

usage: make-image.py [--busybox PATH] [--name REF] [--layers N] [--compress gzip|none] OUT.tar
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile

DIRECTORIES = ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"]
PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\ndaemon:x:1:\nusers:x:100:daemon\nnogroup:x:65534:\n"


def entry(name, kind=tarfile.REGTYPE, mode=0o755, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, link, size, 1700000000
    return info


def add_file(tar, name, data, mode=0o644):
    tar.addfile(entry(name, mode=mode, size=len(data)), io.BytesIO(data))


def base_layer(busybox):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in DIRECTORIES:
            tar.addfile(entry(directory, tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755))
        with open(busybox, "rb") as f:
            add_file(tar, "bin/busybox", f.read(), 0o755)
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in sorted(set(applets) - {"busybox"}):
            tar.addfile(entry("bin/" + applet, tarfile.SYMTYPE, 0o777, "busybox"))
        add_file(tar, "etc/passwd", PASSWD.encode())
        add_file(tar, "etc/group", GROUP.encode())
    return out.getvalue()


def extra_layer(number):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add_file(tar, "etc/layer-%d" % number, b"%d\n" % number)
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--name", default="docker.io/library/busybox:latest")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--compress", choices=["gzip", "none"], default="gzip")
    parser.add_argument("out")
    options = parser.parse_args()

    blobs, layers, diff_ids = {}, [], []
    for number in range(options.layers):
        plain = base_layer(options.busybox) if number == 0 else extra_layer(number)
        packed = gzip.compress(plain, 6, mtime=0) if options.compress == "gzip" else plain
        suffix = "+gzip" if options.compress == "gzip" else ""
        blobs[digest(packed)] = packed
        diff_ids.append(digest(plain))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar" + suffix,
                       "digest": digest(packed), "size": len(packed)})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({
        "architecture": machine, "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                   "Cmd": ["sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }).encode()
    blobs[digest(config)] = config
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config),
                   "size": len(config)},
        "layers": layers,
    }).encode()
    blobs[digest(manifest)] = manifest
    index = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest),
                       "size": len(manifest), "platform": {"os": "linux", "architecture": machine},
                       "annotations": {"io.containerd.image.name": options.name,
                                       "org.opencontainers.image.ref.name": options.name.rsplit(":", 1)[-1]}}],
    }).encode()
    with tarfile.open(options.out, "w") as tar:
        add_file(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add_file(tar, "index.json", index)
        for directory in ("blobs", "blobs/sha256"):
            tar.addfile(entry(directory, tarfile.DIRTYPE))
        for name, data in blobs.items():
            add_file(tar, "blobs/sha256/" + name.split(":")[1], data)


if __name__ == "__main__":
    main()
