"""The operations whose points are walked: what must be there before, the request, what it must have done."""

import errno
import glob
import json
import os
import re
import shutil
import signal
import sys
import tarfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import layers  # noqa: E402
import registry  # noqa: E402
import test_cni  # noqa: E402
from davit import command_lines, wait_for  # noqa: E402

IMAGE = "docker.io/library/busybox:latest"
USR1 = 10
PAGE = 4096  # of a store


class Operation:
    """One request, again and again, each time on a new object."""

    method = None
    # Topics of the events that it makes once, when it has taken effect, of self.id.
    topics = ()
    # It may come in spite of a refusal, which says nothing of that: davit does the same by itself, or keeps what was done.
    comes_by_itself = False
    # Each asking is a new request (a command), which succeeds when nothing goes wrong any more.
    is_asked_anew = False
    # Services that it ends itself.
    kills = ()
    # Whose points are walked besides those of the services.
    processes = ()

    def __init__(self, world):
        self.world, self.bus, self.number = world, world.bus, 0

    def new(self):
        self.number += 1
        self.id = "%s%d" % (type(self).__name__.lower(), self.number)

    def prepare(self):
        pass

    def body(self):
        raise NotImplementedError

    def ask(self, request_id=None):
        return self.bus.ask(self.method, self.body(), request_id)

    def wait_up(self):
        self.world.wait_up()

    def count(self):
        """How often it has taken effect, as the world shows it."""
        raise NotImplementedError

    def event_object(self):
        """What its events name."""
        return self.id

    def is_same(self, answer, other):
        return answer == other

    def clean(self):
        pass

    # ---- with containers ----
    def flag(self, name=""):
        return os.path.join(self.world.flags, self.id + name)

    def lines(self, name=""):
        try:
            with open(self.flag(name)) as f:
                return len(f.readlines())
        except FileNotFoundError:
            return 0

    def run_body(self, script, **more):
        mount = {"type": "bind", "source": self.world.flags, "target": "/flags", "options": ["rbind", "rw"]}
        return dict(id=self.id, image=IMAGE, options={"args": ["sh", "-c", script.replace("ID", self.id)],
                                                      "mounts": [mount]}, **more)

    def exists(self, method, status=("OK",), **body):
        got, words, reply = self.bus.ask(method, body)
        assert got in status + ("NOT_FOUND",), (method, got, words)
        return reply if got == "OK" else None

    def remove_container(self):
        got, words, _ = self.bus.ask("container.remove", {"id": self.id, "force": True})
        assert got in ("OK", "NOT_FOUND"), "container.remove: %s %s" % (got, words)


class WithContainer(Operation):
    def clean(self):
        self.remove_container()


class Create(WithContainer):
    method = "container.run"
    topics = ("/containers/create", "/tasks/create")

    def body(self):
        return self.run_body("sleep 1000", no_start=True)

    def count(self):
        container = self.exists("container.get", id=self.id)
        task = self.exists("task.get", container_id=self.id)
        if task and task["process"]["status"] == "DELETED":  # its shim is about to end
            task = None
        assert bool(container) == bool(task), "container %s, task %s" % (container, task)
        return 1 if container else 0


class Run(WithContainer):
    method = "container.run"
    topics = ("/containers/create", "/tasks/create", "/tasks/start")

    def body(self):
        return self.run_body("echo x >>/flags/ID; sleep 1000")

    def count(self):
        if self.exists("container.get", id=self.id):
            wait_for(self.lines, "it has run")
        return self.lines()


class Fleeting(WithContainer):
    """It ends at once and is removed then, whoever has died meanwhile."""

    method = "container.run"
    topics = ("/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete")

    def body(self):
        return self.run_body("echo x >>/flags/ID", auto_remove=True)

    def count(self):
        if self.lines():
            wait_for(lambda: not self.exists("container.get", id=self.id), "it is removed")
        elif self.exists("container.get", id=self.id):
            wait_for(lambda: self.lines() or not self.exists("container.get", id=self.id), "it has run, or is removed")
        return self.lines()


