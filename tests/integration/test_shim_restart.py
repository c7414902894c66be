#!/usr/bin/env python3
"""A shim dies in any state of its container: another takes it over, and every exit is true or marked unknown."""

import json
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import TELLS_EXITS, Davit, adopted, check_log, command_lines, main, wait_for  # noqa: E402

COUNT = 200 if os.environ.get("SLOW") else 40


def status(d, name="web"):
    return d.call("task.get", "container_id=" + name)["process"]["status"]


def kill_shim(d, then, name="web"):
    """SIGKILLs the shim, and waits until another one has taken over and the task is as it was."""
    pid = d.call("task.get", "container_id=" + name)["process"]["shim_pid"]
    os.kill(pid, signal.SIGKILL)

    def taken_over():
        process = d.call("task.get", "container_id=" + name)["process"]
        return process["status"] == then and process.get("shim_pid", pid) != pid
    wait_for(taken_over, "the task is %s again" % then)


def execute(d, name, code, container="web"):
    d.call("task.exec", "container_id=" + container, "exec_id=" + name, "start=true", "args=sh", "args=-c",
           "args=exit %d" % code)
    return exit_of(d, name, container)


def exit_of(d, name, container="web"):
    def ended():
        reply = d.call("task.wait", "container_id=" + container, "exec_id=" + name)
        return reply["exit"] if reply["exited"] else None
    exit = wait_for(ended, name + " has ended")
    return exit["exit_status"], exit["source"]


def run(d, *command, options=()):
    d.check("run", "-d", *options, "busybox", "web", *command)
    return d.json("tasks", "ls")[0]["pid"]


def test_a_running_one_is_taken_over_with_its_processes():
    with Davit() as d:
        d.import_busybox()
        pid = run(d, "sh", "-c", "trap 'exit 21' TERM; while :; do sleep 0.02; done")
        d.call("task.exec", "container_id=web", "exec_id=long", "start=true", "args=sh", "args=-c",
               "args=trap 'exit 22' TERM; while :; do sleep 0.02; done")
        time.sleep(0.3)  # until both have their traps
        for i in range(3):
            kill_shim(d, "RUNNING")
            assert Davit.is_alive(pid)
            assert execute(d, "e%d" % i, 30 + i) == (30 + i, "observed")
        assert d.call("task.get", "container_id=web", "exec_id=long")["process"]["status"] == "RUNNING"
        d.call("task.kill", "container_id=web", "exec_id=long", "signal=15")
        assert exit_of(d, "long") == adopted(22)
        d.check("kill", "web")
        assert d("wait", "web").stdout == b"%d\n" % adopted(21)[0]
        d.check("rm", "web")
        check_log(d.events())


def test_a_paused_one_is_taken_over_and_goes_on():
    with Davit() as d:
        d.import_busybox()
        run(d, "sleep", "1000")
        d.call("task.pause", "container_id=web")
        kill_shim(d, "PAUSED")
        d.call("task.resume", "container_id=web")
        assert status(d) == "RUNNING"
        assert execute(d, "e", 4) == (4, "observed")
        d.check("rm", "-f", "web")


def test_one_that_was_not_started_is_taken_over_and_started():
    with Davit() as d:
        d.import_busybox()
        for runtime in ("crun", "runc"):
            d.check("containers", "create", "--runtime", runtime, "busybox", runtime, "sh", "-c", "exit 17")
            d.call("task.create", "container_id=" + runtime)
            kill_shim(d, "CREATED", runtime)
            d.call("task.start", "container_id=" + runtime)
            assert d("wait", runtime).stdout == b"%d\n" % adopted(17)[0]
            exit = d.call("task.wait", "container_id=" + runtime)["exit"]
            assert exit["source"] == adopted(17)[1], exit
            d.check("rm", runtime)


def test_one_that_has_ended_is_still_deleted():
    with Davit() as d:
        d.import_busybox()
        run(d, "sh", "-c", "exit 5")
        assert d("wait", "web").stdout == b"5\n"
        wait_for(lambda: status(d) == "STOPPED", "it has ended")
        kill_shim(d, "STOPPED")
        assert d("wait", "web").stdout == b"5\n"
        d.check("rm", "web")


