"""davit store rebuild: stores that cannot be read are made again from what can be, and from what the world says; until that is accepted nothing is removed."""

import json
import os
import signal
import subprocess

from davit import BIN, Davit, check_log, main, wait_for

BUSYBOX = "docker.io/library/busybox:latest"


def overwrite(path):
    """A store of which nothing can be read but that it is one."""
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(2 * 4096)
        f.write(b"\xa5" * (size - 2 * 4096))


def overwrite_some(path):
    """Every second page of what was written last: of some tables all can be read, of others not."""
    pages = os.path.getsize(path) // 4096
    with open(path, "r+b") as f:
        for page in range(3, pages, 2):
            f.seek(page * 4096)
            f.write(b"\xa5" * 4096)


def overwrite_last(path):
    """The page that was made last of those that tell of containers."""
    with open(path, "rb") as f:
        data = f.read()
    at = data.rfind(b"/containers/") // 4096 * 4096
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(b"\xa5" * 4096)


def cut(path):
    os.truncate(path, 2 * 4096)


SLOW = bool(os.environ.get("SLOW"))
# In a run of all tests, the ones that find the most.
MORE = (overwrite, cut, os.unlink, overwrite_some) if SLOW else ()


def flip(path, text):
    """All that holds @text holds something else: of a row, that its checksum is wrong."""
    with open(path, "rb") as f:
        data = f.read()
    assert text in data
    with open(path, "wb") as f:
        f.write(data.replace(text, bytes([text[0] ^ 1]) + text[1:]))


def damage(d, program, store, how, *more):
    """The service dies, and what it wrote is damaged when it comes back."""
    up = d.supervisor()
    os.kill(up, signal.SIGSTOP)
    try:
        pid = d.pid(program)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not d.is_alive(pid), "it has ended")
        how(os.path.join(d.root, store, "data.mdb"), *more)
    finally:
        os.kill(up, signal.SIGCONT)


def blobs(d):
    return sorted(os.listdir(d.root + "/image/content/blobs/sha256"))


def aside(d, store):
    return sorted(name for name in os.listdir(os.path.join(d.root, store)) if name.startswith("broken-"))


def faults(d):
    result = d("fsck", "--format", "json")
    return [f["kind"] for f in json.loads(result.stdout) if f["problem"] == "fault"]