class Start(WithContainer):
    method = "task.start"
    topics = ("/tasks/start",)

    def prepare(self):
        self.bus.do("container.run", **self.run_body("echo x >>/flags/ID; sleep 1000", no_start=True))

    def body(self):
        return {"container_id": self.id}

    def count(self):
        task = self.bus.do("task.get", container_id=self.id)
        if task["process"]["status"] == "RUNNING":
            wait_for(self.lines, "it has run")
        return self.lines()


class Brief(Start):
    """What is started ends at once, before a repeated request comes."""

    def prepare(self):
        self.bus.do("container.run", **self.run_body("echo x >>/flags/ID", no_start=True))

    def count(self):
        if self.bus.do("task.get", container_id=self.id)["process"]["status"] != "CREATED":
            wait_for(lambda: self.bus.do("task.wait", container_id=self.id).get("exit"), "it has ended")
        return self.lines()


class Exec(WithContainer):
    method = "task.exec"
    topics = ("/tasks/exec-added", "/tasks/exec-started")

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))

    def body(self):
        return {"container_id": self.id, "exec_id": "e", "start": True,
                "args": ["sh", "-c", "echo x >>/flags/" + self.id]}

    def count(self):
        if self.exists("task.get", container_id=self.id, exec_id="e"):
            wait_for(lambda: self.bus.do("task.wait", container_id=self.id, exec_id="e").get("exit"), "it has ended")
        return self.lines()


class Kill(WithContainer):
    method = "task.kill"

    def prepare(self):
        self.bus.do("container.run", **self.run_body(
            "trap 'echo x >>/flags/ID' USR1; echo >/flags/ID.ready; while :; do sleep 1000 & wait $!; done"))
        wait_for(lambda: self.lines(".ready"), "it has set its trap")

    def body(self):
        return {"container_id": self.id, "signal": USR1}

    def count(self):
        """Signals before this one are there before it."""
        return self.lines()


class Fatal(Kill):
    """The signal ends it."""

    def prepare(self):
        self.bus.do("container.run", **self.run_body(
            "trap 'echo x >>/flags/ID; exit' USR1; echo >/flags/ID.ready; while :; do sleep 1000 & wait $!; done"))
        wait_for(lambda: self.lines(".ready"), "it has set its trap")


class End(WithContainer):
    """SIGKILL, which may be sent again."""

    method = "task.kill"
    topics = ("/tasks/exit",)

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))

    def body(self):
        return {"container_id": self.id, "signal": 9}

    def count(self):
        return 1 if self.bus.do("task.wait", container_id=self.id).get("exit") else 0


class Stop(Fatal):
    """The image's stop signal once at most, and the end: in time, or by SIGKILL where it is not known whether that signal was sent."""

    method = "task.stop"
    topics = ("/tasks/exit",)
    comes_by_itself = True

    def prepare(self):
        self.bus.do("container.run", **self.run_body(
            "trap 'echo x >>/flags/ID; exit' TERM; echo >/flags/ID.ready; while :; do sleep 1000 & wait $!; done"))
        wait_for(lambda: self.lines(".ready"), "it has set its trap")

    def body(self):
        return {"container_id": self.id, "timeout_ms": 3000}

    def count(self):
        assert self.lines() <= 1, "its signal came %d times" % self.lines()
        return 1 if self.bus.do("task.wait", container_id=self.id).get("exit") else 0


class Attach(Create):
    """With the host's network: an address and a network namespace, once."""

    def body(self):
        body = super().body()
        body["options"]["cni"] = True
        return body

    def asked(self):
        """What plugins were asked for it, in order."""
        return [note["env"]["CNI_COMMAND"] for note in self.world.network.notes()
                if note["env"]["CNI_CONTAINERID"] == "default-" + self.id]

    def check_asked(self):
        asked = self.asked()
        assert "ADD ADD" not in " ".join(asked), "a network is made twice: %s" % asked

    def count(self):
        n, network = super().count(), self.world.network
        self.check_asked()
        if n:
            found = [network.addresses(), network.namespaces(), network.ports(),
                     [name for name in network.kept() if name.startswith("default-%s@" % self.id) and ".tmp-" not in name]]
            assert [len(names) for names in found] == [1, 1, 1, 1], found
        return n

    def clean(self):
        """What is pending, or was left by who died at it, goes at the runtime service's next start, or within a minute."""
        super().clean()
        network, end = self.world.network, time.monotonic() + 2
        while network.leftovers() and time.monotonic() < end:
            time.sleep(0.02)
        if network.leftovers():
            self.world.davit.kill("davit-runtime")
            wait_for(lambda: not network.leftovers(), "the network is taken back", 20)


