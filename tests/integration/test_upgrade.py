#!/usr/bin/env python3
"""`davit upgrade`: processes are replaced while they serve. No request fails, no event is missed, containers go on.

DAVIT_TEST_ROUNDS=2000 makes the rolling replacement as long as it should be once in a while."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import davit  # noqa: E402
from davit import PROCESSES, Davit, check_log, main, wait_for  # noqa: E402

RUNS = int(os.environ.get("DAVIT_TEST_ROUNDS", "16"))
CLIENTS = 4
LINE = re.compile(r"(davit-\w+): process (\d+) replaced by (\d+), pause (\d+) ms")


def upgrade(d, *names):
    """[(program, old pid, new pid, pause in ms)]"""
    return [(p, int(old), int(new), int(ms)) for p, old, new, ms in LINE.findall(d.check("upgrade", *names))]


class Runs:
    """Clients that run containers, each with an exit code of its own."""

    def __init__(self, d):
        self.d, self.lock, self.next = d, threading.Lock(), 0
        self.seconds, self.wrong = [], []
        self.threads = [threading.Thread(target=self.run) for _ in range(CLIENTS)]

    def take(self):
        with self.lock:
            number, self.next = self.next, self.next + 1
        return number if number < RUNS else None

    def run(self):
        number = self.take()
        while number is not None:
            code, begin = number % 100 + 1, time.monotonic()
            result = self.d("run", "--rm", "busybox", "r%d" % number, "sh", "-c", "echo %d; exit %d" % (number, code))
            with self.lock:
                self.seconds.append(time.monotonic() - begin)
                if (result.returncode, result.stdout) != (code, b"%d\n" % number):
                    self.wrong.append((number, result))
            number = self.take()


def test_rolling_replacement_of_all_processes_fails_no_run_and_misses_no_event():
    with Davit() as d:
        d.import_busybox()
        listener = d.start("events", "--from", "1", "--format", "json")
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(listener.stdout))
        reader.start()
        runs, pauses, rounds = Runs(d), {}, 0
        for thread in runs.threads:
            thread.start()
        while any(t.is_alive() for t in runs.threads):
            replaced = upgrade(d)
            assert [r[0] for r in replaced] == PROCESSES, replaced
            for program, _, _, ms in replaced:
                pauses.setdefault(program, []).append(ms)
            rounds += 1
        for thread in runs.threads:
            thread.join()
        assert not runs.wrong, runs.wrong
        assert len(runs.seconds) == RUNS
        tasks = check_log(d.events())
        assert len(tasks) == RUNS, len(tasks)
        assert all(t == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] for t in tasks.values()), tasks
        n_events = len(d.events())
        wait_for(lambda: len(lines) >= n_events, "the subscriber has all %d events, not %d" % (n_events, len(lines)))
        listener.send_signal(signal.SIGTERM)
        reader.join()
        listener.wait()
        numbers = [int(re.search(rb'"seq": ?(\d+)', line).group(1)) for line in lines]
        assert numbers == list(range(1, len(numbers) + 1)), "the subscriber's numbers have a gap or stand twice"
        seconds = sorted(runs.seconds)
        print("runs=%d upgrades=%d; a run: median %.3f s, longest %.3f s; longest pause: %s" % (
            RUNS, rounds, seconds[len(seconds) // 2], seconds[-1],
            ", ".join("%s %d ms" % (p, max(ms)) for p, ms in pauses.items())))


def test_containers_and_their_shims_go_on_and_are_served_by_the_new_processes():
    with Davit() as d:
        d.import_busybox()
        client = d.start("run", "--rm", "-i", "busybox", "w", "sh", "-c", "echo ready; sleep 1000")
        assert client.stdout.readline() == b"ready\n"
        before = d.call("task.get", "container_id=w")["process"]
        old = {p: d.pid(p) for p in PROCESSES}
        replaced = upgrade(d)
        assert {p: pid for p, pid, _, _ in replaced} == old
        assert {p: pid for p, _, pid, _ in replaced} == {p: d.pid(p) for p in PROCESSES}
        after = d.call("task.get", "container_id=w")["process"]
        assert (after["pid"], after["shim_pid"], after["status"]) == (before["pid"], before["shim_pid"], "RUNNING")
        assert d("exec", "w", "sh", "-c", "exit 9").returncode == 9
        d.check("kill", "-s", "KILL", "w")
        client.communicate(timeout=60)
        assert client.returncode == 137


class OtherBin:
    """A copy of the programs, so that they can be replaced."""

    def __init__(self, d):
        self.bin = d.work + "/bin"
        shutil.copytree(davit.BIN, self.bin, symlinks=True)
        d.base[0] = self.bin + "/davit"

    def put(self, program, change):
        """Replaces the file as a package does: written beside it, then renamed."""
        path = os.path.join(self.bin, program)
        with open(path, "rb") as f:
            data = change(f.read())
        with open(path + ".new", "wb") as f:
            f.write(data)
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)


def programs_on_bus(d):
    return {s["program"].split()[0]: s["program"].split()[1] for s in d.call("bus.list")["services"] if s.get("program")}


def test_a_file_that_was_replaced_on_disk_is_what_runs_afterwards():
    d = Davit()
    other = OtherBin(d)
    with d:
        version = subprocess.run([other.bin + "/davit-task", "--version"], capture_output=True, check=True,
                                 text=True).stdout.split()[1]
        new = version[:-1] + "x"
        for program in PROCESSES[1:]:
            other.put(program, lambda data: data.replace(b"\0" + version.encode() + b"\0", b"\0" + new.encode() + b"\0"))
        assert set(programs_on_bus(d).values()) == {version}
        upgrade(d, "task")
        found = programs_on_bus(d)
        assert (found["davit-task"], found["davit-image"]) == (new, version), found
        upgrade(d)
        assert set(programs_on_bus(d).values()) == {new}
        for program in PROCESSES:
            assert os.readlink("/proc/%d/exe" % d.pid(program)) == os.path.join(other.bin, program)


def test_a_new_file_that_does_not_start_replaces_nothing():
    d = Davit()
    other = OtherBin(d)
    with d:
        pid = d.pid("davit-task")
        other.put("davit-task", lambda data: b"#!/bin/sh\nexit 3\n")
        result = d("upgrade", "task")
        assert result.returncode == 1
        assert b"the new davit-task ended with code 3 before it served; the old one goes on" in result.stderr, result
        other.put("davit-task", lambda data: b"no program")
        result = d("upgrade", "task")
        assert result.returncode == 1 and b"davit-task" in result.stderr, result
        assert d.pid("davit-task") == pid
        assert d.json("tasks", "ls") == []


def test_one_that_is_killed_while_it_is_replaced_is_there_again():
    with Davit() as d:
        for program in PROCESSES:
            name = program.split("-")[1]
            os.kill(d.pid(program), signal.SIGSTOP)  # it does not drain
            old = d.pid(program)
            client = d.start("upgrade", name)
            wait_for(lambda: len(d.pids(program)) == 2, "the new %s waits" % program)
            second = d("upgrade", name)
            assert second.returncode == 1 and b"another upgrade is under way" in second.stderr, second
            os.kill(old, signal.SIGKILL)
            out, err = client.communicate(timeout=60)
            assert client.returncode == 0, err
            assert LINE.search(out.decode()).group(1, 2) == (program, str(old)), out
            d.json("tasks", "ls")
            d.json("containers", "ls")


def connect(d):
    """A client that `davit up` listens to."""
    def try_it():
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.connect(d.state + "/up.sock")
        if peer.recv(500) == b"ready":
            return peer
        peer.close()
    return wait_for(try_it, "upgrades are taken")


def test_bad_requests_and_clients_that_go_away_leave_it_as_it_is():
    with Davit() as d:
        result = d("upgrade", "tsk")
        assert result.returncode == 1 and b"'tsk' is none of the processes" in result.stderr, result
        for data in (b"\0\0", b"x" * 5000, b"", b"image task"):
            peer = connect(d)
            peer.send(data)
            peer.close()
        silent = connect(d)
        # It holds nobody up: the next one takes its place.
        assert [r[0] for r in upgrade(d)] == PROCESSES
        silent.close()
    gone = Davit()
    try:
        result = gone("upgrade")
        assert result.returncode == 1 and b"`davit up` does not run" in result.stderr, result
    finally:
        gone.end()


if __name__ == "__main__":
    main(globals())
