"""A davit of the test's own: private root and state, started and stopped by the test, checked for leaks at the end.

    with Davit() as d:
        d.import_busybox()
        result = d("run", "--rm", "busybox", "b1", "true")

Every wait has a deadline; nothing sleeps in the hope that something has happened by then.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("BUILD") or os.path.join(TOP, "build")
BIN = os.path.join(BUILD, "bin")
DEADLINE = 60
SERVICES = ["davit-runtime", "davit-image", "davit-task", "davit-container"]
PROCESSES = ["davit-broker"] + SERVICES


PIDFD_GET_INFO = 0xC040FF0B  # linux/pidfd.h: of 64 bytes, which begin with a mask
PIDFD_INFO_EXIT = 8


def kernel_tells_exits():
    """Whether a pidfd tells how a process ended that somebody else has reaped: since Linux 6.15."""
    pid = os.fork()
    if not pid:
        os._exit(3)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    info = bytearray(PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder) + bytes(56))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return bool(info[0] & PIDFD_INFO_EXIT)


TELLS_EXITS = kernel_tells_exits()


def adopted(code):
    """Exit of a process whose parent was a shim that died: its status and source."""
    return (code, "observed") if TELLS_EXITS else (255, "unknown")


def wait_for(condition, what, seconds=DEADLINE):
    """Polls something that has no event (a process table, a mount table) until it holds."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("still not so after %d s: %s" % (seconds, what))
        time.sleep(0.01)


def command_lines():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                yield int(pid), f.read().decode(errors="replace").split("\0")[:-1]
        except OSError:
            pass


