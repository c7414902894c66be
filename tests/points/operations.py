"""The operations whose points are walked: what must be there before, the request, what it must have done."""

import os
import shutil
import sys
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import layers  # noqa: E402
import registry  # noqa: E402
from davit import wait_for  # noqa: E402

IMAGE = "docker.io/library/busybox:latest"
USR1 = 10


class Operation:
    """One request, again and again, each time on a new object."""

    method = None
    # Topics of the events that it makes once, when it has taken effect, of self.id.
    topics = ()
    # It may come in spite of a refusal, which says nothing of that: davit does the same by itself, or keeps what was done.
    comes_by_itself = False

    def __init__(self, world):
        self.world, self.bus, self.number = world, world.bus, 0

    def new(self):
        self.number += 1
        self.id = "%s%d" % (type(self).__name__.lower(), self.number)

    def prepare(self):
        pass

    def body(self):
        raise NotImplementedError

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


SMALL = [ListContainers, ListTasks, ListImages, ListContent, ListSnapshots, Inspect, ListRuntimes, ReadEvents, Namespace,
         Lease, Commit, Snapshot]
ALL = [Create, Run, Fleeting, Start, Brief, Exec, Kill, Fatal, End, Stop, Delete, Import, Export, Pull, Unpack, Collect, Publish]
