"""davit backup copies all stores while davit works; davit restore puts them back, and refuses what would lose something."""

import json
import os
import shutil
import threading

from davit import Davit, check_log, main, wait_for

DURABLE = {"container", "image", "task", "events"}


def manifest(directory):
    with open(os.path.join(directory, "manifest.json")) as f:
        return json.load(f)


def refused(d, *words):
    result = d(*words)
    assert result.returncode == 1 and result.stderr, result
    return result.stderr.decode()


def create(d, name):
    record = {"id": name, "runtime": "runc", "spec": "{}"}
    d.call("container.create", "container:=" + json.dumps(record))


def created(events):
    return [e["event"]["id"] for e in events if e["topic"] == "/containers/create"]


def test_a_backup_under_load_is_restored_whole():
    with Davit() as d:
        d.import_busybox()
        create(d, "before")
        to, errors, is_over = os.path.join(d.work, "backup"), [], threading.Event()

        def load():
            try:
                for i in range(1000):
                    if is_over.is_set():
                        break
                    create(d, "during%d" % i)
            except AssertionError as e:
                errors.append(e)

        thread = threading.Thread(target=load)
        thread.start()
        d.check("backup", to)
        is_over.set()
        thread.join()
        assert not errors, errors
        create(d, "after")
        written = manifest(to)
        assert {s["name"] for s in written["stores"] if s["kind"] == "durable"} == DURABLE, written
        assert os.stat(to).st_mode & 0o777 == 0o700
        d.down()
        assert "written after the backup" in refused(d, "restore", to)
        d.check("restore", "--force", to)
        d.up()
        names = {c["id"] for c in d.json("containers", "ls")}
        assert "before" in names and "after" not in names, names
        assert [i["name"] for i in d.json("images", "ls")] == ["docker.io/library/busybox:latest"]
        assert d("fsck").returncode == 0, d("fsck")
        # New events are not taken for repeats of those that were given the same numbers after the backup.
        create(d, "later")
        wait_for(lambda: created(d.events())[-1:] == ["later"], "it is told")
        told = d.events()
        check_log(told)
        assert len(set(created(told))) == len(created(told)), "told twice: %s" % created(told)
        assert names <= set(created(told)), "an event is lost"
        assert d.check("run", "--rm", "busybox", "r1", "echo", "hello") == "hello\n"
        d.check("containers", "rm", *[c["id"] for c in d.json("containers", "ls")])


def test_what_would_lose_something_is_refused():
    with Davit() as d:
        create(d, "one")
        to = os.path.join(d.work, "backup")
        d.check("backup", to)
        assert "not empty" in refused(d, "backup", to)
        os.mkdir(os.path.join(d.work, "open"))
        os.chmod(os.path.join(d.work, "open"), 0o777)
        assert "others may write" in refused(d, "backup", os.path.join(d.work, "open"))
        assert "davit is up" in refused(d, "restore", "--force", to)
        assert "no backup" in refused(d, "restore", d.work)
        d.down()
        path = os.path.join(to, "durable/container/data.mdb")
        shutil.copy(path, path + "-whole")
        with open(path, "r+b") as f:
            f.seek(5000)
            f.write(b"!")
        before = os.stat(os.path.join(d.root, "container/data.mdb")).st_ino
        assert "is damaged" in refused(d, "restore", "--force", to)
        os.replace(path + "-whole", path)
        assert before == os.stat(os.path.join(d.root, "container/data.mdb")).st_ino, "a refusal changed something"
        shutil.rmtree(os.path.join(d.root, "container"))
        d.check("restore", "--force", to)
        d.up()
        assert [c["id"] for c in d.json("containers", "ls")] == ["one"]
        d.check("containers", "rm", "one")


if __name__ == "__main__":
    main(globals())
