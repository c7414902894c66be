#!/usr/bin/env python3
"""The flags of run and containers create, each seen from inside a container or in its cgroups, with every OCI runtime."""

import json
import os
import shutil
import stat
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402

RUNTIMES = [name for name in ("crun", "runc") if shutil.which(name)]
CGROUPS = "/sys/fs/cgroup"
IS_V2 = os.path.exists(CGROUPS + "/cgroup.controllers")
HAS_SYSTEMD = os.path.exists("/run/systemd/system")
HAS_APPARMOR = os.path.exists("/sys/module/apparmor") and bool(shutil.which("apparmor_parser"))


def run(d, runtime, *words, code=0):
    """What a container prints to its end, line by line."""
    result = d("run", "--rm", "--runtime", runtime, *words)
    assert result.returncode == code, (words, result)
    return result.stdout.decode().splitlines()


def refused(d, *words, part, code=None):
    """A refusal that says @part; nothing is made."""
    result = d("run", "--rm", *words, "busybox", "bad", "true")
    assert result.returncode not in (0,) and (code is None or result.returncode == code), (words, result)
    text = result.stderr.decode()
    assert all(p in text for p in ([part] if isinstance(part, str) else part)), (words, text)
    assert d.json("containers", "ls") == []
    assert not [s for s in d.json("snapshots", "ls") if s["kind"] != "committed"]


