"""Registries for tests: Debian's docker-registry, a token server, and proxies that misbehave; each on a free port of
127.0.0.1, in a temporary directory, ended by its context."""

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import layers
from davit import wait_for


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Certificates:
    """A CA of our own, a server's certificate for 127.0.0.1 and localhost, and a client's."""

    def __init__(self, directory):
        self.directory = directory
        self.ca, self.ca_key = self.path("ca.crt"), self.path("ca.key")
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=davit test CA",
                     "-keyout", self.ca_key, "-out", self.ca)
        self.cert, self.key = self.make("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.client_cert, self.client_key = self.make("client", "extendedKeyUsage=clientAuth")

    def path(self, name):
        return os.path.join(self.directory, name)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def make(self, name, extension):
        request, cert, key, extensions = (self.path(name + end) for end in (".csr", ".pem", ".key", ".ext"))
        with open(extensions, "w") as out:
            out.write(extension)
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=" + name, "-keyout", key, "-out", request)
        self.openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial",
                     "-days", "2", "-extfile", extensions, "-out", cert)
        return cert, key


class Registry:
    """docker-registry. tls: over TLS with Certificates; users: {name: password} by htpasswd; token: realm of a token server
    and its root certificate."""

    def __init__(self, tls=False, users=None, client_ca=False, token=None):
        self.work = tempfile.mkdtemp(prefix="dvreg-", dir="/tmp")
        self.port = free_port()
        self.host = "127.0.0.1:%d" % self.port
        self.users, self.process = users, None
        self.certificates = Certificates(self.work) if tls else None
        config = {"version": "0.1", "log": {"level": "error", "accesslog": {"disabled": True}},
                  "storage": {"filesystem": {"rootdirectory": os.path.join(self.work, "data")},
                              "delete": {"enabled": True}, "maintenance": {"uploadpurging": {"enabled": False}}},
                  "http": {"addr": self.host, "relativeurls": True}}
        if tls:
            config["http"]["tls"] = {"certificate": self.certificates.cert, "key": self.certificates.key}
            if client_ca:
                config["http"]["tls"]["clientcas"] = [self.certificates.ca]
        if users:
            path = os.path.join(self.work, "htpasswd")
            for i, (name, password) in enumerate(users.items()):
                subprocess.run(["htpasswd", "-Bbi" + ("c" if i == 0 else ""), path, name][:4], input=password.encode(),
                               check=True, capture_output=True)
            config["auth"] = {"htpasswd": {"realm": "test", "path": path}}
        if token:
            config["auth"] = {"token": {"realm": token[0], "service": "test-service", "issuer": "test",
                                        "rootcertbundle": token[1]}}
        self.config = os.path.join(self.work, "config.yml")
        with open(self.config, "w") as out:
            json.dump(config, out)  # JSON is YAML

    def __enter__(self):
        self.log = open(os.path.join(self.work, "log"), "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", self.config], stdout=self.log, stderr=self.log,
                                        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"})
        try:
            wait_for(self.is_listening, "the registry listens", 20)
        except BaseException:
            with open(os.path.join(self.work, "log")) as log:
                print(log.read())
            self.end()
            raise
        return self

    def is_listening(self):
        assert self.process.poll() is None, "docker-registry has ended"
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)

    # ---- what is in it ----
    def skopeo_options(self, side):
        words = ["--%s-tls-verify=%s" % (side, "true" if self.certificates else "false")]
        if self.certificates:
            words.append("--%s-cert-dir=%s" % (side, self.skopeo_certificates()))
        if self.users:
            words.append("--%s-creds=%s:%s" % ((side,) + next(iter(self.users.items()))))
        return words

    def skopeo_certificates(self):
        directory = os.path.join(self.work, "certs.d")
        if not os.path.isdir(directory):
            os.mkdir(directory)
            for source, name in ((self.certificates.ca, "ca.crt"), (self.certificates.client_cert, "client.cert"),
                                 (self.certificates.client_key, "client.key")):
                shutil.copy(source, os.path.join(directory, name))
        return directory

    def put(self, layout, name, *options):
        """Copies an OCI layout there by skopeo; options are skopeo's."""
        subprocess.run(["skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", *options,
                        *self.skopeo_options("dest"), "oci:" + layout, "docker://%s/%s" % (self.host, name)], check=True)

    def get(self, name, layout, *options):
        subprocess.run(["skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", *options,
                        *self.skopeo_options("src"), "docker://%s/%s" % (self.host, name), "oci:" + layout], check=True)

    def digest(self, name):
        """Of the manifest or index that the tag has, as the registry gives it to anybody."""
        import hashlib
        return "sha256:" + hashlib.sha256(self.raw(name)).hexdigest()

    def raw(self, name):
        options = [o.replace("--src-", "--") for o in self.skopeo_options("src")]
        return subprocess.run(["skopeo", "inspect", "--raw", *options, "docker://%s/%s" % (self.host, name)],
                              check=True, stdout=subprocess.PIPE).stdout

    def corrupt(self, digest):
        """Another byte in a blob, behind the registry's back."""
        path = os.path.join(self.work, "data/docker/registry/v2/blobs/sha256", digest[7:9], digest[7:], "data")
        with open(path, "r+b") as data:
            first = data.read(1)
            data.seek(0)
            data.write(bytes([first[0] ^ 1]))


