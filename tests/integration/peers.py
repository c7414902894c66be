"""Other programs that read and write images, each with a private place of its own."""

import os
import shutil
import subprocess
import time


def has(*programs):
    return all(shutil.which(p) for p in programs)


def run(*words, **options):
    result = subprocess.run(words, capture_output=True, timeout=120, **options)
    assert result.returncode == 0, "%s: %s" % (" ".join(words), result.stderr.decode(errors="replace"))
    return result.stdout


class Containerd:
    """A containerd of the test's own: root, state and socket beneath @work."""

    def __init__(self, work):
        self.work = os.path.join(work, "containerd")
        self.address = os.path.join(self.work, "c.sock")

    def __enter__(self):
        os.makedirs(self.work)
        config = os.path.join(self.work, "config.toml")
        with open(config, "w") as out:
            out.write('version = 2\nroot = "%s/root"\nstate = "%s/state"\n'
                      'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n'
                      % (self.work, self.work, self.address))
        self.log = open(os.path.join(self.work, "log"), "w")
        self.process = subprocess.Popen(["containerd", "-c", config], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 30
        while subprocess.run(["ctr", "-a", self.address, "version"], capture_output=True).returncode:
            assert time.monotonic() < end and self.process.poll() is None, "containerd does not come up"
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def __call__(self, *words):
        return run("ctr", "-a", self.address, *words).decode()


def podman(work, *words):
    """podman with its own storage."""
    home = os.path.join(work, "podman")
    return run("podman", "--root", os.path.join(home, "root"), "--runroot", os.path.join(home, "run"),
               "--storage-driver", "vfs", *words, env=dict(os.environ, TMPDIR=work, HOME=work)).decode()
