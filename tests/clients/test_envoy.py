"""Envoy takes its certificate from our SDS socket and speaks mutual TLS with our gateway, both ways, and
with our sidecar."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge import BINARY, free_port, wait
from mesh import Mesh

ENVOY = Path(sys.executable).parent / "envoy"
HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TLS = "envoy.extensions.transport_sockets.tls.v3"

# Each request on a connection of its own, so that each proves the certificates of its time.
ONCE = {"max_requests_per_connection": 1}

# Callers of the sidecar, and whom each expects there.
BESIDE = {
    "to_cart": "spiffe://cluster.local/ns/shop/sa/cart",
    "to_stranger": "spiffe://cluster.local/ns/shop/sa/stranger",
}

POLICIES = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: cart, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  rules:
    - from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]
      to: [{operation: {paths: [/open]}}]
"""


class Application(http.server.BaseHTTPRequestHandler):
    """Answers with the caller as the sidecar tells it."""

    def do_GET(self):
        body = self.headers.get("x-forwarded-client-cert", "nobody").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start_sidecar(mesh):
    """A STRICT sidecar whose identity comes from the Workload API, before an application."""
    application = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=application.serve_forever, daemon=True).start()
    policies = mesh.folder / "policies"
    policies.mkdir()
    (policies / "cart.yaml").write_text(POLICIES)
    inbound = f"127.0.0.1:{mesh.ports['sidecar']}={application.server_port}"
    command = [BINARY, "sidecar", "--inbound", inbound, "--config", "policies", "--namespace", "shop"]
    command += ["--identity", "unix:workload.sock", "--state", "off", "--metrics", "off", "--admin", "off"]
    command += ["--status", f"127.0.0.1:{mesh.ports['sidecar_status']}"]
    mesh.sidecar = mesh.run("sidecar", command)

    def ready():
        try:
            return mesh.fetch("sidecar_status", "/healthz/ready")[0] == 200
        except OSError:
            return False

    wait("the sidecar is ready", ready)


def typed(kind, **fields):
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def secret(name):
    source = {"api_type": "GRPC", "transport_api_version": "V3"}
    source["grpc_services"] = [{"envoy_grpc": {"cluster_name": "sds"}}]
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def common(peer):
    """Certificate and roots from SDS; the peer must have this identity."""
    names = [{"san_type": "URI", "matcher": {"exact": peer}}]
    return {
        "tls_certificate_sds_secret_configs": [secret("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": secret("ROOTCA"),
        },
        "alpn_protocols": ["http/1.1"],
    }


def cluster(name, endpoint, **more):
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}]
    assignment = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "connect_timeout": "5s", "load_assignment": assignment, **more}


def listener(name, port, route, **more):
    router = {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router")}
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}]
    manager = typed(HTTP, stat_prefix=name, http_filters=[router], route_config={"virtual_hosts": hosts})
    manager["common_http_protocol_options"] = ONCE
    filters = [{"name": "http", "typed_config": manager}]
    return {"name": name, "address": address(port), "filter_chains": [{"filters": filters, **more}]}


def configuration(mesh):
    gateway = "spiffe://cluster.local/ns/istio-system/sa/gateway"
    down = typed(f"{TLS}.DownstreamTlsContext", require_client_certificate=True, common_tls_context=common(gateway))
    def client(peer):
        up = typed(f"{TLS}.UpstreamTlsContext", sni="mesh.example.com", common_tls_context=common(peer))
        return {"name": "tls", "typed_config": up}

    peer = "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SERIAL%"
    answer = {"status": 200, "body": {"inline_string": "envoy\n"}}
    served = {"direct_response": answer}
    served["response_headers_to_add"] = [{"header": {"key": "x-peer", "value": peer}}]
    protocol = typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http_protocol_options": {}}, common_http_protocol_options=ONCE)
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol}
    http2 = typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    called = {"route": {"cluster": "gateway", "host_rewrite_literal": "mesh.example.com"}}
    pipe = {"pipe": {"path": str(mesh.folder / "sds.sock")}}
    return {
        "admin": {"address": address(mesh.ports["envoy_admin"])},
        "node": {"id": "envoy", "cluster": "test"},
        "static_resources": {
            "listeners": [
                listener("served", mesh.ports["envoy"], served, transport_socket={"name": "tls", "typed_config": down}),
                listener("caller", mesh.ports["caller"], called),
                *(listener(name, mesh.ports[name], {"route": {"cluster": name}}) for name in BESIDE),
            ],
            "clusters": [
                cluster("sds", pipe, typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}),
                cluster("gateway", address(mesh.ports["https"]), transport_socket=client(gateway), typed_extension_protocol_options=options),
                *(
                    cluster(name, address(mesh.ports["sidecar"]), transport_socket=client(peer), typed_extension_protocol_options=options)
                    for name, peer in BESIDE.items()
                ),
            ],
        },
    }


