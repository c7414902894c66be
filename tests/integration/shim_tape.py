#!/usr/bin/env python3
"""Stands where davit-shim is, between a task service and a shim: records what they say, or plays the shim from such a tape.

Put in place of davit-shim (install()), it is started as one. A tape is JSON lines; packets are hex:

    {"config": shim.msgpack, "program": "davit-shim 0.1.0"}
    {"from": "service" or "shim", "packet": ...}        in the order in which they went

    record  between the two; what goes over the first connection is written down
    play    there is no shim: the tape answers, as the shim of that release did
    old     between the two; the service's requests are cut down to the fields of that release's, and a reply that lacks
            a field that the tape has is not passed on
"""

import array
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys

sys.dont_write_bytecode = True  # the tree stays as it is

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import msgpack  # noqa: E402
from sp_client import Caller  # noqa: E402

PACKET_MAX = 65536
REAL = ".real"  # the shim's program, moved aside


def install(bin_directory, mode, tape):
    """From now on a davit whose programs are there starts this script for a shim."""
    shim = os.path.join(bin_directory, "davit-shim")
    if not os.path.exists(shim + REAL):
        os.rename(shim, shim + REAL)
    with open(shim + ".new", "w") as out:
        out.write("#!/bin/sh\nexec /usr/bin/python3 %s %s %s %s \"$@\"\n" % (os.path.abspath(__file__), mode, tape, shim + REAL))
    os.chmod(shim + ".new", 0o755)
    os.rename(shim + ".new", shim)


def unpack(data):
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def read_tape(path):
    with open(path) as lines:
        head, *packets = [json.loads(line) for line in lines]
    return head, [(p["from"], bytes.fromhex(p["packet"])) for p in packets]


def is_event(message):
    """An event begins with the log's id, a reply with its version."""
    return isinstance(message[0], bytes)


def read_config(arguments):
    with open(arguments[arguments.index("--config") + 1], "rb") as f:
        return f.read()


# ---- recording ----

def receive(sock):
    data, ancillary, _, _ = sock.recvmsg(PACKET_MAX, socket.CMSG_SPACE(16 * 4))
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[:len(content) - len(content) % fds.itemsize])
    return data, fds


def pass_on(data, fds, to):
    if fds:
        to.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        for fd in fds:
            os.close(fd)
    else:
        to.send(data)


