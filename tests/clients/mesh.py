"""A mesh with nothing but ours: the CA, a gateway that takes its identity from it, Envoys beside it."""

import hashlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request

from edge import BINARY, free_port, wait

TOKEN = "a-join-token-for-the-gateway"

CONFIG = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: mesh, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 80, name: http, protocol: HTTP}
      hosts: ["*"]
    - port: {number: 443, name: https, protocol: HTTPS}
      hosts: [mesh.example.com]
      tls: {mode: ISTIO_MUTUAL}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [istio-system/mesh]
  http:
    - match: [{uri: {prefix: /envoy}}]
      route: [{destination: {host: envoy.shop.internal, port: {number: 80}}}]
    - match: [{uri: {prefix: /stranger}}]
      route: [{destination: {host: stranger.shop.internal, port: {number: 80}}}]
    - directResponse: {status: 200, body: {string: "gateway\\n"}}
"""

# The same Envoy, as itself and taken for somebody it is not.
BACKEND = """\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: shop}
spec:
  hosts: [NAME.shop.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: ENVOY_PORT}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME, namespace: shop}
spec:
  host: NAME.shop.internal
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/ACCOUNT"]}
"""


class Process:
    """A program that runs until the end of the test."""

    def __init__(self, folder, name, command, **arguments):
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **arguments)

    def says(self, text):
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Mesh:
    """A CA whose sockets give this user `shop/cart`, and a gateway `istio-system/gateway`."""

    def __init__(self, folder, lifetime, plugged=None):
        self.folder, self.plugged = folder, plugged
        names = ["ca", "http", "https", "status", "metrics", "admin", "envoy", "caller", "envoy_admin"]
        self.ports = {name: free_port() for name in names}
        self.lifetime = lifetime
        self.processes = []

    def __enter__(self):
        ca = self.folder / "ca"
        if self.plugged:
            shutil.copytree(self.plugged, ca)
        else:
            ca.mkdir()
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        workloads = {
            "sockets": [{"uid": os.getuid(), "namespace": "shop", "serviceAccount": "cart"}],
            "tokens": [{"sha256": digest, "namespace": "istio-system", "serviceAccount": "gateway"}],
        }
        (ca / "workloads.yaml").write_text(json.dumps(workloads))
        (self.folder / "token").write_text(TOKEN)
        command = [BINARY, "ca", "--listen", f"127.0.0.1:{self.ports['ca']}", "--sds", "sds.sock"]
        command += ["--workload-api", "workload.sock", "--lifetime", self.lifetime]
        self.ca = self.run("ca", command)
        wait("the CA serves", lambda: self.ca.says("the CA serves"))
        config = self.folder / "config"
        config.mkdir()
        envoys = (("envoy", "cart"), ("stranger", "stranger"))
        backends = (BACKEND.replace("NAME", name).replace("ACCOUNT", own) for name, own in envoys)
        text = (CONFIG + "".join(backends)).replace("ENVOY_PORT", str(self.ports["envoy"]))
        (config / "mesh.yaml").write_text(text)
        self.start_gateway()
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()

    def start_gateway(self):
        """A gateway with a certificate that it asks for now."""
        command = [BINARY, "run", "--config", "config", "--bind", "127.0.0.1", "--state", "off"]
        command += ["--workers", "2", "--identity", f"ca:localhost:{self.ports['ca']}"]
        command += ["--identity-token", "token", "--identity-roots", "ca/root-cert.pem"]
        command += [f"--port-map=80={self.ports['http']}", f"--port-map=443={self.ports['https']}"]
        for flag in ["status", "metrics", "admin"]:
            command += [f"--{flag}", f"127.0.0.1:{self.ports[flag]}"]
        self.gateway = self.run("gateway", command)
        wait("the gateway is ready", self._ready)

    def run(self, name, command, **arguments):
        process = Process(self.folder, name, command, **arguments)
        self.processes.append(process)
        return process

    def _ready(self):
        assert self.gateway.process.poll() is None, self.gateway.log.read_text()
        try:
            return self.fetch("status", "/healthz/ready")[0] == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def fetch(self, port, path):
        """Status and body of a plain request."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=20) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def revoke(self, serial):
        """Revokes one more certificate, while the CA runs."""
        revoked = self.folder / "ca" / "revoked.txt"
        lines = revoked.read_text() if revoked.exists() else ""
        beside = self.folder / "ca" / "revoked.tmp~"
        beside.write_text(f"{lines}{serial} 2026-01-01T00:00:00Z\n")
        beside.rename(revoked)

    def issued(self):
        """The issuance log."""
        lines = (self.folder / "ca" / "issued.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
