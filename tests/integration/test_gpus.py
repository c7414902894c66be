#!/usr/bin/env python3
"""GPUs: the hook that puts them in, below the boundary of the OCI runtimes with a stand-in for nvidia-container-cli; davit oci-hook."""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import BIN, Davit, main  # noqa: E402

RUNTIMES = [name for name in ("crun", "runc") if shutil.which(name)]

# It writes its words down, leaves a file in the root, and fails when it is told to.
TOOL = """#!/bin/sh
printf '%s\\n' "$@" >"$0.words"
env >"$0.env"
for root; do :; done
ls "$root/bin" >"$0.root"
touch "$root/gpu"
if [ -e "$0.fail" ]; then
	echo "nvidia-container-cli: initialization error: no driver" >&2
	exit 7
fi
"""


class Tool:
    """A davit in whose PATH such a program is."""

    def __init__(self):
        self.d = Davit()
        self.path = os.path.join(self.d.work, "bin", "nvidia-container-cli")
        os.mkdir(os.path.dirname(self.path))
        with open(self.path, "w") as f:
            f.write(TOOL)
        os.chmod(self.path, 0o755)
        self.d.env["PATH"] = os.path.dirname(self.path) + ":" + os.environ["PATH"]
        self.d.env["NVC_DEBUG_FILE"] = "/dev/null"
        self.d.env["OTHER"] = "secret"

    def __enter__(self):
        self.d.__enter__()
        try:
            self.d.import_busybox()
        except BaseException:
            self.d.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *what):
        self.d.__exit__(*what)

    def lines(self, what):
        with open("%s.%s" % (self.path, what)) as f:
            return f.read().splitlines()


def test_gpus_are_put_in_by_the_program_for_it():
    with Tool() as tool:
        d = tool.d
        for runtime in RUNTIMES:
            d.check("run", "-d", "--runtime", runtime, "--gpus", "0,2", "--gpus", "1", "busybox", "web", "sleep", "1000")
            (task,) = d.json("tasks", "ls")
            words = tool.lines("words")
            assert words[:-2] == ["--load-kmods", "configure", "--device=0,2,1", "--compute", "--compat32", "--graphics",
                                  "--utility", "--video", "--display"], words
            assert words[-2] == "--pid=%d" % task["pid"], (words, task)
            assert words[-1].startswith(d.state) and words[-1].endswith("/rootfs"), words
            assert "busybox" in tool.lines("root")
            assert d.check("exec", "web", "ls", "/gpu") == "/gpu\n"
            env = tool.lines("env")
            assert "NVC_DEBUG_FILE=/dev/null" in env and "PATH=" + d.env["PATH"] in env, env
            assert not [line for line in env if line.startswith(("OTHER=", "DAVIT_"))], env
            d.check("rm", "-f", "web")


def test_a_hook_that_fails_fails_the_start_in_its_own_words():
    with Tool() as tool:
        d = tool.d
        open(tool.path + ".fail", "w").close()
        for runtime in RUNTIMES:
            result = d("run", "--rm", "--runtime", runtime, "--gpus", "0", "busybox", "web", "true")
            assert result.returncode == 125 and b"initialization error: no driver" in result.stderr, result
            assert d.json("containers", "ls") == [] and d.json("tasks", "ls") == []
            # Any hook's words come to who asked.
            hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; echo oh no >&2; exit 3"]}]}
            d.check("containers", "create", "--runtime", runtime, "busybox", "own", "true")
            spec = json.loads(d.check("containers", "info", "--spec", "own"))
            d.check("containers", "rm", "own")
            with open(d.work + "/spec.json", "w") as f:
                json.dump(dict(spec, hooks=hooks), f)
            result = d("run", "--rm", "--runtime", runtime, "-c", d.work + "/spec.json", "busybox", "own")
            assert result.returncode == 125 and b"oh no" in result.stderr, result
            assert d.json("containers", "ls") == []


