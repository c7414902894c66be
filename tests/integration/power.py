"""What a power cut may leave: the file operations of processes, recorded, and replayed up to a point of them.

strace records (so it sees children, threads and what is statically linked, and goes together with sanitizers, which a
preloaded library does not). The model of the disk is weaker than any real file system:

- what was written to a file and not synced since is there, or not, or there in some of its blocks of 512 bytes;
- what was done to names (create, rename, link, unlink, mkdir) is there in order, up to some point that lies no earlier
  than the last sync of any directory: as a journal has it;
- syncing a file says nothing of its name;
- a write to a descriptor that was opened with O_DSYNC is there when it has returned.
"""

import os
import re
import subprocess

SECTOR = 512
TRACED = ("open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,lseek,rename,renameat,renameat2,link,"
          "linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,fsync,fdatasync,syncfs,sync,close,dup,dup2,"
          "dup3,fcntl,copy_file_range,sendfile,fallocate")
REFUSED = ("copy_file_range", "sendfile", "fallocate")  # with a file of the root: nothing here does that yet
LINE = re.compile(r"^(\d+) +([\d.]+) (.*)$", re.S)
STRING = r'"((?:\\x[0-9a-f]{2})*)"'
FD = r"(?:(AT_FDCWD)|(-?\d+))(?:<((?:\\x[0-9a-f]{2})*)>)?(\(deleted\))?"


def text(hexed):
    return bytes.fromhex(hexed.replace("\\x", ""))


class Recorder:
    """Attached to processes until it is stopped; what they have done by then is in .lines()."""

    def __init__(self, pids, path):
        self.path = path
        self.flags = {}
        for pid in pids:
            for fd in os.listdir("/proc/%d/fd" % pid):
                with open("/proc/%d/fdinfo/%s" % (pid, fd)) as f:
                    self.flags[pid, int(fd)] = int(re.search(r"flags:\s*(\d+)", f.read()).group(1), 8)
        words = ["strace", "-f", "-y", "-ttt", "-xx", "-s", "16000000", "-e", "signal=SIGSTOP", "-e", "trace=" + TRACED,
                 "-o", path]
        for pid in pids:
            words += ["-p", str(pid)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        for _ in pids:
            line = self.process.stderr.readline()
            assert "attached" in line, "strace: " + line

    def size(self):
        return os.path.getsize(self.path)

    def standing(self, since):
        """Threads that a SIGSTOP has stopped since the record had so many bytes: what they had called is done, and recorded."""
        with open(self.path, errors="replace") as f:
            f.seek(since)
            return {int(tid) for tid in re.findall(r"^(\d+) +[\d.]+ --- stopped by SIGSTOP ---$", f.read(), re.M)}

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=60)

    def lines(self):
        """(pid, time, name, arguments, result, is_finished_here); a call that others' lines cut stands where it began,
        and its sync again where it ended."""
        begun = {}
        with open(self.path, errors="replace") as f:
            for raw in f:
                match = LINE.match(raw.rstrip("\n"))
                if not match:
                    continue
                pid, when, rest = int(match.group(1)), float(match.group(2)), match.group(3)
                resumed = re.match(r"<\.\.\. \w+ resumed>(.*)$", rest, re.S)
                if rest.endswith("<unfinished ...>"):
                    begun[pid] = (when, rest[:-len("<unfinished ...>")].rstrip())
                elif resumed and pid in begun:
                    began, head = begun.pop(pid)
                    yield (pid, began, when) + self.split(head + resumed.group(1))
                elif re.match(r"\w+\(", rest):
                    yield (pid, when, when) + self.split(rest)

    @staticmethod
    def split(call):
        name, rest = call.split("(", 1)
        arguments, _, result = rest.rpartition(" = ")
        return name, arguments.rstrip()[:-1], result


class Disk:
    """Names and files beneath a directory, as they are when everything is done at once."""

    def __init__(self, root):
        self.root = os.path.realpath(root).encode()
        self.names, self.files, self.modes = {}, {}, {}
        inodes = {}
        for folder, dirs, files in os.walk(self.root):
            for name in dirs + files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                number = inodes.setdefault(status.st_ino, len(inodes))
                self.names[self.relative(path)] = number
                self.modes[number] = status.st_mode & 0o7777
                if os.path.islink(path):
                    self.files[number] = os.readlink(path)
                elif os.path.isdir(path):
                    self.files[number] = None
                elif os.path.isfile(path):
                    with open(path, "rb") as f:
                        self.files[number] = bytearray(f.read())
        self.names[b""] = -1
        self.files[-1] = None

    def relative(self, path):
        if path == self.root:
            return b""
        return path[len(self.root) + 1:] if path.startswith(self.root + b"/") else None


