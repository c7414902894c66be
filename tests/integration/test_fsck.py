"""davit fsck: every orphan and contradiction has its name, --repair mends what is safe, and load is no finding."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

from davit import Davit, main, wait_for

TASK = "0123456789abcdef0123456789abcdef"  # no task's
HEX = hashlib.sha256(b"nobody's").hexdigest()


def fsck(d, *options):
    """Exit code and findings."""
    import json
    result = d("fsck", "--format", "json", *options)
    assert result.returncode in (0, 1), result.stderr.decode()
    return result.returncode, json.loads(result.stdout)


def names(findings):
    return {(f["problem"], f["kind"], f["id"]) for f in findings if not f["undecided"]}


def write(path, text="x"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def cgroup_folder(d):
    """A hierarchy in which this davit's containers have a cgroup."""
    for folder in sorted(os.listdir("/sys/fs/cgroup")):
        path = os.path.join("/sys/fs/cgroup", folder, d.cgroup())
        if os.path.isdir(path):
            return path
    return os.path.join("/sys/fs/cgroup", d.cgroup())


def make_orphans(d):
    """One of each kind; what fsck is to say of them."""
    write(os.path.join(d.root, "image/content/blobs/sha256", HEX))
    write(os.path.join(d.root, "image/content/ingest", TASK, "layer"))
    os.makedirs(os.path.join(d.root, "image/snapshots/0/fs"))
    write(os.path.join(d.root, "task/logs", TASK, "init/1"))
    write(os.path.join(d.state, "bundles", TASK, "config.json"), "{}")
    write(os.path.join(d.state, "oci", TASK, "status"), "{}")
    write(os.path.join(d.state, "s", TASK[:16]))
    fifos = os.path.join(d.state, "fifo", TASK[:16])
    os.makedirs(fifos)
    os.mkfifo(os.path.join(fifos, "web-stdin"))
    os.utime(fifos, (0, time.time() - 3600))
    os.makedirs(os.path.join(cgroup_folder(d), "default", "left"))
    mounted = os.path.join(d.state, "bundles", TASK, "rootfs")
    os.makedirs(mounted)
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    return {("orphan", "blob", "sha256:" + HEX), ("orphan", "ingest", TASK), ("orphan", "snapshot-directory", "0"),
            ("orphan", "log", TASK), ("orphan", "bundle", TASK), ("orphan", "oci", TASK), ("orphan", "socket", TASK[:16]),
            ("orphan", "fifo", TASK[:16]), ("orphan", "cgroup", "/%s/default/left" % d.cgroup()),
            ("orphan", "mount", mounted)}


def test_what_runs_and_what_has_ended_is_clean():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        d.check("exec", "web", "true")
        d.check("run", "busybox", "ended", "true")
        d.check("run", "--rm", "busybox", "gone", "true")
        assert fsck(d) == (0, []), fsck(d)
        assert d.check("fsck") == ""
        d.check("rm", "-f", "web", "ended")


def test_every_orphan_is_named_left_alone_and_removed_by_repair():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        d.note_cgroup("web")
        expected = make_orphans(d)
        try:
            code, findings = fsck(d)
            assert (code, names(findings)) == (1, expected), findings
            code, findings = fsck(d, "--repair")
            assert names(findings) == expected, "looking changed something"
            assert code == 0 and all(f["mended"] for f in findings), findings
        finally:
            subprocess.run(["umount", "-q", os.path.join(d.state, "bundles", TASK, "rootfs")], stderr=subprocess.DEVNULL)
        assert fsck(d) == (0, []), fsck(d)
        assert d.check("exec", "web", "echo", "alive") == "alive\n"
        d.check("rm", "-f", "web")


