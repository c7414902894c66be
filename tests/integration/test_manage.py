#!/usr/bin/env python3
"""Managing containers that run, by the commands for it: logs, attach, stop, restart, stats, inspect."""

import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402


class Gate:
    """A script in a container waits at it ('until [ -e /gate/open ] …') until the test opens it."""

    def __init__(self, d):
        self.path = os.path.join(d.work, "gate")
        os.makedirs(self.path)
        self.mount = ["--mount", "type=bind,src=%s,dst=/gate,options=rbind:ro" % self.path]

    def open(self):
        open(os.path.join(self.path, "open"), "w").close()


CLOSED = "until [ -e /gate/open ]"


# ---- events ----

def test_a_cursor_goes_on_after_the_last_event_that_was_printed():
    with Davit() as d:
        for n in range(5):
            d.check("namespaces", "create", "ns%d" % n)
        read = ["events", "--cursor", "mine", "--no-follow", "--topic", "/namespaces/create",
                "--format", "json", "--count", "2"]
        seen = []
        for start in (["--from", "1"], [], [], []):
            lines = d.check(*read, *start).splitlines()
            seen += [json.loads(line)["object"] for line in lines]
        assert seen == ["ns%d" % n for n in range(5)], seen


# ---- logs ----

def test_logs_give_what_was_written_while_it_runs_and_after():
    with Davit() as d:
        d.import_busybox()
        gate = Gate(d)
        d.check("run", "-d", *gate.mount, "busybox", "web", "sh", "-c",
                "echo one; echo bad >&2; echo two; %s; do sleep 0.05; done; echo end" % CLOSED)
        wait_for(lambda: d("logs", "web").stdout == b"one\ntwo\n", "the lines are there")
        assert d("logs", "web").stderr == b"bad\n"
        follower = d.start("logs", "-f", "web")
        assert follower.stdout.readline() == b"one\n"
        gate.open()
        out = follower.stdout.read()
        assert (out, follower.wait(30)) == (b"two\nend\n", 0), out
        assert d("logs", "web").stdout == b"one\ntwo\nend\n"
        assert d("logs", "--tail", "1", "web").stdout == b"end\n"
        assert d("logs", "--tail", "0", "web").stdout == b""
        (line,) = d("logs", "--tail", "1", "--timestamps", "web").stdout.splitlines()
        assert line.endswith(b"Z end") and line.startswith(b"20"), line
        assert d("logs", "-f", "web").stdout == b"one\ntwo\nend\n"
        d.check("rm", "web")
        result = d("logs", "web")
        assert result.returncode == 1 and b"web" in result.stderr, result


def test_logs_are_bounded_by_times():
    with Davit() as d:
        d.import_busybox()
        gate = Gate(d)
        d.check("run", "-d", *gate.mount, "busybox", "web", "sh", "-c",
                "echo old; %s; do sleep 0.05; done; echo new; sleep 1000" % CLOSED)
        wait_for(lambda: d("logs", "web").stdout == b"old\n", "old is there")
        between = "%.3f" % time.time()
        gate.open()
        wait_for(lambda: d("logs", "web").stdout == b"old\nnew\n", "new is there")
        assert d("logs", "--since", between, "web").stdout == b"new\n"
        assert d("logs", "--until", between, "web").stdout == b"old\n"
        assert d("logs", "--since", "10m", "web").stdout == b"old\nnew\n"
        assert d("logs", "-f", "--until", between, "web").stdout == b"old\n"
        assert d("logs", "--since", "never", "web").returncode == 2
        d.check("rm", "-f", "web")


def test_logs_of_much_output_come_whole_in_order_and_tail_is_exact():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "seq", "sh", "-c", "seq 1 200000")
        assert d("wait", "seq").stdout == b"0\n"
        whole = b"".join(b"%d\n" % i for i in range(1, 200001))
        assert d("logs", "seq").stdout == whole
        assert d("logs", "--tail", "12345", "seq").stdout == b"".join(b"%d\n" % i for i in range(187656, 200001))
        d.check("rm", "seq")


def test_a_log_is_bounded_and_what_is_gone_is_not_there():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--log-max-size", "64K", "--log-max-files", "2", "busybox", "seq", "seq", "1", "100000")
        d.check("wait", "seq")
        lines = d("logs", "seq").stdout.splitlines()
        assert lines[-1] == b"100000" and 1000 < len(lines) < 40000, (lines[:1], len(lines))
        d.check("rm", "seq")


