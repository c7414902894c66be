#!/usr/bin/env python3
"""Running containers, as a user does: streams, exit codes, many at once, and nothing left afterwards."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, check_log, main, wait_for  # noqa: E402


def test_output_and_exit_code_are_the_containers_own():
    with Davit() as d:
        d.import_busybox()
        result = d("run", "--rm", "busybox", "b1", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 7), result
        result = d("run", "--rm", "busybox", "b1", "sh", "-c", "sh -c 'kill -9 $$'; exit $?")
        assert result.returncode == 137, result
        tasks = check_log(d.events())
        assert len(tasks) == 2 and all(len(t) == 4 for t in tasks.values()), tasks


def test_standard_input_reaches_the_container_to_its_end():
    with Davit() as d:
        d.import_busybox()
        data = os.urandom(300000).hex().encode()
        result = d("run", "--rm", "busybox", "in", "md5sum", input=data)
        import hashlib
        assert result.stdout.split()[0].decode() == hashlib.md5(data).hexdigest(), result
        result = d("run", "--rm", "busybox", "cat", "cat", input=b"hello\n")
        assert result.stdout == b"hello\n", result


def test_much_output_comes_whole_and_in_order():
    with Davit() as d:
        d.import_busybox()
        result = d("run", "--rm", "busybox", "seq", "seq", "1", "200000")
        assert result.stdout == b"".join(b"%d\n" % i for i in range(1, 200001))
        assert result.returncode == 0


def test_a_program_that_is_not_there_gives_127_and_leaves_nothing():
    with Davit() as d:
        d.import_busybox()
        result = d("run", "--rm", "busybox", "none", "/no/such/program")
        assert result.returncode == 127, result
        assert b"/no/such/program" in result.stderr, result.stderr
        result = d("run", "--rm", "busybox", "none", "/etc/passwd")
        assert result.returncode == 126, result
        result = d("run", "--rm", "no-such-image", "none", "true")
        assert result.returncode == 125 and b"no-such-image" in result.stderr, result


def test_options_are_seen_from_inside():
    with Davit() as d:
        d.import_busybox()
        os.makedirs(d.work + "/data")
        with open(d.work + "/data/file", "w") as f:
            f.write("mounted\n")
        script = "id -u; id -g; id -G; pwd; echo $A; cat /data/file; hostname; touch /data/new && echo wrote"
        result = d("run", "--rm", "--user", "daemon:users", "--cwd", "/tmp", "--env", "A=b c",
                   "--mount", "type=bind,src=%s/data,dst=/data,options=rbind:ro" % d.work,
                   "--label", "x=y", "busybox", "opts", "sh", "-c", script)
        assert result.stdout.decode().splitlines() == ["1", "100", "100", "/tmp", "b c", "mounted", "opts"], result
        result = d("run", "--rm", "--memory-limit", "32M", "busybox", "mem", "sh", "-c",
                   "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || echo 33554432")
        assert result.stdout.strip() == b"33554432", result
        for options in (["--read-only"], []):
            result = d("run", "--rm", *options, "busybox", "ro", "touch", "/x")
            assert (result.returncode == 0) == (not options), result


def test_a_directory_of_the_host_can_be_the_root():
    with Davit() as d:
        root = d.work + "/rootfs"
        os.makedirs(root + "/bin")
        subprocess.run(["cp", "/bin/busybox", root + "/bin/"], check=True)
        for name in ("proc", "sys", "dev"):
            os.makedirs(root + "/" + name)
        result = d("run", "--rm", "--rootfs", root, "own", "/bin/busybox", "echo", "own root")
        assert result.stdout == b"own root\n", result


def test_detached_containers_are_listed_killed_waited_for_and_removed():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--pid-file", d.work + "/pid", "--label", "a=b", "busybox", "web", "sleep", "1000")
        d.note_cgroup("web")
        with open(d.work + "/pid") as f:
            pid = int(f.read())
        assert os.path.basename(os.readlink("/proc/%d/exe" % pid)) == "busybox"
        (task,) = d.json("tasks", "ls")
        assert (task["container_id"], task["pid"], task["status"]) == ("web", pid, "RUNNING"), task
        assert "web" in d.check("ps") and d.check("ps", "-q") == "web\n"
        result = d("containers", "rm", "web")
        assert result.returncode == 1 and b"web" in result.stderr, result
        waiter = d.start("wait", "web")
        d.check("kill", "-s", "KILL", "web")
        assert waiter.communicate(timeout=30)[0] == b"137\n"
        assert d("wait", "web").stdout == b"137\n"
        result = d("tasks", "kill", "web")
        assert result.returncode == 1 and b"finished" in result.stderr, result
        d.check("tasks", "rm", "web")
        d.check("containers", "rm", "web")


def test_a_created_container_is_started_later_and_again():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", "busybox", "later", "sh", "-c", "echo ran; exit 3")
        assert d.check("containers", "ls", "-q") == "later\n"
        for _ in range(2):
            result = d("tasks", "start", "later")
            assert (result.stdout, result.returncode) == (b"ran\n", 3), result
        d.check("containers", "label", "later", "k=v")
        assert json.loads(d.check("containers", "info", "later"))["labels"]["k"] == "v"
        d.check("containers", "rm", "later")


def test_output_goes_to_a_log_file():
    with Davit() as d:
        d.import_busybox()
        log = d.work + "/out/log"
        d.check("run", "-d", "--log-uri", "file://" + log, "busybox", "logged", "sh", "-c", "echo one; echo two >&2")
        assert d("wait", "logged").stdout == b"0\n"
        with open(log) as f:
            assert sorted(f.read().split()) == ["one", "two"]
        d.check("rm", "logged")


def test_signals_are_passed_on_in_the_foreground():
    with Davit() as d:
        d.import_busybox()
        client = d.start("run", "--rm", "busybox", "sig", "sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done")
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGUSR1)
        assert client.wait(timeout=30) == 9, client.stderr.read()


def test_rm_holds_when_the_client_dies():
    with Davit() as d:
        d.import_busybox()
        client = d.start("run", "--rm", "busybox", "orphan", "sh", "-c", "echo ready; sleep 1000")
        assert client.stdout.readline() == b"ready\n"
        client.kill()
        client.communicate()
        assert d.check("ps", "-q") == "orphan\n"
        d.check("kill", "-s", "KILL", "orphan")
        wait_for(lambda: d.check("containers", "ls", "-q") == "", "the container is removed")


def test_down_leaves_no_cgroup():
    with Davit() as d:
        d.import_busybox()
        for name in ("a", "b"):
            d.check("run", "-d", "busybox", name, "sleep", "1000")
        d.note_cgroup("a")
        assert [f for f, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(f) == d.cgroup()]
        d.down("--containers")
        assert not [f for f, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(f) == d.cgroup()]
        d.up()
        d.check("rm", "a")
        d.check("rm", "b")


def test_crun_is_run_from_a_sealed_copy_by_every_shim():
    with Davit() as d:
        d.import_busybox()
        wait_for(lambda: [r for r in d.call("runtime.list")["runtimes"] if r.get("version", "").startswith("crun ")], "crun has been asked")
        copies = set()
        for name in ("a", "b"):
            d.check("containers", "create", "--runtime", "crun", "busybox", name, "true")
            pid = d.call("task.create", "container_id=" + name)["pid"]
            assert os.readlink("/proc/%d/exe" % pid) == "/memfd:crun (deleted)", "what waits for its start is crun still"
            copies.add(os.stat("/proc/%d/exe" % pid).st_ino)
            d.check("rm", name)
        assert len(copies) == 1, copies


def test_200_short_containers_by_8_clients():
    def one(i):
        result = d("run", "--rm", "busybox", "c%d" % i, "sh", "-c", "echo o%d; echo e%d >&2; exit %d" % (i, i, i % 100))
        return i, result

    with Davit() as d:
        d.import_busybox()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for i, result in pool.map(one, range(200)):
                got = (result.stdout.decode(), result.stderr.decode(), result.returncode)
                assert got == ("o%d\n" % i, "e%d\n" % i, i % 100), (i, got)
        tasks = check_log(d.events())
        assert len(tasks) == 200
        assert all(t == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"] for t in tasks.values()), tasks


main(globals())
