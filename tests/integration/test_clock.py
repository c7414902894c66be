"""The host's clock is set forwards and backwards by an hour while davit works: deadlines, leases and order hold."""

import contextlib
import json
import os
import struct
import subprocess
import time

import layers
from davit import BIN, HERE, PROCESSES, Davit, check_log, main, wait_for

HOUR = 3600


class Stepped(Davit):
    """Its processes are started by hand, with a clock that the test steps."""

    def up(self):
        self.clock = os.path.join(self.work, "clock")
        self.step(0)
        library = os.path.join(self.work, "step_clock.so")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", library,
                        os.path.join(HERE, "step_clock.c")], check=True)
        env = dict(self.env, LD_PRELOAD=library, STEP_CLOCK=self.clock)
        env["ASAN_OPTIONS"] = "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")
        os.mkdir(self.state)
        self.children = []
        with open(os.path.join(self.state, "up.log"), "w") as log:
            for program in PROCESSES:
                self.children.append(subprocess.Popen(
                    [os.path.join(BIN, program), "--root", self.root, "--state", self.state], env=env, stdout=log,
                    stderr=log))
        wait_for(lambda: self("containers", "ls").returncode == 0 and self("images", "ls").returncode == 0 and
                 self("tasks", "ls").returncode == 0, "services are there")
        return self

    def step(self, seconds):
        mode = "r+b" if os.path.exists(self.clock) else "wb"
        with open(self.clock, mode) as f:
            f.write(struct.pack("l", seconds))

    def end(self):
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
        super().end()


def newest_time(d):
    return d.events()[-1]["time_ns"] / 1e9


def test_an_hour_forwards_and_backwards_breaks_nothing():
    with Stepped() as d:
        d.import_busybox()
        path = os.path.join(d.work, "held.tar")
        held = layers.image(path, [layers.tar([layers.f("held", b"held")])], "v1")
        d.check("leases", "create", "--id", "held", "--expires", "24h")
        d.call("image.import", "path=" + path, "base_name=held")
        d.call("lease.add_resource", "id=held", "resource:=" + json.dumps({"type": "content", "id": held}))
        d.check("images", "rm", "held:v1")
        d.check("run", "-d", "busybox", "web", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        for step in (HOUR, -HOUR):
            d.step(step)
            # Deadlines: a grace period that begins before a step ends when it should.
            name = "s%d" % abs(step) + ("f" if step > 0 else "b")
            d.check("run", "-d", "busybox", name, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
            stopping = d.start("stop", "--timeout", "1s", name)
            d.step(-step)
            out, error = stopping.communicate(timeout=60)
            assert stopping.returncode == 0, error
            d.step(step)
            assert d.check("run", "--rm", "busybox", "r", "echo", "hello") == "hello\n"
            d.check("namespaces", "create", "n" + name)
            assert abs(newest_time(d) - time.time() - step) < 600, "the step has not come through"
            # Leases and images: nothing that is held goes.
            d.check("prune", "--force")
            assert "held" in d.check("leases", "ls", "-q")
            assert os.path.exists(os.path.join(d.root, "image/content/blobs/sha256", held.split(":")[1]))
            assert d.check("images", "check", "-q")
            d.check("rm", name)
            check_log(d.events())
        assert d.check("exec", "web", "echo", "alive") == "alive\n"
        d.step(0)
        d.check("rm", "-f", "web")
        check_log(d.events())


if __name__ == "__main__":
    main(globals())
