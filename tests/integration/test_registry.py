#!/usr/bin/env python3
"""Pull and push: against Debian's docker-registry, beside skopeo, and against registries that lie, break and tempt."""

import base64
import contextlib
import hashlib
import json
import os
import pty
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402
import registry  # noqa: E402
from davit import Davit, main, wait_for  # noqa: E402
from registry import (ConnectProxy, FakeRegistry, Image, Proxy, Registry, TokenServer, UploadProxy,  # noqa: E402
                      UploadRegistry)

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


def references(d):
    """What each of them says whose it is, in its three lines."""
    found = {}
    for name in partials(d):
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(d.root, "image/content/ingest", name, "ref")) as f:
                lines = f.read().splitlines()
            if len(lines) == 3:
                found[name] = lines
    return found


def children(d):
    """The processes of this davit that talk to registries."""
    found = []
    for service in d.pids("davit-image"):
        with open("/proc/%d/task/%d/children" % (service, service)) as f:
            for pid in map(int, f.read().split()):
                try:
                    with open("/proc/%d/cmdline" % pid, "rb") as words:
                        if words.read().split(b"\0")[1:2] in ([b"fetch"], [b"push"]):
                            found.append(pid)
                except OSError:
                    pass
    return found


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



def test_all_compressions_and_dockers_media_types_are_pulled_and_run():
    with Registry() as r, Davit() as d:
        for i, kind in enumerate(("gzip", "zstd", "plain")):
            image = small_image((kind,), seed=10 + i, size=5000)
            put(d, r, image, "k/%s:1" % kind)
            d.check("images", "pull", r.host + "/k/%s:1" % kind)
            assert d.check("run", "--rm", r.host + "/k/%s:1" % kind, "c", "/bin/echo", kind) == kind + "\n"
        image = small_image(("gzip",), seed=20, size=5000)
        layout = image.write_layout(os.path.join(d.work, "docker"))
        subprocess.run(["skopeo", "copy", "--insecure-policy", "--quiet", "--format", "v2s2", *r.skopeo_options("dest"),
                        "oci:" + layout, "docker://%s/docker/x:1" % r.host], check=True)
        assert b"vnd.docker.distribution.manifest.v2+json" in r.raw("docker/x:1")
        d.check("images", "pull", r.host + "/docker/x:1")
        assert d.check("run", "--rm", r.host + "/docker/x:1", "c", "/bin/echo", "docker") == "docker\n"
        d.check("images", "push", r.host + "/docker/y:1", r.host + "/docker/x:1")
        assert r.digest("docker/y:1") == r.digest("docker/x:1")


def two_platforms():
    image = Image()
    own = image.add([registry.busybox_layer(), layers.tar([layers.f("own")])])
    other = image.add([layers.tar([layers.f("bin/other", b"o" * 3000)])], architecture=registry.OTHER_ARCHITECTURE)
    image.index([other, own])
    return image, own, other


def test_an_index_is_pulled_for_one_platform_or_all():
    image, own, other = two_platforms()
    with Registry() as r, Davit() as d:
        put(d, r, image, "multi:1", "--all")
        ref = r.host + "/multi:1"
        other_layers = [l["digest"] for l in json.loads(image.documents[other["digest"]][1])["layers"]]
        d.check("images", "pull", ref)
        assert d.check("run", "--rm", ref, "c", "/bin/echo", "x") == "x\n"
        assert other["digest"] not in blobs(d) and own["digest"] in blobs(d)
        # An index that is not all there cannot be pushed, and the sentence says what can be done.
        result = d("images", "push", r.host + "/again:1", ref)
        assert result.returncode == 1 and b"--all-platforms" in result.stderr and b"--platform" in result.stderr, result
        d.check("images", "push", "--platform", "linux/" + registry.HOST_ARCHITECTURE, r.host + "/one:1", ref)
        assert r.digest("one:1") == own["digest"]
        d.check("images", "push", "--manifest", own["digest"], r.host + "/manifest:1")
        assert r.digest("manifest:1") == own["digest"]

        d.check("images", "pull", "--all-metadata", ref)
        assert other["digest"] in blobs(d) and other_layers[0] not in blobs(d)
        d.check("images", "pull", "--all-platforms", ref)
        assert set(blobs(d)) == set(image.documents)
        d.check("images", "push", r.host + "/again:1", ref)
        assert r.digest("again:1") == image.target["digest"]

        d.check("images", "rm", "--sync", ref)
        assert not blobs(d), "blobs that nothing needs"
        d.check("images", "pull", "--platform", "linux/" + registry.OTHER_ARCHITECTURE, ref)
        assert other_layers[0] in blobs(d) and own["digest"] not in blobs(d)
        result = d("images", "pull", "--platform", "linux/s390x", ref)
        assert result.returncode == 1 and b"nothing for linux/s390x, only for" in result.stderr, result
        out = d.check("content", "fetch", "--metadata-only", r.host + "/one:1")
        assert out.strip() == own["digest"], out


# ---- credentials ----

def files_with(directory, secret):
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as f:
                    if secret in f.read():
                        found.append(path)
    return found


