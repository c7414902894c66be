#!/usr/bin/env python3
"""What hangs, floods or sleeps ends at its deadline with a sentence, and delays nobody else."""

import contextlib
import os
import signal
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402
from sp_client import Caller  # noqa: E402

DEADLINE_MS = 2000


def others_are_served(d, n=4):
    """What needs every process: containers run, images are listed, events are read."""
    for i in range(n):
        d.json("tasks", "ls")
        d.json("images", "ls")
    assert d.check("run", "--rm", "busybox", "other", "echo", "x") == "x\n"
    d.events()


def make_hanging_runtime(d):
    path = d.work + "/hanging-runtime"
    with open(path, "w") as out:
        out.write("#!/bin/sh\ncase \"$*\" in *create*|*run*) exec sleep 1000;; *) exec crun \"$@\";; esac\n")
    os.chmod(path, 0o755)
    return path


def test_a_runtime_that_hangs_and_a_registry_that_stalls_end_at_the_deadline():
    with Davit() as d, socket.socket() as stalling:
        d.import_busybox()
        stalling.bind(("127.0.0.1", 0))
        stalling.listen(8)  # the kernel takes connections, nobody answers
        limit = ("--timeout", "%dms" % DEADLINE_MS)
        runs = [d.start(*limit, "run", "--rm", "--runtime", make_hanging_runtime(d), "busybox", "h%d" % i, "true")
                for i in range(4)]
        pull = d.start(*limit, "images", "pull", "--plain-http", "127.0.0.1:%d/a/b:1" % stalling.getsockname()[1])
        others_are_served(d)
        for client, code in [(run, 125) for run in runs] + [(pull, 1)]:
            _, err = client.communicate(timeout=60)
            assert client.returncode == code and b"deadline" in err, err
        wait_for(lambda: d.call("image.operations").get("operations", []) == [], "the pull has ended")


class NoForks:
    """A cgroup in which nothing can be started; processes that are in it run on."""

    top = next((path for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.exists(path + "/cgroup.procs")
                and (path.endswith("pids") or "pids" in open(path + "/cgroup.subtree_control").read().split())), None)

    def __init__(self, d):
        self.folder = os.path.join(self.top, os.path.basename(d.work))

    def write(self, name, value):
        with open(os.path.join(self.folder, name), "w") as out:
            out.write(str(value))

    def __enter__(self):
        os.mkdir(self.folder)
        self.write("pids.max", 0)
        return self

    def leave(self):
        """True once nobody is in it."""
        with open(self.folder + "/cgroup.procs") as pids:
            for pid in pids.read().split():
                with contextlib.suppress(ProcessLookupError), open(self.top + "/cgroup.procs", "w") as out:
                    out.write(pid)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)
        return not os.path.exists(self.folder)

    def __exit__(self, *exc):
        wait_for(self.leave, "the cgroup is empty")


def test_without_room_for_another_process_a_run_fails_by_name_and_is_undone_once_there_is_room():
    if not NoForks.top:
        return
    with Davit() as d, NoForks(d) as limit:
        d.import_busybox()
        limit.write("cgroup.procs", d.pid("davit-task"))
        client = d.start("run", "--rm", "busybox", "web", "true")
        wait_for(lambda: [o for o in d.call("task.operations").get("operations", []) if o["state"] == "undoing"],
                 "it failed")
        limit.write("pids.max", "max")
        _, err = client.communicate(timeout=40)  # its own deadline is later
        assert client.returncode == 125 and b"davit-shim: Resource temporarily unavailable" in err, err
        others_are_served(d, 1)


def flood(d, n, answers):
    """One caller with n requests under way at a time on one connection each, until it is told to stop."""
    peers = []
    for _ in range(n):
        peer = Caller(d.state + "/bus.sock", 60)
        peer.start("task.list", {}, deadline_ms=DEADLINE_MS)
        peers.append(peer)
    for peer in peers:
        answers.append(peer.finish()[0])
        peer.close()


def test_a_service_that_freezes_holds_up_its_own_callers_until_their_deadline_and_nobody_else():
    with Davit() as d:
        d.import_busybox()
        pid = d.pid("davit-task")
        os.kill(pid, signal.SIGSTOP)
        answers = []
        flooding = threading.Thread(target=flood, args=(d, 150, answers))
        try:
            flooding.start()
            for _ in range(6):
                d.json("images", "ls")
                d.json("containers", "ls")
                d.events()
            flooding.join(60)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert len(answers) == 150 and set(answers) == {"DEADLINE_EXCEEDED"}, answers
        others_are_served(d, 1)


def test_hundreds_of_half_requests_and_deaf_callers_delay_nobody():
    with Davit() as d:
        d.import_busybox()
        pid = d.pid("davit-broker")
        n_before = len(os.listdir("/proc/%d/fd" % pid))
        peers = []
        for i in range(200):
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            peer.connect(d.state + "/bus.sock")
            peer.sendall(b"\0SP\0" + struct.pack(">HH", 0x30, 0))
            # Half of a frame that says that it is as long as may be.
            peer.sendall(b"\1" + struct.pack(">Q", 1 << 20) + struct.pack(">I", 0x80000000 | i) + b"x" * 500)
            peers.append(peer)
        others_are_served(d)
        with open("/proc/%d/status" % pid) as status:
            rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        assert rss < 300 * 1024, "%d KB for 200 halves of requests" % rss
        for peer in peers:
            peer.close()
        wait_for(lambda: len(os.listdir("/proc/%d/fd" % pid)) < n_before + 50, "their descriptors are closed")


if __name__ == "__main__":
    main(globals())
