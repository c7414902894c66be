#!/usr/bin/env python3
"""Any process of davit dies at any time: containers go on, callers get their answer, events keep their numbers."""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import PROCESSES, Davit, adopted, check_log, main, wait_for  # noqa: E402


def state_and_parent(pid):
    with open("/proc/%d/stat" % pid) as f:
        state, parent = f.read().rpartition(")")[2].split()[:2]
        return state, int(parent)


def waiting_run(d, name, code):
    """A client in the foreground whose container ends when a file appears."""
    os.makedirs(d.work + "/flags", exist_ok=True)
    client = d.start("run", "--rm", "--mount", "type=bind,src=%s/flags,dst=/flags,options=rbind" % d.work, "busybox", name,
                     "sh", "-c", "echo ready; while [ ! -e /flags/%s ]; do sleep 0.05; done; exit %d" % (name, code))
    assert client.stdout.readline() == b"ready\n"
    return client


def let_go(d, name):
    open(d.work + "/flags/" + name, "w").close()


def kill_while_waiting(programs, name, code):
    with Davit() as d:
        d.import_busybox()
        client = waiting_run(d, name, code)
        (task,) = d.json("tasks", "ls")
        d.kill(*programs)
        assert Davit.is_alive(task["pid"]), "the container died with " + " ".join(programs)
        (again,) = d.json("tasks", "ls")
        assert (again["pid"], again["status"]) == (task["pid"], "RUNNING"), again
        let_go(d, name)
        out, err = client.communicate(timeout=60)
        assert client.returncode == code, (client.returncode, err)
        (topics,) = check_log(d.events()).values()
        assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], topics


def test_the_broker_is_killed_while_a_client_waits():
    kill_while_waiting(["davit-broker"], "w1", 11)


def test_the_container_service_is_killed_while_a_client_waits():
    kill_while_waiting(["davit-container"], "w2", 12)


def test_the_image_service_is_killed_while_a_client_waits():
    kill_while_waiting(["davit-image"], "w3", 13)


def test_the_runtime_service_is_killed_while_a_client_waits():
    kill_while_waiting(["davit-runtime"], "w4", 14)


def test_the_task_service_is_killed_while_a_client_waits():
    kill_while_waiting(["davit-task"], "w5", 15)


def test_all_are_killed_at_once_while_a_client_waits():
    kill_while_waiting(PROCESSES, "w6", 16)


def test_an_exit_while_everything_is_down_is_in_the_log_afterwards():
    with Davit() as d:
        d.import_busybox()
        os.makedirs(d.work + "/flags")
        d.check("run", "-d", "--mount", "type=bind,src=%s/flags,dst=/flags,options=rbind" % d.work, "busybox", "late",
                "sh", "-c", "while [ ! -e /flags/late ]; do sleep 0.05; done; exit 42")
        (task,) = d.json("tasks", "ls")
        os.kill(d.supervisor(), signal.SIGKILL)
        d.kill(*PROCESSES)
        let_go(d, "late")
        wait_for(lambda: not Davit.is_alive(task["pid"]), "the container has ended")
        # The shim's back-off reaches its longest step; SLOW=1 waits the whole minute of the promise.
        time.sleep(60 if os.environ.get("SLOW") else 6)
        d.up()
        assert d("wait", "late").stdout == b"42\n"
        wait_for(lambda: [e for e in d.events() if e["topic"] == "/tasks/exit"], "the exit is published")
        (exit,) = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit"]
        assert (exit["exit_status"], exit["source"]) == (42, "observed"), exit
        check_log(d.events())
        d.check("rm", "late")


def test_a_shims_death_leaves_the_container_running():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "alone", "sleep", "1000")
        (task,) = d.json("tasks", "ls")
        (old,) = d.kill("davit-shim")
        wait_for(lambda: d.pids("davit-shim") not in ([], [old]), "another shim takes over")
        wait_for(lambda: d.json("tasks", "ls")[0]["status"] == "RUNNING", "the task is RUNNING")
        assert Davit.is_alive(task["pid"])
        assert d.json("tasks", "ls")[0]["pid"] == task["pid"]
        # All works as before, and its exit is its own.
        assert d("exec", "alone", "sh", "-c", "exit 7").returncode == 7
        d.check("pause", "alone")
        d.check("resume", "alone")
        d.check("kill", "-s", "KILL", "alone")
        wait_for(lambda: d.json("tasks", "ls")[0]["status"] == "STOPPED", "its end is seen")
        (exit,) = [e["event"] for e in d.events() if e["topic"] == "/tasks/exit" and e["event"]["id"] == "alone"]
        assert (exit["exit_status"], exit["source"]) == adopted(137), exit
        d.check("rm", "alone")


