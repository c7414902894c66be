"""The control file of a build with points (broker/lib/points.h), and a caller of the bus that goes on asking."""

import errno
import mmap
import os
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
from sp_client import Caller, Closed  # noqa: E402

DIE, STALL, ERROR = 1, 2, 3
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "ENOMEM": errno.ENOMEM, "EMFILE": errno.EMFILE}
# struct points_control: the head, the passing that is armed, its callers, then those that were written down.
HEAD, PASSING, CALLERS = struct.Struct("<QIIiIiIII"), struct.Struct("24s96s"), struct.Struct("<16Q")
MAGIC = 0x315354504e494f50
RECORDING, ARMED, LEFT, ACTION, ERRNO, FIRED, RELEASED, PASSINGS = range(8, 40, 4)
ROOM = 100000
FIRST = HEAD.size + PASSING.size + CALLERS.size


def text(data):
    return data.split(b"\0")[0].decode()


class Control:
    def __init__(self, path):
        self.path = path
        size = FIRST + ROOM * PASSING.size
        with open(path, "w+b") as f:
            f.truncate(size)
            self.map = mmap.mmap(f.fileno(), size)
        self.map[:8] = struct.pack("<Q", MAGIC)

    def get(self, at):
        return struct.unpack_from("<i", self.map, at)[0]

    def set(self, at, value):
        struct.pack_into("<i", self.map, at, value)

    def arm(self, process, name, n, action, error=0):
        """The @n-th passing of @name by @process from now on."""
        self.disarm()
        PASSING.pack_into(self.map, HEAD.size, process.encode(), name.encode())
        for at, value in ((LEFT, n), (ACTION, action), (ERRNO, error), (FIRED, 0), (RELEASED, 0), (ARMED, 1)):
            self.set(at, value)

    def has_fired(self):
        return self.get(FIRED) > 0

    def fired(self):
        """The name of the point at which it has fired."""
        return text(PASSING.unpack_from(self.map, HEAD.size)[1])

    def error(self):
        """The errno that was armed last."""
        return self.get(ERRNO)

    def callers(self, program):
        """Where in @program it has fired: functions and lines, innermost first."""
        places = ["%#x" % (place - 1) for place in CALLERS.unpack_from(self.map, HEAD.size + PASSING.size) if place]
        said = subprocess.run(["addr2line", "-fsp", "-e", program, *places], stdout=subprocess.PIPE, text=True).stdout
        return [line for line in said.splitlines() if "points" not in line and "??" not in line]

    def release(self):
        """A stalled one goes on."""
        self.set(RELEASED, 1)

    def disarm(self):
        self.release()
        self.set(ARMED, 0)

    def record(self):
        self.disarm()
        self.set(PASSINGS, 0)
        self.set(RECORDING, 1)

    def n_recorded(self):
        return self.get(PASSINGS)

    def recorded(self):
        """What was passed since record(): (process, name), in order."""
        self.set(RECORDING, 0)
        n = self.n_recorded()
        assert n <= ROOM, "%d passings do not fit" % n
        passings = (PASSING.unpack_from(self.map, FIRST + i * PASSING.size) for i in range(n))
        return [(text(process), text(name)) for process, name in passings]


class Bus:
    """Asks again, with the same request id, until there is an answer that says what became of the request."""

    @staticmethod
    def is_open(status, words):
        """The broker's own UNAVAILABLE and DEADLINE_EXCEEDED say that the outcome is unknown, or that it was not
        delivered; a service's are answers."""
        return status == "PENDING" or status in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and "deliver" in words

    def __init__(self, path):
        self.path, self.caller = path, None

    def close(self):
        if self.caller:
            self.caller.close()
        self.caller = None

    def once(self, method, body, request_id):
        try:
            self.caller = self.caller or Caller(self.path, timeout=20)
            return self.caller.call(method, body, request_id=request_id, deadline_ms=10000)
        except (Closed, OSError, ValueError) as error:  # lost on the way, or no answer to be read
            self.close()
            return "PENDING", repr(error), {}

    def ask(self, method, body=None, request_id=None, seconds=60):
        """(status, text, body)"""
        request_id, end = request_id or os.urandom(16), time.monotonic() + seconds
        while True:
            status, words, reply = self.once(method, body, request_id)
            if not self.is_open(status, words):
                return status, words, reply or {}
            if time.monotonic() > end:
                raise AssertionError("%s: no answer within %d s: %s %s" % (method, seconds, status, words))
            time.sleep(0.01)

    def do(self, method, **body):
        status, words, reply = self.ask(method, body)
        assert status == "OK", "%s: %s %s" % (method, status, words)
        return reply
