"""Requests through the real broker: routed, held, redelivered, refused, and never stuck."""

import os
import select
import signal
import time
import unittest

from broker_case import BrokerCase, until


class Routing(BrokerCase):
    def test_a_request_reaches_the_service_with_what_only_the_broker_knows(self):
        self.start_service("alpha")
        status, text, body = self.broker.call("alpha.echo", {"a": 1}, namespace="space")
        self.assertEqual((status, body["body"], body["namespace"]), ("OK", {"a": 1}, "space"))
        self.assertEqual((body["uid"], body["caller"]), (os.geteuid(), os.getpid()))
        left = body["deadline"] - time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
        self.assertTrue(50000 < left < 60001, left)

    def test_a_name_that_never_registered_is_not_found(self):
        status, text, _ = self.broker.call("nobody.echo")
        self.assertEqual(status, "NOT_FOUND")
        self.assertIn("nobody", text)

    def test_a_request_is_held_while_its_service_is_away_and_answered_when_it_is_back(self):
        service = self.start_service("alpha")
        service.kill()
        service.wait()
        until(lambda: self.broker.service("alpha")["state"] == "away")
        with self.broker.caller() as caller:
            caller.start("alpha.echo")
            self.assertEqual(until(lambda: self.broker.stats().get("held")), 1)
            self.start_service("alpha")
            self.assertEqual(caller.finish()[0], "OK")

    def test_names_and_schemas_survive_the_broker(self):
        self.start_service("alpha")
        self.assertEqual(self.broker.call("bus.describe", {"name": "alpha"})[2]["schema"],
                         "the schema of alpha")
        self.broker.stop(signal.SIGKILL)
        self.children.pop().kill()
        self.broker = self.start_broker()
        self.assertEqual(self.broker.service("alpha")["state"], "away")
        status, text, _ = self.broker.call("alpha.echo", deadline_ms=100)
        self.assertEqual(status, "UNAVAILABLE")
        self.assertIn("not delivered", text)
        self.assertEqual(self.broker.call("bus.forget", {"name": "alpha"})[0], "OK")
        self.assertEqual(self.broker.call("alpha.echo")[0], "NOT_FOUND")

    def test_a_service_registers_again_with_a_new_broker(self):
        self.start_service("alpha")
        self.broker.stop(signal.SIGKILL)
        self.broker = self.start_broker()
        self.assertEqual(self.broker.call("alpha.echo")[0], "OK")

    def test_a_deadline_says_whether_the_request_was_delivered(self):
        self.start_service("alpha")
        status, text, _ = self.broker.call("alpha.never", deadline_ms=150)
        self.assertEqual(status, "DEADLINE_EXCEEDED")
        self.assertIn("had been delivered", text)
        self.assertEqual(self.broker.call("alpha.echo")[0], "OK")

    def test_a_late_answer_goes_to_nobody(self):
        self.start_service("alpha")
        with self.broker.caller() as caller:
            self.assertEqual(caller.call("alpha.slow", {"ms": 300}, deadline_ms=100)[0],
                             "DEADLINE_EXCEEDED")
            for _ in range(20):
                status, _, body = caller.call("alpha.echo", {"n": 1})
                self.assertEqual((status, body["body"]), ("OK", {"n": 1}))
            caller.call("alpha.slow", {"ms": 300})
            self.assertEqual(caller.call("alpha.echo", {"n": 2})[2]["body"], {"n": 2})

    def test_a_request_in_flight_is_delivered_again_to_the_next_instance(self):
        log = self.directory + "/seen"
        service = self.start_service("alpha", "--redeliver", "--log", log)
        with self.broker.caller() as caller:
            caller.start("alpha.once")
            service.wait()
            self.start_service("alpha", "--redeliver", "--log", log)
            self.assertEqual(caller.finish()[0], "OK")
        self.assertEqual(self.broker.service("alpha")["redelivered"], 1)

    def test_a_request_that_kills_each_instance_is_given_up(self):
        log = self.directory + "/seen"
        service = self.start_service("alpha", "--redeliver", "--log", log)
        with self.broker.caller() as caller:
            caller.start("alpha.die")
            for _ in range(3):
                service.wait()
                service = self.start_service("alpha", "--redeliver", "--log", log, ready=False)
            status, text, _ = caller.finish()
        self.assertEqual(status, "UNAVAILABLE")
        self.assertIn("unknown", text)

    def test_without_redelivery_the_outcome_is_unknown(self):
        self.start_service("alpha")
        status, text, _ = self.broker.call("alpha.die")
        self.assertEqual(status, "UNAVAILABLE")
        self.assertIn("outcome is unknown", text)

    def test_something_that_is_no_answer_becomes_an_error(self):
        self.start_service("alpha")
        self.assertEqual(self.broker.call("alpha.garbage")[0], "INTERNAL")
        self.assertEqual(self.broker.call("alpha.echo")[0], "OK")

    def test_what_is_answered_with_nothing_is_delivered_again(self):
        self.start_service("alpha", "--redeliver", "--log", self.directory + "/seen")
        self.assertEqual(self.broker.call("alpha.empty")[0], "OK")
        self.assertEqual(self.broker.service("alpha")["redelivered"], 1)

    def test_a_draining_service_gets_nothing_more_and_the_next_takes_over(self):
        first = self.start_service("alpha")
        with self.broker.caller() as slow, self.broker.caller() as caller:
            slow.start("alpha.slow", {"ms": 600, "tell": True})
            self.assertEqual(first.stdout.readline(), b"slow\n")  # one that it has, not one on its way to it
            first.send_signal(signal.SIGTERM)
            until(lambda: self.broker.service("alpha")["state"] == "draining")
            caller.start("alpha.echo")
            second = self.start_service("alpha")
            self.assertEqual(caller.finish()[2]["pid"], second.pid)
            self.assertEqual(slow.finish()[2]["pid"], first.pid)
        self.assertEqual(first.wait(), 0)

    def test_services_that_call_each_other_and_200_callers_lock_nothing_up(self):
        self.start_service("alpha", "--calls", "beta")
        self.start_service("beta", "--calls", "alpha")
        callers = [self.broker.caller(60) for _ in range(200)]
        for i, caller in enumerate(callers):
            caller.start("alpha.nested" if i % 2 else "beta.nested", {"n": i})
        readers = [self.broker.caller(60) for _ in range(200)]
        for reader in readers:
            reader.start("event.read", {"wait_ms": 10000})
        self.assertEqual(self.broker.call("bus.ping")[0], "OK")
        for i, caller in enumerate(callers):
            status, text, body = caller.finish()
            self.assertEqual((status, text), ("OK", ""))
            self.assertEqual(body["body"], {"n": i})
            caller.close()
        for reader in readers:
            reader.close()

    def test_one_caller_cannot_use_up_what_others_need(self):
        service = self.start_service("alpha")
        service.kill()
        service.wait()
        until(lambda: self.broker.service("alpha")["state"] == "away")
        greedy = [self.broker.caller() for _ in range(520)]
        for caller in greedy:
            caller.start("alpha.echo", deadline_ms=5000)
        self.assertTrue(until(lambda: self.broker.stats().get("refused") == 8))
        self.assertEqual(self.broker.stats()["held"], 512)
        refused = [c for c in greedy if readable(c)]
        self.assertEqual([c.finish()[0] for c in refused], ["RESOURCE_EXHAUSTED"] * 8)
        for caller in greedy:
            caller.close()
        self.assertTrue(until(lambda: self.broker.stats().get("held", 0) == 0))


def readable(caller):
    return bool(select.select([caller.socket], [], [], 0)[0])


if __name__ == "__main__":
    unittest.main()