class TokenServer:
    """Gives tokens that docker-registry takes: JWT, signed by a key whose certificate it trusts. Notes what it was asked."""

    def __init__(self, certificates, users):
        self.certificates, self.users, self.requests = certificates, users, []
        self.port = free_port()
        self.realm = "http://127.0.0.1:%d/token" % self.port

    @staticmethod
    def b64(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    def token(self, subject, scopes):
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        with open(self.certificates.cert) as f:
            der = ssl.PEM_cert_to_DER_cert(f.read())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": "test", "sub": subject, "aud": "test-service", "exp": now + 600, "nbf": now - 10, "iat": now,
                  "jti": str(random.random()), "access": access}
        signed = self.b64(json.dumps(header).encode()) + "." + self.b64(json.dumps(claims).encode())
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.certificates.key], input=signed.encode(),
                                   stdout=subprocess.PIPE, check=True).stdout
        return signed + "." + self.b64(signature)

    def answer(self, handler, body):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(handler.path).query if not body else body)
        authorization = handler.headers.get("Authorization", "")
        self.requests.append((handler.command, query, authorization))
        subject = ""
        if authorization.startswith("Basic "):
            subject, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
            if self.users.get(subject) != password:
                return reply(handler, 401, {"details": "incorrect username or password"})
        elif query.get("refresh_token"):
            if query["refresh_token"] != ["refresh-me"] or handler.command != "POST":
                return reply(handler, 401, {"error": "bad refresh token"})
            subject = "refreshed"
        if not subject:
            return reply(handler, 401, {"details": "anonymous access is not allowed"})
        scopes = [s for words in query.get("scope", []) for s in words.split(" ")]
        key = "access_token" if body else "token"
        return reply(handler, 200, {key: self.token(subject, scopes), "expires_in": 600})

    def __enter__(self):
        self.server = serve(self.port, self.answer)
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def reply(handler, status, document, headers=()):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def serve(port, answer):
    """An HTTP server in a thread; @answer(handler, body) answers each request."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            size = int(self.headers.get("Content-Length") or 0)
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                answer(self, self.rfile.read(size).decode(errors="replace") if size else "")

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class FakeRegistry:
    """Answers as a test says: answers[(method, path)] or answers[path] is (status, headers, body) or a function of the
    handler. Notes every request with its headers."""

    def __init__(self, answers=None):
        self.answers, self.requests = answers or {}, []
        self.port = free_port()
        self.host = "127.0.0.1:%d" % self.port

    def answer(self, handler, _):
        path = handler.path.split("?")[0]
        self.requests.append((handler.command, handler.path, dict(handler.headers.items())))
        found = self.answers.get((handler.command, path), self.answers.get(path, self.answers.get("*")))
        if callable(found):
            return found(handler)
        status, headers, body = found or (404, [], {"errors": [{"code": "NAME_UNKNOWN", "message": "not here"}]})
        return reply(handler, status, body, headers)

    def put_image(self, repository, tag, documents, target):
        """documents: {digest: (media type, bytes)}; blobs have no media type."""
        for digest, (media_type, data) in documents.items():
            kind = "manifests" if media_type else "blobs"
            headers = [("Content-Type", media_type or "application/octet-stream"), ("Docker-Content-Digest", digest)]
            self.answers["/v2/%s/%s/%s" % (repository, kind, digest)] = (200, headers, data)
            if digest == target:
                self.answers["/v2/%s/manifests/%s" % (repository, tag)] = (200, headers, data)

    def __enter__(self):
        self.server = serve(self.port, self.answer)
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Proxy:
    """Passes bytes to a port of this host; @mood(proxy, connection number) says what happens to what comes back:
    None, or (kind, after so many bytes) with kind cut, corrupt or delay."""

    def __init__(self, port, mood=lambda n: None):
        self.target, self.mood, self.count, self.passed = port, mood, 0, 0
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.host = "127.0.0.1:%d" % self.port
        self.is_closing = False

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.is_closing = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        while not self.is_closing:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self.serve_one, args=(client, self.mood(self.count)), daemon=True).start()

    def serve_one(self, client, mood):
        server = self.connect(client)
        if server:
            threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
            self.pump(server, client, mood)

    def connect(self, client):
        try:
            return socket.create_connection(("127.0.0.1", self.target), 10)
        except OSError:
            client.close()
            return None

    @staticmethod
    def close_both(*sockets):
        for call in (lambda s: s.shutdown(socket.SHUT_RDWR), lambda s: s.close()):
            for s in sockets:
                with contextlib.suppress(OSError):
                    call(s)

    def pump(self, source, sink, mood):
        kind, left = mood or (None, 0)
        try:
            while True:
                data = source.recv(16384)
                if not data:
                    break
                if kind and left <= len(data):
                    if kind == "cut":
                        sink.sendall(data[:left])
                        break
                    if kind == "corrupt" and left < len(data):
                        data = data[:left] + bytes([data[left] ^ 0x55]) + data[left + 1:]
                    if kind == "delay":
                        time.sleep(0.3)
                    kind = None
                left -= len(data)
                self.passed += len(data) if mood is not None or kind is None else 0
                sink.sendall(data)
        except OSError:
            pass
        self.close_both(source, sink)


class UploadProxy(Proxy):
    """The same for what goes to the server: @cut(data, bytes before it of this connection) says how much of it still
    goes before the connection is cut; None: all, and it is not."""

    def __init__(self, port, cut):
        super().__init__(port)
        self.cut = cut

    def serve_one(self, client, mood):
        server = self.connect(client)
        if server:
            threading.Thread(target=self.pump, args=(server, client, None), daemon=True).start()
            self.send(client, server)

    def send(self, client, server):
        passed = 0
        with contextlib.suppress(OSError):
            while data := client.recv(16384):
                left = self.cut(data, passed)
                server.sendall(data if left is None else data[:left])
                passed += len(data) if left is None else left
                self.passed += len(data) if left is None else left
                if left is not None:
                    break
        self.close_both(client, server)


class UploadRegistry:
    """Takes uploads as the distribution protocol has it, parts that were cut as well; notes what came."""

    def __init__(self):
        self.uploads, self.objects, self.requests = {}, {}, []
        self.numbers = itertools.count()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def tell(self, status, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def take(self):
                left, data = int(self.headers.get("Content-Length") or 0), b""
                while left > len(data) and (part := self.rfile.read1(min(65536, left - len(data)))):
                    data += part
                return data, len(data) == left

            def do_HEAD(self):
                found = registry.objects.get(self.path.split("/")[-1])
                self.tell(*[200] if found else [404])

            def do_POST(self):
                name = str(next(registry.numbers))
                registry.uploads[name] = b""
                self.tell(202, Location=self.path.split("?")[0] + name)

            def do_GET(self):
                data = registry.uploads[self.path.split("/")[-1]]
                registry.requests.append(("GET", None, 0))
                self.tell(204, Location=self.path, Range="0-%d" % max(len(data) - 1, 0))

            def do_PATCH(self):
                name = self.path.split("/")[-1]
                data, is_whole = self.take()
                first = int((self.headers.get("Content-Range") or "0-").split("-")[0])
                registry.requests.append(("PATCH", self.headers.get("Content-Range"), len(data)))
                if first != len(registry.uploads[name]):
                    return self.tell(416)
                registry.uploads[name] += data
                if is_whole:
                    self.tell(202, Location=self.path, Range="0-%d" % (len(registry.uploads[name]) - 1))

            def do_PUT(self):
                data, _ = self.take()
                if "/uploads/" in self.path:
                    path, digest = self.path.split("?digest=")
                    data = registry.uploads.pop(path.split("/")[-1]) + data
                    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
                    registry.objects[digest] = data
                else:
                    registry.objects[self.path.split("/")[-1]] = data
                self.tell(201)

            def log_message(self, *_):
                pass

        self.port = free_port()
        self.host = "127.0.0.1:%d" % self.port
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class ConnectProxy(Proxy):
    """An HTTP proxy as HTTPS_PROXY names one: passes CONNECT on, to whom it is asked for, if the password is right; notes
    what it was asked."""

    def __init__(self, password=None):
        super().__init__(0)
        self.requests = []
        self.expected = password and b"Basic " + base64.b64encode(password.encode())

    def serve_one(self, client, _):
        head = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in head and len(head) < 65536:
                data = client.recv(4096)
                if not data:
                    break
                head += data
            lines = head.split(b"\r\n")
            words = lines[0].split()
            given = [l.split(b":", 1)[1].strip() for l in lines if l.lower().startswith(b"proxy-authorization:")]
            self.requests.append((words[0].decode(), words[1].decode(), bool(given)))
            if self.expected and given != [self.expected]:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n"
                               b"Content-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()
                return
            host, _, port = words[1].decode().rpartition(":")
            server = socket.create_connection((host, int(port)), 10)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
            self.pump(server, client, None)


# ---- images ----

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
HOST_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
OTHER_ARCHITECTURE = "arm64" if HOST_ARCHITECTURE == "amd64" else "amd64"


def compress(data, kind):
    import gzip
    if kind == "gzip":
        return gzip.compress(data, 1, mtime=0), LAYER + "+gzip"
    if kind == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout, LAYER + "+zstd"
    return data, LAYER


class Image:
    """An OCI image in memory: blobs, and the descriptor of its manifest or index."""

    def __init__(self):
        self.documents = {}  # digest: (media type of a manifest or index, else None; bytes)
        self.target = None

    def put(self, data, media_type, is_document=False):
        digest = layers.digest(data)
        self.documents[digest] = (media_type if is_document else None, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add(self, tars, kinds=("gzip",), architecture=HOST_ARCHITECTURE, **more):
        config = {"os": "linux", "architecture": architecture, "config": {"Cmd": ["/bin/true"], **more},
                  "rootfs": {"type": "layers", "diff_ids": [layers.digest(t) for t in tars]}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": self.put(json.dumps(config).encode(), CONFIG),
                    "layers": [self.put(*compress(t, kinds[i % len(kinds)])) for i, t in enumerate(tars)]}
        self.target = self.put(json.dumps(manifest).encode(), MANIFEST, True)
        return dict(self.target, platform={"os": "linux", "architecture": architecture})

    def index(self, entries):
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        self.target = self.put(json.dumps(document).encode(), INDEX, True)

    def write_layout(self, directory, name="latest"):
        os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)
        for digest, (_, data) in self.documents.items():
            with open(os.path.join(directory, "blobs", "sha256", digest[7:]), "wb") as out:
                out.write(data)
        with open(os.path.join(directory, "oci-layout"), "w") as out:
            out.write('{"imageLayoutVersion":"1.0.0"}')
        entry = dict(self.target, annotations={"org.opencontainers.image.ref.name": name})
        with open(os.path.join(directory, "index.json"), "w") as out:
            json.dump({"schemaVersion": 2, "manifests": [entry]}, out)
        return "%s:%s" % (directory, name)


def busybox_layer():
    with open("/bin/busybox", "rb") as f:
        data = f.read()
    return layers.tar([layers.d("bin"), layers.f("bin/busybox", data, mode=0o755)] +
                      [layers.link("bin/" + name, "busybox") for name in ("sh", "true", "cat", "echo")])


def random_layer(name, size, seed):
    """One file that does not compress."""
    return layers.tar([layers.f(name, random.Random(seed).randbytes(size))])
