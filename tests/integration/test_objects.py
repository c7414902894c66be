#!/usr/bin/env python3
"""Single objects of a registry: content fetch-object, fetch-blob and push-object."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import registry  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from registry import FakeRegistry, Registry  # noqa: E402
from test_registry import children, partial_size, partials, put, slow_registry, small_image  # noqa: E402


def held(d):
    """What is in the store, in leases, and on its way."""
    return sorted(d.check("content", "ls", "-q").split()), d.check("leases", "ls", "-q"), partials(d)


def test_objects_of_a_repository_are_printed_and_leave_nothing():
    image = small_image(size=300000)
    manifest = image.documents[image.target["digest"]][1]
    with Registry() as r, Davit() as d:
        put(d, r, image, "t/a:1")
        ref, options = r.host + "/t/a:1", ["--plain-http"]

        def fetch(verb, *words):
            result = d("content", verb, *options, *words)
            assert result.returncode == 0, result
            return result.stdout
        assert fetch("fetch-object", ref) == manifest
        assert fetch("fetch-object", ref, registry.MANIFEST) == manifest
        assert fetch("fetch-object", r.host + "/t/a@" + image.target["digest"]) == manifest
        for digest, (_, data) in image.documents.items():
            assert fetch("fetch-object", ref, digest) == data, digest
        assert fetch("fetch-object", ref, image.target["digest"], registry.MANIFEST) == manifest
        layer = json.loads(manifest)["layers"][1]["digest"]
        assert fetch("fetch-object", r.host + "/t/a@" + layer) == image.documents[layer][1]
        assert fetch("fetch-blob", r.host + "/t/a", layer, image.target["digest"]) == image.documents[layer][1] + manifest
        assert fetch("fetch-blob", "--media-type", registry.MANIFEST, ref, image.target["digest"]) == manifest
        wait_for(lambda: held(d) == ([], "", []), "nothing is left")
        # What was there before is as it was.
        d.check("images", "pull", *options, ref)
        before = held(d)
        assert fetch("fetch-object", ref, layer) == image.documents[layer][1]
        wait_for(lambda: held(d) == before, "it is as it was")
        for words, text in (((ref, "sha256:" + 64 * "0"), "nor is there a document"), ((ref, "sha256:0"), "is not a digest"),
                            ((r.host + "/t/a:none",), "manifests/none: 404"), ((r.host + "/none/a:1", layer), "404"),
                            ((ref, "a/b\n"), "is not a media type"),
                            ((ref, "word"), "neither a digest nor a media type")):
            result = d("content", "fetch-object", *options, *words)
            assert result.returncode in (1, 2) and not result.stdout and text in result.stderr.decode(), result
        wait_for(lambda: held(d) == before, "failures leave nothing")
        result = d("bus", "call", "image.fetch_object", "name=" + ref, "lease=none")
        assert result.returncode != 0 and b"no lease 'none'" in result.stderr, result


def test_objects_that_lie_are_never_printed():
    data, empty = b"what it is", b""
    with FakeRegistry() as r, Davit() as d:
        path = "/v2/a/blobs/" + layers.digest(data)
        r.answers = {("HEAD", path): (200, [], data), ("GET", path): (200, [], b"what it as")}
        result = d("content", "fetch-object", r.host + "/a:1", layers.digest(data))
        assert result.returncode == 1 and not result.stdout and b"something else, 3 times" in result.stderr, result
        r.answers = {path: (200, [], empty)}
        result = d("content", "fetch-object", r.host + "/a:1", layers.digest(data))
        assert result.returncode == 1 and not result.stdout and b"does not say how large" in result.stderr, result
        r.answers = {"/v2/a/blobs/" + layers.digest(empty): (200, [], empty)}
        assert d.check("content", "fetch-object", r.host + "/a:1", layers.digest(empty)) == ""
        # A document under a tag is whatever it is; under a digest it is that.
        r.answers = {"/v2/a/manifests/1": (200, [("Content-Type", "text/plain")], data),
                     "/v2/a/manifests/" + layers.digest(b"else"): (200, [("Content-Type", "text/plain")], data)}
        assert d.check("content", "fetch-object", r.host + "/a:1", "text/plain").encode() == data
        assert {h["Accept"] for _, _, h in r.requests if "Accept" in h} >= {"text/plain"}, r.requests
        result = d("content", "fetch-object", r.host + "/a:1", layers.digest(b"else"))
        assert result.returncode == 1 and not result.stdout and b"in its place" in result.stderr, result


def test_an_object_is_gone_on_with_after_sigkill_of_the_image_service():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 300000)
        fetch = d.start("content", "fetch-object", "--user", "a:b", r.host + "/slow:1", digest)
        wait_for(lambda: partial_size(d, digest) == 300000 and children(d), "a part has come")
        d.kill("davit-image")
        wait_for(lambda: len(slow.ranges) == 2, "it goes on by itself")
        slow.release()
        out, err = fetch.communicate(timeout=60)
        assert fetch.returncode == 0 and out == image.documents[digest][1], err
        assert "bytes=300000-" in slow.ranges, slow.ranges
        wait_for(lambda: held(d) == ([], "", []), "nothing is left")


def test_objects_are_pushed_one_by_one_until_they_are_an_image():
    image = small_image(("gzip",), size=300000)
    manifest = image.target["digest"]
    parts = [digest for digest in image.documents if digest != manifest]
    with Registry(users={"anna": "pw"}) as r, Davit() as d:
        for digest, (_, data) in image.documents.items():
            assert d.check("content", "ingest", digest[7:], input=data).strip() == digest
        push = ["content", "push-object", "--plain-http", "--user", "anna:pw", r.host + "/t/b:1"]
        result = d(*push, manifest, registry.MANIFEST)
        assert result.returncode == 1 and b"manifests/1: 4" in result.stderr, "its parts are not there yet: %s" % result
        for i, digest in enumerate(parts):
            type_ = ["application/x-%d" % i] if i % 2 else []
            out = d.check(*push, digest, *type_)
            assert out == "Pushed %s %s\n" % (digest, type_[0] if type_ else "application/octet-stream"), out
            assert d.check(*push, digest).endswith("(there already)\n")
        assert d.check(*push, manifest, registry.MANIFEST) == "Pushed %s %s\n" % (manifest, registry.MANIFEST)
        assert "(there already)" in d.check(*push, manifest, registry.MANIFEST)
        assert r.digest("t/b:1") == manifest
        r.get("t/b:1", os.path.join(d.work, "layout"))
        fetch = ["content", "fetch-object", "--plain-http", "--user"]
        assert layers.digest(d.check(*fetch, "anna:pw", r.host + "/t/b:1").encode()) == manifest
        result = d(*fetch, "anna:no", r.host + "/t/b:1")
        assert result.returncode == 1 and b"401" in result.stderr and not result.stdout, result
        for words, text in (((manifest[:-1],), "is not a digest"), (("sha256:" + 64 * "0",), "no blob sha256:000"),
                            ((manifest, "word"), "is not a media type"), ((manifest, "a/b,c/d"), "is not a media type")):
            result = d(*push, *words)
            assert result.returncode == 1 and text in result.stderr.decode(), result
        result = d("content", "push-object", "--plain-http", "--user", "anna:pw", r.host + "/t/b@" + parts[0], manifest,
                   registry.MANIFEST)
        assert result.returncode == 1 and b"names another document" in result.stderr, result
        assert d.check("leases", "ls", "-q") == ""


if __name__ == "__main__":
    main(globals())
