"""The event log of the real broker: numbered, durable, read by numbers and cursors."""

import ctypes
import os
import signal
import subprocess
import threading
import unittest

from broker_case import BrokerCase, event, until
from sp_client import Closed


class Events(BrokerCase):
    def publish(self, publisher, seqs, caller=None, **fields):
        body = {"publisher": publisher, "events": [event(seq, **fields) for seq in seqs]}
        return caller.call("event.publish", body) if caller else \
            self.broker.call("event.publish", body)

    def read_all(self, start=1, **filters):
        events, at = [], start
        with self.broker.caller() as caller:
            while True:
                status, text, body = caller.call("event.read", dict(filters, **{"from": at}))
                self.assertEqual((status, text), ("OK", ""))
                events += body.get("events", [])
                at = body["next"]
                if at > body["last_seq"]:
                    return events

    def test_what_was_acknowledged_survives_a_kill_and_nothing_is_doubled(self):
        acknowledged = [0] * 4
        publishers = [os.urandom(16) for _ in range(4)]
        done = threading.Event()

        def run(i):
            seq = 1
            while not done.is_set():
                try:
                    with self.broker.caller() as caller:
                        while not done.is_set():
                            status, _, body = self.publish(publishers[i], range(seq, seq + 5),
                                                           caller)
                            if status != "OK":
                                seq = body["next_seq"]
                                continue
                            seq += 5
                            acknowledged[i] = seq - 1
                except (OSError, Closed):
                    pass

        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            floor = sum(acknowledged) + 100
            until(lambda: sum(acknowledged) > floor)
            self.broker.stop(signal.SIGKILL)
            self.broker = self.start_broker()
        floor = sum(acknowledged) + 100
        until(lambda: sum(acknowledged) > floor)
        done.set()
        for thread in threads:
            thread.join()
        events = self.read_all()
        self.assertEqual([e["seq"] for e in events], list(range(1, len(events) + 1)))
        for i, publisher in enumerate(publishers):
            own = [e["publisher_seq"] for e in events if e["publisher"] == publisher]
            self.assertEqual(own, list(range(1, len(own) + 1)))
            self.assertGreaterEqual(len(own), acknowledged[i])

    def test_a_subscriber_hears_events_in_order_and_a_heartbeat_in_silence(self):
        publisher = os.urandom(16)
        with self.broker.subscriber(3) as subscriber, self.broker.caller() as caller:
            self.assertEqual(subscriber.receive_event()[0], "/bus/heartbeat")
            for i in range(50):
                self.publish(publisher, [2 * i + 1, 2 * i + 2], caller)
            heard = []
            while len(heard) < 100:
                topic, value = subscriber.receive_event()
                if topic != "/bus/heartbeat":
                    heard.append(value["seq"])
            self.assertEqual(heard, list(range(1, 101)))
            topic, value = subscriber.receive_event()
            self.assertEqual((topic, value["last_seq"]), ("/bus/heartbeat", 100))

    def test_a_slow_subscriber_reads_from_the_log_what_it_missed(self):
        publisher = os.urandom(16)
        with self.broker.subscriber(3) as subscriber, self.broker.caller() as caller:
            subscriber.receive_event()
            for i in range(40):
                self.publish(publisher, range(i * 500 + 1, i * 500 + 501), caller,
                             object="x" * 200)
            seen, at = [], 0
            while at < 20000:
                topic, value = subscriber.receive_event()
                if topic == "/bus/heartbeat":
                    missed_to = value["last_seq"] + 1
                else:
                    missed_to = value["seq"]
                while at + 1 < missed_to:
                    part = caller.call("event.read", {"from": at + 1, "limit": 1000})[2]
                    for item in part["events"]:
                        if item["seq"] < missed_to:
                            seen.append(item["seq"])
                            at = item["seq"]
                if topic != "/bus/heartbeat" and value["seq"] == at + 1:
                    at += 1
                    seen.append(at)
            self.assertEqual(seen, list(range(1, 20001)))

    def test_a_read_waits_for_a_matching_event_and_no_longer_than_asked(self):
        publisher = os.urandom(16)
        with self.broker.caller() as reader:
            reader.start("event.read", {"wait_ms": 10000, "object": "wanted"})
            until(lambda: self.broker.stats().get("waiting_reads"))
            self.publish(publisher, [1], object="other")
            self.publish(publisher, [2], object="wanted")
            body = reader.finish()[2]
            self.assertEqual([e["seq"] for e in body["events"]], [2])
            self.assertEqual(body["next"], 3)
            body = reader.call("event.read", {"from": 3, "wait_ms": 100})[2]
            self.assertEqual((body.get("events"), body["next"]), (None, 3))
            body = reader.call("event.read", {"from": 3, "wait_ms": 10000}, deadline_ms=100)[2]
            self.assertEqual(body["next"], 3)
            self.assertEqual(reader.call("event.read", {"wait_ms": 10001})[0],
                             "INVALID_ARGUMENT")

    def test_a_named_cursor_stays_until_it_is_moved_and_over_a_restart(self):
        publisher = os.urandom(16)
        self.publish(publisher, range(1, 11))
        read = {"cursor": "mine", "from": 1, "limit": 4}
        for _ in range(2):
            body = self.broker.call("event.read", read)[2]
            self.assertEqual([e["seq"] for e in body["events"]], [1, 2, 3, 4])
        body = self.broker.call("event.read", dict(read, ack=4))[2]
        self.assertEqual([e["seq"] for e in body["events"]], [5, 6, 7, 8])
        self.broker.stop(signal.SIGKILL)
        self.broker = self.start_broker()
        body = self.broker.call("event.read", read)[2]
        self.assertEqual(body["events"][0]["seq"], 5)
        self.assertEqual(self.broker.call("event.read", dict(read, ack=99))[0],
                         "INVALID_ARGUMENT")
        self.assertEqual(self.broker.call("event.cursors")[2]["cursors"][0]["ack"], 4)
        self.assertEqual(self.broker.call("event.cursor_delete", {"name": "mine"})[0], "OK")
        self.assertEqual(self.broker.call("event.cursor_delete", {"name": "mine"})[0],
                         "NOT_FOUND")

    def test_a_gap_names_the_number_that_is_wanted(self):
        publisher = os.urandom(16)
        self.publish(publisher, [1, 2])
        status, text, body = self.publish(publisher, [4])
        self.assertEqual((status, body["next_seq"]), ("ABORTED", 3))
        status, _, body = self.publish(publisher, [1, 2, 3])
        self.assertEqual((status, body["next_seq"], body["last_seq"]), ("OK", 4, 3))

    def test_reading_at_the_wrong_end_of_the_log_answers_at_once(self):
        self.publish(os.urandom(16), [1])
        body = self.broker.call("event.read", {"from": 77, "wait_ms": 10000}, deadline_ms=5000)[2]
        self.assertEqual((body["next"], body["last_seq"]), (2, 1))


