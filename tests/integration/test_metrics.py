#!/usr/bin/env python3
"""What containers use, their processes, and kills for memory."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402

MEMORY = 64 << 20


def figures(d, container):
    (found,) = d.call("task.metrics", "container_id=" + container)["metrics"]
    return found


def test_figures_are_the_kernels():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--memory-limit", str(MEMORY), "busybox", "web", "sh", "-c",
                "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 1000 & sleep 1000 & wait")
        wait_for(lambda: figures(d, "web")["pids_current"] == 3, "it sleeps")
        found = figures(d, "web")
        assert found["memory_limit"] == MEMORY, found
        assert 0 < found["memory_usage"] <= MEMORY, found
        assert found["cpu_usage_ns"] > 1000000, found
        assert found["memory_stat"], found
        d.check("rm", "-f", "web")


def test_figures_of_all_come_by_namespace_and_name():
    with Davit() as d:
        d.import_busybox()
        for name in ("b", "a", "c"):
            d.check("run", "-d", "busybox", name, "sleep", "1000")
        d.check("kill", "-s", "KILL", "c")
        wait_for(lambda: [t for t in d.json("tasks", "ls") if t["status"] == "STOPPED"], "one has ended")
        found = d.call("task.metrics", "brief=true")["metrics"]
        assert [m["container_id"] for m in found] == ["a", "b"], found
        assert "memory_stat" not in found[0], found[0]
        (one,) = d.call("task.metrics", "filters=id==b")["metrics"]
        assert one["container_id"] == "b"
        refused = d("bus", "call", "task.metrics", "container_id=c")
        assert refused.returncode and b"STOPPED" in refused.stderr, refused
        for name in ("b", "a", "c"):
            d.check("rm", "-f", name)


def test_processes_are_told_with_the_process_they_descend_from():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "sleep 1001 & sleep 1002 & wait")
        d.call("task.exec", "container_id=web", "exec_id=e", "start=true", "args=sh", "args=-c", "args=sleep 1003 & sleep 1004 & wait")

        def commands():
            found = d.call("task.pids", "container_id=web")["processes"]
            return {p["command"]: p.get("exec_id", "") for p in found}

        wait_for(lambda: len(commands()) == 6, "all run")
        for command, exec_id in commands().items():
            assert exec_id == ("e" if "1003" in command or "1004" in command else ""), commands()
        d.check("rm", "-f", "web")


def test_a_container_that_is_killed_for_memory_says_so():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--memory-limit", str(16 << 20), "busybox", "eater", "sh", "-c",
                "head -c 200000000 /dev/zero | tail -c 199999999; exit 9")
        code = d("wait", "eater", seconds=100).stdout
        topics = wait_for(lambda: (lambda t: t if "/tasks/exit" in t else None)([e["topic"] for e in d.events()]), "it ended")
        assert "/tasks/oom" in topics and topics.index("/tasks/oom") < topics.index("/tasks/exit"), topics
        (exit,) = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert exit["oom_killed"] and exit["source"] == "observed", exit
        kept = d.call("task.wait", "container_id=eater")["exit"]
        assert kept["oom_killed"] and code == b"%d\n" % kept["exit_status"], (code, kept)
        d.check("rm", "eater")


main(globals())
