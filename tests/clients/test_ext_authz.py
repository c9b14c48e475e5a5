"""CUSTOM policies, their providers written in another language: by gRPC with Envoy's messages, and by HTTP."""

import http.client
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

import authorizer
from edge import BINARY, free_port, wait

CONFIG = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: all, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 80, name: http, protocol: HTTP}
      hosts: ["*"]
    - port: {number: 443, name: tls, protocol: TLS}
      hosts: [allowed.example.com, denied.example.com]
      tls: {mode: SIMPLE, credentialName: shop-tls}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [istio-system/all]
  http: [{route: [{destination: {host: backend.shop.internal, port: {number: 80}}}]}]
  tcp: [{route: [{destination: {host: backend.shop.internal, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: shop}
spec:
  hosts: [backend.shop.internal]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: BACKEND}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: provider, namespace: shop}
spec:
  hosts: [provider.shop.internal]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: provider, protocol: PROTOCOL}]
  endpoints: [{address: 127.0.0.1, ports: {provider: PROVIDER}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: istio-system}
spec:
  action: CUSTOM
  provider: {name: asked}
  rules: [{to: [{operation: {paths: ["/private/*"]}}]}]
"""


class Backend(BaseHTTPRequestHandler):
    """Tells what it got."""

    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Asking:
    """A gateway whose CUSTOM policy asks a provider at a port."""

    def __init__(self, folder, kind, protocol, port, fields=""):
        self.folder = folder
        self.ports = {name: free_port() for name in ["http", "https", "status"]}
        self.backend = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
        self.backend.daemon_threads = True
        Thread(target=self.backend.serve_forever, daemon=True).start()
        text = CONFIG.replace("BACKEND", str(self.backend.server_port))
        text = text.replace("PROTOCOL", protocol).replace("PROVIDER", str(port))
        (folder / "config").mkdir()
        (folder / "config" / "all.yaml").write_text(text)
        subprocess.run([BINARY, "certs"], cwd=folder, check=True, capture_output=True)
        (folder / "mesh.yaml").write_text(
            f"extensionProviders: [{{name: asked, {kind}: {{service: shop/provider.shop.internal, "
            f"port: 80{fields}}}}}]\n"
        )

    def __enter__(self):
        command = [BINARY, "run", "--config", "config", "--certs", "certs", "--bind", "127.0.0.1"]
        command += ["--mesh-config", "mesh.yaml", "--state", "off", "--workers", "1"]
        command += ["--access-log", "json", "--admin", "off", "--metrics", "off"]
        command += [f"--port-map=80={self.ports['http']}", f"--port-map=443={self.ports['https']}"]
        command += ["--status", f"127.0.0.1:{self.ports['status']}"]
        self.log = self.folder / "gateway.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        wait("the gateway is ready", self._ready)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.backend.shutdown()
        self.backend.server_close()
        assert code == 0 and "panicked" not in self.log.read_text(), self.log.read_text()

    def _ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            url = f"http://127.0.0.1:{self.ports['status']}/healthz/ready"
            return urllib.request.urlopen(url).status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path, headers=()):
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=20)
        connection.request("GET", path, headers={"host": "a.example.com", **dict(headers)})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read().decode()
        connection.close()
        return found

    def secure(self, name):
        """What comes back over TLS that ends here, with bytes passed on."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.ports["https"]), timeout=20) as stream:
            with context.wrap_socket(stream, server_hostname=name) as secure:
                try:
                    secure.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    return secure.recv(1 << 16)
                except (ConnectionError, ssl.SSLError):
                    return b""


def test_a_grpc_server_allows_and_denies(tmp_path):
    with authorizer.Grpc() as provider, Asking(
        tmp_path, "envoyExtAuthzGrpc", "GRPC", provider.port, ", timeout: 10s"
    ) as gateway:
        assert gateway.get("/public")[0] == 200
        assert provider.asked == []
        status, headers, body = gateway.get("/private/ok?q=1", {"x-drop": "1", "x-user": "mallory", "x-a": "b"})
        seen = json.loads(body)
        assert (status, headers["x-seen"], seen["x-user"]) == (200, "yes", "alice")
        assert "x-drop" not in seen
        asked = provider.asked[-1]
        told = asked.request.http
        assert (told.method, told.path, told.host, told.scheme) == ("GET", "/private/ok?q=1", "a.example.com", "http")
        assert (told.protocol, told.headers["x-a"], told.headers[":path"]) == ("HTTP/1.1", "b", "/private/ok?q=1")
        assert asked.source.address.socket_address.address == "127.0.0.1"
        assert asked.destination.address.socket_address.port_value == gateway.ports["http"]
        status, headers, body = gateway.get("/private/deny")
        assert (status, headers["x-why"], body) == (402, "money", "pay")
        assert gateway.get("/private/bare")[0] == 403
        status, _, body = gateway.get("/private/fail")
        assert (status, body) == (403, "")


def test_a_grpc_server_is_asked_about_connections(tmp_path):
    with authorizer.Grpc() as provider, Asking(
        tmp_path, "envoyExtAuthzGrpc", "GRPC", provider.port, ", timeout: 10s"
    ) as gateway:
        assert gateway.secure("allowed.example.com").startswith(b"HTTP/1.")
        asked = provider.asked[-1]
        assert asked.tls_session.sni == "allowed.example.com"
        assert asked.destination.address.socket_address.port_value == gateway.ports["https"]
        assert gateway.secure("denied.example.com") == b""
        assert len(provider.asked) == 2
        wait("the denial is logged", lambda: "ext_authz_denied" in gateway.log.read_text())


def test_an_http_server_allows_and_denies(tmp_path):
    fields = (
        ", pathPrefix: /check, includeRequestHeadersInCheck: [x-a], headersToUpstreamOnAllow: [x-user], "
        "headersToDownstreamOnAllow: [x-seen], headersToDownstreamOnDeny: [x-seen]"
    )
    with authorizer.Http() as provider, Asking(
        tmp_path, "envoyExtAuthzHttp", "HTTP", provider.port, fields
    ) as gateway:
        status, headers, body = gateway.get("/private/ok", {"x-a": "1", "x-b": "2", "x-user": "mallory"})
        assert (status, headers["x-seen"], headers["x-internal"]) == (200, "yes", None)
        assert json.loads(body)["x-user"] == "alice"
        path, told = provider.asked[-1]
        told = {name.lower(): value for name, value in told.items()}
        assert (path, told["host"], told["x-a"]) == ("/check/private/ok", "a.example.com", "1")
        assert "x-b" not in told
        status, headers, body = gateway.get("/private/deny")
        assert (status, body, headers["x-seen"]) == (401, "who?", "yes")
        assert (headers["www-authenticate"], headers["x-internal"]) == ('Basic realm="x"', None)
        # A provider by HTTP says nothing of a connection.
        asked = len(provider.asked)
        assert gateway.secure("allowed.example.com") == b""
        assert len(provider.asked) == asked


@contextmanager
def dead(_):
    class Nobody:
        port = free_port()

    yield Nobody


KINDS = [
    ("envoyExtAuthzGrpc", "GRPC", authorizer.Grpc),
    ("envoyExtAuthzHttp", "HTTP", authorizer.Http),
]


@pytest.mark.parametrize("kind, protocol, server", KINDS)
@pytest.mark.parametrize("path, alive", [("/private/slow", True), ("/private/fail", True), ("/private/ok", False)])
@pytest.mark.parametrize(
    "policy, status", [("", 403), (", statusOnError: '503'", 503), (", failOpen: true", 200)]
)
def test_a_server_that_fails(tmp_path, kind, protocol, server, path, alive, policy, status):
    with (server() if alive else dead(None)) as provider, Asking(
        tmp_path, kind, protocol, provider.port, ", timeout: 1s" + policy
    ) as gateway:
        answer = gateway.get(path)
        assert answer[0] == status
        if status != 200:
            assert answer[2] == ""
            wait("the failure is logged", lambda: "ext_authz_error" in gateway.log.read_text())


def test_a_server_that_comes_back_is_asked_again(tmp_path):
    with authorizer.Grpc() as provider, Asking(
        tmp_path, "envoyExtAuthzGrpc", "GRPC", provider.port, ", timeout: 5s"
    ) as gateway:
        assert gateway.get("/private/ok")[0] == 200
        provider.server.stop(None).wait()
        assert gateway.get("/private/ok")[0] == 403
        again = authorizer.grpc.server(authorizer.ThreadPoolExecutor(2), handlers=[provider])
        again.add_insecure_port(f"127.0.0.1:{provider.port}")
        again.start()
        wait("it is asked again", lambda: gateway.get("/private/ok")[0] == 200)
        again.stop(None).wait()
