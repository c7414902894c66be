#!/usr/bin/env python3
"""run --cni: Debian's plugins give a container a network and get all of it back, whoever dies; plugins that misbehave."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import msgpack

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, command_lines, main, wait_for  # noqa: E402

PLUGINS = next((d for d in ("/usr/lib/cni", "/opt/cni/bin") if os.path.exists(d + "/bridge")), None)
RUNTIMES = [name for name in ("crun", "runc") if shutil.which(name)]

# Notes what it was asked, then does what its configuration says for the command.
STAND_IN = r"""#!/usr/bin/python3
import json, os, signal, sys, time
conf = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
note = {"plugin": conf["type"], "conf": conf, "netns_is_there": os.path.exists(os.environ["CNI_NETNS"]),
        "env": {k: v for k, v in os.environ.items() if k.startswith("CNI_")}}
with open(conf["notes"], "a") as f:
    f.write(json.dumps(note) + "\n")
mode = conf.get(command, "ok")
if mode.startswith("gate:"):
    while not os.path.exists(mode[5:]):
        time.sleep(0.01)
elif mode.startswith("unless:"):
    mode = "document" if os.path.exists(mode[7:]) else "ok"
if mode == "document":
    json.dump({"cniVersion": conf["cniVersion"], "code": 112, "msg": "the switch is off", "details": "port 7"}, sys.stdout)
    sys.exit(1)
elif mode == "hang":
    if not os.fork():
        time.sleep(1000)
    time.sleep(1000)
elif mode == "flood":
    while True:
        sys.stdout.write("x" * 65536)
elif mode == "errors":
    sys.stderr.write("e\n" * 1000000)
elif mode == "text":
    sys.stdout.write("eth0 is up")
    sys.exit(0)
elif mode == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if command == "ADD":
    result = conf.get("prevResult") or {"cniVersion": conf["cniVersion"], "interfaces": [], "ips": []}
    result.setdefault("routes", []).append({"dst": "192.0.2.%d/32" % len(result.get("routes", []))})
    json.dump(result, sys.stdout)
