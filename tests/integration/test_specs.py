#!/usr/bin/env python3
"""What a spec promises, seen from inside containers of both runtimes; and container records over the bus."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402

RUNTIMES = ("crun", "runc")


def inside(d, script, *options, name="s1"):
    result = d("run", "--rm", *options, "busybox", name, "sh", "-c", script)
    assert result.returncode == 0, result
    return result.stdout.decode().split("\n")[:-1]


def status(d, field, *options):
    (line,) = inside(d, "grep ^%s: /proc/self/status" % field, *options)
    return line.split()[1]


def test_a_container_has_no_more_than_it_needs():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            use = ("--runtime", runtime)
            assert int(status(d, "CapInh", *use), 16) == 0, runtime
            assert int(status(d, "CapAmb", *use), 16) == 0, runtime
            assert int(status(d, "CapBnd", *use), 16) == 0xa80425fb, runtime
            assert status(d, "NoNewPrivs", *use) == "1", runtime
            assert status(d, "NoNewPrivs", "--allow-new-privs", *use) == "0", runtime
            assert status(d, "Seccomp", *use) == "0" and status(d, "Seccomp", "--seccomp", *use) == "2", runtime
            assert inside(d, "ulimit -n; ulimit -Hn", *use) == ["1024", "1024"], runtime
            assert inside(d, "ulimit -n; ulimit -Hn", "--rlimit-nofile", "100:200", *use) == ["100", "200"], runtime
            assert inside(d, "ls -A /proc/scsi /sys/firmware 2>&1 | grep -v : ; wc -c < /proc/keys", *use)[-1] == "0"
            (mode,) = inside(d, "grep ' /proc/sys ' /proc/mounts", *use)
            assert mode.split()[3].startswith("ro"), mode


def test_a_privileged_container_has_all_that_davit_has():
    with Davit() as d:
        d.import_busybox()
        with open("/proc/self/status") as f:
            (ours,) = [line.split()[1] for line in f if line.startswith("CapPrm:")]
        for runtime in RUNTIMES:
            assert status(d, "CapEff", "--privileged", "--runtime", runtime) == ours, runtime
            lines = inside(d, "grep -c ' /proc/sys ' /proc/mounts; test -c /dev/kmsg && echo kmsg", "--privileged",
                           "--runtime", runtime)
            assert lines[0] == "0", lines


def test_the_default_seccomp_profile_refuses_and_lets_work():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            use = ("--runtime", runtime, "--cap-add", "CAP_SYS_ADMIN")
            assert inside(d, "mount -t tmpfs x /tmp && echo mounted", "--seccomp", *use) == ["mounted"]
            result = d("run", "--rm", "--seccomp", "--runtime", runtime, "busybox", "s2", "unshare", "-m", "true")
            assert result.returncode != 0, result
            assert inside(d, "ls / > /dev/null; sleep 0.01; echo fine", "--seccomp", "--runtime", runtime) == ["fine"]
        profile = d.work + "/profile.json"
        with open(profile, "w") as f:
            json.dump({"defaultAction": "SCMP_ACT_ALLOW",
                       "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}, f)
        options = ("--seccomp", "--seccomp-profile", profile)
        assert inside(d, "mkdir /x 2>/dev/null || echo refused", *options) == ["refused"]


def test_devices_hostname_network_and_terminal_variables():
    with Davit() as d:
        d.import_busybox()
        assert inside(d, "test -c /dev/mine && echo there", "--device", "/dev/null:/dev/mine:rw") == ["there"]
        assert inside(d, "hostname", "--hostname", "box") == ["box"]
        assert inside(d, "hostname") == ["s1"]
        host = os.readlink("/proc/self/ns/net")
        assert inside(d, "readlink /proc/self/ns/net", "--net-host") == [host]
        assert inside(d, "readlink /proc/self/ns/net") != [host]
        assert inside(d, "readlink /proc/self/ns/ipc", "--with-ns", "ipc:/proc/self/ns/ipc")
        with open("/etc/hosts") as f:
            assert "\n".join(inside(d, "cat /etc/hosts", "--net-host")).strip() == f.read().strip()


def test_what_reaches_for_the_host_is_refused_by_name():
    with Davit() as d:
        d.import_busybox()
        cases = [(("--cwd", "/proc/self/fd/%d" % n), "working directory") for n in (3, 7, 20)]
        cases += [(("--mount", "type=bind,src=/tmp,dst=/x,options=rbind:rshared"), "rshared"),
                  (("--rootfs-propagation", "shared"), "shared"),
                  (("--mount", "type=bind,src=/tmp,dst=/proc/sys"), "/proc/sys"),
                  (("--mount", "type=bind,src=/tmp,dst=/a/../../b"), "'..'"),
                  (("--user", "4294967296"), "4294967296"), (("--user", "-1"), "-1"),
                  (("--user", "no-such"), "no-such"), (("--cap-add", "CAP_NONE"), "CAP_NONE"),
                  (("--runtime", "none"), "none"), (("--runtime", "/etc/passwd"), "/etc/passwd"),
                  (("--cgroup", "/../../x"), "'..'")]
        for options, part in cases:
            result = d("run", "--rm", *options, "busybox", "s3", "true")
            assert result.returncode == 125 and part in result.stderr.decode(), (options, result)
        assert d.json("containers", "ls") == [] and d.leftovers() == []


def test_a_hand_made_spec_is_checked_again():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "model", "sleep", "1000")
        spec = json.loads(d.check("containers", "info", "--spec", "model"))
        d.check("rm", "-f", "model")
        root = d.work + "/root"
        os.makedirs(root + "/bin")
        for name in ("proc", "sys", "dev", "tmp", "run"):
            os.makedirs(root + "/" + name)
        subprocess.run(["cp", "/bin/busybox", root + "/bin/sh"], check=True)
        spec["root"]["path"] = root
        spec["process"]["args"] = ["/bin/sh", "-c", "cat /proc/self/status"]
        caps = spec["process"]["capabilities"]
        caps["inheritable"] = caps["ambient"] = caps["bounding"]
        spec["process"]["rlimits"][0]["hard"] = 1 << 40

        def run(name):
            path = d.work + "/config.json"
            with open(path, "w") as f:
                json.dump(spec, f)
            return d("run", "--rm", "--config", path, name)

        result = run("made")
        assert result.returncode == 0 and b"CapInh:\t0000000000000000" in result.stdout, result
        spec["process"]["cwd"] = "/proc/self/fd/9"
        result = run("made2")
        assert result.returncode == 125 and b"/proc/self/fd/9" in result.stderr, result
        spec["process"]["cwd"] = "/"
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "mount"]
        result = run("made3")
        assert result.returncode == 125 and b"mount namespace" in result.stderr, result
        with open(d.work + "/config.json", "w") as f:
            f.write("{\"ociVersion\": ")
        result = d("run", "--rm", "--config", d.work + "/config.json", "made4")
        assert result.returncode != 0 and b"JSON" in result.stderr, result


def test_a_hostile_passwd_neither_hangs_nor_fills_the_service():
    with Davit() as d:
        root = d.work + "/root"
        os.makedirs(root + "/etc")
        passwd = root + "/etc/passwd"
        pid = d.pid("davit-runtime")
        makers = [lambda: os.mkfifo(passwd), lambda: os.symlink("/dev/zero", passwd),
                  lambda: subprocess.run(["truncate", "-s", "16G", passwd], check=True),
                  lambda: os.mkdir(passwd), lambda: os.mknod(passwd, 0o20666, os.makedev(1, 5))]
        for make in makers:
            make()
            result = d("run", "--rm", "--rootfs", "--user", "daemon", root, "s4", "true", seconds=20)
            assert result.returncode == 125, result
            if os.path.isdir(passwd):
                os.rmdir(passwd)
            else:
                os.unlink(passwd)
        assert d.pid("davit-runtime") == pid


def test_runtimes_are_found_and_explained():
    with Davit() as d:
        def probed():
            found = d.call("runtime.list")["runtimes"]
            return found if all(r.get("version") for r in found if r.get("path")) else None

        found = wait_for(probed, "the probes' answers")
        assert [r["name"] for r in found] == ["crun", "runc"] and found[0]["is_default"], found
        assert all(r["usable"] and r["reason"] for r in found), found
        assert found[0]["cgroup_mode"] in ("v1", "hybrid", "v2"), found


def test_namespaces_are_apart_and_deleted_when_empty():
    with Davit() as d:
        d.import_busybox()
        root = d.work + "/root"
        os.makedirs(root)
        d.check("-n", "blue", "containers", "create", "--rootfs", root, "web", "true")
        d.check("containers", "create", "--rootfs", root, "web", "true")
        names = [n["name"] for n in d.json("namespaces", "ls")]
        assert "blue" in names and "default" in names, names
        result = d("namespaces", "rm", "blue")
        assert result.returncode == 1 and b"containers" in result.stderr, result
        d.check("-n", "blue", "containers", "rm", "web")
        d.check("namespaces", "rm", "blue")
        assert "blue" not in [n["name"] for n in d.json("namespaces", "ls")]
        assert [c["id"] for c in d.json("containers", "ls")] == ["web"]
        d.check("containers", "rm", "web")


def test_a_container_service_killed_in_the_midst_of_runs_loses_none():
    with Davit() as d:
        d.import_busybox()
        running = [d.start("run", "--rm", "busybox", "k%d" % n, "sh", "-c", "echo %d; exit %d" % (n, n))
                   for n in range(12)]
        for _ in range(3):
            d.kill("davit-container", "davit-runtime")
        for n, process in enumerate(running):
            out, err = process.communicate(timeout=60)
            assert (out, process.returncode) == (b"%d\n" % n, n), (n, out, err, process.returncode)
        wait_for(lambda: not d.json("containers", "ls"), "all containers are removed")


if __name__ == "__main__":
    main(globals())
