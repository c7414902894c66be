"""The power is cut at a random point: everything acknowledged is there, stores open, records and blobs agree.

DAVIT_TEST_ROUNDS=n: so many cuts. SEED=n: the same cuts of a load with the same requests.
"""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time

import layers
import power
from davit import DEADLINE, Davit, check_log, main, wait_for

ROUNDS = int(os.environ.get("DAVIT_TEST_ROUNDS", "4"))
SEED = int(os.environ.get("SEED", str(random.SystemRandom().randrange(1 << 32))))
CLIENTS = 3
RECORDED = ("davit-broker", "davit-container", "davit-image")


class History:
    """What clients asked for, when, and when it was acknowledged: per name its values in order."""

    def __init__(self):
        self.lock, self.values = threading.Lock(), {}

    @contextlib.contextmanager
    def change(self, key, value):
        row = [time.time(), None, value]
        with self.lock:
            self.values.setdefault(key, []).append(row)
        yield
        row[1] = time.time()

    def allowed(self, key, when):
        """What @key may be after a cut at @when."""
        values = {None}
        for begun, ended, value in self.values[key]:
            if ended is not None and ended < when:
                values = {value}
            elif begun < when:
                values.add(value)
        return values

    def n_acknowledged(self, when):
        return sum(1 for rows in self.values.values() for row in rows if row[1] and row[1] < when)


# ---- the load ----

def make_archive(d, name, content):
    path = os.path.join(d.work, name + ".tar")
    return path, layers.image(path, [layers.tar([layers.f("file", content)])], "v1")


def write_container(d, history, name, version):
    labels = {"version": str(version)}
    with history.change(("container", name), str(version)):
        if version == 1:
            record = {"id": name, "runtime": "runc", "spec": "{}", "labels": labels}
            d.call("container.create", "container:=" + json.dumps(record))
        else:
            d.call("container.update", "container:=" + json.dumps({"id": name, "labels": labels}), "update_mask=labels")


def client(d, history, number, n_rounds, archives, errors):
    try:
        for i in range(n_rounds):
            name = "x%d-%d" % (number, i)
            with history.change(("namespace", name), ""):
                d.call("namespace.create", "namespace:=" + json.dumps({"name": name}))
            path, digest = archives[number, i]
            with history.change(("image", "local/%s:v1" % name), digest):
                d.call("image.import", "path=" + path, "base_name=local/" + name)
            write_container(d, history, name, 1)
            write_container(d, history, name, 2)
            if i % 2:
                with history.change(("image", "local/%s:v1" % name), None):
                    d.call("image.delete", "name=local/%s:v1" % name)
                with history.change(("container", name), None):
                    d.call("container.delete", "id=" + name)
    except Exception as e:  # noqa: BLE001  told by the test's own thread
        errors.append(e)


def record(d, history):
    """The tape of a load, and the disk before it."""
    n_rounds = 4 if ROUNDS > 10 else 2
    archives = {(n, i): make_archive(d, "x%d-%d" % (n, i), os.urandom(20000)) for n in range(CLIENTS)
                for i in range(n_rounds)}
    errors, pids = [], [d.pid(p) for p in RECORDED]
    recorder = power.Recorder(pids, os.path.join(d.work, "strace"))
    with stopped(pids, recorder):
        start, disk = time.time(), power.Disk(d.root)
    threads = [threading.Thread(target=client, args=(d, history, n, n_rounds, archives, errors)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stopped(pids, recorder):
        recorder.stop()
        now = power.Disk(d.root)
    assert not errors, errors
    tape = power.Tape(recorder, disk, start)
    check_tape(tape, now)
    return tape


@contextlib.contextmanager
def stopped(pids, recorder):
    """Each thread stands, and none of them between a call's entry and its end."""
    since = recorder.size()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: {tid for pid in pids for tid in threads_of(pid)} <= recorder.standing(since), "all threads stand")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def threads_of(pid):
    return map(int, os.listdir("/proc/%d/task" % pid))


def check_tape(tape, now):
    """Nothing was missed: with everything done, the disk is what it is."""
    names, files, _ = power.cut(tape, len(tape.steps), None)
    assert set(names) == set(now.names), set(names) ^ set(now.names)
    for name, number in names.items():
        content = now.files.get(now.names[name])
        if isinstance(content, bytearray) and not name.endswith(b"/lock.mdb"):  # mapped, and made anew when nobody has it
            assert content == files[number], "%s is not what was written" % name


# ---- afterwards ----

def found(d):
    values = {("namespace", n["name"]): "" for n in d.json("namespaces", "ls")}
    values.update({("image", i["name"]): i["target"]["digest"] for i in d.json("images", "ls")})
    values.update({("container", c["id"]): c["labels"]["version"] for c in d.json("containers", "ls")})
    return values


def check_events(d, history, when):
    events = d.events()
    check_log(events)
    for kind in ("namespace", "image", "container"):
        created = [e["event"].get("name", e["event"].get("id")) for e in events if e["topic"] == "/%ss/create" % kind]
        assert len(created) == len(set(created)), "told twice: %s" % created
        for key in [k for k in history.values if k[0] == kind]:
            if None not in history.allowed((kind, history.values[key] and key[1]), when):
                assert key[1] in created, "%s was acknowledged, and the log does not tell of it" % (key,)


def check_cut(history, tape, position, seed):
    when = tape.steps[position][0] if position < len(tape.steps) else time.time()
    d = Davit()
    try:
        power.put(*power.cut(tape, position, random.Random(seed)), d.root)
        d.boot()
        values = found(d)
        for key in history.values:
            allowed = history.allowed(key, when)
            assert values.get(key) in allowed, "%s is %s, not one of %s" % (key, values.get(key), allowed)
        check_events(d, history, when)
        result = d("fsck", "--format", "json", seconds=DEADLINE)
        assert result.returncode == 0, "fsck: " + result.stdout.decode() + result.stderr.decode()
        checked = d("images", "check", "--verify")
        assert checked.returncode == 0, checked
    except BaseException:
        d.print_log()
        raise
    finally:
        d.end()


def test_after_a_power_cut_everything_acknowledged_is_there():
    print("seed %d" % SEED, flush=True)
    dealer, history = random.Random(SEED), History()
    with Davit() as d:
        d.call("namespace.create", 'namespace:={"name":"before"}')
        tape = record(d, history)
        for c in d.json("containers", "ls"):
            d.check("containers", "rm", c["id"])
    kinds = {}
    for step in tape.steps:
        kinds[step[1]] = kinds.get(step[1], 0) + 1
    assert kinds.get("write", 0) > 100 and kinds.get("sync", 0) > 30 and kinds.get("rename", 0) > 5, kinds
    n_acknowledged = 0
    for n in range(ROUNDS):
        position = len(tape.steps) if not n else dealer.randrange(len(tape.steps))
        try:
            check_cut(history, tape, position, dealer.randrange(1 << 32))
        except BaseException:
            print("cut %d, at step %d of %d (seed %d)" % (n, position, len(tape.steps), SEED), file=sys.stderr)
            raise
        n_acknowledged += history.n_acknowledged(tape.steps[min(position, len(tape.steps) - 1)][0])
    print("%d cuts, %d steps recorded %s, %d acknowledged requests looked for" %
          (ROUNDS, len(tape.steps), kinds, n_acknowledged))


if __name__ == "__main__":
    main(globals())
