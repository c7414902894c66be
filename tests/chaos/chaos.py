#!/usr/bin/env python3
"""Random deaths, freezes and replacements under load; afterwards nothing is lost, wrong, doubled or left behind.

    BUILD=build python3 tests/chaos/chaos.py [--seconds N] [--seed N] [--pause S]

What is done to whom, and in which order, follows from the seed alone; when, and in the middle of what, from the clock."""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import layers  # noqa: E402
import msgpack  # noqa: E402
from davit import PROCESSES, Davit, wait_for  # noqa: E402
from registry import Registry  # noqa: E402
from sp_client import Caller  # noqa: E402

COMMAND_S = 120       # the longest that a command may take; everything is killed every few seconds
EXECS = 2
RUNNERS, KEEPERS = 2, 2
TASK_TOPICS = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
UNKNOWN = 255
# What a caller is told when it cannot be known here whether its request took effect.
UNCERTAIN = re.compile(r"outcome|not answered|did not answer|is away|deadline|UNAVAILABLE|unknown|times", re.I)


class Faults:
    """What must not be, by kind."""

    KINDS = ["lost exits", "wrong codes", "doubled effects", "gaps", "orphans", "failures"]

    def __init__(self):
        self.lock, self.found = threading.Lock(), collections.defaultdict(list)

    def add(self, kind, text):
        with self.lock:
            self.found[kind].append(text)

    def print(self):
        for kind in self.KINDS:
            for text in self.found[kind][:20]:
                print("  %s: %s" % (kind, text))
        print(", ".join("%s=%d" % (kind, len(self.found[kind])) for kind in self.KINDS), flush=True)


