"""What the tests mount themselves, snapshots mostly, in a mount namespace of this process' own."""

import contextlib
import ctypes
import os
import tempfile

import layers

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_BIND, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 4096, 32, 16384, 1 << 18
MNT_DETACH = 2
FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT = 430, 431, 432, 429  # the same on all architectures


def check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def bind(mount, target):
    check(LIBC.mount(mount["source"].encode(), target.encode(), None, MS_BIND, None), mount["source"])
    if "ro" in mount["options"]:
        check(LIBC.mount(None, target.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY, None), target)


def overlay(mount, target):
    """By fsopen: the options may be longer than the page that mount(2) takes."""
    fs = check(LIBC.syscall(FSOPEN, b"overlay", 1), "fsopen")
    try:
        for option in mount["options"]:
            key, _, value = option.partition("=")
            pairs = [("lowerdir+", v) for v in value.split(":")] if key == "lowerdir" else [(key, value)]
            for name, text in pairs:
                check(LIBC.syscall(FSCONFIG, fs, 1, name.encode(), text.encode(), 0), option)
        check(LIBC.syscall(FSCONFIG, fs, 6, None, None, 0), "overlay")
        tree = check(LIBC.syscall(FSMOUNT, fs, 1, 0), "fsmount")
        try:
            check(LIBC.syscall(MOVE_MOUNT, tree, b"", -100, target.encode(), 4), "move_mount")
        finally:
            os.close(tree)
    finally:
        os.close(fs)


IS_APART = False


def stay_apart():
    """What is mounted here shows nowhere else, the processes of a davit that is up already included."""
    global IS_APART
    if not IS_APART:
        check(LIBC.unshare(CLONE_NEWNS), "unshare")
        check(LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "/")
        IS_APART = True


def make_read_only(path):
    """What is mounted there, not what is mounted below."""
    stay_apart()
    check(LIBC.mount(None, path.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY, None), path)


@contextlib.contextmanager
def empty(path):
    """A directory of the host that has nothing in it for this process and what it starts."""
    stay_apart()
    is_new = not os.path.isdir(path)
    if is_new:
        os.mkdir(path)
    check(LIBC.mount(b"tmpfs", path.encode(), b"tmpfs", 0, None), path)
    try:
        yield
    finally:
        check(LIBC.umount2(path.encode(), MNT_DETACH), path)
        if is_new:
            os.rmdir(path)


@contextlib.contextmanager
def mounted(mounts, work):
    """A directory with @mounts of a snapshot on it."""
    stay_apart()
    (mount,) = mounts
    target = tempfile.mkdtemp(dir=work)
    (bind if mount["type"] == "bind" else overlay)(mount, target)
    try:
        yield target
    finally:
        check(LIBC.umount2(target.encode(), MNT_DETACH), target)
        os.rmdir(target)


def mounted_tree(mounts, work):
    with mounted(mounts, work) as root:
        return layers.tree(root)