def between(real, arguments, from_service, from_shim):
    """Starts the shim as we were started, and passes on what the two functions make of each packet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    service = socket.socket(fileno=os.dup(3))
    os.dup2(theirs.fileno(), 3)
    os.set_inheritable(4, True)
    shim = subprocess.Popen([real, *arguments], pass_fds=[3, 4])
    os.close(3)
    os.close(4)
    theirs.close()
    selector = selectors.DefaultSelector()
    selector.register(service, selectors.EVENT_READ, (ours, from_service))
    selector.register(ours, selectors.EVENT_READ, (service, from_shim))
    while True:
        for key, _ in selector.select():
            to, change = key.data
            data, fds = receive(key.fileobj)
            if not data:
                sys.exit(shim.wait())
            pass_on(change(data), fds, to)


def record(tape, real, arguments):
    with open(tape, "w") as out:
        def note(line):
            out.write(json.dumps(line) + "\n")
            out.flush()

        def noting(name):
            def change(data):
                note({"from": name, "packet": data.hex()})
                return data
            return change
        version = subprocess.run([real, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        note({"config": read_config(arguments).hex(), "program": version})
        between(real, arguments, noting("service"), noting("shim"))


def record_take_up(state):
    """What the next task service asks a shim, at the end of the tape."""
    (name,) = os.listdir(state + "/s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as shim:
        shim.connect(os.path.join(state, "s", name))
        lines = []
        for method, body in (("shim.hello", {"protocol": 1}), ("shim.state", {}), ("shim.processes", {})):
            packet = pack([1, os.urandom(16), 0, "default", method, body, {}])
            shim.send(packet)
            lines += [{"from": "service", "packet": packet.hex()}, {"from": "shim", "packet": shim.recv(PACKET_MAX).hex()}]
    return "".join(json.dumps(line) + "\n" for line in lines)


def old(tape, real, arguments):
    service = OldService(tape)

    def check(data):
        service.check(data)
        return data
    between(real, arguments, service.cut_down, check)


# ---- playing the shim ----

class Player:
    """The shim of the tape, with the names and processes of now in place of those of then."""

    def __init__(self, tape, arguments):
        head, packets = read_tape(tape)
        self.config = unpack(read_config(arguments))
        then = unpack(bytes.fromhex(head["config"]))
        self.names = {then[key]: self.config[key] for key in ("bundle", "socket", "task_id", "container_id", "namespace")}
        self.publisher = {then["publisher"]: self.config["publisher"]}
        self.then = then
        self.tape = [(name, unpack(packet)) for name, packet in packets]
        self.requests = [(i, m[4]) for i, (name, m) in enumerate(self.tape) if name == "service"]
        self.used, self.processes, self.events, self.is_deleted = set(), {}, [], False
        self.watching = []

    # ---- then and now ----

    def process(self, pid):
        """A process of ours for one of the tape's."""
        if pid not in self.processes:
            self.processes[pid] = subprocess.Popen(["sleep", "1000"], close_fds=True)
        return self.processes[pid].pid

    def now(self, value, key=None):
        if isinstance(value, dict):
            value = {k: self.now(v, k) for k, v in value.items()}
            if "start_time" in value and value.get("pid"):
                with open("/proc/%d/stat" % value["pid"]) as f:
                    value["start_time"] = int(f.read().rsplit(")", 1)[1].split()[19])
            return value
        if isinstance(value, list):
            return [self.now(v) for v in value]
        if isinstance(value, bytes):
            return self.publisher.get(value, value)
        if isinstance(value, str):
            return self.names.get(value, value)
        return self.process(value) if key == "pid" and value else value

    # ---- what is said ----

    def find(self, method):
        """The tape's next request of this method, or the last one again."""
        places = [i for i, m in self.requests if m == method]
        fresh = [i for i in places if i not in self.used]
        if not places:
            raise SystemExit("the tape has no %s" % method)
        self.used.add((fresh or places)[0])
        return fresh[0] if fresh else places[-1], bool(fresh)

    def check(self, method, then, body):
        missing = [k for k, v in then.items() if k not in body or type(body[k]) is not type(v)]
        if missing:
            raise SystemExit("%s lacks what the shim of the tape was given: %s" % (method, missing))

    def answer(self, connection, packet):
        message = unpack(packet)
        request_id, method, body = message[1], message[4], message[5]
        place, is_fresh = self.find(method)
        self.check(method, self.tape[place][1][5], body)
        if method == "shim.hello" and body.get("watch"):
            self.watching.append(connection)
        for name, then in self.tape[place + 1:]:
            if name == "service":
                break
            if not is_event(then):
                reply = self.now({k: v for k, v in then[4].items() if method != "shim.hello" or k != "pid"})
                if method == "shim.hello":
                    reply["pid"] = os.getpid()
                connection.send(pack([then[0], request_id, then[2], then[3], reply]))
            elif is_fresh:
                self.happen(self.now(then))
        self.is_deleted = method == "shim.delete"

    def happen(self, event):
        if event[4] == "/tasks/exit":
            for process in self.processes.values():
                if process.pid == event[8]["pid"]:
                    process.kill()
                    process.wait()
        self.events.append(event)
        for connection in list(self.watching):
            try:
                connection.send(pack(event))
            except OSError:
                self.watching.remove(connection)

    def publish(self):
        items = [{"seq": e[1], "time_ns": e[2], "namespace": e[3], "topic": e[4], "object": e[5], "event": e[8]}
                 for e in self.events]
        if items:
            with Caller(self.config["bus"], 20) as bus:
                status, text, _ = bus.call("event.publish", {"publisher": self.config["publisher"], "events": items})
                if status != "OK":
                    raise SystemExit("the events are not taken: %s" % text)


def play(tape, _, arguments):
    player = Player(tape, arguments)
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(player.config["socket"])
    listener.listen(8)
    first = socket.socket(fileno=3)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(first, selectors.EVENT_READ)
    while not player.is_deleted:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                packet = key.fileobj.recv(PACKET_MAX)
                if packet:
                    player.answer(key.fileobj, packet)
            except OSError:
                packet = b""  # the task service was killed
            if packet:
                player.publish()
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    os.unlink(player.config["socket"])
    shutil.rmtree(player.config["bundle"])
    for process in player.processes.values():
        process.kill()
        process.wait()


# ---- a service of the tape's release ----

class OldService:
    def __init__(self, tape):
        _, packets = read_tape(tape)
        messages = [(name, unpack(packet)) for name, packet in packets]
        self.requests = {m[4]: m[5] for name, m in messages if name == "service"}
        methods = {m[1]: m[4] for name, m in messages if name == "service"}
        self.replies = {methods[m[1]]: m[4] for name, m in messages if name == "shim" and not is_event(m)}
        self.events = {m[4]: m[8] for name, m in messages if name == "shim" and is_event(m)}
        self.methods = {}

    def cut_down(self, packet):
        message = unpack(packet)
        method, body = message[4], message[5]
        if method not in self.requests:
            raise SystemExit("the tape's service does not ask %s" % method)
        self.methods[message[1]] = method
        message[5] = {k: body.get(k, v) for k, v in self.requests[method].items()}
        return pack(message)

    def check(self, packet):
        message = unpack(packet)
        if is_event(message):
            then, found, what = self.events.get(message[4], {}), message[8], message[4]
        else:
            what = self.methods[message[1]]
            then, found = self.replies[what] if message[2] == "OK" else {}, message[4]
        # How a process ended decides whether a signal is named.
        missing = [k for k, v in then.items() if k not in ("signal", "journal_seq") and
                   (k not in found or type(found[k]) is not type(v))]
        if missing:
            raise SystemExit("%s lacks what that of the tape has: %s" % (what, missing))


if __name__ == "__main__":
    mode, tape, real = sys.argv[1:4]
    {"record": record, "play": play, "old": old}[mode](tape, real, sys.argv[4:])
