"""What misbehaving peers do to the real broker: nothing that others notice."""

import os
import random
import signal
import socket
import struct
import time
import unittest

import msgpack

from broker_case import BrokerCase, n_fds, until
from sp_client import Caller

# What a sanitizer keeps of freed memory is not the broker's.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=16"


def connect(path):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.connect(path)
    peer.settimeout(10)
    return peer


def median_ms(broker, n=60):
    times = []
    with broker.caller() as caller:
        for _ in range(n):
            start = time.monotonic()
            caller.call("bus.ping")
            times.append(time.monotonic() - start)
    return sorted(times)[n // 2] * 1000


def status_kb(pid, name):
    with open("/proc/%d/status" % pid) as status:
        for line in status:
            if line.startswith(name + ":"):
                return int(line.split()[1])


class Hostile(BrokerCase):
    def sockets(self):
        return {"bus": (self.broker.bus, 0x30), "registry": (self.broker.registry, 0x30),
                "events": (self.broker.events, 0x21)}

    def assert_serves(self):
        self.assertEqual(self.broker.call("bus.ping")[0], "OK")
        publisher = os.urandom(16)
        with self.broker.subscriber() as subscriber:
            # The subscriber counts from when the broker knows it.
            until(lambda: self.publish_one(publisher) and self.heard(subscriber, publisher))
        with Caller(self.broker.registry) as registry:
            self.assertEqual(registry.call("registry.nothing")[0], "NOT_FOUND")

    def publish_one(self, publisher):
        self.seq = getattr(self, "seq", 0) + 1
        item = {"seq": self.seq, "time_ns": 1, "topic": "/test/one", "event": {}}
        status, text, _ = self.broker.call("event.publish",
                                           {"publisher": publisher, "events": [item]})
        self.assertEqual((status, text), ("OK", ""))
        return True

    def heard(self, subscriber, publisher):
        subscriber.socket.settimeout(2)
        topic, value = subscriber.receive_event()
        return topic == "/test/one" and value["publisher"] == publisher

    def test_200_peers_that_connect_and_close_end_no_listener(self):
        for path, _ in self.sockets().values():
            for _ in range(200):
                connect(path).close()
        self.assert_serves()

    def test_200_peers_that_greet_and_close_end_no_listener(self):
        for path, protocol in self.sockets().values():
            for _ in range(200):
                peer = connect(path)
                peer.sendall(b"\0SP\0" + struct.pack(">HH", protocol, 0))
                peer.close()
        self.assert_serves()

    def test_a_peer_that_claims_a_gigabyte_costs_no_memory(self):
        before = status_kb(self.broker.pid, "VmSize")
        peers = []
        for path, protocol in self.sockets().values():
            for _ in range(5):
                peer = connect(path)
                peer.sendall(b"\0SP\0" + struct.pack(">HH", protocol, 0))
                peer.recv(8)
                peer.sendall(b"\1" + struct.pack(">Q", 10 ** 9) + b"x" * 1000)
                peers.append(peer)
        for peer in peers:
            try:
                while peer.recv(100):
                    pass
            except ConnectionResetError:
                pass
            peer.close()
        self.assert_serves()
        # Fifteen claims; a thread's arena counts 64 MB of addresses.
        self.assertLess(status_kb(self.broker.pid, "VmSize") - before, 900000)
        self.assertLess(status_kb(self.broker.pid, "VmRSS"), 100000)

    def test_random_and_truncated_bytes_on_every_socket(self):
        randomness = random.Random(7)
        envelope = msgpack.packb([1, b"i" * 16, 0, "default", "event.publish",
                                  {"publisher": b"p" * 16, "events": [
                                      {"seq": 1, "time_ns": 1, "topic": "/a/b", "event": {}}]}, {}])
        for name, (path, protocol) in self.sockets().items():
            for i in range(150):
                payload = randomness.randbytes(randomness.randrange(300)) if i % 3 else \
                    envelope[:randomness.randrange(len(envelope))]
                peer = connect(path)
                if i % 5:
                    peer.sendall(b"\0SP\0" + struct.pack(">HH", protocol, 0))
                    peer.sendall(b"\1" + struct.pack(">Q", len(payload) + 4) +
                                 struct.pack(">I", 0x80000001))
                try:
                    peer.sendall(payload)
                except OSError:
                    pass
                peer.close()
        self.assert_serves()

    def test_a_body_that_is_not_the_methods_gets_a_sentence(self):
        with self.broker.caller() as caller:
            for body in ([], 7, "text", {"publisher": 1}, {"events": {}}, {"publisher": b"short",
                                                                        "events": []}):
                status, text, _ = caller.call("event.publish", body)
                self.assertEqual(status, "INVALID_ARGUMENT", body)
                self.assertTrue(text)
            for payload in (b"\xdd\x08\0\0\0", b"\x91" * 40, b"", b"\xc1",
                            msgpack.packb([9, b"i" * 16, 0, "n", "bus.ping", {}, {}])):
                caller.number += 1
                caller.send_raw(payload)
                reply = msgpack.unpackb(caller.receive()[4:])
                self.assertEqual(reply[2], "INVALID_ARGUMENT", payload)
            for method in ("", ".", "bus", "bus.", ".ping", "a" * 200, "bus.register",
                           "registry.register"):
                self.assertNotEqual(caller.call(method)[0], "OK", method)
            self.assertEqual(caller.call("bus.ping")[0], "OK")

    def test_a_request_at_the_limit_is_answered_and_one_above_it_cut_off(self):
        self.start_service("alpha")
        with self.broker.caller() as caller:
            status, _, body = caller.call("alpha.echo", {"data": b"x" * 900000})
            self.assertEqual((status, len(body["body"]["data"])), ("OK", 900000))
            status, text, _ = caller.call("alpha.echo", {"data": b"x" * ((1 << 20) - 90)})
            self.assertEqual(status, "INVALID_ARGUMENT")
            self.assertIn("1 MiB", text)
            with self.assertRaises(Exception):
                caller.call("alpha.echo", {"data": b"x" * (1 << 20)})
        self.assert_serves()

    def test_a_registration_under_another_pid_is_refused(self):
        with Caller(self.broker.registry) as registry:
            body = {"instance": b"i" * 16, "names": ["fake"], "address": "/tmp/x", "pid": 1,
                    "start_time": 1, "protocol": 1}
            self.assertEqual(registry.call("registry.register", body)[0], "INVALID_ARGUMENT")
            body["pid"] = os.getpid()
            status, text, _ = registry.call("registry.register", body)
            self.assertEqual(status, "INVALID_ARGUMENT")
            self.assertIn("start time", text)
        self.assertEqual(self.broker.call("fake.echo")[0], "NOT_FOUND")

    def test_sockets_are_for_their_owner_only(self):
        for path, _ in self.sockets().values():
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(self.broker.state).st_mode & 0o777, 0o700)

    def test_a_second_broker_is_refused_and_the_first_goes_on(self):
        with self.assertRaises(AssertionError) as failure:
            self.start_broker()
        self.assertIn("another davit-broker", str(failure.exception))
        self.assert_serves()

    def test_500_callers_killed_with_requests_in_flight_leave_nothing(self):
        self.start_service("alpha")
        for _ in range(3):
            self.broker.call("alpha.echo")
        fds, latency = n_fds(self.broker.pid), median_ms(self.broker)
        for round_number in range(10):
            killed = [fork_caller(self.broker.bus, i) for i in range(50)]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.assertTrue(until(lambda: self.broker.stats()["connections"] == 1))
        self.assertTrue(until(lambda: not self.broker.service("alpha").get("in_flight")))
        # The pool grew with need and shrinks again; the callers' descriptors all come back (nng closes them a moment
        # after it has told of their end).
        self.assertTrue(until(lambda: n_fds(self.broker.pid) <=
                              fds + self.broker.service("alpha")["connections"] + 4))
        self.assertLess(median_ms(self.broker), 10 * latency + 5)
        self.assertEqual(self.broker.call("alpha.echo")[0], "OK")
        self.assertFalse(self.broker.stats().get("held"))

    def test_a_caller_that_takes_no_answers_hurts_only_itself(self):
        deaf = connect(self.broker.bus)
        deaf.sendall(b"\0SP\0" + struct.pack(">HH", 0x30, 0))
        deaf.setblocking(False)
        payload = msgpack.packb([1, b"i" * 16, 0, "default", "bus.echo",
                                 {"data": b"x" * 60000}, {}])
        frame = b"\1" + struct.pack(">Q", len(payload) + 4) + struct.pack(">I", 0x80000001)
        data = (frame + payload) * 400
        sent = 0
        try:
            while sent < len(data):
                sent += deaf.send(data[sent:])
        except BlockingIOError:
            pass
        self.assert_serves()
        deaf.close()
        self.assert_serves()

    def test_a_caller_that_pipelines_gets_its_answers_in_order(self):
        self.start_service("alpha")
        with self.broker.caller() as caller:
            for number in range(1, 21):
                payload = msgpack.packb([1, b"%016d" % number, 0, "default", "alpha.echo",
                                         {"n": number}, {}])
                caller.send(struct.pack(">I", 0x80000000 | number) + payload)
            for number in range(1, 21):
                reply = caller.receive()
                self.assertEqual(struct.unpack(">I", reply[:4])[0], 0x80000000 | number)
                self.assertEqual(msgpack.unpackb(reply[4:])[4]["body"], {"n": number})

    def test_more_connections_than_there_is_room_for_lock_nobody_out(self):
        peers = []
        for _ in range(4700):
            peers.append(connect(self.broker.bus))
        self.assert_serves()
        self.assertLessEqual(self.broker.stats()["connections"], 4608)
        for peer in peers:
            peer.close()
        self.assertTrue(until(lambda: self.broker.stats()["connections"] == 1))

    def test_peers_that_stop_in_the_middle_of_a_message_cost_bounded_memory(self):
        peers = []
        part = b"x" * ((1 << 20) - 1)
        for _ in range(150):
            peer = connect(self.broker.bus)
            peer.sendall(b"\0SP\0" + struct.pack(">HH", 0x30, 0))
            peer.sendall(b"\1" + struct.pack(">Q", 1 << 20))
            peer.sendall(part)
            peers.append(peer)
        self.assert_serves()
        self.assertLess(status_kb(self.broker.pid, "VmRSS"), 120000)
        self.assertLessEqual(self.broker.stats()["connections"], 65)
        for peer in peers:
            peer.close()
        self.assert_serves()


def fork_caller(path, i):
    """A process with a request in flight, which has been sent when this returns."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        caller = Caller(path)
        caller.start("alpha.slow", {"ms": 20 + i % 7})
        os.write(done, b"x")
        signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(done)
    return pid


if __name__ == "__main__":
    unittest.main()
