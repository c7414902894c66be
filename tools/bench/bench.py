#!/usr/bin/env python3
"""davit's figures beside its peers', in one run, as ratios; the budgets beside them.

Run through bench.sh. Peers that are not installed are left out. Machines are noisy: runs alternate A B A B and
each row gives min, median and max.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from output import bench_output  # noqa: E402

BUILD = sys.argv[1]
QUICK = len(sys.argv) > 2 and sys.argv[2] == "quick"
BIN = os.path.join(BUILD, "bin")
DAVIT = os.path.join(BIN, "davit")
HERE = os.path.dirname(os.path.abspath(__file__))
RUNS = 10 if QUICK else 30
DENSITY = 20 if QUICK else 100
DEVNULL = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]

rows = []


def start(argv, env=None):
    """The cheapest way to start a program from here: vfork semantics, no pipes."""
    path = shutil.which(argv[0]) or argv[0]
    return os.posix_spawn(path, argv, env or os.environ, file_actions=DEVNULL)


def run(argv, env=None, check=True):
    pid = start(argv, env)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if check and code:
        raise RuntimeError("%s: exit code %d" % (" ".join(argv), code))
    return code


def timed(argv, env=None):
    begin = time.perf_counter()
    run(argv, env)
    return (time.perf_counter() - begin) * 1000


def spread(values):
    return "%8.2f %8.2f %8.2f" % (min(values), statistics.median(values), max(values))


def row(what, figure, budget="", verdict=None):
    mark = "" if verdict is None else ("ok" if verdict else "OVER")
    rows.append((what, figure, budget, mark))
    print("%-58s %-30s %-30s %s" % (what, figure, budget, mark), flush=True)


def pss_kb(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def available_kb():
    with open("/proc/meminfo") as f:
        for line in f:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1])
    return 0


def settled_available_kb():
    """MemAvailable when it stands still: freed pages come back late."""
    last, same = available_kb(), 0
    deadline = time.monotonic() + 5
    while same < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = available_kb()
        same = same + 1 if abs(now - last) < 300 else 0
        last = now
    return last


def processes(name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/comm" % pid) as f:
                if f.read().strip() == name[:15]:
                    found.append(int(pid))
        except OSError:
            pass
    return found


class Davit:
    def __init__(self, work):
        self.root, self.state = os.path.join(work, "r"), os.path.join(work, "s")
        self.base = [DAVIT, "--root", self.root, "--state", self.state]

    def up(self):
        subprocess.run(self.base + ["up", "--detach"], check=True)
        with open(os.path.join(self.state, "up.lock")) as f:
            self.pid = int(f.read())

    def down(self):
        subprocess.run(self.base + ["down", "--containers"], check=False)

    def members(self):
        pids = [self.pid]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                if int(fields[1]) == self.pid:
                    pids.append(int(pid))
            except (OSError, IndexError):
                pass
        return pids

    def named(self, name):
        mine = []
        for pid in processes(name):
            with open("/proc/%d/cmdline" % pid) as f:
                if self.state in f.read():
                    mine.append(pid)
        return mine


class Containerd:
    """Debian's containerd under a private root, state and socket."""

    def __init__(self, work):
        self.work = work
        self.socket = os.path.join(work, "c", "c.sock")
        os.makedirs(os.path.join(work, "c"))
        config = os.path.join(work, "c", "config.toml")
        with open(config, "w") as f:
            f.write('version = 2\nroot = "%s/c/root"\nstate = "%s/c/state"\n'
                    'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n'
                    % (work, work, self.socket))
        self.log = open(os.path.join(work, "c", "log"), "w")
        self.process = subprocess.Popen(["containerd", "-c", config], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while subprocess.run(self.ctr("version"), capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("containerd does not come up")

    def ctr(self, *words):
        return ["ctr", "-a", self.socket] + list(words)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def make_bundle(work, rootfs):
    bundle = os.path.join(work, "bundle")
    os.makedirs(bundle)
    subprocess.run(["crun", "spec"], cwd=bundle, check=True)
    with open(os.path.join(bundle, "config.json")) as f:
        spec = json.load(f)
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["true"]
    spec["process"].pop("rlimits", None)
    spec["root"] = {"path": rootfs, "readonly": False}
    spec["linux"].pop("seccomp", None)
    for name, args in (("true", ["true"]), ("sleep", ["sleep", "1000"])):
        spec["process"]["args"] = args
        os.makedirs(os.path.join(bundle, name))
        with open(os.path.join(bundle, name, "config.json"), "w") as f:
            json.dump(spec, f)
    return bundle


def make_rootfs(work, archive):
    rootfs = os.path.join(work, "rootfs")
    os.makedirs(rootfs)
    layout = os.path.join(work, "layout")
    os.makedirs(layout)
    subprocess.run(["tar", "-xf", archive, "-C", layout], check=True)
    blobs = os.path.join(layout, "blobs", "sha256")
    layer = max((os.path.join(blobs, b) for b in os.listdir(blobs)), key=os.path.getsize)
    subprocess.run(["tar", "-xzf", layer, "-C", rootfs], check=True)
    return rootfs


def bench_run(davit, containerd, bundle):
    ours, bare, theirs = [], [], []
    for i in range(RUNS + 2):
        a = timed(davit.base + ["run", "--rm", "busybox", "r%d" % i, "true"])
        b = timed(["crun", "--root", bundle + "/crun", "run", "--bundle", bundle + "/true", "r%d" % i])
        c = timed(containerd.ctr("run", "--rm", "--runc-binary", "crun",
                                 "docker.io/library/busybox:latest", "r%d" % i, "true")) if containerd else None
        if i >= 2:
            ours.append(a)
            bare.append(b)
            theirs.append(c)
    row("run --rm true, davit, ms (min median max)", spread(ours))
    row("crun run of the same, ms", spread(bare))
    ratios = [x / y for x, y in zip(ours, bare)]
    row("  davit / crun", spread(ratios), "<= 2.5", statistics.median(ratios) <= 2.5)
    if containerd:
        row("ctr run --rm with crun, ms", spread(theirs))
        ratios = [x / y for x, y in zip(ours, theirs)]
        row("  davit / ctr", spread(ratios), "<= 0.25", statistics.median(ratios) <= 0.25)


def bench_exec(davit, containerd):
    run(davit.base + ["run", "-d", "--null-io", "busybox", "exec", "sleep", "1000"])
    if containerd:
        run(containerd.ctr("run", "-d", "--null-io", "--runc-binary", "crun", "docker.io/library/busybox:latest",
                           "exec", "sleep", "1000"))
    ours, theirs = [], []
    for i in range(RUNS + 2):
        a = timed(davit.base + ["exec", "exec", "true"])
        b = timed(containerd.ctr("t", "exec", "--exec-id", "e%d" % i, "exec", "true")) if containerd else None
        if i >= 2:
            ours.append(a)
            theirs.append(b)
    row("exec true, davit, ms", spread(ours))
    if containerd:
        row("ctr t exec, ms", spread(theirs))
        ratios = [x / y for x, y in zip(ours, theirs)]
        row("  davit / ctr", spread(ratios), "<= 0.25", statistics.median(ratios) <= 0.25)
        run(containerd.ctr("t", "rm", "-f", "exec"), check=False)
        run(containerd.ctr("c", "rm", "exec"), check=False)
    run(davit.base + ["rm", "-f", "exec"])


def start_rate(make_argv, count, clients=4):
    """How many per second, by so many clients at a time."""
    running, next_one = {}, 0
    begin = time.perf_counter()
    while next_one < count or running:
        while next_one < count and len(running) < clients:
            running[start(make_argv(next_one))] = next_one
            next_one += 1
        pid, status = os.waitpid(-1, 0)
        if pid not in running:
            continue
        running.pop(pid)
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError("a start failed: " + " ".join(make_argv(0)))
    return count / (time.perf_counter() - begin)


def measure_density(davit, options):
    """KB of MemAvailable that each idle container takes, the rate at which they start, and the shims' PSS."""
    taken, rates = [], []
    for attempt in range(1 if QUICK else 3):
        before = settled_available_kb()
        rates.append(start_rate(lambda i: davit.base + ["run", "-d"] + options + ["busybox", "d%d" % i, "sleep", "1000"],
                                DENSITY))
        taken.append((before - settled_available_kb()) / DENSITY)
        if attempt == 0:
            shims = [pss_kb(pid) for pid in davit.named("davit-shim")]
            if options:
                bench_restart(davit)
        start_rate(lambda i: davit.base + ["rm", "-f", "d%d" % i], DENSITY)
    return taken, rates, shims


def bench_density(davit, containerd, bundle):
    """Start rate, memory, and the restart of the task service, with the same containers."""
    before = settled_available_kb()
    bare_rate = start_rate(lambda i: ["crun", "--root", bundle + "/crun", "run", "-d", "--bundle",
                                      bundle + "/sleep", "d%d" % i], DENSITY)
    bare = (before - settled_available_kb()) / DENSITY
    for i in range(DENSITY):
        run(["crun", "--root", bundle + "/crun", "delete", "--force", "d%d" % i])

    ours, rates, shims = measure_density(davit, ["--null-io"])
    logged, _, logged_shims = measure_density(davit, [])
    row("started by 4 clients, davit, per second", spread(rates))
    row("started by 4 clients, bare crun, per second", "%8.1f" % bare_rate)
    if containerd:
        theirs = start_rate(lambda i: containerd.ctr("run", "-d", "--null-io", "--runc-binary", "crun",
                                                     "docker.io/library/busybox:latest", "d%d" % i, "sleep", "1000"),
                            DENSITY // 2)
        row("started by 4 clients, containerd, per second", "%8.1f" % theirs)
        ratio = statistics.median(rates) / theirs
        row("  davit / containerd", "%8.2f" % ratio, ">= 6", ratio >= 6)
        for i in range(DENSITY // 2):
            run(containerd.ctr("t", "rm", "-f", "d%d" % i), check=False)
            run(containerd.ctr("c", "rm", "d%d" % i), check=False)
    above = statistics.median(ours) - bare
    row("memory per idle container above bare crun, KB", "%8.0f (bare %.0f)" % (above, bare), "<= 300", above <= 300)
    row("shim PSS, KB", spread(shims), "<= 200", statistics.median(shims) <= 200)
    above = statistics.median(logged) - bare
    row("  the same with a log", "%8.0f" % above, "<= 300", above <= 300)
    row("  shim PSS with a log, KB", spread(logged_shims), "<= 200", statistics.median(logged_shims) <= 200)


def bench_restart(davit):
    times = []
    for _ in range(3):
        (task,) = davit.named("davit-task")
        begin = time.perf_counter()
        os.kill(task, signal.SIGKILL)
        run(davit.base + ["tasks", "ls", "-q"])
        times.append(time.perf_counter() - begin)
    row("task service killed until tasks ls answers, s", spread(times), "<= 0.15", statistics.median(times) <= 0.15)


def bench_idle(davit):
    time.sleep(2)
    members = {}
    for pid in davit.members():
        with open("/proc/%d/comm" % pid) as f:
            members[f.read().strip()] = pss_kb(pid)
    total = sum(v for k, v in members.items() if k != "davit")
    detail = ", ".join("%s %d" % (k.replace("davit-", ""), v) for k, v in sorted(members.items()))
    row("broker and four services idle, PSS, KB", "%8d" % total, "<= 10240", total <= 10240)
    row("  " + detail, "")


def bus_bench(davit, *words):
    out = subprocess.run(davit.base + ["bus", "bench", "--format", "json"] + list(words), capture_output=True,
                         text=True, check=True).stdout
    return json.loads(out)


def bench_bus(davit):
    ratios, ours, direct = [], [], []
    for _ in range(5):
        a = bus_bench(davit, "-r", "3000", "-m", "runtime.stats")["median_us"]
        b = float(subprocess.run([BUILD + "/bench-nng-direct", "3000"], capture_output=True, text=True,
                                 check=True).stdout.split()[1])
        ours.append(a)
        direct.append(b)
        ratios.append(a / b)
    row("round trip to a service through the broker, us", spread(ours))
    row("direct nng REQ/REP, us", spread(direct))
    row("  through the broker / direct", spread(ratios), "<= 1.8", statistics.median(ratios) <= 1.8)
    rates = [bus_bench(davit, "-r", "20000", "-c", "32", "-m", "runtime.stats")["rate"] for _ in range(3)]
    row("requests to a service by 32 callers, per second", spread(rates), ">= 18000", statistics.median(rates) >= 18000)
    rates = [bus_bench(davit, "-r", "20000", "-c", "32")["rate"] for _ in range(3)]
    row("requests to the broker itself by 32 callers, per second", spread(rates))
    latency = [bus_bench(davit, "-e", "-r", "500")["median_us"] / 1000 for _ in range(3)]
    row("event published to delivered, log synced, ms", spread(latency), "<= 1", statistics.median(latency) <= 1)
    rates = [bus_bench(davit, "-e", "-r", "100000", "-b", "512")["rate"] for _ in range(3)]
    row("events in batches, log synced, per second", spread(rates), ">= 50000", statistics.median(rates) >= 50000)


def big_image(work, megabytes=100):
    """8 layers of text and noise, as images are."""
    archive = os.path.join(work, "big-%d.tar" % megabytes)
    subprocess.run(["python3", os.path.join(HERE, "big-image.py"), "--layers", "8", "--megabytes", str(megabytes), archive],
                   check=True)
    return archive


def umoci_unpack(work, archive):
    """Seconds that umoci takes to unpack the archive's image: it reads a layout, not an archive, which is not counted."""
    layout, bundle = os.path.join(work, "umoci-layout"), os.path.join(work, "umoci-bundle")
    os.makedirs(layout)
    try:
        subprocess.run(["tar", "-xf", archive, "-C", layout], check=True)
        with open(os.path.join(layout, "index.json"), "r+") as f:
            index = json.load(f)
            index["manifests"][0].setdefault("annotations", {})["org.opencontainers.image.ref.name"] = "big"
            f.seek(0)
            json.dump(index, f)
        return timed(["umoci", "unpack", "--image", layout + ":big", bundle]) / 1000
    finally:
        shutil.rmtree(layout, ignore_errors=True)
        shutil.rmtree(bundle, ignore_errors=True)


def bench_import(davit, containerd, work):
    archive = big_image(work)
    has_umoci = bool(shutil.which("umoci"))
    ours, theirs, umoci, ratios, umoci_ratios = [], [], [], [], []
    for _ in range(2 if QUICK else 3):
        ours.append(timed(davit.base + ["images", "import", archive]) / 1000)
        run(davit.base + ["images", "rm", "--sync", "docker.io/library/big:latest"])
        if containerd:
            theirs.append(timed(containerd.ctr("images", "import", archive)) / 1000)
            run(containerd.ctr("images", "rm", "--sync", "docker.io/library/big:latest"))
            ratios.append(ours[-1] / theirs[-1])
        if has_umoci:
            umoci.append(umoci_unpack(work, archive))
            umoci_ratios.append(ours[-1] / umoci[-1])
    row("images import of 100 MB in 8 layers, davit, s", spread(ours))
    if containerd:
        row("ctr images import, s", spread(theirs))
        row("  davit / ctr", spread(ratios), "<= 0.5", statistics.median(ratios) <= 0.5)
    if has_umoci:
        row("umoci unpack of the same, s (no import)", spread(umoci))
        row("  davit / umoci", spread(umoci_ratios))


def peak_kb(pid):
    try:
        with open("/proc/%d/status" % pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def import_peaks(davit, archive):
    """Peak memory of the image service and of its largest child during an import: both only grow, so often looked at
    suffices."""
    service = davit.named("davit-image")[0]
    with open("/proc/%d/clear_refs" % service, "w") as f:
        f.write("5")  # its peak begins anew
    pid = start(davit.base + ["images", "import", archive])
    largest = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        with open("/proc/%d/task/%d/children" % (service, service)) as f:
            largest = max([largest] + [peak_kb(int(child)) for child in f.read().split()])
        time.sleep(0.002)
    peak = peak_kb(service)
    run(davit.base + ["images", "rm", "--sync", "docker.io/library/big:latest"])
    return peak, largest


def bench_import_memory(davit, work):
    """With layers of 3 MB and of 25 MB: what an import takes does not grow with them."""
    small, large = (import_peaks(davit, big_image(work, megabytes)) for megabytes in (24, 200))
    for who, a, b, budget in (("the image service", small[0], large[0], 20480), ("its largest child", small[1], large[1], 65536)):
        row("import, 8 layers of 3 / 25 MB, peak of %s, KB" % who, "%8d %8d" % (a, b),
            "<= %d, <= 1.25 times" % budget, b <= budget and b <= 1.25 * a)


def main():
    work = tempfile.mkdtemp(prefix="dvb-", dir="/tmp")
    davit, containerd = Davit(work), None
    try:
        archive = os.path.join(work, "busybox.tar")
        subprocess.run(["python3", os.path.join(HERE, "..", "examples", "make-image.py"), archive], check=True)
        bundle = make_bundle(work, make_rootfs(work, archive))
        davit.up()
        run(davit.base + ["images", "import", archive])
        if shutil.which("containerd") and shutil.which("ctr"):
            containerd = Containerd(work)
            run(containerd.ctr("images", "import", archive))
        print("%-58s %-30s %-30s" % ("figure", "   min   median      max", "budget"))
        bench_idle(davit)
        bench_bus(davit)
        bench_run(davit, containerd, bundle)
        bench_exec(davit, containerd)
        bench_density(davit, containerd, bundle)
        bench_output(davit, row, 100 if QUICK else 1024)
        bench_import(davit, containerd, work)
        bench_import_memory(davit, work)
        over = [r[0].strip() for r in rows if r[3] == "OVER"]
        print("over budget: " + (", ".join(over) if over else "none"))
    finally:
        davit.down()
        if containerd:
            containerd.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
