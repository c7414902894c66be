#!/usr/bin/env python3
"""exec, and what needs a process in a container to look at it: cp, pause, update."""

import fcntl
import json
import os
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, command_lines, main, wait_for  # noqa: E402

LONG = str(1000000 + os.getpid())  # others of this machine may sleep too


def running(words):
    return [pid for pid, line in command_lines() if line == words]



def test_fifos_of_a_client_that_was_killed_go_with_the_task():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        client = d.start("exec", "web", "sh", "-c", "echo ready; sleep 1000")
        assert client.stdout.readline() == b"ready\n"
        client.kill()
        client.communicate()
        assert os.listdir(d.state + "/fifo")
        d.check("rm", "-f", "web")
        wait_for(lambda: not os.listdir(d.state + "/fifo"), "the FIFOs are gone")


def is_locked(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_fifos_of_a_dead_client_that_no_task_names_are_swept_away():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        fifos = d.state + "/fifo"
        dead, living = [d.start("exec", "web", "sh", "-c", "echo ready; sleep 1000") for _ in range(2)]
        for client in (dead, living):
            assert client.stdout.readline() == b"ready\n"
        assert [is_locked(os.path.join(fifos, name)) for name in os.listdir(fifos)] == [True, True]
        dead.kill()
        dead.communicate()
        held = {name: is_locked(os.path.join(fifos, name)) for name in os.listdir(fifos)}
        assert sorted(held.values()) == [False, True], held
        for i, name in enumerate(list(held)):  # as if they had died before a task had them
            other = "%016x" % i
            os.rename(os.path.join(fifos, name), os.path.join(fifos, other))
            os.utime(os.path.join(fifos, other), (0, time.time() - 7200))
            held[other] = held.pop(name)
        d.kill("davit-task")  # its next start sweeps
        wait_for(lambda: os.listdir(fifos) == [name for name in held if held[name]], "one is gone, one is held")
        living.kill()
        living.communicate()
        shutil.rmtree(fifos)
        d.check("rm", "-f", "web")


def test_exec_gives_the_output_and_the_code_of_the_process():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        result = d("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 7), result
        result = d("exec", "--cwd", "/tmp", "--user", "daemon", "--env", "A=b", "web", "sh", "-c", "pwd; id -un; echo $A")
        assert result.stdout.split() == [b"/tmp", b"daemon", b"b"], result
        data = os.urandom(200000).hex().encode()
        assert d("exec", "web", "cat", input=data).stdout == data
        assert d("exec", "web", "/no/such").returncode == 127
        assert d("exec", "web", "/etc/passwd").returncode == 126
        assert d("exec", "web", "/etc").returncode == 126
        assert d("exec", "nowhere", "true").returncode == 125
        # Ended ones are deleted: only init is left.
        assert len(json.loads(d.check("bus", "call", "task.processes", "container_id=web"))["processes"]) == 1
        d.check("rm", "-f", "web")


def test_a_signal_to_exec_reaches_the_process():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        client = d.start("exec", "web", "sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGUSR1)
        client.communicate(timeout=30)
        assert client.returncode == 9
        d.check("rm", "-f", "web")


def test_a_detached_exec_is_listed_killed_and_deleted():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        d.check("exec", "-d", "--exec-id", "bg", "web", "sleep", LONG)
        # Told as started a moment before its program takes the runtime's place.
        wait_for(lambda: [p["command"] for p in d.json("top", "web") if p.get("exec_id") == "bg"] == ["sleep " + LONG],
                 "bg is listed")
        d.check("kill", "-s", "KILL", "--exec-id", "bg", "web")
        wait_for(lambda: not running(["sleep", LONG]), "bg has ended")
        inspected = json.loads(d.check("inspect", "web"))[0]
        (process,) = [p for p in inspected["processes"] if p.get("exec_id") == "bg"]
        assert process["exit"]["exit_status"] == 137, process
        assert d("tasks", "rm", "--exec-id", "bg", "web").returncode == 137
        assert [p["id"] for p in json.loads(d.check("inspect", "web"))[0]["processes"]] == ["web"]
        d.check("rm", "-f", "web")


def test_pause_freezes_and_resume_lets_go_on():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "while :; do echo tick; sleep 0.02; done")
        wait_for(lambda: d("logs", "web").stdout, "it writes")
        d.check("pause", "web")
        assert d.json("ps")[0]["status"] == "PAUSED"
        first = d("logs", "web").stdout
        assert d("logs", "web").stdout == first
        d.check("resume", "web")
        wait_for(lambda: len(d("logs", "web").stdout) > len(first), "it goes on")
        d.check("rm", "-f", "web")


def test_update_changes_the_limits_of_a_running_container():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--memory-limit", "64M", "busybox", "web", "sleep", "1000")
        d.check("update", "--memory-limit", "128M", "--pids-limit", "50", "web")
        metrics = json.loads(d.check("tasks", "metrics", "--format", "json", "web"))
        assert (metrics["memory_limit"], metrics["pids_limit"]) == (128 << 20, 50), metrics
        assert d("update", "web").returncode == 2
        d.check("rm", "-f", "web")


def test_cp_copies_in_and_out_and_stays_inside():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        tree = os.path.join(d.work, "tree")
        os.makedirs(tree + "/sub")
        with open(tree + "/sub/file", "w") as f:
            f.write("deep\n")
        d.check("cp", tree, "web:/tmp")
        assert d.check("exec", "web", "cat", "/tmp/tree/sub/file") == "deep\n"
        d.check("exec", "web", "sh", "-c", "echo made >/tmp/tree/made")
        d.check("cp", "web:/tmp/tree", os.path.join(d.work, "back"))
        with open(d.work + "/back/made") as f:
            assert f.read() == "made\n"
        # A link of the container's names its own file, not the host's.
        d.check("exec", "web", "sh", "-c", "mkdir /data; echo inside >/data/f; ln -s %s /link" % d.work)
        result = d("cp", "web:/link/tree", d.work + "/stolen")
        assert result.returncode == 1 and not os.path.exists(d.work + "/stolen"), result
        d.check("rm", "-f", "web")
        result = d("cp", "web:/x", d.work)
        assert result.returncode == 1 and b"web" in result.stderr, result


def test_a_container_that_swaps_a_directory_for_a_link_gets_nothing_of_the_host():
    with Davit() as d:
        d.import_busybox()
        secret, drop = os.path.join(d.work, "host"), os.path.join(d.work, "drop")
        os.makedirs(secret)
        with open(secret + "/f", "w") as f:
            f.write("of the host\n")
        with open(drop, "w") as f:
            f.write("dropped\n")
        swap = ("mkdir -p /a /b; echo mine >/b/f; while :; do mv /a /c; ln -s %s /a; rm /a; mv /b /a; mv /a /b; mv /c /a; done"
                % secret)
        d.check("run", "-d", "--no-log", "busybox", "web", "sh", "-c", swap)
        wait_for(lambda: d("exec", "web", "test", "-e", "/b/f").returncode == 0, "it swaps")
        for i in range(30):
            out = os.path.join(d.work, "out%d" % i)
            d("cp", "web:/a/f", out)
            if os.path.exists(out):
                with open(out) as f:
                    assert f.read() == "mine\n"
            d("cp", drop, "web:/a/new")
            with open(secret + "/f") as f:
                assert f.read() == "of the host\n"
            assert os.listdir(secret) == ["f"]
        d.check("rm", "-f", "web")


if __name__ == "__main__":
    main(globals())