class Detach(Attach):
    method = "container.remove"
    topics = ("/tasks/delete", "/containers/delete")

    def prepare(self):
        self.bus.do("container.run", **super().body())

    def body(self):
        return {"id": self.id, "force": True}

    def count(self):
        self.check_asked()
        return 0 if self.exists("container.get", id=self.id) else 1


class Pause(WithContainer):
    method = "task.pause"
    topics = ("/tasks/paused",)
    status = "PAUSED"

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))

    def body(self):
        return {"container_id": self.id}

    def count(self):
        return 1 if self.bus.do("task.get", container_id=self.id)["process"]["status"] == self.status else 0


class Resume(Pause):
    method = "task.resume"
    topics = ("/tasks/resumed",)
    status = "RUNNING"

    def prepare(self):
        super().prepare()
        self.bus.do("task.pause", container_id=self.id)


class Update(WithContainer):
    """Limits, as the kernel has them."""

    method = "task.update"

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))

    def body(self):
        return {"container_id": self.id, "resources": json.dumps({"pids": {"limit": 77}})}

    def count(self):
        (path,) = glob.glob("/sys/fs/cgroup/**/%s/default/%s/pids.max" % (self.world.davit.cgroup(), self.id), recursive=True)
        with open(path) as f:
            return 1 if f.read() == "77\n" else 0


class Unexec(WithContainer):
    """A process that was added, and has ended, is deleted: what the shim has forgotten does not come back with a later failure."""

    method = "task.delete"
    comes_by_itself = True

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))
        self.bus.do("task.exec", container_id=self.id, exec_id="e", start=True, args=["true"])
        wait_for(lambda: self.bus.do("task.wait", container_id=self.id, exec_id="e").get("exit"), "it has ended")

    def body(self):
        return {"container_id": self.id, "exec_id": "e"}

    def count(self):
        found = self.exists("task.get", container_id=self.id, exec_id="e")
        return 0 if found and found["process"]["status"] != "DELETED" else 1


class Delete(WithContainer):
    method = "container.remove"
    topics = ("/tasks/delete", "/containers/delete")

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))

    def body(self):
        return {"id": self.id, "force": True}

    def count(self):
        return 0 if self.exists("container.get", id=self.id) else 1


# ---- images ----

class WithImage(Operation):
    def new(self):
        super().new()
        self.image = registry.Image()
        self.image.add([layers.tar([layers.f("file", (self.id * 100).encode()), layers.d("dir"), layers.f("dir/x", b"y")])])

    def name(self):
        return "points.example/%s:1" % self.id

    def archive(self):
        path = os.path.join(self.world.davit.work, self.id + ".tar")
        folder = os.path.join(self.world.davit.work, self.id)
        self.image.write_layout(folder, "1")
        self.world.pack(folder, path)
        return path

    def event_object(self):
        return self.name()

    def has_image(self):
        return self.exists("image.get", name=self.name())

    def is_unpacked(self):
        reply = self.exists("image.inspect", name=self.name())
        return reply and all(layer.get("is_unpacked") for layer in reply["layers"])

    def count(self):
        return 1 if self.has_image() and self.is_unpacked() else 0

    def clean(self):
        if self.has_image():
            self.bus.do("image.delete", name=self.name(), sync=True)


class Import(WithImage):
    method = "image.import"
    topics = ("/images/create",)

    def prepare(self):
        self.path = self.archive()

    def body(self):
        return {"path": self.path, "base_name": "points.example/" + self.id}


