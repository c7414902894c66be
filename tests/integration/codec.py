"""The program tests/programs/codec.c on a pipe: davit's codec, asked line by line."""

import json
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD") or os.path.join(HERE, "../../build")


class Codec:
    def __enter__(self):
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "tests/bin/codec")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        if self.process.wait() and not error[0]:
            raise AssertionError("the codec ended with %d" % self.process.returncode)

    def ask(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line.endswith("\n"), "the codec died at: " + " ".join(words)[:200]
        return line[:-1]

    def json(self, data):
        answer = self.ask("json", data.hex())
        return Refused if answer == "refused" else json.loads(answer)

    def msgpack(self, value):
        return bytes.fromhex(self.ask("msgpack", json.dumps(value)))

    def samples(self, seed):
        """(name, packed bytes) of one random message of each kind."""
        number = 0
        while True:
            answer = self.ask("sample", str(number), str(seed))
            if not answer:
                return
            name, _, data = answer.partition(" ")
            yield name, bytes.fromhex(data)
            number += 1


class Refused:
    """What json() gives for bytes that are not taken."""
