#!/usr/bin/env python3
"""Shims outlive upgrades: a shim of an earlier release and this task service understand each other, and the other way round.

The releases are tapes (tests/tapes, made by shim_tape.py): what their shim and their task service said to each other.
RECORD=FILE writes the tape of this release anew."""

import glob
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import shim_tape  # noqa: E402
from davit import Davit, check_log, main, wait_for  # noqa: E402
from test_upgrade import OtherBin, upgrade  # noqa: E402

TAPES = sorted(glob.glob(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tapes", "*.jsonl")))


def lifecycle(d):
    """What a tape has: the same commands give the same codes."""
    d.check("containers", "create", "busybox", "w", "sleep", "1000")
    d.call("task.create", "container_id=w")
    d.call("task.start", "container_id=w")
    assert d("exec", "--exec-id", "e1", "w", "sh", "-c", "exit 9").returncode == 9
    d.check("pause", "w")
    d.check("resume", "w")


def end_of_life(d):
    d.check("kill", "-s", "KILL", "w")
    assert d("wait", "w").stdout == b"137\n"
    d.check("rm", "w")
    # The shim publishes its last event after it has answered.
    wait_for(lambda: [e for e in d.events() if e["topic"] == "/tasks/delete"], "the deletion is published")
    (topics,) = check_log(d.events()).values()
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], topics


def with_tape(mode, tape):
    d = Davit()
    shim_tape.install(OtherBin(d).bin, mode, tape)
    return d


if os.environ.get("RECORD"):
    with with_tape("record", os.environ["RECORD"]) as d:
        d.import_busybox()
        lifecycle(d)
        again = shim_tape.record_take_up(d.state)
        end_of_life(d)
    with open(os.environ["RECORD"], "a") as tape:
        tape.write(again)
    sys.exit(0)


def test_a_shim_of_an_earlier_release_is_served_and_taken_up():
    assert TAPES
    for tape in TAPES:
        with with_tape("play", tape) as d:
            d.import_busybox()
            lifecycle(d)
            pid = d.json("tasks", "ls")[0]["pid"]
            upgrade(d, "task")
            d.kill("davit-task")
            wait_for(lambda: [(t["status"], t["pid"]) for t in d.json("tasks", "ls")] == [("RUNNING", pid)], "it is taken up")
            end_of_life(d)


def test_a_task_service_of_an_earlier_release_is_served_by_this_shim():
    for tape in TAPES:
        with with_tape("old", tape) as d:
            d.import_busybox()
            lifecycle(d)
            end_of_life(d)


main(globals())