class Chaos:
    def __init__(self, d, registry, seconds, seed):
        self.d, self.registry, self.seed = d, registry, seed
        self.faults, self.lock = Faults(), threading.Lock()
        self.counts = collections.Counter()
        self.doubts = collections.Counter()  # what was said of what is not known
        self.end = time.monotonic() + seconds
        self.plans = {}              # container: the code that it must end with
        self.execs = {}              # (container, process): (code, what the client got)
        self.clients = {}            # pid: a client that may be killed
        self.hurt = set()            # containers whose shim was killed
        self.told = {}               # container: what its client ended with
        self.flags = d.work + "/flags"
        os.makedirs(self.flags)

    def is_over(self):
        return time.monotonic() > self.end

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] += n

    # ---- clients ----

    def ask(self, *words, may_die=False):
        """(exit code or None if it was killed, stdout, stderr)"""
        client = self.d.start(*words)
        if may_die:
            with self.lock:
                self.clients[client.pid] = client
        try:
            out, err = client.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            client.kill()
            out, err = client.communicate()
            self.faults.add("failures", "%s: no answer after %d s" % (" ".join(words), COMMAND_S))
        finally:
            with self.lock:
                self.clients.pop(client.pid, None)
                was_killed = getattr(client, "was_killed", False)
        self.count("commands")
        return None if was_killed else client.returncode, out, err.decode(errors="replace")

    def must(self, name, *words, allowed=()):
        """A command that must work, unless it says that nobody can know, or @name's shim was killed. @allowed: what it may
        say instead; once it was not certain, also that it had been done."""
        said = []
        while len(said) < 20:
            code, out, err = self.ask(*words)
            if code == 0 or any(text in err for text in allowed) or (said and "exists already" in err):
                return out
            self.count("uncertain")
            said.append(err.strip())
            self.doubts[re.sub(r"[0-9a-f]{32}|\d+", "#", err.strip())] += 1
            if not UNCERTAIN.search(err) and "shim" not in err and name not in self.hurt:
                break
        self.faults.add("failures", "%s: %s: %s" % (" ".join(words), code, " | ".join(said)))
        return out

    def remove(self, name):
        self.must(name, "rm", "-f", name, allowed=["not found", "no container", "does not exist"])

    # ---- load ----

    def mount(self):
        return "type=bind,src=%s,dst=/flags,options=rbind" % self.flags

    def judge_client(self, name, code, err, what):
        """What a client was told of a container that must end with its plan's code."""
        if code is None or code == self.plans[name]:
            return
        if name in self.hurt:
            self.count("told of a dead shim")
        elif UNCERTAIN.search(err):
            self.count("uncertain")
        else:
            self.faults.add("wrong codes", "%s %s: %s, not %d: %s" % (what, name, code, self.plans[name], err.strip()))

    def run_one(self, name, randomness):
        """In the foreground, with --rm; its client may be killed."""
        self.plans[name] = randomness.randrange(1, 100)
        code, out, err = self.ask("run", "--rm", "busybox", name, "sh", "-c", "echo %s; exit %d" % (name, self.plans[name]),
                                  may_die=True)
        self.told[name] = (code, err)
        self.judge_client(name, code, err, "run")
        if code == self.plans[name] and out != name.encode() + b"\n":
            self.faults.add("failures", "run %s: output %r" % (name, out))

    def execute(self, name, process, randomness):
        code = randomness.randrange(1, 100)
        got, _, err = self.ask("exec", "--exec-id", process, name, "sh", "-c",
                               "echo %s >>/flags/%s.log; exit %d" % (process, name, code), may_die=True)
        self.execs[name, process] = (code, got)
        if got in (None, code):
            return
        if name in self.hurt or UNCERTAIN.search(err):
            self.count("uncertain")
        else:
            self.faults.add("wrong codes", "exec %s in %s: %s, not %d: %s" % (process, name, got, code, err.strip()))

    def keep_one(self, name, randomness):
        """In the background: created, started, processes in it, ended by itself or by a signal, waited for, removed."""
        by_signal = randomness.random() < 0.5
        code = randomness.randrange(1, 100)
        self.plans[name] = 137 if by_signal else code
        program = ("busybox", name, "sh", "-c", "while [ ! -e /flags/%s ]; do sleep 0.02; done; exit %d" % (name, code))
        if randomness.random() < 0.5:
            self.must(name, "containers", "create", "--mount", self.mount(), *program)
            self.must(name, "start", "-d", name, allowed=["already", "RUNNING"])
        else:
            self.must(name, "run", "-d", "--mount", self.mount(), *program)
        for i in range(EXECS):
            self.execute(name, "e%d" % i, randomness)
        if by_signal:
            self.must(name, "kill", "-s", "KILL", name, allowed=["already finished", "has ended", "not running", "STOPPED", "no task", "not found"])
        else:
            open(os.path.join(self.flags, name), "w").close()
        got, out, err = self.ask("wait", name)
        told = int(out) if out.strip().isdigit() else got
        self.judge_client(name, told, err, "wait")
        self.remove(name)

    def containers(self, kind, number, one):
        randomness = random.Random("%s %s %d" % (self.seed, kind, number))
        i = 0
        while not self.is_over():
            one("%s%d-%d" % (kind, number, i), randomness)
            self.count("lifecycles")
            i += 1

    def images(self):
        """Pulled, imported, listed, removed and collected, again and again."""
        archive = self.d.work + "/import.tar"
        layers.image(archive, [layers.tar([layers.f("a", b"a" * 3000)]), layers.tar([layers.f("b", b"b" * 9000)])], "imported")
        while not self.is_over():
            self.must("", "images", "pull", "--plain-http", self.registry.host + "/t/pulled:1")
            self.count("pulls")
            self.must("", "images", "import", "--base-name", "t", archive)
            self.count("imports")
            images = json.loads(self.must("", "images", "ls", "--format", "json") or b"[]")
            mine = [i["name"] for i in images if "busybox" not in i["name"]]
            if not any("pulled" in name for name in mine) or len(mine) < 2:
                self.faults.add("lost exits", "images that were acknowledged are not listed: %s" % mine)
            for name in mine:
                self.must("", "images", "rm", "--sync", name, allowed=["not found", "no image"])
            self.must("", "prune", "--force")
            self.count("collections")

    def requests(self):
        """A caller in another language, which repeats each request with its id: one effect, one answer."""
        i = 0
        while not self.is_over():
            name, answers = "n%d" % i, []
            for method, body in (("namespace.create", {"namespace": {"name": name}}), ("namespace.delete", {"name": name})):
                request_id = os.urandom(16)
                answers = [self.repeat(method, body, request_id) for _ in "12"]
                if answers[0] != answers[1]:
                    self.faults.add("doubled effects", "%s %s: %s" % (method, name, answers))
                if answers[0][0] != "OK":
                    self.count("uncertain")
                    if answers[0][0] not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                        self.faults.add("failures", "%s %s: %s" % (method, name, answers[0]))
                self.count("requests", 2)
            i += 1

    def repeat(self, method, body, request_id):
        end = time.monotonic() + COMMAND_S
        while True:
            try:
                with Caller(self.d.state + "/bus.sock", 30) as bus:
                    answer = bus.call(method, body, request_id=request_id, deadline_ms=60000)
                    if answer[0] != "UNAVAILABLE" or time.monotonic() > end:
                        return answer
            except Exception as error:  # noqa: BLE001  the broker is away
                if time.monotonic() > end:
                    return ("no answer", repr(error), None)
            time.sleep(0.01)

    # ---- subscribers ----

    def follow(self, numbers, may_die):
        """Reads events for ever; one that is killed goes on behind its last number."""
        while True:
            client = self.d.start("events", "--from", str(len(numbers) + 1), "--format", "json")
            if may_die:
                with self.lock:
                    self.clients[client.pid] = client
            else:
                self.steady = client
            for line in client.stdout:
                if line.endswith(b"\n"):
                    numbers.append(json.loads(line)["seq"])
            client.wait()
            error = client.stderr.read().decode(errors="replace")
            client.stdout.close()
            client.stderr.close()
            with self.lock:
                self.clients.pop(client.pid, None)
                was_killed = getattr(client, "was_killed", False)
            if self.is_reading_over:
                return
            if not was_killed:
                self.faults.add("failures", "a subscriber ended by itself: %d %s" % (client.returncode, error.strip()))
                return

    def read_by_cursor(self, numbers):
        while not self.is_reading_over:
            out = self.must("", "events", "--from", "1", "--cursor", "chaos", "--no-follow", "--format", "json")
            numbers += [json.loads(line)["seq"] for line in out.splitlines()]

    # ---- judgement ----

    def judge_numbers(self, what, numbers, last):
        expected = list(range(1, last + 1))
        if numbers[:last] != expected:
            wrong = next((i for i, (a, b) in enumerate(zip(numbers, expected)) if a != b), min(len(numbers), last))
            self.faults.add("gaps", "%s: %d numbers of %d; at place %d stands %s" % (
                what, len(numbers), last, wrong + 1, numbers[wrong:wrong + 3]))

    def judge_task(self, task, events):
        topics = [e["topic"] for e in events if e["topic"] in TASK_TOPICS and
                  e["event"].get("id", e["object"]) == e["object"]]
        name = events[0]["object"]
        if len(topics) != len(set(topics)):
            self.faults.add("doubled effects", "task %s of %s: %s" % (task, name, topics))
        elif sorted(topics, key=TASK_TOPICS.index) != topics:
            self.faults.add("gaps", "task %s of %s: %s" % (task, name, topics))
        if "/tasks/start" in topics and "/tasks/exit" not in topics:
            self.faults.add("lost exits", "task %s of %s: %s" % (task, name, topics))
        for event in events:
            if event["topic"] == "/tasks/exit":
                self.judge_exit(name, event["event"])

    def judge_exit(self, name, exit):
        self.count("exits")
        if exit["source"] == "unknown":
            self.count("unknown exits")
            if name not in self.hurt:
                self.faults.add("wrong codes", "%s: unknown, though its shim was not killed: %s" % (name, exit))
            return
        expected = self.plans.get(name) if exit["id"] == name else self.execs.get((name, exit["id"]), (None,))[0]
        # A container that was removed by force, or a process in one that was killed, ends by SIGKILL.
        if exit["exit_status"] not in (expected, 137):
            self.faults.add("wrong codes", "%s/%s: %s, not %s" % (name, exit["id"], exit["exit_status"], expected))

    def judge_execs(self, events):
        started = collections.Counter((e["object"], e["event"]["exec_id"]) for e in events
                                      if e["topic"] == "/tasks/exec-started")
        for key, n in started.items():
            if n > 1:
                self.faults.add("doubled effects", "exec %s started %d times" % (key, n))
        for (name, process), (code, got) in self.execs.items():
            path = os.path.join(self.flags, name + ".log")
            lines = open(path).read().split() if os.path.exists(path) else []
            if lines.count(process) > 1:
                self.faults.add("doubled effects", "exec %s in %s ran %d times" % (process, name, lines.count(process)))
            if got == code and process not in lines:
                self.faults.add("lost exits", "exec %s in %s gave its code and did not run" % (process, name))
        self.count("processes", len(self.execs))

    def judge_log(self):
        events = self.d.events()
        self.judge_numbers("the log", [e["seq"] for e in events], len(events))
        tasks = collections.defaultdict(list)
        for event in events:
            if event["topic"].startswith("/tasks/"):
                tasks[event["event"].get("task_id") or event["publisher"]].append(event)
        for task, of_task in tasks.items():
            self.judge_task(task, of_task)
        self.judge_execs(events)
        created = collections.Counter(e["object"] for e in events if e["topic"] == "/namespaces/create")
        for name, n in created.items():
            if n > 1:
                self.faults.add("doubled effects", "namespace %s created %d times" % (name, n))
        self.counts["tasks"] = len(tasks)
        self.counts["events"] = len(events)
        return len(events)

    def fsck(self):
        """What is found when no operation is under way any more."""
        result = self.d("fsck", "--format", "json", seconds=COMMAND_S)
        if result.returncode > 1:
            raise AssertionError("fsck: " + result.stderr.decode(errors="replace").strip())
        findings = json.loads(result.stdout)
        waits = [f for f in findings if f["undecided"] and f["kind"] != "fifo"]
        return None if waits else findings

    def check_records(self):
        """A client that is killed before its request was taken leaves FIFOs that no task owns: nothing else may be found."""
        findings = []
        wait_for(lambda: findings.append(self.fsck()) or findings[-1] is not None, "no operation is under way", 60)
        for finding in findings[-1]:
            if finding["kind"] == "fifo":
                self.count("FIFOs of killed clients")
                shutil.rmtree(os.path.join(self.d.state, "fifo", finding["id"]))
            else:
                self.faults.add("orphans", "fsck: %s" % finding)
                self.tell_about(finding["id"])
        if self.counts["FIFOs of killed clients"] > self.counts["kill client"]:
            self.faults.add("orphans", "more FIFOs than clients that were killed")

    def tell_about(self, what):
        """All that is known of the container that an orphan is named after."""
        name = re.search(r"\b[rk]\d+-\d+\b", what)
        if not name:
            return
        print("about %s:" % what, self.told.get(name.group()), file=sys.stderr)
        for event in self.d.events("--object", name.group()):
            print("   ", event, file=sys.stderr)
        snapshots = [s for s in self.d.json("snapshots", "ls") if name.group() in s["key"]]
        print("   ", snapshots, self.d("leases", "ls").stdout.decode(), self.d("operations").stdout.decode(), file=sys.stderr)
        with open(self.d.state + "/up.log", errors="replace") as log:
            print("    " + "    ".join(line for line in log if name.group() in line), file=sys.stderr)

    def end_leases(self):
        """A run that was cut before its record was made, and that nobody asks for again, has a snapshot until its lease ends."""
        for lease in self.d.json("leases", "ls"):
            self.must("", "leases", "delete", lease["id"])
            self.count("leases of cut runs")

    def judge_orphans(self):
        for container in self.d.json("containers", "ls"):
            self.remove(container["id"])
        self.end_leases()
        self.must("", "prune", "--force")
        self.check_records()
        try:
            wait_for(lambda: not self.d.leftovers(), "nothing is left", 60)
        except AssertionError:
            for what in self.d.leftovers():
                self.faults.add("orphans", what)
                self.tell_about(what)
        content = {c["digest"].split(":")[1] for c in self.d.json("content", "ls")}
        blobs = set(os.listdir(self.d.root + "/image/content/blobs/sha256"))
        for digest in blobs ^ content:
            self.faults.add("orphans", "blob %s is %s" % (digest, "on disk only" if digest in blobs else "in the records only"))
    # ---- all of it ----

    def start_readers(self):
        self.is_reading_over, self.numbers = False, ([], [], [])
        readers = [threading.Thread(target=self.follow, args=(self.numbers[0], False)),
                   threading.Thread(target=self.follow, args=(self.numbers[1], True)),
                   threading.Thread(target=self.read_by_cursor, args=(self.numbers[2],))]
        for reader in readers:
            reader.start()
        return readers

    def end_readers(self, readers, last):
        names = ("a subscriber that stays", "one that is killed", "a named cursor")
        for name, numbers in zip(names, self.numbers):
            try:
                wait_for(lambda: len(numbers) >= last, name, 30)
            except AssertionError:
                pass  # told as a gap below
            self.judge_numbers(name, numbers, last)
        self.is_reading_over = True
        self.steady.kill()
        with self.lock:
            rest = list(self.clients.values())
        for client in rest:
            client.kill()
        for reader in readers:
            reader.join()

    def run(self, pause):
        readers = self.start_readers()
        load = [threading.Thread(target=self.containers, args=("r", i, self.run_one)) for i in range(RUNNERS)]
        load += [threading.Thread(target=self.containers, args=("k", i, self.keep_one)) for i in range(KEEPERS)]
        load += [threading.Thread(target=self.images), threading.Thread(target=self.requests)]
        for thread in load:
            thread.start()
        Killer(self, pause).run()
        for thread in load:
            thread.join()
        self.judge_orphans()
        last = self.judge_log()
        self.end_readers(readers, last)

    def print_log_of_faults(self):
        """What the services said of the containers that something went wrong with."""
        texts = " ".join(text for found in self.faults.found.values() for text in found)
        names = set(re.findall(r"[\w-]+", texts)) & set(self.plans)
        with open(self.d.state + "/up.log", errors="replace") as log:
            for line in log:
                if names & set(re.findall(r"[\w-]+", line)):
                    sys.stderr.write(line)


