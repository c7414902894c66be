#!/usr/bin/env python3
"""What runs out is named, nothing half done is left, and all goes on when there is room again. SLOW=1: 50 containers end while all
of davit is away, or the disk is full, for a minute."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import PROCESSES, Davit, check_log, main, wait_for  # noqa: E402
from mounted import LIBC, MNT_DETACH, check, stay_apart  # noqa: E402

N_ENDING, DOWN = (50, 60) if os.environ.get("SLOW") else (10, 1)
AT_ONCE = 4
NO_SPACE = b"no space"  # is left on whichever disk
NO_FDS = b"Too many open files"
SOON = ("--timeout", "3s")


@contextlib.contextmanager
def small_disk(d, directory, options):
    """A file system of its own on @directory, seen by this process and what it starts."""
    stay_apart()
    os.makedirs(directory, 0o700)
    check(LIBC.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, b"mode=700," + options), directory)
    d.own_mounts.add(directory)
    try:
        yield
    finally:
        check(LIBC.umount2(directory.encode(), MNT_DETACH), directory)
        # It is over already; as a mount point this stayed.
        os.rmdir(directory)
        shutil.rmtree(d.work, ignore_errors=True)


def fill(directory):
    """Nothing more can be written into @directory; returns the file to be removed for it."""
    path = os.path.join(directory, "filler")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, b"\0" * size):
                    pass
    finally:
        os.close(fd)
    return path


def fill_names(directory):
    """No more files can be made in @directory."""
    folder = os.path.join(directory, "names")
    os.mkdir(folder)
    with contextlib.suppress(OSError):
        for i in range(1 << 20):
            os.mknod(os.path.join(folder, str(i)))
    return folder


def remove_names(folder):
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def refused(d, word, *words):
    """The command fails by its own deadline, and says @word. What it says."""
    result = d(*SOON, *words)
    text = result.stderr.lower()
    assert result.returncode != 0 and word.lower() in text, (words, result)
    return result.stderr


def goes_on(d):
    """Containers run, nothing is left of what failed, and the log is whole."""
    end = time.monotonic() + 30
    wait_for(lambda: d("run", "--rm", "busybox", "again", "sh", "-c", "exit 5").returncode == 5, "containers run")
    wait_for(lambda: not [o for s in ("container", "image", "task") for o in d.call(s + ".operations").get("operations", [])],
             "no operation is under way")
    clean = wait_for(lambda: [r for r in [d("fsck")] if not r.returncode or time.monotonic() > end], "fsck finds nothing")
    assert clean[0].returncode == 0, clean[0].stdout.decode()
    check_log(d.events())


def use_up(d):
    """Also the pages that stores have within their files."""
    made = ["n%d" % i for i in range(1000)]
    for i, name in enumerate(made):
        result = d(*SOON, "namespaces", "create", name, "a=" + "x" * 3000)
        if result.returncode:
            assert NO_SPACE in result.stderr.lower(), result
            return
    raise AssertionError("the disk is not full")


# ---- containers that end when a file appears ----

def start_ending(d, codes):
    """Of each name one that ends with its code; the processes to watch."""
    os.makedirs(d.work + "/flags")
    waiting = list(codes.items())
    while waiting:
        group, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        clients = [d.start("run", "-d", "--null-io", "--mount", "type=bind,src=%s/flags,dst=/flags,options=rbind" % d.work,
                           "busybox", name, "sh", "-c", "while [ ! -e /flags/%s ]; do sleep 0.2; done; exit %d" % (name, code))
                   for name, code in group]
        for client in clients:
            _, err = client.communicate(timeout=60)
            assert client.returncode == 0, err
    pids = [t["pid"] for t in d.json("tasks", "ls") if t["container_id"] in codes]
    assert len(pids) == len(codes)
    return pids


def end_all(d, codes, pids):
    """They have ended; only their shims know."""
    for name in codes:
        open(d.work + "/flags/" + name, "w").close()
    wait_for(lambda: not [p for p in pids if Davit.is_alive(p)], "all have ended")


def exits(d):
    return [(e["event"]["id"], e["event"]["exit_status"], e["event"]["source"])
            for e in d.events() if e["topic"] == "/tasks/exit"]


def check_exits(d, codes):
    """Each once, as it was."""
    wait_for(lambda: {e[0] for e in exits(d)} >= set(codes), "all exits are in the log")
    found = [e for e in exits(d) if e[0] in codes]
    assert sorted(found) == sorted((name, code, "observed") for name, code in codes.items()), found
    check_log(d.events())
    d.check("rm", *codes)


def test_exits_while_the_disk_is_full_are_in_the_log_with_their_codes():
    d = Davit()
    with small_disk(d, d.root, b"size=64m"), d:
        d.import_busybox()
        codes = {"c%d" % i: i + 1 for i in range(N_ENDING)}
        pids = start_ending(d, codes)
        begin = time.monotonic()
        filler = fill(d.root)
        use_up(d)
        new = d.start(*SOON, "run", "--rm", "busybox", "new", "true")
        refused(d, NO_SPACE, "images", "import", os.path.join(d.work, "busybox.tar"))
        # What reads goes on.
        assert {t["container_id"] for t in d.json("tasks", "ls") if t["status"] == "RUNNING"} >= set(codes)
        end_all(d, codes, pids)
        time.sleep(DOWN)
        os.unlink(filler)
        said = [line.split(" ", 1)[1] for line in log_of(d).decode().splitlines() if "not written" in line or "are refused" in line]
        assert len(said) <= len(set(said)) * (1 + int((time.monotonic() - begin) / 60)), said
        _, err = new.communicate(timeout=60)
        # It may have found pages that others had freed.
        assert new.returncode == 0 or NO_SPACE in err.lower(), (new.returncode, err)
        check_exits(d, codes)
        goes_on(d)


def test_exits_while_all_of_davit_is_down_are_in_the_log_with_their_codes():
    with Davit() as d:
        d.import_busybox()
        codes = {"c%d" % i: i + 1 for i in range(N_ENDING)}
        pids = start_ending(d, codes)
        os.kill(d.supervisor(), signal.SIGKILL)
        d.kill(*PROCESSES)
        end_all(d, codes, pids)
        time.sleep(DOWN)  # the minute of the promise
        d.up()
        check_exits(d, codes)
        goes_on(d)


# ---- the state directory ----

def test_a_full_disk_under_the_state_refuses_what_is_new():
    d = Davit()
    with small_disk(d, d.state, b"size=24m,nr_inodes=2000"), d:
        d.import_busybox()
        codes = {"old": 7}
        pids = start_ending(d, codes)
        filler = fill(d.state)
        refused(d, NO_SPACE, "run", "--rm", "busybox", "new", "true")
        assert [t["container_id"] for t in d.json("tasks", "ls")] == ["old"]
        end_all(d, codes, pids)
        os.unlink(filler)
        check_exits(d, codes)
        # There is room, but not for another file or FIFO.
        folder = fill_names(d.state)
        refused(d, NO_SPACE, "run", "--rm", "busybox", "new", "true")
        refused(d, NO_SPACE, "run", "-d", "--null-io", "busybox", "new", "true")
        remove_names(folder)
        goes_on(d)


# ---- descriptors ----

@contextlib.contextmanager
def few_fds(pid):
    """It has as many open files as it may have; what starts instead of it may have more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir("/proc/%d/fd" % pid)), before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def log_of(d):
    with open(os.path.join(d.state, "up.log"), "rb") as f:
        return f.read()