class Pull(WithImage):
    method = "image.pull"
    topics = ("/images/create",)

    def name(self):
        return "%s/%s:1" % (self.world.registry.host, self.id)

    def prepare(self):
        self.world.registry.put_image(self.id, "1", self.image.documents, self.image.target["digest"])

    def body(self):
        return {"name": self.name(), "registry": {"plain_http": True}}

    def clean(self):
        """What a pull that failed has loaded is kept for the next one, for a day."""
        super().clean()
        for ingest in self.bus.do("content.ingests").get("ingests", []):
            self.bus.do("content.abort", ref=ingest["ref"])


class Push(WithImage):
    """The tag comes last; a push that fails at its end may have put it there."""

    method = "image.push"
    comes_by_itself = True

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id)

    def body(self):
        return {"name": "%s/points:%s" % (self.world.uploads.host, self.id), "source": self.name(),
                "registry": {"plain_http": True}}

    def count(self):
        objects = self.world.uploads.objects
        if self.id not in objects:
            return 0
        target = self.image.target["digest"]
        assert layers.digest(objects[self.id]) == target, "the tag has another manifest"
        gone = set(self.image.documents) - set(objects) - {target}
        assert not gone, "the manifest is there, and not %s" % gone
        return 1


class Tag(WithImage):
    method = "image.create"
    topics = ("/images/create",)

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id)
        self.target = self.has_image()["image"]["target"]

    def new_name(self):
        return "points.example/%s:new" % self.id

    def event_object(self):
        return self.new_name()

    def body(self):
        return {"image": {"name": self.new_name(), "target": self.target}}

    def count(self):
        return 1 if self.exists("image.get", name=self.new_name()) else 0

    def clean(self):
        self.exists("image.delete", name=self.new_name())
        super().clean()


class Untag(WithImage):
    """Answered when what nothing else needs is gone: that may fail when the name is gone already."""

    method = "image.delete"
    comes_by_itself = True
    topics = ("/images/delete",)

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id)

    def body(self):
        return {"name": self.name(), "sync": True}

    def count(self):
        return 0 if self.has_image() else 1


class Unpack(WithImage):
    """What was unpacked before a failure stays: the next one finds it."""

    method = "image.unpack"
    comes_by_itself = True

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id, no_unpack=True)

    def body(self):
        return {"name": self.name()}


class Export(WithImage):
    """Its archive is whole, or none is there; one that is refused at the last moment may be there."""

    method = "image.export"
    comes_by_itself = True

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id)
        self.folder = os.path.join(self.world.davit.work, self.id + ".out")
        os.mkdir(self.folder)

    def body(self):
        return {"names": [self.name()], "path": os.path.join(self.folder, "out.tar")}

    def count(self):
        path = os.path.join(self.folder, "out.tar")
        if not os.path.exists(path):
            return 0
        with tarfile.open(path) as tar:
            assert "index.json" in tar.getnames(), tar.getnames()
        return 1

    def clean(self):
        super().clean()
        wait_for(lambda: os.listdir(self.folder) in ([], ["out.tar"]), "nothing else is left beside the archive")
        shutil.rmtree(self.folder)


class Collect(Operation):
    """A blob that a lease held."""

    method = "image.collect"
    comes_by_itself = True

    def prepare(self):
        self.data = self.id.encode()
        self.digest = layers.digest(self.data)
        self.bus.do("lease.create", id=self.id)
        self.bus.do("content.write", ref=self.id, writer="w", data=self.data)
        self.bus.do("content.commit", ref=self.id, writer="w", size=len(self.data), lease=self.id)
        self.bus.do("lease.delete", id=self.id)

    def body(self):
        return {}

    def count(self):
        return 0 if self.exists("content.info", digest=self.digest) else 1

    def clean(self):
        wait_for(self.count, "it is collected by itself")


class Publish(Operation):
    method = "event.publish"
    topics = ("/points/event",)

    def body(self):
        item = {"seq": 1, "time_ns": 1, "namespace": "default", "topic": "/points/event", "object": self.id, "event": {}}
        return {"publisher": self.publisher, "events": [item]}

    def new(self):
        super().new()
        self.publisher = os.urandom(16)

    def count(self):
        return len([e for e in self.world.events() if e["object"] == self.id])