def test_tls_with_an_own_ca_and_passwords_which_are_kept_nowhere():
    secret = "Se-cret_9x7"
    with Registry(tls=True, users={"anna": secret}) as r, Davit() as d:
        image = small_image(size=3000)
        put(d, r, image, "a:1")
        ref, tls = r.host + "/a:1", ["--tlscacert", r.certificates.ca]
        result = d("images", "pull", ref)
        assert result.returncode == 1 and ref.encode() in result.stderr and b"--tlscacert" in result.stderr, result
        assert b"HTTPS server" in result.stderr, result
        result = d("images", "pull", "--skip-verify", ref)
        assert result.returncode == 1 and b"give --user" in result.stderr and r.host.encode() in result.stderr, result
        result = d("images", "pull", *tls, "--user", "anna:wrong", ref)
        assert result.returncode == 1 and b"does not take these credentials" in result.stderr, result
        result = d("images", "pull", "--tlscacert", r.certificates.client_cert, "--user", "anna:" + secret, ref)
        assert result.returncode == 1 and b"ertificate" in result.stderr, result
        out = d.check("images", "pull", "--http-dump", "--http-trace", *tls, "--user", "anna:" + secret, ref)
        assert image.target["digest"] in out, out
        d.check("images", "push", *tls, "-u", "anna", r.host + "/b:1", ref, input=(secret + "\n").encode())
        with open(os.path.join(d.state, "up.log")) as f:
            log = f.read()
        assert "authorization: (masked)" in log.lower() and "GET /v2/a/manifests" in log, log[-3000:]
        for text in (secret, base64.b64encode(("anna:" + secret).encode()).decode()):
            found = files_with(d.root, text.encode()) + files_with(d.state, text.encode())
            assert not found and text not in log and text not in json.dumps(d.events()), found


def test_a_proxy_of_the_environment_is_used_unless_it_is_not_for_that_host():
    image = small_image(size=3000)
    with Registry(tls=True) as r, ConnectProxy("user:Pro-xy_8z") as proxy:
        ref, tls = r.host + "/a:1", ["--tlscacert", r.certificates.ca]
        davit = Davit()
        davit.env.pop("NO_PROXY", None)
        davit.env.pop("no_proxy", None)
        davit.env["HTTPS_PROXY"] = "http://user:Pro-xy_8z@" + proxy.host
        with davit as d:
            put(d, r, image, "a:1")
            d.check("images", "pull", "--http-dump", "--http-trace", *tls, ref)
            assert set(blobs(d)) == set(image.documents)
            assert {(method, target) for method, target, _ in proxy.requests} == {("CONNECT", r.host)}, proxy.requests
            n = len(proxy.requests)
            d.check("images", "push", *tls, r.host + "/b:1", ref)
            assert r.digest("b:1") == image.target["digest"] and len(proxy.requests) > n
            with open(os.path.join(d.state, "up.log")) as f:
                assert "Pro-xy_8z" not in f.read(), "the proxy's password is in the log"
            assert not files_with(d.root, b"Pro-xy_8z") + files_with(d.state, b"Pro-xy_8z")
        # A wrong password is an error that names the proxy's answer.
        proxy.expected = b"Basic other"
        davit = Davit()
        davit.env["HTTPS_PROXY"] = "http://user:Pro-xy_8z@" + proxy.host
        with davit as d:
            result = d("images", "pull", *tls, ref)
            assert result.returncode == 1 and b"407" in result.stderr and b"Pro-xy" not in result.stderr, result
        # For this host there is none.
        n = len(proxy.requests)
        davit = Davit()
        davit.env.update(HTTPS_PROXY="http://user:Pro-xy_8z@" + proxy.host, NO_PROXY="example.com,127.0.0.1")
        with davit as d:
            d.check("images", "pull", *tls, ref)
            assert set(blobs(d)) == set(image.documents) and len(proxy.requests) == n


def test_client_certificates_by_option_and_by_directory():
    with Registry(tls=True, client_ca=True) as r, Davit() as d:
        image = small_image(size=3000)
        put(d, r, image, "a:1")
        c, ref = r.certificates, r.host + "/a:1"
        assert d("images", "pull", "--tlscacert", c.ca, ref).returncode == 1
        d.check("images", "pull", "--tlscacert", c.ca, "--tlscert", c.client_cert, "--tlskey", c.client_key, ref)
        d.check("images", "rm", "--sync", ref)
        # As containerd's certs.d: a hosts.toml, then docker's files without one.
        top = os.path.join(d.work, "certs.d")
        directory = os.path.join(top, r.host.replace(":", "_") + "_")
        os.makedirs(directory)
        with open(os.path.join(directory, "hosts.toml"), "w") as f:
            f.write('server = "https://%s"\nca = "%s"\nclient = [["%s", "%s"]]\n' % (r.host, c.ca, c.client_cert, c.client_key))
        d.check("images", "pull", "--hosts-dir", top, ref)
        os.unlink(os.path.join(directory, "hosts.toml"))
        r.skopeo_certificates()
        d.check("images", "rm", "--sync", ref)
        for name in ("ca.crt", "client.cert", "client.key"):
            os.link(os.path.join(r.skopeo_certificates(), name), os.path.join(directory, name))
        d.check("images", "pull", "--hosts-dir", top, ref)


def test_tokens_by_password_and_by_refresh_token_and_a_mount():
    with tempfile.TemporaryDirectory(prefix="dvcert-", dir="/tmp") as work:
        certificates = registry.Certificates(work)
        with TokenServer(certificates, {"anna": "pw"}) as tokens, \
                Registry(token=(tokens.realm, certificates.cert)) as r, Davit() as d:
            image = small_image(size=3000)
            r.users = {"anna": "pw"}
            put(d, r, image, "t/a:1")
            ref = r.host + "/t/a:1"
            result = d("images", "pull", ref)
            assert result.returncode == 1 and b"token server" in result.stderr and b"401" in result.stderr, result
            tokens.requests.clear()
            d.check("images", "pull", "--user", "anna:pw", ref)
            scopes = [q["scope"] for _, q, _ in tokens.requests]
            assert scopes and all(s == ["repository:t/a:pull"] for s in scopes), scopes
            assert len(tokens.requests) <= 4, "a token is used again: %d were asked for" % len(tokens.requests)
            out = d.check("images", "push", "--refresh", "refresh-me", r.host + "/t/b:1", ref)
            assert "0 blobs sent, 4 mounted" in out, out
            assert tokens.requests[-1][0] == "POST" and r.digest("t/b:1") == image.target["digest"]
            out = d.check("images", "push", "--user", "anna:pw", r.host + "/t/b:2", ref)
            assert "0 blobs sent, 0 mounted, 4 there already" in out, out
            result = d("images", "pull", "--refresh", "wrong", ref)
            assert result.returncode == 1 and b"bad refresh token" in result.stderr, result