def check_shim(d):
    codes = {"old": 7}
    pids = start_ending(d, codes)
    with few_fds(d.pid("davit-shim")):
        refused(d, NO_FDS, "exec", "old", "true")
        (task,) = d.json("tasks", "ls")
        assert task["status"] == "RUNNING", task
    assert d("exec", "old", "sh", "-c", "exit 3").returncode == 3
    end_all(d, codes, pids)
    wait_for(lambda: [e for e in exits(d) if e[0] == "old"] == [("old", 7, "observed")], "its exit is in the log")
    d.check("rm", "old")


def check_service(d, program):
    size = len(log_of(d))
    with few_fds(d.pid(program)):
        result = d(*SOON, "run", "--rm", "busybox", "new", "true")
        text = result.stderr + log_of(d)[size:]
        # The image service needs none for what it has at hand; one that cannot be connected to is waited for.
        assert result.returncode == 0 or NO_FDS in text or b"deadline" in text, (program, result, text)
    goes_on(d)


def check_broker(d):
    with few_fds(d.pid("davit-broker")), contextlib.ExitStack() as peers:
        # More than it may have closed meanwhile.
        for _ in range(48):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            with contextlib.suppress(BlockingIOError):
                peer.connect(d.state + "/bus.sock")
        wait_for(lambda: b"no connection can be taken: " + NO_FDS in log_of(d), "the broker says so")
    goes_on(d)


