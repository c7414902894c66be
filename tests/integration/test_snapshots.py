#!/usr/bin/env python3
"""Snapshots, and what of them is seen from outside."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
from davit import Davit, main  # noqa: E402


def make_image(d, name, *contents):
    path = os.path.join(d.work, "image.tar")
    layers.image(path, [layers.tar(entries) for entries in contents], name)
    return path


def test_a_namespace_that_has_only_images_is_listed():
    with Davit() as d:
        path = make_image(d, "t:1", [layers.f("a")])
        d.check("-n", "green", "images", "import", path)
        d.check("-n", "red", "images", "import", "--no-unpack", path)
        assert [n["name"] for n in d.json("namespaces", "ls")] == ["green", "red"]
        assert "green" in d.check("namespaces", "ls").splitlines()[1]
        refused = d("namespaces", "rm", "green")
        assert refused.returncode == 1 and b"images" in refused.stderr, refused
        d.check("-n", "green", "images", "rm", "--sync", *[i["name"] for i in d.json("-n", "green", "images", "ls")])
        assert [n["name"] for n in d.json("namespaces", "ls")] == ["red"]
        d.check("-n", "red", "images", "rm", "--sync", *[i["name"] for i in d.json("-n", "red", "images", "ls")])


def test_a_layer_that_umoci_inserted_is_taken():
    with Davit() as d:
        layout, inserted = os.path.join(d.work, "layout"), os.path.join(d.work, "inserted")
        with open(inserted, "w") as out:
            out.write("odd size")
        for words in (["init", "--layout", layout], ["new", "--image", layout + ":x"],
                      ["insert", "--image", layout + ":x", inserted, "/inserted"]):
            subprocess.run(["umoci"] + words, check=True)
        archive = os.path.join(d.work, "image.tar")
        subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
        d.check("images", "import", "--base-name", "t", archive)
        (record,) = d.json("snapshots", "ls")
        with open(os.path.join(d.root, "image", "snapshots", str(record["number"]), "fs", "inserted")) as data:
            assert data.read() == "odd size"


if __name__ == "__main__":
    main(globals())