def test_what_cannot_be_put_in_is_refused_by_name():
    with Tool() as tool:
        for word, part in (("x", b"'x'"), ("0,", b"''"), ("-1", b"'-1'"), ("65536", b"65535"), ("", b"''")):
            result = tool.d("run", "--rm", "--gpus=" + word, "busybox", "bad", "true")
            assert result.returncode == 125 and b"gpus: " in result.stderr and part in result.stderr, result
        os.unlink(tool.path)
        result = tool.d("run", "--rm", "--gpus", "0", "busybox", "bad", "true")
        if not shutil.which("nvidia-container-cli"):
            assert result.returncode == 125 and b"--gpus: nvidia-container-cli" in result.stderr, result
            words = ["id=bad", "image=busybox", "options.args=true", "options.gpus=0"]
            result = tool.d("bus", "call", "container.run", *words)
            assert result.returncode and b"gpus: nvidia-container-cli" in result.stderr, result
            for path in (tool.path, "bin/sh", "/"):
                result = tool.d("bus", "call", "container.run", *words, "options.gpu_tool=" + path)
                assert result.returncode and b"gpus: '%s'" % path.encode() in result.stderr, result
        assert tool.d.json("containers", "ls") == [] and not os.path.exists(tool.path + ".words")


# ---- oci-hook ----

STATE = {"ociVersion": "1.0.2", "id": "one", "pid": 4711, "status": "created", "annotations": {"a.b": "c d", "q\"": "quoted"}}
WORDS = ["plain", "{{id}} is {{ status }}", "--pid={{pid}}", "{{bundle}}|{{rootfs}}", "[{{annotation \"a.b\"}}]", "}}",
         "{{annotation `a.b`}}", "{{annotation \"q\\\"\"}}", "{{annotation \"none\"}}", "{ {id} }"]


def hook(command, bundle, words, state=None, env=None):
    return subprocess.run(command + ["oci-hook", "--", *words], input=json.dumps(dict(state or STATE, bundle=bundle)).encode(),
                          env=env, capture_output=True, timeout=60)


def test_words_and_environment_of_a_hook_are_filled_in():
    d = Davit()
    try:
        for root in ("rootfs", "/some/where"):
            with open(d.work + "/config.json", "w") as f:
                json.dump({"ociVersion": "1.0.2", "root": {"path": root}}, f)
            script = "for w; do echo \"$w\"; done; echo \"$OF\""
            words = ["/bin/sh", "-c", script, "sh"] + WORDS
            env = {"PATH": os.environ["PATH"], "OF": "of {{id}}"}
            result = hook([os.path.join(BIN, "davit")], d.work, words, env=env)
            rootfs = root if root.startswith("/") else d.work + "/" + root
            assert result.returncode == 0, result
            assert result.stdout.decode().splitlines() == [
                "plain", "one is created", "--pid=4711", d.work + "|" + rootfs, "[c d]", "}}", "c d", "quoted", "", "{ {id} }",
                "of one"], result
            if shutil.which("containerd"):
                assert hook(["containerd"], d.work, words, env=env).stdout == result.stdout
        assert hook([os.path.join(BIN, "davit")], d.work, ["/bin/sh", "-c", "exit 9"]).returncode == 9
        for word, part in (("{{pid", b"'}}'"), ("{{uid}}", b"{{uid}}"), ("{{id id}}", b"{{id id}}"), ("{{annotation}}", b"annotation"),
                           ("{{annotation \"x}}", b"'}}'")):
            result = hook([os.path.join(BIN, "davit")], d.work, ["/bin/true", word])
            assert result.returncode == 1 and b"oci-hook" in result.stderr and part in result.stderr, result
        result = hook([os.path.join(BIN, "davit")], d.work, ["/no/such"])
        assert result.returncode == 1 and b"/no/such" in result.stderr, result
        os.unlink(d.work + "/config.json")
        result = hook([os.path.join(BIN, "davit")], d.work, ["/bin/true"])
        assert result.returncode == 1 and b"config.json" in result.stderr, result
        result = subprocess.run([os.path.join(BIN, "davit"), "oci-hook", "/bin/true"], input=b"{", capture_output=True, timeout=60)
        assert result.returncode == 1 and b"stdin" in result.stderr, result
    finally:
        d.end()


main(globals())
