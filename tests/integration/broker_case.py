"""What the broker's integration tests share: a broker of their own in a scratch
directory, services, and figures of a process. $BUILD says where the programs are."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.join(os.environ.get("BUILD", os.path.join(HERE, "../../build")), "bin")
sys.path.insert(0, HERE)

from sp_client import Caller, Subscriber, event  # noqa: E402,F401


def until(condition, seconds=20):
    """Asks again and again, 5 ms apart, until @condition gives something true, which is returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        select.select([], [], [], 0.005)


def n_fds(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


class Broker:
    def __init__(self, directory, *arguments, wrapper=()):
        self.state = directory + "/state"
        self.bus = self.state + "/bus.sock"
        self.events = self.state + "/events.sock"
        self.registry = self.state + "/registry.sock"
        self.root = directory + "/root"
        ready, ready_end = os.pipe()
        self.log = open(directory + "/broker.log", "ab")
        self.process = subprocess.Popen(
            [*wrapper, BIN + "/davit-broker", "--root", self.root, "--state", self.state,
             "--ready-fd", str(ready_end), *arguments],
            pass_fds=[ready_end], stdout=subprocess.DEVNULL, stderr=self.log)
        os.close(ready_end)
        self.is_ready = os.read(ready, 100) == b"READY=1\n"
        os.close(ready)
        self.pid = self.process.pid

    def caller(self, timeout=20):
        return Caller(self.bus, timeout)

    def subscriber(self, timeout=20):
        return Subscriber(self.events, timeout)

    def call(self, method, body=None, **options):
        with self.caller() as caller:
            return caller.call(method, body, **options)

    def stats(self):
        return self.call("bus.stats")[2]

    def service(self, name):
        found = [s for s in self.call("bus.list")[2].get("services", []) if s["name"] == name]
        return found[0] if found else {}

    def stop(self, signal_number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log.close()


class BrokerCase(unittest.TestCase):
    arguments = ()
    wrapper = ()

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="dv-", dir="/tmp")
        self.children = []
        self.broker = None
        self.broker = self.start_broker()

    def start_broker(self):
        broker = Broker(self.directory, *self.arguments, wrapper=self.wrapper)
        if not broker.is_ready:
            with open(self.directory + "/broker.log") as log:
                self.fail("the broker did not start: " + log.read())
        return broker

    def start_service(self, name, *arguments, ready=True):
        child = subprocess.Popen(
            ["/usr/bin/python3", HERE + "/sp_service.py", self.broker.state, name, *arguments],
            stdout=subprocess.PIPE)
        self.children.append(child)
        if ready:
            self.assertEqual(child.stdout.readline(), b"ready\n")
        return child

    def tearDown(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
        try:
            if self.broker:
                code = self.broker.stop()
                self.assertIn(code, (0, -signal.SIGKILL, 75), self.read_log())
        finally:
            shutil.rmtree(self.directory)

    def read_log(self):
        with open(self.directory + "/broker.log") as log:
            return log.read()