def test_without_descriptors_the_reason_is_told_and_all_goes_on_when_there_are_some():
    with Davit() as d:
        d.import_busybox()
        check_shim(d)
        for program in ("davit-task", "davit-image", "davit-runtime"):
            check_service(d, program)
        check_broker(d)


# ---- memory ----

MEMORY = "/sys/fs/cgroup/memory" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup"
LIMIT, USED = ("memory.limit_in_bytes", "memory.usage_in_bytes") if MEMORY.endswith("memory") else ("memory.max", "memory.current")
KILLS = ("memory.oom_control", "oom_kill ") if MEMORY.endswith("memory") else ("memory.events", "oom_kill ")
STEP = 256 << 10
N_CALLERS, SECONDS = 4, 3


def enter(group, pid=0):
    with open(os.path.join(group, "cgroup.procs"), "w") as f:
        f.write(str(pid))


def own_memory_group():
    own = "/"
    with open("/proc/self/cgroup") as f:
        for line in f:
            _, controllers, path = line.strip().split(":", 2)
            if controllers in ("memory", "") and (controllers or MEMORY == "/sys/fs/cgroup"):
                own = path
    return os.path.join(MEMORY, own.lstrip("/"))


@contextlib.contextmanager
def small_memory(d):
    """All of davit's processes but who starts them again are in one cgroup, with what starts a container; yields its directory."""
    group, before = os.path.join(MEMORY, os.path.basename(d.work)), own_memory_group()
    os.mkdir(group)
    enter(group)
    try:
        d.up()
    finally:
        enter(before)
    enter(before, d.supervisor())
    try:
        yield group
    finally:
        d.down("--containers")
        wait_for(lambda: not open(os.path.join(group, "cgroup.procs")).read(), "nothing is in %s" % group)
        os.rmdir(group)


def set_limit(group, limit):
    with contextlib.suppress(OSError), open(os.path.join(group, LIMIT), "w") as f:  # busy: nothing more can be taken back
        f.write(limit)


def n_killed(group):
    with open(os.path.join(group, KILLS[0])) as f:
        return int(f.read().split(KILLS[1])[1].split()[0])


def tighten(group, end):
    """Less and less, until the kernel cannot do without killing."""
    with open(os.path.join(group, USED)) as f:
        limit = int(f.read())
    while time.monotonic() < end and n_killed(group) < 3:
        limit -= STEP
        set_limit(group, str(limit))
        time.sleep(0.05)


def run_until(d, end, caller, results):
    number = 0
    while time.monotonic() < end:
        number += 1
        results.append(d("run", "--rm", "busybox", "c%d-%d" % (caller, number), "sh", "-c", "exit 3", seconds=120))


def test_the_kernel_ends_one_or_the_other_for_want_of_memory_and_no_run_is_lost():
    """Each run ends with its own code, or says why it could not begin."""
    if not os.path.exists(os.path.join(MEMORY, LIMIT)) and MEMORY == "/sys/fs/cgroup" and "memory" not in open(
            MEMORY + "/cgroup.subtree_control").read():
        print("no memory controller here")
        return
    d, results = Davit(), []
    try:
        with small_memory(d) as group:
            d.import_busybox()
            end = time.monotonic() + SECONDS
            callers = [threading.Thread(target=run_until, args=(d, end, i, results)) for i in range(N_CALLERS)]
            for caller in callers:
                caller.start()
            tighten(group, end)
            for caller in callers:
                caller.join()
            set_limit(group, "-1" if MEMORY.endswith("memory") else "max")
            for result in results:
                assert result.returncode == 3 or result.returncode == 125 and result.stderr.startswith(b"davit: "), result
            assert [r for r in results if r.returncode == 3], results
            goes_on(d)
            with open(os.path.join(d.state, "up.log")) as f:
                print("%d runs, %d processes of davit killed" % (len(results), f.read().count("was killed by signal 9")))
    except BaseException:
        d.print_log()
        raise
    finally:
        d.end()


if __name__ == "__main__":
    main(globals())
