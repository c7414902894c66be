#!/usr/bin/env python3
"""runtime.process: what exec gets of a running container's spec and of its files."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, main, wait_for  # noqa: E402


def start(d, name, *options, command=("sleep", "1000")):
    d.check("run", "-d", *options, "busybox", name, *command)
    (task,) = [t for t in d.json("tasks", "ls") if t["container_id"] == name]
    return task


def ask(d, task, **fields):
    request = {"task_id": task["task_id"], "pid": task["pid"], **fields}
    return d("bus", "call", "runtime.process", *["%s:=%s" % (k, json.dumps(v)) for k, v in request.items()])


def process(d, task, **fields):
    result = ask(d, task, **fields)
    assert result.returncode == 0, result
    return json.loads(json.loads(result.stdout)["process"])


def refusal(d, task, **fields):
    result = ask(d, task, **fields)
    assert result.returncode != 0, result
    return result.stderr.decode()


def test_the_containers_process_is_changed_as_asked():
    with Davit() as d:
        d.import_busybox()
        task = start(d, "p", "--env", "A=1", "--cwd", "/tmp", "--user", "daemon")
        made = process(d, task, args=["ls"])
        assert (made["args"], made["cwd"], made["user"]["uid"], made["terminal"]) == (["ls"], "/tmp", 1, False), made
        assert "A=1" in made["env"] and "inheritable" not in made["capabilities"], made
        made = process(d, task, args=["ls"], user="root:users", cwd="/", terminal=True, env=["A=2"])
        assert (made["user"]["uid"], made["user"]["gid"], made["cwd"]) == (0, 100, "/"), made
        assert "A=2" in made["env"] and "TERM=xterm" in made["env"], made
        assert "no user 'nobody-here'" in refusal(d, task, args=["ls"], user="nobody-here")
        assert "/proc" in refusal(d, task, args=["ls"], cwd="/proc/self/fd/7")
        assert "no bundle" in refusal(d, dict(task, task_id="0" * 32), args=["ls"])
        assert "has ended" in refusal(d, task, args=["ls"], user="root", pid_start_time=1)
        assert "has ended" in refusal(d, dict(task, pid=4194304), args=["ls"], user="root")
        d.check("rm", "-f", "p")


def test_users_are_those_of_the_running_container_and_nothing_outside_it_is_read():
    with Davit() as d:
        d.import_busybox()
        with open(d.work + "/passwd", "w") as f:
            f.write("outside:x:4242:4242::/:\n")
        script = "echo inner:x:77:78::/: >>/etc/passwd; echo more:x:99:inner >>/etc/group; " \
                 "mkdir -p %s; ln -s %s/passwd /etc/link; exec sleep 1000" % (d.work, d.work)
        task = start(d, "u", command=("sh", "-c", script))
        root = "/proc/%d/root" % task["pid"]
        wait_for(lambda: os.path.islink(root + "/etc/link"), "the container has written its files")
        assert process(d, task, args=["id"], user="inner")["user"] == \
            {"uid": 77, "gid": 78, "additionalGids": [78, 99]}
        os.rename(root + "/etc/link", root + "/etc/passwd")
        assert "no user 'outside'" in refusal(d, task, args=["id"], user="outside")
        os.remove(root + "/etc/passwd")
        os.mkfifo(root + "/etc/passwd")
        assert "not a regular file" in refusal(d, task, args=["id"], user="inner")
        d.check("rm", "-f", "u")


if __name__ == "__main__":
    main(globals())