def test_no_log_and_null_io_have_no_log():
    with Davit() as d:
        d.import_busybox()
        for option in ("--no-log", "--null-io"):
            d.check("run", "-d", option, "busybox", "web", "sleep", "1000")
            result = d("logs", "web")
            assert result.returncode == 1 and result.stderr, result
            d.check("rm", "-f", "web")


def test_run_with_log_gives_the_streams_and_keeps_them():
    with Davit() as d:
        d.import_busybox()
        result = d("run", "--log", "busybox", "web", "sh", "-c", "cat; echo err >&2; exit 3", input=b"in\n")
        assert (result.stdout, result.stderr, result.returncode) == (b"in\n", b"err\n", 3), result
        d.check("rm", "web")


# ---- attach ----

def test_many_attach_and_each_sees_all():
    with Davit() as d:
        d.import_busybox()
        gate = Gate(d)
        d.check("run", "-d", *gate.mount, "busybox", "web", "sh", "-c",
                "%s; do echo tick; sleep 0.05; done; seq 1 20000; exit 4" % CLOSED)
        watchers = [d.start("attach", "web") for _ in range(3)]
        for watcher in watchers:
            assert watcher.stdout.readline() == b"tick\n"
        gate.open()
        for watcher in watchers:
            out, err = watcher.communicate(timeout=30)
            assert watcher.returncode == 4, err
            assert out.endswith(b"".join(b"%d\n" % i for i in range(1, 20001))), out[-40:]
        assert d("attach", "web").returncode == 125
        d.check("rm", "web")


def test_attach_feeds_the_input_of_an_interactive_container():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "-i", "busybox", "web", "sh", "-c", "read line; echo got $line; exit 2")
        result = d("attach", "web", input=b"word\n")
        assert (result.stdout, result.returncode) == (b"got word\n", 2), result
        d.check("rm", "web")


