"""Throughput of a container's output, next to a plain pipe, and what its shim takes meanwhile. Used by bench.py."""

import os
import signal
import subprocess
import time

BLOCK = 65536
DEADLINE = 600


def write(megabytes, before=""):
    """What writes so much, without a program of its own."""
    return ["sh", "-c", "%sexec dd if=/dev/zero bs=%d count=%d 2>/dev/null" % (before, BLOCK, megabytes * 1048576 // BLOCK)]


def own_kb(pid):
    """What is nobody else's; 0: it has ended."""
    try:
        with open("/proc/%d/smaps_rollup" % pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss_Anon:"))
    except OSError:
        return 0


class Peak:
    """The most that the one shim took, looked at while something else is waited for."""

    def __init__(self, davit):
        self.davit, self.kb, self.pid = davit, 0, None

    def find(self):
        """What ends while it is looked at is not there."""
        try:
            return next(iter(self.davit.named("davit-shim")), None)
        except OSError:
            return None

    def wait(self, is_done):
        end = time.monotonic() + DEADLINE
        while not is_done():
            self.pid = self.pid or self.find()
            if self.pid:
                self.kb = max(self.kb, own_kb(self.pid))
            if time.monotonic() > end:
                raise RuntimeError("the output does not come to its end")
            time.sleep(0.02)


def finished(process):
    return lambda: process.poll() is not None


def pipe(davit, megabytes, peak):
    begin = time.perf_counter()
    writer = subprocess.Popen(write(megabytes), stdout=subprocess.PIPE)
    subprocess.run(["cat"], stdin=writer.stdout, stdout=subprocess.DEVNULL, check=True)
    writer.wait()
    return time.perf_counter() - begin


def fifo(davit, megabytes, peak):
    """In the foreground: the container writes into the client's FIFO, the shim has no part in it."""
    begin = time.perf_counter()
    client = subprocess.Popen(davit.base + ["run", "--rm", "busybox", "out"] + write(megabytes), stdout=subprocess.DEVNULL)
    peak.wait(finished(client))
    return time.perf_counter() - begin


def start_logged(davit, megabytes, gate):
    """One that waits at @gate (a FIFO), with a log of the usual three files of 10 MB."""
    subprocess.run(davit.base + ["run", "-d", "--mount", "type=bind,src=%s,dst=/gate,options=rbind:rw" % gate, "busybox", "out"]
                   + write(megabytes, "read line </gate; "), check=True)


def open_gate(gate):
    """Returns the moment."""
    with open(gate, "w") as f:
        f.write("go\n")
    return time.perf_counter()


def log(davit, megabytes, peak):
    gate = os.path.join(os.path.dirname(davit.root), "gate")
    os.mkfifo(gate)
    start_logged(davit, megabytes, gate)
    wait = subprocess.Popen(davit.base + ["wait", "out"], stdout=subprocess.DEVNULL)
    begin = open_gate(gate)
    peak.wait(finished(wait))
    taken = time.perf_counter() - begin
    subprocess.run(davit.base + ["rm", "-f", "out"], check=True)
    os.unlink(gate)
    return taken


def attached(davit, megabytes, peak):
    """Until the client that reads has all of it that the log kept for it; the other one stands still."""
    gate = os.path.join(os.path.dirname(davit.root), "gate")
    os.mkfifo(gate)
    start_logged(davit, megabytes, gate)
    clients = [subprocess.Popen(davit.base + ["attach", "--no-stdin", "out"], stdout=subprocess.DEVNULL) for _ in range(2)]
    # A client that is attached has taken its FIFOs' names away.
    fifos = os.path.join(davit.state, "fifo")
    peak.wait(lambda: all(c.poll() is None and has_output(c.pid) for c in clients) and not os.listdir(fifos))
    os.kill(clients[1].pid, signal.SIGSTOP)
    begin = open_gate(gate)
    peak.wait(finished(clients[0]))
    taken = time.perf_counter() - begin
    os.kill(clients[1].pid, signal.SIGKILL)
    clients[1].wait()
    subprocess.run(davit.base + ["rm", "-f", "out"], check=True)
    os.unlink(gate)
    return taken


def has_output(pid):
    """It has a FIFO open."""
    try:
        return any("/fifo/" in os.readlink("/proc/%d/fd/%s" % (pid, fd)) for fd in os.listdir("/proc/%d/fd" % pid))
    except OSError:
        return False


def bench_output(davit, row, megabytes):
    plain = None
    for what, run in (("a plain pipe", pipe), ("a FIFO", fifo), ("the log", log),
                      ("the log, two clients, one of them stopped", attached)):
        peak = Peak(davit)
        rate = megabytes / run(davit, megabytes, peak)
        plain = plain or rate
        row("%d MB of output through %s, MB a second" % (megabytes, what), "%8.0f (%.2f of the pipe)" % (rate, rate / plain))
        if run in (log, attached):
            row("  the shim's own memory meanwhile, KB", "%8d" % peak.kb, "<= 200", peak.kb <= 200)
