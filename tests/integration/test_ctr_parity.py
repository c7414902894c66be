#!/usr/bin/env python3
"""The same command lines given to davit and to Debian's ctr, each with a root, state and socket of the test's own:
the same outputs, states and exit codes. Where davit means to differ, the row says how."""

import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import mounted  # noqa: E402
from davit import DEADLINE, Davit, main, wait_for  # noqa: E402
from registry import Registry  # noqa: E402

IMAGE = "docker.io/library/busybox:latest"
NAMESPACE = "davit-test-%d" % os.getpid()  # of ctr; runc leaves a cgroup of that name


class Containerd:
    """Debian's containerd, in a directory that ends with it."""

    def __init__(self, work, archive):
        self.work, self.process = os.path.join(work, "containerd"), None
        self.socket = os.path.join(self.work, "c.sock")
        os.makedirs(self.work)
        self.config = os.path.join(self.work, "config.toml")
        with open(self.config, "w") as f:
            f.write('version = 2\nroot = "%s/root"\nstate = "%s/state"\n'
                    'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n'
                    # What ctr ingests, nothing holds: no collection by itself comes in between.
                    '[plugins."io.containerd.gc.v1.scheduler"]\nschedule_delay = "1h"\nstartup_delay = "1h"\n'
                    % (self.work, self.work, self.socket))
        self.archive = archive

    def __enter__(self):
        with open(os.path.join(self.work, "log"), "w") as log:
            self.process = subprocess.Popen(["containerd", "-c", self.config], stdout=log, stderr=log)
        try:
            wait_for(lambda: self("version").returncode == 0, "containerd answers", 30)
            assert self("images", "import", self.archive).returncode == 0
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AssertionError):
            for line in self("tasks", "ls", "-q").stdout.decode().split():
                self("tasks", "rm", "-f", line)
        self.process.terminate()
        self.process.wait(30)
        for made in glob.glob("/sys/fs/cgroup/*/" + NAMESPACE) + glob.glob("/sys/fs/cgroup/" + NAMESPACE):
            os.rmdir(made)

    def __call__(self, *words, seconds=DEADLINE, stdin=subprocess.DEVNULL, **options):
        return subprocess.run(["ctr", "-a", self.socket, "-n", NAMESPACE] + list(words), stdin=None if "input" in options else stdin,
                              capture_output=True, timeout=seconds, **options)


