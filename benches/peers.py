"""How each gateway of benches/compare is set up for the same job, and the backend that they share."""

import json
import shutil
import subprocess
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "target" / "release" / "portcullis"
BACKEND_NAME = "app.mesh.internal"
BACKEND_ID = "spiffe://cluster.local/ns/app/sa/app"
GATEWAY_ID = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificates(folder):
    """An authority of the mesh that signs the gateway, the backend and, for clients, 127.0.0.1."""
    root, root_key = folder / "root-cert.pem", folder / "root-key.pem"
    new_key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    openssl(*new_key, "-subj", "/O=mesh", "-keyout", root_key, "-out", root)

    def leaf(name, names):
        place = folder / name
        place.mkdir()
        openssl(
            *[*new_key, "-CA", root, "-CAkey", root_key, "-subj", "/O=leaf"],
            *["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"],
            *["-keyout", place / "key.pem", "-out", place / "cert-chain.pem"],
        )
        both = (place / "cert-chain.pem").read_text() + (place / "key.pem").read_text()
        (place / "both.pem").write_text(both)
        shutil.copy(root, place / "root-cert.pem")

    leaf("identity", f"URI:{GATEWAY_ID}")
    leaf("backend", f"URI:{BACKEND_ID},DNS:{BACKEND_NAME}")
    leaf("edge", "IP:127.0.0.1")
    secret = folder / "edge-secret" / "edge"
    secret.mkdir(parents=True)
    shutil.copy(folder / "edge" / "cert-chain.pem", secret / "tls.crt")
    shutil.copy(folder / "edge" / "key.pem", secret / "tls.key")


NGINX = """\
daemon off; worker_processes 1; pid {own}/pid; error_log {own}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c;
    uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;
    ssl_protocols TLSv1.3; ssl_session_cache shared:one:10m;
    {inside}
}}
"""

BACKEND = """\
server {{
    listen 127.0.0.1:{backend} ssl backlog=4096;
    ssl_certificate {folder}/backend/cert-chain.pem; ssl_certificate_key {folder}/backend/key.pem;
    ssl_client_certificate {folder}/root-cert.pem; ssl_verify_client on;
    return 200 "{body}";
}}
"""

NGINX_EDGE = """\
upstream app {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s; }}
server {{
    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate {folder}/edge/cert-chain.pem; ssl_certificate_key {folder}/edge/key.pem;
    location / {{
        proxy_pass https://app; proxy_http_version 1.1;
        proxy_set_header Connection ""; proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https;
        proxy_ssl_certificate {folder}/identity/cert-chain.pem; proxy_ssl_certificate_key {folder}/identity/key.pem;
        proxy_ssl_trusted_certificate {folder}/root-cert.pem; proxy_ssl_verify on;
        proxy_ssl_name {name}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
    }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend edge
  bind 127.0.0.1:{port} ssl crt {folder}/edge/both.pem alpn h2,http/1.1 backlog 4096
  http-request set-header X-Forwarded-Proto https
  default_backend app
backend app
  server app 127.0.0.1:{backend} ssl verify required ca-file {folder}/root-cert.pem crt {folder}/identity/both.pem sni str({name}) verifyhost {name} ssl-min-ver TLSv1.3 pool-max-conn -1
"""

