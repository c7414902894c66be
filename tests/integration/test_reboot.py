"""The host is started again: what ran then has ended, with an exit that nobody saw, once, and its container is as it was."""

import os
import signal

from davit import PROCESSES, Davit, check_log, command_lines, main, wait_for


def power_off(d):
    """Ends everything at once, as the power does: davit, shims and containers."""
    tasks = [t["pid"] for t in d.call("task.list").get("tasks", [])]
    pids = [d.supervisor()] + [p for program in PROCESSES + ["davit-shim"] for p in d.pids(program)]
    for pid in pids[:1]:
        os.kill(pid, signal.SIGSTOP)  # it starts nothing again
    for pid in pids[1:] + tasks + pids[:1]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not [p for p, words in command_lines() if words and d.state in " ".join(words)], "all have ended")
    wait_for(lambda: not [p for p in tasks if d.is_alive(p)], "all containers have ended")
    d.is_up = False


def write_rows(d):
    """Rows of tasks reach the root's disk within a second, and at the latest when the service ends in order."""
    before = d.pid("davit-task")
    os.kill(before, signal.SIGTERM)
    wait_for(lambda: [p for p in d.pids("davit-task") if p != before], "the next one is there")
    d.call("task.list")


def n_reboots(d):
    return len([e for e in d.events() if e["topic"] == "/tasks/exit" and e["event"].get("cause") == "reboot"])


def exits(d):
    return {e["event"]["container_id"]: e["event"] for e in d.events() if e["topic"] == "/tasks/exit"}


def test_what_ran_has_ended_once_and_can_be_started_again():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "echo hello; sleep 1000")
        client = d.start("run", "--rm", "busybox", "gone", "sleep", "1000")
        wait_for(lambda: [t["status"] for t in d.json("ps")] == ["RUNNING", "RUNNING"], "both run")
        write_rows(d)
        client.kill()
        client.communicate()
        power_off(d)
        d.boot()
        told = wait_for(lambda: len(exits(d)) == 2 and exits(d), "both exits are in the log")
        for name in ("web", "gone"):
            assert told[name]["source"] == "unknown" and told[name]["cause"] == "reboot", told
            assert told[name]["exit_status"] == 255, told
        check_log(d.events())
        wait_for(lambda: [c["id"] for c in d.json("containers", "ls")] == ["web"], "--rm is done")
        assert d.call("task.wait", "container_id=web")["exit"]["cause"] == "reboot"
        assert "hello" in d.check("logs", "web")
        d.check("start", "-d", "web")
        d.check("exec", "web", "true")
        write_rows(d)
        power_off(d)
        d.boot()
        wait_for(lambda: n_reboots(d) == 3, "the second exit of it is told")
        check_log(d.events())
        d.check("rm", "web")
        for name in os.listdir(os.path.join(d.state, "fifo")):  # of the client that was killed: not a minute old
            os.utime(os.path.join(d.state, "fifo", name), (0, 0))
        d.check("fsck", "--repair")
        assert d.check("fsck") == "", "what earlier boots left in the state directory is gone"
        assert n_reboots(d) == 3


if __name__ == "__main__":
    main(globals())