def test_attach_shows_the_output_of_a_container_whose_input_is_gone():
    with Davit() as d:
        d.import_busybox()
        gate = Gate(d)
        for name, options in (("closed", ["-i"]), ("never", [])):
            d.check("run", "-d", *options, *gate.mount, "busybox", name, "sh", "-c",
                    "cat; %s; do echo tick; sleep 0.05; done; exit 4" % CLOSED)
        d.call("task.close_io", "container_id=closed", "stdin=true")
        clients = [subprocess.Popen(d.base + ["attach", name], env=d.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE) for name in ("closed", "never")]
        for client in clients:
            client.stdin.write(b"nobody reads this\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"tick\n"
        gate.open()
        for client in clients:
            out, err = client.communicate(timeout=30)
            assert (client.returncode, err) == (4, b""), (client.returncode, err)
        d.check("rm", "closed", "never")


# ---- stop, restart, pause, update ----

def test_stop_gives_time_and_then_kills():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "kind", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        d.check("run", "-d", "busybox", "deaf", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        for name in ("kind", "deaf"):
            wait_for(lambda n=name: d("logs", n).stdout == b"ready\n", "ready")
        begin = time.monotonic()
        assert sorted(d.check("stop", "-t", "2", "kind", "deaf").split()) == ["deaf", "kind"]
        assert 1.9 < time.monotonic() - begin < 20
        assert d("wait", "kind", "deaf").stdout == b"3\n137\n"
        d.check("stop", "kind")  # has ended: fine
        result = d("stop", "nowhere")
        assert result.returncode == 1 and b"nowhere" in result.stderr, result
        d.check("rm", "kind", "deaf")


def test_restart_makes_a_new_task():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        (before,) = d.json("tasks", "ls")
        d.check("restart", "-t", "0", "web")
        (after,) = d.json("tasks", "ls")
        assert after["status"] == "RUNNING" and after["pid"] != before["pid"], (before, after)
        d.check("stop", "-t", "0", "web")
        d.check("restart", "web")
        d.check("rm", "-f", "web")


# ---- figures ----

def test_stats_show_what_is_used():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "busy", "sh", "-c", "while :; do :; done")
        d.check("run", "-d", "busybox", "idle", "sleep", "1000")
        rows = {r["container_id"]: r for r in d.json("stats", "--no-stream")}
        assert set(rows) == {"busy", "idle"}, rows
        assert rows["busy"]["cpu_percent"] > rows["idle"]["cpu_percent"] + 1, rows
        assert rows["idle"]["pids"] == 1 and rows["idle"]["memory_usage"] > 0, rows
        table = d.check("stats", "--no-stream", "idle").splitlines()
        assert table[0].startswith("CONTAINER") and table[1].startswith("idle") and len(table) == 2, table
        d.check("rm", "-f", "busy", "idle")


# ---- what there is ----

def test_inspect_shows_record_task_and_processes():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--label", "a=b", "busybox", "web", "sleep", "1000")
        (shown,) = json.loads(d.check("inspect", "web"))
        assert shown["container"]["labels"]["a"] == "b", shown
        assert shown["container"]["spec"]["process"]["args"] == ["sleep", "1000"], shown
        assert shown["task"]["status"] == "RUNNING" and [p["id"] for p in shown["processes"]] == ["web"], shown
        d.check("tasks", "rm", "-f", "web")
        assert [t["container_id"] for t in d.json("ps", "-a")] == ["web"]
        assert d.json("ps") == []
        assert d("wait", "web").stdout == b"137\n"
        d.check("rm", "web")
        assert d("inspect", "web").returncode == 1


def test_ps_lists_what_runs_what_has_ended_and_what_never_ran():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", "busybox", "idle", "true")
        d.check("run", "-d", "busybox", "ended", "sh", "-c", "exit 3")
        d.check("run", "-d", "busybox", "runs", "sleep", "1000")
        d.check("wait", "ended")
        assert sorted(d.check("ps", "-a", "-q").split()) == ["ended", "idle", "runs"]
        assert {c["container_id"]: c["status"] for c in d.json("ps", "-a")} == {
            "ended": "STOPPED", "idle": "NONE", "runs": "RUNNING"}
        rows = {line.split()[0]: line for line in d.check("ps", "-a").splitlines()}
        assert "Created" in rows["idle"] and "Exited (3)" in rows["ended"] and "RUNNING" in rows["runs"], rows
        assert d.check("ps", "-q") == "runs\n"
        d.check("rm", "-f", "idle", "ended", "runs")


def test_a_container_becomes_an_image_and_a_container_again():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "--env", "A=kept", "busybox", "web", "sh", "-c", "echo made >/made; rm /bin/vi; echo $A; exec sleep 1000")
        wait_for(lambda: d("logs", "web").stdout == b"kept\n", "it has written")
        d.check("containers", "checkpoint", "--rw", "web", "example.org/saved:1")
        assert d.json("ps")[0]["status"] == "RUNNING"
        d.check("rm", "-f", "web")
        # It runs by itself …
        result = d("run", "--rm", "example.org/saved:1", "new", "sh", "-c", "cat /made; test -e /bin/vi")
        assert (result.stdout, result.returncode) == (b"made\n", 1), result
        # … and comes back as it was, under another name, with and without what it had written.
        d.check("containers", "restore", "--rw", "again", "example.org/saved:1")
        wait_for(lambda: d("logs", "again").stdout == b"kept\n", "it has written")
        spec = json.loads(d.check("containers", "info", "--spec", "again"))
        assert spec["linux"]["cgroupsPath"].endswith("/again") and spec["hostname"] == "again", spec
        d.check("containers", "restore", "plain", "example.org/saved:1")
        result = d("containers", "restore", "no", "busybox")
        assert result.returncode == 1 and b"no checkpoint" in result.stderr, result
        result = d("containers", "checkpoint", "again", "example.org/saved:1")
        assert result.returncode == 1 and b"example.org/saved:1" in result.stderr, result
        d.check("rm", "-f", "again", "plain")
        assert d.json("leases", "ls") == []


def test_what_does_not_come_up_says_why():
    with Davit() as d:
        result = d("up", "--detach", "--log", d.work + "/second.log")
        assert result.returncode != 0, result
        assert b"did not come up: davit is up already in " + d.state.encode() in result.stderr, result
        assert d.json("tasks", "ls") == []


def test_operations_are_listed_over_all_services():
    with Davit() as d:
        assert d.json("operations") == []
        assert d.check("operations").split()[0] == "ID"
        result = d("operations", "cancel", "0" * 32)
        assert result.returncode == 1 and b"not found" in result.stderr, result
        assert d("operations", "cancel", "x").returncode == 2


if __name__ == "__main__":
    main(globals())
