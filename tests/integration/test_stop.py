#!/usr/bin/env python3
"""task.stop and task.delete: grace, force, frozen containers, frozen shims, and deaths in the midst of both."""

import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, check_log, main, wait_for  # noqa: E402

HEEDS = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done")
HEEDS_NOT = ("sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")


def stop(d, container, *words):
    return d.call("task.stop", "container_id=" + container, *words)


def run(d, name, *command):
    d.check("run", "-d", "busybox", name, *command)
    # The shell has its trap once it has made a child.
    (task,) = [t for t in d.json("tasks", "ls") if t["id"] == name]
    children = "/proc/%d/task/%d/children" % (task["pid"], task["pid"])
    wait_for(lambda: command[0] != "sh" or open(children).read().strip(), "the shell is in its loop")
    return task


def test_one_that_heeds_its_signal_is_not_killed():
    with Davit() as d:
        d.import_busybox()
        run(d, "web", *HEEDS)
        reply = stop(d, "web", "timeout_ms=30000")
        assert (reply["exit"]["exit_status"], reply.get("killed", False)) == (3, False), reply
        assert stop(d, "web")["exit"]["exit_status"] == 3
        d.check("rm", "web")


def test_one_that_does_not_is_killed_after_its_grace_period():
    with Davit() as d:
        d.import_busybox()
        run(d, "web", *HEEDS_NOT)
        begin = time.monotonic()
        reply = stop(d, "web", "timeout_ms=400")
        assert (reply["exit"]["exit_status"], reply["killed"]) == (137, True), reply
        assert 0.4 <= time.monotonic() - begin < 10
        d.check("rm", "web")


def test_one_that_is_being_paused_is_seen_to_be():
    with Davit() as d:
        d.import_busybox()
        # A runc whose pause takes until it may, and then does it or not.
        runc, may, fails = (os.path.join(d.work, name) for name in ("slow-runc", "may", "fails"))
        with open(runc, "w") as f:
            f.write('#!/bin/sh\ncase " $* " in *" pause "*)\n\tread line <%s\n\ttest ! -e %s || exit 1\nesac\n'
                    'exec runc "$@"\n' % (may, fails))
        os.chmod(runc, 0o755)
        os.mkfifo(may)
        d.check("run", "-d", "--runc-binary", runc, "busybox", "web", "sleep", "1000")
        for result, left in ((0, "PAUSED"), (1, "RUNNING")):
            pause = d.start("pause", "web")
            wait_for(lambda: d.json("tasks", "ls")[0]["status"] == "PAUSING", "it is being paused")
            result_of_exec = d("exec", "web", "true")
            assert result_of_exec.returncode == 125 and b"PAUSING" in result_of_exec.stderr, result_of_exec
            with open(may, "w") as f:
                f.write("go\n")
            pause.communicate(timeout=60)
            assert (pause.returncode, d.json("tasks", "ls")[0]["status"]) == (result, left)
            open(fails, "w").close()
            if not result:
                d.check("resume", "web")
        d.check("rm", "-f", "web")


def test_an_added_process_of_a_paused_one_is_killed():
    is_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    with Davit() as d:
        d.import_busybox()
        run(d, "web", "sleep", "1000")
        d.check("exec", "-d", "--exec-id", "added", "web", "sleep", "1000")
        d.check("pause", "web")
        d.call("task.kill", "container_id=web", "exec_id=added", "signal=15")
        assert d.json("tasks", "ls")[0]["status"] == "PAUSED"
        d.check("kill", "--exec-id", "added", "-s", "KILL", "web")
        # A frozen process of cgroup v1 dies when it goes on, and the rest goes on with it.
        wait_for(lambda: d.call("task.wait", "container_id=web", "exec_id=added")["exited"], "it is killed")
        assert d.json("tasks", "ls")[0]["status"] == ("PAUSED" if is_v2 else "RUNNING")
        d.check("rm", "-f", "web")


def test_a_paused_one_is_stopped_and_deleted():
    with Davit() as d:
        d.import_busybox()
        run(d, "heeds", *HEEDS)
        run(d, "heeds-not", *HEEDS_NOT)
        run(d, "gone", "sleep", "1000")
        for name in ("heeds", "heeds-not", "gone"):
            d.call("task.pause", "container_id=" + name)
        assert [t["status"] for t in d.json("tasks", "ls")] == ["PAUSED"] * 3
        assert stop(d, "heeds", "timeout_ms=30000")["exit"]["exit_status"] == 3
        assert stop(d, "heeds-not", "timeout_ms=200")["exit"]["exit_status"] == 137
        refused = d("bus", "call", "task.delete", "container_id=gone")
        assert refused.returncode and b"PAUSED" in refused.stderr, refused
        for name in ("heeds", "heeds-not"):
            d.check("rm", name)
        d.check("rm", "-f", "gone")


