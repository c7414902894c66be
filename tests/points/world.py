"""A davit that was built with points, and all that can be seen of it from outside."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import registry  # noqa: E402
import test_cni  # noqa: E402
from davit import TOP, Davit, check_log, command_lines, wait_for  # noqa: E402
from points import Bus, Control  # noqa: E402

OURS = ("davit-shim", "crun", "runc", "davit-image-work")
PAGE = 1000


class World:
    def __init__(self):
        self.davit = Davit()
        self.control = Control(os.path.join(self.davit.work, "points"))
        self.davit.env["DAVIT_POINTS"] = self.control.path
        self.flags = os.path.join(self.davit.work, "flags")
        os.mkdir(self.flags)
        self.bus = Bus(os.path.join(self.davit.state, "bus.sock"))
        self.registry, self.uploads = registry.FakeRegistry(), registry.UploadRegistry()
        self.first_seq = 1
        self.make_network()

    def __enter__(self):
        self.registry.__enter__()
        self.uploads.__enter__()
        try:
            self.davit.up()
            self.davit.import_busybox()
            self.learn()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, trace):
        self.control.disarm()
        self.bus.close()
        self.registry.__exit__()
        self.uploads.__exit__()
        if kind is not None:
            self.davit.print_log()
        self.davit.end()
        self.network.remove_bridge()

    def make_network(self):
        """A bridge, and a plugin that notes what it is asked."""
        self.network = test_cni.Network(davit=self.davit)
        self.network.put([self.network.bridge_plugin()] * bool(test_cni.PLUGINS) + [self.network.stand_in("first")])
        self.davit.up_words = list(self.network.options)

    def learn(self):
        """What is there when nothing is: the layers and blobs of the image that containers use."""
        self.bus.do("container.run", id="first", image="docker.io/library/busybox:latest",
                    options={"args": ["sleep", "1000"]})
        self.davit.note_cgroup("first")
        self.bus.do("container.remove", id="first", force=True)
        wait_for(lambda: not self.davit.leftovers(), "the first container is gone")
        self.baseline = None
        self.baseline = self.objects()
        self.pids = self.processes()

    def pack(self, folder, path):
        with tarfile.open(path, "w") as tar:
            for name in sorted(os.listdir(folder)):
                tar.add(os.path.join(folder, name), name)
        shutil.rmtree(folder)

    def run(self, *words):
        return subprocess.run([sys.executable, *words], check=True, cwd=TOP)

    # ---- processes ----
    def processes(self):
        return {name: self.davit.pids(name) for name in
                ("davit-broker", "davit-runtime", "davit-image", "davit-task", "davit-container")}

    def wait_up(self):
        """What died is there again, and answers."""
        for name in self.processes():
            self.davit.pid(name)
        for method in ("image.stats", "runtime.stats", "task.stats", "container.stats", "bus.stats"):
            self.bus.do(method)

    def kill_together(self):
        """The shim and the task service, before either can notice the other's death."""
        shims = [pid for pid, words in command_lines()
                 if words and os.path.basename(words[0]) == "davit-shim" and self.davit.state in " ".join(words)]
        pids = shims + self.davit.pids("davit-task")
        for stop in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, stop)

    # ---- events ----
    def events(self):
        """Those since mark(), all with their numbers and none missing."""
        events, at = [], self.first_seq
        while True:
            reply = self.bus.do("event.read", **{"from": at, "limit": 1024})
            events += reply.get("events", [])
            if reply["next"] > reply["last_seq"]:
                break
            at = reply["next"]
        numbers = [e["seq"] for e in events]
        assert numbers == list(range(self.first_seq, self.first_seq + len(numbers))), "numbers have a gap: %s" % numbers
        return events

    def mark(self):
        self.first_seq = self.bus.do("event.read", **{"from": 1, "limit": 1})["last_seq"] + 1

    def check_events(self, object_id, expected):
        """Each event of a publisher once and in its order; of @object_id the @expected, once each."""
        events, last = self.events(), {}
        for event in events:
            publisher, seq = bytes(event["publisher"]), event["publisher_seq"]
            assert seq > last.get(publisher, 0), "an event twice or out of order: %s" % event
            last[publisher] = seq
        if events:
            check_log(events)
        for topic in expected:
            n = len([e for e in events if e["topic"] == topic and object_id in (e.get("object"), e["event"].get("id"),
                                                                                e["event"].get("container_id"),
                                                                                e["event"].get("name"))])
            assert n == 1, "%s of %s is in the log %d times" % (topic, object_id, n)

    # ---- what is left ----
    def names(self, *path):
        try:
            return os.listdir(os.path.join(*path))
        except FileNotFoundError:
            return []

    def objects(self):
        """Everything that an operation may leave behind, as sentences."""
        davit = self.davit
        found = ["process %d %s" % (pid, words[0]) for pid, words in command_lines()
                 if words and os.path.basename(words[0]) in OURS and davit.state in " ".join(words)]
        with open("/proc/self/mountinfo") as f:
            found += ["mount " + line.split()[4] for line in f if davit.work in line]
        for top in ("bundles", "fifo", "s", "oci"):
            found += [os.path.join(top, name) for name in self.names(davit.state, top)]
        for controller in self.names("/sys/fs/cgroup"):
            base = os.path.join("/sys/fs/cgroup", controller, davit.cgroup(), "default")
            found += ["cgroup " + os.path.join(base, name) for name in self.names(base)
                      if os.path.isdir(os.path.join(base, name))]
        image = os.path.join(davit.root, "image")
        for folder in ("content/blobs/sha256", "content/ingest", "snapshots", "trash"):
            found += [os.path.join(folder, name) for name in self.names(image, folder)]
        found += ["process %d %s" % (pid, words) for pid, words in command_lines() if self.network.bin + "/" in " ".join(words)]
        found += ["network " + name for name in self.network.leftovers()]
        found += [os.path.join("log", name) for name in self.names(davit.root, "task", "logs")]
        for method, key, name in (("snapshot.list", "snapshots", "key"), ("container.list", "containers", "id"),
                                  ("task.list", "tasks", "container_id"), ("lease.list", "leases", "id"),
                                  ("image.list", "images", "name"), ("content.ingests", "ingests", "ref")):
            found += ["%s %s" % (key, o[name]) for o in self.bus.do(method).get(key, [])]
        for service in ("container", "image", "runtime", "task"):
            found += ["operation of %s: %s %s" % (service, o.get("method"), o.get("object"))
                      for o in self.bus.do(service + ".operations").get("operations", [])]
        return sorted(found)

    def check_quiet(self, control, seconds=0.25):
        """Nothing is passed any more, so that what is recorded next is the operation's."""
        control.record()
        n, since = 0, time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(0.02)
            if control.n_recorded() != n:
                n, since = control.n_recorded(), time.monotonic()

    def renew(self):
        """After a failure: another davit, so that one failure does not become many."""
        self.control.disarm()
        self.bus.close()
        self.davit.print_log()
        self.davit.end()
        self.network.remove_bridge()
        self.davit.__init__()
        self.make_network()
        self.control.__init__(os.path.join(self.davit.work, "points"))
        self.davit.env["DAVIT_POINTS"] = self.control.path
        self.flags = os.path.join(self.davit.work, "flags")
        os.mkdir(self.flags)
        self.bus.path = os.path.join(self.davit.state, "bus.sock")
        self.davit.up()
        self.davit.import_busybox()
        self.learn()

    def check_fsck(self):
        """davit's own opinion of itself."""
        result = self.davit("fsck", "--format", "json")
        assert result.returncode == 0, "davit fsck: %s%s" % (result.stdout.decode(), result.stderr.decode())

    def check_clean(self, seconds=20):
        end = time.monotonic() + seconds
        while True:
            now = self.objects()
            if now == self.baseline:
                return
            if time.monotonic() > end:
                raise AssertionError("left behind: %s; gone: %s" % (sorted(set(now) - set(self.baseline)),
                                                                  sorted(set(self.baseline) - set(now))))
            time.sleep(0.02)
