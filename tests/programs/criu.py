#!/usr/bin/env python3
"""A stand-in for criu, below the boundary of a real runc, which asks it by protobuf on a socket: `criu swrk FD`.

A dump writes what a process was started with into pages-1.img, its digest into inventory.img, and ends the process
unless it is to run on. A restore compares the two and starts the same program once more, with RESTORED=1 in its
environment, in namespaces and a root of its own. Every request goes into the file $CRIU_RECORD, one JSON a line,
with the lines of the file that $CRIU_CONFIG_FILE names."""

import ctypes
import hashlib
import json
import os
import signal
import socket
import struct
import sys

DUMP, RESTORE, NOTIFY, FEATURES, VERSION = 1, 2, 6, 9, 10
# Fields of criu_opts that tests look at.
OPTIONS = {1: "images_dir_fd", 2: "pid", 3: "leave_running", 5: "tcp_established", 7: "shell_job", 8: "file_locks", 13: "root"}
NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000  # mount, uts, ipc, pid
libc = ctypes.CDLL(None, use_errno=True)


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def decode(data):
    """Field number to its last value: a number, or bytes."""
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            fields[key >> 3], at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            fields[key >> 3], at = data[at:at + size], at + size
        else:
            raise ValueError("wire type %d" % (key & 7))
    return fields


def number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def encode(*pairs):
    out = b""
    for field, value in pairs:
        if isinstance(value, int):
            out += number(field << 3) + number(value)
        else:
            out += number(field << 3 | 2) + number(len(value)) + value
    return out


def notify(peer, script, pid):
    peer.send(encode((1, NOTIFY), (2, 1), (5, encode((1, script), (2, pid)))))
    answer = decode(peer.recv(65536))
    if answer.get(1) != NOTIFY or not answer.get(3):
        sys.exit("criu stand-in: %s was not taken" % script.decode())


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def dump(peer, images, options):
    pid = options["pid"]
    pages = json.dumps({"program": os.readlink("/proc/%d/exe" % pid),
                        "argv": read("/proc/%d/cmdline" % pid).decode().split("\0")[:-1],
                        "environment": read("/proc/%d/environ" % pid).decode().split("\0")[:-1],
                        "padding": os.urandom(100000).hex()}).encode()
    write(images + "/pages-1.img", pages)
    write(images + "/inventory.img", hashlib.sha256(pages).hexdigest().encode())
    notify(peer, b"post-dump", pid)
    if not options.get("leave_running"):
        os.kill(pid, signal.SIGKILL)
    peer.send(encode((1, DUMP), (2, 1), (3, encode((1, 0)))))


def must(result, what):
    if result:
        sys.exit("criu stand-in: %s: %s" % (what, os.strerror(ctypes.get_errno())))


def become(root, pages):
    must(libc.mount(None, b"/", None, ctypes.c_ulong(0x80000 | 0x4000), None), "slave")
    must(libc.mount(b"proc", root + b"/proc", b"proc", ctypes.c_ulong(0), None), "proc")
    must(libc.mount(b"/dev", root + b"/dev", None, ctypes.c_ulong(0x1000), None), "dev")
    os.chdir(root)
    must(libc.syscall({"x86_64": 155, "aarch64": 41}[os.uname().machine], b".", b"."), "pivot_root")
    must(libc.umount2(b".", 2), "umount2")
    os.setsid()
    environment = dict(word.split("=", 1) for word in pages["environment"])
    os.execve(pages["program"], pages["argv"], dict(environment, RESTORED="1"))


def restore(peer, images, options):
    pages = read(images + "/pages-1.img")
    if hashlib.sha256(pages).hexdigest().encode() != read(images + "/inventory.img"):
        peer.send(encode((1, RESTORE), (2, 0), (7, 5)))
        sys.exit("criu stand-in: the pages are not those that were dumped")
    out, into = os.pipe()
    if not os.fork():
        must(libc.unshare(NAMESPACES), "unshare")
        child = os.fork()
        if child:
            os.write(into, struct.pack("i", child))
            os._exit(0)
        peer.close()
        become(options["root"].encode(), json.loads(pages))
    os.wait()
    (pid,) = struct.unpack("i", os.read(out, 4))
    notify(peer, b"post-restore", pid)
    peer.send(encode((1, RESTORE), (2, 1), (4, encode((1, pid)))))


def main():
    peer = socket.socket(fileno=int(sys.argv[2]))
    peer.set_inheritable(False)
    request = decode(peer.recv(65536))
    fields = decode(request.get(2, b""))
    options = {name: fields[field] for field, name in OPTIONS.items() if field in fields}
    if "root" in options:
        options["root"] = options["root"].decode()
    with open(os.environ["CRIU_CONFIG_FILE"]) as config:
        told = config.read().splitlines()
    with open(os.environ["CRIU_RECORD"], "a") as record:
        record.write(json.dumps({"type": request[1], "told": told, **options}) + "\n")
    if request[1] == VERSION:
        peer.send(encode((1, VERSION), (2, 1), (10, encode((1, 3), (2, 17), (4, 1)))))
    elif request[1] == FEATURES:
        peer.send(encode((1, FEATURES), (2, 1), (8, b"")))
    else:
        images = "/proc/%d/fd/%d" % (os.getppid(), options["images_dir_fd"])
        {DUMP: dump, RESTORE: restore}[request[1]](peer, images, options)


main()
