"""The msgpack test suite of the npm registry (msgpack-test-js and its data) judges davit's codec: it takes exactly what
the suite holds, but for extension types, and reads the suite's values in it; what it writes is the suite's shortest form.

The packages are fetched into the build directory, once. Skipped (exit 77) where the registry cannot be reached.
"""

import json
import os
import subprocess
import sys
import unittest

from codec import BUILD, Codec, Refused

PACKAGES = ["msgpack-test-js@1.0.0", "msgpack-test-suite@1.0.0"]
FOLDER = os.path.join(BUILD, "npm-msgpack")
DATA = os.path.join(FOLDER, "node_modules/msgpack-test-suite/dist/msgpack-test-suite.json")
NOT_TAKEN = {"timestamp", "ext"}


def fetch():
    if os.path.exists(DATA):
        return
    os.makedirs(FOLDER, exist_ok=True)
    command = ["npm", "install", "--prefix", FOLDER, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        result = subprocess.run(command + PACKAGES, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        problem = result.stderr.strip().splitlines()[-1:] if result.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = [str(error)]
    if problem is not None or not os.path.exists(DATA):
        print("the npm registry gives no msgpack-test-suite:", *(problem or ["no data in it"]))
        sys.exit(77)


def entries():
    """(type, value, the encodings as bytes) of every entry of the suite."""
    with open(DATA, encoding="utf-8") as file:
        suite = json.load(file)
    for group in suite.values():
        for entry in group:
            kind = "number" if "bignum" in entry else next(key for key in entry if key != "msgpack")
            value = int(entry["bignum"]) if "bignum" in entry else entry[kind]
            yield kind, value, [bytes.fromhex(text.replace("-", "")) for text in entry["msgpack"]]


def expected(kind, value):
    return value.replace("-", "") if kind == "binary" else value


def read_number(value):
    """JSON of 63 bits: larger integers are decimal text."""
    return int(value) if isinstance(value, str) else value


class Suite(unittest.TestCase):
    def test_what_the_suite_holds_is_taken_and_means_the_same(self):
        n = 0
        with Codec() as codec:
            for kind, value, encodings in entries():
                for data in encodings:
                    if kind in NOT_TAKEN:
                        self.assertEqual(codec.ask("scan", data.hex()), "refused", data.hex())
                        self.assertIs(codec.json(data), Refused)
                        continue
                    self.assertEqual(codec.ask("scan", data.hex()), "ok", data.hex())
                    found = codec.json(data)
                    if kind == "number":
                        found = read_number(found)
                    if isinstance(found, float):
                        value = float(value)
                    self.assertEqual(found, expected(kind, value), data.hex())
                    n += 1
        self.assertGreater(n, 150)

    def test_no_beginning_of_it_is_taken(self):
        with Codec() as codec:
            for _, _, encodings in entries():
                for data in encodings:
                    for size in range(len(data)):
                        self.assertEqual(codec.ask("scan", data[:size].hex()), "refused", data.hex())
                    self.assertEqual(codec.ask("scan", (data + b"\0").hex()), "refused", data.hex())

    def test_what_is_written_is_the_shortest_of_the_suite(self):
        n = 0
        with Codec() as codec:
            for kind, value, encodings in entries():
                if kind in NOT_TAKEN or kind == "binary" or (kind == "number" and abs(value) >= 2**63):
                    continue
                data = codec.msgpack(value)
                self.assertIn(data, encodings)
                if not isinstance(value, float):  # whole numbers are written as integers
                    integers = [one for one in encodings if one[:1] not in (b"\xca", b"\xcb")]
                    self.assertEqual(len(data), min(map(len, integers)))
                n += 1
        self.assertGreater(n, 40)


if __name__ == "__main__":
    fetch()
    unittest.main(verbosity=2)