class Retention(BrokerCase):
    arguments = ("--log-max-bytes", "100K")

    def test_the_log_is_bounded_and_says_what_is_gone(self):
        publisher = os.urandom(16)
        with self.broker.caller() as caller:
            for i in range(20):
                body = {"publisher": publisher,
                        "events": [event(i * 100 + j, object="x" * 100) for j in range(1, 101)]}
                self.assertEqual(caller.call("event.publish", body)[0], "OK")
            self.assertTrue(until(lambda: self.broker.stats()["log_bytes"] <= 100 * 1024))
            body = caller.call("event.read", {"from": 1})[2]
        self.assertTrue(body["truncated"])
        self.assertEqual(body["events"][0]["seq"], body["first_seq"])
        self.assertGreater(body["first_seq"], 1000)
        self.assertEqual(body["last_seq"], 2000)


class FullDisk(BrokerCase):
    # The log's directory is a small file system that only the broker sees.
    wrapper = ("unshare", "-m", "sh", "-c",
               'mkdir -p "$3" && mount -t tmpfs -o size=2m none "$3" && exec "$@"', "sh")

    def test_a_full_disk_refuses_events_loses_none_and_ends_by_itself(self):
        publisher, last, status = os.urandom(16), 0, "OK"
        with self.broker.caller() as caller:
            while status == "OK" and last < 50000:
                body = {"publisher": publisher,
                        "events": [event(last + i, object="x" * 200) for i in range(1, 51)]}
                status, text, _ = caller.call("event.publish", body)
                last += 50 if status == "OK" else 0
            self.assertEqual(status, "RESOURCE_EXHAUSTED")
            self.assertEqual(caller.call("event.publish", body)[0], "RESOURCE_EXHAUSTED")
            read = caller.call("event.read", {"from": last})[2]
            self.assertEqual([e["publisher_seq"] for e in read["events"]], [last])
            subprocess.run(["nsenter", "-t", str(self.broker.pid), "-m", "mount", "-o",
                            "remount,size=8m", self.broker.root], check=True)
            self.assertEqual(caller.call("event.publish", body)[:2], ("OK", ""))


class Watchdog(BrokerCase):
    arguments = ("--watchdog-ms", "100")

    def is_waiting(self):
        """In epoll_wait(2), or its like, of x86-64 or arm64."""
        with open("/proc/%d/task/%d/syscall" % (self.broker.pid, self.broker.pid)) as f:
            return f.read().split()[0] in {"x86_64": ("232", "281"), "aarch64": ("22",)}[os.uname().machine]

    def test_a_broker_whose_loop_stands_still_ends_itself(self):
        libc = ctypes.CDLL(None, use_errno=True)
        seize, interrupt = 0x4206, 0x4207
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        # Only the loop's thread is stopped, while it waits and holds no lock: nng's and the watchdog's go on.
        until(lambda: "serving" in self.read_log())
        until(lambda: self.is_waiting())
        self.assertEqual(libc.ptrace(seize, self.broker.pid, 0, 0), 0)
        self.assertEqual(libc.ptrace(interrupt, self.broker.pid, 0, 0), 0)
        self.assertTrue(os.WIFSTOPPED(os.waitpid(self.broker.pid, 0)[1]))
        self.assertEqual(self.broker.process.wait(20), 75)
        self.assertIn("ending", self.read_log())


if __name__ == "__main__":
    unittest.main()
