"""Image archives made by hand, entry by entry, and trees compared with all that they have."""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile


def entry(name, kind, data=b"", **more):
    return dict(name=name, kind=kind, data=data, **more)


def d(name, **more):
    return entry(name, "d", **more)


def f(name, data=b"x", **more):
    return entry(name, "f", data, **more)


def link(name, to, **more):
    return entry(name, "l", to=to, **more)


def hard(name, to, **more):
    return entry(name, "h", to=to, **more)


KINDS = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE,
         "c": tarfile.CHRTYPE, "b": tarfile.BLKTYPE, "p": tarfile.FIFOTYPE}


def tar(entries):
    """The bytes of a tar of @entries."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for e in entries:
            info = tarfile.TarInfo(e["name"])
            info.type = KINDS[e["kind"]]
            info.mode = e.get("mode", 0o755 if e["kind"] == "d" else 0o644)
            info.uid, info.gid, info.mtime = e.get("uid", 0), e.get("gid", 0), e.get("mtime", 1000000)
            info.linkname = e.get("to", "")
            info.devmajor, info.devminor = e.get("device", (0, 0))
            info.pax_headers = {"SCHILY.xattr." + k: v for k, v in e.get("xattrs", {}).items()}
            data = e["data"] if e["kind"] == "f" else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data else None)
    return out.getvalue()


# Three layers with everything that a later one can do to an earlier one.
LAYERS = [
    [d("./", mtime=5), d("usr", mtime=6), d("usr/lib", mtime=7), link("lib", "usr/lib", mtime=8),
     d("etc", mode=0o750, uid=3, gid=4, mtime=9), f("etc/passwd", b"root"),
     f("etc/shadow", b"s", mode=0o600, uid=1, gid=42), f("usr/lib/a", b"A" * 5000), hard("usr/lib/a2", "usr/lib/a"),
     d("gone"), f("gone/x"), d("gone/sub"), f("gone/sub/y"),
     d("opaque", mode=0o700), f("opaque/old"), d("opaque/olddir"), f("opaque/olddir/f"),
     f("suid", b"#!", mode=0o4755), f("sgid", b"#!", mode=0o2755, gid=7), d("sticky", mode=0o1777),
     entry("null", "c", device=(1, 3), mode=0o666), entry("loop", "b", device=(7, 0), mode=0o640),
     entry("fifo", "p", mode=0o622), f("attr", b"1", xattrs={"user.foo": "bar", "user.long": "v" * 300}),
     d("attrs", xattrs={"user.d": "1"}), link("dangling", "/nowhere/x"),
     d("n" * 200), f("n" * 200 + "/" + "m" * 200, b"long"), d("\u00fcn\u00ef"), f("\u00fcn\u00ef/\u00f6", b"utf8"),
     d("setgid", mode=0o2775, gid=50), f("setgid/f"), d("deep"), d("deep/er"),
     d("deep/er/still", mode=0o711, mtime=33), f("deep/er/still/keep"), d("again"), f("again/x"),
     f("dir-later"), d("file-later"), f("file-later/q"), link("link-later", "etc"), f("linked", b"far"),
     f("empty", b"")],
    [f("lib/b", b"B", mtime=77), f("lib/.wh.a2", b""), d("usr/lib", mtime=70), f(".wh.gone", b""),
     f("opaque/.wh..wh..opq", b""), f("opaque/new"), f("deep/er/still/more", b"m"), f(".wh.again", b""),
     d("dir-later"), f("dir-later/in"), f("file-later", b"now"), d("link-later"), f("link-later/f")],
    [d("again", mtime=5555), f("again/new"), hard("etc/linked", "linked"), f("linked", b"near"),
     d("gone", mtime=44), f("gone/z"), f("etc/.wh.shadow", b""), d("attrs", mtime=3), f("opaque/.wh.new", b""),
     f("opaque/newer"), link("suid", "attr", mtime=12), f("deep/er/still/.wh.keep", b"")],
]


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(path, layers, name, compress=True):
    """Writes an OCI layout of @layers (bytes of tars); gives the digest of its manifest."""
    blobs = {}

    def put(data, media_type):
        blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    config = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine),
              "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": [digest(l) for l in layers]}}
    kind = "application/vnd.oci.image.layer.v1.tar"
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
                "layers": [put(gzip.compress(l, 1, mtime=0), kind + "+gzip") if compress else put(l, kind)
                           for l in layers]}
    entry_ = put(json.dumps(manifest).encode(), manifest["mediaType"])
    entry_["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [entry_]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    files.update({"blobs/sha256/" + k[7:]: v for k, v in blobs.items()})
    with open(path, "wb") as out:
        out.write(tar([f(k, v) for k, v in files.items()]))
    return entry_["digest"]


def tree(root):
    """Everything of every entry beneath @root."""
    found, inodes = {}, {}
    for folder, dirs, files in os.walk(root):
        for name in ([""] if folder == root else []) + dirs + files:
            path = os.path.join(folder, name) if name else folder
            status = os.lstat(path)
            relative = os.path.relpath(path, root)
            content = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as data:
                    content = hashlib.sha256(data.read()).hexdigest()
            elif not stat.S_ISDIR(status.st_mode):
                content = status.st_rdev
            xattrs = {k: os.getxattr(path, k, follow_symlinks=False)
                      for k in os.listxattr(path, follow_symlinks=False) if k != "security.selinux"}
            found[relative] = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, content, xattrs]
            if not stat.S_ISDIR(status.st_mode):
                inodes.setdefault(status.st_ino, []).append(relative)
    for names in inodes.values():
        for name in names:
            found[name].append(sorted(names))
    return found


def differences(one, other):
    return ["%s\n    %s\n    %s" % (name, one.get(name), other.get(name))
            for name in sorted(set(one) | set(other)) if one.get(name) != other.get(name)]
