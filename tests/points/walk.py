#!/usr/bin/env python3
"""Walks the points of davit's operations: at each a process dies, stalls, or gets an error; all must be clean after it.

usage: walk.py [--operations NAME,…] [--trials N] [--seed N] [--file FILE] [--point TEXT] [--all] [--list] [--keep-going]
"""

import argparse
import collections
import os
import random
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import operations  # noqa: E402
from davit import BIN  # noqa: E402
from points import DIE, ERROR, ERRORS, STALL  # noqa: E402
from world import World, wait_for  # noqa: E402

# The processes whose points are walked: the command line's own death is the driver's affair.
WALKED = ("davit-broker", "davit-container", "davit-image", "davit-image-work", "davit-runtime", "davit-task", "davit-shim")
# Not steps of anything: lines on stderr, a wake-up of the own loop.
LEFT_OUT = ("log.log_", "loop_sources.mail_ring.", "memory")
# Where an error leaves something lying that is nobody's any more: the next start takes it away.
TIDIED_AT_START = ("trash.",)
# What has happened outside of davit cannot be taken back: it is said that it may have.
UNCERTAIN = ("not known", "it was started, and is ended")
# The supervisor starts at once what has run for two seconds; it waits longer and longer otherwise.
STEADY = 2.2
QUIET = 0.25

Trial = collections.namedtuple("Trial", "operation process point n action error")

# The driver's own: what stalls there and the task service are killed at the same moment.
DIE_TOGETHER = 100
ACTIONS = {DIE: "dies", DIE_TOGETHER: "dies with davit-task", STALL: "stalls", ERROR: "gets"}


def name_of(trial):
    action = ACTIONS[trial.action] + (" " + trial.error if trial.error else "")
    return "%s: %s %s at %s, passing %d" % (trial.operation, trial.process, action, trial.point, trial.n)