class Davit:
    def __init__(self, keep_log=True, up=()):
        self.work = tempfile.mkdtemp(prefix="dv-", dir="/tmp")
        self.root, self.state = os.path.join(self.work, "r"), os.path.join(self.work, "s")
        self.base = [os.path.join(BIN, "davit"), "--root", self.root, "--state", self.state]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("DAVIT_")}
        self.is_up = False
        self.up_words = list(up)
        self.own_mounts = set()  # of the test, which takes them away itself

    # ---- life ----
    def up(self):
        self.check("up", "--detach", *self.up_words)
        self.is_up = True
        return self

    def boot(self):
        """Starts it with another boot id. What lay in the state directory may be there still: /run need not be a tmpfs."""
        path = os.path.join(self.work, "boot_id")
        with open(path, "w") as f:
            f.write(str(uuid.uuid4()) + "\n")
        script = 'mount --bind %s /proc/sys/kernel/random/boot_id && exec "$@"' % path
        plain, self.base = self.base, ["unshare", "-m", "sh", "-c", script, "sh"] + self.base
        try:
            self.up()
        finally:
            self.base = plain

    def down(self, *options):
        self.check("down", *options)
        self.is_up = False

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.print_log()
            self.end()
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.check_clean()
        except BaseException:
            self.print_log()
            raise
        finally:
            if kind is not None:
                self.print_log()
            self.end()

    def end(self):
        if self.is_up:
            self("down", "--containers", seconds=60)
        for pid, words in list(command_lines()):
            if self.state in " ".join(words) and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.work, ignore_errors=True)

    def print_log(self):
        path = os.path.join(self.state, "up.log")
        if os.path.exists(path):
            with open(path, errors="replace") as f:
                sys.stderr.write("--- up.log\n" + "".join(f.readlines()[-60:]))

    # ---- commands ----
    def __call__(self, *words, seconds=DEADLINE, stdin=subprocess.DEVNULL, **options):
        return subprocess.run(self.base + list(words), stdin=None if "input" in options else stdin,
                              capture_output=True, timeout=seconds, env=self.env, **options)

    def run_with(self, paths, *words):
        """Of other directories."""
        return subprocess.run(self.base[:1] + list(paths) + list(words), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=DEADLINE, env=self.env)

    def check(self, *words, **options):
        """The command's output; fails when its exit code is not 0."""
        result = self(*words, **options)
        assert result.returncode == 0, "%s: exit code %d\n%s%s" % (
            " ".join(words), result.returncode, result.stdout.decode(errors="replace"),
            result.stderr.decode(errors="replace"))
        return result.stdout.decode()

    def start(self, *words, **options):
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.base + list(words), env=self.env, **dict(streams, **options))

    def json(self, *words):
        return json.loads(self.check(*words, "--format", "json"))

    def call(self, method, *words):
        return json.loads(self.check("bus", "call", method, *words))

    def unpublished(self, service):
        """Events that a service has stored and the broker has not acknowledged; 0 if it does not answer."""
        result = self("--timeout", "2s", "bus", "call", service + ".stats")
        return 0 if result.returncode else json.loads(result.stdout).get("outbox", 0)

    def events(self, *words):
        """Those of all that was answered before: a service answers when they are stored, and publishes them then."""
        end = time.monotonic() + 10
        while any(self.unpublished(s) for s in ("image", "container", "task")) and time.monotonic() < end:
            time.sleep(0.02)
        lines = self.check("events", "--from", "1", "--no-follow", "--format", "json", *words).splitlines()
        return [json.loads(line) for line in lines]

    def import_busybox(self, name="docker.io/library/busybox:latest"):
        path = os.path.join(self.work, "busybox.tar")
        subprocess.run([sys.executable, os.path.join(TOP, "tools", "examples", "make-image.py"), "--name", name, path],
                       check=True)
        self.check("images", "import", path)

    # ---- processes ----
    def supervisor(self):
        with open(os.path.join(self.state, "up.lock")) as f:
            return int(f.read())

    def pids(self, program):
        """Processes of this davit that run @program."""
        return [pid for pid, words in command_lines()
                if words and os.path.basename(words[0]) == program and self.state in words]

    def pid(self, program):
        """Of the one there is: a child that is being spawned looks like its parent until it has become its program."""
        return wait_for(lambda: [pids[0] for pids in [self.pids(program)] if len(pids) == 1], program)[0]

    def kill(self, *programs):
        """SIGKILL; returns when they are gone (their successors may be there already)."""
        pids = [pid for program in programs for pid in self.pids(program)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not [p for p in pids if os.path.exists("/proc/%d" % p) and self.is_alive(p)], "killed")
        return pids

    @contextlib.contextmanager
    def without_task_service(self):
        """The task service is killed, and comes back afterwards."""
        up = self.supervisor()
        os.kill(up, signal.SIGSTOP)
        try:
            pid = self.pid("davit-task")
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not self.is_alive(pid), "it has ended")
            yield
        finally:
            os.kill(up, signal.SIGCONT)

    def lose_task_store(self):
        """What the task service wrote into the state directory is gone when it comes back."""
        with self.without_task_service():
            shutil.rmtree(self.state + "/task")

    @staticmethod
    def is_alive(pid):
        try:
            with open("/proc/%d/stat" % pid) as f:
                return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    # ---- leaks ----
    def leftovers(self):
        """What a davit without containers must not have: shims, mounts, cgroups, bundles, FIFOs, container snapshots."""
        found = ["process %d %s" % (pid, words[0]) for pid, words in command_lines()
                 if words and self.state in " ".join(words) and
                 os.path.basename(words[0]) in ("davit-shim", "crun", "runc", "davit-image-work")]
        with open("/proc/self/mountinfo") as f:
            found += ["mount " + target for target in (line.split()[4] for line in f)
                      if self.work in target and target not in self.own_mounts]
        for top in ("bundles", "fifo", "s", "oci"):
            for folder, _, files in os.walk(os.path.join(self.state, top)):
                found += [os.path.join(folder, name) for name in files]
        hashed = [os.path.join(folder, d) for folder, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs
                  if self.cgroup() and d == self.cgroup()]
        for folder in hashed:
            for inner, dirs, _ in os.walk(folder):
                found += ["cgroup " + os.path.join(inner, d) for d in dirs if inner.count("/") > folder.count("/")]
        if self.is_up:
            found += ["snapshot " + s["key"] for s in self.json("snapshots", "ls") if s["kind"] != "committed"]
            found += ["container " + c["id"] for c in self.json("containers", "ls")]
        return found

    def cgroup(self):
        """davit-<8 hex> of this state directory, as the specs name it."""
        return getattr(self, "cgroup_name", None)

    def note_cgroup(self, container):
        spec = json.loads(self.check("containers", "info", "--spec", container))
        self.cgroup_name = spec["linux"]["cgroupsPath"].strip("/").split("/")[0]

    def check_clean(self):
        try:
            wait_for(lambda: not self.leftovers(), "nothing is left", 20)
        except AssertionError:
            raise AssertionError("left behind: " + ", ".join(self.leftovers()))


def check_log(events):
    """Numbers without a gap; for each task created < started < exit < deleted, each at most once."""
    numbers = [e["seq"] for e in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "numbers have a gap or stand twice"
    order = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    tasks = {}
    for event in events:
        added = event["topic"] == "/tasks/exit" and event["event"]["id"] != event["event"]["container_id"]
        if event["topic"] in order and not added:
            tasks.setdefault(event["event"].get("task_id"), []).append(event["topic"])
    for task, topics in tasks.items():
        ranks = [order.index(t) for t in topics]
        assert ranks == sorted(set(ranks)), "task %s: %s" % (task, topics)
    return tasks


def main(namespace):
    """Runs each test_… function of a module; a name as argument selects."""
    wanted = sys.argv[1:]
    failed = 0
    for name, test in list(namespace.items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        begin = time.monotonic()
        try:
            test()
            print("ok %s (%.1f s)" % (name, time.monotonic() - begin), flush=True)
        except Exception:  # noqa: BLE001  every failure is reported, the rest still runs
            failed += 1
            import traceback
            traceback.print_exc()
            print("FAILED " + name, flush=True)
    sys.exit(1 if failed else 0)