def test_nothing_of_ours_follows_a_redirect_to_another_server():
    image = small_image(("gzip",), size=3000)
    with FakeRegistry() as other, FakeRegistry() as own, FakeRegistry() as evil, Davit() as d:
        own.put_image("a", "1", image.documents, image.target["digest"])
        other.put_image("a", "1", image.documents, image.target["digest"])
        for path in [p for p in own.answers if "/blobs/" in p]:
            own.answers[path] = (307, [("Location", "http://%s%s?signed=1" % (other.host, path))], b"")
        plain = dict(own.answers)

        def guarded(path):
            def answer(handler):
                if handler.headers.get("Authorization", "").startswith("Basic "):
                    status, headers, body = plain.get(path, (404, [], b"{}"))
                    return registry.reply(handler, status, body, headers)
                return registry.reply(handler, 401, b"{}", [("WWW-Authenticate", 'Basic realm="x"')])
            return answer
        own.answers = {path: guarded(path) for path in plain}
        top = os.path.join(d.work, "hosts")
        os.makedirs(os.path.join(top, own.host))
        with open(os.path.join(top, own.host, "hosts.toml"), "w") as f:
            f.write('server = "http://%s"\n[header]\nX-Own = "yes"\n' % own.host)
        d.check("images", "pull", "--hosts-dir", top, "--user", "anna:pw", own.host + "/a:1")
        assert any("Authorization" in h and h.get("X-Own") == "yes" for _, _, h in own.requests)
        assert other.requests
        for _, _, headers in other.requests:
            assert "Authorization" not in headers and "X-Own" not in headers, headers
        # Who stands behind the redirect cannot ask for them either.
        d.check("images", "rm", "--sync", own.host + "/a:1")
        challenge = [("WWW-Authenticate", 'Bearer realm="http://%s/token",service="s"' % evil.host)]
        for path in list(other.answers):
            other.answers[path] = (401, challenge, b"{}")
        result = d("images", "pull", "--hosts-dir", top, "--user", "anna:pw", own.host + "/a:1")
        assert result.returncode == 1 and not evil.requests, evil.requests


# ---- what goes wrong ----