def test_what_a_host_with_shared_mounts_has_is_told_once():
    """As systemd's: what is mounted there comes to each shim, too."""
    with Davit() as d:
        d.down()
        plain, d.base = d.base, ["unshare", "-m", "--propagation", "shared"] + d.base
        d.up()
        d.base = plain
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        mounted = os.path.join(d.state, "bundles", TASK, "rootfs")
        os.makedirs(mounted)
        inside = ["nsenter", "-t", str(d.pid("davit-task")), "-m"]
        subprocess.run(inside + ["mount", "-t", "tmpfs", "none", mounted], check=True)
        with open("/proc/%d/mountinfo" % d.pid("davit-shim")) as f:
            assert mounted in f.read()
        expected = {("orphan", "mount", mounted), ("orphan", "bundle", TASK)}
        code, findings = fsck(d)
        assert (code, names(findings)) == (1, expected), findings
        code, findings = fsck(d, "--repair")
        assert code == 0 and names(findings) == expected and all(f["mended"] for f in findings), findings
        assert fsck(d) == (0, [])
        d.check("rm", "-f", "web")


def test_contradictions_are_named_and_not_mended():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        (layer,) = [s for s in d.json("snapshots", "ls") if s["kind"] == "committed"]
        blob = d.json("images", "ls")[0]["target"]["digest"]
        path = os.path.join(d.root, "image/content/blobs/sha256", blob.split(":")[1])
        os.rename(path, os.path.join(d.work, "away"))
        key = d.call("container.get", "id=web")["container"]["snapshot_key"]
        d.check("snapshots", "rm", key)
        code, findings = fsck(d, "--repair")
        found = names(findings)
        assert code == 1, findings
        assert ("fault", "blob", blob) in found, findings
        assert ("dangling", "snapshot", "default/%s/%s" % (layer["snapshotter"], key)) in found, findings
        assert not [f for f in findings if f["mended"]], findings
        os.rename(os.path.join(d.work, "away"), path)
        d.check("rm", "-f", "web")
        assert fsck(d) == (0, []), fsck(d)


def test_a_shim_that_no_record_knows_is_named():
    with Davit() as d:
        config = os.path.join(d.state, "bundles", TASK, "shim.msgpack")
        code = "import time; time.sleep(1000)"
        shim = subprocess.Popen(["davit-shim", "-c", code, "--config", config], executable=sys.executable)
        try:
            wait_for(lambda: names(fsck(d)[1]) == {("orphan", "shim", TASK)}, "it is named")
            assert fsck(d, "--repair")[0] == 1, "a process is never killed"
            assert shim.poll() is None
        finally:
            shim.kill()
            shim.wait()
        assert fsck(d) == (0, [])


def test_load_is_no_finding():
    with Davit() as d:
        d.import_busybox()
        failures = []

        def client(number):
            for i in range(8):
                result = d("run", "--rm", "busybox", "c%d-%d" % (number, i), "true")
                if result.returncode:
                    failures.append(result.stderr.decode())

        threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        looks = 0
        while any(t.is_alive() for t in threads):
            code, findings = fsck(d)
            assert code == 0, findings
            looks += 1
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert looks
        assert fsck(d) == (0, []), fsck(d)


def test_rows_for_after_a_reboot_are_made_to_agree():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        wait_for(lambda: fsck(d) == (0, []), "its row is written")
        os.kill(d.supervisor(), signal.SIGSTOP)
        try:
            d.kill("davit-task")
            for name in os.listdir(os.path.join(d.root, "task")):
                if name.endswith(".mdb"):
                    os.unlink(os.path.join(d.root, "task", name))
        finally:
            os.kill(d.supervisor(), signal.SIGCONT)
        wait_for(lambda: fsck(d) == (0, []), "the next service has written it again")
        d.check("rm", "-f", "web")


def test_without_a_davit_it_says_that_it_cannot_look():
    d = Davit()
    try:
        result = d("--timeout", "1s", "fsck")
        assert result.returncode == 2 and result.stderr, result
    finally:
        d.end()


if __name__ == "__main__":
    main(globals())
