"""Random deaths of callers and of the service, under load, for some seconds ($CHAOS_S, default 4):
a caller that survives gets each answer, and its own; nothing stays behind."""

import os
import random
import signal
import threading
import time
import unittest

from broker_case import BrokerCase, n_fds, until
from sp_client import Caller


def fork_callers(path, name):
    """A process that calls without end, until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            callers = [Caller(path) for _ in range(4)]
            while True:
                for caller in callers:
                    caller.start(name + ".slow", {"ms": 2})
                for caller in callers:
                    caller.finish()
        finally:
            os._exit(0)
    return pid


def fork_pipeliner(path, name):
    """A process that keeps several requests on one connection, and never reads an answer in time."""
    pid = os.fork()
    if pid == 0:
        try:
            with Caller(path) as caller:
                while True:
                    for _ in range(4):
                        caller.start(name + ".slow", {"ms": 1})
                    for _ in range(3):
                        caller.receive()
        finally:
            os._exit(0)
    return pid


class Chaos(BrokerCase):
    def test_500_deaths_of_callers_that_pipeline_cost_nothing(self):
        self.start_service("alpha", "--redeliver")
        with self.broker.caller() as caller:
            self.assertEqual(caller.call("alpha.echo", {"n": 0})[0], "OK")
            fds = n_fds(self.broker.pid)
            n_requests = self.broker.stats()["requests"]
            for n in range(500):
                pid = fork_pipeliner(self.broker.bus, "alpha")
                floor = n_requests + n % 7 * 3
                until(lambda: self.broker.stats()["requests"] >= floor, 5)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                n_requests = self.broker.stats()["requests"]
            status, _, body = caller.call("alpha.echo", {"n": 1})
            self.assertEqual((status, body["body"]), ("OK", {"n": 1}))
            until(lambda: self.broker.stats()["connections"] == 2)
            self.assertTrue(until(lambda: n_fds(self.broker.pid) <=
                                  fds + self.broker.service("alpha")["connections"] + 4),
                            n_fds(self.broker.pid))
            self.assertTrue(until(lambda: not self.broker.stats().get("held")))
            self.assertTrue(until(lambda: self.broker.stats()["under_way"] == 1))

    def test_random_deaths_of_callers_and_services_lose_no_answer(self):
        randomness = random.Random(os.environ.get("CHAOS_SEED", "7"))
        end = time.monotonic() + float(os.environ.get("CHAOS_S", "4"))
        service = self.start_service("alpha", "--redeliver")
        fds = n_fds(self.broker.pid)
        done = threading.Event()
        counts, faults = [0] * 4, []

        def survive(i):
            with self.broker.caller(30) as caller:
                while not done.is_set():
                    status, text, body = caller.call("alpha.echo", {"n": counts[i], "i": i})
                    if status != "OK" or body["body"] != {"n": counts[i], "i": i}:
                        faults.append((status, text, body))
                    counts[i] += 1

        survivors = [threading.Thread(target=survive, args=(i,)) for i in range(4)]
        for thread in survivors:
            thread.start()
        callers, n_killed, next_service = [], 0, time.monotonic() + 0.4
        while time.monotonic() < end:
            callers.append(fork_callers(self.broker.bus, "alpha"))
            if len(callers) > 6:
                pid = callers.pop(randomness.randrange(len(callers)))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                n_killed += 1
            floor = sum(counts) + randomness.randrange(1, 40)
            until(lambda: sum(counts) >= floor, 5)
            if time.monotonic() > next_service:
                service.kill()
                service.wait()
                service = self.start_service("alpha", "--redeliver")
                next_service = time.monotonic() + 0.4
        for pid in callers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        done.set()
        for thread in survivors:
            thread.join()
        self.assertEqual(faults, [])
        self.assertGreater(min(counts), 10)
        self.assertGreater(n_killed, 10)
        # What is left of the pool is that of the instance that lives.
        self.assertTrue(until(lambda: self.broker.stats()["connections"] == 1))
        self.assertTrue(until(lambda: n_fds(self.broker.pid) <=
                              fds + self.broker.service("alpha")["connections"] + 4),
                        n_fds(self.broker.pid))
        self.assertFalse(self.broker.stats().get("held"))


if __name__ == "__main__":
    unittest.main()
