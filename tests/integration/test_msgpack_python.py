"""python3-msgpack judges davit's codec: it reads every message and envelope that davit packs, and davit reads what it
packs, in whatever form it chooses."""

import random
import unittest

import msgpack
from codec import Codec, Refused

IDENTITY = b"0123456789abcdef"


def unpack(data):
    return msgpack.unpackb(data, strict_map_key=False, raw=False)


def repack(value):
    """In the forms that our own packer never chooses: 32 bit lengths everywhere, 64 bit integers, shuffled maps."""
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return msgpack.packb(value)
    if isinstance(value, int):
        return (b"\xd3" + value.to_bytes(8, "big", signed=True)) if value < 2**63 else b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + len(data).to_bytes(4, "big") + data
    if isinstance(value, bytes):
        return b"\xc6" + len(value).to_bytes(4, "big") + value
    if isinstance(value, list):
        return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(repack, value))
    items = list(value.items())
    random.shuffle(items)
    return b"\xdf" + len(items).to_bytes(4, "big") + b"".join(repack(k) + repack(v) for k, v in items)


def random_value(depth):
    kind = random.randrange(10 if depth else 8)
    if kind < 2:
        return random.choice([0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, -(2**31), 2**32, 2**63 - 1, -(2**63)])
    if kind < 4:
        return "".join(random.choice("aé…𝄞\n\"\\0") for _ in range(random.randrange(40)))
    if kind < 8:
        return [None, True, False, random.randrange(1000) / 8][kind - 4]
    values = [random_value(depth - 1) for _ in range(random.randrange(20))]
    return values if kind == 8 else {"k%d" % i: value for i, value in enumerate(values)}


class Judge(unittest.TestCase):
    def setUp(self):
        random.seed(2026)

    def test_messages_that_davit_packs_are_read_and_come_back_in_any_form(self):
        n = 0
        with Codec() as codec:
            for seed in range(8):
                for name, data in codec.samples(seed):
                    value = unpack(data)
                    self.assertIsInstance(value, dict)
                    ours = codec.ask("unpack", name, data.hex())
                    self.assertFalse(ours.startswith("refused"), ours)
                    self.assertEqual(codec.ask("unpack", name, msgpack.packb(value).hex()), ours)
                    theirs = codec.ask("unpack", name, repack(value).hex())
                    self.assertEqual(self.sorted(theirs), self.sorted(ours))
                    n += 1
        self.assertGreater(n, 500)

    @staticmethod
    def sorted(text):
        return "".join(sorted(text))  # maps of strings keep the order in which they came

    def test_requests_that_davit_writes_are_read(self):
        with Codec() as codec:
            for name, data in codec.samples(1):
                envelope = bytes.fromhex(codec.ask("request", "a." + name, data.hex()))
                version, identity, deadline, namespace, method, body, peer = unpack(envelope)
                self.assertEqual((version, identity, deadline, namespace), (1, IDENTITY, 2**31, "default"))
                self.assertEqual(method, "a." + name)
                self.assertEqual(body, unpack(data))
                self.assertEqual(peer, {"trace": bytes(16), "uid": 1000, "pid": 70000})

    def test_requests_that_python_writes_are_read(self):
        with Codec() as codec:
            for body in ({}, {"id": "web"}, None, {"deep": [[[[1]]]]}):
                parts = [1, IDENTITY, 0, "default", "container.get", body, {}, "an element of a later version"]
                for n in (6, 7, 8):
                    for pack in (msgpack.packb, repack):
                        method, _, data = codec.ask("read", pack(parts[:n]).hex()).partition(" ")
                        self.assertEqual(method, "container.get")
                        self.assertEqual(unpack(bytes.fromhex(data)), body or {})
            for wrong in ([], [1], {}, 7, [1, b"short", 0, "", "a.b", {}], [1, "text", 0, "", "a.b", {}]):
                self.assertTrue(codec.ask("read", msgpack.packb(wrong).hex()).startswith("refused: request"))

    def test_any_value_of_python_is_shown_as_it_is(self):
        with Codec() as codec:
            for _ in range(2000):
                value = random_value(4)
                self.assertEqual(codec.json(msgpack.packb(value)), value)
                self.assertEqual(unpack(codec.msgpack(value)), value)

    def test_types_that_davit_does_not_use_are_refused(self):
        with Codec() as codec:
            for value in (msgpack.ExtType(1, b"x"), msgpack.Timestamp(0, 0), [msgpack.ExtType(1, bytes(20))]):
                self.assertIs(codec.json(msgpack.packb(value)), Refused)


if __name__ == "__main__":
    unittest.main(verbosity=2)
