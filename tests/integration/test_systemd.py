"""The units under a real systemd, the first process of namespaces of its own. SLOW=1: it is a host in small."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

from davit import BUILD, TOP, main, wait_for

SYSTEMD = "/lib/systemd/systemd"
CGROUPS = "/sys/fs/cgroup"
SERVICES = "broker container image runtime task"

# In a mount namespace: the host's files below, what is changed above, nothing of the host's devices and consoles.
OUTSIDE = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$WORK/above"
mkdir "$WORK/above/u" "$WORK/above/w"
mount -t overlay overlay -o "lowerdir=/,upperdir=$WORK/above/u,workdir=$WORK/above/w" "$WORK/root"
R=$WORK/root
ip link set lo up
install -D -t "$R/usr/local/bin" "$BUILD"/bin/*
for u in "$TOP"/tools/systemd/*.service; do
	sed 's|@PREFIX@|/usr/local|' "$u" >"$R/etc/systemd/system/${u##*/}"
done
mount -t proc proc "$R/proc"
mount -t sysfs -o ro sysfs "$R/sys"
mount -t tmpfs tmpfs "$R/sys/fs/cgroup"
for c in $CONTROLLERS; do
	mkdir "$R/sys/fs/cgroup/$c"
	case $c in
	unified) mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/$c" ;;
	systemd) mount -t cgroup -o none,name=systemd cgroup "$R/sys/fs/cgroup/$c" ;;
	*) mount -t cgroup -o "$c" cgroup "$R/sys/fs/cgroup/$c" ;;
	esac
done
for d in run var/lib/davit dev; do mkdir -p "$R/$d"; mount -t tmpfs tmpfs "$R/$d"; done
for n in null zero full random urandom tty; do touch "$R/dev/$n"; mount --bind "/dev/$n" "$R/dev/$n"; done
mkdir "$R/dev/pts" "$R/dev/shm" "$R/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
mkdir "$R/opt/davit-test"
mount --bind "$WORK/shared" "$R/opt/davit-test"
for u in systemd-udevd systemd-timesyncd systemd-logind systemd-networkd systemd-resolved; do
	ln -sf /dev/null "$R/etc/systemd/system/$u.service"
done
cat >"$R/etc/systemd/system/inside.service" <<'U'
[Service]
Type=oneshot
ExecStart=/bin/sh /opt/davit-test/inside.sh
StandardOutput=file:/opt/davit-test/said
StandardError=file:/opt/davit-test/said
U
exec env -i container=test "PATH=$PATH" chroot "$R" /lib/systemd/systemd --system --unit=inside.service --log-target=null --show-status=no
"""

INSIDE = r"""
fail() { echo "FAILED: $*"; echo ended; exit 1; }
is_running() { davit tasks ls | grep -q "web.*RUNNING" || fail "$1"; }
for s in $SERVICES; do systemctl start davit-$s || fail "start $s"; done
davit images import /opt/davit-test/busybox.tar >/dev/null 2>&1 || fail import
[ "$(davit run --rm busybox a echo hello)" = hello ] || fail run
davit run -d busybox web sleep 1000 >/dev/null || fail "run -d"
for s in $SERVICES; do
	systemctl restart davit-$s || fail "restart $s"
	is_running "after a restart of $s"
done
(
	i=0
	while [ $i -lt 40 ]; do davit run --rm busybox r$i true || echo "FAILED: run $i"; i=$((i + 1)); done
) &
runs=$!
for n in 1 2 3; do
	for s in $SERVICES; do systemctl restart davit-$s || fail "restart $s under load"; done
done
wait $runs
for s in $SERVICES; do systemctl kill --kill-who=main -s KILL davit-$s || fail "kill $s"; done
is_running "after all were killed"
systemctl stop davit-task || fail stop
pgrep davit-shim >/dev/null || fail "the shim has ended with the task service"
systemctl start davit-task || fail "start again"
is_running "after the task service was stopped and started"
[ "$(davit exec web echo inside)" = inside ] || fail exec
davit rm -f web >/dev/null || fail rm
davit fsck || fail fsck
for s in $SERVICES; do systemctl stop davit-$s || fail "stop $s"; done
! pgrep -l davit || fail "something of it still runs"
echo ended
"""


def controllers():
    """Those of the host, by the names of their directories; links are left out."""
    return [name for name in sorted(os.listdir(CGROUPS)) if os.path.ismount(os.path.join(CGROUPS, name))
            and not os.path.islink(os.path.join(CGROUPS, name))]


def copy_cpuset(folder):
    for name in ("cpuset.cpus", "cpuset.mems"):
        path = os.path.join(folder, name)
        if os.path.exists(path) and os.access(os.path.join(folder, "cpuset.cpu_exclusive"), os.F_OK):
            with open(os.path.join(os.path.dirname(folder), name)) as f, open(path, "w") as to:
                to.write(f.read())


def remove_cgroups(name):
    for controller in controllers():
        for folder, _, _ in os.walk(os.path.join(CGROUPS, controller, name), topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                return False
    return True


def enter(name):
    """What the child does before it begins: cgroups of its own, which a cgroup namespace then makes the root."""
    def fn():
        for controller in controllers():
            with open(os.path.join(CGROUPS, controller, name, "cgroup.procs"), "w") as f:
                f.write("0")
    return fn


def boot(work, name):
    env = dict(os.environ, WORK=work, TOP=TOP, BUILD=BUILD, CONTROLLERS=" ".join(controllers()), LC_ALL="C")
    # unshare and systemd are killed together with the child that was started here.
    return subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--cgroup", "--uts", "--ipc", "--net",
                             "bash", "-c", OUTSIDE], env=env, preexec_fn=enter(name), stdin=subprocess.DEVNULL)


def test_the_units_start_restart_under_load_and_leave_containers_alone():
    work = tempfile.mkdtemp(prefix="dv-systemd-")
    name = os.path.basename(work)
    said = os.path.join(work, "shared", "said")
    child = None
    try:
        for folder in ("above", "root", "shared"):
            os.mkdir(os.path.join(work, folder))
        subprocess.run([sys.executable, os.path.join(TOP, "tools", "examples", "make-image.py"), "--name",
                        "docker.io/library/busybox:latest", os.path.join(work, "shared", "busybox.tar")], check=True)
        with open(os.path.join(work, "shared", "inside.sh"), "w") as f:
            f.write('SERVICES="%s"\n%s' % (SERVICES, INSIDE))
        open(said, "w").close()
        for controller in controllers():
            os.mkdir(os.path.join(CGROUPS, controller, name))
            copy_cpuset(os.path.join(CGROUPS, controller, name))
        child = boot(work, name)
        wait_for(lambda: "ended\n" in open(said).read() or child.poll() is not None, "the units were tried", 120)
        text = open(said).read()
        assert text == "ended\n", text
    finally:
        if child:
            child.send_signal(signal.SIGKILL)
            child.wait()
        wait_for(lambda: remove_cgroups(name), "its cgroups are gone")
        shutil.rmtree(work)


if __name__ == "__main__":
    if not os.environ.get("SLOW") or not os.path.exists(SYSTEMD) or not os.path.isdir(os.path.join(CGROUPS, "systemd")):
        print("SLOW=1, a systemd and cgroup v1 or hybrid are needed")
        sys.exit(77)
    main(globals())
