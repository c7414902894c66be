#!/usr/bin/env python3
"""No cgroup outlives its container, nor its namespace's last container, in any hierarchy."""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mounted  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402

CGROUPS = "/sys/fs/cgroup"
RUNTIMES = [name for name in ("crun", "runc") if shutil.which(name)]


def tree(d):
    """All directories of this davit's cgroups, without the hierarchies' own names."""
    found = []
    for top in [CGROUPS] + [os.path.join(CGROUPS, name) for name in os.listdir(CGROUPS)]:
        for folder, _, _ in os.walk(os.path.join(top, d.cgroup())):
            found.append(folder)
    return sorted(set(found))


def processes(folder):
    with open(folder + "/cgroup.procs") as f:
        return [int(line) for line in f]


def names(d):
    return {folder.split("/" + d.cgroup(), 1)[1] for folder in tree(d)}


def test_after_many_containers_nothing_is_left_in_any_hierarchy():
    with Davit() as d:
        d.import_busybox()
        d.check("images", "import", d.work + "/busybox.tar")
        d.check("-n", "other", "images", "import", d.work + "/busybox.tar")
        d.check("run", "-d", "busybox", "stays", "sleep", "1000")
        d.note_cgroup("stays")
        assert "/default/stays" in names(d)

        def one(number):
            return d("-n", "other", "run", "--rm", "--runtime", RUNTIMES[number % len(RUNTIMES)], "busybox", "c%d" % number,
                     "true").returncode

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(one, range(40))) == {0}
        wait_for(lambda: names(d) == {"", "/default", "/default/stays"}, "only the one that stays", 20)
        d.check("rm", "-f", "stays")
        wait_for(lambda: not tree(d), "nothing is left: " + str(tree(d)), 20)
        assert d("run", "--rm", "busybox", "again", "true").returncode == 0


def test_a_signal_to_all_reaches_the_cgroups_below():
    """Into which a manager in the container puts its processes."""
    script = "trap '' TERM; (trap - TERM; exec sleep 999) & wait; sleep 1000"
    for runtime in RUNTIMES:
        with Davit() as d:
            d.import_busybox()
            d.check("run", "-d", "--runtime", runtime, "busybox", "c", "sh", "-c", script)
            d.note_cgroup("c")
            # A new one of cpuset takes nobody before it has processors.
            tops = [folder for folder in tree(d) if folder.endswith("/default/c") and "/cpuset/" not in folder]

            def inner():
                for pid in processes(tops[0]):
                    with open("/proc/%d/cmdline" % pid) as f:
                        if "999" in f.read().split("\0"):
                            return pid

            pid = wait_for(inner, "the inner one")
            for top in tops:
                os.mkdir(top + "/below")
                with open(top + "/below/cgroup.procs", "w") as f:
                    f.write(str(pid))
            d.check("kill", "-a", "-s", "TERM", "c")
            wait_for(lambda: not Davit.is_alive(pid), "the inner one has ended", 10)
            assert d.json("tasks", "ls")[0]["status"] == "RUNNING"
            d.check("rm", "-f", "c")
            wait_for(lambda: not tree(d), "nothing is left: " + str(tree(d)), 20)


# Deletes, and leaves the container's cgroup with a process in it: as one that the kernel cannot end yet.
LEAVING = """#!/bin/sh
%(runtime)s "$@"
code=$?
case " $* " in *" delete "*)
	mkdir -p %(folder)s/inner
	echo %(pid)d >%(folder)s/inner/cgroup.procs ;;
esac
exit $code
"""


def test_containers_run_where_the_parent_of_the_hierarchies_is_read_only():
    """As systemd has it; this process and the davits that it starts from here on see it so."""
    mounted.make_read_only(CGROUPS)
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            assert d.check("run", "--rm", "--runtime", runtime, "busybox", "a", "echo", "hello") == "hello\n"
            d.check("run", "-d", "--runtime", runtime, "busybox", "b", "sleep", "1000")
            d.note_cgroup("b")
            shim = d.call("task.get", "container_id=b")["process"]["shim_pid"]
            os.kill(shim, signal.SIGKILL)
            wait_for(lambda: d("exec", "b", "true").returncode == 0, "another shim serves it")
            d.check("rm", "-f", "b")


def test_a_busy_cgroup_is_removed_when_it_can_be_and_reported_until_then():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "first", "sleep", "1000")
        d.note_cgroup("first")
        folder = [f for f in tree(d) if f.endswith("/first") and "/cpuset/" not in f][-1].replace("/first", "/busy")
        d.check("rm", "-f", "first")
        guest = subprocess.Popen(["sleep", "1000"])
        try:
            with open(d.work + "/runtime", "w") as f:
                f.write(LEAVING % {"runtime": shutil.which(RUNTIMES[0]), "folder": folder, "pid": guest.pid})
            os.chmod(d.work + "/runtime", 0o755)
            d.check("run", "--rm", "--runtime", d.work + "/runtime", "busybox", "busy", "true")

            def reports():
                with open(os.path.join(d.state, "up.log")) as f:
                    return f.read().count("/busy is busy")
            wait_for(reports, "it is reported", 20)
            d.kill("davit-runtime")
            wait_for(lambda: reports() > 1, "the next one reports it too", 20)
            assert guest.poll() is None and os.path.isdir(folder)
        finally:
            guest.kill()
            guest.wait()
        wait_for(lambda: not tree(d), "nothing is left", 40)


def test_what_a_killed_davit_left_is_removed_by_the_next():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "kept", "sleep", "1000")
        d.note_cgroup("kept")
        for top in {f.rsplit("/" + d.cgroup(), 1)[0] for f in tree(d)}:
            os.makedirs(os.path.join(top, d.cgroup(), "gone", "old", "inner"))
        d.kill("davit-runtime")
        wait_for(lambda: names(d) == {"", "/default", "/default/kept"}, "only the one that lives", 20)
        d.check("rm", "-f", "kept")
        wait_for(lambda: not tree(d), "nothing is left", 20)


if __name__ == "__main__":
    main(globals())