def start_envoy(mesh):
    (mesh.folder / "envoy.json").write_text(json.dumps(configuration(mesh)))
    command = [ENVOY, "-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "info"]
    mesh.envoy = mesh.run("envoy", command, env={**os.environ, "HOME": str(mesh.folder)})

    def warm():
        assert mesh.envoy.process.poll() is None, mesh.envoy.log.read_text()[-3000:]
        try:
            return mesh.fetch("caller", "/")[0] == 200
        except OSError:
            return False

    wait("Envoy has its certificates", warm)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    with Mesh(tmp_path_factory.mktemp("mesh"), "8s") as mesh:
        mesh.ports.update({name: free_port() for name in ["sidecar", "sidecar_status", *BESIDE]})
        start_sidecar(mesh)
        start_envoy(mesh)
        yield mesh


def test_envoy_calls_the_gateway(mesh):
    assert mesh.fetch("caller", "/") == (200, "gateway\n")


def test_the_gateway_calls_envoy(mesh):
    assert mesh.fetch("http", "/envoy") == (200, "envoy\n")


def test_the_gateway_refuses_an_envoy_that_is_not_who_it_shall_be(mesh):
    status, text = mesh.fetch("http", "/stranger")
    assert status == 503 and "TLS" in text, text


def test_envoy_calls_the_sidecar(mesh):
    status, text = mesh.fetch("to_cart", "/open")
    assert status == 200 and "URI=spiffe://cluster.local/ns/shop/sa/cart" in text, text
    assert mesh.fetch("to_cart", "/other")[0] == 403


def test_envoy_refuses_a_sidecar_that_is_not_who_it_shall_be(mesh):
    assert mesh.fetch("to_stranger", "/open")[0] == 503
    name = "cluster.to_stranger.ssl.fail_verify_san"
    stats = mesh.fetch("envoy_admin", f"/stats?filter={name}")[1]
    assert int(stats.removeprefix(f"{name}: ")) > 0, stats


def test_both_go_on_while_certificates_are_renewed(mesh):
    end = time.monotonic() + float(os.environ.get("ROTATION_SECONDS", "15"))
    requests = 0
    while time.monotonic() < end:
        assert mesh.fetch("caller", "/") == (200, "gateway\n"), mesh.envoy.log.read_text()[-3000:]
        assert mesh.fetch("http", "/envoy") == (200, "envoy\n"), mesh.gateway.log.read_text()[-3000:]
        assert mesh.fetch("to_cart", "/open")[0] == 200, mesh.sidecar.log.read_text()[-3000:]
        requests += 3
    issued = [entry["caller"] for entry in mesh.issued()]
    assert requests > 50
    assert issued.count(f"uid {os.getuid()}") >= 3 and issued.count("join token") >= 3, issued


def test_envoy_refuses_who_is_not_of_the_mesh(mesh, tmp_path):
    other = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    other += ["-keyout", "k.pem", "-out", "c.pem", "-subj", "/CN=other", "-days", "1"]
    subprocess.run(other, cwd=tmp_path, check=True, capture_output=True)
    command = ["curl", "-sk", "--cert", "c.pem", "--key", "k.pem"]
    for port in ["envoy", "https", "sidecar"]:
        url = f"https://mesh.example.com:{mesh.ports[port]}/"
        to = ["--resolve", f"mesh.example.com:{mesh.ports[port]}:127.0.0.1"]
        got = subprocess.run([*command, *to, url], cwd=tmp_path, capture_output=True)
        assert got.returncode != 0 and got.stdout == b"", got


def test_envoy_refuses_what_our_ca_revoked(tmp_path):
    def statistic(name):
        lines = mesh.fetch("envoy_admin", f"/stats?filter={name}$")[1].splitlines()
        return sum(int(line.rsplit(": ", 1)[1]) for line in lines)

    def passes(port, path, text):
        return mesh.fetch(port, path) == (200, text)

    def works():
        return passes("caller", "/", "gateway\n") and passes("http", "/envoy", "envoy\n")

    def revoke(serial):
        """Returns once Envoy has the list."""
        before = statistic("sds.ROOTCA.update_success")
        mesh.revoke(serial)
        wait("Envoy took the list", lambda: statistic("sds.ROOTCA.update_success") > before)

    # Certificates live long enough that none is renewed here.
    with Mesh(tmp_path, "1h") as mesh:
        mesh.ports.update({name: free_port() for name in ["sidecar", "sidecar_status", *BESIDE]})
        start_sidecar(mesh)
        start_envoy(mesh)
        own = [entry["serial"] for entry in mesh.issued() if entry["caller"] == "join token"]
        assert len(own) == 1 and works(), mesh.issued()
        # A list is in force, and nobody here is on it.
        revoke("4f" * 16)
        assert all(works() for _ in range(5)), mesh.envoy.log.read_text()[-3000:]
        assert statistic("ssl.fail_verify_error") == 0
        revoke(own[0])
        # As a client of the gateway, and as its server.
        assert mesh.fetch("caller", "/")[0] == 503
        refused = statistic("cluster.gateway.ssl.fail_verify_error")
        assert refused > 0
        status, text = mesh.fetch("http", "/envoy")
        assert status == 503, text
        assert statistic("ssl.fail_verify_error") > refused
        # Who is not on the list goes on: the sidecar, and the gateway with another certificate.
        assert mesh.fetch("to_cart", "/open")[0] == 200, mesh.sidecar.log.read_text()[-3000:]
        mesh.gateway.stop()
        mesh.start_gateway()
        assert works(), mesh.envoy.log.read_text()[-3000:]
