"""The life of a service's process: arguments, readiness, its lock, a broker that comes and goes, its end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from broker_case import BIN, Broker, until

PROGRAM = BIN + "/davit-container"


class ServiceMain(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="dv-", dir="/tmp")
        self.children = []
        self.broker = None

    def tearDown(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        if self.broker:
            self.broker.stop()
        shutil.rmtree(self.directory)

    def start(self, *arguments, **options):
        log = open(self.directory + "/service.log", "ab")
        child = subprocess.Popen(
            [PROGRAM, "--root", self.directory + "/root", "--state", self.directory + "/state",
             *arguments], stderr=log, **options)
        log.close()
        self.children.append(child)
        return child

    def start_ready(self):
        """When it returns the broker has answered its registration."""
        ready, ready_end = os.pipe()
        child = self.start("--ready-fd", str(ready_end), pass_fds=[ready_end])
        os.close(ready_end)
        text = os.read(ready, 100)
        os.close(ready)
        self.assertEqual(text, b"READY=1\n", self.read_log())
        return child

    def read_log(self):
        with open(self.directory + "/service.log") as log:
            return log.read()

    def is_listening(self, child):
        return os.path.exists("%s/state/svc/container-%d.sock" % (self.directory, child.pid))

    def test_wrong_arguments_are_refused_by_name(self):
        for arguments, text in ((["--frobnicate"], "--frobnicate"), (["stray"], "stray"),
                                (["--ready-fd", "77"], "77"), (["--ready-fd", "x"], "'x'")):
            done = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=20)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn(text, done.stderr.decode())
        done = subprocess.run([PROGRAM, "--help"], capture_output=True, timeout=20)
        self.assertEqual(done.returncode, 0)
        self.assertIn("--ready-fd", done.stdout.decode())

    def test_a_state_path_that_is_too_long_is_refused(self):
        done = subprocess.run([PROGRAM, "--state", "/" + "x" * 80], capture_output=True, timeout=20)
        self.assertEqual(done.returncode, 1)
        self.assertIn("x" * 80, done.stderr.decode())

    def test_without_a_broker_it_waits_and_ends_when_asked(self):
        child = self.start()
        self.assertTrue(until(lambda: self.is_listening(child)), self.read_log())
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(20), 0)
        self.assertFalse(self.is_listening(child))

    def test_the_supervisor_hears_of_readiness_by_its_socket(self):
        path = self.directory + "/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(20)
            self.start(env={**os.environ, "NOTIFY_SOCKET": path})
            self.broker = Broker(self.directory)
            self.assertEqual(notify.recv(100), b"READY=1")

    def test_a_second_instance_gives_up_and_names_the_store(self):
        first = self.start()
        self.assertTrue(until(lambda: self.is_listening(first)), self.read_log())
        second = self.start()
        self.assertEqual(second.wait(20), 1)
        self.assertIn(self.directory + "/root/container", self.read_log())
        self.assertIn("another process", self.read_log())
        self.assertIsNone(first.poll())

    def test_a_store_that_was_cut_short_or_lost_is_reported_and_left_as_it_is(self):
        child = self.start()
        self.assertTrue(until(lambda: self.is_listening(child)), self.read_log())
        child.kill()
        child.wait()
        stores = [os.path.join(at, name) for at, _, names in os.walk(self.directory + "/root")
                  for name in names if name == "data.mdb"]
        self.assertEqual(len(stores), 1)
        os.truncate(stores[0], 2 * 4096)
        self.assertNotIn(self.start().wait(20), (0, -signal.SIGBUS, -signal.SIGSEGV))
        self.assertIn("left as it is", self.read_log())
        self.assertEqual(os.path.getsize(stores[0]), 2 * 4096)
        # For LMDB these would be new ones.
        os.truncate(stores[0], 0)
        self.assertEqual(self.start().wait(20), 1)
        self.assertEqual(os.path.getsize(stores[0]), 0)
        os.unlink(stores[0])
        self.assertEqual(self.start().wait(20), 1)
        self.assertFalse(os.path.exists(stores[0]))
        self.assertEqual(self.read_log().count("has lost its data.mdb"), 2)

    def test_a_full_disk_refuses_changes_by_name_and_the_service_lives(self):
        os.makedirs(self.directory + "/root/container", mode=0o700)
        self.broker = Broker(self.directory)
        # In a mount namespace of its own, so that nothing stays mounted.
        script = "mount -t tmpfs -o size=1m,mode=700 full %s && exec \"$@\"" % (
            self.directory + "/root/container")
        log = open(self.directory + "/service.log", "ab")
        child = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", PROGRAM, "--root", self.directory + "/root",
             "--state", self.directory + "/state"], stderr=log)
        log.close()
        self.children.append(child)
        self.assertTrue(until(lambda: self.broker.service("container").get("state") == "live"),
                        self.read_log())
        labels = {"k%d" % i: "x" * 4000 for i in range(10)}
        statuses = []
        for i in range(100):
            body = {"namespace": {"name": "n%d" % i, "labels": labels}}
            status, text, _ = self.broker.call("namespace.create", body)
            statuses.append(status)
            if status != "OK":
                break
        self.assertEqual(statuses[-1], "RESOURCE_EXHAUSTED", (text, self.read_log()))
        self.assertIn("no space is left", text)
        status, _, body = self.broker.call("namespace.get", {"name": "n0"})
        self.assertEqual(status, "OK")
        self.assertEqual(body["namespace"]["labels"], labels)
        self.assertEqual(self.broker.call("namespace.get", {"name": "n%d" % i})[0], "NOT_FOUND")
        self.assertIsNone(child.poll(), self.read_log())

    def test_a_new_broker_has_the_service_back_at_once(self):
        self.broker = Broker(self.directory)
        self.start_ready()
        for _ in range(5):
            self.broker.stop(signal.SIGKILL)
            start = time.monotonic()
            self.broker = Broker(self.directory)
            status, text, body = self.broker.call("namespace.list")
            self.assertEqual(status, "OK", text)
            # Much sooner than the next heartbeat.
            self.assertLess(time.monotonic() - start, 1.0)

    def test_events_that_no_broker_took_are_published_by_the_next_instance(self):
        self.broker = Broker(self.directory)
        child = self.start_ready()
        for i in range(50):
            status, text, _ = self.broker.call("namespace.create", {"namespace": {"name": "n%d" % i}})
            self.assertEqual(status, "OK", text)
            if i == 25:
                self.broker.stop(signal.SIGKILL)
                self.broker = Broker(self.directory)
        self.broker.stop(signal.SIGKILL)
        child.kill()
        child.wait()
        self.broker = Broker(self.directory)
        self.start()

        def created():
            body = self.broker.call("event.read", {"from": 1, "limit": 1000})[2]
            return [e["object"] for e in body.get("events", [])]

        self.assertTrue(until(lambda: len(created()) >= 50), created())
        self.assertEqual(created(), ["n%d" % i for i in range(50)])


if __name__ == "__main__":
    unittest.main()