def test_each_status_gives_an_error_that_names_reference_and_host():
    bodies = {401: b"{}", 403: b'{"errors":[{"code":"DENIED","message":"not for you"}]}', 404: b"{}",
              429: b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', 500: b"oops", 418: b"\x1b[31m"}
    words = {401: b"give --user", 403: b"not for you", 404: b"404 Not Found", 429: b"try again later",
             500: b"500 Internal Server Error", 418: b"418"}
    with FakeRegistry() as r, Davit() as d:
        for status, body in bodies.items():
            r.answers = {"*": (status, [], body)}
            r.requests.clear()
            ref = "%s/some/thing:%d" % (r.host, status)
            result = d("images", "pull", ref)
            assert result.returncode == 1, result
            for word in (words[status], ref.encode(), r.host.encode() + b": manifests/%d" % status):
                assert word in result.stderr, (status, word, result.stderr)
            assert b"\x1b" not in result.stderr
            assert len(r.requests) <= 10, len(r.requests)
        result = d("images", "pull", "127.0.0.1:%d/a:1" % registry.free_port())
        assert result.returncode == 1 and b"onnect" in result.stderr, result
        for bad in ("127.0.0.1:5000/UPPER:1", "127.0.0.1:5000/a:" + "t" * 129, "127.0.0.1:5000/a@sha256:12", "a..b/c"):
            result = d("images", "pull", bad)
            assert result.returncode == 1 and bad.split("/")[-1][:4].encode() in result.stderr, result
        assert not blobs(d) and d.call("image.list") == {}
        result = d("run", "--rm", "localhost:1/none:1", "c", "true")
        assert result.returncode == 125 and b"davit images pull" in result.stderr, result


def refused(d, r, image, word, name="bad"):
    """A pull of @image by tag is refused with @word; nothing of it is visible."""
    r.requests.clear()
    r.put_image(name, "1", image.documents, image.target["digest"])
    result = d("images", "pull", "%s/%s:1" % (r.host, name), seconds=100)
    assert result.returncode == 1 and word.encode() in result.stderr, (word, result.stderr)
    assert d.call("image.list") == {} and not blobs(d), "something of it is visible"
    return result.stderr.decode()


def test_documents_that_lie_are_refused():
    good = small_image(("gzip",), size=3000)
    manifest = json.loads(good.documents[good.target["digest"]][1])

    def changed(media_type=registry.MANIFEST, is_manifest=True, **more):
        image = Image()
        image.documents = dict(good.documents)
        document = dict(manifest, **more)
        image.target = image.put(json.dumps(document).encode(), media_type, True)
        return image

    with FakeRegistry() as r, Davit() as d:
        refused(d, r, changed(manifests=[]), "both an index and a manifest")
        refused(d, r, changed(mediaType=registry.INDEX), "its descriptor")
        refused(d, r, changed(media_type=registry.INDEX, mediaType=registry.INDEX), "an index without manifests")
        for digest in ("sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha512:" + "a" * 128, "sha256:abc"):
            refused(d, r, changed(layers=[dict(manifest["layers"][0], digest=digest)]), "digest")
        refused(d, r, changed(layers=[dict(manifest["layers"][0], size=-1)]), "size")
        refused(d, r, changed(config=dict(manifest["config"], size=9 << 20)), "a document at most 8388608")
        # An index entry says one media type, the registry another.
        image = Image()
        image.documents = dict(good.documents)
        image.index([dict(good.target, mediaType="application/vnd.docker.distribution.manifest.v2+json")])
        refused(d, r, image, "its descriptor says")
        # Schema 1, by its name.
        image = Image()
        image.target = image.put(b'{"schemaVersion":1,"name":"a","fsLayers":[]}',
                                 "application/vnd.docker.distribution.manifest.v1+prettyjws", True)
        refused(d, r, image, "schema 1")
        # Too large a manifest is refused before it is read; one that never ends is cut off.
        image = Image()
        image.target = image.put(json.dumps(dict(manifest, x="y" * (9 << 20))).encode(), registry.MANIFEST, True)
        refused(d, r, image, "8388608")

        def endless(handler):
            handler.send_response(200)
            handler.send_header("Content-Type", registry.MANIFEST)
            handler.end_headers()
            while True:
                handler.wfile.write(b"x" * 65536)
        r.answers["/v2/endless/manifests/1"] = endless
        r.answers["HEAD", "/v2/endless/manifests/1"] = (405, [], b"")
        result = d("images", "pull", r.host + "/endless:1")
        assert result.returncode == 1 and b"8388608" in result.stderr, result
        # A name by digest gets that digest or nothing.
        r.answers["/v2/a/manifests/sha256:" + "1" * 64] = (200, [("Content-Type", registry.MANIFEST)], b"{}")
        result = d("images", "pull", r.host + "/a@sha256:" + "1" * 64)
        assert result.returncode == 1 and b"in its place" in result.stderr, result


def test_indexes_that_name_each_other_again_and_again_cost_nothing():
    with FakeRegistry() as r, Davit() as d:
        image = Image()
        entry = image.add([layers.tar([layers.f("a")])])
        del entry["platform"]
        for _ in range(4):
            image.index([entry] * 1000)
            entry = dict(image.target)
        r.put_image("many", "1", image.documents, image.target["digest"])
        d.check("content", "fetch", "--all-platforms", r.host + "/many:1", seconds=30)
        assert set(blobs(d)) == set(image.documents)
        assert len(r.requests) <= 12, len(r.requests)
        archive = os.path.join(d.work, "many.tar")
        d.check("images", "export", "--all-platforms", archive, r.host + "/many:1", seconds=30)
        d.check("images", "rm", "--sync", r.host + "/many:1", seconds=30)
        assert not blobs(d)
        d.check("images", "import", "--all-platforms", "--no-unpack", archive, seconds=30)
        assert set(blobs(d)) >= set(image.documents)


def test_blobs_that_lie_are_refused_and_never_seen():
    good = small_image(("gzip",), size=30000)
    manifest = json.loads(good.documents[good.target["digest"]][1])
    digest = manifest["layers"][1]["digest"]
    data = good.documents[digest][1]
    with FakeRegistry() as r, FakeRegistry() as elsewhere, Davit() as d:
        for lie, word in ((data[:-1] + bytes([data[-1] ^ 1]), "something else"), (data + b"x", "more comes than"),
                          (data[:-1], "ends too soon"), (b"", "ends too soon")):
            image = Image()
            image.documents, image.target = dict(good.documents), good.target
            image.documents[digest] = (None, lie)
            assert digest in refused(d, r, image, word)
        # Where a foreign layer says it may be had is of no interest.
        changed = Image()
        changed.documents = {k: v for k, v in good.documents.items() if k != digest}
        url = "http://%s/layer" % elsewhere.host
        changed.target = changed.put(json.dumps(dict(manifest, layers=[
            dict(l, urls=[url], mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            for l in manifest["layers"]])).encode(), registry.MANIFEST, True)
        r.answers.clear()
        refused(d, r, changed, "404 Not Found")
        assert not elsewhere.requests, elsewhere.requests
        # The right bytes at last: nothing of the lies is in the way.
        r.put_image("bad", "1", good.documents, good.target["digest"])
        d.check("images", "pull", r.host + "/bad:1")
        assert set(blobs(d)) == set(good.documents)
        assert not set(partials(d)) & {"download-" + digest[7:] for digest in good.documents}


def test_a_layer_that_is_not_what_its_config_says_is_refused():
    with FakeRegistry() as r, Davit() as d:
        image = Image()
        image.add([layers.tar([layers.f("a")])])
        manifest = json.loads(image.documents[image.target["digest"]][1])
        manifest["layers"][0] = image.put(*registry.compress(layers.tar([layers.f("b")]), "gzip"))
        image.target = image.put(json.dumps(manifest).encode(), registry.MANIFEST, True)
        refused(d, r, image, "layer sha256:")
        assert not [s for s in d.json("snapshots", "ls")], "a layer is left"


# ---- broken connections ----

def test_pulls_through_a_proxy_that_cuts_corrupts_and_delays_end_whole_or_resumable():
    generator = random.Random(int(os.environ.get("SEED") or 7))
    rounds = 100 if SLOW else 20
    with Registry() as r, Davit() as d:
        image = small_image(("plain", "gzip"), size=600000)
        put(d, r, image, "chaos:1")

        def mood(_):
            kind = generator.choice(["cut", "cut", "cut", "corrupt", "delay", None])
            return kind and (kind, generator.randrange(0, 500000))
        with Proxy(r.port, mood) as proxy:
            ref, n_whole = proxy.host + "/chaos:1", 0
            for _ in range(rounds):
                result = d("images", "pull", ref, seconds=200)
                found = blobs(d)
                assert set(found) <= set(image.documents), "a blob of nobody"
                if result.returncode == 0:
                    n_whole += 1
                    assert set(found) == set(image.documents) and not partials(d)
                    d.check("images", "rm", "--sync", ref)
                else:
                    assert d.call("image.list") == {} and not found, result.stderr
        assert n_whole, "none of %d pulls succeeded" % rounds
        # Straight, with what the last one has left.
        d.check("images", "pull", r.host + "/chaos:1")
        assert set(blobs(d)) == set(image.documents) and not partials(d)


class SlowBlob:
    """Serves @data of a FakeRegistry's blob: at first @first bytes and no more until release() is called."""

    def __init__(self, data, first, with_ranges=True):
        self.data, self.first, self.with_ranges = data, first, with_ranges
        self.event, self.ranges = threading.Event(), []

    def release(self):
        self.event.set()

    def __call__(self, handler):
        self.ranges.append(handler.headers.get("Range"))
        start = 0
        if self.with_ranges and handler.headers.get("Range"):
            start = int(handler.headers["Range"].split("=")[1].rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes %d-%d/%d" % (start, len(self.data) - 1, len(self.data)))
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.data) - start))
        handler.end_headers()
        handler.wfile.write(self.data[start:self.first])
        handler.wfile.flush()
        if not self.event.wait(60):
            raise AssertionError("nobody released it")
        handler.wfile.write(self.data[max(start, self.first):])