class Walk:
    def __init__(self, world, options):
        self.world, self.options = world, options
        self.control, self.bus = world.control, world.bus
        self.operations = {cls.__name__.lower(): cls(world) for cls in operations.ALL + operations.SMALL}
        self.killed = collections.defaultdict(float)
        self.failures = []
        self.fired = None
        self.points = set()
        # (operation, what): how many; of "points" those that it passes.
        self.figures = collections.Counter()

    # ---- recording ----
    def record(self, operation):
        """(process, point): how often, when nothing goes wrong."""
        operation.new()
        operation.prepare()
        self.world.check_quiet(self.control)
        self.control.record()
        status, text, _ = operation.ask()
        assert status == "OK", (type(operation).__name__, status, text)
        n, since = self.control.n_recorded(), time.monotonic()
        while time.monotonic() - since < QUIET:
            time.sleep(0.02)
            if self.control.n_recorded() != n:
                n, since = self.control.n_recorded(), time.monotonic()
        passed = collections.Counter(p for p in self.control.recorded() if p[0] in WALKED + operation.processes)
        assert operation.count() == 1
        operation.clean()
        self.world.check_clean()
        return passed

    def every(self, name, passed):
        """Each allocation, or whatever else may fail, fails once."""
        here = {p for p in passed if (p[1] == "memory") == (self.options.every == "memory")}
        self.points |= here
        self.figures[(name, "points")] = len(here)
        for process in WALKED + self.operations[name].processes:
            if self.options.every == "memory":
                count, point = passed[(process, "memory")], "memory"
            else:
                count, point = sum(n for p, n in passed.items() if p[0] == process and p[1] != "memory" and
                                   not p[1].endswith(".after")), "*"
            for n in range(1, count + 1):
                yield Trial(name, process, point, n, ERROR, "ENOMEM" if point == "memory" else list(ERRORS)[n % 4])

    def trials_of(self, name):
        passed = self.record(self.operations[name])
        if self.options.every:
            yield from self.every(name, passed)
            return
        passed = {p: n for p, n in passed.items() if not p[1].startswith(LEFT_OUT)}
        self.points |= set(passed)
        self.figures[(name, "points")] = len(passed)
        errors = list(ERRORS)
        for i, ((process, point), count) in enumerate(sorted(passed.items())):
            for n in range(1, count + 1) if self.options.all else sorted({1, count}):
                yield Trial(name, process, point, n, DIE, None)
                if process == "davit-shim":
                    yield Trial(name, process, point, n, DIE_TOGETHER, None)
                if point.endswith(".after"):
                    continue
                yield Trial(name, process, point, n, STALL, None)
                if not point.startswith(("answer.", "broker.")):
                    yield Trial(name, process, point, n, ERROR, errors[(i + n) % len(errors)])

    # ---- one trial ----
    def ask_while_stalled(self, trial, operation, request_id):
        """Whatever stalls goes on a moment after it was seen to stall, or does not."""
        answer = []
        asking = threading.Thread(target=lambda: answer.append(
            operation.ask(request_id)))
        asking.start()
        while asking.is_alive() and not self.control.has_fired():
            time.sleep(0.005)
        if trial.action == DIE_TOGETHER and self.control.has_fired():
            self.world.kill_together()
        else:
            asking.join(0.05)
        self.control.release()
        asking.join()
        assert answer, "the call ended with an exception"
        return answer[0]

    def ask(self, trial, operation, request_id):
        stalls = trial.action in (STALL, DIE_TOGETHER)
        self.control.arm(trial.process, trial.point, trial.n, STALL if stalls else trial.action, ERRORS.get(trial.error, 0))
        if stalls:
            answer = self.ask_while_stalled(trial, operation, request_id)
        else:
            answer = operation.ask(request_id)
        # What follows the answer: events, what is tidied up.
        end = time.monotonic() + 1
        while not self.control.has_fired() and time.monotonic() < end:
            time.sleep(0.01)
        has_fired = self.control.has_fired()
        self.control.disarm()
        return answer, has_fired

    def check(self, trial, operation, request_id, answer):
        operation.wait_up()
        again = operation.ask(request_id)
        assert again[0] == "OK" or not operation.is_asked_anew, "first %s, asked again %s" % (answer, again)
        if answer[0] == "OK":
            if operation.method != "event.publish":  # whose repeat says that it is one
                assert operation.is_same(again, answer), "the same request again: %s, then %s" % (answer, again)
            wait_for(lambda: operation.count() == 1, "%s has taken effect once" % trial.operation, 20)
            self.wait_events(operation)
            return
        if not operation.is_asked_anew and any(words in answer[1] for words in UNCERTAIN):
            assert again[:2] == answer[:2] and operation.lines() <= 1, (again, operation.lines())
            return
        # It has failed, and says so again or is done now; either way the caller knows.
        n = 1 if again[0] == "OK" else 0
        if n == 0 and not operation.comes_by_itself and operation.count():
            raise AssertionError("it was refused (%s) and has taken effect %d times" % (answer, operation.count()))
        if n == 0:
            assert "uncertain" in again[1] or again[:2] == answer[:2], "first %s, then %s" % (answer, again)
            operation.clean()
            operation.new()
            operation.prepare()
            status, text, _ = operation.ask()
            assert status == "OK", "after %s, another request: %s %s" % (answer, status, text)
        wait_for(lambda: operation.count() == 1, "%s has taken effect once" % trial.operation, 20)
        self.wait_events(operation)

    def wait_events(self, operation):
        """They come a moment after the answer; what is wrong then stays wrong."""
        end = time.monotonic() + 20
        while True:
            try:
                return self.world.check_events(operation.event_object(), operation.topics)
            except AssertionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def run(self, trial):
        operation = self.operations[trial.operation]
        operation.new()
        self.world.mark()
        operation.prepare()
        self.killed.update((process, time.monotonic()) for process in operation.kills)
        request_id = os.urandom(16)
        answer, has_fired = self.ask(trial, operation, request_id)
        if has_fired and self.is_deadly(trial):
            self.note_deaths(operation)
        self.fired = self.control.fired() if has_fired else None
        self.check(trial, operation, request_id, answer)
        operation.clean()
        if trial.action == ERROR and has_fired and self.fired.startswith(TIDIED_AT_START):
            self.world.davit.kill(trial.process)
            self.killed[trial.process] = time.monotonic()
        self.world.check_clean()
        return has_fired, answer

    def is_deadly(self, trial):
        return trial.action in (DIE, DIE_TOGETHER) or self.options.every

    def note_deaths(self, operation):
        """Of services: shims and workers are nobody's to start again."""
        before = self.world.pids
        operation.wait_up()
        self.world.pids = self.world.processes()
        for process in self.world.pids:
            if self.world.pids[process] != before[process]:
                self.killed[process] = time.monotonic()

    def try_one(self, trial):
        start = time.monotonic()
        try:
            has_fired, answer = self.run(trial)
            assert has_fired or not self.options.file, "it is not passed: the point has another name now"
        except Exception as error:
            name = name_of(trial) + (" (%s)" % self.fired if trial.point == "*" else "")
            self.failures.append((name, error))
            print("FAILED %s\n    %s" % (name, str(error)[:1500]), flush=True)
            if self.control.has_fired():
                print("\n".join("    at " + x for x in self.control.callers(os.path.join(BIN, trial.process))), flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            return False
        self.figures.update([(trial.operation, ACTIONS[trial.action] if has_fired else "missed")])
        if self.options.verbose:
            print("%s %5.2f s %s: %s %s" % ("clean " if has_fired else "missed", time.monotonic() - start, name_of(trial),
                                         answer[0], answer[1][:100]), flush=True)
        return True

    # ---- all of them ----
    def next(self, trials):
        """The first whose process has run for a while, so that it is started again at once."""
        now = time.monotonic()
        for i, trial in enumerate(trials):
            dying = set(self.operations[trial.operation].kills)
            if self.is_deadly(trial):
                dying.add("davit-task" if trial.action == DIE_TOGETHER else trial.process)
            if all(now - self.killed[process] > STEADY for process in dying):
                return trials.pop(i)
        time.sleep(0.05)
        return None

    @staticmethod
    def read(path):
        """Trials of a file: nothing is recorded first."""
        with open(path) as f:
            lines = [line.split() for line in f if line.strip() and not line.startswith("#")]
        actions = {"die": DIE, "die-with-task": DIE_TOGETHER, "stall": STALL}
        return [Trial(name, process, point, int(n), actions.get(action, ERROR), None if action in actions else action)
                for name, process, point, n, action in lines]

    def walk(self, names):
        if self.options.file:
            trials = self.read(self.options.file)
            self.points = {(t.process, t.point) for t in trials}
            self.figures.update((name, "points") for name, _, _ in {t[:3] for t in trials})
        else:
            trials = [trial for name in names for trial in self.trials_of(name)]
        if self.options.point:
            trials = [t for t in trials if self.options.point in name_of(t)]
        if not self.options.file:
            random.Random(self.options.seed).shuffle(trials)
        print("%d points of %d processes, %d trials" % (len(self.points), len({p for p, _ in self.points}), len(trials)),
              flush=True)
        if self.options.list:
            for process, point in sorted(self.points):
                print("%-18s %s" % (process, point))
            return
        trials = trials[:self.options.trials or len(trials)]
        while trials:
            trial = self.next(trials)
            if trial and not self.try_one(trial):
                if not self.options.keep_going:
                    break
                self.world.renew()
        self.world.check_fsck()
        self.tell()

    def tell(self):
        columns = ("points", "dies", "dies with davit-task", "stalls", "gets", "missed")
        print("operation         points  clean:  dies  with davit-task  stalls    gets  not passed this time")
        for operation in sorted({o for o, _ in self.figures}):
            print("%-16s%8d        %6d%17d%8d%8d%8d" % (operation, *(self.figures[(operation, c)] for c in columns)))
        n_clean = sum(n for (_, what), n in self.figures.items() if what != "points")
        print("%d points known, %d trials clean, %d unclean" % (len(self.points), n_clean, len(self.failures)))
        for name, _ in self.failures:
            print("unclean: " + name)


def options_of(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", default=",".join(c.__name__.lower() for c in operations.ALL),
                        help="of these, by default; also: " + ", ".join(c.__name__.lower() for c in operations.SMALL))
    parser.add_argument("--trials", type=int, default=0, help="only so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", help="the trials of this file instead")
    parser.add_argument("--point", help="only trials that have this in their name")
    parser.add_argument("--every", choices=("memory", "file"), help="each allocation, or file operation and message, fails")
    parser.add_argument("--all", action="store_true", help="every passing, not the first and the last of each point")
    parser.add_argument("--list", action="store_true", help="the points, without walking them")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(words)


def walk_points(*words):
    """The trials that were not clean."""
    options = options_of(words)
    with World() as world:
        walk = Walk(world, options)
        walk.walk(options.operations.split(","))
    return walk.failures


if __name__ == "__main__":
    sys.exit(1 if walk_points(*sys.argv[1:]) else 0)