class Tape:
    """What was done to a Disk since it was read: .steps, each (time, kind, …), with files by number."""

    def __init__(self, recorder, disk, start):
        self.disk, self.steps = disk, []
        self.names, self.next = dict(disk.names), len(disk.files) + 1
        self.sizes = {k: len(v) for k, v in disk.files.items() if isinstance(v, (bytearray, bytes))}
        self.directories = {k for k, v in disk.files.items() if v is None}
        self.offsets, self.synced = {}, {k: bool(v & os.O_DSYNC) for k, v in recorder.flags.items()}
        self.attached, self.processes = {pid for pid, _ in recorder.flags}, {}
        for pid, began, ended, name, arguments, result in recorder.lines():
            if not result.startswith("-1") and not result.startswith("?"):
                self.call(self.process(pid), began, ended, name, arguments, result)
        self.steps = sorted((s for s in self.steps if s[0] >= start), key=lambda step: step[0])

    # ---- parsing ----
    def at(self, directory, name):
        """A path below the root from a directory's path and a name, or None."""
        path = name if name.startswith(b"/") else os.path.join(directory or b"/", name)
        return self.disk.relative(os.path.normpath(path))

    def paths(self, arguments):
        """Paths of a call that takes (directory descriptor, name) pairs or names."""
        found = []
        for match in re.finditer(r"(?:" + FD + r", )?" + STRING, arguments):
            found.append(self.at(text(match.group(3) or ""), text(match.group(5))))
        return found

    def file(self, arguments):
        """Descriptor and number of the file of a call on a descriptor; the number is None when it is none of ours."""
        match = re.match(FD, arguments)
        if not match or match.group(3) is None or match.group(4):
            return None, None
        path = self.disk.relative(text(match.group(3)))
        return int(match.group(2) or -100), self.names.get(path) if path is not None else None

    def add(self, when, *step):
        self.steps.append((when,) + step)

    # ---- calls ----
    def call(self, pid, began, ended, name, arguments, result):
        if name in ("open", "openat", "openat2", "creat"):
            self.opened(began, pid, arguments, result)
        elif name.startswith(("rename", "link", "symlink", "unlink", "mkdir", "rmdir")):
            self.named(began, name, arguments)
        elif name == "sync":
            self.add(ended, "sync-all")
        else:
            self.on_file(pid, began, ended, name, arguments, result)

    def opened(self, when, pid, arguments, result):
        match = re.match(FD, result)
        path = (self.paths(arguments) or [None])[0]
        if path is None or not match:
            return
        fd = int(match.group(2))
        self.synced[pid, fd] = "O_DSYNC" in arguments or "O_SYNC" in arguments
        if path not in self.names and "O_CREAT" in arguments:
            self.names[path] = self.next
            self.sizes[self.next] = 0
            self.add(when, "create", path, self.next)
            self.next += 1
        number = self.names.get(path)
        if "O_TRUNC" in arguments and self.sizes.get(number):
            self.sizes[number] = 0
            self.add(when, "truncate", number, 0)
        self.offsets[pid, fd] = self.sizes.get(number, 0) if "O_APPEND" in arguments else 0

    def named(self, when, name, arguments):
        paths = self.paths(arguments)
        if name.startswith("symlink"):
            target = text(re.match(STRING, arguments).group(1))
            if paths[-1] is not None:
                self.names[paths[-1]] = self.next
                self.add(when, "symlink", paths[-1], self.next, target)
                self.next += 1
        elif name.startswith("rename"):
            assert "EXCHANGE" not in arguments, arguments
            self.renamed(when, paths[0], paths[1])
        elif name.startswith("link"):
            if paths[0] in self.names and paths[1] is not None:
                self.names[paths[1]] = self.names[paths[0]]
                self.add(when, "create", paths[1], self.names[paths[0]])
        elif name.startswith("mkdir"):
            if paths[0] is not None:
                self.names[paths[0]] = self.next
                self.directories.add(self.next)
                self.add(when, "mkdir", paths[0], self.next)
                self.next += 1
        elif paths[0] is not None:
            self.names.pop(paths[0], None)
            self.add(when, "remove", paths[0])

    def renamed(self, when, before, after):
        assert (before is None) == (after is None), "renamed into or out of the root"
        if before is None:
            return
        for path in [p for p in self.names if p == before or p.startswith(before + b"/")]:
            self.names[after + path[len(before):]] = self.names.pop(path)
        self.add(when, "rename", before, after)

    def on_file(self, pid, began, ended, name, arguments, result):
        fd, number = self.file(arguments)
        if number is None:
            return
        assert name not in REFUSED, "%s of a file beneath the root: this model does not know it" % name
        if name in ("fsync", "fdatasync"):
            self.add(ended, "sync-names" if number in self.directories else "sync", number)
        elif name == "syncfs":
            self.add(ended, "sync-all")
        elif name == "ftruncate":
            self.sizes[number] = int(arguments.rsplit(",", 1)[1])
            self.add(began, "truncate", number, self.sizes[number])
        elif name == "lseek":
            self.offsets[pid, fd] = int(result)
        elif name in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            self.written(pid, began, fd, number, name, arguments, int(result))

    def written(self, pid, when, fd, number, name, arguments, size):
        strings = re.findall(r"(?:iov_base=|>, )" + STRING, arguments)
        data = b"".join(text(s) for s in strings)[:size]
        assert len(data) == size, "strace left bytes out: " + arguments[:200]
        positioned = name.startswith("p")
        offset = int(re.search(r", (\d+)$", arguments).group(1)) if positioned else self.offsets.get((pid, fd), 0)
        if not positioned:
            self.offsets[pid, fd] = offset + size
        self.sizes[number] = max(self.sizes.get(number, 0), offset + size)
        self.add(when, "write", number, offset, data, self.synced.get((pid, fd), False))

    def process(self, pid):
        """Threads of a process share its descriptors."""
        if pid not in self.processes:
            self.processes[pid] = pid
            for known in self.attached:
                if os.path.exists("/proc/%d/task/%d" % (known, pid)):
                    self.processes[pid] = known
        return self.processes[pid]