def slow_registry(r, image, layer, first, **more):
    """Puts @image; its layer number @layer comes only up to @first bytes until it is released."""
    r.put_image("slow", "1", image.documents, image.target["digest"])
    digest = json.loads(image.documents[image.target["digest"]][1])["layers"][layer]["digest"]
    slow = SlowBlob(image.documents[digest][1], first, **more)
    r.answers["GET", "/v2/slow/blobs/" + digest] = slow
    return digest, slow


def partial_size(d, digest):
    path = os.path.join(d.root, "image/content/ingest/download-" + digest[7:], "data")
    return os.path.getsize(path) if os.path.exists(path) else 0


def test_layers_are_unpacked_while_others_still_come():
    image = small_image(("plain",), size=300000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 2, 1000)
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: len([s for s in d.json("snapshots", "ls") if s["kind"] == "committed"]) == 2, "two layers are unpacked")
        assert d.call("image.list") == {} and not blobs(d), "it is seen before it is there"
        slow.release()
        assert pull.wait(60) == 0, pull.stderr.read()
        assert set(blobs(d)) == set(image.documents)
        pull.communicate()


def test_an_interrupted_pull_is_cancelled_and_the_next_goes_on_where_it_was():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 400000)
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: partial_size(d, digest) >= 390000, "a part has come")
        # One that is being begun has no reference yet.
        wait_for(lambda: len(references(d)) == len(image.documents), "all have come or begun")
        (child,) = children(d)
        pull.send_signal(signal.SIGINT)
        assert pull.wait(30) == 130, pull.communicate()
        pull.communicate()
        wait_for(lambda: not d.call("image.operations").get("operations"), "the operation has ended")
        wait_for(lambda: not d.is_alive(child), "the child has ended")
        assert not blobs(d) and d.call("image.list") == {} and partials(d)
        assert set(partials(d)) == set(references(d))
        for name, (host, digest_, size) in references(d).items():
            assert (host, digest_) == (r.host + "/slow:1", "sha256:" + name[len("download-"):])
            assert int(size) == len(image.documents[digest_][1])
        assert not [s for s in d.json("snapshots", "ls")], "layers are left"
        slow.release()
        d.check("images", "pull", r.host + "/slow:1")
        assert slow.ranges[0] is None and int(slow.ranges[-1].split("=")[1].rstrip("-")) >= 390000, slow.ranges
        assert set(blobs(d)) == set(image.documents) and not partials(d)
        assert not d.json("leases", "ls"), d.json("leases", "ls")


def test_what_a_pull_has_loaded_is_listed_as_ingests_and_dropped_unless_it_goes_on():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 400000)
        ref, size = "download-" + digest[7:], len(image.documents[digest][1])
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: partial_size(d, digest) >= 390000, "a part has come")
        # In all namespaces, among those of clients, in order, page by page.
        for name in ("aaa", "zzz"):
            d.call("content.write", "ref=" + name, "writer=w")
        names = [i["ref"] for i in d.json("content", "active")]
        assert names == ["aaa"] + sorted(partials(d)) + ["zzz"] and ref in names, names
        assert sorted(i["ref"] for i in d.json("-n", "other", "content", "active")) == sorted(partials(d))
        paged, after = [], ""
        while True:
            page = d.call("content.ingests", "limit=1", "after=" + after)
            paged += [i["ref"] for i in page.get("ingests", [])]
            after = page.get("after", "")
            if not after:
                break
        assert paged == names, (paged, names)
        status = d.call("content.status", "ref=" + ref)["ingest"]
        assert status["expected"] == digest and status["total"] == size and 390000 <= status["offset"] < size, status
        assert [i["ref"] for i in d.json("content", "active", "^" + ref)] == [ref]
        for name in partials(d):
            refused = d("bus", "call", "content.abort", "ref=" + name)
            assert refused.returncode == 1 and b"is being loaded by a pull" in refused.stderr, refused
        pull.send_signal(signal.SIGINT)
        assert pull.wait(30) == 130, pull.communicate()
        pull.communicate()
        wait_for(lambda: not d.call("image.operations").get("operations"), "the operation has ended")
        left = partials(d)
        d.call("content.abort", "ref=" + ref)
        there = partials(d)
        assert sorted(there) == sorted(set(left) - {ref}), (ref, left, there)
        for method in ("content.abort", "content.status"):
            gone = d("bus", "call", method, "ref=" + ref)
            assert gone.returncode == 1 and b"no ingest" in gone.stderr, gone
        # It is loaded from its first byte again.
        slow.release()
        d.check("images", "pull", r.host + "/slow:1")
        assert set(slow.ranges) == {None} and set(blobs(d)) == set(image.documents), slow.ranges
        assert [i["ref"] for i in d.json("content", "active")] == ["aaa", "zzz"]


def test_a_server_without_ranges_is_gone_on_with_all_the_same():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 400000, with_ranges=False)
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: partial_size(d, digest) >= 390000, "a part has come")
        pull.send_signal(signal.SIGINT)
        pull.communicate(timeout=30)
        slow.release()
        d.check("images", "pull", r.host + "/slow:1")
        assert set(blobs(d)) == set(image.documents)


