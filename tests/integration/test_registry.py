#!/usr/bin/env python3
"""Pull and push: against Debian's docker-registry, beside skopeo, and against registries that lie, break and tempt."""

import json
import os
import random
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import registry  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from registry import FakeRegistry, Image, Proxy, Registry, TokenServer  # noqa: E402

SLOW = os.environ.get("SLOW")


def small_image(kinds=("gzip", "zstd", "plain"), seed=1, size=200000):
    image = Image()
    image.add([registry.busybox_layer(), registry.random_layer("a", size, seed), registry.random_layer("b", size, seed + 100)],
              kinds)
    return image


def put(d, r, image, name, *options):
    layout = image.write_layout(os.path.join(d.work, "layout-%s" % image.target["digest"][7:19]))
    r.put(layout, name, *options)


def blobs(d):
    """Digest: bytes, of each blob that the service knows; each is what its digest says."""
    found = {}
    for record in d.json("content", "ls"):
        data = d("content", "get", record["digest"]).stdout
        assert layers.digest(data) == record["digest"], record
        found[record["digest"]] = data
    return found


def partials(d):
    directory = os.path.join(d.root, "image", "content", "ingest")
    return [name for name in os.listdir(directory) if name.startswith("download-")]


# ---- a real registry ----

def test_an_image_is_pulled_run_pushed_and_is_the_same_for_skopeo():
    with Registry() as r, Davit() as d:
        image = small_image()
        put(d, r, image, "a/b:1")
        out = d.check("images", "pull", "--print-chainid", r.host + "/a/b:1")
        assert image.target["digest"] in out and "image chain ID: sha256:" in out, out
        assert set(blobs(d)) == set(image.documents), "other blobs than the image's"
        assert not partials(d), partials(d)
        assert d.check("run", "--rm", r.host + "/a/b:1", "c1", "/bin/echo", "hello") == "hello\n"

        d.check("images", "tag", r.host + "/a/b:1", r.host + "/c/d:2")
        out = d.check("images", "push", r.host + "/c/d:2")
        assert r.digest("c/d:2") == image.target["digest"], out
        layout = os.path.join(d.work, "back")
        r.get("c/d:2", layout + ":x")
        with open(os.path.join(layout, "index.json")) as f:
            assert json.load(f)["manifests"][0]["digest"] == image.target["digest"]
        for digest, (_, data) in image.documents.items():
            with open(os.path.join(layout, "blobs", "sha256", digest[7:]), "rb") as f:
                assert f.read() == data, digest


if __name__ == "__main__":
    main(globals())
