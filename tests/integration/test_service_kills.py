"""A service that is killed, or drained, again and again while it is asked to change things: each
request takes effect exactly once, each caller is answered, each event is in the log once."""

import os
import signal
import subprocess
import threading
import unittest

from broker_case import BIN, BrokerCase, until

REQUESTS = 1000
CALLERS = 8
EACH = 40  # the service ends after so many answers


class Service:
    def __init__(self, case):
        self.case = case
        self.start()

    def start(self):
        ready, ready_end = os.pipe()
        with open(self.case.directory + "/service.log", "ab") as log:
            self.process = subprocess.Popen(
                [BIN + "/davit-container", "--root", self.case.broker.root, "--state",
                 self.case.broker.state, "--ready-fd", str(ready_end)],
                pass_fds=[ready_end], stderr=log)
        os.close(ready_end)
        self.ready = ready

    def wait_ready(self):
        text = os.read(self.ready, 100)
        os.close(self.ready)
        self.case.assertEqual(text, b"READY=1\n", self.read_log())

    def again(self, number):
        """Ends it by signal @number and starts the next; its exit code."""
        os.close(self.ready)
        self.process.send_signal(number)
        if number == signal.SIGTERM:
            # As an upgrade does it: the next one waits for the lock.
            before = self.process
            self.start()
            return before.wait(20)
        code = self.process.wait(20)
        self.start()
        return code

    def read_log(self):
        with open(self.case.directory + "/service.log") as log:
            return log.read()[-4000:]

    def stop(self):
        self.process.kill()
        self.process.wait()


class Load:
    """Callers that create namespaces n0, n1 … and ask for each a second time with the same id."""

    def __init__(self, broker, prefix):
        self.broker, self.prefix = broker, prefix
        self.lock = threading.Condition()
        self.next, self.n_answers, self.wrong = 0, 0, []
        self.threads = [threading.Thread(target=self.run) for _ in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def take(self):
        with self.lock:
            number, self.next = self.next, self.next + 1
        return number if number < REQUESTS else None

    def run(self):
        try:
            with self.broker.caller(timeout=60) as caller:
                number = self.take()
                while number is not None:
                    self.ask(caller, number)
                    number = self.take()
        except Exception as error:  # a caller that dies must not be waited for
            with self.lock:
                self.wrong.append(repr(error))
        with self.lock:
            self.lock.notify_all()

    def ask(self, caller, number):
        body = {"namespace": {"name": "%s%d" % (self.prefix, number)}}
        request_id = os.urandom(16)
        answers = [caller.call("namespace.create", body, request_id=request_id) for _ in "12"]
        with self.lock:
            if answers[0] != answers[1] or answers[0][0] != "OK":
                self.wrong.append(answers)
            self.n_answers += 1
            self.lock.notify_all()

    def wait(self, n_answers):
        """Until so many are answered; False when all callers are done."""
        with self.lock:
            self.lock.wait_for(lambda: self.n_answers >= n_answers or
                               not any(t.is_alive() for t in self.threads), 60)
            return self.n_answers >= n_answers

    def join(self):
        for thread in self.threads:
            thread.join(120)


class ServiceKills(BrokerCase):
    def setUp(self):
        super().setUp()
        self.service = Service(self)
        self.service.wait_ready()
        self.service.ready = os.dup(2)

    def tearDown(self):
        os.close(self.service.ready)
        self.service.stop()
        super().tearDown()

    def names(self):
        names, after = [], ""
        while True:
            status, text, body = self.broker.call("namespace.list", {"after": after})
            self.assertEqual(status, "OK", text)
            page = [n["name"] for n in body.get("namespaces", [])]
            names += page
            if not page or not body.get("after"):
                return names
            after = body["after"]

    def created(self):
        """Names in the events /namespaces/create of the log, and whether its numbers are gapless."""
        names, next_seq, numbers = [], 1, []
        while True:
            status, text, body = self.broker.call("event.read", {"from": next_seq, "limit": 1000})
            self.assertEqual(status, "OK", text)
            for item in body.get("events", []):
                numbers.append(item["seq"])
                if item["topic"] == "/namespaces/create":
                    names.append(item["object"])
            if body["next"] > body["last_seq"]:
                self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
                return names
            next_seq = body["next"]

    def run_load(self, number, expected_code):
        load = Load(self.broker, "n")
        n_ends = 0
        while load.wait((n_ends + 1) * EACH):
            n_ends += 1
            self.assertEqual(self.service.again(number), expected_code, self.service.read_log())
        load.join()
        self.assertEqual(load.wrong, [], self.service.read_log())
        self.assertEqual(load.n_answers, REQUESTS)
        self.assertGreaterEqual(n_ends, REQUESTS // EACH)

        expected = sorted("n%d" % i for i in range(REQUESTS))
        self.assertEqual([n for n in self.names() if n != "default"], expected)
        until(lambda: len(self.created()) >= REQUESTS)
        self.assertEqual(sorted(self.created()), expected)

    def test_every_request_takes_effect_once_under_sigkill(self):
        self.run_load(signal.SIGKILL, -signal.SIGKILL)

    def test_a_drained_service_fails_no_request(self):
        self.run_load(signal.SIGTERM, 0)


if __name__ == "__main__":
    unittest.main()