def kill_amidst(credentials):
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 300000)
        if credentials:
            plain = dict(r.answers)

            def guard(found):
                def answer(handler):
                    if not handler.headers.get("Authorization"):
                        return registry.reply(handler, 401, b"{}", [("WWW-Authenticate", "Basic")])
                    return found(handler) if callable(found) else registry.reply(handler, found[0], found[2], found[1])
                return answer
            r.answers = {path: guard(found) for path, found in plain.items()}
        pull = d.start("images", "pull", *(["--user", "a:b"] if credentials else []), r.host + "/slow:1")
        for n in range(1, 4):
            wait_for(lambda: len(slow.ranges) == n and partial_size(d, digest) == 300000 and children(d), "a part has come")
            old = children(d)
            d.kill("davit-image")
            wait_for(lambda: not any(map(d.is_alive, old)), "the child has ended with its parent")
        wait_for(lambda: len(slow.ranges) == 4, "it goes on by itself")
        slow.release()
        out, err = pull.communicate(timeout=60)
        assert pull.returncode == 0, err
        assert set(blobs(d)) == set(image.documents) and not partials(d)
        assert slow.ranges == [None] + 3 * ["bytes=300000-"], slow.ranges


def test_a_pull_survives_sigkill_of_the_image_service():
    kill_amidst(credentials=False)


def test_a_pull_with_a_password_survives_sigkill_of_the_image_service():
    kill_amidst(credentials=True)


def test_a_pull_goes_on_after_davit_was_stopped_and_started():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 300000)
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: partial_size(d, digest) == 300000 and children(d), "a part has come")
        (child,) = children(d)
        d.down()
        assert not d.is_alive(child), "a child is left"
        d.up()
        wait_for(lambda: len(slow.ranges) == 2, "it goes on by itself")
        slow.release()
        _, err = pull.communicate(timeout=60)
        assert pull.returncode == 0, err
        assert set(blobs(d)) == set(image.documents) and not partials(d)


def test_a_pull_whose_caller_died_with_its_password_waits_for_nobody_who_cancels_it():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 300000)
        pull = d.start("images", "pull", "--user", "a:b", r.host + "/slow:1")
        wait_for(lambda: partial_size(d, digest) == 300000 and children(d), "a part has come")
        pull.kill()
        pull.communicate()
        # The broker would ask again, as it has the request that nobody has answered.
        d.kill("davit-broker", "davit-image")
        operation = wait_for(lambda: d.call("image.operations").get("operations"), "it is taken up")[0]
        assert operation["method"] == "image.pull", operation
        d.check("operations", "cancel", operation["id"])
        wait_for(lambda: not d.call("image.operations").get("operations"), "it has ended")
        assert not blobs(d) and partials(d) and len(slow.ranges) == 1, "it began without its password"
        slow.release()


class NameServer:
    """Answers every question for an address with 127.0.0.1."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.names = []

    def run(self):
        while True:
            try:
                data, sender = self.socket.recvfrom(512)
            except OSError:
                return
            if not data:
                return
            labels, at = [], 12
            while data[at]:
                labels.append(data[at + 1:at + 1 + data[at]].decode())
                at += 1 + data[at]
            self.names.append(".".join(labels))
            question = data[12:at + 5]
            is_address = question[-4:-2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes([127, 0, 0, 1]) if is_address else b""
            self.socket.sendto(data[:2] + b"\x81\x80\0\1\0" + bytes([bool(answer)]) + b"\0\0\0\0" + question + answer, sender)

    def __enter__(self):
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def test_names_of_registries_are_resolved_as_this_host_does():
    """By /etc/hosts and by DNS, although the child sees neither of this host's files."""
    address = "127.%d.%d.%d" % (random.randrange(1, 250), random.randrange(1, 250), random.randrange(2, 250))
    image = small_image(size=3000)
    with FakeRegistry() as r, NameServer(address) as names:
        r.put_image("a", "1", image.documents, image.target["digest"])
        d = Davit()
        own = {"hosts": "127.0.0.1 localhost one.test\n", "resolv.conf": "nameserver %s\n" % address,
               "nsswitch.conf": "hosts: files dns\n"}
        for name, text in own.items():
            with open(os.path.join(d.work, name), "w") as f:
                f.write(text)
        script = " && ".join("mount --bind %s/%s $(realpath /etc/%s)" % (d.work, n, n) for n in own)
        plain, d.base = d.base, ["unshare", "-m", "sh", "-c", script + ' && exec "$@"', "sh"] + d.base
        with d:
            d.base = plain
            for name in ("one.test", "two.test"):
                d.check("images", "pull", "--plain-http", "%s:%d/a:1" % (name, r.port))
            assert set(names.names) == {"two.test"}, names.names


def test_two_pulls_of_one_image_load_each_blob_once():
    image = small_image(("plain",), size=500000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 300000)
        pulls = [d.start("images", "pull", r.host + "/slow:1") for _ in range(3)]
        wait_for(lambda: partial_size(d, digest) >= 290000 and len(children(d)) >= 3, "all are at it")
        slow.release()
        for pull in pulls:
            _, err = pull.communicate(timeout=60)
            assert pull.returncode == 0, err
        assert len(slow.ranges) == 1, slow.ranges
        assert set(blobs(d)) == set(image.documents) and not partials(d)


