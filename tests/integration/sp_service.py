"""A service of the bus in plain Python, for tests: a process that registers its
name and answers each connection on a thread of its own.

    python3 sp_service.py STATE NAME [--redeliver] [--calls OTHER] [--log FILE]

Methods: NAME.echo (gives the body back, with its pid), NAME.slow {ms, tell} (answers after
that long; tell: prints `slow` first), NAME.never (does not answer), NAME.die (kills itself), NAME.nested (calls echo of the other
service through the bus), NAME.garbage (answers something else), NAME.once (dies on the first
delivery of a request id, answers the next), NAME.empty (answers the first with nothing, as a service without memory does). SIGTERM: drains, then exits when nothing runs.
"""

import argparse
import os
import signal
import socket
import struct
import sys
import threading

import msgpack

from sp_client import REP, REQ, Caller, Connection


def start_time():
    with open("/proc/self/stat") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[19])


class Registration:
    """Registers, and again for each heartbeat, on a thread of its own."""

    def __init__(self, state, names, address, redeliver):
        self.path = state + "/registry.sock"
        self.instance = os.urandom(16)
        self.body = {"instance": self.instance, "names": names, "address": address,
                     "pid": os.getpid(), "start_time": start_time(), "protocol": 1,
                     "program": "sp_service", "schema": "the schema of %s" % names[0],
                     "redeliver": redeliver}
        self.wake = threading.Event()
        self.registered = threading.Event()

    def run(self):
        while True:
            try:
                with Caller(self.path) as registry:
                    self.beat(registry)
            except OSError:
                self.wake.wait(0.05)
            except Exception as e:
                print(e, file=sys.stderr)
                self.wake.wait(0.05)

    def beat(self, registry):
        while True:
            status, text, body = registry.call("registry.register", self.body)
            if status != "OK":
                raise ValueError(text)
            self.registered.set()
            # A broker that went away shows by the end of the connection, before the next beat.
            registry.socket.settimeout(min(body["heartbeat_ms"] / 2000, 0.5))
            try:
                if not registry.socket.recv(1, socket.MSG_PEEK):
                    return
            except socket.timeout:
                pass
            registry.socket.settimeout(10)

    def drain(self):
        self.body["draining"] = True
        with Caller(self.path) as registry:
            registry.call("registry.register", self.body)

    def unregister(self):
        with Caller(self.path) as registry:
            registry.call("registry.unregister", {"instance": self.instance})


class Service:
    def __init__(self, options):
        self.options = options
        self.running = 0
        self.changed = threading.Condition()
        self.stop = threading.Event()
        os.makedirs(options.state + "/svc", exist_ok=True)
        self.address = "%s/svc/%s-%d.sock" % (options.state, options.name, os.getpid())
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.address)
        self.listener.listen(600)
        self.seen_path = options.log

    def note(self, request_id):
        """Notes a delivery where the next instance sees it; how many there were before."""
        with open(self.seen_path, "a+") as log:
            log.seek(0)
            before = log.read().split().count(request_id.hex())
            log.write(request_id.hex() + "\n")
        return before

    def answer(self, request):
        """The reply's (status, text, body), or None for no answer."""
        version, request_id, deadline, namespace, method, body, more = request[:7]
        verb = method.split(".", 1)[1]
        if self.seen_path and verb in ("once", "die"):
            if self.note(request_id) == 0 or verb == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        if verb == "empty" and self.note(request_id) == 0:
            return ()
        if verb == "slow":
            if body.get("tell"):
                print("slow", flush=True)
            threading.Event().wait(body["ms"] / 1000)
        elif verb == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "never":
            return None
        elif verb == "nested":
            with Caller(self.options.state + "/bus.sock", 60) as bus:
                return bus.call(self.options.calls + ".echo", body)
        return "OK", "", {"pid": os.getpid(), "body": body, "uid": more.get("uid"),
                          "caller": more.get("pid"), "deadline": deadline,
                          "namespace": namespace}

    def serve(self, client):
        connection = Connection.__new__(Connection)
        connection.socket = client
        connection.socket.sendall(b"\0SP\0" + struct.pack(">HH", REP, 0))
        try:
            greeting = connection.read(8)
            assert greeting[4:6] == struct.pack(">H", REQ)
            while True:
                self.serve_one(connection)
        except Exception:
            client.close()

    def serve_one(self, connection):
        frame = connection.receive()
        with self.changed:
            self.running += 1
        try:
            request = msgpack.unpackb(frame[4:], raw=False)
            reply = self.answer(request)
            if reply is None:
                return
            payload = msgpack.packb([1, request[1], *reply], use_bin_type=True) if reply else b""
            if request[4].endswith(".garbage"):
                payload = b"\xc1garbage"
            connection.send(frame[:4] + payload)
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("state")
    parser.add_argument("name")
    parser.add_argument("--redeliver", action="store_true")
    parser.add_argument("--calls", default="")
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    threading.stack_size(256 * 1024)
    service = Service(options)
    registration = Registration(options.state, [options.name], service.address,
                                options.redeliver)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=service.accept, daemon=True).start()
    threading.Thread(target=registration.run, daemon=True).start()
    registration.registered.wait()
    print("ready", flush=True)
    stop.wait()
    registration.drain()
    with service.changed:
        service.changed.wait_for(lambda: service.running == 0)
    registration.unregister()
    os.unlink(service.address)
    os._exit(0)


if __name__ == "__main__":
    main()