PORTCULLIS = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: app}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {port}, name: https, protocol: HTTPS}}
      hosts: ['*']
      tls: {{mode: SIMPLE, credentialName: edge, minProtocolVersion: TLSV1_3}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app, namespace: app}}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{{route: [{{destination: {{host: {name}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: app, namespace: app}}
spec:
  hosts: [{name}]
  resolution: STATIC
  ports: [{{number: {backend}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: app, namespace: app}}
spec:
  host: {name}
  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{identity}']}}}}
"""


def nginx(folder, name, inside):
    own = folder / name
    own.mkdir(exist_ok=True)
    (own / "nginx.conf").write_text(NGINX.format(own=own, inside=inside))
    return ["/usr/sbin/nginx", "-p", own, "-e", own / "error.log", "-c", own / "nginx.conf"]


def filled(template, context):
    return template.format(name=BACKEND_NAME, identity=BACKEND_ID, body="x" * 1024, **context)


def backend(context):
    return nginx(context["folder"], "app", filled(BACKEND, context))


class Peer:
    name = ""
    ask_version = []

    def binary(self):
        return shutil.which(self.name) or shutil.which(f"/usr/sbin/{self.name}")

    def version(self):
        done = subprocess.run([self.binary(), *self.ask_version], capture_output=True, text=True)
        words = (done.stdout + done.stderr).split()
        number = next(word for word in words if any(c.isdigit() for c in word) and "." in word)
        return f"{self.name} {number.rpartition('/')[2] if self.name == 'nginx' else number[:40]}"


class Portcullis(Peer):
    name = "portcullis"
    ask_version = ["--version"]

    def binary(self):
        return TARGET

    def command(self, context):
        config = context["folder"] / "portcullis"
        config.mkdir(exist_ok=True)
        (config / "edge.yaml").write_text(filled(PORTCULLIS, context))
        folder = context["folder"]
        flags = ["--config", config, "--certs", folder / "edge-secret", "--identity", folder / "identity"]
        flags += ["--bind", "127.0.0.1", "--workers", "1", "--state", "off", "--access-log", "off"]
        own = [f"--{port}=127.0.0.1:0" for port in ["status", "metrics", "admin"]]
        return [TARGET, "run", *flags, *own]


class Nginx(Peer):
    name = "nginx"
    ask_version = ["-v"]

    def command(self, context):
        return nginx(context["folder"], "edge-nginx", filled(NGINX_EDGE, context))


class HAProxy(Peer):
    name = "haproxy"
    ask_version = ["-v"]

    def command(self, context):
        file = context["folder"] / "haproxy.cfg"
        file.write_text(filled(HAPROXY, context))
        return [self.binary(), "-db", "-f", file]


class Envoy(Peer):
    name = "envoy"
    ask_version = ["--version"]

    def version(self):
        done = subprocess.run([self.binary(), "--version"], capture_output=True, text=True)
        return "envoy " + next(word for word in done.stdout.split("/") if word[:1].isdigit() and "." in word)

    def command(self, context):
        file = context["folder"] / "envoy.json"
        file.write_text(json.dumps(self.configuration(context)))
        return [self.binary(), "-c", file, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]

    @staticmethod
    def configuration(context):
        folder = context["folder"]

        def typed(kind, **fields):
            return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}

        def pair(name):
            place = folder / name
            return {
                "certificate_chain": {"filename": str(place / "cert-chain.pem")},
                "private_key": {"filename": str(place / "key.pem")},
            }

        def address(port):
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        tls = "extensions.transport_sockets.tls.v3"
        only_13 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        names = [{"san_type": "URI", "matcher": {"exact": BACKEND_ID}}]
        client = typed(
            f"{tls}.UpstreamTlsContext",
            sni=BACKEND_NAME,
            common_tls_context={
                "tls_params": only_13,
                "tls_certificates": [pair("identity")],
                "validation_context": {
                    "trusted_ca": {"filename": str(folder / "root-cert.pem")},
                    "match_typed_subject_alt_names": names,
                },
            },
        )
        server = typed(
            f"{tls}.DownstreamTlsContext",
            common_tls_context={
                "tls_params": only_13,
                "tls_certificates": [pair("edge")],
                "alpn_protocols": ["h2", "http/1.1"],
            },
        )
        router = typed("extensions.filters.http.router.v3.Router", dynamic_stats=False)
        manager = typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="edge",
            use_remote_address=True,
            route_config={
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
                ]
            },
            http_filters=[{"name": "router", "typed_config": router}],
        )
        listener = {
            "name": "edge",
            "address": address(context["port"]),
            "filter_chains": [
                {
                    "transport_socket": {"name": "tls", "typed_config": server},
                    "filters": [{"name": "http", "typed_config": manager}],
                }
            ],
        }
        many = {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}
        cluster = {
            "name": "app",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [many]},
            "transport_socket": {"name": "tls", "typed_config": client},
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(context["backend"])}}]}],
            },
        }
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


ALL = [Portcullis(), Nginx(), HAProxy(), Envoy()]