# ---- what is small ----

class Read(Operation):
    """Its answer is the same as before, or an error."""

    fields = {}

    def body(self):
        return dict(self.fields)

    def count(self):
        return 1


class ListContainers(Read):
    method = "container.list"


class ListTasks(Read):
    method = "task.list"


class ListImages(Read):
    method = "image.list"


class ListContent(Read):
    method = "content.list"


class ListSnapshots(Read):
    method = "snapshot.list"


class Inspect(Read):
    method = "image.inspect"
    fields = {"name": IMAGE}


class ListRuntimes(Read):
    """After a start each is asked what it is; until then that is not told."""

    method = "runtime.list"

    def is_same(self, answer, other):
        return [[r["name"] for r in a[2].get("runtimes", [])] for a in (answer, other)] == [["crun", "runc"]] * 2


class ReadEvents(Read):
    method = "event.read"
    fields = {"from": 1, "limit": 4}

    def is_same(self, answer, other):
        """What an earlier operation tells late moves the end of the log."""
        return answer[0] == other[0] and answer[2]["events"] == other[2]["events"]


class Namespace(Operation):
    method = "namespace.create"
    topics = ("/namespaces/create",)

    def body(self):
        return {"namespace": {"name": self.id}}

    def count(self):
        return 1 if self.exists("namespace.get", name=self.id) else 0

    def clean(self):
        if self.count():
            self.bus.do("namespace.delete", name=self.id)


class Lease(Operation):
    method = "lease.create"

    def body(self):
        return {"id": self.id}

    def count(self):
        return len([x for x in self.bus.do("lease.list").get("leases", []) if x["id"] == self.id])

    def clean(self):
        if self.count():
            self.bus.do("lease.delete", id=self.id, sync=True)


class Commit(Operation):
    method = "content.commit"

    def prepare(self):
        self.data = self.id.encode()
        self.digest = layers.digest(self.data)
        self.bus.do("content.write", ref=self.id, writer="w", data=self.data)

    def body(self):
        return {"ref": self.id, "writer": "w", "size": len(self.data), "labels": {"containerd.io/gc.root": "now"}}

    def count(self):
        return 1 if self.exists("content.info", digest=self.digest) else 0

    def clean(self):
        if self.count():
            self.bus.do("content.delete", digest=self.digest)
        for ingest in self.bus.do("content.ingests").get("ingests", []):
            self.bus.do("content.abort", ref=ingest["ref"])


class Snapshot(Operation):
    method = "snapshot.prepare"

    def body(self):
        return {"key": self.id}

    def count(self):
        return 1 if self.exists("snapshot.stat", key=self.id) else 0

    def clean(self):
        if self.count():
            self.bus.do("snapshot.remove", key=self.id)


# ---- commands ----

class Command(Operation):
    is_asked_anew = True

    def is_same(self, answer, other):
        return answer[0] == other[0]

    def command(self, *words):
        """Like an answer; a refusal is told."""
        result = self.world.davit(*words)
        words, errors = result.stdout.decode(), result.stderr.decode()
        assert result.returncode <= 0 or errors, "it failed without a word: %s" % result
        return "OK" if result.returncode == 0 else "FAILED", words + errors, {}


class Backup(Command):
    """Each asking is one into a new directory: whole, or none that is restored."""

    processes = ("davit",)
    stores = ("container", "image", "events")

    def new(self):
        super().new()
        self.folder = os.path.join(self.world.davit.work, self.id)
        self.n_asked, self.n_good = 0, 0

    def prepare(self):
        self.bus.do("namespace.create", namespace={"name": self.id})

    def ask(self, request_id=None):
        self.n_asked += 1
        answer = self.command("backup", "%s.%d" % (self.folder, self.n_asked))
        self.n_good += answer[0] == "OK"
        return answer

    def is_whole(self, n):
        """It is restored somewhere else, and has all stores, which can be read."""
        davit, place = self.world.davit, "%s.%d" % (self.folder, n)
        paths = ["--root", place + ".root", "--state", place + ".state"]
        result = davit.run_with(paths, "restore", place)
        if result.returncode:
            assert result.stderr, "it is refused without a word"
            return False
        for store in self.stores:
            result = davit.run_with(paths, "store", "rebuild", store)
            assert b"nothing to rebuild" in result.stdout, result
        return True

    def count(self):
        n_whole = sum(self.is_whole(i + 1) for i in range(self.n_asked))
        assert n_whole >= self.n_good, "%d were answered, %d are whole" % (self.n_good, n_whole)
        return 1 if self.n_good else 0

    def clean(self):
        """When copies that were begun have ended."""
        wait_for(lambda: not [w for _, w in command_lines() if self.folder in " ".join(w)], "all copies have ended")
        for path in glob.glob(self.folder + ".*"):
            shutil.rmtree(path)
        self.exists("namespace.delete", name=self.id)


