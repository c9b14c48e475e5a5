"""The sample shop of gateways/ behind the release binary, with nginx as every backend."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import issuer
from nginx import Nginx

BINARY = os.environ["PORTCULLIS"]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 20

# What the shop's samples have no server for: WebSocket and gRPC, and a name that wrk can resolve.
EXTRAS = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: extras, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 443, name: https-extras, protocol: HTTPS}
      hosts: [shop/live.shop.example.com]
      tls: {mode: SIMPLE, credentialName: shop-tls}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: local, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    # For clients that name whom they connect to: Istio takes no short name for a host.
    - port: {number: 8443, name: https-any, protocol: HTTPS}
      hosts: ["shop/*"]
      tls: {mode: SIMPLE, credentialName: shop-tls}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: live, namespace: shop}
spec:
  hosts: [live.shop.example.com]
  gateways: [istio-system/extras]
  http:
    - match: [{headers: {content-type: {prefix: application/grpc}}}]
      route: [{destination: {host: live.shop.internal, port: {number: 81}}}]
    - route: [{destination: {host: live.shop.internal, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: local, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [istio-system/local]
  http:
    - route: [{destination: {host: catalogue.shop.internal, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: live, namespace: shop}
spec:
  hosts: [live.shop.internal]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
    - {number: 80, name: http, protocol: HTTP}
    - {number: 81, name: grpc, protocol: GRPC}
  endpoints:
    - {address: 127.0.0.1, ports: {http: WEBSOCKET_PORT, grpc: GRPC_PORT}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what, condition):
    """Awaits a condition."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited for: {what}"
        time.sleep(0.01)


class Edge:
    """A running gateway, its folder, ports and backends."""

    def __init__(self, folder):
        self.folder = folder
        names = ["http", "https", "any", "status", "metrics", "admin", "websocket", "rpc"]
        self.ports = {name: free_port() for name in names}
        self.backends = {name: free_port() for name in ["9400", "9401", "9402", "9403"]}
        self.log = folder / "gateway.log"
        subprocess.run([BINARY, "certs"], cwd=folder, check=True, capture_output=True)
        self.issuer = issuer.Issuer()
        self._configure()

    def _configure(self):
        for sample in (ROOT / "gateways" / "shop").glob("*.yaml"):
            text = sample.read_text()
            for written, port in self.backends.items():
                text = text.replace(written, str(port))
            self.config(sample.stem, text)
        self.config("extras", self.extras())

    def extras(self):
        text = EXTRAS.replace("WEBSOCKET_PORT", str(self.ports["websocket"]))
        return text.replace("GRPC_PORT", str(self.ports["rpc"]))

    def __enter__(self):
        self.nginx = Nginx(self)
        ports = self.ports
        command = [BINARY, "run", "--config", "config", "--certs", "certs"]
        command += ["--bind", "127.0.0.1", "--workers", "2", "--state", "off"]
        command += ["--access-log", "json"]
        for port, name in [(80, "http"), (443, "https"), (8443, "any")]:
            command += [f"--port-map={port}={ports[name]}"]
        for flag in ["status", "metrics", "admin"]:
            command += [f"--{flag}", f"127.0.0.1:{ports[flag]}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        try:
            wait("the gateway is ready", self._ready)
            wait("the issuer's keys are there", lambda: "_jwks_keys" in self.own("metrics", "/metrics"))
        except BaseException:
            self.process.kill()
            self.nginx.stop()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.nginx.stop()
        assert code == 0, self.log.read_text()
        assert "panicked" not in self.log.read_text()

    def _ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.own("status", "/healthz/ready")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def config(self, name, text):
        self.write(f"config/{name}.yaml", text)

    def write(self, name, text):
        """Writes a file beside its name, then renames it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp~")
        beside.write_text(text)
        beside.rename(path)

    def own(self, port, path):
        """A page of one of the gateway's own ports."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}") as answer:
            return answer.read().decode()

    def cert(self, name):
        return str(self.folder / "certs" / name)

    @property
    def ca(self):
        return self.cert("edge-ca/tls.crt")

    def curl(self, *arguments):
        """Runs curl with every name led to the gateway."""
        command = ["curl", "--silent", "--show-error", "--max-time", "60", "--cacert", self.ca]
        command += ["--connect-to", f":443:127.0.0.1:{self.ports['https']}"]
        command += ["--connect-to", f":80:127.0.0.1:{self.ports['http']}"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    def client(self):
        """curl's arguments for the client certificate."""
        return ["--cert", self.cert("client/tls.crt"), "--key", self.cert("client/tls.key")]