def test_a_stop_goes_on_when_the_task_service_dies():
    with Davit() as d:
        d.import_busybox()
        run(d, "web", *HEEDS_NOT)
        client = d.start("bus", "call", "task.stop", "container_id=web", "timeout_ms=1500")
        begin = time.monotonic()
        for _ in range(3):
            time.sleep(0.25)
            d.kill("davit-task")
        out, err = client.communicate(timeout=60)
        assert client.returncode == 0, err
        reply = json.loads(out)
        assert (reply["exit"]["exit_status"], reply["killed"]) == (137, True), reply
        assert time.monotonic() - begin >= 1.4
        d.check("rm", "web")


def test_a_stop_that_nobody_waits_for_is_done():
    with Davit() as d:
        d.import_busybox()
        run(d, "web", *HEEDS_NOT)
        client = d.start("bus", "call", "task.stop", "container_id=web", "timeout_ms=500")
        wait_for(lambda: [o for o in d.call("task.operations").get("operations", []) if o["method"] == "task.stop"], "it runs")
        client.kill()
        client.communicate()
        wait_for(lambda: d.json("tasks", "ls")[0]["status"] == "STOPPED", "it is stopped")
        d.check("rm", "web")


def test_one_that_was_never_started_is_stopped_and_deleted():
    with Davit() as d:
        d.import_busybox()
        for name in ("a", "b", "c"):
            d.check("containers", "create", "busybox", name, "sleep", "1000")
            d.call("task.create", "container_id=" + name)
        assert stop(d, "a")["exit"]["exit_status"] == 137
        d.check("rm", "a")
        d.call("task.delete", "container_id=b")
        assert not [t for t in d.json("tasks", "ls") if t["id"] == "b"]
        d.check("rm", "b")
        d.check("rm", "c")
        check_log(d.events())


def test_a_delete_is_whole_whenever_the_task_service_dies():
    with Davit() as d:
        d.import_busybox()
        for i in range(10):
            d.check("run", "-d", "busybox", "web", "sleep", "1000")
            client = d.start("bus", "call", "task.delete", "container_id=web", "force=true")
            time.sleep(0.004 * i)
            d.kill("davit-task")
            out, err = client.communicate(timeout=60)
            assert client.returncode == 0, (i, err)
            # All may have been done before anybody was there to hear of it: then its exit comes from the log.
            exit = json.loads(out)["exit"]
            assert (exit["exit_status"], exit["source"]) == (137, "observed"), exit
            # No contradictions: it is not listed, not found, and can be made again.
            assert not d.json("tasks", "ls")
            assert d("bus", "call", "task.delete", "container_id=web").returncode
            d.call("task.create", "container_id=web", "start=true")
            d.check("rm", "-f", "web")
        wait_for(lambda: sum(e["topic"] == "/tasks/delete" for e in d.events()) == 20, "all is published")
        exits = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert [e["exit_status"] for e in exits] == [137] * 20, exits
        tasks = check_log(d.events())
        assert len(tasks) == 20 and all(t[-2:] == ["/tasks/exit", "/tasks/delete"] for t in tasks.values()), tasks


def test_a_frozen_shim_delays_nobody():
    with Davit() as d:
        d.import_busybox()
        run(d, "frozen", "sleep", "1000")
        run(d, "web", "sleep", "1000")
        (shim,) = [p["shim_pid"] for p in [d.call("task.get", "container_id=frozen")["process"]]]
        os.kill(shim, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            assert len(d.json("tasks", "ls")) == 2
            assert len(d.call("task.metrics", "all_namespaces=true")["metrics"]) == 2
            assert len(d.call("task.pids", "container_id=frozen")["processes"]) == 1
            waiting = [d.start("bus", "call", "task.pause", "container_id=frozen") for _ in range(3)]
            d.kill("davit-task")
            assert len(d.json("tasks", "ls")) == 2
            assert d("run", "--rm", "busybox", "other", "true").returncode == 0
            d.call("task.exec", "container_id=web", "exec_id=e", "args=true", "start=true")
            assert stop(d, "web", "at_once=true")["killed"]
            assert time.monotonic() - begin < 20, time.monotonic() - begin
        finally:
            os.kill(shim, signal.SIGCONT)
        codes = [w.wait(60) for w in waiting]
        assert 0 in codes, codes
        for w in waiting:
            w.communicate()
        d.call("task.resume", "container_id=frozen")
        d.check("rm", "-f", "frozen")
        d.check("rm", "web")


main(globals())