def test_so_many_connections_as_were_asked_for():
    image = Image()
    image.add([registry.random_layer("f%d" % i, 20000, i) for i in range(12)])
    with FakeRegistry() as r, Davit() as d:
        r.put_image("many", "1", image.documents, image.target["digest"])
        lock, now, most = threading.Lock(), [0], [0]
        enough = threading.Event()

        def counted(found, wanted):
            def answer(handler):
                with lock:
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                    if now[0] >= wanted:
                        enough.set()
                enough.wait(10)
                registry.reply(handler, found[0], found[2], found[1])
                with lock:
                    now[0] -= 1
            return answer
        plain = dict(r.answers)
        for option, wanted in (([], 3), (["--max-concurrent-downloads", "6"], 6)):
            enough.clear()
            most[0] = 0
            r.answers = {p: counted(f, wanted) if "/blobs/" in p else f for p, f in plain.items()}
            d.check("images", "pull", *option, r.host + "/many:1")
            assert most[0] == wanted, most
            d.check("images", "rm", "--sync", r.host + "/many:1")
        result = d("images", "pull", "--max-concurrent-downloads", "17", r.host + "/many:1")
        assert result.returncode != 0 and b"16" in result.stderr, result


def test_images_of_very_many_blobs():
    with FakeRegistry() as r, Davit() as d:
        image = Image()
        entries = []
        def add(n, in_each):
            for _ in range(n):
                made = [layers.tar([layers.f("%d-%d" % (len(entries), j))]) for j in range(in_each)]
                entries.append(image.add(made, ("plain",)))
            image.index(entries)
        add(*(18, 120) if os.environ.get("SLOW") else (6, 100))
        r.put_image("many", "1", image.documents, image.target["digest"])
        name = r.host + "/many:1"
        d.check("images", "pull", "--all-platforms", "--no-unpack", "--max-concurrent-downloads", "16", name, seconds=120)
        assert len(d.check("content", "ls", "-q").split()) == len(image.documents) > 600
        out = os.path.join(d.work, "many.tar")
        d.check("images", "export", "--all-platforms", out, name, seconds=120)
        with Davit() as elsewhere:
            elsewhere.check("images", "import", "--all-platforms", "--no-unpack", out, seconds=120)
            assert len(elsewhere.check("content", "ls", "-q").split()) == len(image.documents)


def test_mirrors_of_a_hosts_toml_come_first_and_get_no_credentials():
    image = small_image(("gzip",), size=3000)
    with FakeRegistry() as mirror, FakeRegistry() as own, Davit() as d:
        for r in (mirror, own):
            r.put_image("a", "1", image.documents, image.target["digest"])
        top = os.path.join(d.work, "hosts")
        os.makedirs(os.path.join(top, "registry.example"))
        path = os.path.join(top, "registry.example", "hosts.toml")

        def write(text):
            with open(path, "w") as f:
                f.write(text)
        write("""
# the registry itself, then its mirrors
server = "http://%s"
[host."http://127.0.0.1:%d"]   # nobody there
  capabilities = ["pull", "resolve"]
[host."http://%s"]
  capabilities = ["pull", "resolve"]
  [host."http://%s".header]
    x-mirror = ["1"]
""" % (own.host, registry.free_port(), mirror.host, mirror.host))
        pull = ["images", "pull", "--hosts-dir", top, "--user", "anna:pw", "registry.example/a:1"]
        d.check(*pull)
        assert not own.requests and mirror.requests
        assert all("Authorization" not in h and h.get("x-mirror") == "1" and "ns=registry.example" in p
                   for _, p, h in mirror.requests), mirror.requests
        # What the mirror lacks, or has wrongly, comes from the registry.
        d.check("images", "rm", "--sync", "registry.example/a:1")
        layer = json.loads(image.documents[image.target["digest"]][1])["layers"][0]["digest"]
        mirror.answers["/v2/a/blobs/" + layer] = (200, [], b"x" * len(image.documents[layer][1]))
        mirror.answers.pop("/v2/a/manifests/1")
        d.check(*pull)
        assert {p.split("?")[0] for _, p, _ in own.requests} == {"/v2/a/manifests/1", "/v2/a/blobs/" + layer}, own.requests
        # By its digest an image may come from one that resolves no names.
        own.requests.clear()
        write('server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull"]\n' % (own.host, mirror.host))
        d.check("images", "rm", "--sync", "registry.example/a:1")
        by_digest = "registry.example/a@" + image.target["digest"]
        d.check(*pull[:-1], by_digest)
        assert {p.split("?")[0] for _, p, _ in own.requests} == {"/v2/a/blobs/" + layer}, own.requests
        d.check("images", "tag", by_digest, "registry.example/a:1")
        write('server = "http://%s"' % own.host)
        # Push goes to the one that may be pushed to.
        own.answers.clear()
        own.requests.clear()
        d("images", "push", "--hosts-dir", top, "registry.example/a:1")
        assert own.requests and all(m in ("HEAD", "POST") for m, _, _ in own.requests)
        for text, word in (('server = "ftp://x"', "neither http"), ("server = 1", "server"), ("x = ", "line 1"),
                           ('server = "http://a"\ncapabilities = ["fly"]', "fly"), ('[host."http://a b"]', "URL"),
                           ('server = "http://a"\nca = "/nowhere/ca"', "/nowhere/ca")):
            write(text)
            result = d(*pull)
            assert result.returncode == 1 and word.encode() in result.stderr and b"hosts.toml" in result.stderr, result
        result = d("bus", "call", "image.pull", "name=a/b", 'registry:={"hosts_dir":"relative"}')
        assert result.returncode != 0 and b"absolute" in result.stderr, result


# ---- pushing, progress ----

def test_a_push_through_a_proxy_that_cuts_ends_whole():
    generator = random.Random(3)
    with Registry() as r, Davit() as d:
        image = small_image(("plain",), size=300000)
        put(d, r, image, "a:1")
        d.check("images", "pull", r.host + "/a:1")
        with Proxy(r.port, lambda n: ("cut", generator.randrange(100, 700)) if n % 2 else None) as proxy:
            for i in range(5):
                result = d("images", "push", "%s/to%d/x:1" % (proxy.host, i), r.host + "/a:1", seconds=120)
                if result.returncode:
                    d.check("images", "push", "%s/to%d/x:1" % (r.host, i), r.host + "/a:1")
                assert r.digest("to%d/x:1" % i) == image.target["digest"]
        r.corrupt(image.target["digest"])


