"""A peer of the bus in plain Python: the scalability protocols' handshake on a
unix socket, and msgpack. What any language needs to join, and what tests use.

    with Caller("/run/davit/bus.sock") as bus:
        status, text, body = bus.call("bus.list")

    with Subscriber("/run/davit/events.sock") as events:
        topic, event = events.receive(5)
"""

import os
import socket
import struct
import time

import msgpack

REQ, REP, PUB, SUB = 0x30, 0x31, 0x20, 0x21


class Closed(Exception):
    """The peer closed the connection."""


class Connection:
    """Frames over a unix socket, after the handshake."""

    def __init__(self, path, protocol, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Blocking: a full backlog is waited for.
        self.socket.connect(path)
        self.socket.settimeout(timeout)
        self.socket.sendall(b"\0SP\0" + struct.pack(">HH", protocol, 0))
        greeting = self.read(8)
        if greeting[:4] != b"\0SP\0":
            raise ValueError("the peer does not speak SP: %r" % greeting)
        self.peer = struct.unpack(">H", greeting[4:6])[0]

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise Closed()
            data += part
        return data

    def send(self, payload):
        self.socket.sendall(b"\1" + struct.pack(">Q", len(payload)) + payload)

    def receive(self):
        head = self.read(9)
        if head[0] != 1:
            raise ValueError("a frame of type %d" % head[0])
        return self.read(struct.unpack(">Q", head[1:])[0])

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Caller(Connection):
    """REQ: one request at a time."""

    def __init__(self, path, timeout=10):
        super().__init__(path, REQ, timeout)
        self.number = 0

    def start(self, method, body=None, namespace="default", request_id=None, deadline_ms=0):
        """Sends without waiting; deadline_ms is counted from now (0: the broker's default)."""
        self.number += 1
        if deadline_ms:
            deadline_ms += time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000000
        self.request_id = request_id or os.urandom(16)
        envelope = [1, self.request_id, deadline_ms, namespace, method, body or {}, {}]
        self.send_raw(msgpack.packb(envelope, use_bin_type=True))

    def send_raw(self, payload):
        self.send(struct.pack(">I", 0x80000000 | self.number) + payload)

    def finish(self):
        """The answer: (status, text, body)."""
        while True:
            reply = self.receive()
            if struct.unpack(">I", reply[:4])[0] == 0x80000000 | self.number:
                break
        version, request_id, status, text, body = msgpack.unpackb(reply[4:], raw=False)[:5]
        if version != 1 or request_id != self.request_id:
            raise ValueError("an answer to another request")
        return status, text, body

    def call(self, method, body=None, **options):
        self.start(method, body, **options)
        return self.finish()


class Subscriber(Connection):
    """SUB: topic, NUL, envelope."""

    def __init__(self, path, timeout=10):
        super().__init__(path, SUB, timeout)

    def receive_event(self):
        """(topic, payload): for an event a dict of the envelope's fields."""
        topic, payload = self.receive().split(b"\0", 1)
        value = msgpack.unpackb(payload, raw=False)
        if isinstance(value, list):
            names = ("log_id", "seq", "time_ns", "namespace", "topic", "object", "publisher",
                     "publisher_seq", "event")
            value = dict(zip(names, value))
        return topic.decode(), value


def event(seq, topic="/test/event", object="o", namespace="default", **fields):
    """An event_item for event.publish."""
    return {"seq": seq, "time_ns": time.time_ns(), "namespace": namespace, "topic": topic,
            "object": object, "event": fields}