def test_orphans_are_reaped_though_a_service_died_at_the_same_time():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "c1", "sleep", "1000")
        up = d.supervisor()
        for _ in range(5):  # which of them it hears of first is the kernel's choice
            d.kill("davit-task")  # its shims come to the supervisor
            shim, service = d.pid("davit-shim"), d.pid("davit-runtime")
            wait_for(lambda: state_and_parent(shim)[1] == up, "the shim is the supervisor's child")
            os.kill(up, signal.SIGSTOP)
            wait_for(lambda: state_and_parent(up)[0] == "T", "the supervisor stands still")
            for pid in (shim, service):
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not Davit.is_alive(pid), "it is dead")
            os.kill(up, signal.SIGCONT)
            wait_for(lambda: not os.path.exists("/proc/%d" % shim), "the shim is reaped")
            wait_for(lambda: d.pids("davit-shim"), "another shim takes over")
        d.check("rm", "-f", "c1")


def test_a_task_without_shim_is_removed_by_force():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "alone", "sleep", "1000")
        d.kill("davit-shim")
        d.check("rm", "-f", "alone")
        check_log(d.events())


def damage(folder):
    """A store of which nothing can be read but that it is one."""
    path = os.path.join(folder, "data.mdb")
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(2 * 4096)
        f.write(b"\xa5" * (size - 2 * 4096))


def test_tasks_are_found_again_when_their_store_is_lost():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "echo hello; while test ! -e /end; do sleep 0.05; done; exit 7")
        left = d.start("run", "--rm", "busybox", "brief", "sh", "-c", "while test ! -e /end; do sleep 0.05; done; exit 3")
        d.check("exec", "-d", "--exec-id", "more", "web", "sleep", "1000")
        client = d.start("run", "--rm", "busybox", "waits", "sh", "-c",
                         "while test ! -e /end; do sleep 0.05; done; echo out; exit 5")
        wait_for(lambda: len([t for t in d.json("tasks", "ls") if t["status"] == "RUNNING"]) == 3, "all run")
        before = {t["id"]: t["pid"] for t in d.json("tasks", "ls")}
        left.kill()
        left.communicate()
        live = d.pid("davit-task")
        os.kill(live, signal.SIGTERM)  # rows under the root are written at the latest when it ends in order
        wait_for(lambda: [p for p in d.pids("davit-task") if p != live], "the next one is there")
        d.json("tasks", "ls")
        d.lose_task_store()
        wait_for(lambda: {t["id"]: t["pid"] for t in d.json("tasks", "ls") if t["status"] == "RUNNING"} == before,
                 "all are known again")
        assert "more" in [p["id"] for p in d.call("task.processes", "container_id=web")["processes"]]
        assert d.check("logs", "web") == "hello\n"
        for name in ("brief", "waits", "web"):
            d("exec", name, "touch", "/end")  # init may end, and it with it, before it has said so
        out, err = client.communicate(timeout=60)
        assert (client.returncode, out) == (5, b"out\n"), (client.returncode, out, err)
        assert d("wait", "web").stdout == b"7\n"
        wait_for(lambda: [c["id"] for c in d.json("containers", "ls")] == ["web"], "--rm is done")
        d.check("rm", "web")
        check_log(d.events())


def damage_task_stores(d):
    """The task service dies, and what it wrote is damaged when it comes back."""
    up = d.supervisor()
    os.kill(up, signal.SIGSTOP)
    try:
        pid = d.pid("davit-task")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not d.is_alive(pid), "it has ended")
        damage(d.state + "/task")
        damage(d.root + "/task")
    finally:
        os.kill(up, signal.SIGCONT)


def test_tasks_are_found_again_when_their_stores_are_damaged():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "while test ! -e /end; do sleep 0.05; done; exit 7")
        (before,) = d.json("tasks", "ls")
        wait_for(lambda: os.path.getsize(d.root + "/task/data.mdb") > 2 * 4096, "the row under the root")
        with d.without_task_service():
            damage(d.state + "/task")
            damage(d.root + "/task")
        wait_for(lambda: [(t["pid"], t["status"]) for t in d.json("tasks", "ls")] == [(before["pid"], "RUNNING")],
                 "it is known again")
        for folder in (d.state + "/task/broken", d.root + "/task/broken"):
            assert sorted(os.listdir(folder))[0] == "data.mdb", os.listdir(folder)
            with open(folder + "/reason") as f:
                assert f.read()
        d.check("exec", "web", "touch", "/end")
        assert d("wait", "web").stdout == b"7\n"
        wait_for(lambda: d("fsck").returncode == 0, "fsck finds nothing")
        d.check("rm", "web")
        check_log(d.events())


def test_services_killed_again_and_again_while_containers_run():
    with Davit() as d:
        d.import_busybox()
        for i in range(15):
            client = d.start("run", "--rm", "busybox", "k%d" % i, "sh", "-c", "exit %d" % (i + 1))
            time.sleep(0.003 * i)  # a different moment of the run each time
            d.kill(PROCESSES[i % len(PROCESSES)])
            out, err = client.communicate(timeout=90)
            assert client.returncode == i + 1, (i, PROCESSES[i % len(PROCESSES)], client.returncode, err)
        tasks = check_log(d.events())
        assert all(t == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] for t in tasks.values()), tasks


main(globals())