def parent_of(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return int(f.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


class Killer:
    """Does what the seed says, until the time is up; nothing stays frozen."""

    ACTIONS = [("kill", 8), ("kill shim", 3), ("kill client", 3), ("kill all", 1), ("stop", 3), ("stop shim", 2), ("upgrade", 2)]

    def __init__(self, chaos, pause):
        self.chaos, self.d, self.pause = chaos, chaos.d, pause
        self.randomness = random.Random("%s killer" % chaos.seed)
        self.frozen = []  # (when it goes on, pid)
        self.upgrades = []

    def run(self):
        while not self.chaos.is_over():
            self.sleep_until(time.monotonic() + self.randomness.uniform(0.2, 1.8) * self.pause)
            names, weights = zip(*self.ACTIONS)
            (action,) = self.randomness.choices(names, weights)
            # All that is chance is drawn, whatever is found to be done to: so the next choice is the same.
            which, seconds = self.randomness.random(), self.randomness.choice([0.02, 0.1, 0.3, 1.0])
            getattr(self, action.replace(" ", "_"))(which, seconds)
            self.chaos.count(action)
        self.sleep_until(max([when for when, _ in self.frozen], default=0))
        for upgrade in self.upgrades:
            upgrade.communicate()

    def sleep_until(self, end):
        while True:
            now = time.monotonic()
            for item in [i for i in self.frozen if i[0] <= now]:
                self.frozen.remove(item)
                self.signal(item[1], signal.SIGCONT)
            if now >= end:
                return
            time.sleep(max(0, min([end] + [when for when, _ in self.frozen]) - now))

    @staticmethod
    def signal(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    @staticmethod
    def pick(things, which):
        return things[int(which * len(things))] if things else None

    def each(self, programs, number):
        for program in programs:
            pids = self.d.pids(program)
            for pid in pids:
                # A shim that is being spawned looks like the task service still: it is not the one that is meant.
                if parent_of(pid) not in pids:
                    self.signal(pid, number)

    def kill(self, which, _):
        self.each([self.pick(PROCESSES, which)], signal.SIGKILL)

    def kill_all(self, *_):
        self.each(PROCESSES, signal.SIGKILL)

    def shim(self, which):
        pid = self.pick(sorted(self.d.pids("davit-shim")), which)
        try:
            with open("/proc/%d/cmdline" % pid) as f:
                words = f.read().split("\0")
            with open(words[words.index("--config") + 1], "rb") as f:
                return pid, msgpack.unpackb(f.read())["container_id"]
        except (TypeError, OSError, ValueError):
            return None, None  # there is none, or it ends just now

    def kill_shim(self, which, _):
        pid, name = self.shim(which)
        if pid:
            self.chaos.hurt.add(name)  # before: who hears of its death looks there
            self.signal(pid, signal.SIGKILL)

    def freeze(self, pid, seconds):
        if pid:
            self.signal(pid, signal.SIGSTOP)
            self.frozen.append((time.monotonic() + seconds, pid))

    def stop(self, which, seconds):
        self.freeze(self.pick(self.d.pids(self.pick(PROCESSES, which)), 0), seconds)

    def stop_shim(self, which, seconds):
        self.freeze(self.shim(which)[0], seconds)

    def kill_client(self, which, _):
        with self.chaos.lock:
            client = self.pick(list(self.chaos.clients.values()), which)
            if client:
                client.was_killed = True
                client.kill()

    def upgrade(self, which, _):
        self.upgrades.append(self.d.start("upgrade", self.pick(PROCESSES, which)))


def chaos(seconds, seed, pause):
    """True: nothing that must not be."""
    with Davit() as d, Registry() as registry:
        d.import_busybox()
        layout = d.work + "/layout"
        layers.image(d.work + "/pulled.tar", [layers.tar([layers.f("p%d" % i, os.urandom(20000))]) for i in range(3)], "pulled")
        os.makedirs(layout)
        subprocess.run(["tar", "-xf", d.work + "/pulled.tar", "-C", layout], check=True)
        registry.put(layout, "t/pulled:1")
        it = Chaos(d, registry, seconds, seed)
        it.run(pause)
        print("seconds=%d seed=%s; %s" % (seconds, seed, ", ".join("%s=%d" % c for c in sorted(it.counts.items()))))
        for text, n in it.doubts.most_common(10):
            print("  %d times: %s" % (n, text))
        it.faults.print()
        is_clean = not any(it.faults.found.values())
        if not is_clean:
            it.print_log_of_faults()
            d.print_log()
        return is_clean


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--pause", type=float, default=0.3, help="mean time between two deaths, in seconds")
    options = parser.parse_args()
    print("seed=%s" % options.seed, flush=True)
    sys.exit(0 if chaos(options.seconds, options.seed, options.pause) else 1)


if __name__ == "__main__":
    main()