class Rebuild(Command):
    """The service of a store dies, and pages of the store are damaged when it comes back; it is rebuilt and accepted."""

    store = None
    folders = ("image/content/blobs/sha256", "image/snapshots")
    # What must be there: method and request. Of self.id + "b" all but the name may be missing.
    kept = ()

    def damage(self):
        """All pages that name what prepare() has made."""
        path = os.path.join(self.world.davit.root, self.store, "data.mdb")
        with open(path, "r+b") as f:
            data = f.read()
            assert self.id.encode() in data
            for at in range(2 * PAGE, len(data), PAGE):
                if self.id.encode() in data[at:at + PAGE]:
                    f.seek(at)
                    f.write(b"\xa5" * PAGE)

    def files(self):
        return sorted(os.path.join(folder, name) for folder in self.folders
                      for name in os.listdir(os.path.join(self.world.davit.root, folder)))

    def break_it(self):
        """When all that was done is in the log: an outbox may not be salvaged."""
        davit = self.world.davit
        for service in ("container", "image", "task"):
            wait_for(lambda service=service: not self.bus.do(service + ".stats").get("outbox"), "all is told")
        self.is_broken, self.said = True, ""
        self.before = self.files()
        self.supervisor = davit.supervisor()
        os.kill(self.supervisor, signal.SIGSTOP)
        davit.kill(*self.kills)
        self.damage()

    def wait_up(self):
        if not self.is_broken:
            super().wait_up()

    def rebuild(self):
        answer = self.command("store", "rebuild", self.store)
        if answer[0] == "OK":
            self.said += answer[1]
            self.is_broken = False
            os.kill(self.supervisor, signal.SIGCONT)
        return answer

    def ask(self, request_id=None):
        """Nothing is removed before it is accepted."""
        answer = self.rebuild()
        if answer[0] != "OK":
            return answer
        if "damaged: " in answer[1]:
            assert self.bus.ask("image.collect")[0] != "OK", "a collection runs"
        assert self.files() == self.before, (self.said, self.before, self.files())
        return self.bus.ask(self.store + ".store_accept")

    def names(self, line):
        """Of earlier trials some may come back, when the log has lost that they were removed."""
        operations = "|".join(cls.__name__.lower() for cls in ALL)
        return re.findall("(?:%s)[0-9]+b?" % operations, line)

    def count(self):
        """What is not there is said to be missing, and only a disk that does not give it makes it so."""
        missing = [(method, body) for method, body in self.kept if not self.exists(method, **body)]
        self.is_missing = any("missing: " in line and "does not have all its events" not in line  # an earlier trial rebuilt the log
                              and self.names(line) in ([], [self.id]) for line in self.said.splitlines())
        assert not missing or self.is_missing, "gone without a word: %s\n%s" % (missing, self.said)
        assert not self.is_missing or self.world.control.error() == errno.EIO, self.said
        return 0 if self.is_broken else 1

    def clean(self):
        if self.is_broken:
            assert self.ask()[0] == "OK"
        folder = os.path.join(self.world.davit.root, self.store)
        for name in os.listdir(folder):
            if name.startswith(("broken-", "unrecorded-")):
                shutil.rmtree(os.path.join(folder, name))
        self.clean_objects()