def large_image(d):
    """An image of one layer of 4 MB, in davit's store; the layer."""
    image = Image()
    image.add([registry.random_layer("big", 4000000, 9)], ("plain",))
    (layer,) = [data for kind, data in image.documents.values() if len(data) > 1000000]
    layout = os.path.join(d.work, "large")
    image.write_layout(layout, "l:1")
    archive = os.path.join(d.work, "large.tar")
    subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
    d.check("images", "import", "--no-unpack", "--base-name", "l", archive)
    (name,) = d.check("images", "ls", "-q").split()
    return image, layer, name


def test_an_upload_that_was_cut_goes_on_where_the_registry_has_it():
    with UploadRegistry() as r, Davit() as d:
        image, layer, name = large_image(d)
        limit = 1500000
        with UploadProxy(r.port, lambda data, passed: limit - passed if passed + len(data) > limit else None) as proxy:
            d.check("images", "push", proxy.host + "/to/x:1", name, seconds=120)
        patches = [(span, size) for method, span, size in r.requests if method == "PATCH"]
        assert sum(size for _, size in patches) == len(layer), (len(layer), r.requests)
        assert patches[0][0] is None and len(patches) >= 3, patches
        done = patches[0][1]
        for span, size in patches[1:]:
            assert span == "%d-%d" % (done, len(layer) - 1), (patches, done)
            done += size
        assert r.objects["sha256:" + hashlib.sha256(layer).hexdigest()] == layer
        assert image.target["digest"] == "sha256:" + hashlib.sha256(r.objects["1"]).hexdigest()


def test_an_upload_to_dockers_registry_that_was_cut_is_finished_or_begun_anew():
    with Registry() as r, Davit() as d:
        image, layer, name = large_image(d)
        cuts = []

        def at_its_end(data, _):
            if not cuts and data.startswith(b"PUT ") and b"/blobs/uploads/" in data:
                cuts.append("end")
                return 0
            return None
        with UploadProxy(r.port, at_its_end) as proxy:
            d.check("images", "push", proxy.host + "/one/x:1", name, seconds=120)
            assert cuts and proxy.passed < len(layer) * 1.5, "all of it came again: %d" % proxy.passed
        assert r.digest("one/x:1") == image.target["digest"]

        def amidst(data, passed):
            if len(cuts) == 1 and passed + len(data) > 1500000:
                cuts.append("amidst")
                return 1500000 - passed
            return None
        with UploadProxy(r.port, amidst) as proxy:
            d.check("images", "push", proxy.host + "/two/x:1", name, seconds=120)
        assert len(cuts) == 2 and r.digest("two/x:1") == image.target["digest"]


def test_a_damaged_blob_is_not_pushed_and_is_mended_by_a_pull():
    with Registry() as r, Davit() as d:
        image = small_image(("plain",), size=30000)
        put(d, r, image, "a:1")
        ref = r.host + "/a:1"
        d.check("images", "pull", ref)
        layer = json.loads(image.documents[image.target["digest"]][1])["layers"][1]["digest"]
        os.truncate(os.path.join(d.root, "image/content/blobs/sha256", layer[7:]), 100)
        result = d("images", "push", r.host + "/b:1", ref)
        assert result.returncode == 1 and layer.encode() in result.stderr, result
        d.check("images", "pull", ref)
        assert set(blobs(d)) == set(image.documents)
        path = os.path.join(d.root, "image/content/blobs/sha256", image.target["digest"][7:])
        with open(path, "r+b") as f:
            f.write(b"X")
        result = d("images", "push", r.host + "/b:1", ref)
        assert result.returncode == 1 and b"damaged" in result.stderr, result
        d.check("images", "pull", ref)
        d.check("images", "push", r.host + "/b:1", ref)
        assert r.digest("b:1") == image.target["digest"]


def test_progress_is_told_by_few_events_lines_and_bars():
    image = small_image(("plain",), size=400000)
    with FakeRegistry() as r, Davit() as d:
        digest, slow = slow_registry(r, image, 1, 200000)
        begin = time.monotonic()
        pull = d.start("images", "pull", r.host + "/slow:1")
        wait_for(lambda: [e for e in d.events() if e["topic"] == "/images/progress" and any(
            t["digest"] == digest and t["status"] == "running" and t.get("offset") == 200000
            for t in e["event"].get("transfers", []))], "progress is told")
        slow.release()
        _, err = pull.communicate(timeout=60)
        seconds = time.monotonic() - begin
        assert pull.returncode == 0 and digest[:19].encode() in err, err
        told = [e["event"] for e in d.events() if e["topic"] == "/images/progress"]
        assert told[0]["state"] == "resolving" and told[-1]["state"] == "done", told
        assert len(told) <= 4 + 4 * seconds, (len(told), seconds)
        assert all(e["name"] == r.host + "/slow:1" and e["method"] == "image.pull" for e in told)
        # On a terminal: bars.
        d.check("images", "rm", "--sync", r.host + "/slow:1")
        digest, slow = slow_registry(r, image, 1, 200000)
        main_fd, sub_fd = pty.openpty()
        pull = subprocess.Popen(d.base + ["images", "pull", r.host + "/slow:1"], stderr=sub_fd, stdout=subprocess.DEVNULL,
                                stdin=subprocess.DEVNULL, env=d.env)
        os.close(sub_fd)
        shown = b""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([main_fd], [], [], 0.1)[0]:
                try:
                    data = os.read(main_fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                shown += data
            if b"running" in shown and b"=>" in shown:
                slow.release()
        os.close(main_fd)
        assert pull.wait(10) == 0 and b"=>" in shown and b"\x1b[" in shown, shown[-500:]


if __name__ == "__main__":
    main(globals())