"""


class Network:
    """A Davit with a directory of configurations and plugins of its own, a bridge and a subnet that nobody else has."""

    def __init__(self, *options, davit=None):
        self.d = davit or Davit()
        self.confs, self.data, self.bin = (os.path.join(self.d.work, n) for n in ("net.d", "addresses", "bin"))
        self.notes_file = os.path.join(self.d.work, "notes")
        self.bridge = "dv%d" % os.getpid()
        routes = subprocess.run(["ip", "route", "show"], capture_output=True, check=True).stdout.decode()
        number = os.getpid()
        while True:
            self.subnet = "10.%d.%d" % (128 + (number >> 8) % 100, number % 256)
            if self.subnet + "." not in routes:
                break
            number += 1
        self.name = "net-%d" % os.getpid()
        os.mkdir(self.confs)
        os.mkdir(self.bin)
        for name in ("first", "second"):
            with open(os.path.join(self.bin, name), "w") as f:
                f.write(STAND_IN)
            os.chmod(f.name, 0o755)
        self.options = ("--cni-conf-dir", self.confs, "--cni-bin-dir", ":".join(filter(None, (PLUGINS, self.bin)))) + options

    def __enter__(self):
        try:
            self.d.check("up", "--detach", *self.options)
            self.d.is_up = True
            self.d.import_busybox()
        except BaseException:
            self.d.print_log()
            self.d.end()
            raise
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                wait_for(lambda: not self.leftovers(), "nothing is left: " + str(self.leftovers()), 20)
        except BaseException:
            self.d.print_log()
            raise
        finally:
            try:
                self.d.__exit__(kind, value, trace)
            finally:
                self.remove_bridge()

    def remove_bridge(self):
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)

    # ---- configurations ----
    def put(self, plugins, version="1.0.0", file="10-test.conflist"):
        for name in os.listdir(self.confs):
            os.unlink(os.path.join(self.confs, name))
        with open(os.path.join(self.confs, file), "w") as f:
            json.dump({"cniVersion": version, "name": self.name, "plugins": plugins}, f)
        if os.path.exists(self.notes_file):
            os.unlink(self.notes_file)

    def bridge_plugin(self):
        return {"type": "bridge", "bridge": self.bridge, "isGateway": True,
                "ipam": {"type": "host-local", "dataDir": self.data, "ranges": [[{"subnet": self.subnet + ".0/24"}]],
                         "routes": [{"dst": "0.0.0.0/0"}]}}

    def stand_in(self, name, **modes):
        return dict({"type": name, "notes": self.notes_file}, **modes)

    # ---- what there is ----
    def notes(self):
        if not os.path.exists(self.notes_file):
            return []
        with open(self.notes_file) as f:
            return [json.loads(line) for line in f]

    def addresses(self):
        folder = os.path.join(self.data, self.name)
        return sorted(n for n in os.listdir(folder) if n[0].isdigit()) if os.path.isdir(folder) else []

    def attachments(self):
        folder = os.path.join(self.d.root, "runtime", "networks")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def kept(self):
        """Without the locks of those that are worked on."""
        return [name for name in self.attachments() if not name.endswith("@lock")]

    def namespaces(self):
        folder = os.path.join(self.d.state, "netns")
        return os.listdir(folder) if os.path.isdir(folder) else []

    def ports(self):
        folder = "/sys/class/net/%s/brif" % self.bridge
        return os.listdir(folder) if os.path.isdir(folder) else []

    def leftovers(self):
        with open("/proc/self/mountinfo") as f:
            mounts = [line.split()[4] for line in f if self.d.state + "/netns" in line]
        return self.addresses() + self.attachments() + self.namespaces() + self.ports() + mounts

    def check_nothing_is_left(self):
        """At once: what a command has answered is done."""
        assert not self.leftovers(), self.leftovers()

    def task(self, container):
        return json.loads(self.d.check("inspect", container))[0].get("task", {})

    def network_of(self, container):
        return self.task(container)["network"]


def test_a_container_has_an_address_and_gives_it_back():
    with Network() as n:
        n.put([n.bridge_plugin()])
        gateway = n.subnet + ".1"
        for runtime in RUNTIMES:
            n.d.check("run", "-d", "--cni", "--runtime", runtime, "busybox", "web", "sleep", "1000")
            network = n.network_of("web")
            address = network["addresses"][0]["address"]
            assert address.startswith(n.subnet + ".") and address.endswith("/24"), network
            assert network["addresses"][0]["gateway"] == gateway and network["addresses"][0]["interface"] == "eth0"
            assert network["name"] == n.name and network["attach_id"] == "default-web"
            assert n.addresses() == [address[:-3]] and len(n.ports()) == 1
            shown = n.d.check("exec", "web", "ip", "addr")
            assert "inet " + address in shown and network["mac"] in shown and "eth0" in shown, shown
            assert "LOOPBACK,UP" in shown, shown
            n.d.check("exec", "web", "ping", "-c", "1", "-W", "20", gateway)
            n.d.check("rm", "-f", "web")
            n.check_nothing_is_left()
        # A connection from the container to a server on the bridge's address.
        with socket.socket() as server:
            server.bind((gateway, 0))
            server.listen()
            client = n.d.start("run", "--rm", "--cni", "busybox", "client", "nc", gateway, str(server.getsockname()[1]))
            server.settimeout(60)
            connection, peer = server.accept()
            assert peer[0].startswith(n.subnet + ".")
            connection.sendall(b"hello")
            connection.close()
            output, errors = client.communicate(timeout=60)
            assert client.returncode == 0 and output == b"hello", (output, errors)
        wait_for(lambda: not n.leftovers(), "--rm gives it back", 20)
        # Without --rm the task is deleted at its end, and each task of the container has a network.
        n.d.check("run", "--cni", "busybox", "twice", "ip", "addr", "show", "eth0")
        n.check_nothing_is_left()
        assert "inet " + n.subnet in n.d.check("tasks", "start", "twice")
        n.check_nothing_is_left()
        n.d.check("rm", "twice")
        ids = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
        if "crun" in RUNTIMES:
            shown = n.d.check("run", "--cni", "--runtime", "crun", *ids, "busybox", "mapped", "ip", "addr", "show", "eth0")
            assert "inet " + n.subnet in shown
            n.check_nothing_is_left()
            n.d.check("rm", "mapped")
        # A whole spec of the caller's.
        n.d.check("run", "-d", "busybox", "model", "ip", "addr", "show", "eth0")
        spec = n.d.check("containers", "info", "--spec", "model")
        n.d.check("rm", "-f", "model")
        os.mkdir(n.d.work + "/root")
        subprocess.run(["cp", "/bin/busybox", n.d.work + "/root/ip"], check=True)
        own = dict(json.loads(spec), root={"path": n.d.work + "/root"})
        own["process"]["args"] = ["/ip", "addr", "show", "eth0"]
        with open(n.d.work + "/config.json", "w") as f:
            json.dump(own, f)
        assert "inet " + n.subnet in n.d.check("run", "--rm", "--cni", "--config", n.d.work + "/config.json", "own")
        wait_for(lambda: not n.leftovers(), "--rm gives it back", 20)


def test_whoever_dies_the_address_is_given_back():
    with Network() as n:
        gate = os.path.join(n.d.work, "gate")
        n.put([n.bridge_plugin()])
        # A start that fails.
        result = n.d("run", "--cni", "busybox", "none", "no-such-program")
        assert result.returncode == 127, result
        n.check_nothing_is_left()
        # The shim.
        n.d.check("run", "-d", "--cni", "busybox", "orphan", "sleep", "1000")
        os.kill(n.task("orphan")["shim_pid"], signal.SIGKILL)
        n.d.check("rm", "-f", "orphan")
        n.check_nothing_is_left()
        # The runtime service and its child, with the address given and the network not yet whole; then all services.
        for victims in (["service"], ["service", "child"], ["all"]):
            n.put([n.bridge_plugin(), n.stand_in("first", ADD="gate:" + gate)])
            client = n.d.start("run", "-d", "--cni", "busybox", "cut", "sleep", "1000")
            wait_for(lambda: n.notes(), "the second plugin is asked")
            assert len(n.addresses()) == 1
            if "child" in victims:
                service = n.d.pid("davit-runtime")
                kill_children(service)
            n.d.kill(*(["davit-runtime", "davit-task", "davit-container"] if victims == ["all"] else ["davit-runtime"]))
            with open(gate, "w"):
                pass
            output, errors = client.communicate(timeout=60)
            os.unlink(gate)
            if client.returncode == 0:
                wait_for(lambda: n.task("cut").get("status") == "RUNNING", "it runs")
                address = n.network_of("cut")["addresses"][0]["address"][:-3]
                assert n.addresses() == [address], (victims, n.addresses(), address)
                n.d.check("exec", "cut", "ping", "-c", "1", "-W", "20", n.subnet + ".1")
                n.d.check("rm", "-f", "cut")
            assert victims == ["service", "child"] or client.returncode == 0, (victims, output, errors)
            wait_for(lambda: not n.leftovers(), "all is given back: %s" % victims, 20)


def test_a_network_is_given_back_though_the_record_of_its_task_was_lost():
    with Network() as n:
        n.put([n.bridge_plugin()])
        n.d.check("run", "-d", "--cni", "busybox", "web", "sleep", "1000")
        assert len(n.addresses()) == len(n.namespaces()) == len(n.kept()) == 1
        before = n.d.call("task.get", "container_id=web")["process"]["pid"]
        n.d.lose_task_store()
        found = wait_for(lambda: [t for t in n.d.json("tasks", "ls") if t["status"] == "RUNNING"], "it is known again")
        assert [t["pid"] for t in found] == [before], found
        # Its bundle and the network namespace tell whose it is; what its network is called only the runtime service knows.
        (record,) = n.d.call("task.list")["tasks"]
        netns = os.path.join(n.d.state, "netns", n.namespaces()[0])
        assert (record["network"]["attach_id"], record["network"]["netns"]) == ("default-web", netns), record
        n.d.check("rm", "-f", "web")
        wait_for(lambda: not n.addresses() + n.namespaces() + n.kept() + n.ports(), "all of it is given back")


def kill_children(service):
    with open("/proc/%d/task/%d/children" % (service, service)) as f:
        children = [int(pid) for pid in f.read().split()]
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_networks_of_an_earlier_boot_are_given_back():
    with Network() as n:
        n.put([n.bridge_plugin()])
        n.d.check("run", "-d", "--cni", "busybox", "lives", "sleep", "1000")
        address = n.network_of("lives")["addresses"][0]["address"][:-3]
        (mine,) = n.attachments()
        folder = os.path.join(n.d.root, "runtime", "networks")
        with open(os.path.join(folder, mine), "rb") as f:
            kept = msgpack.unpackb(f.read())
        # As the host's sudden end leaves it: what is kept, and the plugin's own file; the bundle may be there still.
        gone = "f" * 32
        kept["boot_id"], kept["task_id"] = b"b" * 16, gone
        with open(os.path.join(folder, "default-gone@" + gone), "wb") as f:
            f.write(msgpack.packb(kept, use_bin_type=True))
        with open(os.path.join(n.data, n.name, n.subnet + ".77"), "w") as f:
            f.write("default-gone\r\neth0")
        os.mkdir(os.path.join(n.d.state, "bundles", gone))
        n.d.kill("davit-runtime")
        wait_for(lambda: n.attachments() == [mine], "it is taken back", 20)
        assert n.addresses() == [address]
        os.rmdir(os.path.join(n.d.state, "bundles", gone))
        # One whose file is damaged goes by the present configuration.
        with open(os.path.join(folder, "default-gone@" + gone), "wb") as f:
            f.write(b"\xc1")
        with open(os.path.join(n.data, n.name, n.subnet + ".78"), "w") as f:
            f.write("default-gone\r\neth0")
        n.d.kill("davit-runtime")
        wait_for(lambda: n.attachments() == [mine], "it is taken back", 20)
        assert n.addresses() == [address]
        n.d.check("exec", "lives", "ping", "-c", "1", "-W", "20", n.subnet + ".1")
        n.d.check("rm", "-f", "lives")


def test_plugins_are_asked_by_the_rules():
    with Network() as n:
        n.put([dict(n.bridge_plugin(), capabilities={"mac": True}), n.stand_in("first", prevResult={"no": 1}),
               n.stand_in("second", ADD="errors")], version="0.4.0")
        n.d.check("-n", "other", "images", "import", n.d.work + "/busybox.tar")
        n.d.check("-n", "other", "run", "-d", "--cni", "busybox", "c.1", "sleep", "1000")
        n.d.check("-n", "other", "rm", "-f", "c.1")
        notes = n.notes()
        assert [(x["plugin"], x["env"]["CNI_COMMAND"]) for x in notes] == [
            ("first", "ADD"), ("second", "ADD"), ("second", "DEL"), ("first", "DEL")], notes
        for note in notes:
            env, conf = note["env"], note["conf"]
            assert env["CNI_CONTAINERID"] == "other-c.1" and env["CNI_IFNAME"] == "eth0" and env["CNI_ARGS"] == ""
            assert env["CNI_PATH"] == "%s:%s" % (PLUGINS, n.bin) and env["CNI_NETNS"].startswith(n.d.state + "/netns/")
            assert note["netns_is_there"] and conf["name"] == n.name and conf["cniVersion"] == "0.4.0"
            assert "runtimeConfig" not in conf and "capabilities" not in conf
        # The result goes from each plugin to the next, and the last one's to all of them at the end.
        assert [len(x["conf"]["prevResult"]["routes"]) for x in notes] == [1, 2, 3, 3]
        assert all(x["conf"]["prevResult"]["ips"][0]["address"].startswith(n.subnet) for x in notes)


def test_a_plugin_that_misbehaves_is_an_error_and_leaves_nothing():
    with Network() as n:
        for mode, text in (("document", "the switch is off; port 7 (code 112)"), ("text", "its answer is not JSON"),
                           ("flood", "answers with more than 262144 bytes"), ("crash", "killed by signal 11")):
            n.put([n.bridge_plugin(), n.stand_in("second", ADD=mode)])
            result = n.d("run", "-d", "--cni", "busybox", "bad", "sleep", "1000")
            errors = result.stderr.decode()
            assert result.returncode == 125 and text in errors, (mode, errors)
            assert "container 'bad' gets no network: network '%s': plugin 'second': " % n.name in errors, errors
            assert [x["env"]["CNI_COMMAND"] for x in n.notes()] == ["ADD", "DEL"], (mode, n.notes())
            n.check_nothing_is_left()
            assert not n.d.json("containers", "ls"), mode
        for plugin, text in (("nowhere", "plugin 'nowhere': there is no such program in"),
                             ("../../bin/sh", "type '../../bin/sh' is not a program's name")):
            n.put([n.stand_in("first"), n.stand_in(plugin)])
            result = n.d("run", "--cni", "busybox", "bad", "true")
            assert result.returncode == 125 and text in result.stderr.decode(), result
            assert not n.notes(), "no plugin is run when one is not there"
        os.unlink(os.path.join(n.confs, "10-test.conflist"))
        result = n.d("run", "--cni", "busybox", "bad", "true")
        assert result.returncode == 125 and b"there is no CNI configuration" in result.stderr, result
        for other in (["--net-host"], ["--with-ns", "network:/proc/self/ns/net"]):
            result = n.d("run", "--cni", *other, "busybox", "bad", "true")
            assert result.returncode == 125 and b"exclude each other" in result.stderr, result


def test_a_plugin_that_hangs_is_killed_with_what_it_started():
    with Network("--cni-timeout", "2") as n:
        n.put([n.stand_in("second", ADD="hang")])
        result = n.d("run", "-d", "--cni", "busybox", "bad", "sleep", "1000")
        assert result.returncode == 125 and b"'second': it did not end in time and was killed" in result.stderr, result

        def running():
            return [pid for pid, words in command_lines() if n.bin + "/second" in words]
        # On a slow machine the time may be too short for taking it back too: that is then tried again.
        wait_for(lambda: not running() and not n.leftovers(), "nothing is left")
        assert not n.d.json("containers", "ls")


def test_what_a_plugin_does_not_take_back_is_asked_for_again():
    with Network() as n:
        off = os.path.join(n.d.work, "off")
        n.put([n.bridge_plugin(), n.stand_in("first", DEL="unless:" + off)])
        n.d.check("run", "-d", "--cni", "busybox", "stuck", "sleep", "1000")
        with open(off, "w"):
            pass
        said = n.d("rm", "-f", "stuck")
        assert said.returncode == 0 and b"'stuck' is gone, but CNI plugins hold" in said.stderr, said
        # The others were asked; only what is kept of it is left, and nobody may take the container's name meanwhile.
        assert n.leftovers() == n.attachments() and len(n.attachments()) == 1, n.leftovers()
        result = n.d("run", "--rm", "--cni", "busybox", "stuck", "true")
        assert result.returncode == 125 and b"is not taken back (`davit fsck --repair` forgets it): network" in result.stderr, result
        with open(os.path.join(n.d.state, "up.log")) as f:
            assert "container=default-stuck: its network is not taken back yet, tried again" in f.read()
        os.unlink(off)
        wait_for(lambda: not n.attachments(), "it is asked again", 60)
        n.d.check("run", "--rm", "--cni", "busybox", "stuck", "true")


def test_a_plugin_that_was_uninstalled_keeps_nothing_for_ever():
    with Network() as n:
        n.put([n.bridge_plugin(), n.stand_in("first")])
        n.d.check("run", "-d", "--cni", "busybox", "runs", "sleep", "1000")
        for name in ("one", "two"):
            n.d.check("run", "-d", "--cni", "busybox", name, "sleep", "1000")
        os.rename(os.path.join(n.bin, "first"), os.path.join(n.bin, "away"))
        said = n.d("rm", "-f", "one")
        assert said.returncode == 0 and b"plugin 'first'" in said.stderr and b"fsck" in said.stderr, said
        n.d.check("kill", "-s", "KILL", "two")
        assert n.d("wait", "two").stdout == b"137\n"
        said = n.d("tasks", "delete", "two")
        assert said.returncode == 0 and b"plugin 'first'" in said.stderr, said
        left = sorted(a for a in n.kept() if not a.startswith("default-runs"))
        result = n.d("fsck", "--format", "json")
        found = json.loads(result.stdout)
        assert result.returncode == 1, result
        assert sorted((f["kind"], f["id"]) for f in found) == [("network", name) for name in left], found
        assert all("plugin 'first'" in f["text"] for f in found), found
        # Not while its task lives.
        (used,) = [a for a in n.kept() if a.startswith("default-runs")]
        assert n.d("bus", "call", "runtime.mend", "kind=network", "id=" + used).returncode
        result = n.d("fsck", "--repair")
        assert n.kept() == [used], (n.attachments(), result)
        n.d.check("fsck")
        n.d.check("rm", "two")
        os.rename(os.path.join(n.bin, "away"), os.path.join(n.bin, "first"))
        n.d.check("run", "--rm", "--cni", "busybox", "one", "true")
        n.d.check("rm", "-f", "runs")


def test_a_backup_knows_what_is_to_be_taken_back():
    with Network() as n:
        n.put([n.bridge_plugin()])
        for name in ("one", "two"):
            n.d.check("run", "-d", "--cni", "busybox", name, "sleep", "1000")
        kept = {name.split("@")[0]: name for name in n.kept()}
        to = os.path.join(n.d.work, "backup")
        n.d.check("backup", to)
        with open(os.path.join(to, "manifest.json")) as f:
            files = {os.path.basename(file["name"]) for file in json.load(f)["files"]}
        assert files == set(kept.values()), files
        given = n.addresses()
        n.d.check("rm", "-f", "one", "two")
        assert len(given) == 2 and not n.addresses()
        # As if the disk with the root had been lost, and that of the plugins not.
        for address in given:
            with open(os.path.join(n.data, n.name, address), "w") as f:
                f.write("default-" + ("one" if address == given[0] else "two") + "\r\neth0")
        n.d.down()
        # A later task of that container is not the one of the backup.
        folder = os.path.join("runtime", "networks")
        later = os.path.join(n.d.root, folder, "default-two@" + "0123456789abcdef" * 2)
        shutil.copy(os.path.join(to, "files", folder, kept["default-two"]), later)
        said = n.d.check("restore", "--force", to)
        assert kept["default-one"] + ": restored" in said and kept["default-two"] + ": left as it is" in said, said
        n.d.check("up", "--detach", *n.options)
        n.d.is_up = True
        wait_for(lambda: not n.kept() and not n.addresses(), "all is taken back", 60)
        n.d.check("rm", "one", "two")


if __name__ == "__main__":
    if not PLUGINS:
        print("skipped: there are no CNI plugins (containernetworking-plugins)")
        sys.exit(77)
    main(globals())