def cut(tape, position, random):
    """The disk after the first @position steps: names, files. What was not synced is dropped, kept or torn; with no
    @random it is all there."""
    steps = tape.steps[:position]
    names, files, modes = dict(tape.disk.names), {}, tape.disk.modes
    for number, content in tape.disk.files.items():
        files[number] = bytearray(content) if isinstance(content, bytearray) else content
    naming = [i for i, s in enumerate(steps) if s[1] in ("create", "symlink", "rename", "mkdir", "remove")]
    last = max([i for i, s in enumerate(steps) if s[1] in ("sync-names", "sync-all")], default=-1)
    loose = [i for i in naming if i > last]
    kept = set(naming) - set(loose[random.randint(0, len(loose)):]) if loose and random else set(naming)
    safe_from = {}  # file: the last step that synced it
    for i, step in enumerate(steps):
        if step[1] == "sync":
            safe_from[step[2]] = i
        elif step[1] == "sync-all":
            safe_from["all"] = i
    for i, step in enumerate(steps):
        is_safe = i < max(safe_from.get(step[2] if len(step) > 2 else None, -1), safe_from.get("all", -1))
        apply(names, files, step, i in kept, is_safe or not random, random)
    return names, files, modes


def apply(names, files, step, is_kept, is_safe, random):
    kind = step[1]
    if kind in ("create", "symlink", "mkdir"):
        files.setdefault(step[3], {"create": bytearray(), "mkdir": None}.get(kind, step[-1]))
        if is_kept:
            names[step[2]] = step[3]
    elif kind == "remove" and is_kept:
        names.pop(step[2], None)
    elif kind == "rename" and is_kept:
        for path in [p for p in names if p == step[2] or p.startswith(step[2] + b"/")]:
            names[step[3] + path[len(step[2]):]] = names.pop(path)
    elif kind == "truncate" and (is_safe or random.random() < 0.5):
        content, size = files[step[2]], step[3]
        del content[size:]
        content.extend(bytes(size - len(content)))
    elif kind == "write":
        write(files[step[2]], step[3], step[4], 1.0 if is_safe or step[5] else random.choice((0.0, 1.0, 0.5)), random)


def write(content, offset, data, share, random):
    """@share of its sectors."""
    at = 0
    while at < len(data):
        end = min(len(data), (offset + at) // SECTOR * SECTOR + SECTOR - offset)
        if share == 1.0 or random.random() < share:
            if len(content) < offset + end:
                content.extend(bytes(offset + end - len(content)))
            content[offset + at:offset + end] = data[at:end]
        at = end


def put(names, files, modes, root):
    """Writes it out."""
    root = root.encode()
    os.makedirs(root, exist_ok=True)
    made = {}
    for path, number in sorted(names.items()):
        if not path:
            continue
        full, content = os.path.join(root, path), files.get(number)
        if not os.path.isdir(os.path.dirname(full)):
            continue  # its directory is not there yet
        if number in made and content is not None:
            os.link(made[number], full, follow_symlinks=False)
            continue
        made[number] = full
        if content is None:
            os.mkdir(full)
        elif isinstance(content, bytearray):
            with open(full, "wb") as f:
                f.write(content)
        else:
            os.symlink(content, full)
            continue
        os.chmod(full, modes.get(number, 0o700 if content is None else 0o600))