class RebuildImage(Rebuild, WithImage):
    store, kills = "image", ("davit-image",)

    def prepare(self):
        self.bus.do("image.import", path=self.archive(), base_name="points.example/" + self.id)
        self.bus.do("snapshot.prepare", key=self.id)
        self.kept = (("image.get", {"name": self.name()}), ("image.get", {"name": IMAGE}),
                     ("snapshot.stat", {"key": self.id}))
        self.break_it()

    def count(self):
        assert super().count() == 1 and (self.is_missing or self.is_unpacked())
        return 1

    def clean_objects(self):
        for lease in self.bus.do("lease.list").get("leases", []):
            self.bus.do("lease.delete", id=lease["id"])
        self.exists("snapshot.remove", key=self.id)
        WithImage.clean(self)
        if self.is_missing:
            self.world.davit.import_busybox()
            self.bus.do("image.collect")
            self.world.learn()


class RebuildContainer(Rebuild):
    store, kills = "container", ("davit-container",)

    def prepare(self):
        self.bus.do("container.run", **self.run_body("sleep 1000"))
        self.bus.do("container.create", container={"id": self.id + "b", "runtime": "runc", "spec": "{}"})
        self.bus.do("namespace.create", namespace={"name": self.id})
        self.spec = self.bus.do("container.get", id=self.id)["container"]["spec"]
        self.kept = (("container.get", {"id": self.id}), ("container.get", {"id": self.id + "b"}),
                     ("namespace.get", {"name": self.id}), ("task.get", {"container_id": self.id}))
        self.break_it()

    def clean_objects(self):
        for container in self.bus.do("container.list").get("containers", []):
            self.exists("container.remove", id=container["id"], force=True)
        for namespace in self.bus.do("namespace.list").get("namespaces", []):
            self.exists("namespace.delete", name=namespace["name"], status=("OK", "FAILED_PRECONDITION"))


class RebuildEvents(Rebuild):
    """Numbers go on rising, and what is lost is told."""

    store, kills = "events", ("davit-broker",)

    def prepare(self):
        for name in (self.id, self.id + "b"):
            self.bus.do("namespace.create", namespace={"name": name})
        wait_for(lambda: self.id + "b" in [e["event"].get("name") for e in self.world.events()], "it is told", 20)
        self.last = self.bus.do("event.read", **{"from": 1, "limit": 1})["last_seq"]
        self.is_told = False
        self.break_it()

    def ask(self, request_id=None):
        answer = self.rebuild()
        if answer[0] == "OK":
            wait_for(lambda: all(self.bus.ask(name + ".stats")[0] == "OK" for name in
                                 ("container", "image", "runtime", "task")), "all have registered anew", 20)
        return answer

    def count(self):
        if not self.is_broken and not self.is_told:
            self.world.mark()
            assert self.world.first_seq > self.last, (self.world.first_seq, self.last)
            self.bus.do("namespace.create", namespace={"name": self.id + "c"})
            wait_for(lambda: self.id + "c" in [e["event"].get("name") for e in self.world.events()], "it is told", 20)
            self.is_told = True
        return 0 if self.is_broken else 1

    def clean_objects(self):
        """An image whose event is lost would not be found by the next rebuild."""
        for name in (self.id, self.id + "b", self.id + "c"):
            self.exists("namespace.delete", name=name)
        target = self.bus.do("image.get", name=IMAGE)["image"]["target"]
        for method, name in (("create", IMAGE + "x"), ("delete", IMAGE), ("create", IMAGE), ("delete", IMAGE + "x")):
            self.bus.do("image." + method, **({"name": name} if method == "delete" else {"image": {"name": name, "target": target}}))


SMALL = [ListContainers, ListTasks, ListImages, ListContent, ListSnapshots, Inspect, ListRuntimes, ReadEvents, Namespace,
         Lease, Commit, Snapshot]
ALL = [Create, Run, Fleeting, Start, Brief, Exec, Kill, Fatal, End, Stop, Delete, Import, Export, Pull, Unpack, Collect, Publish,
       Push, Tag, Untag, Pause, Resume, Update, Unexec, Backup,
       RebuildImage, RebuildContainer, RebuildEvents] + [Attach, Detach] * bool(test_cni.PLUGINS)
