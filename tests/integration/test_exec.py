#!/usr/bin/env python3
"""Added processes: many at once, while init dies, while the task service dies."""

import json
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, check_log, main, wait_for  # noqa: E402

SLOW = bool(os.environ.get("SLOW"))
COUNT = 40 if SLOW else 7


def add(d, container, name, *args, **options):
    """task.exec with start; the result of the command."""
    words = ["container_id=" + container, "exec_id=" + name, "start=true"] + ["args=" + a for a in args]
    return d("bus", "call", "task.exec", *words, **options)


def wait_exit(d, container, name):
    def ended():
        reply = d.call("task.wait", "container_id=" + container, "exec_id=" + name)
        return reply["exit"] if reply["exited"] else None
    return wait_for(ended, "%s of %s has ended" % (name, container))


def in_threads(count, work):
    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as e:  # noqa: BLE001  told below
            failures.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]


def topics_of(events):
    """For each process the topics that tell of it, in order; init's by the container's id."""
    found = {}
    for e in events:
        event = e["event"]
        name = event.get("exec_id") or event.get("id") or event.get("container_id")
        if e["topic"].startswith("/tasks/"):
            found.setdefault(name, []).append(e["topic"])
    return found


EXEC_TOPICS = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_many_processes_at_once_each_give_their_own_code():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")

        def work(number):
            for i in range(4):
                name = "e%d-%d" % (number, i)
                result = add(d, "web", name, "sh", "-c", "exit %d" % (number * 4 + i + 1))
                assert result.returncode == 0, result.stderr
                exit = wait_exit(d, "web", name)
                assert (exit["exit_status"], exit["source"]) == (number * 4 + i + 1, "observed"), exit

        in_threads(8, work)
        wait_for(lambda: sum(e["topic"] == "/tasks/exit" for e in d.events()) == 32, "all exits are published")
        topics = topics_of(d.events())
        for number in range(8):
            for i in range(4):
                assert topics["e%d-%d" % (number, i)] == EXEC_TOPICS, topics
        d.check("rm", "-f", "web")


def test_init_s_exit_comes_after_those_of_all_its_processes():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        for i in range(10):
            assert add(d, "web", "e%d" % i, "sleep", "1000").returncode == 0
        d.check("kill", "-s", "KILL", "web")
        assert d("wait", "web").stdout == b"137\n"
        wait_for(lambda: len([e for e in d.events() if e["topic"] == "/tasks/exit"]) == 11, "all exits are published")
        exits = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert exits[-1]["id"] == "web", [e["id"] for e in exits]
        assert all(e["signal"] == 9 for e in exits), exits
        d.check("rm", "web")


def test_processes_are_added_while_init_dies():
    count = 300 if SLOW else 60
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        answers = {}

        def work(number):
            for i in range(count // 6):
                name = "e%d-%d" % (number, i)
                answers[name] = add(d, "web", name, "sleep", "1000")
                if number == 0 and i == count // 18:
                    d.check("kill", "-s", "KILL", "web")

        in_threads(6, work)
        assert d("wait", "web").stdout == b"137\n"
        started = [name for name, answer in answers.items() if answer.returncode == 0]
        assert started and len(started) < count, len(started)
        for name in started:
            assert wait_exit(d, "web", name)["exit_status"] == 137
        wait_for(lambda: any(e["topic"] == "/tasks/exit" and e["event"]["id"] == "web" for e in d.events()), "published")
        topics = topics_of(d.events())
        for name in answers:
            seen = topics.get(name, [])
            assert seen.count("/tasks/exec-started") == seen.count("/tasks/exit") <= 1, (name, seen)
            if name in started:
                assert seen == EXEC_TOPICS, (name, seen)
        exits = [e["event"]["id"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert exits[-1] == "web", exits
        d.check("rm", "web")


def test_a_process_is_started_once_however_often_the_task_service_dies():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        for i in range(COUNT):
            client = d.start("bus", "call", "task.exec", "container_id=web", "exec_id=e%d" % i, "start=true", "args=sh",
                             "args=-c", "args=exit %d" % (i + 1))
            time.sleep(0.008 * i)
            d.kill("davit-task")
            out, err = client.communicate(timeout=60)
            assert client.returncode == 0, (i, err)
            assert json.loads(out)["pid"] > 1
            exit = wait_exit(d, "web", "e%d" % i)
            assert (exit["exit_status"], exit["source"]) == (i + 1, "observed"), exit
        topics = topics_of(d.events())
        assert all(topics["e%d" % i] == EXEC_TOPICS for i in range(COUNT)), topics
        d.check("rm", "-f", "web")


def test_a_name_is_taken_until_its_process_is_deleted():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        assert add(d, "web", "e", "sleep", "1000").returncode == 0
        again = add(d, "web", "e", "true")
        assert again.returncode and b"already" in again.stderr, again
        missing = add(d, "web", "none", "no-such-program")
        assert missing.returncode and b"no-such-program" in missing.stderr, missing
        assert d("bus", "call", "task.get", "container_id=web", "exec_id=none").returncode
        d.call("task.delete", "container_id=web", "exec_id=e", "force=true")
        assert d.call("task.get", "container_id=web", "exec_id=e")["process"]["status"] == "DELETED"
        assert add(d, "web", "e", "sleep", "1000").returncode == 0
        names = [p["id"] for p in d.call("task.processes", "container_id=web")["processes"]]
        assert names == ["web", "e"], names
        d.check("rm", "-f", "web")
        kept = d.call("task.wait", "container_id=web", "exec_id=e")
        assert kept["exit"]["exit_status"] == 137, kept


def test_one_that_was_only_added_is_started_or_deleted():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        for name in ("a", "b"):
            d.call("task.exec", "container_id=web", "exec_id=" + name, "args=sh", "args=-c", "args=exit 5")
            assert d.call("task.get", "container_id=web", "exec_id=" + name)["process"]["status"] == "CREATED"
        assert d.call("task.start", "container_id=web", "exec_id=a")["pid"] > 1
        assert wait_exit(d, "web", "a")["exit_status"] == 5
        d.call("task.delete", "container_id=web", "exec_id=b")
        assert "/tasks/exec-started" not in topics_of(d.events())["b"]
        d.check("rm", "-f", "web")


def test_a_container_with_processes_removes_itself():
    with Davit() as d:
        d.import_busybox()
        d.call("container.run", "id=web", "image=busybox", "options.args=sleep", "options.args=1000", "auto_remove=true")
        pids = [json.loads(add(d, "web", "e%d" % i, "sleep", "1000").stdout)["pid"] for i in range(3)]
        random.shuffle(pids)
        os.kill(d.json("tasks", "ls")[0]["pid"], signal.SIGKILL)
        wait_for(lambda: not d.json("containers", "ls"), "it is removed")
        assert not any(Davit.is_alive(pid) for pid in pids)
        check_log(d.events())


main(globals())