def test_an_exit_while_no_shim_lives_is_told_truly():
    with Davit() as d:
        d.import_busybox()
        for i in range(5):
            pid = run(d, "sleep", "1000")
            d.call("task.exec", "container_id=web", "exec_id=e", "start=true", "args=sleep", "args=1000")
            added = d.call("task.get", "container_id=web", "exec_id=e")["process"]["pid"]
            shim = d.call("task.get", "container_id=web")["process"]["shim_pid"]
            os.kill(shim, signal.SIGKILL)
            os.kill(added, signal.SIGTERM if i % 2 else signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            assert d("wait", "web").stdout == b"%d\n" % adopted(137)[0]
            assert exit_of(d, "e")[1] == adopted(137)[1]
            d.check("rm", "web")
        exits = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert len(exits) == 10 and all(e["source"] == adopted(137)[1] for e in exits), exits
        check_log(d.events())


def test_shim_and_task_service_die_together():
    with Davit() as d:
        d.import_busybox()
        pid = run(d, "sleep", "1000")
        d.call("task.exec", "container_id=web", "exec_id=long", "start=true", "args=sleep", "args=1000")
        for i in range(3):
            d.kill("davit-task", "davit-shim")
            wait_for(lambda: status(d) == "RUNNING", "it is taken over")
            assert Davit.is_alive(pid)
            assert execute(d, "e%d" % i, 7) == (7, "observed")
        d.call("task.kill", "container_id=web", "exec_id=long", "signal=9")
        assert exit_of(d, "long") == adopted(137)
        reply = d.call("task.stop", "container_id=web", "at_once=true")
        assert (reply["exit"]["exit_status"], reply["exit"]["source"]) == adopted(137), reply
        d.check("rm", "web")


def test_requests_under_way_when_the_shim_dies_are_answered():
    with Davit() as d:
        d.import_busybox()
        run(d, "sleep", "1000")
        outcomes = []
        for i in range(8):
            client = d.start("bus", "call", "task.exec", "container_id=web", "exec_id=e%d" % i, "start=true", "args=sh",
                             "args=-c", "args=exit %d" % (i + 1))
            time.sleep(0.008 * i)
            d.kill("davit-shim")
            out, err = client.communicate(timeout=60)
            wait_for(lambda: status(d) == "RUNNING", "it is taken over")
            outcomes.append((client.returncode, err))
            if client.returncode == 0:
                code, source = exit_of(d, "e%d" % i)
                assert (code, source) in ((i + 1, "observed"), (255, "unknown")), (i, code, source)
        started = [e["event"]["exec_id"] for e in d.events() if e["topic"] == "/tasks/exec-started"]
        assert len(started) == len(set(started)), started
        assert execute(d, "last", 3) == (3, "observed")
        d.check("rm", "-f", "web")


def numbers(d):
    """What the container has counted, from its log."""
    lines = d.check("logs", "web").replace("\r", "").split("\n")
    return [int(line) for line in lines[:-1]]


COUNTS = ("sh", "-c", "trap '' HUP; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")
COUNTS_UNTIL_IT_HANGS_UP = ("sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")


def goes_on_counting(d, deaths):
    for kill in deaths:
        before = len(numbers(d))
        kill()
        wait_for(lambda: len(numbers(d)) > before + 10, "it goes on counting")
    found = numbers(d)
    assert found == list(range(len(found))), found
    assert status(d) == "RUNNING"


def test_a_log_has_all_lines_in_order_whatever_shims_die():
    with Davit() as d:
        d.import_busybox()
        run(d, *COUNTS)
        goes_on_counting(d, [lambda: kill_shim(d, "RUNNING")] * 3 + [lambda: d.kill("davit-task", "davit-shim")] * 2)
        d.check("rm", "-f", "web")


def test_a_terminal_outlives_its_shim():
    with Davit() as d:
        d.import_busybox()
        run(d, *COUNTS_UNTIL_IT_HANGS_UP, options=("-t",))
        goes_on_counting(d, [lambda: kill_shim(d, "RUNNING")] * 3)
        d.call("task.resize", "container_id=web", "width=90", "height=30")
        d.check("rm", "-f", "web")


def is_unknown(exit):
    return (exit["source"], exit["exit_status"]) == ("unknown", 255)


def must_tell(client, code, err):
    """Its exit is the process' own, or said to be unknown; the other lines on stderr."""
    lines = err.decode().splitlines()
    rest = [line for line in lines if "is not known" not in line]
    assert client.returncode == code or (client.returncode == 255 and len(rest) < len(lines)), (client.returncode, err[-300:])
    return rest


def test_who_is_attached_sees_all_whatever_shims_die():
    with Davit() as d:
        d.import_busybox()
        line = "i=0; while test ! -e /end; do echo o$i; echo e$i >&2; i=$((i+1)); sleep 0.01; done; echo last; exit 5"
        # Attached from the start, with its own input, and later without.
        client = subprocess.Popen(d.base + ["run", "--log", "busybox", "web", "sh", "-c", line], env=d.env,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        first = [client.stdout.readline() for _ in range(3)]
        other = d.start("attach", "--no-stdin", "web", bufsize=0)
        seen = other.stdout.readline()
        for _ in range(3):
            kill_shim(d, "RUNNING")
        wait_for(lambda: d.check("logs", "web").count("\n") > 40, "some lines more")
        d("exec", "web", "touch", "/end")  # init may end, and it with it, before it has said so
        out, err = client.communicate(timeout=60)
        out = (b"".join(first) + out).decode().split()
        assert out == ["o%d" % i for i in range(len(out) - 1)] + ["last"], out[-20:]
        assert must_tell(client, 5, err) == ["e%d" % i for i in range(len(out) - 1)], err[-200:]
        later, error = other.communicate(timeout=60)
        later = (seen + later).decode().split()
        assert later == out[-len(later):] and len(later) > 5, (later[:5], out[-20:], error)
        assert not [line for line in must_tell(other, 5, error) if not line.startswith("e")], error[-300:]
        d.check("rm", "-f", "web")


def test_output_is_whole_when_the_shim_dies_before_its_client_has_seen_it():
    with Davit() as d:
        d.import_busybox()
        pid_file = os.path.join(d.work, "pid")
        client = subprocess.Popen(d.base + ["run", "--log", "--pid-file", pid_file, "busybox", "web", "sh", "-c",
                                            "echo one; sleep 2; echo two"], env=d.env,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not os.path.exists(pid_file):
            assert client.poll() is None, client.communicate()
        client.send_signal(signal.SIGSTOP)
        kill_shim(d, "RUNNING")
        client.send_signal(signal.SIGCONT)
        out, err = client.communicate(timeout=30)
        assert out == "one\ntwo\n", (out, err)
        d.check("rm", "web")


def test_input_does_not_end_with_the_shim():
    with Davit() as d:
        d.import_busybox()
        client = subprocess.Popen(d.base + ["run", "--rm", "--log", "busybox", "web", "sh", "-c", "cat; echo end"], env=d.env,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        for word in (b"one\n", b"two\n", b"three\n"):
            client.stdin.write(word)
            client.stdin.flush()
            assert client.stdout.readline() == word
            kill_shim(d, "RUNNING")
        client.stdin.write(b"four\n")
        out, err = client.communicate(timeout=60)
        assert out == b"four\nend\n" and not must_tell(client, 0, err), (out, err)


# crun, but an exec says nothing of the process that it has made, and goes on until <itself>.hold is gone.
SILENT = """#!/bin/sh
case " $* " in
*" exec "*) ;;
*) exec crun "$@" ;;
esac
n=$#
while [ $n -gt 0 ]; do
	if [ "$1" = --pid-file ]; then
		shift
		n=$((n - 1))
	else
		set -- "$@" "$1"
	fi
	shift
	n=$((n - 1))
done
crun "$@"
: >"$0.made.$$"
while [ -e "$0.hold" ]; do
	sleep 0.05
done
"""


class Silent:
    """The path of such a runtime."""

    def __init__(self, d):
        self.path = os.path.join(d.work, "silent")
        with open(self.path, "w") as f:
            f.write(SILENT)
        os.chmod(self.path, 0o755)

    def __enter__(self):
        open(self.path + ".hold", "w").close()
        return self

    def __exit__(self, kind, value, trace):
        os.unlink(self.path + ".hold")

    def made(self):
        return [n for n in os.listdir(os.path.dirname(self.path)) if n.startswith("silent.made.")]


def begin_exec(d, name, script, *words):
    return d.start("bus", "call", "task.exec", "container_id=web", "exec_id=" + name, "start=true", "args=sh", "args=-c",
                   "args=" + script, *words)


def sleepers(word):
    return [pid for pid, words in command_lines() if words == ["sleep", word]]


def test_an_added_process_that_a_dying_shim_left_unknown_goes_on():
    with Davit() as d:
        d.import_busybox()
        silent = Silent(d)
        run(d, "sleep", "1000", options=("--runtime", silent.path))
        for i in range(2):
            with silent:
                client = begin_exec(d, "e%d" % i, "trap 'exit 9' TERM; echo there > /e%d; while :; do sleep 0.02; done" % i)
                wait_for(lambda: len(silent.made()) == i + 1, "the process is made")
                kill_shim(d, "RUNNING")
                out, err = client.communicate(timeout=60)
                assert client.returncode == 0, err
            pid = d.call("task.get", "container_id=web", "exec_id=e%d" % i)["process"]["pid"]
            assert json.loads(out)["pid"] == pid
            wait_for(lambda: os.path.exists("/proc/%d/root/e%d" % (pid, i)), "it has its trap")
            d.call("task.kill", "container_id=web", "exec_id=e%d" % i, "signal=15")
            assert exit_of(d, "e%d" % i) == adopted(9)
        d.check("rm", "-f", "web")
        check_log(d.events())


def test_of_several_that_a_dying_shim_left_unknown_none_goes_on():
    word, others = str(1000000 + os.getpid()), str(2000000 + os.getpid())
    with Davit() as d:
        d.import_busybox()
        silent = Silent(d)
        pid = run(d, "sleep", "1000", options=("--runtime", silent.path))
        # One that nobody's shim has made was there before.
        visitor = subprocess.Popen(["nsenter", "-t", str(pid), "-p", "-m", "sleep", others])
        wait_for(lambda: sleepers(others), "the visitor is there")
        with silent:
            clients = [begin_exec(d, name, "exec sleep " + word) for name in ("a", "b")]
            wait_for(lambda: len(silent.made()) == 2 and len(sleepers(word)) == 2, "both processes are made")
            kill_shim(d, "RUNNING")
            for client in clients:
                out, err = client.communicate(timeout=60)
                assert client.returncode and b"not known" in err, (out, err)
        wait_for(lambda: not sleepers(word), "neither goes on")
        assert sleepers(others) and Davit.is_alive(pid)
        d.check("rm", "-f", "web")
        visitor.wait(timeout=60)


# crun under this name, but the pid file of 'e' is a FIFO: it stands still between making the process and telling its pid.
LATE = """#!/usr/bin/python3
import os, sys
words = sys.argv[:]
at = words.index("--pid-file") + 1 if "--pid-file" in words else 0
if words[at].endswith("/exec-e.pid"):
    words[at] += ".fifo"
    os.mkfifo(words[at])
os.execvp("crun", words)
"""
HOST_PIDS = ("--with-ns", "pid:/proc/self/ns/pid")  # of who opens it: crun


class Late:
    """A container whose pids are the host's, and an added process that crun has made and not told of."""

    def __init__(self, d, script):
        self.d, self.path = d, os.path.join(d.work, "late")
        with open(self.path, "w") as f:
            f.write(LATE)
        os.chmod(self.path, 0o755)
        self.init = run(d, "sleep", "1000", options=("--runtime", self.path, *HOST_PIDS))
        self.shim = d.call("task.get", "container_id=web")["process"]["shim_pid"]
        (bundle,) = os.listdir(os.path.join(d.state, "bundles"))
        self.file = os.path.join(d.state, "bundles", bundle, "exec-e.pid")
        self.client = begin_exec(d, "e", "echo $$ >/new; mv /new /pid; " + script, "io.log.max_files=1")
        path = "/proc/%d/root/pid" % self.init
        wait_for(lambda: os.path.exists(path), "the process is made")
        with open(path) as f:
            self.pid = int(f.read())

    def tell(self):
        """The pid is where crun would write it."""
        with open(self.file + ".new", "w") as f:
            f.write(str(self.pid))
        os.rename(self.file + ".new", self.file)

    def go_on(self):
        """crun ends."""
        fifo = os.open(self.file + ".fifo", os.O_RDONLY | os.O_NONBLOCK)

        def told():
            try:
                return os.read(fifo, 64)
            except BlockingIOError:
                return None
        try:
            assert int(wait_for(told, "crun goes on")) == self.pid
        finally:
            os.close(fifo)

    def answer(self):
        out, err = self.client.communicate(timeout=60)
        return self.client.returncode, out, err


def test_an_added_process_that_is_being_made_when_the_shim_dies_is_waited_for():
    with Davit() as d:
        d.import_busybox()
        late = Late(d, "trap 'exit 9' TERM; touch /trap; while :; do sleep 0.02; done")
        late.tell()
        os.kill(late.shim, signal.SIGKILL)
        wait_for(lambda: [pid for pid in d.pids("davit-shim") if pid != late.shim], "another shim is there")
        late.go_on()
        code, out, err = late.answer()
        assert code == 0 and json.loads(out)["pid"] == late.pid, (code, out, err)
        wait_for(lambda: os.path.exists("/proc/%d/root/trap" % late.init), "it has its trap")
        d.call("task.kill", "container_id=web", "exec_id=e", "signal=15")
        assert exit_of(d, "e") == adopted(9)
        d.check("rm", "-f", "web")
        check_log(d.events())


def test_with_the_hosts_pids_what_nobody_can_name_is_told_by_its_streams_and_ended():
    word, others = str(3000000 + os.getpid()), str(4000000 + os.getpid())
    with Davit() as d:
        d.import_busybox()
        late = Late(d, "exec sleep " + word)
        # Not it: another added one with streams of its own, an orphan of it, and one of init's.
        d.call("task.exec", "container_id=web", "exec_id=other", "start=true", "io.log.max_files=1", "args=sh", "args=-c",
               "args=sh -c 'sleep %s & exit' & exec sleep %s" % (others, others))
        wait_for(lambda: len(sleepers(others)) == 2 and sleepers(word), "all are there")
        (crun,) = [pid for pid, words in command_lines() if words[:1] == [late.path] and late.file + ".fifo" in words]
        for pid in (late.shim, crun):
            os.kill(pid, signal.SIGKILL)
        code, out, err = late.answer()
        assert code and b"not known" in err, (code, out, err)
        wait_for(lambda: not sleepers(word), "it is ended")
        assert len(sleepers(others)) == 2 and Davit.is_alive(late.init)
        assert [e["event"]["exec_id"] for e in d.events() if e["topic"] == "/tasks/exec-started"] == ["other"]
        assert d.call("task.get", "container_id=web", "exec_id=other")["process"]["status"] == "RUNNING"
        d.check("rm", "-f", "web")


def test_shims_die_at_random_and_no_container_is_lost():
    generator = random.Random(int(os.environ.get("SEED", "1")))
    with Davit() as d:
        d.import_busybox()
        unknown, undone = 0, set()
        for i in range(COUNT):
            name = "c%d" % i
            client = d.start("run", "-d", "busybox", name, "sh", "-c", "sleep 0.%d; exit %d" % (i % 3, i % 100 + 1))
            time.sleep(generator.random() * 0.25)
            d.kill("davit-shim")
            out, err = client.communicate(timeout=60)
            if client.returncode:
                # Its shim died while it was being created: that is told, and undone.
                assert b"shim" in err, err
                assert not [t for t in d.json("tasks", "ls") if t["id"] == name]
                d("rm", "-f", name)
                undone.add(name)
                continue
            code = d("wait", name, seconds=60)
            if code.stdout != b"%d\n" % (i % 100 + 1):
                unknown += 1
                kept = d.call("task.wait", "container_id=" + name)["exit"]
                assert is_unknown(kept), (i, kept, code)
            d.check("rm", name)
        assert unknown <= COUNT // 4 or not TELLS_EXITS, unknown
        exits = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        for exit in exits:
            true = int(exit["container_id"][1:]) % 100 + 1
            is_ended = exit["container_id"] in undone and exit.get("signal") == 9
            assert exit["exit_status"] == true or is_unknown(exit) or is_ended, exit
        check_log(d.events())


main(globals())