class Running:
    """A container that sleeps, and its cgroup files."""

    def __init__(self, d, runtime, *options, name="held"):
        self.d, self.name = d, name
        d.check("run", "-d", "--runtime", runtime, *options, "busybox", name, "sleep", "1000")
        d.note_cgroup(name) if "--cgroup" not in options else None
        (task,) = [t for t in d.json("tasks", "ls") if t["container_id"] == name]
        self.pid = task["pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.d.check("rm", "-f", self.name)

    def cgroup_path(self, controller):
        with open("/proc/%d/cgroup" % self.pid) as f:
            for line in f.read().splitlines():
                number, names, path = line.split(":", 2)
                if (IS_V2 and number == "0") or controller in names.split(","):
                    return path
        raise AssertionError("no cgroup of " + controller)

    def cgroup(self, controller, v1, v2):
        folder = CGROUPS + ("" if IS_V2 else "/" + controller) + self.cgroup_path(controller)
        with open(os.path.join(folder, v2 if IS_V2 else v1)) as f:
            return f.read().strip()

    def inside(self, path):
        return "/proc/%d/root%s" % (self.pid, path)

    def status(self, key):
        with open("/proc/%d/status" % self.pid) as f:
            return [line.split(":", 1)[1].strip() for line in f if line.startswith(key + ":")][0]


# ---- resources ----

def test_limits_stand_in_the_cgroups():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            with Running(d, runtime, "--memory-limit", "64M", "--cpu-shares", "512", "--cpu-quota", "50000", "--cpu-period",
                         "200000", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "77") as held:
                assert held.cgroup("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
                assert held.cgroup("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
                assert held.cgroup("cpu", "cpu.cfs_period_us", "cpu.max").split()[-1] == "200000"
                assert held.cgroup("cpu", "cpu.shares", "cpu.weight") == ("20" if IS_V2 else "512")
                assert held.cgroup("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
                assert held.cgroup("cpuset", "cpuset.mems", "cpuset.mems") == "0"
                assert held.cgroup("pids", "pids.max", "pids.max") == "77"
                assert held.status("Cpus_allowed_list") == "0"
            with Running(d, runtime, "--cpus", "1.5", "--pids-limit", "-1") as held:
                assert held.cgroup("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "150000"
                assert held.cgroup("cpu", "cpu.cfs_period_us", "cpu.max").split()[-1] == "100000"
                assert held.cgroup("pids", "pids.max", "pids.max") == "max"
            with Running(d, runtime, "--cpu-quota", "-1") as held:
                assert held.cgroup("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] in ("-1", "max")


def test_a_memory_limit_is_enforced():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            eat = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo survived"
            result = d("run", "--rm", "--runtime", runtime, "--memory-limit", "24M", "busybox", "oom", "sh", "-c", eat)
            assert b"survived" not in result.stdout and result.returncode != 0, result
            assert run(d, runtime, "--memory-limit", "256M", "busybox", "fits", "sh", "-c", eat) == ["survived"]


def test_a_limit_of_processes_is_enforced():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            many = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done 2>/dev/null; echo made"
            result = d("run", "--rm", "--runtime", runtime, "--pids-limit", "6", "busybox", "pids", "sh", "-c", many)
            assert b"made" not in result.stdout or b"fork" in result.stderr, result


def block_device():
    for name in sorted(os.listdir("/sys/block")):
        path = "/dev/" + name
        if name.startswith(("vd", "sd", "nvme", "xvd")) and os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode):
            return path
    return None


def check_weights(d, device, key):
    """They stand in one of two files, or are refused by name: BFQ's are nothing for crun."""
    weight, by_device = ("--blkio-weight", "300"), ("--blkio-weight-device", device + ":500")
    for runtime in RUNTIMES if not IS_V2 else ():
        with Running(d, runtime) as held:
            folder = CGROUPS + "/blkio" + held.cgroup_path("blkio")
            files = [f for f in ("blkio.weight", "blkio.bfq.weight") if os.path.exists(os.path.join(folder, f))]
        if not files or (runtime == "crun" and files == ["blkio.bfq.weight"]):
            refused(d, "--runtime", runtime, *weight, part=["blkio-weight:", "blkio.bfq.weight"])
            refused(d, "--runtime", runtime, *by_device, part=["blkio-weight-device:", "blkio.bfq.weight"])
            continue
        with Running(d, runtime, *weight) as held:
            assert held.cgroup("blkio", files[0], "").splitlines()[0].split()[-1] == "300"
        # A disk whose scheduler is another one has no weight of its own: the kernel says so.
        result = d("run", "-d", "--runtime", runtime, *by_device, "busybox", "disk", "sleep", "1000")
        if result.returncode:
            assert files[0].encode() + b"_device" in result.stderr and b"not supported" in result.stderr, result
            continue
        path = os.path.join(folder.rsplit("/", 1)[0], "disk", files[0] + "_device")
        with open(path) as f:
            assert key + " 500" in f.read()
        d.check("rm", "-f", "disk")


def test_block_io_limits_stand_in_the_cgroups():
    device = block_device()
    if not device or not os.path.exists(CGROUPS + ("" if IS_V2 else "/blkio")):
        print("no disk, or no controller for it: nothing to limit")
        return
    number = os.stat(device).st_rdev
    key = "%d:%d" % (os.major(number), os.minor(number))
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            with Running(d, runtime, "--blkio-read-bps", device + ":1M", "--blkio-write-bps", device + ":2097152",
                         "--blkio-read-iops", device + ":100", "--blkio-write-iops", device + ":200") as held:
                if IS_V2:
                    line = held.cgroup("io", "", "io.max")
                    assert all(w in line for w in (key, "rbps=1048576", "wbps=2097152", "riops=100", "wiops=200")), line
                    continue
                for file, value in (("read_bps", 1 << 20), ("write_bps", 2 << 20), ("read_iops", 100), ("write_iops", 200)):
                    assert held.cgroup("blkio", "blkio.throttle.%s_device" % file, "") == "%s %d" % (key, value)
        check_weights(d, device, key)
        refused(d, "--blkio-read-bps", "/dev/null:1M", part=["blkio-read-bps", "not a block device"])
        refused(d, "--device-read-bps", device, part=["blkio-read-bps", "NUMBER"])
        refused(d, "--blkio-write-iops", device + ":0", part=["blkio-write-iops", "1 to"])
        refused(d, "--blkio-weight-device", device + ":5", part=["blkio-weight-device", "10 to 1000"])
        refused(d, "--blkio-weight", "5", part=["blkio-weight", "10 and 1000"])


def test_wrong_limits_are_refused_with_the_flag_and_the_limit():
    with Davit() as d:
        d.import_busybox()
        for flag, value, limit in (
                ("memory-limit", "1M", "2097152"), ("cpu-shares", "1", "between 2 and 262144"), ("cpu-shares", "262145", "262144"),
                ("cpu-quota", "10", "1000"), ("cpu-quota", "-7", "1000"), ("cpu-quota", "x", "not a whole number"),
                ("cpu-period", "999", "between 1000 and 1000000"), ("cpu-period", "1000001", "1000000 us"),
                ("cpuset-cpus", "0-4000", "this host has"), ("cpuset-cpus", "0,", "0-3,7"), ("cpuset-cpus", "3-1", "0-3,7"),
                ("cpuset-mems", "99", "this host has"), ("pids-limit", "4194305", "4194304"), ("pids-limit", "-2", "4194304"),
                ("cpus", "0", "0.01"), ("cpus", "nan", "0.01"), ("cpus", "1e9", "1000000"),
                ("rlimit-nofile", "9:3", "soft <= hard"), ("rlimit-nofile", "many", "soft[:hard]"), ("rlimit-nofile", "1:9999999999999", "not possible"), ("memory-limit", "lots", "number")):
            refused(d, "--" + flag, value, part=[flag, limit])
        refused(d, "--cpus", "1", "--cpu-quota", "1000", part=["--cpus", "--cpu-quota"])


# ---- cgroup ----

def test_the_cgroup_is_the_one_named_and_gone_afterwards():
    with Davit() as d:
        d.import_busybox()
        path = "/davit-flags-%d/a/b" % os.getpid()
        for runtime in RUNTIMES:
            with Running(d, runtime, "--cgroup", path) as held:
                assert held.cgroup_path("memory") == path
            wait_for(lambda: not [f for f, _, _ in os.walk(CGROUPS) if f.endswith(path)], "the cgroup is gone", 10)
        refused(d, "--cgroup", "/", part="the host's own")
        refused(d, "--cgroup", "/a/../b", part="'..'")
        subprocess.run(["find", CGROUPS, "-depth", "-path", "*/davit-flags-%d*" % os.getpid(), "-type", "d", "-exec", "rmdir", "{}",
                        ";"], check=False, stderr=subprocess.DEVNULL)


def test_a_container_without_a_cgroup_of_its_own():
    with Davit() as d:
        d.import_busybox()
        if "crun" in RUNTIMES:
            with Running(d, "crun", "--cgroup", "") as held:
                (shim,) = d.pids("davit-shim") or [0]
                with open("/proc/%d/cgroup" % held.pid) as inner, open("/proc/%d/cgroup" % (shim or os.getpid())) as outer:
                    assert inner.read() == outer.read()
        refused(d, "--runtime", "runc", "--cgroup", "", part=["cgroup", "crun"])


def test_systemd_cgroups_need_systemd():
    if not HAS_SYSTEMD:
        with Davit() as d:
            d.import_busybox()
            refused(d, "--systemd-cgroup", part=["systemd-cgroup", "systemd does not run"])
            refused(d, "--runc-systemd-cgroup", part="systemd does not run")


def test_a_scope_of_systemd_has_limits_figures_and_kills_for_memory():
    if not HAS_SYSTEMD:
        print("systemd does not run here: not tried")
        return
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            d.check("run", "-d", "--runtime", runtime, "--systemd-cgroup", "--memory-limit", "33554432", "busybox", "sd", "sh", "-c",
                    "while [ ! -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=100M count=1")
            (task,) = d.json("ps")
            with open("/proc/%d/cgroup" % task["pid"]) as f:
                (scope,) = {line.strip().split("/")[2] for line in f if line.count("/") > 1 and "system.slice" in line}
            assert scope.endswith("default-sd.scope"), scope
            figures = json.loads(d.check("tasks", "metrics", "--format", "json", "sd"))
            assert figures["memory_limit"] == 33554432 and figures["pids_current"] >= 1, figures
            d.check("pause", "sd")
            d.check("resume", "sd")
            d.check("exec", "sd", "touch", "/go")
            assert d("wait", "sd").stdout == b"137\n"
            exit = d.call("task.wait", "container_id=sd")["exit"]
            assert exit["oom_killed"], exit
            d.check("rm", "sd")
            assert scope not in subprocess.run(["systemctl", "list-units", "--all"], capture_output=True, text=True).stdout


APPARMOR = """profile %s flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  mount,
  signal,
  deny /denied r,
}
"""


def test_a_profile_of_apparmor_holds():
    if not HAS_APPARMOR:
        print("AppArmor is not enabled here: not tried")
        return
    name = "davit-test-%d" % os.getpid()
    script = "cat /proc/self/attr/current; echo secret >/denied; cat /denied; echo $?"
    with Davit() as d:
        d.import_busybox()
        path = os.path.join(d.work, name)
        with open(path, "w") as f:
            f.write(APPARMOR % name)
        subprocess.run(["apparmor_parser", "--replace", "--skip-cache", path], check=True)
        try:
            for runtime in RUNTIMES:
                lines = run(d, runtime, "--apparmor-profile", name, "busybox", "aa", "sh", "-c", script)
                assert lines == [name + " (enforce)", "1"], lines
                refused(d, "--runtime", runtime, "--apparmor-profile", "none-such", part=["'none-such' is not loaded"], code=125)
                # davit's own profile is loaded where it is not there yet.
                lines = run(d, runtime, "--apparmor-default-profile", name + "-own", "busybox", "ad", "sh", "-c", script)
                assert lines == [name + "-own (enforce)", "secret", "0"], lines
        finally:
            with open("/sys/kernel/security/apparmor/profiles") as f:
                loaded = f.read()
            for profile in (name, name + "-own"):
                if profile + " (" in loaded:
                    with open("/sys/kernel/security/apparmor/.remove", "w") as f:
                        f.write(profile)


# ---- the process ----

def test_the_process_is_as_asked():
    with Davit() as d:
        d.import_busybox()
        with open(d.work + "/vars", "w") as f:
            f.write("# a comment\nFROM_FILE=f g\n\n  SPACED=1\nBOTH=file\n")
        os.symlink(d.work + "/vars", d.work + "/link")
        for runtime in RUNTIMES:
            lines = run(d, runtime, "--cwd", "/tmp", "-e", "A=b c", "-e", "BOTH=flag", "--env-file", d.work + "/link", "-u", "1:100",
                        "--hostname", "box", "busybox", "p", "sh", "-c",
                        "pwd; echo $A; echo $FROM_FILE; echo $SPACED; echo $BOTH; id -u; id -g; hostname")
            assert lines == ["/tmp", "b c", "f g", "1", "flag", "1", "100", "box"], lines
            assert run(d, runtime, "--rlimit-nofile", "100:200", "busybox", "n", "sh", "-c", "ulimit -Sn; ulimit -Hn") == \
                ["100", "200"]
            assert run(d, runtime, "busybox", "nnp", "grep", "NoNewPrivs", "/proc/self/status") == ["NoNewPrivs:\t1"]
            assert run(d, runtime, "--allow-new-privs", "busybox", "nnp", "grep", "NoNewPrivs", "/proc/self/status") == \
                ["NoNewPrivs:\t0"]
        refused(d, "--env-file", d.work + "/none", part=["--env-file", "none"])
        refused(d, "-e", "=x", part=["env", "no name"])
        refused(d, "--cwd", "/proc/self/fd/7", part=["cwd", "/proc"])
        refused(d, "--cwd", "rel", part=["cwd", "not an absolute path"])
        refused(d, "--user", "nobody-here", part=["user: ", "nobody-here"])
        refused(d, "--hostname", "a/b", part="hostname 'a/b'")
        refused(d, "--hostname", "x" * 65, part="hostname")


def capabilities(lines):
    return {line.split(":")[0]: int(line.split()[1], 16) for line in lines}


def test_capabilities_are_added_and_dropped():
    with Davit() as d:
        d.import_busybox()
        words = ["busybox", "caps", "grep", "Cap", "/proc/self/status"]
        chown, ptrace = 1 << 0, 1 << 19
        for runtime in RUNTIMES:
            plain = capabilities(run(d, runtime, *words))
            assert plain["CapBnd"] & chown and not plain["CapBnd"] & ptrace and plain["CapInh"] == 0 == plain["CapAmb"], plain
            changed = capabilities(run(d, runtime, "--cap-add", "CAP_SYS_PTRACE", "--cap-drop", "CAP_CHOWN", *words))
            for kind in ("CapPrm", "CapEff", "CapBnd"):
                assert changed[kind] == (plain[kind] | ptrace) & ~chown, changed
            assert run(d, runtime, "--cap-drop", "CAP_CHOWN", "busybox", "c", "sh", "-c",
                       "chown 1 /etc/passwd 2>/dev/null || echo denied") == ["denied"]
        refused(d, "--cap-add", "SYS_ADMIN", part=["cap-add", "SYS_ADMIN", "CAP_"])
        refused(d, "--cap-drop", "all", part=["cap-drop", "not a capability"])


def test_privileged_has_all_and_can_do_without_the_devices():
    with Davit() as d:
        d.import_busybox()
        with open("/proc/self/status") as f:
            own = capabilities([line for line in f if line.startswith("CapBnd")])["CapBnd"]
        script = "grep CapEff /proc/self/status; ls /dev; " \
                 "mount -o remount,rw /sys 2>/dev/null; grep ' /sys sysfs' /proc/mounts; cat /proc/kcore 2>&1 | head -c 1 | wc -c"
        for runtime in RUNTIMES:
            lines = run(d, runtime, "--privileged", "busybox", "priv", "sh", "-c", script)
            assert capabilities(lines[:1])["CapEff"] == own, lines
            assert "kmsg" in lines and any(" rw" in line and "sysfs" in line for line in lines), lines
            lines = run(d, runtime, "--privileged", "--privileged-without-host-devices", "busybox", "priv", "sh", "-c", script)
            assert capabilities(lines[:1])["CapEff"] == own and "kmsg" not in lines and "null" in lines, lines
            lines = run(d, runtime, "busybox", "plain", "sh", "-c", script)
            assert "kmsg" not in lines and any("sysfs ro" in line for line in lines), lines
        refused(d, "--privileged-without-host-devices", part=["privileged-without-host-devices", "needs privileged"])


def test_devices_and_trees_of_devices_are_passed_in():
    with Davit() as d:
        d.import_busybox()
        tree = d.work + "/tree"
        os.makedirs(tree + "/sub")
        os.mknod(tree + "/a", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(tree + "/sub/b", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        with open(tree + "/file", "w"):
            pass
        for runtime in RUNTIMES:
            lines = run(d, runtime, "--device", "/dev/kmsg:/dev/messages:r", "--device", tree, "busybox", "dev", "sh", "-c",
                        "stat -c '%%t:%%T' /dev/messages %s/a %s/sub/b; ls %s; head -c 3 %s/sub/b | wc -c" % (tree, tree, tree, tree))
            assert lines == ["1:b", "1:3", "1:5", "a", "sub", "3"], lines
            with Running(d, runtime, "--device", "/dev/kmsg:/dev/messages:r") as held:
                if not IS_V2:
                    assert "c 1:11 r" in held.cgroup("devices", "devices.list", "").splitlines()
        refused(d, "--device", "/no/such", part=["device", "/no/such", "No such file"])
        refused(d, "--device", "/etc/passwd", part=["device", "/etc/passwd"])
        refused(d, "--device", "/dev/null:/dev/x:q", part=["device", "r, w and m"])


# ---- security ----

def test_seccomp_profiles_forbid_calls():
    with Davit() as d:
        d.import_busybox()
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
        with open(d.work + "/profile.json", "w") as f:
            json.dump(profile, f)
        script = "grep Seccomp: /proc/self/status; mkdir /tmp/x 2>/dev/null && echo made; " \
                 "unshare -U true 2>/dev/null && echo unshared"
        for runtime in RUNTIMES:
            assert run(d, runtime, "busybox", "s0", "sh", "-c", script)[:2] == ["Seccomp:\t0", "made"]
            assert run(d, runtime, "--seccomp", "busybox", "s1", "sh", "-c", script + "; true") == ["Seccomp:\t2", "made"]
            lines = run(d, runtime, "--seccomp", "--seccomp-profile", d.work + "/profile.json", "busybox", "s2", "sh", "-c",
                        script + "; true")
            assert lines[0] == "Seccomp:\t2" and "made" not in lines, lines
        refused(d, "--seccomp-profile", d.work + "/profile.json", part=["--seccomp-profile", "--seccomp"])
        refused(d, "--seccomp", "--seccomp-profile", d.work + "/none", part=["--seccomp-profile", "none"])
        with open(d.work + "/bad", "w") as f:
            f.write("{}")
        refused(d, "--seccomp", "--seccomp-profile", d.work + "/bad", part="not a seccomp profile")


def test_what_this_host_lacks_is_refused_by_name():
    with Davit() as d:
        d.import_busybox()
        if not os.path.exists("/sys/module/apparmor"):
            refused(d, "--apparmor-profile", "mine", part=["apparmor-profile", "mine", "not enabled"])
            refused(d, "--apparmor-default-profile", "mine", part=["apparmor-default-profile", "not enabled"])
        if not os.path.exists("/sys/fs/resctrl/schemata"):
            refused(d, "--rdt-class", "gold", part=["rdt-class", "resctrl"])
        if not shutil.which("nvidia-container-cli"):
            refused(d, "--gpus", "0", part=["--gpus", "nvidia-container-cli"])


# ---- file systems ----

def test_mounts_and_roots():
    with Davit() as d:
        d.import_busybox()
        os.makedirs(d.work + "/data")
        with open(d.work + "/data/file", "w") as f:
            f.write("mounted\n")
        for runtime in RUNTIMES:
            lines = run(d, runtime, "--mount", "type=bind,src=%s/data,dst=/data,options=rbind:ro" % d.work,
                        "--mount", "type=tmpfs,dst=/small,options=size=64k:nosuid", "busybox", "m", "sh", "-c",
                        "cat /data/file; touch /data/x 2>/dev/null || echo read-only; grep ' /small ' /proc/mounts")
            assert lines[:2] == ["mounted", "read-only"] and "tmpfs" in lines[2] and "size=64k" in lines[2], lines
            assert run(d, runtime, "--read-only", "busybox", "ro", "sh", "-c",
                       "touch /x 2>/dev/null || echo read-only; touch /run/x && echo run") == ["read-only", "run"]
            assert run(d, runtime, "--no-pivot", "busybox", "np", "ls", "/bin/busybox") == ["/bin/busybox"]
            assert run(d, runtime, "--rootfs-propagation", "rslave", "busybox", "rp", "echo", "ok") == ["ok"]
        refused(d, "--mount", "type=bind,src=x,dst=/x", part=["mount", "absolute"])
        refused(d, "--mount", "type=bind,src=/x", part="--mount")
        refused(d, "--mount", "type=bind,src=/tmp,dst=/t,options=rbind:rshared", part=["rshared", "/t"])
        refused(d, "--mount", "type=bind,src=/no/such/dir,dst=/t", part="/no/such/dir")
        refused(d, "--rootfs-propagation", "shared", part=["rootfs-propagation", "propagation 'shared'"])
        refused(d, "--rootfs-propagation", "odd", part=["rootfs-propagation", "not a propagation"])


def test_a_directory_as_root():
    with Davit() as d:
        root = d.work + "/root"
        for name in ("bin", "proc", "sys", "dev"):
            os.makedirs(root + "/" + name)
        shutil.copy("/bin/busybox", root + "/bin/")
        for runtime in RUNTIMES:
            assert run(d, runtime, "--rootfs", root, "own", "/bin/busybox", "echo", "own") == ["own"]
        result = d("run", "--rm", "--rootfs", d.work + "/none", "own", "true")
        assert result.returncode and b"none" in result.stderr, result


# ---- namespaces ----

def test_the_hosts_network_and_other_namespaces():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            assert run(d, runtime, "--net-host", "busybox", "net", "readlink", "/proc/self/ns/net") == \
                [os.readlink("/proc/self/ns/net")]
            assert run(d, runtime, "busybox", "net", "readlink", "/proc/self/ns/net") != [os.readlink("/proc/self/ns/net")]
            if os.path.exists("/etc/hosts"):
                with open("/etc/hosts") as f:
                    assert run(d, runtime, "--net-host", "busybox", "hosts", "cat", "/etc/hosts") == f.read().splitlines()
            with Running(d, runtime) as held:
                for kind, file in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")):
                    path = "/proc/%d/ns/%s" % (held.pid, file)
                    assert run(d, runtime, "--with-ns", "%s:%s" % (kind, path), "busybox", "join", "readlink",
                               "/proc/self/ns/" + file) == [os.readlink(path)], kind
        refused(d, "--with-ns", "mount:/proc/1/ns/mnt", part=["with-ns", "namespace"])
        refused(d, "--with-ns", "user:/proc/1/ns/user", part=["with-ns", "cannot be joined"])
        refused(d, "--with-ns", "network", part=["with-ns", "type:path"])


# ---- user namespaces ----

MAPS = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"]


def test_a_user_namespace_on_a_root_of_the_callers():
    with Davit() as d:
        layout, root = os.path.join(d.work, "layout"), os.path.join(d.work, "root")
        for folder in (layout, root):
            os.mkdir(folder)
        d.import_busybox()
        subprocess.run(["tar", "-xf", os.path.join(d.work, "busybox.tar"), "-C", layout], check=True)
        blobs = os.path.join(layout, "blobs", "sha256")
        layer = max((os.path.join(blobs, b) for b in os.listdir(blobs)), key=os.path.getsize)
        subprocess.run(["tar", "-xzf", layer, "-C", root], check=True)
        subprocess.run(["chown", "-R", "100000:100000", root], check=True)
        words = [*MAPS, "--rootfs", root, "own", "sh", "-c", "id -u; echo x >/new; stat -c %u /bin /new"]
        result = d("run", "--rm", *words)
        assert result.returncode == 125 and b"cannot reach" in result.stderr and b"0711" in result.stderr, result
        os.chmod(d.work, 0o711)
        os.chmod(d.state, 0o711)
        for runtime in RUNTIMES:
            assert run(d, runtime, *words) == ["0", "0", "0"]
        assert os.stat(os.path.join(root, "new")).st_uid == 100000


def test_a_user_namespace_has_its_own_ids_and_owns_its_files():
    with Davit() as d:
        d.import_busybox()
        script = "cat /proc/self/uid_map; id -u; stat -c %u:%g /bin /etc/passwd; echo x >/new; chown 1:1 /new; mkdir /dir; " \
                 "rm /etc/passwd; stat -c %u:%g /new; touch /proc/sys/x 2>/dev/null || echo denied"
        for runtime in RUNTIMES:
            if runtime == "runc":
                refused(d, "--runtime", "runc", *MAPS, part=["uidmap", "use crun", "0711"])
                os.chmod(d.work, 0o711)
                os.chmod(d.state, 0o711)
            for snapshotter in ("overlayfs", "native"):
                lines = run(d, runtime, *MAPS, "--snapshotter", snapshotter, "busybox", "un", "sh", "-c", script)
                assert lines[0].split() == ["0", "100000", "65536"], lines
                assert lines[1:] == ["0", "0:0", "0:0", "1:1", "denied"], (snapshotter, lines)
            with Running(d, runtime, *MAPS, "--uidmap", "65536:1000:1", "--user", "daemon", "--read-only") as held:
                assert held.status("Uid").split()[0] == "100001" and held.status("Gid").split()[0] == "200001"
            for more in (["--net-host"], ["--privileged"], ["--seccomp", "--device", "/dev/kmsg"]):
                assert run(d, runtime, *MAPS, *more, "busybox", "more", "sh", "-c", "id -u; ls -d /sys/kernel") == ["0", "/sys/kernel"]
            lines = run(d, runtime, "busybox", "host", "stat", "-c", "%u:%g", "/bin", "/etc/passwd")
            assert lines == ["0:0", "0:0"], lines


def test_what_a_user_namespace_writes_is_kept_as_its_own_ids():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", *MAPS, "busybox", "kept", "sh", "-c", "stat -c %u:%g /new || { echo x >/new; chown 3:4 /new; }")
        assert d("tasks", "start", "kept").stdout == b""
        assert d("tasks", "start", "kept").stdout == b"3:4\n"
        files = [os.path.join(f, "new") for f, _, names in os.walk(d.root + "/image/snapshots") if "new" in names]
        assert [(os.stat(f).st_uid, os.stat(f).st_gid) for f in files] == [(3, 4)], files
        d.check("containers", "rm", "kept")


def test_maps_of_ids_are_labels_where_asked_and_refused_where_wrong():
    with Davit() as d:
        d.import_busybox()
        with Running(d, "crun", *MAPS, "--remap-labels"):
            (snapshot,) = [s for s in d.json("snapshots", "ls") if s["kind"] != "committed"]
            assert snapshot["labels"]["containerd.io/snapshot/uidmapping"] == "0:100000:65536", snapshot
        refused(d, "--uidmap", "0:1:1", part="needed together")
        refused(d, "--uidmap", "0:1", "--gidmap", "0:1:1", part=["uidmap", "container-id:host-id:length"])
        refused(d, "--uidmap", "5:1:1", "--gidmap", "0:1:1", part=["uidmap", "id 0"])
        refused(d, "--uidmap", "0:4294967000:1000", "--gidmap", "0:1:1", part=["uidmap", "largest id"])


# ---- the runtime ----

def test_the_runtime_is_the_one_named():
    with Davit() as d:
        d.import_busybox()
        for runtime in RUNTIMES:
            path = shutil.which(runtime)
            root = d.work + "/oci-" + runtime
            with Running(d, path, "--runc-root", root) as held:
                assert len(os.listdir(root)) == 1
                assert json.loads(d.check("containers", "info", held.name))["runtime"] in (runtime, path)
            assert os.listdir(root) == []
            d.check("run", "--rm", "--runc-binary", path, "busybox", "bin", "true")
            d.check("run", "--rm", "--runtime", "io.containerd.%s.v2" % runtime, "busybox", "bin", "true")
        refused(d, "--runtime", "none-such", part="none-such")
        refused(d, "--runtime", "/none/such", part="/none/such")
        refused(d, "--runc-root", "rel", part=["runc-root", "absolute"])
        refused(d, "--runtime", "crun", "--runc-binary", "/x", part=["--runtime", "--runc-binary"])


def test_a_whole_spec_with_hooks():
    with Davit() as d:
        d.import_busybox()
        dump = d.work + "/spec.json"
        d.check("run", "--rm", "--dump-config", dump, "--env", "DUMPED=1", "busybox", "dumped", "true")
        with open(dump) as f:
            spec = json.load(f)
        assert spec["process"]["args"] == ["true"] and "DUMPED=1" in spec["process"]["env"], spec
        spec["process"]["args"] = ["sh", "-c", "echo $DUMPED"]
        for runtime in RUNTIMES:
            mark = d.work + "/hook-" + runtime
            # A hook that ends before crun 1.8 has written the state to it fails there with EPIPE.
            spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; echo %s >>%s" % (kind, mark)]}]
                             for kind in ("prestart", "createRuntime", "poststart", "poststop")}
            with open(dump, "w") as f:
                json.dump(spec, f)
            assert run(d, runtime, "-c", dump, "busybox", "whole") == ["1"]
            with open(mark) as f:
                told = f.read().split()
            assert told == ["prestart", "createRuntime", "poststart", "poststop"], (runtime, told)
        result = d("run", "--rm", "-c", dump, "--memory-limit", "64M", "busybox", "both")
        assert result.returncode and b"--memory-limit" in result.stderr, result
        spec["process"]["args"] = ["/no/such"]
        result = d("run", "--rm", "--dump-config", dump, "busybox", "gone", "/no/such")
        assert result.returncode == 127
        with open(dump) as f:
            assert json.load(f)["process"]["args"] == ["/no/such"]


# ---- records ----

def test_labels_annotations_snapshots_platforms_and_pid_files():
    with Davit() as d:
        d.import_busybox()
        with Running(d, RUNTIMES[0], "--label", "a=b", "--annotation", "x.y=z", "--snapshotter-label", "s=t", "--pid-file",
                     d.work + "/pid", "--platform", "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]) as held:
            info = json.loads(d.check("containers", "info", held.name))
            assert info["labels"]["a"] == "b" and info["spec"]["annotations"] == {"a": "b", "x.y": "z"}, info
            (snapshot,) = [s for s in d.json("snapshots", "ls") if s["kind"] != "committed"]
            assert snapshot["labels"]["s"] == "t", snapshot
            with open(d.work + "/pid") as f:
                assert int(f.read()) == held.pid
        for snapshotter in ("overlayfs", "native"):
            with Running(d, RUNTIMES[0], "--snapshotter", snapshotter) as held:
                assert json.loads(d.check("containers", "info", held.name))["snapshotter"] == snapshotter
        refused(d, "--platform", "linux/s390x", part="s390x")
        refused(d, "--snapshotter", "none-such", part="none-such")
        refused(d, "--label", "novalue", part="--label")
        refused(d, "--annotation", "io.davit.no-pivot=true", part="davit's own")


def test_the_default_spec_is_printed_as_it_is_used():
    with Davit() as d:
        d.import_busybox()
        printed = json.loads(d.check("oci", "spec"))
        d.check("containers", "create", "busybox", "default", "true")
        used = json.loads(d.check("containers", "info", "--spec", "default"))
        assert used["process"].pop("args") == ["true"] and printed["process"].pop("args") == []
        used["process"]["user"].pop("additionalGids", None)
        printed["process"]["user"].pop("additionalGids", None)
        for spec in (used, printed):
            spec["process"].pop("env")
        assert printed == used, (printed, used)
        d.check("containers", "rm", "default")


def test_doctor_and_info_tell_what_this_host_has():
    with Davit() as d:
        text = d.check("doctor")
        assert "LACKS" not in text, text
        for flag in ("--memory-limit", "--cpus,", "--cpuset-cpus", "--pids-limit", "--blkio", "--apparmor-profile", "--systemd-cgroup",
                     "--rdt-class", "--seccomp", "--uidmap", "checkpoint", "--gpus"):
            (line,) = [line for line in text.splitlines() if flag in line]
            assert line.startswith(("ok ", "- ")), line
        (line,) = [line for line in text.splitlines() if "--systemd-cgroup" in line]
        assert line.startswith("ok") == os.path.exists("/run/systemd/system"), line
        info = d.json("info")
        assert info["root"] == d.root and info["state"] == d.state and set(info["runtimes"]) <= set(RUNTIMES), info
        assert info["default_runtime"] in info["runtimes"] and "davit" in info["services"]["task"], info
        assert "default_runtime: " + info["default_runtime"] in d.check("info")


def test_create_takes_the_same_flags():
    with Davit() as d:
        d.import_busybox()
        d.check("containers", "create", "--memory-limit", "64M", "--cap-drop", "CAP_CHOWN", "--hostname", "made", "busybox",
                "c1", "hostname")
        spec = json.loads(d.check("containers", "info", "--spec", "c1"))
        assert spec["linux"]["resources"]["memory"]["limit"] == 64 << 20 and spec["hostname"] == "made"
        assert d("tasks", "start", "c1").stdout == b"made\n"
        d.check("containers", "rm", "c1")
        result = d("containers", "create", "--cpu-period", "5", "busybox", "c2", "true")
        assert result.returncode and b"cpu-period" in result.stderr and d.json("containers", "ls") == [], result


if __name__ == "__main__":
    main(globals())