def normal(text):
    """Numbers that differ by nature, blanks and the colours of logs."""
    text = re.sub(r"\d{3,}", "N", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


class Pair:
    def __init__(self, davit, containerd):
        self.davit, self.containerd = davit, containerd

    def both(self, *words, code=None, **options):
        """Runs it with both; the exit code is @code with davit when that is given, else that of ctr."""
        ours, theirs = self.davit(*words, **options), self.containerd(*words, **options)
        told = "%s\ndavit: %s\nctr: %s" % (" ".join(words), ours, theirs)
        assert ours.returncode == (theirs.returncode if code is None else code), told
        assert bool(ours.returncode) == bool(theirs.returncode), told
        return ours, theirs

    def same(self, *words, **options):
        """… and the output is the same."""
        ours, theirs = self.both(*words, **options)
        assert normal(ours.stdout.decode()) == normal(theirs.stdout.decode()), \
            "%s\ndavit: %s\nctr: %s" % (" ".join(words), ours, theirs)
        return ours

    def state(self, status, container="web"):
        """Both list the task with it, once they have seen what happened."""
        for tool in (self.davit, self.containerd):
            wait_for(lambda t=tool: [line.split()[2] for line in t("tasks", "ls").stdout.decode().splitlines()
                                     if line.startswith(container + " ")] == ([status] if status else []),
                     "%s is %s" % (container, status), 20)
        self.same("tasks", "ls")


@contextlib.contextmanager
def pair():
    if not (shutil.which("containerd") and shutil.which("ctr") and shutil.which("runc")):
        raise AssertionError("containerd and runc are not installed (tools/packages.sh test)")
    with Davit() as d:
        d.import_busybox(IMAGE)
        with Containerd(d.work, os.path.join(d.work, "busybox.tar")) as c:
            yield Pair(d, c)


def test_run_gives_the_same_output_and_code():
    with pair() as p:
        result = p.same("run", "--rm", IMAGE, "c1", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 7), result
        # Not cat: ctr never ends a container's input.
        p.same("run", "--rm", IMAGE, "c1", "head", "-n", "1", input=b"from stdin\n")
        p.same("run", "--rm", IMAGE, "c1", "sh", "-c", "kill -9 $$")
        p.same("run", "--rm", "--env", "A=b", "--cwd", "/tmp", IMAGE, "c1", "sh", "-c", "echo $A; pwd; id -u; hostname -f",
               code=None)
        # Of containerd's shim for runc neither, but ours says so.
        ours, _ = p.both("run", "--rm", "--runtime-config-path", "/no/such", IMAGE, "c1", "true", code=0)
        assert b"--runtime-config-path /no/such is not used" in ours.stderr, ours
        # ctr has 1 for every failure of its own.
        p.both("run", "--rm", IMAGE, "c1", "/no/such", code=127)
        p.both("run", "--rm", "no-such-image", "c1", "true", code=125)
        p.same("containers", "ls", "-q")
        p.same("tasks", "ls")


def test_a_detached_container_lives_the_same_life():
    with pair() as p:
        p.same("run", "-d", IMAGE, "web", "sleep", "1000")
        p.state("RUNNING")
        p.same("containers", "ls", "-q")
        p.both("run", "-d", IMAGE, "web", "true", code=125)
        p.same("tasks", "ps", "web")
        p.same("tasks", "pause", "web")
        p.state("PAUSED")
        p.same("tasks", "resume", "web")
        p.state("RUNNING")
        p.both("containers", "rm", "web")
        p.same("tasks", "kill", "-s", "KILL", "web")
        p.state("STOPPED")
        p.both("tasks", "kill", "web")
        p.both("tasks", "pause", "web")
        p.both("tasks", "exec", "--exec-id", "late", "web", "true", code=125)
        p.same("tasks", "rm", "web")
        p.state(None)
        p.both("tasks", "kill", "web")
        p.same("tasks", "start", "-d", "web")
        p.state("RUNNING")
        p.same("tasks", "rm", "-f", "web")
        p.state(None)
        p.same("containers", "rm", "web")
        p.same("containers", "ls", "-q")
        p.both("containers", "rm", "web")


def test_a_signal_that_is_caught_gives_the_same_end():
    with pair() as p:
        script = "trap 'exit 5' TERM; while :; do sleep 0.05; done"
        p.same("run", "-d", IMAGE, "web", "sh", "-c", script)
        p.state("RUNNING")
        for tool in (p.davit, p.containerd):
            wait_for(lambda t=tool: caught(t), "the trap is set")
        p.same("tasks", "kill", "web")
        p.state("STOPPED")
        ours, theirs = p.both("tasks", "rm", "web")
        assert b"code 5" in ours.stderr and b"code 5" in theirs.stderr, (ours, theirs)
        p.same("containers", "rm", "web")


def caught(tool):
    """Whether the shell in web catches SIGTERM."""
    pid = tool("tasks", "ls").stdout.decode().splitlines()[1].split()[1]
    with open("/proc/%s/status" % pid) as f:
        (mask,) = [line.split()[1] for line in f if line.startswith("SigCgt:")]
    return int(mask, 16) >> 14 & 1


def test_exec_gives_the_same_output_and_code():
    with pair() as p:
        p.same("run", "-d", IMAGE, "web", "sleep", "1000")
        result = p.same("tasks", "exec", "--exec-id", "e1", "web", "sh", "-c", "echo hi; echo no >&2; exit 3")
        assert (result.stdout, result.stderr, result.returncode) == (b"hi\n", b"no\n", 3), result
        p.same("tasks", "exec", "--exec-id", "e1", "web", "head", "-n", "1", input=b"again\n")
        p.same("tasks", "exec", "--exec-id", "e2", "--cwd", "/tmp", "--user", "daemon", "web", "sh", "-c", "pwd; id -un")
        p.both("tasks", "exec", "--exec-id", "e3", "web", "/no/such", code=127)
        p.both("tasks", "exec", "--exec-id", "e3", "nowhere", "true", code=125)
        p.same("tasks", "exec", "-d", "--exec-id", "bg", "web", "sleep", "1000")
        ours, theirs = p.both("tasks", "ps", "web")
        assert [len(r.stdout.splitlines()) for r in (ours, theirs)] == [3, 3], (ours, theirs)
        assert all(b"bg" in r.stdout for r in (ours, theirs)), (ours, theirs)
        p.same("tasks", "kill", "--exec-id", "bg", "-s", "KILL", "web")
        for tool in (p.davit, p.containerd):
            wait_for(lambda t=tool: len(t("tasks", "ps", "web").stdout.splitlines()) == 2, "bg has ended")
        p.same("tasks", "rm", "--exec-id", "bg", "web")
        p.same("tasks", "rm", "-f", "web")
        p.same("containers", "rm", "web")


def on_a_terminal(tool, *words):
    """Through script(1), which gives a terminal: the output and the code."""
    base = tool.base if isinstance(tool, Davit) else ["ctr", "-a", tool.socket, "-n", NAMESPACE]
    env = tool.env if isinstance(tool, Davit) else None
    result = subprocess.run(["script", "-qec", " ".join(base + list(words)), "/dev/null"], env=env,
                            input=b"", capture_output=True, timeout=DEADLINE)
    # Without what script(1) types at its end, and the second \\r: ctr's raw mode still has the output processed.
    text = re.sub(rb"\x00|\^@|\x04|\^D\x08\x08", b"", result.stdout).replace(b"\r\r\n", b"\r\n")
    # On a slow machine ctr finds the process ended when it comes to its first resize, and says so.
    return result.returncode, b"".join(line for line in text.splitlines(True) if b"resize pty" not in line)


def test_a_terminal_is_the_same():
    with pair() as p:
        p.same("run", "-d", IMAGE, "web", "sleep", "1000")
        for words in (["tasks", "exec", "-t", "--exec-id", "t1", "web", "sh", "-c", "'tty; sleep 0.2; exit 6'"],
                      ["run", "--rm", "-t", IMAGE, "t2", "sh", "-c", "'tty; sleep 0.2; exit 6'"]):
            results = [on_a_terminal(tool, *words) for tool in (p.davit, p.containerd)]
            assert results[0] == results[1], results
            assert results[0][0] == 6 and b"/dev/" in results[0][1], results
        p.same("tasks", "rm", "-f", "web")
        p.same("containers", "rm", "web")


def attach(tool):
    """The last line of what an attached client sees, and its code. What starts before it is there is not of interest."""
    base = tool.base if isinstance(tool, Davit) else ["ctr", "-a", tool.socket, "-n", NAMESPACE]
    client = subprocess.Popen(base + ["tasks", "attach", "web"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    assert client.stdout.readline() == b"tick\n"
    tool("tasks", "exec", "--exec-id", "go", "web", "touch", "/tmp/go")  # init may end, and it with it, before it has said so
    out, err = client.communicate(timeout=DEADLINE)
    return client.returncode, out.splitlines()[-1], err


def test_attach_gives_the_output_and_the_code():
    with pair() as p:
        script = "until [ -e /tmp/go ]; do echo tick; sleep 0.05; done; echo late; exit 4"
        p.both("run", "-d", IMAGE, "web", "sh", "-c", script)
        p.state("RUNNING")
        results = [attach(tool) for tool in (p.davit, p.containerd)]
        assert results[0] == results[1] == (4, b"late", b""), results
        p.both("tasks", "attach", "nowhere", code=125)
        p.davit("tasks", "rm", "web")  # ctr's attach deletes it, davit's leaves it for logs and other clients
        p.state(None)
        p.same("containers", "rm", "web")


def test_metrics_have_the_same_rows():
    with pair() as p:
        p.same("run", "-d", IMAGE, "web", "sleep", "1000")
        ours, theirs = p.both("tasks", "metrics", "web")
        rows = [dict(line.split()[:2] for line in r.stdout.decode().splitlines() if line.strip()) for r in (ours, theirs)]
        assert set(rows[1]) - set(rows[0]) <= {"cpuacct.usage_percpu"}, rows
        for name in rows[1]:
            assert "limit" not in name or rows[0][name] == rows[1][name], (name, rows)
        p.same("tasks", "rm", "-f", "web")
        p.same("containers", "rm", "web")


def test_a_checkpoint_without_criu_fails_the_same_and_the_container_runs_on():
    if shutil.which("criu"):
        return
    with pair() as p:
        p.same("run", "-d", IMAGE, "web", "sleep", "1000")
        ours, theirs = p.both("tasks", "checkpoint", "--image-path", os.path.join(p.davit.work, "image"), "web")
        assert ours.stderr and theirs.stderr, (ours, theirs)
        p.state("RUNNING")
        p.same("tasks", "rm", "-f", "web")
        p.same("containers", "rm", "web")


def test_a_checkpoint_with_a_criu_that_works_is_made_by_both():
    if not shutil.which("criu") or subprocess.run(["criu", "check"], capture_output=True).returncode:
        print("no criu that works: not tried")
        return
    with pair() as p:
        p.same("run", "-d", "--runtime", "io.containerd.runc.v2", IMAGE, "web", "sleep", "1000")
        for tool, name in ((p.davit, "ours"), (p.containerd, "theirs")):
            images = os.path.join(p.davit.work, name)
            os.mkdir(images)
            result = tool("tasks", "checkpoint", "--image-path", images, "web")
            assert result.returncode == 0 and "inventory.img" in os.listdir(images), (name, result)
        p.state("RUNNING")
        p.same("tasks", "rm", "-f", "web")
        p.same("containers", "rm", "web")


def test_objects_are_edited_fetched_and_pushed_the_same():
    with pair() as p, Registry() as r:
        both = (p.davit, p.containerd)
        one, other = b"one\n", b"other\n"
        for tool in both:
            assert tool("content", "ingest", "k", "--expected-digest", layers.digest(one), input=one).returncode == 0
        # An editor that writes in place: of one that puts a new file there ctr 1.6 reads the old one.
        assert p.same("content", "edit", "--editor", "echo other >", layers.digest(one)).stdout.decode().strip() == \
            layers.digest(other)
        p.both("content", "edit", "--editor", "false", layers.digest(one))
        p.both("content", "edit", "--editor", "true", "sha256:" + 64 * "1")
        for tool, name in zip(both, ("davit", "ctr")):
            result = tool("content", "push-object", "--plain-http", "%s/t/%s:1" % (r.host, name), layers.digest(other), "a/b")
            assert result.returncode == 0 and result.stdout.decode() == "Pushed %s a/b\n" % layers.digest(other), result
        p.both("content", "push-object", "--plain-http", r.host + "/t/a:1", "sha256:" + 64 * "1", "a/b")
        p.both("content", "push-object", "--plain-http", r.host + "/t/a:1", "word", "a/b")
        # davit: what is there already is no failure, and a blob of the repository can be asked for by its digest.
        p.davit.check("content", "push-object", "--plain-http", r.host + "/t/ctr:1", layers.digest(other), "a/b")
        assert p.davit.check("content", "fetch-object", "--plain-http", r.host + "/t/ctr", layers.digest(other)).encode() == other
        p.davit.check("images", "push", "--plain-http", r.host + "/t/image:1", IMAGE)
        ours, theirs = p.both("content", "fetch-object", "--plain-http", r.host + "/t/image:1")
        assert ours.stdout == theirs.stdout and ours.stdout.startswith(b"{"), (ours, theirs)
        p.both("content", "fetch-object", "--plain-http", r.host + "/t/image:none")


if __name__ == "__main__":
    # What containerd's shims, runc and ctr's FIFOs keep is there whatever root and state say, by namespace and name.
    with mounted.empty("/run/containerd"):
        main(globals())