def rebuild_with_deaths(d, program, store):
    """Killed at any moment and run again; in between there is either the damaged file or the new one."""
    words = [os.path.join(BIN, program), "--root", d.root, "--state", d.state, "--rebuild-store"]
    for ms in (2, 5, 8, 12, 20, 35):
        child = subprocess.Popen(words, env=d.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(ms / 1000)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return d.check("store", "rebuild", store)


def listed(d):
    return [(i["name"], i["target"]["digest"]) for i in d.json("images", "ls")]


def test_an_image_store_is_rebuilt_from_blobs_and_the_log_however_often_it_is_cut():
    with Davit() as d:
        d.import_busybox()
        d.check("images", "tag", BUSYBOX, "example.org/gone:1")
        d.check("images", "rm", "example.org/gone:1")
        d.check("run", "-d", "busybox", "web", "sh", "-c", "while test ! -e /end; do sleep 0.05; done; exit 7")
        before = blobs(d)
        for how in (overwrite_some,) + MORE:
            d.check("images", "tag", "--force", BUSYBOX, "example.org/other:1")
            names = listed(d)
            d.events()
            kept = aside(d, "image")
            damage(d, "davit-image", "image", how)
            said = rebuild_with_deaths(d, "davit-image", "image")
            for name in set(aside(d, "image")) - set(kept):
                if "data.mdb" in os.listdir(os.path.join(d.root, "image", name)):  # one may have been killed before
                    with open(os.path.join(d.root, "image", name, "reason")) as f:
                        assert f.read()
            assert len(aside(d, "image")) > len(kept), said
            assert "nothing to rebuild" in d.check("store", "rebuild", "image")
            assert listed(d) == names, said
            # Nothing goes before somebody has looked at it.
            refused = d("prune", "--force")
            assert refused.returncode == 1 and b"store accept image" in refused.stderr, refused
            listed_only = d.check("prune")
            assert "would remove" in listed_only and d.check("prune", "--dry-run") == listed_only
            d.check("images", "rm", "--sync", "example.org/other:1")
            d.kill("davit-image")
            d.json("images", "ls")
            assert blobs(d) == before, said
            assert "store" in faults(d), "fsck names it"
            assert "accepted: it was rebuilt at" in d.check("store", "accept", "image")
            d.check("prune", "--force")
            assert blobs(d) == before, said
        assert "nothing to accept" in d.check("store", "accept", "image")
        assert d.check("run", "--rm", "busybox", "again", "echo", "hello") == "hello\n"
        d("exec", "web", "touch", "/end")  # init may end, and it with it, before it has said so
        assert d("wait", "web").stdout == b"7\n"
        d.check("rm", "web")
        wait_for(lambda: d("fsck").returncode == 0, "fsck finds nothing")
        check_log(d.events())


def test_snapshots_are_rebuilt_from_what_is_noted_at_their_directories():
    with Davit() as d:
        d.import_busybox()
        script = "echo written >>/file; cat /file"
        assert d.check("run", "busybox", "old", "sh", "-c", script) == "written\n"
        d.check("--namespace", "other", "images", "import", os.path.join(d.work, "busybox.tar"))
        d.check("--namespace", "other", "run", "busybox", "old", "sh", "-c", script)
        d.check("snapshots", "prepare", "own")
        d.check("snapshots", "label", "own", "a=b")
        d.check("snapshots", "prepare", "before")
        d.check("snapshots", "commit", "after", "before")
        d.check("snapshots", "prepare", "gone")
        d.check("snapshots", "rm", "gone")
        d.check("run", "--rm", "busybox", "gone", "true")
        with_marks = [d.json("snapshots", "ls"), d.json("--namespace", "other", "snapshots", "ls")]
        numbers = {s["key"]: s["number"] for s in with_marks[0]}
        wrong = os.path.join(d.root, "image/snapshots/%d" % numbers["own"])
        damage(d, "davit-image", "image", overwrite)
        os.mkdir(d.root + "/image/snapshots/77")
        os.setxattr(d.root + "/image/snapshots/77", "trusted.davit.snapshot",
                    os.getxattr(wrong, "trusted.davit.snapshot"))
        os.mkdir(d.root + "/image/snapshots/78")
        os.setxattr(d.root + "/image/snapshots/78", "trusted.davit.snapshot", b"nothing")
        said = d.check("store", "rebuild", "image")
        assert "rebuilt: 4 snapshots" in said and "rebuilt: 1 layers" in said and "records of 2 directories" in said, said
        after = [d.json("snapshots", "ls"), d.json("--namespace", "other", "snapshots", "ls")]
        for old, new in zip(sum(with_marks, []), sum(after, [])):
            assert {**new, "labels": None, "unsynced_boot": None} == {**old, "labels": None, "unsynced_boot": None}, (old, new)
        (own,) = [s for s in after[0] if s["key"] == "own"]
        assert own["labels"]["a"] == "b", own
        d.check("store", "accept", "image")
        d.check("prune", "--force")
        for words in ([], ["--namespace", "other"]):
            assert d.check(*words, "start", "old") == "written\nwritten\n"
            d.check(*words, "rm", "old")
        d.check("snapshots", "rm", "own")
        d.check("snapshots", "rm", "after")
        wait_for(lambda: d("fsck").returncode == 0, "fsck finds nothing")


def overwrite_naming(path, text, but):
    """Pages that have @text; one that has @but too may have it of an earlier use."""
    with open(path, "r+b") as f:
        data = f.read()
        assert text in data[2 * 4096:]
        for at in range(2 * 4096, len(data), 4096):
            if text in data[at:at + 4096] and but not in data[at:at + 4096]:
                f.seek(at)
                f.write(b"\xa5" * 4096)


def test_a_lease_of_which_only_what_it_holds_is_left_goes_on_holding_it():
    with Davit() as d:
        d.import_busybox()
        d.check("leases", "create", "--id", "mine", "label=stands-in-the-lease-only")
        d.check("snapshots", "prepare", "held-by-mine")
        d.call("lease.add_resource", "id=mine", 'resource:={"type": "snapshots/overlayfs", "id": "held-by-mine"}')
        d.down()
        overwrite_naming(os.path.join(d.root, "image", "data.mdb"), b"stands-in-the-lease-only", b"held-by-mine")
        said = d.check("store", "rebuild", "image")
        d.up()
        assert "rebuilt: lease mine in namespace default" in said, said
        assert "mine" in [lease["id"] for lease in d.json("leases", "ls")]
        held = d.call("lease.resources", "id=mine")["resources"]
        assert [r["id"] for r in held] == ["held-by-mine"], held
        d.check("store", "accept", "image")
        d.check("prune", "--force")
        assert "held-by-mine" in [s["key"] for s in d.json("snapshots", "ls")]
        d.check("leases", "rm", "mine")
        d.check("snapshots", "rm", "held-by-mine")
        wait_for(lambda: d("fsck").returncode == 0, "fsck finds nothing")


def test_what_has_no_record_is_set_aside_when_a_rebuilt_store_is_accepted():
    blob = "a" * 64
    with Davit() as d:
        d.import_busybox()
        damage(d, "davit-image", "image", os.unlink)
        d.check("store", "rebuild", "image")
        with open(d.root + "/image/content/blobs/sha256/" + blob, "w") as f:
            f.write("nobody's")
        os.makedirs(d.root + "/image/snapshots/99/fs")
        d.kill("davit-image")
        d.json("images", "ls")
        assert blob in blobs(d) and os.path.exists(d.root + "/image/snapshots/99/fs"), "they stay until then"
        d.check("store", "accept", "image")
        wait_for(lambda: "nothing to accept" in d.check("store", "accept", "image"), "they are set aside")
        (name,) = [name for name in os.listdir(d.root + "/image") if name.startswith("unrecorded-")]
        assert os.listdir(d.root + "/image/%s/blobs" % name) == [blob]
        assert "99" in os.listdir(d.root + "/image/%s/snapshots" % name)
        assert blob not in blobs(d) and d.check("run", "--rm", "busybox", "a", "echo", "hello") == "hello\n"


def test_a_container_store_is_rebuilt_from_bundles_and_the_log():
    wait = "while test ! -e /end; do sleep 0.05; done; exit %d"
    with Davit() as d:
        d.import_busybox()
        d.check("namespaces", "create", "other", "team=blue")
        d.check("run", "-d", "--label", "team=blue", "busybox", "web", "sh", "-c", wait % 7)
        d.check("run", "-d", "busybox", "again", "sh", "-c", wait % 5)
        d.check("containers", "create", "busybox", "idle", "true")
        d.check("containers", "create", "busybox", "gone", "true")
        d.check("containers", "rm", "gone")
        brief = d.start("run", "--rm", "busybox", "brief", "sh", "-c", wait % 3)
        wait_for(lambda: len([t for t in d.json("tasks", "ls") if t["status"] == "RUNNING"]) == 3, "all run")
        before = blobs(d)
        snapshots = sorted(s["key"] for s in d.json("snapshots", "ls"))
        for how in (os.unlink,) + MORE:
            d.events()
            wait_for(lambda: not d.call("container.operations").get("operations"), "nothing is under way")
            damage(d, "davit-container", "container", how)
            said = d.check("store", "rebuild", "container")
            assert "damaged: " in said and "does not have all its events" not in said, said
            found = {c["id"]: c for c in d.json("containers", "ls")}
            assert set(found) == {"web", "again", "idle", "brief"}, said
            assert found["web"]["labels"]["team"] == "blue" and found["web"]["image"] == BUSYBOX, found
            assert "other" in [n["name"] for n in d.json("namespaces", "ls")]
            # Nothing goes before somebody has looked at it.
            refused = d("prune", "--force")
            assert refused.returncode == 1 and b"store accept container" in refused.stderr, refused
            d.kill("davit-image")
            assert blobs(d) == before and sorted(s["key"] for s in d.json("snapshots", "ls")) == snapshots, said
            d.check("store", "accept", "container")
            d.check("prune", "--force")
            assert sorted(s["key"] for s in d.json("snapshots", "ls")) == snapshots, said
        # What runs is seen, and its end is true; what had its spec in a bundle can be started again.
        for name in ("web", "brief"):
            d("exec", name, "touch", "/end")  # init may end, and it with it, before it has said so
        out, err = brief.communicate(timeout=60)
        assert brief.returncode == 3, (brief.returncode, out, err)
        assert d("wait", "web").stdout == b"7\n"
        wait_for(lambda: "brief" not in [c["id"] for c in d.json("containers", "ls")], "--rm is done")
        d.check("rm", "web")
        d.check("kill", "--signal", "KILL", "again")
        assert d("wait", "again").stdout == b"137\n"
        d.check("tasks", "rm", "again")
        d.check("start", "-d", "again")
        d("exec", "again", "touch", "/end")
        assert d("wait", "again").stdout == b"5\n"
        d.check("rm", "again")
        refused = d("start", "-d", "idle")
        assert refused.returncode != 0 and refused.stderr, "it has no spec"
        d.check("containers", "rm", "idle")
        d.check("namespaces", "rm", "other")
        check_log(d.events())


def test_an_event_log_is_rebuilt_with_rising_numbers_and_a_gap_that_readers_are_told():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sh", "-c", "while test ! -e /end; do sleep 0.05; done; exit 7")
        for i in range(40 if SLOW else 3):
            d.call("container.create", 'container:={"id": "c%d", "runtime": "runc", "spec": "{}"}' % i)
        for i, how in enumerate((overwrite_last, os.unlink) + MORE if SLOW else (os.unlink,)):
            last = d.events()[-1]["seq"]
            d.check("events", "--cursor", "mine", "--from", "1", "--no-follow")
            d.call("container.create", 'container:={"id": "more%d", "runtime": "runc", "spec": "{}"}' % i)
            last = d.events()[-1]["seq"]
            damage(d, "davit-broker", "events", how)
            said = d.check("store", "rebuild", "events")
            assert "damaged: " in said, said
            wait_for(lambda: all(d("bus", "call", name + ".stats").returncode == 0 for name in ("container", "image", "runtime", "task")),
                     "all are registered with the new log's broker")
            d.call("container.create", 'container:={"id": "new%d", "runtime": "runc", "spec": "{}"}' % i)
            events = d.events()
            new = [e for e in events if e["topic"] == "/containers/create" and e["event"]["id"] == "new%d" % i]
            assert len(new) == 1 and new[0]["seq"] > last, (said, last, new)
            check_log(events)
            read = d("events", "--cursor", "mine", "--from", "1", "--no-follow", "--format", "json")
            told = [json.loads(line) for line in read.stdout.decode().splitlines()]
            assert read.returncode == 0 and "new%d" % i in [e["event"].get("id") for e in told], (said, read)
            # What was not read and is gone is said: as damaged events by their numbers, or as one gap.
            got = [e["event"].get("id") for e in told if e["topic"] != "/bus/damaged"]
            assert "more%d" % i in got or b"no longer kept" in read.stderr or "/bus/damaged" in [e["topic"] for e in told], \
                (said, read)
            assert "nothing to rebuild" in d.check("store", "rebuild", "events")
        d("exec", "web", "touch", "/end")  # init may end, and it with it, before it has said so
        assert d("wait", "web").stdout == b"7\n"
        wait_for(lambda: [e["event"]["exit_status"] for e in d.events() if e["topic"] == "/tasks/exit"
                          and e["event"]["id"] == "web"] == [7], "its end is in the log")
        d.check("rm", "web")
        d.check("containers", "rm", *[c["id"] for c in d.json("containers", "ls")])
        check_log(d.events())
        # Who makes another store again from it is told that it may have told of more.
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        damage(d, "davit-broker", "events", os.unlink)
        d.check("store", "rebuild", "events")
        damage(d, "davit-container", "container", os.unlink)
        said = d.check("store", "rebuild", "container")
        assert "does not have all its events" in said and "image, labels and extensions are lost" in said, said
        d.check("store", "accept", "container")
        d.check("rm", "-f", "web")
        # The snapshot, of which it did not know, is nobody's to remove but a person's.
        d.check("snapshots", "rm", *[s["key"] for s in d.json("snapshots", "ls") if s["key"].startswith("web-")])


def test_a_log_that_has_lost_its_own_row_alone_keeps_its_events():
    with Davit() as d:
        d.import_busybox()
        d.check("run", "--rm", "busybox", "a", "true")
        before = d.events()
        log = d.call("event.read", "from=1")["log_id"]
        damage(d, "davit-broker", "events", flip, bytes.fromhex(log))
        said = d.check("store", "rebuild", "events")
        assert "damaged: " in said, said
        d.check("run", "--rm", "busybox", "b", "true")
        after = d.events()
        assert [e["seq"] for e in after][:len(before)] == [e["seq"] for e in before], (said, after)
        assert after[len(before)]["seq"] == before[-1]["seq"] + 1, (before[-1], after[len(before)])
        check_log(after)


main(globals())
